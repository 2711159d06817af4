//! Delayed match to sample: were the two directions the same?
//!
//! A trial is fixation, sample, delay, test. Sample and test each show one of eight directions of motion to a population of
//! 100 inputs; the network must remember the first over the delay and say at the test whether the second matches
//! (class 1) or not (class 0). The loss counts from the onset of the test on.
//!
//! With inputs j of preferred directions `p_j = 2 pi j / n` and stimuli `d_k = 2 pi k / 8` the tuning is
//!
//! ```text
//! T[k, j] = exp(kappa cos(d_k - p_j)) / exp(kappa)                              [8, n], 1 at the preferred direction
//! P(spike of j in a step) = (background + T[k, j] rate [sample, test]) dt        rates in Hz, dt in seconds here
//! ```
//!
//! A trial matches with probability 1/2; the sample is uniform over the directions; a matching test is the sample turned by
//! `rotation` eighths of a circle, another test is uniform over the seven remaining. Source: the long-term dependency task
//! of the BrainTrace experiments (task-rsnn-long-term-dependency, last version).

use std::{f64::consts::TAU, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::require;
use crate::rng::{Probability, Stream};
use crate::task::{Batch, Split, Task, TaskSettings, check_batch};
use crate::trains::{per_step, spikes, steps};

/// Directions of motion.
pub const DIRECTIONS: usize = 8;

/// Durations in ms, rates in Hz.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DmsSettings {
    /// Length of a time step.
    pub dt: f64,
    /// Before the sample; 10 in the published command lines.
    pub t_fixation: f64,
    /// The sample.
    pub t_sample: f64,
    /// Between sample and test.
    pub t_delay: f64,
    /// The test.
    pub t_test: f64,
    /// Inputs.
    pub n_in: usize,
    /// Sharpness of the tuning; the first published version had 8.
    pub kappa: f64,
    /// Rate of every input at all times.
    pub background: f64,
    /// Rate added at the preferred direction during sample and test.
    pub rate: f64,
    /// By how many eighths of a circle a matching test is turned, 0 to 8.
    pub rotation: usize,
}

impl Default for DmsSettings {
    fn default() -> Self {
        DmsSettings {
            dt: 1.0,
            t_fixation: 500.0,
            t_sample: 500.0,
            t_delay: 1000.0,
            t_test: 500.0,
            n_in: 100,
            kappa: 3.0,
            background: 1.0,
            rate: 100.0,
            rotation: 0,
        }
    }
}

/// What a trial shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmsTrial {
    /// The answer.
    pub matches: bool,
    /// Direction of the sample, `0..8`.
    pub sample: usize,
    /// Direction of the test, `0..8`.
    pub test: usize,
}

impl TaskSettings for DmsSettings {
    fn open(&self) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(Dms::new(self.clone())?))
    }

    fn dt(&self) -> Option<f64> {
        Some(self.dt)
    }
}

/// The task. See the [module](self).
#[derive(Clone, Debug)]
pub struct Dms {
    settings: DmsSettings,
    /// Ends of fixation, sample, delay and test, in steps.
    ends: [usize; 4],
    background: Probability,
    /// Probability of a spike per step under each stimulus, `[8, n_in]`.
    driven: Vec<[Probability; DIRECTIONS]>,
}

/// `T[k, j]` for `n` inputs, `[8, n]`. See the [module](self).
pub fn tuning(kappa: f64, n: usize) -> Vec<Vec<f64>> {
    let one = |k: usize, j: usize| {
        let angle = TAU * k as f64 / DIRECTIONS as f64 - TAU * j as f64 / n as f64;
        (kappa * angle.cos()).exp() / kappa.exp()
    };
    (0..DIRECTIONS).map(|k| (0..n).map(|j| one(k, j)).collect()).collect()
}

impl Dms {
    /// Checks the settings. Errors: a duration below 0, dt not above 0, a probability above 1, rotation above 8, no input, no test.
    pub fn new(settings: DmsSettings) -> Result<Self> {
        let s = &settings;
        let mut ends = [0; 4];
        let durations = [
            (s.t_fixation, "t_fixation is at least 0"),
            (s.t_sample, "t_sample is at least 0"),
            (s.t_delay, "t_delay is at least 0"),
            (s.t_test, "t_test is at least 0"),
        ];
        let mut end = 0;
        for (e, (duration, rule)) in ends.iter_mut().zip(durations) {
            end += steps("dms", rule, duration, s.dt)?;
            *e = end;
        }
        let test = ends[3] - ends[2];
        require(test > 0, "dms", "the test has at least one step", s.t_test, "make t_test at least dt")?;
        require((1..=1 << 20).contains(&s.n_in), "dms", "n_in is from 1 to 2^20", s.n_in, "100 is usual")?;
        require((0.0..=100.0).contains(&s.kappa), "dms", "kappa is from 0 to 100", s.kappa, "3 is usual")?;
        require(
            s.rotation <= 8,
            "dms",
            "rotation is from 0 to 8 (eighths of a circle)",
            s.rotation,
            "give degrees / 45",
        )?;
        let low = per_step("dms", "background is a rate of at most 1 spike a step", s.background, s.dt)?;
        per_step("dms", "background and rate together are at most 1 spike a step", s.background + s.rate, s.dt)?;
        let high = per_step("dms", "rate is a rate of at most 1 spike a step", s.rate, s.dt)?;
        let t = tuning(s.kappa, s.n_in);
        let driven = (0..s.n_in).map(|j| std::array::from_fn(|k| (low + t[k][j] * high).into())).collect();
        Ok(Dms { ends, background: low.into(), driven, settings })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &DmsSettings {
        &self.settings
    }

    /// What row `row` of a batch shows.
    pub fn trial(&self, split: Split, seed: u64, epoch: u64, step: u64, row: usize) -> DmsTrial {
        self.draw(&mut stream(split, seed, epoch, step, row))
    }

    fn draw(&self, s: &mut Stream) -> DmsTrial {
        let matches = s.below(2) == 1;
        let sample = s.below(DIRECTIONS as u64) as usize;
        let same = (sample + self.settings.rotation) % DIRECTIONS;
        // Skipping over the matching direction is uniform over the other seven.
        let turn = if matches { 0 } else { 1 + s.below(DIRECTIONS as u64 - 1) as usize };
        DmsTrial { matches, sample, test: (same + turn) % DIRECTIONS }
    }
}

fn stream(split: Split, seed: u64, epoch: u64, step: u64, row: usize) -> Stream {
    Stream::new(seed, "dms", &[split as u64, epoch, step, row as u64])
}

impl Task for Dms {
    fn name(&self) -> &str {
        "dms"
    }
    fn n_in(&self) -> usize {
        self.settings.n_in
    }
    fn n_out(&self) -> usize {
        2
    }
    fn steps(&self) -> usize {
        self.ends[3]
    }
    fn phases(&self) -> Vec<(String, usize, usize)> {
        let starts = [0, self.ends[0], self.ends[1], self.ends[2]];
        let parts = ["fixation", "sample", "delay", "test"].into_iter().zip(starts.into_iter().zip(self.ends));
        parts.filter(|(_, (from, to))| from < to).map(|(name, (from, to))| (name.to_string(), from, to)).collect()
    }
    fn warmup(&self) -> usize {
        self.ends[2]
    }

    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        check_batch(self, batch)?;
        let mut out = Batch::empty(self.steps(), batch, self.n_in());
        out.real = batch;
        let [fixation, sample, delay, test] = self.ends;
        for b in 0..batch {
            let s = &mut stream(split, seed, epoch, step, b);
            let trial = self.draw(s);
            for (j, driven) in self.driven.iter().enumerate() {
                spikes(&mut out, s, b, j, 0..fixation, self.background);
                spikes(&mut out, s, b, j, fixation..sample, driven[trial.sample]);
                spikes(&mut out, s, b, j, sample..delay, self.background);
                spikes(&mut out, s, b, j, delay..test, driven[trial.test]);
            }
            out.targets[b] = i32::from(trial.matches);
            out.ids[b] = step.wrapping_mul(batch as u64).wrapping_add(b as u64);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> DmsSettings {
        DmsSettings { t_fixation: 10.0, ..DmsSettings::default() }
    }

    #[test]
    fn tuning_has_its_worked_numbers() {
        let t = tuning(3.0, 100);
        for (j, want) in [(0, 1.0), (10, 0.563860), (25, 0.049787), (50, 0.002479)] {
            assert!((t[0][j] - want).abs() < 1e-6, "{j}: {}", t[0][j]);
        }
        for (j, want) in [(0, 0.415331), (12, 0.998521), (13, 0.998521)] {
            assert!((t[1][j] - want).abs() < 1e-6, "{j}: {}", t[1][j]);
        }
        for row in t {
            assert!((row.iter().sum::<f64>() / 100.0 - 0.243).abs() < 1e-6);
        }
    }

    #[test]
    fn the_published_timeline() {
        let task = Dms::new(published()).unwrap();
        assert_eq!((task.steps(), task.warmup(), task.n_in(), task.n_out()), (2010, 1510, 100, 2));
        assert_eq!(task.ends, [10, 510, 1510, 2010]);
        let fine = Dms::new(DmsSettings { dt: 0.5, ..published() }).unwrap();
        assert_eq!((fine.steps(), fine.warmup()), (4020, 3020));
        let Probability::Fraction(peak) = task.driven[0][0] else { panic!() };
        assert!((peak as f64 / 2f64.powi(64) - 0.101).abs() < 1e-9);
    }

    #[test]
    fn rates_in_every_part_of_a_trial() {
        let task = Dms::new(published()).unwrap();
        let b = task.batch(Split::Train, 4, 0, 0, 64).unwrap();
        let t = tuning(3.0, 100);
        // Per phase: spikes seen, spikes expected.
        let mut phases = [(0.0, 0.0); 4];
        let (mut at_peak, mut peak_draws) = (0.0, 0.0);
        for row in 0..64 {
            let trial = task.trial(Split::Train, 4, 0, 0, row);
            for step in 0..2010 {
                let phase = task.ends.iter().filter(|&&e| e <= step).count();
                for (j, &x) in b.at(step, row).iter().enumerate() {
                    let tuned = [0.0, t[trial.sample][j], 0.0, t[trial.test][j]][phase];
                    phases[phase].0 += f64::from(x);
                    phases[phase].1 += 0.001 + 0.1 * tuned;
                    if tuned > 0.99 {
                        at_peak += f64::from(x);
                        peak_draws += 1.0;
                    }
                }
            }
        }
        for (seen, expected) in phases {
            assert!((seen - expected).abs() < 5.0 * f64::sqrt(expected), "{seen} of {expected}");
        }
        assert!((at_peak / peak_draws - 0.1005).abs() < 0.002, "{}", at_peak / peak_draws);
        assert!(b.inputs.iter().all(|&x| x <= 1));
    }

    #[test]
    fn trials_are_balanced() {
        for rotation in [0, 3, 8] {
            let task = Dms::new(DmsSettings { rotation, ..published() }).unwrap();
            let (mut matches, mut samples, mut turns) = (0, [0; 8], [0; 8]);
            for row in 0..16_000 {
                let t = task.trial(Split::Train, 1, 0, 0, row);
                samples[t.sample] += 1;
                let turn = (t.test + 16 - t.sample - rotation) % 8;
                assert_eq!(t.matches, turn == 0);
                matches += usize::from(t.matches);
                turns[turn] += 1;
            }
            assert!((7700..8300).contains(&matches), "{matches}");
            assert!(samples.iter().all(|n| (1800..2200).contains(n)), "{samples:?}");
            assert!(turns[1..].iter().all(|n| (1000..1290).contains(n)), "{turns:?}");
        }
    }

    #[test]
    fn a_batch_is_a_function_of_its_position() {
        let task = Dms::new(DmsSettings { t_delay: 20.0, ..published() }).unwrap();
        let base = task.batch(Split::Train, 1, 2, 3, 8).unwrap();
        assert_eq!(base, task.batch(Split::Train, 1, 2, 3, 8).unwrap());
        // A row does not depend on how many others there are.
        let fewer = task.batch(Split::Train, 1, 2, 3, 3).unwrap();
        assert!((0..task.steps()).all(|t| (0..3).all(|b| fewer.at(t, b) == base.at(t, b))));
        for (split, seed, epoch, step) in
            [(Split::Test, 1, 2, 3), (Split::Train, 0, 2, 3), (Split::Train, 1, 0, 3), (Split::Train, 1, 2, 0)]
        {
            assert_ne!(base.inputs, task.batch(split, seed, epoch, step, 8).unwrap().inputs);
        }
        for b in 0..8 {
            assert_eq!(base.targets[b], i32::from(task.trial(Split::Train, 1, 2, 3, b).matches));
        }
    }

    #[test]
    fn bad_settings_are_refused() {
        for bad in [
            DmsSettings { dt: 0.0, ..published() },
            DmsSettings { t_delay: -1.0, ..published() },
            DmsSettings { t_test: 0.5, ..published() },
            DmsSettings { rotation: 9, ..published() },
            DmsSettings { rate: 1000.0, ..published() },
            DmsSettings { kappa: f64::NAN, ..published() },
            DmsSettings { n_in: 0, ..published() },
        ] {
            let m = Dms::new(bad.clone()).unwrap_err().to_string();
            assert!(m.starts_with("dms: ") && m.contains("got") && m.contains("; "), "{m}");
        }
    }
}
