//! The schema table: what is known of every message of every built-in group, and the same for custom resources.
//!
//! `table.txt` is written by `cargo xtask codegen` and compiled on first use.

mod message;
pub(crate) mod names;
mod table;

pub use message::{Field, List, ListKind, MapType, Message, MessageFlags, MessageRef, Patch, Presence, SchemaOr, Type};
pub(crate) use message::{WireField, WireMember, find_wire};
use names::Name;

/// The built-in message of that OpenAPI name, such as `io.k8s.api.core.v1.PodSpec`.
pub fn message(name: &str) -> Option<&'static Message> {
    let table = table::global();
    table.position(name).map(|at| &table.messages[usize::from(at)])
}

/// The built-in message of that kind. The core group is empty. The options kinds of `meta/v1` (`DeleteOptions` …) are found
/// in every group, as upstream registers them everywhere.
pub fn kind(group: &str, version: &str, kind: &str) -> Option<&'static Message> {
    table::global().kind(group, version, kind).or_else(|| {
        let everywhere = [
            "CreateOptions",
            "DeleteOptions",
            "GetOptions",
            "ListOptions",
            "PatchOptions",
            "UpdateOptions",
            "WatchEvent",
        ];
        everywhere.contains(&kind).then(|| table::global().kind("", "v1", kind))?
    })
}

/// Every built-in kind: group, version, kind and shape; lists and kinds that are only sent or answered are among them.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static Message)> {
    table::global().kinds()
}

/// Every built-in message.
pub fn messages() -> impl Iterator<Item = &'static Message> {
    table::global().messages.iter()
}

#[cfg(test)]
mod tests;
