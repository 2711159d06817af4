//! Online training of recurrent spiking networks with eligibility traces, compiled through XLA.
//!
//! A network is a step, written once; a learning rule finds in its graph what it needs; everything runs as XLA programs on a CPU, a
//! GPU or a TPU. An own network on own data, with an own loop:
//!
//! ```no_run
//! use etrace::prelude::*;
//!
//! // 16 sequences of 3 inputs; 20 leaky neurons with a soft reset; 2 numbers of output.
//! let model = Model::trace(16, 3, |cx, x| {
//!     let v = cx.state("V", 20, StateInit::Zeros);
//!     let before = Surrogate::default().spike(&(&v - 1.0));
//!     let drive = cx.dense("cell", &[x, &before], 20, &Dense::new(&[Init::KaimingNormal(4.0), Init::KaimingNormal(1.0)]));
//!     let new = (&v - &before) * 0.9 + drive;
//!     cx.set("V", &new);
//!     let spikes = Surrogate::default().spike(&(&new - 1.0));
//!     cx.dense("readout", &[&spikes], 2, &Dense::new(&[Init::KaimingNormal(1.0)]))
//! })?;
//! // The output shall follow a curve: numbers for each step.
//! let objective = Objective::new(LossKind::Mse, Target::VECTORS);
//! let session = Session::open(Device::Cpu, None, &mut |_| {})?;
//! let mut engine = Engine::new(&session, model, &objective, &LearnerConfig::default(), Optimizer::default(), 50, 1)?;
//! let inputs = Array::f32(vec![0.5f32; 50 * 16 * 3], [50, 16, 3])?;
//! let targets = Array::f32(vec![0.1f32; 50 * 16 * 2], [50, 16, 2])?;
//! for _ in 0..100 {
//!     let loss = engine.update(&inputs, &targets)?;
//!     println!("{loss}");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Rooms, in reading order: [`cell`] (neurons, synapses, how a step is written), [`net`] (networks), [`learn`] (rules, traces, forms),
//! [`train`] (programs, runs, [`train::engine`] for own loops), [`settings`] and [`presets`] (configurations), `analysis`, `verify`,
//! and with the features `plot` and `cli` the plots and the command. `docs/library.md` shows more, `examples/` runs.

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
pub mod prelude;
pub mod presets;
pub mod report;
pub mod rng;
pub mod settings;
pub mod train;
pub mod verify;
