//! The stored form of objects: upstream's keys and protobuf envelopes.

use api::codec::{envelope, protobuf};
use api::value::Value;
use bytes::Bytes;
use client::Key;

use crate::cache::{ROOT, stored_version};
use crate::catalog::{Served, group_version};
use crate::refusal::{Outcome, Refusal};

/// Where an object lies in the store.
pub(crate) fn store_key(key_prefix: &str, key: &Key) -> Bytes {
    format!("{ROOT}{key_prefix}/{key}").into()
}

/// The bytes that are stored of an object. Equal objects give equal bytes.
pub(crate) fn body(served: &Served, object: &Value) -> Outcome<Bytes> {
    let facts = served.facts();
    let version = stored_version(facts);
    body_of(facts.group, version, facts.kind, object)
}

/// The bytes that are stored of an object of a kind.
pub(crate) fn body_of(group: &str, version: &str, kind: &str, object: &Value) -> Outcome<Bytes> {
    let message =
        api::schema::kind(group, version, kind).ok_or_else(|| Refusal::internal(format!("no schema for {kind}")))?;
    let raw = protobuf::encode(object, message).map_err(Refusal::internal)?;
    Ok(envelope::wrap(&group_version(group, version), kind, &raw).into())
}
