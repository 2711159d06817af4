//! `etrace shd`: spoken digits and words with layers of neurons that learn their time constants.

mod experiment;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{ArgAction, Args as ClapArgs, ValueEnum};

use super::{
    Global,
    data::ReadFlags,
    eval::CheckpointName,
    flags::learner::LearnerFlags,
    flags::{below_one, fraction, non_negative, passes, positive, size, some_passes, steps},
    train::{self, EpochReport, RunFlags},
    usage,
};
use crate::{
    cell::norm::Derivative,
    presets::{SPEECH_FALL, shd_net},
};
use experiment::{published, resolve, schedule};

/// Spoken digits (SHD) or words (SSC), 700 channels, as spikes of a model of the inner ear; also event-camera sets, flattened. Hidden
/// layers of LIF, RLIF, adLIF or RadLIF neurons with learned time constants, leaky readout. BPTT minimises the cross-entropy of
/// the output summed over time; the online rules that of every step, summed over steps. Evaluation uses the summed output.
///
/// The checkpoint that is reported is chosen on a speaker held out of the training set (--select speaker). The published programs
/// chose it on the test set and reported it on the same: --select test does that, and says so. --select last trains on all
/// speakers and reports the last epoch.
///
/// Normalisation: batch norm uses running statistics as constants, in training as in evaluation, so that traces are exact; they move
/// once per update (--bn_stats batch: training takes the statistics of each step's batch). Statistics of a step, as layer norm has them
/// too, are constants under an online rule; in the published program they made the traces vanish. --norm_derivative through takes
/// their derivative.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// LIF, RLIF, adLIF or RadLIF
    #[arg(long, default_value = "LIF")]
    model_type: String,
    /// Which published program the defaults come from: classical; offline or online (the two of the batch version, which differ in
    /// initial states, range of the leak, surrogate)
    #[arg(long, value_enum, default_value = "classical")]
    variant: Variant,
    /// Layers, the readout included
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=64))]
    nb_layers: u16,
    /// Neurons of each hidden layer
    #[arg(long, visible_alias = "nb_hiddens", default_value_t = shd_net().hidden[0], value_parser = size)]
    n_rec: usize,
    /// Share of the output of hidden layers that is dropped in training
    #[arg(long, default_value_t = shd_net().dropout, value_parser = below_one)]
    pdrop: f64,
    /// Variance of the input weights in units of 1/fan-in [default: the square root of 5]
    #[arg(long, value_parser = non_negative)]
    inp_scale: Option<f64>,
    /// Factor on the orthogonal connections inside a layer
    #[arg(long, default_value_t = shd_net().rec_scale, value_parser = non_negative)]
    rec_scale: f64,
    /// none, batchnorm or layernorm
    #[arg(long, value_enum, default_value = "none")]
    normalization: NormName,
    /// What batch norm keeps of its running statistics at each update
    #[arg(long, default_value_t = 0.99, value_parser = fraction)]
    momentum: f64,
    /// Statistics that batch norm trains with: running, or those of each step's batch
    #[arg(long, value_enum, default_value = "running")]
    bn_stats: BnStats,
    /// The derivative through the statistics of a step [default: through for BPTT, constants for the online rules]
    #[arg(long, value_enum)]
    norm_derivative: Option<NormDerivative>,
    /// What is added to the variance [default: 1e-5 for batch norm, 1e-6 for layer norm]
    #[arg(long, value_parser = positive)]
    norm_eps: Option<f64>,
    /// The factor on what is normalised to begin with; it is trained [default: 1]
    #[arg(long, value_parser = positive)]
    norm_scale: Option<f64>,
    /// Whether connections between layers have a bias: true or false
    #[arg(long, default_value = "false", value_parser = boolean, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    use_bias: bool,
    /// Derivative of a spike: relu, s2nn, s2nn2, multi_gaussian, leaky_relu, inv_square, boxcar, gaussian, sigmoid or triangle
    /// [default: the variant's]
    #[arg(long, visible_alias = "spk_fun")]
    surrogate: Option<String>,
    /// Width of the relu surrogate
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    relu_width: f64,
    /// Threshold of hidden neurons
    #[arg(long, default_value_t = shd_net().threshold, value_parser = positive)]
    threshold: f64,
    /// Hidden states at the start of a sequence: rand (numbers in [0, 1)) or zero [default: the variant's]
    #[arg(long, value_enum)]
    state_init: Option<StateStart>,
    /// Last layer: leaky integrators, or spiking neurons whose spikes are the output
    #[arg(long, value_enum, default_value = "leaky")]
    readout: ReadoutName,

    /// shd or ssc; nmnist, nmnistv2, gesture, gesturev2
    #[arg(long, default_value = "shd", help_heading = "Data")]
    dataset_name: String,
    /// Folder with the files [default: ../data/SHD/, for ssc ../data/SSC/, else ../data]
    #[arg(long, visible_alias = "data_folder", help_heading = "Data")]
    data: Option<PathBuf>,
    #[command(flatten)]
    read: ReadFlags,
    /// Time bins [default: 100 for shd and ssc, else 200]
    #[arg(long, help_heading = "Data", value_parser = steps)]
    data_length: Option<usize>,
    /// Time of the last bin's edge in seconds, or `longest`: the latest spike of each file, as in the classical program
    #[arg(long, default_value = "1.4", help_heading = "Data")]
    max_time: String,
    /// Folder for binned data, which are read from there the next time
    #[arg(long, help_heading = "Data")]
    cache: Option<PathBuf>,
    /// Classes, where a set has fewer or more than the published one
    #[arg(long, help_heading = "Data", value_parser = size)]
    n_out: Option<usize>,
    /// How the reported checkpoint is chosen
    #[arg(long, value_enum, default_value = "speaker", help_heading = "Data")]
    select: Select,
    /// Speakers held out of the training set for --select speaker [default: the one with the highest number]
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true, help_heading = "Data")]
    held_out: Vec<i64>,
    /// Change the training data anew in every epoch: true or false (--aug_* say how much)
    #[arg(long, default_value = "false", value_parser = boolean, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = "Data")]
    use_augm: bool,
    /// Largest shift of a sample, channels
    #[arg(long, default_value_t = 40.0, help_heading = "Data", value_parser = non_negative)]
    aug_random_shift: f64,
    /// Smallest factor on the times of a sample
    #[arg(long, default_value_t = 0.95, help_heading = "Data", value_parser = positive)]
    aug_random_dilate_min: f64,
    /// Largest factor on the times of a sample
    #[arg(long, default_value_t = 1.2, help_heading = "Data", value_parser = positive)]
    aug_random_dilate_max: f64,
    /// Standard deviation of the shift of each spike, channels
    #[arg(long, default_value_t = 4.0, help_heading = "Data", value_parser = non_negative)]
    aug_id_jitter_sigma: f64,

    /// Passes over the training set
    #[arg(long, visible_alias = "nb_epochs", help_heading = "Training", value_parser = passes)]
    epochs: Option<u64>,
    /// Samples per batch
    #[arg(long, default_value_t = published().settings.batch, help_heading = "Training", value_parser = size)]
    batch_size: usize,
    /// Learning rate
    #[arg(long, default_value_t = schedule().0, help_heading = "Training", value_parser = positive)]
    lr: f64,
    /// Epochs after which the learning rate falls, again and again
    #[arg(long, default_value_t = SPEECH_FALL, help_heading = "Training", value_parser = some_passes)]
    lr_step_size: u64,
    /// By which factor it falls
    #[arg(long, default_value_t = schedule().1, help_heading = "Training", value_parser = positive)]
    lr_step_gamma: f64,
    /// What is minimised [default: sum for BPTT, steps for the online rules, as published]
    #[arg(long, value_enum, help_heading = "Training")]
    loss_of: Option<LossOf>,
    /// Largest norm of the gradient; 0 for no limit
    #[arg(long, default_value_t = schedule().2, help_heading = "Training", value_parser = non_negative)]
    clip: f64,
    /// Stop after so many epochs without a better evaluation [default: never]
    #[arg(long, help_heading = "Training", value_parser = some_passes)]
    patience: Option<u64>,
    /// ... which count only while the training accuracy is above this
    #[arg(long, default_value_t = 0.95, help_heading = "Training", value_parser = fraction)]
    train_threshold: f64,

    /// train, or test: rasters of the network in --load_exp_folder, or of an untrained one
    #[arg(long, value_enum, default_value = "train")]
    mode: Mode,
    /// Run whose network --mode test shows
    #[arg(long)]
    load_exp_folder: Option<PathBuf>,
    /// The published name of --out
    #[arg(long, conflicts_with = "out")]
    new_exp_folder: Option<PathBuf>,
    /// Accepted for the published command lines: the best checkpoint is always kept
    #[arg(long, hide = true, default_value = "true", value_parser = boolean, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    save_best: bool,
    /// Accepted for the published command lines, where it had no effect; see --resume
    #[arg(long, hide = true, value_parser = passes)]
    start_epoch: Option<u64>,
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    run: RunFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Variant {
    Classical,
    Offline,
    Online,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NormName {
    None,
    Batchnorm,
    Layernorm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BnStats {
    Running,
    Batch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NormDerivative {
    /// Left out
    Constants,
    /// Taken: not by rules of smoothed inputs, and not on a stream
    Through,
}

impl From<NormDerivative> for Derivative {
    fn from(name: NormDerivative) -> Derivative {
        match name {
            NormDerivative::Constants => Derivative::Constants,
            NormDerivative::Through => Derivative::Through,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StateStart {
    Rand,
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReadoutName {
    Leaky,
    Spiking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LossOf {
    /// One loss of the output summed over all steps; online rules pass twice over the sequence
    Sum,
    /// The losses of the output of every step, summed
    Steps,
    /// The losses, at every step, of the output summed so far: close to `sum`, in one pass
    Running,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Select {
    /// On speakers held out of the training set
    Speaker,
    /// On the test set, as published: the reported accuracy is then too good
    Test,
    /// The last epoch; all speakers are trained on
    Last,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Train,
    Test,
}

/// A truth value as the published programs write it.
fn boolean(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Ok(true),
        "n" | "no" | "f" | "false" | "off" | "0" => Ok(false),
        _ => Err("a truth value is yes, true, on, 1 or no, false, off, 0".into()),
    }
}

/// Runs the command.
///
/// # Errors
/// When flags make no sense, files are missing, or training fails.
pub fn run(mut args: Args, global: &Global) -> Result<()> {
    if args.mode == Mode::Test {
        return show(&args, global);
    }
    if let Some(folder) = args.new_exp_folder.take() {
        if folder.exists() {
            bail!(usage(format!("--new_exp_folder must not exist yet, but {} does; name another", folder.display())));
        }
        args.run.out = Some(folder);
    }
    if args.select == Select::Test && args.run.resume.is_none() {
        global.remark(
            "--select test: the checkpoint is chosen on the test set, as published; its accuracy there is too good to be compared",
        );
    }
    let line = |r: &EpochReport| {
        let best = if r.best {
            format!("\nBest model saved with {} acc={:.4}", r.split, r.score.value())
        } else {
            String::new()
        };
        format!(
            "Epoch {e}: lr={}\nEpoch {e}: train loss={:.6}\nEpoch {e}: train acc={:.4}\nEpoch {e}: train elapsed time={:.2} s\n\
             Epoch {e}: {split} loss={:.6}\nEpoch {e}: {split} acc={:.4}{best}\n{}",
            r.lr,
            r.training_loss,
            r.training_score,
            r.seconds,
            r.loss,
            r.score.value(),
            "-".repeat(64),
            e = r.epoch,
            split = r.split,
        )
    };
    let args = &args;
    train::run("shd", &args.run, args.epochs, global, train::Lines::Epochs(line), || resolve(args, global))
}

/// `--mode test`: rasters of a network for the first samples of the test set.
fn show(args: &Args, global: &Global) -> Result<()> {
    let observe = |run: PathBuf, checkpoint| super::observe::Args::new(run, 8, checkpoint);
    if let Some(folder) = &args.load_exp_folder {
        return super::observe::run(&observe(folder.clone(), CheckpointName::Best), global);
    }
    let experiment = resolve(args, global)?;
    let folder = args.run.out.clone().or(args.new_exp_folder.clone());
    let folder = folder.unwrap_or_else(|| PathBuf::from("checkpoints").join("shd-untrained"));
    super::observe::untrained(&experiment, &folder, 8, global)
}
