//! `etrace analyze check-approx`: the rank-one approximation for random matrices.

use std::fmt::Write as _;

use anyhow::Result;

use super::{ApproxFlags, Size, folder};
use crate::{
    analysis::rank_one,
    plot::{Axis, Figure, HeatMap},
    say,
    train::checkpoint::write_atomic,
};

/// Runs the study.
///
/// # Errors
/// As [`super::run`].
pub(super) fn run(flags: &ApproxFlags) -> Result<()> {
    let dir = folder(flags.out.as_ref(), "check-approx")?;
    let ((columns, rows), rank) = match flags.size {
        Size::Small => ((24, 24), 2000),
        Size::Published => ((100, 200), 10_000),
    };
    let rank = flags.rank.unwrap_or(rank);
    let along = |k: usize, n: usize, low: f64, high: f64| low + (high - low) * k as f64 / (n - 1) as f64;
    let mut csv = String::from("p,sigma,cosine,theory\n");
    let (mut measured, mut expected) = (Vec::new(), Vec::new());
    for r in 0..rows {
        let sigma = along(r, rows, 0.1, 100.0);
        let row = (0..columns).map(|c| rank_one::point(rank, 10, 10, along(c, columns, 0.0, 0.1), sigma, flags.seed));
        let row: Vec<rank_one::Point> = row.collect();
        for q in &row {
            let theory = q.theory.map_or(String::new(), |t| t.to_string());
            let _ = writeln!(csv, "{},{},{},{theory}", q.p, q.sigma, q.measured);
        }
        measured.push(row.iter().map(|q| q.measured).collect::<Vec<f64>>());
        expected.push(row.iter().map(|q| q.theory.unwrap_or(f64::NAN)).collect::<Vec<f64>>());
    }
    let range = |values: &[Vec<f64>]| {
        let finite = || values.iter().flatten().copied().filter(|v| v.is_finite());
        (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max))
    };
    for (name, title, values) in [
        ("measured", "Rank-one approximation, measured", &measured),
        ("theory", "Rank-one approximation, by theory", &expected),
    ] {
        let (low, high) = range(values);
        say!("{title}: cosine similarity from {low:.6} to {high:.6}");
        let flat = values.iter().flatten().copied();
        // One scale for both, which a cosine below zero widens.
        let lowest = range(&measured).0.min(range(&expected).0).min(0.0);
        HeatMap::new(title, [rows, columns], flat, Axis::new("cosine similarity").range(lowest, 1.0))
            .subtitle(format!("U Bernoulli(p), G normal(1, sigma), rank {rank}"))
            .x(Axis::new("p, probability of a 1"), 0.0, 0.1)
            .y(Axis::new("sigma, standard deviation"), 0.1, 100.0)
            .upward()
            .save(dir.join(name))?;
    }
    write_atomic(&dir.join("cosine.csv"), csv.as_bytes())?;
    say!("written to {}: cosine.csv, measured and theory (SVG, PNG)", dir.display());
    Ok(())
}
