//! gRPC calls with one message to the server and one or many back, over HTTP/2. Nothing of any one service.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;

use crate::client::{Client, ClientError};
use crate::{Body, BodyError};

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The code of a call that the server does not know.
pub const UNIMPLEMENTED: u32 = 12;
/// The code of a call that took too long.
pub const DEADLINE_EXCEEDED: u32 = 4;
/// The code of a call that can never succeed as it is.
pub const INVALID_ARGUMENT: u32 = 3;
/// The code of a call about what is not there.
pub const NOT_FOUND: u32 = 5;
/// The code of a call that makes what is there already.
pub const ALREADY_EXISTS: u32 = 6;
/// The code of a call about what is not in the state for it.
pub const FAILED_PRECONDITION: u32 = 9;
/// The code of a server that does not answer now.
pub const UNAVAILABLE: u32 = 14;
const UNKNOWN: u32 = 2;
const INTERNAL: u32 = 13;
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Why a call gave no message.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// No connection was made, or it broke.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer broke off or is too long.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The server answered with a status.
    #[error("rpc error: code = {} desc = {message}", code_name(*code))]
    Status {
        /// gRPC's number; never 0.
        code: u32,
        /// The server's words.
        message: String,
    },
}

/// A code in Go's spelling.
fn code_name(code: u32) -> String {
    let known = usize::try_from(code).ok().and_then(|code| CODES.get(code));
    known.map_or_else(|| format!("Code({code})"), ToString::to_string)
}

/// Calls `path` (`/package.Service/Method`) at `authority` and answers the response message, of at most `limit` bytes.
///
/// # Errors
/// When there is no connection, the server's status is not OK, or the answer is not gRPC.
pub async fn unary(
    client: &Client,
    authority: &str,
    path: &str,
    message: &[u8],
    (limit, timeout): (usize, Duration),
) -> Result<Bytes, GrpcError> {
    let response = call(client, authority, path, message, Some(timeout)).await?;
    // An answer without a message has its status among the headers.
    status(response.headers()).transpose()?;
    let (data, trailers) = whole(response.into_body(), limit).await?;
    match trailers.as_ref().and_then(status) {
        Some(ended) => ended?,
        None => return Err(refused(INTERNAL, "server closed the stream without sending trailers")),
    }
    unframed(&data)
}

/// Calls `path` at `authority` and answers once the server has begun to; each of its messages has at most `limit` bytes.
///
/// # Errors
/// When there is no connection, or the server's status is not OK.
pub async fn server_stream(
    client: &Client,
    authority: &str,
    path: &str,
    message: &[u8],
    limit: usize,
) -> Result<Messages, GrpcError> {
    let response = call(client, authority, path, message, None).await?;
    status(response.headers()).transpose()?;
    Ok(Messages { body: response.into_body(), data: BytesMut::new(), limit })
}

/// The messages of a server that sends many.
pub struct Messages {
    body: Body,
    data: BytesMut,
    limit: usize,
}

impl Messages {
    /// The next message; `None` when the server has ended with status OK. Cancel safe.
    ///
    /// # Errors
    /// When the connection broke, the message is too long, or the server ended with another status.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GrpcError> {
        loop {
            if let Some(length) = self.whole()? {
                let frame = self.data.split_to(PREFIX + length).freeze();
                return unframed(&frame).map(Some);
            }
            let Some(frame) = self.body.frame().await else {
                return Err(refused(INTERNAL, "server closed the stream without sending trailers"));
            };
            match frame?.into_data() {
                Ok(bytes) => self.data.extend_from_slice(&bytes),
                Err(frame) => {
                    if let Some(ended) = frame.into_trailers().ok().as_ref().and_then(status) {
                        return ended.map(|()| None);
                    }
                }
            }
        }
    }

    /// The length of the next message, once all of it is there.
    fn whole(&self) -> Result<Option<usize>, GrpcError> {
        let Some(head) = self.data.get(1..PREFIX) else { return Ok(None) };
        let length = u32::from_be_bytes(head.try_into().expect("four bytes were taken"));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(GrpcError::Body(BodyError::TooLarge { limit: self.limit }));
        }
        Ok((self.data.len() - PREFIX >= length).then_some(length))
    }
}

/// Sends the request; the response, whose HTTP status is good.
async fn call(
    client: &Client,
    authority: &str,
    path: &str,
    message: &[u8],
    timeout: Option<Duration>,
) -> Result<Response<Body>, GrpcError> {
    let uri = format!("http://{authority}{path}");
    let mut request = Request::post(&uri)
        .body(Body::from(framed(message)))
        .map_err(|_| GrpcError::Client(ClientError::Uri { uri: uri.clone() }))?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static("isopod"));
    if let Some(timeout) = timeout
        && let Ok(text) = HeaderValue::from_str(&format!("{}m", timeout.as_millis().min(99_999_999)))
    {
        headers.insert("grpc-timeout", text);
    }
    let response = client.send(request).await?;
    if response.status() != StatusCode::OK {
        let message = format!("unexpected HTTP status code received from server: {}", response.status());
        return Err(GrpcError::Status { code: of_http(response.status()), message });
    }
    Ok(response)
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("messages are far shorter than 4 GiB"));
    bytes.put_slice(message);
    bytes.freeze()
}

fn unframed(data: &Bytes) -> Result<Bytes, GrpcError> {
    if data.len() < PREFIX {
        return Err(refused(INTERNAL, "cardinality violation: received no response message"));
    }
    let length = usize::try_from(u32::from_be_bytes([data[1], data[2], data[3], data[4]])).unwrap_or(usize::MAX);
    match data[0] {
        0 if data.len() - PREFIX == length => Ok(data.slice(PREFIX..)),
        0 => Err(refused(INTERNAL, "unexpected EOF")),
        _ => Err(refused(INTERNAL, "compressed flag set with identity or empty encoding")),
    }
}

fn refused(code: u32, message: &str) -> GrpcError {
    GrpcError::Status { code, message: message.to_owned() }
}

async fn whole(mut body: Body, limit: usize) -> Result<(Bytes, Option<HeaderMap>), BodyError> {
    let (mut data, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(bytes) if data.len() + bytes.len() > limit => return Err(BodyError::TooLarge { limit }),
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((data.freeze(), trailers))
}

/// The status in headers or trailers, where there is one.
fn status(headers: &HeaderMap) -> Option<Result<(), GrpcError>> {
    let code = headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN);
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map(|message| decoded(message.as_bytes())).unwrap_or_default();
    Some(Err(GrpcError::Status { code, message }))
}

/// Messages are percent-encoded where they are not plain.
fn decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The code that stands for an HTTP status where a server does not speak gRPC.
fn of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body::Frame;
    use http_body_util::StreamBody;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;

    use super::*;
    use crate::ClientOptions;
    use crate::client::Protocols;
    use crate::rt::TaskExecutor;

    /// A server that answers one call with these frames: where it is.
    async fn server(headers: HeaderMap, frames: Vec<Frame<Bytes>>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(stdx::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |_| {
                let frames: Vec<Result<Frame<Bytes>, Infallible>> = frames
                    .iter()
                    .map(|frame| match frame.data_ref() {
                        Some(data) => Frame::data(data.clone()),
                        None => Frame::trailers(frame.trailers_ref().cloned().unwrap_or_default()),
                    })
                    .map(Ok)
                    .collect();
                let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
                *response.headers_mut() = headers.clone();
                async move { Ok::<_, Infallible>(response) }
            });
            drop(http2::Builder::new(TaskExecutor).serve_connection(TokioIo::new(stream), service).await);
        }));
        address.to_string()
    }

    fn client() -> Client {
        Client::new(ClientOptions { protocols: Protocols::Http2, ..ClientOptions::default() })
    }

    /// What becomes of a call that is answered with these frames.
    async fn answered(headers: HeaderMap, frames: Vec<Frame<Bytes>>) -> Result<Bytes, GrpcError> {
        let address = server(headers, frames).await;
        unary(&client(), &address, "/a.B/C", b"ask", (100, Duration::from_secs(5))).await
    }

    #[tokio::test]
    async fn messages_come_one_by_one_however_they_are_cut() {
        let pieces: [&'static [u8]; 3] = [&[0, 0, 0, 0, 1, 7, 0, 0], &[0, 0, 2, 8], &[9]];
        let mut frames: Vec<Frame<Bytes>> = pieces.into_iter().map(|piece| Frame::data(Bytes::from(piece))).collect();
        frames.push(Frame::trailers(trailers(&[("grpc-status", "0")])));
        let stream = async |frames, limit| {
            let address = server(HeaderMap::new(), frames).await;
            server_stream(&client(), &address, "/a.B/C", b"ask", limit).await.unwrap()
        };
        let mut messages = stream(frames, 2).await;
        assert_eq!(messages.next().await.unwrap().unwrap(), [7_u8].as_slice());
        assert_eq!(messages.next().await.unwrap().unwrap(), [8_u8, 9].as_slice());
        assert_eq!(messages.next().await.unwrap(), None);
        let long = vec![Frame::data(Bytes::from_static(&[0, 0, 0, 0, 3, 1, 2, 3]))];
        assert!(matches!(stream(long, 2).await.next().await, Err(GrpcError::Body(BodyError::TooLarge { limit: 2 }))));
    }

    fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[tokio::test]
    async fn answers_the_message_when_the_status_is_ok() {
        let data = |bytes: &'static [u8]| Frame::data(Bytes::from_static(bytes));
        let good = vec![data(&[0, 0, 0, 0, 2]), data(&[8, 1]), Frame::trailers(trailers(&[("grpc-status", "0")]))];
        assert_eq!(answered(HeaderMap::new(), good).await.unwrap(), [8_u8, 1].as_slice());
        let cut = vec![data(&[0, 0, 0, 0, 9, 8]), Frame::trailers(trailers(&[("grpc-status", "0")]))];
        assert_eq!(
            answered(HeaderMap::new(), cut).await.unwrap_err().to_string(),
            "rpc error: code = Internal desc = unexpected EOF"
        );
    }

    #[tokio::test]
    async fn a_status_is_told_as_go_tells_it() {
        let only = trailers(&[("grpc-status", "12"), ("grpc-message", "unknown%20service a.B")]);
        let error = answered(only, vec![]).await.unwrap_err();
        assert_eq!(error.to_string(), "rpc error: code = Unimplemented desc = unknown service a.B");
        let late = vec![Frame::trailers(trailers(&[("grpc-status", "5"), ("grpc-message", "unknown service")]))];
        let error = answered(HeaderMap::new(), late).await.unwrap_err();
        assert_eq!(error.to_string(), "rpc error: code = NotFound desc = unknown service");
    }
}
