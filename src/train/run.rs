//! A run: the folder that holds what was asked for, what happened, and what came of it. `docs/runs.md` describes every file.
//!
//! A run exists or does not. [`RunDir::create`] prepares all its files elsewhere, a first checkpoint included, and puts
//! them in place by one rename, so that a run can be resumed from its first moment and a start that fails leaves nothing.
//! While a process works on a run it holds a lock, which the system releases when the process ends, however it ends.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    checkpoint::write_atomic,
    record::Entry,
    stage::{Stage, lock},
};

pub(super) const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const LOG: &str = "log.jsonl";

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
    /// There is a run already.
    #[error("--out must not hold a run already, but {path} does; name another folder, or go on with --resume {path}")]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// Another process works on the run.
    #[error(
        "one process at a time may work on a run, but {path} is in use{holder}; wait until it ends, or name another folder"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// By whom, where that is known.
        holder: String,
    },
}

impl RunError {
    /// For `map_err`: an I/O error with the file it concerns.
    pub(super) fn io(path: &Path) -> impl Fn(std::io::Error) -> RunError {
        move |source| RunError::Io { path: path.to_path_buf(), source }
    }
}

/// An open run directory, locked.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    metrics: File,
    /// Held, not read.
    _lock: File,
}

/// What a run recorded, up to the checkpoint that it is resumed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Updates that must be in the metrics.
    pub expected: u64,
    /// Updates that are.
    pub found: u64,
}

impl RunDir {
    /// Makes a run with this configuration, the first entry of its log, and what `first` writes into the folder it is
    /// given: the initial checkpoint. A folder that exists is used if it holds no run.
    ///
    /// # Errors
    /// When there is a run already, the file system refuses, or `first` fails; nothing is left then.
    pub fn create<E: From<RunError>>(
        path: &Path,
        config: &impl Serialize,
        entry: &Entry,
        first: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<RunDir, E> {
        let stage = Stage::new(path)?;
        write_config(&stage.path, config)?;
        add_to_log(&stage.path, entry)?;
        first(&stage.path)?;
        let metrics = stage.path.join(METRICS);
        let metrics = File::create_new(&metrics).map_err(RunError::io(&metrics))?;
        let lock = stage.publish()?;
        Ok(RunDir { path: path.to_path_buf(), metrics, _lock: lock })
    }

    /// Whether a folder holds a run.
    pub fn is_run(path: &Path) -> bool {
        path.join(CONFIG).exists()
    }

    /// Opens an existing run to go on with it.
    ///
    /// # Errors
    /// When the folder is no run, or another process uses it.
    pub fn open(path: &Path) -> Result<RunDir, RunError> {
        let lock = lock(path)?;
        let file = path.join(METRICS);
        let metrics = OpenOptions::new().create(true).append(true).open(&file).map_err(RunError::io(&file))?;
        Ok(RunDir { path: path.to_path_buf(), metrics, _lock: lock })
    }

    /// The configuration of a run.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn config<C: DeserializeOwned>(path: &Path) -> Result<C, RunError> {
        let file = path.join(CONFIG);
        let text = std::fs::read_to_string(&file).map_err(RunError::io(&file))?;
        toml::from_str(&text).map_err(|e| RunError::Format { path: file, why: e.to_string() })
    }

    /// Replaces the configuration.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn set_config(&self, config: &impl Serialize) -> Result<(), RunError> {
        write_config(&self.path, config)
    }

    /// Where the run is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds one line to the metrics.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn record(&mut self, row: &impl Serialize) -> Result<(), RunError> {
        let path = self.path.join(METRICS);
        append(&mut self.metrics, &path, row)
    }

    /// Adds one line to the log.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn log(&self, entry: &Entry) -> Result<(), RunError> {
        add_to_log(&self.path, entry)
    }

    /// Waits until the metrics are on the disk, as a checkpoint that follows them will be.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn sync(&self) -> Result<(), RunError> {
        self.metrics.sync_data().map_err(RunError::io(&self.path.join(METRICS)))
    }

    /// Drops lines written after `step`: what a killed run did beyond its checkpoint is done again. Says how many of the updates
    /// up to there are recorded.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn rewind(&mut self, step: u64) -> Result<Recorded, RunError> {
        let path = self.path.join(METRICS);
        let text = std::fs::read(&path).map_err(RunError::io(&path))?;
        let mut steps = std::collections::BTreeSet::new();
        let mut kept = String::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let Ok(row) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let Some(of) = row["step"].as_u64().filter(|of| *of <= step) else { continue };
            if row["event"] == "step" {
                steps.insert(of);
            }
            kept.extend([line, "\n"]);
        }
        write_atomic(&path, kept.as_bytes()).map_err(RunError::io(&path))?;
        self.metrics = OpenOptions::new().append(true).open(&path).map_err(RunError::io(&path))?;
        Ok(Recorded { expected: step, found: steps.len() as u64 })
    }

    /// All lines of the metrics.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn metrics(path: &Path) -> Result<Vec<serde_json::Value>, RunError> {
        let file = path.join(METRICS);
        let text = std::fs::read_to_string(&file).map_err(RunError::io(&file))?;
        Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
    }

    /// All entries of the log that can be read; none if there is no log.
    pub fn entries(path: &Path) -> Vec<Entry> {
        let text = std::fs::read_to_string(path.join(LOG)).unwrap_or_default();
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }
}

fn write_config(run: &Path, config: &impl Serialize) -> Result<(), RunError> {
    let file = run.join(CONFIG);
    let text =
        toml::to_string_pretty(config).map_err(|e| RunError::Format { path: file.clone(), why: e.to_string() })?;
    write_atomic(&file, text.as_bytes()).map_err(RunError::io(&file))
}

fn add_to_log(run: &Path, entry: &Entry) -> Result<(), RunError> {
    let path = run.join(LOG);
    let open = || {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
        // A process that was killed while it wrote may have left half a line.
        let mut end = [b'\n'];
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut end)?;
        }
        if end != [b'\n'] {
            file.write_all(b"\n")?;
        }
        Ok(file)
    };
    append(&mut open().map_err(RunError::io(&path))?, &path, entry)
}

fn append(file: &mut File, path: &Path, row: &impl Serialize) -> Result<(), RunError> {
    let mut line =
        serde_json::to_string(row).map_err(|e| RunError::Format { path: path.to_path_buf(), why: e.to_string() })?;
    line.push('\n');
    file.write_all(line.as_bytes()).map_err(RunError::io(path))
}

#[cfg(test)]
mod tests {
    use super::{
        super::stage::{LOCK, clear_leftovers},
        *,
    };

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("etrace-run-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> =
                self.0.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn entry() -> Entry {
        Entry::Warning { time: "now".into(), text: "none".into() }
    }

    fn create(path: &Path) -> Result<RunDir, RunError> {
        let config = std::collections::BTreeMap::from([("a", 1)]);
        RunDir::create(path, &config, &entry(), |stage| {
            std::fs::write(stage.join("last.safetensors"), "state").map_err(RunError::io(stage))
        })
    }

    #[test]
    fn a_run_appears_whole_in_a_new_an_empty_and_a_used_folder() {
        let folder = Folder::new("whole");
        for (name, prepare) in [("new", 0), ("empty", 1), ("used", 2)] {
            let run = folder.0.join(name);
            if prepare > 0 {
                std::fs::create_dir(&run).unwrap();
            }
            if prepare > 1 {
                std::fs::write(run.join("notes.txt"), "mine").unwrap();
            }
            let made = create(&run).unwrap();
            for file in [CONFIG, METRICS, LOCK, "last.safetensors"] {
                assert!(run.join(file).is_file(), "{name}: {file}");
            }
            assert!(matches!(RunDir::open(&run), Err(RunError::Locked { .. })), "{name}");
            drop(made);
            assert!(RunDir::open(&run).is_ok(), "{name}");
            assert!(matches!(create(&run), Err(RunError::Taken { .. })), "{name}");
        }
        assert_eq!(std::fs::read(folder.0.join("used/notes.txt")).unwrap(), b"mine");
        assert_eq!(folder.names(), ["empty", "new", "used"], "nothing else is left");
    }

    #[test]
    fn a_start_that_fails_leaves_nothing_and_leftovers_go() {
        let folder = Folder::new("failed");
        let run = folder.0.join("run");
        let failed: Result<RunDir, RunError> =
            RunDir::create(&run, &std::collections::BTreeMap::from([("a", 1)]), &entry(), |stage| {
                Err(RunError::Format { path: stage.to_path_buf(), why: "no device".into() })
            });
        assert!(failed.is_err());
        assert!(folder.names().is_empty(), "{:?}", folder.names());
        // What a killed process left; the folder of a living one is locked.
        for id in [1, 2] {
            std::fs::create_dir(folder.0.join(format!(".run.starting-{id}"))).unwrap();
            std::fs::write(folder.0.join(format!(".run.starting-{id}/{LOCK}")), "").unwrap();
        }
        let held = lock(&folder.0.join(".run.starting-2")).unwrap();
        create(&run).unwrap();
        assert_eq!(folder.names(), [".run.starting-2", "run"]);
        drop(held);
    }

    /// Between making its folder and locking it a start looks like what a killed process left.
    #[test]
    fn a_start_survives_those_who_clear_leftovers() {
        let folder = Folder::new("claim");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    clear_leftovers(&folder.0, ".run.starting-");
                }
            });
            let failed = (0..500).find_map(|_| create_again(&folder.0.join("run")).err());
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            assert!(failed.is_none(), "{failed:?}");
        });
    }

    fn create_again(run: &Path) -> Result<(), RunError> {
        drop(create(run)?);
        std::fs::remove_dir_all(run).map_err(RunError::io(run))
    }

    #[test]
    fn of_two_that_start_at_once_one_succeeds() {
        let folder = Folder::new("race");
        for trial in 0..50 {
            let run = folder.0.join(format!("{trial}"));
            // Two stages, as two processes would have them.
            let stage = |id: u32| {
                let path = folder.0.join(format!(".{trial}.starting-{id}"));
                std::fs::create_dir(&path).unwrap();
                std::fs::write(path.join(CONFIG), id.to_string()).unwrap();
                Stage { lock: Some(lock(&path).unwrap()), path, run: run.clone(), inside: trial % 2 == 1 }
            };
            if trial % 2 == 1 {
                std::fs::create_dir(&run).unwrap();
            }
            let stages = [stage(1), stage(2)];
            let won: Vec<bool> = std::thread::scope(|scope| {
                let threads = stages.map(|s| scope.spawn(move || s.publish()));
                threads.map(|t| t.join().unwrap().is_ok()).to_vec()
            });
            assert_eq!(won.iter().filter(|w| **w).count(), 1, "{won:?}");
            let config = std::fs::read_to_string(run.join(CONFIG)).unwrap();
            assert_eq!(config, if won[0] { "1" } else { "2" });
        }
    }

    #[test]
    fn half_a_line_of_the_log_costs_only_itself() {
        let folder = Folder::new("log");
        let run = folder.0.join("run");
        let dir = create(&run).unwrap();
        std::fs::write(run.join(LOG), "{\"event\":\"sta").unwrap();
        dir.log(&entry()).unwrap();
        assert_eq!(RunDir::entries(&run).len(), 1);
    }

    #[test]
    fn missing_metrics_are_counted() {
        let folder = Folder::new("metrics");
        let run = folder.0.join("run");
        let mut dir = create(&run).unwrap();
        for step in 1..=10 {
            dir.record(&serde_json::json!({ "event": "step", "step": step, "loss": 0.1f32 })).unwrap();
        }
        dir.record(&serde_json::json!({ "event": "evaluation", "step": 10 })).unwrap();
        assert_eq!(dir.rewind(8).unwrap(), Recorded { expected: 8, found: 8 });
        assert_eq!(RunDir::metrics(&run).unwrap().len(), 8);
        let text = std::fs::read_to_string(run.join(METRICS)).unwrap();
        std::fs::write(run.join(METRICS), text.lines().skip(3).collect::<Vec<_>>().join("\n")).unwrap();
        assert_eq!(dir.rewind(8).unwrap(), Recorded { expected: 8, found: 5 });
        // A line that was cut short does not count.
        std::fs::write(run.join(METRICS), "{\"event\":\"step\",\"st").unwrap();
        assert_eq!(dir.rewind(8).unwrap(), Recorded { expected: 8, found: 0 });
    }
}
