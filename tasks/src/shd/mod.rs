//! Spiking Heidelberg Digits and Spiking Speech Commands (Cramer, Stradmann, Schemmel, Zenke 2022).
//!
//! Spoken words turned into the spikes of 700 model cochlear cells. SHD: 20 classes (digits in English and German), 8156 training
//! and 2264 test samples; SSC: 35 words, 75 466 training, 9981 validation and 20 382 test samples. Files are
//! `shd_train.h5`, `shd_test.h5`, `ssc_train.h5`, `ssc_valid.h5`, `ssc_test.h5`; [`mod@file`] reads them, [`bin`] says how times become rows.
//!
//! Speakers 4 and 5 of SHD are in its test file only. [`ShdSettings::held_out`] makes a validation split of the same kind out of the
//! training file: all samples of some speakers, none of whom is then in the training split.
//!
//! With [`ShdSettings::augment`] training samples are changed at random, each anew in every epoch: see [`augment`]. The spikes of the file
//! are then kept and binned for each batch, and there is nothing to cache for the training split.

pub mod augment;
pub mod bin;
pub mod file;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use augment::Augment;
pub use bin::Edges;
pub use file::ShdFile;

use crate::cache::{self, Entry};
use crate::error::require;
use crate::events::TimeUnit;
use crate::order::{Order, Passes};
use crate::rng::Stream;
use crate::sparse::{self, Decoded, Kept, Sparse, Splits, add, batch_of};
use crate::task::{At, Batch, Split, Task, TaskSettings};
use crate::{Error, Result, files, parallel};

/// Channels of both sets.
pub const UNITS: u16 = 700;

/// Which of the two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShdKind {
    /// Spiking Heidelberg Digits.
    Shd,
    /// Spiking Speech Commands.
    Ssc,
}

impl ShdKind {
    /// The name, and the first part of the files' names.
    pub fn name(self) -> &'static str {
        match self {
            ShdKind::Shd => "shd",
            ShdKind::Ssc => "ssc",
        }
    }

    /// 20 or 35.
    pub fn classes(self) -> usize {
        match self {
            ShdKind::Shd => 20,
            ShdKind::Ssc => 35,
        }
    }

    /// Published samples of a split, and the MD5 of the archive `<file>.zip`; `None` where there is no such split.
    pub fn published(self, split: Split) -> Option<(u64, &'static str)> {
        match (self, split) {
            (ShdKind::Shd, Split::Train) => Some((8156, "f3252aeb598ac776c1b526422d90eecb")),
            (ShdKind::Shd, Split::Valid) => None,
            (ShdKind::Shd, Split::Test) => Some((2264, "1503a5064faa34311c398fb0a1ed0a6f")),
            (ShdKind::Ssc, Split::Train) => Some((75_466, "d102be95e7144fcc0553d1f45ba94170")),
            (ShdKind::Ssc, Split::Valid) => Some((9981, "b4eee3516a4a90dd0c71a6ac23a8ae43")),
            (ShdKind::Ssc, Split::Test) => Some((20_382, "a35ff1e9cffdd02a20eb850c17c37748")),
        }
    }

    /// The name of the file of a split.
    pub fn file(self, split: Split) -> String {
        format!("{}_{split}.h5", self.name())
    }
}

/// The time at the last edge.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaxTime {
    /// This many seconds.
    Fixed(f64),
    /// The latest spike of the file that is read. Training and test files then have bins of different widths.
    Longest,
}

/// How SHD or SSC is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShdSettings {
    /// The folder that holds the files, or `SHD/` or `SSC/` with the files.
    pub dir: PathBuf,
    /// Which set.
    pub kind: ShdKind,
    /// Edges, which is also the number of steps; at least 2.
    pub steps: usize,
    /// Where the edges end.
    pub max_time: MaxTime,
    /// Classes; labels are below.
    pub n_out: usize,
    /// Speakers whose samples make the validation split.
    pub held_out: Vec<i64>,
    /// 1 for any number of spikes in a bin.
    pub binary: bool,
    /// The unit of times, where it is not the second.
    pub time_unit: Option<TimeUnit>,
    /// Random changes of the training split.
    pub augment: Option<Augment>,
    /// Folder for the binned data, so that they are made once.
    pub cache: Option<PathBuf>,
    /// Order and last batch.
    pub passes: Passes,
}

impl ShdSettings {
    /// 100 edges to 1.4 s, counts, shuffled.
    pub fn new(dir: impl Into<PathBuf>, kind: ShdKind) -> Self {
        ShdSettings {
            dir: dir.into(),
            kind,
            steps: 100,
            max_time: MaxTime::Fixed(1.4),
            n_out: kind.classes(),
            held_out: Vec::new(),
            binary: false,
            time_unit: None,
            augment: None,
            cache: None,
            passes: Passes::default(),
        }
    }
}

/// The file of a split in `dir`, or in `SHD/` or `SSC/` there, in any letter case.
pub(crate) fn find(dir: &Path, kind: ShdKind, split: Split) -> Option<PathBuf> {
    let below = files::folder(dir, &[kind.name()]);
    [Some(dir.to_owned()), below].into_iter().flatten().find_map(|d| files::file(&d, &kind.file(split)))
}

/// The samples of a file that make a split, and how they are binned.
struct Source {
    file: ShdFile,
    chosen: Vec<usize>,
    labels: Vec<i32>,
    people: Vec<i64>,
    edges: Edges,
    remarks: Vec<String>,
}

impl Default for ShdSettings {
    fn default() -> Self {
        ShdSettings::new("../data/SHD/", ShdKind::Shd)
    }
}

impl TaskSettings for ShdSettings {
    fn open(&self) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(Shd::open(self.clone())?))
    }

    fn timing(&self) -> Result<(usize, usize)> {
        Ok((self.steps, 0))
    }

    fn folders(&mut self) -> Option<(&mut PathBuf, &mut Option<PathBuf>)> {
        Some((&mut self.dir, &mut self.cache))
    }
}

/// The task. See the [module](self).
pub struct Shd {
    settings: ShdSettings,
    order: Order,
    splits: Splits,
    /// The training split where it is augmented.
    raw: Kept<Source>,
}

impl Shd {
    /// Checks the settings and that the training or test file is there; reads nothing yet.
    pub fn open(settings: ShdSettings) -> Result<Self> {
        let (s, name) = (&settings, settings.kind.name());
        require((2..=1 << 20).contains(&s.steps), name, "steps is from 2 to 2^20", s.steps, "100 is usual")?;
        if let MaxTime::Fixed(t) = s.max_time {
            require(
                Edges::new(s.steps, t).is_some(),
                name,
                "max_time is above 0 and finite",
                t,
                "1.4 seconds is usual",
            )?;
        }
        require((1..=65_536).contains(&s.n_out), name, "n_out is from 1 to 65536", s.n_out, "20 for SHD, 35 for SSC")?;
        s.augment.iter().try_for_each(|a| a.check(name))?;
        let order = Order::new(settings.passes);
        let shd = Shd { order, splits: Splits::default(), raw: Kept::default(), settings };
        shd.path(Split::Train).or_else(|_| shd.path(Split::Test))?;
        Ok(shd)
    }

    /// The file of a split's name.
    fn path(&self, split: Split) -> Result<PathBuf> {
        let s = &self.settings;
        find(&s.dir, s.kind, split).ok_or_else(|| {
            let file = s.kind.file(split);
            let archives = Split::ALL.into_iter().filter_map(|split| {
                let (samples, md5) = s.kind.published(split)?;
                Some(format!("{}.zip (MD5 {md5}, {samples} samples)", s.kind.file(split)))
            });
            let next = format!(
                "Get {} from https://zenkelab.org/datasets/ and unpack them into {}",
                archives.collect::<Vec<_>>().join(", "),
                s.dir.display()
            );
            let layout = "shd_train.h5 and shd_test.h5 (SSC: ssc_train.h5, ssc_valid.h5, ssc_test.h5)";
            let what = if s.kind == ShdKind::Shd { "SHD" } else { "SSC" };
            files::missing(what, s.dir.join(&file), &s.dir, layout, next)
        })
    }

    /// The file that holds the samples of a split.
    fn source_path(&self, split: Split) -> Result<PathBuf> {
        let s = &self.settings;
        let source = if split == Split::Valid && !s.held_out.is_empty() { Split::Train } else { split };
        match self.path(source) {
            Err(_) if split == Split::Valid => Err(Error::NoSplit {
                task: s.kind.name().into(),
                split,
                got: format!("there is no {} and no speaker is held out", s.kind.file(split)),
                next: "name speakers of the training file in held_out, or evaluate on the test split",
            }),
            found => found,
        }
    }

    fn decoded(&self, split: Split) -> Result<Arc<Decoded>> {
        let s = &self.settings;
        self.splits.get(split, || {
            let path = self.source_path(split)?;
            let entry = Entry {
                task: s.kind.name(),
                split,
                settings: format!("edges to {:?}, held out {:?}, times in {:?}", s.max_time, s.held_out, s.time_unit),
                sources: vec![&path],
                steps: s.steps,
                n_in: self.n_in(),
                n_out: s.n_out,
            };
            cache::through(s.cache.as_deref(), &entry, || self.source(split)?.bin(s.steps))
        })
    }

    /// The spikes of the training split, if they are changed anew in each epoch.
    fn augmented(&self, split: Split) -> Option<(Augment, Result<Arc<Source>>)> {
        let augment = self.settings.augment.filter(|_| split == Split::Train)?;
        Some((augment, self.raw.get(|| self.source(split))))
    }

    fn source(&self, split: Split) -> Result<Source> {
        let s = &self.settings;
        let held = !s.held_out.is_empty();
        let path = self.source_path(split)?;
        let file = ShdFile::open(&path)?.in_unit(s.time_unit)?;
        let chosen: Vec<usize> = if held && split != Split::Test {
            let Some(speakers) = file.speakers() else {
                return Err(Error::damaged(
                    &path,
                    "speakers can be held out if extra/speaker names them",
                    "no extra/speaker",
                ));
            };
            let known: BTreeSet<i64> = speakers.iter().copied().collect();
            let all_known = s.held_out.iter().all(|p| known.contains(p));
            let some_left = known.iter().any(|p| !s.held_out.contains(p));
            let got = format!("{:?} held out of speakers {known:?}", s.held_out);
            require(
                all_known && some_left,
                s.kind.name(),
                "held_out names some but not all speakers of the training file",
                got,
                "choose among these",
            )?;
            let is_held = |i: &usize| s.held_out.contains(&speakers[*i]);
            (0..file.len()).filter(|i| is_held(i) == (split == Split::Valid)).collect()
        } else {
            (0..file.len()).collect()
        };
        let labels = chosen.iter().map(|&i| {
            let label = file.labels()[i];
            let class = usize::try_from(label).ok().filter(|&l| l < s.n_out).map(|l| l as i32);
            class.ok_or_else(|| bad_label(&path, file.labels(), i, s.n_out))
        });
        let labels = labels.collect::<Result<Vec<_>>>()?;
        sparse::check_size(s.kind.name(), labels.len(), s.steps)?;
        let edges = self.edges(&file)?;
        let people = file.speakers().map(|p| chosen.iter().map(|&i| p[i]).collect()).unwrap_or_default();
        let remarks = late(&file, &chosen, &edges)?.into_iter().collect();
        Ok(Source { file, chosen, labels, people, edges, remarks })
    }

    fn edges(&self, file: &ShdFile) -> Result<Edges> {
        let s = &self.settings;
        let max_time = match s.max_time {
            MaxTime::Fixed(t) => t,
            MaxTime::Longest => {
                let mut longest = 0f64;
                for i in 0..file.len() {
                    longest = file.sample(i, UNITS)?.iter().fold(longest, |m, &(t, _)| m.max(t));
                }
                longest
            }
        };
        Edges::new(s.steps, max_time).ok_or_else(|| Error::Setting {
            task: s.kind.name(),
            rule: "the longest time of a file is above 0",
            got: max_time.to_string(),
            next: "give a fixed max_time, 1.4 seconds is usual".into(),
        })
    }
}

/// A remark if a large share of the spikes comes after the last edge.
fn late(file: &ShdFile, chosen: &[usize], edges: &Edges) -> Result<Option<String>> {
    let end = edges.max_time();
    let parts = parallel::map(chosen.len(), |k| {
        let spikes = file.sample(chosen[k], UNITS)?;
        Ok((spikes.len(), spikes.iter().filter(|s| s.0 > end).count()))
    });
    let (mut all, mut late) = (0, 0);
    for part in parts {
        let (n, m) = part?;
        (all, late) = (all + n, late + m);
    }
    let share = 100.0 * late as f64 / all.max(1) as f64;
    let text = format!(
        "{share:.0} % of the spikes are later than the last edge at {end} s and are counted in the last bin; a larger --max_time \
         keeps them apart"
    );
    Ok((share >= 5.0).then_some(text))
}

/// What to say of sample `i`, whose label is no class.
pub(crate) fn bad_label(path: &Path, labels: &[i64], i: usize, n_out: usize) -> Error {
    let (rule, got) =
        (format!("labels are 0 and more, and below n_out, {n_out}"), format!("label {} of sample {i}", labels[i]));
    if labels.iter().all(|&l| (1..=n_out as i64).contains(&l)) {
        Error::unusable(path, rule, got, "are labels counted from 1? Take 1 from each")
    } else {
        Error::damaged(path, rule, got)
    }
}

impl Source {
    /// All samples in rows.
    fn bin(&self, steps: usize) -> Result<Decoded> {
        let Source { file, chosen, edges, .. } = self;
        let blocks: Vec<&[usize]> = chosen.chunks(64).collect();
        let parts = parallel::map(blocks.len(), |b| {
            let mut part = Sparse::new(steps);
            for &i in blocks[b] {
                let spikes = file.sample(i, UNITS)?;
                let rows: Vec<_> = spikes.iter().map(|&(t, u)| (edges.row(t) as u32, u)).collect();
                part.push(&rows);
            }
            Ok(part)
        });
        let mut spikes = Sparse::new(steps);
        for part in parts {
            spikes.append(&part?);
        }
        let (labels, people, remarks) = (self.labels.clone(), self.people.clone(), self.remarks.clone());
        Ok(Decoded { spikes: spikes.finish(), labels, people, remarks }.judged())
    }
}

impl Task for Shd {
    fn name(&self) -> &str {
        self.settings.kind.name()
    }
    fn n_in(&self) -> usize {
        UNITS as usize
    }
    fn n_out(&self) -> usize {
        self.settings.n_out
    }
    fn steps(&self) -> usize {
        self.settings.steps
    }
    fn samples(&self, split: Split) -> Result<Option<u64>> {
        let n = match self.augmented(split) {
            Some((_, source)) => source?.labels.len(),
            None => self.decoded(split)?.labels.len(),
        };
        Ok(Some(n as u64))
    }
    fn people(&self, split: Split) -> Result<Vec<i64>> {
        Ok(match self.augmented(split) {
            Some((_, source)) => source?.people.clone(),
            None => self.decoded(split)?.people.clone(),
        })
    }
    fn remarks(&self, split: Split) -> Result<Vec<String>> {
        Ok(match self.augmented(split) {
            Some((_, source)) => source?.remarks.clone(),
            None => self.decoded(split)?.remarks.clone(),
        })
    }
    fn repeated(&self, split: Split) -> Result<u64> {
        let train = match self.augmented(Split::Train) {
            Some((_, source)) => source?.bin(self.settings.steps)?.prints(),
            None => self.decoded(Split::Train)?.prints(),
        };
        Ok(sparse::repeated(&self.decoded(split)?.prints(), &train))
    }
    fn batches(&self, split: Split, batch: usize) -> Result<Option<u64>> {
        Ok(self.samples(split)?.map(|n| self.settings.passes.batches(split, n, batch)))
    }
    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        self.part(At::whole(split, seed, epoch, step, batch))
    }

    fn part(&self, at: At) -> Result<Batch> {
        let (binary, At { split, seed, epoch, .. }) = (self.settings.binary, at);
        let Some((augment, source)) = self.augmented(split) else {
            return batch_of(self, &self.order, &*self.decoded(split)?, binary, at);
        };
        let source = source?;
        let (chosen, mut out) = self.order.select(self, at, &source.labels)?;
        for (b, &i) in chosen.iter().enumerate() {
            let mut spikes = source.file.sample(source.chosen[i], UNITS)?;
            let s = &mut Stream::new(seed, "shd augment", &[epoch, i as u64]);
            augment.apply(&mut spikes, source.edges.max_time(), s);
            for (t, u) in spikes {
                add(&mut out.row(source.edges.row(t), b)[usize::from(u)], binary);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
