//! The network of delayed match-to-sample: one layer of GIF neurons with exponential synapses, and a leaky readout of their
//! standardised potentials: `docs/spec/networks-dms-ei.md, "Delayed match-to-sample: network"`.

use serde::{Deserialize, Serialize};

use super::{Network, Sizes, Stack};
use crate::{
    cell::{
        Mode, Model, Surrogate,
        spiking::{ExpCu, Gif2, Tau},
    },
    settings::{SettingError, range},
};

/// Sizes and constants; times in ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GifNet {
    /// Inputs.
    #[serde(deserialize_with = "range::size")]
    pub n_in: usize,
    /// Neurons.
    #[serde(deserialize_with = "range::size")]
    pub n_rec: usize,
    /// Outputs.
    #[serde(deserialize_with = "range::size")]
    pub n_out: usize,
    /// Membrane time constant.
    pub tau_neu: Tau,
    /// Synaptic time constant.
    #[serde(deserialize_with = "range::positive")]
    pub tau_syn: f64,
    /// Time constant of the after-current: the memory of the network.
    pub tau_i2: Tau,
    /// After-current of a spike: positive values inhibit.
    #[serde(deserialize_with = "range::finite")]
    pub a2: f64,
    /// Time constant of the readout.
    #[serde(deserialize_with = "range::positive")]
    pub tau_o: f64,
    /// Threshold.
    #[serde(deserialize_with = "range::positive")]
    pub v_th: f64,
    /// Variance of the input weights, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub ff_scale: f64,
    /// Variance of the recurrent weights, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub rec_scale: f64,
    /// Whether the derivative passes through the spike that resets.
    pub diff_spike: bool,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Step.
    #[serde(deserialize_with = "range::positive")]
    pub dt: f64,
}

impl Default for GifNet {
    /// The settings of `etrace dms` without flags.
    fn default() -> Self {
        GifNet {
            n_in: 100,
            n_rec: 200,
            n_out: 2,
            tau_neu: Tau::Scalar(20.0),
            tau_syn: 10.0,
            tau_i2: GifNet::slow(GifNet::SLOW),
            a2: -1.0,
            tau_o: 10.0,
            v_th: 1.0,
            ff_scale: 10.0,
            rec_scale: 2.0,
            diff_spike: false,
            surrogate: Surrogate::default(),
            dt: 1.0,
        }
    }
}

impl GifNet {
    /// Upper scale of the time constants of the after-currents, ms; see [`GifNet::slow`].
    pub const SLOW: f64 = 2000.0;

    /// Time constants of the after-currents: drawn per neuron, uniform between 100 ms and 1.5 `tau`.
    pub fn slow(tau: f64) -> Tau {
        Tau::Uniform(100.0, 1.5 * tau)
    }

    /// Traces one step for `batch` sequences. Parameters `l0.weight`, `l0.bias`, `out.weight`; states `l0.V`, `l0.I2`,
    /// `l0.g`, `out.r`.
    pub fn model(&self, batch: usize) -> Model {
        self.stack().model(batch)
    }

    /// The same network as a stack.
    pub fn stack(&self) -> Stack {
        let neuron = Gif2 {
            tau: self.tau_neu.clone(),
            v_th: self.v_th,
            tau_i2: self.tau_i2.clone(),
            a2: self.a2,
            diff_spike: self.diff_spike,
            surrogate: self.surrogate,
        };
        Stack {
            n_in: self.n_in,
            n_rec: self.n_rec,
            n_layer: 1,
            n_out: self.n_out,
            tau_o: self.tau_o,
            ff_scale: self.ff_scale,
            rec_scale: self.rec_scale,
            dt: self.dt,
            neuron: neuron.into(),
            synapse: ExpCu { tau: self.tau_syn }.into(),
        }
    }
}

impl Network for GifNet {
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
        to.one_layer()
    }

    fn check(&self) -> Result<(), SettingError> {
        self.tau_neu.check_size(self.n_rec).map_err(|e| e.within("tau_neu"))?;
        self.tau_i2.check_size(self.n_rec).map_err(|e| e.within("tau_i2"))
    }
}
