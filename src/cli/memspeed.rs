//! `etrace memspeed`: the published memory-and-speed evaluation.
//!
//! Without a data set it sweeps sequence lengths on random spikes and measures one training step per point. With
//! `--dataset` it trains and tests the same network on recordings.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tasks::{Gesture, GestureSettings, NMnist, NMnistSettings, Split, Task};

use super::{
    Global, OrUsage, Usage,
    common::{self, LearnerFlags},
};
use crate::{
    cell::{
        Surrogate,
        spiking::{Reset, Tau},
    },
    learn::{LossKind, Method, Objective, objective::Regularizer, sequence::LearnerConfig},
    net::{ETraceNet, Layer},
    plot::{Axis, Figure, LineChart, Scale, Series, Unit, quantity},
    report::bytes,
    train::{
        checkpoint::write_atomic,
        optimizer::{Optimizer, Rule, Schedule},
        program::{EvalProgram, Spec, TrainProgram},
        run::RunDir,
        sweep::{self, Drive, Row},
        trainer::{Ending, Event, Settings, Trainer},
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
    /// Several methods to compare in one sweep, with commas [default: bptt,es-d-rtrl,d-rtrl, or --method alone]
    #[arg(long, value_delimiter = ',', conflicts_with = "method", value_name = "NAME")]
    methods: Vec<String>,
    /// Sequence lengths of the sweep, with commas.
    #[arg(long, value_delimiter = ',', alias = "lengths")]
    length: Vec<usize>,
    /// `scan`: the whole sequence in one program; `step`: a program for one chunk, called again and again; `both`.
    #[arg(long, value_enum, default_value = "scan")]
    drive: DriveArg,
    /// Timed repeats per point; the median is reported.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Folder for memspeed.csv, memspeed.json and the plots, or for the run with --dataset.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Probability of an input spike per step in the sweep.
    #[arg(long, default_value_t = 0.1)]
    rate: f64,
    /// Train and test on recordings instead: `nmnist` or `gesture`.
    #[arg(long, value_enum)]
    dataset: Option<Dataset>,
    /// Where the recordings are.
    #[arg(long, alias = "data_folder", alias = "data-folder")]
    data: Option<PathBuf>,
    /// Time bins of a recording.
    #[arg(long, alias = "data-length", default_value_t = 200)]
    data_length: usize,
    /// Passes over the recordings.
    #[arg(long, default_value_t = 20)]
    epochs: u64,
    /// Go on with the run in this folder.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Resolve, build and compile; print what would run; train nothing.
    #[arg(long = "dry-run", alias = "dry_run")]
    dry_run: bool,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Neuron and synapse: lif-delta or lif-exp-cu.
    #[arg(long, default_value = "lif-delta")]
    model: String,
    /// Sequences per batch.
    #[arg(long, alias = "batch-size")]
    batch_size: Option<usize>,
    /// Inputs of the sweep.
    #[arg(long, alias = "n-in")]
    n_in: Option<usize>,
    /// Neurons per layer.
    #[arg(long, alias = "n-rec")]
    n_rec: Option<usize>,
    /// Layers.
    #[arg(long, alias = "n-layer")]
    n_layer: Option<usize>,
    /// Learning rate.
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// adam, momentum or sgd.
    #[arg(long, default_value = "adam")]
    optimizer: String,
    /// cel (cross-entropy) or mse.
    #[arg(long, default_value = "cel")]
    loss: String,
    /// Surrogate derivative of a spike: relu, s2nn, multi_gaussian, ...
    #[arg(long, alias = "spk-fun", default_value = "relu")]
    spk_fun: String,
    /// soft or hard.
    #[arg(long, alias = "spk-reset", default_value = "soft")]
    spk_reset: String,
    /// Threshold.
    #[arg(long = "V_th", alias = "v_th", alias = "V-th", default_value_t = 1.0)]
    v_th: f64,
    /// Mean membrane time constant, ms.
    #[arg(long, alias = "tau-mem", default_value_t = 10.0)]
    tau_mem: f64,
    /// Standard deviation of the membrane time constant over neurons, ms.
    #[arg(long, alias = "tau-mem-sigma", default_value_t = 1.0)]
    tau_mem_sigma: f64,
    /// Synaptic time constant, ms.
    #[arg(long, alias = "tau-syn", default_value_t = 10.0)]
    tau_syn: f64,
    /// Time constant of the readout, ms.
    #[arg(long, alias = "tau-o", default_value_t = 10.0)]
    tau_o: f64,
    /// Variance of the input weights in units of 1/fan-in.
    #[arg(long, alias = "ff-scale", default_value_t = 10.0)]
    ff_scale: f64,
    /// Variance of the recurrent weights in units of 1/fan-in.
    #[arg(long, alias = "rec-scale", default_value_t = 2.0)]
    rec_scale: f64,
    /// Step, ms.
    #[arg(long, default_value_t = 1.0)]
    dt: f64,
    /// Steps at the start that carry no loss: a share below 1, or a number of steps.
    #[arg(long, alias = "warmup-ratio", default_value_t = 0.0)]
    warmup_ratio: f64,
    /// Weight of the firing-rate regulariser, and its target in Hz.
    #[arg(long, alias = "spk-reg-factor", default_value_t = 0.0)]
    spk_reg_factor: f64,
    /// Target rate of the regulariser, Hz.
    #[arg(long, alias = "spk-reg-rate", default_value_t = 10.0)]
    spk_reg_rate: f64,
    /// Weight of the membrane regulariser.
    #[arg(long, alias = "v-reg-factor", default_value_t = 0.0)]
    v_reg_factor: f64,
    /// Lowest potential that costs nothing.
    #[arg(long, alias = "v-reg-low", default_value_t = -20.0, allow_negative_numbers = true)]
    v_reg_low: f64,
    /// Highest potential that costs nothing.
    #[arg(long, alias = "v-reg-high", default_value_t = 1.4)]
    v_reg_high: f64,
    /// Weight of the sum of |w| in the loss.
    #[arg(long = "weight_L1", alias = "weight-L1", alias = "weight_l1", default_value_t = 0.0)]
    weight_l1: f64,
    /// Weight decay.
    #[arg(long = "weight_L2", alias = "weight-L2", alias = "weight_l2", default_value_t = 0.0)]
    weight_l2: f64,
    /// Threads that make batches.
    #[arg(long, alias = "n-data-worker", default_value_t = 0)]
    n_data_worker: usize,
    /// Name of the run's folder below checkpoints/.
    #[arg(long, alias = "exp-name", default_value = "")]
    exp_name: String,
    /// Accepted for the published command lines; choose the device with --device.
    #[arg(long, hide = true)]
    devices: Option<String>,
    /// Accepted for the published command lines; the last incomplete training batch is always dropped.
    #[arg(long, alias = "drop-last", hide = true)]
    drop_last: Option<u8>,
    /// Accepted for the published command lines; memory is always measured.
    #[arg(long, alias = "memory-eval", hide = true)]
    memory_eval: Option<u8>,
    /// Accepted for the published command lines; see --out.
    #[arg(long, hide = true)]
    filepath: Option<String>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Dataset {
    Nmnist,
    Gesture,
}

/// Everything that decides a training run on recordings, as written to config.toml.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Config {
    dataset: Dataset,
    data: PathBuf,
    data_length: usize,
    settings: Settings,
    optimizer: Optimizer,
    objective: Objective,
    learner: LearnerConfig,
    net: ETraceNet,
}

/// Sizes of the published evaluation and of the small one.
struct Sizes {
    n_in: usize,
    n_rec: usize,
    n_layer: usize,
    batch: usize,
}

const LENGTHS: [usize; 8] = [50, 100, 200, 300, 400, 600, 800, 1000];
const CLASSES: usize = 11;

/// The published smoothing of factorised traces.
const DECAY: f64 = 0.9;

fn usage(text: String) -> Usage {
    Usage(anyhow::anyhow!(text))
}

impl Args {
    fn sizes(&self, global: &Global) -> Sizes {
        let preset = self.preset.unwrap_or(if global.device == hlo::pjrt::Device::Cpu {
            Preset::Laptop
        } else {
            Preset::Published
        });
        let (n_in, n_rec, batch) = match preset {
            Preset::Laptop => (2048, 256, 16),
            Preset::Published => (32_768, 512, 128),
        };
        Sizes {
            n_in: self.n_in.unwrap_or(n_in),
            n_rec: self.n_rec.unwrap_or(n_rec),
            n_layer: self.n_layer.unwrap_or(3),
            batch: self.batch_size.unwrap_or(batch),
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
        let surrogate = Surrogate::by_name(&self.spk_fun).ok_or_else(|| {
            usage(format!("--spk_fun must be one of {}, got `{}`", Surrogate::NAMES.join(", "), self.spk_fun))
        })?;
        for (name, size) in [("--n_rec", sizes.n_rec), ("--n_layer", sizes.n_layer), ("--batch_size", sizes.batch)] {
            if size == 0 {
                bail!(usage(format!("{name} must be at least 1, got 0")));
            }
        }
        let tau = if self.tau_mem_sigma > 0.0 {
            Tau::Normal(self.tau_mem, self.tau_mem_sigma)
        } else {
            Tau::Scalar(self.tau_mem)
        };
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
            LearnerFlags { method: Some(name), ..self.learner.clone() }.config(&self.published(Method::Bptt, 0), DECAY)
        };
        names.into_iter().map(one).collect()
    }

    fn optimizer(&self) -> Result<Optimizer> {
        let rule = Rule::by_name(&self.optimizer).ok_or_else(|| {
            usage(format!("--optimizer must be one of {}, got `{}`", Rule::NAMES.join(", "), self.optimizer))
        })?;
        let (weight_l1, weight_l2) = (self.weight_l1, self.weight_l2);
        Ok(Optimizer { rule, lr: self.lr, schedule: Schedule::Constant, clip: 1.0, weight_l1, weight_l2 })
    }

    fn objective(&self) -> Result<Objective> {
        let loss = match self.loss.as_str() {
            "cel" | "cross-entropy" => LossKind::CrossEntropy,
            "mse" => LossKind::Mse,
            other => bail!(usage(format!("--loss must be cel or mse, got `{other}`"))),
        };
        let regularizer = Regularizer {
            membrane: self.v_reg_factor,
            low: self.v_reg_low,
            high: self.v_reg_high,
            spike: self.spk_reg_factor,
            rate: self.spk_reg_rate * self.dt / 1000.0,
        };
        Ok(Objective { loss, regularizer })
    }

    fn warmup(&self, steps: usize) -> usize {
        if self.warmup_ratio < 1.0 { (steps as f64 * self.warmup_ratio) as usize } else { self.warmup_ratio as usize }
    }
}

/// Runs the command.
///
/// # Errors
/// When flags make no sense, files are missing, or a run fails.
pub fn run(args: Args, global: &Global) -> Result<()> {
    if args.dataset.is_some() || args.resume.is_some() { train(&args, global) } else { sweep(&args, global) }
}

fn sweep(args: &Args, global: &Global) -> Result<()> {
    let sizes = args.sizes(global);
    let net = args.net(&sizes, sizes.n_in, CLASSES)?;
    let learners = args.learners()?;
    let lengths = if args.length.is_empty() { LENGTHS.to_vec() } else { args.length.clone() };
    if lengths.contains(&0) {
        bail!(usage("--length needs lengths of at least one step, got 0".into()));
    }
    let (optimizer, objective) = (args.optimizer()?, args.objective()?);
    let drives: &[Drive] = match args.drive {
        DriveArg::Scan => &[Drive::Scan],
        DriveArg::Step => &[Drive::Step],
        DriveArg::Both => &[Drive::Scan, Drive::Step],
    };
    let mut session = global.session()?;
    session.options = session.options.uncached(); // compile times are to be those of compiling
    let model = net.model(sizes.batch);
    println!(
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
    for config in &learners {
        for &drive in drives {
            for &steps in &lengths {
                let warmup = args.warmup(steps);
                let chunk = config.chunk.or((drive == Drive::Step).then_some(1));
                let learner = LearnerConfig { chunk, warmup, ..config.clone() };
                let spec = Spec {
                    model: model.clone(),
                    objective,
                    learner,
                    optimizer: optimizer.clone(),
                    steps,
                    mean_over_time: config.method == Method::Bptt,
                };
                let length = match crate::learn::Learner::new(&spec.model, &spec.objective, &spec.learner) {
                    Ok(learner) => learner.chunk_length(steps),
                    Err(error) => bail!(error),
                };
                if args.dry_run {
                    dry_run(&session, &spec, length)?;
                    continue;
                }
                let length = if drive == Drive::Step { divisor(length, steps) } else { length };
                let row = sweep::measure(&session, &spec, drive, length, args.repeats, args.seed, args.rate);
                print_row(&row);
                rows.push(row);
            }
        }
    }
    if !rows.is_empty() {
        println!("\n{}", table(&rows));
        if let Some(out) = &args.out {
            write_results(out, &rows, &net, sizes.batch)
                .with_context(|| format!("cannot write results to {}", out.display()))?;
        }
    }
    Ok(())
}

/// The largest chunk not above `length` that divides `steps`: every call of the step drive has the same size.
fn divisor(length: usize, steps: usize) -> usize {
    (1..=length.min(steps)).rev().find(|k| steps.is_multiple_of(*k)).unwrap_or(1)
}

fn dry_run(session: &crate::train::session::Session, spec: &Spec, chunk: usize) -> Result<()> {
    println!("[resolved]\nsteps = {}\nchunk = {chunk}\n{}", spec.steps, toml::to_string_pretty(&spec.learner)?);
    println!("{}", toml::to_string_pretty(&spec.optimizer)?);
    let program = TrainProgram::new(session, spec)?;
    let memory = program.executable.memory()?;
    println!(
        "compiled in {:.2} s; needs {} (arguments {}, results {}, donated {}, temporary {})",
        program.executable.compile_time().as_secs_f64(),
        bytes(memory.total()),
        bytes(memory.argument),
        bytes(memory.output),
        bytes(memory.alias),
        bytes(memory.temp)
    );
    Ok(())
}

/// The published line for a measured point.
fn print_row(row: &Row) {
    let gb = |b: u64| b as f64 / (1u64 << 30) as f64;
    match (&row.error, row.loss, row.accuracy, row.run_seconds) {
        (None, Some(loss), Some(accuracy), Some(seconds)) => println!(
            "{:>10} T = {:4} {:?}: Batch = 0, training loss = {loss:.8}, training acc = {accuracy:.6}, time = {seconds:.5} s, \
             memory before = {:.2} GB, memory after = {:.2} GB",
            row.method,
            row.length,
            row.drive,
            gb(row.in_use.0),
            gb(row.in_use.1)
        ),
        (error, ..) => println!(
            "{:>10} T = {:4} {:?}: {}",
            row.method,
            row.length,
            row.drive,
            error.as_deref().unwrap_or("no result")
        ),
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<10} {:>6} {:>6} {:>6} {:>11} {:>11} {:>11} {:>12} {:>12}\n",
        "method", "T", "drive", "chunk", "compile", "run", "per step", "compiled mem", "peak mem"
    );
    for r in rows {
        let drive = if r.drive == Drive::Scan { "scan" } else { "step" };
        text += &format!("{:<10} {:>6} {drive:>6} {:>6} ", r.method, r.length, r.chunk);
        let seconds = |s: Option<f64>| s.map_or("-".into(), |s| quantity(s, Unit::Seconds, 3));
        let size = |b: Option<u64>| b.map_or("-".into(), bytes);
        text += &format!(
            "{:>11} {:>11} {:>11} {:>12} {:>12}{}\n",
            seconds(r.compile_seconds),
            seconds(r.run_seconds),
            seconds(r.run_seconds.map(|s| s / r.length as f64)),
            size(r.compiled_bytes),
            size(r.peak_bytes),
            r.error.as_ref().map_or(String::new(), |e| format!("  {e}"))
        );
    }
    text
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
    let memory = Axis::new("peak memory").unit(Unit::Bytes).from(0.0);
    let mut chart = figure("Memory of one training step", memory, &|r| r.peak_bytes.map(|b| b as f64));
    if rows.iter().any(|r| r.drive == Drive::Scan) {
        let longest = rows.iter().map(|r| r.length).max().unwrap_or_default();
        let input = [0, longest].map(|t| (t as f64, (t * net.n_in * batch) as f64));
        chart = chart.series(Series::new("the input data alone", input).markers(false));
    }
    chart.save(out.join("memory"))?;
    println!("written to {}: memspeed.csv, memspeed.json, time.svg/.png, memory.svg/.png", out.display());
    Ok(())
}

/// The task of a data set, and the number of its classes.
fn task(dataset: Dataset, data: &std::path::Path, steps: usize) -> Result<Arc<dyn Task>> {
    Ok(match dataset {
        Dataset::Nmnist => {
            let mut settings = NMnistSettings::new(data);
            settings.steps = steps;
            Arc::new(NMnist::open(settings)?)
        }
        Dataset::Gesture => {
            let mut settings = GestureSettings::new(data);
            settings.framing = tasks::gesture::Framing::Bins(steps);
            Arc::new(Gesture::open(settings)?)
        }
    })
}

fn resolve(args: &Args, global: &Global) -> Result<Config> {
    let Some(dataset) = args.dataset else { bail!(usage("--resume needs a run folder, or name a --dataset".into())) };
    let data = args
        .data
        .clone()
        .ok_or_else(|| usage("--dataset needs --data DIR, the folder that holds the recordings, got none".into()))?;
    let task = task(dataset, &data, args.data_length).or_usage()?;
    let sizes = args.sizes(global);
    let samples = task.samples(Split::Train)?.unwrap_or(u64::MAX);
    if samples < sizes.batch as u64 {
        bail!(usage(format!(
            "--batch_size must not exceed the {samples} training recordings in {}, got {}",
            data.display(),
            sizes.batch
        )));
    }
    if !args.methods.is_empty() {
        bail!(usage(format!("training on recordings takes one --method, got --methods {}", args.methods.join(","))));
    }
    Ok(Config {
        dataset,
        data,
        data_length: args.data_length,
        settings: Settings {
            seed: args.seed,
            batch: sizes.batch,
            epochs: args.epochs,
            epoch_steps: None,
            stop_at: None,
            evaluate: Some(Split::Test.name().into()),
            checkpoint_every: 100,
            threads: args.n_data_worker.max(1),
        },
        optimizer: args.optimizer()?,
        objective: args.objective()?,
        learner: args.learner.config(&args.published(Method::Bptt, args.warmup(args.data_length)), DECAY)?,
        net: args.net(&sizes, task.n_in(), task.n_out())?,
    })
}

fn train(args: &Args, global: &Global) -> Result<()> {
    let (config, dir): (Config, PathBuf) = match &args.resume {
        Some(dir) => (RunDir::config(dir)?, dir.clone()),
        None => {
            let config = resolve(args, global)?;
            let name = if args.exp_name.is_empty() { config.learner.method.name() } else { &args.exp_name };
            let dir = args
                .out
                .clone()
                .unwrap_or_else(|| PathBuf::from("checkpoints").join(format!("memspeed-{name}-{}", args.seed)));
            (config, dir)
        }
    };
    let task = task(config.dataset, &config.data, config.data_length)?;
    let session = global.session()?;
    let model = config.net.model(config.settings.batch);
    let spec = Spec {
        model,
        objective: config.objective,
        learner: config.learner.clone(),
        optimizer: config.optimizer.clone(),
        steps: config.data_length,
        mean_over_time: config.learner.method == Method::Bptt,
    };
    let program = TrainProgram::new(&session, &spec)?;
    if args.dry_run {
        println!("{}", toml::to_string_pretty(&config)?);
        return dry_run(&session, &spec, program.learner().chunk_length(spec.steps));
    }
    common::stop_on_ctrl_c()?;
    let run = if args.resume.is_some() { RunDir::open(&dir)? } else { RunDir::create(&dir, &config)? };
    let mut trainer = Trainer { session: &session, spec, task, settings: config.settings.clone(), run: Some(run) };
    let (train_samples, test_samples) = (trainer.task.samples(Split::Train)?, trainer.task.samples(Split::Test)?);
    println!(
        "{}: {} training and {} test recordings; {}; {}; run folder {}",
        trainer.task.name(),
        train_samples.unwrap_or(0),
        test_samples.unwrap_or(0),
        config.learner.method.name(),
        common::device_line(&session),
        dir.display()
    );
    let bar = if global.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.set_style(
        ProgressStyle::with_template("{spinner} {elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    let batch = config.settings.batch as f64;
    let mut epoch: Vec<(f64, f64, f64)> = Vec::new();
    let mut curve: Vec<(u64, f64, f64)> = Vec::new();
    let outcome = trainer.train(&program, args.resume.is_some(), |event| match event {
        Event::Step { step, epoch: e, loss, accuracy, seconds, .. } => {
            epoch.push((f64::from(*loss), f64::from(*accuracy), *seconds));
            bar.set_message(format!(
                "epoch {e} update {step} loss {loss:.4} acc {accuracy:.3} {:.0} samples/s {}",
                batch / seconds.max(1e-9),
                bytes(sweep::in_use(&session))
            ));
            bar.tick();
        }
        Event::Evaluation { epoch: e, loss, accuracy, .. } => {
            let n = epoch.len().max(1) as f64;
            let mean = |f: fn(&(f64, f64, f64)) -> f64| epoch.iter().map(f).sum::<f64>() / n;
            bar.suspend(|| {
                println!(
                    "Epoch {:4}, training loss = {:.8}, training acc = {:.6}, time = {:.5} s, memory = {:.2} GB",
                    e - 1,
                    mean(|r| r.0),
                    mean(|r| r.1),
                    mean(|r| r.2),
                    sweep::in_use(&session) as f64 / (1u64 << 30) as f64
                );
                println!("Epoch {:4}, testing loss = {loss:.8}, testing acc = {accuracy:.6}", e - 1);
            });
            curve.push((*e, mean(|r| r.1), *accuracy));
            epoch.clear();
        }
    })?;
    bar.finish_and_clear();
    common::plot_accuracy(&dir, &curve)?;
    match outcome.ending {
        Ending::Interrupted => {
            println!("interrupted after update {}; go on with --resume {}", outcome.progress.step, dir.display())
        }
        _ => {
            let (loss, accuracy) = match outcome.evaluation {
                Some(known) => known,
                None => {
                    let eval = EvalProgram::new(&session, &trainer.spec)?;
                    let (loss, accuracy, _) = trainer.evaluate(&eval, &outcome.state, Split::Test)?;
                    (loss, accuracy)
                }
            };
            println!("test accuracy {accuracy:.4}, test loss {loss:.4} after {} updates", outcome.progress.step);
        }
    }
    Ok(())
}
