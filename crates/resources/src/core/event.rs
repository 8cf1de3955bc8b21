//! Event: something worth telling a person; kept for a while, served in two shapes.

use api::field::{FieldErrors, Path};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

use crate::absent::text;
use crate::base::{CORE, stored};
use crate::columns::{column, wide, wide_name};
use crate::def::{Cell, Facts, ResourceDef, Rules, Selectable, Writer};
use crate::faults::each_invalid;
use crate::names;

/// Bytes of `action`, `reason` and `reportingInstance` each.
const SHORT_BYTES_MAX: usize = 128;
const MESSAGE_BYTES_MAX: usize = 1024;

pub static EVENT: ResourceDef<Event> = ResourceDef {
    selectable: &[
        Selectable { field: "involvedObject.kind", value: |event| text(&event.involved_object.kind).to_owned() },
        Selectable {
            field: "involvedObject.namespace",
            value: |event| text(&event.involved_object.namespace).to_owned(),
        },
        Selectable { field: "involvedObject.name", value: |event| text(&event.involved_object.name).to_owned() },
        Selectable { field: "involvedObject.uid", value: |event| text(&event.involved_object.uid).to_owned() },
        Selectable {
            field: "involvedObject.apiVersion",
            value: |event| text(&event.involved_object.api_version).to_owned(),
        },
        Selectable {
            field: "involvedObject.resourceVersion",
            value: |event| text(&event.involved_object.resource_version).to_owned(),
        },
        Selectable {
            field: "involvedObject.fieldPath",
            value: |event| text(&event.involved_object.field_path).to_owned(),
        },
        Selectable { field: "reason", value: |event| text(&event.reason).to_owned() },
        Selectable { field: "reportingComponent", value: |event| text(&event.reporting_component).to_owned() },
        Selectable { field: "source", value: |event| component(event).to_owned() },
        Selectable { field: "type", value: |event| text(&event.type_).to_owned() },
    ],
    validate,
    columns: &[
        column("Last Seen", "string", "When the event was last seen.", |event| Cell::Since(last_seen(event))),
        column("Type", "string", "Normal or Warning.", |event| Cell::Text(text(&event.type_).to_owned())),
        column("Reason", "string", "Why the event was reported, in one word.", |event| {
            Cell::Text(text(&event.reason).to_owned())
        }),
        column("Object", "string", "The object that this event is about.", |event| Cell::Text(object(event))),
        wide("Subobject", "string", "The part of the object that this event is about.", |event| {
            Cell::Text(text(&event.involved_object.field_path).to_owned())
        }),
        wide("Source", "string", "Who reported the event.", |event| Cell::Text(source(event))),
        column("Message", "string", "What happened, in words.", |event| {
            Cell::Text(text(&event.message).trim().to_owned())
        }),
        wide("First Seen", "string", "When the event was first seen.", |event| Cell::Since(first_seen(event))),
        wide("Count", "string", "How often the event has occurred.", |event| Cell::Int(count(event).into())),
        wide_name(),
    ],
    ..ResourceDef::plain(Facts {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        backing: stored("events"),
        also_served: &[("events.k8s.io", "v1", "Event")],
        ..CORE
    })
};

fn component(event: &Event) -> &str {
    let component = event.source.as_ref().map_or("", |source| text(&source.component));
    if component.is_empty() { text(&event.reporting_component) } else { component }
}

fn source(event: &Event) -> String {
    let host = event.source.as_ref().map_or("", |source| text(&source.host));
    let host = if host.is_empty() { text(&event.reporting_instance) } else { host };
    if host.is_empty() { component(event).to_owned() } else { format!("{}, {host}", component(event)) }
}

fn object(event: &Event) -> String {
    let kind = text(&event.involved_object.kind).to_lowercase();
    match text(&event.involved_object.name) {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn first_seen(event: &Event) -> Option<Timestamp> {
    let event_time = event.event_time.as_ref().map(|time| time.0);
    event.first_timestamp.as_ref().map(|time| time.0).or(event_time)
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    if let Some(series) = &event.series {
        return series.last_observed_time.as_ref().map(|time| time.0);
    }
    event.last_timestamp.as_ref().map(|time| time.0).or_else(|| first_seen(event))
}

fn count(event: &Event) -> i32 {
    match &event.series {
        Some(series) => series.count.unwrap_or(0),
        None => event.count.unwrap_or(0).max(1),
    }
}

fn validate(new: &Event, _: Option<&Event>, _: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let namespace = text(&new.metadata.namespace);
    let about = text(&new.involved_object.namespace);
    let agrees = match (new.event_time.is_some(), about) {
        (false, "") => ["", "default"].contains(&namespace),
        (false, about) => namespace == about,
        (true, "") => ["default", "kube-system"].contains(&namespace),
        (true, _) => true,
    };
    if !agrees {
        faults.invalid(&Path::new("involvedObject").child("namespace"), about, "does not match event.namespace");
    }
    if new.event_time.is_some() {
        validate_newer(new, faults);
    }
    each_invalid(faults, &Path::new("namespace"), namespace, names::dns_subdomain(namespace));
}

/// Writers that know `eventTime` know the rest of the newer shape too.
fn validate_newer(new: &Event, faults: &mut FieldErrors) {
    let controller = text(&new.reporting_component);
    let path = Path::new("reportingComponent");
    if controller.is_empty() {
        faults.required(&path, "");
    }
    each_invalid(faults, &path, controller, names::qualified(controller));
    let short = [("reportingInstance", &new.reporting_instance), ("action", &new.action), ("reason", &new.reason)];
    for (field, value) in short {
        if text(value).is_empty() {
            faults.required(&Path::new(field), "");
        }
        if text(value).len() > SHORT_BYTES_MAX {
            faults.invalid(&Path::new(field), "", format!("can have at most {SHORT_BYTES_MAX} characters"));
        }
    }
    if text(&new.message).len() > MESSAGE_BYTES_MAX {
        faults.invalid(&Path::new("message"), "", format!("can have at most {MESSAGE_BYTES_MAX} characters"));
    }
}
