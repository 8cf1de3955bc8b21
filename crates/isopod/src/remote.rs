//! The way to an API server on another machine: connections that can be given up and begun anew.
//!
//! A connection whose peer has vanished looks alive for long. Upstream's agents notice by their heartbeats, which have a
//! deadline of their own, and close all connections then (`onHeartbeatFailure`): so here. A new certificate, too, counts only
//! on new connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use client::{
    ClientConfig, ClientError, HttpTransport, ObjectList, Request, Response, Transport, TransportError, WatchStream,
};
use futures_util::StreamExt as _;
use stdx::BoxFuture;
use tokio::sync::watch;

/// How long a heartbeat may take. Upstream: the `nodeStatusUpdateFrequency`.
const HEARTBEAT: Duration = Duration::from_secs(10);
const AGENT: &str = "kubelet";

/// One API server, over connections of several generations.
pub struct Remote {
    config: ClientConfig,
    /// The transport of the newest generation, and which one that is.
    current: RwLock<(Arc<HttpTransport>, u64)>,
    /// The newest generation that has carried a heartbeat: what hangs on older ones is given up.
    proved: watch::Sender<u64>,
    /// The generation whose heartbeat failed last.
    failed: AtomicU64,
}

impl Remote {
    /// A way without connections yet.
    pub fn new(config: ClientConfig) -> anyhow::Result<Remote> {
        let first = Arc::new(HttpTransport::new(&config, AGENT)?);
        let proved = watch::Sender::new(0);
        Ok(Remote { config, current: RwLock::new((first, 1)), proved, failed: AtomicU64::new(0) })
    }

    /// Lets what is asked from now on go over new connections.
    pub fn begin_anew(&self) {
        match HttpTransport::new(&self.config, AGENT) {
            Ok(transport) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = (Arc::new(transport), current.1 + 1);
            }
            Err(error) => tracing::error!(%error, "connections to the API are not begun anew"),
        }
    }

    fn current(&self) -> (Arc<HttpTransport>, u64) {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves when a newer generation has proved to work.
    async fn outdated(&self, generation: u64) {
        let mut proved = self.proved.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        drop(proved.wait_for(|proved| *proved > generation).await);
    }

    async fn heartbeat(&self, request: Request) -> Result<Response, TransportError> {
        let (transport, generation) = self.current();
        let late = |_| Err(TransportError::Lost("heartbeat: deadline exceeded".to_owned()));
        let outcome = stdx::timeout(HEARTBEAT, transport.call(request)).await.unwrap_or_else(late);
        match &outcome {
            Ok(_) => drop(self.proved.send_if_modified(|proved| {
                let newer = generation > *proved;
                *proved = generation.max(*proved);
                newer
            })),
            // Of several that fail together one begins anew.
            Err(_) if self.failed.fetch_max(generation, Ordering::Relaxed) < generation => self.begin_anew(),
            Err(_) => {}
        }
        outcome
    }
}

/// Whether a request is one by which an agent shows that it lives.
fn is_heartbeat(request: &Request) -> bool {
    let target = &request.target;
    (target.resource == "nodes" || target.resource == "leases") && target.name.is_some()
}

fn given_up() -> TransportError {
    TransportError::Lost("the connection was given up for a newer one".to_owned())
}

impl Transport for Remote {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move {
            if is_heartbeat(&request) {
                return self.heartbeat(request).await;
            }
            let (transport, generation) = self.current();
            tokio::select! {
                outcome = transport.call(request) => outcome,
                () = self.outdated(generation) => Err(given_up()),
            }
        })
    }

    fn list(&self, request: Request) -> BoxFuture<'_, Result<ObjectList, ClientError>> {
        Box::pin(async move {
            let (transport, generation) = self.current();
            tokio::select! {
                outcome = transport.list(request) => outcome,
                () = self.outdated(generation) => Err(ClientError::Transport(given_up())),
            }
        })
    }

    fn watch(&self, request: Request) -> BoxFuture<'_, Result<WatchStream, ClientError>> {
        Box::pin(async move {
            let (transport, generation) = self.current();
            let stream = tokio::select! {
                outcome = transport.watch(request) => outcome?,
                () = self.outdated(generation) => return Err(ClientError::Transport(given_up())),
            };
            let mut proved = self.proved.subscribe();
            let outdated = async move { drop(proved.wait_for(|proved| *proved > generation).await) };
            // It ends as watches do, and is begun again where it ended.
            Ok(Box::pin(stream.take_until(Box::pin(outdated))) as WatchStream)
        })
    }
}
