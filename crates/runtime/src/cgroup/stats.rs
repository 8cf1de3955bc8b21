//! What a control group uses, out of its files.

use std::path::{Path, PathBuf};

use super::{Result, files};

/// What a group uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of one core.
    pub cpu_nanoseconds: u64,
    /// Periods in which the quota was exhausted.
    pub throttled_periods: u64,
    /// All memory charged.
    pub memory_bytes: u64,
    /// The part of it that is page cache not used lately.
    pub inactive_file_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that waited for a disk.
    pub major_page_faults: u64,
    /// The limit of memory, if there is one.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub process_count: u64,
}

/// Limits of version 1 from here on are none: it writes "no limit" as the largest number of pages.
const V1_UNLIMITED: u64 = 1 << 62;

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The number after `key` in lines `key number`.
fn keyed(text: &str, key: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.into_iter().find(|(name, _)| *name == key).map_or(0, |(_, value)| number(value))
}

/// The text of a file that some kernels lack: then nothing of its kind is counted.
fn optional(path: &Path) -> Result<String> {
    if path.exists() { files::read(path) } else { Ok(String::new()) }
}

/// The use of a group of version 2.
pub(super) fn v2(folder: &Path) -> Result<Usage> {
    let read = |name: &str| optional(&folder.join(name));
    let (cpu, memory) = (read("cpu.stat")?, read("memory.stat")?);
    Ok(Usage {
        cpu_nanoseconds: keyed(&cpu, "usage_usec") * 1000,
        throttled_periods: keyed(&cpu, "nr_throttled"),
        memory_bytes: number(&read("memory.current")?),
        inactive_file_bytes: keyed(&memory, "inactive_file"),
        rss_bytes: keyed(&memory, "anon"),
        page_faults: keyed(&memory, "pgfault"),
        major_page_faults: keyed(&memory, "pgmajfault"),
        memory_limit_bytes: read("memory.max")?.trim().parse().ok(),
        process_count: number(&read("pids.current")?),
    })
}

/// The use of a group of version 1, whose folder in each hierarchy `folder` tells.
pub(super) fn v1(folder: impl Fn(&str) -> Option<PathBuf>) -> Result<Usage> {
    let read = |controller: &str, name: &str| match folder(controller) {
        Some(folder) => optional(&folder.join(name)),
        None => Ok(String::new()),
    };
    let memory = read("memory", "memory.stat")?;
    Ok(Usage {
        cpu_nanoseconds: number(&read("cpuacct", "cpuacct.usage")?),
        throttled_periods: keyed(&read("cpu", "cpu.stat")?, "nr_throttled"),
        memory_bytes: number(&read("memory", "memory.usage_in_bytes")?),
        inactive_file_bytes: keyed(&memory, "total_inactive_file"),
        rss_bytes: keyed(&memory, "total_rss"),
        page_faults: keyed(&memory, "total_pgfault"),
        major_page_faults: keyed(&memory, "total_pgmajfault"),
        memory_limit_bytes: Some(number(&read("memory", "memory.limit_in_bytes")?))
            .filter(|limit| (1..V1_UNLIMITED).contains(limit)),
        process_count: number(&read("pids", "pids.current")?),
    })
}
