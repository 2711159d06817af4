//! What a trained network costs where it is used: footprint, sparsity, synaptic operations, as NeuroBench counts them
//! ([`synapses`]).

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use tasks::{Split, Task};

use super::{
    evaluate::Evaluation,
    forward::{Forward, Given},
    program::{ProgramError, Spec, TrainState},
    session::Session,
    trainer::TrainError,
};
use crate::{
    learn::{
        Learner,
        synapses::{self, Synapses},
    },
    report::{Align, Table, bytes},
};

/// The file that `etrace eval` writes an [`Efficiency`] to.
pub const EFFICIENCY: &str = "efficiency.json";

/// One connection in numbers: means over sequences and steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Its parameters.
    pub name: String,
    /// Values of its weight.
    pub weights: usize,
    /// Those that are not zero.
    pub nonzero: f64,
    /// Operations if nothing is left out.
    pub dense: f64,
    /// Operations whose input and weight are not zero.
    pub effective: f64,
    /// Whether its inputs are spikes (-1, 0 or 1), so that operations are additions.
    pub spikes: bool,
}

/// What a network costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Efficiency {
    /// Bytes of the parameters.
    pub parameter_bytes: u64,
    /// Bytes of the states of one sequence.
    pub state_bytes: u64,
    /// Share of weights that are zero.
    pub connection_sparsity: f64,
    /// Share of neurons that are silent in a step, over all layers that fire; absent where none does.
    pub activation_sparsity: Option<f64>,
    /// Synaptic operations of a step if nothing is left out.
    pub dense: f64,
    /// Effective multiplications with additions of a step.
    pub effective_macs: f64,
    /// Effective additions of a step.
    pub effective_acs: f64,
    /// Membrane potentials that a step changes.
    pub membrane_updates: f64,
    /// Membrane potentials.
    pub potentials: usize,
    /// Each connection.
    pub connections: Vec<Connection>,
    /// Parameters of ops that are neither products nor linear, whose operations are not counted.
    pub uncounted: Vec<String>,
}

/// A compiled count.
pub struct EfficiencyProgram {
    forward: Forward,
    synapses: Synapses,
    steps: usize,
}

impl EfficiencyProgram {
    /// Traces and compiles.
    ///
    /// # Errors
    /// When the program does not compile.
    pub fn new(session: &Session, spec: &Spec) -> Result<EfficiencyProgram, ProgramError> {
        let learner = Learner::new(&spec.evaluation, &spec.objective, &spec.learner.without_learning())?;
        let synapses = learner.synapses(&spec.evaluation);
        let count = |what: &str| (0..synapses.connections.len()).map(|k| format!("{what}.{k}")).collect::<Vec<_>>();
        let mut results = ["effective", "graded", "dense", "nonzero"].map(count).concat();
        results.push("updates".into());
        let forward = Forward::new(session, spec, "efficiency", &results, |g, given| {
            let Given { params, states, inputs, .. } = given;
            let counts = learner.count_synapses(g, &spec.evaluation, &synapses, params, states, inputs);
            let each = counts.effective.into_iter().chain(counts.graded).chain(counts.dense).chain(counts.nonzero);
            each.chain([counts.updates]).collect()
        })?;
        Ok(EfficiencyProgram { forward, synapses, steps: spec.steps })
    }

    /// Counts over the first batches of a split, `batches` at most; `found` is what the evaluation said of the same network.
    ///
    /// # Errors
    /// When data or device fail.
    pub fn run(
        &self,
        task: &Arc<dyn Task>,
        state: &TrainState,
        split: Split,
        (seed, batches): (u64, u64),
        found: &Evaluation,
    ) -> Result<Efficiency, TrainError> {
        let n = self.synapses.connections.len();
        let (mut sums, mut sequences) = (vec![0.0; 2 * n + 1], 0.0);
        let mut fixed = vec![0.0; 2 * n];
        self.forward.each(task, state, split, (seed, Some(batches)), 1, |batch, values| {
            for (sum, k) in sums.iter_mut().zip((0..2 * n).chain([4 * n])) {
                *sum += values.whole(k)?[..batch.real].iter().map(|v| f64::from(*v)).sum::<f64>();
            }
            // The same on every device and in every batch.
            for (value, k) in fixed.iter_mut().zip(2 * n..4 * n) {
                *value = f64::from(values.whole(k)?[0]);
            }
            sequences += batch.real as f64;
            Ok(())
        })?;
        let per_step = 1.0 / (sequences * self.steps as f64).max(1.0);
        let connection = |(k, c): (usize, &synapses::Connection)| Connection {
            name: c.name.clone(),
            weights: c.weights,
            nonzero: fixed[n + k],
            dense: fixed[k],
            effective: sums[k] * per_step,
            spikes: sums[n + k] == 0.0,
        };
        let connections = self.synapses.connections.iter().enumerate().map(connection).collect();
        Ok(self.summary(connections, sums[2 * n] * per_step, found))
    }

    fn summary(&self, connections: Vec<Connection>, membrane_updates: f64, found: &Evaluation) -> Efficiency {
        let total = |of: &dyn Fn(&Connection) -> f64| connections.iter().map(of).sum::<f64>();
        let model = self.forward.model();
        let observed = &model.step.results()[model.states.len() + 1..];
        let neurons: Vec<f64> = model.spiking().map(|(k, _)| observed[k].dims()[1] as f64).collect();
        let spikes: f64 = found.rates.iter().zip(&neurons).map(|((_, rate), n)| rate * n).sum();
        let all: f64 = neurons.iter().sum();
        let (weights, nonzero) = (total(&|c| c.weights as f64), total(&|c| c.nonzero));
        let state_bytes: usize = model.states.iter().map(|s| s.shape.bytes()).sum();
        Efficiency {
            parameter_bytes: model.params.iter().map(|p| p.shape.bytes() as u64).sum(),
            state_bytes: (state_bytes / model.batch().max(1)) as u64,
            connection_sparsity: if weights > 0.0 { 1.0 - nonzero / weights } else { 0.0 },
            activation_sparsity: (all > 0.0).then(|| 1.0 - spikes / all),
            dense: total(&|c| c.dense),
            effective_macs: total(&|c| if c.spikes { 0.0 } else { c.effective }),
            effective_acs: total(&|c| if c.spikes { c.effective } else { 0.0 }),
            membrane_updates,
            potentials: self.synapses.potentials,
            uncounted: self.synapses.uncounted.clone(),
            connections,
        }
    }
}

impl fmt::Display for Efficiency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["weights", "zero", "dense", "effective MACs", "effective ACs"].map(|c| (c, Align::Right));
        let mut table = Table::new([("connection", Align::Left)].into_iter().chain(columns));
        let number = |n: f64| if n < 1000.0 { format!("{n:.1}") } else { format!("{n:.0}") };
        for c in &self.connections {
            let (mac, ac) = if c.spikes { (0.0, c.effective) } else { (c.effective, 0.0) };
            table.row([
                c.name.clone(),
                c.weights.to_string(),
                format!("{:.1} %", 100.0 * (1.0 - c.nonzero / c.weights.max(1) as f64)),
                number(c.dense),
                number(mac),
                number(ac),
            ]);
        }
        let weights: usize = self.connections.iter().map(|c| c.weights).sum();
        table.row([
            "all".into(),
            weights.to_string(),
            format!("{:.1} %", 100.0 * self.connection_sparsity),
            number(self.dense),
            number(self.effective_macs),
            number(self.effective_acs),
        ]);
        writeln!(f, "Synaptic operations of a step of one sequence")?;
        writeln!(f, "{table}")?;
        write!(f, "footprint {} of parameters and {} of states", bytes(self.parameter_bytes), bytes(self.state_bytes))?;
        if let Some(silent) = self.activation_sparsity {
            write!(f, "; activation sparsity {:.2} %", 100.0 * silent)?;
        }
        if self.potentials > 0 {
            write!(
                f,
                "; {} of {} membrane potentials change in a step",
                number(self.membrane_updates),
                self.potentials
            )?;
        }
        if !self.uncounted.is_empty() {
            write!(f, "\nnot counted, for they are no products: {}", self.uncounted.join(", "))?;
        }
        Ok(())
    }
}
