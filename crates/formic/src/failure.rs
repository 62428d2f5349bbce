//! Why a service could not start or had to end: for its operator, with what to do next.

use std::fmt;

/// The failure of a whole service. Prints its causes; `?` takes any error.
pub struct Failure {
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    code: u8,
}

/// Exit code of a fault in settings or environment (`EX_CONFIG`); a supervisor should not try again.
pub(crate) const CONFIG: u8 = 78;

impl Failure {
    /// A failure in words.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None, code: 1 }
    }

    /// A failure of settings: trying again as things stand is of no use.
    pub fn config(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None, code: CONFIG }
    }

    /// Keeps the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The exit code that the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.code
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        // The error's own text leads; its causes follow.
        Self { message: String::new(), source: Some(Box::new(error)), code: 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if !self.message.is_empty() {
            f.write_str(&self.message)?;
            separator = ": ";
        }
        let mut cause = self.source.as_deref().map(|source| source as &dyn std::error::Error);
        while let Some(error) = cause {
            write!(f, "{separator}{error}")?;
            separator = ": ";
            cause = error.source();
        }
        Ok(())
    }
}

/// `fn main` prints errors by `Debug`, so this is for people too.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
