//! From a file to a network and its parameters: what every node holds is read by its row of [`KINDS`], and what has no counterpart is
//! refused by name.

use std::collections::BTreeMap;

use tasks::{
    events::TimeUnit,
    hdf5::{Value, Values},
    nir,
};

use super::{Extent, KINDS, Kind, NirNet, Node, Scheme, kind::Whole, step};
use crate::{
    net::Network,
    settings::{SettingError, node::choices, range},
};

/// A graph that cannot become a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImportError(pub String);

impl From<SettingError> for ImportError {
    fn from(error: SettingError) -> ImportError {
        ImportError(error.to_string())
    }
}

/// How a graph becomes steps; what is `None` is as the file says, if an export of this program made it, else the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Steps {
    /// How equations become steps; usually [`Scheme::Euler`].
    pub scheme: Option<Scheme>,
    /// Step, ms; usually 1.
    pub dt: Option<f64>,
    /// The unit of times; usually seconds.
    pub time_unit: Option<TimeUnit>,
}

/// The values of parameters by name, `NODE.QUANTITY`.
pub type Params = BTreeMap<String, Vec<f32>>;

/// What a file says.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The network.
    pub net: NirNet,
    /// The values of all of its parameters.
    pub params: Params,
    /// What a user should know.
    pub remarks: Vec<String>,
}

/// Names of the metadata that an export writes.
pub const SCHEME: &str = "etrace_scheme";
/// The step, ms.
pub const STEP: &str = "etrace_dt_ms";
/// The unit of times.
pub const UNIT: &str = "etrace_time_unit";

/// The network of a graph.
///
/// # Errors
/// When a node has no counterpart here, or holds what it cannot; the error names it.
pub fn import(graph: &nir::Graph, how: Steps) -> Result<Imported, ImportError> {
    let text = |name: &str| match graph.metadata.get(name).map(|value| &value.values) {
        Some(Values::Texts(all)) => all.first().map(String::as_str),
        _ => None,
    };
    let scheme = how.scheme.or_else(|| Scheme::by_name(text(SCHEME)?)).unwrap_or_default();
    let dt =
        how.dt.or_else(|| range::POSITIVE.check(*numbers(graph.metadata.get(STEP)?)?.first()?).ok()).unwrap_or(1.0);
    let unit = text(UNIT).and_then(|name| TimeUnit::ALL.into_iter().find(|unit| unit.name() == name));
    let net = NirNet::bare(scheme, dt, how.time_unit.or(unit).unwrap_or(TimeUnit::S));
    let mut found = Imported { net, params: Params::new(), remarks: Vec::new() };
    for (name, node) in &graph.nodes {
        let of = |text: String| ImportError(format!("node `{}` {text}", name.chars().take(60).collect::<String>()));
        let read = found.node(name, node).map_err(of)?;
        found.net.nodes.insert(name.clone(), read);
    }
    found.net.edges = graph.edges.iter().map(|(from, to)| [from.clone(), to.clone()]).collect();
    found.net.check()?;
    found.check_delays()?;
    found.remark(graph);
    Ok(found)
}

/// Numbers of any type.
fn numbers(value: &Value) -> Option<Vec<f64>> {
    match &value.values {
        Values::Single(all) => Some(all.iter().map(|&v| v.into()).collect()),
        Values::Double(all) => Some(all.clone()),
        Values::Integers(all) => Some(all.iter().map(|&v| v as f64).collect()),
        Values::Texts(_) => None,
    }
}

impl Imported {
    fn node(&mut self, name: &str, node: &nir::Node) -> Result<Node, String> {
        let Some(row) = Kind::find(&node.kind) else {
            let known: Vec<&str> = KINDS.iter().map(|row| row.name).collect();
            let kind: String = node.kind.chars().take(60).collect();
            return Err(format!("is of type `{kind}`, which has no counterpart here; {}", choices(&kind, &known)));
        };
        let known = |q: &str| row.arrays.iter().any(|a| a.0 == q) || row.sizes.iter().any(|w| w.name == q);
        if let Some(other) = node.values.keys().find(|q| !known(q) && !row.derived.contains(&q.as_str())) {
            let names: Vec<&str> = row.arrays.iter().map(|a| a.0).chain(row.sizes.iter().map(|w| w.name)).collect();
            let other: String = other.chars().take(60).collect();
            return Err(format!(
                "holds `{other}`, which has no counterpart in {}; {}",
                row.name,
                choices(&other, &names)
            ));
        }
        let mut read = Node::new::<String>(row.name, []);
        for whole in row.sizes {
            let value = node.values.get(whole.name);
            if let Some(Values::Texts(all)) = value.map(|value| &value.values) {
                read.same = padding(whole.name, all)?;
                read.sizes.insert(whole.name.into(), vec![0; whole.count.unwrap_or(1).max(1)]);
                continue;
            }
            read.sizes.insert(whole.name.into(), whole_numbers(whole, value)?);
        }
        for (quantity, usual) in row.arrays {
            let (shape, values) = match (node.values.get(*quantity), usual) {
                (Some(value), _) => self.array(name, quantity, value)?,
                // As many as there are thresholds: the shape of another array.
                (None, Some(usual)) => {
                    let like = ["v_threshold", "v_leak"].into_iter().find_map(|q| node.values.get(q));
                    let shape = like.map_or(vec![], |value| value.dims.clone());
                    let n = shape.iter().product();
                    (shape, vec![*usual; n])
                }
                (None, None) => return Err(format!("lacks `{quantity}`, which every {} has", row.name)),
            };
            if values.is_empty() {
                return Err(format!("has an empty `{quantity}`"));
            }
            read.arrays.insert((*quantity).into(), Extent::of(&shape, &values));
            self.params.insert(format!("{name}.{quantity}"), values);
        }
        Ok(read)
    }

    /// Shape and values in single precision.
    fn array(&mut self, name: &str, quantity: &str, value: &Value) -> Result<(Vec<usize>, Vec<f32>), String> {
        let single = match &value.values {
            Values::Single(all) => all.clone(),
            Values::Double(all) => {
                let rounded = all.iter().filter(|v| f64::from(**v as f32) != **v).count();
                if rounded > 0 {
                    let all = all.len();
                    self.remarks.push(format!(
                        "`{name}.{quantity}`: {rounded} of {all} numbers are rounded to single precision"
                    ));
                }
                all.iter().map(|&v| v as f32).collect()
            }
            Values::Integers(all) => {
                if let Some(v) = all.iter().find(|v| v.unsigned_abs() > 1 << 24) {
                    return Err(format!("has {v} in `{quantity}`, more than single precision counts"));
                }
                all.iter().map(|&v| v as f32).collect()
            }
            Values::Texts(_) => return Err(format!("has a text as its `{quantity}`, where numbers are needed")),
        };
        if let Some(text) = single.iter().find_map(|&v| range::FINITE.check(v.into()).err()) {
            return Err(format!("has a number in `{quantity}` that {text}"));
        }
        Ok((value.dims.clone(), single))
    }

    /// Delays are whole numbers of steps.
    fn check_delays(&self) -> Result<(), ImportError> {
        for (name, values) in self.params.iter().filter(|(name, _)| name.ends_with(".delay")) {
            let (step, unit) = (self.net.step(), self.net.time_unit.name());
            let broken = values.iter().find(|&&v| {
                let steps = f64::from(v) / step;
                (steps - steps.round()).abs() > 1e-3
            });
            if let Some(delay) = broken {
                return Err(ImportError(format!(
                    "`{name}` must be whole numbers of steps of {step} {unit}, got {delay}; take another --dt"
                )));
            }
        }
        Ok(())
    }

    fn remark(&mut self, graph: &nir::Graph) {
        let (step, unit) = (self.net.step(), self.net.time_unit);
        for (name, node) in &self.net.nodes {
            for (quantity, extent) in node.arrays.iter().filter(|(q, _)| q.starts_with("tau")) {
                let (low, high) = (extent.low, extent.high);
                if self.net.scheme == Scheme::Euler && step > low {
                    self.remarks.push(format!(
                        "`{name}.{quantity}` is {low} {0}, less than the step of {step} {0}: forward Euler oscillates there",
                        unit.name()
                    ));
                }
                if unit == TimeUnit::S && low >= 1.0 {
                    self.remarks.push(format!(
                        "`{name}.{quantity}` is {low} to {high} s; if the file has its times in ms, import it with --time_unit ms"
                    ));
                }
            }
        }
        if !graph.ignored.is_empty() {
            let shown: Vec<&str> = graph.ignored.iter().take(8).map(String::as_str).collect();
            let more = if graph.ignored.len() > shown.len() { ", ..." } else { "" };
            self.remarks.push(format!("not read, as it changes no value: {}{more}", shown.join(", ")));
        }
    }
}

/// Whether a padding in words is `same`.
fn padding(name: &str, words: &[String]) -> Result<bool, String> {
    match words {
        [word] if name == "padding" && word == "same" => Ok(true),
        [word] if name == "padding" && word == "valid" => Ok(false),
        _ => Err(format!("has {words:?} as its `{name}`; a padding is `same`, `valid` or whole numbers")),
    }
}

/// The whole numbers that a row asks for.
fn whole_numbers(whole: &Whole, value: Option<&Value>) -> Result<Vec<i64>, String> {
    let (name, usual) = (whole.name, whole.usual.map(|v| vec![v]));
    let all = match value {
        None => usual.ok_or_else(|| format!("lacks `{name}`"))?,
        Some(value) => {
            let all = numbers(value).unwrap_or_default();
            let is_whole = |v: &f64| v.fract() == 0.0 && v.abs() <= f64::from(1 << 24);
            if let Some(v) = all.iter().find(|v| !is_whole(v)) {
                return Err(format!("has {v} in `{name}`, where whole numbers of sense are needed"));
            }
            all.into_iter().map(|v| v as i64).collect()
        }
    };
    match (whole.count, all.as_slice()) {
        (None, list) if !list.is_empty() && list.len() <= 8 => Ok(all),
        (Some(0), [_]) => Ok(all),
        // One number is that of both axes.
        (Some(n), &[one]) if n > 0 => Ok(vec![one; n]),
        (Some(n), list) if list.len() == n => Ok(all),
        (count, list) => {
            let want = count.map_or("1 to 8 numbers".into(), |n| format!("{} numbers", n.max(1)));
            Err(format!("has {} numbers in `{name}`, where {want} are needed", list.len()))
        }
    }
}

/// The longest delay in steps, for messages.
pub fn longest_delay(net: &NirNet) -> usize {
    let delays = net.nodes.values().filter_map(|node| node.arrays.get("delay"));
    delays.map(|delay| step::steps(net, delay.high)).max().unwrap_or(0)
}
