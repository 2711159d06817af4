//! The network of the memory-and-speed evaluation: stacked spiking layers and a leaky readout.
//!
//! Each layer sees the *same-step* output of the one below and its own spikes of the step before. Section 5 of the
//! specification of the networks.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use crate::cell::{
    Dense, Init, Model, StepContext, Surrogate,
    readout,
    spiking::{Lif, Reset, Tau, exponential_synapse},
};

/// What a layer is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// LIF with delta synapses: input is added to the potential.
    #[default]
    LifDelta,
    /// LIF with exponential current synapses.
    LifExpCu,
}

/// Any number of equal layers and a leaky readout.
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

impl ETraceNet {
    /// Traces one step for `batch` sequences.
    pub fn model(&self, batch: usize) -> Model {
        StepContext::trace(batch, self.n_in, |cx, x| {
            let mut u = x.clone();
            for (k, tau) in self.tau_mem.iter().enumerate() {
                u = self.layer(cx, &format!("l{k}"), tau, &u);
            }
            readout::leaky(cx, &u, self.n_out, self.tau_o, self.dt)
        })
    }

    fn layer(&self, cx: &mut StepContext, name: &str, tau: &Tau, x: &Tensor) -> Tensor {
        let lif = Lif {
            n: self.n_rec,
            tau: tau.clone(),
            v_th: self.v_th,
            reset: self.reset,
            surrogate: self.surrogate,
            dt: self.dt,
        };
        let s = cx.scope(name, |cx| lif.last_spike(cx));
        let init = [Init::KaimingNormal(self.ff_scale), Init::KaimingNormal(self.rec_scale)];
        let y = cx.dense(name, &[x, &s], self.n_rec, &Dense::new(&init));
        cx.scope(name, |cx| match self.layer {
            Layer::LifDelta => lif.step(cx, None, Some(&y)),
            Layer::LifExpCu => {
                let g = exponential_synapse(cx, "g", self.tau_syn, self.dt, &y);
                lif.step(cx, Some(&g), None)
            }
        })
    }
}
