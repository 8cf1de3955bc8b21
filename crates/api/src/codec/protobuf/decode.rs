//! Protobuf to tree.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::read::{self, IntOrString, Payload, Reader, malformed};
use crate::codec::conform::zero;
use crate::codec::json::{self, is_struct, is_zero, schema_of};
use crate::codec::time::{self, Moment, Precision};
use crate::codec::{DecodeError, Limits, envelope};
use crate::schema::{self, Field, List, MapType, Message, Presence, SchemaOr, Type, WireField, WireMember, find_wire};
use crate::value::{Key, Map, Value};

/// Messages within one another. Schemas of custom resources nest deepest; each level of theirs takes two.
pub(crate) const DEPTH_MAX: usize = 256;

/// Reads a message. Fields may come in any order, of a repeated scalar the last counts, unknown fields are skipped. Empty members
/// that Go writes in protobuf but not in JSON are left out of the tree, and so is a message's own `kind` and `apiVersion`.
pub fn decode(bytes: &[u8], message: &Message) -> Result<Value, DecodeError> {
    let mut members = Map::new();
    object(bytes, message, message.wire(), &mut members, DEPTH_MAX)?;
    Ok(Value::Object(members))
}

pub(crate) fn too_deep() -> DecodeError {
    DecodeError::Limit("exceeded max depth".to_owned())
}

fn object(
    bytes: &[u8],
    message: &Message,
    wire: &[WireField],
    members: &mut Map,
    depth: usize,
) -> Result<(), DecodeError> {
    let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match find_wire(wire, number) {
            None => {}
            Some(WireMember::Inlined(inner)) => object(payload.as_bytes()?, message, inner, members, depth)?,
            Some(WireMember::Field(at)) => field(payload, &message.fields()[usize::from(*at)], members, depth)?,
        }
    }
    Ok(())
}

fn field(payload: Payload<'_>, field: &Field, members: &mut Map, depth: usize) -> Result<(), DecodeError> {
    match &field.ty {
        Type::List(list) if !list.wrapped => {
            let item = single(payload, &list.items, Value::Null, depth)?;
            slot(members, &field.name, Value::Array(Vec::new())).as_array_mut().expect("made a list").push(item);
        }
        Type::Map(map) => {
            let (key, value) = entry(payload, map, depth)?;
            slot(members, &field.name, Value::object()).as_object_mut().expect("made an object").insert(key, value);
        }
        ty => {
            let before = members.get_key(&field.name).is_some().then(|| members.get_or_last_mut(&field.name).take());
            let is_new = before.is_none();
            let value = single(payload, ty, before.unwrap_or_default(), depth)?;
            match (is_new, value.is_null() || is_implied(field, &value)) {
                (true, true) => {}
                (true, false) => members.push_new(field.name.clone(), value),
                (false, true) => drop(members.remove(&field.name)),
                (false, false) => *members.get_or_last_mut(&field.name) = value,
            }
        }
    }
    Ok(())
}

/// The member's value, inserted as `fresh` if it is new.
fn slot<'a>(members: &'a mut Map, name: &Key, fresh: Value) -> &'a mut Value {
    // Fields of one number stand together, so that it is the last one or a new one.
    if members.last_key() != Some(name) && members.get_key(name).is_none() {
        members.push_new(name.clone(), fresh);
    }
    members.get_or_last_mut(name)
}

/// Whether the value is one that Go writes in protobuf though nothing was set.
fn is_implied(field: &Field, value: &Value) -> bool {
    !field.nullable && field.presence == Presence::OmitEmpty && !is_struct(&field.ty) && is_zero(value)
}

/// One value. A struct that came before is merged with it.
pub(crate) fn single(payload: Payload<'_>, ty: &Type, before: Value, depth: usize) -> Result<Value, DecodeError> {
    Ok(match ty {
        Type::String => Value::from(text(payload.as_bytes()?)),
        Type::Bool => Value::Bool(payload.as_varint()? != 0),
        Type::Int32 => Value::Int(i64::from(payload.as_varint()? as i32)),
        Type::Int64 => Value::Int(payload.as_varint()? as i64),
        Type::Double => Value::Float(payload.as_double()?),
        Type::Bytes => Value::from(STANDARD.encode(payload.as_bytes()?)),
        Type::Time => {
            moment(payload.as_bytes()?, Precision::Seconds)?.map_or(Value::Null, |m| m.text(Precision::Seconds).into())
        }
        Type::MicroTime => {
            moment(payload.as_bytes()?, Precision::Micros)?.map_or(Value::Null, |m| m.text(Precision::Micros).into())
        }
        Type::Duration => Value::from(time::duration_text(read::two_integers(payload.as_bytes()?)?.0)),
        Type::Quantity => Value::from(text(read::only_bytes(payload.as_bytes()?)?.unwrap_or(b"0"))),
        Type::IntOrString => match read::int_or_string(payload.as_bytes()?)? {
            IntOrString::Int(number) => Value::Int(number.into()),
            IntOrString::String(bytes) => Value::from(text(bytes)),
        },
        Type::Any | Type::Raw | Type::Fields => read::only_bytes(payload.as_bytes()?)?.map_or(Ok(Value::Null), raw)?,
        Type::Struct(message) => {
            let mut members = if let Value::Object(members) = before { members } else { Map::new() };
            object(payload.as_bytes()?, message, message.wire(), &mut members, depth)?;
            Value::Object(members)
        }
        Type::List(list) => wrapped(payload.as_bytes()?, list, depth)?,
        Type::SchemaOr(or, message) => schema_or(payload.as_bytes()?, *or, schema_of(ty, message), depth)?,
        Type::Map(_) => return Err(malformed("a map within a list")),
    })
}

/// Text that is not UTF-8 is repaired: no JSON could carry it.
pub(crate) fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A time; none where it is Go's zero time.
pub(crate) fn moment(bytes: &[u8], precision: Precision) -> Result<Option<Moment>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (seconds, nanos) = read::two_integers(bytes)?;
    let nanos = if precision == Precision::Micros { nanos } else { 0 };
    let moment = Moment::from_parts(seconds, nanos).ok_or_else(|| malformed("time out of range"))?;
    Ok((moment != Moment::ZERO).then_some(moment))
}

/// The tree of raw bytes: JSON, or a built-in object in its envelope.
fn raw(bytes: &[u8]) -> Result<Value, DecodeError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    if !bytes.starts_with(envelope::MAGIC) {
        return json::parse(bytes, &Limits::default()).map(|parsed| parsed.value);
    }
    let unknown = envelope::unwrap(bytes)?;
    let (group, version) = unknown.group_version();
    let message = schema::kind(group, version, &unknown.kind).ok_or_else(|| {
        DecodeError::Syntax(format!("no kind {:?} is registered for version {:?}", unknown.kind, unknown.api_version))
    })?;
    let mut value = decode(unknown.raw, message)?;
    if let Value::Object(members) = &mut value {
        members.insert("kind", unknown.kind.as_ref());
        members.insert("apiVersion", unknown.api_version.as_ref());
    }
    Ok(value)
}

fn entry(payload: Payload<'_>, map: &MapType, depth: usize) -> Result<(Key, Value), DecodeError> {
    let mut reader = Reader::new(payload.as_bytes()?);
    let (mut key, mut value) = (None, None);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => key = Some(Key::new(&text(payload.as_bytes()?))),
            2 => value = Some(single(payload, &map.values, Value::Null, depth)?),
            _ => {}
        }
    }
    let value = value.unwrap_or_else(|| match map.values {
        Type::Bytes => Value::from(""),
        ref values => zero(values),
    });
    Ok((key.unwrap_or_else(|| Key::new("")), value))
}

/// A message that holds nothing but a list.
fn wrapped(bytes: &[u8], list: &List, depth: usize) -> Result<Value, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut items = Vec::new();
    while let Some((number, payload)) = reader.next()? {
        if number == 1 {
            items.push(single(payload, &list.items, Value::Null, depth)?);
        }
    }
    Ok(Value::Array(items))
}

fn schema_or(bytes: &[u8], or: SchemaOr, schema: &Message, depth: usize) -> Result<Value, DecodeError> {
    let mut reader = Reader::new(bytes);
    let (mut allows, mut found, mut items) = (false, None, Vec::new());
    let nested = |payload: Payload<'_>, before: Option<Map>| {
        let mut members = before.unwrap_or_default();
        object(payload.as_bytes()?, schema, schema.wire(), &mut members, depth.checked_sub(1).ok_or_else(too_deep)?)?;
        Ok::<Map, DecodeError>(members)
    };
    while let Some((number, payload)) = reader.next()? {
        match (or, number) {
            (SchemaOr::Bool, 1) => allows = payload.as_varint()? != 0,
            (SchemaOr::Bool, 2) | (SchemaOr::Array | SchemaOr::StringArray, 1) => {
                found = Some(nested(payload, found.take())?)
            }
            (SchemaOr::Array, 2) => items.push(Value::Object(nested(payload, None)?)),
            (SchemaOr::StringArray, 2) => items.push(Value::from(text(payload.as_bytes()?))),
            _ => {}
        }
    }
    Ok(match found {
        _ if !items.is_empty() => Value::Array(items),
        Some(members) => Value::Object(members),
        None if or == SchemaOr::Bool => Value::Bool(allows),
        None => Value::Null,
    })
}
