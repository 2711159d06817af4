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
    /// What it costs per step beyond what every form does, in seconds: see [`COSTS`].
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
#[derive(Default)]
pub(super) struct Lagged {
    /// Ops with wide traces.
    pub wide: LagPlan,
    /// All ops with full traces.
    pub all: LagPlan,
    /// `|dh'_a / dh_c|` at most, by group, a and c.
    bounds: Vec<Vec<Vec<f64>>>,
}

/// The machine that costs are told for, so that they are the same on every machine: two cores as `docs/results/memspeed.md` has them.
pub struct Costs {
    /// Bytes per second, read or written, of values that do not stay in a cache.
    pub bandwidth: f64,
    /// Bytes per second of pages that are taken from the system and given back: what is larger than a cache is taken anew each time.
    pub fresh: f64,
    /// Bytes that stay in a cache.
    pub cache: usize,
    /// Operations per second of large products.
    pub rate: f64,
}

/// See [`Costs`].
pub const COSTS: Costs = Costs { bandwidth: 8e9, fresh: 4e9, cache: 32 << 20, rate: 100e9 };

/// Bytes that a form may keep without a `--memory_budget`, if dense traces keep no less.
const STANDARD_BUDGET: usize = 3 << 30;

/// Bytes of a chunk's values, where it has rings as well.
const CHUNK_BYTES: usize = 256 << 20;

/// Steps of a chunk, where it has rings as well.
const CHUNK_STEPS: usize = 50;

/// No ring is longer than this.
const LONGEST_LAG: usize = 1 << 16;

/// States that feed each other may amplify a signal for this many steps before they forget it.
const LONGEST_SWING: usize = 1 << 10;

impl Learner {
    /// The form for a sequence of `steps` steps.
    pub fn form(&self, steps: usize) -> Form {
        self.choice(steps).used.form
    }

    /// The form for a sequence of `steps` steps, and why.
    pub fn choice(&self, steps: usize) -> Choice {
        let LearnerConfig { trace, chunk, lag, .. } = *self.config();
        let dense = self.candidate(Form::Dense { chunk: self.dense_chunk(steps) }, steps);
        // Someone who says how long a chunk is means that of the dense form, unless another is named.
        let auto = trace == TraceSetting::Auto && chunk.is_none();
        if trace == TraceSetting::Dense || self.no_other_form().is_some() || (trace == TraceSetting::Auto && !auto) {
            return Choice { used: dense, turned_down: vec![] };
        }
        if auto && self.lagged().wide.ops.is_empty() {
            return Choice { used: dense, turned_down: vec![] };
        }
        let chunk = chunk.unwrap_or_else(|| self.lag_chunk(steps)).clamp(1, steps.max(1));
        let lag = lag.or_else(|| self.sufficient_lag());
        let mut all = vec![dense];
        all.extend(lag.map(|lag| self.candidate(Form::FixedLag { chunk, lag: lag.clamp(1, steps.max(1)) }, steps)));
        if !self.has_factorised() {
            all.push(self.candidate(Form::Whole, steps));
            all.push(self.candidate(Form::Recompute { chunk }, steps));
        }
        self.choose(trace, all)
    }

    /// Why there is no form but the dense one, if so.
    fn no_other_form(&self) -> Option<&'static str> {
        let window = matches!(self.config().vjp, Vjp::MultiStep { window } if window > 1);
        let none = !self.plan.kinds.contains(&Some(TraceKind::Full));
        match (self.rule().is_online(), window, none) {
            (false, ..) => Some("bptt has no traces"),
            (_, true, _) => Some("windows of several steps need the traces at their entry"),
            (.., true) => Some("this rule has no trace of the size of a weight"),
            _ => None,
        }
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
        let standard = all[0].bytes.min(STANDARD_BUDGET);
        let limit = self.config().memory_budget.map_or(standard, |b| usize::try_from(b).unwrap_or(usize::MAX));
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
            _ if c.bytes > all[0].bytes => "larger than dense traces",
            _ if c.bytes > limit => "larger than the standard --memory_budget",
            _ => "slower",
        };
        let others = all.iter().filter(|c| c.form != used.form);
        let turned_down = others.map(|c| (c.clone(), why(c).to_string())).collect();
        Choice { turned_down, used }
    }

    /// A form that was asked for must be there, and a lag not cut off more than it may.
    pub(super) fn check_form(&self) -> Result<(), LearnError> {
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

    /// That a stream, which has no end to go back from, can keep the traces.
    ///
    /// # Errors
    /// When another form than the dense one was asked for.
    pub fn check_stream(&self) -> Result<(), LearnError> {
        match self.config().trace {
            TraceSetting::Auto | TraceSetting::Dense => Ok(()),
            other => Err(LearnError::Setting(format!(
                "a sequence that is driven step by step keeps dense traces, got --trace {other}; leave it out, or use --drive scan"
            ))),
        }
    }

    /// What a form costs.
    fn candidate(&self, form: Form, steps: usize) -> Candidate {
        let wide = &self.lagged().wide;
        let (stack, ring) = (self.bytes_per_step(), wide.bytes_per_step());
        let traces = self.plan.bytes(self.as_traced(), self.batch());
        let narrow = traces - self.wide_bytes();
        let states: usize = self.prepared.old_states().iter().map(|t| t.shape().bytes()).sum();
        let pass = |bytes: usize| 2.0 * bytes as f64 / COSTS.bandwidth;
        // What a chunk of values costs per step, if it does not stay in a cache.
        let values = |chunk: usize| match chunk * stack > COSTS.cache {
            true => pass(stack) + stack as f64 / COSTS.fresh,
            false => 0.0,
        };
        let (bytes, seconds) = match form {
            Form::Dense { chunk } => (traces + chunk * stack, values(chunk) + 1.5 * pass(traces) / chunk as f64),
            Form::FixedLag { chunk, lag } => {
                let all = (lag + chunk) * ring;
                // XLA copies rings on the way into loops and out of them: compiled programs have 2.4 to 6.5 times their bytes.
                let moved = (pass(all) + all as f64 / COSTS.fresh) / chunk as f64;
                (narrow + 4 * all + chunk * stack, values(chunk) + moved)
            }
            Form::Whole => (steps * stack, values(steps)),
            Form::Recompute { chunk } => {
                let products = self.structure.ops.iter().filter(|op| op.kind == Kind::Dense && op.recurrent);
                let flops: usize = products.map(|op| 2 * self.batch() * op.weight.iter().product::<usize>()).sum();
                (steps.div_ceil(chunk) * states + chunk * stack, values(chunk) + flops as f64 / COSTS.rate)
            }
        };
        let cut = match form {
            Form::FixedLag { lag, .. } if lag < steps => Some(self.cut_after(lag)),
            _ => None,
        };
        Candidate { form, bytes, seconds, cut }
    }

    fn has_factorised(&self) -> bool {
        self.plan.kinds.contains(&Some(TraceKind::Factorised))
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

    /// The largest factor by which a signal reaches a state `lag` steps earlier, or more; infinite if the graph does not say. It holds
    /// while fixed parameters have values that their initialisation can give ([`Model::range`](crate::cell::Model::range)).
    pub fn cut_after(&self, lag: usize) -> f64 {
        let groups = self.lagged().bounds.iter().filter(|d| !d.is_empty());
        groups.map(|d| reach(d, lag)).fold(0.0, f64::max)
    }

    pub(super) fn lagged(&self) -> &Lagged {
        self.lagged.get_or_init(|| self.survey())
    }

    /// Builds two steps in a graph that is thrown away, and looks at what they have.
    fn survey(&self) -> Lagged {
        let full = self.structure.traced().filter(|(k, _)| self.plan.kinds[*k] == Some(TraceKind::Full));
        let all: BTreeSet<usize> = full.map(|(k, _)| k).collect();
        let ops = &self.as_traced().ops;
        let is_wide = |k: &usize| ops[*k].kind == Kind::Dense && ops[*k].reached.iter().any(|r| !r.wide.is_empty());
        let mut wide: BTreeSet<usize> = all.iter().copied().filter(is_wide).collect();
        // A bias beside a wide weight has the same recursion.
        let beside = |k: &usize| wide.iter().any(|w| ops[*w].groups.iter().any(|g| ops[*k].groups.contains(g)));
        let biases = all.iter().copied().filter(|k| ops[*k].kind == Kind::Elementwise && beside(k));
        let biases: Vec<usize> = biases.collect();
        wide.extend(biases);
        if all.is_empty() {
            return Lagged::default();
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
        let Some(slots) = &seen.slots else { return Lagged::default() };
        let outside: BTreeSet<usize> =
            all.iter().copied().filter(|&k| ops[k].x == Some(p.body.params()[p.phis + p.states].value())).collect();
        let view = seen.view(self, &g);
        let of = |ops: BTreeSet<usize>| LagPlan::new(&view, slots, ops, outside.clone());
        let (wide, all) = (of(wide), of(all));
        let params = [&args[..], &[inputs.clone(), target.clone()]].concat();
        let mut ranges = self.ranges.clone();
        ranges.resize(params.len(), Range::ANY);
        let bounds = |group: usize| {
            let size = |a: usize, c: usize| match (
                wide.kept.get(&Ring::Transition(group, a, c)),
                &view.transitions[group][a][c],
            ) {
                (Some(Kept::Number(v)), _) => v.abs(),
                (Some(_), Some(t)) => Func::from_values(params.clone(), vec![t.clone()]).ranges_of(&ranges)[0].size(),
                _ => 0.0,
            };
            let states = wide.states(self.as_traced(), group);
            states.iter().map(|&a| states.iter().map(|&c| size(a, c)).collect()).collect()
        };
        let bounds = (0..self.structure.groups.len()).map(bounds).collect();
        Lagged { wide, all, bounds }
    }
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

/// The largest norm of the powers of `d` from `exponent` on. Norms multiply to a bound: from the first power with a norm of at most 1 on,
/// they only repeat smaller ones.
fn reach(d: &Matrix, exponent: usize) -> f64 {
    let Some(period) = first(LONGEST_SWING, |m| norm(&power(d, m)) <= 1.0) else { return f64::INFINITY };
    let mut from = power(d, exponent);
    let mut largest = norm(&from);
    for _ in 1..period {
        from = product(&from, d);
        largest = largest.max(norm(&from));
    }
    largest
}

/// The smallest number from 1 on, up to `last`, from which on something holds.
fn first(last: usize, holds: impl Fn(usize) -> bool) -> Option<usize> {
    let mut high = 1;
    while !holds(high) {
        high *= 2;
        if high > last {
            return None;
        }
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = (low + high) / 2;
        if holds(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// The smallest lag after which at most `tolerance` of a signal is left, if it is one of the first.
fn lag_of(d: &Matrix, tolerance: f64) -> Option<usize> {
    first(LONGEST_LAG, |lag| reach(d, lag) <= tolerance)
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
        assert!(reach(&cascade, lag) <= 1e-6 && reach(&cascade, lag - 1) > 1e-6, "{lag}");
        // A state that feeds another amplifies before it forgets: every later power counts.
        let swing = vec![vec![0.5, 0.0], vec![4.0, 0.5]];
        assert!(norm(&swing) > 1.0 && reach(&swing, 1) >= norm(&power(&swing, 3)));
        assert_eq!(reach(&vec![vec![1.1]], 5), f64::INFINITY);
    }
}
