//! How good the approximations of online learning are: `docs/spec/networks-dms-ei.md, "Analyses"`.
//!
//! * [`jacobian`]: the diagonal of the hidden Jacobian against all of it.
//! * [`history`]: a sum of outer products against the outer product of sums, along the traces of D-RTRL.
//! * [`gradient`]: online gradients against BPTT.
//! * [`rank_one`]: the same question as in [`history`], for random matrices.
//! * [`alive`]: weight scales at which there is something to analyse.

pub mod alive;
pub mod gradient;
pub mod history;
pub mod jacobian;
pub mod rank_one;
pub mod setting;

use hlo::{DType, Graph, Shape, Tensor, array::Array};
use tasks::Batch;

use crate::{
    cell::Model,
    learn::Learner,
    train::{
        program::ProgramError,
        session::{Session, SessionError},
        trainer::arrays,
    },
};

/// `<x, y> / (|x| |y|)`; nothing where `x` is zero or not finite, for then there is nothing to compare with; 0 where `y` is.
pub fn cosine_with(x: &[f32], y: &[f32]) -> Option<f64> {
    let some = x.iter().any(|v| *v != 0.0) && x.iter().all(|v| v.is_finite());
    some.then(|| cosine(x, y))
}

/// `<x, y> / (|x| |y|)`; 0 where a norm is 0 or not finite.
pub fn cosine(x: &[f32], y: &[f32]) -> f64 {
    // Scaled by the largest entry, so that squares do not overflow.
    let scale = |v: &[f32]| v.iter().fold(0.0f64, |m, a| m.max(f64::from(*a).abs()));
    let (a, b) = (scale(x), scale(y));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        x.iter().zip(y).map(|(p, q)| f(f64::from(*p) / a, f64::from(*q) / b)).sum()
    };
    let cosine = sum(&|p, q| p * q) / (sum(&|p, _| p * p) * sum(&|_, q| q * q)).sqrt();
    if cosine.is_finite() { cosine } else { 0.0 }
}

/// The cosine from a product and two squared norms, element by element; 0 where a norm is 0.
fn cosine_of(product: &Tensor, x: &Tensor, y: &Tensor) -> Tensor {
    let squares = x * y;
    let zero = squares.zeros_like();
    let some = squares.gt(&zero);
    some.select(&(product / &some.select(&squares, &squares.full_like(1.0)).sqrt()), &zero)
}

/// Sums tensors of one shape; there must be one.
fn total(terms: impl IntoIterator<Item = Tensor>, none: impl FnOnce() -> Tensor) -> Tensor {
    Tensor::sum_of(terms.into_iter().map(Some)).unwrap_or_else(none)
}

/// The groups of hidden states that belong to layers: those without a state of the readout.
fn layer_groups(learner: &Learner, model: &Model) -> Vec<usize> {
    let groups = &learner.structure.groups;
    (0..groups.len()).filter(|&g| groups[g].states.iter().all(|&s| !model.states[s].readout)).collect()
}

/// Shapes of the arguments that every analysis takes: parameters, initial states, inputs `u8[T, B, n_in]`.
fn argument_shapes(model: &Model, steps: usize) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = model.params.iter().map(|p| p.shape.clone()).collect();
    shapes.extend(model.states.iter().map(|s| s.shape.clone()));
    shapes.push(Shape::new(DType::U8, [&[steps], &model.input.dims[..]].concat()));
    shapes
}

/// Values of those arguments: the initial network of `seed`, and a batch.
fn arguments(model: &Model, seed: u64, batch: &Batch) -> Result<Vec<Array>, ProgramError> {
    let array = |values: Vec<f32>, shape: &Shape| {
        Array::f32(values, shape.dims.clone()).map_err(|e| SessionError::from(hlo::pjrt::Error::from(e)))
    };
    let mut all = Vec::new();
    for p in &model.params {
        all.push(array(p.init.values(&p.shape, seed, &p.name), &p.shape)?);
    }
    for s in &model.states {
        all.push(array(s.init.values(&s.shape, seed, &s.name, 0), &s.shape)?);
    }
    all.push(arrays(batch.clone())?.0);
    Ok(all)
}

/// A compiled function of those arguments, to be run for many batches.
struct Analysis<'a> {
    session: &'a Session,
    model: Model,
    executable: hlo::pjrt::Executable,
}

impl<'a> Analysis<'a> {
    fn new(
        session: &'a Session,
        name: &str,
        model: &Model,
        steps: usize,
        body: impl FnOnce(&Graph, &[Tensor], &[Tensor], &Tensor) -> Vec<Tensor>,
    ) -> Result<Analysis<'a>, ProgramError> {
        let shapes = argument_shapes(model, steps);
        let (n, s) = (model.params.len(), model.states.len());
        let func = hlo::Func::trace(&shapes, |g, v| body(g, &v[..n], &v[n..n + s], &v[n + s]));
        let names = |k: usize, what: &str| (0..k).map(|i| format!("{what}{i}")).collect::<Vec<_>>();
        let executable =
            session.compile(name, &func, &names(shapes.len(), "arg"), &names(func.results().len(), "result"), &[])?;
        Ok(Analysis { session, model: model.clone(), executable })
    }

    /// Results for the network of `seed` on a batch.
    fn run(&self, seed: u64, batch: &Batch) -> Result<Vec<Vec<f32>>, ProgramError> {
        self.run_as(&self.model, seed, batch)
    }

    /// The same with the initial values of another model of the same shapes.
    fn run_as(&self, model: &Model, seed: u64, batch: &Batch) -> Result<Vec<Vec<f32>>, ProgramError> {
        let args = arguments(model, seed, batch)?;
        let upload = |a: &Array| self.session.client.upload(a).map_err(SessionError::from);
        let buffers = args.iter().map(upload).collect::<Result<Vec<_>, _>>()?;
        let out =
            self.executable.run(buffers.iter().map(hlo::pjrt::Arg::Keep).collect()).map_err(SessionError::from)?;
        let values = |b: &hlo::pjrt::Buffer| -> Result<Vec<f32>, SessionError> {
            Ok(b.to_array()?.to_vec().map_err(hlo::pjrt::Error::from)?)
        };
        Ok(out.iter().map(values).collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::{cosine, cosine_with};

    #[test]
    fn cosines_do_not_overflow_and_know_zero() {
        assert!((cosine(&[3e30, 4e30], &[4e-30, 3e-30]) - 0.96).abs() < 1e-6);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 2.0]), 0.0);
        assert_eq!(cosine_with(&[0.0, 0.0], &[1.0, 2.0]), None);
        assert_eq!(cosine_with(&[f32::INFINITY, 0.0], &[1.0, 2.0]), None);
        assert_eq!(cosine_with(&[1.0, 2.0], &[0.0, 0.0]), Some(0.0), "a rule that finds nothing is not excused");
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert!((cosine(&[-1.0, 2.0], &[1.0, -2.0]) + 1.0).abs() < 1e-12);
    }
}
