//! Values without operands: parameters, constants, counters, and the placeholders that transforms use.

use std::{fmt, rc::Rc};

use crate::{
    evaluate::{HostValue, strides, walk},
    graph::{Graph, Tensor},
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    range::Range,
    shape::{DType, Shape},
};

/// Argument number `index` of a computation.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Position in the argument list.
    pub index: usize,
    /// Its shape.
    pub shape: Shape,
}

/// A scalar constant, kept as the bits of an `f64` so that equal constants are one.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Element type.
    pub dtype: DType,
    /// Bits of the value as `f64`.
    pub bits: u64,
}

/// An array of given values.
#[derive(Clone)]
pub struct Literal {
    /// Its shape, of type `f32`.
    pub shape: Shape,
    /// Its values in row-major order.
    pub values: Rc<[f32]>,
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By place: the values may be many, and two literals that share them are one.
        write!(f, "Literal {{ shape: {}, values: {:p} }}", self.shape, self.values)
    }
}

impl Literal {
    fn check(&self) -> Result<(), ShapeError> {
        if self.shape.dtype != DType::F32 || self.shape.elements() != self.values.len() {
            return Err(ShapeError(format!(
                "literal: one f32 value for each element, got {} values for {}; give the shape of the values",
                self.values.len(),
                self.shape
            )));
        }
        Ok(())
    }
}

/// Counts 0, 1, 2, ... along one axis.
#[derive(Clone, Debug)]
pub struct Iota {
    /// Shape of the result.
    pub shape: Shape,
    /// The axis that counts.
    pub axis: usize,
}

impl Constant {
    /// A number that the type cannot hold would silently become another.
    fn check(&self) -> Result<(), ShapeError> {
        let value = f64::from_bits(self.bits);
        let (low, high) = match self.dtype {
            DType::Pred => (0.0, 1.0),
            DType::U8 => (0.0, f64::from(u8::MAX)),
            DType::S32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            DType::U32 => (0.0, f64::from(u32::MAX)),
            // Beyond 2^53 an f64 does not know its last digits.
            DType::U64 => (0.0, (1u64 << 53) as f64),
            DType::BF16 | DType::F32 | DType::F64 => return Ok(()),
        };
        if value.fract() == 0.0 && (low..=high).contains(&value) {
            return Ok(());
        }
        Err(ShapeError(format!(
            "constant: {} holds whole numbers from {low} to {high}, got {value}; convert the other operand to a floating-point \
             type first",
            self.dtype.name()
        )))
    }
}

impl Iota {
    fn check(&self) -> Result<(), ShapeError> {
        if self.axis < self.shape.rank() {
            return Ok(());
        }
        Err(ShapeError(format!("iota: the axis must exist, got {} of {}; name one of its axes", self.axis, self.shape)))
    }
}

impl Iota {
    fn count(&self, shape: &Shape) -> HostValue {
        let stride = strides(&shape.dims)[self.axis] as usize;
        let mut data = vec![0.0; shape.elements()];
        walk(&shape.dims, 0, &vec![0; shape.rank()], |k, _| data[k] = (k / stride % shape.dims[self.axis]) as f64);
        HostValue::new(shape.clone(), data)
    }
}

macro_rules! leaf {
    ($($name:ident $label:literal |$me:ident| $shape:expr, $check:expr, |$em:ident, $s:ident, $r:ident| $emit:expr, $host:expr, $range:expr;)*) => {$(
        impl Primitive for $name {
            fn name(&self) -> &'static str { $label }
            fn infer(&self, _: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
                let $me = self;
                $check?;
                Ok(vec![$shape])
            }
            fn jvp(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Vec<Option<Tensor>> { vec![None] }
            fn batch(&self, _: &[Mapped], _: usize) -> Vec<Mapped> {
                unreachable!("{}: values without operands are never mapped", self.name())
            }
            fn evaluate(&self, _: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
                let host: fn(&Self, &Shape) -> HostValue = $host;
                vec![host(self, &results[0])]
            }
            fn range(&self, _: &[Range], _: &[Shape]) -> Range {
                let range: fn(&Self) -> Range = $range;
                range(self)
            }
            fn emit(&self, $em: &mut Emitter<'_>, _: &[i64], $r: &[Shape]) -> Vec<i64> { let $s = self; vec![$emit] }
        }
    )*};
}

leaf! {
    Parameter "parameter" |p| p.shape.clone(), Ok(()), |e, p, r| e.parameter(p.index, &r[0]),
        |p, _| unreachable!("parameter {}: its value is given", p.index), |_| Range::ANY;
    Constant "constant" |c| Shape::new(c.dtype, []), c.check(), |e, c, r| e.constant(r[0].dtype, f64::from_bits(c.bits)),
        |c, shape| HostValue::full(shape.clone(), f64::from_bits(c.bits)), |c| Range::point(f64::from_bits(c.bits));
    Literal "literal" |l| l.shape.clone(), l.check(), |e, l, r| e.literal(&r[0], &l.values),
        |l, shape| HostValue::new(shape.clone(), l.values.iter().map(|&v| f64::from(v)).collect()),
        |l| l.values.iter().map(|&v| Range::point(v.into())).reduce(Range::union).unwrap_or(Range::ANY);
    Iota "iota" |i| i.shape.clone(), i.check(), |e, i, r| e.push("iota", &r[0], &[], |x| x.dimensions = vec![i.axis as i64]),
        |i, shape| i.count(shape), |i| Range::new(0.0, i.shape.dims[i.axis] as f64);
}

/// Stands for a tangent while a derivative is taken; never lowered.
#[derive(Clone, Debug)]
pub struct Placeholder {
    /// Keeps every placeholder apart.
    pub serial: usize,
    /// Its shape.
    pub shape: Shape,
}

impl Primitive for Placeholder {
    fn name(&self) -> &'static str {
        "placeholder"
    }
    fn infer(&self, _: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![self.shape.clone()])
    }
    fn jvp(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![None]
    }
    fn batch(&self, _: &[Mapped], _: usize) -> Vec<Mapped> {
        unreachable!("placeholder: values without operands are never mapped")
    }
    fn evaluate(&self, _: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        panic!("a tangent placeholder of shape {} was used as a value: a defect in a jvp or transpose rule", self.shape)
    }
    fn emit(&self, _: &mut Emitter<'_>, _: &[i64], _: &[Shape]) -> Vec<i64> {
        panic!("a tangent placeholder of shape {} was used as a value: a defect in a jvp or transpose rule", self.shape)
    }
}

impl Graph {
    /// An array of the given values in row-major order, rounded to `f32`.
    ///
    /// # Panics
    /// When there are not as many values as elements, or the type is another.
    #[track_caller]
    pub fn literal(&self, shape: &Shape, values: Vec<f64>) -> Tensor {
        let values = values.into_iter().map(|v| v as f32).collect();
        self.apply(Literal { shape: shape.clone(), values }, &[])
    }

    /// Counts 0, 1, 2, ... along `axis`.
    #[track_caller]
    pub fn iota(&self, shape: Shape, axis: usize) -> Tensor {
        self.apply(Iota { shape, axis }, &[])
    }
}
