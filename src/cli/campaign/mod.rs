//! `etrace campaign`: many runs from one file, one table and one plot of them.
//!
//! ```toml
//! base = "dms-small"                 # preset, configuration file (from the folder of this file), or folder of a run
//! set = ["settings.batches=150"]     # changes of the base, for all runs
//! seeds = [0, 1, 2]
//! evaluate = true                    # columns of what the networks cost, by `etrace eval`
//!
//! [grid]                             # every combination
//! "learner.method" = ["bptt", "d-rtrl"]
//! "optimizer.lr" = [1e-3, 3e-3]
//! ```
//!
//! In place of the grid, `[[runs]]` with a `name` and a `set` each lists variants one by one. A run is an `etrace train` of its own, in
//! `OUT/VARIANT/seed-N`: what it is, whether it is complete and how it goes on is as for any run, so a campaign that was killed goes on
//! where it was.

mod plan;
mod report;
mod work;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use super::{Global, OrUsage, Stopped, flags::threads, usage};
use crate::{
    report::{Align, Table},
    say,
    train::stop,
};
use plan::Plan;

/// Trains many variants of an experiment, each with several seeds, and compares them: a table (mean, spread, best), CSV files, and curves
/// with bands. The file names a base, changes, seeds, and a grid or a list of variants; docs/campaigns.md shows one. A campaign
/// that was stopped goes on with the same command.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// The campaign, a TOML file
    file: PathBuf,
    /// Folder of the runs and of what comes of them [default: checkpoints/ and the name of the file]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Runs at a time, as far as memory allows
    #[arg(long, value_name = "N", default_value = "1", value_parser = threads)]
    at_a_time: usize,
    /// Print the runs and stop
    #[arg(long = "dry-run")]
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// When the file is no campaign or a variant no experiment (before anything runs), and when a run fails (after the others).
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let name = args.file.file_stem().map_or("campaign".into(), |stem| stem.to_string_lossy().into_owned());
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("checkpoints").join(name));
    let plan = Plan::read(&args.file, &out).or_usage()?;
    if args.dry_run {
        let mut table = Table::new(["run", "changes"].map(|c| (c, Align::Left)));
        for run in &plan.runs {
            let variant = &plan.variants[run.variant];
            table
                .row([run.dir.display().to_string(), format!("{} seed={}", variant.changes(), run.seed).trim().into()]);
        }
        say!("{table}");
        return Ok(());
    }
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    plan.write_configurations()?;
    stop::listen().context("cannot listen for signals")?;
    let mut failures = work::all(&plan, args.at_a_time, global)?;
    if plan.evaluate && stop::requested().is_none() {
        failures.extend(work::evaluate(&plan, global)?);
    }
    let done = report::Report::read(&plan)?;
    if let Some(signal) = stop::requested() {
        say!("interrupted with {} of {} runs complete; the same command goes on", done.complete(), plan.runs.len());
        return Err(Stopped(signal).into());
    }
    say!("\n{done}");
    done.write(&out)?;
    say!("written to {}: runs.csv, summary.csv, curves.svg/.png, and a folder for each variant", out.display());
    if !failures.is_empty() {
        bail!(
            "{} of {} runs failed; the table has the others:\n{}",
            failures.len(),
            plan.runs.len(),
            failures.join("\n")
        );
    }
    Ok(())
}

/// A wrong campaign file.
fn wrong(text: String) -> anyhow::Error {
    usage(text).into()
}
