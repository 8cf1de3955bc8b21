//! A machine of a test's own: namespaces and control groups in which a cluster may do as it likes, gone with this value.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::LinkNameSpaceType;

/// Numbers the machines of one process.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The machine. As long as it lives, so does its first process; everything in it dies with that.
pub struct Machine {
    /// Everything of it on disk, seen under the same path inside and outside.
    pub folder: PathBuf,
    name: String,
    first: Child,
}

impl Machine {
    /// Makes one, and moves the calling thread, with what it starts from now on, into its network.
    pub fn start() -> Machine {
        let name = format!("isopod-e2e-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir(&folder).expect("make the machine's folder");
        let first = boot(&name, &folder);
        let machine = Machine { folder, name, first };
        machine.move_here();
        machine
    }

    /// What a loss of power does, and that it comes back: every process is gone at once, and with them the network, what is
    /// mounted and what is in `/run`. What is on disk is there. `meanwhile` happens while the machine is off.
    pub fn lose_power(&mut self, meanwhile: impl FnOnce()) {
        report("cut the power", self.first.kill());
        report("wait for the machine", self.first.wait().map(drop));
        self.remove_groups();
        meanwhile();
        self.first = boot(&self.name, &self.folder);
    }

    /// Moves the calling thread into the machine's network.
    pub fn move_here(&self) {
        let network = File::open(format!("/proc/{}/ns/net", self.first.id())).expect("the machine lives");
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network))
            .expect("move into the machine's network: these tests need root");
    }

    /// Lays a cable to another machine; each gets an address on it. It goes with either machine.
    pub fn connect(&self, own: &str, other: &Machine, theirs: &str) {
        self.move_here();
        let peer = other.first.id().to_string();
        let mut ip = Command::new("ip");
        ip.args(["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &peer]);
        assert!(ip.status().expect("run ip").success(), "lay a cable");
        for (machine, address) in [(self, own), (other, theirs)] {
            machine.shell(&format!("ip address add {address}/24 dev cable && ip link set cable up"));
        }
    }

    /// A program that will run inside, with the machine's processes, mounts and groups. Its process id there is in
    /// `NAME.pid` of the machine's folder.
    pub fn command(&self, name: &str, program: &Path) -> Command {
        let first = self.first.id();
        let mut command = Command::new("/usr/bin/nsenter");
        command.args([&format!("--target={first}"), "--net", "--mount", "--cgroup", "--uts", "--ipc"]);
        command.arg(format!("--pid=/proc/{first}/ns/pid_for_children"));
        command.arg("/bin/sh").arg(source("enter.sh")).arg(self.folder.join(format!("{name}.pid"))).arg(program);
        command
    }

    /// Runs a line of shell inside and returns what it printed; fails the test when it fails.
    pub fn shell(&self, line: &str) -> String {
        let output = self.command("shell", Path::new("/bin/sh")).args(["-c", line]).output().expect("run nsenter");
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {}\n{said}{complained}", output.status);
        said.into_owned()
    }

    fn remove_groups(&self) {
        let groups = std::fs::read_to_string(self.folder.join("groups")).unwrap_or_default();
        for group in groups.lines().filter(|group| group.ends_with(&self.name)) {
            report(group, remove_groups(Path::new(group)));
        }
    }
}

/// Starts a machine on its folder; the process that it lives as long as.
fn boot(name: &str, folder: &Path) -> Child {
    let mut command = Command::new("/bin/sh");
    command.arg(source("machine.sh")).arg(name).arg(folder).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut first = command.spawn().expect("run machine.sh");
    let mut line = String::new();
    let output = first.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut line).expect("read what machine.sh says");
    assert_eq!(line, "ready\n", "machine.sh did not make a machine: these tests need root and util-linux");
    first
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With it goes its child, the machine's first process, and with that every process of the machine.
        report("end the machine", self.first.kill());
        report("wait for the machine", self.first.wait().map(drop));
        self.remove_groups();
        report("remove the machine's folder", std::fs::remove_dir_all(&self.folder));
    }
}

/// A file beside this one.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Removes a control group with those below it. What was killed may take a moment to leave its group.
fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    let mut result = std::fs::remove_dir(group);
    for _ in 0..50 {
        if result.is_ok() {
            break;
        }
        crate::clock::pause(std::time::Duration::from_millis(20));
        result = std::fs::remove_dir(group);
    }
    result
}

fn report(what: &str, result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("{what}: {error}");
    }
}
