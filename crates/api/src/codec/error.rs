//! What can be wrong with bytes that somebody sent or stored.

/// Bytes or a tree that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text is no JSON or YAML, or the bytes no protobuf; worded as upstream's parser does.
    #[error("{0}")]
    Syntax(String),
    /// A value has the wrong type; worded as Go's JSON decoder does.
    #[error("{0}")]
    Type(String),
    /// Deeper, or more expanded aliases, than is allowed.
    #[error("{0}")]
    Limit(String),
}

/// A tree that does not have the shape it is encoded by. Trees that went through `conform` cannot cause it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("encode {message}: field {field} is not of its type")]
pub struct EncodeError {
    /// The message's short name.
    pub message: String,
    /// The field's JSON name.
    pub field: String,
}
