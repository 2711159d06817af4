//! LIF with an adaptive threshold.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{
    Lif,
    neuron::{Input, Neuron, Population, Reset, Tau, observe},
};
use crate::{
    cell::{StateInit, StepContext, Surrogate},
    settings::{SettingError, range},
};

/// LIF with an adaptive threshold: spikes where `V >= V_th + beta a`, and `a' = k(tau_a) (a + s)`. `docs/spec/networks-dms-ei.md, "ALIF"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alif {
    /// Membrane time constant.
    pub tau: Tau,
    /// Threshold at rest.
    #[serde(deserialize_with = "range::positive")]
    pub v_th: f64,
    /// What a spike does.
    pub reset: Reset,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// Time constant of the adaptation, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau_a: f64,
    /// Rise of the threshold per unit of adaptation.
    #[serde(deserialize_with = "range::finite")]
    pub beta: f64,
}

impl Default for Alif {
    fn default() -> Self {
        Alif::of(Lif::default(), 100.0, 0.1)
    }
}

impl Alif {
    /// A LIF neuron with an adaptation of time constant `tau_a` ms that raises the threshold by `beta` per unit.
    pub fn of(lif: Lif, tau_a: f64, beta: f64) -> Alif {
        let Lif { tau, v_th, reset, surrogate } = lif;
        Alif { tau, v_th, reset, surrogate, tau_a, beta }
    }

    fn states(&self, cx: &mut StepContext, n: usize) -> (Tensor, Tensor) {
        (cx.state("V", n, StateInit::Zeros), cx.state("a", n, StateInit::Zeros))
    }

    fn spike(&self, v: &Tensor, a: &Tensor) -> Tensor {
        self.surrogate.spike(&((v - self.beta * a - self.v_th) * (1.0 / self.v_th)))
    }
}

impl Neuron for Alif {
    fn last_spike(&self, cx: &mut StepContext, at: Population) -> Tensor {
        let (v, a) = self.states(cx, at.n);
        self.spike(&v, &a)
    }

    fn step(&self, cx: &mut StepContext, at: Population, input: &Input) -> Tensor {
        let (v, a) = self.states(cx, at.n);
        let s = self.spike(&v, &a);
        let v = self.reset.apply(&v, &s, self.v_th);
        let v = input.integrate(cx, &v, &self.tau, at.dt);
        let a = (a + s) * (-at.dt / self.tau_a).exp();
        cx.set("V", &v);
        cx.set("a", &a);
        let s = self.spike(&v, &a);
        observe(cx, &v, &s);
        s
    }

    fn check(&self, at: Population) -> Result<(), SettingError> {
        self.tau.check_size(at.n).map_err(|e| e.within("tau"))
    }
}
