//! What is minimised: the loss of one step.
//!
//! An [`Objective`] says how the output `[B, C]` of a step is compared with its [`Target`], and what else counts. The two losses that
//! have a name can be stored in a run; any other is a closure from output and target to the loss of each sequence:
//!
//! ```
//! use etrace::learn::{Objective, Target};
//!
//! // The absolute error of a curve that is followed, one point of C values per step.
//! let objective = Objective::own("mae", Target::VECTORS, |out, target| (out - target).abs().mean(&[1]));
//! # assert!(objective.check(4, 3).is_ok());
//! ```

use std::{fmt, sync::Arc};

use hlo::{DType, Func, Shape, Tensor};
use serde::{Deserialize, Serialize, Serializer, ser::Error};

use super::LearnError;
use crate::cell::Quantity;

/// The loss of one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// `logsumexp(out) - out[target]`, or `sum(target) logsumexp(out) - target . out` for a distribution; mean over the batch.
    #[default]
    CrossEntropy,
    /// `(out - onehot(target))^2`, or `(out - target)^2` for a vector; mean over batch and outputs.
    Mse,
    /// A closure; see [`Objective::own`]. It is code, so no run can store it.
    #[serde(skip_deserializing, serialize_with = "OwnLoss::refuse")]
    Own(OwnLoss),
}

/// A loss that is a closure.
#[derive(Clone)]
pub struct OwnLoss {
    name: String,
    #[allow(clippy::type_complexity, reason = "the type of a closure")]
    loss: Arc<dyn Fn(&Tensor, &Tensor) -> Tensor + Send + Sync>,
}

impl OwnLoss {
    fn refuse<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom(format!(
            "a run stores its objective by name, but the loss `{}` is a closure; use cross-entropy or mse, or write the training \
             loop in the program that holds the closure (docs/library.md)",
            self.name
        )))
    }
}

impl fmt::Debug for OwnLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnLoss({})", self.name)
    }
}

impl PartialEq for OwnLoss {
    fn eq(&self, other: &OwnLoss) -> bool {
        Arc::ptr_eq(&self.loss, &other.loss)
    }
}

/// What the output of a step is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetKind {
    /// A class, `s32[B]`; a negative one marks a row without loss: one that only fills up a batch, or a step that does not count.
    #[default]
    Class,
    /// As many numbers as there are outputs, `f32[B, C]`.
    Vector,
    /// This many numbers, `f32[B, n]`, for a loss that is a closure.
    Numbers(usize),
}

/// What a sequence is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Classes or numbers.
    pub kind: TargetKind,
    /// Whether every step has a target of its own, `[T, B, ..]`; else all steps have that of their sequence, `[B, ..]`.
    pub per_step: bool,
}

impl Target {
    /// A class for each sequence, `s32[B]`.
    pub const CLASS: Target = Target { kind: TargetKind::Class, per_step: false };
    /// A class for each step, `s32[T, B]`.
    pub const CLASSES: Target = Target { kind: TargetKind::Class, per_step: true };
    /// A vector for each sequence, `f32[B, C]`.
    pub const VECTOR: Target = Target { kind: TargetKind::Vector, per_step: false };
    /// A vector for each step, `f32[T, B, C]`.
    pub const VECTORS: Target = Target { kind: TargetKind::Vector, per_step: true };

    /// The target of one step for `batch` sequences and `outputs` outputs: `s32[B]` or `f32[B, n]`.
    pub fn of_step(self, batch: usize, outputs: usize) -> Shape {
        match self.kind {
            TargetKind::Class => Shape::s32([batch]),
            TargetKind::Vector => Shape::f32([batch, outputs]),
            TargetKind::Numbers(n) => Shape::f32([batch, n]),
        }
    }

    /// The targets of a sequence of `steps`: `[B, ..]`, or `[T, B, ..]`.
    pub fn of_sequence(self, steps: usize, batch: usize, outputs: usize) -> Shape {
        let step = self.of_step(batch, outputs);
        if self.per_step { step.with_dims([&[steps], &step.dims[..]].concat()) } else { step }
    }
}

impl From<tasks::Targets> for Target {
    fn from(targets: tasks::Targets) -> Target {
        match targets {
            tasks::Targets::Class => Target::CLASS,
            tasks::Targets::Classes => Target::CLASSES,
            tasks::Targets::Numbers => Target::VECTORS,
        }
    }
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// Output against target.
    pub loss: LossKind,
    /// Terms on potentials and spikes.
    pub regularizer: Regularizer,
    /// When one loss of the summed output takes the place of the losses of all steps.
    #[serde(default)]
    pub of_sum: OfSum,
    /// What the output is compared with. That of a run is what its task says, so it is not stored.
    #[serde(skip_deserializing, skip_serializing)]
    pub target: Target,
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
    /// In evaluation and in training. An online rule passes twice over the sequence: forwards for the sum, and once more with the
    /// derivative of its loss, which is the same at every step.
    Always,
}

impl Objective {
    /// A loss with a name and a target of a kind of its own, without regularisers.
    pub fn new(loss: LossKind, target: Target) -> Objective {
        Objective { loss, target, ..Objective::default() }
    }

    /// A loss that is a closure: (output `[B, C]`, target of the step) to the loss of each sequence, `[B]`. `name` is for errors.
    pub fn own(
        name: &str,
        target: Target,
        loss: impl Fn(&Tensor, &Tensor) -> Tensor + Send + Sync + 'static,
    ) -> Objective {
        Objective::new(LossKind::Own(OwnLoss { name: name.into(), loss: Arc::new(loss) }), target)
    }

    /// The loss of each step in a second pass: `out . d`, where the target `d` is the derivative of one loss with respect to the summed
    /// output, `[B, C]`. Its gradient is that of the one loss.
    pub(super) fn along_a_derivative() -> Objective {
        Objective::own("second pass", Target::VECTOR, |out, d| (out * d).sum(&[1]) * out.dims()[0] as f64)
    }

    /// Checks that loss, target and `outputs` outputs fit each other.
    ///
    /// # Errors
    /// When a named loss meets another number of values, a closure gives no `[B]`, or one loss of the summed output meets a
    /// target for each step.
    pub fn check(&self, batch: usize, outputs: usize) -> Result<(), LearnError> {
        let wrong = |text: String| Err(LearnError::Setting(text));
        if self.target.per_step && self.of_sum != OfSum::Never {
            return wrong(format!(
                "one loss of the summed output needs one target for the sequence, got {:?} with of_sum {:?}; use OfSum::Never",
                self.target, self.of_sum
            ));
        }
        let LossKind::Own(own) = &self.loss else {
            return match self.target.kind {
                TargetKind::Numbers(n) if n != outputs => wrong(format!(
                    "{:?} compares each of the {outputs} outputs with a number, got targets of {n}; give the network {n} outputs, or \
                     use Objective::own",
                    self.loss
                )),
                _ => Ok(()),
            };
        };
        let shapes = [Shape::f32([batch, outputs]), self.target.of_step(batch, outputs)];
        let traced = Func::try_trace(&shapes, |_, v| vec![(own.loss)(&v[0], &v[1])]);
        let [out, target] = &shapes;
        match traced {
            Err(error) => wrong(format!(
                "the loss `{}` must take the output {out} and the target {target}, but {error}; change the closure or the target",
                own.name
            )),
            Ok(func) if *func.results()[0].shape() != Shape::f32([batch]) => wrong(format!(
                "a loss has one value for each sequence, f32[{batch}], but `{}` gives {} for the output {out} and the target \
                 {target}; take the mean over the outputs: `.mean(&[1])`",
                own.name,
                func.results()[0].shape()
            )),
            Ok(_) => Ok(()),
        }
    }

    /// That targets are those of a task, for programs that say how good a run is.
    pub(crate) fn of_a_task(&self) -> Result<(), LearnError> {
        if [Target::CLASS, Target::CLASSES, Target::VECTORS].contains(&self.target) {
            return Ok(());
        }
        Err(LearnError::Setting(format!(
            "training runs have a class for each sequence, or a class or a vector for each step, got {:?}; use an Engine (docs/library.md)",
            self.target
        )))
    }

    /// That a sequence has one class.
    pub(crate) fn one_class(&self) -> Result<(), LearnError> {
        if self.target == Target::CLASS {
            return Ok(());
        }
        Err(LearnError::Setting(format!(
            "the loop step by step is for tasks with one class for each sequence, got {:?}; choose such a task, or another --drive",
            self.target
        )))
    }

    /// How good the outputs of single steps are, where runs count that: 1 for a right class and 0 for a wrong one (or none), the squared
    /// error of a vector, mean over the outputs. `out: [K, B, C]`, `target: [K, B, ..]` to `[K, B]`.
    pub(super) fn scores(&self, out: &Tensor, target: &Tensor) -> Option<Tensor> {
        match self.target {
            Target::CLASSES => Some(out.argmax_last().eq(target).convert(DType::F32)),
            Target::VECTORS => Some((out - target).square().mean(&[2])),
            _ => None,
        }
    }

    /// The share of right answers of each sequence whose steps have [scores](Objective::scores) of this sum; or its normalised mean squared
    /// error: the mean squared error over the variance of the targets in the steps that count, `[B]`.
    pub(crate) fn score(&self, sum: &Tensor, target: &Tensor, warmup: usize) -> Tensor {
        let steps = target.dims()[0];
        if self.target.kind == TargetKind::Class {
            let counted = target.slice_axis(0, warmup, steps);
            let counted = counted.ge(&counted.zeros_like()).convert(DType::F32).sum(&[0]);
            return sum / &counted.maximum(&counted.full_like(1.0));
        }
        let counted = target.slice_axis(0, warmup, steps);
        let mean = counted.mean(&[0]);
        let variance = (&counted - &mean.broadcast(counted.dims(), &[1, 2])).square().mean(&[0, 2]);
        sum * (1.0 / (steps - warmup) as f64) / variance.maximum(&variance.full_like(f64::from(f32::MIN_POSITIVE)))
    }

    /// [`Objective::score`] of outputs of the steps that count, `[T - warmup, B, C]`.
    pub(crate) fn scores_of(&self, each: &Tensor, target: &Tensor) -> Tensor {
        let (steps, counted) = (target.dims()[0], each.dims()[0]);
        let sum = self.scores(each, &target.slice_axis(0, steps - counted, steps)).map(|scores| scores.sum(&[0]));
        let none = || each.graph().zeros(&Shape::f32([each.dims()[1]]));
        self.score(&sum.unwrap_or_else(none), target, steps - counted)
    }

    /// 1 for the sequences of a batch that are real and 0 for those that fill it up, `[B]`.
    pub(crate) fn real(&self, target: &Tensor) -> Tensor {
        match self.target {
            Target { kind: TargetKind::Class, per_step: false } => target.ge(&target.zeros_like()).convert(DType::F32),
            Target { kind: TargetKind::Class, per_step: true } => {
                let largest = target.convert(DType::F32).max(&[0]);
                largest.ge(&largest.zeros_like()).convert(DType::F32)
            }
            Target { per_step, .. } => {
                let batch = target.dims()[usize::from(per_step)];
                target.graph().full(&Shape::f32([batch]), 1.0)
            }
        }
    }

    /// 1 for sequences, 0 for rows without loss (a class below 0); scaled so that the mean over the rows is a mean over the
    /// sequences, `[B]`.
    pub fn weights(&self, target: &Tensor) -> Tensor {
        if self.target.kind != TargetKind::Class {
            let batch = target.dims()[0];
            return target.graph().full(&Shape::f32([batch]), 1.0);
        }
        let real = target.ge(&target.zeros_like()).convert(DType::F32);
        let share = real.mean_all();
        let share = share.maximum(&share.full_like(1e-9)).broadcast_to(real.dims());
        real / share
    }

    /// Whether any row of these targets carries loss, `pred[]`; nothing where all do. The rows that do not are classes below 0.
    pub fn counts(&self, target: &Tensor) -> Option<Tensor> {
        let masks = self.target.kind == TargetKind::Class && !self.regularized();
        masks.then(|| {
            let largest = target.convert(DType::F32).max_all();
            largest.ge(&largest.zeros_like())
        })
    }

    /// The same of targets on the host.
    pub(crate) fn counts_on_host(&self, targets: &[f64]) -> bool {
        self.target.kind != TargetKind::Class || self.regularized() || targets.iter().any(|class| *class >= 0.0)
    }

    /// Loss of one step for every sequence, `[B]`, without regularisers.
    pub fn sequence_losses(&self, out: &Tensor, target: &Tensor) -> Tensor {
        let wanted = || match self.target.kind {
            TargetKind::Class => target.one_hot(out.dims()[1], DType::F32),
            TargetKind::Vector | TargetKind::Numbers(_) => target.clone(),
        };
        match &self.loss {
            LossKind::CrossEntropy => {
                let wanted = wanted();
                let partition = match self.target.kind {
                    TargetKind::Class => out.logsumexp(),
                    _ => out.logsumexp() * wanted.sum(&[1]),
                };
                partition - (out * &wanted).sum(&[1])
            }
            LossKind::Mse => (out - &wanted()).square().mean(&[1]),
            LossKind::Own(own) => (own.loss)(out, target),
        }
    }

    /// Mean of [`Objective::sequence_losses`] over the sequences, a scalar.
    pub fn mean_loss(&self, out: &Tensor, target: &Tensor) -> Tensor {
        (self.sequence_losses(out, target) * self.weights(target)).mean_all()
    }

    /// Loss of one step, a scalar. `out: [B, C]`, `target` that of the step, `observed` the values that the model shows.
    pub fn step_loss(&self, out: &Tensor, target: &Tensor, observed: &[(Quantity, Tensor)]) -> Tensor {
        let Regularizer { membrane, low, high, spike, rate } = self.regularizer;
        let mut total = self.mean_loss(out, target);
        for (quantity, value) in observed {
            if membrane > 0.0 && *quantity == Quantity::Potential {
                let beyond = (value - high).relu().square() + (low - value).relu().square();
                total = total + beyond.mean_all().square() * membrane;
            }
            if spike > 0.0 && *quantity == Quantity::Spike {
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
