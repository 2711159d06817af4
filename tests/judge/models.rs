//! Random small models of the kinds that people write.
//!
//! One to three layers of one to five states: potentials with resets before or after the output, detached or not, synaptic currents,
//! conductances, adaptation, gates, plain recurrent units; latches, copies, delays and states that nobody reads; layers that read
//! old, new or pre-reset values; element-wise parameters, masks, shared weights, fixed mixtures; readouts with and without memory.

use etrace::{
    cell::{Dense, Init, Quantity, StateInit, StepContext},
    learn::{LossKind, Objective, objective::Regularizer},
    rng::Stream,
};
use hlo::Tensor;

use super::case::{BATCH, Case};

const N_OUT: usize = 2;

/// Makes decisions and writes them down.
struct Draw {
    random: Stream,
    smooth: bool,
    /// Spikes are graded in any case.
    graded: bool,
    made_of: Vec<String>,
}

impl Draw {
    fn chance(&mut self, p: f64) -> bool {
        self.random.uniform() < p
    }

    fn below(&mut self, n: usize) -> usize {
        (self.random.uniform() * n as f64) as usize
    }

    fn pick(&mut self, what: &str, names: &[&str]) -> usize {
        let k = self.below(names.len());
        self.made_of.push(format!("{what}: {}", names[k]));
        k
    }

    fn says(&mut self, what: &str, p: f64) -> bool {
        let yes = self.chance(p);
        if yes {
            self.made_of.push(what.to_string());
        }
        yes
    }

    /// A spike with a surrogate that is nowhere zero, or the function whose derivative that is.
    fn spike(&self, x: &Tensor) -> Tensor {
        let soft = (x * 3.0).sigmoid();
        if self.smooth || self.graded {
            return soft;
        }
        x.heaviside().with_derivative(&[(x, &(&soft * (1.0 - &soft) * 3.0))])
    }

    fn detached(&mut self, x: Tensor) -> Tensor {
        if !self.smooth && self.says("detached", 0.25) { x.stop_gradient() } else { x }
    }
}

/// What others can read of a layer.
struct Layer {
    width: usize,
    /// Values after the step (new states, spikes of them), in it (before a reset), and before it.
    new: Vec<Tensor>,
    inside: Vec<Tensor>,
    old: Vec<Tensor>,
}

impl Layer {
    fn read(&self, draw: &mut Draw) -> Tensor {
        // Two layers in a row that read old values are a dead end for an online rule: not too many of these.
        let (new, inside, old) = (("new", &self.new), ("inside", &self.inside), ("old", &self.old));
        let kinds = [new, new, inside, inside, inside, old];
        let some: Vec<_> = kinds.iter().filter(|(_, values)| !values.is_empty()).collect();
        let names: Vec<&str> = some.iter().map(|(name, _)| *name).collect();
        let values = some[draw.pick("reads", &names)].1;
        values[draw.below(values.len())].clone()
    }
}

/// The model of a seed, with the values of the same seed.
pub fn case(seed: u64, steps: usize) -> Case {
    case_with(seed, seed, steps)
}

/// The model of a seed, with the values (and masks) of another.
pub fn case_with(seed: u64, values: u64, steps: usize) -> Case {
    made(seed, values, steps, false)
}

/// The same model with graded spikes: the function whose derivative is the surrogate, in place of the step.
pub fn case_graded(seed: u64, values: u64, steps: usize) -> Case {
    made(seed, values, steps, true)
}

fn made(seed: u64, values: u64, steps: usize, graded: bool) -> Case {
    let mut draw = Draw { random: Stream::new(seed, "models"), smooth: false, graded, made_of: vec![] };
    draw.smooth = draw.says("smooth", 0.3);
    let n_in = 2 + draw.below(2);
    let objective = Objective {
        loss: if draw.chance(0.5) { LossKind::Mse } else { LossKind::CrossEntropy },
        regularizer: if draw.says("regularised", 0.15) {
            Regularizer { membrane: 0.3, low: -0.5, high: 0.5, spike: 0.7, rate: 0.2 }
        } else {
            Regularizer::default()
        },
        ..Objective::default()
    };
    let model = StepContext::trace(BATCH, n_in, |cx, x| network(cx, x, &mut draw));
    Case { smooth: draw.smooth, made_of: draw.made_of, ..Case::of(model, objective, values, steps) }
}

fn network(cx: &mut StepContext, x: &Tensor, draw: &mut Draw) -> Tensor {
    let mut layers: Vec<Layer> = Vec::new();
    for k in 0..1 + draw.below(3) {
        let input = match layers.last() {
            None => x.clone(),
            Some(last) => last.read(draw),
        };
        let layer = cx.scope(&format!("l{k}"), |cx| layer(cx, &input, draw));
        layers.push(layer);
    }
    let last = layers.pop().expect("at least one layer");
    let mut read = last.read(draw);
    if let Some(skipped) = layers.first().filter(|_| draw.says("a readout of two layers", 0.2)) {
        read = Tensor::concat(&[&read, &skipped.read(draw)], 1);
    }
    readout(cx, &read, draw)
}

fn readout(cx: &mut StepContext, read: &Tensor, draw: &mut Draw) -> Tensor {
    let kind =
        draw.pick("readout", &["leaky", "linear", "untraced weight", "fixed weight", "fixed weight with memory"]);
    let before = draw.says("read before the step", 0.1);
    let width = read.dims()[1];
    let how = Dense::new(&[Init::Zeros]);
    match kind {
        0 => {
            let old = cx.state("out.r", N_OUT, StateInit::Zeros);
            let new = &old * 0.8 + cx.dense("out", &[read], N_OUT, &how);
            cx.set("out.r", &new);
            if before { old } else { new }
        }
        1 => cx.dense("out", &[read], N_OUT, &how),
        2 => {
            let weight = cx.param("out.weight", &[width, N_OUT], Init::Zeros);
            read.dot(&weight)
        }
        _ => {
            let weight = cx.constant("out.fixed", &[width, N_OUT], Init::Normal(0.0, 1.0));
            let y = read.dot(&weight);
            if kind == 3 {
                return y;
            }
            let new = cx.state("out.r", N_OUT, StateInit::Zeros) * 0.8 + y;
            cx.set("out.r", &new);
            new
        }
    }
}

/// The summed input of a layer, and what else may be read of it.
fn drive(cx: &mut StepContext, name: &str, inputs: &[&Tensor], n: usize, draw: &mut Draw) -> Tensor {
    let masked = draw.says("masked", 0.15);
    let rows: usize = inputs.iter().map(|x| x.dims()[1]).sum();
    let mask = masked.then(|| cx.constant(&format!("{name}.mask"), &[rows, n], Init::Bernoulli(0.7)));
    let signed = draw.says("sign-constrained", 0.1);
    let used = |w: &Tensor| {
        let w = if signed { w.abs() } else { w.clone() };
        mask.as_ref().map_or(w.clone(), |m| &w * m)
    };
    let how = Dense { bias: draw.chance(0.6), ..Dense::new(&[Init::Zeros]) };
    cx.dense(name, inputs, n, &how.through(&used))
}

fn layer(cx: &mut StepContext, x: &Tensor, draw: &mut Draw) -> Layer {
    let n = 2 + draw.below(2);
    match draw.pick("layer", &["potential", "potential", "potential", "gated", "plain recurrent"]) {
        3 => gated(cx, x, n, draw),
        4 => plain(cx, x, n, draw),
        _ => potential(cx, x, n, draw),
    }
}

/// `h' = tanh(W [x, h])`, perhaps averaged over time by a second state.
fn plain(cx: &mut StepContext, x: &Tensor, n: usize, draw: &mut Draw) -> Layer {
    let h = cx.state("h", n, StateInit::Zeros);
    let y = drive(cx, "cell", &[x, &h], n, draw);
    let new = if draw.says("linear", 0.2) { y } else { y.tanh() };
    cx.set("h", &new);
    let mut layer = Layer { width: n, new: vec![new.clone()], inside: vec![], old: vec![h] };
    if draw.says("average", 0.3) {
        let old = cx.state("average", n, StateInit::Zeros);
        let mean = &old * 0.7 + &new * 0.3;
        cx.set("average", &mean);
        layer.new.push(mean);
        layer.old.push(old);
    }
    extras(cx, &new, layer, draw)
}

fn gated(cx: &mut StepContext, x: &Tensor, n: usize, draw: &mut Draw) -> Layer {
    let h = cx.state("h", n, StateInit::Zeros);
    let z = drive(cx, "update", &[x, &h], n, draw).sigmoid();
    let seen =
        if draw.says("reset gate", 0.5) { drive(cx, "reset", &[x, &h], n, draw).sigmoid() * &h } else { h.clone() };
    let candidate = drive(cx, "candidate", &[x, &seen], n, draw).tanh();
    let new = &z * &h + (1.0 - &z) * &candidate;
    cx.set("h", &new);
    let layer = Layer { width: n, new: vec![new.clone()], inside: vec![candidate, z], old: vec![h] };
    extras(cx, &new, layer, draw)
}

fn potential(cx: &mut StepContext, x: &Tensor, n: usize, draw: &mut Draw) -> Layer {
    let v = cx.state("V", n, StateInit::Zeros);
    let old_spike = draw.spike(&(&v - 1.0));
    let mut inputs = vec![x.clone()];
    match draw.pick("recurrent", &["no", "old spike", "old potential"]) {
        1 => inputs.push(old_spike.clone()),
        2 => inputs.push(v.tanh()),
        _ => {}
    }
    let refs: Vec<&Tensor> = inputs.iter().collect();
    let mut current = drive(cx, "cell", &refs, n, draw);
    if draw.says("a weight used twice", 0.15) {
        let weight = cx.param("twice", &[n, n], Init::Zeros);
        let (a, b) = (cx.matmul("twice", &old_spike, &weight), cx.matmul("twice", &v.tanh(), &weight));
        current = current + a + b * 0.5;
    }
    if draw.says("fixed mixture inside", 0.04) {
        let weight = cx.constant("mixture", &[n, n], Init::Normal(0.0, 1.0));
        current = current + old_spike.dot(&weight);
    }
    let current = synapse(cx, &current, &v, n, draw);
    let leak = leak(cx, n, &v, draw);
    let before = draw.says("reset in the next step", 0.3);
    let v = if before { &v - draw.detached(old_spike.clone()) } else { v };
    let u = leak * &v + current;
    let threshold = adaptation(cx, &u, &old_spike, n, draw);
    let spike = draw.spike(&(&u - &threshold));
    let new = match if before { 0 } else { draw.pick("reset", &["none", "soft", "hard"]) } {
        1 => &u - draw.detached(spike.clone()),
        2 => &u * (1.0 - draw.detached(spike.clone())),
        _ => u.clone(),
    };
    cx.set("V", &new);
    cx.observe(Quantity::Potential, &new);
    cx.observe(Quantity::Spike, &spike);
    let after = draw.spike(&(&new - 1.0));
    let layer = Layer { width: n, new: vec![after, new.tanh()], inside: vec![spike, u.tanh()], old: vec![old_spike] };
    extras(cx, &new, layer, draw)
}

fn leak(cx: &mut StepContext, n: usize, v: &Tensor, draw: &mut Draw) -> Tensor {
    match draw.pick("leak", &["number", "learned", "per neuron"]) {
        1 => {
            let rate = cx.param("rate", &[n], Init::Zeros);
            cx.elementwise("rate", &rate).sigmoid()
        }
        2 => {
            let rates = cx.constant("rates", &[n], Init::Uniform(0.5, 0.95));
            rates.broadcast_to(v.dims())
        }
        _ => v.full_like(0.8),
    }
}

fn synapse(cx: &mut StepContext, current: &Tensor, v: &Tensor, n: usize, draw: &mut Draw) -> Tensor {
    let kind = draw.pick("synapse", &["none", "current", "current of the step before", "conductance"]);
    if kind == 0 {
        return current.clone();
    }
    let old = cx.state("g", n, StateInit::Zeros);
    let new = &old * 0.7 + current;
    cx.set("g", &new);
    match kind {
        1 => new,
        2 => old,
        _ => new.sigmoid() * (1.5 - v),
    }
}

fn adaptation(cx: &mut StepContext, u: &Tensor, old_spike: &Tensor, n: usize, draw: &mut Draw) -> Tensor {
    if !draw.says("adaptation", 0.25) {
        return u.full_like(1.0);
    }
    let w = cx.state("w", n, StateInit::Zeros);
    let by = if draw.chance(0.5) { draw.spike(&(u - &(&w * 0.2 + 1.0))) } else { old_spike.clone() };
    cx.set("w", &(&w * 0.8 + by * 0.3));
    w * 0.2 + 1.0
}

/// Copies, latches, delays, and states that nobody reads.
fn extras(cx: &mut StepContext, value: &Tensor, mut layer: Layer, draw: &mut Draw) -> Layer {
    let n = layer.width;
    if draw.says("a copy of an old value", 0.15) {
        let copy = cx.state("copy", n, StateInit::Zeros);
        cx.set("copy", &layer.old[0]);
        layer.old.push(copy);
    }
    if draw.says("a latch", 0.15) {
        let latch = cx.state("latch", n, StateInit::Zeros);
        cx.set("latch", value);
        layer.old.push(latch);
    }
    if draw.says("a state that stays", 0.05) {
        let bias = cx.state("stays", n, StateInit::Zeros);
        cx.set("stays", &bias);
        layer.old.push(&bias + &layer.old[0]);
    }
    if draw.says("an output that nobody reads", 0.15) {
        cx.state("unread", n, StateInit::Zeros);
        let output = value.tanh() * 0.5;
        cx.set("unread", &output);
        layer.new.push(output);
    }
    if draw.says("centred output", 0.1) {
        // Mixes positions on the way out only.
        let out = layer.new[0].clone();
        let mean = out.mean(&[1]).unsqueeze_last().broadcast_to(out.dims());
        layer.inside.push(out - mean);
    }
    layer
}
