//! OSTL, for feed-forward and for recurrent layers.

use serde::{Deserialize, Serialize};

use super::{About, Recursion, Rule, TracedOp};
use crate::learn::trace::TraceKind;

/// Where both rules come from.
const SOURCE: &str =
    "Bohnstingl, Wozniak, Pantazi and Eleftheriou, IEEE Transactions on Neural Networks and Learning Systems 34 (2023)";

/// OSTL without the recurrent part `H`, as the reference library has it: ES-D-RTRL with a decay of almost zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OstlFeedForward {}

impl OstlFeedForward {
    /// Smoothing factor of both parts.
    pub const DECAY: f64 = 1e-6;
}

impl Rule for OstlFeedForward {
    fn about(&self) -> About {
        About {
            equation: "es-d-rtrl with a = 1e-6: ex_t = x_t and ef_t = f_t but for one millionth of the step before",
            source: SOURCE,
            memory: "as es-d-rtrl",
            use_when: "to reproduce what the reference library calls OSTL without H; d-rtrl is the published rule for such a layer",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Factorised)
    }

    fn decay(&self) -> f64 {
        Self::DECAY
    }
}

/// OSTL with the recurrent part `H`: D-RTRL whose transition is the part of the whole Jacobian that acts position by position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OstlRecurrent {}

impl Rule for OstlRecurrent {
    fn about(&self) -> About {
        About {
            equation: "e_t = C_t e_{t-1} + x_t (x) f_t,  C_t[a][c] = dh_t[a]/dh_{t-1}[c] of one neuron, through its weight to itself too,  \
                       G = sum_t L_t . e_t",
            source: SOURCE,
            memory: "as d-rtrl; finding C takes one derivative of the step for each neuron",
            use_when: "when neurons are strongly connected to themselves; exact for a layer of one neuron",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    fn recursion(&self) -> Recursion {
        Recursion::Coupled
    }
}
