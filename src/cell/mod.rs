//! One time step, written once.
//!
//! A model is a function of one step: parameters, states at t-1 and the input at t give the states and the output at t.
//! It is written with a [`StepContext`], which hands out parameters and states, and traced once into a graph:
//!
//! ```text
//! cx.state("V", n, StateInit::Zeros)          the state before the step        [B, n]
//! cx.dense("l0", &[&x, &s], n, ...)           y = [x; s] W + b, a traced op    [B, n]
//! cx.set("V", &v)                             the state after the step
//! ```
//!
//! Declaring a traced op is all a cell does for the learners; see [`crate::learn`]. Regularisers, firing rates and plots see what it
//! declares with [`StepContext::observe`]; analyses of layers leave out what is declared inside [`StepContext::readout`].
//!
//! Reading order: [`model`] (what tracing yields), [`context`], [`init`], [`surrogate`], then the cells: [`spiking`],
//! [`rate`], [`egru`], [`norm`], [`readout`]; and what is connected otherwise than all to all: [`convolution`], [`sparse`].

pub mod context;
pub mod convolution;
pub mod egru;
mod front;
pub mod init;
pub mod model;
pub mod norm;
pub mod rate;
pub mod readout;
pub mod sparse;
pub mod spiking;
pub mod surrogate;

pub use context::{Dense, ModelError, StepContext};
pub use convolution::Convolution;
pub use init::{Init, StateInit};
pub use model::{Mode, Model, Observable, ParamSpec, Quantity, StateSpec, Tracked};
pub use sparse::{Connections, ConnectionsError};
pub use surrogate::Surrogate;
