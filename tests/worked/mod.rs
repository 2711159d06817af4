//! What the tests of worked examples share: tables as text, and runs of a model over given values.

#![allow(dead_code, reason = "each test uses its part")]

use std::{collections::BTreeMap, sync::OnceLock};

use etrace::{
    cell::Model,
    learn::{Learner, Method, Objective, Vjp, objective::OfSum, sequence::LearnerConfig},
    train::session::Session,
};
use hlo::{Func, Shape, array::Array};

/// One CPU device for all tests of a binary.
pub fn session() -> &'static Session {
    static SESSION: OnceLock<Session> = OnceLock::new();
    SESSION.get_or_init(|| Session::open(hlo::pjrt::Device::Cpu, None, &mut |_| {}).expect("a CPU device"))
}

/// Arrays by name.
pub type Values = BTreeMap<String, Vec<f64>>;

/// `name v v v  name v v` as a table.
pub fn table(text: &str) -> Vec<(String, Vec<f64>)> {
    let mut rows: Vec<(String, Vec<f64>)> = Vec::new();
    for word in text.split_whitespace() {
        match (word.parse::<f64>(), rows.last_mut()) {
            (Ok(value), Some((_, values))) => values.push(value),
            _ => rows.push((word.to_string(), Vec::new())),
        }
    }
    rows
}

/// Compares within an absolute tolerance.
#[track_caller]
pub fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: {got:?} against {want:?}");
    for (k, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((a - b).abs() <= tolerance, "{what}[{k}]: got {a}, expected {b}\n got {got:?}\nwant {want:?}");
    }
}

/// Parameters by name, the others as the model has them.
pub fn params(model: &Model, given: &[(&str, &[f32])]) -> Vec<Array> {
    let value = |name: &str| given.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_vec());
    for (name, _) in given {
        assert!(model.param(name).is_some() || model.state(name).is_some(), "the model has no `{name}`");
    }
    let all =
        model.params.iter().map(|p| (&p.shape, value(&p.name).unwrap_or_else(|| p.init.values(&p.shape, 0, &p.name))));
    let states = model
        .states
        .iter()
        .map(|s| (&s.shape, value(&s.name).unwrap_or_else(|| s.init.values(&s.shape, 0, &s.name, 0))));
    all.chain(states).map(|(s, v)| Array::f32(v, s.dims.clone()).expect("values fit")).collect()
}

/// States and output after each step, by name.
pub fn forward(model: &Model, inputs: &[&[f32]], given: &[(&str, &[f32])]) -> BTreeMap<String, Vec<Vec<f64>>> {
    let config = LearnerConfig { method: Method::BPTT, ..LearnerConfig::default() };
    let learner = Learner::new(model, &Objective::default(), &config).expect("BPTT takes any model");
    let mut args = params(model, given);
    args.push(Array::f32(inputs.concat(), [&[inputs.len()], &model.input.dims[..]].concat()).expect("equal rows"));
    let shapes: Vec<Shape> = args.iter().map(|a| a.shape().clone()).collect();
    let (n, m) = (model.params.len(), args.len() - 1);
    let func = Func::trace(&shapes, |g, v| learner.observe(g, &v[..n], &v[n..m], &v[m]));
    let results = session().evaluate("forward", &func, &args).expect("the program runs");
    let names = model.states.iter().map(|s| s.name.clone()).chain(["out".to_string()]);
    let rows = |a: &Array| {
        let values = a.to_f64_vec();
        values.chunks(values.len() / inputs.len()).map(<[f64]>::to_vec).collect()
    };
    names.zip(results.iter().map(rows)).collect()
}

/// Gradients by name, with the loss as `loss`, the summed output as `out` and the tracked means as `tracked.K`.
pub fn gradients(
    model: &Model,
    (method, vjp, of_sum): (Method, Vjp, OfSum),
    inputs: &[f32],
    labels: &[i32],
    given: &[(&str, &[f32])],
) -> Values {
    let objective = Objective { of_sum, ..Objective::default() };
    let config = LearnerConfig { method, vjp, ..LearnerConfig::default() };
    let learner = Learner::new(model, &objective, &config).expect("the rule takes this model");
    let mut args = params(model, given);
    let dims = &model.input.dims;
    args.push(Array::f32(inputs, [inputs.len() / (dims[0] * dims[1]), dims[0], dims[1]]).expect("equal rows"));
    args.push(Array::s32(labels, [labels.len()]).expect("labels"));
    let shapes: Vec<Shape> = args.iter().map(|a| a.shape().clone()).collect();
    let (n, m) = (model.params.len(), args.len() - 2);
    let func = Func::trace(&shapes, |g, v| {
        let out = learner.sequence(g, &v[..n], &v[n..m], &v[m], &v[m + 1]);
        out.grads.into_iter().chain([out.loss, out.out]).chain(out.tracked).collect()
    });
    let results = session().evaluate("gradients", &func, &args).expect("the program runs");
    let names = model.params.iter().map(|p| p.name.clone()).chain(["loss".into(), "out".into()]);
    let names = names.chain((0..model.tracked.len()).map(|k| format!("tracked.{k}")));
    names.zip(results.iter().map(Array::to_f64_vec)).collect()
}
