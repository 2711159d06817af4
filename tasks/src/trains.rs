//! Spike trains of constant rate, and durations in steps.

use std::ops::Range;

use crate::error::require;
use crate::rng::{Probability, Stream};
use crate::task::Batch;
use crate::{Error, Result};

/// Independent spikes of probability `p` per step for one input of row `b` during `steps`.
pub(crate) fn spikes(out: &mut Batch, s: &mut Stream, b: usize, channel: usize, steps: Range<usize>, p: Probability) {
    let stride = out.batch * out.n_in;
    let base = b * out.n_in + channel;
    for first in steps.clone().step_by(64) {
        let mut word = s.bernoulli64(p);
        while word != 0 {
            let t = first + word.trailing_zeros() as usize;
            if t >= steps.end {
                break;
            }
            out.inputs[t * stride + base] = 1;
            word &= word - 1;
        }
    }
}

/// `int(duration / dt)`, both in ms: the number of whole steps, cut off and not rounded, as in the published scripts.
pub(crate) fn steps(task: &'static str, rule: &'static str, duration: f64, dt: f64) -> Result<usize> {
    let n = duration / dt;
    let fine = dt > 0.0 && dt.is_finite() && (0.0..1e9).contains(&n);
    require(fine, task, rule, format!("{duration} ms in steps of {dt} ms"), "give both in milliseconds, dt above 0")?;
    Ok(n as usize)
}

/// The probability of a spike per step of `dt` ms at `rate` Hz.
pub(crate) fn per_step(task: &'static str, rule: &'static str, rate: f64, dt: f64) -> Result<f64> {
    let p = rate * dt / 1000.0;
    if (0.0..=1.0).contains(&p) {
        return Ok(p);
    }
    Err(Error::Setting {
        task,
        rule,
        got: format!("{rate} Hz in steps of {dt} ms, {p} spikes a step"),
        next: "lower the rate or dt; at most one spike fits in a step".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trains_stay_within_their_steps() {
        let mut out = Batch::empty(200, 2, 3);
        let mut s = Stream::new(0, "trains", &[]);
        spikes(&mut out, &mut s, 1, 2, 10..145, Probability::Always);
        for t in 0..200 {
            assert_eq!(out.at(t, 1), [0, 0, u8::from((10..145).contains(&t))]);
            assert_eq!(out.at(t, 0), [0, 0, 0]);
        }
    }

    #[test]
    fn durations() {
        assert_eq!(steps("t", "r", 500.0, 1.0).unwrap(), 500);
        assert_eq!(steps("t", "r", 10.9, 1.0).unwrap(), 10);
        assert_eq!(steps("t", "r", 1000.0, 0.1).unwrap(), 10_000);
        for (d, dt) in [(-1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (f64::NAN, 1.0), (1e12, 1.0), (1.0, f64::INFINITY)] {
            assert!(steps("t", "r", d, dt).is_err(), "{d} {dt}");
        }
        assert_eq!(per_step("t", "r", 40.0, 1.0).unwrap(), 0.04);
        assert!(per_step("t", "r", 2000.0, 1.0).is_err() && per_step("t", "r", -1.0, 1.0).is_err());
    }
}
