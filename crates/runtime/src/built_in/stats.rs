//! What containers and pods use.

use std::sync::Arc;

use cri::{ContainerStats, CpuUsage, Error, FilesystemUsage, MemoryUsage, PodSandboxStats, Result};

use super::container::UPPER;
use super::{Container, Inner, group_failed, lock, now};
use crate::cgroup::Usage;

fn cpu(usage: &Usage, timestamp: i64) -> CpuUsage {
    CpuUsage {
        timestamp,
        usage_core_nano_seconds: usage.cpu_nanoseconds,
        throttled_periods: Some(usage.throttled_periods),
    }
}

fn memory(usage: &Usage, timestamp: i64) -> MemoryUsage {
    let working_set_bytes = usage.memory_bytes.saturating_sub(usage.inactive_file_bytes);
    MemoryUsage {
        timestamp,
        working_set_bytes,
        available_bytes: usage.memory_limit_bytes.map(|limit| limit.saturating_sub(working_set_bytes)),
        usage_bytes: usage.memory_bytes,
        rss_bytes: usage.rss_bytes,
        page_faults: usage.page_faults,
        major_page_faults: usage.major_page_faults,
    }
}

impl Inner {
    /// What one container uses.
    pub(super) fn container_stats(&self, container: &Arc<Container>) -> Result<ContainerStats> {
        let (usage, timestamp) = (self.cgroups.usage(&container.group()).map_err(group_failed)?, now());
        Ok(ContainerStats {
            id: container.id.clone(),
            pod_sandbox_id: container.sandbox.id.clone(),
            metadata: lock(&container.record).config.metadata.clone(),
            cpu: cpu(&usage, timestamp),
            memory: memory(&usage, timestamp),
            process_count: Some(usage.process_count),
            writable_layer: None,
        })
    }

    /// The same, with what it has written beside its volumes: all of that is looked at.
    pub(super) fn container_stats_with_disk(&self, container: &Arc<Container>) -> Result<ContainerStats> {
        let upper = self.container_root(&container.id).join(UPPER);
        let usage = stdx::disk::usage(&upper).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::no_container(&container.id),
            _ => Error::Internal(format!("measure what container {} has written: {error}", container.id)),
        })?;
        let writable_layer = FilesystemUsage {
            timestamp: now(),
            mountpoint: self.options.root_dir.to_string_lossy().into_owned(),
            used_bytes: usage.bytes,
            inodes_used: usage.files,
        };
        Ok(ContainerStats { writable_layer: Some(writable_layer), ..self.container_stats(container)? })
    }

    /// What a pod uses.
    pub(super) fn sandbox_stats(&self, id: &str) -> Result<PodSandboxStats> {
        let sandbox = self.sandbox(id)?;
        let (usage, timestamp) = (self.cgroups.usage(&sandbox.pod_group()).map_err(group_failed)?, now());
        let containers = self.containers_of(id);
        let metadata = lock(&sandbox.record).config.metadata.clone();
        Ok(PodSandboxStats {
            id: id.to_owned(),
            metadata,
            cpu: cpu(&usage, timestamp),
            memory: memory(&usage, timestamp),
            process_count: usage.process_count,
            containers: containers.iter().map(|container| self.container_stats(container)).collect::<Result<_>>()?,
        })
    }
}
