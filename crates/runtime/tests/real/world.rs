//! A runtime of a test's own, with busybox as its only image, that leaves nothing behind.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cni::{AddRequest, AddResult, CheckRequest, CniError, DelRequest, GcRequest};
use cri::{
    ContainerConfig, ContainerEventType, ContainerMetadata, ContainerState, ContainerStatus, DnsConfig, Image,
    ImageFsInfo, ImageService, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxFilter,
    PodSandboxMetadata, PullImageRequest, RuntimeEvent, RuntimeService,
};
use futures_util::FutureExt;
use runtime::{BuiltIn, ImageConfig, ImageRoot, ImageSource, OpenFiles, RuntimeOptions};
use stdx::BoxFuture;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network that gives addresses and remembers who has one.
#[derive(Default)]
pub(crate) struct TestNetwork {
    pub(crate) attached: Mutex<BTreeSet<String>>,
}

impl cni::Network for TestNetwork {
    fn add<'a>(&'a self, request: &'a AddRequest) -> BoxFuture<'a, Result<AddResult, CniError>> {
        assert!(request.netns.exists(), "the namespace exists while it is connected");
        self.attached.lock().unwrap().insert(request.container_id.clone());
        let ip = cni::IpConfig { address: "10.0.0.7/24".parse().unwrap(), gateway: None, interface: None };
        let result = AddResult {
            cni_version: cni::CNI_VERSION.into(),
            interfaces: vec![],
            ips: vec![ip],
            routes: vec![],
            dns: cni::Dns::default(),
        };
        Box::pin(async move { Ok(result) })
    }

    fn check<'a>(&'a self, _request: &'a CheckRequest) -> BoxFuture<'a, Result<(), CniError>> {
        Box::pin(async { Ok(()) })
    }

    fn del<'a>(&'a self, request: &'a DelRequest) -> BoxFuture<'a, Result<(), CniError>> {
        self.attached.lock().unwrap().remove(&request.container_id);
        Box::pin(async { Ok(()) })
    }

    fn gc<'a>(&'a self, request: &'a GcRequest) -> BoxFuture<'a, Result<(), CniError>> {
        self.attached.lock().unwrap().retain(|id| request.valid.contains(id));
        Box::pin(async { Ok(()) })
    }

    fn status(&self) -> BoxFuture<'_, Result<(), CniError>> {
        Box::pin(async { Ok(()) })
    }
}

/// One image named `busybox`.
pub(crate) struct TestImages {
    layer: PathBuf,
    pub(crate) config: Mutex<ImageConfig>,
    pub(crate) holders: Mutex<BTreeSet<String>>,
}

impl ImageService for TestImages {
    fn pull_image(&self, _request: PullImageRequest) -> BoxFuture<'_, cri::Result<String>> {
        Box::pin(async { Ok("busybox".into()) })
    }
    fn image_status<'a>(&'a self, _image: &'a ImageSpec) -> BoxFuture<'a, cri::Result<Option<Image>>> {
        Box::pin(async { Ok(None) })
    }
    fn list_images(&self) -> BoxFuture<'_, cri::Result<Vec<Image>>> {
        Box::pin(async { Ok(vec![]) })
    }
    fn remove_image<'a>(&'a self, _image: &'a ImageSpec) -> BoxFuture<'a, cri::Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn image_fs_info(&self) -> BoxFuture<'_, cri::Result<ImageFsInfo>> {
        Box::pin(async { Ok(ImageFsInfo::default()) })
    }
}

impl ImageSource for TestImages {
    fn root<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, cri::Result<Option<ImageRoot>>> {
        let root = ImageRoot {
            id: "sha256:busybox".into(),
            image_ref: "busybox@sha256:0".into(),
            layers: vec![self.layer.clone()],
            config: self.config.lock().unwrap().clone(),
        };
        let known = ["busybox", "sha256:busybox"].contains(&reference);
        Box::pin(async move { Ok(known.then_some(root)) })
    }
    fn hold(&self, _image_id: &str, container: &str) {
        self.holders.lock().unwrap().insert(container.into());
    }
    fn release(&self, _image_id: &str, container: &str) {
        self.holders.lock().unwrap().remove(container);
    }
    fn retain(&self, containers: &BTreeSet<String>) -> cri::Result<()> {
        self.holders.lock().unwrap().retain(|holder| containers.contains(holder));
        Ok(())
    }
}

/// A test's machine.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) runtime: BuiltIn,
    pub(crate) network: Arc<TestNetwork>,
    pub(crate) images: Arc<TestImages>,
    pub(crate) cgroup: String,
    pub(crate) options: RuntimeOptions,
}

fn make_layer(layer: &Path) {
    let busybox = Path::new("/bin/busybox");
    assert!(busybox.exists(), "these tests need Debian's busybox-static at /bin/busybox");
    for folder in ["bin", "etc", "tmp", "home/web"] {
        std::fs::create_dir_all(layer.join(folder)).unwrap();
    }
    std::fs::copy(busybox, layer.join("bin/busybox")).unwrap();
    let applets = std::process::Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    std::fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n").unwrap();
    std::fs::write(layer.join("etc/group"), "root:x:0:\nwww:x:34:\nextra:x:50:web\n").unwrap();
    std::fs::write(layer.join("bin/garbage"), "no program").unwrap();
    std::fs::write(layer.join("bin/plain"), "").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(layer.join("bin/garbage"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(layer.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
}

/// The folder of the world called `name`, of this process.
fn folder_of(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("isopod-test-{name}-{}", std::process::id()))
}

/// Runs `body` in a world of its own; afterwards everything is removed and must be gone, whatever happened.
pub(crate) fn with_world(name: &str, body: impl AsyncFnOnce(&mut World)) {
    let folder = folder_of(name);
    make_layer(&folder.join("layer"));
    let executor = executor();
    executor.block_on(async {
        let mut world = World::open(&folder).await;
        let outcome = AssertUnwindSafe(tokio::time::timeout(PATIENCE, body(&mut world))).catch_unwind().await;
        let left = AssertUnwindSafe(world.clean()).catch_unwind().await;
        match outcome {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(outcome) => outcome.expect("the test ends in time"),
        }
        if let Err(panic) = left {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `body` in a world that another process made and cleans up.
pub(crate) fn in_world(folder: &Path, body: impl AsyncFnOnce(&World)) {
    executor().block_on(async { body(&World::open(folder).await).await });
}

fn executor() -> tokio::runtime::Runtime {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl World {
    async fn open(folder: &Path) -> World {
        let network: Arc<TestNetwork> = Arc::default();
        let layer = folder.join("layer");
        let images = Arc::new(TestImages { layer, config: Mutex::default(), holders: Mutex::default() });
        let options = RuntimeOptions::new(folder.join("state"), folder.join("data"), network.clone(), images.clone());
        // Unlike what any machine has.
        let options = RuntimeOptions { open_files: Some(OpenFiles { soft: 600, hard: 700 }), ..options };
        let runtime = BuiltIn::open(options.clone()).await.unwrap();
        let cgroup = format!("/{}", folder.file_name().unwrap().to_string_lossy());
        World { folder: folder.to_owned(), runtime, network, images, cgroup, options }
    }

    /// A runtime on the same folders, after the one before was lost.
    pub(crate) async fn reopen(&mut self) {
        self.runtime = BuiltIn::open(self.options.clone()).await.unwrap();
    }

    pub(crate) fn sandbox_config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            },
            hostname: "test-pod".into(),
            log_directory: self.folder.join("logs").join(name).to_string_lossy().into_owned(),
            dns_config: Some(DnsConfig { servers: vec!["10.96.0.10".into()], ..DnsConfig::default() }),
            linux: LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/pod-{name}", self.cgroup),
                ..LinuxPodSandboxConfig::default()
            },
            ..PodSandboxConfig::default()
        }
    }

    pub(crate) async fn sandbox(&self) -> String {
        self.runtime.run_pod_sandbox(self.sandbox_config("one")).await.unwrap()
    }

    /// Makes a container.
    pub(crate) async fn create(&self, sandbox: &str, config: ContainerConfig) -> cri::Result<String> {
        self.runtime.create_container(sandbox, config, &PodSandboxConfig::default()).await
    }

    /// Makes and starts a container.
    pub(crate) async fn start(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.create(sandbox, config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    pub(crate) async fn status(&self, id: &str) -> ContainerStatus {
        self.runtime.container_status(id).await.unwrap()
    }

    /// Runs a container to its end.
    pub(crate) async fn run(&self, sandbox: &str, config: ContainerConfig) -> ContainerStatus {
        let mut events = self.runtime.events();
        let id = self.start(sandbox, config).await;
        while self.status(&id).await.state != ContainerState::Exited {
            match events.next().await {
                Some(RuntimeEvent::Container(event)) if event.event_type == ContainerEventType::Stopped => {}
                Some(_) => {}
                None => panic!("the runtime lives"),
            }
        }
        self.status(&id).await
    }

    /// Runs a script to its end and answers what it wrote, both streams together.
    pub(crate) async fn output(&self, sandbox: &str, config: ContainerConfig) -> String {
        let status = self.run(sandbox, config).await;
        log(&status).into_iter().map(|(_, _, text)| text + "\n").collect()
    }

    async fn clean(&mut self) {
        for sandbox in self.runtime.list_pod_sandbox(PodSandboxFilter::default()).await.unwrap() {
            self.runtime.remove_pod_sandbox(&sandbox.id).await.unwrap();
        }
        let controllers = std::fs::read_dir("/sys/fs/cgroup").unwrap();
        for controller in controllers.map(|controller| controller.unwrap().path()) {
            let group = controller.join(&self.cgroup[1..]);
            if group.exists() {
                std::fs::remove_dir(&group).unwrap_or_else(|error| panic!("{} is left: {error}", group.display()));
            }
        }
        let folder = self.folder.to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&folder), "a mount is left");
        assert_eq!(processes_of(&folder), Vec::<u32>::new(), "processes are left");
        for empty in ["state/sandboxes", "data/containers", "data/sandboxes"] {
            let left: Vec<_> = std::fs::read_dir(self.folder.join(empty)).unwrap().collect();
            assert!(left.is_empty(), "{left:?} is left");
        }
        assert!(self.network.attached.lock().unwrap().is_empty(), "a network is left");
        assert!(self.images.holders.lock().unwrap().is_empty(), "an image is held");
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// Supervisors of the world in `folder`.
pub(crate) fn processes_of(folder: &str) -> Vec<u32> {
    let entries =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        cmdline.starts_with(b"isopod-shim\0") && String::from_utf8_lossy(&cmdline).contains(folder)
    };
    entries.filter(ours).collect()
}

/// A container that runs a shell script.
pub(crate) fn script(name: &str, script: &str) -> ContainerConfig {
    command(name, &["/bin/sh", "-c", script])
}

/// A container that runs a program.
pub(crate) fn command(name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: name.into(), attempt: 0 },
        image: ImageSpec::named("busybox"),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}/0.log"),
        ..ContainerConfig::default()
    }
}

/// A container's log: stream, tag and text of each line. The time must be one.
pub(crate) fn log(status: &ContainerStatus) -> Vec<(String, String, String)> {
    parse_log(&std::fs::read_to_string(&status.log_path).unwrap())
}

pub(crate) fn parse_log(text: &str) -> Vec<(String, String, String)> {
    let line = |line: &str| {
        let mut parts = line.splitn(4, ' ').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_else(|| panic!("malformed line {line:?}"));
        let time = part();
        assert!(time.len() >= 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "malformed time {time:?}");
        (part(), part(), part())
    };
    // Not `lines`, which takes a terminal's carriage returns away.
    text.split_terminator('\n').map(line).collect()
}

/// Waits for the end of a process that is not ours.
pub(crate) fn wait_for_end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    let Ok(file) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
    let mut entries = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut entries, Some(&limit)).unwrap(), 1, "{pid:?} does not end");
}
