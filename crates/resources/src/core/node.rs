//! Node: a machine that runs pods.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{Node, NodeSystemInfo, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::absent::{entries, list, text};
use crate::base::{CORE, stored};
use crate::columns::{NONE, age, column, name, wide};
use crate::core::pod::{resources, tolerations};
use crate::def::{Cell, Facts, ResourceDef, Rules, Scope, Selectable, Subresource, Writer};
use crate::faults::{duplicate_because, each_invalid};
use crate::names;

pub static NODE: ResourceDef<Node> = ResourceDef {
    selectable: &[Selectable { field: "spec.unschedulable", value: |node| unschedulable(node).to_string() }],
    default,
    reset,
    validate,
    warnings,
    columns: &[
        name(),
        column("Status", "string", "The status of the node", |node| Cell::Text(status(node))),
        column("Roles", "string", "The roles of the node", |node| Cell::Text(roles(node))),
        age(),
        column("Version", "string", "Version of the node's agent.", |node| {
            Cell::Text(info(node, |info| &info.kubelet_version).to_owned())
        }),
        wide("Internal-IP", "string", "Address within the cluster.", |node| Cell::Text(address(node, "InternalIP"))),
        wide("External-IP", "string", "Address outside the cluster.", |node| Cell::Text(address(node, "ExternalIP"))),
        wide("OS-Image", "string", "The node's operating system.", |node| or_unknown(node, |info| &info.os_image)),
        wide("Kernel-Version", "string", "The node's kernel.", |node| or_unknown(node, |info| &info.kernel_version)),
        wide("Container-Runtime", "string", "The node's container runtime.", |node| {
            or_unknown(node, |info| &info.container_runtime_version)
        }),
    ],
    ..ResourceDef::plain(Facts {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        scope: Scope::Cluster,
        short_names: &["no"],
        backing: stored("minions"),
        subresources: &[
            Subresource::Other {
                name: "proxy",
                kind: ("", "v1", "NodeProxyOptions"),
                verbs: &["create", "delete", "get", "patch", "update"],
            },
            Subresource::Status,
        ],
        ..CORE
    })
};

fn unschedulable(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
}

fn info<'a>(node: &'a Node, field: fn(&'a NodeSystemInfo) -> &'a String) -> &'a str {
    node.status.as_ref().and_then(|status| status.node_info.as_ref()).map_or("", |info| field(info))
}

fn or_unknown(node: &Node, field: fn(&NodeSystemInfo) -> &String) -> Cell {
    let value = info(node, field);
    Cell::Text(if value.is_empty() { "<unknown>".to_owned() } else { value.to_owned() })
}

fn status(node: &Node) -> String {
    let conditions = node.status.as_ref().map_or(&[][..], |status| list(&status.conditions));
    let ready = conditions.iter().rfind(|condition| condition.type_ == "Ready");
    let status = match ready {
        None => "Unknown",
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
    };
    if unschedulable(node) { format!("{status},SchedulingDisabled") } else { status.to_owned() }
}

fn roles(node: &Node) -> String {
    let role = |(key, value): (&String, &String)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        None if key == "kubernetes.io/role" && !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    let roles: BTreeSet<String> = entries(&node.metadata.labels).filter_map(role).collect();
    if roles.is_empty() { NONE.to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address(node: &Node, wanted: &str) -> String {
    let addresses = node.status.as_ref().map_or(&[][..], |status| list(&status.addresses));
    let found = addresses.iter().find(|address| address.type_ == wanted);
    found.map_or_else(|| NONE.to_owned(), |address| address.address.clone())
}

/// `podCIDR` and the first of `podCIDRs` are one field under two names; the older name wins where they differ.
fn default(node: &mut Node, _: &Rules<'_>) {
    if let Some(spec) = &mut node.spec {
        let single = text(&spec.pod_cidr).to_owned();
        let first = list(&spec.pod_cidrs).first().cloned().unwrap_or_default();
        if !single.is_empty() && single != first {
            spec.pod_cidrs = Some(vec![single]);
        } else if single.is_empty() && !first.is_empty() {
            spec.pod_cidr = Some(first);
        }
    }
    if let Some(status) = &mut node.status {
        if status.allocatable.is_none() && status.capacity.is_some() {
            status.allocatable.clone_from(&status.capacity);
        }
        for quantities in [&mut status.capacity, &mut status.allocatable] {
            resources::round_up(quantities);
        }
    }
}

fn reset(new: &mut Node, old: Option<&Node>, writer: Writer, _: &Rules<'_>) {
    let Some(old) = old else { return };
    if writer == Writer::Status {
        new.spec.clone_from(&old.spec);
    } else {
        new.status.clone_from(&old.status);
    }
}

fn validate(new: &Node, old: Option<&Node>, writer: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let spec = Path::new("spec");
    if let Some(new_spec) = &new.spec {
        // Upstream reports taints as if they were metadata; clients have seen it so for ten years.
        validate_taints(list(&new_spec.taints), &Path::new("metadata").child("taints"), faults);
        if writer != Writer::Status {
            validate_pod_cidrs(list(&new_spec.pod_cidrs), &spec.child("podCIDRs"), faults);
        }
    }
    if let Some(status) = &new.status {
        let path = Path::new("status");
        validate_quantities(&status.capacity, &path.child("capacity"), faults);
        validate_quantities(&status.allocatable, &path.child("allocatable"), faults);
    }
    if let Some(old) = old {
        validate_update(new, old, faults);
    }
}

fn validate_quantities(quantities: &Option<BTreeMap<String, Quantity>>, path: &Path<'_>, faults: &mut FieldErrors) {
    for (resource, quantity) in entries(quantities) {
        resources::validate_quantity(resource, quantity, &path.child(resource), faults);
    }
}

fn validate_taints(taints: &[Taint], path: &Path<'_>, faults: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        each_invalid(faults, &path.child("key"), &taint.key, names::qualified(&taint.key));
        let value = text(&taint.value);
        let value_faults = names::label_value(value);
        if !value_faults.is_empty() {
            faults.invalid(&path.child("value"), value, value_faults.join(";"));
        }
        tolerations::validate_effect(&taint.effect, &path.child("effect"), faults);
        if !seen.insert((&taint.key, &taint.effect)) {
            duplicate_because(faults, &path, taint, "taints must be unique by key and effect pair");
        }
    }
}

fn validate_pod_cidrs(cidrs: &[String], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, cidr) in cidrs.iter().enumerate() {
        names::check_cidr(faults, &path.index(index), cidr);
    }
    let families: BTreeSet<bool> = cidrs.iter().map(|cidr| cidr.contains(':')).collect();
    if cidrs.len() > 2 || (cidrs.len() == 2 && families.len() < 2) {
        faults.invalid(path, cidrs, "may specify no more than one CIDR for each IP family");
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        if cidrs[..index].contains(cidr) {
            faults.duplicate(&path.index(index), cidr);
        }
    }
}

fn validate_update(new: &Node, old: &Node, faults: &mut FieldErrors) {
    let (spec, status) = (Path::new("spec"), Path::new("status"));
    let addresses = new.status.as_ref().map_or(&[][..], |status| list(&status.addresses));
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            faults.duplicate(&status.child("addresses").index(index), address);
        }
    }
    let (new_spec, old_spec) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let old_cidrs = list(&old_spec.pod_cidrs);
    if !old_cidrs.is_empty() && old_cidrs != list(&new_spec.pod_cidrs) {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        faults.forbidden(&spec.child("podCIDRs"), why);
    }
    let old_provider = text(&old_spec.provider_id);
    if !old_provider.is_empty() && old_provider != text(&new_spec.provider_id) {
        let why = "node updates may not change providerID except from \"\" to valid";
        faults.forbidden(&spec.child("providerID"), why);
    }
    if text(&new_spec.external_id) != text(&old_spec.external_id) {
        faults.forbidden(&spec.child("externalID"), "may not be updated");
    }
}

fn warnings(new: &Node, _: Option<&Node>) -> Vec<String> {
    let Some(spec) = &new.spec else { return Vec::new() };
    let mut warnings = Vec::new();
    if spec.config_source.is_some() {
        warnings.push("spec.configSource: the feature is removed".to_owned());
    }
    if !text(&spec.external_id).is_empty() {
        warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    warnings
}
