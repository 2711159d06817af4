//! Memory of this process and this machine, from `/proc`. Everything is `None` (or `false`) on other systems.

use std::{fs, path::Path};

/// Most memory this process ever had resident (`VmHWM`), in bytes, since its start or the last
/// [`reset_process_peak`].
pub fn process_peak_bytes() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Most memory that another process ever had resident, in bytes; `None` if it has ended.
pub fn peak_bytes_of(process: u32) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmHWM:")
}

/// Memory this process has resident now (`VmRSS`), in bytes.
pub fn process_bytes() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Lets [`process_peak_bytes`] count from now on. Whether it worked.
pub fn reset_process_peak() -> bool {
    // The value 5 resets the peak and nothing else: proc(5).
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Memory that this process can still get without swapping, in bytes: the least of what the machine (`MemAvailable`), its control
/// group (containers, batch systems) and its limit of address space (`ulimit -v`) leave.
pub fn available_bytes() -> Option<u64> {
    let machine = field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    [machine, group_bytes(), address_space_bytes()].into_iter().flatten().min()
}

/// What the control group (version 2) of this process and the groups around it leave.
fn group_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let number = |folder: &Path, file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    // A group without a limit says `max`. Pages of files count as used, but are given up for others.
    let left = |folder: &Path| {
        let (limit, used) = (number(folder, "memory.max")?, number(folder, "memory.current")?);
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let files = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(files)))
    };
    root.join(group).ancestors().take_while(|folder| folder.starts_with(root)).filter_map(left).min()
}

/// What the limit of address space leaves.
fn address_space_bytes() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
    let used = field(&fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(limit.saturating_sub(used))
}

/// The value of a line `name   123 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Keeps pages that a program freed for the next one. The CPU plugin takes its arrays from the C library, which by default
/// returns large ones to the system and has them cleared again at the next run: for memory-bound programs that costs more
/// than the arithmetic (measured: filling 32 MiB took 19 ms so, 1.4 ms with this setting).
pub(crate) fn keep_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets parameters of the allocator; it is called before the plugin is loaded.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Starts this program once more with huge pages for large arrays, which the C library only takes from its environment. To be called
/// first in `main`; it returns where that was done, where someone said otherwise (`GLIBC_TUNABLES=glibc.malloc.hugetlb=0`), and where it
/// cannot be done.
///
/// An array of more than 64 MiB is new to the system each time a program runs; in pages of 4 KiB that takes a quarter of the time of a
/// large update (BPTT, 184 MiB: 146 ms, and 108 with huge pages), and smaller updates take 30 % longer in one process than in the next.
pub fn restart_on_huge_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::{env, os::unix::process::CommandExt, process::Command};
        const TUNABLES: &str = "GLIBC_TUNABLES";
        const HUGE: &str = "glibc.malloc.hugetlb";
        let others = env::var_os(TUNABLES).unwrap_or_default();
        if others.to_string_lossy().contains(HUGE) {
            return;
        }
        let separator = if others.is_empty() { "" } else { ":" };
        let mut all = others;
        all.push(format!("{separator}{HUGE}=1"));
        let mut words = env::args_os();
        let mut again = Command::new("/proc/self/exe");
        if let Some(name) = words.next() {
            again.arg0(name);
        }
        // Where this returns, the program goes on as it is.
        let _ = again.args(words).env(TUNABLES, all).exec();
    }
}

/// For measurements of memory: with `true`, large arrays come from the system and return to it, so that what the process has
/// resident is what it uses; with `false`, freed pages are kept again (see the source of `keep_freed_pages` for why).
pub fn exact_residency(on: bool) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if on {
        // SAFETY: `mallopt` may be called at any time; it takes the allocator's locks and sets parameters.
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 1 << 16);
            libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
            libc::mallopt(libc::M_TOP_PAD, 0);
        }
    } else {
        keep_freed_pages();
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = on;
}

/// Gives freed pages back to the system, so that the next measurement starts from what is in use.
pub fn release_freed_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        let text = "VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\nName:\tx\n";
        assert_eq!(field(text, "VmHWM:"), Some(2048 * 1024));
        assert_eq!(field(text, "VmRSS:"), None);
        assert_eq!(field(text, "Name:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn peak_follows_an_allocation_and_a_reset() {
        const SIZE: usize = 64 << 20;
        assert!(reset_process_peak());
        let before = process_peak_bytes().unwrap();
        let block = std::hint::black_box(vec![1u8; SIZE]);
        let during = process_peak_bytes().unwrap();
        drop(block);
        assert!(during >= before + SIZE as u64 / 2, "{before} {during}");
        assert!(reset_process_peak());
        assert!(process_peak_bytes().unwrap() < during);
        assert!(available_bytes().unwrap() > 0);
    }
}
