//! Axes in another place, number or direction: broadcast, reshape, transpose, reverse.

use super::{linear_unary, mapped, shifted, signed, with_front};
use crate::{
    evaluate::{HostValue, strides},
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    range::Range,
    shape::Shape,
};

/// Operand axis `i` becomes result axis `axes[i]`; the other result axes repeat.
#[derive(Clone, Debug)]
pub struct Broadcast {
    /// Result sizes.
    pub dims: Vec<usize>,
    /// For each operand axis, its axis in the result (increasing).
    pub axes: Vec<usize>,
}

impl Primitive for Broadcast {
    fn name(&self) -> &'static str {
        "broadcast"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let fits = self.axes.len() == args[0].rank()
            && self.axes.windows(2).all(|w| w[0] < w[1])
            && self.axes.iter().zip(&args[0].dims).all(|(&a, &d)| self.dims.get(a) == Some(&d));
        if !fits {
            return Err(ShapeError(format!(
                "broadcast: each operand axis must land, in order, on a result axis of its own size; got {} to {:?} through axes \
                 {:?}; reshape the operand first",
                args[0], self.dims, self.axes
            )));
        }
        Ok(vec![args[0].with_dims(self.dims.clone())])
    }
    linear_unary!();
    fn transpose(&self, _: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let repeated: Vec<usize> = (0..self.dims.len()).filter(|a| !self.axes.contains(a)).collect();
        vec![cotangents[0].as_ref().map(|c| c.sum(&repeated))]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        let axes: Vec<usize> = std::iter::once(0).chain(shifted(&self.axes)).collect();
        mapped(args[0].tensor.broadcast(&with_front(size, &self.dims), &axes))
    }
    fn evaluate(&self, args: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        let mut steps = vec![0; self.dims.len()];
        for (&axis, step) in self.axes.iter().zip(strides(&args[0].shape.dims)) {
            steps[axis] = step;
        }
        vec![args[0].strided(&self.dims, 0, &steps)]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.push("broadcast", &results[0], args, |i| i.dimensions = signed(&self.axes))]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
    fn spreads(&self) -> bool {
        true
    }
}

/// The same elements in row-major order with other sizes.
#[derive(Clone, Debug)]
pub struct Reshape {
    /// Result sizes.
    pub dims: Vec<usize>,
}

impl Primitive for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let result = args[0].with_dims(self.dims.clone());
        if result.elements() != args[0].elements() {
            return Err(ShapeError(format!(
                "reshape: the number of elements must stay, got {} ({}) to {:?} ({}); slice or pad for another number",
                args[0],
                args[0].elements(),
                self.dims,
                result.elements()
            )));
        }
        Ok(vec![result])
    }
    linear_unary!();
    fn transpose(&self, args: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![cotangents[0].as_ref().map(|c| c.reshape(args[0].dims()))]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        mapped(args[0].tensor.reshape(&with_front(size, &self.dims)))
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        vec![HostValue::new(results[0].clone(), args[0].data.clone())]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.push("reshape", &results[0], args, |_| {})]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
    fn spreads(&self) -> bool {
        true
    }
}

/// Result axis `i` is operand axis `order[i]`.
#[derive(Clone, Debug)]
pub struct Transpose {
    /// Operand axis of each result axis.
    pub order: Vec<usize>,
}

impl Primitive for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        if sorted != (0..args[0].rank()).collect::<Vec<_>>() {
            return Err(ShapeError(format!(
                "transpose: the order must name each axis once, got {:?} for {}; list all {} axes",
                self.order,
                args[0],
                args[0].rank()
            )));
        }
        Ok(vec![args[0].with_dims(self.order.iter().map(|&a| args[0].dims[a]).collect::<Vec<_>>())])
    }
    linear_unary!();
    fn transpose(&self, _: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let mut back = vec![0; self.order.len()];
        for (i, &a) in self.order.iter().enumerate() {
            back[a] = i;
        }
        vec![cotangents[0].as_ref().map(|c| c.transpose(&back))]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        let order: Vec<usize> = std::iter::once(0).chain(shifted(&self.order)).collect();
        mapped(args[0].tensor.transpose(&order))
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let steps = strides(&args[0].shape.dims);
        vec![args[0].strided(&results[0].dims, 0, &self.order.iter().map(|&a| steps[a]).collect::<Vec<_>>())]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.push("transpose", &results[0], args, |i| i.dimensions = signed(&self.order))]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
}

/// The given axes run backwards.
#[derive(Clone, Debug)]
pub struct Reverse {
    /// Which axes.
    pub axes: Vec<usize>,
}

impl Primitive for Reverse {
    fn name(&self) -> &'static str {
        "reverse"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let repeated = (1..self.axes.len()).any(|k| self.axes[..k].contains(&self.axes[k]));
        if repeated || self.axes.iter().any(|a| *a >= args[0].rank()) {
            return Err(ShapeError(format!(
                "reverse: axes must exist and differ, got {:?} of {}; name each axis once",
                self.axes, args[0]
            )));
        }
        Ok(vec![args[0].clone()])
    }
    linear_unary!();
    fn transpose(&self, _: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![cotangents[0].as_ref().map(|c| c.reverse(&self.axes))]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        mapped(args[0].tensor.reverse(&shifted(&self.axes)))
    }
    fn evaluate(&self, args: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        let (dims, mut steps, mut base) = (&args[0].shape.dims, strides(&args[0].shape.dims), 0);
        for &axis in &self.axes {
            base += steps[axis] * (dims[axis] as i64 - 1);
            steps[axis] = -steps[axis];
        }
        vec![args[0].strided(dims, base, &steps)]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.push("reverse", &results[0], args, |i| i.dimensions = signed(&self.axes))]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
}
