//! What a controller is and the one loop that runs them all: caches, queues, freshness, stages, events.
//!
//! A controller implements [`Controller`]: pure functions from what is observed to a [`Plan`]. `run.rs` alone carries plans
//! out, so order, retries, freshness and events are the same for every controller.

pub mod carry;
pub mod controller;
pub mod event;
pub mod freshness;
pub mod plan;
pub mod queue;
pub mod run;

pub use carry::ON_THE_WAY;
pub use controller::{Authority, Controller, Facts, NodeRanges, Now, View, WantedCertificate, Watch, indexes};
pub use event::Recorder;
pub use plan::{
    Action, Asker, Change, Failure, Need, Note, Outcomes, Plan, Propagation, Reference, Resource, Severity, Stage, Verb,
};
pub use run::{Caches, Runner};
