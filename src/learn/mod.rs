//! From one step to a gradient.
//!
//! A learner never knows a neuron. It sees a traced step ([`crate::cell::Model`]) and finds in the graph
//!
//! * **hidden groups**: states coupled position by position once traced ops are held fixed; `k` states, positions `[B, N]`;
//! * per step and group the **transition** `D[a][c] = dh'_a / dh_c` and per traced op the **drive** `f[a] = dh'_a / dy`, both
//!   `[B, N]`, with all op outputs `y` held fixed;
//! * the **learning signal** `l[a] = dL / dh'_a`, each state of the group counted once, and what the loss reads of a group on ways
//!   that bypass its new states ([`signal`]).
//!
//! Glossary: `phi` are parameters as the step uses them (after slices, masks, transforms; made once per program), `K` is the
//! chunk length, `lam` the learning signal carried back through a chunk, `P` the product of transitions, a *slot* is a
//! moment between steps (slot s of a chunk is after its step s).
//!
//! Reading order: [`objective`], [`prepare`] (step and loss, split into what is computed once and what is computed per
//! step), [`structure`] (what the graph says), [`chunk`] (K steps at once), [`signal`] (what the loss asks of a trace),
//! [`rule`] (the rules as a table), `recursion` (other recursions than `D`, filters), [`trace`] (their traces), [`sequence`] (a whole
//! sequence, any method).

mod backwards;
mod check;
mod checkpointed;
pub mod chunk;
pub mod config;
pub mod cost;
mod evaluation;
mod exact;
pub mod form;
mod influence;
pub mod non_causal;
pub mod objective;
pub mod op;
pub mod paths;
pub mod prepare;
mod projected;
mod recursion;
pub mod rings;
pub mod rule;
mod segment;
pub mod sequence;
pub mod signal;
pub mod structure;
pub mod sums;
pub mod synapses;
pub mod trace;
pub mod updates;
mod walk;

use serde::{Deserialize, Serialize};

pub use evaluation::Evaluated;
pub use objective::{LossKind, Objective, Target, TargetKind};
pub use prepare::Prepared;
pub use rule::{Method, Rule};
pub use sequence::{Learner, SequenceOut};
pub use structure::{Exclusion, Structure};

/// Where the learning signal of a step attaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// `l = dL/dh'` with the states of the group counted once each: mathematically consistent.
    #[default]
    Exit,
    /// As the reference library: a state perturbed where it is written, so that routes through other states of its group
    /// count twice; parameters without a trace get no gradient.
    InStep,
}

/// How gradients are formed from traces: `docs/spec/algorithms.md, "Single-step and multi-step gradients"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum Vjp {
    /// Trace after the step with the signal at its end.
    SingleStep {
        /// Where the signal attaches.
        attachment: Attachment,
    },
    /// Trace at the entry of a window with the exact derivative of the window's loss, plus the exact gradient inside.
    MultiStep {
        /// Steps per window.
        window: usize,
    },
}

impl Default for Vjp {
    fn default() -> Self {
        Vjp::SingleStep { attachment: Attachment::Exit }
    }
}

/// A model that this learner cannot treat, and why.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LearnError {
    /// The states of a group are not coupled position by position.
    #[error(
        "an online rule needs {what} to act on each position by itself, but the step passes it through `{op}`; \
         use a traced op (`matmul`) for connections, or train with --method bptt"
    )]
    NotPositionWise {
        /// What is affected: a group or an op.
        what: String,
        /// The operation that couples positions.
        op: &'static str,
    },
    /// A parameter that the loss depends on, and that an online rule can give no gradient.
    #[error(
        "`{parameter}` would learn nothing: the loss depends on it only {path}, which an online rule does not follow; {remedy}, or \
         train with --method bptt"
    )]
    NoGradient {
        /// The parameter.
        parameter: String,
        /// The way from the parameter to the loss that is lost.
        path: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A weight that changes during a sequence.
    #[error(
        "the weight of traced op `{site}` must depend on parameters only, but it depends on states or inputs; \
             compute it from parameters, or train with --method bptt"
    )]
    MovingWeight {
        /// The op.
        site: String,
    },
    /// An array that does not fit the model.
    #[error("{0}")]
    Shape(String),
    /// A setting that makes no sense.
    #[error("{0}")]
    Setting(String),
}
