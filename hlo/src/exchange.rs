//! What the devices of a program exchange, read off its module: of one that is to be compiled, or of the optimised one.

use std::collections::{HashMap, HashSet};

use crate::proto::{Computation, Module, ShapeProto, dtype_of};

/// Opcodes of exchanges; those that a plugin cuts into start and end count once.
const OPCODES: &[&str] = &[
    "all-reduce",
    "all-reduce-start",
    "all-gather",
    "all-gather-start",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "collective-permute-start",
    "ragged-all-to-all",
    "reduce-scatter",
];

/// What a run of a module exchanges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanges {
    /// How many exchanges the module holds.
    pub count: usize,
    /// How many of them are inside a loop, and happen in each of its rounds.
    pub in_loops: usize,
    /// Bytes that a device brings into them, those in loops counted once.
    pub bytes: u64,
}

impl Exchanges {
    /// Of a module.
    pub fn of(module: &Module) -> Exchanges {
        let known: HashMap<i64, &Computation> = module.computations.iter().map(|c| (c.id, c)).collect();
        let looped = in_loops(module, &known);
        let mut found = Exchanges::default();
        for computation in &module.computations {
            let shapes: HashMap<i64, &ShapeProto> =
                computation.instructions.iter().filter_map(|i| Some((i.id, i.shape.as_ref()?))).collect();
            for i in computation.instructions.iter().filter(|i| OPCODES.contains(&i.opcode.as_str())) {
                found.count += 1;
                found.in_loops += usize::from(looped.contains(&computation.id));
                found.bytes +=
                    i.operand_ids.iter().filter_map(|id| shapes.get(id)).map(|shape| bytes(shape)).sum::<u64>();
            }
        }
        found
    }
}

/// The computations that run inside a loop.
fn in_loops(module: &Module, known: &HashMap<i64, &Computation>) -> HashSet<i64> {
    let loops = module.computations.iter().flat_map(|c| &c.instructions).filter(|i| i.opcode == "while");
    let mut stack: Vec<i64> = loops.flat_map(|i| i.called_computation_ids.iter().copied()).collect();
    let mut inside = HashSet::new();
    while let Some(id) = stack.pop() {
        if inside.insert(id)
            && let Some(computation) = known.get(&id)
        {
            stack.extend(computation.instructions.iter().flat_map(|i| &i.called_computation_ids));
        }
    }
    inside
}

fn bytes(shape: &ShapeProto) -> u64 {
    let elements: u64 = shape.dimensions.iter().map(|&d| d.max(0) as u64).product();
    let own = dtype_of(shape.element_type).map_or(0, |dtype| elements * dtype.bytes() as u64);
    own + shape.tuple_shapes.iter().map(bytes).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Func, Shape, Tensor, lower, transform::scan_whole};

    fn exchanges(func: &Func) -> Exchanges {
        let names = |n: usize, what: &str| (0..n).map(|k| format!("{what}{k}")).collect::<Vec<_>>();
        let (arguments, results) = (names(func.params().len(), "a"), names(func.results().len(), "r"));
        Exchanges::of(&lower("exchanges", func, &arguments, &results, &[]).expect("a program").module)
    }

    #[test]
    fn inside_and_outside_of_loops() {
        let shapes = [Shape::f32([3]), Shape::f32([])];
        let none = Func::trace(&shapes, |_, v| vec![&v[0] * 2.0]);
        assert_eq!(exchanges(&none), Exchanges::default());
        let outside = Func::trace(&shapes, |_, v| Tensor::all_reduce(v));
        assert_eq!(exchanges(&outside), Exchanges { count: 1, in_loops: 0, bytes: 16 });
        let body = Func::trace(&shapes[..1], |_, v| Tensor::all_reduce(v));
        let inside = Func::trace(&shapes[..1], |g, v| scan_whole(g, &body, 4, false, v, &[], &[]).0);
        assert_eq!(exchanges(&inside), Exchanges { count: 1, in_loops: 1, bytes: 12 });
    }
}
