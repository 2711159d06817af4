//! What commands share: global flags, devices, bars of downloads.

use std::{
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use hlo::hosts::Group;
use hlo::pjrt::{self, ClientOptions, Device, Devices, Plugin};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Usage, bar::Bar, flags};
use crate::train::session::{Session, SessionError};

/// One device.
pub const ONE: Devices = Devices::Count(NonZeroUsize::MIN);

/// Flags of every command.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Where programs run: cpu, cuda, cuda:N or tpu
    #[arg(long, global = true, default_value = "cpu", value_name = "DEVICE")]
    pub device: Device,
    /// Plugin file to use instead of the installed one
    #[arg(long, global = true, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Threads that run programs on the CPU [default: one per processor]
    #[arg(long, global = true, value_name = "N", value_parser = some_threads)]
    pub threads: Option<NonZeroUsize>,
    /// No progress bars and no remarks
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

impl Global {
    /// Opens the device, fetching the CPU plugin the first time, with a progress bar.
    ///
    /// # Errors
    /// When no plugin is found, it is damaged, or it has no device.
    pub fn session(&self) -> anyhow::Result<Session> {
        self.session_of(ONE, None)
    }

    /// Opens so many devices, the one of the flags first; together with the processes of `group`, if there are others.
    ///
    /// # Errors
    /// As [`Global::session`], and when there are not as many.
    pub fn session_of(&self, devices: Devices, group: Option<&Arc<Group>>) -> anyhow::Result<Session> {
        if let Some(path) = &self.plugin {
            existing_file(
                path,
                "--plugin names a plugin file",
                "name the .so file of a plugin, or leave the flag out",
            )?;
        }
        let mut bar = InstallBar::new(self);
        let found = Plugin::find(self.device.kind(), self.plugin.as_deref(), &mut |p| bar.show(p));
        bar.finish();
        let (threads, group) = (self.threads.map(usize::from), group.cloned());
        let options = ClientOptions { threads, devices, group, ..ClientOptions::default() };
        Session::on(&found?, self.device, &options).map_err(|error| match error {
            SessionError::Devices { .. }
            | SessionError::AllFrom { .. }
            | SessionError::Shares { .. }
            | SessionError::Everywhere { .. }
            | SessionError::Process { .. }
            | SessionError::Runtime(pjrt::Error::Threads { .. }) => Usage(error.into()).into(),
            other => anyhow::Error::from(other),
        })
    }

    /// Threads that run programs on the CPU: those of the flag, else of the variable `NPROC`, which XLA reads, else one per
    /// processor.
    pub fn threads(&self) -> usize {
        let variable = std::env::var("NPROC").ok().and_then(|text| text.parse().ok());
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map(usize::from).or(variable).filter(|n| *n > 0).unwrap_or_else(processors)
    }

    /// The same flags with this number of threads.
    #[must_use]
    pub fn with_threads(&self, threads: usize) -> Global {
        Global { threads: NonZeroUsize::new(threads), ..self.clone() }
    }

    /// How far a work of `length` things is, on standard error.
    pub fn bar(&self, length: usize, what: &str) -> Bar {
        Bar::new(self, Some(length as u64), what)
    }

    /// A line on standard error that `--quiet` suppresses.
    pub fn remark(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// Prints to standard output, see [`output`](super::output).
///
/// # Errors
/// None: what cannot be written is reported when the command ends.
pub fn print(text: &str) -> anyhow::Result<()> {
    super::output::print(text);
    Ok(())
}

/// The device in words: `cpu 0.0.1, PJRT API 0.81`.
pub fn device_line(session: &Session) -> String {
    let platform = session.client.platform();
    let (major, minor) = session.client.plugin().version();
    let several = if session.replicas() > 1 { format!("{} x ", session.replicas()) } else { String::new() };
    format!("{several}{} ({}), PJRT API {major}.{minor}", platform.name, platform.device)
}

/// Checks a file that a flag names.
///
/// # Errors
/// When it is no file: the user's mistake.
pub fn existing_file(path: &Path, rule: &str, advice: &str) -> anyhow::Result<()> {
    if path.is_file() {
        return Ok(());
    }
    let shown = path.display();
    let got = if path.is_dir() { format!("{shown} is a directory") } else { format!("there is nothing at {shown}") };
    Err(Usage(anyhow::anyhow!("{rule}, but {got}; {advice}")).into())
}

/// Checks a directory that an argument names.
///
/// # Errors
/// When it is no directory: the user's mistake.
pub fn existing_directory(path: &Path, rule: &str, advice: &str) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let shown = path.display();
    let got = if path.exists() { format!("{shown} is a file") } else { format!("there is nothing at {shown}") };
    Err(Usage(anyhow::anyhow!("{rule}, but {got}; {advice}")).into())
}

/// The progress of an installation: a bar for people, a line per package elsewhere.
pub struct InstallBar {
    bar: Option<ProgressBar>,
    plain: bool,
    package: String,
}

impl InstallBar {
    /// Nothing is drawn before something happens.
    pub fn new(global: &Global) -> InstallBar {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        InstallBar { bar: None, plain: !global.quiet && !terminal, package: String::new() }.quiet_if(global.quiet)
    }

    fn quiet_if(mut self, quiet: bool) -> InstallBar {
        if quiet {
            self.bar = Some(ProgressBar::hidden());
        }
        self
    }

    /// Draws one report.
    pub fn show(&mut self, progress: pjrt::Progress) {
        let (doing, package, at, total) = match progress {
            pjrt::Progress::Wait => {
                if self.plain {
                    let _ = writeln!(std::io::stderr(), "waiting for another installation of the same plugin");
                }
                return;
            }
            pjrt::Progress::Download { package, received, total } => ("fetching", package, received, total),
            pjrt::Progress::Verify { package } => ("checking", package, 0, None),
            pjrt::Progress::Unpack { package, done, total } => ("unpacking", package, done, Some(total)),
            pjrt::Progress::Installed { .. } => return self.finish(),
        };
        if self.plain && self.package != package {
            let size = total.map(|t| format!(" ({})", crate::report::bytes(t))).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "fetching {package}{size}");
            self.package.clone_from(&package);
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {eta}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
        });
        bar.set_message(format!("{doing} {package}"));
        bar.set_length(total.unwrap_or(at).max(at));
        bar.set_position(at);
    }

    /// Removes the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn some_threads(text: &str) -> Result<NonZeroUsize, String> {
    NonZeroUsize::new(flags::threads(text)?).ok_or_else(|| "must be at least 1, got 0".into())
}
