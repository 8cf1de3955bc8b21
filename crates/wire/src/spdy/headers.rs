//! Header blocks of SPDY/3.1: names and values, compressed by zlib with a dictionary that both ends know.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// Headers of a stream, in order; names in lower case.
pub type Headers = Vec<(String, String)>;

/// What is said before anything is compressed: words, each with its length in front.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200|OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// … and text without lengths. Specification: SPDY protocol, draft 3.1, section 2.6.10.1.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
    publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary.
fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split_ascii_whitespace() {
        let word = word.replace('|', " ");
        dictionary.extend_from_slice(&length(word.len()));
        dictionary.extend_from_slice(word.as_bytes());
    }
    dictionary.extend_from_slice(TEXT.as_bytes());
    dictionary
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// The sending end's compression; its state goes through the whole connection.
pub(super) struct Packer(Compress);

impl Packer {
    pub(super) fn new() -> Packer {
        let mut compress = Compress::new(Compression::new(6), true);
        compress.set_dictionary(&dictionary()).expect("nothing was compressed yet");
        Packer(compress)
    }

    /// The compressed block.
    pub(super) fn pack(&mut self, headers: &[(String, String)]) -> Vec<u8> {
        let mut plain = length(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&length(text.len()));
            plain.extend_from_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let mut input = plain.as_slice();
        loop {
            packed.reserve(256);
            let before = self.0.total_in();
            let status = self.0.compress_vec(input, &mut packed, FlushCompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(0);
            input = &input[taken.min(input.len())..];
            // A flush is complete when it leaves room in the output.
            let complete = input.is_empty() && packed.len() < packed.capacity();
            if complete || !matches!(status, Ok(Status::Ok)) {
                return packed;
            }
        }
    }
}

/// The receiving end's decompression.
pub(super) struct Unpacker {
    decompress: Decompress,
    bytes_max: usize,
}

impl Unpacker {
    /// `bytes_max` bounds one block when it is unpacked, so that a small frame cannot fill the memory.
    pub(super) fn new(bytes_max: usize) -> Unpacker {
        Unpacker { decompress: Decompress::new(true), bytes_max }
    }

    /// The headers of a block.
    pub(super) fn unpack(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        parse(&self.inflate(packed)?)
    }

    fn inflate(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, SpdyError> {
        const FAULT: SpdyError = SpdyError::Protocol("header block is not compressed as it should be");
        let mut plain = Vec::with_capacity(1024.min(self.bytes_max + 1));
        loop {
            let before = (self.decompress.total_in(), plain.len());
            let outcome = self.decompress.decompress_vec(packed, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.decompress.total_in() - before.0).unwrap_or(0);
            packed = &packed[taken.min(packed.len())..];
            match outcome {
                Ok(Status::StreamEnd) => return Err(FAULT),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.decompress.set_dictionary(&dictionary()).map_err(|_| FAULT)?;
                    continue;
                }
                Err(_) => return Err(FAULT),
            }
            if plain.len() > self.bytes_max {
                return Err(SpdyError::Limit("bytes of headers"));
            }
            if plain.len() < plain.capacity() {
                // There was room left: no more comes out of what is there.
                let stuck = !packed.is_empty() && before == (self.decompress.total_in(), plain.len());
                if packed.is_empty() {
                    return Ok(plain);
                }
                if stuck {
                    return Err(FAULT);
                }
            } else {
                plain.reserve(plain.len().clamp(64, (self.bytes_max + 1 - plain.len()).max(64)));
            }
        }
    }
}

/// The most headers of one block.
const HEADERS_MAX: usize = 100;

fn parse(mut plain: &[u8]) -> Result<Headers, SpdyError> {
    const FAULT: SpdyError = SpdyError::Protocol("header block is malformed");
    let number = |plain: &mut &[u8]| -> Result<usize, SpdyError> {
        let (head, rest) = plain.split_first_chunk::<4>().ok_or(FAULT)?;
        *plain = rest;
        usize::try_from(u32::from_be_bytes(*head)).map_err(|_| FAULT)
    };
    let count = number(&mut plain)?;
    if count > HEADERS_MAX {
        return Err(SpdyError::Limit("headers of a stream"));
    }
    let text = |plain: &mut &[u8]| -> Result<String, SpdyError> {
        let length = number(plain)?;
        let (head, rest) = plain.split_at_checked(length).ok_or(FAULT)?;
        *plain = rest;
        String::from_utf8(head.to_vec()).map_err(|_| FAULT)
    };
    let mut headers = Headers::with_capacity(count);
    for _ in 0..count {
        let name = text(&mut plain)?.to_ascii_lowercase();
        // Several values are set apart by zero bytes.
        let values = text(&mut plain)?;
        if name.is_empty() {
            return Err(FAULT);
        }
        headers.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
    }
    if plain.is_empty() { Ok(headers) } else { Err(FAULT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adler32(bytes: &[u8]) -> u32 {
        let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        b << 16 | a
    }

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_dictionary_is_that_of_the_specification() {
        // Every SPDY/3 block in the world begins with this checksum.
        assert_eq!((dictionary().len(), adler32(&dictionary())), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn what_is_packed_is_unpacked_block_after_block() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new(16 << 10));
        let long = "x".repeat(9000);
        for pairs in [
            headers(&[]),
            headers(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]),
            headers(&[("streamtype", "data"), ("long", &long)]),
            headers(&[("streamtype", "data"), ("long", &long)]),
        ] {
            let packed = packer.pack(&pairs);
            assert_eq!(unpacker.unpack(&packed).expect("it was packed by us"), pairs);
        }
    }

    #[test]
    fn a_block_that_grows_beyond_the_limit_is_refused_before_it_fills_the_memory() {
        let bomb = headers(&[("bomb", &"0".repeat(50 << 20))]);
        let packed = Packer::new().pack(&bomb);
        assert!(packed.len() < 64 << 10, "{} bytes", packed.len());
        let refused = Unpacker::new(16 << 10).unpack(&packed);
        assert!(matches!(refused, Err(SpdyError::Limit("bytes of headers"))), "{refused:?}");
    }

    #[test]
    fn counts_and_lengths_that_lie_are_refused() {
        let check = |plain: &[u8]| assert!(parse(plain).is_err(), "{plain:?}");
        check(&[]);
        check(&[0, 0, 0, 1]);
        check(&[0xff; 4]);
        check(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a']);
        check(&[0, 0, 0, 0, 1]);
        check(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn no_bytes_make_it_panic_or_hang() {
        let good = Packer::new().pack(&headers(&[("streamtype", "stdin")]));
        for at in 0..good.len() {
            drop(Unpacker::new(1 << 10).unpack(&good[..at]));
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                drop(Unpacker::new(1 << 10).unpack(&bad));
            }
        }
    }
}
