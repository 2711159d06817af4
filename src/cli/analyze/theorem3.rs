//! `etrace analyze theorem3`: a sum of outer products against the outer product of sums.

use std::fmt::Write as _;

use anyhow::Result;
use tasks::Task;

use super::{Flags, folder, mean, sample};
use crate::{
    analysis::history::History,
    cli::Global,
    plot::{Axis, Figure, LineChart, Series},
    report::{Align, Table},
    say,
    train::checkpoint::write_atomic,
};

/// Sequences that are run together.
const BATCH: usize = 2;

/// Cosines by state, sample and step.
fn cosines(study: &History<'_>, task: &dyn Task, seed: u64, samples: u64) -> Result<Vec<Vec<Vec<f64>>>> {
    let mut found: Vec<Vec<Vec<f64>>> = vec![Vec::new(); study.states.len()];
    for k in 0..samples.div_ceil(BATCH as u64) {
        let out = study.run(seed, &sample(task, seed, k, BATCH)?)?;
        for (state, values) in out.iter().enumerate() {
            for b in 0..BATCH {
                found[state].push(values.iter().skip(b).step_by(BATCH).map(|c| f64::from(*c)).collect());
            }
        }
    }
    Ok(found)
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
    let dir = folder(flags.out.as_ref(), "theorem3")?;
    let mut csv = String::from("dataset,steps,model,state,sample,step,cosine\n");
    let mut table = Table::new([
        ("model", Align::Left),
        ("state", Align::Left),
        ("mean cosine", Align::Right),
        ("at the end", Align::Right),
    ]);
    for case in cases {
        say!("Processing {} {} with {}", task.name(), task.steps(), case.name);
        let study = History::new(&session, &case.net.model(BATCH), task.steps())?;
        let found = cosines(&study, task.as_ref(), flags.seed, samples)?;
        let mut chart = LineChart::new(
            format!("Sum of outer products against outer product of sums: {}", case.name),
            Axis::new("step"),
            Axis::new("cosine similarity").range(0.0, 1.05),
        )
        .subtitle(format!(
            "{}, mean of {} samples and its 95 % interval",
            task.name(),
            found.first().map_or(0, Vec::len)
        ));
        for (state, rows) in study.states.iter().zip(&found) {
            for (k, row) in rows.iter().enumerate() {
                for (t, c) in row.iter().enumerate() {
                    let _ = writeln!(csv, "{},{},{},{state},{k},{t},{c}", task.name(), task.steps(), case.name);
                }
            }
            let at = |t: usize| rows.iter().map(move |row| row[t]);
            let curve: Vec<(f64, f64, f64)> = (0..task.steps()).map(|t| interval(t as f64, at(t))).collect();
            let means: Vec<f64> = (0..task.steps()).map(|t| mean(at(t))).collect();
            let last = means.last().copied().unwrap_or_default();
            table.row([
                case.name.clone(),
                state.clone(),
                format!("{:.4}", mean(means.iter().copied())),
                format!("{last:.4}"),
            ]);
            // As published: states that never drive anything are left out of the picture.
            if means[means.len() / 2..].iter().sum::<f64>() != 0.0 {
                let points = means.iter().enumerate().map(|(t, c)| (t as f64, *c));
                chart = chart.series(Series::new(state.clone(), points).markers(false).band(curve));
            }
        }
        chart.save(dir.join(case.name.replace(' ', "-")))?;
    }
    write_atomic(&dir.join("cosine.csv"), csv.as_bytes())?;
    say!("\n{table}\n\nwritten to {}: cosine.csv and a plot per model (SVG, PNG)", dir.display());
    Ok(())
}

/// The 95 % interval of a mean (Student's t).
fn interval(x: f64, values: impl Iterator<Item = f64> + Clone) -> (f64, f64, f64) {
    /// 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
    const T: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    let n = values.clone().count();
    let m = mean(values.clone());
    if n < 2 {
        return (x, m, m);
    }
    let variance = values.map(|v| (v - m).powi(2)).sum::<f64>() / (n - 1) as f64;
    let half = T.get(n - 2).copied().unwrap_or(1.96) * (variance / n as f64).sqrt();
    (x, m - half, m + half)
}
