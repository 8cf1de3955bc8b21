//! The agent's own HTTPS server, at upstream's kubelet paths. Upstream: `pkg/kubelet/server/server.go`.
//!
//! Architecture Invariant: nothing is answered here before `gate.rs` knows who asks and that they may.

pub mod gate;
mod logs;
mod machine_logs;
mod metrics;
mod pods;
mod query;
mod stats;
mod streams;
mod usage;

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use wire::{Body, ConnectionInfo};

use crate::agent::Agent;
use crate::pod::seen::Seen;
use crate::static_pods::local_uid;
use gate::Gate;
pub use query::Query;

/// Where an agent of upstream listens, and so does this one.
pub const PORT: u16 = 10_250;

/// An agent's server.
pub struct Server {
    pub agent: Arc<Agent>,
    pub gate: Gate,
    /// What earlier requests saw of containers, to tell rates.
    usage: usage::Rates,
    settings: serde_json::Value,
}

impl Server {
    /// A server; `settings` is what `/configz` tells.
    pub fn new(agent: Arc<Agent>, gate: Gate, settings: serde_json::Value) -> Arc<Server> {
        Arc::new(Server { agent, gate, usage: usage::Rates::default(), settings })
    }

    /// The service for `wire::serve`.
    pub fn service(self: &Arc<Server>) -> wire::Service {
        let server = self.clone();
        Arc::new(move |request, connection| {
            let server = server.clone();
            Box::pin(async move { server.handle(request, &connection).await })
        })
    }

    /// Answers one request.
    async fn handle(&self, request: Request<Body>, connection: &ConnectionInfo) -> Response<Body> {
        match self.gate.admit(&request, connection).await {
            Ok(()) => self.answer(request).await,
            Err(refusal) => refusal,
        }
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let agent = &self.agent;
        let path = request.uri().path().to_owned();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match segments.as_slice() {
            ["exec" | "attach" | "portForward", ..] if matches!(*request.method(), Method::GET | Method::POST) => {
                streams::answer(agent, &segments, &query, request).await
            }
            _ if !reads => text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed\n"),
            ["healthz"] | ["healthz", "ping" | "log"] => text(StatusCode::OK, "ok"),
            ["pods"] => pods::list(agent),
            ["runningpods"] => pods::running(agent).await,
            ["configz"] => json(&self.settings),
            ["containerLogs", namespace, pod, container] => {
                logs::answer(agent, (namespace, pod, container), &query).await
            }
            ["stats", "summary"] => stats::summary(agent, &self.usage, &query).await,
            ["metrics"] => metrics::own(agent).await,
            ["metrics", "resource"] => metrics::resource(agent).await,
            ["metrics", "cadvisor"] => metrics::cadvisor(agent).await,
            ["metrics", "probes"] => metrics::probes(agent),
            ["logs", ..] => machine_logs::answer(&path),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}

/// A response of plain text.
pub(crate) fn text(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::Bytes(text.to_owned().into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn json(document: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::Bytes(document.to_string().into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The pod and what the runtime has of it.
// A refusal is a response as well, and no rarity.
#[allow(clippy::result_large_err)]
async fn look_up(agent: &Agent, namespace: &str, name: &str) -> Result<(Pod, Seen), Response<Body>> {
    let missing = || text(StatusCode::NOT_FOUND, &format!("pod {name:?} not found in namespace {namespace:?}\n"));
    let object = agent.pod(namespace, name).ok_or_else(missing)?;
    let pod: Pod = object.typed().map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    let seen = Seen::ask(&*agent.context().runtime, local_uid(&pod)).await;
    let seen = seen.map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    Ok((pod, seen))
}
