//! Traces without memory.

use serde::{Deserialize, Serialize};

use super::{About, Recursion, Rule, TracedOp};
use crate::learn::trace::TraceKind;

/// D-RTRL whose transition is zero: a trace is what its step adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoTransition {}

impl Rule for NoTransition {
    fn about(&self) -> About {
        About {
            equation: "e_t = x_t (x) f_t,  G = sum_t L_t . e_t",
            source: "an ablation of d-rtrl: Wang et al., Nature Communications (2026)",
            memory: "one step of the layer's values; B I N per weight matrix and state in the dense form",
            use_when: "to see what the transition is worth: unlike immediate it keeps the step before for what reads old states",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    fn recursion(&self) -> Recursion {
        Recursion::Leak(0.0)
    }
}
