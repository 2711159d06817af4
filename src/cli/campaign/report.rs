//! What came of a campaign: a table, CSV files, curves with bands.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{super::compare::curves, plan::Plan};
use crate::{
    experiment::Experiment,
    plot::Figure,
    report::{Align, Table},
    train::{
        checkpoint::{self, Name, write_atomic},
        efficiency::{EFFICIENCY, Efficiency},
        history::History,
        run::RunDir,
        score::Measure,
    },
};

/// Whether a run has nothing left to do.
pub fn is_complete(dir: &Path) -> bool {
    let settings = |experiment: Experiment| experiment.settings;
    match (RunDir::config(dir).map(settings), checkpoint::progress(dir, Name::Last)) {
        (Ok(settings), Ok(progress)) => settings.complete(&progress),
        _ => false,
    }
}

/// A finished run in a line.
pub fn line(dir: &Path, took: Duration) -> String {
    let score = History::read(dir).ok().and_then(|history| Some(history.measure.score(history.score()?)));
    let score = score.map_or("no result".into(), |score| score.to_string());
    format!("{}: {score}, {:.1} s", dir.display(), took.as_secs_f64())
}

/// A run with its history.
struct Done {
    variant: usize,
    seed: u64,
    dir: PathBuf,
    complete: bool,
    history: History,
    /// What its network costs, where it was evaluated.
    efficiency: Option<Efficiency>,
}

/// All runs that have begun.
pub struct Report<'a> {
    plan: &'a Plan,
    runs: Vec<Done>,
}

/// The results of a variant.
struct Row {
    name: String,
    runs: usize,
    scores: Vec<f64>,
    measure: Measure,
    seconds: Option<f64>,
    /// Means of [`COSTS`], of the runs that were evaluated.
    costs: Vec<Option<f64>>,
}

impl Row {
    fn mean(&self) -> Option<f64> {
        (!self.scores.is_empty()).then(|| self.scores.iter().sum::<f64>() / self.scores.len() as f64)
    }

    /// Standard deviation over the seeds; of one there is none.
    fn spread(&self) -> Option<f64> {
        let (mean, n) = (self.mean()?, self.scores.len());
        let squares: f64 = self.scores.iter().map(|score| (score - mean).powi(2)).sum();
        (n > 1).then(|| (squares / (n - 1) as f64).sqrt())
    }

    fn best(&self) -> Option<f64> {
        self.scores.iter().copied().reduce(|a, b| self.measure.best(a, b))
    }

    fn worst(&self) -> Option<f64> {
        self.scores.iter().copied().reduce(|a, b| if self.measure.better(a, b) { b } else { a })
    }

    /// Numbers as texts, in the order of [`Report::columns`] after the name.
    fn cells(&self) -> Vec<String> {
        let text = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4}"));
        let cost =
            |x: &Option<f64>| x.map_or("-".into(), |x| if x < 1.0 { format!("{x:.4}") } else { format!("{x:.0}") });
        let results = [
            self.runs.to_string(),
            text(self.mean()),
            text(self.spread()),
            text(self.best()),
            text(self.worst()),
            text(self.seconds),
        ];
        results.into_iter().chain(self.costs.iter().map(cost)).collect()
    }
}

/// What a network costs, as a column.
type Cost = (&'static str, fn(&Efficiency) -> Option<f64>);

/// The columns of a campaign that evaluates its runs: per step of one sequence.
const COSTS: [Cost; 4] = [
    ("effective MACs", |e| Some(e.effective_macs)),
    ("effective ACs", |e| Some(e.effective_acs)),
    ("activation sparsity", |e| e.activation_sparsity),
    ("parameters, bytes", |e| Some(e.parameter_bytes as f64)),
];

impl<'a> Report<'a> {
    /// Reads what the runs of a plan have recorded.
    ///
    /// # Errors
    /// When the metrics of a run cannot be read.
    pub fn read(plan: &'a Plan) -> Result<Report<'a>> {
        let mut runs = Vec::new();
        for run in plan.runs.iter().filter(|run| RunDir::is_run(&run.dir)) {
            let history = History::read(&run.dir).with_context(|| format!("cannot read {}", run.dir.display()))?;
            let complete = is_complete(&run.dir);
            let efficiency = std::fs::read(run.dir.join(EFFICIENCY)).ok();
            let efficiency = efficiency.and_then(|text| serde_json::from_slice(&text).ok());
            runs.push(Done {
                variant: run.variant,
                seed: run.seed,
                dir: run.dir.clone(),
                complete,
                history,
                efficiency,
            });
        }
        Ok(Report { plan, runs })
    }

    /// How many runs are complete.
    pub fn complete(&self) -> usize {
        self.runs.iter().filter(|run| run.complete).count()
    }

    /// The complete runs of a variant.
    fn of(&self, variant: usize) -> impl Iterator<Item = &Done> {
        self.runs.iter().filter(move |run| run.variant == variant && run.complete)
    }

    /// What the cells of a row say.
    fn columns(&self) -> Vec<String> {
        let mean = format!("mean {}", self.measure());
        let results = ["variant", "complete runs", &mean, "standard deviation", "best", "worst", "seconds per batch"];
        let costs = COSTS.iter().filter(|_| self.plan.evaluate).map(|(name, _)| *name);
        results.into_iter().chain(costs).map(String::from).collect()
    }

    /// What says how good the runs are.
    fn measure(&self) -> String {
        Measure::of_runs(self.runs.iter().map(|run| &run.history)).1
    }

    /// The mean of a cost over the runs of a variant that were evaluated.
    fn cost(&self, variant: usize, (_, of): &Cost) -> Option<f64> {
        let all: Vec<f64> = self.of(variant).filter_map(|run| of(run.efficiency.as_ref()?)).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        self.plan.variants.iter().enumerate().map(|(k, variant)| {
            let mut seconds: Vec<f64> = self.of(k).filter_map(|run| run.history.seconds()).collect();
            seconds.sort_by(f64::total_cmp);
            Row {
                name: variant.name.clone(),
                runs: self.of(k).count(),
                measure: self.of(k).map(|run| run.history.measure).next().unwrap_or_default(),
                scores: self.of(k).filter_map(|run| run.history.score()).collect(),
                seconds: seconds.get(seconds.len() / 2).copied(),
                costs: COSTS.iter().filter(|_| self.plan.evaluate).map(|cost| self.cost(k, cost)).collect(),
            }
        })
    }

    /// Writes `runs.csv`, `summary.csv` and `curves.svg/.png`.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(&self, out: &Path) -> Result<()> {
        let mut runs = format!("variant,seed,complete,updates,{},seconds per batch,folder\n", self.measure());
        for run in &self.runs {
            let number = |x: Option<f64>| x.map(|x| x.to_string()).unwrap_or_default();
            let cells = [
                self.plan.variants[run.variant].name.clone(),
                run.seed.to_string(),
                run.complete.to_string(),
                run.history.updates.last().map_or(0, |u| u.step).to_string(),
                number(run.history.score()),
                number(run.history.seconds()),
                run.dir.display().to_string(),
            ];
            runs.push_str(&csv(&cells));
        }
        let mut summary = csv(&self.columns());
        for row in self.rows() {
            let cells = row.cells();
            summary.push_str(&csv(&std::iter::once(row.name).chain(cells).collect::<Vec<_>>()));
        }
        for (name, text) in [("runs.csv", runs), ("summary.csv", summary)] {
            let path = out.join(name);
            write_atomic(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let begun = |(k, variant): (usize, &super::plan::Variant)| {
            let all: Vec<&History> = self.of(k).map(|run| &run.history).collect();
            (!all.is_empty()).then(|| (variant.name.clone(), all))
        };
        let groups: Vec<(String, Vec<&History>)> = self.plan.variants.iter().enumerate().filter_map(begun).collect();
        if !groups.is_empty() {
            let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            curves(&format!("Campaign {name}"), &groups).save(out.join("curves"))?;
        }
        Ok(())
    }
}

/// A line of comma-separated values; texts with a comma or a quote are quoted.
fn csv(cells: &[String]) -> String {
    let quoted = |cell: &String| {
        if cell.contains([',', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
    };
    cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns();
        let align = |k: usize| if k == 0 { Align::Left } else { Align::Right };
        let mut table = Table::new(columns.iter().enumerate().map(|(k, c)| (c.as_str(), align(k))));
        for row in self.rows() {
            table.row([row.name.clone()].into_iter().chain(row.cells()));
        }
        write!(f, "{table}")
    }
}
