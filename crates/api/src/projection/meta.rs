//! The metadata that nearly everyone decides by.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Fields, Projection, ReadError, Reader, Texts};

/// An entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    /// Whether this owner is the one that manages the object.
    pub controller: bool,
    pub block_owner_deletion: bool,
}

/// `metadata`, without managed fields and without the annotation in which kubectl keeps a copy of the whole object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Empty for cluster-scoped objects.
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub generation: i64,
    pub creation: Option<Timestamp>,
    /// Set once the object is being deleted: when its grace period ends.
    pub deletion: Option<Timestamp>,
    pub deletion_grace_seconds: Option<i64>,
    pub labels: Texts,
    pub annotations: Texts,
    pub owners: Vec<Owner>,
    pub finalizers: Vec<Box<str>>,
    /// Where the stored form carries one; an object's own revision is the one to go by.
    pub resource_version: Option<u64>,
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `metadata` is the first field of every kind.
pub(super) const OBJECT: &Fields = &[(1, "metadata")];

pub(super) const META: &Fields = &[
    (1, "name"),
    (3, "namespace"),
    (5, "uid"),
    (6, "resourceVersion"),
    (7, "generation"),
    (8, "creationTimestamp"),
    (9, "deletionTimestamp"),
    (10, "deletionGracePeriodSeconds"),
    (11, "labels"),
    (12, "annotations"),
    (13, "ownerReferences"),
    (14, "finalizers"),
];

pub(super) const OWNER: &Fields =
    &[(5, "apiVersion"), (1, "kind"), (3, "name"), (4, "uid"), (6, "controller"), (7, "blockOwnerDeletion")];

impl Meta {
    /// Whether the object is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.deletion.is_some()
    }

    /// The owner that manages the object.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }

    /// Whether the object of this uid manages this one.
    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| &*owner.uid == uid)
    }

    /// Whether `finalizer` still has to run.
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|present| &**present == finalizer)
    }

    /// Reads the metadata of an object.
    pub fn read_object(&mut self, object: Reader<'_>) -> Result<(), ReadError> {
        object.fields(OBJECT, |_, meta| self.read(meta))
    }

    /// Reads an `ObjectMeta`.
    pub fn read(&mut self, meta: Reader<'_>) -> Result<(), ReadError> {
        meta.fields(META, |name, value| {
            match name {
                "name" => self.name = value.boxed()?,
                "namespace" => self.namespace = value.boxed()?,
                "uid" => self.uid = value.boxed()?,
                "resourceVersion" => self.resource_version = value.text()?.parse().ok(),
                "generation" => self.generation = value.int()?,
                "creationTimestamp" => self.creation = value.time()?,
                "deletionTimestamp" => self.deletion = value.time()?,
                "deletionGracePeriodSeconds" => self.deletion_grace_seconds = Some(value.int()?),
                "labels" => self.labels.read(value)?,
                "annotations" => self.read_annotations(value)?,
                "ownerReferences" => self.owners.push(owner(value)?),
                _ => self.finalizers.push(value.boxed()?),
            }
            Ok(())
        })
    }

    fn read_annotations(&mut self, reader: Reader<'_>) -> Result<(), ReadError> {
        reader.entries(|key, value| {
            if key != LAST_APPLIED {
                self.annotations.insert(key, value.text()?);
            }
            Ok(())
        })
    }
}

fn owner(reader: Reader<'_>) -> Result<Owner, ReadError> {
    let mut owner = Owner::default();
    reader.fields(OWNER, |name, value| {
        match name {
            "apiVersion" => owner.api_version = value.boxed()?,
            "kind" => owner.kind = value.boxed()?,
            "name" => owner.name = value.boxed()?,
            "uid" => owner.uid = value.boxed()?,
            "controller" => owner.controller = value.truth()?,
            _ => owner.block_owner_deletion = value.truth()?,
        }
        Ok(())
    })?;
    Ok(owner)
}

/// Objects keep their metadata apart, shared with all their projections; this is for the others.
impl Projection for Meta {
    fn set_meta(&mut self, meta: Arc<Meta>) {
        *self = Arc::unwrap_or_clone(meta);
    }

    fn read(&mut self, _object: Reader<'_>) -> Result<(), ReadError> {
        Ok(())
    }
}
