//! What is minimised: the loss of one step.

use hlo::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// The loss of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// `logsumexp(out) - out[target]`, mean over the batch.
    #[default]
    CrossEntropy,
    /// `(out - onehot(target))^2`, mean over batch and classes.
    Mse,
}

/// Pushes membrane potentials into a range and firing rates to a target (`docs/spec/networks-dms-ei.md, "Regularisers"`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Regularizer {
    /// Weight of the membrane term; 0 switches it off.
    pub membrane: f64,
    /// Lowest potential that costs nothing.
    pub low: f64,
    /// Highest potential that costs nothing.
    pub high: f64,
    /// Weight of the rate term; 0 switches it off.
    pub spike: f64,
    /// Spikes per neuron and step that cost nothing.
    pub rate: f64,
}

/// The loss of one step with its regularisers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// Output against target.
    pub loss: LossKind,
    /// Terms on potentials and spikes.
    pub regularizer: Regularizer,
    /// When one loss of the summed output takes the place of the losses of all steps.
    #[serde(default)]
    pub of_sum: OfSum,
}

/// When one loss of the output summed over the steps takes the place of the losses of all steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OfSum {
    /// Never.
    #[default]
    Never,
    /// In evaluation.
    Evaluation,
    /// In evaluation and in training with BPTT. An online rule cannot wait for the sum.
    Always,
}

impl Objective {
    /// 1 for sequences, 0 for rows that only fill up a batch (target below 0); scaled so that the mean over the rows is a mean over
    /// the sequences, `[B]`.
    pub fn weights(target: &Tensor) -> Tensor {
        let real = target.ge(&target.zeros_like()).convert(DType::F32);
        let share = real.mean_all();
        let share = share.maximum(&share.full_like(1e-9)).broadcast_to(real.dims());
        real / share
    }

    /// Loss of one step for every sequence, `[B]`, without regularisers.
    pub fn sequence_losses(&self, out: &Tensor, target: &Tensor) -> Tensor {
        let hot = target.one_hot(out.dims()[1], DType::F32);
        match self.loss {
            LossKind::CrossEntropy => out.logsumexp() - (out * &hot).sum(&[1]),
            LossKind::Mse => (out - &hot).square().mean(&[1]),
        }
    }

    /// Mean of [`Objective::sequence_losses`] over the sequences, a scalar.
    pub fn mean_loss(&self, out: &Tensor, target: &Tensor) -> Tensor {
        (self.sequence_losses(out, target) * Objective::weights(target)).mean_all()
    }

    /// Loss of one step, a scalar. `out: [B, C]`, `target: s32[B]`, `observed` as the model names it.
    pub fn step_loss(&self, out: &Tensor, target: &Tensor, observed: &[(&str, Tensor)]) -> Tensor {
        let Regularizer { membrane, low, high, spike, rate } = self.regularizer;
        let mut total = self.mean_loss(out, target);
        for (name, value) in observed {
            if membrane > 0.0 && name.rsplit('.').next() == Some("V") {
                let beyond = (value - high).relu().square() + (low - value).relu().square();
                total = total + beyond.mean_all().square() * membrane;
            }
            if spike > 0.0 && name.rsplit('.').next() == Some("spike") {
                total = total + (value.mean_all() - rate).square() * spike;
            }
        }
        total
    }

    /// Whether `observed` values enter the loss.
    pub fn regularized(&self) -> bool {
        self.regularizer.membrane > 0.0 || self.regularizer.spike > 0.0
    }
}
