//! Traces that decay with one number.

use serde::{Deserialize, Serialize};

use super::{About, Recursion, Rule, TracedOp, check_factor};
use crate::learn::{LearnError, trace::TraceKind};

/// D-RTRL with one number in place of the transition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScalarLeak {
    /// What is left of a trace after a step, in [0, 1).
    pub leak: f64,
}

impl Default for ScalarLeak {
    fn default() -> Self {
        ScalarLeak { leak: 0.9 }
    }
}

impl Rule for ScalarLeak {
    fn about(&self) -> About {
        About {
            equation: "e_t = a e_{t-1} + x_t (x) f_t,  G = sum_t L_t . e_t",
            source: "the trace of RFLO learning: Murray, eLife 8 (2019); SuperSpike has two such filters in a row: Zenke and Ganguli, Neural \
                     Computation 30 (2018)",
            memory: "as d-rtrl",
            use_when: "when a trace may know the time constant of its neuron and nothing of its state",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    fn recursion(&self) -> Recursion {
        Recursion::Leak(self.leak)
    }

    fn check(&self) -> Result<(), LearnError> {
        check_factor("the leak", self.leak, "exp(-dt / tau) of the membrane is usual")
    }
}
