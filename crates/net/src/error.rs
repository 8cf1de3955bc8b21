//! What can go wrong in the node's network.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::netlink::socket::NetlinkError;

/// A failed operation of the node's network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel refused something.
    #[error("{operation}")]
    Kernel {
        /// What was attempted and on what.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: NetlinkError,
    },
    /// The kernel refused the service rules; everybody who waited for them is told.
    #[error("change the service rules")]
    Rules(#[source] Arc<NetlinkError>),
    /// A file or socket failed.
    #[error("{operation}")]
    Io {
        /// What was attempted and on what.
        operation: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An interface of the configured name exists and is not ours.
    #[error("interface {0} exists and was not made by isopod")]
    ForeignLink(String),
    /// All addresses of the node's range are taken.
    #[error("no free address in {0}")]
    AddressesExhausted(cni::Cidr),
    /// What a peer or file says cannot be understood.
    #[error("{what} is malformed")]
    Malformed {
        /// What was read.
        what: String,
        /// Where it fails.
        #[source]
        source: serde_json::Error,
    },
    /// A message or file is of a version that this release does not read.
    #[error("{what} has version {version}, this release reads up to {known}")]
    Version {
        /// What was read.
        what: String,
        /// The version it has.
        version: u32,
        /// The newest version that is read.
        known: u32,
    },
    /// The part of the network that was asked has ended.
    #[error("{0} has ended")]
    Ended(&'static str),
    /// More was asked at once than is kept waiting.
    #[error("{0} has too much to do")]
    Busy(&'static str),
    /// A file that belongs to somebody else or to another kind of thing is in the way.
    #[error("{0} exists and is not a socket")]
    Occupied(PathBuf),
}

impl NetError {
    /// A netlink failure of `operation`.
    pub(crate) fn kernel(operation: impl Into<String>) -> impl FnOnce(NetlinkError) -> NetError {
        let operation = operation.into();
        move |source| NetError::Kernel { operation, source }
    }

    /// A refusal of service rules.
    pub(crate) fn rules(source: Arc<NetlinkError>) -> NetError {
        NetError::Rules(source)
    }

    /// A system failure of `operation`.
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> NetError {
        let operation = operation.into();
        move |source| NetError::Io { operation, source }
    }
}
