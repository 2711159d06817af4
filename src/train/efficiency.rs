//! What a trained network costs where it is used: footprint, sparsity, synaptic operations, as NeuroBench counts them
//! ([`synapses`](crate::learn::synapses)).

use std::{fmt, sync::Arc};

use hlo::{
    Func, Shape,
    pjrt::{Arg, Executable},
};
use serde::{Deserialize, Serialize};
use tasks::{Loader, LoaderSettings, Split, Task};

use super::{
    evaluate::Evaluation,
    fed::Fed,
    program::{ProgramError, Spec, TrainState, drawn_states, initial_states, sequences},
    replicas::Parts,
    session::{Session, SessionError},
    trainer::{TrainError, arrays},
    update::parameters,
};
use crate::{
    cell::Model,
    learn::{Learner, synapses::Synapses},
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
    executable: Executable,
    session: Session,
    model: Model,
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
        let model = &spec.evaluation;
        let synapses = learner.synapses(model);
        let arguments = [parameters(model), sequences(model, spec.steps, spec.objective.target)].concat();
        let shapes: Vec<Shape> = arguments.iter().map(|(_, s)| s.clone()).collect();
        let n = model.params.len();
        let func = Func::trace(&shapes, |g, v| {
            let (given, data) = v[n..].split_at(v.len() - n - 2);
            let states = initial_states(g, model, given);
            let counts = learner.count_synapses(g, model, &synapses, &v[..n], &states, &data[0]);
            let each = counts.effective.into_iter().chain(counts.graded).chain(counts.dense).chain(counts.nonzero);
            each.chain([counts.updates]).collect()
        });
        let names: Vec<String> = arguments.into_iter().map(|(n, _)| n).collect();
        let count = |what: &str| (0..synapses.connections.len()).map(|k| format!("{what}.{k}")).collect::<Vec<_>>();
        let mut results = ["effective", "graded", "dense", "nonzero"].map(count).concat();
        results.push("updates".into());
        let program = hlo::lower("efficiency", &func, &names, &results, &[]).map_err(SessionError::from)?;
        let session = session.of_this_process();
        let executable = Parts(session.replicas()).compile(&session, &program)?;
        Ok(EfficiencyProgram { executable, session, model: model.clone(), synapses, steps: spec.steps })
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
        let parts = Parts(self.session.replicas());
        let settings = LoaderSettings {
            batch: self.model.batch() * parts.0,
            epochs: Some(1),
            epoch_steps: Some(batches),
            threads: 1,
            ahead: 1,
            ..LoaderSettings::new(split, seed)
        };
        let n = self.synapses.connections.len();
        let (mut sums, mut sequences) = (vec![0.0; 2 * n + 1], 0.0);
        let (mut dense, mut nonzero) = (vec![], vec![]);
        for item in Loader::new(task.clone(), settings)? {
            let (position, batch) = item?;
            let real = batch.real;
            let (inputs, target) = arrays(batch)?;
            let drawn = drawn_states(&self.model, parts, seed ^ 0xE7A1, position.step);
            let fed = Fed::upload(&self.session, parts, None, &drawn, &inputs, &target)?;
            let on = state.params_of_each().zip(&fed.0);
            let out = self
                .executable
                .run_each(on.map(|(params, on)| params.iter().chain(on).map(Arg::Keep).collect()).collect())
                .map_err(SessionError::from)?;
            let whole = |k: usize| -> Result<Vec<f32>, TrainError> {
                let mut all = Vec::new();
                for part in &out {
                    let array = part[k].to_array().map_err(SessionError::from)?;
                    all.extend(array.to_vec::<f32>().map_err(|e| SessionError::from(hlo::pjrt::Error::from(e)))?);
                }
                Ok(all)
            };
            for (sum, k) in sums.iter_mut().zip((0..2 * n).chain([4 * n])) {
                *sum += whole(k)?[..real].iter().map(|v| f64::from(*v)).sum::<f64>();
            }
            let first = |k: usize| -> Result<f64, TrainError> { Ok(f64::from(whole(k)?[0])) };
            dense = (2 * n..3 * n).map(first).collect::<Result<_, _>>()?;
            nonzero = (3 * n..4 * n).map(first).collect::<Result<_, _>>()?;
            sequences += real as f64;
        }
        let per_step = 1.0 / (sequences * self.steps as f64).max(1.0);
        let connection = |(k, c): (usize, &crate::learn::synapses::Connection)| Connection {
            name: c.name.clone(),
            weights: c.weights,
            nonzero: nonzero.get(k).copied().unwrap_or_default(),
            dense: dense.get(k).copied().unwrap_or_default(),
            effective: sums[k] * per_step,
            spikes: sums[n + k] == 0.0,
        };
        let connections = self.synapses.connections.iter().enumerate().map(connection).collect();
        Ok(self.summary(connections, sums[2 * n] * per_step, found))
    }

    fn summary(&self, connections: Vec<Connection>, membrane_updates: f64, found: &Evaluation) -> Efficiency {
        let total = |of: &dyn Fn(&Connection) -> f64| connections.iter().map(of).sum::<f64>();
        let neurons: Vec<f64> = self
            .model
            .spiking()
            .map(|(k, _)| self.model.step.results()[self.model.states.len() + 1 + k].dims()[1] as f64)
            .collect();
        let spikes: f64 = found.rates.iter().zip(&neurons).map(|((_, rate), n)| rate * n).sum();
        let all: f64 = neurons.iter().sum();
        let (weights, nonzero) = (total(&|c| c.weights as f64), total(&|c| c.nonzero));
        let state_bytes: usize = self.model.states.iter().map(|s| s.shape.bytes()).sum();
        Efficiency {
            parameter_bytes: self.model.params.iter().map(|p| p.shape.bytes() as u64).sum(),
            state_bytes: (state_bytes / self.model.batch().max(1)) as u64,
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
