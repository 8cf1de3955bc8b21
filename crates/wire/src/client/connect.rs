//! New connections: resolve, dial, shake hands, agree on a protocol.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::pool::Sender;
use super::{ClientError, ClientOptions, Connection, Origin, Protocols, Route};
use crate::resolve::Resolver;
use crate::rt::TaskExecutor;

/// How long one of several addresses is tried.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes connections as the options say.
pub(super) struct Connector {
    options: ClientOptions,
    negotiating: Option<Arc<ClientConfig>>,
    http1_only: Option<Arc<ClientConfig>>,
}

impl Connector {
    pub(super) fn new(options: ClientOptions) -> Self {
        let offering = |protocols: &[&[u8]]| options.tls.as_ref().map(|tls| tls.with_protocols(protocols));
        let negotiating = match options.protocols {
            Protocols::Negotiated => offering(&[b"h2", b"http/1.1"]),
            Protocols::Http1 => offering(&[b"http/1.1"]),
            Protocols::Http2 => offering(&[b"h2"]),
        };
        Connector { negotiating, http1_only: offering(&[b"http/1.1"]), options }
    }

    pub(super) fn protocols(&self) -> Protocols {
        self.options.protocols
    }

    /// Whether a connection to `origin` may turn out to be HTTP/2.
    pub(super) fn may_share(&self, origin: &Origin) -> bool {
        match self.options.protocols {
            Protocols::Negotiated => origin.secure,
            Protocols::Http1 => false,
            Protocols::Http2 => true,
        }
    }

    pub(super) async fn connect(&self, origin: &Origin, protocols: Protocols) -> Result<Sender, ClientError> {
        // Boxed: a request on a kept connection need not carry room for a handshake.
        let establishing = Box::pin(self.establish(origin, protocols));
        match stdx::timeout(self.options.connect_timeout, establishing).await {
            Ok(result) => result,
            Err(stdx::Elapsed) => Err(ClientError::Connect {
                target: origin.authority.clone(),
                source: io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"),
            }),
        }
    }

    async fn establish(&self, origin: &Origin, protocols: Protocols) -> Result<Sender, ClientError> {
        let stream = self.dial(origin).await?;
        if !origin.secure {
            return self.start(stream, protocols == Protocols::Http2, origin).await;
        }
        let config = if protocols == Protocols::Http1 { &self.http1_only } else { &self.negotiating };
        let Some(config) = config else {
            return Err(ClientError::Uri { uri: format!("https://{}", origin.authority) });
        };
        let name = self.options.server_name.as_deref().unwrap_or(&origin.host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| ClientError::Tls { source: io::Error::new(io::ErrorKind::InvalidInput, error) })?;
        let stream = TlsConnector::from(config.clone())
            .connect(name, stream)
            .await
            .map_err(|source| ClientError::Tls { source })?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2") || protocols == Protocols::Http2;
        self.start(stream, http2, origin).await
    }

    async fn dial(&self, origin: &Origin) -> Result<Box<dyn Connection>, ClientError> {
        match &self.options.route {
            Route::Direct(resolver) => dial_tcp(resolver, origin).await,
            Route::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(source) => Err(ClientError::Connect { target: format!("unix {}", path.display()), source }),
            },
            Route::Dialer(dialer) => dialer
                .dial(&origin.host, origin.port)
                .await
                .map_err(|source| ClientError::Connect { target: origin.authority.clone(), source }),
        }
    }

    async fn start(
        &self,
        stream: impl Connection + 'static,
        http2: bool,
        origin: &Origin,
    ) -> Result<Sender, ClientError> {
        let io = TokioIo::new(stream);
        let failed = |source| ClientError::Exchange { target: origin.authority.clone(), source };
        // The connection's task ends when all its senders are dropped or the peer closes.
        if http2 {
            let (sender, connection) = self.http2_builder().handshake(io).await.map_err(failed)?;
            drop(stdx::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "client connection ended");
                }
            }));
            Ok(Sender::Http2(sender))
        } else {
            let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(failed)?;
            drop(stdx::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    debug!(%error, "client connection ended");
                }
            }));
            Ok(Sender::Http1(sender))
        }
    }

    fn http2_builder(&self) -> http2::Builder<TaskExecutor> {
        let mut builder = http2::Builder::new(TaskExecutor);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.options.window_bytes)
            .initial_connection_window_size(self.options.window_bytes)
            // As client-go: a peer that vanished is noticed while requests (watches above all) wait for it.
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15));
        builder
    }
}

async fn dial_tcp(resolver: &Resolver, origin: &Origin) -> Result<Box<dyn Connection>, ClientError> {
    let addresses = resolver.addresses(&origin.host).await?;
    let mut fault = None;
    for address in addresses {
        let address = SocketAddr::new(address, origin.port);
        let connected = match stdx::timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(connected) => connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)),
            Err(stdx::Elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")),
        };
        match connected {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(source) => fault = Some(ClientError::Connect { target: format!("tcp {address}"), source }),
        }
    }
    Err(fault.expect("the resolver gives at least one address or an error"))
}
