//! What is wrong with a setting: which, what was expected, what was found and who said it.

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value of the wrong kind.
    #[error("the setting `{key}` is wrong: {expected}; it is set by {origin}")]
    Value {
        /// Which.
        key: String,
        /// What is wrong with it.
        expected: String,
        /// Who set it.
        origin: String,
    },
    /// A flag that does not exist.
    #[error("there is no flag {flag:?}{hint}")]
    Flag {
        /// As it was written.
        flag: String,
        /// A suggestion, or nothing.
        hint: String,
    },
    /// A flag without its value.
    #[error("the flag {0} needs a value")]
    NoValue(String),
    /// A key that does not exist.
    #[error("there is no setting `{key}`{hint}; it is set by {origin}")]
    Key {
        /// Which.
        key: String,
        /// A suggestion, or nothing.
        hint: String,
        /// Who set it.
        origin: String,
    },
    /// A file that does not parse.
    #[error("{file} does not parse: {reason}")]
    File {
        /// Which.
        file: String,
        /// Why.
        reason: String,
    },
    /// A variable that does not parse.
    #[error("the variable {name} does not parse: {reason}")]
    Variable {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
}
