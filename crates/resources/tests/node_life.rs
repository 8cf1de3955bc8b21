//! The kinds by which nodes come, go and are emptied: requests for certificates, runtime classes, disruption budgets.

mod judge;

use judge::{check, check_update, created, prepared, same, signing_request, with};
use resources::Writer;
use serde_json::{Value as Json, json};

fn budget() -> Json {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "a", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}
    })
}

fn row(object: &Json) -> Vec<String> {
    let cells = judge::resource_of(object).row(&judge::tree(object)).expect("a row");
    let shown = |cell: resources::Cell| match cell {
        resources::Cell::Text(text) => text,
        other => format!("{other:?}"),
    };
    cells.into_iter().map(shown).collect()
}

#[test]
fn refuses_bad_budgets() {
    check(&budget(), &[], &[]);
    check(
        &budget(),
        &[("/spec/minAvailable", json!("101%"))],
        &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
    );
    check(
        &budget(),
        &[("/spec/minAvailable", json!(-1))],
        &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"],
    );
    check(
        &budget(),
        &[("/spec/unhealthyPodEvictionPolicy", json!("Maybe"))],
        &[
            "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Maybe\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
        ],
    );
    let (_, faults) = prepared(&with(&budget(), &[("/spec/maxUnavailable", json!(1))]), None, Writer::Create);
    assert!(
        faults.len() == 1 && faults[0].ends_with("minAvailable and maxUnavailable cannot be both set"),
        "{faults:?}"
    );
}

#[test]
fn a_budgets_spec_and_status_have_doors_of_their_own() {
    let stored = created(&with(&budget(), &[("/status/disruptionsAllowed", json!(7))]));
    assert_eq!((&stored["metadata"]["generation"], &stored["status"]["disruptionsAllowed"]), (&json!(1), &Json::Null));
    let changes = [("/spec/minAvailable", json!(2)), ("/status/disruptionsAllowed", json!(3))];
    let (main, _) = prepared(&with(&stored, &changes), Some(&stored), Writer::Main);
    assert_eq!((&main["metadata"]["generation"], &main["spec"]["minAvailable"]), (&json!(2), &json!(2)));
    assert_eq!(main["status"]["disruptionsAllowed"], Json::Null);
    let (status, _) = prepared(&with(&stored, &changes), Some(&stored), Writer::Status);
    assert_eq!((&status["spec"]["minAvailable"], &status["status"]["disruptionsAllowed"]), (&json!(1), &json!(3)));
    let condition = json!([{"type": "A", "status": "Maybe", "reason": "1", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let (_, faults) = prepared(&with(&stored, &[("/status/conditions", condition)]), Some(&stored), Writer::Status);
    assert_eq!(faults.len(), 2, "{faults:?}");
}

#[test]
fn refuses_bad_runtime_classes() {
    let class = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "a"}, "handler": "runc",
        "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}
    });
    check(&class, &[], &[]);
    check(&class, &[("/handler", json!("a.b"))], &["handler: Invalid value: \"a.b\": must not contain dots"]);
    check_update(&class, &[("/handler", json!("kata"))], &["handler: Invalid value: \"kata\": field is immutable"]);
    check(
        &class,
        &[("/overhead/podFixed/cpu", json!("-1"))],
        &["overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
    );
}

#[test]
fn refuses_bad_requests_for_certificates() {
    check(
        &signing_request(),
        &[("/spec/usages", json!([]))],
        &["spec.usages: Required value: usages must be provided"],
    );
    check(
        &signing_request(),
        &[("/spec/usages", json!(["client auth", "client auth"]))],
        &["spec.usages[1]: Duplicate value: \"client auth\""],
    );
    check(
        &signing_request(),
        &[("/spec/signerName", json!("ours"))],
        &[
            "spec.signerName: Invalid value: \"ours\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ],
    );
    check(
        &signing_request(),
        &[("/spec/signerName", json!("com/ours"))],
        &["spec.signerName: Invalid value: \"com\": should be a domain with at least two segments separated by dots"],
    );
    check(
        &signing_request(),
        &[("/spec/signerName", json!("kubernetes.io/legacy-unknown"))],
        &[
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
        ],
    );
    check(
        &signing_request(),
        &[("/spec/expirationSeconds", json!(599))],
        &["spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"],
    );
}

/// The conditions and certificate that a writer tries to set, and what comes of it.
#[track_caller]
fn write(stored: &Json, status: Json, writer: Writer, expected: &[&str]) -> Json {
    let (new, faults) = prepared(&with(stored, &[("/status", status)]), Some(stored), writer);
    same(faults, expected);
    new
}

#[test]
fn approving_and_signing_are_different_doors() {
    let stored =
        created(&with(&signing_request(), &[("/status/conditions", json!([{"type": "Approved", "status": "True"}]))]));
    assert_eq!(stored["status"], json!({}), "nobody makes an approved request");
    let approved = json!([{"type": "Approved", "status": "True", "reason": "KubectlApprove"}]);
    let certificate = json!("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K");
    let both = json!({"conditions": approved, "certificate": certificate});
    write(
        &stored,
        both.clone(),
        Writer::Status,
        &["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""],
    );
    let approved = write(&stored, both, Writer::Approval, &[]);
    assert_eq!(approved["status"]["certificate"], Json::Null);
    assert_eq!(approved["status"]["conditions"][0]["lastUpdateTime"], json!("1970-01-01T00:00:00Z"));
    assert_eq!(row(&approved).last().map(String::as_str), Some("Approved"));
    write(
        &approved,
        json!({"conditions": []}),
        Writer::Approval,
        &["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""],
    );
    let mut signed = approved["status"].clone();
    signed["certificate"] = certificate;
    let signed = write(&approved, signed, Writer::Status, &[]);
    assert_eq!(row(&signed).last().map(String::as_str), Some("Approved,Issued"));
    let mut other = signed["status"].clone();
    other["certificate"] = json!("eA==");
    write(
        &signed,
        other,
        Writer::Status,
        &[
            "status.certificate: Forbidden: updates may not modify existing certificate content",
            "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block",
        ],
    );
    let mut denied = approved["status"].clone();
    denied["conditions"].as_array_mut().expect("a list").push(json!({"type": "Denied", "status": "True"}));
    write(
        &approved,
        denied,
        Writer::Approval,
        &[
            "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
        ],
    );
}

#[test]
fn the_wanted_lifetime_is_shown_as_people_say_it() {
    let shown = |seconds: i64| {
        let request = with(&signing_request(), &[("/spec/expirationSeconds", json!(seconds))]);
        row(&created(&request))[4].clone()
    };
    let all = [600, 3600, 28_799, 86_400, 691_199, 31_536_000].map(shown);
    assert_eq!(all, ["10m", "60m", "7h59m", "24h", "7d23h", "365d"]);
}
