//! What a controller decided: a closed set of actions in stages, and what came of them.

use std::collections::BTreeMap;
use std::time::Duration;

use api::value::Value;

/// A kind as the API serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    /// Plural, as in URLs.
    pub plural: &'static str,
    pub kind: &'static str,
}

impl Resource {
    /// `group/version`, or the version alone in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// The built-in kinds that controllers watch and write.
pub mod kinds {
    use super::Resource;

    const fn core(plural: &'static str, kind: &'static str) -> Resource {
        Resource { group: "", version: "v1", plural, kind }
    }
    const fn v1(group: &'static str, plural: &'static str, kind: &'static str) -> Resource {
        Resource { group, version: "v1", plural, kind }
    }

    pub const CONFIG_MAPS: Resource = core("configmaps", "ConfigMap");
    pub const ENDPOINTS: Resource = core("endpoints", "Endpoints");
    pub const EVENTS: Resource = core("events", "Event");
    pub const NAMESPACES: Resource = core("namespaces", "Namespace");
    pub const NODES: Resource = core("nodes", "Node");
    pub const PODS: Resource = core("pods", "Pod");
    pub const SECRETS: Resource = core("secrets", "Secret");
    pub const SERVICES: Resource = core("services", "Service");
    pub const SERVICE_ACCOUNTS: Resource = core("serviceaccounts", "ServiceAccount");
    pub const DEPLOYMENTS: Resource = v1("apps", "deployments", "Deployment");
    pub const REPLICA_SETS: Resource = v1("apps", "replicasets", "ReplicaSet");
    pub const ENDPOINT_SLICES: Resource = v1("discovery.k8s.io", "endpointslices", "EndpointSlice");
    pub const LEASES: Resource = v1("coordination.k8s.io", "leases", "Lease");
    pub const POD_DISRUPTION_BUDGETS: Resource = v1("policy", "poddisruptionbudgets", "PodDisruptionBudget");
    pub const SIGNING_REQUESTS: Resource =
        v1("certificates.k8s.io", "certificatesigningrequests", "CertificateSigningRequest");
    pub const CLUSTER_ROLES: Resource = v1("rbac.authorization.k8s.io", "clusterroles", "ClusterRole");
}

/// An existing object that an action is about. The uid keeps the action from hitting a successor of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub resource: Resource,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What to tell the user about an object, as an Event.
///
/// `{name}` in the message stands for the name of the object the action was about, `{error}` for why it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub regarding: Reference,
    /// The part of the object that it is about, such as `spec.containers{api}`; empty for the whole.
    pub field: String,
    pub severity: Severity,
    /// CamelCase, such as `SuccessfulCreate`.
    pub reason: &'static str,
    pub message: String,
}

/// The type of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Creates the object; its name or `generateName` is in its metadata.
    Create { resource: Resource, namespace: String, object: Value },
    /// Merges `body` (RFC 7386) into the object or its subresource.
    Patch {
        of: Reference,
        /// `status` for most; `None` for the object itself.
        subresource: Option<&'static str>,
        body: Value,
        /// Set only where the decision depended on the object's whole content.
        revision: Option<u64>,
    },
    /// Replaces the object's subresource, for those that cannot be patched, such as `finalize`.
    Replace { of: Reference, subresource: &'static str, object: Value },
    /// Deletes the object. The revision is pinned where the decision depended on the whole object.
    Delete { of: Reference, propagation: Propagation, revision: Option<u64> },
    /// Deletes the object at once, without the time that its kind is given to end: nobody is there who could use it.
    Remove { of: Reference },
}

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// What the kind does by default.
    Default,
    Background,
    Foreground,
    Orphan,
}

/// A change and what to say about how it went.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    pub change: Change,
    pub on_success: Option<Note>,
    pub on_failure: Option<Note>,
}

impl From<Change> for Action {
    fn from(change: Change) -> Action {
        Action { change, on_success: None, on_failure: None }
    }
}

/// Actions whose order does not matter.
pub type Stage = Vec<Action>;

/// What to do now and when to look again.
///
/// A stage starts only when all of the one before succeeded. There is no transaction over several objects, so any prefix of
/// a plan is a safe state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub stages: Vec<Stage>,
    /// Notes that depend on no action.
    pub notes: Vec<Note>,
    /// Look again after this time even if nothing changes.
    pub again_after: Option<Duration>,
    /// What the decision lacks. When this is not empty, all else in the plan is put aside, the needs are fetched, and
    /// the decision is asked for again with them in its facts.
    pub needs: Vec<Need>,
}

/// Something a decision has to know that no cache can tell for sure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Whether this very object (by uid) exists now.
    Exists(Reference),
    /// Whether this very object exists now and is not being deleted: only such a one may adopt.
    Lives(Reference),
    /// Whether this very object is still at this revision now, whatever the caches say.
    Unchanged { of: Reference, revision: u64 },
    /// Whether any object of this kind (in that namespace, unless it is empty) names this uid as its owner now, whatever the
    /// caches say.
    Owned { by: String, resource: Resource, namespace: String },
    /// Whether any object of this name exists now.
    Present { resource: Resource, namespace: String, name: String },
    /// Whether a user may do something.
    Permitted { who: Asker, verb: String, resource: Resource, subresource: String },
    /// The certificate for a request, PEM.
    Certificate { request: Vec<u8>, usages: Vec<String>, seconds: u64 },
    /// Whether a namespace holds any object of a kind now.
    Holds { resource: Resource, namespace: String },
}

/// Somebody whose permission is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    pub user: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Plan {
    /// Nothing to do until something changes.
    pub fn nothing() -> Plan {
        Plan::default()
    }

    /// Adds a stage; empty ones are left out.
    pub fn then(mut self, stage: impl IntoIterator<Item = Action>) -> Plan {
        let stage: Stage = stage.into_iter().collect();
        if !stage.is_empty() {
            self.stages.push(stage);
        }
        self
    }

    /// Looks again after `duration` at the latest.
    pub fn again_within(mut self, duration: Duration) -> Plan {
        self.again_after = Some(self.again_after.map_or(duration, |other| other.min(duration)));
        self
    }
}

/// Why an action failed, in what the next decision may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub verb: Verb,
    pub resource: Resource,
    /// The reason of the API's `Status`, such as `Forbidden`; empty when there was no answer.
    pub reason: String,
    pub message: String,
}

/// The verb of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Patch,
    Replace,
    Delete,
}

/// What came of the last plan for the same key; empty at first and after a success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub failures: Vec<Failure>,
}

impl Outcomes {
    /// The first failure of this verb on this kind.
    pub fn failed(&self, verb: Verb, resource: Resource) -> Option<&Failure> {
        self.failures.iter().find(|failure| failure.verb == verb && failure.resource == resource)
    }
}
