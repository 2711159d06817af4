//! `etrace compare`: the curves of several runs in one plot, and what distinguishes them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use toml::Value;

use super::{Global, OrUsage, common};
use crate::{
    plot::{Axis, Figure, Panel, Panels, Scale, Series, Unit},
    report::{Align, Table},
    say,
    settings::leaves,
    train::{
        history::{History, WINDOW, loss_name, loss_scale, score_axis, score_scale, trend_name},
        run::RunDir,
        score::Measure,
    },
};

/// Compares runs: a table of how they ended and of the settings in which they differ, and their curves in one plot.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// Folders of runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where the curves go, without the ending [default: compare in the current folder]
    #[arg(long, value_name = "STEM", default_value = "compare")]
    out: PathBuf,
}

/// Settings that are shown at most; runs that differ in more are hardly comparable.
const MOST_COLUMNS: usize = 6;

/// Runs the command.
///
/// # Errors
/// When a folder is no run, or the plot cannot be written.
pub fn run(args: &Args, _: &Global) -> Result<()> {
    let mut runs = Vec::new();
    for dir in &args.runs {
        common::existing_file(
            &dir.join("config.toml"),
            "compare takes folders of runs",
            "name one that a training command wrote",
        )?;
        let settings: Value = RunDir::config(dir).or_usage()?;
        let history = History::read(dir).with_context(|| format!("cannot read {}", dir.display())).or_usage()?;
        runs.push((name(dir, &args.runs), settings, history));
    }
    let (_, score) = Measure::of_runs(runs.iter().map(|(.., history)| history));
    let differing = differing(&runs.iter().map(|(_, settings, _)| settings).collect::<Vec<_>>());
    let shown: Vec<&String> = differing.keys().take(MOST_COLUMNS).collect();
    let columns = [("run", Align::Left)].into_iter().chain(shown.iter().map(|key| (key.as_str(), Align::Left)));
    let numbers = ["updates", score.as_str(), "seconds per batch"].map(|c| (c, Align::Right));
    let mut table = Table::new(columns.chain(numbers));
    for (k, (name, _, history)) in runs.iter().enumerate() {
        let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4}"));
        let settings = shown.iter().map(|key| differing[*key][k].clone());
        let ended = [history.updates.len().to_string(), number(history.score()), number(history.seconds())];
        table.row([name.clone()].into_iter().chain(settings).chain(ended));
    }
    say!("{table}");
    if differing.len() > shown.len() {
        let others: Vec<&str> = differing.keys().skip(MOST_COLUMNS).map(String::as_str).collect();
        say!("they differ in {} more settings: {}", others.len(), others.join(", "));
    }
    say!("{score}: of the last evaluation, else the mean of the last {WINDOW} batches");
    let groups: Vec<(String, Vec<&History>)> =
        runs.iter().map(|(name, _, history)| (name.clone(), vec![history])).collect();
    let [svg, png] = curves("Comparison of runs", &groups).save(&args.out)?;
    say!("written to {} and {}", svg.display(), png.display());
    Ok(())
}

/// The last parts of a path that no other run has.
fn name(dir: &Path, all: &[PathBuf]) -> String {
    let tail = |path: &Path, parts: usize| -> PathBuf {
        let known: Vec<_> = path.components().collect();
        known[known.len().saturating_sub(parts)..].iter().collect()
    };
    let alone = |parts: &usize| all.iter().filter(|other| tail(other, *parts) == tail(dir, *parts)).count() < 2;
    let parts = (1..dir.components().count()).find(alone).unwrap_or(usize::MAX);
    tail(dir, parts).display().to_string()
}

/// Settings in which configurations differ, by their paths: the value in each, `-` where there is none.
fn differing(all: &[&Value]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (k, settings) in all.iter().enumerate() {
        for (path, value) in leaves(settings) {
            let text = value.as_str().map_or_else(|| value.to_string(), String::from);
            found.entry(path).or_insert_with(|| vec!["-".into(); all.len()])[k] = text;
        }
    }
    found.retain(|_, values| values.iter().any(|value| *value != values[0]));
    found
}

/// Score and loss over batches of groups of runs: the mean of a group, and a band of one standard deviation where it has several. A run that
/// has ended keeps its last value.
pub fn curves(title: &str, groups: &[(String, Vec<&History>)]) -> Panels {
    let runs = || groups.iter().flat_map(|(_, runs)| runs.iter().copied());
    let tested = runs().all(|run| !run.evaluations.is_empty());
    // A run of fewer batches than a window is to have a curve, too.
    let window = runs().map(|run| run.updates.len()).min().unwrap_or(1).clamp(1, WINDOW);
    let panel = |axis: Axis, scale: Scale, curve: &dyn Fn(&History) -> Vec<(u64, f64)>| {
        let of = |(name, runs): &(String, Vec<&History>)| {
            series(name, &runs.iter().map(|run| curve(run)).collect::<Vec<_>>(), scale)
        };
        Panel::traces(axis.scale(scale), groups.iter().map(of)).height(220)
    };
    let mut panels = Panels::new(title, Axis::new("batch").unit(Unit::Count));
    let mut scales = Vec::new();
    for measure in Measure::of_runs(runs()).0 {
        let only = |run: &History, curve: &dyn Fn() -> Vec<(u64, f64)>| {
            if run.measure == measure { curve() } else { Vec::new() }
        };
        let scale = score_scale(measure);
        let of = if tested { " of evaluations".into() } else { format!(", {}", trend_name(scale, window)) };
        let score = |run: &History| -> Vec<(u64, f64)> {
            if tested {
                return run.evaluations.iter().map(|e| (e.step, e.score)).collect();
            }
            run.trend(scale, window, |u| u.score)
        };
        let axis = score_axis(measure, &format!("{}{of}", measure.name()));
        panels = panels.panel(panel(axis, scale, &|run| only(run, &|| score(run))));
        let means = runs().filter(|run| run.measure == measure);
        let losses = means.flat_map(|run| run.trend(Scale::Linear, window, |u| u.loss));
        let of_loss = loss_scale(losses.map(|(_, loss)| loss));
        let axis = Axis::new(format!("{}, {}", loss_name(measure), trend_name(of_loss, window)));
        panels = panels.panel(panel(axis, of_loss, &|run| only(run, &|| run.trend(of_loss, window, |u| u.loss))));
        scales.extend([scale, of_loss]);
    }
    let several = groups.iter().any(|(_, runs)| runs.len() > 1);
    panels.subtitle(match (several, scales.contains(&Scale::Log10)) {
        (false, _) => "",
        (true, false) => "mean of the seeds; bands are one standard deviation",
        (true, true) => {
            "mean of the seeds; bands are one standard deviation; of the logarithms where the axis is logarithmic"
        }
    })
}

/// The mean of `curves` and a band of one standard deviation: on a logarithmic scale those of the logarithms, whose band has a lower edge.
fn series(name: &str, curves: &[Vec<(u64, f64)>], scale: Scale) -> Series {
    let linear = scale == Scale::Linear;
    let to = |v: f64| if linear { v } else { v.ln() };
    let from = |v: f64| if linear { v } else { v.exp() };
    let mut steps: Vec<u64> = curves.iter().flatten().map(|(step, _)| *step).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut at = vec![0; curves.len()];
    let (mut means, mut band) = (Vec::new(), Vec::new());
    for step in steps {
        let mut values = Vec::new();
        for (curve, at) in curves.iter().zip(&mut at) {
            while curve.get(*at + 1).is_some_and(|(next, _)| *next <= step) {
                *at += 1;
            }
            values.extend(curve.get(*at).filter(|(first, _)| *first <= step).map(|(_, value)| to(*value)));
        }
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        means.push((step as f64, from(mean)));
        if values.len() > 1 {
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
            band.push((step as f64, from(mean - deviation), from(mean + deviation)));
        }
    }
    Series::new(name, means).band(band).markers(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_by_what_distinguishes_them() {
        let all: Vec<PathBuf> = ["a/x/seed-0", "a/y/seed-0", "b/z"].map(PathBuf::from).into();
        let names: Vec<String> = all.iter().map(|dir| name(dir, &all)).collect();
        assert_eq!(names, ["x/seed-0", "y/seed-0", "z"]);
    }

    #[test]
    fn settings_that_differ_are_found_wherever_they_are() {
        let parse = |text: &str| Value::Table(text.parse().expect("TOML"));
        let (a, b) = (parse("x = 1\n[net]\nkind = 'a'\nn = 3"), parse("x = 1\n[net]\nkind = 'b'\nm = 3"));
        let found = differing(&[&a, &b]);
        let text: Vec<String> = found.iter().map(|(k, v)| format!("{k}: {}", v.join(" "))).collect();
        assert_eq!(text, ["net.kind: a b", "net.m: - 3", "net.n: 3 -"]);
    }

    #[test]
    fn a_band_is_around_the_mean_of_those_that_have_begun() {
        let svg = |curves: &[Vec<(u64, f64)>]| {
            let panel = Panel::traces(Axis::new("y"), [series("s", curves, Scale::Linear)]);
            Panels::new("t", Axis::new("x")).panel(panel).svg()
        };
        // The second ends early and keeps its value.
        let long = svg(&[vec![(1, 0.0), (2, 1.0), (3, 1.0)], vec![(1, 2.0), (2, 1.0), (3, 1.0)]]);
        let short = svg(&[vec![(1, 0.0), (2, 1.0), (3, 1.0)], vec![(1, 2.0), (2, 1.0)]]);
        assert_eq!(long, short);
    }

    #[test]
    fn the_mean_on_a_logarithmic_axis_is_in_the_middle_of_it() {
        let both = |scale| {
            let panel = Panel::traces(Axis::new("y"), [series("s", &[vec![(1, 0.01)], vec![(1, 1.0)]], scale)]);
            Panels::new("t", Axis::new("x")).panel(panel).svg()
        };
        let one = |value: f64, (low, high): (f64, f64)| {
            let series = Series::new("s", [(1.0, value)]).band([(1.0, low, high)]).markers(false);
            Panels::new("t", Axis::new("x")).panel(Panel::traces(Axis::new("y"), [series])).svg()
        };
        let (deviation, mean) = (100f64.ln() / 2f64.sqrt(), 0.1f64.ln());
        assert_eq!(both(Scale::Log10), one(0.1, ((mean - deviation).exp(), (mean + deviation).exp())));
        assert_ne!(both(Scale::Log10), both(Scale::Linear));
    }
}
