//! Pod: containers that live and die together on one node.

mod affinity;
pub(crate) mod annotations;
mod columns;
mod containers;
pub(crate) mod defaults;
mod dns;
mod env;
mod mounts;
mod network_volumes;
mod paths;
pub(crate) mod probes;
pub(crate) mod reset;
mod resize;
pub(crate) mod resources;
mod security;
mod selectable;
mod signals;
pub(crate) mod spec;
mod spread;
mod status;
pub(crate) mod tolerations;
mod update;
mod volumes;
pub(crate) mod warnings;
mod windows;

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::absent::{list, text};
use crate::base::{CORE, stored};
use crate::def::{Facts, ResourceDef, Rules, Selectable, Subresource, Writer};
use crate::names;

pub static POD: ResourceDef<Pod> = ResourceDef {
    selectable: &[
        Selectable { field: "spec.nodeName", value: |pod| of_spec(pod, |spec| text(&spec.node_name)).to_owned() },
        Selectable {
            field: "spec.restartPolicy",
            value: |pod| of_spec(pod, |spec| text(&spec.restart_policy)).to_owned(),
        },
        Selectable {
            field: "spec.schedulerName",
            value: |pod| of_spec(pod, |spec| text(&spec.scheduler_name)).to_owned(),
        },
        Selectable {
            field: "spec.serviceAccountName",
            value: |pod| of_spec(pod, |spec| text(&spec.service_account_name)).to_owned(),
        },
        Selectable {
            field: "spec.hostNetwork",
            value: |pod| (pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)).to_string(),
        },
        Selectable { field: "status.phase", value: |pod| phase(pod).to_owned() },
        Selectable { field: "status.podIP", value: address },
        Selectable {
            field: "status.nominatedNodeName",
            value: |pod| pod.status.as_ref().map_or("", |status| text(&status.nominated_node_name)).to_owned(),
        },
    ],
    indexed: Some("spec.nodeName"),
    read_selectable: Some(selectable::read),
    default: defaults::pod,
    reset: reset::reset,
    validate,
    warnings,
    grace_seconds: Some(grace_seconds),
    columns: columns::COLUMNS,
    ..ResourceDef::plain(Facts {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        backing: stored("pods"),
        subresources: &[
            Subresource::Other { name: "attach", kind: ("", "v1", "PodAttachOptions"), verbs: &["create", "get"] },
            Subresource::Other { name: "binding", kind: ("", "v1", "Binding"), verbs: &["create"] },
            Subresource::Other {
                name: "ephemeralcontainers",
                kind: ("", "v1", "Pod"),
                verbs: &["get", "patch", "update"],
            },
            Subresource::Other { name: "eviction", kind: ("policy", "v1", "Eviction"), verbs: &["create"] },
            Subresource::Other { name: "exec", kind: ("", "v1", "PodExecOptions"), verbs: &["create", "get"] },
            Subresource::Other { name: "log", kind: ("", "v1", "Pod"), verbs: &["get"] },
            Subresource::Other {
                name: "portforward",
                kind: ("", "v1", "PodPortForwardOptions"),
                verbs: &["create", "get"],
            },
            Subresource::Other {
                name: "proxy",
                kind: ("", "v1", "PodProxyOptions"),
                verbs: &["create", "delete", "get", "patch", "update"],
            },
            Subresource::Other { name: "resize", kind: ("", "v1", "Pod"), verbs: &["get", "patch", "update"] },
            Subresource::Status,
        ],
        ..CORE
    })
};

fn of_spec<'a>(pod: &'a Pod, field: fn(&'a PodSpec) -> &'a str) -> &'a str {
    pod.spec.as_ref().map_or("", field)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().map_or("", |status| text(&status.phase))
}

fn address(pod: &Pod) -> String {
    let addresses = pod.status.as_ref().map_or(&[][..], |status| list(&status.pod_ips));
    addresses.first().map(|address| address.ip.clone()).unwrap_or_default()
}

/// Whether an init container stays up beside the main ones.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn validate(new: &Pod, old: Option<&Pod>, writer: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let metadata = Path::new("metadata");
    let path = metadata.child("annotations");
    if let Some(old) = old {
        annotations::validate_update(&new.metadata.annotations, &old.metadata.annotations, &path, faults);
    }
    if let (Some(old), Writer::Status) = (old, writer) {
        return status::validate(new, old, faults);
    }
    if writer == Writer::Binding {
        return;
    }
    let spec = new.spec.clone().unwrap_or_default();
    let spec_path = Path::new("spec");
    annotations::validate(&new.metadata.annotations, &spec, &path, faults);
    spec::validate(&spec, spec::Holder::Pod(text(&new.metadata.name)), &spec_path, faults);
    spec::validate_only_pod(&spec, &spec_path, faults);
    match (old, writer) {
        (None, _) => validate_create(new, &spec, &spec_path, faults),
        (Some(old), Writer::EphemeralContainers) => update::validate_ephemeral(new, old, faults),
        (Some(old), Writer::Resize) => resize::validate(new, old, faults),
        (Some(old), _) => update::validate(new, old, faults),
    }
}

fn validate_create(pod: &Pod, spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if !list(&spec.ephemeral_containers).is_empty() {
        faults.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !text(&spec.node_name).is_empty() && !list(&spec.scheduling_gates).is_empty() {
        faults.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    annotations::validate_agreement(&pod.metadata.annotations, spec, path, faults);
}

fn warnings(new: &Pod, old: Option<&Pod>) -> Vec<String> {
    // People seldom update pods by hand, and machines do not read.
    let (None, Some(spec)) = (old, &new.spec) else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    let faults = names::dns_label(text(&new.metadata.name));
    if !faults.is_empty() {
        let what =
            "this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended";
        warnings.push(format!("metadata.name: {what}: [{}]", faults.join(" ")));
    }
    warnings.extend(self::warnings::of(&new.metadata, spec, ""));
    warnings
}

/// A pod that nobody runs, or runs no more, goes at once.
fn grace_seconds(pod: &Pod, asked: Option<i64>) -> i64 {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let runs = !of_spec(pod, |spec| text(&spec.node_name)).is_empty() && !["Failed", "Succeeded"].contains(&phase(pod));
    match asked.or(of_pod).unwrap_or(0) {
        _ if !runs => 0,
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}
