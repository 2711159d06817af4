//! Sparse connections as traced ops: for networks of 10^4 to 10^6 neurons.

use std::rc::Rc;

use hlo::{Tensor, ops::sparse::Synapses};

use super::{Init, StepContext};
use crate::rng::Stream;

/// Which neuron hears which: a fixed pattern of synapses, with one weight each.
#[derive(Clone)]
pub struct Connections {
    /// Neurons that are heard, and that hear.
    pre: usize,
    post: usize,
    /// Synapses of the neuron with the most.
    degree: usize,
    count: usize,
    synapses: Rc<Synapses>,
}

/// A pattern that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectionsError(String);

impl Connections {
    /// The synapses `(pre, post)`, whose weights are in this order.
    ///
    /// # Errors
    /// When there is none, a neuron does not exist, or there are more than a place can count.
    pub fn new(pre: usize, post: usize, synapses: &[(usize, usize)]) -> Result<Connections, ConnectionsError> {
        if let Some(&(i, j)) = synapses.iter().find(|&&(i, j)| i >= pre || j >= post) {
            return Err(ConnectionsError(format!(
                "synapses connect neurons 0 to {} with neurons 0 to {}, got ({i}, {j}); count from 0",
                pre.saturating_sub(1),
                post.saturating_sub(1)
            )));
        }
        let mut counts = vec![0usize; post];
        synapses.iter().for_each(|&(_, j)| counts[j] += 1);
        let places = post.saturating_mul(32).saturating_add(synapses.len());
        if synapses.is_empty() || places.max(pre) >= i32::MAX as usize {
            return Err(ConnectionsError(format!(
                "a pattern has synapses, and with 32 for each neuron that hears fewer than 2^31, got {} synapses between {pre} and {post} \
                 neurons; add some, or divide the pattern among several sites",
                synapses.len()
            )));
        }
        let degree = counts.into_iter().max().unwrap_or(0);
        let count = synapses.len();
        Ok(Connections { pre, post, degree, count, synapses: Rc::new(Synapses::new(pre, post, synapses)) })
    }

    /// `degree` synapses for each of `post` neurons, from neurons drawn with replacement.
    ///
    /// # Errors
    /// As [`Connections::new`].
    pub fn random(pre: usize, post: usize, degree: usize, seed: u64) -> Result<Connections, ConnectionsError> {
        let mut draw = Stream::new(seed, "connections");
        let mut synapses = Vec::with_capacity(post * degree);
        for j in 0..post {
            synapses.extend((0..degree).map(|_| ((draw.uniform() * pre as f64) as usize, j)));
        }
        Connections::new(pre, post, &synapses)
    }

    /// Number of synapses, and of weights.
    pub fn synapses(&self) -> usize {
        self.count
    }

    /// The most synapses that a neuron has.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// `y[j] = sum over the synapses of j of w x[i]`: `[B, pre] -> [B, post]`.
    fn apply(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        x.settle().transpose(&[1, 0]).sparse_dot(weight, &self.synapses).transpose(&[1, 0]).settle()
    }
}

impl StepContext {
    /// A traced product with a sparse matrix, `[B, pre] -> [B, post]`, whose weights are the parameter `site.weight`, one for each synapse;
    /// without a bias. What online rules can do with it is said at [`StepContext::traced`].
    #[track_caller]
    pub fn sparse(&mut self, site: &str, x: &Tensor, connections: &Connections, init: Init) -> Tensor {
        let batch = x.dims()[0];
        if x.rank() != 2 || x.dims()[1] != connections.pre {
            let (pre, got) = (connections.pre, x.shape());
            self.refuse(format!(
                "the synapses of `{site}` hear {pre} neurons, got {got}; change the pattern or its input"
            ));
            return x.graph().placeholder(hlo::Shape::f32([batch, connections.post]));
        }
        let weight = self.param(&format!("{site}.weight"), &[connections.count], init);
        self.traced(site, x, &weight, |x, w| connections.apply(x, w))
    }
}
