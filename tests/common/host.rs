//! Models step by step on the host, in double precision.

use etrace::cell::Model;
use hlo::HostValue;

/// The output of every step, from states of zero; `values` are those of a parameter, by name.
pub fn outputs(model: &Model, values: impl Fn(&str) -> Vec<f32>, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let value = |p: &etrace::cell::ParamSpec| {
        HostValue::new(p.shape.clone(), values(&p.name).into_iter().map(f64::from).collect())
    };
    let params: Vec<HostValue> = model.params.iter().map(value).collect();
    let mut states: Vec<HostValue> = model.states.iter().map(|s| HostValue::full(s.shape.clone(), 0.0)).collect();
    let mut out = Vec::new();
    for x in inputs {
        let x = HostValue::new(model.input.clone(), x.clone());
        let mut results = model.step.evaluate(&[&params[..], &states, &[x]].concat());
        out.push(results[states.len()].data.clone());
        results.truncate(states.len());
        states = results;
    }
    out
}
