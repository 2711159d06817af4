//! The figures of the reference library beside ours: what `benches/reference/memspeed.py --json` writes.

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Result, bail};
use serde::Deserialize;

use super::{super::usage, results::Results};
use crate::{
    plot::{Unit, quantity},
    report::{Align, Table},
    train::sweep::{Drive, Row},
};

/// A report of the script; of what else is in it nothing is needed.
#[derive(Debug, Deserialize)]
pub(super) struct Reference {
    cpu: Option<String>,
    cores: Option<u64>,
    versions: BTreeMap<String, String>,
    preset: Sizes,
    rows: Vec<Timed>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Sizes {
    n_in: usize,
    n_rec: usize,
    n_layer: usize,
    batch: usize,
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} inputs, {} x {} neurons, batch {}", self.n_in, self.n_layer, self.n_rec, self.batch)
    }
}

#[derive(Debug, Deserialize)]
struct Timed {
    method: String,
    steps: usize,
    median_s: f64,
}

impl Reference {
    /// Reads a report, which must be of a network of these sizes.
    ///
    /// # Errors
    /// When it is no report, or of another network: the user's mistake.
    pub fn read(path: &Path, n_in: usize, n_rec: usize, n_layer: usize, batch: usize) -> Result<Reference> {
        let shown = path.display();
        let rule = format!("--compare takes what benches/reference/memspeed.py --json wrote, got {shown}");
        let text = std::fs::read_to_string(path)
            .map_err(|e| usage(format!("{rule}, which cannot be read ({e}); name that file")))?;
        let found: Reference = serde_json::from_str(&text)
            .map_err(|e| usage(format!("{rule}, which is none ({e}); run the script again")))?;
        let ours = Sizes { n_in, n_rec, n_layer, batch };
        if found.preset != ours {
            bail!(usage(format!(
                "figures are compared for one network, got {} in {shown} for {ours} here; leave out the flags that change sizes",
                found.preset
            )));
        }
        if let Some(row) = found.rows.iter().find(|row| !(row.median_s.is_finite() && row.median_s > 0.0)) {
            bail!(usage(format!(
                "{rule}, where {} took {} s at T = {}; run the script again",
                row.method, row.median_s, row.steps
            )));
        }
        Ok(found)
    }

    fn of(&self, row: &Row) -> Option<&Timed> {
        self.rows.iter().find(|r| row.drive == Drive::Scan && r.method == row.method && r.steps == row.length)
    }

    /// Both, for every point that both have measured.
    pub fn beside(&self, results: &Results) -> Result<String> {
        let columns = ["T", "reference", "etrace", "etrace / reference"].map(|c| (c, Align::Right));
        let mut table = Table::new([("method", Align::Left)].into_iter().chain(columns));
        let both = |row| Some((row, self.of(row)?, row.run_seconds?));
        let both: Vec<(&Row, &Timed, f64)> = results.rows.iter().filter_map(both).collect();
        for (row, theirs, ours) in &both {
            let ratio = ours / theirs.median_s;
            table.row([
                row.method.clone(),
                row.length.to_string(),
                quantity(theirs.median_s, Unit::Seconds, 3),
                quantity(*ours, Unit::Seconds, 3),
                if ratio < 0.02 { format!("1/{:.0}", 1.0 / ratio) } else { format!("{ratio:.2}") },
            ]);
        }
        if both.is_empty() {
            let theirs: Vec<String> = self.rows.iter().map(|r| format!("{} at T = {}", r.method, r.steps)).collect();
            return Ok(format!("no point of this sweep is in the reference, which has {}", theirs.join(", ")));
        }
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let machine = self.cpu.as_deref().unwrap_or("an unknown processor");
        let cores = self.cores.map_or(String::new(), |n| format!(", {n} cores"));
        Ok(format!("Beside the reference ({}; {machine}{cores}), medians of a step\n{table}", versions.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    const REPORT: &str = r#"{"cpu": "X", "cores": 2, "device": "cpu", "versions": {"jax": "0.1", "braintrace": "0.2"},
        "preset": {"n_in": 8, "n_rec": 4, "n_layer": 1, "n_out": 2, "batch": 2, "p_in": 0.1},
        "rows": [{"method": "bptt", "steps": 50, "repeats": 3, "median_s": 0.5, "min_s": 0.1}, {"method": "d-rtrl", "steps": 50, "median_s": 4}]}"#;

    fn row(method: &str, length: usize, seconds: f64) -> Row {
        Row { run_seconds: Some(seconds), ..Row::new(method.into(), length, Drive::Scan, 1) }
    }

    #[test]
    fn what_both_measured_stands_side_by_side() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("etrace-reference-{}", std::process::id()));
        std::fs::create_dir_all(&folder).context("a folder")?;
        let file = folder.join("reference.json");
        std::fs::write(&file, REPORT)?;
        let read = Reference::read(&file, 8, 4, 1, 2)?;
        let rows = vec![row("bptt", 50, 0.2), row("d-rtrl", 50, 0.02), row("bptt", 100, 1.0)];
        let net = crate::net::ETraceNet::default();
        let text = read.beside(&Results { rows, net: net.clone(), batch: 2 })?;
        for part in ["braintrace 0.2, jax 0.1; X, 2 cores", "0.40", "1/200"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(read.beside(&Results { rows: vec![row("bptt", 7, 1.0)], net, batch: 2 })?.contains("bptt at T = 50"));
        let other = Reference::read(&file, 8, 4, 1, 3).expect_err("another batch").to_string();
        assert!(other.contains("batch 2 in") && other.contains("batch 3 here"), "{other}");
        for (text, why) in [("{", "which is none"), (&REPORT.replace("0.5", "0"), "took 0 s at T = 50")] {
            std::fs::write(&file, text)?;
            let error = Reference::read(&file, 8, 4, 1, 2).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
        std::fs::remove_dir_all(&folder)?;
        assert!(Reference::read(&file, 8, 4, 1, 2).is_err(), "a file that is not there");
        Ok(())
    }
}
