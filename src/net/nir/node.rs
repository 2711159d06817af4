//! A node of a graph as a configuration has it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kind::{KINDS, Kind};

/// A node: its type, its whole numbers, and the shapes and ranges of its arrays, whose values are parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// A name of [`KINDS`].
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether a convolution is padded so that the output has the size of the input.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub same: bool,
    /// Whole numbers by name: shape, stride, padding.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sizes: BTreeMap<String, Vec<i64>>,
    /// Arrays by name: weight, tau.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arrays: BTreeMap<String, Extent>,
}

/// An array: its shape, and between which numbers its values lie. What is not trained is drawn there, uniformly, where a network starts afresh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Its shape as in the file; empty for one number for all neurons.
    pub shape: Vec<usize>,
    /// Its smallest value.
    pub low: f64,
    /// Its largest value.
    pub high: f64,
}

impl Extent {
    /// Of these values.
    pub fn of(shape: &[usize], values: &[f32]) -> Extent {
        let values = values.iter().map(|&v| f64::from(v));
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        Extent { shape: shape.to_vec(), low, high }
    }
}

impl Node {
    /// A node with arrays.
    pub fn new<Q: Into<String>>(kind: &str, arrays: impl IntoIterator<Item = (Q, Extent)>) -> Node {
        let arrays = arrays.into_iter().map(|(name, extent)| (name.into(), extent)).collect();
        Node { kind: kind.into(), same: false, sizes: BTreeMap::new(), arrays }
    }

    /// A node with whole numbers.
    pub fn sized<Q: Into<String>>(kind: &str, sizes: impl IntoIterator<Item = (Q, Vec<i64>)>) -> Node {
        let sizes = sizes.into_iter().map(|(name, list)| (name.into(), list)).collect();
        Node { sizes, ..Node::new::<String>(kind, []) }
    }

    /// Its row.
    ///
    /// # Panics
    /// When there is none: checked by [`Plan::new`](super::Plan::new).
    pub fn row(&self) -> &'static Kind {
        KINDS.iter().find(|row| row.name == self.kind).expect("the type of a node was checked")
    }

    /// Whole numbers, none of them negative.
    pub(super) fn sizes<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let all = self.sizes.get(name).ok_or_else(|| format!("has no `{name}`"))?;
        let whole: Result<Vec<usize>, _> = all.iter().map(|&n| usize::try_from(n)).collect();
        let whole = whole.map_err(|_| format!("has a `{name}` that is negative, {all:?}"))?;
        <[usize; N]>::try_from(whole).map_err(|whole| format!("needs {N} numbers in `{name}`, got {whole:?}"))
    }

    /// The shape of an array.
    pub(super) fn shape(&self, name: &str) -> Result<&[usize], String> {
        self.arrays.get(name).map(|extent| extent.shape.as_slice()).ok_or_else(|| format!("has no `{name}`"))
    }
}
