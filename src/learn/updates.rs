//! Sequences with updates inside: an online rule whose parameters change every K steps, while states and traces go on.
//!
//! ```text
//! warm-up | K steps, update | K steps, update | ... | the steps that are left, update
//! ```
//!
//! The first K steps are those after the warm-up, which carries no loss and so has no update. A trace holds what older parameters did with
//! older inputs and is not computed anew: after an update it is the trace of no one network, but a sum of terms of several. That is what a
//! rule does that learns while it runs; how far the gradient is from that of the newest parameters depends on how fast those move against
//! how fast traces forget.

use hlo::{DType, Func, Graph, Shape, Tensor, scan_whole};

use super::{
    LearnError, Learner, Objective, Rule, Vjp,
    rings::Rings,
    segment::{Piece, starts},
    sequence::{Carry, Data, LearnerConfig, SequenceOut},
    trace::Slot,
};

/// What an update may read.
pub struct Found<'t> {
    /// All parameters, before it.
    pub params: &'t [Tensor],
    /// The gradient of the loss of the steps since the last update, by parameter.
    pub grads: &'t [Tensor],
    /// Whether any of these steps carries loss, `pred[]`; nothing where all do.
    pub counts: Option<Tensor>,
    /// What the caller carries from update to update.
    pub carried: &'t [Tensor],
}

/// All parameters after an update, and what the caller carries.
pub struct Changed {
    /// Parameters.
    pub params: Vec<Tensor>,
    /// What the caller carries.
    pub carried: Vec<Tensor>,
}

/// A caller's update.
pub type UpdateOf<'f> = &'f dyn Fn(&Graph, Found<'_>) -> Changed;

/// That a rule and its settings can have updates inside a sequence.
pub(super) fn check(
    config: &LearnerConfig,
    rule: &dyn Rule,
    objective: &Objective,
    twice: bool,
) -> Result<(), LearnError> {
    let Some(every) = config.update_every else { return Ok(()) };
    let wrong = |text: String| Err(LearnError::Setting(format!("--update_every {every} {text}")));
    if every == 0 {
        return wrong(
            "counts steps between updates, so it must be at least 1; leave it out for one update a sequence".into(),
        );
    }
    if !rule.is_online() {
        return wrong(
            "needs a gradient before the sequence ends, which bptt does not have; use an online rule, as d-rtrl, or \
             back-propagation truncated to K steps: --method immediate --vjp_method multi-step --window K --update_every K"
                .into(),
        );
    }
    if twice || objective.of_sum == super::objective::OfSum::Always {
        return wrong(
            "needs a loss before the sequence ends, but the loss of the summed output is known after it; use the loss of every step \
             (--loss_of steps or running)"
                .into(),
        );
    }
    match config.vjp {
        Vjp::MultiStep { window } if window > 1 && !every.is_multiple_of(window) => wrong(format!(
            "must be whole windows, which do not go across updates, got --window {window}; use a multiple of it"
        )),
        _ => Ok(()),
    }
}

/// What goes from update to update.
struct Now {
    params: Vec<Tensor>,
    carried: Vec<Tensor>,
    carry: Carry,
    loss: Tensor,
    out: Tensor,
    tracked: Vec<Tensor>,
    score: Option<Tensor>,
}

impl Learner {
    /// A sequence with an update every `every` steps that carry loss, as [`Learner::sequence`] otherwise; `carried` is what the caller's
    /// `update` carries on (an optimiser's state). Returns parameters and `carried` after the last update, and the sums of the sequence,
    /// whose gradients are gone. Tracked values are means over all steps.
    ///
    /// # Panics
    /// When shapes do not fit the model, or the rule is not one for which `check` allows it.
    pub fn sequence_with_updates(
        &self,
        g: &Graph,
        every: usize,
        (params, carried): (&[Tensor], Vec<Tensor>),
        states: &[Tensor],
        (inputs, target): (&Tensor, &Tensor),
        update: UpdateOf<'_>,
    ) -> (Changed, SequenceOut) {
        let steps = inputs.dims()[0];
        let warmup = self.config().warmup.min(steps);
        let none = self.no_sums(g);
        let mut carry = self.start(g, states);
        let mut tracked = none.tracked;
        if warmup > 0 {
            let phis = self.prepared.prefix.call(g, params);
            let piece = Piece { data: Data { inputs, target }, from: 0, to: warmup, learn: false, keep: true };
            let (next, more) = self.segment(g, &phis, carry, piece);
            (carry, tracked) = (next, more.tracked);
        }
        carry.traces = Some(carry.traces.unwrap_or_else(|| self.zero_traces(g, Rings::None)));
        let (loss, out, score) = (none.loss, none.out, none.score);
        let mut now = Now { params: params.to_vec(), carried, carry, loss, out, tracked, score };
        let count = (steps - warmup) / every;
        let rest = warmup + count * every;
        if count > 1 {
            now = self.equal_pieces(g, now, (inputs, target), (warmup, every, count), update);
        }
        for (from, to) in [(warmup, if count == 1 { rest } else { warmup }), (rest, steps)] {
            if from < to {
                let target = self.prepared.target_of(target, from, to);
                now = self.piece(g, now, &inputs.slice_axis(0, from, to), &target, update);
            }
        }
        let Now { params, carried, carry, loss, out, tracked, score } = now;
        let tracked = tracked.iter().map(|sum| sum * (1.0 / steps.max(1) as f64)).collect();
        (Changed { params, carried }, SequenceOut { grads: vec![], loss, out, tracked, states: carry.states, score })
    }

    /// Some steps, and an update.
    fn piece(&self, g: &Graph, now: Now, inputs: &Tensor, target: &Tensor, update: UpdateOf<'_>) -> Now {
        let phis = self.prepared.prefix.call(g, &now.params);
        let piece = Piece { data: Data { inputs, target }, from: 0, to: inputs.dims()[0], learn: true, keep: true };
        let (carry, found) = self.segment(g, &phis, now.carry, piece);
        let grads = self.prepared.pull(g, &now.params, &found.grads);
        let counts = self.objective.counts(target);
        let new = update(g, Found { params: &now.params, grads: &grads, counts, carried: &now.carried });
        Now {
            params: new.params,
            carried: new.carried,
            carry,
            loss: now.loss + found.loss,
            out: now.out + found.out,
            tracked: now.tracked.iter().zip(&found.tracked).map(|(a, b)| a + b).collect(),
            score: now.score.zip(found.score).map(|(a, b)| a + b),
        }
    }

    /// A loop over `count` pieces of `every` steps, from step `from` on.
    fn equal_pieces(
        &self,
        g: &Graph,
        now: Now,
        (inputs, target): (&Tensor, &Tensor),
        (from, every, count): (usize, usize, usize),
        update: UpdateOf<'_>,
    ) -> Now {
        let slots: Vec<Slot> = self.trace_slots().into_keys().collect();
        let scores = usize::from(now.score.is_some());
        let sizes = [now.params.len(), now.carried.len(), now.carry.states.len(), now.tracked.len(), scores];
        let flat = |now: Now| -> Vec<Tensor> {
            let traces = now.carry.traces.unwrap_or_default();
            let scores = now.score.into_iter().collect();
            let mut all = [now.params, now.carried, now.carry.states, now.tracked, scores].concat();
            all.extend([now.loss, now.out, now.carry.time]);
            all.extend(slots.iter().map(|slot| traces[slot].clone()));
            all
        };
        let apart = |all: &[Tensor]| -> Now {
            let mut rest = all;
            let [params, carried, states, tracked, score] = sizes.map(|n| {
                let (first, others) = rest.split_at(n);
                rest = others;
                first.to_vec()
            });
            let (loss, out, time) = (rest[0].clone(), rest[1].clone(), rest[2].clone());
            let traces = slots.iter().cloned().zip(rest[3..].iter().cloned()).collect();
            let carry = Carry { states, traces: Some(traces), time, rings: Rings::None };
            Now { params, carried, carry, loss, out, tracked, score: score.into_iter().next() }
        };
        let init = flat(now);
        let rows = [starts(g, count, every) + g.scalar(DType::S32, from as f64)];
        let consts = [inputs.clone(), target.clone()];
        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.push(Shape::s32([]));
        shapes.extend(consts.iter().map(|t| t.shape().clone()));
        let body = Func::trace(&shapes, |g, v| {
            let (carried, rest) = v.split_at(init.len());
            let inputs = rest[1].dynamic_slice(&rest[0], every);
            let target = self.prepared.target_at(&rest[2], &rest[0], every);
            flat(self.piece(g, apart(carried), &inputs, &target, update))
        });
        apart(&scan_whole(g, &body, count, false, &init, &rows, &consts).0)
    }
}
