//! What a run recorded, as curves and as figures.

use std::{fmt, path::Path};

use super::{
    run::{RunDir, RunError},
    score::Measure,
    trainer::Event,
};
#[cfg(feature = "plot")]
use crate::plot::{Axis, Figure, Panel, Panels, PlotError, Scale, Series, Unit};

/// How many batches are averaged where single ones are too noisy.
pub const WINDOW: usize = 20;

/// The look of evaluations.
#[cfg(feature = "plot")]
const EVALUATION: usize = 2;

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

    /// Mean score of [`WINDOW`] batches in a row, by the number of the last.
    pub fn smoothed(&self) -> Vec<(u64, f64)> {
        self.windows(WINDOW, |u| u.score, mean)
    }

    /// What `of` says of the values of `window` batches in a row, by the number of the last.
    fn windows(&self, window: usize, value: fn(&Update) -> f64, of: fn(&[f64]) -> f64) -> Vec<(u64, f64)> {
        let all = self.updates.windows(window.max(1));
        all.map(|w| (w[w.len() - 1].step, of(&w.iter().map(value).collect::<Vec<_>>()))).collect()
    }

    /// What is drawn through single batches, of `window` in a row: their mean or, on a logarithmic scale, their median.
    #[cfg(feature = "plot")]
    pub fn trend(&self, scale: Scale, window: usize, value: fn(&Update) -> f64) -> Vec<(u64, f64)> {
        self.windows(window, value, if scale == Scale::Linear { mean } else { median })
    }

    /// Mean score of the last [`WINDOW`] batches, or of all if there are fewer; `None` before the first.
    fn mean_of_last(&self) -> Option<f64> {
        self.windows(WINDOW.min(self.updates.len()), |u| u.score, mean).last().map(|(_, mean)| *mean)
    }

    /// How good the run is: the score of the last evaluation, else the mean of the last [`WINDOW`] batches; `None` before the first.
    pub fn score(&self) -> Option<f64> {
        let tested = self.evaluations.last().map(|e| e.score);
        tested.or_else(|| self.mean_of_last())
    }

    /// The batch at which the mean of [`WINDOW`] batches first reaches `score`.
    pub fn reaches(&self, score: f64) -> Option<u64> {
        let reached = |(_, mean): &(u64, f64)| self.measure.reaches(*mean, score);
        self.smoothed().into_iter().find(reached).map(|(step, _)| step)
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
        let line = |name: &str, points| Series::new(name, points).markers(false);
        let scale = score_scale(self.measure);
        let trend = self.trend(scale, WINDOW, |u| u.score);
        let mut score = vec![
            line("each batch", points(&|u| Some(u.score))),
            line(&trend_name(scale, WINDOW), trend.into_iter().map(|(s, a)| (s as f64, a)).collect()),
        ];
        if !self.evaluations.is_empty() {
            score.push(Series::new("evaluation", self.tested(|e| e.score)).style(EVALUATION));
        }
        let norm = Panel::traces(
            Axis::new("gradient norm before clipping").scale(Scale::Log10),
            [line("", points(&|u| u.norm.filter(|n| *n > 0.0)))],
        );
        let name = dir.file_name().map_or_else(String::new, |name| format!(" of {}", name.to_string_lossy()));
        let figure = Panels::new(format!("Training{name}"), Axis::new("batch").unit(Unit::Count));
        let losses = self.loss_panels(line("each batch", points(&|u| Some(u.loss))), is_of_sum_in_evaluation(dir));
        losses
            .into_iter()
            .fold(figure, Panels::panel)
            .panel(Panel::traces(score_axis(self.measure, self.measure.name()), score).height(160))
            .panel(norm.height(120))
            .save(dir.join("curve"))?;
        Ok(())
    }

    #[cfg(feature = "plot")]
    fn tested(&self, value: fn(&Evaluation) -> f64) -> impl Iterator<Item = (f64, f64)> {
        self.evaluations.iter().map(move |e| (e.step as f64, value(e)))
    }

    /// The losses of training and evaluation: in one panel, unless they are `apart`, two quantities.
    #[cfg(feature = "plot")]
    fn loss_panels(&self, training: Series, apart: bool) -> Vec<Panel> {
        let name = loss_name(self.measure);
        let of_training = self.updates.iter().map(|u| u.loss);
        let of_evaluation = || self.evaluations.iter().map(|e| e.loss);
        let tested = || Series::new("evaluation", self.tested(|e| e.loss)).style(EVALUATION);
        let panel = |label: String, scale, series| Panel::traces(Axis::new(label).scale(scale), series).height(160);
        if self.evaluations.is_empty() {
            return vec![panel(name.into(), loss_scale(of_training), vec![training])];
        }
        if apart {
            let scales = (loss_scale(of_training), loss_scale(of_evaluation()));
            let training = panel(format!("{name}, training"), scales.0, vec![training]);
            return vec![training, panel(format!("{name} of the sum, evaluation"), scales.1, vec![tested()])];
        }
        vec![panel(name.into(), loss_scale(of_training.chain(of_evaluation())), vec![training, tested()])]
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(feature = "plot")]
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { f64::NAN } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
}

/// What [`History::trend`] is, in words.
#[cfg(feature = "plot")]
pub fn trend_name(scale: Scale, window: usize) -> String {
    match (window, scale) {
        (..=1, _) => "each batch".into(),
        (_, Scale::Linear) => format!("mean of {window} batches"),
        _ => format!("median of {window} batches"),
    }
}

/// What the loss is where the score is this, with its unit.
#[cfg(feature = "plot")]
pub fn loss_name(measure: Measure) -> &'static str {
    match measure {
        Measure::Accuracy => "loss (nats)",
        Measure::Nmse => "loss (squared error)",
    }
}

/// How scores are drawn: errors span orders of magnitude.
#[cfg(feature = "plot")]
pub fn score_scale(measure: Measure) -> Scale {
    match measure {
        Measure::Accuracy => Scale::Linear,
        Measure::Nmse => Scale::Log10,
    }
}

/// Whether a run is trained with the losses of its steps and evaluated with that of the summed output.
#[cfg(feature = "plot")]
fn is_of_sum_in_evaluation(dir: &Path) -> bool {
    let config: Option<toml::Value> = RunDir::config(dir).ok();
    let of_sum = config.as_ref().and_then(|all| all.get("objective")?.get("of_sum")?.as_str());
    of_sum == Some("evaluation")
}

/// The axis of a measure, from 0 to 1 for an accuracy.
#[cfg(feature = "plot")]
pub fn score_axis(measure: Measure, label: &str) -> Axis {
    let axis = Axis::new(label).scale(score_scale(measure));
    if measure == Measure::Accuracy { axis.range(0.0, 1.0) } else { axis }
}

/// How losses are drawn: logarithmically where a few are so much larger than the others that these would lie on one line.
#[cfg(feature = "plot")]
pub fn loss_scale(losses: impl Iterator<Item = f64>) -> Scale {
    let mut all: Vec<f64> = losses.filter(|loss| loss.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    let far = |median: f64| all[0] > 0.0 && all[all.len() - 1] > 20.0 * median;
    if all.get(all.len() / 2).is_some_and(|median| far(*median)) { Scale::Log10 } else { Scale::Linear }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, name) = (self.updates.len(), self.measure.name());
        write!(f, "{n} batches")?;
        if let Some(mean) = self.mean_of_last() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn history(scores: &[f64]) -> History {
        let update = |(k, score): (usize, &f64)| Update {
            step: k as u64 + 1,
            loss: *score,
            score: *score,
            norm: None,
            seconds: 0.0,
        };
        History { updates: scores.iter().enumerate().map(update).collect(), ..History::default() }
    }

    #[test]
    fn a_mean_of_so_many_batches_begins_where_there_are_so_many() {
        let scores: Vec<f64> = (0..WINDOW + 2).map(|k| k as f64).collect();
        let (first, half) = (WINDOW as u64, (WINDOW as f64 - 1.0) / 2.0);
        assert_eq!(history(&scores).smoothed(), [(first, half), (first + 1, half + 1.0), (first + 2, half + 2.0)]);
        assert!(history(&scores[..WINDOW - 1]).smoothed().is_empty());
        assert_eq!((history(&scores[..3]).score(), history(&[]).score()), (Some(1.0), None));
    }

    #[cfg(feature = "plot")]
    #[test]
    fn losses_that_are_not_the_same_quantity_have_panels_of_their_own() {
        let mut all = history(&[1.0, 2.0]);
        let training = || Series::new("each batch", []);
        assert_eq!(all.loss_panels(training(), true).len(), 1, "nothing is evaluated");
        all.evaluations.push(Evaluation { step: 2, loss: 30.0, score: 0.5, rates: Vec::new() });
        assert_eq!([false, true].map(|apart| all.loss_panels(training(), apart).len()), [1, 2]);
    }

    #[cfg(feature = "plot")]
    #[test]
    fn one_large_error_does_not_lift_what_is_drawn_through_the_others() {
        let trend = |scale| history(&[1.0, 1000.0, 1.0, 3.0]).trend(scale, 4, |u| u.score);
        assert_eq!((trend(Scale::Log10), trend(Scale::Linear)), (vec![(4, 2.0)], vec![(4, 251.25)]));
    }
}
