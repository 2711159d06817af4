//! Values without operands: parameters, constants, counters, and the placeholders that transforms use.

use crate::{
    graph::{Graph, Tensor},
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
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

/// Counts 0, 1, 2, ... along one axis.
#[derive(Clone, Debug)]
pub struct Iota {
    /// Shape of the result.
    pub shape: Shape,
    /// The axis that counts.
    pub axis: usize,
}

macro_rules! leaf {
    ($($name:ident $label:literal |$me:ident| $shape:expr, |$em:ident, $s:ident, $r:ident| $emit:expr;)*) => {$(
        impl Primitive for $name {
            fn name(&self) -> &'static str { $label }
            fn infer(&self, _: &[&Shape]) -> Result<Vec<Shape>, ShapeError> { let $me = self; Ok(vec![$shape]) }
            fn jvp(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Vec<Option<Tensor>> { vec![None] }
            fn batch(&self, _: &[Mapped], _: usize) -> Vec<Mapped> {
                unreachable!("{}: values without operands are never mapped", self.name())
            }
            fn emit(&self, $em: &mut Emitter<'_>, _: &[i64], $r: &[Shape]) -> Vec<i64> { let $s = self; vec![$emit] }
        }
    )*};
}

leaf! {
    Parameter "parameter" |p| p.shape.clone(), |e, p, r| e.parameter(p.index, &r[0]);
    Constant "constant" |c| Shape::new(c.dtype, []), |e, c, r| e.constant(r[0].dtype, f64::from_bits(c.bits));
    Iota "iota" |i| i.shape.clone(), |e, i, r| e.push("iota", &r[0], &[], |x| x.dimensions = vec![i.axis as i64]);
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
    fn emit(&self, _: &mut Emitter<'_>, _: &[i64], _: &[Shape]) -> Vec<i64> {
        panic!("a tangent placeholder of shape {} was used as a value: a defect in a jvp or transpose rule", self.shape)
    }
}

impl Graph {
    /// Counts 0, 1, 2, ... along `axis`.
    #[track_caller]
    pub fn iota(&self, shape: Shape, axis: usize) -> Tensor {
        assert!(axis < shape.rank(), "iota: axis {axis} is outside {shape}");
        self.apply(Iota { shape, axis }, &[])
    }
}
