//! Stored protobuf to JSON without a tree, and the places where what is not stored is put in when it is sent.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::json::{self, Order, is_struct, write};
use super::protobuf::read::{self, IntOrString, Payload, Reader, malformed};
use super::protobuf::{self, DEPTH_MAX, moment, text, too_deep, write_varint};
use super::slots::FIELDS_MAX;
use super::time::Precision;
use super::{DecodeError, Limits};
use crate::schema::{Field, Message, Presence, Type, WireField, WireMember, find_wire};
use crate::value::Value;

/// Where a JSON form takes the type meta and the resource version, which stored bodies do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonSplice {
    type_meta: Gap,
    resource_version: Option<Gap>,
}

/// A place between members, and the commas that something put there needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    at: usize,
    before: bool,
    after: bool,
}

impl JsonSplice {
    /// Appends `form` with API version and kind (if given; items of lists have none) and resource version put in.
    pub fn write(&self, form: &[u8], type_meta: Option<(&str, &str)>, resource_version: &str, out: &mut Vec<u8>) {
        let mut from = 0;
        if let Some((api_version, kind)) = type_meta {
            from = self.type_meta.at;
            out.extend_from_slice(&form[..from]);
            self.type_meta.fill(out, |out| {
                out.extend_from_slice(b"\"kind\":");
                write::string(kind, out);
                out.extend_from_slice(b",\"apiVersion\":");
                write::string(api_version, out);
            });
        }
        if let Some(gap) = self.resource_version
            && !resource_version.is_empty()
        {
            out.extend_from_slice(&form[from..gap.at]);
            from = gap.at;
            gap.fill(out, |out| {
                out.extend_from_slice(b"\"resourceVersion\":");
                write::string(resource_version, out);
            });
        }
        out.extend_from_slice(&form[from..]);
    }
}

impl Gap {
    fn fill(self, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
        if self.before {
            out.push(b',');
        }
        content(out);
        if self.after {
            out.push(b',');
        }
    }
}

/// Appends the JSON of a stored body: what `json::encode` makes of its tree, less the resource version. The positions in the result
/// count from where `out` ended before.
pub fn protobuf_to_json(body: &[u8], message: &Message, out: &mut Vec<u8>) -> Result<JsonSplice, DecodeError> {
    let start = out.len();
    match Transcoder::new(start).root(body, message, out) {
        Ok(splice) => Ok(splice),
        Err(Stop::Fault(error)) => Err(error),
        Err(Stop::Scattered) => {
            // No encoder of Kubernetes writes such bodies; they are put in order once and done as the others.
            out.truncate(start);
            let tree = protobuf::decode(body, message)?;
            let ordered = protobuf::encode(&tree, message).map_err(|error| DecodeError::Type(error.to_string()))?;
            match Transcoder::new(start).root(&ordered, message, out) {
                Ok(splice) => Ok(splice),
                Err(Stop::Fault(error)) => Err(error),
                Err(Stop::Scattered) => Err(malformed("a struct comes twice after it was put in order")),
            }
        }
    }
}

enum Stop {
    Fault(DecodeError),
    /// A struct comes in several pieces.
    Scattered,
}

impl From<DecodeError> for Stop {
    fn from(error: DecodeError) -> Self {
        Stop::Fault(error)
    }
}

/// The fields of a message on the wire: from the tag of the first to the end of the last for lists and maps, the last one for the
/// others; `end` 0 where there is none.
type Spans = [(u32, u32); FIELDS_MAX];

struct Transcoder {
    start: usize,
    resource_version: Option<Gap>,
}

/// Which message is written: only the outermost and its metadata have gaps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Metadata,
    Inner,
}

impl Transcoder {
    fn new(start: usize) -> Self {
        Self { start, resource_version: None }
    }

    fn root(mut self, body: &[u8], message: &Message, out: &mut Vec<u8>) -> Result<JsonSplice, Stop> {
        if u32::try_from(body.len()).is_err() {
            return Err(malformed("body too large").into());
        }
        self.object(Reader::new(body), message, Level::Root, out, DEPTH_MAX)?;
        let is_empty = out.len() == self.start + 2;
        let type_meta = Gap { at: 1, before: false, after: !is_empty };
        Ok(JsonSplice { type_meta, resource_version: self.resource_version })
    }

    fn object(
        &mut self,
        reader: Reader<'_>,
        message: &Message,
        level: Level,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Stop> {
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        if message.fields().len() > FIELDS_MAX {
            return Err(malformed("a message made at run time has no protobuf form").into());
        }
        let mut spans: Spans = [(0, 0); FIELDS_MAX];
        scan(reader, message, message.wire(), &mut spans)?;
        out.push(b'{');
        let start = out.len();
        let mut gap = None;
        for (field, span) in message.fields().iter().zip(&spans) {
            if level == Level::Metadata && field.name == "resourceVersion" {
                gap = Some(out.len());
                continue;
            }
            // Most fields are absent, and nothing is written of those.
            if span.1 == 0 && is_omitted(field) {
                continue;
            }
            let before = out.len();
            if before > start {
                out.push(b',');
            }
            json::name(field, out);
            let inner = if level == Level::Root && field.name == "metadata" { Level::Metadata } else { Level::Inner };
            if !self.field(reader.bytes, field, *span, inner, out, depth)? {
                out.truncate(before);
            }
        }
        if let Some(at) = gap {
            let before = at > start;
            self.resource_version = Some(Gap { at: at - self.start, before, after: !before && out.len() > at });
        }
        out.push(b'}');
        Ok(())
    }

    /// Appends a field's value; false if the field is left out, in which case what was appended means nothing.
    fn field(
        &mut self,
        body: &[u8],
        field: &Field,
        span: (u32, u32),
        level: Level,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<bool, Stop> {
        let (from, end) = (span.0 as usize, span.1 as usize);
        let mut reader = Reader { bytes: &body[..end], at: from };
        let written = match (&field.ty, end) {
            (_, 0) => false,
            (Type::List(list), _) if !list.wrapped => {
                self.items(reader, field.number, &list.items, out, depth)?;
                true
            }
            (Type::Map(map), _) => {
                self.entries(reader, field.number, &map.values, out, depth)?;
                true
            }
            (ty, _) => match reader.next()? {
                None => false,
                Some((_, payload)) if is_implied(field, payload) => return Ok(false),
                Some((_, payload)) => self.single(body, reader.at, payload, ty, level, out, depth)?,
            },
        };
        if written {
            return Ok(true);
        }
        let omitted = is_omitted(field);
        if !omitted {
            if let (Type::Struct(message), false) = (&field.ty, field.nullable) {
                self.object(Reader::new(b""), message, level, out, depth)?;
            } else {
                json::absent(field, out);
            }
        }
        Ok(!omitted)
    }

    fn items(
        &mut self,
        mut reader: Reader<'_>,
        number: u32,
        ty: &Type,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Stop> {
        out.push(b'[');
        let mut separator = false;
        while let Some((found, payload)) = reader.next()? {
            if found != number {
                continue;
            }
            if std::mem::replace(&mut separator, true) {
                out.push(b',');
            }
            self.single_or_zero(reader, payload, ty, out, depth)?;
        }
        out.push(b']');
        Ok(())
    }

    fn single_or_zero(
        &mut self,
        reader: Reader<'_>,
        payload: Payload<'_>,
        ty: &Type,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Stop> {
        if !self.single(reader.bytes, reader.at, payload, ty, Level::Inner, out, depth)? {
            json::zero(ty, out);
        }
        Ok(())
    }

    fn entries(
        &mut self,
        reader: Reader<'_>,
        number: u32,
        ty: &Type,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Stop> {
        let start = out.len();
        out.push(b'{');
        let mut previous: Option<&[u8]> = None;
        let mut entries = reader;
        while let Some((found, payload)) = entries.next()? {
            if found != number {
                continue;
            }
            let entry = entry(entries, payload)?;
            if previous.is_some_and(|previous| previous >= entry.key) {
                out.truncate(start);
                return self.unsorted_entries(reader, number, ty, out, depth);
            }
            if previous.replace(entry.key).is_some() {
                out.push(b',');
            }
            self.entry(entry, ty, out, depth)?;
        }
        out.push(b'}');
        Ok(())
    }

    /// Maps that were not written in order, or with keys that come twice.
    fn unsorted_entries(
        &mut self,
        mut reader: Reader<'_>,
        number: u32,
        ty: &Type,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Stop> {
        let mut sorted = BTreeMap::new();
        while let Some((found, payload)) = reader.next()? {
            if found == number {
                let entry = entry(reader, payload)?;
                sorted.insert(entry.key, entry);
            }
        }
        out.push(b'{');
        for (index, entry) in sorted.into_values().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.entry(entry, ty, out, depth)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn entry(&mut self, entry: Entry<'_>, ty: &Type, out: &mut Vec<u8>, depth: usize) -> Result<(), Stop> {
        write::string(&text(entry.key), out);
        out.push(b':');
        match (entry.value, ty) {
            (Some((reader, payload)), _) => self.single_or_zero(reader, payload, ty, out, depth),
            (None, Type::Bytes) => {
                out.extend_from_slice(b"\"\"");
                Ok(())
            }
            (None, _) => {
                json::zero(ty, out);
                Ok(())
            }
        }
    }

    /// Appends one value, whose payload ends at `end` of `body`; false if it is one of those that mean "not given".
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a value on the wire; a struct of them would be made once per value"
    )]
    fn single(
        &mut self,
        body: &[u8],
        end: usize,
        payload: Payload<'_>,
        ty: &Type,
        level: Level,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<bool, Stop> {
        match ty {
            Type::String => write::string(&text(payload.as_bytes()?), out),
            Type::Bool => out.extend_from_slice(if payload.as_varint()? == 0 { b"false" } else { b"true" }),
            Type::Int32 => write::integer(i64::from(payload.as_varint()? as i32), out),
            Type::Int64 => write::integer(payload.as_varint()? as i64, out),
            Type::Double => write::float(payload.as_double()?, out),
            Type::Bytes => {
                out.push(b'"');
                base64_into(payload.as_bytes()?, out);
                out.push(b'"');
            }
            Type::Time => return time(payload, Precision::Seconds, out),
            Type::MicroTime => return time(payload, Precision::Micros, out),
            Type::Quantity => write::string(&text(read::only_bytes(payload.as_bytes()?)?.unwrap_or(b"0")), out),
            Type::IntOrString => match read::int_or_string(payload.as_bytes()?)? {
                IntOrString::Int(number) => write::integer(number.into(), out),
                IntOrString::String(bytes) => write::string(&text(bytes), out),
            },
            Type::Any | Type::Raw | Type::Fields => return raw(payload, ty, out),
            Type::Struct(message) => {
                let at = end - payload.as_bytes()?.len();
                self.object(Reader { bytes: &body[..end], at }, message, level, out, depth)?;
            }
            Type::List(list) => return self.wrapped(payload, &list.items, out, depth),
            Type::Duration | Type::SchemaOr(..) | Type::Map(_) => {
                let value = protobuf::single(payload, ty, Value::Null, depth)?;
                json::typed(&value, ty, out);
                return Ok(!value.is_null());
            }
        }
        Ok(true)
    }

    fn wrapped(&mut self, payload: Payload<'_>, ty: &Type, out: &mut Vec<u8>, depth: usize) -> Result<bool, Stop> {
        self.items(Reader::new(payload.as_bytes()?), 1, ty, out, depth)?;
        Ok(true)
    }
}

/// Whether a field that is not given is left out.
fn is_omitted(field: &Field) -> bool {
    match field.presence {
        Presence::Always => false,
        Presence::OmitZero => true,
        Presence::OmitEmpty => field.nullable || !is_struct(&field.ty),
    }
}

fn scan(mut reader: Reader<'_>, message: &Message, wire: &[WireField], spans: &mut Spans) -> Result<(), Stop> {
    let mut inlined_seen = 0_u64;
    loop {
        let tag_at = reader.at;
        let Some((number, payload)) = reader.next()? else { return Ok(()) };
        match find_wire(wire, number) {
            None => {}
            Some(WireMember::Inlined(inner)) => {
                let bit = 1 << (number & 63);
                if inlined_seen & bit != 0 {
                    return Err(Stop::Scattered);
                }
                inlined_seen |= bit;
                let at = reader.at - payload.as_bytes()?.len();
                scan(Reader { bytes: &reader.bytes[..reader.at], at }, message, inner, spans)?;
            }
            Some(WireMember::Field(at)) => {
                let span = &mut spans[usize::from(*at)];
                let repeats = match &message.fields()[usize::from(*at)].ty {
                    Type::List(list) => !list.wrapped,
                    Type::Map(_) => true,
                    Type::Struct(_) | Type::SchemaOr(..) if span.1 > 0 => return Err(Stop::Scattered),
                    _ => false,
                };
                if !repeats || span.1 == 0 {
                    span.0 = tag_at as u32;
                }
                span.1 = reader.at as u32;
            }
        }
    }
}

/// Whether Go writes the scalar though nothing was set.
fn is_implied(field: &Field, payload: Payload<'_>) -> bool {
    let is_zero = match payload {
        Payload::Varint(number) => number == 0,
        Payload::Bytes(bytes) => bytes.is_empty(),
        // Both zeros of a float.
        Payload::Fixed64(bits) => bits << 1 == 0,
        Payload::Fixed32(_) => false,
    };
    is_zero
        && !field.nullable
        && field.presence == Presence::OmitEmpty
        && !is_struct(&field.ty)
        && !matches!(field.ty, Type::Any)
}

struct Entry<'a> {
    key: &'a [u8],
    value: Option<(Reader<'a>, Payload<'a>)>,
}

/// Takes a map's entry apart; `reader` has just read it as `payload`.
fn entry<'a>(reader: Reader<'a>, payload: Payload<'a>) -> Result<Entry<'a>, DecodeError> {
    let mut inner = Reader { bytes: &reader.bytes[..reader.at], at: reader.at - payload.as_bytes()?.len() };
    let mut entry = Entry { key: b"", value: None };
    while let Some((number, payload)) = inner.next()? {
        match number {
            1 => entry.key = payload.as_bytes()?,
            2 => entry.value = Some((inner, payload)),
            _ => {}
        }
    }
    Ok(entry)
}

fn time(payload: Payload<'_>, precision: Precision, out: &mut Vec<u8>) -> Result<bool, Stop> {
    let Some(moment) = moment(payload.as_bytes()?, precision)? else { return Ok(false) };
    out.push(b'"');
    moment.write(precision, out);
    out.push(b'"');
    Ok(true)
}

fn raw(payload: Payload<'_>, ty: &Type, out: &mut Vec<u8>) -> Result<bool, Stop> {
    match read::only_bytes(payload.as_bytes()?)? {
        None | Some(b"" | b"null") => return Ok(false),
        Some(bytes) if json::is_normal(bytes) => out.extend_from_slice(bytes),
        Some(bytes) if is_json(bytes) => {
            write::any(&json::parse(bytes, &Limits::default())?.value, Order::AsGiven, out);
        }
        Some(_) => {
            let value = protobuf::single(payload, ty, Value::Null, DEPTH_MAX)?;
            write::any(&value, Order::AsGiven, out);
        }
    }
    Ok(true)
}

fn is_json(bytes: &[u8]) -> bool {
    !bytes.starts_with(super::envelope::MAGIC)
}

fn base64_into(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("four characters hold three bytes");
    out.truncate(start + written);
}

/// Where a protobuf body takes the resource version, with the lengths around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtobufSplice {
    /// Where the metadata's length begins.
    length_at: usize,
    metadata_at: usize,
    metadata_end: usize,
    /// What the resource version replaces: the empty one that Go writes, or nothing.
    from: usize,
    to: usize,
    number: u32,
}

/// Which fields of a kind lead to its resource version; finds the place in many bodies.
#[derive(Debug, Clone, Copy)]
pub struct ProtobufSplicer {
    metadata: u32,
    resource_version: u32,
}

impl ProtobufSplicer {
    /// For bodies of that shape.
    pub fn of(message: &Message) -> Result<Self, DecodeError> {
        let metadata = message.field("metadata").ok_or_else(no_metadata)?;
        let version = metadata.message().and_then(|meta| meta.field("resourceVersion")).ok_or_else(no_metadata)?;
        Ok(Self { metadata: metadata.number, resource_version: version.number })
    }

    /// Finds the place in a body.
    pub fn locate(&self, body: &[u8]) -> Result<ProtobufSplice, DecodeError> {
        let mut reader = Reader::new(body);
        loop {
            let tag_at = reader.at;
            let (found, payload) = reader.next()?.ok_or_else(no_metadata)?;
            if found == self.metadata {
                let (metadata_end, len) = (reader.at, payload.as_bytes()?.len());
                let splice = ProtobufSplice {
                    length_at: tag_at + tag_len(self.metadata),
                    metadata_at: metadata_end - len,
                    metadata_end,
                    from: metadata_end,
                    to: metadata_end,
                    number: self.resource_version,
                };
                return splice.with_old_version(body);
            }
        }
    }
}

fn no_metadata() -> DecodeError {
    malformed("an object without metadata")
}

impl ProtobufSplice {
    /// Finds what is replaced: the field itself, or the place before the first of a higher number.
    fn with_old_version(mut self, body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { bytes: &body[..self.metadata_end], at: self.metadata_at };
        let mut placed = false;
        loop {
            let at = reader.at;
            match reader.next()? {
                None => return Ok(self),
                Some((number, _)) if number == self.number => {
                    (self.from, self.to) = (at, reader.at);
                    return Ok(self);
                }
                Some((number, _)) if number > self.number && !placed => {
                    (self.from, self.to) = (at, at);
                    placed = true;
                }
                Some(_) => {}
            }
        }
    }

    /// How long the body becomes.
    pub fn spliced_len(&self, body: &[u8], resource_version: &str) -> usize {
        let metadata = self.metadata_len(resource_version);
        self.length_at + varint_len(metadata) + metadata + (body.len() - self.metadata_end)
    }

    /// The length of the metadata with the new field.
    fn metadata_len(&self, resource_version: &str) -> usize {
        let version = tag_len(self.number) + varint_len(resource_version.len()) + resource_version.len();
        self.metadata_end - self.metadata_at - (self.to - self.from) + version
    }

    /// Appends the body with the resource version put in.
    pub fn write(&self, body: &[u8], resource_version: &str, out: &mut Vec<u8>) {
        let metadata = self.metadata_len(resource_version);
        out.extend_from_slice(&body[..self.length_at]);
        write_varint(metadata as u64, out);
        out.extend_from_slice(&body[self.metadata_at..self.from]);
        write_varint(u64::from(self.number << 3 | 2), out);
        write_varint(resource_version.len() as u64, out);
        out.extend_from_slice(resource_version.as_bytes());
        out.extend_from_slice(&body[self.to..]);
    }
}

fn tag_len(number: u32) -> usize {
    varint_len((number as usize) << 3)
}

fn varint_len(number: usize) -> usize {
    (usize::BITS as usize - (number | 1).leading_zeros() as usize).div_ceil(7)
}
