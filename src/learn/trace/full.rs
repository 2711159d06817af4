//! D-RTRL: one trace per weight and state.

use std::collections::BTreeSet;

use hlo::{Shape, Tensor, scan};

use super::{
    ChunkResult, ChunkView, Slot, Slots, Traces,
    rows::{Row, Rows, place},
};
use crate::learn::{chunk::Transition, structure::Reach};

/// The old traces of an op in a group, at a chunk: what a kind of op has to say of them is [`Operator::carry`].
///
/// [`Operator::carry`]: crate::learn::op::Operator::carry
pub struct Carried<'a> {
    /// The chunk.
    pub view: &'a ChunkView<'a>,
    /// The group.
    pub group: usize,
    /// The op.
    pub op: usize,
    /// Signals at the start of the chunk, and products of transitions over it.
    pub back: &'a Backwards,
    /// All traces before it; nothing while they are zero.
    pub traces: Option<&'a Traces>,
}

impl<'a> Carried<'a> {
    /// What the drive of the op reaches.
    pub fn reach(&self) -> &'a Reach {
        self.view.structure.ops[self.op].reach(self.group)
    }

    /// `dh'/dy` by state, `[K, B, N]`.
    pub fn drive(&self) -> &'a [Option<Tensor>] {
        &self.view.drives[&(self.op, self.group)]
    }

    /// The name of the trace in a state.
    pub fn slot(&self, state: usize) -> Slot {
        Slot::Full { op: self.op, group: self.group, state }
    }

    /// The trace in a state.
    pub fn old(&self, state: usize) -> Option<&'a Tensor> {
        self.traces.and_then(|t| t.get(&self.slot(state)))
    }

    /// The signal that meets the trace in a state, `[B, N]`.
    pub fn signal(&self, state: usize) -> Option<&'a Tensor> {
        self.back.signal.as_ref().and_then(|(first, _)| first[state].as_ref())
    }
}

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
                    out.add(k, op.gradient(self.phis, self.inputs.get(&k), &w));
                }
            }
            op.kind.operator().carry(&Carried { view: self, group: g, op: k, back: &back, traces }, out);
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
            // lam_K = m_K; going to slot s - 1 adds m_{s-1}.
            for &a in states {
                let m = slots.steps[g][a].as_ref();
                init.push(m.map_or_else(|| zero.clone(), |m| m.at(self.length - 1)));
                let before = before_steps(slots.entry[g][a].as_ref(), m, self.length);
                arriving.push(before.map(|m| rows.add(&m)));
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
pub struct Backwards {
    /// `lam` at slot 0 `[B, N]` and at slots 1 .. K `[K, B, N]`, by state.
    #[allow(clippy::type_complexity, reason = "slot 0 and slots 1..K of one quantity")]
    signal: Option<(Vec<Option<Tensor>>, Vec<Option<Tensor>>)>,
    /// If the traces after the chunk are asked for.
    pub products: Option<Products>,
}

/// Products of transitions; `None` is zero.
pub struct Products {
    /// `P_0 = D_K .. D_1`, `[B, N]`.
    pub whole: Vec<Vec<Option<Tensor>>>,
    /// `P_s = D_K .. D_{s+1}`, `[K, B, N]`.
    pub steps: Vec<Vec<Option<Tensor>>>,
}

/// The signal at slots 0 .. K - 1, `[K, B, N]`: `entry` at slot 0, and `steps: [K, B, N]` one step later.
fn before_steps(entry: Option<&Tensor>, steps: Option<&Tensor>, length: usize) -> Option<Tensor> {
    let row = |t: &Tensor| t.reshape(&[&[1], t.dims()].concat());
    match (entry, steps) {
        (None, None) => None,
        (Some(first), None) => {
            let mut high = vec![0; first.rank() + 1];
            high[0] = length - 1;
            Some(row(first).pad(&vec![0; first.rank() + 1], &high))
        }
        (entry, Some(m)) => {
            let first = entry.cloned().unwrap_or_else(|| m.graph().zeros(&m.shape().with_dims(&m.dims()[1..])));
            Some(Tensor::concat(&[&row(&first), &m.slice_axis(0, 0, length - 1)], 0))
        }
    }
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
