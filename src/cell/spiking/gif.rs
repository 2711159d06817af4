//! Generalised integrate-and-fire neurons: a spike leaves slow currents behind, which carry memory.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::neuron::{Input, Neuron, Population, Tau, observe};
use crate::{
    cell::{StateInit, StepContext, Surrogate},
    settings::{SettingError, range},
};

/// Generalised integrate-and-fire with one after-current, the neuron of delayed match-to-sample: a spike subtracts `V_th`
/// from V and `A2` from I2. The output is the potential standardised over the neurons, not the spike.
/// `docs/spec/networks-dms-ei.md, "GIF with one after-current"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gif2 {
    /// Membrane time constant.
    pub tau: Tau,
    /// Threshold.
    #[serde(deserialize_with = "range::positive")]
    pub v_th: f64,
    /// Time constant of the after-current.
    pub tau_i2: Tau,
    /// After-current of a spike: positive values inhibit.
    #[serde(deserialize_with = "range::finite")]
    pub a2: f64,
    /// Whether the derivative passes through the spike that resets.
    pub diff_spike: bool,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
}

impl Default for Gif2 {
    fn default() -> Self {
        Gif2 {
            tau: Tau::Scalar(20.0),
            v_th: 1.0,
            tau_i2: Tau::Uniform(100.0, 3000.0),
            a2: -1.0,
            diff_spike: false,
            surrogate: Surrogate::default(),
        }
    }
}

impl Gif2 {
    fn spike(&self, v: &Tensor) -> Tensor {
        self.surrogate.spike(&((v - self.v_th) * (1.0 / self.v_th)))
    }
}

impl Neuron for Gif2 {
    fn last_spike(&self, cx: &mut StepContext, at: Population) -> Tensor {
        let v = cx.state("V", at.n, StateInit::Zeros);
        self.spike(&v)
    }

    fn step(&self, cx: &mut StepContext, at: Population, input: &Input) -> Tensor {
        let v = cx.state("V", at.n, StateInit::Zeros);
        let i2 = cx.state("I2", at.n, StateInit::Zeros);
        let s = detached_unless(self.diff_spike, self.spike(&v));
        let i2 = self.tau_i2.decay(cx, "tau_I2", at.n, at.dt) * (i2 - self.a2 * &s);
        let v = input.clone().current(&i2).integrate(cx, &(v - self.v_th * &s), &self.tau, at.dt);
        cx.set("V", &v);
        cx.set("I2", &i2);
        observe(cx, &v, &self.spike(&v));
        standardise(&(v - self.v_th))
    }

    fn check(&self, at: Population) -> Result<(), SettingError> {
        self.tau.check_size(at.n).map_err(|e| e.within("tau"))?;
        self.tau_i2.check_size(at.n).map_err(|e| e.within("tau_i2"))
    }
}

/// Generalised integrate-and-fire with two after-currents and an adaptive threshold, the neuron of the decision network.
/// A spike subtracts `Vth` from V and `A2` from I2, adds `A1` to I1 and `Ath` to Vth. The threshold relaxes to 1 by *plain*
/// Euler steps, as published. The output is `(V - Vth) / Vth` standardised over the neurons.
/// `docs/spec/networks-dms-ei.md, "GIF with two after-currents"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gif4 {
    /// Membrane time constant.
    pub tau: Tau,
    /// Slow after-current of a spike: positive values inhibit.
    #[serde(deserialize_with = "range::finite")]
    pub a2: f64,
    /// Its time constant, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau_i2: f64,
    /// Fast after-current of a spike: positive values excite.
    #[serde(deserialize_with = "range::finite")]
    pub a1: f64,
    /// Its time constant, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau_i1: f64,
    /// Rise of the threshold at a spike.
    #[serde(deserialize_with = "range::finite")]
    pub a_th: f64,
    /// Time constant of the threshold, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau_th: f64,
    /// Potentials at the start of a sequence.
    pub v_init: StateInit,
    /// Whether the derivative passes through the spike that resets.
    pub diff_spike: bool,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
}

impl Default for Gif4 {
    fn default() -> Self {
        Gif4 {
            tau: Tau::Scalar(100.0),
            a2: 1.0,
            tau_i2: 1000.0,
            a1: 0.01,
            tau_i1: 50.0,
            a_th: 1.0,
            tau_th: 100.0,
            v_init: StateInit::Uniform(0.0, 1.0),
            diff_spike: false,
            surrogate: Surrogate::default(),
        }
    }
}

/// Threshold of a [`Gif4`] at rest.
const REST_THRESHOLD: f64 = 1.0;

impl Gif4 {
    fn states(&self, cx: &mut StepContext, n: usize) -> (Tensor, Tensor) {
        let v = cx.state("V", n, self.v_init.clone());
        (v, cx.state("Vth", n, StateInit::Constant(REST_THRESHOLD)))
    }

    /// Distance to the threshold in units of it; the threshold is a constant of the differentiation.
    fn distance(v: &Tensor, v_th: &Tensor) -> Tensor {
        let v_th = v_th.stop_gradient();
        (v - &v_th) / v_th
    }
}

impl Neuron for Gif4 {
    fn last_spike(&self, cx: &mut StepContext, at: Population) -> Tensor {
        let (v, v_th) = self.states(cx, at.n);
        self.surrogate.spike(&Gif4::distance(&v, &v_th))
    }

    fn step(&self, cx: &mut StepContext, at: Population, input: &Input) -> Tensor {
        let (v, v_th) = self.states(cx, at.n);
        let (i1, i2) = (cx.state("I1", at.n, StateInit::Zeros), cx.state("I2", at.n, StateInit::Zeros));
        let s = detached_unless(self.diff_spike, self.surrogate.spike(&Gif4::distance(&v, &v_th)));
        let i1 = (i1 + self.a1 * &s) * (-at.dt / self.tau_i1).exp();
        let i2 = (i2 - self.a2 * &s) * (-at.dt / self.tau_i2).exp();
        let v = &v - &v_th * &s;
        let v_th = v_th + self.a_th * &s;
        let v_th = &v_th - (&v_th - REST_THRESHOLD) * (at.dt / self.tau_th);
        let v = input.clone().current(&(&i1 + &i2)).integrate(cx, &v, &self.tau, at.dt);
        for (name, value) in [("V", &v), ("I2", &i2), ("Vth", &v_th), ("I1", &i1)] {
            cx.set(name, value);
        }
        let distance = Gif4::distance(&v, &v_th);
        observe(cx, &v, &self.surrogate.spike(&distance));
        standardise(&distance)
    }

    fn check(&self, at: Population) -> Result<(), SettingError> {
        self.tau.check_size(at.n).map_err(|e| e.within("tau"))
    }
}

fn detached_unless(differentiable: bool, spike: Tensor) -> Tensor {
    if differentiable { spike } else { spike.stop_gradient() }
}

/// Mean 0 and variance 1 over the last axis: `(x - m) / sqrt(mean((x - m)^2) + 1e-5)`. `docs/spec/networks-dms-ei.md, "Derivatives at kinks"`,
/// which computes the variance as `mean(x^2) - m^2`; the form here loses no digits where the mean is large.
pub fn standardise(x: &Tensor) -> Tensor {
    let last = x.rank() - 1;
    let centred = x - x.mean(&[last]).unsqueeze_last();
    let spread = (centred.square().mean(&[last]) + 1e-5).sqrt();
    &centred / spread.unsqueeze_last()
}
