//! One node's network: the pod network, Service rules, DNS, and the process that keeps serving when all else restarts.
//!
//! - [`bridge`] connects pods; it is a CNI plugin called in process.
//! - [`peers`] keeps the way to other nodes' pods.
//! - [`rules`] decides what the kernel does with packets to Services and makes it so.
//! - [`dns`] answers for Services' names and forwards the rest.
//! - [`dataplane`] is the process that runs DNS; [`feed`] is the agent's side of it and of the rules.
//!
//! Architecture Invariant: nothing here asks the API. Services and slices come in as [`input`] views, and only after
//! they were listed completely; nothing is taken out of the kernel when a process ends.

pub mod bridge;
pub mod dataplane;
pub mod dns;
pub mod feed;
pub mod input;
pub mod loopback;
pub mod peers;
pub mod rules;

mod checkpoint;
mod cleanup;
mod error;
mod health;
mod hostports;
mod http;
mod machine;
mod names;
mod namespace;
mod netlink;
mod protocol;
#[cfg(test)]
mod scratch;
#[cfg(test)]
mod testbed;

pub use cleanup::{CleanupOptions, cleanup};
pub use error::NetError;
pub use machine::machine_addresses;
pub use names::Names;
pub use netlink::socket::NetlinkError;
