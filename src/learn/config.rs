//! How to learn: the settings of a learner.

use serde::{Deserialize, Serialize};

use super::{Method, Vjp, form::TraceSetting, signal::Ahead};

/// How to learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearnerConfig {
    /// Which rule.
    pub method: Method,
    /// How the gradient is formed from traces.
    pub vjp: Vjp,
    /// Steps per chunk; chosen from a memory budget when absent.
    pub chunk: Option<usize>,
    /// Steps at the start of a sequence that advance states and traces but carry no loss.
    pub warmup: usize,
    /// Correction of ES-D-RTRL as in releases before 0.2 of the reference library.
    pub old_correction: bool,
    /// In which form traces are kept.
    #[serde(default, skip_serializing_if = "is_auto")]
    pub trace: TraceSetting,
    /// Steps of the fixed-lag form, if not those that the tolerance needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<usize>,
    /// Bytes that the form may take, where it is chosen; as many as the dense traces, 3 GiB at most, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_budget: Option<u64>,
    /// How far signals look ahead.
    #[serde(default, skip_serializing_if = "is_step")]
    pub signal: Ahead,
    /// Steps between updates inside a sequence, counted from the first that carries loss; one update a sequence, if not given. A training
    /// program makes the updates, a gradient knows nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_every: Option<usize>,
    /// The largest share of a signal that a lag may cut off.
    #[serde(default = "tolerance", skip_serializing_if = "is_tolerance")]
    pub lag_tolerance: f64,
}

// What is standard is left out, so that older configurations are written as they were read.
fn is_auto(trace: &TraceSetting) -> bool {
    *trace == TraceSetting::Auto
}

fn is_step(signal: &Ahead) -> bool {
    *signal == Ahead::Step
}

fn is_tolerance(x: &f64) -> bool {
    *x == tolerance()
}

/// The standard tolerance of a lag: what `f32` cannot tell from zero in a sum.
fn tolerance() -> f64 {
    1e-6
}

impl Default for LearnerConfig {
    fn default() -> Self {
        LearnerConfig {
            method: Method::D_RTRL,
            vjp: Vjp::default(),
            chunk: None,
            warmup: 0,
            old_correction: false,
            trace: TraceSetting::Auto,
            lag: None,
            memory_budget: None,
            signal: Ahead::Step,
            update_every: None,
            lag_tolerance: tolerance(),
        }
    }
}

impl LearnerConfig {
    /// What evaluation needs of it: which steps count, and how many are computed together.
    pub fn without_learning(&self) -> LearnerConfig {
        let LearnerConfig { chunk, warmup, .. } = *self;
        LearnerConfig { method: Method::BPTT, chunk, warmup, ..LearnerConfig::default() }
    }

    /// The same settings for sequences of `steps`: where an update comes no earlier than the end, there are none inside.
    pub fn within(&self, steps: usize) -> LearnerConfig {
        let counted = steps.saturating_sub(self.warmup);
        LearnerConfig { update_every: self.update_every.filter(|&every| every < counted), ..self.clone() }
    }
}
