//! A run directory: what was asked for, what happened, what came of it.
//!
//! ```text
//! config.toml        the resolved configuration, enough to repeat the run
//! metrics.jsonl      one line per report: training steps and evaluations
//! last.safetensors   the newest checkpoint          best.safetensors   the best one
//! curve.svg/.png     loss and accuracy
//! ```

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::checkpoint::write_atomic;

/// A run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file system refused.
    #[error("cannot use {path}: {source}; check the path, its permissions and the free space")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is not the file of a run: {why}; name a folder that a training command wrote")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// An open run directory.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    metrics: std::fs::File,
}

impl RunDir {
    /// Makes the folder and writes the configuration.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(path: &Path, config: &impl Serialize) -> Result<RunDir, RunError> {
        std::fs::create_dir_all(path).map_err(|source| RunError::Io { path: path.to_path_buf(), source })?;
        let file = path.join("config.toml");
        let format = |why: String| RunError::Format { path: file.clone(), why };
        let text = toml::to_string_pretty(config).map_err(|e| format(e.to_string()))?;
        write_atomic(&file, text.as_bytes()).map_err(|source| RunError::Io { path: file.clone(), source })?;
        RunDir::open(path)
    }

    /// Opens an existing run to go on with it.
    ///
    /// # Errors
    /// When the folder is no run.
    pub fn open(path: &Path) -> Result<RunDir, RunError> {
        let file = path.join("metrics.jsonl");
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(&file);
        let metrics = opened.map_err(|source| RunError::Io { path: file, source })?;
        Ok(RunDir { path: path.to_path_buf(), metrics })
    }

    /// The configuration of a run.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn config<C: DeserializeOwned>(path: &Path) -> Result<C, RunError> {
        let file = path.join("config.toml");
        let text = std::fs::read_to_string(&file).map_err(|source| RunError::Io { path: file.clone(), source })?;
        toml::from_str(&text).map_err(|e| RunError::Format { path: file, why: e.to_string() })
    }

    /// Where the run is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Adds one line to the metrics.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn record(&mut self, row: &impl Serialize) -> Result<(), RunError> {
        let path = self.file("metrics.jsonl");
        let mut line =
            serde_json::to_string(row).map_err(|e| RunError::Format { path: path.clone(), why: e.to_string() })?;
        line.push('\n');
        self.metrics.write_all(line.as_bytes()).map_err(|source| RunError::Io { path, source })
    }

    /// Drops lines written after `step`: what a killed run did beyond its last checkpoint is done again.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn rewind(&mut self, step: u64) -> Result<(), RunError> {
        let path = self.file("metrics.jsonl");
        let io = |source| RunError::Io { path: path.clone(), source };
        let text = std::fs::read_to_string(&path).map_err(io)?;
        let kept = |line: &&str| {
            let row: Option<serde_json::Value> = serde_json::from_str(line).ok();
            row.and_then(|r| r.get("step").and_then(serde_json::Value::as_u64)).is_some_and(|s| s <= step)
        };
        let text: String = text.lines().filter(kept).flat_map(|l| [l, "\n"]).collect();
        write_atomic(&path, text.as_bytes()).map_err(io)?;
        self.metrics = std::fs::OpenOptions::new().append(true).open(&path).map_err(io)?;
        Ok(())
    }

    /// All lines of the metrics.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn metrics(path: &Path) -> Result<Vec<serde_json::Value>, RunError> {
        let file = path.join("metrics.jsonl");
        let text = std::fs::read_to_string(&file).map_err(|source| RunError::Io { path: file, source })?;
        Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
    }
}
