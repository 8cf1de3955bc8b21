//! Reads what an earlier run left on disk, and tells a torn tail from a corrupt middle.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{Batch, Event};
use crate::disk::Disk;
use crate::entry::Entry;
use crate::error::OpenError;
use crate::format::{
    FileKind, Found, Frame, HEADER_BYTES, Reader, Record, RecordOp, any_frame_behind, decode_header, frame_at,
};
use crate::history::{History, Limits, root_to_keep};
use crate::index::Index;
use crate::log::LogEnd;
use crate::snapshot::{self, Bad, open_value};
use crate::staging::{Now, successor};
use crate::transform::Transform;

/// What an earlier run left.
pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) history: History,
    pub(crate) log_end: LogEnd,
    /// The newest snapshot's revision, if there is a snapshot.
    pub(crate) snapshot: Option<u64>,
}

/// Reads the newest snapshot and every later transaction, makes durable what was read and removes what nobody needs.
pub(crate) async fn recover(
    disk: &dyn Disk,
    transform: &dyn Transform,
    limits: &Limits,
) -> Result<Recovered, OpenError> {
    let names = disk.list().await.map_err(failed("list", ""))?;
    let numbers = |kind: FileKind| names.iter().filter_map(move |name| kind.number(name));
    let snapshot = numbers(FileKind::Snapshot).max();
    let now = Now::read();
    let mut replay = Replay::after(match snapshot {
        Some(revision) => Some(snapshot::read(disk, transform, revision, &now).await?),
        None => None,
    });
    let mut segments: Vec<u64> = numbers(FileKind::Segment).filter(|number| *number >= replay.first).collect();
    segments.sort_unstable();
    check_segments(&segments, &replay, snapshot)?;
    for number in &segments {
        let context = ReplayContext { transform, limits, now: &now };
        replay.segment(disk, *number, &context).await?;
    }
    make_durable(disk, &replay).await?;
    remove_unneeded(disk, &names, snapshot, &replay).await?;
    Ok(replay.finish(snapshot))
}

fn failed(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Disk { operation, file: file.into(), source }
}

/// Segments are numbered without gaps from the first one that is needed.
fn check_segments(segments: &[u64], replay: &Replay, snapshot: Option<u64>) -> Result<(), OpenError> {
    if segments.is_empty() && snapshot.is_none() {
        return Ok(());
    }
    let newest = segments.last().copied().unwrap_or(replay.first);
    for number in replay.first..=newest {
        if segments.binary_search(&number).is_err() {
            let reason = match snapshot {
                Some(revision) => format!("{} is continued by it", FileKind::Snapshot.name(revision)),
                None => "later log segments are there".into(),
            };
            return Err(OpenError::Missing { file: FileKind::Segment.name(number), reason });
        }
    }
    Ok(())
}

/// What was read may still lie in the machine's cache only, when the earlier run was killed and not the machine. It is
/// about to be shown, so it must not vanish any more.
async fn make_durable(disk: &dyn Disk, replay: &Replay) -> Result<(), OpenError> {
    if let Some(number) = replay.segments.last() {
        let name = FileKind::Segment.name(*number);
        let file = disk.open(&name).await.map_err(failed("open", &name))?;
        file.sync().await.map_err(failed("sync", &name))?;
    }
    disk.sync_directory().await.map_err(failed("sync directory", ""))
}

/// Half made files and everything that the newest snapshot replaced. A segment without frames stays until another is
/// renamed over it: the snapshot may name it as the one to go on from.
async fn remove_unneeded(
    disk: &dyn Disk,
    names: &[String],
    snapshot: Option<u64>,
    replay: &Replay,
) -> Result<(), OpenError> {
    let unneeded = |name: &str| {
        let segment = FileKind::Segment.number(name).is_some_and(|number| number < replay.first);
        let old = FileKind::Snapshot.number(name).is_some_and(|revision| Some(revision) != snapshot);
        segment || old || name.ends_with(".tmp")
    };
    for name in names.iter().filter(|name| unneeded(name)) {
        disk.remove(name).await.map_err(failed("remove", name))?;
    }
    disk.sync_directory().await.map_err(failed("sync directory", ""))
}

/// The state that records are applied to.
struct Replay {
    index: Index,
    history: History,
    /// The first segment to read.
    first: u64,
    /// The segments in which frames were found.
    segments: Vec<u64>,
    /// Number of the last frame, once there was one.
    frame_number: Option<u64>,
    /// Where the last frame ended, in the last segment with frames.
    frame_end: u64,
    /// Where frames stopped in the segment read last, and why.
    stop: Option<Stop>,
    bytes: u64,
}

struct Stop {
    file: String,
    offset: u64,
    reason: String,
}

struct ReplayContext<'a> {
    transform: &'a dyn Transform,
    limits: &'a Limits,
    now: &'a Now,
}

impl Replay {
    fn after(restored: Option<snapshot::Restored>) -> Replay {
        let (index, revision, first) = match restored {
            Some(restored) => (restored.index, restored.revision, restored.replay_from),
            None => (Index::default(), 0, 1),
        };
        Replay {
            index,
            history: History::after(revision),
            first,
            segments: Vec::new(),
            frame_number: None,
            frame_end: HEADER_BYTES as u64,
            stop: None,
            bytes: 0,
        }
    }

    async fn segment(&mut self, disk: &dyn Disk, number: u64, context: &ReplayContext<'_>) -> Result<(), OpenError> {
        let name = FileKind::Segment.name(number);
        let bytes = read_file(disk, &name).await?;
        let [in_header, salt, _] = decode_header(FileKind::Segment, &name, &bytes)?;
        if in_header != number {
            return Err(corrupt(&name, 0, "number in the header is not the one in the name"));
        }
        let mut offset = HEADER_BYTES;
        loop {
            let reason = match frame_at(&bytes, offset, salt) {
                Found::Frame(frame) => {
                    self.check_order(&frame, number, &name, offset)?;
                    self.apply(&frame, context).map_err(|bad| bad.in_file(&name, offset as u64))?;
                    offset = frame.end;
                    continue;
                }
                Found::End => "nothing is written here",
                Found::Bad(reason) => reason,
            };
            if any_frame_behind(&bytes, offset, salt) {
                return Err(corrupt(&name, offset as u64, &format!("{reason}, but whole frames follow")));
            }
            self.stop = Some(Stop { file: name, offset: offset as u64, reason: reason.into() });
            return Ok(());
        }
    }

    /// Checks that nothing is missing between the last frame and this one, and steps over it.
    fn check_order(&mut self, frame: &Frame<'_>, segment: u64, name: &str, offset: usize) -> Result<(), OpenError> {
        let begins_segment = self.segments.last() != Some(&segment);
        let expected = match (&self.stop, begins_segment) {
            (_, false) => offset as u64,
            // The end of a segment that is no longer there cannot be checked.
            (None, true) if segment != 1 => frame.previous_end,
            (None, true) => HEADER_BYTES as u64,
            (Some(stop), true) => stop.offset,
        };
        if frame.previous_end != expected {
            return Err(match &self.stop {
                Some(stop) if begins_segment => {
                    let reason = format!("{}, but frames reach up to offset {}", stop.reason, frame.previous_end);
                    corrupt(&stop.file, stop.offset, &reason)
                }
                _ => corrupt(name, offset as u64, "frame does not follow the one before"),
            });
        }
        if self.frame_number.is_some_and(|last| frame.number != last + 1) {
            return Err(corrupt(name, offset as u64, "frames are missing before this one"));
        }
        if begins_segment {
            self.segments.push(segment);
        }
        self.frame_number = Some(frame.number);
        self.frame_end = frame.end as u64;
        self.bytes += (frame.end - offset) as u64;
        Ok(())
    }

    fn apply(&mut self, frame: &Frame<'_>, context: &ReplayContext<'_>) -> Result<(), Bad> {
        let mut reader = Reader(frame.payload);
        for _ in 0..frame.records {
            match reader.record()? {
                Record::Txn { revision, ops } => self.apply_txn(revision, &ops, context)?,
                Record::Compact { revision } => self.history.compact(revision.min(self.history.revision())),
                Record::Advance { revision } if revision > self.history.revision() => {
                    self.history = History::after(revision);
                }
                Record::Advance { .. } => {}
            }
        }
        Ok(())
    }

    fn apply_txn(&mut self, revision: u64, ops: &[RecordOp<'_>], context: &ReplayContext<'_>) -> Result<(), Bad> {
        let newest = self.history.revision();
        if revision <= newest {
            // The snapshot shows it already.
            return Ok(());
        }
        if revision != newest + 1 {
            return Err(Bad::Order(format!("transaction {revision} does not follow {newest}")));
        }
        let mut events = Vec::with_capacity(ops.len());
        for op in ops {
            let event = self.event(revision, op, context)?;
            self.index.redo(&event);
            events.push(event);
        }
        self.history.push(Arc::new(Batch { revision, events }), root_to_keep(revision, &self.index));
        if let Some(revision) = self.history.overgrown(context.limits) {
            self.history.compact(revision);
        }
        Ok(())
    }

    fn event(&self, revision: u64, op: &RecordOp<'_>, context: &ReplayContext<'_>) -> Result<Event, Bad> {
        match op {
            RecordOp::Delete { key } => {
                let prev = self.index.get(key).cloned();
                Ok(Event { key: Bytes::copy_from_slice(key), value: None, prev })
            }
            RecordOp::Put { key, sealed, lifetime } => {
                let prev = self.index.get(key).cloned();
                let value = open_value(context.transform, key, sealed)?;
                let key = Bytes::copy_from_slice(key);
                let expiry = lifetime.map(|lifetime| Box::new(lifetime.expiry(context.now)));
                let entry: Entry = successor(prev.as_deref(), key.clone(), value, revision, expiry);
                Ok(Event { key, value: Some(Arc::new(entry)), prev })
            }
        }
    }

    fn finish(self, snapshot: Option<u64>) -> Recovered {
        let next_segment = self.segments.last().map_or(self.first, |last| last + 1);
        let log_end = LogEnd {
            segments: (self.first..next_segment).collect(),
            next_segment,
            frame_number: self.frame_number.unwrap_or(0),
            frame_end: self.frame_end,
            bytes: self.bytes,
        };
        Recovered { index: self.index, history: self.history, log_end, snapshot }
    }
}

fn corrupt(file: &str, offset: u64, reason: &str) -> OpenError {
    OpenError::Corrupt { file: file.into(), offset, reason: reason.into() }
}

async fn read_file(disk: &dyn Disk, name: &str) -> Result<Vec<u8>, OpenError> {
    let file = disk.open(name).await.map_err(failed("open", name))?;
    let length = file.size().await.map_err(failed("read", name))?;
    let length = usize::try_from(length).map_err(io::Error::other).map_err(failed("read", name))?;
    file.read(0, length).await.map_err(failed("read", name))
}
