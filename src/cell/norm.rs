//! Normalisation of the drive of a layer, trained with a factor and an offset per neuron.
//!
//! Under an online rule the statistics must be constants of the step: a trace follows a weight position by position, and a
//! mean over positions or sequences couples them. So
//!
//! * **batch norm** uses running statistics, in every method: an affine map per neuron, whose traces are exact. They move once
//!   per update, towards the mean over batch and steps ([`Tracked`](crate::cell::Tracked)). Training and evaluation then see the same
//!   network. [`Statistics::Batch`] is the textbook form for BPTT, with the batch's statistics of every step and the derivative
//!   through them.
//! * **layer norm** uses mean and variance of the step; the derivative passes through them in BPTT, not in an online rule.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{Init, StepContext, model::Mode};

/// Which statistics batch norm trains with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistics {
    /// Running ones, constant within an update.
    #[default]
    Running,
    /// Those of the batch at every step (BPTT only; an online rule takes the running ones).
    Batch,
}

/// How the drive of a layer is normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Norm {
    /// Not at all.
    #[default]
    None,
    /// Over the sequences of a batch.
    Batch {
        /// What of the running statistics is kept at each update.
        momentum: f64,
        /// Which statistics training uses.
        statistics: Statistics,
    },
    /// Over the neurons of a layer.
    Layer,
}

/// Added to the variance of batch norm.
const BATCH_EPSILON: f64 = 1e-5;

/// Added to the variance of layer norm.
const LAYER_EPSILON: f64 = 1e-6;

impl Norm {
    /// `y`, `[B, n]`, normalised. Parameters `norm.scale` and `norm.bias`, `[n]`; batch norm has constants `norm.mean` and
    /// `norm.square` (mean of the square), `[n]`.
    pub fn apply(&self, cx: &mut StepContext, y: &Tensor, mode: Mode) -> Tensor {
        let n = y.dims()[1];
        cx.scope("norm", |cx| {
            let normal = match *self {
                Norm::None => return y.clone(),
                Norm::Batch { momentum, statistics } => {
                    let mean = cx.constant("mean", &[n], Init::Zeros);
                    let square = cx.constant("square", &[n], Init::Constant(1.0));
                    let (now, now_square) = (y.mean(&[0]), y.square().mean(&[0]));
                    if mode.trains() {
                        cx.track("mean", &now, momentum);
                        cx.track("square", &now_square, momentum);
                    }
                    let of_batch = statistics == Statistics::Batch && mode == Mode::Offline;
                    if of_batch {
                        cx.couple_sequences("batch norm takes the statistics of the batch (--bn_stats batch)");
                    }
                    let (mean, square) = if of_batch { (now, now_square) } else { (mean, square) };
                    let variance = (square - mean.square()).relu();
                    let (mean, scale) = (mean.broadcast_to(y.dims()), (variance + BATCH_EPSILON).sqrt().recip());
                    (y - mean) * scale.broadcast_to(y.dims())
                }
                Norm::Layer => {
                    let over = |t: &Tensor| {
                        let mean = t.mean(&[1]);
                        let mean = if mode == Mode::Online { mean.stop_gradient() } else { mean };
                        mean.broadcast(y.dims(), &[0])
                    };
                    let mean = over(y);
                    let variance = (over(&y.square()) - mean.square()).relu();
                    (y - mean) * (variance + LAYER_EPSILON).sqrt().recip()
                }
            };
            let scale = cx.param("scale", &[n], Init::Constant(1.0));
            let scale = cx.elementwise("scale", &scale);
            let bias = cx.param("bias", &[n], Init::Zeros);
            normal * scale + cx.elementwise("bias", &bias)
        })
    }
}
