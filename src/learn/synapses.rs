//! What a network computes in a step and what of it spikes and zeros save: connections, synaptic operations, updates of potentials. The
//! quantities and their names are those of NeuroBench (Yik et al., Nature Communications 2025).
//!
//! A *connection* is a product (`dot`, convolution, or a traced op that is linear in its input, as a sparse product is) of which one side is
//! made of parameters alone. Its effective operations are counted by the same product of indicators: ones where input and weight are not
//! zero. They are additions alone (AC) where all inputs are -1, 0 or 1, and multiplications with additions (MAC) elsewhere.

use std::rc::Rc;

use hlo::{
    DType, Func, Graph, Primitive, Shape, Tensor, Value,
    func::downcast,
    graph::Node,
    ops::{conv::Conv, dot::Dot},
    scan,
    transform::Dependence,
};

use super::{Learner, op::Kind};
use crate::cell::{Model, Quantity};

/// How the product of a connection is made anew.
enum Product {
    Primitive { op: Rc<dyn Primitive>, weight_first: bool },
    Function(Func),
}

/// A product of inputs and parameters in a step.
pub struct Connection {
    /// The parameters, such as `l0.weight`.
    pub name: String,
    /// Values of its weight.
    pub weights: usize,
    product: Product,
    input: Value,
    weight: Value,
}

/// What a network does in the steps of a sequence.
pub struct Synapses {
    /// In the order of the step.
    pub connections: Vec<Connection>,
    /// Traced ops that are neither products nor linear, which are not counted.
    pub uncounted: Vec<String>,
    /// Values of membrane potentials, of one sequence.
    pub potentials: usize,
}

/// Counts, arrays of a program.
pub struct Counts {
    /// For each connection: effective operations, `[B]`, summed over the steps.
    pub effective: Vec<Tensor>,
    /// For each connection: inputs that are not -1, 0 or 1, `[B]`, summed over the steps.
    pub graded: Vec<Tensor>,
    /// For each connection: operations of one step of a sequence if nothing is left out, a scalar.
    pub dense: Vec<Tensor>,
    /// For each connection: weights that are not zero, a scalar.
    pub nonzero: Vec<Tensor>,
    /// Potentials that a step changed, `[B]`, summed over the steps.
    pub updates: Tensor,
}

/// 1 where a value is not zero.
fn present(x: &Tensor) -> Tensor {
    x.ne(&x.zeros_like()).convert(DType::F32)
}

/// Summed over all axes but the first.
fn per_sequence(x: &Tensor) -> Tensor {
    x.sum(&(1..x.rank()).collect::<Vec<_>>())
}

impl Connection {
    /// The product of other values.
    fn of(&self, g: &Graph, input: &Tensor, weight: &Tensor) -> Tensor {
        match &self.product {
            Product::Function(function) => function.call(g, &[input.clone(), weight.clone()]).swap_remove(0),
            Product::Primitive { op, weight_first: true } => g.apply_rc(op.clone(), &[weight, input]).swap_remove(0),
            Product::Primitive { op, .. } => g.apply_rc(op.clone(), &[input, weight]).swap_remove(0),
        }
    }
}

fn is_product(node: &Node) -> bool {
    downcast::<Dot>(node).is_some() || downcast::<Conv>(node).is_some()
}

impl Learner {
    /// The connections of a step of `model`, which this learner is of.
    pub fn synapses(&self, model: &Model) -> Synapses {
        let p = &self.prepared;
        let graph = p.body.graph();
        let step = p.body.with_results([p.new_states(), std::slice::from_ref(p.out())].concat());
        let params: Vec<Value> = p.body.params().iter().map(Tensor::value).collect();
        let moving = Dependence::any(&step, &params[p.phis..]);
        let of_phi: Vec<Dependence> = params[..p.phis].iter().map(|v| Dependence::any(&step, &[*v])).collect();
        let name = |weight: Value| {
            let phis = (0..p.phis).filter(|&k| of_phi[k].has(weight) || params[k] == weight);
            let mut names: Vec<&str> =
                phis.flat_map(|k| &p.sources[k]).map(|&s| model.params[s].name.as_str()).collect();
            names.dedup();
            names.join(", ")
        };
        let mut connections = Vec::new();
        for (_, node) in step.live(true) {
            let [a, b] = node.operands[..] else { continue };
            if !is_product(&node) || moving.has(a) == moving.has(b) {
                continue;
            }
            let (input, weight, weight_first) = if moving.has(a) { (a, b, false) } else { (b, a, true) };
            let product = Product::Primitive { op: node.op.clone(), weight_first };
            let weights = graph.tensor(weight).shape().elements();
            connections.push(Connection { name: name(weight), weights, product, input, weight });
        }
        let mut uncounted = Vec::new();
        for op in self.structure.ops.iter().filter(|op| op.kind == Kind::Map) {
            let (Some(function), Some(input)) = (&op.function, op.x) else { continue };
            if function.live(true).iter().any(|(_, node)| is_product(node)) {
                continue;
            }
            let weight = params[op.phi];
            if op.kind.operator().is_linear(op) {
                let (weights, product) = (op.weight.iter().product(), Product::Function(function.clone()));
                connections.push(Connection { name: name(weight), weights, product, input, weight });
            } else {
                uncounted.push(name(weight));
            }
        }
        let potentials = self.potentials(model).iter().map(|(_, new)| new.shape().elements()).sum::<usize>();
        Synapses { connections, uncounted, potentials: potentials / self.batch().max(1) }
    }

    /// Membrane potentials: their old value, where it is a state, and their new one.
    fn potentials(&self, model: &Model) -> Vec<(Option<Tensor>, Tensor)> {
        let p = &self.prepared;
        let observed = &p.body.results()[p.states + 2..];
        let potentials = model.observed.iter().zip(observed).filter(|(o, _)| o.quantity == Quantity::Potential);
        let old = |new: &Tensor| {
            let k = p.new_states().iter().position(|state| state.value() == new.value())?;
            Some(p.old_states()[k].clone())
        };
        potentials.map(|(_, new)| (old(new), new.clone())).collect()
    }

    /// Counts over a whole sequence: `inputs` are `[T, B, n_in]`.
    pub fn count_synapses(
        &self,
        g: &Graph,
        model: &Model,
        synapses: &Synapses,
        params: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
    ) -> Counts {
        let p = &self.prepared;
        let (n, graph) = (states.len(), p.body.graph());
        let mut results: Vec<Tensor> = p.new_states().to_vec();
        for c in &synapses.connections {
            let (input, weight) = (graph.tensor(c.input), graph.tensor(c.weight));
            let here = present(&input);
            results.push(per_sequence(&c.of(graph, &here, &present(&weight))));
            let spike = input.abs().ne(&input.full_like(1.0)).convert(DType::F32);
            results.push(per_sequence(&(here * spike)));
        }
        let changed = |(old, new): &(Option<Tensor>, Tensor)| match old {
            Some(old) => per_sequence(&new.ne(old).convert(DType::F32)),
            None => per_sequence(&new.full_like(1.0)),
        };
        let none = graph.zeros(&Shape::f32([self.batch()]));
        let updates = Tensor::sum_of(self.potentials(model).iter().map(|v| Some(changed(v)))).unwrap_or(none);
        results.push(updates);
        let counted = results.len() - n;
        let phis = p.prefix.call(g, params);
        let step = self.loop_body(&p.body.with_results(results), &phis);
        let mut init = states.to_vec();
        init.extend((0..counted).map(|_| g.zeros(&Shape::f32([self.batch()]))));
        let row = inputs.shape().with_dims(&inputs.dims()[1..]);
        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).chain([row]).collect();
        shapes.extend(phis.iter().map(|t| t.shape().clone()));
        let body = Func::trace(&shapes, |g, v| {
            let (states, rest) = v.split_at(n);
            let (sums, rest) = rest.split_at(counted);
            let mut args = states.to_vec();
            args.push(rest[0].convert(DType::F32));
            args.extend_from_slice(&rest[1..]);
            let mut new = step.call(g, &args);
            let found = new.split_off(n);
            new.extend(sums.iter().zip(found).map(|(sum, x)| sum + x));
            new
        });
        let (mut after, _) = scan(g, &body, inputs.dims()[0], false, &init, std::slice::from_ref(inputs), &phis);
        let mut counts = after.split_off(n).into_iter();
        let (mut effective, mut graded) = (Vec::new(), Vec::new());
        for _ in &synapses.connections {
            effective.extend(counts.next());
            graded.extend(counts.next());
        }
        let updates = counts.next().unwrap_or_else(|| g.zeros(&Shape::f32([self.batch()])));
        let weights: Vec<Tensor> = synapses.connections.iter().map(|c| graph.tensor(c.weight)).collect();
        let weights =
            if weights.is_empty() { vec![] } else { p.body.with_results(weights).call(g, &self.any(g, &phis)) };
        let dense = synapses.connections.iter().zip(&weights).map(|(c, w)| {
            let full = c.of(g, &g.full(graph.tensor(c.input).shape(), 1.0), &w.full_like(1.0));
            full.sum_all() * (1.0 / self.batch().max(1) as f64)
        });
        let dense = dense.collect();
        Counts { effective, graded, dense, nonzero: weights.iter().map(|w| present(w).sum_all()).collect(), updates }
    }

    /// Arguments of the body where only the parameters matter.
    fn any(&self, g: &Graph, phis: &[Tensor]) -> Vec<Tensor> {
        let rest = self.prepared.body.params()[phis.len()..].iter().map(|t| g.zeros(t.shape()));
        phis.iter().cloned().chain(rest).collect()
    }
}
