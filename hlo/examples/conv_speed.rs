//! Time of convolutions and pools with their gradients on the CPU:
//! `cargo run --release -p hlo --example conv_speed`.

use hlo::{
    Func, Shape, Tensor,
    array::Array,
    lower,
    pjrt::{Arg, ClientOptions, CompileOptions, Plugin, PluginKind, Result},
    transform::vjp,
};
use std::time::Instant;

type Build = fn(&[Tensor]) -> Tensor;

/// The result of `build` and the cotangents of the chosen arguments; the cotangent of the result is the last argument.
fn with_gradient(shapes: &[Shape], build: Build, wrt: &[bool]) -> Func {
    let forward = Func::trace(shapes, |_, p| vec![build(p)]);
    let result = forward.results()[0].shape().clone();
    Func::trace(&[shapes, &[result]].concat(), |g, p| {
        let (args, ct) = p.split_at(shapes.len());
        let vjp = vjp(g, &forward, args, wrt);
        let grads = vjp.pull(&[Some(ct[0].clone())]);
        vjp.results.into_iter().chain(grads.into_iter().flatten()).collect()
    })
}

fn main() -> Result<()> {
    let plugin = Plugin::find(PluginKind::Cpu, None, &mut |_| {})?;
    let client = plugin.client(&ClientOptions::default())?;
    let first = [Shape::f32([134, 128, 128, 1]), Shape::f32([11, 11, 1, 64])];
    let second = [Shape::f32([134, 15, 15, 64]), Shape::f32([5, 5, 64, 192])];
    let maps = [Shape::f32([134, 31, 31, 64])];
    let conv1: Build = |p| p[0].conv2d(&p[1], [4, 4], [(2, 2); 2]);
    let conv2: Build = |p| p[0].conv2d(&p[1], [1, 1], [(2, 2); 2]);
    let max: Build = |p| p[0].max_pool2d([3, 3], [2, 2]);
    let avg: Build = |p| p[0].avg_pool2d([3, 3], [2, 2]);
    let rows: [(&str, &[Shape], Build, &[bool]); 11] = [
        ("11x11/4 of [134,128,128,1]: forward", &first, conv1, &[false, false]),
        ("  with the kernel's gradient", &first, conv1, &[false, true]),
        ("  with both gradients", &first, conv1, &[true, true]),
        ("5x5 of [134,15,15,64]: forward", &second, conv2, &[false, false]),
        ("  with the kernel's gradient", &second, conv2, &[false, true]),
        ("  with the input's gradient", &second, conv2, &[true, false]),
        ("  with both gradients", &second, conv2, &[true, true]),
        ("max 3x3/2 of [134,31,31,64]: forward", &maps, max, &[false]),
        ("  with the gradient", &maps, max, &[true]),
        ("mean 3x3/2 of [134,31,31,64]: forward", &maps, avg, &[false]),
        ("  with the gradient", &maps, avg, &[true]),
    ];
    let filter = std::env::args().nth(1).unwrap_or_default();
    for (title, shapes, build, wrt) in rows {
        if !title.contains(&filter) {
            continue;
        }
        let f = with_gradient(shapes, build, wrt);
        let names = |p: &str, n: usize| (0..n).map(|k| format!("{p}{k}")).collect::<Vec<_>>();
        let program = lower("speed", &f, &names("a", f.params().len()), &names("r", f.results().len()), &[]);
        let program = program.expect("a program");
        let start = Instant::now();
        let run = client.compile(&program, &CompileOptions::default().uncached())?;
        let compiled = start.elapsed();
        let ramp = |s: &Shape| (0..s.elements()).map(|k| (k % 1009) as f32 / 1009.0 - 0.5).collect::<Vec<_>>();
        let args: Vec<_> = (f.params().iter())
            .map(|p| client.upload(&Array::new(&ramp(p.shape()), p.dims()).expect("an array")))
            .collect::<Result<_>>()?;
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..6 {
            let start = Instant::now();
            for result in run.run(args.iter().map(Arg::Keep).collect())? {
                result.to_array()?;
            }
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let best = times[1..].iter().copied().fold(f64::INFINITY, f64::min);
        println!("{title:42} compile {:5.2} s, run {best:8.1} ms (first {:8.1})", compiled.as_secs_f64(), times[0]);
    }
    Ok(())
}
