//! Bytes to trees and back: JSON, YAML, protobuf, and the check of a tree against its schema.

mod complete;
mod conform;
pub mod envelope;
mod error;
pub mod json;
pub mod protobuf;
mod prune;
mod slots;
mod time;
pub mod transcode;
pub mod yaml;

pub use complete::complete;
pub use conform::{Conformed, conform, conform_converted, strict_error, strict_faults};
pub use error::{DecodeError, EncodeError};
pub use prune::prune;
#[cfg(test)]
pub(crate) use slots::FIELDS_MAX;
pub use time::{duration_text, parse_duration};

use crate::value::Value;

/// How much a decoder takes. The caller bounds the size of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Objects and lists within one another. What walks trees does so on the stack.
    pub depth: usize,
    /// YAML: nodes after the expansion of aliases.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Upstream takes 10,000 levels; no schema and no sensible custom object comes near 256.
        Self { depth: 256, nodes: 1_000_000 }
    }
}

/// A decoded document.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The tree; of members that came twice it has the last.
    pub value: Value,
    /// The paths of members that came twice, at most a hundred.
    pub duplicates: Vec<String>,
}

#[cfg(test)]
mod tests;
