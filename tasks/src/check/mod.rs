//! What is in a data directory, and what is wrong with it.
//!
//! [`check`] reads every file that a task would read, to the last event, with the readers of the tasks, and does not stop at the first
//! damage: the report has the counts of what is sound, a line for each file, or sample of a file, that is not, and the remarks of the
//! readers. What is a problem here stops training; what is a remark here is a remark there.

mod report;

use std::collections::BTreeMap;
use std::path::Path;

use self::report::Seen;
pub use self::report::{Kind, Part, Problem, Report};
use crate::events::{self, Accept, Event, Reading, TimeUnit};
use crate::gesture::{self, Layout};
use crate::remarks::{Listing, Remarks};
use crate::rng::finish;
use crate::shd::{self, ShdFile, ShdKind, UNITS};
use crate::{Error, Result, Split, files, nmnist, parallel, sparse};

/// Problems of single samples that are listed for one file; the rest is counted.
const LISTED: usize = 20;

/// Reads all data of a known kind in `dir`, as the tasks do with the same settings.
///
/// Errors: [`Error::Missing`] if there is none. Damaged files are no error, they are in the report.
pub fn check(dir: &Path, accept: Accept) -> Result<Report> {
    let mut parts = check_nmnist(dir, Reading::NMNIST.accepting(accept.disorder, accept.time_unit));
    parts.extend(check_gesture(dir, accept, parts.is_empty()));
    for kind in [ShdKind::Shd, ShdKind::Ssc] {
        parts.extend(Split::ALL.into_iter().filter_map(|split| check_shd(dir, kind, split, accept.time_unit)));
    }
    if parts.is_empty() {
        // A folder that is one, but not split or without a list that it needs.
        if let Err(error @ Error::Damaged { .. }) = gesture::find(dir, Split::Train) {
            return Err(error);
        }
        let layout = "NMNIST/Train/<digit>/<5 digits>.bin, NMNIST/Test/... or shd_train.h5, shd_test.h5, ssc_train.h5, ssc_valid.h5, \
             ssc_test.h5, or train/DVSGesture/ibmGestureTrain/<user>_<lighting>/<class>.npy, or trials_to_train.txt with .aedat files, \
             or clips with a labels.csv, or train/<class>/ and test/<class>/ with recordings, or train/ and test/ with caches of tonic";
        let next = "Name the folder that holds NMNIST/, the .h5 files, or train/ and test/".into();
        return Err(files::missing("data", dir.to_owned(), dir, layout, next));
    }
    compare(&mut parts);
    Ok(Report { dir: dir.to_owned(), parts })
}

/// Remarks splits that are absent, and samples of the other splits that are training samples too.
fn compare(parts: &mut [Part]) {
    let splits: Vec<(Kind, Split)> = parts.iter().map(|p| (p.kind, p.split)).collect();
    let of_training = parts.iter().filter(|p| p.split == Split::Train);
    let prints = |p: &Part| p.prints.iter().map(|print| print.0).collect::<Vec<_>>();
    let training: BTreeMap<Kind, Vec<u64>> = of_training.map(|p| (p.kind, prints(p))).collect();
    for part in parts {
        for split in [Split::Train, Split::Test].into_iter().filter(|s| !splits.contains(&(part.kind, *s))) {
            part.remarks.push(format!("there is no {split} split beside it"));
        }
        part.remarks.extend(sparse::copies(part.prints.iter().copied()));
        let known = training.get(&part.kind).filter(|_| part.split != Split::Train);
        let repeated = known.map_or(0, |known| sparse::repeated(&prints(part), known));
        if repeated > 0 {
            part.remarks.push(format!(
                "{repeated} of {} samples are training samples too: accuracy on them says how well they were learned",
                part.samples
            ));
        }
    }
}

/// A number for the events of a sample, wherever its time begins.
fn print(events: &[Event]) -> u64 {
    let start = events.first().map_or(0, |e| e.t);
    let word = |e: &Event| (e.t - start) << 17 ^ u64::from(e.y) << 9 ^ u64::from(e.x) << 1 ^ u64::from(e.p);
    events.iter().fold(0, |h, e| finish(h ^ word(e)).wrapping_add(1))
}

fn seen(class: i32, events: &[Event]) -> Seen {
    Seen {
        class: class.into(),
        person: None,
        events: events.len(),
        last: events.last().map_or(0.0, |e| e.t as f64 * 1e-6),
        print: print(events),
    }
}

fn check_nmnist(dir: &Path, reading: Reading) -> Vec<Part> {
    let Some(root) = nmnist::root(dir).ok().filter(|root| nmnist::is_surely(root)) else { return Vec::new() };
    let check = |split: Split| {
        let folder = nmnist::split_dir(&root, split).ok()?;
        let (mut part, all) = begin(Kind::NMnist, split, &folder, nmnist::recordings(&folder));
        part.files = all.len() as u64;
        let found = parallel::map(all.len(), |i| {
            let (path, class) = &all[i];
            let recording = nmnist::read(path, false, &reading)?;
            let seen = seen(*class, &recording.events);
            // The first saccade must have events too, or the default task would refuse the file.
            nmnist::first(path, recording.events)?;
            Ok((seen, recording.remarks))
        });
        let mut remarks = Remarks::default();
        for ((path, _), result) in all.iter().zip(found) {
            match result {
                Ok((seen, said)) => {
                    part.add(seen);
                    said.into_iter().for_each(|r| remarks.add(path, r));
                }
                Err::<_, Error>(e) => part.problem(path, e),
            }
        }
        part.remarks.extend(remarks.lines());
        Some(part)
    };
    [Split::Train, Split::Test].into_iter().filter_map(check).collect()
}

/// The part of a split with what its listing says, and the things to read.
fn begin<T>(kind: Kind, split: Split, folder: &Path, listing: Result<Listing<T>>) -> (Part, Vec<T>) {
    let mut part = Part::new(kind, split, folder);
    match listing {
        Ok(listing) => {
            part.remarks = listing.remarks.lines();
            listing.problems.iter().for_each(|p| part.problem(folder, p));
            (part, listing.found)
        }
        Err(e) => {
            part.problem(folder, e);
            (part, Vec::new())
        }
    }
}

/// DVS128 Gesture, or else recordings of any set if `any`.
fn check_gesture(dir: &Path, accept: Accept, any: bool) -> Vec<Part> {
    let check = |split: Split| {
        let layout = gesture::find(dir, split).ok()?;
        let of_any = layout.is_of_any_set();
        if (of_any && !any) || (split == Split::Valid && !of_any) {
            return None;
        }
        let kind = match layout {
            Layout::Classes(_) => Kind::Classes,
            Layout::Caches(_) => Kind::Caches,
            _ => Kind::Gesture,
        };
        let (mut part, all) = begin(kind, split, layout.folder(), layout.recordings(split));
        let (reading, names) = match layout.reading(accept).and_then(|reading| Ok((reading, layout.classes()?))) {
            Ok(found) => found,
            Err(e) => {
                part.problem(layout.folder(), e);
                return Some(part);
            }
        };
        if of_any {
            (part.names, part.sensor) = (names, Some(reading.sensor));
        }
        let files: Vec<&[gesture::Recording]> = all.chunk_by(|a, b| a.path == b.path).collect();
        part.files = files.len() as u64;
        let found = parallel::map(files.len(), |i| {
            let file = events::read(&files[i][0].path, &reading)?;
            let parts: Vec<_> = files[i]
                .iter()
                .map(|r| gesture::part(&file.events, r).map(|(events, remark)| (seen(r.label, events), remark)))
                .collect();
            Ok((parts, file.remarks))
        });
        let mut remarks = Remarks::default();
        for (file, result) in files.iter().zip(found) {
            let path = &file[0].path;
            let (parts, said) = match result {
                Ok(found) => found,
                Err::<_, Error>(e) => {
                    part.problem(path, e);
                    continue;
                }
            };
            said.into_iter().for_each(|r| remarks.add(path, r));
            for gesture in parts {
                match gesture {
                    Ok((seen, remark)) => {
                        part.add(seen);
                        remark.into_iter().for_each(|r| remarks.add(path, r));
                    }
                    Err(e) => part.problem(path, e),
                }
            }
        }
        part.remarks.extend(remarks.lines());
        Some(part)
    };
    Split::ALL.into_iter().filter_map(check).collect()
}

fn check_shd(dir: &Path, of: ShdKind, split: Split, time_unit: Option<TimeUnit>) -> Option<Part> {
    let path = shd::find(dir, of, split)?;
    let mut part = Part::new(if of == ShdKind::Shd { Kind::Shd } else { Kind::Ssc }, split, &path);
    part.files = 1;
    let unread = files::folder(dir, &[of.name()]).and_then(|below| files::file(&below, &of.file(split)));
    for twin in files::namesakes(&path).into_iter().chain(unread.filter(|p| *p != path)) {
        part.remarks.push(format!("{}: another file is read in its place", twin.display()));
    }
    let file = match ShdFile::open(&path).and_then(|file| file.in_unit(time_unit)) {
        Ok(file) => file,
        Err(e) => {
            part.problem(&path, e);
            return Some(part);
        }
    };
    let read = parallel::map(file.len(), |i| {
        let class = file.labels()[i];
        let is_class = usize::try_from(class).is_ok_and(|l| l < of.classes());
        let spikes = file.sample(i, UNITS)?;
        if !is_class {
            return Err(shd::bad_label(&path, file.labels(), i, of.classes()));
        }
        Ok(Seen {
            class,
            person: file.speakers().map(|s| s[i]),
            events: spikes.len(),
            last: spikes.iter().fold(0.0, |m: f64, s| m.max(s.0)),
            print: spikes.iter().fold(0, |h, s| finish(h ^ s.0.to_bits() ^ u64::from(s.1)).wrapping_add(1)),
        })
    });
    let (mut bad, mut silent) = (Vec::new(), 0);
    for result in read {
        match result {
            Ok(seen) => {
                silent += u64::from(seen.events == 0);
                part.add(seen);
            }
            Err::<_, Error>(e) => bad.push(e.to_string()),
        }
    }
    if silent > 0 {
        part.remarks.push(format!("{silent} samples have no spike: the network sees nothing of them"));
    }
    let rest = bad.len().saturating_sub(LISTED);
    bad.truncate(LISTED);
    bad.into_iter().for_each(|b| part.problem(&path, b));
    if rest > 0 {
        part.problem(&path, format!("{}: {rest} more damaged samples are not listed", path.display()));
    }
    let (keys, last) = (file.keys().len(), part.classes.keys().last().copied().unwrap_or(-1));
    if keys > 0 && last >= keys as i64 {
        part.remarks
            .push(format!("label {last} has no name in extra/keys, which holds {keys}; the task does not use them"));
    }
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Folder, shared};

    fn checked(dir: &Path) -> Result<Report> {
        check(dir, Accept::default())
    }

    fn data(name: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)).unwrap()
    }

    #[test]
    fn every_damaged_file_is_named() {
        let dir = Folder::new("check-nmnist");
        let good = data("sample_nmnist.bin");
        dir.write("NMNIST/Train/3/00001.bin", &good);
        dir.write("NMNIST/Train/3/00002.bin", &good[..12]);
        dir.write("NMNIST/Train/5/00003.bin", b"");
        dir.write("NMNIST/Test/5/00001.bin", &good);
        let report = checked(dir.path()).unwrap();
        assert_eq!(report.parts.len(), 2);
        let train = &report.parts[0];
        assert_eq!((train.files, train.samples, train.events), (3, 1, 4325));
        assert_eq!(train.classes, BTreeMap::from([(3, 1)]));
        let names: Vec<_> =
            report.problems().map(|p| p.path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["00002.bin", "00003.bin"]);
        let text = report.to_string();
        assert!(text.contains("cut short") && text.contains("2 problems") && text.contains("N-MNIST test"), "{text}");
        assert!(!report.is_sound());
    }

    #[test]
    fn hdf5_files() {
        let dir = Folder::new("check-shd");
        let good = data("shd_tiny.h5");
        dir.write("shd_test.h5", &good);
        let report = checked(dir.path()).unwrap();
        assert!(report.is_sound(), "{report}");
        let part = &report.parts[0];
        assert_eq!((part.kind, part.split, part.samples), (Kind::Shd, Split::Test, 12));
        assert_eq!(part.classes[&14], 2);
        assert_eq!(part.speakers.values().sum::<u64>(), 12);
        dir.write("SHD/shd_train.h5", &good[..good.len() / 2]);
        dir.write("shd_train.h5", b"nothing");
        let report = checked(dir.path()).unwrap();
        assert_eq!((report.parts.len(), report.problems().count()), (2, 1), "{report}");
        assert!(report.parts[0].remarks[0].contains("SHD/shd_train.h5: another file is read"), "{report}");
    }

    #[test]
    fn gestures() {
        let dir = Folder::new("check-gesture");
        let bytes = crate::events::aer::tests::encode(&[(1, 2, true, 0), (3, 4, false, 30_000)]);
        dir.write("ibmGestureTrain/user01_led/3.bs2", &bytes);
        dir.write("ibmGestureTrain/user01_led/4.npy", &bytes);
        let report = checked(dir.path()).unwrap();
        let part = &report.parts[0];
        assert_eq!((part.kind, part.files, part.samples, part.events), (Kind::Gesture, 2, 1, 2));
        assert!(part.problems[0].reason.contains("4.npy"), "{report}");
    }

    /// The folders that tonic makes below the one it is given.
    #[test]
    fn layouts_of_tonic() {
        let dir = Folder::new("check-tonic");
        let digits = data("sample_nmnist.bin");
        dir.write("NMNIST/Train/0/00002.bin", &digits);
        dir.write("NMNIST/Test/9/00001.bin", &digits);
        let (sensor, clip) = (events::Sensor::DVS128, data("gesture_clip.bs2"));
        let clip = events::aer::decode(&clip, Path::new("clip"), &Reading::GESTURE).unwrap().events;
        for split in ["ibmGestureTrain", "ibmGestureTest"] {
            dir.write(&format!("DVSGesture/{split}/user02_fluorescent/0.npy"), &events::npy::encode(&clip, sensor));
        }
        for file in ["SHD/shd_train.h5", "SHD/shd_test.h5", "SSC/ssc_train.h5", "SSC/ssc_valid.h5", "SSC/ssc_test.h5"] {
            dir.write(file, &data("shd_tiny.h5"));
        }
        let report = checked(dir.path()).unwrap();
        assert!(report.is_sound(), "{report}");
        let found: Vec<_> = report.parts.iter().map(|p| (p.kind, p.split)).collect();
        let [train, valid, test] = Split::ALL;
        let want = [Kind::NMnist, Kind::Gesture, Kind::Shd].map(|kind| [(kind, train), (kind, test)]).concat();
        assert_eq!(found, [want, [train, valid, test].map(|split| (Kind::Ssc, split)).to_vec()].concat());
    }

    #[test]
    fn an_empty_directory_is_an_error() {
        let dir = Folder::new("check-none");
        let m = checked(dir.path()).unwrap_err().to_string();
        assert!(m.contains("looked for") && m.contains("shd_train.h5"), "{m}");
        assert!(checked(&dir.path().join("absent")).is_err());
    }

    #[test]
    #[ignore = "needs recordings that are not part of the project, in ../shared"]
    fn real_sets_are_sound() {
        for (name, samples) in [("nmnist-slayer-subset", 700), ("fsdd-spiking-shd-layout", 1200)] {
            let report = checked(&shared(&format!("real-samples/{name}"))).unwrap();
            assert!(report.is_sound(), "{report}");
            assert_eq!(report.parts.iter().map(|p| p.samples).sum::<u64>(), samples);
        }
    }
}
