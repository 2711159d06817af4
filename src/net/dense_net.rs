//! Stacked spiking layers and a leaky readout: every combination of neuron and synapse that has a published name.
//!
//! Each layer sees the *same-step* output of the one below and its own spikes of the step before, concatenated:
//! `docs/spec/networks-dms-ei.md, "Layers"`.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use crate::cell::{
    Dense, Init, Model, StepContext, Surrogate, readout,
    spiking::{Alif, Connection, Depression, Facilitation, Input, Lif, Neuron, Reset, Tau, exponential},
};

/// What a layer is made of: a neuron and its synapses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// LIF with delta synapses: input is added to the potential.
    #[default]
    LifDelta,
    /// IF with delta synapses; the same numbers as [`Layer::LifDelta`].
    IfDelta,
    /// ALIF with delta synapses.
    AlifDelta,
    /// LIF with exponential current synapses.
    LifExpCu,
    /// ALIF with exponential current synapses.
    AlifExpCu,
    /// LIF with exponential current synapses that depress.
    LifStdExpCu,
    /// ALIF with exponential current synapses that depress.
    AlifStdExpCu,
    /// LIF with exponential current synapses that depress and facilitate.
    LifStpExpCu,
    /// ALIF with exponential current synapses that depress and facilitate.
    AlifStpExpCu,
    /// LIF with exponential conductance synapses, 80 % of them excitatory.
    LifExpCo,
    /// ALIF with exponential conductance synapses, 80 % of them excitatory.
    AlifExpCo,
}

/// Where the presynaptic spikes go.
enum Synapse {
    Delta,
    Current(Release),
    Conductance,
}

/// What a presynaptic spike releases.
enum Release {
    All,
    Depressing,
    Facilitating,
}

impl Layer {
    /// The published names, of which [`Layer::by_name`] also knows the forms without `_dense` and with `-`.
    pub const NAMES: &[&str] = &[
        "lif_delta_dense",
        "if_delta_dense",
        "alif_delta_dense",
        "lif_expcu_dense",
        "alif_expcu_dense",
        "lif_std_expcu_dense",
        "alif_std_expcu_dense",
        "lif_stp_expcu_dense",
        "alif_stp_expcu_dense",
        "lif_expco_dense",
        "alif_expco_dense",
    ];

    /// A layer by its published name.
    pub fn by_name(name: &str) -> Option<Layer> {
        let name = name.replace('-', "_").replace("exp_c", "expc");
        Some(match name.trim_end_matches("_dense") {
            "lif_delta" => Layer::LifDelta,
            "if_delta" => Layer::IfDelta,
            "alif_delta" => Layer::AlifDelta,
            "lif_expcu" => Layer::LifExpCu,
            "alif_expcu" => Layer::AlifExpCu,
            "lif_std_expcu" => Layer::LifStdExpCu,
            "alif_std_expcu" => Layer::AlifStdExpCu,
            "lif_stp_expcu" => Layer::LifStpExpCu,
            "alif_stp_expcu" => Layer::AlifStpExpCu,
            "lif_expco" => Layer::LifExpCo,
            "alif_expco" => Layer::AlifExpCo,
            _ => return None,
        })
    }

    fn adaptive(self) -> bool {
        use Layer::*;
        matches!(self, AlifDelta | AlifExpCu | AlifStdExpCu | AlifStpExpCu | AlifExpCo)
    }

    fn synapse(self) -> Synapse {
        match self {
            Layer::LifDelta | Layer::IfDelta | Layer::AlifDelta => Synapse::Delta,
            Layer::LifExpCu | Layer::AlifExpCu => Synapse::Current(Release::All),
            Layer::LifStdExpCu | Layer::AlifStdExpCu => Synapse::Current(Release::Depressing),
            Layer::LifStpExpCu | Layer::AlifStpExpCu => Synapse::Current(Release::Facilitating),
            Layer::LifExpCo | Layer::AlifExpCo => Synapse::Conductance,
        }
    }
}

/// Any number of equal layers and a leaky readout. Times in ms, potentials in units of the distance rest to threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenseNet {
    /// What each layer is made of.
    pub layer: Layer,
    /// Inputs.
    pub n_in: usize,
    /// Neurons per layer.
    pub n_rec: usize,
    /// Outputs.
    pub n_out: usize,
    /// Membrane time constant of each layer; its length is the number of layers.
    pub tau_mem: Vec<Tau>,
    /// Synaptic time constant.
    pub tau_syn: f64,
    /// Time constant of the adaptation of ALIF.
    pub tau_a: f64,
    /// Rise of the threshold of ALIF per unit of adaptation.
    pub beta: f64,
    /// Depressing synapses.
    pub depression: Depression,
    /// Facilitating synapses.
    pub facilitation: Facilitation,
    /// Whether the inputs of the first layer depress (facilitate) too.
    pub plastic_input: bool,
    /// Time constant of the readout.
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
    /// Step.
    pub dt: f64,
}

impl Default for DenseNet {
    fn default() -> Self {
        DenseNet {
            layer: Layer::default(),
            n_in: 100,
            n_rec: 200,
            n_out: 2,
            tau_mem: vec![Tau::Scalar(5.0)],
            tau_syn: 10.0,
            tau_a: 100.0,
            beta: 0.1,
            depression: Depression::default(),
            facilitation: Facilitation::default(),
            plastic_input: false,
            tau_o: 10.0,
            v_th: 1.0,
            reset: Reset::Soft,
            surrogate: Surrogate::default(),
            ff_scale: 2.0,
            rec_scale: 2.0,
            dt: 1.0,
        }
    }
}

/// Reversal potential of inhibitory conductances.
const INHIBITORY: f64 = -0.5;
/// Reversal potential of excitatory conductances in the first layer, whose input is a current.
const EXCITATORY_FIRST: f64 = 1.5;
/// Reversal potential of excitatory conductances in the other layers.
const EXCITATORY_DEEP: f64 = 3.5;
/// Initial inhibitory weights are this much larger, for there are four times fewer of them.
const INHIBITION: f64 = 4.0;

/// Splits a population into its excitatory 80 % and the rest: `[B, n]` to `[B, e]`, `[B, n - e]`.
pub(super) fn split(s: &Tensor) -> (Tensor, Tensor) {
    let n = s.dims()[1];
    let n_exc = n * 4 / 5;
    (s.slice_axis(1, 0, n_exc), s.slice_axis(1, n_exc, n))
}

impl DenseNet {
    /// Traces one step for `batch` sequences.
    pub fn model(&self, batch: usize) -> Model {
        StepContext::trace(batch, self.n_in, |cx, x| {
            let u = (0..self.tau_mem.len()).fold(x.clone(), |u, k| self.step_layer(cx, k, &u));
            readout::leaky(cx, &u, self.n_out, self.tau_o, self.dt)
        })
    }

    /// One step of layer `k` (parameters `lK.*`) under the spikes `x`; returns its own.
    pub fn step_layer(&self, cx: &mut StepContext, k: usize, x: &Tensor) -> Tensor {
        let name = &format!("l{k}");
        let neuron = self.neuron(k);
        let s = cx.scope(name, |cx| neuron.last_spike(cx));
        match self.layer.synapse() {
            Synapse::Delta => {
                let y = cx.dense(name, &[x, &s], self.n_rec, &Dense::new(&self.init()));
                cx.scope(name, |cx| neuron.step(cx, &Input::default().delta(&y)))
            }
            Synapse::Current(release) => {
                let z = cx.scope(name, |cx| self.release(cx, &release, &s));
                let x = if k == 0 && self.plastic_input {
                    cx.scope(&format!("{name}.in"), |cx| self.release(cx, &release, x))
                } else {
                    x.clone()
                };
                let y = cx.dense(name, &[&x, &z], self.n_rec, &Dense::new(&self.init()));
                cx.scope(name, |cx| {
                    let g = exponential(cx, "g", self.tau_syn, self.dt, &y);
                    neuron.step(cx, &Input::default().current(&g))
                })
            }
            Synapse::Conductance => cx.scope(name, |cx| {
                let input = self.conductances(cx, k == 0, x, &s);
                neuron.step(cx, &input)
            }),
        }
    }

    /// Excitation and inhibition: the first layer reads `x` as a signed current, the others split it like their own spikes.
    fn conductances(&self, cx: &mut StepContext, first: bool, x: &Tensor, s: &Tensor) -> Input {
        let (s_exc, s_inh) = split(s);
        let (x_exc, x_inh) = split(x);
        let [ff, rec] = self.init();
        let more = |init: &Init| Init::Scaled(INHIBITION, Box::new(init.clone()));
        let (exc, inh): (Vec<_>, Vec<_>) = if first {
            (vec![(&s_exc, rec.clone())], vec![(&s_inh, more(&rec))])
        } else {
            (vec![(&x_exc, ff.clone()), (&s_exc, rec.clone())], vec![(&x_inh, more(&ff)), (&s_inh, more(&rec))])
        };
        let conductance = |cx: &mut StepContext, name: &str, from: Vec<(&Tensor, Init)>| {
            let (inputs, init): (Vec<&Tensor>, Vec<Init>) = from.into_iter().unzip();
            let y = Connection::Signed.apply(cx, name, &inputs, self.n_rec, &init);
            exponential(cx, &format!("g_{name}"), self.tau_syn, self.dt, &y)
        };
        let mut input = Input::default();
        if first {
            let y = cx.dense("inp", &[x], self.n_rec, &Dense::new(&[ff]));
            input = input.current(&exponential(cx, "g_inp", self.tau_syn, self.dt, &y));
        }
        let excitatory = if first { EXCITATORY_FIRST } else { EXCITATORY_DEEP };
        input
            .conductance(&conductance(cx, "exc", exc), excitatory)
            .conductance(&conductance(cx, "inh", inh), INHIBITORY)
    }

    /// What spikes release. A released amount carries the spike already; like the published layers this multiplies it by
    /// the spike once more, which only the surrogate derivative sees.
    fn release(&self, cx: &mut StepContext, release: &Release, s: &Tensor) -> Tensor {
        match release {
            Release::All => s.clone(),
            Release::Depressing => s * self.depression.step(cx, s, self.dt),
            Release::Facilitating => s * self.facilitation.step(cx, s, self.dt),
        }
    }

    fn neuron(&self, k: usize) -> Box<dyn Neuron> {
        let lif = Lif {
            n: self.n_rec,
            tau: self.tau_mem[k].clone(),
            v_th: self.v_th,
            reset: self.reset,
            surrogate: self.surrogate,
            dt: self.dt,
        };
        if self.layer.adaptive() { Box::new(Alif { lif, tau_a: self.tau_a, beta: self.beta }) } else { Box::new(lif) }
    }

    /// Initial weights of inputs and recurrence.
    fn init(&self) -> [Init; 2] {
        [Init::KaimingNormal(self.ff_scale), Init::KaimingNormal(self.rec_scale)]
    }
}
