//! What a task is: a pure function from a position to a batch.
//!
//! A [`Task`] answers `batch(split, seed, epoch, step, B)` with the same bytes every time, on any thread, in any order. It
//! keeps no state that a batch depends on; a data set may keep its decoded files, which never change. That is what makes a
//! resumed run equal an uninterrupted one, and what lets the [`Loader`](crate::Loader) work ahead on several threads.
//!
//! Tasks are of two kinds. **Generators** (`samples` = `None`) make new trials for ever; their epochs are a matter of
//! bookkeeping. **Sets** have a number of samples; an epoch passes over each once, in an order that is a function of
//! (seed, epoch), see [`order`](crate::order).

use std::{ops::Range, path::PathBuf, sync::Arc};

use crate::error::require;
use crate::{Result, memory};

/// Which part of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Split {
    /// What is learned from. Shuffled by default.
    Train,
    /// What choices are made by. In file order.
    Valid,
    /// What is reported. In file order.
    Test,
}

impl Split {
    /// All three.
    pub const ALL: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

    /// The name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
            Split::Test => "test",
        }
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The target of a row that is only padding, or of a step without loss. Leave such out of loss and accuracy.
pub const NO_TARGET: i32 = -1;

/// The id of a row that is only padding.
pub const NO_ID: u64 = u64::MAX;

/// What the targets of a task are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Targets {
    /// A class for each sequence.
    #[default]
    Class,
    /// A class for each step after the warm-up.
    Classes,
    /// Numbers for each step after the warm-up, one for each output.
    Numbers,
}

/// One batch: spike counts in, targets out.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[T, B, n_in]`, time first: spikes of one input in one step, saturating at 255.
    pub inputs: Vec<u8>,
    /// T, time steps.
    pub steps: usize,
    /// B, rows, padding included.
    pub batch: usize,
    /// Input channels.
    pub n_in: usize,
    /// Rows that are samples; they come first. The rest is padding: no spikes, target [`NO_TARGET`], id [`NO_ID`].
    pub real: usize,
    /// The class of each row, `[B]`; with a class for each step, `[T, B]`, [`NO_TARGET`] in steps without loss.
    pub targets: Vec<i32>,
    /// Where targets are numbers, those of each step, `[T, B, n_out]`, steps without loss included; else empty.
    pub numbers: Vec<f32>,
    /// `[B]`: the number of the sample in its split (sets), or of the trial in the epoch (generators).
    pub ids: Vec<u64>,
}

impl Batch {
    /// A batch of `[T, B, n_in]` without spikes, every row padding.
    pub fn empty(steps: usize, batch: usize, n_in: usize) -> Self {
        Batch {
            inputs: vec![0; steps * batch * n_in],
            steps,
            batch,
            n_in,
            real: 0,
            targets: vec![NO_TARGET; batch],
            numbers: Vec::new(),
            ids: vec![NO_ID; batch],
        }
    }

    /// The inputs `[n_in]` of row `b` at step `t`. Panics outside `[T, B]`, as indexing does.
    pub fn at(&self, t: usize, b: usize) -> &[u8] {
        assert!(b < self.batch, "row {b} of a batch of {}", self.batch);
        &self.inputs[(t * self.batch + b) * self.n_in..][..self.n_in]
    }

    /// The inputs `[n_in]` of row `b` at step `t`, to write.
    pub(crate) fn row(&mut self, t: usize, b: usize) -> &mut [u8] {
        &mut self.inputs[(t * self.batch + b) * self.n_in..][..self.n_in]
    }

    /// These rows alone.
    #[must_use]
    pub fn part(&self, rows: Rows) -> Batch {
        let rows = rows.of(self.batch);
        let size = self.batch.max(1);
        let per_row = self.targets.chunks(size).flat_map(|targets| &targets[rows.clone()]);
        let outputs = (self.numbers.len() / (size * self.steps.max(1))).max(1);
        let numbers = self.numbers.chunks(size * outputs);
        Batch {
            inputs: (0..self.steps).flat_map(|t| rows.clone().flat_map(move |b| self.at(t, b))).copied().collect(),
            steps: self.steps,
            batch: rows.len(),
            n_in: self.n_in,
            real: rows.end.min(self.real).saturating_sub(rows.start),
            targets: per_row.copied().collect(),
            numbers: numbers.flat_map(|step| &step[rows.start * outputs..rows.end * outputs]).copied().collect(),
            ids: self.ids[rows.clone()].to_vec(),
        }
    }

    /// Spikes of row `b`, all steps and channels.
    pub fn spikes(&self, b: usize) -> u64 {
        (0..self.steps).flat_map(|t| self.at(t, b)).map(|&c| u64::from(c)).sum()
    }
}

/// A task or data set.
pub trait Task: Send + Sync {
    /// A short name, as on the command line.
    fn name(&self) -> &str;

    /// Input channels.
    fn n_in(&self) -> usize;

    /// Classes, or numbers of a step.
    fn n_out(&self) -> usize;

    /// Time steps T of every sample.
    fn steps(&self) -> usize;

    /// Steps at the start that carry no loss.
    fn warmup(&self) -> usize {
        0
    }

    /// The picture that the inputs of one step make: polarities, height, width; `None` where they make none.
    fn frame(&self) -> Option<[usize; 3]> {
        None
    }

    /// Named parts of a sample for pictures: name, first step, step after the last.
    fn phases(&self) -> Vec<(String, usize, usize)> {
        Vec::new()
    }

    /// Named groups of inputs: name, first input, input after the last; none where inputs are all of a kind.
    fn input_groups(&self) -> Vec<(&'static str, usize, usize)> {
        Vec::new()
    }

    /// Samples in a split; `None` where trials are made without end. Reads the files at the first call.
    fn samples(&self, split: Split) -> Result<Option<u64>> {
        let _ = split;
        Ok(None)
    }

    /// Who speaks or moves in each sample of a split, in the order of [`Batch::ids`]: what accuracy per person needs. Empty where
    /// nobody is known.
    fn people(&self, split: Split) -> Result<Vec<i64>> {
        let _ = split;
        Ok(Vec::new())
    }

    /// What was recognised, left out or strange when a split was read, in lines for a person.
    fn remarks(&self, split: Split) -> Result<Vec<String>> {
        let _ = split;
        Ok(Vec::new())
    }

    /// Samples of a split that are training samples too, spike for spike: accuracy on them says how well they were learned, not how
    /// well new ones are told apart.
    fn repeated(&self, split: Split) -> Result<u64> {
        let _ = split;
        Ok(0)
    }

    /// Batches in an epoch of `batch` samples; `None` without end.
    fn batches(&self, split: Split, batch: usize) -> Result<Option<u64>> {
        let _ = (split, batch);
        Ok(None)
    }

    /// The batch at a position: a pure function of its arguments (and of the files of the set).
    ///
    /// `step` counts batches within `epoch`, from 0. Errors: no such split, a step beyond the epoch, missing or damaged files,
    /// `batch` = 0.
    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch>;

    /// Some rows of a batch, which is what one of several hosts needs. Without a shorter way the whole batch is made and cut.
    ///
    /// Errors: as [`Task::batch`].
    fn part(&self, at: At) -> Result<Batch> {
        let At { split, seed, epoch, step, batch, .. } = at;
        let whole = self.batch(split, seed, epoch, step, batch)?;
        Ok(if at.is_whole() { whole } else { whole.part(at.rows) })
    }
}

/// Where a batch stands, the arguments of [`Task::batch`], and which of its rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The split.
    pub split: Split,
    /// The seed of the run.
    pub seed: u64,
    /// Passes completed.
    pub epoch: u64,
    /// Batches before it in its epoch.
    pub step: u64,
    /// Rows of the whole batch.
    pub batch: usize,
    /// The rows that are wanted.
    pub rows: Rows,
}

impl At {
    /// All rows of a batch.
    pub fn whole(split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> At {
        At { split, seed, epoch, step, batch, rows: Rows { first: 0, count: batch } }
    }

    /// Whether all rows are wanted.
    pub fn is_whole(&self) -> bool {
        self.rows == Rows { first: 0, count: self.batch }
    }
}

/// Rows of a batch that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The first of them.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl Rows {
    /// Those of `n` rows that are among these.
    pub fn of(self, n: usize) -> Range<usize> {
        self.first.min(n)..self.first.saturating_add(self.count).min(n)
    }
}

/// The settings of a task: all that decides its batches. They are what a configuration stores.
pub trait TaskSettings {
    /// Checks the settings and finds the files.
    ///
    /// # Errors
    /// When a setting makes no sense or files are missing.
    fn open(&self) -> Result<Arc<dyn Task>>;

    /// Steps of a sample and steps at its start that carry no loss, without reading files.
    ///
    /// # Errors
    /// When a setting makes no sense.
    fn timing(&self) -> Result<(usize, usize)> {
        self.open().map(|task| (task.steps(), task.warmup()))
    }

    /// What the targets are.
    fn targets(&self) -> Targets {
        Targets::Class
    }

    /// Length of a step in ms, where the task knows one.
    fn dt(&self) -> Option<f64> {
        None
    }

    /// The folder of the files and that of what is made of them; `None` where trials are made without files.
    fn folders(&mut self) -> Option<(&mut PathBuf, &mut Option<PathBuf>)> {
        None
    }
}

/// Refuses empty batches, and batches that are larger than the memory.
pub(crate) fn check_batch(task: &dyn Task, batch: usize) -> Result<()> {
    require(batch > 0, "batch", "the batch size is at least 1", batch, "choose another batch size")?;
    let rule = "steps x batch x inputs fit in memory";
    memory::fits("batch", rule, &[task.steps(), batch, task.n_in()], 1, "choose a smaller batch or fewer steps")
}
