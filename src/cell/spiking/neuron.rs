//! Neurons: what reaches a membrane, how it integrates, when it spikes; and the table of them.
//!
//! A neuron is one file with a type whose fields are its settings and an `impl Neuron`, and one row of [`NeuronConfig`].
//!
//! All membranes have resting potential 0, reset potential 0 (for the GIFs: a reset by the threshold) and resistance 1,
//! which shifting and scaling V brings about for any leaky membrane.

use std::fmt;

use hlo::Tensor;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Alif, Gif2, Gif4, Lif};
use crate::{
    cell::{Init, Quantity, StepContext},
    settings::{SettingError, range},
    table,
};

table! {
    /// The neurons of a layer.
    pub enum NeuronConfig: dyn Neuron, tag "name", a "neuron" {
        /// Leaky integrate-and-fire.
        Lif(Lif) = "lif" | "if";
        /// LIF with an adaptive threshold.
        Alif(Alif) = "alif";
        /// GIF with one after-current; the output is the standardised potential (delayed match-to-sample).
        Gif2(Gif2) = "gif2" | "gif";
        /// GIF with two after-currents and an adaptive threshold; standardised output (evidence accumulation).
        Gif4(Gif4) = "gif4";
    }
}

/// Which neurons, and in what steps they go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Population {
    /// Number of neurons.
    pub n: usize,
    /// Step, ms.
    pub dt: f64,
}

/// A population of neurons.
pub trait Neuron {
    /// The spikes of the stored state, `[B, n]`: what the layer's own recurrence reads in this step.
    fn last_spike(&self, cx: &mut StepContext, at: Population) -> Tensor;

    /// One step; returns what the next layer sees, `[B, n]`.
    fn step(&self, cx: &mut StepContext, at: Population, input: &Input) -> Tensor;

    /// Checks what no single setting shows: that lists have an entry for each neuron of the population, for example.
    ///
    /// # Errors
    /// When settings contradict the population or each other.
    fn check(&self, at: Population) -> Result<(), SettingError> {
        let _ = at;
        Ok(())
    }
}

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
    pub fn apply(self, v: &Tensor, s: &Tensor, v_th: f64) -> Tensor {
        match self {
            Reset::Soft => v - v_th * s,
            Reset::Hard => v - v.stop_gradient() * s,
        }
    }
}

/// A time constant in ms: one for all neurons, or one for each. In a configuration a number is one for all.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// What is written for a [`Tau`] that is no number.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TauTable {
    Scalar(f64),
    PerNeuron(Vec<f32>),
    Normal(f64, f64),
    Uniform(f64, f64),
}

impl<'de> Deserialize<'de> for Tau {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Tau, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = Tau;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a table with one of scalar, per-neuron, normal, uniform")
            }

            fn visit_f64<E: de::Error>(self, tau: f64) -> Result<Tau, E> {
                Ok(Tau::Scalar(tau))
            }

            fn visit_i64<E: de::Error>(self, tau: i64) -> Result<Tau, E> {
                Ok(Tau::Scalar(tau as f64))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Tau, A::Error> {
                Ok(match TauTable::deserialize(de::value::MapAccessDeserializer::new(map))? {
                    TauTable::Scalar(tau) => Tau::Scalar(tau),
                    TauTable::PerNeuron(list) => Tau::PerNeuron(list),
                    TauTable::Normal(mean, std) => Tau::Normal(mean, std),
                    TauTable::Uniform(lo, hi) => Tau::Uniform(lo, hi),
                })
            }
        }
        let tau = from.deserialize_any(Either)?;
        tau.check().map_err(de::Error::custom)?;
        Ok(tau)
    }
}

impl Tau {
    /// Standard deviations that the mean of drawn time constants is above 0, at least. Of a thousand neurons less than one in a
    /// thousand networks then has one below 0, whose potential would grow.
    const SPREAD: f64 = 5.0;

    /// Checks that time constants are above 0, and that those to be drawn will be.
    ///
    /// # Errors
    /// The rule and the number, after the name of the setting.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Tau::Scalar(tau) => range::POSITIVE.check(*tau).map(|_| ()),
            Tau::PerNeuron(list) => list.iter().try_for_each(|tau| range::POSITIVE.check(f64::from(*tau)).map(|_| ())),
            Tau::Normal(mean, std) => {
                range::POSITIVE.check(*mean).and(range::NON_NEGATIVE.check(*std))?;
                if *mean >= Self::SPREAD * std {
                    Ok(())
                } else {
                    let least = Self::SPREAD;
                    Err(format!(
                        "must have a mean of at least {least} standard deviations, so that none is drawn below 0, got {mean} and {std}"
                    ))
                }
            }
            Tau::Uniform(lo, hi) => {
                range::POSITIVE.check(*lo).and(range::POSITIVE.check(*hi))?;
                if lo <= hi {
                    Ok(())
                } else {
                    Err(format!("must be uniform from a smaller to a larger number, got {lo} and {hi}"))
                }
            }
        }
    }

    /// The mean over neurons, ms.
    pub fn mean(&self) -> f64 {
        match self {
            Tau::Scalar(tau) | Tau::Normal(tau, _) => *tau,
            Tau::PerNeuron(list) => list.iter().map(|tau| f64::from(*tau)).sum::<f64>() / list.len().max(1) as f64,
            Tau::Uniform(lo, hi) => (lo + hi) / 2.0,
        }
    }

    /// Checks that there is one for each of `n` neurons.
    ///
    /// # Errors
    /// When the list is shorter or longer.
    pub fn check_size(&self, n: usize) -> Result<(), SettingError> {
        match self {
            Tau::PerNeuron(list) if list.len() != n => {
                Err(SettingError::new(format!("must have one entry for each of {n} neurons, got {}", list.len())))
            }
            _ => Ok(()),
        }
    }

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

    /// All that flows into a membrane at potential `v`, `[B, n]`, as one current: for neurons whose equation is not that of
    /// [`Input::integrate`].
    pub fn total(&self, v: &Tensor) -> Tensor {
        let pull = self.conductances.iter().map(|(g, reversal)| Some(g * (*reversal - v)));
        let all = [self.current.clone(), self.delta.clone()].into_iter().chain(pull);
        Tensor::sum_of(all).unwrap_or_else(|| v.zeros_like())
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

/// Shows the new potential and its spikes.
pub(super) fn observe(cx: &mut StepContext, v: &Tensor, spike: &Tensor) {
    cx.observe(Quantity::Potential, v);
    cx.observe(Quantity::Spike, spike);
}
