//! The shapes of nodes' values, and windows over images: convolutions and pools.

use hlo::{Shape, Tensor, ops::conv::Slide};

use super::node::Node;
use crate::settings::range;

/// The shape of a node's values, or why there is none, after the name of the node.
pub type Shaped = Result<Vec<usize>, String>;

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

/// A convolution over an image; a line has height 1.
pub struct Form {
    /// Channels, height and width.
    image: [usize; 3],
    weight: [usize; 4],
    groups: usize,
    slides: [Slide; 2],
}

impl Form {
    /// That of a node with an input of this shape.
    pub fn of(node: &Node, input: &[usize]) -> Result<Form, String> {
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
    pub fn apply(&self, x: &Tensor, weight: &Tensor) -> Tensor {
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

/// The sum or the mean over each window of an image `[C, H, W]`.
pub fn pooled(node: &Node, input: &[usize], x: &Tensor) -> Tensor {
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
