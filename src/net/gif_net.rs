//! The network of delayed match-to-sample: one layer of GIF neurons with exponential synapses, and a leaky readout of their
//! standardised potentials: `docs/spec/networks-dms-ei.md, "Delayed match-to-sample: network"`.

use serde::{Deserialize, Serialize};

use crate::cell::{
    Dense, Init, Model, StepContext, Surrogate, readout,
    spiking::{Gif2, Input, Neuron, Tau, exponential},
};

/// Sizes and constants; times in ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GifNet {
    /// Inputs.
    pub n_in: usize,
    /// Neurons.
    pub n_rec: usize,
    /// Outputs.
    pub n_out: usize,
    /// Membrane time constant.
    pub tau_neu: Tau,
    /// Synaptic time constant.
    pub tau_syn: f64,
    /// Time constant of the after-current: the memory of the network; see [`GifNet::slow`].
    pub tau_i2: Tau,
    /// After-current of a spike: positive values inhibit.
    pub a2: f64,
    /// Time constant of the readout.
    pub tau_o: f64,
    /// Threshold.
    pub v_th: f64,
    /// Variance of the input weights, in units of 1/fan-in.
    pub ff_scale: f64,
    /// Variance of the recurrent weights, in units of 1/fan-in.
    pub rec_scale: f64,
    /// Whether the derivative passes through the spike that resets.
    pub diff_spike: bool,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Step.
    pub dt: f64,
}

impl Default for GifNet {
    /// The published settings.
    fn default() -> Self {
        GifNet {
            n_in: 100,
            n_rec: 200,
            n_out: 2,
            tau_neu: Tau::Scalar(100.0),
            tau_syn: 100.0,
            tau_i2: GifNet::slow(1500.0),
            a2: 1.0,
            tau_o: 10.0,
            v_th: 1.0,
            ff_scale: 6.0,
            rec_scale: 2.0,
            diff_spike: false,
            surrogate: Surrogate::default(),
            dt: 1.0,
        }
    }
}

impl GifNet {
    /// Time constants of the after-currents: drawn per neuron, uniform between 100 ms and 1.5 `tau`.
    pub fn slow(tau: f64) -> Tau {
        Tau::Uniform(100.0, 1.5 * tau)
    }

    /// Traces one step for `batch` sequences. Parameters `l0.weight`, `l0.bias`, `out.weight`; states `l0.V`, `l0.I2`,
    /// `l0.g`, `out.r`.
    pub fn model(&self, batch: usize) -> Model {
        let gif = Gif2 {
            n: self.n_rec,
            tau: self.tau_neu.clone(),
            v_th: self.v_th,
            tau_i2: self.tau_i2.clone(),
            a2: self.a2,
            diff_spike: self.diff_spike,
            surrogate: self.surrogate,
            dt: self.dt,
        };
        let init = [Init::KaimingNormal(self.ff_scale), Init::KaimingNormal(self.rec_scale)];
        StepContext::trace(batch, self.n_in, |cx, x| {
            let s = cx.scope("l0", |cx| gif.last_spike(cx));
            let y = cx.dense("l0", &[x, &s], self.n_rec, &Dense::new(&init));
            let u = cx.scope("l0", |cx| {
                let g = exponential(cx, "g", self.tau_syn, self.dt, &y);
                gif.step(cx, &Input::default().current(&g))
            });
            readout::leaky(cx, &u, self.n_out, self.tau_o, self.dt)
        })
    }
}
