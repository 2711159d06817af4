//! Normalisation of the drive of a layer, trained with a factor and an offset per neuron.
//!
//! A trace follows a weight position by position, and statistics of a step couple positions: a mean over neurons or sequences moves
//! with every weight. Three ways out are offered, and every rule takes each that is exact for it:
//!
//! * **Running statistics** ([`Statistics::Running`]) are constants within an update: an affine map per neuron, whose traces are
//!   exact. They move once per update, towards the mean over batch and steps ([`Tracked`](crate::cell::Tracked)). Training and
//!   evaluation then see the same network.
//! * **Statistics of the step as constants** ([`Derivative::Constants`]): the value is that of the step, its derivative is left out.
//! * **The derivative through them** ([`Derivative::Through`]): under an online rule, product and normalisation are one traced op, so
//!   that the rule takes its gradient by the op's own pullback. There is no trace of it that goes forwards (no stream), and it is not
//!   linear in its input, as the smoothed inputs of ES-D-RTRL need.

use hlo::Tensor;
use serde::{Deserialize, Serialize};

use super::{Dense, Init, StepContext, model::Mode};
use crate::settings::range;

/// Which statistics batch norm trains with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistics {
    /// Running ones, constant within an update.
    #[default]
    Running,
    /// Those of the batch at every step.
    Batch,
}

/// What becomes of the derivative through the statistics of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Derivative {
    /// It is taken under BPTT, and left out under an online rule.
    #[default]
    ByRule,
    /// It is left out: statistics are constants of the step.
    Constants,
    /// It is taken.
    Through,
}

impl Derivative {
    fn is_standard(&self) -> bool {
        *self == Derivative::default()
    }

    fn is_taken(self, mode: Mode) -> bool {
        match self {
            Derivative::ByRule => mode == Mode::Offline,
            Derivative::Constants => false,
            Derivative::Through => mode.trains(),
        }
    }
}

/// How the drive of a layer is normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Norm {
    // What is standard is left out of configurations, so that older ones are written as they were read.
    /// Not at all.
    #[default]
    None,
    /// Over the sequences of a batch.
    Batch {
        /// What of the running statistics is kept at each update.
        #[serde(deserialize_with = "range::fraction")]
        momentum: f64,
        /// Which statistics training uses.
        statistics: Statistics,
        /// Whether training takes the derivative through those of the batch.
        #[serde(default, skip_serializing_if = "Derivative::is_standard")]
        derivative: Derivative,
        /// Added to the variance.
        #[serde(default = "batch_epsilon", skip_serializing_if = "is_batch_epsilon")]
        #[serde(deserialize_with = "range::positive")]
        epsilon: f64,
        /// The factor of every neuron to begin with. A drive of variance 1 barely reaches a threshold of 1.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        #[serde(deserialize_with = "range::positive")]
        scale: f64,
    },
    /// Over the neurons of a layer.
    Layer {
        /// Whether training takes the derivative through mean and variance.
        #[serde(default, skip_serializing_if = "Derivative::is_standard")]
        derivative: Derivative,
        /// Added to the variance.
        #[serde(default = "layer_epsilon", skip_serializing_if = "is_layer_epsilon")]
        #[serde(deserialize_with = "range::positive")]
        epsilon: f64,
        /// The factor of every neuron to begin with. A drive of variance 1 barely reaches a threshold of 1.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        #[serde(deserialize_with = "range::positive")]
        scale: f64,
    },
}

/// What the published programs add to the variance of batch norm.
pub const BATCH_EPSILON: f64 = 1e-5;

/// What they add to that of layer norm.
pub const LAYER_EPSILON: f64 = 1e-6;

fn one() -> f64 {
    1.0
}

fn is_one(scale: &f64) -> bool {
    *scale == one()
}

fn batch_epsilon() -> f64 {
    BATCH_EPSILON
}

fn is_batch_epsilon(epsilon: &f64) -> bool {
    *epsilon == BATCH_EPSILON
}

fn layer_epsilon() -> f64 {
    LAYER_EPSILON
}

fn is_layer_epsilon(epsilon: &f64) -> bool {
    *epsilon == LAYER_EPSILON
}

/// Statistics of a step.
#[derive(Clone, Copy)]
struct OfStep {
    /// The axis of `[B, n]` over which they go.
    axis: usize,
    epsilon: f64,
    /// Whether the derivative passes through them.
    through: bool,
}

impl OfStep {
    fn standardize(self, y: &Tensor) -> Tensor {
        let over = |t: Tensor| {
            let mean = t.mean(&[self.axis]);
            if self.through { mean } else { mean.stop_gradient() }
        };
        standardize(y, &over(y.clone()), &over(y.square()), 1 - self.axis, self.epsilon)
    }
}

/// `(y - mean) / sqrt(variance + epsilon)`, with statistics along the other axis than `axis`.
fn standardize(y: &Tensor, mean: &Tensor, square: &Tensor, axis: usize, epsilon: f64) -> Tensor {
    let variance = (square - mean.square()).relu();
    let everywhere = |t: &Tensor| t.broadcast(y.dims(), &[axis]);
    (y - everywhere(mean)) * everywhere(&(variance + epsilon).sqrt().recip())
}

/// Input and weight whose product is that of [`StepContext::dense`]: with a bias, ones are a further input and it is their row.
fn one_matrix(cx: &mut StepContext, name: &str, x: &Tensor, n: usize, how: &Dense<'_>) -> (Tensor, Tensor) {
    let rows = x.dims()[1];
    let weight = cx.param(&format!("{name}.weight"), &[rows, n], how.init[0].clone());
    let weight = how.transform.map_or_else(|| weight.clone(), |f| f(&weight));
    if !how.bias {
        return (x.clone(), weight);
    }
    let bias = cx.param(&format!("{name}.bias"), &[n], Init::Zeros);
    let ones = x.slice_axis(1, 0, 1).full_like(1.0);
    (Tensor::concat(&[x, &ones], 1), Tensor::concat(&[&weight, &bias.reshape(&[1, n])], 0))
}

impl Norm {
    /// Batch norm with running statistics, as published.
    pub fn batch(momentum: f64) -> Norm {
        let (statistics, derivative) = (Statistics::Running, Derivative::ByRule);
        Norm::Batch { momentum, statistics, derivative, epsilon: BATCH_EPSILON, scale: 1.0 }
    }

    /// Layer norm as published.
    pub fn layer() -> Norm {
        Norm::Layer { derivative: Derivative::ByRule, epsilon: LAYER_EPSILON, scale: 1.0 }
    }

    /// `norm(x W + b)`, `[B, n]`, of `x`, `[B, I]`. Parameters are those of [`StepContext::dense`], `norm.scale` and `norm.bias`, `[n]`; batch
    /// norm has constants `norm.mean` and `norm.square` (mean of the square), `[n]`.
    pub fn of_product(
        &self,
        cx: &mut StepContext,
        name: &str,
        x: &Tensor,
        n: usize,
        how: &Dense<'_>,
        mode: Mode,
    ) -> Tensor {
        // What is no product of one input and one weight is refused by `dense`.
        let fits = x.rank() == 2 && how.init.len() == 1;
        let Some(step) = self.of_step(mode).filter(|step| step.through && mode == Mode::Online && fits) else {
            let y = cx.dense(name, &[x], n, how);
            return self.apply(cx, &y, mode);
        };
        let (x, weight) = one_matrix(cx, name, x, n, how);
        let mut product = None;
        let normal = cx.traced(name, &x, &weight, |x, weight| step.standardize(product.insert(x.dot(weight))));
        let y = product.expect("a traced function is called at once");
        self.trained(cx, &y, Some(normal), mode)
    }

    /// `y`, `[B, n]`, normalised, with the parameters `norm..` of [`of_product`](Norm::of_product). Statistics of a step through which the
    /// derivative passes couple positions here, which an online rule refuses.
    pub fn apply(&self, cx: &mut StepContext, y: &Tensor, mode: Mode) -> Tensor {
        self.trained(cx, y, None, mode)
    }

    /// Those that are taken: of the step, or else the running ones.
    fn of_step(&self, mode: Mode) -> Option<OfStep> {
        let (axis, derivative, epsilon) = match *self {
            Norm::Batch { statistics: Statistics::Batch, derivative, epsilon, .. } if mode.trains() => {
                (0, derivative, epsilon)
            }
            Norm::Layer { derivative, epsilon, .. } => (1, derivative, epsilon),
            Norm::None | Norm::Batch { .. } => return None,
        };
        Some(OfStep { axis, epsilon, through: derivative.is_taken(mode) })
    }

    /// With trained factor and offset; `normal` is `y` normalised, if that is known.
    fn trained(&self, cx: &mut StepContext, y: &Tensor, normal: Option<Tensor>, mode: Mode) -> Tensor {
        let (Norm::Batch { scale, .. } | Norm::Layer { scale, .. }) = *self else {
            return y.clone();
        };
        let n = y.dims()[1];
        cx.scope("norm", |cx| {
            let of_step = self.of_step(mode);
            let mut normal = normal.or_else(|| of_step.map(|step| step.standardize(y)));
            if let Norm::Batch { momentum, epsilon, .. } = *self {
                let mean = cx.constant("mean", &[n], Init::Zeros);
                let square = cx.constant("square", &[n], Init::Constant(1.0));
                if mode.trains() {
                    cx.track("mean", &y.mean(&[0]), momentum);
                    cx.track("square", &y.square().mean(&[0]), momentum);
                }
                if of_step.is_some() {
                    cx.couple_sequences("batch norm takes the statistics of the batch (--bn_stats batch)");
                }
                normal.get_or_insert_with(|| standardize(y, &mean, &square, 1, epsilon));
            }
            let normal = normal.expect("layer norm takes the statistics of the step");
            let scale = cx.param("scale", &[n], Init::Constant(scale));
            let scale = cx.elementwise("scale", &scale);
            let bias = cx.param("bias", &[n], Init::Zeros);
            normal * scale + cx.elementwise("bias", &bias)
        })
    }
}
