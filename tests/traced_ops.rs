//! Traced ops of every kind: the same gradients where they compute the same, exact ones where theory says so, and refusals by name.

mod judge;

use etrace::{
    cell::{Connections, Convolution, Dense, Init, Model, ModelError, StateInit, StepContext, Surrogate},
    learn::{
        LearnError, Learner, LossKind, Method, Objective, Vjp,
        form::{Form, TraceSetting},
        op::Kind,
        sequence::LearnerConfig,
    },
};
use hlo::{Dot, Tensor};
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

/// A layer of leaky neurons without recurrence that `input` drives, read without memory: D-RTRL is exact.
fn driven(n_in: usize, n: usize, input: impl Fn(&mut StepContext, &Tensor) -> Tensor) -> Model {
    StepContext::trace(2, n_in, |cx, x| {
        let y = input(cx, x);
        let v = cx.state("V", n, StateInit::Zeros);
        let new = &v * 0.8 + y;
        cx.set("V", &new);
        cx.dense("out", &[&Surrogate::default().spike(&(&new - 0.5))], 2, &Dense::new(&[Init::Zeros]))
    })
}

/// Over 5 positions, 2 channels to 3.
fn convolution() -> Model {
    let line = Convolution::line(5, 3, [2, 3]);
    driven(10, 15, move |cx, x| cx.convolution("conv", x, &line, Init::Zeros))
}

/// Every op that is written as a function, with the number of its inputs and outputs.
fn maps() -> Vec<(&'static str, Model)> {
    let image =
        Convolution { image: [4, 3, 2], kernel: [2, 2], channels: 4, stride: [2, 1], padding: [0, 0], groups: 1 };
    let grouped = Convolution { groups: 2, ..image };
    let depthwise = Convolution { channels: 2, groups: 2, ..image };
    let even = Connections::random(6, 5, 3, 1).expect("a pattern");
    let uneven = Connections::new(6, 5, &[(0, 0), (5, 0), (2, 3), (2, 1), (4, 0), (4, 4)]).expect("a pattern");
    let mut all = vec![("line", convolution())];
    for (name, spec) in [("image", image), ("grouped", grouped), ("depth-wise", depthwise)] {
        let n = 2 * 2 * spec.channels;
        all.push((name, driven(24, n, move |cx, x| cx.convolution("op", x, &spec, Init::Zeros))));
    }
    for (name, pattern) in [("sparse, even", even), ("sparse, uneven", uneven)] {
        all.push((name, driven(6, 5, move |cx, x| cx.sparse("op", x, &pattern, Init::Zeros))));
    }
    all.push((
        "embedding",
        driven(3, 5, |cx, x| {
            let table = cx.param("table", &[4, 5], Init::Zeros);
            // Inputs are random numbers here: some of the four tokens.
            let token = (x.sum(&[1]).abs().minimum(&x.sum(&[1]).full_like(3.0))).convert(hlo::DType::S32);
            cx.traced("op", &token.one_hot(4, hlo::DType::F32), &table, |x, w| x.dot(w))
        }),
    ));
    all.push((
        "low rank",
        driven(6, 5, |cx, x| {
            let frozen = cx.constant("frozen", &[6, 5], Init::Normal(0.0, 0.5));
            let (a, b) = (cx.param("a", &[6, 2], Init::Zeros), cx.param("b", &[2, 5], Init::Zeros));
            cx.matmul("op", x, &(frozen + a.dot(&b)))
        }),
    ));
    all.push((
        "einsum bgi,gio->bgo",
        driven(6, 8, |cx, x| {
            let w = cx.param("w", &[2, 3, 4], Init::Zeros);
            cx.traced("op", x, &w, |x, w| {
                let pairs =
                    Dot { lhs_batch: vec![1], lhs_contract: vec![2], rhs_batch: vec![0], rhs_contract: vec![1] };
                x.reshape(&[2, 2, 3]).dot_general(w, pairs).transpose(&[1, 0, 2]).reshape(&[2, 8])
            })
        }),
    ));
    all
}

/// Of one group without a way from neuron to neuron, D-RTRL is exact, and BPTT is what central differences say.
#[test]
fn every_map_is_exact_where_d_rtrl_is() {
    for (name, model) in maps() {
        let case = Case::of(model, objective(), 1, 12);
        let exact = gradients(&case, of(Method::BPTT));
        let size = exact.iter().flatten().fold(0.0f64, |most, v| most.max(v.abs()));
        assert!(size > 1e-3, "{name}: a gradient that is alive, got {size:e}");
        for trace in [TraceSetting::FixedLag, TraceSetting::Whole, TraceSetting::Recompute] {
            // The one op of them with a trace that goes forwards has a small one here: its leak and its drive are numbers.
            if name == "low rank" && trace == TraceSetting::FixedLag {
                continue;
            }
            let config = LearnerConfig { trace, chunk: Some(5), ..of(Method::D_RTRL) };
            let apart = case.worst(&gradients(&case, config), &exact);
            assert!(apart < 1e-5, "{name}, {trace}: {apart:e}");
        }
        let streamed = learner(&case.model, LearnerConfig { chunk: Some(5), ..of(Method::D_RTRL) });
        let apart = case.worst(&case.gradients(&streamed.expect("a learner"), true), &exact);
        assert!(apart < 1e-5, "{name}, in a stream: {apart:e}");
        let one = gradients(&case, LearnerConfig { chunk: Some(1), ..of(Method::es_d_rtrl(0.9)) });
        let apart = case.worst(&gradients(&case, LearnerConfig { chunk: Some(5), ..of(Method::es_d_rtrl(0.9)) }), &one);
        assert!(apart < 1e-5, "{name}, ES-D-RTRL in chunks: {apart:e}");
    }
}

/// A sparse product is a product with a matrix that has zeros.
#[test]
fn sparse_is_dense_with_zeros() {
    let synapses = [(0, 0), (5, 0), (2, 3), (2, 1), (4, 0), (4, 4), (4, 4)];
    let pattern = Connections::new(6, 5, &synapses).expect("a pattern");
    assert_eq!((pattern.synapses(), pattern.degree()), (7, 3));
    let sparse = driven(6, 5, move |cx, x| cx.sparse("op", x, &pattern, Init::Zeros));
    let dense = driven(6, 5, move |cx, x| {
        let w = cx.param("op.weight", &[synapses.len()], Init::Zeros);
        let place = |&(i, j): &(usize, usize)| {
            let at = |size, k| (0..size).map(|n| f32::from(u8::from(n == k))).collect::<Vec<f32>>();
            let (row, column) = (at(6, i), at(5, j));
            row.iter().flat_map(|r| column.iter().map(move |c| r * c)).collect::<Vec<f32>>()
        };
        let all =
            x.graph().literal(&hlo::Shape::f32([7, 30]), synapses.iter().flat_map(place).map(f64::from).collect());
        cx.matmul("op", x, &w.reshape(&[1, 7]).dot(&all).reshape(&[6, 5]))
    });
    let [sparse, dense] = [sparse, dense].map(|model| Case::of(model, objective(), 1, 12));
    for method in [Method::BPTT, Method::D_RTRL, Method::es_d_rtrl(0.9)] {
        let apart = dense.worst(&gradients(&sparse, of(method)), &gradients(&dense, of(method)));
        assert!(apart < 2e-6, "{}: {apart:e}", method.name());
    }
}

#[test]
fn patterns_and_kernels_that_cannot_be_are_refused() {
    for (pre, post, synapses) in [(2, 2, vec![(2, 0)]), (2, 2, vec![(0, 2)]), (2, 2, vec![])] {
        assert!(Connections::new(pre, post, &synapses).is_err(), "{synapses:?}");
    }
    let fits = Convolution::line(5, 3, [2, 3]);
    let wrong = [
        Convolution { image: [1, 4, 2], ..fits },
        Convolution { groups: 2, ..fits },
        Convolution { groups: 0, ..fits },
        Convolution { kernel: [1, 8], ..fits },
        Convolution { stride: [1, 0], ..fits },
    ];
    for spec in wrong {
        let error = Model::trace(2, 10, |cx, x| {
            let y = cx.convolution("eye", x, &spec, Init::Zeros);
            cx.state("V", 1, StateInit::Zeros);
            cx.set("V", &y.slice_axis(1, 0, 1));
            y
        });
        let text = error.err().unwrap_or_else(|| panic!("{spec:?}")).to_string();
        assert!(text.contains("`eye`"), "{spec:?}: {text}");
    }
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
    let learner = learner(&model, LearnerConfig { lag: Some(5), ..of(Method::D_RTRL) }).expect("a learner");
    assert!(!matches!(learner.form(20), Form::Dense { .. }));
    let stream = learner.stream(1).expect_err("too few steps").to_string();
    assert!(stream.contains("`conv`") && stream.contains("es-d-rtrl"), "{stream}");
}

/// The smoothed input of ES-D-RTRL stands for a sum of inputs: that holds of linear functions only.
#[test]
fn es_d_rtrl_needs_ops_that_are_linear_in_their_input() {
    type Function = fn(&Tensor, &Tensor) -> Tensor;
    let bent: [Function; 3] =
        [|x, w| x.square().dot(w), |x, w| x.dot(w) + w.sum(&[0]).broadcast(&[2, 3], &[1]), |x, w| (x + 1.0).dot(w)];
    for (k, function) in bent.into_iter().enumerate() {
        let model = driven(4, 3, move |cx, x| {
            let w = cx.param("w", &[4, 3], Init::Zeros);
            cx.traced("bent", x, &w, function)
        });
        let refused = learner(&model, of(Method::es_d_rtrl(0.9)));
        assert!(
            matches!(&refused, Err(LearnError::Setting(text)) if text.contains("`bent`")),
            "{k}: {:?}",
            refused.map(|_| ())
        );
        // D-RTRL is exact: every input meets its own step.
        let case = Case::of(model, objective(), 1, 12);
        let exact = gradients(&case, of(Method::BPTT));
        for trace in [TraceSetting::FixedLag, TraceSetting::Whole, TraceSetting::Recompute] {
            let apart =
                case.worst(&gradients(&case, LearnerConfig { trace, chunk: Some(5), ..of(Method::D_RTRL) }), &exact);
            assert!(apart < 1e-5, "{k}, {trace}: {apart:e}");
        }
    }
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

/// Every kind has a tag and a name of its own, is found by its tag, and has a row of the page.
#[test]
fn kinds_are_told_apart() {
    let page = include_str!("../docs/traced-ops.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | `y = ")).map(|(name, _)| name);
    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.operator().name()).collect();
    assert_eq!(rows.collect::<Vec<_>>(), kinds);
    for kind in Kind::ALL {
        assert_eq!(Kind::of_tag(kind.operator().tag()), Some(kind));
        assert_eq!(Kind::ALL.iter().filter(|k| k.operator().name() == kind.operator().name()).count(), 1);
    }
    assert_eq!(Kind::of_tag("etp.state"), None);
}
