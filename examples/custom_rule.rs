//! A learning rule of one's own: sign-symmetric feedback.
//!
//! Run with `cargo run --release --example custom_rule`. The learning signal passes back through the *signs* of the weights, scaled to
//! their mean size: a synapse must know whether the one behind it excites or inhibits, and not how strongly (Liao, Leibo and Poggio, AAAI
//! 2016). Everything else is D-RTRL. `docs/adding-a-rule.md` says how such a rule becomes a row of the table.

use etrace::{
    cell::{Dense, Init, Model, StateInit, StepContext, Surrogate},
    learn::{
        Learner, Method, Objective, Rule,
        rule::{About, Passage, TracedOp},
        sequence::LearnerConfig,
        trace::TraceKind,
    },
    train::session::Session,
};
use hlo::{
    Func, Shape, Tensor,
    array::Array,
    pjrt::{Arg, Device},
};

/// D-RTRL with sign-symmetric feedback.
struct SignSymmetric;

impl Rule for SignSymmetric {
    fn about(&self) -> About {
        About {
            equation: "L_t pulled back with sign(W) mean |W| in place of every W",
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
        let size = w.abs().mean_all();
        let sign = w.heaviside() * 2.0 - 1.0;
        Some(sign * size.broadcast_to(w.dims()))
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
    let session = Session::open(Device::Cpu, None, &mut |_| {})?;
    let rules: [(&str, Box<dyn Rule>); 3] = [
        ("d-rtrl", Box::new(etrace::learn::rule::DRtrl {})),
        ("random-feedback", Box::new(etrace::learn::rule::RandomFeedback::default())),
        ("sign-symmetric", Box::new(SignSymmetric)),
    ];
    let mut shapes: Vec<Shape> = model.params.iter().map(|p| p.shape.clone()).collect();
    shapes.extend([Shape::f32([STEPS, BATCH, N_IN]), Shape::s32([BATCH])]);
    let n = model.params.len();
    for (name, rule) in rules {
        let config = LearnerConfig { method: Method::D_RTRL, ..LearnerConfig::default() };
        let learner = Learner::with_rule(&model, &Objective::default(), &config, Box::new(rule))?;
        // Gradient descent as a program: (parameters, data) to (parameters, loss).
        let step = Func::trace(&shapes, |g, v| {
            let states: Vec<Tensor> = model.states.iter().map(|s| g.zeros(&s.shape)).collect();
            let out = learner.sequence(g, &v[..n], &states, &v[n], &v[n + 1]);
            let new = v[..n].iter().zip(&out.grads).map(|(w, d)| w - &(d * (1.0 / STEPS as f64)));
            new.chain([out.loss * (1.0 / STEPS as f64)]).collect()
        });
        let names: Vec<String> = (0..shapes.len()).map(|k| format!("in{k}")).collect();
        let program = session.compile("step", &step, &names, &names[..=n], &[])?;
        let mut weights = Vec::new();
        for p in &model.params {
            let values = p.init.values(&p.shape, 7, &p.name);
            weights.push(session.client.upload(&Array::f32(values, p.shape.dims.clone())?)?);
        }
        let [spikes, classes] = data()?;
        let data = [session.client.upload(&spikes)?, session.client.upload(&classes)?];
        let mut losses = Vec::new();
        for _ in 0..100 {
            let mut out = program.run(weights.iter().chain(&data).map(Arg::Keep).collect())?;
            losses.push(out.pop().ok_or("no loss")?.to_array()?.scalar::<f32>()?);
            weights = out;
        }
        println!("{name:>16}: loss {:.4} -> {:.4}", losses[0], losses[99]);
        assert!(losses[99] < 0.9 * losses[0], "{name} must learn");
    }
    Ok(())
}
