//! Operations that move elements without computing: broadcast, reshape, transpose, slice, pad, concatenate, reverse.
//! All are linear, so each is its own derivative.

mod axes;
mod extent;

use super::elementwise::AddOp;
use crate::{func::downcast, graph::Tensor, op::Mapped};

pub use axes::{Broadcast, Reshape, Reverse, Transpose};
pub(super) use extent::neighbours;
pub use extent::{Concatenate, Pad, Slice};

/// The common part of linear one-operand operations: the tangent goes through the operation itself.
macro_rules! linear_unary {
    () => {
        fn jvp(&self, _: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
            vec![tangents[0].as_ref().map(|d| d.graph().apply(self.clone(), &[d]))]
        }
    };
}
use linear_unary;

/// For a mapped single operand, shifts the axes of an attribute by one.
fn shifted(axes: &[usize]) -> Vec<usize> {
    axes.iter().map(|a| a + 1).collect()
}

fn with_front(size: usize, dims: &[usize]) -> Vec<usize> {
    std::iter::once(size).chain(dims.iter().copied()).collect()
}

fn mapped(tensor: Tensor) -> Vec<Mapped> {
    vec![Mapped { tensor, mapped: true }]
}

fn signed(axes: &[usize]) -> Vec<i64> {
    axes.iter().map(|&a| a as i64).collect()
}

impl Tensor {
    /// Operand axis `i` becomes result axis `axes[i]`; the other result axes repeat.
    #[track_caller]
    pub fn broadcast(&self, dims: &[usize], axes: &[usize]) -> Tensor {
        if self.dims() == dims && axes.len() == dims.len() {
            return self.clone();
        }
        self.graph().apply(Broadcast { dims: dims.to_vec(), axes: axes.to_vec() }, &[self])
    }

    /// Repeats along new leading axes and along axes of size 1, aligned at the last axis.
    #[track_caller]
    pub fn broadcast_to(&self, dims: &[usize]) -> Tensor {
        if self.dims() == dims {
            return self.clone();
        }
        if self.rank() > dims.len() {
            let rule = "the result must have at least as many axes";
            let error = format!("broadcast: {rule}, got {} to {dims:?}; reduce or reshape instead", self.shape());
            return self.graph().refused(error, dims);
        }
        let first = dims.len() - self.rank();
        let kept: Vec<usize> = (0..self.rank()).filter(|&a| self.dims()[a] == dims[first + a]).collect();
        let squeezed: Vec<usize> = kept.iter().map(|&a| self.dims()[a]).collect();
        let axes: Vec<usize> = kept.iter().map(|&a| first + a).collect();
        if squeezed.iter().product::<usize>() != self.shape().elements() {
            let rule = "sizes must be equal or 1, aligned at the last axis";
            let error = format!("broadcast: {rule}, got {} to {dims:?}; reshape it first", self.shape());
            return self.graph().refused(error, dims);
        }
        self.reshape(&squeezed).broadcast(dims, &axes)
    }

    /// The same elements in row-major order with other sizes.
    #[track_caller]
    pub fn reshape(&self, dims: &[usize]) -> Tensor {
        if self.dims() == dims {
            return self.clone();
        }
        self.graph().apply(Reshape { dims: dims.to_vec() }, &[self])
    }

    /// Result axis `i` is axis `order[i]` of this one.
    #[track_caller]
    pub fn transpose(&self, order: &[usize]) -> Tensor {
        if order.iter().enumerate().all(|(i, &a)| i == a) && order.len() == self.rank() {
            return self.clone();
        }
        self.graph().apply(Transpose { order: order.to_vec() }, &[self])
    }

    /// The transposition of a matrix. What it was turned from is turned back, in the terms of a sum, too.
    #[track_caller]
    pub fn turned(&self) -> Tensor {
        let node = self.node();
        let operand = |k: usize| self.graph().tensor(node.operands[k]);
        match (downcast::<Transpose>(&node), downcast::<AddOp>(&node)) {
            (Some(transpose), _) if transpose.order == [1, 0] => operand(0),
            (_, Some(_)) => operand(0).turned() + operand(1).turned(),
            _ => self.transpose(&[1, 0]),
        }
    }

    /// Elements `start..limit` of each axis.
    #[track_caller]
    pub fn slice(&self, start: &[usize], limit: &[usize]) -> Tensor {
        self.slice_by(start, limit, &vec![1; self.rank()])
    }

    /// Every `stride`-th of the elements `start..limit` of each axis.
    #[track_caller]
    pub fn slice_by(&self, start: &[usize], limit: &[usize], stride: &[usize]) -> Tensor {
        if start.iter().all(|s| *s == 0) && limit == self.dims() && stride.iter().all(|s| *s == 1) {
            return self.clone();
        }
        let op = Slice { start: start.to_vec(), limit: limit.to_vec(), stride: stride.to_vec() };
        self.graph().apply(op, &[self])
    }

    /// Elements `start..limit` of one axis, all of the others.
    #[track_caller]
    pub fn slice_axis(&self, axis: usize, start: usize, limit: usize) -> Tensor {
        if axis >= self.rank() {
            let error = format!("slice: the axis must exist, got {axis} of {}; name one of its axes", self.shape());
            return self.graph().refused(error, self.dims());
        }
        let mut from = vec![0; self.rank()];
        let mut to = self.dims().to_vec();
        (from[axis], to[axis]) = (start, limit);
        self.slice(&from, &to)
    }

    /// Element `index` of the first axis, without that axis.
    #[track_caller]
    pub fn at(&self, index: usize) -> Tensor {
        self.slice_axis(0, index, index + 1).reshape(self.dims().get(1..).unwrap_or(&[]))
    }

    /// Zeros added before and after each axis.
    #[track_caller]
    pub fn pad(&self, low: &[usize], high: &[usize]) -> Tensor {
        self.pad_between(low, high, &vec![0; self.rank()])
    }

    /// Zeros added before, after and between the elements of each axis.
    #[track_caller]
    pub fn pad_between(&self, low: &[usize], high: &[usize], between: &[usize]) -> Tensor {
        if low.iter().chain(high).chain(between).all(|n| *n == 0) {
            return self.clone();
        }
        let op = Pad { low: low.to_vec(), high: high.to_vec(), between: between.to_vec() };
        self.graph().apply(op, &[self])
    }

    /// Operands one after another along one axis.
    #[track_caller]
    pub fn concat(parts: &[&Tensor], axis: usize) -> Tensor {
        match parts {
            [one] => (*one).clone(),
            [first, ..] => first.graph().apply(Concatenate { axis }, parts),
            [] => panic!("concatenate: at least one operand, got none; leave the operation out"),
        }
    }

    /// Operands one after another along a new first axis.
    #[track_caller]
    pub fn stack(parts: &[&Tensor]) -> Tensor {
        let parts: Vec<Tensor> = parts.iter().map(|p| p.reshape(&with_front(1, p.dims()))).collect();
        Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0)
    }

    /// The given axes run backwards.
    #[track_caller]
    pub fn reverse(&self, axes: &[usize]) -> Tensor {
        self.graph().apply(Reverse { axes: axes.to_vec() }, &[self])
    }
}
