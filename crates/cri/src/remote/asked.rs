//! What is asked of a runtime, as CRI's messages. Pure.

use super::proto;
use crate::container::{
    ContainerConfig, ContainerFilter, ContainerState, Device, LinuxContainerResources, Mount, MountPropagation,
};
use crate::error::{Error, Result};
use crate::image::{AuthConfig, ImageSpec};
use crate::sandbox::{DnsConfig, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxState, PortMapping};
use crate::security::{
    IdRange, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, RunAs,
    SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy,
};

/// The signals that CRI numbers, from 1.
pub(super) const SIGNALS: [&str; 34] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];
/// The number of `SIGRTMIN`; `SIGRTMIN+1` to `+15` follow, then `SIGRTMAX-14` to `SIGRTMAX`.
pub(super) const RTMIN: i32 = 35;

/// A signal as CRI numbers it; 0 is the image's own.
pub(super) fn signal(name: &str) -> Result<i32> {
    let unknown = || Error::InvalidArgument(format!("unknown signal {name:?}"));
    if name.is_empty() {
        return Ok(0);
    }
    if let Some(index) = SIGNALS.iter().position(|known| *known == name) {
        return Ok(i32::try_from(index).expect("there are 34") + 1);
    }
    let real_time = |rest: &str, sign: char, max: i32| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse().ok().filter(|offset| (1..=max).contains(offset)),
    };
    if let Some(rest) = name.strip_prefix("SIGRTMIN") {
        return real_time(rest, '+', 15).map(|offset| RTMIN + offset).ok_or_else(unknown);
    }
    let rest = name.strip_prefix("SIGRTMAX").ok_or_else(unknown)?;
    real_time(rest, '-', 14).map(|offset| RTMIN + 30 - offset).ok_or_else(unknown)
}

pub(super) fn metadata(asked: &PodSandboxMetadata) -> proto::PodSandboxMetadata {
    let PodSandboxMetadata { name, uid, namespace, attempt } = asked.clone();
    proto::PodSandboxMetadata { name, uid, namespace, attempt }
}

/// A sandbox to make. `unified` says whether the machine has control groups v2, whose files mean nothing elsewhere.
pub(super) fn sandbox(asked: &PodSandboxConfig, unified: bool) -> Result<proto::PodSandboxConfig> {
    let linux = &asked.linux;
    let limits = |limits: &Option<LinuxContainerResources>| limits.as_ref().map(|limits| resources(limits, unified));
    Ok(proto::PodSandboxConfig {
        metadata: Some(metadata(&asked.metadata)),
        hostname: asked.hostname.clone(),
        log_directory: asked.log_directory.clone(),
        dns_config: asked.dns_config.as_ref().map(|dns| {
            let DnsConfig { servers, searches, options } = dns.clone();
            proto::DnsConfig { servers, searches, options }
        }),
        port_mappings: asked.port_mappings.iter().map(port_mapping).collect(),
        labels: asked.labels.clone(),
        annotations: asked.annotations.clone(),
        linux: Some(proto::LinuxPodSandboxConfig {
            cgroup_parent: linux.cgroup_parent.clone(),
            security_context: Some(sandbox_security(&linux.security_context)?),
            sysctls: linux.sysctls.clone(),
            overhead: limits(&linux.overhead),
            resources: limits(&linux.resources),
        }),
    })
}

fn port_mapping(asked: &PortMapping) -> proto::PortMapping {
    proto::PortMapping {
        protocol: asked.protocol as i32,
        container_port: asked.container_port.into(),
        host_port: asked.host_port.into(),
        host_ip: asked.host_ip.clone(),
    }
}

fn sandbox_security(asked: &LinuxSandboxSecurityContext) -> Result<proto::LinuxSandboxSecurityContext> {
    let user = asked.run_as.user.map(number);
    Ok(proto::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(&asked.namespace_options)),
        selinux_options: asked.selinux_options.as_ref().map(selinux),
        // The sandbox's own process: a group without a user is refused by runtimes, and means nothing to it.
        run_as_group: asked.run_as.group.filter(|_| user.is_some()).map(number),
        run_as_user: user,
        supplemental_groups: asked.run_as.supplemental_groups.clone(),
        supplemental_groups_policy: groups_policy(&asked.run_as),
        privileged: asked.privileged,
        seccomp: Some(profile(&asked.seccomp)),
        apparmor: None,
    })
}

fn namespaces(asked: &NamespaceOption) -> proto::NamespaceOption {
    let mode = |mode: &NamespaceMode| match mode {
        NamespaceMode::Pod => 0,
        NamespaceMode::Container => 1,
        NamespaceMode::Node => 2,
        NamespaceMode::Target(_) => 3,
    };
    let target_id = match &asked.pid {
        NamespaceMode::Target(id) => id.clone(),
        _ => String::new(),
    };
    proto::NamespaceOption {
        network: mode(&asked.network),
        pid: mode(&asked.pid),
        ipc: mode(&asked.ipc),
        target_id,
        userns_options: asked.users.map(|range| proto::UserNamespace {
            mode: mode(&NamespaceMode::Pod),
            uids: vec![mapping(range)],
            gids: vec![mapping(range)],
        }),
    }
}

fn mapping(range: IdRange) -> proto::IdMapping {
    proto::IdMapping { host_id: range.first, container_id: 0, length: range.length }
}

fn number(value: i64) -> proto::Int64Value {
    proto::Int64Value { value }
}

fn groups_policy(asked: &RunAs) -> i32 {
    i32::from(asked.supplemental_groups_policy == SupplementalGroupsPolicy::Strict)
}

fn selinux(asked: &SeLinuxOption) -> proto::SeLinuxOption {
    let SeLinuxOption { user, role, selinux_type, level } = asked.clone();
    proto::SeLinuxOption { user, role, kind: selinux_type, level }
}

fn profile(asked: &SecurityProfile) -> proto::SecurityProfile {
    let (kind, localhost_ref) = match asked {
        SecurityProfile::RuntimeDefault => (0, String::new()),
        SecurityProfile::Unconfined => (1, String::new()),
        SecurityProfile::Localhost(path) => (2, path.clone()),
    };
    proto::SecurityProfile { profile_type: kind, localhost_ref }
}

pub(super) fn resources(asked: &LinuxContainerResources, unified: bool) -> proto::LinuxContainerResources {
    let pages = asked.hugepage_limits.iter();
    proto::LinuxContainerResources {
        cpu_period: asked.cpu_period,
        cpu_quota: asked.cpu_quota,
        cpu_shares: asked.cpu_shares,
        memory_limit_in_bytes: asked.memory_limit_in_bytes,
        memory_swap_limit_in_bytes: asked.memory_swap_limit_in_bytes,
        oom_score_adj: asked.oom_score_adj,
        cpuset_cpus: asked.cpuset_cpus.clone(),
        cpuset_mems: asked.cpuset_mems.clone(),
        hugepage_limits: pages
            .map(|page| proto::HugepageLimit { page_size: page.page_size.clone(), limit: page.limit })
            .collect(),
        unified: if unified { asked.unified.clone() } else { crate::StringMap::new() },
    }
}

pub(super) fn image(asked: &ImageSpec) -> proto::ImageSpec {
    let ImageSpec { image, user_specified_image, annotations } = asked.clone();
    proto::ImageSpec { image, user_specified_image, annotations }
}

/// Credentials for an image. Whose they are is not told, as upstream's kubelet does not: they were chosen for this image, and
/// containerd takes for a URL what is said there, and the credentials for somebody else's when that has no scheme.
pub(super) fn auth(asked: &AuthConfig) -> proto::AuthConfig {
    let AuthConfig { username, password, auth, server_address: _, identity_token, registry_token } = asked.clone();
    proto::AuthConfig { username, password, auth, server_address: String::new(), identity_token, registry_token }
}

/// A mount whose sub path, if it is of the host, has been resolved already.
fn mount(asked: &Mount, users: Option<IdRange>) -> proto::Mount {
    let mappings: Vec<proto::IdMapping> = users.into_iter().map(mapping).collect();
    proto::Mount {
        container_path: asked.container_path.clone(),
        host_path: asked.host_path.clone(),
        readonly: asked.readonly,
        selinux_relabel: asked.selinux_relabel,
        propagation: match asked.propagation {
            MountPropagation::Private => 0,
            MountPropagation::HostToContainer => 1,
            MountPropagation::Bidirectional => 2,
        },
        uid_mappings: mappings.clone(),
        gid_mappings: mappings,
        recursive_read_only: asked.recursive_read_only,
        image: asked.image.as_ref().map(image),
        image_sub_path: if asked.image.is_some() { asked.sub_path.clone() } else { String::new() },
    }
}

/// A container to make.
pub(super) fn container(asked: &ContainerConfig, unified: bool) -> Result<proto::ContainerConfig> {
    let variable = |variable: &crate::KeyValue| proto::KeyValue {
        key: variable.key.clone(),
        value: variable.value.clone().into(),
    };
    // A pod's users see the files of volumes with the owners that they have by the pod's own count.
    let users = asked.linux.security_context.namespace_options.users;
    Ok(proto::ContainerConfig {
        metadata: Some(proto::ContainerMetadata { name: asked.metadata.name.clone(), attempt: asked.metadata.attempt }),
        image: Some(image(&asked.image)),
        command: asked.command.clone(),
        args: asked.args.clone(),
        working_dir: asked.working_dir.clone(),
        envs: asked.envs.iter().map(variable).collect(),
        mounts: asked.mounts.iter().map(|asked| mount(asked, users)).collect(),
        devices: asked.linux.devices.iter().map(device).collect(),
        labels: asked.labels.clone(),
        annotations: asked.annotations.clone(),
        log_path: asked.log_path.clone(),
        stdin: asked.terminal.stdin,
        stdin_once: asked.terminal.stdin_once,
        tty: asked.terminal.tty,
        linux: Some(proto::LinuxContainerConfig {
            resources: Some(resources(&asked.linux.resources, unified)),
            security_context: Some(container_security(&asked.linux.security_context)?),
        }),
        stop_signal: signal(&asked.linux.stop_signal)?,
    })
}

fn device(asked: &Device) -> proto::Device {
    let Device { container_path, host_path, permissions } = asked.clone();
    proto::Device { container_path, host_path, permissions }
}

fn container_security(asked: &LinuxContainerSecurityContext) -> Result<proto::LinuxContainerSecurityContext> {
    let crate::Capability { add_capabilities, drop_capabilities, add_ambient_capabilities } =
        asked.capabilities.clone();
    Ok(proto::LinuxContainerSecurityContext {
        capabilities: Some(proto::Capability { add_capabilities, drop_capabilities, add_ambient_capabilities }),
        privileged: asked.privileged,
        namespace_options: Some(namespaces(&asked.namespace_options)),
        selinux_options: asked.selinux_options.as_ref().map(selinux),
        run_as_user: asked.run_as.user.map(number),
        run_as_group: asked.run_as.group.map(number),
        run_as_username: asked.run_as.username.clone(),
        readonly_rootfs: asked.readonly_rootfs,
        supplemental_groups: asked.run_as.supplemental_groups.clone(),
        supplemental_groups_policy: groups_policy(&asked.run_as),
        no_new_privs: asked.no_new_privs,
        masked_paths: asked.masked_paths.clone(),
        readonly_paths: asked.readonly_paths.clone(),
        seccomp: Some(profile(&asked.seccomp)),
        apparmor: asked.apparmor.as_ref().map(profile),
    })
}

pub(super) fn sandbox_filter(asked: &PodSandboxFilter) -> proto::PodSandboxFilter {
    let state = |state: PodSandboxState| proto::PodSandboxStateValue { state: state as i32 };
    proto::PodSandboxFilter {
        id: asked.id.clone().unwrap_or_default(),
        state: asked.state.map(state),
        label_selector: asked.label_selector.clone(),
    }
}

pub(super) fn container_filter(asked: &ContainerFilter) -> proto::ContainerFilter {
    let state = |state: ContainerState| proto::ContainerStateValue { state: state as i32 };
    proto::ContainerFilter {
        id: asked.id.clone().unwrap_or_default(),
        state: asked.state.map(state),
        pod_sandbox_id: asked.pod_sandbox_id.clone().unwrap_or_default(),
        label_selector: asked.label_selector.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_without_the_registry_that_they_were_chosen_by() {
        let asked =
            AuthConfig { username: "u".into(), server_address: "127.0.0.1:5000".into(), ..AuthConfig::default() };
        assert_eq!(auth(&asked), proto::AuthConfig { username: "u".into(), ..proto::AuthConfig::default() });
    }

    #[test]
    fn signals_have_cris_numbers() {
        let known = [("", 0), ("SIGABRT", 1), ("SIGTERM", 23), ("SIGUSR1", 29), ("SIGXFSZ", 34), ("SIGRTMIN", 35)];
        let real_time = [("SIGRTMIN+1", 36), ("SIGRTMIN+15", 50), ("SIGRTMAX-14", 51), ("SIGRTMAX", 65)];
        for (name, number) in known.into_iter().chain(real_time) {
            assert_eq!(signal(name), Ok(number), "{name}");
            assert_eq!(crate::remote::told::signal(number), name, "{number}");
        }
        for name in ["TERM", "SIGNONE", "SIGRTMIN+16", "SIGRTMIN-1", "SIGRTMAX-15", "SIGRTMAX+1", "SIGRTMIN+0"] {
            assert!(signal(name).is_err(), "{name}");
        }
    }

    #[test]
    fn files_of_control_groups_v2_mean_nothing_on_v1() {
        let asked = LinuxContainerResources {
            unified: [("memory.swap.max".to_owned(), "0".to_owned())].into(),
            ..LinuxContainerResources::default()
        };
        assert!(resources(&asked, false).unified.is_empty());
        assert_eq!(resources(&asked, true).unified, asked.unified);
    }

    #[test]
    fn a_group_without_a_user_is_no_matter_of_the_sandbox() {
        let mut asked = LinuxSandboxSecurityContext::default();
        asked.run_as.group = Some(1000);
        assert_eq!(sandbox_security(&asked).unwrap().run_as_group, None);
        asked.run_as.user = Some(0);
        assert_eq!(sandbox_security(&asked).unwrap().run_as_group, Some(number(1000)));
    }
}
