//! Exact gradients: of a whole sequence, and inside a window of an online rule.

use std::collections::HashMap;

use hlo::{DType, Func, Graph, Mapped, Shape, Tensor, Value, scan, transform};

use super::{
    Learner,
    chunk::{Forward, kept_values},
    objective::OfSum,
    sums::Sums,
};

impl Learner {
    /// Exact gradients of a whole sequence.
    pub(super) fn bptt(
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
        let (tracked, score) = vjp.results[2 + 2 * n..].split_at(self.prepared.tracked);
        let [loss, out] = [0, 1].map(|k| vjp.results[k].clone());
        let sums = Sums { grads, loss, out, tracked: tracked.to_vec(), score: score.first().cloned() };
        (sums, vjp.results[2..2 + n].to_vec())
    }

    /// Runs a window with its exact derivative: `dL/dh` at the entry by group, and sums with exact gradients inside.
    pub(super) fn window(
        &self,
        g: &Graph,
        phis: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
    ) -> (Forward, Vec<Vec<Option<Tensor>>>, Sums) {
        let kept = kept_values(&self.prepared, &self.structure);
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
        let known = kept.into_iter().zip(vjp.results[2 + 2 * n..].iter().cloned()).collect();
        let forward = if inputs.dims()[0] == 1 {
            Forward { states: vjp.results[2..2 + n].to_vec(), before: states.to_vec(), known: HashMap::new() }
        } else {
            let (states, before) = vjp.results[2..2 + 2 * n].split_at(n);
            Forward { states: states.to_vec(), before: before.to_vec(), known }
        };
        let entry = self.structure.groups.iter();
        let entry = entry.map(|gr| gr.states.iter().map(|&s| found[phis.len() + s].clone()).collect()).collect();
        let sums = Sums {
            grads: found[..phis.len()].to_vec(),
            loss: vjp.results[0].clone(),
            out: vjp.results[1].clone(),
            tracked: vec![],
            score: None,
        };
        (forward, entry, sums)
    }

    /// (phi, states, inputs, target) to (loss, out summed, states after, states before each step, `kept` values,
    /// tracked values summed, scores summed where steps have them); the loss is that of every step, or one `of_sum`.
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
                args.push(Mapped { tensor: p.target_of(&rest[1], warmup, steps), mapped: p.target_per_step });
                let env = transform::vmap(g, &p.loss_of, &args, steps - warmup);
                env.get(p.loss_of.results()[0].value()).materialize(steps - warmup).sum_all()
            };
            let mut results = vec![loss, out];
            results.extend(after);
            results.extend_from_slice(&stacks[..n]);
            results.extend(outputs);
            results.extend(tracked);
            let target = || p.target_of(&rest[1], warmup, steps);
            results.extend(self.objective.scores(&seen[0], &target()).map(|score| score.sum(&[0])));
            results
        })
    }
}
