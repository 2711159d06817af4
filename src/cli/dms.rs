//! `etrace dms`: delayed match-to-sample with a recurrent network of GIF neurons.

use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use tasks::{DmsSettings, EvidenceSettings};

use super::{
    Global, OrUsage,
    flags::learner::LearnerFlags,
    flags::{finite, fraction, non_negative, positive, size},
    train::{self, TrainFlags},
    usage,
};
use crate::{
    cell::spiking::Tau,
    experiment::{Experiment, TaskConfig},
    learn::sequence::LearnerConfig,
    net::GifNet,
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
    /// dms; or dm, the older click task (count clicks on two sides over a delay)
    #[arg(long, default_value = "dms")]
    dataset: String,
    /// Smoothed accuracy at which training stops
    #[arg(long, default_value_t = published().settings.stop_at.unwrap_or(1.0), value_parser = fraction)]
    acc_th: f64,
    /// Step, ms
    #[arg(long, default_value_t = DmsSettings::default().dt, value_parser = positive)]
    dt: f64,
    /// Before the first stimulus, ms
    #[arg(long, default_value_t = DmsSettings::default().t_fixation, value_parser = non_negative)]
    t_fixation: f64,
    /// Between the stimuli, ms
    #[arg(long, default_value_t = DmsSettings::default().t_delay, value_parser = non_negative)]
    t_delay: f64,
    /// Neurons
    #[arg(long, default_value_t = GifNet::default().n_rec, value_parser = size)]
    n_rec: usize,
    /// After-current of a spike; positive values inhibit
    #[arg(long = "A2", default_value_t = GifNet::default().a2, value_parser = finite)]
    a2: f64,
    /// Upper scale of the time constants of the after-currents, ms: per neuron uniform between 100 and 1.5 times this
    #[arg(long = "tau_I2", default_value_t = GifNet::SLOW, value_parser = positive)]
    tau_i2: f64,
    /// Membrane time constant, ms
    #[arg(long, default_value_t = GifNet::default().tau_neu.mean(), value_parser = positive)]
    tau_neu: f64,
    /// Synaptic time constant, ms
    #[arg(long, default_value_t = GifNet::default().tau_syn, value_parser = positive)]
    tau_syn: f64,
    /// Time constant of the readout, ms
    #[arg(long, default_value_t = GifNet::default().tau_o, value_parser = positive)]
    tau_o: f64,
    /// Variance of the input weights in units of 1/fan-in
    #[arg(long, default_value_t = GifNet::default().ff_scale, value_parser = non_negative)]
    ff_scale: f64,
    /// Variance of the recurrent weights in units of 1/fan-in
    #[arg(long, default_value_t = GifNet::default().rec_scale, value_parser = non_negative)]
    rec_scale: f64,
    /// 1: the derivative passes through the spike that resets
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    diff_spike: u8,
    /// The same with the opposite meaning, as the oldest script had it
    #[arg(long, hide = true, conflicts_with = "diff_spike", value_parser = clap::value_parser!(u8).range(0..=1))]
    detach_spk: Option<u8>,
    /// Accepted for the published command lines; only 0 exists
    #[arg(long, hide = true, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=0))]
    diag_normalize: u8,
    /// Accepted for the published command lines; the loss starts where the test stimulus does
    #[arg(long, hide = true, value_parser = non_negative)]
    warmup_ratio: Option<f64>,
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
        format!("Batch {:4}, loss = {:.8}, acc = {:.6}, time = {:.5} s", r.number, r.loss, r.score.value(), r.seconds)
    };
    train::run("dms", &args.training.run, args.training.epochs, global, train::Lines::Batches(line), || resolve(&args))
}

/// The experiment that flags ask for.
fn resolve(args: &Args) -> Result<Experiment> {
    let standard = published();
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
    let net = GifNet {
        n_in: opened.n_in(),
        n_rec: args.n_rec,
        n_out: opened.n_out(),
        tau_neu: Tau::Scalar(args.tau_neu),
        tau_syn: args.tau_syn,
        tau_i2: GifNet::slow(args.tau_i2),
        a2: args.a2,
        tau_o: args.tau_o,
        ff_scale: args.ff_scale,
        rec_scale: args.rec_scale,
        diff_spike: args.detach_spk.map_or(args.diff_spike == 1, |detach| detach == 0),
        surrogate: args.training.surrogate()?,
        dt: args.dt,
        ..GifNet::default()
    };
    let learner = LearnerConfig { warmup: opened.warmup(), ..standard.learner.clone() };
    let all = Experiment {
        learner: args.learner.config(&learner, DECAY)?,
        task,
        net: net.into(),
        ..args.training.apply(standard, args.dt, Some(args.acc_th))?
    };
    all.check().or_usage()?;
    Ok(all)
}

/// The experiment without flags.
fn published() -> Experiment {
    Experiment::published("dms").expect("a preset of this name")
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
        let args = Line::try_parse_from(["dms"]).expect("no flag is needed").args;
        let text = |e: &Experiment| toml::to_string(e).expect("it can be written");
        assert_eq!(text(&resolve(&args).expect("an experiment")), text(&published()));
    }
}
