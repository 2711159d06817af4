//! Evidence accumulation: more cues on the left or on the right?
//!
//! A trial has a number of cues, each on the left or on the right, each after a pause; then a delay; then a recall
//! signal, during which the network says which side had more. The inputs are four groups of equal size:
//!
//! ```text
//! group    0 left         1 right        2 recall               3 noise
//! rate     40 Hz in left  40 Hz in right 40 Hz in the last      10 Hz always
//!          cues           cues           t_recall ms
//! ```
//!
//! A hidden side is drawn with probability 1/2; each cue is on the hidden side with probability 0.7. The class is 1 if the side
//! called `counted` was shown in more than half of the cues: it is the majority **shown**, not the hidden side. The loss counts during
//! recall only. Source: the E/I conductance network experiment of BrainTrace (ei_coba_net_decision_making).
//!
//! [`EvidenceSettings::clicks`] is an older form of the task, the `dm` data set of the first version of
//! task-rsnn-long-term-dependency: 40 inputs, recall at the end of the delay instead of after it, right cues counted.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::require;
use crate::rng::{Probability, Stream};
use crate::task::{Batch, Split, Task, TaskSettings, check_batch};
use crate::trains::{per_step, spikes, steps};

/// A side on which cues are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The first group of inputs.
    Left,
    /// The second group of inputs.
    Right,
}

/// Which published experiment the trials belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// Evidence accumulation.
    Evidence,
    /// The older click task.
    Dm,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Variant::Evidence => "evidence",
            Variant::Dm => "dm",
        }
    }
}

/// Durations in ms, rates in Hz.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvidenceSettings {
    /// Which experiment; it names the task and its random stream.
    pub variant: Variant,
    /// Length of a time step.
    pub dt: f64,
    /// Number of cues.
    pub cues: usize,
    /// Pause before each cue.
    pub t_interval: f64,
    /// Each cue.
    pub t_cue: f64,
    /// From the last cue to the recall.
    pub t_delay: f64,
    /// Recall, the end of the trial.
    pub t_recall: f64,
    /// Inputs in each of the four groups.
    pub group: usize,
    /// Rate of the cues.
    pub cue_rate: f64,
    /// Rate of the recall signal.
    pub recall_rate: f64,
    /// Rate of the noise.
    pub noise_rate: f64,
    /// Probability that a cue is on the hidden side.
    pub reliability: f64,
    /// The side whose majority is class 1.
    pub counted: Side,
}

impl Default for EvidenceSettings {
    /// The published experiment: 7 cues, 2200 steps, 100 inputs.
    fn default() -> Self {
        EvidenceSettings {
            variant: Variant::Evidence,
            dt: 1.0,
            cues: 7,
            t_interval: 50.0,
            t_cue: 100.0,
            t_delay: 1000.0,
            t_recall: 150.0,
            group: 25,
            cue_rate: 40.0,
            recall_rate: 40.0,
            noise_rate: 10.0,
            reliability: 0.7,
            counted: Side::Left,
        }
    }
}

impl EvidenceSettings {
    /// The older click task, `dm`. Its recall of 150 ms is part of the delay, so `t_delay` is at least 150.
    pub fn clicks(t_delay: f64) -> Self {
        let base = EvidenceSettings::default();
        EvidenceSettings {
            variant: Variant::Dm,
            group: 10,
            t_delay: t_delay - base.t_recall,
            counted: Side::Right,
            ..base
        }
    }
}

impl TaskSettings for EvidenceSettings {
    fn open(&self) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(Evidence::new(self.clone())?))
    }

    fn dt(&self) -> Option<f64> {
        Some(self.dt)
    }
}

/// The task. See the [module](self).
#[derive(Clone, Debug)]
pub struct Evidence {
    settings: EvidenceSettings,
    /// Steps of interval, cue, delay and recall.
    interval: usize,
    cue: usize,
    delay: usize,
    recall: usize,
    p_cue: Probability,
    p_recall: Probability,
    p_noise: Probability,
}

impl Evidence {
    /// Checks the settings. Errors: a duration below 0, dt not above 0, a probability above 1, no cue, no recall, an empty group.
    pub fn new(settings: EvidenceSettings) -> Result<Self> {
        let (s, name) = (&settings, settings.variant.name());
        let [interval, cue, delay, recall] = [
            steps(name, "t_interval is at least 0", s.t_interval, s.dt)?,
            steps(name, "t_cue is at least 0", s.t_cue, s.dt)?,
            steps(name, "t_delay is at least 0 (for clicks: at least the recall)", s.t_delay, s.dt)?,
            steps(name, "t_recall is at least 0", s.t_recall, s.dt)?,
        ];
        require(
            (1..=10_000).contains(&s.cues),
            name,
            "cues is from 1 to 10000",
            s.cues,
            "7 is usual, odd avoids ties",
        )?;
        require(recall > 0, name, "the recall has at least one step", s.t_recall, "make t_recall at least dt")?;
        require((1..=1 << 20).contains(&s.group), name, "group is from 1 to 2^20", s.group, "25 is usual")?;
        require(
            (0.0..=1.0).contains(&s.reliability),
            name,
            "reliability is a probability",
            s.reliability,
            "0.7 is usual",
        )?;
        Ok(Evidence {
            interval,
            cue,
            delay,
            recall,
            p_cue: per_step(name, "cue_rate is at most 1 spike a step", s.cue_rate, s.dt)?.into(),
            p_recall: per_step(name, "recall_rate is at most 1 spike a step", s.recall_rate, s.dt)?.into(),
            p_noise: per_step(name, "noise_rate is at most 1 spike a step", s.noise_rate, s.dt)?.into(),
            settings,
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &EvidenceSettings {
        &self.settings
    }

    /// The sides of the cues of row `row` of a batch.
    pub fn trial(&self, split: Split, seed: u64, epoch: u64, step: u64, row: usize) -> Vec<Side> {
        self.draw(&mut self.stream(split, seed, epoch, step, row))
    }

    /// The class of a trial with these cues.
    pub fn class(&self, cues: &[Side]) -> i32 {
        i32::from(2 * cues.iter().filter(|&&c| c == self.settings.counted).count() > cues.len())
    }

    fn stream(&self, split: Split, seed: u64, epoch: u64, step: u64, row: usize) -> Stream {
        Stream::new(seed, self.settings.variant.name(), &[split as u64, epoch, step, row as u64])
    }

    fn draw(&self, s: &mut Stream) -> Vec<Side> {
        let left = if s.below(2) == 1 { self.settings.reliability } else { 1.0 - self.settings.reliability };
        (0..self.settings.cues).map(|_| if s.unit() < left { Side::Left } else { Side::Right }).collect()
    }
}

impl Task for Evidence {
    fn name(&self) -> &str {
        self.settings.variant.name()
    }
    fn n_in(&self) -> usize {
        4 * self.settings.group
    }
    fn n_out(&self) -> usize {
        2
    }
    fn steps(&self) -> usize {
        self.warmup() + self.recall
    }
    fn phases(&self) -> Vec<(String, usize, usize)> {
        let cue = |k: usize| (k * (self.interval + self.cue) + self.interval, (k + 1) * (self.interval + self.cue));
        let cues = (0..self.settings.cues).map(cue).map(|(from, to)| ("cue".to_string(), from, to));
        cues.chain([("recall".to_string(), self.warmup(), self.steps())]).collect()
    }
    fn input_groups(&self) -> Vec<(&'static str, usize, usize)> {
        let of = |(k, name)| (name, k * self.settings.group, (k + 1) * self.settings.group);
        ["left", "right", "recall", "noise"].into_iter().enumerate().map(of).collect()
    }
    fn warmup(&self) -> usize {
        self.settings.cues * (self.interval + self.cue) + self.delay
    }

    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        check_batch(self, batch)?;
        let mut out = Batch::empty(self.steps(), batch, self.n_in());
        out.real = batch;
        let (n, all) = (self.settings.group, self.steps());
        for b in 0..batch {
            let s = &mut self.stream(split, seed, epoch, step, b);
            let cues = self.draw(s);
            for (k, &side) in cues.iter().enumerate() {
                let start = k * (self.interval + self.cue) + self.interval;
                for j in 0..n {
                    spikes(&mut out, s, b, side as usize * n + j, start..start + self.cue, self.p_cue);
                }
            }
            for j in 0..n {
                spikes(&mut out, s, b, 2 * n + j, self.warmup()..all, self.p_recall);
                spikes(&mut out, s, b, 3 * n + j, 0..all, self.p_noise);
            }
            out.targets[b] = self.class(&cues);
            out.ids[b] = step.wrapping_mul(batch as u64).wrapping_add(b as u64);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> EvidenceSettings {
        EvidenceSettings { cues: 3, t_delay: 100.0, ..Default::default() }
    }

    #[test]
    fn the_published_timelines() {
        let task = Evidence::new(EvidenceSettings::default()).unwrap();
        assert_eq!((task.steps(), task.warmup(), task.n_in(), task.n_out()), (2200, 2050, 100, 2));
        let task = Evidence::new(small()).unwrap();
        assert_eq!((task.steps(), task.warmup()), (700, 550));
        let task = Evidence::new(EvidenceSettings::clicks(1000.0)).unwrap();
        assert_eq!((task.name(), task.steps(), task.warmup(), task.n_in()), ("dm", 2050, 1900, 40));
        assert!(Evidence::new(EvidenceSettings::clicks(100.0)).is_err());
    }

    /// In every step every group fires at its rate or not at all.
    fn rates(settings: EvidenceSettings, rows: usize) {
        let task = Evidence::new(settings.clone()).unwrap();
        let b = task.batch(Split::Train, 2, 0, 0, rows).unwrap();
        let (mut seen, mut expected) = ([0.0; 4], [0.0; 4]);
        for row in 0..rows {
            let cues = task.trial(Split::Train, 2, 0, 0, row);
            assert_eq!(b.targets[row], task.class(&cues));
            for t in 0..task.steps() {
                let (k, at) = (t / 150, t % 150);
                let cue = cues.get(k).filter(|_| at >= 50).map(|&c| c as usize);
                let p = [
                    if cue == Some(0) { 0.04 } else { 0.0 },
                    if cue == Some(1) { 0.04 } else { 0.0 },
                    if t >= task.steps() - 150 { 0.04 } else { 0.0 },
                    0.01,
                ];
                for (g, inputs) in b.at(t, row).chunks(settings.group).enumerate() {
                    let n: f64 = inputs.iter().map(|&x| f64::from(x)).sum();
                    assert!(p[g] > 0.0 || n == 0.0, "group {g} fires at step {t} of row {row}");
                    seen[g] += n;
                    expected[g] += p[g] * settings.group as f64;
                }
            }
        }
        for g in 0..4 {
            assert!((seen[g] - expected[g]).abs() < 5.0 * expected[g].sqrt(), "group {g}: {seen:?} of {expected:?}");
        }
    }

    #[test]
    fn rates_of_every_group() {
        rates(EvidenceSettings::default(), 32);
        rates(small(), 32);
        rates(EvidenceSettings::clicks(1000.0), 32);
    }

    #[test]
    fn cues_and_classes() {
        for settings in [EvidenceSettings::default(), EvidenceSettings::clicks(1000.0)] {
            let task = Evidence::new(settings).unwrap();
            let n = 20_000;
            let mut left = [0; 8];
            let mut ones = 0;
            for row in 0..n {
                let cues = task.trial(Split::Train, 1, 0, 0, row);
                left[cues.iter().filter(|&&c| c == Side::Left).count()] += 1;
                ones += task.class(&cues);
            }
            assert!((9650..10_350).contains(&ones), "{ones}");
            // The number of left cues: an even mixture of Binomial(7, 0.3) and Binomial(7, 0.7).
            let choose = [1.0, 7.0, 21.0, 35.0, 35.0, 21.0, 7.0, 1.0];
            for (k, &seen) in left.iter().enumerate() {
                let (k, c) = (k as i32, choose[k]);
                let p = 0.5 * c * (0.3f64.powi(k) * 0.7f64.powi(7 - k) + 0.7f64.powi(k) * 0.3f64.powi(7 - k));
                let want = p * n as f64;
                assert!((f64::from(seen) - want).abs() < 5.0 * want.sqrt(), "{k} left: {seen}, expected {want}");
            }
        }
        let seven = Evidence::new(EvidenceSettings::default()).unwrap();
        use Side::{Left as L, Right as R};
        assert_eq!(seven.class(&[L, L, L, L, R, R, R]), 1);
        assert_eq!(seven.class(&[L, L, L, R, R, R, R]), 0);
        let old = Evidence::new(EvidenceSettings::clicks(1000.0)).unwrap();
        assert_eq!(old.class(&[L, L, L, R, R, R, R]), 1);
    }

    #[test]
    fn a_batch_is_a_function_of_its_position() {
        let task = Evidence::new(small()).unwrap();
        let base = task.batch(Split::Train, 1, 2, 3, 8).unwrap();
        assert_eq!(base, task.batch(Split::Train, 1, 2, 3, 8).unwrap());
        assert_ne!(base.inputs, task.batch(Split::Valid, 1, 2, 3, 8).unwrap().inputs);
        assert_ne!(base.inputs, task.batch(Split::Train, 1, 3, 2, 8).unwrap().inputs);
    }

    #[test]
    fn bad_settings_are_refused() {
        for bad in [
            EvidenceSettings { cues: 0, ..small() },
            EvidenceSettings { t_recall: 0.0, ..small() },
            EvidenceSettings { reliability: 1.1, ..small() },
            EvidenceSettings { cue_rate: 2000.0, ..small() },
            EvidenceSettings { group: 0, ..small() },
            EvidenceSettings { t_delay: f64::INFINITY, ..small() },
        ] {
            assert!(Evidence::new(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
