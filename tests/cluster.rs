//! A cluster on a machine of its own, and kubectl to speak to it with.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::clock::until;
use crate::machine::Machine;
use crate::runtime::{Containerd, Runtime};

/// A running cluster; its machine goes with it.
pub struct Cluster {
    pub machine: Machine,
    /// The runtime, where it is a program of its own.
    pub containerd: Option<Containerd>,
    isopod: PathBuf,
    up: Option<Up>,
}

/// A running `isopod up`.
struct Up {
    child: Child,
    said: Arc<Mutex<VecDeque<String>>>,
}

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Cluster {
    /// A cluster in which the images of the example and of busybox are present.
    pub fn start() -> Cluster {
        Cluster::start_with(&[])
    }

    /// The same, with more options for `up`.
    pub fn start_with(options: &[&str]) -> Cluster {
        Cluster::start_on(Runtime::of_run(), options)
    }

    /// The same, on a runtime.
    pub fn start_on(runtime: Runtime, options: &[&str]) -> Cluster {
        let mut cluster = Cluster::absent_on(runtime);
        cluster.load("ISOPOD_EXAMPLE_IMAGE");
        cluster.load("ISOPOD_BUSYBOX_IMAGE");
        cluster.up(options);
        cluster.node_is_ready();
        cluster
    }

    /// A cluster without images.
    pub fn absent_and_up() -> Cluster {
        let mut cluster = Cluster::absent();
        cluster.up(&[]);
        cluster
    }

    /// A machine on which no cluster runs yet.
    pub fn absent() -> Cluster {
        Cluster::absent_on(Runtime::of_run())
    }

    /// The same, with a runtime.
    pub fn absent_on(runtime: Runtime) -> Cluster {
        let machine = Machine::start();
        Cluster { containerd: runtime.start(&machine), machine, isopod: named("ISOPOD_BINARY"), up: None }
    }

    /// Does something to the runtime, where it is a program of its own.
    pub fn runtime(&mut self, act: fn(&mut Containerd, &Machine)) {
        if let Some(containerd) = &mut self.containerd {
            act(containerd, &self.machine);
        }
    }

    /// Where the cluster keeps everything.
    pub fn data(&self) -> PathBuf {
        self.machine.folder.join("data")
    }

    /// A run of the binary; the data folder is named already.
    pub fn isopod(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.command("isopod", &self.isopod);
        command.args(arguments).arg("--data-dir").arg(self.data());
        command
    }

    /// Loads the image whose archive an environment variable names.
    pub fn load(&self, variable: &str) {
        let archive = named(variable);
        if let Some(containerd) = &self.containerd {
            return containerd.load(&self.machine, &archive);
        }
        let mut load = self.isopod(&["image", "load"]);
        let ran = ran(load.arg(&archive));
        assert_eq!(ran.code, Some(0), "load {}: {}", archive.display(), ran.stderr);
    }

    /// Starts `isopod up` and waits until it says where the kubeconfig is.
    pub fn up(&mut self, options: &[&str]) {
        self.start_up(self.machine.command("up", &self.isopod), options);
        self.wait_for("export KUBECONFIG=");
    }

    /// Starts `isopod agent`, which makes this machine a node of another cluster, and waits until it runs.
    pub fn agent(&mut self, options: &[&str]) {
        self.start_as(self.machine.command("up", &self.isopod), "agent", options);
        self.wait_for("its pods have addresses of");
    }

    /// Starts `isopod up` as that command, without waiting.
    pub fn start_up(&mut self, command: Command, options: &[&str]) {
        self.start_as(command, "up", options);
    }

    fn start_as(&mut self, mut command: Command, verb: &str, options: &[&str]) {
        let log =
            File::options().create(true).append(true).open(self.machine.folder.join("up.log")).expect("open a log");
        command.arg(verb).arg("--data-dir").arg(self.data()).args(options);
        command.args(self.containerd.iter().flat_map(Containerd::options));
        // A test's machine shares its disk with whatever else runs here, builds above all: how full that is is no test's subject.
        if !options.contains(&"--eviction-hard") {
            command.args(["--eviction-hard", "memory.available<10Mi"]);
        }
        command.env("ISOPOD_LOG", "info").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("run nsenter");
        let output = child.stdout.take().expect("it is piped");
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                heard.lock().expect("nothing panics with the lock").push_back(line);
            }
        });
        self.up = Some(Up { child, said });
    }

    /// Waits for a line of `up` that contains `text`; returns all lines up to it.
    pub fn wait_for(&mut self, text: &str) -> Vec<String> {
        let up = self.up.as_mut().expect("up was started");
        let mut lines = Vec::new();
        until(&format!("up says {text:?}"), || {
            let ended = up.child.try_wait().expect("ask for the end of up");
            let mut said = up.said.lock().expect("nothing panics with the lock");
            while let Some(line) = said.pop_front() {
                lines.push(line);
                if lines.last().is_some_and(|line| line.contains(text)) {
                    return Some(());
                }
            }
            assert!(ended.is_none(), "up ended with {ended:?} before it said {text:?}; it said: {lines:#?}");
            None
        });
        lines
    }

    /// Waits until the node is ready for pods.
    pub fn node_is_ready(&self) {
        // kubectl waits for nothing that is not there; another runtime is asked what it is before the node registers.
        until("there is a node", || (!self.kubectl(&["get", "nodes", "-o", "name"]).is_empty()).then_some(()));
        self.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=30s"]);
    }

    /// Ends control plane and agent without asking, and waits until they have.
    pub fn kill(&mut self) {
        let mut up = self.up.take().expect("up was started");
        self.machine.shell(&format!("kill -9 $(cat {})", self.machine.folder.join("up.pid").display()));
        up.child.wait().expect("wait for up");
    }

    /// Lets the machine lose its power and come back, with nothing running yet; `meanwhile` happens to its disk.
    pub fn lose_power(&mut self, meanwhile: impl FnOnce()) {
        let mut up = self.up.take().expect("up was started");
        self.machine.lose_power(meanwhile);
        up.child.wait().expect("wait for up");
    }

    /// Asks control plane and agent to end, and waits until they have; returns what they said.
    pub fn interrupt(&mut self) -> Vec<String> {
        self.machine.shell(&format!("kill -INT $(cat {})", self.machine.folder.join("up.pid").display()));
        let (status, lines) = self.ended();
        assert_eq!(status, Some(0), "{lines:#?}");
        lines
    }

    /// Waits until `up` has ended; its exit code and what it said.
    pub fn ended(&mut self) -> (Option<i32>, Vec<String>) {
        let mut up = self.up.take().expect("up was started");
        let status = until("up ends", || up.child.try_wait().expect("ask for the end of up"));
        let lines = up.said.lock().expect("nothing panics with the lock").drain(..).collect();
        (status.code(), lines)
    }

    /// What the log of `up` holds.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.machine.folder.join("up.log")).unwrap_or_default()
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("admin.kubeconfig")
    }

    /// The environment of a kubectl on this machine.
    pub fn kubectl_command(&self, kubectl: &Path) -> Command {
        let mut command = Command::new(kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", &self.machine.folder).stdin(Stdio::null());
        command.current_dir(crate::machine::source("files"));
        command
    }

    /// Runs kubectl of the API level; fails the test unless it succeeds. Returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let ran = self.try_kubectl(arguments);
        assert_eq!(ran.code, Some(0), "kubectl {}:\n{}{}", arguments.join(" "), ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Runs kubectl of the API level.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Ran {
        ran(self.kubectl_command(&kubectls()[1]).args(arguments))
    }

    /// An object, or a list of them, as JSON.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat());
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// Creates or changes what a manifest says.
    pub fn apply(&self, manifest: &str) {
        use std::io::Write as _;
        let mut command = self.kubectl_command(&kubectls()[1]);
        command.args(["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("run kubectl");
        child.stdin.take().expect("it is piped").write_all(manifest.as_bytes()).expect("write to kubectl");
        let output = child.wait_with_output().expect("wait for kubectl");
        assert!(output.status.success(), "apply: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the log of up:");
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(60)..].iter().for_each(|line| eprintln!("{line}"));
            if let Some(containerd) = &self.containerd {
                eprintln!("--- the end of the log of containerd:\n{}", containerd.log());
            }
            for what in ["pods", "events"] {
                let seen = self.try_kubectl(&["get", what, "-A", "--request-timeout=5s"]);
                eprintln!("--- kubectl get {what} -A:\n{}{}", seen.stdout, seen.stderr);
            }
        }
        if let Some(containerd) = &mut self.containerd {
            containerd.forget();
        }
        if let Some(up) = &mut self.up {
            // Its process in the machine ends with the machine; this is the one that waits for it.
            if let Err(error) = up.child.kill().and_then(|()| up.child.wait().map(drop)) {
                eprintln!("end up: {error}");
            }
        }
    }
}

/// Runs a program to its end.
pub fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap_or_else(|error| panic!("run {:?}: {error}", command.get_program()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// The real kubectls, oldest first: the oldest that is promised, that of the API level, the newest.
pub fn kubectls() -> Vec<PathBuf> {
    let value = std::env::var_os("ISOPOD_KUBECTLS");
    let paths: Vec<PathBuf> = value.iter().flat_map(std::env::split_paths).collect();
    assert_eq!(paths.len(), 3, "ISOPOD_KUBECTLS does not name three: run these tests through `cargo xtask test`");
    paths
}

/// The file that an environment variable names.
pub fn named(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path = path.unwrap_or_else(|| panic!("{variable} is not set: run these tests through `cargo xtask test`"));
    assert!(path.exists(), "{variable}: {} does not exist", path.display());
    path
}
