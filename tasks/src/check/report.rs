//! What a check found, and how it is printed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::Split;
use crate::events::Sensor;

/// The kinds of data that are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// N-MNIST.
    NMnist,
    /// SHD, HDF5.
    Shd,
    /// SSC, HDF5.
    Ssc,
    /// DVS128 Gesture.
    Gesture,
    /// Recordings of any set, a folder for each class.
    Classes,
    /// Recordings of any set, as tonic caches them.
    Caches,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::NMnist => "N-MNIST",
            Kind::Shd => "SHD",
            Kind::Ssc => "SSC",
            Kind::Gesture => "DVS128 Gesture",
            Kind::Classes => "folders of classes,",
            Kind::Caches => "caches of tonic,",
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
    /// The camera, where the set does not decide.
    pub sensor: Option<Sensor>,
    /// The names of the classes, where folders have them.
    pub names: Vec<String>,
    /// Sound samples of each class.
    pub classes: BTreeMap<i64, u64>,
    /// Sound samples of each speaker; empty where there are none.
    pub speakers: BTreeMap<i64, u64>,
    /// What is not sound.
    pub problems: Vec<Problem>,
    /// What was recognised, left out or strange.
    pub remarks: Vec<String>,
    /// A number for each sound sample, equal for equal samples, and its class.
    pub(super) prints: Vec<(u64, i64)>,
}

/// What there is to report of a sound sample.
pub(super) struct Seen {
    pub class: i64,
    pub person: Option<i64>,
    pub events: usize,
    /// Time of the latest event in seconds.
    pub last: f64,
    /// Equal for equal samples.
    pub print: u64,
}

impl Part {
    pub(super) fn new(kind: Kind, split: Split, path: &Path) -> Self {
        Part {
            kind,
            split,
            path: path.to_owned(),
            files: 0,
            samples: 0,
            events: 0,
            last_event: 0.0,
            sensor: None,
            names: Vec::new(),
            classes: BTreeMap::new(),
            speakers: BTreeMap::new(),
            problems: Vec::new(),
            remarks: Vec::new(),
            prints: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, seen: Seen) {
        self.samples += 1;
        self.events += seen.events as u64;
        self.last_event = self.last_event.max(seen.last);
        self.prints.push((seen.print, seen.class));
        *self.classes.entry(seen.class).or_default() += 1;
        if let Some(person) = seen.person {
            *self.speakers.entry(person).or_default() += 1;
        }
    }

    pub(super) fn problem(&mut self, path: &Path, reason: impl fmt::Display) {
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
            if let Some(sensor) = p.sensor {
                writeln!(f, "  sensor   {sensor}")?;
            }
            let name = |k: i64| {
                usize::try_from(k).ok().and_then(|k| p.names.get(k)).map_or_else(|| k.to_string(), String::clone)
            };
            let classes: Vec<String> = p.classes.iter().map(|(k, n)| format!("{}: {n}", name(*k))).collect();
            writeln!(f, "  classes  {} ({})", p.classes.len(), classes.join(", "))?;
            if !p.speakers.is_empty() {
                writeln!(f, "  speakers {} ({})", p.speakers.len(), counts(&p.speakers))?;
            }
            for remark in &p.remarks {
                writeln!(f, "  REMARK   {remark}")?;
            }
            for problem in &p.problems {
                writeln!(f, "  PROBLEM  {}", problem.reason)?;
            }
        }
        match self.problems().count() {
            0 => write!(f, "\nno problem found")?,
            1 => write!(f, "\n1 problem")?,
            n => write!(f, "\n{n} problems")?,
        }
        match self.parts.iter().map(|p| p.remarks.len()).sum::<usize>() {
            0 => Ok(()),
            1 => write!(f, ", 1 remark"),
            n => write!(f, ", {n} remarks"),
        }
    }
}
