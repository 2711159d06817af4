//! Event recordings to folders of classes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{ConvertSettings, Converted, Set, Target, Written, said};
use crate::events::{self, Accept, Reading, Sensor, TimeUnit, npy};
use crate::gesture::classes::{self, Classes};
use crate::gesture::{self, Layout, Recording};
use crate::remarks::Remarks;
use crate::rng::finish;
use crate::{Error, Result, Split, cache, files, nmnist, parallel};

/// The recordings of a source, and how they are read.
struct Source {
    splits: Vec<(Split, Vec<Recording>)>,
    /// The names of the classes.
    names: Vec<String>,
    reading: Reading,
    remarks: Vec<String>,
}

/// Writes all of them.
pub(super) fn write(dir: &Path, set: &Set, target: &Target, settings: ConvertSettings) -> Result<Converted> {
    let source = match set {
        Set::NMnist(root) => digits(root, settings.accept)?,
        Set::Whole => whole(dir, settings)?,
        _ => gestures(dir, settings.accept)?,
    };
    let sensor = source.reading.sensor;
    target.write(Path::new(classes::CLASSES), (source.names.join("\n") + "\n").as_bytes())?;
    target.write(Path::new(classes::SENSOR), format!("{sensor}\n").as_bytes())?;
    let (mut splits, mut remarks) = (Vec::new(), source.remarks);
    for (split, recordings) in &source.splits {
        let (written, more) = one_split(*split, recordings, &source.names, &source.reading, target)?;
        splits.push(written);
        remarks.extend(said(*split, &more));
    }
    let (what, to) = (set.name(), PathBuf::new());
    Ok(Converted { what, to, splits, sensor: Some(sensor), times: "whole microseconds, as they are read", remarks })
}

fn one_split(
    split: Split,
    recordings: &[Recording],
    names: &[String],
    reading: &Reading,
    target: &Target,
) -> Result<(Written, Remarks)> {
    // A file with many gestures is read once.
    let mut files: Vec<(usize, &[Recording])> = Vec::new();
    for of_file in recordings.chunk_by(|a, b| a.path == b.path) {
        files.push((files.last().map_or(0, |(first, before)| first + before.len()), of_file));
    }
    let parts = parallel::map(files.len(), |i| {
        let (first, of_file) = files[i];
        let file = events::read(&of_file[0].path, reading)?;
        let (mut events, mut remarks) = (0, Remarks::default());
        file.remarks.into_iter().for_each(|r| remarks.add(&of_file[0].path, r));
        for (k, recording) in of_file.iter().enumerate() {
            let (part, remark) = gesture::part(&file.events, recording)?;
            remark.into_iter().for_each(|r| remarks.add(&recording.path, r));
            if let [begin, .., end] = part {
                // What is left of a gesture in a recording that was cut short would be no recording by itself.
                let seconds = (end.t - begin.t) as f64 * 1e-6;
                events::span_error(&recording.path, Reading::ANY.lasts, TimeUnit::Us, seconds, part.len())?;
            }
            let class = &names[recording.label as usize];
            let name = Path::new(split.name()).join(class).join(file_name(first + k, recording));
            target.write(&name, &npy::encode(part, reading.sensor))?;
            events += part.len() as u64;
        }
        Ok((events, remarks))
    });
    let (mut events, mut remarks) = (0, Remarks::default());
    for part in parts {
        let (n, more): (u64, Remarks) = part?;
        events += n;
        remarks.extend(more);
    }
    let classes = recordings.iter().map(|r| r.label).collect::<BTreeSet<_>>().len();
    Ok((Written { split, samples: recordings.len() as u64, classes, events }, remarks))
}

/// The name of a copy: its number in the split, what it was called, whose it is.
fn file_name(number: usize, recording: &Recording) -> String {
    let stem = recording.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let unsaid = recording.user >= 0 && classes::user(&stem) != recording.user;
    let user = if unsaid { format!("user{:02}_", recording.user) } else { String::new() };
    format!("{number:06}_{user}{stem}.npy")
}

fn digits(root: &Path, accept: Accept) -> Result<Source> {
    let (mut splits, mut remarks) = (Vec::new(), Vec::new());
    for split in [Split::Train, Split::Test] {
        let Ok(folder) = nmnist::split_dir(root, split) else { continue };
        let (found, more) = nmnist::recordings(&folder)?.sound()?;
        let of = |(path, label)| Recording { path, label, user: -1, span: None };
        splits.push((split, found.into_iter().map(of).collect()));
        remarks.extend(said(split, &more));
    }
    let reading = Reading::NMNIST.accepting(accept.disorder, accept.time_unit);
    given_sensor(accept.sensor, reading.sensor)?;
    Ok(Source { splits, names: (0..10).map(|digit| digit.to_string()).collect(), reading, remarks })
}

fn given_sensor(given: Option<Sensor>, own: Sensor) -> Result<()> {
    match given.filter(|given| *given != own) {
        None => Ok(()),
        Some(given) => Err(Error::Setting {
            task: super::NAME,
            rule: "the sensor of N-MNIST has 34x34 pixels",
            got: given.to_string(),
            next: "leave --sensor out".into(),
        }),
    }
}

fn gestures(dir: &Path, accept: Accept) -> Result<Source> {
    let (mut splits, mut remarks, mut of_set) = (Vec::new(), Vec::new(), None);
    for split in Split::ALL {
        let layout = match gesture::find(dir, split) {
            Ok(layout) => layout,
            Err(Error::NoSplit { .. } | Error::Missing { .. }) => continue,
            Err(e) => return Err(e),
        };
        if split == Split::Valid && !layout.is_of_any_set() {
            continue;
        }
        let (found, more) = layout.recordings(split)?.sound()?;
        remarks.extend(said(split, &more));
        splits.push((split, found));
        if of_set.is_none() {
            of_set = Some((layout.classes()?, layout.reading(accept)?));
        }
    }
    let (names, reading) = of_set.unwrap_or((Vec::new(), Reading::ANY));
    Ok(Source { splits, names, reading, remarks })
}

/// One folder of classes: a share of each becomes the test split, by the names of classes and files alone.
fn whole(dir: &Path, settings: ConvertSettings) -> Result<Source> {
    let found =
        classes::whole(dir).unwrap_or_else(|| Classes { root: dir.into(), folder: dir.into(), names: Vec::new() });
    let (all, more) = found.recordings()?.sound()?;
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for label in 0..found.names.len() {
        let mut of_class: Vec<&Recording> = all.iter().filter(|r| r.label as usize == label).collect();
        let key =
            |r: &&Recording| finish(cache::hash(format!("{} {}", found.names[label], files::name(&r.path)).as_bytes()));
        of_class.sort_by_cached_key(key);
        let share = (settings.test_share.unwrap_or_default() * of_class.len() as f64).round() as usize;
        if of_class.len() < 2 {
            let (rule, next) =
                ("a class has a recording to train on and one to test", "add recordings, or leave the class out");
            let got = format!("{} of {}", of_class.len(), found.names[label]);
            return Err(Error::unusable(&dir.join(&found.names[label]), rule, got, next));
        }
        let (first, rest) = of_class.split_at(share.clamp(1, of_class.len() - 1));
        test.extend(first.iter().map(|r| (*r).clone()));
        train.extend(rest.iter().map(|r| (*r).clone()));
    }
    [&mut train, &mut test]
        .into_iter()
        .for_each(|part| part.sort_by_cached_key(|r: &Recording| (files::name(&r.path), r.label)));
    let layout = Layout::Classes(found);
    let reading = layout.reading(settings.accept)?;
    let splits = vec![(Split::Train, train), (Split::Test, test)];
    let remarks = said(Split::Train, &more).collect();
    Ok(Source { splits, names: layout.classes()?, reading, remarks })
}
