//! Loops, and functions made from functions: what they compute, and what they emit.

mod common;

use common::*;
use hlo::{
    DType, Dot, Func, Graph, LowerError, Mapped, Shape, Tensor,
    array::Array,
    lower,
    proto::Module,
    scan, scan_whole,
    transform::{Dependence, Dual, Rules, grad, jvp, jvp_with, vjp, vmap},
};
use std::cell::Cell;

// ---- loops against unrolled loops ---------------------------------------------------------------------------------------

/// How many carries, stacked inputs and constants a step has, and its direction.
struct Loop {
    body: Func,
    carries: usize,
    inputs: usize,
    length: usize,
    reverse: bool,
}

impl Loop {
    fn shapes(&self) -> Vec<Shape> {
        let inputs = self.carries..self.carries + self.inputs;
        let shape = |(k, p): (usize, &Tensor)| {
            if inputs.contains(&k) { stacked(self.length, p.shape()) } else { p.shape().clone() }
        };
        self.body.params().iter().enumerate().map(shape).collect()
    }

    fn looped(&self, whole: bool) -> Func {
        Func::trace(&self.shapes(), |g, p| {
            let (c, rest) = p.split_at(self.carries);
            let (x, k) = rest.split_at(self.inputs);
            let run = if whole { scan_whole } else { scan };
            let (last, ys) = run(g, &self.body, self.length, self.reverse, c, x, k);
            last.into_iter().chain(ys).collect()
        })
    }

    fn unrolled(&self) -> Func {
        Func::trace(&self.shapes(), |g, p| {
            let mut carry = p[..self.carries].to_vec();
            let (x, k) = p[self.carries..].split_at(self.inputs);
            let mut rows: Vec<Vec<Tensor>> = vec![Vec::new(); self.body.results().len() - self.carries];
            for step in 0..self.length {
                let t = if self.reverse { self.length - 1 - step } else { step };
                let args: Vec<Tensor> =
                    carry.iter().cloned().chain(x.iter().map(|x| x.at(t))).chain(k.iter().cloned()).collect();
                let out = self.body.call(g, &args);
                carry = out[..self.carries].to_vec();
                for (rows, y) in rows.iter_mut().zip(&out[self.carries..]) {
                    let at = if self.reverse { 0 } else { rows.len() };
                    rows.insert(at, y.clone());
                }
            }
            let ys = rows.iter().map(|r| Tensor::stack(&r.iter().collect::<Vec<_>>()));
            carry.into_iter().chain(ys.collect::<Vec<_>>()).collect()
        })
    }

    /// Values, and the gradient of a fixed random combination of all results, of the loop and of its unrolled form.
    #[track_caller]
    fn check(&self, what: &str) {
        let with_gradient = |f: &Func| {
            let shapes: Vec<Shape> = f.params().iter().map(|p| p.shape().clone()).collect();
            Func::trace(&shapes, |g, p| {
                let pulled = vjp(g, f, p, &vec![true; p.len()]);
                let ct = |r: &Tensor| {
                    let n = r.shape().elements();
                    let ramp = || g.iota(r.shape().with_dims([n]), 0) * 0.7;
                    r.dtype().is_float().then(|| (ramp().cos() + 0.5).reshape(r.dims()))
                };
                let cts: Vec<Option<Tensor>> = pulled.results.iter().map(ct).collect();
                let grads = pulled.pull(&cts).into_iter().zip(p).map(|(g, p)| g.unwrap_or_else(|| p.zeros_like()));
                let grads: Vec<Tensor> = grads.collect();
                pulled.results.into_iter().chain(grads).collect()
            })
        };
        let args = Random(5).arguments(&self.looped(false));
        let want = evaluate(&with_gradient(&self.unrolled()), &args);
        for whole in [false, true] {
            let got = evaluate(&with_gradient(&self.looped(whole)), &args);
            for (k, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_close(&format!("{what}, in one piece: {whole}, result {k}"), got, want, 1e-12);
            }
        }
    }
}

/// h' = tanh(x W + h U), y = sum of h'. Parameters: h [2, 3], x [2, 4], W [4, 3], U [3, 3].
fn recurrent(dtype: DType) -> Func {
    let shapes = [[2, 3], [2, 4], [4, 3], [3, 3]].map(|d| Shape::new(dtype, d));
    Func::trace(&shapes, |_, p| {
        let h = (p[1].dot(&p[2]) + p[0].dot(&p[3])).tanh();
        let y = h.sum(&[1]);
        vec![h, y]
    })
}

#[test]
fn a_loop_is_its_steps() {
    for (length, reverse) in [(5, false), (5, true), (1, false), (1, true)] {
        Loop { body: recurrent(DType::F64), carries: 1, inputs: 1, length, reverse }.check("recurrent layer");
    }
}

#[test]
fn layers_on_layers() {
    // The second layer reads the first, the first reads the second one step late or never.
    for feedback in [false, true] {
        let shapes = [f64s([2, 3]), f64s([2, 3]), f64s([2, 4]), f64s([4, 3]), f64s([3, 3])];
        let body = Func::trace(&shapes, |_, p| {
            let mut drive = p[2].dot(&p[3]) + p[0].dot(&p[4]);
            if feedback {
                drive = drive + &p[1] * 0.5;
            }
            let first = drive.tanh();
            let second = (first.dot(&p[4]) + &p[1] * 0.9).sin();
            let out = second.dot(&p[4]) * &first;
            vec![first, second, out]
        });
        Loop { body, carries: 2, inputs: 1, length: 4, reverse: false }.check("two layers");
    }
}

#[test]
fn odd_steps() {
    let s = || f64s([3]);
    let one = |name: &str, carries, inputs, shapes: &[Shape], f: fn(&Graph, &[Tensor]) -> Vec<Tensor>| {
        for reverse in [false, true] {
            let body = Func::trace(shapes, f);
            Loop { body, carries, inputs, length: 4, reverse }.check(name);
        }
    };
    one("a carry that nobody reads", 2, 1, &[s(), s(), s()], |_, p| vec![&p[0] * &p[2], p[2].sin(), p[0].cos()]);
    one("a carry that never changes", 2, 0, &[s(), s()], |_, p| vec![(&p[0] * &p[1]).sin(), p[1].clone()]);
    one("carries that change places", 2, 0, &[s(), s()], |_, p| vec![p[1].clone(), p[0].sin(), p[0].clone()]);
    one("an unused input and constant", 1, 1, &[s(), s(), s()], |_, p| vec![p[0].sin()]);
    one("the input as output", 1, 1, &[s(), s()], |_, p| vec![&p[0] + &p[1], p[1].clone(), p[1].clone()]);
    one("the constant as output", 1, 0, &[s(), s()], |_, p| vec![&p[0] * &p[1], p[1].sin(), p[1].clone()]);
    one("a fixed number as output", 1, 0, &[s()], |g, p| {
        vec![p[0].sin(), g.full(&f64s([2]), 3.0), g.iota(f64s([2]), 0)]
    });
    one("a carry set to a fixed number", 1, 1, &[s(), s()], |g, p| vec![g.full(&f64s([3]), 2.0), &p[0] * &p[1]]);
    one("a carry set from the input alone", 1, 1, &[s(), s()], |_, p| vec![p[1].sin(), &p[0] * &p[1]]);
    one("the state before the step as output", 1, 1, &[s(), s()], |_, p| vec![(&p[0] * &p[1]).sin(), p[0].clone()]);
    one("a counter beside a state", 2, 0, &[Shape::s32([]), s()], |_, p| {
        let t = p[0].convert(DType::F64).broadcast_to(&[3]);
        vec![&p[0] + 1.0, (&p[1] * &t).sin(), t]
    });
    one("a stopped gradient", 1, 1, &[s(), s()], |_, p| vec![(p[0].stop_gradient() * &p[1]).sin(), p[0].square()]);
}

#[test]
fn a_custom_derivative_in_a_loop() {
    // v' = 0.8 v + x W + z U - z, z = step(v' - 0.2) with a surrogate slope.
    let shapes = [f64s([2, 3]), f64s([2, 3]), f64s([2, 4]), f64s([4, 3]), f64s([3, 3])];
    let body = Func::trace(&shapes, |_, p| {
        let v = &p[0] * 0.8 + p[2].dot(&p[3]) + p[1].dot(&p[4]) - &p[1];
        let over = &v - 0.2;
        let z = over.heaviside().with_derivative(&[(&over, &(1.0 / (over.abs() * 10.0 + 1.0).square()))]);
        vec![v, z.clone(), z]
    });
    let spikes = Loop { body, carries: 2, inputs: 1, length: 6, reverse: false };
    spikes.check("spiking layer");
    // A silent network would agree with anything.
    let z = evaluate(&spikes.looped(false), &Random(5).arguments(&spikes.looped(false)))[2].clone();
    let share = z.iter().sum::<f64>() / z.len() as f64;
    assert!((0.05..0.95).contains(&share), "{share} of the units spike");
}

#[test]
fn a_loop_in_a_loop() {
    // The inner loop runs over the columns of the outer step's input and uses outer values as constants.
    for reverse in [false, true] {
        let inner = Func::trace(&[f64s([2]), f64s([2]), f64s([2])], |_, p| {
            let h = (&p[0] * &p[1] + &p[2]).sin();
            vec![h.clone(), h.square()]
        });
        let body = Func::trace(&[f64s([2]), f64s([3, 2]), f64s([2])], |g, p| {
            let (h, ys) = scan(g, &inner, 3, reverse, &p[..1], &p[1..2], &p[2..]);
            vec![h[0].clone(), ys[0].sum(&[0]) * &p[0]]
        });
        Loop { body, carries: 1, inputs: 1, length: 4, reverse: false }.check("nested loops");
    }
}

#[test]
fn writing_rows_in_a_loop() {
    // The carry is a table; each step writes the row that a counter names and reads the one before.
    let body = Func::trace(&[Shape::s32([]), f64s([6, 2]), f64s([2])], |g, p| {
        let before = p[1].dynamic_slice(&p[0], 1);
        let next = &p[0] + g.scalar(DType::S32, 1.0);
        let row = (before + p[2].reshape(&[1, 2])).sin();
        let table = p[1].dynamic_update(&row, &next);
        vec![next, table, row]
    });
    Loop { body, carries: 2, inputs: 1, length: 5, reverse: false }.check("a table");
}

/// The same function used twice keeps no memory of the first use.
#[test]
fn one_body_in_two_loops() {
    let body = recurrent(DType::F64);
    let shapes = [f64s([2, 3]), f64s([3, 2, 4]), f64s([4, 3]), f64s([3, 3])];
    let double = |runs: usize| {
        Func::trace(&shapes, |g, p| {
            let mut h = p[0].clone();
            for _ in 0..runs {
                h = scan(g, &body, 3, false, &[h], &p[1..2], &p[2..]).0.swap_remove(0);
            }
            let loss = Func::from_values(p.to_vec(), vec![h.square().sum_all()]);
            grad(g, &loss, p).1
        })
    };
    let longer = Func::trace(&shapes, |g, p| {
        let twice = Tensor::concat(&[&p[1], &p[1]], 0);
        let f = Func::trace(&[f64s([2, 3]), f64s([6, 2, 4]), f64s([4, 3]), f64s([3, 3])], |g, q| {
            vec![scan(g, &body, 6, false, &q[..1], &q[1..2], &q[2..]).0.swap_remove(0).square().sum_all()]
        });
        grad(g, &f, &[p[0].clone(), twice, p[2].clone(), p[3].clone()]).1
    });
    let args = Random(2).arguments(&longer);
    let (got, want) = (evaluate(&double(2), &args), evaluate(&longer, &args));
    for k in [0, 2, 3] {
        assert_close(&format!("gradient {k}"), &got[k], &want[k], 1e-12);
    }
}

#[test]
fn vmap_of_a_loop_maps_each_operand() {
    let plain = Loop { body: recurrent(DType::F64), carries: 1, inputs: 1, length: 3, reverse: true };
    let f = plain.looped(false);
    let random = &mut Random(9);
    let samples: Vec<Vec<Array>> = (0..2).map(|_| random.arguments(&f)).collect();
    for mask in [[true, false, false, false], [false, true, false, false], [false, false, true, true], [true; 4]] {
        let shapes: Vec<Shape> = f
            .params()
            .iter()
            .zip(mask)
            .map(|(p, on)| if on { stacked(2, p.shape()) } else { p.shape().clone() })
            .collect();
        let batched = Func::trace(&shapes, |g, p| {
            let args: Vec<Mapped> =
                p.iter().zip(mask).map(|(t, mapped)| Mapped { tensor: t.clone(), mapped }).collect();
            let env = vmap(g, &f, &args, 2);
            f.results().iter().map(|r| env.get(r.value()).materialize(2)).collect()
        });
        let args: Vec<Array> = (0..4)
            .map(|k| match mask[k] {
                true => array(&shapes[k], &[samples[0][k].to_f64_vec(), samples[1][k].to_f64_vec()].concat()),
                false => samples[0][k].clone(),
            })
            .collect();
        let got = evaluate(&batched, &args);
        let run = |i: usize| {
            let args: Vec<Array> = (0..4).map(|k| samples[if mask[k] { i } else { 0 }][k].clone()).collect();
            evaluate(&f, &args)
        };
        let (a, b) = (run(0), run(1));
        for k in 0..got.len() {
            assert_close(&format!("{mask:?}, result {k}"), &got[k], &[a[k].clone(), b[k].clone()].concat(), 1e-12);
        }
    }
}

// ---- what is emitted ----------------------------------------------------------------------------------------------------

/// Sum of squares of the outputs of a recurrent layer of `length` steps, and its gradients.
fn training(length: usize) -> Func {
    let body = recurrent(DType::F32);
    let shapes = [Shape::f32([2, 3]), Shape::f32([length, 2, 4]), Shape::f32([4, 3]), Shape::f32([3, 3])];
    let loss = Func::trace(&shapes, |g, p| {
        let (_, ys) = scan(g, &body, length, false, &p[..1], &p[1..2], &p[2..]);
        vec![ys[0].square().sum_all()]
    });
    Func::trace(&shapes, |g, p| {
        let (values, grads) = grad(g, &loss, p);
        values.into_iter().chain(grads).collect()
    })
}

fn module(f: &Func) -> Module {
    program(f).module
}

#[test]
fn the_external_input_is_one_product_outside_the_loop() {
    let f = Loop { body: recurrent(DType::F32), carries: 1, inputs: 1, length: 7, reverse: false }.looped(false);
    let module = module(&f);
    let bodies = bodies(&module);
    assert_eq!(bodies.len(), 1, "{}", module.to_text());
    assert_eq!(count(bodies[0], "dot"), 1, "only h U stays inside\n{}", module.to_text());
    assert_eq!(count(entry(&module), "dot"), 1, "x W for all steps is one product\n{}", module.to_text());
    let product = entry(&module).instructions.iter().find(|i| i.opcode == "dot").unwrap();
    let sizes = &product.shape.as_ref().unwrap().dimensions;
    assert_eq!(sizes.iter().product::<i64>(), 7 * 2 * 3, "{}", module.to_text());
}

#[test]
fn a_plain_loop_keeps_everything_inside() {
    let f = Loop { body: recurrent(DType::F32), carries: 1, inputs: 1, length: 7, reverse: false }.looped(true);
    let module = module(&f);
    assert_eq!((count(bodies(&module)[0], "dot"), count(entry(&module), "dot")), (2, 0), "{}", module.to_text());
}

/// The reverse loop carries cotangents of the state; those of the weights are one product each, over all steps.
#[test]
fn weight_cotangents_leave_the_reverse_loop() {
    let module = module(&training(7));
    let text = module.to_text();
    let bodies = bodies(&module);
    assert_eq!(bodies.len(), 2, "one loop forward, one back\n{text}");
    for body in &bodies {
        assert_eq!(count(body, "dot"), 1, "{text}");
        // No weight-sized sum in a step: the only value of the recurrent weight's size is the weight itself.
        let sums = body.instructions.iter().filter(|i| {
            i.opcode == "add" && i.shape.as_ref().is_some_and(|s| s.dimensions == [3, 3] || s.dimensions == [4, 3])
        });
        assert_eq!(sums.count(), 0, "{text}");
    }
    // x W, dW, dU, and dx.
    assert_eq!(count(entry(&module), "dot"), 4, "{text}");
}

#[test]
fn code_does_not_grow_with_the_length() {
    let (short, long) = (module(&training(10)), module(&training(1000)));
    assert_eq!(instructions(&short), instructions(&long));
    // Sizes are written as varints: a few bytes more for each larger number.
    let (a, b) = (short.to_bytes().len(), long.to_bytes().len());
    assert!(b < a + a / 10, "{a} bytes for 10 steps, {b} for 1000");
}

#[test]
fn the_same_program_gives_the_same_bytes() {
    let bytes = || module(&training(10)).to_bytes();
    let first = bytes();
    for _ in 0..5 {
        assert!(bytes() == first, "lowering depends on something besides the program");
    }
}

#[test]
fn results_nobody_needs_are_not_emitted() {
    let f = Func::trace(&[Shape::f32([3])], |_, p| {
        let _unused = p[0].exp().dot(&p[0]);
        vec![p[0].sin()]
    });
    let module = module(&f);
    let opcodes: Vec<&str> = entry(&module).instructions.iter().map(|i| i.opcode.as_str()).collect();
    assert_eq!(opcodes, ["parameter", "sine", "tuple"]);

    // Neither are the stacks of outputs that nobody reads, nor forward values of a gradient that does not need them.
    let body = recurrent(DType::F32);
    let shapes = [Shape::f32([2, 3]), Shape::f32([7, 2, 4]), Shape::f32([4, 3]), Shape::f32([3, 3])];
    let last = Func::trace(&shapes, |g, p| scan(g, &body, 7, false, &p[..1], &p[1..2], &p[2..]).0);
    let module = program(&last).module;
    assert_eq!(count(bodies(&module)[0], "dynamic-update-slice"), 0, "{}", module.to_text());
}

#[test]
fn equal_operations_are_one() {
    let f = Func::trace(&[Shape::f32([3]), Shape::f32([3])], |_, p| {
        let (a, b) = ((&p[0] * &p[1]).tanh(), (&p[0] * &p[1]).tanh());
        assert_eq!(a.value(), b.value());
        assert_ne!((&p[1] * &p[0]).tanh().value(), a.value(), "operands are not reordered");
        vec![a + b]
    });
    let module = module(&f);
    assert_eq!((count(entry(&module), "multiply"), count(entry(&module), "tanh")), (1, 1));

    // Other attributes are another operation.
    let g = Graph::new();
    let x = g.parameter(0, Shape::f32([2, 2]));
    assert_ne!(x.sum(&[0]).value(), x.sum(&[1]).value());
    assert_ne!(x.sum(&[0]).value(), x.max(&[0]).value());
    assert_ne!(g.scalar(DType::F32, 0.0).value(), g.scalar(DType::F64, 0.0).value());
    assert_ne!(g.placeholder(Shape::f32([2])).value(), g.placeholder(Shape::f32([2])).value());
}

#[test]
fn neutral_constants_are_not_emitted() {
    let f = Func::trace(&[Shape::f32([3])], |g, p| {
        let (zero, one) = (p[0].zeros_like(), p[0].full_like(1.0));
        let x = (&(&(&p[0] + &zero) * &one) / &one) - &zero;
        assert_eq!(x.value(), p[0].value());
        assert_eq!((&p[0] * &zero).as_constant(), Some(0.0));
        assert_eq!((&one + 2.0).as_constant(), Some(3.0));
        assert_eq!(g.scalar(DType::S32, 3.0).convert(DType::F32).as_constant(), Some(3.0));
        assert_eq!(g.scalar(DType::F32, 3.7).convert(DType::S32).as_constant(), None, "rounding is the device's");
        vec![x]
    });
    assert_eq!(instructions(&module(&f)), 2);
}

#[test]
fn derivative_labels_are_not_emitted() {
    let f = Func::trace(&[Shape::f32([3])], |_, p| {
        let slope = p[0].exp();
        vec![p[0].heaviside().with_derivative(&[(&p[0], &slope)]).tag("kind", "label", &[&slope]).stop_gradient()]
    });
    assert_eq!(count(entry(&module(&f)), "exponential"), 0);
}

#[test]
fn names_and_donations_are_checked() {
    let f = Func::trace(&[Shape::f32([3]), Shape::f32([2])], |_, p| vec![p[0].sin()]);
    let names = |n: &[&str]| n.iter().map(ToString::to_string).collect::<Vec<_>>();
    let lowered = |args: &[&str], donations: &[(usize, usize)]| lower("p", &f, &names(args), &names(&["y"]), donations);
    assert!(matches!(lowered(&["x"], &[]), Err(LowerError::Names { what: "arguments", names: 1, count: 2 })));
    assert!(matches!(lowered(&["x", "b"], &[(1, 0)]), Err(LowerError::Donation { .. })));
    let program = lowered(&["x", "b"], &[(0, 0)]).unwrap();
    assert_eq!(program.arguments[0].donated_to, Some(0));
    assert!(program.module.to_text().contains("input_output_alias={ {0}: (0, {}, may-alias) }"));
}

// ---- derivatives with rules -----------------------------------------------------------------------------------------------

/// y = sin(x²), and the value x² inside.
fn sine_of_square() -> (Func, Tensor) {
    let inner = Cell::new(None);
    let f = Func::trace(&[f64s([])], |_, p| {
        let square = p[0].square();
        inner.set(Some(square.clone()));
        vec![square.sin()]
    });
    (f, inner.into_inner().unwrap())
}

/// The tangent of the last result under `rules`, at x = 1.5 with dx = 1; `None` if there is none.
fn tangent_under<'a>(f: &Func, seeded: bool, rules: impl Fn(&Graph) -> Rules<'a>) -> Option<f64> {
    let found = Cell::new(true);
    let whole = Func::trace(&[f64s([])], |g, p| {
        let args = [Dual { primal: p[0].clone(), tangent: seeded.then(|| p[0].full_like(1.0)) }];
        let env = jvp_with(g, f, &args, &rules(g));
        let tangent = env.get(f.results().last().unwrap().value()).tangent.clone();
        found.set(tangent.is_some());
        vec![tangent.unwrap_or_else(|| p[0].clone())]
    });
    let value = evaluate(&whole, &[doubles(&[1.5], [])])[0][0];
    found.get().then_some(value)
}

#[test]
fn rules_of_a_derivative() {
    let (f, square) = sine_of_square();
    let v = square.value();
    let is = |got: Option<f64>, want: f64| assert_close("tangent", &[got.expect("a tangent")], &[want], 1e-14);
    let x: f64 = 1.5;
    is(tangent_under(&f, true, |_| Rules::default()), (x * x).cos() * 2.0 * x);
    // Held constant: no derivative at all.
    assert_eq!(tangent_under(&f, true, |_| Rules { cut: [v].into(), ..Rules::default() }), None);
    // Perturbed by 1, with the argument fixed: the derivative from there on.
    let perturb = |g: &Graph| Rules { perturb: [(v, g.scalar(DType::F64, 1.0))].into(), ..Rules::default() };
    is(tangent_under(&f, false, perturb), (x * x).cos());
    // Cut and perturbed: the same, whatever the argument does.
    is(tangent_under(&f, true, |g| Rules { cut: [v].into(), ..perturb(g) }), (x * x).cos());
    // Both: the sum.
    is(tangent_under(&f, true, perturb), (x * x).cos() * (2.0 * x + 1.0));
    // A known value takes the place of the computed one; its tangent is still that of x².
    is(
        tangent_under(&f, true, |g| Rules { known: [(v, g.scalar(DType::F64, 0.3))].into(), ..Rules::default() }),
        0.3f64.cos() * 2.0 * x,
    );
}

#[test]
fn only_chosen_consumers_see_a_perturbation() {
    // s = x², y = sin(s) + exp(s): only the exponential sees s moved.
    let place = Cell::new(None);
    let f = Func::trace(&[f64s([])], |_, p| {
        let square = p[0].square();
        let exp = square.exp();
        place.set(Some((square.value(), exp.value().node)));
        vec![square.sin() + exp]
    });
    let (square, exp) = place.get().unwrap();
    let sees = move |consumer: usize, _| consumer == exp;
    let whole = Func::trace(&[f64s([])], |g, p| {
        let perturb = [(square, g.scalar(DType::F64, 1.0))].into();
        let rules = Rules { perturb, sees: Some(&sees), ..Rules::default() };
        let env = jvp_with(g, &f, &[Dual { primal: p[0].clone(), tangent: None }], &rules);
        vec![env.get(f.results()[0].value()).tangent.clone().unwrap()]
    });
    assert_close("tangent", &evaluate(&whole, &[doubles(&[0.5], [])])[0], &[0.25f64.exp()], 1e-14);
}

/// "Results always do": a perturbed value that is itself a result shows the perturbation.
#[test]
fn a_result_sees_its_own_perturbation() {
    let (f, square) = sine_of_square();
    let f = f.with_results(vec![f.results()[0].clone(), square.clone()]);
    let nobody = |_: usize, _| false;
    let rules = |g: &Graph| Rules {
        perturb: [(square.value(), g.scalar(DType::F64, 1.0))].into(),
        sees: Some(&nobody),
        ..Rules::default()
    };
    assert_eq!(tangent_under(&f, false, rules), Some(1.0));
    assert_eq!(tangent_under(&f, true, rules), Some(4.0));
}

/// A known value spares the computation of what only it needs.
#[test]
fn known_values_are_not_computed_again() {
    let place = Cell::new(None);
    let f = Func::trace(&[Shape::f32([3]), Shape::f32([3])], |_, p| {
        let inner = p[0].exp();
        let y = inner.tanh();
        place.set(Some(y.value()));
        vec![&y * &p[1]]
    });
    let y = place.get().unwrap();
    let whole = Func::trace(&[Shape::f32([3]), Shape::f32([3]), Shape::f32([3])], |g, p| {
        let rules = Rules { known: [(y, p[2].clone())].into(), ..Rules::default() };
        let args = [
            Dual { primal: p[0].clone(), tangent: None },
            Dual { primal: p[1].clone(), tangent: Some(p[1].full_like(1.0)) },
        ];
        vec![jvp_with(g, &f, &args, &rules).get(f.results()[0].value()).tangent.clone().unwrap()]
    });
    let spared = program(&whole).module;
    assert_eq!(instructions(&spared), 4, "{}", spared.to_text());
    // Also where the derivative is written with the value itself, as tanh' = 1 - y².
    let whole = Func::trace(&[Shape::f32([3]), Shape::f32([3]), Shape::f32([3])], |g, p| {
        let rules = Rules { known: [(y, p[2].clone())].into(), ..Rules::default() };
        let args = [
            Dual { primal: p[0].clone(), tangent: Some(p[0].full_like(1.0)) },
            Dual { primal: p[1].clone(), tangent: None },
        ];
        vec![jvp_with(g, &f, &args, &rules).get(f.results()[0].value()).tangent.clone().unwrap()]
    });
    let spared = program(&whole).module;
    assert_eq!(count(entry(&spared), "tanh"), 0, "{}", spared.to_text());
}

#[test]
fn no_dependence_is_no_tangent() {
    let f = Func::trace(&[f64s([2]), f64s([2])], |_, p| vec![p[0].sin(), p[1].stop_gradient(), p[0].clone()]);
    let g = Graph::new();
    let (x, y) = (g.parameter(0, f64s([2])), g.parameter(1, f64s([2])));
    let dual = |t: &Tensor, on: bool| Dual { primal: t.clone(), tangent: on.then(|| t.full_like(1.0)) };
    let out = jvp(&g, &f, &[dual(&x, false), dual(&y, true)]);
    assert!(out.iter().all(|d| d.tangent.is_none()));
    let pulled = vjp(&g, &f, &[x.clone(), y.clone()], &[true, true]);
    let found = pulled.pull(&[None, Some(y.clone()), Some(x.clone())]);
    assert_eq!(found[0].as_ref().map(Tensor::value), Some(x.value()), "the identity hands its cotangent back");
    assert!(found[1].is_none());
    // Not chosen, or not floating-point.
    assert!(vjp(&g, &f, &[x.clone(), y], &[false, true]).pull(&[Some(x.clone()), None, None])[0].is_none());
}

#[test]
fn dependence_follows_uses() {
    let f = Func::trace(&[f64s([2]), f64s([2])], |_, p| {
        let a = p[0].sin();
        vec![&a * &p[1], p[1].cos(), a]
    });
    let on_first = Dependence::any(&f, &[f.params()[0].value()]);
    let has: Vec<bool> = f.results().iter().map(|r| on_first.has(r.value())).collect();
    assert_eq!(has, [true, false, true]);
    // A border that is not crossed.
    let stopped = Dependence::new(&f, &[f.params()[0].value()], |node, _| node.op.name() != "sine");
    assert!(!stopped.has(f.results()[0].value()) && stopped.has(f.params()[0].value()));
}

#[test]
fn what_is_not_mapped_is_computed_once() {
    let f = Func::trace(&[Shape::f32([3]), Shape::f32([3])], |_, p| vec![p[0].exp() * &p[1], p[0].sin()]);
    let batched = Func::trace(&[Shape::f32([3]), Shape::f32([5, 3])], |g, p| {
        let args = [false, true].iter().zip(p).map(|(&mapped, t)| Mapped { tensor: t.clone(), mapped });
        let env = vmap(g, &f, &args.collect::<Vec<_>>(), 5);
        assert!(!env.get(f.results()[1].value()).mapped);
        vec![env.get(f.results()[0].value()).tensor.clone()]
    });
    let module = module(&batched);
    let exp = entry(&module).instructions.iter().find(|i| i.opcode == "exponential").unwrap();
    assert_eq!(exp.shape.as_ref().unwrap().dimensions, [3]);
}

/// A few long rows are added up row by row; many, or short ones, by a reduction. The host finds the same.
#[test]
fn long_rows_are_combined_one_after_the_other() {
    for (rows, length, by_row) in
        [(1, 2048, true), (5, 2100, true), (32, 2048, true), (33, 2048, false), (5, 2047, false)]
    {
        let shape = f64s([rows, length]);
        let f = Func::trace(std::slice::from_ref(&shape), |_, p| vec![p[0].sum(&[0]), p[0].max(&[0]), p[0].min(&[0])]);
        let module = program(&f).module;
        let (reduced, sliced) = (count(entry(&module), "reduce"), count(entry(&module), "slice"));
        // A single row is there already.
        let want = if !by_row {
            (3, 0)
        } else if rows == 1 {
            (0, 0)
        } else {
            (0, 3 * rows)
        };
        assert_eq!((reduced, sliced), want, "{rows} rows of {length}");
        evaluate(&f, &[Random(7).signed(&shape)]);
    }
}

/// A large array is made once, by a loop; a small one stays an expression.
#[test]
fn large_arrays_settle() {
    for (rows, loops) in [(3, 0), (4100, 1)] {
        let shape = Shape::f32([rows, 32]);
        let f = Func::trace(std::slice::from_ref(&shape), |_, p| vec![(&p[0] * &p[0]).settle().transpose(&[1, 0])]);
        assert_eq!(count(entry(&program(&f).module), "while"), loops, "{rows} rows");
        evaluate(&f, &[Random(3).signed(&shape)]);
    }
}

/// What is combined to one value is folded into an eighth of its rows, and again, while that is worth it.
#[test]
fn many_elements_are_folded_before_they_are_combined() {
    for (dims, folds) in [([64, 256], 1), ([512, 256], 2), ([63, 300], 0), ([8, 2047], 0)] {
        let shape = f64s(dims);
        let f =
            Func::trace(std::slice::from_ref(&shape), |_, p| vec![p[0].sum_all(), p[0].max_all(), p[0].min(&[0, 1])]);
        let module = program(&f).module;
        let (reduced, sliced) = (count(entry(&module), "reduce"), count(entry(&module), "slice"));
        assert_eq!((reduced, sliced), (3, 3 * 8 * folds), "{dims:?}");
        evaluate(&f, &[Random(7).signed(&shape)]);
    }
}

/// The derivative of an array that was taken apart is put together, not added up.
#[test]
fn neighbouring_parts_of_a_derivative_are_joined() {
    let shape = f64s([6, 3]);
    let f = Func::trace(std::slice::from_ref(&shape), |g, p| {
        let parts = Func::trace(std::slice::from_ref(&shape), |_, w| {
            vec![
                w[0].slice_axis(0, 0, 1).square(),
                w[0].slice_axis(0, 3, 6).square(),
                w[0].slice_axis(0, 1, 3).square(),
            ]
        });
        let pulled = vjp(g, &parts, &[p[0].clone()], &[true]);
        let cotangents: Vec<Option<Tensor>> = pulled.results.iter().map(|t| Some(t * 0.5)).collect();
        pulled.pull(&cotangents).into_iter().flatten().collect()
    });
    let module = program(&f).module;
    assert_eq!(["concatenate", "pad"].map(|op| count(entry(&module), op)), [2, 0]);
    evaluate(&f, &[Random(5).signed(&shape)]);
    // Parts with a gap between them, and parts that lie on each other, are added.
    let g = Graph::new();
    let x = g.parameter(0, f64s([2, 3]));
    for (low, high, joined) in
        [([2, 0], [1, 0], true), ([3, 0], [0, 0], false), ([1, 0], [2, 0], false), ([0, 1], [3, 0], false)]
    {
        let other = if joined || low[1] == 0 { x.clone() } else { x.slice_axis(1, 0, 2) };
        let sum = x.pad(&[0, 0], &[3, 0]) + other.pad(&low, &high);
        assert_eq!(sum.node().op.name() == "pad", joined, "{low:?}");
    }
}

/// The gradient of a large weight with a wide input is formed the other way round, and is the same.
#[test]
fn a_wide_gradient_is_formed_turned() {
    for (rows, inputs, units, turned) in
        [([2, 30], 3300, 40, true), ([2, 20], 3300, 40, false), ([2, 30], 3200, 40, false), ([20, 30], 362, 363, false)]
    {
        let [x, y] = [inputs, units].map(|n| f64s([rows[0], rows[1], n]));
        let f = Func::trace(&[x.clone(), y.clone()], |_, p| {
            let dot = Dot { lhs_contract: vec![0, 1], rhs_contract: vec![0, 1], ..Dot::default() };
            let gradient = p[0].dot_general(&p[1], dot);
            assert_eq!(gradient.dims(), [inputs, units]);
            assert_eq!(gradient.turned().turned().dims(), [inputs, units]);
            vec![gradient]
        });
        assert_eq!(count(entry(&program(&f).module), "transpose"), usize::from(turned), "{inputs} x {units}");
        evaluate(&f, &[Random(3).signed(&x), Random(4).signed(&y)]);
    }
}
