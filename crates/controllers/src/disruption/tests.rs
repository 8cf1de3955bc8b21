//! Tests of the disruption controller.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use reconcile::plan::kinds::{DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS};

use super::{DisruptionController, Subject};
use crate::testing::World;

fn pod(world: &mut World, name: &str, owner: &str, ready: &str) {
    world.create(
        PODS,
        "default",
        &format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{"app":"web"}}{owner}}},"spec":{{"nodeName":"n"}},
            "status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"{ready}"}}]}}}}"#
        ),
    );
}

/// Three pods of a Deployment of `replicas`, of which `ready` are, under a budget.
fn world(spec: &str, replicas: i32, ready: usize) -> World {
    let mut world = World::new();
    let deployment = world.create(
        DEPLOYMENTS,
        "default",
        &format!(r#"{{"metadata":{{"name":"web"}},"spec":{{"replicas":{replicas},"selector":{{}},"template":{{}}}}}}"#),
    );
    let uid = deployment.uid();
    let set = world.create(REPLICA_SETS, "default", &format!(
        r#"{{"metadata":{{"name":"web-1","ownerReferences":[{{"apiVersion":"apps/v1","kind":"Deployment","name":"web","uid":"{uid}","controller":true}}]}},"spec":{{"replicas":1,"selector":{{}}}}}}"#
    ));
    let owner = format!(
        r#","ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"{}","controller":true}}]"#,
        set.uid()
    );
    for number in 0..3 {
        pod(&mut world, &format!("web-1-{number}"), &owner, if number < ready { "True" } else { "False" });
    }
    world.create(
        POD_DISRUPTION_BUDGETS,
        "default",
        &format!(r#"{{"metadata":{{"name":"web"}},"spec":{{"selector":{{"matchLabels":{{"app":"web"}}}},{spec}}}}}"#),
    );
    world
}

fn subject() -> Subject {
    Subject::Budget(client::Key::new("default", "web"))
}

fn budget(world: &World) -> PodDisruptionBudget {
    world.typed(POD_DISRUPTION_BUDGETS, "default", "web")
}

/// Healthy, desired, expected, allowed and why.
#[track_caller]
fn check(world: &World, expected: (i32, i32, i32, i32, &str)) {
    let status = budget(world).status.expect("a status");
    let reason = status.conditions.as_ref().and_then(|list| list.first()).map(|found| found.reason.clone());
    let count = |count: Option<i32>| count.unwrap_or(0);
    let found = (
        count(status.current_healthy),
        count(status.desired_healthy),
        count(status.expected_pods),
        count(status.disruptions_allowed),
    );
    assert_eq!((found, reason.as_deref()), ((expected.0, expected.1, expected.2, expected.3), Some(expected.4)));
}

#[test]
fn counts_by_number_and_by_share_of_what_controllers_want() {
    let case = |spec: &str, replicas: i32, ready: usize, expected| {
        let mut world = world(spec, replicas, ready);
        assert!(world.work::<DisruptionController>(&subject()));
        assert!(!world.work::<DisruptionController>(&subject()), "once is enough");
        check(&world, expected);
    };
    case(r#""minAvailable":2"#, 3, 3, (3, 2, 3, 1, "SufficientPods"));
    case(r#""minAvailable":2"#, 3, 2, (2, 2, 3, 0, "InsufficientPods"));
    case(r#""minAvailable":"50%""#, 3, 3, (3, 2, 3, 1, "SufficientPods"));
    case(r#""maxUnavailable":"50%""#, 3, 3, (3, 1, 3, 2, "SufficientPods"));
    case(r#""maxUnavailable":1"#, 5, 3, (3, 4, 5, 0, "InsufficientPods"));
    case(r#""maxUnavailable":9"#, 3, 3, (3, 0, 3, 3, "SufficientPods"));
}

#[test]
fn an_eviction_counts_until_the_pod_is_gone_or_proves_to_stay() {
    let mut world = world(r#""minAvailable":1"#, 3, 3);
    world.work::<DisruptionController>(&subject());
    let since = api::meta::rfc3339(world.now);
    let spent =
        format!(r#"{{"status":{{"disruptionsAllowed":1,"disruptedPods":{{"web-1-0":"{since}","gone":"{since}"}}}}}}"#);
    world.tell(POD_DISRUPTION_BUDGETS, "default", "web", &spent);
    world.work::<DisruptionController>(&subject());
    check(&world, (2, 1, 3, 1, "SufficientPods"));
    let names = |world: &World| -> Vec<String> {
        budget(world).status.and_then(|status| status.disrupted_pods).unwrap_or_default().into_keys().collect()
    };
    assert_eq!(names(&world), ["web-1-0"]);
    world.pass(121_000);
    world.told();
    world.work::<DisruptionController>(&subject());
    check(&world, (3, 1, 3, 2, "SufficientPods"));
    assert_eq!(names(&world), Vec::<String>::new());
    assert_eq!(world.told(), ["NotDeleted Pod was expected by PDB default/default to be deleted but it wasn't"]);
}

#[test]
fn what_cannot_be_counted_lets_nothing_go() {
    let mut world = world(r#""maxUnavailable":1"#, 3, 3);
    world.work::<DisruptionController>(&subject());
    check(&world, (3, 2, 3, 1, "SufficientPods"));
    let owner =
        r#","ownerReferences":[{"apiVersion":"example.com/v1","kind":"Thing","name":"x","uid":"u","controller":true}]"#;
    pod(&mut world, "strange", owner, "True");
    world.told();
    world.work::<DisruptionController>(&subject());
    check(&world, (3, 2, 3, 0, "SyncFailed"));
    let why = "Failed to calculate the number of expected pods: found no controllers for pod \"strange\"";
    assert_eq!(world.told(), [format!("CalculateExpectedPodCountFailed {why}")]);
}

#[test]
fn pods_that_nobody_controls_are_told_of() {
    let mut world = world(r#""maxUnavailable":1"#, 3, 3);
    pod(&mut world, "alone", "", "True");
    world.work::<DisruptionController>(&subject());
    check(&world, (4, 2, 3, 2, "SufficientPods"));
    let told = world.told();
    let selector =
        "&LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},}";
    assert!(told[0].contains(selector), "{told:?}");
}

#[test]
fn a_disruption_that_never_came_is_taken_back() {
    let mut world = world(r#""minAvailable":1"#, 3, 3);
    let since = api::meta::rfc3339(world.now);
    let told = format!(
        r#"{{"status":{{"conditions":[{{"type":"DisruptionTarget","status":"True","reason":"EvictionByEvictionAPI","lastTransitionTime":"{since}"}}]}}}}"#
    );
    world.tell(PODS, "default", "web-1-0", &told);
    let subject = Subject::Pod(client::Key::new("default", "web-1-0"));
    assert!(!world.work::<DisruptionController>(&subject));
    world.pass(120_000);
    assert!(world.work::<DisruptionController>(&subject));
    let pod: k8s_openapi::api::core::v1::Pod = world.typed(PODS, "default", "web-1-0");
    let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
    assert_eq!(conditions[0].status, "False");
}
