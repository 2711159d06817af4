//! The worked numbers of the speech experiments (`docs/spec/speech-and-gesture.md, "Speech worked examples"`), and what
//! normalisation and dropout promise.

use etrace::{
    cell::{
        Dense, Init, Mode, Model, StateInit, StepContext, Surrogate,
        norm::{Derivative, Norm, Statistics},
        spiking::AdLif,
    },
    learn::{Attachment, Learner, Method, Objective, Vjp, objective::OfSum, sequence::LearnerConfig},
    net::{SpeechCell, SpeechNet},
};
use hlo::{Func, Shape, array::Array};

mod worked;
use worked::{close, forward, gradients, params, session, table};

fn cell(adaptive: bool) -> AdLif {
    AdLif {
        n: 3,
        adaptive,
        alpha: AdLif::ALPHA,
        threshold: 1.0,
        init: StateInit::Zeros,
        surrogate: Surrogate::Boxcar { width: 0.5 },
    }
}

/// A cell whose input is its drive.
fn driven(adaptive: bool, recurrent: bool) -> Model {
    StepContext::trace(1, 3, |cx, x| {
        let cell = cell(adaptive);
        let x = if recurrent {
            let s = cell.last_spike(cx);
            x + AdLif::recurrence(cx, "V", &s, Init::Orthogonal(1.0))
        } else {
            x.clone()
        };
        cell.step(cx, &x)
    })
}

const V: &[f32] = &[9.0, 2.0, -1.0, 0.5, 9.0, 3.0, -2.0, 1.5, 9.0];

/// Compares the states of a cell with a table `u ... w ... s ...`, one row of three for each step.
#[track_caller]
fn cell_is(kind: (bool, bool), inputs: &[&[f32]], given: &[(&str, &[f32])], want: &str) {
    let got = forward(&driven(kind.0, kind.1), inputs, given);
    for (name, values) in table(want) {
        for (t, row) in values.chunks(3).enumerate() {
            close(&format!("{name}, step {}", t + 1), &got[&name][t], row, 3e-6);
        }
    }
}

#[test]
fn lif_has_its_worked_numbers() {
    cell_is(
        (false, false),
        &[&[6., 4., 2.], &[4., 8., 30.], &[0., -2., 10.], &[5., 9., 0.]],
        &[("alpha", &[0.85, 0.9, 0.95]), ("u", &[0.3, 0.7, 0.1]), ("s", &[0.2, 0.5, 0.9])],
        "u 0.985 0.58 -0.66  1.43725 1.322 0.873  0.371662 0.0898 1.32935  1.065913 0.98082 0.312883
         s 0 0 0  1 1 0  0 0 1  1 0 0",
    );
    cell_is(
        (false, false),
        &[&[6., 30., 12.], &[6., 30., 12.], &[1., 1., 1.]],
        &[("alpha", &[0.5, 0.99, 0.9])],
        "u 1.087615 1.176317 1.2  1.159349 1.34572 1.380001  0.311733 0.371375 0.442001  s 1 1 1  1 1 1  0 0 0",
    );
}

const ADAPTED: [(&str, &[f32]); 4] =
    [("alpha", &[0.85, 0.9, 0.95]), ("beta", &[0.97, 0.98, 0.99]), ("a", &[0.5, -0.5, 0.2]), ("b", &[1.0, 1.5, 0.3])];

#[test]
fn adaptive_lif_has_its_worked_numbers() {
    cell_is(
        (true, false),
        &[&[7., 12., 30.], &[7., 4., 10.], &[5., 3., -1.], &[10., 6., 8.]],
        &ADAPTED,
        "u 1.05 1.2 1.5  0.86375 0.49 0.945  1.197519 0.6773 0.8086  1.150008 1.18101 1.121326
         w 0 0 0  1.525 0.9 0.6  1.911125 0.637 0.783  3.45255 0.285609 0.93689  s 1 1 1  0 0 0  1 0 0  1 1 1",
    );
    cell_is(
        (true, false),
        &[&[8., 28., 14.], &[2., 5., 6.], &[1., 1., 9.]],
        &[
            ("alpha", &[0.2, 0.99, 0.9]),
            ("beta", &[0.5, 1.2, 0.975]),
            ("a", &[-2., 2., 0.7]),
            ("b", &[-1., 3., 1.1]),
            ("u", &[0.1, 0.2, 0.3]),
            ("w", &[0.05, -0.1, 0.0]),
        ],
        "u 1.541388 1.2861 1.649  1.094249 0.338164 0.938195  0.73579 0.219187 1.438945
         w -0.051639 0.10083 0.21  -1.591334 3.386093 2.45905  -2.633413 3.696157 3.054311  s 1 1 1  1 0 0  0 0 1",
    );
}

#[test]
fn recurrent_lif_has_its_worked_numbers() {
    cell_is(
        (false, true),
        &[&[7., 12., 10.], &[7., 4., 15.], &[3., 9., -1.], &[4., 6., 8.]],
        &[("alpha", &[0.85, 0.9, 0.95]), ("V.weight", V)],
        "u 1.05 1.2 0.5  1.1675 0.78 1.325  0.292375 1.952001 0.20875  0.923518 1.456801 0.748313
         s 1 1 0  1 0 1  0 1 0  0 1 0",
    );
    cell_is(
        (false, true),
        &[&[1., 2., 3.], &[11., 0., 0.], &[2., 2., 2.]],
        &[("alpha", &[0.9; 3]), ("V.weight", V), ("u", &[0.9, 0.2, 1.1]), ("s", &[0.5, 0.25, 1.0])],
        "u 0.2725 0.405 0.415  1.34525 0.3645 0.3735  0.510725 0.72805 0.43615  s 0 0 0  1 0 0  0 0 0",
    );
}

#[test]
fn recurrent_adaptive_lif_has_its_worked_numbers() {
    let given = [&ADAPTED[..], &[("V.weight", V)]].concat();
    cell_is(
        (true, true),
        &[&[7., 12., 22.], &[7., 4., 10.], &[5., 3., -1.], &[9., 6., 8.]],
        &given,
        "u 1.05 1.2 1.1  0.63875 0.840001 0.669  1.023144 1.009801 0.55312  0.956236 0.664035 0.987828
         w 0 0 0  1.525 0.9 0.52  1.798625 0.462 0.6486  3.256238 1.447859 0.752738  s 1 1 1  0 0 0  1 1 0  0 0 0",
    );
    cell_is(
        (true, true),
        &[&[3., 3., 3.], &[9., 20., 30.], &[0., 0., 0.]],
        &[
            ("alpha", &[0.88, 0.93, 0.96]),
            ("beta", &[0.985, 0.97, 0.99]),
            ("a", &[1., -1., 0.]),
            ("b", &[0., 2., 0.5]),
            ("u", &[0.4, 0.5, 0.6]),
            ("w", &[0.1, 0.2, 0.3]),
            ("s", &[1., 0., 1.]),
            ("V.weight", V),
        ],
        "u -0.46782 0.94142 -0.33588  0.665534 2.362197 0.845995  0.563063 1.376274 0.900909
         w 0.4985 -0.306 0.797  0.023203 -1.23824 0.78903  0.688389 -1.56329 0.78114  s 0 0 0  0 1 0  0 1 0",
    );
}

/// A network of 2 inputs, 3 hidden and 2 outputs with the worked example's parameters.
fn small(cell: SpeechCell, mode: Mode) -> Model {
    SpeechNet { cell, n_in: 2, hidden: vec![3], n_out: 2, dropout: 0.0, ..SpeechNet::default() }.model(2, mode)
}

const X: [f32; 16] = [9., 3., 2., 14., 4., 10., 12., 0., 0., 8., 7., 7., 11., 1., 3., 5.];

fn small_params(cell: SpeechCell) -> Vec<(&'static str, &'static [f32])> {
    let mut all: Vec<(&str, &[f32])> = vec![
        ("l0.W.weight", &[0.8, -0.3, 1.1, 0.5, 0.9, -0.6]),
        ("l0.alpha", &[0.85, 0.9, 0.95]),
        ("out.W.weight", &[0.6, -0.2, -0.4, 0.7, 0.3, 0.5]),
        ("out.alpha", &[0.85, 0.9]),
    ];
    if cell.recurrent() {
        all.push(("l0.V.weight", &[0.0, 0.4, -0.2, 0.3, 0.0, 0.5, -0.6, 0.2, 0.0]));
    }
    if cell.adaptive() {
        all.extend([("l0.beta", &[0.97f32, 0.98, 0.99][..]), ("l0.a", &[0.5, -0.5, 0.2]), ("l0.b", &[1.0, 1.5, 0.3])]);
    }
    all
}

const MULTI: Vjp = Vjp::MultiStep { window: 1 };
const BPTT: (Method, Vjp, OfSum) = (Method::BPTT, MULTI, OfSum::Always);
const D_RTRL: (Method, Vjp, OfSum) = (Method::D_RTRL, MULTI, OfSum::Never);
const ES: (Method, Vjp, OfSum) = (Method::es_d_rtrl(0.9), MULTI, OfSum::Never);

/// Compares the gradients of a worked example with a table.
#[track_caller]
fn gradient_is(cell: SpeechCell, how: (Method, Vjp, OfSum), want: &str) {
    let mode = if how.0.is_online() { Mode::Online } else { Mode::Offline };
    let got = gradients(&small(cell, mode), how, &X, &[0, 1], &small_params(cell));
    for (short, values) in table(want) {
        let name = match short.as_str() {
            "W1" => "l0.W.weight",
            "a1" => "l0.alpha",
            "W2" => "out.W.weight",
            "a2" => "out.alpha",
            "V" => "l0.V.weight",
            "beta" => "l0.beta",
            "a" => "l0.a",
            "b" => "l0.b",
            other => other,
        };
        close(&format!("{cell:?} {} {name}", how.0.name()), &got[name], &values, 2e-6);
    }
}

#[test]
fn gradients_of_lif_are_the_worked_ones() {
    gradient_is(
        SpeechCell::Lif,
        BPTT,
        "loss 0.694145  out 0.663821 -0.047980 0.583624 0.059750
         W1 -0.103608 -0.036250 -0.003044  0.094495 -0.131971 -0.003184   a1 0.206494 1.099780 0.028268
         W2  0.192964 -0.135216  0.104426 -0.076720 0 0                   a2 -0.460004 0.190149",
    );
    let d_rtrl = "W1 -0.081657 -0.041157 -0.000364 -0.025634 -0.025608 -0.000584   a1 0.500627 0.120877 0.000946
                  W2  0.058582 -0.041422  0.063508 -0.048189 0 0                   a2 -0.090764 0.178729";
    gradient_is(SpeechCell::Lif, D_RTRL, &format!("loss 2.741278 {d_rtrl}"));
    gradient_is(
        SpeechCell::Lif,
        ES,
        "W1 -0.081657 -0.027238 -0.000271 -0.025634 -0.038132 -0.000573   a1 0.500627 0.101608 -0.004424
         W2  0.047220 -0.033068  0.041315 -0.029460 0 0                   a2 -0.074703 0.051702",
    );
    // Single-step: as the reference library counts it, the hidden layer's gradients double; counted once, they do not.
    for (attachment, factor) in [(Attachment::InStep, 2.0), (Attachment::Exit, 1.0)] {
        let how = (Method::D_RTRL, Vjp::SingleStep { attachment }, OfSum::Never);
        let got = gradients(&small(SpeechCell::Lif, Mode::Online), how, &X, &[0, 1], &small_params(SpeechCell::Lif));
        let rows = table(d_rtrl);
        for (name, row, factor) in
            [("l0.W.weight", 0, factor), ("l0.alpha", 1, factor), ("out.W.weight", 2, 1.0), ("out.alpha", 3, 1.0)]
        {
            let want: Vec<f64> = rows[row].1.iter().map(|v| v * factor).collect();
            close(&format!("{attachment:?} {name}"), &got[name], &want, 2e-6);
        }
    }
}

#[test]
fn gradients_of_recurrent_lif_are_the_worked_ones() {
    gradient_is(
        SpeechCell::Rlif,
        BPTT,
        "loss 0.694145  W1 -0.100085 -0.038081 -0.003869  0.095136 -0.134655 -0.003985   a1 0.191468 1.121282 0.036767
         V   0 -0.001613 -0.000400  -0.002716 0 -0.000173  0 0 0",
    );
    gradient_is(
        SpeechCell::Rlif,
        D_RTRL,
        "W1 -0.079362 -0.042538 -0.001109 -0.023324 -0.027906 -0.001307  a1 0.488300 0.150758 0.008489
         V   0 -0.004283 -0.000119  -0.003629 0 -0.000045  0 0 0
         W2  0.058582 -0.041422  0.063508 -0.048189 0 0                   a2 -0.090764 0.178729",
    );
    gradient_is(
        SpeechCell::Rlif,
        ES,
        "W1 -0.080030 -0.028496 -0.000808 -0.024524 -0.039700 -0.001081   a1 0.499057 0.103210 -0.002921
         V   0 -0.001215 -0.000106  -0.003629 0 -0.000014  0 0 0
         W2  0.047220 -0.033068  0.041315 -0.029460 0 0                   a2 -0.074703 0.051702",
    );
}

#[test]
fn gradients_of_adaptive_lif_are_the_worked_ones() {
    gradient_is(
        SpeechCell::Adlif,
        BPTT,
        "loss 0.696336  out 0.497321 -0.009980 0.493624 0.079750
         W1 0.090538 0.051403 -0.002698 0.114495 -0.067479 -0.002797  W2 0.153042 -0.107942 0.091734 -0.067813 0 0
         a1 -0.713069 0.779402 0.025668  a2 -0.340061 0.185946
         beta 0.003747 0 -0.000028  a -0.015326 -0.003576 -0.000078  b -0.011518 0 0",
    );
    gradient_is(
        SpeechCell::Adlif,
        D_RTRL,
        "W1 0.007453 0.027611 -0.000268 0.009163 0.014254 -0.000461  W2 0.066929 -0.047318 0.058707 -0.044774 0 0
         a1 -0.104084 -0.033065 0.000637  a2 -0.128047 0.147382
         beta 0.015929 0 -0.000025  a 0.004446 -0.002477 -0.000077  b 0.003167 0 0",
    );
    gradient_is(
        SpeechCell::Adlif,
        ES,
        "W1 -0.008429 0.016370 -0.000174 0.018460 0.011823 -0.000496  W2 0.049610 -0.035589 0.037279 -0.026623 0 0
         a1 -0.080966 -0.048695 -0.005005  a2 -0.052013 0.048300
         beta 0.008112 0 -0.000015  a -0.003480 -0.002477 0.000018  b -0.003113 0 0",
    );
}

#[test]
fn gradients_of_recurrent_adaptive_lif_are_the_worked_ones() {
    gradient_is(
        SpeechCell::Radlif,
        BPTT,
        "loss 0.696336
         W1 0.094057 0.054891 -0.002698 0.115693 -0.095407 -0.002797  a1 -0.747029 0.997753 0.025412
         V 0 0.006395 -0.000329 0.007727 0 -0.000117 0 0 0  beta 0.003743 0 -0.000028
         a -0.015752 0 -0.000072  b -0.011526 0 0",
    );
    gradient_is(
        SpeechCell::Radlif,
        D_RTRL,
        "W1 0.009061 0.030455 -0.000268 0.009691 -0.005727 -0.000461  a1 -0.111274 0.131234 0.000236
         V 0 0.002919 -0.000091 -0.000523 0 -0.000004 0 0 0  beta 0.015926 0 -0.000024
         a 0.004236 0 -0.000072  b 0.003162 0 0",
    );
    gradient_is(
        SpeechCell::Radlif,
        ES,
        "W1 -0.007583 0.018511 -0.000174 0.018751 -0.010525 -0.000496  a1 -0.084555 0.138586 -0.005938
         V 0 0.002919 -0.000100 -0.000135 0 0.000016 0 0 0  beta 0.008111 0 -0.000015
         a -0.003686 0 0.000021  b -0.003115 0 0",
    );
}

#[test]
fn surrogates_have_their_worked_numbers() {
    let x = [-0.51f32, -0.5, -0.1, 0.0, 0.1, 0.5, 0.51];
    let wide = Surrogate::Relu { alpha: 0.3, width: 2.0 };
    let func = Func::trace(&[Shape::f32([7])], |_, v| {
        let all = [Surrogate::Boxcar { width: 0.5 }, Surrogate::default(), wide];
        all.iter().map(|s| s.slope(&v[0])).chain([all[0].spike(&v[0])]).collect()
    });
    let got = session().evaluate("surrogates", &func, &[Array::f32(x, [7]).expect("values")]).expect("runs");
    let want = [
        [0., 1., 1., 1., 1., 1., 0.],
        [0.147, 0.15, 0.27, 0.3, 0.27, 0.15, 0.147],
        [0.447, 0.45, 0.57, 0.6, 0.57, 0.45, 0.447],
        [0., 0., 0., 1., 1., 1., 1.],
    ];
    for (got, want) in got.iter().zip(want) {
        close("surrogate", &got.to_f64_vec(), &want, 1e-6);
    }
}

/// A layer `norm(x W)` as output.
fn normalised(norm: Norm, mode: Mode, batch: usize, n: usize) -> Model {
    StepContext::trace(batch, n, |cx, x| norm.apply(cx, x, mode))
}

#[test]
fn norms_have_their_worked_numbers() {
    let layer = normalised(Norm::layer(), Mode::Offline, 1, 3);
    let got = forward(&layer, &[&[1., 2., 4.]], &[("norm.scale", &[1., 2., 0.5]), ("norm.bias", &[0., 0.1, -0.1])]);
    close("layer norm", &got["out"][0], &[-1.069045, -0.434523, 0.568153], 2e-6);

    let batch = |statistics| Norm::Batch {
        momentum: 0.05,
        statistics,
        derivative: Derivative::ByRule,
        epsilon: 1e-5,
        scale: 1.0,
    };
    let rows: &[f32] = &[1., 4., 3., 0., 2., 2.];
    let affine: [(&str, &[f32]); 2] = [("norm.scale", &[2., 0.5]), ("norm.bias", &[0.1, -0.2])];
    let training = normalised(batch(Statistics::Batch), Mode::Offline, 3, 2);
    let got = forward(&training, &[rows], &affine);
    let want = [-2.349472, 0.412371, 2.549472, -0.812371, 0.1, -0.2];
    close("batch norm, training", &got["out"][0], &want, 2e-6);
    // Running mean 1.9 and variance 0.683333, 2.583333, whose square means are these.
    let running: [(&str, &[f32]); 2] =
        [("norm.mean", &[1.9, 1.9]), ("norm.square", &[0.683333 + 3.61, 2.583333 + 3.61])];
    let want = [-2.077475, 0.453278, 2.761358, -0.791061, 0.341942, -0.168892];
    for mode in [Mode::Evaluation, Mode::Online] {
        let model = normalised(batch(Statistics::Running), mode, 3, 2);
        let got = forward(&model, &[rows], &[affine, running].concat());
        close("batch norm, running statistics", &got["out"][0], &want, 2e-5);
    }
}

#[test]
fn batch_norm_tracks_means_over_batch_and_steps_in_every_method() {
    let norm = Norm::batch(0.9);
    let net = SpeechNet { n_in: 2, hidden: vec![3], n_out: 2, dropout: 0.0, norm, ..SpeechNet::default() };
    for how in [BPTT, D_RTRL, ES, (Method::D_RTRL, Vjp::MultiStep { window: 2 }, OfSum::Never)] {
        let mode = if how.0.is_online() { Mode::Online } else { Mode::Offline };
        let model = net.model(2, mode);
        let got = gradients(&model, how, &X, &[0, 1], &small_params(SpeechCell::Lif));
        let weight = [0.8, -0.3, 1.1, 0.5, 0.9, -0.6];
        let rows: Vec<[f64; 2]> = X.chunks(2).map(|r| [f64::from(r[0]), f64::from(r[1])]).collect();
        let drive = |j: usize| rows.iter().map(move |r| r[0] * weight[j] + r[1] * weight[3 + j]).collect::<Vec<_>>();
        let mean = |f: &dyn Fn(f64) -> f64| {
            (0..3).map(|j| drive(j).iter().map(|y| f(*y)).sum::<f64>() / 8.0).collect::<Vec<_>>()
        };
        close("mean", &got["tracked.0"], &mean(&|y| y), 1e-5);
        close("square", &got["tracked.1"], &mean(&|y| y * y), 1e-4);
        assert!(got["l0.norm.scale"].iter().any(|v| v.abs() > 1e-6), "the factor learns");
    }
}

#[test]
fn one_layer_with_norm_has_exact_traces() {
    // One feed-forward layer without recurrence has a diagonal Jacobian, so D-RTRL must equal BPTT of the same losses, with
    // normalisation as well, whether statistics of a step are constants or not.
    let of_step = |derivative| {
        let batch = Norm::Batch { momentum: 0.9, statistics: Statistics::Batch, derivative, epsilon: 1e-2, scale: 1.0 };
        [batch, Norm::Layer { derivative, epsilon: 1e-2, scale: 1.0 }]
    };
    let all = [
        vec![Norm::None, Norm::batch(0.9)],
        of_step(Derivative::Constants).into(),
        of_step(Derivative::Through).into(),
    ];
    let both = all.concat().into_iter().flat_map(|norm| [(norm, false), (norm, true)]);
    let mut of_weight = Vec::new();
    for (norm, bias) in both {
        let model = |mode| {
            StepContext::trace(2, 2, |cx, x| {
                cx.scope("l0", |cx| {
                    let init = [Init::KaimingUniform(1.0)];
                    let y = norm.of_product(cx, "W", x, 3, &Dense { bias, ..Dense::new(&init) }, mode);
                    cell(true).step(cx, &y);
                    cx.state("u", 3, StateInit::Zeros)
                })
            })
        };
        let given: Vec<(&str, &[f32])> =
            small_params(SpeechCell::Adlif).into_iter().filter(|(n, _)| n.starts_with("l0")).collect();
        let bptt = gradients(&model(Mode::Offline), (Method::BPTT, MULTI, OfSum::Never), &X, &[0, 2], &given);
        let online = gradients(&model(Mode::Online), D_RTRL, &X, &[0, 2], &given);
        for (name, want) in &bptt {
            let largest = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
            close(&format!("{norm:?} {name}, bias {bias}"), &online[name], want, 1e-4 * largest);
        }
        // Running statistics are 0 and 1 here, as without a norm.
        if norm != Norm::batch(0.9) {
            of_weight.push((norm, bias, online["l0.W.weight"].clone()));
        }
    }
    for (k, (norm, bias, one)) in of_weight.iter().enumerate() {
        for (other, _, two) in of_weight[..k].iter().filter(|(_, b, _)| b == bias) {
            let apart = one.iter().zip(two).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart > 1e-3, "{norm:?} and {other:?} have one gradient");
        }
    }
}

#[test]
fn dropout_is_new_in_every_step_and_the_same_in_every_chunking() {
    let net =
        SpeechNet { n_in: 2, hidden: vec![64, 64], n_out: 2, dropout: 0.4, inp_scale: 30.0, ..SpeechNet::default() };
    let model = net.model(2, Mode::Online);
    let keys: Vec<f32> = vec![12345.0, 54321.0];
    let given: [(&str, &[f32]); 1] = [("noise.key", &keys)];
    let one = |chunk| {
        let learner = LearnerConfig { method: Method::D_RTRL, vjp: MULTI, chunk, ..LearnerConfig::default() };
        let learner = Learner::new(&model, &Objective::default(), &learner).expect("the rule takes it");
        let mut args = params(&model, &given);
        args.push(Array::f32(X, [4, 2, 2]).expect("values"));
        args.push(Array::s32(vec![0, 1], [2]).expect("labels"));
        let shapes: Vec<Shape> = args.iter().map(|a| a.shape().clone()).collect();
        let (n, m) = (model.params.len(), args.len() - 2);
        let func = Func::trace(&shapes, |g, v| learner.sequence(g, &v[..n], &v[n..m], &v[m], &v[m + 1]).grads);
        let got = session().evaluate("dropout", &func, &args).expect("runs");
        got.iter().flat_map(Array::to_f64_vec).collect::<Vec<f64>>()
    };
    let (whole, single) = (one(Some(4)), one(Some(1)));
    let size = whole.iter().map(|v| v * v).sum::<f64>().sqrt();
    let apart = whole.iter().zip(&single).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    assert!(size > 0.0 && apart < 1e-5 * size, "{apart} of {size}");

    let rates = StepContext::trace(2, 4000, |cx, x| cx.dropout(x, 0.3));
    let ones = vec![1.0f32; 8000];
    let got = &forward(&rates, &[&ones, &ones], &given)["out"];
    for row in got {
        let kept = row.iter().filter(|v| **v > 0.0).count() as f64 / 8000.0;
        assert!((kept - 0.7).abs() < 0.02, "{kept}");
        assert!(row.iter().all(|v| *v == 0.0 || (v - 1.0 / 0.7).abs() < 1e-6));
    }
    let same = got[0].iter().zip(&got[1]).filter(|(a, b)| a == b).count() as f64 / 8000.0;
    assert!((same - 0.58).abs() < 0.03, "masks of two steps agree by chance only: {same}");
}
