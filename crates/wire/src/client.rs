//! The HTTP client: pooled HTTP/1.1 and HTTP/2 connections over TCP, TLS and unix sockets.

mod connect;
mod pool;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use stdx::BoxFuture;

use crate::resolve::{ResolveError, Resolver};
use crate::tls::ClientTls;
use crate::{Body, Upgraded};

use pool::{Pool, Sender};

/// Why no response came.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URI lacks a scheme or host, or asks for TLS of a client that has none.
    #[error("cannot request {uri}")]
    Uri {
        /// What was asked for.
        uri: String,
    },
    /// The host has no address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// No connection could be made. Nothing was sent.
    #[error("dial {target}: {source}")]
    Connect {
        /// The address, path or host tried last.
        target: String,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed. Nothing was sent.
    #[error("tls: {source}")]
    Tls {
        /// What the handshake said.
        source: io::Error,
    },
    /// A deadline of [`ClientOptions`] passed.
    #[error("{what}: deadline exceeded")]
    Timeout {
        /// What took too long.
        what: &'static str,
    },
    /// The connection broke after the request was sent: it may or may not have been carried out.
    #[error("exchange with {target}")]
    Exchange {
        /// The request's host.
        target: String,
        /// What the connection said.
        #[source]
        source: hyper::Error,
    },
}

/// Which HTTP a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    /// What the server picks in the TLS handshake; HTTP/1.1 without TLS.
    #[default]
    Negotiated,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only, without TLS by prior knowledge.
    Http2,
}

/// A byte stream that a [`Dial`] made.
pub trait Connection: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Connection for T {}

/// Makes a connection to a host and port; TLS, if any, is spoken over it by the client.
pub trait Dial: Send + Sync {
    /// A new connection.
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Box<dyn Connection>>>;
}

/// How requests find their server.
#[derive(Clone)]
pub enum Route {
    /// By the URI's host, resolved by us, over TCP.
    Direct(Resolver),
    /// Always this unix socket; the URI's host only names it.
    Unix(PathBuf),
    /// However the dialer does it.
    Dialer(Arc<dyn Dial>),
}

/// What a client is made from.
#[derive(Clone)]
pub struct ClientOptions {
    /// For `https`; without it such URIs are refused.
    pub tls: Option<ClientTls>,
    /// The name to ask for and to verify in place of the URI's host.
    pub server_name: Option<String>,
    /// How requests find their server.
    pub route: Route,
    /// Which HTTP is spoken.
    pub protocols: Protocols,
    /// Time to resolve, connect and shake hands.
    pub connect_timeout: Duration,
    /// Time from sending a request to the head of its response; `None` for as long as it takes.
    pub response_timeout: Option<Duration>,
    /// How long an unused connection is kept; below what servers keep, so that it is rarely they who close.
    pub idle_timeout: Duration,
    /// Unused HTTP/1.1 connections kept a host.
    pub idle_per_host_max: usize,
    /// HTTP/2 flow control window of a stream and of a connection.
    pub window_bytes: u32,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            tls: None,
            server_name: None,
            route: Route::Direct(Resolver::default()),
            protocols: Protocols::default(),
            connect_timeout: Duration::from_secs(10),
            response_timeout: None,
            idle_timeout: Duration::from_secs(60),
            idle_per_host_max: 16,
            window_bytes: 4 << 20,
        }
    }
}

/// An HTTP client; clones share its connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    connector: connect::Connector,
    response_timeout: Option<Duration>,
    pool: Pool,
}

impl Client {
    /// A client without connections yet.
    pub fn new(options: ClientOptions) -> Self {
        Client(Arc::new(Inner {
            response_timeout: options.response_timeout,
            pool: Pool::new(options.idle_timeout, options.idle_per_host_max),
            connector: connect::Connector::new(options),
        }))
    }

    /// Sends a request (absolute URI) and waits for the head of its response; redirects are not followed.
    ///
    /// A request is sent again by itself only when a kept connection turned out closed before any of it was sent.
    /// Dropping the future gives the request up.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let origin = Origin::of(request.uri())?;
        let exchange = self.exchange(&origin, request);
        match self.0.response_timeout {
            None => exchange.await,
            Some(limit) => match stdx::timeout(limit, exchange).await {
                Ok(result) => result,
                Err(stdx::Elapsed) => Err(ClientError::Timeout { what: "await response headers" }),
            },
        }
    }

    /// Sends an HTTP/1.1 request for the upgrade that its `Upgrade` header names, on a connection of its own.
    ///
    /// Any response but `101` is handed back as it is, without a stream.
    pub async fn upgrade(&self, mut request: Request<Body>) -> Result<(Response<Body>, Option<Upgraded>), ClientError> {
        let origin = Origin::of(request.uri())?;
        if request.headers().contains_key(UPGRADE) {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        let mut sender = self.0.connector.connect(&origin, Protocols::Http1).await?;
        let sent = sender.send(for_protocol(request, &sender, &origin)).await;
        let mut response = sent.map_err(|fault| fault.into_error(&origin))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok((response.map(Body::Incoming), None));
        }
        let stream = hyper::upgrade::on(&mut response)
            .await
            .map_err(|source| ClientError::Exchange { target: origin.authority.to_string(), source })?;
        Ok((response.map(|_| Body::Empty), Some(TokioIo::new(stream))))
    }

    async fn exchange(&self, origin: &Origin, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let mut request = request;
        // A kept connection may have been closed by the server meanwhile; a fresh one settles it.
        while let Some(mut sender) = self.0.pool.take(origin) {
            match sender.send(for_protocol(request, &sender, origin)).await {
                Ok(response) => {
                    self.0.pool.put_when_ready(origin, sender);
                    return Ok(response.map(Body::Incoming));
                }
                Err(pool::Fault { unsent: Some(unsent), .. }) => request = *unsent,
                Err(fault) => return Err(fault.into_error(origin)),
            }
        }
        let mut sender = self.fresh(origin).await?;
        match sender.send(for_protocol(request, &sender, origin)).await {
            Ok(response) => {
                self.0.pool.put_when_ready(origin, sender);
                Ok(response.map(Body::Incoming))
            }
            Err(fault) => Err(fault.into_error(origin)),
        }
    }

    /// A new connection, or the HTTP/2 one that another request made while this one waited its turn to connect.
    async fn fresh(&self, origin: &Origin) -> Result<Sender, ClientError> {
        let inner = &self.0;
        let turn = inner.pool.turn(origin);
        let permit = match &turn {
            // One handshake at a time where one connection may serve all.
            Some(turn) if inner.connector.may_share(origin) => {
                Some(turn.acquire().await.expect("the semaphore is never closed"))
            }
            _ => None,
        };
        if permit.is_some()
            && let Some(sender) = inner.pool.take_shared(origin)
        {
            return Ok(sender);
        }
        let sender = inner.connector.connect(origin, inner.connector.protocols()).await?;
        inner.pool.share(origin, &sender);
        Ok(sender)
    }
}

/// Whom a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    secure: bool,
    host: String,
    port: u16,
    authority: String,
}

impl Origin {
    fn of(uri: &Uri) -> Result<Self, ClientError> {
        let refused = || ClientError::Uri { uri: uri.to_string() };
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refused()),
        };
        let authority = uri.authority().ok_or_else(refused)?;
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Origin { secure, host, port, authority: without_user(authority) })
    }
}

fn without_user(authority: &Authority) -> String {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned()
}

/// The request in the form its protocol wants: HTTP/1.1 names the host in a header, HTTP/2 in the URI.
fn for_protocol(mut request: Request<Body>, sender: &Sender, origin: &Origin) -> Request<Body> {
    match sender {
        Sender::Http2(_) => {
            *request.version_mut() = http::Version::HTTP_2;
            if let Some(host) = request.headers_mut().remove(HOST) {
                with_authority(&mut request, &host);
            }
        }
        Sender::Http1(_) => {
            *request.version_mut() = http::Version::HTTP_11;
            if !request.headers().contains_key(HOST)
                && let Ok(host) = HeaderValue::from_str(&origin.authority)
            {
                request.headers_mut().insert(HOST, host);
            }
            let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from(path);
        }
    }
    request
}

/// Makes a `Host` header the URI's authority; what is no authority is left out.
fn with_authority(request: &mut Request<Body>, host: &HeaderValue) {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return };
    let mut parts = request.uri().clone().into_parts();
    parts.authority = Some(authority);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}
