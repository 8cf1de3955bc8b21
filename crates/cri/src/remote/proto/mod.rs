//! CRI's messages on the wire, of `runtime.v1`: the fields that the contract carries. Names and numbers are CRI's; enumerations
//! are plain numbers, since a newer runtime may send ones that are not known yet.
//!
//! Requests that differ in name only are declared once.

mod container;
mod image;
mod runtime;
mod sandbox;
mod stats;

pub use container::*;
pub use image::*;
pub use runtime::*;
pub use sandbox::*;
pub use stats::*;

/// A request or answer without fields that matter.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Nothing {}
