//! Fills a tree up to what Go would write: structs that are never left out, and members that are always there.

use super::conform::zero;
use super::json::{is_omitted, schema_of};
use crate::schema::{Field, Message, Type};
use crate::value::{Map, Value};

/// Brings a conformed tree into the form that it has after upstream encoded it: empty structs and zero members appear where Go
/// writes them, empty members vanish where it does not, and members stand in the order of Go's structs. Managed fields are
/// worked out on this form.
pub fn complete(value: &mut Value, message: &Message) {
    if let Value::Object(members) = value {
        object(members, message);
    }
}

fn object(members: &mut Map, message: &Message) {
    let mut given = std::mem::take(members);
    for field in message.fields() {
        let value = given.remove(&field.name).filter(|value| !value.is_null());
        if !is_omitted(field, value.as_ref()) {
            members.push_new(field.name.clone(), completed(value, field));
        }
    }
    if message.is_open() {
        members.extend(given);
    }
}

fn completed(value: Option<Value>, field: &Field) -> Value {
    match value {
        Some(mut value) => {
            typed(&mut value, &field.ty);
            value
        }
        None if field.nullable => Value::Null,
        None => {
            let mut value = zero(&field.ty);
            typed(&mut value, &field.ty);
            value
        }
    }
}

fn typed(value: &mut Value, ty: &Type) {
    match (ty, value) {
        (Type::Struct(message) | Type::SchemaOr(_, message), Value::Object(members)) => {
            object(members, schema_of(ty, message))
        }
        (Type::SchemaOr(_, message), Value::Array(items)) => {
            let schema = schema_of(ty, message);
            items.iter_mut().for_each(|item| complete(item, schema));
        }
        (Type::List(list), Value::Array(items)) => items.iter_mut().for_each(|item| typed(item, &list.items)),
        (Type::Map(map), Value::Object(members)) => members.iter_mut().for_each(|(_, value)| typed(value, &map.values)),
        _ => {}
    }
}
