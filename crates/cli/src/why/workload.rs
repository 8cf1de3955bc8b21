//! Why a Deployment or a ReplicaSet does not have the pods it wants.

use api::decide::trouble;
use api::meta;
use api::value::Value;

use super::{
    Evidence, Finding, World, evidence, is, is_controlled_by, kubectl, last_event, name, number, of_event, pod, text,
    told,
};

/// Everything that is wrong with a Deployment.
pub(super) fn of_deployment(deployment: &Value, world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(unseen(deployment));
    found.extend(rolled_back(deployment));
    found.extend(paused(deployment));
    found.extend(refused(deployment, world));
    let new = new_set(deployment, world);
    let wanted = number(deployment, &["spec", "replicas"]);
    let available = number(deployment, &["status", "availableReplicas"]);
    let updated = number(deployment, &["status", "updatedReplicas"]);
    let complete = available >= wanted && updated >= wanted && number(deployment, &["status", "replicas"]) == updated;
    if !complete {
        found.extend(stuck(deployment, new, world));
    }
    found
}

/// How a Deployment is of which nothing is wrong.
pub(super) fn well(deployment: &Value) -> String {
    let (available, wanted) =
        (number(deployment, &["status", "availableReplicas"]), number(deployment, &["spec", "replicas"]));
    format!("nothing is wrong; {available} of {wanted} pods are available")
}

/// Everything that is wrong with a ReplicaSet.
pub(super) fn of_replica_set(set: &Value, world: &World) -> Vec<Finding> {
    let mut found: Vec<Finding> = unseen(set).into_iter().chain(refused(set, world)).collect();
    if number(set, &["status", "availableReplicas"]) < number(set, &["spec", "replicas"]) {
        found.extend(culprits(set, world));
    }
    found
}

fn unseen(object: &Value) -> Option<Finding> {
    let (wanted, seen) = (meta::generation(object), number(object, &["status", "observedGeneration"]));
    (seen < wanted).then(|| {
        Finding::new(
            "NotObserved",
            "Its controller has not looked at the last change yet: the status is that of before.",
        )
        .seen([evidence(object, "status.observedGeneration", format!("{seen}, behind metadata.generation {wanted}"))])
        .advised("Ask again in a moment; if it stays so, the control plane's controllers do not run.")
    })
}

fn rolled_back(deployment: &Value) -> Option<Finding> {
    if !is(deployment, "RolledBack", "True") {
        return None;
    }
    let message =
        trouble::condition(deployment, "RolledBack").map(|found| text(found, &["message"])).unwrap_or_default();
    Some(
        Finding::new("RolledBack", format!("The last change was taken back by itself. {message}"))
            .seen(told(deployment, "RolledBack"))
            .advised("What runs is the last good revision. Apply a template whose pods become ready."),
    )
}

fn paused(deployment: &Value) -> Option<Finding> {
    let paused = deployment.at(&["spec", "paused"]).and_then(Value::as_bool) == Some(true);
    paused.then(|| {
        Finding::new("DeploymentPaused", "It is paused: changes of its template wait.")
            .seen([evidence(deployment, "spec.paused", "true")])
            .helped_by(
                "Let it go on.",
                format!("{} rollout resume deployment/{}", kubectl(deployment), name(deployment)),
            )
    })
}

/// Its pods may not be made: admission, quotas, a missing account.
fn refused(object: &Value, world: &World) -> Option<Finding> {
    let condition = trouble::condition(object, "ReplicaFailure").filter(|found| text(found, &["status"]) == "True")?;
    let message = text(condition, &["message"]);
    let event = world
        .replica_sets
        .iter()
        .chain([object])
        .find_map(|of| last_event(world, of, None, &["FailedCreate", "ReplicaSetCreateError"]));
    let finding = Finding::new(text(condition, &["reason"]), "The API server refuses its pods.")
        .seen(told(object, "ReplicaFailure"))
        .seen(event.map(of_event));
    let account = message.split_once("serviceaccount \"").and_then(|(_, rest)| rest.split_once("\" not found"));
    Some(match account {
        Some((account, _)) => finding.helped_by(
            format!("Make the service account {account:?}, or name one that is there."),
            format!("{} create serviceaccount {account}", kubectl(object)),
        ),
        None if message.contains("exceeded quota") => finding.helped_by(
            "The namespace's quota is used up: raise it, or ask for less.",
            format!("{} describe resourcequota", kubectl(object)),
        ),
        None => finding.helped_by(
            "Correct in the template what the message names.",
            format!("{} edit {}", kubectl(object), super::reference(object)),
        ),
    })
}

/// The ReplicaSet of the present template: that of the highest revision.
fn new_set<'w>(deployment: &'w Value, world: &'w World) -> Option<&'w Value> {
    sets(deployment, world).max_by_key(|set| revision(set))
}

fn sets<'w>(deployment: &'w Value, world: &'w World) -> impl Iterator<Item = &'w Value> {
    world.replica_sets.iter().filter(|set| is_controlled_by(set, meta::uid(deployment)))
}

fn revision(set: &Value) -> i64 {
    meta::annotation(set, "deployment.kubernetes.io/revision").and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A roll-out that is not done: what holds it up, and what to go back to.
fn stuck(deployment: &Value, new: Option<&Value>, world: &World) -> Vec<Finding> {
    let late = trouble::condition(deployment, "Progressing")
        .filter(|found| text(found, &["reason"]) == "ProgressDeadlineExceeded");
    let older = sets(deployment, world).filter(|set| Some(name(set)) != new.map(name));
    let serves = |set: &&Value| number(set, &["status", "availableReplicas"]) > 0;
    let old: Vec<&Value> = older.filter(serves).collect();
    let mut found = Vec::new();
    let counts = format!(
        "{} of {} pods are of the new revision, {} are available",
        number(deployment, &["status", "updatedReplicas"]),
        number(deployment, &["spec", "replicas"]),
        number(deployment, &["status", "availableReplicas"]),
    );
    let mut roll_out = match late {
        Some(_) => Finding::new(
            "ProgressDeadlineExceeded",
            format!(
                "The roll-out made no progress within its {} seconds: {counts}.",
                number(deployment, &["spec", "progressDeadlineSeconds"])
            ),
        ),
        None => Finding::new("Progressing", format!("The roll-out is not done: {counts}.")),
    };
    roll_out = roll_out.seen(told(deployment, "Progressing")).seen(told(deployment, "Available"));
    roll_out = roll_out.seen(new.iter().chain(&old).map(|set| of_set(set, new)));
    if late.is_some() && !old.is_empty() {
        roll_out = roll_out.helped_by(
            "The old revision still serves. Correct what is wrong below, or go back to it.",
            format!("{} rollout undo deployment/{}", kubectl(deployment), name(deployment)),
        );
    }
    found.push(roll_out);
    found.extend(new.map(|set| culprits(set, world)).unwrap_or_default());
    found
}

fn of_set(set: &Value, new: Option<&Value>) -> Evidence {
    let which = if Some(name(set)) == new.map(name) { "new" } else { "old" };
    let [has, ready, available] =
        ["replicas", "readyReplicas", "availableReplicas"].map(|field| number(set, &["status", field]));
    evidence(
        set,
        "status",
        format!(
            "{which} revision {}: {has} of {} pods, {ready} ready, {available} available",
            revision(set),
            number(set, &["spec", "replicas"])
        ),
    )
}

/// What is wrong with the first pod of a ReplicaSet that is not ready, and how many others are like it.
fn culprits(set: &Value, world: &World) -> Vec<Finding> {
    let pods: Vec<&Value> =
        world.pods.iter().filter(|pod| is_controlled_by(pod, meta::uid(set)) && !meta::is_terminating(pod)).collect();
    let mut troubled = pods.iter().filter_map(|pod| Some((pod, trouble::trouble(pod)?)));
    let Some((first, what)) = troubled.next() else {
        return waits(set, &pods, world).into_iter().collect();
    };
    let alike = troubled.filter(|(_, other)| other.reason == what.reason && other.container == what.container).count();
    let mut found = pod::findings(first, world);
    if found.is_empty() {
        found.push(Finding::new(&what.reason, sentence(&what.words)).seen([evidence(
            first,
            "status.phase",
            text(first, &["status", "phase"]),
        )]));
    }
    let others = match alike {
        0 => String::new(),
        1 => ", and another one like it".to_owned(),
        count => format!(", and {count} others like it"),
    };
    for finding in &mut found {
        finding.what = format!("Pod {:?}{others}: {}", name(first), finding.what);
    }
    found
}

fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// No pod has trouble, and still they are too few.
fn waits(set: &Value, pods: &[&Value], world: &World) -> Option<Finding> {
    let wanted = number(set, &["spec", "replicas"]);
    if (pods.len() as i64) < wanted {
        let what = format!("{} of {wanted} pods are there; the others are about to be made.", pods.len());
        let event = last_event(world, set, None, &["FailedCreate"]);
        return Some(Finding::new("Progressing", what).seen(event.map(of_event)));
    }
    let ready = pods.iter().filter(|pod| is(pod, "Ready", "True")).count();
    let seconds = number(set, &["spec", "minReadySeconds"]);
    if ready as i64 >= wanted && seconds > 0 {
        let what = format!("All pods are ready, and count as available once they have been so for {seconds} seconds.");
        return Some(Finding::new("MinimumReplicasUnavailable", what).seen([evidence(
            set,
            "spec.minReadySeconds",
            seconds.to_string(),
        )]));
    }
    Some(Finding::new("Progressing", "Pods are being started, and nothing has gone wrong with them so far."))
}
