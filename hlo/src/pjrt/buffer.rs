//! An array on a device.

use super::{client::Client, error::Result, ffi};
use crate::{
    array::Array,
    shape::{DType, Shape},
};
use std::sync::Arc;

/// An array in device memory. Its values may still be being computed: [`Buffer::wait`] and
/// [`Buffer::to_array`] wait for them. The memory is freed on drop.
pub struct Buffer {
    pub(super) client: Arc<Client>,
    pub(super) raw: *mut ffi::Buffer,
    pub(super) shape: Arc<Shape>,
    /// Which of the client's devices has it.
    pub(super) device: usize,
}

// SAFETY: PJRT buffers may be used from any thread, and their contents never change while a `Buffer` exists:
// donation takes the `Buffer` itself.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// PJRT's own number of an element type, which is not XLA's (`PJRT_Buffer_Type`).
pub(super) const fn buffer_type(dtype: DType) -> i32 {
    match dtype {
        DType::Pred => 1,
        DType::S32 => 4,
        DType::U8 => 6,
        DType::U32 => 8,
        DType::U64 => 9,
        DType::F32 => 11,
        DType::F64 => 12,
        DType::BF16 => 13,
    }
}

/// The inverse of [`buffer_type`].
pub(super) const fn buffer_dtype(number: i32) -> Option<DType> {
    Some(match number {
        1 => DType::Pred,
        4 => DType::S32,
        6 => DType::U8,
        8 => DType::U32,
        9 => DType::U64,
        11 => DType::F32,
        12 => DType::F64,
        13 => DType::BF16,
        _ => return None,
    })
}

/// The plugin may read the host bytes only during the call: it copies what it needs before returning.
const IMMUTABLE_ONLY_DURING_CALL: i32 = 0;

pub(super) fn upload(client: &Arc<Client>, array: &Array, device: usize) -> Result<Buffer> {
    let dims: Vec<i64> = array.shape().dims.iter().map(|&d| d as i64).collect();
    let mut args = ffi::ClientBufferFromHostBuffer::new();
    args.client = client.raw;
    args.data = array.bytes().as_ptr().cast();
    args.element_type = buffer_type(array.shape().dtype);
    args.dims = dims.as_ptr();
    args.num_dims = dims.len();
    args.semantics = IMMUTABLE_ONLY_DURING_CALL;
    args.device = client.device(device)?;
    // SAFETY: client and device are live; the bytes are dense row-major and as many as type and sizes say
    // (an invariant of `Array`), and are read only during the call. The event is ours to finish.
    unsafe {
        client.plugin.call(&mut args)?;
        let buffer =
            Buffer { client: client.clone(), raw: args.buffer, shape: Arc::new(array.shape().clone()), device };
        client.plugin.finish(args.done_with_host_buffer)?;
        Ok(buffer)
    }
}

impl Buffer {
    /// Element type and sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The client whose device holds the array.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Waits until the values are there.
    ///
    /// # Errors
    /// [`Error::Plugin`](super::Error::Plugin) if the computation that makes them failed.
    pub fn wait(&self) -> Result<()> {
        let mut args = ffi::BufferReadyEvent::new();
        args.buffer = self.raw;
        // SAFETY: the buffer is live; the event is ours to finish.
        unsafe {
            self.client.plugin.call(&mut args)?;
            self.client.plugin.finish(args.event)
        }
    }

    /// Copies the values to the host, when they are there.
    ///
    /// # Errors
    /// [`Error::Plugin`](super::Error::Plugin) if the computation that makes them failed.
    pub fn to_array(&self) -> Result<Array> {
        let mut bytes = vec![0u8; self.shape.bytes()];
        // Devices may keep another order of axes; ours is asked for explicitly.
        let minor_to_major: Vec<i64> = (0..self.shape.rank() as i64).rev().collect();
        let mut layout = ffi::MemoryLayout::dense(&minor_to_major);
        let mut args = ffi::BufferToHostBuffer::new();
        args.source = self.raw;
        args.host_layout = &mut layout;
        args.destination = bytes.as_mut_ptr().cast();
        args.destination_size = bytes.len();
        // SAFETY: the buffer is live, the destination has the announced size, and neither it nor the layout is
        // touched until the event has passed.
        unsafe {
            self.client.plugin.call(&mut args)?;
            self.client.plugin.finish(args.event)?;
        }
        Ok(Array::from_bytes(Shape::clone(&self.shape), bytes)?)
    }

    /// Whether the memory has been given up: never true for a buffer one can still name, except after a call
    /// that failed half-way.
    ///
    /// # Errors
    /// [`Error::Plugin`](super::Error::Plugin) if the plugin refuses.
    pub fn is_deleted(&self) -> Result<bool> {
        let mut args = ffi::BufferIsDeleted::new();
        args.buffer = self.raw;
        // SAFETY: the buffer is live.
        unsafe { self.client.plugin.call(&mut args) }?;
        Ok(args.is_deleted)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut args = ffi::BufferDestroy::new();
        args.buffer = self.raw;
        // SAFETY: the handle is ours and not used again; destroying a donated buffer is allowed and required.
        let _ = unsafe { self.client.plugin.call(&mut args) };
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_types_round_trip() {
        use DType::*;
        for dtype in [Pred, U8, S32, U32, U64, BF16, F32, F64] {
            assert_eq!(buffer_dtype(buffer_type(dtype)), Some(dtype));
        }
    }
}
