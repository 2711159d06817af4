//! Which values of a function depend on a chosen set of values.

use crate::{
    func::Func,
    graph::{Node, Value},
};

/// For every value of a function, whether it depends on the sources.
pub struct Dependence {
    nodes: Vec<bool>,
}

impl Dependence {
    /// Marks everything reached from `sources`. `enter` may refuse to go on from a value into a node that uses it.
    pub fn new(func: &Func, sources: &[Value], mut enter: impl FnMut(&Node, usize) -> bool) -> Dependence {
        let mut nodes = vec![false; func.graph().len()];
        for s in sources {
            nodes[s.node] = true;
        }
        for (index, node) in func.live(false) {
            if !nodes[index] {
                nodes[index] = (0..node.operands.len()).any(|k| nodes[node.operands[k].node] && enter(&node, k));
            }
        }
        Dependence { nodes }
    }

    /// Marks everything that uses `sources` in any way.
    pub fn any(func: &Func, sources: &[Value]) -> Dependence {
        Dependence::new(func, sources, |_, _| true)
    }

    /// Whether a value is reached.
    pub fn has(&self, value: Value) -> bool {
        self.nodes[value.node]
    }

    /// Whether a node is reached.
    pub fn has_node(&self, node: usize) -> bool {
        self.nodes[node]
    }
}
