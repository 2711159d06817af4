//! `etrace observe`: pictures of what a trained network does.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};
use tasks::Split;

use super::{Global, OrUsage, common};
use crate::{
    experiment::Experiment,
    plot::{Axis, Figure, Panel, Panels, Series},
    report::{Align, Table},
    train::{checkpoint, history::History, observe::Observation, run::RunDir},
};

/// Pictures of a run: its curves, and for some samples the input, the spikes and potentials of each layer, the outputs and the
/// decision.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// Folder of the run
    run: PathBuf,
    /// How many samples
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=64))]
    samples: u16,
    /// Which parameters
    #[arg(long, value_enum, default_value = "best")]
    checkpoint: Checkpoint,
    /// Which batch the samples come from; training never saw those of the default
    #[arg(long, default_value_t = 1_000_000_007)]
    seed: u64,
    /// Where the pictures go [default: the run's folder]
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Checkpoint {
    Best,
    Last,
}

/// Neurons whose potential is drawn.
const TRACES: usize = 8;

/// Runs the command.
///
/// # Errors
/// When the folder is no run, or a picture cannot be written.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    common::existing_directory(
        &args.run,
        "observe takes the folder of a run",
        "name one that a training command wrote",
    )?;
    let mut experiment: Experiment = RunDir::config(&args.run).or_usage()?;
    History::read(&args.run)?.draw(&args.run)?;
    let task = experiment.task.open().or_usage()?;
    let slots = experiment.optimizer.rule.slots();
    experiment.settings.batch = usize::from(args.samples);
    let spec = experiment.spec(task.steps());
    let split = if task.samples(Split::Test)?.is_some() { Split::Test } else { Split::Train };
    let batch = task.batch(split, args.seed, 0, 0, experiment.settings.batch)?;
    let session = global.session()?;
    let name = if args.checkpoint == Checkpoint::Best { "best" } else { "last" };
    let trained = spec.model.params.iter().filter(|p| p.trainable).count();
    let file = args.run.join(format!("{name}.safetensors"));
    let (state, progress) = checkpoint::load(&file, &session, &spec.model, slots * trained)?;
    let seen = Observation::new(&session, &spec, &state.params, batch, args.seed)?;
    let dt = experiment.net.dt();

    let out = args.out.clone().unwrap_or_else(|| args.run.clone());
    std::fs::create_dir_all(&out)?;
    let mut table = Table::new([("sample", Align::Right), ("target", Align::Right), ("answer", Align::Right)]);
    for b in 0..seen.samples() {
        table.row([b.to_string(), seen.target(b).to_string(), seen.decision(b).to_string()]);
        draw(&seen, b, &task.phases(), dt, &out)?;
    }
    println!("{}, {name} checkpoint after {} updates\n\n{table}\n", task.name(), progress.step);
    for (layer, neurons) in seen.layers() {
        let rate = seen.rate(&layer, dt);
        let silent = if rate == 0.0 { ": this layer never fires; raise --ff_scale or lower the threshold" } else { "" };
        println!(
            "layer {} of {neurons} neurons fires at {rate:.2} Hz{silent}",
            if layer.is_empty() { "0" } else { &layer }
        );
    }
    println!("written to {}: curve.svg/.png, sample-0..{}.svg/.png", out.display(), seen.samples() - 1);
    Ok(())
}

fn draw(seen: &Observation, b: usize, phases: &[(String, usize, usize)], dt: f64, out: &Path) -> Result<()> {
    let time = |t: usize| t as f64 * dt;
    let points = |values: Vec<f32>| values.into_iter().enumerate().map(move |(t, v)| (time(t), f64::from(v)));
    let events = |spikes: Vec<(usize, usize)>| spikes.into_iter().map(move |(t, i)| (time(t), i)).collect::<Vec<_>>();
    let right = if seen.target(b) == seen.decision(b) as i32 { "right" } else { "wrong" };
    let mut panels = Panels::new(format!("Sample {b}"), Axis::new("time (ms)").range(0.0, time(seen.batch.steps)))
        .subtitle(format!("target {}, answer {} ({right})", seen.target(b), seen.decision(b)))
        .width(1000)
        .panel(Panel::raster("input", seen.batch.n_in, events(seen.input_spikes(b))));
    for (name, from, to) in phases {
        panels = panels.phase(name, time(*from), time(*to));
    }
    for (layer, neurons) in seen.layers() {
        let label = |what: &str| if layer.is_empty() { what.to_string() } else { format!("{layer} {what}") };
        panels = panels.panel(Panel::raster(label("spikes"), neurons, events(seen.spikes(&layer, b))));
        let shown = (0..neurons).step_by(neurons.div_ceil(TRACES).max(1));
        let traces: Vec<Series> = shown
            .map(|i| Series::new(format!("{i}"), points(seen.potential(&layer, b, i))).markers(false))
            .filter(|_| !seen.potential(&layer, b, 0).is_empty())
            .collect();
        if !traces.is_empty() {
            panels = panels.panel(Panel::traces(Axis::new(label("potential")), traces).stacked().height(180));
        }
    }
    let outputs =
        (0..seen.classes()).map(|c| Series::new(format!("class {c}"), points(seen.output(b, c))).markers(false));
    panels.panel(Panel::traces(Axis::new("readout"), outputs)).save(out.join(format!("sample-{b}")))?;
    Ok(())
}
