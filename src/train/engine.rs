//! Training loops of one's own: a model, an objective and a rule on a device, called from Rust.
//!
//! An [`Engine`] holds parameters and optimiser state on the device. Inputs are numbers of any kind, targets what the objective says
//! ([`Target`](crate::learn::Target)). `etrace train` is the other way: runs with folders, checkpoints and resume, for tasks and networks
//! that a configuration can describe.

use hlo::{
    DType, Func, Shape, Tensor,
    array::Array,
    pjrt::{Arg, Buffer, Executable},
};

use super::{
    optimizer::Optimizer,
    program::{ProgramError, initial_states},
    session::{Session, SessionError},
};
use crate::{
    cell::Model,
    learn::{LearnError, Learner, Objective, sequence::LearnerConfig},
};

/// Why an [`Engine`] cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The rule, the objective or the model.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// The device, or a program.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// An array that does not fit.
    #[error("{0}")]
    Shape(String),
}

impl From<ProgramError> for EngineError {
    fn from(error: ProgramError) -> EngineError {
        match error {
            ProgramError::Learn(e) => EngineError::Learn(e),
            ProgramError::Session(e) => EngineError::Session(e),
        }
    }
}

impl From<hlo::pjrt::Error> for EngineError {
    fn from(error: hlo::pjrt::Error) -> EngineError {
        EngineError::Session(error.into())
    }
}

/// A model that learns, called from Rust.
pub struct Engine<'a> {
    session: &'a Session,
    model: Model,
    learner: Learner,
    optimizer: Optimizer,
    inputs: Shape,
    targets: Shape,
    gradient: Executable,
    update: Executable,
    outputs: Executable,
    params: Vec<Buffer>,
    slots: Vec<Buffer>,
    count: Buffer,
    updates: u64,
}

impl<'a> Engine<'a> {
    /// Compiles the programs for sequences of `steps` steps; parameters start as the model says for `seed`.
    ///
    /// # Errors
    /// When the rule cannot treat the model, the objective does not fit its output, states are drawn anew for every batch, or a
    /// program does not compile.
    pub fn new(
        session: &'a Session,
        model: Model,
        objective: &Objective,
        config: &LearnerConfig,
        optimizer: Optimizer,
        steps: usize,
        seed: u64,
    ) -> Result<Engine<'a>, EngineError> {
        let learner = Learner::new(&model, objective, config)?;
        if let Some(drawn) = model.states.iter().find(|s| s.init.is_drawn()) {
            return Err(EngineError::Shape(format!(
                "an engine starts every sequence from constants, got the state `{}` that is drawn anew for each; start it from zeros",
                drawn.name
            )));
        }
        if steps <= config.warmup {
            return Err(EngineError::Shape(format!(
                "a sequence needs a step that carries loss, got {steps} steps with a warm-up of {}; lower the warm-up",
                config.warmup
            )));
        }
        let inputs = Shape::f32([&[steps], &model.input.dims[..]].concat());
        let targets = learner.prepared.targets(steps);
        let programs = Programs { model: &model, learner: &learner, inputs: &inputs, targets: &targets };
        let (gradient, update, outputs) =
            (programs.gradient(session)?, programs.update(session, &optimizer)?, programs.outputs(session)?);
        let values =
            model.params.iter().map(|p| Array::f32(p.init.values(&p.shape, seed, &p.name), p.shape.dims.clone()));
        let values: Vec<Array> = values.collect::<Result<_, _>>().map_err(hlo::pjrt::Error::from)?;
        let params = values.iter().map(|a| session.client.upload(a)).collect::<Result<Vec<_>, _>>()?;
        let trained = model.params.iter().filter(|p| p.trainable);
        let zeros = trained.map(|p| Array::zeros(p.shape.clone())).collect::<Vec<_>>();
        let slots = (0..optimizer.rule.slots()).flat_map(|_| &zeros).map(|a| session.client.upload(a));
        let slots = slots.collect::<Result<Vec<_>, _>>()?;
        let count = session.client.upload(&Array::scalar_of(0i32))?;
        let updates = 0;
        Ok(Engine {
            session,
            learner,
            optimizer,
            inputs,
            targets,
            gradient,
            update,
            outputs,
            params,
            slots,
            count,
            updates,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the rule found in the model: groups, ops, paths, forms.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// The mean loss of a step, and its gradient by parameter in the order of [`Model::params`] (zeros for fixed ones).
    /// `inputs: [T, B, n_in]`, `targets` as the objective says; nothing is changed.
    ///
    /// # Errors
    /// When an array does not fit, or the device fails.
    pub fn gradient(&self, inputs: &Array, targets: &Array) -> Result<(f32, Vec<Array>), EngineError> {
        let data = self.upload(inputs, targets)?;
        let out = self.gradient.run(self.params.iter().chain(&data).map(Arg::Keep).collect())?;
        let mut out = out.iter().map(Buffer::to_array).collect::<Result<Vec<_>, _>>()?;
        let grads = out.split_off(1);
        Ok((scalar(&out[0])?, grads))
    }

    /// One update of the parameters; returns the mean loss of a step before it.
    ///
    /// # Errors
    /// When an array does not fit, or the device fails. After a failure of the device the engine is of no further use.
    pub fn update(&mut self, inputs: &Array, targets: &Array) -> Result<f32, EngineError> {
        let data = self.upload(inputs, targets)?;
        let rate = self.optimizer.lr * self.optimizer.schedule.factor(self.updates);
        let lr = self.session.client.upload(&Array::scalar_of(rate as f32))?;
        let all = self.params.iter().chain(&self.slots).chain([&self.count, &lr]).chain(&data);
        let mut out = self.update.run(all.map(Arg::Keep).collect())?.into_iter();
        let params: Vec<Buffer> = out.by_ref().take(self.params.len()).collect();
        let slots: Vec<Buffer> = out.by_ref().take(self.slots.len()).collect();
        let (Some(count), Some(loss)) = (out.next(), out.next()) else {
            return Err(EngineError::Shape("the update program gave fewer results than it has: a defect".into()));
        };
        (self.params, self.slots, self.count) = (params, slots, count);
        self.updates += 1;
        scalar(&loss.to_array()?)
    }

    /// The output of every step, `f32[T, B, C]`.
    ///
    /// # Errors
    /// When the inputs do not fit, or the device fails.
    pub fn outputs(&self, inputs: &Array) -> Result<Array, EngineError> {
        let inputs = self.session.client.upload(&fit(inputs, &self.inputs, "inputs [steps, batch, n_in]")?)?;
        let out = self.outputs.run(self.params.iter().chain([&inputs]).map(Arg::Keep).collect())?;
        Ok(out[0].to_array()?)
    }

    /// The parameters as they are now, in the order of [`Model::params`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn params(&self) -> Result<Vec<Array>, EngineError> {
        Ok(self.params.iter().map(Buffer::to_array).collect::<Result<Vec<_>, _>>()?)
    }

    /// Replaces the parameters; the optimiser keeps its state.
    ///
    /// # Errors
    /// When there is not one array of the right shape for each parameter, or the device fails.
    pub fn set_params(&mut self, params: &[Array]) -> Result<(), EngineError> {
        if params.len() != self.model.params.len() {
            return Err(EngineError::Shape(format!(
                "a model of {} parameters needs as many arrays, got {}; see Model::params for their order",
                self.model.params.len(),
                params.len()
            )));
        }
        let pairs = self.model.params.iter().zip(params);
        let fitted = pairs.map(|(p, a)| fit(a, &p.shape, &format!("the parameter `{}`", p.name)));
        let fitted = fitted.collect::<Result<Vec<_>, _>>()?;
        self.params = fitted.iter().map(|a| self.session.client.upload(a)).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn upload(&self, inputs: &Array, targets: &Array) -> Result<[Buffer; 2], EngineError> {
        let what = match self.targets.dtype {
            DType::S32 => "targets (classes)",
            _ => "targets (numbers)",
        };
        let inputs = fit(inputs, &self.inputs, "inputs [steps, batch, n_in]")?;
        let targets = fit(targets, &self.targets, what)?;
        Ok([self.session.client.upload(&inputs)?, self.session.client.upload(&targets)?])
    }
}

fn scalar(a: &Array) -> Result<f32, EngineError> {
    Ok(a.scalar::<f32>().map_err(hlo::pjrt::Error::from)?)
}

/// `array` in the type of `shape`, if it has its size.
fn fit(array: &Array, shape: &Shape, what: &str) -> Result<Array, EngineError> {
    if array.shape().dims != shape.dims {
        return Err(EngineError::Shape(format!(
            "{what} must be {shape}, got {}; reshape them, or make the engine for their size",
            array.shape()
        )));
    }
    if array.shape().dtype == shape.dtype {
        return Ok(array.clone());
    }
    let values = array.to_f64_vec();
    let dims = shape.dims.clone();
    let made = match shape.dtype {
        DType::S32 if values.iter().all(|v| v.fract() == 0.0) => {
            Array::s32(values.iter().map(|&v| v as i32).collect::<Vec<_>>(), dims)
        }
        DType::F32 => Array::f32(values.iter().map(|&v| v as f32).collect::<Vec<_>>(), dims),
        _ => return Err(EngineError::Shape(format!("{what} must be {shape}, got {}; convert them", array.shape()))),
    };
    Ok(made.map_err(hlo::pjrt::Error::from)?)
}

/// What the programs are made of.
struct Programs<'a> {
    model: &'a Model,
    learner: &'a Learner,
    inputs: &'a Shape,
    targets: &'a Shape,
}

impl Programs<'_> {
    fn shapes(&self) -> Vec<Shape> {
        self.model.params.iter().map(|p| p.shape.clone()).collect()
    }

    /// Mean loss of a step and gradients.
    fn learn(&self, g: &hlo::Graph, params: &[Tensor], data: &[Tensor]) -> (Tensor, Vec<Tensor>) {
        let counted = self.inputs.dims[0] - self.learner.config().warmup;
        let share = 1.0 / counted as f64;
        let states = initial_states(g, self.model, &[]);
        let out = self.learner.sequence(g, params, &states, &data[0], &data[1]);
        (out.loss * share, out.grads.iter().map(|d| d * share).collect())
    }

    fn gradient(&self, session: &Session) -> Result<Executable, SessionError> {
        let mut shapes = self.shapes();
        let n = shapes.len();
        shapes.extend([self.inputs.clone(), self.targets.clone()]);
        let func = Func::trace(&shapes, |g, v| {
            let (loss, grads) = self.learn(g, &v[..n], &v[n..]);
            [vec![loss], grads].concat()
        });
        compile(session, "gradient", &func)
    }

    fn update(&self, session: &Session, optimizer: &Optimizer) -> Result<Executable, SessionError> {
        let mut shapes = self.shapes();
        let n = shapes.len();
        let trained: Vec<usize> = (0..n).filter(|&k| self.model.params[k].trainable).collect();
        let slots = trained.len() * optimizer.rule.slots();
        let slot_shapes: Vec<Shape> =
            (0..optimizer.rule.slots()).flat_map(|_| trained.iter().map(|&k| shapes[k].clone())).collect();
        shapes.extend(slot_shapes);
        shapes.extend([Shape::s32([]), Shape::f32([]), self.inputs.clone(), self.targets.clone()]);
        let func = Func::trace(&shapes, |g, v| {
            let (params, rest) = v.split_at(n);
            let (old, rest) = rest.split_at(slots);
            let (loss, grads) = self.learn(g, params, &rest[2..]);
            let pick = |all: &[Tensor]| trained.iter().map(|&k| all[k].clone()).collect::<Vec<_>>();
            let updated = optimizer.update(&pick(params), &pick(&grads), old, &rest[0], &rest[1]);
            let mut results = params.to_vec();
            for (&k, new) in trained.iter().zip(updated.params) {
                results[k] = new;
            }
            results.extend(updated.slots);
            results.extend([updated.count, loss]);
            results
        });
        compile(session, "update", &func)
    }

    fn outputs(&self, session: &Session) -> Result<Executable, SessionError> {
        let mut shapes = self.shapes();
        let n = shapes.len();
        shapes.push(self.inputs.clone());
        let func = Func::trace(&shapes, |g, v| {
            let states = initial_states(g, self.model, &[]);
            let all = self.learner.observe(g, &v[..n], &states, &v[n]);
            vec![all[states.len()].clone()]
        });
        compile(session, "outputs", &func)
    }
}

fn compile(session: &Session, name: &str, func: &Func) -> Result<Executable, SessionError> {
    let names = |what: &str, count: usize| -> Vec<String> { (0..count).map(|k| format!("{what}{k}")).collect() };
    session.compile(name, func, &names("arg", func.params().len()), &names("result", func.results().len()), &[])
}
