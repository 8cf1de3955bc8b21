//! Tests of taint eviction.

use std::time::Duration;

use client::Key;
use reconcile::plan::kinds::{NODES, PODS};
use reconcile::{Controller, Facts, Now, Outcomes, Plan};
use stdx::Mono;

use super::{Memory, TaintEvictionController};
use crate::testing::{World, resources_of};

const TAINTED: &str = r#"{"spec":{"taints":[{"key":"node.kubernetes.io/unreachable","effect":"NoExecute"}]}}"#;

struct Case {
    world: World,
    memory: Memory,
}

impl Case {
    fn new(tolerations: &str) -> Case {
        let mut world = World::new();
        world.create(NODES, "", r#"{"metadata":{"name":"n"},"spec":{}}"#);
        let pod = format!(
            r#"{{"metadata":{{"name":"web"}},"spec":{{"nodeName":"n","tolerations":{tolerations}}},"status":{{"phase":"Running"}}}}"#
        );
        world.create(PODS, "default", &pod);
        Case { world, memory: Memory::default() }
    }

    fn work(&mut self) -> Plan {
        let view = self.world.view(&resources_of::<TaintEvictionController>());
        let observed = TaintEvictionController::observe(&view, &Key::new("default", "web"));
        let now = Now { wall: self.world.now, mono: Mono::default() };
        let facts = Facts::default();
        let plan = TaintEvictionController::reconcile(&observed, now, &Outcomes::default(), &facts, &mut self.memory);
        self.world.carry(plan.clone(), usize::MAX);
        plan
    }

    fn is_going(&self) -> bool {
        self.world.find(PODS, "default", "web").is_none_or(|pod| pod.meta().deletion.is_some())
    }

    /// Why the pod says it is disrupted.
    fn reason(&self) -> String {
        let pod = self.world.find(PODS, "default", "web").expect("a pod on a node stays until its node lets it go");
        let conditions = crate::condition::of(pod);
        let text = |key: &str| conditions.first().and_then(|found| found.str_at(&[key])).unwrap_or_default().to_owned();
        format!("{} {}: {}", text("type"), text("reason"), text("message"))
    }
}

#[test]
fn a_pod_that_does_not_tolerate_goes_at_once() {
    let mut case = Case::new("[]");
    case.work();
    assert!(!case.is_going());
    case.world.edit(NODES, "", "n", TAINTED);
    case.work();
    assert!(case.is_going());
    assert_eq!(
        case.reason(),
        "DisruptionTarget DeletionByTaintManager: Taint manager: deleting due to NoExecute taint"
    );
    assert_eq!(case.world.told(), ["TaintManagerEviction Marking for deletion Pod default/web"]);
}

#[test]
fn a_pod_that_tolerates_for_a_while_goes_after_it() {
    let mut case = Case::new(
        r#"[{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},
            {"operator":"Exists"}]"#,
    );
    case.world.edit(NODES, "", "n", TAINTED);
    assert_eq!(case.work().again_after, Some(Duration::from_secs(300)));
    case.world.pass(299_000);
    assert_eq!(case.work().again_after, Some(Duration::from_secs(1)));
    assert!(!case.is_going());
    case.world.pass(1000);
    case.work();
    assert!(case.is_going());
}

#[test]
fn a_pod_is_let_off_when_the_taint_goes() {
    let mut case = Case::new(r#"[{"operator":"Exists","tolerationSeconds":60}]"#);
    case.world.edit(NODES, "", "n", TAINTED);
    case.work();
    case.world.edit(NODES, "", "n", r#"{"spec":{"taints":null}}"#);
    case.world.pass(61_000);
    case.work();
    assert!(!case.is_going());
    assert_eq!(case.world.told(), ["TaintManagerEviction Cancelling deletion of Pod default/web"]);
    case.work();
    assert_eq!(case.world.told(), Vec::<String>::new());
}

#[test]
fn the_age_of_a_taint_counts_after_a_restart() {
    let mut case = Case::new(r#"[{"operator":"Exists","tolerationSeconds":60}]"#);
    let since = case.world.now;
    let tainted = format!(r#"{{"spec":{{"taints":[{{"key":"k","effect":"NoExecute","timeAdded":"{since}"}}]}}}}"#);
    case.world.edit(NODES, "", "n", &tainted);
    case.world.pass(40_000);
    assert_eq!(case.work().again_after, Some(Duration::from_secs(20)));
}

#[test]
fn who_tolerates_for_ever_stays() {
    let mut case = Case::new(r#"[{"operator":"Exists"}]"#);
    case.world.edit(NODES, "", "n", TAINTED);
    assert_eq!(case.work(), Plan::nothing());
}
