//! The container runtimes that clusters of tests run on: the built-in one, and real containerds on the test's machine.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::clock::until;
use crate::cluster::{named, ran};
use crate::machine::{Machine, source};

/// Which runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    BuiltIn,
    /// The oldest containerd that is promised.
    Containerd16,
    /// The newest that runs here.
    Containerd2,
}

impl Runtime {
    /// The one that this test is run on, or else a whole run of the tests: `ISOPOD_RUNTIME` is `1.6` or `2`.
    pub fn of_run() -> Runtime {
        if let Some(chosen) = CHOSEN.get() {
            return chosen;
        }
        match std::env::var("ISOPOD_RUNTIME").as_deref() {
            Ok("1.6") => Runtime::Containerd16,
            Ok("2") => Runtime::Containerd2,
            Ok(other) => panic!("ISOPOD_RUNTIME: {other:?} is no runtime"),
            Err(_) => Runtime::BuiltIn,
        }
    }

    /// Starts it on a machine, where it is a program of its own.
    pub fn start(self, machine: &Machine) -> Option<Containerd> {
        let index = match self {
            Runtime::BuiltIn => return None,
            Runtime::Containerd16 => 0,
            Runtime::Containerd2 => 1,
        };
        let value = std::env::var_os("ISOPOD_CONTAINERDS");
        let programs = value.iter().flat_map(std::env::split_paths).nth(index);
        let programs = programs.expect("ISOPOD_CONTAINERDS names two: run these tests through `cargo xtask test`");
        Some(Containerd::start(machine, programs))
    }
}

thread_local! {
    /// What the running test was asked to run on.
    static CHOSEN: Cell<Option<Runtime>> = const { Cell::new(None) };
}

/// Runs a test on a runtime.
pub fn on(runtime: Runtime, test: fn()) {
    CHOSEN.set(Some(runtime));
    test();
}

/// A running containerd; it goes with its machine.
pub struct Containerd {
    folder: PathBuf,
    programs: PathBuf,
    child: Child,
}

impl Containerd {
    fn start(machine: &Machine, programs: PathBuf) -> Containerd {
        let folder = machine.folder.join("containerd");
        for name in ["net.d", "bin", "opt"] {
            std::fs::create_dir_all(folder.join(name)).expect("make a folder");
        }
        std::fs::write(folder.join("config.toml"), configuration(&folder)).expect("write a configuration");
        let mut containerd = Containerd { child: run(machine, &folder, &programs), folder, programs };
        containerd.is_ready();
        containerd.load(machine, &named("ISOPOD_PAUSE_IMAGE"));
        containerd
    }

    fn is_ready(&mut self) {
        let log = self.folder.join("log");
        until("containerd listens", || {
            if let Some(ended) = self.child.try_wait().expect("ask for the end of containerd") {
                panic!("containerd ended with {ended}:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            log.contains("containerd successfully booted").then_some(())
        });
    }

    /// Ends it without asking and starts it anew, under its containers.
    pub fn restart(&mut self, machine: &Machine) {
        machine.shell(&format!("kill -9 $(cat {})", machine.folder.join("containerd.pid").display()));
        self.start_again(machine);
    }

    /// The same, configured anew.
    pub fn configure(&mut self, machine: &Machine, old: &str, new: &str) {
        let file = self.folder.join("config.toml");
        let text = std::fs::read_to_string(&file).expect("read a configuration");
        assert!(text.contains(old), "{text}");
        std::fs::write(&file, text.replace(old, new)).expect("write a configuration");
        self.restart(machine);
    }

    /// Gives its images and containers a disk of their own, with so many mebibytes; it has none yet.
    pub fn on_a_disk_of_its_own(&mut self, machine: &Machine, mebibytes: u32) {
        let (pid, root) = (machine.folder.join("containerd.pid"), self.folder.join("root"));
        machine.shell(&format!(
            "kill -9 $(cat {}) && mount -t tmpfs -o size={mebibytes}m tmpfs {}",
            pid.display(),
            root.display()
        ));
        self.start_again(machine);
        self.load(machine, &named("ISOPOD_PAUSE_IMAGE"));
    }

    /// Starts it anew when it has ended.
    pub fn start_again(&mut self, machine: &Machine) {
        self.child.wait().expect("wait for containerd");
        std::fs::remove_file(self.folder.join("log")).expect("remove the log");
        self.child = run(machine, &self.folder, &self.programs);
        self.is_ready();
    }

    /// What `up` has to be told.
    pub fn options(&self) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        vec![
            "--container-runtime-endpoint".into(),
            format!("unix://{}", path("containerd.sock")),
            "--cni-conf-dir".into(),
            path("net.d"),
            "--cni-bin-dir".into(),
            path("bin"),
        ]
    }

    /// The folder of network configurations.
    pub fn configurations(&self) -> PathBuf {
        self.folder.join("net.d")
    }

    /// The folder of network plugins.
    pub fn plugins(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// Tells it that a registry speaks without TLS.
    pub fn plain_registry(&self, address: &str) {
        let folder = self.folder.join("registries").join(address);
        std::fs::create_dir_all(&folder).expect("make a folder");
        std::fs::write(folder.join("hosts.toml"), format!("server = \"http://{address}\"\n")).expect("write a file");
    }

    /// Makes an image present.
    pub fn load(&self, machine: &Machine, archive: &Path) {
        self.ctr(machine, &["images", "import", &archive.display().to_string()]);
    }

    /// Runs containerd's own client among what CRI sees; what it printed.
    pub fn ctr(&self, machine: &Machine, arguments: &[&str]) -> String {
        let mut ctr = machine.command("ctr", &self.programs.join("ctr"));
        ctr.arg("--address").arg(self.folder.join("containerd.sock")).args(["--namespace", "k8s.io"]).args(arguments);
        let ran = ran(&mut ctr);
        assert_eq!(ran.code, Some(0), "ctr {}: {}{}", arguments.join(" "), ran.stdout, ran.stderr);
        ran.stdout
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("level=info")).collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Lets it end with its machine.
    pub fn forget(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("end containerd: {error}");
        }
    }
}

fn run(machine: &Machine, folder: &Path, programs: &Path) -> Child {
    let mut command: Command = machine.command("containerd", Path::new("/bin/sh"));
    command.arg(source("containerd.sh")).arg(folder).arg(programs).stdin(Stdio::null());
    command.spawn().expect("run nsenter")
}

/// Everything below one folder; what this machine cannot do is switched off.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.tracing",
    "io.containerd.nri.v1.nri"]
[grpc]
address = "{folder}/containerd.sock"
[ttrpc]
address = "/run/containerd/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:test"
disable_apparmor = true
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{folder}/registries"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{folder}/bin"
conf_dir = "{folder}/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}
