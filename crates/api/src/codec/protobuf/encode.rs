//! Tree to protobuf: the bytes that upstream's generated code writes for the same object.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::codec::EncodeError;
use crate::codec::json::{self, Order, is_struct, schema_of};
use crate::codec::slots::Slots;
use crate::codec::time::{self, Moment, Precision};
use crate::schema::{Field, List, MapType, Message, SchemaOr, Type, WireField, WireMember};
use crate::value::{Map, Value};

/// The protobuf form of an object, without envelope. Deterministic: fields by number, maps by key.
pub fn encode(value: &Value, message: &Message) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::with_capacity(1024);
    encode_into(value, message, &mut out)?;
    Ok(out)
}

/// Appends the protobuf form of an object.
pub fn encode_into(value: &Value, message: &Message, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match value {
        Value::Object(members) => object(members, message, out),
        Value::Null => object(&Map::new(), message, out),
        _ => Err(EncodeError { message: message.short_name().to_owned(), field: String::new() }),
    }
}

/// Appends a variable-length integer.
pub(crate) fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

fn tag(number: u32, kind: u32, out: &mut Vec<u8>) {
    write_varint(u64::from(number << 3 | kind), out);
}

fn varint_field(number: u32, value: u64, out: &mut Vec<u8>) {
    tag(number, VARINT, out);
    write_varint(value, out);
}

fn bytes_field(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    tag(number, BYTES, out);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Writes a field whose length is known only after its content: most contents are short, so one byte is kept free and the content
/// moved in the rare case that its length needs more.
fn nested<E>(number: u32, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    tag(number, BYTES, out);
    let length_at = out.len();
    out.push(0);
    content(out)?;
    let len = out.len() - length_at - 1;
    let extra = varint_len(len as u64) - 1;
    if extra > 0 {
        out.resize(out.len() + extra, 0);
        out.copy_within(length_at + 1..length_at + 1 + len, length_at + 1 + extra);
    }
    let mut rest = len as u64;
    for byte in &mut out[length_at..length_at + extra] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[length_at + extra] = rest as u8;
    Ok(())
}

/// A value is not of its type; the field's name is added on the way out.
struct Misfit;

fn object(members: &Map, message: &Message, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    fields(&Slots::new(members, message), message, message.wire(), out)
}

fn fields(slots: &Slots<'_>, message: &Message, wire: &[WireField], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    for WireField { number, member } in wire {
        match member {
            WireMember::Inlined(inner) => nested(*number, out, |out| fields(slots, message, inner, out))?,
            WireMember::Field(at) => {
                let field = &message.fields()[usize::from(*at)];
                let written = match slots.get(usize::from(*at)) {
                    Some(value) => present(*number, value, &field.ty, out),
                    None if field.nullable => Ok(()),
                    None => absent(*number, field, out).map_err(Fault::Inner),
                };
                written.map_err(|fault| fault.at(message, field))?;
            }
        }
    }
    Ok(())
}

/// A fault in the value at hand, or one further in that knows its place.
enum Fault {
    Here(Misfit),
    Inner(EncodeError),
}

impl Fault {
    fn at(self, message: &Message, field: &Field) -> EncodeError {
        match self {
            Fault::Inner(error) => error,
            Fault::Here(Misfit) => {
                EncodeError { message: message.short_name().to_owned(), field: field.name.to_string() }
            }
        }
    }
}

impl From<EncodeError> for Fault {
    fn from(error: EncodeError) -> Self {
        Fault::Inner(error)
    }
}

/// What Go writes for a field that is no pointer and was never set.
fn absent(number: u32, field: &Field, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match &field.ty {
        Type::String => bytes_field(number, b"", out),
        Type::Bool | Type::Int32 | Type::Int64 => varint_field(number, 0, out),
        Type::Double => double_field(number, 0.0, out),
        ty if is_struct(ty) => nested(number, out, |out| zero_struct(ty, out))?,
        _ => {}
    }
    Ok(())
}

/// The content of a struct that was never set.
fn zero_struct(ty: &Type, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match ty {
        Type::Struct(message) => object(&Map::new(), message, out)?,
        Type::Duration | Type::SchemaOr(SchemaOr::Bool, _) => varint_field(1, 0, out),
        Type::Quantity => bytes_field(1, b"0", out),
        Type::IntOrString => int_or_string(0, "", out),
        _ => {}
    }
    Ok(())
}

fn double_field(number: u32, value: f64, out: &mut Vec<u8>) {
    tag(number, FIXED64, out);
    out.extend_from_slice(&value.to_le_bytes());
}

fn present(number: u32, value: &Value, ty: &Type, out: &mut Vec<u8>) -> Result<(), Fault> {
    match (ty, value) {
        (Type::List(list), Value::Array(items)) if !list.wrapped => {
            items.iter().try_for_each(|item| single(number, item, &list.items, out))
        }
        (Type::Map(map), Value::Object(members)) => entries(number, members, map, out),
        _ => single(number, value, ty, out),
    }
}

/// One value with its number; nulls are items and map values.
fn single(number: u32, value: &Value, ty: &Type, out: &mut Vec<u8>) -> Result<(), Fault> {
    match (ty, value) {
        (Type::String, Value::String(text)) => bytes_field(number, text.as_bytes(), out),
        (Type::Bool, Value::Bool(truth)) => varint_field(number, u64::from(*truth), out),
        (Type::Int32 | Type::Int64, Value::Int(integer)) => varint_field(number, *integer as u64, out),
        (Type::Double, Value::Int(integer)) => double_field(number, *integer as f64, out),
        (Type::Double, Value::Float(float)) => double_field(number, *float, out),
        (Type::Bytes, Value::String(text)) => {
            bytes_field(number, &STANDARD.decode(&**text).map_err(|_| Fault::Here(Misfit))?, out)
        }
        (Type::Bytes, Value::Null) => bytes_field(number, b"", out),
        _ => return nested(number, out, |out| content(value, ty, out)),
    }
    Ok(())
}

/// The content of a value that is a message in protobuf.
fn content(value: &Value, ty: &Type, out: &mut Vec<u8>) -> Result<(), Fault> {
    match (ty, value) {
        (Type::Any | Type::Raw | Type::Fields, Value::Null) => {}
        (Type::Any | Type::Raw | Type::Fields, value) => {
            nested(1, out, |out| {
                json::write::any(value, Order::AsGiven, out);
                Ok::<(), Fault>(())
            })?;
        }
        (ty, Value::Null) if is_struct(ty) => zero_struct(ty, out)?,
        (Type::Struct(message), Value::Object(members)) => object(members, message, out)?,
        (Type::Time, Value::String(text)) => moment(text, Precision::Seconds, out)?,
        (Type::MicroTime, Value::String(text)) => moment(text, Precision::Micros, out)?,
        (Type::Duration, Value::String(text)) => {
            varint_field(1, time::parse_duration(text).map_err(|_| Fault::Here(Misfit))? as u64, out);
        }
        (Type::Quantity, Value::String(text)) => bytes_field(1, text.as_bytes(), out),
        (Type::IntOrString, Value::Int(integer)) => {
            int_or_string(i32::try_from(*integer).map_err(|_| Fault::Here(Misfit))?, "", out);
        }
        (Type::IntOrString, Value::String(text)) => {
            varint_field(1, 1, out);
            varint_field(2, 0, out);
            bytes_field(3, text.as_bytes(), out);
        }
        (Type::List(list), value) => wrapped(value, list, out)?,
        (Type::SchemaOr(or, message), value) => schema_or(value, *or, schema_of(ty, message), out)?,
        _ => return Err(Fault::Here(Misfit)),
    }
    Ok(())
}

fn int_or_string(integer: i32, text: &str, out: &mut Vec<u8>) {
    varint_field(1, 0, out);
    varint_field(2, i64::from(integer) as u64, out);
    bytes_field(3, text.as_bytes(), out);
}

fn moment(text: &str, precision: Precision, out: &mut Vec<u8>) -> Result<(), Fault> {
    let moment = Moment::parse(text, precision).map_err(|_| Fault::Here(Misfit))?;
    if moment != Moment::ZERO {
        varint_field(1, moment.seconds as u64, out);
        varint_field(2, if precision == Precision::Micros { u64::from(moment.nanos) } else { 0 }, out);
    }
    Ok(())
}

fn entries(number: u32, members: &Map, map: &MapType, out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut entry = |key: &str, value: &Value| {
        nested(number, out, |out| {
            bytes_field(1, key.as_bytes(), out);
            single(2, value, &map.values, out)
        })
    };
    if members.iter().is_sorted_by(|left, right| left.0 < right.0) {
        return members.iter().try_for_each(|(key, value)| entry(key, value));
    }
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by(|left, right| left.0.cmp(right.0));
    sorted.into_iter().try_for_each(|(key, value)| entry(key, value))
}

fn wrapped(value: &Value, list: &List, out: &mut Vec<u8>) -> Result<(), Fault> {
    match value {
        Value::Null => Ok(()),
        Value::Array(items) => items.iter().try_for_each(|item| single(1, item, &list.items, out)),
        _ => Err(Fault::Here(Misfit)),
    }
}

fn schema_or(value: &Value, or: SchemaOr, schema: &Message, out: &mut Vec<u8>) -> Result<(), Fault> {
    let schema_number = if or == SchemaOr::Bool { 2 } else { 1 };
    match (or, value) {
        (SchemaOr::Bool, Value::Bool(allows)) => varint_field(1, u64::from(*allows), out),
        (_, Value::Object(members)) => {
            if or == SchemaOr::Bool {
                varint_field(1, 1, out);
            }
            nested(schema_number, out, |out| object(members, schema, out))?;
        }
        (SchemaOr::Array, Value::Array(items)) => {
            for item in items {
                nested(2, out, |out| encode_into(item, schema, out))?;
            }
        }
        (SchemaOr::StringArray, Value::Array(items)) => {
            items.iter().try_for_each(|item| single(2, item, &Type::String, out))?;
        }
        (_, Value::Null) => {}
        _ => return Err(Fault::Here(Misfit)),
    }
    Ok(())
}
