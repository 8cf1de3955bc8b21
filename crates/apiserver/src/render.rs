//! Objects, lists and streams of events as bytes, in every form that clients ask for.

pub(crate) mod body;
pub(crate) mod frame;
pub(crate) mod list;
pub(crate) mod table;
pub(crate) mod yaml;

use std::io::Write as _;

use api::codec::{envelope, json, protobuf};
use api::schema::Message;
use api::status::Status;
use api::value::Value;
use client::Object;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Response;
use wire::Body;

use crate::catalog::{Served, group_version};
use crate::negotiate::{Encoding, Form, Shape};
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::room::Place;
use crate::verbs::list::Page;
use crate::verbs::watch::Stream;

/// How much of an object a table's row carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// Reads `includeObject`.
    pub(crate) fn read(call: &Call<'_>) -> Include {
        match call.query.get("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        }
    }
}

/// One object.
pub(crate) fn object(call: &Call<'_>, served: &Served, object: &Object, form: Form) -> Outcome<Vec<u8>> {
    match form.shape {
        Shape::Object => body::Pen::new(served, &call.server.cache.json)?.object(object, form.encoding),
        Shape::Metadata { version } => body::metadata(object, version, form.encoding),
        Shape::Table { version } => {
            let table = table::Table { version, include: Include::read(call), with_columns: true };
            let json = table.of_one(served, object)?;
            in_encoding(json, form.encoding)
        }
    }
}

/// A list; the request keeps its place until all of it is sent.
pub(crate) fn list(call: &Call<'_>, page: Page, form: Form, place: Place) -> Outcome<Response<Body>> {
    list::respond(call, page, form, place)
}

/// A stream of events; the request keeps its place until the stream ends.
pub(crate) fn watch(call: &Call<'_>, stream: Stream, form: Form, place: Place) -> Response<Body> {
    frame::respond(Include::read(call), stream, form, place)
}

/// A tree that is no stored object.
pub(crate) fn tree(group: &str, version: &str, kind: &str, tree: &Value, encoding: Encoding) -> Outcome<Vec<u8>> {
    let message = schema(group, version, kind)?;
    match encoding {
        Encoding::Protobuf => {
            let raw = protobuf::encode(tree, message).map_err(Refusal::internal)?;
            Ok(envelope::wrap(&group_version(group, version), kind, &raw))
        }
        encoding => in_encoding(json::encode(tree, message), encoding),
    }
}

/// A `Status`.
pub(crate) fn status(status: &Status, encoding: Encoding) -> Vec<u8> {
    let json = serde_json::to_vec(status).expect("a status is JSON");
    if encoding == Encoding::Json {
        return json;
    }
    let encoded = serde_json::from_slice::<Value>(&json).map_err(Refusal::internal);
    let encoded = encoded.and_then(|value| tree("", "v1", "Status", &value, encoding));
    encoded.unwrap_or(json)
}

/// The schema of a kind.
pub(crate) fn schema(group: &str, version: &str, kind: &str) -> Outcome<&'static Message> {
    api::schema::kind(group, version, kind).ok_or_else(|| Refusal::internal(format!("no schema for {kind}")))
}

/// JSON, or the YAML of it.
pub(crate) fn in_encoding(json: Vec<u8>, encoding: Encoding) -> Outcome<Vec<u8>> {
    if encoding != Encoding::Yaml {
        return Ok(json);
    }
    let value: serde_json::Value = serde_json::from_slice(&json).map_err(Refusal::internal)?;
    Ok(yaml::of(&value))
}

/// Compressed bytes.
pub(crate) fn gzipped(bytes: &[u8]) -> Vec<u8> {
    // The fastest level, as upstream: the gain of the others is not worth a core.
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("writing to memory does not fail")
}

/// Compact JSON with line breaks and two spaces a level, as Go's encoder indents.
pub(crate) fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 3 / 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let mut bytes = json.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_string {
            out.push(byte);
            (in_string, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                if matches!(bytes.peek(), Some(b'}' | b']')) {
                    out.extend(bytes.next());
                    continue;
                }
                depth += 1;
                new_line(&mut out, depth);
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                new_line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b'\n' => {}
            other => out.push(other),
        }
    }
    out
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.resize(out.len() + 2 * depth, b' ');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_as_go() {
        let compact = br#"{"a":"x:{,\"","b":{},"c":[1,{"d":[]}]}"#;
        let expected =
            "{\n  \"a\": \"x:{,\\\"\",\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \"d\": []\n    }\n  ]\n}";
        assert_eq!(String::from_utf8(indented(compact)).expect("text"), expected);
    }
}
