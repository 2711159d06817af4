//! What a sweep found: lines, table, files and plots.

use std::{
    fmt::{Display, Formatter},
    path::Path,
};

use anyhow::Result;

use crate::{
    net::ETraceNet,
    plot::{Axis, Figure, LineChart, Scale, Series, Unit, quantity},
    report::{Align, Table, bytes},
    say,
    train::{
        checkpoint::write_atomic,
        sweep::{Drive, Row},
    },
};

/// The published line for a measured point.
pub(super) fn print_row(row: &Row) {
    let gb = |b: u64| b as f64 / (1u64 << 30) as f64;
    match (&row.error, row.loss, row.accuracy, row.run_seconds) {
        (None, Some(loss), Some(accuracy), Some(seconds)) => say!(
            "{:>10} T = {:4} {:?}: training loss = {loss:.8}, training acc = {accuracy:.6}, time = {seconds:.5} s, \
             memory before = {:.2} GB, memory after = {:.2} GB",
            row.method,
            row.length,
            row.drive,
            gb(row.in_use.0),
            gb(row.in_use.1)
        ),
        (error, ..) => {
            say!("{:>10} T = {:4} {:?}: {}", row.method, row.length, row.drive, error.as_deref().unwrap_or("no result"))
        }
    }
}

/// The points of a sweep, by method.
pub(super) struct Results {
    pub rows: Vec<Row>,
    pub net: ETraceNet,
    /// Sequences per batch.
    pub batch: usize,
}

/// A table.
impl Display for Results {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let columns =
            ["T", "drive", "chunk", "compile", "run", "per step", "of products", "cut off", "compiled mem", "peak mem"];
        let columns = columns.map(|name| (name, Align::Right));
        let mut table = Table::new([("method", Align::Left)].into_iter().chain(columns).chain([("", Align::Left)]));
        for r in &self.rows {
            let seconds = |s: Option<f64>| s.map_or("-".into(), |s| quantity(s, Unit::Seconds, 3));
            let size = |b: Option<u64>| b.map_or("-".into(), bytes);
            table.row([
                r.method.to_string(),
                r.length.to_string(),
                word(r.drive).into(),
                r.chunk.to_string(),
                seconds(r.compile_seconds),
                seconds(r.run_seconds),
                seconds(r.run_seconds.map(|s| s / r.length as f64)),
                r.product_share.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share)),
                r.cut.map_or("-".into(), |cut| format!("{cut:.1e}")),
                size(r.compiled_bytes),
                size(r.peak_bytes),
                r.error.clone().unwrap_or_default(),
            ]);
        }
        writeln!(f, "{table}")
    }
}

fn word(drive: Drive) -> &'static str {
    if drive == Drive::Scan { "scan" } else { "step" }
}

impl Results {
    /// Writes figures and plots to a folder.
    pub fn write(&self, out: &Path) -> Result<()> {
        self.write_rows(out)?;
        // Step by step is slower by orders of magnitude.
        let both = self.rows.iter().any(|r| r.drive == Drive::Step);
        let time = Axis::new("time").unit(Unit::Seconds);
        let time = if both { time.scale(Scale::Log10) } else { time.from(0.0) };
        self.chart("Time of one training step", time, |r| r.run_seconds).save(out.join("time"))?;
        let memory = Axis::new("memory of the compiled program").unit(Unit::Bytes).from(0.0);
        let mut chart = self.chart("Memory of one training step", memory, |r| r.compiled_bytes.map(|b| b as f64));
        if self.rows.iter().any(|r| r.drive == Drive::Scan) {
            let longest = self.rows.iter().map(|r| r.length).max().unwrap_or_default();
            let input = [0, longest].map(|t| (t as f64, (t * self.net.n_in * self.batch) as f64));
            chart = chart.series(Series::new("the input data alone", input).markers(false));
        }
        chart.save(out.join("memory"))?;
        say!("written to {}: memspeed.csv, memspeed.json, time.svg/.png, memory.svg/.png", out.display());
        Ok(())
    }

    /// Writes the figures alone.
    pub fn write_rows(&self, out: &Path) -> Result<()> {
        std::fs::create_dir_all(out)?;
        write_atomic(&out.join("memspeed.csv"), self.csv().as_bytes())?;
        write_atomic(&out.join("memspeed.json"), serde_json::to_string_pretty(&self.rows)?.as_bytes())?;
        Ok(())
    }

    fn csv(&self) -> String {
        let mut csv = String::from(
            "method,length,drive,chunk,compile_seconds,run_seconds,compiled_bytes,peak_bytes,loss,accuracy,error,flops,\
             product_share,form,cut\n",
        );
        fn cell<T: Display>(value: Option<T>) -> String {
            value.map(|v| v.to_string()).unwrap_or_default()
        }
        for r in &self.rows {
            csv += &format!(
                "{},{},{},{},{},{},{},{},{},{},\"{}\",{},{},\"{}\",{}\n",
                r.method,
                r.length,
                word(r.drive),
                r.chunk,
                cell(r.compile_seconds),
                cell(r.run_seconds),
                cell(r.compiled_bytes),
                cell(r.peak_bytes),
                cell(r.loss),
                cell(r.accuracy),
                cell(r.error.as_ref()).replace('"', "\"\""),
                cell(r.flops),
                cell(r.product_share),
                cell(r.form.as_ref()),
                cell(r.cut)
            );
        }
        csv
    }

    /// A value against the length of the sequence, one line for each method and drive.
    fn chart(&self, title: &str, y: Axis, value: impl Fn(&Row) -> Option<f64>) -> LineChart {
        let (net, batch) = (&self.net, self.batch);
        let subtitle = format!("{} inputs, {} x {} LIF neurons, batch {batch}", net.n_in, net.tau_mem.len(), net.n_rec);
        let x = Axis::new("sequence length (steps)").from(0.0);
        let mut chart = LineChart::new(title, x, y).subtitle(subtitle);
        let mut names: Vec<(&str, Drive)> = Vec::new();
        for r in &self.rows {
            if !names.contains(&(&r.method, r.drive)) {
                names.push((&r.method, r.drive));
            }
        }
        for (method, drive) in names {
            let of = || self.rows.iter().filter(|r| r.method == method && r.drive == drive);
            let points: Vec<(f64, f64)> = of().filter_map(|r| Some((r.length as f64, value(r)?))).collect();
            let name = if drive == Drive::Scan { method.to_owned() } else { format!("{method}, step by step") };
            let mut series = Series::new(name, points);
            for r in of().filter(|r| r.error.is_some()) {
                series = series.missing(r.length as f64, "out of memory or failed");
            }
            chart = chart.series(series);
        }
        chart
    }
}
