use std::time::Instant;
fn main() {
    let session = etrace::train::session::Session::open(hlo::pjrt::Device::Cpu, None, &mut |_| {}).unwrap();
    use etrace::{learn::*, learn::sequence::*, net::*, cell::{*, spiking::*}};
    let net = ETraceNet { layer: Layer::LifDelta, n_in: 2048, n_rec: 256, n_out: 11, tau_mem: vec![Tau::Normal(10.0,1.0); 3], tau_syn: 10.0, tau_o: 10.0, v_th: 1.0, reset: Reset::Soft, surrogate: Surrogate::default(), ff_scale: 10.0, rec_scale: 2.0, dt: 1.0 };
    let t: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let chunk: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let b = 16;
    let model = net.model(b);
    for method in [Method::Bptt, Method::EsDRtrl{decay:0.9}, Method::DRtrl] {
        let t0 = Instant::now();
        let config = LearnerConfig { method, chunk: if chunk==0 {None} else {Some(chunk)}, ..Default::default() };
        let learner = Learner::new(&model, &Objective::default(), &config).unwrap();
        let t1 = Instant::now();
        let mut shapes: Vec<hlo::Shape> = model.params.iter().map(|p| p.shape.clone()).collect();
        shapes.extend(model.states.iter().map(|s| s.shape.clone()));
        shapes.push(hlo::Shape::new(hlo::DType::U8, [t, b, 2048])); shapes.push(hlo::Shape::s32([b]));
        let np = model.params.len(); let ns = model.states.len();
        let func = hlo::Func::trace(&shapes, |g, v| {
            let out = learner.sequence(g, &v[..np], &v[np..np+ns], &v[np+ns], &v[np+ns+1]);
            let mut r = out.grads; r.push(out.loss); r.push(out.out); r
        });
        let t2 = Instant::now();
        let names = |p: &str, n: usize| (0..n).map(|k| format!("{p}{k}")).collect::<Vec<_>>();
        let program = hlo::lower("p", &func, &names("a", func.params().len()), &names("r", func.results().len()), &[]).unwrap();
        let t3 = Instant::now();
        let bytes = program.module.to_bytes().len();
        if std::env::args().nth(3).is_some() { std::fs::write(format!("/tmp/{}.hlo", method.name()), program.module.to_text()).unwrap(); }
        let exe = session.client.compile(&program, &hlo::pjrt::CompileOptions::default().uncached()).unwrap();
        let t4 = Instant::now(); if std::env::args().nth(3).is_some() { std::fs::write(format!("/tmp/{}.opt.hlo", method.name()), exe.optimized_text().unwrap()).unwrap(); }
        println!("{} K={}: learner {:?} trace {:?} nodes {} lower {:?} ({bytes} B) compile {:?} mem {:?}", method.name(), learner.chunk_length(t), t1-t0, t2-t1, func.graph().len(), t3-t2, t4-t3, exe.memory().unwrap().temp);
        let mut args = vec![];
        for p in &model.params { args.push(hlo::array::Array::f32(p.init.values(&p.shape, 1, &p.name), p.shape.dims.clone()).unwrap()); }
        for s in &model.states { args.push(hlo::array::Array::zeros(s.shape.clone())); }
        let mut st = etrace::rng::Stream::new(3, "x");
        args.push(hlo::array::Array::u8((0..t*b*2048).map(|_| (st.uniform() < 0.1) as u8).collect::<Vec<u8>>(), [t, b, 2048]).unwrap());
        args.push(hlo::array::Array::s32((0..b).map(|i| (i % 11) as i32).collect::<Vec<i32>>(), [b]).unwrap());
        let bufs: Vec<_> = args.iter().map(|a| session.client.upload(a).unwrap()).collect();
        let mut times = vec![];
        for _ in 0..9 { let t = Instant::now(); let r = exe.run(bufs.iter().map(hlo::pjrt::Arg::Keep).collect()).unwrap(); let l = r[np].to_array().unwrap(); times.push(t.elapsed().as_secs_f64()); if times.len() == 1 { println!("  loss {:?} grad0 {:?}", l.to_f64_vec(), r[0].to_array().unwrap().to_f64_vec().iter().map(|x| x*x).sum::<f64>()); } }
        times.sort_by(f64::total_cmp);
        println!("  run median {:.4} min {:.4}", times[4], times[0]);
    }
}
