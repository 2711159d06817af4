//! D-RTRL without weight-sized traces: learning signals are carried back over the last steps.
//!
//! With `D_s`, `f_s`, `x_s` transition, drive and op input of step s and `m_s` the learning signal after it, the rule's gradient is
//!
//! ```text
//! G = sum_t m_t . e_t = sum_s x_s (x) (f_s . lam_s),      lam_s = m_s + D_{s+1}^T lam_{s+1}
//! ```
//!
//! `lam_s` needs the future of s, and the transitions forget: what comes more than W steps later reaches it through a product of W of
//! them. So the last W steps of `D, f, m, x` are kept in **rings**, and after each chunk of K steps the recursion runs backwards over W + K
//! steps; the K oldest are then complete and give their part of the gradient in one product. At the end the rest follows exactly. What
//! is cut off is at most the largest product of transitions over W steps, times the signals beyond. Without rings (W = 0) and with `lam`
//! handed from a chunk to the one before it, the same recursion is exact: that is what `learn::backwards` does.
//!
//! Cost: products as in the forward pass, and element-wise recursions over (W + K) / K as many steps. Memory: W + K steps of values
//! `[B, N]`, whatever the length of the sequence and the size of the weights. (`docs/spec/algorithms.md, "Forms of one rule"`)

use std::collections::{BTreeMap, BTreeSet};

use hlo::{Graph, Shape, Tensor};

use super::{
    ChunkView, Slot, Slots, Traces,
    rows::{Row, Rows, Variation},
};
use crate::learn::structure::Structure;

/// A value of every step that the recursion needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "fields say what they number")]
pub enum Ring {
    /// `dh'_to / dh_from` of a group.
    Transition { group: usize, to: usize, from: usize },
    /// `dh'_state / dy` of a drive.
    Drive { drive: usize, group: usize, state: usize },
    /// The learning signal of a state.
    Signal { group: usize, state: usize },
    /// The signal of an op's output that bypasses the states.
    Direct(usize),
    /// The input of an op, by the first op that reads it.
    Input(usize),
}

/// How a value is had in every step.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// It is a number.
    Number(f64),
    /// It is the same in every step, `[B, N]`.
    Same(Vec<usize>),
    /// It differs from step to step, `[B, N]` each.
    Steps(Vec<usize>),
}

/// What is kept for the ops that learn in this form.
#[derive(Clone, Debug, Default)]
pub struct LagPlan {
    /// The ops, by number.
    pub ops: BTreeSet<usize>,
    /// Every value of the recursion that is not zero.
    pub kept: BTreeMap<Ring, Kept>,
    /// Ops whose input is that of the model: it is read where it is.
    pub outside: BTreeSet<usize>,
}

impl LagPlan {
    /// Looks at a chunk for what its steps differ in. `outside` are ops that read the model's input.
    pub fn new(view: &ChunkView<'_>, slots: &Slots, ops: BTreeSet<usize>, outside: BTreeSet<usize>) -> LagPlan {
        let mut plan = LagPlan { ops, kept: BTreeMap::new(), outside };
        for g in 0..view.structure.groups.len() {
            let states = plan.states(view.structure, g);
            for (&a, &c) in states.iter().flat_map(|a| states.iter().map(move |c| (a, c))) {
                plan.note(Ring::Transition { group: g, to: a, from: c }, view.transitions[g][a][c].as_ref());
            }
            for &a in &states {
                let both = [&slots.entry[g][a], &slots.steps[g][a]];
                if let Some(like) = both.into_iter().flatten().next() {
                    let dims = like.dims()[like.rank() - view.structure.groups[g].dims.len()..].to_vec();
                    plan.kept.insert(Ring::Signal { group: g, state: a }, Kept::Steps(dims));
                }
            }
        }
        for &k in &plan.ops.clone() {
            let op = &view.structure.ops[k];
            for &g in &op.groups {
                for &a in &op.reach(g).states {
                    plan.note(Ring::Drive { drive: op.drive, group: g, state: a }, view.drives[&(k, g)][a].as_ref());
                }
            }
            if let Some(direct) = &slots.direct[k] {
                plan.kept.insert(Ring::Direct(k), Kept::Steps(direct.dims()[1..].to_vec()));
            }
            if let Some(x) = view.inputs.get(&k).filter(|_| !plan.outside.contains(&k)) {
                let owner = view.plan.input_owner(view.structure, op);
                plan.kept.insert(Ring::Input(owner), Kept::Steps(x.dims()[1..].to_vec()));
            }
        }
        // Where a gradient need not vanish with its input, the drive must be zero before the first step.
        let others =
            plan.ops.iter().map(|&k| &view.structure.ops[k]).filter(|op| op.x.is_none() || op.function.is_some());
        for (op, &g) in others.flat_map(|op| op.groups.iter().map(move |g| (op, g))) {
            for &a in &op.reach(g).states {
                if let Some(kept) = plan.kept.get_mut(&Ring::Drive { drive: op.drive, group: g, state: a }) {
                    *kept = Kept::Steps(view.structure.groups[g].dims.clone());
                }
            }
        }
        plan
    }

    /// The same where parameters may change from step to step, so that what they decide differs in every one.
    #[must_use]
    pub fn of_each_step(mut self) -> LagPlan {
        for kept in self.kept.values_mut() {
            if let Kept::Same(dims) = kept {
                *kept = Kept::Steps(std::mem::take(dims));
            }
        }
        self
    }

    fn note(&mut self, ring: Ring, value: Option<&Tensor>) {
        let Some(t) = value else { return };
        let row = t.dims()[1..].to_vec();
        let kept = match Variation::of(t) {
            Variation::Number(number) => Kept::Number(number),
            Variation::Same(_) => Kept::Same(row),
            Variation::Steps => Kept::Steps(row),
        };
        self.kept.insert(ring, kept);
    }

    /// The states of a group that the drives of these ops reach.
    pub fn states(&self, structure: &Structure, g: usize) -> Vec<usize> {
        let ops = self.ops.iter().map(|&k| &structure.ops[k]).filter(|op| op.groups.contains(&g));
        let states: BTreeSet<usize> = ops.flat_map(|op| op.reach(g).states.iter().copied()).collect();
        states.into_iter().collect()
    }

    /// Arrays that pass from chunk to chunk with a lag of `steps`.
    pub fn slots(&self, steps: usize) -> BTreeMap<Slot, Shape> {
        let shape = |(&ring, kept): (&Ring, &Kept)| match kept {
            Kept::Number(_) => None,
            Kept::Same(dims) => Some((Slot::Same(ring), Shape::f32(dims.clone()))),
            Kept::Steps(dims) => Some((Slot::Ring(ring), Shape::f32([&[steps], &dims[..]].concat()))),
        };
        self.kept.iter().filter_map(shape).collect()
    }

    /// Bytes that each step of a ring takes.
    pub fn bytes_per_step(&self) -> usize {
        let steps = self.kept.values().filter_map(|kept| if let Kept::Steps(dims) = kept { Some(dims) } else { None });
        steps.map(|dims| 4 * dims.iter().product::<usize>()).sum()
    }
}

/// Signals that arrive from the steps after a stretch, by group and state, `[B, N]`.
pub type Arriving = Vec<Vec<Option<Tensor>>>;

/// A stretch of steps to carry signals back over.
pub struct Stretch<'a> {
    /// The graph under construction.
    pub graph: &'a Graph,
    /// Groups and ops.
    pub structure: &'a Structure,
    /// What is kept.
    pub plan: &'a LagPlan,
    /// Parameters as the step uses them.
    pub phis: &'a [Tensor],
    /// Number of steps.
    pub total: usize,
    /// How many of them, the oldest, are complete.
    pub complete: usize,
    /// Values of every step, `[total, B, N]`.
    steps: BTreeMap<Ring, Tensor>,
    /// Values that are the same in every step, `[B, N]`.
    same: BTreeMap<Ring, Tensor>,
}

/// What a stretch yields.
pub struct Pulled {
    /// The gradient of each op's weight, of the complete steps.
    pub grads: Vec<(usize, Tensor)>,
    /// What arrives at the step before the stretch.
    pub arriving: Arriving,
}

impl<'a> Stretch<'a> {
    /// A chunk with the `lag` steps before it, of which the oldest are complete now, as many as the chunk has. Signals at the entry of
    /// the chunk join those of the last step before it.
    pub fn new(
        view: &'a ChunkView<'a>,
        plan: &'a LagPlan,
        lag: usize,
        traces: Option<&Traces>,
        slots: Option<&Slots>,
    ) -> Stretch<'a> {
        let (total, complete) = (lag + view.length, view.length);
        let (mut steps, mut same) = (BTreeMap::new(), BTreeMap::new());
        for (&ring, kept) in &plan.kept {
            let now = value(view, plan, slots, ring);
            match kept {
                Kept::Number(_) => {}
                Kept::Same(_) => {
                    same.extend(now.map(|t| (ring, t.at(0))));
                }
                Kept::Steps(dims) => {
                    let zeros = |n: usize| view.graph.zeros(&Shape::f32([&[n], &dims[..]].concat()));
                    let now = now.unwrap_or_else(|| zeros(view.length));
                    let before = (lag > 0).then(|| {
                        let old = traces.and_then(|t| t.get(&Slot::Ring(ring))).cloned();
                        let entry = match (ring, slots) {
                            (Ring::Signal { group: g, state: a }, Some(slots)) => slots.entry[g][a].as_ref(),
                            _ => None,
                        };
                        with_entry(old.unwrap_or_else(|| zeros(lag)), entry)
                    });
                    steps.insert(ring, before.map_or_else(|| now.clone(), |old| Tensor::concat(&[&old, &now], 0)));
                }
            }
        }
        Stretch { graph: view.graph, structure: view.structure, plan, phis: view.phis, total, complete, steps, same }
    }

    /// What is left of a sequence after its last chunk: the rings, all complete.
    pub fn rest(
        graph: &'a Graph,
        structure: &'a Structure,
        plan: &'a LagPlan,
        phis: &'a [Tensor],
        lag: usize,
        traces: &Traces,
    ) -> Stretch<'a> {
        let (mut steps, mut same) = (BTreeMap::new(), BTreeMap::new());
        for &ring in plan.kept.keys() {
            steps.extend(traces.get(&Slot::Ring(ring)).map(|t| (ring, t.clone())));
            same.extend(traces.get(&Slot::Same(ring)).map(|t| (ring, t.clone())));
        }
        Stretch { graph, structure, plan, phis, total: lag, complete: lag, steps, same }
    }

    /// The arrays that pass to the next chunk: the steps that are not complete.
    pub fn kept(&self) -> Traces {
        let rings = self.steps.iter().map(|(&ring, t)| (Slot::Ring(ring), t.slice_axis(0, self.complete, self.total)));
        rings.chain(self.same.iter().map(|(&ring, t)| (Slot::Same(ring), t.clone()))).collect()
    }

    /// The arrays of a stretch with all signals learned from: later ones go back through the rest.
    pub fn learned(&self) -> Traces {
        let left = |(&ring, t): (&Ring, &Tensor)| {
            let signal = matches!(ring, Ring::Signal { .. } | Ring::Direct(_));
            (Slot::Ring(ring), if signal { t.zeros_like() } else { t.clone() })
        };
        self.steps.iter().map(left).collect()
    }

    /// The signals of a group in every step, by state, `[total, B, N]`: `lam_s`, with those of later steps. All steps must be complete.
    pub fn carried(&self, g: usize, arriving: Option<&Arriving>) -> Vec<(usize, Tensor)> {
        let states = self.plan.states(self.structure, g);
        let lam = self.back(g, &states, &|a| arriving.and_then(|all| all[g][a].clone())).lam;
        states.into_iter().zip(lam).collect()
    }

    /// Carries signals back and learns from the complete steps. `outside` is the model's input in these, `[complete, B, I]`;
    /// `arriving` what comes from after the stretch, if it is known.
    pub fn pull(&self, outside: Option<&Tensor>, arriving: Option<&Arriving>) -> Pulled {
        let mut grads = Vec::new();
        let mut arrives: Arriving = self.structure.groups.iter().map(|g| vec![None; g.states.len()]).collect();
        for g in 0..self.structure.groups.len() {
            let states = self.plan.states(self.structure, g);
            if states.is_empty() {
                continue;
            }
            let from = |a: usize| arriving.and_then(|all| all[g][a].clone());
            let back = self.back(g, &states, &from);
            for (&a, c) in states.iter().zip(back.arriving) {
                arrives[g][a] = Some(c);
            }
            for &k in self.plan.ops.iter().filter(|&&k| self.structure.ops[k].groups.contains(&g)) {
                let at = |a: usize| states.iter().position(|&s| s == a).map(|p| &back.lam[p]);
                grads.extend(self.local(k, g, &at, outside).map(|grad| (k, grad)));
            }
        }
        Pulled { grads, arriving: arrives }
    }

    /// `sum_s x_s (x) (f_s . lam_s)` of the complete steps, with what bypasses the states.
    fn local<'t>(
        &self,
        k: usize,
        g: usize,
        lam: &dyn Fn(usize) -> Option<&'t Tensor>,
        outside: Option<&Tensor>,
    ) -> Option<Tensor> {
        let op = &self.structure.ops[k];
        let through = op.reach(g).states.iter().map(|&a| {
            let lam = lam(a)?;
            let ring = Ring::Drive { drive: op.drive, group: g, state: a };
            Some(match self.plan.kept.get(&ring)? {
                Kept::Number(f) => lam * *f,
                Kept::Same(_) => {
                    let axes: Vec<usize> = (1..lam.rank()).collect();
                    lam * self.same.get(&ring)?.broadcast(lam.dims(), &axes)
                }
                Kept::Steps(_) => lam * self.oldest(ring)?,
            })
        });
        let direct = (op.groups[0] == g).then(|| self.oldest(Ring::Direct(k))).flatten();
        let w = Tensor::sum_of(through.chain([direct]))?;
        if op.x.is_none() {
            return Some(op.gradient(self.phis, None, &w));
        }
        let owner = self.structure.ops.iter().position(|o| o.x == op.x)?;
        let x = if self.plan.outside.contains(&k) { outside.cloned() } else { self.oldest(Ring::Input(owner)) };
        Some(op.gradient(self.phis, Some(&x?), &w))
    }

    fn oldest(&self, ring: Ring) -> Option<Tensor> {
        self.steps.get(&ring).map(|t| t.slice_axis(0, 0, self.complete))
    }

    /// The recursion of one group, backwards over the stretch.
    fn back(&self, g: usize, states: &[usize], from: &dyn Fn(usize) -> Option<Tensor>) -> Back {
        let n = states.len();
        let shape = Shape::f32(self.structure.groups[g].dims.clone());
        let zero = self.graph.zeros(&shape);
        let mut rows = Rows::default();
        let mut read = |ring: Ring| match self.plan.kept.get(&ring)? {
            Kept::Number(v) => Some(Row::Number(*v)),
            Kept::Same(_) => Some(rows.same(self.same.get(&ring)?.clone())),
            Kept::Steps(_) => Some(rows.stack(self.steps.get(&ring)?.clone())),
        };
        let d: Vec<Vec<Option<Row>>> = states
            .iter()
            .map(|&a| states.iter().map(|&c| read(Ring::Transition { group: g, to: a, from: c })).collect())
            .collect();
        let m: Vec<Option<Row>> = states.iter().map(|&a| read(Ring::Signal { group: g, state: a })).collect();
        let mut carry: Vec<Tensor> = states.iter().map(|&a| from(a).unwrap_or_else(|| zero.clone())).collect();
        let mut lam = Vec::new();
        for (start, end) in [(self.complete, self.total), (0, self.complete)] {
            if start == end {
                continue;
            }
            (carry, lam) = rows.back(self.graph, &carry, (start, end), |carry, at| {
                let signal = |a: usize| Tensor::sum_of([Some(carry[a].clone()), m[a].as_ref().map(at)]);
                let lam: Vec<Tensor> = (0..n).filter_map(signal).collect();
                let back = |c: usize| {
                    let terms = (0..n).map(|a| Some(&lam[a] * at(d[a][c].as_ref()?)));
                    Tensor::sum_of(terms).unwrap_or_else(|| lam[0].zeros_like())
                };
                let next = (0..n).map(back).collect();
                // Of steps that are not complete nothing is needed.
                (next, if start == 0 { lam } else { vec![] })
            });
        }
        Back { lam, arriving: carry }
    }
}

struct Back {
    /// `lam` of the complete steps, by state, `[complete, B, N]`.
    lam: Vec<Tensor>,
    /// `D_1^T lam_1`, by state.
    arriving: Vec<Tensor>,
}

/// A value of the present chunk, `[K, ..]`.
fn value(view: &ChunkView<'_>, plan: &LagPlan, slots: Option<&Slots>, ring: Ring) -> Option<Tensor> {
    match ring {
        Ring::Transition { group: g, to: a, from: c } => view.transitions[g][a][c].clone(),
        Ring::Drive { drive, group: g, state: a } => {
            let ops = plan.ops.iter().filter(|&&k| view.structure.ops[k].drive == drive);
            ops.filter_map(|&k| view.drives.get(&(k, g))).find_map(|f| f[a].clone())
        }
        Ring::Signal { group: g, state: a } => slots.and_then(|s| s.steps[g][a].clone()),
        Ring::Direct(k) => slots.and_then(|s| s.direct[k].clone()),
        Ring::Input(owner) => {
            let reads = |k: &&usize| view.plan.input_owner(view.structure, &view.structure.ops[**k]) == owner;
            plan.ops.iter().filter(reads).find_map(|k| view.inputs.get(k)).cloned()
        }
    }
}

/// `[W, ..]` with a value added to its last step.
fn with_entry(old: Tensor, entry: Option<&Tensor>) -> Tensor {
    let Some(entry) = entry else { return old };
    let steps = old.dims()[0];
    let last = (old.at(steps - 1) + entry).reshape(&[&[1], entry.dims()].concat());
    if steps == 1 {
        return last;
    }
    Tensor::concat(&[&old.slice_axis(0, 0, steps - 1), &last], 0)
}
