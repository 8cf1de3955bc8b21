//! Connections out of the API server.

use http::{Request, Response};
use stdx::BoxFuture;
use wire::Body;
use wire::client::Connection;

use crate::refusal::Refusal;

/// Why a node could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("error dialing backend: node {node}: {reason}")]
pub struct DialError {
    pub node: String,
    pub reason: String,
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Refusal {
        Refusal::internal(&error)
    }
}

/// A node's response to a request for an upgrade, and the upgraded connection when it agreed with `101`.
pub type Upgrade = (Response<Body>, Option<Box<dyn Connection>>);

/// The way to everything outside the API server; each cluster has one.
///
/// A request to a node goes to its agent's own HTTP server, at upstream's paths (`/containerLogs/…`, `/exec/…`). It has a
/// path and a query; scheme and authority are for the implementation to add.
pub trait Dialer: Send + Sync {
    /// Sends a request to the agent of a node.
    fn node<'a>(&'a self, node: &'a str, request: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, DialError>>;

    /// Sends a request to the agent of a node that asks for the upgrade which its `Upgrade` header names.
    fn node_upgrade<'a>(&'a self, node: &'a str, request: Request<Body>) -> BoxFuture<'a, Result<Upgrade, DialError>>;
}

/// Reaches nothing: for API servers without nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNodes;

impl NoNodes {
    fn error(node: &str) -> DialError {
        DialError { node: node.to_owned(), reason: "no nodes can be reached".to_owned() }
    }
}

impl Dialer for NoNodes {
    fn node<'a>(&'a self, node: &'a str, _: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        Box::pin(async move { Err(NoNodes::error(node)) })
    }

    fn node_upgrade<'a>(&'a self, node: &'a str, _: Request<Body>) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        Box::pin(async move { Err(NoNodes::error(node)) })
    }
}
