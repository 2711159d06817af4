//! Memory that a training run needs, computed before it starts.
//!
//! Where memory runs out, the system kills the process or the allocator aborts it, hours into a run or at its first step. All the
//! large parts are known beforehand: what the compiler planned for the programs (arguments, results, stacks and traces among its
//! temporary values), batches made ahead, an index of the data, the copy that a checkpoint is written from.

use std::fmt;

use hlo::pjrt::{PluginKind, memory};
use tasks::{Split, Task};

use super::{
    program::{EvalProgram, Spec, TrainProgram},
    session::{Session, SessionError},
    settings::Settings,
    trainer::{AHEAD, TrainError},
};
use crate::report::{byte_counts, bytes};

/// Bytes, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Of the device, while a program runs: the larger of training and evaluation.
    pub programs: u64,
    /// Batches on the host: made ahead, and the one in use.
    pub batches: u64,
    /// Labels, order and steps of the samples of a data set.
    pub data: u64,
    /// Parameters and optimiser state on the host, and the bytes of the file.
    pub checkpoint: u64,
}

impl Need {
    /// Of a run with these programs.
    ///
    /// # Errors
    /// When the plugin does not say what a program needs, or the task how many samples it has.
    pub fn new(
        session: &Session,
        spec: &Spec,
        settings: &Settings,
        task: &dyn Task,
        train: &TrainProgram,
        eval: Option<&EvalProgram>,
    ) -> Result<Need, TrainError> {
        let planned = |memory: hlo::pjrt::Result<hlo::pjrt::MemoryStats>| memory.map_err(SessionError::from);
        let state = state_bytes(spec);
        let copies = session.in_one_memory();
        let train = planned(train.executable.memory())?.total().saturating_mul(copies);
        let eval = eval.map(|e| planned(e.forward.executable.memory())).transpose()?.map_or(0, |m| m.total());
        let eval = eval.saturating_mul(copies);
        let model = &spec.model;
        let inputs = size(&[spec.parts.0, spec.steps, model.input.elements()]);
        let target = spec.objective.target.of_sequence(spec.steps, spec.batch(), model.output.dims[1]);
        let batch = inputs.saturating_add(size(&[4, target.elements()]));
        let mut samples = 0u64;
        for split in [Split::Train, Split::Test] {
            samples = samples.saturating_add(task.samples(split)?.unwrap_or(0));
        }
        // For each sample its label and place in the order, and where the events of each step end.
        let sample = size(&[4, spec.steps]).saturating_add(16);
        Ok(Need {
            programs: train.max(eval.saturating_add(state.saturating_mul(copies))),
            batches: batch.saturating_mul((AHEAD + settings.threads.max(1) + 1) as u64),
            data: samples.saturating_mul(sample),
            checkpoint: state.saturating_mul(2),
        })
    }

    /// Compares with what is there.
    ///
    /// # Errors
    /// When there is less: what is needed for what, and what there is.
    pub fn check(&self, session: &Session) -> Result<(), TrainError> {
        let host = self.batches.saturating_add(self.data).saturating_add(self.checkpoint);
        let parts = if session.device.kind() == PluginKind::Cpu {
            [(host.saturating_add(self.programs), memory::available_bytes(), "of memory"), (0, None, "")]
        } else {
            [(self.programs, free(session), "of the device's memory"), (host, memory::available_bytes(), "of memory")]
        };
        for (needed, there, of) in parts {
            if let Some(there) = there.filter(|there| needed > *there) {
                return Err(TrainError::Setting(format!(
                    "a run must fit into memory, but this one needs {} {of} ({self}) and {} are free; use a smaller \
                     --batch_size, fewer neurons, shorter sequences, or an online rule (--method d-rtrl)",
                    bytes(needed),
                    bytes(there)
                )));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("programs", self.programs),
            ("batches", self.batches),
            ("index of the data", self.data),
            ("checkpoint", self.checkpoint),
        ];
        f.write_str(&byte_counts(&parts))
    }
}

/// Bytes free on the device; on a CPU, for this process.
pub fn free(session: &Session) -> Option<u64> {
    match session.client.device_memory() {
        Some(m) => m.limit.map(|limit| limit.saturating_sub(m.in_use)),
        None => memory::available_bytes(),
    }
}

/// Bytes of everything that a checkpoint holds.
fn state_bytes(spec: &Spec) -> u64 {
    let of = |trained: bool| -> u64 {
        let chosen = spec.model.params.iter().filter(|p| p.trainable || !trained);
        chosen.map(|p| size(&[4, p.shape.elements()])).fold(0, u64::saturating_add)
    };
    of(false).saturating_add(of(true).saturating_mul(spec.optimizer.rule.slots() as u64))
}

fn size(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product, &n| product.saturating_mul(n as u64))
}
