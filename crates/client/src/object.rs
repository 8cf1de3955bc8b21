//! An object as it travels and is kept: its identity, its bytes, and what was worked out from them.

use std::any::{Any, TypeId};
use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::{Arc, OnceLock};

use api::projection::{Meta, Projection, Source};
use api::value::Value;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::ClientError;

/// Group, version and kind of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
}

impl Gvk {
    /// A kind known when compiling.
    pub const fn new(group: &'static str, version: &'static str, kind: &'static str) -> Gvk {
        Gvk { group: Cow::Borrowed(group), version: Cow::Borrowed(version), kind: Cow::Borrowed(kind) }
    }

    /// The kind of a typed object.
    pub const fn of<T: k8s_openapi::Resource>() -> Gvk {
        Gvk::new(T::GROUP, T::VERSION, T::KIND)
    }

    /// The kind that `apiVersion` and `kind` name.
    pub fn parse(api_version: &str, kind: &str) -> Gvk {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Gvk {
            group: Cow::Owned(group.to_owned()),
            version: Cow::Owned(version.to_owned()),
            kind: Cow::Owned(kind.to_owned()),
        }
    }

    /// `group/version`, or the version alone in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// Where an object is, among those of its kind: `namespace/name`, or `name` when cluster-scoped. Ordered as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of an object; `namespace` is empty for cluster-scoped ones.
    pub fn new(namespace: &str, name: &str) -> Key {
        if namespace.is_empty() { Key(name.into()) } else { Key(format!("{namespace}/{name}").into()) }
    }

    /// Empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// An object at one revision: immutable, shared, the same type in the API server's cache and in a client.
///
/// The body is the stored form: protobuf (with or without its `k8s\0` envelope) for built-in kinds, JSON for others; in
/// both without resourceVersion, which is [`Object::revision`].
pub struct Object {
    kind: Arc<Gvk>,
    key: Key,
    uid: Box<str>,
    revision: u64,
    body: Bytes,
    meta: OnceLock<Arc<Meta>>,
    projections: Slots,
}

impl Object {
    /// An object whose identity is known.
    pub fn new(kind: Arc<Gvk>, key: Key, uid: &str, revision: u64, body: Bytes) -> Object {
        Object { kind, key, uid: uid.into(), revision, body, meta: OnceLock::new(), projections: Slots::default() }
    }

    /// An object whose identity is read from its body.
    ///
    /// # Errors
    /// When the body's metadata cannot be decoded.
    pub fn from_body(kind: Arc<Gvk>, revision: u64, body: Bytes) -> Result<Object, ClientError> {
        let meta = source(&kind, &body).meta().map_err(|error| decode_error("metadata", &error))?;
        let key = Key::new(&meta.namespace, &meta.name);
        let object = Object::new(kind, key, &meta.uid, revision, body);
        Ok(Object { meta: OnceLock::from(meta), ..object })
    }

    /// The same body at another revision, as deletions and selector exits show it.
    #[must_use]
    pub fn at_revision(&self, revision: u64) -> Object {
        Object::new(self.kind.clone(), self.key.clone(), &self.uid, revision, self.body.clone())
    }

    /// Group, version and kind.
    pub fn kind(&self) -> &Gvk {
        &self.kind
    }

    /// The shared kind, for making further objects of it.
    pub fn shared_kind(&self) -> &Arc<Gvk> {
        &self.kind
    }

    /// Namespace and name.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.key.namespace()
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.key.name()
    }

    /// What tells this object from others that had its name.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The resourceVersion.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The stored form, without resourceVersion.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The metadata, read once and shared with all projections. As for [`Object::project`] about undecodable bodies.
    pub fn meta(&self) -> &Arc<Meta> {
        self.meta.get_or_init(|| source(&self.kind, &self.body).meta().unwrap_or_else(|error| self.undecodable(&error)))
    }

    /// What `P` reads from this object, worked out once and kept as long as the object.
    ///
    /// A body that does not decode (no server sends one) gives the empty projection and a log line.
    pub fn project<P: Projection>(&self) -> &P {
        self.projections.get_or_insert(|| {
            let source = Source { meta: Some(self.meta().clone()), ..source(&self.kind, &self.body) };
            P::project(&source).unwrap_or_else(|error| self.undecodable(&error))
        })
    }

    fn undecodable<P: Default>(&self, error: &dyn fmt::Display) -> P {
        tracing::error!(kind = %self.kind.kind, key = %self.key, revision = self.revision, %error, "undecodable object");
        P::default()
    }

    /// The whole object as a tree, with apiVersion, kind and resourceVersion.
    ///
    /// # Errors
    /// When the body cannot be decoded.
    pub fn tree(&self) -> Result<Value, ClientError> {
        let mut tree = source(&self.kind, &self.body).tree().map_err(|error| decode_error("object", &error))?;
        api::meta::set_type(&mut tree, &self.kind.api_version(), &self.kind.kind);
        api::meta::set_resource_version(&mut tree, self.revision);
        Ok(tree)
    }

    /// The whole object as its Rust type; made anew at every call and not kept.
    ///
    /// # Errors
    /// When the body cannot be decoded or does not have the type's shape.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        api::value::from_value(&self.tree()?).map_err(|error| decode_error("object", &error))
    }
}

fn source<'a>(kind: &'a Gvk, body: &'a Bytes) -> Source<'a> {
    Source { group: &kind.group, version: &kind.version, kind: &kind.kind, body, meta: None }
}

pub(crate) fn decode_error(what: &'static str, error: &dyn fmt::Display) -> ClientError {
    ClientError::Decode { what, message: error.to_string() }
}

impl fmt::Debug for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the body, which may be a Secret's.
        write!(formatter, "{} {}@{}", self.kind.kind, self.key, self.revision)
    }
}

/// A short list of projections by type that only grows; an object has two or three.
#[derive(Default)]
struct Slots(OnceLock<Box<Slot>>);

struct Slot {
    projection: Box<dyn Any + Send + Sync>,
    kind: TypeId,
    next: Slots,
}

impl Slots {
    fn get_or_insert<P: Any + Send + Sync>(&self, make: impl FnOnce() -> P) -> &P {
        let mut make = Some(make);
        let mut slots = self;
        loop {
            let slot = slots.0.get_or_init(|| {
                let make = make.take().expect("a list is filled only at its end, and then it ends the search");
                Box::new(Slot { projection: Box::new(make()), kind: TypeId::of::<P>(), next: Slots::default() })
            });
            if slot.kind == TypeId::of::<P>() {
                return slot.projection.downcast_ref().expect("the slot's type was compared");
            }
            slots = &slot.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_namespace_lie_side_by_side() {
        let mut keys =
            [("a-b", "x"), ("a", "y"), ("", "a"), ("a", "b"), ("a.c", "z")].map(|(ns, name)| Key::new(ns, name));
        keys.sort();
        assert_eq!(keys.map(|key| key.to_string()), ["a", "a-b/x", "a.c/z", "a/b", "a/y"]);
        assert_eq!((Key::new("a", "b").namespace(), Key::new("a", "b").name()), ("a", "b"));
        assert_eq!((Key::new("", "b").namespace(), Key::new("", "b").name()), ("", "b"));
    }

    #[test]
    fn slots_make_each_type_once() {
        let slots = Slots::default();
        assert_eq!(*slots.get_or_insert(|| 1u8), 1);
        assert_eq!(*slots.get_or_insert(|| 2u16), 2);
        assert_eq!(*slots.get_or_insert(|| -> u8 { panic!("made twice") }), 1);
        assert_eq!(*slots.get_or_insert(|| -> u16 { panic!("made twice") }), 2);
    }
}
