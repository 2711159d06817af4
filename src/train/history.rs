//! What a run recorded, as curves and as figures.

use std::{fmt, path::Path};

use super::{
    run::{RunDir, RunError},
    score::Measure,
    trainer::Event,
};
#[cfg(feature = "plot")]
use crate::plot::{Axis, Figure, Panel, Panels, PlotError, Scale, Series};

/// How many batches are averaged where single ones are too noisy.
pub const WINDOW: usize = 20;

/// A training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Updates so far, this one included.
    pub step: u64,
    /// Mean loss per step.
    pub loss: f64,
    /// Share of right answers, or the normalised error.
    pub score: f64,
    /// Norm of the gradient; `None` where it was not finite.
    pub norm: Option<f64>,
    /// Seconds since the last one.
    pub seconds: f64,
}

/// An evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Updates so far.
    pub step: u64,
    /// Mean loss per step.
    pub loss: f64,
    /// Share of right answers, or the normalised error.
    pub score: f64,
    /// Layers that fire: name, spikes per neuron and step.
    pub rates: Vec<(String, f64)>,
}

/// Everything recorded, in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What the scores measure.
    pub measure: Measure,
    /// Training steps.
    pub updates: Vec<Update>,
    /// Evaluations.
    pub evaluations: Vec<Evaluation>,
}

impl History {
    /// Reads the metrics of a run; lines that are no events are skipped.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(dir: &Path) -> Result<History, RunError> {
        let mut history = History::default();
        for row in RunDir::metrics(dir)? {
            match serde_json::from_value(row) {
                Ok(Event::Step { step, loss, score, norm, seconds, .. }) => {
                    history.measure = score.measure();
                    history.updates.push(Update {
                        step,
                        loss: loss.into(),
                        score: score.value(),
                        norm: norm.map(f64::from),
                        seconds,
                    });
                }
                Ok(Event::Evaluation { step, loss, score, rates, .. }) => {
                    history.evaluations.push(Evaluation { step, loss, score: score.value(), rates });
                }
                Err(_) => {}
            }
        }
        Ok(history)
    }

    /// Mean score of [`WINDOW`] batches, by the number of the last; fewer at the start.
    pub fn smoothed(&self) -> Vec<(u64, f64)> {
        self.means(|u| u.score)
    }

    fn means(&self, value: impl Fn(&Update) -> f64) -> Vec<(u64, f64)> {
        let mean = |k: usize| {
            let window = &self.updates[(k + 1).saturating_sub(WINDOW)..=k];
            window.iter().map(&value).sum::<f64>() / window.len() as f64
        };
        (0..self.updates.len()).map(|k| (self.updates[k].step, mean(k))).collect()
    }

    /// Mean loss of [`WINDOW`] batches, by the number of the last; fewer at the start.
    pub fn smoothed_loss(&self) -> Vec<(u64, f64)> {
        self.means(|u| u.loss)
    }

    /// How good the run is: the score of the last evaluation, else the mean of the last [`WINDOW`] batches; `None` before the first.
    pub fn score(&self) -> Option<f64> {
        let tested = self.evaluations.last().map(|e| e.score);
        tested.or_else(|| self.smoothed().last().map(|(_, mean)| *mean))
    }

    /// The batch at which the mean of [`WINDOW`] batches first reaches `score`.
    pub fn reaches(&self, score: f64) -> Option<u64> {
        let reached = |(_, mean): &(u64, f64)| self.measure.reaches(*mean, score);
        self.smoothed().into_iter().skip(WINDOW - 1).find(reached).map(|(step, _)| step)
    }

    /// Median seconds per batch, the first (which waits for data and device) left out.
    pub fn seconds(&self) -> Option<f64> {
        let mut all: Vec<f64> = self.updates.iter().skip(1).map(|u| u.seconds).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }

    /// Draws loss, score and norm of the gradient over batches, as `curve` of the run.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    #[cfg(feature = "plot")]
    pub fn draw(&self, dir: &Path) -> Result<(), PlotError> {
        if self.updates.is_empty() {
            return Ok(());
        }
        let points = |f: &dyn Fn(&Update) -> Option<f64>| -> Vec<(f64, f64)> {
            self.updates.iter().filter_map(|u| Some((u.step as f64, f(u)?))).collect()
        };
        let tested = |f: fn(&Evaluation) -> f64| self.evaluations.iter().map(move |e| (e.step as f64, f(e)));
        let line = |name: &str, points| Series::new(name, points).markers(false);
        let mut loss = vec![line("each batch", points(&|u| Some(u.loss)))];
        let mut score = vec![
            line("each batch", points(&|u| Some(u.score))),
            line("mean of 20", self.smoothed().into_iter().map(|(s, a)| (s as f64, a)).collect()),
        ];
        if !self.evaluations.is_empty() {
            loss.push(Series::new("evaluation", tested(|e| e.loss)).style(2));
            score.push(Series::new("evaluation", tested(|e| e.score)));
        }
        let norm = Panel::traces(
            Axis::new("norm of the gradient").scale(Scale::Log10),
            [line("before clipping", points(&|u| u.norm.filter(|n| *n > 0.0)))],
        );
        let name = dir.file_name().map_or_else(String::new, |name| format!(" of {}", name.to_string_lossy()));
        let losses = self.updates.iter().map(|u| u.loss).chain(self.evaluations.iter().map(|e| e.loss));
        Panels::new(format!("Training{name}"), Axis::new("batch"))
            .panel(Panel::traces(loss_axis("loss", losses), loss).height(160))
            .panel(Panel::traces(score_axis(self.measure, self.measure.name()), score).height(160))
            .panel(norm.height(120))
            .save(dir.join("curve"))?;
        Ok(())
    }
}

/// The axis of a measure: 0 to 1 for an accuracy, from 0 on for an error, drawn logarithmically.
#[cfg(feature = "plot")]
pub fn score_axis(measure: Measure, label: &str) -> Axis {
    match measure {
        Measure::Accuracy => Axis::new(label).range(0.0, 1.0),
        Measure::Nmse => Axis::new(label).scale(Scale::Log10),
    }
}

/// The axis of losses: logarithmic where a few are so much larger than the others that these would lie on one line.
#[cfg(feature = "plot")]
pub fn loss_axis(label: &str, losses: impl Iterator<Item = f64>) -> Axis {
    let mut all: Vec<f64> = losses.filter(|loss| loss.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    let far = |median: f64| all[0] > 0.0 && all[all.len() - 1] > 20.0 * median;
    let scale = if all.get(all.len() / 2).is_some_and(|median| far(*median)) { Scale::Log10 } else { Scale::Linear };
    Axis::new(label).scale(scale)
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, name) = (self.updates.len(), self.measure.name());
        write!(f, "{n} batches")?;
        if let Some((_, mean)) = self.smoothed().last() {
            write!(f, "; mean {name} of the last {} {mean:.4}", n.min(WINDOW))?;
        }
        let marks = match self.measure {
            Measure::Accuracy => [0.75, 0.9, 0.95],
            Measure::Nmse => [0.5, 0.1, 0.05],
        };
        let reached = marks.iter().filter_map(|mark| Some(format!("{mark:.2} at batch {}", self.reaches(*mark)?)));
        let reached: Vec<String> = reached.collect();
        if !reached.is_empty() {
            write!(f, "; the mean of {WINDOW} first reached {}", reached.join(", "))?;
        }
        if let Some(seconds) = self.seconds() {
            write!(f, "; {seconds:.3} s per batch (median)")?;
        }
        if let Some(largest) = self.updates.iter().filter_map(|u| u.norm).reduce(f64::max) {
            write!(f, "; largest norm of the gradient {largest:.3e}")?;
        }
        match self.updates.iter().filter(|u| u.norm.is_none()).count() {
            0 => Ok(()),
            n => write!(f, "; {n} gradients were not finite and left out"),
        }
    }
}
