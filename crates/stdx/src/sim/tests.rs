//! What the executor promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::*;
use crate::{mono, sleep, spawn, timeout, wall};

const SECOND: Duration = Duration::from_secs(1);

/// Tasks on three nodes that talk, sleep and draw; the answer is the order in which they were heard.
async fn busy() -> Vec<(usize, u64)> {
    let (sender, mut receiver) = mpsc::channel(4);
    let flag = Arc::new(watch::Sender::new(0));
    for number in 0..8 {
        let (sender, flag) = (sender.clone(), flag.clone());
        drop(spawn(async move {
            let mut seen = flag.subscribe();
            for _ in 0..5 {
                sleep(Duration::from_millis(crate::random_u64() % 3)).await;
                flag.send_modify(|count| *count += 1);
                sender.send((number, crate::random_u64())).await.unwrap();
                seen.changed().await.unwrap();
            }
        }));
    }
    drop(sender);
    let mut heard = Vec::new();
    while let Some(message) = receiver.recv().await {
        heard.push(message);
    }
    heard
}

#[test]
fn a_seed_always_gives_the_same_run_and_seeds_differ() {
    let run = |seed| {
        let simulation = Simulation::new(seed);
        let heard = simulation.run_until(busy()).unwrap();
        (heard, simulation.trace(), simulation.now())
    };
    let mut traces = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let first = run(seed);
        assert_eq!(first.0.len(), 40);
        assert_eq!(first, run(seed), "seed {seed}");
        traces.insert(first.1);
    }
    assert_eq!(traces.len(), 20);
}

#[test]
fn a_day_of_sleep_takes_no_time_and_passes_on_both_clocks() {
    let simulation = Simulation::new(1);
    let (walls, monos) = simulation
        .run_until(async {
            let before = (wall(), mono());
            sleep(Duration::from_secs(3600 * 23)).await;
            (wall().duration_since(before.0), mono() - before.1)
        })
        .unwrap();
    assert_eq!((walls.as_secs(), monos.as_secs()), (3600 * 23, 3600 * 23));
    assert_eq!(simulation.now(), Duration::from_secs(3600 * 23));
}

#[test]
fn nodes_have_clocks_of_their_own_that_step_and_drift() {
    let simulation = Simulation::new(1);
    let (good, bad) = (simulation.node("good"), simulation.node("bad"));
    bad.step_wall(jiff::SignedDuration::from_secs(-100));
    bad.drift(100_000);
    let measure = || async {
        let before = (wall(), mono());
        sleep(110 * SECOND).await;
        (before.0, (mono() - before.1).as_secs())
    };
    let (from_good, from_bad) = (good.run(measure()), bad.run(measure()));
    let late = bad.clone();
    let changed = simulation.node("changed");
    let changing = changed.clone();
    let slowed = changed.run(async move {
        drop(spawn(async move {
            sleep(10 * SECOND).await;
            changing.drift(-500_000);
        }));
        sleep(20 * SECOND).await;
    });
    let (good, bad) = simulation.run_until(async { (from_good.await.unwrap(), from_bad.await.unwrap()) }).unwrap();
    assert_eq!((good.1, bad.1), (110, 110));
    assert_eq!(good.0.duration_since(bad.0).as_secs(), 100);
    assert_eq!(simulation.now(), 110 * SECOND);
    // The fast clock had reached the 110 seconds after 100, and the wall clock has caught up by ten.
    let behind = simulation.run_until(async move { wall().duration_since(context::Context::wall(&late)) }).unwrap();
    assert_eq!(behind.as_secs(), 89);
    simulation.run_until(async { slowed.await.unwrap() }).unwrap();
}

#[test]
fn a_sleep_lasts_until_the_clock_shows_its_end_whatever_its_rate_was() {
    let simulation = Simulation::new(1);
    let node = simulation.node("node");
    let slept = node.run(sleep(20 * SECOND));
    simulation.run_for(10 * SECOND).unwrap();
    node.drift(-500_000);
    simulation.run_until(async { slept.await.unwrap() }).unwrap();
    assert_eq!(simulation.now(), 30 * SECOND);
}

#[test]
fn killing_a_node_drops_its_tasks_and_nobody_elses() {
    struct OnDrop(Arc<AtomicU64>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            // Destructors run in the node's context, and cannot bring it back to life.
            let counter = self.0.clone();
            counter.fetch_add(1, Ordering::Relaxed);
            drop(spawn(async move {
                counter.fetch_add(100, Ordering::Relaxed);
            }));
        }
    }
    let simulation = Simulation::new(1);
    let (one, two) = (simulation.node("one"), simulation.node("two"));
    let dropped = Arc::new(AtomicU64::new(0));
    let guard = OnDrop(dropped.clone());
    let lost = one.run(async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    let kept = two.run(sleep(10 * SECOND));
    simulation.run_for(SECOND).unwrap();
    let next = one.restart();
    assert!(one.is_killed() && !next.is_killed());
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    one.kill();
    assert!(!next.is_killed(), "the life that was killed is another one");
    assert!(simulation.run_until(async { (lost.await, kept.await) }).unwrap().0.is_err());
    assert!(simulation.run_until(async move { one.run(async {}).await }).unwrap().is_err());
    simulation.run_until(async move { next.run(async {}).await.unwrap() }).unwrap();
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn a_task_can_kill_its_own_node() {
    let simulation = Simulation::new(1);
    let node = simulation.node("node");
    let own = node.clone();
    let reached = Arc::new(AtomicU64::new(0));
    let counter = reached.clone();
    drop(node.run(async move {
        own.kill();
        counter.fetch_add(1, Ordering::Relaxed);
        sleep(SECOND).await;
        counter.fetch_add(10, Ordering::Relaxed);
    }));
    simulation.run_for(10 * SECOND).unwrap();
    assert_eq!(reached.load(Ordering::Relaxed), 1);
}

#[test]
fn what_can_never_end_is_told_with_its_seed() {
    let simulation = Simulation::new(42);
    assert_eq!(simulation.run_until(std::future::pending::<()>()), Err(RunError::Stalled { seed: 42 }));
    let forever = async {
        loop {
            sleep(SECOND).await;
        }
    };
    let simulation = Simulation::new(43);
    assert_eq!(simulation.run_until::<()>(forever), Err(RunError::Deadline { seed: 43 }));
    let simulation = Simulation::new(44);
    let spin = std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    assert_eq!(simulation.run_until(spin), Err(RunError::Spinning { seed: 44 }));
}

#[test]
fn timeouts_and_task_trees_work_inside() {
    let simulation = Simulation::new(1);
    let notify = Arc::new(Notify::new());
    let waiting = notify.clone();
    let (early, late, drained) = simulation
        .run_until(async move {
            let early = timeout(SECOND, waiting.notified()).await.is_err();
            let waker = waiting.clone();
            drop(spawn(async move {
                sleep(SECOND).await;
                waker.notify_one();
            }));
            let late = timeout(2 * SECOND, waiting.notified()).await.is_ok();
            let tree = crate::TaskTree::default();
            tree.spawn("waits", std::future::pending());
            (early, late, tree.drain(SECOND).await)
        })
        .unwrap();
    assert!(early && late);
    assert_eq!(drained, Ok(()));
    assert_eq!(simulation.now(), 2 * SECOND);
}

#[test]
fn chance_is_even_and_decided_by_the_seed() {
    let mut random = Random::new(7);
    let mut counts = [0u32; 10];
    for _ in 0..10_000 {
        counts[random.below(10) as usize] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    let (mut one, mut two) = ([0; 13], [0; 13]);
    Random::new(9).fill(&mut one);
    Random::new(9).fill(&mut two);
    assert!(one == two && one != [0; 13]);
}
