//! `y = F(x, w)` with any function `F`: convolutions, sparse and structured products, and what a user writes.

use hlo::{
    Func, Mapped, Shape, Tensor,
    transform::{vjp, vmap},
};

use super::{Carried, ChunkResult, Group, MAP, Op, Reach, TracedOp};
use crate::learn::cost;

/// The pullback of the function itself; no trace that goes forwards. See [`TracedOp`].
pub struct Map;

impl TracedOp for Map {
    fn name(&self) -> &'static str {
        "map"
    }

    fn tag(&self) -> &'static str {
        MAP
    }

    fn gradient(&self, op: &Op, weight: &Tensor, x: Option<&Tensor>, w: &Tensor) -> Tensor {
        let x = x.expect("a map has an input");
        let steps = x.dims()[0];
        let all = Func::trace(&[x.shape().clone(), weight.shape().clone()], |g, p| {
            let args = [Mapped { tensor: p[0].clone(), mapped: true }, Mapped { tensor: p[1].clone(), mapped: false }];
            let env = vmap(g, function(op), &args, steps);
            vec![env.get(function(op).results()[0].value()).materialize(steps)]
        });
        let pulled = vjp(w.graph(), &all, &[x.clone(), weight.clone()], &[false, true]).pull(&[Some(w.clone())]);
        pulled[1].clone().unwrap_or_else(|| weight.zeros_like())
    }

    fn flops(&self, op: &Op, _: usize) -> u64 {
        cost::cost(function(op)).flops
    }

    /// A trace of D-RTRL would have a value for each weight, sequence and position.
    fn trace(&self, _: &Op, _: &Group, _: &Reach, _: usize, _: usize) -> Option<Shape> {
        None
    }

    fn carry(&self, carried: &Carried<'_>, _: &mut ChunkResult) {
        let site = &carried.view.structure.ops[carried.op].site;
        unreachable!("`{site}` has no trace that goes forwards; the learner refuses forms that need one");
    }
}

fn function(op: &Op) -> &Func {
    op.function.as_ref().expect("a map has a function")
}
