//! A whole sequence under any method: what a training program is made of.

use std::ops::Deref;

use hlo::{DType, Func, Graph, Shape, Tensor, scan_whole};
use serde::{Deserialize, Serialize};

use super::{
    Attachment, LearnError, Method, Objective, Prepared, Rule, Structure, Vjp,
    chunk::{Forward, Steps, Values},
    objective::OfSum,
    paths::Paths,
    rule::Passage,
    signal::Signal,
    structure::Kind,
    trace::{ChunkView, Slot, Slots, TraceKind, TracePlan, Traces},
};
use crate::cell::Model;

/// How to learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearnerConfig {
    /// Which rule.
    pub method: Method,
    /// How the gradient is formed from traces.
    pub vjp: Vjp,
    /// Steps per chunk; chosen from a memory budget when absent.
    pub chunk: Option<usize>,
    /// Steps at the start of a sequence that advance states and traces but carry no loss.
    pub warmup: usize,
    /// Correction of ES-D-RTRL as in releases before 0.2 of the reference library.
    pub old_correction: bool,
}

impl Default for LearnerConfig {
    fn default() -> Self {
        LearnerConfig { method: Method::D_RTRL, vjp: Vjp::default(), chunk: None, warmup: 0, old_correction: false }
    }
}

/// A model, an objective and a rule, ready to emit training programs.
pub struct Learner {
    /// Step and loss.
    pub prepared: Prepared,
    /// What the graph of the step says.
    pub structure: Structure,
    /// What an online rule follows from each trained parameter to the loss, and what it leaves out.
    pub paths: Vec<Paths>,
    /// How traced ops learn.
    pub plan: TracePlan,
    pub(super) objective: Objective,
    rule: Box<dyn Deref<Target = dyn Rule>>,
    config: LearnerConfig,
    batch: usize,
    /// Positions of spikes among the observed values.
    pub(super) spikes: Vec<usize>,
}

/// Result of a sequence.
pub struct SequenceOut {
    /// Gradient of the summed loss for every parameter (zeros for fixed ones).
    pub grads: Vec<Tensor>,
    /// Loss of each step summed over the steps that count, a scalar.
    pub loss: Tensor,
    /// Output summed over the steps that count, `[B, C]`.
    pub out: Tensor,
    /// Tracked values, their means over all steps.
    pub tracked: Vec<Tensor>,
    /// States after the sequence.
    pub states: Vec<Tensor>,
}

/// What passes from chunk to chunk.
#[derive(Clone)]
pub struct Carry {
    /// States.
    pub states: Vec<Tensor>,
    /// Traces; `None` while all are zero.
    pub traces: Option<Traces>,
    /// Steps since the start of the sequence, `s32[]`.
    pub time: Tensor,
}

/// What a piece of a sequence adds up.
pub struct Sums {
    /// Gradients by `phi`.
    pub grads: Vec<Option<Tensor>>,
    /// Loss, a scalar.
    pub loss: Tensor,
    /// Output, `[B, C]`.
    pub out: Tensor,
    /// Tracked values.
    pub tracked: Vec<Tensor>,
}

impl Sums {
    fn add(self, other: Sums) -> Sums {
        Sums {
            grads: self.grads.into_iter().zip(other.grads).map(|(a, b)| Tensor::sum_of([a, b])).collect(),
            loss: self.loss + other.loss,
            out: self.out + other.out,
            tracked: self.tracked.iter().zip(&other.tracked).map(|(a, b)| a + b).collect(),
        }
    }
}

/// Bytes that the stacks of a chunk may have where no trace is as large as a weight.
const CACHE_BUDGET: usize = 32 << 20;

/// The same where some are.
const FULL_BUDGET: usize = 160 << 20;

/// Chunks longer than this bring little more speed. It divides the lengths of the published evaluation, so that memory is the
/// same for all of them.
const LONGEST_CHUNK: usize = 50;

impl Learner {
    /// Joins `model`, `objective` and `config`.
    ///
    /// # Errors
    /// When the rule cannot treat the model, or a setting makes no sense.
    pub fn new(model: &Model, objective: &Objective, config: &LearnerConfig) -> Result<Learner, LearnError> {
        Learner::with_rule(model, objective, config, Box::new(config.method))
    }

    /// As [`Learner::new`], with a rule that is not in the table: `Box::new(rule)` of a `Box<dyn Rule>`. The rule takes the place
    /// of `config.method`.
    ///
    /// # Errors
    /// When the rule cannot treat the model, or a setting makes no sense.
    pub fn with_rule(
        model: &Model,
        objective: &Objective,
        config: &LearnerConfig,
        rule: Box<dyn Deref<Target = dyn Rule>>,
    ) -> Result<Learner, LearnError> {
        check(config)?;
        rule.check()?;
        if objective.of_sum == OfSum::Always && objective.regularized() {
            let text =
                "regularisers act on single steps, but the loss is one of the summed output; leave one of them out";
            return Err(LearnError::Setting(text.into()));
        }
        let prepared = Prepared::new(model, objective);
        let structure = Structure::new(&prepared)?;
        check_window(config.vjp, &**rule, &prepared, &structure)?;
        let mut paths = Vec::new();
        if rule.is_online() {
            let names: Vec<String> = model.states.iter().map(|s| s.name.clone()).collect();
            structure.check_online(&prepared, &names)?;
            paths = super::paths::paths(model, &prepared, &structure, config.vjp, &**rule)?;
        }
        let plan = TracePlan::new(&**rule, config.old_correction, &structure, model.batch());
        let is_spike = |k: &usize| model.observed[*k].rsplit('.').next() == Some("spike");
        Ok(Learner {
            prepared,
            structure,
            paths,
            plan,
            objective: *objective,
            rule,
            config: config.clone(),
            batch: model.batch(),
            spikes: (0..model.observed.len()).filter(is_spike).collect(),
        })
    }

    /// The rule.
    pub fn rule(&self) -> &dyn Rule {
        &**self.rule
    }

    /// The settings.
    pub fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// Steps per chunk for a sequence of `steps`.
    pub fn chunk_length(&self, steps: usize) -> usize {
        if let Vjp::MultiStep { window } = self.config.vjp
            && window > 1
        {
            return window.min(steps).max(1);
        }
        let longest = steps.max(1);
        self.config.chunk.unwrap_or_else(|| self.default_chunk(longest)).clamp(1, longest)
    }

    /// Steps per chunk where nothing is learned yet. Without weight-sized traces a single step is fastest: states and traces
    /// advance together in one loop, and nothing is stacked for later.
    fn warmup_chunk(&self, steps: usize) -> usize {
        if self.has_wide_traces() { self.chunk_length(steps) } else { self.config.chunk.unwrap_or(1).min(steps) }
    }

    /// Whether a trace has a value for each weight and sequence.
    fn has_wide_traces(&self) -> bool {
        self.structure.traced().any(|(k, op)| {
            let full = self.plan.kinds[k] == Some(TraceKind::Full) && op.kind == Kind::Dense;
            full && op.reached.iter().any(|reach| !reach.wide.is_empty())
        })
    }

    /// The longest chunk whose stacks fit a budget, and that divides the sequence if one near it does. Stacks that stay in the
    /// processor's cache are fastest; weight-sized traces are so expensive to pass over that a longer chunk pays, and what
    /// parameters, gradients and optimiser (or the traces) take anyway may be taken once more.
    fn default_chunk(&self, steps: usize) -> usize {
        let params: usize = self.prepared.prefix.params().iter().map(|p| p.shape().bytes()).sum();
        let traces = self.plan.bytes(&self.structure, self.batch);
        let budget = (if self.has_wide_traces() { FULL_BUDGET } else { CACHE_BUDGET }).max(4 * params).max(traces / 2);
        let fitting = (budget / self.bytes_per_step().max(1)).clamp(1, LONGEST_CHUNK).min(steps);
        let divisor = (fitting.div_ceil(2)..=fitting).rev().find(|k| steps.is_multiple_of(*k));
        divisor.unwrap_or_else(|| steps.div_ceil(steps.div_ceil(fitting)))
    }

    /// Bytes that a chunk stacks per step: op inputs; states before and after, transitions (few of a group's are neither zero nor
    /// constant), drives, signals.
    fn bytes_per_step(&self) -> usize {
        let per_group = self.structure.groups.iter().map(|g| {
            let k = g.states.len();
            4 * g.dims.iter().product::<usize>() * 5 * k
        });
        let inputs =
            self.structure.ops.iter().filter(|op| op.kind == Kind::Dense).map(|op| 4 * self.batch * op.weight[0]);
        per_group.chain(inputs).sum()
    }

    /// The gradient of a sequence. `inputs: [T, B, n_in]` of any type, `target: s32[B]`.
    ///
    /// # Panics
    /// When shapes do not fit the model.
    pub fn sequence(
        &self,
        g: &Graph,
        params: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
    ) -> SequenceOut {
        let phis = self.prepared.prefix.call(g, params);
        let steps = inputs.dims()[0];
        let warmup = self.config.warmup.min(steps);
        let (sums, states) = if self.rule.is_online() {
            let mut carry = self.start(g, states);
            if warmup > 0 {
                let before = inputs.slice_axis(0, 0, warmup);
                carry = self.segment(g, &phis, carry, &before, target, false, true).0;
            }
            let rest = inputs.slice_axis(0, warmup, steps);
            let (carry, sums) = self.segment(g, &phis, carry, &rest, target, true, false);
            (sums, carry.states)
        } else {
            self.bptt(g, &phis, states, inputs, target, warmup)
        };
        let grads = self.prepared.pull(g, params, &sums.grads);
        let tracked = sums.tracked.iter().map(|sum| sum * (1.0 / steps.max(1) as f64)).collect();
        SequenceOut { grads, loss: sums.loss, out: sums.out, tracked, states }
    }

    /// The state before a sequence.
    pub fn start(&self, g: &Graph, states: &[Tensor]) -> Carry {
        Carry { states: states.to_vec(), traces: None, time: g.scalar(DType::S32, 0.0) }
    }

    /// Zero traces.
    pub fn zero_traces(&self, g: &Graph) -> Traces {
        self.trace_slots().into_iter().map(|(slot, shape)| (slot, g.zeros(&shape))).collect()
    }

    /// Every trace array with its shape.
    pub fn trace_slots(&self) -> std::collections::BTreeMap<Slot, Shape> {
        self.plan.slots(&self.structure, self.batch)
    }

    fn no_sums(&self, g: &Graph) -> Sums {
        let out = self.prepared.out().shape();
        let tracked = self.prepared.tracked().iter().map(|t| g.zeros(t.shape())).collect();
        Sums { grads: vec![None; self.prepared.phis], loss: g.scalar(DType::F32, 0.0), out: g.zeros(out), tracked }
    }

    /// Runs many steps, chunk by chunk. With `learn` the steps carry loss; with `keep` the traces after the last step are
    /// wanted (the last chunk saves that work otherwise).
    #[allow(clippy::too_many_arguments, reason = "the state of a sequence and two switches")]
    fn segment(
        &self,
        g: &Graph,
        phis: &[Tensor],
        mut carry: Carry,
        inputs: &Tensor,
        target: &Tensor,
        learn: bool,
        keep: bool,
    ) -> (Carry, Sums) {
        let steps = inputs.dims()[0];
        let mut sums = self.no_sums(g);
        let length = if learn { self.chunk_length(steps) } else { self.warmup_chunk(steps) };
        let tail = steps % length;
        let equal = steps / length - usize::from(tail == 0 && !keep);
        let mut at = 0;
        for (count, length, keep) in [(equal, length, true), (1, steps - equal * length, keep)] {
            if count == 0 || length == 0 || at == steps {
                continue;
            }
            let (next, more) = if count == 1 {
                self.chunk(g, phis, carry, &inputs.slice_axis(0, at, at + length), target, learn, keep)
            } else {
                self.chunks(g, phis, carry, inputs, target, learn, (at, count, length))
            };
            at += count * length;
            carry = next;
            sums = sums.add(more);
        }
        (carry, sums)
    }

    /// A loop over equal chunks: `place` is the first step, their number and their length. The inputs are read where they
    /// are, not copied.
    #[allow(clippy::too_many_arguments, reason = "the state of a sequence and two switches")]
    fn chunks(
        &self,
        g: &Graph,
        phis: &[Tensor],
        carry: Carry,
        inputs: &Tensor,
        target: &Tensor,
        learn: bool,
        (at, count, length): (usize, usize, usize),
    ) -> (Carry, Sums) {
        let slots: Vec<Slot> = self.trace_slots().into_keys().collect();
        let traces = carry.traces.unwrap_or_else(|| self.zero_traces(g));
        let learned: Vec<usize> = (0..self.prepared.phis).filter(|&k| learn && self.prepared.is_trained(k)).collect();
        let none = self.no_sums(g);

        let mut init = carry.states.clone();
        init.extend(slots.iter().map(|s| traces[s].clone()));
        init.push(carry.time);
        init.extend([none.loss, none.out]);
        init.extend(none.tracked);
        init.extend(learned.iter().map(|&k| g.zeros(phis[k].shape())));
        let starts =
            g.iota(Shape::s32([count]), 0) * g.scalar(DType::S32, length as f64) + g.scalar(DType::S32, at as f64);
        let mut consts = phis.to_vec();
        consts.extend([target.clone(), inputs.clone()]);

        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.push(Shape::s32([]));
        shapes.extend(consts.iter().map(|t| t.shape().clone()));
        let (n, s, tracked) = (carry.states.len(), slots.len(), self.prepared.tracked);
        let body = Func::trace(&shapes, |g, p| {
            let (carried, rest) = p.split_at(init.len());
            let traces = slots.iter().cloned().zip(carried[n..n + s].iter().cloned()).collect();
            let carry = Carry { states: carried[..n].to_vec(), traces: Some(traces), time: carried[n + s].clone() };
            let (phis, data) = rest[1..].split_at(self.prepared.phis);
            let piece = data[1].dynamic_slice(&rest[0], length);
            let (next, sums) = self.chunk(g, phis, carry, &piece, &data[0], learn, true);
            let mut out = next.states;
            let traces = next.traces.unwrap_or_default();
            out.extend(slots.iter().map(|s| traces[s].clone()));
            out.push(next.time);
            let old = &carried[n + s + 1..];
            out.extend([&old[0] + sums.loss, &old[1] + sums.out]);
            out.extend(sums.tracked.iter().zip(&old[2..]).map(|(new, sum)| sum + new));
            out.extend(learned.iter().zip(&old[2 + tracked..]).map(|(&k, sum)| match &sums.grads[k] {
                Some(grad) => sum + grad,
                None => sum.clone(),
            }));
            out
        });
        let (mut last, _) = scan_whole(g, &body, count, false, &init, &[starts], &consts);
        let mut sums = self.no_sums(g);
        for (&k, grad) in learned.iter().zip(last.split_off(n + s + 3 + tracked)) {
            sums.grads[k] = Some(grad);
        }
        sums.tracked = last.split_off(n + s + 3);
        sums.loss = last[n + s + 1].clone();
        sums.out = last[n + s + 2].clone();
        let traces = slots.into_iter().zip(last[n..n + s].iter().cloned()).collect();
        (Carry { states: last[..n].to_vec(), traces: Some(traces), time: last[n + s].clone() }, sums)
    }

    /// One chunk of an online rule; `inputs: [K, B, n_in]`.
    #[allow(clippy::too_many_arguments, reason = "the state of a sequence and two switches")]
    pub fn chunk(
        &self,
        g: &Graph,
        phis: &[Tensor],
        carry: Carry,
        inputs: &Tensor,
        target: &Tensor,
        learn: bool,
        keep: bool,
    ) -> (Carry, Sums) {
        let length = inputs.dims()[0];
        let inputs = inputs.convert(DType::F32);
        let window = learn && matches!(self.config.vjp, Vjp::MultiStep { window } if window > 1);
        let (forward, whole) = if window {
            let (forward, entry, sums) = self.window(g, phis, &carry.states, &inputs, target);
            (forward, Some((entry, sums)))
        } else {
            (Forward::run(g, &self.prepared, &self.structure, phis, &carry.states, &inputs), None)
        };
        let steps = Steps::new(g, &self.prepared, &self.structure, phis, &forward, &inputs, target);
        let steps = steps.with_feedback(self.rule());
        let Values { loss, out, inputs: op_inputs, tracked } = steps.values();
        let mut sums = self.no_sums(g);
        let mut slots = None;
        if learn {
            let none = steps.no_signals();
            let step_sums = |grads| Sums { grads, loss: loss.sum_all(), out: out.sum(&[0]), tracked: vec![] };
            // A signal before step s belongs to the trace after step s - 1: that of the first step to the old trace.
            let (entry, signal, direct) = match (whole, self.config.vjp) {
                (Some((entry, inside)), _) => {
                    sums = inside;
                    (entry, none.after, none.direct)
                }
                (None, Vjp::SingleStep { attachment }) => {
                    let found = steps.signals(attachment);
                    sums = step_sums(found.instant);
                    let signal = add_signals(found.after, each(&found.before, &|t| later(t, length)));
                    (each(&found.before, &|t| Some(t.at(0))), signal, found.direct)
                }
                (None, Vjp::MultiStep { .. }) => {
                    let (before, grads) = steps.entry_signals();
                    sums = step_sums(grads);
                    (each(&before, &|t| Some(t.at(0))), each(&before, &|t| later(t, length)), none.direct)
                }
            };
            slots = Some(Slots { entry, steps: signal, direct, correction: self.correction(&carry.time, length) });
        }
        sums.tracked = tracked.iter().map(|t| t.sum(&[0])).collect();
        let transitions = steps.transitions();
        let drives = self
            .structure
            .traced()
            .flat_map(|(k, op)| op.groups.iter().map(move |&gr| (k, gr)))
            .map(|(k, gr)| ((k, gr), steps.drive(k, gr)))
            .collect();
        let view = ChunkView {
            graph: g,
            structure: &self.structure,
            plan: &self.plan,
            transitions: &transitions,
            drives: &drives,
            inputs: &op_inputs,
            length,
        };
        let result = view.run(carry.traces.as_ref(), slots.as_ref(), keep);
        for (op, grad) in self.structure.ops.iter().zip(result.grads) {
            sums.grads[op.phi] = Tensor::sum_of([sums.grads[op.phi].take(), grad]);
        }
        let time = carry.time + g.scalar(DType::S32, length as f64);
        (Carry { states: forward.states, traces: result.traces, time }, sums)
    }

    /// Divisors of the factorised rule for slots 0 .. K of a chunk that starts after `time` steps, `[K + 1]`.
    fn correction(&self, time: &Tensor, length: usize) -> Tensor {
        let g = time.graph();
        let shape = Shape::s32([length + 1]);
        let slot = g.iota(shape.clone(), 0);
        let calls = match self.config.vjp {
            Vjp::SingleStep { .. } => &slot + time,
            Vjp::MultiStep { window: 1 } => &slot + &(time + &g.scalar(DType::S32, 1.0)),
            Vjp::MultiStep { window } => {
                let windows = time / &g.scalar(DType::S32, window as f64);
                (windows + g.scalar(DType::S32, 1.0)).broadcast_to(&shape.dims)
            }
        };
        let base = if self.plan.old_correction { 1.0 - self.plan.decay } else { self.plan.decay };
        let count = calls.convert(DType::F32);
        if base <= 0.0 {
            return count.full_like(1.0);
        }
        let c = (-(&count * base.ln()).expm1()).maximum(&count.full_like(1e-8));
        count.gt(&count.full_like(1000.0)).select(&c.full_like(1.0), &c)
    }
}

/// A signal passed through `f`, state by state.
fn each(signal: &Signal, f: &dyn Fn(&Tensor) -> Option<Tensor>) -> Signal {
    signal.iter().map(|states| states.iter().map(|t| t.as_ref().and_then(f)).collect()).collect()
}

fn add_signals(a: Signal, b: Signal) -> Signal {
    let states = |(a, b): (Vec<Option<Tensor>>, Vec<Option<Tensor>>)| {
        a.into_iter().zip(b).map(|(a, b)| Tensor::sum_of([a, b])).collect()
    };
    a.into_iter().zip(b).map(states).collect()
}

/// `[K, ..]` moved one step towards the start; nothing at the last step.
fn later(t: &Tensor, length: usize) -> Option<Tensor> {
    let zeros = vec![0; t.rank()];
    let mut high = zeros.clone();
    high[0] = 1;
    (length > 1).then(|| t.slice_axis(0, 1, length).pad(&zeros, &high))
}

fn check(config: &LearnerConfig) -> Result<(), LearnError> {
    let wrong = |text: String| Err(LearnError::Setting(text));
    if config.chunk == Some(0) {
        return wrong("a chunk needs at least one step, got --chunk 0; leave the flag out for the default".into());
    }
    if config.vjp == (Vjp::MultiStep { window: 0 }) {
        return wrong("a window needs at least one step, got 0; 1 is the usual choice".into());
    }
    Ok(())
}

/// Inside a window gradients are exact, so there a rule cannot have signals of its own.
fn check_window(vjp: Vjp, rule: &dyn Rule, prepared: &Prepared, structure: &Structure) -> Result<(), LearnError> {
    let Vjp::MultiStep { window } = vjp else { return Ok(()) };
    let g = Graph::new();
    let mut dense = structure.ops.iter().filter(|op| op.kind == Kind::Dense);
    let own = dense.any(|op| {
        let weight = g.parameter(op.phi, prepared.body.params()[op.phi].shape().clone());
        rule.feedback(&Passage { name: op.site.clone(), weight: &weight }).is_some()
    });
    if window == 1 || !own || !rule.is_online() {
        return Ok(());
    }
    Err(LearnError::Setting(format!(
        "windows have exact gradients inside, which a rule with its own feedback has not, got --window {window}; use          --vjp_method single-step or --window 1"
    )))
}

impl From<Attachment> for Vjp {
    fn from(attachment: Attachment) -> Self {
        Vjp::SingleStep { attachment }
    }
}
