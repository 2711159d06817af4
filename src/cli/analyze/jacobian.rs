//! `etrace analyze hidden-jacobian-cosine`: the diagonal of the hidden Jacobian against all of it.

use std::fmt::Write as _;

use anyhow::Result;
use tasks::Task;

use super::{Case, Flags, folder, mean, sample};
use crate::{
    analysis::jacobian::{Jacobian, Similarity},
    cli::Global,
    net::Stack,
    plot::{Axis, Figure, LineChart, Series},
    report::{Align, Table},
    say,
    train::{checkpoint::write_atomic, session::Session},
};

/// Factors on the input scale with which networks are driven harder, for larger shares of spiking neurons.
const DRIVES: [f64; 6] = [4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

/// Samples with each of them.
const DRIVEN: u64 = 2;

/// Shares of spiking neurons that are told apart: none, and up to each of these.
const SHARES: [f64; 8] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0];

/// What the paper reports: at least this cosine of a step, up to this share of spiking neurons.
const PAPER: (f64, f64) = (0.992, 0.6);

/// What a network gave.
struct Found {
    name: String,
    /// Cosine by step, a mean over the samples that count.
    steps: Vec<f64>,
    /// Cosine of each sequence that counts.
    whole: Vec<f64>,
    rate: f64,
    /// Samples without a spike.
    silent: u64,
    /// Share of spiking neurons and cosine of every step, of the harder driven networks too.
    shares: Vec<(f64, f64)>,
}

/// Runs the study.
///
/// # Errors
/// As [`super::run`].
pub(super) fn run(flags: &Flags, global: &Global) -> Result<()> {
    let task = flags.task(300)?;
    let samples = flags.samples(100)?;
    let session = global.session()?;
    let cases = flags.cases(&session, task.as_ref(), samples, 100)?;
    let dir = folder(flags.out.as_ref(), "hidden-jacobian-cosine")?;
    let mut csv = String::from("dataset,steps,model,drive,sample,step,cosine,cosine_all,rate_hz,spiking,counted\n");
    let mut all = Vec::new();
    for case in cases {
        all.push(study(flags, &session, task.as_ref(), &case, samples, &mut csv)?);
    }
    write_atomic(&dir.join("cosine.csv"), csv.as_bytes())?;
    let silent: u64 = all.iter().map(|found| found.silent).sum();
    let mut chart = LineChart::new(
        "Diagonal against full hidden Jacobian",
        Axis::new("step"),
        Axis::new("cosine similarity").range(0.0, 1.05),
    )
    .subtitle(format!(
        "{}, mean of {samples} samples, {silent} of {} silent and left out",
        task.name(),
        samples * all.len() as u64
    ));
    let mut table = Table::new([
        ("model", Align::Left),
        ("cosine of a step", Align::Right),
        ("cosine of the sequence", Align::Right),
        ("firing rate", Align::Right),
        ("silent, left out", Align::Right),
    ]);
    for found in &all {
        let cell = |values: &[f64]| {
            if values.is_empty() { "-".into() } else { format!("{:.4}", mean(values.iter().copied())) }
        };
        let left_out = format!("{} of {samples}", found.silent);
        let rate = format!("{:.2} Hz", found.rate);
        table.row([found.name.clone(), cell(&found.steps), cell(&found.whole), rate, left_out]);
        let points = found.steps.iter().enumerate().map(|(t, c)| (t as f64, *c));
        chart = chart.series(Series::new(found.name.clone(), points).markers(false));
    }
    chart.save(dir.join("cosine"))?;
    say!("\n{table}\n\n{}", by_share(&all, &dir)?);
    say!("\nwritten to {}: cosine.csv, cosine and spiking (SVG, PNG)", dir.display());
    Ok(())
}

/// One network: its samples, and a few with stronger input. A sample without a spike has no recurrent Jacobian, whose diagonal is then all
/// of it: it counts for nothing.
fn study(
    flags: &Flags,
    session: &Session,
    task: &dyn Task,
    case: &Case,
    samples: u64,
    csv: &mut String,
) -> Result<Found> {
    say!("Processing {} {} with {}", task.name(), task.steps(), case.name);
    let study = Jacobian::new(session, &case.net.model(1), task.steps())?;
    let (mut kept, mut shares, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let drives = std::iter::once((1.0, samples)).chain(DRIVES.map(|drive| (drive, DRIVEN.min(samples))));
    for (drive, samples) in drives {
        let model = Stack { ff_scale: case.net.ff_scale * drive, ..case.net.clone() }.model(1);
        for k in 0..samples {
            let found = study.run_as(&model, flags.seed, &sample(task, flags.seed, k, 1)?)?;
            let rate = f64::from(found.rate) * 1000.0 / case.net.dt;
            let counted = found.rate > 0.0;
            let head = format!("{},{},{},{drive},{k}", task.name(), task.steps(), case.name);
            for (t, (c, spiking)) in found.steps.iter().zip(&found.spiking).enumerate() {
                let _ = writeln!(csv, "{head},{t},{c},{},{rate},{spiking},{}", found.whole, u8::from(counted));
                shares.push((f64::from(*spiking), f64::from(*c)));
            }
            if drive == 1.0 {
                let single = mean(found.steps.iter().map(|c| f64::from(*c)));
                let remark = if counted { "" } else { ", left out" };
                say!(
                    "Cosine Similarity = {single:.6}, Cosine all = {:.6}, firing rate = {rate:.3} Hz{remark}",
                    found.whole
                );
                rates.push(rate);
                kept.extend(counted.then_some(found));
            }
        }
    }
    let at = |t: usize| mean(kept.iter().map(|found: &Similarity| f64::from(found.steps[t])));
    Ok(Found {
        name: case.name.clone(),
        steps: if kept.is_empty() { vec![] } else { (0..task.steps()).map(at).collect() },
        whole: kept.iter().map(|found| f64::from(found.whole)).collect(),
        rate: mean(rates),
        silent: samples - kept.len() as u64,
        shares,
    })
}

/// Cosines of single steps by the share of neurons that spike in them: a plot, and a table of the mean and the least of each.
fn by_share(all: &[Found], dir: &std::path::Path) -> Result<Table> {
    let (least, up_to) = PAPER;
    let columns = [("spiking neurons", Align::Left)].into_iter();
    let columns = columns.chain(all.iter().map(|found| (found.name.as_str(), Align::Right)));
    let mut table = Table::new(columns.chain([("paper, at least", Align::Right)]));
    let mut chart = LineChart::new(
        "Cosine of a step by the share of spiking neurons",
        Axis::new("share of neurons that spike in the step").range(0.0, 1.0),
        Axis::new("cosine similarity").to(1.0),
    )
    .subtitle(format!("mean of the steps in each range; inputs up to {} times as strong", DRIVES[DRIVES.len() - 1]))
    .level(least, format!("paper: at least {least} up to {up_to}"));
    let ranges = || std::iter::once((f64::NEG_INFINITY, 0.0)).chain([0.0].into_iter().chain(SHARES).zip(SHARES));
    let inside = |found: &Found, (low, high): (f64, f64)| -> Vec<(f64, f64)> {
        found.shares.iter().copied().filter(|(share, _)| *share > low && *share <= high).collect()
    };
    for range in ranges() {
        let name = if range.1 == 0.0 { "none".into() } else { format!("{} to {}", range.0, range.1) };
        let cell = |found: &Found| {
            let steps = inside(found, range);
            let lowest = steps.iter().map(|(_, c)| *c).fold(f64::INFINITY, f64::min);
            let mean = mean(steps.iter().map(|(_, c)| *c));
            if steps.is_empty() { "-".into() } else { format!("{mean:.3} (least {lowest:.3})") }
        };
        let paper = if range.1 <= up_to { least.to_string() } else { "-".into() };
        table.row(std::iter::once(name).chain(all.iter().map(cell)).chain([paper]));
    }
    for found in all {
        let some = ranges().map(|range| inside(found, range)).filter(|steps| !steps.is_empty());
        let points = some.map(|steps| (mean(steps.iter().map(|s| s.0)), mean(steps.iter().map(|s| s.1))));
        chart = chart.series(Series::new(found.name.clone(), points.collect::<Vec<_>>()).markers(true));
    }
    chart.save(dir.join("spiking"))?;
    Ok(table)
}
