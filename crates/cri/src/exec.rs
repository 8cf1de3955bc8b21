//! Running one more process inside a running container.

use stdx::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::error::Result;

/// What to run in a container, and with which streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments; not through a shell.
    pub cmd: Vec<String>,
    /// Whether the process gets a terminal; then there is no separate stderr.
    pub tty: bool,
    /// Whether the caller will write to the process.
    pub stdin: bool,
}

/// Which streams of a container's first process to join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// Whether the caller will write to the process.
    pub stdin: bool,
    /// Whether the caller wants its standard output, or its terminal's.
    pub stdout: bool,
    /// Whether the caller wants its standard error; there is none with a terminal.
    pub stderr: bool,
    /// Whether the container has a terminal.
    pub tty: bool,
}

/// A stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl std::fmt::Debug for dyn Duplex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Duplex")
    }
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The streams of a process. Dropping `exit` before it resolved kills a process that was started for them, and leaves one
/// that was only attached to.
pub struct ExecSession {
    /// The process's standard input, when asked for; dropping it is the end of file.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// What the process writes to its standard output, or to its terminal.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// What the process writes to its standard error; absent with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Where to write a terminal's new size; the last one written wins.
    pub resize: watch::Sender<TerminalSize>,
    /// The exit code, 128 + signal number when a signal ended the process.
    pub exit: BoxFuture<'static, Result<i32>>,
}

/// The outcome of a process whose output was collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSyncResponse {
    /// Captured standard output, at most 16 MiB as upstream.
    pub stdout: Vec<u8>,
    /// Captured standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub exit_code: i32,
}
