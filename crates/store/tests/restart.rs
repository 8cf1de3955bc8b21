//! What the embedded store finds when it is opened again, and how it behaves when its disk does not.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod steps;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stdx::sim::Simulation;
use steps::{commit, contents};
use store::disk::{Disk, Faults, Sim};
use store::{
    Embedded, Op, OpenError, Options, Plain, RangeRequest, RangeResponse, Store, StoreError, Transform, TxnOutcome,
    WatchItem,
};

fn small() -> Options {
    Options { segment_bytes: 2048, snapshot_log_bytes: 1 << 40, compact_interval: None, ..Options::default() }
}

fn simulated<T: Send + 'static>(test: impl Future<Output = T> + Send + 'static) -> T {
    Simulation::new(1).run_until(test).unwrap()
}

async fn try_open(disk: &Sim, options: Options) -> Result<Embedded, OpenError> {
    Embedded::open(Arc::new(disk.clone()), options, Arc::new(Plain)).await
}

async fn open(disk: &Sim) -> Embedded {
    try_open(disk, small()).await.unwrap()
}

fn everything(store: &Embedded) -> RangeResponse {
    store.range_now(&RangeRequest::prefix("")).unwrap()
}

/// Writes `count` keys of 100 bytes, each in a group of its own, and closes.
async fn fill(disk: &Sim, count: usize) -> RangeResponse {
    let store = open(disk).await;
    for number in 0..count {
        commit(&store, vec![Op::put(format!("key-{number:03}"), vec![b'v'; 100])]).await;
    }
    let response = everything(&store);
    store.close().await;
    response
}

/// Offsets of the frames of a segment.
fn frames(segment: &[u8]) -> Vec<u64> {
    (64..segment.len() as u64).step_by(8).filter(|at| segment[*at as usize..].starts_with(b"fram")).collect()
}

async fn refusal(disk: &Sim) -> String {
    let before = disk.files();
    let text = try_open(disk, small()).await.map(drop).unwrap_err().to_string();
    assert_eq!(disk.files(), before, "a store that does not open leaves the disk alone");
    text
}

#[test]
fn a_restart_finds_what_was_there_with_and_without_a_snapshot() {
    simulated(async {
        let disk = Sim::new(1);
        let before = fill(&disk, 50).await;
        let store = open(&disk).await;
        assert_eq!(everything(&store), before);
        commit(&store, vec![Op::delete("key-007"), Op::put("key-008", "new")]).await;
        assert!(disk.files().len() > 4);
        store.snapshot().await.unwrap();
        assert_eq!(disk.files().len(), 2, "a snapshot and one segment are left: {:?}", disk.files().keys());
        commit(&store, vec![Op::put("key-009", "after the snapshot")]).await;
        let before = everything(&store);
        store.close().await;
        let store = open(&disk).await;
        assert_eq!(everything(&store), before);
        assert_eq!(contents(&store, "key-009", None).await[0].1, "after the snapshot");
        assert_eq!(store.compact_revision(), store.revision() - 1);
    });
}

#[test]
fn snapshots_come_by_themselves_when_the_log_has_grown() {
    simulated(async {
        let disk = Sim::new(1);
        let store = try_open(&disk, Options { snapshot_log_bytes: 10_000, ..small() }).await.unwrap();
        let mut watch = store.watch(1);
        for number in 0..1000_u64 {
            let revision = commit(&store, vec![Op::put(format!("key-{}", number % 10), vec![b'v'; 100])]).await;
            assert_eq!(revision, number + 1);
        }
        for revision in 1..=1000 {
            let WatchItem::Batch(batch) = watch.next().await.unwrap() else { panic!() };
            assert_eq!(batch.revision, revision);
        }
        stdx::sleep(Duration::from_secs(1)).await;
        let bytes: usize = disk.files().values().map(Vec::len).sum();
        assert!(bytes < 30_000, "{bytes} bytes are left of 130,000");
        let before = everything(&store);
        store.close().await;
        assert_eq!(everything(&open(&disk).await), before);
    });
}

#[test]
fn a_torn_tail_is_dropped_and_writing_goes_on() {
    simulated(async {
        let disk = Sim::new(1);
        let before = fill(&disk, 5).await;
        let last = *frames(&disk.files()["log-0000000000000001"]).last().unwrap();
        disk.corrupt("log-0000000000000001", last + 40);
        let store = open(&disk).await;
        assert_eq!(store.revision(), 4);
        assert_eq!(everything(&store).entries, before.entries[..4]);
        commit(&store, vec![Op::put("later", "1")]).await;
        store.close().await;
        // The torn frame is still in the old segment, and still no harm.
        let store = open(&disk).await;
        assert_eq!((store.revision(), everything(&store).entries.len()), (5, 5));
    });
}

#[test]
fn a_corrupt_middle_is_refused_with_file_and_offset() {
    simulated(async {
        let disk = Sim::new(1);
        fill(&disk, 50).await;
        let files = disk.files();
        let first = frames(&files["log-0000000000000001"]);
        let check = async |file: &str, offset: u64, at: u64, reason: &str| {
            let disk = disk.power_cycle();
            disk.corrupt(file, offset);
            let text = refusal(&disk).await;
            assert!(text.starts_with(&format!("{file} is corrupt at offset {at}: ")), "{text}");
            assert!(text.contains(reason) && text.ends_with("restore the directory from a backup"), "{text}");
        };
        let (one, two) = ("log-0000000000000001", "log-0000000000000002");
        check(one, first[3] + 40, first[3], "checksum of the frame does not match, but whole frames follow").await;
        check(one, first[3], first[3], "no frame begins here, but whole frames follow").await;
        let last = *first.last().unwrap();
        check(one, last + 40, last, "checksum of the frame does not match, but frames reach up to offset").await;
        check(two, 64 + 8, 64, "frame").await;
        check(two, 20, 0, "checksum of the header").await;
        check(two, 0, 0, "header does not begin as it should").await;
    });
}

#[test]
fn zeros_in_the_middle_and_missing_files_are_refused() {
    simulated(async {
        let disk = Sim::new(1);
        fill(&disk, 50).await;
        let zeroed = disk.power_cycle();
        let file = zeroed.open("log-0000000000000001").await.unwrap();
        file.write(64, vec![0; 512].into(), store::disk::Durability::Now).await.unwrap();
        assert!(
            refusal(&zeroed).await.contains("log-0000000000000001 is corrupt at offset 64: nothing is written here")
        );
        let alone = Sim::new(1);
        fill(&alone, 3).await;
        let file = alone.open("log-0000000000000001").await.unwrap();
        file.write(64, vec![0; 32].into(), store::disk::Durability::Now).await.unwrap();
        assert!(refusal(&alone).await.ends_with("but whole frames follow; restore the directory from a backup"));
        let missing = disk.power_cycle();
        missing.remove("log-0000000000000002").await.unwrap();
        assert!(refusal(&missing).await.starts_with("log-0000000000000002 is missing: later log segments are there"));
        let snapshot = disk.power_cycle();
        let store = open(&snapshot).await;
        store.snapshot().await.unwrap();
        store.close().await;
        let segment = snapshot.files().into_keys().find(|name| name.starts_with("log-")).unwrap();
        snapshot.remove(&segment).await.unwrap();
        assert!(
            refusal(&snapshot).await.contains(&format!("{segment} is missing: snap-0000000000000032 is continued"))
        );
    });
}

#[test]
fn a_lost_tail_before_a_segment_that_was_skipped_is_noticed() {
    simulated(async {
        let disk = Sim::new(1);
        fill(&disk, 3).await;
        let store = open(&disk).await;
        // Too large for the new segment, to which nothing was written yet: that one stays empty.
        commit(&store, vec![Op::put("large", vec![b'v'; 5000])]).await;
        store.close().await;
        let files = disk.files();
        assert!(frames(&files["log-0000000000000002"]).is_empty() && frames(&files["log-0000000000000003"]).len() == 1);
        assert_eq!(open(&disk.power_cycle()).await.revision(), 4);
        let last = *frames(&files["log-0000000000000001"]).last().unwrap();
        disk.corrupt("log-0000000000000001", last + 40);
        assert!(refusal(&disk).await.contains("frames are missing before this one"));
    });
}

#[test]
fn a_corrupt_snapshot_is_refused_wherever_the_fault_is() {
    simulated(async {
        let disk = Sim::new(1);
        let store = open(&disk).await;
        commit(&store, vec![Op::put("a", vec![b'v'; 1000])]).await;
        store.snapshot().await.unwrap();
        store.close().await;
        let name = "snap-0000000000000001";
        let length = disk.files()[name].len() as u64;
        for offset in (0..length).step_by(7) {
            let disk = disk.power_cycle();
            disk.corrupt(name, offset);
            let text = refusal(&disk).await;
            assert!(text.starts_with(name), "{offset}: {text}");
        }
    });
}

/// Adds a number to every byte of values below `secrets/`, and remembers which number it was.
struct Shift(u8);

impl Transform for Shift {
    fn seal<'a>(&self, key: &[u8], plain: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        if !key.starts_with(b"secrets/") {
            return Ok(Cow::Borrowed(plain));
        }
        if plain == b"unsealable" {
            return Err("no key".into());
        }
        let shifted = plain.iter().map(|byte| byte.wrapping_add(self.0));
        Ok(Cow::Owned([self.0].into_iter().chain(shifted).collect()))
    }

    fn open<'a>(&self, key: &[u8], sealed: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        if !key.starts_with(b"secrets/") {
            return Ok(Cow::Borrowed(sealed));
        }
        match sealed.split_first() {
            Some((shift, rest)) if *shift == self.0 || *shift == 1 => {
                Ok(Cow::Owned(rest.iter().map(|byte| byte.wrapping_sub(*shift)).collect()))
            }
            _ => Err("sealed under an unknown key".into()),
        }
    }
}

fn on_disk(disk: &Sim, text: &str) -> bool {
    disk.files().values().any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[test]
fn sealed_values_are_plain_in_memory_only_and_a_snapshot_seals_them_anew() {
    simulated(async {
        let disk = Sim::new(1);
        let open = |shift| Embedded::open(Arc::new(disk.clone()), small(), Arc::new(Shift(shift)));
        let store = open(1).await.unwrap();
        commit(&store, vec![Op::put("secrets/a", "hunter2!"), Op::put("plain/a", "in the clear")]).await;
        let refused = store.txn(vec![], vec![Op::put("secrets/b", "unsealable")]).await;
        assert_eq!(refused, Err(StoreError::Seal { key: "secrets/b".into(), reason: "no key".into() }));
        assert_eq!(&store.get_now(b"secrets/a").unwrap().value[..], b"hunter2!");
        assert!(!format!("{:?}", store.get_now(b"secrets/a")).contains("hunter2!"));
        let visible =
            |disk: &Sim| (on_disk(disk, "hunter2!"), on_disk(disk, "ivoufs3\""), on_disk(disk, "in the clear"));
        assert_eq!(visible(&disk), (false, true, true));
        store.close().await;
        let store = open(2).await.unwrap();
        assert_eq!(&store.get_now(b"secrets/a").unwrap().value[..], b"hunter2!");
        store.snapshot().await.unwrap();
        assert_eq!(visible(&disk), (false, false, true));
        store.close().await;
        let error = open(3).await.map(drop).unwrap_err().to_string();
        assert_eq!(error, "open value of secrets/a in snap-0000000000000001: sealed under an unknown key");
        assert_eq!(&open(2).await.unwrap().get_now(b"secrets/a").unwrap().value[..], b"hunter2!");
    });
}

#[test]
fn a_disk_in_use_is_refused_until_it_is_given_up() {
    simulated(async {
        let disk = Sim::new(1);
        let store = open(&disk).await;
        let pid = std::process::id();
        let refused = try_open(&disk, small()).await.map(drop).unwrap_err();
        assert!(matches!(&refused, OpenError::InUse { pid: holder, .. } if *holder == pid));
        assert!(refused.to_string().ends_with(&format!("is in use by process {pid}")));
        store.close().await;
        let store = open(&disk).await;
        let watch = store.watch(1);
        drop(store);
        // Dropping the last handle closes as well, once the committer has noticed.
        stdx::sleep(Duration::from_secs(1)).await;
        drop(open(&disk).await);
        drop(watch);
    });
}

#[test]
fn a_closed_store_touches_its_disk_no_more() {
    simulated(async {
        let disk = Sim::new(1);
        let slow = Faults { delay_max: Duration::from_millis(100), ..Faults::default() };
        let store = open(&disk).await;
        disk.set_faults(slow);
        // More than half of the segment, so that the next one is being made.
        commit(&store, vec![Op::put("a", vec![b'v'; 1200])]).await;
        store.close().await;
        let operations = disk.operations();
        stdx::sleep(Duration::from_secs(10)).await;
        assert_eq!(disk.operations(), operations);
        assert!(disk.files().contains_key("log-0000000000000002"));
    });
}

#[test]
fn half_made_files_are_removed() {
    simulated(async {
        let disk = Sim::new(1);
        let before = fill(&disk, 3).await;
        for name in ["log-0000000000000009.tmp", "snap-0000000000000009.tmp"] {
            let file = disk.create(name).await.unwrap();
            file.write(0, vec![1; 100].into(), store::disk::Durability::Now).await.unwrap();
        }
        let store = open(&disk).await;
        assert_eq!(everything(&store), before);
        assert!(!disk.files().keys().any(|name| name.ends_with(".tmp")));
    });
}

#[test]
fn a_closed_store_says_so() {
    simulated(async {
        let disk = Sim::new(1);
        let store = open(&disk).await;
        let mut watch = store.watch(1);
        let racing: Vec<_> = (0..20)
            .map(|number| {
                let store = store.clone();
                stdx::spawn(async move { store.txn(vec![], vec![Op::put(format!("{number}"), "1")]).await })
            })
            .collect();
        store.close().await;
        let mut committed = 0;
        for outcome in racing {
            match outcome.await.unwrap() {
                Ok(_) => committed += 1,
                Err(error) => assert_eq!(error, StoreError::Closed),
            }
        }
        assert_eq!(store.txn(vec![], vec![Op::put("a", "1")]).await, Err(StoreError::Closed));
        for _ in 0..committed {
            assert!(matches!(watch.next().await, Ok(WatchItem::Batch(_))));
        }
        assert_eq!(watch.next().await, Err(StoreError::Closed));
        assert_eq!(open(&disk).await.revision(), committed);
    });
}

#[test]
fn after_a_failed_sync_nothing_more_is_written_and_reading_goes_on() {
    simulated(async {
        let disk = Sim::new(1);
        let store = open(&disk).await;
        commit(&store, vec![Op::put("a", "1")]).await;
        let mut watch = store.watch(2);
        disk.set_faults(Faults { sync_fails_at: Some(0), ..Faults::default() });
        let reason = "simulated failure of a sync".to_string();
        let outcome = store.txn(vec![], vec![Op::put("a", "2")]).await;
        assert_eq!(outcome, Err(StoreError::Unknown { reason: reason.clone() }));
        assert_eq!(store.broken().await, reason);
        disk.set_faults(Faults::default());
        let outcome = store.txn(vec![], vec![Op::put("a", "3")]).await;
        assert_eq!(outcome, Err(StoreError::Broken { reason }));
        assert_eq!(contents(&store, "", None).await, [("a".into(), "1".into())]);
        assert!(watch.try_next().is_none());
        store.close().await;
        let found = contents(&open(&disk).await, "", None).await;
        assert!(found[0].1 == "1" || found[0].1 == "2", "{found:?}");
    });
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    simulated(async {
        let disk = Sim::new(1);
        let store = open(&disk).await;
        commit(&store, vec![Op::put("a", "1")]).await;
        disk.set_faults(Faults { capacity_bytes: Some(3000), ..Faults::default() });
        let put = || store.txn(vec![], vec![Op::put("a", vec![b'v'; 500])]);
        let mut committed = 1;
        let refused = loop {
            match put().await {
                Ok(_) => committed += 1,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(&refused, StoreError::NoSpace { reason } if reason.contains("make a log segment")),
            "{refused}"
        );
        assert_eq!(store.revision(), committed);
        assert!(
            matches!(store.txn(vec![], vec![]).await, Ok(TxnOutcome::Committed { revision }) if revision == committed)
        );
        disk.set_faults(Faults::default());
        stdx::sleep(Duration::from_secs(2)).await;
        assert!(put().await.is_ok());
        store.close().await;
        assert_eq!(open(&disk).await.revision(), committed + 1);
    });
}

#[test]
fn the_quota_refuses_growth_and_lets_shrinking_through() {
    simulated(async {
        let disk = Sim::new(1);
        let store = try_open(&disk, Options { quota_bytes: 2000, ..small() }).await.unwrap();
        commit(&store, vec![Op::put("a", vec![b'v'; 1500])]).await;
        let refused = store.txn(vec![], vec![Op::put("b", vec![b'v'; 1500])]).await;
        let reason = "its quota of 2000 bytes is used up".into();
        assert_eq!(refused, Err(StoreError::NoSpace { reason }));
        commit(&store, vec![Op::delete("a")]).await;
        commit(&store, vec![Op::put("b", vec![b'v'; 1500])]).await;
    });
}

#[test]
fn ends_of_keys_survive_a_restart_a_snapshot_and_a_jump_of_the_wall_clock() {
    let simulation = Simulation::new(1);
    let node = simulation.node("node");
    let clock = node.clone();
    let test = node.run(async move {
        let disk = Sim::new(1);
        let store = open(&disk).await;
        let put = |key: &'static str, seconds| Op::put_for(key, "1", Duration::from_secs(seconds));
        commit(&store, vec![put("a", 100), put("b", 300), put("c", 300)]).await;
        store.snapshot().await.unwrap();
        commit(&store, vec![put("b", 200)]).await;
        store.close().await;
        stdx::sleep(Duration::from_secs(50)).await;
        let store = open(&disk).await;
        let keys = || everything(&store).entries.iter().map(|entry| entry.key.to_vec()).collect::<Vec<_>>();
        let mut left = BTreeMap::new();
        for second in 0..300 {
            if second == 80 {
                // A running store does not care what the wall clock does.
                clock.step_wall(jiff::SignedDuration::from_hours(5));
            }
            left.extend(keys().into_iter().map(|key| (key, second)));
            stdx::sleep(Duration::from_secs(1)).await;
        }
        let about = |key: &[u8], expected: i32| assert!((left[key] - expected).abs() <= 2, "{left:?}");
        about(b"a", 50);
        about(b"b", 150);
        about(b"c", 250);
        let revision = store.revision();
        store.close().await;
        assert_eq!(open(&disk).await.revision(), revision);
    });
    simulation.run_until(async { test.await.unwrap() }).unwrap();
}

#[test]
fn many_ends_at_once_are_grouped() {
    simulated(async {
        let disk = Sim::new(1);
        let store = open(&disk).await;
        for number in 0..1000 {
            commit(&store, vec![Op::put_for(format!("{number}"), "1", Duration::from_secs(10))]).await;
        }
        let operations = disk.operations();
        stdx::sleep(Duration::from_secs(12)).await;
        assert_eq!(everything(&store).count, 0);
        assert_eq!(store.revision(), 1008, "128 keys in a transaction");
        assert!(disk.operations() - operations < 30, "{}", disk.operations() - operations);
    });
}

#[test]
fn what_was_superseded_before_the_last_interval_is_forgotten_and_an_idle_store_does_nothing() {
    simulated(async {
        let disk = Sim::new(1);
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let store = try_open(&disk, Options { compact_interval: Some(minutes(5)), ..small() }).await.unwrap();
        for _ in 0..6 {
            commit(&store, vec![Op::put("a", "1")]).await;
            stdx::sleep(minutes(2)).await;
        }
        // At 12 minutes: the compaction at 10 went to what was newest at 5, which was written at 4.
        assert_eq!((store.compact_revision(), store.revision()), (3, 6));
        stdx::sleep(minutes(20)).await;
        assert_eq!(store.compact_revision(), 6);
        let operations = disk.operations();
        stdx::sleep(minutes(600)).await;
        assert_eq!(disk.operations(), operations);
        store.close().await;
        let store = open(&disk).await;
        assert_eq!((store.compact_revision(), store.revision()), (6, 6));
    });
}

#[test]
fn history_is_bounded_and_a_slow_watch_is_told() {
    simulated(async {
        let disk = Sim::new(1);
        let store = try_open(&disk, Options { history_batches_max: 100, ..small() }).await.unwrap();
        let mut slow = store.watch(1);
        for _ in 0..1000 {
            commit(&store, vec![Op::put("a", "1")]).await;
        }
        let kept = store.revision() - store.compact_revision();
        assert!((80..=101).contains(&kept), "{kept}");
        let compact_revision = store.compact_revision();
        assert_eq!(slow.next().await, Err(StoreError::Compacted { compact_revision }));
        store.close().await;
        let store = try_open(&disk, Options { history_batches_max: 100, ..small() }).await.unwrap();
        assert!(store.compact_revision() >= compact_revision);
    });
}

#[test]
fn the_revision_can_be_lifted_and_never_comes_down_again() {
    simulated(async {
        let disk = Sim::new(1);
        let before = fill(&disk, 5).await;
        let store = try_open(&disk, Options { revision_at_least: 5000, ..small() }).await.unwrap();
        assert_eq!((store.revision(), store.compact_revision()), (5000, 5000));
        assert_eq!(everything(&store).entries, before.entries);
        assert_eq!(store.watch(6).next().await, Err(StoreError::Compacted { compact_revision: 5000 }));
        assert_eq!(commit(&store, vec![Op::put("a", "1")]).await, 5001);
        store.close().await;
        let store = try_open(&disk, Options { revision_at_least: 70, ..small() }).await.unwrap();
        assert_eq!((store.revision(), store.compact_revision()), (5001, 5000));
    });
}

#[test]
fn a_failed_snapshot_is_no_harm_and_is_tried_again() {
    simulated(async {
        let disk = Sim::new(1);
        fill(&disk, 50).await;
        let store = open(&disk).await;
        let used: usize = disk.files().values().map(Vec::len).sum();
        disk.set_faults(Faults { capacity_bytes: Some(used as u64 + 3000), ..Faults::default() });
        assert!(matches!(store.snapshot().await, Err(StoreError::NoSpace { .. })));
        assert!(!disk.files().keys().any(|name| name.contains("snap")), "{:?}", disk.files().keys());
        disk.set_faults(Faults::default());
        commit(&store, vec![Op::put("a", "1")]).await;
        store.snapshot().await.unwrap();
        assert_eq!(disk.files().len(), 2);
        let before = everything(&store);
        store.close().await;
        assert_eq!(everything(&open(&disk).await), before);
    });
}

#[test]
fn a_group_larger_than_a_segment_finds_room() {
    simulated(async {
        let disk = Sim::new(1);
        let store = open(&disk).await;
        for number in 0..3 {
            commit(&store, vec![Op::put(format!("{number}"), vec![number; 100_000])]).await;
            commit(&store, vec![Op::put("small", "1")]).await;
        }
        let before = everything(&store);
        store.close().await;
        assert_eq!(everything(&open(&disk).await), before);
    });
}
