//! The runtime against the real CPU plugin: upload, compile, run, donate, cache, and every refusal.
//!
//! Programs are built here instruction by instruction, so that a defect of the graph layer cannot hide one of
//! the runtime. Tests that need an environment of their own run as a child of this very test binary
//! ([`child`]).

use hlo::{
    Argument, DType, Program, ResultSpec, Shape,
    array::Array,
    pjrt::{
        Arg, Assignment, Buffer, Client, ClientOptions, CompileOptions, Devices, Error, Executable, OptionValue,
        Plugin, PluginKind, aot, cache,
    },
    proto::{
        self, AliasEntry, Computation, InputOutputAlias, Instruction, Module, OpSharding, ProgramShape, ShapeProto,
    },
};
use std::{
    num::NonZeroUsize,
    path::PathBuf,
    process::{Command, Output},
    sync::{Arc, LazyLock},
};

/// Builds one computation; ids count up from `first`.
struct Builder {
    name: String,
    next: i64,
    instructions: Vec<Instruction>,
}

impl Builder {
    fn new(name: &str, first: i64) -> Builder {
        Builder { name: name.into(), next: first, instructions: Vec::new() }
    }

    fn push(&mut self, opcode: &str, shape: ShapeProto, operands: &[i64]) -> &mut Instruction {
        let id = self.next;
        self.next += 1;
        let name = format!("{}.{id}", opcode.replace('-', "_"));
        let operand_ids = operands.to_vec();
        let opcode = opcode.into();
        self.instructions.push(Instruction { name, opcode, shape: Some(shape), id, operand_ids, ..Default::default() });
        self.instructions.last_mut().unwrap()
    }

    fn parameter(&mut self, number: i64, shape: &Shape) -> i64 {
        let instruction = self.push("parameter", shape.into(), &[]);
        instruction.parameter_number = number;
        instruction.id
    }

    fn op(&mut self, opcode: &str, shape: &Shape, operands: &[i64]) -> i64 {
        self.push(opcode, shape.into(), operands).id
    }

    fn finish(mut self, results: &[i64]) -> Computation {
        let shape = |id: &i64| self.instructions.iter().find(|i| i.id == *id).unwrap().shape.clone().unwrap();
        let tuple = ShapeProto::tuple(results.iter().map(shape).collect());
        let root_id = self.push("tuple", tuple.clone(), results).id;
        let parameters = self.instructions.iter().filter(|i| i.opcode == "parameter");
        let (parameters, parameter_names) = parameters.map(|i| (i.shape.clone().unwrap(), i.name.clone())).unzip();
        let program_shape = Some(ProgramShape { parameters, result: Some(tuple), parameter_names });
        Computation { name: self.name, instructions: self.instructions, program_shape, id: self.next, root_id }
    }
}

fn module(name: &str, computations: Vec<Computation>) -> Module {
    let entry = computations.last().unwrap();
    Module {
        name: name.into(),
        entry_computation_name: entry.name.clone(),
        entry_computation_id: entry.id,
        host_program_shape: entry.program_shape.clone(),
        computations,
        ..Default::default()
    }
}

fn program(module: Module, arguments: &[(&str, Shape)], results: &[(&str, Shape)]) -> Program {
    let argument =
        |(name, shape): &(&str, Shape)| Argument { name: (*name).into(), shape: shape.clone(), donated_to: None };
    let result = |(name, shape): &(&str, Shape)| ResultSpec { name: (*name).into(), shape: shape.clone() };
    Program {
        module,
        arguments: arguments.iter().map(argument).collect(),
        results: results.iter().map(result).collect(),
    }
}

/// `state + input` and `state * input` of vectors; `donate` gives `state` to the first result.
fn step(name: &str, n: usize, donate: bool) -> Program {
    let shape = Shape::f32([n]);
    let mut b = Builder::new("main", 1);
    let (state, input) = (b.parameter(0, &shape), b.parameter(1, &shape));
    let sum = b.op("add", &shape, &[state, input]);
    let product = b.op("multiply", &shape, &[state, input]);
    let mut module = module(name, vec![b.finish(&[sum, product])]);
    if donate {
        let entry = AliasEntry {
            output_shape_index: vec![0],
            parameter_number: 0,
            parameter_shape_index: vec![],
            kind: AliasEntry::MUST,
        };
        module.input_output_alias = Some(InputOutputAlias { entries: vec![entry] });
    }
    let names = [("state", shape.clone()), ("input", shape.clone())];
    let mut program = program(module, &names, &[("sum", shape.clone()), ("product", shape)]);
    program.arguments[0].donated_to = donate.then_some(0);
    program
}

static CLIENT: LazyLock<Arc<Client>> = LazyLock::new(|| {
    let plugin = Plugin::find(PluginKind::Cpu, None, &mut |_| {}).expect("the CPU plugin");
    plugin
        .client(&ClientOptions { devices: Devices::Count(NonZeroUsize::new(2).unwrap()), ..Default::default() })
        .expect("a CPU client")
});

fn compile(program: &Program) -> Executable {
    CLIENT.compile(program, &CompileOptions::default().uncached()).unwrap()
}

fn vector(values: &[f32]) -> Buffer {
    CLIENT.upload(&Array::f32(values, [values.len()]).unwrap()).unwrap()
}

fn values(buffer: &Buffer) -> Vec<f32> {
    buffer.to_array().unwrap().to_vec().unwrap()
}

/// Runs one ignored test of this binary in a process with its own environment.
fn child(test: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.envs(environment.iter().copied()).output().unwrap()
}

fn assert_passed(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let passed = output.status.success() && text(&output.stdout).contains("1 passed");
    assert!(passed, "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn temporary(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("hlo-runtime-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_program_runs() {
    let exe = compile(&step("runs", 3, false));
    let (state, input) = (vector(&[1.0, 2.0, 3.0]), vector(&[10.0, 20.0, 30.0]));
    let results = exe.run(vec![Arg::from(&state), Arg::from(&input)]).unwrap();
    assert_eq!(values(&results[0]), [11.0, 22.0, 33.0]);
    assert_eq!(values(&results[1]), [10.0, 40.0, 90.0]);
    // Both arguments are still there.
    assert_eq!(values(&state), [1.0, 2.0, 3.0]);
    assert_eq!(results[0].shape(), &Shape::f32([3]));
}

#[test]
fn the_platform_names_itself() {
    let platform = CLIENT.platform();
    assert_eq!(platform.name, "cpu");
    assert!(!platform.version.is_empty() && !platform.device.is_empty());
    assert_eq!(CLIENT.device_count(), 2);
    assert_eq!(CLIENT.device_memory(), None, "the CPU plugin does not count memory");
    assert_eq!(CLIENT.plugin().version().0, 0);
    assert!(CLIENT.plugin().attributes().unwrap().iter().any(|(name, _)| name == "xla_version"));
}

#[test]
fn installed_plugins_are_listed() {
    let path = CLIENT.plugin().path();
    let found = hlo::pjrt::installed();
    let same = |found: &&hlo::pjrt::Installed| found.path.canonicalize().is_ok_and(|p| p == path);
    let ours = found.iter().find(same).expect("the plugin in use is listed");
    assert_eq!(ours.kind, PluginKind::Cpu);
    assert_eq!(ours.api_version, Ok(CLIENT.plugin().version()));
}

#[test]
fn every_type_goes_up_and_comes_back() {
    let arrays = [
        Array::pred([true, false, true], [3]).unwrap(),
        Array::u8([0, 1, 255], [3, 1]).unwrap(),
        Array::s32([i32::MIN, -1, i32::MAX], [1, 3]).unwrap(),
        Array::u32([0, 1, u32::MAX], [3]).unwrap(),
        Array::u64([0, 1, u64::MAX], [3]).unwrap(),
        Array::bf16(&[0.5, -1.25, 3.0], [3]).unwrap(),
        Array::f32([0.1, f32::INFINITY, -0.0], [3]).unwrap(),
        Array::f64([0.1, f64::MIN_POSITIVE, -1e300], [3]).unwrap(),
        Array::scalar_of(7.5f32),
        Array::zeros(Shape::f32([0, 4])),
        Array::f32((0..24).map(|i| i as f32).collect::<Vec<_>>(), [2, 3, 4]).unwrap(),
    ];
    for array in arrays {
        let buffer = CLIENT.upload(&array).unwrap();
        buffer.wait().unwrap();
        assert_eq!(buffer.shape(), array.shape());
        assert_eq!(buffer.to_array().unwrap(), array);
    }
}

// The plugin's and XLA's numbers of a type differ: only a program that returns its argument shows a mix-up.
#[test]
fn every_type_passes_through_a_program() {
    use DType::*;
    for dtype in [Pred, U8, S32, U32, U64, BF16, F32, F64] {
        let shape = Shape::new(dtype, [4]);
        let mut b = Builder::new("main", 1);
        let x = b.parameter(0, &shape);
        let y = b.op("copy", &shape, &[x]);
        let program =
            program(module("identity", vec![b.finish(&[y])]), &[("x", shape.clone())], &[("y", shape.clone())]);
        let bytes = (0..shape.bytes()).map(|i| (i % 2) as u8).collect();
        let array = Array::from_bytes(shape, bytes).unwrap();
        let x = CLIENT.upload(&array).unwrap();
        let results = compile(&program).run(vec![Arg::from(x)]).unwrap();
        assert_eq!(results[0].to_array().unwrap(), array);
    }
}

#[test]
fn wrong_arguments_are_named() {
    let exe = compile(&step("checked", 4, false));
    let good = vector(&[0.0; 4]);
    let message = |args: Vec<Arg<'_>>| exe.run(args).unwrap_err().to_string();

    let ints = CLIENT.upload(&Array::s32([1, 2, 3, 4], [4]).unwrap()).unwrap();
    assert_eq!(
        message(vec![Arg::from(&good), Arg::from(&ints)]),
        "program `checked`, argument 1 `input`: must be f32[4], got s32[4]; fix: pass a buffer of f32[4]"
    );
    let square = CLIENT.upload(&Array::f32([0.0; 4], [2, 2]).unwrap()).unwrap();
    assert_eq!(
        message(vec![Arg::from(&square), Arg::from(&good)]),
        "program `checked`, argument 0 `state`: must be f32[4], got f32[2,2]; fix: pass a buffer of f32[4]"
    );
    assert_eq!(
        message(vec![Arg::from(&good)]),
        "program `checked` takes 2 arguments, got 1; fix: pass one buffer for each of state, input"
    );
    let other = CLIENT.plugin().client(&ClientOptions::default()).unwrap();
    let foreign = other.upload(&Array::f32([0.0; 4], [4]).unwrap()).unwrap();
    assert!(matches!(exe.run(vec![Arg::from(&good), Arg::from(&foreign)]), Err(Error::OtherClient { index: 1, .. })));
}

#[test]
fn donation_reuses_memory() {
    const N: usize = 1 << 16;
    let kept = compile(&step("kept", N, false)).memory().unwrap();
    let exe = compile(&step("donated", N, true));
    let memory = exe.memory().unwrap();
    assert_eq!(kept.alias, 0);
    assert_eq!(memory.alias, 4 * N as u64);
    assert_eq!(kept.total() - memory.total(), 4 * N as u64);

    let input = vector(&[1.0; N]);
    let mut state = vector(&[0.0; N]);
    for _ in 0..10 {
        let mut results = exe.run(vec![Arg::from(state), Arg::from(&input)]).unwrap();
        state = results.swap_remove(0);
    }
    assert_eq!(values(&state), [10.0; N]);
}

#[test]
fn a_donated_argument_cannot_be_kept() {
    let exe = compile(&step("donated", 2, true));
    let (state, input) = (vector(&[1.0, 2.0]), vector(&[3.0, 4.0]));
    let error = exe.run(vec![Arg::from(&state), Arg::from(&input)]).unwrap_err().to_string();
    assert_eq!(
        error,
        "program `donated`, argument 0 `state`: its buffer is donated to result `sum` and cannot be kept; \
         fix: pass it by value (`Arg::Give`), or upload a copy first"
    );
    // Nothing ran: the buffer is untouched. Giving the other argument too is fine.
    assert_eq!(values(&state), [1.0, 2.0]);
    let results = exe.run(vec![Arg::from(state), Arg::from(input)]).unwrap();
    assert_eq!(values(&results[1]), [3.0, 8.0]);
}

#[test]
fn a_bad_module_is_a_clean_error() {
    let mut bad = step("bad", 4, false);
    bad.module.computations[0].instructions[2].shape = Some((&Shape::f32([5])).into());
    let error = CLIENT.compile(&bad, &CompileOptions::default()).unwrap_err();
    let Error::Plugin { during, message, .. } = &error else { panic!("{error}") };
    assert_eq!(during, "to compile the program");
    assert!(message.contains("add.3"), "XLA names the instruction: {message}");

    let mut unknown = step("unknown", 4, false);
    unknown.module.computations[0].instructions[2].opcode = "no-such-operation".into();
    assert!(matches!(CLIENT.compile(&unknown, &CompileOptions::default()), Err(Error::Plugin { .. })));
    let empty = Program { module: Module::default(), ..unknown };
    assert!(matches!(CLIENT.compile(&empty, &CompileOptions::default()), Err(Error::Plugin { .. })));
}

#[test]
fn an_unknown_compiler_option_is_a_clean_error() {
    let options = CompileOptions::default().uncached().with("xla_no_such_option", OptionValue::Bool(true));
    let error = CLIENT.compile(&step("option", 4, false), &options).unwrap_err().to_string();
    assert!(error.contains("xla_no_such_option"), "{error}");
    let options = CompileOptions::default().uncached().with("xla_backend_optimization_level", OptionValue::Int(0));
    CLIENT.compile(&step("option", 4, false), &options).unwrap();
}

#[test]
fn a_wrong_signature_is_found_at_compile_time() {
    let mut program = step("signature", 4, false);
    program.results[1].shape = Shape::s32([4]);
    let error = CLIENT.compile(&program, &CompileOptions::default()).unwrap_err().to_string();
    assert!(error.contains("promises results (f32[4], s32[4]), the compiled program has (f32[4], f32[4])"), "{error}");
}

#[test]
fn cost_and_optimised_text() {
    let exe = compile(&step("cost", 1000, false));
    let cost = exe.cost().unwrap();
    assert_eq!(cost.flops, 2000.0);
    assert!(cost.bytes_accessed >= 16_000.0);
    let text = exe.optimized_text().unwrap();
    assert!(text.starts_with("HloModule cost") && text.contains("ENTRY") && text.contains("f32[1000]"), "{text}");
}

/// XLA's own text of the module it was given agrees with ours, instruction by instruction.
#[test]
fn our_text_is_xlas_text() {
    for (k, program) in [many_operations(), step("aliased", 4, true), counting()].into_iter().enumerate() {
        let folder = temporary(&format!("dump{k}"));
        let options = CompileOptions::default()
            .uncached()
            .with("xla_dump_to", OptionValue::Text(folder.display().to_string()))
            .with("xla_dump_hlo_as_text", OptionValue::Bool(true));
        CLIENT.compile(&program, &options).unwrap();
        let mut files = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path());
        let before = files.find(|f| f.to_string_lossy().ends_with("before_optimizations.txt")).unwrap();
        // XLA prints the instructions of a computation in an order of its own.
        let lines = |text: &str| -> Vec<String> {
            let mut lines: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&program.module.to_text()), lines(&std::fs::read_to_string(before).unwrap()));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// Counts to ten in a loop, and draws random bits.
fn counting() -> Program {
    let (count, state) = (Shape::s32([]), Shape::new(DType::U64, [2]));
    let of =
        |value| proto::LiteralProto { shape: Some((&Shape::s32([])).into()), s32s: vec![value], ..Default::default() };
    let carry = ShapeProto::tuple(vec![(&count).into()]);

    let mut body = Builder::new("body", 1);
    let p = body.push("parameter", carry.clone(), &[]).id;
    let i = body.op("get-tuple-element", &count, &[p]);
    let one = body.push("constant", (&count).into(), &[]);
    one.literal = Some(of(1));
    let one = one.id;
    let next = body.op("add", &count, &[i, one]);
    let body = body.finish(&[next]);

    let mut condition = Builder::new("condition", 100);
    let p = condition.push("parameter", carry.clone(), &[]).id;
    let i = condition.op("get-tuple-element", &count, &[p]);
    let ten = condition.push("constant", (&count).into(), &[]);
    ten.literal = Some(of(10));
    let ten = ten.id;
    let less = condition.push("compare", (&Shape::new(DType::Pred, [])).into(), &[i, ten]);
    less.comparison_direction = "LT".into();
    less.comparison_type = "SIGNED".into();
    let less = less.id;
    let condition = bare(condition.finish(&[less]));

    let mut main = Builder::new("main", 200);
    let (start, seed) = (main.parameter(0, &count), main.parameter(1, &state));
    let first = main.push("tuple", carry.clone(), &[start]).id;
    let whole = main.push("while", carry, &[first]);
    whole.called_computation_ids = vec![body.id, condition.id];
    let whole = whole.id;
    let end = main.op("get-tuple-element", &count, &[whole]);
    let bits = Shape::new(DType::U32, [3]);
    let draw = ShapeProto::tuple(vec![(&state).into(), (&bits).into()]);
    let random = main.push("rng-bit-generator", draw, &[seed]);
    random.rng_algorithm = 1;
    let random = random.id;
    let drawn = main.push("get-tuple-element", (&bits).into(), &[random]);
    drawn.tuple_index = 1;
    let drawn = drawn.id;
    let module = module("counting", vec![body, condition, main.finish(&[end, drawn])]);
    program(module, &[("start", count.clone()), ("seed", state)], &[("end", count), ("drawn", bits)])
}

#[test]
fn a_loop_counts() {
    let start = CLIENT.upload(&Array::scalar_of(3i32)).unwrap();
    let seed = CLIENT.upload(&Array::u64([1, 2], [2]).unwrap()).unwrap();
    let results = compile(&counting()).run(vec![start.into(), (&seed).into()]).unwrap();
    assert_eq!(results[0].to_array().unwrap().scalar::<i32>().unwrap(), 10);
}

/// One of each instruction whose text has something to get wrong.
#[expect(clippy::too_many_lines, reason = "a list of instructions")]
fn many_operations() -> Program {
    let scalar = Shape::f32([]);
    let mut sum = Builder::new("sum", 1);
    let (a, b) = (sum.parameter(0, &scalar), sum.parameter(1, &scalar));
    let root = sum.op("add", &scalar, &[a, b]);
    let sum = bare(sum.finish(&[root]));

    let image = Shape::f32([1, 4, 4, 2]);
    let mut b = Builder::new("main", 100);
    let x = b.parameter(0, &image);
    let constant = |b: &mut Builder, literal: proto::LiteralProto| {
        let instruction = b.push("constant", literal.shape.clone().unwrap(), &[]);
        instruction.literal = Some(literal);
        instruction.id
    };
    let f32s = |dims: &[usize], f32s: &[f32]| proto::LiteralProto {
        shape: Some((&Shape::f32(dims)).into()),
        f32s: f32s.to_vec(),
        ..Default::default()
    };
    let zero = constant(&mut b, f32s(&[], &[0.0]));
    let tenth = constant(&mut b, f32s(&[], &[0.1]));
    let tiny = constant(&mut b, f32s(&[], &[1.5e-7]));
    let huge = constant(&mut b, f32s(&[], &[-2.5e20]));
    let infinite = constant(&mut b, f32s(&[], &[f32::NEG_INFINITY]));
    let pair = constant(&mut b, f32s(&[4], &[-0.0, 1e6, 0.00025, 1234567.0]));
    let square = constant(&mut b, f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));

    let kernel = Shape::f32([3, 3, 2, 8]);
    let w = b.op("broadcast", &kernel, &[tenth]);
    let side = proto::WindowDimension { padding_low: 1, padding_high: 1, ..proto::WindowDimension::new(3, 1) };
    let convolution = b.push("convolution", (&Shape::f32([1, 4, 4, 8])).into(), &[x, w]);
    convolution.window = Some(proto::Window { dimensions: vec![side, side] });
    convolution.feature_group_count = 1;
    convolution.batch_group_count = 1;
    convolution.convolution_dimension_numbers = Some(proto::ConvolutionDimensionNumbers {
        input_batch_dimension: 0,
        input_feature_dimension: 3,
        input_spatial_dimensions: vec![1, 2],
        kernel_input_feature_dimension: 2,
        kernel_output_feature_dimension: 3,
        kernel_spatial_dimensions: vec![0, 1],
        output_batch_dimension: 0,
        output_feature_dimension: 3,
        output_spatial_dimensions: vec![1, 2],
    });
    let y = convolution.id;
    let pool = b.push("reduce-window", (&Shape::f32([1, 2, 2, 8])).into(), &[y, zero]);
    let one = proto::WindowDimension::new(1, 1);
    let two = proto::WindowDimension::new(2, 2);
    pool.window = Some(proto::Window { dimensions: vec![one, two, two, one] });
    pool.called_computation_ids = vec![sum.id];
    let pool = pool.id;
    let reduce = b.push("reduce", (&Shape::f32([1, 8])).into(), &[pool, zero]);
    reduce.dimensions = vec![1, 2];
    reduce.called_computation_ids = vec![sum.id];
    let reduced = reduce.id;
    let slice = b.push("slice", (&Shape::f32([1, 3])).into(), &[reduced]);
    let range = |start, limit, stride| proto::SliceDimensions { start, limit, stride };
    slice.slice_dimensions = vec![range(0, 1, 1), range(1, 7, 2)];
    let slice = slice.id;
    let pad = b.push("pad", (&Shape::f32([2, 8])).into(), &[slice, zero]);
    let edge = |edge_padding_low, edge_padding_high, interior_padding| proto::PaddingConfigDimension {
        edge_padding_low,
        edge_padding_high,
        interior_padding,
    };
    pad.padding_config = Some(proto::PaddingConfig { dimensions: vec![edge(0, 1, 0), edge(1, 2, 1)] });
    let pad = pad.id;
    let dot = b.push("dot", (&Shape::f32([8, 2])).into(), &[pad, square]);
    dot.dot_dimension_numbers = Some(proto::DotDimensionNumbers {
        lhs_contracting_dimensions: vec![0],
        rhs_contracting_dimensions: vec![1],
        ..Default::default()
    });
    let dot = dot.id;
    let transpose = b.push("transpose", (&Shape::f32([2, 8])).into(), &[dot]);
    transpose.dimensions = vec![1, 0];
    let transposed = transpose.id;
    let iota = b.push("iota", (&Shape::f32([2, 8])).into(), &[]);
    iota.dimensions = vec![1];
    let iota = iota.id;
    let compare = b.push("compare", (&Shape::new(DType::Pred, [2, 8])).into(), &[transposed, iota]);
    compare.comparison_direction = "LT".into();
    compare.comparison_type = "FLOAT".into();
    let compare = compare.id;
    let chosen = b.op("select", &Shape::f32([2, 8]), &[compare, transposed, iota]);
    let joined = b.push("concatenate", (&Shape::f32([4, 8])).into(), &[chosen, iota]);
    joined.dimensions = vec![0];
    let joined = joined.id;
    let reverse = b.push("reverse", (&Shape::f32([4, 8])).into(), &[joined]);
    reverse.dimensions = vec![0];
    let reversed = reverse.id;
    let index = constant(
        &mut b,
        proto::LiteralProto { shape: Some((&Shape::s32([])).into()), s32s: vec![1], ..Default::default() },
    );
    let dynamic = b.push("dynamic-slice", (&Shape::f32([1, 8])).into(), &[reversed, index, index]);
    dynamic.dynamic_slice_sizes = vec![1, 8];
    let row = dynamic.id;
    let updated = b.op("dynamic-update-slice", &Shape::f32([4, 8]), &[reversed, row, index, index]);
    let results = [updated, tiny, huge, infinite, pair];
    let shapes = [Shape::f32([4, 8]), scalar.clone(), scalar.clone(), scalar, Shape::f32([4])];
    let names = ["updated", "tiny", "huge", "infinite", "pair"];
    let results_of = names.into_iter().zip(shapes).collect::<Vec<_>>();
    program(module("many", vec![sum, b.finish(&results)]), &[("x", image)], &results_of)
}

/// A combiner returns its value bare: drops the tuple that the builder made.
fn bare(mut computation: Computation) -> Computation {
    let tuple = computation.instructions.pop().unwrap();
    computation.root_id = tuple.operand_ids[0];
    let result = tuple.shape.unwrap().tuple_shapes.swap_remove(0);
    computation.program_shape.as_mut().unwrap().result = Some(result);
    computation
}

/// Adds up `f32[2]` of two replicas.
fn sum_of_replicas() -> hlo::Program {
    let shape = Shape::f32([2]);
    let scalar = Shape::f32([]);
    let mut sum = Builder::new("sum", 1);
    let (a, b) = (sum.parameter(0, &scalar), sum.parameter(1, &scalar));
    let root = sum.op("add", &scalar, &[a, b]);
    let sum = bare(sum.finish(&[root]));

    let mut main = Builder::new("main", 100);
    let x = main.parameter(0, &shape);
    let all = main.push("all-reduce", (&shape).into(), &[x]);
    all.called_computation_ids = vec![sum.id];
    all.replica_groups = vec![proto::ReplicaGroup { replica_ids: vec![0, 1] }];
    let all = all.id;
    program(module("replicas", vec![sum, main.finish(&[all])]), &[("x", shape.clone())], &[("sum", shape)])
}

#[test]
fn replicas_run_where_they_are_assigned() {
    let default = CompileOptions::default().uncached();
    assert_eq!((CLIENT.process(), CLIENT.devices_everywhere()), (0, CLIENT.device_count()));
    let all = CLIENT.assign_everywhere();
    assert_eq!((&all, all.here.clone()), (&CLIENT.assign_here(usize::MAX), 0..CLIENT.device_count()));
    let one = CLIENT.assign_here(1);
    assert_eq!((one.devices.as_slice(), one.here), (&all.devices[..1], 0..1));
    let on = |devices: [usize; 2]| Assignment { devices: devices.map(|d| all.devices[d]).to_vec(), here: 0..2 };
    let x = |value: f32, device| CLIENT.upload_to(&Array::f32([value, 0.0], [2]).unwrap(), device).unwrap();
    for devices in [[1, 0], [0, 1]] {
        let exe = CLIENT.compile(&sum_of_replicas(), &default.clone().assigned(on(devices))).unwrap();
        let [a, b] = devices;
        let results = exe.run_each(vec![vec![x(1.0, a).into()], vec![x(10.0, b).into()]]).unwrap();
        assert_eq!(values(&results[0][0]), [11.0, 0.0], "{devices:?}");
        assert_eq!(exe.devices(), devices);
        // XLA would find this too, but only when one device waits for the other already.
        let swapped = exe.run_each(vec![vec![x(1.0, b).into()], vec![x(10.0, a).into()]]);
        assert!(
            matches!(swapped, Err(Error::OtherDevice { index: 0, expected, got, .. }) if (expected, got) == (a, b)),
            "{swapped:?}"
        );
    }
}

#[test]
fn replicas_reduce_together() {
    let program = sum_of_replicas();
    let options = CompileOptions { replicas: NonZeroUsize::new(2).unwrap(), ..CompileOptions::default().uncached() };
    let exe = CLIENT.compile(&program, &options).unwrap();

    let x = |values: [f32; 2], device| CLIENT.upload_to(&Array::f32(values, [2]).unwrap(), device).unwrap();
    let results = exe.run_each(vec![vec![x([1.0, 2.0], 0).into()], vec![x([10.0, 20.0], 1).into()]]).unwrap();
    assert_eq!(values(&results[0][0]), [11.0, 22.0]);
    assert_eq!(values(&results[1][0]), [11.0, 22.0]);
    assert!(matches!(exe.run(vec![x([0.0; 2], 0).into()]), Err(Error::DeviceCount { expected: 2, got: 1, .. })));
}

#[test]
fn partitions_take_pieces() {
    let whole = Shape::f32([4, 3]);
    let mut b = Builder::new("main", 1);
    let x = b.parameter(0, &whole);
    b.instructions[0].sharding = Some(OpSharding::tiled(vec![2, 1]));
    let y = b.op("add", &whole, &[x, x]);
    let mut main = b.finish(&[y]);
    main.instructions.last_mut().unwrap().sharding = Some(OpSharding::tuple(vec![OpSharding::tiled(vec![2, 1])]));
    let program = program(module("pieces", vec![main]), &[("x", whole.clone())], &[("y", whole.clone())]);
    let options = CompileOptions { partitions: NonZeroUsize::new(2).unwrap(), ..CompileOptions::default().uncached() };
    let exe = CLIENT.compile(&program, &options).unwrap();

    let piece = |value: f32, device| CLIENT.upload_to(&Array::f32([value; 6], [2, 3]).unwrap(), device).unwrap();
    let results = exe.run_each(vec![vec![piece(1.0, 0).into()], vec![piece(2.0, 1).into()]]).unwrap();
    assert_eq!(values(&results[0][0]), [2.0; 6]);
    assert_eq!(values(&results[1][0]), [4.0; 6]);
    assert_eq!(results[0][0].shape(), &Shape::f32([2, 3]));
    let uncut = CLIENT.upload(&Array::zeros(whole)).unwrap();
    let error = exe.run_each(vec![vec![uncut.into()], vec![piece(0.0, 1).into()]]).unwrap_err().to_string();
    assert!(error.contains("must be f32[2,3], got f32[4,3]"), "{error}");
}

#[test]
fn buffers_and_executables_cross_threads() {
    let exe = compile(&step("threads", 8, false));
    let input = vector(&[1.0; 8]);
    std::thread::scope(|scope| {
        for k in 0..4 {
            let (exe, input) = (&exe, &input);
            scope.spawn(move || {
                for _ in 0..50 {
                    let results = exe.run(vec![vector(&[k as f32; 8]).into(), input.into()]).unwrap();
                    assert_eq!(values(&results[0]), [k as f32 + 1.0; 8]);
                }
            });
        }
    });
}

#[test]
fn devices_beyond_the_last_are_an_error() {
    let error = CLIENT.upload_to(&Array::scalar_of(0.0f32), 2).unwrap_err().to_string();
    assert_eq!(error, "device 2 does not exist: the client has 2 device(s); fix: pass a number below 2");
}

#[test]
fn a_shortened_plugin_is_told_apart() {
    let whole = CLIENT.plugin().path();
    let folder = temporary("short");
    let short = folder.join("short.so");
    let mut head = vec![0; 1 << 20];
    std::io::Read::read_exact(&mut std::fs::File::open(whole).unwrap(), &mut head).unwrap();
    std::fs::write(&short, &head).unwrap();
    let error = Plugin::load(PluginKind::Cpu, &short).unwrap_err();
    assert!(matches!(error, Error::Truncated { got: 1_048_576, .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("short.so") && error.contains("etrace plugin install cpu"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_library_that_is_no_plugin_is_refused() {
    // Any shared library will do: the C library's own is loaded in every process.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.split_whitespace().find(|word| word.contains("libc.so") || word.contains("libc-2")).unwrap();
    let error = Plugin::load(PluginKind::Cpu, libc.as_ref()).unwrap_err().to_string();
    assert!(error.contains("exports no `GetPjrtApi`"), "{error}");
}

#[test]
fn the_cache_hits_and_survives_damage() {
    let folder = temporary("cache");
    assert_passed(&child("cache_in_its_own_folder", &[("ETRACE_CACHE", folder.to_str().unwrap())]));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
#[ignore = "run by `the_cache_hits_and_survives_damage`"]
fn cache_in_its_own_folder() {
    let program = step("cached", 5, true);
    let options = CompileOptions::default();
    let run = |expect_hit: bool| {
        let exe = CLIENT.compile(&program, &options).unwrap();
        assert_eq!(exe.from_cache(), expect_hit);
        let results = exe.run(vec![vector(&[1.0; 5]).into(), vector(&[2.0; 5]).into()]).unwrap();
        assert_eq!(values(&results[0]), [3.0; 5]);
        // What is known of a program does not depend on where it came from.
        assert_eq!(exe.memory().unwrap().alias, 20);
    };
    let entry = || {
        let files: Vec<_> = std::fs::read_dir(cache::folder().unwrap()).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "one entry, no leftovers: {files:?}");
        files[0].clone()
    };
    run(false);
    run(true);
    let whole = std::fs::read(entry()).unwrap();
    for damage in [whole[..whole.len() / 2].to_vec(), Vec::new(), whole.iter().map(|b| b ^ 1).collect()] {
        std::fs::write(entry(), damage).unwrap();
        run(false);
        run(true);
    }
    assert!(!CLIENT.compile(&step("other", 5, true), &options).unwrap().from_cache(), "another module misses");
    let other = options.with("xla_backend_optimization_level", OptionValue::Int(1));
    assert!(!CLIENT.compile(&program, &other).unwrap().from_cache(), "other options miss");
}

#[test]
fn the_cache_can_be_off() {
    assert_passed(&child("cache_off", &[("ETRACE_CACHE", "off")]));
}

#[test]
#[ignore = "run by `the_cache_can_be_off`"]
fn cache_off() {
    assert_eq!(cache::folder(), None);
    for _ in 0..2 {
        assert!(!CLIENT.compile(&step("off", 5, false), &CompileOptions::default()).unwrap().from_cache());
    }
}

#[test]
fn a_missing_plugin_tells_where_it_looked() {
    let folder = temporary("missing");
    let cache = folder.to_str().unwrap();
    let environment = [
        ("XDG_CACHE_HOME", cache),
        ("PATH", ""),
        ("VIRTUAL_ENV", ""),
        ("ETRACE_CUDA_PLUGIN", ""),
        ("ETRACE_CPU_PLUGIN", ""),
    ];
    assert_passed(&child("missing_plugins", &environment));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
#[ignore = "run by `a_missing_plugin_tells_where_it_looked`"]
fn missing_plugins() {
    let error = Plugin::find(PluginKind::Cuda, None, &mut |_| {}).unwrap_err();
    let Error::NotFound { searched, .. } = &error else { panic!("{error}") };
    assert_eq!(searched[0], "environment variable ETRACE_CUDA_PLUGIN: not set");
    assert!(searched[1].contains("/etrace/plugins/cuda-"), "{searched:?}");
    assert_eq!(searched[2], "Python environment: no python3 found");
    assert!(error.to_string().contains("fix: run `etrace plugin install cuda`, or set ETRACE_CUDA_PLUGIN"), "{error}");

    // The CPU plugin would be fetched, but there is no pip either.
    let error = Plugin::find(PluginKind::Cpu, None, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Pip { .. }), "{error}");
    let plugins = PathBuf::from(std::env::var_os("XDG_CACHE_HOME").unwrap()).join("etrace/plugins");
    assert_eq!(std::fs::read_dir(plugins).unwrap().count(), 0, "nothing half-written is left");
}

/// Compiles the step for a target in a child; skips nothing: the plugin must be installed.
fn ahead_of_time(target: &str) {
    let kind = aot::plugin_kind(target).unwrap();
    let installed = hlo::pjrt::install(kind, &mut |_| {}).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "aot_child", "--ignored", "--test-threads=1"]);
    let report =
        aot::compile_in(command, &installed, target, &step("ahead", 1 << 16, true), NonZeroUsize::MIN).unwrap();
    println!("{target}: {report:?}");
    assert_eq!(report.memory.alias, 4 << 16);
    assert!(report.memory.argument >= 8 << 16 && report.seconds > 0.0);

    let mut bad = step("bad", 4, false);
    bad.module.computations[0].instructions[2].shape = Some((&Shape::f32([5])).into());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "aot_child", "--ignored", "--test-threads=1"]);
    let error = aot::compile_in(command, &installed, target, &bad, NonZeroUsize::MIN).unwrap_err();
    assert!(matches!(&error, Error::Plugin { message, .. } if message.contains("add.3")), "{error}");
}

#[test]
#[ignore = "fetches 137 MB"]
fn a_program_compiles_for_tpus() {
    ahead_of_time("tpu:v5e");
    ahead_of_time("tpu:v4");
}

#[test]
#[ignore = "fetches 232 MB"]
fn a_program_compiles_for_gpus() {
    ahead_of_time("cuda:h100");
}

#[test]
#[ignore = "the child of the tests above"]
fn aot_child() {
    std::process::exit(aot::child_main());
}

#[test]
#[ignore = "fetches 232 MB; only for machines without a GPU"]
fn a_gpu_plugin_without_a_gpu_says_so() {
    let path = hlo::pjrt::install(PluginKind::Cuda, &mut |_| {}).unwrap();
    let plugin = Plugin::load(PluginKind::Cuda, &path).unwrap();
    let error = plugin.client(&ClientOptions::default()).unwrap_err();
    println!("{error}");
    assert!(matches!(error, Error::NoDevice { kind: PluginKind::Cuda, .. }), "{error}");
    assert!(error.to_string().contains("nvidia-smi"), "{error}");
}

#[test]
#[ignore = "a measurement, for release builds"]
fn timings() {
    use std::time::Instant;
    let per_call = |name: &str, n: u32, mut f: Box<dyn FnMut() + '_>| {
        (0..n / 10).for_each(|_| f());
        let start = Instant::now();
        (0..n).for_each(|_| f());
        println!("{name}: {:.2} us", start.elapsed().as_secs_f64() * 1e6 / f64::from(n));
    };
    let start = Instant::now();
    let plugin = Plugin::find(PluginKind::Cpu, None, &mut |_| {}).unwrap();
    println!("find and load: {:?}", start.elapsed());
    let start = Instant::now();
    let client = plugin.client(&ClientOptions::default()).unwrap();
    println!("client: {:?}", start.elapsed());

    let program = step("timings", 16, false);
    for _ in 0..3 {
        let exe = client.compile(&program, &CompileOptions::default().uncached()).unwrap();
        println!("compile: {:?}", exe.compile_time());
    }
    for _ in 0..3 {
        let exe = client.compile(&program, &CompileOptions::default()).unwrap();
        println!("cached {}: {:?}", exe.from_cache(), exe.compile_time());
    }
    let exe = client.compile(&program, &CompileOptions::default().uncached()).unwrap();
    let array = Array::zeros(Shape::f32([16]));
    let (a, b) = (client.upload(&array).unwrap(), client.upload(&array).unwrap());
    per_call(
        "run, 2 arguments, 2 results",
        20_000,
        Box::new(|| drop(exe.run(vec![(&a).into(), (&b).into()]).unwrap())),
    );
    let donating = client.compile(&step("timings", 16, true), &CompileOptions::default().uncached()).unwrap();
    let mut state = Some(client.upload(&array).unwrap());
    let turn = || state = donating.run(vec![state.take().unwrap().into(), (&b).into()]).unwrap().into_iter().next();
    per_call("run, donated state", 20_000, Box::new(turn));
    per_call("upload 64 B", 20_000, Box::new(|| drop(client.upload(&array).unwrap())));
    per_call("download 64 B", 20_000, Box::new(|| drop(a.to_array().unwrap())));
    let large = Array::zeros(Shape::f32([1 << 24]));
    let on_device = client.upload(&large).unwrap();
    per_call("upload 64 MiB", 10, Box::new(|| drop(client.upload(&large).unwrap())));
    per_call("download 64 MiB", 10, Box::new(|| drop(on_device.to_array().unwrap())));
}
