//! The node agent (kubelet): keeps this machine's pods as the API says, through the runtime, and tells how they are.
//!
//! Observe → plan → steps: `pod/worker.rs` takes events in, `pod/plan.rs` decides, `pod/steps.rs` acts, `pod/status.rs` tells.

pub mod admit;
pub mod agent;
pub mod cgroup;
pub mod checkpoint;
pub mod collect;
pub mod evict;
pub mod hook;
pub mod logs;
mod orphans;
pub mod pod;
pub mod pressure;
pub mod probe;
pub mod refs;
pub mod register;
pub mod reserve;
pub mod resize;
pub mod server;
pub mod services;
pub mod static_pods;
pub mod storage;
pub mod streams;
pub mod tokens;
pub mod upkeep;
pub mod users;
pub mod volume;

pub use agent::{Agent, Options, Rules};
