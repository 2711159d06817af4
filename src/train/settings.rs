//! How long and how a run is trained: what a configuration says below `settings`.

use serde::{Deserialize, Serialize};
use tasks::Split;

use super::{
    checkpoint::Progress,
    trainer::{Ending, TrainError},
};

/// Threads that may make batches: more wait for each other, and the system runs out of them.
pub const MOST_THREADS: usize = 256;

/// How long and how to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Seed of parameters, data order and everything drawn.
    pub seed: u64,
    /// Sequences per batch.
    pub batch: usize,
    /// Passes over the data; without limit if absent.
    pub epochs: Option<u64>,
    /// Batches in all; without limit if absent.
    pub batches: Option<u64>,
    /// Stop when the smoothed accuracy (factor 0.8) reaches this, or the smoothed NMSE of a task whose targets are numbers, after ten batches at the earliest: the published scripts start the
    /// average at the first batch, whose luck can end a run at once.
    pub stop_at: Option<f64>,
    /// Evaluate on this split after each epoch; the best evaluation selects the `best` checkpoint.
    pub evaluate: Option<String>,
    /// Report the checkpoint that was best on the evaluated split; otherwise the last.
    #[serde(default)]
    pub select: bool,
    /// Stop when the evaluation has not improved for so many epochs.
    #[serde(default)]
    pub patience: Option<Patience>,
    /// Write `last` every so many updates (and at every epoch's end).
    pub checkpoint_every: u64,
    /// Threads that make batches.
    pub threads: usize,
}

impl Default for Settings {
    /// Seed 0, batches of 128, no end, no evaluation, a checkpoint every 100 updates, one thread.
    fn default() -> Self {
        Settings {
            seed: 0,
            batch: 128,
            epochs: None,
            batches: None,
            stop_at: None,
            evaluate: None,
            select: false,
            patience: None,
            checkpoint_every: 100,
            threads: 1,
        }
    }
}

impl Settings {
    /// Refuses what no run can have.
    ///
    /// # Errors
    /// Which setting, what it must be, and what it is.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |text: String| Err(TrainError::Setting(text));
        match self {
            s if s.batch == 0 => wrong("a batch must hold at least 1 sequence, got 0 (--batch_size)".into()),
            s if s.threads > MOST_THREADS => wrong(format!(
                "at most {MOST_THREADS} threads may make batches, got {}; a few are enough (--n_data_worker 4)",
                s.threads
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn split(&self) -> Result<Option<Split>, TrainError> {
        let Some(name) = &self.evaluate else { return Ok(None) };
        let known = Split::ALL.into_iter().find(|s| s.name() == name);
        let wrong = || TrainError::Setting(format!("the split to evaluate must be train, valid or test, got `{name}`"));
        Ok(Some(known.ok_or_else(wrong)?))
    }

    /// Whether all batches or epochs that were asked for are done.
    pub fn done(&self, progress: &Progress) -> bool {
        self.batches.is_some_and(|n| progress.step >= n) || self.epochs.is_some_and(|n| progress.epoch >= n)
    }

    /// Whether nothing is left to do after `progress`: what was asked for is done, or training ended before it for good.
    pub fn complete(&self, progress: &Progress) -> bool {
        self.done(progress) || matches!(progress.ending, Some(Ending::Reached | Ending::Settled))
    }
}

/// When waiting for a better evaluation ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patience {
    /// Epochs without improvement.
    pub epochs: u64,
    /// They count only while the training accuracy of the epoch is above this (its NMSE below).
    pub trained: f64,
}
