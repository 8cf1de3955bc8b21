//! A running server, ours or the peer's: how it is reached, what it costs, how it is stopped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use client::ClientConfig;
use client::config::Credentials;
use pki::authority::LEAF_LIFETIME;
use pki::{Authority, Files, Purpose};
use stdx::Mono;

use super::load::Connection;
use super::peer::Place;
use super::peer::node::PAUSE_EXE;
use super::stage::Stage;

/// Longer than any start should take.
const START_MAX: Duration = Duration::from_secs(60);

/// Which cores a process gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    All,
    Servers,
    Load,
}

/// A running server.
pub struct Server {
    /// The administrator's way in.
    pub config: ClientConfig,
    /// A plain user's, whom roles must allow each request: what bears the load.
    pub user: ClientConfig,
    /// From the start of the (last) process to the first `/readyz` that said yes.
    pub ready_after: Duration,
    /// When the first process was started.
    pub started: Mono,
    kind: Kind,
    children: Vec<Child>,
}

enum Kind {
    /// Its data folder and binary, for `down`.
    Isopod {
        binary: PathBuf,
        data: PathBuf,
    },
    Peer(Place),
}

/// The user who bears the load; bound to a role by [`super::pod::prepare`].
pub const USER: &str = "bench";

impl Server {
    /// Starts a cluster with these arguments for `up` and waits until it is ready to serve.
    pub async fn isopod(stage: &Stage, cores: Cores, arguments: &[&str]) -> Result<Server> {
        stage.pin(cores)?;
        let log = std::fs::File::create(stage.folder().join("up.log"))?;
        let mut up = Command::new(&stage.isopod);
        up.args(["up", "--data-dir"]).arg(stage.data()).args(arguments).stdin(Stdio::null());
        // How full the machine's disk is, is not what is measured; the peer is told the same.
        up.args(["--eviction-hard", "memory.available<100Mi"]);
        up.stdout(log.try_clone()?).stderr(log);
        let started = stdx::mono();
        let child = up.spawn().context("start isopod")?;
        stage.pin(Cores::All)?;
        let mut server = Server {
            config: ClientConfig { server: "https://127.0.0.1:6443".into(), insecure: true, ..ClientConfig::default() },
            user: ClientConfig::default(),
            ready_after: Duration::ZERO,
            started,
            kind: Kind::Isopod { binary: stage.isopod.clone(), data: stage.data() },
            children: vec![child],
        };
        server.await_ready().await.with_context(|| stage.log("up.log"))?;
        server.config = ClientConfig::from_kubeconfig(&stage.data().join("admin.kubeconfig"), None)?;
        let authority = Files::open(&stage.data().join("pki"))?.authority("ca", "kubernetes", stdx::wall())?;
        server.user = user(&server.config, &authority)?;
        Ok(server)
    }

    /// A peer whose processes run already.
    pub async fn peer(
        config: ClientConfig,
        authority: &Authority,
        children: Vec<Child>,
        place: Place,
        started: Mono,
    ) -> Result<Server> {
        let (user, ready_after) = (user(&config, authority)?, Duration::ZERO);
        let mut server = Server { config, user, ready_after, started, kind: Kind::Peer(place), children };
        server.await_ready().await?;
        Ok(server)
    }

    /// Takes over a further process of the server, to be ended with it.
    pub fn add(&mut self, child: Child) {
        self.children.push(child);
    }

    async fn await_ready(&mut self) -> Result<()> {
        let connection = Connection::open(&self.config)?;
        let end = self.started + START_MAX;
        loop {
            if matches!(connection.get("/readyz", "*/*").await, Ok(answer) if answer.status == 200) {
                break;
            }
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!("the server ended: {status}");
                }
            }
            if stdx::mono() > end {
                bail!("the server is not ready after {} s", START_MAX.as_secs());
            }
            stdx::sleep(Duration::from_millis(1)).await;
        }
        self.ready_after = stdx::mono() - self.started;
        Ok(())
    }

    /// The server's name and version.
    pub async fn version(&self) -> Result<String> {
        let answer = Connection::open(&self.config)?.get("/version", "application/json").await?;
        let version: serde_json::Value = serde_json::from_slice(&answer.bytes)?;
        Ok(version["gitVersion"].as_str().unwrap_or("unknown").to_owned())
    }

    /// Whether it is not ours.
    pub fn is_peer(&self) -> bool {
        matches!(self.kind, Kind::Peer(_))
    }

    /// The processes that are the server, supervisors of pods included; what runs in containers is not.
    pub fn processes(&self) -> Result<Vec<u32>> {
        match &self.kind {
            // Its supervisors and the pods' first containers included.
            Kind::Peer(place) => running(|exe| exe.starts_with(&place.binaries) || exe == Path::new(PAUSE_EXE)),
            Kind::Isopod { binary, .. } => {
                running(|exe| exe == binary || exe.to_string_lossy().starts_with("/memfd:isopod-shim"))
            }
        }
    }

    /// Processor time that the server's processes have used so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.processes()?.into_iter().map(cpu).sum()
    }

    /// Ends the server and what it left on the machine.
    pub fn stop(mut self) -> Result<()> {
        self.interrupt()?;
        self.clean()
    }

    /// Removes what its processes left.
    fn clean(&self) -> Result<()> {
        match &self.kind {
            Kind::Isopod { binary, data } => {
                let down = Command::new(binary).args(["down", "--purge", "--data-dir"]).arg(data).output()?;
                if !down.status.success() {
                    bail!("isopod down: {}", String::from_utf8_lossy(&down.stderr));
                }
                Ok(())
            }
            Kind::Peer(place) => super::peer::node::clean(&place.folder, &place.binaries),
        }
    }

    /// Ends the server's own processes, the last started first; pods and data stay.
    pub fn interrupt(&mut self) -> Result<()> {
        while let Some(mut child) = self.children.pop() {
            if child.try_wait()?.is_some() {
                continue;
            }
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("end the server")?;
            child.wait()?;
        }
        Ok(())
    }
}

/// A client certificate without any group.
fn user(admin: &ClientConfig, authority: &Authority) -> Result<ClientConfig> {
    let signed = authority.sign(USER, &Purpose::Client { organization: None }, stdx::wall(), LEAF_LIFETIME)?;
    let credentials =
        Credentials::Certificate { chain_pem: signed.certificate_pem.into(), key_pem: signed.key_pem.into() };
    Ok(ClientConfig { credentials, ..admin.clone() })
}

impl Drop for Server {
    /// After a failure nothing of it may bear on the next server.
    fn drop(&mut self) {
        if self.children.is_empty() {
            return;
        }
        if let Err(error) = self.interrupt().and_then(|()| self.clean()) {
            eprintln!("a server left something: {error:#}");
        }
    }
}

impl Stage {
    /// The end of a log of this stage, for an error.
    pub fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.folder().join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// The processes of this process namespace that run such a file.
pub fn running(is_it: impl Fn(&Path) -> bool) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may be gone by now, or be one of the kernel's.
        let Ok(exe) = std::fs::read_link(entry.path().join("exe")) else { continue };
        if is_it(&exe) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// User and system time of a process, of all its threads.
fn cpu(pid: u32) -> Result<Duration> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("read the account of {pid}"))?;
    // The name in parentheses may hold anything; the fields after it are numbered from three.
    let (_, fields) = stat.rsplit_once(')').context("an account has a name")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// How often threads of some processes went to sleep so far: each time something woke them before.
pub fn sleeps(processes: &[u32]) -> Result<u64> {
    let mut sleeps = 0;
    for pid in processes {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may have ended by now.
            let Ok(status) = std::fs::read_to_string(task?.path().join("status")) else { continue };
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            sleeps += line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(sleeps)
}

/// Memory of some processes in megabytes.
pub struct Memory {
    /// What is shared counts in parts.
    pub total: f64,
    pub anonymous: f64,
}

/// The sum of their proportional set sizes.
pub fn proportional_memory(processes: &[u32]) -> Result<Memory> {
    let mut memory = Memory { total: 0.0, anonymous: 0.0 };
    for pid in processes {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("read the maps of {pid}"))?;
        let kilobytes = |field: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        memory.total += kilobytes("Pss:") * 1024.0 / 1e6;
        memory.anonymous += kilobytes("Pss_Anon:") * 1024.0 / 1e6;
    }
    Ok(memory)
}
