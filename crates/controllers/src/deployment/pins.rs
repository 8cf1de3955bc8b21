//! Configuration pinned to revisions: `isopod.dev/restart-on-config-change: "true"` on a Deployment.
//!
//! The pods of such a Deployment never see a ConfigMap or Secret itself, only an immutable copy of it. Which copies is said by
//! an annotation of the template, so that a changed ConfigMap makes a new revision (and pods are replaced as by any other
//! change), and going back to an older revision brings its configuration back. Copies go when no ReplicaSet refers to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::value::{Value, to_value};
use client::{Key, Object};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, PodTemplateSpec, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::plan::kinds::{CONFIG_MAPS, DEPLOYMENTS, SECRETS};
use reconcile::{Action, Change, Propagation, Resource, View};

use super::{Case, revision};
use crate::{owner, patch};

/// On a Deployment: pods are replaced when configuration changes.
pub(super) const OPT_IN: &str = "isopod.dev/restart-on-config-change";
/// On a template: which copy stands for which ConfigMap or Secret, as `configmap/NAME=COPY;secret/NAME=COPY`.
pub(super) const PINS: &str = "isopod.dev/config";
/// On a Deployment: the pins that were rolled back, which are not tried again.
pub(super) const REJECTED: &str = "isopod.dev/rejected-config";
/// On a copy: what it is a copy of.
const COPY_OF: &str = "isopod.dev/copy-of";

/// A ConfigMap or Secret of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::ConfigMap, Kind::Secret];

    fn resource(self) -> Resource {
        match self {
            Kind::ConfigMap => CONFIG_MAPS,
            Kind::Secret => SECRETS,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        }
    }
}

type Source = (Kind, String);

/// Copies by what they are copies of.
pub(super) type Pins = BTreeMap<Source, String>;

/// What of a Deployment's configuration is there.
#[derive(Default)]
pub(super) struct Config {
    sources: BTreeMap<Source, Arc<Object>>,
    /// Copies that this Deployment owns.
    copies: BTreeMap<Source, Arc<Object>>,
}

/// Whether the Deployment asks for all this.
pub(super) fn opted_in(meta: &ObjectMeta) -> bool {
    revision::annotation(meta, OPT_IN) == Some("true")
}

/// The Deployments that a ConfigMap or Secret concerns.
pub(super) fn keys_of_source(view: &View, object: &Object) -> Vec<Key> {
    let concerned = view.in_namespace(DEPLOYMENTS, object.namespace());
    let concerned = concerned.filter(|deployment| deployment.meta().annotations.get(OPT_IN) == Some("true"));
    let refers = |deployment: &Arc<Object>| {
        let typed: Option<Deployment> = owner::typed(deployment);
        let spec = typed.and_then(|deployment| deployment.spec?.template.spec);
        let named = Kind::ALL.map(|kind| (kind, object.name().to_owned()));
        let own = object.meta().owners.iter().any(|owner| *owner.uid == *deployment.uid());
        own || spec.is_some_and(|spec| named.iter().any(|source| references(&spec).contains(source)))
    };
    concerned.filter(refers).map(|deployment| deployment.key().clone()).collect()
}

/// Collects what the Deployment's template refers to, and its copies.
pub(super) fn observe(view: &View, deployment: &Deployment) -> Config {
    let mut config = Config::default();
    if !opted_in(&deployment.metadata) {
        return config;
    }
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    let spec = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    for (kind, name) in spec.map(references).unwrap_or_default() {
        if let Some(object) = view.get(kind.resource(), &Key::new(namespace, &name)) {
            config.sources.insert((kind, name), object);
        }
    }
    for kind in Kind::ALL {
        let copies = view.owned(kind.resource(), uid).filter(|object| object.meta().annotations.get(COPY_OF).is_some());
        config.copies.extend(copies.map(|object| ((kind, object.name().to_owned()), object)));
    }
    config
}

/// Everything that pods of this spec read.
fn references(spec: &PodSpec) -> BTreeSet<Source> {
    let mut found = BTreeSet::new();
    each_reference(&mut spec.clone(), &mut |kind, name| {
        found.insert((kind, name.clone()));
    });
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// Visits the name of every ConfigMap and Secret that the pods read.
fn each_reference(spec: &mut PodSpec, visit: &mut dyn FnMut(Kind, &mut String)) {
    for volume in spec.volumes.iter_mut().flatten() {
        if let Some(name) = volume.config_map.as_mut().map(|source| &mut source.name) {
            visit(Kind::ConfigMap, name);
        }
        if let Some(name) = volume.secret.as_mut().and_then(|source| source.secret_name.as_mut()) {
            visit(Kind::Secret, name);
        }
        for source in volume.projected.iter_mut().flat_map(|projected| projected.sources.iter_mut().flatten()) {
            if let Some(source) = &mut source.config_map {
                visit(Kind::ConfigMap, &mut source.name);
            }
            if let Some(source) = &mut source.secret {
                visit(Kind::Secret, &mut source.name);
            }
        }
    }
    let init = spec.init_containers.iter_mut().flatten();
    init.chain(&mut spec.containers).for_each(|container| each_in_container(container, visit));
}

fn each_in_container(container: &mut Container, visit: &mut dyn FnMut(Kind, &mut String)) {
    for source in container.env_from.iter_mut().flatten() {
        if let Some(source) = &mut source.config_map_ref {
            visit(Kind::ConfigMap, &mut source.name);
        }
        if let Some(source) = &mut source.secret_ref {
            visit(Kind::Secret, &mut source.name);
        }
    }
    for source in container.env.iter_mut().flatten().filter_map(|variable| variable.value_from.as_mut()) {
        if let Some(source) = &mut source.config_map_key_ref {
            visit(Kind::ConfigMap, &mut source.name);
        }
        if let Some(source) = &mut source.secret_key_ref {
            visit(Kind::Secret, &mut source.name);
        }
    }
}

/// The pins that a template names.
pub(super) fn of_template(template: &PodTemplateSpec) -> Pins {
    let text = template.metadata.as_ref().and_then(|meta| revision::annotation(meta, PINS)).unwrap_or_default();
    let pin = |text: &str| {
        let (source, copy) = text.split_once('=')?;
        let (word, name) = source.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
        Some(((kind, name.to_owned()), copy.to_owned()))
    };
    text.split(';').filter_map(pin).collect()
}

/// The pins as an annotation.
pub(super) fn text(pins: &Pins) -> String {
    let pins: Vec<String> = pins.iter().map(|((kind, name), copy)| format!("{}/{name}={copy}", kind.word())).collect();
    pins.join(";")
}

/// The template that pods are made of: copies in place of what they are copies of.
pub(super) fn pinned(template: &PodTemplateSpec) -> PodTemplateSpec {
    let pins = of_template(template);
    renamed(template, |kind, name| pins.get(&(kind, name.to_owned())).cloned())
}

/// Undoes [`pinned`].
pub(super) fn unpinned(template: &PodTemplateSpec) -> PodTemplateSpec {
    let pins = of_template(template);
    renamed(template, |kind, name| {
        let source = pins.iter().find(|((of, _), copy)| *of == kind && *copy == name);
        source.map(|((_, source), _)| source.clone())
    })
}

fn renamed(template: &PodTemplateSpec, to: impl Fn(Kind, &str) -> Option<String>) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(spec) = &mut template.spec {
        each_reference(spec, &mut |kind, name| {
            if let Some(new) = to(kind, name) {
                *name = new;
            }
        });
    }
    template
}

/// What a pin is to be made of.
struct Wanted {
    pins: Pins,
    missing: Vec<Action>,
}

/// Makes the copies that are missing and puts the pins onto the template; `None` when they are right, or were rejected.
pub(super) fn step(case: &Case<'_>) -> Option<Vec<Vec<Action>>> {
    if !opted_in(&case.deployment.metadata) {
        return None;
    }
    let template = &case.deployment.spec.as_ref()?.template;
    let Wanted { pins, missing } = wanted(case, template);
    let (now, new) = (text(&of_template(template)), text(&pins));
    let rejected = revision::annotation(&case.deployment.metadata, REJECTED) == Some(new.as_str());
    if now == new || rejected {
        return None;
    }
    let annotations = patch::object([(PINS, new.as_str().into())]);
    let template = patch::object([("metadata", patch::object([("annotations", annotations)]))]);
    let spec = patch::object([("template", template)]);
    // What was rejected once may be tried again after something else.
    let metadata = patch::object([("annotations", patch::object([(REJECTED, Value::Null)]))]);
    let body = patch::object([("metadata", metadata), ("spec", spec)]);
    let revision = case.deployment.metadata.resource_version.as_ref().and_then(|text| text.parse().ok());
    let change = Change::Patch { of: case.reference(), subresource: None, body, revision };
    Some(vec![missing, vec![change.into()]])
}

/// A copy for each source that is there. What refers to a copy by its name was pinned by hand, or by an undo, and stays.
fn wanted(case: &Case<'_>, template: &PodTemplateSpec) -> Wanted {
    let before = of_template(template);
    let mut wanted = Wanted { pins: Pins::new(), missing: Vec::new() };
    for ((kind, name), source) in &case.config.sources {
        if let Some(of) = before.iter().find(|((of, _), copy)| of == kind && *copy == name).map(|(of, _)| of) {
            wanted.pins.insert(of.clone(), name.clone());
            continue;
        }
        let content = content(*kind, source);
        let equal = case.config.copies.iter().find(|((of, _), copy)| {
            of == kind && copy.meta().annotations.get(COPY_OF) == Some(name) && self::content(*kind, copy) == content
        });
        let copy = match equal {
            Some(((_, copy), _)) => copy.clone(),
            None => {
                let copy = format!("{}-{name}-{}", case.name(), source.revision());
                wanted.missing.extend(make(case, *kind, name, &copy, content));
                copy
            }
        };
        wanted.pins.insert((*kind, name.clone()), copy);
    }
    // Pods go on with the copy of what is no longer there.
    let referred = template.spec.as_ref().map(references).unwrap_or_default();
    let orphaned =
        before.into_iter().filter(|(source, _)| referred.contains(source) && !case.config.sources.contains_key(source));
    wanted.pins.extend(orphaned);
    wanted
}

/// What pods read of it, and the type of a Secret.
fn content(kind: Kind, object: &Object) -> Option<Value> {
    match kind {
        Kind::ConfigMap => {
            let map: ConfigMap = owner::typed(object)?;
            to_value(&ConfigMap { data: map.data, binary_data: map.binary_data, ..ConfigMap::default() }).ok()
        }
        Kind::Secret => {
            let secret: Secret = owner::typed(object)?;
            to_value(&Secret { data: secret.data, type_: secret.type_, ..Secret::default() }).ok()
        }
    }
}

fn make(case: &Case<'_>, kind: Kind, of: &str, name: &str, content: Option<Value>) -> Option<Action> {
    let mut object = content?;
    let metadata = ObjectMeta {
        name: Some(name.into()),
        annotations: Some(BTreeMap::from([(COPY_OF.into(), of.into())])),
        owner_references: Some(vec![owner::controller_reference(DEPLOYMENTS, &case.deployment.metadata)]),
        ..ObjectMeta::default()
    };
    let members = object.as_object_mut()?;
    members.insert("metadata", to_value(&metadata).ok()?);
    members.insert("immutable", true);
    let namespace = case.namespace().to_owned();
    Some(Change::Create { resource: kind.resource(), namespace, object }.into())
}

/// Deletes copies that no template refers to any more.
pub(super) fn clean_up(case: &Case<'_>) -> Option<Vec<Action>> {
    let template = &case.deployment.spec.as_ref()?.template;
    let of_set = |set: &&ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone());
    let templates = case.sets.iter().filter_map(of_set).chain([pinned(template)]);
    let used: BTreeSet<Source> =
        templates.filter_map(|template| template.spec).flat_map(|spec| references(&spec)).collect();
    let unused = case.config.copies.iter().filter(|(source, _)| !used.contains(source));
    let deletes: Vec<Action> = unused
        .map(|((kind, _), copy)| {
            let of = owner::reference_to(kind.resource(), copy);
            Change::Delete { of, propagation: Propagation::Default, revision: None }.into()
        })
        .collect();
    (!deletes.is_empty()).then_some(deletes)
}
