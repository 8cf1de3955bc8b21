//! Columns and cells that several kinds share.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::absent::{entries, text};
use crate::def::{Cell, Column};

/// How upstream shows an empty cell.
pub(crate) const NONE: &str = "<none>";

/// A column that is always shown.
pub(crate) const fn column<T>(
    name: &'static str,
    type_name: &'static str,
    description: &'static str,
    cell: fn(&T) -> Cell,
) -> Column<T> {
    Column { name, type_name, format: "", description, priority: 0, cell }
}

/// A column that only `-o wide` shows.
pub(crate) const fn wide<T>(
    name: &'static str,
    type_name: &'static str,
    description: &'static str,
    cell: fn(&T) -> Cell,
) -> Column<T> {
    Column { name, type_name, format: "", description, priority: 1, cell }
}

/// The first column of nearly every kind.
pub(crate) const fn name<T: Metadata<Ty = ObjectMeta>>() -> Column<T> {
    Column {
        name: "Name",
        type_name: "string",
        format: "name",
        description: "Name of the object, unique within its namespace and kind.",
        priority: 0,
        cell: name_cell,
    }
}

/// As [`name()`], shown only by `-o wide`.
pub(crate) const fn wide_name<T: Metadata<Ty = ObjectMeta>>() -> Column<T> {
    Column {
        name: "Name",
        type_name: "string",
        format: "name",
        description: "Name of the object, unique within its namespace and kind.",
        priority: 1,
        cell: name_cell,
    }
}

/// How long ago the object was created.
pub(crate) const fn age<T: Metadata<Ty = ObjectMeta>>() -> Column<T> {
    column("Age", "string", "Time since the server created the object.", age_cell)
}

/// The moment of creation, for kinds that upstream gives no columns of their own.
pub(crate) const fn created_at<T: Metadata<Ty = ObjectMeta>>() -> Column<T> {
    column("Created At", "date", "When the server created the object.", created_at_cell)
}

fn name_cell<T: Metadata<Ty = ObjectMeta>>(object: &T) -> Cell {
    Cell::Text(text(&object.metadata().name).to_owned())
}

fn age_cell<T: Metadata<Ty = ObjectMeta>>(object: &T) -> Cell {
    Cell::Since(created(object))
}

fn created_at_cell<T: Metadata<Ty = ObjectMeta>>(object: &T) -> Cell {
    match created(object) {
        Some(moment) => Cell::Text(format!("{moment:.0}")),
        None => Cell::None,
    }
}

fn created<T: Metadata<Ty = ObjectMeta>>(object: &T) -> Option<Timestamp> {
    object.metadata().creation_timestamp.as_ref().map(|time| time.0)
}

/// The text, or `<none>`.
pub(crate) fn or_none(value: &str) -> Cell {
    Cell::Text(if value.is_empty() { NONE.to_owned() } else { value.to_owned() })
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels(labels: &Option<BTreeMap<String, String>>) -> Cell {
    let pairs: Vec<String> = entries(labels).map(|(key, value)| format!("{key}={value}")).collect();
    or_none(&pairs.join(","))
}

/// The containers' names, joined by commas.
pub(crate) fn container_names(containers: &[Container]) -> Cell {
    let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    Cell::Text(names.join(","))
}

/// The containers' images, joined by commas.
pub(crate) fn container_images(containers: &[Container]) -> Cell {
    let images: Vec<&str> = containers.iter().map(|container| text(&container.image)).collect();
    Cell::Text(images.join(","))
}

/// Up to three of the items, and how many more there are.
pub(crate) fn first_three(items: &[String], when_empty: &str) -> Cell {
    const SHOWN_MAX: usize = 3;
    let shown = items[..items.len().min(SHOWN_MAX)].join(",");
    Cell::Text(if items.len() > SHOWN_MAX {
        format!("{shown} + {} more...", items.len() - SHOWN_MAX)
    } else if shown.is_empty() {
        when_empty.to_owned()
    } else {
        shown
    })
}
