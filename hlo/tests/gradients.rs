//! Every primitive against central differences, in double precision on the CPU.
//!
//! [`table`] has at least one row for each type that implements `Primitive`; [`every_primitive_has_a_row`] reads the
//! sources and fails when one is missing. For each row:
//!
//! * forward derivative and full gradient against central differences, and `<ct, J v> = <J^T ct, v>`;
//! * the same of the gradient itself (second derivatives);
//! * `vmap` against one run for each index, for every choice of mapped operands; the gradient of the mapped function, and
//!   the mapped gradient.
//!
//! Points are random but fixed, and lie away from kinks; what happens *on* a kink is a convention, checked on its own.

mod common;

use common::*;
use hlo::{
    DType, Dot, Func, Graph, Mapped, Shape, Tensor,
    array::Array,
    func::downcast,
    ops::{
        conv::Slide,
        elementwise::{BINARY, BITWISE, UNARY},
        scan::Scan,
        sparse::Synapses,
        take::Places,
    },
    scan, scan_whole,
    transform::{Dual, jvp, vjp, vmap},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

type Build = Box<dyn Fn(&Graph, &[Tensor]) -> Vec<Tensor>>;

/// A random operand: its shape, and how one element is drawn.
struct Input {
    shape: Shape,
    draw: fn(&mut Random) -> f64,
}

impl Input {
    fn sample(&self, random: &mut Random) -> Array {
        let values: Vec<f64> = (0..self.shape.elements()).map(|_| (self.draw)(random)).collect();
        array(&self.shape, &values)
    }
}

fn any(dims: &[usize]) -> Input {
    Input { shape: f64s(dims), draw: |r| r.uniform(-1.5, 1.5) }
}

fn positive(dims: &[usize]) -> Input {
    Input { shape: f64s(dims), draw: |r| r.uniform(0.3, 2.0) }
}

/// At least 0.3 away from zero, of either sign.
fn nonzero(dims: &[usize]) -> Input {
    Input { shape: f64s(dims), draw: |r| r.uniform(0.3, 1.5) * if r.next() & 1 == 0 { 1.0 } else { -1.0 } }
}

fn position() -> Input {
    Input { shape: Shape::s32([]), draw: |r| (r.next() % 3) as f64 }
}

/// One row of the table.
struct Case {
    /// The type that implements the primitive.
    op: &'static str,
    /// What this row is about.
    note: &'static str,
    inputs: Vec<Input>,
    build: Build,
    /// The function whose derivative is meant, of `x` with `x0` held fixed, where it is not the function itself.
    meant: Option<Build>,
    /// Whether the derivative is nothing at all.
    flat: bool,
    /// Half distance of the central differences.
    step: f64,
    tolerance: f64,
}

fn case(
    op: &'static str,
    note: &'static str,
    inputs: Vec<Input>,
    build: impl Fn(&Graph, &[Tensor]) -> Vec<Tensor> + 'static,
) -> Case {
    Case { op, note, inputs, build: Box::new(build), meant: None, flat: false, step: 1e-5, tolerance: 1e-7 }
}

impl Case {
    fn flat(mut self) -> Case {
        self.flat = true;
        self
    }

    fn accuracy(mut self, step: f64, tolerance: f64) -> Case {
        (self.step, self.tolerance) = (step, tolerance);
        self
    }

    /// `build` receives the operands `x`, then the operands `x0` again.
    fn meant(mut self, build: impl Fn(&Graph, &[Tensor]) -> Vec<Tensor> + 'static) -> Case {
        self.meant = Some(Box::new(build));
        self
    }

    fn func(&self) -> Func {
        let shapes: Vec<Shape> = self.inputs.iter().map(|i| i.shape.clone()).collect();
        Func::trace(&shapes, |g, x| (self.build)(g, x))
    }

    fn sample(&self, random: &mut Random) -> Vec<Array> {
        self.inputs.iter().map(|i| i.sample(random)).collect()
    }

    fn title(&self) -> String {
        format!("{} ({})", self.op, self.note)
    }
}

fn one(op: &'static str, note: &'static str, input: Input, f: impl Fn(&Tensor) -> Tensor + 'static) -> Case {
    case(op, note, vec![input], move |_, x| vec![f(&x[0])])
}

fn two(
    op: &'static str,
    note: &'static str,
    a: Input,
    b: Input,
    f: impl Fn(&Tensor, &Tensor) -> Tensor + 'static,
) -> Case {
    case(op, note, vec![a, b], move |_, x| vec![f(&x[0], &x[1])])
}

fn dot_case(note: &'static str, a: &[usize], b: &[usize], dot: Dot) -> Case {
    two("Dot", note, any(a), any(b), move |a, b| a.dot_general(b, dot.clone()))
}

/// Two images with three channels, a kernel with two results.
fn conv_case(note: &'static str, image: [usize; 2], kernel: [usize; 2], slides: [Slide; 2]) -> Case {
    let (image, kernel) = (any(&[2, image[0], image[1], 3]), any(&[kernel[0], kernel[1], 3, 2]));
    two("Conv", note, image, kernel, move |x, w| x.conv_general(w, slides))
}

fn dims(lhs_batch: &[usize], lhs_contract: &[usize], rhs_batch: &[usize], rhs_contract: &[usize]) -> Dot {
    Dot {
        lhs_batch: lhs_batch.into(),
        lhs_contract: lhs_contract.into(),
        rhs_batch: rhs_batch.into(),
        rhs_contract: rhs_contract.into(),
    }
}

/// A recurrent layer with an output: h' = tanh(h U + x W), y = c sum(h') sum(x).
fn layer_body() -> Func {
    // h [2, 3], x [2, 4], W [4, 3], U [3, 3], c []
    Func::trace(&[f64s([2, 3]), f64s([2, 4]), f64s([4, 3]), f64s([3, 3]), f64s([])], |_, p| {
        let h = (p[0].dot(&p[3]) + p[1].dot(&p[2])).tanh();
        let y = h.sum(&[1]) * p[1].sum(&[1]) * &p[4];
        vec![h, y]
    })
}

fn layer(length: usize, reverse: bool) -> impl Fn(&Graph, &[Tensor]) -> Vec<Tensor> {
    move |g, v| {
        let body = layer_body();
        let (h, y) = scan(g, &body, length, reverse, &v[..1], &v[1..2], &v[2..]);
        vec![h[0].clone(), y[0].clone()]
    }
}

fn layer_inputs(length: usize) -> Vec<Input> {
    vec![any(&[2, 3]), any(&[length, 2, 4]), any(&[4, 3]), any(&[3, 3]), any(&[])]
}

/// An operation on integers, of 1000 x.
fn of_bits(a: &Tensor, b: &Tensor, f: fn(&Tensor, &Tensor) -> Tensor) -> Tensor {
    let [a, b] = [a, b].map(|x| (x.abs() * 1000.0).convert(DType::U32));
    f(&a, &b).convert(DType::F64)
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn table() -> Vec<Case> {
    let mut t = vec![
        // leaves
        one("Parameter", "the identity", any(&[2, 3]), Tensor::clone),
        one("Constant", "scale and shift", any(&[2, 3]), |x| x * 3.0 + 2.0),
        case("Literal", "given values", vec![any(&[2, 3])], |g, x| {
            let values = g.literal(&Shape::f32([2, 3]), vec![1.5, -2.0, 0.25, 3.0, 0.0, -1.0]);
            vec![&x[0] * values.convert(x[0].dtype())]
        }),
        case("Iota", "second axis", vec![any(&[2, 3])], |g, x| vec![&x[0] * g.iota(f64s([2, 3]), 1)]),
        // one operand
        one("Exp", "", any(&[5]), Tensor::exp),
        one("ExpM1", "", any(&[5]), Tensor::expm1),
        one("Log", "", positive(&[5]), Tensor::log),
        one("Log1p", "", positive(&[5]), |x| (x - 0.9).log1p()),
        one("Tanh", "", any(&[5]), Tensor::tanh),
        one("Sigmoid", "", any(&[5]), Tensor::sigmoid),
        one("Abs", "", nonzero(&[5]), Tensor::abs),
        one("Sqrt", "", positive(&[5]), Tensor::sqrt),
        one("Cos", "", any(&[5]), Tensor::cos),
        one("Sin", "", any(&[5]), Tensor::sin),
        one("Negate", "", any(&[5]), |x| -x),
        // two operands
        two("AddOp", "", any(&[2, 3]), any(&[2, 3]), |a, b| a + b),
        two("AddOp", "broadcast", any(&[2, 3]), any(&[3]), |a, b| a + b),
        two("SubOp", "", any(&[2, 3]), any(&[2, 3]), |a, b| a - b),
        two("MulOp", "", any(&[2, 3]), any(&[2, 3]), |a, b| a * b),
        one("MulOp", "the same operand twice", any(&[5]), Tensor::square),
        two("DivOp", "", any(&[2, 3]), nonzero(&[2, 3]), |a, b| a / b),
        one("DivOp", "reciprocal", nonzero(&[5]), Tensor::recip),
        two("MaxOp", "", any(&[2, 3]), any(&[2, 3]), Tensor::maximum),
        two("MinOp", "", any(&[2, 3]), any(&[2, 3]), Tensor::minimum),
        two("Compare", "", any(&[6]), any(&[6]), |a, b| a.lt(b)).flat(),
        two("Select", "both branches", any(&[6]), any(&[6]), |a, b| a.gt(&b.square()).select(&(a * 2.0), &(b * 3.0))),
        one("Select", "one constant branch", nonzero(&[6]), Tensor::relu),
        one("Select", "clamp", nonzero(&[6]), |x| x.clamp(-0.9, 0.8)),
        one("Convert", "to single precision", any(&[5]), |x| x.convert(DType::F32)).accuracy(0.25, 1e-6),
        one("Convert", "to an integer", nonzero(&[5]), |x| x.convert(DType::S32)).flat(),
        two("AndOp", "", any(&[6]), any(&[6]), |a, b| of_bits(a, b, Tensor::bit_and)).flat(),
        two("OrOp", "", any(&[6]), any(&[6]), |a, b| of_bits(a, b, Tensor::bit_or)).flat(),
        two("XorOp", "", any(&[6]), any(&[6]), |a, b| of_bits(a, b, Tensor::xor)).flat(),
        two("ShiftLeft", "", any(&[6]), any(&[6]), |a, b| of_bits(a, b, |a, _| a.shift_left(2))).flat(),
        two("ShiftRight", "", any(&[6]), any(&[6]), |a, b| of_bits(a, b, |a, b| (a + b).shift_right(3))).flat(),
        // moving elements
        one("Broadcast", "new axes", any(&[3]), |x| x.broadcast(&[2, 3, 2], &[1])),
        one("Broadcast", "a scalar", any(&[]), |x| x.broadcast_to(&[2, 3])),
        one("Broadcast", "axis of size 1", any(&[2, 1, 3]), |x| x.broadcast_to(&[2, 4, 3])),
        one("Reshape", "", any(&[2, 6]), |x| x.reshape(&[3, 4])),
        one("Transpose", "no involution", any(&[2, 3, 4]), |x| x.transpose(&[2, 0, 1])),
        one("Slice", "", any(&[4, 5]), |x| x.slice(&[1, 2], &[3, 5])),
        one("Slice", "one row", any(&[4, 5]), |x| x.at(2)),
        one("Pad", "", any(&[2, 3]), |x| x.pad(&[1, 0], &[2, 3])),
        two("Concatenate", "second axis", any(&[2, 3]), any(&[2, 1]), |a, b| Tensor::concat(&[a, b, a], 1)),
        two("Concatenate", "stack", any(&[3]), any(&[3]), |a, b| Tensor::stack(&[a, b])),
        one("Reverse", "two axes", any(&[2, 3, 2]), |x| x.reverse(&[0, 2])),
        one("Slice", "every second, every third", any(&[5, 7]), |x| x.slice_by(&[0, 1], &[5, 7], &[2, 3])),
        one("Slice", "means of windows", any(&[2, 5, 6, 2]), |x| x.avg_pool2d([2, 3], [1, 2])),
        one("Select", "maxima of windows", any(&[2, 5, 6, 2]), |x| x.max_pool2d([3, 2], [2, 2])),
        // convolutions
        conv_case("inside the image", [4, 5], [2, 3], [Slide::default(); 2]),
        conv_case("padded", [3, 4], [3, 3], [Slide { low: 1, high: 1, ..Slide::default() }; 2]),
        conv_case("strides with a rest", [6, 7], [2, 3], [2, 3].map(|stride| Slide { stride, ..Slide::default() })),
        conv_case("uneven padding, strides", [5, 4], [3, 2], {
            [Slide { stride: 2, low: 2, high: 1, ..Slide::default() }, Slide { low: 0, high: 3, ..Slide::default() }]
        }),
        conv_case("dilated kernel, spread image, cut edges", [5, 4], [2, 2], {
            let height = Slide { dilation: 2, low: -1, high: 1, ..Slide::default() };
            [height, Slide { spread: 2, stride: 2, low: 1, high: -1, ..Slide::default() }]
        }),
        conv_case("a kernel of one", [2, 3], [1, 1], [Slide::default(); 2]),
        // matrix products
        dot_case("matrix by matrix", &[2, 3], &[3, 4], dims(&[], &[1], &[], &[0])),
        dot_case("vector by vector", &[3], &[3], dims(&[], &[0], &[], &[0])),
        dot_case("vector by matrix", &[3], &[3, 2], dims(&[], &[0], &[], &[0])),
        dot_case("matrix by vector", &[2, 3], &[3], dims(&[], &[1], &[], &[0])),
        dot_case("outer product", &[2], &[3], dims(&[], &[], &[], &[])),
        dot_case("first axes", &[3, 2], &[3, 4], dims(&[], &[0], &[], &[0])),
        dot_case("last axes", &[2, 3], &[4, 3], dims(&[], &[1], &[], &[1])),
        dot_case("middle axes", &[2, 3, 4], &[5, 3, 2], dims(&[], &[1], &[], &[1])),
        dot_case("leading axes kept", &[2, 4, 3], &[3, 2], dims(&[], &[2], &[], &[0])),
        dot_case("two summed axes", &[2, 3, 4], &[3, 4, 5], dims(&[], &[1, 2], &[], &[0, 1])),
        dot_case("two summed axes in another order", &[2, 3, 4], &[4, 5, 3], dims(&[], &[1, 2], &[], &[2, 0])),
        dot_case("two summed axes, first of both", &[3, 4, 2], &[3, 4, 5], dims(&[], &[0, 1], &[], &[0, 1])),
        dot_case("summed over everything", &[3, 2], &[2, 3], dims(&[], &[0, 1], &[], &[1, 0])),
        dot_case("shared axis in front", &[2, 3, 4], &[2, 4, 2], dims(&[0], &[2], &[0], &[1])),
        dot_case("shared axis inside", &[3, 2, 4], &[4, 5, 2], dims(&[1], &[2], &[2], &[0])),
        dot_case("two shared axes, exchanged", &[2, 3, 4], &[3, 2, 4], dims(&[0, 1], &[2], &[1, 0], &[2])),
        dot_case("shared axis, nothing summed", &[2, 3], &[2, 4], dims(&[0], &[], &[0], &[])),
        dot_case("shared axis, nothing free", &[2, 3], &[2, 3], dims(&[0], &[1], &[0], &[1])),
        one("Dot", "with itself", any(&[3, 3]), |x| x.dot(x)),
        // sums and extrema
        one("Reduce", "sum over the middle", any(&[2, 3, 4]), |x| x.sum(&[1])),
        one("Reduce", "sum over all", any(&[2, 3]), Tensor::sum_all),
        one("Reduce", "mean", any(&[2, 3]), |x| x.mean(&[0])),
        one("Reduce", "max", any(&[2, 3, 4]), |x| x.max(&[0, 2])),
        one("Reduce", "min", any(&[2, 3, 4]), |x| x.min(&[1])),
        one("Reduce", "logsumexp", any(&[2, 3]), Tensor::logsumexp),
        // computed positions
        one("Take", "some twice, one never", any(&[5, 2]), |x| {
            x.take(&Rc::new(Places::new(&[2, 3], vec![4, 0, 1, 1, 2, 4])))
        }),
        one("Take", "a place that reads nothing", any(&[3, 2]), |x| {
            x.take(&Rc::new(Places::new(&[4], vec![3, 0, 2, 3])))
        }),
        two("SparseDot", "even", any(&[4, 3]), any(&[6]), |x, w| {
            x.sparse_dot(w, &Synapses::new(4, 3, &[(0, 0), (3, 0), (1, 1), (1, 1), (3, 2), (0, 2)]))
        }),
        two("SparseDot", "uneven, empty rows, one lane", any(&[4, 1]), any(&[7]), |x, w| {
            x.sparse_dot(w, &Synapses::new(4, 5, &[(0, 4), (3, 2), (1, 2), (1, 4), (3, 2), (0, 2), (2, 2)]))
        }),
        two("SparseDot", "segments of segments", any(&[3, 2]), any(&[41 * 9 + 2]), |x, w| {
            let all: Vec<_> = (0..41 * 9).map(|k| (k % 3, 1)).chain([(0, 0), (2, 3)]).collect();
            x.sparse_dot(w, &Synapses::new(3, 4, &all))
        }),
        // Enough lanes that a program goes over tiles; one place hears nothing.
        two("SparseDot", "in tiles", any(&[3, 520]), any(&[299]), |x, w| {
            let all: Vec<_> = (0..299).map(|k| (k % 3, k / 4)).collect();
            x.sparse_dot(w, &Synapses::new(3, 75, &all))
        }),
        case("SparseOuter", "the gradient of the weights", vec![any(&[4, 9]), any(&[5]), any(&[3, 9])], |g, v| {
            let synapses = Synapses::new(4, 3, &[(0, 0), (3, 0), (1, 1), (3, 2), (0, 0)]);
            let f = Func::trace(&[f64s([4, 9]), f64s([5])], |_, p| vec![p[0].sparse_dot(&p[1], &synapses)]);
            vjp(g, &f, &v[..2], &[false, true]).pull(&[Some(v[2].clone())]).into_iter().flatten().collect()
        }),
        two("DynamicSlice", "", any(&[4, 2]), position(), |x, i| x.dynamic_slice(i, 2)),
        case("DynamicUpdate", "", vec![any(&[4, 2]), any(&[2, 2]), position()], |_, v| {
            vec![v[0].dynamic_update(&v[1], &v[2])]
        }),
        // the derivative changed
        one("StopGradient", "", any(&[5]), |x| x * x.stop_gradient()).meant(|_, v| vec![&v[0] * &v[1]]),
        one("CustomDerivative", "surrogate spike", nonzero(&[5]), |x| {
            x.heaviside().with_derivative(&[(x, &(1.0 / (x.abs() + 1.0).square()))])
        })
        .meant(|_, v| vec![&v[0] / (v[1].abs() + 1.0).square()]),
        two("CustomDerivative", "two inputs", any(&[5]), any(&[5]), |a, b| {
            (a * b).with_derivative(&[(a, &b.sin()), (b, &a.exp())])
        })
        .meant(|_, v| vec![&v[0] * v[3].sin() + &v[1] * v[2].exp()]),
        two("Tag", "", any(&[5]), any(&[5]), |a, b| (a * b).tag("kind", "label", &[a, b]).tanh()),
        two("Settle", "", any(&[5]), any(&[5]), |a, b| (a * b).settle().tanh()),
        // the loop
        case("Scan", "forward", layer_inputs(4), layer(4, false)),
        case("Scan", "reverse", layer_inputs(4), layer(4, true)),
        case("Scan", "one step", layer_inputs(1), layer(1, false)),
        two("Scan", "no input", any(&[3]), any(&[3]), |h, w| {
            let body = Func::trace(&[f64s([3]), f64s([3])], |_, p| vec![(&p[0] * &p[1]).sin()]);
            scan(h.graph(), &body, 3, false, std::slice::from_ref(h), &[], std::slice::from_ref(w)).0.swap_remove(0)
        }),
        case("Scan", "two carries that meet late", vec![any(&[2]), any(&[2]), any(&[3, 2])], |g, v| {
            let body = Func::trace(&[f64s([2]), f64s([2]), f64s([2])], |_, p| {
                vec![&p[1] * &p[2], (&p[0] + &p[2]).tanh(), &p[0] * &p[1]]
            });
            let (c, y) = scan(g, &body, 3, true, &v[..2], &v[2..], &[]);
            vec![c[0].clone(), c[1].clone(), y[0].clone()]
        }),
        case("Scan", "in one piece, no carry", vec![any(&[3, 2]), any(&[2])], |g, v| {
            let body = Func::trace(&[f64s([2]), f64s([2])], |_, p| vec![(&p[0] * &p[1]).tanh()]);
            scan_whole(g, &body, 3, false, &[], &v[..1], &v[1..]).1
        }),
        case("Scan", "in one piece", layer_inputs(3), |g, v| {
            let (c, y) = scan_whole(g, &layer_body(), 3, true, &v[..1], &v[1..2], &v[2..]);
            vec![c[0].clone(), y[0].clone()]
        }),
        case("DynamicSlice", "another row in each step", vec![any(&[4, 2]), any(&[2])], |g, v| {
            // A counter is the position; the row it names drives the state.
            let body = Func::trace(&[Shape::s32([]), f64s([2]), f64s([4, 2])], |_, p| {
                let row = p[2].dynamic_slice(&p[0], 1).reshape(&[2]);
                vec![&p[0] + 1.0, (&p[1] + &row).tanh(), row.square()]
            });
            let init = [g.scalar(DType::S32, 1.0), v[1].clone()];
            let (c, y) = scan(g, &body, 3, false, &init, &[], &v[..1]);
            vec![c[1].clone(), y[0].clone()]
        }),
        case("DynamicUpdate", "another row in each step", vec![any(&[4, 2]), any(&[3, 2])], |g, v| {
            let body = Func::trace(&[f64s([4, 2]), f64s([2]), Shape::s32([])], |_, p| {
                vec![p[0].dynamic_update(&(&p[1] * p[0].at(0)).reshape(&[1, 2]), &p[2])]
            });
            let rows = g.iota(Shape::s32([3]), 0);
            vec![scan(g, &body, 3, false, &v[..1], &[v[1].clone(), rows], &[]).0.swap_remove(0)]
        }),
        case("DynamicUpdate", "of a constant, without a carry", vec![any(&[3, 2]), any(&[1, 2])], |g, v| {
            let body = Func::trace(&[Shape::s32([]), f64s([3, 2]), f64s([1, 2])], |_, p| {
                vec![p[1].dynamic_update(&p[2], &p[0]).sin()]
            });
            scan(g, &body, 3, false, &[], &[g.iota(Shape::s32([3]), 0)], v).1
        }),
    ];
    // An axis of size 1 and an empty remainder are easily lost.
    t.push(dot_case("sizes of one", &[1, 3], &[3, 1], dims(&[], &[1], &[], &[0])));
    t
}

/// Primitives without a row, with the reason.
const NO_ROW: &[(&str, &str)] = &[
    ("AllReduce", "a sum over devices, which one device does not have; no derivative is taken through it"),
    ("Pick", "is made while a sparse product is emitted, after all derivatives are taken"),
    ("Placeholder", "stands for a tangent while a derivative is taken; never lowered"),
];

fn is_float(t: &Tensor) -> bool {
    t.dtype().is_float()
}

fn floats(f: &Func) -> Vec<usize> {
    (0..f.params().len()).filter(|&k| is_float(&f.params()[k])).collect()
}

fn cotangent_shapes(f: &Func) -> Vec<Shape> {
    f.results().iter().filter(|r| is_float(r)).map(|r| r.shape().clone()).collect()
}

/// Spreads cotangents of the floating-point results over all results.
fn spread(f: &Func, cts: &[Tensor]) -> Vec<Option<Tensor>> {
    let mut cts = cts.iter();
    f.results().iter().map(|r| if is_float(r) { cts.next().cloned() } else { None }).collect()
}

fn or_zeros(found: Vec<Option<Tensor>>, like: &[Tensor]) -> Vec<Tensor> {
    found.into_iter().zip(like).map(|(t, l)| t.unwrap_or_else(|| l.zeros_like())).collect()
}

/// (arguments, cotangents) to gradients of the floating-point arguments.
fn gradient(f: &Func) -> Func {
    let shapes: Vec<Shape> = f.params().iter().map(|p| p.shape().clone()).chain(cotangent_shapes(f)).collect();
    let n = f.params().len();
    Func::trace(&shapes, |g, p| pull_back(g, f, &p[..n], &p[n..]))
}

fn pull_back(g: &Graph, f: &Func, args: &[Tensor], cts: &[Tensor]) -> Vec<Tensor> {
    let vjp = vjp(g, f, args, &vec![true; args.len()]);
    let grads = or_zeros(vjp.pull(&spread(f, cts)), args);
    floats(f).into_iter().map(|k| grads[k].clone()).collect()
}

/// (arguments, tangents, cotangents) to results, their tangents, and the gradients of the floating-point arguments.
fn both_ways(f: &Func) -> Func {
    let active = floats(f);
    let params = f.params().iter().map(|p| p.shape().clone());
    let tangents = active.iter().map(|&k| f.params()[k].shape().clone());
    let shapes: Vec<Shape> = params.chain(tangents).chain(cotangent_shapes(f)).collect();
    Func::trace(&shapes, |g, p| {
        let (args, rest) = p.split_at(f.params().len());
        let (tangents, cts) = rest.split_at(active.len());
        let tangent = |k: usize| active.iter().position(|&a| a == k).map(|i| tangents[i].clone());
        let duals: Vec<Dual> =
            args.iter().enumerate().map(|(k, a)| Dual { primal: a.clone(), tangent: tangent(k) }).collect();
        let out = jvp(g, f, &duals);
        let values: Vec<Tensor> = out.iter().map(|d| d.primal.clone()).collect();
        let tangents = or_zeros(out.into_iter().map(|d| d.tangent).collect(), &values);
        values.into_iter().chain(tangents).chain(pull_back(g, f, args, cts)).collect()
    })
}

/// Arguments moved along `direction` (one array for each floating-point argument) by `by`.
fn moved(args: &[Array], active: &[usize], direction: &[Vec<f64>], by: f64) -> Vec<Array> {
    let mut args = args.to_vec();
    for (&k, d) in active.iter().zip(direction) {
        let values: Vec<f64> = args[k].to_f64_vec().iter().zip(d).map(|(x, d)| x + by * d).collect();
        args[k] = array(args[k].shape(), &values);
    }
    args
}

fn inner(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| x * y).sum()
}

/// Derivatives of `f` against central differences of `meant(x, x0)`, or of `f` itself.
fn check_derivatives(
    title: &str,
    f: &Func,
    plain: &Compiled,
    meant: Option<&Func>,
    flat: bool,
    (step, tolerance): (f64, f64),
    mut sample: impl FnMut(&mut Random) -> Vec<Array>,
) -> Result<(), String> {
    let random = &mut Random(7);
    let derivative = compile(&both_ways(f));
    let target = meant.map(compile);
    let active = floats(f);
    let shown: Vec<usize> = (0..f.results().len()).filter(|&k| is_float(&f.results()[k])).collect();
    let mut size = 0.0;
    for round in 0..2 {
        let args = sample(random);
        let direction: Vec<Vec<f64>> = active.iter().map(|&k| random.signed(args[k].shape()).to_f64_vec()).collect();
        let cts: Vec<Array> = cotangent_shapes(f).iter().map(|s| random.signed(s)).collect();
        let ct_values: Vec<Vec<f64>> = cts.iter().map(Array::to_f64_vec).collect();
        let difference = |direction: &[Vec<f64>]| -> Vec<Vec<f64>> {
            let at = |by: f64| {
                let x = moved(&args, &active, direction, by);
                let values = match &target {
                    Some(target) => target.values(&[x, args.clone()].concat()),
                    None => plain.values(&x),
                };
                shown.iter().map(|&k| values[k].clone()).collect::<Vec<_>>()
            };
            let pairs = at(step).into_iter().zip(at(-step));
            pairs.map(|(p, m)| p.iter().zip(&m).map(|(p, m)| (p - m) / (2.0 * step)).collect()).collect()
        };

        let tangents: Vec<Array> = active.iter().zip(&direction).map(|(&k, d)| array(args[k].shape(), d)).collect();
        let out = derivative.values(&[args.clone(), tangents, cts].concat());
        let (values, rest) = out.split_at(f.results().len());
        let (tangents, grads) = rest.split_at(f.results().len());
        for (got, want) in values.iter().zip(plain.values(&args)) {
            close(&format!("{title}: value beside the tangent"), got, &want, tolerance)?;
        }
        let tangents: Vec<Vec<f64>> = shown.iter().map(|&k| tangents[k].clone()).collect();
        for (got, want) in tangents.iter().zip(difference(&direction)) {
            close(&format!("{title}: tangent"), got, &want, tolerance)?;
        }

        let (forward, backward) = (inner(&ct_values, &tangents), inner(grads, &direction));
        close(&format!("{title}: <ct, J v> = <J^T ct, v>"), &[forward], &[backward], tolerance)?;
        for (i, grad) in grads.iter().enumerate() {
            // Element by element once; of large arguments, some.
            let stride = if round == 0 { grad.len() / 8 + 1 } else { continue };
            for (j, &got) in grad.iter().enumerate().step_by(stride) {
                let mut unit: Vec<Vec<f64>> = grads.iter().map(|g| vec![0.0; g.len()]).collect();
                unit[i][j] = 1.0;
                let want = inner(&ct_values, &difference(&unit));
                close(&format!("{title}: gradient of argument {i}, element {j}"), &[got], &[want], tolerance)?;
            }
        }
        size += inner(&tangents, &tangents) + inner(grads, grads);
    }
    // A derivative that is zero everywhere agrees with itself and shows nothing.
    if flat != (size == 0.0) {
        return Err(format!("{title}: size of the derivative is {size}, but flat is {flat}"));
    }
    Ok(())
}

const SIZE: usize = 3;

/// The choices of mapped operands: all subsets of few, else each by itself and all together.
fn masks(n: usize) -> Vec<Vec<bool>> {
    if n <= 3 {
        return (1..1 << n).map(|m: usize| (0..n).map(|k| m >> k & 1 == 1).collect()).collect();
    }
    let alone = (0..n).map(|k| (0..n).map(|j| j == k).collect());
    alone.chain([vec![true; n]]).collect()
}

fn mapped_call(g: &Graph, f: &Func, args: &[Mapped]) -> Vec<Tensor> {
    let env = vmap(g, f, args, SIZE);
    f.results().iter().map(|r| env.get(r.value()).materialize(SIZE)).collect()
}

/// `vmap` of `f` against one run for each index; the gradient of that; and `vmap` of the gradient.
#[expect(clippy::too_many_lines, reason = "one comparison after another")]
fn check_vmap(
    title: &str,
    f: &Func,
    plain: &Compiled,
    slope: &Func,
    compiled_slope: &Compiled,
    tolerance: f64,
    mut sample: impl FnMut(&mut Random) -> Vec<Array>,
) -> Result<(), String> {
    let random = &mut Random(11);
    let active = floats(f);
    let n = f.params().len();
    let masks = masks(active.len());
    let in_front =
        |k: usize, on: bool| if on { stacked(SIZE, f.params()[k].shape()) } else { f.params()[k].shape().clone() };
    let shapes: Vec<Shape> = (0..n)
        .map(|k| in_front(k, active.contains(&k)))
        .chain(cotangent_shapes(f).iter().map(|s| stacked(SIZE, s)))
        .collect();
    // Results: for each mask, values then gradients; at last the mapped gradient.
    let whole = Func::trace(&shapes, |g, p| {
        let (args, cts) = p.split_at(n);
        let mut results = Vec::new();
        for mask in &masks {
            let on = |k: usize| active.iter().position(|&a| a == k).is_some_and(|i| mask[i]);
            let shapes: Vec<Shape> = (0..n).map(|k| in_front(k, on(k))).collect();
            let func = Func::trace(&shapes, |g, p| {
                let args: Vec<Mapped> = (0..n).map(|k| Mapped { tensor: p[k].clone(), mapped: on(k) }).collect();
                mapped_call(g, f, &args)
            });
            let args: Vec<Tensor> =
                (0..n).map(|k| if active.contains(&k) && !on(k) { args[k].at(0) } else { args[k].clone() }).collect();
            results.extend(func.call(g, &args));
            results.extend(pull_back(g, &func, &args, cts));
        }
        let all: Vec<Mapped> = p
            .iter()
            .enumerate()
            .map(|(k, t)| Mapped { tensor: t.clone(), mapped: k >= n || active.contains(&k) })
            .collect();
        results.extend(mapped_call(g, slope, &all));
        results
    });

    // Positions must be the same for every index: those of the first sample are taken.
    let samples: Vec<Vec<Array>> = (0..SIZE).map(|_| sample(random)).collect();
    let cts: Vec<Vec<Array>> =
        (0..SIZE).map(|_| cotangent_shapes(f).iter().map(|s| random.signed(s)).collect()).collect();
    let join = |rows: Vec<&Array>| {
        let values: Vec<f64> = rows.iter().flat_map(|r| r.to_f64_vec()).collect();
        array(&stacked(SIZE, rows[0].shape()), &values)
    };
    let mut args: Vec<Array> = (0..n)
        .map(
            |k| if active.contains(&k) { join(samples.iter().map(|s| &s[k]).collect()) } else { samples[0][k].clone() },
        )
        .collect();
    args.extend((0..cts[0].len()).map(|k| join(cts.iter().map(|c| &c[k]).collect())));
    let got = compile(&whole).values(&args);
    let mut got = got.iter();

    for mask in masks.iter().chain([&vec![true; active.len()]]).enumerate() {
        let (number, mask) = mask;
        let on = |k: usize| active.iter().position(|&a| a == k).is_some_and(|i| mask[i]);
        let rows: Vec<Vec<Array>> =
            (0..SIZE).map(|i| (0..n).map(|k| samples[if on(k) { i } else { 0 }][k].clone()).collect()).collect();
        let last = number == masks.len();
        if !last {
            let want: Vec<Vec<Vec<f64>>> = rows.iter().map(|r| plain.values(r)).collect();
            for k in 0..f.results().len() {
                let want: Vec<f64> = want.iter().flat_map(|w| w[k].clone()).collect();
                close(&format!("{title}: vmap {mask:?}, result {k}"), got.next().unwrap(), &want, tolerance)?;
            }
        }
        let want: Vec<Vec<Vec<f64>>> =
            rows.iter().zip(&cts).map(|(r, c)| compiled_slope.values(&[r.clone(), c.clone()].concat())).collect();
        for (i, &k) in active.iter().enumerate() {
            let rows = want.iter().map(|w| &w[i]);
            let want: Vec<f64> = if on(k) {
                rows.flatten().copied().collect()
            } else {
                let zero = vec![0.0; want[0][i].len()];
                rows.fold(zero, |sum, r| sum.iter().zip(r).map(|(a, b)| a + b).collect())
            };
            let what = if last { "vmap of the gradient" } else { "gradient of the vmap" };
            close(&format!("{title}: {what} {mask:?}, argument {k}"), got.next().unwrap(), &want, tolerance)?;
        }
    }
    assert!(got.next().is_none(), "{title}: the test left results unread");
    Ok(())
}

/// Everything that is checked of one row.
fn check(c: &Case) -> Result<(), String> {
    let (title, f) = (c.title(), c.func());
    let (slope, plain) = (gradient(&f), compile(&f));
    let compiled_slope = compile(&slope);
    let meant = c.meant.as_ref().map(|build| {
        let shapes: Vec<Shape> = c.inputs.iter().chain(&c.inputs).map(|i| i.shape.clone()).collect();
        Func::trace(&shapes, |g, x| build(g, x))
    });
    let accuracy = (c.step, c.tolerance);
    check_derivatives(&title, &f, &plain, meant.as_ref(), c.flat, accuracy, |r| c.sample(r))?;
    // A derivative that is declared rather than computed has no second one.
    if meant.is_none() && !c.flat {
        let sample = |r: &mut Random| {
            let mut args = c.sample(r);
            args.extend(cotangent_shapes(&f).iter().map(|s| r.signed(s)));
            args
        };
        check_derivatives(&format!("gradient of {title}"), &slope, &compiled_slope, None, false, accuracy, sample)?;
    }
    check_vmap(&title, &f, &plain, &slope, &compiled_slope, c.tolerance, |r| c.sample(r))
}

#[test]
fn every_row() {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    // Graphs stay on their thread: each worker makes the table anew and takes every n-th row.
    let work = |worker: usize| -> Vec<String> {
        table().iter().skip(worker).step_by(workers).filter_map(|c| check(c).err()).collect()
    };
    let errors: Vec<String> = std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..workers).map(|w| scope.spawn(move || work(w))).collect();
        running.into_iter().flat_map(|r| r.join().expect("a row panicked; its message is above")).collect()
    });
    assert!(errors.is_empty(), "{} rows fail:\n{}", errors.len(), errors.join("\n"));
}

// ---- values -----------------------------------------------------------------------------------------------------------

#[test]
fn elementwise_values() {
    type One = (fn(&Tensor) -> Tensor, fn(f64) -> f64);
    let ones: Vec<One> = vec![
        (Tensor::exp, f64::exp),
        (Tensor::expm1, f64::exp_m1),
        (|x| x.abs().log(), |x| x.abs().ln()),
        (|x| x.abs().log1p(), |x| x.abs().ln_1p()),
        (Tensor::tanh, f64::tanh),
        (Tensor::sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        (Tensor::abs, f64::abs),
        (|x| x.abs().sqrt(), |x| x.abs().sqrt()),
        (Tensor::cos, f64::cos),
        (Tensor::sin, f64::sin),
        (|x| -x, |x| -x),
        (Tensor::relu, |x| x.max(0.0)),
        (|x| x.clamp(-0.5, 0.25), |x| x.clamp(-0.5, 0.25)),
        (Tensor::square, |x| x * x),
        (Tensor::recip, |x| 1.0 / x),
        (Tensor::heaviside, |x| f64::from(u8::from(x >= 0.0))),
        (|x| 2.0 - x, |x| 2.0 - x),
        (|x| 2.0 / x, |x| 2.0 / x),
    ];
    let x = [-2.0, -0.7, -0.5, -0.1, 0.1, 0.3, 1.0, 2.5];
    let f = Func::trace(&[f64s([8])], |_, p| ones.iter().map(|(f, _)| f(&p[0])).collect());
    for (k, (got, (_, want))) in evaluate(&f, &[doubles(&x, [8])]).iter().zip(&ones).enumerate() {
        assert_close(&format!("one operand, row {k}"), got, &x.map(want), 1e-14);
    }

    type Two = (fn(&Tensor, &Tensor) -> Tensor, fn(f64, f64) -> f64);
    let twos: Vec<Two> = vec![
        (|a, b| a + b, |a, b| a + b),
        (|a, b| a - b, |a, b| a - b),
        (|a, b| a * b, |a, b| a * b),
        (|a, b| a / b, |a, b| a / b),
        (Tensor::maximum, f64::max),
        (Tensor::minimum, f64::min),
        (Tensor::eq, |a, b| (a == b).into()),
        (Tensor::ne, |a, b| (a != b).into()),
        (Tensor::lt, |a, b| (a < b).into()),
        (Tensor::le, |a, b| (a <= b).into()),
        (Tensor::gt, |a, b| (a > b).into()),
        (Tensor::ge, |a, b| (a >= b).into()),
        (|a, b| a.lt(b).select(a, &(b * 10.0)), |a, b| if a < b { a } else { b * 10.0 }),
    ];
    let y = [-2.0, 0.7, -1.5, -0.1, 0.2, 0.3, 2.0, -2.5];
    let f = Func::trace(&[f64s([8]), f64s([8])], |_, p| twos.iter().map(|(f, _)| f(&p[0], &p[1])).collect());
    for (k, (got, (_, want))) in evaluate(&f, &[doubles(&x, [8]), doubles(&y, [8])]).iter().zip(&twos).enumerate() {
        let want: Vec<f64> = x.iter().zip(&y).map(|(&a, &b)| want(a, b)).collect();
        assert_close(&format!("two operands, row {k}"), got, &want, 1e-15);
    }
}

#[test]
fn moved_elements() {
    // x is 0 1 2 / 3 4 5.
    let x: Vec<f64> = (0..6).map(f64::from).collect();
    type Row = (&'static str, fn(&Tensor) -> Tensor, &'static [f64]);
    let rows: Vec<Row> = vec![
        ("reshape", |x| x.reshape(&[3, 2]), &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        ("transpose", |x| x.transpose(&[1, 0]), &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        ("slice", |x| x.slice(&[0, 1], &[2, 3]), &[1.0, 2.0, 4.0, 5.0]),
        ("at", |x| x.at(1), &[3.0, 4.0, 5.0]),
        ("pad", |x| x.slice_axis(0, 0, 1).pad(&[1, 0], &[0, 2]), &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0]),
        ("concatenate", |x| Tensor::concat(&[x, &x.slice_axis(1, 0, 1)], 1), &[0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 5.0, 3.0]),
        ("stack", |x| Tensor::stack(&[&x.at(1), &x.at(0)]), &[3.0, 4.0, 5.0, 0.0, 1.0, 2.0]),
        ("reverse", |x| x.reverse(&[1]), &[2.0, 1.0, 0.0, 5.0, 4.0, 3.0]),
        ("broadcast", |x| x.at(0).broadcast(&[3, 2], &[0]), &[0.0, 0.0, 1.0, 1.0, 2.0, 2.0]),
        ("broadcast_to", |x| x.at(0).broadcast_to(&[2, 3]), &[0.0, 1.0, 2.0, 0.0, 1.0, 2.0]),
        ("sum", |x| x.sum(&[0]), &[3.0, 5.0, 7.0]),
        ("mean", |x| x.mean(&[1]), &[1.0, 4.0]),
        ("max", |x| x.max_all(), &[5.0]),
        ("min", |x| x.min(&[1]), &[0.0, 3.0]),
        ("argmax", |x| (x - 4.0).abs().argmax_last(), &[0.0, 0.0]),
        ("iota", |x| x.graph().iota(f64s([2, 3]), 0), &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
        (
            "one_hot",
            |x| x.sum(&[1]).convert(DType::S32).one_hot(4, DType::F64),
            &[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        ),
        ("dynamic slice", |x| x.dynamic_slice(&x.graph().scalar(DType::S32, 1.0), 1), &[3.0, 4.0, 5.0]),
        (
            "a position past the end is clamped",
            |x| x.dynamic_slice(&x.graph().scalar(DType::S32, 9.0), 1),
            &[3.0, 4.0, 5.0],
        ),
        (
            "dynamic update",
            |x| x.dynamic_update(&x.slice_axis(0, 1, 2), &x.graph().scalar(DType::S32, 0.0)),
            &[3.0, 4.0, 5.0, 3.0, 4.0, 5.0],
        ),
    ];
    let f = Func::trace(&[f64s([2, 3])], |_, p| rows.iter().map(|(_, f, _)| f(&p[0])).collect());
    for (got, (name, _, want)) in evaluate(&f, &[doubles(&x, [2, 3])]).iter().zip(&rows) {
        assert_close(name, got, want, 0.0);
    }
}

/// Every layout of the table against plain loops over all indices.
#[test]
#[expect(clippy::too_many_lines, reason = "the plain loops are written out")]
fn products_agree_with_plain_loops() {
    let layouts: Vec<(Vec<usize>, Vec<usize>, Dot)> = table()
        .iter()
        .filter(|c| c.op == "Dot" && c.inputs.len() == 2)
        .map(|c| {
            let f = c.func();
            let nodes = f.live(false);
            let dot = nodes.iter().find_map(|(_, n)| downcast::<Dot>(n)).unwrap().clone();
            (c.inputs[0].shape.dims.clone(), c.inputs[1].shape.dims.clone(), dot)
        })
        .collect();
    assert!(layouts.len() > 12);
    let random = &mut Random(3);
    for (a_dims, b_dims, dot) in layouts {
        let f = Func::trace(&[f64s(a_dims.clone()), f64s(b_dims.clone())], |_, p| {
            vec![p[0].dot_general(&p[1], dot.clone())]
        });
        let args = random.arguments(&f);
        let (a, b) = (args[0].to_f64_vec(), args[1].to_f64_vec());
        let got = &evaluate(&f, &args)[0];
        let free = |rank: usize, batch: &[usize], contract: &[usize]| -> Vec<usize> {
            (0..rank).filter(|k| !batch.contains(k) && !contract.contains(k)).collect()
        };
        let (a_free, b_free) = (
            free(a_dims.len(), &dot.lhs_batch, &dot.lhs_contract),
            free(b_dims.len(), &dot.rhs_batch, &dot.rhs_contract),
        );
        let out: Vec<usize> = [
            dot.lhs_batch.iter().map(|&k| a_dims[k]).collect::<Vec<_>>(),
            a_free.iter().map(|&k| a_dims[k]).collect(),
            b_free.iter().map(|&k| b_dims[k]).collect(),
        ]
        .concat();
        let summed: Vec<usize> = dot.lhs_contract.iter().map(|&k| a_dims[k]).collect();
        let split = |mut flat: usize, dims: &[usize]| -> Vec<usize> {
            let mut index = vec![0; dims.len()];
            for k in (0..dims.len()).rev() {
                (index[k], flat) = (flat % dims[k], flat / dims[k]);
            }
            index
        };
        let flat = |index: &[usize], dims: &[usize]| index.iter().zip(dims).fold(0, |sum, (i, d)| sum * d + i);
        let want: Vec<f64> = (0..out.iter().product())
            .map(|o| {
                let o = split(o, &out);
                let (shared, rest) = o.split_at(dot.lhs_batch.len());
                let (left, right) = rest.split_at(a_free.len());
                (0..summed.iter().product())
                    .map(|s| {
                        let s = split(s, &summed);
                        let (mut i, mut j) = (vec![0; a_dims.len()], vec![0; b_dims.len()]);
                        let place = |to: &mut Vec<usize>, axes: &[usize], values: &[usize]| {
                            axes.iter().zip(values).for_each(|(&k, &v)| to[k] = v);
                        };
                        place(&mut i, &dot.lhs_batch, shared);
                        place(&mut j, &dot.rhs_batch, shared);
                        place(&mut i, &a_free, left);
                        place(&mut j, &b_free, right);
                        place(&mut i, &dot.lhs_contract, &s);
                        place(&mut j, &dot.rhs_contract, &s);
                        a[flat(&i, &a_dims)] * b[flat(&j, &b_dims)]
                    })
                    .sum()
            })
            .collect();
        assert_close(&format!("{dot:?}"), got, &want, 1e-14);
    }
}

/// Integers and bytes go through the same operations.
#[test]
fn values_of_other_types() {
    let f = Func::trace(&[Shape::new(DType::U8, [3]), Shape::s32([3]), Shape::f32([3])], |g, p| {
        vec![
            p[0].convert(DType::F32) * 0.5,
            p[1].max_all(),
            p[1].min(&[0]),
            p[2].convert(DType::BF16).convert(DType::F32),
            g.scalar(DType::BF16, 1.0 + 3.0 / 256.0).convert(DType::F32),
            &p[1] * 3.0 - 1.0,
            p[2].convert(DType::S32),
            p[2].ge(&p[2].zeros_like()).convert(DType::F32),
            p[0].max_all(),
            p[0].convert(DType::S32).sum_all(),
        ]
    });
    let args = [
        Array::new(&[0u8, 1, 255], [3]).unwrap(),
        Array::new(&[-5i32, 7, -9], [3]).unwrap(),
        Array::new(&[1.0f32, -1.7, 1.0 + 3.0 / 256.0], [3]).unwrap(),
    ];
    let want: [&[f64]; 10] = [
        &[0.0, 0.5, 127.5],
        &[7.0],
        &[-9.0],
        &[1.0, -1.703125, 1.015625],
        &[1.015625],
        &[-16.0, 20.0, -28.0],
        &[1.0, -1.0, 1.0],
        &[1.0, 0.0, 1.0],
        &[255.0],
        &[256.0],
    ];
    for (k, (got, want)) in evaluate(&f, &args).iter().zip(want).enumerate() {
        assert_close(&format!("result {k}"), got, want, 0.0);
    }
}

// ---- kinks ------------------------------------------------------------------------------------------------------------

#[track_caller]
fn slopes_at(f: impl Fn(&[Tensor]) -> Tensor, args: &[&[f64]], want: &[&[f64]]) {
    let shapes: Vec<Shape> = args.iter().map(|a| f64s([a.len()])).collect();
    let f = Func::trace(&shapes, |_, p| vec![f(p)]);
    let values: Vec<Array> = args.iter().map(|a| doubles(a, [a.len()])).collect();
    let ct = array(f.results()[0].shape(), &vec![1.0; f.results()[0].shape().elements()]);
    let got = evaluate(&gradient(&f), &[values, vec![ct]].concat());
    for (got, want) in got.iter().zip(want) {
        assert_close("slope", got, want, 0.0);
    }
}

#[test]
fn conventions_at_kinks() {
    slopes_at(|x| x[0].abs(), &[&[-1.0, 0.0, 1.0]], &[&[-1.0, 1.0, 1.0]]);
    slopes_at(|x| x[0].relu(), &[&[-1.0, 0.0, 1.0]], &[&[0.0, 0.0, 1.0]]);
    slopes_at(|x| x[0].clamp(-1.0, 1.0), &[&[-2.0, -1.0, 0.0, 1.0, 2.0]], &[&[0.0, 1.0, 1.0, 1.0, 0.0]]);
    slopes_at(|x| x[0].maximum(&x[1]), &[&[1.0, 2.0, 3.0], &[2.0, 2.0, 2.0]], &[&[0.0, 0.5, 1.0], &[1.0, 0.5, 0.0]]);
    slopes_at(|x| x[0].minimum(&x[1]), &[&[1.0, 2.0, 3.0], &[2.0, 2.0, 2.0]], &[&[1.0, 0.5, 0.0], &[0.0, 0.5, 1.0]]);
    slopes_at(|x| x[0].max(&[0]), &[&[3.0, 1.0, 3.0, 2.0]], &[&[0.5, 0.0, 0.5, 0.0]]);
    slopes_at(|x| x[0].min(&[0]), &[&[1.0, 1.0, 1.0, 2.0]], &[&[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0]]);
    slopes_at(|x| x[0].heaviside(), &[&[-1.0, 0.0, 1.0]], &[&[0.0, 0.0, 0.0]]);
}

/// Ends of the range: no overflow, no NaN.
#[test]
fn far_from_zero() {
    slopes_at(|x| x[0].logsumexp().reshape(&[1]), &[&[1000.0, -1000.0, 1000.0]], &[&[0.5, 0.0, 0.5]]);
    slopes_at(|x| x[0].sigmoid(), &[&[-1000.0, 1000.0]], &[&[0.0, 0.0]]);
    slopes_at(|x| x[0].tanh(), &[&[-1000.0, 1000.0]], &[&[0.0, 0.0]]);
}

// ---- the table is complete ---------------------------------------------------------------------------------------------

/// Types that implement `Primitive`, in one source file: named after `impl Primitive for`, or made by a macro, whose
/// entries begin with the type's name and go on to a string (the opcode).
fn primitives(source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(target) = line.trim_start().strip_prefix("impl Primitive for ") else { continue };
        let target = target.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).next().unwrap_or("");
        if !target.starts_with('$') {
            found.push(target.to_string());
            continue;
        }
        let defined = lines[..at].iter().rev().find_map(|l| l.strip_prefix("macro_rules! "));
        let name = defined.expect("a macro around the impl").trim_end_matches([' ', '{']);
        let entries: Vec<String> = lines
            .iter()
            .skip_while(|l| **l != format!("{name}! {{"))
            .take_while(|l| **l != "}")
            .filter_map(|l| {
                let before = &l[..l.find('"')?];
                let first = before.split_whitespace().next()?;
                let plain = !before.contains(['/', '(', '|']) && first.starts_with(|c: char| c.is_ascii_uppercase());
                plain.then(|| first.to_string())
            })
            .collect();
        assert!(!entries.is_empty(), "no use of the macro {name} was recognised: its entries must begin with the type");
        found.extend(entries);
    }
    found
}

fn sources(folder: &Path, to: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, to);
        } else if path.extension().is_some_and(|e| e == "rs") {
            to.push(path);
        }
    }
}

fn missing<'a>(all: &'a BTreeSet<String>, rows: &'a BTreeSet<String>) -> Vec<&'a str> {
    all.difference(rows).map(String::as_str).collect()
}

/// Names of the operations' types, as their `Debug` begins; also of those in the bodies of loops.
fn types_in(f: &Func) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, node) in f.live(false) {
        found.extend(format!("{:?}", node.op).split(|c: char| !c.is_alphanumeric()).next().map(String::from));
        if let Some(inner) = downcast::<Scan>(&node) {
            found.extend(types_in(&inner.body));
        }
    }
    found
}

#[test]
fn every_primitive_has_a_row() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let all: BTreeSet<String> = files.iter().flat_map(|f| primitives(&fs::read_to_string(f).unwrap())).collect();
    let rows: BTreeSet<String> =
        table().iter().map(|c| c.op).chain(NO_ROW.iter().map(|r| r.0)).map(String::from).collect();
    assert_eq!(missing(&all, &rows), Vec::<&str>::new(), "these primitives have no row in `table`: add one each");
    assert_eq!(missing(&rows, &all), Vec::<&str>::new(), "these rows name no primitive");
    assert!(all.len() >= UNARY.len() + BINARY.len() + BITWISE.len() + 20, "{all:?}");

    // A row must contain what it is about, inside a loop if need be.
    for case in table() {
        let types = types_in(&case.func());
        assert!(types.contains(case.op), "{}: contains only {types:?}", case.title());
    }
    // The lists that the macros make agree with what was read.
    let opcodes: BTreeSet<&str> = table().iter().flat_map(|c| c.func().live(false)).map(|(_, n)| n.op.name()).collect();
    for name in UNARY.iter().chain(BINARY).chain(BITWISE) {
        assert!(opcodes.contains(name), "{name} is in no row");
    }
}

#[test]
fn a_missing_row_is_found() {
    let source = "\
macro_rules! unary {
    ($($name:ident $opcode:literal;)*) => {$(
        impl Primitive for $name {
        }
    )*};
}

unary! {
    /// Doc with \"Quotes\".
    First first \"first\" |x, y| x.clone();
    Second \"second\"
        jvp |a| a.name(\"Third\");
}

impl Primitive for Plain {
}
";
    assert_eq!(primitives(source), ["First", "Second", "Plain"]);
    let all: BTreeSet<String> = primitives(source).into_iter().collect();
    let rows: BTreeSet<String> = ["First", "Plain"].map(String::from).into();
    assert_eq!(missing(&all, &rows), ["Second"]);
}
