//! The primitive operations, one file per family.
//!
//! | file | family |
//! |---|---|
//! | [`leaf`] | parameters, constants, counters |
//! | [`elementwise`] | arithmetic, comparison, selection, conversion, bits |
//! | [`shaping`] | broadcast, reshape, transpose, slice, pad, concatenate, reverse |
//! | [`dot`] | matrix products |
//! | [`collective`] | what the replicas of a program do together |
//! | [`conv`] | convolutions over two spatial axes |
//! | [`pool`] | maxima and means over windows |
//! | [`reduce`] | sums and extrema over axes, and what is built from them |
//! | [`index`] | slices at computed positions |
//! | [`sparse`] | products with sparse matrices |
//! | [`settle`] | an array that is there before anything reads it |
//! | [`take`] | elements at given places |
//! | [`meta`] | operations on the derivative, not on the value: stop-gradient, custom derivative, tags |
//! | [`scan`] | the loop |

pub mod collective;
pub mod conv;
pub mod dot;
pub mod elementwise;
pub mod index;
pub mod leaf;
pub mod meta;
pub mod pool;
pub mod reduce;
pub mod scan;
pub mod settle;
pub mod shaping;
pub mod sparse;
pub mod take;

pub use leaf::{Constant, Iota, Parameter, Placeholder};
