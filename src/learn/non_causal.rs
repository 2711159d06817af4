//! Pairs of an input with slopes before it: the half of S-TLLR that no derivative has.
//!
//! With `s_t` a spike that reads the new states of a group, `psi_t = ds_t/dy` its slope by the output of an op, and `d_t = dloss_t/ds_t`,
//!
//! ```text
//! q_t = decay q_{t-1} + psi_t          G += weight sum_t x_t (x) (d_t q_{t-1})
//! ```
//!
//! which joins the signals that meet the input of the step alone. A group whose new states no spike reads has none of it.

use hlo::{Func, Graph, Shape, Tensor, Value, scan};

use super::{
    Learner, Prepared, Structure,
    chunk::Steps,
    op::Kind,
    sequence::Carry,
    structure::{drive, reach},
    trace::{Slot, Traces},
};

/// A slope with a trace.
#[derive(Clone, Debug)]
pub struct Slope {
    /// The spike, in the step.
    pub spike: Value,
    /// The group whose new states it reads.
    pub group: usize,
    /// Which drive it is the slope of ([`Op::drive`](super::structure::Op::drive)).
    pub drive: usize,
    /// The first op with that drive.
    pub op: usize,
}

/// The slopes of every spike that reads the new states of a group on its way to the loss.
pub(super) fn slopes(prepared: &Prepared, structure: &Structure) -> Vec<Slope> {
    let body = &prepared.body;
    let live = body.live(false);
    let loss = prepared.loss().value();
    let mut all: Vec<Slope> = Vec::new();
    for (group, states) in structure.groups.iter().enumerate() {
        let new: Vec<Value> = states.states.iter().map(|&s| prepared.new_states()[s].value()).collect();
        let reached = reach(body, &new, false);
        let own = live.iter().filter(|(index, node)| node.op.name() == "custom-derivative" && reached.has_node(*index));
        let spikes: Vec<Value> = own
            .map(|(node, _)| Value { node: *node, result: 0 })
            .filter(|v| body.graph().tensor(*v).dims() == states.dims && reach(body, &[*v], true).has(loss))
            .collect();
        // A spike behind another one is that of a later layer.
        let behind = |v: &Value| spikes.iter().any(|w| w != v && reach(body, &[*w], false).has(*v));
        for spike in spikes.iter().copied().filter(|v| !behind(v)) {
            let ops = structure.traced().filter(|(_, op)| op.kind == Kind::Dense && op.groups.contains(&group));
            for (op, found) in ops {
                if !all.iter().any(|s| s.spike == spike && s.drive == found.drive) {
                    all.push(Slope { spike, group, drive: found.drive, op });
                }
            }
        }
    }
    all
}

impl Learner {
    /// What the pairs of a chunk add to the signals of op outputs, by op, and the traces of slopes after it.
    pub(super) fn non_causal(
        &self,
        g: &Graph,
        steps: &Steps<'_>,
        carry: &Carry,
        learn: bool,
    ) -> (Vec<Option<Tensor>>, Traces) {
        let (mut direct, mut traces) = (vec![None; self.structure.ops.len()], Traces::new());
        let Some(rule) = self.rule().non_causal() else { return (direct, traces) };
        for (k, slope) in self.plan.slopes.iter().enumerate() {
            let shape = Shape::f32(self.structure.groups[slope.group].dims.clone());
            let none = || g.zeros(&Shape::f32([&[steps.length], &shape.dims[..]].concat()));
            let psi = steps.slope(slope).unwrap_or_else(none);
            let old = carry.traces.as_ref().and_then(|t| t.get(&Slot::Slope(k))).cloned();
            let old = old.unwrap_or_else(|| g.zeros(&shape));
            let body = Func::trace(&[shape.clone(), shape], |_, v| vec![&v[0] * rule.decay + &v[1], v[0].clone()]);
            let (last, before) = scan(g, &body, steps.length, false, &[old], &[psi], &[]);
            traces.extend(last.into_iter().map(|q| (Slot::Slope(k), q)));
            let Some(signal) = steps.at_spike(slope).filter(|_| learn) else { continue };
            let pairs = &signal * &before[0] * rule.weight;
            let ops = self.structure.traced().filter(|(_, op)| op.kind == Kind::Dense && op.drive == slope.drive);
            for (op, _) in ops {
                direct[op] = Tensor::sum_of([direct[op].take(), Some(pairs.clone())]);
            }
        }
        (direct, traces)
    }
}

impl Steps<'_> {
    /// `ds/dy`, with all other op outputs held fixed, `[K, B, N]`.
    fn slope(&self, slope: &Slope) -> Option<Tensor> {
        let func = self.func.with_results(vec![self.func.graph().tensor(self.place[&slope.spike])]);
        let known = self.rules().known;
        let found = drive(&self.graph, &func, &self.args, self.structure, slope.op, |v| self.place[&v], known);
        let found = found.into_iter().next().flatten().filter(|t| t.as_constant() != Some(0.0));
        found.map(|t| self.per_step(t, &self.structure.groups[slope.group].dims))
    }

    /// `dloss/ds`, `[K, B, N]`.
    fn at_spike(&self, slope: &Slope) -> Option<Tensor> {
        let spike = self.place[&slope.spike];
        let seed = self.graph.placeholder(self.func.graph().tensor(spike).shape().clone());
        let mut rules = self.rules();
        rules.perturb.insert(spike, seed.clone());
        let found = self.pull_loss(&self.args, &rules, &[seed], &[]).swap_remove(0);
        found.map(|t| self.per_step(t, &self.structure.groups[slope.group].dims))
    }
}
