//! What limits mean in the files of each version. Pure.

use cri::LinuxContainerResources;

/// A value for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The version 1 controller whose hierarchy has the file.
    pub(super) controller: &'static str,
    /// The file.
    pub(super) file: String,
    /// The value.
    pub(super) value: String,
    /// Whether a kernel may lack the file.
    pub(super) optional: bool,
}

/// The period of a quota for which none is given, in microseconds.
const CPU_PERIOD_DEFAULT: i64 = 100_000;

fn setting(controller: &'static str, file: &str, value: impl ToString) -> Setting {
    Setting { controller, file: file.to_owned(), value: value.to_string(), optional: false }
}

fn optional(controller: &'static str, file: &str, value: impl ToString) -> Setting {
    Setting { optional: true, ..setting(controller, file, value) }
}

/// The files of version 1.
pub(super) fn v1(resources: &LinuxContainerResources) -> Vec<Setting> {
    let mut settings = Vec::new();
    if resources.cpu_shares > 0 {
        // The kernel accepts no less than 2.
        settings.push(setting("cpu", "cpu.shares", resources.cpu_shares.max(2)));
    }
    if resources.cpu_period > 0 {
        settings.push(setting("cpu", "cpu.cfs_period_us", resources.cpu_period));
    }
    if resources.cpu_quota != 0 {
        settings.push(setting("cpu", "cpu.cfs_quota_us", resources.cpu_quota.max(-1)));
    }
    if resources.memory_limit_in_bytes > 0 {
        settings.push(setting("memory", "memory.limit_in_bytes", resources.memory_limit_in_bytes));
    }
    if resources.memory_swap_limit_in_bytes > 0 {
        settings.push(optional("memory", "memory.memsw.limit_in_bytes", resources.memory_swap_limit_in_bytes));
    }
    settings.extend(cpuset(resources));
    for limit in &resources.hugepage_limits {
        settings.push(optional("hugetlb", &format!("hugetlb.{}.limit_in_bytes", limit.page_size), limit.limit));
    }
    settings
}

/// The files of version 2.
pub(super) fn v2(resources: &LinuxContainerResources) -> Vec<Setting> {
    let mut settings = Vec::new();
    if resources.cpu_shares > 0 {
        settings.push(setting("cpu", "cpu.weight", weight(resources.cpu_shares)));
    }
    if resources.cpu_quota != 0 || resources.cpu_period > 0 {
        let period = if resources.cpu_period > 0 { resources.cpu_period } else { CPU_PERIOD_DEFAULT };
        let quota = if resources.cpu_quota > 0 { resources.cpu_quota.to_string() } else { "max".to_owned() };
        settings.push(setting("cpu", "cpu.max", format!("{quota} {period}")));
    }
    if resources.memory_limit_in_bytes > 0 {
        settings.push(setting("memory", "memory.max", resources.memory_limit_in_bytes));
        // When memory runs out the container ends as a whole rather than losing one process.
        settings.push(optional("memory", "memory.oom.group", 1));
        if resources.memory_swap_limit_in_bytes > 0 {
            let swap = resources.memory_swap_limit_in_bytes.saturating_sub(resources.memory_limit_in_bytes).max(0);
            settings.push(optional("memory", "memory.swap.max", swap));
        }
    }
    settings.extend(cpuset(resources));
    for limit in &resources.hugepage_limits {
        settings.push(optional("hugetlb", &format!("hugetlb.{}.max", limit.page_size), limit.limit));
    }
    // Where nothing can be swapped there is no file that forbids it.
    let given = resources.unified.iter();
    settings
        .extend(given.map(|(file, value)| Setting { optional: file == "memory.swap.max", ..setting("", file, value) }));
    settings
}

fn cpuset(resources: &LinuxContainerResources) -> impl Iterator<Item = Setting> {
    let values = [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)];
    values.into_iter().filter(|(_, value)| !value.is_empty()).map(|(file, value)| setting("cpuset", file, value))
}

/// Version 2's weight for version 1's shares: a curve through (2, 1), (1024, 100) and (262144, 10000), the one that
/// current OCI runtimes use.
fn weight(shares: i64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resources: LinuxContainerResources, expected_v1: &[&str], expected_v2: &[&str]) {
        let text = |settings: Vec<Setting>| -> Vec<String> {
            settings.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
        };
        assert_eq!(text(v1(&resources)), expected_v1);
        assert_eq!(text(v2(&resources)), expected_v2);
    }

    #[test]
    fn limits_become_files() {
        check(LinuxContainerResources::default(), &[], &[]);
        check(
            LinuxContainerResources {
                cpu_shares: 1024,
                cpu_period: 100_000,
                cpu_quota: 50_000,
                memory_limit_in_bytes: 1000,
                memory_swap_limit_in_bytes: 1500,
                ..LinuxContainerResources::default()
            },
            &[
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=1000",
                "memory.memsw.limit_in_bytes=1500",
            ],
            &["cpu.weight=100", "cpu.max=50000 100000", "memory.max=1000", "memory.oom.group=1", "memory.swap.max=500"],
        );
        check(
            LinuxContainerResources { cpu_quota: -1, cpuset_cpus: "0-1".into(), ..LinuxContainerResources::default() },
            &["cpu.cfs_quota_us=-1", "cpuset.cpus=0-1"],
            &["cpu.max=max 100000", "cpuset.cpus=0-1"],
        );
    }

    #[test]
    fn shares_become_weights_as_current_runtimes_have_it() {
        for (shares, expected) in [(1, 1), (2, 1), (102, 17), (1024, 100), (2048, 174), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }
}
