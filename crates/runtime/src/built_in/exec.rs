//! Running further processes in containers, and connections to their ports.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cri::{
    AttachRequest, ContainerState, Duplex, Error, ExecRequest, ExecSession, ExecSyncResponse, Result, TerminalSize,
};
use rustix::pipe::{PipeFlags, pipe_with};
use shim::message::{ATTACH_STDERR, ATTACH_STDIN, ATTACH_STDOUT};
use shim::spec::ProcessSpec;
use shim::wire::Wire;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::container::read_spec;
use super::terminal::Terminal;
use super::{Container, Inner, call_failed, failed, lock};
use crate::supervisor::{CallError, Process};

/// The most that is collected of one stream, as upstream.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// How long output is waited for after its process has ended, while others keep the stream open.
const DRAIN: Duration = Duration::from_secs(10);

/// A process in a container, with our ends of its streams.
struct Running {
    process: Process,
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    stdout: Box<dyn AsyncRead + Send + Unpin>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    terminal: Option<Terminal>,
}

/// A pipe from a container's process to us.
fn output() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(ours)?, theirs))
}

/// A pipe from us to a container's process; empty input when nobody writes.
fn input(wanted: bool) -> io::Result<(Option<pipe::Sender>, OwnedFd)> {
    if !wanted {
        return Ok((None, std::fs::File::open("/dev/null")?.into()));
    }
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Some(pipe::Sender::from_owned_fd(ours)?), theirs))
}

impl Inner {
    fn exec_spec(&self, container: &Container, request: &ExecRequest) -> Result<ProcessSpec> {
        if request.cmd.is_empty() {
            return Err(Error::InvalidArgument("no command specified".into()));
        }
        if container.status().state != ContainerState::Running {
            return Err(Error::FailedPrecondition(format!("container {:?} is not in running state", container.id)));
        }
        let mut spec = read_spec(container)?.process;
        spec.identity = container.report.borrow().as_ref().map(|report| report.identity.clone());
        spec.args.clone_from(&request.cmd);
        spec.tty = request.tty;
        if request.tty && !spec.env.iter().any(|variable| variable.starts_with("TERM=")) {
            spec.env.push("TERM=xterm".into());
        }
        Ok(spec)
    }

    async fn run(&self, id: &str, request: &ExecRequest) -> Result<Running> {
        let container = self.container(id)?;
        let spec = self.exec_spec(&container, request)?.encode();
        let supervisor = container.sandbox.supervisor("exec")?;
        if request.tty {
            let mut process = supervisor.exec(id, &spec, &[]).await.map_err(exec_failed)?;
            let file = process.terminal.take().ok_or_else(|| Error::Internal("exec: no terminal was made".into()))?;
            let terminal = Terminal::new(file).map_err(failed("open terminal"))?;
            let stdin = request.stdin.then(|| Box::new(terminal.clone()) as Box<_>);
            let stdout = Box::new(terminal.clone());
            return Ok(Running { process, stdin, stdout, stderr: None, terminal: Some(terminal) });
        }
        let (stdin, their_input) = input(request.stdin).map_err(failed("make pipe"))?;
        let (stdout, their_output) = output().map_err(failed("make pipe"))?;
        let (stderr, their_error) = output().map_err(failed("make pipe"))?;
        let files = [their_input.as_fd(), their_output.as_fd(), their_error.as_fd()];
        let process = supervisor.exec(id, &spec, &files).await.map_err(exec_failed)?;
        let stdin = stdin.map(|stdin| Box::new(stdin) as Box<_>);
        Ok(Running { process, stdin, stdout: Box::new(stdout), stderr: Some(Box::new(stderr)), terminal: None })
    }

    /// Runs a process with streams.
    pub(super) async fn exec(self: Arc<Self>, id: &str, request: ExecRequest) -> Result<ExecSession> {
        let Running { process, stdin, stdout, stderr, terminal } = self.run(id, &request).await?;
        let (resize, sizes) = watch::channel(TerminalSize::default());
        if let Some(terminal) = terminal {
            self.tasks.spawn("terminal size", follow_size(terminal, sizes));
        }
        let exit = Box::pin(async move { process.wait().await.map_err(call_failed("exec")) });
        Ok(ExecSession { stdin, stdout, stderr, resize, exit })
    }

    /// Joins the streams of a container's first process.
    pub(super) async fn attach(self: Arc<Self>, id: &str, request: AttachRequest) -> Result<ExecSession> {
        let container = self.container(id)?;
        if container.status().state != ContainerState::Running {
            return Err(Error::FailedPrecondition(format!("container {id:?} is not in running state")));
        }
        let tty = lock(&container.record).config.terminal.tty;
        let (stdout, their_output) = output().map_err(failed("make pipe"))?;
        let (stderr, their_error) = output().map_err(failed("make pipe"))?;
        let with_error = request.stderr && !tty;
        let bits = [(request.stdin, ATTACH_STDIN), (request.stdout, ATTACH_STDOUT), (with_error, ATTACH_STDERR)];
        let wanted = bits.iter().filter(|(wanted, _)| *wanted).fold(0, |bits, (_, bit)| bits | bit);
        let files = [(request.stdout, &their_output), (with_error, &their_error)];
        let files: Vec<_> = files.iter().filter(|(wanted, _)| *wanted).map(|(_, file)| file.as_fd()).collect();
        let supervisor = container.sandbox.supervisor("attach")?;
        let input = supervisor.attach(id, wanted, &files).await.map_err(call_failed("attach"))?;
        let (resize, sizes) = watch::channel(TerminalSize::default());
        let stdin: Option<Box<dyn AsyncWrite + Send + Unpin>> = match input {
            Some(file) if tty => {
                let terminal = Terminal::new(file).map_err(failed("open terminal"))?;
                self.tasks.spawn("terminal size", follow_size(terminal.clone(), sizes));
                request.stdin.then(|| Box::new(terminal) as Box<_>)
            }
            Some(file) => Some(Box::new(pipe::Sender::from_owned_fd(file).map_err(failed("open input"))?)),
            None => None,
        };
        let exit = Box::pin(async move {
            container.ended().await;
            Ok(0)
        });
        let stderr = with_error.then(|| Box::new(stderr) as Box<_>);
        Ok(ExecSession { stdin, stdout: Box::new(stdout), stderr, resize, exit })
    }

    /// Runs a process and collects its output.
    pub(super) async fn exec_sync(
        self: Arc<Self>,
        id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecSyncResponse> {
        let request = ExecRequest { cmd, tty: false, stdin: false };
        let work = async {
            let Running { process, stdout, stderr, .. } = self.run(id, &request).await?;
            let stderr = stderr.ok_or_else(|| Error::Internal("exec: no standard error was made".into()))?;
            collect(process, stdout, stderr).await
        };
        if timeout.is_zero() {
            return work.await;
        }
        // Dropping the work kills the process.
        let late = || {
            Error::DeadlineExceeded(format!(
                "failed to exec in container: timeout {timeout:?} exceeded: context deadline exceeded"
            ))
        };
        stdx::timeout(timeout, work).await.unwrap_or_else(|_| Err(late()))
    }

    /// Connects to a port of a sandbox's own loopback.
    pub(super) async fn forward(&self, id: &str, port: u16) -> Result<Box<dyn Duplex>> {
        let sandbox = self.sandbox(id)?;
        let supervisor = sandbox.supervisor("port forward")?;
        let mut refused = Vec::new();
        for (family, address, word) in [(libc::AF_INET, "127.0.0.1", "4"), (libc::AF_INET6, "::1", "6")] {
            let socket = supervisor.socket(family).await.map_err(call_failed("port forward"))?;
            let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
            let address = std::net::SocketAddr::new(address.parse().expect("a constant address"), port);
            match socket.connect(address).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => refused.push(format!("IPv{word}: dial tcp{word} {address}: {}", dial_error(&error))),
            }
        }
        // In containerd's words, which users know.
        let causes = refused.join(" ");
        Err(Error::Unavailable(format!("failed to connect to localhost:{port} inside namespace {id:?}, {causes}")))
    }
}

/// A failed connect as Go words it.
fn dial_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        _ => format!("connect: {error}"),
    }
}

fn exec_failed(error: CallError) -> Error {
    match error {
        CallError::Start(text) => Error::Internal(format!("exec failed: unable to start container process: {text}")),
        error => call_failed("exec")(error),
    }
}

async fn follow_size(terminal: Terminal, mut sizes: watch::Receiver<TerminalSize>) {
    while sizes.changed().await.is_ok() {
        let size = *sizes.borrow_and_update();
        if terminal.resize(size).is_err() {
            break;
        }
    }
}

/// All output of a process and its exit code.
async fn collect(
    process: Process,
    stdout: Box<dyn AsyncRead + Send + Unpin>,
    stderr: Box<dyn AsyncRead + Send + Unpin>,
) -> Result<ExecSyncResponse> {
    let ended = stdx::Cancel::default();
    let exit = async {
        let code = process.wait().await;
        ended.cancel();
        code
    };
    // What was started in the background may keep the streams open for ever.
    let enough = || async {
        ended.cancelled().await;
        stdx::sleep(DRAIN).await;
    };
    let (code, stdout, stderr) = tokio::join!(exit, read(stdout, enough()), read(stderr, enough()));
    let (stdout, stderr) = (stdout.map_err(failed("read output"))?, stderr.map_err(failed("read output"))?);
    Ok(ExecSyncResponse { stdout, stderr, exit_code: code.map_err(call_failed("exec"))? })
}

/// Reads to the end, or until it is enough; what is too much is read and dropped, so that the process is not held up.
async fn read(mut stream: impl AsyncRead + Unpin, enough: impl Future<Output = ()>) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let all = async {
        (&mut stream).take(OUTPUT_BYTES_MAX).read_to_end(&mut content).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let outcome = tokio::select! {
        biased;
        outcome = all => outcome,
        () = enough => Ok(0),
    };
    outcome.map(|_| content)
}
