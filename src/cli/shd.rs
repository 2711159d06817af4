//! `etrace shd`: spoken digits and words with layers of neurons that learn their time constants.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{ArgAction, Args as ClapArgs, ValueEnum};
use tasks::{
    GestureSettings, NMnistSettings, Passes, ShdKind, ShdSettings, Split, Tail, Task,
    gesture::Framing,
    shd::{Augment, MaxTime},
};

use super::{
    Global, OrUsage,
    common::LearnerFlags,
    data::{self, ReadFlags},
    eval::CheckpointName,
    flags::{below_one, fraction, non_negative, passes, positive, size, some_passes, steps},
    train::{self, EpochReport, RunFlags},
    usage,
};
use crate::{
    cell::{
        Surrogate,
        norm::{Norm, Statistics},
        spiking::AdLif,
    },
    experiment::{Experiment, TaskConfig},
    learn::{Method, Objective, objective::OfSum},
    net::{SpeechCell, SpeechNet, SpeechReadout},
    presets::{SPEECH_FALL, shd_net},
    train::{
        optimizer::{Optimizer, Schedule},
        trainer::{Patience, Settings},
    },
};

/// The published smoothing of factorised traces.
const DECAY: f64 = 0.99;

/// Upper end of the leak in the published online program: a time constant of 250 steps.
const SLOW_ALPHA: f64 = 0.996_007_989_343_991_5;

/// Spoken digits (SHD) or words (SSC), 700 channels, as spikes of a model of the inner ear; also event-camera sets, flattened. Hidden
/// layers of LIF, RLIF, adLIF or RadLIF neurons with learned time constants, leaky readout. BPTT minimises the cross-entropy of
/// the output summed over time; the online rules that of every step, summed over steps. Evaluation uses the summed output.
///
/// The checkpoint that is reported is chosen on a speaker held out of the training set (--select speaker). The published programs
/// chose it on the test set and reported it on the same: --select test does that, and says so. --select last trains on all
/// speakers and reports the last epoch.
///
/// Normalisation: batch norm uses running statistics as constants, in training as in evaluation, so that traces are exact; they move
/// once per update (--bn_stats batch: the statistics of each step's batch, BPTT only). Layer norm under an online rule treats
/// mean and variance as constants; in the published program it made the traces vanish.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    run: RunFlags,
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
    /// Statistics that batch norm trains with: running, or those of each step's batch (BPTT only)
    #[arg(long, value_enum, default_value = "running")]
    bn_stats: BnStats,
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
        let best =
            if r.best { format!("\nBest model saved with {} acc={:.4}", r.split, r.accuracy) } else { String::new() };
        format!(
            "Epoch {e}: lr={}\nEpoch {e}: train loss={:.6}\nEpoch {e}: train acc={:.4}\nEpoch {e}: train elapsed time={:.2} s\n\
             Epoch {e}: {split} loss={:.6}\nEpoch {e}: {split} acc={:.4}{best}\n{}",
            r.lr,
            r.training_loss,
            r.training_accuracy,
            r.seconds,
            r.loss,
            r.accuracy,
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

impl Args {
    fn surrogate(&self, cell: SpeechCell) -> Result<Surrogate> {
        let triangle = Surrogate::Relu { alpha: 0.3, width: self.relu_width };
        let boxcar = Surrogate::Boxcar { width: 0.5 };
        Ok(match self.surrogate.as_deref() {
            None if self.variant == Variant::Online && !cell.adaptive() => triangle,
            None => boxcar,
            Some("relu") => triangle,
            Some(name) => Surrogate::by_name(name)
                .ok_or_else(|| usage(format!("--surrogate must be one of {}, got `{name}`", Surrogate::names())))?,
        })
    }

    /// The network, for the shapes of a task.
    fn net(&self, cell: SpeechCell, loss_of: LossOf, opened: &dyn Task) -> Result<SpeechNet> {
        let random = match self.state_init {
            Some(start) => start == StateStart::Rand,
            None => match self.variant {
                Variant::Classical => cell == SpeechCell::Lif,
                Variant::Offline => true,
                Variant::Online => false,
            },
        };
        Ok(SpeechNet {
            cell,
            n_in: opened.n_in(),
            hidden: vec![self.n_rec; usize::from(self.nb_layers) - 1],
            n_out: opened.n_out(),
            dropout: self.pdrop,
            norm: match self.normalization {
                NormName::None => Norm::None,
                NormName::Layernorm => Norm::Layer,
                NormName::Batchnorm => Norm::Batch {
                    momentum: self.momentum,
                    statistics: if self.bn_stats == BnStats::Batch { Statistics::Batch } else { Statistics::Running },
                },
            },
            bias: self.use_bias,
            inp_scale: self.inp_scale.unwrap_or(5f64.sqrt()),
            rec_scale: self.rec_scale,
            surrogate: self.surrogate(cell)?,
            threshold: self.threshold,
            alpha: if self.variant == Variant::Online { (AdLif::ALPHA.0, SLOW_ALPHA) } else { AdLif::ALPHA },
            random_states: random,
            running: loss_of == LossOf::Running,
            readout: match self.readout {
                ReadoutName::Leaky => SpeechReadout::Leaky,
                ReadoutName::Spiking => SpeechReadout::Spiking,
            },
            dt: 1400.0 / opened.steps() as f64,
        })
    }

    fn task(&self) -> Result<TaskConfig> {
        let kind = match self.dataset_name.to_lowercase().as_str() {
            "shd" => ShdKind::Shd,
            "ssc" => ShdKind::Ssc,
            name @ ("nmnist" | "nmnistv2" | "gesture" | "gesturev2") => {
                let data = self.data.clone().unwrap_or_else(|| "../data".into());
                let steps = self.data_length.unwrap_or(200);
                let (cache, disorder, time_unit) = (self.cache.clone(), self.read.disorder(), self.read.time_unit);
                return Ok(if name.starts_with("nmnist") {
                    let standard = NMnistSettings::new(data);
                    TaskConfig::Nmnist(NMnistSettings { steps, cache, disorder, time_unit, ..standard })
                } else {
                    let (framing, standard) = (Framing::Bins(steps), GestureSettings::new(data));
                    TaskConfig::Gesture(GestureSettings { framing, cache, disorder, time_unit, ..standard })
                });
            }
            other => bail!(usage(format!(
                "--dataset_name must be shd, ssc, nmnist, nmnistv2, gesture or gesturev2, got `{other}`"
            ))),
        };
        let folder = if kind == ShdKind::Shd { "../data/SHD/" } else { "../data/SSC/" };
        let max_time = match self.max_time.as_str() {
            "longest" => MaxTime::Longest,
            text => MaxTime::Fixed(positive(text).map_err(|_| {
                usage(format!(
                    "--max_time must be a number of seconds above 0 or `longest`, got `{text}`; 1.4 is usual"
                ))
            })?),
        };
        let standard = ShdSettings::new(self.data.clone().unwrap_or_else(|| folder.into()), kind);
        let augment = self.use_augm.then_some(Augment {
            shift: self.aug_random_shift,
            dilate: (self.aug_random_dilate_min, self.aug_random_dilate_max),
            jitter: self.aug_id_jitter_sigma,
        });
        let mut settings = ShdSettings {
            steps: self.data_length.unwrap_or(standard.steps),
            max_time,
            n_out: self.n_out.unwrap_or(standard.n_out),
            augment,
            cache: self.cache.clone(),
            time_unit: self.read.time_unit,
            // No sample is left out: the last batch of an epoch is filled up with rows that do not count.
            passes: Passes { train_tail: Tail::Pad, ..Passes::default() },
            ..standard
        };
        if kind == ShdKind::Shd && self.select == Select::Speaker {
            settings.held_out.clone_from(&self.held_out);
            if settings.held_out.is_empty() {
                let task = TaskConfig::Speech(settings.clone()).open().or_usage()?;
                let last = task.people(Split::Train).or_usage()?.into_iter().max();
                settings.held_out.extend(last);
            }
        }
        Ok(TaskConfig::Speech(settings))
    }
}

fn resolve(args: &Args, global: &Global) -> Result<Experiment> {
    let cell = SpeechCell::by_name(&args.model_type).ok_or_else(|| {
        usage(format!(
            "--model_type must be one of {}, got `{}` (MLP, RNN, LiGRU and GRU were never built into the published programs)",
            SpeechCell::NAMES.join(", "),
            args.model_type
        ))
    })?;
    let task = args.task()?;
    let opened = task.open().or_usage()?;
    let standard = published();
    let mut published = standard.learner.clone();
    if args.variant == Variant::Online {
        published.method = Method::es_d_rtrl(DECAY);
    }
    let learner = args.learner.config(&published, DECAY)?;
    let online = learner.method.is_online();
    let loss_of = args.loss_of.unwrap_or(if online { LossOf::Steps } else { LossOf::Sum });
    let net = args.net(cell, loss_of, opened.as_ref())?;
    let has_valid = args.select == Select::Speaker && opened.samples(Split::Valid).is_ok_and(|n| n.is_some());
    if args.select == Select::Speaker && !has_valid {
        bail!(usage(format!(
            "--select speaker needs a validation split, and {} has none; use --select last, or --select test to choose on the test set",
            opened.name()
        )));
    }
    let flags = args.run.settings(args.batch_size);
    let mut all = Experiment {
        settings: Settings {
            epochs: args.epochs.or(standard.settings.epochs),
            evaluate: Some(if has_valid { Split::Valid } else { Split::Test }.name().into()),
            select: args.select != Select::Last,
            patience: args.patience.map(|epochs| Patience { epochs, trained: args.train_threshold }),
            seed: flags.seed,
            threads: flags.threads,
            batch: flags.batch,
            ..standard.settings
        },
        learner,
        optimizer: Optimizer {
            lr: args.lr,
            schedule: Schedule::Step { every: args.lr_step_size, gamma: args.lr_step_gamma },
            clip: args.clip,
            ..standard.optimizer
        },
        objective: Objective {
            of_sum: if loss_of == LossOf::Sum { OfSum::Always } else { OfSum::Evaluation },
            ..standard.objective
        },
        task,
        net: net.into(),
    };
    data::fit(&mut all, opened.as_ref(), Some(args.lr_step_size), global)?;
    all.check().or_usage()?;
    Ok(all)
}

/// The experiment without flags.
fn published() -> Experiment {
    Experiment::published("shd").expect("a preset of this name")
}

/// Its training: the learning rate and how it falls.
fn schedule() -> (f64, f64, f64) {
    let optimizer = published().optimizer;
    let gamma = if let Schedule::Step { gamma, .. } = optimizer.schedule { gamma } else { 1.0 };
    (optimizer.lr, gamma, optimizer.clip)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
        #[command(flatten)]
        global: Global,
    }

    #[test]
    fn without_flags_the_command_is_the_preset_on_the_data_at_hand() {
        let folder = std::env::temp_dir().join(format!("etrace-shd-preset-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/data/shd_tiny.h5");
        for file in ["shd_train.h5", "shd_test.h5"] {
            std::fs::copy(&sample, folder.join(file)).expect("a copied sample");
        }
        let line = ["shd", "--data", folder.to_str().expect("a plain path")];
        let line = Line::try_parse_from(line).expect("known flags");
        let found = resolve(&line.args, &line.global).expect("an experiment");
        let mut want = published();
        let (TaskConfig::Speech(want_task), TaskConfig::Speech(task)) = (&mut want.task, &found.task) else { panic!() };
        want_task.dir.clone_from(&task.dir);
        assert_eq!(task.held_out.len(), 1, "one speaker is held out");
        want_task.held_out.clone_from(&task.held_out);
        want.fit_to_data(want.task.open().expect("the sample").as_ref(), Some(crate::presets::SPEECH_FALL))
            .expect("samples");
        let text = |e: &Experiment| toml::to_string(e).expect("it can be written");
        assert_eq!(text(&found), text(&want));
        std::fs::remove_dir_all(folder).expect("it is there");
    }
}
