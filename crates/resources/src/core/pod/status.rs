//! Rules for what a node reports about its pods.

use std::collections::BTreeSet;

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};

use crate::absent::{list, text};
use crate::core::pod::{is_sidecar, update};
use crate::faults::{each_invalid, immutable};
use crate::names;

/// Judges an update of the status.
pub(crate) fn validate(new: &Pod, old: &Pod, faults: &mut FieldErrors) {
    let path = Path::new("status");
    let (new_status, old_status) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
    let metadata = Path::new("metadata");
    let conditions = metadata.child("conditions");
    for (index, condition) in list(&new_status.conditions).iter().enumerate() {
        if !["PodScheduled", "Ready", "Initialized"].contains(&condition.type_.as_str()) {
            let type_ = &condition.type_;
            each_invalid(faults, &conditions.index(index).child("Type"), type_, names::qualified(type_));
        }
    }
    if update::node_changed(new, old) {
        faults.forbidden(&path.child("nodeName"), "may not be changed directly");
    }
    let nominated = text(&new_status.nominated_node_name);
    if !nominated.is_empty() && nominated != text(&old_status.nominated_node_name) {
        each_invalid(faults, &path.child("nominatedNodeName"), nominated, names::dns_subdomain(nominated));
    }
    immutable(faults, &path.child("qosClass"), &text(&new_status.qos_class), &text(&old_status.qos_class));
    validate_transitions(&new_status, &old_status, old, &path, faults);
    validate_claims(&new_status, new, &path.child("resourceClaimStatuses"), faults);
    let pod_ips: Vec<&str> = list(&new_status.pod_ips).iter().map(|address| address.ip.as_str()).collect();
    validate_addresses(&pod_ips, &path.child("podIPs"), faults);
    let host_ips: Vec<&str> = list(&new_status.host_ips).iter().map(|address| address.ip.as_str()).collect();
    let host_path = path.child("hostIPs");
    if host_ips.first().is_some_and(|first| *first != text(&new_status.host_ip)) {
        faults.invalid(&host_path.index(0).child("ip"), host_ips[0], "must be equal to `hostIP`");
    }
    validate_addresses(&host_ips, &host_path, faults);
}

/// A container that ended for good stays ended.
fn validate_transitions(new: &PodStatus, old: &PodStatus, pod: &Pod, path: &Path<'_>, faults: &mut FieldErrors) {
    let spec = pod.spec.clone().unwrap_or_default();
    let policy = text(&spec.restart_policy);
    let init = list(&spec.init_containers);
    // One of them may have all started anew, however they ended. Upstream: `AllContainersCouldRestart`.
    let rules = init.iter().chain(&spec.containers).flat_map(|container| list(&container.restart_policy_rules));
    let all_may_restart = rules.into_iter().any(|rule| rule.action == "RestartAllContainers");
    for (field, new, old, containers, policy) in [
        ("containerStatuses", &new.container_statuses, &old.container_statuses, &spec.containers[..], policy),
        ("initContainerStatuses", &new.init_container_statuses, &old.init_container_statuses, init, policy),
        (
            "ephemeralContainerStatuses",
            &new.ephemeral_container_statuses,
            &old.ephemeral_container_statuses,
            &[][..],
            "Never",
        ),
    ] {
        let path = path.child(field);
        if all_may_restart && !containers.is_empty() {
            continue;
        }
        for (index, status) in list(old).iter().enumerate() {
            let container = containers.iter().find(|container| container.name == status.name);
            let revived = list(new).iter().any(|new| new.name == status.name && exit_code(new).is_none());
            if revived && stays_ended(status, container, policy) {
                let why = "may not be transitioned to non-terminated state";
                faults.forbidden(&path.index(index).child("state"), why);
            }
        }
    }
}

fn exit_code(status: &ContainerStatus) -> Option<i32> {
    status.state.as_ref().and_then(|state| Some(state.terminated.as_ref()?.exit_code))
}

fn stays_ended(status: &ContainerStatus, container: Option<&Container>, pod_policy: &str) -> bool {
    let Some(code) = exit_code(status) else { return false };
    if container.is_some_and(|container| is_sidecar(container) || !list(&container.restart_policy_rules).is_empty()) {
        return false;
    }
    let own = container.and_then(|container| container.restart_policy.as_deref());
    match own.unwrap_or(pod_policy) {
        "Always" => false,
        "OnFailure" => code == 0,
        _ => true,
    }
}

fn validate_claims(status: &PodStatus, pod: &Pod, path: &Path<'_>, faults: &mut FieldErrors) {
    let claims = pod.spec.as_ref().map_or(&[][..], |spec| list(&spec.resource_claims));
    let mut seen = BTreeSet::new();
    for (index, status) in list(&status.resource_claim_statuses).iter().enumerate() {
        let index_path = path.index(index);
        let path = index_path.child("name");
        if !claims.iter().any(|claim| claim.name == status.name) {
            faults.invalid(&path, &status.name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if !seen.insert(&status.name) {
            faults.duplicate(&path, &status.name);
        }
        if let Some(name) = &status.resource_claim_name {
            each_invalid(faults, &path, name, names::dns_subdomain(name));
        }
    }
}

fn validate_addresses(addresses: &[&str], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, address) in addresses.iter().enumerate() {
        names::check_ip(faults, &path.index(index), address);
    }
    let families: BTreeSet<bool> = addresses.iter().map(|address| address.contains(':')).collect();
    if addresses.len() > 2 || (addresses.len() == 2 && families.len() < 2) {
        faults.invalid(path, addresses, "may specify no more than one IP for each IP family");
    }
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            faults.duplicate(&path.index(index), address);
        }
    }
}
