//! `etrace eval`: how good a trained network is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, ValueEnum};
use tasks::{Split, Task};

use super::{
    Global, OrUsage,
    bar::Bar,
    common,
    flags::{ReplicaFlag, some_passes},
};
use crate::{
    cell::Model,
    experiment::{Experiment, NetConfig},
    net::Unstable,
    say,
    train::{
        checkpoint::{self, write_atomic},
        efficiency::{EFFICIENCY, EfficiencyProgram},
        evaluate::{Evaluation, Rates, evaluate, layer_label},
        program::{EvalProgram, TrainState},
        replicas::Parts,
    },
};

/// Tests a trained network: loss, accuracy or normalised error (samples of people heard in training and of others apart), the classes
/// it confuses, the firing rates of its layers, and what it costs: footprint, sparsity, synaptic operations.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// Folder of the run
    run: PathBuf,
    /// Folder of the data [default: where the run had them]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Which part of the data
    #[arg(long, value_enum, default_value = "test")]
    split: SplitName,
    /// Which parameters [default: those that the run reports: best where it selects, else last]
    #[arg(long, value_enum)]
    checkpoint: Option<CheckpointName>,
    #[command(flatten)]
    replicas: ReplicaFlag,
    /// Batches over which operations are counted, and of fresh trials where trials are made as they are needed
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = some_passes)]
    batches: u64,
    /// Where confusion.csv, confusion.svg/.png and efficiency.json go [default: the run's folder]
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SplitName {
    Train,
    Valid,
    Test,
}

/// A checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckpointName {
    /// The one with the best evaluation.
    Best,
    /// The newest.
    Last,
}

impl CheckpointName {
    /// The checkpoint.
    pub fn name(self) -> checkpoint::Name {
        match self {
            CheckpointName::Best => checkpoint::Name::Best,
            CheckpointName::Last => checkpoint::Name::Last,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the folder is no run, or data are missing.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    common::existing_directory(&args.run, "eval takes the folder of a run", "name one that a training command wrote")?;
    let mut experiment = Experiment::of_run(&args.run).or_usage()?;
    if let Some(data) = &args.data {
        experiment.task.set_data(data).or_usage()?;
    }
    let task = experiment.task.open().or_usage()?;
    let split = match args.split {
        SplitName::Train => Split::Train,
        SplitName::Valid => Split::Valid,
        SplitName::Test => Split::Test,
    };
    let batches = task.samples(split)?.is_none().then_some(args.batches);
    let session = global.session_of(args.replicas.devices(), None)?;
    let spec = experiment.spec_of(task.steps(), Parts(session.replicas())).or_usage()?;
    let reported = if experiment.settings.select { CheckpointName::Best } else { CheckpointName::Last };
    let name = args.checkpoint.unwrap_or(reported).name();
    let (state, progress) = checkpoint::load(&args.run, name, &session, &spec.model, spec.optimizer.rule)?;
    let program = EvalProgram::new(&session, &spec)?;
    let settings = &experiment.settings;
    let total = batches.map_or_else(|| task.batches(split, spec.batch()), |n| Ok(Some(n)))?;
    let bar = Bar::new(global, total, "batches");
    let of = (settings.seed, batches);
    let found = evaluate(&program, &task, &state, split, of, settings.threads, &mut || bar.inc());
    bar.finish();
    let found = found?;
    say!(
        "{}, {name} checkpoint after {} updates: {split} {}, loss {:.4}, {} samples",
        task.name(),
        progress.step,
        found.score,
        found.loss,
        found.samples
    );
    let dir = args.out.as_deref().unwrap_or(&args.run);
    report(&found, task.as_ref(), split, experiment.net.dt(), dir)?;
    unstable(&experiment.net, &spec.model, &state)?;
    let counted = (settings.seed, args.batches);
    let efficiency = EfficiencyProgram::new(&session, &spec)?.run(&task, &state, split, counted, &found)?;
    say!("{efficiency}");
    let path = dir.join(EFFICIENCY);
    let written = write_atomic(&path, &serde_json::to_vec_pretty(&efficiency)?);
    written
        .with_context(|| format!("cannot write {}; check the path, its permissions and the free space", path.display()))
}

/// Prints accuracy by speaker and the firing rates, and writes the confusions into `dir`.
///
/// # Errors
/// When data cannot be read or files cannot be written.
pub fn report(found: &Evaluation, task: &dyn Task, split: Split, dt: f64, dir: &Path) -> Result<()> {
    let (people, known) = (task.people(split)?, task.people(Split::Train)?);
    if split != Split::Train && !people.is_empty() {
        for (who, samples, accuracy) in found.by_person(&people, &known) {
            if let Some(accuracy) = accuracy {
                say!("{samples} samples of people {who}: accuracy {accuracy:.4}");
            }
        }
    }
    // Without a training split at hand there is nothing to compare with.
    let repeated = if split == Split::Train { 0 } else { task.repeated(split).unwrap_or(0) };
    if repeated > 0 {
        say!(
            "{repeated} of the {} {split} samples are training samples too: this accuracy says how well they were learned, not how \
             well new ones are told apart",
            found.samples
        );
    }
    if !found.rates.is_empty() {
        say!("{}", Rates(&found.rates, dt));
    }
    for layer in found.silent() {
        say!("{}", silent(layer));
    }
    if !found.answers.is_empty() {
        found.write(dir, &format!("{} {split}: accuracy {:.3}", task.name(), found.score.value()))?;
        say!("confusions in {}/confusion.csv, .svg, .png", dir.display());
    }
    Ok(())
}

/// Warns of layers with neurons whose states grow without bound between spikes.
///
/// # Errors
/// When the parameters cannot be read from the device.
pub fn unstable(net: &NetConfig, model: &Model, state: &TrainState) -> Result<()> {
    let mut params = BTreeMap::new();
    for (spec, buffer) in model.params.iter().zip(&state.params) {
        params.insert(spec.name.clone(), buffer.to_array()?.to_f64_vec());
    }
    for Unstable { layer, neurons, of, largest } in net.unstable(&params) {
        say!(
            "warning: {neurons} of {of} neurons of layer {layer} have an unstable transition (largest eigenvalue {largest:.4}, above 1): \
             between spikes their states grow without bound, and gradients with them; use a cell without adaptation, clip gradients \
             (optimizer.clip), or shorten the sequences"
        );
    }
    Ok(())
}

/// What to do about a layer that does not fire.
pub fn silent(layer: &str) -> String {
    let layer = layer_label(layer);
    format!(
        "warning: layer {layer} did not spike once, so the weights that read its spikes cannot learn; raise the scale of its \
         input (--ff_scale, for shd --inp_scale; in `etrace train` net.ff_scale) or lower its threshold"
    )
}
