//! Cases: the order of pods, their backoff, and what wakes them.

use super::*;
use crate::testing::{node, pod};

fn at(seconds: u64) -> Mono {
    Mono(Duration::from_secs(seconds))
}

fn taken(queue: &mut Queue, seconds: u64) -> Option<String> {
    queue.take(at(seconds)).map(|pod| pod.name().to_owned())
}

#[test]
fn higher_priority_first_and_then_the_older() {
    let mut queue = Queue::default();
    queue.set(pod("first", "1", "1", ""), at(0));
    queue.set(pod("second", "1", "1", ""), at(0));
    queue.set(pod("urgent", "1", "1", r#","priority":10"#), at(0));
    let order: Vec<String> = std::iter::from_fn(|| taken(&mut queue, 0)).collect();
    assert_eq!(order, ["urgent", "first", "second"]);
}

fn hint(queue: &mut Queue, change: &Change<'_>, seconds: u64) {
    queue.hint(change, &Nodes::default(), at(seconds));
}

#[test]
fn a_pod_without_hope_waits_for_what_may_help() {
    let mut queue = Queue::default();
    let (node, gone) = (node("a", "4", "4Gi", ""), pod("gone", "1", "1", ""));
    let (came, left) = (Change::Node { old: None, new: node.project() }, Change::PodGone(gone.project()));
    queue.set(pod("p", "1", "1", ""), at(0));
    assert_eq!(taken(&mut queue, 0).as_deref(), Some("p"));
    queue.failed("p", vec!["TaintToleration"], at(0));
    hint(&mut queue, &left, 60);
    assert_eq!(taken(&mut queue, 60), None, "room does not help against a taint");
    hint(&mut queue, &came, 60);
    assert_eq!(taken(&mut queue, 60).as_deref(), Some("p"));
    queue.failed("p", vec!["NodeResourcesFit"], at(60));
    hint(&mut queue, &left, 60);
    assert_eq!(queue.next_due(), Some(at(62)), "it backs off two seconds");
    queue.set(pod("other", "1", "1", ""), at(60));
    assert_eq!(taken(&mut queue, 60).as_deref(), Some("other"), "which lets others go first");
    assert_eq!(taken(&mut queue, 60).as_deref(), Some("p"), "but nobody is kept waiting for nothing");
}

#[test]
fn what_changes_during_a_try_is_not_missed() {
    let mut queue = Queue::default();
    queue.set(pod("p", "1", "1", ""), at(0));
    taken(&mut queue, 0);
    hint(&mut queue, &Change::Namespace, 0);
    queue.failed("p", vec!["NodeResourcesFit"], at(0));
    assert_eq!(queue.next_due(), Some(at(1)), "only its backoff, not hopeless");
}

#[test]
fn tries_become_rarer_up_to_ten_seconds_and_never_end() {
    let mut queue = Queue::default();
    queue.set(pod("p", "1", "1", ""), at(0));
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(taken(&mut queue, now).as_deref(), Some("p"));
        queue.retry("p", at(now));
        let due = queue.next_due().unwrap().0.as_secs();
        waits.push(due - now);
        now = due;
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    taken(&mut queue, now);
    queue.failed("p", vec![UNSUPPORTED], at(now));
    hint(&mut queue, &Change::Namespace, now);
    assert_eq!(queue.next_due(), Some(at(now + 300)), "nothing but time helps");
}

#[test]
fn a_fault_of_others_rests_and_a_pod_may_be_woken_by_name() {
    let mut queue = Queue::default();
    queue.set(pod("p", "1", "1", ""), at(0));
    taken(&mut queue, 0);
    queue.retry("p", at(0));
    assert_eq!(taken(&mut queue, 0), None, "the fault may still be there");
    assert_eq!(taken(&mut queue, 1).as_deref(), Some("p"));
    queue.failed("p", vec!["NodePorts"], at(1));
    queue.wake("p", at(9));
    assert_eq!(taken(&mut queue, 9).as_deref(), Some("p"));
}

#[test]
fn a_removed_pod_is_nowhere() {
    let mut queue = Queue::default();
    for place in 0..3 {
        queue.set(pod("p", "1", "1", ""), at(0));
        if place > 0 {
            taken(&mut queue, 0);
        }
        if place > 1 {
            queue.retry("p", at(0));
        }
        queue.remove("p");
        assert_eq!((taken(&mut queue, 1000), queue.next_due()), (None, None));
    }
}
