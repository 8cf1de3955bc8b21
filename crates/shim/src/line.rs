//! Container output as lines of a CRI log file: `TIME stdout F text`.

use alloc::string::String;
use alloc::vec::Vec;

use crate::time::push_rfc3339;

/// The longest piece of a line that is written at once; longer lines are written as several, marked `P`.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// Which of its two outputs a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The stream's name in a log file.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// The line of one stream that has no end yet.
#[derive(Debug)]
pub struct Lines {
    stream: Stream,
    partial: Vec<u8>,
}

impl Lines {
    /// A stream of which nothing was read.
    pub fn new(stream: Stream) -> Self {
        Lines { stream, partial: Vec::new() }
    }

    /// Takes what was read at `now` (nanoseconds since 1970) and appends the log lines that are complete to `out`.
    pub fn push(&mut self, mut input: &[u8], now: i64, out: &mut Vec<u8>) {
        while !input.is_empty() {
            let end = input.iter().position(|byte| *byte == b'\n');
            let room = LINE_BYTES_MAX - self.partial.len();
            let (piece, full) = match end {
                Some(end) if end <= room => (end, true),
                _ => (input.len().min(room), false),
            };
            self.partial.extend_from_slice(&input[..piece]);
            input = &input[piece + usize::from(full)..];
            if full {
                self.flush('F', now, out);
            } else if self.partial.len() == LINE_BYTES_MAX && !input.is_empty() {
                self.flush('P', now, out);
            }
        }
        if self.partial.is_empty() {
            // An idle container keeps no buffer.
            self.partial = Vec::new();
        }
    }

    /// Writes what has no end of line, once no more will come.
    pub fn finish(&mut self, now: i64, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.flush('P', now, out);
        }
        self.partial = Vec::new();
    }

    fn flush(&mut self, tag: char, now: i64, out: &mut Vec<u8>) {
        let mut head = String::with_capacity(48);
        push_rfc3339(&mut head, now);
        for part in [" ", self.stream.name(), " "] {
            head.push_str(part);
        }
        head.push(tag);
        head.push(' ');
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&self.partial);
        out.push(b'\n');
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]], expected: &str) {
        let (mut lines, mut out) = (Lines::new(Stream::Stdout), Vec::new());
        for piece in pieces {
            lines.push(piece, 0, &mut out);
        }
        lines.finish(0, &mut out);
        assert_eq!(String::from_utf8(out).unwrap().replace("1970-01-01T00:00:00Z stdout ", ""), expected);
    }

    #[test]
    fn lines_are_complete_or_marked_partial() {
        check(&[b"a\n"], "F a\n");
        check(&[b"a", b"b\nc\n\n", b"d"], "F ab\nF c\nF \nP d\n");
        check(&[], "");
        check(&[b"\xff\n".map(|byte| byte & 0x7f).as_slice()], "F \u{7f}\n");
    }

    #[test]
    fn long_lines_are_split_where_containerd_splits_them() {
        let long = "x".repeat(LINE_BYTES_MAX);
        check(&[long.as_bytes(), b"\n"], &format!("F {long}\n"));
        check(&[long.as_bytes(), b"yz\n"], &format!("P {long}\nF yz\n"));
        check(&[(long.clone() + &long + "\n").as_bytes()], &format!("P {long}\nF {long}\n"));
        check(&[long.as_bytes()], &format!("P {long}\n"));
    }
}
