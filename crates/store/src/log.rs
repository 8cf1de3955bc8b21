//! Appends groups of transactions to log segments, durably.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use stdx::{Mono, Task};

use crate::disk::{Disk, Durability, File};
use crate::format::{FileKind, FrameWriter, HEADER_BYTES, encode_header};

/// The size of the first segment after opening: it is written out before the store answers, so it is small.
pub(crate) const FIRST_SEGMENT_BYTES: u64 = 1024 * 1024;

/// How long a full disk is left alone before room for a segment is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The segments from the last snapshot on, and the place to write next.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    current: Segment,
    /// Where in the current segment the next frame goes.
    offset: u64,
    /// What the next frame names as the end of the one before.
    previous_end: u64,
    /// The number of the last frame.
    frame_number: u64,
    next: Next,
    /// The numbers of segments that are full.
    sealed: Vec<u64>,
    /// How much was appended since the last snapshot.
    appended_bytes: u64,
}

/// A segment that can be written to.
pub(crate) struct Segment {
    number: u64,
    salt: u64,
    size_bytes: u64,
    file: Arc<dyn File>,
}

/// The segment after the current one, which is made before it is needed, beside the writing.
enum Next {
    None,
    Making(Task<io::Result<Segment>>),
    Failed { error: io::Error, retry: Mono },
}

/// What a log goes on from.
pub(crate) struct LogEnd {
    /// The numbers of all segments up to the last one that holds frames.
    pub(crate) segments: Vec<u64>,
    /// The number of the segment to begin.
    pub(crate) next_segment: u64,
    pub(crate) frame_number: u64,
    pub(crate) frame_end: u64,
    pub(crate) bytes: u64,
}

/// Why a group did not become durable.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// There is no room, and nothing was written.
    NoSpace(io::Error),
    /// It may have been written, or not, or in parts. After a failed sync nobody can tell what is on the disk (the
    /// kernel forgets dirty pages that it could not write), so nothing more may be appended.
    Broken(io::Error),
}

impl Log {
    /// A log that goes on after `end` in a new segment.
    pub(crate) async fn begin(disk: Arc<dyn Disk>, segment_bytes: u64, end: LogEnd) -> io::Result<Log> {
        let size_bytes = FIRST_SEGMENT_BYTES.min(segment_bytes);
        let current = make_segment(disk.clone(), end.next_segment, size_bytes).await?;
        Ok(Log {
            disk,
            segment_bytes,
            current,
            offset: HEADER_BYTES as u64,
            previous_end: end.frame_end,
            frame_number: end.frame_number,
            next: Next::None,
            sealed: end.segments,
            appended_bytes: end.bytes,
        })
    }

    /// Writes a frame; it is durable when this returns.
    pub(crate) async fn append(&mut self, frame: FrameWriter) -> Result<(), AppendError> {
        let length = frame.len() as u64;
        if self.offset + length > self.current.size_bytes {
            self.rotate(length).await?;
        }
        let bytes = frame.finish(self.current.salt, self.frame_number + 1, self.previous_end);
        let written = self.current.file.write(self.offset, bytes, Durability::Now).await;
        written.map_err(AppendError::Broken)?;
        self.frame_number += 1;
        self.offset += length;
        self.previous_end = self.offset;
        self.appended_bytes += length;
        if self.offset > self.current.size_bytes / 2 {
            self.prepare(self.segment_bytes);
        }
        Ok(())
    }

    /// Goes over to a segment with room for a frame of `length` bytes.
    async fn rotate(&mut self, length: u64) -> Result<(), AppendError> {
        let needed = length + HEADER_BYTES as u64;
        let mut next = self.take_next(self.segment_bytes.max(needed)).await?;
        if next.size_bytes < needed {
            // Only a group larger than a whole segment comes here; the one made in advance is replaced.
            next = self.take_next(needed).await?;
        }
        let full = std::mem::replace(&mut self.current, next);
        self.sealed.push(full.number);
        // Not the same where the group was too large for a segment that nothing was written to yet.
        self.previous_end = self.offset;
        self.offset = HEADER_BYTES as u64;
        Ok(())
    }

    async fn take_next(&mut self, size_bytes: u64) -> Result<Segment, AppendError> {
        self.prepare(size_bytes);
        match std::mem::replace(&mut self.next, Next::None) {
            Next::Making(task) => match task.await {
                Ok(Ok(segment)) => Ok(segment),
                Ok(Err(error)) => {
                    let answer = no_segment(&error);
                    self.next = Next::Failed { error, retry: stdx::mono() + RETRY_AFTER };
                    Err(answer)
                }
                Err(lost) => Err(AppendError::Broken(io::Error::other(lost))),
            },
            Next::Failed { error, retry } => {
                let answer = no_segment(&error);
                self.next = Next::Failed { error, retry };
                Err(answer)
            }
            Next::None => unreachable!("a segment was just prepared"),
        }
    }

    /// Begins to make the next segment, unless that was begun or has failed a moment ago.
    fn prepare(&mut self, size_bytes: u64) {
        match self.next {
            Next::Making(_) => return,
            Next::Failed { retry, .. } if stdx::mono() < retry => return,
            Next::None | Next::Failed { .. } => {}
        }
        let making = make_segment(self.disk.clone(), self.current.number + 1, size_bytes);
        self.next = Next::Making(stdx::spawn(making));
    }

    /// How much a restart would have to read again.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// The segment that is written to.
    pub(crate) fn current_segment(&self) -> u64 {
        self.current.number
    }

    /// Forgets the full segments, because a snapshot is about to replace them, and names them.
    pub(crate) fn take_sealed(&mut self) -> (Vec<u64>, u64) {
        (std::mem::take(&mut self.sealed), std::mem::take(&mut self.appended_bytes))
    }

    /// Takes back what [`Log::take_sealed`] gave, because the snapshot failed.
    pub(crate) fn return_sealed(&mut self, (segments, bytes): (Vec<u64>, u64)) {
        self.sealed.splice(0..0, segments);
        self.appended_bytes += bytes;
    }

    /// Waits for what still runs beside the log, so that nothing touches the directory afterwards.
    pub(crate) async fn end(&mut self) {
        if let Next::Making(task) = std::mem::replace(&mut self.next, Next::None)
            && let Ok(Err(error)) = task.await
        {
            tracing::debug!(%error, "no next log segment was made before closing");
        }
    }
}

/// Without a new segment nothing was written, so the log is as good as before.
fn no_segment(error: &io::Error) -> AppendError {
    AppendError::NoSpace(io::Error::new(error.kind(), format!("make a log segment: {error}")))
}

/// Makes a segment under a temporary name, so that one under its own name always has its header.
async fn make_segment(disk: Arc<dyn Disk>, number: u64, size_bytes: u64) -> io::Result<Segment> {
    let (name, salt) = (FileKind::Segment.name(number), stdx::random_u64());
    let temporary = format!("{name}.tmp");
    let made = fill_segment(&*disk, &temporary, &name, size_bytes, [number, salt, 0]).await;
    if made.is_err()
        && let Err(error) = disk.remove(&temporary).await
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = temporary, "remove an unfinished log segment");
    }
    Ok(Segment { number, salt, size_bytes, file: made? })
}

async fn fill_segment(
    disk: &dyn Disk,
    temporary: &str,
    name: &str,
    size_bytes: u64,
    numbers: [u64; 3],
) -> io::Result<Arc<dyn File>> {
    let file = disk.preallocate(temporary, size_bytes).await?;
    file.write(0, encode_header(FileKind::Segment, numbers), Durability::Now).await?;
    disk.rename(temporary, name).await?;
    disk.sync_directory().await?;
    Ok(file)
}
