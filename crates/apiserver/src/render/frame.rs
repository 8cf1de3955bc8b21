//! Watch events as bytes: one line of JSON each, or length-prefixed protobuf.

use api::codec::envelope;
use api::projection::raw::put_bytes;
use api::status::Status;
use bytes::Bytes;
use client::Object;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use wire::{Body, BodyError};

use super::table::Table;
use super::{Include, body};
use crate::catalog::Served;
use crate::convert;
use crate::forms::{FormKey, JsonForms};
use crate::negotiate::{Encoding, Form, Shape};
use crate::refusal::Outcome;
use crate::room::Place;
use crate::verbs::watch::{Item, Stream};

/// What a client learns by, that all initial events were sent.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The response that streams a watch.
pub(crate) fn respond(include: Include, stream: Stream, form: Form, place: Place) -> Response<Body> {
    let frames = Frames { stream, form, include, with_columns: true, _place: place };
    let pieces = futures_util::stream::unfold(frames, |mut frames| async move {
        let frame = frames.next().await?;
        Some((Ok::<_, BodyError>(frame), frames))
    });
    let mut response = Response::new(Body::stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.encoding.stream_media_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

struct Frames {
    stream: Stream,
    form: Form,
    include: Include,
    with_columns: bool,
    /// Given back when the client goes.
    _place: Place,
}

impl Frames {
    async fn next(&mut self) -> Option<Bytes> {
        let item = self.stream.next().await?;
        let served = self.stream.served;
        let frame = match &item {
            Item::Object { told, object, event } => {
                let (form, told) = (self.form, *told);
                let table = self.table();
                let forms = self.stream.forms();
                let make = || wrap(told.as_str(), shown(&served, object, form, table, forms)?, form.encoding);
                // Tables hold ages and are told with or without columns, so their frames are made for each watch.
                match event {
                    Some(event) if !matches!(form.shape, Shape::Table { .. }) => {
                        let converted = !convert::is_stored(&served);
                        event
                            .forms
                            .get_or_make(FormKey { told, encoding: form.encoding, shape: form.shape, converted }, make)
                    }
                    _ => make().map(Bytes::from),
                }
            }
            Item::Bookmark { revision, initial_events_end } => {
                bookmark(&served, *revision, *initial_events_end, self.form.encoding).map(Bytes::from)
            }
            Item::Error(status) => Ok(error(status, self.form.encoding).into()),
        };
        Some(frame.unwrap_or_else(|refusal| error(&refusal.0, self.form.encoding).into()))
    }

    /// How the next table is written: only the first tells its columns.
    fn table(&mut self) -> Option<Table> {
        let Shape::Table { version } = self.form.shape else { return None };
        let with_columns = std::mem::replace(&mut self.with_columns, false);
        Some(Table { version, include: self.include, with_columns })
    }
}

fn shown(served: &Served, object: &Object, form: Form, table: Option<Table>, forms: &JsonForms) -> Outcome<Vec<u8>> {
    match (form.shape, table) {
        (Shape::Metadata { version }, _) => body::metadata(object, version, form.encoding),
        (_, Some(table)) => table.of_one(served, object),
        _ => body::Pen::new(served, forms)?.object(object, form.encoding),
    }
}

fn wrap(told: &str, object: Vec<u8>, encoding: Encoding) -> Outcome<Vec<u8>> {
    Ok(framed(told, &object, encoding))
}

fn framed(told: &str, object: &[u8], encoding: Encoding) -> Vec<u8> {
    if encoding == Encoding::Protobuf {
        let mut raw_extension = Vec::with_capacity(object.len() + 8);
        put_bytes(&mut raw_extension, 1, object);
        let mut event = Vec::with_capacity(raw_extension.len() + 24);
        put_bytes(&mut event, 1, told.as_bytes());
        put_bytes(&mut event, 2, &raw_extension);
        let length = u32::try_from(event.len()).expect("an object is at most a few megabytes");
        return [&length.to_be_bytes()[..], &event].concat();
    }
    let mut line = Vec::with_capacity(object.len() + 32);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(told.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object.strip_suffix(b"\n").unwrap_or(object));
    line.extend_from_slice(b"}\n");
    line
}

fn error(status: &Status, encoding: Encoding) -> Vec<u8> {
    framed("ERROR", &super::status(status, encoding), encoding)
}

fn bookmark(served: &Served, revision: u64, initial_events_end: bool, encoding: Encoding) -> Outcome<Vec<u8>> {
    let api_version = served.api_version();
    if encoding == Encoding::Protobuf {
        let mut meta = Vec::new();
        put_bytes(&mut meta, 6, revision.to_string().as_bytes());
        if initial_events_end {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, INITIAL_EVENTS_END.as_bytes());
            put_bytes(&mut entry, 2, b"true");
            put_bytes(&mut meta, 12, &entry);
        }
        let mut object = Vec::new();
        put_bytes(&mut object, 1, &meta);
        return Ok(framed("BOOKMARK", &envelope::wrap(&api_version, served.kind, &object), encoding));
    }
    let annotations = if initial_events_end {
        format!(",\"annotations\":{{\"{INITIAL_EVENTS_END}\":\"true\"}}")
    } else {
        String::new()
    };
    let kind = served.kind;
    let object = format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{{\"resourceVersion\":\"{revision}\",\"creationTimestamp\":null{annotations}}}}}"
    );
    Ok(framed("BOOKMARK", object.as_bytes(), encoding))
}
