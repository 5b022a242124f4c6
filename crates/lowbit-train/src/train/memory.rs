//! The most memory that this process has held.

/// Returns the greatest number of bytes that this process has held in memory since the last
/// [`reset_peak`], or `None` where the system does not tell (it is read from Linux' `/proc`).
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Lets [`peak_bytes`] count from now on. Where the system refuses, it counts from the beginning.
pub fn reset_peak() {
    // Nothing depends on it but a figure in a report.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
