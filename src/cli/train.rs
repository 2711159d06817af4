//! What every training command shares: its flags, and the run from configuration to pictures.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use hlo::pjrt::{self, aot};
use indicatif::{ProgressBar, ProgressStyle};
use tasks::Split;

use super::{Global, OrUsage, common, data, eval, usage};
use crate::{
    cell::Surrogate,
    experiment::Experiment,
    learn::{
        LossKind, Objective,
        objective::{OfSum, Regularizer},
    },
    report::bytes,
    train::{
        checkpoint,
        history::History,
        optimizer::{Optimizer, Rule, Schedule},
        program::{EvalProgram, Spec, TrainProgram},
        run::RunDir,
        session::Session,
        sweep,
        trainer::{Ending, Event, Outcome, Settings, Trainer},
    },
};

/// Flags of every run: where it is recorded, how it is reproduced. Both `_` and `-` are accepted in their names.
#[derive(Clone, Debug, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Run")]
pub struct RunFlags {
    /// Seed of everything random; a negative one is drawn from the clock and recorded
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub seed: i64,
    /// Threads that make batches
    #[arg(long, aliases = ["n-data-worker", "num_workers", "num-workers"], default_value_t = 1)]
    pub n_data_worker: usize,
    /// Folder of the run [default: a new one below checkpoints/]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Name of the run's folder below checkpoints/
    #[arg(long, alias = "exp-name", default_value = "", hide_default_value = true)]
    pub exp_name: String,
    /// Go on with the run in this folder; its configuration is used, --epochs may lengthen it
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// Resolve, build and compile; print what would run; train nothing
    #[arg(long = "dry-run", alias = "dry_run")]
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
    #[arg(long)]
    pub epochs: Option<u64>,
    /// Sequences per batch
    #[arg(long, alias = "batch-size")]
    pub batch_size: Option<usize>,
    /// Learning rate
    #[arg(long, default_value_t = 1e-3)]
    pub lr: f64,
    /// Updates after which the rate falls to a fifth, with commas
    #[arg(long, alias = "lr-milestones", value_name = "N,N", hide_default_value = true, default_value = "")]
    pub lr_milestones: String,
    /// adam, momentum, sgd or rmsprop
    #[arg(long, default_value = "adam")]
    pub optimizer: String,
    /// What adam and rmsprop add to the root of the second moment: weights whose gradient stays far below it hardly move
    #[arg(long, alias = "adam-eps", default_value = "1e-8")]
    pub adam_eps: f64,
    /// cel (cross-entropy) or mse
    #[arg(long, default_value = "cel")]
    pub loss: String,
    /// Surrogate derivative of a spike: relu, s2nn, multi_gaussian, ...
    #[arg(long, alias = "spk-fun", default_value = "relu")]
    pub spk_fun: String,
    /// Weight of the firing-rate regulariser
    #[arg(long, alias = "spk-reg-factor", default_value_t = 0.0)]
    pub spk_reg_factor: f64,
    /// Target rate of the regulariser, Hz
    #[arg(long, alias = "spk-reg-rate", default_value_t = 10.0)]
    pub spk_reg_rate: f64,
    /// Weight of the membrane regulariser
    #[arg(long, alias = "v-reg-factor", default_value_t = 0.0)]
    pub v_reg_factor: f64,
    /// Lowest potential that costs nothing
    #[arg(long, alias = "v-reg-low", default_value_t = -20.0, allow_negative_numbers = true)]
    pub v_reg_low: f64,
    /// Highest potential that costs nothing
    #[arg(long, alias = "v-reg-high", default_value_t = 1.4, allow_negative_numbers = true)]
    pub v_reg_high: f64,
    /// Weight of the sum of |w| in the loss
    #[arg(long = "weight_L1", alias = "weight-L1", alias = "weight_l1", default_value_t = 0.0)]
    pub weight_l1: f64,
    /// Weight decay
    #[arg(long = "weight_L2", alias = "weight-L2", alias = "weight_l2", default_value_t = 0.0)]
    pub weight_l2: f64,
    /// What every run has
    #[command(flatten)]
    pub run: RunFlags,
}

impl RunFlags {
    /// The seed; drawn from the clock if it is negative.
    pub fn seed(&self) -> u64 {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(self.seed).unwrap_or_else(|_| clock().map_or(0, |t| u64::from(t.subsec_nanos()) % 10_000))
    }

    /// Settings with this seed and so many threads.
    pub fn settings(&self, batch: usize) -> Settings {
        Settings { seed: self.seed(), batch, threads: self.n_data_worker.max(1), ..Settings::default() }
    }

    /// Where the run goes: `--out`, or a folder that is not there yet.
    fn folder(&self, command: &str, experiment: &Experiment) -> Result<PathBuf> {
        let taken = |dir: &Path| dir.join("config.toml").exists();
        if let Some(out) = &self.out {
            if taken(out) {
                bail!(usage(format!(
                    "--out must not hold a run already, but {} does; name another folder, or go on with --resume {}",
                    out.display(),
                    out.display()
                )));
            }
            return Ok(out.clone());
        }
        let name = if self.exp_name.is_empty() {
            format!("{command}-{}-seed{}", experiment.learner.method.name(), experiment.settings.seed)
        } else {
            self.exp_name.clone()
        };
        let base = PathBuf::from("checkpoints");
        let numbered = (2..).map(|k| base.join(format!("{name}-{k}")));
        Ok(std::iter::once(base.join(&name)).chain(numbered).find(|d| !taken(d)).unwrap_or(base))
    }
}

impl TrainFlags {
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
        if !(self.lr.is_finite() && self.lr > 0.0) {
            bail!(usage(format!("--lr must be above 0, got {}; 0.001 is usual", self.lr)));
        }
        if !(self.adam_eps.is_finite() && self.adam_eps > 0.0) {
            bail!(usage(format!("--adam_eps must be above 0, got {}; 1e-8 is usual", self.adam_eps)));
        }
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
        Ok(Objective { loss, regularizer, of_sum: OfSum::Never })
    }

    /// The surrogate derivative.
    ///
    /// # Errors
    /// On an unknown name.
    pub fn surrogate(&self) -> Result<Surrogate> {
        Surrogate::by_name(&self.spk_fun).ok_or_else(|| {
            usage(format!("--spk_fun must be one of {}, got `{}`", Surrogate::NAMES.join(", "), self.spk_fun)).into()
        })
    }
}

/// What a command prints while it trains.
#[derive(Clone, Copy)]
pub enum Lines {
    /// After each batch.
    Batches(fn(&BatchReport) -> String),
    /// After each pass over a data set.
    Epochs(fn(&EpochReport) -> String),
}

/// A batch in words and numbers.
pub struct BatchReport {
    /// Batches before this one.
    pub index: u64,
    /// Mean loss per step.
    pub loss: f64,
    /// The term `weight_l1 * sum |w|`, which the loss leaves out.
    pub l1: f32,
    /// Share of right answers.
    pub accuracy: f64,
    /// Learning rate of the next batch.
    pub next_lr: f64,
    /// Seconds since the last batch.
    pub seconds: f64,
    /// Memory in use, GB.
    pub memory: f64,
}

/// A pass over a data set in numbers.
pub struct EpochReport<'a> {
    /// Which pass, from 1.
    pub epoch: u64,
    /// Learning rate of its last update.
    pub lr: f64,
    /// Mean training loss.
    pub training_loss: f64,
    /// Mean training accuracy.
    pub training_accuracy: f64,
    /// Mean seconds per batch.
    pub batch_seconds: f64,
    /// Seconds of the pass, evaluation not included.
    pub seconds: f64,
    /// The split evaluated.
    pub split: &'a str,
    /// Its mean loss.
    pub loss: f64,
    /// Its accuracy.
    pub accuracy: f64,
    /// Spikes (events) per neuron and step, mean over the layers that fire; 1 if none does.
    pub activity: f64,
    /// Whether this is the best accuracy so far.
    pub best: bool,
    /// Memory in use, GB.
    pub memory: f64,
}

/// Trains: resolves (or takes up) the experiment, compiles, runs, draws the curves, says what came of it.
///
/// # Errors
/// When flags make no sense, files are missing, or training fails.
pub fn run(
    command: &str,
    flags: &RunFlags,
    epochs: Option<u64>,
    global: &Global,
    lines: Lines,
    resolve: impl FnOnce() -> Result<Experiment>,
) -> Result<()> {
    let (experiment, dir) = match &flags.resume {
        Some(dir) => {
            common::existing_file(
                &dir.join("config.toml"),
                "--resume names the folder of a run",
                "name a folder that a training command wrote",
            )?;
            let mut experiment: Experiment = RunDir::config(dir)?;
            if let Some(longer) = epochs {
                let settings = &mut experiment.settings;
                let limit = if settings.batches.is_some() { &mut settings.batches } else { &mut settings.epochs };
                *limit = Some(longer);
            }
            (experiment, dir.clone())
        }
        None => {
            let experiment = resolve()?;
            let dir = flags.folder(command, &experiment)?;
            (experiment, dir)
        }
    };
    let task = experiment.task.open().or_usage()?;
    let session = global.session()?;
    let spec = experiment.spec(task.steps());
    if flags.dry_run {
        println!("{}", toml::to_string_pretty(&experiment)?);
        return print_program(&session, &spec, flags.target.as_deref());
    }
    let program = TrainProgram::new(&session, &spec)?;
    common::stop_on_ctrl_c()?;
    let run = if flags.resume.is_some() { RunDir::open(&dir)? } else { RunDir::create(&dir, &experiment)? };
    let mut trainer = Trainer { session: &session, spec, task, settings: experiment.settings.clone(), run: Some(run) };
    let samples = match trainer.task.samples(Split::Train)? {
        Some(n) => format!("{n} training and {} test samples", trainer.task.samples(Split::Test)?.unwrap_or(0)),
        None => "trials made as they are needed".into(),
    };
    println!(
        "{}: {samples}; {} steps, loss in the last {}; {}, {} parameters; {}; run folder {}",
        trainer.task.name(),
        trainer.task.steps(),
        trainer.task.steps() - experiment.learner.warmup,
        experiment.learner.method.name(),
        trainer.spec.model.trainable_elements(),
        common::device_line(&session),
        dir.display()
    );
    if trainer.task.samples(Split::Train)?.is_some() {
        data::remark(trainer.task.as_ref(), &[Split::Train, Split::Test], global)?;
    }
    let mut screen = Screen::new(global, &session, &experiment, lines);
    let result = trainer.train(&program, flags.resume.is_some(), |event| screen.hear(event));
    screen.bar.finish_and_clear();
    // A failed run has its curve too: that is where one looks first.
    let history = History::read(&dir)?;
    history.draw(&dir)?;
    let outcome = result?;
    conclude(&trainer, &outcome, &history, experiment.net.dt(), &dir)
}

/// The compiled program in words, for `--dry-run`; compiled for `target` if there is one.
///
/// # Errors
/// When the program does not compile, or the plugin of the target is not installed.
pub fn print_program(session: &Session, spec: &Spec, target: Option<&str>) -> Result<()> {
    let (program, learner) = TrainProgram::lower(spec)?;
    let (memory, seconds, place) = match target {
        None => {
            let executable = session.client.compile(&program, &session.options)?;
            (executable.memory()?, executable.compile_time().as_secs_f64(), String::new())
        }
        Some(target) => {
            let kind = aot::plugin_kind(target).or_usage()?;
            let report = aot::compile(&pjrt::locate(kind, None, &mut |_| {})?, target, &program)?;
            (report.memory, report.seconds, format!(" for {target}"))
        }
    };
    let chunk = if spec.learner.method.is_online() { learner.chunk_length(spec.steps) } else { spec.steps };
    println!(
        "{} steps in chunks of {chunk}; compiled{place} in {seconds:.2} s; needs {} (arguments {}, results {}, donated {}, \
         temporary {})",
        spec.steps,
        bytes(memory.total()),
        bytes(memory.argument),
        bytes(memory.output),
        bytes(memory.alias),
        bytes(memory.temp)
    );
    Ok(())
}

/// What a person sees while training.
struct Screen<'a> {
    bar: ProgressBar,
    session: &'a Session,
    optimizer: Optimizer,
    batch: f64,
    lines: Lines,
    /// (loss, accuracy, seconds) of the batches of this epoch.
    epoch: Vec<(f64, f64, f64)>,
    /// Learning rate of the last update.
    lr: f64,
    best: f64,
    warned: Vec<String>,
}

impl<'a> Screen<'a> {
    fn new(global: &Global, session: &'a Session, experiment: &Experiment, lines: Lines) -> Screen<'a> {
        let bar = if global.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let (optimizer, batch) = (experiment.optimizer.clone(), experiment.settings.batch as f64);
        let (lr, best) = (optimizer.lr, f64::NEG_INFINITY);
        Screen { bar, session, optimizer, batch, lines, epoch: Vec::new(), lr, best, warned: Vec::new() }
    }

    fn gigabytes(&self) -> f64 {
        sweep::in_use(self.session) as f64 / (1u64 << 30) as f64
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Step { step, epoch, loss, accuracy, smoothed, seconds, l1, lr, .. } => {
                self.lr = *lr;
                let (loss, accuracy) = (f64::from(*loss), f64::from(*accuracy));
                self.epoch.push((loss, accuracy, *seconds));
                if let Lines::Batches(line) = self.lines {
                    let report = BatchReport {
                        index: step - 1,
                        loss,
                        l1: *l1,
                        accuracy,
                        next_lr: self.optimizer.lr * self.optimizer.schedule.factor(*step),
                        seconds: *seconds,
                        memory: self.gigabytes(),
                    };
                    self.bar.suspend(|| println!("{}", line(&report)));
                }
                self.bar.set_message(format!(
                    "epoch {epoch} update {step} loss {loss:.4} acc {accuracy:.3} smoothed {smoothed:.3} {:.0} samples/s {}",
                    self.batch / seconds.max(1e-9),
                    bytes(sweep::in_use(self.session))
                ));
                self.bar.tick();
            }
            Event::Evaluation { epoch, split, loss, accuracy, rates, .. } => {
                let n = self.epoch.len().max(1) as f64;
                let sum = |f: fn(&(f64, f64, f64)) -> f64| self.epoch.iter().map(f).sum::<f64>();
                let report = EpochReport {
                    epoch: *epoch,
                    lr: self.lr,
                    training_loss: sum(|r| r.0) / n,
                    training_accuracy: sum(|r| r.1) / n,
                    batch_seconds: sum(|r| r.2) / n,
                    seconds: sum(|r| r.2),
                    split,
                    loss: *loss,
                    accuracy: *accuracy,
                    activity: match rates.len() {
                        0 => 1.0,
                        n => rates.iter().map(|(_, rate)| rate).sum::<f64>() / n as f64,
                    },
                    best: *accuracy > self.best,
                    memory: self.gigabytes(),
                };
                self.best = self.best.max(*accuracy);
                let line = if let Lines::Epochs(line) = self.lines { line } else { epoch_line };
                self.bar.suspend(|| println!("{}", line(&report)));
                for (layer, _) in rates.iter().filter(|(_, rate)| *rate == 0.0) {
                    if !self.warned.contains(layer) {
                        self.bar.suspend(|| println!("{}", eval::silent(layer)));
                        self.warned.push(layer.clone());
                    }
                }
                self.epoch.clear();
            }
        }
    }
}

/// The published lines of the memory-and-speed evaluation.
pub fn epoch_line(r: &EpochReport<'_>) -> String {
    let (epoch, split) = (r.epoch - 1, r.split);
    format!(
        "Epoch {epoch:4}, training loss = {:.8}, training acc = {:.6}, time = {:.5} s, memory = {:.2} GB\n\
         Epoch {epoch:4}, {split} loss = {:.8}, {split} acc = {:.6}",
        r.training_loss, r.training_accuracy, r.batch_seconds, r.memory, r.loss, r.accuracy
    )
}

fn conclude(trainer: &Trainer<'_>, outcome: &Outcome, history: &History, dt: f64, dir: &Path) -> Result<()> {
    let at = outcome.progress.step;
    match outcome.ending {
        Ending::Interrupted => {
            println!("interrupted after update {at}; go on with --resume {}", dir.display());
            return Ok(());
        }
        Ending::Reached => {
            let wanted = trainer.settings.stop_at.unwrap_or_default() * 100.0;
            println!("Accuracy reaches {wanted}% at batch {}. Stop training.", at - 1);
        }
        Ending::Settled => println!("The evaluation has stopped improving, at update {at}. Stop training."),
        Ending::Finished => {}
    }
    if trainer.task.samples(Split::Test)?.is_some() {
        let eval = EvalProgram::new(trainer.session, &trainer.spec)?;
        let last = trainer.evaluate(&eval, &outcome.state.params, Split::Test)?;
        println!("test accuracy {:.4}, test loss {:.4} after {at} updates", last.accuracy, last.loss);
        let mut reported = last;
        if trainer.settings.select {
            let slots = outcome.state.slots.len();
            let (best, progress) =
                checkpoint::load(&dir.join("best.safetensors"), trainer.session, &trainer.spec.model, slots)?;
            reported = trainer.evaluate(&eval, &best.params, Split::Test)?;
            println!(
                "best checkpoint, epoch {} ({} accuracy {:.4}): test accuracy {:.4}, test loss {:.4}",
                progress.best_epoch,
                trainer.settings.evaluate.as_deref().unwrap_or("training"),
                progress.best.unwrap_or_default(),
                reported.accuracy,
                reported.loss
            );
        }
        eval::report(&reported, trainer.task.as_ref(), Split::Test, dt, dir)?;
    } else {
        println!("{history}");
    }
    println!("written to {}: config.toml, metrics.jsonl, last and best checkpoint, curve.svg/.png", dir.display());
    Ok(())
}
