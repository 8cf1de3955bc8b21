//! Pod templates of kinds that keep pods running.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::absent::list;
use crate::core::pod::{annotations, defaults, reset, spec, warnings};
use crate::{meta, selector};

/// Fills the template.
pub(crate) fn default(template: &mut PodTemplateSpec) {
    defaults::spec(template.spec.get_or_insert_default());
}

/// Drops what this level does not serve.
pub(crate) fn reset(template: &mut PodTemplateSpec) {
    if let Some(spec) = &mut template.spec {
        reset::drop_disabled(spec);
    }
}

/// Judges the template, and the selector that has to find its pods.
pub(crate) fn validate(
    template: &PodTemplateSpec,
    selector: &LabelSelector,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let meta = template.metadata.clone().unwrap_or_default();
    // A missing selector selects nothing.
    if selector::is_empty(selector) || !selector::matches(selector, &meta.labels) {
        let labels = meta.labels.clone().unwrap_or_default();
        let why = "`selector` does not match template `labels`";
        faults.invalid(&path.child("metadata").child("labels"), &labels, why);
    }
    meta::validate_labels(&meta.labels, &path.child("labels"), faults);
    let annotations_path = path.child("annotations");
    meta::validate_annotations(&meta.annotations, &annotations_path, faults);
    let spec = template.spec.clone().unwrap_or_default();
    annotations::validate(&meta.annotations, &spec, &annotations_path, faults);
    let spec_path = path.child("spec");
    spec::validate(&spec, spec::Holder::Template, &spec_path, faults);
    annotations::validate_agreement(&meta.annotations, &spec, &spec_path, faults);
    if !list(&spec.ephemeral_containers).is_empty() {
        faults.forbidden(&spec_path.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
    spec::validate_always_running(&spec, &spec_path, faults);
}

/// Judges a selector that pods are kept by: it may not be missing. The typed object cannot tell an empty one from none,
/// and is judged as having none, which is what people write.
pub(crate) fn validate_selector(selector: &LabelSelector, path: &Path<'_>, faults: &mut FieldErrors) {
    selector::validate(Some(selector), path, faults);
    if selector::is_empty(selector) {
        faults.required(path, "");
    }
    if !selector::is_well_formed(selector) {
        faults.invalid(path, selector, "invalid label selector");
    }
}

/// Warnings about the template.
pub(crate) fn warnings(template: &PodTemplateSpec) -> Vec<String> {
    let meta = template.metadata.clone().unwrap_or_default();
    template.spec.as_ref().map_or(Vec::new(), |spec| warnings::of(&meta, spec, "spec.template."))
}
