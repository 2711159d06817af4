//! DVS128 Gesture: eleven gestures of hand and arm before an event camera (Amir et al. 2017).
//!
//! 128 x 128 pixels, two polarities: 32 768 inputs in the order (p, y, x). [`recordings`] finds the files: tonic's layout, one file a
//! gesture; the original recordings with their tables; a folder of clips; and recordings of any set and sensor with a folder for each class
//! (`classes`) or as tonic caches them (`caches`). A smaller frame has the largest count of each block of pixels: of a sensor of W x H,
//! pixel (x, y) belongs to the block (x side / W, y side / H), rounded down.
//!
//! Two ways to make samples. [`Framing::Slices`]: each recording is cut into slices of 1.7 s, each slice is a sample in frames of
//! 25 ms; a full slice has 67 frames, a short one is filled up with silence at its end. [`Framing::Bins`]: the whole recording
//! is one sample in a fixed number of bins.

mod augment;
mod caches;
pub(crate) mod classes;
pub mod recordings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::augment::Warp;
pub(crate) use self::classes::{Classes, not_split};
pub use self::recordings::{Label, labels};
pub(crate) use self::recordings::{Layout, Recording, find, part};
use crate::cache::{self, Entry};
use crate::error::require;
use crate::events::{self, Accept, Disorder, Event, Reading, Sensor, TimeUnit, frames, slices};
use crate::order::{Order, Passes};
use crate::remarks::Remarks;
use crate::rng::Stream;
use crate::sparse::{self, Decoded, Sparse, Splits, batch_of};
use crate::task::{At, Batch, Split, Task, TaskSettings};
use crate::{Error, Result, parallel};

/// Names of the classes.
pub const CLASSES: [&str; 11] = [
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter-clockwise",
    "left arm clockwise",
    "left arm counter-clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other",
];

/// How recordings become samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// Slices of a recording, in frames; both in microseconds.
    Slices {
        /// Length of a slice, 1 700 000 in the experiment.
        slice: u64,
        /// Length of a frame, 25 000 in the experiment.
        frame: u64,
    },
    /// This many bins over the whole recording.
    Bins(usize),
}

impl Framing {
    /// Steps of a sample: the most frames that a slice has, or the number of bins.
    ///
    /// Times are whole microseconds, so a slice spans at most `slice - 1` from its first event to its last.
    pub fn steps(self) -> usize {
        match self {
            Framing::Slices { slice, frame } => (slice.saturating_sub(1) / frame.max(1)).max(1) as usize,
            Framing::Bins(n) => n,
        }
    }

    /// The samples of a recording.
    pub fn samples(self, events: &[Event], sensor: Sensor) -> Vec<frames::Binned<u32>> {
        match self {
            Framing::Bins(n) => vec![frames::fixed_bins(events, sensor, n)],
            Framing::Slices { slice, frame } => slices::by_time(events, slice)
                .into_iter()
                .map(|r| frames::fixed_window(&events[r], sensor, frame).1)
                .collect(),
        }
    }
}

/// How DVS128 Gesture is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GestureSettings {
    /// The folder of the recordings.
    pub dir: PathBuf,
    /// How recordings become samples.
    pub framing: Framing,
    /// Columns and rows of the camera, where the recordings do not say and it is not that of DVS128 Gesture.
    pub sensor: Option<Sensor>,
    /// Pixels of a side of a frame: 128, or a divisor of it from 16 on; not more than a side of the sensor.
    pub frame_size: u16,
    /// Crop, tilt and turn the training samples, each anew in every epoch.
    pub augment: bool,
    /// Users whose recordings make the validation split, out of the training recordings.
    pub held_out: Vec<i64>,
    /// Folder for the frames, so that they are made once.
    pub cache: Option<PathBuf>,
    /// 1 for any number of spikes in a frame.
    pub binary: bool,
    /// Recordings whose time runs backwards.
    pub disorder: Disorder,
    /// The unit of times, where it is not that of the format.
    pub time_unit: Option<TimeUnit>,
    /// Order and last batch.
    pub passes: Passes,
}

impl GestureSettings {
    /// Slices of 1.7 s in frames of 25 ms, counts, shuffled.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let framing = Framing::Slices { slice: 1_700_000, frame: 25_000 };
        GestureSettings {
            dir: dir.into(),
            framing,
            sensor: None,
            frame_size: 128,
            augment: false,
            held_out: Vec::new(),
            cache: None,
            binary: false,
            disorder: Disorder::Refuse,
            time_unit: None,
            passes: Passes::default(),
        }
    }
}

impl Default for GestureSettings {
    fn default() -> Self {
        GestureSettings::new("./data")
    }
}

impl TaskSettings for GestureSettings {
    fn open(&self) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(Gesture::open(self.clone())?))
    }

    fn timing(&self) -> Result<(usize, usize)> {
        Ok((self.framing.steps(), 0))
    }

    fn folders(&mut self) -> Option<(&mut PathBuf, &mut Option<PathBuf>)> {
        Some((&mut self.dir, &mut self.cache))
    }
}

/// The task. See the [module](self).
pub struct Gesture {
    settings: GestureSettings,
    /// What the recordings are expected to be.
    reading: Reading,
    /// Classes.
    n_out: usize,
    order: Order,
    splits: Splits,
}

impl Gesture {
    /// Finds the folders, the classes and the sensor; reads no events yet. Errors: [`Error::Missing`], bad settings; [`Error::Damaged`] for
    /// a sensor or classes that are not known.
    pub fn open(settings: GestureSettings) -> Result<Self> {
        let steps = settings.framing.steps();
        let sizes = match settings.framing {
            Framing::Slices { slice, frame } => slice > 0 && frame > 0,
            Framing::Bins(n) => n > 0,
        };
        let rule = "the framing has lengths above 0 and at most 2^20 steps";
        let got = format!("{:?}", settings.framing);
        require(
            sizes && steps <= 1 << 20,
            "gesture",
            rule,
            got,
            "slices of 1700000 us in frames of 25000 us are usual",
        )?;
        let side = settings.frame_size;
        let fits = side >= 16 && FULL.width.is_multiple_of(side);
        require(fits, "gesture", "frame_size divides 128 and is at least 16", side, "choose 128, 64, 32 or 16")?;
        let layout = find(&settings.dir, Split::Train).or_else(|_| find(&settings.dir, Split::Test))?;
        let accept = Accept { disorder: settings.disorder, time_unit: settings.time_unit, sensor: settings.sensor };
        let (reading, n_out) = (layout.reading(accept)?, layout.classes()?.len());
        let sensor = reading.sensor;
        // Frames are cropped and turned at their full size.
        let (least, rule) = if settings.augment {
            (FULL.width, "samples are cropped and turned in frames of 128x128, which the sensor must fill")
        } else {
            (side, "frames have at most as many pixels a side as the sensor")
        };
        let got = format!("frames of {side}x{side} from {sensor}");
        let next = "choose a smaller frame_size, which `etrace gesture` has, or leave augment out";
        require(sensor.width.min(sensor.height) >= least, "gesture", rule, got, next)?;
        Ok(Gesture { order: Order::new(settings.passes), splits: Splits::default(), settings, reading, n_out })
    }

    fn layout(&self, split: Split) -> Result<Layout> {
        if split == Split::Valid && !self.settings.held_out.is_empty() {
            return find(&self.settings.dir, Split::Train);
        }
        let found = find(&self.settings.dir, split)?;
        if split == Split::Valid && !found.is_of_any_set() {
            return Err(Error::NoSplit {
                task: "gesture".into(),
                split,
                got: "DVS128 Gesture comes as training and test set, and no user is held out".into(),
                next: "name users of the training set in held_out, or evaluate on the test split",
            });
        }
        Ok(found)
    }

    /// The recordings of a split, and what there is to say of its files.
    fn recordings(&self, split: Split) -> Result<(Vec<Recording>, Remarks)> {
        let held = &self.settings.held_out;
        let (all, remarks) = self.layout(split)?.recordings(split)?.sound()?;
        if split == Split::Test || held.is_empty() {
            return Ok((all, remarks));
        }
        let known: BTreeSet<i64> = all.iter().map(|r| r.user).collect();
        require(
            held.iter().all(|u| known.contains(u)) && known.iter().any(|u| !held.contains(u)),
            "gesture",
            "held_out names some but not all users of the training recordings",
            format!("{held:?} of {known:?}"),
            "choose among these",
        )?;
        let of_split = |r: &Recording| held.contains(&r.user) == (split == Split::Valid);
        Ok((all.into_iter().filter(of_split).collect(), remarks))
    }

    /// Whether the samples of a split are changed anew in each epoch.
    fn augments(&self, split: Split) -> bool {
        self.settings.augment && split == Split::Train
    }

    fn decode(&self, recordings: &[Recording], whole: bool) -> Result<Decoded> {
        let s = &self.settings;
        let side = if whole { FULL.width } else { s.frame_size };
        let sensor = self.reading.sensor;
        // A file with many gestures is read once.
        let files: Vec<&[Recording]> = recordings.chunk_by(|a, b| a.path == b.path).collect();
        let parts = parallel::map(files.len(), |i| {
            let file = events::read(&files[i][0].path, &self.reading)?;
            let mut out = Decoded { spikes: Sparse::new(self.steps()), ..Decoded::default() };
            let mut remarks = Remarks::default();
            file.remarks.into_iter().for_each(|r| remarks.add(&files[i][0].path, r));
            for recording in files[i] {
                let (events, remark) = part(&file.events, recording)?;
                remark.into_iter().for_each(|r| remarks.add(&recording.path, r));
                for sample in s.framing.samples(events, sensor) {
                    out.spikes.push(&smaller(sample, sensor, side));
                    out.labels.push(recording.label);
                    out.people.push(recording.user);
                }
            }
            Ok((out, remarks))
        });
        let mut all = Decoded { spikes: Sparse::new(self.steps()), ..Decoded::default() };
        let mut remarks = Remarks::default();
        for part in parts {
            let (part, more): (Decoded, Remarks) = part?;
            all.spikes.append(&part.spikes);
            all.labels.extend(part.labels);
            all.people.extend(part.people);
            remarks.extend(more);
        }
        all.spikes = all.spikes.finish();
        if all.people.iter().all(|u| *u < 0) {
            all.people.clear();
        }
        all.remarks = remarks.lines();
        Ok(all.judged())
    }

    fn decoded(&self, split: Split) -> Result<Arc<Decoded>> {
        self.splits.get(split, || {
            let s = &self.settings;
            let (recordings, remarks) = self.recordings(split)?;
            sparse::check_size("gesture", recordings.len(), self.steps())?;
            // Frames are cropped and turned at their full size.
            let whole = self.augments(split);
            let tables = self.layout(split)?.tables(split, &recordings);
            let mut sources: Vec<_> = recordings.iter().map(|r| r.path.as_path()).collect();
            sources.dedup();
            sources.extend(tables.iter().map(PathBuf::as_path));
            let marks: String = recordings.iter().map(|r| format!("{} {} {:?} ", r.label, r.user, r.span)).collect();
            let entry = Entry {
                task: self.name(),
                split,
                settings: format!(
                    "{:?}, frames of {} from {}, held out {:?}, disorder {:?}, times in {:?}, labels {:016x}",
                    s.framing,
                    if whole { FULL.width } else { s.frame_size },
                    self.reading.sensor,
                    s.held_out,
                    s.disorder,
                    s.time_unit,
                    cache::hash(marks.as_bytes())
                ),
                sources,
                steps: self.steps(),
                n_in: if whole { FULL.channels() } else { self.n_in() },
                n_out: self.n_out(),
            };
            let mut decoded = cache::through(s.cache.as_deref(), &entry, || self.decode(&recordings, whole))?;
            decoded.remarks.splice(0..0, remarks.lines());
            Ok(decoded)
        })
    }

    /// A number for each sample with spikes, equal for samples that are equal in frames of the size that the network sees.
    fn prints(&self, split: Split) -> Result<Vec<u64>> {
        let d = self.decoded(split)?;
        if !self.augments(split) {
            return Ok(d.prints());
        }
        let mut small = Decoded { spikes: Sparse::new(self.steps()), ..Decoded::default() };
        for i in 0..d.labels.len() {
            let steps = d.spikes.steps_of(i).enumerate();
            let sample = steps.flat_map(|(t, now)| now.iter().map(move |&c| (t as u32, c.into()))).collect();
            small.spikes.push(&smaller(sample, FULL, self.settings.frame_size));
        }
        Ok(small.prints())
    }

    /// One sample changed at random: its frames `[T, 2 * size * size]`.
    fn augmented(&self, d: &Decoded, sample: usize, seed: u64, epoch: u64) -> Vec<u8> {
        let side = self.settings.frame_size;
        let plane = FULL.channels() / 2;
        let mut s = Stream::new(seed, "gesture", &[epoch, sample as u64]);
        let warp = Warp::draw(&mut s);
        let mut out = vec![0; self.steps() * self.n_in()];
        for (now, out) in d.spikes.steps_of(sample).zip(out.chunks_mut(self.n_in())) {
            if now.is_empty() {
                continue;
            }
            let (mut frame, mut warped) = (vec![0u8; 2 * plane], vec![0u8; 2 * plane]);
            now.iter().for_each(|&c| frame[usize::from(c)] = frame[usize::from(c)].saturating_add(1));
            for p in 0..2 {
                warp.apply(&frame[p * plane..][..plane], &mut warped[p * plane..][..plane], &mut s);
            }
            for (channel, &count) in warped.iter().enumerate() {
                let cell = &mut out[usize::from(block(channel as u32, FULL, side))];
                *cell = (*cell).max(count);
            }
        }
        out
    }
}

/// The frames that are cropped and turned.
const FULL: Sensor = Sensor::DVS128;

/// The channel of a frame of `side` pixels that a channel of the sensor falls into.
fn block(channel: u32, sensor: Sensor, side: u16) -> u16 {
    let (width, height, side) = (u32::from(sensor.width), u32::from(sensor.height), u32::from(side));
    let (x, y, p) = (channel % width, channel / width % height, channel / (width * height));
    ((p * side + y * side / height) * side + x * side / width) as u16
}

/// Events in frames of `side` pixels: each block has the largest count of its pixels.
fn smaller(mut sample: frames::Binned<u32>, sensor: Sensor, side: u16) -> frames::Binned {
    if (sensor.width, sensor.height) == (side, side) {
        return sample.into_iter().map(|(bin, channel)| (bin, channel as u16)).collect();
    }
    sample.sort_unstable();
    let mut largest: BTreeMap<(u32, u16), usize> = BTreeMap::new();
    for run in sample.chunk_by(|a, b| a == b) {
        let count = largest.entry((run[0].0, block(run[0].1, sensor, side))).or_default();
        *count = (*count).max(run.len());
    }
    largest.into_iter().flat_map(|(cell, count)| std::iter::repeat_n(cell, count)).collect()
}

impl Task for Gesture {
    fn name(&self) -> &str {
        "gesture"
    }
    fn n_in(&self) -> usize {
        2 * usize::from(self.settings.frame_size) * usize::from(self.settings.frame_size)
    }
    fn n_out(&self) -> usize {
        self.n_out
    }
    fn frame(&self) -> Option<[usize; 3]> {
        let side = usize::from(self.settings.frame_size);
        Some([2, side, side])
    }
    fn steps(&self) -> usize {
        self.settings.framing.steps()
    }
    fn samples(&self, split: Split) -> Result<Option<u64>> {
        Ok(Some(self.decoded(split)?.labels.len() as u64))
    }
    fn people(&self, split: Split) -> Result<Vec<i64>> {
        Ok(self.decoded(split)?.people.clone())
    }
    fn remarks(&self, split: Split) -> Result<Vec<String>> {
        Ok(self.decoded(split)?.remarks.clone())
    }
    fn repeated(&self, split: Split) -> Result<u64> {
        Ok(sparse::repeated(&self.prints(split)?, &self.prints(Split::Train)?))
    }
    fn batches(&self, split: Split, batch: usize) -> Result<Option<u64>> {
        Ok(self.samples(split)?.map(|n| self.settings.passes.batches(split, n, batch)))
    }
    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        self.part(At::whole(split, seed, epoch, step, batch))
    }

    fn part(&self, at: At) -> Result<Batch> {
        let (binary, At { split, seed, epoch, .. }) = (self.settings.binary, at);
        let d = self.decoded(split)?;
        if !self.augments(split) {
            return batch_of(self, &self.order, &d, binary, at);
        }
        let (chosen, mut out) = self.order.select(self, at, &d.labels)?;
        let made = parallel::map(chosen.len(), |b| self.augmented(&d, chosen[b], seed, epoch));
        for (b, sample) in made.iter().enumerate() {
            for (t, frame) in sample.chunks(self.n_in()).enumerate() {
                let row = out.row(t, b);
                row.copy_from_slice(frame);
                if binary {
                    row.iter_mut().for_each(|c| *c = (*c).min(1));
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
