//! `etrace import`: a network of another program as a run.

mod check;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use tasks::{events::TimeUnit, nir};

use super::{
    Global, OrUsage, common,
    flags::{learner::LearnerFlags, passes, positive},
    train::{self, RunFlags},
    train_any, usage,
};
use crate::{
    cell::{Init, Surrogate},
    experiment::{Experiment, NetConfig},
    learn::Learner,
    net::{
        Network, NirNet,
        nir::{
            Scheme, TRAINED,
            import::{Imported, STEP, Steps, import},
        },
    },
    presets::alone,
    report::{Align, Table, sizes},
    say,
    settings::Change,
    train::{
        checkpoint::Name,
        program,
        record::{Entry, Setting},
    },
};

/// Makes a run of a network in a NIR file: a configuration and a checkpoint with the arrays of the file, bit for bit. Any command goes on
/// with it: `etrace train --resume`, `eval`, `observe`, `explain`, `export`.
///
/// NIR says what happens in continuous time; --scheme and --dt say in which steps. A recurrent edge carries the value of the step before. What
/// has no counterpart here is refused by name.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// The NIR file
    file: PathBuf,
    /// How equations become steps [default: as an export says, else euler]
    #[arg(long, value_enum)]
    scheme: Option<SchemeName>,
    /// Step, ms [default: as an export says, else that of the task, else 1]
    #[arg(long, value_parser = positive)]
    dt: Option<f64>,
    /// Unit of the times in the file [default: as an export says, else s]
    #[arg(long, value_enum)]
    time_unit: Option<UnitName>,
    /// Quantities that are trained, with commas: weight, bias, scale, tau, v_threshold, ...
    #[arg(long, value_name = "NAME,NAME", default_value = "weight,bias")]
    trained: String,
    /// Derivative of a spike: relu, s2nn, s2nn2, multi_gaussian, leaky_relu, inv_square, boxcar, gaussian, sigmoid or triangle
    #[arg(long, visible_alias = "spk_fun", default_value = "relu")]
    surrogate: String,
    /// Preset, configuration file or run whose task, rule and optimiser the run gets [default: random spikes of the network's sizes]
    #[arg(long, value_name = "CONFIG")]
    experiment: Option<String>,
    /// One setting of that experiment, as in task.dir=data; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Change>,
    /// How long `etrace train --resume` trains: passes over a data set, or batches where trials are made as they are needed
    #[arg(long, value_parser = passes)]
    epochs: Option<u64>,
    /// Compare every node with the arrays of another simulator, [T, n] by the node's name, for the array `input`: an .npz file
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    run: RunFlags,
}

/// Values of `--scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemeName {
    /// Forward Euler: v' = v + dt/tau (v_inf - v).
    Euler,
    /// Exact for an input that is constant during a step: v' = v_inf + (v - v_inf) exp(-dt/tau).
    Exponential,
}

impl SchemeName {
    /// The scheme.
    pub fn scheme(self) -> Scheme {
        match self {
            SchemeName::Euler => Scheme::Euler,
            SchemeName::Exponential => Scheme::Exponential,
        }
    }
}

/// Values of `--time_unit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UnitName {
    /// Seconds, as NIR has them.
    S,
    /// Milliseconds.
    Ms,
}

impl UnitName {
    fn unit(self) -> TimeUnit {
        match self {
            UnitName::S => TimeUnit::S,
            UnitName::Ms => TimeUnit::Ms,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the file is no graph of NIR, something in it has no counterpart, or the experiment does not fit.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    common::existing_file(&args.file, "import takes a NIR file", "name one that nir.write made")?;
    if args.run.resume.is_some() {
        bail!(usage("import makes a new run; go on with one with etrace train --resume RUN".into()));
    }
    args.run.refuse_training("import", &[("--replicas", args.run.replicas.replicas.is_some())])?;
    let graph = nir::Graph::open(&args.file).or_usage()?;
    let base = args.experiment.as_deref().map(train_any::experiment).transpose()?;
    // Without one of its own a graph takes the step of the task.
    let of_task = base.as_ref().and_then(|all| all.task.dt()).filter(|_| !graph.metadata.contains_key(STEP));
    let how = Steps {
        scheme: args.scheme.map(SchemeName::scheme),
        dt: args.dt.or(of_task),
        time_unit: args.time_unit.map(UnitName::unit),
    };
    let mut found = import(&graph, how).or_usage()?;
    found.net.trained = args.trained.split(',').map(|name| name.trim().to_string()).filter(|n| !n.is_empty()).collect();
    for name in found.net.trained.iter().filter(|name| !TRAINED.contains(&name.as_str())) {
        if found.net.nodes.values().all(|node| !node.arrays.contains_key(name)) {
            found.remarks.push(format!("no node has a `{name}`, so that --trained {name} changes nothing"));
        }
    }
    found.net.surrogate = Surrogate::by_name(&args.surrogate)
        .ok_or_else(|| usage(format!("--surrogate must be one of {}, got `{}`", Surrogate::names(), args.surrogate)))?;
    found.net.check().map_err(|e| usage(e.to_string()))?;
    let experiment = experiment(args, &found.net, base, global)?;
    show(args, &found, global)?;
    plant(args, &found, experiment, global)
}

/// The experiment of `base`, or one of random spikes, with the network and the settings of the flags.
fn experiment(args: &Args, net: &NirNet, base: Option<Experiment>, global: &Global) -> Result<Experiment> {
    let all = match base {
        Some(base) => Experiment { net: net.clone().into(), ..base },
        None => alone(net.clone().into()),
    };
    let all = train_any::with(all, &args.set)?;
    // What else is set of the network leaves its arrays and their meaning as they are.
    let free =
        |net: &NirNet| NirNet { diff_spike: false, surrogate: Surrogate::default(), weight_scale: 1.0, ..net.clone() };
    match &all.net {
        NetConfig::Nir(set) if free(set) == free(net) => {}
        _ => bail!(usage(
            "--set may change net.diff_spike, net.surrogate and net.weight_scale of an imported network, and nothing else of it; use \
             --scheme, --dt, --time_unit and --trained, or change the file"
                .into()
        )),
    }
    let name = args.experiment.as_deref().unwrap_or("random");
    let flags = train_any::Flags { set: &args.set, epochs: args.epochs, learner: &args.learner, run: &args.run };
    flags.settle(all, name, global)
}

/// What was found.
fn show(args: &Args, found: &Imported, global: &Global) -> Result<()> {
    let (net, plan) = (&found.net, found.net.plan()?);
    say!(
        "{}: {} inputs, {} outputs; {} steps of {} ms, times in {}",
        args.file.display(),
        net.n_in(),
        net.n_out(),
        net.scheme.name(),
        net.dt,
        net.time_unit.name()
    );
    let mut table =
        Table::new([("node", Align::Left), ("type", Align::Left), ("values", Align::Left), ("input", Align::Left)]);
    for name in &plan.order {
        let from =
            |(from, recurrent): &(String, bool)| format!("{from}{}", if *recurrent { " (step before)" } else { "" });
        let from: Vec<String> = plan.inputs[name].iter().map(from).collect();
        table.row([name.clone(), net.nodes[name].kind.clone(), sizes(&plan.shapes[name]), from.join(" + ")]);
    }
    say!("{table}");
    for remark in &found.remarks {
        global.remark(&format!("note: {remark}"));
    }
    Ok(())
}

/// Makes the run.
fn plant(args: &Args, found: &Imported, mut experiment: Experiment, global: &Global) -> Result<()> {
    experiment.task.make_absolute()?;
    let stem = args.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let dir = args.run.folder(&stem, &experiment)?;
    let global = &global.with_threads(global.threads());
    let task = experiment.task.open().or_usage()?;
    let mut spec = experiment.spec(task.steps());
    let session = global.session()?;
    if args.run.dry_run {
        return train::show(&experiment, &session, &spec, args.run.target.as_deref());
    }
    if let Err(error) = Learner::new(&spec.model, &spec.objective, &spec.learner) {
        global.remark(&format!("note: {} cannot train this network as it is: {error}", spec.learner.method.name()));
    }
    for param in &mut spec.model.params {
        // Every parameter of the model is an array of the file.
        param.init = Init::Values(found.params[&param.name].clone());
    }
    if let Some(path) = &args.check {
        check::run(path, &session, &spec.model, &found.net)?;
    }
    let state = program::start(&session, &spec.model, experiment.optimizer.rule, experiment.settings.seed)?;
    let entry = Entry::start(0, Setting::new(&session, global.threads()), Vec::new());
    train::new_run(&dir, &experiment, &entry, &spec.model, &state, &[Name::Last, Name::Best])?;
    say!(
        "written to {0}: config.toml, last and best checkpoint; train it with etrace train --resume {0}",
        folder(&dir)
    );
    Ok(())
}

fn folder(dir: &Path) -> String {
    dir.display().to_string()
}
