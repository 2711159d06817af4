//! Computations evaluated on the host, one operation after the other: slow, simple, and without XLA.
//!
//! This is the second opinion on everything that is compiled, and lets tests try many small graphs for which a compiler
//! would take far longer than the arithmetic. All floating-point types are computed in double precision, so that results
//! agree with those of a device to the precision of the device (a conversion to `bf16` rounds); integers wrap around as they do
//! there.
//!
//! Each primitive evaluates itself ([`Primitive::evaluate`](crate::Primitive::evaluate)); here are the values it works on.

use std::rc::Rc;

use crate::{
    array::Array,
    func::{Func, is_parameter},
    graph::Node,
    shape::{DType, Shape},
};

/// A dense, row-major array whose elements are held as `f64`, whatever their type.
#[derive(Clone, Debug, PartialEq)]
pub struct HostValue {
    /// Element type and sizes.
    pub shape: Shape,
    /// The elements; flags are 0 and 1.
    pub data: Vec<f64>,
}

impl HostValue {
    /// An array from its elements.
    ///
    /// # Panics
    /// When the number of elements is not that of the shape.
    #[track_caller]
    pub fn new(shape: Shape, data: Vec<f64>) -> HostValue {
        assert_eq!(shape.elements(), data.len(), "host value: {shape} holds {} elements", shape.elements());
        HostValue { shape, data }
    }

    /// Every element the same.
    pub fn full(shape: Shape, value: f64) -> HostValue {
        HostValue { data: vec![value; shape.elements()], shape }
    }

    /// The element of a scalar (the first one of an array).
    pub fn scalar(&self) -> f64 {
        self.data[0]
    }

    pub(crate) fn map(&self, shape: Shape, f: impl Fn(f64) -> f64) -> HostValue {
        HostValue { shape, data: self.data.iter().map(|&x| f(x)).collect() }
    }

    pub(crate) fn zip(&self, other: &HostValue, shape: Shape, f: impl Fn(f64, f64) -> f64) -> HostValue {
        HostValue { shape, data: self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect() }
    }

    /// Elements `data[base + sum_a index[a] steps[a]]` for every index of an array of sizes `dims`.
    pub(crate) fn strided(&self, dims: &[usize], base: i64, steps: &[i64]) -> HostValue {
        let shape = self.shape.with_dims(dims);
        let mut data = Vec::with_capacity(shape.elements());
        walk(dims, base, steps, |_, at| data.push(self.data[at]));
        HostValue { shape, data }
    }
}

impl From<&Array> for HostValue {
    fn from(array: &Array) -> HostValue {
        HostValue { shape: array.shape().clone(), data: array.to_f64_vec() }
    }
}

/// Distance in memory between neighbours along each axis.
pub(crate) fn strides(dims: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis] as i64;
    }
    strides
}

/// Visits every index of an array of sizes `dims` in row-major order, with its number and its strided position.
pub(crate) fn walk(dims: &[usize], base: i64, steps: &[i64], mut visit: impl FnMut(usize, usize)) {
    let mut index = vec![0; dims.len()];
    let mut at = base;
    for number in 0..dims.iter().product() {
        visit(number, at as usize);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            at += steps[axis];
            if index[axis] < dims[axis] {
                break;
            }
            at -= steps[axis] * dims[axis] as i64;
            index[axis] = 0;
        }
    }
}

/// An integer brought into the range of its type by wrapping around.
pub(crate) fn wrap(dtype: DType, value: i128) -> f64 {
    match dtype {
        DType::Pred => f64::from(value != 0),
        DType::U8 => f64::from(value as u8),
        DType::S32 => f64::from(value as i32),
        DType::U32 => f64::from(value as u32),
        DType::U64 => value as u64 as f64,
        DType::BF16 | DType::F32 | DType::F64 => value as f64,
    }
}

/// A function prepared for evaluation: its live nodes in order.
pub(crate) struct Evaluator<'a> {
    func: &'a Func,
    nodes: Vec<(usize, Rc<Node>)>,
    /// Position of the last node that reads each node, or the end.
    last: Vec<usize>,
}

impl<'a> Evaluator<'a> {
    pub(crate) fn new(func: &'a Func) -> Evaluator<'a> {
        let nodes = func.live(true);
        let mut last = vec![0; func.graph().len()];
        for (position, (_, node)) in nodes.iter().enumerate() {
            for operand in &node.operands[..node.op.live_operands(node.operands.len())] {
                last[operand.node] = position;
            }
        }
        for result in func.results() {
            last[result.value().node] = usize::MAX;
        }
        Evaluator { func, nodes, last }
    }

    pub(crate) fn run(&self, args: &[Rc<HostValue>]) -> Vec<Rc<HostValue>> {
        let mut values: Vec<Vec<Rc<HostValue>>> = vec![Vec::new(); self.last.len()];
        for (param, arg) in self.func.params().iter().zip(args) {
            values[param.value().node] = vec![arg.clone()];
        }
        for (position, (index, node)) in self.nodes.iter().enumerate() {
            let operands = &node.operands[..node.op.live_operands(node.operands.len())];
            if values[*index].is_empty() && !is_parameter(node) {
                let made = {
                    let operands: Vec<&HostValue> = operands.iter().map(|o| &*values[o.node][o.result]).collect();
                    node.op.evaluate(&operands, &node.shapes)
                };
                values[*index] = made.into_iter().map(Rc::new).collect();
            }
            for operand in operands.iter().filter(|o| self.last[o.node] == position) {
                values[operand.node] = Vec::new();
            }
        }
        self.func.results().iter().map(|r| values[r.value().node][r.value().result].clone()).collect()
    }
}

impl Func {
    /// Evaluates the function on the host, in double precision.
    ///
    /// # Panics
    /// When the arguments do not have the shapes of the parameters, or the function holds 64-bit integers beyond 2^53.
    #[track_caller]
    pub fn evaluate(&self, args: &[HostValue]) -> Vec<HostValue> {
        assert_eq!(args.len(), self.params().len(), "evaluate: one argument for each parameter");
        for (k, (param, arg)) in self.params().iter().zip(args).enumerate() {
            let want = param.shape();
            assert_eq!(want, &arg.shape, "evaluate: argument {k} must be {want}, got {}", arg.shape);
        }
        let args: Vec<Rc<HostValue>> = args.iter().cloned().map(Rc::new).collect();
        Evaluator::new(self).run(&args).into_iter().map(|v| (*v).clone()).collect()
    }
}
