//! Rules for Windows pods. None runs here; objects of mixed clusters name their options.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{PodSpec, SecurityContext, WindowsSecurityContextOptions};

use crate::absent::list;
use crate::faults::each_invalid;
use crate::names;

const CREDENTIAL_BYTES_MAX: usize = 64 * 1024;
const DOMAIN_BYTES_MAX: usize = 256;
const USER_BYTES_MAX: usize = 104;

/// Judges `windowsOptions`.
pub(crate) fn validate(options: &WindowsSecurityContextOptions, path: &Path<'_>, faults: &mut FieldErrors) {
    if let Some(name) = &options.gmsa_credential_spec_name {
        each_invalid(faults, &path.child("gmsaCredentialSpecName"), name, names::dns_subdomain(name));
    }
    if let Some(credential) = &options.gmsa_credential_spec {
        let path = path.child("gmsaCredentialSpec");
        if credential.is_empty() {
            faults.invalid(&path, credential, "gmsaCredentialSpec cannot be an empty string");
        } else if credential.len() > CREDENTIAL_BYTES_MAX {
            faults.invalid(&path, credential, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(name) = &options.run_as_user_name {
        for fault in user_name_faults(name) {
            faults.invalid(&path.child("runAsUserName"), name, format!("runAsUserName{fault}"));
        }
    }
}

/// Faults of `DOMAIN\user` or `user`.
fn user_name_faults(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec![" cannot be an empty string".to_owned()];
    }
    if name.contains(|character: char| character.is_ascii_control()) {
        return vec![" cannot contain control characters".to_owned()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec![" cannot contain more than one backslash".to_owned()],
    };
    let mut faults = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_BYTES_MAX) {
        faults.push(format!("'s Domain length must be under {DOMAIN_BYTES_MAX} characters"));
    }
    if domain.is_some_and(|domain| !is_net_bios_name(domain) && !domain.split('.').all(is_dns_label)) {
        faults.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        faults.push("'s User cannot be empty".to_owned());
    } else if user.len() > USER_BYTES_MAX {
        faults.push(format!("'s User length must not be longer than {USER_BYTES_MAX} characters"));
    }
    if !user.is_empty() && user.bytes().all(|byte| byte == b'.' || byte == b' ') {
        faults.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|character| r#""/\:;|=,+*?<>@[]"#.contains(character)) {
        faults.push(r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.to_owned());
    }
    faults
}

fn is_net_bios_name(domain: &str) -> bool {
    let banned = |character| r#"\/:*?"<>|"#.contains(character);
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(banned)
}

fn is_dns_label(label: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = label.as_bytes();
    bytes.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Every container's context with the name of its list and its place there.
fn contexts(spec: &PodSpec) -> impl Iterator<Item = (&'static str, usize, Option<&SecurityContext>)> {
    let init = list(&spec.init_containers).iter().enumerate();
    let ephemeral = list(&spec.ephemeral_containers).iter().enumerate();
    let init = init.map(|(index, container)| ("initContainers", index, container.security_context.as_ref()));
    let main = spec.containers.iter().enumerate();
    let main = main.map(|(index, container)| ("containers", index, container.security_context.as_ref()));
    init.chain(main)
        .chain(ephemeral.map(|(index, container)| ("ephemeralContainers", index, container.security_context.as_ref())))
}

/// Windows options in a pod that says it is for Linux.
pub(crate) fn forbid_in_linux_pod(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let why = "windows options cannot be set for a linux pod";
    if spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
        faults.forbidden(&path.child("securityContext").child("windowsOptions"), why);
    }
    for (field, index, context) in contexts(spec) {
        if context.is_some_and(|context| context.windows_options.is_some()) {
            faults.forbidden(&path.child(field).index(index).child("securityContext").child("windowsOptions"), why);
        }
    }
}

/// Linux fields in a pod that says it is for Windows.
pub(crate) fn forbid_linux_fields(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let why = "cannot be set for a windows pod";
    let context = spec.security_context.clone().unwrap_or_default();
    for (field, set) in [
        ("securityContext.appArmorProfile", context.app_armor_profile.is_some()),
        ("securityContext.seLinuxOptions", context.se_linux_options.is_some()),
        ("hostUsers", spec.host_users.is_some()),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        ("securityContext.seccompProfile", context.seccomp_profile.is_some()),
        ("securityContext.fsGroup", context.fs_group.is_some()),
        ("securityContext.fsGroupChangePolicy", context.fs_group_change_policy.is_some()),
        ("securityContext.sysctls", !list(&context.sysctls).is_empty()),
        ("shareProcessNamespace", spec.share_process_namespace.is_some()),
        ("securityContext.runAsUser", context.run_as_user.is_some()),
        ("securityContext.runAsGroup", context.run_as_group.is_some()),
        ("securityContext.supplementalGroups", context.supplemental_groups.is_some()),
        ("securityContext.supplementalGroupsPolicy", context.supplemental_groups_policy.is_some()),
        ("securityContext.seLinuxChangePolicy", context.se_linux_change_policy.is_some()),
        ("resources", spec.resources.is_some()),
    ] {
        if set {
            faults.forbidden(&path.child(field), why);
        }
    }
    for (list_field, index, context) in contexts(spec) {
        let Some(context) = context else { continue };
        let list_path = path.child(list_field);
        let container_path = list_path.index(index);
        for field in linux_fields(context) {
            faults.forbidden(&container_path.child("securityContext").child(field), why);
        }
    }
}

fn linux_fields(context: &SecurityContext) -> impl Iterator<Item = &'static str> {
    [
        ("appArmorProfile", context.app_armor_profile.is_some()),
        ("seLinuxOptions", context.se_linux_options.is_some()),
        ("seccompProfile", context.seccomp_profile.is_some()),
        ("capabilities", context.capabilities.is_some()),
        ("readOnlyRootFilesystem", context.read_only_root_filesystem.is_some()),
        ("privileged", context.privileged.is_some()),
        ("allowPrivilegeEscalation", context.allow_privilege_escalation.is_some()),
        ("procMount", context.proc_mount.is_some()),
        ("runAsUser", context.run_as_user.is_some()),
        ("runAsGroup", context.run_as_group.is_some()),
    ]
    .into_iter()
    .filter_map(|(field, set)| set.then_some(field))
}

/// Pods with HostProcess containers have no others, and use the host's network.
pub(crate) fn validate_host_process(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.windows_options.as_ref()?.host_process);
    let (mut containers, mut host_process) = (0, 0);
    for (field, index, context) in contexts(spec) {
        containers += 1;
        let own = context.and_then(|context| context.windows_options.as_ref()?.host_process);
        if let (Some(of_pod), Some(own)) = (of_pod, own)
            && of_pod != own
        {
            let list_path = path.child(field);
            let container_path = list_path.index(index);
            let why = format!("pod hostProcess value must be identical if both are specified, was {of_pod}");
            faults.invalid(&container_path.child("securityContext.windowsOptions.hostProcess"), &own, why);
        }
        host_process += usize::from(own.or(of_pod) == Some(true));
    }
    if host_process == 0 {
        return;
    }
    if host_process != containers {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        faults.invalid(path, "", why);
    }
    if spec.host_network != Some(true) {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        faults.invalid(&path.child("hostNetwork"), &false, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_have_a_domain() {
        let check = |name: &str, expected: &[&str]| assert_eq!(user_name_faults(name), expected, "{name}");
        check("Administrator", &[]);
        check(r"example.com\user", &[]);
        check("", &[" cannot be an empty string"]);
        check(r"a\b\c", &[" cannot contain more than one backslash"]);
        check(r"a\", &["'s User cannot be empty"]);
        check("..", &["'s User cannot contain only periods or spaces"]);
        check("a+b", &[r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#]);
    }
}
