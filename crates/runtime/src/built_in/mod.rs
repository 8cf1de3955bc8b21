//! The runtime: what exists, and CRI's calls on it.

mod adopt;
mod container;
mod devices;
mod exec;
mod files;
mod images;
mod sandbox;
mod service;
mod stats;
mod terminal;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use cri::{ContainerEvent, ContainerEventType, Error, EventSender, Result};
use shim::message::Report;
use shim::spec::LogLimits;
use tokio::sync::watch;

use crate::cgroup::Cgroups;
use crate::record::{ContainerRecord, SandboxRecord};
use crate::source::ImageSource;
use crate::supervisor::{CallError, Launcher, Supervisor};

/// The size from which on upstream rotates log files.
const LOG_BYTES_MAX: u64 = 10 << 20;
/// How many log files upstream keeps of a container.
const LOG_FILES_MAX: u32 = 5;

/// What a runtime works with.
#[derive(Clone)]
pub struct RuntimeOptions {
    /// A folder in memory (below `/run`), for what lives as long as the machine runs.
    pub state_dir: PathBuf,
    /// A folder on disk, for what containers write.
    pub root_dir: PathBuf,
    /// Where control groups are mounted: `/sys/fs/cgroup`.
    pub cgroup_root: PathBuf,
    /// The pod network.
    pub network: Arc<dyn cni::Network>,
    /// The images.
    pub images: Arc<dyn ImageSource>,
    /// Size in bytes from which on a log file is rotated; 0 never.
    pub log_bytes_max: u64,
    /// How many log files are kept of a container, the current one included.
    pub log_files_max: u32,
    /// How many files a container may have open at first; `None` for as many as this process may.
    pub open_files: Option<OpenFiles>,
}

/// A limit on open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// What holds.
    pub soft: u64,
    /// As far as it can be raised.
    pub hard: u64,
}

impl RuntimeOptions {
    /// Options with upstream's defaults.
    pub fn new(
        state_dir: impl Into<PathBuf>,
        root_dir: impl Into<PathBuf>,
        network: Arc<dyn cni::Network>,
        images: Arc<dyn ImageSource>,
    ) -> Self {
        RuntimeOptions {
            state_dir: state_dir.into(),
            root_dir: root_dir.into(),
            cgroup_root: PathBuf::from("/sys/fs/cgroup"),
            network,
            images,
            log_bytes_max: LOG_BYTES_MAX,
            log_files_max: LOG_FILES_MAX,
            open_files: None,
        }
    }
}

/// The built-in runtime; clones share it. Dropping it leaves everything running.
#[derive(Clone)]
pub struct BuiltIn {
    inner: Arc<Inner>,
}

struct Inner {
    options: RuntimeOptions,
    cgroups: Cgroups,
    launcher: Launcher,
    events: EventSender,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    tasks: stdx::TaskTree,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.cancel().cancel();
    }
}

/// A sandbox as the runtime holds it.
struct Sandbox {
    id: String,
    /// Its folder below `state_dir`.
    folder: PathBuf,
    record: Mutex<SandboxRecord>,
    /// Its supervisor while that lives.
    supervisor: watch::Sender<Option<Supervisor>>,
    /// Held by whoever stops or removes it, or makes a container in it.
    changing: tokio::sync::Mutex<()>,
}

/// A container as the runtime holds it.
struct Container {
    id: String,
    sandbox: Arc<Sandbox>,
    record: Mutex<ContainerRecord>,
    /// Its supervisor's last word.
    report: watch::Sender<Option<Report>>,
    /// Held by whoever starts or removes it.
    changing: tokio::sync::Mutex<()>,
}

/// Locks what no holder panics with.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

/// Now, in nanoseconds since 1970.
fn now() -> i64 {
    i64::try_from(stdx::wall().as_nanosecond()).unwrap_or(i64::MAX)
}

/// 64 hexadecimal digits.
fn new_id() -> String {
    let mut bytes = [0; 32];
    stdx::random(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An error of `operation`, with its causes.
fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Internal(format!("{operation}: {error}"))
}

/// An error of `operation` on a control group, with its cause.
fn group_failed(error: crate::cgroup::CgroupError) -> Error {
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    Error::Internal(format!("{error}: {cause}"))
}

fn call_failed(operation: &'static str) -> impl FnOnce(CallError) -> Error {
    move |error| match error {
        CallError::Lost => Error::Unavailable(format!("{operation}: {error}")),
        CallError::Late => Error::DeadlineExceeded(format!("{operation}: {error}")),
        CallError::Io(cause) => Error::Internal(format!("{operation}: {cause}")),
        error => Error::Internal(format!("{operation}: {error}")),
    }
}

/// Runs work on files on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Internal(format!("work on files: {error}"))))
}

/// Runs `work` to its end even when the caller stops waiting, so that nothing stays half done.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    stdx::spawn(work).await.unwrap_or_else(|_| Err(Error::Internal("the runtime was ended meanwhile".into())))
}

impl Inner {
    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        lock(&self.sandboxes).get(id).cloned().ok_or_else(|| Error::no_sandbox(id))
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        lock(&self.containers).get(id).cloned().ok_or_else(|| Error::no_container(id))
    }

    fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        lock(&self.containers).values().filter(|container| container.sandbox.id == sandbox_id).cloned().collect()
    }

    /// Where what a container writes is kept.
    /// Where a pod's files are. On disk, since containers may write to them: what keeps the runtime's own state would else
    /// be filled by whoever fills `/etc/hosts`.
    fn sandbox_files(&self, id: &str) -> PathBuf {
        self.options.root_dir.join("sandboxes").join(id)
    }

    fn container_root(&self, id: &str) -> PathBuf {
        self.options.root_dir.join("containers").join(id)
    }

    fn log_limits(&self) -> LogLimits {
        LogLimits { bytes_max: self.options.log_bytes_max, files_max: self.options.log_files_max }
    }

    fn announce(&self, container_id: &str, sandbox: &Sandbox, event_type: ContainerEventType) {
        self.events.send(ContainerEvent {
            container_id: container_id.to_owned(),
            pod_sandbox_id: sandbox.id.clone(),
            pod: lock(&sandbox.record).config.metadata.clone(),
            event_type,
            created_at: now(),
        });
    }
}

impl Sandbox {
    fn new(folder: PathBuf, record: SandboxRecord) -> Arc<Sandbox> {
        Arc::new(Sandbox {
            id: record.id.clone(),
            folder,
            record: Mutex::new(record),
            supervisor: watch::Sender::new(None),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// Its supervisor, which is needed for what `operation` says.
    fn supervisor(&self, operation: &'static str) -> Result<Supervisor> {
        let supervisor = self.supervisor.borrow().clone();
        supervisor.ok_or_else(|| Error::FailedPrecondition(format!("{operation}: sandbox {:?} is not ready", self.id)))
    }

    fn ready(&self) -> bool {
        lock(&self.record).ready && self.supervisor.borrow().is_some()
    }

    /// The control group of the pod.
    fn pod_group(&self) -> String {
        lock(&self.record).config.linux.cgroup_parent.clone()
    }

    /// The control group `name` in the pod's.
    fn group(&self, name: &str) -> String {
        format!("{}/{name}", self.pod_group())
    }
}

impl Container {
    fn new(sandbox: Arc<Sandbox>, record: ContainerRecord, report: Option<Report>) -> Arc<Container> {
        Arc::new(Container {
            id: record.id.clone(),
            sandbox,
            record: Mutex::new(record),
            report: watch::Sender::new(report),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// Its folder in its sandbox's.
    fn folder(&self) -> PathBuf {
        self.sandbox.folder.join(&self.id)
    }

    /// Its control group.
    fn group(&self) -> String {
        self.sandbox.group(&self.id)
    }

    fn status(&self) -> cri::ContainerStatus {
        view::container(&lock(&self.record), self.report.borrow().as_ref())
    }
}
