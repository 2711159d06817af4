//! Compiled programs on disk.
//!
//! A compiled program is machine code for one plugin build and one processor. Its file is therefore named by
//! the SHA-256 of everything it depends on: the module, the compile options, the plugin file, the processor
//! (or GPU) and the number of threads. Every entry starts with the SHA-256 of its content; one that does not
//! agree, because a disk filled up or a process was killed, is ignored and written anew. Files are written
//! under another name and renamed, so a reader never sees half an entry.
//!
//! The folder is `etrace/executables` in the user's cache folder. `ETRACE_CACHE=off` turns the cache off;
//! `ETRACE_CACHE=some/folder` moves it. When it grows beyond [`LIMIT`] bytes, the entries used longest ago
//! go. A folder that others can write to is refused, since entries are machine code. Other trouble with the cache is no
//! error: the program is compiled as if it were absent.

use super::{client::Client, device::PluginKind, error::Error, private};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

/// Size of the folder beyond which old entries are removed: 1 GiB.
pub const LIMIT: u64 = 1 << 30;

/// First bytes of an entry; the digit is the version of this file's layout.
const MAGIC: &[u8; 8] = b"etrace1\n";
pub(super) const HASH: usize = 32;

/// The user's cache folder for this program: `$XDG_CACHE_HOME/etrace`, else `~/.cache/etrace`. `None` if there
/// is no home. Relative paths in these variables do not count, as the specification of base directories has it.
pub fn root() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("etrace"))
}

/// The folder of compiled programs; `None` if the cache is off. A relative path is one from the current folder.
pub fn folder() -> Option<PathBuf> {
    match std::env::var_os("ETRACE_CACHE") {
        Some(value) if matches!(value.to_str(), Some("off" | "0" | "no" | "false")) => None,
        Some(value) if !value.is_empty() => std::path::absolute(value).ok(),
        _ => Some(root()?.join("executables")),
    }
}

/// Place of one compiled program.
pub(super) struct Entry {
    path: PathBuf,
}

impl Entry {
    /// `None` if the cache is off.
    ///
    /// # Errors
    /// [`Error::Unsafe`] if others can write to its folder.
    pub(super) fn find(client: &Arc<Client>, module: &[u8], options: &[u8]) -> Result<Option<Entry>, Error> {
        let (Some(folder), Some(plugin_hash)) = (folder(), client.plugin().hash()) else { return Ok(None) };
        private::check(&folder)?;
        let plugin = client.plugin();
        let device = match plugin.kind() {
            PluginKind::Cpu => processor(),
            PluginKind::Cuda | PluginKind::Tpu => client.platform().device.clone(),
        };
        let parts: [&[u8]; 6] =
            [MAGIC, module, options, &plugin_hash, client.platform().version.as_bytes(), device.as_bytes()];
        let mut hash = Sha256::new();
        for part in parts {
            // Lengths keep the border between parts from moving.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(Some(Entry { path: folder.join(format!("{}.bin", hex(&hash.finalize()))) }))
    }

    /// The content, if there is an entry and it is whole.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let content = unpack(&fs::read(&self.path).ok()?)?;
        // The time of last use, for `prune`. Its failure only makes the entry look old.
        if let Ok(file) = fs::File::options().append(true).open(&self.path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(content)
    }

    /// Stores the content and keeps the folder within its limit.
    pub(super) fn write(&self, content: &[u8]) {
        let Some(folder) = self.path.parent() else { return };
        if write_atomically(&self.path, &pack(content)).is_ok() {
            prune(folder, LIMIT);
        }
    }
}

fn pack(content: &[u8]) -> Vec<u8> {
    [MAGIC.as_slice(), &Sha256::digest(content), content].concat()
}

fn unpack(file: &[u8]) -> Option<Vec<u8>> {
    let (hash, content) = file.strip_prefix(MAGIC)?.split_at_checked(HASH)?;
    (Sha256::digest(content).as_slice() == hash).then(|| content.to_vec())
}

/// Removes the files used longest ago until the folder holds at most `limit` bytes.
fn prune(folder: &Path, limit: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let data = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((data.modified().ok()?, data.len(), entry.path()))
        })
        .collect();
    files.sort();
    let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
    for (_, size, path) in files {
        if total <= limit {
            break;
        }
        if fs::remove_file(path).is_ok() {
            total -= size;
        }
    }
}

/// Writes a file so that it is there whole or not at all.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = path.parent().unwrap_or(Path::new("."));
    private::create_all(folder)?;
    let partial = path.with_extension(format!("{}-{unique}.partial", std::process::id()));
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| {
        let _ = fs::remove_file(&partial);
        Error::Io { path: path.to_owned(), source }
    })
}

/// SHA-256 of a file.
pub(super) fn file_hash(path: &Path) -> Result<[u8; HASH], Error> {
    let mut file = fs::File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk).map_err(Error::io(path))? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&chunk[..n]),
        }
    }
}

/// SHA-256 of a plugin file, remembered on disk by everything the system says of it: hashing hundreds of megabytes would cost
/// more than most compilations. The time of change of its entry is part of that, which nobody can set, so that a file that was
/// replaced is read again even where size and time of change of its contents are the same.
pub(super) fn file_hash_remembered(path: &Path) -> Result<[u8; HASH], Error> {
    let note = note_of(path);
    if let Some(note) = &note
        && let Some(content) = fs::read(note).ok().and_then(|known| unpack(&known))
        && let Ok(hash) = <[u8; HASH]>::try_from(content.as_slice())
    {
        return Ok(hash);
    }
    let hash = file_hash(path)?;
    if let Some(note) = note {
        // A hash that is not remembered is computed again.
        let _ = write_atomically(&note, &pack(&hash));
    }
    Ok(hash)
}

/// Where the hash of a file is remembered, if there is a place.
fn note_of(path: &Path) -> Option<PathBuf> {
    let data = fs::metadata(path).ok()?;
    let changed = data.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
    #[cfg(unix)]
    let entry = {
        use std::os::unix::fs::MetadataExt;
        [data.dev() as i128, data.ino() as i128, data.ctime() as i128, data.ctime_nsec() as i128]
    };
    #[cfg(not(unix))]
    let entry = [0i128; 4];
    let fact = format!("{}\n{}\n{changed}\n{entry:?}", path.display(), data.len());
    Some(root()?.join("plugin-hashes").join(hex(&Sha256::digest(fact.as_bytes()))))
}

/// What compiled CPU code depends on: model, instruction sets, and the threads that work is divided among.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = info.split("\n\n").next().unwrap_or_default();
    let facts = first.lines().filter(|line| {
        ["model name", "flags", "Features", "CPU implementer", "CPU part"].iter().any(|key| line.starts_with(key))
    });
    let threads = match std::env::var("NPROC") {
        Ok(text) => text,
        Err(_) => std::thread::available_parallelism().map_or(1, usize::from).to_string(),
    };
    let mut text = format!("{} {} threads {threads}\n", std::env::consts::ARCH, std::env::consts::OS);
    for fact in facts {
        text.push_str(fact);
        text.push('\n');
    }
    text
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_entries_are_noticed() {
        let whole = pack(b"machine code");
        assert_eq!(unpack(&whole).unwrap(), b"machine code");
        for at in [0, 8, 20, whole.len() - 1] {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert_eq!(unpack(&bad), None, "byte {at}");
        }
        for keep in [0, 7, 8, 39, whole.len() - 1] {
            assert_eq!(unpack(&whole[..keep]), None, "{keep} bytes");
        }
    }

    #[test]
    fn pruning_removes_the_oldest() {
        let folder = std::env::temp_dir().join(format!("hlo-prune-{}", std::process::id()));
        for (age, name) in [(30, "old"), (20, "middle"), (10, "new")] {
            write_atomically(&folder.join(name), &[0; 100]).unwrap();
            let file = fs::File::options().append(true).open(folder.join(name)).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        prune(&folder, 250);
        assert!(!folder.join("old").exists() && folder.join("middle").exists() && folder.join("new").exists());
        prune(&folder, 0);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(folder).unwrap();
    }

    // SHA-256 of "abc": FIPS 180-2, appendix B.1.
    #[test]
    fn file_hash_is_sha256() {
        let path = std::env::temp_dir().join(format!("hlo-hash-{}", std::process::id()));
        fs::write(&path, b"abc").unwrap();
        let hash = hex(&file_hash(&path).unwrap());
        fs::remove_file(path).unwrap();
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
