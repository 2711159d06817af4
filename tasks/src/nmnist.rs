//! N-MNIST: handwritten digits seen by an event camera that moves (Orchard et al. 2015).
//!
//! 60 000 training and 10 000 test recordings of 34 x 34 pixels, 10 classes, each of three saccades of about 100 ms. The layout on
//! disk is that of the original archives, `NMNIST/Train/<digit>/<number>.bin` and `NMNIST/Test/...`; the class is the last character
//! of the folder's name. A sample is the first saccade (t < 100 ms) in a fixed number of time bins, flattened to 2312 inputs in
//! the order (p, y, x): see [`events`](crate::events).
//!
//! The files of a split are read at its first use, on all processors, and kept as lists of spikes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::{self, Entry};
use crate::error::require;
use crate::events::{Disorder, Event, Sensor, aer, frames};
use crate::order::{At, Order, Passes};
use crate::parallel;
use crate::sparse::{Decoded, Sparse, Splits, batch_of};
use crate::task::{Batch, Split, Task, TaskSettings};
use crate::{Error, Result};

/// End of the first saccade, microseconds.
pub const FIRST_SACCADE_US: u64 = 100_000;

const LAYOUT: &str = "NMNIST/Train/<digit>/<5 digits>.bin and NMNIST/Test/<digit>/<5 digits>.bin";

/// How N-MNIST is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NMnistSettings {
    /// The folder that holds `NMNIST/`, or `NMNIST/` itself.
    pub dir: PathBuf,
    /// Time bins, the number of steps of a sample.
    pub steps: usize,
    /// Only the events before [`FIRST_SACCADE_US`], as in the published experiments.
    pub first_saccade: bool,
    /// 1 for any number of spikes in a bin.
    pub binary: bool,
    /// Recordings whose time runs backwards.
    pub disorder: Disorder,
    /// Folder for the binned data, so that they are made once.
    pub cache: Option<PathBuf>,
    /// Order and last batch.
    pub passes: Passes,
}

impl NMnistSettings {
    /// First saccade in 100 bins, counts, shuffled.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        NMnistSettings {
            dir: dir.into(),
            steps: 100,
            first_saccade: true,
            binary: false,
            disorder: Disorder::Refuse,
            cache: None,
            passes: Passes::default(),
        }
    }
}

impl Default for NMnistSettings {
    fn default() -> Self {
        NMnistSettings::new("../data")
    }
}

impl TaskSettings for NMnistSettings {
    fn open(&self) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(NMnist::open(self.clone())?))
    }

    fn timing(&self) -> Result<(usize, usize)> {
        Ok((self.steps, 0))
    }

    fn folders(&mut self) -> Option<(&mut PathBuf, &mut Option<PathBuf>)> {
        Some((&mut self.dir, &mut self.cache))
    }
}

/// The task. See the [module](self).
pub struct NMnist {
    settings: NMnistSettings,
    /// The folder that has `Train` and `Test`.
    root: PathBuf,
    order: Order,
    splits: Splits,
}

impl NMnist {
    /// Finds the folders; reads no recording yet. Errors: [`Error::Missing`] if neither `Train` nor `Test` is there, bad settings.
    pub fn open(settings: NMnistSettings) -> Result<Self> {
        let s = settings.steps;
        require((1..=1 << 20).contains(&s), "nmnist", "steps is from 1 to 2^20", s, "100 is usual")?;
        let root = root(&settings.dir)?;
        Ok(NMnist { root, order: Order::new(settings.passes), splits: Splits::default(), settings })
    }

    fn decoded(&self, split: Split) -> Result<std::sync::Arc<Decoded>> {
        self.splits.get(split, || {
            let (s, files) = (&self.settings, files(&split_dir(&self.root, split)?)?);
            let entry = Entry {
                task: self.name(),
                split,
                settings: format!("first saccade {}, disorder {:?}", s.first_saccade, s.disorder),
                sources: files.iter().map(|f| f.0.as_path()).collect(),
                steps: s.steps,
                n_in: self.n_in(),
                n_out: self.n_out(),
            };
            cache::through(s.cache.as_deref(), &entry, || self.decode_all(&files))
        })
    }

    fn decode_all(&self, files: &[(PathBuf, i32)]) -> Result<Decoded> {
        let blocks: Vec<&[(PathBuf, i32)]> = files.chunks(64).collect();
        let parts = parallel::map(blocks.len(), |i| self.decode(blocks[i]));
        let mut spikes = Sparse::new(self.settings.steps);
        for part in parts {
            spikes.append(&part?);
        }
        let labels = files.iter().map(|f| f.1).collect();
        Ok(Decoded { spikes: spikes.finish(), labels, people: Vec::new() })
    }

    fn decode(&self, files: &[(PathBuf, i32)]) -> Result<Sparse> {
        let s = &self.settings;
        let mut out = Sparse::new(s.steps);
        for (path, _) in files {
            let events = read(path, s.first_saccade, s.disorder)?;
            out.push(&frames::fixed_bins(&events, Sensor::NMNIST, s.steps));
        }
        Ok(out)
    }
}

/// The events of a recording, of the first saccade only if so wished. Errors: those of [`aer::read`], and [`Error::Empty`] if nothing
/// happens in the first saccade.
pub fn read(path: &Path, first_saccade: bool, disorder: Disorder) -> Result<Vec<Event>> {
    let mut events = aer::read(path, Sensor::NMNIST, disorder)?;
    if first_saccade {
        let all = events.len();
        events.retain(|e| e.t < FIRST_SACCADE_US);
        if events.is_empty() {
            return Err(Error::Empty {
                path: path.to_owned(),
                got: format!("none of its {all} events is in the first saccade, before 100 ms"),
                next: "use all saccades, or leave the file out",
            });
        }
    }
    Ok(events)
}

fn root(dir: &Path) -> Result<PathBuf> {
    for root in [dir.join("NMNIST"), dir.to_owned()] {
        if ["Train", "Test"].iter().any(|s| root.join(s).is_dir()) {
            return Ok(root);
        }
    }
    Err(missing(&dir.join("NMNIST")))
}

fn missing(looked_for: &Path) -> Error {
    let top = looked_for.ancestors().find(|p| p.ends_with("NMNIST")).unwrap_or(looked_for);
    Error::Missing {
        what: "N-MNIST",
        looked_for: looked_for.to_owned(),
        layout: LAYOUT,
        next: format!(
            "Get Train.zip (MD5 20959b8e626244a1b502305a9e6e2031, 60000 samples) and Test.zip (MD5 \
             69ca8762b2fe404d9b9bad1103e97832, 10000 samples) from https://www.garrickorchard.com/datasets/n-mnist and \
             unpack them into {}",
            top.display()
        ),
    }
}

fn split_dir(root: &Path, split: Split) -> Result<PathBuf> {
    let dir = match split {
        Split::Train => root.join("Train"),
        Split::Test => root.join("Test"),
        Split::Valid => {
            return Err(Error::NoSplit {
                task: "nmnist".into(),
                split,
                got: "N-MNIST comes as training and test set".into(),
                next: "evaluate on the test split",
            });
        }
    };
    if dir.is_dir() { Ok(dir) } else { Err(missing(&dir)) }
}

/// The entries of a folder, sorted by name, without hidden ones.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e: std::io::Error| Error::io(dir, "list the folder", &e);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            all.push(entry.path());
        }
    }
    all.sort();
    Ok(all)
}

/// All recordings of a split folder with their classes, sorted by class and name.
pub(crate) fn files(dir: &Path) -> Result<Vec<(PathBuf, i32)>> {
    let mut files = Vec::new();
    for class in entries(dir)?.into_iter().filter(|p| p.is_dir()) {
        let name = class.to_string_lossy();
        let Some(label) = name.chars().last().and_then(|c| c.to_digit(10)) else {
            return Err(Error::Damaged {
                path: class.clone(),
                rule: "the folders of N-MNIST are called by their digit".into(),
                got: format!("the name ends in {:?}", name.chars().last().unwrap_or(' ')),
                next: "move the folder elsewhere".into(),
            });
        };
        let bins = entries(&class)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "bin"));
        files.extend(bins.map(|p| (p, label as i32)));
    }
    if files.is_empty() { Err(missing(&dir.join("<digit>").join("<5 digits>.bin"))) } else { Ok(files) }
}

impl Task for NMnist {
    fn name(&self) -> &str {
        "nmnist"
    }
    fn n_in(&self) -> usize {
        Sensor::NMNIST.channels()
    }
    fn frame(&self) -> Option<[usize; 3]> {
        Some([2, Sensor::NMNIST.height as usize, Sensor::NMNIST.width as usize])
    }
    fn n_out(&self) -> usize {
        10
    }
    fn steps(&self) -> usize {
        self.settings.steps
    }
    fn samples(&self, split: Split) -> Result<Option<u64>> {
        // Counting needs no reading of recordings.
        Ok(Some(files(&split_dir(&self.root, split)?)?.len() as u64))
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
    use crate::{NO_ID, NO_TARGET, Tail};

    /// Four training recordings of classes 3, 3, 7, 7 and one test recording, all the sample.
    fn layout() -> Folder {
        let dir = Folder::new("nmnist");
        let sample = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/sample_nmnist.bin")).unwrap();
        for file in
            ["Train/3/00001.bin", "Train/3/00002.bin", "Train/7/00003.bin", "Train/7/00004.bin", "Test/7/00001.bin"]
        {
            dir.write(&format!("NMNIST/{file}"), &sample);
        }
        dir.write("NMNIST/Train/3/.hidden", b"x");
        dir.write("NMNIST/Train/readme.txt", b"x");
        dir
    }

    #[test]
    fn batches_of_the_sample_recording() {
        let dir = layout();
        let task = NMnist::open(NMnistSettings::new(dir.path())).unwrap();
        assert_eq!((task.n_in(), task.n_out(), task.steps()), (2312, 10, 100));
        assert_eq!(task.samples(Split::Train).unwrap(), Some(4));
        let b = task.batch(Split::Test, 0, 0, 0, 3).unwrap();
        assert_eq!((b.real, b.batch), (1, 3));
        assert_eq!(b.targets, [7, NO_TARGET, NO_TARGET]);
        assert_eq!(b.ids, [0, NO_ID, NO_ID]);
        assert_eq!((b.spikes(0), b.spikes(1)), (1368, 0));
        let rows: Vec<u64> = (0..5).map(|t| b.at(t, 0).iter().map(|&c| u64::from(c)).sum()).collect();
        assert_eq!(rows, [1, 0, 2, 3, 0]);
        let off: u64 = (0..100).flat_map(|t| &b.at(t, 0)[..1156]).map(|&c| u64::from(c)).sum();
        assert_eq!((off, b.inputs.iter().max()), (685, Some(&2)));
        let train = task.batch(Split::Train, 1, 0, 0, 4).unwrap();
        let mut classes = train.targets.clone();
        classes.sort_unstable();
        assert_eq!(classes, [3, 3, 7, 7]);
        assert!(matches!(task.batch(Split::Train, 1, 0, 1, 4), Err(Error::BeyondEpoch { batches: 1, .. })));
    }

    #[test]
    fn options_change_what_they_say() {
        let dir = layout();
        let open = |f: &dyn Fn(&mut NMnistSettings)| {
            let mut s = NMnistSettings::new(dir.path().join("NMNIST"));
            f(&mut s);
            NMnist::open(s).unwrap().batch(Split::Test, 0, 0, 0, 1).unwrap()
        };
        let all = open(&|s| s.first_saccade = false);
        assert_eq!((all.spikes(0), all.inputs.iter().max()), (4324, Some(&4)));
        assert_eq!(open(&|s| s.binary = true).inputs.iter().max(), Some(&1));
        assert_eq!(open(&|s| s.steps = 20).steps, 20);
        let short = open(&|s| s.passes = Passes { eval_tail: Tail::Short, ..s.passes });
        assert_eq!((short.batch, short.real), (1, 1));
    }

    #[test]
    fn a_damaged_recording_is_named_when_its_split_is_read() {
        let dir = layout();
        dir.write("NMNIST/Train/7/00004.bin", &[1, 2, 3]);
        let task = NMnist::open(NMnistSettings::new(dir.path())).unwrap();
        let m = task.batch(Split::Train, 1, 0, 0, 2).unwrap_err().to_string();
        assert!(m.contains("7/00004.bin") && m.contains("byte 0"), "{m}");
        assert!(task.batch(Split::Test, 1, 0, 0, 1).is_ok());
    }

    #[test]
    fn missing_data_says_what_belongs_where() {
        let dir = Folder::new("nmnist-none");
        let m = NMnist::open(NMnistSettings::new(dir.path())).err().unwrap().to_string();
        assert!(
            ["looked for", "NMNIST/Train/<digit>/<5 digits>.bin", "Train.zip", "unpack"].iter().all(|w| m.contains(w)),
            "{m}"
        );
        dir.write("NMNIST/Train/3/readme", b"");
        let task = NMnist::open(NMnistSettings::new(dir.path())).unwrap();
        assert!(matches!(task.samples(Split::Train), Err(Error::Missing { .. })));
        assert!(matches!(task.samples(Split::Test), Err(Error::Missing { .. })));
        assert!(matches!(task.samples(Split::Valid), Err(Error::NoSplit { .. })));
        dir.write("NMNIST/Train/other/00001.bin", b"");
        assert!(task.samples(Split::Train).unwrap_err().to_string().contains("called by their digit"));
    }

    #[test]
    fn a_cache_gives_the_same_batches() {
        let (dir, cache) = (layout(), Folder::new("nmnist-cache"));
        let s = NMnistSettings { cache: Some(cache.path().to_owned()), ..NMnistSettings::new(dir.path()) };
        let batch = |s: &NMnistSettings| NMnist::open(s.clone()).unwrap().batch(Split::Train, 1, 0, 0, 4).unwrap();
        let want = batch(&NMnistSettings::new(dir.path()));
        assert_eq!((batch(&s), batch(&s)), (want.clone(), want.clone()));
        assert_eq!(entries(cache.path()).unwrap().len(), 1);
        // Another folder of one of the files is another class: the cache must not be taken for it.
        std::fs::rename(dir.path().join("NMNIST/Train/3"), dir.path().join("NMNIST/Train/4")).unwrap();
        assert_ne!(batch(&s).targets, want.targets);
        let all = NMnistSettings { first_saccade: false, ..s };
        assert_ne!(batch(&all).spikes(0), want.spikes(0));
        assert_eq!(toml::from_str::<NMnistSettings>(&toml::to_string(&all).unwrap()).unwrap(), all);
    }

    #[test]
    #[ignore = "needs recordings that are not part of the project, in ../shared"]
    fn real_recordings() {
        let dir = shared("real-samples/nmnist-slayer-subset");
        let events = read(&dir.join("NMNIST/Train/5/00001.bin"), false, Disorder::Refuse).unwrap();
        assert_eq!(events.len(), 4681);
        let events = read(&dir.join("NMNIST/Train/5/00001.bin"), true, Disorder::Refuse).unwrap();
        assert_eq!(events.len(), 1891);
        assert_eq!((frames::window_of(&events, 100), frames::window_of(&events, 200)), (990, 495));
        let binned = frames::fixed_bins(&events, Sensor::NMNIST, 100);
        let rows: Vec<usize> = (0..5).map(|r| binned.iter().filter(|b| b.0 == r).count()).collect();
        assert_eq!((binned.len(), rows), (1890, vec![2, 3, 2, 2, 3]));

        let task = NMnist::open(NMnistSettings::new(&dir)).unwrap();
        assert_eq!(
            (task.samples(Split::Train).unwrap(), task.batches(Split::Train, 128).unwrap()),
            (Some(600), Some(4))
        );
        assert_eq!(task.batches(Split::Test, 64).unwrap(), Some(2));
        let mut seen: Vec<u64> = (0..4).flat_map(|s| task.batch(Split::Train, 3, 1, s, 150).unwrap().ids).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..600).collect::<Vec<_>>(), "an epoch has every sample once");
    }
}
