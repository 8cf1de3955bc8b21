//! Tests of the node lifecycle controller.

use std::time::Duration;

use api::decide::taints::NO_EXECUTE;
use api::projection::{NodeLite, PodLite, condition};
use client::Key;
use reconcile::plan::kinds::{LEASES, NODES, PODS};
use reconcile::{Controller, Facts, Now, Outcomes};
use stdx::Mono;

use super::{Memory, NodeLifecycleController, Subject};
use crate::testing::{World, resources_of};

/// A world with a clock, and a controller that remembers.
struct Case {
    world: World,
    seconds: u64,
    node: Memory,
    zones: Memory,
}

impl Case {
    /// Nodes `n0` to `n{count}`, ready, each with a lease.
    fn new(count: usize) -> Case {
        let mut world = World::new();
        for number in 0..count {
            node(&mut world, &format!("n{number}"), "a", "True");
        }
        Case { world, seconds: 0, node: Memory::default(), zones: Memory::default() }
    }

    fn pass(&mut self, seconds: u64) {
        self.seconds += seconds;
        self.world.pass(seconds as i64 * 1000);
    }

    /// Decides and carries out until nothing changes; when it wants to look again.
    fn settle(&mut self, subject: &Subject) -> Option<Duration> {
        loop {
            let view = self.world.view(&resources_of::<NodeLifecycleController>());
            let observed = NodeLifecycleController::observe(&view, subject);
            let now = Now { wall: self.world.now, mono: Mono(Duration::from_secs(self.seconds)) };
            let memory = if *subject == Subject::Eviction { &mut self.zones } else { &mut self.node };
            let decide = |facts: &Facts, memory: &mut Memory| {
                NodeLifecycleController::reconcile(&observed, now, &Outcomes::default(), facts, memory)
            };
            let (before, mut facts) = (memory.clone(), Facts::default());
            let mut plan = decide(&facts, memory);
            if !plan.needs.is_empty() {
                facts.answers = plan.needs.into_iter().map(|need| (need.clone(), self.world.answer(&need))).collect();
                *memory = before;
                plan = decide(&facts, memory);
                assert!(plan.needs.is_empty(), "{:?}", plan.needs);
            }
            let again = plan.again_after;
            if !self.world.carry(plan, usize::MAX).wrote {
                return again;
            }
        }
    }

    fn lite(&self, name: &str) -> NodeLite {
        self.world.find(NODES, "", name).expect("the node").project::<NodeLite>().clone()
    }

    fn ready(&self, name: &str) -> String {
        let lite = self.lite(name);
        let ready = condition(&lite.conditions, "Ready").expect("a condition");
        format!("{} {}", ready.status, ready.reason)
    }

    /// Keys and effects.
    fn taints(&self, name: &str) -> Vec<String> {
        let short = |key: &str| key.trim_start_matches("node.kubernetes.io/").to_owned();
        self.lite(name).taints.iter().map(|taint| format!("{}:{}", short(&taint.key), taint.effect)).collect()
    }

    fn say(&mut self, name: &str, ready: &str) {
        let change = format!(
            r#"{{"status":{{"conditions":[{{"type":"Ready","status":"{ready}","lastHeartbeatTime":"{}"}}]}}}}"#,
            self.world.now
        );
        self.world.tell(NODES, "", name, &change);
    }

    /// How many nodes pods are driven off.
    fn driven(&self) -> usize {
        let drives = |node: &&std::sync::Arc<client::Object>| {
            node.project::<NodeLite>().taints.iter().any(|taint| &*taint.effect == NO_EXECUTE)
        };
        self.world.all(NODES).filter(drives).count()
    }
}

fn node(world: &mut World, name: &str, zone: &str, ready: &str) {
    world.create(
        NODES,
        "",
        &format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{"topology.kubernetes.io/zone":"{zone}"}}}},"spec":{{}},
                "status":{{"conditions":[{{"type":"Ready","status":"{ready}","reason":"KubeletReady"}}]}}}}"#
        ),
    );
    let lease = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"renewTime":"2026-01-01T00:00:00.000000Z"}}}}"#);
    world.create(LEASES, "kube-node-lease", &lease);
}

fn first() -> Subject {
    Subject::Node(Key::new("", "n0"))
}

#[test]
fn a_node_that_is_silent_for_long_is_unknown_and_its_pods_are_not_counted_on() {
    let mut case = Case::new(1);
    case.world.create(
        PODS,
        "default",
        r#"{"metadata":{"name":"web"},"spec":{"nodeName":"n0"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#,
    );
    assert_eq!(case.settle(&first()), Some(Duration::from_secs(35)));
    assert_eq!(case.world.told(), ["RegisteredNode Node n0 event: Registered Node n0 in Controller"]);
    case.pass(30);
    case.world.edit(LEASES, "kube-node-lease", "n0", r#"{"spec":{"renewTime":"2026-01-01T00:00:30.000000Z"}}"#);
    assert_eq!(case.settle(&first()), Some(Duration::from_secs(35)), "a renewed lease is a sign of life");
    case.pass(35);
    assert_eq!(case.settle(&first()), Some(Duration::from_secs(15)));
    case.pass(14);
    case.settle(&first());
    assert_eq!(case.ready("n0"), "True KubeletReady");
    case.pass(1);
    case.settle(&first());
    assert_eq!(case.ready("n0"), "Unknown NodeStatusUnknown");
    let memory = case.lite("n0");
    let memory = condition(&memory.conditions, "MemoryPressure").expect("a condition");
    assert_eq!((&*memory.reason, &*memory.message), ("NodeStatusNeverUpdated", "Kubelet never posted node status."));
    assert_eq!(case.taints("n0"), ["unreachable:NoSchedule"]);
    let pod = case.world.find(PODS, "default", "web").expect("the pod").project::<PodLite>().clone();
    assert!(!api::decide::pod::is_pod_ready(&pod));
    let told = ["NodeNotReady Node n0 status is now: NodeNotReady", "NodeNotReady Node is not ready"];
    assert_eq!(case.world.told(), told);
    case.say("n0", "True");
    case.settle(&first());
    assert_eq!(case.taints("n0"), Vec::<String>::new());
}

#[test]
fn a_controller_that_was_cut_off_gives_nodes_time_to_renew_their_leases() {
    let mut case = Case::new(1);
    case.settle(&first());
    // Nothing was heard for a minute, and nothing could be.
    case.pass(61);
    assert_eq!(case.settle(&first()), Some(Duration::from_secs(15)));
    assert_eq!(case.ready("n0"), "True KubeletReady");
    case.pass(10);
    case.world.edit(LEASES, "kube-node-lease", "n0", r#"{"spec":{"renewTime":"2026-01-01T00:01:11.000000Z"}}"#);
    assert_eq!(case.settle(&first()), Some(Duration::from_secs(35)));
    assert_eq!(case.ready("n0"), "True KubeletReady");
}

#[test]
fn caches_that_are_behind_are_not_believed() {
    let mut case = Case::new(1);
    case.settle(&first());
    let view = case.world.view(&resources_of::<NodeLifecycleController>());
    let observed = NodeLifecycleController::observe(&view, &first());
    case.pass(70);
    case.world.edit(LEASES, "kube-node-lease", "n0", r#"{"spec":{"renewTime":"2026-01-01T00:01:10.000000Z"}}"#);
    let now = Now { wall: case.world.now, mono: Mono(Duration::from_secs(70)) };
    let mut facts = Facts::default();
    let (before, last) = (case.node.clone(), Outcomes::default());
    let asked = NodeLifecycleController::reconcile(&observed, now, &last, &facts, &mut before.clone());
    facts.answers = asked.needs.into_iter().map(|need| (need.clone(), case.world.answer(&need))).collect();
    assert_eq!(facts.answers.values().filter(|unchanged| !**unchanged).count(), 1, "the lease is another");
    let plan = NodeLifecycleController::reconcile(&observed, now, &last, &facts, &mut before.clone());
    assert_eq!((plan.stages.len(), plan.again_after), (0, Some(Duration::from_secs(1))));
}

#[test]
fn a_node_that_never_spoke_has_a_minute() {
    let mut case = Case::new(0);
    case.world.create(NODES, "", r#"{"metadata":{"name":"n0"},"spec":{}}"#);
    assert_eq!(case.settle(&first()), Some(Duration::from_secs(45)));
    case.pass(45);
    case.settle(&first());
    case.pass(14);
    case.settle(&first());
    assert!(case.lite("n0").conditions.is_empty());
    case.pass(1);
    case.settle(&first());
    assert_eq!(case.ready("n0"), "Unknown NodeStatusNeverUpdated");
}

#[test]
fn pods_are_driven_off_one_node_of_a_zone_every_ten_seconds() {
    let mut case = Case::new(5);
    case.say("n1", "Unknown");
    case.say("n2", "False");
    assert_eq!(case.settle(&Subject::Eviction), Some(Duration::from_secs(10)));
    assert_eq!((case.taints("n1"), case.driven()), (vec!["unreachable:NoExecute".to_owned()], 1));
    case.pass(9);
    case.settle(&Subject::Eviction);
    assert_eq!(case.driven(), 1);
    case.pass(1);
    case.settle(&Subject::Eviction);
    assert_eq!((case.taints("n2"), case.driven()), (vec!["not-ready:NoExecute".to_owned()], 2));
    // Another reason needs no turn, and neither does a recovery.
    case.say("n1", "False");
    case.say("n2", "True");
    case.settle(&Subject::Eviction);
    assert_eq!((case.taints("n1"), case.driven()), (vec!["not-ready:NoExecute".to_owned()], 1));
}

#[test]
fn a_zone_of_which_much_is_dead_drives_nobody_away() {
    let mut case = Case::new(5);
    ["n0", "n1", "n2"].iter().for_each(|name| case.say(name, "Unknown"));
    case.settle(&Subject::Eviction);
    assert_eq!(case.driven(), 0);
    // Two more ready nodes: three of seven are less than 55 of 100.
    node(&mut case.world, "n5", "a", "True");
    node(&mut case.world, "n6", "a", "True");
    case.settle(&Subject::Eviction);
    assert_eq!(case.driven(), 1);
}

#[test]
fn where_every_zone_is_dead_nobody_is_driven_away_any_more() {
    let mut case = Case::new(1);
    node(&mut case.world, "m", "b", "True");
    case.say("n0", "Unknown");
    case.settle(&Subject::Eviction);
    assert_eq!(case.driven(), 1, "another zone lives: this one is at fault");
    case.say("m", "Unknown");
    case.settle(&Subject::Eviction);
    assert_eq!(case.driven(), 0);
}
