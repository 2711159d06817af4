//! A learning rule of one's own: sign-symmetric feedback.
//!
//! Run with `cargo run --release --example custom_rule`. The learning signal passes back through the *signs* of the weights, scaled to
//! their mean size: a synapse must know whether the one behind it excites or inhibits, and not how strongly (Liao, Leibo and Poggio, AAAI
//! 2016). Everything else is D-RTRL. It follows `docs/adding-a-rule.md`: what stands above `network` is the file of the rule, and the table
//! of rules takes it as it is, with the paths of imports inside the crate.

use etrace::{
    learn::{
        rule::{About, Passage, TracedOp},
        trace::TraceKind,
    },
    prelude::*,
    settings::range,
};
use serde::{Deserialize, Serialize};

/// The traces of D-RTRL with learning signals that come back through the signs of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignSymmetric {
    /// Size of the feedback, in units of the mean size of the weights.
    #[serde(deserialize_with = "range::positive")]
    pub scale: f64,
}

impl Default for SignSymmetric {
    fn default() -> Self {
        SignSymmetric { scale: 1.0 }
    }
}

impl Rule for SignSymmetric {
    fn about(&self) -> About {
        About {
            equation: "L_t pulled back with scale sign(W) mean |W| in place of every W",
            source: "Liao, Leibo and Poggio, AAAI 2016",
            memory: "as d-rtrl",
            use_when: "when synapses may know each other's sign alone",
        }
    }

    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }

    fn feedback(&self, passage: &Passage<'_>) -> Option<Tensor> {
        let w = passage.weight;
        let size = w.abs().mean_all() * self.scale;
        let sign = w.heaviside() * 2.0 - 1.0;
        Some(sign * size.broadcast_to(w.dims()))
    }

    fn check(&self) -> Result<(), LearnError> {
        range::POSITIVE.check(self.scale).map(|_| ()).map_err(|text| LearnError::Setting(format!("scale {text}")))
    }
}

const BATCH: usize = 16;
const STEPS: usize = 20;
const N_IN: usize = 10;

/// Two recurrent layers of leaky integrate-and-fire neurons and a leaky readout.
fn network() -> Model {
    StepContext::trace(BATCH, N_IN, |cx, x| {
        let mut spikes = x.clone();
        for name in ["first", "second"] {
            let v = cx.state(&format!("{name}.V"), 30, StateInit::Zeros);
            let before = Surrogate::default().spike(&(&v - 1.0));
            let weights = [Init::KaimingNormal(15.0), Init::KaimingNormal(2.0)];
            let drive = cx.dense(name, &[&spikes, &before], 30, &Dense::new(&weights));
            let new = (&v - &before) * 0.85 + drive * 0.3;
            cx.set(&format!("{name}.V"), &new);
            spikes = Surrogate::default().spike(&(&new - 1.0));
        }
        let r = cx.state("out", 2, StateInit::Zeros) * 0.9
            + cx.dense("readout", &[&spikes], 2, &Dense::new(&[Init::KaimingNormal(1.0)])) * 0.3;
        cx.set("out", &r);
        r
    })
}

/// Two classes: input spikes that come in slow or in fast waves.
fn data() -> Result<[Array; 2], hlo::pjrt::Error> {
    let mut random = etrace::rng::Stream::new(1, "waves");
    let classes: Vec<i32> = (0..BATCH).map(|b| (b % 2) as i32).collect();
    let spikes = (0..STEPS * BATCH * N_IN).map(|k| {
        let (t, b) = (k / (BATCH * N_IN), k / N_IN % BATCH);
        let wave = (t as f64 * if b % 2 == 0 { 0.25 } else { 0.6 }).sin();
        f32::from(random.uniform() < 0.3 + 0.3 * wave)
    });
    Ok([Array::f32(spikes.collect::<Vec<_>>(), [STEPS, BATCH, N_IN])?, Array::s32(classes, [BATCH])?])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = network();
    let session = Session::cpu()?;
    let rules: [(&str, Box<dyn Rule>); 3] = [
        ("d-rtrl", Box::new(etrace::learn::rule::DRtrl {})),
        ("random-feedback", Box::new(etrace::learn::rule::RandomFeedback::default())),
        ("sign-symmetric", Box::new(SignSymmetric::default())),
    ];
    let optimizer = Optimizer { lr: 5e-3, ..Optimizer::default() };
    let [spikes, classes] = data()?;
    for (name, rule) in rules {
        let learner = Learner::with_rule(&model, &Objective::default(), &LearnerConfig::default(), Box::new(rule))?;
        let engine = Engine::with_learner(&session, &model, learner)?;
        let (mut state, states) = (engine.start(optimizer.rule, 7)?, engine.states(7, 0)?);
        let mut losses = Vec::new();
        for _ in 0..100 {
            let (loss, grads) = engine.gradient(&state.params, &states, &spikes, &classes)?;
            state = engine.update(&optimizer, state, &grads)?.0;
            losses.push(loss / STEPS as f32);
        }
        println!("{name:>16}: loss {:.4} -> {:.4}", losses[0], losses[99]);
        assert!(losses[99] < 0.9 * losses[0], "{name} must learn");
    }
    Ok(())
}
