//! One object as bytes: transcoded from its stored form, type and revision spliced in.

use api::codec::transcode::{ProtobufSplice, protobuf_to_json};
use api::codec::{envelope, json, protobuf};
use api::schema::Message;
use api::value::Value;
use client::Object;

use super::{in_encoding, schema};
use crate::catalog::Served;
use crate::convert;
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

/// A whole object.
pub(crate) fn object(served: &Served, object: &Object, encoding: Encoding) -> Outcome<Vec<u8>> {
    let message = schema(served.group, served.version, served.kind)?;
    match encoding {
        Encoding::Protobuf => {
            let mut body = Vec::with_capacity(object.body().len() + 32);
            protobuf_message(served, object, message, &mut body)?;
            Ok(envelope::wrap(&served.api_version(), served.kind, &body))
        }
        encoding => {
            let mut out = Vec::with_capacity(object.body().len() * 2);
            json_object(served, object, message, true, &mut out)?;
            in_encoding(out, encoding)
        }
    }
}

/// Appends the JSON of an object; items of lists come without type.
pub(crate) fn json_object(
    served: &Served,
    object: &Object,
    message: &Message,
    typed: bool,
    out: &mut Vec<u8>,
) -> Outcome<()> {
    if !convert::is_stored(served) {
        let mut tree = convert::tree(object, served)?;
        if !typed && let Some(members) = tree.as_object_mut() {
            members.remove("kind");
            members.remove("apiVersion");
        }
        json::encode_into(&tree, message, out);
        return Ok(());
    }
    let mut form = Vec::with_capacity(object.body().len() * 2);
    let splice = protobuf_to_json(raw(object)?, message, &mut form).map_err(Refusal::internal)?;
    let api_version = served.api_version();
    let type_meta = typed.then_some((api_version.as_str(), served.kind));
    splice.write(&form, type_meta, &revision_text(object.revision()), out);
    Ok(())
}

/// Appends the protobuf message of an object, without envelope.
pub(crate) fn protobuf_message(served: &Served, object: &Object, message: &Message, out: &mut Vec<u8>) -> Outcome<()> {
    if !convert::is_stored(served) {
        let tree = convert::tree(object, served)?;
        return protobuf::encode_into(&tree, message, out).map_err(Refusal::internal);
    }
    let raw = raw(object)?;
    if object.revision() == 0 {
        out.extend_from_slice(raw);
        return Ok(());
    }
    let splice = ProtobufSplice::locate(raw, message).map_err(Refusal::internal)?;
    splice.write(raw, &revision_text(object.revision()), out);
    Ok(())
}

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
