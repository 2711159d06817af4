//! What a person sees while training: one line per batch or epoch, and a progress bar.

use super::{bar::Bar, eval};
use crate::{
    experiment::Experiment,
    report::bytes,
    say,
    train::{optimizer::Optimizer, score::Score, session::Session, sweep, trainer::Event},
};

/// What a command prints while it trains.
#[derive(Clone, Copy)]
pub enum Lines {
    /// After each batch.
    Batches(fn(&BatchReport) -> String),
    /// After each pass over a data set.
    Epochs(fn(&EpochReport) -> String),
}

/// A batch in words and numbers.
pub struct BatchReport {
    /// Which batch, from 1: the `step` of its line in `metrics.jsonl`.
    pub number: u64,
    /// Mean loss per step.
    pub loss: f64,
    /// The term `weight_l1 * sum |w|`, which the loss leaves out.
    pub l1: f32,
    /// Share of right answers, or the normalised error.
    pub score: Score,
    /// Learning rate of the next batch.
    pub next_lr: f64,
    /// Seconds since the last batch.
    pub seconds: f64,
    /// Memory in use, GB.
    pub memory: f64,
}

/// A pass over a data set in numbers.
pub struct EpochReport<'a> {
    /// Which pass, from 1.
    pub epoch: u64,
    /// Learning rate of its last update.
    pub lr: f64,
    /// Mean training loss.
    pub training_loss: f64,
    /// Mean training score.
    pub training_score: f64,
    /// Mean seconds per batch.
    pub batch_seconds: f64,
    /// Seconds of the pass, evaluation not included.
    pub seconds: f64,
    /// The split evaluated.
    pub split: &'a str,
    /// Its mean loss.
    pub loss: f64,
    /// Its score.
    pub score: Score,
    /// Spikes (events) per neuron and step, mean over the layers that fire; 1 if none does.
    pub activity: f64,
    /// Whether this is the best score so far.
    pub best: bool,
    /// Memory in use, GB.
    pub memory: f64,
}

/// What a person sees while training.
pub struct Screen<'a> {
    /// Batches done, and how many there are.
    pub bar: Bar,
    session: &'a Session,
    optimizer: Optimizer,
    batch: f64,
    lines: Lines,
    /// (loss, score, seconds) of the batches of this epoch.
    epoch: Vec<(f64, f64, f64)>,
    /// Learning rate of the last update.
    lr: f64,
    best: Option<f64>,
    warned: Vec<String>,
}

impl<'a> Screen<'a> {
    /// Before the first event.
    pub fn new(session: &'a Session, experiment: &Experiment, lines: Lines, bar: Bar) -> Screen<'a> {
        let (optimizer, batch) = (experiment.optimizer.clone(), experiment.settings.batch as f64);
        let (lr, best) = (optimizer.lr, None);
        Screen { bar, session, optimizer, batch, lines, epoch: Vec::new(), lr, best, warned: Vec::new() }
    }

    /// Memory in use, where that is known.
    fn in_use(&self) -> String {
        match sweep::in_use(self.session) {
            0 => String::new(),
            n => format!(" {}", bytes(n)),
        }
    }

    fn gigabytes(&self) -> f64 {
        sweep::in_use(self.session) as f64 / (1u64 << 30) as f64
    }

    /// Shows an event.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Step { step, epoch, loss, score, smoothed, seconds, l1, lr, .. } => {
                self.lr = *lr;
                let (loss, measure, score) = (f64::from(*loss), score.measure(), score.value());
                self.epoch.push((loss, score, *seconds));
                if let Lines::Batches(line) = self.lines {
                    let report = BatchReport {
                        number: *step,
                        loss,
                        l1: *l1,
                        score: measure.score(score),
                        next_lr: self.optimizer.lr * self.optimizer.schedule.factor(*step),
                        seconds: *seconds,
                        memory: self.gigabytes(),
                    };
                    self.bar.suspend(|| say!("{}", line(&report)));
                }
                self.bar.message(format!(
                    "epoch {epoch} loss {loss:.4} {} {score:.3} smoothed {smoothed:.3} {:.0} samples/s{}",
                    measure.short(),
                    self.batch / seconds.max(1e-9),
                    self.in_use()
                ));
                self.bar.inc();
            }
            Event::Evaluation { epoch, split, loss, score, rates, .. } => {
                let n = self.epoch.len().max(1) as f64;
                let sum = |f: fn(&(f64, f64, f64)) -> f64| self.epoch.iter().map(f).sum::<f64>();
                let report = EpochReport {
                    epoch: *epoch,
                    lr: self.lr,
                    training_loss: sum(|r| r.0) / n,
                    training_score: sum(|r| r.1) / n,
                    batch_seconds: sum(|r| r.2) / n,
                    seconds: sum(|r| r.2),
                    split,
                    loss: *loss,
                    score: *score,
                    activity: match rates.len() {
                        0 => 1.0,
                        n => rates.iter().map(|(_, rate)| rate).sum::<f64>() / n as f64,
                    },
                    best: self.best.is_none_or(|best| score.measure().better(score.value(), best)),
                    memory: self.gigabytes(),
                };
                if report.best {
                    self.best = Some(score.value());
                }
                let line = if let Lines::Epochs(line) = self.lines { line } else { epoch_line };
                self.bar.suspend(|| say!("{}", line(&report)));
                for (layer, _) in rates.iter().filter(|(_, rate)| *rate == 0.0) {
                    if !self.warned.contains(layer) {
                        self.bar.suspend(|| say!("{}", eval::silent(layer)));
                        self.warned.push(layer.clone());
                    }
                }
                self.epoch.clear();
            }
        }
    }
}

/// The published lines of the memory-and-speed evaluation.
pub fn epoch_line(r: &EpochReport<'_>) -> String {
    let (epoch, split, short) = (r.epoch, r.split, r.score.measure().short());
    format!(
        "Epoch {epoch:4}, training loss = {:.8}, training {short} = {:.6}, time = {:.5} s, memory = {:.2} GB\n\
         Epoch {epoch:4}, {split} loss = {:.8}, {split} {short} = {:.6}",
        r.training_loss,
        r.training_score,
        r.batch_seconds,
        r.memory,
        r.loss,
        r.score.value()
    )
}
