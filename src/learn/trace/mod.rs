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
//! Where the loss reads the output of an op on a way that bypasses the states ([`signal`](super::signal)), its signal joins the
//! product over the steps of the chunk: `lam_s . f_s` or `r_s` becomes that plus `dloss_s/dy_s`.
//!
//! Only states that the drive reaches and the next step reads have a trace ([`Reach`](super::structure::Reach)). Where drive and transitions are numbers, so
//! is `ef`; and `e` is the same for all j and kept once, `[B, I]`: to the traces that it feeds it is one more step, `x = e`, `f = P_0`.
//!
//! A bias or any element-wise parameter has no input: its trace is `f` alone (`G += sum_b q_s` under ES-D-RTRL).
//! Both are exact rearrangements; K = 1 is the textbook rule.

mod factorised;
mod full;
mod lag;
mod plan;
mod rows;
mod trace_pass;

use std::collections::HashMap;

use hlo::{Graph, Tensor};

use super::{Structure, chunk::Transition, signal::Signal};
pub use full::{Backwards, Carried, Products};
pub use lag::{Arriving, Kept, LagPlan, Ring, Stretch};
pub use plan::{Slot, TraceKind, TracePlan, Traces};
pub use trace_pass::{Update, pass};

/// What the rules need to know of a chunk.
pub struct ChunkView<'a> {
    /// The graph under construction.
    pub graph: &'a Graph,
    /// Groups and ops.
    pub structure: &'a Structure,
    /// How ops learn.
    pub plan: &'a TracePlan,
    /// Parameters as the step uses them.
    pub phis: &'a [Tensor],
    /// Transition of every group.
    pub transitions: &'a [Transition],
    /// Drive of every (op, group) with a trace.
    pub drives: &'a HashMap<(usize, usize), Vec<Option<Tensor>>>,
    /// Input of every op that has one, `[K, B, ..]`.
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
    /// Of the outputs of ops in each step, by op, `[K, B, N]`; no trace meets these.
    pub direct: Vec<Option<Tensor>>,
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

impl Slots {
    /// The direct signal of op `k`, to be counted once: with the first group that the op drives.
    pub(super) fn direct(&self, structure: &Structure, k: usize, g: usize) -> Option<Tensor> {
        self.direct[k].clone().filter(|_| structure.ops[k].groups[0] == g)
    }
}

impl ChunkResult {
    /// Adds to the gradient of op `k`.
    pub fn add(&mut self, k: usize, grad: Tensor) {
        self.grads[k] = Tensor::sum_of([self.grads[k].take(), Some(grad)]);
    }
}

impl ChunkView<'_> {
    /// Applies the plan. `traces` are those at the entry (`None`: all zero); `signals` say where to learn (`None`: nowhere);
    /// `keep` asks for the traces after the chunk. Ops of which `lagging` is true are left to [`Stretch`].
    pub fn run(
        &self,
        traces: Option<&Traces>,
        signals: Option<&Slots>,
        keep: bool,
        lagging: &dyn Fn(usize) -> bool,
    ) -> ChunkResult {
        let mut out = ChunkResult { grads: vec![None; self.structure.ops.len()], traces: keep.then(Traces::new) };
        for g in 0..self.structure.groups.len() {
            let ops = |kind: TraceKind| -> Vec<usize> {
                self.structure
                    .traced()
                    .filter(|(k, op)| op.groups.contains(&g) && self.plan.kinds[*k] == Some(kind) && !lagging(*k))
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
}
