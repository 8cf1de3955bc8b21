//! One object as bytes: made of its stored form, type and revision spliced in.

use api::codec::transcode::{ProtobufSplicer, protobuf_to_json};
use api::codec::{envelope, json, protobuf};
use api::projection::raw::{put_bytes, put_varint};
use api::schema::Message;
use api::value::Value;
use bytes::Bytes;
use client::Object;

use super::{in_encoding, schema};
use crate::catalog::Served;
use crate::convert;
use crate::forms::JsonForms;
use crate::negotiate::{Encoding, MetaVersion};
use crate::refusal::{Outcome, Refusal};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The revision as it is sent; empty for an object that was not stored.
pub(crate) fn revision_text(revision: u64) -> String {
    if revision == 0 { String::new() } else { revision.to_string() }
}

/// The protobuf message inside a stored body.
pub(crate) fn raw(object: &Object) -> Outcome<&[u8]> {
    let opened = api::projection::envelope(object.body()).map_err(Refusal::internal)?;
    Ok(opened.map_or(&object.body()[..], |envelope| envelope.message))
}

/// A kind as it is served, with what writing its objects takes, looked up once for many.
pub(crate) struct Pen<'a> {
    served: Served,
    api_version: String,
    message: &'static Message,
    /// Where stored bodies take their revision; none where the served version is not the stored one.
    splicer: Option<ProtobufSplicer>,
    forms: &'a JsonForms,
}

impl<'a> Pen<'a> {
    pub(crate) fn new(served: &Served, forms: &'a JsonForms) -> Outcome<Pen<'a>> {
        let message = schema(served.group, served.version, served.kind)?;
        let splicer = match convert::is_stored(served) {
            true => Some(ProtobufSplicer::of(message).map_err(Refusal::internal)?),
            false => None,
        };
        Ok(Pen { served: *served, api_version: served.api_version(), message, splicer, forms })
    }

    /// A whole object.
    pub(crate) fn object(&self, object: &Object, encoding: Encoding) -> Outcome<Vec<u8>> {
        if encoding == Encoding::Protobuf {
            let mut body = Vec::with_capacity(object.body().len() + 32);
            self.message(object, &mut body)?;
            return Ok(envelope::wrap(&self.api_version, self.served.kind, &body));
        }
        if self.splicer.is_none() {
            return in_encoding(json::encode(&convert::tree(object, &self.served)?, self.message), encoding);
        }
        let item = self.form(object)?;
        let mut out = Vec::with_capacity(item.len() + 64);
        let Pen { api_version, served: Served { kind, .. }, .. } = self;
        // Neither needs escapes. Every object has metadata, so more members follow.
        out.extend_from_slice(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",").as_bytes());
        out.extend_from_slice(&item[1..]);
        in_encoding(out, encoding)
    }

    /// Appends the JSON of an object without its type, as items of lists come.
    pub(crate) fn item(&self, object: &Object, out: &mut Vec<u8>) -> Outcome<()> {
        if self.splicer.is_some() {
            out.extend_from_slice(&self.form(object)?);
            return Ok(());
        }
        let mut tree = convert::tree(object, &self.served)?;
        if let Some(members) = tree.as_object_mut() {
            members.remove("kind");
            members.remove("apiVersion");
        }
        json::encode_into(&tree, self.message, out);
        Ok(())
    }

    /// The JSON of an object in its stored version, without type.
    fn form(&self, object: &Object) -> Outcome<Bytes> {
        let make = || -> Outcome<Vec<u8>> {
            let mut form = Vec::with_capacity(object.body().len() * 2);
            let splice = protobuf_to_json(raw(object)?, self.message, &mut form).map_err(Refusal::internal)?;
            let revision = revision_text(object.revision());
            let mut item = Vec::with_capacity(form.len() + revision.len() + 24);
            splice.write(&form, None, &revision, &mut item);
            Ok(item)
        };
        // What has no revision was not stored, and nobody asks for it again.
        if object.revision() == 0 { make().map(Bytes::from) } else { self.forms.get_or_make(object, make) }
    }

    /// Appends the protobuf message of an object, without envelope.
    pub(crate) fn message(&self, object: &Object, out: &mut Vec<u8>) -> Outcome<()> {
        let Some(splicer) = &self.splicer else {
            let tree = convert::tree(object, &self.served)?;
            return protobuf::encode_into(&tree, self.message, out).map_err(Refusal::internal);
        };
        let raw = raw(object)?;
        if object.revision() == 0 {
            out.extend_from_slice(raw);
            return Ok(());
        }
        let splice = splicer.locate(raw).map_err(Refusal::internal)?;
        splice.write(raw, &revision_text(object.revision()), out);
        Ok(())
    }

    /// Appends the protobuf message of an object as an item of a list. Stored bodies are copied once.
    pub(crate) fn message_item(&self, object: &Object, out: &mut Vec<u8>) -> Outcome<()> {
        match &self.splicer {
            Some(splicer) if object.revision() != 0 => {
                let (raw, revision) = (raw(object)?, revision_text(object.revision()));
                let splice = splicer.locate(raw).map_err(Refusal::internal)?;
                put_varint(out, ITEM_TAG);
                put_varint(out, splice.spliced_len(raw, &revision) as u64);
                splice.write(raw, &revision, out);
            }
            _ => {
                let mut message = Vec::with_capacity(object.body().len() + 32);
                self.message(object, &mut message)?;
                put_bytes(out, ITEM, &message);
            }
        }
        Ok(())
    }

    /// How long [`Pen::message`] will be; stored bodies are measured without being copied.
    pub(crate) fn message_len(&self, object: &Object) -> Outcome<usize> {
        match &self.splicer {
            Some(splicer) if object.revision() != 0 => {
                let raw = raw(object)?;
                let splice = splicer.locate(raw).map_err(Refusal::internal)?;
                Ok(splice.spliced_len(raw, &revision_text(object.revision())))
            }
            _ => {
                let mut message = Vec::new();
                self.message(object, &mut message)?;
                Ok(message.len())
            }
        }
    }
}

/// The field of a list that holds its items, and its tag.
pub(crate) const ITEM: u32 = 2;
const ITEM_TAG: u64 = (ITEM as u64) << 3 | 2;

/// `PartialObjectMetadata`.
pub(crate) fn metadata(object: &Object, version: MetaVersion, encoding: Encoding) -> Outcome<Vec<u8>> {
    let tree = object.tree().map_err(Refusal::internal)?;
    match encoding {
        Encoding::Protobuf => {
            let raw = metadata_message(&tree)?;
            Ok(envelope::wrap(version.api_version(), "PartialObjectMetadata", &raw))
        }
        encoding => {
            let mut out = Vec::with_capacity(512);
            metadata_json(&tree, Some(version), &mut out)?;
            in_encoding(out, encoding)
        }
    }
}

fn object_meta() -> Outcome<&'static Message> {
    api::schema::message(OBJECT_META).ok_or_else(|| Refusal::internal("no schema for ObjectMeta"))
}

/// Appends `PartialObjectMetadata` as JSON, of an object's tree.
pub(crate) fn metadata_json(tree: &Value, version: Option<MetaVersion>, out: &mut Vec<u8>) -> Outcome<()> {
    out.push(b'{');
    if let Some(version) = version {
        let head = format!("\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{}\",", version.api_version());
        out.extend_from_slice(head.as_bytes());
    }
    out.extend_from_slice(b"\"metadata\":");
    match tree.get("metadata") {
        Some(metadata) => json::encode_into(metadata, object_meta()?, out),
        None => out.extend_from_slice(b"{}"),
    }
    out.push(b'}');
    Ok(())
}

/// The message of `PartialObjectMetadata`: its metadata as field 1.
pub(crate) fn metadata_message(tree: &Value) -> Outcome<Vec<u8>> {
    let metadata = match tree.get("metadata") {
        Some(metadata) => protobuf::encode(metadata, object_meta()?).map_err(Refusal::internal)?,
        None => Vec::new(),
    };
    let mut out = Vec::with_capacity(metadata.len() + 8);
    api::projection::raw::put_bytes(&mut out, 1, &metadata);
    Ok(out)
}
