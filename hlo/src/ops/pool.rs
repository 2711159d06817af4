//! Maxima and means over windows, of `[batch, height, width, channels]`.

use crate::graph::Tensor;

impl Tensor {
    /// Every window along one axis folded into one element: `f` over the strided slices of its elements, in order.
    #[track_caller]
    fn fold_windows(&self, axis: usize, size: usize, stride: usize, f: fn(Tensor, &Tensor) -> Tensor) -> Tensor {
        let last = self.dims()[axis] - size;
        let element = |k: usize| {
            let (mut start, mut limit, mut step) = (vec![0; self.rank()], self.dims().to_vec(), vec![1; self.rank()]);
            (start[axis], limit[axis], step[axis]) = (k, last + k + 1, stride);
            self.slice_by(&start, &limit, &step)
        };
        (1..size).fold(element(0), |folded, k| f(folded, &element(k)))
    }

    #[track_caller]
    fn pool2d(&self, size: [usize; 2], stride: [usize; 2], f: fn(Tensor, &Tensor) -> Tensor) -> Tensor {
        if self.rank() != 4 || (0..2).any(|a| !(1..=self.dims()[a + 1]).contains(&size[a]) || stride[a] == 0) {
            let error = format!(
                "pool: windows must fit into the height and width of [batch, height, width, channels] and move, got {} with windows \
                 {size:?}, strides {stride:?}; pad the input or take smaller windows",
                self.shape()
            );
            return self.graph().refused(error, self.dims());
        }
        self.fold_windows(2, size[1], stride[1], f).fold_windows(1, size[0], stride[0], f)
    }

    /// The largest element of each window of `size`, moved by `stride`; what is left over at the end is not looked at.
    ///
    /// The derivative goes to the winner alone: at a tie to the first one, row by row.
    #[track_caller]
    pub fn max_pool2d(&self, size: [usize; 2], stride: [usize; 2]) -> Tensor {
        self.pool2d(size, stride, |best, next| next.gt(&best).select(next, &best))
    }

    /// The mean of each window of `size`, moved by `stride`; what is left over at the end is not looked at.
    #[track_caller]
    pub fn avg_pool2d(&self, size: [usize; 2], stride: [usize; 2]) -> Tensor {
        self.pool2d(size, stride, |sum, next| sum + next) * (1.0 / (size[0] * size[1]) as f64)
    }
}
