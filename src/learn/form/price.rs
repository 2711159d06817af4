//! What a form takes, bytes and seconds, before anything is compiled.
//!
//! Bytes are those of a program's temporary values as XLA's CPU compiler lays them out: what passes from chunk to chunk, the values of a
//! chunk, gradients. For the forms that go backwards they come within 15 % of what a program needs in all at the sizes of the published
//! experiments; arrays that never exist at the same time may share a place or not, and dense traces and rings are copied as often as the
//! compiler likes, which no formula says exactly.

use hlo::{Shape, Value};

use super::{Candidate, Form, Learner};
use crate::learn::{
    chunk::{kept_shapes, projections},
    trace::LagPlan,
};

/// The machine that costs are told for, so that they are the same on every machine: two cores as `docs/results/memspeed.md` has them.
pub struct Costs {
    /// Bytes per second, read or written, of values that do not stay in a cache.
    pub bandwidth: f64,
    /// Bytes per second of pages that are taken from the system and given back: what is larger than a cache is taken anew each time.
    pub fresh: f64,
    /// Bytes that stay in a cache.
    pub cache: usize,
    /// Operations per second of large products.
    pub rate: f64,
}

/// See [`Costs`].
pub const COSTS: Costs = Costs { bandwidth: 8e9, fresh: 4e9, cache: 32 << 20, rate: 100e9 };

/// Sizes that forms are made of, in bytes.
struct Sizes {
    /// Of the values that a chunk needs of each step, where what the recurrence computes is there.
    stack: usize,
    /// The same where it is computed again.
    again: usize,
    /// Of what the recompute form keeps of each step.
    projections: usize,
    /// Of what is in the rings of each step.
    ring: usize,
    /// Of the states.
    states: usize,
    /// Of traces with a value for each weight and sequence, and of others.
    traces: (usize, usize),
    /// Of gradients.
    gradients: usize,
}

impl Learner {
    fn sizes(&self, rings: &LagPlan) -> Sizes {
        let (p, s) = (&self.prepared, &self.structure);
        let sum = |shapes: &mut dyn Iterator<Item = Shape>| shapes.map(|shape| shape.bytes()).sum::<usize>();
        let states = sum(&mut p.old_states().iter().map(|t| t.shape().clone()));
        let outputs = sum(&mut s.traced().map(|(_, op)| p.body.graph().tensor(op.y).shape().clone()));
        let forward = sum(&mut kept_shapes(p, s).into_iter()) + states + outputs;
        let wide = self.wide_bytes();
        Sizes {
            stack: self.bytes_per_step(),
            // The input is converted for the way forward and for the way back.
            again: forward + self.lagged().all.bytes_per_step() + 2 * p.input.bytes(),
            projections: sum(&mut projections(p, s).into_iter().map(|v| p.body.graph().tensor(v).shape().clone())),
            ring: rings.bytes_per_step(),
            states,
            traces: (wide, self.plan.bytes(self.as_traced(), self.batch()) - wide),
            gradients: sum(&mut p.body.params()[..p.phis]
                .iter()
                .enumerate()
                .filter(|(k, _)| p.is_trained(*k))
                .map(|(_, t)| t.shape().clone())),
        }
    }

    /// What a form takes, for a sequence of `steps` steps.
    pub(super) fn candidate(&self, form: Form, steps: usize) -> Candidate {
        // XLA copies rings on the way into loops and out of them: compiled programs have 2.4 to 6.5 times their bytes.
        self.priced(form, steps, &self.lagged().wide, 4)
    }

    /// What a form takes in a stream, whose rings go from call to call: old ones and new ones.
    pub(super) fn candidate_of_stream(&self, form: Form) -> Candidate {
        self.priced(form, usize::MAX, &self.lagged().stream, 2)
    }

    fn priced(&self, form: Form, steps: usize, rings: &LagPlan, copies: usize) -> Candidate {
        let sizes = self.sizes(rings);
        let Sizes { stack, states, traces: (wide, narrow), .. } = sizes;
        let boundaries = |chunk: usize| steps.div_ceil(chunk) * states;
        let bytes = match form {
            Form::Dense { chunk } if steps <= chunk => steps * stack,
            // Old traces and new ones.
            Form::Dense { chunk } => 2 * wide + narrow + chunk * stack,
            Form::FixedLag { chunk, lag } => narrow + copies * (lag + chunk) * sizes.ring + chunk * stack,
            Form::Whole { chunk } if steps <= chunk => steps * stack,
            Form::Whole { chunk } => steps * self.kept_bytes() + boundaries(chunk) + chunk * stack,
            Form::Recompute { chunk } => steps * sizes.projections + boundaries(chunk) + chunk * sizes.again,
        };
        let seconds = self.seconds_of_products() + self.seconds_of(form, steps, &sizes);
        let cut = match form {
            Form::FixedLag { lag, .. } if lag < steps => Some(self.cut_after(lag)),
            _ => None,
        };
        Candidate { form, bytes: sizes.gradients + bytes, seconds, cut }
    }

    /// What the products of a step take in every form: forward, of gradients, and about half as many of signals.
    fn seconds_of_products(&self) -> f64 {
        2.5 * self.flops(|_| true) / COSTS.rate
    }

    /// What a step takes besides in one form.
    fn seconds_of(&self, form: Form, steps: usize, sizes: &Sizes) -> f64 {
        let pass = |bytes: usize| 2.0 * bytes as f64 / COSTS.bandwidth;
        let fresh = |bytes: usize| pass(bytes) + bytes as f64 / COSTS.fresh;
        // What values of a chunk cost per step, if they do not stay in a cache.
        let large = |chunk: usize, bytes: usize| if chunk * bytes > COSTS.cache { fresh(bytes) } else { 0.0 };
        let values = |chunk: usize| large(chunk, sizes.stack);
        match form {
            Form::Dense { chunk } | Form::Whole { chunk } if steps <= chunk => values(chunk),
            Form::Dense { chunk } => {
                let (wide, narrow) = sizes.traces;
                values(chunk) + 1.5 * pass(wide + narrow) / chunk as f64
            }
            Form::FixedLag { chunk, lag } => values(chunk) + fresh((lag + chunk) * sizes.ring) / chunk as f64,
            Form::Whole { chunk } => values(chunk) + fresh(self.kept_bytes()),
            Form::Recompute { chunk } => {
                let known = projections(&self.prepared, &self.structure);
                let input = large(chunk, self.prepared.input.bytes());
                values(chunk) + input + self.flops(|y| !known.contains(&y)) / COSTS.rate
            }
        }
    }

    /// Operations of a step forward in the ops with such outputs.
    fn flops(&self, of: impl Fn(Value) -> bool) -> f64 {
        let ops = self.structure.ops.iter().filter(|op| of(op.y));
        ops.map(|op| op.kind.operator().flops(op, self.batch())).sum::<u64>() as f64
    }
}
