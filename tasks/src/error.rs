//! What can go wrong, and how it is said.
//!
//! Every message has three parts: the rule that was broken, what was got instead, and what to do next. Variants carry the
//! facts (file, byte offset, numbers), so that a caller can act on them without reading the text.

use std::path::PathBuf;

/// The result of anything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a task, a data set or the loader. `Display` gives rule, finding and remedy in that order.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is outside what the task allows.
    #[error("{task}: {rule}: got {got}; {next}")]
    Setting {
        /// The task whose setting it is.
        task: &'static str,
        /// The rule, with the name of the setting.
        rule: &'static str,
        /// The value that was given.
        got: String,
        /// What to do.
        next: String,
    },
    /// The task has no such split.
    #[error("{task}: there is no {split} split: {got}; {next}")]
    NoSplit {
        /// The task.
        task: String,
        /// The split that was asked for.
        split: crate::Split,
        /// Why it is absent.
        got: String,
        /// What to do.
        next: &'static str,
    },
    /// A step beyond the end of an epoch.
    #[error(
        "{task}: an epoch of the {split} split has {batches} batches of {batch}: step {step} was asked for; \
         count steps from 0 and start a new epoch at {batches}"
    )]
    BeyondEpoch {
        /// The task.
        task: String,
        /// The split.
        split: crate::Split,
        /// Batches in an epoch.
        batches: u64,
        /// Samples per batch.
        batch: usize,
        /// The step that was asked for.
        step: u64,
    },
    /// Files of a data set are not where they were looked for.
    #[error("{what} is not where it was looked for ({looked_for}): {found}; the layout must be {layout}. {next}")]
    Missing {
        /// The data set.
        what: &'static str,
        /// The path that does not exist.
        looked_for: PathBuf,
        /// What is there instead.
        found: String,
        /// The layout expected below the data directory.
        layout: &'static str,
        /// Where to get it and where to put it.
        next: String,
    },
    /// The operating system refused.
    #[error("{path}: cannot {doing}: {reason}; check that the path exists and may be read")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The words of the operating system.
        reason: String,
    },
    /// An event file that ends inside an event.
    #[error(
        "{path}: an event takes {word} bytes: the file has {len} bytes, so the event at byte {offset} is cut short; \
         the copy is incomplete, copy or unpack the file again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes of an event, or of a word of a format whose events are made of words.
        word: u64,
        /// Its length in bytes.
        len: u64,
        /// Where the incomplete event begins.
        offset: u64,
    },
    /// An event file without events.
    #[error("{path}: a recording holds at least one event: {got}; {next}")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was found.
        got: String,
        /// What to do.
        next: &'static str,
    },
    /// An event outside the sensor.
    #[error(
        "{path}: x is below {width} and y below {height}: the event at byte {offset} has x = {x}, y = {y}; \
         the file is damaged or comes from another sensor, copy it again or leave it out"
    )]
    OffSensor {
        /// The file.
        path: PathBuf,
        /// Where the event begins.
        offset: u64,
        /// Column.
        x: u16,
        /// Row.
        y: u16,
        /// Columns of the sensor.
        width: u16,
        /// Rows of the sensor.
        height: u16,
    },
    /// Time runs backwards inside a recording.
    #[error(
        "{path}: time does not go back within a recording: the event at byte {offset} is at {time} us, the one before \
         it at {before} us ({late} of {events} events are earlier than the one before); copy the file again, or have the \
         events sorted with --sort-events"
    )]
    TimeBackwards {
        /// The file.
        path: PathBuf,
        /// Where the first such event begins.
        offset: u64,
        /// Events that are earlier than the one before them.
        late: u64,
        /// Events in all.
        events: u64,
        /// Its time, microseconds.
        time: u64,
        /// The time before it, microseconds.
        before: u64,
    },
    /// Any other file that cannot be used as it is: damaged, of another form, or with values that make no sense.
    #[error("{path}: {rule}: {got}; {next}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The rule.
        rule: String,
        /// What was found.
        got: String,
        /// What to do.
        next: String,
    },
    /// A loader's thread failed.
    #[error("loader: {rule}: {got}; {next}")]
    Loader {
        /// The rule.
        rule: &'static str,
        /// What happened.
        got: String,
        /// What to do.
        next: &'static str,
    },
}

impl Error {
    /// An [`Error::Io`] from what the operating system said.
    pub(crate) fn io(path: &std::path::Path, doing: &'static str, e: &std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), doing, reason: e.to_string() }
    }

    /// An [`Error::Damaged`] that advises a fresh copy.
    pub(crate) fn damaged(path: &std::path::Path, rule: impl Into<String>, got: impl Into<String>) -> Self {
        Error::unusable(path, rule, got, "the file is damaged or of another kind, copy or unpack it again")
    }

    /// An [`Error::Damaged`] whose cause is known, with advice of its own.
    pub(crate) fn unusable(
        path: &std::path::Path,
        rule: impl Into<String>,
        got: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Error::Damaged { path: path.to_owned(), rule: rule.into(), got: got.into(), next: next.into() }
    }
}

/// Checks a rule about a setting.
pub(crate) fn require(
    holds: bool,
    task: &'static str,
    rule: &'static str,
    got: impl std::fmt::Display,
    next: &str,
) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Setting { task, rule, got: got.to_string(), next: next.into() }) }
}
