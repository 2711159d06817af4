//! An experiment: a task, a network, and how the network learns the task. It is what `config.toml` of a run holds, so that
//! any command can take up a run of any other.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use tasks::{
    Dms, DmsSettings, Evidence, EvidenceSettings, Gesture, GestureSettings, NMnist, NMnistSettings, Task,
    gesture::Framing,
};

use crate::{
    cell::Model,
    learn::{Method, Objective, sequence::LearnerConfig},
    net::{ETraceNet, EiNet, GifNet},
    train::{optimizer::Optimizer, program::Spec, trainer::Settings},
};

/// What is learned.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum TaskConfig {
    /// Delayed match-to-sample.
    Dms(DmsSettings),
    /// Evidence accumulation.
    Evidence(EvidenceSettings),
    /// N-MNIST recordings.
    Nmnist {
        /// Where they are.
        data: PathBuf,
        /// Time bins.
        steps: usize,
    },
    /// DVS128 Gesture recordings.
    Gesture {
        /// Where they are.
        data: PathBuf,
        /// Time bins.
        steps: usize,
    },
}

impl TaskConfig {
    /// Checks the settings and finds the files.
    ///
    /// # Errors
    /// When a setting makes no sense or files are missing.
    pub fn open(&self) -> tasks::Result<Arc<dyn Task>> {
        Ok(match self {
            TaskConfig::Dms(settings) => Arc::new(Dms::new(settings.clone())?),
            TaskConfig::Evidence(settings) => Arc::new(Evidence::new(settings.clone())?),
            TaskConfig::Nmnist { data, steps } => {
                Arc::new(NMnist::open(NMnistSettings { steps: *steps, ..NMnistSettings::new(data) })?)
            }
            TaskConfig::Gesture { data, steps } => Arc::new(Gesture::open(GestureSettings {
                framing: Framing::Bins(*steps),
                ..GestureSettings::new(data)
            })?),
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
}

impl NetConfig {
    /// Traces one step for `batch` sequences.
    pub fn model(&self, batch: usize) -> Model {
        match self {
            NetConfig::Etrace(net) => net.model(batch),
            NetConfig::Gif(net) => net.model(batch),
            NetConfig::Ei(net) => net.model(batch),
        }
    }

    /// Step in ms.
    pub fn dt(&self) -> f64 {
        match self {
            NetConfig::Etrace(net) => net.dt,
            NetConfig::Gif(net) => net.dt,
            NetConfig::Ei(net) => net.dt,
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
        Spec {
            model: self.net.model(self.settings.batch),
            objective: self.objective,
            learner: self.learner.clone(),
            optimizer: self.optimizer.clone(),
            steps,
            mean_over_time: self.learner.method == Method::Bptt,
        }
    }
}
