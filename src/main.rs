//! The `etrace` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    hlo::pjrt::memory::restart_on_huge_pages();
    // A child of this program, started to compile for a device that this machine does not have.
    if std::env::var_os(hlo::pjrt::aot::CHILD).is_some() {
        std::process::exit(hlo::pjrt::aot::child_main());
    }
    if let Some(revision) = revision::revision!() {
        etrace::train::record::built_from(revision);
    }
    etrace::cli::main()
}
