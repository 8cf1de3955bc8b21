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
