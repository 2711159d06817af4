//! Convolutions over two spatial axes.
//!
//! One layout: input `[batch, height, width, channels]`, kernel `[height, width, in, out]`, result
//! `[batch, height, width, out]`. As in all of machine learning the kernel is not flipped:
//! `y[p] = Σ_k x[p stride + k - pad] w[k]`.
//!
//! Both derivatives are convolutions again. That of the input runs the flipped kernel over the result's cotangent, spread
//! by the stride; that of the kernel runs the cotangent, spread by the stride, over the input, with the roles of batch and
//! channels exchanged. Flips and exchanges are operations of their own: CPUs have a fast convolution for this layout
//! only, and compilers for other devices fold them away.

use crate::{
    evaluate::{HostValue, strides, walk},
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    ops::index::one_by_one,
    proto,
    shape::Shape,
};

/// How a window moves along one spatial axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slide {
    /// Step between positions.
    pub stride: usize,
    /// Zeros before the first element (negative: elements left out).
    pub low: i64,
    /// Zeros after the last element (negative: elements left out).
    pub high: i64,
    /// Spacing of input elements: zeros stand between them from 2 on.
    pub spread: usize,
    /// Spacing of kernel elements.
    pub dilation: usize,
}

impl Default for Slide {
    /// Every position inside the input.
    fn default() -> Slide {
        Slide { stride: 1, low: 0, high: 0, spread: 1, dilation: 1 }
    }
}

/// Length of `size` elements `spacing` apart.
fn extent(size: usize, spacing: usize) -> i64 {
    (size.max(1) as i64 - 1) * spacing as i64 + i64::from(size > 0)
}

impl Slide {
    /// Number of positions; not positive where there is none.
    fn positions(&self, input: usize, kernel: usize) -> i64 {
        let room = extent(input, self.spread) + self.low + self.high - extent(kernel, self.dilation);
        room.div_euclid(self.stride as i64) + 1
    }

    /// This slide with as much room at the end as gives `positions` exactly.
    fn fitted(self, input: usize, kernel: usize, positions: usize) -> Slide {
        let whole = extent(kernel, self.dilation) - 1 + extent(positions, self.stride);
        Slide { high: whole - extent(input, self.spread) - self.low, ..self }
    }

    /// How the flipped kernel slides over the cotangent to give the input's.
    fn of_input(self, input: usize, kernel: usize, result: usize) -> Slide {
        let low = extent(kernel, self.dilation) - 1 - self.low;
        Slide { stride: self.spread, spread: self.stride, low, ..self }.fitted(result, kernel, input)
    }

    /// How the cotangent slides over the input to give the kernel's.
    fn of_kernel(self, input: usize, kernel: usize, result: usize) -> Slide {
        Slide { stride: self.dilation, dilation: self.stride, ..self }.fitted(input, result, kernel)
    }
}

/// A convolution over two spatial axes.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Along height and width.
    pub slides: [Slide; 2],
}

impl Conv {
    #[track_caller]
    fn apply(&self, input: &Tensor, kernel: &Tensor) -> Tensor {
        input.graph().apply(self.clone(), &[input, kernel])
    }

    /// The same convolution, each axis changed by `f(slide, input size, kernel size, result size)`.
    fn derived(&self, args: &[Tensor], ct: &Tensor, f: fn(Slide, usize, usize, usize) -> Slide) -> Conv {
        let axis = |a: usize| f(self.slides[a], args[0].dims()[a + 1], args[1].dims()[a], ct.dims()[a + 1]);
        Conv { slides: [axis(0), axis(1)] }
    }
}

impl Primitive for Conv {
    fn name(&self) -> &'static str {
        "convolution"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (x, w) = (args[0], args[1]);
        let refuse = |why: String| Err(ShapeError(format!("convolution: {why}")));
        if x.rank() != 4 || w.rank() != 4 {
            return refuse(format!(
                "input must be [batch, height, width, channels], kernel [height, width, in, out], got {x} and {w}; reshape them"
            ));
        }
        if x.dtype != w.dtype || !x.dtype.is_float() {
            return refuse(format!(
                "input and kernel must have one floating-point type, got {x} and {w}; convert one of them"
            ));
        }
        if x.dims[3] != w.dims[2] {
            return refuse(format!(
                "channels differ: input {x} has {}, kernel {w} takes {}; the kernel is [height, width, in, out], channels of \
                 the input come last",
                x.dims[3], w.dims[2]
            ));
        }
        let slides = self.slides;
        if slides.iter().any(|s| s.stride == 0 || s.spread == 0 || s.dilation == 0) {
            return refuse(format!("strides and spacings must be at least 1, got {slides:?}; take 1 for none"));
        }
        let positions = [0, 1].map(|a| slides[a].positions(x.dims[a + 1], w.dims[a]));
        if x.dims.contains(&0) || w.dims.contains(&0) || positions.iter().any(|p| *p < 1) {
            return refuse(format!(
                "the kernel must fit into the padded input at least once, got {x} padded by {:?} and {w}; pad more or take a \
                 smaller kernel",
                slides.map(|s| (s.low, s.high))
            ));
        }
        Ok(vec![x.with_dims([x.dims[0], positions[0] as usize, positions[1] as usize, w.dims[3]])])
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![Tensor::sum_of([
            tangents[0].as_ref().map(|d| self.apply(d, &args[1])),
            tangents[1].as_ref().map(|d| self.apply(&args[0], d)),
        ])]
    }
    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let Some(ct) = &cotangents[0] else { return vec![None, None] };
        let of_input = || {
            let flipped = args[1].reverse(&[0, 1]).transpose(&[0, 1, 3, 2]);
            self.derived(args, ct, Slide::of_input).apply(ct, &flipped)
        };
        let of_kernel = || {
            let (x, ct_kernel) = (args[0].transpose(&[3, 1, 2, 0]), ct.transpose(&[1, 2, 0, 3]));
            self.derived(args, ct, Slide::of_kernel).apply(&x, &ct_kernel).transpose(&[1, 2, 0, 3])
        };
        vec![linear[0].then(of_input), linear[1].then(of_kernel)]
    }
    /// A mapped input is a larger batch, a mapped kernel has more output channels; both mapped are a loop.
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        let (x, w) = (&args[0].tensor, &args[1].tensor);
        let tensor = match (args[0].mapped, args[1].mapped) {
            (true, true) => return one_by_one(self.clone(), args, size),
            (true, false) => {
                let (batch, rest) = (x.dims()[1], &x.dims()[2..]);
                let y = self.apply(&x.reshape(&[&[size * batch], rest].concat()), w);
                y.reshape(&[&[size, batch], &y.dims()[1..]].concat())
            }
            _ => {
                let (out, rest) = (w.dims()[4], &w.dims()[1..4]);
                let wide = w.transpose(&[1, 2, 3, 0, 4]).reshape(&[rest, &[size * out]].concat());
                let y = self.apply(x, &wide);
                y.reshape(&[&y.dims()[..3], &[size, out]].concat()).transpose(&[3, 0, 1, 2, 4])
            }
        };
        vec![Mapped { tensor, mapped: true }]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let (x, w) = (args[0], args[1]);
        let mut out = HostValue::full(results[0].clone(), 0.0);
        let (of_x, of_y) = (strides(&x.shape.dims), strides(&results[0].dims));
        let index =
            |number: usize, dims: &[usize], strides: &[i64], axis: usize| number / strides[axis] as usize % dims[axis];
        // Where element k of the kernel meets the input for position p of the result, if it does.
        let met = |axis: usize, p: usize, k: usize| {
            let slide = self.slides[axis];
            let at = (p * slide.stride + k * slide.dilation) as i64 - slide.low;
            let spread = slide.spread as i64;
            let inside = at >= 0 && at % spread == 0 && at / spread < x.shape.dims[axis + 1] as i64;
            inside.then_some((at / spread) as usize)
        };
        let (dims, of_w) = (&w.shape.dims, strides(&w.shape.dims));
        walk(&results[0].dims, 0, &[0; 4], |y, _| {
            let of = |axis| index(y, &results[0].dims, &of_y, axis);
            walk(dims, 0, &of_w, |k, at| {
                let tap = |axis| index(k, dims, &of_w, axis);
                if let (Some(row), Some(column)) = (met(0, of(1), tap(0)), met(1, of(2), tap(1)))
                    && tap(3) == of(3)
                {
                    let place = [of(0), row, column, tap(2)];
                    let from: usize = place.iter().zip(&of_x).map(|(&i, s)| i * *s as usize).sum();
                    out.data[y] += x.data[from] * w.data[at];
                }
            });
        });
        vec![out]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let kernel = e.shape(args[1]).dims.clone();
        vec![e.push("convolution", &results[0], args, |i| {
            let axis = |a: usize| proto::WindowDimension {
                padding_low: self.slides[a].low,
                padding_high: self.slides[a].high,
                base_dilation: self.slides[a].spread as i64,
                window_dilation: self.slides[a].dilation as i64,
                ..proto::WindowDimension::new(kernel[a] as i64, self.slides[a].stride as i64)
            };
            i.window = Some(proto::Window { dimensions: vec![axis(0), axis(1)] });
            i.convolution_dimension_numbers = Some(proto::ConvolutionDimensionNumbers {
                input_batch_dimension: 0,
                input_spatial_dimensions: vec![1, 2],
                input_feature_dimension: 3,
                kernel_spatial_dimensions: vec![0, 1],
                kernel_input_feature_dimension: 2,
                kernel_output_feature_dimension: 3,
                output_batch_dimension: 0,
                output_spatial_dimensions: vec![1, 2],
                output_feature_dimension: 3,
            });
            (i.feature_group_count, i.batch_group_count) = (1, 1);
        })]
    }
    fn flops(&self, args: &[&Shape], results: &[&Shape]) -> u64 {
        let field: usize = args[1].dims[..3].iter().product();
        2 * (results[0].elements() * field) as u64
    }
}

impl Tensor {
    /// The convolution of `[batch, height, width, channels]` with a kernel `[height, width, in, out]`, which moves by
    /// `stride`; `padding` zeros stand before and after each spatial axis. The result is `[batch, height, width, out]`.
    ///
    /// ```
    /// use hlo::{Graph, Shape};
    ///
    /// let g = Graph::new();
    /// let image = g.parameter(0, Shape::f32([8, 128, 128, 1]));
    /// let kernel = g.parameter(1, Shape::f32([11, 11, 1, 64]));
    /// assert_eq!(image.conv2d(&kernel, [4, 4], [(2, 2); 2]).dims(), [8, 31, 31, 64]);
    /// ```
    #[track_caller]
    pub fn conv2d(&self, kernel: &Tensor, stride: [usize; 2], padding: [(usize, usize); 2]) -> Tensor {
        let slide = |a: usize| Slide {
            stride: stride[a],
            low: padding[a].0 as i64,
            high: padding[a].1 as i64,
            ..Slide::default()
        };
        self.conv_general(kernel, [slide(0), slide(1)])
    }

    /// A convolution with any spacing of input and kernel elements and any padding, also negative.
    #[track_caller]
    pub fn conv_general(&self, kernel: &Tensor, slides: [Slide; 2]) -> Tensor {
        Conv { slides }.apply(self, kernel)
    }
}
