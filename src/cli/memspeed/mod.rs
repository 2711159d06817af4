//! `etrace memspeed`: the published memory-and-speed evaluation.
//!
//! Without a data set it sweeps sequence lengths on random spikes and measures one training step per point. With
//! `--dataset` it trains and tests the same network on recordings.

mod reference;
mod results;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use tasks::{GestureSettings, NMnistSettings, Split, gesture::Framing};

use super::{
    Global, OrUsage, common, data,
    flags::learner::LearnerFlags,
    flags::{fraction, layers, non_negative, positive, repeats, size, steps},
    train::{self, TrainFlags},
    usage,
};
use crate::{
    cell::{
        Model,
        spiking::{Reset, Tau},
    },
    experiment::{Experiment, NetConfig, TaskConfig},
    learn::{Learner, Method, Objective, cost, sequence::LearnerConfig},
    net::{ETraceNet, Layer},
    say,
    train::{
        optimizer::Optimizer,
        program::Spec,
        replicas::Parts,
        session::Session,
        settings::Settings,
        sweep::{self, Drive, Row},
    },
};
use reference::Reference;
use results::Results;

/// The published memory-and-speed evaluation: time and memory of one training step against sequence length.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// Sizes: `published` is 32,768 inputs, 3 x 512, batch 128; `laptop` 2,048 inputs, 3 x 256, batch 16. Default: laptop on
    /// a CPU, published elsewhere.
    #[arg(long, value_enum)]
    preset: Option<Preset>,
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
    /// Show the times of the reference library beside ours: what benches/reference/memspeed.py --json wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "dataset")]
    compare: Option<PathBuf>,
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
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    training: TrainFlags,
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
    args.training.run.refuse_training("a sweep", &[])?;
    let learners = args.learners()?;
    let lengths = if args.length.is_empty() { LENGTHS.to_vec() } else { args.length.clone() };
    if let Some(steps) = lengths.iter().find(|steps| args.warmup(**steps) >= **steps) {
        bail!(usage(format!(
            "--warmup_ratio must leave a step that carries loss, got {} for {steps} steps; give a share below 1",
            args.warmup_ratio
        )));
    }
    let drives: &[Drive] = match args.drive {
        DriveArg::Scan => &[Drive::Scan],
        DriveArg::Step => &[Drive::Step],
        DriveArg::Both => &[Drive::Scan, Drive::Step],
    };
    let Sizes { n_in, n_rec, n_layer, batch } = args.sizes(global);
    let reference =
        args.compare.as_deref().map(|file| Reference::read(file, n_in, n_rec, n_layer, batch)).transpose()?;
    let sweep = Sweep::new(args, global)?;
    let mut results = Results { rows: vec![], net: sweep.net.clone(), batch };
    let out = args.training.run.out.as_deref();
    let failed = || format!("cannot write results to {}", out.unwrap_or(Path::new("")).display());
    let bar = global.bar(lengths.len() * drives.len() * learners.len(), "points of the sweep");
    // Methods are measured side by side, so that the machine's moods fall on all of them.
    for &steps in &lengths {
        for &drive in drives {
            for config in &learners {
                bar.message(format!("{} T = {steps}", sweep::label(&config.method)));
                let row = sweep.point(steps, drive, config)?;
                bar.inc();
                bar.suspend(|| row.iter().for_each(results::print_row));
                results.rows.extend(row);
                // A sweep that is killed keeps what it has measured.
                if let Some(out) = out.filter(|_| !results.rows.is_empty()) {
                    results.write_rows(out).with_context(failed)?;
                }
            }
        }
    }
    bar.finish();
    results.rows.sort_by_key(|r| learners.iter().position(|l| sweep::label(&l.method) == r.method));
    if results.rows.is_empty() {
        return Ok(());
    }
    say!("\n{results}");
    if let Some(reference) = &reference {
        say!("{}", reference.beside(&results)?);
    }
    if let Some(out) = out {
        results.write(out).with_context(failed)?;
    }
    if results.rows.iter().all(|row| row.error.is_some()) {
        bail!(
            "a sweep must measure something, but each of its {} points failed; see the table for why",
            results.rows.len()
        );
    }
    Ok(())
}

/// What all points of a sweep share.
struct Sweep<'a> {
    args: &'a Args,
    session: Session,
    net: ETraceNet,
    model: Model,
    optimizer: Optimizer,
    objective: Objective,
    /// Operations per second of large products, measured before the points.
    products: Option<f64>,
}

impl<'a> Sweep<'a> {
    fn new(args: &'a Args, global: &Global) -> Result<Sweep<'a>> {
        let sizes = args.sizes(global);
        let net = args.net(&sizes, sizes.n_in, ETraceNet::default().n_out)?;
        let (optimizer, objective) = (args.training.optimizer()?, args.training.objective(args.dt)?);
        let mut session = global.session_of(args.training.run.replicas.devices(), None)?;
        session.options = session.options.uncached(); // compile times are to be those of compiling
        let model = net.model(Parts(session.replicas()).of(sizes.batch).or_usage()?);
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
        let products = if args.training.run.dry_run { None } else { Some(sweep::product_rate(&session)?) };
        if let Some(rate) = products {
            say!("products of 1024 x 1024 matrices here: {:.0} GFLOP/s", rate / 1e9);
        }
        Ok(Sweep { args, session, net, model, optimizer, objective, products })
    }

    /// Measures a learner on sequences of so many steps; with `--dry-run`, prints its program.
    fn point(&self, steps: usize, drive: Drive, config: &LearnerConfig) -> Result<Option<Row>> {
        let (run, session) = (&self.args.training.run, &self.session);
        let chunk = config.chunk.or((drive == Drive::Step).then_some(1));
        let spec = Spec {
            model: self.model.clone(),
            evaluation: self.model.clone(),
            objective: self.objective.clone(),
            learner: LearnerConfig { chunk, warmup: self.args.warmup(steps), ..config.clone() },
            optimizer: self.optimizer.clone(),
            steps,
            mean_over_time: config.method == Method::BPTT,
            parts: Parts(self.session.replicas()),
        };
        let learner = Learner::new(&spec.model, &spec.objective, &spec.learner.within(steps))?;
        let length = match drive {
            Drive::Scan => learner.chunk_length(steps),
            Drive::Step => divisor(chunk.unwrap_or(1), steps),
        };
        if run.dry_run {
            say!("{}", toml::to_string_pretty(&spec.learner)?);
            let target = run.target.as_deref();
            crate::cli::output::print(&match drive {
                Drive::Scan => train::described(session, &spec, target)?,
                Drive::Step => train::described_stepwise(session, &spec, length, target)?,
            });
            return Ok(None);
        }
        let mut row = sweep::measure(session, &spec, drive, length, self.args.repeats, run.seed(), self.args.rate);
        if drive == Drive::Scan {
            // Of all parts of the batch, as the time is.
            let flops = cost::gradient(&learner, &spec.model, steps).flops * spec.parts.0 as u64;
            row.flops = Some(flops);
            row.product_share = row.run_seconds.zip(self.products).map(|(s, rate)| flops as f64 / s / rate);
        }
        Ok(Some(row))
    }
}

/// The largest chunk not above `length` that divides `steps`: every call of the step drive has the same size.
fn divisor(length: usize, steps: usize) -> usize {
    (1..=length.min(steps)).rev().find(|k| steps.is_multiple_of(*k)).unwrap_or(1)
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
    let task = match dataset {
        Dataset::Nmnist => TaskConfig::Nmnist(NMnistSettings { steps, ..args.read.digits(&folder)? }),
        Dataset::Gesture => {
            TaskConfig::Gesture(GestureSettings { framing: Framing::Bins(steps), ..args.read.gestures(&folder) })
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
