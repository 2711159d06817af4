//! D-RTRL: one trace per weight and state.

use std::collections::BTreeSet;

use hlo::{Dot, Func, Shape, Tensor, scan};

use super::{
    ChunkResult, ChunkView, Slot, Slots, Traces, over_steps,
    rows::{Row, Rows, place},
    sum_first, sum_to,
    trace_pass::{Update, pass},
};
use crate::learn::{chunk::Transition, structure::Reach};

impl ChunkView<'_> {
    /// D-RTRL for one group.
    pub(super) fn full(
        &self,
        g: usize,
        ops: &[usize],
        traces: Option<&Traces>,
        signals: Option<&Slots>,
        out: &mut ChunkResult,
    ) {
        let back = self.backwards(g, ops, signals, out.traces.is_some());
        for &k in ops {
            let op = &self.structure.ops[k];
            if let (Some((_, lam)), Some(slots)) = (&back.signal, signals) {
                // Inside the chunk: sum_{b,s} x_s (lam_s . f_s).
                let drive = &self.drives[&(k, g)];
                let states = op.reach(g).states.iter();
                let through = states.map(|&a| Some(lam[a].as_ref()? * drive[a].as_ref()?));
                let local = Tensor::sum_of(through.chain([slots.direct(self.structure, k, g)]));
                if let Some(w) = local {
                    let grad = match self.inputs.get(&k) {
                        Some(x) => over_steps(x, &w),
                        None => sum_to(&w, &op.weight),
                    };
                    out.add(k, grad);
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
                out.add(k, e.dot_general(&lam, sum_first()));
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
                    out.add(k, grad);
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
                out.add(k, sum_to(&grad, &op.weight));
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
        let d = rows.transitions(&self.transitions[g], states);
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

/// `[K, B, I] x [K, B, N] -> [B, I, N]`.
fn batched_outer() -> Dot {
    Dot { lhs_batch: vec![1], lhs_contract: vec![0], rhs_batch: vec![1], rhs_contract: vec![0] }
}
