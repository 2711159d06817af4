//! The network of evidence accumulation: GIF neurons, four fifths excitatory, with sparse rectified connections:
//! `docs/spec/networks-dms-ei.md, "Evidence accumulation: network"`.

use serde::{Deserialize, Serialize};

use super::{Network, Sizes};
use crate::{
    cell::{
        Init, Mode, Model, StateInit, StepContext, Surrogate, readout,
        spiking::{Connection, Gif4, Input, Neuron, Population, Tau, conductance::split, exponential},
    },
    settings::{SettingError, range},
};

/// What a synapse does to the membrane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coupling {
    /// Conductances, excitatory with reversal potential 5, inhibitory with -10.
    #[default]
    Coba,
    /// Currents, inhibitory ones negative.
    Cuba,
}

/// Sizes and constants; times in ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EiNet {
    /// What a synapse does to the membrane.
    pub net: Coupling,
    /// Inputs.
    #[serde(deserialize_with = "range::size")]
    pub n_in: usize,
    /// Neurons.
    #[serde(deserialize_with = "range::size")]
    pub n_rec: usize,
    /// Outputs.
    #[serde(deserialize_with = "range::size")]
    pub n_out: usize,
    /// Probability of a connection, in each of the three maps.
    #[serde(deserialize_with = "range::share")]
    pub sparsity: f64,
    /// Factor on the variance of the inhibitory weights.
    #[serde(deserialize_with = "range::non_negative")]
    pub w_ei_ratio: f64,
    /// Variance of the input weights, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub ff_scale: f64,
    /// Variance of the recurrent weights, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub rec_scale: f64,
    /// Slow after-current of a spike: positive values inhibit.
    #[serde(deserialize_with = "range::finite")]
    pub a2: f64,
    /// Its time constant.
    #[serde(deserialize_with = "range::positive")]
    pub tau_i2: f64,
    /// Fast after-current of a spike: positive values excite.
    #[serde(deserialize_with = "range::finite")]
    pub a1: f64,
    /// Its time constant.
    #[serde(deserialize_with = "range::positive")]
    pub tau_i1: f64,
    /// Rise of the threshold at a spike.
    #[serde(deserialize_with = "range::finite")]
    pub a_th: f64,
    /// Time constant of the threshold.
    #[serde(deserialize_with = "range::positive")]
    pub tau_th: f64,
    /// Membrane time constant.
    pub tau_neu: Tau,
    /// Synaptic time constant.
    #[serde(deserialize_with = "range::positive")]
    pub tau_syn: f64,
    /// Time constant of the readout.
    #[serde(deserialize_with = "range::positive")]
    pub tau_out: f64,
    /// Whether the derivative passes through the spike that resets.
    pub diff_spike: bool,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Step.
    #[serde(deserialize_with = "range::positive")]
    pub dt: f64,
}

impl Default for EiNet {
    fn default() -> Self {
        EiNet {
            net: Coupling::Coba,
            n_in: 100,
            n_rec: 200,
            n_out: 2,
            sparsity: 0.1,
            w_ei_ratio: 4.0,
            ff_scale: 1.0,
            rec_scale: 0.5,
            a2: 1.0,
            tau_i2: 1000.0,
            a1: 0.01,
            tau_i1: 50.0,
            a_th: 1.0,
            tau_th: 100.0,
            tau_neu: Tau::Scalar(100.0),
            tau_syn: 10.0,
            tau_out: 10.0,
            diff_spike: false,
            surrogate: Surrogate::default(),
            dt: 1.0,
        }
    }
}

/// Reversal potential of excitatory conductances.
pub(super) const EXCITATORY: f64 = 5.0;
/// Reversal potential of inhibitory conductances.
pub(super) const INHIBITORY: f64 = -10.0;

impl EiNet {
    /// The neurons.
    pub(super) fn neuron(&self) -> Gif4 {
        Gif4 {
            tau: self.tau_neu.clone(),
            a2: self.a2,
            tau_i2: self.tau_i2,
            a1: self.a1,
            tau_i1: self.tau_i1,
            a_th: self.a_th,
            tau_th: self.tau_th,
            v_init: StateInit::Uniform(0.0, 1.0),
            diff_spike: self.diff_spike,
            surrogate: self.surrogate,
        }
    }

    /// Traces one step for `batch` sequences. Inputs and excitatory neurons share one synapse. Parameters `ff`, `exc`, `inh`
    /// (`.weight`, `.bias`, fixed `.mask`), `out.weight`; states `V`, `Vth`, `I1`, `I2`, `g_exc`, `g_inh`, `out.r`.
    pub fn model(&self, batch: usize) -> Model {
        let (gif, at) = (self.neuron(), Population { n: self.n_rec, dt: self.dt });
        let connection = Connection::Rectified { density: self.sparsity };
        StepContext::trace(batch, self.n_in, |cx, x| {
            let (s_exc, s_inh) = split(&gif.last_spike(cx, at));
            let drive = |cx: &mut StepContext, name, from, scale| {
                connection.apply(cx, name, &[from], self.n_rec, &[Init::KaimingNormal(scale)])
            };
            let exc = drive(cx, "ff", x, self.ff_scale) + drive(cx, "exc", &s_exc, self.rec_scale);
            let inh = drive(cx, "inh", &s_inh, self.rec_scale * self.w_ei_ratio);
            let g_exc = exponential(cx, "g_exc", self.tau_syn, self.dt, &exc);
            let g_inh = exponential(cx, "g_inh", self.tau_syn, self.dt, &inh);
            let input = match self.net {
                Coupling::Coba => Input::default().conductance(&g_exc, EXCITATORY).conductance(&g_inh, INHIBITORY),
                Coupling::Cuba => Input::default().current(&(g_exc - g_inh)),
            };
            let u = gif.step(cx, at, &input);
            readout::leaky(cx, &u, self.n_out, self.tau_out, self.dt)
        })
    }
}

impl Network for EiNet {
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
        if self.n_rec < 5 {
            let rule = "must be at least 5 (four excitatory neurons, one inhibitory)";
            return Err(SettingError::new(format!("{rule}, got {}", self.n_rec)).within("n_rec"));
        }
        self.tau_neu.check_size(self.n_rec).map_err(|e| e.within("tau_neu"))
    }
}
