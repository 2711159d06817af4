//! Every shape rule refuses what breaks it, when the node is made, with an error that names the operation.

mod common;

use common::f64s;
use hlo::{
    DType, Dot, Func, Graph, Primitive, Shape, Tensor,
    ops::{
        Constant, Iota,
        elementwise::{
            AddOp, AndOp, BINARY, Compare, Convert, DivOp, Exp, MaxOp, MinOp, MulOp, Negate, Select, ShiftLeft,
            ShiftRight, SubOp, Tanh, UNARY, XorOp,
        },
        index::{DynamicSlice, DynamicUpdate},
        meta::CustomDerivative,
        reduce::{Combine, Reduce},
        scan::Scan,
        shaping::{Broadcast, Concatenate, Pad, Reshape, Reverse, Slice, Transpose},
        take::{Places, Take},
    },
    random,
};
use std::rc::Rc;

/// Shapes of the results, or the message.
fn inferred(op: impl Primitive, operands: &[Shape]) -> Result<Vec<Shape>, String> {
    let g = Graph::new();
    let operands: Vec<Tensor> = operands.iter().enumerate().map(|(k, s)| g.parameter(k, s.clone())).collect();
    let before = g.len();
    match g.try_apply(op, &operands.iter().collect::<Vec<_>>()) {
        Ok(results) => Ok(results.iter().map(|r| r.shape().clone()).collect()),
        Err(error) => {
            assert_eq!(g.len(), before, "a refused node was added all the same");
            Err(error.to_string())
        }
    }
}

/// Refused, with a message of three parts: `op: rule, got something; what to do`.
#[track_caller]
fn refused(op: impl Primitive, operands: &[Shape]) {
    let name = op.name();
    let what = format!("{op:?} of {operands:?}");
    match inferred(op, operands) {
        Ok(shapes) => panic!("{what} was accepted and gave {shapes:?}"),
        Err(message) => assert!(
            message.starts_with(&format!("{name}: "))
                && message.contains("; ")
                && (message.contains("got ") || message.contains("differ: ")),
            "{what}: {message}"
        ),
    }
}

#[track_caller]
fn accepted(op: impl Primitive, operands: &[Shape], want: Shape) {
    assert_eq!(inferred(op, operands), Ok(vec![want]));
}

fn s32s(dims: &[usize]) -> Shape {
    Shape::s32(dims)
}

fn preds(dims: &[usize]) -> Shape {
    Shape::new(DType::Pred, dims)
}

#[test]
fn leaves() {
    accepted(Iota { shape: s32s(&[2, 3]), axis: 1 }, &[], s32s(&[2, 3]));
    refused(Iota { shape: s32s(&[2, 3]), axis: 2 }, &[]);
    let constant = |dtype, value: f64| Constant { dtype, bits: value.to_bits() };
    accepted(constant(DType::F32, 0.5), &[], Shape::f32([]));
    accepted(constant(DType::S32, -3.0), &[], s32s(&[]));
    for (dtype, value) in [
        (DType::S32, 0.5),
        (DType::S32, 2147483648.0),
        (DType::U8, 256.0),
        (DType::U8, -1.0),
        (DType::U32, f64::NAN),
        (DType::U64, 1e17),
        (DType::Pred, 2.0),
    ] {
        refused(constant(dtype, value), &[]);
    }
}

#[test]
fn elementwise() {
    // One stanza makes all of UNARY, another all of BINARY: two of each stand for the rest.
    assert!(UNARY.contains(&Exp.name()) && BINARY.contains(&AddOp.name()));
    refused(Exp, &[s32s(&[2])]);
    refused(Tanh, &[preds(&[2])]);
    accepted(Exp, &[Shape::new(DType::BF16, [2])], Shape::new(DType::BF16, [2]));
    accepted(Negate, &[s32s(&[2])], s32s(&[2]));
    refused(Negate, &[preds(&[2])]);
    accepted(AddOp, &[s32s(&[2]), s32s(&[2])], s32s(&[2]));
    refused(AddOp, &[f64s([2]), f64s([3])]);
    refused(SubOp, &[f64s([2]), f64s([2, 1])]);
    refused(MulOp, &[f64s([2]), Shape::f32([2])]);
    refused(DivOp, &[f64s([]), f64s([1])]);
    refused(MaxOp, &[f64s([2]), s32s(&[2])]);
    refused(MinOp, &[f64s([2]), f64s([1])]);
    let u32s = |dims: &[usize]| Shape::new(DType::U32, dims);
    accepted(XorOp, &[u32s(&[2]), u32s(&[2])], u32s(&[2]));
    accepted(AndOp, &[preds(&[2]), preds(&[2])], preds(&[2]));
    refused(AndOp, &[f64s([2]), f64s([2])]);
    refused(XorOp, &[u32s(&[2]), s32s(&[2])]);
    accepted(ShiftLeft, &[s32s(&[2]), s32s(&[2])], s32s(&[2]));
    refused(ShiftLeft, &[u32s(&[2]), u32s(&[])]);
    refused(ShiftRight, &[preds(&[2]), preds(&[2])]);
    refused(ShiftRight, &[f64s([2]), f64s([2])]);
    accepted(Compare { direction: "LT" }, &[f64s([2]), f64s([2])], preds(&[2]));
    refused(Compare { direction: "LT" }, &[f64s([2]), f64s([3])]);
    accepted(Select, &[preds(&[2]), f64s([2]), f64s([2])], f64s([2]));
    refused(Select, &[preds(&[2]), f64s([2]), f64s([3])]);
    refused(Select, &[preds(&[]), f64s([2]), f64s([2])]);
    refused(Select, &[s32s(&[2]), f64s([2]), f64s([2])]);
    accepted(Convert { dtype: DType::U8 }, &[f64s([2])], Shape::new(DType::U8, [2]));
}

#[test]
fn shaping() {
    let broadcast = |dims: &[usize], axes: &[usize]| Broadcast { dims: dims.into(), axes: axes.into() };
    accepted(broadcast(&[4, 2, 3], &[1, 2]), &[f64s([2, 3])], f64s([4, 2, 3]));
    refused(broadcast(&[4, 2, 3], &[2, 1]), &[f64s([3, 2])]);
    refused(broadcast(&[4, 2, 3], &[1]), &[f64s([2, 3])]);
    refused(broadcast(&[4, 2, 3], &[0, 2]), &[f64s([2, 3])]);
    refused(broadcast(&[4, 2], &[1, 2]), &[f64s([2, 3])]);
    refused(broadcast(&[4, 2], &[1]), &[f64s([1])]);
    accepted(Reshape { dims: vec![6] }, &[f64s([2, 3])], f64s([6]));
    refused(Reshape { dims: vec![5] }, &[f64s([2, 3])]);
    accepted(Transpose { order: vec![2, 0, 1] }, &[f64s([2, 3, 4])], f64s([4, 2, 3]));
    for order in [vec![0], vec![0, 0], vec![0, 2], vec![0, 1, 2]] {
        refused(Transpose { order }, &[f64s([2, 3])]);
    }
    let slice = |start: &[usize], limit: &[usize]| Slice {
        start: start.into(),
        limit: limit.into(),
        stride: vec![1; start.len()],
    };
    accepted(slice(&[1, 0], &[2, 3]), &[f64s([2, 3])], f64s([1, 3]));
    for (start, limit) in [(&[0][..], &[2][..]), (&[0, 0], &[2]), (&[0, 0], &[3, 3]), (&[2, 0], &[1, 3])] {
        refused(slice(start, limit), &[f64s([2, 3])]);
    }
    accepted(Pad { low: vec![1, 0], high: vec![0, 2], between: vec![0, 0] }, &[f64s([2, 3])], f64s([3, 5]));
    refused(Pad { low: vec![1], high: vec![0, 2], between: vec![0, 0] }, &[f64s([2, 3])]);
    refused(Pad { low: vec![1, 0], high: vec![0], between: vec![0, 0] }, &[f64s([2, 3])]);
    accepted(Concatenate { axis: 1 }, &[f64s([2, 3]), f64s([2, 1])], f64s([2, 4]));
    refused(Concatenate { axis: 0 }, &[f64s([2, 3]), f64s([2, 1])]);
    refused(Concatenate { axis: 2 }, &[f64s([2, 3]), f64s([2, 3])]);
    refused(Concatenate { axis: 0 }, &[f64s([2, 3]), f64s([3])]);
    refused(Concatenate { axis: 0 }, &[f64s([2, 3]), Shape::f32([2, 3])]);
    assert!(inferred(Concatenate { axis: 0 }, &[]).is_err());
    accepted(Reverse { axes: vec![1] }, &[f64s([2, 3])], f64s([2, 3]));
    refused(Reverse { axes: vec![2] }, &[f64s([2, 3])]);
    refused(Reverse { axes: vec![1, 1] }, &[f64s([2, 3])]);
}

#[test]
fn products_and_sums() {
    let dot = |lb: &[usize], lc: &[usize], rb: &[usize], rc: &[usize]| Dot {
        lhs_batch: lb.into(),
        lhs_contract: lc.into(),
        rhs_batch: rb.into(),
        rhs_contract: rc.into(),
    };
    accepted(dot(&[0], &[2], &[2], &[0]), &[f64s([5, 2, 3]), f64s([3, 4, 5])], f64s([5, 2, 4]));
    refused(dot(&[], &[1], &[], &[0]), &[f64s([2, 3]), f64s([2, 3])]);
    refused(dot(&[], &[1], &[], &[0]), &[f64s([2, 3]), Shape::f32([3, 4])]);
    refused(dot(&[], &[2], &[], &[0]), &[f64s([2, 3]), f64s([3, 4])]);
    refused(dot(&[], &[1], &[], &[2]), &[f64s([2, 3]), f64s([3, 4])]);
    refused(dot(&[], &[0, 1], &[], &[0]), &[f64s([2, 3]), f64s([2, 3])]);
    refused(dot(&[0], &[1], &[], &[0]), &[f64s([2, 3]), f64s([3, 4])]);
    refused(dot(&[0], &[2], &[0], &[1]), &[f64s([5, 2, 3]), f64s([4, 3, 2])]);
    refused(dot(&[], &[1, 1], &[], &[0, 0]), &[f64s([2, 3]), f64s([3, 4])]);
    refused(dot(&[1], &[1], &[0], &[0]), &[f64s([2, 3]), f64s([3, 4])]);

    let reduce = |axes: &[usize]| Reduce { combine: Combine::Max, axes: axes.into() };
    accepted(reduce(&[0, 2]), &[f64s([2, 3, 4])], f64s([3]));
    for axes in [&[2][..], &[1, 0], &[0, 0]] {
        refused(reduce(axes), &[f64s([2, 3])]);
    }
}

#[test]
fn computed_positions() {
    let at = s32s(&[]);
    let take = |places: &[i32]| Take { places: Rc::new(Places::new(&[places.len()], places.to_vec())) };
    accepted(take(&[2, 0, 2, 1, 3]), &[f64s([4, 3])], f64s([5, 3]));
    accepted(take(&[4, 1]), &[f64s([4, 3])], f64s([2, 3]));
    refused(take(&[5]), &[f64s([4, 3])]);
    refused(take(&[-1]), &[f64s([4, 3])]);
    refused(take(&[0]), &[f64s([])]);
    accepted(DynamicSlice { size: 2 }, &[f64s([4, 3]), at.clone()], f64s([2, 3]));
    refused(DynamicSlice { size: 5 }, &[f64s([4, 3]), at.clone()]);
    refused(DynamicSlice { size: 1 }, &[f64s([]), at.clone()]);
    refused(DynamicSlice { size: 1 }, &[f64s([4, 3]), f64s([])]);
    refused(DynamicSlice { size: 1 }, &[f64s([4, 3]), s32s(&[1])]);
    accepted(DynamicUpdate, &[f64s([4, 3]), f64s([2, 3]), at.clone()], f64s([4, 3]));
    refused(DynamicUpdate, &[f64s([4, 3]), f64s([2, 2]), at.clone()]);
    refused(DynamicUpdate, &[f64s([4, 3]), f64s([5, 3]), at.clone()]);
    refused(DynamicUpdate, &[f64s([4, 3]), f64s([3]), at.clone()]);
    refused(DynamicUpdate, &[f64s([4]), f64s([]), at.clone()]);
    refused(DynamicUpdate, &[f64s([4, 3]), Shape::f32([2, 3]), at]);
    refused(DynamicUpdate, &[f64s([4, 3]), f64s([2, 3]), Shape::new(DType::U32, [])]);
}

#[test]
fn derivatives_declared() {
    accepted(CustomDerivative, &[f64s([2]), f64s([2]), f64s([2])], f64s([2]));
    refused(CustomDerivative, &[f64s([2]), f64s([2]), f64s([])]);
    assert!(inferred(CustomDerivative, &[f64s([2]), f64s([2])]).is_err());
}

#[test]
fn loops() {
    let body = Func::trace(&[f64s([2]), f64s([3]), f64s([])], |_, p| vec![&p[0] * &p[2], p[1].clone()]);
    let scan = |length| Scan { body: body.clone(), length, reverse: false, carries: 1, inputs: 1 };
    let operands = [f64s([2]), f64s([5, 3]), f64s([])];
    assert_eq!(inferred(scan(5), &operands), Ok(vec![f64s([2]), f64s([5, 3])]));
    assert!(inferred(scan(0), &[f64s([2]), f64s([0, 3]), f64s([])]).is_err());
    refused(scan(4), &operands);
    assert!(inferred(scan(5), &operands[..2]).is_err());
    refused(scan(5), &[f64s([3]), f64s([5, 3]), f64s([])]);
    refused(scan(5), &[f64s([2]), f64s([5, 3]), f64s([1])]);
    refused(scan(5), &[f64s([2]), f64s([3]), f64s([])]);
    let grows = Func::trace(&[f64s([2])], |_, p| vec![Tensor::concat(&[&p[0], &p[0]], 0)]);
    refused(Scan { body: grows, length: 3, reverse: false, carries: 1, inputs: 0 }, &[f64s([2])]);
    let empty = body.with_results(vec![]);
    assert!(inferred(Scan { body: empty, length: 3, reverse: false, carries: 1, inputs: 1 }, &operands).is_err());
}

#[test]
fn operands_of_another_graph() {
    let (g, other) = (Graph::new(), Graph::new());
    let (x, y) = (g.parameter(0, f64s([2])), other.parameter(0, f64s([2])));
    let error = g.try_apply(AddOp, &[&x, &y]).unwrap_err().to_string();
    assert!(error.starts_with("add: operands must belong to one graph, got "), "{error}");
}

/// The message of a panic.
fn panic_of(f: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(f);
    std::panic::set_hook(hook);
    let payload = caught.expect_err("no panic");
    payload.downcast_ref::<String>().cloned().or(payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap()
}

/// Builders on tensors panic with messages of the same form, never with a bare index error.
#[test]
fn builders() {
    let x = || Graph::new().parameter(0, f64s([2, 3]));
    let scalar = || Graph::new().parameter(0, f64s([]));
    type Case = (&'static str, Box<dyn FnOnce() + std::panic::UnwindSafe>);
    let cases: Vec<Case> = vec![
        ("add", Box::new(move || drop(x() + x().reshape(&[3, 2])))),
        (
            "add",
            Box::new(move || {
                let x = x();
                drop(&x + x.zeros_like().convert(DType::F32));
            }),
        ),
        (
            "select",
            Box::new(move || {
                let x = x();
                drop(x.gt(&x).select(&x.at(0), &x.reshape(&[6])));
            }),
        ),
        ("broadcast", Box::new(move || drop(x().broadcast_to(&[3])))),
        ("broadcast", Box::new(move || drop(x().broadcast_to(&[4, 3])))),
        ("slice", Box::new(move || drop(x().at(2)))),
        ("slice", Box::new(move || drop(scalar().at(0)))),
        ("slice", Box::new(move || drop(x().slice_axis(2, 0, 1)))),
        ("reduce", Box::new(move || drop(x().mean(&[2])))),
        ("logsumexp", Box::new(move || drop(scalar().logsumexp()))),
        ("argmax", Box::new(move || drop(scalar().argmax_last()))),
        (
            "dot",
            Box::new(move || {
                let x = x();
                drop(x.dot(&x));
            }),
        ),
        ("dot", Box::new(move || drop(scalar().dot(&scalar().exp())))),
        ("concatenate", Box::new(|| drop(Tensor::concat(&[], 0)))),
        ("iota", Box::new(|| drop(Graph::new().iota(f64s([2]), 1)))),
        ("constant", Box::new(|| drop(Graph::new().parameter(0, Shape::s32([2])) * 0.5))),
        (
            "call",
            Box::new(move || {
                let x = x();
                let f = Func::trace(&[f64s([3])], |_, p| vec![p[0].sin()]);
                drop(f.call(x.graph(), std::slice::from_ref(&x)));
            }),
        ),
    ];
    let cases = cases.into_iter().chain([
        ("random bits", Box::new(|| drop(random::bits(&[]))) as Box<dyn FnOnce() + std::panic::UnwindSafe>),
        ("random bits", Box::new(move || drop(random::bits(&[&x()])))),
        ("uniform", Box::new(move || drop(random::uniform(&x())))),
    ]);
    for (name, case) in cases {
        let message = panic_of(case);
        assert!(message.starts_with(&format!("{name}: ")) && message.contains("; "), "{name}: {message}");
    }
}

/// A formula of somebody else: its mistake is an error with its line, and nothing after it panics.
#[test]
fn mistakes_of_a_traced_formula_are_errors() {
    type Formula = fn(&Tensor, &Tensor) -> Tensor;
    let wrong: [(&str, Formula); 12] = [
        ("add", |a, b| a + b),
        ("multiply", |a, b| (a * b).exp() + 1.0),
        ("dot", |a, b| a.dot(b) * 2.0),
        ("broadcast", |a, b| a.broadcast_to(b.dims())),
        ("broadcast", |a, _| a.broadcast_to(&[3])),
        ("slice", |a, _| a.slice_axis(2, 0, 1)),
        ("slice", |a, _| a.slice_axis(0, 1, 9).tanh()),
        ("reshape", |a, _| a.reshape(&[7])),
        ("concatenate", |a, b| Tensor::concat(&[a, b], 0)),
        ("reduce", |a, _| a.mean(&[4]) + 1.0),
        ("logsumexp", |a, _| a.sum_all().logsumexp()),
        ("select", |a, b| a.select(a, b)),
    ];
    for (name, formula) in wrong {
        let shapes = [Shape::f32([2, 3]), Shape::f32([4, 5])];
        let fault = Func::try_trace(&shapes, |_, p| vec![formula(&p[0], &p[1])]).expect_err(name);
        let text = fault.to_string();
        assert!(text.starts_with(name), "{name}: {text}");
        assert!(text.contains("; ") && text.contains("shapes.rs:"), "{name}: {text}");
    }
    let right = Func::try_trace(&[Shape::f32([2])], |_, p| vec![p[0].exp()]).expect("nothing is wrong");
    assert_eq!(right.results()[0].shape(), &Shape::f32([2]));
}
