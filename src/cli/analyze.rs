//! `etrace analyze`: how good the approximations of online learning are.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use tasks::{
    Batch, Gesture, GestureSettings, NMnist, NMnistSettings, RandomSpikes, Shd, ShdKind, ShdSettings, Split, Task,
};

use super::{
    Global, OrUsage,
    flags::{below_one, ei_size, fraction, layers, non_negative, size, steps},
    usage,
};
use crate::{
    analysis::{
        gradient::Gradients,
        history::History,
        jacobian::Jacobian,
        rank_one,
        setting::{self, Setting, Source},
    },
    learn::Method,
    net::Stack,
    plot::{Axis, BarChart, Figure, HeatMap, LineChart, Series},
    report::{Align, Table},
    say,
    train::checkpoint::write_atomic,
};

/// Studies of the approximations behind online learning, as published: each writes a CSV file and plots.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    study: Study,
}

#[derive(Clone, Debug, Subcommand)]
enum Study {
    /// The diagonal of the hidden Jacobian against all of it: cosines by step and over the sequence
    HiddenJacobianCosine(Flags),
    /// A sum of outer products against the outer product of sums, along the traces of D-RTRL
    Theorem3(Flags),
    /// Online weight gradients against those of BPTT
    WeightGradientCosine(Flags),
    /// The rank-one approximation for random matrices, against its theory
    CheckApprox(ApproxFlags),
}

/// Flags of the studies of networks.
#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
struct Flags {
    /// Layers to study, with commas [default: lif_delta,lif_expcu,alif_delta,alif_expcu; in `published` size all eight]
    #[arg(long, visible_alias = "model", value_delimiter = ',')]
    models: Vec<String>,
    /// small runs in under a minute; published has the sizes of the paper
    #[arg(long, value_enum, default_value = "small")]
    size: Size,
    /// random, nmnist, gesture or shd; it also decides the scale of the weights
    #[arg(long, value_enum, default_value = "random")]
    dataset: Dataset,
    /// Where the recordings are
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    read: super::data::ReadFlags,
    /// Steps of a sequence
    #[arg(long, visible_alias = "data_length", value_parser = steps)]
    steps: Option<usize>,
    /// Neurons per layer
    #[arg(long, value_parser = ei_size)]
    n_rec: Option<usize>,
    /// Inputs of random data
    #[arg(long, default_value_t = 100, value_parser = size)]
    n_in: usize,
    /// Probability of an input spike per step of random data
    #[arg(long, default_value_t = 0.01, value_parser = fraction)]
    rate: f64,
    /// Samples
    #[arg(long, value_parser = size)]
    samples: Option<usize>,
    /// Layers of the network (weight-gradient-cosine)
    #[arg(long, default_value_t = 1, value_parser = layers)]
    n_layer: usize,
    /// Variance of the recurrent weights in units of 1/fan-in, several with commas [default: as published]
    #[arg(long, value_delimiter = ',', value_parser = non_negative)]
    rec_scale: Vec<f64>,
    /// Variance of the input weights in units of 1/fan-in, several with commas [default: as published]
    #[arg(long, value_delimiter = ',', value_parser = non_negative)]
    ff_scale: Vec<f64>,
    /// Ranks of ES-D-RTRL (weight-gradient-cosine); rank r is the decay (r - 1) / (r + 1)
    #[arg(long, value_delimiter = ',', default_value = "4,10,20,40")]
    ranks: Vec<u32>,
    /// Share of the steps that carry no loss (weight-gradient-cosine); traces run through them
    #[arg(long, default_value_t = 0.0, value_parser = below_one)]
    frac_sim: f64,
    /// Seed of weights and random data
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where results go [default: analysis/NAME]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Accepted for the published command lines; choose the device with --device
    #[arg(long, hide = true)]
    devices: Option<String>,
}

#[derive(Clone, Debug, ClapArgs)]
#[command(rename_all = "snake_case")]
struct ApproxFlags {
    /// small runs in under a minute; published has the sizes of the paper
    #[arg(long, value_enum, default_value = "small")]
    size: Size,
    /// Rows of the matrices
    #[arg(long, value_parser = size)]
    rank: Option<usize>,
    /// Seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where results go [default: analysis/check-approx]
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Size {
    Small,
    Published,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dataset {
    Random,
    Nmnist,
    Gesture,
    Shd,
}

/// Runs the command.
///
/// # Errors
/// When flags make no sense, data are missing, or a program fails.
pub fn run(args: Args, global: &Global) -> Result<()> {
    match args.study {
        Study::HiddenJacobianCosine(flags) => jacobian(&flags, global),
        Study::Theorem3(flags) => theorem3(&flags, global),
        Study::WeightGradientCosine(flags) => gradients(&flags, global),
        Study::CheckApprox(flags) => approximation(&flags),
    }
}

/// One network of a study.
struct Case {
    name: String,
    net: Stack,
}

impl Flags {
    fn source(&self) -> Source {
        match self.dataset {
            Dataset::Random => Source::Random,
            Dataset::Nmnist => Source::Nmnist,
            Dataset::Gesture => Source::Gesture,
            Dataset::Shd => Source::Shd,
        }
    }

    fn task(&self, published_steps: usize) -> Result<Arc<dyn Task>> {
        let steps = self.steps.unwrap_or(if self.size == Size::Published { published_steps } else { 100 });
        let data = || match &self.data {
            Some(dir) => Ok(dir.clone()),
            None => Err(usage(format!(
                "--dataset {} needs --data DIR, the folder that holds the recordings, got none",
                self.dataset.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default()
            ))),
        };
        let (disorder, time_unit) = (self.read.disorder(), self.read.time_unit);
        Ok(match self.dataset {
            Dataset::Random => Arc::new(RandomSpikes { steps, n_in: self.n_in, n_out: 2, rate: self.rate }),
            Dataset::Nmnist => {
                let settings = NMnistSettings { steps, disorder, time_unit, ..NMnistSettings::new(data()?) };
                Arc::new(NMnist::open(settings).or_usage()?)
            }
            Dataset::Gesture => {
                let framing = tasks::gesture::Framing::Bins(steps);
                let settings = GestureSettings { framing, disorder, time_unit, ..GestureSettings::new(data()?) };
                Arc::new(Gesture::open(settings).or_usage()?)
            }
            Dataset::Shd => {
                let settings = ShdSettings { steps, time_unit, ..ShdSettings::new(data()?, ShdKind::Shd) };
                Arc::new(Shd::open(settings).or_usage()?)
            }
        })
    }

    fn samples(&self, published: usize) -> Result<u64> {
        match self.samples.unwrap_or(if self.size == Size::Published { published } else { 4 }) {
            0 => bail!(usage("--samples must be at least 1, got 0".into())),
            n => Ok(n as u64),
        }
    }

    /// Every model with every scale asked for.
    fn cases(&self, task: &dyn Task, published_rec: usize) -> Result<Vec<Case>> {
        let n_rec = self.n_rec.unwrap_or(if self.size == Size::Published { published_rec } else { 50 });
        let few = ["lif_delta", "lif_expcu", "alif_delta", "alif_expcu"];
        let more = ["lif_std_expcu", "lif_stp_expcu", "alif_std_expcu", "alif_stp_expcu"];
        let default = few.iter().chain(if self.size == Size::Published { &more[..] } else { &[] });
        let names: Vec<String> =
            if self.models.is_empty() { default.map(ToString::to_string).collect() } else { self.models.clone() };
        let all = |list: &[f64]| if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() };
        let mut cases = Vec::new();
        for name in names {
            let standard = setting::net(&name, self.source(), task.n_in(), n_rec, task.n_out(), self.n_layer.max(1));
            let known = || usage(format!("--models must be among {}, got `{name}`", Stack::layer_names().join(", ")));
            let Setting { net: standard, published } = standard.ok_or_else(known)?;
            if !published && (self.rec_scale.is_empty() || self.ff_scale.is_empty()) {
                let (layer, (rec, ff)) = (standard.layer_name(), setting::UNPUBLISHED);
                say!("{layer} has no published scales: where none is given, --rec_scale is {rec} and --ff_scale {ff}");
            }
            for rec in all(&self.rec_scale) {
                for ff in all(&self.ff_scale) {
                    let mut net = standard.clone();
                    net.rec_scale = rec.unwrap_or(net.rec_scale);
                    net.ff_scale = ff.unwrap_or(net.ff_scale);
                    let scale = |what: &str, v: Option<f64>| v.map_or(String::new(), |v| format!(" {what} {v}"));
                    cases.push(Case { name: format!("{name}{}{}", scale("rec", rec), scale("ff", ff)), net });
                }
            }
        }
        Ok(cases)
    }
}

/// Sample `k` as a batch of `size`.
fn sample(task: &dyn Task, seed: u64, k: u64, size: usize) -> Result<Batch> {
    let batches = task.batches(Split::Train, size)?.unwrap_or(u64::MAX).max(1);
    Ok(task.batch(Split::Train, seed, k / batches, k % batches, size)?)
}

fn folder(out: Option<&PathBuf>, name: &str) -> Result<PathBuf> {
    let dir = out.cloned().unwrap_or_else(|| Path::new("analysis").join(name));
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (n, sum) = values.into_iter().fold((0usize, 0.0), |(n, sum), v| (n + 1, sum + v));
    sum / n.max(1) as f64
}

fn jacobian(flags: &Flags, global: &Global) -> Result<()> {
    let task = flags.task(300)?;
    let (samples, cases) = (flags.samples(100)?, flags.cases(task.as_ref(), 100)?);
    let dir = folder(flags.out.as_ref(), "hidden-jacobian-cosine")?;
    let session = global.session()?;
    let mut csv = String::from("dataset,steps,model,sample,step,cosine,cosine_all,rate_hz\n");
    let mut table = Table::new([
        ("model", Align::Left),
        ("cosine of a step", Align::Right),
        ("cosine of the sequence", Align::Right),
        ("firing rate", Align::Right),
    ]);
    let mut chart = LineChart::new(
        "Diagonal against full hidden Jacobian",
        Axis::new("step"),
        Axis::new("cosine similarity").range(0.0, 1.05),
    )
    .subtitle(format!("{}, mean of {samples} samples", task.name()));
    for case in cases {
        say!("Processing {} {} with {}", task.name(), task.steps(), case.name);
        let study = Jacobian::new(&session, &case.net.model(1), task.steps())?;
        let (mut steps, mut whole, mut rates) = (vec![0.0; task.steps()], Vec::new(), Vec::new());
        for k in 0..samples {
            let found = study.run(flags.seed, &sample(task.as_ref(), flags.seed, k, 1)?)?;
            let rate = f64::from(found.rate) * 1000.0 / case.net.dt;
            let single = mean(found.steps.iter().map(|c| f64::from(*c)));
            say!("Cosine Similarity = {single:.6}, Cosine all = {:.6}, firing rate = {rate:.3} Hz", found.whole);
            for (t, c) in found.steps.iter().enumerate() {
                steps[t] += f64::from(*c) / samples as f64;
                let _ =
                    writeln!(csv, "{},{},{},{k},{t},{c},{},{rate}", task.name(), task.steps(), case.name, found.whole);
            }
            whole.push(f64::from(found.whole));
            rates.push(rate);
        }
        let cells = [mean(steps.iter().copied()), mean(whole)].map(|v| format!("{v:.4}"));
        let [single, all] = cells;
        table.row([case.name.clone(), single, all, format!("{:.2} Hz", mean(rates))]);
        let points = steps.into_iter().enumerate().map(|(t, c)| (t as f64, c));
        chart = chart.series(Series::new(case.name, points).markers(false));
    }
    write_atomic(&dir.join("cosine.csv"), csv.as_bytes())?;
    chart.save(dir.join("cosine"))?;
    say!("\n{table}\n\nwritten to {}: cosine.csv, cosine.svg/.png", dir.display());
    Ok(())
}

fn theorem3(flags: &Flags, global: &Global) -> Result<()> {
    let task = flags.task(300)?;
    let (samples, cases) = (flags.samples(100)?, flags.cases(task.as_ref(), 100)?);
    let dir = folder(flags.out.as_ref(), "theorem3")?;
    let session = global.session()?;
    let mut csv = String::from("dataset,steps,model,state,sample,step,cosine\n");
    let mut table = Table::new([
        ("model", Align::Left),
        ("state", Align::Left),
        ("mean cosine", Align::Right),
        ("at the end", Align::Right),
    ]);
    const BATCH: usize = 2;
    for case in cases {
        say!("Processing {} {} with {}", task.name(), task.steps(), case.name);
        let study = History::new(&session, &case.net.model(BATCH), task.steps())?;
        // By state, sample and step.
        let mut found: Vec<Vec<Vec<f64>>> = vec![Vec::new(); study.states.len()];
        for k in 0..samples.div_ceil(BATCH as u64) {
            let out = study.run(flags.seed, &sample(task.as_ref(), flags.seed, k, BATCH)?)?;
            for (state, values) in out.iter().enumerate() {
                for b in 0..BATCH {
                    found[state].push(values.iter().skip(b).step_by(BATCH).map(|c| f64::from(*c)).collect());
                }
            }
        }
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

fn gradients(flags: &Flags, global: &Global) -> Result<()> {
    let task = flags.task(300)?;
    let (samples, cases) = (flags.samples(100)?, flags.cases(task.as_ref(), 200)?);
    if flags.ranks.contains(&0) {
        bail!(usage("--ranks are whole numbers from 1, got 0".into()));
    }
    let dir = folder(flags.out.as_ref(), "weight-gradient-cosine")?;
    let session = global.session()?;
    let warmup = (task.steps() as f64 * flags.frac_sim) as usize;
    let mut methods = vec![("d-rtrl".to_string(), Method::D_RTRL)];
    methods.extend(flags.ranks.iter().map(|&r| {
        let decay = (f64::from(r) - 1.0) / (f64::from(r) + 1.0);
        (format!("es-d-rtrl rank {r}"), Method::es_d_rtrl(decay))
    }));
    let mut csv = String::from("dataset,steps,model,method,map,sample,cosine\n");
    let mut table = Table::new(
        [("model", Align::Left), ("map", Align::Left)]
            .into_iter()
            .chain(methods.iter().map(|(name, _)| (name.as_str(), Align::Right))),
    );
    let only: Vec<Method> = methods.iter().map(|(_, m)| *m).collect();
    for case in cases {
        say!("Processing {} {} with {}", task.name(), task.steps(), case.name);
        let study = Gradients::new(&session, &case.net.model(1), task.steps(), warmup, &only)?;
        // By method and map, summed over samples.
        let mut sums = vec![vec![0.0; study.maps.len()]; methods.len()];
        for k in 0..samples {
            let found = study.run(flags.seed, &sample(task.as_ref(), flags.seed, k, 1)?)?;
            for (m, row) in found.iter().enumerate() {
                for (map, c) in row.iter().enumerate() {
                    sums[m][map] += c / samples as f64;
                    let (name, map) = (&methods[m].0, &study.maps[map].0);
                    let _ = writeln!(csv, "{},{},{},{name},{map},{k},{c}", task.name(), task.steps(), case.name);
                }
            }
        }
        let names: Vec<String> = study.maps.iter().map(|(name, _)| name.clone()).collect();
        let mut chart = BarChart::new(
            format!("Online against BPTT gradients: {}", case.name),
            "map",
            names.clone(),
            Axis::new("cosine similarity").range(0.0, 1.05),
        )
        .subtitle(format!("{}, mean of {samples} samples", task.name()));
        for ((name, _), row) in methods.iter().zip(&sums) {
            chart = chart.bars(name.clone(), row.iter().copied());
        }
        chart.save(dir.join(case.name.replace(' ', "-")))?;
        for (map, name) in names.iter().enumerate() {
            let cells = sums.iter().map(|row| format!("{:.4}", row[map]));
            table.row([case.name.clone(), name.clone()].into_iter().chain(cells));
        }
    }
    write_atomic(&dir.join("cosine.csv"), csv.as_bytes())?;
    say!("\n{table}\n\nwritten to {}: cosine.csv and a plot per model (SVG, PNG)", dir.display());
    Ok(())
}

fn approximation(flags: &ApproxFlags) -> Result<()> {
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
    for (name, title, values) in
        [("measured", "Cosine similarity", &measured), ("theory", "Theoretical similarity", &expected)]
    {
        let (low, high) = range(values);
        say!("{title}: {low:.6} to {high:.6}");
        let flat = values.iter().flatten().copied();
        HeatMap::new(title, [rows, columns], flat, Axis::new("cosine").range(0.0, 1.0))
            .subtitle(format!("U Bernoulli(p), G normal(1, sigma), rank {rank}"))
            .x(Axis::new("p"), 0.0, 0.1)
            .y(Axis::new("sigma"), 0.1, 100.0)
            .upward()
            .save(dir.join(name))?;
    }
    write_atomic(&dir.join("cosine.csv"), csv.as_bytes())?;
    say!("written to {}: cosine.csv, measured and theory (SVG, PNG)", dir.display());
    Ok(())
}
