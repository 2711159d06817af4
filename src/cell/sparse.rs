//! Sparse connections as traced ops: for networks of 10^4 to 10^6 neurons.

use std::rc::Rc;

use hlo::{Tensor, ops::take::Places};

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
    synapses: usize,
    /// The neuron that each synapse hears, `[post, degree]`; `pre` where there is none.
    heard: Rc<Places>,
    /// The weight of each synapse, `[post, degree]`; nothing if all neurons have equally many.
    weights: Option<Rc<Places>>,
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
        let degree = counts.iter().copied().max().unwrap_or(0);
        if degree == 0 || post.saturating_mul(degree) >= i32::MAX as usize || pre >= i32::MAX as usize {
            return Err(ConnectionsError(format!(
                "a pattern has synapses, and less than 2^31 places ({post} neurons with up to {degree} synapses each), got {} synapses; \
                 spread them more evenly",
                synapses.len()
            )));
        }
        let (mut heard, mut weights) = (vec![pre as i32; post * degree], vec![synapses.len() as i32; post * degree]);
        let mut filled = vec![0usize; post];
        for (k, &(i, j)) in synapses.iter().enumerate() {
            let place = j * degree + filled[j];
            (heard[place], weights[place]) = (i as i32, k as i32);
            filled[j] += 1;
        }
        let plain = weights.iter().enumerate().all(|(place, &k)| place == k as usize);
        let places = |of: Vec<i32>| Rc::new(Places::new(&[post, degree], of));
        let weights = (!plain).then(|| places(weights));
        Ok(Connections { pre, post, degree, synapses: synapses.len(), heard: places(heard), weights })
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
        self.synapses
    }

    /// The most synapses that a neuron has.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// `y[j] = sum over the synapses of j of w x[i]`: `[B, pre] -> [B, post]`.
    fn apply(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        // Sequences innermost: what a synapse reads lies together.
        let x = x.transpose(&[1, 0]);
        let (x, table) = match &self.weights {
            None => (x, weight.reshape(&[self.post, self.degree])),
            // A neuron with fewer synapses hears zeros.
            Some(places) => (x.pad(&[0, 0], &[1, 0]), weight.pad(&[0], &[1]).take(places)),
        };
        let heard = x.take(&self.heard);
        (&heard * &table.broadcast(heard.dims(), &[0, 1])).sum(&[1]).transpose(&[1, 0])
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
        let weight = self.param(&format!("{site}.weight"), &[connections.synapses], init);
        self.traced(site, x, &weight, |x, w| connections.apply(x, w))
    }
}
