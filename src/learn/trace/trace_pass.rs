//! One pass over weight-sized traces at the end of a chunk, where D-RTRL spends its memory traffic.

use hlo::{DType, Dot, Func, Shape, Tensor, scan_whole};

/// Bytes of temporary values that a pass may use; larger traces are taken some sequences at a time.
const BLOCK_BYTES: usize = 64 << 20;

/// What a chunk adds to the traces of one op: `e_new[a] = sum_c kept[a][c] e[c] + sum_s input_s added[a]_s`.
pub struct Update<'a> {
    /// Input of the op in each step, `[K, B, I]`.
    pub input: &'a Tensor,
    /// Factor of the input in each step by state, `[K, B, N]`; `None` is zero.
    pub added: &'a [Option<Tensor>],
    /// Factors of the old traces, `[B, N]`; `None` is zero.
    pub kept: &'a [Vec<Option<Tensor>>],
}

/// The gradient `sum_{b,a} signal[a] e[a]`, `[I, N]`, of traces `e[a]: [B, I, N]` and signals `[B, N]`, and the traces after an
/// update.
///
/// Traces larger than `BLOCK_BYTES` are updated in place, block of sequences by block.
pub fn pass(
    e: &[&Tensor],
    signal: &[Option<Tensor>],
    update: Option<&Update>,
) -> (Option<Tensor>, Option<Vec<Tensor>>) {
    let learn = signal.iter().any(Option::is_some);
    if !learn && update.is_none() {
        return (None, None);
    }
    let mut rows = Rows::default();
    let plan = Plan {
        signal: signal.iter().map(|l| l.as_ref().map(|l| rows.add(l.clone()))).collect(),
        input: update.map(|u| rows.add(u.input.transpose(&[1, 2, 0]))),
        added: update.map_or_else(Vec::new, |u| {
            u.added.iter().map(|q| q.as_ref().map(|q| rows.add(q.transpose(&[1, 0, 2])))).collect()
        }),
        kept: update.map_or_else(Vec::new, |u| {
            u.kept.iter().map(|r| r.iter().map(|m| m.as_ref().map(|m| rows.add(m.clone()))).collect()).collect()
        }),
    };
    let batch = e[0].dims()[0];
    let fitting = (BLOCK_BYTES / (e.len() * e[0].shape().bytes() / batch).max(1)).max(1);
    match (1..=batch.min(fitting)).rev().find(|b| batch.is_multiple_of(*b)) {
        Some(block) if block < batch => plan.by_blocks(e, &rows.0, block, learn),
        _ => {
            let e: Vec<Tensor> = e.iter().map(|t| (*t).clone()).collect();
            (plan.gradient(&e, &rows.0), update.map(|_| plan.update(&e, &rows.0)))
        }
    }
}

/// Values with one row per sequence.
#[derive(Default)]
struct Rows(Vec<Tensor>);

impl Rows {
    fn add(&mut self, t: Tensor) -> usize {
        self.0.push(t);
        self.0.len() - 1
    }
}

/// Where the values of a pass are among its rows.
struct Plan {
    signal: Vec<Option<usize>>,
    input: Option<usize>,
    added: Vec<Option<usize>>,
    kept: Vec<Vec<Option<usize>>>,
}

impl Plan {
    fn gradient(&self, e: &[Tensor], rows: &[Tensor]) -> Option<Tensor> {
        let term = |(e, l): (&Tensor, &Option<usize>)| Some(e * &rows[(*l)?].broadcast(e.dims(), &[0, 2]));
        Tensor::sum_of(e.iter().zip(&self.signal).map(term)).map(|t| t.sum(&[0]))
    }

    fn update(&self, e: &[Tensor], rows: &[Tensor]) -> Vec<Tensor> {
        let outer = Dot { lhs_batch: vec![0], lhs_contract: vec![2], rhs_batch: vec![0], rhs_contract: vec![1] };
        let product = |q: usize| Some(rows[self.input?].dot_general(&rows[q], outer.clone()));
        let state = |(kept, added): (&Vec<Option<usize>>, &Option<usize>)| {
            let kept = kept.iter().zip(e).map(|(m, e)| Some(e * &rows[(*m)?].broadcast(e.dims(), &[0, 2])));
            Tensor::sum_of(kept.chain([added.and_then(product)])).unwrap_or_else(|| e[0].zeros_like())
        };
        self.kept.iter().zip(&self.added).map(state).collect()
    }

    /// A loop over blocks of sequences. Traces that change are carried and written in place; beside each goes the block whose
    /// turn it is, read after the last write, so that nothing reads an array that is being written.
    fn by_blocks(
        &self,
        e: &[&Tensor],
        rows: &[Tensor],
        block: usize,
        learn: bool,
    ) -> (Option<Tensor>, Option<Vec<Tensor>>) {
        let g = e[0].graph();
        let (count, states) = (e[0].dims()[0] / block, e.len());
        let changes = self.input.is_some();
        let mut inputs = vec![g.iota(Shape::s32([count]), 0)];
        let blocks = |t: &Tensor| t.reshape(&[&[count, block], &t.dims()[1..]].concat());
        inputs.extend(rows.iter().map(blocks));
        let mut carries: Vec<Tensor> = Vec::new();
        if learn {
            carries.push(g.zeros(&e[0].shape().with_dims(&e[0].dims()[1..])));
        }
        if changes {
            let start = g.scalar(DType::S32, 0.0);
            carries.extend(e.iter().map(|t| (*t).clone()));
            carries.extend(e.iter().map(|t| t.dynamic_slice(&start, block)));
        } else {
            inputs.extend(e.iter().map(|t| blocks(t)));
        }
        let mut shapes: Vec<Shape> = carries.iter().map(|t| t.shape().clone()).collect();
        shapes.extend(inputs.iter().map(|t| t.shape().with_dims(&t.dims()[1..])));
        let sums = usize::from(learn);
        let body = Func::trace(&shapes, |g, p| {
            let (old, inputs) = p.split_at(carries.len());
            let (sum, old) = old.split_at(sums);
            let rows = &inputs[1..=rows.len()];
            let mine = if changes { &old[states..] } else { &inputs[1 + rows.len()..] };
            let mut new: Vec<Tensor> = Vec::new();
            if learn {
                new.extend(Tensor::sum_of([Some(sum[0].clone()), self.gradient(mine, rows)]));
            }
            if changes {
                let at = &inputs[0] * &g.scalar(DType::S32, block as f64);
                let updated = self.update(mine, rows);
                let written: Vec<Tensor> = updated.iter().zip(old).map(|(e, all)| all.dynamic_update(e, &at)).collect();
                let next = &at + &g.scalar(DType::S32, block as f64);
                let slices: Vec<Tensor> = written.iter().map(|t| t.dynamic_slice(&next, block)).collect();
                new.extend(written);
                new.extend(slices);
            }
            new
        });
        let (mut last, _) = scan_whole(g, &body, count, false, &carries, &inputs, &[]);
        let new = changes.then(|| last.drain(sums..).take(states).collect());
        (learn.then(|| last.swap_remove(0)), new)
    }
}
