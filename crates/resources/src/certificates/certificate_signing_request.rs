//! CertificateSigningRequest: somebody asks for a certificate, somebody approves, somebody signs.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition as Condition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::absent::list;
use crate::base::{CORE, stored};
use crate::columns::{NONE, age, column, name, or_none};
use crate::def::{Cell, Facts, ResourceDef, Rules, Scope, Selectable, Subresource, Writer};
use crate::faults::{each_invalid, not_supported_in_order};
use crate::names;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
/// The least lifetime that may be asked for.
const EXPIRATION_SECONDS_MIN: i32 = 600;
/// A signer's name has a subdomain, and a path of a namespace, a dot and a name.
const SIGNER_NAME_BYTES_MAX: usize = 253 + 1 + 253 + 63 + 1;
/// In the order in which upstream lists them.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub static CERTIFICATE_SIGNING_REQUEST: ResourceDef<CertificateSigningRequest> = ResourceDef {
    name_faults: names::any_name,
    selectable: &[Selectable { field: "spec.signerName", value: |request| request.spec.signer_name.clone() }],
    reset,
    validate,
    columns: &[
        name(),
        age(),
        column("SignerName", "string", "Who is to sign.", |request| or_none(&request.spec.signer_name)),
        column("Requestor", "string", "Who asked.", |request| {
            Cell::Text(request.spec.username.clone().unwrap_or_default())
        }),
        column("RequestedDuration", "string", "For how long the certificate is to be valid.", |request| {
            let seconds = request.spec.expiration_seconds;
            Cell::Text(seconds.map_or(NONE.to_owned(), |seconds| human(seconds.into())))
        }),
        column("Condition", "string", "How far the request has come.", |request| Cell::Text(progress(request))),
    ],
    ..ResourceDef::plain(Facts {
        group: "certificates.k8s.io",
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        scope: Scope::Cluster,
        short_names: &["csr"],
        backing: stored("certificatesigningrequests"),
        subresources: &[
            Subresource::Other {
                name: "approval",
                kind: ("certificates.k8s.io", "v1", "CertificateSigningRequest"),
                verbs: &["get", "patch", "update"],
            },
            Subresource::Status,
        ],
        ..CORE
    })
};

fn conditions(request: &CertificateSigningRequest) -> &[Condition] {
    request.status.as_ref().map_or(&[], |status| list(&status.conditions))
}

fn certificate(request: &CertificateSigningRequest) -> &[u8] {
    request.status.as_ref().and_then(|status| status.certificate.as_ref()).map_or(&[], |bytes| &bytes.0)
}

fn progress(request: &CertificateSigningRequest) -> String {
    let has = |kind: &str| conditions(request).iter().any(|condition| condition.type_ == kind);
    let mut words = vec![match (has(DENIED), has(APPROVED)) {
        (true, _) => DENIED,
        (false, true) => APPROVED,
        (false, false) => "Pending",
    }];
    words.extend(has(FAILED).then_some(FAILED));
    words.extend((!certificate(request).is_empty()).then_some("Issued"));
    words.join(",")
}

/// A duration as upstream shows it to people: two units at most, and one where the larger says enough.
fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        small => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

fn reset(
    new: &mut CertificateSigningRequest,
    old: Option<&CertificateSigningRequest>,
    writer: Writer,
    rules: &Rules<'_>,
) {
    let Some(old) = old else {
        // Nobody makes a request that is approved already. Who asks is set by the API server.
        new.status = Some(CertificateSigningRequestStatus::default());
        return;
    };
    new.spec.clone_from(&old.spec);
    match writer {
        Writer::Status => {
            for kind in [APPROVED, DENIED] {
                preserve(new, old, kind);
            }
            stamp(new, old, rules);
        }
        Writer::Approval => {
            stamp(new, old, rules);
            let conditions = new.status.take().and_then(|status| status.conditions);
            new.status = Some(CertificateSigningRequestStatus { conditions, ..old.status.clone().unwrap_or_default() });
        }
        _ => new.status.clone_from(&old.status),
    }
}

/// Puts back the conditions of a type that is not this writer's. Where some were added or removed, validation refuses.
fn preserve(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest, kind: &str) {
    let before: Vec<&Condition> = of_kind(old, kind).collect();
    if of_kind(new, kind).count() != before.len() {
        return;
    }
    let list = new.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten());
    for (present, before) in list.filter(|condition| condition.type_ == kind).zip(before) {
        present.clone_from(before);
    }
}

fn of_kind<'a>(request: &'a CertificateSigningRequest, kind: &'a str) -> impl Iterator<Item = &'a Condition> {
    conditions(request).iter().filter(move |condition| condition.type_ == kind)
}

/// Says since when conditions hold, where their writer does not.
fn stamp(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest, rules: &Rules<'_>) {
    let now = || Time(rules.now);
    for condition in new.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
        condition.last_update_time.get_or_insert_with(now);
        if condition.last_transition_time.is_none() {
            let before = conditions(old)
                .iter()
                .find(|before| before.type_ == condition.type_ && before.status == condition.status);
            let since = before.and_then(|before| before.last_transition_time.clone());
            condition.last_transition_time = Some(since.unwrap_or_else(now));
        }
    }
}

fn validate(
    new: &CertificateSigningRequest,
    old: Option<&CertificateSigningRequest>,
    writer: Writer,
    _: &Rules<'_>,
    faults: &mut FieldErrors,
) {
    validate_spec(&new.spec, &Path::new("spec"), faults);
    let status = Path::new("status");
    validate_conditions(new, old, &status.child("conditions"), faults);
    if let Err(why) = blocks(certificate(new)) {
        faults.invalid(&status.child("certificate"), "<certificate data>", why);
    }
    if let Some(old) = old {
        validate_update(new, old, writer, &status, faults);
    }
}

/// The request itself is judged by admission, which can check its signature.
fn validate_spec(spec: &CertificateSigningRequestSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let usages = list(&spec.usages);
    let usages_path = path.child("usages");
    if usages.is_empty() {
        faults.required(&usages_path, "usages must be provided");
    }
    for (index, usage) in usages.iter().enumerate() {
        if !USAGES.contains(&usage.as_str()) {
            not_supported_in_order(faults, &usages_path.index(index), usage, USAGES);
        }
        if usages[..index].contains(usage) {
            faults.duplicate(&usages_path.index(index), usage);
        }
    }
    let signer = path.child("signerName");
    if spec.signer_name == "kubernetes.io/legacy-unknown" {
        faults.invalid(&signer, &spec.signer_name, "the legacy signerName is not allowed via this API version");
    } else {
        validate_signer_name(&spec.signer_name, &signer, faults);
    }
    if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < EXPIRATION_SECONDS_MIN) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        faults.invalid(&path.child("expirationSeconds"), &seconds, why);
    }
}

/// `example.com/signer-name`
fn validate_signer_name(name: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    if name.is_empty() {
        return faults.required(path, "signerName must be provided");
    }
    let segments: Vec<&str> = name.split('/').collect();
    let [domain, rest] = segments[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return faults.invalid(path, name, why);
    };
    if domain.len() > 253 {
        faults.too_long(path, 253);
    }
    let wrong = |labels: &str, judge: fn(&str) -> Vec<String>| {
        let label = labels.split('.').find(|label| !judge(label).is_empty());
        let messages = label.map(|label| {
            judge(label).into_iter().map(|why| format!("validating label {label:?}: {why}")).collect::<Vec<_>>()
        });
        messages.unwrap_or_default()
    };
    each_invalid(faults, path, domain, wrong(domain, names::dns_label));
    if !domain.contains('.') {
        faults.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    each_invalid(faults, path, rest, wrong(rest, names::dns_subdomain));
    if name.len() > SIGNER_NAME_BYTES_MAX {
        faults.too_long(path, SIGNER_NAME_BYTES_MAX);
    }
}

fn validate_conditions(
    new: &CertificateSigningRequest,
    old: Option<&CertificateSigningRequest>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let both = |request: &CertificateSigningRequest| {
        of_kind(request, APPROVED).next().is_some() && of_kind(request, DENIED).next().is_some()
    };
    let tolerated = old.is_some_and(both);
    let all = conditions(new);
    for (index, condition) in all.iter().enumerate() {
        let path = path.index(index);
        let kind = condition.type_.as_str();
        if kind.is_empty() {
            faults.required(&path.child("type"), "");
        }
        let allowed: &[&str] =
            if [APPROVED, DENIED, FAILED].contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        if condition.status.is_empty() {
            faults.required(&path.child("status"), "");
        } else if !allowed.contains(&condition.status.as_str()) {
            not_supported_in_order(faults, &path.child("status"), &condition.status, allowed);
        }
        let before = |other: &str| all[..index].iter().any(|before| before.type_ == other);
        let contradicts = (kind == APPROVED && before(DENIED)) || (kind == DENIED && before(APPROVED));
        if contradicts && !tolerated {
            faults.invalid(&path.child("type"), kind, "Approved and Denied conditions are mutually exclusive");
        }
        if before(kind) {
            faults.duplicate(&path.child("type"), kind);
        }
    }
}

fn validate_update(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    writer: Writer,
    status: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let path = status.child("conditions");
    let list = |request: &CertificateSigningRequest, kind: &str| of_kind(request, kind).cloned().collect::<Vec<_>>();
    for kind in [APPROVED, DENIED, FAILED] {
        if list(new, kind).len() < list(old, kind).len() {
            faults.forbidden(&path, format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    let others = [APPROVED, DENIED].into_iter().filter(|_| writer != Writer::Approval);
    for kind in others {
        let (before, after) = (list(old, kind), list(new, kind));
        if after.len() > before.len() {
            faults.forbidden(&path, format!("updates may not add a condition of type {kind:?}"));
        } else if after.len() == before.len() && after != before {
            faults.forbidden(&path, format!("updates may not modify a condition of type {kind:?}"));
        }
    }
    if certificate(new) != certificate(old) {
        let path = status.child("certificate");
        if writer != Writer::Status {
            faults.forbidden(&path, "updates may not set certificate content");
        } else if !certificate(old).is_empty() {
            faults.forbidden(&path, "updates may not modify existing certificate content");
        }
    }
}

/// Whether the text holds PEM blocks of certificates and of nothing else.
fn blocks(text: &[u8]) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(text);
    let mut found = false;
    for line in text.lines().map(str::trim_end) {
        let kind = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        match kind {
            Some("CERTIFICATE") => found = true,
            Some(other) => return Err(format!("only CERTIFICATE PEM blocks are allowed, found {other:?}")),
            None if line.contains(':') && found => return Err("no PEM block headers are permitted".into()),
            None => {}
        }
    }
    if found { Ok(()) } else { Err("must contain at least one CERTIFICATE PEM block".into()) }
}
