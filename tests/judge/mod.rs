//! The definition of the online rules, carried out slowly.
//!
//! Nothing here is shared with `learn::chunk`, `learn::signal` or `learn::trace`: Jacobians of the step come from basis tangents,
//! groups and drives are read off those numbers, traces are dense arrays that advance step by step, and exact gradients come from
//! carrying the whole Jacobian forward. Everything is computed on the host in double precision.

#![allow(dead_code, unused_imports)] // each test binary uses its own part

pub mod case;
mod exact;
pub mod jacobian;
pub mod models;
mod rules;

use std::collections::HashMap;

use etrace::cell::{
    Model,
    context::{DENSE, ELEMENTWISE, USE},
};
use hlo::{HostValue, Value, func::downcast, ops::meta::Tag, transform::Dependence};

use case::Case;
pub use exact::Exact;
use jacobian::{Jacobian, Matrices, Source, Step};
pub use rules::Rule;

/// One use of a weight.
pub struct Op {
    pub y: Value,
    /// Input of a product; none of a parameter that acts position by position.
    pub x: Option<Value>,
    /// The weight where it is used.
    pub weight: Value,
    pub site: String,
    pub trained: bool,
    /// The groups that it drives.
    pub groups: Vec<usize>,
}

impl Op {
    pub fn traced(&self) -> bool {
        self.trained && !self.groups.is_empty()
    }
}

/// A model that the online rules do not take: some path moves values between positions.
#[derive(Debug)]
pub struct Refused(pub String);

/// What the judge knows of a model along one sequence.
pub struct Judge<'a> {
    model: &'a Model,
    step: Step,
    pub ops: Vec<Op>,
    /// States of each group.
    pub groups: Vec<Vec<usize>>,
    /// Parameters, states, input, target of every step.
    points: Vec<Vec<HostValue>>,
    facts: Vec<Facts>,
}

/// Numbers of one step. Positions are flat: batch, then neuron.
struct Facts {
    /// `dh'_a / dh_c` by group.
    transition: Vec<Vec<Vec<Vec<f64>>>>,
    /// The same with nothing held fixed, at equal positions.
    coupled: Vec<Vec<Vec<Vec<f64>>>>,
    /// `dh'_a / dy` by op and group.
    drive: HashMap<(usize, usize), Vec<Vec<f64>>>,
    /// `dloss / dh'` and `dloss / dh` on ways around `h'`, by group and state.
    after: Vec<Vec<Vec<f64>>>,
    before: Vec<Vec<Vec<f64>>>,
    /// `dloss / dy` on ways around the new states of the op's groups (traced ops), or on all ways (the others).
    output: Vec<Vec<f64>>,
    /// `dloss / dp` on ways around all ops, by parameter.
    plain: Vec<Vec<f64>>,
    /// Inputs of products.
    x: Vec<Vec<f64>>,
}

impl<'a> Judge<'a> {
    /// Runs the steps and finds all numbers.
    ///
    /// # Errors
    /// When a group or an op is not position-wise.
    pub fn new(case: &'a Case) -> Result<Judge<'a>, Refused> {
        let Case { model, objective, params, states, inputs, target, .. } = case;
        let step = Step::new(model, objective);
        let mut points = Vec::new();
        let mut states = states.to_vec();
        for input in inputs {
            let point = [&params[..], &states, &[input.clone(), target.clone()]].concat();
            states = step.func.evaluate(&point);
            states.truncate(model.states.len());
            points.push(point);
        }
        let ops = find_ops(model, &step);
        let mut judge = Judge { model, step, ops, groups: vec![], points, facts: vec![] };
        judge.groups = judge.find_groups()?;
        judge.find_drives()?;
        judge.facts = judge.find_facts();
        Ok(judge)
    }

    pub fn steps(&self) -> usize {
        self.points.len()
    }

    fn new_states(&self, states: &[usize]) -> Vec<Value> {
        states.iter().map(|&s| self.step.new_state(s)).collect()
    }

    fn outputs(&self) -> Vec<Value> {
        self.ops.iter().map(|op| op.y).collect()
    }

    /// The Jacobian in every step.
    fn everywhere(&self, sources: &[Source], held: &[Value], results: &[Value]) -> Vec<Matrices> {
        let jacobian = Jacobian::new(&self.step, sources, held, results);
        self.points.iter().map(|point| jacobian.at(point)).collect()
    }

    /// States of one shape are together if one passes to another, with the outputs of all ops held fixed.
    fn find_groups(&self) -> Result<Vec<Vec<usize>>, Refused> {
        let n = self.step.states;
        let all: Vec<usize> = (0..n).collect();
        let new = self.new_states(&all);
        let old = all.iter().map(|&s| Source::Old(s));
        let sources: Vec<Source> = old.chain(new.iter().map(|&v| Source::Inner(v))).collect();
        let found = self.everywhere(&sources, &self.outputs(), &new);
        let mut leader = all.clone();
        for (s, t) in all.iter().flat_map(|&s| all.iter().map(move |&t| (s, t))) {
            let alike = self.model.states[s].shape == self.model.states[t].shape;
            let passes = |m: &Matrices| !m.is_zero(t, s) || (s != t && !m.is_zero(t, n + s));
            if alike && found.iter().any(passes) {
                let (a, b) = (leader[s], leader[t]);
                leader.iter_mut().filter(|l| **l == a.max(b)).for_each(|l| *l = a.min(b));
            }
        }
        let groups: Vec<Vec<usize>> =
            all.iter().map(|&s| all.iter().copied().filter(|&t| leader[t] == s).collect()).collect();
        let groups: Vec<Vec<usize>> = groups.into_iter().filter(|g: &Vec<usize>| !g.is_empty()).collect();
        for group in &groups {
            for (&s, &t) in group.iter().flat_map(|s| group.iter().map(move |t| (s, t))) {
                if found.iter().any(|m| m.mixes(t, s)) {
                    let name = &self.model.states[t].name;
                    return Err(Refused(format!("state `{name}` mixes positions of its group")));
                }
            }
        }
        Ok(groups)
    }

    fn find_drives(&mut self) -> Result<(), Refused> {
        let sources: Vec<Source> = self.outputs().into_iter().map(Source::Inner).collect();
        let (mut own, mut mixed) = (vec![vec![]; self.ops.len()], vec![vec![]; self.ops.len()]);
        for (g, group) in self.groups.iter().enumerate() {
            // What passes another group's state drives that group.
            let others: Vec<usize> = (0..self.step.states).filter(|s| !group.contains(s)).collect();
            let mut held = self.new_states(&others);
            held.extend(self.outputs());
            let found = self.everywhere(&sources, &held, &self.new_states(group));
            for k in 0..self.ops.len() {
                let states = || (0..group.len()).flat_map(|a| found.iter().map(move |m| (a, m)));
                if states().any(|(a, m)| m.mixes(a, k)) {
                    mixed[k].push(g);
                } else if states().any(|(a, m)| !m.is_zero(a, k)) {
                    own[k].push(g);
                }
            }
        }
        for (k, op) in self.ops.iter_mut().enumerate() {
            if own[k].is_empty() && !mixed[k].is_empty() {
                return Err(Refused(format!("op `{}` drives states only through a mixture of positions", op.site)));
            }
            op.groups = own[k].clone();
        }
        Ok(())
    }

    fn find_facts(&self) -> Vec<Facts> {
        let held_by = |groups: &[usize]| -> Vec<Value> {
            let states = groups.iter().flat_map(|&g| self.new_states(&self.groups[g]));
            let ops = self.ops.iter().filter(|op| op.groups.iter().any(|g| groups.contains(g)));
            states.chain(ops.map(|op| op.y)).collect()
        };
        let mut facts: Vec<Facts> = self.points.iter().map(|_| self.no_facts()).collect();
        for (g, group) in self.groups.iter().enumerate() {
            let mut sources: Vec<Source> = group.iter().map(|&s| Source::Old(s)).collect();
            sources.extend(self.outputs().into_iter().map(Source::Inner));
            let found = self.everywhere(&sources, &self.outputs(), &self.new_states(group));
            for (facts, m) in facts.iter_mut().zip(&found) {
                let n = group.len();
                facts.transition[g] = (0..n).map(|a| (0..n).map(|c| m.diagonal(a, c)).collect()).collect();
                for k in (0..self.ops.len()).filter(|&k| self.ops[k].groups.contains(&g)) {
                    facts.drive.insert((k, g), (0..n).map(|a| m.diagonal(a, n + k)).collect());
                }
            }
            let old: Vec<Source> = group.iter().map(|&s| Source::Old(s)).collect();
            let found = self.everywhere(&old, &[], &self.new_states(group));
            for (facts, m) in facts.iter_mut().zip(&found) {
                let n = group.len();
                facts.coupled[g] = (0..n).map(|a| (0..n).map(|c| m.diagonal(a, c)).collect()).collect();
            }
            let mut sources: Vec<Source> = self.new_states(group).into_iter().map(Source::Inner).collect();
            sources.extend(group.iter().map(|&s| Source::Old(s)));
            let found = self.everywhere(&sources, &held_by(&[g]), &[self.step.loss()]);
            for (facts, m) in facts.iter_mut().zip(&found) {
                let n = group.len();
                facts.after[g] = (0..n).map(|a| m.gradient(0, a)).collect();
                facts.before[g] = (0..n).map(|a| m.gradient(0, n + a)).collect();
            }
        }
        for (k, op) in self.ops.iter().enumerate() {
            let held = if op.traced() { held_by(&op.groups) } else { vec![] };
            // An output that is itself a new state is met there.
            let state = (0..self.step.states).any(|s| self.step.new_state(s) == op.y);
            if !(op.traced() && state) {
                let found = self.everywhere(&[Source::Inner(op.y)], &held, &[self.step.loss()]);
                facts.iter_mut().zip(&found).for_each(|(facts, m)| facts.output[k] = m.gradient(0, 0));
            }
        }
        let params: Vec<Source> = (0..self.step.params).map(Source::Param).collect();
        let uses: Vec<Value> = self.ops.iter().map(|op| op.weight).collect();
        let found = self.everywhere(&params, &uses, &[self.step.loss()]);
        for (facts, m) in facts.iter_mut().zip(&found) {
            facts.plain = (0..self.step.params).map(|p| m.gradient(0, p)).collect();
        }
        let dense: Vec<usize> = (0..self.ops.len()).filter(|&k| self.ops[k].x.is_some()).collect();
        let inputs = dense.iter().filter_map(|&k| self.ops[k].x).map(|x| self.step.tensor(x));
        let inputs = self.step.func.with_results(inputs.collect());
        for (facts, point) in facts.iter_mut().zip(&self.points) {
            for (&k, x) in dense.iter().zip(inputs.evaluate(point)) {
                facts.x[k] = x.data;
            }
        }
        facts
    }

    fn no_facts(&self) -> Facts {
        let size = |v: Value| self.step.tensor(v).shape().elements();
        let states: Vec<Vec<Vec<f64>>> = self.groups.iter().map(|g| vec![vec![]; g.len()]).collect();
        Facts {
            transition: vec![vec![]; self.groups.len()],
            coupled: vec![vec![]; self.groups.len()],
            drive: HashMap::new(),
            after: states.clone(),
            before: states,
            output: self.ops.iter().map(|op| vec![0.0; size(op.y)]).collect(),
            plain: vec![],
            x: vec![vec![]; self.ops.len()],
        }
    }

    /// Gradients of the parameters from those of the weights where ops use them, and from the rest.
    fn to_params(&self, by_op: &[Vec<f64>], plain: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let params: Vec<Source> = (0..self.step.params).map(Source::Param).collect();
        let uses: Vec<Value> = self.ops.iter().map(|op| op.weight).collect();
        let m = Jacobian::new(&self.step, &params, &[], &uses).at(&self.points[0]);
        let mut grads = plain.to_vec();
        for (p, grad) in grads.iter_mut().enumerate() {
            for (k, of_use) in by_op.iter().enumerate() {
                for (j, value) in grad.iter_mut().enumerate() {
                    *value += of_use.iter().enumerate().map(|(i, g)| g * m.get(k, i, p, j)).sum::<f64>();
                }
            }
        }
        grads
    }
}

fn find_ops(model: &Model, step: &Step) -> Vec<Op> {
    let trained: Vec<Value> =
        (0..step.params).filter(|&p| model.params[p].trainable).map(|p| step.func.params()[p].value()).collect();
    let depends = Dependence::any(&step.func, &trained);
    let live = step.func.live(false);
    let tags = live.iter().filter_map(|(index, node)| Some((*index, node, downcast::<Tag>(node)?)));
    tags.filter(|(_, _, tag)| tag.kind != USE && (tag.kind == DENSE || tag.kind == ELEMENTWISE))
        .map(|(index, node, tag)| {
            let dense = tag.kind == DENSE;
            let weight = node.operands[if dense { 2 } else { 1 }];
            Op {
                y: Value { node: index, result: 0 },
                x: dense.then(|| node.operands[1]),
                weight,
                site: tag.label.clone(),
                trained: depends.has(weight),
                groups: vec![],
            }
        })
        .collect()
}
