//! Flags of training commands: of every run, and of the tasks of the first paper.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use hlo::pjrt::Devices;

use super::super::{
    common::ONE,
    flags::{ReplicaFlag, finite, hosts::HostFlags, non_negative, passes, positive, size, threads},
    usage,
};
use crate::{
    cell::Surrogate,
    experiment::Experiment,
    learn::{
        LossKind, Objective,
        objective::{OfSum, Regularizer},
    },
    train::{
        checkpoint::Name,
        optimizer::{Optimizer, Rule, Schedule},
        run::{RunDir, RunError},
        settings::Settings,
    },
};

/// Flags of every run: where it is recorded, how it is reproduced. Both `_` and `-` are accepted in their names.
#[derive(Clone, Debug, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Run")]
pub struct RunFlags {
    /// Seed of everything random; a negative one is drawn from the clock and recorded [default: 0]
    #[arg(long, allow_negative_numbers = true)]
    pub seed: Option<i64>,
    /// Threads that make batches [default: 1]
    #[arg(long, visible_alias = "num_workers", value_parser = threads)]
    pub n_data_worker: Option<usize>,
    /// On how many devices
    #[command(flatten)]
    pub replicas: ReplicaFlag,
    /// On which hosts
    #[command(flatten)]
    pub hosts: HostFlags,
    /// Folder of the run [default: a new one below checkpoints/]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Name of the run's folder below checkpoints/
    #[arg(long, default_value = "", hide_default_value = true)]
    pub exp_name: String,
    /// Begin with the parameters of the run in this folder (those that it reports: best where it selects, else last) and a fresh optimiser
    #[arg(long, value_name = "RUN", conflicts_with = "resume")]
    pub init: Option<PathBuf>,
    /// Go on with the run in this folder; its configuration is used, --epochs may lengthen it
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// With --resume: go on from this checkpoint, last, previous or best; what the run did after it is done again
    #[arg(long, value_name = "CHECKPOINT", requires = "resume", default_value_t)]
    pub from: Name,
    /// Resolve, build and compile; print what would run; train nothing
    #[arg(long = "dry-run")]
    pub dry_run: bool,
    /// With --dry-run: compile for a device that is not there, tpu:v5e, tpu:v4 or cuda:h100 (its plugin must be installed)
    #[arg(long, value_name = "TARGET", requires = "dry_run")]
    pub target: Option<String>,
    /// Accepted for the published command lines; choose the device with --device
    #[arg(long, hide = true)]
    pub devices: Option<String>,
    /// Accepted for the published command lines; see --out
    #[arg(long, hide = true)]
    pub filepath: Option<String>,
}

/// Flags of the tasks of the first paper: their optimiser, loss and regularisers.
#[derive(Clone, Debug, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Training")]
pub struct TrainFlags {
    /// How long: passes over a data set, or batches where trials are made as they are needed
    #[arg(long, value_parser = passes)]
    pub epochs: Option<u64>,
    /// Sequences per batch
    #[arg(long, value_parser = size)]
    pub batch_size: Option<usize>,
    /// Learning rate
    #[arg(long, default_value_t = 1e-3, value_parser = positive)]
    pub lr: f64,
    /// Updates after which the rate falls to a fifth, with commas
    #[arg(long, value_name = "N,N", hide_default_value = true, default_value = "")]
    pub lr_milestones: String,
    /// adam, momentum, sgd or rmsprop
    #[arg(long, default_value = "adam")]
    pub optimizer: String,
    /// What adam and rmsprop add to the root of the second moment: weights whose gradient stays far below it hardly move
    #[arg(long, default_value = "1e-8", value_parser = positive)]
    pub adam_eps: f64,
    /// cel (cross-entropy) or mse
    #[arg(long, default_value = "cel")]
    pub loss: String,
    /// Derivative of a spike: relu, s2nn, s2nn2, multi_gaussian, leaky_relu, inv_square, boxcar, gaussian, sigmoid or triangle
    #[arg(long, visible_alias = "surrogate", default_value = "relu")]
    pub spk_fun: String,
    /// Weight of the firing-rate regulariser
    #[arg(long, default_value_t = 0.0, value_parser = non_negative)]
    pub spk_reg_factor: f64,
    /// Target rate of the regulariser, Hz
    #[arg(long, default_value_t = 10.0, value_parser = non_negative)]
    pub spk_reg_rate: f64,
    /// Weight of the membrane regulariser
    #[arg(long, default_value_t = 0.0, value_parser = non_negative)]
    pub v_reg_factor: f64,
    /// Lowest potential that costs nothing
    #[arg(long, default_value_t = -20.0, value_parser = finite)]
    pub v_reg_low: f64,
    /// Highest potential that costs nothing
    #[arg(long, default_value_t = 1.4, value_parser = finite)]
    pub v_reg_high: f64,
    /// Weight of the sum of |w| in the loss
    #[arg(long = "weight_L1", default_value_t = 0.0, value_parser = non_negative)]
    pub weight_l1: f64,
    /// Weight decay
    #[arg(long = "weight_L2", default_value_t = 0.0, value_parser = non_negative)]
    pub weight_l2: f64,
    /// What every run has
    #[command(flatten)]
    pub run: RunFlags,
}

impl RunFlags {
    /// Refuses the flags of training where nothing is trained.
    ///
    /// # Errors
    /// Which of them was given to `what`.
    pub(in crate::cli) fn refuse_training(&self, what: &str, also: &[(&str, bool)]) -> Result<()> {
        let given = [("--init", self.init.is_some()), ("--coordinator", self.hosts.given())]
            .into_iter()
            .chain(also.iter().copied());
        match given.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => bail!(usage(format!("{flag} is for training, and {what} trains nothing; leave it out"))),
            None => Ok(()),
        }
    }

    /// The devices that a new run takes.
    pub(in crate::cli) fn devices(&self) -> Devices {
        let otherwise = if self.hosts.given() { Devices::All } else { ONE };
        self.replicas.replicas.unwrap_or(otherwise)
    }

    /// The seed; drawn from the clock if it is negative.
    pub fn seed(&self) -> u64 {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(self.seed.unwrap_or(0))
            .unwrap_or_else(|_| clock().map_or(0, |t| u64::from(t.subsec_nanos()) % 10_000))
    }

    /// Settings with this seed and so many threads.
    pub fn settings(&self, batch: usize) -> Settings {
        Settings { seed: self.seed(), batch, threads: self.n_data_worker.unwrap_or(1).max(1), ..Settings::default() }
    }

    /// Where the run goes: `--out`, or a folder that is not there yet.
    pub(in crate::cli) fn folder(&self, command: &str, experiment: &Experiment) -> Result<PathBuf> {
        if let Some(out) = &self.out {
            if RunDir::is_run(out) {
                bail!(usage(RunError::Taken { path: out.clone() }.to_string()));
            }
            return Ok(out.clone());
        }
        let inside = |c| matches!(c, Component::Normal(_));
        if !Path::new(&self.exp_name).components().all(inside) {
            bail!(usage(format!(
                "--exp_name is a name below checkpoints/, got `{}`, which leads elsewhere; for another place use --out DIR",
                self.exp_name
            )));
        }
        let name = if self.exp_name.is_empty() {
            format!("{command}-{}-seed{}", experiment.learner.method.name(), experiment.settings.seed)
        } else {
            self.exp_name.clone()
        };
        let base = PathBuf::from("checkpoints");
        let numbered = (2..).map(|k| base.join(format!("{name}-{k}")));
        Ok(std::iter::once(base.join(&name)).chain(numbered).find(|d| !RunDir::is_run(d)).unwrap_or(base))
    }
}

impl TrainFlags {
    /// `standard` with the optimiser, the loss (for steps of `dt` ms) and the settings that the flags give; training stops at the
    /// smoothed accuracy `stop_at`.
    ///
    /// # Errors
    /// On unknown names.
    pub fn apply(&self, standard: Experiment, dt: f64, stop_at: Option<f64>) -> Result<Experiment> {
        let length = &standard.settings;
        let settings = Settings {
            batch: self.batch_size.unwrap_or(length.batch),
            epochs: length.epochs.map(|n| self.epochs.unwrap_or(n)),
            batches: length.batches.map(|n| self.epochs.unwrap_or(n)),
            stop_at,
            ..length.clone()
        };
        let Settings { seed, threads, .. } = self.run.settings(settings.batch);
        let settings = Settings { seed, threads, ..settings };
        Ok(Experiment { settings, optimizer: self.optimizer()?, objective: self.objective(dt)?, ..standard })
    }

    /// The optimiser, with clipping to norm 1 as all published scripts have it.
    ///
    /// # Errors
    /// On unknown names and milestones that are no numbers.
    pub fn optimizer(&self) -> Result<Optimizer> {
        let rule = Rule::by_name(&self.optimizer).ok_or_else(|| {
            usage(format!("--optimizer must be one of {}, got `{}`", Rule::NAMES.join(", "), self.optimizer))
        })?;
        let schedule = if self.lr_milestones.trim().is_empty() {
            Schedule::Constant
        } else {
            let numbers: Result<Vec<u64>, _> = self.lr_milestones.split(',').map(|w| w.trim().parse()).collect();
            let at = numbers.map_err(|_| {
                usage(format!("--lr_milestones takes whole numbers with commas, got `{}`", self.lr_milestones))
            })?;
            Schedule::Milestones { at, gamma: 0.2 }
        };
        let (weight_l1, weight_l2) = (self.weight_l1, self.weight_l2);
        Ok(Optimizer { rule, lr: self.lr, schedule, clip: 1.0, eps: self.adam_eps, weight_l1, weight_l2 })
    }

    /// The loss, for steps of `dt` ms.
    ///
    /// # Errors
    /// On an unknown name.
    pub fn objective(&self, dt: f64) -> Result<Objective> {
        let loss = match self.loss.as_str() {
            "cel" | "cross-entropy" => LossKind::CrossEntropy,
            "mse" => LossKind::Mse,
            other => bail!(usage(format!("--loss must be cel or mse, got `{other}`"))),
        };
        let regularizer = Regularizer {
            membrane: self.v_reg_factor,
            low: self.v_reg_low,
            high: self.v_reg_high,
            spike: self.spk_reg_factor,
            rate: self.spk_reg_rate * dt / 1000.0,
        };
        Ok(Objective { loss, regularizer, of_sum: OfSum::Never, ..Objective::default() })
    }

    /// The surrogate derivative.
    ///
    /// # Errors
    /// On an unknown name.
    pub fn surrogate(&self) -> Result<Surrogate> {
        Surrogate::by_name(&self.spk_fun).ok_or_else(|| {
            usage(format!("--spk_fun must be one of {}, got `{}`", Surrogate::names(), self.spk_fun)).into()
        })
    }
}
