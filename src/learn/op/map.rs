//! `y = F(x, w)` with any function `F`: convolutions, sparse and structured products, and what a user writes.

use hlo::{
    Func, Graph, HostValue, Mapped, Shape, Tensor,
    transform::{Dependence, Dual, jvp, vjp, vmap},
};

use super::{Carried, ChunkResult, Group, MAP, Op, Operator, Reach};
use crate::learn::cost;

/// The pullback of the function itself; no trace that goes forwards. See [`Operator`].
pub struct Map;

impl Operator for Map {
    fn name(&self) -> &'static str {
        "map"
    }

    fn tag(&self) -> &'static str {
        MAP
    }

    fn gradient(&self, op: &Op, weight: &Tensor, x: Option<&Tensor>, w: &Tensor) -> Tensor {
        let x = x.expect("a map has an input");
        let steps = x.dims()[0];
        let all = Func::trace(&[x.shape().clone(), weight.shape().clone()], |g, p| {
            let args = [Mapped { tensor: p[0].clone(), mapped: true }, Mapped { tensor: p[1].clone(), mapped: false }];
            let env = vmap(g, function(op), &args, steps);
            vec![env.get(function(op).results()[0].value()).materialize(steps)]
        });
        let pulled = vjp(w.graph(), &all, &[x.clone(), weight.clone()], &[false, true]).pull(&[Some(w.clone())]);
        pulled[1].clone().unwrap_or_else(|| weight.zeros_like())
    }

    /// Looks at how the gradient changes with the input.
    fn is_linear(&self, op: &Op) -> bool {
        let all = self.gradient_in_a_step(op);
        let g = all.graph();
        let [x, weight, w] = all.params() else { return false };
        let change = x.full_like(1.0);
        let duals = [Dual { primal: x.clone(), tangent: Some(change) }, plain(weight), plain(w)];
        let Some(tangent) = jvp(g, &all, &duals)[0].tangent.clone() else { return false };
        let tangent = all.with_results(vec![tangent]);
        let fixed = !Dependence::any(&tangent, &[x.value()]).has(tangent.results()[0].value());
        fixed && vanishes(function(op))
    }

    fn reads_weight(&self, op: &Op) -> bool {
        let gradient = self.gradient_in_a_step(op);
        Dependence::any(&gradient, &[gradient.params()[1].value()]).has(gradient.results()[0].value())
    }

    fn flops(&self, op: &Op, _: usize) -> u64 {
        cost::cost(function(op)).flops
    }

    /// Its input, and the largest value inside the function, of which the gradient needs something alike.
    fn bytes_per_step(&self, op: &Op) -> usize {
        let live = function(op).live(true);
        let largest = live.iter().flat_map(|(_, node)| &node.shapes).map(Shape::bytes).max().unwrap_or_default();
        4 * op.input.iter().product::<usize>() + largest
    }

    /// A trace of D-RTRL would have a value for each weight, sequence and position.
    fn trace(&self, _: &Op, _: &Group, _: &Reach, _: usize, _: usize) -> Option<Shape> {
        None
    }

    fn carry(&self, carried: &Carried<'_>, _: &mut ChunkResult) {
        let site = &carried.view.structure.ops[carried.op].site;
        unreachable!("`{site}` has no trace that goes forwards; the learner refuses forms that need one");
    }
}

impl Map {
    /// The gradient of one step, from its input, the weight and what the loss asks of the output.
    fn gradient_in_a_step(&self, op: &Op) -> Func {
        let g = Graph::new();
        let params = function(op).params();
        let x = g.parameter(0, Shape::f32([&[1], params[0].dims()].concat()));
        let weight = g.parameter(1, params[1].shape().clone());
        let w = g.parameter(2, Shape::f32([&[1], function(op).results()[0].dims()].concat()));
        let gradient = self.gradient(op, &weight, Some(&x), &w);
        Func::from_values(vec![x, weight, w], vec![gradient])
    }
}

fn plain(t: &Tensor) -> Dual {
    Dual { primal: t.clone(), tangent: None }
}

/// Whether a function that is affine in its input is zero without one, by its values for a weight of ones.
fn vanishes(function: &Func) -> bool {
    let values = |k: usize, value: f64| HostValue::full(function.params()[k].shape().clone(), value);
    function.evaluate(&[values(0, 0.0), values(1, 1.0)])[0].data.iter().all(|&y| y == 0.0)
}

fn function(op: &Op) -> &Func {
    op.function.as_ref().expect("a map has a function")
}
