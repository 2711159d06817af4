//! `etrace export`: a run for other programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use super::{OrUsage, common, eval::CheckpointName, import::SchemeName, tensorboard, usage};
use crate::{
    experiment::{Experiment, NetConfig},
    net::nir::{convert::convert, export::export},
    say,
    train::checkpoint::{self, write_atomic},
};

/// Writes a run for other programs: its network as a graph of NIR (HDF5), which the Python package `nir` and what builds on it read, or what it
/// recorded as an event file of TensorBoard.
///
/// In NIR an imported network is written with the arrays that it has; layers of LIF neurons become nodes that compute the same in the run's
/// step. What has no counterpart is refused by name. An event file has the scalars of all updates and evaluations, histograms of the parameters
/// in each checkpoint, the plots in the run's folder, and the settings as hyper-parameters.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// Folder of the run
    run: PathBuf,
    /// The graph to write
    #[arg(long, value_name = "FILE", required_unless_present = "tensorboard")]
    nir: Option<PathBuf>,
    /// The folder for an event file; `tensorboard --logdir` takes it, or one above it
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Which parameters [default: those that the run reports: best where it selects, else last]
    #[arg(long, value_enum)]
    checkpoint: Option<CheckpointName>,
    /// For layers of LIF neurons: the scheme in whose steps the graph computes the same [default: exponential]
    #[arg(long, value_enum)]
    scheme: Option<SchemeName>,
}

/// Runs the command.
///
/// # Errors
/// When the folder is no run, or its network has no counterpart.
pub fn run(args: &Args) -> Result<()> {
    common::existing_directory(
        &args.run,
        "export takes the folder of a run",
        "name one that a training command wrote",
    )?;
    let experiment = Experiment::of_run(&args.run).or_usage()?;
    if let Some(out) = &args.tensorboard {
        say!("written to {}", tensorboard::write(&args.run, out).or_usage()?.display());
    }
    if let Some(path) = &args.nir {
        network(args, &experiment, path)?;
    }
    Ok(())
}

/// Writes the network as a graph of NIR.
fn network(args: &Args, experiment: &Experiment, path: &Path) -> Result<()> {
    let reported = if experiment.settings.select { CheckpointName::Best } else { CheckpointName::Last };
    let name = args.checkpoint.unwrap_or(reported).name();
    let params = checkpoint::arrays(&args.run, name)?;
    let scheme = match (&experiment.net, args.scheme) {
        (NetConfig::Nir(net), Some(given)) if given.scheme() != net.scheme => bail!(usage(format!(
            "--scheme is for networks that become a graph when they are exported, and this one is a graph, in {} steps; leave it out",
            net.scheme.name()
        ))),
        (_, given) => given.unwrap_or(SchemeName::Exponential).scheme(),
    };
    let (net, params) = convert(&experiment.net, &params, scheme).or_usage()?;
    let graph = export(&net, &params).or_usage()?;
    write_atomic(path, &graph.to_bytes())
        .with_context(|| format!("cannot write {}; check the path, its permissions and the free space", path.display()))
        .or_usage()?;
    say!(
        "{}: {} nodes and {} edges of the {name} checkpoint; steps of {} ms, {}, times in {}",
        path.display(),
        graph.nodes.len(),
        graph.edges.len(),
        net.dt,
        net.scheme.name(),
        net.time_unit.name()
    );
    Ok(())
}
