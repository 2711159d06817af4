//! Reverse mode: the linear operations on tangents, run backwards.
//!
//! Forward mode writes the derivative as linear operations from placeholder tangents to result tangents. The cotangent of
//! a placeholder is found by going through those operations in reverse and letting each one transpose itself. The
//! placeholders and the linear operations themselves are then unused and are dropped.

use std::collections::HashMap;

use crate::{
    func::{Env, Func},
    graph::{Graph, Tensor, Value},
    transform::jvp::{Dual, Rules, jvp_with},
};

/// Cotangents of `seeds` (placeholders), given pairs (tangent, cotangent) of values that depend linearly on them.
pub fn pullback(graph: &Graph, seeds: &[Tensor], ends: &[(Tensor, Tensor)]) -> Vec<Option<Tensor>> {
    let first = seeds.iter().map(|s| s.value().node).min().unwrap_or(0);
    let last = ends.iter().map(|(t, _)| t.value().node).max().map_or(first, |n| n + 1);
    let mut linear = vec![false; last.saturating_sub(first)];
    for s in seeds.iter().filter(|s| s.value().node < last) {
        linear[s.value().node - first] = true;
    }
    let is_linear = |linear: &[bool], v: Value| v.node >= first && v.node < last && linear[v.node - first];
    for index in first..last {
        if !linear[index - first] {
            linear[index - first] = graph.node(index).operands.iter().any(|&o| is_linear(&linear, o));
        }
    }
    let mut cotangents: HashMap<Value, Tensor> = HashMap::new();
    let add = |map: &mut HashMap<Value, Tensor>, value: Value, ct: Tensor| {
        let sum = match map.remove(&value) {
            Some(known) => known + ct,
            None => ct,
        };
        map.insert(value, sum);
    };
    for (tangent, ct) in ends {
        assert_eq!(tangent.shape(), ct.shape(), "pullback: a cotangent must have the shape of its tangent");
        add(&mut cotangents, tangent.value(), ct.clone());
    }
    for index in (first..last).rev() {
        if !linear[index - first] || seeds.iter().any(|s| s.value().node == index) {
            continue;
        }
        let node = graph.node(index);
        let cts: Vec<Option<Tensor>> =
            (0..node.shapes.len()).map(|result| cotangents.remove(&Value { node: index, result })).collect();
        if cts.iter().all(Option::is_none) {
            continue;
        }
        let args: Vec<Tensor> = node.operands.iter().map(|&o| graph.tensor(o)).collect();
        let flags: Vec<bool> = node.operands.iter().map(|&o| is_linear(&linear, o)).collect();
        for (k, ct) in node.op.transpose(&args, &flags, &cts).into_iter().enumerate() {
            if let Some(ct) = ct.filter(|_| flags[k]) {
                assert_eq!(
                    ct.shape(),
                    args[k].shape(),
                    "{}: transpose gave a cotangent of another shape",
                    node.op.name()
                );
                add(&mut cotangents, node.operands[k], ct);
            }
        }
    }
    seeds.iter().map(|s| cotangents.remove(&s.value())).collect()
}

/// A function evaluated together with its derivative.
pub struct Vjp {
    /// Every inner value with its tangent.
    pub env: Env<Dual>,
    /// The results, without tangents.
    pub results: Vec<Tensor>,
    graph: Graph,
    seeds: Vec<Option<Tensor>>,
    tangents: Vec<Option<Tensor>>,
}

impl Vjp {
    /// Cotangents of the chosen arguments (`None`: no dependence, or not chosen), given those of the results.
    pub fn pull(&self, cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let ends: Vec<(Tensor, Tensor)> =
            self.tangents.iter().zip(cotangents).filter_map(|(t, c)| Some((t.clone()?, c.clone()?))).collect();
        let seeds: Vec<Tensor> = self.seeds.iter().flatten().cloned().collect();
        let mut found = pullback(&self.graph, &seeds, &ends).into_iter();
        self.seeds.iter().map(|s| s.as_ref().and_then(|_| found.next().flatten())).collect()
    }
}

/// Evaluates `func` so that cotangents can be pulled back to the arguments chosen by `wrt`.
pub fn vjp(graph: &Graph, func: &Func, args: &[Tensor], wrt: &[bool]) -> Vjp {
    let seeds: Vec<Option<Tensor>> = args
        .iter()
        .zip(wrt)
        .map(|(a, &w)| (w && a.dtype().is_float()).then(|| graph.placeholder(a.shape().clone())))
        .collect();
    let duals: Vec<Dual> =
        args.iter().zip(&seeds).map(|(a, s)| Dual { primal: a.clone(), tangent: s.clone() }).collect();
    let env = jvp_with(graph, func, &duals, &Rules::default());
    let ends: Vec<Dual> = func.results().iter().map(|r| env.get(r.value()).clone()).collect();
    let (results, tangents) = ends.into_iter().map(|d| (d.primal, d.tangent)).unzip();
    Vjp { env, results, graph: graph.clone(), seeds, tangents }
}

/// The scalar result number 0 of `func` and its gradient with respect to every floating-point argument (zeros where
/// nothing depends on it).
pub fn grad(graph: &Graph, func: &Func, args: &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>) {
    let vjp = vjp(graph, func, args, &vec![true; args.len()]);
    let mut cotangents = vec![None; vjp.results.len()];
    cotangents[0] = Some(vjp.results[0].full_like(1.0));
    let grads = vjp.pull(&cotangents);
    let grads = grads.into_iter().zip(args).map(|(g, a)| g.unwrap_or_else(|| a.zeros_like())).collect();
    (vjp.results, grads)
}
