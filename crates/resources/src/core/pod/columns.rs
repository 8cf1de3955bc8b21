//! What `kubectl get pods` shows. Upstream: `pkg/printers/internalversion/printers.go`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod, PodStatus};

use crate::absent::{list, text};
use crate::columns::{NONE, age, column, name, or_none, wide};
use crate::def::{Cell, Column};

pub(crate) const COLUMNS: &[Column<Pod>] = &[
    name(),
    column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic.", |pod| {
        let summary = Summary::of(pod);
        Cell::Text(format!("{}/{}", summary.ready, summary.total))
    }),
    column("Status", "string", "The aggregate status of the containers in this pod.", |pod| {
        Cell::Text(Summary::of(pod).reason)
    }),
    column(
        "Restarts",
        "string",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        |pod| {
            let summary = Summary::of(pod);
            match summary.last_restart {
                Some(moment) if summary.restarts != 0 => {
                    Cell::SinceWithin { before: format!("{} (", summary.restarts), moment, after: " ago)".to_owned() }
                }
                _ => Cell::Text(summary.restarts.to_string()),
            }
        },
    ),
    age(),
    wide("IP", "string", "The pod's first address.", |pod| or_none(&address(pod))),
    wide("Node", "string", "The node that the pod is scheduled to.", |pod| {
        or_none(pod.spec.as_ref().map_or("", |spec| text(&spec.node_name)))
    }),
    wide("Nominated Node", "string", "The node where room is made for the pod.", |pod| {
        or_none(pod.status.as_ref().map_or("", |status| text(&status.nominated_node_name)))
    }),
    wide("Readiness Gates", "string", "How many readiness gates are passed.", |pod| Cell::Text(gates(pod))),
];

fn address(pod: &Pod) -> String {
    let addresses = pod.status.as_ref().map_or(&[][..], |status| list(&status.pod_ips));
    addresses.first().map(|address| address.ip.clone()).unwrap_or_default()
}

fn gates(pod: &Pod) -> String {
    let gates = pod.spec.as_ref().map_or(&[][..], |spec| list(&spec.readiness_gates));
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let passed =
        gates.iter().filter(|gate| pod.status.as_ref().is_some_and(|status| is_true(status, &gate.condition_type)));
    format!("{}/{}", passed.count(), gates.len())
}

fn is_true(status: &PodStatus, condition: &str) -> bool {
    list(&status.conditions).iter().any(|found| found.type_ == condition && found.status == "True")
}

/// A pod in one line.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i32,
    last_restart: Option<Timestamp>,
}

/// How init containers get on.
enum Starting {
    /// Not all have done their work.
    Still,
    Done,
}

impl Summary {
    fn of(pod: &Pod) -> Summary {
        let status = pod.status.clone().unwrap_or_default();
        let init = pod.spec.as_ref().map_or(&[][..], |spec| list(&spec.init_containers));
        let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
        let sidecars = init.iter().filter(|container| super::is_sidecar(container)).count();
        let gated = list(&status.conditions)
            .iter()
            .any(|found| found.type_ == "PodScheduled" && text(&found.reason) == "SchedulingGated");
        let reason = match (gated, text(&status.reason)) {
            (true, _) => "SchedulingGated",
            (false, "") => text(&status.phase),
            (false, reason) => reason,
        };
        let total = containers + sidecars;
        let mut summary = Summary { ready: 0, total, reason: reason.to_owned(), restarts: 0, last_restart: None };
        let of_sidecars = summary.count_init(&status, init);
        let starting = summary.look_at_init(&status, init);
        if matches!(starting, Starting::Done) || is_true(&status, "Initialized") {
            (summary.restarts, summary.last_restart) = of_sidecars;
            summary.look_at_main(&status);
        }
        let ended = ["Succeeded", "Failed"].contains(&text(&status.phase));
        if pod.metadata.deletion_timestamp.is_some() {
            if text(&status.reason) == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !ended {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Counts restarts up to the init container that the pod is at; those of sidecars are returned apart.
    fn count_init(&mut self, status: &PodStatus, init: &[Container]) -> (i32, Option<Timestamp>) {
        let (mut restarts, mut last) = (0, None);
        for container in list(&status.init_container_statuses) {
            self.restarts += container.restart_count;
            self.last_restart = self.last_restart.max(finished(container));
            if is_sidecar(container, init) {
                restarts += container.restart_count;
                last = last.max(finished(container));
            }
            if !is_past(container, init) {
                break;
            }
        }
        (restarts, last)
    }

    fn look_at_init(&mut self, status: &PodStatus, init: &[Container]) -> Starting {
        for (index, container) in list(&status.init_container_statuses).iter().enumerate() {
            if is_past(container, init) {
                let runs = container.state.as_ref().is_none_or(|state| state.terminated.is_none());
                self.ready += usize::from(runs && container.ready);
                continue;
            }
            let state = container.state.clone().unwrap_or_default();
            let waiting = state.waiting.as_ref().map_or("", |waiting| text(&waiting.reason));
            self.reason = match ended(&state, "Init:") {
                Some(reason) => reason,
                None if !["", "PodInitializing"].contains(&waiting) => format!("Init:{waiting}"),
                None => format!("Init:{index}/{}", init.len()),
            };
            return Starting::Still;
        }
        Starting::Done
    }

    fn look_at_main(&mut self, status: &PodStatus) {
        let mut running = false;
        for container in list(&status.container_statuses).iter().rev() {
            self.restarts += container.restart_count;
            self.last_restart = self.last_restart.max(finished(container));
            let state = container.state.clone().unwrap_or_default();
            let waiting = state.waiting.as_ref().map_or("", |waiting| text(&waiting.reason));
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(reason) = ended(&state, "") {
                self.reason = reason;
            } else if container.ready && state.running.is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let reason = if is_true(status, "Ready") { "Running" } else { "NotReady" };
            self.reason = reason.to_owned();
        }
    }
}

fn is_sidecar(status: &ContainerStatus, init: &[Container]) -> bool {
    init.iter().any(|container| container.name == status.name && super::is_sidecar(container))
}

/// Whether the next init container may start.
fn is_past(status: &ContainerStatus, init: &[Container]) -> bool {
    let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    terminated.is_some_and(|terminated| terminated.exit_code == 0)
        || (is_sidecar(status, init) && status.started == Some(true))
}

/// Why the container ended, if it did.
fn ended(state: &ContainerState, prefix: &str) -> Option<String> {
    let terminated = state.terminated.as_ref()?;
    let signal = terminated.signal.unwrap_or(0);
    Some(match text(&terminated.reason) {
        "" if signal != 0 => format!("{prefix}Signal:{signal}"),
        "" => format!("{prefix}ExitCode:{}", terminated.exit_code),
        reason => format!("{prefix}{reason}"),
    })
}

fn finished(status: &ContainerStatus) -> Option<Timestamp> {
    let last = status.last_state.as_ref()?.terminated.as_ref()?;
    last.finished_at.as_ref().map(|time| time.0)
}
