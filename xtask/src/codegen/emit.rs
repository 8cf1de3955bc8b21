//! Joins the sources and writes the rows of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

use super::definitions::Definitions;
use super::messages::{Field, Marker, Message};
use super::overlay::{Facts, Overlay};
use super::{LEVEL, normalised};

/// A row before positions of messages are known.
struct Row {
    number: String,
    name: String,
    inlined: bool,
    code: String,
    target: Option<String>,
    /// Presence: what follows the type.
    flags: String,
    attributes: Vec<String>,
}

struct Joined {
    flags: String,
    rows: Vec<Row>,
}

/// The text of the table.
pub(super) fn table(messages: Vec<Message>, definitions: Definitions, overlay: Overlay) -> Result<String> {
    let names = Spellings::new(&definitions, &overlay);
    let mut joined = BTreeMap::new();
    let wrappers: BTreeSet<String> =
        messages.iter().filter(|message| is_wrapper(message)).map(|m| names.message(&m.name)).collect();
    let none = Facts::default();
    for message in &messages {
        let name = names.message(&message.name);
        let facts = overlay.messages.get(&name).unwrap_or(&none);
        let fields = definitions.fields.get(&name).map_or(&[][..], Vec::as_slice);
        let made = join(message, fields, facts, &names, &wrappers).with_context(|| name.clone())?;
        joined.insert(name, made);
    }
    for (name, facts) in &overlay.messages {
        if !joined.contains_key(name) {
            let fresh = Message { name: name.clone(), markers: Vec::new(), fields: Vec::new() };
            joined.insert(name.clone(), join(&fresh, &[], facts, &names, &wrappers).with_context(|| name.clone())?);
        }
    }
    let mut kinds = definitions.kinds;
    for (group, more) in overlay.kinds {
        kinds.entry(group).or_default().extend(more);
    }
    write(&joined, &kinds)
}

/// The right spelling of names that `prost` has changed.
struct Spellings(BTreeMap<String, String>);

impl Spellings {
    fn new(definitions: &Definitions, overlay: &Overlay) -> Self {
        let kinds = definitions.kinds.values().chain(overlay.kinds.values()).flatten();
        let all = definitions.fields.keys().chain(overlay.messages.keys()).chain(kinds);
        Self(all.map(|name| (normalised(name), name.clone())).collect())
    }

    fn message(&self, name: &str) -> String {
        self.0.get(&normalised(name)).cloned().unwrap_or_else(|| name.to_owned())
    }
}

/// Whether the message stands for a Go list with a name of its own, so that JSON has the list in its place.
fn is_wrapper(message: &Message) -> bool {
    matches!(message.fields.as_slice(), [field] if field.name == "items" && field.code == "*s")
}

fn join(
    message: &Message,
    json_names: &[String],
    facts: &Facts,
    names: &Spellings,
    wrappers: &BTreeSet<String>,
) -> Result<Joined> {
    let known: BTreeMap<String, &String> =
        facts.names().chain(json_names).map(|name| (normalised(name), name)).collect();
    let mut rows = Vec::new();
    for field in &message.fields {
        let name = known.get(&normalised(&field.name)).map_or_else(|| camel_case(&field.name), |name| (*name).clone());
        if !facts.removed.contains(&name) {
            rows.push(row(field, name, facts, names, wrappers));
        }
    }
    for added in &facts.added {
        let at = match added.after.as_str() {
            "" => 0,
            after => rows.iter().position(|row| row.name == after).with_context(|| format!("no field {after}"))? + 1,
        };
        let (code, target) = split_code(&added.code);
        let number = added.number.clone();
        rows.insert(
            at,
            Row {
                number,
                name: added.name.clone(),
                inlined: false,
                code,
                target,
                flags: String::new(),
                attributes: Vec::new(),
            },
        );
    }
    for row in &mut rows {
        finish(row, facts);
    }
    for name in facts.names() {
        if !rows.iter().any(|row| row.name == *name) {
            bail!("the overlay speaks of a field {name} that is not there");
        }
    }
    let mut flags = facts.flags.clone();
    let says =
        |name: &str, value: &str| message.markers.iter().any(|marker| marker.name == name && marker.value == value);
    if says("structType", "atomic") && !flags.contains('A') {
        flags.push('A');
    }
    if says("union", "") && !flags.contains('U') {
        flags.push('U');
    }
    Ok(Joined { flags, rows })
}

fn camel_case(name: &str) -> String {
    let mut out = String::new();
    for part in name.split('_') {
        match (out.is_empty(), part.chars().next()) {
            (false, Some(first)) => {
                out.push(first.to_ascii_uppercase());
                out.push_str(&part[first.len_utf8()..]);
            }
            _ => out.push_str(part),
        }
    }
    out
}

fn row(field: &Field, name: String, facts: &Facts, names: &Spellings, wrappers: &BTreeSet<String>) -> Row {
    let target = field.target.as_ref().map(|target| names.message(target));
    let prefix = field.code.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let (code, target) = match target {
        None => (field.code.clone(), None),
        Some(target) if wrappers.contains(&target) => (format!("{prefix}w"), None),
        Some(target) => match special(&target) {
            Some(letter @ ("A" | "B" | "S")) => (format!("{prefix}{letter}"), Some(target)),
            Some(letter) => (format!("{prefix}{letter}"), None),
            None => (field.code.clone(), Some(target)),
        },
    };
    let attributes = attributes(&field.markers, &code);
    Row {
        number: field.number.to_string(),
        inlined: facts.inlined.contains(&name),
        name,
        code,
        target,
        flags: String::new(),
        attributes,
    }
}

/// The letter of a type that has a form of its own in JSON.
fn special(target: &str) -> Option<&'static str> {
    let (package, name) = target.rsplit_once('.')?;
    match (package, name) {
        ("io.k8s.apimachinery.pkg.apis.meta.v1", "Time") => Some("T"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1", "MicroTime") => Some("U"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1", "Duration") => Some("D"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1", "FieldsV1") => Some("F"),
        ("io.k8s.apimachinery.pkg.api.resource", "Quantity") => Some("Q"),
        ("io.k8s.apimachinery.pkg.util.intstr", "IntOrString") => Some("X"),
        ("io.k8s.apimachinery.pkg.runtime", "RawExtension") => Some("R"),
        (_, "JSON") => Some("J"),
        (_, "JSONSchemaPropsOrArray") => Some("A"),
        (_, "JSONSchemaPropsOrBool") => Some("B"),
        (_, "JSONSchemaPropsOrStringArray") => Some("S"),
        _ => None,
    }
}

/// The attributes that a field's markers say.
fn attributes(markers: &[Marker], code: &str) -> Vec<String> {
    let first = |name: &str| markers.iter().find(|marker| marker.name == name).map(|marker| marker.value.as_str());
    let mut out = Vec::new();
    match first("listType") {
        _ if !code.starts_with(['*', 'w']) => {}
        Some("atomic") => out.push("a".to_owned()),
        Some("set") => out.push("s".to_owned()),
        Some("map") => {
            let mut keys: Vec<&str> = Vec::new();
            for marker in markers.iter().filter(|marker| marker.name == "listMapKey") {
                let key = marker.value.trim_matches('"');
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            out.push(format!("m:{}", keys.join(",")));
        }
        _ => {}
    }
    if first("mapType") == Some("atomic") || first("structType") == Some("atomic") {
        out.push("A".to_owned());
    }
    if let Some(strategies) = first("patchStrategy") {
        let has = |strategy: &str| strategies.split(',').any(|found| found == strategy);
        let retain = has("retainKeys");
        if has("merge") {
            out.push(format!("p:{}{}", first("patchMergeKey").unwrap_or_default(), if retain { "/r" } else { "" }));
        } else if retain {
            out.push("r".to_owned());
        } else if has("replace") {
            out.push("R".to_owned());
        }
    }
    if first("unionDiscriminator").is_some() {
        out.push("D".to_owned());
    }
    // References to Go constants say nothing here.
    if let Some(default) = first("default").filter(|default| !default.starts_with("ref(")) {
        out.push(format!("d:{default}"));
    }
    out
}

/// Splits `%mio.k8s.api.core.v1.Container` into code and message.
fn split_code(code: &str) -> (String, Option<String>) {
    match code.find("io.k8s.") {
        Some(at) => (code[..at].to_owned(), Some(code[at..].to_owned())),
        None => (code.to_owned(), None),
    }
}

/// Adds what the overlay says of a field.
fn finish(row: &mut Row, facts: &Facts) {
    if let Some(attributes) = facts.attributes.get(&row.name) {
        row.attributes = attributes.clone();
    }
    // Order: list type and atomicity, merge, Go type, values, discriminator, default.
    let late = row.attributes.iter().position(|attribute| attribute == "D" || attribute.starts_with("d:"));
    let at = late.unwrap_or(row.attributes.len());
    let go_type = facts.go_types.get(&row.name).map(|ty| format!("g:{ty}"));
    let values = facts.enums.get(&row.name).map(|values| format!("e:{values}"));
    row.attributes.splice(at..at, go_type.into_iter().chain(values));
    let flags = [(&facts.nullable, '?'), (&facts.always, '!'), (&facts.omit_zero, 'z')];
    row.flags = flags.into_iter().filter(|(fields, _)| fields.contains(&row.name)).map(|(_, flag)| flag).collect();
}

fn write(joined: &BTreeMap<String, Joined>, kinds: &BTreeMap<String, Vec<String>>) -> Result<String> {
    let reachable = reachable(joined, kinds.values().flatten())?;
    let positions: BTreeMap<&str, usize> = reachable.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let mut out = String::new();
    writeln!(
        out,
        "# Written by `cargo xtask codegen` for API level {LEVEL}; the format is described in table.rs. Do not edit."
    )?;
    for name in &reachable {
        let Joined { flags, rows } = &joined[*name];
        writeln!(out, "T {name}{}{flags}", if flags.is_empty() { "" } else { " " })?;
        for row in rows {
            write!(out, "{} {}{} {}", row.number, row.name, if row.inlined { "~" } else { "" }, row.code)?;
            if let Some(target) = &row.target {
                write!(out, "{}", positions[target.as_str()])?;
            }
            out.push_str(&row.flags);
            row.attributes.iter().try_for_each(|attribute| write!(out, " {attribute}"))?;
            out.push('\n');
        }
    }
    for (group, names) in kinds {
        let names: BTreeSet<&String> = names.iter().collect();
        let list: Vec<String> = names.into_iter().map(|name| positions[name.as_str()].to_string()).collect();
        writeln!(out, "K {group} {}", list.join(" "))?;
    }
    Ok(out)
}

/// The messages that kinds are made of; the others are of API versions that are no longer served.
fn reachable<'a>(
    joined: &'a BTreeMap<String, Joined>,
    kinds: impl Iterator<Item = &'a String>,
) -> Result<BTreeSet<&'a str>> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = kinds.map(String::as_str).collect();
    while let Some(name) = open.pop() {
        if found.insert(name) {
            let message = joined.get(name).with_context(|| format!("no message {name}"))?;
            open.extend(message.rows.iter().filter_map(|row| row.target.as_deref()));
        }
    }
    Ok(found)
}
