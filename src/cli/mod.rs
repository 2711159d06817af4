//! The command line: one file per command.
//!
//! A command is a module with `pub struct Args` (its flags) and `pub fn run(Args, &Global) -> anyhow::Result<()>`, and one
//! line in `Command` and one in `Command::run`. [`common`] holds what commands share.
//!
//! Exit codes: 0, success; 2, the command was not used as it should be ([`Usage`]: bad values, files that are not there);
//! 128 + signal, stopped by a signal, with everything saved ([`Stopped`]); 101, a defect of this program; 1, everything else.
//! Errors are one paragraph on standard error: the rule, what was got, what to do next.

pub mod analyze;
pub mod common;
pub mod data;
pub mod dms;
pub mod ei;
pub mod eval;
pub mod explain;
pub mod gesture;
pub mod memspeed;
pub mod observe;
pub mod output;
pub mod plugin;
mod resume;
mod screen;
pub mod shd;
pub mod train;
pub mod verify;

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use common::Global;

/// Train spiking networks online with eligibility traces, compiled through XLA.
#[derive(Debug, Parser)]
#[command(
    name = "etrace",
    version,
    infer_long_args = true,
    infer_subcommands = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Flags may be shortened (`--epoch` for `--epochs`) and written with `-` or `_`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure time and memory of training against sequence length, or train on event recordings
    Memspeed(Box<memspeed::Args>),
    /// Delayed match-to-sample: remember a stimulus over a delay
    Dms(Box<dms::Args>),
    /// Evidence accumulation with excitatory and inhibitory neurons
    Ei(Box<ei::Args>),
    /// Spoken digits and words: layers of neurons with learned time constants
    Shd(Box<shd::Args>),
    /// Gestures before an event camera: convolutions and event-based recurrent units
    Gesture(Box<gesture::Args>),
    /// Test a trained network: accuracy, confusions, firing rates
    Eval(eval::Args),
    /// Draw what a trained network does: spikes, potentials, decisions
    Observe(observe::Args),
    /// Study how good the approximations of online learning are
    Analyze(analyze::Args),
    /// Show what a learner sees in a model: groups, traces, costs
    Explain(explain::Args),
    /// Check models and learners against reference gradients
    Verify(verify::Args),
    /// List and install the plugins that drive devices
    Plugin(plugin::Args),
    /// Inspect data sets
    Data(data::Args),
}

impl Command {
    fn run(self, global: &Global) -> anyhow::Result<()> {
        match self {
            Command::Memspeed(args) => memspeed::run(*args, global),
            Command::Dms(args) => dms::run(*args, global),
            Command::Ei(args) => ei::run(*args, global),
            Command::Shd(args) => shd::run(*args, global),
            Command::Gesture(args) => gesture::run(*args, global),
            Command::Eval(args) => eval::run(&args, global),
            Command::Observe(args) => observe::run(&args, global),
            Command::Analyze(args) => analyze::run(args, global),
            Command::Explain(args) => explain::run(args, global),
            Command::Verify(args) => verify::run(args, global),
            Command::Plugin(args) => plugin::run(args, global),
            Command::Data(args) => data::run(args, global),
        }
    }
}

/// An error of the user: the command ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct Usage(pub anyhow::Error);

/// An error of the user in words.
pub fn usage(text: String) -> Usage {
    Usage(anyhow::anyhow!(text))
}

/// Marks errors as the user's.
pub trait OrUsage<T> {
    /// The same result, whose error ends the command with exit code 2.
    ///
    /// # Errors
    /// As before.
    fn or_usage(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrUsage<T> for Result<T, E> {
    fn or_usage(self) -> anyhow::Result<T> {
        self.map_err(|e| Usage(e.into()).into())
    }
}

/// A command that ran and found something wrong; what it found is printed already.
#[derive(Debug, thiserror::Error)]
#[error("the check failed")]
pub struct Failed;

/// A signal asked to stop; everything is saved, and said.
#[derive(Debug, thiserror::Error)]
#[error("stopped by signal {0}")]
pub struct Stopped(pub i32);

/// A command line as clap reads it; `words` begin with the program's name.
fn parse(words: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, clap::Error> {
    Cli::command().try_get_matches_from(words)
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    let cli = parse(std::env::args_os()).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = cli.unwrap_or_else(|error| error.format(&mut Cli::command()).exit());
    let result = cli.command.run(&cli.global);
    let code = match &result {
        Ok(()) => 0,
        Err(error) => exit_code(error),
    };
    let silent = |error: &anyhow::Error| error.is::<Failed>() || error.is::<Stopped>();
    if let Some(error) = result.err().filter(|error| !silent(error)) {
        complain(&paragraph(&error));
    }
    match output::failure() {
        None => ExitCode::from(code),
        Some(error) => {
            complain(&format!(
                "standard output must take what the command prints, but could not: {error}; free some space or name another file"
            ));
            ExitCode::from(code.max(1))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Stopped>() {
        Some(Stopped(signal)) => crate::train::stop::exit_code(*signal),
        None if error.is::<Usage>() => 2,
        None => 1,
    }
}

/// The chain of an error in one paragraph. A cause that its parent quotes already is left out.
fn paragraph(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn complain(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let (red, plain) = if stderr.is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    // Without a standard error there is nobody to tell.
    let _ = writeln!(stderr, "{red}error:{plain} {text}");
}

/// In place of Rust's message and backtrace advice: a panic is a defect of this program, and is reported as one.
fn report_panic(info: &std::panic::PanicHookInfo<'_>) {
    let text = info.payload().downcast_ref::<String>().map(String::as_str);
    let text = text.or(info.payload().downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    if std::thread::current().name() == Some(crate::verify::THREAD) {
        return;
    }
    let place = info.location().map(|l| format!(" at {l}")).unwrap_or_default();
    complain(&format!(
        "a check inside etrace failed{place}: {text}\nThis is a defect of the program; please report it with the command you ran"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_chain_is_one_paragraph_and_says_nothing_twice() {
        let inner = anyhow::anyhow!("no such file");
        let error = inner.context("cannot read `a`").context("cannot read `a`: no such file; name another");
        assert_eq!(paragraph(&error), "cannot read `a`: no such file; name another");
        let usage = Result::<(), _>::Err(anyhow::anyhow!("inner").context("outer")).or_usage().unwrap_err();
        assert_eq!(paragraph(&usage), "outer: inner");
        assert!(usage.downcast_ref::<Usage>().is_some());
    }
}
