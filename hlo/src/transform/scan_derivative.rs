//! Derivatives of loops.
//!
//! [`linearize`] splits the differentiated body: one loop computes values and keeps the *residuals* that the derivative
//! needs, a second loop is linear in the tangents. [`transpose`] turns that second loop around. Both are built by
//! [`scan`](super::recurrence::scan), so what is not part of a recurrence leaves them: a product `x_t dW` with a constant
//! weight is made for all steps at once, and so is its transpose, the gradient of the weight.

use std::collections::HashMap;

use crate::{
    func::Func,
    graph::{Graph, Tensor, Value},
    ops::scan::{Scan, parts},
    shape::Shape,
    transform::{Dependence, Dual, Rules, jvp_with, pullback, recurrence::scan},
};

/// Results of a loop and their tangents.
pub(crate) fn linearize(
    scan: &Scan,
    args: &[Tensor],
    tangents: &[Option<Tensor>],
) -> (Vec<Tensor>, Vec<Option<Tensor>>) {
    Linearized::new(scan, tangents).apply(scan, args, tangents)
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
        let active_results: Vec<usize> =
            (0..ends.len()).filter(|&k| if k < scan.carries { active[k] } else { ends[k].tangent.is_some() }).collect();
        let zero = |d: &Dual| d.tangent.clone().unwrap_or_else(|| d.primal.zeros_like());
        let tangent_results: Vec<Tensor> = active_results.iter().map(|&k| zero(&ends[k])).collect();
        let primal_results: Vec<Tensor> = ends.iter().map(|d| d.primal.clone()).collect();
        let whole =
            Func::from_values(params.to_vec(), primal_results.iter().chain(&tangent_results).cloned().collect());
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
                stack.extend(&whole.graph().node(v.node).operands);
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
pub(crate) fn transpose(
    outer: &Scan,
    args: &[Tensor],
    linear: &[bool],
    cotangents: &[Option<Tensor>],
) -> Vec<Option<Tensor>> {
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

    let mut init: Vec<Tensor> =
        (0..carries).map(|k| cotangents[k].clone().unwrap_or_else(|| graph.zeros(&shape(k)))).collect();
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
