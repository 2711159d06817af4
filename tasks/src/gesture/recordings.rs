//! Where the recordings of DVS128 Gesture are, in each of the layouts that they come in.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::CLASSES;
use crate::events::{Disorder, Event, Sensor, aedat, aer, npy};
use crate::nmnist::entries;
use crate::{Error, Result, Split};

/// One gesture: a file of its own, or part of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recording {
    pub path: PathBuf,
    pub label: i32,
    /// Who made it; -1 if nobody says.
    pub user: i64,
    /// Its microseconds in the file; all of it if absent.
    pub span: Option<Range<u64>>,
}

/// The layouts. Each says where a split is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Layout {
    /// `<folder>/<user>_<lighting>/<class>.npy` or `.bs2`, a folder for each split.
    Cut(PathBuf),
    /// `<folder>/<user>_<lighting>.aedat` and `_labels.csv`, and a list of the files of each split.
    Original(PathBuf),
    /// `<folder>/<name>.bs2` and `labels.csv`: some clips, which are training and test set at once.
    Clips(PathBuf),
}

/// The layout of a split below `dir`.
pub(crate) fn find(dir: &Path, split: Split) -> Result<Layout> {
    let name = if split == Split::Test { "ibmGestureTest" } else { "ibmGestureTrain" };
    let level = if split == Split::Test { "test" } else { "train" };
    let places = [dir.join(level).join("DVSGesture"), dir.join("DVSGesture"), dir.join(level), dir.to_owned()];
    if let Some(found) = places.iter().map(|p| p.join(name)).find(|p| p.is_dir()) {
        return Ok(Layout::Cut(found));
    }
    for folder in [dir.to_owned(), dir.join("DvsGesture")] {
        if folder.join(list(split)).is_file() {
            return Ok(Layout::Original(folder));
        }
    }
    if dir.join("labels.csv").is_file() {
        return Ok(Layout::Clips(dir.to_owned()));
    }
    Err(Error::Missing {
        what: "DVS128 Gesture",
        looked_for: places[0].join(name),
        layout: "train/DVSGesture/ibmGestureTrain/<user>_<lighting>/<class>.npy and test/DVSGesture/ibmGestureTest/..., or the original \
                 trials_to_train.txt, trials_to_test.txt, <user>_<lighting>.aedat and <user>_<lighting>_labels.csv, or clips with a \
                 labels.csv",
        next: format!(
            "Get ibmGestureTrain.tar.gz (MD5 3a8f0d4120a166bac7591f77409cb105) and ibmGestureTest.tar.gz (MD5 \
             56070e45dadaa85fff82e0fbfbc06de5), as tonic does, and unpack them into {}",
            places[0].display()
        ),
    })
}

fn list(split: Split) -> &'static str {
    if split == Split::Test { "trials_to_test.txt" } else { "trials_to_train.txt" }
}

/// The number in `user07_...`; -1 if there is none.
fn user(name: &Path) -> i64 {
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    let digits: String =
        name.trim_start_matches(|c: char| !c.is_ascii_digit()).chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(-1)
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io(path, "read the table", &e))
}

impl Layout {
    /// The folder.
    pub fn folder(&self) -> &Path {
        match self {
            Layout::Cut(p) | Layout::Original(p) | Layout::Clips(p) => p,
        }
    }

    /// All recordings of a split, in order of name.
    pub fn recordings(&self, split: Split) -> Result<Vec<Recording>> {
        let all = match self {
            Layout::Cut(folder) => cut(folder)?,
            Layout::Original(folder) => original(folder, split)?,
            Layout::Clips(folder) => clips(folder)?,
        };
        if all.is_empty() {
            return Err(Error::Missing {
                what: "DVS128 Gesture",
                looked_for: self.folder().join("<user>_<lighting>").join("<class>.npy"),
                layout: "<user>_<lighting>/<class>.npy in each of the two folders",
                next: "Unpack the archive again".into(),
            });
        }
        Ok(all)
    }
}

fn cut(folder: &Path) -> Result<Vec<Recording>> {
    let mut all = Vec::new();
    for user_folder in entries(folder)?.into_iter().filter(|p| p.is_dir()) {
        for path in
            entries(&user_folder)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "npy" || e == "bs2"))
        {
            let class = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
            match class.filter(|c| (0..CLASSES.len() as i32).contains(c)) {
                Some(label) => all.push(Recording { path, label, user: user(&user_folder), span: None }),
                None => {
                    let got = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    return Err(Error::damaged(&path, "a recording is called by its class, 0 to 10", got));
                }
            }
        }
    }
    Ok(all)
}

fn original(folder: &Path, split: Split) -> Result<Vec<Recording>> {
    let mut names: Vec<String> = text(&folder.join(list(split)))?.split_whitespace().map(String::from).collect();
    names.sort();
    let mut all = Vec::new();
    for name in names {
        let path = folder.join(&name);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let table = folder.join(format!("{stem}_labels.csv"));
        for trial in aedat::trials(&text(&table)?, &table)? {
            all.push(Recording {
                path: path.clone(),
                label: trial.class,
                user: user(&path),
                span: Some(trial.start..trial.end),
            });
        }
    }
    Ok(all)
}

fn clips(folder: &Path) -> Result<Vec<Recording>> {
    let table = folder.join("labels.csv");
    let contents = text(&table)?;
    let lines = contents.lines().enumerate().skip(1).filter(|(_, l)| !l.trim().is_empty());
    lines
        .map(|(i, line)| {
            let mut fields = line.split(',').map(str::trim);
            let (name, class) = (fields.next().unwrap_or_default(), fields.next().and_then(|c| c.parse::<i32>().ok()));
            match class.filter(|c| (0..CLASSES.len() as i32).contains(c) && !name.is_empty()) {
                Some(label) => Ok(Recording { path: folder.join(name), label, user: -1, span: None }),
                None => {
                    let rule = "a line has the name of a file and its class, 0 to 10";
                    Err(Error::damaged(&table, rule, format!("line {}: {line:?}", i + 1)))
                }
            }
        })
        .collect()
}

/// The events of a file: `.npy`, `.bs2` or `.aedat`. Errors: those of the readers.
pub fn read(path: &Path, disorder: Disorder) -> Result<Vec<Event>> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("bs2") => aer::read(path, Sensor::DVS128, disorder),
        Some("aedat") => aedat::read(path, Sensor::DVS128, disorder),
        _ => npy::read(path, Sensor::DVS128, disorder),
    }
}

/// The events of a recording out of those of its file, which are in order of time.
pub(crate) fn part<'a>(events: &'a [Event], recording: &Recording) -> Result<&'a [Event]> {
    let Some(span) = &recording.span else { return Ok(events) };
    let at = |t: u64| events.partition_point(|e| e.t < t);
    let part = &events[at(span.start)..at(span.end)];
    if part.is_empty() {
        return Err(Error::Empty {
            path: recording.path.clone(),
            got: format!("no event between {} and {} us, where its table has a gesture", span.start, span.end),
            next: "copy the recording and its table again",
        });
    }
    Ok(part)
}
