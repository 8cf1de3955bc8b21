//! Server-side tables: what `kubectl get` prints.

use api::value::Value;
use client::Object;
use jiff::Timestamp;
use resources::{Cell, ColumnHead};

use super::{Include, body};
use crate::catalog::Served;
use crate::convert;
use crate::negotiate::MetaVersion;
use crate::refusal::{Outcome, Refusal};

/// How tables are written.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub version: MetaVersion,
    pub include: Include,
    /// Columns are told in the first event of a watch only.
    pub with_columns: bool,
}

impl Table {
    /// A table with the row of one object.
    pub(crate) fn of_one(&self, served: &Served, object: &Object) -> Outcome<Vec<u8>> {
        let mut out = Vec::with_capacity(2048);
        let revision = body::revision_text(object.revision());
        self.head(served, &list_meta(&revision, "", None), &mut out);
        self.row(served, object, &mut out)?;
        out.extend_from_slice(b"]}");
        Ok(out)
    }

    /// A table with the row of an object that is worked out, not stored.
    pub(crate) fn of_tree(
        &self,
        columns: &[ColumnHead],
        cells: &[Cell],
        (group, version, kind): (&str, &str, &str),
        tree: &Value,
    ) -> Outcome<Vec<u8>> {
        let mut out = Vec::with_capacity(2048);
        self.head_of(columns, &list_meta(api::meta::resource_version(tree), "", None), &mut out);
        let now = stdx::wall();
        let cells: Vec<_> = cells.iter().map(|cell| cell_json(cell.clone(), now)).collect();
        self.row_of(&cells, tree, &mut out, |out| {
            api::codec::json::encode_into(tree, super::schema(group, version, kind)?, out);
            Ok(())
        })?;
        out.extend_from_slice(b"]}");
        Ok(out)
    }

    /// Appends everything before the first row.
    pub(crate) fn head(&self, served: &Served, list_meta: &str, out: &mut Vec<u8>) {
        self.head_of(&columns(served), list_meta, out);
    }

    fn head_of(&self, columns: &[ColumnHead], list_meta: &str, out: &mut Vec<u8>) {
        let api_version = self.version.api_version();
        let columns = match self.with_columns {
            true => serde_json::to_string(columns).expect("columns are JSON"),
            false => "null".to_owned(),
        };
        let head = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{api_version}\",\"metadata\":{list_meta},\"columnDefinitions\":{columns},\"rows\":["
        );
        out.extend_from_slice(head.as_bytes());
    }

    /// Appends a row.
    pub(crate) fn row(&self, served: &Served, object: &Object, out: &mut Vec<u8>) -> Outcome<()> {
        let tree = object.tree().map_err(Refusal::internal)?;
        let cells = cells(served, &tree, stdx::wall())?;
        self.row_of(&cells, &tree, out, |out| {
            let message = super::schema(served.group, served.version, served.kind)?;
            let tree = convert::tree(object, served)?;
            api::codec::json::encode_into(&tree, message, out);
            Ok(())
        })
    }

    /// `whole` appends the object when that is asked for.
    fn row_of(
        &self,
        cells: &[serde_json::Value],
        tree: &Value,
        out: &mut Vec<u8>,
        whole: impl FnOnce(&mut Vec<u8>) -> Outcome<()>,
    ) -> Outcome<()> {
        out.extend_from_slice(b"{\"cells\":");
        serde_json::to_writer(&mut *out, cells).expect("cells are JSON");
        out.extend_from_slice(b",\"object\":");
        match self.include {
            Include::None => out.extend_from_slice(b"null"),
            Include::Metadata => body::metadata_json(tree, Some(self.version), out)?,
            Include::Object => whole(out)?,
        }
        out.push(b'}');
        Ok(())
    }
}

/// Name and age, for kinds that declare no columns. Upstream: `k8s.io/apiserver/pkg/registry/rest/table.go`.
fn plain_columns() -> Vec<ColumnHead> {
    let column =
        |name, type_name, format, description| ColumnHead { name, type_name, format, description, priority: 0 };
    let name = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a \
                client to request the generation of an appropriate name automatically. Name is primarily intended for creation \
                idempotence and configuration definition. Cannot be updated. More info: \
                https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
    let created = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed \
                   to be set in happens-before order across separate operations. Clients may not set this value. It is represented \
                   in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: \
                   https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
    vec![column("Name", "string", "name", name), column("Created At", "date", "", created)]
}

fn columns(served: &Served) -> Vec<ColumnHead> {
    let columns = served.def.columns();
    if columns.is_empty() { plain_columns() } else { columns }
}

fn cells(served: &Served, tree: &Value, now: Timestamp) -> Outcome<Vec<serde_json::Value>> {
    if served.def.columns().is_empty() {
        let created = api::meta::creation_timestamp(tree).map(api::meta::rfc3339);
        return Ok(vec![api::meta::name(tree).into(), created.map_or(serde_json::Value::Null, Into::into)]);
    }
    let row = served.def.row(tree).map_err(Refusal::internal)?;
    Ok(row.into_iter().map(|cell| cell_json(cell, now)).collect())
}

fn cell_json(cell: Cell, now: Timestamp) -> serde_json::Value {
    match cell {
        Cell::Text(text) => text.into(),
        Cell::Int(number) => number.into(),
        Cell::Bool(truth) => truth.into(),
        Cell::Since(None) => "<unknown>".into(),
        Cell::Since(Some(moment)) => human_duration(now.as_second() - moment.as_second()).into(),
        Cell::SinceWithin { before, moment, after } => {
            format!("{before}{}{after}", human_duration(now.as_second() - moment.as_second())).into()
        }
        Cell::None => serde_json::Value::Null,
    }
}

/// A list's metadata as JSON.
pub(crate) fn list_meta(revision: &str, continue_token: &str, remaining: Option<u64>) -> String {
    // What was never stored has no revision.
    let mut parts: Vec<String> = Vec::new();
    parts.extend((!revision.is_empty()).then(|| format!("\"resourceVersion\":{revision:?}")));
    if !continue_token.is_empty() {
        parts.push(format!("\"continue\":{continue_token:?}"));
    }
    parts.extend(remaining.map(|remaining| format!("\"remainingItemCount\":{remaining}")));
    format!("{{{}}}", parts.join(","))
}

/// A duration as people read it: two units at most. Upstream: `k8s.io/apimachinery/pkg/util/duration`.
pub(crate) fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |big: i64, unit: char, small: i64, smaller: char| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{smaller}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, 'd', hours % 24, 'h'),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_upstream_prints_them() {
        let check = |seconds, expected: &str| assert_eq!(human_duration(seconds), expected);
        check(-2, "<invalid>");
        check(-1, "0s");
        check(119, "119s");
        check(120, "2m");
        check(130, "2m10s");
        check(601, "10m");
        check(3 * 3600 - 1, "179m");
        check(3 * 3600 + 60, "3h1m");
        check(8 * 3600, "8h");
        check(47 * 3600, "47h");
        check(49 * 3600, "2d1h");
        check(8 * 86_400, "8d");
        check(800 * 86_400, "2y70d");
        check(9 * 365 * 86_400, "9y");
    }
}
