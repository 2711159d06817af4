//! Back-propagation through time.

use serde::{Deserialize, Serialize};

use super::{About, Rule, TracedOp};
use crate::learn::trace::TraceKind;

/// Exact gradients: the sequence is unrolled and differentiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bptt {}

impl Rule for Bptt {
    fn about(&self) -> About {
        About {
            equation: "G = dL/dw, all paths",
            source: "Werbos, Proceedings of the IEEE 78 (1990); surrogate slopes: Neftci, Mostafa and Zenke (2019)",
            memory: "everything that a derivative needs, of every step: grows with T",
            use_when: "when sequences are short, or as the judge of other rules",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        None
    }

    fn is_online(&self) -> bool {
        false
    }
}
