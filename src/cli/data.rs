//! `etrace data`: what is in a data directory.

use std::path::PathBuf;

use clap::Subcommand;

use super::{
    Failed, Global, Usage,
    common::{existing_directory, print},
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read every file that a task would read; say what is there and what is damaged
    Check {
        /// Directory with data (NMNIST/, SHD/, DVSGesture/, .h5 files)
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// When there is no data, or some is damaged.
pub fn run(args: Args, _: &Global) -> anyhow::Result<()> {
    let Action::Check { dir } = args.action;
    existing_directory(&dir, "`data check` reads a directory", "name the folder that holds the data set")?;
    let report = tasks::check(&dir).map_err(|error| match error {
        tasks::Error::Missing { .. } => Usage(error.into()).into(),
        other => anyhow::Error::from(other),
    })?;
    print(&report.to_string())?;
    if report.is_sound() { Ok(()) } else { Err(Failed.into()) }
}
