//! Networks in the Neuromorphic Intermediate Representation (NIR): graphs of nodes, imported and exported. `docs/nir.md`.
//!
//! ```text
//! node     what a configuration says of a node: its type, the shapes and ranges of its arrays
//! kind     the table of types: which quantities, which shape, which step
//! graph    in which order nodes are computed, which edges are recurrent, which shapes values have
//! shape    the shapes of nodes' values, convolutions and pools
//! step     the equations
//! import   from a file to a network and its parameters, and what is refused
//! export   from a network and its parameters to a file
//! convert  from networks of LIF neurons to this one
//! ```
//!
//! Parameters are the arrays of the file, with its shapes, order and units: `NODE.tau`, `NODE.weight` (`[out, in]`). Decays are computed from
//! them and the step, so that what is exported is what was imported, bit for bit, where it was not trained.

pub mod convert;
pub mod export;
mod graph;
pub mod import;
pub mod kind;
mod node;
mod shape;
mod step;

use std::collections::{BTreeMap, BTreeSet};

use hlo::Tensor;
use serde::{Deserialize, Serialize};
use tasks::events::TimeUnit;

pub use graph::Plan;
pub use kind::{KINDS, Kind, Memory};
pub use node::{Extent, Node};

use super::{Network, Sizes};
use crate::{
    cell::{Mode, Model, StateInit, StepContext, Surrogate},
    settings::{SettingError, node::choices, range},
};

/// How a differential equation becomes a step. `docs/nir.md, "Steps"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Forward Euler: `v' = v + dt/tau (v_inf - v)`.
    #[default]
    Euler,
    /// Exact for an input that is constant during the step: `v' = v_inf + (v - v_inf) exp(-dt/tau)`.
    Exponential,
}

impl Scheme {
    /// Both.
    pub const ALL: [Scheme; 2] = [Scheme::Euler, Scheme::Exponential];

    /// `euler` or `exponential`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Euler => "euler",
            Scheme::Exponential => "exponential",
        }
    }

    /// The scheme of that name.
    pub fn by_name(name: &str) -> Option<Scheme> {
        Scheme::ALL.into_iter().find(|scheme| scheme.name() == name)
    }
}

/// A graph of NIR, in steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NirNet {
    /// How differential equations become steps.
    pub scheme: Scheme,
    /// Step, ms.
    #[serde(deserialize_with = "range::positive")]
    pub dt: f64,
    /// The unit of the times in the nodes.
    pub time_unit: TimeUnit,
    /// Whether the derivative passes through the spike that resets.
    pub diff_spike: bool,
    /// The quantities that are trained, in every node that has them.
    pub trained: Vec<String>,
    /// Variance of the weights of a network that starts afresh, in units of 1/fan-in.
    #[serde(deserialize_with = "range::non_negative")]
    pub weight_scale: f64,
    /// From, to; `from -> to` in a configuration.
    #[serde(with = "arrows")]
    pub edges: Vec<[String; 2]>,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
    /// By name.
    pub nodes: BTreeMap<String, Node>,
}

impl Default for NirNet {
    /// One recurrent layer of 200 LIF neurons and a leaky readout.
    fn default() -> Self {
        let times = |n: usize| [("tau", n, 0.02), ("r", n, 1.0), ("v_leak", n, 0.0)];
        let array = |(q, n, v): (&'static str, usize, f32)| (q, Extent::of(&[n], &[v]));
        let threshold = [("v_threshold", 200, 1.0), ("v_reset", 200, 0.0)];
        let nodes = [
            ("input", Node::sized("Input", [("shape", vec![100])])),
            (
                "fc1",
                Node::new(
                    "Affine",
                    [("weight", Extent::of(&[200, 100], &[0.0])), ("bias", Extent::of(&[200], &[0.0]))],
                ),
            ),
            ("lif1", Node::new("LIF", times(200).into_iter().chain(threshold).map(array))),
            ("rec1", Node::new("Linear", [("weight", Extent::of(&[200, 200], &[0.0]))])),
            ("fc2", Node::new("Linear", [("weight", Extent::of(&[2, 200], &[0.0]))])),
            ("out", Node::new("LI", times(2).map(array))),
            ("output", Node::sized("Output", [("shape", vec![2])])),
        ];
        let edges = ["input fc1", "fc1 lif1", "lif1 rec1", "rec1 lif1", "lif1 fc2", "fc2 out", "out output"];
        let edge = |pair: &str| pair.split_once(' ').map(|(a, b)| [a.to_string(), b.to_string()]);
        NirNet {
            edges: edges.into_iter().filter_map(edge).collect(),
            nodes: nodes.into_iter().map(|(name, node)| (name.to_string(), node)).collect(),
            ..NirNet::bare(Scheme::Euler, 1.0, TimeUnit::S)
        }
    }
}

/// Edges as `from -> to`.
mod arrows {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// What is between two names, and in none of them.
    pub const ARROW: &str = " -> ";

    pub fn serialize<S: Serializer>(edges: &[[String; 2]], to: S) -> Result<S::Ok, S::Error> {
        edges.iter().map(|edge| edge.join(ARROW)).collect::<Vec<_>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<[String; 2]>, D::Error> {
        let edge = |text: String| match text.split_once(ARROW) {
            Some((from, to)) => Ok([from.to_string(), to.to_string()]),
            None => Err(D::Error::custom(format!("must be texts `from -> to`, got `{text}`"))),
        };
        Vec::<String>::deserialize(from)?.into_iter().map(edge).collect()
    }
}

/// The quantities that are trained where nothing else is said.
pub const TRAINED: [&str; 2] = ["weight", "bias"];

impl NirNet {
    /// Without nodes and edges; the rest as it is where nothing else is said.
    pub fn bare(scheme: Scheme, dt: f64, time_unit: TimeUnit) -> NirNet {
        NirNet {
            scheme,
            dt,
            time_unit,
            diff_spike: false,
            trained: TRAINED.map(String::from).to_vec(),
            weight_scale: 2.0,
            edges: Vec::new(),
            surrogate: Surrogate::default(),
            nodes: BTreeMap::new(),
        }
    }

    /// The step in the unit of the nodes' times.
    pub fn step(&self) -> f64 {
        self.dt * 1e-3 / self.time_unit.seconds()
    }

    /// Whether a quantity is trained.
    pub fn trains(&self, quantity: &str) -> bool {
        self.trained.iter().any(|name| name == quantity)
    }

    /// Order, recurrent edges and shapes.
    ///
    /// # Errors
    /// When nodes and edges are no network, or shapes do not fit; the error names the node.
    pub fn plan(&self) -> Result<Plan, SettingError> {
        Plan::new(self)
    }

    /// The only node of a type.
    fn end(&self, kind: &str) -> Option<&str> {
        self.nodes.iter().find(|(_, node)| node.kind == kind).map(|(name, _)| name.as_str())
    }

    fn size(&self, kind: &str) -> usize {
        let node = self.end(kind).and_then(|name| self.nodes[name].sizes.get("shape"));
        node.map_or(0, |shape| shape.iter().map(|&n| n.max(0) as usize).product())
    }

    fn step_through(&self, plan: &Plan, cx: &mut StepContext, x: &Tensor) -> Tensor {
        let mut values: BTreeMap<&str, Tensor> = BTreeMap::new();
        for name in &plan.order {
            let (name, node) = self.nodes.get_key_value(name).expect("the plan's names are those of the nodes");
            if values.contains_key(name.as_str()) {
                // A part of the op before it.
                continue;
            }
            let incoming = plan.inputs[name].iter().map(|(from, recurrent)| {
                Some(if *recurrent { self.last(plan, cx, from) } else { values[from.as_str()].clone() })
            });
            let incoming: Vec<_> = incoming.collect();
            let sum = Tensor::sum_of(incoming).unwrap_or_else(|| x.clone());
            let shown = step::Site { cx: &mut *cx, net: self, plan, name, node }.step(&sum);
            for (name, value) in shown {
                if plan.remembered.contains(name) && self.nodes[name].row().memory != Memory::Potential {
                    cx.scope(name, |cx| cx.set("last", &value));
                }
                values.insert(name, value);
            }
        }
        let output = self.end("Output").expect("a plan has an output");
        values[output].clone()
    }

    /// What a node gave in the step before; 0 before the first step.
    fn last(&self, plan: &Plan, cx: &mut StepContext, name: &str) -> Tensor {
        let n = plan.shapes[name].iter().product();
        // A potential is its own memory.
        let state = if self.nodes[name].row().memory == Memory::Potential { "v" } else { "last" };
        cx.scope(name, |cx| cx.state(state, n, StateInit::Zeros))
    }

    fn check_trained(&self) -> Result<(), SettingError> {
        let known: BTreeSet<&str> = KINDS.iter().flat_map(|row| row.arrays.iter().map(|(name, _)| *name)).collect();
        for name in &self.trained {
            if !known.contains(name.as_str()) {
                let known: Vec<&str> = known.into_iter().collect();
                let text = format!("knows no quantity `{name}`; {}", choices(name, &known));
                return Err(SettingError::new(text).within("trained"));
            }
            if name == "delay" {
                let text =
                    "cannot hold `delay`: a delay is a whole number of steps and has no derivative; leave it out";
                return Err(SettingError::new(text).within("trained"));
            }
        }
        Ok(())
    }
}

impl Network for NirNet {
    fn trace(&self, batch: usize, _: Mode) -> Model {
        let plan = self.plan().unwrap_or_else(|error| panic!("a network is checked before it is traced: {error}"));
        StepContext::trace(batch, self.n_in(), |cx, x| self.step_through(&plan, cx, x))
    }

    fn n_in(&self) -> usize {
        self.size("Input")
    }

    fn n_out(&self) -> usize {
        self.size("Output")
    }

    fn dt(&self) -> f64 {
        self.dt
    }

    fn resize(&mut self, to: &Sizes) -> Result<(), SettingError> {
        if let Some(n) = to.n_layer {
            let text = format!("cannot be {n}: the layers of this network are the nodes of its graph; leave it out");
            return Err(SettingError::new(text).within("n_layer"));
        }
        graph::resize(self, to)
    }

    fn check(&self) -> Result<(), SettingError> {
        self.check_trained()?;
        let plan = self.plan()?;
        let Plan { inner, .. } = &plan;
        self.nodes
            .iter()
            .try_for_each(|(name, node)| step::check(self, node, &inner[name]).map_err(|text| graph::at(name, &text)))
    }
}
