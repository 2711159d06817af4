//! `etrace memspeed`: the published memory-and-speed evaluation.
//!
//! Without a data set it sweeps sequence lengths on random spikes and measures one training step per point. With
//! `--dataset` it trains and tests the same network on recordings.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use tasks::{GestureSettings, NMnistSettings, Split, gesture::Framing};

use super::{
    Global, OrUsage,
    common::{self, LearnerFlags},
    data,
    flags::{fraction, layers, non_negative, positive, repeats, size, steps},
    train::{self, TrainFlags},
    usage,
};
use crate::{
    cell::spiking::{Reset, Tau},
    experiment::{Experiment, NetConfig, TaskConfig},
    learn::{Method, sequence::LearnerConfig},
    net::{ETraceNet, Layer},
    plot::{Axis, Figure, LineChart, Scale, Series, Unit, quantity},
    report::{Align, Table, bytes},
    say,
    train::{
        checkpoint::write_atomic,
        program::Spec,
        sweep::{self, Drive, Row},
        trainer::Settings,
    },
};

/// The published memory-and-speed evaluation: time and memory of one training step against sequence length.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// Sizes: `published` is 32,768 inputs, 3 x 512, batch 128; `laptop` 2,048 inputs, 3 x 256, batch 16. Default: laptop on
    /// a CPU, published elsewhere.
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    training: TrainFlags,
    /// Several methods to compare in one sweep, with commas [default: bptt,es-d-rtrl,d-rtrl, or --method alone]
    #[arg(long, value_delimiter = ',', conflicts_with = "method", value_name = "NAME")]
    methods: Vec<String>,
    /// Sequence lengths of the sweep, with commas.
    #[arg(long, visible_alias = "lengths", value_delimiter = ',', value_parser = steps)]
    length: Vec<usize>,
    /// `scan`: the whole sequence in one program; `step`: a program for one chunk, called again and again; `both`.
    #[arg(long, value_enum, default_value = "scan")]
    drive: DriveArg,
    /// Timed repeats per point; the median is reported.
    #[arg(long, default_value_t = 5, value_parser = repeats)]
    repeats: usize,
    /// Probability of an input spike per step in the sweep.
    #[arg(long, default_value_t = 0.1, value_parser = fraction)]
    rate: f64,
    /// Train and test on recordings instead: `nmnist` or `gesture`.
    #[arg(long, value_enum)]
    dataset: Option<Dataset>,
    /// Where the recordings are.
    #[arg(long, visible_alias = "data_folder")]
    data: Option<PathBuf>,
    #[command(flatten)]
    read: data::ReadFlags,
    /// Time bins of a recording.
    #[arg(long, default_value_t = 200, value_parser = steps)]
    data_length: usize,
    /// Neuron and synapse: lif-delta or lif-exp-cu.
    #[arg(long, default_value = "lif-delta")]
    model: String,
    /// Inputs of the sweep.
    #[arg(long, value_parser = size)]
    n_in: Option<usize>,
    /// Neurons per layer.
    #[arg(long, value_parser = size)]
    n_rec: Option<usize>,
    /// Layers.
    #[arg(long, value_parser = layers)]
    n_layer: Option<usize>,
    /// soft or hard.
    #[arg(long, default_value = "soft")]
    spk_reset: String,
    /// Threshold.
    #[arg(long = "V_th", default_value_t = ETraceNet::default().v_th, value_parser = positive)]
    v_th: f64,
    /// Mean membrane time constant, ms.
    #[arg(long, default_value_t = ETraceNet::default().tau_mem[0].mean(), value_parser = positive)]
    tau_mem: f64,
    /// Standard deviation of the membrane time constant over neurons, ms.
    #[arg(long, default_value_t = 1.0, value_parser = non_negative)]
    tau_mem_sigma: f64,
    /// Synaptic time constant, ms.
    #[arg(long, default_value_t = ETraceNet::default().tau_syn, value_parser = positive)]
    tau_syn: f64,
    /// Time constant of the readout, ms.
    #[arg(long, default_value_t = ETraceNet::default().tau_o, value_parser = positive)]
    tau_o: f64,
    /// Variance of the input weights in units of 1/fan-in.
    #[arg(long, default_value_t = ETraceNet::default().ff_scale, value_parser = non_negative)]
    ff_scale: f64,
    /// Variance of the recurrent weights in units of 1/fan-in.
    #[arg(long, default_value_t = ETraceNet::default().rec_scale, value_parser = non_negative)]
    rec_scale: f64,
    /// Step, ms.
    #[arg(long, default_value_t = ETraceNet::default().dt, value_parser = positive)]
    dt: f64,
    /// Steps at the start that carry no loss: a share below 1, or a number of steps.
    #[arg(long, default_value_t = 0.0, value_parser = non_negative)]
    warmup_ratio: f64,
    /// Accepted for the published command lines; the last incomplete training batch is always dropped.
    #[arg(long, hide = true)]
    drop_last: Option<u8>,
    /// Accepted for the published command lines; memory is always measured.
    #[arg(long, hide = true)]
    memory_eval: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    Laptop,
    Published,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DriveArg {
    Scan,
    Step,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dataset {
    Nmnist,
    Gesture,
}

/// Sizes of the published evaluation and of the small one.
struct Sizes {
    n_in: usize,
    n_rec: usize,
    n_layer: usize,
    batch: usize,
}

const LENGTHS: [usize; 8] = [50, 100, 200, 300, 400, 600, 800, 1000];

/// The published smoothing of factorised traces.
const DECAY: f64 = 0.9;

impl Args {
    fn sizes(&self, global: &Global) -> Sizes {
        let preset = self.preset.unwrap_or(if global.device == hlo::pjrt::Device::Cpu {
            Preset::Laptop
        } else {
            Preset::Published
        });
        let standard = published(preset);
        let NetConfig::Etrace(net) = &standard.net else { unreachable!("the network of this experiment") };
        Sizes {
            n_in: self.n_in.unwrap_or(net.n_in),
            n_rec: self.n_rec.unwrap_or(net.n_rec),
            n_layer: self.n_layer.unwrap_or(net.tau_mem.len()),
            batch: self.training.batch_size.unwrap_or(standard.settings.batch),
        }
    }

    fn net(&self, sizes: &Sizes, n_in: usize, n_out: usize) -> Result<ETraceNet> {
        let layer = match self.model.as_str() {
            "lif-delta" | "lif_delta" => Layer::LifDelta,
            "lif-exp-cu" | "lif_exp_cu" => Layer::LifExpCu,
            other => bail!(usage(format!("--model must be lif-delta or lif-exp-cu, got `{other}`"))),
        };
        let reset = match self.spk_reset.as_str() {
            "soft" => Reset::Soft,
            "hard" => Reset::Hard,
            other => bail!(usage(format!("--spk_reset must be soft or hard, got `{other}`"))),
        };
        let surrogate = self.training.surrogate()?;
        let tau = if self.tau_mem_sigma > 0.0 {
            Tau::Normal(self.tau_mem, self.tau_mem_sigma)
        } else {
            Tau::Scalar(self.tau_mem)
        };
        tau.check().map_err(|why| usage(format!("--tau_mem and --tau_mem_sigma {why}")))?;
        Ok(ETraceNet {
            layer,
            n_in,
            n_rec: sizes.n_rec,
            n_out,
            tau_mem: vec![tau; sizes.n_layer],
            tau_syn: self.tau_syn,
            tau_o: self.tau_o,
            v_th: self.v_th,
            reset,
            surrogate,
            ff_scale: self.ff_scale,
            rec_scale: self.rec_scale,
            dt: self.dt,
        })
    }

    /// The published choice: single-step, decay 0.9.
    fn published(&self, method: Method, warmup: usize) -> LearnerConfig {
        LearnerConfig { method, warmup, ..LearnerConfig::default() }
    }

    /// The learners of a sweep.
    fn learners(&self) -> Result<Vec<LearnerConfig>> {
        let names: Vec<String> = match (&self.learner.method, self.methods.is_empty()) {
            (Some(one), _) => vec![one.clone()],
            (None, true) => ["bptt", "es-d-rtrl", "d-rtrl"].map(String::from).to_vec(),
            (None, false) => self.methods.clone(),
        };
        let one = |name: String| {
            LearnerFlags { method: Some(name), ..self.learner.clone() }.config(&self.published(Method::BPTT, 0), DECAY)
        };
        names.into_iter().map(one).collect()
    }

    fn warmup(&self, steps: usize) -> usize {
        if self.warmup_ratio < 1.0 { (steps as f64 * self.warmup_ratio) as usize } else { self.warmup_ratio as usize }
    }
}

/// The experiment of a size.
fn published(preset: Preset) -> Experiment {
    let name = if preset == Preset::Laptop { "memspeed-laptop" } else { "memspeed-published" };
    Experiment::published(name).expect("a preset of this name")
}

/// Runs the command.
///
/// # Errors
/// When flags make no sense, files are missing, or a run fails.
pub fn run(args: Args, global: &Global) -> Result<()> {
    if args.dataset.is_some() || args.training.run.resume.is_some() {
        return train::run(
            "memspeed",
            &args.training.run,
            args.training.epochs,
            global,
            train::Lines::Epochs(train::epoch_line),
            || resolve(&args, global),
        );
    }
    sweep(&args, global)
}

fn sweep(args: &Args, global: &Global) -> Result<()> {
    let sizes = args.sizes(global);
    let net = args.net(&sizes, sizes.n_in, ETraceNet::default().n_out)?;
    let learners = args.learners()?;
    let lengths = if args.length.is_empty() { LENGTHS.to_vec() } else { args.length.clone() };
    if let Some(steps) = lengths.iter().find(|steps| args.warmup(**steps) >= **steps) {
        bail!(usage(format!(
            "--warmup_ratio must leave a step that carries loss, got {} for {steps} steps; give a share below 1",
            args.warmup_ratio
        )));
    }
    let (optimizer, objective) = (args.training.optimizer()?, args.training.objective(args.dt)?);
    let drives: &[Drive] = match args.drive {
        DriveArg::Scan => &[Drive::Scan],
        DriveArg::Step => &[Drive::Step],
        DriveArg::Both => &[Drive::Scan, Drive::Step],
    };
    let mut session = global.session()?;
    session.options = session.options.uncached(); // compile times are to be those of compiling
    let model = net.model(sizes.batch);
    say!(
        "{} inputs, {} x {} neurons ({}), batch {}, {} parameters; {}",
        net.n_in,
        sizes.n_layer,
        net.n_rec,
        args.model,
        sizes.batch,
        model.trainable_elements(),
        common::device_line(&session)
    );
    let mut rows = Vec::new();
    // Methods are measured side by side, so that the machine's moods fall on all of them.
    for &steps in &lengths {
        for &drive in drives {
            for config in &learners {
                let warmup = args.warmup(steps);
                let chunk = config.chunk.or((drive == Drive::Step).then_some(1));
                let learner = LearnerConfig { chunk, warmup, ..config.clone() };
                let spec = Spec {
                    model: model.clone(),
                    evaluation: model.clone(),
                    objective: objective.clone(),
                    learner,
                    optimizer: optimizer.clone(),
                    steps,
                    mean_over_time: config.method == Method::BPTT,
                };
                let length = match crate::learn::Learner::new(&spec.model, &spec.objective, &spec.learner) {
                    Ok(learner) => learner.chunk_length(steps),
                    Err(error) => bail!(error),
                };
                if args.training.run.dry_run {
                    say!("{}", toml::to_string_pretty(&spec.learner)?);
                    train::print_program(&session, &spec, args.training.run.target.as_deref())?;
                    continue;
                }
                let length = if drive == Drive::Step { divisor(length, steps) } else { length };
                let row =
                    sweep::measure(&session, &spec, drive, length, args.repeats, args.training.run.seed(), args.rate);
                print_row(&row);
                rows.push(row);
            }
        }
    }
    rows.sort_by_key(|r| learners.iter().position(|l| l.method.name() == r.method));
    if !rows.is_empty() {
        say!("\n{}", table(&rows));
        if let Some(out) = &args.training.run.out {
            write_results(out, &rows, &net, sizes.batch)
                .with_context(|| format!("cannot write results to {}", out.display()))?;
        }
        if rows.iter().all(|row| row.error.is_some()) {
            bail!(
                "a sweep must measure something, but each of its {} points failed; see the table for why",
                rows.len()
            );
        }
    }
    Ok(())
}

/// The largest chunk not above `length` that divides `steps`: every call of the step drive has the same size.
fn divisor(length: usize, steps: usize) -> usize {
    (1..=length.min(steps)).rev().find(|k| steps.is_multiple_of(*k)).unwrap_or(1)
}

/// The published line for a measured point.
fn print_row(row: &Row) {
    let gb = |b: u64| b as f64 / (1u64 << 30) as f64;
    match (&row.error, row.loss, row.accuracy, row.run_seconds) {
        (None, Some(loss), Some(accuracy), Some(seconds)) => say!(
            "{:>10} T = {:4} {:?}: Batch = 0, training loss = {loss:.8}, training acc = {accuracy:.6}, time = {seconds:.5} s, \
             memory before = {:.2} GB, memory after = {:.2} GB",
            row.method,
            row.length,
            row.drive,
            gb(row.in_use.0),
            gb(row.in_use.1)
        ),
        (error, ..) => {
            say!("{:>10} T = {:4} {:?}: {}", row.method, row.length, row.drive, error.as_deref().unwrap_or("no result"))
        }
    }
}

fn table(rows: &[Row]) -> String {
    let columns = ["T", "drive", "chunk", "compile", "run", "per step", "compiled mem", "peak mem"];
    let columns = columns.map(|name| (name, Align::Right));
    let mut table = Table::new([("method", Align::Left)].into_iter().chain(columns).chain([("", Align::Left)]));
    for r in rows {
        let drive = if r.drive == Drive::Scan { "scan" } else { "step" };
        let seconds = |s: Option<f64>| s.map_or("-".into(), |s| quantity(s, Unit::Seconds, 3));
        let size = |b: Option<u64>| b.map_or("-".into(), bytes);
        table.row([
            r.method.to_string(),
            r.length.to_string(),
            drive.into(),
            r.chunk.to_string(),
            seconds(r.compile_seconds),
            seconds(r.run_seconds),
            seconds(r.run_seconds.map(|s| s / r.length as f64)),
            size(r.compiled_bytes),
            size(r.peak_bytes),
            r.error.clone().unwrap_or_default(),
        ]);
    }
    format!("{table}\n")
}

fn write_results(out: &std::path::Path, rows: &[Row], net: &ETraceNet, batch: usize) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let mut csv = String::from(
        "method,length,drive,chunk,compile_seconds,run_seconds,compiled_bytes,peak_bytes,loss,accuracy,error\n",
    );
    let cell = |v: Option<String>| v.unwrap_or_default();
    for r in rows {
        let drive = if r.drive == Drive::Scan { "scan" } else { "step" };
        csv += &format!(
            "{},{},{drive},{},{},{},{},{},{},{},\"{}\"\n",
            r.method,
            r.length,
            r.chunk,
            cell(r.compile_seconds.map(|v| v.to_string())),
            cell(r.run_seconds.map(|v| v.to_string())),
            cell(r.compiled_bytes.map(|v| v.to_string())),
            cell(r.peak_bytes.map(|v| v.to_string())),
            cell(r.loss.map(|v| v.to_string())),
            cell(r.accuracy.map(|v| v.to_string())),
            cell(r.error.clone()).replace('"', "\"\"")
        );
    }
    write_atomic(&out.join("memspeed.csv"), csv.as_bytes())?;
    write_atomic(&out.join("memspeed.json"), serde_json::to_string_pretty(rows)?.as_bytes())?;
    let subtitle = format!("{} inputs, {} x {} LIF neurons, batch {batch}", net.n_in, net.tau_mem.len(), net.n_rec);
    let figure = |title: &str, y: Axis, value: &dyn Fn(&Row) -> Option<f64>| {
        let x = Axis::new("sequence length (steps)").from(0.0);
        let mut chart = LineChart::new(title, x, y).subtitle(&subtitle);
        let mut names: Vec<(String, Drive)> = Vec::new();
        for r in rows {
            if !names.contains(&(r.method.clone(), r.drive)) {
                names.push((r.method.clone(), r.drive));
            }
        }
        for (method, drive) in names {
            let of = || rows.iter().filter(|r| r.method == method && r.drive == drive);
            let points: Vec<(f64, f64)> = of().filter_map(|r| Some((r.length as f64, value(r)?))).collect();
            let name = if drive == Drive::Scan { method.clone() } else { format!("{method}, step by step") };
            let mut series = Series::new(name, points);
            for r in of().filter(|r| r.error.is_some()) {
                series = series.missing(r.length as f64, "out of memory or failed");
            }
            chart = chart.series(series);
        }
        chart
    };
    // Step by step is slower by orders of magnitude.
    let both = rows.iter().any(|r| r.drive == Drive::Step);
    let time = Axis::new("time").unit(Unit::Seconds);
    let time = if both { time.scale(Scale::Log10) } else { time.from(0.0) };
    figure("Time of one training step", time, &|r| r.run_seconds).save(out.join("time"))?;
    let memory = Axis::new("memory of the compiled program").unit(Unit::Bytes).from(0.0);
    let mut chart = figure("Memory of one training step", memory, &|r| r.compiled_bytes.map(|b| b as f64));
    if rows.iter().any(|r| r.drive == Drive::Scan) {
        let longest = rows.iter().map(|r| r.length).max().unwrap_or_default();
        let input = [0, longest].map(|t| (t as f64, (t * net.n_in * batch) as f64));
        chart = chart.series(Series::new("the input data alone", input).markers(false));
    }
    chart.save(out.join("memory"))?;
    say!("written to {}: memspeed.csv, memspeed.json, time.svg/.png, memory.svg/.png", out.display());
    Ok(())
}

/// The experiment that flags ask for.
fn resolve(args: &Args, global: &Global) -> Result<Experiment> {
    let Some(dataset) = args.dataset else {
        bail!(usage("training needs --dataset nmnist or gesture, got none".into()))
    };
    let Some(folder) = args.data.clone() else {
        bail!(usage("--dataset needs --data DIR, the folder that holds the recordings, got none".into()))
    };
    let steps = args.data_length;
    let (disorder, time_unit) = (args.read.disorder(), args.read.time_unit);
    let task = match dataset {
        Dataset::Nmnist => {
            TaskConfig::Nmnist(NMnistSettings { steps, disorder, time_unit, ..NMnistSettings::new(&folder) })
        }
        Dataset::Gesture => {
            let (framing, standard) = (Framing::Bins(steps), GestureSettings::new(&folder));
            TaskConfig::Gesture(GestureSettings { framing, disorder, time_unit, ..standard })
        }
    };
    let opened = task.open().or_usage()?;
    let sizes = args.sizes(global);
    if !args.methods.is_empty() {
        bail!(usage(format!("training on recordings takes one --method, got --methods {}", args.methods.join(","))));
    }
    let mut all = Experiment {
        task,
        settings: Settings {
            epochs: Some(args.training.epochs.unwrap_or(20)),
            evaluate: Some(Split::Test.name().into()),
            ..args.training.run.settings(sizes.batch)
        },
        optimizer: args.training.optimizer()?,
        objective: args.training.objective(args.dt)?,
        learner: args.learner.config(&args.published(Method::BPTT, args.warmup(steps)), DECAY)?,
        net: args.net(&sizes, opened.n_in(), opened.n_out())?.into(),
    };
    data::fit(&mut all, opened.as_ref(), None, global)?;
    all.check().or_usage()?;
    Ok(all)
}
