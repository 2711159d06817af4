//! For people who write their own training loop: gradient, update, evaluation, and one step of a stream, each a call.
//!
//! An [`Engine`] holds a model with its learner on a device. Each of its calls is a compiled program, made when arrays of these shapes
//! come for the first time and kept for the next; parameters, gradients and states stay on the device ([`Buffer`]), inputs, targets and
//! losses are on the host ([`Array`]). What it has no opinion on: where data come from, in which order, when to stop. Whole runs,
//! with folders, checkpoints and curves, are made by [`trainer`](super::trainer).
//!
//! ```
//! use etrace::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (steps, batch) = (5, 2);
//! # let model = Model::trace(batch, 3, |cx, x| readout::leaky(cx, x, 2, 10.0, 1.0))?;
//! # let session = Session::cpu()?;
//! # let inputs = Array::f32(vec![1.0; steps * batch * 3], [steps, batch, 3])?;
//! # let targets = Array::s32([0, 1], [batch])?;
//! let engine = Engine::new(&session, &model, &Objective::default(), &LearnerConfig::default())?;
//! let optimizer = Optimizer { lr: 0.01, ..Optimizer::default() };
//! let mut state = engine.start(optimizer.rule, 1)?;
//! for batch in 0..3 {
//!     let states = engine.states(1, batch)?;
//!     let (loss, grads) = engine.gradient(&state.params, &states, &inputs, &targets)?;
//!     let norm;
//!     (state, norm) = engine.update(&optimizer, state, &grads)?;
//!     println!("loss {loss}, norm of the gradient {norm}");
//! }
//! # Ok(())
//! # }
//! ```

mod stream;

use std::{cell::RefCell, collections::HashMap, ops::Deref, rc::Rc};

use hlo::{
    Func, Shape, Tensor,
    array::Array,
    pjrt::{Arg, Buffer, Executable},
};

pub use stream::{Advanced, Stream};

use super::{
    optimizer::{Optimizer, Rule},
    program::{self, ProgramError, TrainState},
    session::{Session, SessionError},
};
use crate::{
    cell::{Model, Observable},
    learn::{LearnError, Learner, Objective, sequence::LearnerConfig},
};

/// A model with its learner on a device.
pub struct Engine<'s> {
    session: &'s Session,
    model: Model,
    learner: Learner,
    programs: RefCell<HashMap<String, Rc<Executable>>>,
}

/// What a sequence with learning gives.
pub struct Sequence {
    /// The loss of the steps that count: a mean over the batch, summed over the steps.
    pub loss: f32,
    /// The derivative of `loss`, one array for each parameter (zeros for fixed ones).
    pub grads: Gradients,
    /// The output summed over the steps that count, `[B, C]`.
    pub out: Array,
    /// The states after the last step.
    pub states: Vec<Buffer>,
}

/// What a sequence without learning gives.
pub struct Evaluated {
    /// The loss of each sequence, summed over the steps that count, `[B]`.
    pub losses: Vec<f32>,
    /// The output summed over the steps that count, `[B, C]`.
    pub out: Array,
}

/// Values of every step of a sequence, `[T, B, ..]`.
pub struct Observed {
    /// The states after each step, by name.
    pub states: Vec<(String, Array)>,
    /// The output, `[T, B, C]`.
    pub out: Array,
    /// What the layers show (`cx.observe`).
    pub observed: Vec<(Observable, Array)>,
}

/// A gradient: one array for each parameter.
pub struct Gradients {
    arrays: Vec<Buffer>,
    counted: bool,
}

impl Gradients {
    /// Whether any step carried loss. Where none did, the arrays are zero and [`Engine::update`] changes nothing.
    pub fn counted(&self) -> bool {
        self.counted
    }
}

impl Deref for Gradients {
    type Target = [Buffer];

    fn deref(&self) -> &[Buffer] {
        &self.arrays
    }
}

impl From<Vec<Buffer>> for Gradients {
    /// Arrays that a program has made by itself: a gradient of steps with loss.
    fn from(arrays: Vec<Buffer>) -> Gradients {
        Gradients { arrays, counted: true }
    }
}

impl<'s> Engine<'s> {
    /// Joins a model, what it minimises and how it learns.
    ///
    /// # Errors
    /// When the learner refuses the model or the objective.
    pub fn new(
        session: &'s Session,
        model: &Model,
        objective: &Objective,
        config: &LearnerConfig,
    ) -> Result<Engine<'s>, LearnError> {
        Engine::with_learner(session, model, Learner::new(model, objective, config)?)
    }

    /// With a learner of that model: one whose rule is not in the table, see [`Learner::with_rule`].
    ///
    /// # Errors
    /// When the model has running statistics, which an update by gradients alone would leave where they start.
    pub fn with_learner(session: &'s Session, model: &Model, learner: Learner) -> Result<Engine<'s>, LearnError> {
        if let Some(tracked) = model.tracked.first() {
            return Err(LearnError::Setting(format!(
                "an own loop changes parameters by their gradients, but `{}` follows running statistics (cx.track); train this model \
                 with train::program::TrainProgram",
                model.params[tracked.param].name
            )));
        }
        if let Some(every) = learner.config().update_every {
            return Err(LearnError::Setting(format!(
                "an own loop says itself when parameters change, got update_every {every}; leave it out, and call Engine::update after so \
                 many steps of a stream (Engine::stream)"
            )));
        }
        Ok(Engine { session, model: model.clone(), learner, programs: RefCell::default() })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The learner: what it follows of each parameter ([`Learner::paths`]), and what its traces take.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// Fresh parameters and optimiser state for `seed`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn start(&self, rule: Rule, seed: u64) -> Result<TrainState, SessionError> {
        program::start(self.session, &self.model, rule, seed)
    }

    /// The states before the sequences of batch number `batch`; those that are drawn anew for each batch depend on it and on `seed`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn states(&self, seed: u64, batch: u64) -> Result<Vec<Buffer>, SessionError> {
        let array = |s: &crate::cell::StateSpec| {
            Array::f32(s.init.values(&s.shape, seed, &s.name, batch), s.shape.dims.clone())
        };
        self.model.states.iter().map(|s| self.upload(&array(s).map_err(hlo::pjrt::Error::from)?)).collect()
    }

    /// Loss and gradient of a batch of sequences: inputs `[T, B, n_in]` of any type, targets as the objective has them. The gradient is
    /// that of the loss, which is summed over the steps that count; it has an array for each parameter.
    ///
    /// # Errors
    /// When arrays do not fit the model, or the device fails.
    pub fn gradient(
        &self,
        params: &[Buffer],
        states: &[Buffer],
        inputs: &Array,
        targets: &Array,
    ) -> Result<(f32, Gradients), ProgramError> {
        let Sequence { loss, grads, .. } = self.sequence(params, states, inputs, targets)?;
        Ok((loss, grads))
    }

    /// As [`Engine::gradient`], with the outputs, and the states after the last step: what a loop needs that goes on where it stopped.
    ///
    /// # Errors
    /// When arrays do not fit the model, or the device fails.
    pub fn sequence(
        &self,
        params: &[Buffer],
        states: &[Buffer],
        inputs: &Array,
        targets: &Array,
    ) -> Result<Sequence, ProgramError> {
        self.check(params, states, inputs, Some(targets))?;
        let (n, s) = (self.model.params.len(), self.model.states.len());
        let shapes = self.shapes([inputs.shape(), targets.shape()]);
        let program = self.program("gradient", &shapes, &[], |g, v| {
            let (params, rest) = v.split_at(n);
            let out = self.learner.sequence(g, params, &rest[..s], &rest[s], &rest[s + 1]);
            [vec![out.loss, out.out], out.grads, out.states].concat()
        })?;
        let data = [self.upload(inputs)?, self.upload(targets)?];
        let args = params.iter().chain(states).chain(&data).map(Arg::Keep).collect();
        let mut results = program.run(args).map_err(SessionError::from)?;
        let states = results.split_off(2 + n);
        let grads = Gradients { arrays: results.split_off(2), counted: self.counted(Some(targets)) };
        Ok(Sequence { loss: number(&results[0])?, grads, out: array(&results[1])?, states })
    }

    /// One update of the trained parameters; returns the global norm of the gradient before clipping. The learning rate is that of the
    /// optimiser's schedule. A gradient that is not finite changes nothing, and its norm says so. Where no step carried loss there is no
    /// update either: parameters, moments, count and with it the schedule stay as they are, and the norm is 0.
    ///
    /// # Errors
    /// When there is not one gradient for each parameter, the optimiser has other slots, or the device fails.
    pub fn update(
        &self,
        optimizer: &Optimizer,
        state: TrainState,
        grads: &Gradients,
    ) -> Result<(TrainState, f32), ProgramError> {
        let trained: Vec<usize> = (0..self.model.params.len()).filter(|&k| self.model.params[k].trainable).collect();
        let slots = trained.len() * optimizer.rule.slots();
        let all = self.model.params.len();
        if grads.len() != all || state.params.len() != all || state.slots.len() != slots {
            return Err(LearnError::Shape(format!(
                "an update takes {all} parameters and gradients and, for {:?}, {slots} slots, got {}, {} and {}; start with the rule \
                 of this optimiser",
                optimizer.rule,
                state.params.len(),
                grads.len(),
                state.slots.len()
            ))
            .into());
        }
        if !grads.counted {
            return Ok((state, 0.0));
        }
        let program = self.updating(optimizer, &trained)?;
        let updates: i32 = array(&state.count)?.scalar().map_err(|e| SessionError::from(hlo::pjrt::Error::from(e)))?;
        let lr = optimizer.lr * optimizer.schedule.factor(updates.unsigned_abs().into());
        let lr = self.upload(&Array::scalar_of(lr as f32))?;
        let mut kept: Vec<Option<Buffer>> = state.params.into_iter().map(Some).collect();
        let mut args: Vec<Arg<'_>> = trained.iter().filter_map(|&k| kept[k].take()).map(Arg::Give).collect();
        args.extend(state.slots.into_iter().chain([state.count]).map(Arg::Give));
        args.extend(trained.iter().map(|&k| &grads[k]).chain([&lr]).map(Arg::Keep));
        let mut results = program.run(args).map_err(SessionError::from)?;
        let norm = results.split_off(results.len() - 1);
        let count = results.split_off(results.len() - 1).swap_remove(0);
        let slots = results.split_off(trained.len());
        let mut new = results.into_iter();
        let params = kept.into_iter().filter_map(|kept| kept.or_else(|| new.next())).collect();
        Ok((TrainState::new(params, slots, count), number(&norm[0])?))
    }

    /// (trained parameters, slots, count, gradients, lr) to (parameters, slots, count, norm); all but the last two are donated.
    fn updating(&self, optimizer: &Optimizer, trained: &[usize]) -> Result<Rc<Executable>, ProgramError> {
        let params: Vec<Shape> = trained.iter().map(|&k| self.model.params[k].shape.clone()).collect();
        let (n, s) = (params.len(), params.len() * optimizer.rule.slots());
        let mut shapes = params.clone();
        (0..optimizer.rule.slots()).for_each(|_| shapes.extend(params.iter().cloned()));
        shapes.push(Shape::s32([]));
        shapes.extend(params);
        shapes.push(Shape::f32([]));
        let donated: Vec<(usize, usize)> = (0..=n + s).map(|k| (k, k)).collect();
        self.program(&format!("update {optimizer:?}"), &shapes, &donated, |_, v| {
            let (old, rest) = v.split_at(n + s);
            let updated = optimizer.update(&old[..n], &rest[1..=n], &old[n..], (&rest[0], &rest[n + 1]), None);
            [updated.params, updated.slots, vec![updated.count, updated.norm]].concat()
        })
    }

    /// Loss and output of a batch of sequences, without learning: memory does not grow with their length.
    ///
    /// # Errors
    /// When arrays do not fit the model, or the device fails.
    pub fn evaluate(
        &self,
        params: &[Buffer],
        states: &[Buffer],
        inputs: &Array,
        targets: &Array,
    ) -> Result<Evaluated, ProgramError> {
        self.check(params, states, inputs, Some(targets))?;
        let (n, s) = (self.model.params.len(), self.model.states.len());
        let shapes = self.shapes([inputs.shape(), targets.shape()]);
        let program = self.program("evaluate", &shapes, &[], |g, v| {
            let (params, rest) = v.split_at(n);
            let all = self.learner.evaluate(g, params, &rest[..s], &rest[s], &rest[s + 1]);
            vec![all.losses, all.out]
        })?;
        let data = [self.upload(inputs)?, self.upload(targets)?];
        let args = params.iter().chain(states).chain(&data).map(Arg::Keep).collect();
        let results = program.run(args).map_err(SessionError::from)?;
        let losses = array(&results[0])?.to_vec().map_err(|e| SessionError::from(hlo::pjrt::Error::from(e)))?;
        Ok(Evaluated { losses, out: array(&results[1])? })
    }

    /// States, outputs and observed values of every step, without learning.
    ///
    /// # Errors
    /// When arrays do not fit the model, or the device fails.
    pub fn observe(&self, params: &[Buffer], states: &[Buffer], inputs: &Array) -> Result<Observed, ProgramError> {
        self.check(params, states, inputs, None)?;
        let (n, s) = (self.model.params.len(), self.model.states.len());
        let shapes = self.shapes([inputs.shape()]);
        let program = self.program("observe", &shapes, &[], |g, v| {
            let (params, rest) = v.split_at(n);
            self.learner.observe(g, params, &rest[..s], &rest[s])
        })?;
        let inputs = self.upload(inputs)?;
        let args = params.iter().chain(states).chain([&inputs]).map(Arg::Keep).collect();
        let results = program.run(args).map_err(SessionError::from)?;
        let mut arrays = results.iter().map(array).collect::<Result<Vec<_>, _>>()?;
        let observed = arrays.split_off(s + 1);
        let [out] = <[Array; 1]>::try_from(arrays.split_off(s)).unwrap_or_else(|_| unreachable!("one output"));
        let names = self.model.states.iter().map(|s| s.name.clone());
        let observed = self.model.observed.iter().cloned().zip(observed).collect();
        Ok(Observed { states: names.zip(arrays).collect(), out, observed })
    }

    /// The values of a parameter or its gradient, from the arrays of all.
    ///
    /// # Errors
    /// When the model has no such parameter, or the device fails.
    pub fn value(&self, all: &[Buffer], name: &str) -> Result<Array, ProgramError> {
        let found = self.model.param(name).and_then(|k| all.get(k));
        let Some(buffer) = found else {
            let names: Vec<&str> = self.model.params.iter().map(|p| p.name.as_str()).collect();
            let choices = crate::settings::node::choices(name, &names);
            return Err(LearnError::Shape(format!("this model has no parameter `{name}`; {choices}")).into());
        };
        Ok(array(buffer)?)
    }

    /// Checks what a call is given, and that a step is left that carries loss.
    fn check(
        &self,
        params: &[Buffer],
        states: &[Buffer],
        inputs: &Array,
        targets: Option<&Array>,
    ) -> Result<(), LearnError> {
        let shapes = |all: &[Buffer]| all.iter().map(|b| b.shape().clone()).collect::<Vec<_>>();
        let prepared = &self.learner.prepared;
        let steps = prepared.steps_of(&shapes(params), &shapes(states), inputs.shape(), targets.map(Array::shape))?;
        let warmup = self.learner.config().warmup;
        if targets.is_some() && warmup >= steps {
            return Err(LearnError::Setting(format!(
                "a sequence needs a step that carries loss, got {steps} steps of which {warmup} are warm-up; lower the warm-up"
            )));
        }
        Ok(())
    }

    /// Whether any of these targets carries loss; those of a warm-up do not.
    fn counted(&self, targets: Option<&Array>) -> bool {
        let (objective, warmup) = (self.learner.objective(), self.learner.config().warmup);
        targets.is_some_and(|targets| {
            let row =
                if objective.target.per_step { targets.shape().elements() / targets.shape().dims[0].max(1) } else { 0 };
            objective.counts_on_host(&targets.to_f64_vec()[row * warmup..])
        })
    }

    /// Shapes of parameters, states, and data.
    fn shapes<'a>(&self, data: impl IntoIterator<Item = &'a Shape>) -> Vec<Shape> {
        let mut all: Vec<Shape> = self.model.params.iter().map(|p| p.shape.clone()).collect();
        all.extend(self.model.states.iter().map(|s| s.shape.clone()));
        all.extend(data.into_iter().cloned());
        all
    }

    fn upload(&self, array: &Array) -> Result<Buffer, SessionError> {
        Ok(self.session.client.upload(array)?)
    }

    /// The program of that name for these shapes, compiled if it is not there yet.
    fn program(
        &self,
        name: &str,
        shapes: &[Shape],
        donated: &[(usize, usize)],
        body: impl FnOnce(&hlo::Graph, &[Tensor]) -> Vec<Tensor>,
    ) -> Result<Rc<Executable>, ProgramError> {
        let key = format!("{name} {shapes:?}");
        if let Some(known) = self.programs.borrow().get(&key) {
            return Ok(known.clone());
        }
        let func = Func::trace(shapes, body);
        let names = |what: &str, n: usize| (0..n).map(|k| format!("{what}{k}")).collect::<Vec<_>>();
        let (arguments, results) = (names("in", shapes.len()), names("out", func.results().len()));
        let word = name.split(' ').next().unwrap_or(name);
        let made = Rc::new(self.session.compile(word, &func, &arguments, &results, donated)?);
        self.programs.borrow_mut().insert(key, made.clone());
        Ok(made)
    }
}

fn array(buffer: &Buffer) -> Result<Array, SessionError> {
    Ok(buffer.to_array()?)
}

fn number(buffer: &Buffer) -> Result<f32, SessionError> {
    Ok(buffer.to_array()?.scalar::<f32>().map_err(hlo::pjrt::Error::from)?)
}
