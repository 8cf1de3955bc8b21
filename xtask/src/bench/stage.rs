//! Where a bench runs: its folder, its binaries, its event loop and the cores it may use.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::report::{Measure, Report};
use super::server::{Cores, Server};

/// What every bench is given.
pub struct Stage {
    pub isopod: PathBuf,
    /// The example's image.
    pub archive: PathBuf,
    pub peer: Option<PathBuf>,
    /// How long a server that does nothing is looked at.
    pub idle: Duration,
    pub runtime: tokio::runtime::Runtime,
    cores: Vec<usize>,
}

impl Stage {
    /// A stage in the namespaces that this process is in.
    pub fn new(isopod: PathBuf, archive: PathBuf, peer: Option<PathBuf>, idle: Duration) -> Result<Stage> {
        let allowed = sched_getaffinity(None).context("ask for the cores that may be used")?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        // One thread: what bears the load stays on one core, the server's is another.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Stage { isopod, archive, peer, idle, runtime, cores })
    }

    /// The folder of the prepared files; whatever is in it is removed in the end.
    pub fn folder(&self) -> &Path {
        self.isopod.parent().expect("the binary lies in the bench's folder")
    }

    /// Puts this thread, and what it starts from now on, on a core of its own or on all.
    pub fn pin(&self, cores: Cores) -> Result<()> {
        let mut set = CpuSet::new();
        match cores {
            Cores::All => self.cores.iter().for_each(|core| set.set(*core)),
            Cores::Servers | Cores::Load if self.cores.len() < 2 => bail!("server and load need a core each"),
            Cores::Servers => set.set(self.cores[0]),
            Cores::Load => set.set(self.cores[1]),
        }
        sched_setaffinity(None, &set).context("choose cores")
    }

    /// Runs the example's `isopod` to its end.
    pub fn isopod(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new(&self.isopod).args(arguments).arg("--data-dir").arg(self.data()).output()?;
        if !done.status.success() {
            bail!("isopod {}: {}: {}", arguments.join(" "), done.status, String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }

    /// The cluster's data folder.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// Measures isopod and, if there is one, the peer: one server at a time, on a core of its own.
    pub fn both(&self, measure: impl AsyncFn(&Server) -> Result<Vec<Measure>>) -> Result<Report> {
        let one = async |server: Result<Server>| {
            let server = server?;
            self.pin(Cores::Load)?;
            let measured = measure(&server).await;
            let version = server.version().await;
            server.stop()?;
            self.pin(Cores::All)?;
            anyhow::Ok((version?, measured?))
        };
        self.runtime.block_on(async {
            let (_, ours) = one(Server::isopod(self, Cores::Servers, &[]).await).await?;
            let peer = match &self.peer {
                None => None,
                Some(folder) => Some(one(super::peer::start(self, folder, Cores::Servers).await).await),
            };
            Ok(Report { ours, peer })
        })
    }
}
