//! `y = x W`.

use hlo::{Dot, Func, Shape, Tensor, is_wide, scan};

use super::{Carried, ChunkResult, DENSE, Group, Op, Operator, Reach};
use crate::learn::trace::{Products, Update, pass};

/// `[K, B, I] x [I, N] -> [K, B, N]`; see [`Operator`].
pub struct Dense;

impl Operator for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn tag(&self) -> &'static str {
        DENSE
    }

    /// `[K, B, I] x [K, B, N] -> [I, N]`.
    fn gradient(&self, _: &Op, _: &Tensor, x: Option<&Tensor>, w: &Tensor) -> Tensor {
        let x = x.expect("a dense op has an input");
        x.dot_general(w, Dot { lhs_contract: vec![0, 1], rhs_contract: vec![0, 1], ..Dot::default() })
    }

    fn gradient_of_step(&self, _: &Op, _: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
        x.dot_general(w, over_batch())
    }

    fn flops(&self, op: &Op, batch: usize) -> u64 {
        2 * (batch * op.weight.iter().product::<usize>()) as u64
    }

    fn is_turned(&self, op: &Op) -> bool {
        is_wide(op.weight[0], op.weight[1])
    }

    fn may_be_uniform(&self) -> bool {
        true
    }

    fn trace(&self, op: &Op, _: &Group, reach: &Reach, state: usize, batch: usize) -> Option<Shape> {
        let outputs = if reach.uniform.contains(&state) { &[] } else { &op.weight[1..] };
        Some(Shape::f32([&[batch, op.weight[0]], outputs].concat()))
    }

    fn carry(&self, carried: &Carried<'_>, out: &mut ChunkResult) {
        let x = &carried.view.inputs[&carried.op];
        let Reach { wide, uniform, .. } = carried.reach();
        // e[b, i] of the uniform states.
        for &a in uniform {
            if let (Some(e), Some(lam)) = (carried.old(a), carried.signal(a)) {
                out.add(carried.op, e.dot_general(lam, over_batch()));
            }
        }
        if let Some(new) = &mut out.traces {
            for (&a, e) in uniform.iter().zip(uniform_traces(carried, x)) {
                new.insert(carried.slot(a), e);
            }
        }
        if !wide.is_empty() {
            carry_wide(carried, x, out);
        }
    }
}

/// What a chunk adds to the wide traces.
struct Added {
    /// Inputs of its steps; what the uniform traces pass on is one more step each, `[K + .., B, I]`.
    input: Tensor,
    /// Their factors by wide state, `[K + .., B, N]`; `None` is zero.
    factors: Vec<Option<Tensor>>,
    /// Factors of the old traces, `[B, N]`; `None` is zero.
    kept: Vec<Vec<Option<Tensor>>>,
}

/// What a chunk adds to `e[b, i, j]`: `x_s (P_s f_s)` of each step, and what the uniform traces pass on.
fn added(carried: &Carried<'_>, x: &Tensor, p: &Products) -> Added {
    let Reach { states, wide, uniform, .. } = carried.reach();
    let (view, drive) = (carried.view, carried.drive());
    let step = |t: &Tensor| t.reshape(&[&[1], t.dims()].concat());
    let passing: Vec<(usize, &Tensor)> = uniform.iter().filter_map(|&c| Some((c, carried.old(c)?))).collect();
    let factor = |&a: &usize| {
        let term = |&c: &usize| Some(p.steps[a][c].as_ref()? * drive[c].as_ref()?);
        let local = Tensor::sum_of(states.iter().map(term));
        let passed: Vec<_> = passing.iter().map(|&(c, _)| p.whole[a][c].as_ref().map(step)).collect();
        if local.is_none() && passed.iter().all(Option::is_none) {
            return None;
        }
        let dims = &view.structure.groups[carried.group].dims;
        let zeros = |n: usize| view.graph.zeros(&Shape::f32([&[n], &dims[..]].concat()));
        let mut parts = vec![local.unwrap_or_else(|| zeros(view.length))];
        parts.extend(passed.into_iter().map(|t| t.unwrap_or_else(|| zeros(1))));
        Some(Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0))
    };
    let mut input = vec![x.clone()];
    input.extend(passing.iter().map(|(_, e)| step(e)));
    Added {
        input: Tensor::concat(&input.iter().collect::<Vec<_>>(), 0),
        factors: wide.iter().map(factor).collect(),
        kept: wide.iter().map(|&a| wide.iter().map(|&c| p.whole[a][c].clone()).collect()).collect(),
    }
}

/// The traces `e[b, i, j]`.
fn carry_wide(carried: &Carried<'_>, x: &Tensor, out: &mut ChunkResult) {
    let wide = &carried.reach().wide;
    let added = carried.back.products.as_ref().map(|p| added(carried, x, p));
    let old: Option<Vec<&Tensor>> = wide.iter().map(|&a| carried.old(a)).collect();
    let new: Option<Vec<Option<Tensor>>> = match old {
        Some(e) => {
            let signals: Vec<Option<Tensor>> = wide.iter().map(|&a| carried.signal(a).cloned()).collect();
            let update = added.as_ref().map(|new| Update { input: &new.input, added: &new.factors, kept: &new.kept });
            let (grad, new) = pass(&e, &signals, update.as_ref());
            if let Some(grad) = grad {
                out.add(carried.op, grad);
            }
            new.map(|all| all.into_iter().map(Some).collect())
        }
        None => added.map(|new| {
            let product = |q: &Tensor| new.input.dot_general(q, batched_outer());
            new.factors.iter().map(|q| q.as_ref().map(product)).collect()
        }),
    };
    if let (Some(all), Some(new)) = (&mut out.traces, new) {
        let weight = &carried.view.structure.ops[carried.op].weight;
        let shape = Shape::f32([&x.dims()[1..], &weight[1..]].concat());
        for (&a, e) in wide.iter().zip(new) {
            all.insert(carried.slot(a), e.unwrap_or_else(|| carried.view.graph.zeros(&shape)));
        }
    }
}

/// `e[b, i]` after the chunk for the states where drive and transitions are numbers: `e' = D e + f x`.
fn uniform_traces(carried: &Carried<'_>, x: &Tensor) -> Vec<Tensor> {
    let uniform = &carried.reach().uniform;
    let (view, drive) = (carried.view, carried.drive());
    let number = |t: &Option<Tensor>| t.as_ref().map(|t| t.as_constant().expect("a number, as the structure says"));
    let row = x.shape().with_dims(&x.dims()[1..]);
    let init: Vec<Tensor> =
        uniform.iter().map(|&a| carried.old(a).cloned().unwrap_or_else(|| view.graph.zeros(&row))).collect();
    let body = Func::trace(&vec![row; uniform.len() + 1], |_, v| {
        let (e, x) = (&v[..uniform.len()], &v[uniform.len()]);
        let next = |&a: &usize| {
            let transitions = &view.transitions[carried.group][a];
            let kept = uniform.iter().zip(e).map(|(&c, e)| Some(e * number(&transitions[c])?));
            let all = Tensor::sum_of(kept.chain([number(&drive[a]).map(|f| x * f)]));
            all.unwrap_or_else(|| x.zeros_like())
        };
        uniform.iter().map(next).collect()
    });
    scan(view.graph, &body, view.length, false, &init, std::slice::from_ref(x), &[]).0
}

/// `[B, I] x [B, N] -> [I, N]`.
fn over_batch() -> Dot {
    Dot { lhs_contract: vec![0], rhs_contract: vec![0], ..Dot::default() }
}

/// `[K, B, I] x [K, B, N] -> [B, I, N]`.
fn batched_outer() -> Dot {
    Dot { lhs_batch: vec![1], lhs_contract: vec![0], rhs_batch: vec![1], rhs_contract: vec![0] }
}
