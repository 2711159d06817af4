//! S-TLLR: pairs of input and slope in both orders of time.

use serde::{Deserialize, Serialize};

use super::{About, NonCausal, Rule, TracedOp};
use crate::learn::{LearnError, trace::TraceKind};

/// A trace of the input beside the present slope, and the present input beside a trace of slopes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct STllr {
    /// What is left of the trace of the input after a step, in [0, 1).
    pub lambda_pre: f64,
    /// What is left of the trace of slopes, in [0, 1).
    pub lambda_post: f64,
    /// Weight of the non-causal pairs, input after slope; that of the causal ones is 1.
    pub alpha_pre: f64,
}

impl Default for STllr {
    fn default() -> Self {
        STllr { lambda_pre: 0.75, lambda_post: 0.2, alpha_pre: -1.0 }
    }
}

impl Rule for STllr {
    fn about(&self) -> About {
        About {
            equation: "a_t = lambda_pre a_{t-1} + x_t,  q_t = lambda_post q_{t-1} + psi_t,  \
                       G = sum_t d_t (x) (psi_t a_t + alpha_pre q_{t-1} x_t), d_t the signal at the spike, psi_t its slope",
            source: "Apolinario and Roy, Transactions on Machine Learning Research (2025)",
            memory: "B (I + N) per weight matrix",
            use_when: "for deep feed-forward spiking networks: as ottt, with pairs in the other order of time as well",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Factorised)
    }

    fn input_decay(&self) -> f64 {
        self.lambda_pre
    }

    fn non_causal(&self) -> Option<NonCausal> {
        (self.alpha_pre != 0.0).then_some(NonCausal { weight: self.alpha_pre, decay: self.lambda_post })
    }

    fn check(&self) -> Result<(), LearnError> {
        super::check_factor("the factor lambda_pre", self.lambda_pre, "0.75 is usual")?;
        super::check_factor("the factor lambda_post", self.lambda_post, "0.2 is usual")?;
        match self.alpha_pre.is_finite() {
            true => Ok(()),
            false => Err(LearnError::Setting(format!(
                "the weight alpha_pre of non-causal pairs must be a number, got {}; -1 and 1 are usual",
                self.alpha_pre
            ))),
        }
    }
}
