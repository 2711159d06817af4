//! Where a run is prepared before it exists, and the lock that its process holds.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::run::{CONFIG, RunDir, RunError};

/// The lock file of a run.
pub(super) const LOCK: &str = "lock";

/// In the names of folders that were taken away.
const GONE: &str = ".gone-";

/// How often a folder is made that others take away.
const CLAIMS: usize = 1000;

/// Locks a folder for this process and writes into the lock file who holds it.
pub(super) fn lock(run: &Path) -> Result<File, RunError> {
    let path = run.join(LOCK);
    let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = open.map_err(RunError::io(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let holder = holder.lines().next().map(|who| format!(" by {who}")).unwrap_or_default();
            return Err(RunError::Locked { path: run.to_path_buf(), holder });
        }
        // Some network file systems have no locks; a run there is as safe as it was without.
        Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
        Err(TryLockError::Error(e)) => return Err(RunError::io(&path)(e)),
    }
    let who = format!("process {} on {}\n", std::process::id(), super::record::host());
    file.set_len(0).and_then(|()| file.write_all(who.as_bytes())).map_err(RunError::io(&path))?;
    Ok(file)
}

/// A folder where a run is prepared: beside the run's, or inside it if that exists (it may be the only place on its file
/// system). Removed on drop unless it became the run.
pub(super) struct Stage {
    pub path: PathBuf,
    /// The run's folder.
    pub run: PathBuf,
    pub inside: bool,
    pub lock: Option<File>,
}

impl Stage {
    pub fn new(run: &Path) -> Result<Stage, RunError> {
        let inside = run.exists();
        let absolute = if inside { run.canonicalize() } else { std::path::absolute(run) };
        let run = absolute.map_err(RunError::io(run))?;
        let name = run.file_name().unwrap_or_default().to_string_lossy();
        let (parent, prefix) = match run.parent() {
            Some(parent) if !inside => (parent, format!(".{name}.starting-")),
            _ => (run.as_path(), ".starting-".to_string()),
        };
        std::fs::create_dir_all(parent).map_err(RunError::io(parent))?;
        clear_leftovers(parent, &prefix);
        let path = parent.join(format!("{prefix}{}", std::process::id()));
        let mut stage = Stage { path, run: run.clone(), inside, lock: None };
        stage.lock = Some(Stage::claim(&stage.path)?);
        Ok(stage)
    }

    /// Makes the folder and locks it. Until it is locked, another process that starts here may take it for one that a killed process left,
    /// and take it away: then it is made again.
    fn claim(path: &Path) -> Result<File, RunError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match std::fs::create_dir(path) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(RunError::io(path)(e)),
                _ => {}
            }
            match lock(path) {
                Ok(file) if is_at(&file, &path.join(LOCK)) => return Ok(file),
                Err(error) if tries >= CLAIMS => return Err(error),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Makes the folder the run. Of several processes that try, one succeeds.
    pub fn publish(mut self) -> Result<File, RunError> {
        let taken = || RunError::Taken { path: self.run.clone() };
        if RunDir::is_run(&self.run) {
            return Err(taken());
        }
        if self.inside {
            return self.move_out();
        }
        match std::fs::rename(&self.path, &self.run) {
            Ok(()) => self.lock.take().ok_or_else(|| RunError::Taken { path: self.run.clone() }),
            Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => Err(taken()),
            Err(e) => Err(RunError::io(&self.run)(e)),
        }
    }

    /// Moves the files to a folder that may hold others. The configuration comes last: with it the run exists.
    fn move_out(&self) -> Result<File, RunError> {
        let lock = lock(&self.run)?;
        if RunDir::is_run(&self.run) {
            return Err(RunError::Taken { path: self.run.clone() });
        }
        let files = std::fs::read_dir(&self.path).map_err(RunError::io(&self.path))?;
        let names = files.flatten().map(|file| file.file_name()).filter(|name| name != LOCK && name != CONFIG);
        for name in names.chain([CONFIG.into()]) {
            let to = self.run.join(&name);
            std::fs::rename(self.path.join(&name), &to).map_err(RunError::io(&to))?;
        }
        Ok(lock)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Gone already, if it became the run.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Whether an open file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata().map(id), std::fs::metadata(path).map(id)), (Ok(a), Ok(b)) if a == b)
}

/// Removes what killed processes prepared: folders of this name that nobody holds. One is taken away by a rename while its lock is held,
/// so that a process that lives after all notices before it writes anything ([`Stage::claim`]); only then is it removed.
pub(super) fn clear_leftovers(parent: &Path, prefix: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else { continue };
        if id.contains(GONE) {
            // What was taken away by a process that was killed before it was removed.
            let _ = std::fs::remove_dir_all(path);
        } else if id.parse::<u32>().is_ok()
            && let Ok(file) = File::open(path.join(LOCK))
            && file.try_lock().is_ok()
            && is_at(&file, &path.join(LOCK))
        {
            let gone = parent.join(format!("{prefix}{id}{GONE}{}", std::process::id()));
            if std::fs::rename(&path, &gone).is_ok() {
                let _ = std::fs::remove_dir_all(gone);
            }
        }
    }
}
