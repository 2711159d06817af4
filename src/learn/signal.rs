//! Learning signals: how the loss of a step depends on what a rule has traces of.
//!
//! The loss of step t is a function of a group's states before the step `h_{t-1}`, of the outputs `y_t` of the ops that drive
//! the group, and of its states after the step `h_t`. The new states of every *other* group, and the outputs of ops that drive
//! only those, are followed through. With the trace `e_t = dh_t/dw` of a rule,
//!
//! ```text
//! dloss_t/dw = dloss_t/dh_t . e_t  +  dloss_t/dh_{t-1} . e_{t-1}  +  dloss_t/dy_t (x) x_t
//!              after                  before                         direct
//! ```
//!
//! Most neurons are read through their new states, and only the first term is there. A spike that is read before the reset of
//! the same step, or an old state that is read by another layer, gives the others. All three are partial derivatives: the other
//! two arguments, and the outputs of the other ops of the group, are held fixed. (What passes through them is either in the
//! trace, or is the passage from neuron to neuron that the online rules leave out.)
//!
//! Definitions: `docs/spec/algorithms.md, "The learning signal"` and
//! `docs/spec/algorithms.md, "Ways around the new states"`.

use hlo::{
    Tensor, Value,
    transform::{Dual, Rules, jvp_with, pullback},
};
use serde::{Deserialize, Serialize};

use super::{
    Attachment, Rule,
    chunk::Steps,
    recursion::passes_op,
    rule::{Moment, Received},
    structure::Group,
};

/// How far the learning signals of a rule look ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ahead {
    /// To the loss of the step.
    #[default]
    Step,
    /// Through the memory of the readout, too, to the losses of later steps. With the whole sequence at hand the recursion of a readout
    /// runs backwards exactly, position by position.
    Readout,
}

/// What the losses of later steps ask of the new state of a readout: its group, its place in the mapped step, and the derivative in every
/// step, `[K, B, C]`.
pub(super) type Later = (usize, Value, Tensor);

/// Derivatives of the loss with respect to the states of every group, by group and state, `[K, B, N]`; `None` is zero.
pub type Signal = Vec<Vec<Option<Tensor>>>;

/// Everything that the losses of some steps ask of a rule.
pub struct Signals {
    /// With respect to the states after each step.
    pub after: Signal,
    /// With respect to the states before each step, on ways that pass none of the group's new states.
    pub before: Signal,
    /// With respect to the output of each traced op, on ways that pass no new state of a group that it drives, by op,
    /// `[K, B, N]`.
    pub direct: Vec<Option<Tensor>>,
    /// Gradients of those `phi` that have no trace, with the states before each step held fixed.
    pub instant: Vec<Option<Tensor>>,
}

/// What a derivative is taken with respect to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A state after the step.
    New(usize),
    /// A state before the step.
    Old(usize),
    /// The output of an op.
    Output(usize),
    /// A `phi`.
    Phi(usize),
}

impl Steps<'_> {
    /// Signals of the summed loss under single-step rules.
    pub fn signals(&self, attachment: Attachment) -> Signals {
        match attachment {
            Attachment::Exit => self.exit_signals(),
            Attachment::InStep => Signals { after: self.in_step_signals(), ..self.no_signals() },
        }
    }

    /// What `rule` makes of signals before they meet traces; `time` are the steps before the chunk, `s32[]`, and `parts` the number of
    /// devices that share a batch, whose gradients are averaged.
    pub fn received(&self, mut signals: Signals, rule: &dyn Rule, time: &Tensor, parts: usize) -> Signals {
        let Some(reception) = rule.reception() else { return signals };
        let receive = |group: usize, moment: Moment, signal: &mut Option<Tensor>| {
            let dims = &self.structure.groups[group].dims;
            let dims = [self.length, dims[0], dims[1]];
            let received = reception.receive(&Received { group, moment, signal: signal.as_ref(), dims, time });
            let shared = if reception.adds_up() { parts as f64 } else { 1.0 };
            *signal = received.map(|t| self.counted(&t)).map(|t| if shared == 1.0 { t } else { t * shared });
        };
        for (moment, all) in [(Moment::After, &mut signals.after), (Moment::Before, &mut signals.before)] {
            for (group, states) in all.iter_mut().enumerate() {
                states.iter_mut().for_each(|signal| receive(group, moment, signal));
            }
        }
        for (op, signal) in self.structure.ops.iter().zip(&mut signals.direct) {
            if let Some(&group) = op.groups.first() {
                receive(group, Moment::Direct, signal);
            }
        }
        signals
    }

    /// Adds to the signals before each step what those after it send back through the connections within their group.
    pub fn hopped(&self, mut signals: Signals, rule: &dyn Rule) -> Signals {
        if !rule.one_hop() {
            return signals;
        }
        let transitions = self.transitions();
        for (g, d) in transitions.iter().enumerate() {
            let back = self.back_through_ops(g, &signals.after[g]);
            for (c, back) in back.into_iter().enumerate() {
                // Everything less what stays at its position, which is in the trace.
                let stays = d.iter().zip(&signals.after[g]).map(|(d, m)| Some(-(d[c].as_ref()? * m.as_ref()?)));
                let hop = back.and_then(|back| Tensor::sum_of([Some(back)].into_iter().chain(stays)));
                let before = &mut signals.before[g][c];
                *before = Tensor::sum_of([before.take(), hop]);
            }
        }
        signals
    }

    /// Signals after each step, carried to the states before it on all ways that pass no other group's new state; nothing for states without
    /// a way through an op.
    fn back_through_ops(&self, g: usize, after: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let states = &self.structure.groups[g].states;
        let new = |s: usize| self.at(&self.prepared.new_states()[s]);
        let func = self.func.with_results(states.iter().map(|&s| new(s)).collect());
        let others = (0..self.prepared.states).filter(|s| !states.contains(s));
        let rules = Rules { cut: others.map(|s| new(s).value()).collect(), ..self.rules() };
        let connected = |&c: &usize| states.iter().any(|&a| passes_op(self.prepared, self.structure, states[c], a));
        let from: Vec<usize> = (0..states.len()).filter(connected).collect();
        let mut args = self.args.clone();
        let mut seeds = Vec::new();
        for &c in &from {
            let arg = &mut args[self.prepared.phis + states[c]];
            seeds.push(self.graph.placeholder(arg.primal.shape().clone()));
            arg.tangent = seeds.last().cloned();
        }
        let env = jvp_with(&self.graph, &func, &args, &rules);
        let end = |(r, m): (&Tensor, &Option<Tensor>)| {
            let (tangent, m) = (env.get(r.value()).tangent.clone()?, m.as_ref()?);
            let m = if tangent.rank() < m.rank() { m.at(0) } else { m.clone() };
            Some((tangent, m))
        };
        let ends: Vec<(Tensor, Tensor)> = func.results().iter().zip(after).filter_map(end).collect();
        let mut back = vec![None; states.len()];
        for (&c, ct) in from.iter().zip(pullback(&self.graph, &seeds, &ends)) {
            back[c] = ct.map(|t| self.per_step(t, &self.structure.groups[g].dims));
        }
        back
    }

    fn exit_signals(&self) -> Signals {
        let mut signals = self.no_signals();
        for (g, group) in self.structure.groups.iter().enumerate() {
            let outputs = self.structure.traced().filter(|(_, op)| op.groups == [g]).map(|(k, _)| k);
            let outputs: Vec<usize> = outputs.filter(|&k| !self.is_state(k)).collect();
            let mut sources: Vec<Source> = group.states.iter().map(|&s| Source::New(s)).collect();
            sources.extend(group.states.iter().map(|&s| Source::Old(s)));
            sources.extend(outputs.iter().map(|&k| Source::Output(k)));
            let mut found = self.partials(&sources, &[g]).into_iter();
            for signal in [&mut signals.after, &mut signals.before] {
                signal[g] = found.by_ref().take(group.states.len()).collect();
            }
            for (k, ct) in outputs.into_iter().zip(found) {
                signals.direct[k] = ct;
            }
        }
        let several = self.structure.traced().filter(|(k, op)| op.groups.len() > 1 && !self.is_state(*k));
        for (k, op) in several {
            signals.direct[k] = self.partials(&[Source::Output(k)], &op.groups).swap_remove(0);
        }
        let plain = (0..self.prepared.phis).filter(|&k| self.prepared.is_trained(k) && !self.structure.is_traced(k));
        let plain: Vec<usize> = plain.collect();
        let sources: Vec<Source> = plain.iter().map(|&k| Source::Phi(k)).collect();
        for (k, ct) in plain.into_iter().zip(self.partials(&sources, &[])) {
            signals.instant[k] = ct;
        }
        signals
    }

    /// Derivatives of the summed loss with respect to `sources`, with the new states of `held` groups and the outputs of the ops
    /// that drive them held fixed.
    fn partials(&self, sources: &[Source], held: &[usize]) -> Vec<Option<Tensor>> {
        let g = &self.graph;
        let new = |s: usize| self.place[&self.prepared.new_states()[s].value()];
        let output = |k: usize| self.place[&self.structure.ops[k].y];
        let mut rules = self.rules();
        rules.cut = held.iter().flat_map(|&g| &self.structure.groups[g].states).map(|&s| new(s)).collect();
        let drives = |groups: &[usize]| groups.iter().any(|g| held.contains(g));
        let ops = self.structure.ops.iter().filter(|op| drives(&op.groups));
        rules.cut.extend(ops.map(|op| self.place[&op.y]));
        let mut args = self.args.clone();
        let mut seeds = Vec::new();
        for source in sources {
            let value = match *source {
                Source::New(s) => Ok(new(s)),
                Source::Output(k) => Ok(output(k)),
                Source::Old(s) => Err(self.prepared.phis + s),
                Source::Phi(k) => Err(k),
            };
            let seed = match value {
                Ok(value) => {
                    let seed = g.placeholder(self.func.graph().tensor(value).shape().clone());
                    rules.perturb.insert(value, seed.clone());
                    seed
                }
                Err(arg) => {
                    let seed = g.placeholder(args[arg].primal.shape().clone());
                    args[arg].tangent = Some(seed.clone());
                    seed
                }
            };
            seeds.push(seed);
        }
        let found = self.pull_loss(&args, &rules, &seeds, held);
        let shaped = |(ct, source): (Option<Tensor>, &Source)| {
            let ct = ct.filter(|t| t.as_constant() != Some(0.0))?;
            Some(match *source {
                Source::New(s) | Source::Old(s) => self.per_step(ct, self.prepared.new_states()[s].dims()),
                Source::Output(k) => self.of_steps(ct, self.output_dims(k)),
                Source::Phi(_) => ct,
            })
        };
        found.into_iter().zip(sources).map(shaped).collect()
    }

    /// In the shape `[K, ..]`. An op whose output is the same in every step (a bias) has one derivative for all of them, which is
    /// put to the first: only the sum matters where the inputs of the op are the same, too.
    fn of_steps(&self, ct: Tensor, dims: &[usize]) -> Tensor {
        if self.length == 1 || ct.rank() > dims.len() {
            return self.per_step(ct, dims);
        }
        let (zeros, mut high) = (vec![0; dims.len() + 1], vec![0; dims.len() + 1]);
        high[0] = self.length - 1;
        ct.reshape(&[&[1], dims].concat()).pad(&zeros, &high)
    }

    /// Cotangents of `seeds` in the summed loss, and in what later losses ask of readouts that are not `held`.
    pub(super) fn pull_loss(
        &self,
        args: &[Dual],
        rules: &Rules<'_>,
        seeds: &[Tensor],
        held: &[usize],
    ) -> Vec<Option<Tensor>> {
        let later: Vec<&Later> = self.later.iter().filter(|(g, ..)| !held.contains(g)).collect();
        let mut results = vec![self.at(self.prepared.loss())];
        results.extend(later.iter().map(|(_, place, _)| self.func.graph().tensor(*place)));
        let func = self.func.with_results(results);
        let env = jvp_with(&self.graph, &func, args, rules);
        let tangent = |v: Value| env.get(v).tangent.clone();
        let mut ends = Vec::new();
        if let Some(tangent) = tangent(func.results()[0].value()) {
            let one = tangent.full_like(1.0);
            // Of a single step the loss has no axis.
            let seed = if tangent.rank() == 0 { self.counted(&one.reshape(&[1])).at(0) } else { self.counted(&one) };
            ends.push((tangent, seed));
        }
        for (_, place, asked) in later {
            let asked = |tangent: &Tensor| if tangent.rank() < asked.rank() { asked.at(0) } else { asked.clone() };
            ends.extend(tangent(*place).map(|t| (t.clone(), asked(&t))));
        }
        if ends.is_empty() { vec![None; seeds.len()] } else { pullback(&self.graph, seeds, &ends) }
    }

    /// Whether the output of an op is itself a new state, so that every way from it passes that state.
    fn is_state(&self, k: usize) -> bool {
        let y = self.structure.ops[k].y;
        self.prepared.new_states().iter().any(|s| s.value() == y)
    }

    fn output_dims(&self, k: usize) -> &[usize] {
        let op = &self.structure.ops[k];
        &self.structure.groups[op.groups[0]].dims
    }

    /// Signals as the reference library attaches them: every state perturbed where it is written, so that ways through other
    /// states of its group count twice.
    fn in_step_signals(&self) -> Signal {
        let new = self.prepared.new_states().iter().map(|s| self.place[&s.value()]);
        let seeds: Vec<(Value, Tensor)> =
            new.map(|v| (v, self.graph.placeholder(self.func.graph().tensor(v).shape().clone()))).collect();
        let rules = Rules { perturb: seeds.iter().cloned().collect(), ..self.rules() };
        let seeds: Vec<Tensor> = seeds.into_iter().map(|(_, seed)| seed).collect();
        self.by_group(&self.pull_loss(&self.args, &rules, &seeds, &[]))
    }

    /// Signals of the loss of a step as exact derivatives: `dL/dh` with respect to the states *before* every step (`before`), `dL/dy` of the
    /// ops `outputs` (`direct`), and the gradients of the `phi` that are not theirs (`instant`).
    pub fn entry_signals(&self, outputs: &[usize]) -> Signals {
        let (first, last) = (self.prepared.phis, self.prepared.phis + self.prepared.states);
        let theirs = |phi: usize| outputs.iter().any(|&k| self.structure.ops[k].phi == phi);
        let learns = |phi: usize| self.prepared.is_trained(phi) && !theirs(phi);
        let (mut args, mut rules, mut seeds) = (self.args.clone(), self.rules(), Vec::new());
        let wrt: Vec<usize> = (0..last).filter(|&k| k >= first || learns(k)).collect();
        for &k in &wrt {
            seeds.push(self.graph.placeholder(args[k].primal.shape().clone()));
            args[k].tangent = seeds.last().cloned();
        }
        for &k in outputs {
            let y = self.place[&self.structure.ops[k].y];
            seeds.push(self.graph.placeholder(self.func.graph().tensor(y).shape().clone()));
            rules.perturb.extend(seeds.last().map(|seed| (y, seed.clone())));
        }
        let mut found = self.pull_loss(&args, &rules, &seeds, &[]).into_iter();
        let (mut cotangents, mut signals) = (vec![None; last], self.no_signals());
        for (&k, ct) in wrt.iter().zip(found.by_ref()) {
            cotangents[k] = ct;
        }
        for (&k, ct) in outputs.iter().zip(found) {
            let ct = ct.filter(|t| t.as_constant() != Some(0.0));
            signals.direct[k] = ct.map(|t| self.of_steps(t, self.output_dims(k)));
        }
        let states = cotangents.split_off(first);
        Signals { before: self.by_group(&states), instant: cotangents, ..signals }
    }

    /// No signal at all.
    pub fn no_signals(&self) -> Signals {
        let none: Signal = self.structure.groups.iter().map(|g| vec![None; g.states.len()]).collect();
        Signals {
            after: none.clone(),
            before: none,
            direct: vec![None; self.structure.ops.len()],
            instant: vec![None; self.prepared.phis],
        }
    }

    fn by_group(&self, states: &[Option<Tensor>]) -> Signal {
        let of = |g: &Group, s: usize| states[s].clone().map(|t| self.per_step(t, &g.dims));
        self.structure.groups.iter().map(|g| g.states.iter().map(|&s| of(g, s)).collect()).collect()
    }
}
