//! Training as one program per batch: forward, learner, clipping, optimiser.
//!
//! ```text
//! train: (params, slots, count, lr, states, inputs, target) -> (params, slots, count, loss, accuracy, norm, l1)
//! eval:  (params, states, inputs, target)                   -> (losses, hits, out, spikes)
//! ```
//!
//! Parameters, slots and count are donated. States that start from constants are part of the program; those drawn anew for
//! every batch are arguments. Inputs arrive as bytes, `u8[T, B, n_in]`, and become numbers on the device, chunk by chunk.

use hlo::{
    DType, Func, Graph, Program, Shape, Tensor,
    array::Array,
    pjrt::{Arg, Buffer, Executable},
};

use super::{
    optimizer::{Optimizer, Rule},
    session::{Session, SessionError},
    update::{Argument, Given, Update, parameters},
};
use crate::{
    cell::{Model, StateInit},
    learn::{
        LearnError, Learner, Objective,
        objective::OfSum,
        sequence::{LearnerConfig, SequenceOut},
        updates::{Changed, Found},
    },
};

/// What a program is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The model as it is trained, for the batch size of the program.
    pub model: Model,
    /// The same model as it is evaluated: the same parameters, no dropout.
    pub evaluation: Model,
    /// What is minimised.
    pub objective: Objective,
    /// How gradients are found.
    pub learner: LearnerConfig,
    /// What is done with them.
    pub optimizer: Optimizer,
    /// Steps of a sequence.
    pub steps: usize,
    /// Divide the gradient by the number of steps that count (the published BPTT does), in place of their sum.
    pub mean_over_time: bool,
}

/// Everything that training changes, on the device.
pub struct TrainState {
    /// Parameters, trained and fixed, in the model's order.
    pub params: Vec<Buffer>,
    /// Optimiser state.
    pub slots: Vec<Buffer>,
    /// Updates so far, `s32[]`.
    pub count: Buffer,
}

/// What a training step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss per step that counts, or the loss of the summed output.
    pub loss: f32,
    /// Share of the batch whose summed output is largest at the target.
    pub accuracy: f32,
    /// Global norm of the gradient before clipping; with updates inside the sequence the largest of theirs.
    pub norm: f32,
    /// The term `weight_l1 * sum |w|` before the update, which `loss` leaves out.
    pub l1: f32,
}

/// A compiled training step.
pub struct TrainProgram {
    /// The compiled program.
    pub executable: Executable,
    learner: Learner,
    update: Update,
}

/// A compiled evaluation.
pub struct EvalProgram {
    /// The compiled program.
    pub executable: Executable,
    model: Model,
    /// Layers that fire.
    layers: Vec<String>,
}

/// What the evaluation of a batch of B sequences says.
pub struct EvalReport {
    /// Loss of each sequence, `[B]`.
    pub losses: Vec<f32>,
    /// 1 where the largest output is the target's, `[B]`.
    pub hits: Vec<f32>,
    /// Output summed over the steps that count, `[B, C]`.
    pub out: Vec<f32>,
    /// Spikes per neuron and step of each layer that fires, `[B]` each.
    pub rates: Vec<Vec<f32>>,
}

/// The next value of a tracked array, see [`Tracked`](crate::cell::Tracked).
fn average(old: &Tensor, mean: &Tensor, momentum: f64, count: &Tensor) -> Tensor {
    let n = count.convert(DType::F32);
    let early = (&n + 1.0) / (&n + 10.0);
    let kept = early.minimum(&early.full_like(momentum)).broadcast_to(old.dims());
    old * &kept + mean * (1.0 - &kept)
}

/// States at the start of a sequence: constants of the program, or arguments.
pub(super) fn initial_states(g: &Graph, model: &Model, given: &[Tensor]) -> Vec<Tensor> {
    let mut given = given.iter();
    let state = |s: &crate::cell::StateSpec| match s.init {
        StateInit::Zeros => g.zeros(&s.shape),
        StateInit::Constant(c) => g.full(&s.shape, c),
        StateInit::Uniform(..) | StateInit::Key => given.next().cloned().unwrap_or_else(|| g.zeros(&s.shape)),
    };
    model.states.iter().map(state).collect()
}

/// The states that every batch draws anew, for batch number `step` of the run with `seed`.
pub fn drawn_states(model: &Model, seed: u64, step: u64) -> Vec<Array> {
    model
        .states
        .iter()
        .filter(|s| s.init.is_drawn())
        .filter_map(|s| Array::f32(s.init.values(&s.shape, seed, &s.name, step), s.shape.dims.clone()).ok())
        .collect()
}

/// A batch of sequences as arguments: drawn states, inputs, targets.
fn sequences(model: &Model, steps: usize) -> Vec<Argument> {
    let drawn = model.states.iter().filter(|s| s.init.is_drawn());
    let mut all: Vec<Argument> = drawn.map(|s| (format!("state.{}", s.name), s.shape.clone())).collect();
    all.push(("inputs".into(), Shape::new(DType::U8, [&[steps], &model.input.dims[..]].concat())));
    all.push(("target".into(), Shape::s32([model.batch()])));
    all
}

/// Fresh parameters and optimiser state for `seed`.
///
/// # Errors
/// When an upload fails.
pub fn start(session: &Session, model: &Model, rule: Rule, seed: u64) -> Result<TrainState, SessionError> {
    let upload = |array: Array| session.client.upload(&array);
    let params = model
        .params
        .iter()
        .map(|p| upload(Array::from_bytes(p.shape.clone(), bytes_of(&p.init.values(&p.shape, seed, &p.name)))?))
        .collect::<Result<_, hlo::pjrt::Error>>()?;
    let trained: Vec<&Shape> = model.params.iter().filter(|p| p.trainable).map(|p| &p.shape).collect();
    let slots = (0..rule.slots())
        .flat_map(|_| &trained)
        .map(|shape| upload(Array::zeros((*shape).clone())))
        .collect::<Result<_, _>>()?;
    Ok(TrainState { params, slots, count: upload(Array::scalar_of(0i32))? })
}

/// 1 where the largest output is the target's, `f32[B]`.
pub(super) fn hits(out: &Tensor, target: &Tensor) -> Tensor {
    let hit = out.argmax_last().eq(target);
    hit.convert(DType::F32)
}

/// What the training program computes.
struct Body<'a> {
    spec: &'a Spec,
    learner: &'a Learner,
    update: &'a Update,
}

/// What updates have made of parameters and optimiser.
struct Updates {
    params: Vec<Tensor>,
    /// The optimiser's slots and its count.
    changed: Vec<Tensor>,
    /// Norm of the gradient; of several the largest, so that it is not finite if one of them is not.
    norm: Tensor,
}

impl Body<'_> {
    /// What a loss summed over the steps that count is multiplied by for the mean.
    fn per_step(&self) -> f64 {
        let counted = self.spec.steps - self.spec.learner.warmup.min(self.spec.steps);
        let one_loss = self.spec.objective.of_sum == OfSum::Always;
        if one_loss { 1.0 } else { 1.0 / counted.max(1) as f64 }
    }

    /// (parameters that change, slots, count, loss, accuracy, norm, l1).
    fn results(&self, g: &Graph, arguments: &[Tensor]) -> Vec<Tensor> {
        let Spec { model, objective, optimizer, .. } = self.spec;
        let given = self.update.split(arguments);
        let Given { params, count, .. } = given;
        let (drawn, data) = given.rest.split_at(given.rest.len() - 2);
        let states = initial_states(g, model, drawn);
        let (made, out) = match self.learner.config().update_every {
            None => {
                let out = self.learner.sequence(g, params, &states, &data[0], &data[1]);
                let counts = objective.counts(&data[1]);
                let found = Found { params, grads: &out.grads, counts, carried: &[] };
                (self.update(&found, given.slots, count, given.lr), out)
            }
            Some(every) => self.updates(g, every, &given, &states, data),
        };
        let mut new = made.params;
        // Running statistics move once a sequence.
        for (t, mean) in model.tracked.iter().zip(&out.tracked) {
            new[t.param] = average(&params[t.param], mean, t.momentum, count);
        }
        let mut results: Vec<Tensor> = self.update.changed.iter().map(|&k| new[k].clone()).collect();
        results.extend(made.changed);
        let accuracy = (hits(&out.out, &data[1]) * objective.weights(&data[1])).mean_all();
        results.extend([out.loss * self.per_step(), accuracy, made.norm]);
        results.push(optimizer.l1(g, &self.update.trained(params)));
        results
    }

    /// A sequence with updates inside.
    fn updates(
        &self,
        g: &Graph,
        every: usize,
        given: &Given<'_>,
        states: &[Tensor],
        data: &[Tensor],
    ) -> (Updates, SequenceOut) {
        let n = given.slots.len();
        let carried = [given.slots, &[given.count.clone(), g.scalar(DType::F32, 0.0), given.lr.clone()]].concat();
        let each = |_: &Graph, found: Found<'_>| {
            let (slots, rest) = found.carried.split_at(n);
            let made = self.update(&found, slots, &rest[0], &rest[2]);
            let norm = made.norm.maximum(&rest[1]);
            Changed { params: made.params, carried: [made.changed, vec![norm, rest[2].clone()]].concat() }
        };
        let start = (given.params, carried);
        let (new, out) = self.learner.sequence_with_updates(g, every, start, states, (&data[0], &data[1]), &each);
        let (params, changed, norm) = (new.params, new.carried[..=n].to_vec(), new.carried[n + 1].clone());
        (Updates { params, changed, norm }, out)
    }

    /// One update.
    fn update(&self, found: &Found<'_>, slots: &[Tensor], count: &Tensor, lr: &Tensor) -> Updates {
        let scale = if self.spec.mean_over_time { self.per_step() } else { 1.0 };
        let grads: Vec<Tensor> = self.update.trained(found.grads).iter().map(|d| d * scale).collect();
        let trained = self.update.trained(found.params);
        let updated = self.spec.optimizer.update(&trained, &grads, slots, (count, lr), found.counts.as_ref());
        let params = self.update.replaced(found.params, updated.params);
        Updates { params, changed: [updated.slots, vec![updated.count]].concat(), norm: updated.norm }
    }
}

impl TrainProgram {
    /// Traces and compiles.
    ///
    /// # Errors
    /// When the learner refuses the model or the program does not compile.
    pub fn new(session: &Session, spec: &Spec) -> Result<TrainProgram, ProgramError> {
        let (program, learner) = TrainProgram::lower(spec)?;
        let executable = session.client.compile(&program, &session.options).map_err(SessionError::from)?;
        Ok(TrainProgram { executable, learner, update: Update::new(&spec.model, spec.optimizer.rule) })
    }

    /// The program as XLA takes it, for any device.
    ///
    /// # Errors
    /// When the learner refuses the model.
    pub fn lower(spec: &Spec) -> Result<(Program, Learner), ProgramError> {
        spec.objective.one_class()?;
        let learner = Learner::new(&spec.model, &spec.objective, &spec.learner.within(spec.steps))?;
        let model = &spec.model;
        let update = Update::new(model, spec.optimizer.rule);
        let arguments = update.arguments(model, sequences(model, spec.steps));
        let shapes: Vec<Shape> = arguments.iter().map(|(_, shape)| shape.clone()).collect();
        let body = Body { spec, learner: &learner, update: &update };
        let func = Func::trace(&shapes, |g, v| body.results(g, v));
        let program = update.lower("train", &func, arguments, &["loss", "accuracy", "norm", "l1"]);
        Ok((program.map_err(SessionError::from)?, learner))
    }

    /// The learner inside.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// One step. `drawn` are the states of [`drawn_states`].
    ///
    /// # Errors
    /// When data do not fit the program or the device fails.
    pub fn step(
        &self,
        session: &Session,
        state: TrainState,
        lr: f32,
        drawn: &[Array],
        inputs: &Array,
        target: &Array,
    ) -> Result<(TrainState, StepReport), SessionError> {
        let lr = session.client.upload(&Array::scalar_of(lr))?;
        let drawn = drawn.iter().map(|a| session.client.upload(a)).collect::<Result<Vec<_>, _>>()?;
        let data = [session.client.upload(inputs)?, session.client.upload(target)?];
        let (state, report) = self.step_on_device(state, &lr, &drawn, &data)?;
        let value = |b: &Buffer| -> Result<f32, SessionError> {
            Ok(b.to_array()?.scalar::<f32>().map_err(hlo::pjrt::Error::from)?)
        };
        let [loss, accuracy, norm, l1] = [0, 1, 2, 3].map(|k| value(&report[k]));
        Ok((state, StepReport { loss: loss?, accuracy: accuracy?, norm: norm?, l1: l1? }))
    }

    /// One step on data that are on the device already; the results are those of a [`StepReport`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn step_on_device(
        &self,
        state: TrainState,
        lr: &Buffer,
        drawn: &[Buffer],
        data: &[Buffer; 2],
    ) -> Result<(TrainState, Vec<Buffer>), SessionError> {
        self.update.run(&self.executable, state, lr, drawn.iter().chain(data))
    }
}

impl EvalProgram {
    /// Traces and compiles.
    ///
    /// # Errors
    /// When the program does not compile.
    pub fn new(session: &Session, spec: &Spec) -> Result<EvalProgram, ProgramError> {
        spec.objective.one_class()?;
        let learner = Learner::new(&spec.evaluation, &spec.objective, &spec.learner.without_learning())?;
        let model = &spec.evaluation;
        let arguments = [parameters(model), sequences(model, spec.steps)].concat();
        let shapes: Vec<Shape> = arguments.iter().map(|(_, s)| s.clone()).collect();
        let n = model.params.len();
        let counted = (spec.steps - spec.learner.warmup.min(spec.steps)).max(1) as f64;
        let func = Func::trace(&shapes, |g, v| {
            let (given, data) = v[n..].split_at(v.len() - n - 2);
            let states = initial_states(g, model, given);
            let all = learner.evaluate(g, &v[..n], &states, &data[0], &data[1]);
            let losses = if spec.objective.of_sum == OfSum::Never { all.losses * (1.0 / counted) } else { all.losses };
            let mut results = vec![losses, hits(&all.out, &data[1]), all.out];
            results.extend(all.spikes.into_iter().map(|s| s * (1.0 / spec.steps.max(1) as f64)));
            results
        });
        let names: Vec<String> = arguments.into_iter().map(|(n, _)| n).collect();
        let mut results = ["losses", "hits", "out"].map(String::from).to_vec();
        let layers: Vec<String> = model.spiking().map(|(_, layer)| layer.to_string()).collect();
        results.extend(layers.iter().enumerate().map(|(k, _)| format!("rate.{k}")));
        let executable = session.compile("eval", &func, &names, &results, &[])?;
        Ok(EvalProgram { executable, model: model.clone(), layers })
    }

    /// Runs a batch.
    ///
    /// # Errors
    /// When data do not fit the program or the device fails.
    pub fn run(
        &self,
        session: &Session,
        params: &[Buffer],
        drawn: &[Array],
        inputs: &Array,
        target: &Array,
    ) -> Result<EvalReport, SessionError> {
        let data =
            drawn.iter().chain([inputs, target]).map(|a| session.client.upload(a)).collect::<Result<Vec<_>, _>>()?;
        let out = self.executable.run(params.iter().chain(&data).map(Arg::Keep).collect())?;
        let vector = |b: &Buffer| -> Result<Vec<f32>, SessionError> {
            Ok(b.to_array()?.to_vec().map_err(hlo::pjrt::Error::from)?)
        };
        Ok(EvalReport {
            losses: vector(&out[0])?,
            hits: vector(&out[1])?,
            out: vector(&out[2])?,
            rates: out[3..].iter().map(vector).collect::<Result<_, _>>()?,
        })
    }

    /// The model inside.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Names of the layers that fire.
    pub fn layers(&self) -> &[String] {
        &self.layers
    }
}

/// A program could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The learner refused.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// The runtime failed.
    #[error(transparent)]
    Session(#[from] SessionError),
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
