//! K steps at once.
//!
//! Everything a learner needs of a step, given the states before it and the outputs of its traced ops, is independent of
//! the other steps. So a chunk runs in two parts:
//!
//! 1. a loop over K steps that does nothing but the recurrence and keeps the states, op inputs and op outputs ([`Forward`]);
//! 2. the step mapped over all K at once ([`Steps`]): transitions, drives, learning signals and instantaneous gradients as
//!    large operations, with no loop.

use std::collections::HashMap;

use hlo::{
    Func, Graph, Mapped, Shape, Tensor, Value, scan,
    transform::{Dependence, Dual, Rules, jvp_with, pullback, vmap},
};

use super::{
    Attachment, Prepared, Structure,
    structure::{Group, Kind, drive, leads_to},
};

/// What the recurrence of a chunk leaves behind.
pub struct Forward {
    /// States after the chunk.
    pub states: Vec<Tensor>,
    /// States before each step, `[K, B, N]`; before a single step as they are, `[B, N]`.
    pub before: Vec<Tensor>,
    /// What was computed on the way in each step, `[K, B, N]`, by value of the step (see [`kept`]); of a single step nothing.
    pub known: HashMap<Value, Tensor>,
}

impl Forward {
    /// Runs `steps` steps. `inputs: [K, B, n_in]`.
    pub fn run(g: &Graph, p: &Prepared, s: &Structure, phis: &[Tensor], states: &[Tensor], inputs: &Tensor) -> Forward {
        if inputs.dims()[0] == 1 {
            return Forward::one(g, p, phis, states, &inputs.at(0));
        }
        let kept = kept(p, s);
        let mut results: Vec<Tensor> = p.new_states().to_vec();
        results.extend(kept.iter().map(|&v| p.body.graph().tensor(v)));
        let step = p.body.with_results(results);
        let mut shapes: Vec<Shape> = states.iter().map(|t| t.shape().clone()).collect();
        shapes.push(p.input.clone());
        shapes.extend(phis.iter().map(|t| t.shape().clone()));
        let n = states.len();
        let body = Func::trace(&shapes, |g, v| {
            let mut args: Vec<Tensor> = v[n + 1..].to_vec();
            args.extend_from_slice(&v[..=n]);
            args.push(g.zeros(&p.target)); // no state depends on the target
            let mut out = step.call(g, &args);
            let known = out.split_off(n);
            out.extend_from_slice(&v[..n]);
            out.extend(known);
            out
        });
        let (after, mut stacks) = scan(g, &body, inputs.dims()[0], false, states, std::slice::from_ref(inputs), phis);
        let known = stacks.split_off(n);
        Forward { states: after, before: stacks, known: kept.into_iter().zip(known).collect() }
    }

    /// Runs a single step. [`Steps`] does not map it, so that what is computed here is found there again.
    fn one(g: &Graph, p: &Prepared, phis: &[Tensor], states: &[Tensor], input: &Tensor) -> Forward {
        let mut args = [phis, states, std::slice::from_ref(input)].concat();
        args.push(g.zeros(&p.target)); // no state depends on the target
        let after = p.body.with_results(p.new_states().to_vec()).call(g, &args);
        Forward { states: after, before: states.to_vec(), known: HashMap::new() }
    }
}

/// What the loop computes and the mapped step need not compute again: inputs that depend on states, and outputs, of the recurrent
/// dense ops, and the new states. Those that the mapped step does not ask for are not stacked.
pub fn kept(p: &Prepared, s: &Structure) -> Vec<Value> {
    let old: Vec<Value> = p.old_states().iter().map(Tensor::value).collect();
    let of_states = Dependence::any(&p.body, &old);
    let dense = s.ops.iter().filter(|op| op.recurrent && op.kind == Kind::Dense);
    let mut kept = Vec::new();
    let ops = dense.flat_map(|op| op.x.filter(|x| of_states.has(*x)).into_iter().chain([op.y]));
    for v in ops.chain(p.new_states().iter().map(Tensor::value)) {
        if !kept.contains(&v) && !old.contains(&v) {
            kept.push(v);
        }
    }
    kept
}

/// Transitions of one group in every step: `d[a][c] = dh'_a/dh_c`, `[K, B, N]`; `None` is zero.
pub type Transition = Vec<Vec<Option<Tensor>>>;

/// Derivatives of the loss with respect to the states of every group, by group and state, `[K, B, N]`; `None` is zero.
pub type Signal = Vec<Vec<Option<Tensor>>>;

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
    graph: Graph,
    prepared: &'a Prepared,
    structure: &'a Structure,
    /// The mapped step.
    func: Func,
    /// Where the values of the step are in the mapped step.
    place: HashMap<Value, Value>,
    /// The arguments of the mapped step.
    args: Vec<Dual>,
    /// Values that the loop computed already.
    known: HashMap<Value, Tensor>,
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
        args.extend([if alone { inputs.at(0) } else { inputs.clone() }, target.clone()]);
        let mapped = |k: usize| !alone && k >= prepared.phis && k <= prepared.phis + prepared.states;
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
        Steps { graph: graph.clone(), prepared, structure, func, place, args, known, length }
    }

    fn rules(&self) -> Rules<'static> {
        Rules { known: self.known.clone(), ..Rules::default() }
    }

    fn at(&self, v: &Tensor) -> Tensor {
        self.func.graph().tensor(self.place[&v.value()])
    }

    fn new_states(&self) -> Func {
        self.func.with_results(self.prepared.new_states().iter().map(|s| self.at(s)).collect())
    }

    /// In the shape `[K, ..]` even where every step has the same, or there is one.
    fn per_step(&self, t: Tensor, dims: &[usize]) -> Tensor {
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

    /// `dL/dh'` of the summed loss at the end of every step, and the instantaneous gradients of those `phi` that have no
    /// trace (states before the step held fixed).
    pub fn signals(&self, attachment: Attachment) -> (Signal, Vec<Option<Tensor>>) {
        let g = &self.graph;
        let new: Vec<Value> = self.prepared.new_states().iter().map(|s| self.place[&s.value()]).collect();
        let seeds: Vec<Tensor> =
            new.iter().map(|v| g.placeholder(self.func.graph().tensor(*v).shape().clone())).collect();
        let mut args = self.args.clone();
        let plain: Vec<usize> = (0..self.prepared.phis)
            .filter(|&k| attachment == Attachment::Exit && self.prepared.is_trained(k) && !self.structure.is_traced(k))
            .collect();
        for &k in &plain {
            args[k].tangent = Some(g.placeholder(args[k].primal.shape().clone()));
        }
        // Consumers inside a state's own group do not see it perturbed: the trace has counted that route.
        let inside: Vec<Vec<bool>> = self
            .structure
            .groups
            .iter()
            .map(|group| leads_to(&self.func, &group.states.iter().map(|&s| new[s]).collect::<Vec<_>>()))
            .collect();
        let group_of = |v: Value| self.structure.groups.iter().position(|gr| gr.states.iter().any(|&s| new[s] == v));
        let sees = |consumer: usize, v: Value| match attachment {
            Attachment::InStep => true,
            Attachment::Exit => group_of(v).is_none_or(|gr| !inside[gr][consumer]),
        };
        let perturb = new.iter().copied().zip(seeds.iter().cloned()).collect();
        let rules = Rules { perturb, sees: Some(&sees), ..self.rules() };
        let loss = self.func.with_results(vec![self.at(self.prepared.loss())]);
        let env = jvp_with(g, &loss, &args, &rules);
        let Some(tangent) = env.get(loss.results()[0].value()).tangent.clone() else {
            return (self.no_signal(), vec![None; self.prepared.phis]);
        };
        let mut all = seeds;
        all.extend(plain.iter().filter_map(|&k| args[k].tangent.clone()));
        let mut found = pullback(g, &all, &[(tangent.clone(), tangent.full_like(1.0))]);
        let mut grads = vec![None; self.prepared.phis];
        for (&k, ct) in plain.iter().zip(found.split_off(new.len())) {
            grads[k] = ct;
        }
        (self.by_group(&found), grads)
    }

    /// `dL/dh` with respect to the states *before* every step, and the gradients of all `phi` in the step (both exact).
    pub fn entry_signals(&self) -> (Signal, Vec<Option<Tensor>>) {
        let g = &self.graph;
        let (first, last) = (self.prepared.phis, self.prepared.phis + self.prepared.states);
        let mut args = self.args.clone();
        let wrt: Vec<usize> = (0..last).filter(|&k| k >= first || self.prepared.is_trained(k)).collect();
        for &k in &wrt {
            args[k].tangent = Some(g.placeholder(args[k].primal.shape().clone()));
        }
        let loss = self.func.with_results(vec![self.at(self.prepared.loss())]);
        let env = jvp_with(g, &loss, &args, &self.rules());
        let Some(tangent) = env.get(loss.results()[0].value()).tangent.clone() else {
            return (self.no_signal(), vec![None; self.prepared.phis]);
        };
        let seeds: Vec<Tensor> = wrt.iter().filter_map(|&k| args[k].tangent.clone()).collect();
        let found = pullback(g, &seeds, &[(tangent.clone(), tangent.full_like(1.0))]);
        let mut cotangents = vec![None; last];
        for (&k, ct) in wrt.iter().zip(found) {
            cotangents[k] = ct;
        }
        let states = cotangents.split_off(first);
        (self.by_group(&states), cotangents)
    }

    fn no_signal(&self) -> Signal {
        self.structure.groups.iter().map(|g| vec![None; g.states.len()]).collect()
    }

    fn by_group(&self, states: &[Option<Tensor>]) -> Signal {
        let of = |g: &Group, s: usize| states[s].clone().map(|t| self.per_step(t, &g.dims));
        self.structure.groups.iter().map(|g| g.states.iter().map(|&s| of(g, s)).collect()).collect()
    }
}
