//! The store of a [`Group`] in the form in which plugins ask for one: three callbacks.
//!
//! A plugin calls them while it creates a client whose devices are those of several processes, and later, from any thread. Keys and
//! values are counted bytes. A value is handed over in memory of ours, which the plugin copies and then gives back to the deleter.

use super::ffi;
use crate::hosts::{Group, HostsError};
use std::{
    alloc::{Layout, alloc, dealloc},
    ffi::{c_char, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::null_mut,
    sync::Arc,
    time::Duration,
};

/// Numbers of `absl::StatusCode`.
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;

/// A value's own length stands before it, for the deleter, which is told nothing else.
const HEAD: usize = size_of::<usize>();

/// Why there is no value: a code and words.
type Failure = (i32, String);

/// Has a client ask `group`, which must live as long as the client.
pub(super) fn offer(group: &Arc<Group>, args: &mut ffi::ClientCreate) {
    let argument: *mut c_void = Arc::as_ptr(group).cast_mut().cast();
    args.kv_get = Some(get);
    args.kv_put = Some(put);
    args.kv_try_get = Some(try_get);
    args.kv_get_arg = argument;
    args.kv_put_arg = argument;
    args.kv_try_get_arg = argument;
}

/// # Safety
/// The arguments are those of the C header, and `user_arg` is a live group.
unsafe extern "C" fn get(args: *mut ffi::KeyValueGetArgs) -> *mut ffi::Error {
    // SAFETY: by the caller's promise; nobody else holds the arguments during the call.
    unsafe {
        let args = &mut *args;
        let timeout = Duration::from_millis(u64::try_from(args.timeout_in_ms).unwrap_or(0));
        let found = asked(args.user_arg, args.key, args.key_size, |group, key| group.get(key, timeout));
        let out = (&mut args.value, &mut args.value_size, &mut args.value_deleter);
        answer(found, out, args.callback_error)
    }
}

/// # Safety
/// As [`get`].
unsafe extern "C" fn try_get(args: *mut ffi::KeyValueTryGetArgs) -> *mut ffi::Error {
    // SAFETY: by the caller's promise; nobody else holds the arguments during the call.
    unsafe {
        let args = &mut *args;
        let found = asked(args.user_arg, args.key, args.key_size, |group, key| group.try_get(key));
        let found = found.and_then(|value| value.ok_or_else(|| (NOT_FOUND, "no value was put for this key".into())));
        let out = (&mut args.value, &mut args.value_size, &mut args.value_deleter);
        answer(found, out, args.callback_error)
    }
}

/// # Safety
/// As [`get`].
unsafe extern "C" fn put(args: *mut ffi::KeyValuePutArgs) -> *mut ffi::Error {
    // SAFETY: by the caller's promise; the value is `value_size` readable bytes, or null and empty.
    unsafe {
        let args = &mut *args;
        let value = bytes(args.value, args.value_size);
        match asked(args.user_arg, args.key, args.key_size, |group, key| group.put(key, value)) {
            Ok(()) => null_mut(),
            Err(failure) => refuse(args.callback_error, &failure),
        }
    }
}

/// Asks the group. Keys of plugins may be any bytes; ours are text, so they are spelled in hexadecimal digits, after a prefix that keeps
/// them apart from our own.
///
/// # Safety
/// `group` is a live [`Group`], and `key` points at `size` readable bytes.
unsafe fn asked<T>(
    group: *const c_void,
    key: *const c_char,
    size: usize,
    ask: impl FnOnce(&Group, &str) -> Result<T, HostsError>,
) -> Result<T, Failure> {
    // SAFETY: by the caller's promise.
    let (group, key) = unsafe { (&*group.cast::<Group>(), bytes(key, size)) };
    let key = format!("plugin/{}", super::cache::hex(key));
    // A panic must not cross into C.
    let answer = catch_unwind(AssertUnwindSafe(|| ask(group, &key)));
    let answer = answer.map_err(|_| (INTERNAL, "the store panicked".to_string()))?;
    answer.map_err(|error| {
        let code = if matches!(error, HostsError::TimedOut { .. }) { DEADLINE_EXCEEDED } else { UNAVAILABLE };
        (code, error.to_string())
    })
}

/// # Safety
/// `start` must be null or point at `size` readable bytes, which live as long as the result is used.
unsafe fn bytes<'a>(start: *const c_char, size: usize) -> &'a [u8] {
    if start.is_null() || size == 0 {
        return &[];
    }
    // SAFETY: by the caller's promise.
    unsafe { std::slice::from_raw_parts(start.cast(), size) }
}

/// Where a callback leaves a value, its size and what frees it.
type Out<'a> = (&'a mut *mut c_char, &'a mut usize, &'a mut Option<ffi::ValueDeleter>);

/// Hands a value over, or refuses.
///
/// # Safety
/// `make` points at the plugin's maker of errors.
unsafe fn answer(
    found: Result<Vec<u8>, Failure>,
    (value, size, deleter): Out<'_>,
    make: *const ffi::CallbackError,
) -> *mut ffi::Error {
    match found.and_then(hand_over) {
        Ok((start, length)) => {
            (*value, *size) = (start, length);
            *deleter = Some(take_back);
            null_mut()
        }
        // SAFETY: by the caller's promise.
        Err(failure) => unsafe { refuse(make, &failure) },
    }
}

/// The memory of a value of so many bytes.
fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(HEAD)?, align_of::<usize>()).ok()
}

/// Copies a value into memory that [`take_back`] frees.
fn hand_over(value: Vec<u8>) -> Result<(*mut c_char, usize), Failure> {
    let no_memory = || (INTERNAL, format!("no memory for a value of {} bytes", value.len()));
    let layout = layout(value.len()).ok_or_else(no_memory)?;
    // SAFETY: the layout is not empty. The memory holds the head and then the value, and is aligned for the head.
    let start = unsafe {
        let head = alloc(layout);
        if head.is_null() {
            return Err(no_memory());
        }
        head.cast::<usize>().write(value.len());
        let start = head.add(HEAD);
        start.copy_from_nonoverlapping(value.as_ptr(), value.len());
        start
    };
    Ok((start.cast(), value.len()))
}

/// # Safety
/// `value` is null or of [`hand_over`], and is not used again.
unsafe extern "C" fn take_back(value: *mut c_char) {
    if value.is_null() {
        return;
    }
    // SAFETY: by the caller's promise; the head before the value says its length, hence the layout it was made with.
    unsafe {
        let head = value.cast::<u8>().sub(HEAD);
        if let Some(layout) = layout(head.cast::<usize>().read()) {
            dealloc(head, layout);
        }
    }
}

/// The error of a callback, made by the plugin.
///
/// # Safety
/// `make` points at the plugin's maker of errors.
unsafe fn refuse(make: *const ffi::CallbackError, (code, message): &Failure) -> *mut ffi::Error {
    // SAFETY: by the caller's promise; the message outlives the call.
    unsafe { (*make)(*code, message.as_ptr().cast(), message.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::Place;
    use std::net::TcpListener;

    // The code that the last error of this thread was made with.
    std::thread_local!(static CODE: std::cell::Cell<i32> = const { std::cell::Cell::new(0) });

    unsafe extern "C" fn make(code: i32, message: *const c_char, size: usize) -> *mut ffi::Error {
        CODE.set(code);
        // SAFETY: the callbacks pass counted bytes.
        assert!(unsafe { !bytes(message, size).is_empty() });
        std::ptr::dangling_mut()
    }

    static MAKE: ffi::CallbackError = make;

    fn group() -> Arc<Group> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = Place { coordinator: format!("127.0.0.1:{port}"), process: 0, processes: 1 };
        Arc::new(Group::join(&place, "here", Duration::from_secs(10)).unwrap())
    }

    /// Calls of a plugin: `None` is an error with this thread's `CODE`.
    struct Plugin(ffi::ClientCreate);

    impl Plugin {
        fn put(&self, key: &[u8], value: &[u8]) -> bool {
            let mut args = ffi::KeyValuePutArgs {
                struct_size: size_of::<ffi::KeyValuePutArgs>(),
                extension: null_mut(),
                key: key.as_ptr().cast(),
                key_size: key.len(),
                value: value.as_ptr().cast(),
                value_size: value.len(),
                callback_error: &raw const MAKE,
                user_arg: self.0.kv_put_arg,
            };
            // SAFETY: the arguments are those of the header.
            unsafe { self.0.kv_put.unwrap()(&mut args).is_null() }
        }

        fn get(&self, key: &[u8], timeout: i32) -> Option<Vec<u8>> {
            let mut args = ffi::KeyValueGetArgs {
                struct_size: size_of::<ffi::KeyValueGetArgs>(),
                extension: null_mut(),
                key: key.as_ptr().cast(),
                key_size: key.len(),
                timeout_in_ms: timeout,
                callback_error: &raw const MAKE,
                user_arg: self.0.kv_get_arg,
                value: null_mut(),
                value_size: 0,
                value_deleter: None,
            };
            // SAFETY: as above; the value is given back once, after it was copied.
            unsafe {
                self.0.kv_get.unwrap()(&mut args).is_null().then(|| {
                    let copy = bytes(args.value, args.value_size).to_vec();
                    args.value_deleter.unwrap()(args.value);
                    copy
                })
            }
        }

        fn try_get(&self, key: &[u8]) -> Option<Vec<u8>> {
            let mut args = ffi::KeyValueTryGetArgs {
                struct_size: size_of::<ffi::KeyValueTryGetArgs>(),
                extension: null_mut(),
                key: key.as_ptr().cast(),
                key_size: key.len(),
                callback_error: &raw const MAKE,
                user_arg: self.0.kv_try_get_arg,
                value: null_mut(),
                value_size: 0,
                value_deleter: None,
            };
            // SAFETY: as above.
            unsafe {
                self.0.kv_try_get.unwrap()(&mut args).is_null().then(|| {
                    let copy = bytes(args.value, args.value_size).to_vec();
                    args.value_deleter.unwrap()(args.value);
                    copy
                })
            }
        }
    }

    #[test]
    fn a_plugin_puts_and_gets_counted_bytes_on_several_threads() {
        let group = group();
        let plugin = || {
            let mut args = ffi::ClientCreate::new();
            offer(&group, &mut args);
            Plugin(args)
        };
        let first = plugin();
        assert_eq!((first.try_get(b"k"), CODE.get()), (None, NOT_FOUND));
        assert_eq!((first.get(b"k", 30), CODE.get()), (None, DEADLINE_EXCEEDED));
        // Neither ended by a zero nor text.
        let odd: &[u8] = b"\0a\0\xff";
        assert!(first.put(odd, odd) && first.put(b"empty", b""));
        assert_eq!((first.get(odd, 0), first.try_get(b"empty")), (Some(odd.to_vec()), Some(vec![])));
        assert_eq!(first.try_get(b"\0a\0"), None, "a key is all of its bytes");
        std::thread::scope(|scope| {
            for k in 0..8u8 {
                let plugin = &plugin;
                scope.spawn(move || assert_eq!(plugin().get(&[k], 5000), Some(vec![k; 1 << 16])));
            }
            for k in 0..8u8 {
                assert!(first.put(&[k], &vec![k; 1 << 16]));
            }
        });
    }
}
