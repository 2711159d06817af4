//! At which scale of its input weights every layer of a network is alive.
//!
//! What an analysis says of a network that never fires, or always, is true of any rule and says nothing of it: a silent network has no
//! recurrent Jacobian to leave out, and one whose neurons all fire has no spikes that carry information. Scales change initial values
//! only, so one compiled program tries them all.

use hlo::Tensor;
use tasks::Batch;

use super::Analysis;
use crate::{
    cell::Model,
    learn::{Learner, Method, Objective, sequence::LearnerConfig},
    net::Stack,
    train::{program::ProgramError, session::Session},
};

/// Rates between which a layer is alive, Hz.
pub const ALIVE: (f64, f64) = (5.0, 60.0);

/// The rate that is looked for, Hz.
const WANTED: f64 = 20.0;

/// Powers of two that are tried as scales of the input weights: 1/64 to 16,384.
const POWERS: std::ops::RangeInclusive<i32> = -6..=14;

/// Parts of the recurrent scale that are tried, one after the other, until every layer is alive.
const RECURRENT: [f64; 3] = [1.0, 0.25, 0.0625];

/// Firing rates of a network.
pub struct Rates<'a> {
    analysis: Analysis<'a>,
    dt: f64,
}

impl<'a> Rates<'a> {
    /// Compiles a program that runs `model`, with steps of `dt` ms, and counts spikes.
    ///
    /// # Errors
    /// When the program does not compile.
    pub fn new(session: &'a Session, model: &Model, steps: usize, dt: f64) -> Result<Rates<'a>, ProgramError> {
        let config = LearnerConfig { method: Method::BPTT, ..LearnerConfig::default() };
        let learner = Learner::new(model, &Objective::default(), &config)?;
        let analysis = Analysis::new(session, "rates", model, steps, |g, params, states, inputs| {
            let seen = learner.observe(g, params, states, inputs);
            let of = |(k, _): (usize, &str)| -> Tensor { seen[states.len() + 1 + k].mean_all().reshape(&[1]) };
            model.spiking().map(of).collect()
        })?;
        Ok(Rates { analysis, dt })
    }

    /// Spikes per second of each layer that fires, for the network of `seed` with the initial values of `model`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&self, model: &Model, seed: u64, batch: &Batch) -> Result<Vec<f64>, ProgramError> {
        let rates = self.analysis.run_as(model, seed, batch)?;
        Ok(rates.iter().map(|layer| f64::from(layer[0]) * 1000.0 / self.dt).collect())
    }

    /// The mean of some samples.
    ///
    /// # Errors
    /// When the device fails.
    pub fn mean(&self, model: &Model, seed: u64, samples: &[Batch]) -> Result<Vec<f64>, ProgramError> {
        let all = samples.iter().map(|batch| self.run(model, seed, batch)).collect::<Result<Vec<_>, _>>()?;
        let mean = |k: usize| all.iter().map(|rates| rates[k]).sum::<f64>() / all.len().max(1) as f64;
        Ok((0..all.first().map_or(0, Vec::len)).map(mean).collect())
    }
}

/// A network with the scales that were found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The network.
    pub net: Stack,
    /// Spikes per second of each layer.
    pub rates: Vec<f64>,
}

impl Found {
    /// Whether every layer fires at a rate of [`ALIVE`].
    pub fn is_alive(&self) -> bool {
        self.rates.iter().all(|rate| (ALIVE.0..=ALIVE.1).contains(rate))
    }

    /// How far the layer that is furthest from it is from the wanted rate, in factors of e.
    fn distance(&self) -> f64 {
        self.rates.iter().map(|rate| (rate.max(1e-3) / WANTED).ln().abs()).fold(0.0, f64::max)
    }
}

/// Looks for the scale of the input weights at which the layers of `net` fire at about 20 Hz on these samples; where there is none with the
/// recurrent scale that `net` has, and that is not `fixed`, with a quarter and a sixteenth of it. The nearest, if none is alive.
///
/// # Errors
/// When a program does not compile or the device fails.
pub fn scaled(
    session: &Session,
    net: &Stack,
    fixed: bool,
    steps: usize,
    seed: u64,
    samples: &[Batch],
) -> Result<Found, ProgramError> {
    let rates = Rates::new(session, &net.model(1), steps, net.dt)?;
    let tried = |rec: f64, power: f64| -> Result<Found, ProgramError> {
        let net = Stack { rec_scale: rec, ff_scale: rounded(power.exp2()), ..net.clone() };
        let rates = rates.mean(&net.model(1), seed, samples)?;
        Ok(Found { net, rates })
    };
    let mut best: Option<Found> = None;
    for part in RECURRENT.into_iter().take(if fixed { 1 } else { RECURRENT.len() }) {
        let rec = net.rec_scale * part;
        let mut at = 0.0;
        let powers: Vec<f64> = POWERS.map(f64::from).collect();
        let mut better = |power: f64, at: &mut f64| -> Result<(), ProgramError> {
            let found = tried(rec, power)?;
            if best.as_ref().is_none_or(|b| found.distance() < b.distance()) {
                (best, *at) = (Some(found), power);
            }
            Ok(())
        };
        powers.into_iter().try_for_each(|power| better(power, &mut at))?;
        for finer in [0.5, 0.25, 0.125] {
            let around = at;
            [-finer, finer].into_iter().try_for_each(|by| better(around + by, &mut at))?;
        }
        if best.as_ref().is_some_and(Found::is_alive) {
            break;
        }
    }
    best.map_or_else(|| tried(net.rec_scale, 0.0), Ok)
}

/// To three significant digits, so that it can be typed again.
fn rounded(x: f64) -> f64 {
    let unit = 10f64.powf(x.log10().floor() - 2.0);
    (x / unit).round() * unit
}
