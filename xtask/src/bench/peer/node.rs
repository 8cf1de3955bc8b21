//! The rest of the peer's cluster on this machine: controllers, scheduler, agent and container runtime.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use pki::kubeconfig::Kubeconfig;
use runtime::image::ImageConfig;
use runtime::image::pack::{PackEntry, PackSpec, pack};
use rustix::mount::{UnmountFlags, unmount};

use super::super::server::{Cores, Server, running};
use super::super::stage::Stage;
use super::{Keys, SERVER, spawn};
use crate::place;

const SOCKET: &str = "/run/containerd.sock";
const PAUSE: &str = "bench.local/pause:1";
/// What runs in a pod's first container; the program's name says which of its commands is meant.
pub const PAUSE_EXE: &str = "/busybox";
/// Below this control group of each hierarchy its pods are, and nobody else's.
const CGROUP: &str = "isopod-bench-peer";
/// Longer than its parts need to start or its pods to end.
const STEP_MAX: Duration = Duration::from_secs(30);

/// Whether the folder has all that a node takes.
pub fn is_complete(binaries: &Path) -> bool {
    let needed = [
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kubectl",
        "containerd",
        "containerd-shim-runc-v2",
        "ctr",
        "runc",
        "busybox",
        "cni/bridge",
        "cni/host-local",
        "cni/loopback",
    ];
    needed.iter().all(|name| binaries.join(name).exists())
}

/// Starts a whole cluster: store, API server and runtime at once, the rest as soon as the API is ready. The example's image is
/// there before, as it is for ours.
pub async fn start(stage: &Stage, binaries: &Path) -> Result<Server> {
    let folder = super::new_folder(stage)?;
    let node = Node { binaries: binaries.to_owned(), folder: folder.clone() };
    node.prepare(stage).await?;
    let mut server = super::start_in(stage, binaries, folder, Cores::All, vec![node.containerd()?]).await?;
    for child in node.rest()? {
        server.add(child);
    }
    Ok(server)
}

/// Applies the example's files.
pub fn apply_example(stage: &Stage, binaries: &Path) -> Result<()> {
    for file in ["namespace.yaml", "deployment.yaml"] {
        let mut kubectl = Command::new(binaries.join("kubectl"));
        kubectl.arg("--kubeconfig").arg(stage.folder().join("peer/kubeconfig"));
        kubectl.args(["--namespace", "production", "apply", "-f"]).arg(place::root().join("examples").join(file));
        finish(&mut kubectl)?;
    }
    Ok(())
}

/// Ends what the cluster left on the machine; only processes of the bench's own process namespace can be met here.
pub fn clean(folder: &Path, binaries: &Path) -> Result<()> {
    let is_left = |exe: &Path| exe.starts_with(binaries) || exe == Path::new(PAUSE_EXE) || exe == Path::new("/api");
    for pid in running(is_left)? {
        if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
            match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
                // It may have ended by itself meanwhile.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).context("end what the peer left"),
            }
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let is_ours = |point: &&str| Path::new(point).starts_with(folder) || point.starts_with("/run/containerd");
    for point in points.filter(is_ours).collect::<Vec<_>>().into_iter().rev() {
        unmount(point, UnmountFlags::DETACH).with_context(|| format!("unmount {point}"))?;
    }
    for hierarchy in hierarchies()? {
        remove_groups(&hierarchy.join(CGROUP))?;
    }
    Ok(())
}

/// Control groups go only when their processes have gone, which follows the kill by a little.
fn remove_groups(folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    for _ in 0..1000 {
        match std::fs::remove_dir(folder) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                rustix::thread::sched_yield();
            }
            other => return other.with_context(|| format!("remove {}", folder.display())),
        }
    }
    bail!("{} stays busy", folder.display())
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    let folders = std::fs::read_dir("/sys/fs/cgroup")?.filter_map(Result::ok).map(|entry| entry.path());
    Ok(folders.filter(|path| path.join("cgroup.procs").exists()).collect())
}

struct Node {
    binaries: PathBuf,
    folder: PathBuf,
}

impl Node {
    /// Writes the configuration, and loads the images by a runtime that ends again.
    async fn prepare(&self, stage: &Stage) -> Result<()> {
        for hierarchy in hierarchies()? {
            std::fs::create_dir_all(hierarchy.join(CGROUP))?;
        }
        std::fs::create_dir_all(self.folder.join("cni"))?;
        std::fs::write(self.folder.join("cni/10-bench.conflist"), self.network())?;
        std::fs::write(self.folder.join("containerd.toml"), self.runtime())?;
        std::fs::write(self.folder.join("kubelet.yaml"), self.agent())?;
        let busybox = std::fs::read(self.binaries.join("busybox"))?;
        let spec = PackSpec {
            name: PAUSE.into(),
            config: ImageConfig {
                entrypoint: vec![PAUSE_EXE.into(), "sleep".into(), "infinity".into()],
                ..ImageConfig::default()
            },
            entries: vec![PackEntry::file(PAUSE_EXE, 0o755, busybox)],
        };
        let pause = self.folder.join("pause.tar");
        std::fs::write(&pause, pack(&spec)?)?;
        let mut containerd = self.containerd()?;
        self.await_runtime().await?;
        for archive in [&pause, &stage.archive] {
            finish(self.command("ctr").args(["-a", SOCKET, "-n", "k8s.io", "images", "import"]).arg(archive))?;
        }
        rustix::process::kill_process(rustix::process::Pid::from_child(&containerd), rustix::process::Signal::TERM)?;
        containerd.wait()?;
        Ok(())
    }

    async fn await_runtime(&self) -> Result<()> {
        let end = stdx::mono() + STEP_MAX;
        while finish(self.command("ctr").args(["-a", SOCKET, "version"])).is_err() {
            if stdx::mono() > end {
                bail!("containerd does not answer");
            }
            stdx::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// A program of the peer, which finds its others on the path.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{}", self.binaries.display(), path.display()));
        command
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn containerd(&self) -> Result<Child> {
        let mut containerd = self.command("containerd");
        containerd.arg("--config").arg(self.file("containerd.toml"));
        spawn(containerd, &self.folder.join("containerd.log"))
    }

    /// What waits for the API.
    fn rest(&self) -> Result<Vec<Child>> {
        let kubeconfig = format!("--kubeconfig={}", self.file("kubeconfig"));
        let loops = [kubeconfig.as_str(), "--leader-elect=false", "--port=0", "--secure-port=0"];
        let mut controllers = self.command("kube-controller-manager");
        controllers.args(loops);
        controllers.arg(format!("--service-account-private-key-file={}", self.file("tls.key")));
        controllers.arg(format!("--root-ca-file={}", self.file("ca.crt")));
        let mut scheduler = self.command("kube-scheduler");
        scheduler.args(loops);
        let mut kubelet = self.command("kubelet");
        kubelet.arg(&kubeconfig).arg(format!("--config={}", self.file("kubelet.yaml")));
        kubelet.arg(format!("--root-dir={}", self.file("kubelet")));
        kubelet.args(["--container-runtime=remote", "--hostname-override=bench", "--node-ip=127.0.0.1"]);
        kubelet.arg(format!("--container-runtime-endpoint=unix://{SOCKET}"));
        let log = |name: &str| self.folder.join(name);
        Ok(vec![
            spawn(controllers, &log("kube-controller-manager.log"))?,
            spawn(scheduler, &log("kube-scheduler.log"))?,
            spawn(kubelet, &log("kubelet.log"))?,
        ])
    }

    fn network(&self) -> String {
        let ipam = serde_json::json!({
            "type": "host-local",
            "dataDir": self.file("cni-state"),
            "ranges": [[{"subnet": "10.89.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        });
        let bridge = serde_json::json!({"type": "bridge", "bridge": "bench0", "isGateway": true, "ipam": ipam});
        serde_json::json!({"cniVersion": "0.4.0", "name": "bench", "plugins": [bridge]}).to_string()
    }

    fn runtime(&self) -> String {
        let (root, networks) = (self.file("containerd"), self.file("cni"));
        let plugins = self.binaries.join("cni");
        format!(
            r#"version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{}"
    conf_dir = "{networks}"
"#,
            plugins.display()
        )
    }

    fn agent(&self) -> String {
        serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": false},
                "x509": {"clientCAFile": self.file("ca.crt")}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupRoot": format!("/{CGROUP}"),
            "failSwapOn": false,
            // Its service rules are another program's, which is not run here; these would need iptables.
            "makeIPTablesUtilChains": false,
            "enforceNodeAllocatable": [],
            "resolvConf": "",
            // How full the machine's disk is, is not what is measured.
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "volumePluginDir": self.file("plugins"),
        })
        .to_string()
    }
}

/// The administrator's kubeconfig.
pub(super) fn write_kubeconfig(folder: &Path, keys: &Keys) -> Result<()> {
    let wanted = Kubeconfig {
        cluster: "bench",
        user: "admin",
        server: SERVER,
        authority_pem: keys.authority.certificate_pem(),
        client: &keys.admin,
    };
    pki::files::write_private(&folder.join("kubeconfig"), &wanted.text())?;
    Ok(())
}

/// Runs a command to its end, which must be a good one.
fn finish(command: &mut Command) -> Result<()> {
    let done = command.stdin(Stdio::null()).output()?;
    if !done.status.success() {
        bail!("{}: {}", command.get_program().display(), String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}
