//! Synapses: from the output of a traced op to what reaches a membrane: `docs/spec/networks-dms-ei.md, "Synapses"`.

use hlo::Tensor;

use crate::cell::{Dense, Init, StateInit, StepContext};

/// Exponential synapse: `g' = k(tau) g + y` with state `name`; the neuron of the same step uses the new `g`. All `[B, n]`.
pub fn exponential(cx: &mut StepContext, name: &str, tau: f64, dt: f64, y: &Tensor) -> Tensor {
    let g = cx.state(name, y.dims()[1], StateInit::Zeros);
    let g = g * (-dt / tau).exp() + y;
    cx.set(name, &g);
    g
}

/// A dense map under a constraint on its sign or its connections: `docs/spec/networks-dms-ei.md, "Maps"`.
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
