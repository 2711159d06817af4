//! Leaky integrate-and-fire.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::neuron::{Input, Neuron, Population, Reset, Tau, observe};
use crate::{
    cell::{StateInit, StepContext, Surrogate},
    settings::{SettingError, range},
};

/// Leaky integrate-and-fire, `tau dV/dt = -V + I`; spikes where `V >= V_th`, and is reset one step later; with
/// these potentials also the published IF neuron, which leaks in spite of its name. `docs/spec/networks-dms-ei.md, "LIF and IF"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lif {
    /// Membrane time constant.
    pub tau: Tau,
    /// Threshold.
    #[serde(deserialize_with = "range::positive")]
    pub v_th: f64,
    /// What a spike does.
    pub reset: Reset,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
}

impl Default for Lif {
    fn default() -> Self {
        Lif { tau: Tau::Scalar(5.0), v_th: 1.0, reset: Reset::Soft, surrogate: Surrogate::default() }
    }
}

impl Lif {
    /// Spikes of a membrane potential `[B, n]`.
    pub fn spike(&self, v: &Tensor) -> Tensor {
        self.surrogate.spike(&((v - self.v_th) * (1.0 / self.v_th)))
    }
}

impl Neuron for Lif {
    fn last_spike(&self, cx: &mut StepContext, at: Population) -> Tensor {
        let v = cx.state("V", at.n, StateInit::Zeros);
        self.spike(&v)
    }

    fn step(&self, cx: &mut StepContext, at: Population, input: &Input) -> Tensor {
        let v = cx.state("V", at.n, StateInit::Zeros);
        let v = self.reset.apply(&v, &self.spike(&v), self.v_th);
        let v = input.integrate(cx, &v, &self.tau, at.dt);
        cx.set("V", &v);
        let s = self.spike(&v);
        observe(cx, &v, &s);
        s
    }

    fn check(&self, at: Population) -> Result<(), SettingError> {
        self.tau.check_size(at.n).map_err(|e| e.within("tau"))
    }
}
