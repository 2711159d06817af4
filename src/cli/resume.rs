//! Going on with a run: what may change and what may not.
//!
//! A run is what its configuration says. A flag that says something else is refused, with both values; flags that do not
//! change what is computed ([`FREE`]) are honoured. The comparison is between two command lines, the one that started the run
//! (its log has it) and the one that resumes it, both read by the same parser, so that it holds for any flag.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::{CommandFactory, parser::ValueSource};
use hlo::pjrt::Devices;

use super::{Cli, Global, OrUsage, Usage, common, train::RunFlags, usage};
use crate::{
    experiment::Experiment,
    learn::Method,
    settings::Listed,
    train::{
        checkpoint::{self, Name, Progress},
        record::{self, Change, Entry, Setting},
        run::{RunDir, RunError},
        score::Measure,
        trainer::Ending,
    },
};

/// Flags that a resumed run may have anew, by the names of their fields.
const FREE: &[&str] = &[
    "epochs",
    "nb_epochs",
    "train_epochs",
    "data",
    "data_folder",
    "cache",
    "n_data_worker",
    "resume",
    "resume_path",
    "from",
    "dry_run",
    "target",
    "devices",
    "replicas",
    "coordinator",
    "process",
    "processes",
    "filepath",
];

/// The command whose runs `etrace train` resumes.
const IMPORT: &str = "import";

/// Flags that name the folder of the data.
const DATA: &[&str] = &["data", "data_folder"];

/// A command line: its command, and for each flag the values, and whether they were typed.
struct Line {
    command: String,
    flags: BTreeMap<String, Flag>,
}

struct Flag {
    /// As it is typed: `--lr`.
    shown: String,
    values: Vec<String>,
    typed: bool,
}

impl Line {
    /// `None` if it is no command line of this version.
    fn read(words: impl IntoIterator<Item = OsString>) -> Option<Line> {
        let matches = super::parse(std::iter::once("etrace".into()).chain(words)).ok()?;
        let (command, matches) = matches.subcommand()?;
        let declared = Cli::command();
        let mut flags = BTreeMap::new();
        for arg in declared.find_subcommand(command)?.get_arguments() {
            let id = arg.get_id().as_str();
            let raw = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
            let flag = Flag {
                shown: format!("--{}", arg.get_long().unwrap_or(id)),
                values: raw.map(|value| value.to_string_lossy().into_owned()).collect(),
                typed: matches.value_source(id) == Some(ValueSource::CommandLine),
            };
            flags.insert(id.to_string(), flag);
        }
        Some(Line { command: command.to_string(), flags })
    }

    /// The value of a flag, if it was typed.
    fn typed(&self, id: &str) -> Option<&str> {
        self.flags.get(id).filter(|flag| flag.typed)?.values.first().map(String::as_str)
    }

    fn refuse_what_contradicts(&self, started: Option<&Line>, run: &Path) -> Result<()> {
        let run_name = run.display();
        let mut found = Vec::new();
        for (id, flag) in self.flags.iter().filter(|(id, flag)| flag.typed && !FREE.contains(&id.as_str())) {
            let got = format!("{} {}", flag.shown, flag.values.join(" "));
            if id == "out" {
                if run.canonicalize().ok() != Path::new(&flag.values.join(" ")).canonicalize().ok() {
                    found.push(format!("it stays in its folder, but {got} was given"));
                }
                continue;
            }
            match started.and_then(|line| line.flags.get(id)).map(|was| was.values.as_slice()) {
                None => {
                    found.push(format!("which {} it was started with is not recorded, but {got} was given", flag.shown))
                }
                Some(was) if same(&flag.values, was) => {}
                Some([]) => found.push(format!("it was started without {}, but {got} was given", flag.shown)),
                Some(was) => found.push(format!("it has {} {}, but {got} was given", flag.shown, was.join(" "))),
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        bail!(usage(format!(
            "a run keeps its settings, got --resume {run_name} with others: {}; leave these flags out ({run_name}/config.toml has \
             all settings), or start another run",
            found.join("; ")
        )))
    }
}

/// Whether two spellings mean the same.
fn same(a: &[String], b: &[String]) -> bool {
    let one = |(a, b): (&String, &String)| {
        let number = |text: &str| text.parse::<f64>().ok();
        let rule = |text: &str| Method::find(text).map(|row| row.name);
        a == b || number(a).is_some_and(|n| Some(n) == number(b)) || rule(a).is_some_and(|m| Some(m) == rule(b))
    };
    a.len() == b.len() && a.iter().zip(b).all(one)
}

/// A run to go on with.
pub struct Resumed {
    /// The folder, locked. Of several processes only the leader has it.
    pub run: Option<RunDir>,
    /// What the run is, with the changes of this command.
    pub experiment: Experiment,
    dir: PathBuf,
    from: Name,
    progress: Progress,
    changes: Vec<Change>,
    /// What computed so far.
    before: Option<Setting>,
}

impl Resumed {
    /// Opens a run and applies what flags may change.
    ///
    /// # Errors
    /// When the folder is no run or in use, its checkpoint is damaged, or a flag contradicts it.
    pub fn open(dir: &Path, command: &str, flags: &RunFlags, epochs: Option<u64>, leads: bool) -> Result<Resumed> {
        common::existing_file(
            &dir.join("config.toml"),
            "--resume names the folder of a run",
            "name a folder that a training command wrote",
        )?;
        let run = leads.then(|| RunDir::open(dir)).transpose().map_err(|error| match error {
            RunError::Locked { .. } => Usage(error.into()).into(),
            other => anyhow::Error::from(other),
        })?;
        let mut experiment = Experiment::of_run(dir)?;
        let entries = RunDir::entries(dir);
        let started = entries.iter().find_map(|entry| match entry {
            Entry::Start { command, .. } => Line::read(command.iter().map(OsString::from)),
            _ => None,
        });
        let given = Line::read(std::env::args_os().skip(1));
        // A command may make runs of several names, as `etrace train` does.
        let command = given.as_ref().map_or(command, |line| &line.command);
        // An imported network is one that `etrace train` goes on with.
        if let Some(line) = started.as_ref().filter(|line| line.command != command && line.command != IMPORT) {
            bail!(usage(format!(
                "{} is a run of `etrace {}`, but `etrace {command}` was asked to resume it; use etrace {} --resume {}",
                dir.display(),
                line.command,
                line.command,
                dir.display()
            )));
        }
        if let Some(given) = &given {
            given.refuse_what_contradicts(started.as_ref(), dir)?;
        }
        let mut changes = Vec::new();
        let typed = |id: &str| given.as_ref().and_then(|line| line.typed(id));
        apply(&mut experiment, epochs, flags, &typed, &mut changes)?;
        experiment.settings.check().or_usage()?;
        let progress = checkpoint::progress(dir, flags.from)?;
        let before = entries.iter().rev().find_map(Entry::setting).cloned();
        Ok(Resumed { run, experiment, dir: dir.to_path_buf(), from: flags.from, progress, changes, before })
    }

    /// Where the run stands.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// If nothing is left to do: in words why, and what can be done.
    pub fn complete(&self) -> Option<String> {
        let settings = &self.experiment.settings;
        let run = self.dir.display();
        let Progress { step, epoch, ending, .. } = self.progress;
        match ending {
            Some(Ending::Reached) => {
                let wanted = settings.stop_at.unwrap_or_default();
                let reached = match self.experiment.measure() {
                    Measure::Accuracy => format!("accuracy reached {} %", wanted * 100.0),
                    Measure::Nmse => format!("NMSE reached {wanted}"),
                };
                Some(format!("{run} is complete: its smoothed {reached} at update {step}; nothing is trained"))
            }
            Some(Ending::Settled) => {
                Some(format!("{run} is complete: its evaluation stopped improving; nothing is trained"))
            }
            _ if settings.done(&self.progress) => {
                let (done, all, what) = match (settings.batches, settings.epochs) {
                    (Some(n), _) => (step, n, "batches"),
                    (None, n) => (epoch, n.unwrap_or(epoch), "epochs"),
                };
                Some(format!("{run} is complete, {done} of {all} {what}; nothing is trained; --epochs N lengthens it"))
            }
            _ => None,
        }
    }

    /// Devices that share a batch: those of the flag, else as many as before.
    pub fn replicas(&self, flags: &RunFlags) -> Devices {
        let before = self.before.as_ref().and_then(|setting| NonZeroUsize::new(setting.replicas));
        flags
            .replicas
            .replicas
            .or(before.map(Devices::Count).filter(|_| !flags.hosts.given()))
            .unwrap_or(flags.devices())
    }

    /// The global flags with the run's number of threads, unless they name one: it decides the last digits of results.
    pub fn threads(&self, global: &Global) -> Global {
        let before = self.before.as_ref().filter(|_| global.threads.is_none()).map(|s| s.threads);
        global.with_threads(before.unwrap_or(global.threads()))
    }

    /// Writes down what changes and drops what will be done again; warns of what makes the run another than one that was never
    /// stopped.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn commit(&mut self, now: Setting) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        checkpoint::make_last(&self.dir, self.from)?;
        let recorded = run.rewind(self.progress.step)?;
        if recorded.found < recorded.expected {
            self.warn(&format!(
                "{}/metrics.jsonl holds {} of the {} updates that this run has made; training goes on from the checkpoint, but \
                 curves and tables will lack the others",
                self.dir.display(),
                recorded.found,
                recorded.expected
            ))?;
        }
        for Change { setting, from, to } in self.before.as_ref().map(|b| now.differences(b)).unwrap_or_default() {
            self.warn(&format!(
                "{setting} was {from} so far and is {to} after update {}; results will differ in their last digits from those of \
                 a run that was never stopped",
                self.progress.step
            ))?;
        }
        let changes = std::mem::take(&mut self.changes);
        let Some(run) = &self.run else { return Ok(()) };
        if !changes.is_empty() {
            run.set_config(&self.experiment)?;
        }
        Ok(run.log(&Entry::start(self.progress.step, now, changes))?)
    }

    fn warn(&self, text: &str) -> Result<()> {
        use std::io::Write;
        // Without a standard error there is nobody to tell, but the log.
        let _ = writeln!(std::io::stderr(), "warning: {text}");
        let entry = Entry::Warning { time: record::now(), text: text.into() };
        Ok(self.run.as_ref().map_or(Ok(()), |run| run.log(&entry))?)
    }
}

/// Applies the flags that may change, and notes what they change.
fn apply<'a>(
    experiment: &mut Experiment,
    epochs: Option<u64>,
    flags: &RunFlags,
    typed: &dyn Fn(&str) -> Option<&'a str>,
    changes: &mut Vec<Change>,
) -> Result<()> {
    let text = |value: Option<u64>| value.map_or("no limit".into(), |n| n.to_string());
    let settings = &mut experiment.settings;
    let by_batches = settings.batches.is_some();
    let limit = if by_batches { &mut settings.batches } else { &mut settings.epochs };
    if epochs.is_some() && *limit != epochs {
        let setting = if by_batches { "batches" } else { "epochs" }.into();
        changes.push(Change { setting, from: text(*limit), to: text(epochs) });
        *limit = epochs;
    }
    if let Some(threads) = flags.n_data_worker.filter(|&n| typed("n_data_worker").is_some() && settings.threads != n) {
        let (from, to) = (settings.threads.to_string(), threads.to_string());
        changes.push(Change { setting: "threads that make batches".into(), from, to });
        settings.threads = threads;
    }
    if let Some(dir) = DATA.iter().find_map(|id| typed(id)) {
        let to = std::path::absolute(dir)?;
        let from = experiment.task.set_data(&to).or_usage()?;
        if from != to {
            let [from, to] = [from, to].map(|path| path.display().to_string());
            changes.push(Change { setting: "data folder".into(), from, to });
        }
    }
    Ok(())
}
