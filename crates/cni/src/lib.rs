//! The contract between a container runtime and a pod network, in CNI's terms.
//!
//! A [`Network`] is what CNI calls a plugin: it connects a network namespace that the runtime made, tells the address
//! it gave, and takes the connection away again. The built-in network implements it in process; the types are those of
//! the CNI 1.1 JSON protocol, so that a foreign plugin can stand behind the same trait; [`plugin`] is the protocol by which ours is a program.
//!
//! Architecture Invariant: nothing of netlink, of containers or of the API is known here.

mod address;
mod error;
mod network;
pub mod plugin;
mod result;

pub use address::{AddressFault, Cidr};
pub use error::{CniError, Code};
pub use network::{AddRequest, CheckRequest, DelRequest, GcRequest, Network, PodRef, PortMapping};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};

/// The version of the CNI protocol that the types of this crate follow.
pub const CNI_VERSION: &str = "1.1.0";
