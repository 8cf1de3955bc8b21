//! Compiles `table.txt` into arrays, once a process.
//!
//! A row is one of
//! - `T name [K][A][U]`: a message; K has type meta, A atomic, U union;
//! - `number name[~] type[?][!][z] attribute…`: its field, number `-` where it has none. `~` is an inlined struct. Types are
//!   `s`tring `b`ool `i`nt32 `l` int64 `d`ouble b`y`tes `T`ime microtime `U` `D`uration `Q`uantity int-or-string `X` `J` any
//!   `R`aw `F`ields, `w`rapped list of strings, `m`, `A`, `B`, `S` with the position of a message (struct; schema or array, bool,
//!   strings); before them `*` list and `%` map. `?` is nullable, `!` always written, `z` left out when zero.
//!   Attributes: `a` `s` `m:keys` list type, `A` atomic, `p:key[/r]` `r` `R` strategic merge (by key, retaining keys, replacing), `g:` Go
//!   type, `e:` values with `~` for blanks, `D` discriminator, `d:` default as JSON;
//! - `K group/version positions…`: the kinds among the messages.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::message::{List, ListKind, MapType, MessageFlags, Patch, Rare, SchemaOr, Target, Wire};
use super::{Field, Message, MessageRef, Presence, Type, WireField, WireMember};
use crate::value::{Key, Value};

const TEXT: &str = include_str!("table.txt");

/// The compiled table.
pub(super) struct Table {
    pub(super) messages: Box<[Message]>,
    /// Positions in `messages`, sorted by name.
    by_name: Box<[u16]>,
    kinds: Box<[Kind]>,
}

struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    message: u16,
}

/// The built-in table.
pub(super) fn global() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| compile(TEXT))
}

/// A message's rows, before inlined structs are resolved.
struct Draft {
    name: &'static str,
    flags: &'static str,
    rows: Vec<Row>,
}

#[derive(Clone)]
struct Row {
    number: u32,
    name: &'static str,
    inlined: bool,
    ty: Type,
    presence: Presence,
    nullable: bool,
    rare: Option<Box<Rare>>,
}

fn compile(text: &'static str) -> Table {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut groups: Vec<&'static str> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(head) = line.strip_prefix("T ") {
            let (name, flags) = head.split_once(' ').unwrap_or((head, ""));
            drafts.push(Draft { name, flags, rows: Vec::new() });
        } else if let Some(kinds) = line.strip_prefix("K ") {
            groups.push(kinds);
        } else {
            drafts.last_mut().expect("a table begins with a message").rows.push(row(line));
        }
    }
    let inlined = inlined_rows(&drafts);
    let names: Vec<&'static str> = drafts.iter().map(|draft| draft.name).collect();
    let messages: Box<[Message]> = drafts.into_iter().map(|draft| message(draft, &inlined)).collect();
    let mut by_name: Vec<u16> = (0..messages.len() as u16).collect();
    by_name.sort_unstable_by_key(|at| names[usize::from(*at)]);
    let kinds = groups.into_iter().flat_map(|line| kinds_of(line, &names)).collect();
    Table { messages, by_name: by_name.into(), kinds }
}

/// The rows of the few messages that others inline, by position.
type Inlined = BTreeMap<u16, Vec<Row>>;

fn inlined_rows(drafts: &[Draft]) -> Inlined {
    let rows = drafts.iter().flat_map(|draft| &draft.rows).filter(|row| row.inlined);
    let targets = rows.filter_map(|row| match row.ty {
        Type::Struct(MessageRef(Target::Table(inner))) => Some(inner),
        _ => None,
    });
    targets.map(|inner| (inner, drafts[usize::from(inner)].rows.clone())).collect()
}

/// Every field's name, with repetitions.
pub(super) fn field_names() -> Vec<&'static str> {
    let rows = TEXT.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit() || first == '-'));
    let names = rows.filter_map(|row| row.split(' ').nth(1)).filter(|name| !name.ends_with('~'));
    names.chain(["kind", "apiVersion"]).collect()
}

fn row(line: &'static str) -> Row {
    let mut parts = line.split(' ');
    let number = parts.next().expect("a row has a number");
    let name = parts.next().expect("a row has a name");
    let code = parts.next().expect("a row has a type");
    let mut chars = code.chars().peekable();
    let mut ty = parse_type(&mut chars);
    let (mut presence, mut nullable) = (Presence::OmitEmpty, false);
    for flag in chars {
        match flag {
            '?' => nullable = true,
            '!' => presence = Presence::Always,
            'z' => presence = Presence::OmitZero,
            _ => unreachable!("a flag of the table: {line}"),
        }
    }
    let mut rare = Rare::default();
    parts.for_each(|attribute| apply_attribute(attribute, &mut ty, &mut rare));
    Row {
        number: number.parse().unwrap_or(0),
        name: name.trim_end_matches('~'),
        inlined: name.ends_with('~'),
        ty,
        presence,
        nullable,
        rare: (!is_plain(&rare)).then(|| Box::new(rare)),
    }
}

fn is_plain(rare: &Rare) -> bool {
    rare.default.is_none()
        && rare.enumeration.is_empty()
        && rare.patch.is_none()
        && rare.go_type.is_none()
        && !rare.discriminator
        && !rare.atomic
}

fn parse_type(chars: &mut std::iter::Peekable<std::str::Chars<'static>>) -> Type {
    match chars.next().expect("a type has a letter") {
        's' => Type::String,
        'b' => Type::Bool,
        'i' => Type::Int32,
        'l' => Type::Int64,
        'd' => Type::Double,
        'y' => Type::Bytes,
        'T' => Type::Time,
        'U' => Type::MicroTime,
        'D' => Type::Duration,
        'Q' => Type::Quantity,
        'X' => Type::IntOrString,
        'J' => Type::Any,
        'R' => Type::Raw,
        'F' => Type::Fields,
        'w' => Type::List(Box::new(List { items: Type::String, kind: ListKind::Unsaid, wrapped: true })),
        'm' => Type::Struct(parse_target(chars)),
        'A' => Type::SchemaOr(SchemaOr::Array, parse_target(chars)),
        'B' => Type::SchemaOr(SchemaOr::Bool, parse_target(chars)),
        'S' => Type::SchemaOr(SchemaOr::StringArray, parse_target(chars)),
        '*' => Type::List(Box::new(List { items: parse_type(chars), kind: ListKind::Unsaid, wrapped: false })),
        '%' => Type::Map(Box::new(MapType { values: parse_type(chars), atomic: false })),
        letter => unreachable!("a type of the table: {letter}"),
    }
}

fn parse_target(chars: &mut std::iter::Peekable<std::str::Chars<'static>>) -> MessageRef {
    let mut at = 0;
    while let Some(digit) = chars.peek().and_then(|letter| letter.to_digit(10)) {
        at = at * 10 + digit as u16;
        chars.next();
    }
    MessageRef(Target::Table(at))
}

fn apply_attribute(attribute: &'static str, ty: &mut Type, rare: &mut Rare) {
    let (name, argument) = attribute.split_once(':').unwrap_or((attribute, ""));
    match (name, ty) {
        ("a", Type::List(list)) => list.kind = ListKind::Atomic,
        ("s", Type::List(list)) => list.kind = ListKind::Set,
        ("m", Type::List(list)) => list.kind = ListKind::Map(argument.split(',').map(Arc::from).collect()),
        ("A", Type::Map(map)) => map.atomic = true,
        ("A", _) => rare.atomic = true,
        ("p", _) => {
            let (key, retain) = argument.split_once('/').map_or((argument, false), |(key, _)| (key, true));
            rare.patch = Some(Patch { replace: false, merge_key: Some(Arc::from(key)), retain_keys: retain });
        }
        ("r", _) => rare.patch = Some(Patch { replace: false, merge_key: None, retain_keys: true }),
        ("R", _) => rare.patch = Some(Patch { replace: true, merge_key: None, retain_keys: false }),
        ("g", _) => rare.go_type = Some(Arc::from(argument)),
        ("e", _) => rare.enumeration = argument.split(',').map(|value| Arc::from(value.replace('~', " "))).collect(),
        ("D", _) => rare.discriminator = true,
        ("d", _) => rare.default = Some(default_value(argument)),
        _ => unreachable!("an attribute of the table: {attribute}"),
    }
}

/// Defaults are scalars; texts are quoted.
fn default_value(json: &str) -> Value {
    match json {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        quoted if quoted.starts_with('"') => Value::from(quoted.trim_matches('"')),
        number => Value::Int(number.parse().expect("a default of the table is a bool, a text or an integer")),
    }
}

fn message(draft: Draft, inlined: &Inlined) -> Message {
    let flags = MessageFlags {
        type_meta: draft.flags.contains('K'),
        atomic: draft.flags.contains('A'),
        union: draft.flags.contains('U'),
        open: false,
    };
    let mut fields = Vec::with_capacity(draft.rows.len() + 2);
    if flags.type_meta {
        for name in ["kind", "apiVersion"] {
            let name = Key::new(name);
            fields.push(Field {
                name,
                number: 0,
                ty: Type::String,
                presence: Presence::OmitEmpty,
                nullable: false,
                rare: None,
            });
        }
    }
    let wire = add_rows(draft.rows, inlined, &mut fields);
    Message::with_wire(Arc::from(draft.name), flags, fields, wire)
}

/// Adds the rows' fields, those of inlined structs in their place, and returns their protobuf form.
fn add_rows(rows: Vec<Row>, inlined: &Inlined, fields: &mut Vec<Field>) -> Wire {
    let mut wire = Vec::with_capacity(rows.len());
    for row in rows {
        let Row { number, name, ty, presence, nullable, rare, .. } = row;
        let member = match &ty {
            Type::Struct(MessageRef(Target::Table(inner))) if row.inlined => {
                WireMember::Inlined(add_rows(inlined[inner].clone(), inlined, fields))
            }
            _ => {
                fields.push(Field { name: Key::new(name), number, ty, presence, nullable, rare });
                WireMember::Field((fields.len() - 1) as u16)
            }
        };
        if number > 0 {
            wire.push(WireField { number, member });
        }
    }
    wire.sort_unstable_by_key(|field| field.number);
    wire.into()
}

fn kinds_of(line: &'static str, names: &[&'static str]) -> Vec<Kind> {
    let (group_version, positions) = line.split_once(' ').expect("a line of kinds has a group and positions");
    let (group, version) = group_version.split_once('/').expect("a group has a version");
    let kind = |position: &str| {
        let message: u16 = position.parse().expect("a kind is a position");
        let kind = names[usize::from(message)].rsplit('.').next().expect("a split has a last part");
        Kind { group, version, kind, message }
    };
    positions.split(' ').map(kind).collect()
}

impl Table {
    /// The position of the message of that name.
    pub(super) fn position(&self, name: &str) -> Option<u16> {
        let found = self.by_name.binary_search_by(|at| self.messages[usize::from(*at)].name().cmp(name)).ok()?;
        Some(self.by_name[found])
    }

    pub(super) fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Message> {
        let wanted = (group, version, kind);
        let found = self.kinds.iter().find(|row| (row.group, row.version, row.kind) == wanted)?;
        Some(&self.messages[usize::from(found.message)])
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, &Message)> {
        self.kinds.iter().map(|row| (row.group, row.version, row.kind, &self.messages[usize::from(row.message)]))
    }
}
