//! Checks a decoded tree against a schema as Go's decoder does, and brings its special values into their one form.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::DecodeError;
use super::time::{self, Moment, Precision};
use crate::quantity;
use crate::schema::{Field, List, MapType, Message, SchemaOr, Type};
use crate::value::{Key, Map, Value};

/// Padding is required, but leftover bits may be anything, as in Go.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// What a check found besides faults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conformed {
    /// The paths of members that the schema does not know, in document order, at most a hundred; they are no longer in the tree.
    pub unknown: Vec<String>,
}

/// At most this many unknown members are reported, as upstream does; all of them are pruned.
const UNKNOWN_MAX: usize = 100;

/// Brings a tree into the form that the schema describes: unknown members are pruned and reported; nulls vanish where they mean
/// "not given"; times, quantities and durations become canonical. The first value of a wrong type is an error, worded as Go's.
pub fn conform(value: &mut Value, message: &Message) -> Result<Conformed, DecodeError> {
    conform_as(value, message, Reader::Decoder)
}

/// As [`conform`] for what a strategic merge patch made: upstream brings that into its type by another way, which is
/// worded differently and takes whole floats for integers.
pub fn conform_converted(value: &mut Value, message: &Message) -> Result<Conformed, DecodeError> {
    conform_as(value, message, Reader::Converter)
}

fn conform_as(value: &mut Value, message: &Message, reader: Reader) -> Result<Conformed, DecodeError> {
    let mut check = Check { conformed: Conformed::default(), silent: 0, reader };
    match value {
        Value::Object(members) => check.object(members, message, &Place::Root)?,
        other => return Err(mismatch(other, &Place::Root, message.go_name())),
    }
    Ok(check.conformed)
}

/// What strict field validation complains of. Of a JSON text it is told in the text's order, as upstream tells it; without one
/// (YAML), repeated members come first.
pub fn strict_faults(json: Option<&[u8]>, unknown: &[String], duplicates: &[String]) -> Vec<String> {
    if unknown.is_empty() && duplicates.is_empty() {
        return Vec::new();
    }
    let mut faults = match json {
        Some(text) => super::json::faults(text, &super::Limits::default(), unknown),
        None => {
            let duplicates = duplicates.iter().map(|path| format!("duplicate field {path:?}"));
            duplicates.chain(unknown.iter().map(|path| format!("unknown field {path:?}"))).collect()
        }
    };
    faults.truncate(UNKNOWN_MAX);
    faults
}

/// The error for strict field validation, if there is anything to complain of.
pub fn strict_error(faults: &[String]) -> Option<String> {
    (!faults.is_empty()).then(|| format!("strict decoding error: {}", faults.join(", ")))
}

/// What upstream reads a tree with, which decides how it words a value of a wrong type.
#[derive(Clone, Copy, PartialEq)]
enum Reader {
    /// Go's JSON decoder.
    Decoder,
    /// The converter of trees to typed objects.
    Converter,
}

struct Check {
    conformed: Conformed,
    /// Above zero inside values that Go decodes by themselves, where strictness does not reach.
    silent: usize,
    reader: Reader,
}

/// Where in the tree the check is; lives on the stack.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root,
    Field { outer: &'a Place<'a>, message: &'a Message, field: &'a Field },
    Member { outer: &'a Place<'a>, key: &'a Key },
    Item { outer: &'a Place<'a>, index: usize },
}

impl<'a> Place<'a> {
    /// The path with indexes and map keys, as strict errors show it.
    fn path(&self) -> String {
        match self {
            Place::Root => String::new(),
            Place::Field { outer, field, .. } => joined(outer.path(), &field.name),
            Place::Member { outer, key } => joined(outer.path(), key),
            Place::Item { outer, index } => format!("{}[{index}]", outer.path()),
        }
    }

    /// The path of fields alone, as type errors show it.
    fn field_path(&self) -> String {
        match self {
            Place::Root => String::new(),
            Place::Field { outer, field, .. } => joined(outer.field_path(), &field.name),
            Place::Member { outer, .. } | Place::Item { outer, .. } => outer.field_path(),
        }
    }

    /// The struct and field that hold the value.
    fn holder(&self) -> Option<(&'a Message, &'a Field)> {
        match self {
            Place::Root => None,
            Place::Field { message, field, .. } => Some((message, field)),
            Place::Member { outer, .. } | Place::Item { outer, .. } => outer.holder(),
        }
    }
}

fn joined(mut path: String, name: &str) -> String {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
    path
}

/// Go's error for a value of the wrong type.
fn mismatch(value: &Value, place: &Place<'_>, go_type: &str) -> DecodeError {
    let found = match value {
        Value::Int(number) => format!("number {number}"),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => format!("number {number:.1}"),
        Value::Float(number) => format!("number {number}"),
        other => other.type_name().to_owned(),
    };
    // Go names a number's text only where the target is a number too.
    let is_number = matches!(go_type, "int32" | "int64" | "float64");
    let found = if is_number { found.as_str() } else { value.type_name() };
    DecodeError::Type(match place.holder() {
        None => format!("json: cannot unmarshal {found} into Go value of type {go_type}"),
        Some((message, _)) => {
            let (holder, path) = (message.short_name(), place.field_path());
            format!("json: cannot unmarshal {found} into Go struct field {holder}.{path} of type {go_type}")
        }
    })
}

/// The converter's error for a value of the wrong type. Upstream: `k8s.io/apimachinery/pkg/runtime/converter.go`.
fn unconvertible(value: &Value, ty: &Type, go_type: &str) -> String {
    let kind = match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    };
    match (ty, value) {
        (Type::Struct(_), _) => format!("cannot restore struct from: {kind}"),
        (Type::Map(_), _) => format!("cannot restore map from {kind}"),
        (Type::List(_) | Type::Bytes, _) => format!("cannot restore slice from {kind}"),
        // Go converts numbers to text (as code points) and to integers (by cutting), so its converter names both types.
        (Type::String, Value::Int(_)) | (Type::Int32 | Type::Int64, Value::Float(_)) => {
            format!("cannot convert {kind} to {go_type}")
        }
        (Type::String, _) => "unrecognized type: string".to_owned(),
        (ty, _) => format!("unrecognized type: {}", ty.go_type()),
    }
}

/// Go's error for a value that its type decodes by itself, where the place is not known.
fn lone_mismatch(value: &Value, go_type: &str) -> DecodeError {
    mismatch(value, &Place::Root, go_type)
}

impl Check {
    fn object(&mut self, members: &mut Map, message: &Message, place: &Place<'_>) -> Result<(), DecodeError> {
        let mut fault = None;
        members.retain(|key, value| {
            if fault.is_some() {
                return true;
            }
            let Some(field) = message.field_of(key) else {
                if !message.is_open() {
                    self.report(key, place);
                }
                return message.is_open();
            };
            if value.is_null() {
                return is_kept_null(field);
            }
            match self.field(value, message, field, place) {
                Ok(()) => !value.is_null(),
                Err(error) => {
                    fault = Some(error);
                    true
                }
            }
        });
        fault.map_or(Ok(()), Err)
    }

    fn report(&mut self, key: &Key, place: &Place<'_>) {
        if self.silent == 0 && self.conformed.unknown.len() < UNKNOWN_MAX {
            self.conformed.unknown.push(joined(place.path(), key));
        }
    }

    fn field(
        &mut self,
        value: &mut Value,
        message: &Message,
        field: &Field,
        outer: &Place<'_>,
    ) -> Result<(), DecodeError> {
        let place = Place::Field { outer, message, field };
        self.convert(value, &field.ty);
        if has_kind(value, &field.ty) {
            self.value(value, &field.ty, &place)
        } else {
            Err(self.wrong(value, &place, &field.ty, &field.go_type()))
        }
    }

    /// The converter takes `2.0` for an integer.
    fn convert(&self, value: &mut Value, ty: &Type) {
        if let (Reader::Converter, Type::Int32 | Type::Int64, Value::Float(number)) = (self.reader, ty, &*value)
            && number.fract() == 0.0
            && number.abs() < 1e15
        {
            *value = Value::Int(*number as i64);
        }
    }

    fn wrong(&self, value: &Value, place: &Place<'_>, ty: &Type, go_type: &str) -> DecodeError {
        match self.reader {
            Reader::Decoder => mismatch(value, place, go_type),
            Reader::Converter => DecodeError::Type(unconvertible(value, ty, go_type)),
        }
    }

    /// Checks the inside of a value; the value itself may still be of the wrong kind if it is an item or a map's value.
    fn value(&mut self, value: &mut Value, ty: &Type, place: &Place<'_>) -> Result<(), DecodeError> {
        self.convert(value, ty);
        match (ty, &mut *value) {
            (Type::Int32, Value::Int(number)) if i32::try_from(*number).is_err() => {
                Err(mismatch(value, place, "int32"))
            }
            (Type::String, Value::String(_))
            | (Type::Bool, Value::Bool(_))
            | (Type::Int32 | Type::Int64, Value::Int(_)) => Ok(()),
            (Type::Double, Value::Int(_) | Value::Float(_)) | (Type::Any | Type::Raw | Type::Fields, _) => Ok(()),
            (Type::Struct(message), Value::Object(members)) => self.object(members, message, place),
            (Type::List(list), Value::Array(items)) => self.items(items, list, place),
            (Type::Map(map), Value::Object(members)) => self.members(members, map, place),
            (Type::SchemaOr(or, message), _) => self.schema_or(value, *or, super::json::schema_of(ty, message)),
            (Type::Bytes, Value::String(text)) => {
                if let Some(canonical) = canonical_base64(text)? {
                    *text = canonical;
                }
                Ok(())
            }
            (Type::Time, _) => canonical_time(value, Precision::Seconds),
            (Type::MicroTime, _) => canonical_time(value, Precision::Micros),
            (Type::Duration, _) => canonical_duration(value),
            (Type::Quantity, _) => canonical_quantity(value),
            (Type::IntOrString, _) => check_int_or_string(value),
            (ty, _) => Err(self.wrong(value, place, ty, &ty.go_type())),
        }
    }

    fn items(&mut self, items: &mut [Value], list: &List, outer: &Place<'_>) -> Result<(), DecodeError> {
        for (index, item) in items.iter_mut().enumerate() {
            if item.is_null() {
                *item = zero(&list.items);
            } else {
                self.value(item, &list.items, &Place::Item { outer, index })?;
            }
        }
        Ok(())
    }

    fn members(&mut self, members: &mut Map, map: &MapType, outer: &Place<'_>) -> Result<(), DecodeError> {
        for (key, value) in members.iter_mut() {
            if value.is_null() {
                *value = zero(&map.values);
            } else {
                self.value(value, &map.values, &Place::Member { outer, key })?;
            }
        }
        Ok(())
    }

    /// A schema or its alternative, which Go decodes apart from the rest.
    fn schema_or(&mut self, value: &mut Value, or: SchemaOr, schema: &Message) -> Result<(), DecodeError> {
        self.silent += 1;
        let checked = match (or, &mut *value) {
            (_, Value::Object(members)) => self.object(members, schema, &Place::Root),
            (SchemaOr::Array, Value::Array(items)) => items.iter_mut().try_for_each(|item| match item {
                Value::Object(members) => self.object(members, schema, &Place::Root),
                other => Err(lone_mismatch(other, schema.go_name())),
            }),
            (SchemaOr::StringArray, Value::Array(items)) => match items.iter().find(|item| item.as_str().is_none()) {
                Some(item) => Err(lone_mismatch(item, "string")),
                None => Ok(()),
            },
            (SchemaOr::Bool, Value::Bool(_)) => Ok(()),
            (SchemaOr::Bool, _) => Err(DecodeError::Type("boolean or JSON schema expected".to_owned())),
            // Upstream takes anything else for "nothing".
            _ => {
                *value = Value::Null;
                Ok(())
            }
        };
        self.silent -= 1;
        checked
    }
}

/// Whether a null says something at this field: custom resources may declare so.
fn is_kept_null(field: &Field) -> bool {
    field.nullable && field.presence == crate::schema::Presence::OmitZero
}

/// Whether the value is of the JSON kind that the type is decoded from; types that decode themselves take any.
fn has_kind(value: &Value, ty: &Type) -> bool {
    match ty {
        Type::String | Type::Bytes => matches!(value, Value::String(_)),
        Type::Bool => matches!(value, Value::Bool(_)),
        Type::Int32 => matches!(value, Value::Int(number) if i32::try_from(*number).is_ok()),
        Type::Int64 => matches!(value, Value::Int(_)),
        Type::Double => matches!(value, Value::Int(_) | Value::Float(_)),
        Type::Struct(_) | Type::Map(_) => matches!(value, Value::Object(_)),
        Type::List(_) => matches!(value, Value::Array(_)),
        _ => true,
    }
}

/// What a type's zero value is as a tree: what null items and map values stand for.
pub(super) fn zero(ty: &Type) -> Value {
    match ty {
        Type::String => Value::from(""),
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => Value::Int(0),
        Type::Struct(_) => Value::object(),
        Type::Quantity => Value::from("0"),
        Type::Duration => Value::from("0s"),
        Type::SchemaOr(SchemaOr::Bool, _) => Value::Bool(false),
        Type::Bytes | Type::Time | Type::MicroTime | Type::Any | Type::Raw | Type::Fields => Value::Null,
        Type::List(_) | Type::Map(_) | Type::SchemaOr(..) => Value::Null,
    }
}

/// The canonical text if it differs.
fn canonical_base64(text: &str) -> Result<Option<Box<str>>, DecodeError> {
    // Checked in pieces on the stack, so that a large secret is not decoded into memory just to be looked at.
    let mut scratch = [0; 3072];
    let chunks = text.as_bytes().chunks(4096);
    let strict = base64::engine::general_purpose::STANDARD;
    let last = chunks.len();
    let mut pieces = text.as_bytes().chunks(4096).enumerate();
    let canonical = pieces.all(|(index, piece)| {
        let padded_early = index + 1 < last && piece.contains(&b'=');
        !padded_early && strict.decode_slice(piece, &mut scratch).is_ok()
    });
    if canonical {
        return Ok(None);
    }
    let dense: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    match BASE64.decode(&dense) {
        Ok(bytes) => Ok(Some(strict.encode(bytes).into())),
        Err(error) => {
            Err(DecodeError::Type(format!("illegal base64 data at input byte {}", fault_offset(text, &dense, &error))))
        }
    }
}

/// Where Go says that base64 went wrong: the offset of the bad character, or of the end.
fn fault_offset(text: &str, dense: &[u8], error: &base64::DecodeError) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) => {
            let mut left = *at;
            text.bytes()
                .position(|byte| {
                    let counted = !matches!(byte, b'\r' | b'\n');
                    let found = counted && left == 0;
                    left -= usize::from(counted && left > 0);
                    found
                })
                .unwrap_or(text.len())
        }
        // Go reports the start of the incomplete quantum.
        _ => dense.len() / 4 * 4,
    }
}

fn canonical_time(value: &mut Value, precision: Precision) -> Result<(), DecodeError> {
    let Value::String(text) = value else { return Err(lone_mismatch(value, "string")) };
    let moment = Moment::parse(text, precision).map_err(DecodeError::Type)?;
    if moment == Moment::ZERO {
        *value = Value::Null;
        return Ok(());
    }
    let canonical_len = if precision == Precision::Seconds { 20 } else { 27 };
    if text.len() != canonical_len || !text.ends_with('Z') {
        *text = moment.text(precision).into();
    }
    Ok(())
}

fn canonical_duration(value: &mut Value) -> Result<(), DecodeError> {
    let Value::String(text) = value else { return Err(lone_mismatch(value, "string")) };
    let nanos = time::parse_duration(text).map_err(DecodeError::Type)?;
    *text = time::duration_text(nanos).into();
    Ok(())
}

fn canonical_quantity(value: &mut Value) -> Result<(), DecodeError> {
    let canonical = match &*value {
        Value::String(text) => quantity::canonical(text.trim()),
        other => quantity::canonical(&other.to_string()),
    };
    let canonical = canonical.map_err(|error| DecodeError::Type(error.to_string()))?;
    if value.as_str() != Some(&canonical) {
        *value = Value::from(canonical);
    }
    Ok(())
}

fn check_int_or_string(value: &Value) -> Result<(), DecodeError> {
    match value {
        Value::String(_) => Ok(()),
        Value::Int(number) if i32::try_from(*number).is_ok() => Ok(()),
        other => Err(lone_mismatch(other, "int32")),
    }
}
