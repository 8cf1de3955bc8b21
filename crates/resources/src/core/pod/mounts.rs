//! Rules for volume mounts and block devices of containers.

use std::collections::BTreeMap;

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};

use crate::absent::{list, text};
use crate::core::pod::paths;
use crate::faults::choice;

/// Judges `volumeMounts`. The paths of some faults lack the index, as upstream's do.
pub(crate) fn validate(
    container: &Container,
    volumes: &BTreeMap<&str, &Volume>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let mounts = list(&container.volume_mounts);
    let devices = list(&container.volume_devices);
    for (index, mount) in mounts.iter().enumerate() {
        let index_path = path.index(index);
        let (name_path, mount_path) = (index_path.child("name"), index_path.child("mountPath"));
        if mount.name.is_empty() {
            faults.required(&name_path, "");
        }
        if !volumes.contains_key(mount.name.as_str()) {
            faults.not_found(&name_path, &mount.name);
        }
        if mount.mount_path.is_empty() {
            faults.required(&mount_path, "");
        }
        if mounts[..index].iter().any(|earlier| earlier.mount_path == mount.mount_path) {
            faults.invalid(&mount_path, &mount.mount_path, "must be unique");
        }
        if devices.iter().any(|device| device.name == mount.name) {
            faults.invalid(&name_path, &mount.name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| device.device_path == mount.mount_path) {
            faults.invalid(&mount_path, &mount.mount_path, "must not already exist as a path in volumeDevices");
        }
        validate_sub_path(mount, &index_path, path, faults);
        validate_propagation(mount, container, path, faults);
        validate_recursive_read_only(mount, &path.child("recursiveReadOnly"), faults);
    }
}

fn validate_sub_path(mount: &VolumeMount, index_path: &Path<'_>, path: &Path<'_>, faults: &mut FieldErrors) {
    let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    if !sub_path.is_empty() {
        paths::validate_descending(sub_path, &path.child("subPath"), faults);
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            faults.invalid(&index_path.child("subPathExpr"), expression, why);
        }
        paths::validate_descending(expression, &path.child("subPathExpr"), faults);
    }
}

fn validate_propagation(mount: &VolumeMount, container: &Container, path: &Path<'_>, faults: &mut FieldErrors) {
    let Some(propagation) = &mount.mount_propagation else { return };
    let path = path.child("mountPropagation");
    choice(faults, &path, propagation, &["Bidirectional", "HostToContainer", "None"]);
    let privileged = container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
    if propagation == "Bidirectional" && !privileged {
        faults.forbidden(&path, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn validate_recursive_read_only(mount: &VolumeMount, path: &Path<'_>, faults: &mut FieldErrors) {
    let Some(mode) = &mount.recursive_read_only else { return };
    choice(faults, path, mode, &["Disabled", "Enabled", "IfPossible"]);
    if !["Enabled", "IfPossible"].contains(&mode.as_str()) {
        return;
    }
    if mount.read_only != Some(true) {
        faults.forbidden(path, "may only be specified when readOnly is true");
    }
    if !["", "None"].contains(&text(&mount.mount_propagation)) {
        faults.forbidden(path, "may only be specified when mountPropagation is None or not specified");
    }
}

/// Judges `volumeDevices`.
pub(crate) fn validate_devices(
    container: &Container,
    volumes: &BTreeMap<&str, &Volume>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let mounts = list(&container.volume_mounts);
    let devices = list(&container.volume_devices);
    for (index, device) in devices.iter().enumerate() {
        let path = path.index(index);
        let (name_path, device_path) = (path.child("name"), path.child("devicePath"));
        if device.name.is_empty() {
            faults.required(&name_path, "");
        } else if devices[..index].iter().any(|earlier| earlier.name == device.name) {
            faults.invalid(&name_path, &device.name, "must be unique");
        }
        match volumes.get(device.name.as_str()) {
            None => faults.not_found(&name_path, &device.name),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                faults.invalid(&name_path, &device.name, why);
            }
            Some(_) => {}
        }
        if device.device_path.is_empty() {
            faults.required(&device_path, "");
        }
        if devices[..index].iter().any(|earlier| earlier.device_path == device.device_path) {
            faults.invalid(&device_path, &device.device_path, "must be unique");
        }
        if device.device_path.split('/').any(|element| element == "..") {
            faults.invalid(&device_path, &device.device_path, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|mount| mount.name == device.name) {
            faults.invalid(&name_path, &device.name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount.mount_path == device.device_path) {
            faults.invalid(&device_path, &device.device_path, "must not already exist as a path in volumeMounts");
        }
    }
}
