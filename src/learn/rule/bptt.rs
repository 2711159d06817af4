//! Back-propagation through time.

use serde::{Deserialize, Serialize};

use super::{About, Rule, TracedOp};
use crate::learn::trace::TraceKind;

/// Exact gradients: the sequence is unrolled and differentiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bptt {
    /// Which states are kept on the way forward; what is standard is left out of configurations, so that older ones are written as they
    /// were read.
    #[serde(skip_serializing_if = "is_none")]
    pub checkpoint: Checkpoint,
}

/// What BPTT keeps of a sequence on the way forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checkpoint {
    /// What derivatives need of every step: fastest.
    #[default]
    None,
    /// The states at the boundaries of chunks, `--chunk` steps long or about as many as there are chunks; the steps of a chunk are computed
    /// once more on the way back.
    Auto,
}

fn is_none(checkpoint: &Checkpoint) -> bool {
    *checkpoint == Checkpoint::None
}

impl Rule for Bptt {
    fn about(&self) -> About {
        About {
            equation: "G = dL/dw, all paths",
            source: "Werbos, Proceedings of the IEEE 78 (1990); surrogate slopes: Neftci, Mostafa and Zenke (2019); checkpoints: \
                     Chen et al., arXiv:1604.06174 (2016)",
            memory: "everything that a derivative needs, of every step: grows with T; with --checkpoint auto of about the square root of T \
                     steps, for one forward pass more",
            use_when: "when sequences are short, or as the judge of other rules",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        None
    }

    fn is_online(&self) -> bool {
        false
    }

    fn recomputes(&self) -> bool {
        self.checkpoint == Checkpoint::Auto
    }
}
