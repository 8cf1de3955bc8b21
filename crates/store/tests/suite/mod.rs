//! What every store has to do, whatever it is made of. Each function wants a store of its own, fresh and empty.

use std::sync::Arc;
use std::time::Duration;

use store::{Compare, Event, Op, RangeRequest, Store, StoreError, TXN_OPS_MAX, TxnOutcome, VALUE_BYTES_MAX};
use store::{Watch, WatchItem};

use crate::steps::{commit, contents, pair};

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

async fn batch(watch: &mut Watch) -> (u64, Vec<Event>) {
    match watch.next().await.unwrap() {
        WatchItem::Batch(batch) => (batch.revision, batch.events.clone()),
        WatchItem::Progress(revision) => panic!("progress {revision} in place of a transaction"),
    }
}

pub(crate) async fn every_change_has_the_next_revision(store: Arc<dyn Store>) {
    let start = store.current().await.unwrap();
    assert_eq!(commit(&*store, vec![Op::put("a", "1")]).await, start + 1);
    assert_eq!(commit(&*store, vec![Op::put("b", "1"), Op::put("c", "1")]).await, start + 2);
    assert_eq!(commit(&*store, vec![Op::put("a", "1")]).await, start + 3);
    assert_eq!(commit(&*store, vec![Op::delete("b")]).await, start + 4);
    assert_eq!(store.current().await.unwrap(), start + 4);
    let entry = store.get(b"a").await.unwrap().unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (start + 1, start + 3, 2));
    assert_eq!(store.get(b"b").await.unwrap(), None);
    assert_eq!(contents(&*store, "", None).await, pairs(&[("a", "1"), ("c", "1")]));
}

pub(crate) async fn a_transaction_without_effect_spends_no_revision(store: Arc<dyn Store>) {
    let revision = commit(&*store, vec![Op::put("a", "1")]).await;
    assert_eq!(commit(&*store, vec![]).await, revision);
    assert_eq!(commit(&*store, vec![Op::delete("b"), Op::delete("c")]).await, revision);
    assert_eq!(store.current().await.unwrap(), revision);
}

pub(crate) async fn comparisons_decide_and_failures_show_what_is_there(store: Arc<dyn Store>) {
    let ops = || vec![Op::put("a", "2"), Op::put("new", "2")];
    let first = commit(&*store, vec![Op::put("a", "1")]).await;
    let failed = store.txn(vec![Compare::absent("a"), Compare::absent("other")], ops()).await.unwrap();
    let current = store.get(b"a").await.unwrap();
    assert_eq!(failed, TxnOutcome::Failed { current: vec![current.clone(), None] });
    let failed = store.txn(vec![Compare::unchanged("other", first)], ops()).await.unwrap();
    assert_eq!(failed, TxnOutcome::Failed { current: vec![None] });
    let failed = store.txn(vec![Compare::unchanged("a", first + 1)], vec![]).await.unwrap();
    assert_eq!(failed, TxnOutcome::Failed { current: vec![current] });
    assert_eq!(contents(&*store, "", None).await, pairs(&[("a", "1")]));
    let compares = vec![Compare::unchanged("a", first), Compare::absent("new")];
    assert_eq!(store.txn(compares, ops()).await.unwrap(), TxnOutcome::Committed { revision: first + 1 });
    assert_eq!(contents(&*store, "", None).await, pairs(&[("a", "2"), ("new", "2")]));
}

pub(crate) async fn limits_are_kept(store: Arc<dyn Store>) {
    let before = store.current().await.unwrap();
    let puts = |count: usize| (0..count).map(|number| Op::put(format!("{number:03}"), "")).collect::<Vec<_>>();
    let refused = [
        puts(TXN_OPS_MAX + 1),
        vec![Op::put("a", vec![0; VALUE_BYTES_MAX + 1])],
        vec![Op::put("a", vec![0; VALUE_BYTES_MAX / 2]), Op::put("b", vec![0; VALUE_BYTES_MAX / 2])],
        vec![Op::put("a", "1"), Op::put("a", "2")],
        vec![Op::put("a", "1"), Op::delete("a")],
    ];
    for ops in refused {
        assert!(matches!(store.txn(vec![], ops).await, Err(StoreError::Invalid { .. })));
    }
    assert_eq!(store.current().await.unwrap(), before);
    commit(&*store, puts(TXN_OPS_MAX)).await;
    commit(&*store, vec![Op::put("large", vec![7; VALUE_BYTES_MAX - 1024])]).await;
    assert_eq!(store.get(b"large").await.unwrap().unwrap().value.len(), VALUE_BYTES_MAX - 1024);
}

pub(crate) async fn pages_of_one_revision_show_one_picture_whatever_is_written_between(store: Arc<dyn Store>) {
    for number in 0..25 {
        commit(&*store, vec![Op::put(format!("/a/{number:02}"), number.to_string())]).await;
    }
    commit(&*store, vec![Op::put("/b/0", "")]).await;
    let expected = contents(&*store, "/a/", None).await;
    let mut request = RangeRequest { limit: 10, ..RangeRequest::prefix("/a/") };
    let mut seen = Vec::new();
    for (length, left) in [(10, 25), (10, 15), (5, 5)] {
        let page = store.range(request.clone()).await.unwrap();
        assert_eq!((page.entries.len(), page.count, page.more), (length, left, left > length));
        assert_eq!(request.revision.unwrap_or(page.revision), page.revision);
        request.revision = Some(page.revision);
        request.after = page.entries.last().map(|entry| entry.key.clone());
        seen.extend(page.entries.iter().map(|entry| pair(entry)));
        let changed = seen.len();
        commit(&*store, vec![Op::delete(format!("/a/{changed:02}")), Op::put("/a/99", ""), Op::put("/a/21", "x")])
            .await;
    }
    assert_eq!(seen, expected);
    let keys = store.range(RangeRequest { keys_only: true, ..RangeRequest::prefix("/b/") }).await.unwrap();
    assert_eq!((keys.entries.len(), keys.entries[0].value.len()), (1, 0));
}

pub(crate) async fn older_revisions_can_be_read_until_they_are_compacted(store: Arc<dyn Store>) {
    let first = commit(&*store, vec![Op::put("a", "1"), Op::put("b", "1")]).await;
    let second = commit(&*store, vec![Op::put("a", "2"), Op::delete("b")]).await;
    let third = commit(&*store, vec![Op::put("b", "3")]).await;
    let at = |revision| contents(&*store, "", Some(revision));
    assert_eq!(at(first).await, pairs(&[("a", "1"), ("b", "1")]));
    assert_eq!(at(second).await, pairs(&[("a", "2")]));
    assert_eq!(at(third).await, pairs(&[("a", "2"), ("b", "3")]));
    let read = |revision| store.range(RangeRequest { revision: Some(revision), ..RangeRequest::prefix("") });
    assert_eq!(read(third + 1).await, Err(StoreError::FutureRevision { current: third }));
    assert_eq!(store.compact(third + 1).await, Err(StoreError::FutureRevision { current: third }));
    store.compact(second).await.unwrap();
    assert_eq!(read(first).await, Err(StoreError::Compacted { compact_revision: second }));
    assert_eq!(at(second).await, pairs(&[("a", "2")]));
    assert_eq!(store.compact(second).await, Err(StoreError::Compacted { compact_revision: second }));
    assert_eq!(contents(&*store, "", None).await, pairs(&[("a", "2"), ("b", "3")]));
}

pub(crate) async fn a_watch_yields_whole_transactions_with_what_was_there_before(store: Arc<dyn Store>) {
    let first = commit(&*store, vec![Op::put("a", "1"), Op::put("b", "1")]).await;
    commit(&*store, vec![Op::delete("a"), Op::put("b", "2"), Op::delete("absent")]).await;
    let mut watch = store.watch(first);
    let (revision, events) = batch(&mut watch).await;
    assert_eq!((revision, events.len()), (first, 2));
    assert!(events.iter().all(|event| event.prev.is_none() && event.value.is_some()));
    let (revision, mut events) = batch(&mut watch).await;
    events.sort_by(|one, other| one.key.cmp(&other.key));
    assert_eq!((revision, events.len()), (first + 1, 2));
    assert_eq!(events[0].value, None);
    assert_eq!(pair(events[0].prev.as_ref().unwrap()), ("a".into(), "1".into()));
    assert_eq!(pair(events[1].prev.as_ref().unwrap()), ("b".into(), "1".into()));
    let value = events[1].value.as_ref().unwrap();
    assert_eq!(pair(value), ("b".into(), "2".into()));
    assert_eq!((value.mod_revision, value.create_revision, value.version), (first + 1, first, 2));
}

pub(crate) async fn a_watch_waits_for_what_is_not_there_yet(store: Arc<dyn Store>) {
    let now = commit(&*store, vec![Op::put("a", "1")]).await;
    let (mut next, mut later) = (store.watch(now + 1), store.watch(now + 3));
    let writer = store.clone();
    let writes = stdx::spawn(async move {
        for number in 0..3 {
            stdx::sleep(Duration::from_millis(10)).await;
            commit(&*writer, vec![Op::put("a", number.to_string())]).await;
        }
    });
    for number in 1..=3 {
        assert_eq!(batch(&mut next).await.0, now + number);
    }
    assert_eq!(batch(&mut later).await.0, now + 3);
    writes.await.unwrap();
}

pub(crate) async fn progress_is_told_once_everything_before_was_yielded(store: Arc<dyn Store>) {
    let first = commit(&*store, vec![Op::put("a", "1")]).await;
    let second = commit(&*store, vec![Op::put("a", "2")]).await;
    let mut watch = store.watch(first);
    watch.request_progress();
    assert_eq!(batch(&mut watch).await.0, first);
    assert_eq!(batch(&mut watch).await.0, second);
    assert_eq!(watch.next().await.unwrap(), WatchItem::Progress(second));
    commit(&*store, vec![Op::put("a", "3")]).await;
    assert_eq!(batch(&mut watch).await.0, second + 1);
}

pub(crate) async fn a_watch_that_begins_too_early_or_falls_behind_is_told_so(store: Arc<dyn Store>) {
    let first = commit(&*store, vec![Op::put("a", "1")]).await;
    let (mut slow, mut quick) = (store.watch(first), store.watch(first + 4));
    for number in 2..=5 {
        commit(&*store, vec![Op::put("a", number.to_string())]).await;
    }
    assert_eq!(batch(&mut slow).await.0, first);
    store.compact(first + 3).await.unwrap();
    let compacted = StoreError::Compacted { compact_revision: first + 3 };
    assert_eq!(slow.next().await, Err(compacted.clone()));
    assert_eq!(store.watch(first).next().await, Err(compacted));
    assert_eq!(batch(&mut quick).await.0, first + 4);
}

pub(crate) async fn keys_with_an_end_are_deleted_like_any_other(store: Arc<dyn Store>) {
    let put = |ttl| Op::put_for("short", "1", Duration::from_secs(ttl));
    let first = commit(&*store, vec![put(2), Op::put("long", "1")]).await;
    commit(&*store, vec![Op::put_for("renewed", "1", Duration::from_secs(2))]).await;
    let last = commit(&*store, vec![Op::put("renewed", "2")]).await;
    let began = stdx::mono();
    let mut watch = store.watch(last + 1);
    let (revision, events) = batch(&mut watch).await;
    let took = stdx::mono() - began;
    assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!((revision, events.len(), &events[0].key[..]), (last + 1, 1, &b"short"[..]));
    assert_eq!((&events[0].value, events[0].prev.as_ref().unwrap().mod_revision), (&None, first));
    stdx::sleep(Duration::from_secs(3)).await;
    assert_eq!(contents(&*store, "", None).await, pairs(&[("long", "1"), ("renewed", "2")]));
    assert_eq!(store.current().await.unwrap(), last + 1);
}

pub(crate) async fn concurrent_updates_lose_nothing(store: Arc<dyn Store>) {
    const TASKS: u64 = 16;
    const ROUNDS: u64 = 20;
    commit(&*store, vec![Op::put("counter", "0")]).await;
    let tasks: Vec<_> = (0..TASKS).map(|_| stdx::spawn(increment(store.clone(), ROUNDS))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let entry = store.get(b"counter").await.unwrap().unwrap();
    assert_eq!(pair(&entry).1, (TASKS * ROUNDS).to_string());
    assert_eq!(entry.version, TASKS * ROUNDS + 1);
}

async fn increment(store: Arc<dyn Store>, rounds: u64) {
    for _ in 0..rounds {
        let mut current = store.get(b"counter").await.unwrap().unwrap();
        loop {
            let number: u64 = pair(&current).1.parse().unwrap();
            let compares = vec![Compare::unchanged("counter", current.mod_revision)];
            let ops = vec![Op::put("counter", (number + 1).to_string())];
            match store.txn(compares, ops).await.unwrap() {
                TxnOutcome::Committed { .. } => break,
                TxnOutcome::Failed { current: newest } => current = newest.into_iter().next().unwrap().unwrap(),
            }
        }
    }
}
