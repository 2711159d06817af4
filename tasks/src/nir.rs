//! Networks in the Neuromorphic Intermediate Representation (NIR), as the Python package `nir` writes and reads them: HDF5.
//!
//! ```text
//! /version                         text
//! /node/type                       "NIRGraph"
//! /node/nodes/NAME/type            "LIF", "Affine", ...
//! /node/nodes/NAME/QUANTITY        numbers or text: tau, weight, stride, padding, ...
//! /node/edges                      pairs of names, [E, 2]
//! ```
//!
//! This module knows the file, not what nodes mean. A node that is a graph itself becomes its nodes: `NAME.INNER`, its own input and output
//! replaced by edges. Of `metadata` the numbers and texts of the whole graph are kept; those of nodes are named in [`Graph::ignored`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::hdf5::{Budget, Fault, Hdf5, Heap, Item, Value, Values, write};
use crate::{Result, files};

type Found<T> = std::result::Result<T, Fault>;

/// Most nodes, and most edges, of a graph.
const MOST: usize = 1 << 12;
/// Most bytes of the name of a node, with those of the graphs that it lies in.
const LONGEST: usize = 200;
/// Graphs inside each other.
const DEEPEST: usize = 8;
/// Most bytes of a file.
const FILE: u64 = 1 << 33;

/// A graph of nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// The version of the package that wrote it, if the file says.
    pub version: Option<String>,
    /// By name.
    pub nodes: BTreeMap<String, Node>,
    /// From, to; in the order of the file.
    pub edges: Vec<(String, String)>,
    /// What the graph says about itself.
    pub metadata: BTreeMap<String, Value>,
    /// What was found and means nothing here, by its place in the file.
    pub ignored: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its type: `LIF`, `Affine`.
    pub kind: String,
    /// Its quantities.
    pub values: BTreeMap<String, Value>,
}

impl Graph {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); [`Error::Damaged`](crate::Error::Damaged) for what is no graph of NIR.
    pub fn open(path: &Path) -> Result<Graph> {
        Self::from_bytes(files::read(path, FILE, "read the NIR file")?, path)
    }

    /// A file with contents `bytes`; `path` is for messages only.
    ///
    /// # Errors
    /// As [`Graph::open`].
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Graph> {
        Hdf5::new(bytes).and_then(|file| Reader::new(&file).graph()).map_err(|fault| fault.at(path))
    }

    /// The bytes of a file with this graph.
    ///
    /// # Panics
    /// When a value has another number of entries than its axes say.
    pub fn to_bytes(&self) -> Vec<u8> {
        let item = |value: &Value| match value.values.clone() {
            Values::Single(all) => Item::Single(value.dims.clone(), all),
            Values::Double(all) => Item::Double(value.dims.clone(), all),
            Values::Integers(all) => Item::Integers(value.dims.clone(), all),
            Values::Texts(all) => Item::Texts(value.dims.clone(), all),
        };
        let items = |values: &BTreeMap<String, Value>| {
            values.iter().map(|(name, value)| (name.clone(), item(value))).collect::<BTreeMap<_, _>>()
        };
        let node = |node: &Node| {
            let mut members = items(&node.values);
            members.insert("type".into(), Item::text(node.kind.clone()));
            Item::Group(members)
        };
        let nodes = Item::group(self.nodes.iter().map(|(name, n)| (name.clone(), node(n))));
        let ends: Vec<String> = self.edges.iter().flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
        let edges = Item::Texts(vec![self.edges.len(), 2], ends);
        let mut graph = vec![("type", Item::text("NIRGraph")), ("nodes", nodes), ("edges", edges)];
        if !self.metadata.is_empty() {
            graph.push(("metadata", Item::Group(items(&self.metadata))));
        }
        let version = self.version.clone().unwrap_or_else(|| VERSION.into());
        write(BTreeMap::from([("version".into(), Item::text(version)), ("node".into(), Item::group(graph))]))
    }
}

/// The version of the format that is written.
const VERSION: &str = "1.0";

/// What a graph inside a graph is to the one around it.
struct Inner {
    input: String,
    output: String,
}

struct Reader<'a> {
    file: &'a Hdf5,
    heap: Heap<'a>,
    budget: Budget,
    found: Graph,
    /// The inputs and outputs of graphs inside graphs: they pass values on.
    passing: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a Hdf5) -> Self {
        let (heap, budget) = (Heap::new(file.bytes()), Budget::of(file.bytes().len()));
        Reader { file, heap, budget, found: Graph::default(), passing: BTreeSet::new() }
    }

    fn graph(mut self) -> Found<Graph> {
        let root = self.members(self.file.root(), "/")?;
        self.found.version = root.get("version").map(|&at| self.text(at, "version")).transpose()?;
        let Some(&node) = root.get("node") else {
            let names: Vec<&str> = root.keys().take(8).map(String::as_str).collect();
            let got = format!("there is none among its members ({})", names.join(", "));
            return Err(Fault::unusable("a NIR file has a group `node`", got, "name a file that nir.write made"));
        };
        self.inside("node", node, "", 0)?;
        self.pass_on()?;
        Ok(self.found)
    }

    fn members(&self, at: u64, place: &str) -> Found<BTreeMap<String, u64>> {
        let none = || Fault::new(format!("{place} is a group"), "a data set");
        self.file.members(at, place)?.ok_or_else(none)
    }

    fn value(&mut self, at: u64, place: &str) -> Found<Value> {
        let data = self.file.dataset(at, place)?;
        self.file.value(&data, &mut self.budget, &mut self.heap)
    }

    fn text(&mut self, at: u64, place: &str) -> Found<String> {
        match self.value(at, place)?.values {
            Values::Texts(all) if all.len() == 1 => Ok(all.into_iter().next().unwrap_or_default()),
            other => Err(Fault::new(format!("{place} is a text"), other.kind())),
        }
    }

    fn kind(&mut self, members: &BTreeMap<String, u64>, place: &str) -> Found<String> {
        match members.get("type") {
            Some(&at) => self.text(at, &format!("{place}/type")),
            None => Err(Fault::new(format!("{place} has a type"), "there is none")),
        }
    }

    /// Reads the graph at `at`, whose nodes are called `PREFIX.NAME`; its inputs and outputs.
    fn inside(&mut self, place: &str, at: u64, prefix: &str, depth: usize) -> Found<[Vec<String>; 2]> {
        let members = self.members(at, place)?;
        let kind = self.kind(&members, place)?;
        let next = "write the graph that holds it: nir.write(file, nir.NIRGraph(nodes, edges))";
        if kind != "NIRGraph" {
            return Err(Fault::unusable(format!("{place} is a NIRGraph"), format!("a node of type {kind}"), next));
        }
        let (Some(&nodes), Some(&edges)) = (members.get("nodes"), members.get("edges")) else {
            return Err(Fault::new(format!("{place} has nodes and edges"), "one of them is missing"));
        };
        self.metadata(&members, place, depth)?;
        let (mut ends, mut graphs) = ([vec![], vec![]], BTreeMap::new());
        let nodes_place = format!("{place}/nodes");
        for (name, at) in self.members(nodes, &nodes_place)? {
            let full = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            if full.len() > LONGEST || self.found.nodes.len() + self.passing.len() >= MOST {
                let rule = format!("a graph has at most {MOST} nodes, with names of at most {LONGEST} bytes");
                return Err(Fault::new(rule, format!("`{}` is one more", full.chars().take(40).collect::<String>())));
            }
            let place = format!("{nodes_place}/{name}");
            let members = self.members(at, &place)?;
            let kind = self.kind(&members, &place)?;
            match kind.as_str() {
                "NIRGraph" => drop(graphs.insert(name, self.inner(&place, at, &full, depth)?)),
                "Input" | "Output" if depth > 0 => {
                    ends[usize::from(kind == "Output")].push(full.clone());
                    self.passing.insert(full);
                }
                _ => {
                    let values = self.quantities(&members, &place)?;
                    if self.found.nodes.insert(full.clone(), Node { kind, values }).is_some() {
                        let got = format!("two are called `{full}` once graphs are their nodes");
                        return Err(Fault::new("nodes have different names", got));
                    }
                }
            }
        }
        self.edges(edges, &format!("{place}/edges"), prefix, &graphs)?;
        Ok(ends)
    }

    /// A graph that is a node.
    fn inner(&mut self, place: &str, at: u64, full: &str, depth: usize) -> Found<Inner> {
        if depth >= DEEPEST {
            let got = format!("{full} lies deeper");
            return Err(Fault::new(format!("graphs lie at most {DEEPEST} deep inside each other"), got));
        }
        match self.inside(place, at, full, depth + 1)? {
            [inputs, outputs] if inputs.len() == 1 && outputs.len() == 1 => {
                Ok(Inner { input: inputs[0].clone(), output: outputs[0].clone() })
            }
            [inputs, outputs] => {
                let got = format!("{} and {} in {full}", inputs.len(), outputs.len());
                Err(Fault::unusable("a graph inside a graph has one Input and one Output", got, "split it"))
            }
        }
    }

    fn quantities(&mut self, members: &BTreeMap<String, u64>, place: &str) -> Found<BTreeMap<String, Value>> {
        let mut values = BTreeMap::new();
        for (name, &at) in members.iter().filter(|(name, _)| *name != "type") {
            let place = format!("{place}/{name}");
            if name == "metadata" {
                self.found.ignored.push(place);
            } else {
                values.insert(name.clone(), self.value(at, &place)?);
            }
        }
        Ok(values)
    }

    fn metadata(&mut self, members: &BTreeMap<String, u64>, place: &str, depth: usize) -> Found<()> {
        let Some(&at) = members.get("metadata") else { return Ok(()) };
        let place = format!("{place}/metadata");
        if depth > 0 {
            self.found.ignored.push(place);
            return Ok(());
        }
        for (name, at) in self.file.members(at, &place)?.unwrap_or_default() {
            // What people put here may be of any kind.
            match self.value(at, &format!("{place}/{name}")) {
                Ok(value) => drop(self.found.metadata.insert(name, value)),
                Err(_) => self.found.ignored.push(format!("{place}/{name}")),
            }
        }
        Ok(())
    }

    fn edges(&mut self, at: u64, place: &str, prefix: &str, graphs: &BTreeMap<String, Inner>) -> Found<()> {
        let Value { dims, values } = self.value(at, place)?;
        let names = match values {
            Values::Texts(names) if dims.len() == 2 && dims[1] == 2 => names,
            // An empty list has no texts.
            _ if dims.contains(&0) => return Ok(()),
            other => {
                return Err(Fault::new(format!("{place} holds pairs of names"), format!("{} {dims:?}", other.kind())));
            }
        };
        if names.len() / 2 + self.found.edges.len() > MOST {
            return Err(Fault::new(format!("a graph has at most {MOST} edges"), format!("{}", names.len() / 2)));
        }
        let full = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        for pair in names.chunks_exact(2) {
            let from = graphs.get(&pair[0]).map_or_else(|| full(&pair[0]), |g| g.output.clone());
            let to = graphs.get(&pair[1]).map_or_else(|| full(&pair[1]), |g| g.input.clone());
            for (name, given) in [(&from, &pair[0]), (&to, &pair[1])] {
                if !self.found.nodes.contains_key(name) && !self.passing.contains(name) {
                    let rule = format!("{place} joins nodes of the graph");
                    return Err(Fault::new(
                        rule,
                        format!("there is no `{}`", given.chars().take(40).collect::<String>()),
                    ));
                }
            }
            self.found.edges.push((from, to));
        }
        Ok(())
    }

    /// Replaces what only passes values on by edges.
    fn pass_on(&mut self) -> Found<()> {
        for name in std::mem::take(&mut self.passing) {
            let to: Vec<String> = self.found.edges.iter().filter(|e| e.0 == name).map(|e| e.1.clone()).collect();
            if to.contains(&name) {
                let got = format!("{name} leads to itself");
                return Err(Fault::new("there is a node on every way round inside a graph", got));
            }
            let mut edges = Vec::new();
            for (from, end) in std::mem::take(&mut self.found.edges) {
                if end == name {
                    edges.extend(to.iter().map(|to| (from.clone(), to.clone())));
                } else if from != name {
                    edges.push((from, end));
                }
                if edges.len() > MOST {
                    return Err(Fault::new(format!("a graph has at most {MOST} edges"), "more, once graphs are nodes"));
                }
            }
            self.found.edges = edges;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Graph {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/nir").join(name);
        Graph::open(&path).unwrap()
    }

    /// The numbers that h5py reads from 4 x 2 compressed chunks of 75 x 24.
    #[test]
    fn chunks_join_along_both_axes() {
        let graph = fixture("conv.nir");
        let Value { dims, values: Values::Single(all) } = &graph.nodes["linear"].values["weight"] else { panic!() };
        assert_eq!(dims, &[300, 48]);
        let at = |i: usize, j: usize| all[48 * i + j];
        let got = [at(0, 0), at(74, 23), at(75, 24), at(74, 24), at(299, 47)];
        assert_eq!(got, [0.41624847, -1.7826015, -0.4886435, 1.2905866, 0.5773787]);
        let sum: f64 = all.iter().map(|&v| f64::from(v).abs()).sum();
        assert!((sum - 11480.42056396605).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn a_graph_is_written_and_read_back() {
        for name in ["feedforward_lif.nir", "recurrent_cubalif.nir", "conv.nir", "nested.nir"] {
            let graph = fixture(name);
            let again = Graph::from_bytes(graph.to_bytes(), Path::new("written.nir")).unwrap();
            assert_eq!(again, graph, "{name}");
        }
        assert_eq!(fixture("conv.nir").version.as_deref(), Some("1.0.8"));
        let author = &fixture("nested.nir").metadata["author"].values;
        assert_eq!(author, &Values::Texts(vec!["forms.py".into()]));
    }

    #[test]
    fn what_is_no_graph_is_refused() {
        let refused = |members: Vec<(&str, Item)>| {
            let root = members.into_iter().map(|(name, item)| (name.to_string(), item)).collect();
            Graph::from_bytes(write(root), Path::new("made.nir")).unwrap_err().to_string()
        };
        let graph = |nodes: Vec<(&str, Item)>, edges: [&str; 2]| {
            let edges = Item::Texts(vec![1, 2], edges.map(String::from).to_vec());
            Item::group([("type", Item::text("NIRGraph")), ("nodes", Item::group(nodes)), ("edges", edges)])
        };
        let lif = || Item::group([("type", Item::text("LIF"))]);
        for (members, want) in [
            (vec![("x", Item::text("y"))], "a NIR file has a group `node`: there is none among its members (x)"),
            (vec![("node", Item::text("y"))], "node is a group: a data set"),
            (vec![("node", lif())], "node is a NIRGraph: a node of type LIF"),
            (
                vec![("node", graph(vec![("a", lif())], ["a", "b"]))],
                "node/edges joins nodes of the graph: there is no `b`",
            ),
            (vec![("node", graph(vec![("a", Item::group([("tau", Item::text("x"))]))], ["a", "a"]))], "has a type"),
            (
                vec![("node", graph(vec![("a", graph(vec![("b", lif())], ["b", "b"]))], ["a", "a"]))],
                "a graph inside a graph has one Input and one Output: 0 and 0 in a",
            ),
        ] {
            let text = refused(members);
            assert!(text.contains(want), "{text}");
        }
    }
}
