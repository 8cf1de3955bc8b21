//! Reads label selectors: a scanner for tokens and a parser without recursion.
//!
//! Upstream: `k8s.io/apimachinery/pkg/labels`; the odd wording of errors is its.

use super::{Operator, Requirement, SelectorError};
use crate::names;

/// Far more than any client sends; keeps the work for hostile selectors bounded.
const REQUIREMENTS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Close,
    Open,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    NotEquals,
    Greater,
    Less,
    /// A word; `in` and `notin` are words that become operators where one is expected.
    Word(&'a str),
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::End => "",
            Token::Close => ")",
            Token::Open => "(",
            Token::Comma => ",",
            Token::Not => "!",
            Token::DoubleEquals => "==",
            Token::Equals => "=",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Word(word) => word,
        }
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Token<'a> {
        Scanner { rest: self.rest }.next()
    }

    fn next(&mut self) -> Token<'a> {
        const SYMBOLS: [(&str, Token<'static>); 9] = [
            ("==", Token::DoubleEquals),
            ("!=", Token::NotEquals),
            ("=", Token::Equals),
            ("!", Token::Not),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
            (">", Token::Greater),
            ("<", Token::Less),
        ];
        self.rest = self.rest.trim_start_matches(is_space);
        for (symbol, token) in SYMBOLS {
            if let Some(rest) = self.rest.strip_prefix(symbol) {
                self.rest = rest;
                return token;
            }
        }
        let end = self.rest.find(|letter| is_space(letter) || "=!(),><\0".contains(letter)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() { Token::End } else { Token::Word(word) }
    }
}

fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\r' | '\n')
}

fn error<T>(message: String) -> Result<T, SelectorError> {
    Err(SelectorError(message))
}

/// The requirements in the order of the text.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut scanner = Scanner { rest: text };
    let mut requirements = Vec::new();
    while requirements.len() < REQUIREMENTS_MAX {
        match scanner.peek() {
            Token::End => return Ok(requirements),
            Token::Word(_) | Token::Not => {}
            other => return error(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
        }
        let requirement = requirement(&mut scanner)
            .map_err(|SelectorError(message)| SelectorError(format!("unable to parse requirement: {message}")))?;
        requirements.push(requirement);
        match scanner.next() {
            Token::End => return Ok(requirements),
            Token::Comma => match scanner.peek() {
                Token::Word(_) | Token::Not => {}
                other => return error(format!("found '{}', expected: identifier after ','", other.text())),
            },
            other => return error(format!("found '{}', expected: ',' or 'end of string'", other.text())),
        }
    }
    error(format!("more than {REQUIREMENTS_MAX} requirements"))
}

fn requirement(scanner: &mut Scanner<'_>) -> Result<Requirement, SelectorError> {
    let (negated, first) = match scanner.next() {
        Token::Not => (true, scanner.next()),
        other => (false, other),
    };
    let Token::Word(key) = first else {
        return error(format!("found '{}', expected: identifier", first.text()));
    };
    let faults = names::qualified_name(key);
    if !faults.is_empty() {
        return error(format!("<nil>: Invalid value: {}: {}", crate::field::shown(key), faults.join("; ")));
    }
    if negated {
        return Requirement::new(key, Operator::DoesNotExist, Vec::new());
    }
    if matches!(scanner.peek(), Token::End | Token::Comma) {
        return Requirement::new(key, Operator::Exists, Vec::new());
    }
    let operator = operator(scanner.next())?;
    let values = match operator {
        Operator::In | Operator::NotIn => set(scanner)?,
        _ => vec![exact_value(scanner)?],
    };
    Requirement::new(key, operator, values)
}

fn operator(token: Token<'_>) -> Result<Operator, SelectorError> {
    match token {
        Token::Word("in") => Ok(Operator::In),
        Token::Word("notin") => Ok(Operator::NotIn),
        Token::Equals => Ok(Operator::Equals),
        Token::DoubleEquals => Ok(Operator::DoubleEquals),
        Token::NotEquals => Ok(Operator::NotEquals),
        Token::Greater => Ok(Operator::GreaterThan),
        Token::Less => Ok(Operator::LessThan),
        other => error(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
    }
}

fn exact_value(scanner: &mut Scanner<'_>) -> Result<String, SelectorError> {
    if matches!(scanner.peek(), Token::End | Token::Comma) {
        return Ok(String::new());
    }
    match scanner.next() {
        Token::Word(value) => Ok(value.to_owned()),
        other => error(format!("found '{}', expected: identifier", other.text())),
    }
}

/// `(a,,b)`: an empty place stands for the empty value.
fn set(scanner: &mut Scanner<'_>) -> Result<Vec<String>, SelectorError> {
    let open = scanner.next();
    if open != Token::Open {
        return error(format!("found '{}' expected: '('", open.text()));
    }
    match scanner.peek() {
        Token::Close => {
            scanner.next();
            return Ok(vec![String::new()]);
        }
        Token::Word(_) | Token::Comma => {}
        other => return error(format!("found '{}', expected: ',', ')' or identifier", other.text())),
    }
    let mut values = Vec::new();
    loop {
        match scanner.next() {
            Token::Word(value) => {
                values.push(value.to_owned());
                match scanner.peek() {
                    Token::Comma => {}
                    Token::Close => break,
                    other => return error(format!("found '{}', expected: ',' or ')'", other.text())),
                }
            }
            Token::Comma => {
                let next = scanner.peek();
                if values.is_empty() || matches!(next, Token::Close | Token::Comma) {
                    values.push(String::new());
                }
                if next == Token::Close {
                    break;
                }
            }
            other => return error(format!("found '{}', expected: ',', or identifier", other.text())),
        }
    }
    // The loop ends before a closing parenthesis only.
    scanner.next();
    Ok(values)
}
