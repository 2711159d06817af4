//! Functions without memory in front of traced ops.
//!
//! What stands before a layer in a step, a stack of convolutions say, is behind the products of that layer: an online rule holds the output
//! of a traced op fixed, and so nothing that is made before it reaches a state. Its weights learn from the loss of each step alone. But a
//! function without memory and the product that reads it are together one function of input and weights, `y = f(x, v) W`, and that drives
//! the states directly: as a traced op it is trained through time like the product by itself.

use std::rc::Rc;

use hlo::Tensor;

use super::StepContext;

type Function = Rc<dyn Fn(&Tensor, &[Tensor]) -> Tensor>;

/// A function without memory, and where its values are.
#[derive(Clone)]
pub(super) struct Front {
    value: Tensor,
    input: Tensor,
    weights: Vec<Tensor>,
    function: Function,
}

impl StepContext {
    /// `f(x, weights)`, `[B, n]`, traced through every product that reads it: `cx.dense(.., &[&features, ..], ..)` becomes a traced op
    /// `y = f(x, weights) W` ([`StepContext::traced`]), whose parameters all learn through time. The value is that of the function, and so is
    /// the gradient of BPTT; each product makes it anew in its gradient. What it needs besides the weights, a mask say, is a part of `x`.
    #[track_caller]
    pub fn in_front(
        &mut self,
        x: &Tensor,
        weights: &[Tensor],
        function: impl Fn(&Tensor, &[Tensor]) -> Tensor + 'static,
    ) -> Tensor {
        let value = function(x, weights);
        let front =
            Front { value: value.clone(), input: x.clone(), weights: weights.to_vec(), function: Rc::new(function) };
        self.fronts.push(front);
        value
    }

    /// A product, or with the function in front of it one op.
    #[track_caller]
    pub(super) fn product(&mut self, site: &str, x: &Tensor, weight: &Tensor) -> Tensor {
        let Some(front) = self.fronts.iter().find(|front| front.value.value() == x.value()).cloned() else {
            return self.matmul(site, x, weight);
        };
        let parts: Vec<Tensor> = front.weights.iter().chain([weight]).cloned().collect();
        let flat: Vec<Tensor> = parts.iter().map(|t| t.reshape(&[t.shape().elements()])).collect();
        let all = Tensor::concat(&flat.iter().collect::<Vec<_>>(), 0);
        self.traced(site, &front.input, &all, |x, all| {
            let mut start = 0;
            let mut part = |like: &Tensor| {
                let end = start + like.shape().elements();
                let values = all.slice_axis(0, start, end).reshape(like.dims());
                start = end;
                values
            };
            let weights: Vec<Tensor> = front.weights.iter().map(&mut part).collect();
            (front.function)(x, &weights).dot(&part(weight))
        })
    }
}
