//! A runtime behind CRI v1 on a unix socket: containerd, CRI-O.
//!
//! `asked.rs` and `told.rs` turn the contract into CRI's messages and back; `call.rs` makes one call; `configuration.rs` reads
//! what CRI does not ask for; `events.rs` learns what changes; `streams.rs` carries processes' streams and ports; `sub_paths.rs` does what CRI does not know.

mod asked;
mod call;
mod configuration;
mod events;
mod proto;
mod service;
mod streams;
mod sub_paths;
mod told;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stdx::TaskTree;
use tokio::sync::Notify;

use crate::container::{ContainerConfig, ContainerFilter, ContainerStatus};
use crate::error::{Error, Result};
use crate::event::EventSender;
use crate::image::{ImageSpec, ImageUser};
use crate::sandbox::PodSandboxConfig;
use crate::security::SupplementalGroupsPolicy;
use crate::service::{ImageService, RuntimeService};
use call::{Connection, fault, gone};
use configuration::Configuration;
use sub_paths::SubPaths;

/// How many containers' sandboxes are remembered; then they are asked for again.
const SANDBOXES_KNOWN_MAX: usize = 10_000;
/// What CRI calls the driver that makes control groups as files.
const CGROUPFS: i32 = 1;

/// How a runtime is reached.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// Its socket.
    pub socket: PathBuf,
    /// A folder that a reboot empties, for what CRI does not know.
    pub state_directory: PathBuf,
    /// How long an ordinary call may take.
    pub request_timeout: Duration,
}

/// A runtime behind a socket; clones share it.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    connection: Connection,
    events: EventSender,
    request_timeout: Duration,
    sub_paths: SubPaths,
    /// Tells that a container was started.
    started: Arc<Notify>,
    /// What the runtime told of its configuration when it was opened.
    configuration: Configuration,
    /// Whether the machine has control groups v2.
    unified: bool,
    /// Which sandbox a container belongs to: CRI's statuses do not tell.
    sandboxes: Mutex<BTreeMap<String, String>>,
}

/// The socket that an endpoint names: `unix:///run/containerd/containerd.sock`, or a path.
///
/// # Errors
/// When it names something else.
pub fn socket(endpoint: &str) -> std::result::Result<PathBuf, String> {
    let path = match endpoint.split_once("://") {
        Some(("unix", path)) => path,
        Some((scheme, _)) => return Err(format!("protocol {scheme:?} not supported")),
        None => endpoint,
    };
    let path = Path::new(path);
    if path.is_absolute() { Ok(path.to_owned()) } else { Err(format!("{endpoint:?} names no absolute path")) }
}

impl Remote {
    /// Asks whether the runtime is there and can be used, and follows its events from now on.
    ///
    /// # Errors
    /// When it does not answer, does not speak CRI v1, or makes control groups by systemd.
    pub async fn open(options: RemoteOptions, tasks: &TaskTree) -> Result<Remote> {
        let connection = Connection::new(&options.socket);
        let everything = proto::StatusRequest { verbose: true };
        let told = connection.ask("RuntimeService/Status", &everything, Some(options.request_timeout)).await;
        let configuration = Configuration::read(&told.map_err(|error| fault(error, ("runtime", "")))?);
        let unified = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        let remote = Remote(Arc::new(Inner {
            connection,
            configuration,
            events: EventSender::default(),
            started: Arc::default(),
            request_timeout: options.request_timeout,
            sub_paths: SubPaths::new(options.state_directory.join("sub-paths")),
            unified: unified.split_whitespace().any(|controller| controller == "memory"),
            sandboxes: Mutex::default(),
        }));
        remote.version().await?;
        remote.check_cgroup_driver().await?;
        let Inner { connection, events, started, .. } = &*remote.0;
        tasks.spawn("runtime's events", events::run(connection.clone(), events.clone(), started.clone()));
        Ok(remote)
    }

    async fn check_cgroup_driver(&self) -> Result<()> {
        match self.ask::<proto::RuntimeConfigResponse>("RuntimeService/RuntimeConfig", &proto::Nothing {}).await {
            Ok(proto::RuntimeConfigResponse { linux: Some(linux) }) if linux.cgroup_driver != CGROUPFS => {
                Err(by_systemd())
            }
            Ok(_) => Ok(()),
            // Older ones do not tell so.
            Err(error) if call::is_unknown(&error) && self.0.configuration.by_systemd => Err(by_systemd()),
            Err(error) if call::is_unknown(&error) => Ok(()),
            Err(error) => Err(fault(error, ("runtime", ""))),
        }
    }

    /// Undoes what was done here for sandboxes that the runtime has no more: these are all it has.
    ///
    /// # Errors
    /// When that fails.
    pub fn retain(&self, sandboxes: &[String]) -> Result<()> {
        self.0.sub_paths.retain(sandboxes)
    }

    /// Tells the runtime the node's range of pod addresses, for those that write network configurations of their own.
    ///
    /// # Errors
    /// When it does not take it.
    pub async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<()> {
        let network_config = Some(proto::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let request =
            proto::UpdateRuntimeConfigRequest { runtime_config: Some(proto::RuntimeConfig { network_config }) };
        let answer = self.ask::<proto::Nothing>("RuntimeService/UpdateRuntimeConfig", &request).await;
        answer.map(drop).map_err(|error| fault(error, ("runtime", "")))
    }

    /// An ordinary call.
    async fn ask<A: prost::Message + Default>(
        &self,
        method: &str,
        request: &impl prost::Message,
    ) -> std::result::Result<A, wire::grpc::GrpcError> {
        self.0.connection.ask(method, request, Some(self.0.request_timeout)).await
    }

    /// A call about one sandbox whose answer says nothing.
    async fn of_sandbox(&self, method: &str, id: &str) -> std::result::Result<(), wire::grpc::GrpcError> {
        let request = proto::PodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.ask::<proto::Nothing>(method, &request).await.map(drop)
    }

    /// A call about one container whose answer says nothing.
    async fn of_container(&self, method: &str, id: &str) -> std::result::Result<(), wire::grpc::GrpcError> {
        let request = proto::ContainerRequest { container_id: id.to_owned() };
        self.ask::<proto::Nothing>(method, &request).await.map(drop)
    }

    fn remember(&self, container_id: &str, sandbox_id: &str) {
        let mut sandboxes = self.0.sandboxes.lock().expect("no holder of this lock panics");
        if sandboxes.len() >= SANDBOXES_KNOWN_MAX {
            sandboxes.clear();
        }
        sandboxes.insert(container_id.to_owned(), sandbox_id.to_owned());
    }

    /// The sandbox that a container belongs to; nothing when there is no such container.
    async fn sandbox_of(&self, container_id: &str) -> Result<String> {
        let known = self.0.sandboxes.lock().expect("no holder of this lock panics").get(container_id).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let filter = ContainerFilter { id: Some(container_id.to_owned()), ..ContainerFilter::default() };
        let found = self.list_containers(filter).await?;
        Ok(found.into_iter().next().map(|container| container.pod_sandbox_id).unwrap_or_default())
    }

    async fn status_of(&self, id: &str) -> Result<ContainerStatus> {
        let request = proto::ContainerRequest { container_id: id.to_owned() };
        let answer: proto::ContainerStatusResponse = self
            .ask("RuntimeService/ContainerStatus", &request)
            .await
            .map_err(|error| fault(error, ("container", id)))?;
        let status = answer.status.ok_or_else(|| Error::no_container(id))?;
        Ok(told::container_status(status, self.sandbox_of(id).await?))
    }

    /// Makes a container.
    async fn create(
        &self,
        sandbox_id: &str,
        mut config: ContainerConfig,
        sandbox: &PodSandboxConfig,
    ) -> Result<String> {
        self.check_honoured(sandbox_id, &config).await?;
        self.fill_user(&mut config).await?;
        if let Some(folder) = Path::new(&sandbox.log_directory).join(&config.log_path).parent()
            && !config.log_path.is_empty()
        {
            make_folder(folder)?;
        }
        let mounts = std::mem::take(&mut config.mounts);
        config.mounts = self.0.sub_paths.resolved(sandbox_id, &config.metadata, mounts)?;
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(asked::container(&config, self.0.unified)?),
            sandbox_config: Some(asked::sandbox(sandbox, self.0.unified)?),
        };
        let answer = self.ask("RuntimeService/CreateContainer", &request).await;
        let answer: proto::CreateContainerResponse = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.0.sub_paths.forget_container(sandbox_id, &config.metadata)?;
                return Err(fault(error, ("container", &config.metadata.name)));
            }
        };
        self.remember(&answer.container_id, sandbox_id);
        self.check_signal(&answer.container_id, &config.linux.stop_signal).await?;
        Ok(answer.container_id)
    }

    /// Refuses what this runtime would ignore.
    async fn check_honoured(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<()> {
        let recursive = config.mounts.iter().any(|mount| mount.recursive_read_only);
        let policy = config.linux.security_context.run_as.supplemental_groups_policy;
        let strict = policy == SupplementalGroupsPolicy::Strict;
        if !recursive && !strict {
            return Ok(());
        }
        let status = self.status().await?;
        if strict && !status.supplemental_groups_policy {
            return Err(Error::Unsupported { field: "security_context.supplemental_groups_policy".into() });
        }
        let handler = self.pod_sandbox_status(sandbox_id).await?.runtime_handler;
        if recursive && !status.can_mount_recursively_read_only(&handler) {
            return Err(Error::Unsupported { field: "mounts.recursive_read_only".into() });
        }
        Ok(())
    }

    /// A group without a user means nothing to CRI: the image's user is named, as the kubelet does.
    async fn fill_user(&self, config: &mut ContainerConfig) -> Result<()> {
        let run_as = &mut config.linux.security_context.run_as;
        if run_as.group.is_none() || run_as.user.is_some() || !run_as.username.is_empty() {
            return Ok(());
        }
        match self.image_status(&config.image).await?.map(|image| image.user) {
            Some(ImageUser::Uid(uid)) => run_as.user = Some(uid),
            Some(ImageUser::Username(name)) => run_as.username = name,
            Some(ImageUser::Unset) | None => run_as.user = Some(0),
        }
        Ok(())
    }

    /// Takes a container back whose runtime did not take in with which signal it is to be stopped.
    async fn check_signal(&self, id: &str, wanted: &str) -> Result<()> {
        if wanted.is_empty() || self.status_of(id).await?.linux.stop_signal == wanted {
            return Ok(());
        }
        self.remove_container(id).await?;
        Err(Error::Unsupported { field: "stop_signal".into() })
    }

    /// Removes a container, and what was made for it.
    async fn remove(&self, id: &str) -> Result<()> {
        let status = match self.status_of(id).await {
            Ok(status) => status,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        gone(self.of_container("RuntimeService/RemoveContainer", id).await, ("container", id))?;
        self.0.sandboxes.lock().expect("no holder of this lock panics").remove(id);
        self.0.sub_paths.forget_container(&status.pod_sandbox_id, &status.metadata)
    }

    fn image(&self, told: proto::Image) -> crate::Image {
        let mut image = told::image(told);
        self.0.configuration.pin(&mut image);
        image
    }

    /// An image that is present.
    async fn find_image(&self, image: &ImageSpec) -> Result<Option<crate::Image>> {
        // Runtimes take what cannot be a name for one that is absent.
        if let Err(error) = crate::reference::normalise(&image.image)
            && !image.image.starts_with("sha256:")
        {
            let failure = crate::PullFailure::InvalidReference;
            return Err(Error::ImagePull { failure, message: error.to_string() });
        }
        let request = proto::ImageRequest { image: Some(asked::image(image)) };
        let answer = self.ask("ImageService/ImageStatus", &request).await;
        let answer: proto::ImageStatusResponse = answer.map_err(|error| fault(error, ("image", &image.image)))?;
        Ok(answer.image.map(|image| self.image(image)))
    }
}

fn by_systemd() -> Error {
    let why = "the runtime makes control groups by systemd, the agent as files: set SystemdCgroup = false";
    Error::FailedPrecondition(why.into())
}

/// Makes a folder for logs, as the kubelet does before it asks for what writes there.
fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|error| Error::Internal(format!("create log directory {}: {error}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_sockets() {
        assert_eq!(socket("unix:///run/c.sock"), Ok(PathBuf::from("/run/c.sock")));
        assert_eq!(socket("/run/c.sock"), Ok(PathBuf::from("/run/c.sock")));
        assert_eq!(socket("tcp://127.0.0.1:1"), Err("protocol \"tcp\" not supported".into()));
        assert!(socket("unix://c.sock").is_err() && socket("").is_err());
    }
}
