//! Dense traces, one step at a time.

use std::collections::HashMap;

use super::{Exact, Judge};

/// How an op's trace advances.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// `e = D e + x f` for every weight and state.
    Full,
    /// The same with a number in place of `D`.
    Leak(f64),
    /// The same with the diagonal of the whole Jacobian in place of `D`.
    Coupled,
    /// As `Full`; signals meet `ebar = kappa ebar + e`.
    Filtered(f64),
    /// `ex = a ex + x`, `ef = a D ef + (1 - a) f`, with the product divided by `1 - a^t`.
    Factorised(f64),
    /// The same with a factor for the input and one for the output.
    Split(f64, f64),
}

impl Rule {
    /// The factors of input and output of a factorised rule.
    pub fn factors(self) -> Option<(f64, f64)> {
        match self {
            Rule::Factorised(a) => Some((a, a)),
            Rule::Split(x, f) => Some((x, f)),
            _ => None,
        }
    }
}

/// Traces of one op: by group and state, `[B, I, N]` (`I = 1` where there is no input).
struct Trace {
    rule: Rule,
    inputs: usize,
    /// `e[b, i, j]`, or `ef[b, j]` of the factorised rule.
    values: HashMap<usize, Vec<Vec<f64>>>,
    /// `ebar[b, i, j]` of a filtered rule.
    filtered: HashMap<usize, Vec<Vec<f64>>>,
    /// `ex[b, i]` of the factorised rule.
    input: Vec<f64>,
}

impl Judge<'_> {
    fn batch(&self) -> usize {
        self.model.batch()
    }

    /// The gradient of an online rule: `rules` by op; losses count from step `warmup` on.
    pub fn online(&self, rules: &[Rule], warmup: usize) -> Vec<Vec<f64>> {
        let mut by_op: Vec<Vec<f64>> = self.no_weights();
        let mut plain = self.no_params();
        let mut traces = self.start(rules);
        for (t, facts) in self.facts.iter().enumerate() {
            if t >= warmup {
                for (k, trace) in &traces {
                    self.learn(*k, trace, &facts.before, t, &mut by_op[*k]);
                }
            }
            self.advance(&mut traces, t);
            if t < warmup {
                continue;
            }
            for (k, trace) in &traces {
                self.learn(*k, trace, &facts.after, t + 1, &mut by_op[*k]);
            }
            for (k, grad) in by_op.iter_mut().enumerate() {
                self.outer(k, &facts.x[k], &facts.output[k], grad);
            }
            for (sum, grad) in plain.iter_mut().zip(&facts.plain) {
                sum.iter_mut().zip(grad).for_each(|(s, g)| *s += g);
            }
        }
        self.to_params(&by_op, &plain)
    }

    /// The gradient with windows: exact inside, the traces at the entry of each with the exact derivative of its loss.
    pub fn windowed(&self, rules: &[Rule], window: usize) -> Vec<Vec<f64>> {
        let mut by_op = self.no_weights();
        let mut exact = self.no_params();
        let mut traces = self.start(rules);
        for from in (0..self.steps()).step_by(window) {
            let to = (from + window).min(self.steps());
            let Exact { params, entry } = self.exact(from, to, from);
            for (sum, grad) in exact.iter_mut().zip(&params) {
                sum.iter_mut().zip(grad).for_each(|(s, g)| *s += g);
            }
            let signal: Vec<Vec<Vec<f64>>> =
                self.groups.iter().map(|g| g.iter().map(|&s| entry[s].clone()).collect()).collect();
            for (k, trace) in &traces {
                // The bias correction counts calls.
                self.learn(*k, trace, &signal, from / window + 1, &mut by_op[*k]);
            }
            (from..to).for_each(|t| self.advance(&mut traces, t));
        }
        self.to_params(&by_op, &exact)
    }

    fn no_weights(&self) -> Vec<Vec<f64>> {
        self.ops.iter().map(|op| vec![0.0; self.step.tensor(op.weight).shape().elements()]).collect()
    }

    fn no_params(&self) -> Vec<Vec<f64>> {
        self.step.func.params()[..self.step.params].iter().map(|t| vec![0.0; t.shape().elements()]).collect()
    }

    fn start(&self, rules: &[Rule]) -> Vec<(usize, Trace)> {
        let traced = (0..self.ops.len()).filter(|&k| self.ops[k].traced());
        traced
            .map(|k| {
                let inputs = self.facts[0].x[k].len().max(self.batch()) / self.batch();
                let positions = self.step.tensor(self.ops[k].y).shape().elements();
                let width = if rules[k].factors().is_none() { inputs * positions } else { positions };
                let groups = self.ops[k].groups.iter();
                let values: HashMap<usize, Vec<Vec<f64>>> =
                    groups.map(|&g| (g, vec![vec![0.0; width]; self.groups[g].len()])).collect();
                (
                    k,
                    Trace {
                        rule: rules[k],
                        inputs,
                        filtered: values.clone(),
                        values,
                        input: vec![0.0; self.facts[0].x[k].len()],
                    },
                )
            })
            .collect()
    }

    /// `x (x) w`, summed over the batch.
    fn outer(&self, k: usize, x: &[f64], w: &[f64], grad: &mut [f64]) {
        let n = w.len() / self.batch();
        if x.is_empty() {
            w.iter().enumerate().for_each(|(at, w)| grad[at % n] += w);
            return;
        }
        let inputs = x.len() / self.batch();
        debug_assert_eq!(grad.len(), inputs * n, "op {k}");
        for (at, w) in w.iter().enumerate() {
            (0..inputs).for_each(|i| grad[i * n + at % n] += x[at / n * inputs + i] * w);
        }
    }

    /// Signals meet a trace; `calls` is what the factorised rule counts.
    fn learn(&self, k: usize, trace: &Trace, signals: &[Vec<Vec<f64>>], calls: usize, grad: &mut [f64]) {
        let met = if matches!(trace.rule, Rule::Filtered(_)) { &trace.filtered } else { &trace.values };
        for (&g, states) in met {
            for (signal, e) in signals[g].iter().zip(states) {
                match trace.rule.factors() {
                    None => {
                        let n = signal.len() / self.batch();
                        for (at, l) in signal.iter().enumerate() {
                            let (b, j) = (at / n, at % n);
                            (0..trace.inputs).for_each(|i| grad[i * n + j] += l * e[(b * trace.inputs + i) * n + j]);
                        }
                    }
                    Some((_, a)) if calls > 0 => {
                        let c = (1.0 - a.powi(calls as i32)).max(1e-8);
                        let q: Vec<f64> = signal.iter().zip(e).map(|(l, e)| l * e / c).collect();
                        self.outer(k, &trace.input, &q, grad);
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn advance(&self, traces: &mut [(usize, Trace)], t: usize) {
        let facts = &self.facts[t];
        for (k, trace) in traces {
            let x = &facts.x[*k];
            if let Some((a, _)) = trace.rule.factors() {
                trace.input.iter_mut().zip(x).for_each(|(ex, x)| *ex = a * *ex + x);
            }
            let (rule, inputs) = (trace.rule, trace.inputs);
            for (&g, states) in &mut trace.values {
                let d = if rule == Rule::Coupled { &facts.coupled[g] } else { &facts.transition[g] };
                let f = &facts.drive[&(*k, g)];
                let old = states.clone();
                let n = f[0].len() / self.batch();
                for (a, e) in states.iter_mut().enumerate() {
                    for (at, value) in e.iter_mut().enumerate() {
                        let (position, input) = match rule.factors() {
                            None => (at / (inputs * n) * n + at % n, x.get(at / n)),
                            Some(_) => (at, None),
                        };
                        let carried: f64 = match rule {
                            Rule::Leak(leak) => leak * old[a][at],
                            _ => old.iter().enumerate().map(|(c, e)| d[a][c][position] * e[at]).sum(),
                        };
                        *value = match rule.factors() {
                            None => carried + f[a][position] * input.copied().unwrap_or(1.0),
                            Some((_, decay)) => decay * carried + (1.0 - decay) * f[a][position],
                        };
                    }
                }
                if let Rule::Filtered(kappa) = rule
                    && let Some(filtered) = trace.filtered.get_mut(&g)
                {
                    for (bar, e) in filtered.iter_mut().flatten().zip(states.iter().flatten()) {
                        *bar = kappa * *bar + e;
                    }
                }
            }
        }
    }
}
