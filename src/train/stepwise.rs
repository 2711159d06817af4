//! Online training one chunk per call, with everything resident on the device.
//!
//! ```text
//! advance: (params, states, traces, time, sums, inputs[K], target) -> (states, traces, time, sums)     donated
//! apply:   (params, slots, count, lr, sums, target)                -> (params, slots, count, loss, accuracy, norm)
//! ```
//!
//! What a robot or a live stream needs: nothing depends on the length of the sequence, neither code nor memory.

use hlo::{
    DType, Func, Shape, Tensor,
    array::Array,
    pjrt::{Arg, Buffer, Executable, MemoryStats},
};

use super::{
    program::{ProgramError, Spec, TrainState},
    session::{Session, SessionError},
};
use crate::learn::{
    Learner,
    sequence::Carry,
    trace::{Slot, Traces},
};

/// The two programs.
pub struct Stepwise {
    advance: Executable,
    apply: Executable,
    /// Shapes of everything that passes from call to call.
    carried: Vec<Shape>,
    /// How many of them, at the end, are sums over the sequence.
    sums: usize,
    trained: Vec<usize>,
    slots: usize,
}

impl Stepwise {
    /// Traces and compiles; `chunk` steps per call.
    ///
    /// # Errors
    /// When the rule is not an online one or a program does not compile.
    pub fn new(session: &Session, spec: &Spec, chunk: usize) -> Result<Stepwise, ProgramError> {
        if !spec.learner.method.is_online() {
            return Err(ProgramError::Learn(crate::learn::LearnError::Setting(
                "driving a sequence step by step needs an online rule, got bptt; use --drive scan for it".into(),
            )));
        }
        let learner = Learner::new(&spec.model, &spec.objective, &spec.learner)?;
        learner.check_stream()?;
        let model = &spec.model;
        if !model.tracked.is_empty() || model.states.iter().any(|s| s.init.is_drawn()) {
            return Err(ProgramError::Learn(crate::learn::LearnError::Setting(
                "driving a sequence step by step needs a model without running statistics and drawn states; use --drive scan".into(),
            )));
        }
        let n = model.params.len();
        let states = model.states.len();
        let trace_slots: Vec<(Slot, Shape)> = learner.trace_slots().into_iter().collect();
        let phis: Vec<usize> = (0..learner.prepared.phis).filter(|&k| learner.prepared.is_trained(k)).collect();
        let phi_shape = |k: usize| learner.prepared.body.params()[k].shape().clone();
        let out = learner.prepared.out().shape().clone();

        let mut carried: Vec<Shape> = model.states.iter().map(|s| s.shape.clone()).collect();
        carried.extend(trace_slots.iter().map(|(_, s)| s.clone()));
        carried.push(Shape::s32([]));
        carried.extend(phis.iter().map(|&k| phi_shape(k)));
        carried.extend([Shape::f32([]), out]);

        let mut shapes: Vec<Shape> = model.params.iter().map(|p| p.shape.clone()).collect();
        shapes.extend(carried.iter().cloned());
        shapes.push(Shape::new(DType::U8, [&[chunk], &model.input.dims[..]].concat()));
        shapes.push(Shape::s32([model.batch()]));
        let traces = trace_slots.len();
        let advance = Func::trace(&shapes, |g, v| {
            let (params, rest) = v.split_at(n);
            let (old, data) = rest.split_at(carried.len());
            let values = learner.prepared.prefix.call(g, params);
            let held: Traces = trace_slots.iter().map(|(s, _)| s.clone()).zip(old[states..].iter().cloned()).collect();
            let carry = Carry {
                states: old[..states].to_vec(),
                traces: Some(held),
                time: old[states + traces].clone(),
                lag: 0,
            };
            let (next, sums) = learner.chunk(g, &values, carry, &data[0], &data[1], true, true, None);
            let held = next.traces.unwrap_or_default();
            let mut results = next.states;
            results.extend(trace_slots.iter().map(|(s, _)| held[s].clone()));
            results.push(next.time);
            let before = &old[states + traces + 1..];
            results.extend(phis.iter().zip(before).map(|(&k, sum)| match &sums.grads[k] {
                Some(grad) => sum + grad,
                None => sum.clone(),
            }));
            results.push(&before[phis.len()] + sums.loss);
            results.push(&before[phis.len() + 1] + sums.out);
            results
        });
        let carried_names: Vec<String> = (0..carried.len()).map(|k| format!("carried.{k}")).collect();
        let mut names: Vec<String> = model.params.iter().map(|p| p.name.clone()).collect();
        names.extend(carried_names.iter().cloned());
        names.extend(["inputs", "target"].map(String::from));
        let donations: Vec<(usize, usize)> = (0..carried.len()).map(|k| (n + k, k)).collect();
        let advance = session.compile("advance", &advance, &names, &carried_names, &donations)?;

        let trained: Vec<usize> = (0..n).filter(|&k| model.params[k].trainable).collect();
        let slots = trained.len() * spec.optimizer.rule.slots();
        let sums: Vec<Shape> = carried[states + traces + 1..].to_vec();
        let mut arguments: Vec<(String, Shape)> =
            model.params.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
        for s in 0..spec.optimizer.rule.slots() {
            let slot = |k: usize| (format!("{}.slot{s}", model.params[k].name), model.params[k].shape.clone());
            arguments.extend(trained.iter().map(|&k| slot(k)));
        }
        arguments.push(("count".into(), Shape::s32([])));
        arguments.push(("lr".into(), Shape::f32([])));
        arguments.extend(sums.iter().enumerate().map(|(k, s)| (format!("sums.{k}"), s.clone())));
        arguments.push(("target".into(), Shape::s32([model.batch()])));
        let shapes: Vec<Shape> = arguments.iter().map(|(_, s)| s.clone()).collect();
        let per_step = 1.0 / spec.steps.max(1) as f64;
        let apply = Func::trace(&shapes, |g, v| {
            let (params, rest) = v.split_at(n);
            let (old_slots, rest) = rest.split_at(slots);
            let sums = &rest[2..];
            let mut grads: Vec<Option<Tensor>> = vec![None; learner.prepared.phis];
            for (&k, sum) in phis.iter().zip(sums) {
                grads[k] = Some(sum.clone());
            }
            let grads = learner.prepared.pull(g, params, &grads);
            let pick = |all: &[Tensor]| trained.iter().map(|&k| all[k].clone()).collect::<Vec<_>>();
            let updated = spec.optimizer.update(&pick(params), &pick(&grads), old_slots, &rest[0], &rest[1]);
            let mut results = updated.params;
            results.extend(updated.slots);
            results.push(updated.count);
            let hits = sums[phis.len() + 1].argmax_last().eq(&sums[phis.len() + 2]).convert(DType::F32).mean_all();
            results.extend([&sums[phis.len()] * per_step, hits, updated.norm]);
            results
        });
        let names: Vec<String> = arguments.into_iter().map(|(n, _)| n).collect();
        let replaced: Vec<usize> = trained.iter().copied().chain(n..=n + slots).collect();
        let mut results: Vec<String> = replaced.iter().map(|&k| names[k].clone()).collect();
        results.extend(["loss", "accuracy", "norm"].map(String::from));
        let donations: Vec<(usize, usize)> = replaced.iter().enumerate().map(|(r, &a)| (a, r)).collect();
        let apply = session.compile("apply", &apply, &names, &results, &donations)?;
        Ok(Stepwise { advance, apply, carried, sums: phis.len() + 2, trained, slots })
    }

    /// Seconds both programs took to compile.
    pub fn compile_seconds(&self) -> f64 {
        (self.advance.compile_time() + self.apply.compile_time()).as_secs_f64()
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
        state: TrainState,
        lr: &Buffer,
        pieces: &[Array],
        target: &Buffer,
    ) -> Result<(TrainState, Vec<Buffer>), SessionError> {
        let zero = |s: &Shape| session.client.upload(&Array::zeros(s.clone()));
        let mut carried: Vec<Buffer> = self.carried.iter().map(zero).collect::<Result<_, _>>()?;
        for piece in pieces {
            let inputs = session.client.upload(piece)?;
            let mut args: Vec<Arg<'_>> = state.params.iter().map(Arg::Keep).collect();
            args.extend(carried.into_iter().map(Arg::Give));
            args.extend([Arg::Keep(&inputs), Arg::Keep(target)]);
            carried = self.advance.run(args)?;
        }
        let sums = carried.split_off(carried.len() - self.sums);
        let mut kept: Vec<Option<Buffer>> = Vec::new();
        let mut given = Vec::new();
        for (k, buffer) in state.params.into_iter().enumerate() {
            if self.trained.contains(&k) {
                given.push(buffer);
                kept.push(None);
            } else {
                kept.push(Some(buffer));
            }
        }
        let mut given = given.into_iter();
        let mut args: Vec<Arg<'_>> = Vec::new();
        for slot in &kept {
            match slot {
                Some(buffer) => args.push(Arg::Keep(buffer)),
                None => args.extend(given.next().map(Arg::Give)),
            }
        }
        args.extend(state.slots.into_iter().map(Arg::Give));
        args.push(Arg::Give(state.count));
        args.push(Arg::Keep(lr));
        args.extend(sums.iter().chain([target]).map(Arg::Keep));
        let mut results = self.apply.run(args)?.into_iter();
        let params = kept.into_iter().map(|k| k.or_else(|| results.next())).collect::<Option<Vec<_>>>();
        let slots: Vec<Buffer> = results.by_ref().take(self.slots).collect();
        let (Some(params), Some(count)) = (params, results.next()) else {
            unreachable!("the runtime checks the number of results")
        };
        Ok((TrainState { params, slots, count }, results.collect()))
    }
}
