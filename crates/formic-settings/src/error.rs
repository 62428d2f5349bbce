//! What is wrong with a setting: which, what was expected, what was found and who said it.

use std::fmt;

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value of the wrong kind.
    #[error("the setting `{key}` is wrong: {expected}; it is set by {origin}")]
    Value {
        /// Which.
        key: String,
        /// What is wrong with it; a secret value is not shown.
        expected: String,
        /// Who set it.
        origin: String,
    },
    /// A value that somebody has to give, and nobody did.
    #[error("the setting `{key}` is missing: {hint}")]
    Missing {
        /// Which.
        key: String,
        /// Where it can be set.
        hint: String,
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
    /// A file that cannot be read.
    #[error("{file} cannot be used: {reason}")]
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
    /// Several faults, in the order in which they were found.
    #[error("{} settings are wrong:{}", .0.len(), List(.0))]
    Many(Vec<Error>),
}

impl Error {
    /// One error for all of them; none if there is none.
    pub(crate) fn of(mut faults: Vec<Self>) -> Option<Self> {
        if faults.len() > 1 { Some(Self::Many(faults)) } else { faults.pop() }
    }
}

struct List<'a>(&'a [Error]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}
