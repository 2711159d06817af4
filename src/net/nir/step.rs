//! The equations of nodes, `docs/nir.md, "Steps"`. Values are `[B, n]`, n those of the shape in the file's order, the last axis fastest.

use hlo::Tensor;

use super::{
    NirNet, Plan, Scheme,
    kind::Memory,
    node::Node,
    shape::{Form, pooled},
};
use crate::{
    cell::{Init, Quantity, StateInit, StepContext},
    settings::range,
};

/// Most steps of a delay: each is a state.
pub const LONGEST_DELAY: usize = 256;

/// A node in a step.
pub struct Site<'s, 'a> {
    pub cx: &'s mut StepContext,
    pub net: &'a NirNet,
    pub plan: &'a Plan,
    pub name: &'a str,
    pub node: &'a Node,
}

impl<'a> Site<'_, 'a> {
    /// One step under the input `x`, `[B, n] -> [B, m]`: the values of the node, and of those that are parts of its traced op.
    pub fn step(mut self, x: &Tensor) -> Vec<(&'a str, Tensor)> {
        let row = self.node.row();
        let folded = self.plan.folded.get(self.name).filter(|all| !all.is_empty());
        let values = match folded {
            Some(_) => self.folded(x),
            None => vec![(self.name, (row.step)(&mut self, x))],
        };
        if row.memory == Memory::None && !["Input", "Output", "Threshold"].contains(&row.name) {
            for (name, y) in &values {
                self.cx.scope(name, |cx| cx.observe(Quantity::Other("value"), y));
            }
        }
        values
    }

    /// The shape of what comes in.
    fn input(&self) -> &'a [usize] {
        &self.plan.inner[self.name]
    }

    /// The shape of what goes out.
    fn output(&self) -> &'a [usize] {
        &self.plan.shapes[self.name]
    }

    fn scope<R>(&mut self, body: impl FnOnce(&mut StepContext) -> R) -> R {
        // A readout has no memory after its own.
        if self.plan.readout.contains(self.name) {
            self.cx.readout(self.name, body)
        } else {
            self.cx.scope(self.name, body)
        }
    }

    /// An array as it is stored.
    fn array(&mut self, quantity: &str) -> Tensor {
        let (extent, trained) = (&self.node.arrays[quantity], self.net.trains(quantity));
        let fan_in = extent.shape.iter().skip(1).product::<usize>().max(1);
        let init = match quantity {
            "weight" if trained => Init::Normal(0.0, (self.net.weight_scale / fan_in as f64).sqrt()),
            "bias" if trained => Init::Zeros,
            _ if extent.low == extent.high => Init::Constant(extent.low),
            _ => Init::Uniform(extent.low, extent.high),
        };
        let shape = extent.shape.clone();
        self.cx.scope(self.name, |cx| match trained {
            true => cx.param(quantity, &shape, init),
            false => cx.constant(quantity, &shape, init),
        })
    }

    /// An array as one value for each value of the input, `[n]`; `[B, n]` if it is trained.
    pub fn each(&mut self, quantity: &str) -> Tensor {
        let stored = self.array(quantity);
        let all = spread(&stored, self.input());
        match self.net.trains(quantity) {
            false => all,
            // Times are kept where a step of either scheme is stable.
            true if quantity.starts_with("tau") => {
                let tau = self.cx.elementwise(self.name, &all);
                tau.maximum(&tau.full_like(self.net.step()))
            }
            true => self.cx.elementwise(self.name, &all),
        }
    }

    /// What a step adds of the way to where a leaky value goes, and how it does.
    fn relax(&mut self, quantity: &str, from: &Tensor, to: &Tensor) -> Tensor {
        let rate = self.net.step() / self.each(quantity);
        let share = match self.net.scheme {
            Scheme::Euler => rate,
            Scheme::Exponential => -(-rate).expm1(),
        };
        from + share * (to - from)
    }

    /// I, IF, LI, LIF, CubaLI, CubaLIF: which quantities there are says which.
    pub fn membrane(&mut self, x: &Tensor) -> Tensor {
        let n = x.dims()[1];
        let has = |quantity: &str| self.node.arrays.contains_key(quantity);
        let (leak, synapse, spikes) = (has("v_leak"), has("tau_syn"), has("v_threshold"));
        let mut drive = x.clone();
        if synapse {
            let i = self.scope(|cx| cx.state("i", n, StateInit::Zeros));
            let to = self.each("w_in") * x;
            drive = self.relax("tau_syn", &i, &to);
            let i = drive.clone();
            self.scope(|cx| cx.set("i", &i));
        }
        let v = self.scope(|cx| cx.state("v", n, StateInit::Zeros));
        let drive = self.each("r") * drive;
        let v = if leak {
            let to = self.each("v_leak") + drive;
            self.relax(if synapse { "tau_mem" } else { "tau" }, &v, &to)
        } else {
            v + drive * self.net.step()
        };
        if !spikes {
            self.scope(|cx| {
                cx.set("v", &v);
                cx.observe(Quantity::Potential, &v);
            });
            return v;
        }
        let z = self.net.surrogate.spike_above(&(&v - self.each("v_threshold")));
        let reset = self.each("v_reset").broadcast_to(v.dims());
        let new = z.gt(&z.zeros_like()).select(&reset, &v);
        // The derivative of the reset by the spike; its value is 0.
        let new = match self.net.diff_spike {
            true => new + (reset - &v).stop_gradient() * (&z - z.stop_gradient()),
            false => new,
        };
        self.scope(|cx| {
            cx.set("v", &new);
            cx.observe(Quantity::Potential, &v);
            cx.observe(Quantity::Spike, &z);
        });
        z
    }

    /// 1 above a threshold.
    pub fn threshold(&mut self, x: &Tensor) -> Tensor {
        let z = self.net.surrogate.spike_above(&(x - self.each("threshold")));
        self.scope(|cx| cx.observe(Quantity::Spike, &z));
        z
    }

    /// Affine and Linear: the weight is `[out, in]`.
    pub fn dense(&mut self, x: &Tensor) -> Tensor {
        let weight = self.array("weight").transpose(&[1, 0]);
        let y = self.cx.matmul(self.name, x, &weight);
        match self.node.arrays.contains_key("bias") {
            true => {
                let bias = self.array("bias");
                y + self.cx.elementwise(self.name, &bias)
            }
            false => y,
        }
    }

    /// The bias of each output channel for each of the values, `[n]`.
    fn bias(&mut self) -> Tensor {
        let n = self.output().iter().product();
        let output = self.output();
        self.array("bias").broadcast(output, &[0]).reshape(&[n])
    }

    /// Conv1d and Conv2d: values are `[C, H, W]` (`[C, N]`), the weight `[out, in / groups, kernel..]`.
    pub fn convolution(&mut self, x: &Tensor) -> Tensor {
        let weight = self.array("weight");
        let form = Form::of(self.node, self.input()).expect("shapes were checked");
        let y = self.cx.traced(self.name, x, &weight, |x, w| form.apply(x, w));
        let bias = self.bias();
        y + self.cx.elementwise(self.name, &bias)
    }

    /// A convolution with the pools behind it as one traced op; the values between are for who looks at them.
    fn folded(&mut self, x: &Tensor) -> Vec<(&'a str, Tensor)> {
        let (plan, net) = (self.plan, self.net);
        let chain = &plan.folded[self.name];
        let after = |name: &String, x: &Tensor| match net.nodes[name].kind.as_str() {
            "Flatten" => x.clone(),
            _ => pooled(&net.nodes[name], &plan.inner[name], x),
        };
        let (weight, bias) = (self.array("weight"), self.bias());
        let form = Form::of(self.node, self.input()).expect("shapes were checked");
        let mut values = vec![(self.name, form.apply(x, &weight) + &bias)];
        for name in &chain[..chain.len() - 1] {
            let value = after(name, &values[values.len() - 1].1);
            values.push((name, value));
        }
        let y = self
            .cx
            .traced(self.name, x, &weight, |x, w| chain.iter().fold(form.apply(x, w), |y, name| after(name, &y)));
        let n = bias.dims()[0];
        let bias = chain.iter().fold(bias.reshape(&[1, n]), |y, name| after(name, &y));
        let m = bias.dims()[1];
        let y = y + self.cx.elementwise(self.name, &bias.reshape(&[m]));
        values.push((&chain[chain.len() - 1], y));
        values
    }

    /// SumPool2d and AvgPool2d.
    pub fn pool(&mut self, x: &Tensor) -> Tensor {
        pooled(self.node, self.input(), x)
    }

    /// The value of some steps before: states hand it on, and each neuron takes the one of its delay.
    pub fn delay(&mut self, x: &Tensor) -> Tensor {
        let n = x.dims()[1];
        let longest = steps(self.net, self.node.arrays["delay"].high);
        let all = self.each("delay") * (1.0 / self.net.step());
        let is = |k: usize| {
            let k = k as f64;
            let inside = all.gt(&all.full_like(k - 0.5)).select(&all.full_like(1.0), &all.zeros_like());
            inside * all.lt(&all.full_like(k + 0.5)).select(&all.full_like(1.0), &all.zeros_like())
        };
        let mut taken = x * is(0);
        let mut passing = x.clone();
        for k in 1..=longest {
            let held = self.scope(|cx| cx.state(&format!("past{k}"), n, StateInit::Zeros));
            self.scope(|cx| cx.set(&format!("past{k}"), &passing));
            taken = taken + &held * is(k);
            passing = held;
        }
        self.scope(|cx| cx.observe(Quantity::Other("value"), &taken));
        taken
    }
}

/// Whole steps in a time.
pub fn steps(net: &NirNet, time: f64) -> usize {
    (time / net.step()).round().clamp(0.0, 1e9) as usize
}

/// An array of a shape that broadcasts to `dims`, as NumPy does, for each of the values: `[n]`.
fn spread(stored: &Tensor, dims: &[usize]) -> Tensor {
    let n = dims.iter().product();
    if stored.dims() == dims {
        return stored.reshape(&[n]);
    }
    let first = dims.len() - stored.rank();
    let axes: Vec<usize> = (0..stored.rank()).filter(|&a| stored.dims()[a] > 1).collect();
    let kept: Vec<usize> = axes.iter().map(|&a| stored.dims()[a]).collect();
    let to: Vec<usize> = axes.iter().map(|a| a + first).collect();
    stored.reshape(&kept).broadcast(dims, &to).reshape(&[n])
}

/// Checks the ranges of a node's arrays.
pub fn check(net: &NirNet, node: &Node, input: &[usize]) -> Result<(), String> {
    let step = net.step();
    for (name, extent) in &node.arrays {
        let bounds = range::FINITE.check(extent.low).and(range::FINITE.check(extent.high));
        bounds.map_err(|text| format!("has a `{name}` whose values {text}"))?;
        if extent.low > extent.high {
            return Err(format!("has a `{name}` from {} to {}", extent.low, extent.high));
        }
        if !name.starts_with("tau") || net.trains(name) && extent.low >= step {
            continue;
        }
        let (tau, unit) = (extent.low, net.time_unit.name());
        if range::POSITIVE.check(tau).is_err() {
            return Err(format!("needs a `{name}` above 0, got {tau}"));
        }
        if net.scheme == Scheme::Euler && step >= 2.0 * tau {
            return Err(format!(
                "has a `{name}` of {tau} {unit}, for which forward Euler with a step of {step} {unit} is not stable; take a shorter step or \
                 the exponential scheme"
            ));
        }
        if net.trains(name) {
            return Err(format!(
                "has a `{name}` of {tau} {unit}, below the step of {step} {unit}, where it is not trained; take a shorter step, or leave \
                 `{name}` out of what is trained"
            ));
        }
    }
    if let Some(delay) = node.arrays.get("delay") {
        let longest = steps(net, delay.high);
        if delay.low < 0.0 || longest > LONGEST_DELAY {
            return Err(format!(
                "needs a `delay` from 0 to {LONGEST_DELAY} steps of {step} {}, got {} to {}; take a longer step",
                net.time_unit.name(),
                delay.low,
                delay.high
            ));
        }
    }
    let n: usize = input.iter().product();
    if n > range::SIZE.high as usize {
        Err(format!("has {n} values, at most {} are taken", range::SIZE.high))
    } else {
        Ok(())
    }
}
