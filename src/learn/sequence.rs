//! A whole sequence under any method: what a training program is made of.

use hlo::{DType, Func, Graph, Mapped, Shape, Tensor, Value, scan, scan_whole, transform};
use serde::{Deserialize, Serialize};

use super::{
    Attachment, LearnError, Method, Objective, Prepared, Structure, Vjp,
    chunk::{Forward, Signal, Steps, Values, kept},
    objective::OfSum,
    rules::{ChunkView, Slot, Slots, TraceKind, TracePlan, Traces},
    structure::Kind,
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
        LearnerConfig { method: Method::DRtrl, vjp: Vjp::default(), chunk: None, warmup: 0, old_correction: false }
    }
}

/// A model, an objective and a rule, ready to emit training programs.
pub struct Learner {
    /// Step and loss.
    pub prepared: Prepared,
    /// What the graph of the step says.
    pub structure: Structure,
    /// How traced ops learn.
    pub plan: TracePlan,
    objective: Objective,
    config: LearnerConfig,
    batch: usize,
    /// Positions of spikes among the observed values.
    spikes: Vec<usize>,
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

/// Result of a sequence without learning.
pub struct Evaluated {
    /// Loss of every sequence, `[B]`: of the summed output, or the sum over the steps that count.
    pub losses: Tensor,
    /// Output summed over the steps that count, `[B, C]`.
    pub out: Tensor,
    /// Spikes per neuron of every layer that fires, summed over all steps, `[B]` each.
    pub spikes: Vec<Tensor>,
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
        check(config)?;
        if objective.of_sum == OfSum::Always && objective.regularized() {
            let text =
                "regularisers act on single steps, but the loss is one of the summed output; leave one of them out";
            return Err(LearnError::Setting(text.into()));
        }
        let prepared = Prepared::new(model, objective);
        let structure = Structure::new(&prepared)?;
        if config.method.is_online() {
            let names: Vec<String> = model.states.iter().map(|s| s.name.clone()).collect();
            structure.check_online(&prepared, &names)?;
        }
        let plan = plan(config, &structure, model.batch());
        let is_spike = |k: &usize| model.observed[*k].rsplit('.').next() == Some("spike");
        Ok(Learner {
            prepared,
            structure,
            plan,
            objective: *objective,
            config: config.clone(),
            batch: model.batch(),
            spikes: (0..model.observed.len()).filter(is_spike).collect(),
        })
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
        let (sums, states) = if self.config.method.is_online() {
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
        let Values { loss, out, inputs: op_inputs, tracked } = steps.values();
        let mut sums = self.no_sums(g);
        let mut slots = None;
        if learn {
            let empty = || -> Signal { self.structure.groups.iter().map(|gr| vec![None; gr.states.len()]).collect() };
            let (entry, signal) = match (whole, self.config.vjp) {
                (Some((entry, inside)), _) => {
                    sums = inside;
                    (entry, empty())
                }
                (None, Vjp::SingleStep { attachment }) => {
                    let (signal, grads) = steps.signals(attachment);
                    sums = Sums { grads, loss: loss.sum_all(), out: out.sum(&[0]), tracked: vec![] };
                    (empty(), signal)
                }
                (None, Vjp::MultiStep { .. }) => {
                    // The signal at the entry of step s belongs to the trace after step s - 1.
                    let (before, grads) = steps.entry_signals();
                    sums = Sums { grads, loss: loss.sum_all(), out: out.sum(&[0]), tracked: vec![] };
                    let each = |f: &dyn Fn(&Tensor) -> Tensor| -> Signal {
                        before.iter().map(|s| s.iter().map(|t| t.as_ref().map(f)).collect()).collect()
                    };
                    let later = |t: &Tensor| {
                        let zeros = vec![0; t.rank()];
                        let mut high = zeros.clone();
                        high[0] = 1;
                        t.slice_axis(0, 1, length).pad(&zeros, &high)
                    };
                    (each(&|t| t.at(0)), each(&later))
                }
            };
            slots = Some(Slots { entry, steps: signal, correction: self.correction(&carry.time, length) });
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

    /// Runs a window with its exact derivative: `dL/dh` at the entry by group, and sums with exact gradients inside.
    fn window(
        &self,
        g: &Graph,
        phis: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
    ) -> (Forward, Vec<Vec<Option<Tensor>>>, Sums) {
        let kept = kept(&self.prepared, &self.structure);
        let whole = self.unrolled(phis, states, inputs, target, 0, &kept, false);
        let args: Vec<Tensor> = phis.iter().chain(states).chain([inputs, target]).cloned().collect();
        let wrt: Vec<bool> = (0..args.len())
            .map(|k| if k < phis.len() { self.prepared.is_trained(k) } else { k < phis.len() + states.len() })
            .collect();
        let vjp = transform::vjp(g, &whole, &args, &wrt);
        let mut cts = vec![None; vjp.results.len()];
        cts[0] = Some(vjp.results[0].full_like(1.0));
        let found = vjp.pull(&cts);
        let n = states.len();
        let forward = Forward {
            states: vjp.results[2..2 + n].to_vec(),
            before: vjp.results[2 + n..2 + 2 * n].to_vec(),
            known: kept.into_iter().zip(vjp.results[2 + 2 * n..].iter().cloned()).collect(),
        };
        let entry = self.structure.groups.iter();
        let entry = entry.map(|gr| gr.states.iter().map(|&s| found[phis.len() + s].clone()).collect()).collect();
        let sums = Sums {
            grads: found[..phis.len()].to_vec(),
            loss: vjp.results[0].clone(),
            out: vjp.results[1].clone(),
            tracked: vec![],
        };
        (forward, entry, sums)
    }

    /// Exact gradients of a whole sequence.
    fn bptt(
        &self,
        g: &Graph,
        phis: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
        warmup: usize,
    ) -> (Sums, Vec<Tensor>) {
        let whole = self.unrolled(phis, states, inputs, target, warmup, &[], self.objective.of_sum == OfSum::Always);
        let args: Vec<Tensor> = phis.iter().chain(states).chain([inputs, target]).cloned().collect();
        let wrt: Vec<bool> = (0..args.len()).map(|k| k < phis.len() && self.prepared.is_trained(k)).collect();
        let vjp = transform::vjp(g, &whole, &args, &wrt);
        let mut cts = vec![None; vjp.results.len()];
        cts[0] = Some(vjp.results[0].full_like(1.0));
        let mut grads = vjp.pull(&cts);
        grads.truncate(phis.len());
        let n = states.len();
        let tracked = vjp.results[2 + 2 * n..].to_vec();
        let sums = Sums { grads, loss: vjp.results[0].clone(), out: vjp.results[1].clone(), tracked };
        (sums, vjp.results[2..2 + n].to_vec())
    }

    /// (phi, states, inputs, target) to (loss, out summed, states after, states before each step, `kept` values,
    /// tracked values summed); the loss is that of every step, or one `of_sum`.
    #[allow(clippy::too_many_arguments, reason = "a sequence and what is wanted of it")]
    fn unrolled(
        &self,
        phis: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
        warmup: usize,
        kept: &[Value],
        of_sum: bool,
    ) -> Func {
        let p = &self.prepared;
        let n = states.len();
        let mut results: Vec<Tensor> = p.new_states().to_vec();
        results.push(p.out().clone());
        results.extend(p.observed().iter().cloned());
        results.extend(kept.iter().map(|&v| p.body.graph().tensor(v)));
        results.extend(p.tracked().iter().cloned());
        let step = p.body.with_results(results);
        let observed = p.observed().len();
        let steps = inputs.dims()[0];
        let shapes: Vec<Shape> = phis.iter().chain(states).chain([inputs, target]).map(|t| t.shape().clone()).collect();
        Func::trace(&shapes, |g, v| {
            let (phis, rest) = v.split_at(phis.len());
            let (states, rest) = rest.split_at(n);
            let inputs = rest[0].convert(DType::F32);
            let mut shapes: Vec<Shape> = states.iter().map(|t| t.shape().clone()).collect();
            shapes.push(p.input.clone());
            shapes.extend(phis.iter().map(|t| t.shape().clone()));
            let body = Func::trace(&shapes, |g, v| {
                let mut args: Vec<Tensor> = v[n + 1..].to_vec();
                args.extend_from_slice(&v[..=n]);
                args.push(g.zeros(&p.target)); // no state depends on the target
                let mut out = step.call(g, &args);
                let rest = out.split_off(n);
                out.extend_from_slice(&v[..n]);
                out.extend(rest);
                out
            });
            let (after, mut stacks) = scan(g, &body, steps, false, states, &[inputs], phis);
            let tracked: Vec<Tensor> = stacks.split_off(stacks.len() - p.tracked).iter().map(|t| t.sum(&[0])).collect();
            let outputs = stacks.split_off(n + 1 + observed);
            let seen: Vec<Tensor> = stacks[n..].iter().map(|t| t.slice_axis(0, warmup, steps)).collect();
            let out = seen[0].sum(&[0]);
            let loss = if of_sum {
                self.objective.mean_loss(&out, &rest[1])
            } else {
                let mut args: Vec<Mapped> = seen.iter().map(|t| Mapped { tensor: t.clone(), mapped: true }).collect();
                args.push(Mapped { tensor: rest[1].clone(), mapped: false });
                let env = transform::vmap(g, &p.loss_of, &args, steps - warmup);
                env.get(p.loss_of.results()[0].value()).materialize(steps - warmup).sum_all()
            };
            let mut results = vec![loss, out];
            results.extend(after);
            results.extend_from_slice(&stacks[..n]);
            results.extend(outputs);
            results.extend(tracked);
            results
        })
    }

    /// Runs sequences without learning. Memory does not grow with the number of steps.
    pub fn evaluate(
        &self,
        g: &Graph,
        params: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
    ) -> Evaluated {
        let p = &self.prepared;
        let phis = p.prefix.call(g, params);
        let (n, steps) = (states.len(), inputs.dims()[0]);
        let warmup = self.config.warmup.min(steps);
        let length = self.chunk_length(steps);
        let mut carry: Vec<Tensor> = states.to_vec();
        let per_sequence = g.zeros(&p.target.with_dtype(DType::F32));
        carry.extend([per_sequence.clone(), g.zeros(p.out().shape())]);
        carry.extend(self.spikes.iter().map(|_| per_sequence.clone()));
        let carried = carry.len();
        for (from, to, counts) in [(0, warmup, false), (warmup, steps, true)] {
            let equal = (to - from) / length;
            for (count, length, at) in [(equal, length, from), (1, (to - from) % length, from + equal * length)] {
                if count * length == 0 {
                    continue;
                }
                let piece = inputs.slice_axis(0, at, at + count * length);
                let rows = piece.reshape(&[&[count, length], &inputs.dims()[1..]].concat());
                let mut shapes: Vec<Shape> = carry.iter().map(|t| t.shape().clone()).collect();
                shapes.push(rows.shape().with_dims(&rows.dims()[1..]));
                shapes.extend(phis.iter().chain([target]).map(|t| t.shape().clone()));
                let body = Func::trace(&shapes, |g, v| {
                    let (carry, rest) = v.split_at(carried);
                    self.evaluate_chunk(g, carry, &rest[0], &rest[1..=phis.len()], &rest[1 + phis.len()], counts)
                });
                let consts: Vec<Tensor> = phis.iter().chain([target]).cloned().collect();
                carry = scan_whole(g, &body, count, false, &carry, &[rows], &consts).0;
            }
        }
        let spikes = carry.split_off(n + 2);
        let out = carry[n + 1].clone();
        let losses = match self.objective.of_sum {
            OfSum::Never => carry[n].clone(),
            OfSum::Evaluation | OfSum::Always => self.objective.sequence_losses(&out, target),
        };
        Evaluated { losses, out, spikes }
    }

    fn evaluate_chunk(
        &self,
        g: &Graph,
        carry: &[Tensor],
        inputs: &Tensor,
        phis: &[Tensor],
        target: &Tensor,
        counts: bool,
    ) -> Vec<Tensor> {
        let p = &self.prepared;
        let n = p.states;
        let mut results: Vec<Tensor> = p.new_states().to_vec();
        results.push(p.out().clone());
        results.extend(self.spikes.iter().map(|&k| p.body.results()[n + 2 + k].mean(&[1])));
        let step = p.body.with_results(results);
        let body = self.loop_body(&step, phis);
        let inputs = inputs.convert(DType::F32);
        let (mut after, outs) = scan(g, &body, inputs.dims()[0], false, &carry[..n], &[inputs], phis);
        let (mut losses, mut sum) = (carry[n].clone(), carry[n + 1].clone());
        if counts {
            let shapes = [p.out().shape().clone(), p.target.clone()];
            let each = Func::trace(&shapes, |_, v| vec![self.objective.sequence_losses(&v[0], &v[1])]);
            let args =
                [Mapped { tensor: outs[0].clone(), mapped: true }, Mapped { tensor: target.clone(), mapped: false }];
            let env = transform::vmap(g, &each, &args, outs[0].dims()[0]);
            losses = losses + env.get(each.results()[0].value()).tensor.sum(&[0]);
            sum = sum + outs[0].sum(&[0]);
        }
        after.extend([losses, sum]);
        after.extend(carry[n + 2..].iter().zip(&outs[1..]).map(|(before, spikes)| before + spikes.sum(&[0])));
        after
    }

    /// `step` with its arguments in the order of a loop: states, input, phi. No state depends on the target.
    fn loop_body(&self, step: &Func, phis: &[Tensor]) -> Func {
        let p = &self.prepared;
        let n = p.states;
        let mut shapes: Vec<Shape> = p.old_states().iter().map(|t| t.shape().clone()).collect();
        shapes.push(p.input.clone());
        shapes.extend(phis.iter().map(|t| t.shape().clone()));
        Func::trace(&shapes, |g, v| {
            let mut args: Vec<Tensor> = v[n + 1..].to_vec();
            args.extend_from_slice(&v[..=n]);
            args.push(g.zeros(&p.target));
            step.call(g, &args)
        })
    }

    /// States and outputs of every step, without learning: `[T, B, ..]` of states, output, observed.
    pub fn observe(&self, g: &Graph, params: &[Tensor], states: &[Tensor], inputs: &Tensor) -> Vec<Tensor> {
        let p = &self.prepared;
        let phis = p.prefix.call(g, params);
        let n = states.len();
        let mut results: Vec<Tensor> = p.new_states().to_vec();
        results.extend_from_slice(p.new_states());
        results.extend_from_slice(&p.body.results()[n + 1..p.body.results().len() - p.tracked]);
        let body = self.loop_body(&p.body.with_results(results), &phis);
        let inputs = inputs.convert(DType::F32);
        scan(g, &body, inputs.dims()[0], false, states, &[inputs], &phis).1
    }
}

fn check(config: &LearnerConfig) -> Result<(), LearnError> {
    let wrong = |text: String| Err(LearnError::Setting(text));
    if let Method::EsDRtrl { decay } | Method::Hybrid { decay } = config.method
        && !(0.0..1.0).contains(&decay)
    {
        return wrong(format!(
            "the decay of an eligibility trace must lie in [0, 1), got {decay}; 0.9 to 0.99 is usual"
        ));
    }
    if config.chunk == Some(0) {
        return wrong("a chunk needs at least one step, got --chunk 0; leave the flag out for the default".into());
    }
    if config.vjp == (Vjp::MultiStep { window: 0 }) {
        return wrong("a window needs at least one step, got 0; 1 is the usual choice".into());
    }
    Ok(())
}

fn plan(config: &LearnerConfig, structure: &Structure, batch: usize) -> TracePlan {
    let decay = match config.method {
        Method::EsDRtrl { decay } | Method::Hybrid { decay } => decay,
        _ => 0.0,
    };
    let kind = |k: usize| match config.method {
        Method::Bptt => None,
        Method::DRtrl => Some(TraceKind::Full),
        Method::EsDRtrl { .. } => Some(TraceKind::Factorised),
        Method::Hybrid { .. } => Some(hybrid_kind(structure, k, batch)),
    };
    let kinds =
        structure.ops.iter().enumerate().map(|(k, op)| if op.exclusion.is_none() { kind(k) } else { None }).collect();
    TracePlan { kinds, decay, old_correction: config.old_correction }
}

/// Section 2.5 of the specification of the algorithms: full where input and output together are larger than the weights of
/// all sequences. All ops of one layer decide together; a lone element-wise parameter is always full.
fn hybrid_kind(structure: &Structure, k: usize, batch: usize) -> TraceKind {
    let site = &structure.ops[k].site;
    let members: Vec<_> = structure.ops.iter().filter(|op| op.site == *site && op.kind == Kind::Dense).collect();
    if members.is_empty() {
        return TraceKind::Full;
    }
    let inputs: usize = members.iter().map(|op| op.weight[0]).sum();
    let outputs = members[0].weight[1];
    if batch * (inputs + outputs) > batch * inputs * outputs { TraceKind::Full } else { TraceKind::Factorised }
}

impl From<Attachment> for Vjp {
    fn from(attachment: Attachment) -> Self {
        Vjp::SingleStep { attachment }
    }
}
