//! How fast batches are made. `cargo test --release -p tasks --test speed -- --ignored --nocapture`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tasks::{
    Dms, DmsSettings, Evidence, EvidenceSettings, Loader, LoaderSettings, NMnist, NMnistSettings, RandomSpikes, Shd,
    ShdKind, ShdSettings, Split, Task,
};

fn time(task: &dyn Task, batch: usize) {
    let once = |step| {
        let started = Instant::now();
        let bytes = task.batch(Split::Train, 1, 0, step, batch).unwrap().inputs.len();
        (started.elapsed().as_secs_f64(), bytes)
    };
    let (first, bytes) = once(0);
    let best = (1..4).map(|s| once(s).0).fold(f64::INFINITY, f64::min);
    let (mb, name) = (bytes as f64 / 1e6, task.name());
    println!("{name:10} batch {batch}: {mb:.1} MB, first {first:.4} s, then {best:.4} s ({:.0} MB/s)", mb / best);
}

#[test]
#[ignore = "a measurement, not a check; needs the recordings in ../shared"]
fn speed() {
    time(&RandomSpikes { steps: 50, n_in: 32_768, n_out: 11, rate: 0.1 }, 128);
    time(&Dms::new(DmsSettings { t_fixation: 10.0, ..Default::default() }).unwrap(), 128);
    time(&Evidence::new(EvidenceSettings::default()).unwrap(), 128);
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/real-samples");
    time(&NMnist::open(NMnistSettings::new(shared.join("nmnist-slayer-subset"))).unwrap(), 128);
    time(&Shd::open(ShdSettings::new(shared.join("fsdd-spiking-shd-layout"), ShdKind::Shd)).unwrap(), 128);
    let task = Arc::new(Dms::new(DmsSettings { t_fixation: 10.0, ..Default::default() }).unwrap());
    let settings = LoaderSettings { epoch_steps: Some(40), epochs: Some(1), ..LoaderSettings::new(Split::Train, 1) };
    let started = Instant::now();
    let n = Loader::new(task, settings).unwrap().filter(Result::is_ok).count();
    println!("loader: {:.4} s a DMS batch on 2 threads", started.elapsed().as_secs_f64() / n as f64);
}
