//! A neuron that this project does not have, in a layer with synapses that it has, trained by BPTT and online:
//! `cargo run --release --example custom_neuron`. It follows `docs/adding-a-neuron.md`: what stands above `main` is the file of the neuron,
//! and the table of neurons takes it as it is, with the paths of imports inside the crate.

use etrace::{
    cell::spiking::{ExpCu, Site},
    net,
    prelude::*,
    settings::range,
};
use serde::{Deserialize, Serialize};

/// A resonate-and-fire neuron (Izhikevich 2001): a damped oscillator `z = u + iv` driven by its input, here written with two
/// real states that turn by `omega` per step. It fires when `v` crosses 1, and a spike shortens `v` by its surrogate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resonator {
    /// What is left of the oscillation after a step.
    #[serde(deserialize_with = "range::below_one")]
    pub damping: f64,
    /// Derivative of a spike.
    pub surrogate: Surrogate,
}

impl Default for Resonator {
    fn default() -> Self {
        Resonator { damping: 0.9, surrogate: Surrogate::default() }
    }
}

impl Resonator {
    fn spike(&self, v: &Tensor) -> Tensor {
        self.surrogate.spike(&(v - 1.0))
    }
}

impl Neuron for Resonator {
    fn last_spike(&self, cx: &mut StepContext, at: Population) -> Tensor {
        let v = cx.state("V", at.n, StateInit::Zeros);
        self.spike(&v)
    }

    fn step(&self, cx: &mut StepContext, at: Population, input: &Input) -> Tensor {
        let (u, v) = (cx.state("u", at.n, StateInit::Zeros), cx.state("V", at.n, StateInit::Zeros));
        let omega = cx.param("omega", &[at.n], Init::Uniform(0.2, 0.6));
        let omega = cx.elementwise("omega", &omega);
        let (cos, sin) = (omega.cos() * self.damping, omega.sin() * self.damping);
        let (new_u, new_v) = (&cos * &u - &sin * &v + input.total(&v), &sin * &u + &cos * &v - self.spike(&v));
        cx.set("u", &new_u);
        cx.set("V", &new_v);
        let s = self.spike(&new_v);
        cx.observe(Quantity::Potential, &new_v);
        cx.observe(Quantity::Spike, &s);
        s
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (steps, batch, n_in) = (40, 32, 12);
    let neuron = Resonator::default();
    let at = Population { n: 24, dt: 1.0 };
    let init = [Init::KaimingNormal(2.0), Init::KaimingNormal(2.0)];
    let model = StepContext::trace(batch, n_in, |cx, x| {
        let site = Site { name: "l0", first: true, at, init: &init };
        let spikes = net::layer(cx, site, &neuron, &ExpCu { tau: 2.0 }, x);
        readout::leaky(cx, &spikes, 2, 10.0, at.dt)
    });
    // Two classes: input spikes that come in slow or in fast waves.
    let mut random = etrace::rng::Stream::new(1, "waves");
    let classes: Vec<i32> = (0..batch).map(|b| (b % 2) as i32).collect();
    let mut spikes = vec![0.0f32; steps * batch * n_in];
    for (k, s) in spikes.iter_mut().enumerate() {
        let (t, b) = (k / (batch * n_in), k / n_in % batch);
        let wave = (t as f64 * if b % 2 == 0 { 0.25 } else { 0.6 }).sin();
        *s = f32::from(random.uniform() < 0.3 + 0.3 * wave);
    }
    let inputs = Array::f32(spikes, [steps, batch, n_in])?;
    let classes = Array::s32(classes, [batch])?;
    let session = Session::cpu()?;
    let optimizer = Optimizer { lr: 5e-3, ..Optimizer::default() };
    for method in [Method::BPTT, Method::D_RTRL, Method::es_d_rtrl(0.9), Method::hybrid(0.9)] {
        let name = method.name();
        let config = LearnerConfig { method, ..LearnerConfig::default() };
        let engine = Engine::new(&session, &model, &Objective::default(), &config)?;
        let (mut state, states) = (engine.start(optimizer.rule, 7)?, engine.states(7, 0)?);
        let mut losses = Vec::new();
        for _ in 0..100 {
            let (loss, grads) = engine.gradient(&state.params, &states, &inputs, &classes)?;
            state = engine.update(&optimizer, state, &grads)?.0;
            losses.push(loss / steps as f32);
        }
        println!("{name:>15}: loss {:.4} -> {:.4}", losses[0], losses[99]);
        assert!(losses[99] < 0.8 * losses[0], "{name} must learn");
    }
    Ok(())
}
