//! Online training of recurrent spiking networks with eligibility traces, compiled through XLA.

// Printing fails where standard output is gone; see `cli::output`.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod analysis;
pub mod cell;
#[cfg(feature = "cli")]
pub mod cli;
pub mod experiment;
pub mod learn;
pub mod net;
#[cfg(feature = "plot")]
pub mod plot;
pub mod presets;
pub mod report;
pub mod rng;
pub mod settings;
pub mod train;
pub mod verify;
