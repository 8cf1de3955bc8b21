//! The built-in controllers, one file each: pure decisions that `reconcile` carries out.
//!
//! To add one, copy a neighbour and add a line to [`start`].

pub mod clusterroles;
pub mod deployment;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslicemirroring;
pub mod garbage;
pub mod kinds;
pub mod namespace;
pub mod nodetaints;
mod owner;
mod patch;
pub mod replicaset;
pub mod rootca;
pub mod serviceaccount;
#[cfg(test)]
mod testing;

use reconcile::Runner;

/// Starts every built-in controller.
pub fn start(runner: &Runner) {
    runner.start::<deployment::DeploymentController>();
    runner.start::<replicaset::ReplicaSetController>();
    runner.start::<endpointslice::EndpointSliceController>();
    runner.start::<endpointslicemirroring::EndpointSliceMirroringController>();
    runner.start::<endpoints::EndpointsController>();
    runner.start::<namespace::NamespaceController>();
    runner.start::<nodetaints::NodeTaintController>();
    runner.start::<serviceaccount::ServiceAccountController>();
    runner.start::<rootca::RootCaController>();
    runner.start::<clusterroles::ClusterRoleController>();
    runner.start::<garbage::GarbageCollector>();
}
