//! Cuts a watch's body into events: length-prefixed protobuf, or JSON documents in a row.

use bytes::{Buf, Bytes, BytesMut};

/// An object has at most 1.5 MiB in the store; encoded as an event it is not ten times as long.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// The part of a body that has come and is not cut yet.
pub(super) struct Frames {
    buffer: BytesMut,
    length_prefixed: bool,
    /// Up to here the buffer holds no line end.
    searched: usize,
}

impl Frames {
    pub(super) fn new(length_prefixed: bool) -> Frames {
        Frames { buffer: BytesMut::new(), length_prefixed, searched: 0 }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.iter().all(u8::is_ascii_whitespace)
    }

    /// The next whole frame, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, String> {
        if self.length_prefixed { self.prefixed() } else { self.line() }
    }

    fn prefixed(&mut self) -> Result<Option<Bytes>, String> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(format!("event of {length} bytes is larger than {FRAME_BYTES_MAX} bytes"));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Servers end each document with a line end, and JSON holds none elsewhere unless it is indented, which none is.
    fn line(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                let too_long = self.searched > FRAME_BYTES_MAX;
                return if too_long { Err(format!("event is larger than {FRAME_BYTES_MAX} bytes")) } else { Ok(None) };
            };
            let line = self.buffer.split_to(self.searched + end + 1).freeze();
            self.searched = 0;
            let line = line.slice_ref(line.trim_ascii());
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(length_prefixed: bool, body: &[u8], expected: &[&[u8]]) {
        // However the body is cut, the frames are the same.
        for size in [1, 2, 3, 5, body.len()] {
            let mut frames = Frames::new(length_prefixed);
            let mut found = Vec::new();
            for piece in body.chunks(size) {
                frames.push(piece);
                while let Some(frame) = frames.next().expect("well-formed frames") {
                    found.push(frame);
                }
            }
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn cuts_frames_wherever_pieces_end() {
        check(true, b"\0\0\0\x02ab\0\0\0\0\0\0\0\x01c\0\0", &[b"ab", b"", b"c"]);
        check(false, b"{\"a\":1}\n\n{\"b\":2}\r\n{\"c\"", &[b"{\"a\":1}", b"{\"b\":2}"]);
    }

    #[test]
    fn refuses_frames_without_end() {
        let mut frames = Frames::new(true);
        frames.push(&[0x7f, 0, 0, 0]);
        assert!(frames.next().is_err());
        let mut frames = Frames::new(false);
        frames.push(&vec![b'a'; FRAME_BYTES_MAX + 1]);
        assert!(frames.next().is_err());
    }
}
