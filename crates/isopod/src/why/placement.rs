//! Where a pod could run: the scheduler's own decision, made again on what is there now.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::meta;
use api::quantity::{Format, Quantity};
use api::value::Value;
use cli::why::{Placement, Refusal, World, owner};
use client::{Client, ClientError, ListOptions, Object, Target};
use scheduler::explain::{NodeExplanation, explain};
use scheduler::plugin::Remedy;
use scheduler::plugins::PLUGINS;
use scheduler::{Nodes, Subject};

/// Objects of a page of a list.
const PAGE: u32 = 500;
/// Nodes whose refusals are told.
const NODES_MAX: usize = 20;

/// Whether the pod waits for a node.
pub(super) fn is_unplaced(pod: &Value) -> bool {
    let without_node = pod.str_at(&["spec", "nodeName"]).unwrap_or_default().is_empty();
    without_node && pod.str_at(&["status", "phase"]) != Some("Failed") && !meta::is_terminating(pod)
}

/// The decisions about pods, by name.
pub(super) async fn of(
    client: &Client,
    pods: &[&Value],
    world: &World,
) -> Result<BTreeMap<String, Placement>, ClientError> {
    let list = async |plural: &'static str| {
        client.list_pages(Target::new("", "v1", plural), ListOptions::default(), PAGE).await.map(|list| list.items)
    };
    let (all_nodes, all_pods, namespaces) = (list("nodes").await?, list("pods").await?, list("namespaces").await?);
    let mut nodes = Nodes::default();
    for namespace in &namespaces {
        nodes.set_namespace(namespace.meta());
    }
    for node in all_nodes {
        nodes.set_node(node);
    }
    for pod in &all_pods {
        nodes.set_pod(pod);
    }
    let found = |pod: &Value| all_pods.iter().find(|object| object.uid() == meta::uid(pod));
    let placed =
        pods.iter().filter_map(|pod| Some((meta::name(pod).to_owned(), decide(found(pod)?, pod, &nodes, world))));
    Ok(placed.collect())
}

fn decide(object: &Arc<Object>, pod: &Value, nodes: &Nodes, world: &World) -> Placement {
    let explanation = explain(&Subject::new(object.clone()), nodes, PLUGINS);
    let nearest = explanation.nearest();
    if nearest.is_none() {
        return Placement::default();
    }
    let refusals = explanation.nodes.iter().flat_map(|node| {
        node.objections.iter().map(|objection| Refusal {
            node: node.name.to_string(),
            plugin: objection.plugin.to_owned(),
            reasons: objection.refusal.reasons.iter().map(ToString::to_string).collect(),
        })
    });
    Placement {
        refusals: refusals.take(NODES_MAX).collect(),
        nearest: nearest.and_then(NodeExplanation::words),
        commands: nearest.map(|node| commands(node, pod, world)).unwrap_or_default(),
    }
}

/// The commands that bring the changes about, as far as there are such.
fn commands(node: &NodeExplanation, pod: &Value, world: &World) -> Vec<String> {
    let name = &node.name;
    let command = |remedy: &Remedy| match remedy {
        Remedy::Uncordon => Some(format!("kubectl uncordon {name}")),
        Remedy::Tolerate(taint) => Some(format!("kubectl taint nodes {name} {}:{}-", taint.key, taint.effect)),
        Remedy::Labels(requirements) => {
            let labels: Option<Vec<String>> = requirements.iter().map(|requirement| label(requirement)).collect();
            labels.map(|labels| format!("kubectl label nodes {name} {}", labels.join(" ")))
        }
        Remedy::TopologyLabel { key } => Some(format!("kubectl label nodes {name} {key}=VALUE")),
        Remedy::Free { resource, lacking } => less(resource, *lacking, pod, world),
        Remedy::Port(port) => Some(format!(
            "kubectl get pods -A --field-selector spec.nodeName={name} -o jsonpath='{{range .items[?(@.spec.containers[*].ports[*].hostPort=={})]}}{{.metadata.namespace}}/{{.metadata.name}} {{end}}'",
            port.port
        )),
        _ => None,
    };
    node.remedies().filter_map(command).collect()
}

/// `key=value` of a requirement that one value meets.
fn label(requirement: &str) -> Option<String> {
    if let Some((key, values)) = requirement.split_once(" in (") {
        let first = values.trim_end_matches(')').split(',').next()?;
        return Some(format!("{key}={first}"));
    }
    let plain = requirement.split_once('=').is_some_and(|(key, _)| !key.ends_with('!') && !key.contains(' '));
    plain.then(|| requirement.to_owned())
}

/// What the pod's greediest container would have to ask for at most.
fn less(resource: &str, lacking: i64, pod: &Value, world: &World) -> Option<String> {
    let containers = pod.at(&["spec", "containers"])?.as_array()?;
    let milli = resource == "cpu";
    let asked = |container: &Value| {
        let text = container.str_at(&["resources", "requests", resource])?;
        let amount = Quantity::parse(text).ok()?;
        Some(if milli { amount.milli_value() } else { amount.value() })
    };
    let (container, present) =
        containers.iter().filter_map(|one| Some((one, asked(one)?))).max_by_key(|(_, amount)| *amount)?;
    let left = present - lacking;
    if left <= 0 {
        return None;
    }
    let amount = match (milli, resource) {
        (true, _) => Quantity::from_milli(left),
        (false, "memory" | "ephemeral-storage") => Quantity::new(left >> 20 << 20, Format::BinarySi),
        _ => Quantity::new(left, Format::DecimalSi),
    };
    let of = owner(pod, world).unwrap_or_else(|| format!("pod/{}", meta::name(pod)));
    let name = container.str_at(&["name"])?;
    Some(format!("kubectl -n {} set resources {of} -c {name} --requests={resource}={amount}", meta::namespace(pod)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_meets_some_requirements() {
        assert_eq!(label("disk=ssd").as_deref(), Some("disk=ssd"));
        assert_eq!(label("disk in (ssd,nvme)").as_deref(), Some("disk=ssd"));
        assert_eq!(label("disk notin (hdd)"), None);
        assert_eq!(label("disk!=hdd"), None);
    }

    #[test]
    fn the_greediest_container_asks_for_less() {
        let pod: serde_json::Value = serde_json::json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [
                {"name": "small", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "big", "resources": {"requests": {"cpu": "3", "memory": "3Gi"}}},
            ]},
        });
        let pod = api::value::to_value(&pod).expect("JSON is a tree");
        let check = |resource: &str, lacking: i64, expected: Option<&str>| {
            assert_eq!(less(resource, lacking, &pod, &World::default()).as_deref(), expected);
        };
        check("cpu", 1200, Some("kubectl -n n set resources pod/p -c big --requests=cpu=1800m"));
        check("memory", 1 << 30, Some("kubectl -n n set resources pod/p -c big --requests=memory=2Gi"));
        check("cpu", 3000, None);
    }
}
