//! Running a campaign: each run a process of its own, one after another or some at a time.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hlo::pjrt::memory;
use rustix::process::{Pid, Signal, kill_process};

use super::{
    super::Global,
    plan::{Plan, Run},
    report,
};
use crate::{
    say,
    train::{
        efficiency::EFFICIENCY,
        run::{RunDir, RunError},
        stop,
    },
};

/// Between two looks at the processes.
const PAUSE: Duration = Duration::from_millis(50);

/// A process has shown what memory it takes after this long.
const SETTLED: Duration = Duration::from_secs(10);

/// A run in progress.
struct Training<'a> {
    run: &'a Run,
    child: Child,
    since: Instant,
    /// Whether it began the run, in place of going on with it.
    began: bool,
}

/// Trains all runs that are not complete. Returns what is to be said of those that failed; what went on is in `output.txt` of each.
///
/// # Errors
/// When a process cannot be started.
pub fn all(plan: &Plan, at_a_time: usize, global: &Global) -> Result<Vec<String>> {
    let mut waiting: VecDeque<&Run> = plan.runs.iter().filter(|run| !report::is_complete(&run.dir)).collect();
    let bar = global.bar(plan.runs.len(), "runs").from((plan.runs.len() - waiting.len()) as u64);
    let (mut training, mut failures) = (Vec::<Training<'_>>::new(), Vec::new());
    let mut asked = false;
    while !(training.is_empty() && (waiting.is_empty() || stop::requested().is_some())) {
        if stop::requested().is_some() && !std::mem::replace(&mut asked, true) {
            training.iter().for_each(|t| terminate(&t.child));
        }
        if stop::requested().is_none() && training.len() < at_a_time && has_room(&training) {
            // A run that another process trains, perhaps one that a killed campaign left behind, is waited for.
            if let Some(place) = waiting.iter().position(|run| !is_locked(&run.dir))
                && let Some(run) = waiting.remove(place)
            {
                if !report::is_complete(&run.dir) {
                    training.push(start(plan, run, global)?);
                    continue;
                }
                bar.inc();
            }
        }
        std::thread::sleep(PAUSE);
        let mut k = 0;
        while k < training.len() {
            let Some(status) = training[k].child.try_wait().context("cannot wait for a run")? else {
                k += 1;
                continue;
            };
            let ended = training.swap_remove(k);
            let name = ended.run.dir.display();
            if status.success() {
                bar.inc();
                bar.suspend(|| say!("{}", report::line(&ended.run.dir, ended.since.elapsed())));
            } else if ended.began && RunDir::is_run(&ended.run.dir) && is_locked(&ended.run.dir) {
                // Another process, which a killed campaign left behind, began it first.
                waiting.push_back(ended.run);
            } else if stop::requested().is_none() {
                failures.push(format!("{name}: {}", last_words(&ended.run.dir)));
            }
        }
    }
    bar.finish();
    Ok(failures)
}

/// Evaluates the complete runs that have not been. Returns what is to be said of those that failed.
///
/// # Errors
/// When a process cannot be started.
pub fn evaluate(plan: &Plan, global: &Global) -> Result<Vec<String>> {
    let waiting = |run: &&Run| report::is_complete(&run.dir) && !run.dir.join(EFFICIENCY).exists();
    let waiting: Vec<&Run> = plan.runs.iter().filter(waiting).collect();
    let bar = global.bar(waiting.len(), "evaluations");
    let mut failures = Vec::new();
    for run in waiting.into_iter().take_while(|_| stop::requested().is_none()) {
        let mut command = this_program()?;
        command.arg("eval").arg(&run.dir);
        if !spawn(command, run, global)?.wait().context("cannot wait for an evaluation")?.success() {
            failures.push(format!("{}: {}", run.dir.display(), last_words(&run.dir)));
        }
        bar.inc();
    }
    bar.finish();
    Ok(failures)
}

fn this_program() -> Result<Command> {
    Ok(Command::new(std::env::current_exe().context("the path of this program is not known")?))
}

/// A process that trains a run, or goes on with it.
fn start<'a>(plan: &Plan, run: &'a Run, global: &Global) -> Result<Training<'a>> {
    let mut command = this_program()?;
    command.arg("train");
    let began = !RunDir::is_run(&run.dir);
    if !began {
        command.arg("--resume").arg(&run.dir);
    } else {
        command
            .arg(&plan.variants[run.variant].file)
            .arg("--seed")
            .arg(run.seed.to_string())
            .arg("--out")
            .arg(&run.dir);
    }
    let child = spawn(command, run, global)?;
    Ok(Training { run, child, since: Instant::now(), began })
}

/// Starts a process for a run, with the global flags of this one; what it says goes to the run's output.
fn spawn(mut command: Command, run: &Run, global: &Global) -> Result<Child> {
    command.args(["--quiet", "--device", &global.device.to_string()]);
    if let Some(plugin) = &global.plugin {
        command.arg("--plugin").arg(plugin);
    }
    if let Some(threads) = global.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    let output = output(&run.dir);
    let file = OpenOptions::new().create(true).append(true).open(&output);
    let file: File = file.with_context(|| format!("cannot write {}", output.display()))?;
    let errors = file.try_clone().with_context(|| format!("cannot write {}", output.display()))?;
    let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
    child.with_context(|| format!("cannot start a process for {}", run.dir.display()))
}

/// What a run says, beside its folder: the folder is made by the run itself.
fn output(run: &Path) -> std::path::PathBuf {
    run.with_extension("output.txt")
}

/// The last line that a run has said.
fn last_words(run: &Path) -> String {
    let tail = |mut file: File| -> std::io::Result<String> {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = File::open(output(run)).and_then(tail).unwrap_or_default();
    let last = text.rsplit("error: ").next().map(str::trim).filter(|line| !line.is_empty());
    last.unwrap_or("it says nothing").to_string()
}

fn terminate(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // One that has ended by itself is no failure.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Whether another process uses the folder.
fn is_locked(dir: &Path) -> bool {
    RunDir::is_run(dir) && matches!(RunDir::open(dir), Err(RunError::Locked { .. }))
}

/// Whether there is memory for one more, by what those that train have taken at most.
fn has_room(training: &[Training<'_>]) -> bool {
    let peak = |t: &Training<'_>| if t.since.elapsed() < SETTLED { None } else { memory::peak_bytes_of(t.child.id()) };
    let Some(peaks) = training.iter().map(peak).collect::<Option<Vec<u64>>>() else { return false };
    let needed = peaks.into_iter().max().unwrap_or(0);
    training.is_empty() || memory::available_bytes().is_none_or(|there| there > needed + needed / 4)
}
