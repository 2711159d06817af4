//! A traced model: the step as a function, and the names and initial values of all it uses.

use std::fmt;

use hlo::{Func, Range, Shape, Tensor};

use super::{
    context::{ModelError, StepContext},
    init::{Init, StateInit},
};

/// One array of parameters.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// Unique name, e.g. `l0.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// How it starts.
    pub init: Init,
    /// Whether training changes it (time constants and masks are often fixed).
    pub trainable: bool,
}

/// One hidden state, `[B, n]`.
#[derive(Clone, Debug)]
pub struct StateSpec {
    /// Unique name, e.g. `l0.V`.
    pub name: String,
    /// Its shape with the batch axis in front.
    pub shape: Shape,
    /// Its value before the first step of a sequence.
    pub init: StateInit,
    /// Whether it belongs to the readout ([`StepContext::readout`]) rather than to a layer.
    pub readout: bool,
}

/// What an observed value measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// Spikes, or the events of an event-based unit: 0 or 1. Firing rates, rasters, warnings about silent layers and the regulariser of
    /// rates read them.
    Spike,
    /// Membrane potentials. Plots and the regulariser of potentials read them.
    Potential,
    /// Anything else, by a name of its own; for whoever reads [`Engine::observe`](crate::train::engine::Engine::observe).
    Other(&'static str),
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Quantity::Spike => "spike",
            Quantity::Potential => "V",
            Quantity::Other(name) => name,
        })
    }
}

/// A value of a layer that a step shows, `[B, n]`, declared with [`StepContext::observe`]. It is written `l0.spike`, `l0.V`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observable {
    /// The scope that it was declared in (`l0`); empty for a network without scopes.
    pub layer: String,
    /// What it measures.
    pub quantity: Quantity,
}

impl fmt::Display for Observable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.layer.is_empty() {
            write!(f, "{}.", self.layer)?;
        }
        self.quantity.fmt(f)
    }
}

/// A fixed array that training moves towards the mean of a value over the steps of each batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracked {
    /// Position of the array among the parameters.
    pub param: usize,
    /// What is kept at each update: `p = momentum p + (1 - momentum) mean`. Less in the first updates, `(1 + n) / (10 + n)` after
    /// n, so that the array forgets where it started.
    pub momentum: f64,
}

/// What a step is traced for: dropout acts in training only, and online rules need statistics that are constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Training with back-propagation through time.
    Offline,
    /// Training with an online rule.
    Online,
    /// No training.
    Evaluation,
}

impl Mode {
    /// Whether the step learns.
    pub fn trains(self) -> bool {
        self != Mode::Evaluation
    }
}

/// A model for one batch size.
#[derive(Clone, Debug)]
pub struct Model {
    /// Parameters in the order of declaration.
    pub params: Vec<ParamSpec>,
    /// States in the order of declaration.
    pub states: Vec<StateSpec>,
    /// Input of one step, `f32[B, n_in]`.
    pub input: Shape,
    /// Output of one step, `f32[B, n_out]`.
    pub output: Shape,
    /// Further results, for regularisers, firing rates and plots.
    pub observed: Vec<Observable>,
    /// What training moves besides the trained parameters.
    pub tracked: Vec<Tracked>,
    /// What makes a sequence depend on the others of its batch, if anything does; see `cx.couple_sequences`.
    pub couples_sequences: Option<String>,
    /// One step: (parameters, states, input) to (states, output, observed, tracked).
    pub step: Func,
}

impl Model {
    /// Traces one step of a model for `batch` sequences of inputs with `n_in` values: (context, input `f32[B, n_in]`) to the output,
    /// `f32[B, C]`.
    ///
    /// ```
    /// use etrace::prelude::*;
    ///
    /// let wrong = Model::trace(2, 3, |cx, x| {
    ///     let v = cx.state("V", 4, StateInit::Zeros);
    ///     cx.set("V", &(v * 0.9 + x)); // 4 potentials, 3 inputs
    ///     readout::leaky(cx, x, 2, 10.0, 1.0)
    /// });
    /// let error = wrong.unwrap_err().to_string();
    /// assert!(error.contains("f32[2,4]") && error.contains("f32[2,3]"), "{error}");
    /// ```
    ///
    /// # Errors
    /// When sizes do not fit, a state is read and never set or set and never declared, a name is declared twice, or the output has another
    /// shape. The error says what and where.
    #[track_caller]
    pub fn trace(
        batch: usize,
        n_in: usize,
        step: impl FnOnce(&mut StepContext, &Tensor) -> Tensor,
    ) -> Result<Model, ModelError> {
        StepContext::try_trace(batch, n_in, step)
    }

    /// Number of sequences in a batch.
    pub fn batch(&self) -> usize {
        self.input.dims[0]
    }

    /// Position of a parameter.
    pub fn param(&self, name: &str) -> Option<usize> {
        self.params.iter().position(|p| p.name == name)
    }

    /// Position of a state.
    pub fn state(&self, name: &str) -> Option<usize> {
        self.states.iter().position(|s| s.name == name)
    }

    /// The layers that show their spikes: the position of these among the observed values, and the name of the layer.
    pub fn spiking(&self) -> impl Iterator<Item = (usize, &str)> {
        let spikes = self.observed.iter().enumerate().filter(|(_, o)| o.quantity == Quantity::Spike);
        spikes.map(|(k, o)| (k, o.layer.as_str()))
    }

    /// Whether training changes a parameter, be it by gradients or by statistics.
    pub fn changes(&self, param: usize) -> bool {
        self.params[param].trainable || self.tracked.iter().any(|t| t.param == param)
    }

    /// Between which numbers the values of a parameter lie, whatever the seed: known for those that training does not change. A little
    /// wider than exact, as values are rounded.
    pub fn range(&self, param: usize) -> Range {
        if self.changes(param) {
            return Range::ANY;
        }
        let p = &self.params[param];
        let exact = p.init.range(&p.shape);
        let slack = 1e-6 * exact.size().min(f64::MAX);
        Range::new(exact.low - slack, exact.high + slack)
    }

    /// Number of trained values.
    pub fn trainable_elements(&self) -> usize {
        self.params.iter().filter(|p| p.trainable).map(|p| p.shape.elements()).sum()
    }
}
