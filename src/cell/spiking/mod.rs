//! Spiking neurons, synapses and short-term plasticity, each as one step.
//!
//! The order inside a step is that of `docs/spec/networks-dms-ei.md, "Order of a step"`: the spike that resets is the one
//! of the *stored* state; reset first, then integrate, then add delta inputs, then store. The layer's output is read off
//! the new state. Throughout `k(tau) = exp(-dt / tau)`.
//!
//! Reading order: [`neuron`] (what a neuron is, and the table), [`lif`], [`alif`], [`gif`]; [`synapse`] (what a synapse is, and the
//! table), [`plasticity`], [`conductance`]; [`speech`].

pub mod alif;
pub mod conductance;
pub mod gif;
pub mod lif;
pub mod neuron;
pub mod plasticity;
pub mod speech;
pub mod synapse;

pub use alif::Alif;
pub use conductance::ExpCo;
pub use gif::{Gif2, Gif4, standardise};
pub use lif::Lif;
pub use neuron::{Input, Neuron, NeuronConfig, Population, Reset, Tau};
pub use plasticity::{Depressing, Depression, Facilitating, Facilitation};
pub use speech::AdLif;
pub use synapse::{Connection, Delta, ExpCu, Site, Synapse, SynapseConfig, exponential};
