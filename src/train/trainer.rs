//! The training loop: batches in, updates on the device, reports and checkpoints out.
//!
//! A run is a pure function of (configuration, seed, kind of device): batches, initial parameters and initial states depend
//! on the seed and the position only. A checkpoint holds the position, so a resumed run repeats an uninterrupted one bit for
//! bit on a CPU.

use std::{sync::Arc, time::Instant};

use hlo::{
    DType, Shape,
    array::Array,
    hosts::{HostsError, Lost},
};
use serde::{Deserialize, Serialize};
use tasks::{Batch, Loader, LoaderSettings, Position, Rows, Split, Task};

use super::{
    checkpoint::{self, CheckpointError, Name, Progress},
    evaluate::{Evaluation, evaluate},
    feed::{Feed, Supply},
    need::Need,
    program::{EvalProgram, ProgramError, Spec, StepReport, TrainProgram, TrainState, drawn_states},
    run::{RunDir, RunError},
    score::{Measure, Score},
    session::{Session, SessionError},
    settings::{Patience, Settings},
    stop,
    team::Team,
};

/// Batches made before they are needed.
pub const AHEAD: usize = 2;

/// Gradients that are not finite, one after another, before training gives up.
const PATIENCE: u64 = 20;

/// Batches after which the smoothed score means something.
pub const SETTLED: u64 = 10;

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
        /// Share of right answers in the batch, or its normalised error.
        #[serde(flatten)]
        score: Score<f32>,
        /// The score smoothed.
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
        /// Share of right answers, or the normalised error.
        #[serde(flatten)]
        score: Score,
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
    /// The accuracy (or error) asked for was reached.
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
    /// What was loaded.
    pub supply: Supply,
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
    /// Other processes of the run.
    #[error(transparent)]
    Hosts(HostsError),
    /// One of them is gone.
    #[error(
        "{0}; training needs all processes. The last checkpoint of the run is whole: start all of them again, with --resume and its folder"
    )]
    Lost(Lost),
    /// A setting does not fit the task.
    #[error("{0}")]
    Setting(String),
}

/// A batch as the program takes it.
pub fn arrays(batch: Batch) -> Result<(Array, Array), SessionError> {
    let (steps, rows) = (batch.steps, batch.batch);
    let shape = Shape::new(DType::U8, [steps, rows, batch.n_in]);
    let inputs = Array::from_bytes(shape, batch.inputs).map_err(hlo::pjrt::Error::from)?;
    let target = if !batch.numbers.is_empty() {
        let outputs = batch.numbers.len() / (steps * rows).max(1);
        Array::f32(batch.numbers, [steps, rows, outputs])
    } else if batch.targets.len() == rows {
        Array::s32(batch.targets, [rows])
    } else {
        Array::s32(batch.targets, [steps, rows])
    };
    Ok((inputs, target.map_err(hlo::pjrt::Error::from)?))
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
    /// The processes that train it together, if there are others.
    pub team: Option<Team>,
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
        let mut feed = Feed::new(loader.take(left));
        for item in &mut feed {
            let (position, batch) = item?;
            if let Some(team) = &self.team {
                team.before()?;
            }
            let report;
            (state, report) = self.step(&programs.train, state, &progress, batch)?;
            bad = if report.norm.is_finite() { 0 } else { bad + 1 };
            self.judge(&report, bad, &state, &progress)?;
            let end = epoch_steps.is_some_and(|n| position.step + 1 >= n);
            progress.advance(position, end, f64::from(report.score));
            self.tell(self.step_event(&report, position, &progress, clock.elapsed().as_secs_f64()), &mut hear)?;
            clock = Instant::now();
            let mut selected = progress.smoothed.filter(|_| programs.eval.is_none());
            if let Some((split, eval)) = programs.eval.as_ref().filter(|_| end) {
                let (score, found) = self.judged(eval, &state, *split, &progress, &mut hear)?;
                (selected, evaluation) = (Some(score), found);
                clock = Instant::now();
            }
            let better = selected.filter(|v| progress.best.is_none_or(|b| self.measure().better(*v, b)));
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
            let asked = self.team.as_ref().map_or(Ok(stop::requested()), Team::after)?;
            ending = progress.ending.or(asked.map(|_| Ending::Interrupted));
            if ending.is_some() || end || progress.step.is_multiple_of(self.settings.checkpoint_every.max(1)) {
                self.save(Name::Last, &state, &progress)?;
            }
            if ending.is_some() {
                break;
            }
        }
        let (ending, supply) = (ending.unwrap_or(Ending::Finished), feed.supply());
        Ok(Outcome { ending, progress, state, evaluation, supply })
    }

    /// The score on a split. Of several processes the leader evaluates and tells the others.
    fn judged(
        &mut self,
        eval: &EvalProgram,
        state: &TrainState,
        split: Split,
        progress: &Progress,
        hear: &mut impl FnMut(&Event),
    ) -> Result<(f64, Option<Evaluation>), TrainError> {
        if let Some(team) = self.team.as_ref().filter(|team| !team.leads()) {
            let Event::Evaluation { score, .. } = team.hear(progress.step)? else {
                return Err(TrainError::Setting("the leader told of something that is no evaluation".into()));
            };
            return Ok((score.value(), None));
        }
        let found = self.evaluate(eval, state, split)?;
        let event = evaluation_event(&found, split, progress);
        if let Some(team) = &self.team {
            team.tell(&event, progress.step)?;
        }
        self.tell(event, hear)?;
        Ok((found.score.value(), Some(found)))
    }

    /// One update.
    fn step(
        &self,
        program: &TrainProgram,
        state: TrainState,
        progress: &Progress,
        batch: Batch,
    ) -> Result<(TrainState, StepReport), TrainError> {
        if !batch.numbers.is_empty() && batch.real < batch.batch {
            return Err(TrainError::Setting(format!(
                "a batch whose targets are numbers must be full, for no number marks a row as padding, got {} sequences in {} rows; leave \
                 out the last batch of an epoch",
                batch.real, batch.batch
            )));
        }
        let (inputs, target) = arrays(batch)?;
        let Spec { model, parts, .. } = &self.spec;
        let drawn = drawn_states(model, *parts, self.settings.seed, progress.step);
        let lr = self.rate(progress.step) as f32;
        Ok(program.step(self.session, state, lr, &drawn, &inputs, &target)?)
    }

    fn measure(&self) -> Measure {
        Measure::of(self.spec.objective.target)
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
            score: self.measure().score(report.score),
            smoothed: progress.smoothed.unwrap_or_default(),
            norm: report.norm.is_finite().then_some(report.norm),
            l1: report.l1,
            lr: self.rate(progress.step - 1),
            seconds,
        }
    }

    /// Why training ends here, if it does; `batches` are those of the epoch that ends.
    fn ending(&self, progress: &Progress, batches: Option<u64>) -> Option<Ending> {
        let (measure, smoothed) = (self.measure(), progress.smoothed.unwrap_or_default());
        if progress.step >= SETTLED && self.settings.stop_at.is_some_and(|s| measure.reaches(smoothed, s)) {
            return Some(Ending::Reached);
        }
        let settled = |p: Patience, batches: u64| {
            progress.epoch >= progress.best_epoch + p.epochs
                && measure.better(progress.epoch_accuracy / batches as f64, p.trained)
        };
        if batches.zip(self.settings.patience).is_some_and(|(n, p)| settled(p, n)) {
            return Some(Ending::Settled);
        }
        self.settings.done(progress).then_some(Ending::Finished)
    }

    /// The rows of each batch that the devices of this process take; nothing if all.
    fn rows(&self) -> Option<Rows> {
        let (here, Spec { model, parts, .. }) = (self.session.here(), &self.spec);
        let own = Rows { first: here.start * model.batch(), count: here.len() * model.batch() };
        (here.len() < parts.0).then_some(own)
    }

    fn loader(&self, progress: &Progress) -> Result<Loader, TrainError> {
        let s = &self.settings;
        let settings = LoaderSettings {
            batch: s.batch,
            rows: self.rows(),
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
        evaluate(eval, &self.task, state, split, (self.settings.seed, None), self.settings.threads, &mut || {})
    }
}

fn evaluation_event(found: &Evaluation, split: Split, progress: &Progress) -> Event {
    Event::Evaluation {
        step: progress.step,
        epoch: progress.epoch,
        split: split.name().to_string(),
        loss: found.loss,
        score: found.score,
        samples: found.samples,
        rates: found.rates.clone(),
    }
}
