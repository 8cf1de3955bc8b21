//! Access reviews: may this be done, by me, by somebody, in this namespace; and what may I do at all.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview,
    SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::absent::{list, text};
use crate::base::computed;
use crate::def::{Facts, ResourceDef, Scope};
use crate::names;

const GROUP: &str = "authorization.k8s.io";

pub static SUBJECT_ACCESS_REVIEW: ResourceDef<SubjectAccessReview> = ResourceDef {
    name_faults: names::any_name,
    validate: |new, _, _, _, faults| {
        validate_spec(&new.spec, faults);
        validate_meta(&new.metadata, ObjectMeta::default(), "must be empty", faults);
    },
    ..ResourceDef::plain(computed(GROUP, "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview"))
};

pub static SELF_SUBJECT_ACCESS_REVIEW: ResourceDef<SelfSubjectAccessReview> = ResourceDef {
    name_faults: names::any_name,
    validate: |new, _, _, _, faults| {
        let (resource, other) = (&new.spec.resource_attributes, &new.spec.non_resource_attributes);
        validate_attributes(resource.as_ref(), other.as_ref(), faults);
        validate_meta(&new.metadata, ObjectMeta::default(), "must be empty", faults);
    },
    ..ResourceDef::plain(computed(
        GROUP,
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
    ))
};

pub static SELF_SUBJECT_RULES_REVIEW: ResourceDef<SelfSubjectRulesReview> = ResourceDef {
    name_faults: names::any_name,
    ..ResourceDef::plain(computed(GROUP, "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"))
};

pub static LOCAL_SUBJECT_ACCESS_REVIEW: ResourceDef<LocalSubjectAccessReview> = ResourceDef {
    name_faults: names::any_name,
    validate: |new, _, _, _, faults| validate_local(new, faults),
    ..ResourceDef::plain(Facts {
        scope: Scope::Namespaced,
        ..computed(GROUP, "LocalSubjectAccessReview", "localsubjectaccessreviews", "localsubjectaccessreview")
    })
};

/// A review is no object that is kept: whoever gives it a name is mistaken about it.
fn validate_meta(meta: &ObjectMeta, allowed: ObjectMeta, why: &str, faults: &mut FieldErrors) {
    let managed_fields = meta.managed_fields.clone();
    if *meta != (ObjectMeta { managed_fields, ..allowed }) {
        faults.invalid(&Path::new("metadata"), meta, why);
    }
}

fn validate_spec(spec: &SubjectAccessReviewSpec, faults: &mut FieldErrors) {
    validate_attributes(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref(), faults);
    if text(&spec.user).is_empty() && list(&spec.groups).is_empty() {
        let path = Path::new("spec");
        faults.invalid(&path.child("user"), text(&spec.user), "at least one of user or group must be specified");
    }
}

fn validate_attributes(
    resource: Option<&ResourceAttributes>,
    other: Option<&NonResourceAttributes>,
    faults: &mut FieldErrors,
) {
    let path = Path::new("spec");
    match (resource, other) {
        (Some(_), Some(other)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            faults.invalid(&path.child("nonResourceAttributes"), other, why);
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            faults.invalid(&path.child("resourceAttributes"), "null", why);
        }
        _ => {}
    }
    if let Some(resource) = resource {
        validate_selectors(resource, &path.child("resourceAttributes"), faults);
    }
}

/// A selector comes as text or taken apart, never as both.
fn validate_selectors(resource: &ResourceAttributes, path: &Path<'_>, faults: &mut FieldErrors) {
    let fields = resource
        .field_selector
        .as_ref()
        .map(|selector| ("fieldSelector", text(&selector.raw_selector), list(&selector.requirements).len()));
    let labels = resource
        .label_selector
        .as_ref()
        .map(|selector| ("labelSelector", text(&selector.raw_selector), list(&selector.requirements).len()));
    for (field, raw, requirements) in [fields, labels].into_iter().flatten() {
        let path = path.child(field);
        if !raw.is_empty() && requirements > 0 {
            faults.invalid(&path.child("rawSelector"), raw, "may not specified at the same time as requirements");
        }
        if raw.is_empty() && requirements == 0 {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            faults.required(&path.child("requirements"), &why);
        }
    }
}

fn validate_local(review: &LocalSubjectAccessReview, faults: &mut FieldErrors) {
    validate_spec(&review.spec, faults);
    let allowed = ObjectMeta { namespace: review.metadata.namespace.clone(), ..ObjectMeta::default() };
    validate_meta(&review.metadata, allowed, "must be empty except for namespace", faults);
    let path = Path::new("spec");
    if let Some(resource) = &review.spec.resource_attributes {
        let namespace = text(&resource.namespace);
        if namespace != text(&review.metadata.namespace) {
            let path = path.child("resourceAttributes");
            faults.invalid(&path.child("namespace"), namespace, "must match metadata.namespace");
        }
    }
    if let Some(other) = &review.spec.non_resource_attributes {
        faults.invalid(&path.child("nonResourceAttributes"), other, "disallowed on this kind of request");
    }
}
