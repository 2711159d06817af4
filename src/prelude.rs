//! What a program that defines and trains a network of its own needs: `use etrace::prelude::*;`.
//!
//! The types of the crates `hlo` and `tasks` that signatures need are among them; the crates themselves are [`etrace::hlo`](hlo) and
//! [`etrace::tasks`](tasks).

pub use hlo::{
    DType, Func, Graph, Shape, Tensor,
    array::Array,
    pjrt::{Buffer, Device},
};
pub use tasks::{Batch, Split, Task};

pub use crate::{
    cell::{
        Connections, Convolution, Dense, Init, Mode, Model, ModelError, Observable, Quantity, StateInit, StepContext,
        Surrogate, readout,
        spiking::{Input, Neuron, Population},
    },
    learn::{
        Attachment, LearnError, Learner, LossKind, Method, Objective, Rule, Target, TargetKind, Vjp,
        form::TraceSetting, objective::Regularizer, sequence::LearnerConfig,
    },
    train::{
        engine::{Advanced, Engine, Evaluated, Gradients, Observed, Sequence, Stream},
        optimizer::{Optimizer, Schedule},
        program::{ProgramError, TrainState},
        session::{Session, SessionError},
    },
};
