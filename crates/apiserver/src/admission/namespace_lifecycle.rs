//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is going, and the first namespaces stay.
//! Upstream: `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`.

use std::sync::Arc;

use api::projection::{Meta, Projection, ReadError, Reader};
use api::status::{Cause, Status, Target};
use client::Key;
use store::Compare;

use super::{Asked, Operation};
use crate::refusal::{Outcome, Refusal};
use crate::stored::store_key;

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses, or says what must still hold of the namespace when the object is stored.
pub(crate) fn admit(asked: &Asked<'_>) -> Outcome<Option<Compare>> {
    if asked.operation == Operation::Delete && asked.is("", "namespaces") {
        if IMMORTAL.contains(&asked.name.as_str()) {
            return Err(asked.forbidden("this namespace may not be deleted"));
        }
        return Ok(None);
    }
    if asked.operation != Operation::Create || asked.namespace.is_empty() || asked.is("", "namespaces") {
        return Ok(None);
    }
    // A review of access asks a question and stores nothing.
    if asked.served.key_prefix().is_none() {
        return Ok(None);
    }
    let key = Key::new("", &asked.namespace);
    let Some(namespace) = asked.object("namespaces", &key) else {
        let target = Target { group: "", resource: "namespaces", name: &asked.namespace };
        return Err(Status::not_found(target).into());
    };
    let state: &State = namespace.project();
    if namespace.meta().is_terminating() || state.terminating {
        return Err(terminating(asked));
    }
    Ok(Some(Compare::unchanged(store_key("namespaces", &key), namespace.revision())))
}

fn terminating(asked: &Asked<'_>) -> Refusal {
    let name = &asked.namespace;
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let mut refusal = asked.forbidden(&why);
    let message = format!("namespace {name} is being terminated");
    let cause = Cause { reason: "NamespaceTerminating".to_owned(), message, field: "metadata.namespace".to_owned() };
    refusal.0.details.get_or_insert_default().causes.push(cause);
    refusal
}

/// Whether the namespace says that it is going.
#[derive(Default)]
struct State {
    terminating: bool,
}

impl Projection for State {
    fn set_meta(&mut self, _: Arc<Meta>) {}

    fn read(&mut self, namespace: Reader<'_>) -> Result<(), ReadError> {
        namespace.fields(&[(3, "status")], |_, status| {
            status.fields(&[(1, "phase")], |_, phase| {
                self.terminating = phase.text()? == "Terminating";
                Ok(())
            })
        })
    }
}
