//! Streams between a client and what runs in a pod: exec, attach, port-forward, over WebSocket and over SPDY/3.1.
//!
//! `websocket.rs` and `spdy.rs` make [`Ends`] of a connection; `session.rs` joins them with a process; `port_forward.rs` with
//! ports.

pub mod outcome;
pub mod port_forward;
pub mod session;
pub mod spdy;
pub mod websocket;

use std::time::Duration;

use bytes::Bytes;
use stdx::{BoxFuture, Cancel};
use tokio::sync::mpsc;
use wire::spdy::{StreamReader, StreamWriter};

/// How long a client may take to open the streams it asked for. Upstream: `DefaultStreamCreationTimeout`.
pub const CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of output that are read and sent at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// The client is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

/// What a client sends on one stream.
pub enum Input {
    /// A channel of a WebSocket.
    Web(mpsc::Receiver<Bytes>),
    /// A stream of its own.
    Spdy(Box<StreamReader>),
}

impl Input {
    /// The next bytes; `None` at the end, in order or not.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self {
            Input::Web(pieces) => pieces.recv().await,
            Input::Spdy(reader) => reader.next().await.ok().flatten(),
        }
    }
}

/// What a client is sent on one stream.
pub enum Output {
    /// A channel of a WebSocket.
    Web(u8, mpsc::Sender<(u8, Bytes)>),
    /// A stream of its own.
    Spdy(Box<StreamWriter>),
}

impl Output {
    /// Sends bytes; waits while the client takes none.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Output::Web(channel, messages) => messages.send((*channel, bytes)).await.map_err(|_| Gone),
            Output::Spdy(writer) => writer.write(bytes).await.map_err(|_| Gone),
        }
    }

    /// Says that no more will come, where that can be said.
    pub async fn finish(&mut self) {
        if let Output::Spdy(writer) = self {
            // A client that is gone needs to hear nothing.
            drop(writer.finish().await);
        }
    }
}

/// A client's ends of a process's streams.
pub struct Ends {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    pub error: Output,
    pub resize: Option<Input>,
    /// How the outcome is told on the error stream.
    pub telling: outcome::Telling,
}

/// A connection at work.
pub struct Connected {
    pub ends: Ends,
    /// Set when the client is gone before its ends were dropped.
    pub gone: Cancel,
    /// Moves what is sent and received; resolves once the ends are dropped and the connection is closed.
    pub work: BoxFuture<'static, ()>,
}

/// Which streams a client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// What a query asks for, in the agent's terms or in the API's. With a terminal there is no separate error stream.
    pub fn read(query: &crate::server::Query) -> Option<Wanted> {
        let tty = query.flag("tty");
        let wanted = Wanted {
            stdin: query.flag("input") || query.flag("stdin"),
            stdout: query.flag("output") || query.flag("stdout"),
            stderr: (query.flag("error") || query.flag("stderr")) && !tty,
            tty,
        };
        (wanted.stdin || wanted.stdout || wanted.stderr).then_some(wanted)
    }
}
