//! The network of the memory-and-speed evaluation: a [`Stack`] of LIF layers. `docs/spec/networks-dms-ei.md, "Memory and speed"`.

use serde::{Deserialize, Serialize};

use super::{Network, Sizes, Stack};
use crate::{
    cell::{
        Mode, Model, Surrogate,
        spiking::{Delta, ExpCu, Lif, Reset, Tau},
    },
    settings::{SettingError, range},
};

/// The two layers of the evaluation, by their published names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// LIF with delta synapses.
    #[default]
    LifDelta,
    /// LIF with exponential current synapses.
    LifExpCu,
}

/// What the evaluation can set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ETraceNet {
    /// What each layer is made of.
    pub layer: Layer,
    /// Inputs.
    #[serde(deserialize_with = "range::size")]
    pub n_in: usize,
    /// Neurons per layer.
    #[serde(deserialize_with = "range::size")]
    pub n_rec: usize,
    /// Outputs.
    #[serde(deserialize_with = "range::size")]
    pub n_out: usize,
    /// Membrane time constant of each layer, ms; its length is the number of layers.
    pub tau_mem: Vec<Tau>,
    /// Synaptic time constant, ms (exponential synapses).
    #[serde(deserialize_with = "range::positive")]
    pub tau_syn: f64,
    /// Time constant of the readout, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau_o: f64,
    /// Threshold.
    #[serde(deserialize_with = "range::positive")]
    pub v_th: f64,
    /// What a spike does.
    pub reset: Reset,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Variance of the input weights, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub ff_scale: f64,
    /// Variance of the recurrent weights, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub rec_scale: f64,
    /// Step, ms.
    #[serde(deserialize_with = "range::positive")]
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
        Stack::of_layers(batch, &self.layers())
    }

    /// Each layer as a stack of one.
    pub fn layers(&self) -> Vec<Stack> {
        let layer = |tau: &Tau| Stack {
            n_in: self.n_in,
            n_rec: self.n_rec,
            n_layer: 1,
            n_out: self.n_out,
            tau_o: self.tau_o,
            ff_scale: self.ff_scale,
            rec_scale: self.rec_scale,
            dt: self.dt,
            neuron: Lif { tau: tau.clone(), v_th: self.v_th, reset: self.reset, surrogate: self.surrogate }.into(),
            synapse: match self.layer {
                Layer::LifDelta => Delta::default().into(),
                Layer::LifExpCu => ExpCu { tau: self.tau_syn }.into(),
            },
        };
        self.tau_mem.iter().map(layer).collect()
    }
}

impl Network for ETraceNet {
    fn trace(&self, batch: usize, _: Mode) -> Model {
        self.model(batch)
    }

    fn n_in(&self) -> usize {
        self.n_in
    }

    fn n_out(&self) -> usize {
        self.n_out
    }

    fn dt(&self) -> f64 {
        self.dt
    }

    fn resize(&mut self, to: &Sizes) -> Result<(), SettingError> {
        to.apply(&mut self.n_in, &mut self.n_rec, &mut self.n_out);
        let last = self.tau_mem.last().cloned().unwrap_or(Tau::Scalar(10.0));
        self.tau_mem.resize(to.n_layer.unwrap_or(self.tau_mem.len()), last);
        Ok(())
    }

    fn check(&self) -> Result<(), SettingError> {
        if self.tau_mem.is_empty() {
            return Err(
                SettingError::new("must have an entry for each layer, at least one, got none").within("tau_mem")
            );
        }
        self.tau_mem.iter().try_for_each(|tau| tau.check_size(self.n_rec)).map_err(|e| e.within("tau_mem"))
    }
}
