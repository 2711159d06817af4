//! What `--dry-run` says of a run: its configuration, and the compiled program in words.

use std::fmt::Write;

use anyhow::{Result, bail};
use hlo::{
    Program,
    pjrt::{self, AotReport, MemoryStats, aot},
};

use super::super::{OrUsage, Usage, output, usage};
use crate::{
    experiment::Experiment,
    learn::form::Choice,
    report::{byte_counts, bytes},
    train::{
        program::{Spec, TrainProgram},
        replicas::Parts,
        session::Session,
        stepwise::Stepwise,
    },
};

/// Prints a configuration, and the compiled program as comments, so that the whole is a configuration file.
///
/// # Errors
/// As [`described`].
pub fn show(experiment: &Experiment, session: &Session, spec: &Spec, target: Option<&str>) -> Result<()> {
    let config = toml::to_string_pretty(experiment)?;
    let program = described(session, spec, target)?;
    let comments: String = program.lines().map(|line| format!("# {line}\n")).collect();
    output::print(&format!("{config}\n{comments}"));
    Ok(())
}

/// The compiled program in words, for `--dry-run`; compiled for `target` if there is one.
///
/// # Errors
/// When the program does not compile, or the plugin of the target is not installed.
pub fn described(session: &Session, spec: &Spec, target: Option<&str>) -> Result<String> {
    let mut text = String::new();
    let (program, learner) = TrainProgram::lower(spec)?;
    let (memory, seconds, exchanges, place) = match target {
        None => {
            let executable = session.client.compile(&program, &session.options)?;
            let seconds = executable.compile_time().as_secs_f64();
            (executable.memory()?, seconds, executable.exchanges().ok(), String::new())
        }
        Some(target) => {
            let report = compile_for(target, &program, spec.parts)?;
            (report.memory, report.seconds, report.exchanges, format!(" for {target}"))
        }
    };
    if spec.learner.method.is_online() {
        text += &forms(&format!("{} steps", spec.steps), &learner.choice(spec.steps));
    }
    writeln!(text, "{} steps; compiled{place} in {seconds:.2} s; needs {}", spec.steps, needs(&memory))?;
    let Parts(replicas) = spec.parts;
    if replicas > 1 {
        let part = spec.model.batch();
        let exchange = exchanges.map_or("what they exchange is not known".into(), |e| {
            let (exchanges, inside) = (counted(e.count, "exchange"), e.in_loops);
            format!("in an update each brings {} into {exchanges}, {inside} of them in loops", bytes(e.bytes))
        });
        let each = counted(part, "sequence");
        writeln!(text, "{replicas} replicas of {each} each, memory as above for each; {exchange}")?;
    }
    Ok(text)
}

/// The same where a sequence is driven by calls of `chunk` steps each.
///
/// # Errors
/// When the programs do not compile, or with a target.
pub fn described_stepwise(session: &Session, spec: &Spec, chunk: usize, target: Option<&str>) -> Result<String> {
    if let Some(target) = target {
        bail!(usage(format!(
            "--target compiles the program of a whole sequence, got {target} with --drive step; use --drive scan"
        )));
    }
    let programs = Stepwise::new(session, spec, chunk)?;
    let calls = format!("calls of {}", counted(chunk, "step"));
    let (seconds, memory) = (programs.compile_seconds(), programs.memory()?);
    Ok(forms(&calls, &programs.choice)
        + &format!("{calls}; compiled in {seconds:.2} s; a call needs {}\n", needs(&memory)))
}

/// The form that is used, and those that are not.
fn forms(of: &str, choice: &Choice) -> String {
    let others = choice.turned_down.iter().map(|(form, why)| format!("  not {form}: {why}\n"));
    format!("{of}; traces: {}\n{}", choice.used, others.collect::<String>())
}

fn needs(memory: &MemoryStats) -> String {
    let parts = [
        ("arguments", memory.argument),
        ("results", memory.output),
        ("donated", memory.alias),
        ("temporary", memory.temp),
    ];
    format!("{} ({})", bytes(memory.total()), byte_counts(&parts))
}

/// Compiles a program ahead of time, for so many devices of a target that need not be here.
///
/// # Errors
/// When there is no such target or it has fewer devices (the user's mistake), its plugin is not installed, or the compiler refuses.
pub fn compile_for(target: &str, program: &Program, parts: Parts) -> Result<AotReport> {
    let kind = aot::plugin_kind(target).or_usage()?;
    let plugin = pjrt::locate(kind, None, &mut |_| {})?;
    aot::compile(&plugin, target, program, parts.count()).map_err(|error| match error {
        pjrt::Error::TargetDevices { .. } => Usage(error.into()).into(),
        other => other.into(),
    })
}

/// `1 exchange`, `2 exchanges`.
fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
