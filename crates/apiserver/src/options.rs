//! What a request's parameters say: options of reads, watches, writes and deletions, checked as upstream checks them.

use api::field::{FieldErrors, Path};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions as WireDeleteOptions;

use crate::refusal::{Outcome, Refusal};
use crate::request::Query;

/// How exactly a list's revision is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionMatch {
    Exact,
    NotOlderThan,
}

/// Options of `get`, `list` and `watch`.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// None when not given; 0 is "whatever is at hand".
    pub revision: Option<u64>,
    pub revision_match: Option<RevisionMatch>,
    pub limit: usize,
    pub continue_token: String,
    pub timeout_seconds: Option<u64>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

impl ReadOptions {
    /// Reads the parameters of a list (or of what a `deletecollection` selects).
    pub fn of_list(query: &Query) -> Outcome<ReadOptions> {
        let options = Self::read(query)?;
        let mut faults = FieldErrors::default();
        let path = Path::new("resourceVersionMatch");
        match query.text("resourceVersionMatch") {
            None => {}
            Some(matching) => {
                if query.text("resourceVersion").is_none() {
                    faults.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
                }
                if !options.continue_token.is_empty() {
                    faults.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
                }
                if options.revision_match.is_none() {
                    faults.not_supported(&path, matching, &["Exact", "NotOlderThan", ""]);
                }
                if options.revision_match == Some(RevisionMatch::Exact) && options.revision == Some(0) {
                    faults.forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
                }
            }
        }
        if options.send_initial_events.is_some() {
            faults.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
        options.unless(faults)
    }

    /// Reads the parameters of a watch.
    pub fn of_watch(query: &Query) -> Outcome<ReadOptions> {
        let options = Self::read(query)?;
        let mut faults = FieldErrors::default();
        let path = Path::new("resourceVersionMatch");
        let matching = query.text("resourceVersionMatch");
        if options.send_initial_events.is_some() && options.revision_match != Some(RevisionMatch::NotOlderThan) {
            faults.forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if let Some(matching) = matching {
            if options.send_initial_events.is_none() {
                faults.forbidden(
                    &path,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            if options.revision_match != Some(RevisionMatch::NotOlderThan) {
                faults.not_supported(&path, matching, &["NotOlderThan"]);
            }
            if !options.continue_token.is_empty() {
                faults.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
        }
        options.unless(faults)
    }

    /// Reads the parameters of a `get`.
    pub fn of_get(query: &Query) -> Outcome<ReadOptions> {
        Ok(ReadOptions { revision: revision(query)?, ..ReadOptions::default() })
    }

    fn unless(self, faults: FieldErrors) -> Outcome<ReadOptions> {
        faults.into_status("meta.k8s.io", "ListOptions", "").map_or(Ok(self), |status| Err(status.into()))
    }

    fn read(query: &Query) -> Outcome<ReadOptions> {
        let text = |key: &str| query.get(key).unwrap_or_default().to_owned();
        Ok(ReadOptions {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            revision: revision(query)?,
            revision_match: match query.get("resourceVersionMatch") {
                Some("Exact") => Some(RevisionMatch::Exact),
                Some("NotOlderThan") => Some(RevisionMatch::NotOlderThan),
                _ => None,
            },
            limit: usize::try_from(integer(query, "limit")?.unwrap_or(0)).unwrap_or(0),
            continue_token: text("continue"),
            timeout_seconds: integer(query, "timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok()),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
        })
    }
}

fn integer(query: &Query, key: &str) -> Outcome<Option<i64>> {
    let Some(text) = query.text(key) else { return Ok(None) };
    // Go's words, because upstream passes them on.
    let invalid = |_| Refusal::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
    text.parse().map(Some).map_err(invalid)
}

fn revision(query: &Query) -> Outcome<Option<u64>> {
    query.text("resourceVersion").map(parse_revision).transpose()
}

/// A resourceVersion as a number. Upstream answers an unreadable one of a read with a `Status` that has no reason.
pub(crate) fn parse_revision(text: &str) -> Outcome<u64> {
    text.parse().map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        Refusal::unknown(format!("resourceVersion: Invalid value: {text:?}: {why}"))
    })
}

/// What becomes of unknown and repeated fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of `create`, `update` and `patch`.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub field_validation: FieldValidation,
}

/// Upstream's limit of a manager's name.
const MANAGER_CHARS_MAX: usize = 128;

impl WriteOptions {
    /// Reads the parameters of a write; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub(crate) fn read(query: &Query, kind: &str) -> Outcome<WriteOptions> {
        let mut faults = FieldErrors::default();
        let validation = query.get("fieldValidation").unwrap_or_default();
        let field_validation = match validation {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                faults.not_supported(&Path::new("fieldValidation"), other, &["", "Ignore", "Strict", "Warn"]);
                FieldValidation::Warn
            }
        };
        manager_faults(query.get("fieldManager").unwrap_or_default(), &mut faults);
        let dry_run = dry_run(query.all("dryRun").filter(|value| !value.is_empty()), &mut faults);
        let options = WriteOptions { dry_run, field_validation };
        faults.into_status("meta.k8s.io", kind, "").map_or(Ok(options), |status| Err(status.into()))
    }
}

fn manager_faults(manager: &str, faults: &mut FieldErrors) {
    let path = Path::new("fieldManager");
    if manager.chars().count() > MANAGER_CHARS_MAX {
        faults.too_long(&path, MANAGER_CHARS_MAX);
    }
    for (index, character) in manager.chars().enumerate() {
        if character.is_control() {
            faults.invalid(&path, manager, format!("invalid character {character:?} (at position {index})"));
        }
    }
}

fn dry_run<'v>(values: impl Iterator<Item = &'v str>, faults: &mut FieldErrors) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        faults.not_supported(&Path::new("dryRun"), &values, &["All"]);
    }
    !values.is_empty()
}

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// Options of `delete` and `deletecollection`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub grace_seconds: Option<i64>,
    pub uid: Option<String>,
    pub revision: Option<String>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads the parameters of a deletion that has no body.
    pub(crate) fn of_query(query: &Query) -> Outcome<DeleteOptions> {
        let wire = WireDeleteOptions {
            grace_period_seconds: integer(query, "gracePeriodSeconds")?,
            propagation_policy: query.text("propagationPolicy").map(str::to_owned),
            orphan_dependents: query.optional_flag("orphanDependents"),
            dry_run: Some(query.all("dryRun").filter(|value| !value.is_empty()).map(str::to_owned).collect()),
            ..WireDeleteOptions::default()
        };
        Self::of_wire(wire)
    }

    /// Checks the options that came as a body.
    pub(crate) fn of_wire(wire: WireDeleteOptions) -> Outcome<DeleteOptions> {
        let mut faults = FieldErrors::default();
        let path = Path::new("propagationPolicy");
        let propagation = match (wire.propagation_policy.as_deref(), wire.orphan_dependents) {
            (Some(policy), Some(_)) => {
                faults.invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set");
                None
            }
            (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some(other), None) => {
                faults.not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
            (None, None) => None,
        };
        let dry_run = dry_run(wire.dry_run.iter().flatten().map(String::as_str), &mut faults);
        let preconditions = wire.preconditions.unwrap_or_default();
        let options = DeleteOptions {
            grace_seconds: wire.grace_period_seconds,
            uid: preconditions.uid.filter(|uid| !uid.is_empty()),
            revision: preconditions.resource_version,
            propagation,
            dry_run,
        };
        faults.into_status("meta.k8s.io", "DeleteOptions", "").map_or(Ok(options), |status| Err(status.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(outcome: Outcome<T>, expected: &str) {
        let text = outcome.map_or_else(|refusal| format!("{} {}", refusal.code(), refusal.0.message), |_| "ok".into());
        assert_eq!(text, expected);
    }

    #[test]
    fn refuses_contradictory_reads_as_upstream() {
        let list = |query: &str| ReadOptions::of_list(&Query::parse(query));
        check(list("resourceVersion=0"), "ok");
        check(
            list("resourceVersionMatch=Exact"),
            "422 ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        );
        check(
            list("resourceVersion=x"),
            "500 resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
        );
        check(list("limit=x"), "400 strconv.ParseInt: parsing \"x\": invalid syntax");
        let watch = |query: &str| ReadOptions::of_watch(&Query::parse(query));
        check(watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan"), "ok");
        check(
            watch("sendInitialEvents=true"),
            "422 ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }

    #[test]
    fn refuses_unknown_policies() {
        let write = |query: &str| WriteOptions::read(&Query::parse(query), "CreateOptions");
        check(write("dryRun=All&fieldValidation=Strict"), "ok");
        check(
            write("fieldValidation=Maybe"),
            "422 CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Maybe\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        );
        check(DeleteOptions::of_query(&Query::parse("propagationPolicy=Foreground")), "ok");
        check(
            DeleteOptions::of_query(&Query::parse("propagationPolicy=Later")),
            "422 DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Later\": supported values: \"Background\", \"Foreground\", \"Orphan\", \"nil\"",
        );
    }
}
