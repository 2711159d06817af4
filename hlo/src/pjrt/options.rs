//! What the compiler is told (`CompileOptionsProto`, `xla/pjrt/proto/compile_options.proto`).

use prost::Message;
use std::{collections::BTreeMap, num::NonZeroUsize, ops::Range};

use super::PluginKind;

/// Options of one compilation.
///
/// Replica and partition counts cannot be zero here, because XLA aborts the process when they are.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileOptions {
    /// Copies of the program that run in step, each on its own arguments.
    pub replicas: NonZeroUsize,
    /// Pieces that each copy is cut into, following the sharding in the module.
    pub partitions: NonZeroUsize,
    /// The device of each replica, where they are not the first of this process.
    pub assignment: Option<Assignment>,
    /// XLA debug options for this compilation: `xla_dump_to`, `xla_backend_optimization_level`, ... An
    /// unknown name is an error. (Unlike the variable `XLA_FLAGS`, where it aborts the process.)
    pub overrides: BTreeMap<String, OptionValue>,
    /// Whether the compiled program is looked up in, and put into, the [cache](super::cache).
    pub cache: bool,
}

/// One replica, one partition, no overrides, cached.
impl Default for CompileOptions {
    fn default() -> CompileOptions {
        CompileOptions {
            replicas: NonZeroUsize::MIN,
            partitions: NonZeroUsize::MIN,
            assignment: None,
            overrides: BTreeMap::new(),
            cache: true,
        }
    }
}

/// Which device runs which replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The plugin's number of the device of each.
    pub devices: Vec<i64>,
    /// The replicas that run in this process, in the order of its devices.
    pub here: Range<usize>,
}

/// Value of an XLA debug option.
#[derive(Clone, Debug, PartialEq)]
pub enum OptionValue {
    /// Text.
    Text(String),
    /// Yes or no.
    Bool(bool),
    /// Whole number.
    Int(i64),
    /// Number.
    Float(f64),
}

impl CompileOptions {
    /// Sets one XLA debug option.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: OptionValue) -> CompileOptions {
        self.overrides.insert(name.into(), value);
        self
    }

    /// These options with what a plugin needs to be right, where nothing else is said.
    ///
    /// XLA's CPU backend hands products to XNNPACK, which packs a matrix that is an argument of the program once and knows it
    /// again by its address. A weight that is donated and updated in place keeps its address: from the second call on the
    /// program would multiply with the weights of the first. So XNNPACK is off, which costs no time in our programs.
    pub(super) fn sound_on(&self, kind: PluginKind) -> CompileOptions {
        let mut options = self.clone();
        if kind == PluginKind::Cpu {
            options.overrides.entry("xla_cpu_use_xnnpack".into()).or_insert(OptionValue::Bool(false));
        }
        options
    }

    /// The same options without the cache on disk.
    #[must_use]
    pub fn uncached(mut self) -> CompileOptions {
        self.cache = false;
        self
    }

    /// These options for the replicas of an assignment, one partition each.
    #[must_use]
    pub fn assigned(self, assignment: Assignment) -> CompileOptions {
        let replicas = NonZeroUsize::new(assignment.devices.len()).unwrap_or(NonZeroUsize::MIN);
        CompileOptions { replicas, partitions: NonZeroUsize::MIN, assignment: Some(assignment), ..self }
    }

    /// The bytes a plugin takes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        CompileOptionsProto {
            executable_build_options: Some(ExecutableBuildOptions {
                device_ordinal: -1,
                num_replicas: self.replicas.get() as i64,
                num_partitions: self.partitions.get() as i64,
                use_spmd_partitioning: self.partitions.get() > 1,
                device_assignment: self.assignment.as_ref().map(|assignment| DeviceAssignment {
                    replica_count: assignment.devices.len() as i64,
                    computation_count: 1,
                    computation_devices: vec![ComputationDevice { replica_device_ids: assignment.devices.clone() }],
                }),
            }),
            env_option_overrides: self.overrides.iter().map(|(k, v)| (k.clone(), v.to_proto())).collect(),
        }
        .encode_to_vec()
    }
}

impl OptionValue {
    fn to_proto(&self) -> OptionOverride {
        OptionOverride {
            value: Some(match self {
                OptionValue::Text(v) => Override::Text(v.clone()),
                OptionValue::Bool(v) => Override::Bool(*v),
                OptionValue::Int(v) => Override::Int(*v),
                OptionValue::Float(v) => Override::Float(*v),
            }),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct CompileOptionsProto {
    #[prost(message, optional, tag = "3")]
    executable_build_options: Option<ExecutableBuildOptions>,
    #[prost(btree_map = "string, message", tag = "7")]
    env_option_overrides: BTreeMap<String, OptionOverride>,
}

#[derive(Clone, PartialEq, Message)]
struct ExecutableBuildOptions {
    #[prost(int64, tag = "1")]
    device_ordinal: i64,
    #[prost(int64, tag = "4")]
    num_replicas: i64,
    #[prost(int64, tag = "5")]
    num_partitions: i64,
    #[prost(bool, tag = "6")]
    use_spmd_partitioning: bool,
    #[prost(message, optional, tag = "9")]
    device_assignment: Option<DeviceAssignment>,
}

#[derive(Clone, PartialEq, Message)]
struct DeviceAssignment {
    #[prost(int64, tag = "1")]
    replica_count: i64,
    #[prost(int64, tag = "2")]
    computation_count: i64,
    #[prost(message, repeated, tag = "3")]
    computation_devices: Vec<ComputationDevice>,
}

#[derive(Clone, PartialEq, Message)]
struct ComputationDevice {
    #[prost(int64, repeated, tag = "1")]
    replica_device_ids: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct OptionOverride {
    #[prost(oneof = "Override", tags = "1, 2, 3, 4")]
    value: Option<Override>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Override {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Float(f64),
}

#[cfg(test)]
mod tests {
    use super::*;

    // The bytes that are known to work: device ordinal -1, one replica, one partition.
    #[test]
    fn default_bytes() {
        let expected =
            [0x1a, 0x0f, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x20, 0x01, 0x28, 0x01];
        assert_eq!(CompileOptions::default().to_bytes(), expected);
    }

    #[test]
    fn overrides_and_partitions_change_the_bytes() {
        let plain = CompileOptions::default();
        let with = plain.clone().with("xla_dump_to", OptionValue::Text("/x".into()));
        assert!(with.to_bytes().windows(11).any(|w| w == b"xla_dump_to"));
        let parts = CompileOptions { partitions: NonZeroUsize::new(2).unwrap(), ..plain };
        assert_eq!(parts.to_bytes()[17..], [0x30, 1], "use_spmd_partitioning follows partitions");
    }
}
