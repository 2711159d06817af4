//! An experiment: a task, a network, and how the network learns the task. It is what `config.toml` of a run holds, so that
//! any command can go on with a run of any other. [`presets`](crate::presets) are experiments with a name.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tasks::{
    Copying, DmsSettings, EvidenceSettings, GestureSet, GestureSettings, NMnistSettings, RandomSpikes, ShdSettings,
    Targets, Task, TaskSettings,
};
use toml::Value;

use crate::{
    cell::Mode,
    learn::{
        LearnError, LossKind, Objective,
        objective::{OfSum, Target},
        sequence::LearnerConfig,
    },
    settings::{self, Listed, SettingError, node::choices, range},
    table,
    train::{
        optimizer::Optimizer,
        program::Spec,
        replicas::Parts,
        run::{RunDir, RunError},
        score::Measure,
        settings::Settings,
    },
};

pub use crate::net::NetConfig;

/// The task of a run has no files.
#[derive(Debug, thiserror::Error)]
#[error("the trials of this task are made as they are needed, so it has no data folder; leave out --data")]
pub struct NoFiles;

table! {
    /// What is learned.
    pub enum TaskConfig: dyn TaskSettings, tag "name", a "task" {
        /// Delayed match-to-sample: were two stimuli with a delay in between the same?
        Dms(DmsSettings) = "dms" | "delayed-match-to-sample";
        /// Evidence accumulation: more cues on the left or on the right?
        Evidence(EvidenceSettings) = "evidence" | "ei";
        /// Copying: repeat symbols after a long silence, a class for each step of recall.
        Copying(Copying) = "copying";
        /// Pattern generation: draw a curve for each output, numbers for each step.
        Pattern(tasks::Pattern) = "pattern" | "pattern-generation";
        /// Random spikes with random labels, for measuring time and memory.
        Random(RandomSpikes) = "random";
        /// N-MNIST: digits before an event camera.
        Nmnist(NMnistSettings) = "nmnist";
        /// Spoken digits (SHD) or words (SSC).
        Speech(ShdSettings) = "speech" | "shd";
        /// DVS128 Gesture: recordings of gestures before an event camera.
        Gesture(GestureSettings) = "gesture";
        /// Synthetic gestures, drawn as they are needed.
        Made(GestureSet) = "made";
    }
}

impl TaskConfig {
    /// Takes the files from another folder; returns the one before.
    ///
    /// # Errors
    /// When the task is no data set.
    pub fn set_data(&mut self, dir: &Path) -> Result<PathBuf, NoFiles> {
        let (folder, _) = self.folders().ok_or(NoFiles)?;
        Ok(std::mem::replace(folder, dir.to_path_buf()))
    }

    /// Names folders by their place on the machine, so that a run can be resumed from another one.
    ///
    /// # Errors
    /// When there is no current folder.
    pub fn make_absolute(&mut self) -> std::io::Result<()> {
        if let Some((dir, cache)) = self.folders() {
            for path in std::iter::once(dir).chain(cache) {
                *path = std::path::absolute(&*path)?;
            }
        }
        Ok(())
    }
}

/// A network that cannot learn a task, for their shapes differ.
#[derive(Debug, thiserror::Error)]
#[error("network `{net}` and task `{task}` must fit each other, but they differ in {}", wrong.join("; "))]
pub struct Misfit {
    task: String,
    net: &'static str,
    wrong: Vec<String>,
}

/// Refuses what a configuration says and no type has read.
fn ignored(given: &Value, known: &Value) -> Result<(), SettingError> {
    match (given, known) {
        (Value::Table(given), Value::Table(known)) => given.iter().try_for_each(|(key, value)| match known.get(key) {
            Some(known) => ignored(value, known).map_err(|e| e.within(key)),
            None => {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                Err(SettingError::new(format!("has no setting `{key}`; {}", choices(key, &names))))
            }
        }),
        _ => Ok(()),
    }
}

/// Everything that decides a training run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Experiment {
    /// How long and with which seed.
    pub settings: Settings,
    /// How gradients are found.
    pub learner: LearnerConfig,
    /// What is done with them.
    pub optimizer: Optimizer,
    /// What is minimised.
    pub objective: Objective,
    /// What is learned.
    pub task: TaskConfig,
    /// What learns.
    pub net: NetConfig,
}

impl Experiment {
    /// Reads a configuration: the `config.toml` of a run, or one written by hand.
    ///
    /// # Errors
    /// When it is no TOML, or a setting is unknown, missing, of the wrong type or outside its range.
    pub fn read(text: &str) -> Result<Experiment, SettingError> {
        let table: toml::Table =
            text.parse().map_err(|e| SettingError::new(format!("the configuration is no TOML: {e}")))?;
        let found: Experiment = settings::read(Value::Table(table.clone()))?;
        let known = Value::try_from(&found).map_err(|e| SettingError::new(e.to_string()))?;
        ignored(&Value::Table(table), &known)?;
        found.check()?;
        Ok(found)
    }

    /// The configuration of a run.
    ///
    /// # Errors
    /// When it is missing or damaged, or settings contradict each other.
    pub fn of_run(dir: &Path) -> Result<Experiment, RunError> {
        let found: Experiment = RunDir::config(dir)?;
        let wrong = |e: SettingError| RunError::Format { path: dir.join("config.toml"), why: e.to_string() };
        found.net.check().map_err(|e| wrong(e.within("net")))?;
        Ok(found)
    }

    /// Checks the ranges of all settings, and that they do not contradict each other.
    ///
    /// # Errors
    /// When one is outside its range; the error names it.
    pub fn check(&self) -> Result<(), SettingError> {
        // What is stored must be readable again: reading checks the ranges of task and network.
        let stored = Value::try_from(self).map_err(|e| SettingError::new(e.to_string()))?;
        settings::read::<Experiment>(stored)?;
        // The target is that of the task, whatever is written here; but who says otherwise is told.
        let (said, task) = (self.objective.target, Target::from(self.task.targets()));
        if ![Target::CLASS, task].contains(&said) {
            return Err(SettingError::new(format!(
                "the target of a run is what its task says, {task:?}, got {said:?}; leave it at its default, or write the training loop in a \
                 program (docs/library.md)"
            )));
        }
        let (o, r) = (&self.optimizer, &self.objective.regularizer);
        let numbers = [
            ("settings.stop_at", self.settings.stop_at.unwrap_or(0.0), range::FRACTION),
            ("optimizer.lr", o.lr, range::POSITIVE),
            ("optimizer.eps", o.eps, range::POSITIVE),
            ("optimizer.clip", o.clip, range::NON_NEGATIVE),
            ("optimizer.weight_l1", o.weight_l1, range::NON_NEGATIVE),
            ("optimizer.weight_l2", o.weight_l2, range::NON_NEGATIVE),
            ("objective.regularizer.membrane", r.membrane, range::NON_NEGATIVE),
            ("objective.regularizer.low", r.low, range::FINITE),
            ("objective.regularizer.high", r.high, range::FINITE),
            ("objective.regularizer.spike", r.spike, range::NON_NEGATIVE),
            ("objective.regularizer.rate", r.rate, range::NON_NEGATIVE),
        ];
        let wrong = |path: &str, text: String| SettingError::new(format!("`{path}` {text}"));
        for (path, x, range) in numbers {
            range.check(x).map_err(|text| wrong(path, text))?;
        }
        let counts = [
            ("settings.batch", self.settings.batch as u64, range::SIZE),
            ("settings.epochs", self.settings.epochs.unwrap_or(1), range::PASSES),
            ("settings.batches", self.settings.batches.unwrap_or(1), range::PASSES),
            ("settings.threads", self.settings.threads as u64, range::THREADS),
            ("learner.warmup", self.learner.warmup as u64, range::SPAN),
            ("learner.chunk", self.learner.chunk.unwrap_or(1) as u64, range::STEPS),
            ("learner.update_every", self.learner.update_every.unwrap_or(1) as u64, range::STEPS),
        ];
        for (path, n, count) in counts {
            count.check(n).map_err(|text| wrong(path, text))?;
        }
        self.net.check().map_err(|e| e.within("net"))
    }

    /// Checks that the shapes of the task and those of the network agree, and that sequences and steps do.
    ///
    /// # Errors
    /// When they do not; the error says which, and what to set.
    pub fn fits(&self, task: &dyn Task) -> Result<(), Misfit> {
        let mut wrong: Vec<String> = Vec::new();
        let mut differ = |what: &str, task: String, net: String, set: String| {
            if task != net {
                wrong.push(format!("{what}: the task has {task}, the network {net} (set {set})"));
            }
        };
        let (pixels, graph) = (matches!(self.net, NetConfig::Gesture(_)), matches!(self.net, NetConfig::Nir(_)));
        let side = ((task.n_in() / 2) as f64).sqrt();
        let inputs = match pixels {
            true if side.fract() == 0.0 => format!("net.frame_size={side}"),
            true => "net to another network: this one sees frames of two polarities".into(),
            false => format!("net.n_in={}", task.n_in()),
        };
        differ("inputs", task.n_in().to_string(), self.net.n_in().to_string(), inputs);
        let outputs = task.n_out();
        let other = if graph { "task to another one".into() } else { format!("net.n_out={outputs}") };
        differ("outputs", outputs.to_string(), self.net.n_out().to_string(), other);
        if let Some(dt) = self.task.dt() {
            differ("length of a step", format!("{dt} ms"), format!("{} ms", self.net.dt()), format!("net.dt={dt}"));
        }
        let (steps, warmup) = (task.steps(), self.learner.warmup);
        if warmup >= steps {
            let usual = task.warmup();
            wrong.push(format!("warm-up: a step must be left that carries loss, got {warmup} of {steps} steps (set learner.warmup={usual})"));
        }
        wrong.extend(self.targets_misfit(task));
        if let Err(text) = range::STEPS.check(steps as u64) {
            wrong.push(format!("steps: a sequence {text} (shorten the task)"));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Misfit { task: task.name().into(), net: self.net.row().name, wrong })
        }
    }

    /// In what the loss does not fit the targets of the task.
    fn targets_misfit(&self, task: &dyn Task) -> Vec<String> {
        let (targets, warmup) = (self.task.targets(), self.learner.warmup);
        let mut wrong = Vec::new();
        if targets == Targets::Numbers && self.objective.loss == LossKind::CrossEntropy {
            wrong.push("loss: the targets are numbers, cross-entropy is for classes (set objective.loss=mse)".into());
        }
        if targets != Targets::Class && self.objective.of_sum != OfSum::Never {
            wrong.push(
                "loss: each step has a target, the loss is one of the summed output (set objective.of_sum=never)"
                    .into(),
            );
        }
        if targets != Targets::Class && warmup < task.warmup() {
            let first = task.warmup();
            wrong.push(format!(
                "warm-up: targets begin after {first} steps, the loss after {warmup} (set learner.warmup={first})"
            ));
        }
        wrong
    }

    /// What says how good a run is.
    pub fn measure(&self) -> Measure {
        Measure::of(self.task.targets().into())
    }

    /// What the training program of one device is made of, for sequences of `steps`.
    pub fn spec(&self, steps: usize) -> Spec {
        self.spec_with(steps, Parts::ONE, self.settings.batch)
    }

    /// What the training program is made of where so many devices share a batch.
    ///
    /// # Errors
    /// When the batch does not divide.
    pub fn spec_of(&self, steps: usize, parts: Parts) -> Result<Spec, LearnError> {
        Ok(self.spec_with(steps, parts, parts.of(self.settings.batch)?))
    }

    fn spec_with(&self, steps: usize, parts: Parts, batch: usize) -> Spec {
        let online = self.learner.method.is_online();
        let mode = if online { Mode::Online } else { Mode::Offline };
        Spec {
            model: self.net.trace(batch, mode),
            evaluation: self.net.trace(batch, Mode::Evaluation),
            objective: Objective { target: self.task.targets().into(), ..self.objective.clone() },
            learner: self.learner.clone(),
            optimizer: self.optimizer.clone(),
            steps,
            mean_over_time: !online && self.objective.of_sum != OfSum::Always,
            parts,
        }
    }
}
