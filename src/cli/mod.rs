//! The command line: one file per command.
//!
//! A command is a module with `pub struct Args` (its flags) and `pub fn run(Args, &Global) -> anyhow::Result<()>`, and one
//! line in `Command` and one in `Command::run`. [`common`] holds what commands share.
//!
//! Exit codes: 0, success; 2, the command was not used as it should be ([`Usage`]: bad values, files that are not there);
//! 128 + signal, stopped by a signal, with everything saved ([`Stopped`]); 101, a defect of this program; 1, everything else.
//! Errors are one paragraph on standard error: the rule, what was got, what to do next.

pub mod analyze;
mod bar;
pub mod campaign;
pub mod common;
pub mod compare;
pub mod data;
pub mod dms;
pub mod ei;
pub mod eval;
pub mod explain;
pub mod export;
pub mod flags;
pub mod gesture;
pub mod import;
pub mod manual;
pub mod memspeed;
pub mod observe;
pub mod output;
pub mod plugin;
mod resume;
mod screen;
pub mod shd;
mod tensorboard;
pub mod train;
pub mod train_any;
pub mod verify;

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    learn::LearnError,
    train::{program::ProgramError, trainer::TrainError},
};

pub use common::Global;

/// Train spiking networks online with eligibility traces, compiled through XLA.
#[derive(Debug, Parser)]
#[command(
    name = "etrace",
    version,
    infer_subcommands = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Flags may be shortened (`--epoch` for `--epochs`) and written with `-` or `_`; the other names in help mean the same."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train any network on any task, from a configuration or a preset
    Train(train_any::Args),
    /// Measure time and memory of training against sequence length, or train on event recordings
    Memspeed(Box<memspeed::Args>),
    /// Delayed match-to-sample: remember a stimulus over a delay
    Dms(Box<dms::Args>),
    /// Evidence accumulation with excitatory and inhibitory neurons
    Ei(Box<ei::Args>),
    /// Spoken digits and words: layers of neurons with learned time constants
    Shd(Box<shd::Args>),
    /// Gestures in front of an event camera: convolutions and event-based recurrent units
    Gesture(Box<gesture::Args>),
    /// Train many variants of an experiment, and compare them
    Campaign(campaign::Args),
    /// Compare runs: what they reached, in what they differ, their curves
    Compare(compare::Args),
    /// Test a trained network: accuracy, confusions, firing rates
    Eval(eval::Args),
    /// Draw what a trained network does: spikes, potentials, decisions
    Observe(observe::Args),
    /// Make a run of a network in a NIR file
    Import(Box<import::Args>),
    /// Write the network of a run as a NIR file
    Export(export::Args),
    /// Study how good the approximations of online learning are
    Analyze(analyze::Args),
    /// Show what a learner sees in a model: groups, traces, costs
    Explain(explain::Args),
    /// Check models and learners against reference gradients
    Verify(verify::Args),
    /// List and install the plugins that drive devices
    Plugin(plugin::Args),
    /// Inspect and convert data sets
    Data(data::Args),
    /// Print completions of commands and flags for a shell
    Completions(manual::Completions),
    /// Write manual pages, one for each command
    Man(manual::Man),
}

impl Command {
    fn run(self, global: &Global) -> anyhow::Result<()> {
        match self {
            Command::Train(args) => train_any::run(&args, global),
            Command::Memspeed(args) => memspeed::run(*args, global),
            Command::Dms(args) => dms::run(*args, global),
            Command::Ei(args) => ei::run(*args, global),
            Command::Shd(args) => shd::run(*args, global),
            Command::Gesture(args) => gesture::run(*args, global),
            Command::Campaign(args) => campaign::run(&args, global),
            Command::Compare(args) => compare::run(&args, global),
            Command::Eval(args) => eval::run(&args, global),
            Command::Observe(args) => observe::run(&args, global),
            Command::Import(args) => import::run(&args, global),
            Command::Export(args) => export::run(&args),
            Command::Analyze(args) => analyze::run(args, global),
            Command::Explain(args) => explain::run(args, global),
            Command::Verify(args) => verify::run(args, global),
            Command::Plugin(args) => plugin::run(args, global),
            Command::Data(args) => data::run(args, global),
            Command::Completions(args) => manual::completions(&args),
            Command::Man(args) => manual::man(&args),
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

/// The tree of commands and their flags: what help, and the tests that try every flag, are made from.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// A command line as it is read; `words` begin with the program's name.
///
/// # Errors
/// When it has a word that is no command, no flag or no value.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, clap::Error> {
    let command = Cli::command();
    let words = flags::words::canonical(&command, words);
    command.try_get_matches_from(words)
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    let cli = parse(std::env::args_os()).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => match flags::value_error(&error) {
            Some(text) => {
                complain(&format!("{text}\n\nFor more information, try '--help'."));
                return ExitCode::from(2);
            }
            None => error.format(&mut Cli::command()).exit(),
        },
    };
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
        None if error.is::<Usage>() || is_setting(error) => 2,
        None => 1,
    }
}

/// Whether a learner refuses its settings, which flags or a configuration gave.
fn is_setting(error: &anyhow::Error) -> bool {
    let program = error.downcast_ref::<ProgramError>().or_else(|| match error.downcast_ref::<TrainError>() {
        Some(TrainError::Program(inner)) => Some(inner),
        _ => None,
    });
    let learn = error.downcast_ref::<LearnError>().or(match program {
        Some(ProgramError::Learn(inner)) => Some(inner),
        _ => None,
    });
    matches!(learn, Some(LearnError::Setting(_)))
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
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Calls `look` with the words of every command and each of its flags that takes a value.
    fn every_flag(command: &clap::Command, words: &[String], look: &mut dyn FnMut(&[String], &clap::Arg)) {
        for arg in command.get_arguments().filter(|a| a.get_long().is_some() && a.get_action().takes_values()) {
            look(words, arg);
        }
        for sub in command.get_subcommands() {
            every_flag(sub, &[words, &[sub.get_name().to_string()]].concat(), look);
        }
    }

    #[test]
    fn every_number_has_a_range() {
        let cli = command();
        let (mut numbers, mut counts) = (0, 0);
        every_flag(&cli.clone(), &["etrace".to_string()], &mut |words, arg| {
            let flag = arg.get_long().unwrap_or_default().to_string();
            // What stands in the way of one flag's value is the value itself, never another flag.
            let refuses = |value: &str| {
                let words = words.iter().cloned().chain([format!("--{flag}={value}")]);
                let error = cli.clone().try_get_matches_from(words).err();
                error.is_some_and(|e| matches!(e.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue))
            };
            if !refuses("word") {
                return;
            }
            if !refuses("0.5") {
                numbers += 1;
                for value in ["nan", "inf", "-inf", "1e999"] {
                    assert!(refuses(value), "{words:?} --{flag} {value}");
                }
            } else if !refuses("6") {
                counts += 1;
                // Seeds and numbers of people are names, and may be any.
                let name = flag == "seed" || flag == "held_out";
                assert!(name || (refuses("18446744073709551615") && refuses("-1")), "{words:?} --{flag}");
            }
        });
        assert!(numbers > 60 && counts > 40, "{numbers} numbers and {counts} counts were looked at");
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
