//! A little world for tests of controllers: objects by the API's rules as far as controllers lean on them, and views of
//! it that may lag.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::value::{Value, from_value};
use api::{meta, patch};
use client::{Gvk, Key, Object, Snapshot};
use jiff::{SignedDuration, Timestamp};
use reconcile::freshness::Awaited;
use reconcile::plan::kinds::{DEPLOYMENTS, NAMESPACES, PODS};
use reconcile::{
    Change, Controller, Facts, Failure, Need, Note, Now, Outcomes, Plan, Propagation, Reference, Resource, Verb, View,
    indexes,
};
use serde::de::DeserializeOwned;
use stdx::Mono;
use stdx::sim::Random;

/// What carrying a plan out came to.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub outcomes: Outcomes,
    pub awaited: Awaited,
    pub wrote: bool,
}

/// Why a change was refused: the reason of the API's answer.
type Refused = &'static str;

pub(crate) struct World {
    objects: BTreeMap<(Resource, Key), Arc<Object>>,
    pub revision: u64,
    pub now: Timestamp,
    /// Every state that each kind was in.
    history: BTreeMap<Resource, Vec<Arc<Snapshot>>>,
    named: u64,
    pub notes: Vec<Note>,
}

impl World {
    pub(crate) fn new() -> World {
        World {
            objects: BTreeMap::new(),
            revision: 1,
            now: Timestamp::from_second(1_767_225_600).unwrap(),
            history: BTreeMap::new(),
            named: 0,
            notes: Vec::new(),
        }
    }

    pub(crate) fn pass(&mut self, millis: i64) {
        self.now += SignedDuration::from_millis(millis);
    }

    /// Creates what JSON says.
    #[track_caller]
    pub(crate) fn create(&mut self, resource: Resource, namespace: &str, json: &str) -> Arc<Object> {
        let object: Value = serde_json::from_str(json).unwrap();
        self.add(resource, namespace, &object).unwrap()
    }

    pub(crate) fn find(&self, resource: Resource, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&(resource, Key::new(namespace, name)))
    }

    #[track_caller]
    pub(crate) fn typed<T: DeserializeOwned>(&self, resource: Resource, namespace: &str, name: &str) -> T {
        self.find(resource, namespace, name).unwrap_or_else(|| panic!("no {name}")).typed().unwrap()
    }

    pub(crate) fn all(&self, resource: Resource) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.iter().filter(move |((kind, _), _)| *kind == resource).map(|(_, object)| object)
    }

    pub(crate) fn all_typed<T: DeserializeOwned>(&self, resource: Resource) -> Vec<T> {
        self.all(resource).map(|object| object.typed().unwrap()).collect()
    }

    /// Changes an object as its user would: `change` is a merge patch.
    #[track_caller]
    pub(crate) fn edit(&mut self, resource: Resource, namespace: &str, name: &str, change: &str) {
        self.merge(resource, namespace, name, None, change);
    }

    /// Changes an object's status.
    #[track_caller]
    pub(crate) fn tell(&mut self, resource: Resource, namespace: &str, name: &str, change: &str) {
        self.merge(resource, namespace, name, Some("status"), change);
    }

    #[track_caller]
    fn merge(&mut self, resource: Resource, namespace: &str, name: &str, part: Option<&'static str>, change: &str) {
        let of = self.reference(resource, namespace, name);
        let body: Value = serde_json::from_str(change).unwrap();
        self.change(&Change::Patch { of, subresource: part, body, revision: None }).unwrap();
    }

    #[track_caller]
    pub(crate) fn delete(&mut self, resource: Resource, namespace: &str, name: &str, propagation: Propagation) {
        let of = self.reference(resource, namespace, name);
        self.change(&Change::Delete { of, propagation, revision: None }).unwrap();
    }

    #[track_caller]
    fn reference(&self, resource: Resource, namespace: &str, name: &str) -> Reference {
        let object = self.find(resource, namespace, name).unwrap_or_else(|| panic!("no {name}"));
        crate::owner::reference_to(resource, object)
    }

    /// Takes an object away, as when its node says that nothing is left of it.
    pub(crate) fn remove(&mut self, resource: Resource, key: &Key) {
        self.objects.remove(&(resource, key.clone()));
        self.remember(resource);
    }

    fn remember(&mut self, resource: Resource) {
        self.revision += 1;
        let objects: Vec<Arc<Object>> = self.all(resource).cloned().collect();
        let snapshot = Snapshot::of(indexes(resource), self.revision, objects);
        self.history.entry(resource).or_default().push(Arc::new(snapshot));
    }

    fn put(&mut self, resource: Resource, mut tree: Value) -> Arc<Object> {
        meta::clear_resource_version(&mut tree);
        let kind = Arc::new(Gvk::new(resource.group, resource.version, resource.kind));
        let body = serde_json::to_vec(&tree).unwrap();
        let object = Arc::new(Object::from_body(kind, self.revision + 1, body.into()).unwrap());
        self.objects.insert((resource, object.key().clone()), object.clone());
        self.remember(resource);
        object
    }

    fn add(&mut self, resource: Resource, namespace: &str, object: &Value) -> Result<Arc<Object>, Refused> {
        let mut tree = object.clone();
        self.named += 1;
        if meta::name(&tree).is_empty() {
            let name = format!("{}{}", meta::generate_name(&tree), self.named);
            meta::set_name(&mut tree, &name);
        }
        meta::set_namespace(&mut tree, namespace);
        if self.objects.contains_key(&(resource, Key::new(namespace, meta::name(&tree)))) {
            return Err("AlreadyExists");
        }
        meta::set_type(&mut tree, &resource.api_version(), resource.kind);
        meta::set_uid(&mut tree, &format!("uid-{}", self.named));
        meta::set_creation_timestamp(&mut tree, self.now);
        meta::set_generation(&mut tree, 1);
        Ok(self.put(resource, tree))
    }

    fn target(&self, of: &Reference) -> Result<(Arc<Object>, Value), Refused> {
        let object = self.find(of.resource, &of.namespace, &of.name).ok_or("NotFound")?;
        if object.uid() != of.uid {
            return Err("Conflict");
        }
        Ok((object.clone(), object.tree().unwrap()))
    }

    /// Carries one change out by the API's rules.
    pub(crate) fn change(&mut self, change: &Change) -> Result<Option<Arc<Object>>, Refused> {
        match change {
            Change::Create { resource, namespace, object } => self.add(*resource, namespace, object).map(Some),
            Change::Patch { of, subresource, body, revision } => {
                let (object, old) = self.target(of)?;
                if revision.is_some_and(|revision| revision != object.revision()) {
                    return Err("Conflict");
                }
                let mut new = old.clone();
                patch::merge::apply(&mut new, body).unwrap();
                settle_generation(of.resource, &old, &mut new, *subresource);
                if new == old {
                    return Ok(Some(object));
                }
                let gone = meta::is_terminating(&new) && !meta::has_finalizers(&new) && !placed(of.resource, &new);
                let object = self.put(of.resource, new);
                if gone && of.resource != NAMESPACES {
                    self.remove(of.resource, object.key());
                }
                Ok(Some(object))
            }
            Change::Replace { of, object, .. } => {
                self.target(of)?;
                let object = self.put(of.resource, object.clone());
                if object.tree().unwrap().at(&["spec", "finalizers"]).is_none_or(|list| list.as_array() == Some(&[])) {
                    self.remove(of.resource, object.key());
                }
                Ok(Some(object))
            }
            Change::Delete { of, propagation, revision } => {
                let (object, _) = self.target(of)?;
                if revision.is_some_and(|revision| revision != object.revision()) {
                    return Err("Conflict");
                }
                self.begin_deletion(of, *propagation)
            }
            Change::Remove { of } => {
                let (object, tree) = self.target(of)?;
                if meta::has_finalizers(&tree) {
                    return self.begin_deletion(of, Propagation::Default);
                }
                self.remove(of.resource, object.key());
                Ok(None)
            }
        }
    }

    fn begin_deletion(&mut self, of: &Reference, propagation: Propagation) -> Result<Option<Arc<Object>>, Refused> {
        let (object, mut tree) = self.target(of)?;
        let more = match propagation {
            Propagation::Orphan => Some("orphan"),
            Propagation::Foreground => Some("foregroundDeletion"),
            Propagation::Background | Propagation::Default => None,
        };
        let finalizers: Vec<String> = meta::finalizers(&tree).into_iter().chain(more).map(str::to_owned).collect();
        if finalizers.is_empty() && !placed(of.resource, &tree) && of.resource != NAMESPACES {
            self.remove(of.resource, object.key());
            return Ok(None);
        }
        if meta::is_terminating(&tree) {
            return Ok(Some(object));
        }
        meta::set_finalizers(&mut tree, finalizers.iter().map(String::as_str));
        meta::set_deletion(&mut tree, self.now, 30);
        Ok(Some(self.put(of.resource, tree)))
    }

    /// The kinds as they are now.
    pub(crate) fn view(&self, resources: &[Resource]) -> View {
        View::new(resources.iter().map(|resource| (*resource, self.newest(*resource))).collect())
    }

    fn newest(&self, resource: Resource) -> Arc<Snapshot> {
        let last = self.history.get(&resource).and_then(|history| history.last());
        last.cloned().unwrap_or_else(|| Arc::new(Snapshot::of(indexes(resource), 0, [])))
    }

    /// The kinds as they were at some moment each, not before `awaited`.
    pub(crate) fn lagging_view(&self, resources: &[Resource], awaited: &Awaited, random: &mut Random) -> View {
        let least: BTreeMap<Resource, u64> = awaited.iter().collect();
        let choose = |resource: &Resource, random: &mut Random| {
            let Some(history) = self.history.get(resource) else { return self.newest(*resource) };
            let fresh = least.get(resource).copied().unwrap_or(0);
            let first = history.iter().position(|snapshot| snapshot.revision() >= fresh).unwrap_or(history.len() - 1);
            // Never very far behind, as watches go.
            let first = first.max(history.len().saturating_sub(12));
            history[first + random.below((history.len() - first) as u64) as usize].clone()
        };
        View::new(resources.iter().map(|resource| (*resource, choose(resource, random))).collect())
    }

    /// What a controller decides on a view; needs are answered from the world as it is.
    pub(crate) fn decide<C: Controller>(&self, key: &C::Key, view: &View, last: &Outcomes) -> Plan {
        let mut facts = Facts { root_ca: "certificate".into(), ..Facts::default() };
        let now = Now { wall: self.now, mono: Mono::default() };
        for _ in 0..3 {
            let observed = C::observe(view, key);
            let plan = C::reconcile(&observed, now, last, &facts, &mut C::Memory::default());
            if plan.needs.is_empty() {
                return plan;
            }
            facts.answers.extend(plan.needs.into_iter().map(|need| (need.clone(), self.answer(&need))));
        }
        panic!("a decision that needs ever more");
    }

    pub(crate) fn answer(&self, need: &Need) -> bool {
        match need {
            Need::Exists(of) => self.target(of).is_ok(),
            Need::Lives(of) => self.target(of).is_ok_and(|(object, _)| object.meta().deletion.is_none()),
            Need::Unchanged { of, revision } => self.target(of).is_ok_and(|(object, _)| object.revision() == *revision),
            Need::Permitted { .. } | Need::Certificate { .. } => false,
            Need::Present { resource, namespace, name } => self.find(*resource, namespace, name).is_some(),
            Need::Owned { by, resource, namespace } => self.all(*resource).any(|object| {
                let here = namespace.is_empty() || object.namespace() == namespace;
                here && object.meta().owners.iter().any(|owner| *owner.uid == **by)
            }),
            Need::Holds { resource, namespace } => self.all(*resource).any(|object| object.namespace() == namespace),
        }
    }

    /// Carries a plan out, or its first `actions_max` actions.
    pub(crate) fn carry(&mut self, plan: Plan, actions_max: usize) -> Carried {
        let mut carried = Carried::default();
        let mut actions = 0;
        self.notes.extend(plan.notes);
        for stage in plan.stages {
            let mut good = true;
            for action in stage {
                if actions == actions_max {
                    return carried;
                }
                actions += 1;
                let before = self.revision;
                let (verb, resource) = identity(&action.change);
                match self.change(&action.change) {
                    Ok(object) => {
                        let name = object.as_ref().map(|object| object.name().to_owned()).unwrap_or_default();
                        carried.awaited.wrote(resource, object.map_or(self.revision, |object| object.revision()));
                        carried.wrote |= self.revision != before;
                        let note = |note: Note| Note { message: note.message.replace("{name}", &name), ..note };
                        self.notes.extend(action.on_success.map(note));
                    }
                    Err("NotFound") if verb != Verb::Create => {}
                    Err(reason) => {
                        good = false;
                        let message = format!("{reason} {}", resource.plural);
                        carried.outcomes.failures.push(Failure { verb, resource, reason: reason.into(), message });
                    }
                }
            }
            if !good {
                break;
            }
        }
        carried
    }

    /// Decides on the world as it is and carries the plan out; whether anything changed.
    pub(crate) fn work<C: Controller>(&mut self, key: &C::Key) -> bool {
        let view = self.view(&resources_of::<C>());
        let plan = self.decide::<C>(key, &view, &Outcomes::default());
        self.carry(plan, usize::MAX).wrote
    }

    /// Messages of the events told since the last call.
    pub(crate) fn told(&mut self) -> Vec<String> {
        self.notes.drain(..).map(|note| format!("{} {}", note.reason, note.message)).collect()
    }
}

/// The kinds a controller looks at.
pub(crate) fn resources_of<C: Controller>() -> Vec<Resource> {
    let mut resources: Vec<Resource> = C::watches().iter().map(|watch| watch.resource).collect();
    resources.sort_unstable();
    resources.dedup();
    resources
}

fn identity(change: &Change) -> (Verb, Resource) {
    match change {
        Change::Create { resource, .. } => (Verb::Create, *resource),
        Change::Patch { of, .. } => (Verb::Patch, of.resource),
        Change::Replace { of, .. } => (Verb::Replace, of.resource),
        Change::Delete { of, .. } | Change::Remove { of } => (Verb::Delete, of.resource),
    }
}

/// Whether it is a pod on a node, which alone says when nothing is left of it.
fn placed(resource: Resource, tree: &Value) -> bool {
    resource == PODS && tree.at(&["spec", "nodeName"]).is_some()
}

/// Keeps the part that this writer may not change, and counts generations.
fn settle_generation(resource: Resource, old: &Value, new: &mut Value, subresource: Option<&str>) {
    let (kept, old_generation) = (if subresource.is_some() { "spec" } else { "status" }, meta::generation(old));
    let Some(fields) = new.as_object_mut() else { return };
    match old.get(kept) {
        Some(part) => drop(fields.insert(kept, part.clone())),
        None => drop(fields.remove(kept)),
    }
    let annotated = resource == DEPLOYMENTS && meta::annotations(old) != meta::annotations(new);
    if subresource.is_none() && (old.get("spec") != new.get("spec") || annotated) {
        meta::set_generation(new, old_generation + 1);
    }
}

/// A tree as its type, for short assertions.
pub(crate) fn typed<T: DeserializeOwned>(tree: &Value) -> T {
    from_value(tree).unwrap()
}
