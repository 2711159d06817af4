//! `etrace analyze weight-gradient-cosine`: online weight gradients against those of BPTT.

use std::{fmt::Write as _, path::Path, sync::Arc};

use anyhow::{Result, bail};
use tasks::{Targets, Task};

use super::{Case, folder, mean, sample};
use crate::{
    analysis::{alive::Rates, gradient::Gradients},
    cell::{Mode, Model},
    cli::{Global, OrUsage, train_any, usage},
    learn::Method,
    plot::{Axis, BarChart, Figure},
    report::{Align, Table},
    say,
    settings::Change,
    train::{checkpoint::write_atomic, session::Session},
};

/// The rules that are compared with BPTT, by the names that tables, plots and files give them.
fn methods(ranks: &[u32]) -> Vec<(String, Method)> {
    let ranked = ranks.iter().map(|&r| {
        let decay = (f64::from(r) - 1.0) / (f64::from(r) + 1.0);
        (format!("es-d-rtrl rank {r}"), Method::es_d_rtrl(decay))
    });
    std::iter::once(("d-rtrl".to_string(), Method::D_RTRL)).chain(ranked).collect()
}

/// Flags of the study.
#[derive(Clone, Debug, clap::Args)]
#[command(rename_all = "snake_case")]
pub(super) struct Flags {
    /// A preset, a configuration file or the folder of a run in place of --models: its network, task and batch size, and its loss from the step
    /// where it starts. Weights of groups of inputs that the task names are told apart
    #[arg(long, value_name = "CONFIG", conflicts_with_all = EXCLUDED)]
    experiment: Option<String>,
    /// One setting of the experiment, as in task.t_delay=200; may be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "experiment")]
    set: Vec<Change>,
    #[command(flatten)]
    study: super::Flags,
}

/// Flags that an experiment says itself.
const EXCLUDED: [&str; 13] = [
    "models",
    "size",
    "dataset",
    "data",
    "steps",
    "n_rec",
    "n_in",
    "rate",
    "n_layer",
    "scales",
    "rec_scale",
    "ff_scale",
    "frac_sim",
];

/// A network with what it is shown.
struct Subject {
    name: String,
    model: Model,
    task: Arc<dyn Task>,
    warmup: usize,
    /// Spikes per second of its layers, on average.
    rate: f64,
}

impl Flags {
    fn subjects(&self, session: &Session, samples: u64) -> Result<Vec<Subject>> {
        if let Some(name) = &self.experiment {
            return Ok(vec![self.of_experiment(session, name)?]);
        }
        let task = self.study.task(300)?;
        let warmup = (task.steps() as f64 * self.study.frac_sim) as usize;
        let cases = self.study.cases(session, task.as_ref(), samples, 200)?.into_iter();
        let subject = |case: Case| {
            let Case { name, net, rate } = case;
            Subject { name, model: net.model(1), task: task.clone(), warmup, rate }
        };
        Ok(cases.map(subject).collect())
    }

    fn of_experiment(&self, session: &Session, name: &str) -> Result<Subject> {
        let all = train_any::changed(name, &self.set)?;
        all.check().or_usage()?;
        let task = all.task.open().or_usage()?;
        all.fits(task.as_ref()).or_usage()?;
        if all.task.targets() != Targets::Class {
            bail!(usage(format!(
                "gradients are compared for tasks with one class for each sequence, but each step of {} has a target; choose another task \
                 (--set task=...)",
                task.name()
            )));
        }
        let model = all.net.trace(all.settings.batch, Mode::Online);
        let batch = sample(task.as_ref(), self.study.seed, 0, model.batch())?;
        let rates = Rates::new(session, &model, task.steps(), all.net.dt())?.run(&model, self.study.seed, &batch)?;
        let name = Path::new(name).file_stem().map_or(name.into(), |stem| stem.to_string_lossy().into_owned());
        Ok(Subject { name, model, task, warmup: all.learner.warmup, rate: mean(rates) })
    }
}

/// What is printed and stored of all networks.
struct Results {
    csv: String,
    table: Table,
}

/// Runs the study.
///
/// # Errors
/// As [`super::run`].
pub(super) fn run(flags: &Flags, global: &Global) -> Result<()> {
    let samples = flags.study.samples(100)?;
    if flags.study.ranks.contains(&0) {
        bail!(usage("--ranks are whole numbers from 1, got 0".into()));
    }
    let session = global.session()?;
    let subjects = flags.subjects(&session, samples)?;
    let dir = folder(flags.study.out.as_ref(), "weight-gradient-cosine")?;
    let methods = methods(&flags.study.ranks);
    let columns = [("model", Align::Left), ("map", Align::Left)].into_iter();
    let columns = columns.chain(methods.iter().map(|(name, _)| (name.as_str(), Align::Right)));
    let last = ["norm of bptt", "firing rate", "no gradient, left out"].map(|name| (name, Align::Right));
    let csv = String::from("dataset,steps,model,method,map,sample,cosine,norm,norm_bptt\n");
    let mut results = Results { csv, table: Table::new(columns.chain(last)) };
    for subject in &subjects {
        study(&session, subject, &methods, (flags.study.seed, samples), &dir, &mut results)?;
    }
    write_atomic(&dir.join("cosine.csv"), results.csv.as_bytes())?;
    say!("\n{}\n\nwritten to {}: cosine.csv and a plot per model (SVG, PNG)", results.table, dir.display());
    Ok(())
}

/// One network: rows of the file and the table, and a plot. A sample for which BPTT has no gradient, or one that is not finite, counts for
/// nothing.
fn study(
    session: &Session,
    subject: &Subject,
    methods: &[(String, Method)],
    (seed, samples): (u64, u64),
    dir: &Path,
    results: &mut Results,
) -> Result<()> {
    let Subject { name: model, task, .. } = subject;
    say!("Processing {} {} with {model}", task.name(), task.steps());
    let only: Vec<Method> = methods.iter().map(|(_, m)| *m).collect();
    let groups = task.input_groups();
    let study = Gradients::new(session, &subject.model, task.steps(), subject.warmup, &only, &groups)?;
    // By method and map, of the samples that have a gradient; norms of BPTT by map.
    let mut found = vec![vec![Vec::new(); study.maps.len()]; methods.len()];
    let mut exact = vec![Vec::new(); study.maps.len()];
    for k in 0..samples {
        let batch = sample(task.as_ref(), seed, k, subject.model.batch())?;
        for (m, row) in study.run(seed, &batch)?.iter().enumerate() {
            for (map, compared) in row.iter().enumerate() {
                found[m][map].extend(compared.cosine);
                if m == 0 {
                    exact[map].push(compared.exact);
                }
                let (method, map) = (&methods[m].0, &study.maps[map].name);
                let cosine = compared.cosine.map_or(String::new(), |c| c.to_string());
                let numbers = format!("{cosine},{},{}", compared.norm, compared.exact);
                let _ = writeln!(results.csv, "{},{},{model},{method},{map},{k},{numbers}", task.name(), task.steps());
            }
        }
    }
    let left_out: Vec<u64> = found[0].iter().map(|kept| samples - kept.len() as u64).collect();
    let names: Vec<String> = study.maps.iter().map(|map| map.name.clone()).collect();
    let without = names.iter().zip(&left_out).filter(|(_, n)| **n > 0);
    let without: Vec<String> = without.map(|(map, n)| format!("; {map}: {n} without a gradient left out")).collect();
    let mut chart = BarChart::new(
        format!("Online against BPTT gradients: {model}"),
        "map",
        names.clone(),
        Axis::new("cosine similarity").to(1.05),
    )
    .subtitle(format!("{}, mean of {samples} samples, {:.1} Hz{}", task.name(), subject.rate, without.concat()));
    let mean_of = |kept: &Vec<f64>| if kept.is_empty() { f64::NAN } else { mean(kept.iter().copied()) };
    for ((name, _), row) in methods.iter().zip(&found) {
        chart = chart.bars(name.clone(), row.iter().map(mean_of));
    }
    chart.save(dir.join(model.replace(' ', "-")))?;
    for (map, name) in names.iter().enumerate() {
        let cell = |mean: f64| if mean.is_nan() { "-".into() } else { format!("{mean:.4}") };
        let cells = found.iter().map(|row| cell(mean_of(&row[map])));
        let norm = format!("{:.2e}", mean(exact[map].iter().copied()));
        let last = [norm, format!("{:.1} Hz", subject.rate), format!("{} of {samples}", left_out[map])];
        results.table.row([model.clone(), name.clone()].into_iter().chain(cells).chain(last));
    }
    Ok(())
}
