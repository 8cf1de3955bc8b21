//! One attempt to write: default → admit → reset and validate → one store transaction, from a given current value.

use std::sync::Arc;
use std::time::Duration;

use api::meta;
use api::status::Status;
use api::value::Value;
use client::{Gvk, Key, Object};
use resources::{Rules, Writer};
use store::{Compare, Op, TxnOutcome};

use crate::admission::{self, Admitted, Operation};
use crate::allocate;
use crate::cache::stored_version;
use crate::catalog::Served;
use crate::convert;
use crate::options::{WriteOptions, parse_revision};
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::stored;
use crate::verbs::{not_found, target};

/// Upstream's words for a write that was based on an old state.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// How often a write starts over when others were faster, as often as upstream's patch.
const ATTEMPTS_MAX: usize = 8;

/// Events end by themselves after upstream's default time.
const EVENT_TTL: Duration = Duration::from_secs(3600);

/// What a write did.
pub(crate) enum Written {
    Stored(Arc<Object>),
    /// The write took away what still held a terminating object.
    Deleted(Arc<Object>),
}

impl Written {
    /// The object as it is now, or as it was last.
    pub(crate) fn object(self) -> Arc<Object> {
        match self {
            Written::Stored(object) | Written::Deleted(object) => object,
        }
    }
}

/// What all attempts of one write have in common.
pub(crate) struct Write<'a> {
    pub call: &'a Call<'a>,
    pub served: &'a Served,
    pub options: &'a WriteOptions,
    pub writer: Writer,
    pub key: Key,
}

enum Tried {
    Done(Written),
    /// Somebody else was faster.
    Again,
}

impl<'a> Write<'a> {
    /// A write to the object that the path names.
    pub(crate) fn new(call: &'a Call<'a>, served: &'a Served, options: &'a WriteOptions, writer: Writer) -> Write<'a> {
        Write { call, served, options, writer, key: call.key(served) }
    }

    fn rules(&self) -> Rules<'a> {
        Rules { now: stdx::wall(), user: &self.call.user.name, dry_run: self.options.dry_run }
    }

    /// Stores a new object. The tree has its name, and is in the served version.
    pub(crate) async fn create(&self, mut new: Value) -> Outcome<Arc<Object>> {
        self.call.server.cache.fresh().await?;
        let rules = self.rules();
        convert::to_stored(&mut new, self.served);
        meta::set_uid(&mut new, &uid());
        meta::set_creation_timestamp(&mut new, rules.now);
        self.default(&mut new, &rules)?;
        if self.served.facts().plural == "pods" {
            admission::service_account::wait_for_default(self.call, &new).await;
        }
        let key = Key::new(meta::namespace(&new), meta::name(&new));
        let store_key = stored::store_key(self.prefix()?, &key);
        for _ in 0..ATTEMPTS_MAX {
            let mut new = new.clone();
            let admitted = self.admit(&mut new, None)?;
            self.prepare(&mut new, None, &rules)?;
            let records = allocate::plan(self.call.server, self.served, None, &mut new).await?;
            let object = self.object(&key, 0, &new)?;
            if self.options.dry_run {
                let taken = self.call.fresh(self.served).await?.objects.contains_key(&key);
                return if taken { Err(self.already_exists(key.name())) } else { Ok(object) };
            }
            let mut compares = vec![Compare::absent(store_key.clone())];
            compares.extend(admitted.compare);
            compares.extend(records.compares);
            let mut ops = vec![self.put(store_key.clone(), &object)];
            ops.extend(records.ops);
            match self.call.server.store.txn(compares, ops).await.map_err(crate::cache::store_refusal)? {
                TxnOutcome::Committed { revision } => {
                    self.call.server.cache.catch_up(revision).await;
                    return Ok(Arc::new(object.at_revision(revision)));
                }
                TxnOutcome::Failed { current } if current.first().is_some_and(Option::is_some) => {
                    return Err(self.already_exists(key.name()));
                }
                // An address was taken, or the namespace changed: look at both again.
                TxnOutcome::Failed { .. } => drop(self.call.server.cache.fresh().await?),
            }
        }
        Err(self.conflict(key.name()))
    }

    /// Changes the object by `change`, which gets the newest state (in the served version, with its resourceVersion) and
    /// gives the wanted one. Starts over when others were faster, unless the wanted state names a resourceVersion.
    pub(crate) async fn update(&self, mut change: impl FnMut(&Value) -> Outcome<Value>) -> Outcome<Written> {
        for _ in 0..ATTEMPTS_MAX {
            self.call.server.cache.fresh().await?;
            let found = self.call.resource(self.served)?.snapshot().objects.get(&self.key).cloned();
            let current = found.ok_or_else(|| not_found(self.served, self.key.name()))?;
            let old = convert::tree(&current, self.served)?;
            let new = change(&old)?;
            match self.try_update(&current, old, new).await? {
                Tried::Done(written) => return Ok(written),
                Tried::Again => {}
            }
        }
        Err(self.conflict(self.key.name()))
    }

    async fn try_update(&self, current: &Arc<Object>, mut old: Value, mut new: Value) -> Outcome<Tried> {
        self.check_identity(current, &new)?;
        let rules = self.rules();
        // A kind's rules know its stored version alone.
        convert::to_stored(&mut old, self.served);
        convert::to_stored(&mut new, self.served);
        meta::clear_resource_version(&mut old);
        meta::clear_resource_version(&mut new);
        self.default(&mut new, &rules)?;
        allocate::carry_over(self.served, &old, &mut new);
        self.admit(&mut new, Some(&old))?;
        self.prepare(&mut new, Some(&old), &rules)?;
        let records = allocate::plan(self.call.server, self.served, Some(&old), &mut new).await?;
        let object = self.object(&self.key, current.revision(), &new)?;
        let delete = is_released(&old, &new, self.served);
        if !delete && object.body() == current.body() {
            return Ok(Tried::Done(Written::Stored(current.clone())));
        }
        if self.options.dry_run {
            return Ok(Tried::Done(if delete { Written::Deleted(object) } else { Written::Stored(object) }));
        }
        let store_key = stored::store_key(self.prefix()?, &self.key);
        let mut compares = vec![Compare::unchanged(store_key.clone(), current.revision())];
        let (records, op) = if delete {
            (allocate::release(self.served, &old), Op::delete(store_key))
        } else {
            (records, self.put(store_key, &object))
        };
        compares.extend(records.compares);
        let mut ops = vec![op];
        ops.extend(records.ops);
        match self.call.server.store.txn(compares, ops).await.map_err(crate::cache::store_refusal)? {
            TxnOutcome::Committed { revision } => {
                self.call.server.cache.catch_up(revision).await;
                let object = Arc::new(object.at_revision(revision));
                Ok(Tried::Done(if delete { Written::Deleted(object) } else { Written::Stored(object) }))
            }
            TxnOutcome::Failed { .. } => Ok(Tried::Again),
        }
    }

    /// The wanted state must be about this very object, and about the state that its writer saw.
    fn check_identity(&self, current: &Object, new: &Value) -> Outcome<()> {
        let uid = meta::uid(new);
        if !uid.is_empty() && uid != current.uid() {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", current.uid());
            return Err(Status::conflict(target(self.served, self.key.name()), &why).into());
        }
        let given = meta::resource_version(new);
        if !given.is_empty() && given != "0" && parse_revision(given)? != current.revision() {
            return Err(self.conflict(self.key.name()));
        }
        Ok(())
    }

    fn default(&self, new: &mut Value, rules: &Rules<'_>) -> Outcome<()> {
        self.served.def.default(new, rules).map_err(Refusal::internal)
    }

    fn admit(&self, new: &mut Value, old: Option<&Value>) -> Outcome<Admitted> {
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let asked = admission::Asked {
            call: self.call,
            served: self.served,
            operation,
            subresource: &self.call.info.subresource,
            namespace: meta::namespace(new).to_owned(),
            name: meta::name(new).to_owned(),
        };
        admission::admit(&asked, Some(new), old)
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, rules: &Rules<'_>) -> Outcome<()> {
        let def = self.served.def;
        let (faults, warnings) = def.judge(new, old, self.writer, rules).map_err(Refusal::internal)?;
        let name = meta::name(new).to_owned();
        if let Some(status) = faults.into_status(self.served.group, self.served.kind, &name) {
            return Err(status.into());
        }
        self.call.warnings.add(warnings);
        Ok(())
    }

    fn prefix(&self) -> Outcome<&'static str> {
        self.served.key_prefix().ok_or_else(Refusal::no_such_path)
    }

    /// The object in its stored form, from a tree in the stored version.
    fn object(&self, key: &Key, revision: u64, tree: &Value) -> Outcome<Arc<Object>> {
        let facts = self.served.facts();
        let body = stored::body(self.served, tree)?;
        let kind = Arc::new(Gvk::new(facts.group, stored_version(facts), facts.kind));
        Ok(Arc::new(Object::new(kind, key.clone(), meta::uid(tree), revision, body)))
    }

    fn put(&self, store_key: bytes::Bytes, object: &Object) -> Op {
        if self.served.facts().plural == "events" {
            Op::put_for(store_key, object.body().clone(), EVENT_TTL)
        } else {
            Op::put(store_key, object.body().clone())
        }
    }

    fn conflict(&self, name: &str) -> Refusal {
        Status::conflict(target(self.served, name), MODIFIED).into()
    }

    fn already_exists(&self, name: &str) -> Refusal {
        Status::already_exists(target(self.served, name)).into()
    }
}

/// Whether the write took away the last thing that held a terminating object.
fn is_released(old: &Value, new: &Value, served: &Served) -> bool {
    let bare = !meta::has_finalizers(new) && meta::deletion_grace_seconds(old) == Some(0) && meta::is_terminating(old);
    if served.facts().plural == "namespaces" {
        let finalizers = new.at(&["spec", "finalizers"]).and_then(Value::as_array).unwrap_or_default();
        return finalizers.is_empty() && !meta::has_finalizers(new) && meta::is_terminating(old);
    }
    bare
}

/// A random UUID of version 4.
pub(crate) fn uid() -> String {
    let mut bytes = [0; 16];
    stdx::random(&mut bytes);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = |range: std::ops::Range<usize>| bytes[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{}-{}-{}-{}-{}", hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16))
}
