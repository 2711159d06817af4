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
    Transposed::new(outer, linear, cotangents).apply(args, cotangents)
}

/// A linear loop with its operands and results sorted, by position.
struct Transposed<'a> {
    outer: &'a Scan,
    linear_inputs: Vec<usize>,
    plain_inputs: Vec<usize>,
    linear_consts: Vec<usize>,
    plain_consts: Vec<usize>,
    /// Which stacked results have a cotangent.
    with_ct: Vec<usize>,
}

impl<'a> Transposed<'a> {
    fn new(outer: &'a Scan, linear: &[bool], cotangents: &[Option<Tensor>]) -> Transposed<'a> {
        let (inputs, consts) = (outer.carries, outer.carries + outer.inputs);
        let sorted = |from: usize, to: usize| (from..to).partition(|&k| linear[k]);
        let (linear_inputs, plain_inputs) = sorted(inputs, consts);
        let (linear_consts, plain_consts) = sorted(consts, linear.len());
        let with_ct = (outer.carries..cotangents.len()).filter(|&k| cotangents[k].is_some()).collect();
        Transposed { outer, linear_inputs, plain_inputs, linear_consts, plain_consts, with_ct }
    }

    /// Shape of an operand of one step.
    fn shape(&self, operand: usize) -> Shape {
        self.outer.body.params()[operand].shape().clone()
    }

    /// One step backwards. Parameters: cotangents of the carries, those of linear constants so far, those of stacked results, plain
    /// inputs, plain constants. Results: cotangents of the carries, those of linear constants, those of linear inputs.
    fn body(&self) -> Func {
        let (body, carries) = (&self.outer.body, self.outer.carries);
        let operands = |list: &[usize]| list.iter().map(|&k| self.shape(k)).collect::<Vec<_>>();
        let mut shapes: Vec<Shape> = (0..carries).map(|k| self.shape(k)).collect();
        shapes.extend(operands(&self.linear_consts));
        shapes.extend(self.with_ct.iter().map(|&k| body.results()[k].shape().clone()));
        shapes.extend(operands(&self.plain_inputs));
        shapes.extend(operands(&self.plain_consts));
        Func::trace(&shapes, |g, params| {
            let (ct_carries, rest) = params.split_at(carries);
            let (sums, rest) = rest.split_at(self.linear_consts.len());
            let (ct_ys, rest) = rest.split_at(self.with_ct.len());
            let plain: HashMap<usize, &Tensor> =
                self.plain_inputs.iter().chain(&self.plain_consts).copied().zip(rest).collect();
            let mut seeds: Vec<(usize, Tensor)> = Vec::new();
            let step: Vec<Tensor> = (0..body.params().len())
                .map(|k| match plain.get(&k) {
                    Some(&value) => value.clone(),
                    // Every carry is a tangent, also one that starts as plain zero.
                    None => {
                        let seed = g.placeholder(self.shape(k));
                        seeds.push((k, seed.clone()));
                        seed
                    }
                })
                .collect();
            let out = body.call(g, &step);
            let mut ends: Vec<(Tensor, Tensor)> =
                (0..carries).map(|k| (out[k].clone(), ct_carries[k].clone())).collect();
            ends.extend(self.with_ct.iter().zip(ct_ys).map(|(&k, ct)| (out[k].clone(), ct.clone())));
            let (places, seeds): (Vec<usize>, Vec<Tensor>) = seeds.into_iter().unzip();
            let found = pullback(g, &seeds, &ends);
            let ct_of: HashMap<usize, Tensor> =
                places.into_iter().zip(found).filter_map(|(k, ct)| Some((k, ct?))).collect();
            let or_zero = |k: usize| ct_of.get(&k).cloned().unwrap_or_else(|| g.zeros(&self.shape(k)));
            let mut results: Vec<Tensor> = (0..carries).map(or_zero).collect();
            results.extend(self.linear_consts.iter().zip(sums).map(|(k, sum)| match ct_of.get(k) {
                Some(ct) => sum + ct,
                None => sum.clone(),
            }));
            results.extend(self.linear_inputs.iter().map(|&k| or_zero(k)));
            results
        })
    }

    /// Builds the loop; a cotangent for each operand that has one.
    fn apply(&self, args: &[Tensor], cotangents: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        let graph = args[0].graph().clone();
        let back = self.body();
        let mut init: Vec<Tensor> = (0..self.outer.carries)
            .map(|k| cotangents[k].clone().unwrap_or_else(|| graph.zeros(&self.shape(k))))
            .collect();
        init.extend(self.linear_consts.iter().map(|&k| graph.zeros(&self.shape(k))));
        let mut rows: Vec<Tensor> = self.with_ct.iter().filter_map(|&k| cotangents[k].clone()).collect();
        rows.extend(self.plain_inputs.iter().map(|&k| args[k].clone()));
        let fixed: Vec<Tensor> = self.plain_consts.iter().map(|&k| args[k].clone()).collect();
        let (final_carries, stacks) = scan(&graph, &back, self.outer.length, !self.outer.reverse, &init, &rows, &fixed);

        let mut out = vec![None; args.len()];
        for (k, ct) in (0..self.outer.carries).chain(self.linear_consts.iter().copied()).zip(final_carries) {
            out[k] = Some(ct);
        }
        for (&k, ct) in self.linear_inputs.iter().zip(stacks) {
            out[k] = Some(ct);
        }
        out
    }
}
