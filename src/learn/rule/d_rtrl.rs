//! D-RTRL: one trace per weight and state.

use serde::{Deserialize, Serialize};

use super::{About, Rule, TracedOp};
use crate::learn::trace::TraceKind;

/// Real-time recurrent learning with the diagonal of the recurrent Jacobian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DRtrl {}

impl Rule for DRtrl {
    fn about(&self) -> About {
        About {
            equation: "e_t = D_t e_{t-1} + x_t (x) f_t,  G = sum_t L_t . e_t",
            source: "Wang et al., Nature Communications (2026); for a leaky membrane also Bellec et al. (2020)",
            memory: "B I N per weight matrix and state, or some steps of the layer's values, whichever the form needs",
            use_when: "as the default: exact for a feed-forward layer, good for a recurrent one",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }
}
