//! DVS128 Gesture: eleven gestures of hand and arm before an event camera (Amir et al. 2017).
//!
//! 128 x 128 pixels, two polarities: 32 768 inputs in the order (p, y, x). The layout is tonic's, one file a gesture:
//! `[train/][DVSGesture/]ibmGestureTrain/<user>_<lighting>/<class>.npy` and `[test/][DVSGesture/]ibmGestureTest/...`; `.bs2` files
//! (40-bit events, microseconds) may stand in for `.npy`. The class is the stem of the name, 0 to 10.
//!
//! Two ways to make samples. [`Framing::Slices`]: each recording is cut into slices of 1.7 s, each slice is a sample in frames of
//! 25 ms; a full slice has 67 frames, a short one is filled up with silence at its end. [`Framing::Bins`]: the whole recording
//! is one sample in a fixed number of bins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::require;
use crate::events::{Disorder, Event, Sensor, aer, frames, npy, slices};
use crate::nmnist::entries;
use crate::order::{At, Order, Passes};
use crate::parallel;
use crate::sparse::{Decoded, Sparse, Splits, batch_of};
use crate::task::{Batch, Split, Task};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug)]
pub struct GestureSettings {
    /// The folder of the layout above.
    pub dir: PathBuf,
    /// How recordings become samples.
    pub framing: Framing,
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
            binary: false,
            disorder: Disorder::Refuse,
            passes: Passes::default(),
        }
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
        let task = Gesture { order: Order::new(settings.passes), splits: Splits::default(), settings };
        task.folder(Split::Train).or_else(|_| task.folder(Split::Test))?;
        Ok(task)
    }

    pub(crate) fn folder(&self, split: Split) -> Result<PathBuf> {
        let name = match split {
            Split::Train => "ibmGestureTrain",
            Split::Test => "ibmGestureTest",
            Split::Valid => {
                return Err(Error::NoSplit {
                    task: "gesture".into(),
                    split,
                    got: "DVS128 Gesture comes as training and test set".into(),
                    next: "evaluate on the test split",
                });
            }
        };
        let dir = &self.settings.dir;
        let places =
            [dir.join(split.name()).join("DVSGesture"), dir.join("DVSGesture"), dir.join(split.name()), dir.clone()];
        places.iter().map(|p| p.join(name)).find(|p| p.is_dir()).ok_or_else(|| Error::Missing {
            what: "DVS128 Gesture",
            looked_for: places[0].join(name),
            layout: "train/DVSGesture/ibmGestureTrain/<user>_<lighting>/<class>.npy and test/DVSGesture/ibmGestureTest/...",
            next: format!("Get ibmGestureTrain.tar.gz and ibmGestureTest.tar.gz, as tonic does, and unpack them into {}", places[0].display()),
        })
    }

    fn decode(&self, split: Split) -> Result<Decoded> {
        let s = &self.settings;
        let files = files(&self.folder(split)?)?;
        let parts = parallel::map(files.len(), |i| {
            let events = read(&files[i].0, s.disorder)?;
            let mut part = Sparse::new(self.steps());
            s.framing.samples(&events, Sensor::DVS128).iter().for_each(|sample| part.push(sample));
            Ok(part)
        });
        let (mut spikes, mut labels) = (Sparse::new(self.steps()), Vec::new());
        for (part, (_, label)) in parts.into_iter().zip(&files) {
            let part: Sparse = part?;
            labels.extend(std::iter::repeat_n(*label, part.samples()));
            spikes.append(&part);
        }
        Ok(Decoded { spikes: spikes.finish(), labels, people: Vec::new() })
    }

    fn decoded(&self, split: Split) -> Result<Arc<Decoded>> {
        self.splits.get(split, || self.decode(split))
    }
}

/// The events of a recording, `.npy` or `.bs2`. Errors: those of the readers.
pub fn read(path: &Path, disorder: Disorder) -> Result<Vec<Event>> {
    if path.extension().is_some_and(|e| e == "bs2") {
        aer::read(path, Sensor::DVS128, disorder)
    } else {
        npy::read(path, Sensor::DVS128, disorder)
    }
}

/// All recordings of a split folder with their classes, in order of name.
pub(crate) fn files(folder: &Path) -> Result<Vec<(PathBuf, i32)>> {
    let mut all = Vec::new();
    for user in entries(folder)?.into_iter().filter(|p| p.is_dir()) {
        for path in entries(&user)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "npy" || e == "bs2")) {
            let class = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
            match class.filter(|c| (0..CLASSES.len() as i32).contains(c)) {
                Some(class) => all.push((path, class)),
                None => {
                    let got = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    return Err(Error::damaged(&path, "a recording is called by its class, 0 to 10", got));
                }
            }
        }
    }
    if all.is_empty() {
        return Err(Error::Missing {
            what: "DVS128 Gesture",
            looked_for: folder.join("<user>_<lighting>").join("<class>.npy"),
            layout: "<user>_<lighting>/<class>.npy in each of the two folders",
            next: "Unpack the archive again".into(),
        });
    }
    Ok(all)
}

impl Task for Gesture {
    fn name(&self) -> &str {
        "gesture"
    }
    fn n_in(&self) -> usize {
        Sensor::DVS128.channels()
    }
    fn n_out(&self) -> usize {
        CLASSES.len()
    }
    fn steps(&self) -> usize {
        self.settings.framing.steps()
    }
    fn samples(&self, split: Split) -> Result<Option<u64>> {
        Ok(Some(self.decoded(split)?.labels.len() as u64))
    }
    fn batches(&self, split: Split, batch: usize) -> Result<Option<u64>> {
        Ok(self.samples(split)?.map(|n| self.settings.passes.batches(split, n, batch)))
    }
    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        let d = self.decoded(split)?;
        batch_of(self, &self.order, &d, self.settings.binary, At { split, seed, epoch, step, batch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Folder, shared};

    /// A real clip with its times cut to milliseconds, as tonic's files have them.
    fn clip(dir: &Path, i: usize) -> Vec<Event> {
        let mut events = read(&dir.join(format!("{i}.bs2")), Disorder::Refuse).unwrap();
        events.iter_mut().for_each(|e| e.t = e.t / 1000 * 1000);
        events
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

    #[test]
    fn golden_numbers_of_real_clips() {
        let Some(dir) = shared("real-samples/dvs128-gesture-slayer") else {
            return;
        };
        let framing = GestureSettings::new(&dir).framing;
        assert_eq!(framing.steps(), 67);
        let wants = [
            (1, 63_471, [986, 933, 595, 379, 482, 914], [744, 1078], 62_138, (23, 41, 1, 93, 59), 30_665),
            (5, 181_179, [1215, 1371, 1774, 2329, 2906, 3418], [2810, 2946], 178_265, (35, 4, 1, 113, 41), 86_500),
        ];
        for (i, events, first, last, total, max, off) in wants {
            let clip = clip(&dir, i);
            assert_eq!(clip.len(), events);
            let samples = framing.samples(&clip, Sensor::DVS128);
            assert_eq!((samples.len(), samples[0].len()), (1, total));
            let rows = rows(&samples[0]);
            assert_eq!((&rows[..6], &rows[55..57], rows[57]), (&first[..], &last[..], 0));
            assert_eq!(largest(&samples[0]), max);
            assert_eq!(samples[0].iter().filter(|b| b.1 < 128 * 128).count(), off);
        }
        let joined: Vec<Event> = (1..=4u64)
            .flat_map(|i| clip(&dir, i as usize).into_iter().map(move |e| Event { t: e.t + (i - 1) * 1_450_000, ..e }))
            .collect();
        assert_eq!(slices::by_time(&joined, 1_700_000), [0..76_646, 76_646..189_529, 189_529..339_174]);
        let samples = framing.samples(&joined, Sensor::DVS128);
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
}
