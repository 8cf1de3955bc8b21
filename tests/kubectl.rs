//! Unmodified kubectl, three versions of it, does what it does with any cluster.

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
