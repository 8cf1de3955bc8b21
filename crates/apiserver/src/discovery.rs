//! What is served, told to clients: `/api`, `/apis` and below, plain and aggregated.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::IF_NONE_MATCH;
use resources::Subresource;
use serde_json::{Value as Json, json};

use crate::catalog::{Catalog, Served, group_version, subresource_name, subresource_verbs};

/// All discovery documents, made once from the catalog.
pub(crate) struct Discovery {
    documents: Vec<(String, Document)>,
    aggregated: Vec<(&'static str, &'static str, Document)>,
}

/// A document and the tag that tells whether a client has it already.
#[derive(Clone)]
pub(crate) struct Document {
    pub body: Bytes,
    pub etag: Arc<str>,
    pub content_type: &'static str,
}

const JSON: &str = "application/json";
const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

impl Document {
    /// A document whose tag follows from its content.
    pub(crate) fn new(content_type: &'static str, body: Vec<u8>) -> Document {
        let etag = format!("\"{}\"", digest(&body)).into();
        Document { body: body.into(), etag, content_type }
    }

    fn json(document: &Json) -> Document {
        let mut body = serde_json::to_vec(document).expect("a tree of JSON is JSON");
        body.push(b'\n');
        Document::new(JSON, body)
    }

    /// Whether the client said that it has this very document.
    pub(crate) fn is_known(&self, headers: &HeaderMap) -> bool {
        let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
        known.split(',').any(|tag| tag.trim() == &*self.etag)
    }
}

/// A short fingerprint of bytes, in hexadecimal: two independent 64-bit FNV-1a sums. It tells versions of our own
/// documents apart; nobody gains by making two collide.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let sum =
        |basis: u64| bytes.iter().fold(basis, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{:016X}{:016X}", sum(0xcbf2_9ce4_8422_2325), sum(0x8422_2325_cbf2_9ce4))
}

impl Discovery {
    /// Makes the documents. `address` is what `/api` tells clients to talk to.
    pub(crate) fn new(catalog: &Catalog, address: &str) -> Discovery {
        let groups = catalog.groups();
        let mut documents = vec![
            ("/api".to_owned(), Document::json(&api_versions(address))),
            ("/apis".to_owned(), Document::json(&group_list(&groups))),
        ];
        for (group, versions) in &groups {
            if !group.is_empty() {
                let mut document = json!({"kind": "APIGroup", "apiVersion": "v1"});
                merge(&mut document, group_entry(group, versions));
                documents.push((format!("/apis/{group}"), Document::json(&document)));
            }
            for version in versions {
                let path =
                    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
                documents.push((path, Document::json(&resource_list(catalog, group, version))));
            }
        }
        let mut aggregated = Vec::new();
        for (version, content_type) in [("v2", AGGREGATED_V2), ("v2beta1", AGGREGATED_V2BETA1)] {
            for (path, core) in [("/api", true), ("/apis", false)] {
                let groups = groups.iter().filter(|(group, _)| group.is_empty() == core);
                let items: Vec<Json> =
                    groups.map(|(group, versions)| group_discovery(catalog, group, versions)).collect();
                let api_version = format!("apidiscovery.k8s.io/{version}");
                let list =
                    json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items});
                let body = serde_json::to_vec(&list).expect("a tree of JSON is JSON");
                aggregated.push((path, version, Document::new(content_type, body)));
            }
        }
        Discovery { documents, aggregated }
    }

    /// The plain document at a path.
    pub(crate) fn plain(&self, path: &str) -> Option<&Document> {
        let path = path.strip_suffix('/').unwrap_or(path);
        self.documents.iter().find(|(known, _)| known == path).map(|(_, document)| document)
    }

    /// The aggregated document at `/api` or `/apis`.
    pub(crate) fn aggregated(&self, path: &str, version: &str) -> Option<&Document> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut all = self.aggregated.iter();
        all.find(|(known, of, _)| *known == path && *of == version).map(|(_, _, document)| document)
    }
}

fn api_versions(address: &str) -> Json {
    let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]);
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses})
}

fn group_list(groups: &[(&str, Vec<&str>)]) -> Json {
    let named = groups.iter().filter(|(group, _)| !group.is_empty());
    let entries: Vec<Json> = named.map(|(group, versions)| group_entry(group, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": entries})
}

fn group_entry(group: &str, versions: &[&str]) -> Json {
    let entry = |version: &&str| json!({"groupVersion": group_version(group, version), "version": version});
    let entries: Vec<Json> = versions.iter().map(entry).collect();
    json!({"name": group, "versions": entries, "preferredVersion": entries.first()})
}

fn merge(into: &mut Json, from: Json) {
    if let (Json::Object(into), Json::Object(from)) = (into, from) {
        into.extend(from);
    }
}

fn resource_list(catalog: &Catalog, group: &str, version: &str) -> Json {
    let mut resources = Vec::new();
    for served in catalog.of_version(group, version) {
        resources.push(resource_entry(&served));
        for subresource in served.facts().subresources {
            resources.push(subresource_entry(&served, subresource));
        }
    }
    resources.sort_by(|left, right| left["name"].as_str().cmp(&right["name"].as_str()));
    let mut list = json!({"kind": "APIResourceList"});
    if !group.is_empty() {
        merge(&mut list, json!({"apiVersion": "v1"}));
    }
    merge(&mut list, json!({"groupVersion": group_version(group, version), "resources": resources}));
    list
}

fn resource_entry(served: &Served) -> Json {
    let facts = served.facts();
    let mut entry = json!({
        "name": facts.plural,
        "singularName": facts.singular,
        "namespaced": served.is_namespaced(),
        "kind": served.kind,
        "verbs": facts.verbs,
    });
    if !facts.short_names.is_empty() {
        merge(&mut entry, json!({"shortNames": facts.short_names}));
    }
    if !facts.categories.is_empty() {
        merge(&mut entry, json!({"categories": facts.categories}));
    }
    if served.key_prefix().is_some() {
        let hash = &digest(format!("{}/{}/{}", facts.group, facts.version, facts.kind).as_bytes())[..8];
        merge(&mut entry, json!({"storageVersionHash": base64_of(hash)}));
    }
    entry
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Group, version and kind of what a subresource takes and gives.
pub(crate) fn subresource_kind(
    served: &Served,
    subresource: &Subresource,
) -> (&'static str, &'static str, &'static str) {
    match subresource {
        Subresource::Status => (served.group, served.version, served.kind),
        Subresource::Scale { .. } => ("autoscaling", "v1", "Scale"),
        Subresource::Other { kind, .. } => *kind,
    }
}

fn subresource_entry(served: &Served, subresource: &Subresource) -> Json {
    let (group, version, kind) = subresource_kind(served, subresource);
    let name = format!("{}/{}", served.facts().plural, subresource_name(subresource));
    let mut entry = json!({"name": name, "singularName": "", "namespaced": served.is_namespaced()});
    if (group, version) != (served.group, served.version) {
        merge(&mut entry, json!({"group": group, "version": version}));
    }
    merge(&mut entry, json!({"kind": kind, "verbs": subresource_verbs(subresource)}));
    entry
}

fn group_discovery(catalog: &Catalog, group: &str, versions: &[&str]) -> Json {
    let versions: Vec<Json> = versions
        .iter()
        .map(|version| {
            let resources: Vec<Json> = catalog.of_version(group, version).iter().map(resource_discovery).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn resource_discovery(served: &Served) -> Json {
    let facts = served.facts();
    let kind_of =
        |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": facts.plural,
        "responseKind": kind_of((served.group, served.version, served.kind)),
        "scope": if served.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": facts.singular,
        "verbs": facts.verbs,
    });
    if !facts.short_names.is_empty() {
        merge(&mut entry, json!({"shortNames": facts.short_names}));
    }
    if !facts.categories.is_empty() {
        merge(&mut entry, json!({"categories": facts.categories}));
    }
    let of = |subresource: &Subresource| {
        let kind = kind_of(subresource_kind(served, subresource));
        let verbs = subresource_verbs(subresource);
        json!({"subresource": subresource_name(subresource), "responseKind": kind, "verbs": verbs})
    };
    let subresources: Vec<Json> = facts.subresources.iter().map(of).collect();
    if !subresources.is_empty() {
        merge(&mut entry, json!({"subresources": subresources}));
    }
    entry
}
