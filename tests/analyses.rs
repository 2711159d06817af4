//! The analyses on networks for which the answer is known.

use std::sync::OnceLock;

use etrace::{
    analysis::{gradient::Gradients, history::History, jacobian::Jacobian},
    cell::{Model, Quantity, StepContext, readout},
    learn::Method,
    net::Stack,
    train::session::Session,
};
use hlo::pjrt::Device;
use tasks::{Batch, RandomSpikes, Split, Task};

const STEPS: usize = 12;

fn session() -> &'static Session {
    static SESSION: OnceLock<Session> = OnceLock::new();
    SESSION.get_or_init(|| Session::open(Device::Cpu, None, &mut |_| {}).expect("the CPU plugin"))
}

fn net(layer: &str, rec_scale: f64) -> Stack {
    let stack = Stack::named(layer).expect("a layer");
    Stack { n_in: 10, n_rec: 8, n_out: 3, ff_scale: 30.0, rec_scale, ..stack }
}

fn spikes(batch: usize) -> Batch {
    let task = RandomSpikes { steps: STEPS, n_in: 10, n_out: 3, rate: 0.4 };
    task.batch(Split::Train, 5, 0, 0, batch).expect("a batch")
}

#[test]
fn without_recurrent_weights_the_hidden_jacobian_is_diagonal() {
    for layer in ["lif-delta", "alif-delta", "alif-exp-cu"] {
        let study = Jacobian::new(session(), &net(layer, 0.0).model(1), STEPS).expect("a program");
        let found = study.run(1, &spikes(1)).expect("cosines");
        assert!(found.rate > 0.0, "{layer} fires");
        assert!(found.steps.iter().all(|c| (c - 1.0).abs() < 1e-5), "{layer}: {:?}", found.steps);
        assert!((found.whole - 1.0).abs() < 1e-5, "{layer}: {}", found.whole);
    }
}

#[test]
fn with_them_it_is_not() {
    let study = Jacobian::new(session(), &net("lif-delta", 20.0).model(1), STEPS).expect("a program");
    let found = study.run(1, &spikes(1)).expect("cosines");
    assert!(found.steps.iter().any(|c| *c < 0.99), "{:?}", found.steps);
    assert!(found.steps.iter().all(|c| (-1.0..=1.0001).contains(c)), "{:?}", found.steps);
}

/// Names mean nothing: a layer may be called `out`, a readout may not, and a value whose name ends in `spike` is no spike.
#[test]
fn layers_spikes_and_readouts_are_what_is_declared_as_such() {
    let model = |more: bool| -> Model {
        StepContext::trace(1, 10, |cx, x| {
            let spikes = cx.scope("out", |cx| net("lif-delta", 2.0).step_layer(cx, 0, x));
            if more {
                cx.observe(Quantity::Other("prespike"), &spikes.full_like(1.0));
            }
            cx.readout("reader", |cx| readout::leaky(cx, &spikes, 3, 10.0, 1.0))
        })
    };
    let study = History::new(session(), &model(false), STEPS).expect("a program");
    assert_eq!(study.states, ["out.l0.V"]);
    let run = |more| Jacobian::new(session(), &model(more), STEPS).expect("a program").run(1, &spikes(1));
    let [plain, more] = [false, true].map(|more| run(more).expect("cosines"));
    assert!(plain.rate > 0.0 && plain.rate < 1.0, "{plain:?}");
    assert_eq!(plain, more);
}

#[test]
fn one_outer_product_is_an_outer_product() {
    let study = History::new(session(), &net("alif-exp-cu", 2.0).model(2), STEPS).expect("a program");
    assert_eq!(study.states, ["l0.V", "l0.a", "l0.g"]);
    let found = study.run(1, &spikes(2)).expect("cosines");
    // V and g are driven in the first step, a (by a spike) later.
    for state in [0, 2] {
        assert!(found[state][..2].iter().all(|c| (c - 1.0).abs() < 1e-5), "{:?}", &found[state][..2]);
        assert!(found[state][2 * STEPS - 2..].iter().all(|c| *c < 0.9999), "many are not: {:?}", found[state]);
    }
}

#[test]
fn the_readout_learns_exactly_under_d_rtrl() {
    let methods = [Method::D_RTRL, Method::es_d_rtrl(0.9)];
    let study = Gradients::new(session(), &net("lif-delta", 5.0).model(2), STEPS, 0, &methods).expect("programs");
    assert_eq!(study.maps.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["l0", "out"]);
    let found = study.run(1, &spikes(2)).expect("cosines");
    assert!((found[0][1] - 1.0).abs() < 1e-6, "{found:?}");
    assert!(found[0][0] < 0.9999 && found[1][1] < 1.0 - 1e-6, "the others are approximations: {found:?}");
}
