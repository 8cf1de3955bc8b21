//! Removes what a custom resource's schema does not describe.

use super::Conformed;
use crate::schema::{Message, Type};
use crate::value::Value;

/// At most this many unknown members are reported, as upstream does; all of them are pruned.
const UNKNOWN_MAX: usize = 100;

/// Removes and reports the members that the schema does not know. Unlike `conform` it minds no types: a custom resource's are
/// checked by its own validation, which words faults differently.
pub fn prune(value: &mut Value, message: &Message) -> Conformed {
    let mut conformed = Conformed::default();
    object(value, message, "", &mut conformed);
    conformed
}

fn object(value: &mut Value, message: &Message, path: &str, conformed: &mut Conformed) {
    let Value::Object(members) = value else { return };
    members.retain(|key, value| {
        let here = || if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        match message.field_of(key) {
            Some(field) => {
                if field.ty.message().is_some() {
                    typed(value, &field.ty, &here(), conformed);
                }
                true
            }
            None if message.is_open() => true,
            None => {
                if conformed.unknown.len() < UNKNOWN_MAX {
                    conformed.unknown.push(here());
                }
                false
            }
        }
    });
}

fn typed(value: &mut Value, ty: &Type, path: &str, conformed: &mut Conformed) {
    match (ty, value) {
        (Type::Struct(message), value) => object(value, message, path, conformed),
        (Type::List(list), Value::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                typed(item, &list.items, &format!("{path}[{index}]"), conformed);
            }
        }
        (Type::Map(map), Value::Object(members)) => {
            for (key, value) in members.iter_mut() {
                typed(value, &map.values, &format!("{path}.{key}"), conformed);
            }
        }
        _ => {}
    }
}
