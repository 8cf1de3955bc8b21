//! Rules for a pod's or a template's spec as a whole.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    PodReadinessGate, PodResourceClaim, PodSchedulingGate, PodSpec, ResourceRequirements,
};

use crate::absent::{list, text};
use crate::core::pod::containers::{self, Surroundings};
use crate::core::pod::{affinity, dns, resources, security, spread, tolerations, volumes, windows};
use crate::faults::{each_invalid, not_supported_in_order, required_choice};
use crate::{meta, names};

/// Whether the spec is a pod's or that of pods to come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder<'a> {
    /// The pod's name, which volumes may become part of.
    Pod(&'a str),
    Template,
}

/// Judges the spec.
pub(crate) fn validate(spec: &PodSpec, holder: Holder<'_>, path: &Path<'_>, faults: &mut FieldErrors) {
    if spec.termination_grace_period_seconds.is_none() {
        faults.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let pod_name = if let Holder::Pod(name) = holder { name } else { "" };
    let claims = list(&spec.resource_claims);
    let around = Surroundings {
        volumes: volumes::validate(list(&spec.volumes), pod_name, &path.child("volumes"), faults),
        claims: claims.iter().map(|claim| claim.name.as_str()).filter(|name| !name.is_empty()).collect(),
        grace_seconds: spec.termination_grace_period_seconds,
        restart_policy: text(&spec.restart_policy),
        host_users: spec.host_users.unwrap_or(true),
        os: spec.os.as_ref().map_or("", |os| os.name.as_str()),
    };
    validate_claims(claims, &path.child("resourceClaims"), faults);
    containers::validate(spec, &around, &path.child("containers"), faults);
    containers::validate_init(spec, &around, &path.child("initContainers"), faults);
    containers::validate_ephemeral(spec, &around, &path.child("ephemeralContainers"), faults);
    resources::validate_pod(spec, &path.child("resources"), faults);
    validate_host_ports(spec, holder, &path.child("containers"), faults);
    let policies = ["Always", "OnFailure", "Never"];
    required_choice(faults, &path.child("restartPolicy"), text(&spec.restart_policy), &policies);
    dns::validate_policy(spec, path, faults);
    meta::validate_labels(&spec.node_selector, &path.child("nodeSelector"), faults);
    if let Some(context) = &spec.security_context {
        security::validate_pod(context, spec, &path.child("securityContext"), faults);
    }
    if let Some(affinity) = &spec.affinity {
        affinity::validate(affinity, &path.child("affinity"), faults);
    }
    dns::validate_config(spec, path, faults);
    validate_readiness_gates(list(&spec.readiness_gates), &path.child("readinessGates"), faults);
    validate_scheduling_gates(list(&spec.scheduling_gates), &path.child("schedulingGates"), faults);
    spread::validate(list(&spec.topology_spread_constraints), &path.child("topologySpreadConstraints"), faults);
    windows::validate_host_process(spec, path, faults);
    security::validate_host_users(spec, path, faults);
    validate_references(spec, path, faults);
    dns::validate_hostnames(spec, path, faults);
    tolerations::validate(list(&spec.tolerations), &path.child("tolerations"), faults);
    validate_overhead(spec, &path.child("overhead"), faults);
    security::validate_os(spec, path, faults);
}

/// Names of other objects, and the few numbers and words that stand alone.
fn validate_references(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    for (field, name) in [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
    ] {
        let name = text(name);
        if !name.is_empty() {
            each_invalid(faults, &path.child(field), name, names::dns_subdomain(name));
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = names::out_of_range(1, i32::MAX.into());
        faults.invalid(&path.child("activeDeadlineSeconds"), &seconds, why);
    }
    if let Some(name) = &spec.runtime_class_name {
        each_invalid(faults, &path.child("runtimeClassName"), name, names::dns_subdomain(name));
    }
    if let Some(policy) = &spec.preemption_policy {
        required_choice(faults, &path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
}

fn validate_overhead(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if spec.overhead.is_some() {
        let limits = ResourceRequirements { limits: spec.overhead.clone(), ..ResourceRequirements::default() };
        resources::validate_container(&limits, &Default::default(), path, faults);
    }
}

/// On the host's network a container's port is the host's.
fn validate_host_ports(spec: &PodSpec, holder: Holder<'_>, path: &Path<'_>, faults: &mut FieldErrors) {
    if spec.host_network != Some(true) {
        return;
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let index_path = path.index(index);
        let ports = index_path.child("ports");
        for (index, port) in list(&container.ports).iter().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            let said = host_port != 0 || holder != Holder::Template;
            if said && host_port != port.container_port {
                let why = "must match `containerPort` when `hostNetwork` is true";
                faults.invalid(&ports.index(index).child("hostPort"), &host_port, why);
            }
        }
    }
}

fn validate_readiness_gates(gates: &[PodReadinessGate], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, gate) in gates.iter().enumerate() {
        let condition = &gate.condition_type;
        each_invalid(faults, &path.index(index).child("conditionType"), condition, names::qualified(condition));
    }
}

fn validate_scheduling_gates(gates: &[PodSchedulingGate], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, gate) in gates.iter().enumerate() {
        each_invalid(faults, &path.index(index), &gate.name, names::qualified(&gate.name));
        if gates[..index].contains(gate) {
            faults.duplicate(&path.index(index), &gate.name);
        }
    }
}

fn validate_claims(claims: &[PodResourceClaim], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        let name_path = path.child("name");
        if claim.name.is_empty() {
            faults.required(&name_path, "");
        } else if claims[..index].iter().any(|earlier| earlier.name == claim.name) {
            faults.duplicate(&name_path, &claim.name);
        } else {
            each_invalid(faults, &name_path, &claim.name, names::dns_label(&claim.name));
        }
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                faults.invalid(&path, claim, why);
            }
            (None, None) => {
                faults.invalid(&path, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`");
            }
            _ => {}
        }
        for (field, name) in [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ] {
            if let Some(name) = name {
                each_invalid(faults, &path.child(field), name, names::dns_subdomain(name));
            }
        }
    }
}

/// Rules for pods only; templates have always been allowed to break them.
pub(crate) fn validate_only_pod(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if text(&spec.service_account_name).is_empty() {
        forbid_tokens(spec, path, faults);
    }
    for (field, containers) in [("containers", &spec.containers[..]), ("initContainers", list(&spec.init_containers))] {
        let path = path.child(field);
        for (index, container) in containers.iter().enumerate() {
            containers::validate_image_padding(container, &path.index(index), faults);
        }
    }
}

fn forbid_tokens(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let volumes_path = path.child("volumes");
    for (index, volume) in list(&spec.volumes).iter().enumerate() {
        let volume_path = volumes_path.index(index);
        let sources_path = volume_path.child("projected.sources");
        let sources = volume.projected.as_ref().map_or(&[][..], |projected| list(&projected.sources));
        for (index, _) in sources.iter().enumerate().filter(|(_, source)| source.service_account_token.is_some()) {
            let why = "must not be specified when serviceAccountName is not set";
            faults.forbidden(&sources_path.index(index).child("serviceAccountToken"), why);
        }
    }
}

/// Templates of kinds whose pods are kept running.
pub(crate) fn validate_always_running(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let policy = text(&spec.restart_policy);
    if policy != "Always" {
        not_supported_in_order(faults, &path.child("restartPolicy"), policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let why = "activeDeadlineSeconds in ReplicaSet is not Supported";
        faults.forbidden(&path.child("activeDeadlineSeconds"), why);
    }
}
