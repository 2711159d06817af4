//! Short-term plasticity: how much a spike releases, and current synapses that have it.
//! `docs/spec/networks-dms-ei.md, "Short-term plasticity"`.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{
    Input,
    synapse::{Site, Synapse},
};
use crate::{
    cell::{StateInit, StepContext},
    settings::range,
};

/// Short-term depression: every spike uses up a share of the resources `x`, which recover to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Depression {
    /// Time constant of recovery, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau: f64,
    /// Share of the resources that a spike uses up.
    #[serde(deserialize_with = "range::fraction")]
    pub share: f64,
}

impl Default for Depression {
    fn default() -> Self {
        Depression { tau: 500.0, share: 0.1 }
    }
}

impl Depression {
    /// What the spikes `s`, `[B, n]`, release: `s x_r` with `x_r = 1 + (x - 1) k(tau)`; then `x' = x_r - s U x`.
    pub fn step(&self, cx: &mut StepContext, s: &Tensor, dt: f64) -> Tensor {
        let old = cx.state("x", s.dims()[1], StateInit::Constant(1.0));
        let recovered = recover(&old, self.tau, dt);
        cx.set("x", &(&recovered - self.share * s * &old));
        s * recovered
    }
}

/// Short-term depression with facilitation: a spike also raises the share `u` that it and its successors release.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Facilitation {
    /// Share at rest, and rise per spike.
    #[serde(deserialize_with = "range::fraction")]
    pub share: f64,
    /// Time constant of the share, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau_f: f64,
    /// Time constant of the recovery of resources, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau_d: f64,
}

impl Default for Facilitation {
    fn default() -> Self {
        Facilitation { share: 0.15, tau_f: 500.0, tau_d: 100.0 }
    }
}

impl Facilitation {
    /// What the spikes `s`, `[B, n]`, release: `s u' x_r` with `u' = k(tau_f) u + s U (1 - u)` and
    /// `x_r = 1 + (x - 1) k(tau_d)`; then `x' = x_r - s u' x`.
    pub fn step(&self, cx: &mut StepContext, s: &Tensor, dt: f64) -> Tensor {
        let n = s.dims()[1];
        let (u, x) = (cx.state("u", n, StateInit::Constant(self.share)), cx.state("x", n, StateInit::Constant(1.0)));
        let recovered = recover(&x, self.tau_d, dt);
        let u = &u * (-dt / self.tau_f).exp() + self.share * s * (1.0 - &u);
        cx.set("u", &u);
        cx.set("x", &(&recovered - s * &u * x));
        s * u * recovered
    }
}

/// Resources after one step without spikes.
fn recover(x: &Tensor, tau: f64, dt: f64) -> Tensor {
    (x - 1.0) * (-dt / tau).exp() + 1.0
}

/// A released amount carries the spike already; like the published layers this multiplies it by the spike once more, which only the
/// surrogate derivative sees.
fn release(s: &Tensor, released: Tensor) -> Tensor {
    s * released
}

/// [`ExpCu`](super::ExpCu) whose spikes depress.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Depressing {
    /// Time constant of the current, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau: f64,
    /// The depression.
    pub depression: Depression,
    /// Whether the inputs of the first layer depress too.
    pub plastic_input: bool,
}

impl Default for Depressing {
    fn default() -> Self {
        Depressing { tau: 10.0, depression: Depression::default(), plastic_input: false }
    }
}

/// [`ExpCu`](super::ExpCu) whose spikes depress and facilitate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Facilitating {
    /// Time constant of the current, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau: f64,
    /// The depression and facilitation.
    pub facilitation: Facilitation,
    /// Whether the inputs of the first layer facilitate too.
    pub plastic_input: bool,
}

impl Default for Facilitating {
    fn default() -> Self {
        Facilitating { tau: 10.0, facilitation: Facilitation::default(), plastic_input: false }
    }
}

/// The drive of current synapses whose spikes release `of(spikes)`; the inputs of the first layer too, if they are plastic.
fn plastic(
    cx: &mut StepContext,
    site: Site<'_>,
    (x, s): (&Tensor, &Tensor),
    tau: f64,
    plastic_input: bool,
    of: impl Fn(&mut StepContext, &Tensor) -> Tensor,
) -> Input {
    let z = cx.scope(site.name, |cx| release(s, of(cx, s)));
    let x = if site.first && plastic_input {
        cx.scope(&format!("{}.in", site.name), |cx| release(x, of(cx, x)))
    } else {
        x.clone()
    };
    let y = site.dense(cx, &x, &z);
    site.current(cx, tau, &y)
}

impl Synapse for Depressing {
    fn drive(&self, cx: &mut StepContext, site: Site<'_>, x: &Tensor, s: &Tensor) -> Input {
        plastic(cx, site, (x, s), self.tau, self.plastic_input, |cx, s| self.depression.step(cx, s, site.at.dt))
    }
}

impl Synapse for Facilitating {
    fn drive(&self, cx: &mut StepContext, site: Site<'_>, x: &Tensor, s: &Tensor) -> Input {
        plastic(cx, site, (x, s), self.tau, self.plastic_input, |cx, s| self.facilitation.step(cx, s, site.at.dt))
    }
}
