//! Forward mode: values and tangents side by side.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
};

use crate::{
    func::{Env, Func},
    graph::{Graph, Tensor, Value},
};

/// A value and its tangent; no tangent means zero.
#[derive(Clone, Debug)]
pub struct Dual {
    /// The value.
    pub primal: Tensor,
    /// Its derivative along the chosen direction.
    pub tangent: Option<Tensor>,
}

/// A tangent from the operands of a node and their tangents.
pub type TangentOf = Rc<dyn Fn(&[Tensor], &[Option<Tensor>]) -> Option<Tensor>>;

/// How inner values of the function are to be treated while it is differentiated.
#[derive(Default)]
pub struct Rules<'a> {
    /// Values to use in place of computed ones; their tangents still flow. (They are known already, so nothing that only
    /// they need is computed again.)
    pub known: HashMap<Value, Tensor>,
    /// Values held constant.
    pub cut: HashSet<Value>,
    /// Tangents added to a value.
    pub perturb: HashMap<Value, Tensor>,
    /// The tangents of some values, from the operands of their nodes and the tangents of these, in place of the rules of their ops.
    pub tangents: HashMap<Value, TangentOf>,
    /// Which consumers (by node) of a perturbed value see the perturbation; all, if not given. Results always do.
    pub sees: Option<&'a dyn Fn(usize, Value) -> bool>,
}

/// Values and tangents of every inner value; see [`Rules`].
pub fn jvp_with(graph: &Graph, func: &Func, args: &[Dual], rules: &Rules<'_>) -> Env<Dual> {
    let mut env = func.replay(args, |index, node, mut operands| {
        for (operand, value) in operands.iter_mut().zip(&node.operands) {
            if let Some(push) = rules.perturb.get(value)
                && rules.sees.is_none_or(|sees| sees(index, *value))
            {
                operand.tangent = Tensor::sum_of([operand.tangent.take(), Some(push.clone())]);
            }
        }
        let primals: Vec<Tensor> = operands.iter().map(|d| d.primal.clone()).collect();
        let tangents: Vec<Option<Tensor>> = operands.into_iter().map(|d| d.tangent).collect();
        let (results, mut out) = if tangents.iter().all(Option::is_none) {
            let results = graph.apply_rc(node.op.clone(), &primals.iter().collect::<Vec<_>>());
            let none = vec![None; results.len()];
            (results, none)
        } else if let Some(both) = node.op.linearize(&primals, &tangents) {
            both
        } else {
            let mut results = graph.apply_rc(node.op.clone(), &primals.iter().collect::<Vec<_>>());
            for (result, tensor) in results.iter_mut().enumerate() {
                if let Some(known) = rules.known.get(&Value { node: index, result }) {
                    *tensor = known.clone();
                }
            }
            let out = node.op.jvp(&primals, &results, &tangents);
            (results, out)
        };
        if let (Some(tangent), [_]) = (rules.tangents.get(&Value { node: index, result: 0 }), &results[..]) {
            out[0] = tangent(&primals, &tangents);
        }
        results
            .into_iter()
            .enumerate()
            .map(|(result, primal)| {
                let value = Value { node: index, result };
                let tangent = out[result].take().filter(|_| !rules.cut.contains(&value));
                Dual { primal: rules.known.get(&value).cloned().unwrap_or(primal), tangent }
            })
            .collect()
    });
    // Consumers added the perturbation as they read; a result has none.
    let results: BTreeSet<Value> = func.results().iter().map(Tensor::value).collect();
    for value in results {
        if let (Some(push), Some(dual)) = (rules.perturb.get(&value), env.get_mut(value)) {
            dual.tangent = Tensor::sum_of([dual.tangent.take(), Some(push.clone())]);
        }
    }
    env
}

/// Results and their tangents.
pub fn jvp(graph: &Graph, func: &Func, args: &[Dual]) -> Vec<Dual> {
    let env = jvp_with(graph, func, args, &Rules::default());
    func.results().iter().map(|r| env.get(r.value()).clone()).collect()
}
