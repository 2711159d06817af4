//! Networks made of cells, one file per experiment.

pub mod etrace_net;
pub mod reference;

pub use etrace_net::{ETraceNet, Layer};
