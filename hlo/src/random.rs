//! Random numbers without a state: a hash of who asks and how often.
//!
//! A number is a function of its *words*: a key (the run's seed, the example) and counters (the step, the unit). It is
//! therefore the same in whatever order or grouping numbers are drawn, under `vmap` and inside a loop or hoisted out of
//! one; and since only integer arithmetic is used, the same on every device.
//!
//! ```
//! use hlo::{DType, Graph, Shape, random};
//!
//! // A number for each of 100 units of 8 examples, in this step.
//! let g = Graph::new();
//! let [key, step] = [0, 1].map(|k| g.parameter(k, Shape::new(DType::U32, [])));
//! let shape = Shape::new(DType::U32, [8, 100]);
//! let (example, unit) = (g.iota(shape.clone(), 0), g.iota(shape, 1));
//! let x = random::uniform(&random::bits(&[&key, &example, &step, &unit]));
//! assert_eq!(x.shape(), &Shape::f32([8, 100]));
//! ```

use crate::{DType, Tensor};

/// Where every hash begins: the fraction of the golden ratio.
const START: u32 = 0x9e37_79b9;
/// The two multipliers of the finaliser.
const MIX: [u32; 2] = [0x21f0_aaad, 0x735a_2d97];

/// 32 well mixed bits for each element of the words (`u32`, broadcast to one shape). Other words, or the same ones in
/// another order, give unrelated bits.
///
/// From h = 0x9e3779b9, each word w makes h = mix(h ^ mix(w)), where mix is
/// x ^= x >> 16; x *= 0x21f0aaad; x ^= x >> 15; x *= 0x735a2d97; x ^= x >> 15. (A word must be mixed before it meets
/// h: the streams of two keys share too many numbers if counters are merely multiplied.) As mix is one-to-one, so is
/// the last word to the bits: a counter of 32 bits never repeats a value.
///
/// # Panics
/// Without a word, or when one is not `u32`, or when shapes do not fit.
#[track_caller]
pub fn bits(words: &[&Tensor]) -> Tensor {
    let Some(first) = words.first() else {
        panic!("random bits: at least one word, got none; pass a key or a counter")
    };
    let start = first.graph().scalar(DType::U32, START.into());
    words.iter().fold(start, |h, word| {
        assert!(
            word.dtype() == DType::U32,
            "random bits: words are unsigned 32-bit integers, got {}; convert it first (`.convert(U32)`)",
            word.shape()
        );
        mix(&h.xor(&mix(word)))
    })
}

/// One-to-one on 32 bits; each bit of the result depends on every bit of `x`.
fn mix(x: &Tensor) -> Tensor {
    let x = x.xor(&x.shift_right(16)) * f64::from(MIX[0]);
    let x = x.xor(&x.shift_right(15)) * f64::from(MIX[1]);
    x.xor(&x.shift_right(15))
}

/// Bits to numbers: evenly distributed single-precision values k / 2^24 in [0, 1), from the upper 24 bits.
///
/// # Panics
/// When the bits are not `u32`.
#[track_caller]
pub fn uniform(bits: &Tensor) -> Tensor {
    assert!(
        bits.dtype() == DType::U32,
        "uniform: made of unsigned 32-bit integers, got {}; take the result of `random::bits`",
        bits.shape()
    );
    bits.shift_right(8).convert(DType::F32) * (1.0 / f64::from(1 << 24))
}
