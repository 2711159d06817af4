//! Rings of the last W steps, in place of traces as large as weights: see [`trace::Stretch`](super::trace::Stretch).

use std::collections::BTreeMap;

use hlo::{Graph, Shape, Tensor};

use super::{
    Learner,
    form::Form,
    sums::Sums,
    trace::{LagPlan, Slot, Stretch, Traces},
};

/// Where traces as large as weights are rings of the last W steps instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rings {
    /// Nowhere: the dense form.
    #[default]
    None,
    /// In a sequence: its inputs are at hand, and its parameters stay.
    Sequence(usize),
    /// In a stream: inputs are in the rings, too, and so is what parameters that may change decide.
    Stream(usize),
}

impl Rings {
    /// Of a stream in such a form.
    pub fn of_stream(form: Form) -> Rings {
        match form {
            Form::FixedLag { lag, .. } => Rings::Stream(lag),
            Form::Dense { .. } | Form::Whole { .. } | Form::Recompute { .. } => Rings::None,
        }
    }

    /// W; 0 without rings.
    pub fn lag(self) -> usize {
        match self {
            Rings::None => 0,
            Rings::Sequence(lag) | Rings::Stream(lag) => lag,
        }
    }
}

impl Learner {
    /// Every array that passes from chunk to chunk, with its shape.
    pub fn slots_of(&self, rings: Rings) -> BTreeMap<Slot, Shape> {
        let mut slots = self.trace_slots();
        if let Some(plan) = self.rings(rings) {
            slots.retain(|slot, _| !matches!(slot, Slot::Full { op: k, .. } if plan.ops.contains(k)));
            slots.extend(plan.slots(rings.lag()));
        }
        slots
    }

    /// All of these before the first step.
    pub fn zero_traces(&self, g: &Graph, rings: Rings) -> Traces {
        self.slots_of(rings).into_iter().map(|(slot, shape)| (slot, g.zeros(&shape))).collect()
    }

    /// What is in the rings.
    pub(super) fn rings(&self, rings: Rings) -> Option<&LagPlan> {
        match rings {
            Rings::None => None,
            Rings::Sequence(_) => Some(&self.lagged().wide),
            Rings::Stream(_) => Some(&self.lagged().stream),
        }
    }

    /// Learns from the signals that a stream has in its rings, which has happened then; later ones go through the same rings. Returns
    /// what is added, and the traces after it.
    pub fn settle(&self, g: &Graph, lag: usize, traces: &Traces) -> (Sums, Traces) {
        // No gradient of a ring depends on its weight (`Operator::reads_weight`): any values will do.
        let p = &self.prepared;
        let phis: Vec<Tensor> = p.body.params()[..p.phis].iter().map(|t| g.zeros(t.shape())).collect();
        let stretch = Stretch::rest(g, self.as_traced(), &self.lagged().stream, &phis, lag, traces);
        let mut sums = self.no_sums(g);
        self.add_pulled(&mut sums, stretch.pull(None, None).grads);
        let mut traces = traces.clone();
        traces.extend(stretch.learned());
        (sums, traces)
    }
}
