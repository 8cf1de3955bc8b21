//! What the API server is told about a kind: one declaration, from which everything generic follows.

use api::field::FieldErrors;
use api::projection::{ReadError, Reader, Source};
use api::value::Value;
use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Under which conditions an object is judged.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The moment of the request.
    pub now: Timestamp,
    /// The name of the user who writes.
    pub user: &'a str,
    /// Nothing will be stored.
    pub dry_run: bool,
}

/// Through which door a write comes; decides what [`ResourceDef::reset`] puts back and which faults count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writer {
    /// `create` of the object.
    Create,
    /// `update`, `patch` or `apply` of the object itself.
    Main,
    /// `…/status`
    Status,
    /// `…/scale`
    Scale,
    /// `pods/…/resize`
    Resize,
    /// `pods/…/ephemeralcontainers`
    EphemeralContainers,
    /// `pods/…/binding`
    Binding,
    /// `namespaces/…/finalize`
    Finalize,
    /// `certificatesigningrequests/…/approval`
    Approval,
}

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// Where objects of a kind come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Kept in the store under upstream's key `/registry/{key_prefix}/[namespace/]name`, in this API version.
    Stored { key_prefix: &'static str, version: &'static str },
    /// A request whose answer is worked out, such as a `SelfSubjectAccessReview`; only `create` is served.
    Computed,
    /// What agents measure, asked of them when somebody wants to know; only `get` and `list` are served.
    Measured,
}

/// A subresource. Those with behaviour of their own are served by the API server's file of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    Status,
    /// `autoscaling/v1 Scale`: paths to the replica counts and the selector, as a CRD would declare them.
    Scale {
        spec_replicas: &'static str,
        status_replicas: &'static str,
        selector: &'static str,
    },
    /// Anything else: its name, the kind it takes or gives as (group, version, kind), and its verbs.
    Other {
        name: &'static str,
        kind: (&'static str, &'static str, &'static str),
        verbs: &'static [&'static str],
    },
}

/// The facts about a kind that do not depend on its Rust type.
#[derive(Clone, Debug)]
pub struct Facts {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub scope: Scope,
    pub backing: Backing,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// Other versions of the same objects, such as `events` in `v1` beside `events.k8s.io/v1`: (group, version, kind).
    pub also_served: &'static [(&'static str, &'static str, &'static str)],
    /// Verbs of the kind itself; [`ALL_VERBS`] for most.
    pub verbs: &'static [&'static str],
}

/// The verbs of an ordinary stored kind, in discovery's order.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A field that field selectors may name besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Copy)]
pub struct Selectable<T> {
    /// Such as `spec.nodeName`.
    pub field: &'static str,
    pub value: fn(&T) -> String,
}

/// One cell of a table row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Text(String),
    Int(i64),
    Bool(bool),
    /// An age, counted from this moment when the row is sent; `<unknown>` without one.
    Since(Option<Timestamp>),
    /// Text with one embedded age, such as `2 (5m3s ago)`: what comes before and after the age.
    SinceWithin {
        before: String,
        moment: Timestamp,
        after: String,
    },
    /// `null` in JSON.
    None,
}

/// One column of the server-side table.
#[derive(Clone, Copy)]
pub struct Column<T> {
    pub name: &'static str,
    /// `string`, `integer`, `date` …
    pub type_name: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, above only with `-o wide`.
    pub priority: i32,
    pub cell: fn(&T) -> Cell,
}

/// What a column is, without its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnHead {
    pub name: &'static str,
    #[serde(rename = "type")]
    pub type_name: &'static str,
    pub format: &'static str,
    pub description: &'static str,
    pub priority: i32,
}

/// Reads selectable fields out of a stored form, in the order in which they are declared.
pub type ReadSelectable = fn(Reader<'_>) -> Result<Vec<String>, ReadError>;

/// Everything the API server knows about the kind whose Rust type is `T`.
pub struct ResourceDef<T: 'static> {
    pub facts: Facts,
    /// Faults of a name, in upstream's words; the empty list for a good one. `generate` is set for a `generateName` prefix.
    pub name_faults: fn(name: &str, generate: bool) -> Vec<String>,
    pub selectable: &'static [Selectable<T>],
    /// The selectable field by which so many ask for their few objects that lists by it are answered from an index.
    pub indexed: Option<&'static str>,
    /// Reads the same values from the stored form, for a kind whose every change is asked for them.
    pub read_selectable: Option<ReadSelectable>,
    /// Fills what the user left out. Idempotent.
    pub default: fn(&mut T, &Rules<'_>),
    /// Puts back what this writer may not change, and sets what the server alone sets (status on create, generation).
    pub reset: fn(new: &mut T, old: Option<&T>, Writer, &Rules<'_>),
    /// Reports every fault. `old` is absent on create.
    pub validate: fn(new: &T, old: Option<&T>, Writer, &Rules<'_>, &mut FieldErrors),
    /// Warnings for the `Warning` header.
    pub warnings: fn(new: &T, old: Option<&T>) -> Vec<String>,
    /// How long a deletion lasts, in seconds, given what the deleter asked for; `None` when this kind goes at once.
    pub grace_seconds: Option<fn(&T, asked: Option<i64>) -> i64>,
    pub columns: &'static [Column<T>],
}

/// The object does not have the shape of its kind; strict decoding should have refused it before.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct ShapeError {
    pub kind: &'static str,
    pub message: String,
}

/// A [`ResourceDef`] of any type: what the generic pipeline calls.
pub trait AnyResource: Send + Sync {
    fn facts(&self) -> &Facts;
    fn name_faults(&self, name: &str, generate: bool) -> Vec<String>;
    /// Applies defaults to a decoded object (upstream defaults at decoding, so this is also what patches see).
    fn default(&self, object: &mut Value, rules: &Rules<'_>) -> Result<(), ShapeError>;
    /// Resets, then validates including metadata: the object to store, or all its faults; with its warnings.
    fn judge(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        writer: Writer,
        rules: &Rules<'_>,
    ) -> Result<(FieldErrors, Vec<String>), ShapeError>;
    /// As [`AnyResource::judge`], without the warnings.
    fn prepare(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        writer: Writer,
        rules: &Rules<'_>,
    ) -> Result<FieldErrors, ShapeError> {
        self.judge(new, old, writer, rules).map(|(faults, _)| faults)
    }
    fn warnings(&self, new: &Value, old: Option<&Value>) -> Result<Vec<String>, ShapeError>;
    fn grace_seconds(&self, object: &Value, asked: Option<i64>) -> Result<Option<i64>, ShapeError>;
    /// The names of the declared selectable fields.
    fn selectable(&self) -> Vec<&'static str>;
    /// The values of the declared selectable fields, in the order of [`AnyResource::selectable`].
    fn selectable_values(&self, object: &Value) -> Result<Vec<String>, ShapeError>;
    /// Where among the selectable fields the one stands by which objects are found without looking at all.
    fn indexed(&self) -> Option<usize>;
    /// The values of the selectable fields, from the stored form.
    fn read_selectable(&self, source: &Source<'_>) -> Result<Vec<String>, ReadError>;
    fn columns(&self) -> Vec<ColumnHead>;
    /// One cell per column.
    fn row(&self, object: &Value) -> Result<Vec<Cell>, ShapeError>;
}

impl<T: DeserializeOwned + Serialize + Metadata<Ty = ObjectMeta> + Send + Sync + 'static> AnyResource
    for ResourceDef<T>
{
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn name_faults(&self, name: &str, generate: bool) -> Vec<String> {
        (self.name_faults)(name, generate)
    }

    fn default(&self, object: &mut Value, rules: &Rules<'_>) -> Result<(), ShapeError> {
        let mut typed = self.typed(object)?;
        (self.default)(&mut typed, rules);
        *object = self.tree(&typed)?;
        Ok(())
    }

    fn judge(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        writer: Writer,
        rules: &Rules<'_>,
    ) -> Result<(FieldErrors, Vec<String>), ShapeError> {
        let mut typed = self.typed(new)?;
        let typed_old = old.map(|old| self.typed(old)).transpose()?;
        crate::meta::reset(typed.metadata_mut(), typed_old.as_ref().map(Metadata::metadata));
        (self.reset)(&mut typed, typed_old.as_ref(), writer, rules);
        *new = self.tree(&typed)?;
        let mut faults = FieldErrors::default();
        crate::meta::validate(self, new, old, &mut faults);
        (self.validate)(&typed, typed_old.as_ref(), writer, rules, &mut faults);
        // While the typed object is at hand: making it costs more than all rules.
        let warnings = if faults.is_empty() { (self.warnings)(&typed, typed_old.as_ref()) } else { Vec::new() };
        Ok((faults, warnings))
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Result<Vec<String>, ShapeError> {
        let old = old.map(|old| self.typed(old)).transpose()?;
        Ok((self.warnings)(&self.typed(new)?, old.as_ref()))
    }

    fn grace_seconds(&self, object: &Value, asked: Option<i64>) -> Result<Option<i64>, ShapeError> {
        self.grace_seconds.map(|grace| Ok(grace(&self.typed(object)?, asked))).transpose()
    }

    fn selectable(&self) -> Vec<&'static str> {
        self.selectable.iter().map(|selectable| selectable.field).collect()
    }

    fn selectable_values(&self, object: &Value) -> Result<Vec<String>, ShapeError> {
        let typed = self.typed(object)?;
        Ok(self.selectable.iter().map(|selectable| (selectable.value)(&typed)).collect())
    }

    fn indexed(&self) -> Option<usize> {
        let wanted = self.indexed?;
        self.selectable.iter().position(|selectable| selectable.field == wanted)
    }

    fn read_selectable(&self, source: &Source<'_>) -> Result<Vec<String>, ReadError> {
        match self.read_selectable {
            Some(read) => source.read(read),
            None => self.selectable_values(&source.tree()?).map_err(|error| ReadError::Message(error.to_string())),
        }
    }

    fn columns(&self) -> Vec<ColumnHead> {
        let head = |column: &Column<T>| ColumnHead {
            name: column.name,
            type_name: column.type_name,
            format: column.format,
            description: column.description,
            priority: column.priority,
        };
        self.columns.iter().map(head).collect()
    }

    fn row(&self, object: &Value) -> Result<Vec<Cell>, ShapeError> {
        let typed = self.typed(object)?;
        Ok(self.columns.iter().map(|column| (column.cell)(&typed)).collect())
    }
}

impl<T: DeserializeOwned + Serialize + 'static> ResourceDef<T> {
    fn typed(&self, object: &Value) -> Result<T, ShapeError> {
        api::value::from_value(object).map_err(|error| self.shape_error(&error))
    }

    fn tree(&self, typed: &T) -> Result<Value, ShapeError> {
        api::value::to_value(typed).map_err(|error| self.shape_error(&error))
    }

    fn shape_error(&self, error: &dyn std::fmt::Display) -> ShapeError {
        ShapeError { kind: self.facts.kind, message: error.to_string() }
    }
}
