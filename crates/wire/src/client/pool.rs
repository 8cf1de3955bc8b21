//! Connections kept for the next request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use stdx::Mono;
use tokio::sync::Semaphore;

use super::{ClientError, Origin};
use crate::Body;

/// The sending end of a connection.
pub(super) enum Sender {
    Http1(http1::SendRequest<Body>),
    /// Shared: clones use one connection.
    Http2(http2::SendRequest<Body>),
}

/// A request that failed; `unsent` when nothing of it left, so that it may be sent elsewhere.
pub(super) struct Fault {
    pub(super) unsent: Option<Box<Request<Body>>>,
    source: hyper::Error,
}

impl Fault {
    pub(super) fn into_error(self, origin: &Origin) -> ClientError {
        ClientError::Exchange { target: origin.authority.clone(), source: self.source }
    }
}

impl Sender {
    pub(super) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, Fault> {
        let sent = match self {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| Fault { unsent: error.take_message().map(Box::new), source: error.into_error() })
    }
}

/// Hosts with connections, beyond which the ones without are forgotten.
const HOSTS_MAX: usize = 256;

/// The connections of one client.
pub(super) struct Pool {
    hosts: Arc<Mutex<BTreeMap<Origin, Host>>>,
    idle_timeout: Duration,
    idle_per_host_max: usize,
}

struct Host {
    shared: Option<http2::SendRequest<Body>>,
    idle: Vec<(http1::SendRequest<Body>, Mono)>,
    /// Held by the request that connects.
    turn: Arc<Semaphore>,
}

impl Default for Host {
    fn default() -> Self {
        Host { shared: None, idle: Vec::new(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Pool {
    pub(super) fn new(idle_timeout: Duration, idle_per_host_max: usize) -> Self {
        Pool { hosts: Arc::default(), idle_timeout, idle_per_host_max }
    }

    /// A kept connection that is not known to be closed.
    pub(super) fn take(&self, origin: &Origin) -> Option<Sender> {
        let mut hosts = self.hosts.lock().expect("no holder of this lock panics");
        let host = hosts.get_mut(origin)?;
        if let Some(shared) = live(host) {
            return Some(Sender::Http2(shared));
        }
        let oldest = stdx::mono();
        while let Some((sender, since)) = host.idle.pop() {
            if sender.is_ready() && oldest - since < self.idle_timeout {
                return Some(Sender::Http1(sender));
            }
        }
        None
    }

    /// The host's HTTP/2 connection.
    pub(super) fn take_shared(&self, origin: &Origin) -> Option<Sender> {
        let mut hosts = self.hosts.lock().expect("no holder of this lock panics");
        live(hosts.get_mut(origin)?).map(Sender::Http2)
    }

    /// What the next request that connects to this host has to hold; `None` when there are too many hosts to remember.
    pub(super) fn turn(&self, origin: &Origin) -> Option<Arc<Semaphore>> {
        let mut hosts = self.hosts.lock().expect("no holder of this lock panics");
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(origin) {
            hosts.retain(|_, host| live(host).is_some() || host.idle.iter().any(|(sender, _)| sender.is_ready()));
            if hosts.len() >= HOSTS_MAX {
                return None;
            }
        }
        Some(hosts.entry(origin.clone()).or_default().turn.clone())
    }

    /// Lets other requests use a new HTTP/2 connection at once.
    pub(super) fn share(&self, origin: &Origin, sender: &Sender) {
        let Sender::Http2(sender) = sender else { return };
        let mut hosts = self.hosts.lock().expect("no holder of this lock panics");
        if let Some(host) = hosts.get_mut(origin) {
            host.shared = Some(sender.clone());
        }
    }

    /// Keeps an HTTP/1.1 connection once its response was read to the end; HTTP/2 ones are kept already.
    pub(super) fn put_when_ready(&self, origin: &Origin, sender: Sender) {
        let Sender::Http1(mut sender) = sender else { return };
        let (hosts, origin) = (self.hosts.clone(), origin.clone());
        let (idle_timeout, idle_per_host_max) = (self.idle_timeout, self.idle_per_host_max);
        // Ends with the response or with the connection.
        drop(stdx::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let now = stdx::mono();
            let mut hosts = hosts.lock().expect("no holder of this lock panics");
            if let Some(host) = hosts.get_mut(&origin)
                && host.idle.len() < idle_per_host_max
            {
                host.idle.push((sender, now));
            }
            for host in hosts.values_mut() {
                host.idle.retain(|(sender, since)| sender.is_ready() && now - *since < idle_timeout);
            }
        }));
    }
}

fn live(host: &mut Host) -> Option<http2::SendRequest<Body>> {
    if host.shared.as_ref().is_some_and(http2::SendRequest::is_closed) {
        host.shared = None;
    }
    host.shared.clone()
}
