//! ES-D-RTRL: an input and an output trace, exponentially smoothed.

use serde::{Deserialize, Serialize};

use super::{About, Rule, TracedOp, check_decay};
use crate::learn::{LearnError, trace::TraceKind};

/// D-RTRL with its trace taken apart into the product of two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EsDRtrl {
    /// Smoothing factor of both parts, in [0, 1).
    pub decay: f64,
    /// Another factor for the input part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_decay: Option<f64>,
    /// Another factor for the output part; the correction follows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_decay: Option<f64>,
}

impl Default for EsDRtrl {
    fn default() -> Self {
        EsDRtrl { decay: 0.9, input_decay: None, output_decay: None }
    }
}

impl Rule for EsDRtrl {
    fn about(&self) -> About {
        About {
            equation: "ex_t = a ex_{t-1} + x_t,  ef_t = a D_t ef_{t-1} + (1-a) f_t,  G = sum_t ex_t (x) (L_t . ef_t) / (1 - a^t)",
            source: "Wang et al., Nature Communications (2026)",
            memory: "B (I + N) per weight matrix and state",
            use_when: "when memory is scarce and the layers are wide; biased in time, see docs/limitations.md",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Factorised)
    }

    fn decay(&self) -> f64 {
        self.output_decay.unwrap_or(self.decay)
    }

    fn input_decay(&self) -> f64 {
        self.input_decay.unwrap_or(self.decay)
    }

    fn set_decay(&mut self, decay: f64) {
        self.decay = decay;
    }

    fn check(&self) -> Result<(), LearnError> {
        [Some(self.decay), self.input_decay, self.output_decay].into_iter().flatten().try_for_each(check_decay)
    }
}
