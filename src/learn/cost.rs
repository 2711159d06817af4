//! What a traced program costs, counted on its graph before anything is compiled.
//!
//! The counts are of the mathematics: a product of `[M, K]` and `[K, N]` is `2 M N K` operations, a convolution two for each
//! element of its kernel and position of its result (zeros between elements count like others), arithmetic one per
//! element of its result, a sum one per element that goes in; moving, copying and converting values is free. A compiler may do
//! less (it may find a product that is made twice) and no compiler counts a product for less.

use std::collections::HashSet;

use hlo::{Func, Graph, Shape, Tensor, Value, graph::Node, ops::scan::Scan};

use super::Learner;
use crate::cell::Model;

/// Operations and memory of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that loops leave behind for what comes after them: stacked values of every step. Loops inside loops count
    /// once, since each round may take the place of the one before.
    pub stacked: u64,
}

/// Costs of what `func` computes.
pub fn cost(func: &Func) -> Cost {
    let live = func.live(true);
    let results = func.results().iter().map(Tensor::value);
    let used: HashSet<Value> = live.iter().flat_map(|(_, node)| emitted(node)).copied().chain(results).collect();
    live.iter().fold(Cost::default(), |sum, (index, node)| {
        let one = node_cost(func.graph(), *index, node, &used);
        Cost { flops: sum.flops + one.flops, stacked: sum.stacked + one.stacked }
    })
}

/// The operands that generated code reads.
fn emitted(node: &Node) -> &[Value] {
    &node.operands[..node.op.live_operands(node.operands.len())]
}

fn node_cost(graph: &Graph, index: usize, node: &Node, used: &HashSet<Value>) -> Cost {
    if let Some(scan) = hlo::func::downcast::<Scan>(node) {
        let kept = |k: &usize| *k < scan.carries || used.contains(&Value { node: index, result: *k });
        let kept: Vec<usize> = (0..node.shapes.len()).filter(kept).collect();
        let body = cost(&scan.body.with_results(kept.iter().map(|&k| scan.body.results()[k].clone()).collect()));
        let stacks = kept.iter().filter(|&&k| k >= scan.carries).map(|&k| node.shapes[k].bytes() as u64);
        return Cost { flops: scan.length as u64 * body.flops, stacked: stacks.sum::<u64>() + body.stacked };
    }
    let operands: Vec<Shape> = node.operands.iter().map(|&v| graph.tensor(v).shape().clone()).collect();
    let results: Vec<&Shape> = node.shapes.iter().collect();
    Cost { flops: node.op.flops(&operands.iter().collect::<Vec<_>>(), &results), stacked: 0 }
}

/// A sequence of `steps` steps without learning.
pub fn forward(learner: &Learner, model: &Model, steps: usize) -> Cost {
    cost(&trace(model, steps, |g, params, states, inputs, _| {
        // States are needed from step to step; what is counted is the output.
        let all = learner.observe(g, params, states, inputs);
        vec![all[states.len()].clone()]
    }))
}

/// The gradient of a sequence of `steps` steps.
pub fn gradient(learner: &Learner, model: &Model, steps: usize) -> Cost {
    cost(&trace(model, steps, |g, params, states, inputs, target| {
        let out = learner.sequence(g, params, states, inputs, target);
        out.grads.into_iter().chain([out.loss]).collect()
    }))
}

fn trace(
    model: &Model,
    steps: usize,
    build: impl FnOnce(&Graph, &[Tensor], &[Tensor], &Tensor, &Tensor) -> Vec<Tensor>,
) -> Func {
    let (n_params, n_states) = (model.params.len(), model.states.len());
    let mut shapes: Vec<Shape> = model.params.iter().map(|p| p.shape.clone()).collect();
    shapes.extend(model.states.iter().map(|s| s.shape.clone()));
    let inputs: Vec<usize> = std::iter::once(steps).chain(model.input.dims.iter().copied()).collect();
    shapes.extend([model.input.with_dims(inputs), Shape::s32([model.batch()])]);
    Func::trace(&shapes, |g, v| {
        let (params, rest) = v.split_at(n_params);
        let (states, rest) = rest.split_at(n_states);
        build(g, params, states, &rest[0], &rest[1])
    })
}

#[cfg(test)]
mod tests {
    use hlo::scan;

    use super::*;
    use crate::{
        learn::{Method, Objective, sequence::LearnerConfig},
        net::Stack,
    };

    #[test]
    fn products_sums_and_arithmetic() {
        let shapes = [Shape::f32([3, 5]), Shape::f32([5, 7])];
        let func = Func::trace(&shapes, |_, p| {
            let y = p[0].dot(&p[1]);
            vec![(&y + &y).sum(&[0])]
        });
        assert_eq!(cost(&func), Cost { flops: 2 * 3 * 5 * 7 + 21 + 21, stacked: 0 });
        // What no result needs costs nothing.
        assert_eq!(cost(&func.with_results(vec![func.params()[0].clone()])).flops, 0);
    }

    #[test]
    fn loops_count_every_step_and_what_they_keep() {
        let body = Func::trace(&[Shape::f32([4]), Shape::f32([4])], |_, v| {
            let next = (&v[0] * &v[1]).exp();
            vec![next.clone(), next.clone(), &next + 1.0]
        });
        let func = Func::trace(&[Shape::f32([4]), Shape::f32([10, 4])], |g, p| {
            scan(g, &body, 10, false, &p[..1], &p[1..], &[]).1
        });
        let kept = 10 * 4 * 4;
        let all = cost(&func);
        let first = cost(&func.with_results(func.results()[..1].to_vec()));
        assert_eq!((all.flops, first.flops), (10 * 4 * 3, 10 * 4 * 2));
        assert_eq!(first.stacked, kept);
    }

    #[test]
    fn costs_of_learners_have_the_order_of_their_formulas() {
        let net = Stack { n_in: 20, n_rec: 30, n_out: 3, ..Stack::default() };
        let model = net.model(4);
        let of = |method: Method, chunk: usize, steps: usize| {
            let config = LearnerConfig { method, chunk: Some(chunk), ..LearnerConfig::default() };
            gradient(&Learner::new(&model, &Objective::default(), &config).unwrap(), &model, steps)
        };
        let learner = Learner::new(&model, &Objective::default(), &LearnerConfig::default()).unwrap();
        let products = 2 * 4 * (50 * 30 + 30 * 3) * 24;
        let forward = forward(&learner, &model, 24).flops;
        assert!(forward >= products && forward < products + products / 2, "{forward} against {products}");
        // BPTT keeps something of every step, an online rule of every step of a chunk.
        let bptt = |steps| of(Method::BPTT, 1, steps).stacked;
        assert!(bptt(48) >= 2 * bptt(24) - bptt(24) / 4, "{} {}", bptt(24), bptt(48));
        assert_eq!(of(Method::D_RTRL, 4, 24).stacked, of(Method::D_RTRL, 4, 48).stacked);
        // Longer chunks spare passes over the trace.
        assert!(of(Method::D_RTRL, 12, 24).flops < of(Method::D_RTRL, 1, 24).flops);
        assert!(of(Method::es_d_rtrl(0.9), 4, 24).flops < of(Method::D_RTRL, 4, 24).flops);
    }
}
