//! DVS128 Gesture: eleven gestures of hand and arm before an event camera (Amir et al. 2017).
//!
//! 128 x 128 pixels, two polarities: 32 768 inputs in the order (p, y, x). [`recordings`] finds the files: tonic's layout, one file a
//! gesture; the original recordings with their tables; a folder of clips. A smaller frame has the largest count of each block of
//! pixels.
//!
//! Two ways to make samples. [`Framing::Slices`]: each recording is cut into slices of 1.7 s, each slice is a sample in frames of
//! 25 ms; a full slice has 67 frames, a short one is filled up with silence at its end. [`Framing::Bins`]: the whole recording
//! is one sample in a fixed number of bins.

mod augment;
pub mod recordings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::augment::Warp;
pub use self::recordings::read;
use self::recordings::{Layout, Recording, find, part};
use crate::cache::{self, Entry};
use crate::error::require;
use crate::events::{Disorder, Event, Sensor, frames, slices};
use crate::order::{At, Order, Passes};
use crate::parallel;
use crate::rng::Stream;
use crate::sparse::{Decoded, Sparse, Splits, batch_of};
use crate::task::{Batch, Split, Task, TaskSettings};
use crate::{Error, Result};

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
    pub fn samples(self, events: &[Event], sensor: Sensor) -> Vec<frames::Binned> {
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
    /// Pixels of a side of a frame: 128, or a divisor of it from 16 on.
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
            frame_size: 128,
            augment: false,
            held_out: Vec::new(),
            cache: None,
            binary: false,
            disorder: Disorder::Refuse,
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
    order: Order,
    splits: Splits,
}

impl Gesture {
    /// Finds the folders; reads no recording yet. Errors: [`Error::Missing`], bad settings.
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
        let fits = side >= 16 && Sensor::DVS128.width.is_multiple_of(side);
        require(fits, "gesture", "frame_size divides 128 and is at least 16", side, "128, 64 and 32 are usual")?;
        let task = Gesture { order: Order::new(settings.passes), splits: Splits::default(), settings };
        task.layout(Split::Train).or_else(|_| task.layout(Split::Test))?;
        Ok(task)
    }

    pub(crate) fn layout(&self, split: Split) -> Result<Layout> {
        if split == Split::Valid && self.settings.held_out.is_empty() {
            return Err(Error::NoSplit {
                task: "gesture".into(),
                split,
                got: "DVS128 Gesture comes as training and test set, and no user is held out".into(),
                next: "name users of the training set in held_out, or evaluate on the test split",
            });
        }
        find(&self.settings.dir, split)
    }

    /// The recordings of a split.
    fn recordings(&self, split: Split) -> Result<Vec<Recording>> {
        let held = &self.settings.held_out;
        let all = self.layout(split)?.recordings(split)?;
        if split == Split::Test || held.is_empty() {
            return Ok(all);
        }
        let known: BTreeSet<i64> = all.iter().map(|r| r.user).collect();
        require(
            held.iter().all(|u| known.contains(u)) && known.iter().any(|u| !held.contains(u)),
            "gesture",
            "held_out names some but not all users of the training recordings",
            format!("{held:?} of {known:?}"),
            "choose among these",
        )?;
        Ok(all.into_iter().filter(|r| held.contains(&r.user) == (split == Split::Valid)).collect())
    }

    /// Whether the samples of a split are changed anew in each epoch.
    fn augments(&self, split: Split) -> bool {
        self.settings.augment && split == Split::Train
    }

    fn decode(&self, recordings: &[Recording], whole: bool) -> Result<Decoded> {
        let s = &self.settings;
        let side = if whole { Sensor::DVS128.width } else { s.frame_size };
        // A file with many gestures is read once.
        let files: Vec<&[Recording]> = recordings.chunk_by(|a, b| a.path == b.path).collect();
        let parts = parallel::map(files.len(), |i| {
            let events = read(&files[i][0].path, s.disorder)?;
            let mut out = Decoded { spikes: Sparse::new(self.steps()), ..Decoded::default() };
            for recording in files[i] {
                for sample in s.framing.samples(part(&events, recording)?, Sensor::DVS128) {
                    out.spikes.push(&smaller(sample, side));
                    out.labels.push(recording.label);
                    out.people.push(recording.user);
                }
            }
            Ok(out)
        });
        let mut all = Decoded { spikes: Sparse::new(self.steps()), ..Decoded::default() };
        for part in parts {
            let part: Decoded = part?;
            all.spikes.append(&part.spikes);
            all.labels.extend(part.labels);
            all.people.extend(part.people);
        }
        all.spikes = all.spikes.finish();
        if all.people.iter().all(|u| *u < 0) {
            all.people.clear();
        }
        Ok(all)
    }

    fn decoded(&self, split: Split) -> Result<Arc<Decoded>> {
        self.splits.get(split, || {
            let s = &self.settings;
            let recordings = self.recordings(split)?;
            // Frames are cropped and turned at their full size.
            let whole = self.augments(split);
            let mut sources: Vec<_> = recordings.iter().map(|r| r.path.as_path()).collect();
            sources.dedup();
            let entry = Entry {
                task: self.name(),
                split,
                settings: format!(
                    "{:?}, frames of {}, held out {:?}, disorder {:?}",
                    s.framing,
                    if whole { 128 } else { s.frame_size },
                    s.held_out,
                    s.disorder
                ),
                sources,
                steps: self.steps(),
                n_in: if whole { Sensor::DVS128.channels() } else { self.n_in() },
                n_out: self.n_out(),
            };
            cache::through(s.cache.as_deref(), &entry, || self.decode(&recordings, whole))
        })
    }

    /// One sample changed at random: its frames `[T, 2 * size * size]`.
    fn augmented(&self, d: &Decoded, sample: usize, seed: u64, epoch: u64) -> Vec<u8> {
        let (full, side) = (Sensor::DVS128, usize::from(self.settings.frame_size));
        let plane = usize::from(full.width) * usize::from(full.height);
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
                let cell = &mut out[block(channel as u16, side as u16) as usize];
                *cell = (*cell).max(count);
            }
        }
        out
    }
}

/// The channel of a frame of `side` pixels that a channel of the sensor falls into.
fn block(channel: u16, side: u16) -> u16 {
    let width = Sensor::DVS128.width;
    let factor = width / side;
    let (x, y, p) =
        (channel % width, channel / width % width, u32::from(channel) / (u32::from(width) * u32::from(width)));
    (p as u16 * side + y / factor) * side + x / factor
}

/// Events in frames of `side` pixels: each block has the largest count of its pixels.
fn smaller(mut sample: frames::Binned, side: u16) -> frames::Binned {
    if side == Sensor::DVS128.width {
        return sample;
    }
    sample.sort_unstable();
    let mut largest: BTreeMap<(u32, u16), usize> = BTreeMap::new();
    for run in sample.chunk_by(|a, b| a == b) {
        let count = largest.entry((run[0].0, block(run[0].1, side))).or_default();
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
        CLASSES.len()
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
    fn batches(&self, split: Split, batch: usize) -> Result<Option<u64>> {
        Ok(self.samples(split)?.map(|n| self.settings.passes.batches(split, n, batch)))
    }
    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        let d = self.decoded(split)?;
        let (binary, at) = (self.settings.binary, At { split, seed, epoch, step, batch });
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
mod tests {
    use std::path::Path;

    use super::*;
    use crate::events::aer;
    use crate::testing::{Folder, shared};

    /// A real clip with its times cut to milliseconds, as tonic's files have them.
    fn clip(path: &Path) -> Vec<Event> {
        let mut events = read(path, Disorder::Refuse).unwrap();
        events.iter_mut().for_each(|e| e.t = e.t / 1000 * 1000);
        events
    }

    /// Figures of a clip: events; counts of the first six frames, and of the last two; counts of all; the largest; those of the first polarity.
    type Figures = (usize, [u32; 6], [u32; 2], usize, (u32, u32, u16, u16, u16), usize);

    fn has_figures(clip: &[Event], (events, first, last, total, max, off): Figures) {
        assert_eq!(clip.len(), events);
        let framing = GestureSettings::new("").framing;
        assert_eq!(framing.steps(), 67);
        let samples = framing.samples(clip, Sensor::DVS128);
        assert_eq!((samples.len(), samples[0].len()), (1, total));
        let rows = rows(&samples[0]);
        assert_eq!((&rows[..6], &rows[55..57], rows[57]), (&first[..], &last[..], 0));
        assert_eq!(largest(&samples[0]), max);
        assert_eq!(samples[0].iter().filter(|b| b.1 < 128 * 128).count(), off);
    }

    fn rows(binned: &frames::Binned) -> Vec<u32> {
        let mut rows = vec![0; 67];
        binned.iter().for_each(|b| rows[b.0 as usize] += 1);
        rows
    }

    /// The largest cell and where it is: count, frame, polarity, y, x.
    fn largest(binned: &frames::Binned) -> (u32, u32, u16, u16, u16) {
        let mut cells = std::collections::HashMap::new();
        binned.iter().for_each(|b| *cells.entry(*b).or_insert(0) += 1);
        let (&(frame, c), &n) = cells.iter().max_by_key(|c| c.1).unwrap();
        (n, frame, c / (128 * 128), c / 128 % 128, c % 128)
    }

    fn data() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("data/gesture_clip.bs2")
    }

    #[test]
    fn golden_numbers_of_a_clip() {
        let (first, last) = ([986, 933, 595, 379, 482, 914], [744, 1078]);
        has_figures(&clip(&data()), (63_471, first, last, 62_138, (23, 41, 1, 93, 59), 30_665));
    }

    #[test]
    #[ignore = "needs recordings that are not part of the project, in ../shared"]
    fn golden_numbers_of_real_clips() {
        let dir = shared("real-samples/dvs128-gesture-slayer");
        let clip = |i: u64| clip(&dir.join(format!("{i}.bs2")));
        let (first, last) = ([1215, 1371, 1774, 2329, 2906, 3418], [2810, 2946]);
        has_figures(&clip(5), (181_179, first, last, 178_265, (35, 4, 1, 113, 41), 86_500));
        let joined: Vec<Event> = (1..=4u64)
            .flat_map(|i| clip(i).into_iter().map(move |e| Event { t: e.t + (i - 1) * 1_450_000, ..e }))
            .collect();
        assert_eq!(slices::by_time(&joined, 1_700_000), [0..76_646, 76_646..189_529, 189_529..339_174]);
        let samples = GestureSettings::new(&dir).framing.samples(&joined, Sensor::DVS128);
        assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [74_912, 111_359, 147_508]);
        assert_eq!(samples.iter().map(|s| largest(s).0).collect::<Vec<_>>(), [23, 20, 25]);
        assert!(samples.iter().all(|s| s.last().unwrap().0 == 66));
    }

    #[test]
    fn layout_and_batches() {
        let dir = Folder::new("gesture");
        let bytes = aer::tests::encode(&[(1, 2, true, 0), (3, 4, false, 30_000), (3, 4, false, 60_000)]);
        dir.write("train/DVSGesture/ibmGestureTrain/user01_led/3.bs2", &bytes);
        dir.write("train/DVSGesture/ibmGestureTrain/user02_led/10.bs2", &bytes);
        dir.write("ibmGestureTest/user03_lab/0.bs2", &bytes);
        let task = Gesture::open(GestureSettings::new(dir.path())).unwrap();
        assert_eq!((task.n_in(), task.n_out(), task.steps()), (32_768, 11, 67));
        assert_eq!((task.samples(Split::Train).unwrap(), task.samples(Split::Test).unwrap()), (Some(2), Some(1)));
        let b = task.batch(Split::Test, 0, 0, 0, 1).unwrap();
        assert_eq!((b.targets[0], b.spikes(0)), (0, 2), "frames 0 and 1; the last event is past the last frame");
        assert_eq!((b.at(0, 0)[(128 + 2) * 128 + 1], b.at(1, 0)[4 * 128 + 3]), (1, 1));
        let bins = GestureSettings { framing: Framing::Bins(3), ..GestureSettings::new(dir.path()) };
        assert_eq!(Gesture::open(bins).unwrap().batch(Split::Train, 0, 0, 0, 2).unwrap().spikes(1), 2);
        dir.write("ibmGestureTest/user03_lab/11.bs2", &bytes);
        let task = Gesture::open(GestureSettings::new(dir.path())).unwrap();
        assert!(task.samples(Split::Test).unwrap_err().to_string().contains("0 to 10"));
        assert!(matches!(task.samples(Split::Valid), Err(Error::NoSplit { .. })));
        let none = Folder::new("gesture-none");
        assert!(matches!(Gesture::open(GestureSettings::new(none.path())), Err(Error::Missing { .. })));
    }

    #[test]
    fn users_can_be_held_out() {
        let dir = Folder::new("gesture-users");
        let bytes = aer::tests::encode(&[(1, 2, true, 0), (3, 4, false, 30_000)]);
        for user in ["user01_led", "user02_lab", "user11_led"] {
            dir.write(&format!("ibmGestureTrain/{user}/3.bs2"), &bytes);
        }
        let held = GestureSettings { held_out: vec![11], ..GestureSettings::new(dir.path()) };
        let task = Gesture::open(held).unwrap();
        assert_eq!((task.people(Split::Train).unwrap(), task.people(Split::Valid).unwrap()), (vec![1, 2], vec![11]));
        let wrong = GestureSettings { held_out: vec![7], ..GestureSettings::new(dir.path()) };
        assert!(Gesture::open(wrong).unwrap().samples(Split::Valid).unwrap_err().to_string().contains("held_out"));
    }

    #[test]
    fn original_recordings_are_cut_by_their_tables() {
        let dir = Folder::new("gesture-original");
        let event = |x: u32, t: u32| [(x << 17 | 7 << 2 | 1 << 1 | 1).to_le_bytes(), t.to_le_bytes()].concat();
        let events: Vec<Vec<u8>> = (0..100u32).map(|i| event(i, 1000 + i * 10_000)).collect();
        let mut packet = vec![0; 28];
        packet[0] = 1;
        packet[4] = 8;
        [16, 20, 24].iter().for_each(|&i| packet[i] = events.len() as u8);
        let file = [b"#!AER-DAT3.1\r\n#!END-HEADER\r\n".to_vec(), packet, events.concat()].concat();
        dir.write("user05_led.aedat", &file);
        dir.write("user05_led_labels.csv", b"class,startTime_usec,endTime_usec\n3,1000,201000\n11,500000,900000\n");
        dir.write("trials_to_train.txt", b"user05_led.aedat\n");
        dir.write("trials_to_test.txt", b"user05_led.aedat\n");
        let task = Gesture::open(GestureSettings::new(dir.path())).unwrap();
        let b = task.batch(Split::Test, 0, 0, 0, 2).unwrap();
        assert_eq!((b.real, &b.targets[..], task.people(Split::Test).unwrap()), (2, &[2, 10][..], vec![5, 5]));
        assert_eq!(b.at(0, 0)[128 * 128 + 7 * 128], 1, "the first event is of pixel (0, 7), brighter");
        dir.write("user05_led_labels.csv", b"class,startTime_usec,endTime_usec\n3,2000000,3000000\n");
        let gone = Gesture::open(GestureSettings::new(dir.path())).unwrap().samples(Split::Test).unwrap_err();
        assert!(gone.to_string().contains("no event between"), "{gone}");
    }

    #[test]
    fn smaller_frames_have_the_largest_count_of_each_block() {
        let c = |p: u16, y: u16, x: u16| (p * 128 + y) * 128 + x;
        let sample = vec![(0, c(0, 0, 0)), (0, c(0, 1, 1)), (0, c(0, 1, 1)), (0, c(1, 127, 126)), (2, c(0, 0, 0))];
        let got = smaller(sample, 64);
        assert_eq!(got, [(0, 0), (0, 0), (0, 2 * 64 * 64 - 1), (2, 0)]);
    }

    #[test]
    fn clips_are_small_or_changed_as_asked() {
        let dir = Folder::new("gesture-clips");
        let clip = std::fs::read(data()).unwrap();
        let names: Vec<String> = (0..4).map(|label| format!("{label}.bs2,{label}\n")).collect();
        (0..4).for_each(|label| drop(dir.write(&format!("{label}.bs2"), &clip)));
        dir.write("labels.csv", format!("file,label\n{}", names.concat()).as_bytes());
        let open = |frame_size, augment, cache: Option<PathBuf>| {
            let settings = GestureSettings { frame_size, augment, cache, ..GestureSettings::new(dir.path()) };
            Gesture::open(settings).unwrap()
        };
        let full = open(128, false, None);
        assert_eq!((full.samples(Split::Train).unwrap(), full.samples(Split::Test).unwrap()), (Some(4), Some(4)));
        let small = open(32, false, None).batch(Split::Test, 0, 0, 0, 4).unwrap();
        let whole = full.batch(Split::Test, 0, 0, 0, 4).unwrap();
        assert_eq!((small.targets.clone(), small.n_in), ((0..4).collect(), 2 * 32 * 32));
        for t in [0, 20, 55] {
            let most = |row: &[u8], side: usize| row[..side * side].iter().copied().max();
            assert_eq!(most(small.at(t, 3), 32), most(whole.at(t, 3), 128));
        }
        let changed = open(64, true, None);
        let (a, b) =
            (changed.batch(Split::Train, 1, 0, 0, 4).unwrap(), changed.batch(Split::Train, 1, 0, 0, 4).unwrap());
        assert_eq!(a, b);
        let later = changed.batch(Split::Train, 1, 1, 0, 4).unwrap();
        assert!((0..4).all(|r| a.spikes(r) > 1000) && later.spikes(0) > 1000);
        assert_eq!(
            changed.batch(Split::Test, 1, 0, 0, 4).unwrap(),
            open(64, false, None).batch(Split::Test, 1, 5, 0, 4).unwrap()
        );
        let folder = Folder::new("gesture-cache");
        for _ in 0..2 {
            let cached = open(32, false, Some(folder.path().to_owned())).batch(Split::Test, 0, 0, 0, 4).unwrap();
            assert_eq!(cached, small);
        }
    }
}
