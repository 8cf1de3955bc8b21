//! The data-plane process: this binary again, apart from control plane and agent, so that it outlives both.
//!
//! It is two processes: a worker, which does the work, and a watcher, which does nothing but start it again. Each keeps an
//! eye on the other, so that whichever of them dies comes back, also while control plane and agent are not there. `up` sees
//! to the watcher only.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use net::dns::{StubDomain, server_address};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use crate::paths::Paths;

/// How soon a process that ended is started again.
const RESTART: Duration = Duration::from_millis(100);
/// And how soon when starting it failed.
const RETRY: Duration = Duration::from_secs(1);
/// The counts of DNS are told on this port, as by upstream's usual server.
pub const METRICS_PORT: u16 = 9153;

/// What the data plane is to do.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub listen: Vec<SocketAddr>,
    pub own: Vec<IpAddr>,
    pub upstreams: Vec<String>,
    pub stub_domains: Vec<String>,
    pub metrics: SocketAddr,
    pub node_name: String,
}

/// One of the two processes of a cluster's data plane, by the files that tell of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Worker,
    Watcher,
}

impl Role {
    fn pid_file(self, socket: &Path) -> PathBuf {
        socket.with_file_name(if self == Role::Worker { "dataplane.pid" } else { "dataplane-watch.pid" })
    }

    /// The running one's process id and what it was told.
    fn running(self, socket: &Path) -> Option<(i32, Vec<String>)> {
        let pid: i32 = std::fs::read_to_string(self.pid_file(socket)).ok()?.trim().parse().ok()?;
        // A process that ended and was not waited for yet has no command line any more.
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8(command).ok()?;
        let words: Vec<String> = command.split_terminator('\0').skip(1).map(str::to_owned).collect();
        let watches = words.iter().any(|word| word == WATCH);
        let ours = words.first().is_some_and(|word| word == COMMAND)
            && words.iter().any(|word| Path::new(word) == socket)
            && watches == (self == Role::Watcher);
        ours.then_some((pid, words))
    }

    /// Starts one; `words` are the worker's.
    fn start(self, socket: &Path, words: &[String]) -> std::io::Result<i32> {
        let log = File::options().create(true).append(true).open(socket.with_file_name("dataplane.log"))?;
        let mut command = Command::new("/proc/self/exe");
        command.args(words).args((self == Role::Watcher).then_some(WATCH));
        // A group of its own: an interrupt typed at `up` is not for it.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let pid = i32::try_from(command.spawn()?.id()).map_err(std::io::Error::other)?;
        std::fs::write(self.pid_file(socket), pid.to_string())?;
        Ok(pid)
    }
}

const COMMAND: &str = "dataplane";
const WATCH: &str = "--watch";

/// Runs one of the two in this process.
pub fn serve(options: cli::args::Dataplane) -> anyhow::Result<()> {
    let socket = options.socket.clone();
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != WATCH).collect();
    if options.watch {
        return watch(&socket, &words);
    }
    let upstreams = options.upstream.iter().map(|text| upstream(text)).collect::<anyhow::Result<_>>()?;
    let stub_domains = options.stub_domain.iter().map(|text| stub_domain(text)).collect::<anyhow::Result<_>>()?;
    let watched = socket.clone();
    std::thread::Builder::new().name("watcher".into()).spawn(move || keep_up(Role::Watcher, &watched, &words))?;
    net::dataplane::run(net::dataplane::DataplaneOptions {
        socket: options.socket,
        checkpoint: options.checkpoint,
        listen: options.listen,
        domain: options.domain,
        resolvers: PathBuf::from("/etc/resolv.conf"),
        upstreams,
        stub_domains,
        metrics: options.metrics,
        node_name: options.node_name,
        own_addresses: options.own_address,
    })?;
    Ok(())
}

/// A resolver as `--dns-upstream` names it.
pub fn upstream(text: &str) -> anyhow::Result<SocketAddr> {
    server_address(text).with_context(|| format!("--dns-upstream {text:?} is not ADDRESS[:PORT]"))
}

/// A domain as `--dns-stub-domain` names it.
pub fn stub_domain(text: &str) -> anyhow::Result<StubDomain> {
    StubDomain::parse(text).with_context(|| format!("--dns-stub-domain {text:?} is not DOMAIN=ADDRESS[:PORT][,...]"))
}

/// Keeps the worker running. Of several watchers all but one end at once.
fn watch(socket: &Path, words: &[String]) -> anyhow::Result<()> {
    let path = socket.with_file_name("dataplane.lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("open {}", path.display()))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    std::fs::write(Role::Watcher.pid_file(socket), std::process::id().to_string())?;
    keep_up(Role::Worker, socket, words);
    drop(lock);
    Ok(())
}

/// Starts the other one whenever there is none, until both are to end. Blocks.
fn keep_up(role: Role, socket: &Path, words: &[String]) {
    loop {
        if stop_file(socket).exists() {
            return;
        }
        let pause = match role.running(socket).map_or_else(|| role.start(socket, words), |(pid, _)| Ok(pid)) {
            Ok(pid) => match wait(pid) {
                Ok(()) => RESTART,
                Err(error) => {
                    tracing::error!(%error, "data-plane process not watched");
                    RETRY
                }
            },
            Err(error) => {
                tracing::error!(%error, "data-plane process not started");
                RETRY
            }
        };
        // Nothing is polled: this is how a thread outside of any event loop rests.
        if let Err(error) = poll(&mut [], Timespec::try_from(pause).ok().as_ref()) {
            tracing::debug!(%error, "rest cut short");
        }
    }
}

/// Blocks until the process has ended, child of ours or not.
fn wait(pid: i32) -> rustix::io::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) => {
            let mut sources = [PollFd::new(&descriptor, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut sources, None))?;
        }
        Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error),
    }
    reap(pid);
    Ok(())
}

/// If it was our child it is a zombie now; if not, there is nothing to wait for.
fn reap(pid: Pid) {
    if let Err(error) = waitpid(Some(pid), WaitOptions::NOHANG) {
        tracing::trace!(%error, "not our child");
    }
}

/// While this is there, neither starts the other.
fn stop_file(socket: &Path) -> PathBuf {
    socket.with_file_name("dataplane.stop")
}

/// Keeps both running: adopts those of an earlier agent if they were told the same, and starts new ones otherwise.
pub async fn keep(paths: Paths, wanted: Wanted) {
    let (socket, words) = (paths.dataplane_socket(), words(&paths, &wanted));
    loop {
        match ensure(&paths, &socket, &words).await {
            Ok(pid) => {
                if let Err(error) = ended(pid).await {
                    tracing::error!(%error, "data-plane process not watched");
                    stdx::sleep(RETRY).await;
                }
                stdx::sleep(RESTART).await;
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "data-plane process not started");
                stdx::sleep(RETRY).await;
            }
        }
    }
}

async fn ensure(paths: &Paths, socket: &Path, words: &[String]) -> anyhow::Result<i32> {
    let told = |role: Role| role.running(socket).map(|(_, words)| words);
    let same = |said: &[String]| said.iter().filter(|word| *word != WATCH).eq(words);
    let outdated = [Role::Watcher, Role::Worker].into_iter().filter_map(told).any(|said| !same(&said));
    if outdated {
        stop(paths).await?;
    }
    match std::fs::remove_file(stop_file(socket)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    match Role::Watcher.running(socket) {
        Some((pid, _)) => Ok(pid),
        None => Role::Watcher.start(socket, words).context("start the data-plane process"),
    }
}

fn words(paths: &Paths, wanted: &Wanted) -> Vec<String> {
    let mut words = vec![COMMAND.to_owned()];
    let mut say = |option: &str, value: String| words.extend([option.to_owned(), value]);
    say("--socket", paths.dataplane_socket().display().to_string());
    say("--checkpoint", paths.dataplane_checkpoint().display().to_string());
    say("--domain", crate::machine::DOMAIN.to_owned());
    say("--node-name", wanted.node_name.clone());
    say("--metrics", wanted.metrics.to_string());
    wanted.listen.iter().for_each(|address| say("--listen", address.to_string()));
    wanted.own.iter().for_each(|address| say("--own-address", address.to_string()));
    wanted.upstreams.iter().for_each(|upstream| say("--upstream", upstream.clone()));
    wanted.stub_domains.iter().for_each(|domain| say("--stub-domain", domain.clone()));
    words
}

/// Resolves when the process has ended, child of ours or not.
pub async fn ended(pid: i32) -> std::io::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    let descriptor = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    #[allow(deprecated, reason = "its successor is an unsafe function with a promise that ownership keeps here")]
    let descriptor = tokio::io::unix::AsyncFd::new(descriptor)?;
    drop(descriptor.readable().await?);
    reap(pid);
    Ok(())
}

/// Ends both and waits until they have.
pub async fn stop(paths: &Paths) -> anyhow::Result<()> {
    let socket = paths.dataplane_socket();
    std::fs::write(stop_file(&socket), "").context("tell the data-plane process to end")?;
    for role in [Role::Watcher, Role::Worker] {
        if let Some((pid, _)) = role.running(&socket) {
            if let Some(raw) = Pid::from_raw(pid) {
                let asked = rustix::process::kill_process(raw, rustix::process::Signal::TERM);
                asked.context("end the data-plane process")?;
            }
            stdx::timeout(Duration::from_secs(5), ended(pid))
                .await
                .context("the data-plane process does not end")??;
        }
    }
    Ok(())
}
