//! Streams of processes and ports: CRI answers with a URL of a streaming server; what it serves is handed on as pipes.
//!
//! SPDY/3.1 is spoken, as by the kubelet and all that CRI's streaming servers have in common.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, UPGRADE};
use http::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;
use wire::spdy::{self, Session, Side, StreamReader, StreamWriter};
use wire::{Body, Client, ClientOptions};

use crate::error::{Error, Result};
use crate::exec::{Duplex, ExecSession, TerminalSize};

/// How a client lists what it speaks, best first.
const PROTOCOL_HEADER: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What is spoken on the streams of a process: outcomes are a `Status`.
const PROCESS: &str = "v4.channel.k8s.io";
/// What is spoken on the streams of ports.
const PORT: &str = "portforward.k8s.io";
/// How long the streaming server may take to answer, and to take each stream. Upstream: `DefaultStreamCreationTimeout`.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// How much input waits for a process.
const INPUT_BYTES: usize = 64 << 10;
/// The longest that an outcome may be.
const OUTCOME_BYTES_MAX: u64 = 1 << 20;
/// The longest refusal that is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Which streams of a process are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// Opens a connection of streams.
async fn dial(url: &str, protocol: &'static str) -> Result<Session> {
    if url.starts_with("https:") {
        return Err(Error::Unsupported { field: "streaming server with TLS".into() });
    }
    let mut request = Request::post(url)
        .body(Body::Empty)
        .map_err(|error| Error::Internal(format!("runtime's streaming server {url:?}: {error}")))?;
    request.headers_mut().insert(UPGRADE, HeaderValue::from_static(spdy::UPGRADE));
    request.headers_mut().insert(PROTOCOL_HEADER, HeaderValue::from_static(protocol));
    let client = Client::new(ClientOptions::default());
    let unavailable = |error: &dyn std::fmt::Display| Error::Unavailable(format!("dial {url}: {error}"));
    let (mut response, stream) = stdx::timeout(CREATION_TIMEOUT, client.upgrade(request))
        .await
        .map_err(|_| unavailable(&"i/o timeout"))?
        .map_err(|error| unavailable(&error))?;
    let Some(stream) = stream else {
        let text = response.body_mut().read(REFUSAL_BYTES_MAX).await.unwrap_or_default();
        let (status, text) = (response.status(), String::from_utf8_lossy(&text).trim().to_owned());
        let why = format!("unable to upgrade connection: {text}");
        return Err(match status {
            StatusCode::NOT_FOUND => Error::Internal(why),
            _ => Error::Internal(format!("{why} ({status})")),
        });
    };
    let (session, work) = spdy::start(stream, Side::Client, spdy::Limits::default());
    drop(stdx::spawn(async move {
        if let Err(error) = work.await {
            tracing::debug!(%error, "runtime's streaming connection ended");
        }
    }));
    Ok(session)
}

async fn open(session: &Session, headers: &[(&str, &str)]) -> Result<(StreamReader, StreamWriter)> {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let opened = stdx::timeout(CREATION_TIMEOUT, session.open(headers)).await;
    let opened = opened.map_err(|_| Error::Unavailable("stream not taken in time".into()))?;
    opened.map(spdy::Stream::split).map_err(|error| Error::Unavailable(format!("open stream: {error}")))
}

/// A stream on which only the server speaks.
async fn listening(session: &Session, kind: &str) -> Result<StreamReader> {
    let (reader, mut writer) = open(session, &[("streamtype", kind)]).await?;
    writer.finish().await.map_err(|error| Error::Unavailable(format!("open stream: {error}")))?;
    Ok(reader)
}

/// The streams of the process that `url` serves.
pub(super) async fn process(url: &str, wanted: Wanted) -> Result<ExecSession> {
    let session = dial(url, PROCESS).await?;
    let outcome = listening(&session, "error").await?;
    let stdin = if wanted.stdin {
        let (reader, writer) = open(&session, &[("streamtype", "stdin")]).await?;
        Some(input(reader, writer))
    } else {
        None
    };
    let stdout: Box<dyn AsyncRead + Send + Unpin> = match wanted.stdout {
        true => Box::new(listening(&session, "stdout").await?),
        false => Box::new(tokio::io::empty()),
    };
    let stderr: Option<Box<dyn AsyncRead + Send + Unpin>> = match wanted.stderr && !wanted.tty {
        true => Some(Box::new(listening(&session, "stderr").await?)),
        false => None,
    };
    let (resize, sizes) = watch::channel(TerminalSize::default());
    if wanted.tty {
        let (reader, writer) = open(&session, &[("streamtype", "resize")]).await?;
        drop(stdx::spawn(tell_sizes(sizes, reader, writer)));
    }
    let exit = Box::pin(async move {
        // It keeps the connection open while somebody waits for the outcome, which comes after all output.
        let _session = session;
        let mut text = Vec::new();
        match outcome.take(OUTCOME_BYTES_MAX).read_to_end(&mut text).await {
            // Servers take the stream back as soon as they have said it.
            Err(error) if text.is_empty() => Err(Error::Unavailable(format!("runtime's streaming server: {error}"))),
            _ => exit_code(&text),
        }
    });
    Ok(ExecSession { stdin, stdout, stderr, resize, exit })
}

/// A process's input, carried to the streaming server; dropping it is its end.
fn input(reader: StreamReader, writer: StreamWriter) -> Box<dyn AsyncWrite + Send + Unpin> {
    let (near, far) = tokio::io::duplex(INPUT_BYTES);
    drop(stdx::spawn(async move {
        // Held, so that the stream is not taken back before its end.
        let _reader = reader;
        carry(far, writer).await;
    }));
    Box::new(near)
}

/// Carries what is written here to the streaming server, up to its end.
async fn carry(mut from: DuplexStream, mut to: StreamWriter) {
    let mut piece = vec![0; INPUT_BYTES / 2];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if to.write(Bytes::copy_from_slice(&piece[..length])).await.is_err() {
            return;
        }
    }
    // Who reads there may be gone already.
    drop(to.finish().await);
}

async fn tell_sizes(mut sizes: watch::Receiver<TerminalSize>, reader: StreamReader, mut writer: StreamWriter) {
    let _reader = reader;
    while sizes.changed().await.is_ok() {
        let TerminalSize { width, height } = *sizes.borrow_and_update();
        let text = format!("{{\"Width\":{width},\"Height\":{height}}}\n");
        if writer.write(text.into()).await.is_err() {
            return;
        }
    }
    drop(writer.finish().await);
}

/// What the outcome says: an exit code, or why there was none.
fn exit_code(text: &[u8]) -> Result<i32> {
    if text.is_empty() {
        return Ok(0);
    }
    let Ok(status) = serde_json::from_slice::<serde_json::Value>(text) else {
        return Err(Error::Internal(String::from_utf8_lossy(text).into_owned()));
    };
    let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if status["status"] == "Success" {
        return Ok(0);
    }
    if status["reason"] == "NonZeroExitCode" {
        let code = causes.iter().find(|cause| cause["reason"] == "ExitCode");
        let code = code.and_then(|cause| cause["message"].as_str()?.parse().ok());
        return code.ok_or_else(|| Error::Internal(String::from_utf8_lossy(text).into_owned()));
    }
    let message = status["message"].as_str().unwrap_or_default();
    Err(Error::Internal(without_prefixes(message).to_owned()))
}

/// What went wrong, without what the one that tells it on says anyway.
fn without_prefixes(message: &str) -> &str {
    let prefixes =
        ["Internal error occurred: ", "error executing command in container: ", "error attaching to container: "];
    prefixes.iter().fold(message, |message, prefix| message.strip_prefix(prefix).unwrap_or(message))
}

/// A connection to the port that `url` serves.
pub(super) async fn port(url: &str, port: u16) -> Result<Box<dyn Duplex>> {
    let session = dial(url, PORT).await?;
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
    let (error, mut nothing) = open(&session, &headers("error")).await?;
    nothing.finish().await.map_err(|error| Error::Unavailable(format!("open stream: {error}")))?;
    let (reader, writer) = open(&session, &headers("data")).await?;
    let (near, far) = tokio::io::duplex(INPUT_BYTES);
    drop(stdx::spawn(carry(far, writer)));
    Ok(Box::new(Forwarded { reader, writer: near, error, why: Vec::new(), _session: session }))
}

/// Both directions of a forwarded port. When the other end tells why it ended, that is the error of the last read.
struct Forwarded {
    reader: StreamReader,
    writer: DuplexStream,
    error: StreamReader,
    why: Vec<u8>,
    /// Keeps the connection open after all was sent: the other end may go on.
    _session: Session,
}

impl Forwarded {
    fn poll_why(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut piece = [0; 1024];
            let mut buffer = ReadBuf::new(&mut piece);
            let read = ready!(Pin::new(&mut self.error).poll_read(context, &mut buffer));
            if read.is_ok() && !buffer.filled().is_empty() && self.why.len() < REFUSAL_BYTES_MAX {
                self.why.extend_from_slice(buffer.filled());
                continue;
            }
            return Poll::Ready(match self.why.is_empty() {
                true => Ok(()),
                false => Err(io::Error::other(String::from_utf8_lossy(&self.why).into_owned())),
            });
        }
    }
}

impl AsyncRead for Forwarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.reader).poll_read(context, buffer));
        if read.is_ok() && buffer.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        self.poll_why(context)
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<i32>) {
        assert_eq!(exit_code(text.as_bytes()), expected, "{text}");
    }

    #[test]
    fn outcomes_are_read() {
        check("", Ok(0));
        check(r#"{"metadata":{},"status":"Success"}"#, Ok(0));
        check(
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 3",
                "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
            Ok(3),
        );
        let why = "failed to exec in container: absent: executable file not found in $PATH: unknown";
        let told = format!(
            r#"{{"status":"Failure","message":"Internal error occurred: error executing command in container: {why}","code":500}}"#
        );
        check(&told, Err(Error::Internal(why.into())));
        check("broken", Err(Error::Internal("broken".into())));
    }
}
