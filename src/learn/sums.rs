//! What the pieces of a sequence add up: gradients, loss, output, tracked values.

use std::collections::HashSet;

use hlo::{Graph, Tensor};

use super::Learner;

/// What a piece of a sequence adds up.
pub struct Sums {
    /// Gradients by `phi`.
    pub grads: Vec<Option<Tensor>>,
    /// Loss, a scalar.
    pub loss: Tensor,
    /// Output, `[B, C]`.
    pub out: Tensor,
    /// Tracked values.
    pub tracked: Vec<Tensor>,
    /// Scores of the steps that count, `[B]`, where each step has one ([`Objective::scores`](super::Objective)).
    pub score: Option<Tensor>,
}

impl Sums {
    /// Those of this piece and of the next together.
    pub(super) fn add(self, other: Sums) -> Sums {
        Sums {
            grads: self.grads.into_iter().zip(other.grads).map(|(a, b)| Tensor::sum_of([a, b])).collect(),
            loss: self.loss + other.loss,
            out: self.out + other.out,
            tracked: self.tracked.iter().zip(&other.tracked).map(|(a, b)| a + b).collect(),
            score: self.score.zip(other.score).map(|(a, b)| a + b),
        }
    }
}

/// [`Sums`] as values that a loop carries.
pub(super) struct Adding {
    none: Sums,
    /// The `phi` that learn.
    learned: Vec<usize>,
    /// Those whose gradients are made turned (`Operator::is_turned`): they are added up so, and turned back once.
    turned: HashSet<usize>,
}

impl Adding {
    /// Nothing added yet. With `learn` there are gradients of `phis`.
    pub fn new(learner: &Learner, g: &Graph, phis: &[Tensor], learn: bool) -> Adding {
        let learned: Vec<usize> = (0..phis.len()).filter(|&k| learn && learner.prepared.is_trained(k)).collect();
        let turned = learner.structure.ops.iter().filter(|op| op.kind.operator().is_turned(op));
        let turned: HashSet<usize> = turned.map(|op| op.phi).collect();
        let mut none = learner.no_sums(g);
        for &k in &learned {
            let mut shape = phis[k].shape().clone();
            if turned.contains(&k) {
                shape.dims.reverse();
            }
            none.grads[k] = Some(g.zeros(&shape));
        }
        Adding { none, learned, turned }
    }

    /// The values before the loop.
    pub fn start(&self) -> Vec<Tensor> {
        let Sums { grads, loss, out, tracked, score } = &self.none;
        let grads = self.learned.iter().filter_map(|&k| grads[k].clone());
        let values = [loss.clone(), out.clone()].into_iter().chain(tracked.iter().cloned()).chain(score.clone());
        values.chain(grads).collect()
    }

    /// The values after a round that adds `new`.
    pub fn add(&self, old: &[Tensor], new: &Sums) -> Vec<Tensor> {
        let values = [&new.loss, &new.out].into_iter().chain(&new.tracked).chain(&new.score).map(Some);
        let values = values.map(|value| value.cloned());
        let grad = |&k: &usize| new.grads[k].as_ref().map(|grad| self.turn(k, grad));
        let added = values.chain(self.learned.iter().map(grad));
        old.iter().zip(added).map(|(sum, new)| new.map_or_else(|| sum.clone(), |new| sum + new)).collect()
    }

    /// A gradient as it is carried, and what is carried as a gradient.
    fn turn(&self, k: usize, grad: &Tensor) -> Tensor {
        if self.turned.contains(&k) { grad.turned() } else { grad.clone() }
    }

    /// What was added up.
    pub fn sums(self, last: &[Tensor]) -> Sums {
        let tracked = 2 + self.none.tracked.len();
        let mut sums = Sums {
            grads: vec![None; self.none.grads.len()],
            loss: last[0].clone(),
            out: last[1].clone(),
            tracked: last[2..tracked].to_vec(),
            score: self.none.score.as_ref().map(|_| last[tracked].clone()),
        };
        let scores = usize::from(sums.score.is_some());
        for (&k, grad) in self.learned.iter().zip(&last[tracked + scores..]) {
            sums.grads[k] = Some(self.turn(k, grad));
        }
        sums
    }
}
