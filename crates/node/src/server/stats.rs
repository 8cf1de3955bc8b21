//! `/stats/summary`: what the node, its pods and their containers use. Upstream: `k8s.io/kubelet/pkg/apis/stats/v1alpha1`.
//!
//! Network and volumes are not measured and left out, as upstream leaves out what its runtime does not tell.

use cri::{CpuUsage, MemoryUsage};
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
    let root = rustix::fs::statvfs(agent.context().roots.disk.as_path()).ok();
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
    if let Some(disk) = root {
        node["fs"] = json!({
            "time": now.to_string(), "availableBytes": disk.f_bavail * disk.f_frsize, "capacityBytes": disk.f_blocks * disk.f_frsize,
            "usedBytes": disk.f_blocks.saturating_sub(disk.f_bfree) * disk.f_frsize, "inodesFree": disk.f_ffree, "inodes": disk.f_files,
            "inodesUsed": disk.f_files.saturating_sub(disk.f_ffree),
        });
    }
    let only_cpu_and_memory = query.flag("only_cpu_and_memory");
    if only_cpu_and_memory && let Some(node) = node.as_object_mut() {
        node.retain(|name, _| !matches!(name.as_str(), "fs" | "rlimit"));
    }
    let pods: Vec<Value> = pods.iter().map(|pod| of_pod(pod, &rate, only_cpu_and_memory)).collect();
    super::json(&json!({"node": node, "pods": pods}))
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
