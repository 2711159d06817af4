//! The learning rules: each one file, and one row of the table below.
//!
//! A rule answers a few questions, and the learner does the rest:
//!
//! * which **trace** each traced op carries ([`Rule::trace`]; the kinds of trace are in [`trace`](super::trace)), or that there is none;
//! * what multiplies a trace from step to step ([`Rule::recursion`]): the transition `D` unless the rule says otherwise;
//! * whether a low-pass **filter** stands behind a trace ([`Rule::filter`]);
//! * how the learning **signal** passes back through the weights on its way from the loss to the states ([`Rule::feedback`]): with the
//!   weights themselves unless the rule says otherwise;
//! * what becomes of a signal that has arrived, before it meets a trace ([`Rule::reception`]): nothing unless the rule says otherwise;
//! * whether it goes one step back from there, from neuron to neuron ([`Rule::one_hop`]);
//! * where random projections come from, for traces that are projected ([`Rule::projection`]).
//!
//! Names, aliases, help, `etrace explain`, the list in `docs/learning-rules.md` and the loops of the tests come from the table. A rule's
//! own parameters are fields of its settings: `method = { name = "es-d-rtrl", decay = 0.9 }` in a configuration, `--method es-d-rtrl
//! --rule_set decay=0.9` on the command line. `docs/adding-a-rule.md` goes through it step by step.

mod bptt;
mod d_rtrl;
mod e_prop;
mod es_d_rtrl;
mod feedback;
mod hybrid;
mod immediate;
mod mdgl;
mod no_transition;
mod ostl;
mod ottt;
mod s_tllr;
mod scalar_leak;
mod snap;
mod three_factor;
mod uoro;

use hlo::Tensor;

pub use bptt::{Bptt, Checkpoint};
pub use d_rtrl::DRtrl;
pub use e_prop::{EProp, normalised};
pub use es_d_rtrl::EsDRtrl;
pub use feedback::RandomFeedback;
pub use hybrid::Hybrid;
pub use immediate::Immediate;
pub use mdgl::Mdgl;
pub use no_transition::NoTransition;
pub use ostl::{OstlFeedForward, OstlRecurrent};
pub use ottt::Ottt;
pub use s_tllr::STllr;
pub use scalar_leak::ScalarLeak;
pub use snap::SnAp;
pub use three_factor::{Modulated, ThreeFactor};
pub use uoro::Uoro;

pub use super::recursion::Recursion;
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

/// Which part of a learning signal it is (`docs/spec/algorithms.md, "Ways around the new states"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// With respect to a state after the step.
    After,
    /// With respect to a state before the step, on ways that pass none of the group's new states.
    Before,
    /// With respect to the output of an op, on ways that pass no new state; no trace meets it.
    Direct,
}

/// A learning signal that has arrived at a group, in the steps of a chunk, as a rule sees it.
pub struct Received<'a> {
    /// The group's place in [`Structure::groups`].
    pub group: usize,
    /// Which part it is.
    pub moment: Moment,
    /// The signal of one state (or one op), `[K, B, N]`; `None` is zero.
    pub signal: Option<&'a Tensor>,
    /// Its shape.
    pub dims: [usize; 3],
    /// Steps from the start of the sequence to the first of the chunk, `s32[]`.
    pub time: &'a Tensor,
}

/// What a rule makes of learning signals before they meet traces.
pub trait Reception {
    /// The signal that takes the place of the one received, in its shape; `None` is zero.
    fn receive(&self, received: &Received<'_>) -> Option<Tensor>;

    /// Whether gradients add up what it gives for the sequences of a batch. A signal that is derived from the loss is already a share of
    /// their mean.
    fn adds_up(&self) -> bool {
        false
    }
}

/// Pairs of an input with slopes of the spike that it feeds, before it: [`Rule::non_causal`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NonCausal {
    /// Their weight.
    pub weight: f64,
    /// What is left of a trace of slopes after a step, in [0, 1).
    pub decay: f64,
}

/// Which random signs a projected trace asks for.
pub struct Signs<'a> {
    /// The group's place in [`Structure::groups`].
    pub group: usize,
    /// The state's place in the group.
    pub state: usize,
    /// `[B, N]`.
    pub dims: [usize; 2],
    /// Steps since the start of the sequence, `s32[]`.
    pub time: &'a Tensor,
}

/// Where the random signs of projected traces come from.
pub trait Projection {
    /// 1 or -1 for every position of a state.
    fn signs(&self, signs: &Signs<'_>) -> Tensor;
}

/// A learning rule.
pub trait Rule {
    /// What it is.
    fn about(&self) -> About;

    /// Which trace a traced op carries. A rule gives one to all ops or to none; without any it is exact (BPTT), or online with the
    /// gradient of each step by itself.
    fn trace(&self, op: TracedOp<'_>) -> Option<TraceKind>;

    /// Whether gradients form while the sequence runs.
    fn is_online(&self) -> bool {
        true
    }

    /// Whether steps are computed once more on the way back, rather than kept ([`Checkpoint`]).
    fn recomputes(&self) -> bool {
        false
    }

    /// What multiplies a trace from step to step.
    fn recursion(&self) -> Recursion {
        Recursion::Jacobian
    }

    /// The factor `kappa` of a filter behind full traces, in [0, 1): signals meet `ebar_t = kappa ebar_{t-1} + e_t`; 0 is no filter.
    fn filter(&self) -> f64 {
        0.0
    }

    /// Smoothing factor of factorised traces, in [0, 1): that of the output part, and of the input part too unless
    /// [`Rule::input_decay`] says otherwise.
    fn decay(&self) -> f64 {
        0.0
    }

    /// Smoothing factor of the input part of factorised traces, in [0, 1).
    fn input_decay(&self) -> f64 {
        self.decay()
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

    /// What the rule makes of learning signals before they meet traces; `None` leaves them as they are. Parameters without a trace keep
    /// the gradient of each step by itself. Such a rule has single-step gradients only.
    fn reception(&self) -> Option<&dyn Reception> {
        None
    }

    /// Whether a learning signal also goes one step back through the connections within its group, to the traces of the step before. Such a
    /// rule has single-step gradients only.
    fn one_hop(&self) -> bool {
        false
    }

    /// Pairs of each input with a trace of the slopes before it, gated by the signal at the spike. Such a rule has single-step gradients
    /// only.
    fn non_causal(&self) -> Option<NonCausal> {
        None
    }

    /// The random signs of projected traces; a rule with [`TraceKind::Projected`] has some.
    fn projection(&self) -> Option<&dyn Projection> {
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
        /// No trace: the gradient of each step by itself
        Immediate(Immediate) = "immediate" | "instantaneous";
        /// Traces without memory: what a step adds, and nothing of the steps before
        NoTransition(NoTransition) = "no-transition" | "per-param-none";
        /// Traces that decay with one number in place of the transition
        ScalarLeak(ScalarLeak) = "scalar-leak" | "per-param-scalar-leak";
        /// ES-D-RTRL with a decay of almost zero: OSTL for feed-forward layers
        OstlFeedForward(OstlFeedForward) = "ostl-feedforward" | "OSTLFeedforward" | "ostl-without-h";
        /// D-RTRL whose transition includes a neuron's connection to itself: OSTL for recurrent layers
        OstlRecurrent(OstlRecurrent) = "ostl-recurrent" | "OSTLRecurrent" | "ostl-with-h" | "ostl";
        /// D-RTRL with a low-pass filter behind its traces, and random feedback if wanted
        EProp(EProp) = "e-prop" | "eprop";
        /// Traces gated by a modulator in place of a learning signal
        ThreeFactor(ThreeFactor) = "three-factor" | "ThreeFactor" | "modulated";
        /// A leaky trace of the input beside the present slope of the output
        Ottt(Ottt) = "ottt" | "ottt-a";
        /// As OTTT, with pairs of input and slope in the other order of time as well
        STllr(STllr) = "s-tllr" | "stllr";
        /// D-RTRL with signals that also pass one connection back, from neuron to neuron
        Mdgl(Mdgl) = "mdgl" | "nl-mdgl";
        /// Traces projected at random: unbiased, noisy, and no larger than the weights
        Uoro(Uoro) = "uoro";
        /// Real-time recurrent learning on a neighbourhood of each neuron; from n = 2 on the whole layer
        SnAp(SnAp) = "snap" | "snap-n" | "SnAp" | "rtrl";
    }
}

impl Method {
    /// Back-propagation through time.
    pub const BPTT: Method = Method::Bptt(Bptt { checkpoint: Checkpoint::None });
    /// D-RTRL.
    pub const D_RTRL: Method = Method::DRtrl(DRtrl {});

    /// ES-D-RTRL with smoothing factor `decay`, in [0, 1).
    pub const fn es_d_rtrl(decay: f64) -> Method {
        Method::EsDRtrl(EsDRtrl { decay, input_decay: None, output_decay: None })
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

    /// The rule of a name or alias, with smoothing factor `decay` if it has one and its other parameters standard; nothing if no rule has
    /// that name. ([`Listed::by_name`] has an error that lists the names.)
    pub fn by_name(name: &str, decay: f64) -> Option<Method> {
        <Method as Listed>::by_name(name).ok().map(|method| method.with_decay(decay))
    }

    /// The same rule with another smoothing factor, if it has one.
    pub fn with_decay(mut self, decay: f64) -> Method {
        self.set_decay(decay);
        self
    }
}

/// Refuses a smoothing factor outside of [0, 1).
fn check_decay(decay: f64) -> Result<(), LearnError> {
    check_factor("the decay", decay, "0.9 to 0.99 is usual")
}

/// Refuses a factor from step to step outside of [0, 1); `name` with its article.
fn check_factor(name: &str, factor: f64, advice: &str) -> Result<(), LearnError> {
    if (0.0..1.0).contains(&factor) {
        return Ok(());
    }
    Err(LearnError::Setting(format!("{name} of an eligibility trace must lie in [0, 1), got {factor}; {advice}")))
}
