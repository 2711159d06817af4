//! MDGL: learning signals that pass from neuron to neuron once.

use serde::{Deserialize, Serialize};

use super::{About, Rule, TracedOp};
use crate::learn::trace::TraceKind;

/// D-RTRL with signals that also go one step back through the connections within a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mdgl {}

impl Rule for Mdgl {
    fn about(&self) -> About {
        About {
            equation: "e_t = D_t e_{t-1} + x_t (x) f_t,  G = sum_t L_t . e_t + (R_t^T L_t) . e_{t-1},  R_t = dh_t/dh_{t-1} less D_t",
            source: "Liu et al., Proceedings of the National Academy of Sciences 118 (2021), there NL-MDGL: with the weights themselves \
                     and not their means over types of cells",
            memory: "as d-rtrl",
            use_when: "when a recurrent layer needs more than d-rtrl gives it: influence over one connection and step is added",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    fn one_hop(&self) -> bool {
        true
    }
}
