//! Functions made from functions.
//!
//! * [`jvp`]: values and tangents together (forward mode), with [`Rules`] to override, cut and perturb inner values.
//! * [`pullback`] and [`vjp`]: reverse mode, by running the linear tangent operations backwards.
//! * [`vmap`]: the same computation for every index of a new leading axis.
//! * [`Dependence`]: which values depend on which parameters.

mod dependence;
mod jvp;
mod pullback;
mod vmap;

pub use dependence::Dependence;
pub use jvp::{Dual, Rules, jvp, jvp_with};
pub use pullback::{Vjp, grad, pullback, vjp};
pub use vmap::vmap;
