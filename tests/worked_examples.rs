//! The numbers of `docs/spec/networks-dms-ei.md, "Worked examples"`, one test per table.
//!
//! Forward values agree to 2e-6, gradients to 1e-5 of each entry. On top of that half a unit of the last printed digit is
//! allowed, and for gradients the rounding of sums whose terms cancel: 1e-6 of the largest entry.

use std::sync::OnceLock;

use etrace::{
    cell::{
        Model, StateInit, StepContext, Surrogate,
        rate::RateCell,
        readout,
        spiking::{
            AdLif, Alif, Depression, Facilitation, Gif2, Gif4, Input, Lif, Neuron, NeuronConfig, Population, Reset,
            SynapseConfig, Tau, exponential, standardise,
        },
    },
    learn::{Attachment, Learner, Method, Objective, Vjp, sequence::LearnerConfig},
    net::{Coupling, EiNet, GifNet, RateNet, Stack},
    train::session::Session,
};
use hlo::{Func, Graph, Shape, Tensor, array::Array, transform};

const FORWARD: f64 = 2e-6;
const GRADIENT: f64 = 1e-5;
const LAST_DIGIT: f64 = 6e-7;

fn session() -> &'static Session {
    static SESSION: OnceLock<Session> = OnceLock::new();
    SESSION.get_or_init(|| Session::open(hlo::pjrt::Device::Cpu, None, &mut |_| {}).expect("a CPU device"))
}

#[track_caller]
fn check(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: {got:?} against {want:?}");
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (k, (a, b)) in got.iter().zip(want).enumerate() {
        let allowed =
            if tolerance == GRADIENT { GRADIENT * b.abs() + 1e-6 * largest } else { tolerance * b.abs().max(1.0) };
        assert!(
            (a - b).abs() <= allowed + LAST_DIGIT,
            "{what}[{k}]: got {a}, expected {b}\n got {got:?}\nwant {want:?}"
        );
    }
}

/// A model with one sequence of inputs, and what differs from its own initial values.
struct Run {
    model: Model,
    inputs: Vec<Vec<f32>>,
    label: i32,
    given: Vec<(&'static str, Vec<f32>)>,
}

/// Values of a state, or of the output, after each step.
type Rows = Vec<Vec<f64>>;

impl Run {
    fn new(model: Model, inputs: &[&[f32]], given: &[(&'static str, &[f32])]) -> Run {
        let inputs = inputs.iter().map(|row| row.to_vec()).collect();
        let given = given.iter().map(|(name, values)| (*name, values.to_vec())).collect();
        Run { model, inputs, label: 0, given }
    }

    fn labelled(self, label: i32) -> Run {
        Run { label, ..self }
    }

    fn value(&self, name: &str, or: impl FnOnce() -> Vec<f32>) -> Vec<f32> {
        self.given.iter().find(|(n, _)| *n == name).map_or_else(or, |(_, values)| values.clone())
    }

    /// Runs a program over (parameters, states, inputs, target).
    fn evaluate(
        &self,
        build: impl FnOnce(&Graph, &[Tensor], &[Tensor], &Tensor, &Tensor) -> Vec<Tensor>,
    ) -> Vec<Array> {
        let params =
            self.model.params.iter().map(|p| (&p.shape, self.value(&p.name, || p.init.values(&p.shape, 0, &p.name))));
        let states = self
            .model
            .states
            .iter()
            .map(|s| (&s.shape, self.value(&s.name, || s.init.values(&s.shape, 0, &s.name, 0))));
        let mut args: Vec<Array> = params
            .chain(states)
            .map(|(shape, v)| Array::f32(v, shape.dims.clone()).expect("values fit the shape"))
            .collect();
        let steps = self.inputs.len();
        args.push(Array::f32(self.inputs.concat(), [steps, 1, self.inputs[0].len()]).expect("equal rows"));
        args.push(Array::s32([self.label], [1]).expect("one label"));
        let shapes: Vec<Shape> = args.iter().map(|a| a.shape().clone()).collect();
        let (n, m) = (self.model.params.len(), self.model.params.len() + self.model.states.len());
        let func = Func::trace(&shapes, |g, v| build(g, &v[..n], &v[n..m], &v[m], &v[m + 1]));
        session().evaluate("worked_example", &func, &args).expect("the program runs")
    }

    /// Every state by name, and the output as `out`, after each step.
    fn forward(&self) -> Trajectory {
        let config = LearnerConfig { method: Method::BPTT, ..LearnerConfig::default() };
        let learner = Learner::new(&self.model, &Objective::default(), &config).expect("BPTT takes any model");
        let results = self.evaluate(|g, params, states, inputs, _| learner.observe(g, params, states, inputs));
        let names = self.model.states.iter().map(|s| s.name.clone()).chain(["out".to_string()]);
        let rows = |a: &Array| {
            let values = a.to_f64_vec();
            values.chunks(values.len() / self.inputs.len()).map(<[f64]>::to_vec).collect()
        };
        Trajectory(names.zip(results.iter().map(rows)).collect())
    }

    fn gradient(&self, method: Method, vjp: Vjp) -> Gradient {
        let config = LearnerConfig { method, vjp, ..LearnerConfig::default() };
        let learner = Learner::new(&self.model, &Objective::default(), &config).expect("the rule takes this model");
        let results = self.evaluate(|g, params, states, inputs, target| {
            let out = learner.sequence(g, params, states, inputs, target);
            out.grads.into_iter().chain([out.loss]).collect()
        });
        let names = self.model.params.iter().map(|p| p.name.clone()).chain(["loss".to_string()]);
        Gradient(names.zip(results.iter().map(Array::to_f64_vec)).collect())
    }

    fn losses(&self) -> Vec<f64> {
        let out = self.forward().get("out");
        out.iter().map(|o| o.iter().map(|x| x.exp()).sum::<f64>().ln() - o[self.label as usize]).collect()
    }
}

struct Trajectory(Vec<(String, Rows)>);

impl Trajectory {
    fn get(&self, name: &str) -> Rows {
        self.0.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no state `{name}`")).1.clone()
    }

    /// Compares all steps.
    #[track_caller]
    fn is(&self, name: &str, want: &[&[f64]]) {
        let got = self.get(name);
        assert_eq!(got.len(), want.len(), "{name}");
        for (t, (got, want)) in got.iter().zip(want).enumerate() {
            check(&format!("{name}, step {}", t + 1), got, want, FORWARD);
        }
    }

    /// Compares the last step.
    #[track_caller]
    fn ends(&self, name: &str, want: &[f64]) {
        check(name, self.get(name).last().expect("at least one step"), want, FORWARD);
    }
}

struct Gradient(Vec<(String, Vec<f64>)>);

impl Gradient {
    fn get(&self, name: &str) -> &[f64] {
        &self.0.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no parameter `{name}`")).1
    }

    #[track_caller]
    fn is(&self, name: &str, want: &[f64]) {
        check(name, self.get(name), want, GRADIENT);
    }

    /// Compares the first column of the weights of a readout with two classes; the second is its negative.
    #[track_caller]
    fn readout(&self, want: &[f64]) {
        let columns: Vec<f64> = want.iter().flat_map(|v| [*v, -v]).collect();
        self.is("out.weight", &columns);
    }
}

const IN_STEP: Vjp = Vjp::SingleStep { attachment: Attachment::InStep };
const EXIT: Vjp = Vjp::SingleStep { attachment: Attachment::Exit };
const MULTI: Vjp = Vjp::MultiStep { window: 1 };
const ES: Method = Method::es_d_rtrl(0.9);

fn lif(tau: f64, reset: Reset) -> Lif {
    Lif { tau: Tau::Scalar(tau), v_th: 1.0, reset, surrogate: Surrogate::default() }
}

/// A neuron under a current.
fn under_current(n: usize, neuron: &dyn Neuron) -> Model {
    StepContext::trace(1, n, |cx, x| neuron.step(cx, Population { n, dt: 1.0 }, &Input::default().current(x)))
}

/// One value per step as rows of one.
fn column<T: Copy>(values: &[T]) -> Vec<[T; 1]> {
    values.iter().map(|v| [*v]).collect()
}

/// Compares a model of one unit with columns of numbers.
#[track_caller]
fn one_unit(model: Model, inputs: &[f32], want: &[(&str, &[f64])]) {
    let inputs = column(inputs);
    let trajectory = Run::new(model, &inputs.iter().map(|r| &r[..]).collect::<Vec<_>>(), &[]).forward();
    for (name, values) in want {
        let values = column(values);
        trajectory.is(name, &values.iter().map(|r| &r[..]).collect::<Vec<_>>());
    }
}

#[test]
fn lif_under_a_current() {
    let x = [3.0, 3.0, 3.0, 3.0, 0.0, 3.0, 3.0];
    let soft = [0.543808, 0.989040, 1.353565, 0.833282, 0.682234, 1.102374, 0.627624];
    let hard = [0.543808, 0.989040, 1.353565, 0.543808, 0.445232, 0.908333, 1.287488];
    let spikes = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0];
    one_unit(under_current(1, &lif(5.0, Reset::Soft)), &x, &[("V", &soft), ("out", &spikes)]);
    let spikes = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    one_unit(under_current(1, &lif(5.0, Reset::Hard)), &x, &[("V", &hard), ("out", &spikes)]);
}

#[test]
fn lif_under_delta_inputs() {
    let neuron = lif(5.0, Reset::Soft);
    let model =
        StepContext::trace(1, 1, |cx, x| neuron.step(cx, Population { n: 1, dt: 1.0 }, &Input::default().delta(x)));
    let v = [0.6, 1.191238, 0.156573, 0.628191, 1.414319];
    one_unit(model, &[0.6, 0.7, 0.0, 0.5, 0.9], &[("V", &v), ("out", &[0.0, 1.0, 0.0, 0.0, 1.0])]);
}

#[test]
fn alif_under_a_current() {
    let x = [4.0, 4.0, 4.0, 4.0, 4.0, 0.0];
    let a = [0.0, 0.0, 0.990050, 0.980199, 1.960495, 1.940988];
    let spikes = [0.0, 1.0, 0.0, 1.0, 0.0, 0.0];
    let soft = [0.725077, 1.318720, 0.986023, 1.532364, 1.160940, 0.950497];
    let hard = [0.725077, 1.318720, 0.725077, 1.318720, 0.725077, 0.593643];
    for (reset, v) in [(Reset::Soft, &soft), (Reset::Hard, &hard)] {
        let neuron = Alif::of(lif(5.0, reset), 100.0, 0.1);
        one_unit(under_current(1, &neuron), &x, &[("V", v), ("a", &a), ("out", &spikes)]);
    }
}

#[test]
fn gif_with_an_after_current() {
    let neuron = Gif2 {
        tau: Tau::Scalar(100.0),
        v_th: 1.0,
        tau_i2: Tau::Scalar(1500.0),
        a2: 1.0,
        diff_spike: false,
        surrogate: Surrogate::default(),
    };
    let x: [&[f32]; 5] = [&[60.0, 50.0], &[60.0, 0.0], &[0.0, 60.0], &[60.0, 30.0], &[60.0, 0.0]];
    let t = Run::new(under_current(2, &neuron), &x, &[]).forward();
    t.is(
        "V",
        &[
            &[0.597010, 0.497508],
            &[1.188079, 0.492558],
            &[0.176264, 1.084667],
            &[0.761584, 0.372386],
            &[1.341085, 0.358744],
        ],
    );
    t.is("I2", &[&[0.0, 0.0], &[0.0, 0.0], &[-0.999334, 0.0], &[-0.998668, -0.999334], &[-0.998002, -0.998668]]);
    t.is(
        "out",
        &[
            &[0.997986, -0.997986],
            &[0.999959, -0.999959],
            &[-0.999976, 0.999976],
            &[0.999868, -0.999868],
            &[0.999979, -0.999979],
        ],
    );
}

#[test]
fn gif_with_an_adaptive_threshold() {
    let neuron = Gif4 {
        tau: Tau::Scalar(200.0),
        a2: 1.0,
        tau_i2: 2000.0,
        a1: 0.01,
        tau_i1: 50.0,
        a_th: 1.0,
        tau_th: 100.0,
        v_init: StateInit::Zeros,
        diff_spike: false,
        surrogate: Surrogate::default(),
    };
    let x: [&[f32]; 4] = [&[0.0, 50.0, 10.0], &[30.0, 30.0, 0.0], &[250.0, 0.0, 0.0], &[0.0, 20.0, 10.0]];
    let t = Run::new(under_current(3, &neuron), &x, &[("V", &[0.2, 0.9, 1.2])]).forward();
    t.is(
        "V",
        &[
            &[0.199003, 1.144887, 0.243942],
            &[0.347636, 0.288854, 0.237790],
            &[1.592782, 0.282479, 0.231671],
            &[0.584889, 0.375887, 0.275460],
        ],
    );
    t.is("Vth", &[&[1.0, 1.0, 1.99], &[1.0, 1.99, 1.9801], &[1.0, 1.9801, 1.970299], &[1.99, 1.970299, 1.960596]]);
    t.is(
        "I1",
        &[
            &[0.0, 0.0, 0.009802],
            &[0.0, 0.009802, 0.009608],
            &[0.0, 0.009608, 0.009418],
            &[0.009802, 0.009418, 0.009231],
        ],
    );
    t.is(
        "I2",
        &[
            &[0.0, 0.0, -0.999500],
            &[0.0, -0.999500, -0.999001],
            &[0.0, -0.999001, -0.998501],
            &[-0.999500, -0.998501, -0.998002],
        ],
    );
    t.is(
        "out",
        &[
            &[-0.623320, 1.410994, -0.787674],
            &[1.406387, -0.580244, -0.826143],
            &[1.414043, -0.688839, -0.725204],
            // The printed 1.337537, -0.275576, -1.061959 lost digits in a variance; these are the exact values.
            &[1.337527, -0.275574, -1.061952],
        ],
    );
}

#[test]
fn synapses_and_plasticity() {
    let model = StepContext::trace(1, 1, |cx, x| exponential(cx, "g", 10.0, 1.0, x));
    one_unit(model, &[1.0, 0.0, 0.5, 0.0], &[("g", &[1.0, 0.904837, 1.318731, 1.193237])]);
    let spikes = [1.0, 0.0, 1.0, 1.0, 0.0];
    let model = StepContext::trace(1, 1, |cx, x| Depression::default().step(cx, x, 1.0));
    let x = [0.9, 0.900200, 0.810379, 0.729720, 0.730260];
    one_unit(model, &spikes, &[("x", &x), ("out", &[1.0, 0.0, 0.900399, 0.810758, 0.0])]);
    let model = StepContext::trace(1, 1, |cx, x| Facilitation::default().step(cx, x, 1.0));
    let u = [0.277200, 0.276647, 0.384597, 0.476139, 0.475188];
    let x = [0.722800, 0.725558, 0.449241, 0.240820, 0.248374];
    one_unit(model, &spikes, &[("u", &u), ("x", &x), ("out", &[0.277200, 0.0, 0.280097, 0.216511, 0.0])]);
}

#[test]
fn readout_and_standardisation() {
    let model = StepContext::trace(1, 2, |cx, x| readout::leaky(cx, x, 2, 10.0, 1.0));
    let t =
        Run::new(model, &[&[1.0, 0.0], &[0.0, 1.0], &[1.0, 1.0]], &[("out.weight", &[1.0, -1.0, 0.5, 2.0])]).forward();
    t.is("out", &[&[1.0, -1.0], &[1.404837, 1.095163], &[2.771149, 1.990944]]);
    let model = StepContext::trace(1, 3, |_, x| standardise(x));
    Run::new(model, &[&[1.0, 2.0, 4.0]], &[]).forward().is("out", &[&[-1.069042, -0.267261, 1.336302]]);
}

#[test]
fn surrogate_derivatives() {
    use Surrogate::*;
    let table: [(Surrogate, [f64; 6]); 8] = [
        (Surrogate::default(), [0.0, 0.15, 0.27, 0.30, 0.21, 0.0]),
        (Relu { alpha: 0.3, width: 0.5 }, [0.0, 0.0, 0.12, 0.15, 0.06, 0.0]),
        (S2nn { alpha: 4.0, beta: 1.0 }, [0.009866, 0.419974, 0.961043, 1.0, 0.769231, 0.5]),
        (S2nn { alpha: 8.0, beta: 1.0 }, [0.0000491531, 0.141302, 1.711278, 1.0, 0.769231, 0.5]),
        (LeakyRelu { alpha: 0.1, beta: 1.0 }, [0.1, 0.1, 0.1, 1.0, 1.0, 1.0]),
        (InvSquare { alpha: 10.0 }, [0.003906, 0.027778, 0.25, 1.0, 0.0625, 0.008264]),
        (InvSquare { alpha: 100.0 }, [4.38577e-5, 3.84468e-4, 0.00826446, 1.0, 0.00104058, 9.80296e-5]),
        (
            MultiGaussian { h: 0.15, s: 6.0, sigma: 0.5, scale: 0.5 },
            [-0.012324, 0.258858, 0.430038, 0.439112, 0.363632, 0.043452],
        ),
    ];
    let x = Array::f32([-1.5f32, -0.5, -0.1, 0.0, 0.3, 1.0], [6]).expect("six values");
    let func = Func::trace(&[x.shape().clone()], |g, v| {
        let derivative = |surrogate: &Surrogate| {
            let spike = Func::trace(&[v[0].shape().clone()], |_, v| vec![surrogate.spike(&v[0])]);
            let ones = g.full(v[0].shape(), 1.0);
            transform::vjp(g, &spike, &v[..1], &[true]).pull(&[Some(ones)]).remove(0).expect("a derivative")
        };
        let spike = Surrogate::default().spike(&v[0]);
        table.iter().map(|(surrogate, _)| derivative(surrogate)).chain([spike]).collect()
    });
    let got = session().evaluate("surrogates", &func, &[x]).expect("the program runs");
    for ((surrogate, want), got) in table.iter().zip(&got) {
        check(&format!("{surrogate:?}"), &got.to_f64_vec(), want, FORWARD);
    }
    check("spike", &got[8].to_f64_vec(), &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0], 0.0);
    assert_eq!(Surrogate::by_name("inv_square"), Some(InvSquare { alpha: 10.0 }));
}

#[test]
fn cross_entropy() {
    let model = || StepContext::trace(1, 2, |_, x| x.clone());
    for (logits, label, want) in [([0.5, -1.0], 1, 1.701413), ([2.0, 0.3], 0, 0.167786)] {
        let run = Run::new(model(), &[&logits], &[]).labelled(label);
        check("loss", run.gradient(Method::BPTT, EXIT).get("loss"), &[want], FORWARD);
    }
}

/// `docs/spec/speech-and-gesture.md, "Speech worked examples"`: adaptive LIF, with clipped parameters, and with recurrence.
#[test]
#[rustfmt::skip]
fn adaptive_lif_of_the_speech_benchmark() {
    let cell = AdLif {
        n: 3,
        adaptive: true,
        alpha: AdLif::ALPHA,
        threshold: 1.0,
        init: StateInit::Zeros,
        surrogate: Surrogate::Boxcar { width: 0.5 },
    };
    let model = StepContext::trace(1, 3, |cx, x| cell.step(cx, x));
    let t = Run::new(model, &[&[8.0, 28.0, 14.0], &[2.0, 5.0, 6.0], &[1.0, 1.0, 9.0]], &[
        ("alpha", &[0.2, 0.99, 0.9]), ("beta", &[0.5, 1.2, 0.975]), ("a", &[-2.0, 2.0, 0.7]), ("b", &[-1.0, 3.0, 1.1]),
        ("u", &[0.1, 0.2, 0.3]), ("w", &[0.05, -0.1, 0.0]),
    ]).forward();
    t.is("u", &[&[1.541388, 1.286100, 1.649000], &[1.094249, 0.338164, 0.938195], &[0.735790, 0.219187, 1.438945]]);
    t.is("w", &[&[-0.051639, 0.100830, 0.21], &[-1.591334, 3.386093, 2.459050], &[-2.633413, 3.696157, 3.054311]]);
    t.is("out", &[&[1.0, 1.0, 1.0], &[1.0, 0.0, 0.0], &[0.0, 0.0, 1.0]]);
    let model = StepContext::trace(1, 3, |cx, x| {
        let s = cell.last_spike(cx);
        let vs = AdLif::recurrence(cx, "V", &s, etrace::cell::Init::KaimingNormal(1.0));
        cell.step(cx, &(x + vs))
    });
    let x: [&[f32]; 4] = [&[7.0, 12.0, 22.0], &[7.0, 4.0, 10.0], &[5.0, 3.0, -1.0], &[9.0, 6.0, 8.0]];
    let t = Run::new(model, &x, &[
        ("alpha", &[0.85, 0.90, 0.95]), ("beta", &[0.97, 0.98, 0.99]), ("a", &[0.5, -0.5, 0.2]), ("b", &[1.0, 1.5, 0.3]),
        ("V.weight", &[9.0, 2.0, -1.0, 0.5, 9.0, 3.0, -2.0, 1.5, 9.0]),
    ]).forward();
    t.is("u", &[
        &[1.05, 1.2, 1.1], &[0.638750, 0.840001, 0.669000], &[1.023144, 1.009801, 0.553120], &[0.956236, 0.664035, 0.987828],
    ]);
    t.is("w", &[
        &[0.0; 3], &[1.525, 0.9, 0.52], &[1.798625, 0.462, 0.6486], &[3.256238, 1.447859, 0.752738],
    ]);
}

// Two neurons.

const X: [&[f32]; 5] = [&[1.0, 0.0], &[1.0, 1.0], &[0.0, 1.0], &[1.0, 1.0], &[0.0, 0.0]];
const FF: [f32; 4] = [0.9, -0.3, 0.4, 1.2];
const RR: [f32; 4] = [0.2, 0.5, -0.6, 0.3];

fn scaled(factor: f32, values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| factor * v).collect()
}

fn stacked(ff: f32, rr: f32) -> Vec<f32> {
    [scaled(ff, &FF), scaled(rr, &RR)].concat()
}

fn two_neurons(layer: &str) -> Stack {
    Stack { n_in: 2, n_rec: 2, ..Stack::named(layer).expect("a layer") }
}

/// The same layers with another membrane.
fn with_tau(mut net: Stack, tau: &Tau) -> Stack {
    match &mut net.neuron {
        NeuronConfig::Lif(lif) => lif.tau = tau.clone(),
        NeuronConfig::Alif(alif) => alif.tau = tau.clone(),
        other => panic!("{other:?} has no published example"),
    }
    net
}

/// The same layers with plastic inputs, where they can be.
fn plastic(mut net: Stack) -> Stack {
    match &mut net.synapse {
        SynapseConfig::StdExpCu(s) => s.plastic_input = true,
        SynapseConfig::StpExpCu(s) => s.plastic_input = true,
        _ => {}
    }
    net
}

/// Layer `k` by itself: its potentials and its states after five steps.
fn layer(net: &Stack, k: usize, given: &[(&'static str, &[f32])]) -> Trajectory {
    let net = with_tau(net.clone(), &Tau::Scalar(5.0));
    Run::new(StepContext::trace(1, 2, |cx, x| net.step_layer(cx, k, x)), &X, given).forward()
}

#[test]
fn layers_with_one_map() {
    for kind in ["lif-delta", "if_delta"] {
        let t = layer(&two_neurons(kind), 0, &[("l0.weight", &stacked(1.0, 1.0))]);
        t.is(
            "l0.V",
            &[
                &[0.9, -0.3],
                &[2.036858, 0.654381],
                &[1.448907, 2.235762],
                &[1.267534, 2.711756],
                &[-0.180962, 2.201468],
            ],
        );
    }
    let t = layer(&two_neurons("alif_delta"), 0, &[("l0.weight", &stacked(1.4, 1.0))]);
    t.is(
        "l0.V",
        &[&[1.26, -0.42], &[2.232870, 1.416133], &[1.169388, 2.820701], &[2.177414, 3.050664], &[0.563985, 2.478941]],
    );
    t.ends("l0.a", &[2.921285, 2.940694]);
    let t = layer(&two_neurons("lif_expcu"), 0, &[("l0.weight", &stacked(3.0, 3.0))]);
    t.is(
        "l0.V",
        &[
            &[0.489427, -0.163142],
            &[1.550511, 0.208240],
            &[1.817388, 1.404248],
            &[2.395260, 2.371792],
            &[2.486605, 3.404786],
        ],
    );
    t.ends("l0.g", &[7.415832, 12.587120]);
}

#[test]
fn layers_with_plastic_synapses() {
    let t = layer(&plastic(two_neurons("lif_std_expcu")), 0, &[("l0.weight", &stacked(3.0, 3.0))]);
    t.is(
        "l0.V",
        &[
            &[0.489427, -0.163142],
            &[1.501666, 0.224522],
            &[1.711492, 1.367184],
            &[2.104346, 2.175942],
            &[2.075605, 3.026897],
        ],
    );
    t.ends("l0.g", &[6.462448, 11.387024]);
    t.ends("l0.x", &[0.729559, 0.810200]);
    t.ends("l0.in.x", &[0.730439, 0.730099]);
    let t = layer(&plastic(two_neurons("lif_stp_expcu")), 0, &[("l0.weight", &stacked(8.0, 8.0))]);
    t.is(
        "l0.V",
        &[
            &[0.361785, -0.120595],
            &[1.148847, 0.152537],
            &[1.135645, 1.038954],
            &[1.278585, 1.462417],
            &[1.104180, 1.950977],
        ],
    );
    t.ends("l0.g", &[4.833108, 8.674295]);
    t.ends("l0.u", &[0.476172, 0.384421]);
    t.ends("l0.x", &[0.240091, 0.448159]);
    t.ends("l0.in.u", &[0.474934, 0.475403]);
    t.ends("l0.in.x", &[0.250264, 0.247414]);
}

#[test]
fn layers_with_conductances() {
    let net = two_neurons("lif_expco_dense");
    let inhibitory = scaled(4.0, &RR[..2]);
    let given: [(&str, &[f32]); 3] =
        [("l0.inp.weight", &scaled(3.0, &FF)), ("l0.exc.weight", &RR[..2]), ("l0.inh.weight", &inhibitory)];
    let t = layer(&net, 0, &given);
    t.is(
        "l0.V",
        &[
            &[0.489427, -0.163142],
            &[1.550511, 0.208240],
            &[1.720292, 1.200706],
            &[2.143352, 1.187257],
            &[2.003867, 0.850052],
        ],
    );
    t.ends("l0.g_inp", &[9.210398, 6.787413]);
    t.ends("l0.g_exc", &[0.544714, 1.361784]);
    t.ends("l0.g_inh", &[1.523870, 3.809675]);
    let excitatory = [&FF[..2], &RR[..2]].concat();
    let given: [(&str, &[f32]); 2] = [("l1.exc.weight", &excitatory), ("l1.inh.weight", &scaled(4.0, &excitatory))];
    let t = layer(&net, 1, &given);
    t.is(
        "l1.V",
        &[
            &[0.524125, 0.184920],
            &[0.625290, 0.321197],
            &[0.275487, 0.243520],
            &[0.243579, 0.221712],
            &[0.239564, 0.211522],
        ],
    );
    t.ends("l1.g_exc", &[2.084378, 0.694793]);
    t.ends("l1.g_inh", &[8.871792, 2.957264]);
}

const W_OUT: [f32; 4] = [0.5, -0.3, -0.2, 0.4];

fn spiking_net(net: Stack, w: f32) -> Run {
    let net = with_tau(Stack { tau_o: 10.0, ..net }, &Tau::Scalar(10.0));
    Run::new(net.model(1), &X, &[("l0.weight", &stacked(w, w)), ("out.weight", &W_OUT)]).labelled(1)
}

/// Compares the gradients of a [`spiking_net`]: weights by row, bias, first column of the readout.
#[track_caller]
fn spiking_gradient(run: &Run, method: Method, vjp: Vjp, weight: [f64; 8], bias: [f64; 2], out: [f64; 2]) {
    let g = run.gradient(method, vjp);
    g.is("l0.weight", &weight);
    g.is("l0.bias", &bias);
    g.readout(&out);
}

#[test]
#[rustfmt::skip]
fn gradients_of_a_soft_lif_net() {
    let run = spiking_net(two_neurons("lif_delta"), 1.0);
    check("loss", &run.losses(), &[std::f64::consts::LN_2, 1.171101, 1.258183, 1.339671, 0.875991], FORWARD);
    let out = [5.501789, 3.711071];
    spiking_gradient(&run, Method::BPTT, EXIT,
        [1.184319, -0.579124, 0.763939, -0.304028, 0.481833, 0.0, 0.168889, 0.0], [1.498322, -0.579124], out);
    spiking_gradient(&run, Method::D_RTRL, IN_STEP,
        [0.425016, -0.148697, 0.375621, -0.078063, 0.244875, 0.0, 0.099209, 0.0], [0.571741, -0.148697], out);
    spiking_gradient(&run, Method::D_RTRL, MULTI,
        [0.417992, -0.163199, 0.380067, -0.085676, 0.247226, 0.0, 0.099244, 0.0], [0.567032, -0.163199], out);
    spiking_gradient(&run, ES, IN_STEP,
        [0.397847, -0.141634, 0.313639, -0.074544, 0.201665, 0.0, 0.076444, 0.0], [0.240865, -0.074544],
        [4.858975, 3.220062]);
}

#[test]
#[rustfmt::skip]
fn gradients_of_a_hard_lif_net() {
    let run = spiking_net(Stack { neuron: lif(10.0, Reset::Hard).into(), ..two_neurons("lif-delta") }, 1.0);
    run.forward().is("l0.V", &[&[0.9, -0.3], &[2.114354, 0.628549], &[0.6, 2.268735], &[1.242902, 1.2], &[-0.4, 0.8]]);
    let out = [3.158740, 2.613427];
    spiking_gradient(&run, Method::BPTT, EXIT,
        [1.206403, -1.057089, 0.873290, -0.853321, 0.359066, -0.277755, 0.189327, -0.298332], [1.565469, -1.334844], out);
    spiking_gradient(&run, Method::D_RTRL, IN_STEP,
        [0.458578, -0.471744, 0.411844, -0.435367, 0.161132, -0.205190, 0.104914, -0.218135], [0.619710, -0.676933], out);
}

#[test]
#[rustfmt::skip]
fn gradients_of_an_alif_net() {
    let run = spiking_net(Stack { neuron: Alif::of(lif(10.0, Reset::Soft), 20.0, 0.3).into(), ..two_neurons("alif-delta") }, 1.0);
    let out = [3.647430, 2.881939];
    spiking_gradient(&run, Method::BPTT, EXIT,
        [1.258424, -0.622994, 0.950404, -0.380218, 0.595832, -0.073384, 0.221711, -0.081102], [1.668029, -0.700431], out);
    spiking_gradient(&run, Method::D_RTRL, IN_STEP,
        [0.527300, -0.232026, 0.516167, -0.174968, 0.332833, -0.073384, 0.147959, -0.081102], [0.747658, -0.309462], out);
}

#[test]
#[rustfmt::skip]
fn gradients_of_a_lif_net_with_exponential_synapses() {
    let run = spiking_net(two_neurons("lif_expcu"), 4.0);
    let out = [7.408157, 2.421446];
    spiking_gradient(&run, Method::BPTT, EXIT,
        [0.482758, -0.188374, 0.307901, -0.119025, 0.132822, -0.040251, 0.007787, 0.0], [0.584054, -0.228625], out);
    spiking_gradient(&run, Method::D_RTRL, IN_STEP,
        [0.301262, -0.089247, 0.239879, -0.068121, 0.135855, -0.027753, 0.015573, 0.0], [0.397792, -0.116999], out);
    spiking_gradient(&run, Method::D_RTRL, MULTI,
        [0.198035, -0.065622, 0.147532, -0.042117, 0.079121, -0.014527, 0.007787, 0.0], [0.254418, -0.080150], out);
    spiking_gradient(&run, ES, IN_STEP,
        [0.246296, -0.068503, 0.224784, -0.071941, 0.141351, -0.035886, 0.020177, 0.0], [0.125570, -0.039643],
        [6.483759, 2.068458]);
}

fn gif_net() -> Run {
    let net = GifNet {
        n_in: 2,
        n_rec: 3,
        n_out: 2,
        tau_neu: Tau::Scalar(5.0),
        tau_syn: 5.0,
        tau_i2: Tau::PerNeuron(vec![100.0, 200.0, 300.0]),
        a2: 1.0,
        tau_o: 5.0,
        ..GifNet::default()
    };
    let weight = [4.0, 1.0, -2.0, 1.5, 3.0, 2.5, 0.5, -0.4, 0.3, -0.6, 0.2, 0.8, 0.7, 0.1, -0.5];
    let out = [0.5, -0.3, -0.2, 0.4, 0.1, 0.6];
    let x: [&[f32]; 6] = [&[1.0, 0.0], &[0.0, 1.0], &[1.0, 1.0], &[0.0, 0.0], &[1.0, 0.0], &[1.0, 1.0]];
    Run::new(net.model(1), &x, &[("l0.weight", &weight), ("out.weight", &out)]).labelled(1)
}

#[test]
#[rustfmt::skip]
fn gif_net_forward() {
    let run = gif_net();
    let t = run.forward();
    t.is("l0.g", &[
        &[4.0, 1.0, -2.0], &[4.774923, 3.818731, 0.862539], &[9.909376, 6.726512, 1.506187],
        &[8.013111, 5.307202, 2.333161], &[10.460581, 5.145170, 1.010231], &[13.964399, 8.012509, 2.427107],
    ]);
    t.is("l0.V", &[
        &[0.725077, 0.181269, -0.362539], &[1.459190, 0.840629, -0.140470], &[1.992752, 1.907559, 0.158018],
        &[1.908182, 1.524714, 0.552305], &[2.106681, 1.002430, 0.635313], &[2.730171, 0.916009, 0.960110],
    ]);
    t.ends("l0.I2", &[-3.901484, -2.970174, 0.0]);
    t.is("out", &[
        &[0.489886, -1.102242], &[0.795096, -1.949511], &[0.756884, -2.408543],
        &[0.922862, -2.955096], &[1.422648, -3.576516], &[1.950229, -4.054091],
    ]);
    check("loss", &run.losses(), &[1.777355, 2.806899, 3.206757, 3.898440, 5.005885, 6.006785], FORWARD);
}

/// Compares a gradient of the GIF network: rows in0, in1, rec0, rec1 of the weights (rec2 is zero), bias, readout.
#[track_caller]
fn gif_gradient(method: Method, vjp: Vjp, weight: [f64; 12], bias: [f64; 3], out: [f64; 3]) {
    let g = gif_net().gradient(method, vjp);
    g.is("l0.weight", &[&weight[..], &[0.0; 3]].concat());
    g.is("l0.bias", &bias);
    g.readout(&out);
}

const GIF_OUT: [f64; 3] = [16.839348, 1.975564, -18.814911];

#[test]
#[rustfmt::skip]
fn gif_net_bptt() {
    gif_gradient(Method::BPTT, EXIT,
        [3.923064, -5.735320, 1.910371, 2.968184, -4.210693, 1.255397, 1.543347, -2.464062, 0.921613, 0.453027, -0.898650, 0.446034],
        [6.220396, -9.116847, 3.007289], GIF_OUT);
}

#[test]
#[rustfmt::skip]
fn gif_net_d_rtrl() {
    gif_gradient(Method::D_RTRL, IN_STEP,
        [1.930541, -3.059044, 1.128503, 1.642124, -2.442141, 0.800017, 1.051140, -1.792514, 0.741374, 0.371404, -0.788342, 0.416938],
        [3.227925, -5.089457, 1.861532], GIF_OUT);
    gif_gradient(Method::D_RTRL, EXIT,
        [1.302802, -2.069915, 0.767114, 1.061095, -1.622065, 0.560971, 0.604658, -1.073333, 0.468675, 0.193196, -0.432562, 0.239366],
        [2.127497, -3.382934, 1.255437], GIF_OUT);
    gif_gradient(Method::D_RTRL, MULTI,
        [1.315199, -2.076324, 0.765065, 1.066074, -1.625191, 0.559040, 0.605467, -1.071329, 0.466624, 0.193477, -0.431435, 0.238283],
        [2.144628, -3.392460, 1.251497], GIF_OUT);
}

#[test]
#[rustfmt::skip]
fn gif_net_es_d_rtrl() {
    gif_gradient(ES, IN_STEP,
        [1.628857, -2.573367, 0.944510, 1.494814, -2.150770, 0.655955, 1.117639, -1.838208, 0.720570, 0.439471, -0.892869, 0.453398],
        [1.098469, -1.710887, 0.612418], [14.817201, 1.925035, -16.742233]);
    gif_gradient(ES, MULTI,
        [0.933062, -1.485443, 0.554673, 0.880245, -1.306748, 0.426201, 0.579904, -1.005552, 0.426386, 0.194358, -0.432110, 0.238137],
        [0.991188, -1.512796, 0.523419], [13.858732, 1.424679, -15.283409]);
}

fn ei_net(diff_spike: bool) -> Run {
    let net = EiNet {
        n_in: 2,
        n_rec: 5,
        n_out: 2,
        sparsity: 1.0,
        tau_neu: Tau::Scalar(20.0),
        tau_i2: 200.0,
        diff_spike,
        ..EiNet::default()
    };
    let ff = [0.9, -0.5, 0.3, 0.7, -1.1, 0.2, 0.8, -0.6, 0.4, 0.5];
    let exc =
        [0.3, -0.2, 0.1, 0.4, 0.2, -0.1, 0.5, 0.2, -0.3, 0.6, 0.2, 0.2, -0.4, 0.1, 0.1, 0.5, -0.6, 0.3, 0.2, -0.2];
    let out = [0.5, -0.3, -0.2, 0.4, 0.1, 0.6, 0.3, 0.2, -0.4, 0.1];
    let x: [&[f32]; 6] = [&[1.0, 0.0], &[1.0, 1.0], &[0.0, 1.0], &[1.0, 0.0], &[0.0, 0.0], &[1.0, 1.0]];
    let given: [(&str, &[f32]); 5] = [
        ("ff.weight", &ff),
        ("exc.weight", &exc),
        ("inh.weight", &[0.4, -0.3, 0.2, 0.6, 0.1]),
        ("out.weight", &out),
        ("V", &[0.95, 0.6, 0.3, 0.9, 0.8]),
    ];
    Run::new(net.model(1), &x, &given)
}

#[test]
#[rustfmt::skip]
fn ei_net_forward() {
    let run = ei_net(false);
    let t = run.forward();
    t.is("g_exc", &[
        &[0.9, 0.5, 0.3, 0.7, 1.1], &[2.214354, 0.952419, 0.671451, 2.133386, 1.795321],
        &[2.703630, 2.261784, 1.507554, 2.530368, 2.324474], &[3.446346, 3.046547, 1.864092, 3.289572, 3.803271],
        &[3.118383, 2.756630, 1.686700, 2.976528, 3.441342], &[4.121629, 2.994302, 2.226189, 3.893273, 3.813855],
    ]);
    t.is("g_inh", &[
        &[0.0; 5], &[0.0; 5], &[0.4, 0.3, 0.2, 0.6, 0.1], &[0.361935, 0.271451, 0.180967, 0.542903, 0.090484],
        &[0.327492, 0.245619, 0.163746, 0.491239, 0.081873], &[0.296327, 0.222246, 0.148164, 0.444491, 0.074082],
    ]);
    t.is("V", &[
        &[1.078547, 0.677074, 0.353735, 0.994430, 0.981314], &[0.532773, 0.840953, 0.486414, 1.343890, 1.272190],
        &[0.819882, 1.084321, 0.683791, 0.535713, 0.672218], &[1.206296, 0.586596, 0.935568, 0.866608, 1.286121],
        &[1.474528, 0.949061, 1.127993, 1.096153, 1.715484], &[1.855135, 1.299412, 0.506753, 1.455977, 2.113485],
    ]);
    t.is("Vth", &[
        &[1.0; 5], &[1.99, 1.0, 1.0, 1.0, 1.0], &[1.9801, 1.0, 1.0, 1.99, 1.99], &[1.970299, 1.99, 1.0, 1.9801, 1.9801],
        &[1.960596, 1.9801, 1.0, 1.970299, 1.970299], &[1.950990, 1.970299, 1.99, 1.960596, 1.960596],
    ]);
    t.is("out", &[
        &[0.371832, -1.341384], &[-0.477586, -0.973181], &[-0.978757, -0.044476],
        &[-0.717166, 0.246985], &[-0.716170, 0.586077], &[-0.861872, -0.704099],
    ]);
    t.ends("I2", &[-0.975310, -0.985112, -0.995013, -0.980199, -0.980199]);
    t.ends("I1", &[0.009048, 0.009418, 0.009802, 0.009231, 0.009231]);
    check("loss", &run.losses(), &[0.165756, 0.475742, 1.265646, 1.287181, 1.542775, 0.775142], FORWARD);
}

/// What the reference gives of a gradient of the E/I network.
struct EiGradient {
    ff_row_0: [f64; 5],
    ff_bias: [f64; 5],
    exc_bias: [f64; 5],
    exc_row_1: [f64; 5],
    inh_row_0: [f64; 5],
    out: [f64; 5],
}

#[track_caller]
fn ei_gradient(method: Method, vjp: Vjp, want: &EiGradient) {
    let g = ei_net(false).gradient(method, vjp);
    check("ff.weight, row 0", &g.get("ff.weight")[..5], &want.ff_row_0, GRADIENT);
    g.is("ff.bias", &want.ff_bias);
    g.is("exc.bias", &want.exc_bias);
    check("exc.weight, row 1", &g.get("exc.weight")[5..10], &want.exc_row_1, GRADIENT);
    check("inh.weight, row 0", g.get("inh.weight"), &want.inh_row_0, GRADIENT);
    g.readout(&want.out);
}

const EI_OUT: [f64; 5] = [1.636267, 1.239298, 1.247894, 0.041957, -4.165416];

#[test]
fn ei_net_bptt() {
    let want = EiGradient {
        ff_row_0: [-13.765533, -2.445836, 1.660025, -3.505792, -7.685099],
        ff_bias: [-17.658712, -0.416249, -0.067864, -4.265889, -5.763368],
        exc_bias: [-14.135521, 1.398123, 10.738018, -3.408687, 6.339315],
        exc_row_1: [1.761596, 1.159273, 0.950670, 0.428601, 0.750361],
        inh_row_0: [8.770429, 3.984932, -4.895631, 1.517100, -4.250864],
        out: EI_OUT,
    };
    ei_gradient(Method::BPTT, EXIT, &want);
    let g = ei_net(true).gradient(Method::BPTT, EXIT);
    let row = [-11.884519, -1.807316, 1.211137, -3.013348, -6.228262];
    check("ff.weight, row 0, differentiable reset", &g.get("ff.weight")[..5], &row, GRADIENT);
}

#[test]
fn ei_net_d_rtrl() {
    let multi = EiGradient {
        ff_row_0: [-5.871579, -0.848458, 0.782059, -1.344732, -2.910368],
        ff_bias: [-7.963950, 0.346531, 0.079656, -1.809504, -1.861940],
        exc_bias: [-5.930063, 0.406024, 4.300071, -1.302080, 2.331869],
        exc_row_1: [1.016944, 0.674487, 0.463486, 0.253712, 0.473574],
        inh_row_0: [4.471344, 2.211242, -2.130276, 0.873670, -2.214423],
        out: EI_OUT,
    };
    ei_gradient(Method::D_RTRL, MULTI, &multi);
    let single = EiGradient {
        ff_row_0: [-8.058481, -1.161959, 1.050329, -1.872188, -3.851702],
        ff_bias: [-11.260363, 0.610012, 0.057913, -2.539498, -2.315532],
        exc_bias: [-8.003728, 0.768306, 6.146065, -1.746500, 3.090873],
        exc_row_1: [1.628317, 1.065711, 0.804691, 0.396499, 0.704954],
        inh_row_0: [6.612931, 3.022475, -3.246217, 1.198972, -3.186265],
        out: EI_OUT,
    };
    ei_gradient(Method::D_RTRL, IN_STEP, &single);
}

#[test]
fn ei_net_es_d_rtrl() {
    let want = EiGradient {
        ff_row_0: [-3.923203, 0.088899, 0.019372, -0.907900, -1.145700],
        ff_bias: [-2.611982, 0.152536, 0.104842, -0.606924, -0.485744],
        exc_bias: [-1.715177, 0.405702, 1.529341, -0.383461, 0.720379],
        exc_row_1: [-0.168092, 0.184074, 0.513685, -0.030944, 0.299512],
        inh_row_0: [3.726490, -0.931844, -1.952957, 0.712067, -1.829631],
        out: [1.306473, 1.100271, 0.312094, 0.527481, -3.246319],
    };
    ei_gradient(ES, MULTI, &want);
}

/// `docs/spec/algorithms.md, "The learning signal"`: after one step with empty traces the online gradient is the gradient,
/// except for weights with a partial path.
#[test]
fn one_step_is_exact_for_every_model() {
    let mut models: Vec<(String, Model)> = Vec::new();
    for layer in Stack::layer_names() {
        let net = plastic(Stack { n_in: 3, n_rec: 5, ..two_neurons(&layer) });
        let deep = Stack { n_layer: 2, ..net.clone() };
        if layer == "lif-exp-co" {
            models.push((format!("two layers of {layer}"), with_tau(deep, &Tau::Normal(10.0, 1.0)).model(1)));
        }
        models.push((layer, net.model(1)));
    }
    for cell in RateCell::all() {
        let net = RateNet { cell, n_in: 3, n_rec: 5, ..RateNet::default() };
        models.push((cell.name().to_string(), net.model(1)));
    }
    for diff_spike in [false, true] {
        models.push(("GifNet".into(), GifNet { n_in: 3, n_rec: 5, diff_spike, ..GifNet::default() }.model(1)));
    }
    for net in [Coupling::Coba, Coupling::Cuba] {
        let net = EiNet { net, n_in: 3, n_rec: 5, sparsity: 0.7, diff_spike: true, ..EiNet::default() };
        models.push((format!("{:?}", net.net), net.model(1)));
    }
    for (name, model) in models {
        // A state from which every path is open: potentials near the threshold, everything else positive.
        let near: Vec<(String, Vec<f32>)> = model
            .states
            .iter()
            .map(|s| (s.name.clone(), (0..s.shape.elements()).map(|i| 0.7 + 0.12 * i as f32).collect()))
            .collect();
        let given = near.iter().map(|(n, v)| (&*n.clone().leak(), v.clone())).collect();
        let run = Run { model, inputs: vec![vec![1.0, 0.0, 1.0]], label: 1, given };
        let exact = run.gradient(Method::BPTT, EXIT);
        for method in [Method::D_RTRL, ES] {
            let online = run.gradient(method, EXIT);
            for (parameter, want) in &exact.0 {
                let partial = matches!(
                    (name.as_str(), parameter.split('.').next()),
                    ("mgu", Some("Wf")) | ("minimal-rnn", Some("phi"))
                );
                if !partial {
                    check(&format!("{name}, {parameter}, {}", method.name()), online.get(parameter), want, GRADIENT);
                }
            }
        }
    }
}
