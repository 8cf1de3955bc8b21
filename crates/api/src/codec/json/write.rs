//! Scalars and whole trees as JSON, escaped and formatted as Go's encoder does.

use crate::value::{Map, Value};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Whether a byte cannot stand for itself: quotes, controls, what HTML minds, and the first byte of U+2028 and U+2029.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special[b'<' as usize] = true;
    special[b'>' as usize] = true;
    special[b'&' as usize] = true;
    special[0xe2] = true;
    special
};

/// Appends a quoted text.
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut run = 0;
    let mut at = 0;
    while at < bytes.len() {
        if !SPECIAL[usize::from(bytes[at])] {
            at += 1;
            continue;
        }
        let len = match bytes[at..] {
            [0xe2, 0x80, 0xa8 | 0xa9, ..] => 3,
            [0xe2, ..] => {
                at += 1;
                continue;
            }
            _ => 1,
        };
        out.extend_from_slice(&bytes[run..at]);
        escape(&bytes[at..at + len], out);
        at += len;
        run = at;
    }
    out.extend_from_slice(&bytes[run..]);
    out.push(b'"');
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    match bytes {
        [b'"'] => out.extend_from_slice(b"\\\""),
        [b'\\'] => out.extend_from_slice(b"\\\\"),
        [8] => out.extend_from_slice(b"\\b"),
        [12] => out.extend_from_slice(b"\\f"),
        [b'\n'] => out.extend_from_slice(b"\\n"),
        [b'\r'] => out.extend_from_slice(b"\\r"),
        [b'\t'] => out.extend_from_slice(b"\\t"),
        [byte] => {
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]])
        }
        [_, _, last] => out.extend_from_slice(&[b'\\', b'u', b'2', b'0', b'2', HEX[usize::from(last & 15)]]),
        _ => {}
    }
}

/// Appends an integer.
pub(crate) fn integer(number: i64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut magnitude = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (magnitude % 10) as u8;
        magnitude /= 10;
        if magnitude == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a number: the shortest digits, with an exponent where Go's encoder has one.
pub(crate) fn float(number: f64, out: &mut Vec<u8>) {
    let magnitude = number.abs();
    let text = if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = format!("{number:e}");
        if magnitude < 1.0 { text } else { text.replace('e', "e+") }
    } else {
        number.to_string()
    };
    out.extend_from_slice(text.as_bytes());
}

/// In which order the members of an object without schema are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they are in the tree.
    AsGiven,
    /// Sorted by name, as Go writes maps: for custom resources.
    Sorted,
}

/// The JSON of any tree, without a schema.
pub fn encode_any(value: &Value, order: Order) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    any(value, order, &mut out);
    out
}

/// Appends the JSON of any tree.
pub(crate) fn any(value: &Value, order: Order, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => integer(*number, out),
        Value::Float(number) => float(*number, out),
        Value::String(text) => string(text, out),
        Value::Array(items) => list(items, out, |item, out| any(item, order, out)),
        Value::Object(members) => map(members, order, out, |value, out| any(value, order, out)),
    }
}

/// Appends a list.
pub(crate) fn list<'a>(
    items: impl IntoIterator<Item = &'a Value>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(&Value, &mut Vec<u8>),
) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// Appends an object's members.
pub(crate) fn map(members: &Map, order: Order, out: &mut Vec<u8>, mut write: impl FnMut(&Value, &mut Vec<u8>)) {
    out.push(b'{');
    let mut separator = false;
    let mut member = |key: &str, value: &Value, out: &mut Vec<u8>| {
        if std::mem::replace(&mut separator, true) {
            out.push(b',');
        }
        string(key, out);
        out.push(b':');
        write(value, out);
    };
    if order == Order::AsGiven || members.iter().is_sorted_by(|left, right| left.0 < right.0) {
        members.iter().for_each(|(key, value)| member(key, value, out));
    } else {
        let mut sorted: Vec<_> = members.iter().collect();
        sorted.sort_unstable_by(|left, right| left.0.cmp(right.0));
        sorted.into_iter().for_each(|(key, value)| member(key, value, out));
    }
    out.push(b'}');
}
