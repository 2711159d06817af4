//! `etrace dms`: delayed match-to-sample with a recurrent network of GIF neurons.

use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use tasks::{DmsSettings, EvidenceSettings};

use super::{
    Global, OrUsage,
    common::LearnerFlags,
    train::{self, TrainFlags},
    usage,
};
use crate::{
    cell::spiking::Tau,
    experiment::{Experiment, NetConfig, TaskConfig},
    learn::{Method, sequence::LearnerConfig},
    net::GifNet,
    train::trainer::Settings,
};

/// The published smoothing of factorised traces.
const DECAY: f64 = 0.9;

/// Delayed match-to-sample: a stimulus of 0.5 s, a delay, a second stimulus; were they the same? The slow after-currents of
/// GIF neurons carry the memory. The loss counts during the second stimulus only.
///
/// The published script never accepted its published flags in one version; this command accepts all of them, with the defaults
/// of the version that parsed them, and the dynamics of the last one (after-current `I2 - A2 s`, standardised potentials to the
/// readout). `--epochs` counts batches. Training stops when the smoothed accuracy (factor 0.8) reaches --acc_th, but not in the
/// first ten batches, where the published average lets one lucky batch end a run.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    training: TrainFlags,
    /// dms; or dm, the older click task (count clicks on two sides over a delay)
    #[arg(long, default_value = "dms")]
    dataset: String,
    /// Smoothed accuracy at which training stops
    #[arg(long, alias = "acc-th", default_value_t = 0.95)]
    acc_th: f64,
    /// Step, ms
    #[arg(long, default_value_t = 1.0)]
    dt: f64,
    /// Before the first stimulus, ms
    #[arg(long, alias = "t-fixation", default_value_t = 500.0)]
    t_fixation: f64,
    /// Between the stimuli, ms
    #[arg(long, alias = "t-delay", default_value_t = 1000.0)]
    t_delay: f64,
    /// Neurons
    #[arg(long, alias = "n-rec", default_value_t = 200)]
    n_rec: usize,
    /// After-current of a spike; positive values inhibit
    #[arg(long = "A2", alias = "a2", default_value_t = -1.0, allow_negative_numbers = true)]
    a2: f64,
    /// Upper scale of the time constants of the after-currents, ms: per neuron uniform between 100 and 1.5 times this
    #[arg(long = "tau_I2", alias = "tau-I2", alias = "tau_i2", default_value_t = 2000.0)]
    tau_i2: f64,
    /// Membrane time constant, ms
    #[arg(long, alias = "tau-neu", default_value_t = 20.0)]
    tau_neu: f64,
    /// Synaptic time constant, ms
    #[arg(long, alias = "tau-syn", default_value_t = 10.0)]
    tau_syn: f64,
    /// Time constant of the readout, ms
    #[arg(long, alias = "tau-o", default_value_t = 10.0)]
    tau_o: f64,
    /// Variance of the input weights in units of 1/fan-in
    #[arg(long, alias = "ff-scale", default_value_t = 10.0)]
    ff_scale: f64,
    /// Variance of the recurrent weights in units of 1/fan-in
    #[arg(long, alias = "rec-scale", default_value_t = 2.0)]
    rec_scale: f64,
    /// 1: the derivative passes through the spike that resets
    #[arg(long, alias = "diff-spike", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    diff_spike: u8,
    /// The same with the opposite meaning, as the oldest script had it
    #[arg(long, alias = "detach-spk", hide = true, conflicts_with = "diff_spike",
          value_parser = clap::value_parser!(u8).range(0..=1))]
    detach_spk: Option<u8>,
    /// Accepted for the published command lines; only 0 exists
    #[arg(long, alias = "diag-normalize", hide = true, default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(0..=0))]
    diag_normalize: u8,
    /// Accepted for the published command lines; the loss starts where the test stimulus does
    #[arg(long, alias = "warmup-ratio", hide = true)]
    warmup_ratio: Option<f64>,
    /// train; for plots of a trained network see `etrace observe`
    #[arg(long, hide = true, default_value = "train", value_parser = ["train"])]
    mode: String,
}

/// Runs the command.
///
/// # Errors
/// When flags make no sense or training fails.
pub fn run(args: Args, global: &Global) -> Result<()> {
    let line = |r: &train::BatchReport| {
        format!("Batch {:4}, loss = {:.8}, acc = {:.6}, time = {:.5} s", r.index, r.loss, r.accuracy, r.seconds)
    };
    train::run("dms", &args.training.run, args.training.epochs, global, train::Lines::Batches(line), || resolve(&args))
}

fn resolve(args: &Args) -> Result<Experiment> {
    let task = match args.dataset.as_str() {
        "dms" => TaskConfig::Dms(DmsSettings {
            dt: args.dt,
            t_fixation: args.t_fixation,
            t_delay: args.t_delay,
            ..DmsSettings::default()
        }),
        "dm" => TaskConfig::Evidence(EvidenceSettings { dt: args.dt, ..EvidenceSettings::clicks(args.t_delay) }),
        other => bail!(usage(format!("--dataset must be dms or dm, got `{other}`; for event recordings see memspeed"))),
    };
    let opened = task.open().or_usage()?;
    if args.n_rec == 0 {
        bail!(usage("--n_rec must be at least 1, got 0".into()));
    }
    let net = GifNet {
        n_in: opened.n_in(),
        n_rec: args.n_rec,
        n_out: opened.n_out(),
        tau_neu: Tau::Scalar(args.tau_neu),
        tau_syn: args.tau_syn,
        tau_i2: GifNet::slow(args.tau_i2),
        a2: args.a2,
        tau_o: args.tau_o,
        v_th: 1.0,
        ff_scale: args.ff_scale,
        rec_scale: args.rec_scale,
        diff_spike: args.detach_spk.map_or(args.diff_spike == 1, |detach| detach == 0),
        surrogate: args.training.surrogate()?,
        dt: args.dt,
    };
    let published = LearnerConfig { method: Method::Bptt, warmup: opened.warmup(), ..LearnerConfig::default() };
    Ok(Experiment {
        settings: Settings {
            batches: Some(args.training.epochs.unwrap_or(10_000)),
            stop_at: Some(args.acc_th),
            checkpoint_every: 20,
            ..args.training.run.settings(args.training.batch_size.unwrap_or(128))
        },
        learner: args.learner.config(&published, DECAY)?,
        optimizer: args.training.optimizer()?,
        objective: args.training.objective(args.dt)?,
        task,
        net: NetConfig::Gif(net),
    })
}
