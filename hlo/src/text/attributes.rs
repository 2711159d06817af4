//! What stands behind the operands of an instruction: `, name=value` for each attribute that differs from its default, in the order of
//! XLA's printer.

use super::{Names, braces, join, put};
use crate::proto::{ConvolutionDimensionNumbers, Instruction, OpSharding, PaddingConfig, Window};
use std::fmt::Display;

/// Prints the attributes of an instruction.
pub(super) struct Attributes<'a> {
    pub out: &'a mut String,
    pub names: &'a Names<'a>,
}

impl Attributes<'_> {
    pub fn all(&mut self, i: &Instruction) {
        self.axes(i);
        self.products(i);
        self.extents(i);
        self.variant(i);
        self.devices(i);
        self.called(i);
        self.context(i);
    }

    fn put(&mut self, name: &str, value: impl Display) {
        put(self.out, format_args!(", {name}={value}"));
    }

    /// A list in braces.
    fn list<T: Display>(&mut self, name: &str, values: impl IntoIterator<Item = T>, between: &str) {
        self.put(name, format_args!("{{{}}}", join(values, between)));
    }

    fn axes(&mut self, i: &Instruction) {
        match (i.opcode.as_str(), i.dimensions.first()) {
            ("iota", Some(axis)) => self.put("iota_dimension", axis),
            ("broadcast", _) | (_, Some(_)) => self.list("dimensions", &i.dimensions, ","),
            (_, None) => {}
        }
    }

    /// Which elements a convolution, a window or a matrix product brings together.
    fn products(&mut self, i: &Instruction) {
        if let Some(w) = &i.window
            && !w.dimensions.is_empty()
        {
            self.put("window", format_args!("{{{}}}", window(w)));
        }
        if let Some(numbers) = &i.gather_dimension_numbers {
            self.list("offset_dims", &numbers.offset_dims, ",");
            self.list("collapsed_slice_dims", &numbers.collapsed_slice_dims, ",");
            self.list("start_index_map", &numbers.start_index_map, ",");
            self.put("index_vector_dim", numbers.index_vector_dim);
            self.list("slice_sizes", &i.gather_slice_sizes, ",");
        }
        if let Some(numbers) = &i.convolution_dimension_numbers {
            self.put("dim_labels", dim_labels(numbers));
        }
        if i.feature_group_count > 1 {
            self.put("feature_group_count", i.feature_group_count);
        }
        if i.batch_group_count > 1 {
            self.put("batch_group_count", i.batch_group_count);
        }
        if let Some(d) = &i.dot_dimension_numbers {
            for (name, axes) in [
                ("lhs_batch_dims", &d.lhs_batch_dimensions),
                ("lhs_contracting_dims", &d.lhs_contracting_dimensions),
                ("rhs_batch_dims", &d.rhs_batch_dimensions),
                ("rhs_contracting_dims", &d.rhs_contracting_dimensions),
            ] {
                if !axes.is_empty() {
                    self.list(name, axes, ",");
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
            self.list("operand_precision", words, ",");
        }
    }

    /// Which part of the operand a slice takes, and what padding adds.
    fn extents(&mut self, i: &Instruction) {
        if !i.slice_dimensions.is_empty() {
            let strided = i.slice_dimensions.iter().any(|s| s.stride != 1);
            let ranges = i.slice_dimensions.iter().map(|s| match strided {
                true => format!("[{}:{}:{}]", s.start, s.limit, s.stride),
                false => format!("[{}:{}]", s.start, s.limit),
            });
            self.list("slice", ranges, ", ");
        }
        if !i.dynamic_slice_sizes.is_empty() {
            self.list("dynamic_slice_sizes", &i.dynamic_slice_sizes, ",");
        }
        if let Some(config) = &i.padding_config {
            self.put("padding", padding(config));
        }
    }

    /// Which of the operations of one opcode this is.
    fn variant(&mut self, i: &Instruction) {
        match i.opcode.as_str() {
            "get-tuple-element" => self.put("index", i.tuple_index),
            "reduce-precision" => {
                self.put("exponent_bits", i.exponent_bits);
                self.put("mantissa_bits", i.mantissa_bits);
            }
            "rng-bit-generator" => {
                let name = ["rng_default", "rng_three_fry", "rng_philox"].get(i.rng_algorithm as usize);
                self.put("algorithm", name.unwrap_or(&"?"));
            }
            _ => {}
        }
        if i.is_stable {
            self.put("is_stable", true);
        }
        if !i.comparison_direction.is_empty() {
            self.put("direction", &i.comparison_direction);
        }
        // XLA leaves the comparison type out where it follows from the operands. They are not available here, so only the type that
        // changes the meaning, a total order of floats, is always printed.
        if i.comparison_type == "TOTALORDER" {
            self.put("type", &i.comparison_type);
        }
        if !i.custom_call_target.is_empty() {
            self.put("custom_call_target", format_args!("{:?}", i.custom_call_target));
        }
    }

    fn devices(&mut self, i: &Instruction) {
        if i.channel_id > 0 {
            self.put("channel_id", i.channel_id);
        }
        if matches!(i.opcode.as_str(), "all-reduce" | "all-gather" | "reduce-scatter" | "all-to-all") {
            self.list("replica_groups", i.replica_groups.iter().map(|g| braces(&g.replica_ids)), ",");
        }
        if i.use_global_device_ids {
            self.put("use_global_device_ids", true);
        }
    }

    /// The computations that the instruction runs.
    fn called(&mut self, i: &Instruction) {
        if !i.fusion_kind.is_empty() {
            self.put("kind", &i.fusion_kind);
        }
        let names = self.names;
        let named: &[(&str, i64)] = match (i.opcode.as_str(), i.called_computation_ids.as_slice()) {
            (_, []) => &[],
            ("while", &[body, condition]) => &[("condition", condition), ("body", body)],
            ("select-and-scatter", &[select, scatter]) => &[("select", select), ("scatter", scatter)],
            ("fusion", &[fused]) => &[("calls", fused)],
            (opcode, many) if opcode == "conditional" || many.len() > 1 => {
                let name = if opcode == "conditional" { "branch_computations" } else { "called_computations" };
                return self.list(name, many.iter().map(|&id| names.computation(id)), ", ");
            }
            (_, &[one, ..]) => &[("to_apply", one)],
        };
        for &(name, id) in named {
            self.put(name, names.computation(id));
        }
    }

    /// Where the instruction runs, after what, and where it comes from.
    fn context(&mut self, i: &Instruction) {
        if let Some(s) = &i.sharding {
            self.put("sharding", sharding(s));
        }
        if !i.control_predecessor_ids.is_empty() {
            let names = self.names;
            self.list("control-predecessors", i.control_predecessor_ids.iter().map(|&id| names.instruction(id)), ", ");
        }
        if let Some(m) = &i.metadata {
            let fields = [("op_type", &m.op_type), ("op_name", &m.op_name), ("source_file", &m.source_file)];
            let mut words: Vec<String> =
                fields.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={v:?}")).collect();
            if m.source_line > 0 {
                words.push(format!("source_line={}", m.source_line));
            }
            if !words.is_empty() {
                self.list("metadata", words, " ");
            }
        }
        if !i.backend_config.is_empty() {
            self.put("backend_config", format_args!("{:?}", String::from_utf8_lossy(&i.backend_config)));
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

#[cfg(test)]
mod tests {
    use super::{super::tests::instruction, *};
    use crate::{
        DType, Shape,
        proto::{PaddingConfigDimension, SliceDimensions, WindowDimension},
    };

    fn attributes(i: Instruction) -> String {
        let module = crate::proto::Module::default();
        let mut out = String::new();
        Attributes { out: &mut out, names: &Names::of(&module) }.all(&i);
        out
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
}
