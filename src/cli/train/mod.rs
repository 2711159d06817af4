//! What every training command shares: its flags, and the run from configuration to curves.

mod dry_run;
mod flags;

use std::path::Path;

use anyhow::{Context, Result, bail};
use hlo::pjrt::{Device, Devices};
use tasks::{Split, Task};

pub use super::screen::{BatchReport, EpochReport, Lines, epoch_line};
pub use dry_run::{compile_for, described, described_stepwise, show};
pub use flags::{RunFlags, TrainFlags};

use super::{Global, OrUsage, Stopped, bar::Bar, common, data, eval, resume::Resumed, screen::Screen, usage};
use crate::{
    cell::Model,
    experiment::Experiment,
    learn::{Learner, paths::Paths},
    say,
    train::{
        checkpoint::{self, Name, Progress},
        feed::Supply,
        history::History,
        program::{self, EvalProgram, Spec, TrainState},
        record::{self, Change, Entry, Setting},
        replicas::Parts,
        run::{RunDir, RunError},
        score::Measure,
        session::Session,
        settings::Settings,
        stop,
        team::Team,
        trainer::{Ending, Outcome, Programs, TrainError, Trainer},
    },
};

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
    let init = flags.init.as_deref().map(Initial::of).transpose()?;
    let global = global.with_threads(global.threads());
    let team = team(flags, &global)?;
    let work = Work::prepare(&global, flags.devices(), team, experiment, lines)?;
    if flags.dry_run {
        return work.show(flags.target.as_deref());
    }
    work.agree(&Progress::default())?;
    let programs = work.compile()?;
    let (model, rule) = (&work.spec.model, work.experiment.optimizer.rule);
    let (state, changes) = match init {
        None => (program::start(&work.session, model, rule, work.experiment.settings.seed)?, Vec::new()),
        Some(init) => (init.start(&work)?, vec![init.change()]),
    };
    stop::listen().context("cannot listen for signals")?;
    let entry = Entry::start(0, Setting::new(&work.session, global.threads()), changes);
    let run = match &work.team {
        Some(team) if !team.leads() => None,
        _ => Some(new_run(&dir, &work.experiment, &entry, model, &state, &[Name::Last])?),
    };
    work.train(&dir, run, &programs, (state, Progress::default()))
}

/// Meets the other processes of a run, if there are some. When one of them is lost this process ends: it would wait for it for ever.
fn team(flags: &RunFlags, global: &Global) -> Result<Option<Team>> {
    let Some(group) = flags.hosts.meet(|text| global.remark(text))? else { return Ok(None) };
    group.on_loss(|lost| {
        super::complain(&TrainError::Lost(lost.clone()).to_string());
        stop::abandon(1);
    });
    if global.device == Device::Cpu {
        global.remark(
            "note: pretended devices cannot exchange anything with other processes; each process computes the whole batch, as a rehearsal",
        );
    }
    Ok(Some(Team::new(group)))
}

/// The checkpoint of another run from which a run begins.
struct Initial<'a> {
    run: &'a Path,
    name: Name,
    /// Its updates.
    step: u64,
}

impl<'a> Initial<'a> {
    /// The one that a run reports.
    fn of(run: &'a Path) -> Result<Initial<'a>> {
        common::existing_file(
            &run.join("config.toml"),
            "--init names the folder of a run",
            "name a folder that a training command wrote",
        )?;
        let name = if Experiment::of_run(run).or_usage()?.settings.select { Name::Best } else { Name::Last };
        Ok(Initial { run, name, step: checkpoint::progress(run, name).or_usage()?.step })
    }

    fn start(&self, work: &Work<'_>) -> Result<TrainState> {
        let (model, rule) = (&work.spec.model, work.experiment.optimizer.rule);
        checkpoint::start_from(self.run, self.name, &work.session, model, rule).or_usage()
    }

    /// What the log says of it.
    fn change(&self) -> Change {
        let to = format!("{}, {} updates", self.name.file(self.run).display(), self.step);
        Change { setting: "initial parameters".into(), from: "drawn".into(), to }
    }
}

/// A run in a new folder, with the checkpoints `names` of this state in it.
///
/// # Errors
/// When there is a run already, or the file system refuses; nothing is left then.
pub fn new_run(
    dir: &Path,
    experiment: &Experiment,
    entry: &Entry,
    model: &Model,
    state: &TrainState,
    names: &[Name],
) -> Result<RunDir> {
    let run = RunDir::create(dir, experiment, entry, |stage| {
        let save = |name: &Name| checkpoint::save(stage, *name, model, state, &Progress::default());
        Ok::<(), anyhow::Error>(names.iter().try_for_each(save)?)
    });
    run.map_err(|error| match error.downcast::<RunError>() {
        Ok(taken @ RunError::Taken { .. }) => super::Usage(taken.into()).into(),
        Ok(other) => other.into(),
        Err(other) => other,
    })
}

fn go_on(
    dir: &Path,
    command: &str,
    flags: &RunFlags,
    epochs: Option<u64>,
    global: &Global,
    lines: Lines,
) -> Result<()> {
    let team = team(flags, global)?;
    let mut resumed = Resumed::open(dir, command, flags, epochs, team.as_ref().is_none_or(Team::leads))?;
    let global = resumed.threads(global);
    let work = Work::prepare(&global, resumed.replicas(flags), team, resumed.experiment.clone(), lines)?;
    if flags.dry_run {
        return work.show(flags.target.as_deref());
    }
    work.agree(resumed.progress())?;
    let load = || checkpoint::load(dir, flags.from, &work.session, &work.spec.model, work.experiment.optimizer.rule);
    if let Some(complete) = resumed.complete() {
        say!("{complete}");
        let start = load()?;
        return work.report(dir, resumed.run, start);
    }
    let programs = work.compile()?;
    let start = load()?;
    stop::listen().context("cannot listen for signals")?;
    if let Some(team) = &work.team {
        // From here on the leader changes the folder.
        team.wait_for_all("loaded")?;
    }
    resumed.commit(Setting::new(&work.session, global.threads()))?;
    work.train(dir, resumed.run, &programs, start)
}

/// A run about to be trained.
struct Work<'a> {
    global: &'a Global,
    lines: Lines,
    experiment: Experiment,
    task: std::sync::Arc<dyn tasks::Task>,
    session: Session,
    spec: Spec,
    /// The processes that train it together, if there are others.
    team: Option<Team>,
}

impl<'a> Work<'a> {
    fn prepare(
        global: &'a Global,
        replicas: Devices,
        team: Option<Team>,
        experiment: Experiment,
        lines: Lines,
    ) -> Result<Work<'a>> {
        let task = experiment.task.open().or_usage()?;
        let counted = task.steps().saturating_sub(experiment.learner.warmup);
        if let Some(every) = experiment.learner.update_every.filter(|every| *every > counted) {
            bail!(usage(format!(
                "--update_every counts steps that carry loss, got {every} where a sequence has {counted}; leave it out for one update a \
                 sequence"
            )));
        }
        let session = global.session_of(replicas, team.as_ref().map(Team::group))?;
        let spec = experiment.spec_of(task.steps(), Parts(session.replicas())).or_usage()?;
        Ok(Work { global, lines, experiment, task, session, spec, team })
    }

    /// Makes sure that all processes begin with the same.
    fn agree(&self, progress: &Progress) -> Result<()> {
        let Some(team) = &self.team else { return Ok(()) };
        let now = Setting::new(&self.session, self.global.threads());
        let version = format!("{} {}", now.version, now.revision.unwrap_or_default());
        let all = [
            ("version of etrace", version),
            ("configuration", toml::to_string(&self.experiment)?),
            ("checkpoint", serde_json::to_string(progress)?),
        ];
        let agree = |(what, own): &(&str, String)| team.agree(what, own);
        all.iter().try_for_each(agree).map_err(|error| match error {
            TrainError::Setting(text) => usage(text).into(),
            other => other.into(),
        })
    }

    /// Prints configuration and program.
    fn show(&self, target: Option<&str>) -> Result<()> {
        show(&self.experiment, &self.session, &self.spec, target)
    }

    /// Compiles the programs and makes sure that there is memory for them.
    fn compile(&self) -> Result<Programs> {
        let settings = &self.experiment.settings;
        let programs = Programs::new(&self.session, &self.spec, settings)?;
        programs.need(&self.session, &self.spec, settings, self.task.as_ref())?.check(&self.session).or_usage()?;
        Ok(programs)
    }

    /// Trains, draws the curves, says what came of it. Of several errors the first is returned.
    fn train(self, dir: &Path, run: Option<RunDir>, programs: &Programs, start: (TrainState, Progress)) -> Result<()> {
        let (experiment, session, team) = (self.experiment, &self.session, self.team.clone());
        let settings = experiment.settings.clone();
        let mut trainer = Trainer { session, spec: self.spec, task: self.task, settings, run, team };
        if let Some(team) = self.team.as_ref().filter(|team| !team.leads()) {
            return follow(&mut trainer, programs, start, team);
        }
        say!("{}", headline(&trainer, &experiment, dir)?);
        if trainer.task.samples(Split::Train)?.is_some() {
            data::remark(trainer.task.as_ref(), &[Split::Train, Split::Test], self.global)?;
        }
        if let Some(untrained) = untrained(programs.train.learner()) {
            say!("{untrained}");
        }
        let total = total(&experiment.settings, trainer.task.as_ref())?;
        let bar = Bar::new(self.global, total, "batches").from(start.1.step);
        let mut screen = Screen::new(session, &experiment, self.lines, bar);
        let result = trainer.train(programs, start, |event| screen.hear(event));
        screen.bar.finish();
        if let (Ok(_), Some(team)) = (&result, &self.team) {
            // All end at the same update; what follows is the leader's own.
            team.leave();
        }
        stop::all_is_saved();
        // A failed run has its curve too: that is where one looks first.
        let drawn = draw(dir);
        let time = record::now();
        let end = match &result {
            Ok(outcome) => Entry::End { time, step: outcome.progress.step, ending: outcome.ending },
            Err(error) => Entry::Failure { time, error: error.to_string() },
        };
        let logged = trainer.run.as_ref().map_or(Ok(()), |run| run.log(&end));
        let outcome = result?;
        let history = drawn.context("training is complete and saved, but its curve could not be drawn")?;
        logged?;
        conclude(&trainer, &outcome, &history, experiment.net.dt(), dir)?;
        eval::unstable(&experiment.net, &trainer.spec.model, &outcome.state)
    }

    /// Says again what came of a run that is complete.
    fn report(self, dir: &Path, run: Option<RunDir>, (state, progress): (TrainState, Progress)) -> Result<()> {
        let settings = self.experiment.settings.clone();
        let Work { session, spec, task, team, .. } = self;
        if team.as_ref().is_none_or(Team::leads) {
            let trainer = Trainer { session: &session, spec, task, settings, run, team: team.clone() };
            let supply = Supply::default();
            let outcome = Outcome { ending: Ending::Finished, progress, state, evaluation: None, supply };
            conclude(&trainer, &outcome, &draw(dir)?, self.experiment.net.dt(), dir)?;
        }
        team.iter().for_each(Team::leave);
        Ok(())
    }
}

/// Batches of a run, where an end is set.
fn total(settings: &Settings, task: &dyn Task) -> Result<Option<u64>> {
    let each = task.batches(Split::Train, settings.batch)?;
    let epochs = settings.epochs.zip(each).map(|(epochs, batches)| epochs.saturating_mul(batches));
    Ok(settings.batches.into_iter().chain(epochs).min())
}

/// Trains with a leader, who records the run and says what came of it.
fn follow(trainer: &mut Trainer<'_>, programs: &Programs, start: (TrainState, Progress), team: &Team) -> Result<()> {
    let group = team.group();
    say!(
        "process {} of {}, {}: trains with process 0 on {}, which records the run",
        group.process(),
        group.processes(),
        common::device_line(trainer.session),
        group.abouts()[0]
    );
    let outcome = trainer.train(programs, start, |_| {})?;
    stop::all_is_saved();
    team.leave();
    say!("{} updates; {}", outcome.progress.step, outcome.supply);
    match outcome.ending {
        Ending::Interrupted => Err(Stopped(stop::requested().unwrap_or_default()).into()),
        _ => Ok(()),
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
    let every = trainer.spec.learner.within(task.steps()).update_every;
    let every = every.map_or(String::new(), |every| format!(", an update every {every}"));
    Ok(format!(
        "{}: {samples}; {} steps, loss in the last {}{every}; {}, {} parameters; {}; run folder {}",
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

fn conclude(trainer: &Trainer<'_>, outcome: &Outcome, history: &History, dt: f64, dir: &Path) -> Result<()> {
    let at = outcome.progress.step;
    match outcome.ending {
        Ending::Interrupted => {
            say!("interrupted after update {at}; go on with --resume {}", dir.display());
            return Err(Stopped(stop::requested().unwrap_or_default()).into());
        }
        Ending::Reached => {
            let wanted = trainer.settings.stop_at.unwrap_or_default();
            match Measure::of(trainer.spec.objective.target) {
                Measure::Accuracy => say!("Accuracy reaches {}% at batch {at}. Stop training.", wanted * 100.0),
                Measure::Nmse => say!("NMSE reaches {wanted} at batch {at}. Stop training."),
            }
        }
        Ending::Settled => say!("The evaluation has stopped improving, at update {at}. Stop training."),
        Ending::Finished => {}
    }
    if outcome.supply.batches > 1 {
        say!("{}", outcome.supply);
    }
    if trainer.task.samples(Split::Test)?.is_some() {
        let eval = EvalProgram::new(trainer.session, &trainer.spec)?;
        let last = trainer.evaluate(&eval, &outcome.state, Split::Test)?;
        say!("test {}, test loss {:.4} after {at} updates", last.score, last.loss);
        let mut reported = last;
        if trainer.settings.select {
            let Spec { model, optimizer, .. } = &trainer.spec;
            let (best, progress) = checkpoint::load(dir, Name::Best, trainer.session, model, optimizer.rule)?;
            reported = trainer.evaluate(&eval, &best, Split::Test)?;
            say!(
                "best checkpoint, epoch {} ({} {}): test {}, test loss {:.4}",
                progress.best_epoch,
                trainer.settings.evaluate.as_deref().unwrap_or("training"),
                reported.score.measure().score(progress.best.unwrap_or_default()),
                reported.score,
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
