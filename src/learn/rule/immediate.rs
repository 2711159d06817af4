//! No trace at all.

use serde::{Deserialize, Serialize};

use super::{About, Rule, TracedOp};
use crate::learn::trace::TraceKind;

/// The gradient of each step by itself, with the states before it held fixed: what learning without any memory can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Immediate {}

impl Rule for Immediate {
    fn about(&self) -> About {
        About {
            equation: "G = sum_t dL_t/dw with h_{t-1} held fixed",
            source: "back-propagation truncated to one step: Williams and Peng, Neural Computation 2 (1990)",
            memory: "nothing",
            use_when: "as the floor of a comparison: what a rule gains over it, its traces have learned",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        None
    }
}
