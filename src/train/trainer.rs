//! The training loop: batches in, updates on the device, reports and checkpoints out.
//!
//! A run is a pure function of (configuration, seed, kind of device): batches, initial parameters and initial states depend
//! on the seed and the position only. A checkpoint holds the position, so a resumed run repeats an uninterrupted one bit for
//! bit on a CPU.

use std::{sync::Arc, time::Instant};

use hlo::{DType, Shape, array::Array};
use serde::{Deserialize, Serialize};
use tasks::{Batch, Loader, LoaderSettings, Position, Split, Task};

use super::{
    checkpoint::{self, CheckpointError, Name, Progress},
    evaluate::{Evaluation, evaluate},
    need::Need,
    program::{EvalProgram, ProgramError, Spec, StepReport, TrainProgram, TrainState, drawn_states},
    run::{RunDir, RunError},
    session::{Session, SessionError},
    stop,
};

/// Threads that may make batches: more wait for each other, and the system runs out of them.
pub const MOST_THREADS: usize = 256;

/// Batches made before they are needed.
pub const AHEAD: usize = 2;

/// Gradients that are not finite, one after another, before training gives up.
const PATIENCE: u64 = 20;

/// Batches after which the smoothed accuracy means something.
pub const SETTLED: u64 = 10;

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
    /// Stop when the smoothed accuracy (factor 0.8) reaches this, from batch [`SETTLED`] on: the published scripts start the
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

    fn split(&self) -> Result<Option<Split>, TrainError> {
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
    /// They count only while the training accuracy of the epoch is above this.
    pub trained: f64,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An update.
    Step {
        /// Updates so far, this one included.
        step: u64,
        /// Pass over the data.
        epoch: u64,
        /// Mean loss per step.
        loss: f32,
        /// Share of right answers in the batch.
        accuracy: f32,
        /// Smoothed accuracy.
        smoothed: f64,
        /// Norm of the gradient before clipping; `null` when it is not finite and the update was left out.
        norm: Option<f32>,
        /// The term `weight_l1 * sum |w|`, which the loss leaves out.
        l1: f32,
        /// Learning rate of the update.
        lr: f64,
        /// Seconds since the last report.
        seconds: f64,
    },
    /// An evaluation.
    Evaluation {
        /// Updates so far.
        step: u64,
        /// Passes completed.
        epoch: u64,
        /// Which split.
        split: String,
        /// Mean loss per step.
        loss: f64,
        /// Share of right answers.
        accuracy: f64,
        /// How many sequences.
        samples: usize,
        /// Layers that fire: name, spikes per neuron and step.
        #[serde(default)]
        rates: Vec<(String, f64)>,
    },
}

/// Why training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// All epochs are done.
    Finished,
    /// The accuracy asked for was reached.
    Reached,
    /// The evaluation stopped improving.
    Settled,
    /// A signal asked to stop.
    Interrupted,
}

/// A finished run.
pub struct Outcome {
    /// Why it ended.
    pub ending: Ending,
    /// Where it stands.
    pub progress: Progress,
    /// The trained values.
    pub state: TrainState,
    /// The last evaluation.
    pub evaluation: Option<Evaluation>,
}

/// Training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The loss is not a number.
    #[error(
        "the loss must be finite, but it was {loss} at update {step}; lower --lr (in `etrace train` optimizer.lr), or check the input \
         scale (--ff_scale, for shd --inp_scale, in `etrace train` net.ff_scale) and the data{saved}"
    )]
    LossNotFinite {
        /// Which update.
        step: u64,
        /// The loss.
        loss: f32,
        /// What became of the parameters.
        saved: String,
    },
    /// The gradient stays infinite.
    #[error(
        "the gradient was not finite for {PATIENCE} updates up to {step}, and no update was made for them; \
         use an online method (--method d-rtrl), shorter sequences, or smaller weights{saved}"
    )]
    GradientNotFinite {
        /// Which update.
        step: u64,
        /// What became of the parameters.
        saved: String,
    },
    /// Data.
    #[error(transparent)]
    Data(#[from] tasks::Error),
    /// Programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Device.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Run directory.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A setting does not fit the task.
    #[error("{0}")]
    Setting(String),
}

/// A batch as the program takes it.
pub fn arrays(batch: Batch) -> Result<(Array, Array), SessionError> {
    let shape = Shape::new(DType::U8, [batch.steps, batch.batch, batch.n_in]);
    let inputs = Array::from_bytes(shape, batch.inputs).map_err(hlo::pjrt::Error::from)?;
    let target = Array::s32(batch.targets, [batch.batch]).map_err(hlo::pjrt::Error::from)?;
    Ok((inputs, target))
}

/// The compiled programs of a run.
pub struct Programs {
    /// One update.
    pub train: TrainProgram,
    /// With the split that is evaluated after each epoch.
    eval: Option<(Split, EvalProgram)>,
}

impl Programs {
    /// Compiles what a run needs.
    ///
    /// # Errors
    /// When a setting makes no sense or a program does not compile.
    pub fn new(session: &Session, spec: &Spec, settings: &Settings) -> Result<Programs, TrainError> {
        settings.check()?;
        let train = TrainProgram::new(session, spec)?;
        let eval = match settings.split()? {
            Some(split) => Some((split, EvalProgram::new(session, spec)?)),
            None => None,
        };
        Ok(Programs { train, eval })
    }

    /// Memory that a run with these programs needs.
    ///
    /// # Errors
    /// As [`Need::new`].
    pub fn need(
        &self,
        session: &Session,
        spec: &Spec,
        settings: &Settings,
        task: &dyn Task,
    ) -> Result<Need, TrainError> {
        Need::new(session, spec, settings, task, &self.train, self.eval.as_ref().map(|(_, eval)| eval))
    }
}

/// Everything a run is made of.
pub struct Trainer<'a> {
    /// The device.
    pub session: &'a Session,
    /// What is trained.
    pub spec: Spec,
    /// On what.
    pub task: Arc<dyn Task>,
    /// How long.
    pub settings: Settings,
    /// Where it is recorded; nowhere if absent.
    pub run: Option<RunDir>,
}

impl Trainer<'_> {
    /// Trains on from `start`: values and position, fresh or from a checkpoint. `hear` is told of every event.
    ///
    /// # Errors
    /// When data, device or disk fail, or the loss is not finite; the first error is returned.
    pub fn train(
        &mut self,
        programs: &Programs,
        (mut state, mut progress): (TrainState, Progress),
        mut hear: impl FnMut(&Event),
    ) -> Result<Outcome, TrainError> {
        // A run that was lengthened goes on.
        progress.ending = None;
        let loader = self.loader(&progress)?;
        let epoch_steps = loader.epoch_steps();
        let all = self.settings.batches.unwrap_or(u64::MAX);
        let left = usize::try_from(all.saturating_sub(progress.step)).unwrap_or(usize::MAX);
        let (mut evaluation, mut bad, mut ending) = (None, 0, None);
        let mut clock = Instant::now();
        for item in loader.take(left) {
            let (position, batch) = item?;
            let report;
            (state, report) = self.step(&programs.train, state, &progress, batch)?;
            bad = if report.norm.is_finite() { 0 } else { bad + 1 };
            self.judge(&report, bad, &state, &progress)?;
            let end = epoch_steps.is_some_and(|n| position.step + 1 >= n);
            progress.advance(position, end, f64::from(report.accuracy));
            self.tell(self.step_event(&report, position, &progress, clock.elapsed().as_secs_f64()), &mut hear)?;
            clock = Instant::now();
            let mut selected = progress.smoothed.filter(|_| programs.eval.is_none());
            if let Some((split, eval)) = programs.eval.as_ref().filter(|_| end) {
                let found = self.evaluate(eval, &state, *split)?;
                selected = Some(found.accuracy);
                self.tell(evaluation_event(&found, *split, &progress), &mut hear)?;
                evaluation = Some(found);
                clock = Instant::now();
            }
            let better = selected.filter(|v| progress.best.is_none_or(|b| *v > b));
            if better.is_some() {
                (progress.best, progress.best_epoch) = (better, progress.epoch);
            }
            let end_of_run = self.ending(&progress, end.then_some(position.step + 1));
            if end {
                progress.epoch_accuracy = 0.0;
            }
            if better.is_some() {
                self.save(Name::Best, &state, &progress)?;
            }
            progress.ending = end_of_run;
            ending = progress.ending.or(stop::requested().map(|_| Ending::Interrupted));
            if ending.is_some() || end || progress.step.is_multiple_of(self.settings.checkpoint_every.max(1)) {
                self.save(Name::Last, &state, &progress)?;
            }
            if ending.is_some() {
                break;
            }
        }
        Ok(Outcome { ending: ending.unwrap_or(Ending::Finished), progress, state, evaluation })
    }

    /// One update.
    fn step(
        &self,
        program: &TrainProgram,
        state: TrainState,
        progress: &Progress,
        batch: Batch,
    ) -> Result<(TrainState, StepReport), TrainError> {
        let (inputs, target) = arrays(batch)?;
        let Spec { model, parts, .. } = &self.spec;
        let drawn = drawn_states(model, *parts, self.settings.seed, progress.step);
        let lr = self.rate(progress.step) as f32;
        Ok(program.step(self.session, state, lr, &drawn, &inputs, &target)?)
    }

    /// Learning rate of update number `step`, from 0.
    fn rate(&self, step: u64) -> f64 {
        self.spec.optimizer.lr * self.spec.optimizer.schedule.factor(step)
    }

    /// Gives up where the loss is not finite, or the gradient was not for too long.
    fn judge(&self, report: &StepReport, bad: u64, state: &TrainState, progress: &Progress) -> Result<(), TrainError> {
        let step = progress.step + 1;
        if !report.loss.is_finite() {
            // With a gradient that is not finite either, the update was left out: `state` is that from before it.
            let unchanged = !report.norm.is_finite() && self.one_update();
            let saved = self.rescue(unchanged, state, progress);
            return Err(TrainError::LossNotFinite { step, loss: report.loss, saved });
        }
        if bad >= PATIENCE {
            return Err(TrainError::GradientNotFinite { step, saved: self.rescue(self.one_update(), state, progress) });
        }
        Ok(())
    }

    /// Whether a batch makes one update, so that one left out leaves the parameters as they were before the batch.
    fn one_update(&self) -> bool {
        self.spec.learner.within(self.spec.steps).update_every.is_none()
    }

    /// Saves the state that a failure left, if it is `good`; says what is saved, for the error.
    fn rescue(&self, good: bool, state: &TrainState, progress: &Progress) -> String {
        let Some(run) = &self.run else { return String::new() };
        let path = Name::Last.file(run.path());
        // The failure that led here is the one to report.
        if good && self.save(Name::Last, state, progress).is_ok() {
            format!("; {} holds the parameters from before that update", path.display())
        } else {
            format!("; {} is left as it was, with an earlier update", path.display())
        }
    }

    fn step_event(&self, report: &StepReport, position: Position, progress: &Progress, seconds: f64) -> Event {
        Event::Step {
            step: progress.step,
            epoch: position.epoch,
            loss: report.loss,
            accuracy: report.accuracy,
            smoothed: progress.smoothed.unwrap_or_default(),
            norm: report.norm.is_finite().then_some(report.norm),
            l1: report.l1,
            lr: self.rate(progress.step - 1),
            seconds,
        }
    }

    /// Why training ends here, if it does; `batches` are those of the epoch that ends.
    fn ending(&self, progress: &Progress, batches: Option<u64>) -> Option<Ending> {
        let smoothed = progress.smoothed.unwrap_or_default();
        if progress.step >= SETTLED && self.settings.stop_at.is_some_and(|s| smoothed >= s) {
            return Some(Ending::Reached);
        }
        let settled = |p: Patience, batches: u64| {
            progress.epoch >= progress.best_epoch + p.epochs && progress.epoch_accuracy / batches as f64 > p.trained
        };
        if batches.zip(self.settings.patience).is_some_and(|(n, p)| settled(p, n)) {
            return Some(Ending::Settled);
        }
        self.settings.done(progress).then_some(Ending::Finished)
    }

    fn loader(&self, progress: &Progress) -> Result<Loader, TrainError> {
        let s = &self.settings;
        let settings = LoaderSettings {
            batch: s.batch,
            start: Position { epoch: progress.epoch, step: progress.epoch_step },
            epochs: s.epochs,
            threads: s.threads.max(1),
            ahead: AHEAD,
            ..LoaderSettings::new(Split::Train, s.seed)
        };
        Ok(Loader::new(self.task.clone(), settings)?)
    }

    fn tell(&mut self, event: Event, hear: &mut impl FnMut(&Event)) -> Result<(), TrainError> {
        if let Some(run) = &mut self.run {
            run.record(&event)?;
        }
        hear(&event);
        Ok(())
    }

    /// Writes a checkpoint, if the run is recorded.
    fn save(&self, name: Name, state: &TrainState, progress: &Progress) -> Result<(), TrainError> {
        let Some(run) = &self.run else { return Ok(()) };
        // The metrics must not fall behind the checkpoint, even if the machine stops.
        run.sync()?;
        Ok(checkpoint::save(run.path(), name, &self.spec.model, state, progress)?)
    }

    /// How good the parameters of `state` are on a split.
    ///
    /// # Errors
    /// When data or device fail.
    pub fn evaluate(&self, eval: &EvalProgram, state: &TrainState, split: Split) -> Result<Evaluation, TrainError> {
        evaluate(self.session, eval, &self.task, state, split, self.settings.seed, self.settings.threads)
    }
}

fn evaluation_event(found: &Evaluation, split: Split, progress: &Progress) -> Event {
    Event::Evaluation {
        step: progress.step,
        epoch: progress.epoch,
        split: split.name().to_string(),
        loss: found.loss,
        accuracy: found.accuracy,
        samples: found.answers.len(),
        rates: found.rates.clone(),
    }
}
