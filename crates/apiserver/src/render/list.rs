//! Lists as bytes. Long ones are produced piece by piece while they are sent, so their memory does not grow with them.

use std::io::Write as _;
use std::sync::Arc;

use api::codec::envelope;
use api::projection::raw::{put_bytes, put_varint};
use bytes::Bytes;
use client::Object;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderValue, Response};
use wire::{Body, BodyError};

use super::body::{ITEM, Pen};
use super::table::{Table, list_meta};
use super::{Include, body, in_encoding};
use crate::answer;
use crate::catalog::Served;
use crate::negotiate::{Encoding, Form, MetaVersion, Shape};
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::room::Place;
use crate::server::ApiServer;
use crate::verbs::list::Page;

/// Lists whose stored bodies are longer together are streamed.
const STREAM_BYTES_MIN: usize = 1 << 20;
/// About how long the pieces are.
const PIECE_BYTES: usize = 64 << 10;

/// The response with a list; the request keeps its place until the body is sent.
pub(crate) fn respond(call: &Call<'_>, page: Page, form: Form, place: Place) -> Outcome<Response<Body>> {
    let stored: usize = page.items.iter().map(|object| object.body().len()).sum();
    let writer = Writer::new(call, page, form, place)?;
    if stored < STREAM_BYTES_MIN || form.encoding == Encoding::Yaml || form.pretty {
        let mut whole = Vec::with_capacity(stored * 2 + 256);
        for piece in writer {
            whole.extend_from_slice(&piece?);
        }
        return Ok(answer::whole(200, form, in_encoding(whole, form.encoding)?));
    }
    let gzip = form.gzip;
    let pieces = writer.map(|piece| piece.map_err(|refusal| BodyError::Produce(refusal.into())));
    let body = if gzip {
        Body::stream(futures_util::stream::iter(Gzip::new(pieces)))
    } else {
        Body::stream(futures_util::stream::iter(pieces))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.encoding.media_type()));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    Ok(response)
}

/// Writes a list piece by piece.
struct Writer {
    server: Arc<ApiServer>,
    page: Page,
    form: Form,
    table: Table,
    next: usize,
    state: State,
    /// Given back with the last piece, or when the client goes.
    _place: Place,
}

#[derive(PartialEq)]
enum State {
    Head,
    Items,
    Over,
}

impl Writer {
    fn new(call: &Call<'_>, page: Page, form: Form, place: Place) -> Outcome<Writer> {
        let version = match form.shape {
            Shape::Table { version } | Shape::Metadata { version } => version,
            Shape::Object => MetaVersion::V1,
        };
        let table = Table { version, include: Include::read(call), with_columns: true };
        Ok(Writer { server: call.server.clone(), page, form, table, next: 0, state: State::Head, _place: place })
    }

    fn list_meta(&self) -> String {
        list_meta(&body::revision_text(self.page.revision), &self.page.continue_token, self.page.remaining)
    }

    fn head(&self, pen: &Pen<'_>, out: &mut Vec<u8>) -> Outcome<()> {
        let served = &self.page.served;
        match (self.form.encoding, self.form.shape) {
            (Encoding::Protobuf, _) => return self.protobuf_head(pen, out),
            (_, Shape::Table { .. }) => self.table.head(served, &self.list_meta(), out),
            (_, shape) => {
                let (kind, api_version) = list_type(served, shape);
                let meta = self.list_meta();
                let head =
                    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":[");
                out.extend_from_slice(head.as_bytes());
            }
        }
        Ok(())
    }

    fn item(&self, pen: &Pen<'_>, index: usize, out: &mut Vec<u8>) -> Outcome<()> {
        let (served, object) = (&self.page.served, &self.page.items[index]);
        if self.form.encoding == Encoding::Protobuf {
            if let Shape::Metadata { .. } = self.form.shape {
                put_bytes(out, ITEM, &metadata_message(object)?);
                return Ok(());
            }
            return pen.message_item(object, out);
        }
        if index > 0 {
            out.push(b',');
        }
        match self.form.shape {
            Shape::Object => pen.item(object, out),
            Shape::Table { .. } => self.table.row(served, object, out),
            Shape::Metadata { version } => {
                body::metadata_json(&object.tree().map_err(Refusal::internal)?, Some(version), out)
            }
        }
    }

    /// How long an item will be.
    fn protobuf_item_len(&self, pen: &Pen<'_>, object: &Object) -> Outcome<usize> {
        match self.form.shape {
            Shape::Metadata { .. } => Ok(metadata_message(object)?.len()),
            _ => pen.message_len(object),
        }
    }

    fn protobuf_head(&self, pen: &Pen<'_>, out: &mut Vec<u8>) -> Outcome<()> {
        let mut meta = Vec::new();
        put_bytes(&mut meta, 2, body::revision_text(self.page.revision).as_bytes());
        put_bytes(&mut meta, 3, self.page.continue_token.as_bytes());
        if let Some(remaining) = self.page.remaining {
            put_varint(&mut meta, 4 << 3);
            put_varint(&mut meta, remaining);
        }
        let mut list = Vec::new();
        put_bytes(&mut list, 1, &meta);
        let mut length = list.len();
        let mut prefix = Vec::new();
        for object in &self.page.items {
            let item = self.protobuf_item_len(pen, object)?;
            prefix.clear();
            put_varint(&mut prefix, item as u64);
            length += 1 + prefix.len() + item;
        }
        let (kind, api_version) = list_type(&self.page.served, self.form.shape);
        envelope::write_head(&api_version, &kind, length, out);
        out.extend_from_slice(&list);
        Ok(())
    }

    fn tail(&self, out: &mut Vec<u8>) {
        match self.form.encoding {
            Encoding::Protobuf => out.extend_from_slice(envelope::TAIL),
            _ => out.extend_from_slice(b"]}"),
        }
    }

    fn piece(&mut self) -> Outcome<Vec<u8>> {
        let mut out = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        let server = self.server.clone();
        let pen = Pen::new(&self.page.served, &server.cache.json)?;
        if self.state == State::Head {
            self.head(&pen, &mut out)?;
            self.state = State::Items;
        }
        while self.next < self.page.items.len() && out.len() < PIECE_BYTES {
            self.item(&pen, self.next, &mut out)?;
            self.next += 1;
        }
        if self.next == self.page.items.len() {
            self.tail(&mut out);
            self.state = State::Over;
        }
        Ok(out)
    }
}

impl Iterator for Writer {
    type Item = Outcome<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Over {
            return None;
        }
        let piece = self.piece();
        if piece.is_err() {
            self.state = State::Over;
        }
        Some(piece.map(Bytes::from))
    }
}

fn metadata_message(object: &Object) -> Outcome<Vec<u8>> {
    body::metadata_message(&object.tree().map_err(Refusal::internal)?)
}

fn list_type(served: &Served, shape: Shape) -> (String, String) {
    match shape {
        Shape::Metadata { version } => ("PartialObjectMetadataList".to_owned(), version.api_version().to_owned()),
        _ => (format!("{}List", served.kind), served.api_version()),
    }
}

/// Compresses pieces on their way.
struct Gzip<I> {
    pieces: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> Gzip<I> {
    fn new(pieces: I) -> Gzip<I> {
        Gzip { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl<I: Iterator<Item = Result<Bytes, BodyError>>> Iterator for Gzip<I> {
    type Item = Result<Bytes, BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let encoder = self.encoder.as_mut()?;
            match self.pieces.next() {
                Some(Ok(piece)) => {
                    encoder.write_all(&piece).expect("writing to memory does not fail");
                    let compressed = std::mem::take(encoder.get_mut());
                    if !compressed.is_empty() {
                        return Some(Ok(compressed.into()));
                    }
                }
                Some(Err(error)) => {
                    self.encoder = None;
                    return Some(Err(error));
                }
                None => {
                    let rest = self.encoder.take()?.finish().expect("writing to memory does not fail");
                    return Some(Ok(rest.into()));
                }
            }
        }
    }
}
