//! Online training of recurrent spiking networks with eligibility traces, compiled through XLA.
//!
//! A network is one function of one time step. From its graph the library finds what an online rule needs (which states belong together,
//! how they pass on a perturbation, what drives them) and emits one program that runs sequences, learns, and updates the parameters;
//! memory does not grow with the length of a sequence. `etrace` is also a command that trains published networks on published tasks.
//!
//! # A network of one's own, on data of one's own
//!
//! ```
//! use etrace::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (steps, batch, n_in, n) = (20, 2, 3, 16);
//! // A layer of leaky integrate-and-fire neurons: V' = 0.9 V + x W - spike, and a leaky readout of its spikes.
//! let model = Model::trace(batch, n_in, |cx, x| {
//!     let v = cx.state("V", n, StateInit::Zeros);
//!     let spike = Surrogate::default().spike(&(&v - 1.0));
//!     let drive = cx.dense("layer", &[x, &spike], n, &Dense::new(&[Init::KaimingNormal(2.0)]));
//!     cx.set("V", &(v * 0.9 + drive - &spike));
//!     readout::leaky(cx, &spike, 2, 10.0, 1.0)
//! })?;
//! // Two sequences, one rising and one falling, and the class of each.
//! let inputs = (0..steps * batch * n_in).map(|k| ((k / (batch * n_in)) as f32 / 10.0 - 1.0) * [1.0, -1.0][k / n_in % batch]);
//! let (inputs, classes) = (Array::f32(inputs.collect::<Vec<_>>(), [steps, batch, n_in])?, Array::s32([0, 1], [batch])?);
//!
//! let session = Session::cpu()?;
//! let engine = Engine::new(&session, &model, &Objective::default(), &LearnerConfig::default())?;
//! let optimizer = Optimizer { lr: 0.01, ..Optimizer::default() };
//! let (mut state, mut losses) = (engine.start(optimizer.rule, 1)?, vec![]);
//! for batch in 0..40 {
//!     let (loss, grads) = engine.gradient(&state.params, &engine.states(1, batch)?, &inputs, &classes)?;
//!     state = engine.update(&optimizer, state, &grads)?.0;
//!     losses.push(loss);
//! }
//! assert!(losses[39] < 0.8 * losses[0], "{losses:?}");
//! # Ok(())
//! # }
//! ```
//!
//! `docs/library.md` goes on from here: other targets and losses, streams, checkpoints, own rules.
//!
//! # The rooms, in reading order
//!
//! | module | what |
//! |---|---|
//! | [`cell`] | one time step: parameters, states, traced ops; neurons, synapses, surrogate derivatives, rate cells |
//! | [`net`] | networks made of cells, with settings |
//! | [`learn`] | from a step to a gradient: objectives, structure, rules, traces |
//! | [`train`] | sessions on devices, [`Engine`](train::engine::Engine) for own loops, optimisers, runs and checkpoints |
//! | [`experiment`], [`presets`] | what a run is; the published ones by name |
//! | [`analysis`] | how good the approximations are |
//! | [`verify`] | replay of reference cases |
//! | [`settings`], [`report`], [`rng`] | tables of named alternatives and their ranges, text tables, random numbers |
//! | `plot` (feature `plot`) | plots as SVG and PNG |
//! | `cli` (feature `cli`) | the command |
//!
//! Below them stand the crates `hlo` (build, differentiate, compile and run XLA computations; [`prelude`] has the types that signatures
//! here need) and `tasks` (data sets and generators). Both features are on by default; a program that uses the library alone says
//! `default-features = false`.

// Printing fails where standard output is gone; see `cli::output`.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

/// Pages with code of this crate: it is run as tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/adding-a-neuron.md")]
    mod adding_a_neuron {}
    #[doc = include_str!("../docs/adding-a-rule.md")]
    mod adding_a_rule {}
    #[doc = include_str!("../docs/from-braintrace.md")]
    mod from_braintrace {}
    #[doc = include_str!("../docs/library.md")]
    mod library {}
    #[doc = include_str!("../docs/own-network.md")]
    mod own_network {}
    #[doc = include_str!("../docs/traced-ops.md")]
    mod traced_ops {}
}

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

pub use hlo;
pub use tasks;
