//! What is emitted and what is said, word for word.
//!
//! The expected text lies in `tests/snapshots`. After a change that is meant:
//!
//! ```sh
//! UPDATE_SNAPSHOTS=1 cargo test -p hlo --test snapshots
//! ```
//!
//! and read the difference before it is committed.

mod common;

use common::program;
use hlo::{
    DType, Func, Graph, LowerError, Shape, Tensor, lower,
    ops::{scan::Scan, take::Places},
    scan, scan_whole,
    transform::grad,
};
use std::{
    fmt::Write as _,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    rc::Rc,
};

#[track_caller]
fn snapshot(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(file);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return;
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    if want == text {
        return;
    }
    let line = want.lines().zip(text.lines()).take_while(|(w, t)| w == t).count();
    let at = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_string();
    panic!(
        "{file}, line {}:\n  stored   {}\n  now      {}\nUPDATE_SNAPSHOTS=1 stores what is now; all of it:\n{text}",
        line + 1,
        at(&want),
        at(text)
    );
}

/// One step of leaky integrate-and-fire with a soft reset: v' = 0.9 v + x W - z, z' = step(v' - 1), with the surrogate
/// slope 1 / (1 + 25 |v' - 1|)². Parameters: v [2, 3], z [2, 3], x [2, 4], W [4, 3].
fn lif() -> Func {
    let shapes = [[2, 3], [2, 3], [2, 4], [4, 3]].map(Shape::f32);
    Func::trace(&shapes, |_, p| {
        let v = &p[0] * 0.9 + p[2].dot(&p[3]) - &p[1];
        let over = &v - 1.0;
        let slope = 1.0 / (over.abs() * 25.0 + 1.0).square();
        let z = over.heaviside().with_derivative(&[(&over, &slope)]);
        vec![v, z.clone(), z]
    })
}

fn sequence(plain: bool) -> Func {
    let shapes = [Shape::f32([2, 3]), Shape::f32([2, 3]), Shape::f32([4, 2, 4]), Shape::f32([4, 3])];
    Func::trace(&shapes, |g, p| {
        let run = if plain { scan_whole } else { scan };
        let (_, spikes) = run(g, &lif(), 4, false, &p[..2], &p[2..3], &p[3..]);
        vec![spikes[0].sum_all()]
    })
}

#[test]
fn lif_step() {
    snapshot("lif-step.hlo", &program(&lif()).module.to_text());
}

#[test]
fn lif_over_four_steps() {
    snapshot("lif-4-steps.hlo", &program(&sequence(false)).module.to_text());
}

#[test]
fn lif_over_four_steps_in_one_piece() {
    snapshot("lif-4-steps-whole.hlo", &program(&sequence(true)).module.to_text());
}

#[test]
fn gradient_of_lif_over_four_steps() {
    let f = sequence(false);
    let shapes: Vec<Shape> = f.params().iter().map(|p| p.shape().clone()).collect();
    let grads = Func::trace(&shapes, |g, p| {
        let (values, grads) = grad(g, &f, p);
        vec![values[0].clone(), grads[3].clone()]
    });
    snapshot("lif-4-steps-gradient.hlo", &program(&grads).module.to_text());
}

/// A line or two for each family of operations.
#[test]
fn one_of_each() {
    let f = Func::trace(&[Shape::f32([2, 3]), Shape::s32([])], |g, p| {
        let x = &p[0];
        vec![
            x.tanh() * 2.0,
            x.maximum(&-x),
            x.ge(&x.exp()).select(x, &x.zeros_like()),
            x.convert(DType::BF16),
            x.at(1).broadcast_to(&[2, 3]),
            x.transpose(&[1, 0]).reshape(&[2, 3]),
            x.pad(&[0, 1], &[2, 0]),
            Tensor::concat(&[x, x], 1).reverse(&[1]),
            x.dot(&x.transpose(&[1, 0])),
            x.max(&[1]),
            x.dynamic_slice(&p[1], 1),
            x.take(&Rc::new(Places::new(&[4], vec![1, 0, 0, 1]))),
            x.dynamic_update(&x.slice_axis(0, 0, 1), &p[1]),
            g.iota(Shape::s32([2, 3]), 1),
            p[1].xor(&p[1].shift_left(4)).bit_and(&p[1].shift_right(31).bit_or(&p[1])),
        ]
        .into_iter()
        .chain(Tensor::all_reduce(&[x.sum(&[0]), x.sum_all()]))
        .chain(Tensor::all_reduce(&[p[1].clone()]))
        .collect()
    });
    snapshot("one-of-each.hlo", &program(&f).module.to_text());
}

/// The message of a panic in `f`.
fn message(f: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(f)).expect_err("no panic");
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "(not a string)".into())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list of messages")]
fn messages() {
    let g = Graph::new();
    let x = g.parameter(0, Shape::f32([128, 300]));
    let w = g.parameter(1, Shape::f32([200, 2]));
    let n = g.parameter(2, Shape::s32([128]));
    let k = g.parameter(3, Shape::s32([]));
    let elsewhere = Graph::new().parameter(0, Shape::f32([128, 300]));
    let body = Func::trace(&[Shape::f32([3]), Shape::f32([4])], |_, p| vec![p[0].sin(), p[1].sin()]);
    let grows = Func::trace(&[Shape::f32([3])], |_, p| vec![Tensor::stack(&[&p[0], &p[0]])]);
    let state = g.parameter(4, Shape::f32([3]));
    type Case<'a> = (&'static str, Box<dyn FnOnce() + 'a>);
    let cases: Vec<Case> = vec![
        ("a layer of the wrong width", Box::new(|| drop(x.dot(&w)))),
        ("elementwise, sizes", Box::new(|| drop(&x + &w))),
        ("elementwise, types", Box::new(|| drop(x.max(&[1]) * &n))),
        ("elementwise, integers", Box::new(|| drop(n.tanh()))),
        ("elementwise, bits", Box::new(|| drop(x.xor(&x)))),
        ("a constant that does not fit", Box::new(|| drop(&n * 0.5))),
        ("select", Box::new(|| drop(n.select(&n, &n)))),
        ("broadcast", Box::new(|| drop(w.broadcast_to(&[3, 200, 4])))),
        ("reshape", Box::new(|| drop(x.reshape(&[128, 30])))),
        ("transpose", Box::new(|| drop(x.transpose(&[0])))),
        ("slice", Box::new(|| drop(x.slice_axis(0, 100, 129)))),
        ("concatenate", Box::new(|| drop(Tensor::concat(&[&x, &w], 0)))),
        ("reduce", Box::new(|| drop(x.sum(&[1, 0])))),
        ("take", Box::new(|| drop(w.take(&Rc::new(Places::new(&[1], vec![1 << 20])))))),
        ("dynamic slice, position", Box::new(|| drop(x.dynamic_slice(&n, 1)))),
        ("dynamic slice, size", Box::new(|| drop(w.dynamic_slice(&k, 201)))),
        ("dynamic update", Box::new(|| drop(x.dynamic_update(&w, &k)))),
        ("custom derivative", Box::new(|| drop(x.heaviside().with_derivative(&[(&x, &w)])))),
        (
            "loop, input",
            Box::new(|| {
                drop(scan(&g, &body, 5, false, std::slice::from_ref(&state), std::slice::from_ref(&x), &[]));
            }),
        ),
        ("loop, carry", Box::new(|| drop(scan(&g, &grows, 5, false, std::slice::from_ref(&state), &[], &[])))),
        (
            "loop, number of operands",
            Box::new(|| drop(scan(&g, &body, 5, false, std::slice::from_ref(&state), &[], &[]))),
        ),
        (
            "loop, no steps",
            Box::new(|| {
                let none = Scan { body: grows.clone(), length: 0, reverse: false, carries: 1, inputs: 0 };
                drop(g.apply(none, &[&state]));
            }),
        ),
        ("another graph", Box::new(|| drop(x.maximum(&elsewhere)))),
        ("a function's argument", Box::new(|| drop(body.call(&g, &[state.clone(), state.clone()])))),
    ];
    let mut text = String::new();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for (title, case) in cases {
        writeln!(text, "{title}\n  {}\n", message(case)).unwrap();
    }
    std::panic::set_hook(hook);

    let names = |n: &[&str]| n.iter().map(ToString::to_string).collect::<Vec<_>>();
    let errors: [(&str, Result<_, LowerError>); 2] = [
        ("names", lower("step", &body, &names(&["state"]), &names(&["next", "out"]), &[])),
        ("donation", lower("step", &body, &names(&["state", "input"]), &names(&["next", "out"]), &[(0, 1)])),
    ];
    for (title, result) in errors {
        writeln!(text, "lowering, {title}\n  {}\n", result.expect_err(title)).unwrap();
    }
    for message in text.lines().filter(|l| l.starts_with("  ")) {
        assert!(message.contains(": ") && (message.contains("; ")), "rule, what was got, what to do: {message}");
    }
    snapshot("messages.txt", &text);
}
