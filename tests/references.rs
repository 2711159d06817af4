//! Rules against stored gradients of the reference library.

use std::path::Path;

use etrace::{
    train::session::Session,
    verify::{self, Case, Source},
};
use hlo::pjrt::{Device, OptionValue};

/// Every program runs once: compiling costs more than running.
fn session() -> Session {
    let mut session = Session::open(Device::Cpu, None, &mut |_| {}).expect("a CPU plugin");
    session.options = session.options.with("xla_backend_optimization_level", OptionValue::Int(0));
    session
}

#[test]
fn rules_give_the_gradients_of_the_reference() {
    let session = session();
    let soft = [
        "ostl_feedforward/ss K=4",
        "ostl_recurrent/ss K=1",
        "ostl_recurrent/ms1",
        "eprop_kappa0.9/ss K=1",
        "eprop_random/ss K=4",
        "three_factor/ss K=4",
        "io_x0.9_f0.5/ss K=1",
        "per_param_scalar_leak0.9/ss K=4",
        "per_param_none/ss K=1",
        "uoro/ss K=4",
        "uoro/ms1",
    ];
    let current = ["eprop_kappa0.9/ss K=4", "eprop_random/ss K=1"];
    for (name, quantities) in [("lif_delta_soft", &soft[..]), ("lif_expcu", &current)] {
        let case = Case::read(&Source::BuiltIn, name).expect("a case").expect("a model");
        let replay = case.replay(&session, false).expect("it can be replayed");
        for check in &replay.checks {
            assert!(check.passed(), "{name}: {} is off by {:e}", check.quantity, check.error);
        }
        for quantity in quantities {
            assert!(replay.checks.iter().any(|check| check.quantity == *quantity), "{name}: no {quantity}");
        }
        assert!(replay.without_rule.is_empty(), "{name}: {:?}", replay.without_rule);
    }
}

#[test]
#[ignore = "all reference cases of ../shared/golden: some minutes"]
fn real_reference_cases_are_replayed_to_the_last_gradient() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
    let report = verify::run(&session(), &Source::Directory(folder), false, |_| {}).expect("reference cases");
    assert!(report.passed(), "{report:?}");
    let skipped: Vec<&str> = report.without_rule.iter().map(|(_, stored)| stored.as_str()).collect();
    assert!(skipped.is_empty() && report.skipped.is_empty(), "{skipped:?}, {:?}", report.skipped);
}
