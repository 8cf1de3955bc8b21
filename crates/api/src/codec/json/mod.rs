//! JSON: text to tree, and tree to text with a schema or without.

mod encode;
mod normal;
mod parse;
pub(crate) mod write;

pub(crate) use encode::{absent, is_omitted, is_struct, is_zero, name, schema_of, typed, zero};
pub use encode::{encode, encode_into};
pub(crate) use normal::is_normal;
pub(crate) use parse::faults;
pub use parse::parse;
pub use write::{Order, encode_any};

#[cfg(test)]
mod tests;
