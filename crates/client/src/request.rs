//! What is asked of an API server, and how it is written as HTTP.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use http::Method;
use serde::Serialize;

/// What a request is about. Empty group means core; no namespace means cluster-scoped, or all namespaces in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    /// The plural, such as `pods`.
    pub resource: Cow<'static, str>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<Cow<'static, str>>,
}

impl Target {
    /// All objects of a resource.
    pub fn new(
        group: impl Into<Cow<'static, str>>,
        version: impl Into<Cow<'static, str>>,
        resource: impl Into<Cow<'static, str>>,
    ) -> Target {
        Target { group: group.into(), version: version.into(), resource: resource.into(), ..Target::default() }
    }

    /// All objects of a typed kind.
    pub fn of<T: k8s_openapi::Resource>() -> Target {
        Target::new(T::GROUP, T::VERSION, T::URL_PATH_SEGMENT)
    }

    /// In this namespace; the empty one means none.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Target {
        self.namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
        self
    }

    /// The object of this name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Target {
        self.name = Some(name.to_owned());
        self
    }

    /// The object at this key.
    #[must_use]
    pub fn at(self, key: &crate::Key) -> Target {
        self.namespace(key.namespace()).name(key.name())
    }

    /// A subresource of the object.
    #[must_use]
    pub fn subresource(mut self, subresource: impl Into<Cow<'static, str>>) -> Target {
        self.subresource = Some(subresource.into());
        self
    }

    /// The URL path, each segment percent-encoded.
    pub fn path(&self) -> String {
        let mut path = if self.group.is_empty() { "/api".to_owned() } else { "/apis".to_owned() };
        let namespace = self.namespace.as_deref().map(|namespace| ["namespaces", namespace]);
        let segments = [Some(&*self.group).filter(|group| !group.is_empty()), Some(&*self.version)]
            .into_iter()
            .flatten()
            .chain(namespace.into_iter().flatten())
            .chain([&*self.resource])
            .chain(self.name.as_deref())
            // `pods/NAME/proxy/…`: a subresource may hold slashes of its own.
            .chain(self.subresource.as_deref().into_iter().flat_map(|subresource| subresource.split('/')));
        for segment in segments {
            path.push('/');
            percent_encode(segment, &mut path);
        }
        path
    }
}

/// Options of a single read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    pub resource_version: Option<String>,
}

/// Options of a pod's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub container: Option<String>,
    /// Of the run before the present one.
    pub previous: bool,
    pub tail_lines: Option<u32>,
    pub limit_bytes: Option<u32>,
}

/// Options of a list and what a `deletecollection` selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub resource_version: Option<String>,
    /// `Exact` or `NotOlderThan`.
    pub resource_version_match: Option<&'static str>,
    pub limit: Option<u32>,
    pub continue_token: Option<String>,
}

/// Options of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// Events after this revision; `None` starts with the present objects as additions.
    pub resource_version: Option<String>,
    pub resource_version_match: Option<&'static str>,
    pub allow_bookmarks: bool,
    pub send_initial_events: bool,
    pub timeout_seconds: Option<u32>,
}

/// Options of creates, replacements and patches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub field_manager: Option<Cow<'static, str>>,
    pub dry_run: bool,
    /// Of an apply: take fields away from their managers.
    pub force: bool,
    /// `Strict`, `Warn` or `Ignore`.
    pub field_validation: Option<&'static str>,
}

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// What must be true of an object to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// Options of a deletion, sent as its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub preconditions: Option<Preconditions>,
    pub propagation: Option<Propagation>,
    pub grace_period_seconds: Option<i64>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Deletes only the object of this uid.
    pub fn of_uid(uid: &str) -> DeleteOptions {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() }
    }

    fn json(&self) -> Bytes {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            kind: &'static str,
            api_version: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            grace_period_seconds: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            preconditions: Option<&'a Preconditions>,
            #[serde(skip_serializing_if = "Option::is_none")]
            propagation_policy: Option<Propagation>,
            #[serde(skip_serializing_if = "Option::is_none")]
            dry_run: Option<[&'static str; 1]>,
        }
        let wire = Wire {
            kind: "DeleteOptions",
            api_version: "v1",
            grace_period_seconds: self.grace_period_seconds,
            preconditions: self.preconditions.as_ref(),
            propagation_policy: self.propagation,
            dry_run: self.dry_run.then_some(["All"]),
        };
        serde_json::to_vec(&wire).expect("a struct of texts and numbers is JSON").into()
    }
}

/// How the body of a patch is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    Strategic,
    /// Server-side apply; the body is JSON, which is YAML.
    Apply,
}

impl PatchKind {
    /// The content type of such a patch.
    pub const fn content_type(self) -> &'static str {
        match self {
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
            PatchKind::Apply => "application/apply-patch+yaml",
        }
    }
}

/// The content type of JSON.
pub const JSON: &str = "application/json";
/// The content type of Kubernetes' enveloped protobuf.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What is sent with a create or replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub content_type: &'static str,
    pub bytes: Bytes,
}

impl Body {
    /// A JSON body.
    pub fn json(bytes: impl Into<Bytes>) -> Body {
        Body { content_type: JSON, bytes: bytes.into() }
    }
}

/// What to do with the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Get(GetOptions),
    /// The text at a pod's subresource `log`.
    Log(LogOptions),
    List(ListOptions),
    Watch(WatchOptions),
    Create(Body, WriteOptions),
    Replace(Body, WriteOptions),
    Patch(PatchKind, Bytes, WriteOptions),
    Delete(DeleteOptions),
    DeleteCollection(DeleteOptions, ListOptions),
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub target: Target,
    pub action: Action,
}

impl Request {
    /// A request.
    pub const fn new(target: Target, action: Action) -> Request {
        Request { target, action }
    }

    /// The verb as authorization knows it.
    pub const fn verb(&self) -> &'static str {
        match self.action {
            Action::Get(_) | Action::Log(_) => "get",
            Action::List(_) => "list",
            Action::Watch(_) => "watch",
            Action::Create(..) => "create",
            Action::Replace(..) => "update",
            Action::Patch(..) => "patch",
            Action::Delete(_) => "delete",
            Action::DeleteCollection(..) => "deletecollection",
        }
    }

    /// The HTTP method.
    pub const fn method(&self) -> Method {
        match self.action {
            Action::Get(_) | Action::Log(_) | Action::List(_) | Action::Watch(_) => Method::GET,
            Action::Create(..) => Method::POST,
            Action::Replace(..) => Method::PUT,
            Action::Patch(..) => Method::PATCH,
            Action::Delete(_) | Action::DeleteCollection(..) => Method::DELETE,
        }
    }

    /// Whether the request can change something, so that a lost answer leaves its outcome unknown.
    pub const fn is_write(&self) -> bool {
        !matches!(self.action, Action::Get(_) | Action::Log(_) | Action::List(_) | Action::Watch(_))
    }

    /// Content type and bytes of the body.
    pub fn body(&self) -> Option<(&'static str, Bytes)> {
        match &self.action {
            Action::Get(_) | Action::Log(_) | Action::List(_) | Action::Watch(_) => None,
            Action::Create(body, _) | Action::Replace(body, _) => Some((body.content_type, body.bytes.clone())),
            Action::Patch(kind, bytes, _) => Some((kind.content_type(), bytes.clone())),
            Action::Delete(options) | Action::DeleteCollection(options, _) => Some((JSON, options.json())),
        }
    }

    /// The parameters, in a fixed order.
    pub fn parameters(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let mut out = Vec::new();
        match &self.action {
            Action::Get(options) => push(&mut out, "resourceVersion", options.resource_version.as_deref()),
            Action::Log(options) => log_parameters(options, &mut out),
            Action::List(options) | Action::DeleteCollection(_, options) => list_parameters(options, &mut out),
            Action::Watch(options) => watch_parameters(options, &mut out),
            Action::Create(_, options) | Action::Replace(_, options) => write_parameters(options, false, &mut out),
            Action::Patch(kind, _, options) => write_parameters(options, *kind == PatchKind::Apply, &mut out),
            Action::Delete(_) => {}
        }
        out
    }

    /// The query string without `?`, percent-encoded; empty when there are no parameters.
    pub fn query(&self) -> String {
        let mut query = String::new();
        for (name, value) in self.parameters() {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(name);
            query.push('=');
            percent_encode(&value, &mut query);
        }
        query
    }

    /// Path and query, as in the first line of an HTTP request.
    pub fn uri(&self) -> String {
        let mut uri = self.target.path();
        let query = self.query();
        if !query.is_empty() {
            uri.push('?');
            uri.push_str(&query);
        }
        uri
    }
}

type Parameters<'a> = Vec<(&'static str, Cow<'a, str>)>;

fn push<'a>(out: &mut Parameters<'a>, name: &'static str, value: Option<&'a str>) {
    out.extend(value.map(|value| (name, Cow::Borrowed(value))));
}

fn push_flag(out: &mut Parameters<'_>, name: &'static str, value: bool) {
    if value {
        out.push((name, Cow::Borrowed("true")));
    }
}

fn push_number(out: &mut Parameters<'_>, name: &'static str, value: Option<u32>) {
    out.extend(value.map(|value| (name, Cow::Owned(value.to_string()))));
}

fn log_parameters<'a>(options: &'a LogOptions, out: &mut Parameters<'a>) {
    push(out, "container", options.container.as_deref());
    push_flag(out, "previous", options.previous);
    push_number(out, "tailLines", options.tail_lines);
    push_number(out, "limitBytes", options.limit_bytes);
}

fn list_parameters<'a>(options: &'a ListOptions, out: &mut Parameters<'a>) {
    push(out, "labelSelector", options.label_selector.as_deref());
    push(out, "fieldSelector", options.field_selector.as_deref());
    push(out, "resourceVersion", options.resource_version.as_deref());
    push(out, "resourceVersionMatch", options.resource_version_match);
    push_number(out, "limit", options.limit);
    push(out, "continue", options.continue_token.as_deref());
}

fn watch_parameters<'a>(options: &'a WatchOptions, out: &mut Parameters<'a>) {
    push_flag(out, "watch", true);
    push(out, "labelSelector", options.label_selector.as_deref());
    push(out, "fieldSelector", options.field_selector.as_deref());
    push(out, "resourceVersion", options.resource_version.as_deref());
    push(out, "resourceVersionMatch", options.resource_version_match);
    push_flag(out, "allowWatchBookmarks", options.allow_bookmarks);
    push_flag(out, "sendInitialEvents", options.send_initial_events);
    push_number(out, "timeoutSeconds", options.timeout_seconds);
}

fn write_parameters<'a>(options: &'a WriteOptions, apply: bool, out: &mut Parameters<'a>) {
    push(out, "fieldManager", options.field_manager.as_deref());
    push(out, "dryRun", options.dry_run.then_some("All"));
    push(out, "fieldValidation", options.field_validation);
    if apply {
        push_flag(out, "force", options.force);
    }
}

/// Appends `text` with every byte encoded that is not unreserved in a URL.
fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: Request, expected: &str) {
        assert_eq!(format!("{} {}", request.method(), request.uri()), expected);
    }

    #[test]
    fn writes_requests_as_http() {
        let pods = || Target::new("", "v1", "pods");
        let list = ListOptions { label_selector: Some("a=b,c".into()), limit: Some(500), ..ListOptions::default() };
        check(Request::new(pods(), Action::List(list)), "GET /api/v1/pods?labelSelector=a%3Db%2Cc&limit=500");
        let get = Action::Get(GetOptions::default());
        check(Request::new(pods().namespace("n").name("x"), get), "GET /api/v1/namespaces/n/pods/x");
        let watch =
            WatchOptions { resource_version: Some("7".into()), allow_bookmarks: true, ..WatchOptions::default() };
        check(
            Request::new(Target::new("apps", "v1", "deployments").namespace("n"), Action::Watch(watch)),
            "GET /apis/apps/v1/namespaces/n/deployments?watch=true&resourceVersion=7&allowWatchBookmarks=true",
        );
        let write =
            WriteOptions { field_manager: Some("me".into()), dry_run: true, force: true, ..WriteOptions::default() };
        check(
            Request::new(
                pods().namespace("n").name("x").subresource("status"),
                Action::Patch(PatchKind::Merge, Bytes::new(), write.clone()),
            ),
            "PATCH /api/v1/namespaces/n/pods/x/status?fieldManager=me&dryRun=All",
        );
        check(
            Request::new(pods().namespace("n").name("x"), Action::Patch(PatchKind::Apply, Bytes::new(), write)),
            "PATCH /api/v1/namespaces/n/pods/x?fieldManager=me&dryRun=All&force=true",
        );
        let roles = Target::new("rbac.authorization.k8s.io", "v1", "clusterroles").name("system:a/b");
        check(
            Request::new(roles, Action::Delete(DeleteOptions::default())),
            "DELETE /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Aa%2Fb",
        );
    }

    #[test]
    fn sends_delete_options_as_a_body() {
        let options = DeleteOptions {
            propagation: Some(Propagation::Background),
            grace_period_seconds: Some(0),
            ..DeleteOptions::of_uid("u")
        };
        let expected = r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,"preconditions":{"uid":"u"},"propagationPolicy":"Background"}"#;
        assert_eq!(options.json(), expected.as_bytes());
    }
}
