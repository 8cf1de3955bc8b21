//! JSON text to tree, with every syntax error worded as Go's scanner words it.

use std::borrow::Cow;

use super::super::{DecodeError, Limits, Parsed};
use crate::value::{Key, Map, Value};

/// Reads one JSON document. Members that come twice are reported; the last one counts.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Parsed, DecodeError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        // Go replaces what is not UTF-8 inside strings; outside of them the replacement is a syntax error as well.
        Err(_) => String::from_utf8_lossy(bytes),
    };
    let mut parser = Parser { text: &text, at: 0, depth_left: limits.depth, duplicates: Vec::new(), faults: None };
    let value = parser.document()?;
    Ok(Parsed { value, duplicates: parser.duplicates })
}

/// What strict decoding complains of, in the order of the text: the members of `unknown` paths, and repeated members that are
/// known. A second walk, because only the schema tells what is unknown, and complaints are rare.
pub(crate) fn faults(bytes: &[u8], limits: &Limits, unknown: &[String]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let faults = Some(Faults { unknown, found: Vec::new() });
    let mut parser = Parser { text: &text, at: 0, depth_left: limits.depth, duplicates: Vec::new(), faults };
    match parser.document() {
        Ok(_) => parser.faults.map(|faults| faults.found).unwrap_or_default(),
        // The text was read before without an error.
        Err(_) => Vec::new(),
    }
}

/// At most this many repeated members are reported, as upstream does.
const DUPLICATES_MAX: usize = 100;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth_left: usize,
    duplicates: Vec<String>,
    faults: Option<Faults<'a>>,
}

/// Collects complaints on the second walk.
struct Faults<'a> {
    unknown: &'a [String],
    found: Vec<String>,
}

impl Faults<'_> {
    fn member(&mut self, path: &str, repeated: bool) {
        let unknown = self.unknown.iter().any(|unknown| unknown == path);
        let inside_unknown = || {
            let inside =
                |outer: &String| path.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']));
            self.unknown.iter().any(inside)
        };
        let fault = match (unknown, repeated) {
            (true, _) => format!("unknown field {path:?}"),
            (false, true) if !inside_unknown() => format!("duplicate field {path:?}"),
            (false, _) => return,
        };
        if !self.found.contains(&fault) {
            self.found.push(fault);
        }
    }
}

/// Where the parser is, for the paths of repeated members; lives on the stack.
struct Place<'a> {
    outer: Option<&'a Place<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Root,
    Member(&'a Key),
    Item(usize),
}

impl Place<'_> {
    fn path(&self) -> String {
        let mut path = self.outer.map_or_else(String::new, Place::path);
        match self.step {
            Step::Root => {}
            Step::Member(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Step::Item(index) => path.push_str(&format!("[{index}]")),
        }
        path
    }
}

impl<'a> Parser<'a> {
    fn document(&mut self) -> Result<Value, DecodeError> {
        self.skip_space();
        let value = self.value(&Place { outer: None, step: Step::Root })?;
        self.skip_space();
        match self.peek() {
            None => Ok(value),
            Some(_) => Err(self.unexpected("after top-level value")),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    /// The error about the character at hand, or about the end.
    fn unexpected(&self, context: &str) -> DecodeError {
        let Some(character) = self.text.get(self.at..).and_then(|rest| rest.chars().next()) else {
            return DecodeError::Syntax("unexpected end of JSON input".to_owned());
        };
        let quoted = match character {
            '\'' => r"'\''".to_owned(),
            '"' => "'\"'".to_owned(),
            '\n' => r"'\n'".to_owned(),
            '\r' => r"'\r'".to_owned(),
            '\t' => r"'\t'".to_owned(),
            '\\' => r"'\\'".to_owned(),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => format!("'\\x{:02x}'", control as u32),
            // Go looks at bytes: of a character beyond ASCII it shows the first one as a Latin-1 letter.
            wide if !wide.is_ascii() => format!("'{}'", char::from(self.text.as_bytes()[self.at])),
            plain => format!("'{plain}'"),
        };
        DecodeError::Syntax(format!("invalid character {quoted} {context}"))
    }

    fn value(&mut self, place: &Place<'_>) -> Result<Value, DecodeError> {
        match self.peek() {
            Some(b'{') => self.nested(place, Self::object),
            Some(b'[') => self.nested(place, Self::array),
            Some(b'"') => {
                self.at += 1;
                self.string().map(|text| Value::String(text.into()))
            }
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn nested(
        &mut self,
        place: &Place<'_>,
        read: fn(&mut Self, &Place<'_>) -> Result<Value, DecodeError>,
    ) -> Result<Value, DecodeError> {
        if self.depth_left == 0 {
            return Err(DecodeError::Limit("exceeded max depth".to_owned()));
        }
        self.depth_left -= 1;
        self.at += 1;
        self.skip_space();
        let value = read(self, place)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn object(&mut self, place: &Place<'_>) -> Result<Value, DecodeError> {
        let mut members = Map::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(members));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            self.at += 1;
            let key = Key::new(&self.string()?);
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("after object key"));
            }
            self.at += 1;
            self.skip_space();
            let here = Place { outer: Some(place), step: Step::Member(&key) };
            let repeated = members.get_key(&key).is_some();
            if let Some(faults) = &mut self.faults {
                faults.member(&here.path(), repeated);
            }
            let value = self.value(&here)?;
            if repeated {
                self.report_duplicate(&here);
                members.insert(key, value);
            } else {
                members.push_new(key, value);
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.unexpected("after object key:value pair")),
            }
            self.skip_space();
        }
        self.at += 1;
        Ok(Value::Object(members))
    }

    fn report_duplicate(&mut self, place: &Place<'_>) {
        if self.duplicates.len() < DUPLICATES_MAX {
            let path = place.path();
            if !self.duplicates.contains(&path) {
                self.duplicates.push(path);
            }
        }
    }

    fn array(&mut self, place: &Place<'_>) -> Result<Value, DecodeError> {
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(&Place { outer: Some(place), step: Step::Item(items.len()) })?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("after array element")),
            }
            self.skip_space();
        }
        self.at += 1;
        Ok(Value::Array(items))
    }

    fn word(&mut self, word: &'static str, value: Value) -> Result<Value, DecodeError> {
        for (index, letter) in word.bytes().enumerate() {
            if self.peek() != Some(letter) {
                debug_assert!(index > 0, "the first letter chose the word");
                return Err(self.unexpected(&format!("in literal {word} (expecting '{}')", letter as char)));
            }
            self.at += 1;
        }
        Ok(value)
    }

    /// The text up to the closing quote; the opening one is passed.
    fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
                }
                Some(b'\\') => return self.escaped_string(start).map(Cow::Owned),
                Some(0..=0x1f) | None => return Err(self.unexpected("in string literal")),
                Some(_) => self.at += 1,
            }
        }
    }

    /// As [`Parser::string`], from the first escape on.
    fn escaped_string(&mut self, start: usize) -> Result<String, DecodeError> {
        let mut text = self.text[start..self.at].to_owned();
        loop {
            let run = self.at;
            while !matches!(self.peek(), Some(b'"' | b'\\' | 0..=0x1f) | None) {
                self.at += 1;
            }
            text.push_str(&self.text[run..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                _ => return Err(self.unexpected("in string literal")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let character = match self.peek() {
            Some(letter @ (b'"' | b'\\' | b'/')) => letter as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(character)
    }

    /// Four digits, and four more for the second half of a pair; a half without its other becomes U+FFFD, as in Go.
    fn unicode_escape(&mut self) -> Result<char, DecodeError> {
        let first = self.hex4()?;
        if !(0xd800..0xdc00).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let before = self.at;
        if self.text.as_bytes()[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = before;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, DecodeError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| (byte as char).to_digit(16));
            let Some(digit) = digit else { return Err(self.unexpected("in \\u hexadecimal character escape")) };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    fn number(&mut self) -> Result<Value, DecodeError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.skip_digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let literal = &self.text[start..self.at];
        if whole && let Ok(number) = literal.parse::<i64>() {
            return Ok(Value::Int(number));
        }
        match literal.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => {
                Err(DecodeError::Type(format!("json: cannot unmarshal number {literal} into Go value of type float64")))
            }
        }
    }

    fn digits(&mut self, context: &str) -> Result<(), DecodeError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected(context));
        }
        self.skip_digits();
        Ok(())
    }

    fn skip_digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }
}
