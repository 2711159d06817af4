//! Loops that contain nothing but recurrences.
//!
//! [`scan`] takes the step of a loop apart before it builds the loop. Carries that depend on each other stay together in one
//! loop; carries that only feed others come first, in a loop of their own. What a loop does not need for its own carries is
//! computed outside, for all steps at once: the projection of an external input, the input of the next layer, a readout,
//! residuals of a derivative. In a stack of recurrent layers only each layer's own recurrence remains sequential, and every
//! other matrix product is one large product over all steps.
//!
//! A loop keeps (stacks) only its carries and the results of its products; elementwise values are computed again from
//! those. [`scan_whole`] is the plain loop, for bodies whose values must not exist for all steps at once.

use std::collections::{BTreeSet, HashMap};

use crate::{
    func::{Func, downcast},
    graph::{Graph, Node, Tensor, Value},
    op::Mapped,
    ops::{
        leaf::Parameter,
        scan::{Scan, parts},
    },
    shape::Shape,
};

/// Final carries and stacked outputs of a loop.
type Looped = (Vec<Tensor>, Vec<Tensor>);

/// Runs `body` for `length` steps, taken apart into recurrences. Returns the final carries and the stacked outputs.
///
/// # Panics
/// When the operands do not fit the body; the message says which.
#[track_caller]
pub fn scan(
    graph: &Graph,
    body: &Func,
    length: usize,
    reverse: bool,
    carries: &[Tensor],
    inputs: &[Tensor],
    consts: &[Tensor],
) -> Looped {
    let whole = checked(body, length, reverse, carries, inputs, consts);
    Pieces::new(graph, &whole, carries, inputs, consts).run()
}

/// Runs `body` for `length` steps as one loop, with everything inside.
///
/// # Panics
/// When the operands do not fit the body; the message says which.
#[track_caller]
pub fn scan_whole(
    graph: &Graph,
    body: &Func,
    length: usize,
    reverse: bool,
    carries: &[Tensor],
    inputs: &[Tensor],
    consts: &[Tensor],
) -> Looped {
    checked(body, length, reverse, carries, inputs, consts);
    // A loop is not handed what its body does not read, so that nothing makes it.
    let live: BTreeSet<usize> = body.live(false).into_iter().map(|(node, _)| node).collect();
    let params = body.params();
    let read = |k: usize| k < carries.len() || live.contains(&params[k].value().node);
    let body = Func::from_values(
        (0..params.len()).filter(|&k| read(k)).map(|k| params[k].clone()).collect(),
        body.results().to_vec(),
    );
    let given = carries.iter().chain(inputs).chain(consts).enumerate();
    let operands: Vec<&Tensor> = given.filter(|(k, _)| read(*k)).map(|(_, t)| t).collect();
    let inputs = (0..inputs.len()).filter(|k| read(carries.len() + k)).count();
    let whole = Scan { body, length, reverse, carries: carries.len(), inputs };
    let mut results = graph.apply_rc(std::rc::Rc::new(whole), &operands);
    let stacks = results.split_off(carries.len());
    (results, stacks)
}

#[track_caller]
fn checked(
    body: &Func,
    length: usize,
    reverse: bool,
    carries: &[Tensor],
    inputs: &[Tensor],
    consts: &[Tensor],
) -> Scan {
    use crate::op::Primitive;
    let whole = Scan { body: body.clone(), length, reverse, carries: carries.len(), inputs: inputs.len() };
    let shapes: Vec<&Shape> = carries.iter().chain(inputs).chain(consts).map(Tensor::shape).collect();
    if let Err(error) = whole.infer(&shapes) {
        panic!("{error}");
    }
    whole
}

/// Whether a value is cheaper to make again inside a loop than to bring in from outside.
fn cheap(node: &Node) -> bool {
    node.op.cheap() || downcast::<Parameter>(node).is_some()
}

/// A loop being taken apart.
struct Pieces<'a> {
    graph: &'a Graph,
    scan: &'a Scan,
    init: &'a [Tensor],
    /// For every node of the body, which carries it depends on.
    on: Vec<BTreeSet<usize>>,
    /// Nodes that depend on anything at all that is passed in.
    moving: Vec<bool>,
    /// Values of the body known outside: the same in every step, or stacked.
    outside: HashMap<Value, Mapped>,
    /// Final carries, as they become known.
    last: Vec<Option<Tensor>>,
}

impl<'a> Pieces<'a> {
    fn new(graph: &'a Graph, scan: &'a Scan, init: &'a [Tensor], inputs: &[Tensor], consts: &[Tensor]) -> Pieces<'a> {
        let body = &scan.body;
        let (carry_params, input_params, const_params) = parts(scan, body.params());
        let mut on = vec![BTreeSet::new(); body.graph().len()];
        let mut moving = vec![false; body.graph().len()];
        for (k, p) in carry_params.iter().enumerate() {
            on[p.value().node].insert(k);
        }
        for p in body.params() {
            moving[p.value().node] = true;
        }
        for (index, node) in body.live(false) {
            for operand in &node.operands {
                let (source, own) = (on[operand.node].clone(), &mut on[index]);
                own.extend(source);
                moving[index] |= moving[operand.node];
            }
        }
        let mut outside = HashMap::new();
        for (p, t) in input_params.iter().zip(inputs) {
            outside.insert(p.value(), Mapped { tensor: t.clone(), mapped: true });
        }
        for (p, t) in const_params.iter().zip(consts) {
            outside.insert(p.value(), Mapped { tensor: t.clone(), mapped: false });
        }
        Pieces { graph, scan, init, on, moving, outside, last: vec![None; init.len()] }
    }

    fn run(mut self) -> Looped {
        for component in self.components() {
            match component[..] {
                [k] if self.after(k) == self.before(k) => self.pass_through(k),
                _ => self.recur(&component),
            }
        }
        let ys = self.scan.body.results()[self.scan.carries..].to_vec();
        let stacks = ys.iter().map(|y| self.value(y.value()).materialize(self.scan.length)).collect();
        (self.last.into_iter().flatten().collect(), stacks)
    }

    fn before(&self, k: usize) -> Value {
        self.scan.body.params()[k].value()
    }

    fn after(&self, k: usize) -> Value {
        self.scan.body.results()[k].value()
    }

    /// Carries that depend on each other, in an order in which each group depends on earlier ones only.
    fn components(&self) -> Vec<Vec<usize>> {
        let n = self.init.len();
        let mut reach: Vec<BTreeSet<usize>> = (0..n).map(|k| self.on[self.after(k).node].clone()).collect();
        loop {
            let next: Vec<BTreeSet<usize>> =
                reach.iter().map(|r| r.iter().flat_map(|&k| reach[k].iter().copied().chain([k])).collect()).collect();
            if next == reach {
                break;
            }
            reach = next;
        }
        let together = |a: usize, b: usize| a == b || (reach[a].contains(&b) && reach[b].contains(&a));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for k in 0..n {
            match groups.iter_mut().find(|g| together(g[0], k)) {
                Some(group) => group.push(k),
                None => groups.push(vec![k]),
            }
        }
        // What a group reaches is a superset of what its sources reach.
        groups.sort_by_key(|g| (reach[g[0]].union(&g.iter().copied().collect()).count(), g[0]));
        groups
    }

    /// A carry that never changes.
    fn pass_through(&mut self, k: usize) {
        self.outside.insert(self.before(k), Mapped { tensor: self.init[k].clone(), mapped: false });
        self.last[k] = Some(self.init[k].clone());
    }

    /// The loop of one group of carries.
    fn recur(&mut self, group: &[usize]) {
        let body = &self.scan.body;
        let inside = |on: &BTreeSet<usize>| group.iter().any(|k| on.contains(k));

        // What the carries need: the core inside, the rest from outside.
        let mut core = vec![false; body.graph().len()];
        let mut external: BTreeSet<Value> = BTreeSet::new();
        let mut stack: Vec<Value> = group.iter().map(|&k| self.after(k)).collect();
        while let Some(v) = stack.pop() {
            let node = body.graph().node(v.node);
            let bring = !inside(&self.on[v.node]) && self.moving[v.node] && (!cheap(&node) || node.operands.is_empty());
            if bring {
                external.insert(v);
            } else if !core[v.node] {
                core[v.node] = true;
                stack.extend(&node.operands);
            }
        }
        // What the rest of the program needs of this loop: carries before and after, results of products.
        let mut kept: BTreeSet<Value> = BTreeSet::new();
        let mut seen = vec![false; body.graph().len()];
        let others = (0..body.results().len()).filter(|k| !group.contains(k));
        let mut stack: Vec<Value> = others.map(|k| body.results()[k].value()).collect();
        let carried: Vec<Value> = group.iter().flat_map(|&k| [self.before(k), self.after(k)]).collect();
        while let Some(v) = stack.pop() {
            if !inside(&self.on[v.node]) {
                continue;
            }
            let node = body.graph().node(v.node);
            if carried.contains(&v) || (core[v.node] && !node.op.elementwise() && !cheap(&node)) {
                kept.insert(v);
            } else if !seen[v.node] {
                seen[v.node] = true;
                stack.extend(&node.operands);
            }
        }

        let brought: Vec<(Value, Mapped)> = external.iter().map(|&v| (v, self.value(v))).collect();
        let (rows, fixed): (Vec<_>, Vec<_>) = brought.into_iter().partition(|(_, m)| m.mapped);
        let handle = |v: &Value| body.graph().tensor(*v);
        let mut sources: Vec<Tensor> = group.iter().map(|&k| body.params()[k].clone()).collect();
        sources.extend(rows.iter().chain(&fixed).map(|(v, _)| handle(v)));
        let mut results: Vec<Tensor> = group.iter().map(|&k| body.results()[k].clone()).collect();
        results.extend(kept.iter().map(handle));
        let shapes: Vec<Shape> = sources.iter().map(|t| t.shape().clone()).collect();
        let inner = body.with_results(results);
        let inner = Func::trace(&shapes, |g, params| inner.rebuild(g, &sources, params));

        let init: Vec<Tensor> = group.iter().map(|&k| self.init[k].clone()).collect();
        let tensors = |list: &[(Value, Mapped)]| list.iter().map(|(_, m)| m.tensor.clone()).collect::<Vec<_>>();
        let Scan { length, reverse, .. } = *self.scan;
        let (last, stacks) = scan_whole(self.graph, &inner, length, reverse, &init, &tensors(&rows), &tensors(&fixed));
        for (&k, t) in group.iter().zip(last) {
            self.last[k] = Some(t);
        }
        for (v, tensor) in kept.into_iter().zip(stacks) {
            self.outside.insert(v, Mapped { tensor, mapped: true });
        }
    }

    /// A value of the body for all steps, made outside from what is known there.
    fn value(&mut self, v: Value) -> Mapped {
        let body = &self.scan.body;
        let mut order: BTreeSet<usize> = BTreeSet::new();
        let mut stack = vec![v];
        while let Some(v) = stack.pop() {
            if !self.outside.contains_key(&v) && order.insert(v.node) {
                stack.extend(&body.graph().node(v.node).operands);
            }
        }
        for index in order {
            let node = body.graph().node(index);
            let operands: Vec<Mapped> = node.operands.iter().map(|o| self.outside[o].clone()).collect();
            let made = if operands.iter().any(|o| o.mapped) {
                node.op.batch(&operands, self.scan.length)
            } else {
                let args: Vec<&Tensor> = operands.iter().map(|o| &o.tensor).collect();
                let results = self.graph.apply_rc(node.op.clone(), &args).into_iter();
                results.map(|tensor| Mapped { tensor, mapped: false }).collect()
            };
            for (result, made) in made.into_iter().enumerate() {
                self.outside.entry(Value { node: index, result }).or_insert(made);
            }
        }
        self.outside[&v].clone()
    }
}
