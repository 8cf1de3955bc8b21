//! Binding: a scheduler's word that a pod belongs to a node.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::Binding;

use crate::absent::text;
use crate::base::CORE;
use crate::def::{Facts, ResourceDef, Rules, Writer};
use crate::faults::not_supported_in_order;

pub static BINDING: ResourceDef<Binding> = ResourceDef {
    validate,
    ..ResourceDef::plain(Facts { kind: "Binding", plural: "bindings", singular: "binding", verbs: &["create"], ..CORE })
};

fn validate(new: &Binding, _: Option<&Binding>, _: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let target = Path::new("target");
    if !["", "Node"].contains(&text(&new.target.kind)) {
        not_supported_in_order(faults, &target.child("kind"), text(&new.target.kind), &["Node", "<empty>"]);
    }
    if text(&new.target.name).is_empty() {
        faults.required(&target.child("name"), "");
    }
}
