//! `etrace gesture`: gestures before an event camera, with convolutions and event-based recurrent units.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use tasks::{GestureSet, GestureSettings, NMnistSettings, gesture::Framing};

use super::{
    Global, OrUsage,
    data::{self, ReadFlags},
    flags::learner::LearnerFlags,
    flags::{below_one, inside, non_negative, passes, positive, samples, size, some_passes, steps},
    train::{self, EpochReport, RunFlags},
    usage,
};
use crate::{
    cell::egru::{Feedback, Zoneout},
    experiment::{Experiment, TaskConfig},
    learn::sequence::LearnerConfig,
    net::{GestureCell, GestureNet, Polarity},
    presets::{GESTURE_FALL, gesture_net},
    train::{
        optimizer::{Optimizer, Rule, Schedule},
        settings::Settings,
    },
};

/// The published smoothing of factorised traces.
const DECAY: f64 = 0.9;

/// Length of a slice of a recording, microseconds.
const SLICE: u64 = 1_700_000;

/// Gestures in front of an event camera (DVS128 Gesture), in frames of 25 ms, with a convolutional front end and event-based GRUs. The
/// online rules train the recurrent layer with traces; the front end and the head learn from each step itself, with no credit for
/// the past (`etrace explain gesture`), unless --trace-cnn traces them as well.
///
/// Differences from the published program, all where it fails: --resume works; the current learning rate is printed; --use-rmsprop
/// is RMSprop (0.99) without weight decay; --event-agg-method defaults to mean; zoneout is the paper's unless
/// --zoneout-published; activity is the mean number of events per unit and step. The reported network is that of the last epoch;
/// --select test takes the epoch that is best on the test set, as published, whose accuracy there is too good.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Pixels of a side of a frame: 128, 64, 32 or 16 of a recording, 16 to 128 of made gestures; digits have their own
    #[arg(long, default_value_t = gesture_net().frame_size, value_parser = size)]
    frame_size: usize,
    /// What a frame's two polarities become: their mean, or (none) two channels
    #[arg(long, value_enum, default_value = "mean")]
    event_agg_method: Aggregation,
    /// Convolutions before the recurrent layers
    #[arg(long)]
    use_cnn: bool,
    /// Train the convolutions through time, too, where the rule is an online one: d-rtrl with the whole sequence
    #[arg(long, requires = "use_cnn")]
    trace_cnn: bool,
    /// What the recurrent layers are made of
    #[arg(long, value_enum, default_value = "lstm")]
    rnn_type: RnnType,
    /// Units of each recurrent layer
    #[arg(long = "n_rec", visible_alias = "units", default_value_t = gesture_net().units, value_parser = size)]
    n_rec: usize,
    /// Number of recurrent layers
    #[arg(long = "n_layer", visible_alias = "num-layers", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    n_layer: u16,
    /// Share of the front end's output that is dropped in training
    #[arg(long, default_value_t = gesture_net().dropout, value_parser = below_one)]
    dropout: f64,
    /// Probability that an event-based unit keeps its state, in training
    #[arg(long, default_value_t = gesture_net().zoneout.rate, value_parser = below_one)]
    zoneout: f64,
    /// Zoneout as published: changes scaled in training, weights swapped in evaluation
    #[arg(long)]
    zoneout_published: bool,
    /// Inverse width of the surrogate derivative of an event
    #[arg(long, default_value_t = gesture_net().steepness, value_parser = positive)]
    pseudo_derivative_width: f64,
    /// Mean of the initial thresholds of event-based units, above 0 and below 1
    #[arg(long, default_value_t = gesture_net().threshold_mean, value_parser = inside)]
    threshold_mean: f64,
    /// What event-based units tell each other: their state, as published, or their events, as in the EGRU paper
    #[arg(long, value_enum, default_value = "state")]
    feedback: FeedbackName,

    /// gesture (recordings of DVS128 Gesture, or of any set in train/CLASS/ and test/CLASS/), nmnist (recordings of digits), made (synthetic
    /// gestures, no files)
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
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=1700), help_heading = "Data")]
    frame_time: u64,
    /// Frames of a sample, where they are a number of bins: nmnist and made
    #[arg(long, default_value_t = 40, help_heading = "Data", value_parser = steps)]
    frames: usize,
    /// Crop, tilt and turn the training samples, each anew in every epoch
    #[arg(long, help_heading = "Data")]
    augment_data: bool,
    /// Which epoch is reported
    #[arg(long, value_enum, default_value = "last", help_heading = "Data")]
    select: Select,
    /// Samples of the made set: for training and for testing
    #[arg(long, num_args = 2, value_names = ["TRAIN", "TEST"], default_values_t = [800, 200], help_heading = "Data", value_parser = samples)]
    made_samples: Vec<u64>,

    /// Passes over the training set
    #[arg(long, visible_alias = "train-epochs", help_heading = "Training", value_parser = passes)]
    epochs: Option<u64>,
    /// Samples per batch
    #[arg(long, default_value_t = published().settings.batch, help_heading = "Training", value_parser = size)]
    batch_size: usize,
    /// Share of a sample's steps, at its start, without loss
    #[arg(long, default_value_t = 0.0, help_heading = "Training", value_parser = below_one)]
    warmup_ratio: f64,
    /// Learning rate
    #[arg(long, visible_alias = "learning-rate", default_value_t = published().optimizer.lr, help_heading = "Training", value_parser = positive)]
    lr: f64,
    /// By which factor it falls
    #[arg(long, default_value_t = gamma(), help_heading = "Training", value_parser = positive)]
    lr_gamma: f64,
    /// Epochs after which it falls, again and again
    #[arg(long, default_value_t = GESTURE_FALL, help_heading = "Training", value_parser = some_passes)]
    lr_decay_epochs: u64,
    /// RMSprop in place of Adam
    #[arg(long, help_heading = "Training")]
    use_rmsprop: bool,
    /// Limit the norm of the gradient to --grad-clip-norm
    #[arg(long, help_heading = "Training")]
    use_grad_clipping: bool,
    /// Largest norm of the gradient
    #[arg(long, default_value_t = 2.0, help_heading = "Training", value_parser = non_negative)]
    grad_clip_norm: f64,
    /// Accepted for the published command lines; see --out
    #[arg(long, hide = true)]
    logdir: Option<PathBuf>,
    /// The published name of --resume
    #[arg(long, hide = true)]
    resume_path: Option<PathBuf>,
    /// Accepted for the published command lines; a line is printed for every epoch
    #[arg(long, hide = true, value_parser = passes)]
    log_interval: Option<u64>,
    #[command(flatten)]
    learner: LearnerFlags,
    #[command(flatten)]
    run: RunFlags,
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
            r.training_score,
            r.score.value(),
            r.activity,
            r.lr,
            r.seconds,
            split = r.split,
        )
    };
    let args = &args;
    train::run("gesture", &args.run, args.epochs, global, train::Lines::Epochs(line), || resolve(args, global))
}

impl Args {
    fn task(&self) -> Result<TaskConfig> {
        let frame_size = u16::try_from(self.frame_size)
            .map_err(|_| usage(format!("--frame-size must be from 16 to 128, got {}; 32 is usual", self.frame_size)))?;
        Ok(match self.dataset {
            Dataset::Gesture => TaskConfig::Gesture(GestureSettings {
                framing: Framing::Slices { slice: SLICE, frame: self.frame_time * 1000 },
                frame_size,
                augment: self.augment_data,
                cache: self.cache.clone(),
                ..self.read.gestures(&self.data)
            }),
            Dataset::Nmnist => TaskConfig::Nmnist(NMnistSettings {
                steps: self.frames,
                cache: self.cache.clone(),
                ..self.read.digits(&self.data)?
            }),
            Dataset::Made => {
                self.read.no_sensor("made gestures are as large as a frame")?;
                TaskConfig::Made(GestureSet {
                    size: frame_size,
                    steps: self.frames,
                    train: self.made_samples[0],
                    test: self.made_samples[1],
                    ..GestureSet::default()
                })
            }
        })
    }
}

fn resolve(args: &Args, global: &Global) -> Result<Experiment> {
    let standard = published();
    let task = args.task()?;
    let opened = task.open().or_usage()?;
    // N-MNIST has 34 x 34 pixels, whatever the flag says.
    let frame_size = ((opened.n_in() / 2) as f64).sqrt().round() as usize;
    if args.use_cnn && frame_size < 32 {
        bail!(usage(format!(
            "--use-cnn needs frames of at least 32 x 32 pixels, got {frame_size} x {frame_size}; choose --frame-size 32 or more, or leave \
             --use-cnn out"
        )));
    }
    let net = GestureNet {
        frame_size,
        polarity: if args.event_agg_method == Aggregation::Mean { Polarity::Mean } else { Polarity::Both },
        scale: if args.dataset == Dataset::Gesture { gesture_net().scale } else { 1.0 },
        cnn: args.use_cnn,
        trace_cnn: args.trace_cnn,
        dropout: args.dropout,
        cell: match args.rnn_type {
            RnnType::Lstm => GestureCell::Lstm,
            RnnType::Gru => GestureCell::Gru,
            RnnType::EventGru => GestureCell::EventGru,
        },
        units: args.n_rec,
        layers: usize::from(args.n_layer),
        threshold_mean: args.threshold_mean,
        steepness: args.pseudo_derivative_width,
        zoneout: Zoneout { rate: args.zoneout, published: args.zoneout_published },
        feedback: if args.feedback == FeedbackName::State { Feedback::State } else { Feedback::Events },
        n_out: opened.n_out(),
        dt: args.frame_time as f64,
    };
    let flags = args.run.settings(args.batch_size);
    let learner = LearnerConfig { warmup: (args.warmup_ratio * opened.steps() as f64) as usize, ..standard.learner };
    let mut all = Experiment {
        settings: Settings {
            epochs: args.epochs.or(standard.settings.epochs),
            select: args.select == Select::Test,
            seed: flags.seed,
            threads: flags.threads,
            batch: flags.batch,
            ..standard.settings
        },
        learner: args.learner.config(&learner, DECAY)?,
        optimizer: Optimizer {
            rule: if args.use_rmsprop { Rule::RmsProp } else { Rule::Adam },
            lr: args.lr,
            schedule: Schedule::Step { every: args.lr_decay_epochs, gamma: args.lr_gamma },
            clip: if args.use_grad_clipping { args.grad_clip_norm } else { 0.0 },
            ..standard.optimizer
        },
        task,
        net: net.into(),
        ..standard
    };
    data::fit(&mut all, opened.as_ref(), Some(args.lr_decay_epochs), global)?;
    all.check().or_usage()?;
    Ok(all)
}

/// The experiment without flags.
fn published() -> Experiment {
    Experiment::published("gesture").expect("a preset of this name")
}

/// By which factor its learning rate falls.
fn gamma() -> f64 {
    if let Schedule::Step { gamma, .. } = published().optimizer.schedule { gamma } else { 1.0 }
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
        let line = ["gesture", "--dataset", "made"];
        let line = Line::try_parse_from(line).expect("known flags");
        let found = resolve(&line.args, &line.global).expect("an experiment");
        let made = GestureSet { size: 128, ..GestureSet::default() };
        let net = GestureNet { scale: 1.0, n_out: tasks::gesture_set::CLASSES.len(), ..gesture_net() };
        let mut want = Experiment { task: made.into(), net: net.into(), ..published() };
        want.fit_to_data(want.task.open().expect("a set").as_ref(), Some(GESTURE_FALL)).expect("samples");
        let text = |e: &Experiment| toml::to_string(e).expect("it can be written");
        assert_eq!(text(&found), text(&want));
    }
}
