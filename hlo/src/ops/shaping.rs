//! Operations that move elements without computing: broadcast, reshape, transpose, slice, pad, concatenate, reverse.
//! All are linear, so each is its own derivative.

use crate::{
    evaluate::{HostValue, strides, walk},
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    proto,
    range::Range,
    shape::Shape,
};

/// The common part of linear one-operand operations: the tangent goes through the operation itself.
macro_rules! linear_unary {
    () => {
        fn jvp(&self, _: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
            vec![tangents[0].as_ref().map(|d| d.graph().apply(self.clone(), &[d]))]
        }
    };
}

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
