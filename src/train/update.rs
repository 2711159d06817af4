//! What every program that updates parameters shares: its first arguments, the results that replace them, and its call.
//!
//! ```text
//! (params, slots, count, lr, ...) -> (changed params, slots, count, ...)     params that change, slots and count are donated
//! ```

use hlo::{
    Func, LowerError, Program, Shape, Tensor, lower,
    pjrt::{Arg, Buffer, Executable},
};

use super::{
    optimizer::Rule,
    replicas::{OfDevice, TrainState},
    session::SessionError,
};
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

    /// Runs the program on each device, which is given the learning rate and what follows it; returns the new state, and the results
    /// that follow it on the first device.
    ///
    /// # Errors
    /// When data do not fit the program or a device fails.
    pub fn run(
        &self,
        program: &Executable,
        state: TrainState,
        given: &[Vec<&Buffer>],
    ) -> Result<(TrainState, Vec<Buffer>), SessionError> {
        let (fixed, giving): (Vec<_>, Vec<_>) = state.each().map(|of_device| self.parted(of_device)).unzip();
        let arguments = fixed.iter().zip(giving).zip(given);
        let results =
            program.run_each(arguments.map(|((fixed, giving), given)| self.joined(fixed, giving, given)).collect())?;
        let mut rest = Vec::new();
        let states = fixed.into_iter().zip(results).map(|(fixed, results)| {
            let (state, more) = self.renewed(fixed, results);
            rest.push(more);
            state
        });
        let state = TrainState::together(states.collect());
        Ok((state, rest.swap_remove(0)))
    }

    /// Parameters that stay, and what is given away: parameters that change, slots, and the count.
    fn parted(&self, (params, slots, count): OfDevice) -> (Vec<Buffer>, Vec<Buffer>) {
        let (mut fixed, mut giving) = (Vec::new(), Vec::new());
        for (k, buffer) in params.into_iter().enumerate() {
            if self.changed.contains(&k) { &mut giving } else { &mut fixed }.push(buffer);
        }
        giving.extend(slots);
        giving.push(count);
        (fixed, giving)
    }

    /// The arguments of one device.
    fn joined<'a>(&self, fixed: &'a [Buffer], giving: Vec<Buffer>, given: &[&'a Buffer]) -> Vec<Arg<'a>> {
        let (mut fixed, mut giving) = (fixed.iter().map(Arg::Keep), giving.into_iter().map(Arg::Give));
        let params =
            (0..self.params).filter_map(|k| if self.changed.contains(&k) { giving.next() } else { fixed.next() });
        let mut all: Vec<Arg<'a>> = params.collect();
        all.extend(giving);
        all.extend(given.iter().copied().map(Arg::Keep));
        all
    }

    /// The new values of one device, and the results that follow them.
    fn renewed(&self, fixed: Vec<Buffer>, results: Vec<Buffer>) -> (OfDevice, Vec<Buffer>) {
        let (mut fixed, mut results) = (fixed.into_iter(), results.into_iter());
        let params = (0..self.params).map(|k| if self.changed.contains(&k) { results.next() } else { fixed.next() });
        let params = params.collect::<Option<Vec<_>>>();
        let slots: Vec<Buffer> = results.by_ref().take(self.slots()).collect();
        let (Some(params), Some(count)) = (params, results.next()) else {
            unreachable!("the runtime checks the number of results")
        };
        ((params, slots, count), results.collect())
    }
}
