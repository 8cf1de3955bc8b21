//! Containers: what to run, how it is.

use serde::{Deserialize, Serialize};

use crate::StringMap;
use crate::image::ImageSpec;
use crate::security::LinuxContainerSecurityContext;

/// A container's name in its pod, and which try it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerMetadata {
    /// Name.
    pub name: String,
    /// How often it was restarted.
    pub attempt: u32,
}

/// An environment variable. The value may be secret: it is not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    /// Name.
    pub key: String,
    /// Value.
    pub value: String,
}

impl std::fmt::Debug for KeyValue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}=…", self.key)
    }
}

/// Whether later mounts are seen on the other side of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// No.
    #[default]
    Private,
    /// The container sees the host's.
    HostToContainer,
    /// Both see each other's.
    Bidirectional,
}

/// A file or folder of the host that is seen in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// What of the host; empty with `image`.
    pub host_path: String,
    /// The present image whose files are seen, read-only and not to be executed, instead of something of the host.
    pub image: Option<ImageSpec>,
    /// What below `host_path` or in the image; empty is itself. Opened by the runtime without ever leaving `host_path`, whatever links
    /// are put there meanwhile, and made as a folder when absent.
    pub sub_path: String,
    /// Whether it cannot be written.
    pub readonly: bool,
    /// Whether what is mounted below it cannot be written either.
    pub recursive_read_only: bool,
    /// Whether it gets an SELinux label.
    pub selinux_relabel: bool,
    /// Propagation.
    pub propagation: MountPropagation,
}

/// A device of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Where in the container.
    pub container_path: String,
    /// What of the host.
    pub host_path: String,
    /// `r`, `w` and `m`, as in the devices control group.
    pub permissions: String,
}

/// Input and terminal of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terminal {
    /// Whether its standard input stays open.
    pub stdin: bool,
    /// Whether its standard input ends with the first one attached.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// A limit for one size of huge pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugepageLimit {
    /// As in the control group: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// What a container may use; zero is "not said".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerResources {
    /// Microseconds of a quota's period.
    pub cpu_period: i64,
    /// Microseconds of one core in a period; negative is without limit.
    pub cpu_quota: i64,
    /// Relative weight, 1024 a core.
    pub cpu_shares: i64,
    /// Bytes of memory.
    pub memory_limit_in_bytes: i64,
    /// Bytes of memory and swap together.
    pub memory_swap_limit_in_bytes: i64,
    /// Who is killed first, -1000 to 1000.
    pub oom_score_adj: i64,
    /// Processors, as `0-2,7`.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
    /// Huge pages.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Further files of control groups v2, by name.
    pub unified: StringMap,
}

/// A container as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Its name and attempt.
    pub metadata: ContainerMetadata,
    /// Its image; `image` is what [`crate::ImageService::pull_image`] answered, or a name of a present image.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint; then the image's own arguments do not count either.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Replaces the image's working directory.
    pub working_dir: String,
    /// Added to the image's environment. Not serialised: values may be secret.
    #[serde(skip)]
    pub envs: Vec<KeyValue>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// Its log file, relative to the sandbox's `log_directory`; empty writes none.
    pub log_path: String,
    /// Input and terminal.
    pub terminal: Terminal,
    /// What only Linux has.
    pub linux: LinuxContainerConfig,
}

/// What only Linux has of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerConfig {
    /// Limits.
    pub resources: LinuxContainerResources,
    /// Security.
    pub security_context: LinuxContainerSecurityContext,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// The signal that asks it to end, such as `SIGUSR1`; empty is the image's, else `SIGTERM`.
    pub stop_signal: String,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// Its supervisor is lost.
    Unknown,
}

/// When a container changed state, in nanoseconds since 1970; 0 is "not yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerTimes {
    /// Made.
    pub created_at: i64,
    /// Started.
    pub started_at: i64,
    /// Ended.
    pub finished_at: i64,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerExit {
    /// Exit code; 128 + signal number when a signal ended it.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `ContainerStatusUnknown`; empty while it has not ended.
    pub reason: String,
    /// What went wrong, for people.
    pub message: String,
}

/// Which image a container runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerImage {
    /// As asked for.
    pub spec: ImageSpec,
    /// A name with digest where there is one, else the id.
    pub image_ref: String,
    /// The id, `sha256:…`.
    pub image_id: String,
}

/// Which user and groups a container's first process really got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerUser {
    /// User.
    pub uid: i64,
    /// Group.
    pub gid: i64,
    /// Supplementary groups.
    pub supplemental_groups: Vec<i64>,
}

/// A container as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// The sandbox it belongs to.
    pub pod_sandbox_id: String,
    /// Its name and attempt.
    pub metadata: ContainerMetadata,
    /// Its state.
    pub state: ContainerState,
    /// When it got there.
    pub times: ContainerTimes,
    /// How it ended.
    pub exit: ContainerExit,
    /// Its image.
    pub image: ContainerImage,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// Its mounts as asked for.
    pub mounts: Vec<Mount>,
    /// Its log file, absolute.
    pub log_path: String,
    /// Its limits and user as they are.
    pub linux: LinuxContainerStatus,
}

/// What only Linux has of a container's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerStatus {
    /// Its limits.
    pub resources: LinuxContainerResources,
    /// Its user; `None` before it started.
    pub user: Option<ContainerUser>,
    /// The signal that asks it to end.
    pub stop_signal: String,
    /// Its first process as the machine numbers it; `None` unless it runs.
    pub pid: Option<u32>,
}

/// A container in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The sandbox it belongs to.
    pub pod_sandbox_id: String,
    /// Its name and attempt.
    pub metadata: ContainerMetadata,
    /// Its image.
    pub image: ContainerImage,
    /// Its state.
    pub state: ContainerState,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
}

/// Which containers to list; the default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// Only this one, by id.
    pub id: Option<String>,
    /// Only in this state.
    pub state: Option<ContainerState>,
    /// Only of this sandbox.
    pub pod_sandbox_id: Option<String>,
    /// Only with all these labels.
    pub label_selector: StringMap,
}

impl ContainerFilter {
    /// Whether `container` is asked for.
    pub fn matches(&self, container: &Container) -> bool {
        self.id.as_ref().is_none_or(|id| *id == container.id)
            && self.state.is_none_or(|state| state == container.state)
            && self.pod_sandbox_id.as_ref().is_none_or(|id| *id == container.pod_sandbox_id)
            && self.label_selector.iter().all(|(key, value)| container.labels.get(key) == Some(value))
    }
}

impl From<&ContainerStatus> for Container {
    fn from(status: &ContainerStatus) -> Self {
        Container {
            id: status.id.clone(),
            pod_sandbox_id: status.pod_sandbox_id.clone(),
            metadata: status.metadata.clone(),
            image: status.image.clone(),
            state: status.state,
            created_at: status.times.created_at,
            labels: status.labels.clone(),
            annotations: status.annotations.clone(),
        }
    }
}
