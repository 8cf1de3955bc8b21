//! Making, starting, stopping and removing containers.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri::{ContainerConfig, ContainerEventType, ContainerState, Error, LinuxContainerResources, NamespaceMode, Result};
use shim::message::{REPORT, Report, State};
use shim::spec::{ContainerSpec, RootSpec};
use shim::wire::Wire;

use super::sandbox::{hostname, make_folder};
use super::{
    Container, Inner, Sandbox, blocking, call_failed, devices, failed, files, group_failed, lock, new_id, now,
};
use crate::record::{self, ContainerRecord, Ending};
use crate::source::ImageRoot;
use crate::spec::{self, Prepared, mounts, process};
use crate::supervisor::CallError;

/// How long a killed process may take to end.
pub(super) const KILL_SECONDS_MAX: Duration = Duration::from_secs(30);
/// How often a control group is tried to be removed whose last process is just ending.
const REMOVE_ROUNDS_MAX: u32 = 500;
/// The kernel tells nobody when a group of version 1 is empty.
const REMOVE_PAUSE: Duration = Duration::from_millis(2);
/// The exit code of a container that could not be started, as upstream.
const START_ERROR_CODE: i32 = 128;
/// The exit code of a container whose end nobody saw, as upstream.
const UNKNOWN_CODE: i32 = 255;
/// What a container has written beside its volumes, below its folder on disk.
pub(super) const UPPER: &str = "upper";
/// The file with what a container's supervisor is told.
pub(super) const SPEC: &str = "spec";
/// Where SELinux is seen when it is on.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// The longest system call profile that is read.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// The present images that a container is made of.
struct Images<'a> {
    own: &'a ImageRoot,
    /// Those that are mounted, in the order of the mounts.
    volumes: &'a [ImageRoot],
}

/// Whether a container's report tells of its end.
pub(super) fn has_ended(report: &Option<Report>) -> bool {
    report.as_ref().is_some_and(|report| report.state == State::Exited)
}

impl Inner {
    /// Prepares a container.
    pub(super) async fn create_container(self: Arc<Self>, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let sandbox = self.sandbox(sandbox_id)?;
        let _changing = sandbox.changing.lock().await;
        if !sandbox.ready() {
            return Err(Error::FailedPrecondition(format!("sandbox {sandbox_id:?} is not ready")));
        }
        if let Some(error) = spec::unsupported(&config, Path::new(SELINUX).exists()) {
            return Err(error);
        }
        let missing = || Error::no_image(&config.image.image);
        let image = self.options.images.root(&config.image.image).await?.ok_or_else(missing)?;
        let mut record = new_record(&sandbox, config.clone(), &image)?;
        if let Some(name) = self.name_of_image(&config).await? {
            record.image.spec.image = name;
        }
        let volumes = self.volume_images(&config).await?;
        record.volume_images = volumes.iter().map(|image| image.id.clone()).collect();
        let pid_target = self.pid_target(&record.config)?;
        // What was known is not kept: it may be secret.
        let mut kept = record.clone();
        kept.config.envs.clear();
        let container = Container::new(sandbox.clone(), kept, None);
        self.register_container(&container)?;
        let (inner, made) = (self.clone(), container.clone());
        let mut outcome = blocking(move || {
            inner.options.images.hold(&image.id, &made.id);
            volumes.iter().for_each(|volume| inner.options.images.hold(&volume.id, &made.id));
            inner.prepare(&made, &record, &Images { own: &image, volumes: &volumes }, pid_target)
        })
        .await;
        // It may have been removed before it was held.
        let held = lock(&container.record).images();
        for image_id in held {
            if outcome.is_ok() && self.options.images.root(&image_id).await?.is_none() {
                outcome = Err(missing());
            }
        }
        if let Err(error) = outcome {
            if let Err(undoing) = self.erase_container(&container).await {
                tracing::warn!(container = container.id, error = %undoing, "undo container");
            }
            return Err(error);
        }
        self.announce(&container.id, &sandbox, ContainerEventType::Created);
        Ok(container.id.clone())
    }

    /// The images that are mounted as volumes, in the order of the mounts.
    async fn volume_images(&self, config: &ContainerConfig) -> Result<Vec<ImageRoot>> {
        let mut roots = Vec::new();
        for image in config.mounts.iter().filter_map(|mount| mount.image.as_ref()) {
            let root = self.options.images.root(&image.image).await?;
            roots.push(root.ok_or_else(|| Error::no_image(&image.image))?);
        }
        Ok(roots)
    }

    /// What a container's status calls its image: a tag, or else a digest, as upstream's runtimes have it.
    async fn name_of_image(&self, config: &ContainerConfig) -> Result<Option<String>> {
        let image = self.options.images.image_status(&config.image).await?;
        Ok(image.and_then(|image| image.repo_tags.into_iter().chain(image.repo_digests).next()))
    }

    fn register_container(&self, container: &Arc<Container>) -> Result<()> {
        let key =
            |container: &Container| (container.sandbox.id.clone(), lock(&container.record).config.metadata.clone());
        let mut containers = lock(&self.containers);
        if let Some(twin) = containers.values().find(|known| key(known) == key(container)) {
            return Err(Error::AlreadyExists { what: "container", id: twin.id.clone() });
        }
        containers.insert(container.id.clone(), container.clone());
        Ok(())
    }

    /// The first process of the container whose process namespace is asked for.
    fn pid_target(&self, config: &ContainerConfig) -> Result<Option<u32>> {
        let NamespaceMode::Target(id) = &config.linux.security_context.namespace_options.pid else { return Ok(None) };
        let target = self.container(id)?;
        match target.status().linux.pid {
            Some(pid) => Ok(Some(pid)),
            None => Err(Error::FailedPrecondition(format!("target container {id:?} is not running"))),
        }
    }

    /// Makes folders, control group and specification of a container.
    fn prepare(
        &self,
        container: &Container,
        record: &ContainerRecord,
        images: &Images<'_>,
        pid_target: Option<u32>,
    ) -> Result<()> {
        let (config, folder) = (&record.config, container.folder());
        make_folder(&folder).map_err(failed("create container folder"))?;
        record::write(&folder, record).map_err(failed("write container record"))?;
        let image = images.own;
        let root = self.make_root(container, image, config).map_err(failed("create container root"))?;
        for mount in config.mounts.iter().filter(|mount| mount.image.is_none()) {
            files::prepare_mount(mount).map_err(|error| Error::Mount {
                container_path: mount.container_path.clone(),
                message: error.to_string(),
            })?;
        }
        if let Some(parent) = Path::new(&record.log_path).parent().filter(|_| !record.log_path.is_empty()) {
            std::fs::create_dir_all(parent).map_err(failed("create log folder"))?;
        }
        let security = &config.linux.security_context;
        let (mut devices, asked_rules) = devices::asked(&config.linux.devices)?;
        let mut rules = mounts::device_rules();
        rules.extend(asked_rules);
        if security.privileged {
            devices.extend(devices::all()?);
            rules = vec![crate::cgroup::DeviceRule::ALL];
        }
        let group = container.group();
        self.cgroups.create(&group).map_err(group_failed)?;
        self.cgroups.set(&group, &config.linux.resources).map_err(group_failed)?;
        self.cgroups.set_devices(&group, &rules).map_err(group_failed)?;
        let sandbox = lock(&container.sandbox.record).config.clone();
        let prepared = Prepared {
            image: &image.config,
            hostname: &hostname(&sandbox),
            root,
            cgroup: self.cgroups.spec(&group),
            mounts: self.mounts(container, config, images.volumes).map_err(failed("create container volumes"))?,
            devices,
            log_path: record.log_path.clone(),
            pid_target,
            seccomp_profile: seccomp_profile(&config.linux.security_context)?,
            open_files: self.options.open_files,
            users: super::sandbox::users(&sandbox),
        };
        let spec = spec::container(config, prepared)?;
        record::replace(&folder.join(SPEC), &spec.encode()).map_err(failed("write container specification"))
    }

    fn make_root(
        &self,
        container: &Container,
        image: &ImageRoot,
        config: &ContainerConfig,
    ) -> std::io::Result<RootSpec> {
        let root = self.container_root(&container.id);
        let [upper, work, empty] = [UPPER, "work", "empty"].map(|name| root.join(name));
        let target = container.folder().join("rootfs");
        for folder in [&root, &work, &empty, &target] {
            make_folder(folder)?;
        }
        std::fs::create_dir_all(&upper)?;
        // The upper folder's owner and mode are those of `/` inside: the image's.
        let metadata = std::fs::metadata(image.layers.last().unwrap_or(&empty))?;
        let first = super::sandbox::users(&lock(&container.sandbox.record).config).first;
        let [uid, gid] = [metadata.uid(), metadata.gid()].map(|id| first.saturating_add(id));
        std::os::unix::fs::chown(&upper, Some(uid), Some(gid))?;
        let mode = if image.layers.is_empty() { 0o755 } else { metadata.mode() & 0o7777 };
        std::fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        // An image without layers still needs something to lie below.
        let layers = if image.layers.is_empty() {
            vec![text(&empty)]
        } else {
            image.layers.iter().map(|layer| text(layer)).collect()
        };
        Ok(RootSpec {
            target: text(&target),
            layers,
            upper: text(&upper),
            work: text(&work),
            readonly: config.linux.security_context.readonly_rootfs,
        })
    }

    fn mounts(
        &self,
        container: &Container,
        config: &ContainerConfig,
        images: &[ImageRoot],
    ) -> std::io::Result<Vec<shim::spec::MountSpec>> {
        let sandbox = &container.sandbox;
        let security = &config.linux.security_context;
        let pod = lock(&sandbox.record).config.clone();
        let of_host = pod.linux.security_context.namespace_options.ipc == NamespaceMode::Node;
        let own_shm = sandbox.folder.join(shim::message::SHM).to_string_lossy().into_owned();
        let v1: Vec<&str> = self.cgroups.v1_names().collect();
        let standard = mounts::Standard {
            privileged: security.privileged,
            shm: if of_host { "/dev/shm" } else { &own_shm },
            v1: &v1,
            owner: super::sandbox::users(&pod).first,
        };
        let attributes = mounts::readonly(security.readonly_rootfs);
        let folder = self.sandbox_files(&sandbox.id);
        let files =
            files::FILES.map(|(name, target)| mounts::bind(&folder.join(name).to_string_lossy(), target, attributes));
        let mut images = images.iter().enumerate();
        let mut volumes = Vec::new();
        for mount in &config.mounts {
            let image = mount.image.as_ref().and_then(|_| images.next());
            volumes.push(match image {
                Some((number, image)) => image_volume(container, mount, number, image)?,
                None => mounts::volume(mount),
            });
        }
        Ok(mounts::all(standard, files.to_vec(), volumes))
    }

    /// Starts a container's program.
    pub(super) async fn start_container(self: Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let _changing = container.changing.lock().await;
        let state = container.status().state;
        if state != ContainerState::Created {
            let state = format!("{state:?}").to_lowercase();
            return Err(Error::FailedPrecondition(format!(
                "container {id:?} is in {state} state, not in created state"
            )));
        }
        match self.start(&container).await {
            Ok(()) => {
                self.announce(id, &container.sandbox, ContainerEventType::Started);
                // Its end may have been heard of before its start was.
                if has_ended(&container.report.borrow()) {
                    self.announce(id, &container.sandbox, ContainerEventType::Stopped);
                }
                Ok(())
            }
            Err(error) => {
                let ending = Ending {
                    finished_at: now(),
                    exit_code: START_ERROR_CODE,
                    reason: "StartError".into(),
                    message: error.to_string(),
                };
                self.note_ending(&container, ending);
                Err(error)
            }
        }
    }

    async fn start(&self, container: &Arc<Container>) -> Result<()> {
        let supervisor = container.sandbox.supervisor("start container")?;
        let spec = std::fs::read(container.folder().join(SPEC)).map_err(failed("read container specification"))?;
        supervisor.create(&container.id, &spec).await.map_err(start_failed)?;
        let report = supervisor.start(&container.id).await.map_err(start_failed)?;
        // An announcement of its end may have come first, and is the newer one.
        container.report.send_if_modified(|known| {
            let newer = !has_ended(known);
            if newer {
                *known = Some(report);
            }
            newer
        });
        Ok(())
    }

    /// Marks the end of a container that its supervisor does not know of.
    fn note_ending(&self, container: &Container, ending: Ending) {
        let record = {
            let mut record = lock(&container.record);
            record.ending = Some(ending);
            record.clone()
        };
        if let Err(error) = record::write(&container.folder(), &record) {
            tracing::warn!(container = container.id, %error, "write container record");
        }
        // Wakes whoever waits for the end.
        container.report.send_modify(|_| ());
    }

    /// A supervisor tells that a container's first process has ended.
    pub(super) fn exited(&self, report: &Report) {
        let Ok(container) = self.container(&report.container) else { return };
        let was_started = container.report.send_replace(Some(report.clone())).is_some();
        if was_started {
            self.announce(&container.id, &container.sandbox, ContainerEventType::Stopped);
        }
    }

    /// The supervisor of a container is gone: if the container did not end before, it ends now.
    pub(super) fn lose_container(&self, container: &Arc<Container>) {
        let status = container.status();
        if status.state == ContainerState::Exited || status.state == ContainerState::Created {
            return;
        }
        match last_report(container).filter(|report| report.state == State::Exited) {
            Some(report) => drop(container.report.send_replace(Some(report))),
            None => {
                if let Err(error) = self.cgroups.kill(&container.group()) {
                    tracing::warn!(container = container.id, %error, "kill container without supervisor");
                }
                let message = "the pod's supervisor was lost".to_owned();
                let reason = "Unknown".to_owned();
                self.note_ending(container, Ending { finished_at: now(), exit_code: UNKNOWN_CODE, reason, message });
            }
        }
        self.announce(&container.id, &container.sandbox, ContainerEventType::Stopped);
    }

    /// Asks a container to end and kills it when it does not.
    pub(super) async fn stop_container(self: Arc<Self>, id: &str, timeout: Duration) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        if container.status().state != ContainerState::Running {
            return Ok(());
        }
        if !timeout.is_zero() {
            let supervisor = container.sandbox.supervisor("stop container")?;
            let signal = lock(&container.record).stop_signal;
            match supervisor.signal(id, signal).await {
                // It has ended meanwhile.
                Ok(()) | Err(CallError::Missing | CallError::Lost) => {}
                Err(error) => return Err(call_failed("signal container")(error)),
            }
            if stdx::timeout(timeout, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill_container(&container).await
    }

    /// Kills a container that runs and waits for its end.
    pub(super) async fn kill_container(&self, container: &Arc<Container>) -> Result<()> {
        if container.status().state != ContainerState::Running {
            return Ok(());
        }
        let supervisor = container.sandbox.supervisor("kill container")?;
        match supervisor.kill(&container.id).await {
            Ok(()) | Err(CallError::Missing | CallError::Lost) => {}
            Err(error) => return Err(call_failed("kill container")(error)),
        }
        let late = || Error::DeadlineExceeded(format!("container {:?} does not end though killed", container.id));
        stdx::timeout(KILL_SECONDS_MAX, container.ended()).await.map_err(|_| late())
    }

    /// Kills and removes a container.
    pub(super) async fn remove_container(self: Arc<Self>, id: &str) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let _changing = container.changing.lock().await;
        self.kill_container(&container).await?;
        self.erase_container(&container).await
    }

    /// Removes all of a container that does not run.
    pub(super) async fn erase_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let supervisor = container.sandbox.supervisor.borrow().clone();
        if let Some(supervisor) = supervisor {
            match supervisor.delete(&container.id).await {
                Ok(()) | Err(CallError::Missing | CallError::Lost) => {}
                Err(error) => return Err(call_failed("forget container")(error)),
            }
        }
        self.remove_group(&container.group()).await?;
        let (inner, erased) = (self.clone(), container.clone());
        blocking(move || {
            let held = lock(&erased.record).images();
            for image_id in held {
                inner.options.images.release(&image_id, &erased.id);
            }
            // The record goes last: until then a next life finds what is left.
            let root = inner.container_root(&erased.id);
            erase(&root).and_then(|()| erase(&erased.folder())).map_err(failed("remove container folder"))
        })
        .await?;
        if lock(&self.containers).remove(&container.id).is_some() {
            self.announce(&container.id, &container.sandbox, ContainerEventType::Deleted);
        }
        Ok(())
    }

    /// Kills what is left in a control group and removes it.
    pub(super) async fn remove_group(self: &Arc<Self>, group: &str) -> Result<()> {
        let mut outcome = Ok(());
        for _ in 0..REMOVE_ROUNDS_MAX {
            let (inner, group) = (self.clone(), group.to_owned());
            outcome = blocking(move || {
                inner.cgroups.kill(&group).and_then(|()| inner.cgroups.remove(&group)).map_err(group_failed)
            })
            .await;
            if outcome.is_ok() {
                break;
            }
            stdx::sleep(REMOVE_PAUSE).await;
        }
        outcome
    }

    /// Changes a container's limits.
    pub(super) async fn update_resources(self: Arc<Self>, id: &str, resources: LinuxContainerResources) -> Result<()> {
        let container = self.container(id)?;
        let _changing = container.changing.lock().await;
        let (inner, changed) = (self.clone(), container.clone());
        blocking(move || {
            inner.cgroups.set(&changed.group(), &resources).map_err(group_failed)?;
            let record = {
                let mut record = lock(&changed.record);
                merge(&mut record.config.linux.resources, resources);
                record.clone()
            };
            record::write(&changed.folder(), &record).map_err(failed("write container record"))
        })
        .await
    }
}

impl Container {
    /// Resolves when it has ended.
    pub(super) async fn ended(&self) {
        let mut report = self.report.subscribe();
        let ended = |report: &Option<Report>| has_ended(report) || lock(&self.record).ending.is_some();
        // The sender lives as long as `self`.
        drop(report.wait_for(ended).await);
    }
}

/// An image's files as a volume. An overlay without an upper layer needs two lower ones: an empty one lies below.
fn image_volume(
    container: &Container,
    mount: &cri::Mount,
    number: usize,
    image: &ImageRoot,
) -> std::io::Result<shim::spec::MountSpec> {
    let folder = container.folder().join(format!("image-{number}"));
    let empty = container.folder().join("empty");
    make_folder(&folder)?;
    make_folder(&empty)?;
    std::fs::set_permissions(&empty, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let layers = std::iter::once(&empty).chain(&image.layers).map(|layer| layer.to_string_lossy().into_owned());
    let mut layers: Vec<String> = layers.collect();
    if layers.len() == 1 {
        layers.push(folder.to_string_lossy().into_owned());
    }
    Ok(mounts::image(mount, &folder.to_string_lossy(), layers))
}

/// The text of the system call profile that is named, if one is.
fn seccomp_profile(security: &cri::LinuxContainerSecurityContext) -> Result<Option<String>> {
    let cri::SecurityProfile::Localhost(path) = &security.seccomp else { return Ok(None) };
    let failed = |error| Error::InvalidArgument(format!("cannot load seccomp profile {path:?}: open {path}: {error}"));
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > PROFILE_BYTES_MAX {
        return Err(Error::InvalidArgument(format!(
            "cannot load seccomp profile {path:?}: {length} bytes are too many"
        )));
    }
    std::fs::read_to_string(path).map(Some).map_err(failed)
}

fn start_failed(error: CallError) -> Error {
    match error {
        CallError::Start(text) => {
            Error::Internal(format!("unable to start container process: error during container init: {text}"))
        }
        error => call_failed("start container")(error),
    }
}

fn new_record(sandbox: &Sandbox, config: ContainerConfig, image: &ImageRoot) -> Result<ContainerRecord> {
    let log_directory = lock(&sandbox.record).config.log_directory.clone();
    let log_path = match (log_directory.as_str(), config.log_path.as_str()) {
        ("", _) | (_, "") => String::new(),
        (folder, path) => Path::new(folder).join(path).to_string_lossy().into_owned(),
    };
    let named = [&config.linux.stop_signal, &image.config.stop_signal].into_iter().find(|name| !name.is_empty());
    let stop_signal = match named {
        Some(name) => {
            process::signal(name).ok_or_else(|| Error::InvalidArgument(format!("invalid signal {name:?}")))?
        }
        None => libc::SIGTERM,
    };
    Ok(ContainerRecord {
        version: record::VERSION,
        id: new_id(),
        sandbox_id: sandbox.id.clone(),
        image: cri::ContainerImage {
            spec: config.image.clone(),
            image_ref: image.image_ref.clone(),
            image_id: image.id.clone(),
        },
        volume_images: Vec::new(),
        config,
        created_at: now(),
        log_path,
        stop_signal,
        ending: None,
    })
}

/// What a container's supervisor wrote down last.
pub(super) fn last_report(container: &Container) -> Option<Report> {
    let content = std::fs::read(container.folder().join(REPORT)).ok()?;
    Report::decode(&content).ok()
}

/// What a container's supervisor was told of its process.
pub(super) fn read_spec(container: &Container) -> Result<ContainerSpec> {
    let content = std::fs::read(container.folder().join(SPEC)).map_err(failed("read container specification"))?;
    ContainerSpec::decode(&content).map_err(|_| Error::Internal("read container specification: malformed".into()))
}

fn erase(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts what `new` says over what was said before.
fn merge(known: &mut LinuxContainerResources, new: LinuxContainerResources) {
    let number = |known: &mut i64, new: i64| *known = if new == 0 { *known } else { new };
    number(&mut known.cpu_period, new.cpu_period);
    number(&mut known.cpu_quota, new.cpu_quota);
    number(&mut known.cpu_shares, new.cpu_shares);
    number(&mut known.memory_limit_in_bytes, new.memory_limit_in_bytes);
    number(&mut known.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes);
    number(&mut known.oom_score_adj, new.oom_score_adj);
    let text = |known: &mut String, new: String| *known = if new.is_empty() { std::mem::take(known) } else { new };
    text(&mut known.cpuset_cpus, new.cpuset_cpus);
    text(&mut known.cpuset_mems, new.cpuset_mems);
    if !new.hugepage_limits.is_empty() {
        known.hugepage_limits = new.hugepage_limits;
    }
    known.unified.extend(new.unified);
}
