//! A task that this project does not have, learned by a network that it has: `cargo run --release --example custom_task`.
//! It follows `docs/adding-a-task.md`: what stands above `main` is the file of the task, and the table of tasks takes it as it is, with the
//! paths of imports inside the crate.

use std::sync::Arc;

use etrace::{
    cell::Mode,
    learn::{Method, Objective, sequence::LearnerConfig},
    net::{NetConfig, Sizes},
    settings::Listed,
    train::{
        optimizer::Optimizer,
        program::{self, Spec, TrainProgram},
        replicas::Parts,
        session::Session,
        trainer::arrays,
    },
};
use hlo::pjrt::Device;
use serde::{Deserialize, Serialize};
use tasks::{Batch, Split, Task, TaskSettings, rng::Stream};

/// Temporal exclusive or: two pulses, each on one of two groups of inputs, with a pause in between; the class is 1 if they came on
/// different groups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemporalXor {
    /// Inputs of each group.
    pub group: usize,
    /// Steps of a pulse.
    pub pulse: usize,
    /// Steps between the pulses.
    pub pause: usize,
    /// Probability of a spike per step during a pulse.
    pub rate: f64,
}

impl Default for TemporalXor {
    fn default() -> Self {
        TemporalXor { group: 10, pulse: 5, pause: 5, rate: 0.5 }
    }
}

impl TaskSettings for TemporalXor {
    fn open(&self) -> tasks::Result<Arc<dyn Task>> {
        let sizes = [self.group, self.pulse].iter().all(|n| (1..=1 << 16).contains(n)) && self.pause <= 1 << 16;
        if !sizes || !(0.0..=1.0).contains(&self.rate) {
            return Err(tasks::Error::Setting {
                task: "temporal-xor",
                rule: "group and pulse are from 1 to 2^16, pause is at most that, rate is a probability",
                got: format!("{self:?}"),
                next: "10, 5, 5 and 0.5 are usual".into(),
            });
        }
        Ok(Arc::new(self.clone()))
    }
}

impl Task for TemporalXor {
    fn name(&self) -> &str {
        "temporal-xor"
    }
    fn n_in(&self) -> usize {
        2 * self.group
    }
    fn n_out(&self) -> usize {
        2
    }
    fn steps(&self) -> usize {
        2 * self.pulse + self.pause
    }
    /// The answer is known once the second pulse has begun.
    fn warmup(&self) -> usize {
        self.pulse + self.pause
    }
    fn samples(&self, _: Split) -> tasks::Result<Option<u64>> {
        Ok(None)
    }
    fn phases(&self) -> Vec<(String, usize, usize)> {
        let second = self.pulse + self.pause;
        vec![("first".into(), 0, self.pulse), ("second".into(), second, self.steps())]
    }
    fn batches(&self, _: Split, _: usize) -> tasks::Result<Option<u64>> {
        Ok(None)
    }

    fn batch(&self, split: Split, seed: u64, epoch: u64, step: u64, batch: usize) -> tasks::Result<Batch> {
        let mut out = Batch::empty(self.steps(), batch, self.n_in());
        out.real = batch;
        for b in 0..batch {
            // A stream of its own for each trial: a batch is a pure function of its position.
            let s = &mut Stream::new(seed, "temporal xor", &[split as u64, epoch, step, b as u64]);
            let sides = [s.below(2) as usize, s.below(2) as usize];
            for (side, start) in sides.into_iter().zip([0, self.pulse + self.pause]) {
                for t in start..start + self.pulse {
                    for i in side * self.group..(side + 1) * self.group {
                        out.inputs[(t * batch + b) * self.n_in() + i] = u8::from(s.unit() < self.rate);
                    }
                }
            }
            out.targets[b] = i32::from(sides[0] != sides[1]);
            out.ids[b] = step * batch as u64 + b as u64;
        }
        Ok(out)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let task = TemporalXor::default().open()?;
    let mut net = NetConfig::by_name("gru")?;
    net.resize(&Sizes { n_in: Some(task.n_in()), n_rec: Some(32), n_out: Some(task.n_out()), n_layer: None })?;
    let batch = 64;
    let spec = Spec {
        model: net.trace(batch, Mode::Online),
        evaluation: net.trace(batch, Mode::Evaluation),
        objective: Objective::default(),
        learner: LearnerConfig { method: Method::D_RTRL, warmup: task.warmup(), ..LearnerConfig::default() },
        optimizer: Optimizer { lr: 1e-2, ..Optimizer::default() },
        steps: task.steps(),
        mean_over_time: false,
        parts: Parts::ONE,
    };
    let session = Session::open(Device::Cpu, None, &mut |_| {})?;
    let training = TrainProgram::new(&session, &spec)?;
    let mut state = program::start(&session, &spec.model, spec.optimizer.rule, 1)?;
    let mut last = Vec::new();
    for step in 0..150 {
        let (inputs, target) = arrays(task.batch(Split::Train, 1, 0, step, batch)?)?;
        let report;
        (state, report) = training.step(&session, state, spec.optimizer.lr as f32, &[], &inputs, &target)?;
        if step % 30 == 0 || step == 149 {
            println!("batch {step:3}: loss {:.4}, accuracy {:.3}", report.loss, report.score);
        }
        last.push(report.score);
    }
    let accuracy = last[130..].iter().sum::<f32>() / 20.0;
    assert!(accuracy > 0.9, "it learns: mean accuracy of the last 20 batches {accuracy}");
    Ok(())
}
