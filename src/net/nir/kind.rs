//! The types of nodes, one row each: what a node holds, which shape it gives, and its step. `docs/nir.md, "Nodes"` is made of this table.

use hlo::Tensor;

use super::{
    node::Node,
    shape::{self, Shaped},
    step::Site,
};

/// What a node keeps from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Nothing.
    None,
    /// Values of the steps before.
    Past,
    /// A potential, which is what it gives.
    Potential,
    /// A potential that spikes.
    Spikes,
}

/// Whole numbers of a node.
pub struct Whole {
    /// Their name.
    pub name: &'static str,
    /// How many: 0 for one that is no list, `None` for any.
    pub count: Option<usize>,
    /// What they are where a file says nothing.
    pub usual: Option<i64>,
}

/// A type of node.
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What it is here, in one line.
    pub doc: &'static str,
    /// Its arrays, and what each is where a file lacks it.
    pub arrays: &'static [(&'static str, Option<f32>)],
    /// Its whole numbers.
    pub sizes: &'static [Whole],
    /// What follows from the shapes, and is computed anew.
    pub derived: &'static [&'static str],
    /// What it keeps.
    pub memory: Memory,
    /// The shape of its values from that of its input.
    pub(super) shape: fn(&Node, &[usize]) -> Shaped,
    /// One step.
    pub(super) step: fn(&mut Site<'_, '_>, &Tensor) -> Tensor,
}

impl Kind {
    /// The row of a type.
    pub fn find(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|row| row.name == name)
    }
}

/// A node without memory, whole numbers or arrays.
const PLAIN: Kind = Kind {
    name: "",
    doc: "",
    arrays: &[],
    sizes: &[],
    derived: &[],
    memory: Memory::None,
    shape: shape::same,
    step: |_, x| x.clone(),
};

const fn list(name: &'static str) -> Whole {
    Whole { name, count: None, usual: None }
}

const fn pair(name: &'static str, usual: Option<i64>) -> Whole {
    Whole { name, count: Some(2), usual }
}

const fn one(name: &'static str, usual: Option<i64>) -> Whole {
    Whole { name, count: Some(0), usual }
}

const POOL: &[Whole] = &[pair("kernel_size", None), pair("stride", None), pair("padding", Some(0))];

/// Arrays of a leaky membrane after its time constants.
const MEMBRANE: [(&str, Option<f32>); 2] = [("r", None), ("v_leak", None)];
const THRESHOLD: [(&str, Option<f32>); 2] = [("v_threshold", None), ("v_reset", Some(0.0))];
const SYNAPSE: [(&str, Option<f32>); 2] = [("tau_syn", None), ("w_in", Some(1.0))];

/// All types.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "Input",
        doc: "The input of the network, the last axis fastest",
        sizes: &[list("shape")],
        shape: shape::stated,
        ..PLAIN
    },
    Kind {
        name: "Output",
        doc: "The output of the network; several axes become one",
        sizes: &[list("shape")],
        shape: shape::output,
        ..PLAIN
    },
    Kind {
        name: "Affine",
        doc: "A dense traced op and a bias: `y = W x + b`",
        arrays: &[("weight", None), ("bias", None)],
        shape: shape::dense,
        step: |site, x| site.dense(x),
        ..PLAIN
    },
    Kind {
        name: "Linear",
        doc: "A dense traced op: `y = W x`",
        arrays: &[("weight", None)],
        shape: shape::dense,
        step: |site, x| site.dense(x),
        ..PLAIN
    },
    Kind {
        name: "Scale",
        doc: "A factor for each value: `y = s x`; an element-wise traced op if `scale` is trained",
        arrays: &[("scale", None)],
        step: |site, x| site.each("scale") * x,
        ..PLAIN
    },
    Kind {
        name: "Conv1d",
        doc: "A convolution over a line, `[C, N]`, as a traced op, and a bias for each channel",
        arrays: &[("weight", None), ("bias", None)],
        sizes: &[one("stride", Some(1)), one("padding", Some(0)), one("dilation", Some(1)), one("groups", Some(1))],
        derived: &["input_shape"],
        shape: shape::convolution,
        step: |site, x| site.convolution(x),
        ..PLAIN
    },
    Kind {
        name: "Conv2d",
        doc: "A convolution over an image, `[C, H, W]`, as a traced op, and a bias for each channel",
        arrays: &[("weight", None), ("bias", None)],
        sizes: &[pair("stride", Some(1)), pair("padding", Some(0)), pair("dilation", Some(1)), one("groups", Some(1))],
        derived: &["input_shape"],
        shape: shape::convolution,
        step: |site, x| site.convolution(x),
        ..PLAIN
    },
    Kind {
        name: "SumPool2d",
        doc: "Sums over windows of each channel, zeros around the image",
        sizes: POOL,
        shape: shape::pool,
        step: |site, x| site.pool(x),
        ..PLAIN
    },
    Kind {
        name: "AvgPool2d",
        doc: "Means over windows of each channel; zeros around the image count",
        sizes: POOL,
        shape: shape::pool,
        step: |site, x| site.pool(x),
        ..PLAIN
    },
    Kind {
        name: "Flatten",
        doc: "Axes become one; values keep their order",
        sizes: &[one("start_dim", Some(1)), one("end_dim", Some(-1))],
        derived: &["input_type"],
        shape: shape::flatten,
        ..PLAIN
    },
    Kind {
        name: "Delay",
        doc: "The value of `delay / dt` steps before, a whole number for each neuron; 0 before the first step",
        arrays: &[("delay", None)],
        memory: Memory::Past,
        step: |site, x| site.delay(x),
        ..PLAIN
    },
    Kind {
        name: "I",
        doc: "A potential that sums: `v' = v + dt r x` in both schemes",
        arrays: &[("r", None)],
        memory: Memory::Potential,
        step: |site, x| site.membrane(x),
        ..PLAIN
    },
    Kind {
        name: "IF",
        doc: "The same, spikes above `v_threshold` and is set to `v_reset`",
        arrays: &[("r", None), THRESHOLD[0], THRESHOLD[1]],
        memory: Memory::Spikes,
        step: |site, x| site.membrane(x),
        ..PLAIN
    },
    Kind {
        name: "LI",
        doc: "A leaky potential, `tau dv/dt = v_leak - v + r x`",
        arrays: &[("tau", None), MEMBRANE[0], MEMBRANE[1]],
        memory: Memory::Potential,
        step: |site, x| site.membrane(x),
        ..PLAIN
    },
    Kind {
        name: "LIF",
        doc: "The same, spikes above `v_threshold` and is set to `v_reset`",
        arrays: &[("tau", None), MEMBRANE[0], MEMBRANE[1], THRESHOLD[0], THRESHOLD[1]],
        memory: Memory::Spikes,
        step: |site, x| site.membrane(x),
        ..PLAIN
    },
    Kind {
        name: "CubaLI",
        doc: "A leaky potential behind a current, `tau_syn di/dt = -i + w_in x`; it sees the new current",
        arrays: &[("tau_mem", None), SYNAPSE[0], MEMBRANE[0], MEMBRANE[1], SYNAPSE[1]],
        memory: Memory::Potential,
        step: |site, x| site.membrane(x),
        ..PLAIN
    },
    Kind {
        name: "CubaLIF",
        doc: "The same, spikes above `v_threshold` and is set to `v_reset`",
        arrays: &[("tau_mem", None), SYNAPSE[0], MEMBRANE[0], MEMBRANE[1], THRESHOLD[0], THRESHOLD[1], SYNAPSE[1]],
        memory: Memory::Spikes,
        step: |site, x| site.membrane(x),
        ..PLAIN
    },
    Kind {
        name: "Threshold",
        doc: "1 above `threshold`, else 0, with the surrogate derivative",
        arrays: &[("threshold", None)],
        step: |site, x| site.threshold(x),
        ..PLAIN
    },
];
