//! K steps at once.
//!
//! Everything a learner needs of a step, given the states before it and the outputs of its traced ops, is independent of
//! the other steps. So a chunk runs in two parts:
//!
//! 1. a loop over K steps that does nothing but the recurrence and keeps the states, op inputs and op outputs ([`Forward`]);
//! 2. the step mapped over all K at once ([`Steps`]): transitions, drives, and learning signals
//!    ([`signal`](super::signal)) as large operations, with no loop.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use hlo::{
    Dot, Func, Graph, Mapped, Shape, Tensor, Value,
    func::downcast,
    graph::Node,
    ops::meta::Tag,
    scan,
    transform::{Dependence, Dual, Rules, TangentOf, jvp_with, vmap},
};

use super::{
    Prepared, Rule, Structure,
    op::Kind,
    rule::Passage,
    signal::Later,
    structure::{Op, drive},
};
use crate::cell::context::NOISE;

/// What the recurrence of a chunk leaves behind.
#[derive(Clone)]
pub struct Forward {
    /// States after the chunk.
    pub states: Vec<Tensor>,
    /// States before each step, `[K, B, N]`; before a single step as they are, `[B, N]`.
    pub before: Vec<Tensor>,
    /// What was computed on the way in each step, `[K, B, N]`, by value of the step (see [`kept_values`]); of a single step nothing.
    pub known: HashMap<Value, Tensor>,
}

impl Forward {
    /// Runs `steps` steps. `inputs: [K, B, n_in]`.
    pub fn run(g: &Graph, p: &Prepared, s: &Structure, phis: &[Tensor], states: &[Tensor], inputs: &Tensor) -> Forward {
        match inputs.dims()[0] {
            1 => Forward::one(g, p, phis, states, &inputs.at(0)),
            _ => Forward::looped(g, p, s, phis, states, inputs, &[]),
        }
    }

    /// The same with values of every step, `[K, ..]`, even if there is a single one; `given` are [`projections`] that are known, of every
    /// step as well.
    pub fn looped(
        g: &Graph,
        p: &Prepared,
        s: &Structure,
        phis: &[Tensor],
        states: &[Tensor],
        inputs: &Tensor,
        given: &[Tensor],
    ) -> Forward {
        let kept = kept_values(p, s);
        let mut results: Vec<Tensor> = p.new_states().to_vec();
        results.extend(kept.iter().map(|&v| p.body.graph().tensor(v)));
        let known = projections(p, s).into_iter().take(given.len()).map(|v| p.body.graph().tensor(v));
        let step = Func::from_values(p.body.params().iter().cloned().chain(known).collect(), results);
        let rows: Vec<Tensor> = std::iter::once(inputs).chain(given).cloned().collect();
        let mut shapes: Vec<Shape> = states.iter().map(|t| t.shape().clone()).collect();
        shapes.extend(rows.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
        shapes.extend(phis.iter().map(|t| t.shape().clone()));
        let n = states.len();
        let body = Func::trace(&shapes, |g, v| {
            let (moving, phis) = v.split_at(n + rows.len());
            let mut args: Vec<Tensor> = [phis, &moving[..=n]].concat();
            args.push(g.zeros(&p.target)); // no state depends on the target
            args.extend_from_slice(&moving[n + 1..]);
            let mut out = step.call(g, &args);
            let known = out.split_off(n);
            out.extend_from_slice(&v[..n]);
            out.extend(known);
            out
        });
        let (after, mut stacks) = scan(g, &body, inputs.dims()[0], false, states, &rows, phis);
        let known = stacks.split_off(n);
        Forward { states: after, before: stacks, known: kept.into_iter().zip(known).collect() }
    }

    /// All that [`Forward::again`] asks for, of a loop: `[K, ..]` each.
    pub fn kept(&self, p: &Prepared, s: &Structure) -> Vec<Tensor> {
        let known = kept_values(p, s).into_iter().map(|v| self.known[&v].clone());
        known.chain(shifted(p).into_iter().map(|k| self.before[k].clone())).collect()
    }

    /// [`projections`] of every step of a loop: `[K, ..]` each.
    pub fn projections(&self, p: &Prepared, s: &Structure) -> Vec<Tensor> {
        projections(p, s).iter().map(|v| self.known[v].clone()).collect()
    }

    /// What a loop from `states` left behind, from what was kept of it.
    pub fn again(p: &Prepared, s: &Structure, states: &[Tensor], kept: &[Tensor]) -> Forward {
        let values = kept_values(p, s);
        let (known, others) = kept.split_at(values.len());
        let known: HashMap<Value, Tensor> = values.into_iter().zip(known.iter().cloned()).collect();
        let others: HashMap<usize, Tensor> = shifted(p).into_iter().zip(others.iter().cloned()).collect();
        let steps = kept[0].dims()[0];
        let first = |t: &Tensor| t.reshape(&[&[1], t.dims()].concat());
        let before = |(k, state): (usize, &Tensor)| match (known.get(&p.new_states()[k].value()), others.get(&k)) {
            _ if steps == 1 => state.clone(),
            (Some(new), _) => Tensor::concat(&[&first(state), &new.slice_axis(0, 0, steps - 1)], 0),
            (None, Some(before)) => before.clone(),
            (None, None) => first(state).broadcast_to(&[&[steps], state.dims()].concat()),
        };
        let before = states.iter().enumerate().map(before).collect();
        let after = |(k, state): (usize, &Tensor)| {
            known.get(&p.new_states()[k].value()).map_or_else(|| state.clone(), |new| new.at(steps - 1))
        };
        let after = states.iter().enumerate().map(after).collect();
        let known = known.into_iter().map(|(v, t)| (v, if steps == 1 { t.at(0) } else { t })).collect();
        Forward { states: after, before, known }
    }

    /// Runs a single step. [`Steps`] does not map it, so that what is computed here is found there again.
    fn one(g: &Graph, p: &Prepared, phis: &[Tensor], states: &[Tensor], input: &Tensor) -> Forward {
        let mut args = [phis, states, std::slice::from_ref(input)].concat();
        args.push(g.zeros(&p.target)); // no state depends on the target
        let after = p.body.with_results(p.new_states().to_vec()).call(g, &args);
        Forward { states: after, before: states.to_vec(), known: HashMap::new() }
    }
}

/// What is cheaper to keep than to compute again: outputs of the ops that read no state and have more inputs than their output has bytes, so
/// that a sequence of them is no larger than its input is in bytes.
pub fn projections(p: &Prepared, s: &Structure) -> Vec<Value> {
    let old: Vec<Value> = p.old_states().iter().map(Tensor::value).collect();
    let of_states = Dependence::any(&p.body, &old);
    let wide = |op: &&Op| {
        let output = p.body.graph().tensor(op.y).shape().bytes();
        op.x.is_some_and(|x| !of_states.has(x)) && op.input.iter().product::<usize>() >= output
    };
    let kept = kept_values(p, s);
    s.ops.iter().filter(wide).map(|op| op.y).filter(|y| kept.contains(y)).collect()
}

/// Shapes of [`Forward::kept`] in a step.
pub fn kept_shapes(p: &Prepared, s: &Structure) -> Vec<Shape> {
    let known = kept_values(p, s).into_iter().map(|v| p.body.graph().tensor(v).shape().clone());
    known.chain(shifted(p).into_iter().map(|k| p.old_states()[k].shape().clone())).collect()
}

/// States that the step does not compute: it hands them on from others.
fn shifted(p: &Prepared) -> Vec<usize> {
    let old: Vec<Value> = p.old_states().iter().map(Tensor::value).collect();
    let new = p.new_states().iter().map(Tensor::value);
    new.enumerate().filter(|(k, v)| old.contains(v) && old[*k] != *v).map(|(k, _)| k).collect()
}

/// What the loop computes and the mapped step need not compute again: inputs that depend on states, and outputs, of the recurrent
/// dense ops, the new states, and random numbers. Those that the mapped step does not ask for are not stacked, nor inputs that it finds
/// element by element, as spikes are found from potentials.
pub fn kept_values(p: &Prepared, s: &Structure) -> Vec<Value> {
    let old: Vec<Value> = p.old_states().iter().map(Tensor::value).collect();
    let of_states = Dependence::any(&p.body, &old);
    // What is the same in every step is not stacked.
    let arguments: Vec<Value> = p.body.params()[p.phis..].iter().map(Tensor::value).collect();
    let emitted = |node: &Node, k: usize| k < node.op.live_operands(node.operands.len());
    let moving = Dependence::new(&p.body, &arguments, emitted);
    let recurrent = s.ops.iter().filter(|op| op.recurrent && op.x.is_some() && moving.has(op.y));
    let noise = p.body.live(false).into_iter().filter(|(_, node)| is_noise(node));
    let noise: Vec<Value> = noise.map(|(node, _)| Value { node, result: 0 }).filter(|v| moving.has(*v)).collect();
    let outputs: Vec<Value> = recurrent.clone().map(|op| op.y).collect();
    let new_states: Vec<Value> = p.new_states().iter().map(Tensor::value).collect();
    let sources: HashSet<Value> = outputs.iter().chain(&new_states).chain(&noise).copied().collect();
    let found = |x: &Value| is_elementwise_of(p, *x, &sources, &mut HashSet::new());
    let ops = recurrent.flat_map(|op| op.x.filter(|x| of_states.has(*x) && !found(x)).into_iter().chain([op.y]));
    let mut kept = Vec::new();
    for v in ops.chain(new_states).chain(noise) {
        if !kept.contains(&v) && !old.contains(&v) {
            kept.push(v);
        }
    }
    kept
}

/// Whether a value of the step is found element by element from its arguments and from what is there.
fn is_elementwise_of(p: &Prepared, v: Value, there: &HashSet<Value>, seen: &mut HashSet<Value>) -> bool {
    if there.contains(&v) || !seen.insert(v) {
        return true;
    }
    let node = p.body.graph().node(v.node);
    let emitted = &node.operands[..node.op.live_operands(node.operands.len())];
    let moves = node.op.elementwise() || node.op.spreads() || emitted.is_empty();
    moves && emitted.iter().all(|&operand| is_elementwise_of(p, operand, there, seen))
}

fn is_noise(node: &Node) -> bool {
    downcast::<Tag>(node).is_some_and(|tag| tag.kind == NOISE)
}

/// Transitions of one group in every step: `d[a][c] = dh'_a/dh_c`, `[K, B, N]`; `None` is zero.
pub type Transition = Vec<Vec<Option<Tensor>>>;

/// What the steps of a chunk compute besides states.
pub struct Values {
    /// Loss, `[K]`.
    pub loss: Tensor,
    /// Output, `[K, B, C]`.
    pub out: Tensor,
    /// Input of each dense op, `[K, B, I]`, by op.
    pub inputs: HashMap<usize, Tensor>,
    /// Tracked values, `[K, ..]`.
    pub tracked: Vec<Tensor>,
}

/// The step mapped over the K steps of a chunk; a single step as it is.
pub struct Steps<'a> {
    pub(super) graph: Graph,
    pub(super) prepared: &'a Prepared,
    pub(super) structure: &'a Structure,
    /// The mapped step.
    pub(super) func: Func,
    /// Where the values of the step are in the mapped step.
    pub(super) place: HashMap<Value, Value>,
    /// The arguments of the mapped step.
    pub(super) args: Vec<Dual>,
    /// Values that the loop computed already.
    known: HashMap<Value, Tensor>,
    /// How derivatives pass some dense ops ([`Rule::feedback`]), by the op's place in the mapped step.
    feedback: HashMap<Value, TangentOf>,
    /// 1 for each step whose loss counts, 0 for others, `[K]`.
    counts: Option<Tensor>,
    /// What later losses ask of readouts.
    pub(super) later: Vec<Later>,
    /// Number of steps.
    pub length: usize,
}

impl<'a> Steps<'a> {
    /// Maps the step over a chunk that [`Forward`] has run.
    pub fn new(
        graph: &Graph,
        prepared: &'a Prepared,
        structure: &'a Structure,
        phis: &[Tensor],
        forward: &Forward,
        inputs: &Tensor,
        target: &Tensor,
    ) -> Steps<'a> {
        let length = inputs.dims()[0];
        let mut args: Vec<Tensor> = phis.to_vec();
        args.extend(forward.before.iter().cloned());
        let alone = length == 1;
        let own = prepared.target_per_step;
        args.push(if alone { inputs.at(0) } else { inputs.clone() });
        args.push(if alone && own { target.at(0) } else { target.clone() });
        let mapped = |k: usize| !alone && k >= prepared.phis && k <= prepared.phis + prepared.states + usize::from(own);
        let shapes: Vec<Shape> = args.iter().map(|t| t.shape().clone()).collect();
        let mut place = HashMap::new();
        let body = &prepared.body;
        let func = Func::trace(&shapes, |g, v| {
            let args: Vec<Mapped> =
                v.iter().enumerate().map(|(k, t)| Mapped { tensor: t.clone(), mapped: mapped(k) }).collect();
            let env = vmap(g, body, &args, length);
            for op in &structure.ops {
                place.insert(op.y, env.get(op.y).tensor.value());
                if let Some(x) = op.x {
                    place.insert(x, env.get(x).tensor.value());
                }
            }
            let placed = |node: &Node| node.op.name() == "custom-derivative" || is_noise(node);
            for (node, _) in body.live(false).iter().filter(|(_, node)| placed(node)) {
                let value = Value { node: *node, result: 0 };
                place.insert(value, env.get(value).tensor.value());
            }
            body.results()
                .iter()
                .map(|r| {
                    let result = env.get(r.value());
                    let result = if alone { result.tensor.clone() } else { result.materialize(length) };
                    place.insert(r.value(), result.value());
                    result
                })
                .collect()
        });
        let known = forward.known.iter().map(|(v, t)| (place[v], t.clone())).collect();
        let args = args.into_iter().map(|primal| Dual { primal, tangent: None }).collect();
        Steps {
            graph: graph.clone(),
            prepared,
            structure,
            func,
            place,
            args,
            known,
            feedback: HashMap::new(),
            counts: None,
            later: vec![],
            length,
        }
    }

    /// Learning signals pass back through dense ops as `rule` says.
    pub fn with_feedback(mut self, rule: &dyn Rule) -> Self {
        let dense = self.structure.ops.iter().filter(|op| op.kind == Kind::Dense);
        self.feedback = dense.filter_map(|op| Some((self.place[&op.y], self.feedback(rule, op)?))).collect();
        self
    }

    /// Only the losses of some steps count: `counts: [K]` is 1 for these and 0 for others.
    pub fn with_counts(mut self, counts: Option<&Tensor>) -> Self {
        self.counts = counts.cloned();
        self
    }

    /// Signals ask for the losses of later steps as well: `later` are derivatives with respect to new states, by group and state.
    pub fn with_later(mut self, later: Vec<(usize, usize, Tensor)>) -> Self {
        let place = |s: usize| self.place[&self.prepared.new_states()[s].value()];
        self.later = later.into_iter().map(|(group, s, asked)| (group, place(s), asked)).collect();
        self
    }

    /// A value of every step, `[K, ..]`, zero where the loss does not count.
    pub fn counted(&self, t: &Tensor) -> Tensor {
        match &self.counts {
            Some(counts) => t * counts.broadcast(t.dims(), &[0]),
            None => t.clone(),
        }
    }

    /// The tangent of `y = x W` with another matrix in place of `W` where `x` changes.
    fn feedback(&self, rule: &dyn Rule, op: &Op) -> Option<TangentOf> {
        let site = self.structure.ops.iter().filter(|o| o.kind == Kind::Dense && o.site == op.site);
        let place = site.take_while(|o| o.y != op.y).count();
        let weight = &self.args[op.phi].primal;
        let matrix = rule.feedback(&Passage { name: format!("{} {place}", op.site), weight })?;
        Some(Rc::new(move |operands: &[Tensor], tangents: &[Option<Tensor>]| {
            let (input, weight) = (tangents[1].as_ref(), tangents[2].as_ref());
            let product = |x: &Tensor, w: &Tensor| {
                x.dot_general(w, Dot { lhs_contract: vec![x.rank() - 1], rhs_contract: vec![0], ..Dot::default() })
            };
            Tensor::sum_of([input.map(|dx| product(dx, &matrix)), weight.map(|dw| product(&operands[1], dw))])
        }))
    }

    pub(super) fn rules(&self) -> Rules<'static> {
        Rules { known: self.known.clone(), tangents: self.feedback.clone(), ..Rules::default() }
    }

    pub(super) fn at(&self, v: &Tensor) -> Tensor {
        self.func.graph().tensor(self.place[&v.value()])
    }

    fn new_states(&self) -> Func {
        self.func.with_results(self.prepared.new_states().iter().map(|s| self.at(s)).collect())
    }

    /// In the shape `[K, ..]` even where every step has the same, or there is one.
    pub(super) fn per_step(&self, t: Tensor, dims: &[usize]) -> Tensor {
        let full: Vec<usize> = std::iter::once(self.length).chain(dims.iter().copied()).collect();
        t.broadcast_to(&full)
    }

    /// Values in every step.
    pub fn values(&self) -> Values {
        let env = jvp_with(&self.graph, &self.func, &self.args, &self.rules());
        let value = |v: &Tensor| env.get(self.place[&v.value()]).primal.clone();
        let per_step = |t: &Tensor| self.per_step(value(t), t.dims());
        let inputs = self.structure.ops.iter().enumerate().filter_map(|(k, op)| {
            let x = op.x?;
            let dims = self.prepared.body.graph().tensor(x).dims().to_vec();
            Some((k, self.per_step(env.get(self.place[&x]).primal.clone(), &dims)))
        });
        let inputs = inputs.collect();
        let tracked = self.prepared.tracked().iter().map(per_step).collect();
        Values { loss: per_step(self.prepared.loss()), out: per_step(self.prepared.out()), inputs, tracked }
    }

    /// Transition of every group, with all op outputs held fixed.
    pub fn transitions(&self) -> Vec<Transition> {
        let func = self.new_states();
        let cut = self.structure.ops.iter().map(|op| self.place[&op.y]).collect();
        let rules = Rules { cut, ..self.rules() };
        let groups = self.structure.groups.iter();
        groups
            .map(|group| {
                let mut d: Transition = vec![vec![None; group.states.len()]; group.states.len()];
                for (c, &state) in group.states.iter().enumerate() {
                    let mut args = self.args.clone();
                    let arg = &mut args[self.prepared.phis + state];
                    arg.tangent = Some(arg.primal.full_like(1.0));
                    let env = jvp_with(&self.graph, &func, &args, &rules);
                    for (a, &to) in group.states.iter().enumerate() {
                        let tangent = env.get(func.results()[to].value()).tangent.clone();
                        let tangent = tangent.filter(|t| t.as_constant() != Some(0.0));
                        d[a][c] = tangent.map(|t| self.per_step(t, &group.dims));
                    }
                }
                d
            })
            .collect()
    }

    /// `dh'/dy` of op `k` for the states of `group`, with all other op outputs held fixed, `[K, B, N]`.
    pub fn drive(&self, k: usize, group: usize) -> Vec<Option<Tensor>> {
        let func = self.new_states();
        let group = &self.structure.groups[group];
        let all = drive(&self.graph, &func, &self.args, self.structure, k, |v| self.place[&v], self.known.clone());
        group
            .states
            .iter()
            .map(|&s| all[s].clone().filter(|t| t.as_constant() != Some(0.0)).map(|t| self.per_step(t, &group.dims)))
            .collect()
    }
}
