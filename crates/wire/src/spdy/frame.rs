//! Frames of SPDY/3.1 as bytes.

use super::SpdyError;
use super::headers::{Headers, Packer, Unpacker};

/// Bytes in front of each frame's payload.
pub(super) const HEAD_BYTES: usize = 8;
/// The stream's sender sends no more.
pub(super) const FIN: u8 = 1;
/// The stream's receiver sends nothing at all.
const UNIDIRECTIONAL: u8 = 2;
const CONTROL: u8 = 0x80;
const VERSION: u16 = 3;
const ID: u32 = 0x7fff_ffff;

/// Why a stream was reset.
pub(super) mod reset {
    pub(in super::super) const PROTOCOL_ERROR: u32 = 1;
    pub(in super::super) const INVALID_STREAM: u32 = 2;
    pub(in super::super) const REFUSED_STREAM: u32 = 3;
    pub(in super::super) const CANCEL: u32 = 5;
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Bytes of a stream follow.
    Data { stream: u32, flags: u8, length: usize },
    /// A frame of that type follows.
    Control { kind: u16, flags: u8, length: usize },
}

impl Head {
    pub(super) fn read(bytes: [u8; HEAD_BYTES]) -> Result<Head, SpdyError> {
        let [a, b, c, d, flags, length @ ..] = bytes;
        let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
        if a & CONTROL == 0 {
            return Ok(Head::Data { stream: u32::from_be_bytes([a, b, c, d]), flags, length });
        }
        if u16::from_be_bytes([a & !CONTROL, b]) != VERSION {
            return Err(SpdyError::Protocol("frame is of another version than 3"));
        }
        Ok(Head::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

/// What an end says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    Rst {
        stream: u32,
        status: u32,
    },
    /// The new initial window, if that is among the settings.
    Settings {
        window: Option<u32>,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        stream: u32,
        bytes: u32,
    },
    Data {
        stream: u32,
        fin: bool,
        bytes: bytes::Bytes,
    },
    /// Of a type that is skipped, as the specification wants it.
    Other,
}

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const INITIAL_WINDOW: u32 = 7;

fn word(bytes: &[u8], at: usize) -> Result<u32, SpdyError> {
    let four = bytes.get(at..at + 4).and_then(|four| four.first_chunk::<4>());
    four.map(|four| u32::from_be_bytes(*four)).ok_or(SpdyError::Protocol("control frame is too short"))
}

/// Reads a control frame.
pub(super) fn control(kind: u16, flags: u8, payload: &[u8], unpacker: &mut Unpacker) -> Result<Frame, SpdyError> {
    let fin = flags & FIN != 0;
    let id = |at| word(payload, at).map(|word| word & ID);
    let block = |from: usize| payload.get(from..).ok_or(SpdyError::Protocol("control frame is too short"));
    Ok(match kind {
        SYN_STREAM => Frame::SynStream {
            stream: id(0)?,
            fin,
            unidirectional: flags & UNIDIRECTIONAL != 0,
            headers: unpacker.unpack(block(10)?)?,
        },
        SYN_REPLY => Frame::SynReply { stream: id(0)?, fin, headers: unpacker.unpack(block(4)?)? },
        RST_STREAM => Frame::Rst { stream: id(0)?, status: word(payload, 4)? },
        SETTINGS => {
            let count = usize::try_from(word(payload, 0)?).unwrap_or(usize::MAX);
            let entries = payload[4..].chunks_exact(8).take(count);
            let mut window = None;
            for entry in entries {
                if word(entry, 0)? & 0x00ff_ffff == INITIAL_WINDOW {
                    window = Some(word(entry, 4)? & ID);
                }
            }
            Frame::Settings { window }
        }
        PING => Frame::Ping { id: word(payload, 0)? },
        GOAWAY => Frame::GoAway { last: id(0)?, status: word(payload, 4).unwrap_or(0) },
        HEADERS => Frame::Headers { stream: id(0)?, fin, headers: unpacker.unpack(block(4)?)? },
        WINDOW_UPDATE => Frame::WindowUpdate { stream: id(0)?, bytes: word(payload, 4)? & ID },
        _ => Frame::Other,
    })
}

/// The frame as bytes.
pub(super) fn encode(frame: &Frame, packer: &mut Packer) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let flag = |fin: bool| if fin { FIN } else { 0 };
    let (kind, flags, payload) = match frame {
        Frame::SynStream { stream, fin, unidirectional, headers } => {
            let mut payload = words(&[*stream, 0]);
            // Priority and slot, which nobody uses.
            payload.extend_from_slice(&[0, 0]);
            payload.extend(packer.pack(headers));
            (SYN_STREAM, flag(*fin) | if *unidirectional { UNIDIRECTIONAL } else { 0 }, payload)
        }
        Frame::SynReply { stream, fin, headers } | Frame::Headers { stream, fin, headers } => {
            let mut payload = words(&[*stream]);
            payload.extend(packer.pack(headers));
            (if matches!(frame, Frame::Headers { .. }) { HEADERS } else { SYN_REPLY }, flag(*fin), payload)
        }
        Frame::Rst { stream, status } => (RST_STREAM, 0, words(&[*stream, *status])),
        Frame::Settings { window } => match window {
            Some(window) => (SETTINGS, 0, words(&[1, INITIAL_WINDOW, *window])),
            None => (SETTINGS, 0, words(&[0])),
        },
        Frame::Ping { id } => (PING, 0, words(&[*id])),
        Frame::GoAway { last, status } => (GOAWAY, 0, words(&[*last, *status])),
        Frame::WindowUpdate { stream, bytes } => (WINDOW_UPDATE, 0, words(&[*stream, *bytes])),
        Frame::Data { stream, fin, bytes } => {
            let mut out = stream.to_be_bytes().to_vec();
            tail(&mut out, flag(*fin), bytes);
            return out;
        }
        Frame::Other => return Vec::new(),
    };
    let mut out = (u32::from(VERSION | 0x8000) << 16 | u32::from(kind)).to_be_bytes().to_vec();
    tail(&mut out, flags, &payload);
    out
}

fn tail(out: &mut Vec<u8>, flags: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.push(flags);
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: Frame, expected_head: &[u8]) {
        let bytes = encode(&frame, &mut Packer::new());
        assert_eq!(&bytes[..expected_head.len()], expected_head, "{frame:?}");
        let (head, payload) = bytes.split_first_chunk::<HEAD_BYTES>().expect("a head");
        let read = match Head::read(*head).expect("our version") {
            Head::Control { kind, flags, length } => {
                assert_eq!(length, payload.len());
                control(kind, flags, payload, &mut Unpacker::new(1 << 10)).expect("our own frame")
            }
            Head::Data { stream, flags, length } => {
                assert_eq!(length, payload.len());
                Frame::Data { stream, fin: flags & FIN != 0, bytes: bytes::Bytes::copy_from_slice(payload) }
            }
        };
        assert_eq!(read, frame);
    }

    #[test]
    fn frames_are_as_the_specification_lays_them_out() {
        let headers = vec![("streamtype".to_owned(), "stdin".to_owned())];
        check(
            Frame::SynStream { stream: 1, fin: false, unidirectional: false, headers: headers.clone() },
            &[0x80, 3, 0, 1, 0],
        );
        check(Frame::SynReply { stream: 1, fin: true, headers: Vec::new() }, &[0x80, 3, 0, 2, 1]);
        check(Frame::Headers { stream: 3, fin: false, headers }, &[0x80, 3, 0, 8, 0]);
        check(Frame::Rst { stream: 5, status: 3 }, &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3]);
        check(
            Frame::Settings { window: Some(65536) },
            &[0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0],
        );
        check(Frame::Ping { id: 7 }, &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        check(Frame::GoAway { last: 9, status: 0 }, &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0]);
        check(Frame::WindowUpdate { stream: 1, bytes: 256 }, &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 1, 0]);
        check(Frame::Data { stream: 1, fin: true, bytes: "hi".into() }, &[0, 0, 0, 1, 1, 0, 0, 2, b'h', b'i']);
    }

    #[test]
    fn what_is_too_short_or_of_another_version_is_refused() {
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE] {
            for length in 0..4 {
                let read = control(kind, 0, &[0; 4][..length], &mut Unpacker::new(1 << 10));
                assert!(read.is_err(), "type {kind}, {length} bytes");
            }
        }
        assert!(Head::read([0x80, 2, 0, 1, 0, 0, 0, 0]).is_err());
        assert_eq!(control(99, 0, &[], &mut Unpacker::new(1 << 10)).expect("skipped"), Frame::Other);
    }
}
