//! Cases: what is said of each node, and what would help.

use super::*;
use crate::plugins::PLUGINS;
use crate::testing::{labelled, node, nodes, pod, run};

#[test]
fn names_every_objection_and_the_smallest_change() {
    let taint = r#""unschedulable":true,"taints":[{"key":"k","effect":"NoSchedule"}]"#;
    let mut three =
        nodes([node("off", "4", "4Gi", taint), node("tight", "4", "4Gi", ""), node("tiny", "1", "4Gi", "")]);
    run(&mut three, [(pod("x", "3", "1Gi", ""), "tight")]);
    let explanation = explain(&Subject::new(pod("p", "2", "1Gi", "")), &three, PLUGINS);
    let plugins = |name: &str| -> Vec<&str> {
        let node = explanation.nodes.iter().find(|node| *node.name == *name).unwrap();
        node.objections.iter().map(|objection| objection.plugin).collect()
    };
    assert_eq!(plugins("off"), ["NodeUnschedulable", "TaintToleration"]);
    assert_eq!(plugins("tiny"), ["NodeResourcesFit"]);
    let nearest = explanation.nearest().unwrap();
    let remedies: Vec<&Remedy> = nearest.remedies().collect();
    assert_eq!(&*nearest.name, "tight");
    assert_eq!(remedies, [&Remedy::Free { resource: "cpu".into(), lacking: 1000 }]);
    let selecting = Subject::new(pod("p", "1", "1Gi", r#","nodeSelector":{"disk":"ssd"}"#));
    let explanation = explain(&selecting, &nodes([labelled("a", "", "")]), PLUGINS);
    let remedies: Vec<&Remedy> = explanation.nearest().unwrap().remedies().collect();
    assert_eq!(remedies, [&Remedy::Labels(vec!["disk=ssd".into()])]);
}

#[test]
fn says_by_which_scores_the_best_node_won() {
    let mut two = nodes([node("a", "4", "4Gi", ""), node("b", "4", "4Gi", "")]);
    run(&mut two, [(pod("x", "2", "2Gi", ""), "a")]);
    let explanation = explain(&Subject::new(pod("p", "1", "1Gi", "")), &two, PLUGINS);
    assert!(explanation.nearest().is_none(), "nothing has to change");
    let best = explanation.fitting()[0];
    let fit = best.scores.iter().find(|score| score.plugin == "NodeResourcesFit").unwrap();
    assert_eq!((&*best.name, fit.score, fit.weight), ("b", 75, 1));
}

#[test]
fn says_in_plain_words_what_would_help() {
    let free = |resource: &str, lacking| Remedy::Free { resource: resource.into(), lacking };
    let words = |remedies: Vec<Remedy>| {
        let refusal = crate::plugin::Refusal { reasons: Vec::new(), resolvable: true };
        let objection = Objection { plugin: "P", refusal, remedies };
        NodeExplanation { name: "n".into(), objections: vec![objection], scores: Vec::new() }.words()
    };
    let check = |remedies: Vec<Remedy>, expected: &str| {
        assert_eq!(words(remedies).as_deref(), Some(format!("Node \"n\" would do if {expected}.").as_str()));
    };
    check(
        vec![free("cpu", 1500), free("memory", (3 << 30) + 1)],
        "1500m more cpu were free there and 3073Mi more memory were free there",
    );
    check(
        vec![free("nvidia.com/gpu", 1), Remedy::Uncordon],
        "1 more nvidia.com/gpu were free there and it were uncordoned",
    );
    let taint = |value: &str| {
        Remedy::Tolerate(api::projection::Taint {
            key: "k".into(),
            value: value.into(),
            effect: "NoSchedule".into(),
            added: None,
        })
    };
    check(vec![taint("v")], "the pod tolerated its taint k=v:NoSchedule");
    check(vec![taint("")], "the pod tolerated its taint k:NoSchedule");
    check(vec![Remedy::Labels(vec!["disk=ssd".into()])], "its labels met disk=ssd");
    assert_eq!(words(Vec::new()), None);
}

#[test]
fn the_board_knows_the_nearest_node_of_a_pod_it_just_refused() {
    let mut board = crate::board::Board::new(PLUGINS);
    board.nodes.set_node(node("small", "1", "4Gi", ""));
    board.nodes.set_node(node("off", "8", "8Gi", r#""unschedulable":true"#));
    let subject = Subject::new(pod("p", "4", "1Gi", ""));
    board.decide(&subject, 0);
    let nearest = board.nearest(&subject).and_then(|node| node.words());
    assert_eq!(nearest.as_deref(), Some("Node \"off\" would do if it were uncordoned."));
    let fits = Subject::new(pod("q", "1", "1Gi", ""));
    board.decide(&fits, 0);
    assert_eq!(board.nearest(&fits), None);
}
