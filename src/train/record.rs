//! What a run was computed with, for its log: program, machine, device, threads.
//!
//! Results depend on the kind of device, the plugin and the number of its threads (XLA divides sums among them), so all of
//! these are recorded each time a process works on a run, and [`Setting::differences`] says what has changed since.

use std::{
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{session::Session, trainer::Ending};

/// The revision of the program; see [`built_from`].
static REVISION: OnceLock<&str> = OnceLock::new();

/// Says which git revision the program was built from, for the logs of its runs. A program does so once, at its start: if the
/// library knew, each commit would build it anew.
pub fn built_from(revision: &'static str) {
    REVISION.get_or_init(|| revision);
}

/// A line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Entry {
    /// A process began to work on the run.
    Start {
        /// When, UTC.
        time: String,
        /// Updates so far: 0 for a new run.
        step: u64,
        /// The command as it was typed, the program's name left out.
        command: Vec<String>,
        /// Where it was typed.
        folder: PathBuf,
        /// What computes.
        #[serde(flatten)]
        setting: Box<Setting>,
        /// Settings of the run that this command changed.
        changes: Vec<Change>,
    },
    /// Something that the user was told.
    Warning {
        /// When, UTC.
        time: String,
        /// What.
        text: String,
    },
    /// Training ended, or was interrupted.
    End {
        /// When, UTC.
        time: String,
        /// Updates so far.
        step: u64,
        /// Why.
        ending: Ending,
    },
    /// Training failed.
    Failure {
        /// When, UTC.
        time: String,
        /// Why.
        error: String,
    },
}

/// A setting that a resumed run got anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub setting: String,
    /// Its value so far.
    pub from: String,
    /// Its value from now on.
    pub to: String,
}

/// What computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Version of this program.
    pub version: String,
    /// The git revision it was built from, where that is known.
    pub revision: Option<String>,
    /// Name of the machine.
    pub host: String,
    /// Process number.
    pub process: u32,
    /// `cpu`, `cuda:0`, `tpu`.
    pub device: String,
    /// The device in the plugin's words.
    pub device_kind: String,
    /// The plugin file.
    pub plugin: PathBuf,
    /// Its SHA-256.
    pub plugin_sha256: Option<String>,
    /// Its version text.
    pub plugin_version: String,
    /// Threads that run programs; on a CPU they decide the last digits of results.
    pub threads: usize,
    /// Devices that share a batch; their number decides the last digits of results.
    #[serde(default = "one")]
    pub replicas: usize,
}

/// What runs had before there were others.
fn one() -> usize {
    1
}

impl Setting {
    /// Of this process.
    pub fn new(session: &Session, threads: usize) -> Setting {
        let platform = session.client.platform();
        let plugin = session.client.plugin();
        Setting {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: REVISION.get().map(|revision| revision.to_string()),
            host: host(),
            process: std::process::id(),
            device: session.device.to_string(),
            device_kind: platform.device.clone(),
            plugin: plugin.path().to_path_buf(),
            plugin_sha256: plugin.sha256(),
            plugin_version: platform.version.clone(),
            threads,
            replicas: session.replicas(),
        }
    }

    /// What of all that decides results is not as it was.
    pub fn differences(&self, before: &Setting) -> Vec<Change> {
        let count = |of: fn(&Setting) -> usize| [before, self].map(|s| of(s).to_string());
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
        let all = [
            ("the device", [before.device_kind.clone(), self.device_kind.clone()]),
            ("the plugin", [text(&before.plugin_sha256), text(&self.plugin_sha256)]),
            ("the number of threads", count(|s| s.threads)),
            ("the number of replicas", count(|s| s.replicas)),
            ("the version of etrace", [before.version.clone(), self.version.clone()]),
        ];
        let differ = all.into_iter().filter(|(_, [from, to])| from != to);
        differ.map(|(what, [from, to])| Change { setting: what.into(), from, to }).collect()
    }
}

impl Entry {
    /// This process begins to work on a run, after `step` updates.
    pub fn start(step: u64, setting: Setting, changes: Vec<Change>) -> Entry {
        Entry::Start {
            time: now(),
            step,
            command: std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect(),
            folder: std::env::current_dir().unwrap_or_default(),
            setting: Box::new(setting),
            changes,
        }
    }

    /// What computed, of an entry that says so.
    pub fn setting(&self) -> Option<&Setting> {
        if let Entry::Start { setting, .. } = self { Some(setting) } else { None }
    }
}

/// The time now, UTC, to the second: `2026-11-26T18:45:36Z`.
pub fn now() -> String {
    stamp(SystemTime::now())
}

/// A time as text. A clock that is set to a year with no four digits gives the first or the last that has them.
fn stamp(time: SystemTime) -> String {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(time.clamp(SystemTime::UNIX_EPOCH, last)).to_string()
}

/// Name of this machine.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|n| n.trim().to_string()).filter(|n| !n.is_empty()).unwrap_or_else(|| "an unnamed machine".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_set_to_any_time() {
        let at = |seconds: i64| {
            let distance = Duration::from_secs(seconds.unsigned_abs());
            stamp(if seconds < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance })
        };
        assert_eq!(at(1_764_182_736), "2025-11-26T18:45:36Z");
        assert_eq!((at(-1).as_str(), at(1 << 40).as_str()), ("1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"));
    }
}
