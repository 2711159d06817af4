//! What the tests of the graph share: a CPU client, random numbers, host arrays, and questions about emitted modules.

#![allow(dead_code)] // each test binary uses its own part

use hlo::{
    DType, Func, HostValue, Program, Shape,
    array::Array,
    lower,
    pjrt::{Arg, Client, ClientOptions, CompileOptions, Executable, OptionValue, Plugin, PluginKind},
    proto::{Computation, Module},
};
use std::sync::{Arc, LazyLock};

static CLIENT: LazyLock<Arc<Client>> = LazyLock::new(|| {
    let plugin = Plugin::find(PluginKind::Cpu, None, &mut |_| {}).expect("the CPU plugin");
    plugin.client(&ClientOptions::default()).expect("a CPU client")
});

/// A program for `func` with the names `a0, a1, ..` and `r0, r1, ..`.
pub fn program(func: &Func) -> Program {
    let names = |p: &str, n: usize| (0..n).map(|k| format!("{p}{k}")).collect::<Vec<_>>();
    lower("test", func, &names("a", func.params().len()), &names("r", func.results().len()), &[]).unwrap()
}

/// A function ready to run, on the device and on the host.
pub struct Compiled(Executable, Func);

pub fn compile(func: &Func) -> Compiled {
    let program = program(func);
    // Hundreds of small programs are compiled and run a few times: the code need not be fast.
    let options = CompileOptions::default().uncached().with("xla_backend_optimization_level", OptionValue::Int(0));
    match CLIENT.compile(&program, &options) {
        Ok(executable) => Compiled(executable, func.clone()),
        Err(error) => panic!("{error}\n{}", program.module.to_text()),
    }
}

impl Compiled {
    pub fn run(&self, args: &[Array]) -> Vec<Array> {
        let buffers: Vec<_> = args.iter().map(|a| CLIENT.upload(a).unwrap()).collect();
        let results = self.0.run(buffers.iter().map(Arg::Keep).collect()).unwrap();
        let results: Vec<Array> = results.iter().map(|r| r.to_array().unwrap()).collect();
        agrees_with_the_host(&self.1, args, &results);
        results
    }

    pub fn values(&self, args: &[Array]) -> Vec<Vec<f64>> {
        self.run(args).iter().map(Array::to_f64_vec).collect()
    }
}

/// What a device computes, the host must find too: every test of a compiled function is one of `Func::evaluate` as well.
#[track_caller]
fn agrees_with_the_host(func: &Func, args: &[Array], results: &[Array]) {
    let host = func.evaluate(&args.iter().map(HostValue::from).collect::<Vec<_>>());
    for (k, (device, host)) in results.iter().zip(&host).enumerate() {
        assert_eq!(device.shape(), &host.shape, "result {k} on the host");
        let tolerance = match device.shape().dtype {
            DType::F64 => 1e-9,
            DType::F32 => 1e-5,
            DType::BF16 => 1e-2,
            _ => 0.0,
        };
        let alike = |(d, h): (&f64, &f64)| {
            d == h || (d.is_nan() && h.is_nan()) || (d - h).abs() <= tolerance * d.abs().max(h.abs()).max(1.0)
        };
        let values = device.to_f64_vec();
        let apart = values.iter().zip(&host.data).position(|pair| !alike(pair));
        if let Some(at) = apart {
            panic!("result {k}, element {at}: the device says {}, the host {}", values[at], host.data[at]);
        }
    }
}

/// Compiles and runs once.
pub fn evaluate(func: &Func, args: &[Array]) -> Vec<Vec<f64>> {
    compile(func).values(args)
}

/// A host array of any type from `f64` values.
pub fn array(shape: &Shape, values: &[f64]) -> Array {
    let dims = shape.dims.clone();
    match shape.dtype {
        DType::F64 => Array::new(values, dims),
        DType::F32 => Array::new(&values.iter().map(|&v| v as f32).collect::<Vec<_>>(), dims),
        DType::BF16 => Array::bf16(&values.iter().map(|&v| v as f32).collect::<Vec<_>>(), dims),
        DType::S32 => Array::new(&values.iter().map(|&v| v as i32).collect::<Vec<_>>(), dims),
        DType::U8 => Array::new(&values.iter().map(|&v| v as u8).collect::<Vec<_>>(), dims),
        DType::U32 => Array::new(&values.iter().map(|&v| v as u32).collect::<Vec<_>>(), dims),
        DType::U64 => Array::new(&values.iter().map(|&v| v as u64).collect::<Vec<_>>(), dims),
        DType::Pred => Array::new(&values.iter().map(|&v| v != 0.0).collect::<Vec<_>>(), dims),
    }
    .unwrap()
}

/// A double-precision shape.
pub fn f64s(dims: impl Into<Vec<usize>>) -> Shape {
    Shape::new(DType::F64, dims)
}

/// A double-precision array.
pub fn doubles(values: &[f64], dims: impl Into<Vec<usize>>) -> Array {
    Array::new(values, dims).unwrap()
}

/// The shape of `size` values of the given shape, one after another.
pub fn stacked(size: usize, shape: &Shape) -> Shape {
    shape.with_dims([&[size], shape.dims.as_slice()].concat())
}

/// SplitMix64: small, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform values in [-1, 1].
    pub fn signed(&mut self, shape: &Shape) -> Array {
        let values: Vec<f64> = (0..shape.elements()).map(|_| self.uniform(-1.0, 1.0)).collect();
        array(shape, &values)
    }

    /// Values for every parameter of a function.
    pub fn arguments(&mut self, func: &Func) -> Vec<Array> {
        func.params().iter().map(|p| self.signed(p.shape())).collect()
    }
}

/// Fails with the first pair that is further apart than `tolerance`, relative to 1 or the larger value.
#[track_caller]
pub fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    if let Err(error) = close(what, got, want, tolerance) {
        panic!("{error}");
    }
}

/// As [`assert_close`], as a `Result`.
pub fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: got {} values, want {}", got.len(), want.len()));
    }
    for (k, (g, w)) in got.iter().zip(want).enumerate() {
        let scale = g.abs().max(w.abs()).max(1.0);
        let near = (g - w).abs() <= tolerance * scale; // false for NaN
        if !near {
            return Err(format!("{what}: element {k} is {g}, want {w} (difference {:e})", g - w));
        }
    }
    Ok(())
}

/// How often an opcode occurs in a computation.
pub fn count(computation: &Computation, opcode: &str) -> usize {
    computation.instructions.iter().filter(|i| i.opcode == opcode).count()
}

/// The entry computation.
pub fn entry(module: &Module) -> &Computation {
    module.entry().expect("an entry computation")
}

/// The bodies of all loops, in the order of emission.
pub fn bodies(module: &Module) -> Vec<&Computation> {
    let loops = module.computations.iter().flat_map(|c| &c.instructions).filter(|i| i.opcode == "while");
    loops.map(|i| module.computations.iter().find(|c| c.id == i.called_computation_ids[0]).unwrap()).collect()
}

/// Number of instructions of all computations.
pub fn instructions(module: &Module) -> usize {
    module.computations.iter().map(|c| c.instructions.len()).sum()
}
