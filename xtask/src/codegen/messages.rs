//! Reads the sources of `k8s-pb`: messages with the numbers, types and markers of their fields.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::files;

/// A message as `prost` declares it.
pub(super) struct Message {
    /// The full name, the last part in Rust's spelling.
    pub(super) name: String,
    pub(super) markers: Vec<Marker>,
    pub(super) fields: Vec<Field>,
}

/// A field as `prost` declares it.
pub(super) struct Field {
    pub(super) number: u32,
    /// Rust's spelling.
    pub(super) name: String,
    /// `*` for lists, `%` for maps, then the letter of the type.
    pub(super) code: String,
    /// The full name of the message that `m` stands for.
    pub(super) target: Option<String>,
    pub(super) markers: Vec<Marker>,
}

/// A line such as `+listType=map` in a description.
#[derive(Clone)]
pub(super) struct Marker {
    pub(super) name: String,
    pub(super) value: String,
}

/// Reads every message below a folder.
pub(super) fn read(folder: &Path) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    for path in files(folder)? {
        let module = path
            .parent()
            .and_then(|parent| parent.strip_prefix(folder).ok())
            .context("a file lies below its folder")?;
        let module: Vec<&str> = module.iter().filter_map(|part| part.to_str()).collect();
        if !module.is_empty() && path.ends_with("mod.rs") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            read_module(&module, &text, &mut messages).with_context(|| format!("read {}", path.display()))?;
        }
    }
    Ok(messages)
}

fn read_module(module: &[&str], text: &str, messages: &mut Vec<Message>) -> Result<()> {
    let mut markers = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(doc) = line.strip_prefix("///") {
            markers.extend(marker(doc));
        } else if let Some(name) = line.strip_prefix("pub struct ") {
            let name = name.trim_end_matches([' ', '{', '}']);
            let mut message =
                Message { name: full_name(module, name)?, markers: std::mem::take(&mut markers), fields: Vec::new() };
            if !line.ends_with('}') {
                read_fields(module, &mut lines, &mut message.fields)?;
            }
            messages.push(message);
        } else if !line.starts_with("#[") {
            markers.clear();
        }
    }
    Ok(())
}

/// Reads fields up to the closing brace.
fn read_fields<'a>(module: &[&str], lines: &mut impl Iterator<Item = &'a str>, fields: &mut Vec<Field>) -> Result<()> {
    let mut markers = Vec::new();
    let mut declaration = String::new();
    for line in lines {
        let line = line.trim();
        if line == "}" && declaration.is_empty() {
            return Ok(());
        }
        if let Some(doc) = line.strip_prefix("///") {
            markers.extend(marker(doc));
            continue;
        }
        if line.starts_with("#[deprecated") {
            continue;
        }
        declaration.push_str(line);
        declaration.push(' ');
        // A declaration is an attribute and, after it, a name and a type up to a comma outside of brackets.
        if declaration.contains("pub ") && line.ends_with(',') && balanced(&declaration) {
            fields
                .push(field(module, &declaration, std::mem::take(&mut markers)).with_context(|| declaration.clone())?);
            declaration.clear();
        }
    }
    bail!("a struct without end")
}

fn balanced(text: &str) -> bool {
    let count = |wanted: char| text.chars().filter(|letter| *letter == wanted).count();
    count('<') == count('>') && count('[') == count(']')
}

fn marker(doc: &str) -> Option<Marker> {
    let text = doc.trim().strip_prefix('+')?;
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let name = name.strip_prefix("k8s:").unwrap_or(name);
    let is_word = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == ':');
    is_word.then(|| Marker { name: name.to_owned(), value: value.trim().to_owned() })
}

fn field(module: &[&str], declaration: &str, markers: Vec<Marker>) -> Result<Field> {
    let (attribute, rest) = declaration.split_once(")]").context("an attribute ends")?;
    let (_, attribute) = attribute.split_once("#[prost(").context("an attribute of prost")?;
    let (_, member) = rest.split_once("pub ").context("a public field")?;
    let (name, ty) = member.split_once(':').context("a field has a type")?;
    let (_, tag) = attribute.split_once("tag = \"").context("a field has a number")?;
    let number = tag.split('"').next().unwrap_or_default().parse()?;
    let kind = attribute.split([',', ' ']).next().unwrap_or_default();
    let (code, target) = match kind {
        "message" => ("m", Some(target(module, ty)?)),
        "btree_map" => match attribute.split('"').nth(1).context("a map has types")? {
            "string, string" => ("%s", None),
            "string, bytes" => ("%y", None),
            "string, message" => ("%m", Some(target(module, ty)?)),
            other => bail!("a map of {other}"),
        },
        "string" => ("s", None),
        "int32" => ("i", None),
        "int64" => ("l", None),
        "bool" => ("b", None),
        "double" => ("d", None),
        "bytes" => ("y", None),
        other => bail!("a field of type {other}"),
    };
    let repeated = if attribute.contains("repeated") { "*" } else { "" };
    let name = name.trim().trim_start_matches("r#").to_owned();
    Ok(Field { number, name, code: format!("{repeated}{code}"), target, markers })
}

/// The full name of the message within `Option`, `Vec`, `Box` or a map.
fn target(module: &[&str], ty: &str) -> Result<String> {
    let mut parts = ty.rsplit(['<', ',']).map(|part| part.trim_matches(['>', ' ']));
    let innermost = parts.find(|part| !part.is_empty()).context("a type has a name")?;
    let path: Vec<&str> = innermost.split("::").collect();
    let (name, path) = path.split_last().context("a path has a last part")?;
    let ups = path.iter().take_while(|part| **part == "super").count();
    let base = module.get(..module.len() - ups).context("a path stays within the crate")?;
    full_name(&[base, &path[ups..]].concat(), name)
}

/// The full name as OpenAPI spells packages.
fn full_name(module: &[&str], name: &str) -> Result<String> {
    let (root, rest) = module.split_first().context("a message lies in a module")?;
    let root = match *root {
        "api" => "io.k8s.api",
        "apimachinery" => "io.k8s.apimachinery",
        "apiextensions_apiserver" => "io.k8s.apiextensions-apiserver",
        "kube_aggregator" => "io.k8s.kube-aggregator",
        "metrics" => "io.k8s.metrics",
        other => bail!("module {other} is none of Kubernetes'"),
    };
    Ok([&[root], rest, &[name]].concat().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = r#"
/// Probe describes a check.
/// +structType=atomic
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Probe {
    /// The action.
    #[prost(message, optional, tag = "1")]
    pub handler: ::core::option::Option<ProbeHandler>,
    /// Steps.
    /// +listType=map
    /// +listMapKey=name
    /// +k8s:optional
    #[prost(message, repeated, tag = "12")]
    pub r#type: ::prost::alloc::vec::Vec<
        super::super::super::apimachinery::pkg::apis::meta::v1::Condition,
    >,
    #[prost(btree_map = "string, message", tag = "3")]
    pub limits: ::prost::alloc::collections::BTreeMap<
        ::prost::alloc::string::String,
        super::super::super::apimachinery::pkg::api::resource::Quantity,
    >,
    #[prost(int32, repeated, packed = "false", tag = "4")]
    pub codes: ::prost::alloc::vec::Vec<i32>,
}
pub struct Empty {}
"#;

    #[test]
    fn declarations_are_read() {
        let mut messages = Vec::new();
        read_module(&["api", "core", "v1"], MODULE, &mut messages).expect("well formed");
        let names: Vec<&str> = messages.iter().map(|message| message.name.as_str()).collect();
        assert_eq!(names, ["io.k8s.api.core.v1.Probe", "io.k8s.api.core.v1.Empty"]);
        assert_eq!(messages[0].markers[0].name, "structType");
        let fields: Vec<(u32, &str, &str, Option<&str>)> = messages[0]
            .fields
            .iter()
            .map(|field| (field.number, field.name.as_str(), field.code.as_str(), field.target.as_deref()))
            .collect();
        assert_eq!(
            fields,
            [
                (1, "handler", "m", Some("io.k8s.api.core.v1.ProbeHandler")),
                (12, "type", "*m", Some("io.k8s.apimachinery.pkg.apis.meta.v1.Condition")),
                (3, "limits", "%m", Some("io.k8s.apimachinery.pkg.api.resource.Quantity")),
                (4, "codes", "*i", None),
            ]
        );
        let markers: Vec<&str> = messages[0].fields[1].markers.iter().map(|marker| marker.name.as_str()).collect();
        assert_eq!(markers, ["listType", "listMapKey", "optional"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let read = |text: &str| read_module(&["api", "x"], text, &mut Vec::new());
        assert!(read("pub struct Open {\n").is_err());
        assert!(read("pub struct A {\n#[prost(sint32, tag = \"1\")]\npub a: i32,\n}\n").is_err());
        assert!(read("pub struct A {\n#[prost(int32, tag = \"x\")]\npub a: i32,\n}\n").is_err());
        assert!(read_module(&["elsewhere"], "pub struct A {}\n", &mut Vec::new()).is_err());
    }
}
