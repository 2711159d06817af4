//! What commands print.
//!
//! Standard output may be closed by its reader (`| head`), full, or gone with its terminal. None of that may end a training
//! run, so nothing here fails or panics: [`say!`](crate::say) and [`print()`] write what can be written and remember the first
//! failure. [`main`](super::main) reports it at the end, where it cannot hide another error. A reader that has read enough is
//! no failure.

use std::{
    fmt::Arguments,
    io::{Error, ErrorKind, Write},
    sync::OnceLock,
};

static FAILURE: OnceLock<Error> = OnceLock::new();

/// `println!` that survives the loss of standard output.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::line(format_args!($($text)*)) };
}

/// Prints a line; the body of [`say!`](crate::say).
pub fn line(text: Arguments<'_>) {
    // A closed pipe stays closed; a full disk may have room again.
    if FAILURE.get().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) {
        return;
    }
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        FAILURE.get_or_init(|| error);
    }
}

/// Prints a text, whose last line may or may not be ended.
pub fn print(text: &str) {
    line(format_args!("{}", text.strip_suffix('\n').unwrap_or(text)));
}

/// Why some of the text could not be written; `None` also where its reader closed the pipe.
pub fn failure() -> Option<&'static Error> {
    FAILURE.get().filter(|e| e.kind() != ErrorKind::BrokenPipe)
}
