//! `etrace analyze`: how good the approximations of online learning are.

mod approximation;
mod gradients;
mod jacobian;
mod theorem3;

use std::{
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
        alive::{self, Rates},
        setting::{self, Setting, Source},
    },
    net::Stack,
    say,
    train::session::Session,
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
    WeightGradientCosine(gradients::Flags),
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
    /// random, nmnist, gesture or shd; it also decides the published scales
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
    /// Where the scales of weights come from that no other flag gives: alive looks for input weights with which every layer fires at 5 to
    /// 60 Hz, published takes those of the paper, with which some layers are silent and others fire all the time
    #[arg(long, value_enum, default_value = "alive")]
    scales: Scales,
    /// Variance of the recurrent weights in units of 1/fan-in, several with commas [default: as published]
    #[arg(long, value_delimiter = ',', value_parser = non_negative)]
    rec_scale: Vec<f64>,
    /// Variance of the input weights in units of 1/fan-in, several with commas [default: see --scales]
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
enum Scales {
    Alive,
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
        Study::HiddenJacobianCosine(flags) => jacobian::run(&flags, global),
        Study::Theorem3(flags) => theorem3::run(&flags, global),
        Study::WeightGradientCosine(flags) => gradients::run(&flags, global),
        Study::CheckApprox(flags) => approximation::run(&flags),
    }
}

/// One network of a study.
struct Case {
    name: String,
    net: Stack,
    /// Spikes per second of its layers, on average.
    rate: f64,
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
        Ok(match self.dataset {
            Dataset::Random => Arc::new(RandomSpikes { steps, n_in: self.n_in, n_out: 2, rate: self.rate }),
            Dataset::Nmnist => {
                let settings = NMnistSettings { steps, ..self.read.digits(data()?)? };
                Arc::new(NMnist::open(settings).or_usage()?)
            }
            Dataset::Gesture => {
                let framing = tasks::gesture::Framing::Bins(steps);
                let settings = GestureSettings { framing, ..self.read.gestures(data()?) };
                Arc::new(Gesture::open(settings).or_usage()?)
            }
            Dataset::Shd => {
                let settings = ShdSettings { steps, ..self.read.speech(data()?, ShdKind::Shd)? };
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
    fn cases(&self, session: &Session, task: &dyn Task, samples: u64, published_rec: usize) -> Result<Vec<Case>> {
        let n_rec = self.n_rec.unwrap_or(if self.size == Size::Published { published_rec } else { 50 });
        let few = ["lif-delta", "lif-exp-cu", "alif-delta", "alif-exp-cu"];
        let more = ["lif-std-exp-cu", "lif-stp-exp-cu", "alif-std-exp-cu", "alif-stp-exp-cu"];
        let default = few.iter().chain(if self.size == Size::Published { &more[..] } else { &[] });
        let names: Vec<String> =
            if self.models.is_empty() { default.map(ToString::to_string).collect() } else { self.models.clone() };
        let all = |list: &[f64]| if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() };
        let batches = (0..samples.min(4)).map(|k| sample(task, self.seed, k, 1)).collect::<Result<Vec<Batch>>>()?;
        let mut cases = Vec::new();
        for name in names {
            let standard = setting::net(&name, self.source(), task.n_in(), n_rec, task.n_out(), self.n_layer.max(1));
            let known = || usage(format!("--models must be among {}, got `{name}`", Stack::layer_names().join(", ")));
            let Setting { net: standard, published } = standard.ok_or_else(known)?;
            let layer = standard.layer_name();
            let given = [&self.rec_scale, &self.ff_scale].map(|scales| !scales.is_empty());
            if !published && self.scales == Scales::Published && given.contains(&false) {
                let (rec, ff) = setting::UNPUBLISHED;
                say!("{layer} has no published scales: where none is given, --rec_scale is {rec} and --ff_scale {ff}");
            }
            for rec in all(&self.rec_scale) {
                for ff in all(&self.ff_scale) {
                    let mut net = standard.clone();
                    net.rec_scale = rec.unwrap_or(net.rec_scale);
                    net.ff_scale = ff.unwrap_or(net.ff_scale);
                    let scale = |what: &str, v: Option<f64>| v.map_or(String::new(), |v| format!(" {what} {v}"));
                    let name = format!("{layer}{}{}", scale("rec", rec), scale("ff", ff));
                    cases.push(self.case(session, name, net, [rec, ff], &batches)?);
                }
            }
        }
        Ok(cases)
    }

    /// A network with the scales that were `given`, recurrent and input.
    fn case(
        &self,
        session: &Session,
        name: String,
        net: Stack,
        [rec, ff]: [Option<f64>; 2],
        batches: &[Batch],
    ) -> Result<Case> {
        let steps = batches.first().map_or(1, |batch| batch.steps);
        let found = if self.scales == Scales::Alive && ff.is_none() {
            alive::scaled(session, &net, rec.is_some(), steps, self.seed, batches)?
        } else {
            let model = net.model(1);
            let rates = Rates::new(session, &model, steps, net.dt)?.mean(&model, self.seed, batches)?;
            alive::Found { net, rates }
        };
        let rates: Vec<String> = found.rates.iter().map(|rate| format!("{rate:.1}")).collect();
        let (low, high) = alive::ALIVE;
        let remark = match (found.is_alive(), self.scales == Scales::Alive && ff.is_none()) {
            (true, _) => String::new(),
            (false, true) => format!(", the nearest to {low} to {high} Hz that was found"),
            (false, false) => format!(", outside of {low} to {high} Hz"),
        };
        let alive::Found { net, rates: all } = found;
        say!(
            "{name}: --rec_scale {} --ff_scale {}, firing rate {} Hz{remark}",
            net.rec_scale,
            net.ff_scale,
            rates.join(", ")
        );
        Ok(Case { name, net, rate: mean(all) })
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

/// The mean of some values; 0 of none.
fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (n, sum) = values.into_iter().fold((0usize, 0.0), |(n, sum), v| (n + 1, sum + v));
    sum / n.max(1) as f64
}
