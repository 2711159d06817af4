//! Synapses: from what a layer receives to what reaches its membranes; and the table of them. `docs/spec/networks-dms-ei.md, "Synapses"`.
//!
//! A synapse is a type whose fields are its settings, an `impl Synapse`, and one row of [`SynapseConfig`].

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{Depressing, ExpCo, Facilitating, Input, Population};
use crate::{
    cell::{Dense, Init, StateInit, StepContext},
    settings::{SettingError, range},
    table,
};

table! {
    /// What joins a layer to its inputs and to itself.
    pub enum SynapseConfig: dyn Synapse, tag "name", a "synapse" {
        /// Input is added to the potential.
        Delta(Delta) = "delta";
        /// Exponential currents.
        ExpCu(ExpCu) = "exp-cu" | "expcu" | "exp-current";
        /// Exponential currents whose spikes use up resources (short-term depression).
        StdExpCu(Depressing) = "std-exp-cu" | "std-expcu";
        /// Exponential currents with depression and facilitation (short-term plasticity).
        StpExpCu(Facilitating) = "stp-exp-cu" | "stp-expcu";
        /// Exponential conductances, 80 % of the neurons excitatory.
        ExpCo(ExpCo) = "exp-co" | "expco" | "exp-conductance";
    }
}

/// The layer that synapses belong to.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Its name, in front of all that belongs to it: `l0`.
    pub name: &'a str,
    /// Whether it is the first, whose input is that of the network and not spikes of another layer.
    pub first: bool,
    /// Its neurons.
    pub at: Population,
    /// Initial weights of the input and of the recurrence.
    pub init: &'a [Init; 2],
}

/// Synapses between layers and inside one.
pub trait Synapse {
    /// What the input `x`, `[B, m]`, and the layer's own spikes of the step before, `s`, `[B, n]`, bring to its membranes. The
    /// scope is that of the network; [`Site::name`] is the layer's.
    fn drive(&self, cx: &mut StepContext, site: Site<'_>, x: &Tensor, s: &Tensor) -> Input;

    /// Checks what the synapses need of a population.
    ///
    /// # Errors
    /// When the population lacks it.
    fn check(&self, at: Population) -> Result<(), SettingError> {
        let _ = at;
        Ok(())
    }
}

impl Site<'_> {
    /// `y = [x; s] W + b` with parameters `NAME.weight`, `NAME.bias`: `[B, n]`.
    pub fn dense(&self, cx: &mut StepContext, x: &Tensor, s: &Tensor) -> Tensor {
        cx.dense(self.name, &[x, s], self.at.n, &Dense::new(self.init))
    }

    /// An exponential current of time constant `tau` ms driven by `y`, state `NAME.g`.
    pub fn current(&self, cx: &mut StepContext, tau: f64, y: &Tensor) -> Input {
        let g = cx.scope(self.name, |cx| exponential(cx, "g", tau, self.at.dt, y));
        Input::default().current(&g)
    }
}

/// Delta synapses: `V' = V + y` after the leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delta {}

impl Synapse for Delta {
    fn drive(&self, cx: &mut StepContext, site: Site<'_>, x: &Tensor, s: &Tensor) -> Input {
        Input::default().delta(&site.dense(cx, x, s))
    }
}

/// Exponential current synapses: `g' = k(tau) g + y`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpCu {
    /// Time constant, ms.
    #[serde(deserialize_with = "range::positive")]
    pub tau: f64,
}

impl Default for ExpCu {
    fn default() -> Self {
        ExpCu { tau: 10.0 }
    }
}

impl Synapse for ExpCu {
    fn drive(&self, cx: &mut StepContext, site: Site<'_>, x: &Tensor, s: &Tensor) -> Input {
        let y = site.dense(cx, x, s);
        site.current(cx, self.tau, &y)
    }
}

/// Exponential synapse: `g' = k(tau) g + y` with state `name`; the neuron of the same step uses the new `g`. All `[B, n]`.
pub fn exponential(cx: &mut StepContext, name: &str, tau: f64, dt: f64, y: &Tensor) -> Tensor {
    let g = cx.state(name, y.dims()[1], StateInit::Zeros);
    let g = g * (-dt / tau).exp() + y;
    cx.set(name, &g);
    g
}

/// A dense map under a constraint on its sign or its connections. `docs/spec/networks-dms-ei.md, "Maps"`.
#[derive(Clone, Debug)]
pub enum Connection {
    /// `y = x |W|`: no weight changes sign.
    Signed,
    /// `y = |x (W o M) + b|`: the summed drive is rectified; a fixed share `density` of the connections exists
    /// (parameter `NAME.mask`).
    Rectified {
        /// Probability of a connection; 1 for no mask.
        density: f64,
    },
}

impl Connection {
    /// The map of the concatenated `inputs`, each with its own initial weights: `[B, n]`.
    pub fn apply(&self, cx: &mut StepContext, name: &str, inputs: &[&Tensor], n: usize, init: &[Init]) -> Tensor {
        match *self {
            Connection::Signed => cx.dense(name, inputs, n, &Dense::new(init).without_bias().through(&|w| w.abs())),
            Connection::Rectified { density } if density >= 1.0 => cx.dense(name, inputs, n, &Dense::new(init)).abs(),
            Connection::Rectified { density } => {
                let rows = inputs.iter().map(|x| x.dims()[1]).sum();
                let mask = cx.constant(&format!("{name}.mask"), &[rows, n], Init::Bernoulli(density));
                cx.dense(name, inputs, n, &Dense::new(init).through(&|w| w * &mask)).abs()
            }
        }
    }
}
