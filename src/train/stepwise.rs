//! Online training one chunk per call, with everything resident on the device.
//!
//! ```text
//! advance: (params, states, traces, time, sums, inputs[K], target) -> (states, traces, time, sums)     donated
//! settle:  (states, traces, time, sums) -> (states, traces, time, sums)            donated; where signals wait in rings
//! apply:   (params, slots, count, lr, sums, target)                -> (params, slots, count, loss, accuracy, norm)
//! ```
//!
//! What a robot or a live stream needs: nothing depends on the length of the sequence, neither code nor memory. `apply` follows the last
//! chunk, or with updates inside the sequence every so many; the sums begin anew after it.

use hlo::{
    DType, Func, Shape,
    array::Array,
    pjrt::{Arg, Buffer, Executable, MemoryStats},
};

use super::{
    carried::{Carried, Chunk},
    program::{ProgramError, Spec, TrainState, hits},
    session::{Session, SessionError},
    update::{Argument, Given, Update, parameters},
};
use crate::learn::{LearnError, Learner, form::Choice};

/// The programs.
pub struct Stepwise {
    /// How traces are kept, and why.
    pub choice: Choice,
    advance: Executable,
    /// Where signals wait in rings.
    settle: Option<Executable>,
    apply: Executable,
    /// Shapes of everything that passes from call to call.
    carried: Vec<Shape>,
    /// How many of them, at the end, are sums since the last update.
    sums: usize,
    /// Chunks between updates, where there are updates inside a sequence.
    every: Option<usize>,
    update: Update,
}

impl Stepwise {
    /// Traces and compiles; `chunk` steps per call.
    ///
    /// # Errors
    /// When the rule is not an online one or a program does not compile.
    pub fn new(session: &Session, spec: &Spec, chunk: usize) -> Result<Stepwise, ProgramError> {
        let wrong = |text: &str| Err(LearnError::Setting(text.into()).into());
        if !spec.learner.method.is_online() {
            return wrong("driving a sequence step by step needs an online rule, got bptt; use --drive scan for it");
        }
        spec.objective.one_class()?;
        let learner = Learner::new(&spec.model, &spec.objective, &spec.learner.within(spec.steps))?;
        let choice = learner.stream(chunk)?;
        let every = learner.config().update_every;
        if let Some(every) = every.filter(|every| !every.is_multiple_of(chunk)) {
            return wrong(&format!(
                "with --drive step an update follows whole chunks, got --update_every {every} and chunks of {chunk} steps; use --chunk 1"
            ));
        }
        let model = &spec.model;
        if !model.tracked.is_empty() || model.states.iter().any(|s| s.init.is_drawn()) {
            return wrong(
                "driving a sequence step by step needs a model without running statistics and drawn states; use --drive scan",
            );
        }
        if spec.parts.0 > 1 {
            return wrong("driving a sequence step by step uses one device; leave out --replicas, or use --drive scan");
        }
        let update = Update::new(model, spec.optimizer.rule);
        let parts = Parts { spec, carried: Carried::of(&learner, choice.used.form), learner };
        let advance = parts.advance(session, chunk)?;
        let settle = parts.carried.waits().then(|| parts.settle(session)).transpose()?;
        let apply = parts.apply(session, &update)?;
        let sums = parts.sums();
        let carried = [parts.carried.shapes(), sums.clone()].concat();
        let every = every.map(|every| every / chunk);
        Ok(Stepwise { choice, advance, settle, apply, carried, sums: sums.len(), every, update })
    }

    /// Seconds all programs took to compile.
    pub fn compile_seconds(&self) -> f64 {
        let all = [&self.advance, &self.apply].into_iter().chain(&self.settle);
        all.map(|program| program.compile_time().as_secs_f64()).sum()
    }

    /// Memory of the program that runs at every step.
    ///
    /// # Errors
    /// When the plugin does not say.
    pub fn memory(&self) -> Result<MemoryStats, SessionError> {
        Ok(self.advance.memory()?)
    }

    /// One sequence: `pieces` are inputs `u8[K, B, n_in]`, uploaded one at a time.
    ///
    /// # Errors
    /// When data do not fit or the device fails.
    pub fn sequence(
        &self,
        session: &Session,
        mut state: TrainState,
        lr: &Buffer,
        pieces: &[Array],
        target: &Buffer,
    ) -> Result<(TrainState, Vec<Buffer>), SessionError> {
        let zero = |s: &Shape| session.client.upload(&Array::zeros(s.clone()));
        let mut carried: Vec<Buffer> = self.carried.iter().map(zero).collect::<Result<_, _>>()?;
        for (k, piece) in pieces.iter().enumerate() {
            if k > 0 && self.every.is_some_and(|every| k.is_multiple_of(every)) {
                let sums = carried.split_off(carried.len() - self.sums);
                (state, _) = self.apply(state, lr, &sums, target)?;
                let fresh = self.carried[carried.len()..].iter().map(zero);
                carried.extend(fresh.collect::<Result<Vec<_>, _>>()?);
            }
            let inputs = session.client.upload(piece)?;
            let mut args: Vec<Arg<'_>> = state.params.iter().map(Arg::Keep).collect();
            args.extend(carried.into_iter().map(Arg::Give));
            args.extend([Arg::Keep(&inputs), Arg::Keep(target)]);
            carried = self.advance.run(args)?;
        }
        if let Some(settle) = &self.settle {
            carried = settle.run(carried.into_iter().map(Arg::Give).collect())?;
        }
        let sums = carried.split_off(carried.len() - self.sums);
        self.apply(state, lr, &sums, target)
    }

    /// An update by what was summed since the last one.
    fn apply(
        &self,
        state: TrainState,
        lr: &Buffer,
        sums: &[Buffer],
        target: &Buffer,
    ) -> Result<(TrainState, Vec<Buffer>), SessionError> {
        let given = [lr].into_iter().chain(sums).chain([target]).collect();
        self.update.run(&self.apply, state, &[given])
    }
}

/// What both programs are made of.
struct Parts<'a> {
    spec: &'a Spec,
    learner: Learner,
    carried: Carried,
}

impl Parts<'_> {
    /// Sums over the sequence: gradients, loss, output.
    fn sums(&self) -> Vec<Shape> {
        let out = self.learner.prepared.out().shape().clone();
        self.carried.sums.iter().cloned().chain([Shape::f32([]), out]).collect()
    }

    fn advance(&self, session: &Session, chunk: usize) -> Result<Executable, SessionError> {
        let model = &self.spec.model;
        let mut arguments = parameters(model);
        let n = arguments.len();
        let carried = [self.carried.shapes(), self.sums()].concat();
        let carried: Vec<Argument> =
            carried.into_iter().enumerate().map(|(k, shape)| (format!("carried.{k}"), shape)).collect();
        arguments.extend(carried.iter().cloned());
        arguments.push(("inputs".into(), Shape::new(DType::U8, [&[chunk], &model.input.dims[..]].concat())));
        arguments.push(("target".into(), Shape::s32([model.batch()])));
        let (names, shapes): (Vec<String>, Vec<Shape>) = arguments.into_iter().unzip();
        let func = Func::trace(&shapes, |g, v| {
            let (params, rest) = v.split_at(n);
            let (old, data) = rest.split_at(carried.len());
            let (old, totals) = old.split_at(carried.len() - 2);
            let chunk = Chunk { inputs: &data[0], target: &data[1], learn: true };
            let next = self.carried.advance(&self.learner, g, params, old, chunk);
            [next.carried, next.sums, vec![&totals[0] + next.loss, &totals[1] + next.out]].concat()
        });
        let results: Vec<String> = carried.into_iter().map(|(name, _)| name).collect();
        let donations: Vec<(usize, usize)> = (0..results.len()).map(|k| (n + k, k)).collect();
        session.compile("advance", &func, &names, &results, &donations)
    }

    fn settle(&self, session: &Session) -> Result<Executable, SessionError> {
        let shapes = [self.carried.shapes(), self.sums()].concat();
        let func = Func::trace(&shapes, |g, v| {
            let (old, totals) = v.split_at(v.len() - 2);
            [&self.carried.settle(&self.learner, g, old)[..], totals].concat()
        });
        let names: Vec<String> = (0..shapes.len()).map(|k| format!("carried.{k}")).collect();
        let donations: Vec<(usize, usize)> = (0..shapes.len()).map(|k| (k, k)).collect();
        session.compile("settle", &func, &names, &names, &donations)
    }

    fn apply(&self, session: &Session, update: &Update) -> Result<Executable, SessionError> {
        let Spec { model, optimizer, steps, .. } = self.spec;
        let sums = self.sums().into_iter().enumerate().map(|(k, shape)| (format!("sums.{k}"), shape));
        let rest: Vec<Argument> = sums.chain([("target".into(), Shape::s32([model.batch()]))]).collect();
        let arguments = update.arguments(model, rest);
        let shapes: Vec<Shape> = arguments.iter().map(|(_, shape)| shape.clone()).collect();
        let per_step = 1.0 / (*steps).max(1) as f64;
        let func = Func::trace(&shapes, |g, v| {
            let Given { params, slots, count, lr, rest } = update.split(v);
            let (sums, rest) = rest.split_at(self.carried.sums.len());
            let (loss, out, target) = (&rest[0], &rest[1], &rest[2]);
            let grads = self.carried.pull(&self.learner, g, params, sums);
            let counts = self.spec.objective.counts(target);
            let (trained, grads) = (update.trained(params), update.trained(&grads));
            let updated = optimizer.update(&trained, &grads, slots, (count, lr), counts.as_ref());
            let accuracy = hits(out, target).mean_all();
            let report = vec![loss * per_step, accuracy, updated.norm];
            [updated.params, updated.slots, vec![updated.count], report].concat()
        });
        let program = update.lower("apply", &func, arguments, &["loss", "accuracy", "norm"])?;
        Ok(session.client.compile(&program, &session.options)?)
    }
}
