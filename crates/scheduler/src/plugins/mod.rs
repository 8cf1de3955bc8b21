//! The plugins, one file each, in the order their filters run: cheap and decisive ones first.

mod affinity;
mod fit;
mod name;
mod taints;
mod unschedulable;

use crate::plugin::Plugin;

/// The default profile's plugins.
pub static PLUGINS: &[&dyn Plugin] = &[
    &unschedulable::NodeUnschedulable,
    &name::NodeName,
    &taints::TaintToleration,
    &affinity::NodeAffinity,
    &fit::NodeResourcesFit,
];
