//! Rules for annotations that mean something on pods and templates.

use std::collections::BTreeMap;

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext};

use crate::absent::{entries, entry, list};
use crate::core::pod::paths;

/// The annotation of a pod that only shows what a node runs by itself.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Annotations as objects hold them.
type Annotations = Option<BTreeMap<String, String>>;

/// Judges annotations of a pod or a template with this spec.
pub(crate) fn validate(annotations: &Annotations, spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if let Some(value) = entry(annotations, MIRROR)
        && crate::absent::text(&spec.node_name).is_empty()
    {
        faults.invalid(&path.key(MIRROR), value, "must set spec.nodeName if mirror pod annotation is set");
    }
    if let Some(value) = entry(annotations, DELETION_COST) {
        let canonical = value == "0" || !(value.starts_with(['+', '0']) || value.starts_with("-0"));
        if !canonical || value.parse::<i32>().is_err() {
            faults.invalid(&path.key(DELETION_COST), value, "must be a 32bit integer");
        }
    }
    for (key, profile) in entries(annotations) {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            validate_seccomp(profile, &path.child(key), faults);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            validate_app_armor(container, profile, spec, &path.key(key), faults);
        }
    }
}

fn validate_seccomp(profile: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    if let Some(file) = profile.strip_prefix("localhost/") {
        paths::validate_descending(file, path, faults);
    } else if !["runtime/default", "docker/default", "unconfined"].contains(&profile) {
        faults.invalid(path, profile, "must be a valid seccomp profile");
    }
}

fn validate_app_armor(container: &str, profile: &str, spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if !contexts(spec).any(|(name, ..)| name == container) {
        faults.invalid(path, container, "container not found");
    }
    if !["", "runtime/default", "unconfined"].contains(&profile) && !profile.starts_with("localhost/") {
        faults.invalid(path, profile, format!("invalid AppArmor profile name: {profile:?}"));
    }
}

/// Every container's name and context with the name of its list and its place there.
fn contexts(spec: &PodSpec) -> impl Iterator<Item = (&str, &'static str, usize, Option<&SecurityContext>)> {
    let init = list(&spec.init_containers).iter().enumerate();
    let init = init.map(|(index, one)| (one.name.as_str(), "initContainers", index, one.security_context.as_ref()));
    let main = spec.containers.iter().enumerate();
    let main = main.map(|(index, one)| (one.name.as_str(), "containers", index, one.security_context.as_ref()));
    let ephemeral = list(&spec.ephemeral_containers).iter().enumerate();
    let ephemeral =
        ephemeral.map(|(index, one)| (one.name.as_str(), "ephemeralContainers", index, one.security_context.as_ref()));
    init.chain(main).chain(ephemeral)
}

/// Where an annotation and a field say the same thing, they have to agree.
pub(crate) fn validate_agreement(annotations: &Annotations, spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let of_pod = spec.security_context.as_ref();
    if let (Some(profile), Some(annotation)) =
        (of_pod.and_then(|context| context.seccomp_profile.as_ref()), entry(annotations, SECCOMP_POD))
    {
        seccomp_agrees(annotation, profile, &path.child("securityContext").child("seccompProfile"), faults);
    }
    for (name, field, index, context) in contexts(spec) {
        let list_path = path.child(field);
        let container_path = list_path.index(index);
        let path = container_path.child("securityContext");
        let seccomp = context.and_then(|context| context.seccomp_profile.as_ref());
        if let (Some(profile), Some(annotation)) = (seccomp, entry(annotations, &format!("{SECCOMP_CONTAINER}{name}")))
        {
            seccomp_agrees(annotation, profile, &path.child("seccompProfile"), faults);
        }
        let own = context.and_then(|context| context.app_armor_profile.as_ref());
        let app_armor = own.or_else(|| of_pod.and_then(|context| context.app_armor_profile.as_ref()));
        let for_linux = spec.os.as_ref().is_none_or(|os| os.name != "windows");
        if let (Some(profile), Some(annotation), true) =
            (app_armor, entry(annotations, &format!("{APP_ARMOR}{name}")), for_linux)
        {
            app_armor_agrees(annotation, profile, &path.child("appArmorProfile"), faults);
        }
    }
}

fn seccomp_agrees(annotation: &str, profile: &SeccompProfile, path: &Path<'_>, faults: &mut FieldErrors) {
    let same_type = match profile.type_.as_str() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => ["runtime/default", "docker/default"].contains(&annotation),
        "Localhost" => annotation.starts_with("localhost/"),
        _ => true,
    };
    if !same_type {
        faults.forbidden(&path.child("type"), "seccomp type in annotation and field must match");
    } else if profile.type_ == "Localhost"
        && annotation.strip_prefix("localhost/") != profile.localhost_profile.as_deref()
    {
        faults.forbidden(&path.child("localhostProfile"), "seccomp profile in annotation and field must match");
    }
}

fn app_armor_agrees(annotation: &str, profile: &AppArmorProfile, path: &Path<'_>, faults: &mut FieldErrors) {
    let same_type = match profile.type_.as_str() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => annotation == "runtime/default",
        "Localhost" => annotation.starts_with("localhost/"),
        _ => true,
    };
    if !same_type {
        faults.forbidden(&path.child("type"), "apparmor type in annotation and field must match");
    } else if profile.type_ == "Localhost"
        && annotation.strip_prefix("localhost/") != profile.localhost_profile.as_deref()
    {
        faults.forbidden(&path.child("localhostProfile"), "apparmor profile in annotation and field must match");
    }
}

/// Annotations that decide what runs may not change while it runs.
pub(crate) fn validate_update(new: &Annotations, old: &Annotations, path: &Path<'_>, faults: &mut FieldErrors) {
    for (key, _) in entries(old).filter(|(key, value)| entry(new, key) != Some(value)) {
        if key.starts_with(APP_ARMOR) {
            faults.forbidden(&path.key(key), "may not remove or update AppArmor annotations");
        }
        if key == MIRROR {
            faults.forbidden(&path.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for (key, _) in entries(new).filter(|(key, _)| entry(old, key).is_none()) {
        if key.starts_with(APP_ARMOR) {
            faults.forbidden(&path.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            faults.forbidden(&path.key(key), "may not add mirror pod annotation");
        }
    }
}
