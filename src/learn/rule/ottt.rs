//! OTTT: online training through time.

use serde::{Deserialize, Serialize};

use super::{About, Rule, TracedOp, check_factor};
use crate::learn::{LearnError, trace::TraceKind};

/// A leaky trace of the input beside the present slope of the output.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ottt {
    /// What is left of the trace of the input after a step, in [0, 1): the leak of the membrane.
    pub leak: f64,
}

impl Default for Ottt {
    fn default() -> Self {
        Ottt { leak: 0.5 }
    }
}

impl Rule for Ottt {
    fn about(&self) -> About {
        About {
            equation: "a_t = leak a_{t-1} + x_t,  G = sum_t a_t (x) (L_t . f_t)",
            source: "Xiao et al., Advances in Neural Information Processing Systems 35 (2022), there OTTT_A",
            memory: "B I per weight matrix",
            use_when: "when feed-forward layers of leaky neurons with one time constant are wide: d-rtrl without the memory, but for the reset",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Factorised)
    }

    fn input_decay(&self) -> f64 {
        self.leak
    }

    fn check(&self) -> Result<(), LearnError> {
        check_factor("the leak", self.leak, "exp(-dt / tau) of the membrane is usual")
    }
}
