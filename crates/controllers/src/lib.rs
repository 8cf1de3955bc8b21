//! The built-in controllers, one file each: pure decisions that `reconcile` carries out.
//!
//! To add one, copy a neighbour and add a line to [`start`].

pub mod bootstraptoken;
pub mod clusterroles;
mod condition;
pub mod csr;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslicemirroring;
pub mod garbage;
pub mod kinds;
pub mod namespace;
pub mod nodeipam;
pub mod nodelifecycle;
mod owner;
mod patch;
pub mod podgc;
pub mod replicaset;
pub mod rootca;
pub mod serviceaccount;
mod share;
pub mod taintevict;
#[cfg(test)]
mod testing;

use reconcile::Runner;

/// Starts every built-in controller.
pub fn start(runner: &Runner) {
    runner.start::<deployment::DeploymentController>();
    runner.start::<replicaset::ReplicaSetController>();
    runner.start::<disruption::DisruptionController>();
    runner.start::<endpointslice::EndpointSliceController>();
    runner.start::<endpointslicemirroring::EndpointSliceMirroringController>();
    runner.start::<endpoints::EndpointsController>();
    runner.start::<namespace::NamespaceController>();
    runner.start::<nodelifecycle::NodeLifecycleController>();
    runner.start::<nodeipam::NodeIpamController>();
    runner.start::<taintevict::TaintEvictionController>();
    runner.start::<podgc::PodGarbageCollector>();
    runner.start::<serviceaccount::ServiceAccountController>();
    runner.start::<rootca::RootCaController>();
    runner.start::<clusterroles::ClusterRoleController>();
    runner.start::<csr::CsrApprover>();
    runner.start::<csr::CsrSigner>();
    runner.start::<csr::CsrCleaner>();
    runner.start::<bootstraptoken::BootstrapSigner>();
    runner.start::<bootstraptoken::TokenCleaner>();
    runner.start::<garbage::GarbageCollector>();
}
