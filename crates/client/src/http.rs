//! The transport over HTTPS, in protobuf where the server has it.

mod frames;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use stdx::{BoxFuture, Mono};
use wire::tls::{ClientTls, Trust, certified_key};

use crate::config::{ClientConfig, Credentials, Secret};
use crate::decode;
use crate::error::{ClientError, ConfigError, TransportError};
use crate::request::{Action, Request};
use crate::transport::{ObjectList, Response, Transport, WatchEvent, WatchStream, call, outcome};

use frames::Frames;

/// What is preferred, then what everything has.
const ACCEPT_OBJECT: &str = "application/vnd.kubernetes.protobuf, application/json";
const ACCEPT_WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch, application/json";

/// The server gives up a request after a minute; what has not come soon after does not come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(75);
/// A list of very many objects takes longer to send.
const LIST_TIMEOUT: Duration = Duration::from_secs(300);
const BODY_BYTES_MAX: usize = 64 << 20;
const LIST_BYTES_MAX: usize = 1 << 30;
/// A server that says when to come back is asked so many times in all, as client-go does.
const TRIES_MAX: usize = 10;
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// Upstream's clients read a token file anew as often.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(10);

/// One API server over HTTPS, as one user.
pub struct HttpTransport {
    client: wire::Client,
    server: String,
    token: Token,
    user_agent: HeaderValue,
}

enum Token {
    None,
    Fixed(HeaderValue),
    File { path: PathBuf, read: Mutex<Option<(HeaderValue, Mono)>> },
}

impl HttpTransport {
    /// A transport without connections yet.
    ///
    /// # Errors
    /// When certificates or keys cannot be used.
    pub fn new(config: &ClientConfig, user_agent: &str) -> Result<HttpTransport, ConfigError> {
        let unusable = |error: &dyn std::fmt::Display| ConfigError::Missing(error.to_string());
        let options = wire::ClientOptions {
            tls: if config.server.starts_with("https:") { Some(tls(config)?) } else { None },
            server_name: config.server_name.clone(),
            ..wire::ClientOptions::default()
        };
        Ok(HttpTransport {
            client: wire::Client::new(options),
            server: config.server.trim_end_matches('/').to_owned(),
            token: token(&config.credentials)?,
            user_agent: HeaderValue::from_str(user_agent).map_err(|error| unusable(&error))?,
        })
    }

    async fn send(
        &self,
        request: &Request,
        accept: &'static str,
    ) -> Result<http::Response<wire::Body>, TransportError> {
        let mut builder = http::Request::builder()
            .method(request.method())
            .uri(format!("{}{}", self.server, request.uri()))
            .header(ACCEPT, accept)
            .header(USER_AGENT, &self.user_agent);
        if let Some(token) = self.token.header()? {
            builder = builder.header(AUTHORIZATION, token);
        }
        let (content_type, body) = request.body().unzip();
        if let Some(content_type) = content_type {
            builder = builder.header(CONTENT_TYPE, content_type);
        }
        let request = builder
            .body(wire::Body::from(body.unwrap_or_default()))
            .map_err(|error| TransportError::Unreached(error.to_string()))?;
        self.client.send(request).await.map_err(|error| transport_error(&error))
    }

    /// Sends, and sends again while the server asks to come back later: it has done nothing then.
    async fn send_patiently(
        &self,
        request: &Request,
        accept: &'static str,
    ) -> Result<http::Response<wire::Body>, TransportError> {
        for _ in 1..TRIES_MAX {
            let response = self.send(request, accept).await?;
            match retry_after(response.status(), response.headers()) {
                Some(delay) => stdx::sleep(delay).await,
                None => return Ok(response),
            }
        }
        self.send(request, accept).await
    }

    async fn exchange(&self, request: &Request) -> Result<Response, TransportError> {
        let (limit, timeout) = match request.action {
            Action::List(_) => (LIST_BYTES_MAX, LIST_TIMEOUT),
            _ => (BODY_BYTES_MAX, ANSWER_TIMEOUT),
        };
        let exchange = async {
            let response = self.send_patiently(request, ACCEPT_OBJECT).await?;
            whole(response, limit).await
        };
        let late = |_| Err(TransportError::Lost("deadline exceeded".to_owned()));
        stdx::timeout(timeout, exchange).await.unwrap_or_else(late)
    }

    async fn start_watch(&self, request: &Request) -> Result<WatchStream, ClientError> {
        let sent = stdx::timeout(ANSWER_TIMEOUT, self.send_patiently(request, ACCEPT_WATCH)).await;
        let response = match sent {
            Ok(response) => response.map_err(|error| outcome(error, false))?,
            Err(stdx::Elapsed) => {
                return Err(ClientError::Transport(TransportError::Lost("deadline exceeded".to_owned())));
            }
        };
        if !response.status().is_success() {
            let response = whole(response, BODY_BYTES_MAX).await.map_err(|error| outcome(error, false))?;
            return Err(decode::failure(&response).into());
        }
        let protobuf = content_type(response.headers()).starts_with("application/vnd.kubernetes.protobuf");
        let reading = Reading { body: response.into_body(), frames: Frames::new(protobuf), over: false };
        Ok(Box::pin(stream::unfold(reading, Reading::next)))
    }
}

fn tls(config: &ClientConfig) -> Result<ClientTls, ConfigError> {
    let unusable = |error: wire::tls::TlsError| ConfigError::Missing(error.to_string());
    let trust = match &config.ca_pem {
        _ if config.insecure => Trust::Anyone,
        Some(roots) => Trust::from_pem(roots).map_err(unusable)?,
        None => return Err(ConfigError::Missing("certificate-authority is not set".to_owned())),
    };
    let identity = match &config.credentials {
        Credentials::Certificate { chain_pem, key_pem } => {
            Some(wire::tls::CertificateSlot::new(certified_key(chain_pem, key_pem).map_err(unusable)?))
        }
        Credentials::CertificateSlot(slot) => Some(slot.clone()),
        Credentials::Anonymous | Credentials::Token(_) | Credentials::TokenFile(_) => None,
    };
    ClientTls::new(&trust, identity.map(|slot| Arc::new(slot) as _)).map_err(unusable)
}

fn token(credentials: &Credentials) -> Result<Token, ConfigError> {
    match credentials {
        Credentials::Token(token) => bearer(token).map(Token::Fixed).map_err(ConfigError::Missing),
        Credentials::TokenFile(path) => Ok(Token::File { path: path.clone(), read: Mutex::new(None) }),
        _ => Ok(Token::None),
    }
}

fn bearer(Secret(token): &Secret) -> Result<HeaderValue, String> {
    let mut header = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| "token holds letters no header may hold".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

impl Token {
    fn header(&self) -> Result<Option<HeaderValue>, TransportError> {
        let (path, read) = match self {
            Token::None => return Ok(None),
            Token::Fixed(header) => return Ok(Some(header.clone())),
            Token::File { path, read } => (path, read),
        };
        let mut read = read.lock().expect("no holder of this lock panics");
        let now = stdx::mono();
        if let Some((header, moment)) = &*read
            && now - *moment < TOKEN_AGE_MAX
        {
            return Ok(Some(header.clone()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
        match text.and_then(|text| bearer(&Secret(text))) {
            Ok(header) => {
                *read = Some((header.clone(), now));
                Ok(Some(header))
            }
            // While a file is being replaced, the old token is still good.
            Err(error) => match &*read {
                Some((header, _)) => {
                    tracing::warn!(path = %path.display(), error, "token file unreadable, using the last one read");
                    Ok(Some(header.clone()))
                }
                None => Err(TransportError::Unreached(format!("read token {}: {error}", path.display()))),
            },
        }
    }
}

/// How long to wait before the request is sent again; `None` if the response is to be taken as it is.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn transport_error(error: &wire::ClientError) -> TransportError {
    let text = stdx::told(error);
    match error {
        wire::ClientError::Uri { .. }
        | wire::ClientError::Resolve(_)
        | wire::ClientError::Connect { .. }
        | wire::ClientError::Tls { .. } => TransportError::Unreached(text),
        wire::ClientError::Timeout { .. } | wire::ClientError::Exchange { .. } => TransportError::Lost(text),
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn whole(response: http::Response<wire::Body>, limit: usize) -> Result<Response, TransportError> {
    let code = response.status().as_u16();
    let content_type = content_type(response.headers()).to_owned();
    let body = match response.into_body().read(limit).await {
        Ok(body) => body,
        Err(error @ wire::BodyError::TooLarge { .. }) => return Err(TransportError::Malformed(error.to_string())),
        Err(error) => return Err(TransportError::Lost(error.to_string())),
    };
    Ok(Response { code, content_type, body })
}

/// A watch's body on its way to events.
struct Reading {
    body: wire::Body,
    frames: Frames,
    over: bool,
}

type Event = Result<WatchEvent, ClientError>;

impl Reading {
    async fn next(mut self) -> Option<(Event, Reading)> {
        if self.over {
            return None;
        }
        let event = self.event().await?;
        self.over = event.is_err();
        Some((event, self))
    }

    /// The next event; `None` where the body ends between two.
    async fn event(&mut self) -> Option<Event> {
        loop {
            match self.frames.next() {
                Ok(Some(frame)) => return Some(decode::watch_event(&frame)),
                Ok(None) => {}
                Err(message) => return Some(lost(TransportError::Malformed(message))),
            }
            match self.body.next().await {
                Some(Ok(piece)) => self.frames.push(&piece),
                Some(Err(error)) => return Some(lost(TransportError::Lost(error.to_string()))),
                None if self.frames.is_empty() => return None,
                None => return Some(lost(TransportError::Lost("watch ended within an event".to_owned()))),
            }
        }
    }
}

fn lost(error: TransportError) -> Event {
    Err(ClientError::Transport(error))
}

impl Transport for HttpTransport {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move { self.exchange(&request).await })
    }

    fn list(&self, request: Request) -> BoxFuture<'_, Result<ObjectList, ClientError>> {
        Box::pin(async move { decode::list(&call(self, request).await?) })
    }

    fn watch(&self, request: Request) -> BoxFuture<'_, Result<WatchStream, ClientError>> {
        Box::pin(async move { self.start_watch(&request).await })
    }
}
