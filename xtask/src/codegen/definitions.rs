//! Reads the sources of `k8s-openapi`: names of definitions and their fields, and which are kinds.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::files;

/// What the OpenAPI document says.
#[derive(Default)]
pub(super) struct Definitions {
    /// JSON names of fields by the definition's full name.
    pub(super) fields: BTreeMap<String, Vec<String>>,
    /// Full names by `group/version`; lists are among them.
    pub(super) kinds: BTreeMap<String, Vec<String>>,
}

/// Reads every definition below the folder of one API level.
pub(super) fn read(folder: &Path) -> Result<Definitions> {
    let mut definitions = Definitions::default();
    for path in files(folder)? {
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let Some(name) = text.strip_prefix("// Generated from definition ").and_then(|rest| rest.lines().next()) else {
            continue;
        };
        definitions.fields.insert(name.to_owned(), text.lines().filter_map(field_name).collect());
        if let (Some(group), Some(version)) = (constant(&text, "GROUP"), constant(&text, "VERSION")) {
            let kinds = definitions.kinds.entry(format!("{group}/{version}")).or_default();
            kinds.push(name.to_owned());
            if text.contains("const LIST_KIND") {
                kinds.push(format!("{name}List"));
            }
        }
    }
    Ok(definitions)
}

/// The name in a line such as `"minReadySeconds" => Field::Key_min_ready_seconds,`.
fn field_name(line: &str) -> Option<String> {
    let (name, rest) = line.trim().strip_prefix('"')?.split_once('"')?;
    rest.starts_with(" => Field::Key_").then(|| name.to_owned())
}

/// The value of `const NAME: &'static str = "…";` in the implementation of `Resource`.
fn constant<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, resource) = text.split_once("impl crate::Resource for ")?;
    let (_, rest) = resource.split_once(&format!("const {name}: &'static str = \""))?;
    rest.split('"').next()
}
