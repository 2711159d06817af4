//! The wire form of a computation: what a compiler plugin is given.
//!
//! XLA's own exchange format is the protocol buffer `HloModuleProto` (`xla/service/hlo.proto`, with
//! `xla/xla_data.proto`). These are the messages of it that this crate emits, written out by hand so that
//! neither a protocol compiler nor a C++ tree is needed to build. Field numbers are part of the format;
//! fields we never set are left out, since an absent field has its default.
//!
//! What plugins demand of a module, beyond what the types say:
//!
//! * [`Module::host_program_shape`] is mandatory and equals the entry computation's program shape;
//! * computations stand callee first, the entry last; instructions stand operands first;
//! * instruction and computation ids come from one counter, so that they are unique in the module;
//! * every array shape carries a layout;
//! * `while` calls `[body, condition]`, in that order; `conditional` its branches; `reduce`, `reduce-window`,
//!   `sort` and `all-reduce` their combiner; `select-and-scatter` calls `[select, scatter]`;
//! * the root of the entry may be a tuple, but not a nested one.
//!
//! The file is above 500 lines because it is a table of messages: a reader looks one up.

use crate::shape::{DType, Shape};
use prost::Message;

/// The element type number of a tuple shape.
pub const TUPLE: i32 = 13;
/// The element type number of a token shape.
pub const TOKEN: i32 = 17;
/// The element type number of 64-bit signed integers, which XLA produces but [`DType`] has no use for.
pub const S64: i32 = 5;

/// XLA's `PrimitiveType` number of an element type.
pub const fn element_type(dtype: DType) -> i32 {
    match dtype {
        DType::Pred => 1,
        DType::S32 => 4,
        DType::U8 => 6,
        DType::U32 => 8,
        DType::U64 => 9,
        DType::F32 => 11,
        DType::F64 => 12,
        DType::BF16 => 16,
    }
}

/// The inverse of [`element_type`]; `None` for types this crate does not use, and for tuples.
pub const fn dtype_of(element_type: i32) -> Option<DType> {
    Some(match element_type {
        1 => DType::Pred,
        4 => DType::S32,
        6 => DType::U8,
        8 => DType::U32,
        9 => DType::U64,
        11 => DType::F32,
        12 => DType::F64,
        16 => DType::BF16,
        _ => return None,
    })
}

/// How an array lies in memory (`LayoutProto`).
#[derive(Clone, PartialEq, Message)]
pub struct Layout {
    /// Axes, fastest varying first. Row-major is `[rank-1, ..., 0]`.
    #[prost(int64, repeated, tag = "1")]
    pub minor_to_major: Vec<i64>,
}

/// Shape of an array or tuple (`ShapeProto`).
#[derive(Clone, PartialEq, Message)]
pub struct ShapeProto {
    /// XLA `PrimitiveType`: see [`element_type`], [`TUPLE`].
    #[prost(int32, tag = "2")]
    pub element_type: i32,
    /// Sizes, outermost first; empty for scalars and tuples.
    #[prost(int64, repeated, tag = "3")]
    pub dimensions: Vec<i64>,
    /// Members of a tuple.
    #[prost(message, repeated, tag = "4")]
    pub tuple_shapes: Vec<ShapeProto>,
    /// Memory order; mandatory for arrays.
    #[prost(message, optional, tag = "5")]
    pub layout: Option<Layout>,
}

impl ShapeProto {
    /// A row-major array shape.
    pub fn array(element_type: i32, dimensions: Vec<i64>) -> ShapeProto {
        let minor_to_major = (0..dimensions.len() as i64).rev().collect();
        ShapeProto { element_type, dimensions, tuple_shapes: Vec::new(), layout: Some(Layout { minor_to_major }) }
    }

    /// A tuple of shapes.
    pub fn tuple(tuple_shapes: Vec<ShapeProto>) -> ShapeProto {
        ShapeProto { element_type: TUPLE, dimensions: Vec::new(), tuple_shapes, layout: None }
    }

    /// Whether this is a tuple shape.
    pub fn is_tuple(&self) -> bool {
        self.element_type == TUPLE
    }
}

impl From<&Shape> for ShapeProto {
    /// Row-major.
    fn from(shape: &Shape) -> ShapeProto {
        ShapeProto::array(element_type(shape.dtype), shape.dims.iter().map(|&d| d as i64).collect())
    }
}

/// Signature of a computation (`ProgramShapeProto`).
#[derive(Clone, PartialEq, Message)]
pub struct ProgramShape {
    /// Shapes of the parameters in order.
    #[prost(message, repeated, tag = "1")]
    pub parameters: Vec<ShapeProto>,
    /// Shape of the root.
    #[prost(message, optional, tag = "2")]
    pub result: Option<ShapeProto>,
    /// Names of the parameters in order.
    #[prost(string, repeated, tag = "3")]
    pub parameter_names: Vec<String>,
}

/// Values of a constant (`LiteralProto`). Only the field of the shape's element type is filled.
#[derive(Clone, PartialEq, Message)]
pub struct LiteralProto {
    /// Shape of the values.
    #[prost(message, optional, tag = "1")]
    pub shape: Option<ShapeProto>,
    /// `pred` values.
    #[prost(bool, repeated, tag = "2")]
    pub preds: Vec<bool>,
    /// `u8` values, one byte each.
    #[prost(bytes = "vec", tag = "3")]
    pub u8s: Vec<u8>,
    /// `s32` values.
    #[prost(int32, repeated, tag = "4")]
    pub s32s: Vec<i32>,
    /// `s64` values.
    #[prost(int64, repeated, tag = "5")]
    pub s64s: Vec<i64>,
    /// `u32` values.
    #[prost(uint32, repeated, tag = "6")]
    pub u32s: Vec<u32>,
    /// `u64` values.
    #[prost(uint64, repeated, tag = "7")]
    pub u64s: Vec<u64>,
    /// `f32` values.
    #[prost(float, repeated, tag = "8")]
    pub f32s: Vec<f32>,
    /// `f64` values.
    #[prost(double, repeated, tag = "9")]
    pub f64s: Vec<f64>,
    /// `bf16` values, two little-endian bytes each.
    #[prost(bytes = "vec", tag = "13")]
    pub bf16s: Vec<u8>,
}

/// Which axes a `dot` contracts and which it batches over.
#[derive(Clone, PartialEq, Message)]
pub struct DotDimensionNumbers {
    /// Contracted axes of the left operand.
    #[prost(int64, repeated, tag = "1")]
    pub lhs_contracting_dimensions: Vec<i64>,
    /// Contracted axes of the right operand.
    #[prost(int64, repeated, tag = "2")]
    pub rhs_contracting_dimensions: Vec<i64>,
    /// Batch axes of the left operand.
    #[prost(int64, repeated, tag = "3")]
    pub lhs_batch_dimensions: Vec<i64>,
    /// Batch axes of the right operand.
    #[prost(int64, repeated, tag = "4")]
    pub rhs_batch_dimensions: Vec<i64>,
}

/// One axis of a sliding window.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct WindowDimension {
    /// Width of the window.
    #[prost(int64, tag = "1")]
    pub size: i64,
    /// Step between positions; at least 1.
    #[prost(int64, tag = "2")]
    pub stride: i64,
    /// Elements added before the first (negative: removed).
    #[prost(int64, tag = "3")]
    pub padding_low: i64,
    /// Elements added after the last (negative: removed).
    #[prost(int64, tag = "4")]
    pub padding_high: i64,
    /// Spacing of window elements; at least 1.
    #[prost(int64, tag = "5")]
    pub window_dilation: i64,
    /// Spacing of base elements; at least 1.
    #[prost(int64, tag = "6")]
    pub base_dilation: i64,
    /// Whether the window is flipped along this axis.
    #[prost(bool, tag = "7")]
    pub window_reversal: bool,
}

impl WindowDimension {
    /// A window of `size` moved by `stride`, without padding or dilation.
    pub fn new(size: i64, stride: i64) -> WindowDimension {
        WindowDimension {
            size,
            stride,
            padding_low: 0,
            padding_high: 0,
            window_dilation: 1,
            base_dilation: 1,
            window_reversal: false,
        }
    }
}

/// Which elements a `gather` brings together.
#[derive(Clone, PartialEq, Message)]
pub struct GatherDimensionNumbers {
    /// Axes of the result that the slices have.
    #[prost(int64, repeated, tag = "1")]
    pub offset_dims: Vec<i64>,
    /// Axes of the operand that are left out of the slices.
    #[prost(int64, repeated, tag = "2")]
    pub collapsed_slice_dims: Vec<i64>,
    /// Axes of the operand that the places are on.
    #[prost(int64, repeated, tag = "3")]
    pub start_index_map: Vec<i64>,
    /// Axis of the places that lists coordinates; their rank, if there is one coordinate.
    #[prost(int64, tag = "4")]
    pub index_vector_dim: i64,
}

/// The window of a convolution (spatial axes only), `reduce-window` or `select-and-scatter` (all axes).
#[derive(Clone, PartialEq, Message)]
pub struct Window {
    /// One entry per axis.
    #[prost(message, repeated, tag = "1")]
    pub dimensions: Vec<WindowDimension>,
}

/// Which axis of a convolution's operands means what.
#[derive(Clone, PartialEq, Message)]
pub struct ConvolutionDimensionNumbers {
    /// Batch axis of the input.
    #[prost(int64, tag = "7")]
    pub input_batch_dimension: i64,
    /// Feature axis of the input.
    #[prost(int64, tag = "8")]
    pub input_feature_dimension: i64,
    /// Spatial axes of the input.
    #[prost(int64, repeated, tag = "11")]
    pub input_spatial_dimensions: Vec<i64>,
    /// Input feature axis of the kernel.
    #[prost(int64, tag = "3")]
    pub kernel_input_feature_dimension: i64,
    /// Output feature axis of the kernel.
    #[prost(int64, tag = "4")]
    pub kernel_output_feature_dimension: i64,
    /// Spatial axes of the kernel.
    #[prost(int64, repeated, tag = "6")]
    pub kernel_spatial_dimensions: Vec<i64>,
    /// Batch axis of the output.
    #[prost(int64, tag = "9")]
    pub output_batch_dimension: i64,
    /// Feature axis of the output.
    #[prost(int64, tag = "10")]
    pub output_feature_dimension: i64,
    /// Spatial axes of the output.
    #[prost(int64, repeated, tag = "12")]
    pub output_spatial_dimensions: Vec<i64>,
}

/// Range of a `slice` along one axis: `[start, limit)` by `stride`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SliceDimensions {
    /// First index.
    #[prost(int64, tag = "1")]
    pub start: i64,
    /// One past the last index.
    #[prost(int64, tag = "2")]
    pub limit: i64,
    /// Step.
    #[prost(int64, tag = "3")]
    pub stride: i64,
}

/// Padding of a `pad` along all axes.
#[derive(Clone, PartialEq, Message)]
pub struct PaddingConfig {
    /// One entry per axis.
    #[prost(message, repeated, tag = "1")]
    pub dimensions: Vec<PaddingConfigDimension>,
}

/// Padding along one axis.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PaddingConfigDimension {
    /// Elements before the first (negative: removed).
    #[prost(int64, tag = "1")]
    pub edge_padding_low: i64,
    /// Elements after the last (negative: removed).
    #[prost(int64, tag = "2")]
    pub edge_padding_high: i64,
    /// Elements between neighbours.
    #[prost(int64, tag = "3")]
    pub interior_padding: i64,
}

/// Devices that reduce together.
#[derive(Clone, PartialEq, Message)]
pub struct ReplicaGroup {
    /// Their ids.
    #[prost(int64, repeated, tag = "1")]
    pub replica_ids: Vec<i64>,
}

/// Precision of a `dot` or `convolution`.
#[derive(Clone, PartialEq, Message)]
pub struct PrecisionConfig {
    /// Per operand: 0 default, 1 high, 2 highest.
    #[prost(int32, repeated, tag = "1")]
    pub operand_precision: Vec<i32>,
}

/// Where an instruction came from, for profiles and dumps.
#[derive(Clone, PartialEq, Message)]
pub struct OpMetadata {
    /// Kind of source operation.
    #[prost(string, tag = "1")]
    pub op_type: String,
    /// Name of source operation, slash-separated.
    #[prost(string, tag = "2")]
    pub op_name: String,
    /// Source file.
    #[prost(string, tag = "3")]
    pub source_file: String,
    /// Source line.
    #[prost(int32, tag = "4")]
    pub source_line: i32,
}

/// How a value is divided over devices.
#[derive(Clone, PartialEq, Message)]
pub struct OpSharding {
    /// [`OpSharding::REPLICATED`], [`OpSharding::MAXIMAL`], [`OpSharding::TUPLE`] or [`OpSharding::OTHER`].
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Number of pieces along each axis.
    #[prost(int64, repeated, tag = "3")]
    pub tile_assignment_dimensions: Vec<i64>,
    /// Device of each piece, row-major.
    #[prost(int64, repeated, tag = "4")]
    pub tile_assignment_devices: Vec<i64>,
    /// Members' shardings, for a tuple.
    #[prost(message, repeated, tag = "5")]
    pub tuple_shardings: Vec<OpSharding>,
    /// Whether the last entry of `tile_assignment_dimensions` counts copies rather than pieces.
    #[prost(bool, tag = "6")]
    pub replicate_on_last_tile_dim: bool,
}

impl OpSharding {
    /// Every device holds the whole value.
    pub const REPLICATED: i32 = 0;
    /// One device holds the value.
    pub const MAXIMAL: i32 = 1;
    /// A tuple, sharded member by member.
    pub const TUPLE: i32 = 2;
    /// Cut into pieces.
    pub const OTHER: i32 = 3;

    /// The whole value on every device.
    pub fn replicated() -> OpSharding {
        OpSharding::default()
    }

    /// Cut into `pieces` along axes, piece `i` on device `i`.
    pub fn tiled(pieces: Vec<i64>) -> OpSharding {
        let count: i64 = pieces.iter().product();
        OpSharding {
            kind: OpSharding::OTHER,
            tile_assignment_dimensions: pieces,
            tile_assignment_devices: (0..count).collect(),
            ..OpSharding::default()
        }
    }

    /// The sharding of a tuple.
    pub fn tuple(members: Vec<OpSharding>) -> OpSharding {
        OpSharding { kind: OpSharding::TUPLE, tuple_shardings: members, ..OpSharding::default() }
    }
}

/// One operation (`HloInstructionProto`). Fields not named by an operation stay at their default.
#[derive(Clone, PartialEq, Message)]
pub struct Instruction {
    /// Name, unique in the module.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Operation, in XLA's spelling: `get-tuple-element`, `dynamic-slice`, ...
    #[prost(string, tag = "2")]
    pub opcode: String,
    /// Shape of the result.
    #[prost(message, optional, tag = "3")]
    pub shape: Option<ShapeProto>,
    /// Origin, for profiles.
    #[prost(message, optional, tag = "7")]
    pub metadata: Option<OpMetadata>,
    /// `constant`: its values.
    #[prost(message, optional, tag = "8")]
    pub literal: Option<LiteralProto>,
    /// `parameter`: its position.
    #[prost(int64, tag = "9")]
    pub parameter_number: i64,
    /// `fusion`: its kind. Only compilers make fusions; we read them in optimised modules.
    #[prost(string, tag = "11")]
    pub fusion_kind: String,
    /// `get-tuple-element`: which member.
    #[prost(int64, tag = "13")]
    pub tuple_index: i64,
    /// `broadcast`, `transpose`, `reduce`, `concatenate`, `reverse`, `sort`, `iota`: the axes.
    #[prost(int64, repeated, tag = "14")]
    pub dimensions: Vec<i64>,
    /// `convolution`, `reduce-window`, `select-and-scatter`: the window.
    #[prost(message, optional, tag = "15")]
    pub window: Option<Window>,
    /// `convolution`: meaning of axes.
    #[prost(message, optional, tag = "16")]
    pub convolution_dimension_numbers: Option<ConvolutionDimensionNumbers>,
    /// `slice`: range per axis.
    #[prost(message, repeated, tag = "17")]
    pub slice_dimensions: Vec<SliceDimensions>,
    /// `reduce-precision`: bits of exponent.
    #[prost(int32, tag = "18")]
    pub exponent_bits: i32,
    /// `reduce-precision`: bits of mantissa.
    #[prost(int32, tag = "19")]
    pub mantissa_bits: i32,
    /// `dynamic-slice`: sizes of the result.
    #[prost(int64, repeated, tag = "20")]
    pub dynamic_slice_sizes: Vec<i64>,
    /// `pad`: amounts.
    #[prost(message, optional, tag = "21")]
    pub padding_config: Option<PaddingConfig>,
    /// Collectives: id shared by the participants; 0 for none.
    #[prost(int64, tag = "26")]
    pub channel_id: i64,
    /// `custom-call`: the function.
    #[prost(string, tag = "28")]
    pub custom_call_target: String,
    /// `dot`: meaning of axes.
    #[prost(message, optional, tag = "30")]
    pub dot_dimension_numbers: Option<DotDimensionNumbers>,
    /// `gather`: meaning of axes.
    #[prost(message, optional, tag = "33")]
    pub gather_dimension_numbers: Option<GatherDimensionNumbers>,
    /// `gather`: sizes of the slices.
    #[prost(int64, repeated, tag = "34")]
    pub gather_slice_sizes: Vec<i64>,
    /// Id, unique in the module.
    #[prost(int64, tag = "35")]
    pub id: i64,
    /// Ids of the operands.
    #[prost(int64, repeated, tag = "36")]
    pub operand_ids: Vec<i64>,
    /// Ids of instructions that must run before.
    #[prost(int64, repeated, tag = "37")]
    pub control_predecessor_ids: Vec<i64>,
    /// Ids of the computations called.
    #[prost(int64, repeated, tag = "38")]
    pub called_computation_ids: Vec<i64>,
    /// Division over devices.
    #[prost(message, optional, tag = "40")]
    pub sharding: Option<OpSharding>,
    /// `custom-call`: opaque configuration.
    #[prost(bytes = "vec", tag = "43")]
    pub backend_config: Vec<u8>,
    /// Collectives: who reduces with whom.
    #[prost(message, repeated, tag = "49")]
    pub replica_groups: Vec<ReplicaGroup>,
    /// `convolution`: groups of input features; 0 means 1.
    #[prost(int64, tag = "50")]
    pub feature_group_count: i64,
    /// `dot`, `convolution`: precision.
    #[prost(message, optional, tag = "51")]
    pub precision_config: Option<PrecisionConfig>,
    /// `convolution`: groups of the batch; 0 means 1.
    #[prost(int64, tag = "58")]
    pub batch_group_count: i64,
    /// `sort`: whether equal elements keep their order.
    #[prost(bool, tag = "60")]
    pub is_stable: bool,
    /// `compare`: `EQ`, `NE`, `LT`, `LE`, `GT`, `GE`.
    #[prost(string, tag = "63")]
    pub comparison_direction: String,
    /// `rng-bit-generator`: 0 default, 1 Threefry, 2 Philox.
    #[prost(int32, tag = "70")]
    pub rng_algorithm: i32,
    /// Collectives: whether groups name devices rather than replicas.
    #[prost(bool, tag = "71")]
    pub use_global_device_ids: bool,
    /// `compare`: `FLOAT`, `TOTALORDER`, `SIGNED` or `UNSIGNED`.
    #[prost(string, tag = "72")]
    pub comparison_type: String,
    /// `custom-call`: calling convention.
    #[prost(int32, tag = "77")]
    pub custom_call_api_version: i32,
}

/// A function of instructions (`HloComputationProto`).
#[derive(Clone, PartialEq, Message)]
pub struct Computation {
    /// Name, unique in the module.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Operands first.
    #[prost(message, repeated, tag = "2")]
    pub instructions: Vec<Instruction>,
    /// Signature.
    #[prost(message, optional, tag = "4")]
    pub program_shape: Option<ProgramShape>,
    /// Id, unique in the module.
    #[prost(int64, tag = "5")]
    pub id: i64,
    /// The instruction whose value is returned.
    #[prost(int64, tag = "6")]
    pub root_id: i64,
}

/// One result that takes over a parameter's buffer.
#[derive(Clone, PartialEq, Message)]
pub struct AliasEntry {
    /// Path into the root tuple: `[i]` for member `i`.
    #[prost(int64, repeated, tag = "1")]
    pub output_shape_index: Vec<i64>,
    /// The parameter.
    #[prost(int64, tag = "2")]
    pub parameter_number: i64,
    /// Path into the parameter; empty for an array.
    #[prost(int64, repeated, tag = "3")]
    pub parameter_shape_index: Vec<i64>,
    /// [`AliasEntry::MAY`] or [`AliasEntry::MUST`].
    #[prost(int32, tag = "4")]
    pub kind: i32,
}

impl AliasEntry {
    /// The buffer is taken over if it is donated at the call.
    pub const MAY: i32 = 1;
    /// The buffer is always taken over.
    pub const MUST: i32 = 2;
}

/// All pairs of parameter and result that share a buffer (`HloInputOutputAliasProto`).
#[derive(Clone, PartialEq, Message)]
pub struct InputOutputAlias {
    /// The pairs.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<AliasEntry>,
}

/// A parameter whose buffer any result may take.
#[derive(Clone, PartialEq, Message)]
pub struct BufferDonorEntry {
    /// The parameter.
    #[prost(int64, tag = "1")]
    pub parameter_number: i64,
    /// Path into the parameter; empty for an array.
    #[prost(int64, repeated, tag = "2")]
    pub parameter_shape_index: Vec<i64>,
}

/// All donors without a fixed receiver (`HloBufferDonorProto`).
#[derive(Clone, PartialEq, Message)]
pub struct BufferDonor {
    /// The donors.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<BufferDonorEntry>,
}

/// A whole program (`HloModuleProto`).
#[derive(Clone, PartialEq, Message)]
pub struct Module {
    /// Name for people.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Name of the entry computation.
    #[prost(string, tag = "2")]
    pub entry_computation_name: String,
    /// Callees first.
    #[prost(message, repeated, tag = "3")]
    pub computations: Vec<Computation>,
    /// The entry's signature with layouts.
    #[prost(message, optional, tag = "4")]
    pub host_program_shape: Option<ProgramShape>,
    /// Id.
    #[prost(int64, tag = "5")]
    pub id: i64,
    /// Id of the entry computation.
    #[prost(int64, tag = "6")]
    pub entry_computation_id: i64,
    /// Results that take over parameters.
    #[prost(message, optional, tag = "8")]
    pub input_output_alias: Option<InputOutputAlias>,
    /// Parameters anyone may take over.
    #[prost(message, optional, tag = "18")]
    pub buffer_donor: Option<BufferDonor>,
}

impl Module {
    /// The bytes a plugin compiles.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The entry computation, if the module has one.
    pub fn entry(&self) -> Option<&Computation> {
        self.computations.iter().find(|c| c.id == self.entry_computation_id)
    }
}

/// A module with its compile configuration: the form in which a plugin returns its optimised program.
#[derive(Clone, PartialEq, Message)]
pub struct ModuleWithConfig {
    /// The module.
    #[prost(message, optional, tag = "1")]
    pub hlo_module: Option<Module>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_types_round_trip() {
        use DType::*;
        for dtype in [Pred, U8, S32, U32, U64, BF16, F32, F64] {
            assert_eq!(dtype_of(element_type(dtype)), Some(dtype));
        }
        assert_eq!(dtype_of(TUPLE), None);
    }

    #[test]
    fn array_shape_is_row_major() {
        let shape = ShapeProto::from(&Shape::f32([2, 3, 4]));
        assert_eq!(shape.layout.unwrap().minor_to_major, [2, 1, 0]);
        assert_eq!(shape.dimensions, [2, 3, 4]);
    }

    // The bytes of `f32[2]{0}` by hand: field 2 varint 11; field 3 packed [2]; field 5 {field 1 packed [0]}.
    #[test]
    fn wire_form_is_protobuf() {
        let bytes = ShapeProto::from(&Shape::f32([2])).encode_to_vec();
        assert_eq!(bytes, [0x10, 11, 0x1a, 1, 2, 0x2a, 3, 0x0a, 1, 0]);
    }
}
