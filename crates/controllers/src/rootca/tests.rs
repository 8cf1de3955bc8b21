//! Cases: the certificate is in every namespace that stays, and is put right when somebody changes it.

use client::Key;
use k8s_openapi::api::core::v1::ConfigMap;
use reconcile::Propagation;
use reconcile::plan::kinds::{CONFIG_MAPS, NAMESPACES};

use super::RootCaController;
use crate::testing::World;

#[test]
fn publishes_the_certificate_and_keeps_it_right() {
    let mut world = World::new();
    world.create(NAMESPACES, "", r#"{"metadata":{"name":"n"},"spec":{"finalizers":["kubernetes"]}}"#);
    let key = Key::new("", "n");
    assert!(world.work::<RootCaController>(&key));
    assert!(!world.work::<RootCaController>(&key));
    for change in [r#"{"data":{"ca.crt":"other"}}"#, r#"{"metadata":{"annotations":null}}"#] {
        world.edit(CONFIG_MAPS, "n", super::NAME, change);
        assert!(world.work::<RootCaController>(&key), "{change}");
    }
    let map: ConfigMap = world.typed(CONFIG_MAPS, "n", super::NAME);
    assert_eq!(map.data.unwrap()["ca.crt"], "certificate");
    assert_eq!(map.metadata.annotations.unwrap()["kubernetes.io/description"], super::DESCRIPTION);
    world.remove(CONFIG_MAPS, &Key::new("n", super::NAME));
    world.delete(NAMESPACES, "", "n", Propagation::Background);
    assert!(!world.work::<RootCaController>(&key));
}
