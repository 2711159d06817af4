fn main() {
    let session = etrace::train::session::Session::open(hlo::pjrt::Device::Cpu, None, &mut |_| {}).unwrap();
    let dir = std::env::args().nth(1).unwrap();
    let report = etrace::verify::run(&session, dir.as_ref(), false, |n| eprintln!("{n:?}")).unwrap();
    for c in &report.checks { println!("{:20} {:28} {:.2e} {}", c.case, c.quantity, c.error, if c.passed() { "ok" } else { "FAIL" }); }
    println!("{:?} {:?}", report.skipped, report.broken);
}
