//! What is in a data directory, and what is wrong with it.
//!
//! [`check`] reads every file that a task would read, to the last event, and does not stop at the first damage: the report
//! has the counts of what is sound and a line for each file, or sample of a file, that is not. Times that run backwards count as
//! damage, as they do for the tasks by default.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::events::Disorder;
use crate::events::Event;
use crate::shd::{ShdFile, ShdKind, UNITS};
use crate::{Error, Gesture, GestureSettings, Result, Split, gesture, nmnist, parallel};

/// Problems of single samples that are listed for one file; the rest is counted.
const LISTED: usize = 20;

/// The kinds of data that are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// N-MNIST, 40-bit event files.
    NMnist,
    /// SHD, HDF5.
    Shd,
    /// SSC, HDF5.
    Ssc,
    /// DVS128 Gesture, NumPy or 40-bit event files.
    Gesture,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::NMnist => "N-MNIST",
            Kind::Shd => "SHD",
            Kind::Ssc => "SSC",
            Kind::Gesture => "DVS128 Gesture",
        })
    }
}

/// One split of one set.
#[derive(Clone, Debug)]
pub struct Part {
    /// The set.
    pub kind: Kind,
    /// The split.
    pub split: Split,
    /// The folder or file.
    pub path: PathBuf,
    /// Files looked at, damaged ones included.
    pub files: u64,
    /// Sound samples.
    pub samples: u64,
    /// Events (spikes) in sound samples.
    pub events: u64,
    /// Time of the latest event in seconds.
    pub last_event: f64,
    /// Sound samples of each class.
    pub classes: BTreeMap<i64, u64>,
    /// Sound samples of each speaker; empty where there are none.
    pub speakers: BTreeMap<i64, u64>,
    /// What is not sound.
    pub problems: Vec<Problem>,
}

impl Part {
    fn new(kind: Kind, split: Split, path: &Path) -> Self {
        Part {
            kind,
            split,
            path: path.to_owned(),
            files: 0,
            samples: 0,
            events: 0,
            last_event: 0.0,
            classes: BTreeMap::new(),
            speakers: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    fn add(&mut self, class: i64, speaker: Option<i64>, events: usize, last: f64) {
        self.samples += 1;
        self.events += events as u64;
        self.last_event = self.last_event.max(last);
        *self.classes.entry(class).or_default() += 1;
        if let Some(s) = speaker {
            *self.speakers.entry(s).or_default() += 1;
        }
    }

    fn problem(&mut self, path: &Path, reason: impl fmt::Display) {
        self.problems.push(Problem { path: path.to_owned(), reason: reason.to_string() });
    }
}

/// A damaged file, or sample of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Rule, finding and remedy.
    pub reason: String,
}

/// What was found. `Display` is the text of `etrace data check`.
#[derive(Clone, Debug)]
pub struct Report {
    /// The directory that was looked into.
    pub dir: PathBuf,
    /// One entry a split.
    pub parts: Vec<Part>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems().next().is_none()
    }

    /// All problems.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.parts.iter().flat_map(|p| &p.problems)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.dir.display())?;
        let counts = |m: &BTreeMap<i64, u64>| m.iter().map(|(k, n)| format!("{k}: {n}")).collect::<Vec<_>>().join(", ");
        for p in &self.parts {
            writeln!(f, "\n{} {} in {}", p.kind, p.split, p.path.display())?;
            writeln!(
                f,
                "  files    {}\n  samples  {}\n  events   {}, the latest at {:.3} s",
                p.files, p.samples, p.events, p.last_event
            )?;
            writeln!(f, "  classes  {} ({})", p.classes.len(), counts(&p.classes))?;
            if !p.speakers.is_empty() {
                writeln!(f, "  speakers {} ({})", p.speakers.len(), counts(&p.speakers))?;
            }
            for problem in &p.problems {
                writeln!(f, "  PROBLEM  {}", problem.reason)?;
            }
        }
        match self.problems().count() {
            0 => write!(f, "\nno problem found"),
            n => write!(f, "\n{n} problems"),
        }
    }
}

/// Reads all data of a known kind in `dir`. Errors: [`Error::Missing`] if there is none, [`Error::Io`] if a folder cannot be listed;
/// damaged files are no error, they are in the report.
pub fn check(dir: &Path) -> Result<Report> {
    let mut parts = Vec::new();
    for root in [dir.to_owned(), dir.join("NMNIST")] {
        for (split, name) in [(Split::Train, "Train"), (Split::Test, "Test")] {
            let folder = root.join(name);
            if folder.is_dir() {
                parts.push(check_events(Kind::NMnist, split, &folder, nmnist::files(&folder), |path| {
                    // The first saccade must have events too, or the default task would refuse the file.
                    nmnist::read(path, true, Disorder::Refuse)?;
                    nmnist::read(path, false, Disorder::Refuse)
                })?);
            }
        }
    }
    if let Ok(task) = Gesture::open(GestureSettings::new(dir)) {
        for split in [Split::Train, Split::Test] {
            if let Ok(layout) = task.layout(split) {
                let found = layout.recordings(split).map(|all| {
                    // One line a file, be it one gesture or many.
                    let mut files: Vec<(PathBuf, i32)> = all.into_iter().map(|r| (r.path, r.label)).collect();
                    files.dedup_by(|a, b| a.0 == b.0);
                    files
                });
                parts.push(check_events(Kind::Gesture, split, layout.folder(), found, |path| {
                    gesture::read(path, Disorder::Refuse)
                })?);
            }
        }
    }
    for (kind, of) in [(Kind::Shd, ShdKind::Shd), (Kind::Ssc, ShdKind::Ssc)] {
        for split in Split::ALL {
            for folder in [dir.to_owned(), dir.join(of.name().to_uppercase())] {
                let path = folder.join(of.file(split));
                if path.is_file() {
                    parts.push(check_shd(kind, of, split, &path));
                }
            }
        }
    }
    if parts.is_empty() {
        return Err(Error::Missing {
            what: "data",
            looked_for: dir.to_owned(),
            layout: "NMNIST/Train/<digit>/<5 digits>.bin, NMNIST/Test/... or shd_train.h5, shd_test.h5, ssc_train.h5, ssc_valid.h5, ssc_test.h5, or train/DVSGesture/ibmGestureTrain/<user>_<lighting>/<class>.npy",
            next: "Name the folder that holds NMNIST/ or the .h5 files".into(),
        });
    }
    Ok(Report { dir: dir.to_owned(), parts })
}

type Files = Result<Vec<(PathBuf, i32)>>;

/// Reads every event file of a split.
fn check_events(
    kind: Kind,
    split: Split,
    folder: &Path,
    files: Files,
    read: impl Fn(&Path) -> Result<Vec<Event>> + Sync,
) -> Result<Part> {
    let mut part = Part::new(kind, split, folder);
    let files = match files {
        Err(e @ Error::Io { .. }) => return Err(e),
        Err(e) => {
            part.problem(folder, e);
            return Ok(part);
        }
        Ok(files) => files,
    };
    let found = parallel::map(files.len(), |i| {
        let events = read(&files[i].0)?;
        Ok((events.len(), events.last().map_or(0.0, |e| e.t as f64 * 1e-6)))
    });
    part.files = files.len() as u64;
    for ((path, class), result) in files.iter().zip(found) {
        match result {
            Ok((events, last)) => part.add(i64::from(*class), None, events, last),
            Err::<_, Error>(e) => part.problem(path, e),
        }
    }
    Ok(part)
}

fn check_shd(kind: Kind, of: ShdKind, split: Split, path: &Path) -> Part {
    let mut part = Part::new(kind, split, path);
    part.files = 1;
    let file = match ShdFile::open(path) {
        Ok(file) => file,
        Err(e) => {
            part.problem(path, e);
            return part;
        }
    };
    let read = parallel::map(file.len(), |i| {
        let spikes = file.sample(i, UNITS)?;
        Ok::<_, Error>((spikes.len(), spikes.iter().fold(0.0, |m: f64, s| m.max(s.0))))
    });
    let mut bad = Vec::new();
    let mut foreign = BTreeSet::new();
    for (i, result) in read.into_iter().enumerate() {
        let label = file.labels()[i];
        match result {
            Err(e) => bad.push(e.to_string()),
            Ok((0, _)) => bad.push(format!(
                "{}: a sample has spikes: sample {i} has none; the task gives a silent input",
                path.display()
            )),
            Ok(_) if !(0..of.classes() as i64).contains(&label) => {
                foreign.insert(label);
                bad.push(format!(
                    "{}: labels are below {}: sample {i} has {label}; copy the file again",
                    path.display(),
                    of.classes()
                ));
            }
            Ok((events, last)) => part.add(label, file.speakers().map(|s| s[i]), events, last),
        }
    }
    let rest = bad.len().saturating_sub(LISTED);
    bad.truncate(LISTED);
    bad.into_iter().for_each(|b| part.problem(path, b));
    if rest > 0 {
        part.problem(path, format!("{}: {rest} more damaged samples are not listed", path.display()));
    }
    let keys = file.keys().len();
    if keys > 0 && foreign.is_empty() && part.classes.keys().last().is_some_and(|&l| l >= keys as i64) {
        part.problem(
            path,
            format!(
                "{}: every label has a name in extra/keys: there are {keys} names; the task does not use them",
                path.display()
            ),
        );
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Folder, shared};

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
        let report = check(dir.path()).unwrap();
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
        let report = check(dir.path()).unwrap();
        assert!(report.is_sound(), "{report}");
        let part = &report.parts[0];
        assert_eq!((part.kind, part.split, part.samples), (Kind::Shd, Split::Test, 12));
        assert_eq!(part.classes[&14], 2);
        assert_eq!(part.speakers.values().sum::<u64>(), 12);
        dir.write("SHD/shd_train.h5", &good[..good.len() / 2]);
        dir.write("shd_train.h5", b"nothing");
        let report = check(dir.path()).unwrap();
        assert_eq!((report.parts.len(), report.problems().count()), (3, 2), "{report}");
    }

    #[test]
    fn gestures() {
        let dir = Folder::new("check-gesture");
        let bytes = crate::events::aer::tests::encode(&[(1, 2, true, 0), (3, 4, false, 30_000)]);
        dir.write("ibmGestureTrain/user01_led/3.bs2", &bytes);
        dir.write("ibmGestureTrain/user01_led/4.npy", &bytes);
        let report = check(dir.path()).unwrap();
        let part = &report.parts[0];
        assert_eq!((part.kind, part.files, part.samples, part.events), (Kind::Gesture, 2, 1, 2));
        assert!(part.problems[0].reason.contains("4.npy"), "{report}");
    }

    #[test]
    fn an_empty_directory_is_an_error() {
        let dir = Folder::new("check-none");
        let m = check(dir.path()).unwrap_err().to_string();
        assert!(m.contains("looked for") && m.contains("shd_train.h5"), "{m}");
        assert!(check(&dir.path().join("absent")).is_err());
    }

    #[test]
    #[ignore = "needs recordings that are not part of the project, in ../shared"]
    fn real_sets_are_sound() {
        for (name, samples) in [("nmnist-slayer-subset", 700), ("fsdd-spiking-shd-layout", 1200)] {
            let report = check(&shared(&format!("real-samples/{name}"))).unwrap();
            assert!(report.is_sound(), "{report}");
            assert_eq!(report.parts.iter().map(|p| p.samples).sum::<u64>(), samples);
        }
    }
}
