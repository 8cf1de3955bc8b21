//! Cases, and the walk over every field of a pod: each is honoured somewhere or in the table.

use std::collections::BTreeSet;
use std::path::Path;

use api::schema::{Message, Type, message};

use super::honoured::{HONOURED, Honoured, Shown};
use super::*;

fn check(json: &str, expected: &[&str]) {
    let pod: Pod = serde_json::from_str(json).unwrap();
    assert_eq!(used(&pod), expected);
}

#[test]
fn names_the_field_by_its_path() {
    check(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b","volumeDevices":[{"name":"d","devicePath":"/d"}]}]}}"#,
        &["spec.containers[1].volumeDevices"],
    );
    check(
        r#"{"spec":{"containers":[],"volumes":[{"name":"x","emptyDir":{"medium":"Memory"}},{"name":"y","nfs":{"server":"s","path":"p"}}]}}"#,
        &["spec.volumes[1].nfs"],
    );
}

#[test]
fn an_ephemeral_container_is_refused_by_itself() {
    let pod: Pod = serde_json::from_str(
        r#"{"spec":{"containers":[],"ephemeralContainers":[{"name":"a"},{"name":"b","volumeDevices":[{"name":"x","devicePath":"/x"}]}]}}"#,
    )
    .unwrap();
    assert!(used(&pod).is_empty());
    let refused = vec![("b".to_owned(), vec!["spec.ephemeralContainers[1].volumeDevices".to_owned()])];
    assert_eq!(used_by_ephemeral(&pod), refused);
}

#[test]
fn ports_of_the_node_are_granted() {
    let port = r#""containers":[{"name":"a","ports":[{"containerPort":1,"hostPort":1}]}]"#;
    check(&format!(r#"{{"spec":{{"hostNetwork":true,{port}}}}}"#), &[]);
}

#[test]
fn defaults_are_not_uses() {
    check(r#"{"spec":{"containers":[{"name":"a","livenessProbe":{"httpGet":{"port":1,"scheme":"HTTP"}}}]}}"#, &[]);
}

/// Every path below a message that has no parts of its own.
fn fields(shape: &Message, path: &str, found: &mut Vec<String>) {
    for field in shape.fields() {
        let path = format!("{path}.{}", field.name);
        let list = matches!(field.ty, Type::List(_));
        match field.message() {
            Some(inner) => fields(inner, &if list { format!("{path}.*") } else { path }, found),
            None => found.push(path),
        }
    }
}

/// The fields of a pod that are judged by their own names. Those of init containers and ephemeral ones go by the others'.
fn fields_of_a_pod() -> BTreeSet<String> {
    let mut found = Vec::new();
    fields(message("io.k8s.api.core.v1.PodSpec").unwrap(), "spec", &mut found);
    let own = |path: String| {
        let Some(rest) = path.strip_prefix("spec.ephemeralContainers.*.") else {
            return Some(path.replace("spec.initContainers.", "spec.containers."));
        };
        match rest.split('.').next().unwrap_or_default() {
            // Validation refuses these.
            "ports" | "livenessProbe" | "readinessProbe" | "startupProbe" | "lifecycle" => None,
            "resources" | "resizePolicy" | "restartPolicy" | "restartPolicyRules" => None,
            "targetContainerName" => Some(path),
            _ => Some(format!("spec.containers.*.{rest}")),
        }
    };
    found.into_iter().filter_map(own).collect()
}

/// Whether an entry is the path or a part of the object above it.
fn covered(path: &str, entry: &str) -> bool {
    let mut parts = path.split('.');
    entry.split('.').all(|wanted| {
        let part = parts.next().unwrap_or_default();
        part == wanted || (wanted == "*Probe" && part.ends_with("Probe"))
    })
}

fn refused(path: &str) -> bool {
    UNHONOURED.iter().any(|(entry, _)| covered(path, entry))
}

#[test]
fn every_field_of_a_pod_is_honoured_or_in_the_table() {
    let honoured = |path: &String| entries().any(|(_, entry)| covered(path, entry));
    let missing: Vec<String> = fields_of_a_pod().into_iter().filter(|path| !refused(path) && !honoured(path)).collect();
    assert!(missing.is_empty(), "neither honoured nor refused:\n{}", missing.join("\n"));
}

#[test]
fn no_field_is_both_honoured_and_in_the_table() {
    for (honoured, field) in entries() {
        assert!(!refused(field), "{field} is refused, and yet honoured by {}", honoured.by);
    }
}

#[test]
fn every_entry_is_of_fields_that_there_are() {
    let fields = fields_of_a_pod();
    for (_, entry) in entries() {
        assert!(fields.iter().any(|path| covered(path, entry)), "{entry} is no field of a pod");
    }
}

/// What is wrong with saying that an end-to-end test shows a field: it is not there, or its file does not name the field.
fn fault(test: &str, field: &str) -> Option<String> {
    let (module, name) = test.rsplit_once("::").unwrap();
    let file = format!("tests/{}.rs", module.replace("::", "/"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let Ok(source) = std::fs::read_to_string(root.join(&file)) else { return Some(format!("{file} is not there")) };
    let declared = ["fn", "pub fn"].iter().any(|kind| source.contains(&format!("#[test]\n{kind} {name}() {{")));
    if !declared {
        return Some(format!("{file} has no test {name}"));
    }
    let last = field.rsplit('.').find(|part| *part != "*").unwrap();
    (!source.contains(&format!("\"{last}\""))).then(|| format!("{file} does not name {field}"))
}

#[test]
fn every_honoured_field_is_shown_by_an_end_to_end_test_that_names_it() {
    let mut faults = Vec::new();
    for path in fields_of_a_pod() {
        for (honoured, _) in entries().filter(|(_, entry)| covered(&path, entry)) {
            match honoured.shown {
                Shown::By(test) => faults.extend(fault(test, &path)),
                Shown::Not(why) => assert!(!why.is_empty(), "{path}"),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_test_that_is_not_there_shows_nothing() {
    let check = |test: &str, field: &str, expected: Option<&str>| {
        assert_eq!(fault(test, field).as_deref(), expected, "{test} {field}");
    };
    let volumes = "podspec::volumes_are_as_the_pod_says";
    check(volumes, "spec.volumes.*.hostPath", None);
    check(volumes, "spec.volumes.*.csi", Some("tests/podspec.rs does not name spec.volumes.*.csi"));
    check("podspec::nothing", "spec.volumes", Some("tests/podspec.rs has no test nothing"));
    check("nowhere::nothing", "spec.volumes", Some("tests/nowhere.rs is not there"));
    // What is no test of its own.
    check("podspec::ended", "spec.volumes", Some("tests/podspec.rs has no test ended"));
}

/// Each field that is honoured, with what is said of it.
fn entries() -> impl Iterator<Item = (&'static Honoured, &'static str)> {
    HONOURED.iter().flat_map(|honoured| honoured.fields.iter().map(move |field| (honoured, *field)))
}
