//! The PJRT C interface: the part of it this crate calls, written by hand.
//!
//! A plugin is a shared library that exports one function, `GetPjrtApi`, which returns a table of function
//! pointers. Each entry takes one pointer to a struct of arguments, fills in the struct's output fields, and
//! returns null or an error object. Three facts make a hand-written subset safe against old and new plugins:
//!
//! * **Argument structs may be larger than the plugin's.** Every struct starts with its size, and a plugin
//!   checks `given >= own`. So each struct here ends in sixteen spare words of zero: a newer plugin finds
//!   its new fields null, an older one ignores the tail.
//! * **The table only grows** within major version 0. An entry is read by its position, after checking that
//!   the table is long enough; a plugin too old for an entry yields an error, not a wild call.
//! * **[`NamedValue`] and [`MemoryLayout`] must not be padded**: the first is used in arrays, where the size is
//!   the stride; the second nests.
//!
//! The struct type decides which entry is called ([`Args::ENTRY`]), so the two cannot be mismatched. Names
//! follow the C header without its `PJRT_` prefix and `_Args` suffix.

use std::ffi::{c_char, c_void};

const PAD_WORDS: usize = 16;

/// An argument struct: zeroed apart from its size, and bound to its table entry.
pub trait Args {
    /// The function that takes this struct.
    const ENTRY: Entry;
}

macro_rules! args {
    ($($name:ident = $entry:ident { $($field:ident : $type:ty),* $(,)? })*) => {
        $(
            args!(@struct $name { $($field : $type),* });
            impl Args for $name { const ENTRY: Entry = Entry::$entry; }
        )*
        /// Name of each struct and its size without the padding, for comparison with the C header.
        #[cfg(test)]
        const SIZES: &[(&str, usize)] =
            &[$((stringify!($entry), std::mem::offset_of!($name, pad))),*];
    };
    (@struct $name:ident { $($field:ident : $type:ty),* }) => {
        #[repr(C)]
        pub struct $name { struct_size: usize, extension: *mut c_void, $(pub $field: $type,)* pad: [usize; PAD_WORDS] }
        impl $name {
            pub fn new() -> Self {
                // SAFETY: plain C data: integers, floats, booleans, nullable pointers and `Option`s of
                // function pointers; all-zero is a valid value of each.
                let mut args: Self = unsafe { std::mem::zeroed() };
                args.struct_size = size_of::<Self>();
                args
            }
        }
    };
}

macro_rules! opaque {
    ($($name:ident)*) => { $(#[repr(C)] pub struct $name { _private: [u8; 0] })* };
}
opaque!(Error Client Device DeviceDescription Memory Event Buffer Executable LoadedExecutable SerializedExecutable
        TopologyDescription);

/// A named option or attribute. Never padded: it is used in arrays.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NamedValue {
    pub struct_size: usize,
    pub extension: *mut c_void,
    pub name: *const c_char,
    pub name_size: usize,
    pub kind: i32,
    pub value: Value,
    pub value_size: usize,
}

/// The value of a [`NamedValue`]; `kind` says which.
#[repr(C)]
#[derive(Clone, Copy)]
pub union Value {
    pub string: *const c_char,
    pub int64: i64,
    pub int64s: *const i64,
    pub float: f32,
    pub boolean: bool,
}

impl NamedValue {
    pub const STRING: i32 = 0;
    pub const INT64: i32 = 1;
    pub const INT64_LIST: i32 = 2;
    pub const FLOAT: i32 = 3;
    pub const BOOL: i32 = 4;
}

/// Makes an error that a callback returns.
pub type CallbackError = unsafe extern "C" fn(code: i32, message: *const c_char, message_size: usize) -> *mut Error;

/// Frees a value that a callback returned.
pub type ValueDeleter = unsafe extern "C" fn(value: *mut c_char);

/// Waits for the value of a key.
pub type KeyValueGet = unsafe extern "C" fn(*mut KeyValueGetArgs) -> *mut Error;

/// Looks for the value of a key.
pub type KeyValueTryGet = unsafe extern "C" fn(*mut KeyValueTryGetArgs) -> *mut Error;

/// Stores a value.
pub type KeyValuePut = unsafe extern "C" fn(*mut KeyValuePutArgs) -> *mut Error;

/// What [`KeyValueGet`] is called with, by the plugin: never padded.
#[repr(C)]
pub struct KeyValueGetArgs {
    pub struct_size: usize,
    pub extension: *mut c_void,
    pub key: *const c_char,
    pub key_size: usize,
    pub timeout_in_ms: i32,
    pub callback_error: *const CallbackError,
    pub user_arg: *mut c_void,
    pub value: *mut c_char,
    pub value_size: usize,
    pub value_deleter: Option<ValueDeleter>,
}

/// What [`KeyValueTryGet`] is called with.
#[repr(C)]
pub struct KeyValueTryGetArgs {
    pub struct_size: usize,
    pub extension: *mut c_void,
    pub key: *const c_char,
    pub key_size: usize,
    pub callback_error: *const CallbackError,
    pub user_arg: *mut c_void,
    pub value: *mut c_char,
    pub value_size: usize,
    pub value_deleter: Option<ValueDeleter>,
}

/// What [`KeyValuePut`] is called with.
#[repr(C)]
pub struct KeyValuePutArgs {
    pub struct_size: usize,
    pub extension: *mut c_void,
    pub key: *const c_char,
    pub key_size: usize,
    pub value: *const c_char,
    pub value_size: usize,
    pub callback_error: *const CallbackError,
    pub user_arg: *mut c_void,
}

args! {
    ErrorDestroy = Error_Destroy { error: *mut Error }
    ErrorMessage = Error_Message { error: *const Error, message: *const c_char, message_size: usize }
    ErrorGetCode = Error_GetCode { error: *const Error, code: i32 }
    PluginInitialize = Plugin_Initialize { }
    PluginAttributes = Plugin_Attributes { attributes: *const NamedValue, num_attributes: usize }
    EventDestroy = Event_Destroy { event: *mut Event }
    EventAwait = Event_Await { event: *mut Event }
    ClientCreate = Client_Create {
        create_options: *const NamedValue, num_options: usize,
        kv_get: Option<KeyValueGet>, kv_get_arg: *mut c_void, kv_put: Option<KeyValuePut>, kv_put_arg: *mut c_void,
        client: *mut Client, kv_try_get: Option<KeyValueTryGet>, kv_try_get_arg: *mut c_void }
    ClientDestroy = Client_Destroy { client: *mut Client }
    ClientPlatformName = Client_PlatformName { client: *mut Client, name: *const c_char, name_size: usize }
    ClientPlatformVersion = Client_PlatformVersion { client: *mut Client, version: *const c_char, version_size: usize }
    ClientAddressableDevices = Client_AddressableDevices {
        client: *mut Client, devices: *const *mut Device, num_devices: usize }
    ClientProcessIndex = Client_ProcessIndex { client: *mut Client, process_index: i32 }
    ClientDevices = Client_Devices { client: *mut Client, devices: *const *mut Device, num_devices: usize }
    ClientCompile = Client_Compile {
        client: *mut Client, program: *const Program, options: *const c_char, options_size: usize,
        executable: *mut LoadedExecutable }
    ClientBufferFromHostBuffer = Client_BufferFromHostBuffer {
        client: *mut Client, data: *const c_void, element_type: i32, dims: *const i64, num_dims: usize,
        byte_strides: *const i64, num_byte_strides: usize, semantics: i32, device: *mut Device,
        memory: *mut Memory, device_layout: *mut MemoryLayout, done_with_host_buffer: *mut Event,
        buffer: *mut Buffer }
    DeviceGetDescription = Device_GetDescription { device: *mut Device, description: *mut DeviceDescription }
    DeviceDescriptionKind = DeviceDescription_Kind {
        description: *mut DeviceDescription, kind: *const c_char, kind_size: usize }
    DeviceDescriptionId = DeviceDescription_Id { description: *mut DeviceDescription, id: i32 }
    DeviceDescriptionProcessIndex = DeviceDescription_ProcessIndex {
        description: *mut DeviceDescription, process_index: i32 }
    DeviceMemoryStats = Device_MemoryStats {
        device: *mut Device, bytes_in_use: i64,
        peak_bytes_in_use: i64, peak_bytes_in_use_set: bool, num_allocs: i64, num_allocs_set: bool,
        largest_alloc_size: i64, largest_alloc_size_set: bool, bytes_limit: i64, bytes_limit_set: bool,
        bytes_reserved: i64, bytes_reserved_set: bool, peak_bytes_reserved: i64, peak_bytes_reserved_set: bool,
        reservable_limit: i64, reservable_limit_set: bool, largest_free: i64, largest_free_set: bool,
        pool_bytes: i64, pool_bytes_set: bool, peak_pool_bytes: i64, peak_pool_bytes_set: bool }
    ExecutableDestroy = Executable_Destroy { executable: *mut Executable }
    ExecutableNumOutputs = Executable_NumOutputs { executable: *mut Executable, num_outputs: usize }
    ExecutableGetCostAnalysis = Executable_GetCostAnalysis {
        executable: *mut Executable, num_properties: usize, properties: *const NamedValue }
    ExecutableOutputElementTypes = Executable_OutputElementTypes {
        executable: *mut Executable, types: *mut i32, num_types: usize }
    ExecutableOutputDimensions = Executable_OutputDimensions {
        executable: *mut Executable, num_outputs: usize, dims: *const i64, dim_sizes: *const usize }
    ExecutableOptimizedProgram = Executable_OptimizedProgram { executable: *mut Executable, program: *mut Program }
    ExecutableSerialize = Executable_Serialize {
        executable: *const Executable, bytes: *const c_char, size: usize, backing: *mut SerializedExecutable,
        deleter: Option<unsafe extern "C" fn(*mut SerializedExecutable)> }
    ExecutableDeserializeAndLoad = Executable_DeserializeAndLoad {
        client: *mut Client, bytes: *const c_char, size: usize, loaded: *mut LoadedExecutable,
        options: *const c_char, options_size: usize }
    ExecutableGetCompiledMemoryStats = Executable_GetCompiledMemoryStats {
        executable: *mut Executable,
        code: i64, argument: i64, output: i64, alias: i64, temp: i64,
        host_code: i64, host_argument: i64, host_output: i64, host_alias: i64, host_temp: i64, peak: i64 }
    LoadedExecutableDestroy = LoadedExecutable_Destroy { executable: *mut LoadedExecutable }
    LoadedExecutableGetExecutable = LoadedExecutable_GetExecutable {
        loaded: *mut LoadedExecutable, executable: *mut Executable }
    LoadedExecutableAddressableDevices = LoadedExecutable_AddressableDevices {
        executable: *mut LoadedExecutable, devices: *const *mut Device, num_devices: usize }
    LoadedExecutableExecute = LoadedExecutable_Execute {
        executable: *mut LoadedExecutable, options: *mut ExecuteOptions,
        argument_lists: *const *const *mut Buffer, num_devices: usize, num_args: usize,
        output_lists: *const *mut *mut Buffer, device_complete_events: *mut *mut Event,
        execute_device: *mut Device }
    TopologyDescriptionCreate = TopologyDescription_Create {
        name: *const c_char, name_size: usize, create_options: *const NamedValue, num_options: usize,
        topology: *mut TopologyDescription }
    TopologyDescriptionDestroy = TopologyDescription_Destroy { topology: *mut TopologyDescription }
    Compile = Compile {
        topology: *const TopologyDescription, program: *const Program, options: *const c_char, options_size: usize,
        client: *mut Client, executable: *mut Executable }
    BufferDestroy = Buffer_Destroy { buffer: *mut Buffer }
    BufferIsDeleted = Buffer_IsDeleted { buffer: *mut Buffer, is_deleted: bool }
    BufferReadyEvent = Buffer_ReadyEvent { buffer: *mut Buffer, event: *mut Event }
    BufferToHostBuffer = Buffer_ToHostBuffer {
        source: *mut Buffer, host_layout: *mut MemoryLayout, destination: *mut c_void, destination_size: usize,
        event: *mut Event }
}

// Two structs that are no entry's argument: they are pointed at from one.
args!(@struct Program { code: *mut c_char, code_size: usize, format: *const c_char, format_size: usize });
args!(@struct ExecuteOptions {
    send_callbacks: *mut c_void, recv_callbacks: *mut c_void, num_send_ops: usize, num_recv_ops: usize,
    launch_id: i32, non_donatable_input_indices: *const i64, num_non_donatable_input_indices: usize,
    context: *mut c_void, call_location: *const c_char, num_tasks: usize, task_ids: *mut i32,
    incarnation_ids: *mut i64
});

/// Order of an array's axes in memory, without tiles. Never padded: it nests.
#[repr(C)]
pub struct TiledLayout {
    pub struct_size: usize,
    pub extension: *mut c_void,
    pub minor_to_major: *const i64,
    pub minor_to_major_size: usize,
    pub tile_dims: *const i64,
    pub tile_dim_sizes: *const usize,
    pub num_tiles: usize,
}

/// A layout of the tiled kind (`kind` 0), the only kind used here.
#[repr(C)]
pub struct MemoryLayout {
    pub struct_size: usize,
    pub extension: *mut c_void,
    pub tiled: TiledLayout,
    pub kind: i32,
}

impl MemoryLayout {
    /// Dense, in the given order of axes. The slice must outlive the layout's use.
    pub fn dense(minor_to_major: &[i64]) -> MemoryLayout {
        MemoryLayout {
            struct_size: size_of::<MemoryLayout>(),
            extension: std::ptr::null_mut(),
            tiled: TiledLayout {
                struct_size: size_of::<TiledLayout>(),
                extension: std::ptr::null_mut(),
                minor_to_major: minor_to_major.as_ptr(),
                minor_to_major_size: minor_to_major.len(),
                tile_dims: std::ptr::null(),
                tile_dim_sizes: std::ptr::null(),
                num_tiles: 0,
            },
            kind: 0,
        }
    }
}

macro_rules! entries {
    ($($name:ident)*) => {
        /// Position of each function in the table, in the order of the C header.
        #[allow(non_camel_case_types, dead_code, reason = "names and order are the header's; the order carries the meaning")]
        #[repr(usize)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Entry { $($name),* }
    };
}
entries! {
    Error_Destroy Error_Message Error_GetCode Plugin_Initialize Plugin_Attributes
    Event_Destroy Event_IsReady Event_Error Event_Await Event_OnReady
    Client_Create Client_Destroy Client_PlatformName Client_ProcessIndex Client_PlatformVersion Client_Devices
    Client_AddressableDevices Client_LookupDevice Client_LookupAddressableDevice Client_AddressableMemories
    Client_Compile Client_DefaultDeviceAssignment Client_BufferFromHostBuffer
    DeviceDescription_Id DeviceDescription_ProcessIndex DeviceDescription_Attributes DeviceDescription_Kind
    DeviceDescription_DebugString DeviceDescription_ToString
    Device_GetDescription Device_IsAddressable Device_LocalHardwareId Device_AddressableMemories Device_DefaultMemory
    Device_MemoryStats Memory_Id Memory_Kind Memory_DebugString Memory_ToString Memory_AddressableByDevices
    Executable_Destroy Executable_Name Executable_NumReplicas Executable_NumPartitions Executable_NumOutputs
    Executable_SizeOfGeneratedCodeInBytes Executable_GetCostAnalysis Executable_OutputMemoryKinds
    Executable_OptimizedProgram Executable_Serialize
    LoadedExecutable_Destroy LoadedExecutable_GetExecutable LoadedExecutable_AddressableDevices LoadedExecutable_Delete
    LoadedExecutable_IsDeleted LoadedExecutable_Execute Executable_DeserializeAndLoad LoadedExecutable_Fingerprint
    Buffer_Destroy Buffer_ElementType Buffer_Dimensions Buffer_UnpaddedDimensions Buffer_DynamicDimensionIndices
    Buffer_GetMemoryLayout Buffer_OnDeviceSizeInBytes Buffer_Device Buffer_Memory Buffer_Delete Buffer_IsDeleted
    Buffer_CopyToDevice Buffer_ToHostBuffer Buffer_IsOnCpu Buffer_ReadyEvent Buffer_UnsafePointer
    Buffer_IncreaseExternalReferenceCount Buffer_DecreaseExternalReferenceCount Buffer_OpaqueDeviceMemoryDataPointer
    CopyToDeviceStream_Destroy CopyToDeviceStream_AddChunk CopyToDeviceStream_TotalBytes CopyToDeviceStream_GranuleSize
    CopyToDeviceStream_CurrentBytes
    TopologyDescription_Create TopologyDescription_Destroy TopologyDescription_PlatformName
    TopologyDescription_PlatformVersion TopologyDescription_GetDeviceDescriptions TopologyDescription_Serialize
    TopologyDescription_Attributes
    Compile Executable_OutputElementTypes Executable_OutputDimensions Buffer_CopyToMemory
    Client_CreateViewOfDeviceBuffer Executable_Fingerprint Client_TopologyDescription
    Executable_GetCompiledMemoryStats
}

/// Head of the table; the function pointers follow it.
#[repr(C)]
pub struct Api {
    pub struct_size: usize,
    pub extension: *const c_void,
    pub version_struct_size: usize,
    pub version_extension: *mut c_void,
    pub major: i32,
    pub minor: i32,
}

/// The type of every function in the table.
pub type Function = unsafe extern "C" fn(*mut c_void) -> *mut Error;

#[cfg(test)]
mod tests {
    use super::*;

    // Sizes that a C compiler gives the structs of `pjrt_c_api.h` 0.81, the header shipped in the CPU wheel.
    // The field that later headers appended to `Device_MemoryStats` and the like lie in the padding.
    const HEADER: &[(&str, usize)] = &[
        ("Error_Destroy", 24),
        ("Error_Message", 40),
        ("Error_GetCode", 32),
        ("Plugin_Initialize", 16),
        ("Plugin_Attributes", 32),
        ("Event_Destroy", 24),
        ("Event_Await", 24),
        ("Client_Create", 88),
        ("Client_Destroy", 24),
        ("Client_PlatformName", 40),
        ("Client_PlatformVersion", 40),
        ("Client_AddressableDevices", 40),
        ("Client_ProcessIndex", 32),
        ("Client_Devices", 40),
        ("Client_Compile", 56),
        ("Client_BufferFromHostBuffer", 120),
        ("Device_GetDescription", 32),
        ("DeviceDescription_Kind", 40),
        ("DeviceDescription_Id", 32),
        ("DeviceDescription_ProcessIndex", 32),
        ("Device_MemoryStats", 192),
        ("Executable_Destroy", 24),
        ("Executable_NumOutputs", 32),
        ("Executable_GetCostAnalysis", 40),
        ("Executable_OutputElementTypes", 40),
        ("Executable_OutputDimensions", 48),
        ("Executable_OptimizedProgram", 32),
        ("Executable_Serialize", 56),
        ("Executable_DeserializeAndLoad", 64),
        ("Executable_GetCompiledMemoryStats", 112),
        ("LoadedExecutable_Destroy", 24),
        ("LoadedExecutable_GetExecutable", 32),
        ("LoadedExecutable_AddressableDevices", 40),
        ("LoadedExecutable_Execute", 80),
        ("TopologyDescription_Create", 56),
        ("TopologyDescription_Destroy", 24),
        ("Compile", 64),
        ("Buffer_Destroy", 24),
        ("Buffer_IsDeleted", 32),
        ("Buffer_ReadyEvent", 32),
        ("Buffer_ToHostBuffer", 56),
    ];

    #[test]
    fn argument_structs_match_the_header() {
        assert_eq!(SIZES, HEADER);
        assert_eq!(std::mem::offset_of!(Program, pad), 48);
        assert_eq!(std::mem::offset_of!(ExecuteOptions, pad), 112);
    }

    #[test]
    fn nested_structs_are_not_padded() {
        assert_eq!(size_of::<NamedValue>(), 56);
        assert_eq!(size_of::<MemoryLayout>(), 80);
        assert_eq!(size_of::<TiledLayout>(), 56);
        assert_eq!(size_of::<KeyValueGetArgs>(), 80);
        assert_eq!(size_of::<KeyValueTryGetArgs>(), 72);
        assert_eq!(size_of::<KeyValuePutArgs>(), 64);
    }

    // Positions of a few entries in the header's table: head of 40 bytes, then 8 bytes each.
    #[test]
    fn entries_stand_where_the_header_puts_them() {
        for (entry, offset) in [
            (Entry::Client_Compile, 200),
            (Entry::LoadedExecutable_Execute, 480),
            (Entry::Buffer_ToHostBuffer, 600),
            (Entry::Executable_GetCompiledMemoryStats, 808),
        ] {
            assert_eq!(size_of::<Api>() + size_of::<usize>() * entry as usize, offset, "{entry:?}");
        }
    }
}
