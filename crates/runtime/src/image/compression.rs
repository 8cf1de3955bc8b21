//! Streams told apart by their first bytes: gzip, zstd, or as they are.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Memory one zstd stream may claim; `zstd -19` asks for 8 MiB, `--long` for 128.
const ZSTD_WINDOW_BYTES_MAX: u64 = 128 << 20;

/// The uncompressed stream of a layer or archive.
pub(super) fn decompressed<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(128 << 10, input);
    // A short first read may hide the magic number, so it is read apart and put back in front.
    let mut magic = Vec::with_capacity(4);
    input.by_ref().take(4).read_to_end(&mut magic)?;
    let whole = BufReader::with_capacity(128 << 10, io::Cursor::new(magic.clone()).chain(input));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Box::new(ZstdFrames::new(whole)),
        _ => Box::new(whole),
    })
}

/// All frames of a zstd stream, skippable ones (which lazily pulled images carry) left out.
struct ZstdFrames<R> {
    input: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(input: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW_BYTES_MAX);
        ZstdFrames { input, decoder, in_frame: false }
    }

    /// Enters the next frame with data; `false` at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.input.by_ref().take(length), &mut io::sink())? != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                self.in_frame = self.next_frame()?;
                if !self.in_frame {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            match self.decoder.read(buffer)? {
                0 => self.in_frame = false,
                count => return Ok(count),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        compress_to_vec(data, CompressionLevel::Fastest)
    }

    #[test]
    fn gives_back_what_was_compressed() {
        let data: Vec<u8> = (0..1_000_000u32).map(|number| (number / 7) as u8).collect();
        let (front, back) = data.split_at(400_000);
        let skippable = [0x184d_2a50u32.to_le_bytes().as_slice(), &3u32.to_le_bytes(), b"xyz"].concat();
        for (name, stream) in [
            ("plain", data.clone()),
            ("gzip", gzip(&data)),
            ("gzip of two members", [gzip(front), gzip(back)].concat()),
            ("zstd", zstd(&data)),
            (
                "zstd with skippable frames",
                [&skippable[..], &zstd(front), &skippable, &zstd(back), &skippable].concat(),
            ),
        ] {
            let mut out = Vec::new();
            decompressed(stream.as_slice()).unwrap().read_to_end(&mut out).unwrap();
            assert!(out == data, "{name}");
        }
        let mut out = Vec::new();
        decompressed(&b"ab"[..]).unwrap().read_to_end(&mut out).unwrap();
        assert_eq!(out, b"ab");
    }

    #[test]
    fn notices_streams_that_are_cut_off() {
        let data = vec![7; 100_000];
        for stream in [gzip(&data), zstd(&data)] {
            let cut = &stream[..stream.len() - 5];
            assert!(decompressed(cut).unwrap().read_to_end(&mut Vec::new()).is_err());
        }
    }
}
