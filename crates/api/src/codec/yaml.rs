//! YAML to tree, with the YAML 1.1 scalars that Kubernetes' clients expect (`yes`, `0777`, `<<`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

use super::json::write;
use super::{DecodeError, Limits, Parsed};
use crate::value::{Key, Map, Value};

/// Reads the first document; nothing is null. Members that come twice are reported; the last one counts.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Parsed, DecodeError> {
    let mut documents = Documents::new(bytes, limits)?;
    Ok(documents.next_document()?.unwrap_or(Parsed { value: Value::Null, duplicates: Vec::new() }))
}

/// Reads every document of a file but the empty ones.
pub fn parse_all(bytes: &[u8], limits: &Limits) -> Result<Vec<Parsed>, DecodeError> {
    let mut documents = Documents::new(bytes, limits)?;
    let mut parsed = Vec::new();
    while let Some(document) = documents.next_document()? {
        if !document.value.is_null() {
            parsed.push(document);
        }
    }
    Ok(parsed)
}

struct Documents<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    limits: Limits,
    nodes_left: usize,
}

fn syntax(error: &ScanError) -> DecodeError {
    let line = error.marker().line();
    DecodeError::Syntax(format!("error converting YAML to JSON: yaml: line {line}: {}", error.info()))
}

fn fault(what: impl std::fmt::Display) -> DecodeError {
    DecodeError::Syntax(format!("error converting YAML to JSON: {what}"))
}

impl<'a> Documents<'a> {
    fn new(bytes: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| fault("yaml: invalid leading UTF-8 octet"))?;
        Ok(Self { parser: Parser::new_from_str(text), limits: *limits, nodes_left: limits.nodes })
    }

    fn next_document(&mut self) -> Result<Option<Parsed>, DecodeError> {
        let mut builder = None;
        while let Some(event) = self.parser.next_event() {
            let (event, _) = event.map_err(|error| syntax(&error))?;
            match (event, &mut builder) {
                (Event::DocumentStart(_), _) => builder = Some(Builder::new(self.limits, self.nodes_left)),
                (Event::DocumentEnd, Some(done)) => {
                    self.nodes_left = done.nodes_left;
                    return Ok(Some(Parsed {
                        value: done.root.take(),
                        duplicates: std::mem::take(&mut done.duplicates),
                    }));
                }
                (Event::StreamEnd, _) => return Ok(None),
                (event, Some(builder)) => builder.event(event)?,
                _ => {}
            }
        }
        Ok(None)
    }
}

/// A list or object that is not complete.
struct Frame {
    anchor: usize,
    nodes_before: usize,
    content: Content,
}

enum Content {
    List(Vec<Value>),
    Object { members: Map, key: Option<Slot>, merges: Vec<Value> },
}

/// Where an object's next value goes.
enum Slot {
    Member(Key),
    Merge,
}

struct Builder {
    frames: Vec<Frame>,
    root: Value,
    /// Complete anchored values and how many nodes each is.
    anchors: BTreeMap<usize, (Value, usize)>,
    duplicates: Vec<String>,
    limits: Limits,
    nodes_left: usize,
}

/// At most this many repeated members are reported.
const DUPLICATES_MAX: usize = 100;

impl Builder {
    fn new(limits: Limits, nodes_left: usize) -> Self {
        Self {
            frames: Vec::new(),
            root: Value::Null,
            anchors: BTreeMap::new(),
            duplicates: Vec::new(),
            limits,
            nodes_left,
        }
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), DecodeError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(1)?;
                let is_merge = text == "<<" && style == ScalarStyle::Plain && tag.is_none();
                if is_merge && self.expects_key() {
                    return self.attach_key(Slot::Merge);
                }
                let value = scalar(&text, style, tag.as_deref())?;
                self.complete(value, anchor, 1)
            }
            Event::SequenceStart(anchor, _) => self.open(anchor, Content::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.open(anchor, Content::Object { members: Map::new(), key: None, merges: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => {
                let (value, nodes) =
                    self.anchors.get(&anchor).ok_or_else(|| fault("yaml: anchor value contains itself"))?;
                let (value, nodes) = (value.clone(), *nodes);
                self.spend(nodes)?;
                self.complete(value, 0, nodes)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn spend(&mut self, nodes: usize) -> Result<(), DecodeError> {
        let excessive = || {
            DecodeError::Limit("error converting YAML to JSON: yaml: document contains excessive aliasing".to_owned())
        };
        self.nodes_left = self.nodes_left.checked_sub(nodes).ok_or_else(excessive)?;
        Ok(())
    }

    fn open(&mut self, anchor: usize, content: Content) -> Result<(), DecodeError> {
        if self.frames.len() >= self.limits.depth {
            return Err(DecodeError::Limit("error converting YAML to JSON: yaml: exceeded max depth".to_owned()));
        }
        if self.expects_key() {
            return Err(fault("unsupported map key: only scalars can be keys"));
        }
        self.spend(1)?;
        self.frames.push(Frame { anchor, nodes_before: self.nodes_left, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), DecodeError> {
        let Some(frame) = self.frames.pop() else { return Err(fault("yaml: unexpected end of a collection")) };
        let nodes = frame.nodes_before - self.nodes_left + 1;
        let value = match frame.content {
            Content::List(items) => Value::Array(items),
            Content::Object { members, merges, .. } => Value::Object(merged(members, merges)?),
        };
        self.complete(value, frame.anchor, nodes)
    }

    fn expects_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame { content: Content::Object { key: None, .. }, .. }))
    }

    fn complete(&mut self, value: Value, anchor: usize, nodes: usize) -> Result<(), DecodeError> {
        if anchor > 0 {
            self.spend(nodes)?;
            self.anchors.insert(anchor, (value.clone(), nodes));
        }
        if self.expects_key() {
            return self.attach_key(Slot::Member(member_name(value)?));
        }
        match self.frames.last_mut().map(|frame| &mut frame.content) {
            None => self.root = value,
            Some(Content::List(items)) => items.push(value),
            Some(Content::Object { members, key, merges }) => match key.take() {
                Some(Slot::Member(name)) => {
                    members.insert(name, value);
                }
                Some(Slot::Merge) | None => merges.push(value),
            },
        }
        Ok(())
    }

    fn attach_key(&mut self, slot: Slot) -> Result<(), DecodeError> {
        let repeated = match (&slot, self.frames.last()) {
            (Slot::Member(name), Some(Frame { content: Content::Object { members, .. }, .. })) => {
                members.contains_key(name)
            }
            _ => false,
        };
        if let (Slot::Member(name), true) = (&slot, repeated) {
            let path = self.path(name);
            if self.duplicates.len() < DUPLICATES_MAX && !self.duplicates.contains(&path) {
                self.duplicates.push(path);
            }
        }
        if let Some(Frame { content: Content::Object { key, .. }, .. }) = self.frames.last_mut() {
            *key = Some(slot);
        }
        Ok(())
    }

    /// The path of a member of the innermost object.
    fn path(&self, name: &str) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            match &frame.content {
                Content::List(items) => path.push_str(&format!("[{}]", items.len())),
                Content::Object { key: Some(Slot::Member(key)), .. } => push_member(&mut path, key),
                Content::Object { .. } => {}
            }
        }
        push_member(&mut path, name);
        path
    }
}

fn push_member(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// An object with what `<<` brings: its own members win, then the earlier of the merged ones.
fn merged(mut members: Map, merges: Vec<Value>) -> Result<Map, DecodeError> {
    let misfit = || fault("yaml: map merge requires map or sequence of maps as the value");
    for merge in merges {
        let maps = match merge {
            Value::Array(items) => items,
            other => vec![other],
        };
        for map in maps {
            let Value::Object(map) = map else { return Err(misfit()) };
            for (key, value) in map {
                if members.get_key(&key).is_none() {
                    members.push_new(key, value);
                }
            }
        }
    }
    Ok(members)
}

/// The name that a scalar key becomes in JSON.
fn member_name(value: Value) -> Result<Key, DecodeError> {
    match value {
        Value::String(text) => Ok(Key::new(&text)),
        Value::Bool(truth) => Ok(Key::new(if truth { "true" } else { "false" })),
        Value::Int(number) => Ok(Key::from(number.to_string())),
        Value::Float(number) => {
            let mut text = Vec::new();
            write::float(number, &mut text);
            Ok(Key::new(&String::from_utf8_lossy(&text)))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(fault("unsupported map key: only scalars other than null can be keys"))
        }
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, DecodeError> {
    let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    let resolved = match (tag, core) {
        (None, _) if style == ScalarStyle::Plain => plain(text),
        (None, _) | (Some(_), Some("str")) => Value::from(text),
        (Some(_), Some("binary")) => {
            let dense: String = text.split_ascii_whitespace().collect();
            let bytes =
                STANDARD.decode(dense).map_err(|_| fault("yaml: !!binary value contains invalid base64 data"))?;
            Value::from(String::from_utf8_lossy(&bytes))
        }
        (Some(_), Some(wanted @ ("int" | "float" | "bool" | "null"))) => tagged(text, wanted)?,
        // Other tags say nothing: what carries them is text.
        (Some(_), _) => Value::from(text),
    };
    match resolved {
        Value::Float(number) if !number.is_finite() => {
            Err(fault(format!("json: unsupported value: {}", go_infinity(number))))
        }
        value => Ok(value),
    }
}

fn go_infinity(number: f64) -> &'static str {
    match number {
        number if number.is_nan() => "NaN",
        number if number > 0.0 => "+Inf",
        _ => "-Inf",
    }
}

fn tagged(text: &str, wanted: &str) -> Result<Value, DecodeError> {
    let found = plain(text);
    match (wanted, found) {
        ("float", Value::Int(number)) => Ok(Value::Float(number as f64)),
        ("int", value @ Value::Int(_)) | ("float", value @ Value::Float(_)) => Ok(value),
        ("bool", value @ Value::Bool(_)) | ("null", value @ Value::Null) => Ok(value),
        (_, found) => {
            let kind = match found {
                Value::Int(_) => "!!int",
                Value::Float(_) => "!!float",
                Value::Bool(_) => "!!bool",
                Value::Null => "!!null",
                _ => "!!str",
            };
            Err(fault(format!("yaml: cannot decode {kind} `{text}` as a !!{wanted}")))
        }
    }
}

/// What an unquoted scalar means in YAML 1.1 as `go-yaml` reads it. Timestamps stay text.
fn plain(text: &str) -> Value {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        ".nan" | ".NaN" | ".NAN" => Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Value::Float(f64::NEG_INFINITY),
        _ if text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) => number(text),
        _ => Value::from(text),
    }
}

fn number(text: &str) -> Value {
    let dense = if text.contains('_') && !text.starts_with('.') {
        Cow::Owned(text.replace('_', ""))
    } else {
        Cow::Borrowed(text)
    };
    integer(&dense).or_else(|| float(&dense)).unwrap_or_else(|| Value::from(text))
}

/// An integer with Go's prefixes: `0x`, `0o` or `0` for octal, `0b`.
fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let Ok(magnitude) = i128::from_str_radix(digits, radix) else {
        let approximate = digits
            .chars()
            .fold(0.0, |number, digit| number * f64::from(radix) + f64::from(digit.to_digit(radix).unwrap_or(0)));
        return Some(Value::Float(if negative { -approximate } else { approximate }));
    };
    let signed = if negative { -magnitude } else { magnitude };
    Some(i64::try_from(signed).map_or(Value::Float(signed as f64), Value::Int))
}

/// A float in YAML's style: digits with a point or an exponent, or both.
fn float(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_exponent = |text: &str| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        !digits.is_empty() && all_digits(digits)
    };
    let has_digits = !(whole.is_empty() && fraction.is_empty());
    let fits = has_digits && all_digits(whole) && all_digits(fraction) && exponent.is_none_or(is_exponent);
    let number = fits.then(|| text.parse::<f64>().ok()).flatten()?;
    // Go's parser refuses what is out of range; the text then stays text.
    number.is_finite().then(|| whole_or_float(number))
}

/// JSON between YAML and tree writes whole floats without a point.
fn whole_or_float(number: f64) -> Value {
    match Value::Float(number).as_i64() {
        Some(whole) if whole.unsigned_abs() < 1 << 53 => Value::Int(whole),
        _ => Value::Float(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        serde_json::from_str(text).expect("the test's JSON")
    }

    fn check(yaml: &str, expected: &str) {
        let parsed = parse(yaml.as_bytes(), &Limits::default()).unwrap_or_else(|error| panic!("{yaml}: {error}"));
        assert_eq!(parsed.value, json(expected), "{yaml}");
        assert_eq!(parsed.duplicates, Vec::<String>::new(), "{yaml}");
    }

    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        for (yaml, expected) in [
            ("yes", "true"),
            ("Off", "false"),
            ("n", "false"),
            ("'yes'", r#""yes""#),
            ("~", "null"),
            ("", "null"),
            ("0777", "511"),
            ("0o17", "15"),
            ("0x1F", "31"),
            ("-0b101", "-5"),
            ("08", "8"),
            ("1_000", "1000"),
            ("+12", "12"),
            ("1.5", "1.5"),
            ("1e3", "1000"),
            ("1.", "1"),
            (".5", "0.5"),
            ("1e", r#""1e""#),
            ("1.2.3", r#""1.2.3""#),
            ("12:30", r#""12:30""#),
            ("2024-01-01", r#""2024-01-01""#),
            ("2024-01-01T00:00:00Z", r#""2024-01-01T00:00:00Z""#),
            ("9223372036854775807", "9223372036854775807"),
            ("18446744073709551615", "18446744073709551615"),
            ("!!str 5", r#""5""#),
            ("!!int '5'", "5"),
            ("!!float 5", "5"),
            ("!!binary aGk=", r#""hi""#),
            ("!mine x", r#""x""#),
            ("100m", r#""100m""#),
            ("-", "[null]"),
        ] {
            check(yaml, expected);
        }
    }

    #[test]
    fn collections_blocks_and_keys() {
        check("a:\n- 1\n- b: {c: [x, z]}\n", r#"{"a":[1,{"b":{"c":["x","z"]}}]}"#);
        check("1: a\ntrue: b\n1.5: c\n", r#"{"1":"a","true":"b","1.5":"c"}"#);
        check("text: |\n  one\n  two\nfolded: >-\n  one\n  two\n", r#"{"text":"one\ntwo\n","folded":"one two"}"#);
        check(r#"{"a": "é\n"}"#, r#"{"a":"é\n"}"#);
    }

    #[test]
    fn anchors_and_merges() {
        check("a: &x {k: 1, l: 2}\nb: *x\n", r#"{"a":{"k":1,"l":2},"b":{"k":1,"l":2}}"#);
        check("a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  k: 3\n", r#"{"a":{"k":1,"l":2},"b":{"k":3,"l":2}}"#);
        check(
            "a: &x {k: 1}\nb: &y {k: 2, m: 3}\nc:\n  <<: [*x, *y]\n",
            r#"{"a":{"k":1},"b":{"k":2,"m":3},"c":{"k":1,"m":3}}"#,
        );
        check("'<<': 1\n", r#"{"<<":1}"#);
    }

    #[test]
    fn repeated_members_are_reported_with_their_path() {
        let parsed = parse(b"spec:\n  list:\n  - a: 1\n    a: 2\n  x: 1\n  x: 2\n", &Limits::default()).expect("YAML");
        assert_eq!(parsed.duplicates, ["spec.list[0].a", "spec.x"]);
        assert_eq!(parsed.value, json(r#"{"spec":{"list":[{"a":2}],"x":2}}"#));
    }

    #[test]
    fn files_hold_several_documents() {
        let parsed = parse_all(b"---\n# nothing\n---\na: 1\n---\nb: 2\n...\n", &Limits::default()).expect("YAML");
        let values: Vec<Value> = parsed.into_iter().map(|document| document.value).collect();
        assert_eq!(values, [json(r#"{"a":1}"#), json(r#"{"b":2}"#)]);
    }

    #[test]
    fn faults_are_errors() {
        for yaml in ["a: b: c", "{", "a: .inf", "? [x]\n: y", "a: *nowhere", "!!int x", "<<: 1", "a: &x [*x]", "~: 1"] {
            assert!(parse(yaml.as_bytes(), &Limits::default()).is_err(), "{yaml}");
        }
        assert!(parse(b"\xff", &Limits::default()).is_err());
    }

    #[test]
    fn expansion_and_depth_are_bounded() {
        let mut bomb = "a0: &a0 [x]\n".to_owned();
        for level in 1..40 {
            let before = level - 1;
            bomb.push_str(&format!("a{level}: &a{level} [*a{before}, *a{before}]\n"));
        }
        assert!(matches!(parse(bomb.as_bytes(), &Limits::default()), Err(DecodeError::Limit(_))));
        let deep = "- ".repeat(1000);
        assert!(parse(deep.as_bytes(), &Limits::default()).is_err());
    }
}
