//! Training samples changed at random, a little differently in every epoch.
//!
//! In this order, as in the successor of the published experiments ("braintrace-shd-experiments"):
//!
//! 1. **Shift**: all units by `trunc(U(-shift, shift))`, as if the voice were higher or lower.
//! 2. **Dilation**: all times by `exp(U(ln low, ln high))`, as if it were slower or faster.
//! 3. **Jitter**: the unit of each spike by `round(N(0, jitter))`.
//!
//! Spikes that leave the 700 units, or that dilation carries to the last edge or beyond, are dropped.

use serde::{Deserialize, Serialize};

use super::UNITS;
use crate::Result;
use crate::error::require;
use crate::rng::Stream;

/// How much. See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Augment {
    /// Units by which a sample is shifted at most; 0 for none.
    pub shift: f64,
    /// Least and greatest factor of the times; (1, 1) for none.
    pub dilate: (f64, f64),
    /// Standard deviation of each spike's unit; 0 for none.
    pub jitter: f64,
}

impl Default for Augment {
    /// Shift 40, dilation 0.95 to 1.2, jitter 4: the usual values of the published scripts.
    fn default() -> Self {
        Augment { shift: 40.0, dilate: (0.95, 1.2), jitter: 4.0 }
    }
}

impl Augment {
    pub(super) fn check(&self, task: &'static str) -> Result<()> {
        let (low, high) = self.dilate;
        let size = |x: f64| (0.0..=f64::from(UNITS)).contains(&x);
        require(
            size(self.shift) && size(self.jitter) && low > 0.0 && low <= high && high.is_finite(),
            task,
            "augment has shift and jitter from 0 to 700 and dilate (low, high) with 0 < low <= high",
            format!("{self:?}"),
            "shift 40, dilate (0.95, 1.2), jitter 4 are usual",
        )
    }

    /// The spikes (seconds, unit) of a sample, changed by draws from `s`.
    pub(super) fn apply(&self, spikes: &mut Vec<(f64, u16)>, max_time: f64, s: &mut Stream) {
        let shift = (self.shift * (2.0 * s.unit() - 1.0)) as i32;
        let (low, high) = (self.dilate.0.ln(), self.dilate.1.ln());
        let factor = (low + (high - low) * s.unit()).exp();
        let inside = |unit: i32| u16::try_from(unit).ok().filter(|&u| u < UNITS);
        spikes.retain_mut(|(t, u)| {
            let Some(shifted) = inside(i32::from(*u) + shift) else {
                return false;
            };
            if factor != 1.0 {
                *t *= factor;
                if *t >= max_time {
                    return false;
                }
            }
            let jitter = if self.jitter > 0.0 { (self.jitter * s.normal()).round() as i32 } else { 0 };
            let unit = inside(i32::from(shifted) + jitter);
            *u = unit.unwrap_or_default();
            unit.is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(a: Augment, spikes: &[(f64, u16)], draw: u64) -> Vec<(f64, u16)> {
        let mut out = spikes.to_vec();
        a.apply(&mut out, 1.4, &mut Stream::new(5, "augment test", &[draw]));
        out
    }

    const NONE: Augment = Augment { shift: 0.0, dilate: (1.0, 1.0), jitter: 0.0 };

    #[test]
    fn nothing_changes_without_sizes() {
        let spikes = [(0.0, 0), (1.39, 699), (2.0, 5)];
        assert_eq!(run(NONE, &spikes, 0), spikes);
    }

    #[test]
    fn a_shift_is_of_the_whole_sample_and_cut_towards_zero() {
        let a = Augment { shift: 2.5, ..NONE };
        let mut seen = std::collections::BTreeMap::new();
        for draw in 0..5000 {
            let got = run(a, &[(0.1, 300), (0.2, 400)], draw);
            assert_eq!(got[1].1 - got[0].1, 100);
            *seen.entry(i32::from(got[0].1) - 300).or_insert(0) += 1;
        }
        // trunc(U(-2.5, 2.5)): 0 has width 2 of 5, +-1 have 1 each, +-2 have 1/2 each.
        let want = [(-2, 500.0), (-1, 1000.0), (0, 2000.0), (1, 1000.0), (2, 500.0)];
        assert_eq!(seen.len(), 5, "{seen:?}");
        assert!(want.iter().all(|(k, n)| (f64::from(seen[k]) - n).abs() < 5.0 * n.sqrt()), "{seen:?}");
        assert!((0..100).any(|d| run(a, &[(0.1, 699)], d).is_empty()), "spikes fall over the edge");
    }

    #[test]
    fn dilation_is_uniform_in_the_logarithm() {
        let a = Augment { dilate: (0.5, 2.0), ..NONE };
        let factors: Vec<f64> = (0..4000).map(|d| run(a, &[(0.4, 1)], d)[0].0 / 0.4).collect();
        assert!(factors.iter().all(|f| (0.5..=2.0).contains(f)));
        let below_one = factors.iter().filter(|f| **f < 1.0).count();
        assert!((below_one as i32 - 2000).abs() < 160, "{below_one}");
        let kept = (0..4000).filter(|&d| !run(a, &[(1.0, 1)], d).is_empty()).count() as f64 / 4000.0;
        let want = (1.4f64 / 0.5).ln() / 4f64.ln();
        assert!((kept - want).abs() < 0.04, "{kept} kept, {want} expected below 1.4 s");
    }

    #[test]
    fn jitter_is_normal_and_of_each_spike() {
        let a = Augment { jitter: 3.0, ..NONE };
        let moved: Vec<f64> = run(a, &vec![(0.1, 350); 20_000], 1).iter().map(|s| f64::from(s.1) - 350.0).collect();
        let mean = moved.iter().sum::<f64>() / moved.len() as f64;
        let variance = moved.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / moved.len() as f64;
        // Rounding adds 1/12 to the variance.
        assert!(mean.abs() < 0.11 && (variance - 9.083).abs() < 0.46, "{mean} {variance}");
        let kept = run(a, &vec![(0.1, 0); 20_000], 1).len();
        // P(round(N) >= 0) = 1/2 + P(-0.5 < N < 0) = 0.566
        assert!((kept as f64 / 20_000.0 - 0.566).abs() < 0.018, "{kept}");
    }
}
