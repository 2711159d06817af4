//! Matrix products in full generality: shared (batch) axes, contracted axes, free axes.
//!
//! The result's axes are: batch, then the free axes of the left operand, then those of the right one.

use super::settle::SMALL;
use crate::{
    evaluate::{HostValue, strides},
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    proto,
    shape::Shape,
};

/// Which axes of each operand are shared and which are summed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dot {
    /// Shared axes of the left operand.
    pub lhs_batch: Vec<usize>,
    /// Summed axes of the left operand.
    pub lhs_contract: Vec<usize>,
    /// Shared axes of the right operand.
    pub rhs_batch: Vec<usize>,
    /// Summed axes of the right operand.
    pub rhs_contract: Vec<usize>,
}

/// Whether the gradient of a matrix of such sizes is made turned where there are many rows to sum over: it is large, and its longer axis is
/// the first.
pub fn is_wide(rows: usize, columns: usize) -> bool {
    rows > columns && rows * columns >= SMALL
}

fn free(rank: usize, batch: &[usize], contract: &[usize]) -> Vec<usize> {
    (0..rank).filter(|a| !batch.contains(a) && !contract.contains(a)).collect()
}

fn sizes(shape: &Shape, axes: &[usize]) -> Vec<usize> {
    axes.iter().map(|&a| shape.dims[a]).collect()
}

impl Dot {
    fn lhs_free(&self, rank: usize) -> Vec<usize> {
        free(rank, &self.lhs_batch, &self.lhs_contract)
    }

    fn rhs_free(&self, rank: usize) -> Vec<usize> {
        free(rank, &self.rhs_batch, &self.rhs_contract)
    }

    /// The cotangent of one operand: contract the result's cotangent with the other operand over its free axes, then put
    /// the axes back where the operand has them.
    fn pull(&self, ct: &Tensor, args: &[Tensor], left: bool) -> Tensor {
        let (me, other) = if left { (&args[0], &args[1]) } else { (&args[1], &args[0]) };
        let (my_batch, my_contract, other_batch, other_contract) = if left {
            (&self.lhs_batch, &self.lhs_contract, &self.rhs_batch, &self.rhs_contract)
        } else {
            (&self.rhs_batch, &self.rhs_contract, &self.lhs_batch, &self.lhs_contract)
        };
        let nb = my_batch.len();
        let my_free = free(me.rank(), my_batch, my_contract);
        let other_free = free(other.rank(), other_batch, other_contract);
        // Axes of the cotangent that belong to the other operand's free axes.
        let first = if left { nb + my_free.len() } else { nb };
        let ct_contract: Vec<usize> = (first..first + other_free.len()).collect();
        // Order of the other operand's contracted axes as they remain (increasing).
        let mut remaining: Vec<usize> = (0..other_contract.len()).collect();
        remaining.sort_by_key(|&k| other_contract[k]);
        let batch: Vec<usize> = (0..nb).collect();
        // Axes of `me` in the order of the product below.
        let (product, order): (Tensor, Vec<usize>) = if left || my_free.is_empty() {
            // The other operand with its free axes first: where it is constant in a loop, it is turned once, outside.
            let turn: Vec<usize> = other_batch
                .iter()
                .chain(&other_free)
                .copied()
                .chain(remaining.iter().map(|&k| other_contract[k]))
                .collect();
            let dot = Dot {
                lhs_batch: batch.clone(),
                lhs_contract: ct_contract,
                rhs_batch: batch,
                rhs_contract: (nb..nb + other_free.len()).collect(),
            };
            let order = my_batch.iter().chain(&my_free).copied().chain(remaining.iter().map(|&k| my_contract[k]));
            (dot.apply(ct, &other.transpose(&turn)), order.collect())
        } else {
            // Keeping the contracted axes first avoids a transposition of the (weight-sized) result.
            let dot = Dot {
                lhs_batch: other_batch.clone(),
                lhs_contract: other_free,
                rhs_batch: batch,
                rhs_contract: ct_contract,
            };
            let order = my_batch
                .iter()
                .copied()
                .chain(remaining.iter().map(|&k| my_contract[k]))
                .chain(my_free.iter().copied());
            (dot.apply(other, ct), order.collect())
        };
        let mut back = vec![0; order.len()];
        for (i, &a) in order.iter().enumerate() {
            back[a] = i;
        }
        product.transpose(&back)
    }

    #[track_caller]
    fn apply(&self, a: &Tensor, b: &Tensor) -> Tensor {
        if self.is_wide_sum(a, b) {
            let turned = Dot {
                lhs_contract: self.rhs_contract.clone(),
                rhs_contract: self.lhs_contract.clone(),
                ..Dot::default()
            };
            let product = b.graph().apply(turned, &[b, a]).settle();
            let columns = b.rank() - self.rhs_contract.len();
            let order: Vec<usize> = (columns..product.rank()).chain(0..columns).collect();
            return product.transpose(&order);
        }
        a.graph().apply(self.clone(), &[a, b])
    }

    /// Whether both operands are summed over their first axes, over many rows, and the left one has more columns: the gradient of a weight
    /// with a wide input. XLA's CPU compiler packs the right operand as it lies and turns the left one, so that the product is 1.6 times as
    /// fast the other way round. What is not settled it would turn back.
    fn is_wide_sum(&self, a: &Tensor, b: &Tensor) -> bool {
        let leading = |axes: &[usize]| axes.iter().enumerate().all(|(k, &axis)| k == axis);
        if !self.lhs_batch.is_empty() || !leading(&self.lhs_contract) || !leading(&self.rhs_contract) {
            return false;
        }
        let n = self.lhs_contract.len();
        if n == 0 || n >= a.rank() || n >= b.rank() || a.dims()[..n] != b.dims()[..n] || a.dtype() != b.dtype() {
            return false;
        }
        let [rows, left, right] = [&a.dims()[..n], &a.dims()[n..], &b.dims()[n..]].map(|dims| dims.iter().product());
        rows > right && is_wide(left, right)
    }
}

impl Primitive for Dot {
    fn name(&self) -> &'static str {
        "dot"
    }
    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (a, b) = (args[0], args[1]);
        let names: [(&str, &[usize], &[usize]); 2] =
            [("inner", &self.lhs_contract, &self.rhs_contract), ("shared", &self.lhs_batch, &self.rhs_batch)];
        if a.dtype != b.dtype {
            return Err(ShapeError(format!("dot: element types differ: lhs {a}, rhs {b}; convert one of them")));
        }
        for (what, left, right) in names {
            if left.len() != right.len() || left.iter().any(|x| *x >= a.rank()) || right.iter().any(|x| *x >= b.rank())
            {
                return Err(ShapeError(format!(
                    "dot: {what} axes must pair up and exist, got {left:?} of lhs {a} and {right:?} of rhs {b}; name one axis of \
                     each operand for a pair"
                )));
            }
            if sizes(a, left) != sizes(b, right) {
                return Err(ShapeError(format!(
                    "dot: {what} sizes differ: lhs {a} has {:?}, rhs {b} has {:?}; check the operands' order and the layer's widths",
                    sizes(a, left),
                    sizes(b, right)
                )));
            }
        }
        for (side, shape, axes) in [
            ("lhs", a, [&self.lhs_batch[..], &self.lhs_contract].concat()),
            ("rhs", b, [&self.rhs_batch[..], &self.rhs_contract].concat()),
        ] {
            if (1..axes.len()).any(|k| axes[..k].contains(&axes[k])) {
                return Err(ShapeError(format!(
                    "dot: an axis is shared or summed, and once, got {axes:?} of {side} {shape}; name each axis once"
                )));
            }
        }
        let dims = [sizes(a, &self.lhs_batch), sizes(a, &self.lhs_free(a.rank())), sizes(b, &self.rhs_free(b.rank()))]
            .concat();
        Ok(vec![a.with_dims(dims)])
    }
    fn jvp(&self, args: &[Tensor], _: &[Tensor], tangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        vec![Tensor::sum_of([
            tangents[0].as_ref().map(|d| self.apply(d, &args[1])),
            tangents[1].as_ref().map(|d| self.apply(&args[0], d)),
        ])]
    }
    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let ct = cotangents[0].as_ref();
        vec![
            ct.filter(|_| linear[0]).map(|ct| self.pull(ct, args, true)),
            ct.filter(|_| linear[1]).map(|ct| self.pull(ct, args, false)),
        ]
    }
    fn batch(&self, args: &[Mapped], _: usize) -> Vec<Mapped> {
        let up = |axes: &[usize], by: bool| axes.iter().map(|a| a + usize::from(by)).collect::<Vec<_>>();
        let (ml, mr) = (args[0].mapped, args[1].mapped);
        let mut dot = Dot {
            lhs_batch: up(&self.lhs_batch, ml),
            lhs_contract: up(&self.lhs_contract, ml),
            rhs_batch: up(&self.rhs_batch, mr),
            rhs_contract: up(&self.rhs_contract, mr),
        };
        if ml && mr {
            dot.lhs_batch.insert(0, 0);
            dot.rhs_batch.insert(0, 0);
        }
        let out = dot.apply(&args[0].tensor, &args[1].tensor);
        // The mapped axis is in front already when it is shared, or when it is the first free axis on the left.
        let nb = self.lhs_batch.len();
        let at = match (ml, mr) {
            (true, true) => 0,
            (true, false) => nb,
            _ => nb + dot.lhs_free(args[0].tensor.rank()).len(),
        };
        let order: Vec<usize> = std::iter::once(at).chain((0..out.rank()).filter(|a| *a != at)).collect();
        vec![Mapped { tensor: out.transpose(&order), mapped: true }]
    }
    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let turned = |value: &HostValue, order: &[usize]| {
            let (dims, steps) = (&value.shape.dims, strides(&value.shape.dims));
            let new: Vec<usize> = order.iter().map(|&a| dims[a]).collect();
            value.strided(&new, 0, &order.iter().map(|&a| steps[a]).collect::<Vec<_>>()).data
        };
        let (lhs_free, rhs_free) = (self.lhs_free(args[0].shape.rank()), self.rhs_free(args[1].shape.rank()));
        let a = turned(args[0], &[&self.lhs_batch[..], &lhs_free, &self.lhs_contract].concat());
        let b = turned(args[1], &[&self.rhs_batch[..], &rhs_free, &self.rhs_contract].concat());
        let count = |shape: &Shape, axes: &[usize]| sizes(shape, axes).iter().product::<usize>();
        let (rows, columns) = (count(&args[0].shape, &lhs_free), count(&args[1].shape, &rhs_free));
        let inner = count(&args[0].shape, &self.lhs_contract);
        let mut data = Vec::with_capacity(results[0].elements());
        for batch in 0..count(&args[0].shape, &self.lhs_batch) {
            for row in 0..rows {
                let left = &a[(batch * rows + row) * inner..][..inner];
                data.extend((0..columns).map(|column| {
                    let right = &b[(batch * columns + column) * inner..][..inner];
                    left.iter().zip(right).map(|(x, y)| x * y).sum::<f64>()
                }));
            }
        }
        vec![HostValue::new(results[0].clone(), data)]
    }
    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        let (a, b) = (e.shape(args[0]).clone(), e.shape(args[1]).clone());
        // Runs of axes that are neighbours on both sides are one axis to the compiler: products stay two-dimensional.
        let lhs = Merged::new(&a, &self.lhs_batch, &self.lhs_contract);
        let rhs = Merged::new(&b, &self.rhs_batch, &self.rhs_contract);
        let mergeable = self.lhs_batch.is_empty() && lhs.plain && rhs.plain && (a.rank() > 2 || b.rank() > 2);
        if !mergeable {
            return vec![e.push("dot", &results[0], args, |i| {
                i.dot_dimension_numbers =
                    Some(numbers(&self.lhs_batch, &self.lhs_contract, &self.rhs_batch, &self.rhs_contract));
            })];
        }
        let mut matrix = |id: i64, shape: &Shape, dims: &[usize]| {
            if shape.dims == dims { id } else { e.push("reshape", &shape.with_dims(dims), &[id], |_| {}) }
        };
        let (x, y) = (matrix(args[0], &a, &lhs.dims), matrix(args[1], &b, &rhs.dims));
        let flat = results[0].with_dims(vec![lhs.dims[1 - lhs.contract], rhs.dims[1 - rhs.contract]]);
        let product = e.push("dot", &flat, &[x, y], |i| {
            i.dot_dimension_numbers = Some(numbers(&[], &[lhs.contract], &[], &[rhs.contract]));
        });
        vec![e.push("reshape", &results[0], &[product], |_| {})]
    }
    fn flops(&self, args: &[&Shape], results: &[&Shape]) -> u64 {
        let inner: usize = self.lhs_contract.iter().map(|&axis| args[0].dims[axis]).product();
        2 * (results[0].elements() * inner) as u64
    }
}

/// An operand seen as a matrix: contracted axes on one side, free ones on the other.
struct Merged {
    /// Whether the operand is such a matrix in memory, with its contracted axes in order.
    plain: bool,
    /// Its two sizes.
    dims: Vec<usize>,
    /// Which of the two is contracted.
    contract: usize,
}

impl Merged {
    fn new(shape: &Shape, batch: &[usize], contract: &[usize]) -> Merged {
        let free = free(shape.rank(), batch, contract);
        let product = |axes: &[usize]| axes.iter().map(|&a| shape.dims[a]).product::<usize>();
        let first = contract.iter().copied().eq(0..contract.len());
        let last = contract.iter().copied().eq(free.len()..shape.rank());
        let (c, f) = (product(contract), product(&free));
        Merged { plain: first || last, dims: if last { vec![f, c] } else { vec![c, f] }, contract: usize::from(last) }
    }
}

fn numbers(lb: &[usize], lc: &[usize], rb: &[usize], rc: &[usize]) -> proto::DotDimensionNumbers {
    let signed = |axes: &[usize]| axes.iter().map(|&a| a as i64).collect();
    proto::DotDimensionNumbers {
        lhs_contracting_dimensions: signed(lc),
        rhs_contracting_dimensions: signed(rc),
        lhs_batch_dimensions: signed(lb),
        rhs_batch_dimensions: signed(rb),
    }
}

impl Tensor {
    /// Sums over the last axis of `self` and the first of `other`: `[.., I] x [I, ..]`.
    #[track_caller]
    pub fn dot(&self, other: &Tensor) -> Tensor {
        let contract = self.rank().saturating_sub(1);
        Dot { lhs_contract: vec![contract], rhs_contract: vec![0], ..Dot::default() }.apply(self, other)
    }

    /// A product with any choice of shared and summed axes.
    #[track_caller]
    pub fn dot_general(&self, other: &Tensor, dims: Dot) -> Tensor {
        dims.apply(self, other)
    }
}
