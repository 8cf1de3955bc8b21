//! A pod and its containers in the runtime's terms. Pure.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use cri::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, HugepageLimit, IdRange, ImageSpec, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol, RunAs, SeLinuxOption, SecurityProfile, Terminal,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, HostAlias, Pod, PodSecurityContext, PodSpec, ResourceRequirements, SELinuxOptions,
    SeccompProfile, SecurityContext,
};

use super::env::{ConfigError, expand};
use super::seen::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
use super::{dns, name, namespace, spec, uid};

/// Hidden from ordinary containers. Upstream: `defaultMaskedPaths`.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MORE_MASKED_PATHS: [&str; 1] = ["/sys/devices/virtual/powercap"];
/// Not writable for ordinary containers. Upstream: `defaultReadonlyPaths`.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Microseconds of a quota's period. Upstream: `quotaPeriod`.
pub const QUOTA_PERIOD: i64 = 100_000;
/// The longest host name. Upstream: `hostnameMaxLen`.
const HOSTNAME_BYTES_MAX: usize = 63;
/// The longest name with its domain: what the kernel takes. Upstream: `fqdnMaxLen`.
const FQDN_BYTES_MAX: usize = 64;
/// Sizes of huge pages with the names that control groups give them.
const HUGE_PAGES: [(&str, &str); 6] = [
    ("hugepages-64Ki", "64KB"),
    ("hugepages-2Mi", "2MB"),
    ("hugepages-32Mi", "32MB"),
    ("hugepages-512Mi", "512MB"),
    ("hugepages-1Gi", "1GB"),
    ("hugepages-16Gi", "16GB"),
];

/// What a sandbox needs to know of its node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    pub name: String,
    /// Address of the cluster's DNS service; empty without one.
    pub cluster_dns: String,
    pub cluster_domain: String,
    /// The node's own resolver settings.
    pub host_dns: DnsConfig,
    /// Folder of all pods' logs, `/var/log/pods`.
    pub log_root: String,
    /// Bytes of memory, for out-of-memory scores.
    pub memory_bytes: i64,
    /// Folder of the seccomp profiles that pods may name.
    pub seccomp_root: String,
    /// Kernel parameters that pods may set although they are not safe, `*` at the end for all that begin so.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Whether the machine has AppArmor.
    pub apparmor: bool,
}

/// The pod's own name in its network, without a domain. Upstream: `GeneratePodHostNameAndDomain`.
pub fn hostname(pod: &Pod, node: &NodeFacts) -> String {
    let spec = spec(pod);
    if spec.host_network == Some(true) {
        return node.name.clone();
    }
    let said = |name: Option<String>| name.filter(|name| !name.is_empty());
    if let Some(wanted) = said(spec.hostname_override) {
        return wanted;
    }
    let wanted = said(spec.hostname).unwrap_or_else(|| name(pod).to_owned());
    wanted[..wanted.len().min(HOSTNAME_BYTES_MAX)].trim_end_matches(['-', '.']).to_owned()
}

/// The domain that the pod's name is in; empty for most.
pub fn domain(pod: &Pod, node: &NodeFacts) -> String {
    let spec = spec(pod);
    match spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty()) {
        Some(subdomain) if spec.hostname_override.is_none() => {
            format!("{subdomain}.{}.svc.{}", namespace(pod), node.cluster_domain)
        }
        _ => String::new(),
    }
}

/// The name the pod's processes see as their machine's. Upstream: `GetNodenameForKernel`.
fn kernel_hostname(pod: &Pod, node: &NodeFacts) -> Result<String, ConfigError> {
    let (hostname, domain) = (hostname(pod, node), domain(pod, node));
    if spec(pod).set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(hostname);
    }
    let full = format!("{hostname}.{domain}");
    if full.len() > FQDN_BYTES_MAX {
        return Err(ConfigError(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({FQDN_BYTES_MAX} characters is the max, {} characters requested)",
            full.len()
        )));
    }
    Ok(full)
}

/// The folder of a pod's logs.
pub fn log_directory(pod: &Pod, node: &NodeFacts) -> String {
    format!("{}/{}_{}_{}", node.log_root, namespace(pod), name(pod), uid(pod))
}

/// What a sandbox needs besides the pod's text.
#[derive(Clone, Copy, Debug, Default)]
pub struct SandboxParts<'a> {
    /// The pod's control group.
    pub cgroup_parent: &'a str,
    /// The handler that its class names; empty is the runtime's default.
    pub runtime_handler: &'a str,
    /// The users that the pod has of its own.
    pub users: Option<IdRange>,
}

/// The sandbox to make.
pub fn sandbox(
    pod: &Pod,
    attempt: u32,
    parts: SandboxParts<'_>,
    node: &NodeFacts,
) -> Result<PodSandboxConfig, ConfigError> {
    let spec = spec(pod);
    let security = spec.security_context.clone().unwrap_or_default();
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    let sysctls = security.sysctls.iter().flatten().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect();
    let privileged = super::containers(&spec).any(|(_, container)| {
        container.security_context.as_ref().and_then(|security| security.privileged) == Some(true)
    });
    Ok(PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: name(pod).into(),
            uid: uid(pod).into(),
            namespace: namespace(pod).into(),
            attempt,
        },
        hostname: if spec.host_network == Some(true) { String::new() } else { kernel_hostname(pod, node)? },
        log_directory: log_directory(pod, node),
        dns_config: Some(dns::resolver(pod, node).config),
        port_mappings: if spec.host_network == Some(true) { Vec::new() } else { port_mappings(&spec) },
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        runtime_handler: parts.runtime_handler.into(),
        linux: LinuxPodSandboxConfig {
            cgroup_parent: parts.cgroup_parent.into(),
            security_context: LinuxSandboxSecurityContext {
                namespace_options: NamespaceOption { users: parts.users, ..namespaces(pod) },
                run_as: run_as(&security, None),
                privileged,
                ..LinuxSandboxSecurityContext::default()
            },
            sysctls,
            overhead: None,
            resources: None,
        },
    })
}

/// The ports of the node that lead to the pod.
fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    // Init containers that run to their end have no time in which they could be reached.
    let runs = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(runs);
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    let number = |port: Option<i32>| port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    let mapping = |port: &ContainerPort| PortMapping {
        protocol: match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        container_port: number(Some(port.container_port)),
        host_port: number(port.host_port),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    };
    ports.map(mapping).filter(|mapping| mapping.host_port != 0).collect()
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    [pair(POD_NAME, name(pod)), pair(POD_NAMESPACE, namespace(pod)), pair(POD_UID, uid(pod))]
}

fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = spec(pod);
    let node_if = |host: Option<bool>| if host == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    NamespaceOption {
        network: node_if(spec.host_network),
        pid: match (spec.host_pid, spec.share_process_namespace) {
            (Some(true), _) => NamespaceMode::Node,
            (_, Some(true)) => NamespaceMode::Pod,
            _ => NamespaceMode::Container,
        },
        ipc: node_if(spec.host_ipc),
        users: None,
    }
}

/// What a pod of its own network has in `/etc/hosts`. Upstream: `managedHostsFileContent`.
pub fn hosts(ip: Option<std::net::IpAddr>, hostname: &str, domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    match ip {
        Some(ip) if domain.is_empty() => text.push_str(&format!("{ip}\t{hostname}\n")),
        Some(ip) => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
        None => {}
    }
    text
}

/// What is added to `/etc/hosts`. Upstream: `hostsEntriesFromHostAliases`.
pub fn host_aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        ));
    }
    text
}

/// What a container needs besides the pod's text.
pub struct Parts {
    pub attempt: u32,
    pub envs: Vec<KeyValue>,
    /// Volumes and files, in place on the node.
    pub mounts: Vec<Mount>,
    pub image_ref: String,
}

/// The container to make.
pub fn container(pod: &Pod, container: &Container, parts: Parts, node: &NodeFacts) -> ContainerConfig {
    let variables: BTreeMap<String, String> =
        parts.envs.iter().map(|variable| (variable.key.clone(), variable.value.clone())).collect();
    let expanded = |words: &Option<Vec<String>>| words.iter().flatten().map(|word| expand(word, &variables)).collect();
    let mut labels: cri::StringMap = identity(pod).into();
    labels.insert(CONTAINER_NAME.into(), container.name.clone());
    let mut annotations = cri::StringMap::new();
    annotations.insert("io.kubernetes.container.restartCount".into(), parts.attempt.to_string());
    let image = container.image.clone().unwrap_or_default();
    ContainerConfig {
        metadata: ContainerMetadata { name: container.name.clone(), attempt: parts.attempt },
        image: ImageSpec { image: parts.image_ref, user_specified_image: image, ..ImageSpec::default() },
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: parts.envs,
        mounts: parts.mounts,
        labels,
        annotations,
        log_path: format!("{}/{}.log", container.name, parts.attempt),
        terminal: Terminal {
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            tty: container.tty.unwrap_or(false),
        },
        linux: LinuxContainerConfig {
            resources: resources(pod, container, node),
            security_context: security(pod, container, node),
            devices: Vec::new(),
            stop_signal: container
                .lifecycle
                .as_ref()
                .and_then(|lifecycle| lifecycle.stop_signal.clone())
                .unwrap_or_default(),
        },
    }
}

/// Mount propagation in the runtime's terms.
pub fn propagation(mode: Option<&str>) -> MountPropagation {
    match mode {
        Some("HostToContainer") => MountPropagation::HostToContainer,
        Some("Bidirectional") => MountPropagation::Bidirectional,
        _ => MountPropagation::Private,
    }
}

/// Requests or limits as written.
type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// A request or limit of a container.
pub fn amount(list: Option<&Amounts>, name: &str) -> Option<Quantity> {
    list?.get(name).and_then(|quantity| Quantity::parse(&quantity.0).ok())
}

/// Limits of a container's control group. Upstream: `generateLinuxContainerResources`.
pub fn resources(pod: &Pod, container: &Container, node: &NodeFacts) -> LinuxContainerResources {
    LinuxContainerResources { oom_score_adj: oom_score(pod, container, node.memory_bytes), ..limits(container) }
}

/// Those that the container alone decides.
pub fn limits(container: &Container) -> LinuxContainerResources {
    let resources = container.resources.clone().unwrap_or_default();
    let limits = resources.limits.as_ref();
    let requests = resources.requests.as_ref();
    let cpu_limit = amount(limits, "cpu").map(|quantity| quantity.milli_value()).unwrap_or(0);
    let cpu_request = amount(requests, "cpu").map_or(cpu_limit, |quantity| quantity.milli_value());
    let memory_limit = amount(limits, "memory").map(|quantity| quantity.value()).unwrap_or(0);
    LinuxContainerResources {
        cpu_period: QUOTA_PERIOD,
        cpu_quota: quota(cpu_limit),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory_limit,
        // No container swaps. Upstream: `NoSwap`, its default.
        memory_swap_limit_in_bytes: memory_limit,
        unified: [("memory.swap.max".to_owned(), "0".to_owned())].into(),
        hugepage_limits: hugepage_limits(limits),
        ..LinuxContainerResources::default()
    }
}

/// Limits of huge pages: without one, none may be used. Upstream: `GetHugepageLimitsFromResources`.
fn hugepage_limits(limits: Option<&Amounts>) -> Vec<HugepageLimit> {
    let limit = |(resource, page_size): (&str, &str)| HugepageLimit {
        page_size: page_size.into(),
        limit: amount(limits, resource).map_or(0, |quantity| u64::try_from(quantity.value()).unwrap_or(0)),
    };
    HUGE_PAGES.into_iter().map(limit).collect()
}

/// Weight of a request in thousandths of a core. Upstream: `MilliCPUToShares`.
pub fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(2, 262_144)
}

/// Microseconds per period of a limit in thousandths of a core; 0 is no limit. Upstream: `MilliCPUToQuota`.
pub fn quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * QUOTA_PERIOD / 1000).max(1000) }
}

/// Whom the kernel kills first when memory runs out. Upstream: `qos.GetContainerOOMScoreAdjust`.
fn oom_score(pod: &Pod, container: &Container, memory_bytes: i64) -> i64 {
    let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()).unwrap_or("BestEffort");
    match class {
        _ if is_node_critical(pod) => -997,
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            // A sidecar goes no sooner than what it serves.
            let of_others = if is_sidecar(pod, container) { least_memory_request(&spec(pod)) } else { 0 };
            let request = memory_request(container.resources.as_ref()).unwrap_or(0).max(of_others) + left_over(pod);
            let score = 1000 - 1000_i64.saturating_mul(request) / memory_bytes.max(1);
            score.clamp(3, 999)
        }
    }
}

/// Whether the node is of no use without the pod. The class has one priority, which admission gives. Upstream:
/// `types.IsNodeCriticalPod`.
fn is_node_critical(pod: &Pod) -> bool {
    spec(pod).priority_class_name.as_deref() == Some("system-node-critical")
}

fn is_sidecar(pod: &Pod, container: &Container) -> bool {
    let among_first = spec(pod).init_containers.iter().flatten().any(|init| init.name == container.name);
    among_first && container.restart_policy.as_deref() == Some("Always")
}

fn memory_request(resources: Option<&ResourceRequirements>) -> Option<i64> {
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    amount(requests, "memory").map(|quantity| quantity.value())
}

/// The least that one of the regular containers asks for.
fn least_memory_request(spec: &PodSpec) -> i64 {
    let requests = spec.containers.iter().map(|container| memory_request(container.resources.as_ref()).unwrap_or(0));
    requests.min().unwrap_or(0)
}

/// A container's part of the memory that the pod as a whole requests beyond its containers. Upstream:
/// `remainingPodMemReqPerContainer`.
fn left_over(pod: &Pod) -> i64 {
    let spec = spec(pod);
    let Some(whole) = memory_request(spec.resources.as_ref()) else { return 0 };
    let parts: i64 = spec.containers.iter().filter_map(|container| memory_request(container.resources.as_ref())).sum();
    let count = i64::try_from(spec.containers.len()).unwrap_or(i64::MAX);
    (whole - parts).max(0).checked_div(count).unwrap_or(0)
}

fn security(pod: &Pod, container: &Container, node: &NodeFacts) -> LinuxContainerSecurityContext {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let bare = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| if bare { Vec::new() } else { paths.iter().map(ToString::to_string).collect() };
    let masked: Vec<&str> = MASKED_PATHS.into_iter().chain(MORE_MASKED_PATHS).collect();
    LinuxContainerSecurityContext {
        capabilities: Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        },
        privileged,
        namespace_options: namespaces(pod),
        selinux_options: own.se_linux_options.as_ref().or(of_pod.se_linux_options.as_ref()).map(selinux),
        run_as: run_as(&of_pod, Some(&own)),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&masked),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), privileged, node),
        apparmor: None,
    }
}

fn selinux(options: &SELinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        selinux_type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool, node: &NodeFacts) -> SecurityProfile {
    match profile {
        _ if privileged => SecurityProfile::Unconfined,
        Some(profile) => match profile.type_.as_str() {
            "RuntimeDefault" => SecurityProfile::RuntimeDefault,
            "Localhost" => {
                let name = profile.localhost_profile.as_deref().unwrap_or_default();
                SecurityProfile::Localhost(format!("{}/{name}", node.seccomp_root))
            }
            _ => SecurityProfile::Unconfined,
        },
        // Upstream leaves it off unless told otherwise; secure by default costs nothing here.
        None => SecurityProfile::RuntimeDefault,
    }
}

fn run_as(of_pod: &PodSecurityContext, own: Option<&SecurityContext>) -> RunAs {
    RunAs {
        user: own.and_then(|own| own.run_as_user).or(of_pod.run_as_user),
        username: String::new(),
        group: own.and_then(|own| own.run_as_group).or(of_pod.run_as_group),
        supplemental_groups: of_pod
            .fs_group
            .into_iter()
            .chain(of_pod.supplemental_groups.clone().unwrap_or_default())
            .collect(),
        supplemental_groups_policy: match of_pod.supplemental_groups_policy.as_deref() {
            Some("Strict") => cri::SupplementalGroupsPolicy::Strict,
            _ => cri::SupplementalGroupsPolicy::Merge,
        },
    }
}

#[cfg(test)]
mod tests;
