//! An array that is there before anything reads it.
//!
//! XLA's CPU compiler makes one loop of an expression and of what reads it. Where the reader goes through memory in another order (a
//! transposition, a gather), the expression is evaluated in that order, with a stride of a row, and again for each reader. What comes out of
//! a loop is an array: [`Settle`] passes its operand through a loop that writes a row of it once more.

use crate::{
    evaluate::HostValue,
    func::Func,
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    range::Range,
    shape::{DType, Shape},
};

/// Fewer elements than this stay an expression.
pub(super) const SMALL: usize = 1 << 17;

/// The first row of an array, `[1, ..]`.
pub(super) fn first_row(e: &mut Emitter<'_>, x: i64) -> i64 {
    let first = Func::trace(&[e.shape(x).clone()], |_, p| vec![p[0].slice_axis(0, 0, 1)]);
    e.inline(&first, &[x])[0]
}

/// The array `x` itself, whose first row is given, as the result of a loop that writes this row twice.
pub(super) fn settled(e: &mut Emitter<'_>, x: i64, first: i64) -> i64 {
    let write = Func::trace(&[x, first].map(|id| e.shape(id).clone()), |g, p| {
        vec![p[0].dynamic_update(&p[1], &g.scalar(DType::S32, 0.0))]
    });
    e.counted_loop(2, &[x, first], |e, _, s| vec![e.inline(&write, s)[0], s[1]])[0]
}

/// The same values as an array that is there before anything reads it; a small one stays an expression.
#[derive(Clone, Debug)]
pub struct Settle;

impl Primitive for Settle {
    fn name(&self) -> &'static str {
        "settle"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![args[0].clone()])
    }
    fn jvp(&self, _: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![tangents[0].as_ref().map(Tensor::settle)]
    }
    fn transpose(&self, _: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![cotangents[0].as_ref().map(Tensor::settle)]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        vec![Mapped { tensor: args[0].tensor.settle(), mapped: args[0].mapped }]
    }
    fn evaluate(&self, args: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        vec![args[0].clone()]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        if results[0].elements() < SMALL {
            return vec![args[0]];
        }
        let first = first_row(e, args[0]);
        vec![settled(e, args[0], first)]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
    fn elementwise(&self) -> bool {
        true
    }
    fn flops(&self, _: &[&Shape], _: &[&Shape]) -> u64 {
        0
    }
}

impl Tensor {
    /// See [`Settle`].
    pub fn settle(&self) -> Tensor {
        self.graph().apply(Settle, &[self])
    }
}
