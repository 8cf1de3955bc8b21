//! What a container's processes may do.

use serde::{Deserialize, Serialize};

/// Paths that a container does not see unless its `procMount` says so: what to put into
/// [`LinuxContainerSecurityContext::masked_paths`] by default.
pub const MASKED_PATHS: [&str; 12] = [
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
    "/sys/devices/virtual/powercap",
];

/// Paths that a container cannot write unless its `procMount` says so: what to put into
/// [`LinuxContainerSecurityContext::readonly_paths`] by default.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Whose namespace a process lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// The pod's, shared by its containers.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The machine's.
    Node,
    /// That of another container of the pod, by id.
    Target(String),
}

/// Whose namespaces a sandbox or container lives in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOption {
    /// Network: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Processes: any.
    pub pid: NamespaceMode,
    /// Interprocess communication: `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// The machine's users and groups that those of the pod are, where it has its own (`hostUsers: false`).
    pub users: Option<IdRange>,
}

/// Users or groups of the machine, one after the other, that stand for those of a pod from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The machine's number of the pod's 0.
    pub first: u32,
    /// How many there are.
    pub length: u32,
}

impl Default for NamespaceOption {
    fn default() -> Self {
        NamespaceOption {
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
            users: None,
        }
    }
}

/// What is added to and taken from the default capabilities; names without `CAP_`, or `ALL`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capability {
    /// Added.
    pub add_capabilities: Vec<String>,
    /// Taken away.
    pub drop_capabilities: Vec<String>,
    /// Added to the ambient set, too.
    pub add_ambient_capabilities: Vec<String>,
}

/// A seccomp or AppArmor profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityProfile {
    /// None.
    #[default]
    Unconfined,
    /// The runtime's own.
    RuntimeDefault,
    /// A file (seccomp) or loaded profile (AppArmor) of the machine.
    Localhost(String),
}

/// SELinux labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeLinuxOption {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub selinux_type: String,
    /// Level.
    pub level: String,
}

/// Whether the image's own group memberships count beside those asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// They do.
    #[default]
    Merge,
    /// Only those asked for.
    Strict,
}

/// Which user and groups a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunAs {
    /// User id; with neither this nor `username`, the image's user.
    pub user: Option<i64>,
    /// A user name to be looked up in the image.
    pub username: String,
    /// Group id; else the user's primary one.
    pub group: Option<i64>,
    /// Supplementary groups.
    pub supplemental_groups: Vec<i64>,
    /// How the former combine with the image's.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
}

/// A container's security.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerSecurityContext {
    /// Capabilities.
    pub capabilities: Capability,
    /// Everything root may do, and all devices.
    pub privileged: bool,
    /// Namespaces.
    pub namespace_options: NamespaceOption,
    /// SELinux.
    pub selinux_options: Option<SeLinuxOption>,
    /// User and groups.
    pub run_as: RunAs,
    /// Whether the root file system cannot be written.
    pub readonly_rootfs: bool,
    /// Whether no program can gain privileges.
    pub no_new_privs: bool,
    /// Paths that are hidden.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<String>,
    /// System call filter.
    pub seccomp: SecurityProfile,
    /// AppArmor; `None` when nobody asked.
    pub apparmor: Option<SecurityProfile>,
}

/// A sandbox's security.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxSandboxSecurityContext {
    /// Namespaces.
    pub namespace_options: NamespaceOption,
    /// SELinux.
    pub selinux_options: Option<SeLinuxOption>,
    /// User and groups.
    pub run_as: RunAs,
    /// Whether a privileged container may run in it.
    pub privileged: bool,
    /// System call filter of the sandbox's own process.
    pub seccomp: SecurityProfile,
}
