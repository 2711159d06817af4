//! What multiplies a trace from step to step, and the filter behind a trace: both as a change of what the traces are told of a step.
//!
//! The code of [`trace`](super::trace) knows transitions `D`, drives `f` and signals `m`, whatever they stand for. So a rule with another
//! recursion is D-RTRL with other transitions; and a filter `ebar_t = kappa ebar_{t-1} + e_t` is D-RTRL on a group of twice the states,
//!
//! ```text
//! [ e_t    ]   [ D      0   ] [ e_{t-1}    ]
//! [ ebar_t ] = [ D  kappa I ] [ ebar_{t-1} ]  +  x_t [f; f],          signals: [0; m]
//! ```
//!
//! which holds for every form of the traces, and in streams. (Backwards it says that a signal is filtered from its step to earlier ones.)

use std::collections::HashMap;

use hlo::{
    DType, Func, Graph, Shape, Tensor, Value, scan_whole,
    transform::{Dual, Rules, jvp_with},
};

use super::{
    Prepared, Structure,
    chunk::{Steps, Transition},
    signal::Signal,
    structure::{Group, Link, drive, reach, reached, spread},
};

/// What multiplies a trace from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Recursion {
    /// The transition `D`, with all op outputs held fixed.
    #[default]
    Jacobian,
    /// One number in [0, 1), the same for every state, neuron and step; with 0 a trace is what its step adds.
    Leak(f64),
    /// The derivative of a neuron's new states by its old ones, with nothing held fixed: `D` and the neuron's connections to itself, direct
    /// ones and those of one step by way of others.
    Coupled,
}

impl Recursion {
    /// The structure as traces with this recursion see it: other states are reached.
    pub(super) fn structure(self, mut structure: Structure, prepared: &Prepared) -> Structure {
        if self == Recursion::Jacobian {
            return structure;
        }
        let survey = Survey::new(prepared);
        let coupled: Vec<Vec<Vec<Link>>> = match self {
            Recursion::Coupled => structure.groups.iter().map(|g| survey.coupled(prepared, &structure, g)).collect(),
            _ => vec![],
        };
        for k in 0..structure.ops.len() {
            if structure.ops[k].groups.is_empty() {
                continue;
            }
            let strength = survey.strength(&structure, k);
            let op = &structure.ops[k];
            let reached = op.groups.iter().map(|&g| {
                let driven: Vec<Link> = structure.groups[g].states.iter().map(|&s| strength[s]).collect();
                let read = |a: usize| survey.read[structure.groups[g].states[a]];
                match self {
                    Recursion::Coupled => reached(op, spread(&coupled[g], driven), read),
                    // A leak remembers a state that the step forgets.
                    Recursion::Leak(leak) if leak > 0.0 => reached(op, driven, |_| true),
                    _ => reached(op, driven, read),
                }
            });
            let reached = reached.collect();
            structure.ops[k].reached = reached;
        }
        structure
    }
}

/// The step in a graph that is thrown away.
struct Survey {
    graph: Graph,
    args: Vec<Dual>,
    /// (phi, old states, input, target) to new states.
    states: Func,
    phis: usize,
    /// Whether the step reads a state, by state.
    read: Vec<bool>,
}

impl Survey {
    fn new(prepared: &Prepared) -> Survey {
        let graph = Graph::new();
        let params = prepared.body.params().iter().enumerate();
        let dual = |(k, p): (usize, &Tensor)| Dual { primal: graph.parameter(k, p.shape().clone()), tangent: None };
        let args = params.map(dual).collect();
        let live = prepared.body.live(false);
        let reads = |state: &Tensor| live.iter().any(|(_, node)| node.operands.contains(&state.value()));
        let read = prepared.old_states().iter().map(reads).collect();
        let states = prepared.body.with_results(prepared.new_states().to_vec());
        Survey { graph, args, states, phis: prepared.phis, read }
    }

    /// `dh'/dy` of an op, by state.
    fn strength(&self, structure: &Structure, k: usize) -> Vec<Link> {
        let all = drive(&self.graph, &self.states, &self.args, structure, k, |v| v, HashMap::new());
        all.iter().map(|t| Link::of(t.as_ref())).collect()
    }

    /// The links of a group with nothing held fixed, `[a][c]`.
    fn coupled(&self, prepared: &Prepared, structure: &Structure, group: &Group) -> Vec<Vec<Link>> {
        let mut links = vec![vec![Link::None; group.states.len()]; group.states.len()];
        for (c, &from) in group.states.iter().enumerate() {
            let mut args = self.args.clone();
            let arg = &mut args[self.phis + from];
            arg.tangent = Some(arg.primal.full_like(1.0));
            let env = jvp_with(&self.graph, &self.states, &args, &Rules::default());
            for (a, &to) in group.states.iter().enumerate() {
                links[a][c] = match passes_op(prepared, structure, from, to) {
                    true => Link::Varies,
                    false => Link::of(env.get(self.states.results()[to].value()).tangent.as_ref()),
                };
            }
        }
        links
    }
}

/// Whether a state reaches a new state by way of a traced op.
pub(super) fn passes_op(prepared: &Prepared, structure: &Structure, from: usize, to: usize) -> bool {
    let after = reach(&prepared.body, &[prepared.old_states()[from].value()], true);
    let passed: Vec<Value> = structure.ops.iter().map(|op| op.y).filter(|y| after.has(*y)).collect();
    !passed.is_empty() && reach(&prepared.body, &passed, true).has(prepared.new_states()[to].value())
}

impl Steps<'_> {
    /// What multiplies the traces of every group in each step.
    pub(super) fn recursion(&self, recursion: Recursion) -> Vec<Transition> {
        let groups = self.structure.groups.iter();
        match recursion {
            Recursion::Jacobian => self.transitions(),
            Recursion::Leak(leak) => groups.map(|group| self.leak(group, leak)).collect(),
            Recursion::Coupled => groups.zip(self.transitions()).map(|(group, d)| self.coupled(group, d)).collect(),
        }
    }

    fn leak(&self, group: &Group, leak: f64) -> Transition {
        let n = group.states.len();
        let shape = Shape::f32([&[self.length], &group.dims[..]].concat());
        let entry = |a: usize, c: usize| (a == c && leak != 0.0).then(|| self.graph.full(&shape, leak));
        (0..n).map(|a| (0..n).map(|c| entry(a, c)).collect()).collect()
    }

    /// `cut` with the entries that pass an op taken from the whole Jacobian.
    fn coupled(&self, group: &Group, mut cut: Transition) -> Transition {
        for (c, &from) in group.states.iter().enumerate() {
            let passes = |&a: &usize| passes_op(self.prepared, self.structure, from, group.states[a]);
            let rows: Vec<usize> = (0..group.states.len()).filter(passes).collect();
            for (&a, entry) in rows.iter().zip(self.diagonal(group, from, &rows)) {
                cut[a][c] = Some(self.per_step(entry, &group.dims));
            }
        }
        cut
    }

    /// Derivatives of the new states at `rows` of a group by the old state `from`, at equal positions: neuron by neuron, one derivative of
    /// the step for each, so that no matrix of neurons by neurons is kept.
    fn diagonal(&self, group: &Group, from: usize, rows: &[usize]) -> Vec<Tensor> {
        if rows.is_empty() {
            return vec![];
        }
        let new = rows.iter().map(|&a| self.at(&self.prepared.new_states()[group.states[a]]));
        let func = self.func.with_results(new.collect());
        let live = func.live(false);
        let known = self.rules().known.into_iter().filter(|(v, _)| live.iter().any(|(node, _)| *node == v.node));
        let mut known: Vec<(Value, Tensor)> = known.collect();
        known.sort_by_key(|(v, _)| (v.node, v.result));
        let mut consts: Vec<Tensor> = self.args.iter().map(|dual| dual.primal.clone()).collect();
        consts.extend(known.iter().map(|(_, t)| t.clone()));
        let neurons = group.dims[group.dims.len() - 1];
        let shapes: Vec<Shape> =
            std::iter::once(Shape::s32([])).chain(consts.iter().map(|t| t.shape().clone())).collect();
        let body = Func::trace(&shapes, |g, v| {
            let (args, values) = v[1..].split_at(self.args.len());
            let mut args: Vec<Dual> = args.iter().map(|t| Dual { primal: t.clone(), tangent: None }).collect();
            let shape = args[self.prepared.phis + from].primal.shape().clone();
            let last = shape.dims.len() - 1;
            let here = g.iota(shape.with_dtype(DType::S32), last).eq(&v[0].broadcast(&shape.dims, &[]));
            let here = here.convert(DType::F32);
            args[self.prepared.phis + from].tangent = Some(here.clone());
            let known = known.iter().map(|(v, _)| *v).zip(values.iter().cloned()).collect();
            let env = jvp_with(g, &func, &args, &Rules { known, ..Rules::default() });
            let of = |r: &Tensor| env.get(r.value()).tangent.clone().unwrap_or_else(|| here.zeros_like());
            func.results().iter().map(|r| (of(r) * &here).sum(&[last])).collect()
        });
        let index = self.graph.iota(Shape::s32([neurons]), 0);
        let found = scan_whole(&self.graph, &body, neurons, false, &[], &[index], &consts).1;
        let to_last = |t: &Tensor| t.transpose(&(1..t.rank()).chain([0]).collect::<Vec<_>>());
        found.iter().map(to_last).collect()
    }
}

/// A filter behind every trace; see the [module](self).
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter(pub f64);

impl Filter {
    /// Every group with twice the states: traces, and filtered ones.
    pub fn structure(self, structure: &Structure) -> Structure {
        let mut twice = structure.clone();
        for group in &mut twice.groups {
            group.states = group.states.repeat(2);
        }
        for op in &mut twice.ops {
            for (reach, &g) in op.reached.iter_mut().zip(&op.groups) {
                let n = structure.groups[g].states.len();
                let more = |all: &[usize]| -> Vec<usize> { all.iter().map(|a| a + n).collect() };
                let (states, numbers) = (more(&reach.states), more(&reach.numbers));
                // The filter remembers what its state forgets.
                for &a in &states {
                    let uniform = op.kind.operator().may_be_uniform() && numbers.contains(&a);
                    if uniform { reach.uniform.push(a) } else { reach.wide.push(a) }
                }
                reach.states.extend(states);
                reach.numbers.extend(numbers);
            }
        }
        twice
    }

    /// The transitions of such groups, of which `groups` have the simple ones.
    pub fn transitions(self, g: &Graph, groups: &[Group], length: usize, simple: Vec<Transition>) -> Vec<Transition> {
        let twice = |(d, group): (Transition, &Group)| {
            let n = d.len();
            let kappa = g.full(&Shape::f32([&[length], &group.dims[..]].concat()), self.0);
            let entry = |a: usize, c: usize| match (a < n, c < n) {
                (_, true) => d[a % n][c].clone(),
                (false, false) if a == c => Some(kappa.clone()),
                _ => None,
            };
            (0..2 * n).map(|a| (0..2 * n).map(|c| entry(a, c)).collect()).collect()
        };
        simple.into_iter().zip(groups).map(twice).collect()
    }

    /// A drive reaches both.
    pub fn drive(self, drive: Vec<Option<Tensor>>) -> Vec<Option<Tensor>> {
        [&drive[..], &drive].concat()
    }

    /// A signal meets the filtered traces only.
    pub fn signal(self, signal: Signal) -> Signal {
        signal.into_iter().map(|states| [vec![None; states.len()], states].concat()).collect()
    }
}
