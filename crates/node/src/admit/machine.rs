//! Whether the machine can do what a pod asks of its kind. Pure.
//!
//! Upstream: the admit handlers for operating systems, kernel parameters and AppArmor, words included.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::Refusal;
use crate::pod::create::NodeFacts;
use crate::pod::{containers, spec};

/// Kernel parameters that concern nobody but the pod that sets them. Upstream: `safeSysctls`.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Kernel parameters of the namespace for interprocess communication; those of the network all begin with `net.`.
const OF_IPC: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

/// Decides.
///
/// # Errors
/// Why the pod is refused.
pub fn admit(pod: &Pod, node: &NodeFacts) -> Result<(), Refusal> {
    let spec = spec(pod);
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(Refusal { reason: "PodOSNotSupported", message: message.into() });
    }
    if let Some(why) = forbidden_sysctl(&spec, node) {
        return Err(Refusal { reason: "SysctlForbidden", message: format!("forbidden sysctl: {why}") });
    }
    if wants_apparmor(&spec) {
        let why = match node.apparmor {
            true => "profiles are not applied by this node's runtime",
            false => "AppArmor is not enabled on the host",
        };
        return Err(Refusal { reason: "AppArmor", message: format!("Cannot enforce AppArmor: {why}") });
    }
    Ok(())
}

fn forbidden_sysctl(spec: &PodSpec, node: &NodeFacts) -> Option<String> {
    let sysctls = spec.security_context.as_ref().and_then(|security| security.sysctls.as_ref());
    let mut names = sysctls.into_iter().flatten().map(|sysctl| dotted(&sysctl.name));
    names.find_map(|name| {
        let shown = api::field::shown(&name);
        if !is_allowed(&name, &node.allowed_unsafe_sysctls) {
            return Some(format!("{shown} not allowlisted"));
        }
        let of_ipc = OF_IPC.iter().any(|prefix| name.starts_with(prefix));
        match () {
            () if of_ipc && spec.host_ipc == Some(true) => Some(format!("{shown} not allowed with host ipc enabled")),
            () if name.starts_with("net.") && spec.host_network == Some(true) => {
                Some(format!("{shown} not allowed with host net enabled"))
            }
            () => None,
        }
    })
}

fn is_allowed(name: &str, unsafe_ones: &[String]) -> bool {
    let fits = |pattern: &String| {
        let pattern = dotted(pattern);
        match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        }
    };
    SAFE_SYSCTLS.contains(&name) || unsafe_ones.iter().any(fits)
}

/// Whether a kernel parameter is known to differ by namespace; others concern the whole machine, and no pod may set them.
pub fn is_namespaced(pattern: &str) -> bool {
    let name = dotted(pattern);
    name.starts_with("net.") || OF_IPC.iter().any(|prefix| name.starts_with(prefix))
}

/// The parameter's name with dots between its parts, whichever way it was written. Upstream:
/// `ConvertSysctlVariableToDotsSeparator`.
fn dotted(name: &str) -> String {
    let first = name.find(['.', '/']);
    if first.is_none_or(|at| name[at..].starts_with('.')) {
        return name.to_owned();
    }
    let turn = |letter| match letter {
        '.' => '/',
        '/' => '.',
        letter => letter,
    };
    name.chars().map(turn).collect()
}

fn wants_apparmor(spec: &PodSpec) -> bool {
    let of_pod = spec.security_context.as_ref().and_then(|security| security.app_armor_profile.as_ref());
    let mut profiles = containers(spec)
        .map(|(_, container)| container.security_context.as_ref().and_then(|own| own.app_armor_profile.as_ref()))
        .map(|own| own.or(of_pod));
    profiles.any(|profile| profile.is_some_and(|profile| profile.type_ != "Unconfined"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &str, expected: Option<(&str, &str)>) {
        let pod = serde_json::from_str(&format!(r#"{{"spec":{{"containers":[{{"name":"c"}}],{fields}}}}}"#)).unwrap();
        let node = NodeFacts {
            allowed_unsafe_sysctls: vec!["net.core.somaxconn".into(), "kernel.msg*".into()],
            ..NodeFacts::default()
        };
        let found = admit(&pod, &node).err();
        let found = found.as_ref().map(|refusal| (refusal.reason, refusal.message.as_str()));
        assert_eq!(found, expected, "{fields}");
    }

    #[test]
    fn parameters_are_safe_or_allowed_and_of_the_pods_own_namespaces() {
        let sysctls = |name: &str| format!(r#""securityContext":{{"sysctls":[{{"name":"{name}","value":"1"}}]}}"#);
        let forbidden = |name: &str, why: &str| {
            let message = format!("forbidden sysctl: \"{name}\" {why}");
            check(&sysctls(name), Some(("SysctlForbidden", &message)));
        };
        check(&sysctls("kernel.shm_rmid_forced"), None);
        check(&sysctls("net/ipv4/tcp_syncookies"), None);
        check(&sysctls("net.core.somaxconn"), None);
        check(&sysctls("kernel.msgmax"), None);
        forbidden("kernel.shmmax", "not allowlisted");
        forbidden("vm.swappiness", "not allowlisted");
        let host = format!("{},\"hostIPC\":true", sysctls("kernel.msgmax"));
        check(
            &host,
            Some(("SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowed with host ipc enabled")),
        );
        let host = format!("{},\"hostNetwork\":true", sysctls("net.ipv4.tcp_rmem"));
        let message = "forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowed with host net enabled";
        check(&host, Some(("SysctlForbidden", message)));
        assert!(is_namespaced("net/core/*") && is_namespaced("kernel.sem") && !is_namespaced("vm.swappiness"));
    }

    #[test]
    fn other_systems_and_profiles_that_nothing_enforces_are_refused() {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        check(r#""os":{"name":"windows"}"#, Some(("PodOSNotSupported", message)));
        check(r#""os":{"name":"linux"}"#, None);
        let profile = |kind: &str| format!(r#""securityContext":{{"appArmorProfile":{{"type":"{kind}"}}}}"#);
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        check(&profile("RuntimeDefault"), Some(("AppArmor", message)));
        check(&profile("Unconfined"), None);
    }
}
