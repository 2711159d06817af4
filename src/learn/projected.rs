//! UORO: the trace as a product of two, projected at random.
//!
//! Per group, with `J_s` the derivative of its new states by its old ones with nothing held fixed, `nu_s` random signs, and `F_s` the
//! derivative of its new states by its parameters in step s,
//!
//! ```text
//! ds  = J_s st_{s-1}         r0 = sqrt((|tt| + eps) / (|ds| + eps))         st_s = r0 ds + r1 nu_s
//! p   = nu_s^T F_s           r1 = sqrt((|p| + eps) / (|nu_s| + eps))        tt_s = tt_{s-1} / r0 + p / r1
//! G  += (m_s . st_s) tt_s                                                   E[st_s tt_s^T] = dh_s/dw
//! ```
//!
//! `st` has the shape of the group's states, `tt` that of its weights, without a batch: the sequences of a batch share one sum, as if they were
//! one network. (`docs/spec/algorithms.md, "UORO"`)

use std::collections::HashMap;

use hlo::{
    Func, Graph, Shape, Tensor, Value, scan_whole,
    transform::{Dual, Rules, jvp_with},
};

use super::{
    Learner,
    chunk::Forward,
    rule::{Projection, Signs},
    sequence::Carry,
    structure::Kind,
    trace::{Slot, Slots, TraceKind, Traces},
};

/// Keeps quotients of norms finite.
const EPSILON: f64 = 1e-12;

/// What a chunk is to this rule.
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
pub(super) struct Projected {
    pub grads: Vec<(usize, Tensor)>,
    pub traces: Traces,
}

/// The values of a group that pass from step to step.
struct Held {
    /// `st` by state.
    states: Vec<Tensor>,
    /// `tt` by op.
    weights: Vec<Tensor>,
}

impl Learner {
    /// The rule for all groups, step by step.
    pub(super) fn projected(&self, g: &Graph, chunk: &Chunk<'_>) -> Projected {
        let mut all = Projected::default();
        let Some(projection) = self.rule().projection() else { return all };
        for group in 0..self.structure.groups.len() {
            let traced = self
                .structure
                .traced()
                .filter(|(k, op)| op.groups.contains(&group) && self.plan.kinds[*k] == Some(TraceKind::Projected));
            let ops: Vec<usize> = traced.map(|(k, _)| k).collect();
            if !ops.is_empty() {
                self.projected_group(g, chunk, projection, group, &ops, &mut all);
            }
        }
        all
    }

    fn projected_group(
        &self,
        g: &Graph,
        chunk: &Chunk<'_>,
        projection: &dyn Projection,
        group: usize,
        ops: &[usize],
        all: &mut Projected,
    ) {
        let states = self.structure.groups[group].states.len();
        let at = |slot: &Slot, shape: &Shape| {
            chunk.carry.traces.as_ref().and_then(|t| t.get(slot)).cloned().unwrap_or_else(|| g.zeros(shape))
        };
        let state = Shape::f32(self.structure.groups[group].dims.clone());
        let weight = |k: usize| Shape::f32(self.structure.ops[k].weight.clone());
        let held = Held {
            states: (0..states).map(|a| at(&Slot::Influence(group, a), &state)).collect(),
            weights: ops.iter().map(|&k| at(&Slot::Projection(k, group), &weight(k))).collect(),
        };
        // What reads old states in the first step meets the old trace.
        let entry = chunk.slots.and_then(|slots| met(&slots.entry[group], &held.states));
        let zero = |k: &usize| g.zeros(&weight(*k));
        let mut init = [&held.states[..], &held.weights].concat();
        init.extend(
            ops.iter().zip(&held.weights).map(|(k, w)| entry.as_ref().map_or_else(|| zero(k), |m| scaled(w, m))),
        );
        let (body, rows, consts) = self.projected_step(g, chunk, projection, group, ops, &init);
        let last = scan_whole(g, &body, chunk.inputs.dims()[0], false, &init, &rows, &consts).0;
        let (kept, grads) = last.split_at(states + ops.len());
        let (influence, weights) = kept.split_at(states);
        all.traces.extend(influence.iter().enumerate().map(|(a, t)| (Slot::Influence(group, a), t.clone())));
        all.traces.extend(ops.iter().zip(weights).map(|(&k, t)| (Slot::Projection(k, group), t.clone())));
        let Some(slots) = chunk.slots else { return };
        all.grads.extend(ops.iter().copied().zip(grads.iter().cloned()));
        for &k in ops {
            let direct = slots.direct(&self.structure, k, group);
            all.grads.extend(direct.map(|w| (k, self.learned(k, chunk.x.get(&k), &w))));
        }
    }

    /// One step of a group as the body of a loop, with the rows and constants that it reads.
    fn projected_step(
        &self,
        g: &Graph,
        chunk: &Chunk<'_>,
        projection: &dyn Projection,
        group: usize,
        ops: &[usize],
        init: &[Tensor],
    ) -> (Func, Vec<Tensor>, Vec<Tensor>) {
        let p = &self.prepared;
        let length = chunk.inputs.dims()[0];
        let stack = |t: &Tensor| if length == 1 { t.reshape(&[&[1], t.dims()].concat()) } else { t.clone() };
        let members = &self.structure.groups[group].states;
        let func = p.body.with_results(members.iter().map(|&s| p.new_states()[s].clone()).collect());
        let live = func.live(false);
        let mut known: Vec<(Value, Tensor)> = chunk.forward.known.iter().map(|(v, t)| (*v, t.clone())).collect();
        known.retain(|(v, _)| live.iter().any(|(node, _)| *node == v.node));
        known.sort_by_key(|(v, _)| *v);
        let mut rows = vec![g.iota(Shape::s32([length]), 0) + &chunk.carry.time, chunk.inputs.clone()];
        rows.extend(chunk.forward.before.iter().map(stack));
        rows.extend(known.iter().map(|(_, t)| t.clone()));
        let mut place = |t: Option<&Tensor>| {
            t.map(|t| {
                rows.push(t.clone());
                rows.len() - 1
            })
        };
        let drives: Vec<Vec<Option<usize>>> =
            ops.iter().map(|&k| chunk.drives[&(k, group)].iter().map(|f| place(f.as_ref())).collect()).collect();
        let x: Vec<Option<usize>> = ops.iter().map(|k| place(chunk.x.get(k))).collect();
        let signals: Vec<Option<usize>> = match chunk.slots {
            Some(slots) => slots.steps[group].iter().map(|m| place(m.as_ref())).collect(),
            None => vec![None; members.len()],
        };
        let consts = chunk.phis.to_vec();
        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.extend(rows.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
        shapes.extend(consts.iter().map(|t| t.shape().clone()));
        let body = Func::trace(&shapes, |g, v| {
            let (carried, rest) = v.split_at(init.len());
            let (row, phis) = rest.split_at(rows.len());
            let (old, sums) = carried.split_at(members.len() + ops.len());
            let old = Held { states: old[..members.len()].to_vec(), weights: old[members.len()..].to_vec() };
            let mut args = phis.to_vec();
            args.extend_from_slice(&row[2..2 + p.states]);
            args.extend([row[1].clone(), g.zeros(&p.target)]);
            let mut args: Vec<Dual> = args.into_iter().map(|primal| Dual { primal, tangent: None }).collect();
            for (&s, t) in members.iter().zip(&old.states) {
                args[p.phis + s].tangent = Some(t.clone());
            }
            let values = known.iter().map(|(v, _)| *v).zip(row[2 + p.states..].iter().cloned()).collect();
            let env = jvp_with(g, &func, &args, &Rules { known: values, ..Rules::default() });
            let pushed = func.results().iter().zip(&old.states);
            let pushed: Vec<Tensor> = pushed
                .map(|(r, like)| env.get(r.value()).tangent.clone().unwrap_or_else(|| like.zeros_like()))
                .collect();
            let dims = [pushed[0].dims()[0], pushed[0].dims()[1]];
            let signs = |state: usize| projection.signs(&Signs { group, state, dims, time: &row[0] });
            let nu: Vec<Tensor> = (0..members.len()).map(signs).collect();
            let projections: Vec<Tensor> = (0..ops.len())
                .map(|k| {
                    let terms = drives[k].iter().zip(&nu).map(|(f, nu)| Some(&row[(*f)?] * nu));
                    let w = Tensor::sum_of(terms).unwrap_or_else(|| nu[0].zeros_like());
                    self.learned(ops[k], x[k].map(|x| &row[x]), &w)
                })
                .collect();
            let new = advance(&old, &pushed, &nu, &projections);
            let signals: Vec<Option<Tensor>> = signals.iter().map(|m| m.map(|m| row[m].clone())).collect();
            let learned = met(&signals, &new.states);
            let sums = sums.iter().zip(&new.weights).map(|(sum, w)| match &learned {
                Some(m) => sum + scaled(w, m),
                None => sum.clone(),
            });
            let sums: Vec<Tensor> = sums.collect();
            new.states.into_iter().chain(new.weights).chain(sums).collect()
        });
        (body, rows, consts)
    }

    /// The derivative by an op's weight, of one with respect to its output, `[.., B, N]`.
    fn learned(&self, k: usize, x: Option<&Tensor>, w: &Tensor) -> Tensor {
        let op = &self.structure.ops[k];
        match (x, op.kind) {
            (Some(x), Kind::Dense) => {
                let leading: Vec<usize> = (0..x.rank() - 1).collect();
                x.dot_general(
                    w,
                    hlo::Dot { lhs_contract: leading.clone(), rhs_contract: leading, ..hlo::Dot::default() },
                )
            }
            _ => w.sum(&(0..w.rank() - op.weight.len()).collect::<Vec<_>>()),
        }
    }
}

/// One step of both halves.
fn advance(old: &Held, pushed: &[Tensor], nu: &[Tensor], projections: &[Tensor]) -> Held {
    let quotient = |a: &[Tensor], b: &[Tensor]| ((norm(a) + EPSILON) / (norm(b) + EPSILON)).sqrt();
    let (r0, r1) = (quotient(&old.weights, pushed), quotient(projections, nu));
    let states = pushed.iter().zip(nu).map(|(ds, nu)| scaled(ds, &r0) + scaled(nu, &r1));
    let (i0, i1) = (r0.recip(), r1.recip());
    let weights = old.weights.iter().zip(projections).map(|(tt, p)| scaled(tt, &i0) + scaled(p, &i1));
    Held { states: states.collect(), weights: weights.collect() }
}

/// The length of some arrays together.
fn norm(all: &[Tensor]) -> Tensor {
    let squares = all.iter().map(|t| Some((t * t).sum_all()));
    Tensor::sum_of(squares).expect("at least one array").sqrt()
}

/// `t` times a scalar.
fn scaled(t: &Tensor, by: &Tensor) -> Tensor {
    t * by.broadcast(t.dims(), &[])
}

/// `sum_a m[a] . st[a]`, a scalar; nothing without signals.
fn met(signals: &[Option<Tensor>], states: &[Tensor]) -> Option<Tensor> {
    Tensor::sum_of(signals.iter().zip(states).map(|(m, st)| Some((m.as_ref()? * st).sum_all())))
}
