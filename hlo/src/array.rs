//! Host arrays: a shape and its bytes.
//!
//! An [`Array`] is what goes up to a device and what comes back. The bytes are dense, row-major and in the
//! machine's byte order. Rust values enter and leave through [`Element`], which ties each Rust type to its
//! [`DType`], so a mismatch is an error where the values are asked for. `bf16` has no Rust type of its own:
//! it is made from and read as `f32` ([`Array::bf16`], [`Array::to_f64_vec`]).

use crate::shape::{DType, Shape};

/// What can be wrong about a host array.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArrayError {
    /// The number of values is not that of the shape.
    #[error("array: {shape} holds {expected} values, got {got}; pass dims whose product is the number of values")]
    Count {
        /// The shape asked for.
        shape: Shape,
        /// Values it holds.
        expected: usize,
        /// Values given.
        got: usize,
    },
    /// The number of bytes is not that of the shape.
    #[error("array: {shape} takes {expected} bytes, got {got}; pass the dense row-major bytes of the whole array")]
    Bytes {
        /// The shape asked for.
        shape: Shape,
        /// Bytes it takes.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// Values were asked for as another type.
    #[error("array: {shape} holds {}, was read as {}; read it as {} or convert it in the program", .shape.dtype.name(), .asked.name(), .shape.dtype.name())]
    Type {
        /// Shape of the array.
        shape: Shape,
        /// Type asked for.
        asked: DType,
    },
    /// A scalar was asked for of an array with several values, or none.
    #[error("array: a scalar is one value, {shape} holds {}; use `to_vec`", .shape.elements())]
    NotScalar {
        /// Shape of the array.
        shape: Shape,
    },
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that stands for a [`DType`].
pub trait Element: Copy + sealed::Sealed {
    /// The element type it stands for.
    const DTYPE: DType;
    #[doc(hidden)]
    fn write(self, to: &mut [u8]);
    #[doc(hidden)]
    fn read(from: &[u8]) -> Self;
}

macro_rules! element {
    ($($type:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            #[inline]
            fn write(self, to: &mut [u8]) {
                to.copy_from_slice(&self.to_ne_bytes());
            }
            #[inline]
            fn read(from: &[u8]) -> Self {
                let mut bytes = [0; size_of::<$type>()];
                bytes.copy_from_slice(from);
                <$type>::from_ne_bytes(bytes)
            }
        }
    )*};
}
element!(f32 => F32, f64 => F64, i32 => S32, u32 => U32, u64 => U64, u8 => U8);

impl sealed::Sealed for bool {}
impl Element for bool {
    const DTYPE: DType = DType::Pred;
    #[inline]
    fn write(self, to: &mut [u8]) {
        to[0] = u8::from(self);
    }
    #[inline]
    fn read(from: &[u8]) -> bool {
        from[0] != 0
    }
}

/// A dense, row-major array in host memory.
#[derive(Clone, PartialEq)]
pub struct Array {
    shape: Shape,
    bytes: Vec<u8>,
}

impl Array {
    /// An array of `values`, row-major, of sizes `dims` (empty for a scalar).
    ///
    /// # Errors
    /// [`ArrayError::Count`] if the product of `dims` is not the number of values.
    pub fn new<T: Element>(values: &[T], dims: impl Into<Vec<usize>>) -> Result<Array, ArrayError> {
        let shape = Shape::new(T::DTYPE, dims);
        if shape.elements() != values.len() {
            return Err(ArrayError::Count { expected: shape.elements(), got: values.len(), shape });
        }
        let mut bytes = vec![0; shape.bytes()];
        for (to, value) in bytes.chunks_exact_mut(T::DTYPE.bytes()).zip(values) {
            value.write(to);
        }
        Ok(Array { shape, bytes })
    }

    /// An array of one value and rank 0.
    pub fn scalar_of<T: Element>(value: T) -> Array {
        let shape = Shape::new(T::DTYPE, []);
        let mut bytes = vec![0; shape.bytes()];
        value.write(&mut bytes);
        Array { shape, bytes }
    }

    /// A `bf16` array from `f32` values, each rounded to the nearest, ties to even.
    ///
    /// # Errors
    /// [`ArrayError::Count`] as for [`Array::new`].
    pub fn bf16(values: &[f32], dims: impl Into<Vec<usize>>) -> Result<Array, ArrayError> {
        let shape = Shape::new(DType::BF16, dims);
        if shape.elements() != values.len() {
            return Err(ArrayError::Count { expected: shape.elements(), got: values.len(), shape });
        }
        let bytes = values.iter().flat_map(|&v| bf16_bits(v).to_ne_bytes()).collect();
        Ok(Array { shape, bytes })
    }

    /// An array of any type from its dense row-major bytes.
    ///
    /// # Errors
    /// [`ArrayError::Bytes`] if the number of bytes is not the shape's.
    pub fn from_bytes(shape: Shape, bytes: Vec<u8>) -> Result<Array, ArrayError> {
        if shape.bytes() != bytes.len() {
            return Err(ArrayError::Bytes { expected: shape.bytes(), got: bytes.len(), shape });
        }
        Ok(Array { shape, bytes })
    }

    /// All zero (or `false`).
    pub fn zeros(shape: Shape) -> Array {
        let bytes = vec![0; shape.bytes()];
        Array { shape, bytes }
    }

    /// Element type and sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The dense row-major bytes, in the machine's byte order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, without copying.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// All values, row-major.
    ///
    /// # Errors
    /// [`ArrayError::Type`] if the array holds another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, ArrayError> {
        if self.shape.dtype != T::DTYPE {
            return Err(ArrayError::Type { shape: self.shape.clone(), asked: T::DTYPE });
        }
        Ok(self.bytes.chunks_exact(T::DTYPE.bytes()).map(T::read).collect())
    }

    /// The one value of an array with one element (of any rank).
    ///
    /// # Errors
    /// [`ArrayError::NotScalar`] if there is not exactly one, [`ArrayError::Type`] if it has another type.
    pub fn scalar<T: Element>(&self) -> Result<T, ArrayError> {
        match self.to_vec::<T>()?.as_slice() {
            [value] => Ok(*value),
            _ => Err(ArrayError::NotScalar { shape: self.shape.clone() }),
        }
    }

    /// All values as `f64`, whatever their type. `u64` beyond 2^53 is rounded; `false` is 0.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        fn each<T: Element>(bytes: &[u8], f: impl Fn(T) -> f64) -> Vec<f64> {
            bytes.chunks_exact(T::DTYPE.bytes()).map(|b| f(T::read(b))).collect()
        }
        let bytes = &self.bytes;
        match self.shape.dtype {
            DType::Pred => each(bytes, |v: bool| f64::from(u8::from(v))),
            DType::U8 => each(bytes, |v: u8| f64::from(v)),
            DType::S32 => each(bytes, |v: i32| f64::from(v)),
            DType::U32 => each(bytes, |v: u32| f64::from(v)),
            DType::U64 => each(bytes, |v: u64| v as f64),
            DType::BF16 => {
                bytes.chunks_exact(2).map(|b| f64::from(bf16_value(u16::from_ne_bytes([b[0], b[1]])))).collect()
            }
            DType::F32 => each(bytes, |v: f32| f64::from(v)),
            DType::F64 => each(bytes, |v: f64| v),
        }
    }

    /// The same values under other sizes.
    ///
    /// # Errors
    /// [`ArrayError::Count`] if the number of values differs.
    pub fn reshaped(self, dims: impl Into<Vec<usize>>) -> Result<Array, ArrayError> {
        let shape = self.shape.with_dims(dims);
        if shape.elements() != self.shape.elements() {
            return Err(ArrayError::Count { expected: shape.elements(), got: self.shape.elements(), shape });
        }
        Ok(Array { shape, bytes: self.bytes })
    }
}

/// Shape and the first few values.
impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 8;
        let shown = self.bytes.len().min(SHOWN * self.shape.dtype.bytes());
        let head = Array {
            shape: self.shape.with_dims([shown / self.shape.dtype.bytes()]),
            bytes: self.bytes[..shown].to_vec(),
        };
        let more = if shown < self.bytes.len() { ", ..." } else { "" };
        let values: Vec<String> = head.to_f64_vec().iter().map(f64::to_string).collect();
        write!(f, "{} [{}{more}]", self.shape, values.join(", "))
    }
}

macro_rules! from_vec {
    ($($(#[$doc:meta])* $name:ident $type:ty),*) => {
        impl Array {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`ArrayError::Count`] as for [`Array::new`].
            pub fn $name(values: impl AsRef<[$type]>, dims: impl Into<Vec<usize>>) -> Result<Array, ArrayError> {
                Array::new(values.as_ref(), dims)
            }
        )*}
    };
}
from_vec!(
    /// An array of `f32`.
    f32 f32,
    /// An array of `f64`.
    f64 f64,
    /// An array of `s32`.
    s32 i32,
    /// An array of `u32`.
    u32 u32,
    /// An array of `u64`.
    u64 u64,
    /// An array of `u8`.
    u8 u8,
    /// An array of `pred`.
    pred bool
);

/// The upper half of an `f32`, rounded to nearest even. NaN stays NaN.
pub(crate) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        // Rounding could carry a NaN's payload into infinity: keep it quiet instead.
        return ((bits >> 16) | 0x40) as u16;
    }
    let round = 0x7fff + ((bits >> 16) & 1);
    ((bits + round) >> 16) as u16
}

pub(crate) fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive() {
        let a = Array::new(&[1.5f32, -2.0, 0.25], [3]).unwrap();
        assert_eq!(a.to_vec::<f32>().unwrap(), [1.5, -2.0, 0.25]);
        assert_eq!(Array::pred([true, false], [2, 1]).unwrap().to_vec::<bool>().unwrap(), [true, false]);
        assert_eq!(Array::scalar_of(u64::MAX).scalar::<u64>().unwrap(), u64::MAX);
    }

    #[test]
    fn wrong_count_type_and_rank_are_errors() {
        let error = Array::new(&[1i32, 2], [3]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "array: s32[3] holds 3 values, got 2; pass dims whose product is the number of values"
        );
        let a = Array::new(&[1i32, 2], [2]).unwrap();
        let error = a.to_vec::<f32>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "array: s32[2] holds s32, was read as f32; read it as s32 or convert it in the program"
        );
        assert!(matches!(a.scalar::<i32>(), Err(ArrayError::NotScalar { .. })));
        assert!(matches!(Array::from_bytes(Shape::f32([2]), vec![0; 7]), Err(ArrayError::Bytes { .. })));
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        // 1 + 2^-8 lies halfway between 1 and 1 + 2^-7: even is 1. 1 + 3 * 2^-8 rounds up to 1 + 2^-6.
        let a = Array::bf16(&[1.0, 1.0 + 0.00390625, 1.0 + 3.0 * 0.00390625, f32::NAN, f32::INFINITY], [5]).unwrap();
        let v = a.to_f64_vec();
        assert_eq!(v[..3], [1.0, 1.0, 1.015625]);
        assert!(v[3].is_nan() && v[4].is_infinite());
    }

    #[test]
    fn debug_is_short() {
        assert_eq!(format!("{:?}", Array::zeros(Shape::f32([2, 100]))), "f32[2,100] [0, 0, 0, 0, 0, 0, 0, 0, ...]");
    }
}
