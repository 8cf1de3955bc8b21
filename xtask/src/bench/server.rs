//! A running server, ours or the peer's: how it is reached, what it costs, how it is stopped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use client::ClientConfig;
use stdx::Mono;

use super::load::Connection;
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
    pub config: ClientConfig,
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
    Peer,
}

impl Server {
    /// Starts a cluster with these arguments for `up` and waits until it is ready to serve.
    pub async fn isopod(stage: &Stage, cores: Cores, arguments: &[&str]) -> Result<Server> {
        stage.pin(cores)?;
        let log = std::fs::File::create(stage.folder().join("up.log"))?;
        let mut up = Command::new(&stage.isopod);
        up.args(["up", "--data-dir"]).arg(stage.data()).args(arguments).stdin(Stdio::null());
        up.stdout(log.try_clone()?).stderr(log);
        let started = stdx::mono();
        let child = up.spawn().context("start isopod")?;
        stage.pin(Cores::All)?;
        let mut server = Server {
            config: ClientConfig { server: "https://127.0.0.1:6443".into(), insecure: true, ..ClientConfig::default() },
            ready_after: Duration::ZERO,
            started,
            kind: Kind::Isopod { binary: stage.isopod.clone(), data: stage.data() },
            children: vec![child],
        };
        server.await_ready().await.with_context(|| stage.log("up.log"))?;
        server.config = ClientConfig::from_kubeconfig(&stage.data().join("admin.kubeconfig"), None)?;
        Ok(server)
    }

    /// A peer whose processes run already.
    pub async fn peer(config: ClientConfig, children: Vec<Child>, started: Mono) -> Result<Server> {
        let mut server = Server { config, ready_after: Duration::ZERO, started, kind: Kind::Peer, children };
        server.await_ready().await?;
        Ok(server)
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

    /// The processes that are the server, without the ones that belong to pods.
    pub fn processes(&self) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Peer => Ok(self.children.iter().map(Child::id).collect()),
            Kind::Isopod { binary, .. } => running(|exe| exe == binary),
        }
    }

    /// Processor time that the server's processes have used so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.processes()?.into_iter().map(cpu).sum()
    }

    /// Ends the server and what it left on the machine.
    pub fn stop(mut self) -> Result<()> {
        self.interrupt()?;
        if let Kind::Isopod { binary, data } = &self.kind {
            let down = Command::new(binary).args(["down", "--purge", "--data-dir"]).arg(data).output()?;
            if !down.status.success() {
                bail!("isopod down: {}", String::from_utf8_lossy(&down.stderr));
            }
        }
        Ok(())
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

impl Drop for Server {
    /// After a failure nothing of it may bear on the next server.
    fn drop(&mut self) {
        if let Err(error) = self.interrupt() {
            eprintln!("a server goes on: {error:#}");
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
