//! One stream of a SPDY connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::frame::Frame;
use super::session::Shared;
use super::{Headers, SpdyError};

/// Bytes in one data frame of ours.
const DATA_BYTES_MAX: usize = 32 << 10;
/// How much is taken in before the peer is told, when it cares.
const CREDIT_BYTES: u32 = 16 << 10;

/// A stream in both directions. Dropping it before [`StreamWriter::finish`] resets it.
pub struct Stream {
    pub(super) headers: Headers,
    pub(super) reader: StreamReader,
    pub(super) writer: StreamWriter,
}

impl Stream {
    /// What it was opened with.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The two directions.
    pub fn split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }
}

/// Forgets the stream once nobody has anything of it.
pub(super) struct Guard {
    pub(super) id: u32,
    pub(super) shared: Arc<Shared>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.forget(self.id);
    }
}

/// What the peer sends; an error when the stream or the connection ended other than in order.
pub struct StreamReader {
    pub(super) chunks: mpsc::Receiver<Bytes>,
    pub(super) current: Bytes,
    pub(super) credit: u32,
    pub(super) guard: Arc<Guard>,
}

impl StreamReader {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SpdyError> {
        if !self.current.is_empty() {
            return Ok(Some(self.current.split_to(self.current.len())));
        }
        match self.chunks.recv().await {
            Some(chunk) => {
                self.taken(chunk.len());
                Ok(Some(chunk))
            }
            None => self.ended().map(|()| None),
        }
    }

    fn taken(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.credit >= CREDIT_BYTES {
            self.guard.shared.credit(self.guard.id, self.credit);
            self.credit = 0;
        }
    }

    /// Whether the end was in order.
    fn ended(&self) -> Result<(), SpdyError> {
        self.guard.shared.how_it_ended(self.guard.id)
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.current.is_empty() {
            match ready!(self.chunks.poll_recv(context)) {
                Some(chunk) => {
                    self.taken(chunk.len());
                    self.current = chunk;
                }
                None => return Poll::Ready(self.ended().map_err(io::Error::other)),
            }
        }
        let length = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current[..length]);
        self.current.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// What is sent to the peer.
pub struct StreamWriter {
    pub(super) frames: mpsc::Sender<Frame>,
    pub(super) guard: Arc<Guard>,
}

impl StreamWriter {
    /// Sends bytes; waits while the peer takes none.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), SpdyError> {
        while !bytes.is_empty() {
            let wanted = bytes.len().min(DATA_BYTES_MAX);
            let room = self.guard.shared.window(self.guard.id, wanted).await?;
            let frame = Frame::Data { stream: self.guard.id, fin: false, bytes: bytes.split_to(room) };
            self.frames.send(frame).await.map_err(|_| SpdyError::Closed)?;
        }
        Ok(())
    }

    /// Says that no more will come.
    pub async fn finish(&mut self) -> Result<(), SpdyError> {
        if self.guard.shared.finish(self.guard.id)? {
            let frame = Frame::Data { stream: self.guard.id, fin: true, bytes: Bytes::new() };
            self.frames.send(frame).await.map_err(|_| SpdyError::Closed)?;
        }
        Ok(())
    }
}
