//! Whether JSON is already in the form that our encoder writes, so that stored pieces are copied instead of parsed.

/// Whether `text` is one JSON value exactly as the encoder would write its tree: no blanks, no escapes that need not be, integers only.
/// False may also mean that the question is not worth deciding. Repeated members are not looked for: no encoder writes them.
pub(crate) fn is_normal(text: &[u8]) -> bool {
    let mut scan = Scan { bytes: text, at: 0 };
    scan.value(DEPTH_MAX) && scan.at == text.len() && std::str::from_utf8(text).is_ok()
}

/// Deeper values are parsed, which has a limit of its own.
const DEPTH_MAX: usize = 64;

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> bool {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') if depth > 0 => {
                self.at += 1;
                self.take(b'}')
                    || self.separated(b'}', |scan| scan.string() && scan.take(b':') && scan.value(depth - 1))
            }
            Some(b'[') if depth > 0 => {
                self.at += 1;
                self.take(b']') || self.separated(b']', |scan| scan.value(depth - 1))
            }
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(b'0') => self.take(b'0') && !matches!(self.peek(), Some(b'0'..=b'9' | b'.' | b'e' | b'E')),
            Some(b'-' | b'1'..=b'9') => self.integer(),
            _ => false,
        }
    }

    fn separated(&mut self, end: u8, mut item: impl FnMut(&mut Self) -> bool) -> bool {
        loop {
            if !item(self) {
                return false;
            }
            if !self.take(b',') {
                return self.take(end);
            }
        }
    }

    fn word(&mut self, word: &[u8]) -> bool {
        let found = self.bytes[self.at..].starts_with(word);
        self.at += word.len();
        found
    }

    /// Integers of so few digits that they fit.
    fn integer(&mut self) -> bool {
        self.take(b'-');
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        let digits = &self.bytes[start..self.at];
        (1..=18).contains(&digits.len()) && digits[0] != b'0' && !matches!(self.peek(), Some(b'.' | b'e' | b'E'))
    }

    fn string(&mut self) -> bool {
        if !self.take(b'"') {
            return false;
        }
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return true;
                }
                Some(b'\\') => match self.bytes.get(self.at + 1) {
                    Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
                    _ => return false,
                },
                // What is escaped in our form, and the first byte of U+2028 and U+2029.
                Some(0..=0x1f | b'<' | b'>' | b'&' | 0xe2) | None => return false,
                Some(_) => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::json::{Order, encode_any, parse};

    #[test]
    fn what_is_normal_is_what_the_encoder_writes() {
        for (text, expected) in [
            (r#"{"f:metadata":{"f:labels":{".":{},"k:{\"name\":\"x\"}":{}}}}"#, true),
            (r#"{"a":[1,-2,0,true,false,null,"ä\n"],"b":{}}"#, true),
            ("7", true),
            (r#"{"a": 1}"#, false),
            (r#"{"a":1.0}"#, false),
            (r#"{"a":01}"#, false),
            (r#"{"a":-0}"#, false),
            (r#"{"a":"<"}"#, false),
            (r#"{"a":"\u0041"}"#, false),
            (r#"{"a":"\/"}"#, false),
            (r#"{"a":1}x"#, false),
            (r#"{"a":1,}"#, false),
            ("[", false),
            ("", false),
        ] {
            assert_eq!(is_normal(text.as_bytes()), expected, "{text}");
            if expected {
                let tree = parse(text.as_bytes(), &Default::default()).expect("JSON").value;
                assert_eq!(encode_any(&tree, Order::AsGiven), text.as_bytes());
            }
        }
    }
}
