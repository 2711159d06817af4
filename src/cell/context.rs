//! What a step is written with: parameters, states, traced ops.
//!
//! A step is somebody else's formula, so its mistakes (sizes that do not fit, a state that is read and never set, a name that is used
//! twice) are errors of [`Model::trace`] that name what was written and its line, not panics.

use std::panic::Location;

use hlo::{DType, Fault, Func, Graph, Shape, ShapeError, Tensor, random};

use super::{
    front::Front,
    init::{Init, StateInit},
    model::{Model, Observable, ParamSpec, Quantity, StateSpec, Tracked},
};
use crate::settings::node::choices;

/// Kind of the tag on the output of a traced op `y = x W`; the tag refers to `x` and `W`.
pub const DENSE: &str = "etp.dense";
/// Kind of the tag on the output of a traced op `y = w`, one value per position; the tag refers to `w`.
pub const ELEMENTWISE: &str = "etp.elementwise";
/// Kind of the tag on the output of a traced op `y = F(x, w)`; the tag refers to `x` and `w`.
pub const MAP: &str = "etp.map";
/// Kind of the tag on the weight inside `F`, which makes what `F` makes of it a part of the op.
const WEIGHT: &str = "etp.weight";
/// Kind of the tag on a weight where a traced op uses it: each use of one weight is a value of its own, with a trace of its own.
pub const USE: &str = "etp.use";
/// Kind of the tag on random numbers: they take longer to make again than to read.
pub const NOISE: &str = "etp.noise";

/// Declares and traces one step of a model.
pub struct StepContext {
    graph: Graph,
    batch: usize,
    scope: Vec<String>,
    in_readout: bool,
    params: Vec<(ParamSpec, Tensor)>,
    states: Vec<State>,
    observed: Vec<(Observable, Tensor)>,
    tracked: Vec<(Tracked, Tensor)>,
    couples_sequences: Option<String>,
    streams: usize,
    uses: usize,
    pub(super) fronts: Vec<Front>,
}

struct State {
    spec: StateSpec,
    old: Tensor,
    new: Option<Tensor>,
    /// Where it was declared.
    place: &'static Location<'static>,
}

/// A step that is no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the step cannot be traced: {0}")]
pub struct ModelError(pub Fault);

/// How a dense map is made.
#[derive(Clone)]
pub struct Dense<'a> {
    /// Initial values of the rows of each input, in order; one for all inputs if only one is given.
    pub init: &'a [Init],
    /// Whether a trained bias is added.
    pub bias: bool,
    /// The weight as used, from the weight as stored: sign constraints and masks.
    pub transform: Option<&'a dyn Fn(&Tensor) -> Tensor>,
}

impl<'a> Dense<'a> {
    /// With a bias, weights used as stored.
    pub fn new(init: &'a [Init]) -> Dense<'a> {
        Dense { init, bias: true, transform: None }
    }

    /// Without a bias.
    pub fn without_bias(self) -> Dense<'a> {
        Dense { bias: false, ..self }
    }

    /// With the weight passed through `transform` before use.
    pub fn through(self, transform: &'a dyn Fn(&Tensor) -> Tensor) -> Dense<'a> {
        Dense { transform: Some(transform), ..self }
    }
}

impl StepContext {
    /// Traces one step whose sizes are known to fit each other; [`Model::trace`] is the same for any other.
    ///
    /// # Panics
    /// Where [`Model::trace`] has an error.
    #[track_caller]
    pub fn trace(batch: usize, n_in: usize, step: impl FnOnce(&mut StepContext, &Tensor) -> Tensor) -> Model {
        StepContext::try_trace(batch, n_in, step).unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    pub(super) fn try_trace(
        batch: usize,
        n_in: usize,
        step: impl FnOnce(&mut StepContext, &Tensor) -> Tensor,
    ) -> Result<Model, ModelError> {
        let place = Location::caller();
        let graph = Graph::forgiving();
        let input = Shape::f32([batch, n_in]);
        // Parameter numbers only tell arguments apart; the order is that of `Func::params`.
        let x = graph.parameter(0, input.clone());
        let mut cx = StepContext {
            graph,
            batch,
            scope: vec![],
            in_readout: false,
            params: vec![],
            states: vec![],
            observed: vec![],
            tracked: vec![],
            couples_sequences: None,
            streams: 0,
            uses: 0,
            fronts: vec![],
        };
        let out = step(&mut cx, &x);
        let whole = |text: String, place| Err(ModelError(Fault { error: ShapeError(text), place }));
        if let Some(fault) = cx.graph.fault() {
            return Err(ModelError(fault));
        }
        if let Some(State { spec, place, .. }) = cx.states.iter().find(|s| s.new.is_none()) {
            let name = &spec.name;
            return whole(
                format!(
                    "state `{name}` is read and never set, so it would keep its first value; set it (`cx.set(\"{name}\", ..)`), or \
                     declare a constant"
                ),
                place,
            );
        }
        if out.rank() != 2 || out.dims()[0] != batch || out.dtype() != DType::F32 {
            let got = out.shape();
            return whole(
                format!("a step gives its output, f32[{batch}, C] for batch {batch}, got {got}; return a readout"),
                place,
            );
        }
        Ok(cx.finish(&x, &out))
    }

    fn finish(self, x: &Tensor, out: &Tensor) -> Model {
        let mut params: Vec<Tensor> = self.params.iter().map(|(_, t)| t.clone()).collect();
        params.extend(self.states.iter().map(|s| s.old.clone()));
        params.push(x.clone());
        let mut results: Vec<Tensor> = self.states.iter().filter_map(|s| s.new.clone()).collect();
        results.push(out.clone());
        results.extend(self.observed.iter().map(|(_, t)| t.clone()));
        results.extend(self.tracked.iter().map(|(_, t)| t.clone()));
        Model {
            params: self.params.into_iter().map(|(p, _)| p).collect(),
            states: self.states.into_iter().map(|s| s.spec).collect(),
            input: x.shape().clone(),
            output: out.shape().clone(),
            observed: self.observed.into_iter().map(|(o, _)| o).collect(),
            tracked: self.tracked.into_iter().map(|(t, _)| t).collect(),
            couples_sequences: self.couples_sequences,
            step: Func::from_values(params, results),
        }
    }

    /// Says that the step breaks a rule; tracing goes on, so that the first mistake is the one that is reported.
    #[track_caller]
    pub(super) fn refuse(&self, text: String) {
        self.graph.refuse(ShapeError(text));
    }

    /// Number of sequences in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The graph under construction.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Runs `body` with `name.` in front of every name it declares.
    pub fn scope<R>(&mut self, name: &str, body: impl FnOnce(&mut StepContext) -> R) -> R {
        self.scope.push(name.to_string());
        let result = body(self);
        self.scope.pop();
        result
    }

    /// The same as [`StepContext::scope`] for the readout: the states declared in it belong to no layer.
    pub fn readout<R>(&mut self, name: &str, body: impl FnOnce(&mut StepContext) -> R) -> R {
        let outside = std::mem::replace(&mut self.in_readout, true);
        let result = self.scope(name, body);
        self.in_readout = outside;
        result
    }

    fn name(&self, name: &str) -> String {
        self.scope.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".")
    }

    #[track_caller]
    fn declare(&mut self, name: &str, dims: &[usize], init: Init, trainable: bool) -> Tensor {
        let name = self.name(name);
        if self.params.iter().any(|(p, _)| p.name == name) {
            self.refuse(format!("parameter `{name}` is declared twice; give one of them another name or a scope"));
        }
        if let Err(text) = init.fits(dims) {
            self.refuse(format!("the initial values of `{name}`, {dims:?}: {text}"));
        }
        let shape = Shape::f32(dims);
        let serial = 1 + self.params.len() + self.states.len();
        let tensor = self.graph.parameter(serial, shape.clone());
        self.params.push((ParamSpec { name, shape, init, trainable }, tensor.clone()));
        tensor
    }

    /// A trained parameter. To be learned online it must be used through a traced op
    /// ([`StepContext::matmul`], [`StepContext::elementwise`]).
    #[track_caller]
    pub fn param(&mut self, name: &str, dims: &[usize], init: Init) -> Tensor {
        self.declare(name, dims, init, true)
    }

    /// A fixed array that belongs to the model: per-neuron time constants, connection masks.
    #[track_caller]
    pub fn constant(&mut self, name: &str, dims: &[usize], init: Init) -> Tensor {
        self.declare(name, dims, init, false)
    }

    /// The value of hidden state `name` before the step, `[B, n]`.
    #[track_caller]
    pub fn state(&mut self, name: &str, n: usize, init: StateInit) -> Tensor {
        let name = self.name(name);
        let shape = Shape::f32([self.batch, n]);
        if let Some(known) = self.states.iter().find(|s| s.spec.name == name) {
            if known.spec.shape != shape {
                self.refuse(format!(
                    "a state has one size, but `{name}` is {} first and {shape} here; give one of them another name or a scope",
                    known.spec.shape
                ));
                return self.graph.placeholder(shape);
            }
            return known.old.clone();
        }
        let serial = 1 + self.params.len() + self.states.len();
        let old = self.graph.parameter(serial, shape.clone());
        let place = Location::caller();
        let spec = StateSpec { name, shape, init, readout: self.in_readout };
        self.states.push(State { spec, old: old.clone(), new: None, place });
        old
    }

    /// The value of hidden state `name` after the step, of the state's shape.
    #[track_caller]
    pub fn set(&mut self, name: &str, value: &Tensor) {
        let name = self.name(name);
        let Some(at) = self.states.iter().position(|s| s.spec.name == name) else {
            let known: Vec<&str> = self.states.iter().map(|s| s.spec.name.as_str()).collect();
            let choices = choices(&name, &known);
            return self
                .refuse(format!("a state is declared before it is set, but there is no state `{name}`; {choices}"));
        };
        let shape = &self.states[at].spec.shape;
        if value.shape() != shape {
            return self.refuse(format!(
                "a state keeps its shape, but `{name}` is {shape} before the step and {} after it; change the size given to `cx.state` or \
                 the value",
                value.shape()
            ));
        }
        self.states[at].new = Some(value.clone());
    }

    /// Shows a value of this layer, `[B, n]`, to regularisers, firing rates and plots; the layer is the scope. A layer shows a quantity
    /// once.
    #[track_caller]
    pub fn observe(&mut self, quantity: Quantity, value: &Tensor) {
        let observable = Observable { layer: self.scope.join("."), quantity };
        if value.rank() != 2 || value.dims()[0] != self.batch {
            let (batch, got) = (self.batch, value.shape());
            self.refuse(format!("a layer shows values of its neurons, f32[{batch}, n] for batch {batch}, but `{observable}` is {got}; reshape it"));
        }
        if self.observed.iter().any(|(o, _)| *o == observable) {
            self.refuse(format!("`{observable}` is observed twice; give one of the layers a scope of its own"));
        }
        self.observed.push((observable, value.clone()));
    }

    /// Moves the constant `name` at every update towards the mean of `value` over the steps of the batch, see [`Tracked`].
    #[track_caller]
    pub fn track(&mut self, name: &str, value: &Tensor, momentum: f64) {
        let name = self.name(name);
        let Some(param) = self.params.iter().position(|(p, _)| p.name == name && !p.trainable) else {
            let constants = self.params.iter().filter(|(p, _)| !p.trainable);
            let known: Vec<&str> = constants.map(|(p, _)| p.name.as_str()).collect();
            let choices = choices(&name, &known);
            return self.refuse(format!("what is tracked is a constant, but there is no constant `{name}`; {choices}"));
        };
        let shape = &self.params[param].0.shape;
        if value.shape() != shape {
            return self.refuse(format!(
                "what is tracked keeps the shape of its constant, but `{name}` is {shape} and the value {}; change one of them",
                value.shape()
            ));
        }
        self.tracked.push((Tracked { param, momentum }, value.clone()));
    }

    /// Says that the step makes a sequence depend on the others of its batch, and `how`: then results depend on how a batch is divided, and
    /// training on several devices is refused. To be called by each step that takes a mean, a maximum or anything else over sequences.
    pub fn couple_sequences(&mut self, how: &str) {
        self.couples_sequences.get_or_insert_with(|| how.to_string());
    }

    /// Numbers drawn anew for every sequence, position and step, uniform in [0, 1), `[B, n]`.
    ///
    /// They come from a counter: two states hold a key, drawn for every sequence of every batch, and the number of steps; each
    /// number is a hash of key, step, position, and how many times this was called in the step. So they are the same on every
    /// device and for every way of cutting a sequence into chunks.
    pub fn noise(&mut self, n: usize) -> Tensor {
        self.draw(n).tag(NOISE, "noise", &[])
    }

    fn draw(&mut self, n: usize) -> Tensor {
        let (scope, in_readout) = (std::mem::take(&mut self.scope), std::mem::take(&mut self.in_readout));
        let (key, tick) = (self.state("noise.key", 1, StateInit::Key), self.state("noise.tick", 1, StateInit::Zeros));
        let (key, tick) = (key.stop_gradient(), tick.stop_gradient());
        if self.streams == 0 {
            self.set("noise.key", &key);
            self.set("noise.tick", &(&tick + 1.0));
        }
        (self.scope, self.in_readout) = (scope, in_readout);
        self.streams += 1;
        let dims = [self.batch, n];
        let word = |t: &Tensor| t.reshape(&[self.batch]).convert(DType::U32).broadcast(&dims, &[0]);
        let shape = Shape::new(DType::U32, dims);
        let stream = self.graph.full(&shape, self.streams as f64);
        random::uniform(&random::bits(&[&word(&key), &word(&tick), &self.graph.iota(shape, 1), &stream]))
    }

    /// Where numbers drawn anew, as those of [`noise`](StepContext::noise), are at least `rate`: a byte each, where it is kept.
    pub(super) fn survives(&mut self, n: usize, rate: f64) -> Tensor {
        let drawn = self.draw(n);
        drawn.ge(&drawn.full_like(rate)).tag(NOISE, "noise", &[])
    }

    /// `x` with a share `rate` of its values set to 0 and the others divided by what is left of 1; new ones in every step.
    pub fn dropout(&mut self, x: &Tensor, rate: f64) -> Tensor {
        if rate <= 0.0 {
            return x.clone();
        }
        let kept = self.survives(x.dims()[1], rate);
        kept.select(&(x * (1.0 / (1.0 - rate))), &x.zeros_like())
    }

    /// A traced op `y = x W`: `[B, I] x [I, N] -> [B, N]`. `site` groups the ops of one layer in reports.
    #[track_caller]
    pub fn matmul(&mut self, site: &str, x: &Tensor, weight: &Tensor) -> Tensor {
        let site = self.name(site);
        if x.rank() != 2 || weight.rank() != 2 || x.dims()[1] != weight.dims()[0] {
            self.refuse(format!(
                "a traced product is [B, I] x [I, N], but `{site}` has {} x {}; give the weight as many rows as the input has values",
                x.shape(),
                weight.shape()
            ));
            let n = weight.dims().last().copied().unwrap_or(1);
            return self.graph.placeholder(Shape::f32([self.batch, n]));
        }
        let weight = self.used(weight);
        x.dot(&weight).tag(DENSE, site, &[x, &weight])
    }

    /// A traced op `y = w` repeated for every sequence: `[N] -> [B, N]`.
    #[track_caller]
    pub fn elementwise(&mut self, site: &str, weight: &Tensor) -> Tensor {
        let weight = self.used(weight);
        let dims: Vec<usize> = std::iter::once(self.batch).chain(weight.dims().iter().copied()).collect();
        weight.broadcast_to(&dims).tag(ELEMENTWISE, self.name(site), &[&weight])
    }

    /// A traced op `y = F(x, w)` with any function `F`: `x: [B, I]`, `y: [B, N]`. `function` makes `y` of `x` and `w` alone; what else
    /// it needs (patterns, masks) must be constants. D-RTRL and ES-D-RTRL train it like a [product](StepContext::matmul), but D-RTRL
    /// has no trace of it that goes forwards, so not on a stream ([`learn::op`](crate::learn::op)).
    #[track_caller]
    pub fn traced(
        &mut self,
        site: &str,
        x: &Tensor,
        weight: &Tensor,
        function: impl FnOnce(&Tensor, &Tensor) -> Tensor,
    ) -> Tensor {
        let site = self.name(site);
        let weight = self.used(weight);
        let y = function(x, &weight.tag(WEIGHT, site.clone(), &[]));
        if y.rank() != 2 || y.dims()[0] != self.batch {
            let (batch, got) = (self.batch, y.shape());
            self.refuse(format!(
                "a traced op gives [{batch}, N] for batch {batch}, but `{site}` gives {got}; reshape what it gives"
            ));
            return self.graph.placeholder(Shape::f32([self.batch, 1]));
        }
        if depends_on_more(&y, &[x, &weight]) {
            self.refuse(format!(
                "what `{site}` gives must depend on its input and its weight alone, but it reads another parameter, state or input; pass \
                 that as the input, or take it out of the function"
            ));
        }
        y.tag(MAP, site, &[x, &weight])
    }

    /// One use of a weight.
    fn used(&mut self, weight: &Tensor) -> Tensor {
        self.uses += 1;
        weight.tag(USE, self.uses.to_string(), &[])
    }

    /// `y = [x_1; x_2; ..] W + b` with parameters `NAME.weight: [sum I, n]` and `NAME.bias: [n]`.
    ///
    /// Each input meets its own rows of the weight in a product of its own; inputs that do not depend on the recurrence
    /// should come first, so that their products can be made for many steps at once.
    #[track_caller]
    pub fn dense(&mut self, name: &str, inputs: &[&Tensor], n: usize, how: &Dense<'_>) -> Tensor {
        if inputs.is_empty() || inputs.iter().any(|x| x.rank() != 2) {
            let (site, shapes) = (self.name(name), inputs.iter().map(|x| x.shape().to_string()).collect::<Vec<_>>());
            self.refuse(format!(
                "a dense map has at least one input, each [B, I], but `{site}` has [{}]; reshape them",
                shapes.join(", ")
            ));
            return self.graph.placeholder(Shape::f32([self.batch, n]));
        }
        if ![1, inputs.len()].contains(&how.init.len()) {
            let (site, given, inputs) = (self.name(name), how.init.len(), inputs.len());
            self.refuse(format!(
                "a dense map has initial values for all of its inputs or for each of them, but `{site}` has {given} for {inputs} \
                 inputs; give 1 or {inputs}"
            ));
        }
        let widths: Vec<usize> = inputs.iter().map(|x| x.dims()[1]).collect();
        let rows: usize = widths.iter().sum();
        let init = match how.init {
            [one] => one.clone(),
            many => Init::Rows(widths.iter().copied().zip(many.iter().cloned()).collect()),
        };
        let weight = self.param(&format!("{name}.weight"), &[rows, n], init);
        let bias = how.bias.then(|| self.param(&format!("{name}.bias"), &[n], Init::Zeros));
        let used = how.transform.map_or_else(|| weight.clone(), |f| f(&weight));
        let mut start = 0;
        let mut products = Vec::new();
        for (x, width) in inputs.iter().zip(&widths) {
            products.push(self.product(name, x, &used.slice_axis(0, start, start + width)));
            start += width;
        }
        let first = products.remove(0);
        let first = match bias {
            Some(b) => first + self.elementwise(name, &b),
            None => first,
        };
        products.into_iter().fold(first, |sum, y| sum + y)
    }

    /// A number as a tensor of the step.
    pub fn scalar(&self, value: f64) -> Tensor {
        self.graph.scalar(DType::F32, value)
    }
}

/// Whether `y` depends on an argument of the step by a way that passes none of `sources`.
fn depends_on_more(y: &Tensor, sources: &[&Tensor]) -> bool {
    let graph = y.graph();
    let mut seen = vec![false; graph.len()];
    let mut stack = vec![y.value()];
    while let Some(value) = stack.pop() {
        if seen[value.node] || sources.iter().any(|s| s.value() == value) {
            continue;
        }
        seen[value.node] = true;
        let node = graph.node(value.node);
        if hlo::func::downcast::<hlo::ops::leaf::Parameter>(&node).is_some() {
            return true;
        }
        stack.extend(&node.operands);
    }
    false
}
