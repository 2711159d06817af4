//! From the flags of `etrace shd` to an experiment.

use anyhow::{Result, bail};
use tasks::{
    GestureSettings, NMnistSettings, Passes, ShdKind, ShdSettings, Split, Tail, Task,
    gesture::Framing,
    shd::{Augment, MaxTime},
};

use super::{
    super::{Global, OrUsage, data, flags::positive, usage},
    Args, BnStats, LossOf, NormName, ReadoutName, Select, StateStart, Variant,
};
use crate::{
    cell::{
        Surrogate,
        norm::{BATCH_EPSILON, Derivative, LAYER_EPSILON, Norm, Statistics},
        spiking::AdLif,
    },
    experiment::{Experiment, TaskConfig},
    learn::{Method, Objective, objective::OfSum},
    net::{SpeechCell, SpeechNet, SpeechReadout},
    train::{
        optimizer::{Optimizer, Schedule},
        settings::{Patience, Settings},
    },
};

/// The published smoothing of factorised traces.
const DECAY: f64 = 0.99;

/// Upper end of the leak in the published online program: a time constant of 250 steps.
const SLOW_ALPHA: f64 = 0.996_007_989_343_991_5;

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

    fn norm(&self) -> Result<Norm> {
        let of_batch = self.bn_stats == BnStats::Batch;
        let derivative = self.norm_derivative.map_or(Derivative::ByRule, Derivative::from);
        let scale = self.norm_scale.unwrap_or(1.0);
        let given = self.norm_derivative.is_some() || self.norm_eps.is_some() || self.norm_scale.is_some();
        let wrong = match self.normalization {
            NormName::None if of_batch || given => {
                "--bn_stats, --norm_derivative, --norm_eps and --norm_scale say how to normalise, but nothing is normalised; add --normalization batchnorm or \
                 layernorm"
            }
            NormName::Layernorm if of_batch => {
                "--bn_stats batch is about batch norm, and layer norm has the statistics of each step; leave it out, or take --normalization \
                 batchnorm"
            }
            NormName::Batchnorm if self.norm_derivative.is_some() && !of_batch => {
                "--norm_derivative is about the statistics of a step, and running ones are constants; add --bn_stats batch, or leave it out"
            }
            NormName::None => return Ok(Norm::None),
            NormName::Layernorm => {
                return Ok(Norm::Layer { derivative, epsilon: self.norm_eps.unwrap_or(LAYER_EPSILON), scale });
            }
            NormName::Batchnorm => {
                let statistics = if of_batch { Statistics::Batch } else { Statistics::Running };
                let epsilon = self.norm_eps.unwrap_or(BATCH_EPSILON);
                return Ok(Norm::Batch { momentum: self.momentum, statistics, derivative, epsilon, scale });
            }
        };
        bail!(usage(wrong.to_string()))
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
            norm: self.norm()?,
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
                let cache = self.cache.clone();
                return Ok(if name.starts_with("nmnist") {
                    TaskConfig::Nmnist(NMnistSettings { steps, cache, ..self.read.digits(data)? })
                } else {
                    let framing = Framing::Bins(steps);
                    TaskConfig::Gesture(GestureSettings { framing, cache, ..self.read.gestures(data) })
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
        let standard = self.read.speech(self.data.clone().unwrap_or_else(|| folder.into()), kind)?;
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

/// The experiment that flags ask for.
pub(super) fn resolve(args: &Args, global: &Global) -> Result<Experiment> {
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
pub(super) fn published() -> Experiment {
    Experiment::published("shd").expect("a preset of this name")
}

/// Its training: the learning rate and how it falls.
pub(super) fn schedule() -> (f64, f64, f64) {
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
