//! A model with values for everything, and what learners make of it on the host.

use etrace::{
    cell::{Init, Model},
    learn::{Learner, Objective, rings::Rings, sequence::Carry},
    rng::Stream,
};
use hlo::{DType, Func, HostValue, Shape, Tensor};

pub const BATCH: usize = 2;

/// A model with random values for everything.
pub struct Case {
    pub model: Model,
    pub objective: Objective,
    pub params: Vec<HostValue>,
    pub states: Vec<HostValue>,
    /// `[B, n_in]`, one for each step.
    pub inputs: Vec<HostValue>,
    pub target: HostValue,
    /// Whether finite differences tell the truth: no step function and no detached value.
    pub smooth: bool,
    /// What it is made of.
    pub made_of: Vec<String>,
}

impl Case {
    /// Random values for a model; constants as the model says.
    pub fn of(model: Model, objective: Objective, seed: u64, steps: usize) -> Case {
        let mut values = Stream::new(seed, "values");
        let mut array = |shape: &Shape, spread: f64| {
            HostValue::new(shape.clone(), (0..shape.elements()).map(|_| spread * values.normal()).collect())
        };
        let params = model.params.iter().map(|p| match p.trainable {
            true => array(&p.shape, 0.8),
            false => fixed(&p.init, &p.shape, seed, &p.name),
        });
        let params = params.collect();
        let states = model.states.iter().map(|s| array(&s.shape, 0.6)).collect();
        let inputs = (0..steps).map(|_| array(&model.input, 1.0)).collect();
        let batch = model.batch();
        let target = HostValue::new(Shape::s32([batch]), (0..batch).map(|b| (b % 2) as f64).collect());
        Case { model, objective, params, states, inputs, target, smooth: false, made_of: vec![] }
    }

    /// The gradients of a learner, on the host: by [`Learner::sequence`], or chunk by chunk as a stream drives it.
    pub fn gradients(&self, learner: &Learner, stream: bool) -> Vec<Vec<f64>> {
        let (func, args) = self.program(learner, stream);
        func.evaluate(&args).into_iter().map(|v| v.data).collect()
    }

    /// The program that computes them, and its arguments.
    pub fn program(&self, learner: &Learner, stream: bool) -> (Func, Vec<HostValue>) {
        let (n, s) = (self.model.params.len(), self.model.states.len());
        let stacked = self.model.input.with_dims([&[self.inputs.len()], &self.model.input.dims[..]].concat());
        let mut args = [&self.params[..], &self.states].concat();
        args.push(HostValue::new(stacked, self.inputs.iter().flat_map(|x| x.data.clone()).collect()));
        args.push(self.target.clone());
        let shapes: Vec<Shape> = args.iter().map(|a| a.shape.clone()).collect();
        let func = Func::trace(&shapes, |g, v| {
            let (params, states) = (&v[..n], &v[n..n + s]);
            if !stream {
                return learner.sequence(g, params, states, &v[n + s], &v[n + s + 1]).grads;
            }
            let phis = learner.prepared.prefix.call(g, params);
            let length = learner.dense_chunk(self.inputs.len());
            let rings = Rings::of_stream(learner.stream(length).expect("a form for streams").used.form);
            let traces = Some(learner.zero_traces(g, rings));
            let mut carry = Carry { rings, traces, ..learner.start(g, states) };
            let mut grads: Vec<Option<Tensor>> = vec![None; phis.len()];
            let mut add = |found: Vec<Option<Tensor>>| {
                for (sum, grad) in grads.iter_mut().zip(found) {
                    *sum = Tensor::sum_of([sum.take(), grad]);
                }
            };
            for at in (0..self.inputs.len()).step_by(length) {
                let piece = v[n + s].slice_axis(0, at, (at + length).min(self.inputs.len()));
                let (next, sums) = learner.chunk(g, &phis, carry, &piece, &v[n + s + 1], true, true, None);
                carry = next;
                add(sums.grads);
                // Gradients may be taken at any time, and are at the end.
                let taken = (at / length).is_multiple_of(2) || at + length >= self.inputs.len();
                if let (Some(traces), true, true) = (&mut carry.traces, taken, rings != Rings::None) {
                    let (found, after) = learner.settle(g, rings.lag(), traces);
                    add(found.grads);
                    *traces = after;
                }
            }
            learner.prepared.pull(g, params, &grads)
        });
        (func, args)
    }

    /// Largest difference relative to the largest entry of each parameter's gradient.
    pub fn worst(&self, got: &[Vec<f64>], want: &[Vec<f64>]) -> f64 {
        let trained = (0..got.len()).filter(|&k| self.model.params[k].trainable);
        let largest = |v: &[f64]| v.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let all = want.iter().map(|w| largest(w)).fold(0.0, f64::max);
        let error = |k: usize| {
            let apart: Vec<f64> = got[k].iter().zip(&want[k]).map(|(a, b)| a - b).collect();
            // What is zero but for cancellation has no relative error.
            largest(&apart) / largest(&want[k]).max(1e-6 * all).max(1e-12)
        };
        trained.map(error).fold(0.0, |m, e| if e.is_nan() { e } else { m.max(e) })
    }
}

fn fixed(init: &Init, shape: &Shape, seed: u64, name: &str) -> HostValue {
    let values = init.values(shape, seed, name);
    HostValue::new(shape.clone(), values.into_iter().map(f64::from).collect())
}
