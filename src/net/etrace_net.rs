//! The network of the memory-and-speed evaluation: a [`DenseNet`] of LIF layers:
//! `docs/spec/networks-dms-ei.md, "Memory and speed"`.

use serde::{Deserialize, Serialize};

use super::{DenseNet, Layer};
use crate::cell::{
    Model, Surrogate,
    spiking::{Reset, Tau},
};

/// What the evaluation can set; everything else is as in [`DenseNet::default`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ETraceNet {
    /// What each layer is made of.
    pub layer: Layer,
    /// Inputs.
    pub n_in: usize,
    /// Neurons per layer.
    pub n_rec: usize,
    /// Outputs.
    pub n_out: usize,
    /// Membrane time constant of each layer, ms; its length is the number of layers.
    pub tau_mem: Vec<Tau>,
    /// Synaptic time constant, ms (exponential synapses).
    pub tau_syn: f64,
    /// Time constant of the readout, ms.
    pub tau_o: f64,
    /// Threshold.
    pub v_th: f64,
    /// What a spike does.
    pub reset: Reset,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Variance of the input weights, in units of 1/fan-in.
    pub ff_scale: f64,
    /// Variance of the recurrent weights, in units of 1/fan-in.
    pub rec_scale: f64,
    /// Step, ms.
    pub dt: f64,
}

impl Default for ETraceNet {
    /// Three layers of 512 LIF neurons with delta synapses, as published.
    fn default() -> Self {
        ETraceNet {
            layer: Layer::LifDelta,
            n_in: 2 * 128 * 128,
            n_rec: 512,
            n_out: 11,
            tau_mem: vec![Tau::Normal(10.0, 1.0); 3],
            tau_syn: 10.0,
            tau_o: 10.0,
            v_th: 1.0,
            reset: Reset::Soft,
            surrogate: Surrogate::default(),
            ff_scale: 10.0,
            rec_scale: 2.0,
            dt: 1.0,
        }
    }
}

impl ETraceNet {
    /// Traces one step for `batch` sequences.
    pub fn model(&self, batch: usize) -> Model {
        let ETraceNet {
            layer,
            n_in,
            n_rec,
            n_out,
            tau_syn,
            tau_o,
            v_th,
            reset,
            surrogate,
            ff_scale,
            rec_scale,
            dt,
            ..
        } = *self;
        let tau_mem = self.tau_mem.clone();
        DenseNet {
            layer,
            n_in,
            n_rec,
            n_out,
            tau_mem,
            tau_syn,
            tau_o,
            v_th,
            reset,
            surrogate,
            ff_scale,
            rec_scale,
            dt,
            ..DenseNet::default()
        }
        .model(batch)
    }
}
