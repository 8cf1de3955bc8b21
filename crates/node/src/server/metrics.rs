//! Metrics in Prometheus' text format, under upstream's names: the agent's own, of resources, of containers, of probes.

use std::fmt::{Display, Write as _};

use cri::{ContainerFilter, ContainerState};
use http::{HeaderValue, Response, StatusCode, header};
use wire::Body;

use super::text;
use super::usage::{self, ContainerUsage, MachineUsage, PodUsage};
use crate::agent::Agent;

/// Metrics as text: families in turn, each with its samples.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// One sample; `at` in nanoseconds since 1970 when it was not taken just now.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display, at: Option<i64>) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        match at {
            Some(at) => self.line(format_args!("{name}{labels} {value} {}", at / 1_000_000)),
            None => self.line(format_args!("{name}{labels} {value}")),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string cannot fail");
    }

    fn response(self) -> Response<Body> {
        let mut response = text(StatusCode::OK, &self.0);
        let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn broken(error: &cri::Error) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
}

/// One family of samples of pods and containers.
struct Family<'f, T> {
    name: &'f str,
    kind: &'f str,
    help: &'f str,
    value: fn(&T) -> f64,
}

fn of_containers(pods: &[PodUsage]) -> impl Iterator<Item = (&PodUsage, &ContainerUsage)> {
    pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

/// `/metrics/resource`: what the metrics server reads.
pub(super) async fn resource(agent: &Agent) -> Response<Body> {
    let mut out = Exposition::default();
    let (pods, failed) = match usage::pods(agent).await {
        Ok(pods) => (pods, 0),
        Err(error) => {
            tracing::warn!(%error, "usage of pods not read");
            (Vec::new(), 1)
        }
    };
    let containers: [Family<'_, ContainerUsage>; 3] = [
        Family {
            name: "container_cpu_usage_seconds_total",
            kind: "counter",
            help: "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            value: |container| seconds(container.stats.cpu.usage_core_nano_seconds),
        },
        Family {
            name: "container_memory_working_set_bytes",
            kind: "gauge",
            help: "[STABLE] Current working set of the container in bytes",
            value: |container| container.stats.memory.working_set_bytes as f64,
        },
        Family {
            name: "container_start_time_seconds",
            kind: "gauge",
            help: "[STABLE] Start time of the container since unix epoch in seconds",
            value: |container| container.started_at as f64 / 1e9,
        },
    ];
    for family in &containers {
        out.family(family.name, family.kind, family.help);
        for (pod, container) in of_containers(&pods) {
            let labels = [("container", &*container.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
            let at = (family.name != "container_start_time_seconds").then_some(container.stats.cpu.timestamp);
            out.sample(family.name, &labels, (family.value)(container), at);
        }
    }
    of_the_node(&mut out);
    let of_pods: [Family<'_, PodUsage>; 2] = [
        Family {
            name: "pod_cpu_usage_seconds_total",
            kind: "counter",
            help: "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            value: |pod| seconds(pod.stats.cpu.usage_core_nano_seconds),
        },
        Family {
            name: "pod_memory_working_set_bytes",
            kind: "gauge",
            help: "[STABLE] Current working set of the pod in bytes",
            value: |pod| pod.stats.memory.working_set_bytes as f64,
        },
    ];
    for family in &of_pods {
        out.family(family.name, family.kind, family.help);
        for pod in &pods {
            let labels = [("namespace", &*pod.namespace), ("pod", &*pod.name)];
            out.sample(family.name, &labels, (family.value)(pod), Some(pod.stats.cpu.timestamp));
        }
    }
    out.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample("resource_scrape_error", &[], failed, None);
    out.response()
}

fn of_the_node(out: &mut Exposition) {
    let machine = MachineUsage::read();
    let now = i64::try_from(stdx::wall().as_nanosecond()).ok();
    out.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    out.sample("node_cpu_usage_seconds_total", &[], seconds(machine.cpu_nanoseconds), now);
    out.family("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes");
    out.sample("node_memory_working_set_bytes", &[], machine.memory_bytes, now);
}

/// A family of samples of containers, of which some may not be known.
struct Told {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&ContainerUsage) -> Option<f64>,
}

/// What is told of each container, by cAdvisor's names.
fn families() -> [Told; 8] {
    [
        Told {
            name: "container_cpu_usage_seconds_total",
            kind: "counter",
            help: "Cumulative cpu time consumed in seconds.",
            value: |container| Some(seconds(container.stats.cpu.usage_core_nano_seconds)),
        },
        Told {
            name: "container_cpu_cfs_throttled_periods_total",
            kind: "counter",
            help: "Number of throttled period intervals.",
            value: |container| container.throttled_periods.map(|count| count as f64),
        },
        Told {
            name: "container_memory_usage_bytes",
            kind: "gauge",
            help: "Current memory usage in bytes, including all memory regardless of when it was accessed",
            value: |container| Some(container.stats.memory.usage_bytes as f64),
        },
        Told {
            name: "container_memory_working_set_bytes",
            kind: "gauge",
            help: "Current working set in bytes.",
            value: |container| Some(container.stats.memory.working_set_bytes as f64),
        },
        Told {
            name: "container_memory_rss",
            kind: "gauge",
            help: "Size of RSS in bytes.",
            value: |container| Some(container.stats.memory.rss_bytes as f64),
        },
        Told {
            name: "container_processes",
            kind: "gauge",
            help: "Number of processes running inside the container.",
            value: |container| container.process_count.map(|count| count as f64),
        },
        Told {
            name: "container_start_time_seconds",
            kind: "gauge",
            help: "Start time of the container since unix epoch in seconds.",
            value: |container| Some((container.started_at / 1_000_000_000) as f64),
        },
        Told {
            name: "container_last_seen",
            kind: "gauge",
            help: "Last time a container was seen by the exporter",
            value: |container| Some((container.stats.cpu.timestamp / 1_000_000_000) as f64),
        },
    ]
}

/// `/metrics/cadvisor`: containers as cAdvisor tells of them, as far as control groups say.
pub(super) async fn cadvisor(agent: &Agent) -> Response<Body> {
    let pods = match usage::pods(agent).await {
        Ok(pods) => pods,
        Err(error) => return broken(&error),
    };
    let mut out = Exposition::default();
    for family in families() {
        out.family(family.name, family.kind, family.help);
        for (pod, container) in of_containers(&pods) {
            let Some(value) = (family.value)(container) else { continue };
            let mut labels = vec![
                ("container", &*container.name),
                ("id", &*container.id),
                ("image", &*container.image),
                ("name", &*container.id),
                ("namespace", &*pod.namespace),
                ("pod", &*pod.name),
            ];
            if family.name == "container_cpu_usage_seconds_total" {
                labels.insert(1, ("cpu", "total"));
            }
            out.sample(family.name, &labels, value, Some(container.stats.cpu.timestamp));
        }
    }
    machine(agent, &mut out);
    out.response()
}

fn machine(agent: &Agent, out: &mut Exposition) {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    out.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    out.sample("machine_cpu_cores", &[], processors, None);
    out.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    out.sample("machine_memory_bytes", &[], agent.context().facts.memory_bytes, None);
}

/// `/metrics/probes`: how often each probe found what.
pub(super) fn probes(agent: &Agent) -> Response<Body> {
    const NAME: &str = "prober_probe_total";
    let mut out = Exposition::default();
    out.family(
        NAME,
        "counter",
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    );
    for (probe, counts) in agent.context().probed.counts() {
        for (result, count) in [("failed", counts.failed), ("successful", counts.successful)] {
            let labels = [
                ("container", &*probe.container),
                ("namespace", &*probe.namespace),
                ("pod", &*probe.pod),
                ("pod_uid", &*probe.pod_uid),
                ("probe_type", probe.purpose),
                ("result", result),
            ];
            if count > 0 {
                out.sample(NAME, &labels, count, None);
            }
        }
    }
    out.response()
}

/// `/metrics`: the agent itself.
pub(super) async fn own(agent: &Agent) -> Response<Body> {
    let containers = match agent.context().runtime.list_containers(ContainerFilter::default()).await {
        Ok(containers) => containers,
        Err(error) => return broken(&error),
    };
    let mut out = Exposition::default();
    out.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    out.sample("kubelet_node_name", &[("node", &agent.context().facts.name)], 1, None);
    out.family("kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    let states = [
        (ContainerState::Created, "created"),
        (ContainerState::Exited, "exited"),
        (ContainerState::Running, "running"),
        (ContainerState::Unknown, "unknown"),
    ];
    for (state, name) in states {
        let count = containers.iter().filter(|container| container.state == state).count();
        out.sample("kubelet_running_containers", &[("container_state", name)], count, None);
    }
    out.family("kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running pod sandbox");
    let mut sandboxes: Vec<&str> = containers
        .iter()
        .filter(|container| container.state == ContainerState::Running)
        .map(|container| container.pod_sandbox_id.as_str())
        .collect();
    sandboxes.sort_unstable();
    sandboxes.dedup();
    out.sample("kubelet_running_pods", &[], sandboxes.len(), None);
    process(&mut out);
    out.response()
}

fn process(out: &mut Exposition) {
    out.family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.");
    out.sample("process_cpu_seconds_total", &[], own_cpu_seconds(), None);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, field, help) in [
        ("process_resident_memory_bytes", "VmRSS:", "Resident memory size in bytes."),
        ("process_virtual_memory_bytes", "VmSize:", "Virtual memory size in bytes."),
    ] {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
        out.family(name, "gauge", help);
        out.sample(name, &[], kilobytes * 1024, None);
    }
}

/// What this process has used of processors; the kernel counts hundredths of a second.
fn own_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in brackets, may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut out = Exposition::default();
        out.family("a_total", "counter", "What.");
        out.sample("a_total", &[], 1.5, None);
        out.sample("a_total", &[("x", "a\"b\\c\nd"), ("y", "")], 2_u64, Some(1_700_000_000_123_456_789));
        let expected = "# HELP a_total What.\n# TYPE a_total counter\na_total 1.5\n\
            a_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 2 1700000000123\n";
        assert_eq!(out.0, expected);
    }
}
