//! SnAp-n: real-time recurrent learning with a sparse influence.

use serde::{Deserialize, Serialize};

use super::{About, Recursion, Rule, TracedOp};
use crate::learn::{LearnError, trace::TraceKind};

/// Real-time recurrent learning that keeps the influence of a weight on neurons up to `n - 1` connections away.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnAp {
    /// 1 is the neuron itself. Connections within a layer are taken to be from all to all, so that from 2 on it is the whole layer.
    pub n: usize,
}

impl Default for SnAp {
    fn default() -> Self {
        SnAp { n: 2 }
    }
}

impl Rule for SnAp {
    fn about(&self) -> About {
        About {
            equation: "M_t = J_t M_{t-1} + x_t (x) f_t,  G = sum_t L_t . M_t, M on neurons up to n - 1 connections from the weight's own",
            source: "Menick et al., ICLR (2021); n without a bound is RTRL: Williams and Zipser, Neural Computation 1 (1989)",
            memory: "n = 1 as ostl-recurrent; from 2 on N times d-rtrl, since layers are connected from all to all",
            use_when: "for layers of tens of neurons, as the exact answer within a layer that can still be streamed",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(if self.n == 1 { TraceKind::Full } else { TraceKind::Complete })
    }

    fn recursion(&self) -> Recursion {
        Recursion::Coupled
    }

    fn check(&self) -> Result<(), LearnError> {
        match self.n {
            0 => Err(LearnError::Setting(
                "a neighbourhood n holds the neuron itself at least, got 0; 1 or 2 is usual".into(),
            )),
            _ => Ok(()),
        }
    }
}
