//! `etrace observe`: pictures of what a trained network does.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args as ClapArgs;
use hlo::pjrt::Buffer;
use tasks::{Split, Task};

use super::{
    Global, OrUsage, common,
    eval::{self, CheckpointName},
};
use crate::{
    experiment::Experiment,
    learn::Target,
    plot::{Axis, Figure, Frames, Panel, Panels, Series, Unit, quantity, round_up},
    report::{Align, Table},
    say,
    train::{
        checkpoint,
        evaluate::Rates,
        history::History,
        observe::Observation,
        program::{self, Spec},
        session::Session,
    },
};

/// Pictures of a run: its curves, and for some samples the input (frames, where it comes from an event camera), the spikes and
/// potentials of each layer, the outputs and the decision; and how sparse the activity is.
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
    checkpoint: CheckpointName,
    /// Which batch the samples come from; training never saw those of the default
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// Where the plots go [default: the run's folder]
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Args {
    /// Pictures of `samples` samples of a run, in its folder.
    pub fn new(run: PathBuf, samples: u16, checkpoint: CheckpointName) -> Args {
        Args { run, samples, checkpoint, seed: SEED, out: None }
    }
}

/// Seed of batches that training never sees.
const SEED: u64 = 1_000_000_007;

/// Neurons whose potential is drawn at most.
const TRACES: usize = 8;

/// Potentials are in the unit of the network: at rest they are 0, and thresholds are settings, most of them 1.
const UNIT: Unit = Unit::Of("a.u.");

/// Outputs with a curve to follow that are drawn at most.
const CURVES: usize = 8;

/// Frames of a sample that are drawn at most.
const FRAMES: usize = 16;

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
    let mut experiment = Experiment::of_run(&args.run).or_usage()?;
    History::read(&args.run)?.draw(&args.run)?;
    let task = experiment.task.open().or_usage()?;
    experiment.settings.batch = usize::from(args.samples);
    let spec = experiment.spec(task.steps());
    let session = global.session()?;
    let name = args.checkpoint.name();
    let (state, progress) = checkpoint::load(&args.run, name, &session, &spec.model, spec.optimizer.rule)?;
    say!("{}, {name} checkpoint after {} updates\n", task.name(), progress.step);
    let out = args.out.clone().unwrap_or_else(|| args.run.clone());
    pictures(&session, &spec, task.as_ref(), &state.params, experiment.net.dt(), args.seed, &out)
}

/// Pictures of what the network of an experiment does before any training.
///
/// # Errors
/// When data are missing, or a picture cannot be written.
pub fn untrained(experiment: &Experiment, out: &Path, samples: usize, global: &Global) -> Result<()> {
    let mut experiment = experiment.clone();
    experiment.settings.batch = samples;
    let task = experiment.task.open().or_usage()?;
    let spec = experiment.spec(task.steps());
    let session = global.session()?;
    let state = program::start(&session, &spec.model, experiment.optimizer.rule, experiment.settings.seed)?;
    say!("{}, untrained\n", task.name());
    pictures(&session, &spec, task.as_ref(), &state.params, experiment.net.dt(), SEED, out)
}

fn pictures(
    session: &Session,
    spec: &Spec,
    task: &dyn Task,
    params: &[Buffer],
    dt: f64,
    seed: u64,
    out: &Path,
) -> Result<()> {
    let split = if task.samples(Split::Test)?.is_some() { Split::Test } else { Split::Train };
    let batch = task.batch(split, seed, 0, 0, spec.evaluation.batch())?;
    let seen = Observation::new(session, spec, params, batch, seed)?;
    std::fs::create_dir_all(out)?;
    let results: &[&str] = match seen.kind {
        Target::CLASS => &["target", "answer"],
        Target::CLASSES => &["steps that count", "right"],
        _ => &["NMSE"],
    };
    let mut table = Table::new(["sample"].iter().chain(results).map(|name| (*name, Align::Right)));
    for b in 0..seen.samples() {
        let results = match seen.kind {
            Target::CLASS => vec![seen.target(b).to_string(), seen.decision(b).to_string()],
            Target::CLASSES => vec![seen.steps(b).len().to_string(), right(&seen, b).to_string()],
            _ => vec![format!("{:.4}", seen.nmse(b))],
        };
        table.row([b.to_string()].into_iter().chain(results));
        draw(&seen, b, task, dt, out)?;
        if let Some(shape) = task.frame() {
            frames(&seen, b, task, shape, dt).save(out.join(format!("sample-{b}-frames")))?;
        }
    }
    say!("{table}\n");
    let rates: Vec<(String, f64)> = seen.layers().into_iter().map(|(l, _)| (l.clone(), seen.rate(&l))).collect();
    if !rates.is_empty() {
        say!("{}", Rates(&rates, dt));
    }
    for (layer, _) in rates.iter().filter(|(_, rate)| *rate == 0.0) {
        say!("{}", eval::silent(layer));
    }
    let of = |ending: &str| match seen.samples() {
        1 => format!("sample-0{ending}.svg/.png"),
        n => format!("sample-0{ending}.svg/.png to sample-{}{ending}.svg/.png", n - 1),
    };
    let frames = task.frame().map_or(String::new(), |_| format!(", {}", of("-frames")));
    say!("written to {}: {}{frames}", out.display(), of(""));
    Ok(())
}

/// Steps of a sample with the right answer.
fn right(seen: &Observation, b: usize) -> usize {
    seen.steps(b).iter().filter(|(_, target, answer)| *target == *answer as i32).count()
}

/// What came of a sample, in a line.
fn verdict(seen: &Observation, b: usize) -> String {
    match seen.kind {
        Target::CLASS => {
            let verdict = if seen.target(b) == seen.decision(b) as i32 { "correct" } else { "wrong" };
            format!("target {}, answer {} ({verdict})", seen.target(b), seen.decision(b))
        }
        Target::CLASSES => format!("{} of {} steps right", right(seen, b), seen.steps(b).len()),
        _ => format!("NMSE {:.4}", seen.nmse(b)),
    }
}

/// Outputs, with the targets beside them where each step has one.
fn outputs(seen: &Observation, b: usize, dt: f64) -> Vec<Panel> {
    let time = |t: usize| t as f64 * dt;
    let points = |values: Vec<f32>| values.into_iter().enumerate().map(move |(t, v)| (time(t), f64::from(v)));
    let line = |name: String, values| Series::new(name, points(values)).markers(false);
    if seen.kind == Target::VECTORS {
        let shown = seen.classes().min(CURVES);
        let label = |k| if seen.classes() == 1 { "output".into() } else { format!("output {k}") };
        let both = |k| [line("output".into(), seen.output(b, k)), line("target".into(), seen.curve(b, k)).style(8)];
        return (0..shown).map(|k| Panel::traces(Axis::new(label(k)), both(k))).collect();
    }
    let classes = (0..seen.classes()).map(|c| line(format!("class {c}"), seen.output(b, c)));
    let mut panels = vec![Panel::traces(Axis::new("readout"), classes)];
    if seen.kind == Target::CLASSES {
        let steps = seen.steps(b);
        let (hits, misses): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|(_, target, answer)| *target == *answer as i32);
        let dots = |name: &str, points: Vec<(f64, f64)>, style| Series::new(name, points).style(style).dots();
        let answers =
            |steps: &[(usize, i32, usize)]| steps.iter().map(|(t, _, answer)| (time(*t), *answer as f64)).collect();
        let missed = misses.iter().map(|(t, target, _)| (time(*t), f64::from(*target))).collect();
        let both = [
            dots("right answer", answers(&hits), 2),
            dots("wrong answer", answers(&misses), 1),
            dots("target in its place", missed, 0),
        ];
        panels.push(Panel::traces(Axis::new("class").unit(Unit::Count).range(-0.5, seen.classes() as f64 - 0.5), both));
    }
    panels
}

/// Frames of a sample side by side, on events above zero and off events below.
fn frames(seen: &Observation, b: usize, task: &dyn Task, [polarities, height, width]: [usize; 3], dt: f64) -> Frames {
    let every = seen.batch.steps.div_ceil(FRAMES);
    let one = if every == 1 { "all are shown".into() } else { format!("one in {every} is shown") };
    let mut all = Frames::new(
        format!("{}, sample {b}: frames", task.name()),
        [height, width],
        Axis::new("on minus off events").unit(Unit::Count),
    )
    .subtitle(format!("events of {dt} ms each; {one}, with the time at which it begins"));
    for t in (0..seen.batch.steps).step_by(every) {
        let mut values = vec![0.0; height * width];
        for (i, &count) in seen.batch.at(t, b).iter().enumerate() {
            let sign = if i / (height * width) + 1 == polarities { 1.0 } else { -1.0 };
            values[i % (height * width)] += sign * f64::from(count);
        }
        all = all.picture(format!("{} ms", quantity(t as f64 * dt, Unit::Plain, 6)), values);
    }
    all
}

fn draw(seen: &Observation, b: usize, task: &dyn Task, dt: f64, out: &Path) -> Result<()> {
    let time = |t: usize| t as f64 * dt;
    let points = |values: Vec<f32>| values.into_iter().enumerate().map(move |(t, v)| (time(t), f64::from(v)));
    let events = |spikes: Vec<(usize, usize)>| spikes.into_iter().map(move |(t, i)| (time(t), i)).collect::<Vec<_>>();
    let input = match task.frame() {
        None => Panel::raster("spikes, by input", seen.batch.n_in, events(seen.input_spikes(b))),
        // Frames have a picture of their own.
        Some(_) => {
            let counts = (0..seen.batch.steps).map(|t| seen.batch.at(t, b).iter().map(|c| f32::from(*c)).sum());
            Panel::traces(
                Axis::new("input events").unit(Unit::Count),
                [Series::new("all", points(counts.collect())).markers(false)],
            )
        }
    };
    let mut panels =
        Panels::new(format!("{}, sample {b}", task.name()), Axis::new("time (ms)").range(0.0, time(seen.batch.steps)))
            .subtitle(verdict(seen, b))
            .width(1000)
            .panel(input);
    for (name, from, to) in task.phases() {
        panels = panels.phase(&name, time(from), time(to));
    }
    for (layer, neurons) in seen.layers() {
        let label = |what: &str| if layer.is_empty() { what.to_string() } else { format!("{layer} {what}") };
        panels = panels.panel(Panel::raster(label("spikes, by neuron"), neurons, events(seen.spikes(&layer, b))));
        let shown = (0..neurons).step_by(round_up(neurons as f64 / TRACES as f64).max(1.0) as usize);
        let traces: Vec<Series> = shown
            .map(|i| Series::new(format!("{i}"), points(seen.potential(&layer, b, i))).markers(false))
            .filter(|_| !seen.potential(&layer, b, 0).is_empty())
            .collect();
        if !traces.is_empty() {
            panels = panels.panel(
                Panel::traces(Axis::new(label("potential, by neuron")).unit(UNIT), traces).stacked().height(180),
            );
        }
    }
    let panels = outputs(seen, b, dt).into_iter().fold(panels, Panels::panel);
    panels.save(out.join(format!("sample-{b}")))?;
    Ok(())
}
