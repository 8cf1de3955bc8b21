//! What a pod network answers when it cannot do what was asked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A failed operation, as CNI reports it: a code to act by and a text to read.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// What the caller may do about it.
    pub code: Code,
    /// What was attempted and on what, lower case.
    pub message: String,
    /// What made it fail.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl CniError {
    /// A failure with no cause below it.
    pub fn new(code: Code, message: impl Into<String>) -> CniError {
        CniError { code, message: message.into(), source: None }
    }

    /// A failure of `message` because of `source`.
    pub fn because(
        code: Code,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> CniError {
        CniError { code, message: message.into(), source: Some(Box::new(source)) }
    }

    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        self.code == Code::TryAgainLater
    }
}

/// CNI's error codes; numbers from 100 on are a plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub enum Code {
    /// The protocol version is not spoken.
    IncompatibleVersion,
    /// The configuration or request has a field that is not supported; the message names it and its value.
    UnsupportedField,
    /// The container is unknown or gone; there is nothing left to clean up.
    UnknownContainer,
    /// A parameter of the call is missing or malformed.
    InvalidParameters,
    /// A read or write failed.
    Io,
    /// What came in could not be decoded.
    Decode,
    /// The network configuration is invalid.
    InvalidConfiguration,
    /// A passing condition: the caller should try again later.
    TryAgainLater,
    /// The network cannot take new containers (answer to a status call).
    NotAvailable,
    /// As [`Code::NotAvailable`], and existing containers may have limited connectivity.
    LimitedConnectivity,
    /// A code of the plugin's own.
    Plugin(u32),
}

const NUMBERS: [(Code, u32); 10] = [
    (Code::IncompatibleVersion, 1),
    (Code::UnsupportedField, 2),
    (Code::UnknownContainer, 3),
    (Code::InvalidParameters, 4),
    (Code::Io, 5),
    (Code::Decode, 6),
    (Code::InvalidConfiguration, 7),
    (Code::TryAgainLater, 11),
    (Code::NotAvailable, 50),
    (Code::LimitedConnectivity, 51),
];

impl From<u32> for Code {
    fn from(number: u32) -> Code {
        NUMBERS.iter().find(|(_, known)| *known == number).map_or(Code::Plugin(number), |(code, _)| *code)
    }
}

impl From<Code> for u32 {
    fn from(code: Code) -> u32 {
        match code {
            Code::Plugin(number) => number,
            known => NUMBERS.iter().find(|(code, _)| *code == known).expect("every other code has a number").1,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", u32::from(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_its_number() {
        for number in (0..=12).chain(50..=52).chain([100, 4000]) {
            assert_eq!(u32::from(Code::from(number)), number);
        }
        assert_eq!(Code::from(11), Code::TryAgainLater);
        assert_eq!(Code::from(8), Code::Plugin(8));
    }
}
