//! SnAp with a neighbourhood that is the whole layer: real-time recurrent learning within a group.
//!
//! With `M_s[a]: [W, B, N]` the derivative of state a by each of the W elements of a weight, and `J_s` the derivative of the new states by the old
//! ones with nothing held fixed,
//!
//! ```text
//! M_s = J_s M_{s-1} + x_s f_s        (element (i, j) of a weight acts on neuron j)
//! G  += sum_{a,b,n} m_s[a] M_s[a]
//! ```
//!
//! (`docs/spec/algorithms.md, "SnAp"`)

use hlo::{DType, Func, Graph, Mapped, Shape, Tensor, scan_whole, transform::vmap};

use super::{
    Learner,
    trace::Slot,
    walk::{Chunk, Walk, Walked},
};

impl Learner {
    pub(super) fn complete(&self, g: &Graph, chunk: &Chunk<'_>, group: usize, ops: &[usize], all: &mut Walked) {
        let states = self.structure.groups[group].states.len();
        let weight = |k: usize| Shape::f32(self.structure.ops[k].weight.clone());
        let slots: Vec<Slot> =
            ops.iter().flat_map(|&k| (0..states).map(move |a| Slot::Complete { op: k, group, state: a })).collect();
        let shapes = self.trace_slots();
        let held: Vec<Tensor> = slots.iter().map(|slot| chunk.held(g, slot, &shapes[slot])).collect();
        let mut init = held.clone();
        init.extend(ops.iter().zip(held.chunks(states)).map(|(&k, m)| {
            let entry = chunk.slots.and_then(|s| met(&s.entry[group], m));
            entry.map_or_else(|| g.zeros(&weight(k)), |t| t.reshape(&weight(k).dims))
        }));
        let walk = Walk::new(self, g, chunk, group, ops);
        let body = walk.body(&init, |g, carried, row, phis| {
            let (old, sums) = carried.split_at(slots.len());
            let mut new = Vec::new();
            let mut learned = Vec::new();
            for (o, (m, sum)) in old.chunks(states).zip(sums).enumerate() {
                let x = walk.x[o].map(|x| &row[x]);
                let pushed = push(g, &walk, row, phis, m);
                let added = walk.drives[o].iter().map(|f| f.map(|f| instant(x, &row[f])));
                let next: Vec<Tensor> =
                    pushed.into_iter().zip(added).filter_map(|(m, f)| Tensor::sum_of([Some(m), f])).collect();
                let signals: Vec<Option<Tensor>> = walk.signals.iter().map(|m| m.map(|m| row[m].clone())).collect();
                learned.push(met(&signals, &next).map_or_else(|| sum.clone(), |t| sum + t.reshape(sum.dims())));
                new.extend(next);
            }
            new.into_iter().chain(learned).collect()
        });
        let last = scan_whole(g, &body, chunk.inputs.dims()[0], false, &init, &walk.rows, chunk.phis).0;
        let (kept, grads) = last.split_at(slots.len());
        all.traces.extend(slots.into_iter().zip(kept.iter().cloned()));
        if chunk.slots.is_some() {
            all.grads.extend(ops.iter().copied().zip(grads.iter().cloned()));
        }
    }
}

/// `J M`: one derivative of the step for each weight.
fn push(g: &Graph, walk: &Walk<'_>, row: &[Tensor], phis: &[Tensor], m: &[Tensor]) -> Vec<Tensor> {
    let mut shapes: Vec<Shape> = row.iter().chain(phis).map(|t| t.shape().clone()).collect();
    shapes.extend(m.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
    let one = Func::trace(&shapes, |g, v| {
        let (row, rest) = v.split_at(row.len());
        let (phis, along) = rest.split_at(phis.len());
        walk.pushed(g, row, phis, along)
    });
    let args = row.iter().chain(phis).map(|t| Mapped { tensor: t.clone(), mapped: false });
    let args: Vec<Mapped> = args.chain(m.iter().map(|t| Mapped { tensor: t.clone(), mapped: true })).collect();
    let (count, env) = (m[0].dims()[0], vmap(g, &one, &args, m[0].dims()[0]));
    one.results().iter().map(|r| env.get(r.value()).materialize(count)).collect()
}

/// What a step adds: `x f` of element (i, j) at neuron j, `[I N, B, N]`; without an input `f`, `[N, B, N]`.
fn instant(x: Option<&Tensor>, f: &Tensor) -> Tensor {
    let (g, batch, n) = (f.graph(), f.dims()[0], f.dims()[1]);
    let square = Shape::s32([n, n]);
    let same = g.iota(square.clone(), 0).eq(&g.iota(square, 1)).convert(DType::F32);
    let dims = [n, batch, n];
    let own = same.broadcast(&dims, &[0, 2]) * f.broadcast(&dims, &[1, 2]);
    let Some(x) = x else { return own };
    let inputs = x.dims()[1];
    let dims = [inputs, n, batch, n];
    let all = x.transpose(&[1, 0]).broadcast(&dims, &[0, 2]) * own.broadcast(&dims, &[1, 2, 3]);
    all.reshape(&[inputs * n, batch, n])
}

/// `sum_{a,b,n} m[a] M[a]`, one number for each weight; nothing without signals.
fn met(signals: &[Option<Tensor>], m: &[Tensor]) -> Option<Tensor> {
    let term = |(signal, m): (&Option<Tensor>, &Tensor)| {
        Some((m * signal.as_ref()?.broadcast(m.dims(), &[1, 2])).sum(&[1, 2]))
    };
    Tensor::sum_of(signals.iter().zip(m).map(term))
}
