//! What containers use.

use crate::container::ContainerMetadata;
use crate::image::FilesystemUsage;
use crate::sandbox::PodSandboxMetadata;

/// Use of processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// When this was measured, in nanoseconds since 1970.
    pub timestamp: i64,
    /// Nanoseconds of one core used since the container's start.
    pub usage_core_nano_seconds: u64,
    /// Periods in which the quota was exhausted; `None` where the runtime does not tell.
    pub throttled_periods: Option<u64>,
}

/// Use of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// When this was measured, in nanoseconds since 1970.
    pub timestamp: i64,
    /// What cannot be given back at once: usage without inactive page cache.
    pub working_set_bytes: u64,
    /// What is left under the limit; `None` without one.
    pub available_bytes: Option<u64>,
    /// All memory charged.
    pub usage_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Minor page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
}

/// What one container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// The container.
    pub id: String,
    /// The sandbox it belongs to.
    pub pod_sandbox_id: String,
    /// Its name and attempt.
    pub metadata: ContainerMetadata,
    /// Processors.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads; `None` where the runtime does not tell.
    pub process_count: Option<u64>,
    /// Its writable layer; `None` when it was not measured.
    pub writable_layer: Option<FilesystemUsage>,
}

/// What a whole pod uses, supervisor included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSandboxStats {
    /// The sandbox.
    pub id: String,
    /// The pod.
    pub metadata: PodSandboxMetadata,
    /// Processors.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub process_count: u64,
    /// Its containers.
    pub containers: Vec<ContainerStats>,
}
