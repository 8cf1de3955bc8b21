//! Chooses a node for each pod that has none.
//!
//! [`schedule::schedule`] is pure: a pod, the nodes and the plugins in, a [`schedule::Decision`] out; [`explain::explain`] says why.
//! A [`board::Board`] decides the same sooner, by what it worked out for pods that are alike. [`run::run`] keeps the board up to date,
//! takes pods from the [`queue`], overlays its own assumed bindings, binds, and makes room for important pods ([`preempt`]).

pub mod amounts;
pub mod board;
pub mod case;
pub mod explain;
pub mod nodes;
pub mod plugin;
pub mod plugins;
pub mod preempt;
pub mod queue;
pub mod run;
pub mod schedule;
pub mod siblings;
pub mod subject;
#[cfg(test)]
mod testing;
pub mod topology;
pub mod unhonoured;

pub use board::Board;
pub use explain::{Explanation, explain};
pub use nodes::{NodeInfo, Nodes};
pub use plugin::{Judge, Plugin, Verdict};
pub use schedule::{Decision, schedule};
pub use subject::Subject;
