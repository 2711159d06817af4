//! `y = w` at every position.

use hlo::{Shape, Tensor};

use super::{Carried, ChunkResult, ELEMENTWISE, Group, Op, Operator, Reach};

/// A bias, or a parameter of each neuron; see [`Operator`].
pub struct Elementwise;

impl Operator for Elementwise {
    fn name(&self) -> &'static str {
        "elementwise"
    }

    fn tag(&self) -> &'static str {
        ELEMENTWISE
    }

    /// The sum over steps and sequences.
    fn gradient(&self, op: &Op, _: &Tensor, _: Option<&Tensor>, w: &Tensor) -> Tensor {
        sum_to(w, &op.weight)
    }

    fn flops(&self, _: &Op, _: usize) -> u64 {
        0
    }

    fn is_wide(&self) -> bool {
        false
    }

    fn trace(&self, _: &Op, group: &Group, _: &Reach, _: usize, _: usize) -> Option<Shape> {
        Some(Shape::f32(group.dims.clone()))
    }

    fn carry(&self, carried: &Carried<'_>, out: &mut ChunkResult) {
        let Reach { states, wide, .. } = carried.reach();
        let (view, drive) = (carried.view, carried.drive());
        let learned = Tensor::sum_of(wide.iter().map(|&a| Some(carried.old(a)? * carried.signal(a)?)));
        if let Some(grad) = learned {
            out.add(carried.op, sum_to(&grad, &view.structure.ops[carried.op].weight));
        }
        if let (Some(new), Some(p)) = (&mut out.traces, &carried.back.products) {
            let zero = view.graph.zeros(&Shape::f32(view.structure.groups[carried.group].dims.clone()));
            for &a in wide {
                let kept = wide.iter().map(|&c| Some(carried.old(c)? * p.whole[a][c].as_ref()?));
                let term = |&c: &usize| Some(p.steps[a][c].as_ref()? * drive[c].as_ref()?);
                let added = Tensor::sum_of(states.iter().map(term)).map(|q| q.sum(&[0]));
                let e = Tensor::sum_of(kept.chain([added])).unwrap_or_else(|| zero.clone());
                new.insert(carried.slot(a), e);
            }
        }
    }
}

/// The sum over all leading axes until the shape is that of the weight.
///
/// Long axes go in pieces, each along the first axis: XLA's CPU compiler makes a window of a long axis and goes through it value by value,
/// with a stride of a row.
fn sum_to(t: &Tensor, dims: &[usize]) -> Tensor {
    let mut rows: usize = t.dims()[..t.rank() - dims.len()].iter().product();
    let mut t = t.clone();
    while let Some(piece) = (2..=SUMMED_AT_ONCE.min(rows)).rev().find(|d| rows.is_multiple_of(*d)) {
        rows /= piece;
        t = t.reshape(&[&[piece, rows], dims].concat()).sum(&[0]);
    }
    t.reshape(&[&[rows], dims].concat()).sum(&[0])
}

/// The longest axis that the compiler adds up as it is.
const SUMMED_AT_ONCE: usize = 32;
