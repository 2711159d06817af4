//! Any data set that is read, written in one plain layout.
//!
//! Event recordings become folders of classes (see `gesture::classes`), one NumPy file with named columns for each, and beside them `classes.txt` and
//! `sensor.txt`; spike trains (SHD, SSC) become HDF5 files of the same names. What a task makes of the copy is what it makes of the
//! source, to the byte: times are kept as they are read, in microseconds, and the names of files begin with their numbers, so that the order is the same.
//!
//! The destination appears by one rename when all of it is written. Sources are judged as in training: the first problem ends it.

mod recordings;
mod spikes;

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::require;
use crate::events::{Accept, Sensor};
use crate::gesture::{self, Layout};
use crate::remarks::Remarks;
use crate::shd::{self, ShdKind};
use crate::{Error, Result, Split, files, nmnist};

/// How a set is converted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConvertSettings {
    /// What is accepted of the recordings.
    pub accept: Accept,
    /// The share of the recordings of every class that become the test split, where the source is one folder of classes; above 0 and below
    /// 1.
    pub test_share: Option<f64>,
}

/// What was written of one split.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The split.
    pub split: Split,
    /// Samples.
    pub samples: u64,
    /// Classes that have one.
    pub classes: usize,
    /// Events or spikes.
    pub events: u64,
}

/// What was written. `Display` is the text of `etrace data convert`.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// What the source is.
    pub what: &'static str,
    /// The destination.
    pub to: PathBuf,
    /// One entry a split.
    pub splits: Vec<Written>,
    /// The camera of event recordings.
    pub sensor: Option<Sensor>,
    /// Unit and type of the times.
    pub times: &'static str,
    /// What was recognised or left out.
    pub remarks: Vec<String>,
}

impl fmt::Display for Converted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} converted to {}", self.what, self.to.display())?;
        let (samples, events) = if self.sensor.is_some() { ("recordings", "events") } else { ("samples", "spikes") };
        for Written { split, samples: n, classes, events: m } in &self.splits {
            writeln!(f, "  {:<8} {n} {samples} of {classes} classes, {m} {events}", split.name())?;
        }
        if let Some(sensor) = self.sensor {
            writeln!(f, "  sensor   {sensor}")?;
        }
        write!(f, "  times    {}", self.times)
    }
}

/// Writes the data set in `source` to `destination`, which must not be there.
///
/// Errors: [`Error::Setting`] for a destination that is there or lies in the source, for several sets in the source, and for a share
/// that makes no sense; [`Error::Missing`] without a set; the first problem of the source; [`Error::Io`].
pub fn convert(source: &Path, destination: &Path, settings: ConvertSettings) -> Result<Converted> {
    let share = settings.test_share.unwrap_or(0.5);
    require(share > 0.0 && share < 1.0, NAME, "test_share is above 0 and below 1", share, "0.2 is usual")?;
    let set = Set::find(source)?;
    let one_folder = matches!(set, Set::Whole);
    let got = set.name();
    require(
        one_folder || settings.test_share.is_none(),
        NAME,
        "test_share is for one folder of classes",
        got,
        "leave it out",
    )?;
    if let (true, None, Some(error)) = (one_folder, settings.test_share, gesture::not_split(source)) {
        return Err(error);
    }
    let target = Target::new(source, destination)?;
    let mut done = match set {
        Set::Spikes(kind) => spikes::write(source, kind, &target, settings.accept)?,
        set => recordings::write(source, &set, &target, settings)?,
    };
    target.publish()?;
    done.to = destination.to_owned();
    Ok(done)
}

const NAME: &str = "data convert";

/// A data set in a folder.
enum Set {
    NMnist(PathBuf),
    Gesture,
    Classes,
    Caches,
    /// Folders of classes that are not split.
    Whole,
    Spikes(ShdKind),
}

impl Set {
    fn name(&self) -> &'static str {
        match self {
            Set::NMnist(_) => "N-MNIST",
            Set::Gesture => "DVS128 Gesture",
            Set::Classes => "folders of classes",
            Set::Caches => "caches of tonic",
            Set::Whole => "a folder of classes",
            Set::Spikes(ShdKind::Shd) => "SHD",
            Set::Spikes(ShdKind::Ssc) => "SSC",
        }
    }

    /// The one set in a folder.
    fn find(dir: &Path) -> Result<Set> {
        let mut all = Vec::new();
        all.extend(nmnist::root(dir).ok().filter(|root| nmnist::is_surely(root)).map(Set::NMnist));
        let layout = gesture::find(dir, Split::Train).or_else(|_| gesture::find(dir, Split::Test));
        match &layout {
            Ok(Layout::Caches(_)) => all.push(Set::Caches),
            // Those of N-MNIST are folders of classes, too.
            Ok(Layout::Classes(_)) if all.is_empty() => all.push(Set::Classes),
            Ok(Layout::Classes(_)) | Err(_) => {}
            Ok(_) => all.push(Set::Gesture),
        }
        let of = |kind: &ShdKind| Split::ALL.iter().any(|split| shd::find(dir, *kind, *split).is_some());
        all.extend([ShdKind::Shd, ShdKind::Ssc].into_iter().filter(of).map(Set::Spikes));
        if all.is_empty() && gesture::classes::whole(dir).is_some() {
            all.push(Set::Whole);
        }
        let names: Vec<&str> = all.iter().map(Set::name).collect();
        match (all.len(), layout.err()) {
            (1, _) => all.pop().ok_or_else(|| files::missing("data", dir.to_owned(), dir, LAYOUT, String::new())),
            (0, Some(error @ (Error::Damaged { .. } | Error::Io { .. }))) => Err(error),
            (0, _) => Err(files::missing(
                "data",
                dir.to_owned(),
                dir,
                LAYOUT,
                "Name the folder that holds one data set".into(),
            )),
            _ => Err(Error::Setting {
                task: NAME,
                rule: "one data set is converted at a time",
                got: format!("{} in {}", names.join(" and "), dir.display()),
                next: "name the folder of one of them, or move the others away".into(),
            }),
        }
    }
}

const LAYOUT: &str = "one of docs/data.md";

/// A destination that is not there yet: what is written lies in a folder of another name beside it, which is removed unless it is published.
struct Target {
    unfinished: PathBuf,
    destination: PathBuf,
}

impl Target {
    fn new(source: &Path, destination: &Path) -> Result<Target> {
        let there = destination.symlink_metadata().is_ok();
        let next = "name another folder, or remove it first";
        require(!there, NAME, "the destination does not exist yet", destination.display(), next)?;
        let fail = |e: std::io::Error| Error::io(destination, "make the destination", &e);
        let name = destination.file_name().ok_or_else(|| fail(std::io::ErrorKind::InvalidInput.into()))?;
        let parent = destination.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Of a relative path to folders that are not there yet no other ancestor is.
        let whole = |path: &Path| std::path::absolute(path).ok();
        let real = |path: &Path| whole(path)?.ancestors().find_map(|p| p.canonicalize().ok());
        let inside = real(parent).zip(real(source)).is_some_and(|(parent, source)| parent.starts_with(source));
        let got = destination.display();
        require(!inside, NAME, "the destination lies outside the source", got, "name a folder beside the source")?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".unfinished-{}", std::process::id()));
        let unfinished = parent.join(hidden);
        let left = unfinished.symlink_metadata().is_ok();
        let next = "remove it: a stopped command left it there";
        require(!left, NAME, "the place of the unfinished copy is free", unfinished.display(), next)?;
        std::fs::create_dir_all(parent).and_then(|()| std::fs::create_dir(&unfinished)).map_err(fail)?;
        Ok(Target { unfinished, destination: destination.to_owned() })
    }

    /// Writes one file, which is on the disk afterwards: a copy that has its name is whole.
    fn write(&self, name: &Path, bytes: &[u8]) -> Result<()> {
        let path = self.unfinished.join(name);
        let folder = path.parent().unwrap_or(&self.unfinished);
        let write = || {
            std::fs::create_dir_all(folder)?;
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| Error::io(&path, "write the copy", &e))
    }

    /// Gives the folder its name.
    fn publish(self) -> Result<()> {
        let fail = |e: std::io::Error| Error::io(&self.destination, "rename the finished copy", &e);
        std::fs::rename(&self.unfinished, &self.destination).map_err(fail)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // After it was published there is nothing of this name.
        let _ = std::fs::remove_dir_all(&self.unfinished);
    }
}

/// The lines of remarks of a split, with its name.
fn said(split: Split, remarks: &Remarks) -> impl Iterator<Item = String> {
    remarks.lines().into_iter().map(move |line| format!("remark on the {split} split: {line}"))
}

#[cfg(test)]
mod tests;
