//! `etrace completions` and `etrace man`: what a shell and `man` know of the commands. Both are made from the declarations of the flags, as
//! help is.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, OrUsage, common::print};
use crate::say;

/// Prints completions: `etrace completions bash > ~/.local/share/bash-completion/completions/etrace`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Completions {
    /// For which shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Writes manual pages: `etrace man --out ~/.local/share/man/man1`.
#[derive(Clone, Debug, clap::Args)]
pub struct Man {
    /// Folder of the pages; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Prints the completions of a shell.
///
/// # Errors
/// None: what cannot be written is reported when the command ends.
pub fn completions(args: &Completions) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "etrace", &mut text);
    print(String::from_utf8_lossy(&text).trim_end())
}

/// Writes a manual page for each command.
///
/// # Errors
/// When the folder cannot be made or written: the user's mistake.
pub fn man(args: &Man) -> Result<()> {
    let folder = &args.out;
    let cannot = || format!("--out must be a folder that can be written, got {}; name another", folder.display());
    fs::create_dir_all(folder).with_context(cannot).or_usage()?;
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder).with_context(cannot).or_usage()?;
    say!("written to {}: etrace.1, and a page for each command; read one with `man -l`", folder.display());
    Ok(())
}
