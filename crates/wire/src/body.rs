//! The body of a request or response: none, bytes at hand, or a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Why a body could not be read or produced to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The body is longer than its reader allows.
    #[error("body is larger than {limit} bytes")]
    TooLarge {
        /// The reader's limit in bytes.
        limit: usize,
    },
    /// The connection broke or the peer broke the protocol.
    #[error("body ended early")]
    Connection(#[source] hyper::Error),
    /// The producer of a streamed body gave up.
    #[error("body could not be produced")]
    Produce(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A request's or response's body.
///
/// `Sync`, so that a borrowed request may live across an `.await`.
#[derive(Default)]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// A body at hand; its length is announced.
    Bytes(Bytes),
    /// A body produced piece by piece, of unknown length.
    Stream(BodyStream),
    /// What the peer is sending.
    Incoming(Incoming),
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// The producer of a streamed body. The mutex is never locked; it makes the stream `Sync`.
pub struct BodyStream(Mutex<Pieces>);

impl Body {
    /// A body produced piece by piece. An error ends the connection (HTTP/1.1) or the stream (HTTP/2).
    pub fn stream(pieces: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Body::Stream(BodyStream(Mutex::new(Box::pin(pieces))))
    }

    /// The whole body, or [`BodyError::TooLarge`] as soon as it is known to exceed `limit` bytes.
    pub async fn read(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let announced = http_body::Body::size_hint(self).lower();
        if announced > limit as u64 {
            return Err(BodyError::TooLarge { limit });
        }
        let Some(first) = self.next().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        let Some(second) = self.next().await.transpose()? else { return Ok(first) };
        // Capped, because what a peer announces is not yet sent.
        let mut whole = BytesMut::with_capacity((announced as usize).clamp(first.len() + second.len(), 1 << 20));
        whole.extend_from_slice(&first);
        let mut piece = Some(second);
        while let Some(bytes) = piece {
            if whole.len() + bytes.len() > limit {
                return Err(BodyError::TooLarge { limit });
            }
            whole.extend_from_slice(&bytes);
            piece = self.next().await.transpose()?;
        }
        Ok(whole.freeze())
    }

    /// The next piece, `None` at the end; trailers are skipped.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        loop {
            match self.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => return Some(Ok(bytes)),
                    Err(_trailers) => continue,
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Body::Stream(stream) => {
                let pieces = stream.0.get_mut().expect("the mutex is never locked, so never poisoned");
                pieces.as_mut().poll_next(context).map_ok(Frame::data)
            }
            Body::Incoming(incoming) => Pin::new(incoming).poll_frame(context).map_err(BodyError::Connection),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Bytes(bytes) => bytes.is_empty(),
            Body::Stream(_) => false,
            Body::Incoming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(_) => SizeHint::default(),
            Body::Incoming(incoming) => incoming.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Empty => formatter.write_str("Empty"),
            Body::Bytes(bytes) => write!(formatter, "Bytes({})", bytes.len()),
            Body::Stream(_) => formatter.write_str("Stream"),
            Body::Incoming(_) => formatter.write_str("Incoming"),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Body::Empty } else { Body::Bytes(bytes) }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn pieces(parts: &[&'static str]) -> Body {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        Body::stream(stream::iter(parts))
    }

    #[tokio::test]
    async fn reads_up_to_its_limit_and_no_further() {
        for (mut body, limit, expected) in [
            (Body::Empty, 0, Some("")),
            (Body::from("four"), 4, Some("four")),
            (Body::from("four"), 3, None),
            (pieces(&["ab", "", "cd", "e"]), 5, Some("abcde")),
            (pieces(&["ab", "cd", "e"]), 4, None),
            (pieces(&["abcde"]), 4, None),
        ] {
            match (body.read(limit).await, expected) {
                (Ok(bytes), Some(text)) => assert_eq!(bytes, text),
                (Err(BodyError::TooLarge { limit: said }), None) => assert_eq!(said, limit),
                (other, _) => panic!("{other:?} where {expected:?} was expected"),
            }
        }
    }

    #[tokio::test]
    async fn passes_a_producers_error_on() {
        let failing = stream::iter([Ok(Bytes::from_static(b"a")), Err(BodyError::Produce("torn".into()))]);
        assert!(matches!(Body::stream(failing).read(100).await, Err(BodyError::Produce(_))));
    }

    #[test]
    fn may_be_shared_between_threads() {
        fn check<T: Send + Sync>() {}
        check::<Body>();
    }
}
