//! The online rules, K steps at a time.
//!
//! With slots s = 0 (entry) .. K (end of the chunk), `m_s` the learning signal at slot s, `D_s`, `f_s`, `x_s` transition,
//! drive and op input of step s = 1 .. K, everything per sequence and position:
//!
//! **D-RTRL** keeps `e[b,i,j,:]` with `e_s = D_s e_{s-1} + x_s f_s`. The gradient `sum_s m_s . e_s` and the last trace are
//!
//! ```text
//! lam_s = m_s + D_{s+1}^T lam_{s+1}             P_K = 1,  P_{s-1} = P_s D_s        (backwards over the chunk)
//! G    += sum_b lam_0 . e_0  +  sum_{b,s} x_s (lam_s . f_s)                        one pass, one product
//! e_K   = P_0 e_0 + sum_s x_s (P_s f_s)                                            one batched product
//! ```
//!
//! **ES-D-RTRL** keeps `ex_s = a ex_{s-1} + x_s` and `ef_s = a D_s ef_{s-1} + (1-a) f_s`. With `q_s = m_s . ef_s / c_s` and
//! `r_s = q_s + a r_{s+1}`:
//!
//! ```text
//! G += sum_b ex_0 r_0 + sum_{b,s} x_s r_s       ex_K = a^K ex_0 + sum_s a^{K-s} x_s
//! ```
//!
//! Only states that the drive reaches and the next step reads have a trace ([`Reach`]). Where drive and transitions are numbers, so
//! is `ef`; and `e` is the same for all j and kept once, `[B, I]`: to the traces that it feeds it is one more step, `x = e`, `f = P_0`.
//!
//! A bias or any element-wise parameter has no input: its trace is `f` alone (`G += sum_b q_s` under ES-D-RTRL).
//! Both are exact rearrangements; K = 1 is the textbook rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hlo::{DType, Dot, Func, Graph, Shape, Tensor, scan};

use super::{
    Structure,
    chunk::{Signal, Transition},
    structure::{Kind, Op, Reach},
    trace_pass::{Update, pass},
};

/// What kind of trace an op carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceKind {
    /// One value per weight and state (D-RTRL).
    Full,
    /// An input part and an output part (ES-D-RTRL).
    Factorised,
}

/// One array of a learner's memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// `e[b, i, j]` of an op for a state of a group: (op, group, state); `e[b, i]` where it is the same for all j.
    Full(usize, usize, usize),
    /// `ex[b, i]` of an op input, by the first op that reads it.
    Input(usize),
    /// `ef[b, j]` of a drive for a state of a group: (drive, group, state); a number where it is the same for all b and j.
    Output(usize, usize, usize),
}

/// Values of all traces between chunks.
pub type Traces = BTreeMap<Slot, Tensor>;

/// How the ops of a model learn.
#[derive(Clone, Debug)]
pub struct TracePlan {
    /// Trace of each op; `None` for ops without one.
    pub kinds: Vec<Option<TraceKind>>,
    /// Smoothing factor of factorised traces.
    pub decay: f64,
    /// Divide by `1 - (1-a)^(t+1)`, as releases before 0.2 of the reference library, in place of `1 - a^(t+1)`.
    pub old_correction: bool,
}

impl TracePlan {
    /// Every array of the plan with its shape, for batch `b`.
    pub fn slots(&self, structure: &Structure, batch: usize) -> BTreeMap<Slot, Shape> {
        let mut slots = BTreeMap::new();
        for (k, op) in structure.traced() {
            for &g in &op.groups {
                let group = &structure.groups[g];
                let reach = op.reach(g);
                for a in reach.kept() {
                    match (self.kinds[k], op.kind) {
                        (Some(TraceKind::Full), Kind::Dense) => {
                            let outputs = if reach.uniform.contains(&a) { &[] } else { &op.weight[1..] };
                            slots.insert(Slot::Full(k, g, a), Shape::f32([&[batch, op.weight[0]], outputs].concat()));
                        }
                        (Some(TraceKind::Full), Kind::Elementwise) => {
                            slots.insert(Slot::Full(k, g, a), Shape::f32(group.dims.clone()));
                        }
                        (Some(TraceKind::Factorised), kind) => {
                            slots.insert(Slot::Output(op.drive, g, a), reach.output_trace(group, a));
                            if kind == Kind::Dense {
                                slots.insert(
                                    Slot::Input(self.input_owner(structure, op)),
                                    Shape::f32([batch, op.weight[0]]),
                                );
                            }
                        }
                        (None, _) => {}
                    }
                }
            }
        }
        slots
    }

    /// Ops that read the same value share one input trace.
    fn input_owner(&self, structure: &Structure, op: &Op) -> usize {
        structure.ops.iter().position(|o| o.x == op.x).unwrap_or_default()
    }

    /// Bytes of all traces.
    pub fn bytes(&self, structure: &Structure, batch: usize) -> usize {
        self.slots(structure, batch).values().map(Shape::bytes).sum()
    }
}

/// What the rules need to know of a chunk.
pub struct ChunkView<'a> {
    /// The graph under construction.
    pub graph: &'a Graph,
    /// Groups and ops.
    pub structure: &'a Structure,
    /// How ops learn.
    pub plan: &'a TracePlan,
    /// Transition of every group.
    pub transitions: &'a [Transition],
    /// Drive of every (op, group) with a trace.
    pub drives: &'a HashMap<(usize, usize), Vec<Option<Tensor>>>,
    /// Input of every dense op, `[K, B, I]`.
    pub inputs: &'a HashMap<usize, Tensor>,
    /// Number of steps K.
    pub length: usize,
}

/// Learning signals of a chunk by slot; `None` where nothing is learned.
pub struct Slots {
    /// At slot 0, by group and state, `[B, N]`.
    pub entry: Vec<Vec<Option<Tensor>>>,
    /// At slots 1 .. K, by group and state, `[K, B, N]`.
    pub steps: Signal,
    /// Divisors `c_s` for slots 0 .. K, `[K + 1]`; only the factorised rule reads them.
    pub correction: Tensor,
}

/// Result of a chunk: gradients of the `phi` by op, and the traces after it.
pub struct ChunkResult {
    /// Gradient of each op's weight.
    pub grads: Vec<Option<Tensor>>,
    /// Traces after the chunk, if asked for.
    pub traces: Option<Traces>,
}

impl ChunkView<'_> {
    /// Applies the plan. `traces` are those at the entry (`None`: all zero); `signals` say where to learn (`None`: nowhere);
    /// `keep` asks for the traces after the chunk.
    pub fn run(&self, traces: Option<&Traces>, signals: Option<&Slots>, keep: bool) -> ChunkResult {
        let mut out = ChunkResult { grads: vec![None; self.structure.ops.len()], traces: keep.then(Traces::new) };
        for g in 0..self.structure.groups.len() {
            let ops = |kind: TraceKind| -> Vec<usize> {
                self.structure
                    .traced()
                    .filter(|(k, op)| op.groups.contains(&g) && self.plan.kinds[*k] == Some(kind))
                    .map(|(k, _)| k)
                    .collect()
            };
            let (full, factorised) = (ops(TraceKind::Full), ops(TraceKind::Factorised));
            if !full.is_empty() {
                self.full(g, &full, traces, signals, &mut out);
            }
            if !factorised.is_empty() {
                self.factorised(g, &factorised, traces, signals, &mut out);
            }
        }
        out
    }

    fn add_grad(&self, out: &mut ChunkResult, k: usize, grad: Tensor) {
        out.grads[k] = Tensor::sum_of([out.grads[k].take(), Some(grad)]);
    }

    /// D-RTRL for one group.
    fn full(&self, g: usize, ops: &[usize], traces: Option<&Traces>, signals: Option<&Slots>, out: &mut ChunkResult) {
        let back = self.backwards(g, ops, signals, out.traces.is_some());
        for &k in ops {
            let op = &self.structure.ops[k];
            if let Some((_, lam)) = &back.signal {
                // Inside the chunk: sum_{b,s} x_s (lam_s . f_s).
                let drive = &self.drives[&(k, g)];
                let states = op.reach(g).states.iter();
                let local = Tensor::sum_of(states.map(|&a| Some(lam[a].as_ref()? * drive[a].as_ref()?)));
                if let Some(w) = local {
                    let grad = match self.inputs.get(&k) {
                        Some(x) => over_steps(x, &w),
                        None => sum_to(&w, &op.weight),
                    };
                    self.add_grad(out, k, grad);
                }
            }
            match self.inputs.get(&k) {
                Some(x) => self.full_dense(g, k, x, &back, traces, out),
                None => self.full_elementwise(g, k, &back, traces, out),
            }
        }
    }

    /// The old traces of a dense op with input `x: [K, B, I]`: what the chunk learns from them, and what becomes of them.
    fn full_dense(
        &self,
        g: usize,
        k: usize,
        x: &Tensor,
        back: &Backwards,
        traces: Option<&Traces>,
        out: &mut ChunkResult,
    ) {
        let Reach { states, wide, uniform, .. } = self.structure.ops[k].reach(g);
        let drive = &self.drives[&(k, g)];
        let old = |a: usize| traces.and_then(|t| t.get(&Slot::Full(k, g, a)));
        let lam0 = |a: usize| back.signal.as_ref().and_then(|(lam0, _)| lam0[a].clone());

        // e[b, i] of the uniform states.
        for &a in uniform {
            if let (Some(e), Some(lam)) = (old(a), lam0(a)) {
                self.add_grad(out, k, e.dot_general(&lam, sum_first()));
            }
        }
        if let Some(new) = &mut out.traces {
            for (&a, e) in uniform.iter().zip(self.uniform_traces(g, uniform, x, drive, old)) {
                new.insert(Slot::Full(k, g, a), e);
            }
        }
        if wide.is_empty() {
            return;
        }

        // What the chunk adds to e[b, i, j]: x_s (P_s f_s) of each step, and what the uniform traces pass on, as one more step each.
        let carried: Vec<(usize, &Tensor)> = uniform.iter().filter_map(|&c| Some((c, old(c)?))).collect();
        let update = back.products.as_ref().map(|p| {
            let step = |t: &Tensor| t.reshape(&[&[1], t.dims()].concat());
            let added = |&a: &usize| {
                let term = |&c: &usize| Some(p.steps[a][c].as_ref()? * drive[c].as_ref()?);
                let local = Tensor::sum_of(states.iter().map(term));
                let passed: Vec<_> = carried.iter().map(|&(c, _)| p.whole[a][c].as_ref().map(step)).collect();
                if local.is_none() && passed.iter().all(Option::is_none) {
                    return None;
                }
                let dims = &self.structure.groups[g].dims;
                let zeros = |n: usize| self.graph.zeros(&Shape::f32([&[n], &dims[..]].concat()));
                let mut parts = vec![local.unwrap_or_else(|| zeros(self.length))];
                parts.extend(passed.into_iter().map(|t| t.unwrap_or_else(|| zeros(1))));
                Some(Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0))
            };
            let mut input = vec![x.clone()];
            input.extend(carried.iter().map(|(_, e)| step(e)));
            let input = Tensor::concat(&input.iter().collect::<Vec<_>>(), 0);
            let added: Vec<Option<Tensor>> = wide.iter().map(added).collect();
            let kept: Vec<Vec<Option<Tensor>>> =
                wide.iter().map(|&a| wide.iter().map(|&c| p.whole[a][c].clone()).collect()).collect();
            (input, added, kept)
        });
        let e: Option<Vec<&Tensor>> = wide.iter().map(|&a| old(a)).collect();
        let new: Option<Vec<Option<Tensor>>> = match e {
            Some(e) => {
                let lam0: Vec<Option<Tensor>> = wide.iter().map(|&a| lam0(a)).collect();
                let update = update.as_ref().map(|(input, added, kept)| Update { input, added, kept });
                let (grad, new) = pass(&e, &lam0, update.as_ref());
                if let Some(grad) = grad {
                    self.add_grad(out, k, grad);
                }
                new.map(|all| all.into_iter().map(Some).collect())
            }
            None => update.map(|(input, added, _)| {
                added.iter().map(|q| q.as_ref().map(|q| input.dot_general(q, batched_outer()))).collect()
            }),
        };
        if let (Some(all), Some(new)) = (&mut out.traces, new) {
            let shape = Shape::f32([&x.dims()[1..], &self.structure.ops[k].weight[1..]].concat());
            for (&a, e) in wide.iter().zip(new) {
                all.insert(Slot::Full(k, g, a), e.unwrap_or_else(|| self.graph.zeros(&shape)));
            }
        }
    }

    /// `e[b, i]` after the chunk for the states where drive and transitions are numbers: `e' = D e + f x`.
    fn uniform_traces<'a>(
        &self,
        g: usize,
        uniform: &[usize],
        x: &Tensor,
        drive: &[Option<Tensor>],
        old: impl Fn(usize) -> Option<&'a Tensor>,
    ) -> Vec<Tensor> {
        let number = |t: &Option<Tensor>| t.as_ref().map(|t| t.as_constant().expect("a number, as the structure says"));
        let row = x.shape().with_dims(&x.dims()[1..]);
        let init: Vec<Tensor> =
            uniform.iter().map(|&a| old(a).cloned().unwrap_or_else(|| self.graph.zeros(&row))).collect();
        let body = Func::trace(&vec![row; uniform.len() + 1], |_, v| {
            let (e, x) = (&v[..uniform.len()], &v[uniform.len()]);
            let next = |&a: &usize| {
                let carried = uniform.iter().zip(e).map(|(&c, e)| Some(e * number(&self.transitions[g][a][c])?));
                let all = Tensor::sum_of(carried.chain([number(&drive[a]).map(|f| x * f)]));
                all.unwrap_or_else(|| x.zeros_like())
            };
            uniform.iter().map(next).collect()
        });
        scan(self.graph, &body, self.length, false, &init, std::slice::from_ref(x), &[]).0
    }

    /// The old traces of an element-wise parameter, `e[a]: [B, N]`; the counterpart of [`ChunkView::full_dense`].
    fn full_elementwise(&self, g: usize, k: usize, back: &Backwards, traces: Option<&Traces>, out: &mut ChunkResult) {
        let op = &self.structure.ops[k];
        let drive = &self.drives[&(k, g)];
        let Reach { states, wide, .. } = op.reach(g);
        let old = |a: usize| traces.and_then(|t| t.get(&Slot::Full(k, g, a)));
        if let Some((lam0, _)) = &back.signal {
            let learned = Tensor::sum_of(wide.iter().map(|&a| Some(old(a)? * lam0[a].as_ref()?)));
            if let Some(grad) = learned {
                self.add_grad(out, k, sum_to(&grad, &op.weight));
            }
        }
        if let (Some(new), Some(p)) = (&mut out.traces, &back.products) {
            let zero = self.graph.zeros(&Shape::f32(self.structure.groups[g].dims.clone()));
            for &a in wide {
                let kept = wide.iter().map(|&c| Some(old(c)? * p.whole[a][c].as_ref()?));
                let term = |&c: &usize| Some(p.steps[a][c].as_ref()? * drive[c].as_ref()?);
                let added = Tensor::sum_of(states.iter().map(term)).map(|q| q.sum(&[0]));
                let e = Tensor::sum_of(kept.chain([added])).unwrap_or_else(|| zero.clone());
                new.insert(Slot::Full(k, g, a), e);
            }
        }
    }

    /// ES-D-RTRL for one group.
    fn factorised(
        &self,
        g: usize,
        ops: &[usize],
        traces: Option<&Traces>,
        signals: Option<&Slots>,
        out: &mut ChunkResult,
    ) {
        let mut drives: Vec<usize> = ops.iter().map(|&k| self.structure.ops[k].drive).collect();
        drives.sort_unstable();
        drives.dedup();
        for drive in drives {
            let members: Vec<usize> = ops.iter().copied().filter(|&k| self.structure.ops[k].drive == drive).collect();
            let (ef0, ef) = self.smooth(g, drive, members[0], traces, signals.is_some());
            if let Some(slots) = signals {
                self.learn_factorised(g, &members, traces, slots, &ef0, &ef.1, out);
            }
            if let Some(new) = &mut out.traces {
                for (a, e) in ef.0.into_iter().enumerate() {
                    new.extend(e.map(|e| (Slot::Output(drive, g, a), e)));
                }
                for k in members {
                    if let Some(x) = self.inputs.get(&k) {
                        let owner = self.plan.input_owner(self.structure, &self.structure.ops[k]);
                        let old = traces.and_then(|t| t.get(&Slot::Input(owner)));
                        new.entry(Slot::Input(owner)).or_insert_with(|| self.smooth_input(x, old));
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call site; the values belong to one group and one drive")]
    fn learn_factorised(
        &self,
        g: usize,
        members: &[usize],
        traces: Option<&Traces>,
        slots: &Slots,
        ef0: &[Option<Tensor>],
        ef: &[Option<Tensor>],
        out: &mut ChunkResult,
    ) {
        let c0 = slots.correction.at(0);
        let c = slots.correction.slice_axis(0, 1, self.length + 1);
        let q0 = Tensor::sum_of(slots.entry[g].iter().zip(ef0).map(|(m, e)| Some(m.as_ref()? * e.as_ref()?)))
            .map(|q| q / c0);
        // A trace that is a number has one for each step, `[K]`.
        let like = |t: &Tensor, m: &Tensor| if t.rank() == 1 { t.broadcast(m.dims(), &[0]) } else { t.clone() };
        let q = Tensor::sum_of(slots.steps[g].iter().zip(ef).map(|(m, e)| {
            let m = m.as_ref()?;
            Some(m * like(e.as_ref()?, m))
        }))
        .map(|q| &q / like(&c, &q));
        let dense = members.iter().any(|k| self.inputs.contains_key(k));
        let filtered = dense.then(|| self.filter_back(q0.as_ref(), q.as_ref())).flatten();
        for &k in members {
            let op = &self.structure.ops[k];
            let Some(x) = self.inputs.get(&k) else {
                let total = Tensor::sum_of([q0.clone(), q.as_ref().map(|q| q.sum(&[0]))]);
                if let Some(total) = total {
                    self.add_grad(out, k, sum_to(&total, &op.weight));
                }
                continue;
            };
            let Some((r0, r)) = &filtered else { continue };
            self.add_grad(out, k, over_steps(x, r));
            let owner = self.plan.input_owner(self.structure, op);
            if let Some(ex) = traces.and_then(|t| t.get(&Slot::Input(owner))) {
                self.add_grad(out, k, ex.dot_general(r0, sum_first()));
            }
        }
    }

    /// `ef` at slot 0, after the chunk, and at slots 1 .. K, by state; `None` where the drive does not reach.
    #[allow(clippy::type_complexity, reason = "three views of one recursion")]
    fn smooth(
        &self,
        g: usize,
        drive: usize,
        op: usize,
        traces: Option<&Traces>,
        stacks: bool,
    ) -> (Vec<Option<Tensor>>, (Vec<Option<Tensor>>, Vec<Option<Tensor>>)) {
        let group = &self.structure.groups[g];
        let reach = self.structure.ops[op].reach(g);
        let states = &reach.states;
        let alpha = self.plan.decay;
        let zero = |a: usize| self.graph.zeros(&reach.output_trace(group, a));
        let old = |a: usize| traces.and_then(|t| t.get(&Slot::Output(drive, g, a))).cloned();
        let start: Vec<Option<Tensor>> = (0..group.states.len()).map(old).collect();
        let init: Vec<Tensor> = states.iter().map(|&a| start[a].clone().unwrap_or_else(|| zero(a))).collect();
        let f = &self.drives[&(op, g)];
        let mut rows = Rows::default();
        let d: Vec<Vec<Option<Row>>> = self.transition_rows(g, states, &mut rows);
        let f: Vec<Option<Row>> = states.iter().map(|&a| f[a].as_ref().map(|f| rows.add(f))).collect();
        let body = rows.body(&init, |_, e, row| {
            let new: Vec<Tensor> = (0..e.len())
                .map(|a| {
                    let carried = Tensor::sum_of((0..e.len()).map(|c| Some(row(d[a][c].as_ref()?) * &e[c])));
                    let driven = f[a].as_ref().map(|f| row(f) * (1.0 - alpha));
                    let next = Tensor::sum_of([carried.map(|t| t * alpha), driven]);
                    next.map_or_else(|| e[a].zeros_like(), |next| next.broadcast_to(e[a].dims()))
                })
                .collect();
            let ys = if stacks { new.clone() } else { vec![] };
            (new, ys)
        });
        let (last, all) = scan(self.graph, &body, self.length, false, &init, &rows.stacks, &rows.same);
        let by_state = |values: Vec<Tensor>| place(group.states.len(), states, values);
        (start, (by_state(last), by_state(all)))
    }

    /// `ex` after the chunk.
    fn smooth_input(&self, x: &Tensor, old: Option<&Tensor>) -> Tensor {
        let k = self.length;
        let alpha = self.plan.decay;
        // Weights a^(K-s) for s = 1 .. K.
        let shape = Shape::f32([k]);
        let age = (k as f64 - 1.0) - self.graph.iota(shape.with_dtype(DType::S32), 0).convert(DType::F32);
        let weights = if alpha > 0.0 {
            (age * alpha.ln()).exp()
        } else {
            age.le(&age.zeros_like()).select(&age.full_like(1.0), &age.zeros_like())
        };
        // Not a dot: XLA's CPU backend is several times slower at the product of a vector and a matrix.
        let added = (weights.broadcast(x.dims(), &[0]) * x).sum(&[0]);
        match old {
            Some(old) => old * alpha.powi(k as i32) + added,
            None => added,
        }
    }

    /// `r_s = q_s + a r_{s+1}` for slots 0 and 1 .. K.
    fn filter_back(&self, q0: Option<&Tensor>, q: Option<&Tensor>) -> Option<(Tensor, Tensor)> {
        let alpha = self.plan.decay;
        let shape = match (q0, q) {
            (Some(q0), _) => q0.shape().clone(),
            (None, Some(q)) => q.shape().with_dims(&q.dims()[1..]),
            (None, None) => return None,
        };
        let zero = self.graph.zeros(&shape);
        let stack = shape.with_dims([&[self.length], &shape.dims[..]].concat());
        let q = q.cloned().unwrap_or_else(|| self.graph.zeros(&stack));
        let body = Func::trace(&[shape.clone(), shape], |_, p| {
            let r = &p[0] * alpha + &p[1];
            vec![r.clone(), r]
        });
        let (first, all) = scan(self.graph, &body, self.length, true, std::slice::from_ref(&zero), &[q], &[]);
        let r0 = &first[0] * alpha + q0.unwrap_or(&zero);
        Some((r0, all[0].clone()))
    }

    /// Transitions among some states of a group.
    fn transition_rows(&self, g: usize, states: &[usize], rows: &mut Rows) -> Vec<Vec<Option<Row>>> {
        let d = &self.transitions[g];
        states.iter().map(|&a| states.iter().map(|&c| d[a][c].as_ref().map(|d| rows.add(d))).collect()).collect()
    }

    /// The backward pass over a chunk, for the states that a drive of `ops` reaches: `lam` (if there are signals) and `P` (if asked
    /// for; its rows are the states whose traces are kept).
    fn backwards(&self, g: usize, ops: &[usize], signals: Option<&Slots>, products: bool) -> Backwards {
        let reaches = || ops.iter().map(|&k| self.structure.ops[k].reach(g));
        let states: BTreeSet<usize> = reaches().flat_map(|reach| &reach.states).copied().collect();
        let states: &[usize] = &states.into_iter().collect::<Vec<_>>();
        let wide: BTreeSet<usize> = reaches().flat_map(|reach| &reach.wide).copied().collect();
        let group = &self.structure.groups[g];
        let n = states.len();
        let shape = Shape::f32(group.dims.clone());
        let zero = self.graph.zeros(&shape);
        let one = self.graph.full(&shape, 1.0);
        let linked = closure(&self.transitions[g], states);
        let pairs: Vec<(usize, usize)> = (0..n)
            .flat_map(|a| (0..n).map(move |c| (a, c)))
            .filter(|&(a, c)| products && wide.contains(&states[a]) && linked[a][c])
            .collect();
        let mut rows = Rows::default();
        let d = self.transition_rows(g, states, &mut rows);
        let mut init: Vec<Tensor> = Vec::new();
        let mut arriving: Vec<Option<Row>> = Vec::new();
        if let Some(slots) = signals {
            for &a in states {
                // lam_K = m_K; going to slot s - 1 adds m_{s-1}.
                let m = slots.steps[g][a].as_ref();
                init.push(m.map_or_else(|| zero.clone(), |m| m.at(self.length - 1)));
                let entry = slots.entry[g][a].as_ref();
                let shifted = (m.is_some() || entry.is_some()).then(|| {
                    let first = entry.unwrap_or(&zero);
                    let first = first.reshape(&[&[1], first.dims()].concat());
                    match m {
                        Some(m) => Tensor::concat(&[&first, &m.slice_axis(0, 0, self.length - 1)], 0),
                        None => first.pad(
                            &vec![0; first.rank()],
                            &[&[self.length - 1], &vec![0; first.rank() - 1][..]].concat(),
                        ),
                    }
                });
                arriving.push(shifted.map(|m| rows.add(&m)));
            }
        }
        let signal_count = init.len();
        init.extend(pairs.iter().map(|&(a, c)| if a == c { one.clone() } else { zero.clone() }));
        let body = rows.body(&init, |_, carry, row| {
            let (lam, p) = carry.split_at(signal_count);
            let mut new: Vec<Tensor> = (0..signal_count)
                .map(|c| {
                    let carried = (0..n).map(|a| Some(row(d[a][c].as_ref()?) * &lam[a]));
                    Tensor::sum_of(carried.chain([arriving[c].as_ref().map(&row)]))
                        .unwrap_or_else(|| lam[c].zeros_like())
                })
                .collect();
            let entry = |a: usize, c: usize| pairs.iter().position(|&q| q == (a, c)).map(|k| &p[k]);
            new.extend(pairs.iter().map(|&(a, c)| {
                let terms = (0..n).map(|b| Some(entry(a, b)? * &row(d[b][c].as_ref()?)));
                Tensor::sum_of(terms).unwrap_or_else(|| p[0].zeros_like())
            }));
            (new, carry.to_vec())
        });
        let (last, all) = scan(self.graph, &body, self.length, true, &init, &rows.stacks, &rows.same);
        let count = group.states.len();
        let table = |values: &[Tensor]| -> Vec<Vec<Option<Tensor>>> {
            let mut table = vec![vec![None; count]; count];
            for (&(a, c), value) in pairs.iter().zip(values) {
                table[states[a]][states[c]] = Some(value.clone());
            }
            table
        };
        let by_state = |values: &[Tensor]| place(count, states, values.to_vec());
        Backwards {
            signal: signals.map(|_| (by_state(&last[..signal_count]), by_state(&all[..signal_count]))),
            products: products
                .then(|| Products { whole: table(&last[signal_count..]), steps: table(&all[signal_count..]) }),
        }
    }
}

/// `count` values, of which those at `at` are given.
fn place(count: usize, at: &[usize], values: Vec<Tensor>) -> Vec<Option<Tensor>> {
    let mut all = vec![None; count];
    for (&k, value) in at.iter().zip(values) {
        all[k] = Some(value);
    }
    all
}

/// What the backward pass over a chunk yields.
struct Backwards {
    /// `lam` at slot 0 `[B, N]` and at slots 1 .. K `[K, B, N]`, by state.
    #[allow(clippy::type_complexity, reason = "slot 0 and slots 1..K of one quantity")]
    signal: Option<(Vec<Option<Tensor>>, Vec<Option<Tensor>>)>,
    products: Option<Products>,
}

/// Products of transitions; `None` is zero.
struct Products {
    /// `P_0 = D_K .. D_1`, `[B, N]`.
    whole: Vec<Vec<Option<Tensor>>>,
    /// `P_s = D_K .. D_{s+1}`, `[K, B, N]`.
    steps: Vec<Vec<Option<Tensor>>>,
}

/// Which of some states can reach which over any number of steps (each itself at least).
fn closure(d: &Transition, states: &[usize]) -> Vec<Vec<bool>> {
    let n = states.len();
    let linked = |a: usize, c: usize| a == c || d[states[a]][states[c]].is_some();
    let mut linked: Vec<Vec<bool>> = (0..n).map(|a| (0..n).map(|c| linked(a, c)).collect()).collect();
    for b in 0..n {
        for a in 0..n {
            for c in 0..n {
                linked[a][c] |= linked[a][b] && linked[b][c];
            }
        }
    }
    linked
}

/// A value that a loop reads in every step.
#[derive(Clone, Copy)]
enum Row {
    /// Row of a stack.
    Stack(usize),
    /// The same in every step.
    Same(usize),
    /// A number.
    Number(f64),
}

/// The values that a loop reads: stacks, and what is the same in every step.
#[derive(Default)]
struct Rows {
    stacks: Vec<Tensor>,
    same: Vec<Tensor>,
}

impl Rows {
    /// Registers a `[K, ..]` value, finding out whether its rows are all alike.
    fn add(&mut self, t: &Tensor) -> Row {
        if let Some(number) = t.as_constant() {
            return Row::Number(number);
        }
        let node = t.node();
        if let Some(b) = hlo::func::downcast::<hlo::ops::shaping::Broadcast>(&node)
            && !b.axes.contains(&0)
        {
            let axes: Vec<usize> = b.axes.iter().map(|a| a - 1).collect();
            let row = t.graph().tensor(node.operands[0]).broadcast(&t.dims()[1..], &axes);
            return Row::Same(push_unique(&mut self.same, row));
        }
        Row::Stack(push_unique(&mut self.stacks, t.clone()))
    }

    /// A loop body over carries like `init`, reading these rows.
    fn body(
        &self,
        init: &[Tensor],
        step: impl FnOnce(&Graph, &[Tensor], &dyn Fn(&Row) -> Tensor) -> (Vec<Tensor>, Vec<Tensor>),
    ) -> Func {
        let mut shapes: Vec<Shape> = init.iter().map(|t| t.shape().clone()).collect();
        shapes.extend(self.stacks.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
        shapes.extend(self.same.iter().map(|t| t.shape().clone()));
        let (n, s) = (init.len(), self.stacks.len());
        Func::trace(&shapes, |g, p| {
            let row = |r: &Row| match *r {
                Row::Stack(k) => p[n + k].clone(),
                Row::Same(k) => p[n + s + k].clone(),
                Row::Number(v) => g.scalar(DType::F32, v),
            };
            let (mut new, ys) = step(g, &p[..n], &row);
            new.extend(ys);
            new
        })
    }
}

fn push_unique(list: &mut Vec<Tensor>, t: Tensor) -> usize {
    list.iter().position(|u| u.value() == t.value()).unwrap_or_else(|| {
        list.push(t);
        list.len() - 1
    })
}

/// `sum over all leading axes` until the shape is that of an element-wise weight.
fn sum_to(t: &Tensor, dims: &[usize]) -> Tensor {
    t.sum(&(0..t.rank() - dims.len()).collect::<Vec<_>>())
}

/// `[K, B, I] x [K, B, N] -> [I, N]`.
fn over_steps(x: &Tensor, w: &Tensor) -> Tensor {
    x.dot_general(w, Dot { lhs_contract: vec![0, 1], rhs_contract: vec![0, 1], ..Dot::default() })
}

/// Sums over the first axis of both.
fn sum_first() -> Dot {
    Dot { lhs_contract: vec![0], rhs_contract: vec![0], ..Dot::default() }
}

/// `[K, B, I] x [K, B, N] -> [B, I, N]`.
fn batched_outer() -> Dot {
    Dot { lhs_batch: vec![1], lhs_contract: vec![0], rhs_batch: vec![1], rhs_contract: vec![0] }
}
