//! `etrace gesture`: gestures before an event camera, with convolutions and event-based recurrent units.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use tasks::{GestureSet, GestureSettings, NMnistSettings, Split, gesture::Framing};

use super::{
    Global, OrUsage,
    common::LearnerFlags,
    data::{ReadFlags, batch_size},
    train::{self, EpochReport, RunFlags},
    usage,
};
use crate::{
    cell::egru::{Feedback, Zoneout},
    experiment::{Experiment, NetConfig, TaskConfig},
    learn::{LossKind, Method, Objective, Vjp, sequence::LearnerConfig},
    net::{GestureCell, GestureNet, Polarity},
    train::{
        optimizer::{Optimizer, Rule, Schedule},
        trainer::Settings,
    },
};

/// The published smoothing of factorised traces.
const DECAY: f64 = 0.9;

/// Length of a slice of a recording, microseconds.
const SLICE: u64 = 1_700_000;

/// Gestures before an event camera (DVS128 Gesture), in frames of 25 ms, with a convolutional front end and event-based GRUs. The
/// online rules train the recurrent layer with traces; the front end and the head learn from each step itself, with no credit for
/// the past (`etrace explain gesture`).
///
/// Differences from the published program, all where it fails: --resume works; the current learning rate is printed; --use-rmsprop
/// is RMSprop (0.99) without weight decay; --event-agg-method defaults to mean; zoneout is the paper's unless
/// --zoneout-published; activity is the mean number of events per unit and step. The reported network is that of the last epoch;
/// --select test takes the epoch that is best on the test set, as published, whose accuracy there is too good.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    run: RunFlags,
    /// Frames of a side of this many pixels: 128, 64 or 32
    #[arg(long, alias = "frame_size", default_value_t = 128)]
    frame_size: usize,
    /// What a frame's two polarities become: their mean, or (none) two channels
    #[arg(long, alias = "event_agg_method", value_enum, default_value = "mean")]
    event_agg_method: Aggregation,
    /// Convolutions before the recurrent layers
    #[arg(long, alias = "use_cnn")]
    use_cnn: bool,
    /// What the recurrent layers are made of
    #[arg(long, alias = "rnn_type", value_enum, default_value = "lstm")]
    rnn_type: RnnType,
    /// Units of each recurrent layer
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    units: u32,
    /// Number of recurrent layers
    #[arg(long, alias = "num_layers", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    num_layers: u16,
    /// Share of the front end's output that is dropped in training
    #[arg(long, default_value_t = 0.0)]
    dropout: f64,
    /// Probability that an event-based unit keeps its state, in training
    #[arg(long, default_value_t = 0.0)]
    zoneout: f64,
    /// Zoneout as published: changes scaled in training, weights swapped in evaluation
    #[arg(long, alias = "zoneout_published")]
    zoneout_published: bool,
    /// Inverse width of the surrogate derivative of an event
    #[arg(long, alias = "pseudo_derivative_width", default_value_t = 1.0)]
    pseudo_derivative_width: f64,
    /// Mean of the initial thresholds of event-based units, above 0 and below 1 [default: 0.25]
    #[arg(long, alias = "threshold_mean")]
    threshold_mean: Option<f64>,
    /// What event-based units tell each other: their state, as published, or their events, as in the EGRU paper
    #[arg(long, value_enum, default_value = "state")]
    feedback: FeedbackName,

    /// gesture (recordings), nmnist (recordings of digits), made (patterns made to order, no files)
    #[arg(long, value_enum, default_value = "gesture", help_heading = "Data")]
    dataset: Dataset,
    /// Folder with the recordings
    #[arg(long, default_value = "./data", help_heading = "Data")]
    data: PathBuf,
    /// Folder for frames, which are read from there the next time [default: none are kept]
    #[arg(long, help_heading = "Data")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    read: ReadFlags,
    /// Length of a frame, ms
    #[arg(long, alias = "frame_time", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=1700), help_heading = "Data")]
    frame_time: u64,
    /// Frames of a sample, where they are a number of bins: nmnist and made
    #[arg(long, default_value_t = 40, help_heading = "Data")]
    frames: usize,
    /// Crop, tilt and turn the training samples, each anew in every epoch
    #[arg(long, alias = "augment_data", help_heading = "Data")]
    augment_data: bool,
    /// Which epoch is reported
    #[arg(long, value_enum, default_value = "last", help_heading = "Data")]
    select: Select,
    /// Samples of the made set: for training and for testing
    #[arg(long, num_args = 2, value_names = ["TRAIN", "TEST"], default_values_t = [800, 200], help_heading = "Data")]
    made_samples: Vec<u64>,

    /// Passes over the training set
    #[arg(long, aliases = ["train_epochs", "epochs"], help_heading = "Training")]
    train_epochs: Option<u64>,
    /// Samples per batch
    #[arg(long, alias = "batch_size", default_value_t = 256, help_heading = "Training")]
    batch_size: usize,
    /// Share of a sample's steps, at its start, without loss
    #[arg(long, alias = "warmup_ratio", default_value_t = 0.0, help_heading = "Training")]
    warmup_ratio: f64,
    /// Learning rate
    #[arg(long, aliases = ["learning_rate", "lr"], default_value_t = 1e-3, help_heading = "Training")]
    learning_rate: f64,
    /// By which factor it falls
    #[arg(long, alias = "lr_gamma", default_value_t = 0.8, help_heading = "Training")]
    lr_gamma: f64,
    /// Epochs after which it falls, again and again
    #[arg(long, alias = "lr_decay_epochs", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Training")]
    lr_decay_epochs: u64,
    /// RMSprop in place of Adam
    #[arg(long, alias = "use_rmsprop", help_heading = "Training")]
    use_rmsprop: bool,
    /// Limit the norm of the gradient to --grad-clip-norm
    #[arg(long, alias = "use_grad_clipping", help_heading = "Training")]
    use_grad_clipping: bool,
    /// Largest norm of the gradient
    #[arg(long, alias = "grad_clip_norm", default_value_t = 2.0, help_heading = "Training")]
    grad_clip_norm: f64,
    /// Accepted for the published command lines; see --out
    #[arg(long, hide = true)]
    logdir: Option<PathBuf>,
    /// The published name of --resume
    #[arg(long, alias = "resume_path", hide = true)]
    resume_path: Option<PathBuf>,
    /// Accepted for the published command lines; a line is printed for every epoch
    #[arg(long, alias = "log_interval", hide = true)]
    log_interval: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Aggregation {
    Mean,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RnnType {
    Lstm,
    Gru,
    #[value(alias = "event_gru")]
    EventGru,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FeedbackName {
    State,
    Events,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dataset {
    Gesture,
    Nmnist,
    Made,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Select {
    /// The last
    Last,
    /// The best on the test set, as published
    Test,
}

/// Runs the command.
///
/// # Errors
/// When flags make no sense, files are missing, or training fails.
pub fn run(mut args: Args, global: &Global) -> Result<()> {
    if let Some(path) = args.resume_path.take() {
        // The published flag named a checkpoint or its folder.
        let folder = if path.is_file() { path.parent().map(PathBuf::from).unwrap_or_default() } else { path };
        args.run.resume.get_or_insert(folder);
    }
    let line = |r: &EpochReport| {
        format!(
            "Epoch {}, train loss {:.4}, {split} loss = {:.4}, train acc {:.4}, {split} acc = {:.4}, mean activity {:.4}, lr {:.6}, \
             {:.1} s",
            r.epoch,
            r.training_loss,
            r.loss,
            r.training_accuracy,
            r.accuracy,
            r.activity,
            r.lr,
            r.seconds,
            split = r.split,
        )
    };
    let args = &args;
    train::run("gesture", &args.run, args.train_epochs, global, train::Lines::Epochs(line), || resolve(args, global))
}

impl Args {
    fn task(&self) -> Result<TaskConfig> {
        if ![128, 64, 32].contains(&self.frame_size) && self.dataset == Dataset::Gesture {
            bail!(usage(format!("--frame-size must be 128, 64 or 32, got {}", self.frame_size)));
        }
        let frame_size = u16::try_from(self.frame_size)
            .map_err(|_| usage(format!("--frame-size must be from 16 to 128, got {}", self.frame_size)))?;
        Ok(match self.dataset {
            Dataset::Gesture => TaskConfig::Gesture(GestureSettings {
                framing: Framing::Slices { slice: SLICE, frame: self.frame_time * 1000 },
                frame_size,
                augment: self.augment_data,
                cache: self.cache.clone(),
                disorder: self.read.disorder(),
                time_unit: self.read.time_unit,
                ..GestureSettings::new(&self.data)
            }),
            Dataset::Nmnist => TaskConfig::Nmnist(NMnistSettings {
                steps: self.frames,
                cache: self.cache.clone(),
                disorder: self.read.disorder(),
                time_unit: self.read.time_unit,
                ..NMnistSettings::new(&self.data)
            }),
            Dataset::Made => TaskConfig::Made(GestureSet {
                size: frame_size,
                steps: self.frames,
                train: self.made_samples[0],
                test: self.made_samples[1],
                ..GestureSet::default()
            }),
        })
    }
}

fn resolve(args: &Args, global: &Global) -> Result<Experiment> {
    let shares = [("--dropout", args.dropout), ("--zoneout", args.zoneout), ("--warmup-ratio", args.warmup_ratio)];
    for (flag, value) in shares {
        if !(0.0..1.0).contains(&value) {
            bail!(usage(format!("{flag} must be at least 0 and below 1, got {value}")));
        }
    }
    let threshold_mean = args.threshold_mean.unwrap_or(0.25);
    if !(threshold_mean > 0.0 && threshold_mean < 1.0) {
        bail!(usage(format!("--threshold-mean must lie between 0 and 1, got {threshold_mean}; 0.25 is usual")));
    }
    if !(args.learning_rate.is_finite() && args.learning_rate > 0.0) {
        bail!(usage(format!("--learning-rate must be above 0, got {}; 0.001 is usual", args.learning_rate)));
    }
    let task = args.task()?;
    let opened = task.open().or_usage()?;
    let batch = batch_size(opened.as_ref(), args.batch_size, global)?;
    let updates = opened.batches(Split::Train, batch).or_usage()?.unwrap_or(1).max(1);
    // N-MNIST has 34 x 34 pixels, whatever the flag says.
    let frame_size = ((opened.n_in() / 2) as f64).sqrt().round() as usize;
    if args.use_cnn && frame_size < 32 {
        bail!(usage(format!("--use-cnn needs frames of at least 32 x 32 pixels, got {frame_size} x {frame_size}")));
    }
    let net = GestureNet {
        frame_size,
        polarity: if args.event_agg_method == Aggregation::Mean { Polarity::Mean } else { Polarity::Both },
        scale: if args.dataset == Dataset::Gesture { GestureNet::default().scale } else { 1.0 },
        cnn: args.use_cnn,
        dropout: args.dropout,
        cell: match args.rnn_type {
            RnnType::Lstm => GestureCell::Lstm,
            RnnType::Gru => GestureCell::Gru,
            RnnType::EventGru => GestureCell::EventGru,
        },
        units: args.units as usize,
        layers: usize::from(args.num_layers),
        threshold_mean,
        steepness: args.pseudo_derivative_width,
        zoneout: Zoneout { rate: args.zoneout, published: args.zoneout_published },
        feedback: if args.feedback == FeedbackName::State { Feedback::State } else { Feedback::Events },
        n_out: opened.n_out(),
        dt: args.frame_time as f64,
    };
    let published = LearnerConfig {
        method: Method::Bptt,
        vjp: Vjp::MultiStep { window: 1 },
        warmup: (args.warmup_ratio * opened.steps() as f64) as usize,
        ..LearnerConfig::default()
    };
    Ok(Experiment {
        settings: Settings {
            epochs: Some(args.train_epochs.unwrap_or(100)),
            evaluate: Some(Split::Test.name().into()),
            select: args.select == Select::Test,
            ..args.run.settings(batch)
        },
        learner: args.learner.config(&published, DECAY)?,
        optimizer: Optimizer {
            rule: if args.use_rmsprop { Rule::RmsProp } else { Rule::Adam },
            lr: args.learning_rate,
            schedule: Schedule::Step { every: args.lr_decay_epochs * updates, gamma: args.lr_gamma },
            clip: if args.use_grad_clipping { args.grad_clip_norm } else { 0.0 },
            ..Optimizer::default()
        },
        objective: Objective { loss: LossKind::CrossEntropy, ..Objective::default() },
        task,
        net: NetConfig::Gesture(net),
    })
}
