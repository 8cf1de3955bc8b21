//! The formats on disk, exactly.
//!
//! All numbers are little endian. Every checksum is CRC-32C.
//!
//! # Files
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | process id of the holder as text; the `flock` on it is the claim on the directory |
//! | `log-NNNNNNNNNNNNNNNN` | log segment; N is its number in hexadecimal, counted from 1 without gaps |
//! | `snap-RRRRRRRRRRRRRRRR` | snapshot of revision R in hexadecimal; the one with the highest R counts |
//! | `*.tmp` | a segment or snapshot in the making; removed when the store is opened |
//!
//! A segment or snapshot is written under its temporary name, synced, renamed, and the directory synced, before it is
//! used. So a file under its final name whose header is wrong is corrupt, never half made.
//!
//! # Header of both, 64 bytes
//!
//! | offset | bytes | what |
//! |--:|--:|---|
//! | 0 | 8 | `isopodlg` (segment) or `isopodsn` (snapshot) |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | checksum of bytes 0–12 and 16–64 |
//! | 16 | 8 | segment: its number; snapshot: its revision |
//! | 24 | 8 | segment: a random salt; snapshot: the compacted revision |
//! | 32 | 8 | segment: 0; snapshot: number of the first segment that may hold later transactions |
//! | 40 | 24 | 0 |
//!
//! # Segment
//!
//! After the header follow frames, each at an offset divisible by 8, one per group of transactions that became durable
//! together, then zeros up to the preallocated length. A frame:
//!
//! | offset | bytes | what |
//! |--:|--:|---|
//! | 0 | 4 | `fram` |
//! | 4 | 4 | checksum of the segment's salt and of bytes 8 to the end of the payload |
//! | 8 | 4 | bytes of payload |
//! | 12 | 4 | number of records in it |
//! | 16 | 8 | number of the frame, counted from 1 over all segments without gaps |
//! | 24 | 8 | offset at which the frame before ends: this frame's own, or for a segment's first frame the end of the last frame of the segment before (64 when there is none) |
//! | 32 | | the records, one after the other; then zeros up to a multiple of 8 |
//!
//! The salt keeps bytes inside somebody's value from passing for a frame. A frame is written only after the one before
//! was synced. So the first frame that does not check out is a *torn tail*, a group that nobody was told of, exactly if
//! no valid frame lies behind it in this segment or a later one; otherwise it is a *corrupt middle*, and the store does
//! not open. A segment without a valid frame is removed when the store is opened; writing always goes on in a new one.
//!
//! Records begin with a byte for their kind:
//!
//! - 1, transaction: revision (8), number of operations (2), then for each operation a byte for its kind, length of the
//!   key (4), the key; and, if the kind is 1 (put), length of the sealed value (4), the sealed value, time to live in
//!   milliseconds (8; 0 for none) and its end in milliseconds since 1970 (8, signed); if it is 2 (delete), no more.
//! - 2, compaction: revision (8).
//! - 3, advance: revision (8). The revision counter jumps to it and everything before is compacted.
//!
//! # Snapshot
//!
//! After the header follow blocks: bytes of payload (4), checksum of the number of entries and the payload (4), number of
//! entries (4), then the entries in the order of their keys: length of the key (4), length of the sealed value (4),
//! revision of the version (8), of the creation (8), number of the version (8), time to live and end as above (8, 8),
//! key, sealed value. The last block has no entries and 8 bytes of payload: the number of entries in the snapshot.

use std::time::Duration;

use bytes::Bytes;

use crate::error::OpenError;

/// The newest format this release reads, and the one it writes.
pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const FRAME_HEADER_BYTES: usize = 32;
pub(crate) const BLOCK_HEADER_BYTES: usize = 12;
const FRAME_MAGIC: [u8; 4] = *b"fram";
const TXN: u8 = 1;
const COMPACT: u8 = 2;
const ADVANCE: u8 = 3;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// What a file is, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Segment,
    Snapshot,
}

impl FileKind {
    fn magic(self) -> [u8; 8] {
        match self {
            FileKind::Segment => *b"isopodlg",
            FileKind::Snapshot => *b"isopodsn",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            FileKind::Segment => "log-",
            FileKind::Snapshot => "snap-",
        }
    }

    /// The name of the file with this number or revision.
    pub(crate) fn name(self, number: u64) -> String {
        format!("{}{number:016x}", self.prefix())
    }

    /// The number or revision in a file's name.
    pub(crate) fn number(self, name: &str) -> Option<u64> {
        let digits = name.strip_prefix(self.prefix())?;
        (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    }
}

/// The three numbers of a header, whose meaning depends on the kind of file.
pub(crate) type HeaderNumbers = [u64; 3];

pub(crate) fn encode_header(kind: FileKind, numbers: HeaderNumbers) -> Bytes {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&kind.magic());
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    for (place, number) in header[16..40].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let checksum = header_checksum(&header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    Bytes::copy_from_slice(&header)
}

fn header_checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..HEADER_BYTES])
}

pub(crate) fn decode_header(kind: FileKind, file: &str, bytes: &[u8]) -> Result<HeaderNumbers, OpenError> {
    let corrupt = |reason: &str| OpenError::Corrupt { file: file.into(), offset: 0, reason: reason.into() };
    if bytes.len() < HEADER_BYTES {
        return Err(corrupt("header is cut off"));
    }
    if bytes[..8] != kind.magic() {
        return Err(corrupt("header does not begin as it should"));
    }
    let found = u32_at(bytes, 8);
    if found > VERSION || found == 0 {
        return Err(OpenError::Version { file: file.into(), found, supported: VERSION });
    }
    if u32_at(bytes, 12) != header_checksum(bytes) {
        return Err(corrupt("checksum of the header does not match"));
    }
    Ok([u64_at(bytes, 16), u64_at(bytes, 24), u64_at(bytes, 32)])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}

/// A time to live in milliseconds and its end in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) ttl: Duration,
    pub(crate) wall_milliseconds: i64,
}

/// A frame in the making.
#[derive(Default)]
pub(crate) struct FrameWriter {
    bytes: Vec<u8>,
    records: u32,
}

impl FrameWriter {
    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The length of the frame as it is now.
    pub(crate) fn len(&self) -> usize {
        (FRAME_HEADER_BYTES + self.bytes.len()).next_multiple_of(8)
    }

    /// Begins a transaction of `count` operations, which have to follow.
    pub(crate) fn txn(&mut self, revision: u64, count: u16) {
        self.record(TXN, revision);
        self.bytes.extend(count.to_le_bytes());
    }

    pub(crate) fn put(&mut self, key: &[u8], sealed: &[u8], lifetime: Option<Lifetime>) {
        self.bytes.push(PUT);
        put_slice(&mut self.bytes, key);
        put_slice(&mut self.bytes, sealed);
        put_lifetime(&mut self.bytes, lifetime);
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.bytes.push(DELETE);
        put_slice(&mut self.bytes, key);
    }

    pub(crate) fn compact(&mut self, revision: u64) {
        self.record(COMPACT, revision);
    }

    pub(crate) fn advance(&mut self, revision: u64) {
        self.record(ADVANCE, revision);
    }

    fn record(&mut self, kind: u8, revision: u64) {
        self.records += 1;
        self.bytes.push(kind);
        self.bytes.extend(revision.to_le_bytes());
    }

    /// The finished frame.
    pub(crate) fn finish(self, salt: u64, number: u64, previous_end: u64) -> Bytes {
        let length = self.len();
        let mut frame = Vec::with_capacity(length);
        frame.extend(FRAME_MAGIC);
        frame.extend([0; 4]);
        frame.extend((self.bytes.len() as u32).to_le_bytes());
        frame.extend(self.records.to_le_bytes());
        frame.extend(number.to_le_bytes());
        frame.extend(previous_end.to_le_bytes());
        frame.extend(&self.bytes);
        let checksum = frame_checksum(salt, &frame[8..]);
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
        frame.resize(length, 0);
        frame.into()
    }
}

fn frame_checksum(salt: u64, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), rest)
}

fn put_slice(bytes: &mut Vec<u8>, slice: &[u8]) {
    bytes.extend((slice.len() as u32).to_le_bytes());
    bytes.extend(slice);
}

fn put_lifetime(bytes: &mut Vec<u8>, lifetime: Option<Lifetime>) {
    let milliseconds =
        lifetime.map_or(0, |lifetime| u64::try_from(lifetime.ttl.as_millis()).unwrap_or(u64::MAX).max(1));
    bytes.extend(milliseconds.to_le_bytes());
    bytes.extend(lifetime.map_or(0, |lifetime| lifetime.wall_milliseconds).to_le_bytes());
}

/// A frame that checked out.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) number: u64,
    pub(crate) previous_end: u64,
    pub(crate) records: u32,
    pub(crate) payload: &'a [u8],
    /// Offset of what follows.
    pub(crate) end: usize,
}

/// What is found at an offset of a segment.
pub(crate) enum Found<'a> {
    Frame(Frame<'a>),
    /// The end of the file, or room never written to.
    End,
    /// Something that is no frame; the text says why not.
    Bad(&'static str),
}

pub(crate) fn frame_at(segment: &[u8], offset: usize, salt: u64) -> Found<'_> {
    let rest = segment.get(offset..).unwrap_or_default();
    if rest.len() < FRAME_HEADER_BYTES {
        return if rest.iter().all(|byte| *byte == 0) { Found::End } else { Found::Bad("frame is cut off") };
    }
    if rest[..FRAME_HEADER_BYTES].iter().all(|byte| *byte == 0) {
        return Found::End;
    }
    if rest[..4] != FRAME_MAGIC {
        return Found::Bad("no frame begins here");
    }
    let length = FRAME_HEADER_BYTES + u32_at(rest, 8) as usize;
    let Some(frame) = rest.get(..length) else { return Found::Bad("frame is longer than its file") };
    if u32_at(frame, 4) != frame_checksum(salt, &frame[8..]) {
        return Found::Bad("checksum of the frame does not match");
    }
    Found::Frame(Frame {
        number: u64_at(frame, 16),
        previous_end: u64_at(frame, 24),
        records: u32_at(frame, 12),
        payload: &frame[FRAME_HEADER_BYTES..],
        end: offset + length.next_multiple_of(8),
    })
}

/// Whether any frame that checks out begins at or behind `offset`.
pub(crate) fn any_frame_behind(segment: &[u8], offset: usize, salt: u64) -> bool {
    (offset.next_multiple_of(8)..segment.len())
        .step_by(8)
        .any(|at| segment[at..].starts_with(&FRAME_MAGIC) && matches!(frame_at(segment, at, salt), Found::Frame(_)))
}

/// A record of a frame, borrowed from it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Txn { revision: u64, ops: Vec<RecordOp<'a>> },
    Compact { revision: u64 },
    Advance { revision: u64 },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RecordOp<'a> {
    Put { key: &'a [u8], sealed: &'a [u8], lifetime: Option<Lifetime> },
    Delete { key: &'a [u8] },
}

/// Bytes that end too early, or hold a kind that does not exist. Behind a checksum that matches, only a mistake of a
/// writer leads here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Takes numbers and slices off the front of bytes.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("record is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32_at(self.take(4)?, 0))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64_at(self.take(8)?, 0))
    }

    fn slice(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn lifetime(&mut self) -> Result<Option<Lifetime>, Malformed> {
        let (milliseconds, wall) = (self.u64()?, self.u64()?);
        let ttl = Duration::from_millis(milliseconds);
        Ok((milliseconds != 0).then_some(Lifetime { ttl, wall_milliseconds: wall.cast_signed() }))
    }

    pub(crate) fn record(&mut self) -> Result<Record<'a>, Malformed> {
        let (kind, revision) = (self.u8()?, self.u64()?);
        match kind {
            COMPACT => Ok(Record::Compact { revision }),
            ADVANCE => Ok(Record::Advance { revision }),
            TXN => {
                let count = self.u16()?;
                let ops = (0..count).map(|_| self.op()).collect::<Result<_, _>>()?;
                Ok(Record::Txn { revision, ops })
            }
            _ => Err(Malformed("unknown kind of record")),
        }
    }

    fn op(&mut self) -> Result<RecordOp<'a>, Malformed> {
        let (kind, key) = (self.u8()?, self.slice()?);
        match kind {
            PUT => Ok(RecordOp::Put { key, sealed: self.slice()?, lifetime: self.lifetime()? }),
            DELETE => Ok(RecordOp::Delete { key }),
            _ => Err(Malformed("unknown kind of operation")),
        }
    }

    pub(crate) fn snapshot_entry(&mut self) -> Result<SnapshotEntry<'a>, Malformed> {
        let (key_length, value_length) = (self.u32()? as usize, self.u32()? as usize);
        let (mod_revision, create_revision, version) = (self.u64()?, self.u64()?, self.u64()?);
        let lifetime = self.lifetime()?;
        let (key, sealed) = (self.take(key_length)?, self.take(value_length)?);
        Ok(SnapshotEntry { key, sealed, mod_revision, create_revision, version, lifetime })
    }
}

/// An entry of a snapshot, borrowed from its block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SnapshotEntry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) sealed: &'a [u8],
    pub(crate) mod_revision: u64,
    pub(crate) create_revision: u64,
    pub(crate) version: u64,
    pub(crate) lifetime: Option<Lifetime>,
}

/// A block of a snapshot in the making.
#[derive(Default)]
pub(crate) struct BlockWriter {
    bytes: Vec<u8>,
    entries: u32,
}

impl BlockWriter {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn push(&mut self, entry: &SnapshotEntry<'_>) {
        self.entries += 1;
        self.bytes.extend((entry.key.len() as u32).to_le_bytes());
        self.bytes.extend((entry.sealed.len() as u32).to_le_bytes());
        for number in [entry.mod_revision, entry.create_revision, entry.version] {
            self.bytes.extend(number.to_le_bytes());
        }
        put_lifetime(&mut self.bytes, entry.lifetime);
        self.bytes.extend(entry.key);
        self.bytes.extend(entry.sealed);
    }

    /// The finished block; the writer is empty again.
    pub(crate) fn finish(&mut self) -> Bytes {
        let BlockWriter { bytes, entries } = std::mem::take(self);
        encode_block(entries, &bytes)
    }
}

/// The block that ends a snapshot of `entries`.
pub(crate) fn last_block(entries: u64) -> Bytes {
    encode_block(0, &entries.to_le_bytes())
}

fn encode_block(entries: u32, payload: &[u8]) -> Bytes {
    let mut block = Vec::with_capacity(BLOCK_HEADER_BYTES + payload.len());
    block.extend((payload.len() as u32).to_le_bytes());
    block.extend(block_checksum(entries, payload).to_le_bytes());
    block.extend(entries.to_le_bytes());
    block.extend(payload);
    block.into()
}

/// The checksum of a block.
pub(crate) fn block_checksum(entries: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&entries.to_le_bytes()), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Lifetime = Lifetime { ttl: Duration::from_secs(3600), wall_milliseconds: -5 };

    fn frame(number: u64, salt: u64) -> Bytes {
        let mut writer = FrameWriter::default();
        writer.txn(7, 2);
        writer.put(b"key", b"value", Some(LIFETIME));
        writer.delete(b"other");
        writer.compact(5);
        writer.advance(90);
        writer.finish(salt, number, 64)
    }

    #[test]
    fn frames_read_back_as_written() {
        let bytes = frame(3, 9);
        let Found::Frame(frame) = frame_at(&bytes, 0, 9) else { panic!() };
        assert_eq!((frame.number, frame.previous_end, frame.records, frame.end), (3, 64, 3, bytes.len()));
        let mut reader = Reader(frame.payload);
        let ops = vec![
            RecordOp::Put { key: b"key", sealed: b"value", lifetime: Some(LIFETIME) },
            RecordOp::Delete { key: b"other" },
        ];
        assert_eq!(reader.record(), Ok(Record::Txn { revision: 7, ops }));
        assert_eq!(reader.record(), Ok(Record::Compact { revision: 5 }));
        assert_eq!(reader.record(), Ok(Record::Advance { revision: 90 }));
        assert!(reader.0.is_empty());
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed_and_padding_is_not_needed() {
        let bytes = frame(3, 9);
        let length = FRAME_HEADER_BYTES + u32_at(&bytes, 8) as usize;
        for at in 0..length {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert!(matches!(frame_at(&flipped, 0, 9), Found::Bad(_)), "byte {at}");
        }
        assert!(matches!(frame_at(&bytes[..length], 0, 9), Found::Frame(_)));
        assert!(matches!(frame_at(&bytes[..length - 1], 0, 9), Found::Bad(_)));
    }

    #[test]
    fn zeros_are_the_end_and_only_frames_with_the_salt_are_found_behind() {
        assert!(matches!(frame_at(&[0; 100], 0, 1), Found::End));
        assert!(matches!(frame_at(&[0; 10], 64, 1), Found::End));
        let bytes = [&[1; 40][..], &frame(1, 9), &[0; 64]].concat();
        assert!(any_frame_behind(&bytes, 3, 9));
        assert!(!any_frame_behind(&bytes, 41, 9));
        assert!(!any_frame_behind(&bytes, 3, 8));
    }

    #[test]
    fn headers_are_told_apart_and_checked() {
        let header = encode_header(FileKind::Segment, [1, 2, 3]);
        assert_eq!(decode_header(FileKind::Segment, "f", &header).unwrap(), [1, 2, 3]);
        let reason = |bytes: &[u8], kind| decode_header(kind, "f", bytes).unwrap_err().to_string();
        assert!(reason(&header, FileKind::Snapshot).contains("f is corrupt at offset 0"));
        assert!(reason(&header[..63], FileKind::Segment).contains("cut off"));
        let mut changed = header.to_vec();
        changed[8] = 2;
        assert_eq!(reason(&changed, FileKind::Segment), "f has format version 2, this release reads up to 1");
        changed[8] = 1;
        changed[63] = 1;
        assert!(reason(&changed, FileKind::Segment).contains("checksum"));
    }

    #[test]
    fn names_carry_their_number() {
        assert_eq!(FileKind::Segment.name(26), "log-000000000000001a");
        assert_eq!(FileKind::Segment.number("log-000000000000001a"), Some(26));
        assert_eq!(FileKind::Segment.number("log-000000000000001a.tmp"), None);
        assert_eq!(FileKind::Segment.number("snap-000000000000001a"), None);
        assert_eq!(FileKind::Snapshot.number("snap-1a"), None);
    }

    #[test]
    fn garbage_is_malformed_and_nothing_worse() {
        for length in 0..200_usize {
            let garbage: Vec<u8> = (0..length).map(|at| (at * 37 + length) as u8 % 7).collect();
            let mut reader = Reader(&garbage);
            while !reader.0.is_empty() && reader.record().is_ok() {}
            let mut reader = Reader(&garbage);
            while !reader.0.is_empty() && reader.snapshot_entry().is_ok() {}
        }
    }
}
