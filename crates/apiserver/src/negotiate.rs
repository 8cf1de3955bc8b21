//! Which form of answer the client wants, and which form its body has.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};

use crate::refusal::{Outcome, Refusal};
use crate::request::Query;
use api::status::Status;

/// How bytes say what an object is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

pub(crate) const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const SERVED: [&str; 3] = [JSON, YAML, PROTOBUF];

impl Encoding {
    /// The media type of a whole answer.
    pub const fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => JSON,
            Encoding::Yaml => YAML,
            Encoding::Protobuf => PROTOBUF,
        }
    }

    /// The media type of a stream of watch events.
    pub const fn stream_media_type(self) -> &'static str {
        match self {
            Encoding::Json => JSON,
            Encoding::Yaml => "application/yaml;stream=watch",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    fn find(media_type: &str, subtype: &str) -> Option<Encoding> {
        let matches = |served: &str| {
            let (main, sub) = served.split_once('/').unwrap_or_default();
            (media_type == "*" || media_type == main) && (subtype == "*" || subtype == sub)
        };
        [Encoding::Json, Encoding::Yaml, Encoding::Protobuf].into_iter().find(|encoding| matches(encoding.media_type()))
    }
}

/// What is shown of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// All of it.
    #[default]
    Object,
    /// `meta.k8s.io/VERSION Table`
    Table { version: MetaVersion },
    /// `PartialObjectMetadata` or its list.
    Metadata { version: MetaVersion },
}

/// A version of group `meta.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    /// `meta.k8s.io/VERSION`
    pub const fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    pub encoding: Encoding,
    pub shape: Shape,
    /// Indented JSON, for people.
    pub pretty: bool,
    pub gzip: bool,
}

/// Whether the answer is one object, a list, or a stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    List,
    Stream,
    /// Only its own form: discovery, reviews, statuses.
    Plain,
}

/// One clause of an `Accept` header.
struct Clause<'a> {
    main: &'a str,
    sub: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

/// More clauses than any client sends; the rest is ignored.
const CLAUSES_MAX: usize = 32;

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = header.split(',').take(CLAUSES_MAX).filter_map(clause).collect();
    clauses.sort_by(|left, right| right.quality.total_cmp(&left.quality));
    clauses
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media_type = parts.next()?;
    let (main, sub) = match media_type {
        "*" => ("*", "*"),
        _ => media_type.split_once('/')?,
    };
    let mut quality = 1.0;
    let mut parameters = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "q" => quality = value.parse().unwrap_or(1.0),
            _ => parameters.push((key, value)),
        }
    }
    Some(Clause { main, sub, quality, parameters })
}

impl Clause<'_> {
    fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    /// The shape asked for, or `None` when this answer cannot have it.
    fn shape(&self, kind: Kind) -> Option<Shape> {
        let Some(shape) = self.parameter("as") else { return Some(Shape::Object) };
        if self.parameter("g") != Some("meta.k8s.io") {
            return None;
        }
        let version = match self.parameter("v") {
            Some("v1") => MetaVersion::V1,
            Some("v1beta1") => MetaVersion::V1Beta1,
            _ => return None,
        };
        match (shape, kind) {
            ("Table", Kind::Object | Kind::List | Kind::Stream) => Some(Shape::Table { version }),
            ("PartialObjectMetadata", Kind::Object | Kind::Stream) => Some(Shape::Metadata { version }),
            ("PartialObjectMetadataList", Kind::List) => Some(Shape::Metadata { version }),
            _ => None,
        }
    }
}

/// Finds the form of the answer, or refuses with 406. Upstream: `endpoints/handlers/negotiation`.
pub(crate) fn form(headers: &HeaderMap, query: &Query, kind: Kind) -> Outcome<Form> {
    let pretty = query.optional_flag("pretty").unwrap_or_else(|| is_person(headers));
    let gzip = text(headers, ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|part| part == "q=0")
    });
    let accept = text(headers, ACCEPT);
    if accept.is_empty() {
        return Ok(Form { pretty, gzip, ..Form::default() });
    }
    for clause in clauses(accept) {
        let Some(encoding) = Encoding::find(clause.main, clause.sub) else { continue };
        let Some(shape) = clause.shape(kind) else { continue };
        // Tables have no protobuf form, and YAML cannot be streamed.
        let possible = !matches!(
            (encoding, shape, kind),
            (Encoding::Protobuf, Shape::Table { .. }, _) | (Encoding::Yaml, _, Kind::Stream)
        );
        if possible {
            return Ok(Form { encoding, shape, pretty: pretty && encoding == Encoding::Json, gzip });
        }
    }
    let served: &[&str] =
        if kind == Kind::Stream { &[JSON, "application/vnd.kubernetes.protobuf;stream=watch"] } else { &SERVED };
    Err(Refusal::not_acceptable(served))
}

/// The first of some media types that `Accept` asks for, by what it likes best.
pub(crate) fn media_type<'a>(headers: &HeaderMap, served: &[&'a str]) -> Option<&'a str> {
    let accept = text(headers, ACCEPT);
    let wants = |clause: &Clause<'_>, (main, sub): (&str, &str)| {
        (clause.main == "*" || clause.main == main) && (clause.sub == "*" || clause.sub == sub)
    };
    let find = |clause: Clause<'_>| {
        served.iter().copied().find(|media_type| wants(&clause, media_type.split_once('/').unwrap_or_default()))
    };
    if accept.is_empty() { served.first().copied() } else { clauses(accept).into_iter().find_map(find) }
}

/// Whether a person reads the answer, as upstream guesses it.
fn is_person(headers: &HeaderMap) -> bool {
    let agent = text(headers, USER_AGENT);
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The body's media type without parameters; JSON when none is named.
pub(crate) fn body_media_type(headers: &HeaderMap) -> &str {
    let media_type = text(headers, CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if media_type.is_empty() { JSON } else { media_type }
}

/// The encoding of an object in a request's body, or 415.
pub(crate) fn body_encoding(headers: &HeaderMap) -> Outcome<Encoding> {
    let media_type = body_media_type(headers);
    let found = media_type.split_once('/').and_then(|(main, sub)| {
        let exact = main != "*" && sub != "*";
        exact.then(|| Encoding::find(main, sub)).flatten()
    });
    found.ok_or_else(|| unsupported_body(&SERVED))
}

/// 415 that names what is supported.
pub(crate) fn unsupported_body(supported: &[&str]) -> Refusal {
    let list = supported.join(", ");
    let message = format!("the body of the request was in an unknown format - accepted media types include: {list}");
    Status::unsupported_media_type(&message).into()
}

/// Whether the clauses of `Accept` prefer aggregated discovery, and in which version of it.
pub(crate) fn wants_aggregated_discovery(headers: &HeaderMap) -> Option<&'static str> {
    for clause in clauses(text(headers, ACCEPT)) {
        if clause.main != "application" || clause.sub != "json" {
            continue;
        }
        match (clause.parameter("as"), clause.parameter("g"), clause.parameter("v")) {
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => return Some("v2"),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => return Some("v2beta1"),
            (None, _, _) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, kind: Kind, expected: Option<(Encoding, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("a header"));
        let form = form(&headers, &Query::default(), kind);
        assert_eq!(form.ok().map(|form| (form.encoding, form.shape)), expected, "{accept}");
    }

    #[test]
    fn chooses_the_first_form_that_can_be_given() {
        let table = Shape::Table { version: MetaVersion::V1 };
        check("application/json", Kind::List, Some((Encoding::Json, Shape::Object)));
        check("*/*", Kind::List, Some((Encoding::Json, Shape::Object)));
        check("application/*", Kind::List, Some((Encoding::Json, Shape::Object)));
        check("application/yaml", Kind::Object, Some((Encoding::Yaml, Shape::Object)));
        check("application/yaml", Kind::Stream, None);
        check("text/html", Kind::Object, None);
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Kind::Object,
            Some((Encoding::Protobuf, Shape::Object)),
        );
        check("application/json;q=0.5,application/yaml", Kind::Object, Some((Encoding::Yaml, Shape::Object)));
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, Kind::List, Some((Encoding::Json, table)));
        check(kubectl, Kind::Plain, Some((Encoding::Json, Shape::Object)));
        check("application/json;as=Table;v=v2;g=meta.k8s.io", Kind::List, None);
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Kind::Object, None);
    }

    #[test]
    fn prefers_aggregated_discovery_only_when_asked_first() {
        let check = |accept: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header"));
            assert_eq!(wants_aggregated_discovery(&headers), expected, "{accept}");
        };
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        check(aggregated, Some("v2"));
        check(&format!("{aggregated},application/json"), Some("v2"));
        check(&format!("application/json,{aggregated}"), None);
        check("application/json, */*", None);
    }
}
