//! The cluster in a simulation: real store, API server, controllers, scheduler and node agents under one seed.
//!
//! Replaced are the clock, chance, the disk, the way to the API server and the container runtime; nothing is
//! re-implemented. [`run`] plays one seed: roll-outs of a Deployment while watches lag and end, requests fail or lose
//! their answers, and control plane, controllers, agents and machines die. What has to hold is said in `court.rs`.

mod cluster;
mod court;
mod link;
mod mishap;
mod observer;
mod rest;
mod scenario;
mod worker;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};

use stdx::sim::Simulation;

pub use court::{INVARIANTS, Violation};

use court::Court;
use scenario::Scenario;

/// What playing a seed came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    /// Equal for two runs of a seed, or something in it does not obey the seed.
    pub trace: u64,
    /// What happened, in a line.
    pub summary: String,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
}

/// Plays a seed once.
pub fn run_once(seed: u64) -> Report {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let folder = Folder::new(seed, RUNS.fetch_add(1, Ordering::Relaxed));
    let court = Court::default();
    let simulation = Simulation::new(seed);
    let scenario = Scenario::new(&simulation, seed, court.clone(), folder.0.clone());
    let story = scenario.story();
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| simulation.run_until(scenario.play())));
    let summary = match outcome {
        Ok(Ok(summary)) => summary,
        Ok(Err(error)) => {
            court.accuse("progress", error.to_string());
            format!("did not end: {}", story.told())
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            court.accuse("panic", text.unwrap_or_default());
            format!("panicked: {}", story.told())
        }
    };
    Report { seed, trace: simulation.trace(), summary, violation: court.verdict() }
}

/// Plays a seed twice: the second run has to be the first one again.
pub fn run(seed: u64) -> Report {
    let first = run_once(seed);
    let second = run_once(seed);
    if first.violation.is_none() && first.trace != second.trace {
        let text = format!("traces {:016x} and {:016x}", first.trace, second.trace);
        return Report { violation: Some(Violation { invariant: "determinism", text }), ..first };
    }
    first
}

/// Where agents put the files of their pods; gone after the run.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(seed: u64, run: u64) -> Folder {
        let memory = std::path::Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Folder(base.join(format!("isopod-sim-{}-{seed}-{run}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "folder of a simulation not removed");
            }
            _ => {}
        }
    }
}
