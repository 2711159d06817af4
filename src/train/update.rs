//! What every program that updates parameters shares: its first arguments, the results that replace them, and its call.
//!
//! ```text
//! (params, slots, count, lr, ...) -> (changed params, slots, count, ...)     params that change, slots and count are donated
//! ```

use hlo::{
    Func, LowerError, Program, Shape, Tensor, lower,
    pjrt::{Arg, Buffer, Executable},
};

use super::{optimizer::Rule, program::TrainState, session::SessionError};
use crate::cell::Model;

/// Name and shape of an argument.
pub(super) type Argument = (String, Shape);

/// Parameters as arguments.
pub(super) fn parameters(model: &Model) -> Vec<Argument> {
    model.params.iter().map(|p| (p.name.clone(), p.shape.clone())).collect()
}

/// Which arguments of an update are what.
pub(super) struct Update {
    /// Number of parameters.
    params: usize,
    /// Which of them are trained.
    trained: Vec<usize>,
    /// Which of them change: those that are trained, and those that follow running statistics.
    pub changed: Vec<usize>,
    /// Arrays of the optimiser for each trained parameter.
    slots_each: usize,
}

/// The arguments of an update in a graph.
pub(super) struct Given<'t> {
    pub params: &'t [Tensor],
    pub slots: &'t [Tensor],
    /// Updates so far, `s32[]`.
    pub count: &'t Tensor,
    /// Learning rate, `f32[]`.
    pub lr: &'t Tensor,
    /// What the program takes besides.
    pub rest: &'t [Tensor],
}

impl Update {
    pub fn new(model: &Model, rule: Rule) -> Update {
        let params = model.params.len();
        let trained: Vec<usize> = (0..params).filter(|&k| model.params[k].trainable).collect();
        let changed = (0..params).filter(|&k| model.changes(k)).collect();
        Update { params, trained, changed, slots_each: rule.slots() }
    }

    /// Number of arrays of the optimiser.
    fn slots(&self) -> usize {
        self.trained.len() * self.slots_each
    }

    /// The arguments, `rest` last.
    pub fn arguments(&self, model: &Model, rest: Vec<Argument>) -> Vec<Argument> {
        let mut all = parameters(model);
        for slot in 0..self.slots_each {
            let named = |&k: &usize| (format!("{}.slot{slot}", model.params[k].name), model.params[k].shape.clone());
            all.extend(self.trained.iter().map(named));
        }
        all.extend([("count".into(), Shape::s32([])), ("lr".into(), Shape::f32([]))]);
        all.extend(rest);
        all
    }

    /// Takes the arguments apart.
    pub fn split<'t>(&self, arguments: &'t [Tensor]) -> Given<'t> {
        let (params, rest) = arguments.split_at(self.params);
        let (slots, rest) = rest.split_at(self.slots());
        Given { params, slots, count: &rest[0], lr: &rest[1], rest: &rest[2..] }
    }

    /// Those of the trained parameters.
    pub fn trained(&self, all: &[Tensor]) -> Vec<Tensor> {
        self.trained.iter().map(|&k| all[k].clone()).collect()
    }

    /// All parameters, the trained ones replaced.
    pub fn replaced(&self, params: &[Tensor], trained: Vec<Tensor>) -> Vec<Tensor> {
        let mut all = params.to_vec();
        for (&k, new) in self.trained.iter().zip(trained) {
            all[k] = new;
        }
        all
    }

    /// The program. What it changes is donated to results of the same name, which come first; those called `more` follow.
    pub fn lower(
        &self,
        name: &str,
        func: &Func,
        arguments: Vec<Argument>,
        more: &[&str],
    ) -> Result<Program, LowerError> {
        let names: Vec<String> = arguments.into_iter().map(|(name, _)| name).collect();
        let replaced: Vec<usize> =
            self.changed.iter().copied().chain(self.params..=self.params + self.slots()).collect();
        let mut results: Vec<String> = replaced.iter().map(|&k| names[k].clone()).collect();
        results.extend(more.iter().map(ToString::to_string));
        let donations: Vec<(usize, usize)> = replaced.iter().enumerate().map(|(r, &a)| (a, r)).collect();
        lower(name, func, &names, &results, &donations)
    }

    /// Runs the program; returns the new state and the results that follow it.
    ///
    /// # Errors
    /// When data do not fit the program or the device fails.
    pub fn run<'a>(
        &self,
        program: &Executable,
        state: TrainState,
        lr: &'a Buffer,
        rest: impl IntoIterator<Item = &'a Buffer>,
    ) -> Result<(TrainState, Vec<Buffer>), SessionError> {
        let (changing, fixed): (Vec<_>, Vec<_>) =
            state.params.into_iter().enumerate().partition(|(k, _)| self.changed.contains(k));
        let fixed: Vec<Buffer> = fixed.into_iter().map(|(_, buffer)| buffer).collect();
        let mut changing = changing.into_iter().map(|(_, buffer)| Arg::Give(buffer));
        let mut kept = fixed.iter().map(Arg::Keep);
        let is_changed = |k: usize| self.changed.contains(&k);
        let mut args: Vec<Arg<'_>> =
            (0..self.params).filter_map(|k| if is_changed(k) { changing.next() } else { kept.next() }).collect();
        args.extend(state.slots.into_iter().chain([state.count]).map(Arg::Give));
        args.push(Arg::Keep(lr));
        for buffer in rest {
            args.push(Arg::Keep(buffer));
        }
        let mut results = program.run(args)?.into_iter();
        let mut fixed = fixed.into_iter();
        let params = (0..self.params)
            .map(|k| if is_changed(k) { results.next() } else { fixed.next() })
            .collect::<Option<Vec<_>>>();
        let slots: Vec<Buffer> = results.by_ref().take(self.slots()).collect();
        let (Some(params), Some(count)) = (params, results.next()) else {
            unreachable!("the runtime checks the number of results")
        };
        Ok((TrainState { params, slots, count }, results.collect()))
    }
}
