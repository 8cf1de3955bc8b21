//! `/stats/summary`: what the node, its pods and their containers use. Upstream: `k8s.io/kubelet/pkg/apis/stats/v1alpha1`.
//!
//! Network and volumes are not measured and left out, as upstream leaves out what its runtime does not tell.

use std::path::Path;

use cri::{CpuUsage, FilesystemUsage, MemoryUsage};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use wire::Body;

use super::usage::{self, ContainerUsage, MachineUsage, PodUsage, Rates};
use super::{Query, text};
use crate::agent::Agent;

/// Answers with the summary.
pub(super) async fn summary(agent: &Agent, rates: &Rates, query: &Query) -> Response<Body> {
    let pods = match usage::pods(agent).await {
        Ok(pods) => pods,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let machine = MachineUsage::read();
    let now = stdx::wall();
    let nanoseconds = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
    let mut samples = vec![(String::new(), nanoseconds, machine.cpu_nanoseconds)];
    for pod in &pods {
        let cpu = &pod.stats.cpu;
        samples.push((pod.uid.clone(), cpu.timestamp, cpu.usage_core_nano_seconds));
        samples.extend(pod.containers.iter().map(|container| {
            let cpu = &container.stats.cpu;
            (container.id.clone(), cpu.timestamp, cpu.usage_core_nano_seconds)
        }));
    }
    let rates = rates.since_last(&samples);
    let rate = |name: &str| rates.get(name).copied();
    let mut node = json!({
        "nodeName": agent.context().facts.name,
        "startTime": time(machine.booted_at.saturating_mul(1_000_000_000)),
        "cpu": {"time": now.to_string(), "usageCoreNanoSeconds": machine.cpu_nanoseconds},
        "memory": {"time": now.to_string(), "availableBytes": machine.available_bytes, "usageBytes": machine.memory_bytes,
            "workingSetBytes": machine.memory_bytes},
        "rlimit": {"time": now.to_string(), "maxpid": machine.processes_max, "curproc": machine.processes},
    });
    if let Some(rate) = rate("") {
        node["cpu"]["usageNanoCores"] = rate.into();
    }
    let only_cpu_and_memory = query.flag("only_cpu_and_memory");
    if only_cpu_and_memory {
        node.as_object_mut().map(|node| node.remove("rlimit"));
    } else {
        disks(agent, &mut node, now).await;
    }
    let pods: Vec<Value> = pods.iter().map(|pod| of_pod(pod, &rate, only_cpu_and_memory)).collect();
    super::json(&json!({"node": node, "pods": pods}))
}

/// The file systems of pods, of images, and of what containers write.
async fn disks(agent: &Agent, node: &mut Value, now: Timestamp) {
    if let Some(disk) = filesystem(&agent.context().roots.disk, None, now) {
        node["fs"] = disk;
    }
    let info = match agent.context().runtime.image_fs_info().await {
        Ok(info) => info,
        Err(error) => return tracing::warn!(%error, "the file system of images is not measured"),
    };
    let of =
        |used: Option<&FilesystemUsage>| used.and_then(|used| filesystem(used.mountpoint.as_ref(), Some(used), now));
    let images = info.image_filesystems.first();
    let mut of_runtime = serde_json::Map::new();
    of_runtime.extend(of(images).map(|value| ("imageFs".to_owned(), value)));
    let containers = info.container_filesystems.first().or(images);
    of_runtime.extend(of(containers).map(|value| ("containerFs".to_owned(), value)));
    node["runtime"] = of_runtime.into();
}

/// A file system, with what of it is used: by all, or by that alone.
fn filesystem(folder: &Path, used: Option<&FilesystemUsage>, now: Timestamp) -> Option<Value> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    let by_all = disk.f_blocks.saturating_sub(disk.f_bfree) * disk.f_frsize;
    Some(json!({
        "time": now.to_string(), "availableBytes": disk.f_bavail * disk.f_frsize, "capacityBytes": disk.f_blocks * disk.f_frsize,
        "usedBytes": used.map_or(by_all, |used| used.used_bytes), "inodesFree": disk.f_ffree, "inodes": disk.f_files,
        "inodesUsed": used.map_or(disk.f_files.saturating_sub(disk.f_ffree), |used| used.inodes_used),
    }))
}

fn of_pod(pod: &PodUsage, rate: &dyn Fn(&str) -> Option<u64>, only_cpu_and_memory: bool) -> Value {
    let containers: Vec<Value> = pod.containers.iter().map(|container| of_container(container, rate)).collect();
    let mut value = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": time(pod.created_at),
        "containers": containers,
        "cpu": cpu(&pod.stats.cpu, rate(&pod.uid)),
        "memory": memory(&pod.stats.memory),
    });
    if !only_cpu_and_memory {
        value["process_stats"] = json!({"process_count": pod.stats.process_count});
    }
    value
}

fn of_container(container: &ContainerUsage, rate: &dyn Fn(&str) -> Option<u64>) -> Value {
    json!({
        "name": container.name,
        "startTime": time(container.started_at),
        "cpu": cpu(&container.stats.cpu, rate(&container.id)),
        "memory": memory(&container.stats.memory),
    })
}

fn time(nanoseconds: i64) -> String {
    let time = Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default();
    // Whole seconds, as upstream's times are.
    Timestamp::from_second(time.as_second()).unwrap_or_default().to_string()
}

fn cpu(usage: &CpuUsage, rate: Option<u64>) -> Value {
    let mut value = json!({"time": time(usage.timestamp), "usageCoreNanoSeconds": usage.usage_core_nano_seconds});
    if let Some(rate) = rate {
        value["usageNanoCores"] = rate.into();
    }
    value
}

fn memory(usage: &MemoryUsage) -> Value {
    let mut value = json!({
        "time": time(usage.timestamp), "usageBytes": usage.usage_bytes, "workingSetBytes": usage.working_set_bytes,
        "rssBytes": usage.rss_bytes, "pageFaults": usage.page_faults, "majorPageFaults": usage.major_page_faults,
    });
    if let Some(available) = usage.available_bytes {
        value["availableBytes"] = available.into();
    }
    value
}
