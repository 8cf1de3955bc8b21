//! Tree to JSON by the schema: fields in the order of Go's structs, left out or written as Go's encoder would.

use super::write::{self, Order};
use crate::codec::slots::Slots;
use crate::schema::{Field, Message, Presence, SchemaOr, Type};
use crate::value::{Map, Value};

/// The JSON of an object. Members that the schema does not know are not written.
pub fn encode(value: &Value, message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    encode_into(value, message, &mut out);
    out
}

/// Appends the JSON of an object.
pub fn encode_into(value: &Value, message: &Message, out: &mut Vec<u8>) {
    static EMPTY: Map = Map::new();
    object(value.as_object().unwrap_or(&EMPTY), message, out);
}

fn object(members: &Map, message: &Message, out: &mut Vec<u8>) {
    let slots = Slots::new(members, message);
    out.push(b'{');
    let start = out.len();
    for (at, field) in message.fields().iter().enumerate() {
        let value = slots.get(at);
        if is_omitted(field, value) {
            continue;
        }
        if out.len() > start {
            out.push(b',');
        }
        name(field, out);
        match value {
            Some(value) => typed(value, &field.ty, out),
            None => absent(field, out),
        }
    }
    out.push(b'}');
}

/// Appends `"name":`. Names of fields need no escaping.
pub(crate) fn name(field: &Field, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(field.name.as_str().as_bytes());
    out.extend_from_slice(b"\":");
}

/// Whether Go's encoder leaves the field out. `value` is never null.
pub(crate) fn is_omitted(field: &Field, value: Option<&Value>) -> bool {
    if field.presence == Presence::Always {
        return false;
    }
    let Some(value) = value else {
        return field.nullable || field.presence == Presence::OmitZero || !is_struct(&field.ty);
    };
    if field.nullable {
        return false;
    }
    match value {
        Value::Object(members) => {
            members.is_empty() && (matches!(field.ty, Type::Map(_)) || field.presence == Presence::OmitZero)
        }
        other => is_zero(other) && !is_struct(&field.ty),
    }
}

/// Whether a scalar or list is what Go calls zero.
pub(crate) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Int(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(_) => false,
    }
}

/// Whether Go holds the type in a struct, which `omitempty` never omits.
pub(crate) fn is_struct(ty: &Type) -> bool {
    match ty {
        Type::Struct(_) | Type::Time | Type::MicroTime | Type::Duration | Type::Quantity | Type::IntOrString => true,
        Type::Raw | Type::Fields | Type::SchemaOr(..) => true,
        Type::String | Type::Bool | Type::Int32 | Type::Int64 | Type::Double | Type::Bytes | Type::Any => false,
        Type::List(_) | Type::Map(_) => false,
    }
}

/// Appends what Go writes for a field that was never set.
pub(crate) fn absent(field: &Field, out: &mut Vec<u8>) {
    if field.nullable { out.extend_from_slice(b"null") } else { zero(&field.ty, out) }
}

/// Appends a type's zero value.
pub(crate) fn zero(ty: &Type, out: &mut Vec<u8>) {
    let text: &[u8] = match ty {
        Type::String => b"\"\"",
        Type::Bool | Type::SchemaOr(SchemaOr::Bool, _) => b"false",
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => b"0",
        Type::Duration => b"\"0s\"",
        Type::Quantity => b"\"0\"",
        Type::Struct(message) => return object(&Map::new(), message, out),
        Type::Time | Type::MicroTime | Type::Bytes | Type::Any | Type::Raw | Type::Fields => b"null",
        Type::List(_) | Type::Map(_) | Type::SchemaOr(..) => b"null",
    };
    out.extend_from_slice(text);
}

/// Appends a value of that type.
pub(crate) fn typed(value: &Value, ty: &Type, out: &mut Vec<u8>) {
    match (ty, value) {
        (Type::Any | Type::Raw | Type::Fields, value) => write::any(value, Order::AsGiven, out),
        (_, Value::Null) => zero(ty, out),
        (Type::Struct(message) | Type::SchemaOr(_, message), Value::Object(members)) => {
            object(members, schema_of(ty, message), out)
        }
        (Type::SchemaOr(SchemaOr::Array, message), Value::Array(items)) => {
            let schema = schema_of(ty, message);
            write::list(items, out, |item, out| encode_into(item, schema, out));
        }
        (Type::List(list), Value::Array(items)) => write::list(items, out, |item, out| typed(item, &list.items, out)),
        (Type::Map(map), Value::Object(members)) => {
            write::map(members, Order::Sorted, out, |value, out| typed(value, &map.values, out));
        }
        (_, value) => write::any(value, Order::AsGiven, out),
    }
}

/// The message that describes an object found at `ty`: for a schema-or-something the schema, which is the wrapper's own field.
pub(crate) fn schema_of<'a>(ty: &Type, message: &'a Message) -> &'a Message {
    match ty {
        Type::SchemaOr(..) => message.field("schema").and_then(Field::message).unwrap_or(message),
        _ => message,
    }
}
