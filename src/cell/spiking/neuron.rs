//! Neurons: what reaches a membrane, how it integrates, when it spikes.
//!
//! All membranes have resting potential 0, reset potential 0 (for the GIFs: a reset by the threshold) and resistance 1,
//! which shifting and scaling V brings about for any leaky membrane.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use crate::cell::{Init, StateInit, StepContext, Surrogate};

/// What a spike does to the membrane potential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// Subtracts the threshold.
    #[default]
    Soft,
    /// Sets the potential to 0; the derivative passes through the spike only.
    Hard,
}

impl Reset {
    /// The potential after the spikes `s` of `v`.
    fn apply(self, v: &Tensor, s: &Tensor, v_th: f64) -> Tensor {
        match self {
            Reset::Soft => v - v_th * s,
            Reset::Hard => v - v.stop_gradient() * s,
        }
    }
}

/// A time constant in ms: one for all neurons, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tau {
    /// The same for all.
    Scalar(f64),
    /// One for each neuron.
    PerNeuron(Vec<f32>),
    /// Drawn once per neuron from a Gaussian (mean, standard deviation).
    Normal(f64, f64),
    /// Drawn once per neuron, uniform in [lo, hi).
    Uniform(f64, f64),
}

impl Tau {
    /// `dt / tau`: a scalar, or `[n]` computed from the fixed array `name`.
    pub fn rate(&self, cx: &mut StepContext, name: &str, n: usize, dt: f64) -> Tensor {
        let init = match self {
            Tau::Scalar(tau) => return cx.scalar(dt / tau),
            Tau::PerNeuron(values) => Init::Values(values.clone()),
            Tau::Normal(mean, std) => Init::Normal(*mean, *std),
            Tau::Uniform(lo, hi) => Init::Uniform(*lo, *hi),
        };
        dt / cx.constant(name, &[n], init)
    }

    /// `k(tau) = exp(-dt / tau)`: a scalar, or `[n]` computed from the fixed array `name`.
    pub fn decay(&self, cx: &mut StepContext, name: &str, n: usize, dt: f64) -> Tensor {
        match self {
            Tau::Scalar(tau) => cx.scalar((-dt / tau).exp()),
            _ => (-self.rate(cx, name, n, dt)).exp(),
        }
    }

    /// `k(tau)` and `1 - k(tau)`; the second from `expm1`, for a difference would lose the digits of a slow decay.
    pub fn relaxation(&self, cx: &mut StepContext, name: &str, n: usize, dt: f64) -> (Tensor, Tensor) {
        match self {
            Tau::Scalar(tau) => (cx.scalar((-dt / tau).exp()), cx.scalar(-(-dt / tau).exp_m1())),
            _ => {
                let rate = -self.rate(cx, name, n, dt);
                (rate.exp(), -rate.expm1())
            }
        }
    }
}

/// What reaches a membrane in one step; every part is `[B, n]`.
#[derive(Clone, Default)]
pub struct Input {
    current: Option<Tensor>,
    conductances: Vec<(Tensor, f64)>,
    delta: Option<Tensor>,
}

impl Input {
    /// With one more current.
    pub fn current(mut self, current: &Tensor) -> Input {
        self.current = Tensor::sum_of([self.current, Some(current.clone())]);
        self
    }

    /// With a conductance `g` that pulls the potential towards `reversal`.
    pub fn conductance(mut self, g: &Tensor, reversal: f64) -> Input {
        self.conductances.push((g.clone(), reversal));
        self
    }

    /// With one more input that is added to the potential after the leak.
    pub fn delta(mut self, delta: &Tensor) -> Input {
        self.delta = Tensor::sum_of([self.delta, Some(delta.clone())]);
        self
    }

    /// The exponential-Euler step of `tau dV/dt = -V + I + sum_k g_k (E_k - V)` from `v`, then the delta input
    /// (`docs/spec/networks-dms-ei.md, "Exponential-Euler step"`):
    /// with `A = 1 + sum g_k`, `V_inf = (I + sum g_k E_k) / A`: `V' = V_inf + (V - V_inf) exp(-A dt / tau) + delta`.
    pub fn integrate(&self, cx: &mut StepContext, v: &Tensor, tau: &Tau, dt: f64) -> Tensor {
        let n = v.dims()[1];
        let pull = self.conductances.iter().map(|(g, reversal)| Some(g * *reversal));
        let total = Tensor::sum_of(self.conductances.iter().map(|(g, _)| Some(g.clone())));
        let leaky = match (total, &self.current) {
            (Some(total), _) => {
                let total = total + 1.0;
                let v_inf = Tensor::sum_of([self.current.clone()].into_iter().chain(pull)).map(|drive| drive / &total);
                let v_inf = v_inf.unwrap_or_else(|| v.zeros_like());
                let k = (-(total * tau.rate(cx, "tau", n, dt))).exp();
                &v_inf + (v - &v_inf) * k
            }
            (None, Some(current)) => {
                let (k, gain) = tau.relaxation(cx, "tau", n, dt);
                k * v + gain * current
            }
            (None, None) => tau.decay(cx, "tau", n, dt) * v,
        };
        match &self.delta {
            Some(delta) => leaky + delta,
            None => leaky,
        }
    }
}

/// A population of neurons.
pub trait Neuron {
    /// The spikes of the stored state, `[B, n]`: what the layer's own recurrence reads in this step.
    fn last_spike(&self, cx: &mut StepContext) -> Tensor;

    /// One step; returns what the next layer sees, `[B, n]`.
    fn step(&self, cx: &mut StepContext, input: &Input) -> Tensor;
}

/// Makes the new potential and its spikes visible.
fn observe(cx: &mut StepContext, v: &Tensor, spike: &Tensor) {
    cx.observe("V", v);
    cx.observe("spike", spike);
}

/// Leaky integrate-and-fire, `tau dV/dt = -V + I`; spikes where `V >= V_th`, and is reset one step later;
/// with these potentials also the published IF neuron, which leaks in spite of its name:
/// `docs/spec/networks-dms-ei.md, "LIF and IF"`.
#[derive(Clone, Debug)]
pub struct Lif {
    /// Number of neurons.
    pub n: usize,
    /// Membrane time constant.
    pub tau: Tau,
    /// Threshold.
    pub v_th: f64,
    /// What a spike does.
    pub reset: Reset,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Step, ms.
    pub dt: f64,
}

impl Lif {
    /// Spikes of a membrane potential `[B, n]`.
    pub fn spike(&self, v: &Tensor) -> Tensor {
        self.surrogate.spike(&((v - self.v_th) * (1.0 / self.v_th)))
    }
}

impl Neuron for Lif {
    fn last_spike(&self, cx: &mut StepContext) -> Tensor {
        let v = cx.state("V", self.n, StateInit::Zeros);
        self.spike(&v)
    }

    fn step(&self, cx: &mut StepContext, input: &Input) -> Tensor {
        let v = cx.state("V", self.n, StateInit::Zeros);
        let v = self.reset.apply(&v, &self.spike(&v), self.v_th);
        let v = input.integrate(cx, &v, &self.tau, self.dt);
        cx.set("V", &v);
        let s = self.spike(&v);
        observe(cx, &v, &s);
        s
    }
}

/// LIF with an adaptive threshold: spikes where `V >= V_th + beta a`, and `a' = k(tau_a) (a + s)`:
/// `docs/spec/networks-dms-ei.md, "ALIF"`.
#[derive(Clone, Debug)]
pub struct Alif {
    /// The membrane.
    pub lif: Lif,
    /// Time constant of the adaptation, ms.
    pub tau_a: f64,
    /// Rise of the threshold per unit of adaptation.
    pub beta: f64,
}

impl Alif {
    fn states(&self, cx: &mut StepContext) -> (Tensor, Tensor) {
        (cx.state("V", self.lif.n, StateInit::Zeros), cx.state("a", self.lif.n, StateInit::Zeros))
    }

    fn spike(&self, v: &Tensor, a: &Tensor) -> Tensor {
        self.lif.spike(&(v - self.beta * a))
    }
}

impl Neuron for Alif {
    fn last_spike(&self, cx: &mut StepContext) -> Tensor {
        let (v, a) = self.states(cx);
        self.spike(&v, &a)
    }

    fn step(&self, cx: &mut StepContext, input: &Input) -> Tensor {
        let (v, a) = self.states(cx);
        let s = self.spike(&v, &a);
        let v = self.lif.reset.apply(&v, &s, self.lif.v_th);
        let v = input.integrate(cx, &v, &self.lif.tau, self.lif.dt);
        let a = (a + s) * (-self.lif.dt / self.tau_a).exp();
        cx.set("V", &v);
        cx.set("a", &a);
        let s = self.spike(&v, &a);
        observe(cx, &v, &s);
        s
    }
}

/// Generalised integrate-and-fire with one after-current, the neuron of delayed match-to-sample: a spike subtracts `V_th`
/// from V and `A2` from I2. The output is the potential standardised over the neurons, not the spike:
/// `docs/spec/networks-dms-ei.md, "GIF with one after-current"`.
#[derive(Clone, Debug)]
pub struct Gif2 {
    /// Number of neurons.
    pub n: usize,
    /// Membrane time constant.
    pub tau: Tau,
    /// Threshold.
    pub v_th: f64,
    /// Time constant of the after-current.
    pub tau_i2: Tau,
    /// After-current of a spike: positive values inhibit.
    pub a2: f64,
    /// Whether the derivative passes through the spike that resets.
    pub diff_spike: bool,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Step, ms.
    pub dt: f64,
}

impl Gif2 {
    fn spike(&self, v: &Tensor) -> Tensor {
        self.surrogate.spike(&((v - self.v_th) * (1.0 / self.v_th)))
    }
}

impl Neuron for Gif2 {
    fn last_spike(&self, cx: &mut StepContext) -> Tensor {
        let v = cx.state("V", self.n, StateInit::Zeros);
        self.spike(&v)
    }

    fn step(&self, cx: &mut StepContext, input: &Input) -> Tensor {
        let v = cx.state("V", self.n, StateInit::Zeros);
        let i2 = cx.state("I2", self.n, StateInit::Zeros);
        let s = detached_unless(self.diff_spike, self.spike(&v));
        let i2 = self.tau_i2.decay(cx, "tau_I2", self.n, self.dt) * (i2 - self.a2 * &s);
        let v = input.clone().current(&i2).integrate(cx, &(v - self.v_th * &s), &self.tau, self.dt);
        cx.set("V", &v);
        cx.set("I2", &i2);
        observe(cx, &v, &self.spike(&v));
        standardise(&(v - self.v_th))
    }
}

/// Generalised integrate-and-fire with two after-currents and an adaptive threshold, the neuron of the decision network.
/// A spike subtracts `Vth` from V and `A2` from I2, adds `A1` to I1 and `Ath` to Vth. The threshold relaxes to 1 by *plain*
/// Euler steps, as published. The output is `(V - Vth) / Vth` standardised over the neurons:
/// `docs/spec/networks-dms-ei.md, "GIF with two after-currents"`.
#[derive(Clone, Debug)]
pub struct Gif4 {
    /// Number of neurons.
    pub n: usize,
    /// Membrane time constant.
    pub tau: Tau,
    /// Slow after-current of a spike: positive values inhibit.
    pub a2: f64,
    /// Its time constant, ms.
    pub tau_i2: f64,
    /// Fast after-current of a spike: positive values excite.
    pub a1: f64,
    /// Its time constant, ms.
    pub tau_i1: f64,
    /// Rise of the threshold at a spike.
    pub a_th: f64,
    /// Time constant of the threshold, ms.
    pub tau_th: f64,
    /// Potentials at the start of a sequence.
    pub v_init: StateInit,
    /// Whether the derivative passes through the spike that resets.
    pub diff_spike: bool,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Step, ms.
    pub dt: f64,
}

/// Threshold of a [`Gif4`] at rest.
const REST_THRESHOLD: f64 = 1.0;

impl Gif4 {
    fn states(&self, cx: &mut StepContext) -> (Tensor, Tensor) {
        let v = cx.state("V", self.n, self.v_init.clone());
        (v, cx.state("Vth", self.n, StateInit::Constant(REST_THRESHOLD)))
    }

    /// Distance to the threshold in units of it; the threshold is a constant of the differentiation.
    fn distance(v: &Tensor, v_th: &Tensor) -> Tensor {
        let v_th = v_th.stop_gradient();
        (v - &v_th) / v_th
    }
}

impl Neuron for Gif4 {
    fn last_spike(&self, cx: &mut StepContext) -> Tensor {
        let (v, v_th) = self.states(cx);
        self.surrogate.spike(&Gif4::distance(&v, &v_th))
    }

    fn step(&self, cx: &mut StepContext, input: &Input) -> Tensor {
        let (v, v_th) = self.states(cx);
        let (i1, i2) = (cx.state("I1", self.n, StateInit::Zeros), cx.state("I2", self.n, StateInit::Zeros));
        let s = detached_unless(self.diff_spike, self.surrogate.spike(&Gif4::distance(&v, &v_th)));
        let i1 = (i1 + self.a1 * &s) * (-self.dt / self.tau_i1).exp();
        let i2 = (i2 - self.a2 * &s) * (-self.dt / self.tau_i2).exp();
        let v = &v - &v_th * &s;
        let v_th = v_th + self.a_th * &s;
        let v_th = &v_th - (&v_th - REST_THRESHOLD) * (self.dt / self.tau_th);
        let v = input.clone().current(&(&i1 + &i2)).integrate(cx, &v, &self.tau, self.dt);
        for (name, value) in [("V", &v), ("I2", &i2), ("Vth", &v_th), ("I1", &i1)] {
            cx.set(name, value);
        }
        let distance = Gif4::distance(&v, &v_th);
        observe(cx, &v, &self.surrogate.spike(&distance));
        standardise(&distance)
    }
}

fn detached_unless(differentiable: bool, spike: Tensor) -> Tensor {
    if differentiable { spike } else { spike.stop_gradient() }
}

/// Mean 0 and variance 1 over the last axis: `(x - m) / sqrt(mean((x - m)^2) + 1e-5)`. The reference computes the variance
/// as `mean(x^2) - m^2`; the form here loses no digits where the mean is large:
/// `docs/spec/networks-dms-ei.md, "Derivatives at kinks"`.
pub fn standardise(x: &Tensor) -> Tensor {
    let last = x.rank() - 1;
    let centred = x - x.mean(&[last]).unsqueeze_last();
    let spread = (centred.square().mean(&[last]) + 1e-5).sqrt();
    &centred / spread.unsqueeze_last()
}
