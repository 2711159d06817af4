//! A stream: one step, or a few, per call, with states and traces on the device.
//!
//! ```text
//! advance: (params, states, traces, time, sums, inputs [K, B, n_in], targets) -> (states, traces, time, sums, loss, out)
//! settle:  (states, traces, time, sums) -> (states, traces, time, sums)                         where signals wait in rings
//! pull:    (params, sums) -> gradients
//! ```
//!
//! What a robot needs: no call and no memory depends on how long the stream is. Gradients add up until they are taken; states and
//! traces go on across updates, and begin anew at [`Stream::reset`].

use std::rc::Rc;

use hlo::{
    Graph, Shape, Tensor,
    array::Array,
    pjrt::{Arg, Buffer, Executable},
};

use super::{Engine, Gradients, array, number};
use crate::{
    learn::{LearnError, Vjp, form::Candidate},
    train::{
        carried::{Carried, Chunk},
        program::ProgramError,
        session::SessionError,
    },
};

/// A running network.
pub struct Stream<'e, 's> {
    engine: &'e Engine<'s>,
    /// Steps per call.
    chunk: usize,
    /// How traces are kept.
    form: Candidate,
    /// What passes from call to call.
    shapes: Carried,
    /// States, traces and time.
    carried: Vec<Buffer>,
    /// Sums of the gradients by `phi`.
    sums: Vec<Buffer>,
    /// Whether any step in them carries loss.
    counted: bool,
}

/// What a call gives.
pub struct Advanced {
    /// Loss summed over the steps of the call, a mean over the batch; none without a target.
    pub loss: Option<f32>,
    /// Output summed over the steps of the call, `[B, C]`: with one step per call, the output.
    pub out: Array,
}

impl<'s> Engine<'s> {
    /// Begins a stream of `chunk` steps per call at the given states.
    ///
    /// # Errors
    /// When the rule is not an online one, or a setting needs the end of the sequence.
    pub fn stream(&self, chunk: usize, states: Vec<Buffer>) -> Result<Stream<'_, 's>, ProgramError> {
        let (learner, config) = (&self.learner, self.learner.config());
        let wrong = |text: String| Err(LearnError::Setting(text).into());
        if !learner.rule().is_online() {
            return wrong("a stream has no end to go back from, but bptt does; use an online rule, as d-rtrl".into());
        }
        if config.warmup > 0 {
            return wrong(format!(
                "the caller of a stream says which steps carry loss, got a warm-up of {}; set it to 0 and give those steps no target",
                config.warmup
            ));
        }
        if let Vjp::MultiStep { window } = config.vjp
            && window > 1
            && window != chunk
        {
            return wrong(format!(
                "a call makes up a window, got {chunk} steps for windows of {window}; use one of them"
            ));
        }
        if chunk == 0 {
            return wrong("a call makes at least one step, got 0; 1 is the usual choice".into());
        }
        let form = learner.stream(chunk)?.used;
        let shapes = Carried::of(learner, form.form);
        let mut stream = Stream { engine: self, chunk, form, shapes, carried: vec![], sums: vec![], counted: false };
        stream.begin(states)?;
        Ok(stream)
    }

    fn zeros(&self, shapes: &[Shape]) -> Result<Vec<Buffer>, SessionError> {
        shapes.iter().map(|shape| self.upload(&Array::zeros(shape.clone()))).collect()
    }
}

impl Stream<'_, '_> {
    /// The form of the traces. In each one the gradients are the same, up to what a lag cuts off.
    pub fn form(&self) -> &Candidate {
        &self.form
    }

    /// Begins anew at the given states, with zero traces; gradients that were not taken stay.
    ///
    /// # Errors
    /// When the states are not those of the model, or the device fails.
    pub fn reset(&mut self, states: Vec<Buffer>) -> Result<(), ProgramError> {
        self.settle()?;
        self.begin(states)
    }

    fn begin(&mut self, states: Vec<Buffer>) -> Result<(), ProgramError> {
        let shapes = |all: &[Buffer]| all.iter().map(|b| b.shape().clone()).collect::<Vec<_>>();
        let wanted: Vec<Shape> = self.engine.model.states.iter().map(|s| s.shape.clone()).collect();
        if shapes(&states) != wanted {
            let text =
                format!("a stream begins at the states {wanted:?}, got {:?}; use Engine::states", shapes(&states));
            return Err(LearnError::Shape(text).into());
        }
        if self.sums.is_empty() {
            (self.sums, self.counted) = (self.engine.zeros(&self.shapes.sums)?, false);
        }
        self.carried = states;
        self.carried.extend(self.engine.zeros(&self.shapes.memory())?);
        Ok(())
    }

    /// The states now.
    pub fn states(&self) -> &[Buffer] {
        &self.carried[..self.engine.model.states.len()]
    }

    /// Makes the steps of one call: inputs `[K, B, n_in]`, and targets as the objective has them (`[K, B, ..]` where each step has its
    /// own). Without targets states and traces advance, and nothing is learned.
    ///
    /// # Errors
    /// When arrays do not fit the model, or the device fails. The stream must be reset then; gradients that were not taken are lost if
    /// the device failed.
    pub fn advance(
        &mut self,
        params: &[Buffer],
        inputs: &Array,
        targets: Option<&Array>,
    ) -> Result<Advanced, ProgramError> {
        let shapes = |all: &[Buffer]| all.iter().map(|b| b.shape().clone()).collect::<Vec<_>>();
        let prepared = &self.engine.learner.prepared;
        let (params_are, states_are) = (shapes(params), shapes(self.states()));
        let steps = prepared.steps_of(&params_are, &states_are, inputs.shape(), targets.map(Array::shape))?;
        if steps != self.chunk {
            let text = format!(
                "this stream makes {} steps per call, got inputs for {steps}; begin another stream",
                self.chunk
            );
            return Err(LearnError::Shape(text).into());
        }
        let program = self.advancing(inputs.shape(), targets.is_some())?;
        let mut data = vec![self.engine.upload(inputs)?];
        if let Some(targets) = targets {
            data.push(self.engine.upload(targets)?);
        }
        let (carried, sums) = (std::mem::take(&mut self.carried), std::mem::take(&mut self.sums));
        let n = carried.len();
        let mut args: Vec<Arg<'_>> = params.iter().map(Arg::Keep).collect();
        args.extend(carried.into_iter().chain(sums).map(Arg::Give));
        args.extend(data.iter().map(Arg::Keep));
        let mut results = program.run(args).map_err(SessionError::from)?;
        let seen = results.split_off(results.len() - 2);
        self.sums = results.split_off(n);
        self.carried = results;
        self.counted |= self.engine.counted(targets);
        let loss = targets.is_some().then(|| number(&seen[0])).transpose()?;
        Ok(Advanced { loss, out: array(&seen[1])? })
    }

    /// Takes the gradients of all steps with a target since the last time, one array for each parameter; the sums begin anew. An update with
    /// a gradient of no such step changes nothing ([`Engine::update`]).
    ///
    /// # Errors
    /// When the device fails.
    pub fn gradient(&mut self, params: &[Buffer]) -> Result<Gradients, ProgramError> {
        self.settle()?;
        let engine = self.engine;
        let n = engine.model.params.len();
        let mut shapes: Vec<Shape> = engine.model.params.iter().map(|p| p.shape.clone()).collect();
        shapes.extend(self.shapes.sums.iter().cloned());
        let program = engine.program("pull", &shapes, &[], |g, v| {
            let (params, sums) = v.split_at(n);
            self.shapes.pull(&engine.learner, g, params, sums)
        })?;
        let args = params.iter().chain(&self.sums).map(Arg::Keep).collect();
        let arrays = program.run(args).map_err(SessionError::from)?;
        self.sums = engine.zeros(&self.shapes.sums)?;
        Ok(Gradients { arrays, counted: std::mem::take(&mut self.counted) })
    }

    /// Adds what the signals that wait in rings ask for.
    fn settle(&mut self) -> Result<(), ProgramError> {
        // A call that failed has lost what it was given.
        if !self.shapes.waits() || self.carried.is_empty() {
            return Ok(());
        }
        let engine = self.engine;
        let shapes = [self.shapes.shapes(), self.shapes.sums.clone()].concat();
        let donated: Vec<(usize, usize)> = (0..shapes.len()).map(|k| (k, k)).collect();
        let program = engine.program("settle", &shapes, &donated, |g, v| self.shapes.settle(&engine.learner, g, v))?;
        let (carried, sums) = (std::mem::take(&mut self.carried), std::mem::take(&mut self.sums));
        let n = carried.len();
        let args = carried.into_iter().chain(sums).map(Arg::Give).collect();
        self.carried = program.run(args).map_err(SessionError::from)?;
        self.sums = self.carried.split_off(n);
        Ok(())
    }

    fn advancing(&self, inputs: &Shape, learn: bool) -> Result<Rc<Executable>, ProgramError> {
        let engine = self.engine;
        let n = engine.model.params.len();
        let mut shapes: Vec<Shape> = engine.model.params.iter().map(|p| p.shape.clone()).collect();
        shapes.extend(self.shapes.shapes());
        shapes.extend(self.shapes.sums.iter().cloned());
        let changed = shapes.len() - n;
        shapes.push(inputs.clone());
        if learn {
            shapes.push(engine.learner.prepared.targets(self.chunk));
        }
        let donated: Vec<(usize, usize)> = (0..changed).map(|k| (n + k, k)).collect();
        let name = if learn { "advance" } else { "advance_only" };
        engine.program(name, &shapes, &donated, |g, v| {
            let (params, rest) = v.split_at(n);
            let (old, data) = rest.split_at(changed);
            self.chunk_of(g, params, old, &data[0], data.get(1))
        })
    }

    /// The body of `advance`.
    fn chunk_of(
        &self,
        g: &Graph,
        params: &[Tensor],
        old: &[Tensor],
        inputs: &Tensor,
        target: Option<&Tensor>,
    ) -> Vec<Tensor> {
        let learner = &self.engine.learner;
        let zeros = g.zeros(&learner.prepared.targets(self.chunk));
        let chunk = Chunk { inputs, target: target.unwrap_or(&zeros), learn: target.is_some() };
        let next = self.shapes.advance(learner, g, params, old, chunk);
        let out = match target {
            Some(_) => next.out,
            // Where nothing is learned, no outputs are added up either.
            None => {
                let states = self.engine.model.states.len();
                learner.observe(g, params, &old[..states], inputs)[states].sum(&[0])
            }
        };
        [next.carried, next.sums, vec![next.loss, out]].concat()
    }
}
