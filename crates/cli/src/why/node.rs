//! Why a node takes no pods, runs short, or cannot be emptied.

use api::decide::trouble::condition;
use api::meta;
use api::value::Value;

use super::{Finding, World, evidence, is, list, name, number, reference, selects, text, told};

const PRESSURES: [(&str, &str); 3] = [
    ("MemoryPressure", "memory: pods that promise nothing are not taken, and some are ended"),
    ("DiskPressure", "disk: no pods are taken, unused images are removed, and pods are ended"),
    ("PIDPressure", "process ids: no pods are taken, and some are ended"),
];

/// Everything that is wrong with a node.
pub(super) fn findings(node: &Value, world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(not_ready(node));
    found.extend(PRESSURES.iter().filter(|(kind, _)| is(node, kind, "True")).map(|(kind, what)| {
        Finding::new(kind, format!("The node runs short of {what}.")).seen(told(node, kind)).helped_by(
            "Take away what uses most, or give the machine more.",
            "kubectl top pods -A --sort-by=memory".to_owned(),
        )
    }));
    found.extend(firewalled(node));
    found.extend(cordoned(node));
    found.extend(tainted(node));
    found.extend(held(node, world));
    found
}

fn not_ready(node: &Value) -> Option<Finding> {
    if is(node, "Ready", "True") {
        return None;
    }
    let silent = is(node, "Ready", "Unknown");
    let seen = condition(node, "Ready").map(|ready| text(ready, &["lastHeartbeatTime"]).to_owned());
    let what = match (silent, condition(node, "Ready")) {
        (true, _) => "The node's agent has not been heard of: the machine, its network or the agent is down.",
        (false, Some(_)) => "The node's agent says that it cannot run pods.",
        (false, None) => "The node's agent has not told how it is yet.",
    };
    let finding = Finding::new("NodeNotReady", what).seen(told(node, "Ready")).seen(
        seen.filter(|seen| !seen.is_empty())
            .map(|seen| evidence(node, "status.conditions[Ready].lastHeartbeatTime", seen)),
    );
    Some(match silent {
        true => finding.advised("Look whether the machine runs and reaches the API; start the agent there."),
        false => finding.advised("Mend what its message names."),
    })
}

fn firewalled(node: &Value) -> Option<Finding> {
    const KIND: &str = "FirewallClosed";
    is(node, KIND, "True").then(|| {
        Finding::new(KIND, "A firewall of the machine's own may keep packets of pods out, and nobody else may open it.")
            .seen(told(node, KIND))
            .advised("Let that firewall pass what its message names, or do without it: its own program has to do that.")
    })
}

fn cordoned(node: &Value) -> Option<Finding> {
    let cordoned = node.at(&["spec", "unschedulable"]).and_then(Value::as_bool) == Some(true);
    cordoned.then(|| {
        Finding::new("Cordoned", "The node is cordoned: no new pods come to it.")
            .seen([evidence(node, "spec.unschedulable", "true")])
            .helped_by("Open it again.", format!("kubectl uncordon {}", name(node)))
    })
}

/// Taints that people set; those that tell of other findings are left to these.
fn tainted(node: &Value) -> Option<Finding> {
    let own: Vec<&Value> = list(node, &["spec", "taints"])
        .iter()
        .filter(|taint| {
            !text(taint, &["key"]).starts_with("node.kubernetes.io/") && text(taint, &["effect"]) != "PreferNoSchedule"
        })
        .collect();
    let first = own.first()?;
    let shown =
        |taint: &Value| format!("{}={}:{}", text(taint, &["key"]), text(taint, &["value"]), text(taint, &["effect"]));
    let all: Vec<String> = own.iter().map(|taint| shown(taint)).collect();
    Some(
        Finding::new("Tainted", "The node keeps pods off that do not tolerate its taints.")
            .seen([evidence(node, "spec.taints", all.join(", "))])
            .helped_by(
                "Take a taint away, or let pods tolerate it.",
                format!("kubectl taint nodes {} {}:{}-", name(node), text(first, &["key"]), text(first, &["effect"])),
            ),
    )
}

/// Budgets that let none of the node's pods go: a drain waits for them.
fn held(node: &Value, world: &World) -> Vec<Finding> {
    let here: Vec<&Value> = world.pods.iter().filter(|pod| text(pod, &["spec", "nodeName"]) == name(node)).collect();
    let cordoned = node.at(&["spec", "unschedulable"]).and_then(Value::as_bool) == Some(true);
    if !cordoned {
        return Vec::new();
    }
    let closed = world.budgets.iter().filter(|budget| number(budget, &["status", "disruptionsAllowed"]) == 0);
    closed
        .filter_map(|budget| {
            let of = |pod: &&&Value| {
                meta::namespace(pod) == meta::namespace(budget) && selects(budget.at(&["spec", "selector"]), pod)
            };
            let pods: Vec<String> = here.iter().filter(of).map(|pod| reference(pod)).collect();
            (!pods.is_empty()).then(|| blocked(budget, &pods))
        })
        .collect()
}

/// A budget that lets no pod go.
fn blocked(budget: &Value, pods: &[String]) -> Finding {
    let [healthy, needed, all] =
        ["currentHealthy", "desiredHealthy", "expectedPods"].map(|field| number(budget, &["status", field]));
    let namespace = meta::namespace(budget);
    let what = format!(
        "The budget {:?} in namespace {namespace:?} lets no pod go: it needs {needed} healthy ones, and {healthy} of {all} are. A drain waits at {}.",
        name(budget),
        pods.join(", ")
    );
    let finding = Finding::new("DisruptionBudget", what).seen([evidence(
        budget,
        "status",
        format!("disruptionsAllowed 0, currentHealthy {healthy}, desiredHealthy {needed}, expectedPods {all}"),
    )]);
    if healthy < needed {
        return finding.helped_by(
            format!("{} more of its pods have to be healthy, and one more than that for a pod to go: see what is wrong with those that are not.", needed - healthy),
            format!("kubectl -n {namespace} get pods"),
        );
    }
    finding.helped_by(
        "Run one more of these pods elsewhere, or let the budget need one less.",
        format!(
            "kubectl -n {namespace} patch pdb {} --type merge -p '{{\"spec\":{{\"minAvailable\":{}}}}}'",
            name(budget),
            needed - 1
        ),
    )
}
