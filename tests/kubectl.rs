//! Unmodified kubectl, three versions of it, does what it does with any cluster. `containerd.rs` runs the same scripts on another
//! runtime.
//!
//! Which command is tried where:
//!
//! | commands | script |
//! |---|---|
//! | `get` in every form, `get -w`, `apply`, `create -f`, `diff` | `apply-and-get`, `watch`, `operate` (pages, selectors, subresources) |
//! | `describe` of pods, Deployments, Services, nodes, namespaces | `describe` |
//! | `version`, `cluster-info`, `api-resources`, `api-versions`, `explain`, `get --raw`, `auth can-i`, `auth whoami` | `access` |
//! | `cluster-info dump`, `auth reconcile`, `certificate`, `events`, `wait`, `debug` in its three forms | `operate` |
//! | `create` of every kind that has a generator, `create token`, `run`, `expose` | `generators`, `change`, `streams`, `operate` |
//! | `edit`, `patch`, `label`, `annotate`, `replace`, `set`, `scale`, `apply set-last-applied`, `apply --prune` | `change`, `operate` |
//! | `rollout` | `rollout` |
//! | `delete` | `delete` |
//! | `logs`, `exec`, `attach`, `cp`, `port-forward`, `proxy` | `logs-and-exec`, `streams`, `operate` |
//! | `taint`, `cordon`, `uncordon`, `drain` | `operate` |
//! | jobs, ingresses, quotas, autoscaling, daemon sets, `--server-side` | `refused` |
//! | bodies that are wrong, writes that come too late | `bad-input` |

use crate::cluster::Cluster;
use crate::script;

#[test]
fn apply_create_and_get_in_all_output_forms() {
    script::run(&Cluster::start(), "apply-and-get");
}

#[test]
fn describe_tells_what_a_person_wants_to_know() {
    script::run(&Cluster::start(), "describe");
}

#[test]
fn get_watch_shows_what_changes() {
    script::run(&Cluster::start(), "watch");
}

#[test]
fn logs_follow_and_exec_has_a_terminal() {
    script::run(&Cluster::start(), "logs-and-exec");
}

#[test]
fn scale_edit_label_annotate_patch_replace_and_set_change_objects() {
    script::run(&Cluster::start(), "change");
}

#[test]
fn rollout_shows_undoes_restarts_pauses_and_resumes() {
    script::run(&Cluster::start(), "rollout");
}

#[test]
fn delete_works_in_all_propagation_modes() {
    script::run(&Cluster::start(), "delete");
}

#[test]
fn generators_that_send_protobuf_create_objects() {
    script::run(&Cluster::start(), "generators");
}

#[test]
fn version_discovery_and_access_reviews_answer() {
    script::run(&Cluster::start(), "access");
}

#[test]
pub fn an_operator_looks_around_debugs_decides_and_drains() {
    script::run(&Cluster::start(), "operate");
}

#[test]
fn what_is_not_served_is_refused_in_the_usual_words() {
    script::run(&Cluster::start(), "refused");
}
