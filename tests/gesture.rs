//! The worked numbers of the event-based GRU (`docs/spec/speech-and-gesture.md, "Gesture worked examples"`), and the
//! shape of their network.

use etrace::{
    cell::{
        Dense, Init, Mode, Model, StepContext, Surrogate,
        egru::{Egru, Feedback, Zoneout},
    },
    learn::{
        Learner, Method, Prepared, Structure, Vjp, form::TraceSetting, objective::OfSum, sequence::LearnerConfig,
        structure::Exclusion,
    },
    net::{GestureCell, GestureNet},
    prelude::{Buffer, Engine, Objective, Optimizer},
    train::session::Session,
};
use hlo::{Func, Shape, array::Array};

mod worked;
use worked::{close, forward, gradients, session, table};

const WZ: [f32; 15] = [0.5, -0.4, 0.3, 0.2, 0.6, -0.5, 0.1, 0., 0.2, -0.3, 0.4, 0.1, 0.25, -0.15, 0.05];
const WR: [f32; 15] = [-0.2, 0.3, 0.6, 0.4, -0.1, 0.2, 0.3, 0.2, -0.4, 0.1, 0.5, 0.2, -0.6, 0.3, 0.1];
const MAPS: [(&str, &[f32]); 8] = [
    ("Wz.weight", &WZ),
    ("Wz.bias", &[0.1, -0.2, 0.]),
    ("Wr.weight", &WR),
    ("Wr.bias", &[0.05, 0., -0.1]),
    ("Whx.weight", &[0.9, 1.2, -0.7, 1.1, -0.8, 0.6]),
    ("Whx.bias", &[0., 0.1, 0.2]),
    ("Whr.weight", &[0.4, -0.3, 0.2, 0.1, 0.5, -0.6, 0.7, 0.2, 0.3]),
    ("Whr.bias", &[-0.1, 0.2, 0.1]),
];
const X: [[f32; 2]; 4] = [[1., 0.5], [0.2, -1.], [1.5, 1.], [0., 0.]];
const THRESHOLD: (&str, &[f32]) = ("thr.weight", &[0.2, 0.35, 0.15]);

fn unit(trace: bool, zoneout: f64) -> Egru {
    Egru {
        surrogate: Surrogate::Triangle { scale: 0.7, steepness: 1.7 },
        zoneout: Zoneout { rate: zoneout, published: true },
        trace,
        ..Egru::new(3)
    }
}

fn layer(unit: &Egru, mode: Mode) -> Model {
    StepContext::trace(1, 2, |cx, x| unit.step(cx, x, mode))
}

/// Compares states with a table `h ... o ...`, one row of three for each step.
#[track_caller]
fn is(model: &Model, threshold: (&str, &[f32]), want: &str) {
    let inputs: Vec<&[f32]> = X.iter().map(|x| &x[..]).collect();
    let got = forward(model, &inputs, &[&MAPS[..], &[threshold]].concat());
    for (name, values) in table(want) {
        for (t, row) in values.chunks(3).enumerate() {
            close(&format!("{name}, step {}", t + 1), &got[&name][t], row, 2e-6);
        }
    }
}

#[test]
fn event_based_gru_has_its_worked_numbers() {
    is(
        &layer(&unit(true, 0.0), Mode::Offline),
        THRESHOLD,
        "h 0.093681 0.090464 -0.065624  -0.332906 0.269276 -0.213080  0.050762 0.228345 -0.299089  -0.051372 0.223045 -0.079665
         o 1 1 0  0 1 0  0 1 0  0 0 0   y 0.293681 0.440464 0  0 0.619276 0  0 0.578345 0  0 0 0
         out 0.029368 0.044046 0  0.026431 0.101569 0  0.023788 0.149247 0  0.021409 0.134322 0",
    );
    is(
        &layer(&unit(false, 0.0), Mode::Offline),
        ("thr.weight", &[0.6, 0.1, 0.05]),
        "h 0.293681 0.340464 -0.065624  -0.238212 0.592502 -0.219623  0.141007 0.636860 -0.356982  -0.008490 0.384806 -0.172900
         out 0 0.440464 0  0 0.692502 0  0 0.736860 0  0 0.484806 0",
    );
}

#[test]
fn zoneout_is_as_published_if_asked_for() {
    let want = "h 0.088104 0.132139 -0.019687  -0.038104 0.282733 -0.069134  0.047680 0.023224 -0.106177  0.029028 0.049670 -0.056526
                o 0 0 0  0 0 0  0 1 0  0 0 0   out 0 0 0  0 0 0  0 0.037322 0  0 0.033590 0";
    is(&layer(&unit(true, 0.3), Mode::Evaluation), THRESHOLD, want);
    // The paper's weights are the published ones of 1 - p.
    let paper = Egru { zoneout: Zoneout { rate: 0.7, published: false }, ..unit(true, 0.0) };
    is(&layer(&paper, Mode::Evaluation), THRESHOLD, want);
}

#[test]
fn zoneout_keeps_a_share_of_the_units_in_training() {
    let n = 4000;
    let egru =
        Egru { zoneout: Zoneout { rate: 0.3, published: false }, threshold: Init::Constant(9.0), ..Egru::new(n) };
    let model = StepContext::trace(1, 2, |cx, x| egru.step(cx, x, Mode::Offline));
    let got = forward(&model, &[&[1.0, 0.5]], &[("noise.key", &[77.0])]);
    let kept = got["h"][0].iter().filter(|h| **h == 0.0).count() as f64 / n as f64;
    assert!((kept - 0.3).abs() < 0.02, "{kept}");
}

#[test]
fn events_as_feedback_hide_the_state_from_other_units() {
    let egru = Egru { feedback: Feedback::Events, ..unit(false, 0.0) };
    let model = layer(&egru, Mode::Offline);
    // Thresholds out of reach: no events, so every unit evolves by itself, as with matrices that are 0 below the input's rows.
    let inputs: Vec<&[f32]> = X.iter().map(|x| &x[..]).collect();
    let silent: (&str, &[f32]) = ("thr.weight", &[9.0; 3]);
    let events = forward(&model, &inputs, &[&MAPS[..], &[silent]].concat());
    let cut: Vec<(&str, Vec<f32>)> = MAPS
        .iter()
        .map(|(name, values)| {
            let from = match *name {
                "Wz.weight" | "Wr.weight" => 6,
                "Whr.weight" => 0,
                _ => values.len(),
            };
            (*name, values.iter().enumerate().map(|(k, v)| if k < from { *v } else { 0.0 }).collect())
        })
        .collect();
    let mut given: Vec<(&str, &[f32])> = cut.iter().map(|(name, v)| (*name, &v[..])).collect();
    given.push(silent);
    let alone = forward(&layer(&unit(false, 0.0), Mode::Offline), &inputs, &given);
    for t in 0..4 {
        close("h", &events["h"][t], &alone["h"][t], 1e-6);
    }
}

#[test]
fn gradients_of_event_based_gru_are_the_worked_ones() {
    let model = StepContext::trace(2, 2, |cx, x| {
        let y = unit(true, 0.0).step(cx, x, Mode::Online);
        cx.dense("fc", &[&y], 2, &Dense::new(&[Init::Zeros]))
    });
    let mut inputs = Vec::new();
    for t in 0..4 {
        inputs.extend(X[t].map(|v| 2.0 * v));
        inputs.extend(X[3 - t].map(|v| 1.5 * v));
    }
    let head: [(&str, &[f32]); 2] = [("fc.weight", &[0.5, -0.5, 0.3, 0.8, -0.6, 0.4]), ("fc.bias", &[0.05, -0.05])];
    let given = [&MAPS[..], &[THRESHOLD], &head].concat();
    let multi = Vjp::MultiStep { window: 1 };
    let bptt = "bz -3.939573e-03 1.670227e-03 -1.221028e-04   br 2.753229e-05 1.301334e-04 7.779696e-06
        bhx -6.840627e-04 2.357790e-03 1.005526e-03    bhr -3.526336e-04 1.205907e-03 4.939301e-04
        thr -1.134935e-03 4.457220e-03 -2.321608e-03   fcb 1.280209e-02 -1.280209e-02
        fc 4.689648e-03 -4.689648e-03 1.309248e-02 -1.309248e-02 0 0";
    let d_rtrl = "bz -1.577809e-02 6.884794e-03 -3.184486e-04   br 1.027652e-04 5.621259e-04 1.980342e-05
        bhx -2.437335e-03 1.025483e-02 3.586007e-03    bhr -1.256686e-03 5.227812e-03 1.809880e-03
        thr -4.266642e-03 1.960233e-02 -9.416237e-03
        Whx 5.080588e-04 -4.471813e-04 5.690609e-04 4.835396e-04 -3.021348e-04 -1.830391e-04";
    let es = "bz -8.556595e-03 2.032314e-03 -4.350896e-04   br 6.623912e-05 2.528323e-04 -1.359903e-05
        bhx -1.014275e-03 4.305739e-03 2.198875e-03    bhr -5.348214e-04 2.360339e-03 1.035997e-03
        thr -6.731498e-04 6.168297e-03 -4.763557e-03
        Whx -7.997284e-05 2.575871e-03 3.372681e-05 4.434388e-05 1.016734e-04 -1.636854e-04";
    for (method, want, factor) in
        [(Method::BPTT, bptt, 0.25), (Method::D_RTRL, d_rtrl, 1.0), (Method::es_d_rtrl(0.2), es, 1.0)]
    {
        let got = gradients(&model, (method, multi, OfSum::Never), &inputs, &[1, 0], &given);
        close("loss", &[got["loss"][0] / 4.0], &[0.692117], 2e-6);
        for (short, values) in table(want) {
            let name = match short.as_str() {
                "bz" => "Wz.bias",
                "br" => "Wr.bias",
                "bhx" => "Whx.bias",
                "bhr" => "Whr.bias",
                "thr" => "thr.weight",
                "Whx" => "Whx.weight",
                "fc" => "fc.weight",
                "fcb" => "fc.bias",
                other => panic!("no row `{other}`"),
            };
            let got: Vec<f64> = got[name].iter().map(|v| v * factor).collect();
            close(&format!("{} {name}", method.name()), &got, &values, 3e-7);
        }
        // The head learns from each step itself, in every method alike.
        let fc: Vec<f64> = got["fc.weight"].iter().map(|v| v * 0.25).collect();
        close("fc", &fc, &table(bptt).last().expect("rows").1, 3e-7);
    }
}

#[test]
fn the_pseudo_derivative_has_its_worked_numbers() {
    let x = [-0.6f32, -0.5, -0.2, 0., 0.2, 0.5, 0.6];
    let func =
        Func::trace(&[Shape::f32([7])], |_, v| vec![Surrogate::Triangle { scale: 0.7, steepness: 1.7 }.slope(&v[0])]);
    let got = session().evaluate("slope", &func, &[Array::f32(x, [7]).expect("values")]).expect("runs");
    close("slope", &got[0].to_f64_vec(), &[0., 0.105, 0.462, 0.7, 0.462, 0.105, 0.], 1e-6);
}

#[test]
fn the_published_network_has_its_published_size() {
    let net = GestureNet::default();
    let model = net.model(2, Mode::Online);
    assert_eq!(model.trainable_elements(), 7_319_627);
    let size = |prefix: &str| -> usize {
        model.params.iter().filter(|p| p.name.starts_with(prefix)).map(|p| p.shape.elements()).sum()
    };
    assert_eq!((size("conv") + size("front"), size("l0"), size("out")), (2_584_640, 4_723_712, 11_275));
    for frame_size in [64, 32] {
        let small = GestureNet { frame_size, units: 8, ..GestureNet::default() }.model(1, Mode::Online);
        assert_eq!(small.output.dims, [1, 11], "frames of {frame_size} pixels fit the front end");
    }
}

#[test]
fn the_front_end_and_the_head_have_no_trace() {
    let model = GestureNet { frame_size: 32, units: 8, ..GestureNet::default() }.model(2, Mode::Online);
    let prepared = Prepared::new(&model, &Default::default());
    let structure = Structure::new(&prepared).expect("weights do not move");
    for op in &structure.ops {
        let traced = op.exclusion.is_none();
        assert_eq!(traced, op.site.starts_with("l0."), "{}: {:?}", op.site, op.exclusion);
        if op.site == "front" {
            assert_eq!(op.exclusion, Some(Exclusion::WeightToWeight));
        }
    }
}

const STEPS: usize = 5;
const BATCH: usize = 2;

/// Five frames of 32 x 32 pixels before five convolutions and three units.
fn small(cell: GestureCell, trace_cnn: bool) -> GestureNet {
    let drive = GestureNet { scale: 0.05, ..GestureNet::default() };
    GestureNet { frame_size: 32, units: 3, n_out: 3, cell, trace_cnn, ..drive }
}

/// Parameters of a network; without connections from unit to unit, if so asked.
fn parameters(engine: &Engine<'_>, session: &Session, connected: bool) -> Vec<Buffer> {
    let params = engine.start(Optimizer::default().rule, 4).expect("parameters").params;
    let change = |(buffer, spec): (Buffer, &etrace::cell::model::ParamSpec)| {
        let array = buffer.to_array().expect("an array");
        let mut values: Vec<f32> = array.to_vec().expect("numbers");
        let units = 3;
        if !connected && spec.name.starts_with("l0.W") && spec.name.ends_with("weight") && spec.name != "l0.Whx.weight"
        {
            let kept = values.len() - units * units;
            values[kept..].fill(0.0);
        }
        if spec.name == "l0.thr.weight" {
            // Some units have events and others none.
            values.copy_from_slice(&[-0.1, 0.0, 0.1]);
        }
        session.client.upload(&Array::f32(values, array.shape().dims.clone()).expect("numbers")).expect("an upload")
    };
    params.into_iter().zip(&engine.model().params).map(change).collect()
}

/// Gradients by parameter.
fn front_gradients(session: &Session, net: &GestureNet, config: &LearnerConfig, connected: bool) -> Vec<Vec<f64>> {
    let model = net.model(BATCH, Mode::Online);
    let engine = Engine::new(session, &model, &Objective::default(), config).expect("an engine");
    let mut random = etrace::rng::Stream::new(3, "frames");
    let pixels: Vec<u8> = (0..STEPS * BATCH * net.n_in()).map(|_| u8::from(random.uniform() < 0.2)).collect();
    let inputs = Array::u8(pixels, [STEPS, BATCH, net.n_in()]).expect("frames");
    let classes = Array::s32([0, 2], [BATCH]).expect("classes");
    let params = parameters(&engine, session, connected);
    let states = engine.states(4, 0).expect("states");
    let (_, grads) = engine.gradient(&params, &states, &inputs, &classes).expect("a gradient");
    grads.iter().map(|b| b.to_array().expect("an array").to_f64_vec()).collect()
}

/// The largest difference of two gradients, in parts of each parameter's largest entry; none is zero.
fn apart(got: &[Vec<f64>], want: &[Vec<f64>], model: &Model, of: &str) -> f64 {
    let mut worst = 0.0f64;
    for ((got, want), spec) in got.iter().zip(want).zip(&model.params).filter(|(_, spec)| spec.name.starts_with(of)) {
        let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        // Without connections the reset gate has nothing to gate.
        assert!(scale > 0.0 || spec.name.starts_with("l0.Wr"), "{} learns", spec.name);
        let difference = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        worst = worst.max(if scale > 0.0 { difference / scale } else { difference });
    }
    worst
}

/// Where no unit hears another, D-RTRL is exact: of the convolutions too, if they are traced.
#[test]
fn a_traced_front_end_learns_through_time() {
    let session = Session::cpu().expect("a CPU");
    let bptt = LearnerConfig { method: Method::BPTT, ..LearnerConfig::default() };
    for cell in [GestureCell::EventGru, GestureCell::Gru, GestureCell::Lstm] {
        let [published, traced] = [false, true].map(|trace| small(cell, trace));
        let (plain, model) = (published.model(BATCH, Mode::Online), traced.model(BATCH, Mode::Online));
        let all = |model: &Model| model.params.iter().map(|p| (p.name.clone(), p.shape.clone())).collect::<Vec<_>>();
        assert_eq!(all(&plain), all(&model), "a checkpoint of one is one of the other");
        let exact = front_gradients(&session, &published, &bptt, false);
        let same = front_gradients(&session, &traced, &bptt, false);
        assert!(apart(&same, &exact, &model, "") < 1e-5, "{cell:?}: the same network, dropout included");
        for (trace, chunk) in
            [(TraceSetting::Auto, None), (TraceSetting::Whole, None), (TraceSetting::Recompute, Some(2))]
        {
            let online = LearnerConfig { trace, chunk, ..LearnerConfig::default() };
            let found = front_gradients(&session, &traced, &online, false);
            let worst = apart(&found, &exact, &model, "");
            assert!(worst < 1e-5, "{cell:?} {trace}: {worst}");
        }
        let online = LearnerConfig::default();
        let alone = front_gradients(&session, &published, &online, false);
        assert!(apart(&alone, &exact, &model, "conv") > 1e-2, "{cell:?}: as published, each step learns by itself");
        let connected = front_gradients(&session, &traced, &online, true);
        let exact = front_gradients(&session, &published, &bptt, true);
        assert!(apart(&connected, &exact, &model, "conv") > 1e-4, "{cell:?}: what units tell each other is dropped");
    }
}

#[test]
fn a_front_end_cannot_be_traced_forwards() {
    let model = small(GestureCell::EventGru, true).model(BATCH, Mode::Online);
    let base = LearnerConfig::default();
    for (config, says) in [
        (LearnerConfig { method: Method::es_d_rtrl(0.2), ..base.clone() }, "linear in its input"),
        (LearnerConfig { trace: TraceSetting::Dense, ..base.clone() }, "--trace dense"),
        (LearnerConfig { vjp: Vjp::MultiStep { window: 2 }, ..base.clone() }, "windows"),
        (LearnerConfig { update_every: Some(2), ..base.clone() }, "--update_every"),
    ] {
        let error = Learner::new(&model, &Objective::default(), &config).err().expect("refused").to_string();
        assert!(error.contains(says) && error.contains("`l0.W"), "{error}");
    }
    let stream = Learner::new(&model, &Objective::default(), &base).expect("a learner").stream(1);
    assert!(stream.is_err_and(|error| error.to_string().contains("`l0.W")));
    let without = GestureNet { cnn: false, ..small(GestureCell::EventGru, true) };
    let error = etrace::experiment::NetConfig::from(without).check().expect_err("nothing to trace");
    assert!(error.to_string().contains("trace_cnn"), "{error}");
}
