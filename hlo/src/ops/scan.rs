//! The loop: a step applied along the first axis of its inputs, carrying a state.
//!
//! ```text
//! carry_0 = init
//! (carry_{t+1}, y_t) = body(carry_t, x_t, consts)        t = 0 .. T-1, or T-1 .. 0 when reversed
//! result: carry_T, and all y_t stacked along a new first axis
//! ```
//!
//! It lowers to one `while`, so code size and compile time do not depend on T. Loops are built with
//! [`scan`], which leaves only the recurrence inside.

use std::rc::Rc;

use crate::{
    evaluate::{Evaluator, HostValue},
    func::Func,
    graph::Tensor,
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    shape::Shape,
    transform::{
        recurrence::scan,
        scan_derivative::{linearize, transpose},
        vmap,
    },
};

/// A loop over `length` steps. Operands: initial carries, stacked inputs, constants.
#[derive(Clone, Debug)]
pub struct Scan {
    /// One step: (carries, inputs of the step, constants) to (carries, outputs of the step).
    pub body: Func,
    /// Number of steps.
    pub length: usize,
    /// From the last step to the first.
    pub reverse: bool,
    /// How many carries.
    pub carries: usize,
    /// How many stacked inputs.
    pub inputs: usize,
}

fn stacked(length: usize, shape: &Shape) -> Shape {
    shape.with_dims(std::iter::once(length).chain(shape.dims.iter().copied()).collect::<Vec<_>>())
}

/// Splits operands (or their tangents) into carries, inputs and constants.
pub(crate) fn parts<'a, T>(scan: &Scan, all: &'a [T]) -> (&'a [T], &'a [T], &'a [T]) {
    let (carries, rest) = all.split_at(scan.carries);
    let (inputs, consts) = rest.split_at(scan.inputs);
    (carries, inputs, consts)
}

impl Primitive for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn infer(&self, args: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let want = self.body.params();
        if args.len() != want.len() {
            return Err(ShapeError(format!(
                "scan: the body takes {} values (carries, inputs, constants), got {}; pass one for each",
                want.len(),
                args.len()
            )));
        }
        if self.length == 0 {
            return Err(ShapeError("scan: a loop has at least one step, got 0; leave the loop out".into()));
        }
        if self.carries > self.body.results().len() {
            return Err(ShapeError(format!(
                "scan: the body must return every carry, got {} results for {} carries; return the new carries first",
                self.body.results().len(),
                self.carries
            )));
        }
        for (k, (arg, param)) in args.iter().zip(want).enumerate() {
            let is_input = (self.carries..self.carries + self.inputs).contains(&k);
            let expected = if is_input { stacked(self.length, param.shape()) } else { param.shape().clone() };
            if **arg != expected {
                let role = if k < self.carries {
                    "carry"
                } else if is_input {
                    "stacked input"
                } else {
                    "constant"
                };
                return Err(ShapeError(format!(
                    "scan: {role} (operand {k}) must be {expected}, got {arg}; check the body's parameters"
                )));
            }
        }
        let results = self.body.results();
        for k in 0..self.carries {
            if results[k].shape() != want[k].shape() {
                return Err(ShapeError(format!(
                    "scan: a carry must keep its shape, got {} from {} (carry {k}); convert or broadcast inside the body",
                    results[k].shape(),
                    want[k].shape()
                )));
            }
        }
        let shapes = results.iter().enumerate();
        Ok(shapes
            .map(|(k, r)| if k < self.carries { r.shape().clone() } else { stacked(self.length, r.shape()) })
            .collect())
    }

    fn jvp(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        unreachable!("scan: differentiated through `linearize`")
    }

    fn linearize(&self, args: &[Tensor], tangents: &[Option<Tensor>]) -> Option<(Vec<Tensor>, Vec<Option<Tensor>>)> {
        Some(linearize(self, args, tangents))
    }

    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        transpose(self, args, linear, cotangents)
    }

    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        let graph = args[0].tensor.graph().clone();
        let swap = |t: &Tensor| t.transpose(&[1, 0].into_iter().chain(2..t.rank()).collect::<Vec<_>>());
        let (carries, inputs, consts) = parts(self, args);
        let carries: Vec<Tensor> = carries.iter().map(|c| c.materialize(size)).collect();
        let outer: Vec<Tensor> =
            inputs.iter().map(|x| if x.mapped { swap(&x.tensor) } else { x.tensor.clone() }).collect();
        let mapped: Vec<bool> =
            (0..self.carries).map(|_| true).chain(args[self.carries..].iter().map(|a| a.mapped)).collect();
        let shapes: Vec<Shape> = (self.body.params().iter().zip(&mapped))
            .map(|(p, &m)| if m { stacked(size, p.shape()) } else { p.shape().clone() })
            .collect();
        let body = Func::trace(&shapes, |g, params| {
            let args: Vec<Mapped> =
                params.iter().zip(&mapped).map(|(t, &m)| Mapped { tensor: t.clone(), mapped: m }).collect();
            let env = vmap(g, &self.body, &args, size);
            self.body.results().iter().map(|r| env.get(r.value()).materialize(size)).collect()
        });
        let consts: Vec<Tensor> = consts.iter().map(|c| c.tensor.clone()).collect();
        let (carry, ys) = scan(&graph, &body, self.length, self.reverse, &carries, &outer, &consts);
        carry.into_iter().chain(ys.iter().map(swap)).map(|tensor| Mapped { tensor, mapped: true }).collect()
    }

    fn evaluate(&self, args: &[&HostValue], results: &[Shape]) -> Vec<HostValue> {
        let (carries, inputs, consts) = parts(self, args);
        let shared = |values: &[&HostValue]| values.iter().map(|v| Rc::new((*v).clone())).collect::<Vec<_>>();
        let (mut carried, consts) = (shared(carries), shared(consts));
        let mut stacks: Vec<HostValue> =
            results[self.carries..].iter().map(|s| HostValue::full(s.clone(), 0.0)).collect();
        let body = Evaluator::new(&self.body);
        for step in 0..self.length {
            let at = if self.reverse { self.length - 1 - step } else { step };
            let mut step_args = carried;
            step_args.extend(inputs.iter().zip(&self.body.params()[self.carries..]).map(|(stack, param)| {
                let size = param.shape().elements();
                Rc::new(HostValue::new(param.shape().clone(), stack.data[at * size..][..size].to_vec()))
            }));
            step_args.extend(consts.iter().cloned());
            carried = body.run(&step_args);
            for (stack, row) in stacks.iter_mut().zip(carried.split_off(self.carries)) {
                stack.data[at * row.data.len()..][..row.data.len()].copy_from_slice(&row.data);
            }
        }
        carried.iter().map(|v| (**v).clone()).chain(stacks).collect()
    }

    fn emit(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape]) -> Vec<i64> {
        self.emit_used(e, args, results, &vec![true; results.len()])
    }

    fn emit_used(&self, e: &mut Emitter<'_>, args: &[i64], results: &[Shape], used: &[bool]) -> Vec<i64> {
        let kept: Vec<usize> = (self.carries..results.len()).filter(|&k| used[k]).collect();
        let body = self.body.with_results(
            (0..self.carries).chain(kept.iter().copied()).map(|k| self.body.results()[k].clone()).collect(),
        );
        let mut state = args.to_vec();
        for &k in &kept {
            // Every row is overwritten. Stacks that begin alike would be made once, and copied for each loop.
            let any = e.distinct(results[k].dtype);
            state.push(e.push("broadcast", &results[k], &[any], |_| {}));
        }
        let (length, carries, inputs) = (self.length, self.carries, self.inputs);
        let done = e.counted_loop(length, &state, |e, counter, state| {
            let at = if self.reverse {
                let last = e.constant(crate::DType::S32, (length - 1) as f64);
                e.push("subtract", &Shape::s32([]), &[last, counter], |_| {})
            } else {
                counter
            };
            let mut args = state[..body.params().len()].to_vec();
            for arg in &mut args[carries..carries + inputs] {
                *arg = e.row(*arg, at);
            }
            let out = e.inline(&body, &args);
            let mut new = state.to_vec();
            new[..carries].copy_from_slice(&out[..carries]);
            for (slot, &row) in new[body.params().len()..].iter_mut().zip(&out[carries..]) {
                *slot = e.set_row(*slot, row, at);
            }
            new
        });
        let mut stacks = done[self.body.params().len()..].iter();
        (0..results.len())
            .map(|k| {
                if k < carries {
                    done[k]
                } else if used[k] {
                    *stacks.next().unwrap_or(&done[0])
                } else {
                    done[0]
                }
            })
            .collect()
    }

    fn key(&self) -> Option<String> {
        let Scan { length, reverse, carries, inputs, .. } = self;
        Some(format!("scan {length} {reverse} {carries} {inputs} {}", self.body.fingerprint()?))
    }
}

impl Emitter<'_> {
    fn row_position(&mut self, rank: usize, at: i64) -> Vec<i64> {
        let zero = self.constant(crate::DType::S32, 0.0);
        std::iter::once(at).chain(std::iter::repeat_n(zero, rank - 1)).collect()
    }

    /// Row `at` of the first axis, without that axis.
    fn row(&mut self, stack: i64, at: i64) -> i64 {
        let shape = self.shape(stack).clone();
        let mut dims = shape.dims.clone();
        dims[0] = 1;
        let mut operands = vec![stack];
        operands.extend(self.row_position(shape.rank(), at));
        let slice = self.push("dynamic-slice", &shape.with_dims(dims.clone()), &operands, |i| {
            i.dynamic_slice_sizes = dims.iter().map(|&d| d as i64).collect();
        });
        self.push("reshape", &shape.with_dims(&dims[1..]), &[slice], |_| {})
    }

    /// The stack with row `at` replaced.
    fn set_row(&mut self, stack: i64, row: i64, at: i64) -> i64 {
        let shape = self.shape(stack).clone();
        let mut dims = shape.dims.clone();
        dims[0] = 1;
        let row = self.push("reshape", &shape.with_dims(dims), &[row], |_| {});
        let mut operands = vec![stack, row];
        operands.extend(self.row_position(shape.rank(), at));
        self.push("dynamic-update-slice", &shape, &operands, |_| {})
    }
}
