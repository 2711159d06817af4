//! Traced ops: how a trained weight enters a step, and what a rule needs to know of that. Each is one file and one row of [`Kind`].
//!
//! With `y_s = F(x_s, w)` in step s, the part of a gradient that step s has is the pullback of `F` at `x_s`, whatever the op:
//! `dF/dw^T (f_s . lam_s)` ([`Operator::gradient`]). That is all that the forms of D-RTRL need which go backwards, and all that
//! ES-D-RTRL needs. A trace that goes forwards ([`Operator::carry`]) is a matter of its own: only ops that have one can be trained by
//! D-RTRL on a stream.

mod dense;
mod elementwise;
mod map;

use hlo::{Shape, Tensor};

use super::{
    structure::{Group, Op, Reach},
    trace::{Carried, ChunkResult},
};
use crate::cell::context::{DENSE, ELEMENTWISE, MAP};

/// What rules need to know of a kind of traced op.
pub trait Operator: Sync {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Kind of the tag on its output. The tag refers to the input, if there is one, and last to the weight.
    fn tag(&self) -> &'static str;

    /// The gradient of the weight, `sum_s dF/dw(x_s)^T w_s`, from inputs `x: [K, B, ..]` (nothing where the op has none) and
    /// derivatives with respect to its output `w: [K, B, N]`; `weight` are its values.
    fn gradient(&self, op: &Op, weight: &Tensor, x: Option<&Tensor>, w: &Tensor) -> Tensor;

    /// The same for one step: `x: [B, ..]`, `w: [B, N]`.
    fn gradient_of_step(&self, op: &Op, weight: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
        let step = |t: &Tensor| t.reshape(&[&[1], t.dims()].concat());
        self.gradient(op, weight, Some(&step(x)), &step(w))
    }

    /// Floating-point operations of one step.
    fn flops(&self, op: &Op, batch: usize) -> u64;

    /// Bytes that a chunk stacks for it, or that its gradient takes on the way, per step.
    fn bytes_per_step(&self, op: &Op) -> usize {
        if op.x.is_some() { 4 * op.input.iter().product::<usize>() } else { 0 }
    }

    /// Whether D-RTRL's trace has a value for each weight and sequence.
    fn is_wide(&self) -> bool {
        true
    }

    /// Whether the gradient is linear in the input, as the smoothed inputs of ES-D-RTRL need.
    fn is_linear(&self, op: &Op) -> bool {
        op.x.is_some()
    }

    /// Whether the gradient, a matrix, is made turned.
    fn is_turned(&self, _: &Op) -> bool {
        false
    }

    /// Whether the gradient depends on the weight.
    fn reads_weight(&self, _: &Op) -> bool {
        false
    }

    /// Whether the trace of `w[i, j]` is the same for every j where drive and transitions are numbers.
    fn may_be_uniform(&self) -> bool {
        false
    }

    /// Shape of D-RTRL's trace in a state that is kept, for batch `batch`; nothing if the op has no trace that goes forwards.
    fn trace(&self, op: &Op, group: &Group, reach: &Reach, state: usize, batch: usize) -> Option<Shape>;

    /// What a chunk learns from the old traces, and what becomes of them ([`trace`](super::trace)).
    fn carry(&self, carried: &Carried<'_>, out: &mut ChunkResult);
}

/// What a traced op computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `y = x W`.
    Dense,
    /// `y = w` at every position.
    Elementwise,
    /// `y = F(x, w)`, any function.
    Map,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Dense, Kind::Elementwise, Kind::Map];

    /// What rules need to know of it.
    pub fn operator(self) -> &'static dyn Operator {
        match self {
            Kind::Dense => &dense::Dense,
            Kind::Elementwise => &elementwise::Elementwise,
            Kind::Map => &map::Map,
        }
    }

    /// The kind that a tag of a graph names, if it is one of a traced op.
    pub fn of_tag(tag: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.operator().tag() == tag)
    }
}

impl Op {
    /// The gradient of its weight: [`Operator::gradient`].
    pub fn gradient(&self, phis: &[Tensor], x: Option<&Tensor>, w: &Tensor) -> Tensor {
        self.kind.operator().gradient(self, &phis[self.phi], x, w)
    }
}
