//! An online rule over many steps, forwards: chunk by chunk, with traces or rings in between.

use std::collections::HashMap;

use hlo::{DType, Func, Graph, Shape, Tensor, scan_whole};

use super::{
    Learner, Vjp,
    chunk::{Forward, Steps, Transition, Values},
    form::Form,
    objective::Target,
    rings::Rings,
    sequence::{Carry, Data},
    signal::Signal,
    sums::{Adding, Sums},
    trace::{Arriving, ChunkView, Slot, Slots, Stretch, TraceKind},
    walk::{self, Walked},
};

/// A piece of a sequence.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// The whole sequence.
    pub data: Data<'a>,
    /// Its first step and the one after its last.
    pub from: usize,
    pub to: usize,
    /// Whether its steps carry loss.
    pub learn: bool,
    /// Whether the traces after its last step are wanted. (The last chunk saves that work otherwise.)
    pub keep: bool,
}

/// A chunk to look at.
pub(super) struct Looked<'a> {
    pub phis: &'a [Tensor],
    pub carry: &'a Carry,
    /// What the recurrence left behind, where it has run already.
    pub forward: Option<&'a Forward>,
    /// `[K, B, n_in]`.
    pub inputs: &'a Tensor,
    pub target: &'a Tensor,
    /// 1 for steps whose loss counts and 0 for others, `[K]`; all count, if not given.
    pub counts: Option<&'a Tensor>,
    pub learn: bool,
    /// Where a sequence runs backwards, the signals that arrive at the last step, if there are any.
    pub arriving: Option<Option<&'a Arriving>>,
}

/// What a chunk computes before any rule looks at it.
pub(super) struct Seen {
    pub states: Vec<Tensor>,
    pub sums: Sums,
    /// Learning signals; `None` where nothing is learned.
    pub slots: Option<Slots>,
    transitions: Vec<Transition>,
    drives: HashMap<(usize, usize), Vec<Option<Tensor>>>,
    inputs: HashMap<usize, Tensor>,
    /// What traces that need the whole Jacobian make of the chunk.
    walked: Walked,
    length: usize,
}

impl Seen {
    /// What the rules need to know.
    pub fn view<'a>(&'a self, learner: &'a Learner, graph: &'a Graph, phis: &'a [Tensor]) -> ChunkView<'a> {
        ChunkView {
            graph,
            structure: learner.as_traced(),
            plan: &learner.plan,
            phis,
            transitions: &self.transitions,
            drives: &self.drives,
            inputs: &self.inputs,
            length: self.length,
        }
    }
}

impl Learner {
    pub(super) fn no_sums(&self, g: &Graph) -> Sums {
        let out = self.prepared.out().shape();
        let tracked = self.prepared.tracked().iter().map(|t| g.zeros(t.shape())).collect();
        let grads = vec![None; self.prepared.phis];
        let scored = matches!(self.objective.target, Target::CLASSES | Target::VECTORS);
        let score = scored.then(|| g.zeros(&Shape::f32([self.batch()])));
        Sums { grads, loss: g.scalar(DType::F32, 0.0), out: g.zeros(out), tracked, score }
    }

    /// A sequence from its first step to its last; the first `warmup` steps carry no loss.
    pub(super) fn forwards(
        &self,
        g: &Graph,
        phis: &[Tensor],
        mut carry: Carry,
        data: Data<'_>,
        warmup: usize,
    ) -> (Sums, Vec<Tensor>) {
        let steps = data.inputs.dims()[0];
        let mut sums = self.no_sums(g);
        if warmup > 0 {
            let piece = Piece { data, from: 0, to: warmup, learn: false, keep: true };
            let (next, more) = self.segment(g, phis, carry, piece);
            carry = next;
            sums.tracked = more.tracked;
        }
        let lag = carry.rings.lag();
        let piece = Piece { data, from: warmup, to: steps, learn: true, keep: lag > 0 };
        let (carry, more) = self.segment(g, phis, carry, piece);
        sums = sums.add(more);
        if let (true, Some(traces)) = (lag > 0, &carry.traces) {
            let rest = Stretch::rest(g, self.as_traced(), &self.lagged().wide, phis, lag, traces);
            let past = past(data.inputs, &g.scalar(DType::S32, steps as f64 - lag as f64), lag);
            self.add_pulled(&mut sums, rest.pull(Some(&past.convert(DType::F32)), None).grads);
        }
        (sums, carry.states)
    }

    pub(super) fn add_pulled(&self, sums: &mut Sums, grads: Vec<(usize, Tensor)>) {
        for (k, grad) in grads {
            let phi = self.structure.ops[k].phi;
            sums.grads[phi] = Tensor::sum_of([sums.grads[phi].take(), Some(grad)]);
        }
    }

    /// Bytes of the arrays of traces that pass from chunk to chunk, in the form for a sequence of `steps` steps.
    pub fn trace_bytes(&self, steps: usize) -> usize {
        match self.form(steps) {
            Form::Dense { .. } => self.slots_of(Rings::None).values().map(Shape::bytes).sum(),
            Form::FixedLag { lag, .. } => self.slots_of(Rings::Sequence(lag)).values().map(Shape::bytes).sum(),
            Form::Whole { .. } | Form::Recompute { .. } => 0,
        }
    }

    /// Runs many steps, chunk by chunk.
    pub(super) fn segment(&self, g: &Graph, phis: &[Tensor], mut carry: Carry, piece: Piece<'_>) -> (Carry, Sums) {
        let Piece { from, to, learn, keep, .. } = piece;
        let steps = to - from;
        let mut sums = self.no_sums(g);
        let length = match (learn, carry.rings.lag()) {
            (false, 0) => self.warmup_chunk(steps),
            (_, 0) => self.dense_chunk(steps),
            _ => self.chunk_length(piece.data.inputs.dims()[0]).min(steps.max(1)),
        };
        let tail = steps % length;
        let equal = steps / length - usize::from(tail == 0 && !keep);
        let mut at = from;
        for (count, length, keep) in [(equal, length, true), (1, steps - equal * length, keep)] {
            if count == 0 || length == 0 || at == to {
                continue;
            }
            let inner = Piece { from: at, to: at + count * length, keep, ..piece };
            let (next, more) = if count == 1 {
                let inputs = piece.data.inputs.slice_axis(0, at, at + length);
                let lag = carry.rings.lag();
                let past = (lag > 0 && learn)
                    .then(|| past(piece.data.inputs, &g.scalar(DType::S32, at as f64 - lag as f64), length));
                let target = self.prepared.target_of(piece.data.target, at, at + length);
                self.chunk(g, phis, carry, &inputs, &target, learn, keep, past.as_ref())
            } else {
                self.chunks(g, phis, carry, inner, count)
            };
            at += count * length;
            carry = next;
            sums = sums.add(more);
        }
        (carry, sums)
    }

    /// A loop over `count` equal chunks. The inputs are read where they are, not copied.
    fn chunks(&self, g: &Graph, phis: &[Tensor], carry: Carry, piece: Piece<'_>, count: usize) -> (Carry, Sums) {
        let Piece { data, from, to, learn, .. } = piece;
        let (rings, length) = (carry.rings, (to - from) / count);
        let lag = rings.lag();
        let traces = carry.traces.unwrap_or_else(|| self.zero_traces(g, rings));
        let slots: Vec<Slot> = self.slots_of(rings).into_keys().collect();
        let adding = Adding::new(self, g, phis, learn);

        let mut init = carry.states.clone();
        init.extend(slots.iter().map(|s| traces[s].clone()));
        init.push(carry.time);
        init.extend(adding.start());
        let starts = starts(g, count, length) + g.scalar(DType::S32, from as f64);
        let mut consts = phis.to_vec();
        consts.extend([data.target.clone(), data.inputs.clone()]);

        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.push(Shape::s32([]));
        shapes.extend(consts.iter().map(|t| t.shape().clone()));
        let (n, s) = (carry.states.len(), slots.len());
        let body = Func::trace(&shapes, |g, p| {
            let (carried, rest) = p.split_at(init.len());
            let traces = slots.iter().cloned().zip(carried[n..n + s].iter().cloned()).collect();
            let carry =
                Carry { states: carried[..n].to_vec(), traces: Some(traces), time: carried[n + s].clone(), rings };
            let (phis, data) = rest[1..].split_at(self.prepared.phis);
            let inputs = data[1].dynamic_slice(&rest[0], length);
            let past =
                (lag > 0 && learn).then(|| past(&data[1], &(&rest[0] - g.scalar(DType::S32, lag as f64)), length));
            let target = self.prepared.target_at(&data[0], &rest[0], length);
            let (next, sums) = self.chunk(g, phis, carry, &inputs, &target, learn, true, past.as_ref());
            let mut out = next.states;
            let traces = next.traces.unwrap_or_default();
            out.extend(slots.iter().map(|s| traces[s].clone()));
            out.push(next.time);
            out.extend(adding.add(&carried[n + s + 1..], &sums));
            out
        });
        let (last, _) = scan_whole(g, &body, count, false, &init, &[starts], &consts);
        let sums = adding.sums(&last[n + s + 1..]);
        let traces = slots.into_iter().zip(last[n..n + s].iter().cloned()).collect();
        (Carry { states: last[..n].to_vec(), traces: Some(traces), time: last[n + s].clone(), rings }, sums)
    }

    /// One chunk of an online rule; `inputs: [K, B, n_in]`. With the rings of a sequence, `past` are the inputs of as many steps, W steps
    /// earlier, where any step before this chunk has a signal.
    #[allow(clippy::too_many_arguments, reason = "the state of a sequence, a piece of it and two switches")]
    pub fn chunk(
        &self,
        g: &Graph,
        phis: &[Tensor],
        carry: Carry,
        inputs: &Tensor,
        target: &Tensor,
        learn: bool,
        keep: bool,
        past: Option<&Tensor>,
    ) -> (Carry, Sums) {
        let length = inputs.dims()[0];
        let carried = &carry;
        let mut seen = self.look(
            g,
            &Looked { phis, carry: carried, forward: None, inputs, target, counts: None, learn, arriving: None },
        );
        let mut sums = std::mem::replace(&mut seen.sums, self.no_sums(g));
        let walked = std::mem::take(&mut seen.walked);
        self.add_pulled(&mut sums, walked.grads);
        let view = seen.view(self, g, phis);
        let wide = self.rings(carry.rings);
        let lagging = |k: usize| wide.is_some_and(|plan| plan.ops.contains(&k));
        let mut result = view.run(carry.traces.as_ref(), seen.slots.as_ref(), keep, &lagging);
        if let Some(traces) = &mut result.traces {
            traces.extend(walked.traces);
        }
        if let Some(plan) = wide {
            let stretch = Stretch::new(&view, plan, carry.rings.lag(), carry.traces.as_ref(), seen.slots.as_ref());
            // In a stream, steps before one without a target have signals.
            if learn || matches!(carry.rings, Rings::Stream(_)) {
                let past = past.map(|t| t.convert(DType::F32));
                self.add_pulled(&mut sums, stretch.pull(past.as_ref(), None).grads);
            }
            if let Some(traces) = &mut result.traces {
                traces.extend(stretch.kept());
            }
        }
        for (op, grad) in self.structure.ops.iter().zip(result.grads) {
            sums.grads[op.phi] = Tensor::sum_of([sums.grads[op.phi].take(), grad]);
        }
        let time = carry.time + g.scalar(DType::S32, length as f64);
        (Carry { states: seen.states, traces: result.traces, time, rings: carry.rings }, sums)
    }

    /// Everything about the steps of a chunk that does not depend on the form of the traces.
    pub(super) fn look(&self, g: &Graph, chunk: &Looked<'_>) -> Seen {
        let Looked { phis, carry, inputs, target, counts, learn, .. } = *chunk;
        let length = inputs.dims()[0];
        let inputs = inputs.convert(DType::F32);
        let window = learn && matches!(self.config.vjp, Vjp::MultiStep { window } if window > 1);
        let (forward, whole) = if window {
            let (forward, entry, sums) = self.window(g, phis, &carry.states, &inputs, target);
            (forward, Some((entry, sums)))
        } else {
            let run = || Forward::run(g, &self.prepared, &self.structure, phis, &carry.states, &inputs);
            (chunk.forward.cloned().unwrap_or_else(run), None)
        };
        let steps = Steps::new(g, &self.prepared, &self.structure, phis, &forward, &inputs, target);
        let steps = steps.with_feedback(self.rule()).with_counts(counts);
        let values = steps.values();
        let tracked = values.tracked.iter().map(|t| t.sum(&[0])).collect();
        let (mut sums, mut slots) = (self.no_sums(g), None);
        if learn {
            let (found, met) = self.signals(&steps, &values, whole, &carry.time);
            (sums, slots) = (found, Some(met));
            sums.score = self.objective.scores(&values.out, target).map(|score| steps.counted(&score).sum(&[0]));
        }
        let (pairs, slopes) = self.non_causal(g, &steps, carry, learn);
        if let Some(slots) = &mut slots {
            let direct = slots.direct.iter_mut().zip(pairs);
            direct.for_each(|(old, pair)| *old = Tensor::sum_of([old.take(), pair]));
        }
        sums.tracked = tracked;
        let drives = self.drives(&steps);
        let asked = walk::Chunk {
            forward: &forward,
            phis,
            inputs: &inputs,
            carry,
            slots: slots.as_ref(),
            drives: &drives,
            x: &values.inputs,
        };
        let mut walked = self.walked(g, &asked);
        walked.traces.extend(slopes);
        let mut transitions = steps.recursion(self.plan.recursion);
        if let Some(filter) = self.filter() {
            transitions = filter.transitions(g, &self.structure.groups, length, transitions);
        }
        let mut seen = Seen {
            states: forward.states,
            sums,
            slots,
            transitions,
            drives,
            inputs: values.inputs.clone(),
            walked,
            length,
        };
        if let (Some(arriving), false) = (&chunk.arriving, self.readouts.is_empty()) {
            let later = self.asked_later(g, &seen, phis, *arriving);
            let (sums, slots) = self.signals(&steps.with_later(later), &values, None, &carry.time);
            (seen.sums.grads, seen.slots) = (sums.grads, Some(slots));
        }
        seen
    }

    /// Drives of every traced op, by op and group.
    fn drives(&self, steps: &Steps<'_>) -> HashMap<(usize, usize), Vec<Option<Tensor>>> {
        let pairs = self.structure.traced().flat_map(|(k, op)| op.groups.iter().map(move |&gr| (k, gr)));
        let drive = |(k, gr): (usize, usize)| {
            let drive = steps.drive(k, gr);
            ((k, gr), if let Some(filter) = self.filter() { filter.drive(drive) } else { drive })
        };
        pairs.map(drive).collect()
    }

    /// What the losses of later steps ask of the new states of readouts in every step, by group and state of the model, `[K, B, C]`:
    /// their signals without those of the step itself.
    fn asked_later(
        &self,
        g: &Graph,
        seen: &Seen,
        phis: &[Tensor],
        arriving: Option<&Arriving>,
    ) -> Vec<(usize, usize, Tensor)> {
        let view = seen.view(self, g, phis);
        let stretch = Stretch::new(&view, &self.lagged().all, 0, None, seen.slots.as_ref());
        let mut later = Vec::new();
        for &group in &self.readouts {
            for (a, lam) in stretch.carried(group, arriving) {
                let own = seen.slots.as_ref().and_then(|slots| slots.steps[group][a].clone());
                let asked = own.map_or(lam.clone(), |own| lam - own);
                later.push((group, self.structure.groups[group].states[a], asked));
            }
        }
        later
    }

    /// What the steps of a chunk add up by themselves, and the signals that their traces meet. `whole` is what a window gives: signals at its
    /// entry, and sums with exact gradients inside.
    fn signals(
        &self,
        steps: &Steps<'_>,
        values: &Values,
        whole: Option<(Signal, Sums)>,
        time: &Tensor,
    ) -> (Sums, Slots) {
        let length = steps.length;
        let none = steps.no_signals();
        let (loss, out) = (steps.counted(&values.loss).sum_all(), steps.counted(&values.out).sum(&[0]));
        let step_sums = |grads| Sums { grads, loss, out, tracked: vec![], score: None };
        // A signal before step s belongs to the trace after step s - 1: that of the first step to the old trace.
        let first = |before: &Signal| each(before, &|t| Some(t.at(0)));
        let (sums, entry, signal, direct) = match (whole, self.config.vjp) {
            (Some((entry, inside)), _) => (inside, entry, none.after, none.direct),
            (None, Vjp::SingleStep { .. }) if self.traceless() => {
                (step_sums(steps.entry_signals(&[]).instant), none.before, none.after, none.direct)
            }
            (None, Vjp::SingleStep { attachment }) => {
                let found = steps.received(steps.signals(attachment), self.rule(), time, self.parts);
                let found = steps.hopped(found, self.rule());
                let signal = add_signals(found.after, each(&found.before, &|t| later(t, length)));
                (step_sums(found.instant), first(&found.before), signal, found.direct)
            }
            (None, Vjp::MultiStep { .. }) => {
                let found = steps.entry_signals(&self.by_outputs());
                let signal = each(&found.before, &|t| later(t, length));
                (step_sums(found.instant), first(&found.before), signal, found.direct)
            }
        };
        let correction = self.correction(time, length);
        (sums, Slots { entry: self.filtered(entry), steps: self.filtered(signal), direct, correction })
    }

    /// Ops with an input and a trace: what the loss asks of their outputs joins what it asks of the traces, so that both make one product with
    /// the input. (Each use of a weight is a `phi` of its own, which acts through the output of its op alone.)
    fn by_outputs(&self) -> Vec<usize> {
        let joins = |kind| matches!(kind, Some(TraceKind::Full | TraceKind::Factorised));
        let ops = self.structure.traced().filter(|(k, op)| op.x.is_some() && joins(self.plan.kinds[*k]));
        ops.map(|(k, _)| k).collect()
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

/// The first step of each of `count` chunks, `s32[count]`.
pub(super) fn starts(g: &Graph, count: usize, length: usize) -> Tensor {
    g.iota(Shape::s32([count]), 0) * g.scalar(DType::S32, length as f64)
}

/// `count` steps of a sequence from a computed one on, `[count, B, n_in]`; zeros before its first step.
fn past(inputs: &Tensor, from: &Tensor, count: usize) -> Tensor {
    let g = inputs.graph();
    let zero = g.scalar(DType::S32, 0.0);
    let count = count.min(inputs.dims()[0]);
    let rows = inputs.dynamic_slice(&from.maximum(&zero), count);
    let before = g.zeros(rows.shape());
    let all = Tensor::concat(&[&before, &rows], 0);
    // From the middle where nothing is missing, and earlier by what is.
    let offset = (from.minimum(&zero) + g.scalar(DType::S32, count as f64)).maximum(&zero);
    all.dynamic_slice(&offset, count)
}
