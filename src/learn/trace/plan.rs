//! Which trace each op keeps, and the arrays that makes.

use std::collections::BTreeMap;

use hlo::{Shape, Tensor};

use super::lag::Ring;
use crate::learn::{
    Structure,
    non_causal::Slope,
    rule::{Recursion, Rule, TracedOp},
    structure::Op,
};

/// What kind of trace an op carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceKind {
    /// One value per weight and state (D-RTRL).
    Full,
    /// An input part and an output part (ES-D-RTRL).
    Factorised,
    /// One value per weight, and per state of every neuron in the group (SnAp).
    Complete,
    /// A random projection on the states of a group, and one of its weights (UORO).
    Projected,
}

/// One array of a learner's memory. Ops, drives and groups go by their numbers in [`Structure`], states by their place in the group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "fields say what they number")]
pub enum Slot {
    /// `e[b, i, j]` of an op for a state of a group; `e[b, i]` where it is the same for all j.
    Full { op: usize, group: usize, state: usize },
    /// `ex[b, i]` of an op input, by the first op that reads it.
    Input(usize),
    /// `ef[b, j]` of a drive for a state of a group; a number where it is the same for all b and j.
    Output { drive: usize, group: usize, state: usize },
    /// `[W, B, N]`, by each element of an op's weight.
    Complete { op: usize, group: usize, state: usize },
    /// The projection on a state of a group, `[B, N]`.
    Influence { group: usize, state: usize },
    /// The projected weight of an op, in its shape.
    Projection { op: usize, group: usize },
    /// A trace of slopes, `[B, N]`, by its place in [`TracePlan::slopes`].
    Slope(usize),
    /// The last steps of a value, `[W, ..]`, in the fixed-lag form.
    Ring(Ring),
    /// A value that is the same in every step, in the fixed-lag form.
    Same(Ring),
}

/// Values of all traces between chunks.
pub type Traces = BTreeMap<Slot, Tensor>;

/// How the ops of a model learn.
#[derive(Clone, Debug)]
pub struct TracePlan {
    /// Trace of each op; `None` for ops without one.
    pub kinds: Vec<Option<TraceKind>>,
    /// What multiplies a trace from step to step.
    pub recursion: Recursion,
    /// Factor of the filter behind full traces; 0 is none.
    pub filter: f64,
    /// Smoothing factor of the output part of factorised traces.
    pub decay: f64,
    /// Smoothing factor of their input part.
    pub input_decay: f64,
    /// Slopes with a trace, for pairs of an input with slopes before it.
    pub slopes: Vec<Slope>,
    /// Divide by `1 - (1-a)^(t+1)`, as releases before 0.2 of the reference library, in place of `1 - a^(t+1)`.
    pub old_correction: bool,
}

impl TracePlan {
    /// Whether no op has a trace.
    pub fn is_empty(&self) -> bool {
        self.kinds.iter().all(Option::is_none)
    }

    /// The plan of a rule.
    pub fn new(rule: &dyn Rule, old_correction: bool, structure: &Structure) -> TracePlan {
        let ops = structure.ops.iter().enumerate();
        let kind = |op: usize| rule.trace(TracedOp { structure, op });
        let kinds = ops.map(|(k, op)| if op.exclusion.is_none() { kind(k) } else { None }).collect();
        TracePlan {
            kinds,
            recursion: rule.recursion(),
            filter: rule.filter(),
            decay: rule.decay(),
            input_decay: rule.input_decay(),
            slopes: vec![],
            old_correction,
        }
    }

    /// Every array of the plan with its shape, for batch `b`.
    pub fn slots(&self, structure: &Structure, batch: usize) -> BTreeMap<Slot, Shape> {
        let mut slots = BTreeMap::new();
        for (k, slope) in self.slopes.iter().enumerate() {
            slots.insert(Slot::Slope(k), Shape::f32(structure.groups[slope.group].dims.clone()));
        }
        for (k, op) in structure.traced() {
            for &g in &op.groups {
                let group = &structure.groups[g];
                let reach = op.reach(g);
                if self.kinds[k] == Some(TraceKind::Projected) {
                    slots.insert(Slot::Projection { op: k, group: g }, Shape::f32(op.weight.clone()));
                    let state = |a: usize| (Slot::Influence { group: g, state: a }, Shape::f32(group.dims.clone()));
                    slots.extend((0..group.states.len()).map(state));
                }
                if self.kinds[k] == Some(TraceKind::Complete) {
                    let weights = op.weight.iter().product();
                    let shape = Shape::f32([&[weights], &group.dims[..]].concat());
                    slots.extend(
                        (0..group.states.len()).map(|a| (Slot::Complete { op: k, group: g, state: a }, shape.clone())),
                    );
                }
                for a in reach.kept() {
                    match self.kinds[k] {
                        Some(TraceKind::Full) => {
                            let trace = op.kind.operator().trace(op, group, reach, a, batch);
                            slots.extend(trace.map(|shape| (Slot::Full { op: k, group: g, state: a }, shape)));
                        }
                        Some(TraceKind::Factorised) => {
                            slots.insert(
                                Slot::Output { drive: op.drive, group: g, state: a },
                                reach.output_trace(group, a),
                            );
                            if op.x.is_some() {
                                let owner = self.input_owner(structure, op);
                                slots.insert(Slot::Input(owner), Shape::f32(op.input.clone()));
                            }
                        }
                        Some(TraceKind::Complete | TraceKind::Projected) | None => {}
                    }
                }
            }
        }
        slots
    }

    /// Ops that read the same value share one input trace.
    pub(super) fn input_owner(&self, structure: &Structure, op: &Op) -> usize {
        structure.ops.iter().position(|o| o.x == op.x).unwrap_or_default()
    }

    /// Bytes of all traces.
    pub fn bytes(&self, structure: &Structure, batch: usize) -> usize {
        self.slots(structure, batch).values().map(Shape::bytes).sum()
    }
}
