//! What the replicas of a program do together.
//!
//! A program that is compiled for several replicas ([`CompileOptions::replicas`](crate::pjrt::CompileOptions::replicas)) runs on as many
//! devices in step, each on its own arguments. Here is the only operation in which they learn of each other. In a program of one replica,
//! and on the host, a sum over all replicas is its operand.

use std::rc::Rc;

use crate::{
    evaluate::HostValue,
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    shape::Shape,
};

/// Sums over all replicas, of several arrays in one exchange.
#[derive(Clone, Debug)]
pub struct AllReduce;

impl Primitive for AllReduce {
    fn name(&self) -> &'static str {
        "all-reduce"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        match args.first() {
            None => Err(ShapeError(
                "all-reduce: sums at least one array, got none; leave it out where nothing is shared".into(),
            )),
            Some(first) if args.iter().any(|s| s.dtype != first.dtype) => Err(ShapeError(format!(
                "all-reduce: all arrays of one exchange have one type, got {}; convert them",
                args.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ))),
            Some(_) => Ok(args.iter().map(|&s| s.clone()).collect()),
        }
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let known: Vec<Tensor> =
            args.iter().zip(tangents).map(|(x, d)| d.clone().unwrap_or_else(|| x.zeros_like())).collect();
        Tensor::all_reduce(&known).into_iter().map(Some).collect()
    }
    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        let mapped: Vec<Tensor> = args.iter().map(|a| a.materialize(size)).collect();
        Tensor::all_reduce(&mapped).into_iter().map(|tensor| Mapped { tensor, mapped: true }).collect()
    }
    fn evaluate(&self, args: &[&HostValue], _: &[Shape]) -> Vec<HostValue> {
        args.iter().map(|&x| x.clone()).collect()
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        e.all_reduce(args, results)
    }
    // Two exchanges are two exchanges, even of the same values.
    fn key(&self) -> Option<String> {
        None
    }
}

impl Tensor {
    /// The sum of each array over all replicas of the program, in one exchange.
    ///
    /// # Panics
    /// Without an array, or with arrays of several types.
    #[track_caller]
    pub fn all_reduce(arrays: &[Tensor]) -> Vec<Tensor> {
        let Some(first) = arrays.first() else { panic!("all-reduce: sums at least one array, got none") };
        first.graph().apply_rc(Rc::new(AllReduce), &arrays.iter().collect::<Vec<_>>())
    }
}
