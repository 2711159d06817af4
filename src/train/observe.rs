//! Looking into a network: states, spikes and outputs of every step of some samples.

use hlo::{DType, Func, Shape, Tensor, array::Array, pjrt::Buffer};
use tasks::Batch;

use super::{
    program::{ProgramError, Spec, drawn_states, initial_states},
    replicas::Parts,
    session::{Session, SessionError},
    trainer::arrays,
};
use crate::{
    cell::{Observable, Quantity},
    learn::{Learner, Target},
};

/// Values of every step of a batch.
pub struct Observation {
    /// What was put in.
    pub batch: Batch,
    /// First step that counts.
    pub warmup: usize,
    /// What the output is compared with.
    pub kind: Target,
    /// Output, `[T, B, C]`.
    out: Vec<f32>,
    classes: usize,
    /// What the layers show, and the number of neurons: `[T, B, N]` each.
    observed: Vec<(Observable, usize, Vec<f32>)>,
}

impl Observation {
    /// Runs the network with `params` over a batch; the spec's model must be of the batch's size.
    ///
    /// # Errors
    /// When the program does not compile or the device fails.
    pub fn new(
        session: &Session,
        spec: &Spec,
        params: &[Buffer],
        batch: Batch,
        seed: u64,
    ) -> Result<Observation, ProgramError> {
        let model = &spec.evaluation;
        let config = spec.learner.without_learning();
        let learner = Learner::new(model, &spec.objective, &config)?;
        let drawn = drawn_states(model, Parts::ONE, seed, 0);
        let mut shapes: Vec<Shape> = model.params.iter().map(|p| p.shape.clone()).collect();
        shapes.extend(drawn.iter().map(|a| a.shape().clone()));
        shapes.push(Shape::new(DType::U8, [&[batch.steps], &model.input.dims[..]].concat()));
        let n = model.params.len();
        let func = Func::trace(&shapes, |g, v| {
            let states = initial_states(g, model, &v[n..v.len() - 1]);
            let all = learner.observe(g, &v[..n], &states, &v[v.len() - 1]);
            all[model.states.len()..].to_vec()
        });
        let mut args: Vec<Array> =
            params.iter().map(Buffer::to_array).collect::<Result<_, _>>().map_err(SessionError::from)?;
        args.extend(drawn);
        let (inputs, _) = arrays(batch.clone())?;
        args.push(inputs);
        let results = session.evaluate("observe", &func, &args)?;
        let values = |a: &Array| a.to_vec::<f32>().map_err(|e| SessionError::from(hlo::pjrt::Error::from(e)));
        let width = |t: &Tensor| t.dims()[2..].iter().product();
        let observed = model.observed.iter().zip(&results[1..]).zip(&func.results()[1..]);
        Ok(Observation {
            warmup: spec.learner.warmup,
            kind: spec.objective.target,
            out: values(&results[0])?,
            classes: model.output.dims[1],
            observed: observed
                .map(|((observable, a), t)| Ok((observable.clone(), width(t), values(a)?)))
                .collect::<Result<_, SessionError>>()?,
            batch,
        })
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.batch.real
    }

    /// Input spikes of a sample: (step, channel).
    pub fn input_spikes(&self, b: usize) -> Vec<(usize, usize)> {
        let row = |t: usize| self.batch.at(t, b).iter().enumerate().filter(|(_, c)| **c > 0).map(move |(i, _)| (t, i));
        (0..self.batch.steps).flat_map(row).collect()
    }

    /// Layers that fire: the name of each, and its number of neurons.
    pub fn layers(&self) -> Vec<(String, usize)> {
        let spiking = self.observed.iter().filter(|(o, ..)| o.quantity == Quantity::Spike);
        spiking.map(|(o, n, _)| (o.layer.clone(), *n)).collect()
    }

    /// The number of neurons of a layer and what it shows of a quantity, `[T, B, N]`.
    fn find(&self, layer: &str, quantity: Quantity) -> Option<(usize, &[f32])> {
        let found = self.observed.iter().find(|(o, ..)| o.layer == layer && o.quantity == quantity);
        found.map(|(_, n, values)| (*n, values.as_slice()))
    }

    /// Spikes of a layer: (step, neuron).
    pub fn spikes(&self, layer: &str, b: usize) -> Vec<(usize, usize)> {
        let Some((n, values)) = self.find(layer, Quantity::Spike) else { return Vec::new() };
        let fired = |&(t, i): &(usize, usize)| values[(t * self.batch.batch + b) * n + i] > 0.0;
        (0..self.batch.steps).flat_map(|t| (0..n).map(move |i| (t, i))).filter(fired).collect()
    }

    /// Membrane potential of a neuron over time; empty where the layer shows none.
    pub fn potential(&self, layer: &str, b: usize, neuron: usize) -> Vec<f32> {
        let Some((n, values)) = self.find(layer, Quantity::Potential) else { return Vec::new() };
        (0..self.batch.steps).map(|t| values[(t * self.batch.batch + b) * n + neuron]).collect()
    }

    /// Spikes per neuron and step of a layer, over all samples.
    pub fn rate(&self, layer: &str) -> f64 {
        let spikes: usize = (0..self.samples()).map(|b| self.spikes(layer, b).len()).sum();
        let neurons = self.find(layer, Quantity::Spike).map_or(1, |(n, _)| n);
        spikes as f64 / (self.samples().max(1) * self.batch.steps * neurons) as f64
    }

    /// An output over time.
    pub fn output(&self, b: usize, class: usize) -> Vec<f32> {
        (0..self.batch.steps).map(|t| self.out[(t * self.batch.batch + b) * self.classes + class]).collect()
    }

    /// Number of outputs.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The class whose output, summed over the steps that count, is largest.
    pub fn decision(&self, b: usize) -> usize {
        let sum = |c: usize| self.output(b, c)[self.warmup..].iter().map(|v| f64::from(*v)).sum::<f64>();
        (0..self.classes).max_by(|&a, &c| sum(a).total_cmp(&sum(c))).unwrap_or_default()
    }

    /// The right class of a sequence.
    pub fn target(&self, b: usize) -> i32 {
        self.batch.targets[b]
    }

    /// Where each step has a class: (step, right class, class whose output is largest) of those that count.
    pub fn steps(&self, b: usize) -> Vec<(usize, i32, usize)> {
        let n = self.batch.batch;
        let out = |t: usize, c: usize| self.out[(t * n + b) * self.classes + c];
        let answer = |t: usize| (0..self.classes).fold(0, |best, c| if out(t, c) > out(t, best) { c } else { best });
        let all = (self.warmup..self.batch.steps).map(|t| (t, self.batch.targets[t * n + b], answer(t)));
        all.filter(|(_, target, _)| *target >= 0).collect()
    }

    /// Where targets are numbers: that of an output in every step.
    pub fn curve(&self, b: usize, output: usize) -> Vec<f32> {
        let at = |t: usize| (t * self.batch.batch + b) * self.classes + output;
        (0..self.batch.steps).map(|t| self.batch.numbers[at(t)]).collect()
    }

    /// Where targets are numbers: the normalised mean squared error of a sample, over all outputs and the steps that count.
    pub fn nmse(&self, b: usize) -> f64 {
        let (mut error, mut spread) = (0.0, 0.0);
        for k in 0..self.classes {
            let of = |all: Vec<f32>| all[self.warmup..].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let (target, out) = (of(self.curve(b, k)), of(self.output(b, k)));
            let mean = target.iter().sum::<f64>() / target.len().max(1) as f64;
            error += target.iter().zip(&out).map(|(y, out)| (y - out).powi(2)).sum::<f64>();
            spread += target.iter().map(|y| (y - mean).powi(2)).sum::<f64>();
        }
        error / spread.max(f64::MIN_POSITIVE)
    }
}
