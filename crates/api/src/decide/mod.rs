//! What several components decide about one object, each question answered in one place.

pub mod affinity;
pub mod conditions;
pub mod hash;
pub mod names;
pub mod pod;
pub mod qos;
pub mod resources;
pub mod taints;
pub mod trouble;

pub use hash::template_hash;
pub use qos::{QosClass, qos_class};
pub use resources::Resources;
