//! What is worked out step by step is what is worked out anew, whatever happens.

use std::sync::Arc;

use client::Object;

use super::*;
use crate::explain::explain;
use crate::plugins::PLUGINS;
use crate::schedule::schedule;
use crate::subject::Counted;
use crate::testing::{labelled, object};

/// A stream of numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// What pods of a kind say.
fn kind(number: u64) -> String {
    let selector = r#""labelSelector":{"matchLabels":{"app":"0"}}"#;
    let term = |key: &str| format!(r#"{{{selector},"topologyKey":"{key}"}}"#);
    match number {
        0 => String::new(),
        1 => format!(r#","affinity":{{"podAntiAffinity":{{"{REQUIRED}":[{}]}}}}"#, term("kubernetes.io/hostname")),
        2 => format!(
            r#","affinity":{{"podAffinity":{{"{PREFERRED}":[{{"weight":9,"podAffinityTerm":{}}}]}}}}"#,
            term("zone")
        ),
        3 => format!(
            r#","topologySpreadConstraints":[{{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule","labelSelector":{{"matchLabels":{{"app":"3"}}}}}},
            {{"maxSkew":1,"topologyKey":"kubernetes.io/hostname","whenUnsatisfiable":"ScheduleAnyway",{selector}}}]"#
        ),
        4 => format!(
            r#","affinity":{{"nodeAffinity":{{"{PREFERRED}":[{{"weight":3,"preference":{{"matchExpressions":[{{"key":"zone","operator":"In","values":["1"]}}]}}}}]}},
            "podAffinity":{{"{REQUIRED}":[{}]}}}}"#,
            term("zone")
        ),
        _ => r#","priority":7,"tolerations":[{"operator":"Exists"}]"#.to_owned(),
    }
}

fn pod(uid: u64, number: u64) -> Arc<Object> {
    object(
        "Pod",
        &format!(
            r#"{{"metadata":{{"name":"p{uid}","namespace":"n","uid":"{uid}","labels":{{"app":"{number}"}}}},"spec":{{"schedulerName":"default-scheduler"{},
            "containers":[{{"name":"c","image":"i{number}","resources":{{"requests":{{"cpu":"{}"}}}}}}]}}}}"#,
            kind(number),
            1 + number,
        ),
    )
}

fn node(number: u64, dice: &mut Dice) -> Arc<Object> {
    let taint = match dice.roll(6) {
        0 => r#""taints":[{"key":"k","effect":"NoSchedule"}]"#,
        1 => r#""taints":[{"key":"k","effect":"PreferNoSchedule"}]"#,
        _ => "",
    };
    labelled(&format!("n{number}"), &format!("zone={}", dice.roll(3)), taint)
}

/// Plays a history of changes and decisions, and compares each decision with one made from nothing.
fn play(seed: u64) {
    let mut dice = Dice(seed);
    let mut board = Board::new(PLUGINS);
    let mut running: Vec<u64> = Vec::new();
    for step in 0..300 {
        match dice.roll(8) {
            0 => {
                board.nodes.set_node(node(dice.roll(8), &mut dice));
            }
            1 if dice.roll(4) == 0 => board.nodes.remove_node(&format!("n{}", dice.roll(8))),
            2 if !running.is_empty() => {
                let gone = running.swap_remove(dice.roll(running.len() as u64) as usize);
                board.nodes.remove_pod(&gone.to_string());
            }
            3 => {
                let rival = Arc::new(Counted::new(pod(9_999, dice.roll(6))));
                board.nodes.nominate(&rival, &format!("n{}", dice.roll(8)));
            }
            4 => board.nodes.withdraw("9999"),
            _ => {}
        }
        let subject = Subject::new(pod(step, dice.roll(6)));
        let tie = dice.roll(1 << 20);
        let decision = board.decide(&subject, tie);
        assert_eq!(decision, schedule(&subject, &board.nodes, PLUGINS, tie), "seed {seed}, step {step}");
        if let Decision::Node(name) = decision {
            if board.nodes.nominations().next().is_none() {
                let explanation = explain(&subject, &board.nodes, PLUGINS);
                let best = explanation.fitting()[0].total();
                let chosen = explanation.nodes.iter().find(|node| node.name == name).unwrap();
                assert_eq!((chosen.objections.len(), chosen.total()), (0, best), "seed {seed}, step {step}");
            }
            board.nodes.assume(&subject.counted, &name);
            running.push(step);
        }
    }
}

#[test]
fn what_is_kept_decides_as_what_is_worked_out_anew() {
    (0..20).for_each(play);
}

#[test]
fn pods_that_name_their_node_leave_no_case_behind() {
    let mut board = Board::new(PLUGINS);
    for number in 0..4 {
        board.nodes.set_node(labelled(&format!("n{number}"), "", ""));
    }
    for number in 0..4 {
        let affinity = format!(
            r#","affinity":{{"nodeAffinity":{{"{REQUIRED}":{{"nodeSelectorTerms":[{{"matchFields":[{{"key":"metadata.name","operator":"In","values":["n{number}"]}}]}}]}}}}}}"#
        );
        let subject = Subject::new(crate::testing::tagged("p", "", &affinity));
        assert_eq!(board.decide(&subject, 0), Decision::Node(format!("n{number}").into()));
    }
    assert_eq!(board.cases.len(), 1);
}
