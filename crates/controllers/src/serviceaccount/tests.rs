//! Cases: every namespace that stays has the account `default`, and gets it back.

use client::Key;
use reconcile::Propagation;
use reconcile::plan::kinds::{NAMESPACES, SERVICE_ACCOUNTS};

use super::ServiceAccountController;
use crate::testing::World;

#[test]
fn makes_the_account_once_and_again_when_it_is_deleted() {
    let mut world = World::new();
    world.create(NAMESPACES, "", r#"{"metadata":{"name":"n"},"spec":{"finalizers":["kubernetes"]}}"#);
    let key = Key::new("", "n");
    assert!(world.work::<ServiceAccountController>(&key));
    assert!(!world.work::<ServiceAccountController>(&key));
    world.remove(SERVICE_ACCOUNTS, &Key::new("n", "default"));
    assert!(world.work::<ServiceAccountController>(&key));
    world.remove(SERVICE_ACCOUNTS, &Key::new("n", "default"));
    world.delete(NAMESPACES, "", "n", Propagation::Background);
    assert!(!world.work::<ServiceAccountController>(&key), "nothing is made in a namespace that goes");
}
