//! Spiking neurons and synapses, as functions of one step.
//!
//! The order inside a step is that of section 1.4 of the specification of the networks: the spike that resets is the one
//! of the *stored* state; reset first, then integrate, then add delta inputs. `k(tau) = exp(-dt / tau)`.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{Init, StateInit, StepContext, Surrogate};

/// What a spike does to the membrane potential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// Subtracts threshold minus reset potential.
    #[default]
    Soft,
    /// Sets the potential to the reset potential; the derivative passes through the spike only.
    Hard,
}

/// A time constant: one for all neurons, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Tau {
    /// The same for all, in ms.
    Scalar(f64),
    /// One for each neuron, in ms.
    PerNeuron(Vec<f32>),
    /// Drawn once per neuron from a Gaussian (mean, standard deviation), in ms.
    Normal(f64, f64),
}

impl Tau {
    /// The decay factor over one step, `exp(-dt / tau)`: a scalar or `[n]`, kept as the fixed array `tau`.
    pub fn decay(&self, cx: &mut StepContext, n: usize, dt: f64) -> Tensor {
        match self {
            Tau::Scalar(tau) => cx.scalar((-dt / tau).exp()),
            Tau::PerNeuron(values) => {
                let tau = cx.constant("tau", &[n], Init::Values(values.clone()));
                (-dt / tau).exp()
            }
            Tau::Normal(mean, std) => {
                let tau = cx.constant("tau", &[n], Init::Normal(*mean, *std));
                (-dt / tau).exp()
            }
        }
    }
}

/// Leaky integrate-and-fire neuron, `tau dV/dt = -(V - V_rest) + R I`, with `V_rest = V_reset = 0` and `R = 1`.
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

    /// The spikes of the stored state: what the layer's own recurrence reads in this step.
    pub fn last_spike(&self, cx: &mut StepContext) -> Tensor {
        let v = cx.state("V", self.n, StateInit::Zeros);
        self.spike(&v)
    }

    /// One step under a current and an input added after the leak (both `[B, n]`, either may be absent). Returns the spikes.
    pub fn step(&self, cx: &mut StepContext, current: Option<&Tensor>, delta: Option<&Tensor>) -> Tensor {
        let old = cx.state("V", self.n, StateInit::Zeros);
        let s = self.spike(&old);
        let reset = match self.reset {
            Reset::Soft => &old - self.v_th * &s,
            Reset::Hard => &old - old.stop_gradient() * &s,
        };
        let k = self.tau.decay(cx, self.n, self.dt);
        let mut v = &k * reset;
        if let Some(current) = current {
            v = v + (1.0 - &k) * current;
        }
        if let Some(delta) = delta {
            v = v + delta;
        }
        cx.set("V", &v);
        cx.observe("V", &v);
        let spikes = self.spike(&v);
        cx.observe("spike", &spikes);
        spikes
    }
}

/// Exponential synapse: `g' = k(tau) g + y`; the neuron of the same step uses the new `g`. All `[B, n]`.
pub fn exponential_synapse(cx: &mut StepContext, name: &str, tau: f64, dt: f64, y: &Tensor) -> Tensor {
    let g = cx.state(name, y.dims()[1], StateInit::Zeros);
    let g = g * (-dt / tau).exp() + y;
    cx.set(name, &g);
    g
}
