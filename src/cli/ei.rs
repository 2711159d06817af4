//! `etrace ei`: evidence accumulation with a network of excitatory and inhibitory conductance synapses.

use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use tasks::EvidenceSettings;

use super::{
    Global, OrUsage,
    flags::learner::LearnerFlags,
    flags::{ei_size, finite, fraction, non_negative, positive, share, size, some_passes},
    train::{self, TrainFlags},
    usage,
};
use crate::{
    cell::spiking::Tau,
    experiment::{Experiment, TaskConfig},
    learn::sequence::LearnerConfig,
    net::{Coupling, EiNet},
    train::optimizer::Schedule,
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
    /// Smoothed accuracy at which training stops
    #[arg(long, visible_alias = "threshold", default_value_t = published().settings.stop_at.unwrap_or(1.0), value_parser = fraction)]
    acc_th: f64,
    /// Batches after which the learning rate falls by a tenth, again and again
    #[arg(long, default_value_t = 5, value_parser = some_passes)]
    epoch_per_step: u64,
    /// 1: the derivative passes through the spike that resets
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    diff_spike: u8,
    /// Step, ms
    #[arg(long, default_value_t = EvidenceSettings::default().dt, value_parser = positive)]
    dt: f64,
    /// Cues of a trial; an odd number avoids ties
    #[arg(long, default_value_t = EvidenceSettings::default().cues, value_parser = size)]
    cues: usize,
    /// From the last cue to the answer, ms
    #[arg(long, default_value_t = EvidenceSettings::default().t_delay, value_parser = non_negative)]
    t_delay: f64,
    /// coba (conductances) or cuba (currents)
    #[arg(long, default_value = "coba")]
    net: String,
    /// Neurons
    #[arg(long, default_value_t = EiNet::default().n_rec, value_parser = ei_size)]
    n_rec: usize,
    /// Probability of a connection
    #[arg(long, default_value_t = EiNet::default().sparsity, value_parser = share)]
    sparsity: f64,
    /// Factor on the variance of the inhibitory weights
    #[arg(long, default_value_t = EiNet::default().w_ei_ratio, value_parser = non_negative)]
    w_ei_ratio: f64,
    /// Variance of the input weights in units of 1/fan-in
    #[arg(long, default_value_t = EiNet::default().ff_scale, value_parser = non_negative)]
    ff_scale: f64,
    /// Variance of the recurrent weights in units of 1/fan-in
    #[arg(long, default_value_t = EiNet::default().rec_scale, value_parser = non_negative)]
    rec_scale: f64,
    /// Slow after-current of a spike; positive values inhibit
    #[arg(long = "A2", default_value_t = EiNet::default().a2, value_parser = finite)]
    a2: f64,
    /// Its time constant, ms
    #[arg(long = "tau_I2", default_value_t = EiNet::default().tau_i2, value_parser = positive)]
    tau_i2: f64,
    /// Fast after-current of a spike; positive values excite
    #[arg(long = "A1", default_value_t = EiNet::default().a1, value_parser = finite)]
    a1: f64,
    /// Its time constant, ms
    #[arg(long = "tau_I1", default_value_t = EiNet::default().tau_i1, value_parser = positive)]
    tau_i1: f64,
    /// Time constant of the threshold, ms
    #[arg(long, default_value_t = EiNet::default().tau_th, value_parser = positive)]
    tau_th: f64,
    /// Rise of the threshold at a spike
    #[arg(long = "Ath", default_value_t = EiNet::default().a_th, value_parser = finite)]
    a_th: f64,
    /// Membrane time constant, ms
    #[arg(long, default_value_t = EiNet::default().tau_neu.mean(), value_parser = positive)]
    tau_neu: f64,
    /// Synaptic time constant, ms
    #[arg(long, default_value_t = EiNet::default().tau_syn, value_parser = positive)]
    tau_syn: f64,
    /// Time constant of the readout, ms
    #[arg(long, default_value_t = EiNet::default().tau_out, value_parser = positive)]
    tau_out: f64,
    /// Accepted for the published command lines, where it was ignored too: the task is evidence accumulation
    #[arg(long, hide = true, value_parser = ["ea", "dms"])]
    task: Option<String>,
    /// Accepted for the published command lines, where it was ignored too: the loss counts in the last 150 ms
    #[arg(long, hide = true, value_parser = finite)]
    warmup: Option<f64>,
    /// train; for plots of a trained network see `etrace observe`
    #[arg(long, hide = true, default_value = "train", value_parser = ["train"])]
    mode: String,
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    training: TrainFlags,
}

/// Runs the command.
///
/// # Errors
/// When flags make no sense or training fails.
pub fn run(args: Args, global: &Global) -> Result<()> {
    let line = |r: &train::BatchReport| {
        format!(
            "Batch {:2}, CE={:.8}, L1={:.6}, acc={:.6}, lr={:.6}, mem={:.6} GB, time={:.2} s",
            r.number,
            r.loss,
            r.l1,
            r.score.value(),
            r.next_lr,
            r.memory,
            r.seconds
        )
    };
    train::run("ei", &args.training.run, args.training.epochs, global, train::Lines::Batches(line), || resolve(&args))
}

/// The experiment that flags ask for.
fn resolve(args: &Args) -> Result<Experiment> {
    let standard = published();
    let task = TaskConfig::Evidence(EvidenceSettings {
        dt: args.dt,
        cues: args.cues,
        t_delay: args.t_delay,
        ..EvidenceSettings::default()
    });
    let opened = task.open().or_usage()?;
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
    let learner = LearnerConfig { warmup: opened.warmup(), ..standard.learner.clone() };
    let mut all = Experiment {
        learner: args.learner.config(&learner, DECAY)?,
        task,
        net: net.into(),
        ..args.training.apply(standard, args.dt, Some(args.acc_th))?
    };
    if all.optimizer.schedule == Schedule::Constant {
        all.optimizer.schedule = Schedule::Step { every: args.epoch_per_step, gamma: 0.9 };
    }
    all.check().or_usage()?;
    Ok(all)
}

/// The experiment without flags.
fn published() -> Experiment {
    Experiment::published("ei").expect("a preset of this name")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn without_flags_the_command_is_the_preset() {
        let args = Line::try_parse_from(["ei"]).expect("no flag is needed").args;
        let text = |e: &Experiment| toml::to_string(e).expect("it can be written");
        assert_eq!(text(&resolve(&args).expect("an experiment")), text(&published()));
    }
}
