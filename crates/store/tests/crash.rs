//! The store is cut off in the middle of every single disk operation; nothing acknowledged is lost, nothing is torn.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stdx::sim::{NodeContext, Random, Simulation};
use store::disk::{Faults, Sim};
use store::{Batch, Embedded, Op, Options, Plain, RangeRequest, Store, TxnOutcome, WatchItem};

const WRITERS: usize = 4;
const KEYS: u64 = 3;
const WRITES: usize = 25;

fn options() -> Options {
    Options {
        segment_bytes: 4096,
        snapshot_log_bytes: 6000,
        compact_interval: Some(Duration::from_millis(20)),
        history_batches_max: 60,
        ..Options::default()
    }
}

/// What the store has promised, kept outside of it.
#[derive(Default)]
struct Model {
    /// For each pair of keys: the values it may have. The first was acknowledged, the others are of unknown outcome.
    possible: BTreeMap<String, Vec<Option<u64>>>,
    /// The highest revision that anybody was told of or shown.
    shown: u64,
    /// What was shown of each revision.
    batches: BTreeMap<u64, String>,
    next_value: u64,
}

type Shared = Arc<Mutex<Model>>;

/// Writes the same number to two keys at once, or deletes both, and waits for the answer, again and again.
async fn writer(store: Embedded, model: Shared, number: usize, mut random: Random) {
    for _ in 0..WRITES {
        let pair = format!("{number}/{}", random.below(KEYS));
        let (value, ops) = {
            let mut model = model.lock().unwrap();
            model.next_value += 1;
            let value = (!random.one_in(5)).then_some(model.next_value);
            model.possible.entry(pair.clone()).or_insert_with(|| vec![None]).push(value);
            let op = |half: &str| match value {
                Some(value) => Op::put(format!("{half}/{pair}"), padded(value, random.clone().below(900))),
                None => Op::delete(format!("{half}/{pair}")),
            };
            (value, vec![op("left"), op("right")])
        };
        random.number();
        let TxnOutcome::Committed { revision } = store.txn(vec![], ops).await.unwrap() else { panic!() };
        let mut model = model.lock().unwrap();
        model.possible.insert(pair, vec![value]);
        model.shown = model.shown.max(revision);
        assert!(revision <= store.revision(), "acknowledged before it was shown");
    }
}

fn padded(value: u64, length: u64) -> Vec<u8> {
    let mut bytes = format!("{value}:").into_bytes();
    bytes.resize(bytes.len() + length as usize, b'x');
    bytes
}

fn value(padded: &[u8]) -> u64 {
    let digits = padded.split(|byte| *byte == b':').next().unwrap();
    std::str::from_utf8(digits).unwrap().parse().unwrap()
}

/// Remembers everything that a watch shows.
async fn watcher(store: Embedded, model: Shared) {
    let mut watch = store.watch(store.revision() + 1);
    while let Ok(item) = watch.next().await {
        let WatchItem::Batch(batch) = item else { continue };
        let mut model = model.lock().unwrap();
        model.shown = model.shown.max(batch.revision);
        model.batches.insert(batch.revision, text(&batch));
    }
}

fn text(batch: &Batch) -> String {
    let value = |entry: &Option<Arc<store::Entry>>| entry.as_ref().map(|entry| (value(&entry.value), entry.version));
    let events = batch.events.iter().map(|event| (event.key.clone(), value(&event.value), value(&event.prev)));
    format!("{:?}", events.collect::<Vec<_>>())
}

/// Opens the store, checks it against the model and works with it to the end.
async fn life(disk: Sim, model: Shared, seed: u64) -> Embedded {
    let store = Embedded::open(Arc::new(disk), options(), Arc::new(Plain)).await.unwrap();
    verify(&store, &model);
    drop(stdx::spawn(watcher(store.clone(), model.clone())));
    let random = |number| Random::new(seed * 100 + number as u64);
    let writers: Vec<_> =
        (0..WRITERS).map(|number| stdx::spawn(writer(store.clone(), model.clone(), number, random(number)))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    store
}

/// Checks that what was promised is there, and takes note of how open questions were decided.
fn verify(store: &Embedded, model: &Shared) {
    let mut model = model.lock().unwrap();
    assert!(store.revision() >= model.shown, "revision went back: {} to {}", model.shown, store.revision());
    for (pair, possible) in &mut model.possible {
        let half = |half: &str| store.get_now(format!("{half}/{pair}").as_bytes()).map(|entry| value(&entry.value));
        let found = half("left");
        assert_eq!(found, half("right"), "{pair} is torn");
        assert!(possible.contains(&found), "{pair} is {found:?}, not of {possible:?}");
        *possible = vec![found];
    }
    let mut watch = store.watch(store.compact_revision() + 1);
    let mut expected = store.compact_revision();
    while let Some(item) = watch.try_next() {
        let WatchItem::Batch(batch) = item.unwrap() else { panic!("nobody asked for progress") };
        expected += 1;
        assert_eq!(batch.revision, expected);
        let text = text(&batch);
        let shown = model.batches.entry(expected).or_insert_with(|| text.clone());
        assert_eq!(*shown, text, "history changed");
    }
    assert_eq!(expected, store.revision());
    model.shown = store.revision();
}

/// Runs a life that is cut off in the middle of disk operation `at`. Returns whether it came so far.
async fn cut_off(server: &NodeContext, disk: &Sim, model: &Shared, at: u64, seed: u64) -> bool {
    let server = server.restart();
    let delay_max = Duration::from_micros(200);
    disk.set_faults(Faults { power_fails_at: Some(at), delay_max, ..Faults::default() });
    let life = server.run(life(disk.clone(), model.clone(), seed));
    let cut = tokio::select! {
        biased;
        () = disk.power_failed() => true,
        () = async { life.await.unwrap().close().await } => false,
    };
    server.kill();
    cut
}

/// Three lives: one cut off at `at`, one cut off early, one to the end; then everything is still there.
async fn lives(server: NodeContext, seed: u64, at: u64) -> bool {
    let (disk, model) = (Sim::new(seed), Shared::default());
    let cut = cut_off(&server, &disk, &model, at, seed).await;
    // Every third time only the process is killed, and power fails afterwards, during recovery.
    let disk = if at.is_multiple_of(3) { disk.process_restart() } else { disk.power_cycle() };
    cut_off(&server, &disk, &model, at * 7 % 40 + 1, seed + 1).await;
    let disk = disk.power_cycle();
    let server = server.restart();
    let last = life(disk.clone(), model.clone(), seed + 2);
    let store = server.run(last).await.unwrap();
    let everything = || RangeRequest::prefix("");
    let before = store.range_now(&everything()).unwrap();
    store.close().await;
    let store = Embedded::open(Arc::new(disk), options(), Arc::new(Plain)).await.unwrap();
    assert_eq!(store.range_now(&everything()).unwrap(), before);
    verify(&store, &model);
    cut
}

fn run(seed: u64, at: u64) -> (bool, u64) {
    let simulation = Simulation::new(seed);
    let server = simulation.node("server");
    let cut = simulation.run_until(lives(server, seed, at)).unwrap();
    (cut, simulation.trace())
}

#[test]
fn nothing_is_lost_or_torn_whichever_disk_operation_is_the_last() {
    let mut points = 0;
    for seed in 0..2 {
        let mut at = 1;
        while run(seed, at).0 {
            at += 1;
        }
        points += at - 1;
    }
    assert!(points >= 200, "only {points} crash points");
}

#[test]
fn a_crash_can_be_repeated_exactly() {
    for at in [3, 57, 101] {
        assert_eq!(run(9, at), run(9, at));
    }
}
