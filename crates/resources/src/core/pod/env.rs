//! Rules for environment variables and for the references they take values from.

use std::collections::BTreeMap;

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector, Volume,
};

use crate::absent::text;
use crate::core::pod::{paths, resources};
use crate::faults::each_invalid;
use crate::names;

/// Fields of the pod that a variable may show.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Resources of a container that may be shown.
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Judges `env`.
pub(crate) fn validate(
    variables: &[EnvVar],
    volumes: &BTreeMap<&str, &Volume>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        if variable.name.is_empty() {
            faults.required(&path.child("name"), "");
        } else {
            each_invalid(faults, &path.child("name"), &variable.name, names::env_var(&variable.name));
        }
        validate_source(variable, volumes, &path.child("valueFrom"), faults);
    }
}

fn validate_source(variable: &EnvVar, volumes: &BTreeMap<&str, &Volume>, path: &Path<'_>, faults: &mut FieldErrors) {
    let Some(source) = &variable.value_from else { return };
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        validate_field(field, FIELDS, &path.child("fieldRef"), faults);
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        validate_resource(resource, Shown::Variable, &path.child("resourceFieldRef"), faults);
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        validate_key(&key.name, &key.key, &path.child("configMapKeyRef"), faults);
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        validate_key(&key.name, &key.key, &path.child("secretKeyRef"), faults);
    }
    if let Some(key) = &source.file_key_ref {
        sources += 1;
        validate_file(key, volumes, &path.child("fileKeyRef"), faults);
    }
    if sources == 0 {
        let why =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        faults.invalid(path, "", why);
    } else if !text(&variable.value).is_empty() {
        faults.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        faults.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn validate_key(name: &str, key: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    each_invalid(faults, &path.child("name"), name, names::dns_subdomain(name));
    if key.is_empty() {
        faults.required(&path.child("key"), "");
    } else {
        each_invalid(faults, &path.child("key"), key, names::config_key(key));
    }
}

fn validate_file(file: &FileKeySelector, volumes: &BTreeMap<&str, &Volume>, path: &Path<'_>, faults: &mut FieldErrors) {
    if file.key.is_empty() {
        faults.required(&path.child("key"), "");
    } else {
        each_invalid(faults, &path.child("key"), &file.key, names::env_var(&file.key));
    }
    if file.path.is_empty() {
        faults.required(&path.child("path"), "");
    } else {
        paths::validate_local(&file.path, &path.child("path"), faults);
    }
    let volume_path = path.child("volumeName");
    if file.volume_name.is_empty() {
        return faults.required(&volume_path, "");
    }
    match volumes.get(file.volume_name.as_str()) {
        None => faults.not_found(&volume_path, &file.volume_name),
        Some(volume) if volume.empty_dir.is_none() => {
            faults.invalid(&volume_path, &file.volume_name, "referenced volume must be of type emptyDir");
        }
        Some(_) => {}
    }
}

/// Judges a reference to a field of the pod; `metadata.labels['…']` and annotations may be named one by one.
pub(crate) fn validate_field(field: &ObjectFieldSelector, known: &[&str], path: &Path<'_>, faults: &mut FieldErrors) {
    let (version, name) = (text(&field.api_version), field.field_path.as_str());
    if version.is_empty() {
        return faults.required(&path.child("apiVersion"), "");
    }
    if name.is_empty() {
        return faults.required(&path.child("fieldPath"), "");
    }
    let field_path = path.child("fieldPath");
    if version != "v1" {
        return faults.invalid(
            &field_path,
            name,
            format!("error converting fieldPath: unsupported pod version: {version}"),
        );
    }
    match subscripted(name) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            each_invalid(faults, path, &key, names::qualified(&key));
        }
        Some(("metadata.labels", key)) => each_invalid(faults, path, key, names::qualified(key)),
        Some((of, _)) if is_convertible(of) => faults.invalid(path, of, "does not support subscript"),
        None if known.contains(&name) => {}
        None if is_convertible(name) => faults.not_supported(&field_path, name, known),
        _ => {
            let why = format!("error converting fieldPath: field label not supported: {name}");
            faults.invalid(&field_path, name, why);
        }
    }
}

/// `metadata.labels['key']` as its two parts.
fn subscripted(name: &str) -> Option<(&str, &str)> {
    let (of, key) = name.strip_suffix("']")?.split_once("['")?;
    (!of.is_empty()).then_some((of, key))
}

/// The fields that pods have a label for at all, whether or not this kind of reference may use them.
fn is_convertible(name: &str) -> bool {
    let others = [
        "metadata.annotations",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
        "spec.host",
    ];
    FIELDS.contains(&name) || others.contains(&name)
}

/// Where a container's resource is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Variable,
    /// A file has to name the container.
    File,
}

/// Judges a reference to a container's resource.
pub(crate) fn validate_resource(
    resource: &ResourceFieldSelector,
    shown: Shown,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let name = resource.resource.as_str();
    let huge_pages = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if shown == Shown::File && text(&resource.container_name).is_empty() {
        faults.required(&path.child("containerName"), "");
    } else if name.is_empty() {
        faults.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&name) && !huge_pages {
        faults.not_supported(&path.child("resource"), name, RESOURCES);
    }
    let Some(divisor) = resource.divisor.as_ref().map(resources::amount).filter(|divisor| !divisor.is_zero()) else {
        return;
    };
    let (good, of) = match name {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"][..], "cpu"),
        "limits.memory" | "requests.memory" => (BYTE_DIVISORS, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (BYTE_DIVISORS, "local ephemeral storage"),
        _ if huge_pages => (BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !good.contains(&divisor.to_string().as_str()) {
        let list = if of == "cpu" { "1m and 1".to_owned() } else { good.join(", ") };
        let why = format!("only divisor's values {list} are supported with the {of} resource");
        faults.invalid(&path.child("divisor"), name, why);
    }
}

/// Judges `envFrom`.
pub(crate) fn validate_from(sources: &[EnvFromSource], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, source) in sources.iter().enumerate() {
        let index_path = path.index(index);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            each_invalid(faults, &index_path.child("prefix"), prefix, names::env_var(prefix));
        }
        let config_map = source.config_map_ref.as_ref().map(|config_map| ("configMapRef", &config_map.name));
        let secret = source.secret_ref.as_ref().map(|secret| ("secretRef", &secret.name));
        for (field, name) in [config_map, secret].into_iter().flatten() {
            let path = index_path.child(field);
            if name.is_empty() {
                faults.required(&path.child("name"), "");
            } else {
                each_invalid(faults, &path.child("name"), name, names::subdomain_name(name, true));
            }
        }
        match (config_map, secret) {
            (None, None) => faults.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            (Some(_), Some(_)) => faults.invalid(path, "", "may not have more than one field specified at a time"),
            _ => {}
        }
    }
}
