//! What a runtime asks of a pod network.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stdx::BoxFuture;

use crate::error::CniError;
use crate::result::AddResult;

/// A pod network: CNI's five operations.
///
/// Every operation may be repeated: the runtime calls again after it or the network crashed half way. Operations on
/// different containers may run at the same time; those on one container are the caller's to order.
pub trait Network: Send + Sync {
    /// Connects the namespace at `request.netns` and answers with what it was given. Repeated for a container and
    /// interface that are connected already, it completes what is missing and answers with the same addresses.
    fn add<'a>(&'a self, request: &'a AddRequest) -> BoxFuture<'a, Result<AddResult, CniError>>;

    /// Whether the connection still is as `add` made it; the error names the first difference.
    fn check<'a>(&'a self, request: &'a CheckRequest) -> BoxFuture<'a, Result<(), CniError>>;

    /// Takes the connection away and frees its addresses. Succeeds when there is nothing (left) to take away, also when
    /// the namespace is gone.
    fn del<'a>(&'a self, request: &'a DelRequest) -> BoxFuture<'a, Result<(), CniError>>;

    /// Takes away what belongs to containers that are not in `request`, a complete list.
    fn gc<'a>(&'a self, request: &'a GcRequest) -> BoxFuture<'a, Result<(), CniError>>;

    /// Whether `add` would work now.
    fn status(&self) -> BoxFuture<'_, Result<(), CniError>>;
}

/// The pod that a container sandbox belongs to, for names and messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
}

/// A port of the node that leads to a port of the pod (`hostPort`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The node's address to listen on; all when absent.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A sandbox to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddRequest {
    /// The sandbox's id: the key under which addresses are held. Letters, digits, `_`, `.` and `-` only.
    pub container_id: String,
    /// A path that opens the sandbox's network namespace, such as `/proc/PID/ns/net` or a bind mount of it.
    pub netns: PathBuf,
    /// What the interface is called inside the namespace, normally `eth0`.
    pub ifname: String,
    /// Whose sandbox it is.
    pub pod: PodRef,
    /// Ports of the node to lead to the sandbox. A network that cannot do this refuses with
    /// [`crate::Code::UnsupportedField`].
    pub port_mappings: Vec<PortMapping>,
}

/// A connection to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRequest {
    /// As in the `add` that made it.
    pub container_id: String,
    /// As in the `add` that made it.
    pub netns: PathBuf,
    /// As in the `add` that made it.
    pub ifname: String,
    /// What that `add` answered.
    pub previous: AddResult,
}

/// A connection to take away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelRequest {
    /// As in the `add` that made it.
    pub container_id: String,
    /// The namespace, while it still exists.
    pub netns: Option<PathBuf>,
    /// As in the `add` that made it.
    pub ifname: String,
}

/// The connections that are still wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcRequest {
    /// Ids of all sandboxes that exist; everything else is taken away.
    pub valid: Vec<String>,
}
