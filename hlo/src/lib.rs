//! Build, differentiate, print, compile and run XLA computations.

pub mod array;
pub mod evaluate;
pub mod exchange;
pub mod func;
pub mod graph;
pub mod hosts;
pub mod lower;
pub mod op;
pub mod ops;
pub mod pjrt;
pub mod program;
pub mod proto;
pub mod random;
pub mod range;
pub mod shape;
pub mod text;
pub mod transform;
#[cfg(feature = "xla-rs")]
pub mod xla_rs;

pub use evaluate::HostValue;
pub use func::Func;
pub use graph::{Fault, Graph, Tensor, Value};
pub use lower::{LowerError, lower};
pub use op::{Mapped, Primitive, ShapeError};
pub use ops::dot::{Dot, is_wide};
pub use program::{Argument, Program, ResultSpec};
pub use range::Range;
pub use shape::{DType, Shape};
pub use transform::{scan, scan_whole};

/// The pages of `docs/` about this crate: their examples are run as tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../docs/core-from-scratch.md")]
    pub mod core_from_scratch {}
    #[doc = include_str!("../../docs/adding-an-op.md")]
    pub mod adding_an_op {}
}
