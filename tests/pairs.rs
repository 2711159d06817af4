//! S-TLLR: pairs of input and slope in both orders of time.

mod judge;

use etrace::{
    cell::{Dense, Init, StateInit, StepContext, Surrogate},
    learn::{
        LearnError, Learner, LossKind, Method, Objective, Vjp,
        rule::{Ottt, STllr},
        sequence::LearnerConfig,
    },
};
use judge::{case::Case, models::case};

const STEPS: usize = 6;

fn config(method: Method) -> LearnerConfig {
    LearnerConfig { method, chunk: Some(2), ..LearnerConfig::default() }
}

fn grads(case: &Case, config: &LearnerConfig) -> Vec<Vec<f64>> {
    case.gradients(&Learner::new(&case.model, &case.objective, config).expect("a learner"), false)
}

/// A leaky layer with a bias whose spikes a readout without memory reads.
fn leaky() -> Case {
    let model = StepContext::trace(2, 3, |cx, x| {
        let how = [Init::Zeros];
        let v = cx.state("V", 4, StateInit::Zeros) * 0.75 + cx.dense("cell", &[x], 4, &Dense::new(&how));
        cx.set("V", &v);
        cx.dense("out", &[&Surrogate::default().spike(&(&v - 0.5))], 2, &Dense { bias: false, ..Dense::new(&how) })
    });
    Case::of(model, Objective { loss: LossKind::Mse, ..Objective::default() }, 5, STEPS)
}

/// As the published program has it: the trace of the input with the present slope, the present input with the trace of slopes before the step,
/// both times the derivative by the spike; a bias with the slope alone.
#[test]
fn pairs_by_hand() {
    let case = leaky();
    let (pre, post, alpha) = (0.5, 0.25, -2.0);
    let rule = Method::STllr(STllr { lambda_pre: pre, lambda_post: post, alpha_pre: alpha });
    let got = grads(&case, &config(rule));
    let [w, b, out] = [0, 1, 2].map(|k| case.params[k].data.clone());
    let (mut g_w, mut g_b) = (vec![0.0; 12], vec![0.0; 4]);
    for s in 0..2 {
        let mut v: [f64; 4] = std::array::from_fn(|j| case.states[0].data[s * 4 + j]);
        let (mut a, mut q) = ([0.0; 3], [0.0; 4]);
        for x in &case.inputs {
            let x = &x.data[s * 3..][..3];
            v = std::array::from_fn(|j| 0.75 * v[j] + b[j] + (0..3).map(|i| x[i] * w[i * 4 + j]).sum::<f64>());
            a = std::array::from_fn(|i| pre * a[i] + x[i]);
            let psi: [f64; 4] = std::array::from_fn(|j| (0.3 * (1.0 - (v[j] - 0.5).abs())).max(0.0));
            let y: [f64; 2] =
                std::array::from_fn(|c| (0..4).filter(|&j| v[j] >= 0.5).map(|j| out[j * 2 + c]).sum::<f64>());
            // Mean over batch and classes; the class of a sequence is its number.
            let error: [f64; 2] = std::array::from_fn(|c| (y[c] - f64::from(u8::from(c == s))) * 2.0 / 4.0);
            let d: [f64; 4] = std::array::from_fn(|j| (0..2).map(|c| out[j * 2 + c] * error[c]).sum());
            (0..12).for_each(|k| g_w[k] += d[k % 4] * (psi[k % 4] * a[k / 4] + alpha * q[k % 4] * x[k / 4]));
            (0..4).for_each(|j| g_b[j] += d[j] * psi[j]);
            q = std::array::from_fn(|j| post * q[j] + psi[j]);
        }
    }
    assert!(g_w.iter().filter(|g| **g != 0.0).count() > 6);
    let want = [g_w, g_b, got[2].clone()];
    assert!(case.worst(&got, &want) < 1e-6, "{got:?}\n{want:?}");
    // Every half counts, and each factor.
    let parts = [(0.4, 0.25, -2.0), (0.5, 0.5, -2.0), (0.5, 0.25, 2.0)];
    for (lambda_pre, lambda_post, alpha_pre) in parts {
        let other = Method::STllr(STllr { lambda_pre, lambda_post, alpha_pre });
        assert!(case.worst(&grads(&case, &config(other)), &want) > 1e-2);
    }
    let causal = Method::STllr(STllr { lambda_pre: pre, lambda_post: post, alpha_pre: 0.0 });
    assert_eq!(grads(&case, &config(causal)), grads(&case, &config(Method::Ottt(Ottt { leak: pre }))));
}

/// To single precision, as powers of a decay are.
#[test]
fn however_a_sequence_is_cut_the_gradient_is_one() {
    let method = Method::STllr(STllr::default());
    let takes = |case: &Case| Learner::new(&case.model, &case.objective, &config(method)).is_ok();
    let mut with_pairs = 0;
    let random = (0..).map(|seed| case(seed, STEPS)).filter(takes).take(12);
    for case in std::iter::once(leaky()).chain(random) {
        for warmup in [0, 2] {
            let of = |chunk| LearnerConfig { chunk: Some(chunk), warmup, ..config(method) };
            let learner = |chunk| Learner::new(&case.model, &case.objective, &of(chunk)).expect("a learner");
            let want = grads(&case, &of(1));
            for (chunk, stream) in [(2, false), (4, false), (STEPS, false), (1, true), (4, true)] {
                if stream && warmup > 0 {
                    continue;
                }
                let error = case.worst(&case.gradients(&learner(chunk), stream), &want);
                assert!(error < 1e-6, "chunks of {chunk}, stream {stream}, warm-up {warmup}: {error:e}");
            }
        }
        let causal = Method::Ottt(Ottt { leak: STllr::default().lambda_pre });
        with_pairs += usize::from(grads(&case, &config(causal)) != grads(&case, &config(method)));
    }
    assert!(with_pairs > 2, "{with_pairs} models have a spike that reads new states");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let case = leaky();
    let refused = |rule: STllr, vjp: Vjp, part: &str| {
        let config = LearnerConfig { vjp, chunk: None, ..config(Method::STllr(rule)) };
        let error = Learner::new(&case.model, &case.objective, &config).err();
        assert!(matches!(&error, Some(LearnError::Setting(text)) if text.contains(part)), "{part}: {error:?}");
    };
    let standard = STllr::default();
    refused(standard, Vjp::MultiStep { window: 1 }, "pairs inputs with slopes");
    refused(STllr { lambda_pre: 1.0, ..standard }, Vjp::default(), "lambda_pre");
    refused(STllr { lambda_post: -0.5, ..standard }, Vjp::default(), "lambda_post");
    refused(STllr { alpha_pre: f64::INFINITY, ..standard }, Vjp::default(), "alpha_pre");
}
