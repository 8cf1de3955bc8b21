//! Errors that show values the way Go prints them.

use std::fmt::Write as _;

use super::StrategicPatchError;
use crate::value::{Map, Value};

pub(super) fn type_mismatch(expected: &str, found: &Value) -> StrategicPatchError {
    let found = match found {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    StrategicPatchError::Inapplicable(format!("expected a {expected}, but received a {found}"))
}

pub(super) fn no_merge_key(members: &Map, merge_key: &str) -> StrategicPatchError {
    let members = printed_map(members);
    StrategicPatchError::Inapplicable(format!("map: {members} does not contain declared merge key: {merge_key}"))
}

pub(super) fn unknown_directive(directive: &Value, members: &Map) -> String {
    format!("unknown patch type: {} in map: {}", printed(directive), printed_map(members))
}

/// The items as Go prints a slice with `%v`.
pub(super) fn printed_list(items: &[Value]) -> String {
    let mut out = String::new();
    print_list(items, &mut out);
    out
}

/// The value as Go prints it with `%v`.
pub(super) fn printed(value: &Value) -> String {
    let mut out = String::new();
    print(value, &mut out);
    out
}

fn printed_map(members: &Map) -> String {
    let mut out = String::new();
    print_map(members, &mut out);
    out
}

fn print(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(truth) => write!(out, "{truth}").expect("writing to a string cannot fail"),
        Value::Int(number) => write!(out, "{number}").expect("writing to a string cannot fail"),
        Value::Float(number) => write!(out, "{number}").expect("writing to a string cannot fail"),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => print_list(items, out),
        Value::Object(members) => print_map(members, out),
    }
}

fn print_list(items: &[Value], out: &mut String) {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(' ');
        }
        print(item, out);
    }
    out.push(']');
}

fn print_map(members: &Map, out: &mut String) {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_unstable_by(|left, right| left.0.as_str().cmp(right.0.as_str()));
    out.push_str("map[");
    for (at, (key, value)) in members.into_iter().enumerate() {
        if at > 0 {
            out.push(' ');
        }
        out.push_str(key.as_str());
        out.push(':');
        print(value, out);
    }
    out.push(']');
}
