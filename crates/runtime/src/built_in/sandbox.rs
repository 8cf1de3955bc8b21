//! Making, stopping and removing sandboxes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cni::{AddRequest, DelRequest, PodRef};
use cri::{ContainerEventType, Error, NamespaceMode, PodSandboxConfig, Result};
use shim::spec::{Pair, SandboxSpec, Users};
use shim::wire::Wire;

use super::{Inner, Sandbox, blocking, call_failed, failed, files, group_failed, lock, new_id, now};
use crate::record::{self, SandboxRecord};
use crate::supervisor::Supervisor;

/// The interface's name inside a pod.
const INTERFACE: &str = "eth0";
/// How long a network may take; upstream's agents wait as long for a call.
const NETWORK_SECONDS_MAX: Duration = Duration::from_secs(120);
/// As upstream's sandboxes have it: they die last.
const OOM_SCORE_ADJ: i32 = -998;
/// Size of a pod's `/dev/shm`, as upstream.
const SHM_BYTES: u64 = 64 << 20;
/// The names that this runtime goes by; empty is the default.
pub(super) const HANDLERS: [&str; 2] = ["", "isopod"];
/// Kernel parameters of a pod with a network of its own: as in containerd, low ports and pings need no privilege.
const SYSCTLS: [(&str, &str); 2] =
    [("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 2147483647")];

/// A kernel parameter's path below `/proc/sys`. Dots separate, unless a slash comes first.
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('.') => name
            .chars()
            .map(|letter| match letter {
                '.' => '/',
                '/' => '.',
                letter => letter,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Users of a pod's own have nothing to say in the machine's other namespaces.
fn refused(config: &PodSandboxConfig) -> Option<Error> {
    let namespaces = &config.linux.security_context.namespace_options;
    let of_host = [&namespaces.network, &namespaces.pid, &namespaces.ipc].into_iter().any(is_host);
    let why = "a pod with users of its own cannot have the machine's network, processes or messages";
    (namespaces.users.is_some() && of_host).then(|| Error::InvalidArgument(why.into()))
}

/// The users that a pod has of its own, for its supervisor.
pub(super) fn users(config: &PodSandboxConfig) -> Users {
    let range = config.linux.security_context.namespace_options.users;
    range.map_or_else(Users::default, |range| Users { first: range.first, length: range.length })
}

fn is_host(mode: &NamespaceMode) -> bool {
    *mode == NamespaceMode::Node
}

impl Inner {
    fn sandbox_spec(&self, id: &str, config: &PodSandboxConfig) -> SandboxSpec {
        let namespaces = &config.linux.security_context.namespace_options;
        let network = !is_host(&namespaces.network);
        let mut sysctls: Vec<Pair> = Vec::new();
        if network {
            sysctls.extend(SYSCTLS.map(|(name, value)| Pair { name: name.to_owned(), value: value.to_owned() }));
        }
        let asked = config.linux.sysctls.iter();
        sysctls.extend(asked.map(|(name, value)| Pair { name: sysctl_path(name), value: value.clone() }));
        let ipc = !is_host(&namespaces.ipc);
        SandboxSpec {
            version: shim::VERSION,
            hostname: if network { config.hostname.clone() } else { String::new() },
            network,
            ipc,
            shared_pid: namespaces.pid == NamespaceMode::Pod,
            sysctls,
            cgroup: self.cgroups.spec(&format!("{}/{id}", config.linux.cgroup_parent)),
            oom_score_adj: OOM_SCORE_ADJ,
            shm_bytes: if ipc { SHM_BYTES } else { 0 },
            log: self.log_limits(),
            users: users(config),
        }
    }

    /// Makes a sandbox.
    pub(super) async fn run_sandbox(self: Arc<Self>, config: PodSandboxConfig) -> Result<String> {
        if let Some(error) = refused(&config) {
            return Err(error);
        }
        if !HANDLERS.contains(&config.runtime_handler.as_str()) {
            // In containerd's words.
            let handler = &config.runtime_handler;
            return Err(Error::InvalidArgument(format!(
                "failed to get sandbox runtime: no runtime for {handler:?} is configured"
            )));
        }
        if !config.linux.cgroup_parent.starts_with('/') {
            return Err(Error::InvalidArgument("linux.cgroup_parent must be an absolute path".into()));
        }
        let record =
            SandboxRecord { version: record::VERSION, id: new_id(), config, created_at: now(), ..Default::default() };
        let folder = self.options.state_dir.join("sandboxes").join(&record.id);
        let sandbox = Sandbox::new(folder, record);
        self.register(&sandbox)?;
        let changing = sandbox.changing.lock().await;
        if let Err(error) = self.clone().make_sandbox(&sandbox).await {
            drop(changing);
            // What could not be undone is seen as a sandbox that is not ready, to be removed by the caller.
            if let Err(undoing) = self.clone().remove_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, error = %undoing, "undo sandbox");
            }
            return Err(error);
        }
        self.announce(&sandbox.id, &sandbox, ContainerEventType::Started);
        Ok(sandbox.id.clone())
    }

    /// Lists the sandbox from now on, unless the pod has one of this attempt already.
    fn register(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        let metadata = lock(&sandbox.record).config.metadata.clone();
        let mut sandboxes = lock(&self.sandboxes);
        if let Some(twin) = sandboxes.values().find(|known| lock(&known.record).config.metadata == metadata) {
            return Err(Error::AlreadyExists { what: "sandbox", id: twin.id.clone() });
        }
        sandboxes.insert(sandbox.id.clone(), sandbox.clone());
        Ok(())
    }

    async fn make_sandbox(self: Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let record = lock(&sandbox.record).clone();
        let spec = self.sandbox_spec(&record.id, &record.config);
        let (inner, folder) = (self.clone(), sandbox.folder.clone());
        let supervisor = blocking(move || inner.launch(&folder, &record, &spec)).await?;
        self.supervise(sandbox, supervisor.clone());
        supervisor.hello().await.map_err(call_failed("greet pod supervisor"))?;
        let addresses = self.connect_network(sandbox, supervisor.pid()).await?;
        let record = {
            let mut record = lock(&sandbox.record);
            record.addresses = addresses;
            record.ready = true;
            record.clone()
        };
        record::write(&sandbox.folder, &record).map_err(failed("write sandbox record"))
    }

    /// Makes folder, control groups and supervisor.
    fn launch(&self, folder: &std::path::Path, record: &SandboxRecord, spec: &SandboxSpec) -> Result<Supervisor> {
        make_folder(folder).map_err(failed("create sandbox folder"))?;
        // Written first: whatever follows can be found and undone by it.
        record::write(folder, record).map_err(failed("write sandbox record"))?;
        let config = &record.config;
        let group = format!("{}/{}", config.linux.cgroup_parent, record.id);
        self.cgroups.create(&group).map_err(group_failed)?;
        if let Some(resources) = &config.linux.resources {
            self.cgroups.set(&config.linux.cgroup_parent, resources).map_err(group_failed)?;
        }
        let files = self.sandbox_files(&record.id);
        make_folder(&files).map_err(failed("create folder of pod files"))?;
        files::write(&files, &hostname(config), config.dns_config.as_ref()).map_err(failed("write pod files"))?;
        self.launcher.launch(folder, &spec.encode()).map_err(failed("start pod supervisor"))?;
        Supervisor::connect(folder).map_err(failed("connect to pod supervisor"))
    }

    async fn connect_network(&self, sandbox: &Sandbox, pid: u32) -> Result<Vec<std::net::IpAddr>> {
        let config = lock(&sandbox.record).config.clone();
        if is_host(&config.linux.security_context.namespace_options.network) {
            return Ok(Vec::new());
        }
        let metadata = &config.metadata;
        let pod =
            PodRef { namespace: metadata.namespace.clone(), name: metadata.name.clone(), uid: metadata.uid.clone() };
        let request = AddRequest {
            container_id: sandbox.id.clone(),
            netns: netns(pid),
            ifname: INTERFACE.to_owned(),
            pod,
            port_mappings: port_mappings(&config)?,
        };
        let failed =
            |cause: String| Error::Internal(format!("failed to setup network for sandbox \"{}\": {cause}", sandbox.id));
        let added = stdx::timeout(NETWORK_SECONDS_MAX, self.options.network.add(&request)).await;
        let added = added.map_err(|late| failed(late.to_string()))?.map_err(|error| failed(chain(&error)))?;
        Ok(added.addresses().collect())
    }

    async fn disconnect_network(&self, sandbox: &Sandbox) -> Result<()> {
        let config = lock(&sandbox.record).config.clone();
        if is_host(&config.linux.security_context.namespace_options.network) {
            return Ok(());
        }
        let pid = sandbox.supervisor.borrow().as_ref().map(Supervisor::pid);
        let request =
            DelRequest { container_id: sandbox.id.clone(), netns: pid.map(netns), ifname: INTERFACE.to_owned() };
        let failed = |cause: String| {
            Error::Internal(format!("failed to destroy network for sandbox \"{}\": {cause}", sandbox.id))
        };
        let done = stdx::timeout(NETWORK_SECONDS_MAX, self.options.network.del(&request)).await;
        done.map_err(|late| failed(late.to_string()))?.map_err(|error| failed(chain(&error)))
    }

    /// Hears from a supervisor until it is gone.
    pub(super) fn supervise(self: &Arc<Self>, sandbox: &Arc<Sandbox>, supervisor: Supervisor) {
        sandbox.supervisor.send_replace(Some(supervisor.clone()));
        let (inner, sandbox) = (Arc::downgrade(self), sandbox.clone());
        self.tasks.spawn("pod supervisor", async move {
            let exited = |report| inner.upgrade().into_iter().for_each(|inner| inner.exited(&report));
            supervisor.listen(exited).await;
            if let Some(inner) = inner.upgrade() {
                inner.supervisor_lost(&sandbox);
            }
        });
    }

    /// A supervisor is gone, on demand or not: what it left behind is ended and marked.
    fn supervisor_lost(&self, sandbox: &Arc<Sandbox>) {
        // In this order: who finds no supervisor finds no container that still counts as running.
        for container in self.containers_of(&sandbox.id) {
            self.lose_container(&container);
        }
        sandbox.supervisor.send_replace(None);
        // And whoever was just being adopted, and asked for the supervisor before.
        for container in self.containers_of(&sandbox.id) {
            self.lose_container(&container);
        }
        let expected = !std::mem::take(&mut lock(&sandbox.record).ready);
        if !expected {
            tracing::warn!(sandbox = sandbox.id, "pod supervisor ended unexpectedly");
            self.announce(&sandbox.id, sandbox, ContainerEventType::Stopped);
        }
    }

    /// Kills what runs in a sandbox and gives its network back.
    pub(super) async fn stop_sandbox(self: Arc<Self>, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _changing = sandbox.changing.lock().await;
        self.end_sandbox(&sandbox).await
    }

    async fn end_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        for container in self.containers_of(&sandbox.id) {
            self.kill_container(&container).await?;
        }
        self.disconnect_network(sandbox).await?;
        let (was_ready, record) = {
            let mut record = lock(&sandbox.record);
            (std::mem::take(&mut record.ready), record.clone())
        };
        if sandbox.folder.exists() {
            record::write(&sandbox.folder, &record).map_err(failed("write sandbox record"))?;
        }
        let supervisor = sandbox.supervisor.borrow().clone();
        if let Some(supervisor) = supervisor
            && let Err(error) = supervisor.shut_down().await
        {
            // Then it is killed with its control group.
            tracing::warn!(sandbox = sandbox.id, error = %chain(&error), "end pod supervisor");
        }
        self.remove_group(&sandbox.group(&sandbox.id)).await?;
        let mut supervisor = sandbox.supervisor.subscribe();
        let gone = stdx::timeout(super::container::KILL_SECONDS_MAX, supervisor.wait_for(Option::is_none)).await;
        if gone.is_err() {
            return Err(Error::DeadlineExceeded(format!("supervisor of sandbox {:?} does not end", sandbox.id)));
        }
        if was_ready {
            self.announce(&sandbox.id, sandbox, ContainerEventType::Stopped);
        }
        Ok(())
    }

    /// Removes a sandbox with its containers.
    pub(super) async fn remove_sandbox(self: Arc<Self>, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _changing = sandbox.changing.lock().await;
        self.end_sandbox(&sandbox).await?;
        for container in self.containers_of(&sandbox.id) {
            self.erase_container(&container).await?;
        }
        let (inner, erased) = (self.clone(), sandbox.clone());
        blocking(move || {
            // The pod's group goes with its last sandbox; while another one lives there, it stays.
            inner.cgroups.remove_if_empty(&erased.pod_group());
            erase(&inner.sandbox_files(&erased.id)).map_err(failed("remove pod files"))?;
            erase_folder(&erased.folder).map_err(failed("remove sandbox folder"))
        })
        .await?;
        self.announce(&sandbox.id, &sandbox, ContainerEventType::Deleted);
        lock(&self.sandboxes).remove(&sandbox.id);
        Ok(())
    }
}

/// The host name that a pod's processes see.
pub(super) fn hostname(config: &PodSandboxConfig) -> String {
    if !config.hostname.is_empty() && !is_host(&config.linux.security_context.namespace_options.network) {
        return config.hostname.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn netns(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

fn port_mappings(config: &PodSandboxConfig) -> Result<Vec<cni::PortMapping>> {
    let mapped = config.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
    mapped
        .map(|mapping| {
            let host_ip = match mapping.host_ip.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| Error::InvalidArgument(format!("invalid host IP {text:?}")))?),
            };
            let protocol = match mapping.protocol {
                cri::Protocol::Tcp => "tcp",
                cri::Protocol::Udp => "udp",
                cri::Protocol::Sctp => "sctp",
            };
            Ok(cni::PortMapping {
                host_port: mapping.host_port,
                container_port: mapping.container_port,
                protocol: protocol.to_owned(),
                host_ip,
            })
        })
        .collect()
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

/// Makes a folder that only root can enter.
pub(super) fn make_folder(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Removes a sandbox's folder, after its shared memory, which is a mount there.
pub(super) fn erase_folder(folder: &std::path::Path) -> std::io::Result<()> {
    let shm = folder.join(shim::message::SHM);
    match rustix::mount::unmount(&shm, rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW) {
        // Not mounted, or not there.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    erase(folder)
}

/// Removes a folder that may be gone.
fn erase(folder: &std::path::Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn kernel_parameters_are_paths() {
        for (name, expected) in [
            ("net.core.somaxconn", "net/core/somaxconn"),
            ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ] {
            assert_eq!(sysctl_path(name), expected);
        }
    }
}
