//! Protobuf as upstream's generated code writes and reads it, driven by the schema.

mod decode;
mod encode;
pub(crate) mod read;

pub use decode::decode;
pub(crate) use decode::{DEPTH_MAX, moment, single, text, too_deep};
pub(crate) use encode::write_varint;
pub use encode::{encode, encode_into};
