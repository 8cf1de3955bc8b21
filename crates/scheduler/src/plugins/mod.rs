//! The plugins, one file each, in the order their filters run: upstream's default profile.

mod affinity;
mod balance;
mod fit;
mod images;
mod name;
mod pods;
mod ports;
mod spread;
mod taints;
mod unschedulable;

use crate::plugin::Plugin;

pub(crate) use affinity::{Named, named as named_nodes};
pub(crate) use images::holders;

/// The default profile's plugins. Those that look at one node only come before those that look at all.
pub static PLUGINS: &[&dyn Plugin] = &[
    &unschedulable::NodeUnschedulable,
    &name::NodeName,
    &taints::TaintToleration,
    &affinity::NodeAffinity,
    &ports::NodePorts,
    &fit::NodeResourcesFit,
    &spread::PodTopologySpread,
    &pods::InterPodAffinity,
    &balance::NodeResourcesBalancedAllocation,
    &images::ImageLocality,
];

/// The plugin of that name.
pub fn named(name: &str) -> Option<&'static dyn Plugin> {
    PLUGINS.iter().copied().find(|plugin| plugin.name() == name)
}
