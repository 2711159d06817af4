//! Every learner, chunk length and drive against the definition, on random small models.

mod judge;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use etrace::{
    learn::{
        Attachment, LearnError, Learner, Method, Vjp,
        form::TraceSetting,
        rule::{self, Recursion},
        sequence::LearnerConfig,
        trace::TraceKind,
    },
    train::session::Session,
};
use hlo::{
    DType, HostValue,
    array::Array,
    pjrt::{Device, OptionValue},
};
use judge::{
    Judge, Rule,
    case::Case,
    models::{case, case_graded, case_with},
};

const STEPS: usize = 5;
/// How often values are drawn to show that something is a property of the model, and not of its values.
const DRAWS: u64 = 100;
const EXIT: Vjp = Vjp::SingleStep { attachment: Attachment::Exit };

/// What became of one model.
enum Outcome {
    /// Gradients agree: the configurations tried, and the largest error.
    Agrees(usize, f64),
    /// Learner and judge both refuse it, for this reason.
    Refused(&'static str),
}

struct Trial {
    method: Method,
    vjp: Vjp,
    chunk: Option<usize>,
    warmup: usize,
    stream: bool,
    trace: TraceSetting,
    lag: Option<usize>,
}

/// In the dense form.
const DENSE: Trial = Trial {
    method: Method::D_RTRL,
    vjp: EXIT,
    chunk: None,
    warmup: 0,
    stream: false,
    trace: TraceSetting::Dense,
    lag: None,
};

fn trials(seed: u64) -> Vec<Trial> {
    let mut random = etrace::rng::Stream::new(seed, "trials");
    let mut below = move |n: usize| (random.uniform() * n as f64) as usize;
    let decay = [0.9, 0.5, 0.0][below(3)];
    let methods = [Method::D_RTRL, Method::es_d_rtrl(decay), Method::hybrid(decay)];
    let mut all = Vec::new();
    // The plain rule, in two ways of cutting the sequence.
    for _ in 0..2 {
        let chunk = [Some(1), Some(2), Some(3), Some(STEPS), None][below(5)];
        all.push(Trial { chunk, stream: below(3) == 0, ..DENSE });
    }
    let chunk = [Some(1), Some(2), Some(3), None][below(4)];
    let stream = below(3) == 0;
    let warmup = if stream { 0 } else { below(3) };
    all.push(Trial { method: methods[1 + below(2)], chunk, warmup, stream, ..DENSE });
    all.push(Trial { chunk, warmup: 1 + below(2), ..DENSE });
    let window = 1 + below(3);
    all.push(Trial {
        method: methods[below(3)],
        vjp: Vjp::MultiStep { window },
        chunk: (window == 1).then_some(1 + below(3)),
        ..DENSE
    });
    // The other forms of the plain rule, which must not be told apart.
    for trace in [TraceSetting::Auto, TraceSetting::FixedLag, TraceSetting::Whole, TraceSetting::Recompute] {
        let chunk = [Some(1), Some(2), Some(3), None][below(4)];
        // The longest is as long as the sequence: nothing is cut off.
        let lag = Some(STEPS);
        all.push(Trial { chunk, trace, lag, warmup: below(3), ..DENSE });
    }
    // A stream that keeps the last steps.
    let chunk = [Some(1), Some(2), Some(3)][below(3)];
    all.push(Trial { chunk, trace: TraceSetting::FixedLag, lag: Some(STEPS), stream: true, ..DENSE });
    // One of the other rules, in the dense form and in another.
    let others = others();
    let (chunk, stream) = ([Some(1), Some(2), Some(3), None][below(4)], below(3) == 0);
    let warmup = if stream { 0 } else { below(3) };
    all.push(Trial { method: others[below(others.len())], chunk, warmup, stream, ..DENSE });
    let trace = [TraceSetting::Auto, TraceSetting::FixedLag, TraceSetting::Whole, TraceSetting::Recompute][below(4)];
    let chunk = [Some(1), Some(2), Some(3), None][below(4)];
    all.push(Trial { method: others[below(4)], chunk, trace, lag: Some(STEPS), warmup: below(3), ..DENSE });
    all
}

/// Rules with another recursion, or a filter, or two decays; the first four have full traces.
fn others() -> [Method; 6] {
    [
        Method::NoTransition(rule::NoTransition {}),
        Method::ScalarLeak(rule::ScalarLeak { leak: 0.7 }),
        Method::OstlRecurrent(rule::OstlRecurrent {}),
        Method::EProp(rule::EProp { kappa: 0.6, ..rule::EProp::default() }),
        Method::EsDRtrl(rule::EsDRtrl { input_decay: Some(0.9), output_decay: Some(0.5), ..rule::EsDRtrl::default() }),
        Method::Ottt(rule::Ottt { leak: 0.5 }),
    ]
}

/// Values of the `k`-th draw for the model of a seed.
fn values(seed: u64, k: u64) -> u64 {
    seed + k * 1_000_003
}

/// Compares everything about the model of a seed.
fn check(seed: u64) -> Result<Outcome, String> {
    check_draw(seed, 0)
}

#[expect(clippy::too_many_lines, reason = "one comparison after another")]
fn check_draw(seed: u64, draw: u64) -> Result<Outcome, String> {
    let case = case_with(seed, values(seed, draw), STEPS);
    let context = |what: String| format!("seed {seed}: {what}\n  {}", case.made_of.join("; "));
    let build = |trial: &LearnerConfig| Learner::new(&case.model, &case.objective, trial);
    let config = |t: &Trial| LearnerConfig {
        method: t.method,
        vjp: t.vjp,
        chunk: t.chunk,
        warmup: t.warmup,
        trace: t.trace,
        lag: t.lag,
        // No bound is asked for: the lag is as long as the sequence.
        lag_tolerance: f64::INFINITY,
        ..LearnerConfig::default()
    };
    let online = build(&LearnerConfig::default());
    let judge = match (Judge::new(&case), online) {
        (Ok(judge), Ok(_)) => judge,
        (Err(_), Err(LearnError::NotPositionWise { .. })) => return Ok(Outcome::Refused("positions are mixed")),
        (Ok(_), Err(LearnError::NoGradient { parameter, .. })) => {
            let p = case.model.param(&parameter).ok_or_else(|| context(format!("`{parameter}` is no parameter")))?;
            return refused_rightly(seed, p).map_err(context).map(|()| Outcome::Refused("a parameter learns nothing"));
        }
        (Ok(_), Err(error)) => return Err(context(format!("refused without need: {error}"))),
        // The judge sees numbers: an op whose drive happens to be zero seems to reach states through other layers alone.
        (Err(_), Ok(_)) if draw < DRAWS => return check_draw(seed, draw + 1),
        (Err(why), Ok(_)) => return Err(context(format!("should be refused: {why:?}"))),
        (Err(why), Err(error)) => return Err(context(format!("refused as {error}, should be {why:?}"))),
    };
    let exact = judge.exact(0, STEPS, 0).params;
    let bptt = Trial { method: Method::BPTT, ..DENSE };
    let mut largest =
        compare(&case, &build(&config(&bptt)).map_err(|e| context(e.to_string()))?, &bptt, &exact).map_err(context)?;
    let trials = trials(seed);
    let mut compared = 1;
    for trial in &trials {
        let learner = match build(&config(trial)) {
            // A lag is for weights with a value for each neuron: not every model has one that is remembered.
            Err(LearnError::Setting(why)) if trial.trace == TraceSetting::FixedLag && why.contains("small") => continue,
            // A rule that forgets sooner than D-RTRL may have nothing left for a parameter: then that is so.
            Err(LearnError::NoGradient { parameter, .. }) if others().contains(&trial.method) => {
                let p =
                    case.model.param(&parameter).ok_or_else(|| context(format!("`{parameter}` is no parameter")))?;
                let rules = vec![full(&*trial.method); judge.ops.len()];
                match judge.online(&rules, 0)[p].iter().all(|g| *g == 0.0) {
                    true => continue,
                    false => return Err(context(format!("{:?}: `{parameter}` is refused without need", trial.method))),
                }
            }
            other => other.map_err(|e| context(e.to_string()))?,
        };
        let rules: Vec<Rule> = judge.ops.iter().map(|op| rule_of(&learner, &op.site, op.traced())).collect();
        let want = match trial.vjp {
            Vjp::MultiStep { window } => judge.windowed(&rules, window),
            Vjp::SingleStep { .. } => judge.online(&rules, trial.warmup),
        };
        largest = largest.max(compare(&case, &learner, trial, &want).map_err(context)?);
        compared += 1;
        if trial.vjp == EXIT && trial.warmup == 0 && trial.method == Method::D_RTRL {
            silent(seed, &case, &want, &exact).map_err(context)?;
        }
    }
    if case.smooth {
        differences(&case, &exact).map_err(context)?;
    }
    Ok(Outcome::Agrees(compared, largest))
}

/// Parameter `p` is said to learn nothing: the rule must indeed give it nothing, whatever the values, and BPTT something for some
/// of them. A mask may happen to cut the only way, or a neuron that spikes in every step and resets to 0; that is no property of
/// the model, so other values are drawn. The sequence is long enough for the way from layer to layer.
fn refused_rightly(seed: u64, p: usize) -> Result<(), String> {
    let nothing = |grad: &[f64]| grad.iter().all(|g| *g == 0.0);
    for draw in 0..DRAWS {
        let case = case_with(seed, values(seed, draw), 3 * STEPS);
        let judge = Judge::new(&case).map_err(|why| format!("{why:?}"))?;
        let name = &case.model.params[p].name;
        if !nothing(&judge.online(&vec![Rule::Full; judge.ops.len()], 0)[p]) {
            return Err(format!("`{name}` is refused, but the rule gives it a gradient"));
        }
        if !nothing(&judge.exact(0, judge.steps(), 0).params[p]) {
            return Ok(());
        }
        // Spikes after a hard reset never come: an input that is zero in any case. With graded ones the way is open.
        let graded = case_graded(seed, values(seed, draw), 3 * STEPS);
        let judge = Judge::new(&graded).map_err(|why| format!("{why:?}"))?;
        if !nothing(&judge.exact(0, judge.steps(), 0).params[p]) {
            return Ok(());
        }
    }
    Err(format!("parameter {p} is refused, but the loss does not depend on it in any of {DRAWS} draws of values"))
}

/// Which rule an op of a layer learns by: that is a choice of the plan, not of the definition.
fn rule_of(learner: &Learner, site: &str, traced: bool) -> Rule {
    let ops = || learner.structure.ops.iter().zip(&learner.plan.kinds).filter(|(op, _)| op.site == site);
    let factorised = ops().any(|(_, kind)| *kind == Some(TraceKind::Factorised));
    match traced && factorised {
        true => Rule::Split(learner.plan.input_decay, learner.plan.decay),
        false => full(learner.rule()),
    }
}

fn full(rule: &dyn etrace::learn::Rule) -> Rule {
    match (rule.recursion(), rule.filter()) {
        (Recursion::Leak(leak), _) => Rule::Leak(leak),
        (Recursion::Coupled, _) => Rule::Coupled,
        (Recursion::Jacobian, kappa) if kappa > 0.0 => Rule::Filtered(kappa),
        _ => Rule::Full,
    }
}

fn compare(case: &Case, learner: &Learner, trial: &Trial, want: &[Vec<f64>]) -> Result<f64, String> {
    let got = case.gradients(learner, trial.stream);
    let error = case.worst(&got, want);
    let Trial { method, vjp, chunk, warmup, stream, trace, .. } = trial;
    if error < 1e-4 {
        return Ok(error);
    }
    let names: Vec<String> = (0..got.len())
        .filter(|&k| case.model.params[k].trainable && worst_of(&got[k], &want[k]) > 1e-4)
        .map(|k| format!("{} {:?} should be {:?}", case.model.params[k].name, got[k], want[k]))
        .collect();
    Err(format!(
        "{method:?} {vjp:?} {trace:?} chunk {chunk:?} warm-up {warmup} stream {stream}: {error:e}\n  {}",
        names.join("\n  ")
    ))
}

fn worst_of(got: &[f64], want: &[f64]) -> f64 {
    let scale = want.iter().fold(1e-12f64, |m, x| m.max(x.abs()));
    got.iter().zip(want).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / scale
}

/// A parameter that BPTT trains and the rule does not, whatever the values, must not go through silently.
fn silent(seed: u64, case: &Case, online: &[Vec<f64>], exact: &[Vec<f64>]) -> Result<(), String> {
    let zero = |v: &[f64]| v.iter().all(|x| *x == 0.0);
    for (k, spec) in case.model.params.iter().enumerate().filter(|(_, p)| p.trainable) {
        let learns = |draw: u64| {
            let case = case_with(seed, values(seed, draw), STEPS);
            let judge = Judge::new(&case).ok()?;
            (!zero(&judge.online(&vec![Rule::Full; judge.ops.len()], 0)[k])).then_some(())
        };
        if zero(&online[k]) && !zero(&exact[k]) && (1..DRAWS).find_map(learns).is_none() {
            return Err(format!("`{}` learns nothing, and nobody says so", spec.name));
        }
    }
    Ok(())
}

/// Exact gradients against central differences of the loss, along a random direction of each parameter.
fn differences(case: &Case, exact: &[Vec<f64>]) -> Result<(), String> {
    let step = judge::jacobian::Step::new(&case.model, &case.objective);
    let loss = |params: &[HostValue]| {
        let mut states = case.states.clone();
        let mut total = 0.0;
        for input in &case.inputs {
            let mut point = [params, &states].concat();
            point.extend([input.clone(), case.target.clone()]);
            states = step.func.evaluate(&point);
            total += states.pop().map_or(f64::NAN, |loss| loss.scalar());
        }
        total
    };
    let mut random = etrace::rng::Stream::new(1, "direction");
    for (k, grad) in exact.iter().enumerate().filter(|(k, _)| case.model.params[*k].trainable) {
        let direction: Vec<f64> = grad.iter().map(|_| random.normal()).collect();
        let moved = |by: f64| {
            let mut params = case.params.clone();
            params[k].data.iter_mut().zip(&direction).for_each(|(p, d)| *p += by * d);
            loss(&params)
        };
        // Two step sizes, so that the error falls with the fourth power: losses here can bend sharply.
        // The absolute value of a sign-constrained weight has a kink where the weight changes its sign.
        let kink = |(w, d): (&f64, &f64)| w.abs() < 4e-4 * d.abs();
        if case.params[k].data.iter().zip(&direction).any(kink) {
            continue;
        }
        let central = |by: f64| (moved(by) - moved(-by)) / (2.0 * by);
        let slope = (4.0 * central(1e-4) - central(2e-4)) / 3.0;
        let want: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
        if (slope - want).abs() > 1e-4 * slope.abs().max(want.abs()).max(1e-2) {
            return Err(format!(
                "`{}`: the loss changes by {slope}, the gradient says {want}",
                case.model.params[k].name
            ));
        }
    }
    Ok(())
}

/// What became of many models.
#[derive(Default)]
struct Tally {
    agreed: usize,
    compared: usize,
    largest: f64,
    refused: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, outcome: Result<Outcome, String>) {
        match outcome {
            Ok(Outcome::Agrees(count, error)) => {
                self.agreed += 1;
                self.compared += count;
                self.largest = self.largest.max(error);
            }
            Ok(Outcome::Refused(why)) => *self.refused.entry(why).or_default() += 1,
            Err(text) => {
                // At once: a long survey may not reach its end.
                println!("{text}\n");
                self.wrong.push(text);
            }
        }
    }
}

/// Checks models on two threads and says what became of them; fails if any disagrees.
fn survey(seeds: std::ops::Range<u64>) {
    let total = seeds.end - seeds.start;
    let next = AtomicU64::new(seeds.start);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = check(seed);
                    tally.lock().expect("no thread panicked").add(outcome);
                }
            });
        }
    });
    let Tally { agreed, compared, largest, refused, wrong } = tally.into_inner().expect("no thread panicked");
    println!(
        "{total} models: {agreed} agree ({compared} gradients, largest error {largest:.1e}), {} disagree, refused: {refused:?}",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} models disagree:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n\n"));
    // A survey of nothing, or of refusals, proves nothing.
    assert!(agreed as u64 * 2 > total, "only {agreed} of {total} models were compared");
}

#[test]
fn a_thousand_models() {
    survey(0..1000);
}

/// The host computes in double precision; a device, in single, must agree.
#[test]
fn some_models_on_a_device() {
    let mut session = Session::open(Device::Cpu, None, &mut |_| {}).expect("a CPU plugin");
    session.options = session.options.with("xla_backend_optimization_level", OptionValue::Int(0));
    let mut compared = 0;
    for seed in 0..40 {
        let case = case(seed, STEPS);
        let (Ok(judge), Ok(learner)) =
            (Judge::new(&case), Learner::new(&case.model, &case.objective, &LearnerConfig::default()))
        else {
            continue;
        };
        let (func, args) = case.program(&learner, false);
        let arrays: Vec<Array> = args.iter().map(array).collect();
        let got = session.evaluate("gradients", &func, &arrays).expect("the program runs");
        let got: Vec<Vec<f64>> = got.iter().map(Array::to_f64_vec).collect();
        let error = case.worst(&got, &judge.online(&vec![Rule::Full; judge.ops.len()], 0));
        assert!(error < 1e-4, "seed {seed}: {error:e}\n  {}", case.made_of.join("; "));
        compared += 1;
    }
    assert!(compared >= 15, "only {compared} models were compared");
}

fn array(value: &HostValue) -> Array {
    let dims = value.shape.dims.clone();
    match value.shape.dtype {
        DType::S32 => Array::s32(value.data.iter().map(|&v| v as i32).collect::<Vec<_>>(), dims),
        _ => Array::f32(value.data.iter().map(|&v| v as f32).collect::<Vec<_>>(), dims),
    }
    .expect("as many values as the shape has")
}

/// Models whose first values hide what they are: a mask or a saturated neuron cuts the only way.
#[test]
fn models_that_need_other_values() {
    for seed in [2471, 3141, 14_243, 30_754, 37_286, 48_249, 60_606, 62_040, 78_838, 89_810, 90_303, 98_005, 98_498] {
        if let Err(text) = check(seed) {
            panic!("{text}");
        }
    }
}

#[test]
#[ignore = "two hours on two cores: cargo test --release --test random_models -- --ignored --nocapture"]
fn a_hundred_thousand_models() {
    survey(1000..101_000);
}
