//! `etrace train`: any network on any task whose shapes fit.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use tasks::Split;

use super::{
    Global, OrUsage,
    common::print,
    data,
    flags::learner::LearnerFlags,
    flags::passes,
    train::{self, RunFlags},
    usage,
};
use crate::{
    cell::{
        rate::CELLS,
        spiking::{NeuronConfig, SynapseConfig},
    },
    experiment::{Experiment, NetConfig, TaskConfig},
    learn::Method,
    presets::{PRESETS, Preset},
    report::{Align, Table},
    settings::{Change, change, table},
};

/// The smoothing of factorised traces, where neither a flag nor the configuration says one.
const DECAY: f64 = 0.9;

/// How long a task without end is trained, where the configuration counts passes over a data set.
const BATCHES: u64 = 1000;

/// Trains any network on any task whose shapes fit. The experiment is a preset (`dms-small`), a configuration file (`config.toml` of
/// any run is one; `--dry-run` prints one), or a layer or rate cell by name; --set changes single settings of it.
///
/// A name exchanges a part: `--set net=alif-exp-cu`, `--set net=gru`, `--set net.synapse=exp-co`, `--set task=copying`. The new part
/// has its standard settings, but keeps those that the old one had too. --list shows what there is.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// Preset, configuration file, folder of a run, layer, or rate cell
    #[arg(value_name = "CONFIG", required_unless_present_any = ["list", "resume"])]
    config: Option<String>,
    /// One setting of the experiment, as in net.n_rec=100; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Change>,
    /// Print all presets, tasks, networks, neurons, synapses and rate cells
    #[arg(long)]
    list: bool,
    /// How long: passes over a data set, or batches where trials are made as they are needed
    #[arg(long, value_parser = passes)]
    epochs: Option<u64>,
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    run: RunFlags,
}

/// Runs the command.
///
/// # Errors
/// When there is no such experiment, a setting cannot be as it is told, shapes do not fit, or training fails.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if args.list {
        return print(&listing());
    }
    let lines = train::Lines::Batches(|r| {
        let (short, score) = (r.score.measure().short(), r.score.value());
        format!("Batch {:4}, loss = {:.8}, {short} = {score:.6}, time = {:.5} s", r.number, r.loss, r.seconds)
    });
    let name = args.config.as_deref().unwrap_or("run");
    let folder = Path::new(name).file_stem().map_or("run".into(), |stem| stem.to_string_lossy().into_owned());
    if args.run.resume.is_some() && !args.set.is_empty() {
        bail!(usage(
            "--set belongs to new runs, and --resume goes on with an old one as it is; leave one of them out".into()
        ));
    }
    train::run(&folder, &args.run, args.epochs, global, lines, || resolve(args, name, global))
}

/// The experiment of a preset, a configuration file or the folder of a run.
///
/// # Errors
/// When there is none, or its file is not right: the user's mistake.
pub fn experiment(name: &str) -> Result<Experiment> {
    let path = Path::new(name);
    let file = if path.is_dir() { path.join("config.toml") } else { PathBuf::from(name) };
    let is_file = file.extension().is_some_and(|e| e == "toml") || file.is_file() || name.contains('/');
    if !is_file {
        return Experiment::published(name).or_usage();
    }
    if path.is_dir() {
        return Experiment::of_run(path).or_usage();
    }
    let read = || format!("a configuration is a file, but {} cannot be read; name one, or a preset", file.display());
    let text = std::fs::read_to_string(&file).with_context(read).or_usage()?;
    Experiment::read(&text).with_context(|| format!("{} is no configuration", file.display())).or_usage()
}

/// Whether a change is one of `key`, or of something inside it.
fn touches(changes: &[Change], key: &str) -> bool {
    let inside = |path: &str| path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    changes.iter().any(|change| inside(&change.path.join(".")))
}

/// An [`experiment`] with settings changed. If the task is another, the loss starts where that task says.
///
/// # Errors
/// When there is no such experiment or setting: the user's mistake.
pub fn changed(name: &str, changes: &[Change]) -> Result<Experiment> {
    with(experiment(name)?, changes)
}

/// An experiment with settings changed, as [`changed`].
///
/// # Errors
/// When there is no such setting: the user's mistake.
pub fn with(mut all: Experiment, changes: &[Change]) -> Result<Experiment> {
    for set in changes {
        all = change(&all, set).with_context(|| format!("--set {set}")).or_usage()?;
    }
    if touches(changes, "task") && !touches(changes, "learner.warmup") {
        (_, all.learner.warmup) = all.task.timing().or_usage()?;
    }
    Ok(all)
}

fn resolve(args: &Args, name: &str, global: &Global) -> Result<Experiment> {
    let all = changed(name, &args.set)?;
    let flags = Flags { set: &args.set, epochs: args.epochs, learner: &args.learner, run: &args.run };
    flags.settle(all, name, global)
}

/// The flags that change an experiment.
pub struct Flags<'a> {
    /// Settings that were changed.
    pub set: &'a [Change],
    /// How long.
    pub epochs: Option<u64>,
    /// The learning rule.
    pub learner: &'a LearnerFlags,
    /// Seed and threads.
    pub run: &'a RunFlags,
}

impl Flags<'_> {
    /// The experiment `all`, called `name`, with these flags, if its parts fit each other.
    ///
    /// # Errors
    /// When they do not: the user's mistake.
    pub fn settle(&self, mut all: Experiment, name: &str, global: &Global) -> Result<Experiment> {
        let touches = |key: &str| touches(self.set, key);
        all.learner = self.learner.config(&all.learner, DECAY)?;
        let flags = self.run.settings(all.settings.batch);
        all.settings.seed = self.run.seed.map_or(all.settings.seed, |_| flags.seed);
        all.settings.threads = self.run.n_data_worker.map_or(all.settings.threads, |_| flags.threads);
        let endless = all.settings.batches.is_some();
        if let Some(longer) = self.epochs {
            *(if endless { &mut all.settings.batches } else { &mut all.settings.epochs }) = Some(longer);
        }
        all.check().or_usage()?;
        let task = all.task.open().or_usage()?;
        all.fits(task.as_ref()).or_usage()?;
        if task.samples(Split::Train).or_usage()?.is_none() {
            if touches("settings.epochs") {
                let text = "settings.epochs counts passes over a data set, but the trials of this task are made as they are needed";
                bail!(usage(format!("{text}; set settings.batches, or give --epochs, which counts batches here")));
            }
            // A task with files was exchanged for one without.
            if all.settings.epochs.take().is_some() {
                all.settings.batches.get_or_insert(self.epochs.unwrap_or(BATCHES));
            }
        }
        if task.samples(Split::Test).or_usage()?.is_none() {
            (all.settings.evaluate, all.settings.select) = (None, false);
        }
        if let Some(split) = &all.settings.evaluate {
            let known = Split::ALL.into_iter().find(|s| s.name() == split);
            if known.is_none_or(|split| !task.samples(split).is_ok_and(|n| n.is_some())) {
                bail!(usage(format!(
                    "settings.evaluate must be a split of {}, which has no {split}; set settings.evaluate=test, or hold samples out of the \
                 training set (task.held_out)",
                    task.name()
                )));
            }
        }
        let falls =
            Preset::find(name).and_then(|preset| preset.epochs_per_fall).filter(|_| !touches("optimizer.schedule"));
        data::fit(&mut all, task.as_ref(), falls, global)?;
        Ok(all)
    }
}

/// Everything that can be chosen, from the tables.
fn listing() -> String {
    let mut text = String::new();
    let mut section = |title: &str, rows: Vec<[String; 3]>| {
        let mut table = Table::new(["name", "also", "what"].map(|c| (c, Align::Left))).indented(2);
        rows.into_iter().for_each(|row| table.row(row));
        let _ = writeln!(text, "{title}\n{table}\n");
    };
    section("Presets", PRESETS.iter().map(|p| [p.name.into(), String::new(), p.doc.into()]).collect());
    section("Tasks (--set task=NAME)", table::lines::<TaskConfig>());
    section("Networks (--set net=NAME)", table::lines::<NetConfig>());
    section("Neurons (--set net.neuron=NAME, or net=NEURON-SYNAPSE)", table::lines::<NeuronConfig>());
    section("Synapses (--set net.synapse=NAME)", table::lines::<SynapseConfig>());
    let cells = CELLS.iter().map(|row| [row.name.into(), row.aliases.join(", "), row.doc.into()]);
    section("Rate cells (--set net=NAME)", cells.collect());
    section("Learning rules (--method NAME, or --set learner.method=NAME)", table::lines::<Method>());
    text
}
