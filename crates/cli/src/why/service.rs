//! Why a Service leads nowhere.

use api::decide::trouble::trouble;
use api::meta;
use api::value::{Map, Value};

use super::container::is_near;
use super::{Evidence, Finding, World, evidence, is, kubectl, list, name, number, pod, text};

/// Everything that is wrong with a Service.
pub(super) fn findings(service: &Value, world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    if text(service, &["spec", "type"]) == "ExternalName" {
        return found;
    }
    let empty = Map::default();
    let selector = service.at(&["spec", "selector"]).and_then(Value::as_object).unwrap_or(&empty);
    if selector.is_empty() {
        found.extend(by_hand(service, world));
    } else {
        let here: Vec<&Value> = world.pods.iter().filter(|pod| same_namespace(pod, service)).collect();
        let selected: Vec<&Value> = here.iter().copied().filter(|pod| misses(pod, selector).is_empty()).collect();
        match selected.is_empty() {
            true => found.push(nothing_selected(service, selector, &here, world)),
            false => found.extend(of_selected(service, &selected, world)),
        }
    }
    found.extend(no_balancer(service));
    found
}

/// How a Service is of which nothing is wrong.
pub(super) fn well(service: &Value, world: &World) -> String {
    if text(service, &["spec", "type"]) == "ExternalName" {
        return format!("nothing is wrong; its name stands for {}", text(service, &["spec", "externalName"]));
    }
    format!("nothing is wrong; {} endpoints are ready", ready(service, world))
}

fn same_namespace(pod: &Value, service: &Value) -> bool {
    meta::namespace(pod) == meta::namespace(service)
}

/// The labels of the selector that a pod lacks or has with another value.
fn misses<'s>(pod: &Value, selector: &'s Map) -> Vec<(&'s str, &'s str)> {
    let labels = meta::labels(pod);
    let wanted = selector.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()));
    wanted.filter(|(key, value)| labels.get(key).and_then(Value::as_str) != Some(*value)).collect()
}

fn joined(selector: &Map) -> String {
    let pairs: Vec<String> =
        selector.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

fn endpoints<'w>(service: &'w Value, world: &'w World) -> impl Iterator<Item = &'w Value> {
    let of = |slice: &&Value| meta::label(slice, "kubernetes.io/service-name") == Some(name(service));
    world.slices.iter().filter(of).flat_map(|slice| list(slice, &["endpoints"]))
}

fn ready(service: &Value, world: &World) -> usize {
    let is_ready = |endpoint: &&Value| endpoint.at(&["conditions", "ready"]).and_then(Value::as_bool) != Some(false);
    endpoints(service, world).filter(is_ready).count()
}

fn by_hand(service: &Value, world: &World) -> Option<Finding> {
    (endpoints(service, world).next().is_none()).then(|| {
        Finding::new("NoSelector", "The Service has no selector, and nobody has written endpoints for it.")
            .seen([evidence(service, "spec.selector", "(absent)")])
            .helped_by(
                "Select pods by their labels.",
                format!("{} set selector service/{} KEY=VALUE", kubectl(service), name(service)),
            )
    })
}

/// No pod has the labels: which pods nearly have them, or have them elsewhere.
fn nothing_selected(service: &Value, selector: &Map, here: &[&Value], world: &World) -> Finding {
    let namespace = meta::namespace(service);
    let finding = Finding::new(
        "NoEndpoints",
        format!("No pod in namespace {namespace:?} has the labels that the Service selects."),
    )
    .seen([evidence(service, "spec.selector", joined(selector))]);
    let elsewhere = world.pods.iter().find(|pod| !same_namespace(pod, service) && misses(pod, selector).is_empty());
    if let Some(pod) = elsewhere {
        let other = meta::namespace(pod);
        let seen =
            evidence(pod, "metadata", format!("in namespace {other}, with labels {}", joined(meta::labels(pod))));
        return finding.seen([seen]).helped_by(
            format!("Such pods are in namespace {other:?}: make the Service there."),
            format!(
                "kubectl -n {namespace} get service {} -o yaml  # then apply it with namespace {other}",
                name(service)
            ),
        );
    }
    let nearness = |pod: &&&Value| {
        let missed = misses(pod, selector);
        let slips: usize = missed.iter().map(|(key, value)| likeness(slip(pod, key, value), key, value)).sum();
        (selector.len() - missed.len()) * 4 + slips
    };
    let nearest = here.iter().filter(|pod| nearness(pod) > 0).max_by_key(|pod| nearness(pod));
    let Some(pod) = nearest else {
        let what = "Nothing there has even one of them: make pods with these labels, or select others.";
        return finding.helped_by(what, format!("{} get pods --show-labels", kubectl(service)));
    };
    let set: Vec<String> = misses(pod, selector)
        .iter()
        .map(|(key, value)| match slip(pod, key, value) {
            Some((found, value)) if found == *key => format!("{key}={value}"),
            Some((found, value)) => format!("{key}-,{found}={value}"),
            None => format!("{key}-"),
        })
        .collect();
    let patch: Vec<String> = set
        .iter()
        .flat_map(|change| change.split(','))
        .map(|change| match change.strip_suffix('-') {
            Some(key) => format!("\"{key}\":null"),
            None => change.split_once('=').map(|(key, value)| format!("\"{key}\":\"{value}\"")).unwrap_or_default(),
        })
        .collect();
    let missed: Vec<String> = misses(pod, selector).iter().map(|(key, value)| format!("{key}={value}")).collect();
    finding.seen([evidence(pod, "metadata.labels", joined(meta::labels(pod)))]).helped_by(
        format!(
            "Pod {:?} comes nearest; it lacks {}. Select what it has, or label it so.",
            name(pod),
            missed.join(", ")
        ),
        format!(
            "{} patch service {} -p '{{\"spec\":{{\"selector\":{{{}}}}}}}'",
            kubectl(service),
            name(service),
            patch.join(",")
        ),
    )
}

/// A label of the pod that may have been meant: of this key with another value, or of a key like it.
fn slip<'p>(pod: &'p Value, key: &str, value: &str) -> Option<(&'p str, &'p str)> {
    let labels = || meta::labels(pod).iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()));
    labels()
        .find(|(found, _)| *found == key)
        .or_else(|| labels().find(|(found, has)| is_near(found, key) || *has == value))
}

/// How like a label is to the one that is wanted: most where only the key or the value is misspelt.
fn likeness(found: Option<(&str, &str)>, key: &str, value: &str) -> usize {
    match found {
        Some((found, has)) if is_near(found, key) && is_near(has, value) => 3,
        Some((_, has)) if has == value => 2,
        Some(_) => 1,
        None => 0,
    }
}

/// Pods are selected: they are not ready, or have no such port.
fn of_selected(service: &Value, selected: &[&Value], world: &World) -> Vec<Finding> {
    let mut found: Vec<Finding> = wrong_ports(service, selected);
    let count = ready(service, world);
    if count > 0 || !found.is_empty() {
        return found;
    }
    let ready_pods = selected.iter().filter(|pod| is(pod, "Ready", "True")).count();
    if ready_pods > 0 {
        found.push(
            Finding::new("NoEndpoints", "Pods are ready, and no endpoint tells so yet.")
                .seen([evidence(selected[0], "status.conditions[Ready]", "True")])
                .advised("Ask again in a moment."),
        );
        return found;
    }
    let what = match selected.len() {
        1 => "The Service has no endpoints: the one pod that it selects is not ready.".to_owned(),
        count => format!("The Service has no endpoints: none of the {count} pods that it selects is ready."),
    };
    found.push(Finding::new("NoEndpoints", what).seen(selected.iter().take(3).map(|pod| {
        let words = trouble(pod).map_or_else(|| "starting".to_owned(), |trouble| trouble.words);
        evidence(pod, "status", words)
    })));
    let first = selected.iter().find(|pod| trouble(pod).is_some());
    found.extend(first.into_iter().flat_map(|pod| {
        pod::findings(pod, world).into_iter().map(|mut finding| {
            finding.what = format!("Pod {:?}: {}", name(pod), finding.what);
            finding
        })
    }));
    found
}

fn port_names(pod: &Value) -> Vec<&str> {
    let ports = list(pod, &["spec", "containers"]).iter().flat_map(|container| list(container, &["ports"]));
    ports.map(|port| text(port, &["name"])).filter(|name| !name.is_empty()).collect()
}

fn port_numbers(pod: &Value) -> Vec<i64> {
    let ports = list(pod, &["spec", "containers"]).iter().flat_map(|container| list(container, &["ports"]));
    ports.map(|port| number(port, &["containerPort"])).collect()
}

/// Target ports that the pods do not have: by name for sure, by number as far as the pods declare theirs.
fn wrong_ports(service: &Value, selected: &[&Value]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, port) in list(service, &["spec", "ports"]).iter().enumerate() {
        let path = format!(
            "spec.ports[{}].targetPort",
            if text(port, &["name"]).is_empty() { index.to_string() } else { text(port, &["name"]).to_owned() }
        );
        let target = port.get("targetPort");
        let first = selected[0];
        let declared: Vec<Evidence> = vec![evidence(first, "spec.containers[].ports", declared(first))];
        let replace = |to: &str| {
            format!(
                "{} patch service {} --type json -p '[{{\"op\":\"replace\",\"path\":\"/spec/ports/{index}/targetPort\",\"value\":{to}}}]'",
                kubectl(service),
                name(service)
            )
        };
        if let Some(wanted) = target.and_then(Value::as_str) {
            if selected.iter().any(|pod| port_names(pod).contains(&wanted)) {
                continue;
            }
            let names = port_names(first);
            let near = names.iter().find(|found| is_near(found, wanted)).or_else(|| names.first());
            let what = format!("The Service leads to a port named {wanted:?}, which no container of its pods has.");
            let finding = Finding::new("NoSuchPort", what).seen([evidence(service, path, wanted)]).seen(declared);
            let numbers = port_numbers(first);
            found.push(match (near, numbers.first()) {
                (Some(near), _) => finding.helped_by(format!("Lead to {near:?}."), replace(&format!("\"{near}\""))),
                (None, Some(number)) => {
                    finding.helped_by(format!("Lead to port {number}."), replace(&number.to_string()))
                }
                (None, None) => finding.helped_by("Name the port on which the containers listen.", replace("NUMBER")),
            });
        } else {
            let wanted = target.and_then(Value::as_i64).unwrap_or_else(|| number(port, &["port"]));
            let numbers = port_numbers(first);
            // Containers may listen on ports that they do not declare; with one declared, the other is a slip.
            if let [only] = numbers.as_slice()
                && *only != wanted
            {
                let what = format!("The Service leads to port {wanted}, and its pods declare port {only} only.");
                found.push(
                    Finding::new("OtherPort", what)
                        .seen([evidence(service, path, wanted.to_string())])
                        .seen(declared)
                        .helped_by("If nothing listens there, lead to the declared port.", replace(&only.to_string())),
                );
            }
        }
    }
    found
}

fn declared(pod: &Value) -> String {
    let ports = list(pod, &["spec", "containers"]).iter().flat_map(|container| list(container, &["ports"]));
    let shown: Vec<String> = ports
        .map(|port| match text(port, &["name"]) {
            "" => number(port, &["containerPort"]).to_string(),
            name => format!("{name} ({})", number(port, &["containerPort"])),
        })
        .collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

fn no_balancer(service: &Value) -> Option<Finding> {
    let wanted = text(service, &["spec", "type"]) == "LoadBalancer";
    let given = !list(service, &["status", "loadBalancer", "ingress"]).is_empty();
    (wanted && !given).then(|| {
        Finding::new("NoLoadBalancer", "Nobody has given the Service an address outside of the cluster.")
            .seen([evidence(service, "status.loadBalancer.ingress", "(empty)")])
            .helped_by(
                "Use the ports of nodes, which are open, or run a controller that gives addresses to load balancers.",
                format!("{} get service {} -o jsonpath='{{.spec.ports[*].nodePort}}'", kubectl(service), name(service)),
            )
    })
}
