//! Which objects a list or watch is about: namespace, labels and fields.

use std::sync::{Arc, OnceLock};

use api::projection::{Meta, Projection, ReadError, Reader, Source};
use api::selector::{FieldSelector, Selector};
use client::Object;
use resources::AnyResource;

use super::resource::Event;
use super::watcher::{Told, TopicKey};
use crate::authz::node::{REFERRED_BY_NODE, Referred};
use crate::catalog::Served;
use crate::options::ReadOptions;
use crate::refusal::{Outcome, Refusal};
use crate::server::ApiServer;

/// The objects that a list or watch shows.
pub struct Selection {
    def: &'static dyn AnyResource,
    /// Empty for all.
    pub namespace: String,
    /// Pinned by the path or by `metadata.name=`.
    pub name: Option<String>,
    pub labels: Selector,
    fields: FieldSelector,
    /// The places of the declared fields that the selector names.
    declared: Vec<&'static str>,
    /// Of a node watch: who is asked whether the node's pods refer to an object.
    references: Option<References>,
}

/// What the pods of a node refer to, as it is at the moment of each question.
struct References {
    server: Arc<ApiServer>,
    node: String,
    referred: Referred,
}

impl References {
    /// What the selector asks of, if it asks.
    fn of(served: &Served, fields: &FieldSelector, server: &Arc<ApiServer>) -> Option<References> {
        let referred = Referred::of(served.group, served.facts().plural)?;
        let node = fields.exact(REFERRED_BY_NODE)?.to_owned();
        Some(References { server: server.clone(), node, referred })
    }

    /// The field's value: the node, when a pod of it refers to the object.
    fn value(&self, object: &Object) -> &str {
        let refer = self.server.policies.refers(&self.node, self.referred, object, &self.server.cache);
        if refer { &self.node } else { "" }
    }
}

const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

impl Selection {
    /// All objects in a namespace (everywhere, if it is empty).
    pub fn all(def: &'static dyn AnyResource, namespace: &str) -> Selection {
        Selection {
            def,
            namespace: namespace.to_owned(),
            name: None,
            labels: Selector::EVERYTHING,
            fields: FieldSelector::default(),
            declared: Vec::new(),
            references: None,
        }
    }

    /// What the parameters select, or 400.
    pub fn new(served: &Served, namespace: &str, options: &ReadOptions, server: &Arc<ApiServer>) -> Outcome<Selection> {
        let labels =
            Selector::parse(&options.label_selector).map_err(|error| Refusal::bad_request(error.to_string()))?;
        let fields =
            FieldSelector::parse(&options.field_selector).map_err(|error| Refusal::bad_request(error.to_string()))?;
        let declared = served.def.selectable();
        let references = References::of(served, &fields, server);
        for term in &fields.0 {
            let common = term.field == NAME || (term.field == NAMESPACE && served.is_namespaced());
            let common = common || (term.field == REFERRED_BY_NODE && references.is_some());
            if !common && !declared.contains(&term.field.as_str()) {
                return Err(Refusal::bad_request(unknown_field(&term.field, &declared)));
            }
        }
        let name = fields.exact(NAME).map(str::to_owned);
        Ok(Selection { def: served.def, namespace: namespace.to_owned(), name, labels, fields, declared, references })
    }

    /// Whether only namespace and name restrict.
    pub fn is_plain(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Object) -> bool {
        if !self.namespace.is_empty() && self.namespace != object.namespace() {
            return false;
        }
        if self.name.as_deref().is_some_and(|name| name != object.name()) {
            return false;
        }
        if !self.labels.matches(&object.meta().labels) {
            return false;
        }
        let values = OnceLock::new();
        self.fields.matches(|field| match field {
            NAME => object.name(),
            NAMESPACE => object.namespace(),
            REFERRED_BY_NODE => self.references.as_ref().map_or("", |references| references.value(object)),
            field => {
                let values: &&Values = values.get_or_init(|| Values::of(object, self.def));
                let place = self.declared.iter().position(|declared| *declared == field);
                place.and_then(|place| values.get(place)).unwrap_or_default()
            }
        })
    }

    /// What a watch with this selection is told of an event.
    pub fn told(&self, event: &Event) -> Option<Told> {
        let is = |object: &Option<Arc<Object>>| object.as_ref().is_some_and(|object| self.matches(object));
        match (is(&event.previous), is(&event.object)) {
            (false, true) => Some(Told::Added),
            (true, true) => Some(Told::Modified),
            (true, false) => Some(Told::Deleted),
            (false, false) => None,
        }
    }

    /// Whether the selection could be told of the event; cheaper and wider than [`Selection::told`].
    pub fn concerns(&self, event: &Event) -> bool {
        let any = event.object.as_ref().or(event.previous.as_ref());
        any.is_some_and(|object| {
            (self.namespace.is_empty() || self.namespace == object.namespace())
                && self.name.as_deref().is_none_or(|name| name == object.name())
        })
    }

    /// The first declared field (by its place in the declaration) that must have a certain value, and the value.
    pub fn exact(&self) -> Option<(usize, &str)> {
        self.declared.iter().enumerate().find_map(|(place, field)| Some((place, self.fields.exact(field)?)))
    }

    /// Where a watch with this selection listens: at its narrowest restriction.
    pub fn topic(&self) -> TopicKey {
        if let Some(name) = &self.name {
            return TopicKey::Name(name.clone());
        }
        match self.exact() {
            Some((place, value)) => TopicKey::Field(place, value.to_owned()),
            None if self.namespace.is_empty() => TopicKey::All,
            None => TopicKey::Namespace(self.namespace.clone()),
        }
    }
}

/// Upstream words it in two ways, depending on whether the kind declares fields of its own.
fn unknown_field(field: &str, declared: &[&str]) -> String {
    if declared.is_empty() {
        format!("{field:?} is not a known field selector: only {NAME:?}, {NAMESPACE:?}")
    } else {
        format!("field label not supported: {field}")
    }
}

/// The values of an object's declared selectable fields, in the order of their declaration; worked out once an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values(Vec<String>);

impl Values {
    /// The values of an object of the resource `def`.
    pub(crate) fn of<'o>(object: &'o Object, def: &'static dyn AnyResource) -> &'o Values {
        if def.selectable().is_empty() {
            static NONE: Values = Values(Vec::new());
            return &NONE;
        }
        object.project()
    }

    /// The value at a place of the declaration.
    pub(crate) fn get(&self, place: usize) -> Option<&str> {
        self.0.get(place).map(String::as_str)
    }

    /// The values in the order of the declaration.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl Projection for Values {
    fn set_meta(&mut self, _: Arc<Meta>) {}

    /// Nothing: the kind's declaration reads the whole object, see below.
    fn read(&mut self, _: Reader<'_>) -> Result<(), ReadError> {
        Ok(())
    }

    fn project(source: &Source<'_>) -> Result<Values, ReadError> {
        let wanted = |def: &&&dyn AnyResource| {
            let facts = def.facts();
            facts.group == source.group && facts.kind == source.kind
        };
        let Some(def) = resources::RESOURCES.iter().find(wanted) else { return Ok(Values::default()) };
        def.read_selectable(source).map(Values)
    }
}
