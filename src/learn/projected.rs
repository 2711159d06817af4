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

use hlo::{Graph, Shape, Tensor, scan_whole};

use super::{
    Learner,
    rule::{Projection, Signs},
    trace::Slot,
    walk::{Chunk, Walk, Walked},
};

/// Keeps quotients of norms finite.
const EPSILON: f64 = 1e-12;

/// The values of a group that pass from step to step.
struct Held {
    /// `st` by state.
    states: Vec<Tensor>,
    /// `tt` by op.
    weights: Vec<Tensor>,
}

impl Learner {
    pub(super) fn projected(
        &self,
        g: &Graph,
        chunk: &Chunk<'_>,
        projection: &dyn Projection,
        group: usize,
        ops: &[usize],
        all: &mut Walked,
    ) {
        let states = self.structure.groups[group].states.len();
        let state = Shape::f32(self.structure.groups[group].dims.clone());
        let weight = |k: usize| Shape::f32(self.structure.ops[k].weight.clone());
        let held = Held {
            states: (0..states).map(|a| chunk.held(g, &Slot::Influence { group, state: a }, &state)).collect(),
            weights: ops.iter().map(|&k| chunk.held(g, &Slot::Projection { op: k, group }, &weight(k))).collect(),
        };
        // What reads old states in the first step meets the old trace.
        let entry = chunk.slots.and_then(|slots| met(&slots.entry[group], &held.states));
        let first = |(&k, w): (&usize, &Tensor)| entry.as_ref().map_or_else(|| g.zeros(&weight(k)), |m| scaled(w, m));
        let mut init = [&held.states[..], &held.weights].concat();
        init.extend(ops.iter().zip(&held.weights).map(first));
        let walk = Walk::new(self, g, chunk, group, ops);
        let body = walk.body(&init, |_, carried, row, phis| {
            let (old, sums) = carried.split_at(states + ops.len());
            let old = Held { states: old[..states].to_vec(), weights: old[states..].to_vec() };
            let pushed = walk.pushed(row[0].graph(), row, phis, &old.states);
            let dims = [pushed[0].dims()[0], pushed[0].dims()[1]];
            let signs = |state: usize| projection.signs(&Signs { group, state, dims, time: &row[0] });
            let nu: Vec<Tensor> = (0..states).map(signs).collect();
            let project = |k: usize| {
                let terms = walk.drives[k].iter().zip(&nu).map(|(f, nu)| Some(&row[(*f)?] * nu));
                let w = Tensor::sum_of(terms).unwrap_or_else(|| nu[0].zeros_like());
                self.learned(ops[k], walk.x[k].map(|x| &row[x]), &w)
            };
            let projections: Vec<Tensor> = (0..ops.len()).map(project).collect();
            let new = advance(&old, &pushed, &nu, &projections);
            let signals: Vec<Option<Tensor>> = walk.signals.iter().map(|m| m.map(|m| row[m].clone())).collect();
            let learned = met(&signals, &new.states);
            let sums = sums.iter().zip(&new.weights).map(|(sum, w)| match &learned {
                Some(m) => sum + scaled(w, m),
                None => sum.clone(),
            });
            let sums: Vec<Tensor> = sums.collect();
            new.states.into_iter().chain(new.weights).chain(sums).collect()
        });
        let last = scan_whole(g, &body, chunk.inputs.dims()[0], false, &init, &walk.rows, chunk.phis).0;
        let (kept, grads) = last.split_at(states + ops.len());
        let (influence, weights) = kept.split_at(states);
        all.traces.extend(influence.iter().enumerate().map(|(a, t)| (Slot::Influence { group, state: a }, t.clone())));
        all.traces.extend(ops.iter().zip(weights).map(|(&k, t)| (Slot::Projection { op: k, group }, t.clone())));
        if chunk.slots.is_some() {
            all.grads.extend(ops.iter().copied().zip(grads.iter().cloned()));
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
