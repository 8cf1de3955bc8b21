//! Cases: who has to go, where, and when nobody may.

use std::sync::Arc;

use client::Object;

use super::*;
use crate::plugins::PLUGINS;
use crate::testing::{node, nodes, object, pod, run};

fn running(name: &str, cpu: &str, priority: i32, started: u32) -> Arc<Object> {
    object(
        "Pod",
        &format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{name}","labels":{{"app":"{name}"}}}},"spec":{{"priority":{priority},
            "containers":[{{"name":"c","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}},"status":{{"startTime":"2024-01-01T00:00:{started:02}Z"}}}}"#
        ),
    )
}

fn budget(app: &str, allowed: u32) -> Arc<Object> {
    object(
        "PodDisruptionBudget",
        &format!(
            r#"{{"metadata":{{"name":"{app}","namespace":"n","uid":"b"}},"spec":{{"selector":{{"matchLabels":{{"app":"{app}"}}}}}},
            "status":{{"disruptionsAllowed":{allowed}}}}}"#
        ),
    )
}

/// `node: victim victim`, or the message.
fn outcome(pod: &Arc<Object>, nodes: &Nodes, budgets: &[Arc<Object>]) -> String {
    let subject = Subject::new(pod.clone());
    let mut case = Case::new(subject.clone(), nodes, PLUGINS);
    let misfit = case.misfit(&subject, nodes);
    let budgets: Vec<&BudgetLite> = budgets.iter().map(|budget| budget.project()).collect();
    let preemption = preempt(&mut case, &subject, nodes, &misfit, &budgets, 0);
    let again = case.misfit(&subject, nodes);
    assert_eq!(misfit, again, "what was supposed is taken back");
    match preemption {
        Preemption::Victims(candidate) => {
            let names: Vec<&str> = candidate.victims.iter().map(|victim| victim.object.name()).collect();
            format!("{}: {}", candidate.node, names.join(" "))
        }
        other => other.message().unwrap(),
    }
}

#[track_caller]
fn check(pod: &Arc<Object>, nodes: &Nodes, budgets: &[Arc<Object>], expected: &str) {
    assert_eq!(outcome(pod, nodes, budgets), expected);
}

fn urgent(cpu: &str, more: &str) -> Arc<Object> {
    pod("urgent", cpu, "1Mi", &format!(r#","priority":100{more}"#))
}

#[test]
fn as_few_and_as_unimportant_as_possible_have_to_go() {
    let mut one = nodes([node("a", "4", "4Gi", "")]);
    run(
        &mut one,
        [(running("low", "1", 1, 1), "a"), (running("old", "1", 5, 1), "a"), (running("new", "2", 5, 2), "a")],
    );
    check(&urgent("1", ""), &one, &[], "a: low");
    check(&urgent("2", ""), &one, &[], "a: new");
    check(&urgent("3", ""), &one, &[], "a: new low");
    let too_much = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    check(&urgent("5", ""), &one, &[], too_much);
    let equal = pod("p", "1", "1Mi", r#","priority":1"#);
    check(&equal, &one, &[], "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.");
    let never = urgent("1", r#","preemptionPolicy":"Never""#);
    check(&never, &one, &[], "preemption: not eligible due to preemptionPolicy=Never.");
    let part = pod("p", "4", "1Mi", r#","priority":5"#);
    check(&part, &one, &[], "preemption: 0/1 nodes are available: 1 Insufficient cpu.");
}

#[test]
fn nodes_are_compared_by_upstreams_criteria_in_their_order() {
    let two = |first: &[(&str, &str, i32, u32)], second: &[(&str, &str, i32, u32)]| {
        let mut nodes = nodes([node("a", "4", "4Gi", ""), node("b", "4", "4Gi", "")]);
        for (name, pods) in [("a", first), ("b", second)] {
            pods.iter().for_each(|(pod, cpu, priority, start)| {
                run(&mut nodes, [(running(pod, cpu, *priority, *start), name)])
            });
        }
        nodes
    };
    let all = urgent("4", "");
    let by_priority = two(&[("x", "4", 2, 1)], &[("y", "4", 1, 1)]);
    check(&all, &by_priority, &[], "b: y");
    check(&all, &by_priority, &[budget("y", 0)], "a: x");
    check(&all, &by_priority, &[budget("y", 1)], "b: y");
    check(&all, &two(&[("x", "2", 2, 1), ("z", "2", 2, 1)], &[("y", "2", 2, 1), ("w", "2", 1, 1)]), &[], "b: y w");
    check(&all, &two(&[("x", "2", -1, 1), ("z", "2", -1, 1)], &[("y", "4", -1, 1)]), &[], "b: y");
    check(&all, &two(&[("x", "4", 1, 1)], &[("y", "4", 1, 2)]), &[], "b: y");
}

#[test]
fn a_protected_pod_is_spared_before_others() {
    let mut one = nodes([node("a", "4", "4Gi", "")]);
    run(&mut one, [(running("low", "2", 1, 1), "a"), (running("high", "2", 9, 1), "a")]);
    check(&urgent("2", ""), &one, &[], "a: low");
    check(&urgent("2", ""), &one, &[budget("low", 0)], "a: high");
}

#[test]
fn who_makes_room_already_makes_no_more() {
    let leaving = object(
        "Pod",
        r#"{"metadata":{"name":"low","namespace":"n","uid":"low","deletionTimestamp":"2024-01-01T00:00:00Z"},
            "spec":{"nodeName":"a","containers":[{"name":"c","resources":{"requests":{"cpu":"4"}}}]},
            "status":{"conditions":[{"type":"DisruptionTarget","status":"True","reason":"PreemptionByScheduler"}]}}"#,
    );
    let mut one = nodes([node("a", "4", "4Gi", "")]);
    one.set_pod(&leaving);
    let subject = Subject::new(urgent("4", ""));
    one.nominate(&subject.counted, "a");
    let waits = "preemption: not eligible due to a terminating pod on the nominated node.";
    check(&urgent("4", ""), &one, &[], waits);
    one.withdraw("urgent");
    check(&urgent("4", ""), &one, &[], "a: low");
}

#[test]
fn a_less_important_pod_loses_the_room_that_was_being_made_for_it() {
    let mut one = nodes([node("a", "4", "4Gi", "")]);
    run(&mut one, [(running("low", "4", 1, 1), "a")]);
    one.nominate(&Subject::new(pod("middle", "4", "1Mi", r#","priority":50"#)).counted, "a");
    let subject = Subject::new(urgent("4", ""));
    let mut case = Case::new(subject.clone(), &one, PLUGINS);
    let misfit = case.misfit(&subject, &one);
    let Preemption::Victims(candidate) = preempt(&mut case, &subject, &one, &misfit, &[], 0) else { panic!() };
    assert_eq!(candidate.displaced[0].object.name(), "middle");
}

#[test]
fn anti_affinity_pushes_out_who_stands_in_the_way() {
    let apart = r#","affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname",
        "labelSelector":{"matchLabels":{"app":"x"}}}]}}"#;
    let mut one = nodes([node("a", "4", "4Gi", "")]);
    run(&mut one, [(running("x", "1", 1, 1), "a"), (running("y", "1", 1, 1), "a")]);
    check(&urgent("1", apart), &one, &[], "a: x");
}
