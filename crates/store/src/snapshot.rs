//! Writes the whole index to a file, beside the log, and reads it back.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use stdx::Cancel;

use crate::disk::{Disk, Durability, File};
use crate::entry::Entry;
use crate::error::OpenError;
use crate::format::{
    BLOCK_HEADER_BYTES, BlockWriter, FileKind, HEADER_BYTES, Lifetime, Malformed, Reader, SnapshotEntry,
    block_checksum, decode_header, encode_header, last_block,
};
use crate::index::Index;
use crate::staging::Now;
use crate::transform::Transform;

/// Blocks are cut when they reach this size; one may be larger by an entry.
const BLOCK_BYTES: usize = 1024 * 1024;

/// After so many blocks the file is synced, so that no sync has much to do and the log's are not held up behind it.
const BLOCKS_BETWEEN_SYNCS: usize = 16;

/// How much is read at once.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// What a snapshot shows, and what it makes unnecessary.
pub(crate) struct Picture {
    pub(crate) index: Index,
    pub(crate) revision: u64,
    pub(crate) compact_revision: u64,
    /// The first segment that may hold later transactions.
    pub(crate) replay_from: u64,
    /// Files that nobody needs once the snapshot is durable.
    pub(crate) obsolete: Vec<String>,
}

/// Why no snapshot was made. The log is not harmed by that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("the store is closing")]
    Cancelled,
    #[error("{operation} snapshot")]
    Disk {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("seal value of {key}: {reason}")]
    Seal { key: String, reason: String },
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Disk { operation, source }
}

/// Writes a snapshot and then removes what it makes unnecessary.
pub(crate) async fn write(
    disk: Arc<dyn Disk>,
    transform: Arc<dyn Transform>,
    picture: Picture,
    cancel: Cancel,
) -> Result<(), SnapshotError> {
    let name = FileKind::Snapshot.name(picture.revision);
    let temporary = format!("{name}.tmp");
    let written = write_file(&*disk, &*transform, &picture, &temporary, &cancel).await;
    if let Err(error) = written {
        if let Err(error) = disk.remove(&temporary).await {
            tracing::warn!(%error, file = temporary, "remove an unfinished snapshot");
        }
        return Err(error);
    }
    disk.rename(&temporary, &name).await.map_err(failed("rename"))?;
    // What is removed next is needed until the new name is durable.
    disk.sync_directory().await.map_err(failed("sync directory of"))?;
    for file in picture.obsolete {
        match disk.remove(&file).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, file, "remove a file that the snapshot replaces"),
        }
    }
    Ok(())
}

async fn write_file(
    disk: &dyn Disk,
    transform: &dyn Transform,
    picture: &Picture,
    temporary: &str,
    cancel: &Cancel,
) -> Result<(), SnapshotError> {
    let file = disk.create(temporary).await.map_err(failed("create"))?;
    let numbers = [picture.revision, picture.compact_revision, picture.replay_from];
    let mut out = Output { file, offset: 0, blocks: 0 };
    out.write(encode_header(FileKind::Snapshot, numbers)).await?;
    let mut block = BlockWriter::default();
    for entry in picture.index.iter() {
        push(&mut block, entry, transform)?;
        if block.len() >= BLOCK_BYTES {
            if cancel.is_cancelled() {
                return Err(SnapshotError::Cancelled);
            }
            out.write(block.finish()).await?;
        }
    }
    if block.len() > 0 {
        out.write(block.finish()).await?;
    }
    out.write(last_block(picture.index.len() as u64)).await?;
    out.file.sync().await.map_err(failed("sync"))
}

fn push(block: &mut BlockWriter, entry: &Entry, transform: &dyn Transform) -> Result<(), SnapshotError> {
    let sealed = transform
        .seal(&entry.key, &entry.value)
        .map_err(|reason| SnapshotError::Seal { key: entry.key.escape_ascii().to_string(), reason })?;
    block.push(&SnapshotEntry {
        key: &entry.key,
        sealed: &sealed,
        mod_revision: entry.mod_revision,
        create_revision: entry.create_revision,
        version: entry.version,
        lifetime: entry.lifetime(),
    });
    Ok(())
}

struct Output {
    file: Arc<dyn File>,
    offset: u64,
    blocks: usize,
}

impl Output {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        let length = bytes.len() as u64;
        self.file.write(self.offset, bytes, Durability::Later).await.map_err(failed("write"))?;
        self.offset += length;
        self.blocks += 1;
        if self.blocks.is_multiple_of(BLOCKS_BETWEEN_SYNCS) {
            self.file.sync().await.map_err(failed("sync"))?;
        }
        Ok(())
    }
}

/// A snapshot that was read back.
pub(crate) struct Restored {
    pub(crate) index: Index,
    pub(crate) revision: u64,
    pub(crate) replay_from: u64,
}

/// Reads the snapshot of `revision`.
pub(crate) async fn read(
    disk: &dyn Disk,
    transform: &dyn Transform,
    revision: u64,
    now: &Now,
) -> Result<Restored, OpenError> {
    let mut input = Input::open(disk, FileKind::Snapshot.name(revision)).await?;
    let header = input.take(HEADER_BYTES).await?;
    let [in_header, _, replay_from] = decode_header(FileKind::Snapshot, &input.name, &header)?;
    if in_header != revision {
        return Err(input.corrupt(0, "revision in the header is not the one in the name"));
    }
    let mut index = Index::default();
    loop {
        let at = input.offset;
        let (entries, payload) = input.block().await?;
        if entries == 0 {
            return match Reader(&payload).u64() {
                Ok(count) if count == index.len() as u64 => Ok(Restored { index, revision, replay_from }),
                _ => Err(input.corrupt(at, "number of entries is not the one that was written")),
            };
        }
        restore_block(&mut index, &payload, entries, transform, now).map_err(|bad| bad.in_file(&input.name, at))?;
    }
}

fn restore_block(
    index: &mut Index,
    payload: &[u8],
    entries: u32,
    transform: &dyn Transform,
    now: &Now,
) -> Result<(), Bad> {
    let mut reader = Reader(payload);
    for _ in 0..entries {
        let entry = reader.snapshot_entry()?;
        let key = Bytes::copy_from_slice(entry.key);
        let value = open_value(transform, entry.key, entry.sealed)?;
        index.insert(Arc::new(Entry {
            key,
            value,
            mod_revision: entry.mod_revision,
            create_revision: entry.create_revision,
            version: entry.version,
            expiry: entry.lifetime.map(|lifetime| Box::new(lifetime.expiry(now))),
        }));
    }
    if reader.0.is_empty() { Ok(()) } else { Err(Bad::Malformed(Malformed("bytes are left over"))) }
}

/// What can be wrong inside a block or frame whose checksum matches.
pub(crate) enum Bad {
    Malformed(Malformed),
    Value { key: String, reason: String },
    Order(String),
}

impl From<Malformed> for Bad {
    fn from(malformed: Malformed) -> Self {
        Bad::Malformed(malformed)
    }
}

impl Bad {
    pub(crate) fn in_file(self, file: &str, offset: u64) -> OpenError {
        let file = file.to_owned();
        match self {
            Bad::Malformed(Malformed(reason)) => OpenError::Corrupt { file, offset, reason: reason.into() },
            Bad::Order(reason) => OpenError::Corrupt { file, offset, reason },
            Bad::Value { key, reason } => OpenError::Unseal { file, key, reason },
        }
    }
}

/// The plaintext of a sealed value, in an allocation of its own.
pub(crate) fn open_value(transform: &dyn Transform, key: &[u8], sealed: &[u8]) -> Result<Bytes, Bad> {
    let plain = transform.open(key, sealed);
    let plain = plain.map_err(|reason| Bad::Value { key: key.escape_ascii().to_string(), reason })?;
    Ok(Bytes::from(plain.into_owned().into_boxed_slice()))
}

impl Lifetime {
    /// The end of a key that an earlier run wrote.
    pub(crate) fn expiry(&self, now: &Now) -> crate::entry::Expiry {
        now.expiry_restored(self.ttl, self.wall_milliseconds)
    }
}

impl Entry {
    /// What is written of the entry's end.
    pub(crate) fn lifetime(&self) -> Option<Lifetime> {
        let expiry = self.expiry.as_ref()?;
        Some(Lifetime { ttl: expiry.ttl, wall_milliseconds: expiry.wall_milliseconds })
    }
}

/// A file that is read from its beginning to its end.
struct Input {
    name: String,
    file: Arc<dyn File>,
    size_bytes: u64,
    /// Offset of what `take` gives next.
    offset: u64,
    /// What was read and not yet taken.
    buffer: Vec<u8>,
    taken: usize,
}

impl Input {
    async fn open(disk: &dyn Disk, name: String) -> Result<Input, OpenError> {
        let opened = async {
            let file = disk.open(&name).await?;
            let size_bytes = file.size().await?;
            Ok((file, size_bytes))
        };
        match opened.await {
            Ok((file, size_bytes)) => Ok(Input { name, file, size_bytes, offset: 0, buffer: Vec::new(), taken: 0 }),
            Err(source) => Err(OpenError::Disk { operation: "open", file: name, source }),
        }
    }

    fn corrupt(&self, offset: u64, reason: &str) -> OpenError {
        OpenError::Corrupt { file: self.name.clone(), offset, reason: reason.into() }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, OpenError> {
        if self.buffer.len() - self.taken < length {
            self.fill(length).await?;
        }
        let end = self.taken + length;
        let Some(taken) = self.buffer.get(self.taken..end) else {
            return Err(self.corrupt(self.offset, "file is cut off"));
        };
        let taken = taken.to_vec();
        self.taken = end;
        self.offset += length as u64;
        Ok(taken)
    }

    async fn fill(&mut self, length: usize) -> Result<(), OpenError> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let from = self.offset + self.buffer.len() as u64;
        let read = self.file.read(from, READ_BYTES.max(length)).await;
        let name = &self.name;
        let read = read.map_err(|source| OpenError::Disk { operation: "read", file: name.clone(), source })?;
        self.buffer.extend(read);
        Ok(())
    }

    /// The next block's number of entries and its payload.
    async fn block(&mut self) -> Result<(u32, Vec<u8>), OpenError> {
        let at = self.offset;
        let header = self.take(BLOCK_HEADER_BYTES).await?;
        let mut reader = Reader(&header);
        let mut number = || reader.u32().map_err(|malformed| Bad::from(malformed).in_file(&self.name, at));
        let (length, checksum, entries) = (number()?, number()?, number()?);
        // The file's own length bounds what a corrupt length can ask for.
        if u64::from(length) > self.size_bytes.saturating_sub(at) {
            return Err(self.corrupt(at, "block is longer than its file"));
        }
        let payload = self.take(length as usize).await?;
        if block_checksum(entries, &payload) != checksum {
            return Err(self.corrupt(at, "checksum of the block does not match"));
        }
        Ok((entries, payload))
    }
}
