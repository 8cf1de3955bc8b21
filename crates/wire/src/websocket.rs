//! WebSocket, both ends: the handshake over HTTP/1.1, sub-protocols, messages.

use bytes::Bytes;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::{Body, Client, ClientError, Upgraded, upgraded};

/// Why there is no WebSocket, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// The request is no WebSocket handshake.
    #[error("not a websocket handshake: {0}")]
    NotAHandshake(&'static str),
    /// The client offers sub-protocols, none of them the server's.
    #[error("unable to upgrade: {offered} requested, but unable to find a match")]
    NoCommonProtocol {
        /// What the client offered, comma-separated.
        offered: String,
    },
    /// The request to the server failed.
    #[error(transparent)]
    Request(#[from] ClientError),
    /// The server answered other than by an upgrade; the caller may read why.
    #[error("websocket handshake refused with {}", .0.status())]
    Refused(Box<Response<Body>>),
    /// The server's answer is not one to our handshake.
    #[error("bad websocket handshake: {0}")]
    BadAnswer(&'static str),
    /// The connection did not switch protocols.
    #[error("switch protocols")]
    Upgrade(#[source] hyper::Error),
    /// The connection broke, or the peer broke the protocol or a limit.
    #[error("websocket: {0}")]
    Stream(#[source] Box<tungstenite::Error>),
}

/// A message; pings and pongs are answered underneath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
    /// The peer says goodbye, with a code and a reason if it gave them. Nothing follows.
    Close(Option<(u16, String)>),
}

/// How much a WebSocket bears.
#[derive(Clone, Copy, Debug)]
pub struct MessageLimits {
    /// Bytes of one message, all its frames together.
    pub message_bytes_max: usize,
    /// Bytes of one frame.
    pub frame_bytes_max: usize,
    /// Bytes that may wait to be sent before sending fails.
    pub unsent_bytes_max: usize,
}

impl Default for MessageLimits {
    fn default() -> Self {
        MessageLimits { message_bytes_max: 4 << 20, frame_bytes_max: 4 << 20, unsent_bytes_max: 16 << 20 }
    }
}

impl MessageLimits {
    fn config(self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(16 << 10)
            // Interactive streams: every message leaves at once.
            .write_buffer_size(0)
            .max_write_buffer_size(self.unsent_bytes_max)
            .max_message_size(Some(self.message_bytes_max))
            .max_frame_size(Some(self.frame_bytes_max))
    }
}

/// Whether a request asks to become a WebSocket.
pub fn is_handshake<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && lists(request.headers(), CONNECTION, "upgrade")
        && lists(request.headers(), UPGRADE, "websocket")
}

/// The sub-protocols a handshake offers, in the client's order.
pub fn offered_protocols<B>(request: &Request<B>) -> Vec<String> {
    items(request.headers(), SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect()
}

/// Answers a handshake: the response to send, and what becomes the WebSocket once it was sent.
///
/// The sub-protocol is the first that the client offers of `protocols`; a client that offers none gets none. The caller
/// spawns [`Accepted::open`], since it waits for the response to leave.
pub fn accept(
    request: &mut Request<Body>,
    protocols: &[&str],
    limits: MessageLimits,
) -> Result<(Response<Body>, Accepted), WebSocketError> {
    if !is_handshake(request) {
        return Err(WebSocketError::NotAHandshake("no upgrade to websocket asked for"));
    }
    if !items(request.headers(), SEC_WEBSOCKET_VERSION).any(|version| version == "13") {
        return Err(WebSocketError::NotAHandshake("version is not 13"));
    }
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return Err(WebSocketError::NotAHandshake("key is missing"));
    };
    let answer = derive_accept_key(key.as_bytes());
    let offered = offered_protocols(request);
    let chosen = offered.iter().find(|offer| protocols.contains(&offer.as_str())).cloned();
    if chosen.is_none() && !offered.is_empty() {
        return Err(WebSocketError::NoCommonProtocol { offered: offered.join(",") });
    }
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(answer).expect("base64 is a header value"));
    if let Some(chosen) = &chosen {
        let value = HeaderValue::from_str(chosen).expect("the offer was itself read from a header");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    let accepted = Accepted { upgrade: Box::pin(upgraded(request)), protocol: chosen, limits };
    Ok((response, accepted))
}

/// A WebSocket to be, once its handshake's response was sent.
pub struct Accepted {
    upgrade: stdx::BoxFuture<'static, Result<Upgraded, hyper::Error>>,
    protocol: Option<String>,
    limits: MessageLimits,
}

impl Accepted {
    /// The sub-protocol agreed on.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Waits for the response to be sent and the connection to switch.
    pub async fn open(self) -> Result<WebSocket, WebSocketError> {
        let stream = self.upgrade.await.map_err(WebSocketError::Upgrade)?;
        Ok(WebSocket::new(stream, Role::Server, self.protocol, self.limits).await)
    }
}

/// Opens a WebSocket as a client. `request` carries the absolute `http` or `https` URI and any headers of the caller's;
/// `protocols` are offered in order.
pub async fn connect(
    client: &Client,
    mut request: Request<()>,
    protocols: &[&str],
    limits: MessageLimits,
) -> Result<WebSocket, WebSocketError> {
    let key = generate_key();
    let headers = request.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).expect("base64 is a header value"));
    if !protocols.is_empty() {
        let offer = HeaderValue::try_from(protocols.join(", "));
        let offer = offer.map_err(|_| WebSocketError::NotAHandshake("sub-protocol is no header value"))?;
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offer);
    }
    let (response, stream) = client.upgrade(request.map(|()| Body::Empty)).await?;
    let Some(stream) = stream else { return Err(WebSocketError::Refused(Box::new(response))) };
    let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(WebSocketError::BadAnswer("accept key does not match"));
    }
    let chosen = items(response.headers(), SEC_WEBSOCKET_PROTOCOL).next().map(str::to_owned);
    if chosen.as_deref().is_some_and(|chosen| !protocols.contains(&chosen)) {
        return Err(WebSocketError::BadAnswer("sub-protocol was not offered"));
    }
    Ok(WebSocket::new(stream, Role::Client, chosen, limits).await)
}

/// An open WebSocket.
pub struct WebSocket {
    stream: WebSocketStream<Upgraded>,
    protocol: Option<String>,
    closed: bool,
}

impl WebSocket {
    async fn new(stream: Upgraded, role: Role, protocol: Option<String>, limits: MessageLimits) -> Self {
        let stream = WebSocketStream::from_raw_socket(stream, role, Some(limits.config())).await;
        WebSocket { stream, protocol, closed: false }
    }

    /// The sub-protocol agreed on.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// The next message; `None` once the peer's close was delivered or the connection ended in order.
    pub async fn next(&mut self) -> Option<Result<Message, WebSocketError>> {
        next(&mut self.stream, &mut self.closed).await
    }

    /// Sends a message and flushes it.
    pub async fn send(&mut self, message: Message) -> Result<(), WebSocketError> {
        self.stream.send(outgoing(message)).await.map_err(fault)
    }

    /// The two directions, to be used by two tasks.
    pub fn split(self) -> (WebSocketSender, WebSocketReceiver) {
        let (sink, stream) = self.stream.split();
        (WebSocketSender(sink), WebSocketReceiver { stream, closed: self.closed })
    }
}

/// The sending direction of a WebSocket.
pub struct WebSocketSender(SplitSink<WebSocketStream<Upgraded>, tungstenite::Message>);

impl WebSocketSender {
    /// Sends a message and flushes it.
    pub async fn send(&mut self, message: Message) -> Result<(), WebSocketError> {
        self.0.send(outgoing(message)).await.map_err(fault)
    }

    /// Keeps the connection from being taken for dead by what lies between.
    pub async fn ping(&mut self) -> Result<(), WebSocketError> {
        self.0.send(tungstenite::Message::Ping(Bytes::new())).await.map_err(fault)
    }
}

/// The receiving direction of a WebSocket.
pub struct WebSocketReceiver {
    stream: SplitStream<WebSocketStream<Upgraded>>,
    closed: bool,
}

impl WebSocketReceiver {
    /// The next message; `None` once the peer's close was delivered or the connection ended in order.
    pub async fn next(&mut self) -> Option<Result<Message, WebSocketError>> {
        next(&mut self.stream, &mut self.closed).await
    }
}

/// How long the peer may take to close the connection after the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// `closed` remembers the peer's goodbye: how the connection ends after it is of no interest, but reading on is what sends
/// our own.
async fn next<S>(stream: &mut S, closed: &mut bool) -> Option<Result<Message, WebSocketError>>
where
    S: futures_util::Stream<Item = Result<tungstenite::Message, tungstenite::Error>> + Unpin,
{
    if *closed {
        drop(stdx::timeout(CLOSE_TIMEOUT, stream.next()).await);
        return None;
    }
    loop {
        return Some(match stream.next().await? {
            Ok(tungstenite::Message::Text(text)) => Ok(Message::Text(text.to_string())),
            Ok(tungstenite::Message::Binary(bytes)) => Ok(Message::Binary(bytes)),
            Ok(tungstenite::Message::Close(frame)) => {
                *closed = true;
                Ok(Message::Close(frame.map(|frame| (frame.code.into(), frame.reason.to_string()))))
            }
            Ok(_) => continue,
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => return None,
            Err(error) => Err(fault(error)),
        });
    }
}

fn outgoing(message: Message) -> tungstenite::Message {
    match message {
        Message::Text(text) => tungstenite::Message::Text(text.into()),
        Message::Binary(bytes) => tungstenite::Message::Binary(bytes),
        Message::Close(reason) => tungstenite::Message::Close(
            reason.map(|(code, reason)| CloseFrame { code: CloseCode::from(code), reason: reason.into() }),
        ),
    }
}

fn fault(error: tungstenite::Error) -> WebSocketError {
    WebSocketError::Stream(Box::new(error))
}

/// The comma-separated items of a header, over all its lines.
fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn lists(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(wanted))
}
