//! Which objects a selector selects, by labels and by fields.

mod field;
mod parse;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::field::{FieldErrors, Path};
use crate::names;
use crate::value::{Map, Value};

pub use field::{FieldSelector, FieldTerm};

/// Labels, however they are kept.
pub trait LabelSet {
    /// The label of this key.
    fn label(&self, key: &str) -> Option<&str>;
}

impl LabelSet for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl LabelSet for Map {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl<T: LabelSet> LabelSet for Option<T> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}

impl<T: LabelSet + ?Sized> LabelSet for &T {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

/// How a requirement relates a key to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, each once.
    values: Vec<String>,
}

/// What is wrong with a selector, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl Requirement {
    /// A requirement, or all that is wrong with it.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Requirement, SelectorError> {
        let mut faults = FieldErrors::default();
        let key_faults = names::qualified_name(key);
        if !key_faults.is_empty() {
            faults.invalid(&Path::new("key"), key, key_faults.join("; "));
        }
        values_faults(operator, &values, &mut faults);
        for (at, value) in values.iter().enumerate() {
            let value_faults = names::label_value(value);
            if !value_faults.is_empty() {
                faults.invalid(&Path::new("values").index(at).key(key), value, value_faults.join("; "));
            }
        }
        if faults.is_empty() {
            values.sort_unstable();
            values.dedup();
            return Ok(Requirement { key: key.to_owned(), operator, values });
        }
        Err(SelectorError(aggregate(&faults)))
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How the label and the values are related.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values, sorted.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether the labels meet the requirement.
    pub fn matches(&self, labels: &(impl LabelSet + ?Sized)) -> bool {
        let label = labels.label(&self.key);
        let is_listed = |label: &str| self.values.iter().any(|value| value == label);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => label.is_some_and(is_listed),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(is_listed),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |text: &str| text.parse::<i64>().ok();
                let (Some(label), Some(bound)) =
                    (label.and_then(number), self.values.first().and_then(|value| number(value)))
                else {
                    return false;
                };
                if self.operator == Operator::GreaterThan { label > bound } else { label < bound }
            }
        }
    }
}

fn values_faults(operator: Operator, values: &[String], faults: &mut FieldErrors) {
    let path = Path::new("values");
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            faults.invalid(&path, values, "for 'in', 'notin' operators, values set can't be empty");
        }
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
            faults.invalid(&path, values, "exact-match compatibility requires one single value");
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            faults.invalid(&path, values, "values set must be empty for exists and does not exist");
        }
        Operator::GreaterThan | Operator::LessThan => {
            if values.len() != 1 {
                faults.invalid(&path, values, "for 'Gt', 'Lt' operators, exactly one value is required");
            }
            for (at, value) in values.iter().enumerate().filter(|(_, value)| value.parse::<i64>().is_err()) {
                faults.invalid(&path.index(at), value, "for 'Gt', 'Lt' operators, the value must be an integer");
            }
        }
        _ => {}
    }
}

/// One fault as it is, several in brackets.
fn aggregate(faults: &FieldErrors) -> String {
    let texts: Vec<String> = faults.faults().iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        _ => format!("[{}]", texts.join(", ")),
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(formatter, "{key} in ({values})"),
            Operator::NotIn => write!(formatter, "{key} notin ({values})"),
            Operator::Equals => write!(formatter, "{key}={values}"),
            Operator::DoubleEquals => write!(formatter, "{key}=={values}"),
            Operator::NotEquals => write!(formatter, "{key}!={values}"),
            Operator::Exists => formatter.write_str(key),
            Operator::DoesNotExist => write!(formatter, "!{key}"),
            Operator::GreaterThan => write!(formatter, "{key}>{values}"),
            Operator::LessThan => write!(formatter, "{key}<{values}"),
        }
    }
}

/// Which objects are meant, by their labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// None.
    Nothing,
    /// Those that meet every requirement; all, if there is none. Sorted by key.
    All(Vec<Requirement>),
}

impl Default for Selector {
    /// Selects everything.
    fn default() -> Self {
        Selector::EVERYTHING
    }
}

impl Selector {
    /// Selects everything.
    pub const EVERYTHING: Selector = Selector::All(Vec::new());

    /// Reads a selector as clients send it: `a=b,c!=d,e in (f,g),h,!i,j>1`.
    ///
    /// # Errors
    /// Upstream's words; more than 10,000 requirements are refused as well.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        let mut requirements = parse::requirements(text)?;
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(Selector::All(requirements))
    }

    /// Selects what has all these labels. The labels are taken as valid.
    pub fn from_labels<K: AsRef<str>, V: AsRef<str>>(labels: impl IntoIterator<Item = (K, V)>) -> Selector {
        let equals = |(key, value): (K, V)| Requirement {
            key: key.as_ref().to_owned(),
            operator: Operator::Equals,
            values: vec![value.as_ref().to_owned()],
        };
        let mut requirements: Vec<Requirement> = labels.into_iter().map(equals).collect();
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Selector::All(requirements)
    }

    /// Selects what this selects and what meets the requirements as well.
    #[must_use]
    pub fn and(self, more: impl IntoIterator<Item = Requirement>) -> Selector {
        let Selector::All(mut requirements) = self else { return Selector::Nothing };
        requirements.extend(more);
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Selector::All(requirements)
    }

    /// What a `LabelSelector` selects: nothing if absent, everything if empty.
    pub fn from_object(selector: Option<&LabelSelector>) -> Result<Selector, SelectorError> {
        let Some(selector) = selector else { return Ok(Selector::Nothing) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            requirements.push(Requirement::new(
                &expression.key,
                operator,
                expression.values.clone().unwrap_or_default(),
            )?);
        }
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(Selector::All(requirements))
    }

    /// What the `LabelSelector` at a place of a tree selects.
    pub fn from_tree(selector: Option<&Value>) -> Result<Selector, SelectorError> {
        let Some(selector) = selector.filter(|selector| !selector.is_null()) else { return Ok(Selector::Nothing) };
        let typed = crate::value::from_value(selector).map_err(|error| SelectorError(error.to_string()))?;
        Selector::from_object(Some(&typed))
    }

    /// Whether the labels meet every requirement.
    pub fn matches(&self, labels: &(impl LabelSet + ?Sized)) -> bool {
        match self {
            Selector::Nothing => false,
            Selector::All(requirements) => requirements.iter().all(|requirement| requirement.matches(labels)),
        }
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        matches!(self, Selector::All(requirements) if requirements.is_empty())
    }

    /// The requirements; none for a selector of nothing.
    pub fn requirements(&self) -> &[Requirement] {
        match self {
            Selector::Nothing => &[],
            Selector::All(requirements) => requirements,
        }
    }

    /// The only value of the label that can match, if the selector pins one down.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements().iter().find(|requirement| requirement.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements().iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            write!(formatter, "{separator}{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
