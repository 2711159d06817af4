//! The equations of nodes, `docs/nir.md, "Steps"`. Values are `[B, n]`, n those of the shape in the file's order, the last axis fastest.

use hlo::{Shape, Tensor, ops::conv::Slide};

use super::{NirNet, Plan, Scheme, kind::Memory, node::Node};
use crate::{
    cell::{Init, Quantity, StateInit, StepContext},
    settings::range,
};

/// The shape of a node's values, or why there is none, after the name of the node.
pub type Shaped = Result<Vec<usize>, String>;

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
            _ => pool(&net.nodes[name], &plan.inner[name], x),
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
        pool(self.node, self.input(), x)
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

/// The sum or the mean over each window of an image `[C, H, W]`.
fn pool(node: &Node, input: &[usize], x: &Tensor) -> Tensor {
    let window = Window::of(node).expect("shapes were checked");
    let &[channels, height, width] = input else { unreachable!("shapes were checked") };
    let batch = x.dims()[0];
    let image = x.reshape(&[batch * channels, height, width, 1]);
    let ones = x.graph().full(&Shape::f32([window.kernel[0], window.kernel[1], 1, 1]), 1.0);
    let y = image.conv_general(&ones, [window.slide(0), window.slide(1)]);
    let n = channels * y.dims()[1] * y.dims()[2];
    let y = y.reshape(&[batch, n]);
    if node.kind == "AvgPool2d" { y * (1.0 / (window.kernel[0] * window.kernel[1]) as f64) } else { y }
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

/// A convolution over an image; a line has height 1.
struct Form {
    /// Channels, height and width.
    image: [usize; 3],
    weight: [usize; 4],
    groups: usize,
    slides: [Slide; 2],
}

impl Form {
    fn of(node: &Node, input: &[usize]) -> Result<Form, String> {
        let weight = node.shape("weight")?;
        let line = node.kind == "Conv1d";
        let two = |name: &str| match line {
            true => node.sizes::<1>(name).map(|[n]| [if name == "padding" { 0 } else { 1 }, n]),
            false => node.sizes::<2>(name),
        };
        let (image, weight) = match (line, input, weight) {
            (true, &[c, n], &[o, i, k]) => ([c, 1, n], [o, i, 1, k]),
            (false, &[c, h, w], &[o, i, y, x]) => ([c, h, w], [o, i, y, x]),
            _ => {
                let axes = if line { "[C, N] and [out, in, kernel]" } else { "[C, H, W] and [out, in, height, width]" };
                return Err(format!("needs an input and a weight of shapes {axes}, got {input:?} and {weight:?}"));
            }
        };
        let [groups] = node.sizes::<1>("groups")?;
        let (stride, padding, dilation) = (two("stride")?, two("padding")?, two("dilation")?);
        let [out, of_group, ..] = weight;
        if groups == 0 || of_group.checked_mul(groups) != Some(image[0]) || out % groups != 0 {
            return Err(format!(
                "has {groups} groups of {of_group} channels and {out} channels of output, which do not fit the {} channels of its input",
                image[0]
            ));
        }
        let sound = |n: &usize| (1..=range::SIZE.high as usize).contains(n);
        if !stride.iter().chain(&dilation).chain(&weight).all(sound) || padding.iter().any(|&p| p > 1 << 16) {
            return Err(format!("needs strides, dilations and sizes from 1, got {stride:?}, {dilation:?}, {weight:?}"));
        }
        if node.same && stride != [1, 1] {
            return Err(format!("has the padding `same`, which is for a stride of 1, got {stride:?}"));
        }
        let slide = |a: usize| {
            let reach = (weight[2 + a] - 1).saturating_mul(dilation[a]);
            let before = if node.same { reach / 2 } else { padding[a] };
            let after = if node.same { reach - reach / 2 } else { padding[a] };
            Slide {
                stride: stride[a],
                low: before as i64,
                high: after as i64,
                dilation: dilation[a],
                ..Slide::default()
            }
        };
        Ok(Form { image, weight, groups, slides: [slide(0), slide(1)] })
    }

    /// Height and width of the output.
    fn positions(&self) -> Result<[usize; 2], String> {
        let mut out = [0; 2];
        for (a, n) in out.iter_mut().enumerate() {
            *n = positions(self.image[1 + a], self.weight[2 + a], &self.slides[a])?;
        }
        Ok(out)
    }

    /// `[B, C H W] x weight -> [B, C' H' W']`.
    fn apply(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        let (batch, [c, h, w]) = (x.dims()[0], self.image);
        let image = x.reshape(&[batch, c, h, w]).transpose(&[0, 2, 3, 1]);
        let kernel = weight.reshape(&self.weight).transpose(&[2, 3, 1, 0]);
        let (of_input, of_output) = (c / self.groups, self.weight[0] / self.groups);
        let group = |k: usize| {
            let channels = image.slice_axis(3, k * of_input, (k + 1) * of_input);
            channels.conv_general(&kernel.slice_axis(3, k * of_output, (k + 1) * of_output), self.slides)
        };
        let groups: Vec<Tensor> = (0..self.groups).map(group).collect();
        let y = Tensor::concat(&groups.iter().collect::<Vec<_>>(), 3).transpose(&[0, 3, 1, 2]);
        let n = y.dims()[1..].iter().product();
        y.reshape(&[batch, n])
    }
}

/// Positions of a window of `kernel` elements along an axis of `size`.
fn positions(size: usize, kernel: usize, slide: &Slide) -> Result<usize, String> {
    let room = size as i64 + slide.low + slide.high;
    let reach = (kernel as i64 - 1).saturating_mul(slide.dilation as i64) + 1;
    if kernel == 0 || slide.stride == 0 || reach > room {
        return Err(format!("has a window of {reach} positions that does not fit into {room}"));
    }
    Ok(((room - reach) / slide.stride as i64 + 1) as usize)
}

/// The windows of a pool.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Window {
    fn of(node: &Node) -> Result<Window, String> {
        let [kernel, stride, padding] = ["kernel_size", "stride", "padding"].map(|name| node.sizes::<2>(name));
        let window = Window { kernel: kernel?, stride: stride?, padding: padding? };
        let all = [window.kernel, window.stride, window.padding].concat();
        if all.iter().any(|&n| n > 1 << 16) || window.kernel.contains(&0) || window.stride.contains(&0) {
            return Err(format!("needs windows and strides from 1, got {:?} and {:?}", window.kernel, window.stride));
        }
        Ok(window)
    }

    fn slide(&self, a: usize) -> Slide {
        let padding = self.padding[a] as i64;
        Slide { stride: self.stride[a], low: padding, high: padding, ..Slide::default() }
    }
}

/// The shapes of nodes' values.
pub mod shapes {
    use super::{Form, Node, Shaped, Window, positions};

    /// That of the input, to which every array broadcasts.
    pub fn same(node: &Node, input: &[usize]) -> Shaped {
        for (name, extent) in &node.arrays {
            let shape = &extent.shape;
            let first = input.len().checked_sub(shape.len());
            let fits = first.is_some_and(|first| shape.iter().zip(&input[first..]).all(|(a, b)| a == b || *a == 1));
            if !fits {
                return Err(format!("has a `{name}` of shape {shape:?}, and its input has the shape {input:?}"));
            }
        }
        Ok(input.to_vec())
    }

    /// The one that an Input says.
    pub fn stated(node: &Node, _: &[usize]) -> Shaped {
        let all = node.sizes.get("shape").ok_or("has no `shape`")?;
        let whole = all.iter().map(|&n| usize::try_from(n).ok().filter(|n| *n > 0)).collect::<Option<Vec<usize>>>();
        whole.filter(|all| !all.is_empty()).ok_or_else(|| format!("has a shape of sizes from 1, got {all:?}"))
    }

    /// The one that an Output says.
    pub fn output(node: &Node, input: &[usize]) -> Shaped {
        let stated = stated(node, input)?;
        if stated.iter().product::<usize>() == input.iter().product::<usize>() {
            return Ok(stated);
        }
        Err(format!("has the shape {stated:?}, and its input {input:?}"))
    }

    /// Rows of the weight.
    pub fn dense(node: &Node, input: &[usize]) -> Shaped {
        let &[out, columns] = node.shape("weight")? else {
            return Err(format!("has a weight of shape [out, in], got {:?}", node.shape("weight")?));
        };
        // Several axes in their order are one.
        if columns != input.iter().product::<usize>() {
            return Err(format!("has a weight for {columns} inputs, and its input has the shape {input:?}"));
        }
        bias(node, out)?;
        Ok(vec![out])
    }

    fn bias(node: &Node, out: usize) -> Result<(), String> {
        match node.arrays.get("bias") {
            Some(extent) if extent.shape != [out] => {
                Err(format!("has a bias of shape {:?}, and {out} outputs or channels", extent.shape))
            }
            _ => Ok(()),
        }
    }

    /// Channels and positions.
    pub fn convolution(node: &Node, input: &[usize]) -> Shaped {
        let form = Form::of(node, input)?;
        let [height, width] = form.positions()?;
        let out = form.weight[0];
        bias(node, out)?;
        Ok(if node.kind == "Conv1d" { vec![out, width] } else { vec![out, height, width] })
    }

    /// Channels and windows.
    pub fn pool(node: &Node, input: &[usize]) -> Shaped {
        let (window, &[channels, height, width]) = (Window::of(node)?, input) else {
            return Err(format!("needs an image of shape [C, H, W], got {input:?}"));
        };
        let along = |size: usize, a: usize| positions(size, window.kernel[a], &window.slide(a));
        Ok(vec![channels, along(height, 0)?, along(width, 1)?])
    }

    /// Axes from `start_dim` to `end_dim` as one; negative ones count from the end, as slices do.
    pub fn flatten(node: &Node, input: &[usize]) -> Shaped {
        let axis = |name: &str| {
            let all = node.sizes.get(name).ok_or_else(|| format!("has no `{name}`"))?;
            let n = input.len() as i64;
            match all.as_slice() {
                &[k] if (-n..n).contains(&k) => Ok((if k < 0 { k + n } else { k }) as usize),
                // The usual first axis of an input that has one.
                [1] if n == 1 && name == "start_dim" => Ok(0),
                _ => Err(format!("has {name} {all:?}, and its input has the shape {input:?}")),
            }
        };
        let (start, end) = (axis("start_dim")?, axis("end_dim")?);
        if start > end {
            return Err(format!("flattens axes {start} to {end}, which is none"));
        }
        let middle = input[start..=end].iter().product();
        Ok([&input[..start], &[middle], &input[end + 1..]].concat())
    }
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
