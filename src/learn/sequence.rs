//! A whole sequence under any method: what a training program is made of.

use std::{cell::OnceCell, ops::Deref};

use hlo::{DType, Func, Graph, Range, Shape, Tensor, transform::vjp};

pub use super::config::LearnerConfig;
use super::{
    Attachment, LearnError, Objective, Prepared, Rule, Structure, Vjp,
    backwards::{Backwards, Keep},
    check,
    form::{Form, Lagged},
    objective::OfSum,
    paths::Paths,
    recursion::Filter,
    rings::Rings,
    signal::{Ahead, Signal},
    trace::{Slot, TraceKind, TracePlan, Traces},
};
use crate::cell::Model;

/// A model, an objective and a rule, ready to emit training programs.
pub struct Learner {
    /// Step and loss.
    pub prepared: Prepared,
    /// What the graph of the step says, and what the rule's traces reach.
    pub structure: Structure,
    /// The same with a filter behind every trace, if the rule has one.
    filtered: Option<Structure>,
    /// What an online rule follows from each trained parameter to the loss, and what it leaves out.
    pub paths: Vec<Paths>,
    /// How traced ops learn.
    pub plan: TracePlan,
    pub(super) objective: Objective,
    /// Whether a sequence is passed twice: its loss is one of the summed output, which the rule cannot wait for.
    pub(super) twice: bool,
    rule: Box<dyn Deref<Target = dyn Rule>>,
    pub(super) config: LearnerConfig,
    batch: usize,
    /// Devices that share a batch, each with a learner of a part of it.
    pub(super) parts: usize,
    pub(super) lagged: OnceCell<Lagged>,
    pub(super) kept: OnceCell<usize>,
    /// Between which numbers each `phi` lies: known where it is made of fixed parameters alone.
    pub(super) ranges: Vec<Range>,
    /// Groups of readouts whose memory signals follow.
    pub(super) readouts: Vec<usize>,
    /// Positions of spikes among the observed values.
    pub(super) spikes: Vec<usize>,
}

/// Result of a sequence.
pub struct SequenceOut {
    /// Gradient of the summed loss for every parameter (zeros for fixed ones).
    pub grads: Vec<Tensor>,
    /// Loss of each step summed over the steps that count, a scalar.
    pub loss: Tensor,
    /// Output summed over the steps that count, `[B, C]`.
    pub out: Tensor,
    /// Tracked values, their means over all steps.
    pub tracked: Vec<Tensor>,
    /// States after the sequence.
    pub states: Vec<Tensor>,
    /// Where each step has a class or a vector for its target: right answers of the steps that count, or their squared errors (means over
    /// the outputs), summed, `[B]`.
    pub score: Option<Tensor>,
}

/// A sequence with its labels.
#[derive(Clone, Copy)]
pub(super) struct Data<'a> {
    /// `[T, B, n_in]`, of any type.
    pub inputs: &'a Tensor,
    /// As the objective says: `[B, ..]`, or `[T, B, ..]` where every step has its own.
    pub target: &'a Tensor,
}

/// What passes from chunk to chunk.
#[derive(Clone)]
pub struct Carry {
    /// States.
    pub states: Vec<Tensor>,
    /// Traces; `None` while all are zero.
    pub traces: Option<Traces>,
    /// Steps since the start of the sequence, `s32[]`.
    pub time: Tensor,
    /// Which of the traces are rings of the last steps.
    pub rings: Rings,
}

/// Bytes that the stacks of a chunk may have where no trace is as large as a weight.
const CACHE_BUDGET: usize = 32 << 20;

/// The same where some are.
const FULL_BUDGET: usize = 160 << 20;

/// Chunks longer than this bring little more speed. It divides the lengths of the published evaluation, so that memory is the
/// same for all of them.
const LONGEST_CHUNK: usize = 50;

impl Learner {
    /// Joins `model`, `objective` and `config`.
    ///
    /// # Errors
    /// When the rule cannot treat the model, or a setting makes no sense.
    pub fn new(model: &Model, objective: &Objective, config: &LearnerConfig) -> Result<Learner, LearnError> {
        Learner::with_rule(model, objective, config, Box::new(config.method))
    }

    /// As [`Learner::new`], with a rule that is not in the table: `Box::new(rule)` of a `Box<dyn Rule>`. The rule takes the place
    /// of `config.method`.
    ///
    /// # Errors
    /// When the rule cannot treat the model, or a setting makes no sense.
    pub fn with_rule(
        model: &Model,
        objective: &Objective,
        config: &LearnerConfig,
        rule: Box<dyn Deref<Target = dyn Rule>>,
    ) -> Result<Learner, LearnError> {
        check::config(config)?;
        rule.check()?;
        objective.check(model.batch(), model.output.dims[1])?;
        if objective.of_sum == OfSum::Always && objective.regularized() {
            let text =
                "regularisers act on single steps, but the loss is one of the summed output; leave one of them out";
            return Err(LearnError::Setting(text.into()));
        }
        let twice = objective.of_sum == OfSum::Always && (rule.is_online() || rule.recomputes());
        super::updates::check(config, &**rule, objective, twice)?;
        let step_objective = if twice { Objective::along_a_derivative() } else { objective.clone() };
        let mut prepared = Prepared::new(model, &step_objective);
        prepared.given_target = objective.target.of_step(model.batch(), model.output.dims[1]);
        let structure = Structure::new(&prepared)?;
        check::signals(config.vjp, &**rule)?;
        check::feedback(config.vjp, &**rule, &prepared, &structure)?;
        let structure = rule.recursion().structure(structure, &prepared);
        let mut paths = Vec::new();
        if rule.is_online() {
            let names: Vec<String> = model.states.iter().map(|s| s.name.clone()).collect();
            if !check::traceless(&**rule, &structure) {
                structure.check_online(&prepared, &names)?;
            }
            paths = super::paths::paths(model, &prepared, &structure, config, &**rule)?;
        }
        check::projection(&**rule, &structure)?;
        let mut plan = TracePlan::new(&**rule, config.old_correction, &structure);
        if rule.non_causal().is_some() {
            plan.slopes = super::non_causal::slopes(&prepared, &structure);
        }
        check::filter(&plan)?;
        check::complete(&plan, &structure, model.batch())?;
        check::maps(&**rule, &plan, &structure)?;
        let filtered = (plan.filter > 0.0).then(|| Filter(plan.filter).structure(&structure));
        let ranges = prepared.prefix.ranges_of(&(0..model.params.len()).map(|k| model.range(k)).collect::<Vec<_>>());
        let is_readout = |g: &usize| structure.groups[*g].states.iter().all(|&s| model.states[s].readout);
        let ahead = config.signal == Ahead::Readout;
        let readouts = (0..structure.groups.len()).filter(|g| ahead && is_readout(g)).collect();
        let learner = Learner {
            prepared,
            structure,
            filtered,
            paths,
            plan,
            objective: objective.clone(),
            twice,
            rule,
            config: config.clone(),
            batch: model.batch(),
            parts: 1,
            lagged: OnceCell::new(),
            kept: OnceCell::new(),
            ranges,
            readouts,
            spikes: model.spiking().map(|(k, _)| k).collect(),
        };
        learner.check_form()?;
        Ok(learner)
    }

    /// The learner of one of so many devices that share a batch and average their gradients.
    #[must_use]
    pub fn shared_by(mut self, parts: usize) -> Learner {
        self.parts = parts;
        self
    }

    /// The rule.
    pub fn rule(&self) -> &dyn Rule {
        &**self.rule
    }

    /// What the traces are told of the step: the structure, with a filter behind every trace if the rule has one. (Positions of states in
    /// its groups are those of traces.)
    pub fn as_traced(&self) -> &Structure {
        self.filtered.as_ref().unwrap_or(&self.structure)
    }

    pub(super) fn filter(&self) -> Option<Filter> {
        self.filtered.is_some().then_some(Filter(self.plan.filter))
    }

    /// A signal as traces meet it.
    pub(super) fn filtered(&self, signal: Signal) -> Signal {
        if let Some(filter) = self.filter() { filter.signal(signal) } else { signal }
    }

    /// Whether the rule has no traces, and learns from each step by itself.
    pub(super) fn traceless(&self) -> bool {
        check::traceless(self.rule(), &self.structure)
    }

    /// What is minimised.
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// The settings.
    pub fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// Sequences in a batch.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Steps that are computed together, in a sequence of `steps`.
    pub fn chunk_length(&self, steps: usize) -> usize {
        match self.form(steps) {
            Form::Dense { chunk }
            | Form::FixedLag { chunk, .. }
            | Form::Whole { chunk }
            | Form::Recompute { chunk } => chunk,
        }
    }

    /// Steps per chunk of the dense form.
    pub fn dense_chunk(&self, steps: usize) -> usize {
        if let Vjp::MultiStep { window } = self.config.vjp
            && window > 1
        {
            return window.min(steps).max(1);
        }
        let longest = steps.max(1);
        self.config.chunk.unwrap_or_else(|| self.default_chunk(longest)).clamp(1, longest)
    }

    /// Steps per chunk where nothing is learned yet. Without weight-sized traces a single step is fastest: states and traces
    /// advance together in one loop, and nothing is stacked for later.
    pub(super) fn warmup_chunk(&self, steps: usize) -> usize {
        if self.has_wide_traces() { self.dense_chunk(steps) } else { self.config.chunk.unwrap_or(1).min(steps) }
    }

    /// Whether a trace has a value for each weight and sequence.
    fn has_wide_traces(&self) -> bool {
        self.as_traced().traced().any(|(k, op)| {
            let full = self.plan.kinds[k] == Some(TraceKind::Full) && op.kind.operator().is_wide();
            full && op.reached.iter().any(|reach| !reach.wide.is_empty())
        })
    }

    /// Bytes of these traces.
    pub(super) fn wide_bytes(&self) -> usize {
        let structure = self.as_traced();
        let slots = self.plan.slots(structure, self.batch);
        let wide = slots.iter().filter(|(slot, _)| match slot {
            Slot::Full { op: k, group: g, state: a } => {
                let op = &structure.ops[*k];
                op.kind.operator().is_wide() && op.reach(*g).wide.contains(a)
            }
            _ => false,
        });
        wide.map(|(_, shape)| shape.bytes()).sum()
    }

    /// The longest chunk whose stacks fit a budget, and that divides the sequence if one near it does. Stacks that stay in the
    /// processor's cache are fastest; weight-sized traces are so expensive to pass over that a longer chunk pays, and what
    /// parameters, gradients and optimiser (or the traces) take anyway may be taken once more.
    fn default_chunk(&self, steps: usize) -> usize {
        let params: usize = self.prepared.prefix.params().iter().map(|p| p.shape().bytes()).sum();
        let traces = self.plan.bytes(self.as_traced(), self.batch);
        let budget = (if self.has_wide_traces() { FULL_BUDGET } else { CACHE_BUDGET }).max(4 * params).max(traces / 2);
        let fitting = (budget / self.bytes_per_step().max(1)).clamp(1, LONGEST_CHUNK).min(steps);
        let divisor = (fitting.div_ceil(2)..=fitting).rev().find(|k| steps.is_multiple_of(*k));
        divisor.unwrap_or_else(|| steps.div_ceil(steps.div_ceil(fitting)))
    }

    /// Bytes that a chunk stacks per step: op inputs; states before and after, transitions (few of a group's are neither zero nor
    /// constant), drives, signals.
    pub(super) fn bytes_per_step(&self) -> usize {
        let per_group = self.as_traced().groups.iter().map(|g| {
            let k = g.states.len();
            4 * g.dims.iter().product::<usize>() * 5 * k
        });
        let inputs = self.structure.ops.iter().map(|op| op.kind.operator().bytes_per_step(op));
        per_group.chain(inputs).sum()
    }

    /// The gradient of a sequence. `inputs: [T, B, n_in]` of any type; `target` as the objective has it
    /// ([`Prepared::targets`]).
    ///
    /// # Panics
    /// When shapes do not fit the model ([`Prepared::steps_of`] says so beforehand).
    #[track_caller]
    pub fn sequence(
        &self,
        g: &Graph,
        params: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
    ) -> SequenceOut {
        let shapes = |all: &[Tensor]| all.iter().map(|t| t.shape().clone()).collect::<Vec<_>>();
        let fits = self.prepared.steps_of(&shapes(params), &shapes(states), inputs.shape(), Some(target.shape()));
        if let Err(error) = fits {
            panic!("{error}");
        }
        let phis = self.prepared.prefix.call(g, params);
        let steps = inputs.dims()[0];
        let warmup = self.config.warmup.min(steps);
        let one_loss = self.twice.then(|| self.loss_of_sum(g, params, states, inputs, target));
        let target = one_loss.as_ref().map_or(target, |(_, derivative)| derivative);
        let data = Data { inputs, target };
        let (sums, states) = match (self.rule.is_online(), self.form(steps)) {
            (false, _) if self.rule.recomputes() => {
                self.checkpointed(g, &phis, states, data, warmup, self.checkpoint_chunk(steps))
            }
            (false, _) => self.bptt(g, &phis, states, inputs, target, warmup),
            (true, Form::Dense { .. }) => self.forwards(g, &phis, self.start(g, states), data, warmup),
            (true, Form::FixedLag { lag, .. }) => {
                let rings = Rings::Sequence(lag);
                self.forwards(g, &phis, Carry { rings, ..self.start(g, states) }, data, warmup)
            }
            (true, Form::Whole { chunk }) => {
                self.backwards(g, &phis, states, data, warmup, Backwards { chunk, keep: Keep::Recurrence })
            }
            (true, Form::Recompute { chunk }) => {
                self.backwards(g, &phis, states, data, warmup, Backwards { chunk, keep: Keep::Projections })
            }
        };
        let grads = self.prepared.pull(g, params, &sums.grads);
        let tracked = sums.tracked.iter().map(|sum| sum * (1.0 / steps.max(1) as f64)).collect();
        let loss = one_loss.map_or(sums.loss, |(loss, _)| loss);
        SequenceOut { grads, loss, out: sums.out, tracked, states, score: sums.score }
    }

    /// The loss of the summed output, and its derivative with respect to that output, `[B, C]`: the first of two passes.
    fn loss_of_sum(
        &self,
        g: &Graph,
        params: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        target: &Tensor,
    ) -> (Tensor, Tensor) {
        let out = self.evaluate(g, params, states, inputs, target).out;
        let shapes = [out.shape().clone(), target.shape().clone()];
        let loss = Func::trace(&shapes, |_, v| vec![self.objective.mean_loss(&v[0], &v[1])]);
        let vjp = vjp(g, &loss, &[out.clone(), target.clone()], &[true, false]);
        let pulled = vjp.pull(&[Some(vjp.results[0].full_like(1.0))]).swap_remove(0);
        (vjp.results[0].clone(), pulled.unwrap_or_else(|| out.zeros_like()))
    }

    /// The state before a sequence.
    pub fn start(&self, g: &Graph, states: &[Tensor]) -> Carry {
        Carry { states: states.to_vec(), traces: None, time: g.scalar(DType::S32, 0.0), rings: Rings::None }
    }

    /// Every trace array of the dense form with its shape.
    pub fn trace_slots(&self) -> std::collections::BTreeMap<Slot, Shape> {
        self.plan.slots(self.as_traced(), self.batch)
    }
}

impl From<Attachment> for Vjp {
    fn from(attachment: Attachment) -> Self {
        Vjp::SingleStep { attachment }
    }
}
