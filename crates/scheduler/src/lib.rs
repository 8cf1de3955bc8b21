//! Chooses a node for each pod that has none.
//!
//! [`schedule::schedule`] is pure: a pod, the nodes and the plugins in, a [`schedule::Decision`] out. [`run::run`] keeps the nodes up to date,
//! takes pods from the [`queue`], overlays its own assumed bindings, and binds.

pub mod nodes;
pub mod plugin;
pub mod plugins;
pub mod queue;
pub mod run;
pub mod schedule;
#[cfg(test)]
mod testing;
pub mod unhonoured;

pub use nodes::{NodeInfo, Nodes};
pub use plugin::{Judge, Plugin, Verdict};
pub use schedule::{Decision, schedule};
