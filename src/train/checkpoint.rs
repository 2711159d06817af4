//! Checkpoints: everything training changes, in one safetensors file that appears by one rename.
//!
//! Tensors: each parameter under its name, optimiser state as `slots.K`, the counter as `count`. The header's metadata hold
//! the position in the data and what was best so far.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use hlo::{DType, Shape, array::Array};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use super::{
    program::TrainState,
    session::{Session, SessionError},
};
use crate::cell::Model;

/// A checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("cannot {what} checkpoint {path}: {source}; check the path, its permissions and the free space")]
    Io {
        /// `write` or `read`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is damaged, or of another model.
    #[error("checkpoint {path} does not fit: {why}; resume with the configuration of the run that wrote it")]
    Mismatch {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
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
    /// Smoothed accuracy (factor 0.8), if the run keeps one.
    pub smoothed: Option<f64>,
    /// Best value so far of what selects the `best` checkpoint.
    pub best: Option<f64>,
    /// Passes completed when it was reached.
    #[serde(default)]
    pub best_epoch: u64,
    /// Sum of the training accuracies of the batches of this epoch.
    #[serde(default)]
    pub epoch_accuracy: f64,
}

/// Writes bytes so that the file is either the old one or the new one, never half of it.
///
/// # Errors
/// When the file system refuses.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".tmp");
    let partial = PathBuf::from(partial);
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

/// Writes a checkpoint.
///
/// # Errors
/// When the device or the file system fails.
pub fn save(path: &Path, model: &Model, state: &TrainState, progress: &Progress) -> Result<(), CheckpointError> {
    let names = model.params.iter().map(|p| p.name.clone());
    let slots = (0..state.slots.len()).map(|k| format!("slots.{k}"));
    let buffers = state.params.iter().chain(&state.slots).chain([&state.count]);
    let mut arrays = Vec::new();
    for (name, buffer) in names.chain(slots).chain(["count".to_string()]).zip(buffers) {
        arrays.push((name, buffer.to_array().map_err(SessionError::from)?));
    }
    let io = |source| CheckpointError::Io { what: "write", path: path.to_path_buf(), source };
    let mut views = Vec::new();
    for (name, array) in &arrays {
        let dtype = if array.shape().dtype == DType::S32 { Dtype::I32 } else { Dtype::F32 };
        let view = TensorView::new(dtype, array.shape().dims.clone(), array.bytes());
        views.push((name, view.map_err(|e| io(std::io::Error::other(e.to_string())))?));
    }
    let text = serde_json::to_string(progress).map_err(|e| io(e.into()))?;
    let meta = HashMap::from([("progress".to_string(), text)]);
    let bytes = safetensors::serialize(views, Some(meta)).map_err(|e| io(std::io::Error::other(e.to_string())))?;
    write_atomic(path, &bytes).map_err(io)
}

/// Reads a checkpoint back onto the device.
///
/// # Errors
/// When the file is missing, damaged, or of another model.
pub fn load(
    path: &Path,
    session: &Session,
    model: &Model,
    slots: usize,
) -> Result<(TrainState, Progress), CheckpointError> {
    let bytes =
        std::fs::read(path).map_err(|source| CheckpointError::Io { what: "read", path: path.to_path_buf(), source })?;
    let wrong = |why: String| CheckpointError::Mismatch { path: path.to_path_buf(), why };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
    let meta = header.metadata().as_ref().and_then(|m| m.get("progress"));
    let text =
        meta.ok_or_else(|| wrong("it has no training position, so it is no checkpoint of this program".into()))?;
    let progress: Progress = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    let read = |name: &str, shape: Option<&Shape>| {
        let view = tensors.tensor(name).map_err(|_| wrong(format!("it holds no `{name}`")))?;
        let dtype = if view.dtype() == Dtype::I32 { DType::S32 } else { DType::F32 };
        let got = Shape::new(dtype, view.shape());
        if let Some(want) = shape.filter(|s| **s != got) {
            return Err(wrong(format!("`{name}` is {got}, but this model needs {want}")));
        }
        let array = Array::from_bytes(got, view.data().to_vec()).map_err(|e| wrong(e.to_string()))?;
        session.client.upload(&array).map_err(|e| CheckpointError::Session(e.into()))
    };
    let params = model.params.iter().map(|p| read(&p.name, Some(&p.shape))).collect::<Result<_, _>>()?;
    let slots = (0..slots).map(|k| read(&format!("slots.{k}"), None)).collect::<Result<_, _>>()?;
    Ok((TrainState { params, slots, count: read("count", Some(&Shape::s32([])))? }, progress))
}
