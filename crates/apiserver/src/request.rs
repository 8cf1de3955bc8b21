//! What a request is about: its path and method read as upstream's `RequestInfo`.

use api::selector::FieldSelector;
use http::Method;

/// What a request asks for, as authorization, admission and dispatch see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// The path as sent, percent-decoded.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths that name no
    /// resource the method in lower case.
    pub verb: String,
    /// Whether the path names a resource.
    pub is_resource: bool,
    pub group: String,
    pub version: String,
    /// Empty for cluster-scoped resources and for requests across all namespaces.
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource, such as the path behind `…/proxy/`.
    pub rest: Vec<String>,
    /// The field selector of a list or watch, as sent.
    pub field_selector: String,
}

/// Subresources of a namespace; any other word behind `namespaces/NAME/` is a resource inside that namespace.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method, path and query. Upstream: `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`.
    pub(crate) fn new(method: &Method, raw_path: &str, query: &Query) -> RequestInfo {
        let path = percent_decoded(raw_path, false);
        let info = RequestInfo { verb: method.as_str().to_ascii_lowercase(), path, ..RequestInfo::default() };
        let segments: Vec<String> =
            raw_path.trim_matches('/').split('/').map(|segment| percent_decoded(segment, false)).collect();
        let (group, version, rest) = match segments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["api", version, _, ..] => (String::new(), (*version).to_owned(), 2),
            ["apis", group, version, _, ..] => ((*group).to_owned(), (*version).to_owned(), 3),
            _ => return info,
        };
        RequestInfo { is_resource: true, group, version, ..info }.with_resource(method, &segments[rest..], query)
    }

    fn with_resource(mut self, method: &Method, segments: &[String], query: &Query) -> RequestInfo {
        let (watch_prefix, segments) = match segments {
            [first, rest @ ..] if first == "watch" && !rest.is_empty() => (true, rest),
            _ => (false, segments),
        };
        self.verb = verb_of(method).to_owned();
        let segments = self.within_namespace(segments);
        let mut segments = segments.iter().cloned();
        self.resource = segments.next().unwrap_or_default();
        self.name = segments.next().unwrap_or_default();
        self.subresource = segments.next().unwrap_or_default();
        self.rest = segments.collect();
        if self.name.is_empty() && self.verb == "get" {
            let watch = query.flag("watch");
            self.verb = if watch { "watch" } else { "list" }.to_owned();
            self.name = name_selected(query).unwrap_or_default();
            self.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
        } else if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
        if watch_prefix {
            // Whatever the method: so is it authorized, and only reading is served.
            self.verb = "watch".to_owned();
        }
        self
    }

    fn within_namespace<'s>(&mut self, segments: &'s [String]) -> &'s [String] {
        match segments {
            [first, namespace, rest @ ..] if first == "namespaces" => {
                self.namespace.clone_from(namespace);
                match rest.first() {
                    Some(next) if !NAMESPACE_SUBRESOURCES.contains(&next.as_str()) => rest,
                    _ => segments,
                }
            }
            _ => segments,
        }
    }

    /// Whether the verb changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The name that a field selector of a list or watch pins down, so that RBAC rules with `resourceNames` apply.
fn name_selected(query: &Query) -> Option<String> {
    // By the parser that selects the objects: whoever splits otherwise authorizes one name and shows others.
    let selector = FieldSelector::parse(query.get("fieldSelector")?).ok()?;
    let name = selector.exact("metadata.name")?.to_owned();
    let usable = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']);
    usable.then_some(name)
}

/// A query string's parameters in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

/// More parameters than any client sends; the rest is ignored.
const PARAMETERS_MAX: usize = 1000;

impl Query {
    /// Splits and decodes a query string.
    pub fn parse(query: &str) -> Query {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (percent_decoded(key, true), percent_decoded(value, true))
        };
        Query(query.split('&').filter(|part| !part.is_empty()).take(PARAMETERS_MAX).map(pair).collect())
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter, unless it is empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub fn all<'q>(&'q self, key: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A boolean as upstream's query conversion reads one: absent, `0` and `false` in any case are false.
    pub fn flag(&self, key: &str) -> bool {
        match self.get(key) {
            None | Some("0") => false,
            Some(value) => !value.eq_ignore_ascii_case("false"),
        }
    }

    /// A boolean that may be left out.
    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|_| self.flag(key))
    }
}

/// Undoes percent-encoding; `plus` says whether `+` stands for a space. What is no valid escape stays as it is.
pub(crate) fn percent_decoded(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escape = (bytes[index] == b'%').then(|| bytes.get(index + 1..index + 3)).flatten().and_then(hex_byte);
        match (bytes[index], escape) {
            (_, Some(byte)) => {
                decoded.push(byte);
                index += 2;
            }
            (b'+', None) if plus => decoded.push(b' '),
            (byte, None) => decoded.push(byte),
        }
        index += 1;
    }
    String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, target: &str, expected: &str) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let info = RequestInfo::new(&method, path, &Query::parse(query));
        let subresource = if info.subresource.is_empty() { String::new() } else { format!("/{}", info.subresource) };
        let full = format!("{}{subresource}", info.resource);
        let shown = if info.is_resource {
            format!(
                "{} {} {} ns={} name={} rest={}",
                info.verb,
                crate::catalog::group_version(&info.group, &info.version),
                full,
                info.namespace,
                info.name,
                info.rest.join("/")
            )
        } else {
            format!("{} {}", info.verb, info.path)
        };
        assert_eq!(shown, expected, "{target}");
    }

    #[test]
    fn reads_paths_as_upstream() {
        check(Method::GET, "/api/v1/pods", "list v1 pods ns= name= rest=");
        check(Method::GET, "/api/v1/pods?watch=1", "watch v1 pods ns= name= rest=");
        check(Method::GET, "/api/v1/watch/pods", "watch v1 pods ns= name= rest=");
        check(Method::POST, "/api/v1/watch/namespaces/a/pods", "watch v1 pods ns=a name= rest=");
        check(Method::DELETE, "/api/v1/watch/namespaces/a/pods/x", "watch v1 pods ns=a name=x rest=");
        check(Method::GET, "/api/v1/pods?watch=false", "list v1 pods ns= name= rest=");
        check(Method::GET, "/api/v1/namespaces/a/pods/b/log", "get v1 pods/log ns=a name=b rest=");
        check(Method::GET, "/api/v1/namespaces/a", "get v1 namespaces ns=a name=a rest=");
        check(Method::PUT, "/api/v1/namespaces/a/finalize", "update v1 namespaces/finalize ns=a name=a rest=");
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            "deletecollection apps/v1 deployments ns=a name= rest=",
        );
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments/x",
            "delete apps/v1 deployments ns=a name=x rest=",
        );
        check(Method::POST, "/api/v1/namespaces/a/pods/b/exec?command=ls", "create v1 pods/exec ns=a name=b rest=");
        check(Method::GET, "/api/v1/namespaces/a/services/b/proxy/c/d", "get v1 services/proxy ns=a name=b rest=c/d");
        check(
            Method::GET,
            "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db",
            "list v1 pods ns=a name=b rest=",
        );
        check(Method::GET, "/api/v1", "get /api/v1");
        check(Method::GET, "/apis/apps/v1", "get /apis/apps/v1");
        check(Method::HEAD, "/healthz", "head /healthz");
    }

    #[test]
    fn decodes_queries() {
        let query = Query::parse("command=a+b&command=%26c&empty=&labelSelector=a%20in%20(b)");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["a b", "&c"]);
        assert_eq!(query.get("labelSelector"), Some("a in (b)"));
        assert_eq!((query.get("empty"), query.text("empty")), (Some(""), None));
        assert_eq!(percent_decoded("100%", true), "100%");
    }
}
