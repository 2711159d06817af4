//! How far a long work is: a bar for a person, a line now and then for a log, nothing with `--quiet`.

use std::{
    io::{IsTerminal, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::Global;

/// Between two lines of a log.
const PAUSE: Duration = Duration::from_secs(30);

/// A work of so many things, with rate and time left.
pub struct Bar {
    bar: ProgressBar,
    what: String,
    /// When the last line was written; nothing where a bar is drawn, or all is quiet.
    said: Mutex<Option<Instant>>,
}

impl Bar {
    /// Before the first of `length` things; nothing where the end is not known.
    pub fn new(global: &Global, length: Option<u64>, what: &str) -> Bar {
        let terminal = std::io::stderr().is_terminal();
        let bar = match length {
            _ if global.quiet || !terminal => ProgressBar::hidden(),
            Some(n) => ProgressBar::new(n),
            None => ProgressBar::new_spinner(),
        };
        if let Some(n) = length {
            bar.set_length(n);
        }
        let template = match length {
            Some(_) => "{prefix} [{bar:30}] {pos}/{len} {per_sec}, {eta} left {msg}",
            None => "{spinner} {prefix} {pos} {per_sec} {msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(what.to_string());
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Bar { bar, what: what.into(), said: Mutex::new((!global.quiet && !terminal).then(Instant::now)) }
    }

    /// Goes on from what was done before: it took no time now.
    pub fn from(self, done: u64) -> Bar {
        self.bar.set_position(done);
        self.bar.reset_eta();
        self
    }

    /// One more is done.
    pub fn inc(&self) {
        self.bar.inc(1);
        let Ok(mut said) = self.said.lock() else { return };
        if said.is_some_and(|at| at.elapsed() >= PAUSE) {
            let _ = writeln!(std::io::stderr(), "{}", self.line());
            *said = Some(Instant::now());
        }
    }

    /// What a log says: `batches 120 of 1500, 4.00/s, 6 minutes left`.
    fn line(&self) -> String {
        let (done, rate) = (self.bar.position(), self.bar.per_sec());
        let of = self.bar.length().map_or(String::new(), |n| format!(" of {n}"));
        let left = self.bar.length().filter(|_| rate > 0.0);
        let left = left.map_or(String::new(), |_| format!(", {} left", HumanDuration(self.bar.eta())));
        format!("{} {done}{of}, {rate:.2}/s{left}", self.what)
    }

    /// A remark beside the bar.
    pub fn message(&self, text: impl Into<String>) {
        self.bar.set_message(text.into());
    }

    /// Prints while no bar is drawn.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
