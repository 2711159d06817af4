//! How much memory there is, so that what cannot fit is refused before it is asked for.

use std::sync::OnceLock;

use crate::error::require;
use crate::{Error, Result};

/// Bytes of the machine, or of the control group if it allows fewer; without either number 2^40.
pub(crate) fn total() -> u64 {
    static TOTAL: OnceLock<u64> = OnceLock::new();
    *TOTAL.get_or_init(|| {
        let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        });
        let group =
            std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|t| t.trim().parse::<u64>().ok());
        machine.into_iter().chain(group).min().unwrap_or(1 << 40)
    })
}

/// Refuses a product of counts, times `size` bytes, that is larger than the memory.
pub(crate) fn fits(task: &'static str, rule: &'static str, counts: &[usize], size: u64, next: &str) -> Result<()> {
    let bytes = counts.iter().try_fold(size, |a, &n| a.checked_mul(n as u64)).filter(|&n| n <= isize::MAX as u64);
    let words = || counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
    match bytes {
        Some(bytes) => {
            let (needs, has) = (bytes as f64 / 1e9, total() as f64 / 1e9);
            let got = format!("{} need {needs:.1} GB of {has:.1} GB", words());
            require(bytes <= total(), task, rule, got, next)
        }
        None => Err(Error::Setting { task, rule, got: format!("{}, beyond any memory", words()), next: next.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_fit_is_refused() {
        assert!((1 << 24..1 << 60).contains(&total()), "{}", total());
        assert!(fits("t", "it fits", &[1000, 1000], 1, "less").is_ok());
        for counts in [&[1 << 30, 1 << 25][..], &[usize::MAX, 2]] {
            let m = fits("t", "it fits", counts, 4, "choose less").unwrap_err().to_string();
            assert!(m.contains("it fits") && m.contains("choose less"), "{m}");
        }
    }
}
