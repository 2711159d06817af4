//! N-MNIST: handwritten digits seen by an event camera that moves (Orchard et al. 2015).
//!
//! 60 000 training and 10 000 test recordings of 34 x 34 pixels, 10 classes, each of three saccades of about 100 ms. The layout on disk is
//! that of the original archives, `NMNIST/Train/<digit>/<number>.bin` and `NMNIST/Test/...`, in any letter case; a class folder is called
//! by its digit, alone or after other characters (`3`, `digit_3`); recordings of any other format are read, too.
//! What else lies there is left out and said. A sample is the first saccade (t < 100 ms) in a fixed number of time bins, flattened to 2312
//! inputs in the order (p, y, x): see [`events`].
//!
//! The files of a split are read at its first use, on all processors, and kept as lists of spikes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::{self, Entry};
use crate::error::require;
use crate::events::{self, Disorder, Event, Reading, Recording, Sensor, TimeUnit, format, frames};
use crate::gesture::Classes;
use crate::order::{Order, Passes};
use crate::remarks::{Listing, Remarks};
use crate::sparse::{self, Decoded, Sparse, Splits, batch_of};
use crate::task::{At, Batch, Split, Task, TaskSettings};
use crate::{Error, Result, files, parallel};

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
    /// Only the events of the first 100 ms, the first saccade, as in the published experiments.
    pub first_saccade: bool,
    /// 1 for any number of spikes in a bin.
    pub binary: bool,
    /// Recordings whose time runs backwards.
    pub disorder: Disorder,
    /// The unit of times, where it is not the microsecond.
    pub time_unit: Option<TimeUnit>,
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
            time_unit: None,
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
            let s = &self.settings;
            let (files, remarks) = recordings(&split_dir(&self.root, split)?)?.sound()?;
            sparse::check_size("nmnist", files.len(), s.steps)?;
            let labels: String = files.iter().map(|f| format!("{} ", f.1)).collect();
            let entry = Entry {
                task: self.name(),
                split,
                settings: format!(
                    "first saccade {}, disorder {:?}, times in {:?}, labels {:016x}",
                    s.first_saccade,
                    s.disorder,
                    s.time_unit,
                    cache::hash(labels.as_bytes())
                ),
                sources: files.iter().map(|f| f.0.as_path()).collect(),
                steps: s.steps,
                n_in: self.n_in(),
                n_out: self.n_out(),
            };
            let mut decoded = cache::through(s.cache.as_deref(), &entry, || self.decode_all(&files))?;
            decoded.remarks.splice(0..0, remarks.lines());
            Ok(decoded)
        })
    }

    fn decode_all(&self, files: &[(PathBuf, i32)]) -> Result<Decoded> {
        let blocks: Vec<&[(PathBuf, i32)]> = files.chunks(64).collect();
        let parts = parallel::map(blocks.len(), |i| self.decode(blocks[i]));
        let (mut spikes, mut remarks) = (Sparse::new(self.settings.steps), Remarks::default());
        for part in parts {
            let (part, more) = part?;
            spikes.append(&part);
            remarks.extend(more);
        }
        let labels = files.iter().map(|f| f.1).collect();
        let all = Decoded { spikes: spikes.finish(), labels, remarks: remarks.lines(), ..Decoded::default() };
        Ok(all.judged())
    }

    fn decode(&self, files: &[(PathBuf, i32)]) -> Result<(Sparse, Remarks)> {
        let s = &self.settings;
        let (mut out, mut remarks) = (Sparse::new(s.steps), Remarks::default());
        let reading = Reading::NMNIST.accepting(s.disorder, s.time_unit);
        for (path, _) in files {
            let recording = read(path, s.first_saccade, &reading)?;
            out.push(&frames::fixed_bins(&recording.events, Sensor::NMNIST, s.steps));
            recording.remarks.into_iter().for_each(|r| remarks.add(path, r));
        }
        Ok((out, remarks))
    }
}

/// A recording, of the first saccade only if so wished. Errors: those of [`events::read`], and [`Error::Empty`] if nothing happens in the
/// first saccade.
pub fn read(path: &Path, first_saccade: bool, reading: &Reading) -> Result<Recording> {
    let mut recording = events::read(path, reading)?;
    if first_saccade {
        recording.events = first(path, recording.events)?;
    }
    Ok(recording)
}

/// The events of the first saccade. Errors: [`Error::Empty`].
pub(crate) fn first(path: &Path, mut events: Vec<Event>) -> Result<Vec<Event>> {
    let (all, begin) = (events.len(), events.first().map_or(0, |e| e.t));
    events.retain(|e| e.t < FIRST_SACCADE_US);
    if events.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
            got: format!("none of its {all} events is in the first saccade, before 100 ms; the first is at {begin} us"),
            next: "let times count from the start of the recording, use all saccades, or leave the file out",
        });
    }
    Ok(events)
}

/// The folder that has `Train` and `Test`, in any letter case. Other sets have folders of these names too, so that there must be a folder
/// of a class in one of them, unless their folder is called N-MNIST.
pub(crate) fn root(dir: &Path) -> Result<PathBuf> {
    let splits =
        |root: &Path| ["Train", "Test"].into_iter().filter_map(|s| files::folder(root, &[s])).collect::<Vec<_>>();
    let named = ["NMNIST", "N-MNIST"].into_iter().filter_map(|name| files::folder(dir, &[name]));
    let mut known: Vec<PathBuf> = named.filter(|root| !splits(root).is_empty()).collect();
    if splits(dir).iter().any(|split| classes(split) > 0) {
        known.push(dir.to_owned());
    }
    known.into_iter().next().ok_or_else(|| missing(dir, dir.join("NMNIST")))
}

/// Whether a root is that of N-MNIST, and not of some other set with ten classes: its name, a file, or the size of the sensor says so.
pub(crate) fn is_surely(root: &Path) -> bool {
    let named = ["nmnist", "n-mnist"].contains(&files::name(root).to_lowercase().as_str());
    let holds = |split: &str| {
        let classes = files::folder(root, &[split]).and_then(|dir| files::entries(&dir).ok()).unwrap_or_default();
        let mut inside = classes.iter().filter_map(|class| files::entries(class).ok()).flatten();
        inside.any(|path| files::has_extension(&path, &["bin"]))
    };
    let sensor = || Classes::find(root, Split::Train).ok().flatten().and_then(|classes| classes.sensor(None).ok());
    named || holds("Train") || holds("Test") || sensor() == Some(Sensor::NMNIST)
}

/// How many folders of classes there are in a folder.
fn classes(dir: &Path) -> usize {
    files::entries(dir).unwrap_or_default().iter().filter(|p| p.is_dir() && class_of(p).is_some()).count()
}

fn missing(dir: &Path, looked_for: PathBuf) -> Error {
    let next = if classes(dir) > 1 && ["train", "test"].contains(&files::name(dir).to_lowercase().as_str()) {
        format!("{} seems to be one split: name the folder that holds both", dir.display())
    } else {
        format!(
            "Get Train.zip (MD5 20959b8e626244a1b502305a9e6e2031, 60000 samples) and Test.zip (MD5 \
             69ca8762b2fe404d9b9bad1103e97832, 10000 samples) from https://www.garrickorchard.com/datasets/n-mnist and \
             unpack them into {}",
            looked_for.ancestors().find(|p| p.ends_with("NMNIST")).unwrap_or(dir).display()
        )
    };
    files::missing("N-MNIST", looked_for, dir, LAYOUT, next)
}

/// The folder of a split below a root.
pub(crate) fn split_dir(root: &Path, split: Split) -> Result<PathBuf> {
    let name = match split {
        Split::Train => "Train",
        Split::Test => "Test",
        Split::Valid => {
            return Err(Error::NoSplit {
                task: "nmnist".into(),
                split,
                got: "N-MNIST comes as training and test set".into(),
                next: "evaluate on the test split",
            });
        }
    };
    files::folder(root, &[name]).ok_or_else(|| missing(root, root.join(name)))
}

/// The class of a folder: its digit, alone or at the end of a name. `12` is no class.
fn class_of(folder: &Path) -> Option<i32> {
    let name = files::name(folder);
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let number: i32 = name[name.len() - digits..].parse().ok()?;
    (number < 10 && (digits == 1 || digits == name.len())).then_some(number)
}

/// All recordings of a split folder with their classes, sorted by class folder and name; what else is there is remarked. Errors:
/// [`Error::Io`]; [`Error::Missing`] if there is no recording.
pub(crate) fn recordings(dir: &Path) -> Result<Listing<(PathBuf, i32)>> {
    let mut out = Listing::default();
    let mut stray = |path: &Path, remark: &str| out.remarks.add(path, remark);
    let other = "it is in another letter case than the folder that is read, and is left out";
    files::namesakes(dir).iter().for_each(|twin| stray(twin, other));
    for class in files::entries(dir)? {
        let Some(label) = class_of(&class).filter(|_| class.is_dir()) else {
            stray(&class, "it is no folder of a class (a name that ends in one digit), and is left out");
            continue;
        };
        let Ok(inside) = files::entries(&class).map_err(|e| out.problems.push(e)) else { continue };
        for path in inside {
            if format::is_recording(&path) && !path.is_dir() {
                out.found.push((path, label));
            } else {
                stray(&path, "it is no recording, and is left out");
            }
        }
    }
    if let Some(ten) = files::child(dir, "10").filter(|_| out.found.iter().all(|f| f.1 != 0)) {
        let next = "are classes counted from 1? Rename the folders, 10 to 0 or all one less, as the data mean it";
        out.problems.push(Error::unusable(
            &ten,
            "the folders of N-MNIST are called by their digit, 0 to 9",
            "10, and no 0",
            next,
        ));
    }
    if out.found.is_empty() && out.problems.is_empty() {
        return Err(missing(dir, dir.join("<digit>").join("<5 digits>.bin")));
    }
    Ok(out)
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
        Ok(Some(recordings(&split_dir(&self.root, split)?)?.sound()?.0.len() as u64))
    }
    fn remarks(&self, split: Split) -> Result<Vec<String>> {
        Ok(self.decoded(split)?.remarks.clone())
    }
    fn repeated(&self, split: Split) -> Result<u64> {
        Ok(sparse::repeated(&self.decoded(split)?.prints(), &self.decoded(Split::Train)?.prints()))
    }
    fn batches(&self, split: Split, batch: usize) -> Result<Option<u64>> {
        Ok(self.samples(split)?.map(|n| self.settings.passes.batches(split, n, batch)))
    }
    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> Result<Batch> {
        self.part(At::whole(split, seed, epoch, step, batch))
    }

    fn part(&self, at: At) -> Result<Batch> {
        let d = self.decoded(at.split)?;
        batch_of(self, &self.order, &d, self.settings.binary, at)
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
    fn folders_are_found_in_any_letter_case_and_strays_are_remarked() {
        let dir = Folder::new("nmnist-case");
        let sample = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/sample_nmnist.bin")).unwrap();
        for file in
            ["train/Class_3/00001.BIN", "train/7/a b.bin", "test/07/1.bin", "train/12/1.bin", "train/other/1.bin"]
        {
            dir.write(&format!("nmnist/{file}"), &sample);
        }
        dir.write("nmnist/train/7/notes.txt", b"");
        let task = NMnist::open(NMnistSettings::new(dir.path())).unwrap();
        assert_eq!((task.samples(Split::Train).unwrap(), task.samples(Split::Test).unwrap()), (Some(2), Some(1)));
        let mut targets = task.batch(Split::Train, 0, 0, 0, 2).unwrap().targets;
        targets.sort_unstable();
        assert_eq!((targets, task.batch(Split::Test, 0, 0, 0, 1).unwrap().targets), (vec![3, 7], vec![7]));
        let remarks = task.remarks(Split::Train).unwrap();
        assert!(remarks.iter().any(|r| r.contains("train/12 and 1 more") && r.contains("left out")), "{remarks:?}");
        assert!(remarks.iter().any(|r| r.contains("notes.txt")), "{remarks:?}");
        assert_eq!(task.repeated(Split::Test).unwrap(), 1, "all recordings are the same");
        dir.write("nmnist/train/10/1.bin", &sample);
        let task = NMnist::open(NMnistSettings::new(dir.path().join("nmnist"))).unwrap();
        assert!(task.samples(Split::Train).unwrap_err().to_string().contains("counted from 1"));
        let m = NMnist::open(NMnistSettings::new(dir.path().join("nmnist/train"))).err().unwrap().to_string();
        assert!(m.contains("one split: name the folder that holds both"), "{m}");
        let steps = NMnistSettings { steps: 1 << 20, ..NMnistSettings::new(dir.path()) };
        let m = NMnist::open(steps).unwrap().batch(Split::Test, 0, 0, 0, 1 << 20).unwrap_err().to_string();
        assert!(m.contains("fit in memory"), "{m}");
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
        let m = task.samples(Split::Train).unwrap_err().to_string();
        assert!(m.contains("holds 3/ (with readme), other/ (with 00001.bin)"), "{m}");
    }

    #[test]
    fn a_cache_gives_the_same_batches() {
        let (dir, cache) = (layout(), Folder::new("nmnist-cache"));
        let s = NMnistSettings { cache: Some(cache.path().to_owned()), ..NMnistSettings::new(dir.path()) };
        let batch = |s: &NMnistSettings| NMnist::open(s.clone()).unwrap().batch(Split::Train, 1, 0, 0, 4).unwrap();
        let want = batch(&NMnistSettings::new(dir.path()));
        assert_eq!((batch(&s), batch(&s)), (want.clone(), want.clone()));
        assert_eq!(files::entries(cache.path()).unwrap().len(), 1);
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
        let events = read(&dir.join("NMNIST/Train/5/00001.bin"), false, &Reading::NMNIST).unwrap().events;
        assert_eq!(events.len(), 4681);
        let events = read(&dir.join("NMNIST/Train/5/00001.bin"), true, &Reading::NMNIST).unwrap().events;
        assert_eq!(events.len(), 1891);
        assert_eq!((frames::window_of(&events, 100), frames::window_of(&events, 200)), (990, 495));
        let binned = frames::fixed_bins::<u16>(&events, Sensor::NMNIST, 100);
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
