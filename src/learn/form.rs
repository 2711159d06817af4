//! In which form a rule's traces are kept, and who chooses.
//!
//! All forms of D-RTRL give the same gradient ([`trace`](super::trace)); they differ in memory and time:
//!
//! | form | keeps | for |
//! |---|---|---|
//! | dense | a value for each weight, state and sequence | streams, and states that forget slowly |
//! | fixed lag | the values of the last W + K steps | states that forget: what is cut off is bounded, and stated |
//! | whole | the values of all steps | sequences whose values are smaller than the traces |
//! | recompute | the states at the boundaries of chunks, and the values of one chunk | slow states, with the whole sequence at hand |
//!
//! The choice is a function of the model, the settings and the length of the sequence alone, not of the machine, so that a run is
//! the same everywhere. Ops whose trace is small in any case (no value for each weight) keep it, whatever the form, except in the
//! last two, which need no traces at all. (`docs/spec/algorithms.md, "Forms of one rule"`)

use std::{collections::BTreeSet, fmt};

use hlo::{DType, Func, Graph, Range, Shape, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    LearnError, Learner, Vjp,
    sequence::{Carry, LearnerConfig},
    structure::Kind,
    trace::{Kept, LagPlan, Ring, TraceKind},
};
use crate::report::bytes;

/// Which form to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceSetting {
    /// Whichever is best.
    #[default]
    Auto,
    /// A trace for each weight.
    Dense,
    /// The last steps.
    FixedLag,
    /// All steps.
    Whole,
    /// Chunks backwards, each computed twice.
    Recompute,
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
    /// One chunk.
    Whole,
    /// Chunks backwards.
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
            Form::Whole => write!(f, "whole sequence"),
            Form::Recompute { chunk } => write!(f, "recompute, chunks of {chunk}"),
        }
    }
}

/// A form that was considered.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The form.
    pub form: Form,
    /// Bytes that it keeps besides parameters, gradients and data.
    pub bytes: usize,
    /// Bytes and products that it costs per step beyond those that every form has, as seconds on a machine with 8 GB/s and 60 GFLOP/s.
    pub seconds: f64,
    /// A bound on what the lag cuts off, as a share of a signal; nothing where it is exact, infinite where nothing is known.
    pub cut: Option<f64>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (keeps {}", self.form, bytes(self.bytes as u64))?;
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

/// What the graph says of lags: found once for a learner.
pub(super) struct Lagged {
    /// Ops with wide traces.
    pub wide: LagPlan,
    /// All ops with full traces.
    pub all: LagPlan,
    /// `|dh'_a / dh_c|` at most, by group, a and c.
    bounds: Vec<Vec<Vec<f64>>>,
}

/// Bytes per second and operations per second of the machine that costs are told for.
const BANDWIDTH: f64 = 8e9;
const RATE: f64 = 100e9;

/// Bytes of a chunk's values, where it has rings as well.
const CHUNK_BYTES: usize = 256 << 20;

/// Steps of a chunk, where it has rings as well.
const CHUNK_STEPS: usize = 50;

/// No state remembers longer than this.
const LONGEST_LAG: usize = 1 << 16;

impl Learner {
    /// The form for a sequence of `steps` steps.
    pub fn form(&self, steps: usize) -> Form {
        self.choice(steps).used.form
    }

    /// The form for a sequence of `steps` steps, and why.
    pub fn choice(&self, steps: usize) -> Choice {
        let dense = self.candidate(Form::Dense { chunk: self.dense_chunk(steps) }, steps);
        let window = matches!(self.config().vjp, Vjp::MultiStep { window } if window > 1);
        let setting = self.config().trace;
        let alone = Choice { used: dense.clone(), turned_down: vec![] };
        if window || setting == TraceSetting::Dense || self.lagged().all.ops.is_empty() {
            return alone;
        }
        // Someone who says how long a chunk is means that of the dense form, unless another is named.
        if setting == TraceSetting::Auto && (self.config().chunk.is_some() || self.lagged().wide.ops.is_empty()) {
            return alone;
        }
        let chunk = self.config().chunk.unwrap_or_else(|| self.lag_chunk(steps)).clamp(1, steps.max(1));
        let lag = self.config().lag.or_else(|| self.sufficient_lag());
        let mut all = vec![dense];
        all.extend(lag.map(|lag| self.candidate(Form::FixedLag { chunk, lag: lag.clamp(1, steps.max(1)) }, steps)));
        if self.factorised_ops() == 0 {
            all.push(self.candidate(Form::Whole, steps));
            all.push(self.candidate(Form::Recompute { chunk }, steps));
        }
        self.choose(setting, all)
    }

    fn choose(&self, setting: TraceSetting, all: Vec<Candidate>) -> Choice {
        let named = |c: &Candidate| {
            matches!(
                (setting, c.form),
                (TraceSetting::FixedLag, Form::FixedLag { .. })
                    | (TraceSetting::Whole, Form::Whole)
                    | (TraceSetting::Recompute, Form::Recompute { .. })
            )
        };
        let forgets = |c: &Candidate| c.cut.is_none_or(|cut| cut <= self.config().lag_tolerance);
        let limit = self.config().memory_budget.map_or(all[0].bytes, |b| usize::try_from(b).unwrap_or(usize::MAX));
        let fast = |a: &&Candidate, b: &&Candidate| a.seconds.total_cmp(&b.seconds);
        let fitting = all.iter().filter(|c| c.bytes <= limit && forgets(c)).min_by(fast);
        let smallest = || all.iter().filter(|c| forgets(c)).min_by_key(|c| c.bytes);
        let used =
            if setting == TraceSetting::Auto { fitting.or_else(smallest) } else { all.iter().find(|c| named(c)) };
        let used = used.unwrap_or(&all[0]).clone();
        let why = |c: &Candidate| match c.form {
            _ if setting != TraceSetting::Auto => "another was asked for",
            Form::FixedLag { .. } if !forgets(c) => "the states forget too slowly",
            _ if c.bytes > limit && self.config().memory_budget.is_some() => "larger than --memory_budget",
            _ if c.bytes > limit => "larger than dense traces",
            _ => "slower",
        };
        let turned_down = all.into_iter().filter(|c| c.form != used.form).map(|c| (c.clone(), why(&c).to_string()));
        Choice { turned_down: turned_down.collect(), used }
    }

    /// A lag that was asked for must not cut off more than it may.
    pub(super) fn check_lag(&self) -> Result<(), LearnError> {
        let LearnerConfig { trace, lag, lag_tolerance, .. } = *self.config();
        if trace != TraceSetting::FixedLag || !self.rule().is_online() || self.lagged().wide.ops.is_empty() {
            return Ok(());
        }
        let cut = self.cut_after(lag.unwrap_or(LONGEST_LAG));
        if cut <= lag_tolerance || (lag.is_none() && self.sufficient_lag().is_some()) {
            return Ok(());
        }
        let what = match cut.is_finite() {
            true => format!("may cut off {cut:.1e} of a learning signal"),
            false => "may cut off any part of a learning signal: the network's graph gives no bound for what its states remember".into(),
        };
        let remedy = self.sufficient_lag().map_or(String::new(), |lag| format!("use --lag {lag}, or "));
        Err(LearnError::Setting(format!(
            "a fixed lag must cut off no more than --lag_tolerance {lag_tolerance:e}, got --lag {} which {what}; {remedy}leave the form \
             to --trace auto",
            lag.map_or_else(|| "none".to_string(), |lag| lag.to_string())
        )))
    }

    /// What a form costs.
    fn candidate(&self, form: Form, steps: usize) -> Candidate {
        let wide = &self.lagged().wide;
        let (stack, ring) = (self.bytes_per_step(), wide.bytes_per_step());
        let traces = self.plan.bytes(&self.structure, self.batch());
        let narrow = traces - self.wide_bytes();
        let states: usize = self.prepared.old_states().iter().map(|t| t.shape().bytes()).sum();
        let pass = |bytes: usize| 2.0 * bytes as f64 / BANDWIDTH;
        let (bytes, seconds) = match form {
            Form::Dense { chunk } => (traces + chunk * stack, 1.5 * pass(traces) / chunk as f64),
            Form::FixedLag { chunk, lag } => {
                // The rings as they pass from chunk to chunk, and with the chunk behind them.
                let all = (lag + chunk) * ring;
                (narrow + lag * ring + all + chunk * stack, pass(all) / chunk as f64)
            }
            Form::Whole => (steps * stack, pass(ring)),
            Form::Recompute { chunk } => {
                let products = self.structure.ops.iter().filter(|op| op.kind == Kind::Dense && op.recurrent);
                let flops: usize = products.map(|op| 2 * self.batch() * op.weight.iter().product::<usize>()).sum();
                (steps.div_ceil(chunk) * states + chunk * stack, pass(ring) + flops as f64 / RATE)
            }
        };
        let cut = match form {
            Form::FixedLag { lag, .. } if lag < steps => Some(self.cut_after(lag)),
            _ => None,
        };
        Candidate { form, bytes, seconds, cut }
    }

    fn factorised_ops(&self) -> usize {
        self.plan.kinds.iter().filter(|kind| **kind == Some(TraceKind::Factorised)).count()
    }

    /// Steps per chunk beside rings: a divisor of the sequence if one is near.
    fn lag_chunk(&self, steps: usize) -> usize {
        let fitting = (CHUNK_BYTES / self.bytes_per_step().max(1)).clamp(1, CHUNK_STEPS).min(steps.max(1));
        let divisor = (fitting.div_ceil(2)..=fitting).rev().find(|k| steps.is_multiple_of(*k));
        divisor.unwrap_or(fitting)
    }

    /// The smallest lag that cuts off no more than the tolerance, if the graph says so.
    fn sufficient_lag(&self) -> Option<usize> {
        let tolerance = self.config().lag_tolerance;
        let groups = self.lagged().bounds.iter().filter(|d| !d.is_empty());
        groups.map(|d| lag_of(d, tolerance)).try_fold(1, |most, lag| Some(most.max(lag?)))
    }

    /// The largest factor by which a signal reaches a state `lag` steps earlier; infinite if the graph does not say.
    pub fn cut_after(&self, lag: usize) -> f64 {
        let groups = self.lagged().bounds.iter().filter(|d| !d.is_empty());
        groups.map(|d| norm(&power(d, lag))).fold(0.0, f64::max)
    }

    pub(super) fn lagged(&self) -> &Lagged {
        self.lagged.get_or_init(|| self.survey())
    }

    /// Builds two steps in a graph that is thrown away, and looks at what they have.
    fn survey(&self) -> Lagged {
        let full = self.structure.traced().filter(|(k, _)| self.plan.kinds[*k] == Some(TraceKind::Full));
        let all: BTreeSet<usize> = full.map(|(k, _)| k).collect();
        let ops = &self.structure.ops;
        let is_wide = |k: &usize| ops[*k].kind == Kind::Dense && ops[*k].reached.iter().any(|r| !r.wide.is_empty());
        let mut wide: BTreeSet<usize> = all.iter().copied().filter(is_wide).collect();
        // A bias beside a wide weight has the same recursion.
        let beside = |k: &usize| wide.iter().any(|w| ops[*w].groups.iter().any(|g| ops[*k].groups.contains(g)));
        let biases = all.iter().copied().filter(|k| ops[*k].kind == Kind::Elementwise && beside(k));
        let biases: Vec<usize> = biases.collect();
        wide.extend(biases);
        if all.is_empty() {
            return Lagged { wide: LagPlan::default(), all: LagPlan::default(), bounds: vec![] };
        }
        let p = &self.prepared;
        let g = Graph::new();
        let args: Vec<Tensor> =
            p.body.params().iter().enumerate().map(|(k, t)| g.parameter(k, t.shape().clone())).collect();
        let inputs = g.parameter(args.len(), Shape::f32([&[2], &p.input.dims[..]].concat()));
        let states = args[p.phis..p.phis + p.states].to_vec();
        let carry = Carry { states, traces: None, time: g.scalar(DType::S32, 0.0), lag: 0 };
        let target = g.parameter(args.len() + 1, p.targets(2));
        let seen = self.look(&g, &args[..p.phis], &carry, &inputs, &target, None, true);
        let Some(slots) = &seen.slots else {
            return Lagged { wide: LagPlan::default(), all: LagPlan::default(), bounds: vec![] };
        };
        let outside: BTreeSet<usize> =
            all.iter().copied().filter(|&k| ops[k].x == Some(p.body.params()[p.phis + p.states].value())).collect();
        let view = seen.view(self, &g);
        let of = |ops: BTreeSet<usize>| LagPlan::new(&view, slots, ops, outside.clone());
        let (wide, all) = (of(wide), of(all));
        let params = [&args[..], &[inputs.clone(), target.clone()]].concat();
        let mut ranges = self.ranges.clone();
        ranges.resize(params.len(), Range::ANY);
        let bounds = (0..self.structure.groups.len())
            .map(|group| bounds(&wide, group, &view.transitions[group], &params, &ranges));
        let bounds = bounds.collect();
        Lagged { wide, all, bounds }
    }
}

/// The largest absolute transitions of a group that wide ops drive.
fn bounds(plan: &LagPlan, g: usize, d: &[Vec<Option<Tensor>>], params: &[Tensor], ranges: &[Range]) -> Vec<Vec<f64>> {
    let states: BTreeSet<usize> = plan
        .kept
        .keys()
        .filter_map(|ring| match *ring {
            Ring::Transition(group, a, c) if group == g => Some([a, c]),
            Ring::Drive(_, group, a) if group == g => Some([a, a]),
            _ => None,
        })
        .flatten()
        .collect();
    let size = |a: usize, c: usize| match (plan.kept.get(&Ring::Transition(g, a, c)), &d[a][c]) {
        (Some(Kept::Number(v)), _) => v.abs(),
        (Some(_), Some(t)) => Func::from_values(params.to_vec(), vec![t.clone()]).ranges_of(ranges)[0].size(),
        _ => 0.0,
    };
    states.iter().map(|&a| states.iter().map(|&c| size(a, c)).collect()).collect()
}

type Matrix = Vec<Vec<f64>>;

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let n = a.len();
    let entry = |i: usize, j: usize| {
        (0..n).map(|k| if a[i][k] == 0.0 || b[k][j] == 0.0 { 0.0 } else { a[i][k] * b[k][j] }).sum()
    };
    (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect()
}

fn power(d: &Matrix, mut exponent: usize) -> Matrix {
    let n = d.len();
    let mut result: Matrix = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let mut square = d.clone();
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = product(&result, &square);
        }
        square = product(&square, &square);
        exponent /= 2;
    }
    result
}

/// The largest sum of a column.
fn norm(m: &Matrix) -> f64 {
    (0..m.len()).map(|c| m.iter().map(|row| row[c]).sum::<f64>()).fold(0.0, f64::max)
}

/// The smallest power of `d` with a norm of at most `tolerance`, if it is one of the first.
fn lag_of(d: &Matrix, tolerance: f64) -> Option<usize> {
    let small = |lag: usize| norm(&power(d, lag)) <= tolerance;
    let mut high = 1;
    while !small(high) {
        high *= 2;
        if high > LONGEST_LAG {
            return None;
        }
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = (low + high) / 2;
        if small(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_of_leaks() {
        // 0.9^131 is the first power below 1e-6.
        assert_eq!(lag_of(&vec![vec![0.9]], 1e-6), Some(132));
        assert_eq!(lag_of(&vec![vec![1.0]], 1e-6), None);
        assert_eq!(lag_of(&vec![vec![f64::INFINITY]], 1e-6), None);
        let cascade = vec![vec![0.9, 0.0], vec![0.5, 0.8]];
        let lag = lag_of(&cascade, 1e-6).expect("it forgets");
        assert!(norm(&power(&cascade, lag)) <= 1e-6 && norm(&power(&cascade, lag - 1)) > 1e-6, "{lag}");
    }
}
