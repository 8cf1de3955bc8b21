//! The objects that every cluster has: namespaces, priority classes, roles and bindings, and the `kubernetes` Service.
//!
//! They are written in few transactions, so that a new cluster is ready at once.

use std::collections::BTreeMap;

use api::meta;
use api::value::{Value, to_value};
use client::Key;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Namespace, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use resources::rbac::bootstrap as policies;
use resources::{Rules, Writer};
use serde::Serialize;
use store::{Compare, Op, StoreError, TxnOutcome};

use crate::allocate;
use crate::catalog::Served;
use crate::refusal::Refusal;
use crate::server::ApiServer;
use crate::stored;
use crate::verbs::attempt::uid;

/// Why the first objects could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("write the store")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Somebody else wrote the same objects at the same time, again and again.
    #[error("others keep writing the same objects")]
    Contended,
}

/// Well below the store's limit of operations in a transaction.
const BATCH: usize = 100;
const ATTEMPTS_MAX: usize = 5;
const USER: &str = "system:apiserver";
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
const SERVICE: &str = "kubernetes";

/// One object to be, and what is stored beside it.
struct Wanted {
    served: Served,
    tree: Value,
    /// Fields that are brought up to date when the object is there already.
    owned: &'static [&'static str],
}

/// Makes sure that all of them exist.
pub(crate) async fn run(server: &ApiServer) -> Result<(), BootstrapError> {
    let wanted = wanted(server)?;
    for _ in 0..ATTEMPTS_MAX {
        server.cache.fresh().await?;
        let mut done = true;
        let writes = wanted.iter().map(|wanted| write(server, wanted)).collect::<Result<Vec<_>, Refusal>>()?;
        let writes: Vec<(Compare, Op)> = writes.into_iter().flatten().flatten().collect();
        for batch in writes.chunks(BATCH) {
            let (compares, ops) = batch.iter().cloned().unzip();
            done &= matches!(server.store.txn(compares, ops).await?, TxnOutcome::Committed { .. });
        }
        if done {
            server.cache.fresh().await?;
            return Ok(());
        }
    }
    Err(BootstrapError::Contended)
}

fn wanted(server: &ApiServer) -> Result<Vec<Wanted>, Refusal> {
    let mut wanted = Vec::new();
    let mut add = |group: &str, plural: &str, owned, tree: Result<Value, Refusal>| -> Result<(), Refusal> {
        let tree = tree?;
        let served = server
            .catalog
            .find(group, "v1", plural)
            .ok_or_else(|| Refusal::internal(format!("{plural} are not served")))?;
        wanted.push(Wanted { served, tree, owned });
        Ok(())
    };
    for name in NAMESPACES {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        add("", "namespaces", &[][..], tree(&Namespace { metadata, ..Namespace::default() }))?;
    }
    for class in resources::scheduling::priority_class::system_classes() {
        add("scheduling.k8s.io", "priorityclasses", &[][..], tree(&class))?;
    }
    let rbac = "rbac.authorization.k8s.io";
    for role in &policies::cluster_roles() {
        add(rbac, "clusterroles", &["rules", "aggregationRule"][..], tree(role))?;
    }
    for binding in &policies::cluster_role_bindings() {
        add(rbac, "clusterrolebindings", &["subjects"][..], tree(binding))?;
    }
    for role in &policies::roles() {
        add(rbac, "roles", &["rules"][..], tree(role))?;
    }
    for binding in &policies::role_bindings() {
        add(rbac, "rolebindings", &["subjects"][..], tree(binding))?;
    }
    add("", "services", &[][..], tree(&service(server)))?;
    // A loopback address would lead every pod to itself; such a server has no endpoint for pods, as upstream's.
    if server.advertise.ip().is_loopback() {
        tracing::warn!(address = %server.advertise, "pods cannot reach the API server at its advertised address");
        return Ok(wanted);
    }
    add("", "endpoints", &["subsets"][..], tree(&endpoints(server)))?;
    add("discovery.k8s.io", "endpointslices", &["endpoints", "ports"][..], tree(&slice(server)))?;
    Ok(wanted)
}

fn tree<T: Serialize>(typed: &T) -> Result<Value, Refusal> {
    to_value(typed).map_err(Refusal::internal)
}

/// What has to be written so that the object is as wanted; nothing when it is.
fn write(server: &ApiServer, wanted: &Wanted) -> Result<Option<Vec<(Compare, Op)>>, Refusal> {
    let served = &wanted.served;
    let prefix = served.key_prefix().ok_or_else(Refusal::no_such_path)?;
    let key = Key::new(meta::namespace(&wanted.tree), meta::name(&wanted.tree));
    let store_key = stored::store_key(prefix, &key);
    let resource = server.cache.resource(prefix).ok_or_else(Refusal::no_such_path)?;
    let Some(current) = resource.snapshot().objects.get(&key).cloned() else {
        let tree = created(served, &wanted.tree)?;
        let mut writes = vec![(Compare::absent(store_key.clone()), Op::put(store_key, stored::body(served, &tree)?))];
        if served.facts().plural == "services" {
            writes.extend(allocate::claim(&tree)?);
        }
        return Ok(Some(writes));
    };
    let mut tree = current.tree().map_err(Refusal::internal)?;
    meta::clear_resource_version(&mut tree);
    // Upstream's mark of objects that are kept as they were delivered.
    if served.group == "rbac.authorization.k8s.io" && meta::annotation(&tree, AUTO_UPDATE) != Some("true") {
        return Ok(None);
    }
    let fresh = created(served, &wanted.tree)?;
    for field in wanted.owned {
        // A role that takes over others' rules owns none itself.
        let aggregated = *field == "rules" && fresh.get("aggregationRule").is_some();
        if let (Some(members), Some(value), false) = (tree.as_object_mut(), fresh.get(field), aggregated) {
            members.insert(*field, value.clone());
        }
    }
    let body = stored::body(served, &tree)?;
    if body == *current.body() {
        return Ok(None);
    }
    Ok(Some(vec![(Compare::unchanged(store_key.clone(), current.revision()), Op::put(store_key, body))]))
}

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// The object as a create would store it.
fn created(served: &Served, wanted: &Value) -> Result<Value, Refusal> {
    let rules = Rules { now: stdx::wall(), user: USER, dry_run: false };
    let mut tree = wanted.clone();
    meta::set_type(&mut tree, &served.api_version(), served.kind);
    meta::set_uid(&mut tree, &uid());
    meta::set_creation_timestamp(&mut tree, rules.now);
    served.def.default(&mut tree, &rules).map_err(Refusal::internal)?;
    let faults = served.def.prepare(&mut tree, None, Writer::Create, &rules).map_err(Refusal::internal)?;
    match faults.into_status(served.group, served.kind, meta::name(&tree)) {
        Some(status) => Err(status.into()),
        None => Ok(tree),
    }
}

fn metadata(labels: &[(&str, &str)]) -> ObjectMeta {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ObjectMeta {
        name: Some(SERVICE.to_owned()),
        namespace: Some("default".to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

fn service(server: &ApiServer) -> Service {
    let address = server.network.first().to_string();
    let port = ServicePort {
        name: Some("https".to_owned()),
        port: 443,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(server.advertise.port()))),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: Some(address.clone()),
        cluster_ips: Some(vec![address]),
        ip_families: Some(vec!["IPv4".to_owned()]),
        ip_family_policy: Some("SingleStack".to_owned()),
        ports: Some(vec![port]),
        session_affinity: Some("None".to_owned()),
        type_: Some("ClusterIP".to_owned()),
        ..ServiceSpec::default()
    };
    let labels = [("component", "apiserver"), ("provider", "kubernetes")];
    Service { metadata: metadata(&labels), spec: Some(spec), ..Service::default() }
}

fn endpoints(server: &ApiServer) -> Endpoints {
    let address = EndpointAddress { ip: server.advertise.ip().to_string(), ..EndpointAddress::default() };
    let port = EndpointPort {
        name: Some("https".to_owned()),
        port: i32::from(server.advertise.port()),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    };
    let subset =
        EndpointSubset { addresses: Some(vec![address]), ports: Some(vec![port]), ..EndpointSubset::default() };
    // Without this label a second slice would be mirrored from the Endpoints.
    let labels = [("endpointslice.kubernetes.io/skip-mirror", "true")];
    Endpoints { metadata: metadata(&labels), subsets: Some(vec![subset]) }
}

fn slice(server: &ApiServer) -> EndpointSlice {
    let endpoint = Endpoint {
        addresses: vec![server.advertise.ip().to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
        ..Endpoint::default()
    };
    let port = SlicePort {
        name: Some("https".to_owned()),
        port: Some(i32::from(server.advertise.port())),
        protocol: Some("TCP".to_owned()),
        ..SlicePort::default()
    };
    EndpointSlice {
        metadata: metadata(&[("kubernetes.io/service-name", SERVICE)]),
        address_type: "IPv4".to_owned(),
        endpoints: Some(vec![endpoint]),
        ports: Some(vec![port]),
    }
}
