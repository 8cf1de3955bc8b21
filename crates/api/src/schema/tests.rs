//! Cases for the compiled table.

use super::*;

fn pod_spec() -> &'static Message {
    message("io.k8s.api.core.v1.PodSpec").expect("in the table")
}

#[test]
fn kinds_are_found_by_group_version_and_kind() {
    for (group, version, name, full) in [
        ("", "v1", "Pod", "io.k8s.api.core.v1.Pod"),
        ("", "v1", "PodList", "io.k8s.api.core.v1.PodList"),
        ("", "v1", "Status", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
        ("", "v1", "List", "io.k8s.apimachinery.pkg.apis.meta.v1.List"),
        ("apps", "v1", "Deployment", "io.k8s.api.apps.v1.Deployment"),
        ("apps", "v1", "DeleteOptions", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
        ("meta.k8s.io", "v1", "Table", "io.k8s.apimachinery.pkg.apis.meta.v1.Table"),
        ("autoscaling", "v1", "Scale", "io.k8s.api.autoscaling.v1.Scale"),
        (
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        ),
    ] {
        assert_eq!(kind(group, version, name).map(Message::name), Some(full));
    }
    assert!(kind("apps", "v1beta1", "Deployment").is_none());
    assert!(kind("apps", "v1", "Pod").is_none());
}

#[test]
fn every_kind_and_reference_resolves() {
    assert!(kinds().count() > 190);
    for message in messages() {
        for field in message.fields() {
            assert_eq!(message.field(&field.name).map(|found| &found.name), Some(&field.name), "{}", message.name());
            assert!(message.field_of(&field.name).is_some());
            if let Some(inner) = field.message() {
                assert!(inner.name().starts_with("io.k8s."));
            }
        }
    }
    for (group, version, kind, message) in kinds() {
        assert_eq!(message.has_type_meta(), kind != "WatchEvent", "{group}/{version} {kind}");
        assert!(message.fields().len() <= crate::codec::FIELDS_MAX, "{kind}");
    }
}

#[test]
fn fields_say_how_they_are_encoded_and_merged() {
    let containers = pod_spec().field("containers").expect("a field");
    assert_eq!((containers.number, containers.presence), (2, Presence::Always));
    assert_eq!(containers.list().map(|list| &list.kind), Some(&ListKind::Map(["name".into()].into())));
    assert_eq!(containers.patch().and_then(|patch| patch.merge_key.as_deref()), Some("name"));
    assert_eq!(containers.message().map(Message::short_name), Some("Container"));
    assert_eq!(containers.go_type(), "[]v1.Container");
    let grace = pod_spec().field("terminationGracePeriodSeconds").expect("a field");
    assert!(grace.nullable && grace.format() == Some("int64"));
    let policy = pod_spec().field("restartPolicy").expect("a field");
    assert_eq!(policy.go_type(), "v1.RestartPolicy");
    assert!(policy.enumeration().iter().any(|value| &**value == "OnFailure"));
    assert!(pod_spec().field("Containers").is_none());
    assert!(pod_spec().field("nodeSelector").is_some_and(Field::is_atomic));
}

#[test]
fn inlined_structs_lend_their_fields() {
    let volume = message("io.k8s.api.core.v1.Volume").expect("in the table");
    assert!(volume.field("hostPath").is_some() && volume.field("volumeSource").is_none());
    assert!(matches!(find_wire(volume.wire(), 2), Some(WireMember::Inlined(_))));
    let probe = message("io.k8s.api.core.v1.Probe").expect("in the table");
    let names: Vec<&str> = probe.fields().iter().take(5).map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["exec", "httpGet", "tcpSocket", "grpc", "initialDelaySeconds"]);
    let rules = message("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations").expect("in the table");
    let names: Vec<&str> = rules.fields().iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["resourceNames", "operations", "apiGroups", "apiVersions", "resources", "scope"]);
}

#[test]
fn schemas_are_made_at_run_time() {
    let size = Field::new("size", Type::Int64).with_default(crate::value::Value::Int(3));
    let metadata = Field::new(
        "metadata",
        Type::Struct(MessageRef::built_in("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap()),
    );
    let flags = MessageFlags { type_meta: true, ..MessageFlags::default() };
    let made = Message::new("com.example.v1.Widget", flags, vec![metadata, size]);
    assert_eq!(made.field("size").and_then(Field::default), Some(&crate::value::Value::Int(3)));
    assert!(made.field("metadata").and_then(Field::message).is_some_and(|meta| meta.field("labels").is_some()));
    assert_eq!(made.short_name(), "Widget");
}
