//! Full or factorised traces, whichever are smaller.

use serde::{Deserialize, Serialize};

use super::{About, Rule, TracedOp, check_decay};
use crate::learn::{LearnError, op::Kind, trace::TraceKind};

/// For each layer D-RTRL or ES-D-RTRL.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hybrid {
    /// Smoothing factor of the factorised ops, in [0, 1).
    pub decay: f64,
}

impl Default for Hybrid {
    fn default() -> Self {
        Hybrid { decay: 0.9 }
    }
}

impl Rule for Hybrid {
    fn about(&self) -> About {
        About {
            equation: "D-RTRL where I N < I + N, ES-D-RTRL elsewhere",
            source: "Wang et al., Nature Communications (2026)",
            memory: "the smaller of the two, layer by layer",
            use_when: "when a network has very small layers beside wide ones",
        }
    }

    /// `docs/spec/algorithms.md, "Hybrid"`: full where input and output together are larger than the weights of all sequences. All ops
    /// of one layer decide together; a lone element-wise parameter is always full.
    fn trace(&self, op: TracedOp<'_>) -> Option<TraceKind> {
        let ops = &op.structure.ops;
        let site = &ops[op.op].site;
        let members: Vec<_> = ops.iter().filter(|op| op.site == *site && op.kind == Kind::Dense).collect();
        let Some(first) = members.first() else { return Some(TraceKind::Full) };
        let inputs: usize = members.iter().map(|op| op.weight[0]).sum();
        let outputs = first.weight[1];
        Some(if inputs + outputs > inputs * outputs { TraceKind::Full } else { TraceKind::Factorised })
    }

    fn decay(&self) -> f64 {
        self.decay
    }

    fn set_decay(&mut self, decay: f64) {
        self.decay = decay;
    }

    fn check(&self) -> Result<(), LearnError> {
        check_decay(self.decay)
    }
}
