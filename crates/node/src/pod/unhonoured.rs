//! Fields that this agent does not honour yet: a pod that uses one is refused by the field's name, never half run.
//!
//! The table may only shrink. `ARCHITECTURE.md` names it.

use api::value::{Value, to_value};
use k8s_openapi::api::core::v1::Pod;

/// Paths of fields that are not honoured, those of `spec.containers` for init containers as well, `*` for every item of a list. A field counts as used when it is present and is
/// neither false, zero, empty nor the value that stands behind it here; with `true` there, false is a use.
pub const UNHONOURED: &[(&str, Option<&str>)] = &[
    ("spec.containers.*.resources.claims", None),
    ("spec.containers.*.volumeDevices", None),
    ("spec.resourceClaims", None),
    ("spec.volumes.*.awsElasticBlockStore", None),
    ("spec.volumes.*.azureDisk", None),
    ("spec.volumes.*.azureFile", None),
    ("spec.volumes.*.cephfs", None),
    ("spec.volumes.*.cinder", None),
    ("spec.volumes.*.csi", None),
    ("spec.volumes.*.ephemeral", None),
    ("spec.volumes.*.fc", None),
    ("spec.volumes.*.flexVolume", None),
    ("spec.volumes.*.flocker", None),
    ("spec.volumes.*.gcePersistentDisk", None),
    ("spec.volumes.*.gitRepo", None),
    ("spec.volumes.*.glusterfs", None),
    ("spec.volumes.*.iscsi", None),
    ("spec.volumes.*.nfs", None),
    ("spec.volumes.*.persistentVolumeClaim", None),
    ("spec.volumes.*.photonPersistentDisk", None),
    ("spec.volumes.*.portworxVolume", None),
    ("spec.volumes.*.quobyte", None),
    ("spec.volumes.*.rbd", None),
    ("spec.volumes.*.scaleIO", None),
    ("spec.volumes.*.storageos", None),
    ("spec.volumes.*.vsphereVolume", None),
];

/// The paths of the fields that `pod` uses although they are not honoured.
pub fn used(pod: &Pod) -> Vec<String> {
    let tree = to_value(pod).unwrap_or_default();
    let mut found = Vec::new();
    for (path, harmless) in UNHONOURED {
        for path in [Some((*path).to_owned()), of_init_containers(path)].into_iter().flatten() {
            let segments: Vec<&str> = path.split('.').collect();
            walk(&tree, &segments, String::new(), *harmless, &mut found);
        }
    }
    found
}

/// What each ephemeral container uses although it is not honoured: its name and the paths.
pub fn used_by_ephemeral(pod: &Pod) -> Vec<(String, Vec<String>)> {
    let containers = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
    let found = containers.iter().enumerate().map(|(index, container)| {
        let tree = to_value(container).unwrap_or_default();
        let mut found = Vec::new();
        for (path, harmless) in UNHONOURED {
            if let Some(rest) = path.strip_prefix("spec.containers.*.") {
                let segments: Vec<&str> = rest.split('.').collect();
                walk(&tree, &segments, format!("spec.ephemeralContainers[{index}]"), *harmless, &mut found);
            }
        }
        (container.name.clone(), found)
    });
    found.filter(|(_, fields)| !fields.is_empty()).collect()
}

/// The same field of init containers.
fn of_init_containers(path: &str) -> Option<String> {
    path.strip_prefix("spec.containers.").map(|rest| format!("spec.initContainers.{rest}"))
}

fn walk(value: &Value, segments: &[&str], path: String, harmless: Option<&str>, found: &mut Vec<String>) {
    let Some((first, rest)) = segments.split_first() else {
        if says_something(value, harmless) {
            found.push(path);
        }
        return;
    };
    if *first == "*" {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            walk(item, rest, format!("{path}[{index}]"), harmless, found);
        }
    } else if let Some(inner) = value.get(first) {
        let path = if path.is_empty() { (*first).to_owned() } else { format!("{path}.{first}") };
        walk(inner, rest, path, harmless, found);
    }
}

fn says_something(value: &Value, harmless: Option<&str>) -> bool {
    match value {
        Value::Null | Value::Int(0) => false,
        Value::Bool(value) => *value != (harmless == Some("true")),
        Value::Array(items) => !items.is_empty(),
        other => match other.as_str() {
            Some(text) => !text.is_empty() && harmless != Some(text),
            None => true,
        },
    }
}

#[cfg(test)]
mod honoured;
#[cfg(test)]
mod tests;
