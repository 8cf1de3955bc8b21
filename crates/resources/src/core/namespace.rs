//! Namespace: a scope for names, and what is deleted together.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};

use crate::absent::{list, text};
use crate::base::{CORE, stored};
use crate::columns::{age, column, name};
use crate::def::{Cell, Facts, ResourceDef, Rules, Scope, Selectable, Subresource, Writer};
use crate::faults::each_invalid;
use crate::{meta, names};

/// The finalizer that the namespace's content is removed under.
const FINALIZER: &str = "kubernetes";
/// The label every namespace carries with its own name, so that selectors can name one.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub static NAMESPACE: ResourceDef<Namespace> = ResourceDef {
    name_faults: names::label_name,
    selectable: &[Selectable { field: "status.phase", value: |namespace| phase(namespace).to_owned() }],
    default,
    reset,
    validate,
    columns: &[
        name(),
        column("Status", "string", "The status of the namespace", |namespace| Cell::Text(phase(namespace).to_owned())),
        age(),
    ],
    ..ResourceDef::plain(Facts {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        scope: Scope::Cluster,
        short_names: &["ns"],
        backing: stored("namespaces"),
        subresources: &[
            Subresource::Other { name: "finalize", kind: ("", "v1", "Namespace"), verbs: &["update"] },
            Subresource::Status,
        ],
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        ..CORE
    })
};

fn phase(namespace: &Namespace) -> &str {
    namespace.status.as_ref().map_or("", |status| text(&status.phase))
}

fn default(namespace: &mut Namespace, _: &Rules<'_>) {
    if let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) {
        namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    }
    let status = namespace.status.get_or_insert_default();
    crate::absent::default_text(&mut status.phase, "Active");
}

fn reset(new: &mut Namespace, old: Option<&Namespace>, writer: Writer, _: &Rules<'_>) {
    let Some(old) = old else {
        new.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), ..NamespaceStatus::default() });
        let finalizers = new.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        // A generated name is known only now.
        let name = text(&new.metadata.name).to_owned();
        new.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
        return;
    };
    match writer {
        Writer::Status => new.spec.clone_from(&old.spec),
        Writer::Finalize => new.status.clone_from(&old.status),
        _ => {
            new.spec.clone_from(&old.spec);
            new.status.clone_from(&old.status);
        }
    }
}

fn validate(new: &Namespace, _: Option<&Namespace>, writer: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let spec = Path::new("spec");
    let path = spec.child("finalizers");
    let finalizers = new.spec.as_ref().map_or(&[][..], |spec| list(&spec.finalizers));
    match writer {
        Writer::Create => {
            for finalizer in finalizers {
                each_invalid(faults, &path, finalizer, names::qualified(finalizer));
                meta::validate_bare_finalizer(finalizer, &path, faults);
            }
        }
        Writer::Finalize => {
            for (index, finalizer) in finalizers.iter().enumerate() {
                each_invalid(faults, &path.index(index), finalizer, names::qualified(finalizer));
                meta::validate_bare_finalizer(finalizer, &path.index(index), faults);
            }
        }
        Writer::Status => validate_phase(new, faults),
        _ => {}
    }
}

fn validate_phase(new: &Namespace, faults: &mut FieldErrors) {
    let (wanted, when) = match new.metadata.deletion_timestamp {
        None => ("Active", "empty"),
        Some(_) => ("Terminating", "not empty"),
    };
    if phase(new) != wanted {
        let why = format!("may only be '{wanted}' if `deletionTimestamp` is {when}");
        faults.invalid(&Path::new("status").child("Phase"), phase(new), why);
    }
}
