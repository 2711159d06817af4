//! Convolutions as traced ops.

use hlo::Tensor;

use super::{Init, StepContext};

/// How a layer of neurons sees an image, or a line (of height 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Height, width and channels of the input; its values are in this order.
    pub image: [usize; 3],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Channels of the output.
    pub channels: usize,
    /// Step between positions, along height and width.
    pub stride: [usize; 2],
    /// Zeros before and after the image, along height and width.
    pub padding: [usize; 2],
    /// Groups of channels that see only each other: a divisor of the channels of input and output. As many as there are channels is a
    /// depth-wise convolution.
    pub groups: usize,
}

impl Convolution {
    /// A kernel of `size` over a line of `length` positions and `channels[0]` channels, to `channels[1]` channels and as many positions.
    ///
    /// # Panics
    /// When the size is even: a kernel has a middle.
    pub fn line(length: usize, size: usize, channels: [usize; 2]) -> Convolution {
        assert!(
            size % 2 == 1,
            "a kernel that keeps the number of positions has a middle, got a size of {size}; use an odd one"
        );
        Convolution {
            image: [1, length, channels[0]],
            kernel: [1, size],
            channels: channels[1],
            stride: [1, 1],
            padding: [0, size / 2],
            groups: 1,
        }
    }

    /// Shape of the kernel, `[height, width, in / groups, out]`.
    pub fn weight(&self) -> [usize; 4] {
        [self.kernel[0], self.kernel[1], self.image[2] / self.groups.max(1), self.channels]
    }

    /// `[B, H W C] x weight -> [B, H' W' C']`.
    fn apply(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        let batch = x.dims()[0];
        let image = x.reshape(&[&[batch], &self.image[..]].concat());
        let padding = self.padding.map(|p| (p, p));
        let (of_input, of_output) = (self.image[2] / self.groups, self.channels / self.groups);
        let group = |k: usize| {
            let channels = image.slice_axis(3, k * of_input, (k + 1) * of_input);
            channels.conv2d(&weight.slice_axis(3, k * of_output, (k + 1) * of_output), self.stride, padding)
        };
        let groups: Vec<Tensor> = (0..self.groups).map(group).collect();
        let y = Tensor::concat(&groups.iter().collect::<Vec<_>>(), 3);
        let n = y.dims()[1..].iter().product();
        y.reshape(&[batch, n])
    }
}

impl StepContext {
    /// A traced convolution with a bias for each output channel: `[B, H W C] -> [B, H' W' C']`. Its parameters are `site.weight` and
    /// `site.bias`; what online rules can do with it is said at [`StepContext::traced`].
    #[track_caller]
    pub fn convolution(&mut self, site: &str, x: &Tensor, spec: &Convolution, init: Init) -> Tensor {
        let [height, width, channels] = spec.image;
        let g = spec.groups;
        let mistake = if x.rank() != 2 || x.dims()[1] != height * width * channels {
            Some(format!(
                "an image of {height} x {width} x {channels} has {} values for each sequence, got {}",
                height * width * channels,
                x.shape()
            ))
        } else if g == 0 || !channels.is_multiple_of(g) || !spec.channels.is_multiple_of(g) {
            Some(format!(
                "groups divide the channels of input and output, got {g} groups of {channels} and {} channels",
                spec.channels
            ))
        } else if (0..2)
            .any(|a| spec.kernel[a] == 0 || spec.stride[a] == 0 || spec.kernel[a] > spec.image[a] + 2 * spec.padding[a])
        {
            Some(format!("a kernel lies inside the padded image and moves, got {spec:?}"))
        } else {
            None
        };
        if let Some(mistake) = mistake {
            self.refuse(format!("the convolution `{site}`: {mistake}; change the `Convolution` or its input"));
            let dims = [x.dims()[0], spec.channels.max(1)];
            return x.graph().placeholder(hlo::Shape::f32(dims));
        }
        let weight = self.param(&format!("{site}.weight"), &spec.weight(), init);
        let y = self.traced(site, x, &weight, |x, w| spec.apply(x, w));
        let bias = self.param(&format!("{site}.bias"), &[spec.channels], Init::Zeros);
        let n = y.dims()[1];
        y + self.elementwise(site, &bias.broadcast(&[n / spec.channels, spec.channels], &[1]).reshape(&[n]))
    }
}
