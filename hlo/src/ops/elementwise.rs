//! Operations that act on each element by itself.
//!
//! A differentiable operation is one line of the tables below: its name in XLA, and the factor its tangent is multiplied
//! with. Kinks follow `docs/spec/networks-dms-ei.md, "Derivatives at kinks"`: `|x|` has slope +1 at 0, `max` splits a tie in half.
//!
//! Integers wrap around, as they do in hardware; operations on their bits have no derivative.
//!
//! The file is above 500 lines because it is a table of operations: a reader looks one up.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::shaping::neighbours;
use crate::{
    array::{bf16_bits, bf16_value},
    evaluate::{HostValue, wrap},
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    range::Range,
    shape::{DType, Shape},
};

/// Brings operands of one elementwise operation under a mapped axis.
fn aligned(args: &[Mapped], size: usize) -> Vec<Tensor> {
    args.iter().map(|a| a.materialize(size)).collect()
}

fn apply_mapped(op: impl Primitive, args: &[Mapped], size: usize) -> Vec<Mapped> {
    let args = aligned(args, size);
    let tensor = args[0].graph().apply(op, &args.iter().collect::<Vec<_>>());
    vec![Mapped { tensor, mapped: true }]
}

fn same_shape(name: &str, args: &[&Shape]) -> Result<Shape, ShapeError> {
    if args.windows(2).any(|w| w[0] != w[1]) {
        let got: Vec<String> = args.iter().map(ToString::to_string).collect();
        return Err(ShapeError(format!(
            "{name}: operands must have one shape and type, got {}; broadcast or convert one of them",
            got.join(" and ")
        )));
    }
    Ok(args[0].clone())
}

fn needs_float(name: &str, shape: &Shape) -> Result<(), ShapeError> {
    if shape.dtype.is_float() {
        return Ok(());
    }
    Err(ShapeError(format!("{name}: needs a floating-point operand, got {shape}; convert it first (`.convert(F32)`)")))
}

macro_rules! unary {
    ($(#[doc = $doc:literal] $name:ident $method:ident $opcode:literal $host:expr, $range:expr, |$x:ident, $y:ident| $factor:expr;)*) => {
        $(
            #[doc = $doc]
            #[derive(Clone, Debug)]
            pub struct $name;

            impl Primitive for $name {
                fn name(&self) -> &'static str { $opcode }
                fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
                    needs_float($opcode, args[0])?;
                    Ok(vec![args[0].clone()])
                }
                fn jvp(&self, args: &[Tensor], results: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
                    let ($x, $y) = (&args[0], &results[0]);
                    let _ = ($x, $y);
                    vec![tangents[0].as_ref().map(|d| d * &$factor)]
                }
                fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
                    let host: fn(f64) -> f64 = $host;
                    vec![args[0].map(results[0].clone(), host)]
                }
                fn range(&self, args: &[Range], _: &[Shape]) -> Range {
                    let range: fn(Range) -> Range = $range;
                    range(args[0])
                }
                fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> { apply_mapped(self.clone(), args, size) }
                fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
                    vec![e.push($opcode, &results[0], args, |_| {})]
                }
                fn elementwise(&self) -> bool { true }
            }

            impl Tensor {
                #[doc = $doc]
                #[track_caller]
                pub fn $method(&self) -> Tensor { self.graph().apply($name, &[self]) }
            }
        )*
        /// Names of the differentiable one-operand operations, for the test that wants a gradient check of each.
        pub const UNARY: &[&str] = &[$($opcode),*];
    };
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

unary! {
    /// e^x.
    Exp exp "exponential" f64::exp, |r| r.rising(f64::exp), |x, y| y.clone();
    /// e^x - 1, exact for small x.
    ExpM1 expm1 "exponential-minus-one" f64::exp_m1, |r| r.rising(f64::exp_m1), |x, y| x.exp();
    /// Natural logarithm.
    Log log "log" f64::ln, |r| r.rising(f64::ln), |x, y| x.recip();
    /// log(1 + x), exact for small x.
    Log1p log1p "log-plus-one" f64::ln_1p, |r| r.rising(f64::ln_1p), |x, y| (x + 1.0).recip();
    /// Hyperbolic tangent.
    Tanh tanh "tanh" f64::tanh, |r| r.rising(f64::tanh), |x, y| 1.0 - y * y;
    /// Logistic function 1 / (1 + e^-x).
    Sigmoid sigmoid "logistic" logistic, |r| r.rising(logistic), |x, y| y * (1.0 - y);
    /// Absolute value; slope +1 at 0.
    Abs abs "abs" f64::abs, Range::abs, |x, y| x.ge(&x.zeros_like()).select(&x.full_like(1.0), &x.full_like(-1.0));
    /// Square root.
    Sqrt sqrt "sqrt" f64::sqrt, |r| r.rising(f64::sqrt), |x, y| 0.5 / y;
    /// Cosine.
    Cos cos "cosine" f64::cos, |_| Range::new(-1.0, 1.0), |x, y| -x.sin();
    /// Sine.
    Sin sin "sine" f64::sin, |_| Range::new(-1.0, 1.0), |x, y| x.cos();
}

/// -x.
#[derive(Clone, Debug)]
pub struct Negate;

impl Primitive for Negate {
    fn name(&self) -> &'static str {
        "negate"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        if args[0].dtype == DType::Pred {
            return Err(ShapeError(format!(
                "negate: needs numbers, got {}; convert it first, or compare with NE",
                args[0]
            )));
        }
        Ok(vec![args[0].clone()])
    }
    fn jvp(&self, _: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![tangents[0].as_ref().map(|d| -d)]
    }
    fn transpose(&self, _: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![cotangents[0].as_ref().map(|c| -c)]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let dtype = results[0].dtype;
        let negated = |x: f64| if dtype.is_float() { -x } else { wrap(dtype, -(x as i128)) };
        vec![args[0].map(results[0].clone(), negated)]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        apply_mapped(self.clone(), args, size)
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.push("negate", &results[0], args, |_| {})]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        -args[0]
    }
    fn elementwise(&self) -> bool {
        true
    }
}

macro_rules! binary {
    ($(#[doc = $doc:literal] $name:ident $opcode:literal
        host $float:expr, $int:expr;
        range $range:expr;
        jvp |$a:ident, $b:ident, $y:ident, $da:ident, $db:ident| $ta:expr, $tb:expr;
        transpose $transpose:expr;)*) => {
        $(
            #[doc = $doc]
            #[derive(Clone, Debug)]
            pub struct $name;

            impl Primitive for $name {
                fn name(&self) -> &'static str { $opcode }
                fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
                    Ok(vec![same_shape($opcode, args)?])
                }
                fn jvp(&self, args: &[Tensor], results: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
                    let ($a, $b, $y) = (&args[0], &args[1], &results[0]);
                    let _ = ($a, $b, $y);
                    vec![Tensor::sum_of([
                        tangents[0].as_ref().map(|$da| $ta),
                        tangents[1].as_ref().map(|$db| $tb),
                    ])]
                }
                fn transpose(&self, args: &[Tensor], linear: &[bool], cts: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
                    let rule: fn(&[Tensor], &[bool], &Tensor) -> [Option<Tensor>; 2] = $transpose;
                    match &cts[0] {
                        Some(ct) => rule(args, linear, ct).into(),
                        None => vec![None, None],
                    }
                }
                fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
                    vec![arithmetic(args, &results[0], $float, $int)]
                }
                fn range(&self, args: &[Range], results: &[Shape]) -> Range {
                    let range: fn(Range, Range) -> Range = $range;
                    // Integers wrap around.
                    if results[0].dtype.is_float() { range(args[0], args[1]) } else { Range::ANY }
                }
                fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> { apply_mapped(self.clone(), args, size) }
                fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
                    vec![e.push($opcode, &results[0], args, |_| {})]
                }
                fn elementwise(&self) -> bool { true }
            }
        )*
        /// Names of the differentiable two-operand operations, for the test that wants a gradient check of each.
        pub const BINARY: &[&str] = &[$($opcode),*];
    };
}

/// Extrema are not linear: their tangents never contain them.
fn not_linear(_: &[Tensor], _: &[bool], _: &Tensor) -> [Option<Tensor>; 2] {
    panic!("maximum and minimum are not linear, so they have no transpose; a jvp must not emit them on tangents")
}

/// The larger one; a NaN wins, as it does on a device.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// Arithmetic on the host: `float` for floating-point types, `int`, wrapped around, for the others.
fn arithmetic(
    args: &[&HostValue],
    shape: &Shape,
    float: fn(f64, f64) -> f64,
    int: fn(i128, i128) -> i128,
) -> HostValue {
    let dtype = shape.dtype;
    if dtype.is_float() {
        return args[0].zip(args[1], shape.clone(), float);
    }
    args[0].zip(args[1], shape.clone(), |a, b| wrap(dtype, int(a as i128, b as i128)))
}

/// 1 where `a` wins, 1/2 at a tie, 0 elsewhere.
fn winner(a: &Tensor, b: &Tensor) -> Tensor {
    let half = a.eq(b).select(&a.full_like(0.5), &a.zeros_like());
    a.gt(b).select(&a.full_like(1.0), &half)
}

binary! {
    /// a + b.
    AddOp "add"
        host |a, b| a + b, |a, b| a + b;
        range |a, b| a + b;
        jvp |a, b, y, da, db| da.clone(), db.clone();
        transpose |_, lin, ct| [lin[0].then(|| ct.clone()), lin[1].then(|| ct.clone())];
    /// a - b.
    SubOp "subtract"
        host |a, b| a - b, |a, b| a - b;
        range |a, b| a - b;
        jvp |a, b, y, da, db| da.clone(), -db;
        transpose |_, lin, ct| [lin[0].then(|| ct.clone()), lin[1].then(|| -ct)];
    /// a b.
    MulOp "multiply"
        host |a, b| a * b, |a, b| a * b;
        range |a, b| a * b;
        jvp |a, b, y, da, db| da * b, a * db;
        transpose |args, lin, ct| [lin[0].then(|| ct * &args[1]), lin[1].then(|| &args[0] * ct)];
    /// a / b.
    DivOp "divide"
        host |a, b| a / b, |a, b| if b == 0 { -1 } else { a / b };
        range Range::over;
        jvp |a, b, y, da, db| da / b, -(db * &(y / b));
        transpose |args, lin, ct| {
            assert!(!lin[1], "divide: not linear in the divisor, so it has no transpose; a jvp must not emit it on tangents");
            [Some(ct / &args[1]), None]
        };
    /// The larger one; the derivative of a tie is shared equally.
    MaxOp "maximum"
        host larger, Ord::max;
        range Range::max;
        jvp |a, b, y, da, db| da * &winner(a, b), db * &winner(b, a);
        transpose not_linear;
    /// The smaller one; the derivative of a tie is shared equally.
    MinOp "minimum"
        host |a, b| -larger(-a, -b), Ord::min;
        range Range::min;
        jvp |a, b, y, da, db| da * &winner(b, a), db * &winner(a, b);
        transpose not_linear;
}

macro_rules! bitwise {
    ($(#[doc = $doc:literal] $name:ident $opcode:literal $flags:literal $host:expr;)*) => {
        $(
            #[doc = $doc]
            #[derive(Clone, Debug)]
            pub struct $name;

            impl Primitive for $name {
                fn name(&self) -> &'static str { $opcode }
                fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
                    let shape = same_shape($opcode, args)?;
                    needs_bits($opcode, &shape, $flags)?;
                    Ok(vec![shape])
                }
                fn jvp(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Vec<Option<Tensor>> { vec![None] }
                fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
                    let (dtype, host): (DType, fn(u64, u64, u32) -> u64) = (results[0].dtype, $host);
                    let width = 8 * dtype.bytes() as u32;
                    let bits = |x: f64| if dtype == DType::S32 { u64::from(x as i32 as u32) } else { x as u64 };
                    let each = |a, b| wrap(dtype, host(bits(a), bits(b), width).into());
                    vec![args[0].zip(args[1], results[0].clone(), each)]
                }
                fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> { apply_mapped(self.clone(), args, size) }
                fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
                    vec![e.push($opcode, &results[0], args, |_| {})]
                }
                fn elementwise(&self) -> bool { true }
            }
        )*
        /// Names of the operations on bits.
        pub const BITWISE: &[&str] = &[$($opcode),*];
    };
}

fn needs_bits(name: &str, shape: &Shape, flags: bool) -> Result<(), ShapeError> {
    let (fits, what) = match flags {
        true => (!shape.dtype.is_float(), "integers or flags"),
        false => (!shape.dtype.is_float() && shape.dtype != DType::Pred, "integers"),
    };
    if fits {
        return Ok(());
    }
    Err(ShapeError(format!("{name}: needs {what}, got {shape}; convert it first (`.convert(U32)`)")))
}

// The columns: whether `pred` will do; on the host, of the bits of both operands and the width of the type.
bitwise! {
    /// Bits set in both.
    AndOp "and" true |a, b, _| a & b;
    /// Bits set in either.
    OrOp "or" true |a, b, _| a | b;
    /// Bits set in one of the two.
    XorOp "xor" true |a, b, _| a ^ b;
    /// Bits moved up by as many places as the second operand says; zeros come in, and all are gone from the type's width on.
    ShiftLeft "shift-left" false |a, b, width| if b < width.into() { a << b } else { 0 };
    /// Bits moved down by as many places as the second operand says; zeros come in, whatever the sign.
    ShiftRight "shift-right-logical" false |a, b, width| if b < width.into() { a >> b } else { 0 };
}

/// A comparison; gives `pred`.
#[derive(Clone, Debug)]
pub struct Compare {
    /// `EQ`, `NE`, `LT`, `LE`, `GT` or `GE`.
    pub direction: &'static str,
}

impl Primitive for Compare {
    fn name(&self) -> &'static str {
        "compare"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![same_shape("compare", args)?.with_dtype(DType::Pred)])
    }
    fn jvp(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![None]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let holds = |a: f64, b: f64| match self.direction {
            "EQ" => a == b,
            "NE" => a != b,
            "LT" => a < b,
            "LE" => a <= b,
            "GT" => a > b,
            _ => a >= b,
        };
        vec![args[0].zip(args[1], results[0].clone(), |a, b| f64::from(holds(a, b)))]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        apply_mapped(self.clone(), args, size)
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.compare(self.direction, &results[0], args)]
    }
    fn range(&self, _: &[Range], _: &[Shape]) -> Range {
        Range::new(0.0, 1.0)
    }
    fn elementwise(&self) -> bool {
        true
    }
    fn passes_derivative(&self, _: usize) -> bool {
        false
    }
}

/// `pred ? a : b`, element by element.
#[derive(Clone, Debug)]
pub struct Select;

impl Primitive for Select {
    fn name(&self) -> &'static str {
        "select"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let shape = same_shape("select", &args[1..])?;
        if *args[0] != shape.with_dtype(DType::Pred) {
            return Err(ShapeError(format!(
                "select: the condition must be pred{:?}, got {}; compare or broadcast it first",
                shape.dims, args[0]
            )));
        }
        Ok(vec![shape])
    }
    fn jvp(&self, args: &[Tensor], results: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        if tangents[1].is_none() && tangents[2].is_none() {
            return vec![None];
        }
        let branch = |t: &Option<Tensor>| t.clone().unwrap_or_else(|| results[0].zeros_like());
        vec![Some(args[0].select(&branch(&tangents[1]), &branch(&tangents[2])))]
    }
    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let Some(ct) = &cotangents[0] else { return vec![None, None, None] };
        let zero = ct.zeros_like();
        vec![None, linear[1].then(|| args[0].select(ct, &zero)), linear[2].then(|| args[0].select(&zero, ct))]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let pick = |k: usize| if args[0].data[k] != 0.0 { args[1].data[k] } else { args[2].data[k] };
        vec![HostValue::new(results[0].clone(), (0..results[0].elements()).map(pick).collect())]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        apply_mapped(self.clone(), args, size)
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.push("select", &results[0], args, |_| {})]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        args[1].union(args[2])
    }
    fn elementwise(&self) -> bool {
        true
    }
    fn passes_derivative(&self, operand: usize) -> bool {
        operand > 0
    }
}

/// The same values with another element type.
#[derive(Clone, Debug)]
pub struct Convert {
    /// The new type.
    pub dtype: DType,
}

impl Primitive for Convert {
    fn name(&self) -> &'static str {
        "convert"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![args[0].with_dtype(self.dtype)])
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        if !(self.dtype.is_float() && args[0].dtype().is_float()) {
            return vec![None];
        }
        vec![tangents[0].as_ref().map(|d| d.convert(self.dtype))]
    }
    fn transpose(&self, args: &[Tensor], _: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![cotangents[0].as_ref().map(|c| c.convert(args[0].dtype()))]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let to = self.dtype;
        let converted = |x: f64| match to {
            DType::Pred => f64::from(x != 0.0),
            DType::BF16 => bf16_value(bf16_bits(x as f32)).into(),
            _ if to.is_float() => x,
            // From integers wrapping around, from floating-point numbers saturating.
            _ if args[0].shape.dtype.is_float() => (x as i64).clamp(to.lowest(), to.highest()) as f64,
            _ => wrap(to, x as i128),
        };
        vec![args[0].map(results[0].clone(), converted)]
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        apply_mapped(self.clone(), args, size)
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        vec![e.push("convert", &results[0], args, |_| {})]
    }
    fn range(&self, args: &[Range], _: &[Shape]) -> Range {
        if self.dtype.is_float() { args[0] } else { Range::ANY }
    }
    fn elementwise(&self) -> bool {
        true
    }
    fn cheap(&self) -> bool {
        true
    }
    fn flops(&self, _: &[&Shape], _: &[&Shape]) -> u64 {
        0
    }
}

/// Aligns two operands at the right (the last axes), as array languages do.
#[track_caller]
fn broadcast_pair(name: &str, a: &Tensor, b: &Tensor) -> (Tensor, Tensor) {
    if a.dims() == b.dims() {
        return (a.clone(), b.clone());
    }
    let rank = a.rank().max(b.rank());
    let size = |t: &Tensor, axis: usize| (axis + t.rank()).checked_sub(rank).map_or(1, |i| t.dims()[i]);
    let fitted = (0..rank).map(|axis| match (size(a, axis), size(b, axis)) {
        (x, y) if x == y || y == 1 => Some(x),
        (1, y) => Some(y),
        _ => None,
    });
    let Some(dims) = fitted.collect::<Option<Vec<usize>>>() else {
        a.graph().refuse(ShapeError(format!(
            "{name}: sizes must be equal or 1, aligned at the last axis: got {} and {}; reshape one of them",
            a.shape(),
            b.shape()
        )));
        return (a.clone(), a.clone());
    };
    (a.broadcast_to(&dims), b.broadcast_to(&dims))
}

impl Tensor {
    #[track_caller]
    fn binary(&self, other: &Tensor, op: impl Primitive) -> Tensor {
        let (a, b) = broadcast_pair(op.name(), self, other);
        a.graph().apply(op, &[&a, &b])
    }

    #[track_caller]
    fn compare(&self, other: &Tensor, direction: &'static str) -> Tensor {
        self.binary(other, Compare { direction })
    }

    /// The sum of those that are there.
    pub fn sum_of(terms: impl IntoIterator<Item = Option<Tensor>>) -> Option<Tensor> {
        terms.into_iter().flatten().reduce(|a, b| a + b)
    }

    /// The larger one, element by element.
    #[track_caller]
    pub fn maximum(&self, other: &Tensor) -> Tensor {
        self.binary(other, MaxOp)
    }

    /// The smaller one, element by element.
    #[track_caller]
    pub fn minimum(&self, other: &Tensor) -> Tensor {
        self.binary(other, MinOp)
    }

    /// Bits set in both (of flags: both true).
    #[track_caller]
    pub fn bit_and(&self, other: &Tensor) -> Tensor {
        self.binary(other, AndOp)
    }

    /// Bits set in either (of flags: any true).
    #[track_caller]
    pub fn bit_or(&self, other: &Tensor) -> Tensor {
        self.binary(other, OrOp)
    }

    /// Bits set in one of the two (of flags: they differ).
    #[track_caller]
    pub fn xor(&self, other: &Tensor) -> Tensor {
        self.binary(other, XorOp)
    }

    /// Bits moved up by `places`; zeros come in.
    #[track_caller]
    pub fn shift_left(&self, places: u32) -> Tensor {
        self.graph().apply(ShiftLeft, &[self, &self.full_like(places.into())])
    }

    /// Bits moved down by `places`; zeros come in, whatever the sign.
    #[track_caller]
    pub fn shift_right(&self, places: u32) -> Tensor {
        self.graph().apply(ShiftRight, &[self, &self.full_like(places.into())])
    }

    /// max(x, 0), with derivative 0 at 0.
    #[track_caller]
    pub fn relu(&self) -> Tensor {
        self.gt(&self.zeros_like()).select(self, &self.zeros_like())
    }

    /// x limited to [lo, hi]; the derivative is 1 inside and on the limits, 0 outside.
    #[track_caller]
    pub fn clamp(&self, lo: f64, hi: f64) -> Tensor {
        let (lo, hi) = (self.full_like(lo), self.full_like(hi));
        let below = self.lt(&lo).select(&lo, self);
        below.gt(&hi).select(&hi, &below)
    }

    /// 1 / x.
    #[track_caller]
    pub fn recip(&self) -> Tensor {
        1.0 / self
    }

    /// x².
    #[track_caller]
    pub fn square(&self) -> Tensor {
        self * self
    }

    /// a == b.
    #[track_caller]
    pub fn eq(&self, other: &Tensor) -> Tensor {
        self.compare(other, "EQ")
    }

    /// a != b.
    #[track_caller]
    pub fn ne(&self, other: &Tensor) -> Tensor {
        self.compare(other, "NE")
    }

    /// a < b.
    #[track_caller]
    pub fn lt(&self, other: &Tensor) -> Tensor {
        self.compare(other, "LT")
    }

    /// a <= b.
    #[track_caller]
    pub fn le(&self, other: &Tensor) -> Tensor {
        self.compare(other, "LE")
    }

    /// a > b.
    #[track_caller]
    pub fn gt(&self, other: &Tensor) -> Tensor {
        self.compare(other, "GT")
    }

    /// a >= b.
    #[track_caller]
    pub fn ge(&self, other: &Tensor) -> Tensor {
        self.compare(other, "GE")
    }

    /// `self ? yes : no`, element by element.
    #[track_caller]
    pub fn select(&self, yes: &Tensor, no: &Tensor) -> Tensor {
        let (yes, no) = broadcast_pair("select", yes, no);
        let condition = self.broadcast_to(yes.dims());
        self.graph().apply(Select, &[&condition, &yes, &no])
    }

    /// The same values with another element type.
    #[track_caller]
    pub fn convert(&self, dtype: DType) -> Tensor {
        if self.dtype() == dtype {
            return self.clone();
        }
        match self.as_constant() {
            // To an integer, the rounding is the device's.
            Some(value) if dtype.is_float() => self.graph().full(&self.shape().with_dtype(dtype), value),
            _ => self.graph().apply(Convert { dtype }, &[self]),
        }
    }

    /// The same value everywhere, in the shape and type of `self`.
    #[track_caller]
    pub fn full_like(&self, value: f64) -> Tensor {
        self.graph().full(self.shape(), value)
    }

    /// Zeros in the shape and type of `self`.
    pub fn zeros_like(&self) -> Tensor {
        self.full_like(0.0)
    }

    /// 1 where the step function of `self` is up (`self >= 0`), else 0, in the type of `self`.
    #[track_caller]
    pub fn heaviside(&self) -> Tensor {
        self.ge(&self.zeros_like()).select(&self.full_like(1.0), &self.zeros_like())
    }
}

/// Neutral and absorbing constants never become instructions, nor zeros that fill up neighbouring parts.
fn simplify(op: &str, a: &Tensor, b: &Tensor) -> Option<Tensor> {
    // Also the element types: a neutral constant of another type is the same mistake as any other operand.
    if a.shape() != b.shape() || !a.graph().same(b.graph()) {
        return None;
    }
    let (ca, cb) = (a.as_constant(), b.as_constant());
    match (op, ca, cb) {
        ("add", Some(0.0), _) => Some(b.clone()),
        ("add" | "subtract", _, Some(0.0)) => Some(a.clone()),
        ("subtract", Some(0.0), _) => Some(-b),
        ("multiply", Some(1.0), _) => Some(b.clone()),
        ("multiply" | "divide", _, Some(1.0)) => Some(a.clone()),
        ("multiply", Some(0.0), _) => Some(a.clone()),
        ("multiply", _, Some(0.0)) => Some(b.clone()),
        // Integers wrap on the device, not here.
        _ if !a.dtype().is_float() => None,
        ("add", None, None) => neighbours(a, b),
        ("add", Some(x), Some(y)) => Some(a.full_like(x + y)),
        ("subtract", Some(x), Some(y)) => Some(a.full_like(x - y)),
        ("multiply", Some(x), Some(y)) => Some(a.full_like(x * y)),
        ("divide", Some(x), Some(y)) => Some(a.full_like(x / y)),
        _ => None,
    }
}

macro_rules! operator {
    ($($trait:ident $method:ident $op:ident $opcode:literal;)*) => {$(
        impl $trait<&Tensor> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: &Tensor) -> Tensor {
                let (a, b) = broadcast_pair($opcode, self, other);
                simplify($opcode, &a, &b).unwrap_or_else(|| a.graph().apply($op, &[&a, &b]))
            }
        }
        impl $trait<Tensor> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: Tensor) -> Tensor { $trait::$method(&self, &other) }
        }
        impl $trait<&Tensor> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: &Tensor) -> Tensor { $trait::$method(&self, other) }
        }
        impl $trait<Tensor> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: Tensor) -> Tensor { $trait::$method(self, &other) }
        }
        impl $trait<f64> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: f64) -> Tensor { $trait::$method(self, &self.full_like(other)) }
        }
        impl $trait<f64> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: f64) -> Tensor { $trait::$method(&self, other) }
        }
        impl $trait<&Tensor> for f64 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: &Tensor) -> Tensor { $trait::$method(&other.full_like(self), other) }
        }
        impl $trait<Tensor> for f64 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: Tensor) -> Tensor { $trait::$method(self, &other) }
        }
    )*};
}

operator! {
    Add add AddOp "add";
    Sub sub SubOp "subtract";
    Mul mul MulOp "multiply";
    Div div DivOp "divide";
}

impl Neg for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        match self.as_constant() {
            Some(value) if self.dtype().is_float() => self.full_like(-value),
            _ => self.graph().apply(Negate, &[self]),
        }
    }
}

impl Neg for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        -&self
    }
}
