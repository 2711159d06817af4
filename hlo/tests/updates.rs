//! A program that updates its weights in place must multiply with the new ones in the next call.

use hlo::{
    Func, Shape,
    array::Array,
    lower,
    pjrt::{Arg, ClientOptions, CompileOptions, Plugin, PluginKind},
};

/// Means of `x w`, for `x` of ones and `w` of `1 / inner`, over calls that double `w` in place.
fn means(options: &CompileOptions, [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
    let plugin = Plugin::find(PluginKind::Cpu, None, &mut |_| {}).expect("a CPU plugin");
    let client = plugin.client(&ClientOptions::default()).expect("a client");
    let func = Func::trace(&[Shape::f32([inner, columns]), Shape::f32([rows, inner])], |_, v| {
        vec![&v[0] * 2.0, v[1].dot(&v[0]).mean_all()]
    });
    let names = |all: [&str; 2]| all.map(String::from);
    let program = lower("update", &func, &names(["w", "x"]), &names(["w", "y"]), &[(0, 0)]).expect("a program");
    let executable = client.compile(&program, &options.clone().uncached()).expect("it compiles");
    let upload = |value: f32, dims: [usize; 2]| {
        client.upload(&Array::f32(vec![value; dims[0] * dims[1]], dims).expect("values fit")).expect("an upload")
    };
    let x = upload(1.0, [rows, inner]);
    let mut w = upload(1.0 / inner as f32, [inner, columns]);
    let mut all = Vec::new();
    for _ in 0..4 {
        let mut out = executable.run(vec![Arg::Give(w), Arg::Keep(&x)]).expect("it runs");
        all.push(out.remove(1).to_array().expect("a number").to_f64_vec()[0]);
        w = out.remove(0);
    }
    all
}

#[test]
fn weights_updated_in_place_are_seen() {
    for dims in [[1280, 1024, 64], [1280, 1024, 16], [64, 256, 256], [2000, 200, 10]] {
        let got = means(&CompileOptions::default(), dims);
        for (k, y) in got.iter().enumerate() {
            let want = f64::from(1 << k);
            assert!((y - want).abs() < 1e-4 * want, "{dims:?}: call {k} gave {y}, not {want}: {got:?}");
        }
    }
}
