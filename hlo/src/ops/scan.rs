//! The loop: a step applied along the first axis of its inputs, carrying a state.
//!
//! ```text
//! carry_0 = init
//! (carry_{t+1}, y_t) = body(carry_t, x_t, consts)        t = 0 .. T-1, or T-1 .. 0 when reversed
//! result: carry_T, and all y_t stacked along a new first axis
//! ```
//!
//! It lowers to one `while`, so code size and compile time do not depend on T.
//!
//! **Hoisting.** [`scan`] moves two kinds of work out of the loop before it is built: what depends on `consts` alone is
//! computed once; and matrix products that do not depend on the carry are computed for all steps with one large product
//! (the external input of a recurrent network, for one).
//!
//! **Derivative.** [`Primitive::linearize`] splits the differentiated body: one loop computes values and stacks the
//! *residuals* that the derivative needs, a second loop is linear in the tangents. Its transpose is a loop in the other
//! direction. Because the second loop is hoisted too, a product `x_t dW` with a constant weight leaves it, and the
//! cotangent of the weight becomes one product over all steps instead of a weight-sized sum in every step.

use std::collections::HashMap;

use crate::{
    func::{Func, is_parameter},
    graph::{Graph, Tensor, Value},
    lower::Emitter,
    op::{Mapped, Primitive, ShapeError},
    shape::Shape,
    transform::{Dependence, Dual, Rules, jvp_with, pullback, vmap},
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
fn parts<'a, T>(scan: &Scan, all: &'a [T]) -> (&'a [T], &'a [T], &'a [T]) {
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
        for (k, (arg, param)) in args.iter().zip(want).enumerate() {
            let is_input = (self.carries..self.carries + self.inputs).contains(&k);
            let expected = if is_input { stacked(self.length, param.shape()) } else { param.shape().clone() };
            if **arg != expected {
                let role = if k < self.carries { "carry" } else if is_input { "stacked input" } else { "constant" };
                return Err(ShapeError(format!("scan: {role} (operand {k}) must be {expected}, got {arg}; check the body's parameters")));
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
        Ok(shapes.map(|(k, r)| if k < self.carries { r.shape().clone() } else { stacked(self.length, r.shape()) }).collect())
    }

    fn jvp(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        unreachable!("scan: differentiated through `linearize`")
    }

    fn linearize(&self, args: &[Tensor], tangents: &[Option<Tensor>]) -> Option<(Vec<Tensor>, Vec<Option<Tensor>>)> {
        Some(Linearized::new(self, tangents).apply(self, args, tangents))
    }

    fn transpose(&self, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        transpose(self, args, linear, cotangents)
    }

    fn batch(&self, args: &[Mapped], size: usize) -> Vec<Mapped> {
        let graph = args[0].tensor.graph().clone();
        let swap = |t: &Tensor| t.transpose(&[1, 0].into_iter().chain(2..t.rank()).collect::<Vec<_>>());
        let (carries, inputs, consts) = parts(self, args);
        let carries: Vec<Tensor> = carries.iter().map(|c| c.materialize(size)).collect();
        let outer: Vec<Tensor> = inputs.iter().map(|x| if x.mapped { swap(&x.tensor) } else { x.tensor.clone() }).collect();
        let mapped: Vec<bool> = (0..self.carries).map(|_| true).chain(args[self.carries..].iter().map(|a| a.mapped)).collect();
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
            let zero = e.constant(results[k].dtype, 0.0);
            state.push(e.push("broadcast", &results[k], &[zero], |_| {}));
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
            .map(|k| if k < carries { done[k] } else if used[k] { *stacks.next().unwrap_or(&done[0]) } else { done[0] })
            .collect()
    }

    fn key(&self) -> Option<String> {
        None
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

/// Runs `body` for `length` steps; see the [module](self). Returns the final carries and the stacked outputs.
#[track_caller]
pub fn scan(
    graph: &Graph,
    body: &Func,
    length: usize,
    reverse: bool,
    carries: &[Tensor],
    inputs: &[Tensor],
    consts: &[Tensor],
) -> (Vec<Tensor>, Vec<Tensor>) {
    let whole = Scan { body: body.clone(), length, reverse, carries: carries.len(), inputs: inputs.len() };
    let operands: Vec<&Tensor> = carries.iter().chain(inputs).chain(consts).collect();
    if let Err(error) = whole.infer(&operands.iter().map(|t| t.shape()).collect::<Vec<_>>()) {
        panic!("{error}");
    }
    let hoisted = Hoisted::new(graph, &whole, inputs, consts);
    let scan = Scan { body: hoisted.body, inputs: hoisted.inputs.len(), ..whole };
    let operands: Vec<&Tensor> = carries.iter().chain(&hoisted.inputs).chain(&hoisted.consts).collect();
    let mut results = graph.apply_rc(std::rc::Rc::new(scan), &operands);
    let kept: Vec<Tensor> = results.split_off(carries.len());
    let mut kept = kept.into_iter();
    let ys = hoisted.outputs.into_iter().map(|y| y.unwrap_or_else(|| kept.next().expect("one stack for each kept output")));
    (results, ys.collect())
}

/// A loop whose carry-independent products and constants were moved out.
struct Hoisted {
    body: Func,
    inputs: Vec<Tensor>,
    consts: Vec<Tensor>,
    /// For each output of the original body: its stack, if it could be computed outside.
    outputs: Vec<Option<Tensor>>,
}

impl Hoisted {
    fn new(graph: &Graph, scan: &Scan, inputs: &[Tensor], consts: &[Tensor]) -> Hoisted {
        let body = &scan.body;
        let values = |ts: &[Tensor]| ts.iter().map(Tensor::value).collect::<Vec<_>>();
        let (carry_params, input_params, const_params) = parts(scan, body.params());
        let on_carry = Dependence::any(body, &values(carry_params));
        let on_input = Dependence::any(body, &values(input_params));
        let on_const = Dependence::any(body, &values(const_params));
        let live = body.live(false);
        // Products that can be made for all steps at once, and what follows from them.
        let mut with_product = vec![false; body.graph().len()];
        for (index, node) in &live {
            with_product[*index] = on_input.has_node(*index)
                && !on_carry.has_node(*index)
                && (node.op.name() == "dot" || node.operands.iter().any(|o| with_product[o.node]));
        }
        let per_step = |v: Value| !on_carry.has(v) && on_input.has(v);
        let constant = |v: Value| !on_carry.has(v) && !on_input.has(v) && on_const.has(v);

        // The frontier: hoistable values that the remaining body reads.
        let mut frontier: Vec<Value> = Vec::new();
        let mut remaining = vec![false; body.graph().len()];
        let mut outputs_outside = vec![false; body.results().len()];
        let mut stack: Vec<Value> = Vec::new();
        for (k, r) in body.results().iter().enumerate() {
            outputs_outside[k] = k >= scan.carries && (per_step(r.value()) || constant(r.value()));
            if !outputs_outside[k] {
                stack.push(r.value());
            }
        }
        let hoistable = |v: Value| {
            let node = body.graph().node(v.node);
            let moves = !matches!(node.op.name(), "broadcast" | "reshape" | "tag");
            !is_parameter(&node) && ((constant(v) && moves) || with_product[v.node])
        };
        while let Some(v) = stack.pop() {
            if hoistable(v) {
                if !frontier.contains(&v) {
                    frontier.push(v);
                }
            } else if !remaining[v.node] {
                remaining[v.node] = true;
                stack.extend(body.graph().node(v.node).operands);
            }
        }
        frontier.sort();

        // Values outside, for all steps.
        let mut outside_results: Vec<Tensor> = frontier.iter().map(|&v| body.graph().tensor(v)).collect();
        outside_results.extend(
            body.results().iter().zip(&outputs_outside).filter(|(_, o)| **o).map(|(r, _)| r.clone()),
        );
        let outside = body.with_results(outside_results);
        let mut args: Vec<Mapped> = Vec::new();
        for p in carry_params {
            args.push(Mapped { tensor: p.clone(), mapped: false }); // never read: the results do not depend on it
        }
        args.extend(inputs.iter().map(|t| Mapped { tensor: t.clone(), mapped: true }));
        args.extend(consts.iter().map(|t| Mapped { tensor: t.clone(), mapped: false }));
        let env = vmap(graph, &outside, &args, scan.length);

        // The remaining body reads fewer inputs and constants, and the hoisted values.
        let kept_inputs: Vec<usize> = (0..inputs.len()).filter(|&k| remaining[input_params[k].value().node]).collect();
        let kept_consts: Vec<usize> = (0..consts.len()).filter(|&k| remaining[const_params[k].value().node]).collect();
        let (step_values, const_values): (Vec<Value>, Vec<Value>) = frontier.iter().partition(|v| per_step(**v));
        let mut sources: Vec<Tensor> = carry_params.to_vec();
        sources.extend(kept_inputs.iter().map(|&k| input_params[k].clone()));
        sources.extend(step_values.iter().map(|&v| body.graph().tensor(v)));
        sources.extend(kept_consts.iter().map(|&k| const_params[k].clone()));
        sources.extend(const_values.iter().map(|&v| body.graph().tensor(v)));
        let kept_results: Vec<Tensor> =
            body.results().iter().zip(&outputs_outside).filter(|(_, o)| !**o).map(|(r, _)| r.clone()).collect();
        let shapes: Vec<Shape> = sources.iter().map(|t| t.shape().clone()).collect();
        let inner = Func::trace(&shapes, |g, params| body.with_results(kept_results).rebuild(g, &sources, params));

        let outer = |v: &Value| env.get(*v).tensor.clone();
        let mut new_inputs: Vec<Tensor> = kept_inputs.iter().map(|&k| inputs[k].clone()).collect();
        new_inputs.extend(step_values.iter().map(|v| env.get(*v).materialize(scan.length)));
        let mut new_consts: Vec<Tensor> = kept_consts.iter().map(|&k| consts[k].clone()).collect();
        new_consts.extend(const_values.iter().map(outer));
        let outputs = (scan.carries..body.results().len())
            .map(|k| outputs_outside[k].then(|| env.get(body.results()[k].value()).materialize(scan.length)))
            .collect();
        Hoisted { body: inner, inputs: new_inputs, consts: new_consts, outputs }
    }
}

/// A loop split into values and derivative.
struct Linearized {
    /// The body's values: carries, outputs, then residuals.
    values: Func,
    /// Which operands have tangents; carries are those that ever get one.
    active: Vec<bool>,
    /// Linear body. Parameters: tangents of active carries; tangents of active inputs, residual rows, inputs it reads;
    /// tangents of active constants, constants it reads.
    linear: Func,
    /// Which results of the original body have tangents, in the order of `linear`'s results.
    active_results: Vec<usize>,
    residuals: usize,
    read_inputs: Vec<usize>,
    read_consts: Vec<usize>,
}

impl Linearized {
    fn new(scan: &Scan, tangents: &[Option<Tensor>]) -> Linearized {
        let body = &scan.body;
        let mut active: Vec<bool> = tangents.iter().map(Option::is_some).collect();
        loop {
            // Values and tangents of one step, in one graph.
            let graph = Graph::new();
            let params: Vec<Tensor> =
                body.params().iter().enumerate().map(|(i, p)| graph.parameter(i, p.shape().clone())).collect();
            let seeds: Vec<Option<Tensor>> =
                params.iter().zip(&active).map(|(p, &a)| a.then(|| graph.placeholder(p.shape().clone()))).collect();
            let duals: Vec<Dual> =
                params.iter().zip(&seeds).map(|(p, s)| Dual { primal: p.clone(), tangent: s.clone() }).collect();
            let env = jvp_with(&graph, body, &duals, &Rules::default());
            let ends: Vec<Dual> = body.results().iter().map(|r| env.get(r.value()).clone()).collect();
            let woken: Vec<usize> = (0..scan.carries).filter(|&k| ends[k].tangent.is_some() && !active[k]).collect();
            if woken.is_empty() {
                return Linearized::split(scan, active, &params, &seeds, &ends);
            }
            for k in woken {
                active[k] = true;
            }
        }
    }

    fn split(scan: &Scan, active: Vec<bool>, params: &[Tensor], seeds: &[Option<Tensor>], ends: &[Dual]) -> Linearized {
        let active_results: Vec<usize> = (0..ends.len())
            .filter(|&k| if k < scan.carries { active[k] } else { ends[k].tangent.is_some() })
            .collect();
        let zero = |d: &Dual| d.tangent.clone().unwrap_or_else(|| d.primal.zeros_like());
        let tangent_results: Vec<Tensor> = active_results.iter().map(|&k| zero(&ends[k])).collect();
        let primal_results: Vec<Tensor> = ends.iter().map(|d| d.primal.clone()).collect();
        let whole = Func::from_values(params.to_vec(), primal_results.iter().chain(&tangent_results).cloned().collect());
        let seed_values: Vec<Value> = seeds.iter().flatten().map(Tensor::value).collect();
        let linear = Dependence::any(&whole, &seed_values);
        let (carry_params, input_params, const_params) = parts(scan, params);
        let carry_values: Vec<Value> = carry_params.iter().map(Tensor::value).collect();
        let on_carry = Dependence::any(&whole, &carry_values);

        // Residuals: values that the linear part reads and that the carry made. The rest is cheap to have again.
        let mut residuals: Vec<Value> = Vec::new();
        let mut stack: Vec<Value> = tangent_results.iter().map(Tensor::value).collect();
        let mut seen = vec![false; whole.graph().len()];
        while let Some(v) = stack.pop() {
            if !linear.has(v) && on_carry.has(v) {
                if !residuals.contains(&v) {
                    residuals.push(v);
                }
            } else if !seen[v.node] {
                seen[v.node] = true;
                stack.extend(whole.graph().node(v.node).operands);
            }
        }
        residuals.sort();
        let read = |ps: &[Tensor]| (0..ps.len()).filter(|&k| seen[ps[k].value().node]).collect::<Vec<_>>();
        let (read_inputs, read_consts) = (read(input_params), read(const_params));

        let residual_tensors: Vec<Tensor> = residuals.iter().map(|&v| whole.graph().tensor(v)).collect();
        let values = whole.with_results(primal_results.iter().chain(&residual_tensors).cloned().collect());
        let (carry_seeds, input_seeds, const_seeds) = parts(scan, seeds);
        let mut sources: Vec<Tensor> = carry_seeds.iter().flatten().cloned().collect();
        sources.extend(input_seeds.iter().flatten().cloned());
        sources.extend(residual_tensors.iter().cloned());
        sources.extend(read_inputs.iter().map(|&k| input_params[k].clone()));
        sources.extend(const_seeds.iter().flatten().cloned());
        sources.extend(read_consts.iter().map(|&k| const_params[k].clone()));
        let shapes: Vec<Shape> = sources.iter().map(|t| t.shape().clone()).collect();
        let linear = Func::trace(&shapes, |g, params| whole.with_results(tangent_results).rebuild(g, &sources, params));
        Linearized { values, active, linear, active_results, residuals: residuals.len(), read_inputs, read_consts }
    }

    /// Builds both loops.
    fn apply(&self, outer: &Scan, args: &[Tensor], tangents: &[Option<Tensor>]) -> (Vec<Tensor>, Vec<Option<Tensor>>) {
        let graph = args[0].graph().clone();
        let (length, reverse) = (outer.length, outer.reverse);
        let (carries, inputs, consts) = parts(outer, args);
        let (final_carries, mut ys) = scan(&graph, &self.values, length, reverse, carries, inputs, consts);
        let residuals = ys.split_off(ys.len() - self.residuals);

        let (dcarries, dinputs, dconsts) = parts(outer, tangents);
        let init: Vec<Tensor> = (0..outer.carries)
            .filter(|&k| self.active[k])
            .map(|k| dcarries[k].clone().unwrap_or_else(|| carries[k].zeros_like()))
            .collect();
        let mut rows: Vec<Tensor> = dinputs.iter().flatten().cloned().collect();
        rows.extend(residuals);
        rows.extend(self.read_inputs.iter().map(|&k| inputs[k].clone()));
        let mut fixed: Vec<Tensor> = dconsts.iter().flatten().cloned().collect();
        fixed.extend(self.read_consts.iter().map(|&k| consts[k].clone()));
        let (dc, dy) = scan(&graph, &self.linear, length, reverse, &init, &rows, &fixed);

        let results: Vec<Tensor> = final_carries.into_iter().chain(ys).collect();
        let mut out = vec![None; results.len()];
        for (&k, d) in self.active_results.iter().zip(dc.into_iter().chain(dy)) {
            out[k] = Some(d);
        }
        (results, out)
    }
}

/// The transpose of a loop that is linear in the operands marked `linear`: a loop the other way, carrying the cotangents
/// of the carries and the growing cotangents of linear constants.
fn transpose(outer: &Scan, args: &[Tensor], linear: &[bool], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
    let graph = args[0].graph().clone();
    let body = &outer.body;
    let carries = outer.carries;
    let range = |from: usize, to: usize, want: bool| (from..to).filter(|&k| linear[k] == want).collect::<Vec<_>>();
    let end = carries + outer.inputs;
    // Every carry is a tangent, also one that starts as plain zero.
    let linear: Vec<bool> = linear.iter().enumerate().map(|(k, &l)| l || k < carries).collect();
    let linear_inputs = range(carries, end, true);
    let plain_inputs = range(carries, end, false);
    let linear_consts = range(end, args.len(), true);
    let plain_consts = range(end, args.len(), false);
    let with_ct: Vec<usize> = (carries..cotangents.len()).filter(|&k| cotangents[k].is_some()).collect();

    let shape = |k: usize| body.params()[k].shape().clone();
    let mut shapes: Vec<Shape> = (0..carries).map(shape).collect();
    shapes.extend(linear_consts.iter().map(|&k| shape(k)));
    shapes.extend(with_ct.iter().map(|&k| body.results()[k].shape().clone()));
    shapes.extend(plain_inputs.iter().map(|&k| shape(k)));
    shapes.extend(plain_consts.iter().map(|&k| shape(k)));
    let back = Func::trace(&shapes, |g, params| {
        let (ct_carries, rest) = params.split_at(carries);
        let (sums, rest) = rest.split_at(linear_consts.len());
        let (ct_ys, rest) = rest.split_at(with_ct.len());
        let mut values: HashMap<usize, Tensor> = HashMap::new();
        for (&k, p) in plain_inputs.iter().chain(&plain_consts).zip(rest) {
            values.insert(k, p.clone());
        }
        let mut seeds: Vec<(usize, Tensor)> = Vec::new();
        for k in (0..args.len()).filter(|&k| linear[k]) {
            let seed = g.placeholder(shape(k));
            values.insert(k, seed.clone());
            seeds.push((k, seed));
        }
        let step: Vec<Tensor> = (0..args.len()).map(|k| values[&k].clone()).collect();
        let out = body.call(g, &step);
        let mut ends: Vec<(Tensor, Tensor)> = (0..carries).map(|k| (out[k].clone(), ct_carries[k].clone())).collect();
        ends.extend(with_ct.iter().zip(ct_ys).map(|(&k, ct)| (out[k].clone(), ct.clone())));
        let seed_tensors: Vec<Tensor> = seeds.iter().map(|(_, s)| s.clone()).collect();
        let found = pullback(g, &seed_tensors, &ends);
        let ct_of: HashMap<usize, Tensor> =
            seeds.iter().zip(found).filter_map(|((k, _), ct)| Some((*k, ct?))).collect();
        let or_zero = |k: usize| ct_of.get(&k).cloned().unwrap_or_else(|| g.zeros(&shape(k)));
        let mut results: Vec<Tensor> = (0..carries).map(or_zero).collect();
        results.extend(linear_consts.iter().zip(sums).map(|(k, sum)| match ct_of.get(k) {
            Some(ct) => sum + ct,
            None => sum.clone(),
        }));
        results.extend(linear_inputs.iter().map(|&k| or_zero(k)));
        results
    });

    let mut init: Vec<Tensor> = (0..carries)
        .map(|k| cotangents[k].clone().unwrap_or_else(|| graph.zeros(&shape(k))))
        .collect();
    init.extend(linear_consts.iter().map(|&k| graph.zeros(&shape(k))));
    let mut rows: Vec<Tensor> = with_ct.iter().filter_map(|&k| cotangents[k].clone()).collect();
    rows.extend(plain_inputs.iter().map(|&k| args[k].clone()));
    let fixed: Vec<Tensor> = plain_consts.iter().map(|&k| args[k].clone()).collect();
    let (final_carries, stacks) = scan(&graph, &back, outer.length, !outer.reverse, &init, &rows, &fixed);

    let mut out = vec![None; args.len()];
    for (k, ct) in (0..carries).chain(linear_consts).zip(final_carries) {
        out[k] = Some(ct);
    }
    for (k, ct) in linear_inputs.into_iter().zip(stacks) {
        out[k] = Some(ct);
    }
    out
}
