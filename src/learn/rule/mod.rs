//! The learning rules: each one file, and one row of the table below.
//!
//! A rule answers a few questions, and the learner does the rest:
//!
//! * which **trace** each traced op carries ([`Rule::trace`]; the kinds of trace are in [`trace`](super::trace));
//! * how the learning **signal** passes back through the weights on its way from the loss to the states ([`Rule::feedback`]): with the
//!   weights themselves unless the rule says otherwise.
//!
//! Names, aliases, help, `etrace explain`, the list in `docs/learning-rules.md` and the loops of the tests come from the table. A rule's
//! own parameters are fields of its settings: `method = { name = "es-d-rtrl", decay = 0.9 }` in a configuration, `--method es-d-rtrl
//! --rule_set decay=0.9` on the command line. `docs/adding-a-rule.md` goes through it step by step.

mod bptt;
mod d_rtrl;
mod es_d_rtrl;
mod feedback;
mod hybrid;

use hlo::Tensor;

pub use bptt::{Bptt, Checkpoint};
pub use d_rtrl::DRtrl;
pub use es_d_rtrl::EsDRtrl;
pub use feedback::RandomFeedback;
pub use hybrid::Hybrid;

use super::{LearnError, Structure, trace::TraceKind};
use crate::settings::Listed;

/// What a rule is, for people: one paragraph each.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The gradient in one line, in the symbols of `docs/spec/algorithms.md, "Setting"`.
    pub equation: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// What it keeps from step to step, for a layer of `N` neurons with `I` inputs, batch `B`, `T` steps.
    pub memory: &'static str,
    /// When to use it.
    pub use_when: &'static str,
}

/// A traced op, as a rule sees it.
#[derive(Clone, Copy)]
pub struct TracedOp<'a> {
    /// Everything known of the step.
    pub structure: &'a Structure,
    /// The op's place in [`Structure::ops`].
    pub op: usize,
}

/// A dense op `y = x W` that a learning signal passes on its way back, as a rule sees it.
pub struct Passage<'a> {
    /// The layer that the op belongs to, and which of its ops it is: the same in every program of a model.
    pub name: String,
    /// `W`, `[I, N]`.
    pub weight: &'a Tensor,
}

/// A learning rule.
pub trait Rule {
    /// What it is.
    fn about(&self) -> About;

    /// Which trace a traced op carries; nothing where the rule is exact without any (BPTT).
    fn trace(&self, op: TracedOp<'_>) -> Option<TraceKind>;

    /// Whether gradients form while the sequence runs.
    fn is_online(&self) -> bool {
        true
    }

    /// Whether steps are computed once more on the way back, rather than kept ([`Checkpoint`]).
    fn recomputes(&self) -> bool {
        false
    }

    /// Smoothing factor of factorised traces, in [0, 1).
    fn decay(&self) -> f64 {
        0.0
    }

    /// Sets [`Rule::decay`], if the rule has one.
    fn set_decay(&mut self, decay: f64) {
        let _ = decay;
    }

    /// The matrix `[I, N]` that takes the place of `W` when a learning signal passes back through `y = x W`; `None` is `W` itself.
    /// Values, and the gradient of `W`, stay what they are.
    fn feedback(&self, passage: &Passage<'_>) -> Option<Tensor> {
        let _ = passage;
        None
    }

    /// Checks the parameters of the rule.
    ///
    /// # Errors
    /// When one of them makes no sense.
    fn check(&self) -> Result<(), LearnError> {
        Ok(())
    }
}

crate::table! {
    /// Which learning rule.
    #[derive(Copy)]
    pub enum Method: dyn Rule, tag "name", a "learning rule" {
        /// Back-propagation through time: exact, memory grows with the sequence
        Bptt(Bptt) = "bptt";
        /// One trace per weight and state of its group
        DRtrl(DRtrl) = "d-rtrl" | "diag" | "drtrl" | "ParamDimVjpAlgorithm" | "DiagParamDimAlgorithm";
        /// Traces factorised into an input and an output part, smoothed with a decay
        EsDRtrl(EsDRtrl) = "es-d-rtrl" | "expsm_diag" | "esd-rtrl" | "esdrtrl" | "es-diag" | "diag_expsm" | "pp_prop"
            | "IODimVjpAlgorithm" | "DiagIODimAlgorithm";
        /// For each layer whichever of the two takes less memory
        Hybrid(Hybrid) = "hybrid" | "HybridDimVjpAlgorithm" | "DiagHybridDimAlgorithm";
        /// D-RTRL with learning signals that come back through fixed random matrices
        RandomFeedback(RandomFeedback) = "random-feedback" | "eprop-random" | "e-prop-random";
    }
}

impl Method {
    /// Back-propagation through time.
    pub const BPTT: Method = Method::Bptt(Bptt { checkpoint: Checkpoint::None });
    /// D-RTRL.
    pub const D_RTRL: Method = Method::DRtrl(DRtrl {});

    /// ES-D-RTRL with smoothing factor `decay`, in [0, 1).
    pub const fn es_d_rtrl(decay: f64) -> Method {
        Method::EsDRtrl(EsDRtrl { decay })
    }

    /// The hybrid of the two, with smoothing factor `decay` of its factorised ops.
    pub const fn hybrid(decay: f64) -> Method {
        Method::Hybrid(Hybrid { decay })
    }

    /// Its name, as in configurations, tables and files.
    pub fn name(&self) -> &'static str {
        self.row().name
    }

    /// Every rule with its standard parameters.
    pub fn all() -> impl Iterator<Item = Method> {
        Method::ROWS.iter().map(|row| (row.standard)())
    }

    /// The same rule with another smoothing factor, if it has one.
    pub fn with_decay(mut self, decay: f64) -> Method {
        self.set_decay(decay);
        self
    }
}

/// Refuses a smoothing factor outside of [0, 1).
fn check_decay(decay: f64) -> Result<(), LearnError> {
    if (0.0..1.0).contains(&decay) {
        return Ok(());
    }
    Err(LearnError::Setting(format!(
        "the decay of an eligibility trace must lie in [0, 1), got {decay}; 0.9 to 0.99 is usual"
    )))
}
