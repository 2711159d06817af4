//! BPTT with recomputation: exact, with the memory of one chunk and of the states at the boundaries of all.
//!
//! The states before each chunk are kept on the way forward; then the chunks are taken from the last to the first, each is computed again
//! and differentiated, and the derivative with respect to its first states is handed to the one before.

use hlo::{DType, Func, Graph, Mapped, Shape, Tensor, scan, scan_whole, transform};

use super::{
    Learner,
    backwards::{Backwards, Keep},
    segment::starts,
    sequence::Data,
    sums::{Adding, Sums},
};

/// A chunk, backwards.
struct Back {
    sums: Sums,
    /// Derivative of the loss with respect to the states before the chunk.
    arriving: Vec<Tensor>,
    states: Vec<Tensor>,
}

impl Learner {
    /// Steps per chunk of a sequence of `steps`, where BPTT recomputes: about the square root, a divisor if one is near.
    pub(super) fn checkpoint_chunk(&self, steps: usize) -> usize {
        let root = (steps as f64).sqrt().round().max(1.0) as usize;
        let near = (root.div_ceil(2)..=2 * root).filter(|k| steps.is_multiple_of(*k)).min_by_key(|k| k.abs_diff(root));
        self.config.chunk.or(near).unwrap_or(root).clamp(1, steps.max(1))
    }

    /// Exact gradients of a sequence, in chunks of `length` steps; the first `warmup` steps carry no loss.
    pub(super) fn checkpointed(
        &self,
        g: &Graph,
        phis: &[Tensor],
        states: &[Tensor],
        data: Data<'_>,
        warmup: usize,
        length: usize,
    ) -> (Sums, Vec<Tensor>) {
        let steps = data.inputs.dims()[0];
        let equal = (steps - 1) / length;
        let kept =
            self.boundaries(g, phis, states, data.inputs, equal, Backwards { chunk: length, keep: Keep::Nothing });
        let from = equal * length;
        let chunk = Chunk { learner: self, warmup, length: steps - from };
        let inputs = data.inputs.slice_axis(0, from, steps);
        let target = self.prepared.target_of(data.target, from, steps);
        let at = g.scalar(DType::S32, from as f64);
        let nothing: Vec<Tensor> = states.iter().map(Tensor::zeros_like).collect();
        let last = chunk.back(g, phis, &kept.last, &[&inputs, &target, &at], &nothing);
        if equal == 0 {
            return (last.sums, last.states);
        }
        let others = Chunk { length, ..chunk }.others(g, phis, data, &kept.before, last.arriving);
        (last.sums.add(others), last.states)
    }
}

/// How chunks are computed.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    learner: &'a Learner,
    warmup: usize,
    length: usize,
}

impl Chunk<'_> {
    /// The chunks before the last one, from the last to the first. `kept` are the states before each, `arriving` what the last one hands on.
    fn others(self, g: &Graph, phis: &[Tensor], data: Data<'_>, kept: &[Tensor], arriving: Vec<Tensor>) -> Sums {
        let prepared = &self.learner.prepared;
        let adding = Adding::new(self.learner, g, phis, true);
        let count = kept[0].dims()[0];
        let n = arriving.len();
        let mut init = arriving;
        init.extend(adding.start());
        let mut rows = vec![starts(g, count, self.length)];
        rows.extend_from_slice(kept);
        let consts = [phis, &[data.target.clone(), data.inputs.clone()]].concat();
        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.extend(rows.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
        shapes.extend(consts.iter().map(|t| t.shape().clone()));
        let body = Func::trace(&shapes, |g, v| {
            let (carried, rest) = v.split_at(init.len());
            let (states, rest) = rest[1..].split_at(n);
            let (phis, data) = rest.split_at(prepared.phis);
            let at = &v[init.len()];
            let inputs = data[1].dynamic_slice(at, self.length);
            let target = prepared.target_at(&data[0], at, self.length);
            let back = self.back(g, phis, states, &[&inputs, &target, at], &carried[..n]);
            let mut out = back.arriving;
            out.extend(adding.add(&carried[n..], &back.sums));
            out
        });
        let last = scan_whole(g, &body, count, true, &init, &rows, &consts).0;
        adding.sums(&last[n..])
    }

    /// One chunk. `data` are its inputs, its targets and the number of its first step; `arriving` is the derivative with respect to the
    /// states after it.
    fn back(self, g: &Graph, phis: &[Tensor], states: &[Tensor], data: &[&Tensor; 3], arriving: &[Tensor]) -> Back {
        let (p, n) = (phis.len(), states.len());
        let args: Vec<Tensor> = phis.iter().chain(states).chain(data.iter().copied()).cloned().collect();
        let shapes: Vec<Shape> = args.iter().map(|t| t.shape().clone()).collect();
        let run = Func::trace(&shapes, |g, v| self.run(g, &v[..p], &v[p..p + n], &v[p + n..]));
        let wrt: Vec<bool> =
            (0..args.len()).map(|k| if k < p { self.learner.prepared.is_trained(k) } else { k < p + n }).collect();
        let vjp = transform::vjp(g, &run, &args, &wrt);
        let mut cotangents = vec![None; vjp.results.len()];
        cotangents[0] = Some(vjp.results[0].full_like(1.0));
        for (ct, a) in cotangents[2..].iter_mut().zip(arriving) {
            *ct = Some(a.clone());
        }
        let mut grads = vjp.pull(&cotangents);
        let before = grads.split_off(p);
        let arriving = before.into_iter().zip(states).map(|(ct, s)| ct.unwrap_or_else(|| s.zeros_like())).collect();
        let (loss, out) = (vjp.results[0].clone(), vjp.results[1].clone());
        let (tracked, score) = vjp.results[2 + n..].split_at(self.learner.prepared.tracked);
        let sums = Sums { grads, loss, out, tracked: tracked.to_vec(), score: score.first().cloned() };
        Back { sums, arriving, states: vjp.results[2..2 + n].to_vec() }
    }

    /// (loss, out summed, states after, tracked values summed, scores summed where steps have them) of a chunk.
    fn run(self, g: &Graph, phis: &[Tensor], states: &[Tensor], data: &[Tensor]) -> Vec<Tensor> {
        let p = &self.learner.prepared;
        let (n, observed) = (states.len(), p.observed().len());
        let mut results: Vec<Tensor> = p.new_states().to_vec();
        results.push(p.out().clone());
        results.extend(p.observed().iter().cloned());
        results.extend(p.tracked().iter().cloned());
        let body = self.learner.loop_body(&p.body.with_results(results), phis);
        let inputs = data[0].convert(DType::F32);
        let (after, stacks) = scan(g, &body, self.length, false, states, &[inputs], phis);
        let step = g.iota(Shape::s32([self.length]), 0) + &data[2];
        let counts = step.ge(&step.full_like(self.warmup as f64)).convert(DType::F32);
        let counted = |t: &Tensor| t * counts.broadcast(t.dims(), &[0]);
        let mut args: Vec<Mapped> =
            stacks[..=observed].iter().map(|t| Mapped { tensor: t.clone(), mapped: true }).collect();
        args.push(Mapped { tensor: data[1].clone(), mapped: p.target_per_step });
        let env = transform::vmap(g, &p.loss_of, &args, self.length);
        let losses = env.get(p.loss_of.results()[0].value()).materialize(self.length);
        let mut results = vec![counted(&losses).sum_all(), counted(&stacks[0]).sum(&[0])];
        results.extend(after);
        results.extend(stacks[1 + observed..].iter().map(|t| t.sum(&[0])));
        debug_assert_eq!(results.len(), 2 + n + p.tracked);
        results.extend(self.learner.objective.scores(&stacks[0], &data[1]).map(|score| counted(&score).sum(&[0])));
        results
    }
}
