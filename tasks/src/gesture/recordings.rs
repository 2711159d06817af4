//! Where the recordings of DVS128 Gesture are, in each of the layouts that they come in.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::CLASSES;
use super::caches::Caches;
use super::classes::{Classes, not_split};
use crate::events::aedat::{self, Trial};
use crate::events::{Accept, Event, Reading, Sensor, TimeUnit, fitting, format, in_words};
use crate::remarks::Listing;
use crate::{Error, Result, Split, files, table};

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

const LAYOUT: &str = "train/DVSGesture/ibmGestureTrain/<user>_<lighting>/<class>.npy and test/DVSGesture/ibmGestureTest/..., or the \
     original trials_to_train.txt, trials_to_test.txt, <user>_<lighting>.aedat and <user>_<lighting>_labels.csv, or clips with a \
     labels.csv, or recordings of any set in train/<class>/ and test/<class>/, or \
     caches of tonic in train/ and test/";

/// The layouts. Each says where a split is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Layout {
    /// `<folder>/<user>_<lighting>/<class>.npy` or another format, a folder for each split.
    Cut(PathBuf),
    /// `<folder>/<user>_<lighting>.aedat` and `_labels.csv`, and a list of the files of each split.
    Original(PathBuf),
    /// `<folder>/<name>.bs2` and `labels.csv`: some clips, which are training and test set at once.
    Clips(PathBuf),
    /// A folder for each class, of any set.
    Classes(Classes),
    /// What tonic cached, of any set.
    Caches(Caches),
}

/// The layout of a split below `dir`, names in any letter case.
pub(crate) fn find(dir: &Path, split: Split) -> Result<Layout> {
    let name = if split == Split::Test { "ibmGestureTest" } else { "ibmGestureTrain" };
    let level = if split == Split::Test { "test" } else { "train" };
    let places: [&[&str]; 4] = [&[level, "DVSGesture", name], &["DVSGesture", name], &[level, name], &[name]];
    if let Some(found) = places.iter().find_map(|p| files::folder(dir, p)) {
        return Ok(Layout::Cut(found));
    }
    let below = files::folder(dir, &["DvsGesture"]);
    for folder in [Some(dir.to_owned()), below].into_iter().flatten() {
        if files::file(&folder, list(split)).is_some() {
            return Ok(Layout::Original(folder));
        }
    }
    if files::file(dir, "labels.csv").is_some() {
        return Ok(Layout::Clips(dir.to_owned()));
    }
    if let Some(found) = Classes::find(dir, split)? {
        return Ok(Layout::Classes(found));
    }
    if let Some(found) = Caches::find(dir, split)? {
        return Ok(Layout::Caches(found));
    }
    if let Some(error) = not_split(dir) {
        return Err(error);
    }
    let unpack = format!(
        "Get ibmGestureTrain.tar.gz (MD5 3a8f0d4120a166bac7591f77409cb105) and ibmGestureTest.tar.gz (MD5 \
         56070e45dadaa85fff82e0fbfbc06de5), as tonic does, and unpack them into {}",
        dir.join(level).join("DVSGesture").display()
    );
    Err(files::missing("DVS128 Gesture", places[0].iter().fold(dir.to_owned(), |p, n| p.join(n)), dir, LAYOUT, unpack))
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

/// Bytes of a table or list in a folder.
fn table_bytes(path: &Path) -> Result<Vec<u8>> {
    files::read(path, files::TABLE, "read the table")
}

impl Layout {
    /// The folder.
    pub fn folder(&self) -> &Path {
        match self {
            Layout::Cut(p) | Layout::Original(p) | Layout::Clips(p) => p,
            Layout::Classes(classes) => &classes.folder,
            Layout::Caches(caches) => &caches.folder,
        }
    }

    /// Whether it is one of any set, and not of DVS128 Gesture alone.
    pub fn is_of_any_set(&self) -> bool {
        matches!(self, Layout::Classes(_) | Layout::Caches(_))
    }

    /// All recordings of a split, in order of name. Problems are of single files and lines; what is left out is remarked. Errors:
    /// [`Error::Io`]; [`Error::Damaged`] for a list that is no text; [`Error::Missing`] if there is no recording.
    pub fn recordings(&self, split: Split) -> Result<Listing<Recording>> {
        let all = match self {
            Layout::Cut(folder) => cut(folder)?,
            Layout::Original(folder) => original(folder, split)?,
            Layout::Clips(folder) => clips(folder)?,
            Layout::Classes(classes) => classes.recordings()?,
            Layout::Caches(caches) => caches.recordings()?,
        };
        if all.found.is_empty() && all.problems.is_empty() {
            let (what, looked_for, next) = if self.is_of_any_set() {
                ("a recording", self.folder().to_owned(), "Put recordings of every class there")
            } else {
                let looked_for = self.folder().join("<user>_<lighting>").join("<class>.npy");
                ("DVS128 Gesture", looked_for, "Unpack the archive again")
            };
            return Err(files::missing(what, looked_for, self.folder(), LAYOUT, next.into()));
        }
        Ok(all)
    }

    /// The names of the classes. Errors: [`Error::Damaged`] if it has a list of them that is none.
    pub fn classes(&self) -> Result<Vec<String>> {
        match self {
            Layout::Classes(classes) => Ok(classes.names.clone()),
            Layout::Caches(caches) => caches.classes(),
            _ => Ok(CLASSES.map(String::from).to_vec()),
        }
    }

    /// The sensor of the recordings; that of DVS128 Gesture unless a setting or the set says otherwise. Errors: [`Error::Damaged`] if it is
    /// not known.
    fn sensor(&self, setting: Option<Sensor>) -> Result<Sensor> {
        match self {
            Layout::Classes(classes) => classes.sensor(setting),
            Layout::Caches(caches) => caches.sensor(setting),
            _ => Ok(setting.unwrap_or(Sensor::DVS128)),
        }
    }

    /// What its recordings are expected to be. Errors: [`Error::Damaged`] if the sensor is not known.
    pub fn reading(&self, accept: Accept) -> Result<Reading> {
        let of_kind = if self.is_of_any_set() { Reading::ANY } else { Reading::GESTURE };
        Ok(Reading { sensor: self.sensor(accept.sensor)?, ..of_kind }.accepting(accept.disorder, accept.time_unit))
    }

    /// Tables and lists that the recordings of a split depend on.
    pub fn tables(&self, split: Split, recordings: &[Recording]) -> Vec<PathBuf> {
        match self {
            Layout::Cut(_) => Vec::new(),
            Layout::Clips(folder) => files::file(folder, "labels.csv").into_iter().collect(),
            Layout::Classes(classes) => classes.tables(),
            Layout::Caches(caches) => caches.tables(),
            Layout::Original(folder) => {
                let mut all: Vec<PathBuf> = files::file(folder, list(split)).into_iter().collect();
                all.extend(recordings.iter().filter_map(|r| trials_of(&r.path)));
                all.dedup();
                all
            }
        }
    }
}

/// The class of a file's name or a table's field, 0 to 10.
fn class(number: i64) -> Option<i32> {
    i32::try_from(number).ok().filter(|c| (0..CLASSES.len() as i32).contains(c))
}

fn cut(folder: &Path) -> Result<Listing<Recording>> {
    let mut out = Listing::default();
    let mut eleven = None;
    let twin = "it is in another letter case than the folder that is read, and is left out";
    files::namesakes(folder).iter().for_each(|path| out.remarks.add(path, twin));
    for of_user in files::entries(folder)? {
        if !of_user.is_dir() {
            out.remarks.add(&of_user, "it is no folder of a user, and is left out");
            continue;
        }
        let Ok(inside) = files::entries(&of_user).map_err(|e| out.problems.push(e)) else { continue };
        for path in inside {
            let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<i64>().ok());
            let is_recording = format::is_recording(&path) && !path.is_dir();
            match number.filter(|_| is_recording).and_then(class) {
                Some(label) => out.found.push(Recording { path, label, user: user(&of_user), span: None }),
                None => {
                    let of_class = "it is not called by a class, 0.npy to 10.npy (or another format), and is left out";
                    out.remarks.add(&path, of_class);
                    eleven = eleven.or(number.filter(|&n| is_recording && n == CLASSES.len() as i64).map(|_| path));
                }
            }
        }
    }
    if let Some(path) = eleven.filter(|_| out.found.iter().all(|r| r.label != 0)) {
        let got = format!("{}, and no file of class 0", files::name(&path));
        out.problems.push(Error::unusable(&path, "a recording is called by its class, 0 to 10", got, FROM_1));
    }
    Ok(out)
}

const FROM_1: &str = "are classes counted from 1? Take 1 from each";

/// The table beside a recording.
fn trials_of(recording: &Path) -> Option<PathBuf> {
    let stem = recording.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    files::file(recording.parent()?, &format!("{stem}_labels.csv"))
}

fn original(folder: &Path, split: Split) -> Result<Listing<Recording>> {
    let mut out = Listing::default();
    let paths = listed(folder, list(split), &mut out)?;
    for path in paths {
        let Some(table) = trials_of(&path) else {
            let name = format!("{}_labels.csv", path.file_stem().unwrap_or_default().to_string_lossy());
            let got = format!("no {name} beside it");
            let next = "copy the table that belongs to it, or take the recording out of the list";
            out.problems.push(Error::unusable(&path, "a recording has a table of its gestures", got, next));
            continue;
        };
        let trials = match table_bytes(&table).and_then(|bytes| aedat::trials(&bytes, &table)) {
            Ok(trials) => trials,
            Err(e) => {
                out.problems.push(e);
                continue;
            }
        };
        if trials.0.is_empty() && trials.1.is_empty() {
            out.remarks.add(&table, "it has no gesture");
        }
        out.problems.extend(trials.1);
        for trial in trials.0 {
            if let Some(e) = strange_length(&table, &trial) {
                out.problems.push(e);
                continue;
            }
            let (path, span) = (path.clone(), Some(trial.start..trial.end));
            out.found.push(Recording { user: user(&path), path, label: trial.class, span });
        }
    }
    unlisted(folder, &mut out);
    Ok(out)
}

/// What is wrong with a gesture that is far too short or too long.
fn strange_length(table: &Path, trial: &Trial) -> Option<Error> {
    let (seconds, lasts) = ((trial.end - trial.start) as f64 * 1e-6, Reading::GESTURE.lasts);
    let units = fitting(lasts, TimeUnit::Us, seconds);
    let next = match units[..] {
        _ if units.contains(&TimeUnit::Us) => return None,
        [one] => format!(
            "are the times in {one}? Call the columns start_{one} and end_{one}, or convert them",
            one = one.name()
        ),
        _ => "correct the table, or take the line out".into(),
    };
    let got = format!("{} from {} to {} us", in_words(seconds), trial.start, trial.end);
    Some(Error::unusable(table, format!("a gesture lasts {} to {} s", lasts.0, lasts.1), got, next))
}

/// The files that a list names, one a line, in order of name and each once.
fn listed(folder: &Path, list: &str, out: &mut Listing<Recording>) -> Result<BTreeSet<PathBuf>> {
    let path = files::file(folder, list).unwrap_or_else(|| folder.join(list));
    let bytes = table_bytes(&path)?;
    let mut all = BTreeSet::new();
    for (number, line) in table::lines(table::text(&bytes, &path)?) {
        match files::listed(folder, line.trim_matches(['"', '\''])) {
            Ok(file) => {
                if !all.insert(file.clone()) {
                    out.remarks.add(&path, format!("{} is listed more than once and is read once", files::name(&file)));
                }
            }
            Err(why) => {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                out.problems.push(unlistable(&path, number, line, why));
            }
        }
    }
    Ok(all)
}

fn unlistable(list: &Path, number: u32, name: &str, why: &str) -> Error {
    let next = "correct the line, copy the file, or take the line out";
    let got = format!("line {number}: {}: {why}", table::quote(name));
    Error::unusable(list, "a list names files of its own folder, one a line", got, next)
}

/// Remarks recordings that neither list names.
fn unlisted(folder: &Path, out: &mut Listing<Recording>) {
    let mut named = BTreeSet::new();
    let mut ignored = Listing::default();
    for split in [Split::Train, Split::Test] {
        named.extend(listed(folder, list(split), &mut ignored).unwrap_or_default());
    }
    for path in files::entries(folder).unwrap_or_default() {
        if files::has_extension(&path, &["aedat"]) && !named.contains(&path) {
            out.remarks.add(&path, "no list names it, and it is left out");
        }
    }
}

/// Which fields of `labels.csv` are the name and the class, by the heading; `None` if the first line is none.
fn heading(fields: &[Cow<str>]) -> Option<(usize, usize)> {
    let names = ["file", "filename", "file_name", "path", "clip", "recording", "name"];
    let name = names.iter().find_map(|n| fields.iter().position(|f| f.eq_ignore_ascii_case(n)));
    let class = ["class", "label", "target"].iter().find_map(|c| {
        // Also `label_0based`, `class_id`.
        fields.iter().position(|f| f.get(..c.len()).is_some_and(|f| f.eq_ignore_ascii_case(c)))
    });
    match (name, class) {
        (Some(name), Some(class)) if name != class => Some((name, class)),
        // A heading of other words, or no heading: a class is a number.
        _ => fields.get(1).is_none_or(|f| table::whole(f).is_none()).then_some((0, 1)),
    }
}

/// A line of `labels.csv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Number of the line, from 1.
    pub line: u32,
    /// The file, as it is written.
    pub file: String,
    /// The class, as it is written.
    pub class: i64,
}

/// The lines of a `labels.csv` with contents `bytes`, with or without a heading, and the problems of single lines. Errors:
/// [`Error::Damaged`] for what is no text.
pub fn labels(bytes: &[u8], path: &Path) -> Result<(Vec<Label>, Vec<Error>)> {
    let text = table::text(bytes, path)?;
    let separator = table::separator(text);
    let (mut found, mut problems) = (Vec::with_capacity(table::rows(text, separator)), Vec::new());
    let mut columns = (0, 1);
    for (i, (number, line)) in table::lines(text).enumerate() {
        let fields = table::fields(line, separator).unwrap_or_default();
        if i == 0
            && let Some(found) = heading(&fields)
        {
            columns = found;
            continue;
        }
        let name = fields.get(columns.0).filter(|n| !n.is_empty());
        match (name, fields.get(columns.1).and_then(|c| table::whole(c))) {
            (Some(name), Some(class)) => {
                found.push(Label { line: u32::try_from(number).unwrap_or(u32::MAX), file: name.to_string(), class });
            }
            _ => table::add_problem(&mut problems, path, || {
                let rule = "a line has the name of a file and its class, 0 to 10";
                Error::damaged(path, rule, format!("line {number}: {}", table::quote(line)))
            }),
        }
    }
    Ok((found, problems))
}

fn clips(folder: &Path) -> Result<Listing<Recording>> {
    let path = files::file(folder, "labels.csv").unwrap_or_else(|| folder.join("labels.csv"));
    let (lines, problems) = labels(&table_bytes(&path)?, &path)?;
    let mut out = Listing { problems, ..Listing::default() };
    let from_1 = lines.iter().all(|l| (1..=CLASSES.len() as i64).contains(&l.class));
    let mut known: BTreeMap<PathBuf, (u32, i32)> = BTreeMap::new();
    for Label { line, file: name, class: of_class } in lines {
        let file = match files::listed(folder, &name) {
            Ok(file) => file,
            Err(why) => {
                out.problems.push(unlistable(&path, line, &name, why));
                continue;
            }
        };
        let Some(label) = class(of_class) else {
            let (rule, got) = ("classes are 0 to 10", format!("line {line}: {} has {of_class}", table::quote(&name)));
            let next = if from_1 { FROM_1 } else { "correct the line, or take it out" };
            out.problems.push(Error::unusable(&path, rule, got, next));
            continue;
        };
        match known.insert(file.clone(), (line, label)) {
            None => out.found.push(Recording { path: file, label, user: -1, span: None }),
            Some((_, before)) if before == label => {
                out.remarks.add(&path, format!("{} is listed more than once and is read once", files::name(&file)));
            }
            Some((first, before)) => {
                let got = format!("{name} has class {before} in line {first} and {label} in line {line}");
                let rule = "a recording has one class";
                out.problems.push(Error::unusable(&path, rule, got, "keep the line that is right"));
            }
        }
    }
    for file in files::entries(folder)? {
        if format::is_recording(&file) && !known.contains_key(&file) {
            out.remarks.add(&file, "labels.csv does not name it, and it is left out");
        }
    }
    Ok(out)
}

/// The events of a recording out of those of its file, which are in order of time, and what there is to say of them. Errors:
/// [`Error::Empty`] with the suspected cause.
pub(crate) fn part<'a>(events: &'a [Event], recording: &Recording) -> Result<(&'a [Event], Option<&'static str>)> {
    let (Some(span), [first, .., last]) = (&recording.span, events) else { return Ok((events, None)) };
    let at = |t: u64| events.partition_point(|e| e.t < t);
    let part = &events[at(span.start)..at(span.end)];
    if part.is_empty() {
        let fits = |start: f64, end: f64| start >= first.t as f64 * 0.99 && end <= last.t as f64 * 1.01;
        let (start, end) = (span.start as f64, span.end as f64);
        let next = if fits(start * 1000.0, end * 1000.0) {
            "are the times of the table in milliseconds? Convert it, or call its columns start_ms and end_ms"
        } else if fits(start * 1e6, end * 1e6) {
            "are the times of the table in seconds? Convert it, or call its columns start_s and end_s"
        } else if fits(start + first.t as f64, end + first.t as f64) {
            "do the times of the table count from the first event? Add its time"
        } else {
            "copy the recording and its table again: they do not belong together, or the recording is cut short"
        };
        return Err(Error::Empty {
            path: recording.path.clone(),
            got: format!(
                "no event between {} and {} us, where its table has a gesture; the recording goes from {} to {} us",
                span.start, span.end, first.t, last.t
            ),
            next,
        });
    }
    // The last quarter of a gesture without an event: the recording was cut short.
    let silent = span.end.saturating_sub(last.t.max(span.start)) > (span.end - span.start) / 4;
    Ok((
        part,
        silent.then_some("the table has gestures that end well after the last event: is the recording cut short?"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_clips() {
        let path = Path::new("labels.csv");
        let read = |text: &str| {
            let l = labels(text.as_bytes(), path).unwrap();
            assert!(l.1.is_empty(), "{l:?}");
            l.0.into_iter().map(|l| (l.file, l.class)).collect::<Vec<_>>()
        };
        let want = [("a b.bs2".to_string(), 0), ("c,d.bs2".to_string(), 10)];
        for text in [
            "file,class\na b.bs2,0\n\"c,d.bs2\",10\n",
            "a b.bs2,0\n\"c,d.bs2\",10\n",
            "\u{feff}\"Label\";\"User\";\"Filename\"\r\n0;1;a b.bs2\r\n10.0;2;\"c,d.bs2\"\r\n",
            "what\twhich\na b.bs2\t0\nc,d.bs2\t10",
            "file,label_0based,gesture\na b.bs2,0,hand clapping\n\"c,d.bs2\",10,other\n",
        ] {
            assert_eq!(read(text), want, "{text}");
        }
        let bad = labels(b"file,class\na,x\n,3\nb\n\"c,1\n", path).unwrap();
        assert_eq!((bad.0.len(), bad.1.len()), (0, 4));
        let many = labels("a\n".repeat(100).as_bytes(), path).unwrap().1;
        assert!(many.len() == 11 && many[10].to_string().contains("more lines"), "{many:?}");
        assert!(labels(b"\xff\xfea", path).is_err());
    }
}
