//! Finished computations that can be used again: called, differentiated, mapped, looped, lowered.

use std::{collections::HashMap, rc::Rc};

use crate::{
    graph::{Fault, Graph, Node, Tensor, Value},
    op::Primitive,
    ops::Parameter,
    shape::Shape,
};

/// A traced computation: parameters in, results out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Func {
    graph: Graph,
    params: Rc<[Tensor]>,
    results: Rc<[Tensor]>,
}

/// What a replay computed for every value of a function.
pub struct Env<V> {
    values: Vec<Vec<V>>,
}

impl<V> Env<V> {
    /// What stands for a value of the function. Values that no result needs have none.
    ///
    /// # Panics
    /// When the value is not needed by any result of the function.
    #[track_caller]
    pub fn get(&self, value: Value) -> &V {
        match self.values.get(value.node).and_then(|r| r.get(value.result)) {
            Some(v) => v,
            None => {
                panic!("value %{}.{} was not computed: no result of the function needs it", value.node, value.result)
            }
        }
    }
}

impl<V> Env<V> {
    pub(crate) fn get_mut(&mut self, value: Value) -> Option<&mut V> {
        self.values.get_mut(value.node).and_then(|r| r.get_mut(value.result))
    }
}

impl Func {
    /// Runs `body` once on parameters of the given shapes and keeps what it built.
    pub fn trace(shapes: &[Shape], body: impl FnOnce(&Graph, &[Tensor]) -> Vec<Tensor>) -> Func {
        let graph = Graph::new();
        let params: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| graph.parameter(i, s.clone())).collect();
        let results = body(&graph, &params);
        Func::from_values(params, results)
    }

    /// The same for a formula of somebody else, whose shape mistakes are errors.
    ///
    /// # Errors
    /// The first mistake, with its line.
    pub fn try_trace(shapes: &[Shape], body: impl FnOnce(&Graph, &[Tensor]) -> Vec<Tensor>) -> Result<Func, Fault> {
        let graph = Graph::forgiving();
        let params: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| graph.parameter(i, s.clone())).collect();
        let results = body(&graph, &params);
        graph.fault().map_or_else(|| Ok(Func::from_values(params, results)), Err)
    }

    /// A function from values that already exist in one graph; `params` must be parameters or placeholders.
    pub fn from_values(params: Vec<Tensor>, results: Vec<Tensor>) -> Func {
        let graph = results.first().or(params.first()).map_or_else(Graph::new, |t| t.graph().clone());
        assert!(
            results.iter().chain(&params).all(|t| t.graph().same(&graph)),
            "function: a result belongs to another graph; pass outer values in as arguments"
        );
        Func { graph, params: params.into(), results: results.into() }
    }

    /// The arena that holds the nodes.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The parameters.
    pub fn params(&self) -> &[Tensor] {
        &self.params
    }

    /// The results.
    pub fn results(&self) -> &[Tensor] {
        &self.results
    }

    /// The same computation with other results: values of its own graph.
    pub fn with_results(&self, results: Vec<Tensor>) -> Func {
        Func { graph: self.graph.clone(), params: self.params.clone(), results: results.into() }
    }

    /// A text that two functions share only if they compute the same in the same way. `None` if some operation in it is
    /// never equal to another.
    pub fn fingerprint(&self) -> Option<String> {
        use std::fmt::Write;
        let mut names: HashMap<usize, usize> = HashMap::new();
        let mut text = String::new();
        for (position, param) in self.params.iter().enumerate() {
            names.insert(param.value().node, position);
            let _ = write!(text, "{};", param.shape());
        }
        let name = |names: &HashMap<usize, usize>, v: &Value| format!("{}.{},", names[&v.node], v.result);
        for (index, node) in self.live(false) {
            if names.contains_key(&index) {
                continue;
            }
            text.push_str(&node.op.key()?);
            node.operands.iter().for_each(|v| text.push_str(&name(&names, v)));
            text.push(';');
            let next = names.len();
            names.insert(index, next);
        }
        self.results.iter().for_each(|r| text.push_str(&name(&names, &r.value())));
        Some(text)
    }

    /// The nodes some result needs, in order, each with its index. With `emitted`, only what generated code needs.
    pub fn live(&self, emitted: bool) -> Vec<(usize, Rc<Node>)> {
        let mut needed = vec![false; self.graph.len()];
        for r in self.results.iter() {
            needed[r.value().node] = true;
        }
        let mut live = Vec::new();
        for index in (0..needed.len()).rev().filter(|_| !self.results.is_empty()) {
            if !needed[index] {
                continue;
            }
            let node = self.graph.node(index);
            let count = if emitted { node.op.live_operands(node.operands.len()) } else { node.operands.len() };
            for operand in &node.operands[..count] {
                needed[operand.node] = true;
            }
            live.push((index, node));
        }
        live.reverse();
        live
    }

    /// Goes through the live nodes in order, letting `step` say what stands for each one's results.
    pub fn replay<V: Clone>(&self, args: &[V], mut step: impl FnMut(usize, &Node, Vec<V>) -> Vec<V>) -> Env<V> {
        assert_eq!(
            args.len(),
            self.params.len(),
            "call: the function takes {} arguments, got {}; pass one for each parameter",
            self.params.len(),
            args.len()
        );
        let mut values: Vec<Vec<V>> = vec![Vec::new(); self.graph.len()];
        for (param, arg) in self.params.iter().zip(args) {
            values[param.value().node] = vec![arg.clone()];
        }
        for (index, node) in self.live(false) {
            if values[index].is_empty() {
                let operands = node.operands.iter().map(|o| values[o.node][o.result].clone()).collect();
                values[index] = step(index, &node, operands);
            }
        }
        Env { values }
    }

    /// Builds the results again in another graph, with `params` standing for the values `sources` of this one.
    pub fn rebuild(&self, graph: &Graph, sources: &[Tensor], params: &[Tensor]) -> Vec<Tensor> {
        let mut known: HashMap<Value, Tensor> =
            sources.iter().zip(params).map(|(s, p)| (s.value(), p.clone())).collect();
        let mut needed: Vec<Value> = self.results.iter().map(Tensor::value).collect();
        let mut order: Vec<usize> = Vec::new();
        let mut seen = vec![false; self.graph.len()];
        while let Some(v) = needed.pop() {
            if !known.contains_key(&v) && !seen[v.node] {
                seen[v.node] = true;
                order.push(v.node);
                needed.extend(&self.graph.node(v.node).operands);
            }
        }
        order.sort_unstable();
        for index in order {
            let node = self.graph.node(index);
            let operands: Vec<&Tensor> = node.operands.iter().map(|o| &known[o]).collect();
            let made = graph.apply_rc(node.op.clone(), &operands);
            for (result, tensor) in made.into_iter().enumerate() {
                known.entry(Value { node: index, result }).or_insert(tensor);
            }
        }
        self.results.iter().map(|r| known[&r.value()].clone()).collect()
    }

    /// The computation applied to `args`, inlined into their graph; the environment holds every inner value.
    #[track_caller]
    pub fn call_env(&self, graph: &Graph, args: &[Tensor]) -> Env<Tensor> {
        for (k, (param, arg)) in self.params.iter().zip(args).enumerate() {
            assert!(
                param.shape() == arg.shape(),
                "call: argument {k} must be {}, got {}; broadcast or convert it first",
                param.shape(),
                arg.shape()
            );
        }
        self.replay(args, |_, node, operands| graph.apply_rc(node.op.clone(), &operands.iter().collect::<Vec<_>>()))
    }

    /// The computation applied to `args`, inlined into `graph`.
    #[track_caller]
    pub fn call(&self, graph: &Graph, args: &[Tensor]) -> Vec<Tensor> {
        let env = self.call_env(graph, args);
        self.results.iter().map(|r| env.get(r.value()).clone()).collect()
    }
}

/// Whether a node is a parameter.
pub(crate) fn is_parameter(node: &Node) -> bool {
    (node.op.as_ref() as &dyn std::any::Any).is::<Parameter>()
}

/// The primitive of a node as a concrete type.
pub fn downcast<P: Primitive>(node: &Node) -> Option<&P> {
    (node.op.as_ref() as &dyn std::any::Any).downcast_ref::<P>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_loops_are_one_and_others_are_not() {
        let shape = Shape::f32([2]);
        let body = |factor: f64| {
            Func::trace(&[shape.clone(), shape.clone()], |_, v| {
                // Careless building makes other node numbers, not another function.
                let _ = &v[1] + factor;
                let next = &v[0] * factor + &v[1];
                vec![next.clone(), next.exp()]
            })
        };
        let bare = Func::trace(&[shape.clone(), shape.clone()], |_, v| {
            let next = &v[0] * 2.0 + &v[1];
            vec![next.clone(), next.exp()]
        });
        assert_eq!(body(2.0).fingerprint(), bare.fingerprint());
        assert_ne!(body(2.0).fingerprint(), body(3.0).fingerprint());
        assert_ne!(bare.fingerprint(), bare.with_results(bare.results()[..1].to_vec()).fingerprint());
        let swapped = Func::from_values(bare.params().iter().rev().cloned().collect(), bare.results().to_vec());
        assert_ne!(bare.fingerprint(), swapped.fingerprint());

        let stack = Shape::f32([5, 2]);
        Func::trace(&[shape.clone(), stack], |g, v| {
            let run =
                |factor, reverse| crate::scan(g, &body(factor), 5, reverse, &v[..1], &v[1..], &[]).0.swap_remove(0);
            let first = run(2.0, false).value();
            assert_eq!(first, run(2.0, false).value());
            assert!(first != run(3.0, false).value() && first != run(2.0, true).value());
            vec![v[0].clone()]
        });
    }
}
