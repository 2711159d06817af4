//! Axes of another length: slice, pad, concatenate.

use super::{linear_unary, mapped, shifted, with_front};
use crate::{
    evaluate::{HostValue, strides, walk},
    func::downcast,
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    proto,
    range::Range,
    shape::Shape,
};

/// Every `stride`-th of the elements `start..limit` of each axis.
#[derive(Clone, Debug)]
pub struct Slice {
    /// First index of each axis.
    pub start: Vec<usize>,
    /// End of each axis.
    pub limit: Vec<usize>,
    /// Step along each axis; at least 1.
    pub stride: Vec<usize>,
}

impl Primitive for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let rank = args[0].rank();
        let inside = [&self.start, &self.limit, &self.stride].iter().all(|v| v.len() == rank)
            && (0..rank).all(|a| self.start[a] <= self.limit[a] && self.limit[a] <= args[0].dims[a]);
        if !inside {
            return Err(ShapeError(format!(
                "slice: start <= limit <= size must hold on each axis, got {:?} to {:?} of {}; check the bounds",
                self.start, self.limit, args[0]
            )));
        }
        if self.stride.contains(&0) {
            return Err(ShapeError(format!(
                "slice: strides must be at least 1, got {:?} of {}; take 1 for all elements",
                self.stride, args[0]
            )));
        }
        let size = |a: usize| (self.limit[a] - self.start[a]).div_ceil(self.stride[a]);
        Ok(vec![args[0].with_dims((0..rank).map(size).collect::<Vec<_>>())])
    }
    linear_unary!();
    fn transpose(&self, args: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let Some(ct) = &cotangents[0] else { return vec![None] };
        let between: Vec<usize> = self.stride.iter().map(|s| s - 1).collect();
        let high: Vec<usize> =
            (0..ct.rank()).map(|a| args[0].dims()[a] - self.start[a] - spread(ct.dims()[a], between[a])).collect();
        vec![Some(ct.pad_between(&self.start, &high, &between))]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        let (start, limit) = (with_front(0, &self.start), with_front(size, &self.limit));
        mapped(args[0].tensor.slice_by(&start, &limit, &with_front(1, &self.stride)))
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let steps = strides(&args[0].shape.dims);
        let base = steps.iter().zip(&self.start).map(|(s, &first)| s * first as i64).sum();
        let steps: Vec<i64> = steps.iter().zip(&self.stride).map(|(s, &by)| s * by as i64).collect();
        vec![args[0].strided(&results[0].dims, base, &steps)]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.push("slice", &results[0], args, |i| {
            let range = |a: usize| proto::SliceDimensions {
                start: self.start[a] as i64,
                limit: self.limit[a] as i64,
                stride: self.stride[a] as i64,
            };
            i.slice_dimensions = (0..self.start.len()).map(range).collect();
        })]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0]
    }
}

/// Length of `size` elements with `between` more after each but the last.
fn spread(size: usize, between: usize) -> usize {
    size + size.saturating_sub(1) * between
}

/// Zeros added before, after and between the elements of each axis.
#[derive(Clone, Debug)]
pub struct Pad {
    /// Zeros before.
    pub low: Vec<usize>,
    /// Zeros after.
    pub high: Vec<usize>,
    /// Zeros between neighbours.
    pub between: Vec<usize>,
}

impl Primitive for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let rank = args[0].rank();
        if [&self.low, &self.high, &self.between].iter().any(|v| v.len() != rank) {
            return Err(ShapeError(format!(
                "pad: one amount for each axis, got {}, {} and {} amounts for {}; give as many as it has axes",
                self.low.len(),
                self.high.len(),
                self.between.len(),
                args[0]
            )));
        }
        let size = |a: usize| self.low[a] + spread(args[0].dims[a], self.between[a]) + self.high[a];
        Ok(vec![args[0].with_dims((0..rank).map(size).collect::<Vec<_>>())])
    }
    linear_unary!();
    fn transpose(&self, args: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let Some(ct) = &cotangents[0] else { return vec![None] };
        let limit = |a: usize| self.low[a] + spread(args[0].dims()[a], self.between[a]);
        let limit: Vec<usize> = (0..ct.rank()).map(limit).collect();
        vec![Some(ct.slice_by(&self.low, &limit, &shifted(&self.between)))]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        let [low, high, between] = [&self.low, &self.high, &self.between].map(|v| with_front(0, v));
        mapped(args[0].tensor.pad_between(&low, &high, &between))
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let steps = strides(&results[0].dims);
        let base = steps.iter().zip(&self.low).map(|(s, &low)| s * low as i64).sum();
        let steps: Vec<i64> = steps.iter().zip(&self.between).map(|(s, &between)| s * (between as i64 + 1)).collect();
        let mut out = HostValue::full(results[0].clone(), 0.0);
        walk(&args[0].shape.dims, base, &steps, |from, to| out.data[to] = args[0].data[from]);
        vec![out]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let zero = e.constant(results[0].dtype, 0.0);
        vec![e.push("pad", &results[0], &[args[0], zero], |i| {
            let axis = |a: usize| proto::PaddingConfigDimension {
                edge_padding_low: self.low[a] as i64,
                edge_padding_high: self.high[a] as i64,
                interior_padding: self.between[a] as i64,
            };
            i.padding_config = Some(proto::PaddingConfig { dimensions: (0..self.low.len()).map(axis).collect() });
        })]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[0].union(Range::point(0.0))
    }
}

/// The sum of two arrays that are zero but for neighbouring parts (the derivative of what was taken apart): these parts, one after the
/// other.
pub(in crate::ops) fn neighbours(a: &Tensor, b: &Tensor) -> Option<Tensor> {
    let part = |t: &Tensor| {
        let node = t.node();
        let pad = downcast::<Pad>(&node).filter(|pad| pad.between.iter().all(|n| *n == 0))?;
        Some((t.graph().tensor(node.operands[0]), pad.clone()))
    };
    let (a, b) = (part(a)?, part(b)?);
    let axis = (0..a.1.low.len()).find(|&axis| a.1.low[axis] != b.1.low[axis])?;
    let ((first, before), (second, after)) = if a.1.low[axis] < b.1.low[axis] { (a, b) } else { (b, a) };
    let alike = |k: usize| before.low[k] == after.low[k] && first.dims()[k] == second.dims()[k];
    let adjacent = before.low[axis] + first.dims()[axis] == after.low[axis];
    let joined = adjacent && (0..before.low.len()).all(|k| k == axis || alike(k));
    joined.then(|| Tensor::concat(&[&first, &second], axis).pad(&before.low, &after.high))
}

/// Operands one after another along one axis.
#[derive(Clone, Debug)]
pub struct Concatenate {
    /// The axis that grows.
    pub axis: usize,
}

impl Concatenate {
    /// Where each operand begins and ends.
    fn spans(&self, args: &[Tensor]) -> Vec<(usize, usize)> {
        args.iter()
            .scan(0, |end, t| {
                let start = *end;
                *end += t.dims()[self.axis];
                Some((start, *end))
            })
            .collect()
    }
}

impl Primitive for Concatenate {
    fn name(&self) -> &'static str {
        "concatenate"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        if args.is_empty() {
            return Err(ShapeError("concatenate: at least one operand, got none; leave the operation out".into()));
        }
        let fits = |s: &Shape| {
            s.dtype == args[0].dtype
                && s.rank() == args[0].rank()
                && (0..s.rank()).all(|a| a == self.axis || s.dims[a] == args[0].dims[a])
        };
        if self.axis >= args[0].rank() || !args.iter().all(|s| fits(s)) {
            let got: Vec<String> = args.iter().map(ToString::to_string).collect();
            return Err(ShapeError(format!(
                "concatenate: types and all sizes but that of axis {} must agree, got {}; reshape or convert first",
                self.axis,
                got.join(", ")
            )));
        }
        let mut dims = args[0].dims.clone();
        dims[self.axis] = args.iter().map(|s| s.dims[self.axis]).sum();
        Ok(vec![args[0].with_dims(dims)])
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        if tangents.iter().all(Option::is_none) {
            return vec![None];
        }
        let parts: Vec<Tensor> =
            args.iter().zip(tangents).map(|(a, t)| t.clone().unwrap_or_else(|| a.zeros_like())).collect();
        vec![Some(Tensor::concat(&parts.iter().collect::<Vec<_>>(), self.axis))]
    }
    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let spans = self.spans(args);
        (0..args.len())
            .map(|k| {
                let ct = cotangents[0].as_ref().filter(|_| linear[k])?;
                Some(ct.slice_axis(self.axis, spans[k].0, spans[k].1))
            })
            .collect()
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        let parts: Vec<Tensor> = args.iter().map(|a| a.materialize(size)).collect();
        mapped(Tensor::concat(&parts.iter().collect::<Vec<_>>(), self.axis + 1))
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let inner: usize = results[0].dims[self.axis + 1..].iter().product();
        let outer: usize = results[0].dims[..self.axis].iter().product();
        let piece = |k: usize, value: &HostValue| {
            let width = value.shape.dims[self.axis] * inner;
            value.data[k * width..][..width].to_vec()
        };
        let data = (0..outer).flat_map(|k| args.iter().flat_map(move |value| piece(k, value))).collect();
        vec![HostValue::new(results[0].clone(), data)]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.push("concatenate", &results[0], args, |i| i.dimensions = vec![self.axis as i64])]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args.iter().copied().reduce(Range::union).unwrap_or(Range::ANY)
    }
}
