//! What every training command shares: its flags, and the run from configuration to curves.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use hlo::pjrt::{self, aot};
use tasks::Split;

pub use super::screen::{BatchReport, EpochReport, Lines, epoch_line};
use super::{
    Global, OrUsage, Stopped, common, data, eval,
    flags::{finite, non_negative, passes, positive, size, threads},
    output,
    resume::Resumed,
    screen::Screen,
    usage,
};
use crate::{
    cell::Surrogate,
    experiment::Experiment,
    learn::{
        Learner, LossKind, Objective,
        objective::{OfSum, Regularizer},
        paths::Paths,
    },
    report::bytes,
    say,
    train::{
        checkpoint::{self, Name, Progress},
        history::History,
        optimizer::{Optimizer, Rule, Schedule},
        program::{self, EvalProgram, Spec, TrainProgram, TrainState},
        record::{self, Entry, Setting},
        run::{RunDir, RunError},
        session::Session,
        stop,
        trainer::{Ending, Outcome, Programs, Settings, Trainer},
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
    /// Folder of the run [default: a new one below checkpoints/]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Name of the run's folder below checkpoints/
    #[arg(long, default_value = "", hide_default_value = true)]
    pub exp_name: String,
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
    fn folder(&self, command: &str, experiment: &Experiment) -> Result<PathBuf> {
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

/// Trains a new run, or goes on with one.
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
    match &flags.resume {
        Some(dir) => go_on(dir, command, flags, epochs, global, lines),
        None => begin(command, flags, global, lines, resolve()?),
    }
}

fn begin(command: &str, flags: &RunFlags, global: &Global, lines: Lines, mut experiment: Experiment) -> Result<()> {
    experiment.settings.check().or_usage()?;
    experiment.task.make_absolute()?;
    let dir = flags.folder(command, &experiment)?;
    let global = global.with_threads(global.threads());
    let work = Work::prepare(&global, experiment, lines)?;
    if flags.dry_run {
        return work.show(flags.target.as_deref());
    }
    let programs = work.compile()?;
    let (model, rule) = (&work.spec.model, work.experiment.optimizer.rule);
    let state = program::start(&work.session, model, rule, work.experiment.settings.seed)?;
    let progress = Progress::default();
    stop::listen().context("cannot listen for signals")?;
    let entry = Entry::start(0, Setting::new(&work.session, global.threads()), Vec::new());
    let run = RunDir::create(&dir, &work.experiment, &entry, |stage| {
        Ok::<(), anyhow::Error>(checkpoint::save(stage, Name::Last, model, &state, &progress)?)
    });
    let run = run.map_err(|error| match error.downcast::<RunError>() {
        Ok(taken @ RunError::Taken { .. }) => super::Usage(taken.into()).into(),
        Ok(other) => other.into(),
        Err(other) => other,
    })?;
    work.train(run, &programs, (state, progress))
}

fn go_on(
    dir: &Path,
    command: &str,
    flags: &RunFlags,
    epochs: Option<u64>,
    global: &Global,
    lines: Lines,
) -> Result<()> {
    let mut resumed = Resumed::open(dir, command, flags, epochs)?;
    let global = resumed.threads(global);
    let work = Work::prepare(&global, resumed.experiment.clone(), lines)?;
    if flags.dry_run {
        return work.show(flags.target.as_deref());
    }
    let load = || checkpoint::load(dir, flags.from, &work.session, &work.spec.model, work.experiment.optimizer.rule);
    if let Some(complete) = resumed.complete() {
        say!("{complete}");
        let start = load()?;
        return work.report(resumed.run, start);
    }
    let programs = work.compile()?;
    let start = load()?;
    stop::listen().context("cannot listen for signals")?;
    resumed.commit(Setting::new(&work.session, global.threads()))?;
    work.train(resumed.run, &programs, start)
}

/// A run about to be trained.
struct Work<'a> {
    global: &'a Global,
    lines: Lines,
    experiment: Experiment,
    task: std::sync::Arc<dyn tasks::Task>,
    session: Session,
    spec: Spec,
}

impl<'a> Work<'a> {
    fn prepare(global: &'a Global, experiment: Experiment, lines: Lines) -> Result<Work<'a>> {
        let task = experiment.task.open().or_usage()?;
        let session = global.session()?;
        let spec = experiment.spec(task.steps());
        Ok(Work { global, lines, experiment, task, session, spec })
    }

    /// Prints configuration and program.
    fn show(&self, target: Option<&str>) -> Result<()> {
        output::print(&toml::to_string_pretty(&self.experiment)?);
        print_program(&self.session, &self.spec, target)
    }

    /// Compiles the programs and makes sure that there is memory for them.
    fn compile(&self) -> Result<Programs> {
        let settings = &self.experiment.settings;
        let programs = Programs::new(&self.session, &self.spec, settings)?;
        programs.need(&self.spec, settings, self.task.as_ref())?.check(&self.session).or_usage()?;
        Ok(programs)
    }

    /// Trains, draws the curves, says what came of it. Of several errors the first is returned.
    fn train(self, run: RunDir, programs: &Programs, start: (TrainState, Progress)) -> Result<()> {
        let dir = run.path().to_path_buf();
        let (experiment, session) = (self.experiment, &self.session);
        let settings = experiment.settings.clone();
        let mut trainer = Trainer { session, spec: self.spec, task: self.task, settings, run: Some(run) };
        say!("{}", headline(&trainer, &experiment, &dir)?);
        if trainer.task.samples(Split::Train)?.is_some() {
            data::remark(trainer.task.as_ref(), &[Split::Train, Split::Test], self.global)?;
        }
        if let Some(untrained) = untrained(programs.train.learner()) {
            say!("{untrained}");
        }
        let mut screen = Screen::new(self.global, session, &experiment, self.lines);
        let result = trainer.train(programs, start, |event| screen.hear(event));
        screen.bar.finish_and_clear();
        stop::all_is_saved();
        // A failed run has its curve too: that is where one looks first.
        let drawn = draw(&dir);
        let time = record::now();
        let end = match &result {
            Ok(outcome) => Entry::End { time, step: outcome.progress.step, ending: outcome.ending },
            Err(error) => Entry::Failure { time, error: error.to_string() },
        };
        let logged = trainer.run.as_ref().map_or(Ok(()), |run| run.log(&end));
        let outcome = result?;
        let history = drawn.context("training is complete and saved, but its curve could not be drawn")?;
        logged?;
        conclude(&trainer, &outcome, &history, experiment.net.dt(), &dir)
    }

    /// Says again what came of a run that is complete.
    fn report(self, run: RunDir, (state, progress): (TrainState, Progress)) -> Result<()> {
        let dir = run.path().to_path_buf();
        let settings = self.experiment.settings.clone();
        let trainer = Trainer { session: &self.session, spec: self.spec, task: self.task, settings, run: Some(run) };
        let outcome = Outcome { ending: Ending::Finished, progress, state, evaluation: None };
        conclude(&trainer, &outcome, &draw(&dir)?, self.experiment.net.dt(), &dir)
    }
}

/// Draws the curves of a run; returns what it recorded.
fn draw(dir: &Path) -> Result<History> {
    let history = History::read(dir)?;
    history.draw(dir)?;
    Ok(history)
}

/// What is trained, on what, where.
fn headline(trainer: &Trainer<'_>, experiment: &Experiment, dir: &Path) -> Result<String> {
    let task = &trainer.task;
    let samples = match task.samples(Split::Train)? {
        Some(n) => format!("{n} training and {} test samples", task.samples(Split::Test)?.unwrap_or(0)),
        None => "trials made as they are needed".into(),
    };
    Ok(format!(
        "{}: {samples}; {} steps, loss in the last {}; {}, {} parameters; {}; run folder {}",
        task.name(),
        task.steps(),
        task.steps() - experiment.learner.warmup,
        experiment.learner.method.name(),
        trainer.spec.model.trainable_elements(),
        common::device_line(trainer.session),
        dir.display()
    ))
}

/// Parameters that the chosen rule, as documented, gives no gradient.
fn untrained(learner: &Learner) -> Option<String> {
    let nothing = |paths: &&Paths| paths.follows.is_empty() && !paths.drops.is_empty();
    let names: Vec<&str> = learner.paths.iter().filter(nothing).map(|paths| paths.parameter.as_str()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "note: {} stay as they are: under in-step attachment parameters without a trace get no gradient, as in the reference \
             library; --attachment exit trains them",
            names.join(", ")
        )
    })
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
    if spec.learner.method.is_online() {
        let choice = learner.choice(spec.steps);
        say!("{} steps; traces: {}", spec.steps, choice.used);
        for (form, why) in &choice.turned_down {
            say!("  not {form}: {why}");
        }
    }
    say!(
        "{} steps; compiled{place} in {seconds:.2} s; needs {} (arguments {}, results {}, donated {}, \
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

fn conclude(trainer: &Trainer<'_>, outcome: &Outcome, history: &History, dt: f64, dir: &Path) -> Result<()> {
    let at = outcome.progress.step;
    match outcome.ending {
        Ending::Interrupted => {
            say!("interrupted after update {at}; go on with --resume {}", dir.display());
            return Err(Stopped(stop::requested().unwrap_or_default()).into());
        }
        Ending::Reached => {
            let wanted = trainer.settings.stop_at.unwrap_or_default() * 100.0;
            say!("Accuracy reaches {wanted}% at batch {}. Stop training.", at - 1);
        }
        Ending::Settled => say!("The evaluation has stopped improving, at update {at}. Stop training."),
        Ending::Finished => {}
    }
    if trainer.task.samples(Split::Test)?.is_some() {
        let eval = EvalProgram::new(trainer.session, &trainer.spec)?;
        let last = trainer.evaluate(&eval, &outcome.state.params, Split::Test)?;
        say!("test accuracy {:.4}, test loss {:.4} after {at} updates", last.accuracy, last.loss);
        let mut reported = last;
        if trainer.settings.select {
            let Spec { model, optimizer, .. } = &trainer.spec;
            let (best, progress) = checkpoint::load(dir, Name::Best, trainer.session, model, optimizer.rule)?;
            reported = trainer.evaluate(&eval, &best.params, Split::Test)?;
            say!(
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
        say!("{history}");
    }
    say!("written to {}: config.toml, metrics.jsonl, last and best checkpoint, curve.svg/.png", dir.display());
    Ok(())
}
