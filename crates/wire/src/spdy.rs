//! SPDY/3.1, both ends: streams of bytes over one connection, as Kubernetes' clients speak it after an upgrade.
//!
//! The ends in the world (moby/spdystream: kubectl, containerd, CRI-O) neither obey flow control windows nor widen them, so
//! windows hold here only towards a peer that has said something of windows itself. Towards the others a stream that is not
//! read stops the reading of the whole connection, as it does there, and TCP holds the peer back.

mod frame;
mod headers;
mod session;
mod stream;

pub use headers::Headers;
pub use session::{Incoming, Session, start};
pub use stream::{Stream, StreamReader, StreamWriter};

/// What a connection is said to become by `Upgrade`.
pub const UPGRADE: &str = "SPDY/3.1";

/// Why a connection or a stream is at its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// The peer broke the protocol.
    #[error("spdy: {0}")]
    Protocol(&'static str),
    /// The peer went beyond a limit.
    #[error("spdy: too many {0}")]
    Limit(&'static str),
    /// The connection is gone.
    #[error("spdy: connection closed")]
    Closed,
    /// The peer took the stream back, or refused it.
    #[error("spdy: stream reset")]
    Reset,
    /// The connection broke.
    #[error("spdy: {0}")]
    Io(std::io::ErrorKind),
}

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Opens streams with odd numbers.
    Client,
    /// Opens streams with even numbers.
    Server,
}

/// How much a connection bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams open at once; more are refused.
    pub streams_max: usize,
    /// Bytes of one header block, unpacked.
    pub header_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        // A forwarded connection takes two streams; browsers open half a dozen connections at once.
        Limits { streams_max: 1024, header_bytes_max: 16 << 10 }
    }
}
