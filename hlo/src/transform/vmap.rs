//! The same computation for every index of a new leading axis.

use crate::{
    func::{Env, Func},
    graph::Graph,
    op::Mapped,
};

/// Applies `func` to arguments of which some have an axis of `size` in front, for every index of that axis at once.
/// What depends on no mapped argument is computed once.
pub fn vmap(graph: &Graph, func: &Func, args: &[Mapped], size: usize) -> Env<Mapped> {
    func.replay(args, |_, node, operands| {
        if operands.iter().any(|o| o.mapped) {
            return node.op.batch(&operands, size);
        }
        let args: Vec<_> = operands.iter().map(|o| &o.tensor).collect();
        graph.apply_rc(node.op.clone(), &args).into_iter().map(|tensor| Mapped { tensor, mapped: false }).collect()
    })
}
