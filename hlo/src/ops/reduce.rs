//! Sums and extrema over axes, and what is built from them: mean, softmax, index of the maximum.

use crate::{
    evaluate::{HostValue, strides, walk},
    func::Func,
    graph::{Graph, Tensor},
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    shape::{DType, Shape},
};

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Addition, from 0.
    Sum,
    /// The largest, from minus infinity.
    Max,
    /// The smallest, from infinity.
    Min,
}

impl Combine {
    /// Opcode of the combining instruction and the value it starts from.
    pub(crate) fn rule(self, dtype: DType) -> (&'static str, f64) {
        let (low, high) = match dtype {
            DType::S32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        };
        match self {
            Combine::Sum => ("add", 0.0),
            Combine::Max => ("maximum", low),
            Combine::Min => ("minimum", high),
        }
    }

    fn both(self, a: &Tensor, b: &Tensor) -> Tensor {
        match self {
            Combine::Sum => a + b,
            Combine::Max => a.maximum(b),
            Combine::Min => a.minimum(b),
        }
    }
}

/// Combines all elements along the given axes.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// How.
    pub combine: Combine,
    /// Along which axes (increasing).
    pub axes: Vec<usize>,
}

impl Reduce {
    /// Repeats a reduced value along the axes it lost.
    fn restore(&self, reduced: &Tensor, dims: &[usize]) -> Tensor {
        let kept: Vec<usize> = (0..dims.len()).filter(|a| !self.axes.contains(a)).collect();
        reduced.broadcast(dims, &kept)
    }

    /// The rows of the first axis, one after the other.
    fn rows(&self, x: &Tensor) -> Tensor {
        (1..x.dims()[0]).fold(x.at(0), |so_far, k| self.combine.both(&so_far, &x.at(k)))
    }
}

/// The most rows that are taken one after the other.
const ROWS: usize = 32;

/// Parts that many elements are folded into.
const FOLD: usize = 8;

/// Elements that make a row a long one.
const LONG: usize = 2048;

impl Primitive for Reduce {
    fn name(&self) -> &'static str {
        "reduce"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        if self.axes.iter().any(|a| *a >= args[0].rank()) || self.axes.windows(2).any(|w| w[0] >= w[1]) {
            return Err(ShapeError(format!(
                "reduce: axes must exist and increase, got {:?} of {}; name each axis once",
                self.axes, args[0]
            )));
        }
        let dims = (0..args[0].rank()).filter(|a| !self.axes.contains(a)).map(|a| args[0].dims[a]);
        Ok(vec![args[0].with_dims(dims.collect::<Vec<_>>())])
    }
    fn jvp(&self, args: &[Tensor], results: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let Some(d) = &tangents[0] else { return vec![None] };
        if self.combine == Combine::Sum {
            return vec![Some(d.sum(&self.axes))];
        }
        // The winners share the derivative equally.
        let winners = args[0].eq(&self.restore(&results[0], args[0].dims()));
        let one = winners.select(&args[0].full_like(1.0), &args[0].zeros_like());
        let share = &one / &self.restore(&one.sum(&self.axes), args[0].dims());
        vec![Some((d * &share).sum(&self.axes))]
    }
    fn transpose(&self, args: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        assert!(self.combine == Combine::Sum, "reduce: only sums are linear; a jvp must not emit others on tangents");
        vec![cotangents[0].as_ref().map(|c| self.restore(c, args[0].dims()))]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        let op = Reduce { combine: self.combine, axes: self.axes.iter().map(|a| a + 1).collect() };
        vec![Mapped { tensor: args[0].tensor.graph().apply(op, &[&args[0].tensor]), mapped: true }]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let mut kept = strides(&results[0].dims).into_iter();
        let step = |axis: usize| if self.axes.contains(&axis) { 0 } else { kept.next().unwrap_or(0) };
        let steps: Vec<i64> = (0..args[0].shape.rank()).map(step).collect();
        let mut out = HostValue::full(results[0].clone(), self.combine.rule(results[0].dtype).1);
        walk(&args[0].shape.dims, 0, &steps, |from, to| {
            let (x, so_far) = (args[0].data[from], &mut out.data[to]);
            *so_far = match self.combine {
                Combine::Sum => *so_far + x,
                Combine::Max => so_far.max(x),
                Combine::Min => so_far.min(x),
            };
        });
        vec![out]
    }
    /// A few long rows are taken one after the other, which compilers fuse with what makes the rows. Of a `reduce` XLA's CPU compiler makes
    /// a loop along the first axis, with a stride of a row; and it combines all elements one at a time, where an array that is folded into
    /// fewer rows, and these again, is combined many at a time.
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let operand = e.shape(args[0]).clone();
        let rows = operand.dims.first().copied().unwrap_or_default();
        if self.axes == [0] && (1..=ROWS).contains(&rows) && results[0].elements() >= LONG {
            return e.inline(&Func::trace(&[operand], |_, p| vec![self.rows(&p[0])]), args);
        }
        let all = self.axes.len() == operand.rank() && rows > 0 && rows.is_multiple_of(FOLD);
        if all && operand.elements() >= FOLD * LONG {
            let folded = |g: &Graph, p: &[Tensor]| {
                let piece = |k: usize| p[0].slice_axis(0, k * rows / FOLD, (k + 1) * rows / FOLD);
                let once = (1..FOLD).fold(piece(0), |so_far, k| self.combine.both(&so_far, &piece(k)));
                vec![g.apply(self.clone(), &[&once])]
            };
            return e.inline(&Func::trace(&[operand], folded), args);
        }
        let (opcode, start) = self.combine.rule(results[0].dtype);
        let start = e.constant(results[0].dtype, start);
        let combiner = e.combiner(opcode, results[0].dtype);
        vec![e.push("reduce", &results[0], &[args[0], start], |i| {
            i.dimensions = self.axes.iter().map(|&a| a as i64).collect();
            i.called_computation_ids = vec![combiner];
        })]
    }
    fn flops(&self, args: &[&Shape], _: &[&Shape]) -> u64 {
        args[0].elements() as u64
    }
}

impl Tensor {
    #[track_caller]
    fn reduce(&self, combine: Combine, axes: &[usize]) -> Tensor {
        if axes.is_empty() {
            return self.clone();
        }
        self.graph().apply(Reduce { combine, axes: axes.to_vec() }, &[self])
    }

    #[track_caller]
    fn last_axis(&self, name: &str) -> usize {
        if self.rank() == 0 {
            let error = format!("{name}: needs at least one axis, got {}; reshape it to [1]", self.shape());
            self.graph().refused(error, &[]);
        }
        self.rank().saturating_sub(1)
    }

    /// Sum over the given axes.
    #[track_caller]
    pub fn sum(&self, axes: &[usize]) -> Tensor {
        self.reduce(Combine::Sum, axes)
    }

    /// Largest element along the given axes.
    #[track_caller]
    pub fn max(&self, axes: &[usize]) -> Tensor {
        self.reduce(Combine::Max, axes)
    }

    /// Smallest element along the given axes.
    #[track_caller]
    pub fn min(&self, axes: &[usize]) -> Tensor {
        self.reduce(Combine::Min, axes)
    }

    /// Sum over all elements.
    pub fn sum_all(&self) -> Tensor {
        self.sum(&(0..self.rank()).collect::<Vec<_>>())
    }

    /// Largest element of all.
    pub fn max_all(&self) -> Tensor {
        self.max(&(0..self.rank()).collect::<Vec<_>>())
    }

    /// Mean over the given axes.
    #[track_caller]
    pub fn mean(&self, axes: &[usize]) -> Tensor {
        let sum = self.sum(axes);
        let count: usize = axes.iter().map(|&a| self.dims().get(a).copied().unwrap_or(1)).product();
        sum * (1.0 / count as f64)
    }

    /// Mean over all elements.
    #[track_caller]
    pub fn mean_all(&self) -> Tensor {
        self.mean(&(0..self.rank()).collect::<Vec<_>>())
    }

    /// log(sum(exp(x))) over the last axis, safe for large x.
    #[track_caller]
    pub fn logsumexp(&self) -> Tensor {
        let last = self.last_axis("logsumexp");
        let top = self.max(&[last]).stop_gradient();
        let shifted = self - &top.unsqueeze_last().broadcast_to(self.dims());
        shifted.exp().sum(&[last]).log() + top
    }

    /// With one more axis of size 1 at the end.
    pub fn unsqueeze_last(&self) -> Tensor {
        let dims: Vec<usize> = self.dims().iter().copied().chain([1]).collect();
        self.reshape(&dims)
    }

    /// 1 at the position each index names along a new last axis of `classes`, else 0: `s32[..] -> dtype[.., classes]`.
    #[track_caller]
    pub fn one_hot(&self, classes: usize, dtype: DType) -> Tensor {
        let dims: Vec<usize> = self.dims().iter().copied().chain([classes]).collect();
        let shape = Shape::new(self.dtype(), dims.clone());
        let counter = self.graph().iota(shape, dims.len() - 1);
        let hit = counter.eq(&self.unsqueeze_last().broadcast_to(&dims));
        let shape = Shape::new(dtype, dims);
        hit.select(&self.graph().full(&shape, 1.0), &self.graph().zeros(&shape))
    }

    /// Index of the first largest element along the last axis: `[.., C] -> s32[..]`.
    #[track_caller]
    pub fn argmax_last(&self) -> Tensor {
        let last = self.last_axis("argmax");
        let shape = self.shape().with_dtype(DType::S32);
        let top = self.max(&[last]).unsqueeze_last().broadcast_to(self.dims());
        let counter = self.graph().iota(shape.clone(), last);
        let beyond = self.graph().full(&shape, self.dims().last().copied().unwrap_or(1) as f64);
        self.ge(&top).select(&counter, &beyond).min(&[last])
    }
}
