//! Equalities and inequalities that must hold for any model and rule.
//!
//! Models and data are small and random; a liveness guard makes sure that no gradient is trivially zero.

use etrace::{
    cell::{
        Dense, Init, Mode, Model, StateInit, StepContext, Surrogate,
        egru::{Egru, Feedback},
        rate, readout,
        spiking::{Reset, Tau},
    },
    learn::{Attachment, LearnError, Learner, Method, Objective, Vjp, sequence::LearnerConfig},
    net::{ETraceNet, Layer, SpeechCell, SpeechNet},
    rng::Stream,
    train::session::Session,
    verify::relative_error,
};
use hlo::{
    Func, Shape, Tensor,
    array::Array,
    pjrt::{Device, OptionValue},
};

const BATCH: usize = 3;
const N_IN: usize = 6;

fn session() -> Session {
    let mut session = Session::open(Device::Cpu, None, &mut |_| {}).expect("a CPU plugin");
    // Many small programs: compile them fast.
    session.options = session.options.with("xla_backend_optimization_level", OptionValue::Int(0));
    session
}

fn net(layer: Layer, layers: usize) -> Model {
    ETraceNet {
        layer,
        n_in: N_IN,
        n_rec: 7,
        n_out: 3,
        tau_mem: vec![Tau::Scalar(5.0); layers],
        tau_syn: 8.0,
        tau_o: 10.0,
        v_th: 1.0,
        reset: Reset::Soft,
        surrogate: Surrogate::default(),
        ff_scale: 12.0,
        rec_scale: 2.0,
        dt: 1.0,
    }
    .model(BATCH)
}

fn rnn() -> Model {
    StepContext::trace(BATCH, N_IN, |cx, x| {
        let h = rate::vanilla_rnn(cx, x, 7);
        readout::linear(cx, &h, 3)
    })
}

/// `h = lambda h + x W`: nothing but the trace carries memory, so D-RTRL is exact.
fn leaky_linear() -> Model {
    StepContext::trace(BATCH, N_IN, |cx, x| {
        let h = cx.state("h", 3, StateInit::Zeros);
        let y = cx.dense("l", &[x], 3, &Dense::new(&[Init::KaimingNormal(1.0)]));
        let h = h * 0.7 + y;
        cx.set("h", &h);
        h
    })
}

/// Two currents in a row, `g` and `h` (numbers only), a potential with a soft reset that they drive, a count of its spikes that no
/// weight reaches, and an output that no step reads. Nothing else is recurrent, so D-RTRL is exact.
fn cascade() -> Model {
    StepContext::trace(BATCH, N_IN, |cx, x| {
        let [g, h, v, count] = ["g", "h", "V", "count"].map(|name| cx.state(name, 5, StateInit::Zeros));
        let s = Surrogate::default().spike(&(&v - 1.0));
        let y = cx.dense("l", &[x], 5, &Dense::new(&[Init::KaimingNormal(8.0)]));
        let g = g * 0.8 + y;
        let h = h * 0.9 + &g * 0.5;
        let count = count * 0.7 + s.stop_gradient();
        let v = (v - s) * 0.9 + &h * 0.3 - &count * 0.1;
        cx.state("out", 5, StateInit::Zeros);
        let out = v.tanh() + &g * 0.1;
        for (name, value) in [("g", &g), ("h", &h), ("V", &v), ("count", &count), ("out", &out)] {
            cx.set(name, value);
        }
        out
    })
}

fn arguments(model: &Model, steps: usize) -> Vec<Array> {
    let mut args: Vec<Array> = model
        .params
        .iter()
        .map(|p| {
            let init = if p.name.ends_with("bias") { Init::Normal(0.1, 0.1) } else { p.init.clone() };
            Array::f32(init.values(&p.shape, 5, &p.name), p.shape.dims.clone()).expect("fits")
        })
        .collect();
    args.extend(
        model
            .states
            .iter()
            .map(|s| Array::f32(s.init.values(&s.shape, 1, &s.name, 0), s.shape.dims.clone()).expect("fits")),
    );
    let mut stream = Stream::new(9, "inputs");
    let spikes: Vec<f32> = (0..steps * BATCH * N_IN).map(|_| if stream.uniform() < 0.4 { 1.0 } else { 0.0 }).collect();
    args.push(Array::f32(spikes, [steps, BATCH, N_IN]).expect("fits"));
    args.push(Array::s32([0, 2, 1], [BATCH]).expect("fits"));
    args
}

fn gradients(session: &Session, model: &Model, config: &LearnerConfig, steps: usize) -> Vec<Array> {
    let learner = Learner::new(model, &Objective::default(), config).expect("the learner takes the model");
    let args = arguments(model, steps);
    let shapes: Vec<Shape> = args.iter().map(|a| a.shape().clone()).collect();
    let (n, s) = (model.params.len(), model.states.len());
    let func = Func::trace(&shapes, |g, v| {
        let out = learner.sequence(g, &v[..n], &v[n..n + s], &v[n + s], &v[n + s + 1]);
        out.grads.into_iter().chain([out.loss, out.out]).collect()
    });
    session.evaluate("gradients", &func, &args).expect("the program runs")
}

fn config(method: Method, vjp: Vjp, chunk: Option<usize>) -> LearnerConfig {
    LearnerConfig { method, vjp, chunk, ..LearnerConfig::default() }
}

fn worst(a: &[Array], b: &[Array]) -> f64 {
    a.iter().zip(b).map(|(x, y)| relative_error(x, y)).fold(0.0, f64::max)
}

const EXIT: Vjp = Vjp::SingleStep { attachment: Attachment::Exit };
const IN_STEP: Vjp = Vjp::SingleStep { attachment: Attachment::InStep };
const ONE: Vjp = Vjp::MultiStep { window: 1 };
const ES: Method = Method::es_d_rtrl(0.9);

#[test]
fn chunk_length_does_not_change_a_gradient() {
    let session = session();
    let steps = 13;
    let cases = [
        ("delta", net(Layer::LifDelta, 2), Method::D_RTRL, EXIT),
        ("delta", net(Layer::LifDelta, 2), ES, ONE),
        ("expcu", net(Layer::LifExpCu, 1), Method::D_RTRL, ONE),
        ("expcu", net(Layer::LifExpCu, 1), ES, EXIT),
        ("expcu", net(Layer::LifExpCu, 1), Method::D_RTRL, IN_STEP),
        ("rnn", rnn(), Method::hybrid(0.9), EXIT),
    ];
    for (name, model, method, vjp) in cases {
        let plain = gradients(&session, &model, &config(method, vjp, Some(1)), steps);
        let live = plain[0].to_f64_vec().iter().map(|v| v.abs()).sum::<f64>();
        assert!(live > 1e-4, "{name}: a silent network proves nothing");
        for k in [2, 5, steps] {
            let chunked = gradients(&session, &model, &config(method, vjp, Some(k)), steps);
            let error = worst(&chunked, &plain);
            assert!(error < 1e-5, "{name} {method:?} {vjp:?} K = {k}: {error}");
        }
    }
}

#[test]
fn warm_up_steps_carry_traces_and_no_loss() {
    let session = session();
    let model = net(Layer::LifExpCu, 1);
    for method in [Method::D_RTRL, ES, Method::BPTT] {
        let with = |chunk, warmup| LearnerConfig { warmup, ..config(method, EXIT, Some(chunk)) };
        let plain = gradients(&session, &model, &with(1, 5), 12);
        assert!(worst(&gradients(&session, &model, &with(4, 5), 12), &plain) < 1e-5);
        let all = gradients(&session, &model, &with(1, 0), 12);
        assert!(worst(&all, &plain) > 1e-2, "{method:?}: warm-up must matter");
    }
}

#[test]
fn a_window_over_the_whole_sequence_is_bptt_for_every_rule() {
    let session = session();
    let model = net(Layer::LifExpCu, 2);
    let bptt = gradients(&session, &model, &config(Method::BPTT, EXIT, None), 9);
    for method in [Method::D_RTRL, ES] {
        let windowed = gradients(&session, &model, &config(method, Vjp::MultiStep { window: 9 }, None), 9);
        assert!(worst(&windowed, &bptt) < 1e-5);
    }
}

#[test]
fn one_step_is_exact_whatever_the_group() {
    let session = session();
    for model in [net(Layer::LifDelta, 3), net(Layer::LifExpCu, 2), rnn()] {
        let bptt = gradients(&session, &model, &config(Method::BPTT, EXIT, None), 1);
        for method in [Method::D_RTRL, ES] {
            let online = gradients(&session, &model, &config(method, EXIT, None), 1);
            // A gradient that is zero but for cancellation has no relative error: measure against the largest of all.
            let scale = bptt.iter().flat_map(Array::to_f64_vec).fold(0.0f64, |m, v| m.max(v.abs()));
            let pairs = online.iter().zip(&bptt).flat_map(|(a, b)| a.to_f64_vec().into_iter().zip(b.to_f64_vec()));
            let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale;
            assert!(error < 1e-5, "{method:?}: {error}");
        }
    }
}

#[test]
fn d_rtrl_is_exact_without_other_recurrence_and_approximate_with_it() {
    let session = session();
    let exact = leaky_linear();
    let bptt = gradients(&session, &exact, &config(Method::BPTT, EXIT, None), 11);
    for vjp in [EXIT, ONE] {
        let online = gradients(&session, &exact, &config(Method::D_RTRL, vjp, Some(4)), 11);
        assert!(worst(&online, &bptt) < 1e-5);
    }
    let smoothed = gradients(&session, &exact, &config(ES, EXIT, Some(4)), 11);
    assert!(worst(&smoothed, &bptt) > 1e-2, "a smoothed trace is not exact");

    let recurrent = net(Layer::LifDelta, 1);
    let bptt = gradients(&session, &recurrent, &config(Method::BPTT, EXIT, None), 11);
    let online = gradients(&session, &recurrent, &config(Method::D_RTRL, EXIT, None), 11);
    let readout = recurrent.param("out.weight").expect("a readout");
    assert!(relative_error(&online[readout], &bptt[readout]) < 1e-5, "the readout's own weights are exact");
    assert!(relative_error(&online[0], &bptt[0]) > 1e-2, "recurrent weights are not");
}

#[test]
fn traces_are_kept_where_a_drive_reaches_and_once_where_it_is_uniform() {
    let model = cascade();
    let learner =
        Learner::new(&model, &Objective::default(), &config(Method::D_RTRL, EXIT, None)).expect("position-wise");
    let dense = learner.structure.traced().find(|(_, op)| op.x.is_some()).expect("a dense op").1;
    let named = |states: &[usize]| -> Vec<&str> {
        states.iter().map(|&a| model.states[learner.structure.groups[0].states[a]].name.as_str()).collect()
    };
    assert_eq!(named(&dense.reached[0].states), ["g", "h", "V", "out"]);
    assert_eq!(named(&dense.reached[0].wide), ["V"], "nothing reads `out`");
    assert_eq!(named(&dense.reached[0].uniform), ["g", "h"]);
    let shapes: Vec<Vec<usize>> = learner.trace_slots().into_values().map(|s| s.dims).collect();
    let of = |dims: &[usize]| shapes.iter().filter(|s| s[..] == *dims).count();
    assert_eq!(of(&[BATCH, N_IN]), 2, "g and h: {shapes:?}");
    assert_eq!(of(&[BATCH, N_IN, 5]), 1, "V: {shapes:?}");
    assert_eq!(of(&[BATCH, 5]), 3, "the bias in g, h, V: {shapes:?}");
    let learner = Learner::new(&model, &Objective::default(), &config(ES, EXIT, None)).expect("position-wise");
    let shapes: Vec<Vec<usize>> = learner.trace_slots().into_values().map(|s| s.dims).collect();
    let of = |dims: &[usize]| shapes.iter().filter(|s| s[..] == *dims).count();
    assert_eq!((of(&[]), of(&[BATCH, 5])), (2, 1), "numbers for g and h, not for V: {shapes:?}");

    let session = session();
    let bptt = gradients(&session, &model, &config(Method::BPTT, EXIT, None), 11);
    assert!(bptt[0].to_f64_vec().iter().map(|v| v.abs()).sum::<f64>() > 1e-3, "a silent network proves nothing");
    // The last of the windows is a single step.
    let windows = Vjp::MultiStep { window: 5 };
    for (vjp, chunk) in [(EXIT, 1), (EXIT, 4), (ONE, 1), (ONE, 4), (EXIT, 11), (windows, 5)] {
        let online = gradients(&session, &model, &config(Method::D_RTRL, vjp, Some(chunk)), 11);
        let error = worst(&online, &bptt);
        assert!(error < 1e-5, "{vjp:?} K = {chunk}: {error}");
    }
    let factorised = |chunk| gradients(&session, &model, &config(ES, EXIT, Some(chunk)), 11);
    assert!(worst(&factorised(4), &factorised(1)) < 1e-5);
}

#[test]
fn hybrid_takes_each_weight_from_its_rule() {
    let session = session();
    let model = net(Layer::LifDelta, 1);
    let hybrid = gradients(&session, &model, &config(Method::hybrid(0.9), EXIT, None), 9);
    let es = gradients(&session, &model, &config(ES, EXIT, None), 9);
    // All weight matrices of this net are factorised: |x| + |y| < B |w|.
    assert!(worst(&hybrid, &es) < 1e-6);
}

#[test]
fn two_uses_of_a_weight_have_a_trace_each() {
    let session = session();
    let shared = StepContext::trace(BATCH, N_IN, |cx, x| {
        let w = cx.param("w", &[N_IN, 3], Init::KaimingNormal(1.0));
        let (a, b) = (cx.state("a", 3, StateInit::Zeros), cx.state("b", 3, StateInit::Zeros));
        let (ya, yb) = (cx.matmul("first", x, &w), cx.matmul("second", &(x * 0.5), &w));
        let (a, b) = (a * 0.8 + ya, b * 0.6 + yb);
        cx.set("a", &a);
        cx.set("b", &b);
        a + b
    });
    let bptt = gradients(&session, &shared, &config(Method::BPTT, EXIT, None), 8);
    let online = gradients(&session, &shared, &config(Method::D_RTRL, EXIT, Some(3)), 8);
    assert!(worst(&online, &bptt) < 1e-5);
}

#[test]
fn coupled_positions_and_moving_weights_are_refused() {
    let mixed = StepContext::trace(BATCH, N_IN, |cx, x| {
        let h = cx.state("h", 4, StateInit::Zeros);
        let y = cx.dense("l", &[x], 4, &Dense::new(&[Init::KaimingNormal(1.0)]));
        let mean = h.mean(&[1]).unsqueeze_last();
        let h = &h * 0.5 + mean.broadcast_to(h.dims()) + y;
        cx.set("h", &h);
        h
    });
    let refused = Learner::new(&mixed, &Objective::default(), &config(Method::D_RTRL, EXIT, None)).err();
    assert!(matches!(&refused, Some(LearnError::NotPositionWise { what, .. }) if what.contains("{h}")), "{refused:?}");
    assert!(Learner::new(&mixed, &Objective::default(), &config(Method::BPTT, EXIT, None)).is_ok());

    let moving = StepContext::trace(BATCH, N_IN, |cx, x| {
        let h = cx.state("h", N_IN, StateInit::Zeros);
        let w = cx.param("w", &[N_IN, N_IN], Init::KaimingNormal(1.0));
        let fast: Tensor = &w * &h.mean_all();
        let h = h * 0.5 + cx.matmul("l", x, &fast);
        cx.set("h", &h);
        h
    });
    let refused = Learner::new(&moving, &Objective::default(), &config(Method::D_RTRL, EXIT, None)).err();
    assert!(matches!(refused, Some(LearnError::MovingWeight { .. })));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let model = rnn();
    let refused =
        |config: &LearnerConfig| Learner::new(&model, &Objective::default(), config).err().map(|e| e.to_string());
    let decay = refused(&config(Method::es_d_rtrl(1.5), EXIT, None)).expect("refused");
    assert!(decay.contains("[0, 1)") && decay.contains("1.5"), "{decay}");
    assert!(refused(&config(Method::D_RTRL, EXIT, Some(0))).is_some());
    assert!(refused(&config(Method::D_RTRL, Vjp::MultiStep { window: 0 }, None)).is_some());
}

/// Training with any rule, evaluation and observation run the same network: their outputs agree.
#[test]
fn evaluation_runs_the_network_that_is_trained() {
    let session = session();
    let steps = 10;
    let egru = |feedback| {
        StepContext::trace(BATCH, N_IN, |cx, x| {
            let unit = Egru { trace: true, feedback, threshold: Init::Constant(0.1), ..Egru::new(7) };
            let y = unit.step(cx, x, Mode::Offline);
            readout::linear(cx, &y, 3)
        })
    };
    let speech = |cell| {
        SpeechNet {
            cell,
            n_in: N_IN,
            hidden: vec![7, 5],
            n_out: 3,
            dropout: 0.0,
            inp_scale: 40.0,
            ..SpeechNet::default()
        }
        .model(BATCH, Mode::Offline)
    };
    let models = [
        ("memspeed", net(Layer::LifDelta, 2)),
        ("rnn", rnn()),
        ("egru", egru(Feedback::State)),
        ("egru with events", egru(Feedback::Events)),
        ("RadLIF", speech(SpeechCell::Radlif)),
        ("LIF", speech(SpeechCell::Lif)),
    ];
    for (name, model) in models {
        let args = arguments(&model, steps);
        let shapes: Vec<Shape> = args.iter().map(|a| a.shape().clone()).collect();
        let (n, s) = (model.params.len(), model.states.len());
        let run = |what: &str, method, chunk| {
            let config = LearnerConfig { method, chunk, vjp: Vjp::MultiStep { window: 1 }, ..LearnerConfig::default() };
            let learner = Learner::new(&model, &Objective::default(), &config).expect("the learner takes the model");
            let func = Func::trace(&shapes, |g, v| {
                let (params, states, inputs, target) = (&v[..n], &v[n..n + s], &v[n + s], &v[n + s + 1]);
                vec![match what {
                    "train" => learner.sequence(g, params, states, inputs, target).out,
                    "evaluate" => learner.evaluate(g, params, states, inputs, target).out,
                    _ => learner.observe(g, params, states, inputs)[s].sum(&[0]),
                }]
            });
            session.evaluate("outputs", &func, &args).expect("the program runs").remove(0)
        };
        let want = run("observe", Method::BPTT, None);
        assert!(want.to_f64_vec().iter().any(|v| v.abs() > 1e-3), "{name} says something");
        for (what, method, chunk) in [
            ("train", Method::BPTT, None),
            ("train", Method::D_RTRL, Some(3)),
            ("train", Method::es_d_rtrl(0.9), Some(10)),
            ("evaluate", Method::BPTT, Some(10)),
            ("evaluate", Method::BPTT, Some(5)),
            ("evaluate", Method::BPTT, Some(3)),
        ] {
            let apart = relative_error(&run(what, method, chunk), &want);
            assert!(apart < 1e-5, "{name}: {what} with {} in chunks of {chunk:?} is {apart} off", method.name());
        }
    }
}
