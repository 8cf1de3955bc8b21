//! Field selectors: `metadata.name=a,status.phase!=Running`.
//!
//! Upstream: `k8s.io/apimachinery/pkg/fields`.

use std::fmt;

use super::SelectorError;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldTerm {
    /// Such as `spec.nodeName`.
    pub field: String,
    pub value: String,
    /// Whether the field must differ from the value rather than equal it.
    pub negated: bool,
}

/// Which objects are meant, by a few declared fields; all of them, if there is no term.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldSelector(pub Vec<FieldTerm>);

/// As for label selectors: bounds the work for hostile ones.
const TERMS_MAX: usize = 10_000;

impl FieldSelector {
    /// Reads a field selector. Which fields there are is the kind's business.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = Vec::new();
        for part in split_terms(text).filter(|part| !part.is_empty()) {
            if terms.len() == TERMS_MAX {
                return Err(SelectorError(format!("more than {TERMS_MAX} terms")));
            }
            let (field, negated, value) = split_term(part)
                .ok_or_else(|| SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'")))?;
            terms.push(FieldTerm { field: field.to_owned(), value: unescaped(value)?, negated });
        }
        terms.sort_by(|left, right| left.field.cmp(&right.field));
        Ok(FieldSelector(terms))
    }

    /// One field equals one value.
    pub fn equals(field: &str, value: &str) -> FieldSelector {
        FieldSelector(vec![FieldTerm { field: field.to_owned(), value: value.to_owned(), negated: false }])
    }

    /// Whether the object meets every term; `value` gives the object's fields, absent ones as empty text.
    pub fn matches<'v>(&self, value: impl Fn(&str) -> &'v str) -> bool {
        self.0.iter().all(|term| (value(&term.field) == term.value) != term.negated)
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The only value of the field that can match, if the selector pins one down.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let term = self.0.iter().find(|term| term.field == field && !term.negated)?;
        Some(&term.value)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            let operator = if term.negated { "!=" } else { "=" };
            write!(formatter, "{separator}{}{operator}{}", term.field, escaped(&term.value))?;
        }
        Ok(())
    }
}

/// The parts between commas that no backslash precedes.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut after_backslash = false;
    text.split(move |letter| {
        let escaped = after_backslash;
        after_backslash = letter == '\\' && !escaped;
        letter == ',' && !escaped
    })
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    term.char_indices().find_map(|(at, _)| {
        let (field, rest) = term.split_at(at);
        [("!=", true), ("==", false), ("=", false)]
            .iter()
            .find_map(|(operator, negated)| rest.strip_prefix(operator).map(|value| (field, *negated, value)))
    })
}

fn unescaped(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(SelectorError(format!("invalid field selector: invalid escape sequence: {sequence}")));
                }
            },
            // Upstream prints the character's number.
            ',' | '=' => {
                let number = u32::from(letter);
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {number}")));
            }
            plain => out.push(plain),
        }
    }
    Ok(out)
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}
