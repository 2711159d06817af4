//! Short-term plasticity: how much a spike releases: `docs/spec/networks-dms-ei.md, "Short-term plasticity"`.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use crate::cell::{StateInit, StepContext};

/// Short-term depression: every spike uses up a share of the resources `x`, which recover to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Depression {
    /// Time constant of recovery, ms.
    pub tau: f64,
    /// Share of the resources that a spike uses up.
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
pub struct Facilitation {
    /// Share at rest, and rise per spike.
    pub share: f64,
    /// Time constant of the share, ms.
    pub tau_f: f64,
    /// Time constant of the recovery of resources, ms.
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
