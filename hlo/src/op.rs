//! What a primitive operation says about itself.
//!
//! Its `impl Primitive` has everything that derivatives, mapping, loops and lowering need: shape rule, forward derivative,
//! transpose, batching, evaluation on the host, cost and emission. Operations are named elsewhere only by simplifications and by the
//! printer of XLA's text.
//!
//! Reverse mode is not a rule of its own: [`jvp`](Primitive::jvp) writes the derivative as *linear* operations on
//! tangents, and [`transpose`](Primitive::transpose) of each linear operation runs them backwards.

use std::{any::Any, fmt};

use crate::{evaluate::HostValue, graph::Tensor, lower::Emitter, range::Range, shape::Shape};

/// A broken shape rule: the rule, what was got, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShapeError(pub String);

/// A value under [`vmap`](crate::transform::vmap): either the same for every index, or with the mapped axis in front.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The value; when `mapped`, with one more axis in front.
    pub tensor: Tensor,
    /// Whether it differs by index.
    pub mapped: bool,
}

impl Mapped {
    /// The value with the mapped axis in front, made by broadcasting if need be.
    pub fn materialize(&self, size: usize) -> Tensor {
        if self.mapped {
            return self.tensor.clone();
        }
        let dims: Vec<usize> = std::iter::once(size).chain(self.tensor.dims().iter().copied()).collect();
        let axes: Vec<usize> = (1..dims.len()).collect();
        self.tensor.broadcast(&dims, &axes)
    }
}

/// One kind of operation with its attributes.
pub trait Primitive: Any + fmt::Debug {
    /// XLA's opcode, or a name of our own for operations that lower to several.
    fn name(&self) -> &'static str;

    /// Shapes of the results.
    ///
    /// # Errors
    /// When the operand shapes break the rule.
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError>;

    /// Tangents of the results, linear in the tangents of the operands (`None` is zero).
    fn jvp(&self, args: &[Tensor], results: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>>;

    /// Results and their tangents together, for operations that must change to have a derivative (loops). `None` means:
    /// apply as usual, then use `jvp`.
    fn linearize(&self, args: &[Tensor], tangents: &[Option<Tensor>]) -> Option<(Vec<Tensor>, Vec<Option<Tensor>>)> {
        let _ = (args, tangents);
        None
    }

    /// Cotangents of the operands marked `linear`, given those of the results.
    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let _ = (args, linear, cotangents);
        panic!("{}: not a linear operation, so it has no transpose; its jvp must not emit it on tangents", self.name())
    }

    /// The operation applied to operands of which some have a mapped axis of `size` in front.
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped>;

    /// The results, of shapes `results`, computed on the host; see [`evaluate`](crate::evaluate).
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue>;

    /// Emits instructions for the given operand instructions; returns one instruction per result.
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64>;

    /// Like [`Primitive::emit`], told which results are used: the others may be left out of the work (not of the answer).
    fn emit_used(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape], used: &[bool]) -> Vec<i64> {
        let _ = used;
        self.emit(e, args, results)
    }

    /// Between which numbers all elements of the results, of shapes `results`, lie, given the ranges of the operands.
    fn range(&self, args: &[Range], results: &[Shape]) -> Range {
        let _ = (args, results);
        Range::ANY
    }

    /// Identity for common-subexpression reuse; `None` keeps every instance apart.
    fn key(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }

    /// How many leading operands the emitted code needs (the rest only serve transforms).
    fn live_operands(&self, count: usize) -> usize {
        count
    }

    /// Whether each element of a result depends only on the elements of the operands at the same position.
    fn elementwise(&self) -> bool {
        false
    }

    /// Whether the result is the elements of its operand and nothing else, in another shape, some of them more than once.
    fn spreads(&self) -> bool {
        false
    }

    /// Whether a derivative passes from an operand to the result.
    fn passes_derivative(&self, operand: usize) -> bool {
        let _ = operand;
        true
    }

    /// Whether the result is cheaper to make again inside a loop than to bring in from outside.
    fn cheap(&self) -> bool {
        self.spreads()
    }

    /// Floating-point operations: one for each element that arithmetic makes, unless the operation says otherwise. Moving and
    /// copying values is free.
    fn flops(&self, args: &[&Shape], results: &[&Shape]) -> u64 {
        let arithmetic = self.elementwise() && !args.is_empty();
        if arithmetic { results.iter().map(|s| s.elements() as u64).sum() } else { 0 }
    }
}
