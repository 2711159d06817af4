//! Step and loss in one function, split into what parameters alone decide and what happens in each step.

use hlo::{
    Func, Graph, Shape, Tensor, Value,
    ops::meta::Tag,
    transform::{Dependence, vjp},
};

use super::{LearnError, objective::Objective};
use crate::cell::{Model, Quantity, context::USE, model::StateSpec};

/// Kind of the tag on a new state whose value is something else as well.
const STATE: &str = "etp.state";

/// Gives a value of its own to every new state that is a plain copy: of an old state, an input, a constant, or another new state. Who
/// reads the copied value does not read the state.
fn name_states(specs: &[StateSpec], results: &mut [Tensor]) {
    for k in 0..specs.len() {
        let value = results[k].value();
        let leaf = results[k].node().operands.is_empty();
        if leaf || results[k].as_constant().is_some() || results[..k].iter().any(|r| r.value() == value) {
            results[k] = results[k].tag(STATE, specs[k].name.clone(), &[]);
        }
    }
}

/// Step and loss in one function: (parameters, states, input, target) to (states, loss, out, observed, tracked).
fn joint(model: &Model, objective: &Objective, target: &Shape) -> Func {
    let (n_params, n_states) = (model.params.len(), model.states.len());
    let mut shapes: Vec<Shape> = model.params.iter().map(|p| p.shape.clone()).collect();
    shapes.extend(model.states.iter().map(|s| s.shape.clone()));
    shapes.extend([model.input.clone(), target.clone()]);
    Func::trace(&shapes, |g, p| {
        let (args, target) = p.split_at(n_params + n_states + 1);
        let mut results = model.step.call(g, args);
        name_states(&model.states, &mut results);
        let observed: Vec<(Quantity, Tensor)> =
            model.observed.iter().map(|o| o.quantity).zip(results[n_states + 1..].iter().cloned()).collect();
        let loss = objective.step_loss(&results[n_states], &target[0], &observed);
        results.insert(n_states, loss);
        results
    })
}

/// The values that the step needs of the parameters: made of parameters only, with no traced op on the way, and as late as that.
fn frontier(joint: &Func, n_params: usize) -> Vec<Value> {
    let graph = joint.graph();
    let params: Vec<Value> = joint.params().iter().map(Tensor::value).collect();
    let moving = Dependence::any(joint, &params[n_params..]);
    let is_op = |v: Value| hlo::func::downcast::<Tag>(&graph.node(v.node)).is_some_and(|t| t.kind != USE);
    let mut tagged = vec![false; graph.len()];
    let mut from_params = vec![false; graph.len()];
    for v in &params[..n_params] {
        from_params[v.node] = true;
    }
    for (index, node) in joint.live(false) {
        tagged[index] = is_op(Value { node: index, result: 0 }) || node.operands.iter().any(|o| tagged[o.node]);
        from_params[index] |= node.operands.iter().any(|o| from_params[o.node]);
    }
    let fixed = |v: Value| from_params[v.node] && !moving.has(v) && !tagged[v.node];
    let mut frontier: Vec<Value> = Vec::new();
    let mut seen = vec![false; graph.len()];
    let mut stack: Vec<Value> = joint.results().iter().map(Tensor::value).collect();
    while let Some(v) = stack.pop() {
        if fixed(v) && !graph.node(v.node).op.spreads() {
            if !frontier.contains(&v) {
                frontier.push(v);
            }
        } else if !seen[v.node] {
            seen[v.node] = true;
            stack.extend(&graph.node(v.node).operands);
        }
    }
    frontier.sort();
    frontier
}

/// (out, observed that enter the loss, target) to the loss of one step.
fn loss_of(model: &Model, objective: &Objective, target: &Shape) -> Func {
    let quantities: Vec<Quantity> =
        if objective.regularized() { model.observed.iter().map(|o| o.quantity).collect() } else { vec![] };
    let observed = &model.step.results()[model.states.len() + 1..][..quantities.len()];
    let mut shapes = vec![model.output.clone()];
    shapes.extend(observed.iter().map(|t| t.shape().clone()));
    shapes.push(target.clone());
    Func::trace(&shapes, |_, p| {
        let observed: Vec<(Quantity, Tensor)> = quantities.iter().copied().zip(p[1..].iter().cloned()).collect();
        vec![objective.step_loss(&p[0], &p[p.len() - 1], &observed)]
    })
}

/// A model with its loss, ready for a learner.
pub struct Prepared {
    /// Parameters to `phi`: parameters as the step uses them. Computed once per program.
    pub prefix: Func,
    /// One step: (phi, states, input, target) to (states, loss, out, observed, tracked).
    pub body: Func,
    /// (out, observed that enter the loss, target) to the loss of one step.
    pub loss_of: Func,
    /// Number of `phi`.
    pub phis: usize,
    /// Number of states.
    pub states: usize,
    /// Number of tracked values.
    pub tracked: usize,
    /// Which parameters each `phi` is made from.
    pub sources: Vec<Vec<usize>>,
    /// Which parameters are trained.
    pub trainable: Vec<bool>,
    /// Input of one step.
    pub input: Shape,
    /// Target of one step: `s32[B]` or `f32[B, n]`.
    pub target: Shape,
    /// Target of one step as it is given: the same, but for second passes ([`OfSum`](super::objective::OfSum)).
    pub given_target: Shape,
    /// Whether every step has a target of its own.
    pub target_per_step: bool,
    /// Names of the parameters, for errors.
    param_names: Vec<String>,
    /// Names of the states, for errors.
    state_names: Vec<String>,
}

/// One line of shapes.
fn listed(names: &[String], shapes: &[Shape]) -> String {
    let each = names.iter().zip(shapes).map(|(name, shape)| format!("{name} {shape}"));
    each.collect::<Vec<_>>().join(", ")
}

impl Prepared {
    /// Joins `model` and `objective`.
    pub fn new(model: &Model, objective: &Objective) -> Prepared {
        let target = objective.target.of_step(model.batch(), model.output.dims[1]);
        let n_params = model.params.len();
        let joint = joint(model, objective, &target);
        let frontier = frontier(&joint, n_params);
        let phis: Vec<Tensor> = frontier.iter().map(|&v| joint.graph().tensor(v)).collect();
        let mut body_sources = phis.clone();
        body_sources.extend(joint.params()[n_params..].iter().cloned());
        let body_shapes: Vec<Shape> = body_sources.iter().map(|t| t.shape().clone()).collect();
        let body = Func::trace(&body_shapes, |g, p| joint.rebuild(g, &body_sources, p));
        let prefix = Func::from_values(joint.params()[..n_params].to_vec(), phis);
        let made_from = |phi: Value, p: usize| {
            let one = prefix.with_results(vec![joint.graph().tensor(phi)]);
            Dependence::any(&one, &[joint.params()[p].value()]).has(phi)
        };
        let sources = frontier.iter().map(|&phi| (0..n_params).filter(|&p| made_from(phi, p)).collect()).collect();
        Prepared {
            prefix,
            body,
            loss_of: loss_of(model, objective, &target),
            phis: frontier.len(),
            states: model.states.len(),
            tracked: model.tracked.len(),
            sources,
            trainable: model.params.iter().map(|p| p.trainable).collect(),
            input: model.input.clone(),
            given_target: target.clone(),
            target,
            target_per_step: objective.target.per_step,
            param_names: model.params.iter().map(|p| p.name.clone()).collect(),
            state_names: model.states.iter().map(|s| s.name.clone()).collect(),
        }
    }

    /// The number of steps of a sequence, if its arrays fit the model.
    ///
    /// # Errors
    /// When one has another shape than the model, or one is missing; the error names it.
    pub fn steps_of(
        &self,
        params: &[Shape],
        states: &[Shape],
        inputs: &Shape,
        target: Option<&Shape>,
    ) -> Result<usize, LearnError> {
        let wrong = |text: String| Err(LearnError::Shape(text));
        let shapes = |all: &[Tensor]| all.iter().map(|t| t.shape().clone()).collect::<Vec<_>>();
        for (what, names, given, wanted) in [
            ("parameters", &self.param_names, params, shapes(self.prefix.params())),
            ("states", &self.state_names, states, shapes(self.old_states())),
        ] {
            if given.len() != wanted.len() {
                let (n, got, all) = (wanted.len(), given.len(), listed(names, &wanted));
                return wrong(format!("the model has {n} {what}, got {got}; give one array for each of {all}"));
            }
            if let Some(k) = (0..given.len()).find(|&k| given[k] != wanted[k]) {
                let (name, want, got) = (&names[k], &wanted[k], &given[k]);
                return wrong(format!(
                    "`{name}` is {want} in this model, got {got}; give the {what} in the model's order"
                ));
            }
        }
        let step = &self.input.dims;
        if inputs.rank() != 3 || inputs.dims[1..] != step[..] || inputs.dims[0] == 0 {
            let [batch, n] = [step[0], step[1]];
            return wrong(format!(
                "the inputs of this model are [T, {batch}, {n}] (steps, batch, values), got {inputs}; trace the model for another batch, or \
                 reshape the inputs"
            ));
        }
        let steps = inputs.dims[0];
        let wanted = self.over_steps(&self.given_target, steps);
        if let Some(got) = target.filter(|got| **got != wanted) {
            return wrong(format!(
                "the objective compares outputs with {wanted} here, got {got}; change the targets, or the `Target` of the objective"
            ));
        }
        Ok(steps)
    }

    /// Targets of `steps` steps: `[T, B, ..]`, or `[B, ..]` where a sequence has one.
    pub fn targets(&self, steps: usize) -> Shape {
        self.over_steps(&self.target, steps)
    }

    fn over_steps(&self, target: &Shape, steps: usize) -> Shape {
        if self.target_per_step { target.with_dims([&[steps], &target.dims[..]].concat()) } else { target.clone() }
    }

    /// The targets of steps `from .. to` of a sequence.
    pub(super) fn target_of(&self, target: &Tensor, from: usize, to: usize) -> Tensor {
        if self.target_per_step { target.slice_axis(0, from, to) } else { target.clone() }
    }

    /// The targets of `count` steps from a computed one on.
    pub(super) fn target_at(&self, target: &Tensor, from: &Tensor, count: usize) -> Tensor {
        if self.target_per_step { target.dynamic_slice(from, count) } else { target.clone() }
    }

    /// Whether any trained parameter went into a `phi`.
    pub fn is_trained(&self, phi: usize) -> bool {
        self.sources[phi].iter().any(|&p| self.trainable[p])
    }

    /// Gradients of the parameters (zeros for fixed ones) from those of the `phi`.
    pub fn pull(&self, graph: &Graph, params: &[Tensor], grads: &[Option<Tensor>]) -> Vec<Tensor> {
        let pulled = vjp(graph, &self.prefix, params, &self.trainable).pull(grads);
        pulled.into_iter().zip(params).map(|(g, p)| g.unwrap_or_else(|| p.zeros_like())).collect()
    }

    /// The loss of the step, a scalar, among the body's results.
    pub fn loss(&self) -> &Tensor {
        &self.body.results()[self.states]
    }

    /// The output, `[B, C]`, among the body's results.
    pub fn out(&self) -> &Tensor {
        &self.body.results()[self.states + 1]
    }

    /// Those observed values that enter the loss, among the body's results.
    pub fn observed(&self) -> &[Tensor] {
        &self.body.results()[self.states + 2..][..self.loss_of.params().len() - 2]
    }

    /// The tracked values among the body's results.
    pub fn tracked(&self) -> &[Tensor] {
        &self.body.results()[self.body.results().len() - self.tracked..]
    }

    /// The new states among the body's results.
    pub fn new_states(&self) -> &[Tensor] {
        &self.body.results()[..self.states]
    }

    /// The old states among the body's parameters.
    pub fn old_states(&self) -> &[Tensor] {
        &self.body.params()[self.phis..self.phis + self.states]
    }
}
