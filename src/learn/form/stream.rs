//! Forms for streams, which have no end to go back from: traces that go forwards, or rings of the last steps.

use super::{Choice, Form, LearnError, Learner, TraceSetting};
use crate::learn::{signal::Ahead, structure::Op};

impl Learner {
    /// The form for a stream of `chunk` steps per call, and why.
    ///
    /// # Errors
    /// When a setting needs the end of the sequence, or an op has no trace that a stream can keep.
    pub fn stream(&self, chunk: usize) -> Result<Choice, LearnError> {
        self.check_no_end()?;
        let ring = self.ring_of_stream();
        let mut all = Vec::new();
        match (self.only_backwards(), &ring) {
            (None, _) => all.push(self.candidate_of_stream(Form::Dense { chunk })),
            (Some(op), Err(why)) => return Err(no_trace(op, why)),
            (Some(_), Ok(_)) => {}
        }
        let trace = self.config().trace;
        match ring {
            Ok(lag) => all.push(self.candidate_of_stream(Form::FixedLag { chunk, lag })),
            Err(why) if trace == TraceSetting::FixedLag => {
                return Err(LearnError::Setting(format!(
                    "--trace fixed-lag keeps the last steps of a stream, but {why}; leave it out, or use --drive scan"
                )));
            }
            Err(_) => {}
        }
        Ok(self.choose(trace, all))
    }

    /// That no setting needs the end of the sequence.
    fn check_no_end(&self) -> Result<(), LearnError> {
        let wrong = |text: String| Err(LearnError::Setting(text));
        if self.config().signal == Ahead::Readout {
            return wrong(
                "--signal readout takes signals back from the losses of later steps, which a stream does not have yet; leave it out, or use \
                 --drive scan"
                    .into(),
            );
        }
        if self.twice {
            return wrong(
                "one loss of the summed output needs two passes over a sequence, and a stream passes once; use --drive scan, or the loss \
                 of every step (--loss_of steps or running)"
                    .into(),
            );
        }
        match self.config().trace {
            trace @ (TraceSetting::Whole | TraceSetting::Recompute) => wrong(format!(
                "a sequence that is driven step by step has no end to go back from, got --trace {trace}; use auto, dense or fixed-lag, or \
                 --drive scan"
            )),
            _ => Ok(()),
        }
    }

    /// Steps in the rings of a stream, or why it has none.
    fn ring_of_stream(&self) -> Result<usize, String> {
        if let Some(why) = self.no_other_form() {
            return Err(why.into());
        }
        let ops = &self.lagged().stream.ops;
        if ops.is_empty() {
            return Err("all traces of this network are small".into());
        }
        let op = |k: &usize| &self.structure.ops[*k];
        if let Some(op) = ops.iter().map(op).find(|op| op.kind.operator().reads_weight(op)) {
            return Err(format!("the gradient of `{}` depends on its weight, which may have changed since", op.site));
        }
        let lag = self.config().lag.or_else(|| self.sufficient_lag());
        let enough = |lag: &usize| self.cut_after(*lag) <= self.config().lag_tolerance;
        lag.filter(enough).ok_or_else(|| "the network's graph does not bound what its states remember".into())
    }
}

fn no_trace(op: &Op, why: &str) -> LearnError {
    LearnError::Setting(format!(
        "the traced op `{}` has no trace that goes forwards, and a sequence that is driven step by step has no rings of the last steps in \
         its place: {why}; use --drive scan{}",
        op.site,
        if op.kind.operator().is_linear(op) { ", or --method es-d-rtrl" } else { "" }
    ))
}
