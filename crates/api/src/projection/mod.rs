//! Projections: the few fields of an object that somebody decides by, read straight from its stored form.
//!
//! A projection is written once and read from protobuf and JSON alike: it names the fields it wants in a table of
//! (protobuf number, JSON name), and a [`Reader`] hands it each of them. All other fields are skipped undecoded.

mod affinity;
mod budget;
mod meta;
mod node;
mod pod;
pub mod raw;
mod selecting;
mod service;
mod slice;

use std::sync::Arc;

use jiff::Timestamp;

use crate::quantity::Quantity;
use crate::selector::LabelSet;
use crate::value::Value;

pub use affinity::{AffinityLite, NameRequirement, NodeTerm, PodTerm, PodTerms, SpreadLite};
pub use budget::BudgetLite;
pub use meta::{Meta, Owner};
pub use node::{Address, NodeImage, NodeLite, Taint};
pub use pod::{
    ContainerKind, ContainerLite, ContainerPortLite, ContainerState, ContainerStatusLite, PodLite, PodNetworkLite,
    PodSpecLite, PodStatusLite, Toleration,
};
pub use raw::{Envelope, Raw, RawError, RawField, RawFields, envelope};
pub use selecting::{ReplicationControllerLite, SelectingLite};
pub use service::{ServiceLite, ServicePort, ServiceTraffic};
pub use slice::{SERVICE_NAME, SliceEndpoint, SliceLite, SlicePort};

/// A stored object's fields cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Raw(#[from] RawError),
    #[error("malformed JSON: {0}")]
    Json(String),
    #[error("malformed object: {0}")]
    Message(String),
    #[error("{field}: expected {expected}")]
    Shape { field: &'static str, expected: &'static str },
    #[error("no schema for {0}")]
    UnknownKind(String),
}

/// An object's kind and stored form: what a projection is made of.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    /// Protobuf with or without its envelope, or JSON.
    pub body: &'a [u8],
    /// The object's metadata when somebody read them before, to be shared rather than read again.
    pub meta: Option<Arc<Meta>>,
}

impl Source<'_> {
    /// The object's metadata, shared with others who asked where possible.
    pub fn meta(&self) -> Result<Arc<Meta>, ReadError> {
        match &self.meta {
            Some(meta) => Ok(meta.clone()),
            None => {
                let mut meta = Meta::default();
                self.read(|reader| meta.read_object(reader))?;
                Ok(Arc::new(meta))
            }
        }
    }

    /// Lets `read` walk over the object.
    pub fn read<T>(&self, read: impl FnOnce(Reader<'_>) -> Result<T, ReadError>) -> Result<T, ReadError> {
        if is_json(self.body) {
            let tree: Value = serde_json::from_slice(self.body).map_err(|error| ReadError::Json(error.to_string()))?;
            return read(Reader::new("object", Encoded::Tree(&tree)));
        }
        let message = envelope(self.body)?.map_or(self.body, |envelope| envelope.message);
        read(Reader::new("object", Encoded::Raw(Raw::Bytes(message))))
    }

    /// The whole object as a tree; apiVersion and kind are there when the stored form carries them.
    pub fn tree(&self) -> Result<Value, ReadError> {
        if is_json(self.body) {
            return serde_json::from_slice(self.body).map_err(|error| ReadError::Json(error.to_string()));
        }
        let message = envelope(self.body)?.map_or(self.body, |envelope| envelope.message);
        let schema = crate::schema::kind(self.group, self.version, self.kind)
            .ok_or_else(|| ReadError::UnknownKind(format!("{}/{} {}", self.group, self.version, self.kind)))?;
        crate::codec::protobuf::decode(message, schema).map_err(|error| ReadError::Message(error.to_string()))
    }
}

/// Whether a stored form is JSON: no protobuf message of ours begins with `{`, which would be a group of field 15.
pub fn is_json(body: &[u8]) -> bool {
    body.first() == Some(&b'{')
}

/// What somebody reads from an object. Either names the fields it wants ([`Projection::read`]), so that all others are
/// skipped undecoded, or looks at the whole object ([`Projection::project`]).
pub trait Projection: Default + Send + Sync + 'static {
    /// Takes the object's metadata, if the projection holds them.
    fn set_meta(&mut self, meta: Arc<Meta>);

    /// Reads the rest. Missing fields keep their empty values.
    fn read(&mut self, object: Reader<'_>) -> Result<(), ReadError>;

    /// Reads the projection from a stored object.
    fn project(source: &Source<'_>) -> Result<Self, ReadError> {
        let mut projection = Self::default();
        projection.set_meta(source.meta()?);
        source.read(|object| projection.read(object))?;
        Ok(projection)
    }

    /// Reads the projection from an object in tree form.
    fn of_tree(tree: &Value) -> Result<Self, ReadError> {
        let mut meta = Meta::default();
        meta.read_object(Reader::tree(tree))?;
        let mut projection = Self::default();
        projection.set_meta(Arc::new(meta));
        projection.read(Reader::tree(tree))?;
        Ok(projection)
    }
}

/// The fields of a message that a projection wants: protobuf number and JSON name.
pub type Fields = [(u32, &'static str)];

#[derive(Clone, Copy, Debug)]
enum Encoded<'a> {
    Raw(Raw<'a>),
    Tree(&'a Value),
}

/// The value of one field (one item, if the field is a list), in protobuf or as a tree.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The field's name, for errors.
    field: &'static str,
    encoded: Encoded<'a>,
}

impl<'a> Reader<'a> {
    const fn new(field: &'static str, encoded: Encoded<'a>) -> Self {
        Reader { field, encoded }
    }

    /// A tree to read from.
    pub const fn tree(tree: &'a Value) -> Self {
        Reader::new("object", Encoded::Tree(tree))
    }

    const fn shape(&self, expected: &'static str) -> ReadError {
        ReadError::Shape { field: self.field, expected }
    }

    /// Calls `visit` with the name and value of every field of this message that is in `wanted`, once per item for
    /// lists. Null counts as absent.
    pub fn fields(
        self,
        wanted: &Fields,
        mut visit: impl FnMut(&'static str, Reader<'a>) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        match self.encoded {
            Encoded::Raw(Raw::Bytes(message)) => {
                for field in RawFields::new(message) {
                    let field = field?;
                    if let Some((_, name)) = wanted.iter().find(|(number, _)| *number == field.number) {
                        visit(name, Reader::new(name, Encoded::Raw(field.value)))?;
                    }
                }
                Ok(())
            }
            Encoded::Tree(Value::Object(members)) => {
                for (_, name) in wanted {
                    match members.get(name) {
                        None | Some(Value::Null) => {}
                        Some(Value::Array(items)) => {
                            items.iter().try_for_each(|item| visit(name, Reader::new(name, Encoded::Tree(item))))?;
                        }
                        Some(value) => visit(name, Reader::new(name, Encoded::Tree(value)))?,
                    }
                }
                Ok(())
            }
            _ => Err(self.shape("an object")),
        }
    }

    /// Calls `visit` with the entries of a map. Protobuf hands a map over entry by entry, so this may be one of many calls.
    pub fn entries(self, mut visit: impl FnMut(&'a str, Reader<'a>) -> Result<(), ReadError>) -> Result<(), ReadError> {
        match self.encoded {
            Encoded::Raw(Raw::Bytes(entry)) => {
                let (mut key, mut value) = ("", Reader::new(self.field, Encoded::Raw(Raw::Bytes(b""))));
                for field in RawFields::new(entry) {
                    match field? {
                        RawField { number: 1, value: Raw::Bytes(bytes), .. } => key = raw::utf8(bytes)?,
                        RawField { number: 2, value: raw, .. } => value.encoded = Encoded::Raw(raw),
                        _ => {}
                    }
                }
                visit(key, value)
            }
            Encoded::Tree(Value::Object(members)) => members
                .iter()
                .filter(|(_, value)| !value.is_null())
                .try_for_each(|(key, value)| visit(key.as_str(), Reader::new(self.field, Encoded::Tree(value)))),
            _ => Err(self.shape("a map")),
        }
    }

    /// The value as text.
    pub fn text(self) -> Result<&'a str, ReadError> {
        match self.encoded {
            Encoded::Raw(Raw::Bytes(bytes)) => Ok(raw::utf8(bytes)?),
            Encoded::Tree(Value::String(text)) => Ok(text),
            _ => Err(self.shape("text")),
        }
    }

    /// The value as text of one's own.
    pub fn boxed(self) -> Result<Box<str>, ReadError> {
        self.text().map(Into::into)
    }

    /// The value as an integer.
    pub fn int(self) -> Result<i64, ReadError> {
        match self.encoded {
            Encoded::Raw(Raw::Varint(bits)) => Ok(bits as i64),
            Encoded::Tree(tree) => tree.as_i64().ok_or(self.shape("an integer")),
            Encoded::Raw(_) => Err(self.shape("an integer")),
        }
    }

    /// The value as an `int32` field.
    pub fn int32(self) -> Result<i32, ReadError> {
        i32::try_from(self.int()?).map_err(|_| self.shape("an integer of 32 bits"))
    }

    /// The value as a truth value.
    pub fn truth(self) -> Result<bool, ReadError> {
        match self.encoded {
            Encoded::Raw(Raw::Varint(bits)) => Ok(bits != 0),
            Encoded::Tree(tree) => tree.as_bool().ok_or(self.shape("true or false")),
            Encoded::Raw(_) => Err(self.shape("true or false")),
        }
    }

    /// The value as a `Time` or `MicroTime`; a zero time is none.
    pub fn time(self) -> Result<Option<Timestamp>, ReadError> {
        match self.encoded {
            Encoded::Raw(Raw::Bytes(message)) => {
                // An empty message is Go's zero time; year 1 in seconds is what older writers put there.
                let (mut seconds, mut nanos) = (None, 0);
                self.fields(&[(1, "seconds"), (2, "nanos")], |name, value| {
                    match name {
                        "seconds" => seconds = Some(value.int()?),
                        _ => nanos = value.int32()?,
                    }
                    Ok(())
                })?;
                let Some(seconds) = seconds.or((!message.is_empty()).then_some(0)) else { return Ok(None) };
                if seconds <= YEAR_ONE_SECONDS {
                    return Ok(None);
                }
                Timestamp::new(seconds, nanos).map(Some).map_err(|_| self.shape("a time"))
            }
            Encoded::Tree(Value::String(text)) => text.parse().map(Some).map_err(|_| self.shape("a time")),
            _ => Err(self.shape("a time")),
        }
    }

    /// The value as a quantity.
    pub fn quantity(self) -> Result<Quantity, ReadError> {
        let parse = |text: &str| Quantity::parse(text).map_err(|_| self.shape("a quantity"));
        match self.encoded {
            Encoded::Raw(Raw::Bytes(message)) => match raw::bytes_field(message, 1)? {
                Some(text) if !text.is_empty() => parse(raw::utf8(text)?),
                _ => Ok(Quantity::ZERO),
            },
            Encoded::Tree(Value::String(text)) => parse(text),
            Encoded::Tree(number @ (Value::Int(_) | Value::Float(_))) => parse(&number.to_string()),
            _ => Err(self.shape("a quantity")),
        }
    }

    /// The value as an `IntOrString`.
    pub fn int_or_text(self) -> Result<IntOrText, ReadError> {
        match self.encoded {
            Encoded::Raw(Raw::Bytes(_)) => {
                let (mut is_text, mut int, mut text) = (false, 0, "");
                self.fields(&[(1, "type"), (2, "intVal"), (3, "strVal")], |name, value| {
                    match name {
                        "type" => is_text = value.int()? == 1,
                        "intVal" => int = value.int32()?,
                        _ => text = value.text()?,
                    }
                    Ok(())
                })?;
                Ok(if is_text { IntOrText::Text(text.into()) } else { IntOrText::Int(int) })
            }
            Encoded::Tree(Value::String(text)) => Ok(IntOrText::Text(text.clone())),
            Encoded::Tree(_) => self.int32().map(IntOrText::Int),
            Encoded::Raw(_) => Err(self.shape("an integer or text")),
        }
    }
}

/// 0001-01-01T00:00:00Z in Unix seconds, Go's zero time.
const YEAR_ONE_SECONDS: i64 = -62_135_596_800;

/// `IntOrString`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrText {
    Int(i32),
    Text(Box<str>),
}

impl Default for IntOrText {
    fn default() -> Self {
        IntOrText::Int(0)
    }
}

/// Labels, annotations and the like: a few texts by name, sorted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts(Vec<(Box<str>, Box<str>)>);

impl Texts {
    /// The text of this name.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(name, _)| (**name).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Sets the text of a name.
    pub fn insert(&mut self, key: &str, value: &str) {
        match self.0.binary_search_by(|(name, _)| (**name).cmp(key)) {
            Ok(at) => self.0[at].1 = value.into(),
            Err(at) => self.0.insert(at, (key.into(), value.into())),
        }
    }

    /// Names and texts, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what a map field holds.
    pub(crate) fn read(&mut self, reader: Reader<'_>) -> Result<(), ReadError> {
        reader.entries(|key, value| {
            let value = value.text()?;
            // Encoders write maps sorted, so that this is mostly a push.
            match self.0.last() {
                Some((last, _)) if **last >= *key => self.insert(key, value),
                _ => self.0.push((key.into(), value.into())),
            }
            Ok(())
        })
    }
}

impl LabelSet for Texts {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Texts {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(items: I) -> Self {
        let mut texts = Texts::default();
        items.into_iter().for_each(|(key, value)| texts.insert(key.as_ref(), value.as_ref()));
        texts
    }
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

/// A condition of any kind's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Such as `Ready`.
    pub kind: Box<str>,
    /// `True`, `False` or `Unknown`.
    pub status: Box<str>,
    pub reason: Box<str>,
    pub message: Box<str>,
    pub last_transition: Option<Timestamp>,
}

impl Condition {
    /// Whether the condition holds.
    pub fn is_true(&self) -> bool {
        &*self.status == "True"
    }

    /// Reads a condition whose transition time, reason and message have these numbers, which differ by message.
    fn read(reader: Reader<'_>, fields: &Fields) -> Result<Condition, ReadError> {
        let mut condition = Condition::default();
        reader.fields(fields, |name, value| {
            match name {
                "type" => condition.kind = value.boxed()?,
                "status" => condition.status = value.boxed()?,
                "reason" => condition.reason = value.boxed()?,
                "message" => condition.message = value.boxed()?,
                _ => condition.last_transition = value.time()?,
            }
            Ok(())
        })?;
        Ok(condition)
    }
}

/// The condition of this type.
pub fn condition<'c>(conditions: &'c [Condition], kind: &str) -> Option<&'c Condition> {
    conditions.iter().find(|condition| &*condition.kind == kind)
}

#[cfg(test)]
mod tests;
