//! Traced ops of every kind: the same gradients where they compute the same, exact ones where theory says so, and refusals by name.

mod judge;

use etrace::{
    cell::{Dense, Init, Model, ModelError, StateInit, StepContext, Surrogate},
    learn::{
        LearnError, Learner, LossKind, Method, Objective, Vjp,
        form::{Form, TraceSetting},
        op::Kind,
        sequence::LearnerConfig,
    },
};
use hlo::Tensor;
use judge::case::Case;

fn objective() -> Objective {
    Objective { loss: LossKind::Mse, ..Objective::default() }
}

fn learner(model: &Model, config: LearnerConfig) -> Result<Learner, LearnError> {
    Learner::new(model, &objective(), &config)
}

fn gradients(case: &Case, config: LearnerConfig) -> Vec<Vec<f64>> {
    case.gradients(&learner(&case.model, config).expect("a learner"), false)
}

fn of(method: Method) -> LearnerConfig {
    LearnerConfig { method, ..LearnerConfig::default() }
}

/// Two layers of leaky neurons, the first of them recurrent, whose products are made by `product`.
fn layers(product: fn(&mut StepContext, &str, &Tensor, &Tensor) -> Tensor) -> Model {
    StepContext::trace(2, 3, |cx, x| {
        let mut spikes = x.clone();
        for layer in ["first", "second"] {
            let n = 4;
            let v = cx.state(&format!("{layer}.V"), n, StateInit::Zeros);
            let old = Surrogate::default().spike(&(&v - 1.0));
            let input = if layer == "first" { Tensor::concat(&[&spikes, &old], 1) } else { spikes.clone() };
            let w = cx.param(&format!("{layer}.weight"), &[input.dims()[1], n], Init::Normal(0.0, 0.7));
            let new = (&v - &old) * 0.8 + product(cx, layer, &input, &w);
            cx.set(&format!("{layer}.V"), &new);
            spikes = Surrogate::default().spike(&(&new - 1.0));
        }
        cx.dense("out", &[&spikes], 2, &Dense::new(&[Init::Zeros]))
    })
}

/// A product written as a function is trained like a product.
#[test]
fn a_product_as_a_map_is_a_product() {
    let dense = Case::of(layers(|cx, site, x, w| cx.matmul(site, x, w)), objective(), 1, 23);
    let map = Case::of(layers(|cx, site, x, w| cx.traced(site, x, w, |x, w| x.dot(w))), objective(), 1, 23);
    let forms = [TraceSetting::Auto, TraceSetting::FixedLag, TraceSetting::Whole, TraceSetting::Recompute];
    let mut configs: Vec<LearnerConfig> = [Method::BPTT, Method::es_d_rtrl(0.9)].map(of).to_vec();
    for trace in forms {
        for (chunk, warmup) in [(None, 0), (Some(5), 0), (Some(1), 4)] {
            configs.push(LearnerConfig { trace, chunk, warmup, ..of(Method::D_RTRL) });
        }
    }
    for config in configs {
        let (want, got) = (gradients(&dense, config.clone()), gradients(&map, config.clone()));
        let apart = dense.worst(&got, &want);
        assert!(apart < 2e-6, "{config:?}: {apart:e}");
        let size = want.iter().flatten().fold(0.0f64, |most, v| most.max(v.abs()));
        assert!(size > 1e-3, "{config:?}: a gradient that is alive, got {size:e}");
    }
}

/// A layer without recurrence whose input passes a convolution over 5 positions, 2 channels to 3.
fn convolution() -> Model {
    StepContext::trace(2, 10, |cx, x| {
        let w = cx.param("kernel", &[3, 1, 2, 3], Init::Normal(0.0, 0.7));
        let n = 15;
        let y = cx.traced("conv", x, &w, |x, w| {
            let image = x.reshape(&[2, 5, 1, 2]);
            image.conv2d(w, [1, 1], [(1, 1), (0, 0)]).reshape(&[2, n])
        });
        let bias = cx.param("bias", &[n], Init::Zeros);
        let y = y + cx.elementwise("conv", &bias);
        let v = cx.state("V", n, StateInit::Zeros);
        let new = &v * 0.8 + y;
        cx.set("V", &new);
        cx.dense("out", &[&Surrogate::default().spike(&(&new - 0.5))], 2, &Dense::new(&[Init::Zeros]))
    })
}

/// Of one group without a way from neuron to neuron, D-RTRL is exact.
#[test]
fn a_convolution_is_exact_where_d_rtrl_is() {
    let case = Case::of(convolution(), objective(), 1, 20);
    let exact = gradients(&case, of(Method::BPTT));
    for trace in [TraceSetting::FixedLag, TraceSetting::Whole, TraceSetting::Recompute] {
        for chunk in [1, 6, 20] {
            let config = LearnerConfig { trace, chunk: Some(chunk), ..of(Method::D_RTRL) };
            let apart = case.worst(&gradients(&case, config), &exact);
            assert!(apart < 1e-5, "{trace}, chunks of {chunk}: {apart:e}");
        }
    }
    // The smoothed rule is not.
    let smoothed = case.worst(&gradients(&case, of(Method::es_d_rtrl(0.9))), &exact);
    assert!((1e-2..2.0).contains(&smoothed), "{smoothed:e}");
}

/// ES-D-RTRL of a map goes forwards, whatever the length of its chunks.
#[test]
fn a_factorised_convolution_is_the_same_in_all_chunks() {
    let case = Case::of(convolution(), objective(), 1, 20);
    let chunks = |chunk| gradients(&case, LearnerConfig { chunk: Some(chunk), ..of(Method::es_d_rtrl(0.9)) });
    for chunk in [3, 20] {
        let apart = case.worst(&chunks(chunk), &chunks(1));
        assert!(apart < 1e-5, "chunks of {chunk}: {apart:e}");
    }
}

#[test]
fn what_a_map_cannot_do_is_refused_by_name() {
    let model = convolution();
    let words = |config| match learner(&model, config) {
        Err(LearnError::Setting(text)) => text,
        other => panic!("{:?}", other.map(|_| ())),
    };
    let dense = words(LearnerConfig { trace: TraceSetting::Dense, ..of(Method::D_RTRL) });
    assert!(dense.contains("`conv` (map)") && dense.contains("--trace dense") && dense.contains("d-rtrl"), "{dense}");
    let window = words(LearnerConfig { vjp: Vjp::MultiStep { window: 4 }, ..of(Method::D_RTRL) });
    assert!(window.contains("`conv`") && window.contains("windows"), "{window}");
    let feedback = Method::all().find(|m| m.name() == "random-feedback").expect("a row");
    assert!(words(of(feedback)).contains("is not a matrix"));
    let learner = learner(&model, of(Method::D_RTRL)).expect("a learner");
    assert!(!matches!(learner.form(20), Form::Dense { .. }));
    let stream = learner.check_stream().expect_err("no dense traces").to_string();
    assert!(stream.contains("`conv`") && stream.contains("es-d-rtrl"), "{stream}");
}

/// A function of more than input and weight would lose a way to the loss.
#[test]
fn a_map_reads_its_input_and_its_weight_only() {
    let trace = |step: &dyn Fn(&mut StepContext, &Tensor) -> Tensor| -> Result<Model, ModelError> {
        Model::trace(2, 3, |cx, x| step(cx, x))
    };
    let reads_state = trace(&|cx, x| {
        let v = cx.state("V", 3, StateInit::Zeros);
        let w = cx.param("w", &[3, 3], Init::Normal(0.0, 0.5));
        let y = cx.traced("cell", x, &w, |x, w| x.dot(w) * &v);
        cx.set("V", &y);
        y
    });
    let text = reads_state.expect_err("it reads a state").to_string();
    assert!(text.contains("`cell`") && text.contains("input and its weight alone"), "{text}");
    let flat = trace(&|cx, x| {
        let w = cx.param("w", &[3, 3], Init::Normal(0.0, 0.5));
        cx.traced("cell", x, &w, |x, w| x.dot(w).reshape(&[6]))
    });
    assert!(flat.expect_err("it has no batch").to_string().contains("[2, N]"));
}

/// Every kind has a tag and a name of its own, and is found by its tag.
#[test]
fn kinds_are_told_apart() {
    for kind in Kind::ALL {
        assert_eq!(Kind::of_tag(kind.rule().tag()), Some(kind));
        assert_eq!(Kind::ALL.iter().filter(|k| k.rule().name() == kind.rule().name()).count(), 1);
    }
    assert_eq!(Kind::of_tag("etp.state"), None);
}
