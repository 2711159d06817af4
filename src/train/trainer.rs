//! The training loop: batches in, updates on the device, reports and checkpoints out.
//!
//! A run is a pure function of (configuration, seed, kind of device): batches, initial parameters and initial states depend
//! on the seed and the position only. A checkpoint holds the position, so a resumed run repeats an uninterrupted one bit for
//! bit on a CPU.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use hlo::{DType, Shape, array::Array, pjrt::Buffer};
use serde::{Deserialize, Serialize};
use tasks::{Batch, Loader, LoaderSettings, Position, Split, Task};

use super::{
    checkpoint::{self, CheckpointError, Progress},
    evaluate::{Evaluation, evaluate},
    program::{self, EvalProgram, ProgramError, Spec, TrainProgram, TrainState, drawn_states},
    run::{RunDir, RunError},
    session::{Session, SessionError},
};

/// Set by Ctrl-C: training stops after the batch in hand and leaves a checkpoint.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All epochs are done.
    Finished,
    /// The accuracy asked for was reached.
    Reached,
    /// The evaluation stopped improving.
    Settled,
    /// Ctrl-C.
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
        "the loss must be finite, but it was {loss} at update {step}{saved}; lower --lr, or check the input scale \
         (--ff_scale, for shd --inp_scale) and the data; an update whose gradient is not finite is not made"
    )]
    LossNotFinite {
        /// Which update.
        step: u64,
        /// The loss.
        loss: f32,
        /// Where the parameters are.
        saved: String,
    },
    /// The gradient stays infinite.
    #[error(
        "the gradient was not finite for {PATIENCE} updates up to {step}{saved}; no update was made for them; \
         use an online method (--method d-rtrl), shorter sequences, or smaller weights"
    )]
    GradientNotFinite {
        /// Which update.
        step: u64,
        /// Where the parameters are.
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
    fn split(&self) -> Result<Option<Split>, TrainError> {
        let Some(name) = &self.settings.evaluate else { return Ok(None) };
        let known = Split::ALL.into_iter().find(|s| s.name() == name);
        let wrong = || TrainError::Setting(format!("the split to evaluate must be train, valid or test, got `{name}`"));
        Ok(Some(known.ok_or_else(wrong)?))
    }

    /// Trains. With `resume`, from the run's last checkpoint. `hear` is told of every event.
    ///
    /// # Errors
    /// When data, device or disk fail, or the loss is not finite; a checkpoint of the last good state is left.
    pub fn train(
        &mut self,
        program: &TrainProgram,
        resume: bool,
        mut hear: impl FnMut(&Event),
    ) -> Result<Outcome, TrainError> {
        let split = self.split()?;
        let eval = split.map(|_| EvalProgram::new(self.session, &self.spec)).transpose()?;
        let slots = self.spec.model.params.iter().filter(|p| p.trainable).count() * self.spec.optimizer.rule.slots();
        let (mut state, mut progress) = match (&mut self.run, resume) {
            (Some(run), true) => {
                let (state, progress) =
                    checkpoint::load(&run.file("last.safetensors"), self.session, &self.spec.model, slots)?;
                run.rewind(progress.step)?;
                (state, progress)
            }
            _ => {
                let rule = self.spec.optimizer.rule;
                (program::start(self.session, &self.spec.model, rule, self.settings.seed)?, Progress::default())
            }
        };
        let loader = self.loader(&progress)?;
        let epoch_steps = loader.epoch_steps();
        let mut evaluation = None;
        let mut bad = 0;
        let mut clock = Instant::now();
        let mut ending = Ending::Finished;
        let all = self.settings.batches.unwrap_or(u64::MAX);
        let left = usize::try_from(all.saturating_sub(progress.step)).unwrap_or(usize::MAX);
        for item in loader.take(left) {
            let (position, batch) = item?;
            let step = progress.step;
            let (inputs, target) = arrays(batch)?;
            let drawn = drawn_states(&self.spec.model, self.settings.seed, step);
            let lr = self.spec.optimizer.lr * self.spec.optimizer.schedule.factor(step);
            let (next, report) = program.step(self.session, state, lr as f32, &drawn, &inputs, &target)?;
            state = next;
            if !report.loss.is_finite() {
                let saved = self.save("last", &state, &progress)?;
                return Err(TrainError::LossNotFinite { step: step + 1, loss: report.loss, saved });
            }
            bad = if report.norm.is_finite() { 0 } else { bad + 1 };
            if bad >= PATIENCE {
                let saved = self.save("last", &state, &progress)?;
                return Err(TrainError::GradientNotFinite { step: step + 1, saved });
            }
            progress.step += 1;
            let last_of_epoch = epoch_steps.is_some_and(|n| position.step + 1 >= n);
            (progress.epoch, progress.epoch_step) =
                if last_of_epoch { (position.epoch + 1, 0) } else { (position.epoch, position.step + 1) };
            let accuracy = f64::from(report.accuracy);
            let smoothed = progress.smoothed.map_or(accuracy, |q| 0.8 * q + 0.2 * accuracy);
            progress.smoothed = Some(smoothed);
            self.tell(
                Event::Step {
                    step: progress.step,
                    epoch: position.epoch,
                    loss: report.loss,
                    accuracy: report.accuracy,
                    smoothed,
                    norm: report.norm.is_finite().then_some(report.norm),
                    l1: report.l1,
                    lr,
                    seconds: clock.elapsed().as_secs_f64(),
                },
                &mut hear,
            )?;
            clock = Instant::now();
            let mut selected = (eval.is_none()).then_some(smoothed);
            if let (true, Some(split), Some(eval)) = (last_of_epoch, split, &eval) {
                let found = self.evaluate(eval, &state.params, split)?;
                let (loss, accuracy, samples) = (found.loss, found.accuracy, found.answers.len());
                selected = Some(accuracy);
                let (split, rates) = (split.name().to_string(), found.rates.clone());
                evaluation = Some(found);
                self.tell(
                    Event::Evaluation {
                        step: progress.step,
                        epoch: progress.epoch,
                        split,
                        loss,
                        accuracy,
                        samples,
                        rates,
                    },
                    &mut hear,
                )?;
                clock = Instant::now();
            }
            if let Some(value) = selected.filter(|v| progress.best.is_none_or(|b| *v > b)) {
                progress.best = Some(value);
                progress.best_epoch = progress.epoch;
                self.save("best", &state, &progress)?;
            }
            let reached = progress.step >= SETTLED && self.settings.stop_at.is_some_and(|s| smoothed >= s);
            let interrupted = INTERRUPTED.load(Ordering::SeqCst);
            progress.epoch_accuracy += accuracy;
            let settled = last_of_epoch
                && self.settings.patience.is_some_and(|p| {
                    progress.epoch >= progress.best_epoch + p.epochs
                        && progress.epoch_accuracy / (position.step + 1) as f64 > p.trained
                });
            if last_of_epoch {
                progress.epoch_accuracy = 0.0;
            }
            if reached
                || settled
                || interrupted
                || last_of_epoch
                || progress.step % self.settings.checkpoint_every.max(1) == 0
            {
                self.save("last", &state, &progress)?;
            }
            if reached || settled || interrupted {
                ending = match (reached, settled) {
                    (true, _) => Ending::Reached,
                    (_, true) => Ending::Settled,
                    _ => Ending::Interrupted,
                };
                break;
            }
        }
        self.save("last", &state, &progress)?;
        Ok(Outcome { ending, progress, state, evaluation })
    }

    fn loader(&self, progress: &Progress) -> Result<Loader, TrainError> {
        let s = &self.settings;
        let settings = LoaderSettings {
            batch: s.batch,
            start: Position { epoch: progress.epoch, step: progress.epoch_step },
            epochs: s.epochs,
            threads: s.threads.max(1),
            ahead: 2,
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

    /// Writes a checkpoint, if the run is recorded; says where for messages.
    fn save(&self, name: &str, state: &TrainState, progress: &Progress) -> Result<String, TrainError> {
        let Some(run) = &self.run else { return Ok(String::new()) };
        let path: PathBuf = run.file(&format!("{name}.safetensors"));
        checkpoint::save(&path, &self.spec.model, state, progress)?;
        Ok(format!(" (saved in {})", path.display()))
    }

    /// How good `params` are on a split.
    ///
    /// # Errors
    /// When data or device fail.
    pub fn evaluate(&self, eval: &EvalProgram, params: &[Buffer], split: Split) -> Result<Evaluation, TrainError> {
        evaluate(self.session, eval, &self.task, params, split, self.settings.seed, self.settings.threads)
    }
}
