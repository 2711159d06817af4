//! An experiment: a task, a network, and how the network learns the task. It is what `config.toml` of a run holds, so that
//! any command can take up a run of any other.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tasks::{
    Dms, DmsSettings, Evidence, EvidenceSettings, Gesture, GestureSet, GestureSettings, NMnist, NMnistSettings, Shd,
    ShdSettings, Task,
};

use crate::{
    cell::{Mode, Model},
    learn::{Objective, objective::OfSum, sequence::LearnerConfig},
    net::{ETraceNet, EiNet, GestureNet, GifNet, SpeechNet},
    train::{optimizer::Optimizer, program::Spec, trainer::Settings},
};

/// The task of a run has no files.
#[derive(Debug, thiserror::Error)]
#[error("the trials of this task are made as they are needed, so it has no data folder; leave out --data")]
pub struct NoFiles;

/// What is learned.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum TaskConfig {
    /// Delayed match-to-sample.
    Dms(DmsSettings),
    /// Evidence accumulation.
    Evidence(EvidenceSettings),
    /// N-MNIST recordings.
    Nmnist(NMnistSettings),
    /// Spoken digits or words.
    Speech(ShdSettings),
    /// DVS128 Gesture recordings.
    Gesture(GestureSettings),
    /// Gestures made to order.
    Made(GestureSet),
}

impl TaskConfig {
    /// The folder of the files, and that of what is kept of them; `None` if the task is no data set.
    fn folders(&mut self) -> Option<(&mut PathBuf, &mut Option<PathBuf>)> {
        match self {
            TaskConfig::Nmnist(settings) => Some((&mut settings.dir, &mut settings.cache)),
            TaskConfig::Gesture(settings) => Some((&mut settings.dir, &mut settings.cache)),
            TaskConfig::Speech(settings) => Some((&mut settings.dir, &mut settings.cache)),
            TaskConfig::Dms(_) | TaskConfig::Evidence(_) | TaskConfig::Made(_) => None,
        }
    }

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

    /// Checks the settings and finds the files.
    ///
    /// # Errors
    /// When a setting makes no sense or files are missing.
    pub fn open(&self) -> tasks::Result<Arc<dyn Task>> {
        Ok(match self {
            TaskConfig::Dms(settings) => Arc::new(Dms::new(settings.clone())?),
            TaskConfig::Evidence(settings) => Arc::new(Evidence::new(settings.clone())?),
            TaskConfig::Nmnist(settings) => Arc::new(NMnist::open(settings.clone())?),
            TaskConfig::Speech(settings) => Arc::new(Shd::open(settings.clone())?),
            TaskConfig::Gesture(settings) => Arc::new(Gesture::open(settings.clone())?),
            TaskConfig::Made(set) => Arc::new(set.clone().open()?),
        })
    }
}

/// What learns.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum NetConfig {
    /// Layers of LIF neurons.
    Etrace(ETraceNet),
    /// GIF neurons for delayed match-to-sample.
    Gif(GifNet),
    /// Excitatory and inhibitory GIF neurons for decisions.
    Ei(EiNet),
    /// Layers of neurons with learned time constants.
    Speech(SpeechNet),
    /// Convolutions and event-based GRU.
    Gesture(GestureNet),
}

impl NetConfig {
    /// Traces one step for `batch` sequences; networks without dropout and normalisation are the same in every mode.
    pub fn model(&self, batch: usize, mode: Mode) -> Model {
        match self {
            NetConfig::Etrace(net) => net.model(batch),
            NetConfig::Gif(net) => net.model(batch),
            NetConfig::Ei(net) => net.model(batch),
            NetConfig::Speech(net) => net.model(batch, mode),
            NetConfig::Gesture(net) => net.model(batch, mode),
        }
    }

    /// Step in ms, for pictures.
    pub fn dt(&self) -> f64 {
        match self {
            NetConfig::Etrace(net) => net.dt,
            NetConfig::Gif(net) => net.dt,
            NetConfig::Ei(net) => net.dt,
            NetConfig::Speech(net) => net.dt,
            NetConfig::Gesture(net) => net.dt,
        }
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
    /// What the training program is made of, for sequences of `steps`.
    pub fn spec(&self, steps: usize) -> Spec {
        let online = self.learner.method.is_online();
        let mode = if online { Mode::Online } else { Mode::Offline };
        Spec {
            model: self.net.model(self.settings.batch, mode),
            evaluation: self.net.model(self.settings.batch, Mode::Evaluation),
            objective: self.objective,
            learner: self.learner.clone(),
            optimizer: self.optimizer.clone(),
            steps,
            mean_over_time: !online && self.objective.of_sum != OfSum::Always,
        }
    }
}
