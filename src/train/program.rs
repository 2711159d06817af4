//! Training as one program per batch: forward, learner, clipping, optimiser.
//!
//! ```text
//! train: (params, slots, count, lr, states, inputs, target) -> (params, slots, count, loss, score, norm, l1)
//! eval:  (params, states, inputs, target)                   -> (losses, scores, out, spikes)
//! ```
//!
//! Parameters, slots and count are donated. States that start from constants are part of the program; those drawn anew for
//! every batch are arguments. Inputs arrive as bytes, `u8[T, B, n_in]`, and become numbers on the device, chunk by chunk.

use hlo::{
    DType, Func, Graph, Program, Shape, Tensor,
    array::Array,
    pjrt::{Buffer, Executable},
};

use super::{
    forward::{self, Forward},
    optimizer::{Optimizer, Rule},
    replicas::{Means, Parts},
    session::{Session, SessionError},
    update::{Argument, Given, Update},
};
use crate::{
    cell::{Model, ParamSpec, StateInit, StateSpec},
    learn::{
        LearnError, Learner, Objective,
        objective::{OfSum, Target},
        sequence::{LearnerConfig, SequenceOut},
        updates::{Changed, Found},
    },
};

pub use super::{fed::Fed, replicas::TrainState};

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
    /// How many devices share a batch: models and programs are those of a part of it.
    pub parts: Parts,
}

impl Spec {
    /// Sequences of a batch, on all devices together.
    pub fn batch(&self) -> usize {
        self.model.batch() * self.parts.0
    }
}

/// What a training step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss per step that counts, or the loss of the summed output.
    pub loss: f32,
    /// How good the outputs are, a mean over the sequences: the share whose summed output is largest at the target, or that of the steps
    /// whose output is; where targets are numbers, the normalised mean squared error.
    pub score: f32,
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
    parts: Parts,
}

/// A compiled evaluation.
pub struct EvalProgram {
    pub(super) forward: Forward,
    /// Layers that fire.
    layers: Vec<String>,
    target: Target,
}

/// What the evaluation of a batch of B sequences says.
pub struct EvalReport {
    /// Loss of each sequence, `[B]`.
    pub losses: Vec<f32>,
    /// 1 where the largest output is the target's; where each step has a target, the share of right steps or the normalised mean squared
    /// error. `[B]`.
    pub scores: Vec<f32>,
    /// Output summed over the steps that count, `[B, C]`; where each step has a target, that of each, `[T - warmup, B, C]`.
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

/// The states that every batch draws anew, for batch number `step` of the run with `seed`: those of the whole batch, of which `model`
/// has one of `parts`.
pub fn drawn_states(model: &Model, parts: Parts, seed: u64, step: u64) -> Vec<Array> {
    let drawn = model.states.iter().filter(|s| s.init.is_drawn());
    let values = |s: &StateSpec| {
        let shape = parts.whole(&s.shape, 0);
        Array::f32(s.init.values(&shape, seed, &s.name, step), shape.dims.clone()).ok()
    };
    drawn.filter_map(values).collect()
}

/// A batch of sequences as arguments: drawn states, inputs, targets.
pub(super) fn sequences(model: &Model, steps: usize, target: Target) -> Vec<Argument> {
    let drawn = model.states.iter().filter(|s| s.init.is_drawn());
    let mut all: Vec<Argument> = drawn.map(|s| (format!("state.{}", s.name), s.shape.clone())).collect();
    all.push(("inputs".into(), Shape::new(DType::U8, [&[steps], &model.input.dims[..]].concat())));
    all.push(("target".into(), target.of_sequence(steps, model.batch(), model.output.dims[1])));
    all
}

/// Fresh parameters and optimiser state for `seed`.
///
/// # Errors
/// When an upload fails.
pub fn start(session: &Session, model: &Model, rule: Rule, seed: u64) -> Result<TrainState, SessionError> {
    let value = |p: &ParamSpec| Array::from_bytes(p.shape.clone(), bytes_of(&p.init.values(&p.shape, seed, &p.name)));
    let params = model.params.iter().map(value).collect::<Result<Vec<_>, _>>().map_err(hlo::pjrt::Error::from)?;
    start_with(session, model, rule, &params)
}

/// These parameters, and fresh optimiser state.
///
/// # Errors
/// When an upload fails.
pub fn start_with(session: &Session, model: &Model, rule: Rule, params: &[Array]) -> Result<TrainState, SessionError> {
    let trained: Vec<&Shape> = model.params.iter().filter(|p| p.trainable).map(|p| &p.shape).collect();
    let slots = (0..rule.slots()).flat_map(|_| &trained).map(|shape| Array::zeros((*shape).clone()));
    TrainState::upload(session, params, &slots.collect::<Vec<_>>(), &Array::scalar_of(0i32))
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

    /// (parameters that change, slots, count, loss, score, norm, l1).
    fn results(&self, g: &Graph, arguments: &[Tensor]) -> Vec<Tensor> {
        let Spec { model, objective, optimizer, parts, .. } = self.spec;
        let given = self.update.split(arguments);
        let Given { params, count, .. } = given;
        let (drawn, data) = given.rest.split_at(given.rest.len() - 2);
        let states = initial_states(g, model, drawn);
        let share = parts.share(objective, &data[1]);
        let (made, report, tracked) = match self.learner.config().update_every {
            None => {
                let out = self.learner.sequence(g, params, &states, &data[0], &data[1]);
                let mut all = self.update.trained(&out.grads);
                all.extend(self.report(&out, &data[1]));
                // Everything that devices tell each other, in one exchange.
                let Means { mut counted, tracked, counts } =
                    parts.mean(all, out.tracked, share.as_ref(), objective.counts(&data[1]));
                let report = counted.split_off(counted.len() - 2);
                (self.update(params, &counted, counts, given.slots, (count, given.lr)), report, tracked)
            }
            Some(every) => {
                let (made, out) = self.updates(g, every, &given, &states, data, share.as_ref());
                let means = parts.mean(self.report(&out, &data[1]).into(), out.tracked, share.as_ref(), None);
                (made, means.counted, means.tracked)
            }
        };
        let mut new = made.params;
        // Running statistics move once a sequence.
        for (t, mean) in model.tracked.iter().zip(&tracked) {
            new[t.param] = average(&params[t.param], mean, t.momentum, count);
        }
        let mut results: Vec<Tensor> = self.update.changed.iter().map(|&k| new[k].clone()).collect();
        results.extend(made.changed);
        results.extend(report);
        results.extend([made.norm, optimizer.l1(g, &self.update.trained(params))]);
        results
    }

    /// Loss and score of a sequence, as means over its batch.
    fn report(&self, out: &SequenceOut, target: &Tensor) -> [Tensor; 2] {
        let Spec { objective, learner, steps, .. } = self.spec;
        let scores = match &out.score {
            None => hits(&out.out, target) * objective.weights(target),
            Some(sum) => {
                let real = objective.real(target);
                let share = real.mean_all();
                let share = share.maximum(&share.full_like(1e-9)).broadcast_to(real.dims());
                objective.score(sum, target, learner.warmup.min(*steps)) * (real / share)
            }
        };
        [&out.loss * self.per_step(), scores.mean_all()]
    }

    /// A sequence with updates inside.
    fn updates(
        &self,
        g: &Graph,
        every: usize,
        given: &Given<'_>,
        states: &[Tensor],
        data: &[Tensor],
        share: Option<&Tensor>,
    ) -> (Updates, SequenceOut) {
        let n = given.slots.len();
        let mut carried = [given.slots, &[given.count.clone(), g.scalar(DType::F32, 0.0), given.lr.clone()]].concat();
        carried.extend(share.cloned());
        let each = |_: &Graph, found: Found<'_>| {
            let (slots, rest) = found.carried.split_at(n);
            let means = self.spec.parts.mean(self.update.trained(found.grads), vec![], rest.get(3), found.counts);
            let made = self.update(found.params, &means.counted, means.counts, slots, (&rest[0], &rest[2]));
            let norm = made.norm.maximum(&rest[1]);
            let carried = [made.changed, vec![norm], rest[2..].to_vec()].concat();
            Changed { params: made.params, carried }
        };
        let start = (given.params, carried);
        let (new, out) = self.learner.sequence_with_updates(g, every, start, states, (&data[0], &data[1]), &each);
        let (params, changed, norm) = (new.params, new.carried[..=n].to_vec(), new.carried[n + 1].clone());
        (Updates { params, changed, norm }, out)
    }

    /// One update by the gradients of the trained parameters; none where `counts` says that no step carries loss.
    fn update(
        &self,
        params: &[Tensor],
        grads: &[Tensor],
        counts: Option<Tensor>,
        slots: &[Tensor],
        by: (&Tensor, &Tensor),
    ) -> Updates {
        let scale = if self.spec.mean_over_time { self.per_step() } else { 1.0 };
        let grads: Vec<Tensor> = grads.iter().map(|d| d * scale).collect();
        let trained = self.update.trained(params);
        let updated = self.spec.optimizer.update(&trained, &grads, slots, by, counts.as_ref());
        let params = self.update.replaced(params, updated.params);
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
        let executable = spec.parts.compile(session, &program)?;
        Ok(TrainProgram {
            executable,
            learner,
            update: Update::new(&spec.model, spec.optimizer.rule),
            parts: spec.parts,
        })
    }

    /// The program as XLA takes it, for any device.
    ///
    /// # Errors
    /// When the learner refuses the model.
    pub fn lower(spec: &Spec) -> Result<(Program, Learner), ProgramError> {
        spec.objective.of_a_task()?;
        let learner =
            Learner::new(&spec.model, &spec.objective, &spec.learner.within(spec.steps))?.shared_by(spec.parts.0);
        let model = &spec.model;
        spec.parts.check(model, &spec.objective, learner.rule())?;
        let update = Update::new(model, spec.optimizer.rule);
        let arguments = update.arguments(model, sequences(model, spec.steps, spec.objective.target));
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

    /// One step on the rows of a batch that are this process's, of which each device takes its part. `drawn` are the states of
    /// [`drawn_states`], of the whole batch.
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
        let given = Fed::upload(session, self.parts, Some(lr), drawn, inputs, target)?;
        let (state, report) = self.step_on_device(state, &given)?;
        let value = |b: &Buffer| -> Result<f32, SessionError> {
            Ok(b.to_array()?.scalar::<f32>().map_err(hlo::pjrt::Error::from)?)
        };
        let [loss, score, norm, l1] = [0, 1, 2, 3].map(|k| value(&report[k]));
        Ok((state, StepReport { loss: loss?, score: score?, norm: norm?, l1: l1? }))
    }

    /// As [`TrainProgram::step`], on what is on the devices already; the values of the [`StepReport`] stay there.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step_on_device(&self, state: TrainState, given: &Fed) -> Result<(TrainState, Vec<Buffer>), SessionError> {
        let given: Vec<Vec<&Buffer>> = given.0.iter().map(|on| on.iter().collect()).collect();
        self.update.run(&self.executable, state, &given)
    }
}

impl EvalProgram {
    /// Traces and compiles.
    ///
    /// # Errors
    /// When the program does not compile.
    pub fn new(session: &Session, spec: &Spec) -> Result<EvalProgram, ProgramError> {
        spec.objective.of_a_task()?;
        let learner = Learner::new(&spec.evaluation, &spec.objective, &spec.learner.without_learning())?;
        let target = spec.objective.target;
        let counted = (spec.steps - spec.learner.warmup.min(spec.steps)).max(1) as f64;
        let layers: Vec<String> = spec.evaluation.spiking().map(|(_, layer)| layer.to_string()).collect();
        let rates = layers.iter().enumerate().map(|(k, _)| format!("rate.{k}"));
        let results: Vec<String> = ["losses", "scores", "out"].map(String::from).into_iter().chain(rates).collect();
        let forward = Forward::new(session, spec, "eval", &results, |g, given| {
            let forward::Given { params, states, inputs, target: answers } = given;
            let all = learner.evaluated(g, params, states, (inputs, answers), target.per_step);
            let losses = if spec.objective.of_sum == OfSum::Never { all.losses * (1.0 / counted) } else { all.losses };
            let mut results = match all.each {
                None => vec![losses, hits(&all.out, answers), all.out],
                Some(each) => vec![losses, spec.objective.scores_of(&each, answers), each],
            };
            results.extend(all.spikes.into_iter().map(|s| s * (1.0 / spec.steps.max(1) as f64)));
            results
        })?;
        Ok(EvalProgram { forward, layers, target })
    }

    /// Runs a whole batch with the parameters of `state`. `drawn` are the states of [`drawn_states`].
    ///
    /// # Errors
    /// When data do not fit the program or the device fails.
    pub fn run(
        &self,
        state: &TrainState,
        drawn: &[Array],
        inputs: &Array,
        target: &Array,
    ) -> Result<EvalReport, SessionError> {
        self.report(&self.forward.run(state, drawn, inputs, target)?)
    }

    /// What the values of a batch say.
    pub(super) fn report(&self, values: &forward::Values) -> Result<EvalReport, SessionError> {
        let rates = (3..3 + self.layers.len()).map(|k| values.whole(k)).collect::<Result<_, _>>()?;
        let (mut out, Parts(parts)) = (values.whole(2)?, self.forward.parts());
        if self.target.per_step && parts > 1 {
            // [part, T, B / parts, C] to [T, B, C].
            let row = self.forward.model().output.elements();
            let steps = out.len() / (row * parts);
            let rows = (0..steps).flat_map(|t| (0..parts).map(move |k| (k * steps + t) * row));
            out = rows.flat_map(|at| out[at..at + row].iter().copied()).collect();
        }
        Ok(EvalReport { losses: values.whole(0)?, scores: values.whole(1)?, out, rates })
    }

    /// What the outputs are compared with.
    pub fn target(&self) -> Target {
        self.target
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
