//! Whether a node is alive: it renews its lease or posts its status; one that does neither for long is unknown.

use std::sync::Arc;
use std::time::Duration;

use api::decide::conditions::{NewCondition, set_condition};
use api::projection::NodeLite;
use api::value::Value;
use client::Object;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use reconcile::plan::kinds::{LEASES, NODES, PODS};
use reconcile::{Action, Change, Facts, Need, Now, Severity};
use stdx::Mono;

use crate::{condition, owner, patch};

/// How long a node may be silent. Upstream: `--node-monitor-grace-period`.
const GRACE: Duration = Duration::from_secs(50);
/// How long a node may take to say anything for the first time. Upstream: `--node-startup-grace-period`.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// How soon to look again when the caches are behind.
const LAG: Duration = Duration::from_secs(1);
/// The conditions that nobody knows any more.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Before a node is called silent, the API has to have said so for this long: after an outage of its own, or of the way to it,
/// nodes have had no chance to renew their leases, which they do every ten seconds. Where nodes may be silent for less than
/// usual, it is as much of that as it usually is.
const CONFIRMED: Duration = Duration::from_secs(15);

/// Where a node shows that it lives.
pub struct Signs {
    pub node: Arc<Object>,
    pub lease: Option<Arc<Object>>,
}

/// The last sign of life.
#[derive(Clone, Default)]
pub(super) struct Memory {
    seen: Option<Seen>,
    /// Since when the API itself, and not only a cache of it, has shown no other sign.
    confirmed: Option<Mono>,
}

#[derive(Clone)]
struct Seen {
    uid: String,
    revision: u64,
    heartbeat: String,
    renewed: Option<Timestamp>,
    /// By this controller's clock: the node's may differ.
    at: Mono,
}

/// What is to be done about a node.
pub(super) enum Verdict {
    Alive {
        look_again: Duration,
    },
    /// The caches show nothing new, which may be their fault.
    Unsure(Vec<Need>),
    /// It has been silent for too long, and that is to be told.
    Silent(Change),
    /// That has been told.
    Told,
}

/// Looks for signs of life.
pub(super) fn judge(signs: &Signs, now: Now, facts: &Facts, memory: &mut Memory) -> Verdict {
    let node = &signs.node;
    let lease: Option<Lease> = signs.lease.as_ref().and_then(|lease| owner::typed(lease));
    let renewed = lease.and_then(|lease| lease.spec?.renew_time).map(|time| time.0);
    let lite: &NodeLite = node.project();
    let never = super::ready(node).is_none();
    let grace = if never { STARTUP_GRACE } else { facts.node_monitor_grace_period.unwrap_or(GRACE) };
    let to_confirm = CONFIRMED.min(grace * 3 / 10);
    let seen = look(node, renewed, now, memory);
    let mut silent = now.mono - seen.at;
    if never && renewed.is_none() {
        let age = now.wall.duration_since(lite.meta.creation.unwrap_or(now.wall));
        silent = silent.max(age.max(SignedDuration::ZERO).unsigned_abs());
    }
    if silent < grace - to_confirm {
        memory.confirmed = None;
        return Verdict::Alive { look_again: grace - to_confirm - silent };
    }
    let Some(change) = silence(node, now) else { return Verdict::Told };
    let needs = unchanged(signs);
    match needs.iter().map(|need| facts.answers.get(need)).collect::<Option<Vec<_>>>() {
        None => return Verdict::Unsure(needs),
        // The caches are about to show it.
        Some(answers) if answers.contains(&&false) => {
            memory.confirmed = None;
            return Verdict::Alive { look_again: LAG };
        }
        Some(_) => {}
    }
    let confirmed = now.mono - *memory.confirmed.get_or_insert(now.mono);
    let wait = (grace.saturating_sub(silent)).max(to_confirm.saturating_sub(confirmed));
    if wait.is_zero() { Verdict::Silent(change) } else { Verdict::Alive { look_again: wait } }
}

/// Whether the API shows what the caches show.
fn unchanged(signs: &Signs) -> Vec<Need> {
    let unchanged = |resource, object: &Arc<Object>| Need::Unchanged {
        of: owner::reference_to(resource, object),
        revision: object.revision(),
    };
    let lease = signs.lease.iter().map(|lease| unchanged(LEASES, lease));
    std::iter::once(unchanged(NODES, &signs.node)).chain(lease).collect()
}

fn look<'m>(node: &Object, renewed: Option<Timestamp>, now: Now, memory: &'m mut Memory) -> &'m Seen {
    let known = memory.seen.as_ref().filter(|seen| seen.uid == node.uid());
    let heartbeat = match known {
        Some(seen) if seen.revision == node.revision() => seen.heartbeat.clone(),
        _ => heartbeat(node),
    };
    let at = match known {
        Some(seen) if seen.heartbeat == heartbeat && seen.renewed == renewed => seen.at,
        _ => now.mono,
    };
    memory.seen.insert(Seen { uid: node.uid().to_owned(), revision: node.revision(), heartbeat, renewed, at })
}

/// When the node last said whether it is ready.
fn heartbeat(node: &Object) -> String {
    let conditions = condition::of(node);
    let ready = conditions.iter().find(|condition| condition.str_at(&["type"]) == Some("Ready"));
    ready.and_then(|ready| ready.str_at(&["lastHeartbeatTime"])).unwrap_or_default().to_owned()
}

/// Says that nothing is known; nothing when that is said already.
fn silence(node: &Object, now: Now) -> Option<Change> {
    let mut conditions = condition::of(node);
    let mut changed = false;
    for kind in CONDITIONS {
        let present = conditions.iter().find(|condition| condition.str_at(&["type"]) == Some(kind));
        let (reason, message) = match present {
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            Some(present) if present.str_at(&["status"]) == Some("Unknown") => continue,
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        };
        let never = present.is_none();
        let unknown = NewCondition { kind, status: "Unknown", reason, message };
        changed |= set_condition(&mut conditions, unknown, now.wall);
        if let (true, Some(created)) = (never, node.meta().creation) {
            let added = conditions.last_mut().and_then(Value::as_object_mut);
            added.map(|added| added.insert("lastHeartbeatTime", api::meta::rfc3339(created)));
        }
    }
    changed.then(|| {
        let body = patch::object([("status", patch::object([("conditions", patch::list(conditions))]))]);
        let of = owner::reference_to(NODES, node);
        // The node may have posted its status meanwhile.
        Change::Patch { of, subresource: Some("status"), body, revision: Some(node.revision()) }
    })
}

/// Says of pods on a silent node that nobody can count on them.
pub(super) fn unready(pods: &[Arc<Object>], now: Now) -> Vec<Action> {
    let unready = |pod: &Arc<Object>| {
        let ready = condition::of(pod).into_iter().find(|condition| condition.str_at(&["type"]) == Some("Ready"))?;
        let text = |key: &str| ready.str_at(&[key]).unwrap_or_default();
        let new = NewCondition { kind: "Ready", status: "False", reason: text("reason"), message: text("message") };
        let change = condition::of_pod(PODS, pod, &[new], [], now.wall)?;
        let regarding = owner::reference_to(PODS, pod);
        let note = super::note(&regarding, Severity::Warning, "NodeNotReady", "Node is not ready".into());
        Some(Action { change, on_success: Some(note), on_failure: None })
    };
    pods.iter().filter_map(unready).collect()
}
