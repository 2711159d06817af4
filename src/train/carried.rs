//! What passes from call to call where a sequence is driven chunk by chunk: states, traces and time, and sums of gradients.

use hlo::{Graph, Shape, Tensor};

use crate::learn::{
    Learner,
    form::Form,
    rings::Rings,
    sequence::Carry,
    sums::Sums,
    trace::{Slot, Traces},
};

/// Shapes of what passes from call to call, in the order of arguments and results.
pub(super) struct Carried {
    states: Vec<Shape>,
    traces: Vec<(Slot, Shape)>,
    /// Which of the traces are rings.
    rings: Rings,
    /// Which `phi` are trained.
    phis: Vec<usize>,
    /// The sum of the gradients of each of them.
    pub sums: Vec<Shape>,
}

/// A chunk of K steps.
pub(super) struct Chunk<'t> {
    /// Inputs, `[K, B, n_in]`.
    pub inputs: &'t Tensor,
    /// Targets, as the objective has them.
    pub target: &'t Tensor,
    /// Whether its steps carry loss.
    pub learn: bool,
}

/// What a chunk gives.
pub(super) struct Advanced {
    /// States, traces and time.
    pub carried: Vec<Tensor>,
    /// Sums of gradients.
    pub sums: Vec<Tensor>,
    /// Loss summed over the steps, a scalar.
    pub loss: Tensor,
    /// Output summed over the steps, `[B, C]`.
    pub out: Tensor,
}

impl Carried {
    /// `form` is that of the stream.
    pub fn of(learner: &Learner, form: Form) -> Carried {
        let rings = Rings::of_stream(form);
        let prepared = &learner.prepared;
        let shapes: Vec<Shape> = prepared.body.params().iter().map(|p| p.shape().clone()).collect();
        let phis: Vec<usize> = (0..prepared.phis).filter(|&k| prepared.is_trained(k)).collect();
        Carried {
            states: shapes[prepared.phis..][..prepared.states].to_vec(),
            traces: learner.slots_of(rings).into_iter().collect(),
            rings,
            sums: phis.iter().map(|&k| shapes[k].clone()).collect(),
            phis,
        }
    }

    /// States, traces and time.
    pub fn shapes(&self) -> Vec<Shape> {
        [self.states.clone(), self.memory()].concat()
    }

    /// Traces and time: what is zero at the start.
    pub fn memory(&self) -> Vec<Shape> {
        self.traces.iter().map(|(_, shape)| shape.clone()).chain([Shape::s32([])]).collect()
    }

    /// Makes the steps of a chunk; `old` are states, traces, time, and sums.
    pub fn advance(
        &self,
        learner: &Learner,
        g: &Graph,
        params: &[Tensor],
        old: &[Tensor],
        chunk: Chunk<'_>,
    ) -> Advanced {
        let (states, rest) = old.split_at(self.states.len());
        let (held, rest) = rest.split_at(self.traces.len());
        let carry =
            Carry { states: states.to_vec(), traces: Some(self.named(held)), time: rest[0].clone(), rings: self.rings };
        let phis = learner.prepared.prefix.call(g, params);
        let (next, found) = learner.chunk(g, &phis, carry, chunk.inputs, chunk.target, chunk.learn, true, None);
        let mut carried = next.states;
        carried.extend(self.listed(&next.traces.unwrap_or_default()));
        carried.push(next.time);
        Advanced { carried, sums: self.add(&rest[1..], &found), loss: found.loss, out: found.out }
    }

    /// Whether signals wait in rings, so that [`Carried::settle`] has something to add.
    pub fn waits(&self) -> bool {
        self.rings != Rings::None
    }

    /// Learns from the signals that wait in rings: `old`, as in [`Carried::advance`], after it.
    pub fn settle(&self, learner: &Learner, g: &Graph, old: &[Tensor]) -> Vec<Tensor> {
        let (states, rest) = old.split_at(self.states.len());
        let (held, rest) = rest.split_at(self.traces.len());
        let (found, traces) = learner.settle(g, self.rings.lag(), &self.named(held));
        [states.to_vec(), self.listed(&traces), vec![rest[0].clone()], self.add(&rest[1..], &found)].concat()
    }

    fn named(&self, held: &[Tensor]) -> Traces {
        self.traces.iter().map(|(slot, _)| slot.clone()).zip(held.iter().cloned()).collect()
    }

    fn listed(&self, traces: &Traces) -> Vec<Tensor> {
        self.traces.iter().map(|(slot, _)| traces[slot].clone()).collect()
    }

    fn add(&self, sums: &[Tensor], found: &Sums) -> Vec<Tensor> {
        let add = |(&k, sum): (&usize, &Tensor)| match &found.grads[k] {
            Some(grad) => sum + grad,
            None => sum.clone(),
        };
        self.phis.iter().zip(sums).map(add).collect()
    }

    /// The gradient of each parameter, from the sums.
    pub fn pull(&self, learner: &Learner, g: &Graph, params: &[Tensor], sums: &[Tensor]) -> Vec<Tensor> {
        let mut grads: Vec<Option<Tensor>> = vec![None; learner.prepared.phis];
        for (&k, sum) in self.phis.iter().zip(sums) {
            grads[k] = Some(sum.clone());
        }
        learner.prepared.pull(g, params, &grads)
    }
}
