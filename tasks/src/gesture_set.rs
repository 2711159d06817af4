//! Gestures made to order: simple shapes that move before an event camera, drawn as they are needed.
//!
//! | class | what moves |
//! |---|---|
//! | 0, 1 | a bar to the right, to the left |
//! | 2, 3 | a bar downwards, upwards |
//! | 4, 5 | a bar turning clockwise, anti-clockwise |
//! | 6, 7 | a ring growing, shrinking |
//!
//! A pixel has an event when the shape comes to cover it or leaves it, with some probability of missing it; others are noise. Speed,
//! position, size, tilt, phase and contrast (a bright shape or a dark one) differ from sample to sample. Movement is
//! periodic and contrast random, so that the two classes of a pair are told apart by the order of frames only: single frames
//! and the mean over time are distributed alike.

use std::f64::consts::PI;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::order::{Order, Passes};
use crate::parallel;
use crate::rng::Stream;
use crate::task::{At, Batch, Split, Task, TaskSettings};
use crate::{Error, Result};

/// Names of the classes.
pub const CLASSES: [&str; 8] = [
    "bar to the right",
    "bar to the left",
    "bar downwards",
    "bar upwards",
    "bar clockwise",
    "bar anti-clockwise",
    "ring growing",
    "ring shrinking",
];

/// Most samples of a split.
const MOST: u64 = 1 << 24;

/// A set of gestures. See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GestureSet {
    /// Pixels of a side, 16 to 128.
    pub size: u16,
    /// Frames.
    pub steps: usize,
    /// Samples of the training split.
    pub train: u64,
    /// Samples of the test split.
    pub test: u64,
    /// Noise: events per pixel, polarity and frame.
    pub noise: f64,
    /// Probability that an event of the shape is missed.
    pub missed: f64,
    /// Seed of the set (not of the run): two sets of one seed are equal.
    pub seed: u64,
    /// Order and last batch.
    pub passes: Passes,
}

impl Default for GestureSet {
    /// 800 and 200 samples of 40 frames of 32 x 32.
    fn default() -> Self {
        GestureSet {
            size: 32,
            steps: 40,
            train: 800,
            test: 200,
            noise: 0.005,
            missed: 0.2,
            seed: 0,
            passes: Passes::default(),
        }
    }
}

impl GestureSet {
    /// The task. Errors: sizes and probabilities outside their ranges.
    pub fn open(self) -> Result<Made> {
        let name = "made";
        require((16..=128).contains(&self.size), name, "size is from 16 to 128", self.size, "32 is usual")?;
        require((2..=1 << 16).contains(&self.steps), name, "steps is from 2 to 2^16", self.steps, "40 is usual")?;
        for p in [self.noise, self.missed] {
            require((0.0..=1.0).contains(&p), name, "noise and missed are probabilities", p, "choose 0 to 1")?;
        }
        let rule = "the training split has 1 to 2^24 samples and the test split at most as many";
        let got = format!("{} and {}", self.train, self.test);
        let samples = (1..=MOST).contains(&self.train) && self.test <= MOST;
        require(samples, name, rule, got, "800 and 200 are usual")?;
        Ok(Made { order: Order::new(self.passes), set: self })
    }
}

impl TaskSettings for GestureSet {
    fn open(&self) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(self.clone().open()?))
    }
}

/// What one sample shows.
struct Scene {
    class: usize,
    size: f64,
    /// Centre of the movement.
    centre: (f64, f64),
    /// Periods of the movement per frame.
    speed: f64,
    /// Where in the period it starts.
    phase: f64,
    /// Half the thickness of the shape.
    half: f64,
    /// Turns bars that move on, a little.
    tilt: f64,
    bright: bool,
}

impl Scene {
    fn new(class: usize, size: u16, s: &mut Stream) -> Scene {
        let size = f64::from(size);
        let mut between = |low: f64, high: f64| low + (high - low) * s.unit();
        Scene {
            class,
            size,
            centre: (size * between(0.4, 0.6), size * between(0.4, 0.6)),
            speed: between(0.025, 0.05),
            phase: between(0.0, 1.0),
            half: size * between(0.04, 0.08),
            tilt: between(-0.25, 0.25),
            bright: between(0.0, 1.0) < 0.5,
        }
    }

    /// Whether the shape covers a pixel at frame `t`.
    fn covers(&self, x: usize, y: usize, t: f64) -> bool {
        let (dx, dy) = (x as f64 + 0.5 - self.centre.0, y as f64 + 0.5 - self.centre.1);
        let forwards = self.class.is_multiple_of(2);
        let turn = (self.phase + if forwards { t } else { -t } * self.speed).rem_euclid(1.0);
        let (sin, cos) = self.tilt.sin_cos();
        // Distance from the middle of a bar that comes back at the other side.
        let bar = |along: f64| {
            let away = (along - turn * self.size).rem_euclid(self.size);
            away.min(self.size - away) < self.half
        };
        match self.class / 2 {
            0 => bar(cos * dx + sin * dy),
            1 => bar(cos * dy - sin * dx),
            2 => {
                // Half a turn is a period of a bar.
                let (sin, cos) = (turn * PI).sin_cos();
                let reach = dx.hypot(dy) < 0.45 * self.size;
                reach && (cos * dy - sin * dx).abs() < self.half
            }
            _ => (dx.hypot(dy) - turn * 0.6 * self.size).abs() < self.half,
        }
    }
}

/// The task of a [`GestureSet`].
pub struct Made {
    set: GestureSet,
    order: Order,
}

impl Made {
    fn count(&self, split: Split) -> Result<u64> {
        match split {
            Split::Train => Ok(self.set.train),
            Split::Test if self.set.test > 0 => Ok(self.set.test),
            _ => Err(Error::NoSplit {
                task: self.name().into(),
                split,
                got: "the set has training and test samples".into(),
                next: "evaluate on the test split, and give it samples",
            }),
        }
    }

    /// The events of a sample: frame and channel (p, y, x).
    fn events(&self, split: Split, index: usize) -> Vec<(u32, u16)> {
        let set = &self.set;
        let mut s = Stream::new(set.seed, "made gesture", &[split as u64, index as u64]);
        let scene = Scene::new(index % CLASSES.len(), set.size, &mut s);
        let side = usize::from(set.size);
        let covered =
            |t: usize| -> Vec<bool> { (0..side * side).map(|i| scene.covers(i % side, i / side, t as f64)).collect() };
        let mut before = covered(0);
        let mut events = Vec::new();
        for t in 0..set.steps {
            let now = covered(t + 1);
            for i in 0..side * side {
                let on = usize::from(now[i] == scene.bright) * side * side;
                if before[i] != now[i] && s.unit() >= set.missed {
                    events.push((t as u32, (on + i) as u16));
                }
            }
            // The gaps between noise events are exponential: as many draws as events.
            let pixels = if set.noise > 0.0 { (2 * side * side) as f64 } else { 0.0 };
            let mut at = 0.0;
            while at < pixels {
                at += (1.0 - s.unit()).ln() / (1.0 - set.noise.min(1.0 - 1e-9)).ln();
                if at < pixels {
                    events.push((t as u32, at as u16));
                }
                at = at.floor() + 1.0;
            }
            before = now;
        }
        events
    }
}

impl Task for Made {
    fn name(&self) -> &str {
        "made"
    }
    fn n_in(&self) -> usize {
        2 * usize::from(self.set.size) * usize::from(self.set.size)
    }
    fn n_out(&self) -> usize {
        CLASSES.len()
    }
    fn frame(&self) -> Option<[usize; 3]> {
        let side = usize::from(self.set.size);
        Some([2, side, side])
    }
    fn steps(&self) -> usize {
        self.set.steps
    }
    fn samples(&self, split: Split) -> Result<Option<u64>> {
        self.count(split).map(Some)
    }
    fn batches(&self, split: Split, batch: usize) -> Result<Option<u64>> {
        Ok(Some(self.set.passes.batches(split, self.count(split)?, batch)))
    }
    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        self.part(At::whole(split, seed, epoch, step, batch))
    }

    fn part(&self, at: At) -> Result<Batch> {
        let split = at.split;
        let labels: Vec<i32> = (0..self.count(split)?).map(|i| (i % CLASSES.len() as u64) as i32).collect();
        let (chosen, mut out) = self.order.select(self, at, &labels)?;
        let made = parallel::map(chosen.len(), |b| self.events(split, chosen[b]));
        for (b, events) in made.iter().enumerate() {
            for &(t, channel) in events {
                let cell = &mut out.row(t as usize, b)[usize::from(channel)];
                *cell = cell.saturating_add(1);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(missed: f64, noise: f64) -> Made {
        GestureSet { train: 1600, missed, noise, ..GestureSet::default() }.open().expect("sound settings")
    }

    #[test]
    fn a_batch_is_a_function_of_its_position() {
        let (a, b) = (made(0.2, 0.01), made(0.2, 0.01));
        assert_eq!(a.batch(Split::Train, 3, 1, 2, 8).unwrap(), b.batch(Split::Train, 3, 1, 2, 8).unwrap());
        let (train, test) = (a.events(Split::Train, 0), a.events(Split::Test, 0));
        assert_ne!(train, test, "the splits have streams of their own");
        assert!(matches!(a.samples(Split::Valid), Err(Error::NoSplit { .. })));
        assert!(GestureSet { size: 8, ..GestureSet::default() }.open().is_err());
        for (train, test) in [(0, 1), (10_000_000_000, 2), (1, u64::MAX)] {
            let m = GestureSet { train, test, ..GestureSet::default() }.open().err().unwrap().to_string();
            assert!(m.contains("2^24"), "{m}");
        }
    }

    #[test]
    fn noise_has_its_rate() {
        let set = made(1.0, 0.01);
        let events: usize = (0..50).map(|i| set.events(Split::Train, i).len()).sum();
        let expected = 50.0 * 40.0 * 2048.0 * 0.01;
        assert!((events as f64 / expected - 1.0).abs() < 0.03, "{events} of {expected}");
    }

    /// Mean over samples of a class: the events of each pixel over all frames, and the shift of the centre of events from frame to
    /// frame (to the right, downwards, anti-clockwise on the screen, outwards).
    fn figures(set: &Made, class: usize) -> (Vec<f64>, [f64; 4]) {
        let (side, n) = (usize::from(set.set.size), 150);
        let mut mean = vec![0.0; 2 * side * side];
        let mut shift = [0.0; 4];
        for i in 0..n {
            let events = set.events(Split::Train, class + i * CLASSES.len());
            events.iter().for_each(|e| mean[usize::from(e.1)] += 1.0 / n as f64);
            let mut scene = Stream::new(set.set.seed, "made gesture", &[Split::Train as u64, (class + i * 8) as u64]);
            let centre = Scene::new(class, set.set.size, &mut scene).centre;
            let frames: Vec<Vec<(f64, f64)>> = (0..set.set.steps as u32)
                .map(|t| {
                    let now = events.iter().filter(|e| e.0 == t).map(|e| usize::from(e.1) % (side * side));
                    now.map(|p| ((p % side) as f64 + 0.5 - centre.0, (p / side) as f64 + 0.5 - centre.1)).collect()
                })
                .collect();
            for pair in frames.windows(2).filter(|p| p.iter().all(|f| f.len() > 4)) {
                let of = |f: &dyn Fn(&(f64, f64)) -> f64, k: usize| {
                    pair[k].iter().map(f).sum::<f64>() / pair[k].len() as f64
                };
                // Wrapping round is one jump back among many steps: its sign alone is counted.
                let step = |f: &dyn Fn(&(f64, f64)) -> f64| (of(f, 1) - of(f, 0)).signum() / n as f64;
                shift[0] += step(&|p| p.0);
                shift[1] += step(&|p| p.1);
                let axis = |k: usize| {
                    let second = |f: &dyn Fn(&(f64, f64)) -> f64| of(f, k);
                    second(&|p| 2.0 * p.0 * p.1).atan2(second(&|p| p.0 * p.0 - p.1 * p.1))
                };
                shift[2] += (axis(1) - axis(0)).sin().signum() / n as f64;
                shift[3] += step(&|p| p.0.hypot(p.1));
            }
        }
        (mean, shift)
    }

    #[test]
    fn the_classes_of_a_pair_differ_in_the_order_of_frames_only() {
        let set = made(0.2, 0.0);
        for pair in 0..4 {
            let (mean, forwards) = figures(&set, 2 * pair);
            let (other, backwards) = figures(&set, 2 * pair + 1);
            // Blocks of 8 x 8 pixels: enough events for the means to be compared.
            let block = |m: &[f64]| {
                let mut blocks = vec![0.0; 2 * 16];
                m.iter().enumerate().for_each(|(c, v)| blocks[c / 1024 * 16 + c % 1024 / 32 / 8 * 4 + c % 32 / 8] += v);
                blocks
            };
            let (a, b) = (block(&mean), block(&other));
            let apart: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.iter().sum::<f64>();
            assert!(apart < 0.12, "mean frames of pair {pair} differ by {apart}");
            let (f, b) = (forwards[pair], backwards[pair]);
            assert!(f > 4.0 && b < -4.0, "pair {pair}: {f} against {b}");
        }
    }
}
