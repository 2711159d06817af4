//! Element types and shapes: what a tensor is, before any of its values.

use std::fmt;

/// The element types that programs of this crate use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// Boolean, one byte.
    Pred,
    /// Unsigned byte: spikes and small counts travel as this.
    U8,
    /// Signed 32-bit integer.
    S32,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer (state of random generators).
    U64,
    /// Brain float, 16 bits.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision (numeric checks).
    F64,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            DType::Pred | DType::U8 => 1,
            DType::BF16 => 2,
            DType::S32 | DType::U32 | DType::F32 => 4,
            DType::U64 | DType::F64 => 8,
        }
    }

    /// Whether derivatives can flow through values of this type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::BF16 | DType::F32 | DType::F64)
    }

    /// The lowest whole number of an integer type.
    pub(crate) const fn lowest(self) -> i64 {
        match self {
            DType::S32 => i32::MIN as i64,
            _ => 0,
        }
    }

    /// The highest whole number of an integer type (of `u64`, what an `i64` holds).
    pub(crate) const fn highest(self) -> i64 {
        match self {
            DType::Pred => 1,
            DType::U8 => u8::MAX as i64,
            DType::S32 => i32::MAX as i64,
            DType::U32 => u32::MAX as i64,
            _ => i64::MAX,
        }
    }

    /// The name XLA prints: `pred`, `u8`, `f32`, ...
    pub const fn name(self) -> &'static str {
        match self {
            DType::Pred => "pred",
            DType::U8 => "u8",
            DType::S32 => "s32",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
        }
    }
}

/// Element type and sizes of a dense, row-major array. Rank 0 is a scalar.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub dims: Vec<usize>,
}

impl Shape {
    /// A shape of any type.
    pub fn new(dtype: DType, dims: impl Into<Vec<usize>>) -> Shape {
        Shape { dtype, dims: dims.into() }
    }

    /// A single-precision shape.
    pub fn f32(dims: impl Into<Vec<usize>>) -> Shape {
        Shape::new(DType::F32, dims)
    }

    /// A signed 32-bit integer shape.
    pub fn s32(dims: impl Into<Vec<usize>>) -> Shape {
        Shape::new(DType::S32, dims)
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// The same sizes with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Shape {
        Shape { dtype, dims: self.dims.clone() }
    }

    /// The same element type with other sizes.
    pub fn with_dims(&self, dims: impl Into<Vec<usize>>) -> Shape {
        Shape { dtype: self.dtype, dims: dims.into() }
    }
}

/// XLA's notation: `f32[128,512]`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype.name())?;
        for (i, d) in self.dims.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { "," } else { "" })?;
        }
        write!(f, "]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
