//! Spiking neurons, synapses and short-term plasticity, each as one step.
//!
//! The order inside a step is that of `docs/spec/networks-dms-ei.md, "Order of a step"`: the spike that resets is the one
//! of the *stored* state; reset first, then integrate, then add delta inputs, then store. The layer's output is read off
//! the new state. Throughout `k(tau) = exp(-dt / tau)`.
//!
//! Reading order: [`neuron`], [`synapse`], [`plasticity`], [`speech`].

pub mod neuron;
pub mod plasticity;
pub mod speech;
pub mod synapse;

pub use neuron::{Alif, Gif2, Gif4, Input, Lif, Neuron, Reset, Tau, standardise};
pub use plasticity::{Depression, Facilitation};
pub use speech::AdLif;
pub use synapse::{Connection, exponential};
