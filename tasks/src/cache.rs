//! Binned data kept on disk, so that a second run need not read and bin the recordings again.
//!
//! One file a split, in the folder that a task's `cache` setting names:
//!
//! ```text
//! key        one line of text: version of this format, settings that shape the data, fingerprint of the source files
//! sizes      samples u64 | spikes u64 | people u64, 0 or samples | bytes of the remarks u64                all little endian
//! arrays     starts u64 [samples + 1] | people i64 [people] | labels i32 [samples] | ends u32 [samples, steps] | channels u16 [spikes]
//! remarks    UTF-8, one a line
//! checksum   u64 over all before
//! ```
//!
//! The fingerprint is over name, length, time of writing and time of change of every source file, tables and lists included; where
//! they lie does not count. Labels and parts of recordings that come out of tables are among the settings. A cache file is not trusted: one with another key, a wrong checksum or numbers that make no sense is written anew. It appears whole or not at all, as
//! it is written under another name first.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use crate::rng::finish;
use crate::sparse::{Decoded, Sparse};
use crate::{Error, Result, Split, files};

/// What a split is made of: all that a cache file must agree with.
pub(crate) struct Entry<'a> {
    pub task: &'a str,
    pub split: Split,
    /// The settings that shape the data, in words, and what tables say of them.
    pub settings: String,
    /// Every file that was read for it, tables and lists too.
    pub sources: Vec<&'a Path>,
    pub steps: usize,
    pub n_in: usize,
    pub n_out: usize,
}

/// The split from the cache, or from `decode` and then into the cache. Without `dir` only `decode`.
pub(crate) fn through(dir: Option<&Path>, entry: &Entry, decode: impl FnOnce() -> Result<Decoded>) -> Result<Decoded> {
    let Some(dir) = dir else {
        return decode();
    };
    let key = entry.key()?;
    let name = format!("{}-{}-{:016x}.spikes", entry.task, entry.split, hash(key.as_bytes()));
    let path = dir.join(name);
    let kept = files::read(&path, files::SET, "read the cache of binned data").ok();
    if let Some(kept) = kept.and_then(|bytes| parse(&bytes, &key, entry)) {
        return Ok(kept);
    }
    let decoded = decode()?;
    write(dir, &path, &format(&decoded, &key)).map_err(|e| Error::io(&path, "write the cache of binned data", &e))?;
    Ok(decoded)
}

impl Entry<'_> {
    fn key(&self) -> Result<String> {
        let mut all = String::new();
        for path in &self.sources {
            let fail = |e: std::io::Error| Error::io(path, "look up length and time of the file", &e);
            let about = std::fs::metadata(path).map_err(fail)?;
            let changed = about.modified().map_err(fail)?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let name = path.file_name().unwrap_or_default();
            let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
            // Writing to a string cannot fail. In sets of one folder a class, the folder is part of the name.
            let folder = if self.sources.len() > 1 { folder } else { Default::default() };
            let _ =
                writeln!(all, "{folder:?} {name:?} {} {} {:?}", about.len(), changed.as_nanos(), changed_at(&about));
        }
        let Entry { task, split, settings, sources, steps, n_in, n_out } = self;
        Ok(format!(
            "etrace {} spikes 2; {task} {split}, [{steps}, {n_in}] in {n_out} classes, {settings}; {} files {:016x}\n",
            env!("CARGO_PKG_VERSION"),
            sources.len(),
            hash(all.as_bytes())
        ))
    }
}

/// When the system last changed a file: it moves on where a program sets the time of writing back.
fn changed_at(about: &std::fs::Metadata) -> Option<(i64, i64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((about.ctime(), about.ctime_nsec()))
    }
    #[cfg(not(unix))]
    {
        let _ = about;
        None
    }
}

/// A 64-bit hash against accidents, not against ill will.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let h = words.iter().chain([&last]).fold(0, |h, w| finish(h ^ u64::from_le_bytes(*w)).wrapping_add(1));
    finish(h ^ bytes.len() as u64)
}

fn format(d: &Decoded, key: &str) -> Vec<u8> {
    let s = &d.spikes;
    let remarks = d.remarks.iter().map(|r| r.replace('\n', " ")).collect::<Vec<_>>().join("\n");
    let sizes = [d.labels.len(), s.channels.len(), d.people.len(), remarks.len()];
    let length =
        key.len() + 48 + sizes[3] + s.starts.len() * 8 + sizes[2] * 8 + sizes[0] * 4 + s.ends.len() * 4 + sizes[1] * 2;
    let mut out = Vec::with_capacity(length);
    out.extend(key.as_bytes());
    sizes.iter().for_each(|&n| out.extend((n as u64).to_le_bytes()));
    s.starts.iter().for_each(|v| out.extend(v.to_le_bytes()));
    d.people.iter().for_each(|v| out.extend(v.to_le_bytes()));
    d.labels.iter().for_each(|v| out.extend(v.to_le_bytes()));
    s.ends.iter().for_each(|v| out.extend(v.to_le_bytes()));
    s.channels.iter().for_each(|v| out.extend(v.to_le_bytes()));
    out.extend(remarks.as_bytes());
    out.extend(hash(&out).to_le_bytes());
    out
}

/// `n` numbers of `N` bytes from the front of `bytes`.
fn take<const N: usize, T>(bytes: &mut &[u8], n: usize, number: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (front, rest) = bytes.split_at_checked(n.checked_mul(N)?)?;
    *bytes = rest;
    Some(front.as_chunks().0.iter().map(|c| number(*c)).collect())
}

/// `None` unless everything about the file is as it must be.
fn parse(bytes: &[u8], key: &str, entry: &Entry) -> Option<Decoded> {
    let (content, checksum) = bytes.split_last_chunk()?;
    let mut rest = content.strip_prefix(key.as_bytes())?;
    if hash(content) != u64::from_le_bytes(*checksum) {
        return None;
    }
    let sizes = take(&mut rest, 4, u64::from_le_bytes)?;
    let [samples, spikes, people, remarks] = [0, 1, 2, 3].map(|i| usize::try_from(sizes[i]).ok());
    let (samples, spikes, people) = (samples?, spikes?, people?);
    let starts = take(&mut rest, samples.checked_add(1)?, u64::from_le_bytes)?;
    let people = take(&mut rest, people, i64::from_le_bytes)?;
    let labels = take(&mut rest, samples, i32::from_le_bytes)?;
    let ends = take(&mut rest, samples.checked_mul(entry.steps)?, u32::from_le_bytes)?;
    let channels = take(&mut rest, spikes, u16::from_le_bytes)?;
    let (text, rest) = rest.split_at_checked(remarks?)?;
    let remarks = std::str::from_utf8(text).ok()?.lines().map(String::from).collect();
    let each_sample_ends = starts
        .windows(2)
        .zip(ends.chunks(entry.steps))
        .all(|(s, e)| s[1].checked_sub(s[0]) == e.last().map(|&n| u64::from(n)) && e.is_sorted());
    let sound = rest.is_empty()
        && (people.is_empty() || people.len() == samples)
        && (starts[0], starts[samples]) == (0, spikes as u64)
        && each_sample_ends
        && labels.iter().all(|l| (0..entry.n_out as i32).contains(l))
        && channels.iter().all(|&c| usize::from(c) < entry.n_in);
    sound.then_some(Decoded { spikes: Sparse { steps: entry.steps, starts, ends, channels }, labels, people, remarks })
}

/// Writes under a name of its own, then renames: readers see the old file or the new one.
fn write(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    std::fs::create_dir_all(dir)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let unfinished = PathBuf::from(unfinished);
    let done = std::fs::write(&unfinished, bytes).and_then(|()| std::fs::rename(&unfinished, path));
    if done.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn decoded() -> Decoded {
        let mut spikes = Sparse::new(3);
        spikes.push(&[(0, 4), (2, 1), (2, 1)]);
        spikes.push(&[]);
        spikes.push(&[(1, 5)]);
        Decoded { spikes, labels: vec![1, 0, 1], people: vec![-3, 7, 7], remarks: vec!["a b".into(), "c".into()] }
    }

    fn entry<'a>(source: &'a Path, settings: &str) -> Entry<'a> {
        let (split, sources) = (Split::Train, vec![source]);
        Entry { task: "test", split, settings: settings.into(), sources, steps: 3, n_in: 6, n_out: 2 }
    }

    /// What comes through, and whether it was decoded.
    fn get(dir: &Path, e: &Entry) -> (Decoded, bool) {
        let mut decodes = false;
        let d = through(Some(dir), e, || {
            decodes = true;
            Ok(decoded())
        });
        (d.unwrap(), decodes)
    }

    fn cached(dir: &Folder) -> Vec<PathBuf> {
        crate::files::entries(&dir.path().join("cache")).unwrap()
    }

    #[test]
    fn decoded_once_per_source_and_settings() {
        let dir = Folder::new("cache");
        let (source, cache) = (dir.write("a/source", b"one"), dir.path().join("cache"));
        assert_eq!(get(&cache, &entry(&source, "s")), (decoded(), true));
        assert_eq!(get(&cache, &entry(&source, "s")), (decoded(), false));
        assert!(get(&cache, &entry(&source, "other settings")).1);
        let moved = dir.path().join("b");
        std::fs::rename(dir.path().join("a"), &moved).unwrap();
        let source = moved.join("source");
        assert!(!get(&cache, &entry(&source, "s")).1, "the folder does not count");
        dir.write("b/source", b"longer");
        assert!(get(&cache, &entry(&source, "s")).1, "the contents do");
        assert_eq!(cached(&dir).len(), 3, "and no unfinished file stays behind");
        // Other contents of the same length, with the time of writing set back.
        let written = std::fs::metadata(&source).unwrap().modified().unwrap();
        dir.write("b/source", b"LONGER");
        std::fs::File::options().write(true).open(&source).unwrap().set_modified(written).unwrap();
        assert!(get(&cache, &entry(&source, "s")).1, "a time that is set back does not deceive");
    }

    #[test]
    fn every_damaged_byte_is_noticed_and_mended() {
        let dir = Folder::new("cache-damage");
        let (source, cache) = (dir.write("source", b"one"), dir.path().join("cache"));
        let e = entry(&source, "s");
        get(&cache, &e);
        let path = cached(&dir).remove(0);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(parse(&bad, &e.key().unwrap(), &e).is_none(), "byte {at}");
            assert!(parse(&good[..at], &e.key().unwrap(), &e).is_none(), "{at} bytes");
        }
        for bad in [&good[..good.len() - 9], b"", b"another program's file"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(get(&cache, &e), (decoded(), true));
            assert_eq!(std::fs::read(&path).unwrap(), good);
        }
    }

    /// Files with a right checksum over wrong numbers, as only another program could write them.
    #[test]
    fn a_right_checksum_is_not_enough() {
        let dir = Folder::new("cache-foreign");
        let source = dir.write("source", b"one");
        let e = entry(&source, "s");
        let key = e.key().unwrap();
        let refused = |change: fn(&mut Decoded)| {
            let mut d = decoded();
            change(&mut d);
            parse(&format(&d, &key), &key, &e).is_none()
        };
        assert!(!refused(|_| ()));
        assert!(refused(|d| d.labels[0] = 2));
        assert!(refused(|d| d.spikes.channels[0] = 6));
        assert!(refused(|d| d.spikes.starts[1] = 4));
        assert!(refused(|d| d.spikes.starts[1] = u64::MAX));
        assert!(refused(|d| d.spikes.ends[0] = 9));
        assert!(refused(|d| d.spikes.ends.truncate(5)));
        assert!(refused(|d| d.people.truncate(2)));
        let mut huge = key.clone().into_bytes();
        huge.extend([0xff; 32]);
        huge.extend(hash(&huge).to_le_bytes());
        assert!(parse(&huge, &key, &e).is_none());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let dir = Folder::new("cache-unwritable");
        let source = dir.write("source", b"one");
        let m = through(Some(&source), &entry(&source, "s"), || Ok(decoded())).unwrap_err().to_string();
        assert!(m.contains("cannot write the cache") && m.contains("source"), "{m}");
    }
}
