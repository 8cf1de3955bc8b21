//! The two services of CRI: the runtime and its images.

use std::time::Duration;

use stdx::BoxFuture;

use crate::container::{Container, ContainerConfig, ContainerFilter, ContainerStatus, LinuxContainerResources};
use crate::error::Result;
use crate::event::Events;
use crate::exec::{AttachRequest, Duplex, ExecRequest, ExecSession, ExecSyncResponse};
use crate::image::{Image, ImageFsInfo, ImageSpec, PullImageRequest};
use crate::sandbox::{PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus};
use crate::stats::{ContainerStats, PodSandboxStats};

/// Who a runtime is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionResponse {
    /// Its name; with the version it makes a node's `containerRuntimeVersion`.
    pub runtime_name: String,
    /// Its version.
    pub runtime_version: String,
    /// CRI's version, `v1`.
    pub runtime_api_version: String,
}

/// Whether a part of the runtime works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeCondition {
    /// `RuntimeReady` or `NetworkReady`.
    pub condition_type: String,
    /// Whether it does.
    pub status: bool,
    /// Why not, in a word.
    pub reason: String,
    /// Why not, for people.
    pub message: String,
}

/// How a runtime is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// Its parts.
    pub conditions: Vec<RuntimeCondition>,
    /// What sandboxes may be run by, where it tells.
    pub handlers: Vec<RuntimeHandler>,
    /// Whether it knows how supplementary groups combine with the image's.
    pub supplemental_groups_policy: bool,
}

/// One of the ways in which a runtime runs sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeHandler {
    /// As a runtime class names it; empty is the default.
    pub name: String,
    /// Whether it can keep what is mounted below a read-only mount from being written, too.
    pub recursive_read_only_mounts: bool,
    /// Whether pods may have users of their own.
    pub user_namespaces: bool,
}

impl RuntimeStatus {
    /// Whether a handler, by its class's name, can keep what is mounted below a read-only mount from being written, too.
    pub fn can_mount_recursively_read_only(&self, handler: &str) -> bool {
        self.handlers.iter().any(|known| known.name == handler && known.recursive_read_only_mounts)
    }

    /// Whether a handler can give a pod users of its own.
    pub fn can_map_users(&self, handler: &str) -> bool {
        self.handlers.iter().any(|known| known.name == handler && known.user_namespaces)
    }
}

/// Sandboxes and containers. Every call is idempotent as CRI says; every future may be dropped at any time and leaves
/// nothing half done that a later remove would not undo.
pub trait RuntimeService: Send + Sync {
    /// Who the runtime is.
    fn version(&self) -> BoxFuture<'_, Result<VersionResponse>>;
    /// Whether it works.
    fn status(&self) -> BoxFuture<'_, Result<RuntimeStatus>>;

    /// Makes and starts a sandbox; it is ready when this answers its id.
    fn run_pod_sandbox(&self, config: PodSandboxConfig) -> BoxFuture<'_, Result<String>>;
    /// Kills what runs in a sandbox and gives back its network. A missing sandbox is success.
    fn stop_pod_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Stops and removes a sandbox with all its containers. A missing sandbox is success.
    fn remove_pod_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// How a sandbox is.
    fn pod_sandbox_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<PodSandboxStatus>>;
    /// The sandboxes asked for, oldest first.
    fn list_pod_sandbox(&self, filter: PodSandboxFilter) -> BoxFuture<'_, Result<Vec<PodSandbox>>>;

    /// Prepares a container in a sandbox, which was asked for as `sandbox` says; answers its id. Its image must be present.
    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        config: ContainerConfig,
        sandbox: &'a PodSandboxConfig,
    ) -> BoxFuture<'a, Result<String>>;
    /// Starts a created container. On failure its state is `Exited` with reason `StartError` and exit code 128.
    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Asks a container to end and kills it after `timeout`; answers when it has ended. A missing one is success.
    fn stop_container<'a>(&'a self, id: &'a str, timeout: Duration) -> BoxFuture<'a, Result<()>>;
    /// Kills and removes a container. A missing one is success.
    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// The containers asked for, oldest first.
    fn list_containers(&self, filter: ContainerFilter) -> BoxFuture<'_, Result<Vec<Container>>>;
    /// How a container is.
    fn container_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus>>;
    /// Changes a running container's limits; what is zero or empty stays.
    fn update_container_resources<'a>(
        &'a self,
        id: &'a str,
        resources: LinuxContainerResources,
    ) -> BoxFuture<'a, Result<()>>;
    /// Opens a container's log file anew after it was renamed.
    fn reopen_container_log<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Runs a process in a container and collects its output. When it runs longer than `timeout` (zero: no limit) it
    /// is killed and the answer is [`crate::Error::DeadlineExceeded`].
    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecSyncResponse>>;
    /// Runs a process in a container with streams.
    fn exec<'a>(&'a self, id: &'a str, request: ExecRequest) -> BoxFuture<'a, Result<ExecSession>>;
    /// Joins the streams of a running container's first process, beside its log and whoever else is attached. The
    /// session's exit code is 0, once the container has ended.
    fn attach<'a>(&'a self, id: &'a str, request: AttachRequest) -> BoxFuture<'a, Result<ExecSession>>;

    /// A connection to a TCP port of a sandbox, as a process inside would make it to `localhost`.
    fn port_forward<'a>(&'a self, id: &'a str, port: u16) -> BoxFuture<'a, Result<Box<dyn Duplex>>>;

    /// What a container uses, with its writable layer.
    fn container_stats<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStats>>;
    /// What the containers asked for use, with their writable layers.
    fn list_container_stats(&self, filter: ContainerFilter) -> BoxFuture<'_, Result<Vec<ContainerStats>>>;
    /// What a pod uses; writable layers may be left out, since all that is in them has to be looked at.
    fn pod_sandbox_stats<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<PodSandboxStats>>;

    /// A subscription to changes from now on: subscribe first, then list.
    fn events(&self) -> Events;
}

/// Images.
pub trait ImageService: Send + Sync {
    /// Fetches an image; answers the reference to create containers with.
    fn pull_image(&self, request: PullImageRequest) -> BoxFuture<'_, Result<String>>;
    /// The image, when it is present.
    fn image_status<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<Option<Image>>>;
    /// All present images, by id.
    fn list_images(&self) -> BoxFuture<'_, Result<Vec<Image>>>;
    /// Removes an image. A missing one is success.
    fn remove_image<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<()>>;
    /// How much room images and containers take.
    fn image_fs_info(&self) -> BoxFuture<'_, Result<ImageFsInfo>>;
}

/// A whole runtime: both services.
pub trait Runtime: RuntimeService + ImageService {}

impl<T: RuntimeService + ImageService> Runtime for T {}
