//! In which form a rule's traces are kept, and who chooses.
//!
//! All forms of D-RTRL give the same gradient ([`trace`](super::trace)); they differ in memory and time:
//!
//! | form | keeps | for |
//! |---|---|---|
//! | dense | a value for each weight, state and sequence | states that forget slowly, in streams |
//! | fixed lag | the values of the last W + K steps | states that forget, in streams too: what is cut off is bounded, and stated |
//! | whole | what the recurrence computes in all steps, and the values of one chunk | sequences with room for them |
//! | recompute | the states at the boundaries of chunks, the products of a wide input, and the values of one chunk | long sequences |
//!
//! The choice is a function of the model, the settings and the length of the sequence alone, not of the machine, so that a run is
//! the same everywhere. Ops whose trace is small in any case (no value for each weight) keep it, whatever the form, except in the
//! last two, which need no traces at all. (`docs/spec/algorithms.md, "Forms of one rule"`)

mod decay;
mod price;
mod stream;
mod survey;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Attachment, LearnError, Learner, Vjp, sequence::LearnerConfig, signal::Ahead, structure::Op, trace::TraceKind,
};
use crate::report::bytes;
pub use price::{COSTS, Costs};
pub(super) use survey::Lagged;

/// Which form to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceSetting {
    /// Whichever is best; `etrace explain` shows the choice.
    #[default]
    Auto,
    /// A value for each weight, state and sequence.
    Dense,
    /// The values of the last steps, where states forget.
    FixedLag,
    /// The states of all steps, chunks backwards.
    Whole,
    /// Chunks backwards, each computed twice.
    Recompute,
}

impl fmt::Display for TraceSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TraceSetting::Auto => "auto",
            TraceSetting::Dense => "dense",
            TraceSetting::FixedLag => "fixed-lag",
            TraceSetting::Whole => "whole",
            TraceSetting::Recompute => "recompute",
        })
    }
}

/// A form with its lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Traces at the boundaries of chunks.
    Dense {
        /// Steps per chunk, K.
        chunk: usize,
    },
    /// Rings of the last steps.
    FixedLag {
        /// Steps per chunk, K.
        chunk: usize,
        /// Steps before it, W.
        lag: usize,
    },
    /// Chunks backwards, after one pass that keeps what the recurrence computes.
    Whole {
        /// Steps per chunk, K.
        chunk: usize,
    },
    /// Chunks backwards, each computed twice.
    Recompute {
        /// Steps per chunk, K.
        chunk: usize,
    },
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Dense { chunk } => write!(f, "dense traces, chunks of {chunk}"),
            Form::FixedLag { chunk, lag } => write!(f, "fixed lag of {lag}, chunks of {chunk}"),
            Form::Whole { chunk } => write!(f, "whole sequence, chunks of {chunk}"),
            Form::Recompute { chunk } => write!(f, "recompute, chunks of {chunk}"),
        }
    }
}

/// A form that was considered.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The form.
    pub form: Form,
    /// Bytes of temporary values: of gradients and of what it keeps for them.
    pub bytes: usize,
    /// What a step takes, in seconds: see [`COSTS`].
    pub seconds: f64,
    /// A bound on what the lag cuts off, as a share of a signal; nothing where it is exact, infinite where nothing is known.
    pub cut: Option<f64>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (takes about {}", self.form, bytes(self.bytes as u64))?;
        match self.cut {
            Some(cut) if cut.is_finite() => write!(f, ", cuts off at most {cut:.1e} of a signal)"),
            Some(_) => write!(f, ", no bound on what it cuts off)"),
            None => write!(f, ")"),
        }
    }
}

/// What was chosen, and what was turned down.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The form that is used.
    pub used: Candidate,
    /// The others, with the reason.
    pub turned_down: Vec<(Candidate, String)>,
}

/// Bytes that a form may take without a `--memory_budget`, if dense traces take no less.
const STANDARD_BUDGET: usize = 3 << 30;

/// How much longer than the fastest form a smaller one may take, as a factor, by these costs.
const WORTH: f64 = 1.05;

/// Bytes of a chunk's values in the forms that are not dense.
const CHUNK_BYTES: usize = 384 << 20;

/// Steps of a chunk in these forms.
const CHUNK_STEPS: usize = 25;

impl Learner {
    /// The form for a sequence of `steps` steps.
    pub fn form(&self, steps: usize) -> Form {
        self.choice(steps).used.form
    }

    /// The form for a sequence of `steps` steps, and why.
    pub fn choice(&self, steps: usize) -> Choice {
        let LearnerConfig { trace, chunk, lag, .. } = *self.config();
        let dense = || self.candidate(Form::Dense { chunk: self.dense_chunk(steps) }, steps);
        let ahead = self.config().signal == Ahead::Readout;
        let backwards = self.only_backwards().is_some() || ahead;
        // Someone who says how long a chunk is means that of the dense form, unless another is named.
        let auto = trace == TraceSetting::Auto && (chunk.is_none() || backwards);
        if trace == TraceSetting::Dense || self.no_other_form().is_some() || (trace == TraceSetting::Auto && !auto) {
            return Choice { used: dense(), turned_down: vec![] };
        }
        if auto && !ahead && self.lagged().wide.ops.is_empty() {
            return Choice { used: dense(), turned_down: vec![] };
        }
        let chunk = chunk.unwrap_or_else(|| self.values_chunk(steps)).clamp(1, steps.max(1));
        let lag = lag.or_else(|| self.sufficient_lag());
        let mut all = if backwards { vec![] } else { vec![dense()] };
        let lag = lag.filter(|_| !ahead);
        all.extend(lag.map(|lag| self.candidate(Form::FixedLag { chunk, lag: lag.clamp(1, steps.max(1)) }, steps)));
        if !self.has_factorised() {
            all.push(self.candidate(Form::Whole { chunk }, steps));
            all.push(self.candidate(Form::Recompute { chunk }, steps));
        }
        self.choose(trace, all)
    }

    /// An op whose trace does not go forwards, so that there is no dense form.
    fn only_backwards(&self) -> Option<&Op> {
        let traced = self.structure.traced().filter(|(k, _)| self.plan.kinds[*k] == Some(TraceKind::Full));
        let lacks = |op: &&Op| {
            op.groups.iter().any(|&g| {
                let (group, reach) = (&self.structure.groups[g], op.reach(g));
                reach.kept().any(|a| op.kind.operator().trace(op, group, reach, a, self.batch()).is_none())
            })
        };
        traced.map(|(_, op)| op).find(lacks)
    }

    /// That the form which an op needs that only goes backwards is there, and was not excluded.
    fn check_backwards(&self) -> Result<(), LearnError> {
        let Some(op) = self.only_backwards() else { return Ok(()) };
        let got = match self.no_other_form() {
            _ if self.config().trace == TraceSetting::Dense => "--trace dense".into(),
            Some(why) => format!("a setting where {why}"),
            None if self.has_factorised() && self.sufficient_lag().is_none() => {
                "a network where other layers have factorised traces, which only go forwards".to_string()
            }
            None => return Ok(()),
        };
        Err(LearnError::Setting(format!(
            "the traced op `{}` ({}) has no trace of {} that goes forwards, got {got}; leave the form to --trace auto without windows, \
             {}or train with --method bptt",
            op.site,
            op.kind.operator().name(),
            self.config().method.name(),
            if op.kind.operator().is_linear(op) { "use --method es-d-rtrl, " } else { "" }
        )))
    }

    /// Signals through the memory of readouts come from later steps, so they need a form that goes backwards to the first step.
    fn check_ahead(&self) -> Result<(), LearnError> {
        // The signals of BPTT go through every memory.
        if self.config().signal == Ahead::Step || !self.rule().is_online() {
            return Ok(());
        }
        let trace = self.config().trace;
        let got = match (self.no_other_form(), self.config().vjp) {
            (Some(why), _) => why,
            _ if self.readouts.is_empty() => "the network has no readout with a memory (`StepContext::readout`)",
            _ if self.readouts.iter().any(|&g| self.lagged().all.states(&self.structure, g).is_empty()) => {
                "no trained weight leads into the readout"
            }
            _ if self.plan.filter > 0.0 => "the rule filters its traces",
            _ if self.has_factorised() => "factorised traces only go forwards",
            (_, Vjp::MultiStep { .. } | Vjp::SingleStep { attachment: Attachment::InStep }) => {
                "signals attach as in the reference (add --vjp_method single-step --attachment exit)"
            }
            _ if matches!(trace, TraceSetting::Dense | TraceSetting::FixedLag) => {
                "dense traces and fixed lags go forwards"
            }
            _ => return Ok(()),
        };
        Err(LearnError::Setting(format!(
            "--signal readout takes signals back from the losses of later steps, got a setting where {got}; use --method d-rtrl with --trace \
             auto, whole or recompute, or leave it out"
        )))
    }

    /// Why there is no form but the dense one, if so.
    fn no_other_form(&self) -> Option<&'static str> {
        let window = matches!(self.config().vjp, Vjp::MultiStep { window } if window > 1);
        let none = !self.plan.kinds.contains(&Some(TraceKind::Full));
        match (self.rule().is_online(), window, none) {
            (false, ..) => Some("bptt has no traces"),
            (_, true, _) => Some("windows of several steps need the traces at their entry"),
            (.., true) => Some("this rule has no trace of the size of a weight"),
            _ => self.config().update_every.map(|_| "parameters change inside the sequence (--update_every)"),
        }
    }

    fn choose(&self, setting: TraceSetting, all: Vec<Candidate>) -> Choice {
        let named = |c: &Candidate| {
            matches!(
                (setting, c.form),
                (TraceSetting::FixedLag, Form::FixedLag { .. })
                    | (TraceSetting::Whole, Form::Whole { .. })
                    | (TraceSetting::Recompute, Form::Recompute { .. })
            )
        };
        let forgets = |c: &Candidate| c.cut.is_none_or(|cut| cut <= self.config().lag_tolerance);
        let dense = all.iter().find(|c| matches!(c.form, Form::Dense { .. })).map_or(usize::MAX, |c| c.bytes);
        let standard = dense.min(STANDARD_BUDGET);
        let limit = self.config().memory_budget.map_or(standard, |b| usize::try_from(b).unwrap_or(usize::MAX));
        let exact = || all.iter().filter(|c| forgets(c));
        let fitting = || exact().filter(|c| c.bytes <= limit);
        let fastest = fitting().map(|c| c.seconds).fold(f64::INFINITY, f64::min);
        let worth = fitting().filter(|c| c.seconds <= WORTH * fastest).min_by_key(|c| c.bytes);
        let smallest = || exact().min_by_key(|c| c.bytes);
        let used = if setting == TraceSetting::Auto { worth.or_else(smallest) } else { all.iter().find(|c| named(c)) };
        let used = used.unwrap_or(&all[0]).clone();
        let why = |c: &Candidate| match c.form {
            _ if setting != TraceSetting::Auto => "another was asked for",
            Form::FixedLag { .. } if !forgets(c) => "the states forget too slowly",
            _ if c.bytes > limit && self.config().memory_budget.is_some() => "larger than --memory_budget",
            _ if c.bytes > dense => "larger than dense traces",
            _ if c.bytes > limit => "larger than the standard --memory_budget",
            _ if c.seconds <= used.seconds => "larger, and hardly faster",
            _ => "slower",
        };
        let others = all.iter().filter(|c| c.form != used.form);
        let turned_down = others.map(|c| (c.clone(), why(c).to_string())).collect();
        Choice { turned_down, used }
    }

    /// A form that was asked for must be there, and a lag not cut off more than it may.
    pub(super) fn check_form(&self) -> Result<(), LearnError> {
        self.check_backwards()?;
        self.check_ahead()?;
        let LearnerConfig { trace, lag, lag_tolerance, .. } = *self.config();
        let wrong = |text: String| Err(LearnError::Setting(text));
        if matches!(trace, TraceSetting::Auto | TraceSetting::Dense) {
            return Ok(());
        }
        let why = match self.no_other_form() {
            None if trace != TraceSetting::FixedLag && self.has_factorised() => {
                Some("some of its layers have factorised traces, which only go forwards")
            }
            None if trace == TraceSetting::FixedLag && self.lagged().wide.ops.is_empty() => {
                Some("all traces of this network are small")
            }
            why => why,
        };
        if let Some(why) = why {
            return wrong(format!(
                "--trace chooses the form of traces as large as weights, got {trace}, but {why}; leave it out"
            ));
        }
        if trace != TraceSetting::FixedLag {
            return Ok(());
        }
        let enough = self.sufficient_lag();
        let cut = lag.map(|lag| self.cut_after(lag));
        if cut.is_some_and(|cut| cut <= lag_tolerance) || (lag.is_none() && enough.is_some()) {
            return Ok(());
        }
        let got = match (lag, cut.filter(|cut| cut.is_finite())) {
            (Some(lag), Some(cut)) => format!("--lag {lag}, which may cut off {cut:.4} of one"),
            (Some(lag), None) => {
                format!("--lag {lag}, and the network's graph does not bound what its states remember")
            }
            (None, _) => "a network whose graph does not bound what its states remember".into(),
        };
        let remedy = enough.map_or(String::new(), |lag| format!("use --lag {lag}, or "));
        wrong(format!(
            "a fixed lag must cut off no more than --lag_tolerance {lag_tolerance:e} of a learning signal, got {got}; {remedy}leave the \
             form to --trace auto"
        ))
    }

    fn has_factorised(&self) -> bool {
        self.plan.kinds.contains(&Some(TraceKind::Factorised))
    }

    /// Steps per chunk in the forms that are not dense: a divisor of the sequence if one is near.
    fn values_chunk(&self, steps: usize) -> usize {
        let fitting = (CHUNK_BYTES / self.bytes_per_step().max(1)).clamp(1, CHUNK_STEPS).min(steps.max(1));
        let divisor = (fitting.div_ceil(2)..=fitting).rev().find(|k| steps.is_multiple_of(*k));
        divisor.unwrap_or(fitting)
    }
}
