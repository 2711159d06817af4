//! Stopping on request: SIGINT (Ctrl-C), SIGTERM (batch systems, containers) and SIGHUP (a closed terminal).
//!
//! The first signal asks training to stop after the batch in progress and to leave a checkpoint; the second ends the
//! process at once. Both end it with exit code 128 + signal, as the shell reports it.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level,
};

/// The first signal, 0 before it.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Nothing is left that a signal could lose.
static SAVED: AtomicBool = AtomicBool::new(false);

/// The signal that asked to stop, if one did.
pub fn requested() -> Option<i32> {
    Some(SIGNAL.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}

/// Another process of the run heard this signal.
pub fn request(signal: i32) {
    let _ = SIGNAL.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
}

/// Ends the process at once: nothing is tidied up, which a device that waits for another process would not let happen.
pub fn abandon(code: i32) -> ! {
    low_level::exit(code)
}

/// From now on the first signal ends the process at once: everything is saved.
pub fn all_is_saved() {
    SAVED.store(true, Ordering::SeqCst);
}

/// Exit code of a process that a signal ended.
pub fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

/// From now on signals ask training to stop.
///
/// # Errors
/// When the system does not let the program listen.
pub fn listen() -> std::io::Result<()> {
    let mut wanted = vec![SIGINT, SIGTERM];
    // `nohup` has SIGHUP ignored, and means it.
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted)?;
    let wait = move || {
        for signal in signals.forever() {
            let first = SIGNAL.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            if !first || SAVED.load(Ordering::SeqCst) {
                low_level::exit(128 + signal);
            }
            // Without a standard error there is nobody to tell.
            let _ = writeln!(
                std::io::stderr(),
                "\nstopping after this batch and leaving a checkpoint; a second signal stops at once"
            );
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

/// Whether the process was started with this signal ignored. Where the system does not say, it was not.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
