//! Programs that learn nothing: parameters and a batch in, values out. Each process runs them on its own devices.

use std::sync::Arc;

use hlo::{
    Func, Graph, Shape, Tensor,
    array::Array,
    pjrt::{Arg, Buffer, Executable},
};
use tasks::{Loader, LoaderSettings, Split, Task};

use super::{
    fed::Fed,
    program::{ProgramError, Spec, TrainState, drawn_states, initial_states, sequences},
    replicas::Parts,
    session::{Session, SessionError},
    trainer::{TrainError, arrays},
    update::parameters,
};
use crate::cell::Model;

/// A compiled program of a network as it is evaluated.
pub(super) struct Forward {
    pub executable: Executable,
    /// The devices of this process.
    session: Session,
    model: Model,
    parts: Parts,
}

/// What the body of such a program is given.
pub(super) struct Given<'a> {
    pub params: &'a [Tensor],
    pub states: &'a [Tensor],
    pub inputs: &'a Tensor,
    pub target: &'a Tensor,
}

/// What a program says of a batch, on each device.
pub(super) struct Values(Vec<Vec<Buffer>>);

/// A batch without its inputs.
pub(super) struct Loaded {
    /// Rows that are samples; they come first.
    pub real: usize,
    pub rows: usize,
    pub targets: Vec<i32>,
    pub ids: Vec<u64>,
}

impl Forward {
    /// Traces and compiles.
    ///
    /// # Errors
    /// When the program does not compile.
    pub fn new(
        session: &Session,
        spec: &Spec,
        name: &str,
        results: &[String],
        body: impl Fn(&Graph, Given<'_>) -> Vec<Tensor>,
    ) -> Result<Forward, ProgramError> {
        let model = &spec.evaluation;
        let arguments = [parameters(model), sequences(model, spec.steps, spec.objective.target)].concat();
        let (names, shapes): (Vec<String>, Vec<Shape>) = arguments.into_iter().unzip();
        let func = Func::trace(&shapes, |g, v| {
            let (params, rest) = v.split_at(model.params.len());
            let (drawn, data) = rest.split_at(rest.len() - 2);
            let states = initial_states(g, model, drawn);
            body(g, Given { params, states: &states, inputs: &data[0], target: &data[1] })
        });
        let program = hlo::lower(name, &func, &names, results, &[]).map_err(SessionError::from)?;
        let session = session.of_this_process();
        let parts = Parts(session.replicas());
        let executable = parts.compile(&session, &program)?;
        Ok(Forward { executable, session, model: model.clone(), parts })
    }

    /// The model inside, for the part of a device.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How many devices share a batch.
    pub fn parts(&self) -> Parts {
        self.parts
    }

    /// Runs a whole batch with the parameters of `state`. `drawn` are the states of [`drawn_states`].
    ///
    /// # Errors
    /// When data do not fit the program or the device fails.
    pub fn run(
        &self,
        state: &TrainState,
        drawn: &[Array],
        inputs: &Array,
        target: &Array,
    ) -> Result<Values, SessionError> {
        let given = Fed::upload(&self.session, self.parts, None, drawn, inputs, target)?;
        let on = state.params_of_each().zip(&given.0);
        let arguments = on.map(|(params, on)| params.iter().chain(on).map(Arg::Keep).collect()).collect();
        Ok(Values(self.executable.run_each(arguments)?))
    }

    /// Runs the batches of a split, one after the other: all, or the first `batches`, which a task needs that makes trials for ever.
    ///
    /// # Errors
    /// When data or device fail, or `hear` does.
    pub fn each(
        &self,
        task: &Arc<dyn Task>,
        state: &TrainState,
        split: Split,
        (seed, batches): (u64, Option<u64>),
        threads: usize,
        mut hear: impl FnMut(&Loaded, &Values) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let settings = LoaderSettings {
            batch: self.model.batch() * self.parts.0,
            epochs: Some(1),
            epoch_steps: batches,
            threads: threads.max(1),
            ahead: 2,
            ..LoaderSettings::new(split, seed)
        };
        for item in Loader::new(task.clone(), settings)? {
            let (position, batch) = item?;
            let (real, rows) = (batch.real, batch.batch);
            let loaded = Loaded { real, rows, targets: batch.targets.clone(), ids: batch.ids.clone() };
            let (inputs, target) = arrays(batch)?;
            // A stream of its own: evaluation must not change what training draws.
            let drawn = drawn_states(&self.model, self.parts, seed ^ 0xE7A1, position.step);
            hear(&loaded, &self.run(state, &drawn, &inputs, &target)?)?;
        }
        Ok(())
    }
}

impl Values {
    /// Result number `k`, the parts of the devices one after the other.
    ///
    /// # Errors
    /// When the device fails.
    pub fn whole(&self, k: usize) -> Result<Vec<f32>, SessionError> {
        let mut all = Vec::new();
        for part in &self.0 {
            all.extend(part[k].to_array()?.to_vec::<f32>().map_err(hlo::pjrt::Error::from)?);
        }
        Ok(all)
    }
}
