//! What a program with a network of its own usually needs: `use etrace::prelude::*;`.

pub use hlo::{DType, Func, Graph, Shape, Tensor, array::Array, pjrt::Device};

pub use crate::{
    cell::{Dense, Init, Mode, Model, StateInit, StepContext, Surrogate, readout},
    learn::{
        Learner, LossKind, Method, Objective, Rule, Target, TargetKind, Vjp, form::TraceSetting,
        sequence::LearnerConfig,
    },
    train::{
        engine::{Engine, EngineError},
        optimizer::Optimizer,
        session::Session,
    },
};
