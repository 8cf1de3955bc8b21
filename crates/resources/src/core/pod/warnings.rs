//! What is legal in a pod and still probably not meant. Upstream: `pkg/api/pod/warnings.go`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::absent::{entries, list, text};
use crate::core::pod::resources;

/// Labels whose beta names have successors.
const RENAMED_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Warnings about a template or pod; `prefix` is its path, such as `spec.template.`.
pub(crate) fn of(meta: &ObjectMeta, spec: &PodSpec, prefix: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let path = format!("{prefix}spec");
    of_labels(spec, &path, &mut warnings);
    of_annotations(meta, prefix, &mut warnings);
    for (index, volume) in list(&spec.volumes).iter().enumerate() {
        of_volume(volume, &format!("{path}.volumes[{index}]"), &mut warnings);
    }
    let secrets = list(&spec.image_pull_secrets);
    for (index, secret) in secrets.iter().enumerate() {
        if secret.name.is_empty() {
            let why = format!("invalid empty name {:?}", secret.name);
            warnings.push(format!("{path}.imagePullSecrets[{index}].name: {why}"));
        } else if secrets[..index].contains(secret) {
            warnings.push(format!("{path}.imagePullSecrets[{index}].name: duplicate name {:?}", secret.name));
        }
    }
    for (field, containers) in [("initContainers", list(&spec.init_containers)), ("containers", &spec.containers[..])] {
        for (index, container) in containers.iter().enumerate() {
            of_container(container, &format!("{path}.{field}[{index}]"), &mut warnings);
        }
    }
    of_host_aliases(spec, &path, &mut warnings);
    of_ports(spec, &path, &mut warnings);
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        let what = "must be >= 0; negative values are invalid and will be treated as 1";
        warnings.push(format!("{path}.terminationGracePeriodSeconds: {what}"));
    }
    warnings
}

fn of_labels(spec: &PodSpec, path: &str, warnings: &mut Vec<String>) {
    let renamed = |key: &str| RENAMED_LABELS.iter().find(|(old, _)| *old == key).map(|(_, new)| *new);
    for (key, _) in entries(&spec.node_selector) {
        if let Some(new) = renamed(key) {
            warnings.push(format!("{path}.nodeSelector[{key}]: deprecated since v1.14; use \"{new}\" instead"));
        }
    }
    for (index, constraint) in list(&spec.topology_spread_constraints).iter().enumerate() {
        let constraint_path = format!("{path}.topologySpreadConstraints[{index}]");
        let key = &constraint.topology_key;
        if let Some(new) = renamed(key) {
            warnings
                .push(format!("{constraint_path}.topologyKey: {key} is deprecated since v1.17; use \"{new}\" instead"));
        }
        if constraint.label_selector.is_none() {
            warnings.push(format!("{constraint_path}.labelSelector: a null labelSelector results in matching no pod"));
        }
    }
}

fn of_annotations(meta: &ObjectMeta, prefix: &str, warnings: &mut Vec<String>) {
    for (key, _) in entries(&meta.annotations) {
        let path = format!("{prefix}metadata.annotations[{key}]");
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            warnings.push(format!("{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
        } else if key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            warnings.push(format!("{path}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
        }
    }
}

fn of_volume(volume: &Volume, path: &str, warnings: &mut Vec<String>) {
    let mut warn = |set: bool, field: &str, what: &str| {
        if set {
            warnings.push(format!("{path}.{field}: {what}"));
        }
    };
    warn(
        volume.photon_persistent_disk.is_some(),
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    );
    warn(volume.git_repo.is_some(), "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+");
    warn(volume.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+");
    warn(volume.flocker.is_some(), "flocker", "deprecated in v1.22, non-functional in v1.25+");
    warn(volume.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+");
    warn(volume.quobyte.is_some(), "quobyte", "deprecated in v1.22, non-functional in v1.25+");
    warn(volume.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+");
    warn(volume.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+");
    warn(volume.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+");
}

fn of_container(container: &Container, path: &str, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, variable) in list(&container.env).iter().enumerate() {
        let refers = text(&variable.value).contains(&format!("$({})", variable.name));
        if !seen.insert(&variable.name) && !refers {
            let what =
                format!("hides previous definition of {:?}, which may be dropped when using apply", variable.name);
            warnings.push(format!("{path}.env[{index}]: {what}"));
        }
    }
    let Some(requirements) = &container.resources else { return };
    for (field, amounts) in [("limits", &requirements.limits), ("requests", &requirements.requests)] {
        for (resource, quantity) in entries(amounts) {
            let amount = resources::amount(quantity);
            let bytes = ["memory", "ephemeral-storage"].contains(&resource.as_str());
            if bytes && amount.milli_value() % 1000 != 0 {
                warnings.push(format!(
                    "{path}.resources.{field}[{resource}]: fractional byte value {:?} is invalid, must be an integer",
                    quantity.0
                ));
            }
        }
    }
}

fn of_host_aliases(spec: &PodSpec, path: &str, warnings: &mut Vec<String>) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, alias) in list(&spec.host_aliases).iter().enumerate() {
        if seen.insert(&alias.ip, index).is_some() {
            warnings.push(format!("{path}.hostAliases[{index}].ip: duplicate ip {:?}", alias.ip));
        }
    }
}

fn of_ports(spec: &PodSpec, path: &str, warnings: &mut Vec<String>) {
    let mut seen: BTreeMap<(i32, &str, i32, &str), String> = BTreeMap::new();
    for (index, container) in spec.containers.iter().enumerate() {
        for (port_index, port) in list(&container.ports).iter().enumerate() {
            let place = format!("{path}.containers[{index}].ports[{port_index}]");
            let key = (port.container_port, text(&port.protocol), port.host_port.unwrap_or(0), text(&port.host_ip));
            if let Some(earlier) = seen.get(&key) {
                warnings.push(format!("{place}: duplicate port definition with {earlier}"));
            } else {
                seen.insert(key, place);
            }
        }
    }
}
