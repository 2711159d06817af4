//! From nodes and edges to an order: which edges are recurrent, and which shapes values have.
//!
//! Nodes are followed from the input, edges in their order. An edge back to a node on the way is *recurrent*: it carries the value of the step
//! before. Such a delay is moved back over nodes without memory that have one edge in and one out, to the neuron: of
//! `lif -> rec -> lif` the recurrent edge is `lif -> rec`, and the weight sees the spikes of the step before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    NirNet,
    kind::{KINDS, Kind, Memory},
};
use crate::{
    net::Sizes,
    settings::{SettingError, node::choices, range},
};

/// Most nodes, and most edges.
const MOST: usize = 1 << 12;

/// How a graph is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Nodes in order.
    pub order: Vec<String>,
    /// For each node where its inputs come from, and whether they are those of the step before.
    pub inputs: BTreeMap<String, Vec<(String, bool)>>,
    /// The shape of what comes into each node.
    pub inner: BTreeMap<String, Vec<usize>>,
    /// The shape of each node's values.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Nodes whose last value a recurrent edge needs.
    pub remembered: BTreeSet<String>,
    /// Nodes with a memory after which there is no other.
    pub readout: BTreeSet<String>,
    /// Pools and Flattens that follow a convolution and nothing else follows it: they are parts of its traced op, which
    /// drives its neurons position by position only with them.
    pub folded: BTreeMap<String, Vec<String>>,
}

/// An error about a node; what says no remedy gets the general one.
pub fn at(node: &str, text: &str) -> SettingError {
    let shown: String = node.chars().take(60).collect();
    let remedy = if text.contains("; ") { "" } else { "; change the node or what leads to it" };
    SettingError::new(format!("{text}{remedy}")).within(&shown).within("nodes")
}

fn wrong(text: String) -> SettingError {
    SettingError::new(text).within("edges")
}

/// Edges as numbers of nodes, in their order.
struct Edges {
    names: Vec<String>,
    all: Vec<(usize, usize)>,
    out: Vec<Vec<usize>>,
    into: Vec<Vec<usize>>,
}

impl Edges {
    fn new(net: &NirNet) -> Result<Edges, SettingError> {
        let names: Vec<String> = net.nodes.keys().cloned().collect();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let number = |name: &String| {
            known.binary_search(&name.as_str()).map_err(|_| {
                wrong(format!("join nodes, and there is no `{name}`; {}", choices(name, &known[..known.len().min(20)])))
            })
        };
        let (mut all, mut out, mut into) = (vec![], vec![vec![]; names.len()], vec![vec![]; names.len()]);
        let mut seen = BTreeSet::new();
        for [from, to] in &net.edges {
            let edge = (number(from)?, number(to)?);
            if !seen.insert(edge) {
                return Err(wrong(format!("are there once, and `{from}` to `{to}` is there twice; leave one out")));
            }
            all.push(edge);
            out[edge.0].push(edge.1);
            into[edge.1].push(edge.0);
        }
        Ok(Edges { names, all, out, into })
    }

    /// What can be reached from `start`, itself included, along `next`.
    fn reached(start: usize, next: &[Vec<usize>]) -> Vec<bool> {
        let mut seen = vec![false; next.len()];
        let mut stack = vec![start];
        while let Some(node) = stack.pop() {
            if !std::mem::replace(&mut seen[node], true) {
                stack.extend(&next[node]);
            }
        }
        seen
    }

    /// Edges back to a node on the way from the input.
    fn back(&self, input: usize) -> Vec<(usize, usize)> {
        let n = self.names.len();
        let (mut seen, mut open, mut found) = (vec![false; n], vec![false; n], Vec::new());
        let mut stack = vec![(input, 0)];
        (seen[input], open[input]) = (true, true);
        while let Some((node, next)) = stack.last_mut() {
            let node = *node;
            let Some(&to) = self.out[node].get(*next) else {
                open[node] = false;
                stack.pop();
                continue;
            };
            *next += 1;
            if open[to] {
                found.push((node, to));
            } else if !seen[to] {
                (seen[to], open[to]) = (true, true);
                stack.push((to, 0));
            }
        }
        found
    }

    /// Recurrent edges: delays moved back to the neurons.
    fn recurrent(&self, input: usize, memory: &[Memory]) -> BTreeSet<(usize, usize)> {
        let moved = |edge: (usize, usize)| {
            let mut at = edge;
            while memory[at.0] == Memory::None && self.into[at.0].len() == 1 && self.out[at.0].len() == 1 {
                at = (self.into[at.0][0], at.0);
                if at == edge {
                    break;
                }
            }
            at
        };
        self.back(input).into_iter().map(moved).collect()
    }

    /// The order of nodes if recurrent edges wait for nothing.
    fn order(&self, recurrent: &BTreeSet<(usize, usize)>) -> Vec<usize> {
        let mut waiting = vec![0; self.names.len()];
        let now = |edge: &&(usize, usize)| !recurrent.contains(edge);
        self.all.iter().filter(now).for_each(|(_, to)| waiting[*to] += 1);
        let mut ready: VecDeque<usize> = (0..waiting.len()).filter(|&k| waiting[k] == 0).collect();
        let mut order = Vec::new();
        while let Some(node) = ready.pop_front() {
            order.push(node);
            for &to in self.out[node].iter().filter(|to| !recurrent.contains(&(node, **to))) {
                waiting[to] -= 1;
                if waiting[to] == 0 {
                    ready.push_back(to);
                }
            }
        }
        order
    }
}

/// The row of every node, whose arrays and whole numbers are those of its type.
fn rows(net: &NirNet) -> Result<Vec<&'static Kind>, SettingError> {
    if net.nodes.len() > MOST || net.edges.len() > MOST {
        return Err(wrong(format!(
            "are at most {MOST}, and so are nodes, got {} and {}",
            net.edges.len(),
            net.nodes.len()
        )));
    }
    let row = |(name, node): (&String, &super::Node)| {
        if name.is_empty() || name.contains(super::arrows::ARROW) {
            return Err(at(name, "has a name, without an arrow in it"));
        }
        let known: Vec<&str> = KINDS.iter().map(|row| row.name).collect();
        let kind = &node.kind;
        let row = Kind::find(kind);
        let row =
            row.ok_or_else(|| at(name, &format!("has no type that is known, `{kind}`: {}", choices(kind, &known))))?;
        let arrays: BTreeSet<&str> = row.arrays.iter().map(|(name, _)| *name).collect();
        let sizes: BTreeSet<&str> = row.sizes.iter().map(|whole| whole.name).collect();
        if !node.arrays.keys().map(String::as_str).eq(arrays.iter().copied()) {
            return Err(at(name, &format!("has the arrays {arrays:?}, got {:?}", node.arrays.keys())));
        }
        if !node.sizes.keys().map(String::as_str).eq(sizes.iter().copied()) {
            return Err(at(name, &format!("has the numbers {sizes:?}, got {:?}", node.sizes.keys())));
        }
        for (quantity, extent) in &node.arrays {
            let elements = extent.shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
            if elements.is_none_or(|n| !(1..=1 << 28).contains(&n)) || extent.shape.len() > 8 {
                return Err(at(name, &format!("has from 1 to 2^28 values in `{quantity}`, got {:?}", extent.shape)));
            }
        }
        Ok(row)
    };
    net.nodes.iter().map(row).collect()
}

/// The only node of a type.
fn only(rows: &[&Kind], kind: &str) -> Result<usize, SettingError> {
    let all: Vec<usize> = (0..rows.len()).filter(|&k| rows[k].name == kind).collect();
    match all.as_slice() {
        &[one] => Ok(one),
        _ => Err(SettingError::new(format!("must have one node of type {kind}, got {}", all.len())).within("nodes")),
    }
}

impl Plan {
    /// The plan of a network.
    ///
    /// # Errors
    /// When nodes and edges are no network, or shapes do not fit; the error names the node.
    pub fn new(net: &NirNet) -> Result<Plan, SettingError> {
        let rows = rows(net)?;
        let edges = Edges::new(net)?;
        let (input, output) = (only(&rows, "Input")?, only(&rows, "Output")?);
        let (from_input, to_output) = (Edges::reached(input, &edges.out), Edges::reached(output, &edges.into));
        for (k, name) in edges.names.iter().enumerate() {
            let lies = |what: &str| at(name, &format!("lies on a way from Input to Output, and {what}"));
            match (from_input[k], to_output[k]) {
                (true, true) => {}
                (false, _) => return Err(lies("nothing leads to it from the Input")),
                (_, false) => return Err(lies("it does not lead to the Output")),
            }
        }
        if !edges.into[input].is_empty() || !edges.out[output].is_empty() {
            return Err(wrong("must not lead to the Input or from the Output; leave those out".into()));
        }
        let memory: Vec<Memory> = rows.iter().map(|row| row.memory).collect();
        let recurrent = edges.recurrent(input, &memory);
        let order = edges.order(&recurrent);
        if order.len() < edges.names.len() {
            return Err(wrong("have a way round that no recurrent edge breaks; put a neuron on it".into()));
        }
        let [inner, shapes] = shapes(net, &rows, &edges, input)?;
        let name = |k: usize| edges.names[k].clone();
        let mut inputs: BTreeMap<String, Vec<(String, bool)>> = (0..rows.len()).map(|k| (name(k), vec![])).collect();
        for edge in &edges.all {
            let list = inputs.entry(name(edge.1)).or_default();
            list.push((name(edge.0), recurrent.contains(edge)));
        }
        // Nodes after which there is a memory.
        let mut before = vec![false; rows.len()];
        let memories = (0..rows.len()).filter(|&k| memory[k] != Memory::None);
        let mut stack: Vec<usize> = memories.flat_map(|k| edges.into[k].iter().copied()).collect();
        while let Some(k) = stack.pop() {
            if !std::mem::replace(&mut before[k], true) {
                stack.extend(&edges.into[k]);
            }
        }
        let readout = (0..rows.len()).filter(|&k| memory[k] == Memory::Potential && !before[k]);
        let fixed = |k: usize| matches!(rows[k].name, "SumPool2d" | "AvgPool2d" | "Flatten");
        let behind = |k: usize| match edges.out[k].as_slice() {
            &[next] if fixed(next) && edges.into[next].len() == 1 && !recurrent.contains(&(k, next)) => Some(next),
            _ => None,
        };
        let convolutions = (0..rows.len()).filter(|&k| matches!(rows[k].name, "Conv1d" | "Conv2d"));
        let folded =
            convolutions.map(|k| (name(k), std::iter::successors(behind(k), |&k| behind(k)).map(name).collect()));
        Ok(Plan {
            folded: folded.collect(),
            order: order.into_iter().map(name).collect(),
            inputs,
            inner: named(&edges, inner),
            shapes: named(&edges, shapes),
            remembered: recurrent.iter().map(|edge| name(edge.0)).collect(),
            readout: readout.map(name).collect(),
        })
    }

    /// The recurrent edges: from, to.
    pub fn recurrent(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inputs
            .iter()
            .flat_map(|(to, all)| all.iter().filter(|(_, r)| *r).map(move |(from, _)| (from.as_str(), to.as_str())))
    }
}

fn named(edges: &Edges, all: Vec<Vec<usize>>) -> BTreeMap<String, Vec<usize>> {
    edges.names.iter().cloned().zip(all).collect()
}

/// The shapes of what comes into each node and of its values, from the input on.
fn shapes(net: &NirNet, rows: &[&Kind], edges: &Edges, input: usize) -> Result<[Vec<Vec<usize>>; 2], SettingError> {
    let n = rows.len();
    let (mut inner, mut shapes, mut known) = (vec![vec![]; n], vec![vec![]; n], vec![false; n]);
    let mut ready = VecDeque::from([(input, Vec::new())]);
    while let Some((k, incoming)) = ready.pop_front() {
        if std::mem::replace(&mut known[k], true) {
            if inner[k] != incoming {
                let text = format!("sums values of one shape, got {:?} and {incoming:?}", inner[k]);
                return Err(at(&edges.names[k], &text));
            }
            continue;
        }
        let shape = (rows[k].shape)(&net.nodes[&edges.names[k]], &incoming).map_err(|e| at(&edges.names[k], &e))?;
        let size = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n)).unwrap_or(usize::MAX);
        if range::SIZE.check(size as u64).is_err() {
            return Err(at(&edges.names[k], &format!("has at most {} values, got {shape:?}", range::SIZE.high)));
        }
        ready.extend(edges.out[k].iter().map(|&to| (to, shape.clone())));
        // What comes into the Input is what it says.
        inner[k] = if k == input { shape.clone() } else { incoming };
        shapes[k] = shape;
    }
    Ok([inner, shapes])
}

/// Gives dense nodes other sizes, and what is between them: those that lead to the output `n_out`, the others `n_rec`.
pub fn resize(net: &mut NirNet, to: &Sizes) -> Result<(), SettingError> {
    if (to.n_in, to.n_rec, to.n_out) == (None, None, None) {
        return Ok(());
    }
    let plan = net.plan()?;
    if let Some(name) = net.nodes.keys().find(|name| plan.shapes[*name].len() != 1) {
        return Err(at(name, "has an image, and only networks of dense layers can be given other sizes"));
    }
    let is_dense = |name: &str| matches!(net.nodes[name].kind.as_str(), "Affine" | "Linear");
    let output = net.end("Output").unwrap_or_default().to_string();
    // Backwards from the output to the first dense nodes.
    let (mut last, mut stack) = (BTreeSet::new(), vec![output]);
    while let Some(name) = stack.pop() {
        for (from, _) in &plan.inputs[&name] {
            if last.insert(from.clone()) && !is_dense(from) {
                stack.push(from.clone());
            }
        }
    }
    let dense: BTreeSet<String> = net.nodes.keys().filter(|name| is_dense(name)).cloned().collect();
    let old = plan.shapes.clone();
    let mut width: BTreeMap<String, usize> = BTreeMap::new();
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for name in net.nodes.keys().filter(|name| !width.contains_key(*name)).cloned().collect::<Vec<_>>() {
            let one = old[&name][0];
            let found = match net.nodes[&name].kind.as_str() {
                "Input" => Some(to.n_in.unwrap_or(one)),
                _ if dense.contains(&name) && last.contains(&name) => Some(to.n_out.unwrap_or(one)),
                _ if dense.contains(&name) => Some(to.n_rec.unwrap_or(one)),
                _ => plan.inputs[&name].iter().find_map(|(from, _)| width.get(from)).copied(),
            };
            if let Some(n) = found {
                width.insert(name, n);
                changed = true;
            }
        }
    }
    for (name, node) in &mut net.nodes {
        let n = width[name];
        if dense.contains(name) {
            let from = plan.inputs[name].first().map_or(n, |(from, _)| width[from]);
            for (quantity, extent) in &mut node.arrays {
                extent.shape = if quantity == "weight" { vec![n, from] } else { vec![n] };
            }
        } else {
            node.arrays.values_mut().filter(|e| e.shape == old[name]).for_each(|e| e.shape = vec![n]);
            node.sizes.entry("shape".into()).and_modify(|shape| *shape = vec![n as i64]);
        }
    }
    net.plan().map(|_| ())
}
