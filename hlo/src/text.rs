//! A module as text, in XLA's own HLO syntax.
//!
//! This is for reading, for snapshots in tests, and for feeding to XLA's tools. Every attribute that this
//! crate emits is printed, in the spelling of XLA's printer:
//!
//! ```text
//! HloModule step, input_output_alias={ {0}: (1, {}, may-alias) }, entry_computation_layout={...}
//!
//! ENTRY %main (x: f32[2,3], v: f32[2]) -> (f32[2]) {
//!   %x = f32[2,3]{1,0} parameter(0)
//!   ...
//!   ROOT %tuple.9 = (f32[2]{0}) tuple(%v2)
//! }
//! ```

use crate::proto::{
    Computation, ConvolutionDimensionNumbers, Instruction, LiteralProto, Module, OpSharding, PaddingConfig, ShapeProto,
    TOKEN, TUPLE, Window, dtype_of,
};
use std::{
    collections::HashMap,
    fmt::{Display, Write},
};

impl Module {
    /// The module in XLA's HLO text syntax.
    pub fn to_text(&self) -> String {
        let names = Names::of(self);
        let mut out = format!("HloModule {}", self.name);
        if let Some(alias) = &self.input_output_alias {
            let entries = alias.entries.iter().map(|e| {
                let kind = if e.kind == crate::proto::AliasEntry::MUST { "must-alias" } else { "may-alias" };
                let (to, from) = (join(&e.output_shape_index, ","), join(&e.parameter_shape_index, ","));
                format!("{{{to}}}: ({}, {{{from}}}, {kind})", e.parameter_number)
            });
            put(&mut out, format_args!(", input_output_alias={{ {} }}", join(entries, ", ")));
        }
        if let Some(donor) = &self.buffer_donor {
            let entries = donor
                .entries
                .iter()
                .map(|e| format!("({}, {{{}}})", e.parameter_number, join(&e.parameter_shape_index, ",")));
            put(&mut out, format_args!(", buffer_donor={{ {} }}", join(entries, ", ")));
        }
        if let Some(signature) = &self.host_program_shape {
            let result = signature.result.as_ref().map_or_else(|| "?".into(), full_shape);
            let parameters = join(signature.parameters.iter().map(full_shape), ", ");
            put(&mut out, format_args!(", entry_computation_layout={{({parameters})->{result}}}"));
        }
        out.push('\n');
        for computation in &self.computations {
            out.push('\n');
            if computation.id == self.entry_computation_id {
                out.push_str("ENTRY ");
            }
            print_computation(&mut out, computation, &names);
        }
        out
    }
}

/// Names by id: instructions and computations refer to each other by number.
struct Names<'a> {
    instructions: HashMap<i64, &'a str>,
    computations: HashMap<i64, &'a str>,
}

impl<'a> Names<'a> {
    fn of(module: &'a Module) -> Names<'a> {
        let instructions = module.computations.iter().flat_map(|c| &c.instructions);
        Names {
            instructions: instructions.map(|i| (i.id, i.name.as_str())).collect(),
            computations: module.computations.iter().map(|c| (c.id, c.name.as_str())).collect(),
        }
    }

    fn instruction(&self, id: i64) -> String {
        self.instructions.get(&id).map_or_else(|| format!("%?{id}"), |name| format!("%{name}"))
    }

    fn computation(&self, id: i64) -> String {
        self.computations.get(&id).map_or_else(|| format!("%?{id}"), |name| format!("%{name}"))
    }
}

fn print_computation(out: &mut String, computation: &Computation, names: &Names<'_>) {
    put(out, format_args!("%{}", computation.name));
    if let Some(signature) = &computation.program_shape {
        let parameters = signature.parameters.iter().enumerate().map(|(i, shape)| {
            let name = signature.parameter_names.get(i).map_or("?", String::as_str);
            format!("{name}: {}", bare_shape(shape))
        });
        let result = signature.result.as_ref().map_or_else(|| "?".into(), bare_shape);
        put(out, format_args!(" ({}) -> {result}", join(parameters, ", ")));
    }
    out.push_str(" {\n");
    for instruction in &computation.instructions {
        out.push_str(if instruction.id == computation.root_id { "  ROOT " } else { "  " });
        print_instruction(out, instruction, names);
        out.push('\n');
    }
    out.push_str("}\n");
}

fn print_instruction(out: &mut String, i: &Instruction, names: &Names<'_>) {
    let shape = i.shape.as_ref().map_or_else(|| "?".into(), full_shape);
    let operands = match (i.opcode.as_str(), &i.literal) {
        ("parameter", _) => i.parameter_number.to_string(),
        ("constant", Some(value)) => literal(value),
        ("iota", _) => String::new(),
        _ => join(i.operand_ids.iter().map(|&id| names.instruction(id)), ", "),
    };
    put(out, format_args!("%{} = {shape} {}({operands})", i.name, i.opcode));
    let mut attribute = |name: &str, value: &dyn Display| put(out, format_args!(", {name}={value}"));

    match (i.opcode.as_str(), i.dimensions.first()) {
        ("iota", Some(axis)) => attribute("iota_dimension", axis),
        ("broadcast", _) | (_, Some(_)) => attribute("dimensions", &braces(&i.dimensions)),
        (_, None) => {}
    }
    if let Some(w) = &i.window
        && !w.dimensions.is_empty()
    {
        attribute("window", &format!("{{{}}}", window(w)));
    }
    if let Some(numbers) = &i.convolution_dimension_numbers {
        attribute("dim_labels", &dim_labels(numbers));
    }
    if i.feature_group_count > 1 {
        attribute("feature_group_count", &i.feature_group_count);
    }
    if i.batch_group_count > 1 {
        attribute("batch_group_count", &i.batch_group_count);
    }
    if let Some(d) = &i.dot_dimension_numbers {
        for (name, axes) in [
            ("lhs_batch_dims", &d.lhs_batch_dimensions),
            ("lhs_contracting_dims", &d.lhs_contracting_dimensions),
            ("rhs_batch_dims", &d.rhs_batch_dimensions),
            ("rhs_contracting_dims", &d.rhs_contracting_dimensions),
        ] {
            if !axes.is_empty() {
                attribute(name, &braces(axes));
            }
        }
    }
    if let Some(p) = &i.precision_config
        && p.operand_precision.iter().any(|&p| p != 0)
    {
        let words = p.operand_precision.iter().map(|p| match p {
            0 => "default",
            1 => "high",
            _ => "highest",
        });
        attribute("operand_precision", &format!("{{{}}}", join(words, ",")));
    }
    if !i.slice_dimensions.is_empty() {
        let strided = i.slice_dimensions.iter().any(|s| s.stride != 1);
        let ranges = i.slice_dimensions.iter().map(|s| match strided {
            true => format!("[{}:{}:{}]", s.start, s.limit, s.stride),
            false => format!("[{}:{}]", s.start, s.limit),
        });
        attribute("slice", &format!("{{{}}}", join(ranges, ", ")));
    }
    if !i.dynamic_slice_sizes.is_empty() {
        attribute("dynamic_slice_sizes", &braces(&i.dynamic_slice_sizes));
    }
    if let Some(config) = &i.padding_config {
        attribute("padding", &padding(config));
    }
    match i.opcode.as_str() {
        "get-tuple-element" => attribute("index", &i.tuple_index),
        "reduce-precision" => {
            attribute("exponent_bits", &i.exponent_bits);
            attribute("mantissa_bits", &i.mantissa_bits);
        }
        "rng-bit-generator" => {
            let name = ["rng_default", "rng_three_fry", "rng_philox"].get(i.rng_algorithm as usize);
            attribute("algorithm", name.unwrap_or(&"?"));
        }
        _ => {}
    }
    if i.is_stable {
        attribute("is_stable", &true);
    }
    if !i.comparison_direction.is_empty() {
        attribute("direction", &i.comparison_direction);
    }
    if !i.comparison_type.is_empty() && !default_comparison(i) {
        attribute("type", &i.comparison_type);
    }
    if !i.custom_call_target.is_empty() {
        attribute("custom_call_target", &format!("{:?}", i.custom_call_target));
    }
    if i.channel_id > 0 {
        attribute("channel_id", &i.channel_id);
    }
    if matches!(i.opcode.as_str(), "all-reduce" | "all-gather" | "reduce-scatter" | "all-to-all") {
        let groups = i.replica_groups.iter().map(|g| braces(&g.replica_ids));
        attribute("replica_groups", &format!("{{{}}}", join(groups, ",")));
    }
    if i.use_global_device_ids {
        attribute("use_global_device_ids", &true);
    }
    if !i.fusion_kind.is_empty() {
        attribute("kind", &i.fusion_kind);
    }
    let called = &i.called_computation_ids;
    let computation = |id: i64| names.computation(id);
    match (i.opcode.as_str(), called.as_slice()) {
        (_, []) => {}
        ("while", [body, condition]) => {
            attribute("condition", &computation(*condition));
            attribute("body", &computation(*body));
        }
        ("select-and-scatter", [select, scatter]) => {
            attribute("select", &computation(*select));
            attribute("scatter", &computation(*scatter));
        }
        ("conditional", branches) => {
            attribute("branch_computations", &format!("{{{}}}", join(branches.iter().map(|&b| computation(b)), ", ")));
        }
        ("fusion", [fused]) => attribute("calls", &computation(*fused)),
        (_, [one]) => attribute("to_apply", &computation(*one)),
        (_, many) => {
            attribute("called_computations", &format!("{{{}}}", join(many.iter().map(|&b| computation(b)), ", ")))
        }
    }
    if let Some(s) = &i.sharding {
        attribute("sharding", &sharding(s));
    }
    if !i.control_predecessor_ids.is_empty() {
        let before = i.control_predecessor_ids.iter().map(|&id| names.instruction(id));
        attribute("control-predecessors", &format!("{{{}}}", join(before, ", ")));
    }
    if let Some(m) = &i.metadata {
        let fields = [("op_type", &m.op_type), ("op_name", &m.op_name), ("source_file", &m.source_file)];
        let mut words: Vec<String> =
            fields.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={v:?}")).collect();
        if m.source_line > 0 {
            words.push(format!("source_line={}", m.source_line));
        }
        if !words.is_empty() {
            attribute("metadata", &format!("{{{}}}", words.join(" ")));
        }
    }
    if !i.backend_config.is_empty() {
        attribute("backend_config", &format!("{:?}", String::from_utf8_lossy(&i.backend_config)));
    }
}

/// XLA leaves the comparison type out where it follows from the operands. They are not available here, so only
/// the type that changes the meaning, a total order of floats, is always printed.
fn default_comparison(i: &Instruction) -> bool {
    i.comparison_type != "TOTALORDER"
}

/// `f32[2,3]`.
fn bare_shape(shape: &ShapeProto) -> String {
    match shape.element_type {
        TUPLE => format!("({})", join(shape.tuple_shapes.iter().map(bare_shape), ", ")),
        TOKEN => "token[]".into(),
        kind => format!("{}[{}]", type_name(kind), join(&shape.dimensions, ",")),
    }
}

/// `f32[2,3]{1,0}`.
fn full_shape(shape: &ShapeProto) -> String {
    match &shape.layout {
        _ if shape.is_tuple() => format!("({})", join(shape.tuple_shapes.iter().map(full_shape), ", ")),
        Some(layout) if !layout.minor_to_major.is_empty() => {
            format!("{}{{{}}}", bare_shape(shape), join(&layout.minor_to_major, ","))
        }
        _ => bare_shape(shape),
    }
}

fn type_name(element_type: i32) -> &'static str {
    match (dtype_of(element_type), element_type) {
        (Some(dtype), _) => dtype.name(),
        (None, 2) => "s8",
        (None, 3) => "s16",
        (None, 5) => "s64",
        (None, 7) => "u16",
        (None, 10) => "f16",
        (None, 15) => "c64",
        _ => "?",
    }
}

/// Scalars bare, arrays in nested braces.
fn literal(value: &LiteralProto) -> String {
    let dims: &[i64] = value.shape.as_ref().map_or(&[], |s| &s.dimensions);
    let values: Vec<String> = match value.shape.as_ref().and_then(|s| dtype_of(s.element_type)) {
        Some(dtype) => {
            use crate::DType::*;
            match dtype {
                Pred => strings(&value.preds),
                U8 => strings(&value.u8s),
                S32 => strings(&value.s32s),
                U32 => strings(&value.u32s),
                U64 => strings(&value.u64s),
                F32 => value.f32s.iter().map(|&v| float(v)).collect(),
                F64 => value.f64s.iter().map(|&v| float(v)).collect(),
                BF16 => {
                    let bits = value.bf16s.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
                    bits.map(f32::from_bits).map(float).collect()
                }
            }
        }
        None => strings(&value.s64s),
    };
    nest(&values, dims)
}

fn strings<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

/// Floats in the shortest form that reads back, with an exponent where C's `%g` would use one.
fn float<T: Copy + Into<f64> + Display + std::fmt::LowerExp>(shown: T) -> String {
    let value: f64 = shown.into();
    if value.is_nan() {
        return "nan".into();
    } else if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let text = format!("{shown:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let precision = digits.bytes().filter(u8::is_ascii_digit).count().max(6) as i32;
    let power: i32 = exponent.parse().unwrap_or(0);
    if (-4..precision).contains(&power) {
        return shown.to_string();
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", power.abs())
}

fn nest(values: &[String], dims: &[i64]) -> String {
    match dims {
        [] => values.first().cloned().unwrap_or_default(),
        [_] => format!("{{{}}}", join(values, ", ")),
        [_, columns] => {
            let rows = values.chunks(usize::try_from(*columns).unwrap_or(0).max(1));
            format!("{{ {} }}", join(rows.map(|row| format!("{{ {} }}", join(row, ", "))), ", "))
        }
        [outer, inner @ ..] => {
            let each = values.len() / usize::try_from(*outer).unwrap_or(0).max(1);
            let rows = values.chunks(each.max(1)).map(|row| nest(row, inner));
            format!("{{ {} }}", join(rows, ", "))
        }
    }
}

/// `size=3x3 stride=2x2 pad=1_1x1_1 lhs_dilate=2x2 rhs_dilate=1x1 rhs_reversal=1x1`, defaults left out.
fn window(w: &Window) -> String {
    let d = &w.dimensions;
    let mut words = vec![format!("size={}", join(d.iter().map(|x| x.size), "x"))];
    if d.iter().any(|x| x.stride != 1) {
        words.push(format!("stride={}", join(d.iter().map(|x| x.stride), "x")));
    }
    if d.iter().any(|x| x.padding_low != 0 || x.padding_high != 0) {
        words.push(format!("pad={}", join(d.iter().map(|x| format!("{}_{}", x.padding_low, x.padding_high)), "x")));
    }
    if d.iter().any(|x| x.base_dilation != 1) {
        words.push(format!("lhs_dilate={}", join(d.iter().map(|x| x.base_dilation), "x")));
    }
    if d.iter().any(|x| x.window_dilation != 1) {
        words.push(format!("rhs_dilate={}", join(d.iter().map(|x| x.window_dilation), "x")));
    }
    if d.iter().any(|x| x.window_reversal) {
        words.push(format!("rhs_reversal={}", join(d.iter().map(|x| u8::from(x.window_reversal)), "x")));
    }
    words.join(" ")
}

/// `bf01_oi01->bf01`: what each axis of input, kernel and output means.
fn dim_labels(n: &ConvolutionDimensionNumbers) -> String {
    fn labels(a: (char, i64), b: (char, i64), spatial: &[i64]) -> String {
        let mut axes: Vec<(i64, String)> = vec![(a.1, a.0.to_string()), (b.1, b.0.to_string())];
        axes.extend(spatial.iter().enumerate().map(|(k, &axis)| (axis, k.to_string())));
        axes.sort();
        axes.into_iter().map(|(_, label)| label).collect()
    }
    format!(
        "{}_{}->{}",
        labels(('b', n.input_batch_dimension), ('f', n.input_feature_dimension), &n.input_spatial_dimensions),
        labels(
            ('i', n.kernel_input_feature_dimension),
            ('o', n.kernel_output_feature_dimension),
            &n.kernel_spatial_dimensions
        ),
        labels(('b', n.output_batch_dimension), ('f', n.output_feature_dimension), &n.output_spatial_dimensions),
    )
}

/// `1_2x0_0_1`: low, high and, where any is set, interior padding per axis.
fn padding(config: &PaddingConfig) -> String {
    let interior = config.dimensions.iter().any(|d| d.interior_padding != 0);
    let axes = config.dimensions.iter().map(|d| match interior {
        true => format!("{}_{}_{}", d.edge_padding_low, d.edge_padding_high, d.interior_padding),
        false => format!("{}_{}", d.edge_padding_low, d.edge_padding_high),
    });
    join(axes, "x")
}

fn sharding(s: &OpSharding) -> String {
    match s.kind {
        OpSharding::REPLICATED => "{replicated}".into(),
        OpSharding::MAXIMAL => format!("{{maximal device={}}}", join(&s.tile_assignment_devices, ",")),
        OpSharding::TUPLE => format!("{{{}}}", join(s.tuple_shardings.iter().map(sharding), ", ")),
        _ => {
            let last = if s.replicate_on_last_tile_dim { " last_tile_dim_replicate" } else { "" };
            let (tiles, devices) = (join(&s.tile_assignment_dimensions, ","), join(&s.tile_assignment_devices, ","));
            format!("{{devices=[{tiles}]{devices}{last}}}")
        }
    }
}

fn braces(values: &[i64]) -> String {
    format!("{{{}}}", join(values, ","))
}

fn join<T: Display>(values: impl IntoIterator<Item = T>, between: &str) -> String {
    values.into_iter().map(|v| v.to_string()).collect::<Vec<_>>().join(between)
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DType, Shape,
        proto::{
            AliasEntry, DotDimensionNumbers, InputOutputAlias, PaddingConfigDimension, ProgramShape, SliceDimensions,
            WindowDimension, element_type,
        },
    };

    fn instruction(id: i64, opcode: &str, shape: Shape, operands: &[i64]) -> Instruction {
        Instruction {
            name: format!("{opcode}.{id}"),
            opcode: opcode.into(),
            shape: Some((&shape).into()),
            id,
            operand_ids: operands.to_vec(),
            ..Default::default()
        }
    }

    fn attributes(i: Instruction) -> String {
        let module = Module::default();
        let mut out = String::new();
        print_instruction(&mut out, &i, &Names::of(&module));
        out.split_once(')').unwrap().1.to_owned()
    }

    // By hand, after the form of XLA's own dumps.
    #[test]
    fn a_module_reads_like_xlas() {
        let mut state = instruction(1, "parameter", Shape::f32([2, 3]), &[]);
        state.name = "state".into();
        let mut weights = instruction(2, "parameter", Shape::f32([3, 3]), &[]);
        weights.name = "weights".into();
        weights.parameter_number = 1;
        let mut dot = instruction(3, "dot", Shape::f32([2, 3]), &[1, 2]);
        dot.dot_dimension_numbers = Some(DotDimensionNumbers {
            lhs_contracting_dimensions: vec![1],
            rhs_contracting_dimensions: vec![0],
            ..Default::default()
        });
        let mut tuple = instruction(4, "tuple", Shape::f32([]), &[3]);
        tuple.shape = Some(ShapeProto::tuple(vec![(&Shape::f32([2, 3])).into()]));
        let program_shape = Some(ProgramShape {
            parameters: vec![(&Shape::f32([2, 3])).into(), (&Shape::f32([3, 3])).into()],
            result: tuple.shape.clone(),
            parameter_names: vec!["state".into(), "weights".into()],
        });
        let module = Module {
            name: "step".into(),
            computations: vec![Computation {
                name: "main".into(),
                instructions: vec![state, weights, dot, tuple],
                program_shape,
                id: 5,
                root_id: 4,
            }],
            entry_computation_id: 5,
            input_output_alias: Some(InputOutputAlias {
                entries: vec![AliasEntry {
                    output_shape_index: vec![0],
                    parameter_number: 0,
                    parameter_shape_index: vec![],
                    kind: AliasEntry::MAY,
                }],
            }),
            ..Default::default()
        };
        assert_eq!(
            module.to_text(),
            "\
HloModule step, input_output_alias={ {0}: (0, {}, may-alias) }

ENTRY %main (state: f32[2,3], weights: f32[3,3]) -> (f32[2,3]) {
  %state = f32[2,3]{1,0} parameter(0)
  %weights = f32[3,3]{1,0} parameter(1)
  %dot.3 = f32[2,3]{1,0} dot(%state, %weights), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %tuple.4 = (f32[2,3]{1,0}) tuple(%dot.3)
}
"
        );
    }

    #[test]
    fn windows_and_convolutions() {
        let mut i = instruction(1, "convolution", Shape::f32([1, 4, 4, 8]), &[]);
        let side = WindowDimension { padding_low: 1, padding_high: 2, ..WindowDimension::new(3, 2) };
        i.window = Some(Window { dimensions: vec![side, WindowDimension { base_dilation: 2, ..side }] });
        i.convolution_dimension_numbers = Some(ConvolutionDimensionNumbers {
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
        i.feature_group_count = 2;
        assert_eq!(
            attributes(i),
            ", window={size=3x3 stride=2x2 pad=1_2x1_2 lhs_dilate=1x2}, dim_labels=b01f_01io->b01f, feature_group_count=2"
        );
    }

    #[test]
    fn slices_pads_and_the_rest() {
        let mut slice = instruction(1, "slice", Shape::f32([2, 2]), &[]);
        slice.slice_dimensions =
            vec![SliceDimensions { start: 0, limit: 2, stride: 1 }, SliceDimensions { start: 1, limit: 5, stride: 2 }];
        assert_eq!(attributes(slice), ", slice={[0:2:1], [1:5:2]}");

        let mut pad = instruction(1, "pad", Shape::f32([4, 4]), &[]);
        let axis = |low, high, interior_padding| PaddingConfigDimension {
            edge_padding_low: low,
            edge_padding_high: high,
            interior_padding,
        };
        pad.padding_config = Some(PaddingConfig { dimensions: vec![axis(1, -1, 0), axis(0, 2, 0)] });
        assert_eq!(attributes(pad.clone()), ", padding=1_-1x0_2");
        pad.padding_config = Some(PaddingConfig { dimensions: vec![axis(1, 0, 0), axis(0, 2, 3)] });
        assert_eq!(attributes(pad), ", padding=1_0_0x0_2_3");

        let mut iota = instruction(1, "iota", Shape::s32([4]), &[]);
        iota.dimensions = vec![0];
        assert_eq!(attributes(iota), ", iota_dimension=0");
        assert_eq!(attributes(instruction(1, "broadcast", Shape::f32([4]), &[])), ", dimensions={}");

        let mut compare = instruction(1, "compare", Shape::new(DType::Pred, [4]), &[]);
        compare.comparison_direction = "LT".into();
        compare.comparison_type = "FLOAT".into();
        assert_eq!(attributes(compare.clone()), ", direction=LT");
        compare.comparison_type = "TOTALORDER".into();
        assert_eq!(attributes(compare), ", direction=LT, type=TOTALORDER");

        let mut sort = instruction(1, "sort", Shape::f32([4]), &[]);
        (sort.dimensions, sort.is_stable) = (vec![0], true);
        sort.sharding = Some(OpSharding::tiled(vec![2]));
        assert_eq!(attributes(sort), ", dimensions={0}, is_stable=true, sharding={devices=[2]0,1}");

        let mut random = instruction(1, "rng-bit-generator", Shape::new(DType::U32, [4]), &[]);
        random.rng_algorithm = 2;
        assert_eq!(attributes(random), ", algorithm=rng_philox");
    }

    #[test]
    fn constants_of_every_type() {
        let of = |dtype: DType, dims: &[i64]| LiteralProto {
            shape: Some(ShapeProto::array(element_type(dtype), dims.to_vec())),
            ..Default::default()
        };
        assert_eq!(literal(&LiteralProto { f32s: vec![0.1], ..of(DType::F32, &[]) }), "0.1");
        assert_eq!(literal(&LiteralProto { f32s: vec![f32::NEG_INFINITY], ..of(DType::F32, &[]) }), "-inf");
        assert_eq!(literal(&LiteralProto { f32s: vec![1e-7], ..of(DType::F32, &[]) }), "1e-07");
        assert_eq!(literal(&LiteralProto { f64s: vec![1e300], ..of(DType::F64, &[]) }), "1e+300");
        assert_eq!(literal(&LiteralProto { bf16s: vec![0xc0, 0x3f], ..of(DType::BF16, &[]) }), "1.5");
        assert_eq!(literal(&LiteralProto { preds: vec![true], ..of(DType::Pred, &[]) }), "true");
        assert_eq!(literal(&LiteralProto { u8s: vec![1, 2], ..of(DType::U8, &[2]) }), "{1, 2}");
        let matrix = LiteralProto { s32s: vec![1, 2, 3, 4], ..of(DType::S32, &[2, 2]) };
        assert_eq!(literal(&matrix), "{ { 1, 2 }, { 3, 4 } }");
    }
}
