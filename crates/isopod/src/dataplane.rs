//! The data-plane process: this binary again, apart from control plane and agent, so that it outlives both.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::paths::Paths;

/// How soon a data-plane process that ended is started again.
const RESTART: Duration = Duration::from_millis(100);

/// Runs it in this process.
pub fn serve(options: cli::args::Dataplane) -> anyhow::Result<()> {
    net::dataplane::run(net::dataplane::DataplaneOptions {
        socket: options.socket,
        checkpoint: options.checkpoint,
        listen: options.listen,
        domain: options.domain,
        resolvers: PathBuf::from("/etc/resolv.conf"),
        own_addresses: options.own_address,
    })?;
    Ok(())
}

/// Keeps one running: adopts the one of an earlier agent, and starts a new one whenever there is none.
pub async fn keep(paths: Paths, listen: Vec<SocketAddr>, own: Vec<IpAddr>) {
    loop {
        let pid = match running(&paths) {
            Some(pid) => pid,
            None => match start(&paths, &listen, &own) {
                Ok(pid) => pid,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "data-plane process not started");
                    stdx::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            },
        };
        if let Err(error) = ended(pid).await {
            tracing::error!(%error, "data-plane process not watched");
            stdx::sleep(Duration::from_secs(1)).await;
        }
        stdx::sleep(RESTART).await;
    }
}

/// The running one's process id, if it is one of ours.
pub fn running(paths: &Paths) -> Option<i32> {
    let pid: i32 = std::fs::read_to_string(paths.dataplane_pid()).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let socket = paths.dataplane_socket();
    let ours = words.contains(&b"dataplane".as_slice())
        && words.iter().any(|word| *word == socket.as_os_str().as_encoded_bytes());
    // A process that ended and was not waited for yet has no command line any more.
    ours.then_some(pid)
}

fn start(paths: &Paths, listen: &[SocketAddr], own: &[IpAddr]) -> anyhow::Result<i32> {
    let log = std::fs::File::options().create(true).append(true).open(paths.run().join("dataplane.log"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("dataplane").arg("--socket").arg(paths.dataplane_socket());
    command.arg("--checkpoint").arg(paths.dataplane_checkpoint()).args(["--domain", "cluster.local"]);
    for address in listen {
        command.arg("--listen").arg(address.to_string());
    }
    for address in own {
        command.arg("--own-address").arg(address.to_string());
    }
    // A group of its own: an interrupt typed at `up` is not for it.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().context("start the data-plane process")?;
    let pid = i32::try_from(child.id()).context("process id")?;
    std::fs::write(paths.dataplane_pid(), pid.to_string())?;
    Ok(pid)
}

/// Resolves when the process has ended, child of ours or not.
pub async fn ended(pid: i32) -> std::io::Result<()> {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return Ok(()) };
    let descriptor = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    #[allow(deprecated, reason = "its successor is an unsafe function with a promise that ownership keeps here")]
    let descriptor = tokio::io::unix::AsyncFd::new(descriptor)?;
    drop(descriptor.readable().await?);
    // If it was our child it is a zombie now; if not, there is nothing to wait for.
    if let Err(error) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG) {
        tracing::trace!(%error, "not our child");
    }
    Ok(())
}

/// Ends the running one and waits until it has.
pub async fn stop(paths: &Paths) -> anyhow::Result<()> {
    if let Some(pid) = running(paths) {
        if let Some(raw) = rustix::process::Pid::from_raw(pid) {
            rustix::process::kill_process(raw, rustix::process::Signal::TERM).context("end the data-plane process")?;
        }
        stdx::timeout(Duration::from_secs(5), ended(pid)).await.context("the data-plane process does not end")??;
    }
    Ok(())
}
