//! `etrace verify`: models and learners against reference gradients.

use std::path::PathBuf;

use anyhow::bail;
use serde_json::json;

use super::{
    Failed, Global, OrUsage,
    common::{existing_directory, print},
};
use crate::{
    report::{Align, Table},
    verify::{self, Check, Progress, Report, Source, VerifyError},
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of reference cases: pairs NAME.json and NAME.safetensors [default: the built-in cases]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Try short chunks in every mode, not only in the single-step ones
    #[arg(long)]
    thorough: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When there is no case, one cannot be replayed or gives other numbers, or none could be compared.
pub fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let source = match args.dir {
        Some(dir) => {
            let advice = "name the folder that holds them, or none for the built-in ones";
            existing_directory(&dir, "`verify` reads a directory of reference cases", advice)?;
            Source::Directory(dir)
        }
        None => Source::BuiltIn,
    };
    let names = source.names().or_usage()?;
    let session = global.session()?;
    let bar = global.bar(names.len(), "verifying");
    let report = verify::run(&session, &source, args.thorough, |progress| match progress {
        Progress::Began(name) => bar.message(name),
        Progress::Ended(_) => bar.inc(),
    });
    bar.finish();
    let report = report.map_err(|error| match error {
        VerifyError::Empty(_) => super::Usage(error.into()).into(),
        other => anyhow::Error::from(other),
    })?;
    print(&if args.json { to_json(&report).to_string() } else { to_text(&report) })?;
    if report.checks.is_empty() && report.broken.is_empty() {
        bail!(
            "`verify` must compare something, but no model is known for any of the {} cases ({}); leave the directory out for the built-in cases",
            report.skipped.len(),
            report.skipped.join(", ")
        );
    }
    if report.passed() { Ok(()) } else { Err(Failed.into()) }
}

fn verdict(check: &Check) -> &'static str {
    if check.passed() { "pass" } else { "FAIL" }
}

fn to_text(report: &Report) -> String {
    let mut table = Table::new([
        ("case", Align::Left),
        ("quantity", Align::Left),
        ("worst error", Align::Right),
        ("tolerance", Align::Right),
        ("", Align::Left),
    ]);
    for check in &report.checks {
        table.row([
            check.case.clone(),
            check.quantity.clone(),
            format!("{:.1e}", check.error),
            format!("{:.0e}", check.tolerance),
            verdict(check).into(),
        ]);
    }
    let mut text = if table.is_empty() { String::new() } else { format!("{table}\n\n") };
    for (case, why) in &report.broken {
        text.push_str(&format!("{case} could not be replayed: {why}\n\n"));
    }
    let (passed, failed) = counts(report);
    text.push_str(&format!("{passed} passed, {failed} failed, {} skipped", report.skipped.len()));
    if !report.skipped.is_empty() {
        text.push_str(&format!(" (no model of this name: {})", report.skipped.join(", ")));
    }
    if !report.without_rule.is_empty() {
        let all: Vec<String> = report.without_rule.iter().map(|(case, stored)| format!("{case} {stored}")).collect();
        text.push_str(&format!(
            "\n{} gradients of rules that do not exist here skipped: {}",
            all.len(),
            all.join(", ")
        ));
    }
    text
}

/// Checks that passed; checks that failed and cases that could not be replayed.
fn counts(report: &Report) -> (usize, usize) {
    let passed = report.checks.iter().filter(|c| c.passed()).count();
    (passed, report.checks.len() - passed + report.broken.len())
}

fn to_json(report: &Report) -> serde_json::Value {
    let (passed, failed) = counts(report);
    // JSON has no NaN: an error that is not a number becomes null.
    let checks = report.checks.iter().map(|c| {
        json!({ "case": c.case, "quantity": c.quantity, "error": c.error, "tolerance": c.tolerance, "passed": c.passed() })
    });
    let checks: Vec<_> = checks.collect();
    let broken: Vec<_> = report.broken.iter().map(|(case, why)| json!({ "case": case, "reason": why })).collect();
    let without_rule = report.without_rule.iter().map(|(case, stored)| json!({ "case": case, "quantity": stored }));
    let without_rule: Vec<_> = without_rule.collect();
    json!({ "passed": passed, "failed": failed, "skipped": report.skipped, "without_rule": without_rule, "broken": broken, "checks": checks })
}
