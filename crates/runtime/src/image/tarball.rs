//! Reads tar streams: ustar, GNU long names, PAX records with binary values, every size bounded.
//!
//! Not the `tar` crate's own reader, which splits PAX records at newlines (a file capability may contain one) and reads
//! name records of any length into memory. Its header type is used for the fields.

use std::io::{self, Read};

use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// Bytes of a long name or of a PAX record block: far above any path or extended attribute.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Extension headers before one member; more is an attempt to keep us busy.
const EXTENSIONS_MAX: usize = 16;

/// One member of an archive, without its data.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryType,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Major and minor.
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive being read: [`Reader::next`] gives the members, reading gives the current one's data.
pub(super) struct Reader<R> {
    input: R,
    /// Data of the current member not yet read.
    remaining: u64,
    /// Zeros that fill its last block.
    padding: u64,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    owner: (Option<u32>, Option<u32>),
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Reader { input, remaining: 0, padding: 0 }
    }

    /// The next member; what was left unread of the one before is skipped.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut extensions = Extensions::default();
        for _ in 0..EXTENSIONS_MAX {
            let Some(header) = self.header()? else { return Ok(None) };
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(until_nul(self.extension(&header)?)),
                EntryType::GNULongLink => extensions.link = Some(until_nul(self.extension(&header)?)),
                EntryType::XHeader => extensions.read(&self.extension(&header)?)?,
                EntryType::XGlobalHeader => drop(self.extension(&header)?),
                EntryType::GNUSparse => return Err(broken("sparse members are not supported")),
                _ => return self.member(&header, extensions).map(Some),
            }
        }
        Err(broken("too many extension headers"))
    }

    /// Reads what follows the end of the archive, so that a digest over the stream covers it.
    pub(super) fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self.input, &mut io::sink()).map(|_| ())
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let skip = self.remaining + self.padding;
        if io::copy(&mut (&mut self.input).take(skip), &mut io::sink())? != skip {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.remaining, self.padding) = (0, 0);
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            // The end is two such blocks; some writers leave out the second.
            let mut second = [0; BLOCK as usize];
            if self.block(&mut second)? && second.iter().any(|byte| *byte != 0) {
                return Err(broken("data after the end of the archive"));
            }
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum();
        if numeric(&bytes[148..156])? != i64::from(sum + 8 * u32::from(b' ')) {
            return Err(broken("header checksum does not match"));
        }
        Ok(Some(header))
    }

    /// Fills `block`; `false` at the end of the input before its first byte.
    fn block(&mut self, block: &mut [u8; BLOCK as usize]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn expect_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn extension(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = size(header)?;
        if size > EXTENSION_BYTES_MAX {
            return Err(broken("extension header is too large"));
        }
        self.expect_data(size);
        let mut data = Vec::with_capacity(size as usize);
        self.read_to_end(&mut data)?;
        Ok(data)
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> io::Result<Member> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match header.entry_type() {
            // Before ustar, a folder was a file whose name ends in a slash.
            EntryType::Regular if path.ends_with(b"/") && header.as_bytes()[156] == 0 => EntryType::Directory,
            kind => kind,
        };
        let has_data = !matches!(
            kind,
            EntryType::Link
                | EntryType::Symlink
                | EntryType::Char
                | EntryType::Block
                | EntryType::Directory
                | EntryType::Fifo
        );
        let size = match extensions.size {
            Some(size) => size,
            None => size(header)?,
        };
        let size = if has_data { size } else { 0 };
        if size > u64::MAX / 2 {
            return Err(broken("member is too large"));
        }
        self.expect_data(size);
        let bytes = header.as_bytes();
        let narrow =
            |field: &[u8]| u32::try_from(numeric(field)?).map_err(|_| broken("owner or device number is out of range"));
        let owner = (
            extensions.owner.0.map_or_else(|| narrow(&bytes[108..116]), Ok)?,
            extensions.owner.1.map_or_else(|| narrow(&bytes[116..124]), Ok)?,
        );
        let is_device = matches!(kind, EntryType::Char | EntryType::Block);
        let device = if is_device { (narrow(&bytes[329..337])?, narrow(&bytes[337..345])?) } else { (0, 0) };
        Ok(Member {
            link: extensions.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            path,
            kind,
            size,
            mode: (numeric(&bytes[100..108])? & 0o7777) as u32,
            owner,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => (numeric(&bytes[136..148])?, 0),
            },
            device,
            xattrs: extensions.xattrs,
        })
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}

impl Extensions {
    /// Reads a block of PAX records, each `length key=value\n` with its own length in front.
    fn read(&mut self, mut data: &[u8]) -> io::Result<()> {
        let malformed = || broken("malformed PAX record");
        while !data.is_empty() {
            let space = data.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length: usize = number(&data[..space]).ok_or_else(malformed)?;
            if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &data[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            self.set(&record[..equals], &record[equals + 1..]).ok_or_else(malformed)??;
            data = &data[length..];
        }
        Ok(())
    }

    /// Takes one record over; `None` when its value is malformed. An empty value takes the key's effect back.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<io::Result<()>> {
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = if given { Some(number(value)?) } else { None },
            b"uid" => self.owner.0 = if given { Some(number(value)?) } else { None },
            b"gid" => self.owner.1 = if given { Some(number(value)?) } else { None },
            b"mtime" => self.mtime = if given { Some(timestamp(value)?) } else { None },
            key if key.starts_with(b"GNU.sparse.") => {
                return Some(Err(broken("sparse members are not supported")));
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(Ok(()))
    }
}

fn size(header: &Header) -> io::Result<u64> {
    u64::try_from(numeric(&header.as_bytes()[124..136])?).map_err(|_| broken("size is negative"))
}

/// A header's number: octal digits among spaces and zero bytes (none at all is zero, as writers leave unused fields), or
/// GNU's binary form for what does not fit.
fn numeric(field: &[u8]) -> io::Result<i64> {
    let out_of_range = || broken("number in header is malformed or out of range");
    if field[0] & 0x80 != 0 {
        // Two's complement, big-endian, less the marker bit.
        let negative = field[0] & 0x40 != 0;
        let first = if negative { field[0] } else { field[0] & 0x7f };
        let start = if negative { -1 } else { 0i64 };
        return field.iter().enumerate().try_fold(start, |value, (index, byte)| {
            let byte = if index == 0 { first } else { *byte };
            value.checked_mul(256).map(|value| value | i64::from(byte)).ok_or_else(out_of_range)
        });
    }
    let filler = |byte: &u8| matches!(byte, b' ' | 0);
    let digits: Vec<u8> = field.iter().copied().skip_while(filler).take_while(|byte| !filler(byte)).collect();
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).map(|value| value + i64::from(digit - b'0')).ok_or_else(out_of_range),
        _ => Err(out_of_range()),
    })
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Decimal seconds, possibly negative, to nanoseconds; further digits are dropped.
fn timestamp(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits = format!("{:0<9.9}", fraction);
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::image::testing::record;

    fn header(path: &str, kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_path(path).unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(5);
        header.set_cksum();
        header
    }

    fn archive(members: &[(Header, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (header, data) in members {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    #[test]
    fn reads_pax_records_with_any_bytes() {
        let capability = b"\x01\x00\x00\x02\n\x0a=\x00\n";
        let long = "d/".repeat(200) + "file";
        let records = [
            record("path", long.as_bytes()),
            record("mtime", b"1700000000.25"),
            record("uid", b"3000000000"),
            record("SCHILY.xattr.security.capability", capability),
            record("size", b"5"),
        ]
        .concat();
        let bytes = archive(&[
            (header("pax", EntryType::XHeader, records.len() as u64), &records),
            (header("short", EntryType::Regular, 0), b"12345"),
            (header("next", EntryType::Directory, 77), b""),
        ]);
        let mut reader = Reader::new(Cursor::new(bytes));
        let member = reader.next().unwrap().unwrap();
        assert_eq!(member.path, long.as_bytes());
        assert_eq!((member.mtime, member.owner, member.size), ((1_700_000_000, 250_000_000), (3_000_000_000, 0), 5));
        assert_eq!(member.xattrs, [(b"security.capability".to_vec(), capability.to_vec())]);
        let mut data = String::new();
        reader.read_to_string(&mut data).unwrap();
        assert_eq!(data, "12345");
        let next = reader.next().unwrap().unwrap();
        assert_eq!((next.path.as_slice(), next.mtime, next.size), (&b"next"[..], (5, 0), 0));
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn refuses_broken_archives() {
        let good = archive(&[(header("a", EntryType::Regular, 600), &[7; 600])]);
        let mut flipped = good.clone();
        flipped[0] ^= 1;
        let huge = archive(&[(header("x", EntryType::GNULongName, 1 << 30), b"")]);
        let sparse = archive(&[(header("x", EntryType::GNUSparse, 0), b"")]);
        let torn_record = archive(&[
            (header("x", EntryType::XHeader, 9), b"99 a=b\n\n\n"),
            (header("a", EntryType::Regular, 0), b""),
        ]);
        let endless = archive(&vec![(header("x", EntryType::GNULongName, 1), &b"n"[..]); 20]);
        for (bytes, expected) in [
            (flipped, "header checksum does not match"),
            (good[..1024].to_vec(), "unexpected end of file"),
            (good[..100].to_vec(), "unexpected end of file"),
            (huge, "extension header is too large"),
            (sparse, "sparse members are not supported"),
            (torn_record, "malformed PAX record"),
            (endless, "too many extension headers"),
        ] {
            let mut reader = Reader::new(Cursor::new(bytes));
            let error = loop {
                match reader.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("read to the end where {expected:?} was expected"),
                    Err(error) => break error.to_string(),
                }
            };
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn reads_numbers_of_every_form() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\x80\0\0\0\0\0\0\x01\0\0\0\0", Some(1 << 32)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000648\0", None),
            (b"-1      ", None),
        ] {
            assert_eq!(numeric(field).ok(), expected, "{field:?}");
        }
    }

    #[test]
    fn reads_fractional_and_negative_times() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.1234567891", Some((1, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-3", Some((-3, 0))),
            ("x", None),
            ("1.x", None),
        ] {
            assert_eq!(timestamp(text.as_bytes()), expected, "{text}");
        }
    }
}
