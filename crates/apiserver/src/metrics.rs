//! What is measured: requests by kind and outcome, their durations, objects by resource.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::request::RequestInfo;

/// The labels of a request that upstream has, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    resource: String,
}

/// The measures of one API server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    git_version: Arc<str>,
}

/// The method, if it is an ordinary one.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

/// Upstream's buckets, in seconds, thinned out.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0];

impl Metrics {
    /// Nothing measured yet.
    pub(crate) fn new(git_version: &str) -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        registry.register("apiserver_request", "Requests by verb, resource and HTTP code.", requests.clone());
        let help = "Seconds from a request to its response's head, by verb and resource.";
        registry.register("apiserver_request_duration_seconds", help, durations.clone());
        Metrics { registry, requests, durations, git_version: git_version.into() }
    }

    /// Counts a request; `known` says that the catalog has its resource and subresource. Words that strangers make up
    /// must not become labels: each would be kept for ever.
    pub(crate) fn observe(&self, info: &RequestInfo, method: &Method, known: bool, code: u16, duration: Duration) {
        let text = |value: &str| if known { value.to_owned() } else { String::new() };
        let verb = if info.is_resource { info.verb.to_ascii_uppercase() } else { word(method).to_owned() };
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, _, _) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let labels = RequestLabels {
            verb: verb.clone(),
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: text(&info.subresource),
            scope,
            code: code.to_string(),
        };
        self.requests.get_or_create(&labels).inc();
        if info.verb != "watch" {
            let labels = DurationLabels { verb, resource: text(&info.resource) };
            self.durations.get_or_create(&labels).observe(duration.as_secs_f64());
        }
    }

    /// All measures in the text form that Prometheus reads.
    pub(crate) fn text(&self, object_counts: &BTreeMap<&'static str, usize>) -> String {
        let mut out = String::new();
        out.push_str("# TYPE apiserver_storage_objects gauge\n");
        for (resource, count) in object_counts {
            writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}")
                .expect("writing to a string cannot fail");
        }
        let version = &self.git_version;
        out.push_str("# TYPE kubernetes_build_info gauge\n");
        writeln!(out, "kubernetes_build_info{{git_version=\"{version}\",major=\"1\",minor=\"36\"}} 1")
            .expect("writing to a string cannot fail");
        encode(&mut out, &self.registry).expect("writing to a string cannot fail");
        out
    }
}
