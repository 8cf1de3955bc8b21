//! The embedded store keeps the contract, on a simulated disk under many schedules and on a real one.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod steps;
mod suite;

use std::sync::Arc;
use std::time::Duration;

use stdx::sim::Simulation;
use store::disk::{Disk, Faults, Real, Sim};
use store::{Embedded, Options, Plain, Store};

/// Small segments and snapshots, so that both turn over within a test.
fn small() -> Options {
    Options { segment_bytes: 2048, snapshot_log_bytes: 4096, ..Options::default() }
}

async fn open(disk: Arc<dyn Disk>) -> Embedded {
    Embedded::open(disk, small(), Arc::new(Plain)).await.unwrap()
}

/// Runs a test of the contract under twenty seeds.
fn simulated<F: Future<Output = ()> + Send + 'static>(test: impl Fn(Arc<dyn Store>) -> F) {
    for seed in 0..20 {
        let simulation = Simulation::new(seed);
        let disk = Sim::new(seed);
        disk.set_faults(Faults { delay_max: Duration::from_micros(300), ..Faults::default() });
        let store = simulation.run_until(open(Arc::new(disk))).unwrap();
        simulation.run_until(test(Arc::new(store))).unwrap();
    }
}

/// Runs a test of the contract on tokio and real files.
fn real<F: Future<Output = ()> + Send + 'static>(name: &str, test: impl Fn(Arc<dyn Store>) -> F) {
    let path = std::env::temp_dir().join(format!("isopod-store-contract-{name}-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(async {
            let store = open(Arc::new(Real::open(&path).unwrap())).await;
            test(Arc::new(store.clone())).await;
            store.close().await;
        });
    }));
    std::fs::remove_dir_all(&path).unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

macro_rules! contract {
    (everywhere: $($test:ident)*; where_time_is_simulated: $($slow:ident)*;) => {
        mod on_a_simulated_disk {
            $(#[test] fn $test() { super::simulated(super::suite::$test); })*
            $(#[test] fn $slow() { super::simulated(super::suite::$slow); })*
        }
        mod on_a_real_disk {
            $(#[test] fn $test() { super::real(stringify!($test), super::suite::$test); })*
        }
    };
}

contract! {
    everywhere:
        every_change_has_the_next_revision
        a_transaction_without_effect_spends_no_revision
        comparisons_decide_and_failures_show_what_is_there
        limits_are_kept
        pages_of_one_revision_show_one_picture_whatever_is_written_between
        older_revisions_can_be_read_until_they_are_compacted
        a_watch_yields_whole_transactions_with_what_was_there_before
        a_watch_waits_for_what_is_not_there_yet
        progress_is_told_once_everything_before_was_yielded
        a_watch_that_begins_too_early_or_falls_behind_is_told_so
        concurrent_updates_lose_nothing;
    where_time_is_simulated:
        keys_with_an_end_are_deleted_like_any_other;
}
