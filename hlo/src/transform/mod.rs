//! Functions made from functions.
//!
//! * [`jvp`]: values and tangents together (forward mode), with [`Rules`] to override, cut and perturb inner values.
//! * [`pullback`] and [`vjp`]: reverse mode, by running the linear tangent operations backwards.
//! * [`vmap`]: the same computation for every index of a new leading axis.
//! * [`scan`]: loops, taken apart so that only recurrences are sequential.
//! * [`Dependence`]: which values depend on which parameters.

mod dependence;
mod jvp;
mod pullback;
pub mod recurrence;
pub(crate) mod scan_derivative;
mod vmap;

pub use dependence::Dependence;
pub use jvp::{Dual, Rules, TangentOf, jvp, jvp_with};
pub use pullback::{Vjp, grad, pullback, vjp};
pub use recurrence::{scan, scan_whole};
pub use vmap::vmap;
