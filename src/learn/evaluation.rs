//! Sequences without learning.

use hlo::{DType, Func, Graph, Mapped, Shape, Tensor, scan, scan_whole, transform};

use super::{Learner, objective::OfSum};

/// Result of a sequence without learning.
pub struct Evaluated {
    /// Loss of every sequence, `[B]`: of the summed output, or the sum over the steps that count.
    pub losses: Tensor,
    /// Output summed over the steps that count, `[B, C]`.
    pub out: Tensor,
    /// Spikes per neuron of every layer that fires, summed over all steps, `[B]` each.
    pub spikes: Vec<Tensor>,
    /// Output of each step that counts, `[T - warmup, B, C]`, if it was asked for.
    pub each: Option<Tensor>,
}

impl Learner {
    /// Runs sequences without learning. Memory does not grow with the number of steps.
    pub fn evaluate(
        &self,
        g: &Graph,
        params: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
    ) -> Evaluated {
        self.evaluated(g, params, states, (inputs, target), false)
    }

    /// As [`Learner::evaluate`], and with the output of `each` step, if that is asked for.
    pub(crate) fn evaluated(
        &self,
        g: &Graph,
        params: &[Tensor],
        states: &[Tensor],
        (inputs, target): (&Tensor, &Tensor),
        each: bool,
    ) -> Evaluated {
        let p = &self.prepared;
        let phis = p.prefix.call(g, params);
        let (n, steps) = (states.len(), inputs.dims()[0]);
        let warmup = self.config().warmup.min(steps);
        let length = self.dense_chunk(steps);
        let mut carry: Vec<Tensor> = states.to_vec();
        let per_sequence = g.zeros(&Shape::f32([self.batch()]));
        carry.extend([per_sequence.clone(), g.zeros(p.out().shape())]);
        carry.extend(self.spikes.iter().map(|_| per_sequence.clone()));
        let carried = carry.len();
        let mut outputs = Vec::new();
        for (from, to, counts) in [(0, warmup, false), (warmup, steps, true)] {
            let equal = (to - from) / length;
            for (count, length, at) in [(equal, length, from), (1, (to - from) % length, from + equal * length)] {
                if count * length == 0 {
                    continue;
                }
                let piece = inputs.slice_axis(0, at, at + count * length);
                let rows = piece.reshape(&[&[count, length], &inputs.dims()[1..]].concat());
                let (mut pieces, mut consts) = (vec![rows], phis.clone());
                if p.target_per_step {
                    let piece = target.slice_axis(0, at, at + count * length);
                    pieces.push(piece.reshape(&[&[count, length], &target.dims()[1..]].concat()));
                } else {
                    consts.push(target.clone());
                }
                let mut shapes: Vec<Shape> = carry.iter().map(|t| t.shape().clone()).collect();
                shapes.extend(pieces.iter().map(|rows| rows.shape().with_dims(&rows.dims()[1..])));
                shapes.extend(consts.iter().map(|t| t.shape().clone()));
                let body = Func::trace(&shapes, |g, v| {
                    let (carry, rest) = v.split_at(carried);
                    let (target, phis) = if p.target_per_step {
                        (&rest[1], &rest[2..])
                    } else {
                        (&rest[1 + phis.len()], &rest[1..=phis.len()])
                    };
                    self.evaluate_chunk(g, carry, &rest[0], phis, target, (counts, each))
                });
                let stacks;
                (carry, stacks) = scan_whole(g, &body, count, false, &carry, &pieces, &consts);
                outputs.extend(stacks.iter().map(|t| t.reshape(&[&[count * length], &t.dims()[2..]].concat())));
            }
        }
        let spikes = carry.split_off(n + 2);
        let out = carry[n + 1].clone();
        let losses = match self.objective.of_sum {
            OfSum::Never => carry[n].clone(),
            OfSum::Evaluation | OfSum::Always => self.objective.sequence_losses(&out, target),
        };
        let each = each.then(|| Tensor::concat(&outputs.iter().collect::<Vec<_>>(), 0));
        Evaluated { losses, out, spikes, each }
    }

    fn evaluate_chunk(
        &self,
        g: &Graph,
        carry: &[Tensor],
        inputs: &Tensor,
        phis: &[Tensor],
        target: &Tensor,
        (counts, each): (bool, bool),
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
            let shapes = [p.out().shape().clone(), p.given_target.clone()];
            let losses_of = Func::trace(&shapes, |_, v| vec![self.objective.sequence_losses(&v[0], &v[1])]);
            let args = [
                Mapped { tensor: outs[0].clone(), mapped: true },
                Mapped { tensor: target.clone(), mapped: p.target_per_step },
            ];
            let env = transform::vmap(g, &losses_of, &args, outs[0].dims()[0]);
            losses = losses + env.get(losses_of.results()[0].value()).tensor.sum(&[0]);
            sum = sum + outs[0].sum(&[0]);
        }
        after.extend([losses, sum]);
        after.extend(carry[n + 2..].iter().zip(&outs[1..]).map(|(before, spikes)| before + spikes.sum(&[0])));
        after.extend(outs.first().filter(|_| counts && each).cloned());
        after
    }

    /// `step` with its arguments in the order of a loop: states, input, phi. No state depends on the target.
    pub(super) fn loop_body(&self, step: &Func, phis: &[Tensor]) -> Func {
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
