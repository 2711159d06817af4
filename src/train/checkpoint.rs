//! Checkpoints: everything training changes, in one safetensors file that appears by one rename.
//!
//! Tensors: each parameter under its name, optimiser state as `slots.K`, the counter as `count`. The header's metadata hold
//! one entry, `checkpoint`: the SHA-256 of everything else, a space, and the position in the data as JSON. A flipped bit or a
//! missing end is noticed when the file is read.
//!
//! A run keeps the newest checkpoint, the one before it, and the best one, so that damage to one loses little.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use hlo::{DType, Shape, array::Array};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tasks::Position;

use super::{
    optimizer::Rule,
    program::{self, TrainState},
    session::{Session, SessionError},
    trainer::Ending,
};
use crate::cell::{Model, ParamSpec};

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Name {
    /// The newest.
    #[default]
    Last,
    /// The one before the newest.
    Previous,
    /// The one with the best evaluation.
    Best,
}

impl Name {
    /// All of them.
    pub const ALL: [Name; 3] = [Name::Last, Name::Previous, Name::Best];

    /// `last`, `previous` or `best`.
    pub const fn name(self) -> &'static str {
        match self {
            Name::Last => "last",
            Name::Previous => "previous",
            Name::Best => "best",
        }
    }

    /// Its file in the folder of a run.
    pub fn file(self, run: &Path) -> PathBuf {
        run.join(self.name()).with_extension("safetensors")
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        let known = Name::ALL.into_iter().find(|n| n.name() == text);
        known.ok_or_else(|| format!("a checkpoint is last, previous or best, got `{text}`"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("cannot write checkpoint {path}: {source}; check the path, its permissions and the free space")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is missing or damaged.
    #[error("checkpoint {path} cannot be used: {why}; {instead}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// Which checkpoints of the run can be used.
        instead: String,
    },
    /// The file is of another model.
    #[error("checkpoint {path} does not fit: {why}; resume with the configuration of the run that wrote it")]
    Mismatch {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Saving these values would leave nothing to resume from.
    #[error(
        "parameters must be finite to be saved, but `{param}` is not after update {step}; {path} is left as it was; \
         start again with a lower --lr or a smaller input scale (--ff_scale)"
    )]
    NotFinite {
        /// Which file would have been written.
        path: PathBuf,
        /// The first parameter with such a value.
        param: String,
        /// Updates so far.
        step: u64,
    },
    /// The device failed.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Updates so far.
    pub step: u64,
    /// Position of the next batch.
    pub epoch: u64,
    /// Position of the next batch in its epoch.
    pub epoch_step: u64,
    /// Smoothed score (factor 0.8), if the run keeps one.
    pub smoothed: Option<f64>,
    /// Best value so far of what selects the `best` checkpoint.
    pub best: Option<f64>,
    /// Passes completed when it was reached.
    #[serde(default)]
    pub best_epoch: u64,
    /// Sum of the training scores of the batches of this epoch.
    #[serde(default)]
    pub epoch_accuracy: f64,
    /// Why training ended, if it did.
    #[serde(default)]
    pub ending: Option<Ending>,
}

impl Progress {
    /// Counts the update on the batch at `position`, which ends its epoch or does not.
    pub fn advance(&mut self, position: Position, end: bool, score: f64) {
        self.step += 1;
        (self.epoch, self.epoch_step) = if end { (position.epoch + 1, 0) } else { (position.epoch, position.step + 1) };
        self.smoothed = Some(self.smoothed.map_or(score, |q| 0.8 * q + 0.2 * score));
        self.epoch_accuracy += score;
    }
}

/// Writes bytes so that the file is either the old one or the new one, never half of it.
///
/// # Errors
/// When the file system refuses.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let partial = partial(path);
    let write = || {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&partial);
    })
}

/// The name under which a file is written before it takes over its own.
fn partial(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".tmp");
    PathBuf::from(partial)
}

/// Writes a checkpoint. A `last` that is replaced stays as `previous`.
///
/// # Errors
/// When a parameter is not finite, or the device or the file system fails; the old file is left then.
pub fn save(
    run: &Path,
    name: Name,
    model: &Model,
    state: &TrainState,
    progress: &Progress,
) -> Result<(), CheckpointError> {
    let path = name.file(run);
    let names = model.params.iter().map(|p| p.name.clone());
    let slots = (0..state.slots.len()).map(|k| format!("slots.{k}"));
    let buffers = state.params.iter().chain(&state.slots).chain([&state.count]);
    let mut arrays = Vec::new();
    for (name, buffer) in names.chain(slots).chain(["count".to_string()]).zip(buffers) {
        arrays.push((name, buffer.to_array().map_err(SessionError::from)?));
    }
    if let Some((param, _)) = arrays[..model.params.len()].iter().find(|(_, a)| !is_finite(a)) {
        return Err(CheckpointError::NotFinite { path, param: param.clone(), step: progress.step });
    }
    let io = |source| CheckpointError::Io { path: path.clone(), source };
    let bytes = encode(&arrays, progress).map_err(io)?;
    if name == Name::Last {
        keep_previous(run).map_err(io)?;
    }
    write_atomic(&path, &bytes).map_err(io)
}

/// Whether no value is infinite or no number.
fn is_finite(array: &Array) -> bool {
    let (values, _) = array.bytes().as_chunks::<4>();
    array.shape().dtype != DType::F32 || values.iter().all(|v| f32::from_le_bytes(*v).is_finite())
}

fn encode(arrays: &[(String, Array)], progress: &Progress) -> std::io::Result<Vec<u8>> {
    let mut views = Vec::new();
    for (name, array) in arrays {
        let dtype = if array.shape().dtype == DType::S32 { Dtype::I32 } else { Dtype::F32 };
        let view = TensorView::new(dtype, array.shape().dims.clone(), array.bytes());
        views.push((name.as_str(), view.map_err(std::io::Error::other)?));
    }
    let position = serde_json::to_string(progress)?;
    // One entry: the order of several would change from file to file.
    let meta = HashMap::from([(META.to_string(), format!("{} {position}", checksum(&position, &views)))]);
    safetensors::serialize(views, Some(meta)).map_err(std::io::Error::other)
}

/// The entry of the header's metadata.
const META: &str = "checkpoint";

/// SHA-256 of position, names, types, shapes and values, as hexadecimal digits.
fn checksum(position: &str, views: &[(&str, TensorView<'_>)]) -> String {
    let mut views: Vec<_> = views.iter().collect();
    views.sort_by_key(|(name, _)| *name);
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        // Lengths keep the border between parts from moving.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(position.as_bytes());
    for (name, view) in views {
        add(name.as_bytes());
        add(format!("{:?} {:?}", view.dtype(), view.shape()).as_bytes());
        add(view.data());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives the newest checkpoint a second name before the first is taken over.
fn keep_previous(run: &Path) -> std::io::Result<()> {
    let (last, previous) = (Name::Last.file(run), Name::Previous.file(run));
    if !last.exists() {
        return Ok(());
    }
    let partial = partial(&previous);
    let _ = std::fs::remove_file(&partial);
    // Not every file system knows a second name.
    std::fs::hard_link(&last, &partial).or_else(|_| std::fs::copy(&last, &partial).map(drop))?;
    std::fs::rename(&partial, &previous)
}

/// What a checkpoint file holds, checked.
struct Contents<'a> {
    progress: Progress,
    tensors: SafeTensors<'a>,
}

impl Contents<'_> {
    /// An array of the file at `path`.
    fn array(&self, name: &str, want: &Shape, path: &Path) -> Result<Array, CheckpointError> {
        let wrong = |why: String| CheckpointError::Mismatch { path: path.to_path_buf(), why };
        let view = self.tensors.tensor(name).map_err(|_| wrong(format!("it holds no `{name}`")))?;
        let dtype = if view.dtype() == Dtype::I32 { DType::S32 } else { DType::F32 };
        let got = Shape::new(dtype, view.shape());
        if *want != got {
            return Err(wrong(format!("`{name}` is {got}, but this model needs {want}")));
        }
        Array::from_bytes(got, view.data().to_vec()).map_err(|e| wrong(e.to_string()))
    }

    /// The parameters of a model.
    fn parameters(&self, model: &Model, path: &Path) -> Result<Vec<Array>, CheckpointError> {
        let read = |(k, p): (usize, &ParamSpec)| {
            let array = self.array(&p.name, &p.shape, path)?;
            // Bounds that a learner has found hold for these values alone.
            let range = model.range(k);
            match array.to_f64_vec().into_iter().find(|v| !model.changes(k) && !range.has(*v)) {
                Some(v) => Err(CheckpointError::Mismatch {
                    path: path.to_path_buf(),
                    why: format!(
                        "the fixed `{}` lies between {} and {} in this model, but the file has {v}",
                        p.name, range.low, range.high
                    ),
                }),
                None => Ok(array),
            }
        };
        model.params.iter().enumerate().map(read).collect()
    }
}

/// The contents of a file, or what is wrong with it.
fn decode(bytes: &[u8]) -> Result<Contents<'_>, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| format!("it is cut short or damaged ({e})"))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| format!("its header is damaged ({e})"))?;
    let entry = header.metadata().as_ref().and_then(|m| m.get(META));
    let Some((expected, position)) = entry.and_then(|entry| entry.split_once(' ')) else {
        return Err("it has no checksum and training position, so it is no checkpoint of this program".into());
    };
    let views = tensors.tensors();
    let views: Vec<(&str, TensorView<'_>)> = views.iter().map(|(name, view)| (name.as_str(), view.clone())).collect();
    if checksum(position, &views) != expected {
        return Err("it is damaged: its contents do not have the checksum that was written with them".into());
    }
    let progress = serde_json::from_str(position).map_err(|e| format!("its training position is damaged ({e})"))?;
    Ok(Contents { progress, tensors })
}

/// What is wrong with a checkpoint, and which others of its run can be used.
fn unusable(run: &Path, name: Name, why: String) -> CheckpointError {
    let whole = |other: &Name| {
        let bytes = std::fs::read(other.file(run)).ok()?;
        Some(format!("--from {other} (update {})", decode(&bytes).ok()?.progress.step))
    };
    let others: Vec<String> = Name::ALL.iter().filter(|n| **n != name).filter_map(whole).collect();
    let instead = match others.as_slice() {
        [] => "no other checkpoint of this run is whole, so start it again in another folder".into(),
        others => format!("--resume {} goes on from an older one with {}", run.display(), others.join(" or ")),
    };
    CheckpointError::Damaged { path: name.file(run), why, instead }
}

fn read(run: &Path, name: Name) -> Result<Vec<u8>, CheckpointError> {
    std::fs::read(name.file(run)).map_err(|e| unusable(run, name, e.to_string()))
}

/// Makes an older checkpoint the newest, from which the run goes on.
///
/// # Errors
/// When the file system refuses.
pub fn make_last(run: &Path, name: Name) -> Result<(), CheckpointError> {
    if name == Name::Last {
        return Ok(());
    }
    let path = Name::Last.file(run);
    write_atomic(&path, &read(run, name)?).map_err(|source| CheckpointError::Io { path, source })
}

/// Where a run stands, without a device.
///
/// # Errors
/// When the file is missing or damaged.
pub fn progress(run: &Path, name: Name) -> Result<Progress, CheckpointError> {
    decode(&read(run, name)?).map(|c| c.progress).map_err(|why| unusable(run, name, why))
}

/// The parameters and the rest of a checkpoint by name, those of single precision, without a device.
///
/// # Errors
/// When the file is missing or damaged.
pub fn arrays(run: &Path, name: Name) -> Result<BTreeMap<String, Vec<f32>>, CheckpointError> {
    let bytes = read(run, name)?;
    let Contents { tensors, .. } = decode(&bytes).map_err(|why| unusable(run, name, why))?;
    let single = tensors.tensors().into_iter().filter(|(_, view)| view.dtype() == Dtype::F32);
    let values =
        |view: &TensorView<'_>| view.data().as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
    Ok(single.map(|(name, view)| (name, values(&view))).collect())
}

/// Reads a checkpoint back onto the device.
///
/// # Errors
/// When the file is missing, damaged, or of another model.
pub fn load(
    run: &Path,
    name: Name,
    session: &Session,
    model: &Model,
    rule: Rule,
) -> Result<(TrainState, Progress), CheckpointError> {
    let bytes = read(run, name)?;
    let contents = decode(&bytes).map_err(|why| unusable(run, name, why))?;
    let path = name.file(run);
    let params = contents.parameters(model, &path)?;
    let trained: Vec<&Shape> = model.params.iter().filter(|p| p.trainable).map(|p| &p.shape).collect();
    let slots = (0..rule.slots()).flat_map(|_| &trained).enumerate();
    let slots = slots.map(|(k, shape)| contents.array(&format!("slots.{k}"), shape, &path));
    let slots = slots.collect::<Result<Vec<_>, _>>()?;
    let state = TrainState::upload(session, &params, &slots, &contents.array("count", &Shape::s32([]), &path)?);
    Ok((state.map_err(CheckpointError::Session)?, contents.progress))
}

/// The start of a new run from the parameters of another: nothing of its optimiser and its position.
///
/// # Errors
/// When the file is missing, damaged, or of another model.
pub fn start_from(
    run: &Path,
    name: Name,
    session: &Session,
    model: &Model,
    rule: Rule,
) -> Result<TrainState, CheckpointError> {
    let bytes = read(run, name)?;
    let contents = decode(&bytes).map_err(|why| unusable(run, name, why))?;
    let params = contents.parameters(model, &name.file(run))?;
    program::start_with(session, model, rule, &params).map_err(CheckpointError::Session)
}
