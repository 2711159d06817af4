//! Explicit Jacobians of a step by basis tangents: one forward derivative for every element of every source.

use etrace::{
    cell::{Model, Quantity},
    learn::Objective,
};
use hlo::{
    Func, HostValue, Mapped, Shape, Tensor, Value,
    transform::{Dual, Rules, jvp_with, vmap},
};

/// Something that a step depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// A parameter.
    Param(usize),
    /// A state before the step.
    Old(usize),
    /// A value inside the step.
    Inner(Value),
}

/// A step with its loss: (parameters, states, input, target) to (new states, loss).
pub struct Step {
    pub func: Func,
    pub params: usize,
    pub states: usize,
}

impl Step {
    pub fn new(model: &Model, objective: &Objective) -> Step {
        let (params, states) = (model.params.len(), model.states.len());
        let mut shapes: Vec<Shape> = model.params.iter().map(|p| p.shape.clone()).collect();
        shapes.extend(model.states.iter().map(|s| s.shape.clone()));
        shapes.extend([model.input.clone(), Shape::s32([model.batch()])]);
        let func = Func::trace(&shapes, |g, v| {
            let out = model.step.call(g, &v[..params + states + 1]);
            let quantities = model.observed.iter().map(|o| o.quantity);
            let observed: Vec<(Quantity, Tensor)> = quantities.zip(out[states + 1..].iter().cloned()).collect();
            let loss = objective.step_loss(&out[states], &v[params + states + 1], &observed);
            let mut new: Vec<Tensor> = Vec::new();
            for (k, state) in out[..states].iter().enumerate() {
                // A state that copies another value is not that value.
                let copied = state.node().operands.is_empty() || new.iter().any(|t| t.value() == state.value());
                new.push(if copied { state.tag("judge.state", k.to_string(), &[]) } else { state.clone() });
            }
            new.into_iter().chain([loss]).collect()
        });
        Step { func, params, states }
    }

    pub fn new_state(&self, s: usize) -> Value {
        self.func.results()[s].value()
    }

    pub fn loss(&self) -> Value {
        self.func.results()[self.states].value()
    }

    pub fn tensor(&self, v: Value) -> Tensor {
        self.func.graph().tensor(v)
    }

    fn source(&self, source: Source) -> (Value, Shape) {
        let value = match source {
            Source::Param(k) => self.func.params()[k].value(),
            Source::Old(s) => self.func.params()[self.params + s].value(),
            Source::Inner(v) => v,
        };
        (value, self.tensor(value).shape().clone())
    }
}

/// `d result / d source` for every pair, as a program.
pub struct Jacobian {
    func: Func,
    sources: Vec<usize>,
    directions: usize,
    given: usize,
}

impl Jacobian {
    /// Values of `held` are held fixed; a source among them is perturbed all the same.
    pub fn new(step: &Step, sources: &[Source], held: &[Value], results: &[Value]) -> Jacobian {
        let results: Vec<Tensor> = results.iter().map(|&v| step.tensor(v)).collect();
        let func = step.func.with_results(results);
        let given: Vec<Shape> = func.params().iter().map(|p| p.shape().clone()).collect();
        let shapes: Vec<Shape> = sources.iter().map(|&s| step.source(s).1).collect();
        let all: Vec<Shape> = given.iter().chain(&shapes).cloned().collect();
        let single = Func::trace(&all, |g, v| {
            let (values, tangents) = v.split_at(given.len());
            let mut args: Vec<Dual> = values.iter().map(|t| Dual { primal: t.clone(), tangent: None }).collect();
            let mut rules = Rules { cut: held.iter().copied().collect(), ..Rules::default() };
            for (source, tangent) in sources.iter().zip(tangents) {
                match *source {
                    Source::Param(k) => args[k].tangent = Some(tangent.clone()),
                    Source::Old(s) => args[step.params + s].tangent = Some(tangent.clone()),
                    Source::Inner(v) => drop(rules.perturb.insert(v, tangent.clone())),
                }
            }
            let env = jvp_with(g, &func, &args, &rules);
            let found = func.results().iter().map(|r| env.get(r.value()).clone());
            found.map(|d| d.tangent.unwrap_or_else(|| d.primal.zeros_like())).collect()
        });
        let sizes: Vec<usize> = shapes.iter().map(Shape::elements).collect();
        let directions: usize = sizes.iter().sum();
        let stacked = shapes.iter().map(|s| s.with_dims([&[directions], &s.dims[..]].concat()));
        let all: Vec<Shape> = given.iter().cloned().chain(stacked).collect();
        let func = Func::trace(&all, |g, v| {
            let args: Vec<Mapped> =
                v.iter().enumerate().map(|(k, t)| Mapped { tensor: t.clone(), mapped: k >= given.len() }).collect();
            let env = vmap(g, &single, &args, directions);
            single.results().iter().map(|r| env.get(r.value()).materialize(directions)).collect()
        });
        Jacobian { func, sources: sizes, directions, given: given.len() }
    }

    /// The Jacobian at a point: parameters, states, input, target.
    pub fn at(&self, point: &[HostValue]) -> Matrices {
        let mut args = point[..self.given].to_vec();
        let mut offset = 0;
        for (&size, param) in self.sources.iter().zip(&self.func.params()[self.given..]) {
            let mut basis = HostValue::full(param.shape().clone(), 0.0);
            for k in 0..size {
                basis.data[(offset + k) * size + k] = 1.0;
            }
            offset += size;
            args.push(basis);
        }
        let starts = self.sources.iter().scan(0, |end, size| {
            *end += size;
            Some(*end - size)
        });
        let starts: Vec<usize> = starts.collect();
        // Without a source there is nothing to evaluate.
        let values = if self.directions == 0 { vec![] } else { self.func.evaluate(&args) };
        let widths = values.iter().map(|v| v.data.len() / self.directions).collect();
        Matrices { values: values.into_iter().map(|v| v.data).collect(), widths, starts, sizes: self.sources.clone() }
    }
}

/// `d result / d source`, element by element.
pub struct Matrices {
    values: Vec<Vec<f64>>,
    widths: Vec<usize>,
    starts: Vec<usize>,
    sizes: Vec<usize>,
}

impl Matrices {
    /// Derivative of element `i` of a result by element `j` of a source.
    pub fn get(&self, result: usize, i: usize, source: usize, j: usize) -> f64 {
        self.values[result][(self.starts[source] + j) * self.widths[result] + i]
    }

    /// Derivatives of a scalar result by all elements of a source.
    pub fn gradient(&self, result: usize, source: usize) -> Vec<f64> {
        (0..self.sizes[source]).map(|j| self.get(result, 0, source, j)).collect()
    }

    /// Derivatives at equal positions.
    pub fn diagonal(&self, result: usize, source: usize) -> Vec<f64> {
        (0..self.sizes[source]).map(|j| self.get(result, j, source, j)).collect()
    }

    pub fn is_zero(&self, result: usize, source: usize) -> bool {
        self.entries(result, source).all(|(_, _, v)| v == 0.0)
    }

    /// Whether values pass between positions.
    pub fn mixes(&self, result: usize, source: usize) -> bool {
        let sizes_differ = self.widths[result] != self.sizes[source];
        self.entries(result, source).any(|(i, j, v)| v != 0.0 && (sizes_differ || i != j))
    }

    fn entries(&self, result: usize, source: usize) -> impl Iterator<Item = (usize, usize, f64)> + '_ {
        let width = self.widths[result];
        (0..self.sizes[source])
            .flat_map(move |j| (0..width).map(move |i| (i, j)))
            .map(move |(i, j)| (i, j, self.get(result, i, source, j)))
    }
}
