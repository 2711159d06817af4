//! Traces that need the whole Jacobian of a group: step by step in one loop, with the step inside.
//!
//! Two rules are like that. UORO ([`projected`](super::projected)) pushes one tangent through each step, SnAp
//! ([`influence`](super::influence)) one for each weight.

use std::collections::HashMap;

use hlo::{
    Dot, Func, Graph, Shape, Tensor, Value,
    transform::{Dual, Rules, jvp_with},
};

use super::{
    Learner,
    chunk::Forward,
    op::Kind,
    sequence::Carry,
    trace::{Slot, Slots, TraceKind, Traces},
};

/// A chunk of steps.
pub(super) struct Chunk<'a> {
    pub forward: &'a Forward,
    pub phis: &'a [Tensor],
    /// `[K, B, n_in]`.
    pub inputs: &'a Tensor,
    pub carry: &'a Carry,
    pub slots: Option<&'a Slots>,
    pub drives: &'a HashMap<(usize, usize), Vec<Option<Tensor>>>,
    /// Inputs of ops, `[K, B, I]`.
    pub x: &'a HashMap<usize, Tensor>,
}

/// What a chunk gives: gradients by op, and the traces after it.
#[derive(Default)]
pub(super) struct Walked {
    pub grads: Vec<(usize, Tensor)>,
    pub traces: Traces,
}

impl Chunk<'_> {
    /// A trace at the entry of the chunk.
    pub fn held(&self, g: &Graph, slot: &Slot, shape: &Shape) -> Tensor {
        let traces = self.carry.traces.as_ref();
        traces.and_then(|t| t.get(slot)).cloned().unwrap_or_else(|| g.zeros(shape))
    }
}

/// A loop over the steps of a chunk for one group.
pub(super) struct Walk<'a> {
    learner: &'a Learner,
    phis: &'a [Tensor],
    /// States of the group.
    pub members: &'a [usize],
    /// (phi, old states, input, target) to new states of the group.
    func: Func,
    /// Values of the step that are known.
    known: Vec<Value>,
    /// What the loop reads row by row: time, input, old states, known values, and what is [placed](Walk::place).
    pub rows: Vec<Tensor>,
    /// Drives by op and state, inputs by op, and signals by state: their places among the rows.
    pub drives: Vec<Vec<Option<usize>>>,
    pub x: Vec<Option<usize>>,
    pub signals: Vec<Option<usize>>,
}

impl<'a> Walk<'a> {
    pub fn new(learner: &'a Learner, g: &Graph, chunk: &'a Chunk<'_>, group: usize, ops: &[usize]) -> Walk<'a> {
        let p = &learner.prepared;
        let length = chunk.inputs.dims()[0];
        let stack = |t: &Tensor| if length == 1 { t.reshape(&[&[1], t.dims()].concat()) } else { t.clone() };
        let members = &learner.structure.groups[group].states;
        let func = p.body.with_results(members.iter().map(|&s| p.new_states()[s].clone()).collect());
        let live = func.live(false);
        let mut known: Vec<(Value, Tensor)> = chunk.forward.known.iter().map(|(v, t)| (*v, t.clone())).collect();
        known.retain(|(v, _)| live.iter().any(|(node, _)| *node == v.node));
        known.sort_by_key(|(v, _)| *v);
        let mut rows = vec![g.iota(Shape::s32([length]), 0) + &chunk.carry.time, chunk.inputs.clone()];
        rows.extend(chunk.forward.before.iter().map(stack));
        rows.extend(known.iter().map(|(_, t)| t.clone()));
        let known = known.into_iter().map(|(v, _)| v).collect();
        let (drives, x, signals) = (vec![], vec![], vec![]);
        let mut walk = Walk { learner, phis: chunk.phis, members, func, known, rows, drives, x, signals };
        for &k in ops {
            let drive = chunk.drives[&(k, group)].iter().map(|f| walk.place(f.as_ref())).collect();
            walk.drives.push(drive);
            let x = walk.place(chunk.x.get(&k));
            walk.x.push(x);
        }
        walk.signals = match chunk.slots {
            Some(slots) => slots.steps[group].iter().map(|m| walk.place(m.as_ref())).collect(),
            None => vec![None; members.len()],
        };
        walk
    }

    fn place(&mut self, t: Option<&Tensor>) -> Option<usize> {
        self.rows.push(t?.clone());
        Some(self.rows.len() - 1)
    }

    /// A loop body over carries like `init`: `step` gets the carries, the rows of the step and `phi`.
    pub fn body(
        &self,
        init: &[Tensor],
        step: impl FnOnce(&Graph, &[Tensor], &[Tensor], &[Tensor]) -> Vec<Tensor>,
    ) -> Func {
        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.extend(self.rows.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
        shapes.extend(self.phis.iter().map(|t| t.shape().clone()));
        Func::trace(&shapes, |g, v| {
            let (carried, rest) = v.split_at(init.len());
            let (row, phis) = rest.split_at(self.rows.len());
            step(g, carried, row, phis)
        })
    }

    /// The derivative of the group's new states along a change of its old ones, with nothing held fixed.
    pub fn pushed(&self, g: &Graph, row: &[Tensor], phis: &[Tensor], along: &[Tensor]) -> Vec<Tensor> {
        let p = &self.learner.prepared;
        let mut args = phis.to_vec();
        args.extend_from_slice(&row[2..2 + p.states]);
        args.extend([row[1].clone(), g.zeros(&p.target)]);
        let mut args: Vec<Dual> = args.into_iter().map(|primal| Dual { primal, tangent: None }).collect();
        for (&s, t) in self.members.iter().zip(along) {
            args[p.phis + s].tangent = Some(t.clone());
        }
        let values = self.known.iter().copied().zip(row[2 + p.states..].iter().cloned()).collect();
        let env = jvp_with(g, &self.func, &args, &Rules { known: values, ..Rules::default() });
        let results = self.func.results().iter().zip(along);
        results.map(|(r, like)| env.get(r.value()).tangent.clone().unwrap_or_else(|| like.zeros_like())).collect()
    }
}

impl Learner {
    /// The rules that walk, for all groups.
    pub(super) fn walked(&self, g: &Graph, chunk: &Chunk<'_>) -> Walked {
        let mut all = Walked::default();
        for group in 0..self.structure.groups.len() {
            let ops = |kind: TraceKind| -> Vec<usize> {
                let traced = self.structure.traced();
                let mine = traced.filter(|(k, op)| op.groups.contains(&group) && self.plan.kinds[*k] == Some(kind));
                mine.map(|(k, _)| k).collect()
            };
            let (projected, complete) = (ops(TraceKind::Projected), ops(TraceKind::Complete));
            if let (false, Some(projection)) = (projected.is_empty(), self.rule().projection()) {
                self.projected(g, chunk, projection, group, &projected, &mut all);
            }
            if !complete.is_empty() {
                self.complete(g, chunk, group, &complete, &mut all);
            }
            let Some(slots) = chunk.slots else { continue };
            for k in projected.into_iter().chain(complete) {
                let direct = slots.direct(&self.structure, k, group);
                all.grads.extend(direct.map(|w| (k, self.learned(k, chunk.x.get(&k), &w))));
            }
        }
        all
    }

    /// The derivative by an op's weight, of one with respect to its output, `[.., B, N]`.
    pub(super) fn learned(&self, k: usize, x: Option<&Tensor>, w: &Tensor) -> Tensor {
        let op = &self.structure.ops[k];
        match (x, op.kind) {
            (Some(x), Kind::Dense) => {
                let leading: Vec<usize> = (0..x.rank() - 1).collect();
                x.dot_general(w, Dot { lhs_contract: leading.clone(), rhs_contract: leading, ..Dot::default() })
            }
            _ => w.sum(&(0..w.rank() - op.weight.len()).collect::<Vec<_>>()),
        }
    }
}
