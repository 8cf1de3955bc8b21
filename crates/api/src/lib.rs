//! The object model: schema table, field paths, quantities, selectors, patches, projections, encodings, and what
//! several components decide about one object. Pure: no I/O, no clock, no tasks.

pub mod codec;
pub mod decide;
pub mod field;
pub mod meta;
pub mod names;
pub mod patch;
pub mod projection;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod value;
