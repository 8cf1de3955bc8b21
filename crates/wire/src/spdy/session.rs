//! A SPDY connection: who may send what, and the two loops that move frames.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{Notify, mpsc, oneshot};

use super::frame::{self, FIN, Frame, HEAD_BYTES, Head, reset};
use super::headers::{Packer, Unpacker};
use super::stream::{Guard, Stream, StreamReader, StreamWriter};
use super::{Headers, Limits, Side, SpdyError};

/// Frames that wait to be sent; who sends more waits.
const FRAMES_WAITING_MAX: usize = 16;
/// Bytes of a data frame that are handed on at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks of one stream that wait for their reader; then the connection waits.
const CHUNKS_WAITING_MAX: usize = 16;
/// The window that everybody has before anything is said. Specification: 2.6.8.
const WINDOW_BYTES: i64 = 64 << 10;
/// How long the peer may take to close after our last word.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const GOAWAY_OK: u32 = 0;
const GOAWAY_PROTOCOL_ERROR: u32 = 1;

/// A stream as the connection holds it.
struct Entry {
    /// To its reader; none once the peer has ended it.
    chunks: Option<mpsc::Sender<Bytes>>,
    /// Told when the peer takes the stream that we opened.
    replied: Option<oneshot::Sender<()>>,
    window: i64,
    /// We have ended it.
    finished: bool,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    InOrder,
    Reset,
}

struct State {
    streams: BTreeMap<u32, Entry>,
    /// The newest stream of the peer's.
    last: u32,
    /// The next stream of ours.
    next: u32,
    window: i64,
    window_initial: i64,
    /// Whether the peer has said anything of windows.
    windows_count: bool,
    /// What is to be said beside the queue: resets of streams that were dropped, and windows.
    aside: VecDeque<Frame>,
    closed: bool,
}

/// What streams and loops share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something was put aside, for the writing loop.
    aside: Notify,
    /// A window grew, or all is over.
    changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Nobody has anything of the stream any more.
    pub(super) fn forget(&self, id: u32) {
        let mut state = self.state();
        let Some(entry) = state.streams.remove(&id) else { return };
        // Whoever dropped what it had not finished has given up; after an orderly end nothing is to be said.
        if !entry.finished && entry.end != End::Reset && !state.closed {
            state.aside.push_back(Frame::Rst { stream: id, status: reset::CANCEL });
            self.aside.notify_one();
        }
    }

    /// A reader took in bytes.
    pub(super) fn credit(&self, id: u32, bytes: u32) {
        let mut state = self.state();
        if state.windows_count && !state.closed {
            let open = state.streams.get(&id).is_some_and(|entry| entry.chunks.is_some());
            let streams = if open { [Some(id), Some(0)] } else { [None, Some(0)] };
            state.aside.extend(streams.into_iter().flatten().map(|stream| Frame::WindowUpdate { stream, bytes }));
            self.aside.notify_one();
        }
    }

    pub(super) fn how_it_ended(&self, id: u32) -> Result<(), SpdyError> {
        match self.state().streams.get(&id).map(|entry| entry.end) {
            Some(End::InOrder) => Ok(()),
            Some(End::Reset) => Err(SpdyError::Reset),
            Some(End::Open) | None => Err(SpdyError::Closed),
        }
    }

    /// Marks our end of the stream; whether that is news.
    pub(super) fn finish(&self, id: u32) -> Result<bool, SpdyError> {
        let mut state = self.state();
        if state.closed {
            return Err(SpdyError::Closed);
        }
        let entry = state.streams.get_mut(&id).ok_or(SpdyError::Closed)?;
        if entry.end == End::Reset {
            return Err(SpdyError::Reset);
        }
        Ok(!std::mem::replace(&mut entry.finished, true))
    }

    /// Waits until some of `wanted` bytes may be sent; how many.
    pub(super) async fn window(&self, id: u32, wanted: usize) -> Result<usize, SpdyError> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(room) = self.room(id, wanted)? {
                return Ok(room);
            }
            changed.await;
        }
    }

    fn room(&self, id: u32, wanted: usize) -> Result<Option<usize>, SpdyError> {
        let mut state = self.state();
        if state.closed {
            return Err(SpdyError::Closed);
        }
        let (session, counts) = (state.window, state.windows_count);
        let entry = state.streams.get_mut(&id).ok_or(SpdyError::Closed)?;
        if entry.end == End::Reset {
            return Err(SpdyError::Reset);
        }
        if entry.finished {
            return Err(SpdyError::Closed);
        }
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let room = if counts { wanted.min(entry.window).min(session) } else { wanted };
        if room <= 0 {
            return Ok(None);
        }
        entry.window -= room;
        state.window -= room;
        Ok(usize::try_from(room).ok())
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for entry in state.streams.values_mut() {
            entry.chunks = None;
            entry.replied = None;
        }
        self.changed.notify_waiters();
        self.aside.notify_one();
    }
}

/// One end of a connection. When it and all its streams are dropped, the connection is closed.
pub struct Session {
    frames: mpsc::Sender<Frame>,
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Incoming>,
    /// Held while a stream is opened: numbers grow on the wire.
    opening: tokio::sync::Mutex<()>,
    limits: Limits,
}

/// A stream that the peer wants to open. Dropping it refuses.
pub struct Incoming {
    id: u32,
    stream: Option<Stream>,
    frames: mpsc::Sender<Frame>,
}

impl Incoming {
    /// What it is to be opened with.
    pub fn headers(&self) -> &Headers {
        &self.stream.as_ref().expect("it is taken by value only").headers
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Takes it.
    pub async fn accept(mut self) -> Result<Stream, SpdyError> {
        let stream = self.stream.take().expect("it is taken by value only");
        let reply = Frame::SynReply { stream: self.id, fin: false, headers: Headers::new() };
        self.frames.send(reply).await.map_err(|_| SpdyError::Closed)?;
        Ok(stream)
    }
}

/// An end of a connection on `io`, and what moves its frames, to be spawned or joined.
pub fn start<I>(io: I, side: Side, limits: Limits) -> (Session, impl Future<Output = Result<(), SpdyError>> + Send)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let (frames, queue) = mpsc::channel(FRAMES_WAITING_MAX);
    let (arrivals, incoming) = mpsc::channel(limits.streams_max.max(1));
    let state = State {
        streams: BTreeMap::new(),
        last: 0,
        next: if side == Side::Client { 1 } else { 2 },
        window: WINDOW_BYTES,
        window_initial: WINDOW_BYTES,
        windows_count: false,
        aside: VecDeque::new(),
        closed: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), aside: Notify::default(), changed: Notify::default() });
    let (reading, writing) = tokio::io::split(io);
    let reader = Reader {
        input: BufReader::new(reading),
        unpacker: Unpacker::new(limits.header_bytes_max),
        side,
        limits,
        shared: shared.clone(),
        // Weak: the reading loop alone does not keep the connection open.
        frames: frames.downgrade(),
        arrivals: Some(arrivals),
    };
    let session = Session { frames, shared: shared.clone(), incoming, opening: tokio::sync::Mutex::default(), limits };
    (session, drive(reader, writing, queue, shared))
}

async fn drive<R, W>(
    mut reader: Reader<R>,
    mut output: W,
    mut queue: mpsc::Receiver<Frame>,
    shared: Arc<Shared>,
) -> Result<(), SpdyError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut packer = Packer::new();
    let outcome = {
        let reading = reader.run();
        let mut reading = std::pin::pin!(reading);
        let writing = write_all(&mut output, &mut packer, &mut queue, &shared);
        let written = tokio::select! {
            read = &mut reading => Err(read),
            written = writing => Ok(written),
        };
        match written {
            Err(read) => read,
            Ok(written) => {
                let bye = frame::encode(&Frame::GoAway { last: shared.state().last, status: GOAWAY_OK }, &mut packer);
                let said = async {
                    output.write_all(&bye).await?;
                    output.shutdown().await
                };
                // To close while the peer still sends would take back what it has not read yet.
                if written.is_ok() && said.await.is_ok() {
                    drop(stdx::timeout(CLOSE_TIMEOUT, reading).await);
                }
                shared.close();
                return written;
            }
        }
    };
    shared.close();
    // What was queued before the peer left goes nowhere; a peer that broke the rules is told so.
    if matches!(outcome, Err(SpdyError::Protocol(_) | SpdyError::Limit(_))) {
        let bye = Frame::GoAway { last: shared.state().last, status: GOAWAY_PROTOCOL_ERROR };
        let bye = frame::encode(&bye, &mut packer);
        drop(stdx::timeout(CLOSE_TIMEOUT, output.write_all(&bye)).await);
    }
    drop(stdx::timeout(CLOSE_TIMEOUT, output.shutdown()).await);
    outcome
}

/// Sends frames until nobody is left who could queue one.
async fn write_all<W: AsyncWrite + Unpin>(
    output: &mut W,
    packer: &mut Packer,
    queue: &mut mpsc::Receiver<Frame>,
    shared: &Shared,
) -> Result<(), SpdyError> {
    loop {
        let aside = shared.aside.notified();
        let next = tokio::select! {
            // What was queued before a stream was dropped goes before its reset.
            biased;
            frame = queue.recv() => match frame {
                Some(frame) => Some(frame),
                None => return Ok(()),
            },
            () = aside => None,
        };
        let mut bytes = Vec::new();
        match next {
            Some(frame) => bytes = frame::encode(&frame, packer),
            None => {
                let frames = std::mem::take(&mut shared.state().aside);
                frames.iter().for_each(|frame| bytes.extend(frame::encode(frame, packer)));
            }
        }
        output.write_all(&bytes).await.map_err(|error| SpdyError::Io(error.kind()))?;
        if queue.is_empty() {
            output.flush().await.map_err(|error| SpdyError::Io(error.kind()))?;
        }
    }
}

struct Reader<R> {
    input: BufReader<R>,
    unpacker: Unpacker,
    side: Side,
    limits: Limits,
    shared: Arc<Shared>,
    frames: mpsc::WeakSender<Frame>,
    /// None once the peer opens no more.
    arrivals: Option<mpsc::Sender<Incoming>>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(&mut self) -> Result<(), SpdyError> {
        loop {
            let mut head = [0; HEAD_BYTES];
            match self.input.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(SpdyError::Io(error.kind())),
            }
            match Head::read(head)? {
                Head::Data { stream, flags, length } => self.data(stream, flags, length).await?,
                Head::Control { kind, flags, length } => {
                    if length > self.limits.header_bytes_max + 64 {
                        return Err(SpdyError::Limit("bytes of a control frame"));
                    }
                    let mut payload = vec![0; length];
                    self.exact(&mut payload).await?;
                    let frame = frame::control(kind, flags, &payload, &mut self.unpacker)?;
                    if let Some(answer) = self.control(frame)? {
                        self.say(answer).await;
                    }
                }
            }
        }
    }

    async fn exact(&mut self, buffer: &mut [u8]) -> Result<(), SpdyError> {
        self.input.read_exact(buffer).await.map(drop).map_err(|error| SpdyError::Io(error.kind()))
    }

    fn say(&self, frame: Frame) -> impl Future<Output = ()> + Send + use<R> {
        let frames = self.frames.upgrade();
        async move {
            if let Some(frames) = frames {
                // When the writing loop is gone, so is the connection.
                drop(frames.send(frame).await);
            }
        }
    }

    async fn data(&mut self, id: u32, flags: u8, length: usize) -> Result<(), SpdyError> {
        let (chunks, unknown) = {
            let state = self.shared.state();
            let entry = state.streams.get(&id);
            let ours = id % 2 == u32::from(self.side == Side::Client);
            let never = if ours { id >= state.next } else { id > state.last };
            (entry.and_then(|entry| entry.chunks.clone()), entry.is_none() && never)
        };
        if unknown || id == 0 {
            self.say(Frame::Rst { stream: id, status: reset::INVALID_STREAM }).await;
        }
        let mut left = length;
        while left > 0 {
            let mut chunk = BytesMut::zeroed(left.min(CHUNK_BYTES));
            self.exact(&mut chunk).await?;
            left -= chunk.len();
            if let Some(chunks) = &chunks {
                // A reader that is gone wants no more, but others on this connection do.
                drop(chunks.send(chunk.freeze()).await);
            }
        }
        if flags & FIN != 0 {
            self.ended(id, End::InOrder);
        }
        Ok(())
    }

    fn ended(&self, id: u32, end: End) {
        let mut state = self.shared.state();
        if let Some(entry) = state.streams.get_mut(&id) {
            entry.chunks = None;
            entry.replied = None;
            // A reset after the end takes back only what we would send.
            if entry.end == End::Open || end == End::Reset {
                entry.end = end;
            }
        }
        self.shared.changed.notify_waiters();
    }

    /// Applies a frame; what is to be answered.
    fn control(&mut self, frame: Frame) -> Result<Option<Frame>, SpdyError> {
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers } => {
                return self.opened(stream, fin, unidirectional, headers);
            }
            Frame::SynReply { stream, fin, .. } => {
                let replied = self.shared.state().streams.get_mut(&stream).and_then(|entry| entry.replied.take());
                // Whoever opened it may have gone meanwhile.
                if let Some(Err(())) = replied.map(|replied| replied.send(())) {
                    tracing::debug!(stream, "taken, but nobody waits for it any more");
                }
                if fin {
                    self.ended(stream, End::InOrder);
                }
            }
            Frame::Headers { stream, fin: true, .. } => self.ended(stream, End::InOrder),
            Frame::Rst { stream, .. } => self.ended(stream, End::Reset),
            Frame::Ping { id } => {
                let ours = id % 2 == u32::from(self.side == Side::Client);
                return Ok((!ours).then_some(Frame::Ping { id }));
            }
            Frame::GoAway { .. } => self.arrivals = None,
            Frame::Settings { window } => self.settings(window),
            Frame::WindowUpdate { stream, bytes } => self.widen(stream, bytes)?,
            Frame::Headers { .. } | Frame::Data { .. } | Frame::Other => {}
        }
        Ok(None)
    }

    fn settings(&self, window: Option<u32>) {
        let Some(window) = window.map(i64::from) else { return };
        let mut state = self.shared.state();
        let change = window - state.window_initial;
        (state.window_initial, state.windows_count) = (window, true);
        state.streams.values_mut().for_each(|entry| entry.window += change);
        self.shared.changed.notify_waiters();
    }

    fn widen(&self, stream: u32, bytes: u32) -> Result<(), SpdyError> {
        let mut state = self.shared.state();
        state.windows_count = true;
        let window = match stream {
            0 => Some(&mut state.window),
            stream => state.streams.get_mut(&stream).map(|entry| &mut entry.window),
        };
        if let Some(window) = window {
            *window += i64::from(bytes);
            if *window > i64::from(i32::MAX) {
                return Err(SpdyError::Protocol("window is too large"));
            }
        }
        self.shared.changed.notify_waiters();
        Ok(())
    }

    fn opened(
        &mut self,
        id: u32,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    ) -> Result<Option<Frame>, SpdyError> {
        let refusal = |status| Ok(Some(Frame::Rst { stream: id, status }));
        let (Some(arrivals), Some(frames)) = (self.arrivals.clone(), self.frames.upgrade()) else {
            return refusal(reset::REFUSED_STREAM);
        };
        let stream = {
            let mut state = self.shared.state();
            let theirs = id % 2 == u32::from(self.side == Side::Server);
            if id == 0 || !theirs || id <= state.last {
                return refusal(reset::PROTOCOL_ERROR);
            }
            state.last = id;
            if state.streams.len() >= self.limits.streams_max {
                return refusal(reset::REFUSED_STREAM);
            }
            new_stream(&mut state, &self.shared, id, &frames, headers, None)
        };
        if fin {
            self.ended(id, End::InOrder);
        }
        if unidirectional {
            // Nothing is to be sent on it, as if all had been.
            drop(self.shared.finish(id));
        }
        // There is room: no more streams are open than it holds.
        match arrivals.try_send(Incoming { id, stream: Some(stream), frames }) {
            Ok(()) => Ok(None),
            Err(_) => refusal(reset::REFUSED_STREAM),
        }
    }
}

fn new_stream(
    state: &mut State,
    shared: &Arc<Shared>,
    id: u32,
    frames: &mpsc::Sender<Frame>,
    headers: Headers,
    replied: Option<oneshot::Sender<()>>,
) -> Stream {
    let (sender, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
    let window = state.window_initial;
    let entry = Entry { chunks: Some(sender), replied, window, finished: false, end: End::Open };
    state.streams.insert(id, entry);
    let guard = Arc::new(Guard { id, shared: shared.clone() });
    let reader = StreamReader { chunks, current: Bytes::new(), credit: 0, guard: guard.clone() };
    Stream { headers, reader, writer: StreamWriter { frames: frames.clone(), guard } }
}

impl Session {
    /// The next stream that the peer wants to open; `None` when there will be none.
    pub async fn accept(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// Opens a stream and waits until the peer takes it.
    pub async fn open(&self, headers: Headers) -> Result<Stream, SpdyError> {
        let (replied, reply) = oneshot::channel();
        let opening = self.opening.lock().await;
        let stream = {
            let mut state = self.shared.state();
            if state.closed {
                return Err(SpdyError::Closed);
            }
            if state.streams.len() >= self.limits.streams_max {
                return Err(SpdyError::Limit("streams"));
            }
            let id = state.next;
            state.next = id.checked_add(2).ok_or(SpdyError::Limit("streams"))?;
            new_stream(&mut state, &self.shared, id, &self.frames, headers.clone(), Some(replied))
        };
        let id = stream.writer.guard.id;
        let syn = Frame::SynStream { stream: id, fin: false, unidirectional: false, headers };
        self.frames.send(syn).await.map_err(|_| SpdyError::Closed)?;
        drop(opening);
        match reply.await {
            Ok(()) => Ok(stream),
            Err(_) => Err(self.shared.how_it_ended(id).err().unwrap_or(SpdyError::Reset)),
        }
    }

    /// Resolves when the connection is gone.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        async move {
            loop {
                let changed = shared.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if shared.state().closed {
                    return;
                }
                changed.await;
            }
        }
    }
}
