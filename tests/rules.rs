//! Every row of the table of rules, and what sets each apart.

mod judge;

use etrace::{
    cell::{Dense, Init, Model, StateInit, StepContext},
    learn::{
        Learner, LossKind, Method, Objective, Rule, Vjp,
        rule::{About, Passage, TracedOp},
        sequence::LearnerConfig,
        trace::TraceKind,
    },
    rng::Stream,
    settings::Listed,
};
use hlo::Tensor;
use judge::{Judge, case::Case, models::case};

const STEPS: usize = 5;

fn config(method: Method) -> LearnerConfig {
    LearnerConfig { method, chunk: Some(2), ..LearnerConfig::default() }
}

/// A rule of one's own: D-RTRL whose signals come back through a matrix that a function makes of the weight.
struct Own(fn(&Tensor) -> Tensor);

impl Rule for Own {
    fn about(&self) -> About {
        Method::D_RTRL.about()
    }
    fn trace(&self, _: TracedOp<'_>) -> Option<TraceKind> {
        Some(TraceKind::Full)
    }
    fn feedback(&self, passage: &Passage<'_>) -> Option<Tensor> {
        Some((self.0)(passage.weight))
    }
}

fn own(case: &Case, feedback: fn(&Tensor) -> Tensor) -> Learner {
    let rule: Box<dyn Rule> = Box::new(Own(feedback));
    let config = config(Method::D_RTRL);
    Learner::with_rule(&case.model, &case.objective, &config, Box::new(rule)).expect("a model for online rules")
}

/// Models of the survey that online rules take.
fn cases(count: usize) -> impl Iterator<Item = Case> {
    let takes = |case: &Case| Learner::new(&case.model, &case.objective, &config(Method::D_RTRL)).is_ok();
    (0..).map(|seed| case(seed, STEPS)).filter(takes).take(count)
}

#[test]
fn every_rule_says_what_it_is_and_learns() {
    // Some rules forget so much that a parameter of some models learns nothing: there they are refused.
    let takes = |case: &Case, method| Learner::new(&case.model, &case.objective, &config(method)).is_ok();
    let case = cases(100).find(|case| Method::all().all(|method| takes(case, method))).expect("a model for all rules");
    for method in Method::all() {
        let About { equation, source, memory, use_when } = method.about();
        for (what, text) in [("equation", equation), ("source", source), ("memory", memory), ("use", use_when)] {
            assert!(text.len() > 5, "{}: no {what}", method.name());
        }
        let learner = Learner::new(&case.model, &case.objective, &config(method)).expect("a learner");
        let grads = case.gradients(&learner, false);
        let learned = grads.iter().flatten().any(|g| *g != 0.0) && grads.iter().flatten().all(|g| g.is_finite());
        assert!(learned, "{}: {grads:?}", method.name());
        for name in [&[method.row().name], method.row().aliases].concat() {
            assert_eq!(<Method as Listed>::by_name(name).expect(name), method);
        }
    }
}

#[test]
fn the_guide_describes_every_rule() {
    let text = std::fs::read_to_string("docs/learning-rules.md").expect("the guide");
    for method in Method::all() {
        let About { equation, source, memory, use_when } = method.about();
        let start = text.find(&format!("## `{}`", method.name()));
        let (name, doc) = (method.name(), method.row().doc.trim());
        let start = start.unwrap_or_else(|| {
            panic!(
                "docs/learning-rules.md lacks the stanza of `{name}`; add it, with the parameters of the rule in the first lines:\n\n\
                 ## `{name}`\n{doc}.\n\n* Gradient: {equation}\n* Source: {source}\n* Memory: {memory}\n* Use it {use_when}\n"
            )
        });
        let stanza = text[start + 3..].split("\n## ").next().unwrap_or_default();
        let plain = |t: &str| t.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [equation, source, memory, use_when] {
            assert!(
                plain(stanza).contains(&plain(part)),
                "`{name}` in docs/learning-rules.md lacks what `about` says: \"{part}\""
            );
        }
    }
}

/// The plain rule, when the signal passes through the weights after all.
#[test]
fn feedback_through_the_weight_itself_is_the_plain_rule() {
    for case in cases(25) {
        let plain = Learner::new(&case.model, &case.objective, &config(Method::D_RTRL)).expect("a learner");
        let (plain, own) = (case.gradients(&plain, false), case.gradients(&own(&case, |w| w * 1.0), false));
        assert!(case.worst(&own, &plain) < 1e-12, "{}", case.made_of.join("; "));
    }
}

/// Two leaky layers and a readout: `W2` and `V` pass signals back.
fn leaky() -> Case {
    let model: Model = StepContext::trace(2, 3, |cx, x| {
        let how = Dense { bias: false, ..Dense::new(&[Init::Zeros]) };
        let mut y = x.clone();
        for (name, n) in [("a", 4), ("b", 3)] {
            let h = cx.state(name, n, StateInit::Zeros) * 0.75 + cx.dense(&format!("{name}.w"), &[&y], n, &how);
            cx.set(name, &h);
            y = h;
        }
        cx.dense("out", &[&y], 2, &how)
    });
    let objective = Objective { loss: LossKind::Mse, ..Objective::default() };
    let case = Case::of(model, objective, 5, STEPS);
    let zeros = case.states.iter().map(|s| hlo::HostValue::full(s.shape.clone(), 0.0)).collect();
    Case { states: zeros, ..case }
}

/// By hand, step by step: `e_t = 0.75 e_{t-1} + x_t`, and the error of the output times the random matrices.
#[test]
fn random_feedback_by_hand() {
    let case = leaky();
    let method = <Method as Listed>::by_name("random-feedback").expect("a rule");
    let learner = Learner::new(&case.model, &case.objective, &config(method)).expect("a learner");
    let got = case.gradients(&learner, false);
    let matrix = |name: &str, rows: usize, columns: usize| -> Vec<f64> {
        let mut random = Stream::new(0, &format!("feedback {name} 0"));
        (0..rows * columns).map(|_| f64::from((random.normal() / (rows as f64).sqrt()) as f32)).collect()
    };
    let (b_b, b_out) = (matrix("b.w", 4, 3), matrix("out", 3, 2));
    let [w_a, w_b, v] = [0, 1, 2].map(|k| case.params[k].data.clone());
    let (mut g_a, mut g_b, mut g_v) = (vec![0.0; 12], vec![0.0; 12], vec![0.0; 6]);
    for s in 0..2 {
        let (mut a, mut b, mut e_a, mut e_b) = ([0.0; 4], [0.0; 3], [0.0; 3], [0.0; 4]);
        for x in &case.inputs {
            let x = &x.data[s * 3..][..3];
            let product = |x: &[f64], w: &[f64], n: usize, j: usize| -> f64 {
                x.iter().enumerate().map(|(i, x)| x * w[i * n + j]).sum()
            };
            a = std::array::from_fn(|j| 0.75 * a[j] + product(x, &w_a, 4, j));
            b = std::array::from_fn(|j| 0.75 * b[j] + product(&a, &w_b, 3, j));
            e_a = std::array::from_fn(|i| 0.75 * e_a[i] + x[i]);
            e_b = std::array::from_fn(|i| 0.75 * e_b[i] + a[i]);
            // Mean over batch and classes.
            let error: [f64; 2] =
                std::array::from_fn(|c| (product(&b, &v, 2, c) - f64::from(u8::from(c == s))) * 2.0 / 4.0);
            let l_b: [f64; 3] = std::array::from_fn(|i| (0..2).map(|c| b_out[i * 2 + c] * error[c]).sum());
            let l_a: [f64; 4] = std::array::from_fn(|i| (0..3).map(|j| b_b[i * 3 + j] * l_b[j]).sum());
            (0..12).for_each(|k| g_a[k] += e_a[k / 4] * l_a[k % 4]);
            (0..12).for_each(|k| g_b[k] += e_b[k / 3] * l_b[k % 3]);
            (0..6).for_each(|k| g_v[k] += b[k / 2] * error[k % 2]);
        }
    }
    let want = [g_a, g_b, g_v];
    assert!(case.worst(&got, &want) < 1e-9, "{got:?}\n{want:?}");
    let plain = Learner::new(&case.model, &case.objective, &config(Method::D_RTRL)).expect("a learner");
    let plain = case.gradients(&plain, false);
    // The readout learns as ever; the others do not.
    assert_eq!(plain[2], got[2]);
    assert!(case.worst(&plain, &want) > 0.1);
}

/// Another seed, other matrices; the same seed, the same.
#[test]
fn random_feedback_is_a_function_of_its_seed() {
    let case = leaky();
    let grads = |seed: u64| {
        let method = Method::RandomFeedback(etrace::learn::rule::RandomFeedback { seed });
        let learner = Learner::new(&case.model, &case.objective, &config(method)).expect("a learner");
        case.gradients(&learner, false)
    };
    assert_eq!(grads(3), grads(3));
    assert_ne!(grads(3), grads(4));
}

#[test]
fn windows_have_no_feedback_of_their_own() {
    let case = leaky();
    let of = |window| {
        let vjp = Vjp::MultiStep { window };
        let method = <Method as Listed>::by_name("random-feedback").expect("a rule");
        Learner::new(&case.model, &case.objective, &LearnerConfig { vjp, chunk: None, ..config(method) })
    };
    assert!(of(1).is_ok());
    let error = of(3).err().expect("a refusal").to_string();
    assert!(error.contains("--window 3") && error.contains("single-step"), "{error}");
}

/// The judge knows nothing of feedback, and agrees with a rule that uses the weights.
#[test]
fn the_judge_tells_the_difference() {
    let mut apart = 0;
    for case in cases(10) {
        let judge = Judge::new(&case).expect("a model for online rules");
        let want = judge.online(&vec![judge::Rule::Full; judge.ops.len()], 0);
        assert!(case.worst(&case.gradients(&own(&case, |w| w * 1.0), false), &want) < 1e-6);
        apart += usize::from(case.worst(&case.gradients(&own(&case, |w| -w), false), &want) > 1e-3);
    }
    assert!(apart > 3, "turned signs change nothing in {} of 10 models", 10 - apart);
}

/// Programs look rules up by name: any name or alias, with a decay where the rule has one.
#[test]
fn a_rule_is_found_by_its_name() {
    assert_eq!(Method::by_name("bptt", 0.9), Some(Method::BPTT));
    assert_eq!(Method::by_name("expsm_diag", 0.8), Some(Method::es_d_rtrl(0.8)));
    assert_eq!(Method::by_name("no such rule", 0.9), None);
}
