//! Finished computations that can be used again: called, differentiated, mapped, looped, lowered.

use std::{collections::HashMap, rc::Rc};

use crate::{
    graph::{Graph, Node, Tensor, Value},
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

    /// The nodes some result needs, in order, each with its index. With `emitted`, only what generated code needs.
    pub fn live(&self, emitted: bool) -> Vec<(usize, Node)> {
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
                needed.extend(self.graph.node(v.node).operands);
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
