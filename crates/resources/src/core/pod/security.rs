//! Rules for what containers may do on their machine.

use std::collections::BTreeSet;

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};

use crate::absent::list;
use crate::core::pod::{paths, windows};
use crate::faults::{choice, each_invalid, not_supported_in_order};
use crate::names;

/// Longest path on Linux, less the final NUL.
const PROFILE_BYTES_MAX: usize = 4095;
const SYSCTL_BYTES_MAX: usize = 253;
const SYSCTL_FORMAT: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

/// Judges the pod's context.
pub(crate) fn validate_pod(context: &PodSecurityContext, spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    for (field, id) in
        [("fsGroup", context.fs_group), ("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)]
    {
        if let Some(id) = id {
            each_invalid(faults, &path.child(field), &id, names::id_number(id));
        }
    }
    let groups = path.child("supplementalGroups");
    for (index, id) in list(&context.supplemental_groups).iter().enumerate() {
        each_invalid(faults, &groups.index(index), id, names::id_number(*id));
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.invalid(&path.child("shareProcessNamespace"), &true, why);
    }
    validate_sysctls(context, spec, &path.child("sysctls"), faults);
    if let Some(policy) = &context.fs_group_change_policy {
        choice(faults, &path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    if let Some(profile) = &context.seccomp_profile {
        validate_seccomp(profile, &path.child("seccompProfile"), faults);
    }
    if let Some(options) = &context.windows_options {
        windows::validate(options, &path.child("windowsOptions"), faults);
    }
    if let Some(profile) = &context.app_armor_profile {
        validate_app_armor(profile, &path.child("appArmorProfile"), faults);
    }
    if let Some(policy) = &context.supplemental_groups_policy {
        choice(faults, &path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if let Some(policy) = &context.se_linux_change_policy {
        choice(faults, &path.child("seLinuxChangePolicy"), policy, &["MountOption", "Recursive"]);
    }
}

fn validate_sysctls(context: &PodSecurityContext, spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in list(&context.sysctls).iter().enumerate() {
        let index_path = path.index(index);
        let name_path = index_path.child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            faults.required(&name_path, "");
        } else if !is_sysctl(name) {
            let why = format!("must have at most {SYSCTL_BYTES_MAX} characters and match regex {SYSCTL_FORMAT}");
            faults.invalid(&name_path, name, why);
        } else if seen.contains(name) {
            faults.duplicate(&name_path, name);
        }
        seen.insert(name);
        let dotted = name.replace('/', ".");
        let ipc =
            ["kernel.sem", "kernel.msg", "kernel.shm", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix));
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            faults.invalid(&name_path, name, "may not be specified when 'hostNetwork' is true");
        } else if spec.host_ipc == Some(true) && ipc {
            faults.invalid(&name_path, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let segment = |segment: &str| {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = segment.as_bytes();
        bytes.first().is_some_and(|byte| good(*byte))
            && bytes.last().is_some_and(|byte| good(*byte))
            && bytes.iter().all(|byte| good(*byte) || b"-_".contains(byte))
    };
    name.len() <= SYSCTL_BYTES_MAX && name.split(['.', '/']).all(segment)
}

/// Judges one container's context.
pub(crate) fn validate_container(
    context: &SecurityContext,
    host_users: bool,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    for (field, id) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        if let Some(id) = id {
            each_invalid(faults, &path.child(field), &id, names::id_number(id));
        }
    }
    if let Some(mount) = &context.proc_mount {
        let path = path.child("procMount");
        choice(faults, &path, mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            faults.invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    if let Some(profile) = &context.seccomp_profile {
        validate_seccomp(profile, &path.child("seccompProfile"), faults);
    }
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            faults.invalid(path, context, why);
        }
        let added = context.capabilities.as_ref().map_or(&[][..], |capabilities| list(&capabilities.add));
        for _ in added.iter().filter(|capability| *capability == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            faults.invalid(path, context, why);
        }
    }
    if let Some(options) = &context.windows_options {
        windows::validate(options, &path.child("windowsOptions"), faults);
    }
    if let Some(profile) = &context.app_armor_profile {
        validate_app_armor(profile, &path.child("appArmorProfile"), faults);
    }
}

fn validate_seccomp(profile: &SeccompProfile, path: &Path<'_>, faults: &mut FieldErrors) {
    if profile.type_.is_empty() {
        faults.required(&path.child("type"), "type is required when seccompProfile is set");
    } else {
        choice(faults, &path.child("type"), &profile.type_, PROFILE_TYPES);
    }
    let file_path = path.child("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (None, true) => faults.required(&file_path, "must be set when seccomp type is Localhost"),
        (Some(file), true) => paths::validate_descending(file, &file_path, faults),
        (Some(_), false) => faults.invalid(&file_path, profile, "can only be set when seccomp type is Localhost"),
        (None, false) => {}
    }
}

fn validate_app_armor(profile: &AppArmorProfile, path: &Path<'_>, faults: &mut FieldErrors) {
    let name_path = path.child("localhostProfile");
    let must_be_set = "must be set when AppArmor type is Localhost";
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => faults.required(&name_path, must_be_set),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                faults.invalid(&name_path, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                faults.required(&name_path, must_be_set);
            }
            if name.len() > PROFILE_BYTES_MAX {
                faults.too_long(&name_path, PROFILE_BYTES_MAX);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            faults.invalid(&name_path, name, "can only be set when AppArmor type is Localhost");
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => faults.required(&path.child("type"), "type is required when appArmorProfile is set"),
        (other, _) => not_supported_in_order(faults, &path.child("type"), other, PROFILE_TYPES),
    }
}

/// A user namespace of the pod's own goes with no other namespace of the host's.
pub(crate) fn validate_host_users(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if spec.host_users != Some(false) {
        return;
    }
    for (field, set) in [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)] {
        if set == Some(true) {
            faults.forbidden(&path.child(field), "when `pod.Spec.HostUsers` is false");
        }
    }
    let devices = |devices: &Option<Vec<_>>| !list::<k8s_openapi::api::core::v1::VolumeDevice>(devices).is_empty();
    for (field, containers) in [("containers", &spec.containers[..]), ("initContainers", list(&spec.init_containers))] {
        let path = path.child(field);
        for (index, _) in containers.iter().enumerate().filter(|(_, container)| devices(&container.volume_devices)) {
            faults.forbidden(&path.index(index).child("volumeDevices"), "when `pod.Spec.HostUsers` is false");
        }
    }
}

/// Fields of one operating system make no sense in a pod of the other.
pub(crate) fn validate_os(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let Some(os) = &spec.os else { return };
    let os_path = path.child("os");
    match os.name.as_str() {
        "" => faults.required(&os_path.child("name"), "cannot be empty"),
        "linux" => windows::forbid_in_linux_pod(spec, path, faults),
        "windows" => windows::forbid_linux_fields(spec, path, faults),
        other => not_supported_in_order(faults, &os_path, other, &["linux", "windows"]),
    }
}
