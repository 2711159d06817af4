//! An online rule over a whole sequence, backwards: exact in any case, without traces.
//!
//! On the way forward the states at the boundaries of chunks are kept; then the chunks are taken from the last to the first, and the
//! signals that arrive at the start of one are handed to the one before. What the recurrence computes within a chunk is either kept as well
//! (the whole-sequence form) or computed again (the recompute form), from the products of a wide input, which are kept. Not for streams: the
//! gradient needs the end of the sequence.

use std::{cell::Cell, collections::HashSet};

use hlo::{DType, Func, Graph, Shape, Tensor, scan_whole};

use super::{
    Learner,
    chunk::{Forward, kept_shapes},
    rings::Rings,
    segment::{Looked, starts},
    sequence::{Carry, Data},
    sums::{Adding, Sums},
    trace::{Arriving, Stretch},
};

/// How a sequence is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backwards {
    /// Steps per chunk.
    pub chunk: usize,
    /// What is kept of every step.
    pub keep: Keep,
}

/// What is kept of every step on the way forward, besides the states at the boundaries of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing.
    Nothing,
    /// [`projections`](super::chunk::projections).
    Projections,
    /// What the recurrence computes.
    Recurrence,
}

/// What is kept of the way forward over equal chunks.
pub(super) struct Boundaries {
    /// States after the last of them.
    pub last: Vec<Tensor>,
    /// States before each, `[chunks, B, N]`.
    pub before: Vec<Tensor>,
    /// What is kept of every step, `[chunks, K, B, N]`.
    steps: Vec<Tensor>,
}

/// A chunk, backwards.
struct Back {
    sums: Sums,
    arriving: Arriving,
    states: Vec<Tensor>,
}

impl Learner {
    /// Gradients of a sequence; the first `warmup` steps carry no loss.
    pub(super) fn backwards(
        &self,
        g: &Graph,
        phis: &[Tensor],
        states: &[Tensor],
        data: Data<'_>,
        warmup: usize,
        how: Backwards,
    ) -> (Sums, Vec<Tensor>) {
        let steps = data.inputs.dims()[0];
        let length = how.chunk.clamp(1, steps.max(1));
        let how = Backwards { chunk: length, ..how };
        // What is computed again is computed once for the last chunk: that is taken at once, and so is what is left of a sequence.
        let equal = if how.keep == Keep::Recurrence && steps > length { steps / length } else { (steps - 1) / length };
        let kept = self.boundaries(g, phis, states, data.inputs, equal, how);
        let from = equal * length;
        if from == steps {
            let sums = self.equal_chunks(g, phis, data, warmup, (equal, how), &kept, None);
            return (sums, kept.last);
        }
        let inputs = data.inputs.slice_axis(0, from, steps);
        let at = g.scalar(DType::S32, from as f64);
        let target = self.prepared.target_of(data.target, from, steps);
        let forward = self.forward(g, phis, &kept.last, &inputs);
        let last = self.back(g, phis, &forward, &inputs, &target, (&at, warmup), None);
        if equal == 0 {
            return (last.sums, last.states);
        }
        let sums = last.sums.add(self.equal_chunks(g, phis, data, warmup, (equal, how), &kept, Some(&last.arriving)));
        (sums, last.states)
    }

    /// Bytes that the whole-sequence form keeps of each step: what the way back reads of [`Forward::kept`].
    pub(super) fn kept_bytes(&self) -> usize {
        *self.kept.get_or_init(|| {
            const STEPS: usize = 2;
            let p = &self.prepared;
            let g = Graph::new();
            let number = Cell::new(0);
            let given = |shape: Shape| g.parameter(number.replace(number.get() + 1), shape);
            let of_steps = |shape: &Shape| given(shape.with_dims([&[STEPS], &shape.dims[..]].concat()));
            let (phis, rest) = p.body.params().split_at(p.phis);
            let phis: Vec<Tensor> = phis.iter().map(|t| given(t.shape().clone())).collect();
            let states: Vec<Tensor> = rest[..p.states].iter().map(|t| given(t.shape().clone())).collect();
            let shapes = kept_shapes(p, &self.structure);
            let kept: Vec<Tensor> = shapes.iter().map(of_steps).collect();
            let inputs = of_steps(&p.input);
            let target = given(p.targets(STEPS));
            let forward = Forward::again(p, &self.structure, &states, &kept);
            let at = g.scalar(DType::S32, 0.0);
            let back = self.back(&g, &phis, &forward, &inputs, &target, (&at, 0), None);
            let mut results = back.arriving.into_iter().flatten().flatten().collect::<Vec<_>>();
            results.extend(
                back.sums.grads.into_iter().flatten().chain([back.sums.loss, back.sums.out]).chain(back.sums.tracked),
            );
            let live: HashSet<usize> =
                Func::from_values(kept.clone(), results).live(true).iter().map(|(node, _)| *node).collect();
            kept.iter().zip(&shapes).filter(|(t, _)| live.contains(&t.value().node)).map(|(_, s)| s.bytes()).sum()
        })
    }

    /// The way forward over `count` chunks.
    pub(super) fn boundaries(
        &self,
        g: &Graph,
        phis: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        count: usize,
        how: Backwards,
    ) -> Boundaries {
        if count == 0 {
            return Boundaries { last: states.to_vec(), before: vec![], steps: vec![] };
        }
        let length = how.chunk;
        let n = states.len();
        let mut consts = phis.to_vec();
        consts.push(inputs.clone());
        let mut shapes: Vec<Shape> = states.iter().map(|t| t.shape().clone()).collect();
        shapes.push(Shape::s32([]));
        shapes.extend(consts.iter().map(|t| t.shape().clone()));
        let body = Func::trace(&shapes, |g, v| {
            let (phis, inputs) = v[n + 1..].split_at(self.prepared.phis);
            let piece = inputs[0].dynamic_slice(&v[n], length).convert(DType::F32);
            let (p, s) = (&self.prepared, &self.structure);
            let forward = Forward::looped(g, p, s, phis, &v[..n], &piece, &[]);
            let kept = match how.keep {
                Keep::Nothing => vec![],
                Keep::Projections => forward.projections(p, s),
                Keep::Recurrence => forward.kept(p, s),
            };
            [&forward.states[..], &v[..n], &kept].concat()
        });
        let (last, mut before) = scan_whole(g, &body, count, false, states, &[starts(g, count, length)], &consts);
        let steps = before.split_off(n);
        Boundaries { last, before, steps }
    }

    /// The recurrence over a chunk.
    fn forward(&self, g: &Graph, phis: &[Tensor], states: &[Tensor], inputs: &Tensor) -> Forward {
        Forward::run(g, &self.prepared, &self.structure, phis, states, &inputs.convert(DType::F32))
    }

    /// Equal chunks, from the last to the first.
    #[allow(clippy::too_many_arguments, reason = "a sequence, its boundaries and what arrives at them")]
    fn equal_chunks(
        &self,
        g: &Graph,
        phis: &[Tensor],
        data: Data<'_>,
        warmup: usize,
        (count, Backwards { chunk: length, keep }): (usize, Backwards),
        kept: &Boundaries,
        arriving: Option<&Arriving>,
    ) -> Sums {
        let n = kept.before.len();
        let adding = Adding::new(self, g, phis, true);
        let (structure, plan) = (self.as_traced(), &self.lagged().all);
        let places: Vec<(usize, usize)> = (0..structure.groups.len())
            .flat_map(|gr| plan.states(structure, gr).into_iter().map(move |a| (gr, a)))
            .collect();
        let arrives = |&(gr, a): &(usize, usize)| {
            let last = arriving.and_then(|all| all[gr][a].clone());
            last.unwrap_or_else(|| g.zeros(&Shape::f32(structure.groups[gr].dims.clone())))
        };
        let mut init: Vec<Tensor> = places.iter().map(arrives).collect();
        init.extend(adding.start());
        let mut consts = phis.to_vec();
        consts.extend([data.target.clone(), data.inputs.clone()]);
        let mut rows = vec![starts(g, count, length)];
        rows.extend(kept.before.iter().chain(&kept.steps).cloned());
        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.extend(rows.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
        shapes.extend(consts.iter().map(|t| t.shape().clone()));
        let empty: Arriving = structure.groups.iter().map(|group| vec![None; group.states.len()]).collect();
        let body = Func::trace(&shapes, |g, v| {
            let (carried, rest) = v.split_at(init.len());
            let (at, rest) = (&rest[0], &rest[1..]);
            let (states, rest) = rest.split_at(n);
            let (steps, rest) = rest.split_at(kept.steps.len());
            let (phis, data) = rest.split_at(self.prepared.phis);
            let (arrives, sums) = carried.split_at(places.len());
            let mut arriving = empty.clone();
            places.iter().zip(arrives).for_each(|(&(gr, a), t)| arriving[gr][a] = Some(t.clone()));
            let piece = data[1].dynamic_slice(at, length);
            let target = self.prepared.target_at(&data[0], at, length);
            let (p, s) = (&self.prepared, &self.structure);
            let forward = match keep {
                Keep::Recurrence => Forward::again(p, s, states, steps),
                Keep::Nothing | Keep::Projections if length == 1 => self.forward(g, phis, states, &piece),
                Keep::Nothing | Keep::Projections => {
                    Forward::looped(g, p, s, phis, states, &piece.convert(DType::F32), steps)
                }
            };
            let back = self.back(g, phis, &forward, &piece, &target, (at, warmup), Some(&arriving));
            let arrived = |(&(gr, a), old): (&(usize, usize), &Tensor)| {
                back.arriving[gr][a].clone().unwrap_or_else(|| old.zeros_like())
            };
            let mut out: Vec<Tensor> = places.iter().zip(arrives).map(arrived).collect();
            out.extend(adding.add(sums, &back.sums));
            out
        });
        let last = scan_whole(g, &body, count, true, &init, &rows, &consts).0;
        adding.sums(&last[places.len()..])
    }

    /// One chunk: what it adds up, and the signals that arrive at the step before it. `arriving` are those at its last step.
    #[allow(clippy::too_many_arguments, reason = "a chunk, where it is, and what arrives at its end")]
    fn back(
        &self,
        g: &Graph,
        phis: &[Tensor],
        forward: &Forward,
        inputs: &Tensor,
        target: &Tensor,
        (at, warmup): (&Tensor, usize),
        arriving: Option<&Arriving>,
    ) -> Back {
        let length = inputs.dims()[0];
        // No trace, and no state but those of `forward`, is looked at.
        let carry = Carry { states: vec![], traces: None, time: at.clone(), rings: Rings::None };
        let counts = (warmup > 0).then(|| {
            let step = g.iota(Shape::s32([length]), 0) + at;
            step.ge(&step.full_like(warmup as f64)).convert(DType::F32)
        });
        let counts = counts.as_ref();
        let chunk = Looked {
            phis,
            carry: &carry,
            forward: Some(forward),
            inputs,
            target,
            counts,
            learn: true,
            arriving: Some(arriving),
        };
        let seen = self.look(g, &chunk);
        let plan = &self.lagged().all;
        let view = seen.view(self, g, phis);
        let stretch = Stretch::new(&view, plan, 0, None, seen.slots.as_ref());
        let pulled = stretch.pull(Some(&inputs.convert(DType::F32)), arriving);
        let mut arrives = pulled.arriving;
        if let Some(slots) = &seen.slots {
            for (to, entry) in arrives.iter_mut().zip(&slots.entry) {
                for (to, entry) in to.iter_mut().zip(entry) {
                    *to = Tensor::sum_of([to.take(), entry.clone()]);
                }
            }
        }
        let (states, mut sums) = (seen.states, seen.sums);
        self.add_pulled(&mut sums, pulled.grads);
        Back { sums, arriving: arrives, states }
    }
}
