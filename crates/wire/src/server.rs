//! The HTTP server: listeners, handshakes, HTTP/1.1 and HTTP/2 connections, and their drain.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use stdx::{Backoff, BoxFuture, Cancel, TaskTree};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use crate::Body;
use crate::rt::TaskExecutor;
use crate::tls::ServerTls;

/// What answers requests. It must not fail: what goes wrong is a response.
pub type Service = Arc<dyn Fn(Request<Body>, Arc<ConnectionInfo>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// What is known of the connection that a request came by.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo {
    /// The other end; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    /// Our end; `None` on a unix socket.
    pub local: Option<SocketAddr>,
    /// Whether the connection is TLS.
    pub secure: bool,
    /// The name the client asked for in its TLS handshake.
    pub server_name: Option<String>,
    /// The client's certificates, leaf first; the key of the leaf is proved, nothing else is. Empty without one.
    pub client_chain: Vec<CertificateDer<'static>>,
    /// The user on the other end of a unix socket.
    pub peer_uid: Option<u32>,
    /// What the service worked out about this connection.
    pub memo: Memo,
}

/// Something that the service keeps with a connection, so that it need not be worked out for each request.
#[derive(Clone, Default)]
pub struct Memo(Arc<Mutex<Option<Arc<dyn Any + Send + Sync>>>>);

impl Memo {
    /// What was kept last, if it is a `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let kept = self.0.lock().expect("no holder of this lock panics").clone();
        kept.and_then(|kept| kept.downcast().ok())
    }

    /// Keeps something in place of what was kept before.
    pub fn keep<T: Any + Send + Sync>(&self, what: Arc<T>) {
        *self.0.lock().expect("no holder of this lock panics") = Some(what);
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Memo")
    }
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A unix socket; never TLS.
    Unix(UnixListener),
}

/// How much a server bears.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; more wait in the kernel's queue.
    pub connections_max: u32,
    /// Bytes of one request's head.
    pub header_bytes_max: u32,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for a request's head to arrive on HTTP/1.1, and so also how long such a connection may idle.
    pub header_read_timeout: Duration,
    /// Requests in flight on one HTTP/2 connection.
    pub streams_max: u32,
    /// HTTP/2 flow control window of a stream and of a connection.
    pub window_bytes: u32,
    /// How often an HTTP/2 peer is asked whether it is still there.
    pub ping_interval: Duration,
    /// How long requests in flight may go on after the server was cancelled.
    pub drain_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 16_384,
            header_bytes_max: 1 << 20,
            handshake_timeout: Duration::from_secs(10),
            // hyper counts idling as waiting for a head; 90 s is how long upstream lets a connection idle.
            header_read_timeout: Duration::from_secs(90),
            streams_max: 250,
            window_bytes: 1 << 20,
            ping_interval: Duration::from_secs(30),
            drain_deadline: Duration::from_secs(10),
        }
    }
}

/// Why a server ended other than by a clean drain.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// Requests in flight outlived [`Limits::drain_deadline`]; their connections were closed.
    #[error("{connections} connections still busy at the drain deadline")]
    Undrained {
        /// How many were closed.
        connections: usize,
    },
}

/// Answers requests from all `listeners` until `cancel`, then drains: no new connections, HTTP/2 peers are told to go
/// away, idle connections close, requests in flight have until [`Limits::drain_deadline`].
///
/// With `tls`, TCP listeners speak TLS only.
pub async fn serve(
    listeners: Vec<Listener>,
    tls: Option<ServerTls>,
    service: Service,
    limits: Limits,
    cancel: Cancel,
) -> Result<(), ServeError> {
    let slots = limits.connections_max;
    let drain_deadline = limits.drain_deadline;
    let server = Arc::new(Server {
        acceptor: tls.map(|tls| TlsAcceptor::from(tls.0)),
        service,
        limits,
        slots: Arc::new(Semaphore::new(slots as usize)),
        stop: cancel.clone(),
        abort: Cancel::default(),
    });
    let accepting = TaskTree::default();
    for listener in listeners {
        accepting.spawn_draining("accept", accept(listener, server.clone()));
    }
    cancel.cancelled().await;
    // Accept loops end at once on `cancel`.
    let stuck = accepting.drain(drain_deadline).await;
    debug_assert_eq!(stuck, Ok(()));
    drain(&server, slots, drain_deadline).await
}

struct Server {
    acceptor: Option<TlsAcceptor>,
    service: Service,
    limits: Limits,
    /// One permit per open connection, so that all permits back means all connections closed.
    slots: Arc<Semaphore>,
    stop: Cancel,
    abort: Cancel,
}

async fn drain(server: &Server, slots: u32, deadline: Duration) -> Result<(), ServeError> {
    if stdx::timeout(deadline, server.slots.acquire_many(slots)).await.is_ok() {
        return Ok(());
    }
    let connections = slots as usize - server.slots.available_permits();
    server.abort.cancel();
    Err(ServeError::Undrained { connections })
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn accept(listener: Listener, server: Arc<Server>) {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        let next = async {
            let permit = server.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            let socket = match &listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(socket, _)| Socket::Tcp(socket)),
                Listener::Unix(listener) => listener.accept().await.map(|(socket, _)| Socket::Unix(socket)),
            };
            (permit, socket)
        };
        let Some((permit, socket)) = server.stop.run(next).await else { return };
        match socket {
            Ok(socket) => {
                backoff.succeed();
                // The permit tells the drain when this task's connection has ended.
                drop(stdx::spawn(connection(socket, server.clone(), permit)));
            }
            Err(error) => {
                // Out of descriptors, or the peer left before we came: neither ends the server.
                warn!(%error, "accept connection");
                server.stop.run(stdx::sleep(backoff.fail())).await;
            }
        }
    }
}

async fn connection(socket: Socket, server: Arc<Server>, permit: OwnedSemaphorePermit) {
    let abort = server.abort.clone();
    abort.run(handshake_and_drive(socket, server)).await;
    drop(permit);
}

async fn handshake_and_drive(socket: Socket, server: Arc<Server>) {
    match socket {
        Socket::Unix(socket) => {
            let peer_uid = socket.peer_cred().ok().map(|credentials| credentials.uid());
            drive(socket, ConnectionInfo { peer_uid, ..ConnectionInfo::default() }, Protocol::Http1, &server).await;
        }
        Socket::Tcp(socket) => {
            // Answers are written whole; waiting to fill a packet would only delay them.
            if let Err(error) = socket.set_nodelay(true) {
                debug!(%error, "set TCP_NODELAY");
            }
            let info = ConnectionInfo {
                peer: socket.peer_addr().ok(),
                local: socket.local_addr().ok(),
                ..ConnectionInfo::default()
            };
            match &server.acceptor {
                None => drive(socket, info, Protocol::Http1, &server).await,
                Some(acceptor) => drive_tls(socket, info, acceptor, &server).await,
            }
        }
    }
}

async fn drive_tls(socket: TcpStream, mut info: ConnectionInfo, acceptor: &TlsAcceptor, server: &Arc<Server>) {
    let handshake = stdx::timeout(server.limits.handshake_timeout, accept_tls(socket, acceptor));
    let stream = match server.stop.run(handshake).await {
        Some(Ok(Ok(Some(stream)))) => stream,
        Some(Ok(Err(error))) => return debug!(peer = ?info.peer, %error, "TLS handshake"),
        Some(Ok(Ok(None)) | Err(stdx::Elapsed)) | None => return,
    };
    let (_, session) = stream.get_ref();
    info.secure = true;
    info.server_name = session.server_name().map(str::to_owned);
    info.client_chain = session.peer_certificates().unwrap_or_default().to_vec();
    let protocol = if session.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
    drive(stream, info, protocol, server).await;
}

/// The TLS stream, or `None` after a client that spoke plain HTTP was told so.
async fn accept_tls(mut socket: TcpStream, acceptor: &TlsAcceptor) -> std::io::Result<Option<TlsStream<TcpStream>>> {
    let mut first = [0];
    let peeked = socket.peek(&mut first).await?;
    // Every TLS record starts with a type below 0x20, every HTTP request with a letter.
    if peeked == 1 && first[0].is_ascii_uppercase() {
        let answer = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
        socket.write_all(answer.as_bytes()).await?;
        socket.shutdown().await?;
        return Ok(None);
    }
    acceptor.accept(socket).await.map(Some)
}

enum Protocol {
    Http1,
    Http2,
}

async fn drive<I>(io: I, info: ConnectionInfo, protocol: Protocol, server: &Arc<Server>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let info = Arc::new(info);
    let answering = server.service.clone();
    let service = {
        let info = info.clone();
        service_fn(move |request: Request<Incoming>| {
            let answer = answering(request.map(Body::Incoming), info.clone());
            async move { Ok::<_, Infallible>(answer.await) }
        })
    };
    let io = TokioIo::new(io);
    let ended = match protocol {
        Protocol::Http1 => {
            let connection = http1_builder(&server.limits).serve_connection(io, service).with_upgrades();
            let mut connection = pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = server.stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        Protocol::Http2 => {
            let mut connection = pin!(http2_builder(&server.limits).serve_connection(io, service));
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = server.stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        debug!(peer = ?info.peer, %error, "connection ended");
    }
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_header_size(limits.header_bytes_max as usize)
        // hyper refuses buffers below 8 KiB.
        .max_buf_size((limits.header_bytes_max as usize).max(64 << 10));
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<TaskExecutor> {
    let mut builder = http2::Builder::new(TaskExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes)
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_bytes_max)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(Duration::from_secs(15));
    builder
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("limits", &self.limits).finish_non_exhaustive()
    }
}
