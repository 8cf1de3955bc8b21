//! What a message, a field and a type are, for built-in and custom resources alike.

use std::sync::Arc;

use super::{Name, table};
use crate::value::{Key, Value};

/// The shape of an object: a built-in message, or an object of a custom resource's schema.
#[derive(Debug)]
pub struct Message {
    name: Arc<str>,
    has_type_meta: bool,
    atomic: bool,
    union: bool,
    open: bool,
    fields: Box<[Field]>,
    /// Positions in `fields`, sorted by JSON name.
    by_name: Box<[u16]>,
    wire: Wire,
}

/// The members of a message in protobuf terms, sorted by number.
pub(crate) type Wire = Box<[WireField]>;

/// A numbered member: a field, or a Go struct that is inlined in JSON but nested in protobuf.
#[derive(Debug)]
pub(crate) struct WireField {
    pub(crate) number: u32,
    pub(crate) member: WireMember,
}

#[derive(Debug)]
pub(crate) enum WireMember {
    /// A position in [`Message::fields`].
    Field(u16),
    /// Its members' fields are the message's own.
    Inlined(Wire),
}

/// A member of a message.
#[derive(Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: Key,
    /// The number in protobuf; 0 where there is none.
    pub number: u32,
    /// What its value must be.
    pub ty: Type,
    /// When an encoder leaves the field out.
    pub presence: Presence,
    /// Whether "not given" differs from the type's zero value: a pointer in Go, `nullable` in a custom resource.
    pub nullable: bool,
    pub(crate) rare: Option<Box<Rare>>,
}

/// What few fields have.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rare {
    pub(crate) default: Option<Value>,
    pub(crate) enumeration: Box<[Arc<str>]>,
    pub(crate) patch: Option<Patch>,
    pub(crate) go_type: Option<Arc<str>>,
    pub(crate) discriminator: bool,
    pub(crate) atomic: bool,
}

/// How strategic merge patch treats a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// The value is replaced as a whole even where the type would be merged.
    pub replace: bool,
    /// Merge lists by this member of their items (empty for lists of scalars); absent where the strategy is not `merge`.
    pub merge_key: Option<Arc<str>>,
    /// Members of the old object that the patch does not name are dropped.
    pub retain_keys: bool,
}

/// When an encoder leaves a field out, after the `json` tags of upstream's Go structs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Left out when null, zero, or an empty string, list or map. Structs are written even if empty (unless nullable and absent).
    OmitEmpty,
    /// Always written; absent values as `null` or the type's zero.
    Always,
    /// Left out when zero, structs too.
    OmitZero,
}

/// What a value must be.
#[derive(Debug, Clone)]
pub enum Type {
    /// Text.
    String,
    /// Truth value.
    Bool,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// Any number.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// RFC 3339 time in whole seconds.
    Time,
    /// RFC 3339 time in microseconds.
    MicroTime,
    /// Go duration such as `1h0m0s`.
    Duration,
    /// Resource quantity such as `100m`.
    Quantity,
    /// Number or text.
    IntOrString,
    /// Any JSON.
    Any,
    /// An object of a kind that is not known here (`RawExtension`).
    Raw,
    /// A set of fields in `managedFields`.
    Fields,
    /// An object of that shape.
    Struct(MessageRef),
    /// A list.
    List(Box<List>),
    /// An object used as a map from text.
    Map(Box<MapType>),
    /// One of the three types of custom resource definitions that are a schema or something else.
    SchemaOr(SchemaOr, MessageRef),
}

/// The alternative to a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaOr {
    /// A list of schemas.
    Array,
    /// A truth value.
    Bool,
    /// A list of strings.
    StringArray,
}

/// A list's items and how server-side apply merges it.
#[derive(Debug, Clone)]
pub struct List {
    /// The type of each item.
    pub items: Type,
    /// How lists are merged.
    pub kind: ListKind,
    /// In protobuf a message with the list as its field 1 stands in place of the list (`ExtraValue`, `Verbs`).
    pub wrapped: bool,
}

/// How server-side apply merges a list (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// Not said; treated as atomic.
    Unsaid,
    /// Replaced as a whole.
    Atomic,
    /// Scalars, each once.
    Set,
    /// Objects, each combination of these members once.
    Map(Box<[Arc<str>]>),
}

/// A map's values and how it is merged.
#[derive(Debug, Clone)]
pub struct MapType {
    /// The type of each value.
    pub values: Type,
    /// Replaced as a whole by server-side apply.
    pub atomic: bool,
}

/// A reference to a message: one of the table's, or a custom resource's own.
#[derive(Debug, Clone)]
pub struct MessageRef(pub(super) Target);

#[derive(Debug, Clone)]
pub(super) enum Target {
    Table(u16),
    Owned(Arc<Message>),
}

impl MessageRef {
    /// A reference to a message made at run time.
    pub fn new(message: Arc<Message>) -> Self {
        Self(Target::Owned(message))
    }

    /// A reference to a built-in message.
    pub fn built_in(name: &str) -> Option<Self> {
        table::global().position(name).map(|at| Self(Target::Table(at)))
    }

    /// The message.
    pub fn get(&self) -> &Message {
        match &self.0 {
            Target::Table(at) => &table::global().messages[usize::from(*at)],
            Target::Owned(message) => message,
        }
    }
}

impl std::ops::Deref for MessageRef {
    type Target = Message;
    fn deref(&self) -> &Message {
        self.get()
    }
}

/// What a message is made of besides its fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageFlags {
    /// It begins with `kind` and `apiVersion`, which are not part of its protobuf form.
    pub type_meta: bool,
    /// Server-side apply replaces it as a whole.
    pub atomic: bool,
    /// It is a union: at most one of its members besides the discriminator is set.
    pub union: bool,
    /// Members that no field describes are kept (`x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
}

impl Message {
    /// A message made at run time, for a custom resource's schema. Its fields have no protobuf form; of fields with the same
    /// name the last counts.
    pub fn new(name: &str, flags: MessageFlags, fields: Vec<Field>) -> Self {
        Self::with_wire(Arc::from(name), flags, fields, Box::default())
    }

    pub(super) fn with_wire(name: Arc<str>, flags: MessageFlags, fields: Vec<Field>, wire: Wire) -> Self {
        let mut by_name: Vec<u16> = (0..fields.len().min(usize::from(u16::MAX)) as u16).collect();
        by_name.sort_by(|left, right| fields[usize::from(*left)].name.cmp(&fields[usize::from(*right)].name));
        let MessageFlags { type_meta, atomic, union, open } = flags;
        Self {
            name,
            has_type_meta: type_meta,
            atomic,
            union,
            open,
            fields: fields.into(),
            by_name: by_name.into(),
            wire,
        }
    }

    /// The full name as OpenAPI definitions have it: `io.k8s.api.core.v1.Pod`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name without its package: `Pod`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }

    /// The Go type as upstream's errors word it: `v1.Pod`.
    pub fn go_name(&self) -> &str {
        let start = self.name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
        &self.name[start..]
    }

    /// Whether objects of this shape begin with `kind` and `apiVersion`.
    pub fn has_type_meta(&self) -> bool {
        self.has_type_meta
    }

    /// Whether server-side apply replaces such an object as a whole.
    pub fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// Whether at most one of its members (besides the discriminator) may be set.
    pub fn is_union(&self) -> bool {
        self.union
    }

    /// Whether members that no field describes are kept.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// All fields in the order in which they are encoded; those of inlined structs are the message's own. `kind` and
    /// `apiVersion` come first where the message has them.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field of that JSON name. Case matters.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let found = self.by_name.binary_search_by(|at| self.fields[usize::from(*at)].name.as_str().cmp(name)).ok()?;
        Some(&self.fields[usize::from(self.by_name[found])])
    }

    /// The field of that JSON name; faster than [`Message::field`] when the key is at hand.
    pub fn field_of(&self, key: &Key) -> Option<&Field> {
        self.position_of(key).map(|at| &self.fields[at])
    }

    pub(crate) fn position_of(&self, key: &Key) -> Option<usize> {
        let Some(name) = key.name() else {
            let found =
                self.by_name.binary_search_by(|at| self.fields[usize::from(*at)].name.as_str().cmp(key)).ok()?;
            return Some(usize::from(self.by_name[found]));
        };
        let compare = |at: &u16| match self.fields[usize::from(*at)].name.name() {
            Some(other) => Name::cmp(&other, &name),
            None => self.fields[usize::from(*at)].name.as_str().cmp(key),
        };
        self.by_name.binary_search_by(compare).ok().map(|found| usize::from(self.by_name[found]))
    }

    /// The field of that protobuf number; fields of inlined structs are not among them.
    pub fn by_number(&self, number: u32) -> Option<&Field> {
        match find_wire(&self.wire, number)? {
            WireMember::Field(at) => Some(&self.fields[usize::from(*at)]),
            WireMember::Inlined(_) => None,
        }
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }
}

/// The member of that number.
pub(crate) fn find_wire(wire: &[WireField], number: u32) -> Option<&WireMember> {
    // Numbers are dense from 1 in most messages.
    if let Some(guess) = wire.get((number as usize).wrapping_sub(1))
        && guess.number == number
    {
        return Some(&guess.member);
    }
    wire.binary_search_by_key(&number, |field| field.number).ok().map(|at| &wire[at].member)
}

impl Field {
    /// A field of a custom resource's schema: no protobuf number, kept as given.
    pub fn new(name: &str, ty: Type) -> Self {
        Self { name: Key::new(name), number: 0, ty, presence: Presence::OmitZero, nullable: false, rare: None }
    }

    /// Sets the default.
    #[must_use]
    pub fn with_default(mut self, default: Value) -> Self {
        self.rare.get_or_insert_default().default = Some(default);
        self
    }

    /// Sets the allowed values.
    #[must_use]
    pub fn with_enumeration<'a>(mut self, values: impl IntoIterator<Item = &'a str>) -> Self {
        self.rare.get_or_insert_default().enumeration = values.into_iter().map(Arc::from).collect();
        self
    }

    /// Marks the field as replaced as a whole by server-side apply.
    #[must_use]
    pub fn with_atomic(mut self, atomic: bool) -> Self {
        if atomic || self.rare.is_some() {
            self.rare.get_or_insert_default().atomic = atomic;
        }
        self
    }

    /// Allows `null`.
    #[must_use]
    pub fn with_nullable(mut self, nullable: bool) -> Self {
        self.nullable = nullable;
        self
    }

    /// The default that the schema declares.
    pub fn default(&self) -> Option<&Value> {
        self.rare.as_ref()?.default.as_ref()
    }

    /// The allowed values, empty where there is no such list.
    pub fn enumeration(&self) -> &[Arc<str>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.enumeration)
    }

    /// How strategic merge patch treats the field.
    pub fn patch(&self) -> Option<&Patch> {
        self.rare.as_ref()?.patch.as_ref()
    }

    /// Whether the field says which member of its union is set.
    pub fn is_discriminator(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.discriminator)
    }

    /// Whether server-side apply replaces the value as a whole: declared at this field or by its type.
    pub fn is_atomic(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.atomic) || self.ty.is_atomic()
    }

    /// The list, if it is one.
    pub fn list(&self) -> Option<&List> {
        self.ty.list()
    }

    /// The shape of the value, or of the items or values if it is a list or map of objects.
    pub fn message(&self) -> Option<&Message> {
        self.ty.message()
    }

    /// The Go type as upstream's decoding errors word it: `int32`, `v1.PullPolicy`, `[]v1.Container`.
    pub fn go_type(&self) -> String {
        match self.rare.as_ref().and_then(|rare| rare.go_type.as_ref()) {
            Some(named) => named.to_string(),
            None => self.ty.go_type(),
        }
    }

    /// The OpenAPI format of the value: `int32`, `date-time`, `byte` …
    pub fn format(&self) -> Option<&'static str> {
        self.ty.format()
    }
}

impl Type {
    /// The list, if it is one.
    pub fn list(&self) -> Option<&List> {
        match self {
            Type::List(list) => Some(list),
            _ => None,
        }
    }

    /// The shape of the value, or of the items or values if it is a list or map of objects.
    pub fn message(&self) -> Option<&Message> {
        match self {
            Type::Struct(message) => Some(message),
            Type::List(list) => list.items.message(),
            Type::Map(map) => map.values.message(),
            _ => None,
        }
    }

    /// Whether server-side apply replaces such a value as a whole.
    pub fn is_atomic(&self) -> bool {
        match self {
            Type::Struct(message) => message.is_atomic(),
            Type::List(list) => matches!(list.kind, ListKind::Unsaid | ListKind::Atomic),
            Type::Map(map) => map.atomic,
            Type::Any | Type::Raw => false,
            _ => true,
        }
    }

    /// The OpenAPI format.
    pub fn format(&self) -> Option<&'static str> {
        match self {
            Type::Int32 => Some("int32"),
            Type::Int64 => Some("int64"),
            Type::Double => Some("double"),
            Type::Bytes => Some("byte"),
            Type::Time | Type::MicroTime => Some("date-time"),
            Type::IntOrString => Some("int-or-string"),
            _ => None,
        }
    }

    /// The Go type as upstream's errors word it.
    pub fn go_type(&self) -> String {
        let plain = match self {
            Type::String => "string",
            Type::Bool => "bool",
            Type::Int32 => "int32",
            Type::Int64 => "int64",
            Type::Double => "float64",
            Type::Bytes => "[]uint8",
            Type::Time => "v1.Time",
            Type::MicroTime => "v1.MicroTime",
            Type::Duration => "v1.Duration",
            Type::Quantity => "resource.Quantity",
            Type::IntOrString => "intstr.IntOrString",
            Type::Any => "interface {}",
            Type::Raw => "runtime.RawExtension",
            Type::Fields => "v1.FieldsV1",
            Type::Struct(message) | Type::SchemaOr(_, message) => message.go_name(),
            Type::List(list) => return format!("[]{}", list.items.go_type()),
            Type::Map(map) => return format!("map[string]{}", map.values.go_type()),
        };
        plain.to_owned()
    }
}
