//! `etrace ei`: evidence accumulation with a network of excitatory and inhibitory conductance synapses.

use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use tasks::EvidenceSettings;

use super::{
    Global, OrUsage,
    common::LearnerFlags,
    train::{self, TrainFlags},
    usage,
};
use crate::{
    cell::spiking::Tau,
    experiment::{Experiment, NetConfig, TaskConfig},
    learn::{Method, Vjp, sequence::LearnerConfig},
    net::{Coupling, EiNet},
    train::{optimizer::Schedule, trainer::Settings},
};

/// The published smoothing of factorised traces.
const DECAY: f64 = 0.99;

/// Evidence accumulation: seven cues on the left or the right, a delay, and the question which side had more. The network has
/// four excitatory neurons for each inhibitory one, sparse conductance synapses, and spikes that leave a slow after-current.
/// The loss counts in the last 150 ms.
///
/// Differences from the published script, all where it fails or ignores what it is told: `--epochs N` trains N batches, not
/// N + 1; `--net cuba` works (inhibitory currents are negative); `--weight_L1` and `--weight_L2` work; training does not stop
/// in the first ten batches, where the published average lets one lucky batch end a run.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    training: TrainFlags,
    /// Smoothed accuracy at which training stops
    #[arg(long, default_value_t = 0.9)]
    threshold: f64,
    /// Batches after which the learning rate falls by a tenth, again and again
    #[arg(long, alias = "epoch-per-step", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    epoch_per_step: u64,
    /// 1: the derivative passes through the spike that resets
    #[arg(long, alias = "diff-spike", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    diff_spike: u8,
    /// Step, ms
    #[arg(long, default_value_t = 1.0)]
    dt: f64,
    /// Cues of a trial; an odd number avoids ties
    #[arg(long, default_value_t = 7)]
    cues: usize,
    /// From the last cue to the answer, ms
    #[arg(long, alias = "t-delay", default_value_t = 1000.0)]
    t_delay: f64,
    /// coba (conductances) or cuba (currents)
    #[arg(long, default_value = "coba")]
    net: String,
    /// Neurons
    #[arg(long, alias = "n-rec", default_value_t = 200)]
    n_rec: usize,
    /// Probability of a connection
    #[arg(long, default_value_t = 0.1)]
    sparsity: f64,
    /// Factor on the variance of the inhibitory weights
    #[arg(long, alias = "w-ei-ratio", default_value_t = 4.0)]
    w_ei_ratio: f64,
    /// Variance of the input weights in units of 1/fan-in
    #[arg(long, alias = "ff-scale", default_value_t = 1.0)]
    ff_scale: f64,
    /// Variance of the recurrent weights in units of 1/fan-in
    #[arg(long, alias = "rec-scale", default_value_t = 0.5)]
    rec_scale: f64,
    /// Slow after-current of a spike; positive values inhibit
    #[arg(long = "A2", alias = "a2", default_value_t = 1.0, allow_negative_numbers = true)]
    a2: f64,
    /// Its time constant, ms
    #[arg(long = "tau_I2", alias = "tau-I2", alias = "tau_i2", default_value_t = 1000.0)]
    tau_i2: f64,
    /// Fast after-current of a spike; positive values excite
    #[arg(long = "A1", alias = "a1", default_value_t = 0.01, allow_negative_numbers = true)]
    a1: f64,
    /// Its time constant, ms
    #[arg(long = "tau_I1", alias = "tau-I1", alias = "tau_i1", default_value_t = 50.0)]
    tau_i1: f64,
    /// Time constant of the threshold, ms
    #[arg(long, alias = "tau-th", default_value_t = 100.0)]
    tau_th: f64,
    /// Rise of the threshold at a spike
    #[arg(long = "Ath", alias = "ath", default_value_t = 1.0, allow_negative_numbers = true)]
    a_th: f64,
    /// Membrane time constant, ms
    #[arg(long, alias = "tau-neu", default_value_t = 100.0)]
    tau_neu: f64,
    /// Synaptic time constant, ms
    #[arg(long, alias = "tau-syn", default_value_t = 10.0)]
    tau_syn: f64,
    /// Time constant of the readout, ms
    #[arg(long, alias = "tau-out", default_value_t = 10.0)]
    tau_out: f64,
    /// Accepted for the published command lines, where it was ignored too: the task is evidence accumulation
    #[arg(long, hide = true, value_parser = ["ea", "dms"])]
    task: Option<String>,
    /// Accepted for the published command lines, where it was ignored too: the loss counts in the last 150 ms
    #[arg(long, hide = true)]
    warmup: Option<f64>,
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
        format!(
            "Batch {:2}, CE={:.8}, L1={:.6}, acc={:.6}, lr={:.6}, mem={:.6} GB, time={:.2} s",
            r.index, r.loss, r.l1, r.accuracy, r.next_lr, r.memory, r.seconds
        )
    };
    train::run("ei", &args.training.run, args.training.epochs, global, train::Lines::Batches(line), || resolve(&args))
}

fn resolve(args: &Args) -> Result<Experiment> {
    let task = TaskConfig::Evidence(EvidenceSettings {
        dt: args.dt,
        cues: args.cues,
        t_delay: args.t_delay,
        ..EvidenceSettings::default()
    });
    let opened = task.open().or_usage()?;
    if args.n_rec < 5 {
        bail!(usage(format!(
            "--n_rec must be at least 5 (four excitatory neurons, one inhibitory), got {}",
            args.n_rec
        )));
    }
    if !(args.sparsity > 0.0 && args.sparsity <= 1.0) {
        bail!(usage(format!("--sparsity must be a probability above 0, got {}", args.sparsity)));
    }
    let net = EiNet {
        net: match args.net.as_str() {
            "coba" => Coupling::Coba,
            "cuba" => Coupling::Cuba,
            other => bail!(usage(format!("--net must be coba or cuba, got `{other}`"))),
        },
        n_in: opened.n_in(),
        n_rec: args.n_rec,
        n_out: opened.n_out(),
        sparsity: args.sparsity,
        w_ei_ratio: args.w_ei_ratio,
        ff_scale: args.ff_scale,
        rec_scale: args.rec_scale,
        a2: args.a2,
        tau_i2: args.tau_i2,
        a1: args.a1,
        tau_i1: args.tau_i1,
        a_th: args.a_th,
        tau_th: args.tau_th,
        tau_neu: Tau::Scalar(args.tau_neu),
        tau_syn: args.tau_syn,
        tau_out: args.tau_out,
        diff_spike: args.diff_spike == 1,
        surrogate: args.training.surrogate()?,
        dt: args.dt,
    };
    let published = LearnerConfig {
        method: Method::Bptt,
        vjp: Vjp::MultiStep { window: 1 },
        warmup: opened.warmup(),
        ..LearnerConfig::default()
    };
    let mut optimizer = args.training.optimizer()?;
    if optimizer.schedule == Schedule::Constant {
        optimizer.schedule = Schedule::Step { every: args.epoch_per_step, gamma: 0.9 };
    }
    Ok(Experiment {
        settings: Settings {
            batches: Some(args.training.epochs.unwrap_or(10_000)),
            stop_at: Some(args.threshold),
            checkpoint_every: 20,
            ..args.training.run.settings(args.training.batch_size.unwrap_or(128))
        },
        learner: args.learner.config(&published, DECAY)?,
        optimizer,
        objective: args.training.objective(args.dt)?,
        task,
        net: NetConfig::Ei(net),
    })
}
