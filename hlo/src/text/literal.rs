//! Constants: scalars bare, arrays in nested braces, floats as C's `%g` writes them.

use super::join;
use crate::proto::{LiteralProto, dtype_of};
use std::fmt::Display;

/// Scalars bare, arrays in nested braces.
pub(super) fn literal(value: &LiteralProto) -> String {
    let dims: &[i64] = value.shape.as_ref().map_or(&[], |s| &s.dimensions);
    let values: Vec<String> = match value.shape.as_ref().and_then(|s| dtype_of(s.element_type)) {
        Some(dtype) => {
            use crate::DType::*;
            match dtype {
                Pred => strings(&value.preds),
                U8 => strings(&value.u8s),
                S32 => strings(&value.s32s),
                U32 => strings(&value.u32s),
                U64 => strings(&value.u64s),
                F32 => value.f32s.iter().map(|&v| float(v)).collect(),
                F64 => value.f64s.iter().map(|&v| float(v)).collect(),
                BF16 => {
                    let bits = value.bf16s.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
                    bits.map(f32::from_bits).map(float).collect()
                }
            }
        }
        None => strings(&value.s64s),
    };
    nest(&values, dims)
}

fn strings<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

/// Floats in the shortest form that reads back, with an exponent where C's `%g` would use one.
fn float<T: Copy + Into<f64> + Display + std::fmt::LowerExp>(shown: T) -> String {
    let value: f64 = shown.into();
    if value.is_nan() {
        return "nan".into();
    } else if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let text = format!("{shown:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let precision = digits.bytes().filter(u8::is_ascii_digit).count().max(6) as i32;
    let power: i32 = exponent.parse().unwrap_or(0);
    if (-4..precision).contains(&power) {
        return shown.to_string();
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", power.abs())
}

fn nest(values: &[String], dims: &[i64]) -> String {
    match dims {
        [] => values.first().cloned().unwrap_or_default(),
        [_] => format!("{{{}}}", join(values, ", ")),
        [_, columns] => {
            let rows = values.chunks(usize::try_from(*columns).unwrap_or(0).max(1));
            format!("{{ {} }}", join(rows.map(|row| format!("{{ {} }}", join(row, ", "))), ", "))
        }
        [outer, inner @ ..] => {
            let each = values.len() / usize::try_from(*outer).unwrap_or(0).max(1);
            let rows = values.chunks(each.max(1)).map(|row| nest(row, inner));
            format!("{{ {} }}", join(rows, ", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DType,
        proto::{ShapeProto, element_type},
    };

    #[test]
    fn constants_of_every_type() {
        let of = |dtype: DType, dims: &[i64]| LiteralProto {
            shape: Some(ShapeProto::array(element_type(dtype), dims.to_vec())),
            ..Default::default()
        };
        assert_eq!(literal(&LiteralProto { f32s: vec![0.1], ..of(DType::F32, &[]) }), "0.1");
        assert_eq!(literal(&LiteralProto { f32s: vec![f32::NEG_INFINITY], ..of(DType::F32, &[]) }), "-inf");
        assert_eq!(literal(&LiteralProto { f32s: vec![1e-7], ..of(DType::F32, &[]) }), "1e-07");
        assert_eq!(literal(&LiteralProto { f64s: vec![1e300], ..of(DType::F64, &[]) }), "1e+300");
        assert_eq!(literal(&LiteralProto { bf16s: vec![0xc0, 0x3f], ..of(DType::BF16, &[]) }), "1.5");
        assert_eq!(literal(&LiteralProto { preds: vec![true], ..of(DType::Pred, &[]) }), "true");
        assert_eq!(literal(&LiteralProto { u8s: vec![1, 2], ..of(DType::U8, &[2]) }), "{1, 2}");
        let matrix = LiteralProto { s32s: vec![1, 2, 3, 4], ..of(DType::S32, &[2, 2]) };
        assert_eq!(literal(&matrix), "{ { 1, 2 }, { 3, 4 } }");
    }
}
