//! A finished program: the module XLA compiles, and the typed signature the runtime checks.

use crate::{proto, shape::Shape};

/// One argument of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Name for people; unique within the program.
    pub name: String,
    /// What must be passed.
    pub shape: Shape,
    /// The result whose buffer replaces this argument's: the argument is donated and cannot be used again.
    pub donated_to: Option<usize>,
}

/// One result of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultSpec {
    /// Name for people; unique within the program.
    pub name: String,
    /// What comes back.
    pub shape: Shape,
}

/// A program ready to be compiled. The root is a flat tuple of the results.
#[derive(Clone, Debug)]
pub struct Program {
    /// The computation.
    pub module: proto::Module,
    /// Arguments in order.
    pub arguments: Vec<Argument>,
    /// Results in order.
    pub results: Vec<ResultSpec>,
}
