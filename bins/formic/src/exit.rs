//! How a command ends: exit codes, and errors that say what to do next.

use std::fmt;
use std::process::ExitCode;

use formic_core::{Code, Error};

/// Exit code of a mistake that the user can mend (clap's own is 2, for wrong usage).
pub(crate) const USER: u8 = 1;
/// Exit code of something that does not answer.
pub(crate) const UNREACHABLE: u8 = 3;
/// Exit code of a call that was answered with an error.
pub(crate) const CALL: u8 = 4;
/// Exit code of a bug in Formic (`EX_SOFTWARE`).
pub(crate) const BUG: u8 = 70;
/// Exit code after Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// The table for `--help`.
pub(crate) const HELP: &str = "Exit codes: 0 done · 1 a mistake to mend · 2 wrong usage · 3 something does not answer · \
4 a call was answered with an error · 70 a bug in Formic · 130 interrupted";

/// The failure of a command.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    help: Option<String>,
    source: Option<anyhow::Error>,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None, source: None }
    }

    /// The user can mend it.
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(USER, message)
    }

    /// Something does not answer.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(UNREACHABLE, message)
    }

    /// Formic is at fault.
    pub(crate) fn bug(message: impl Into<String>) -> Self {
        Self::new(BUG, message)
    }

    /// Ended by Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new(INTERRUPTED, "")
    }

    /// A call was answered with an error; it has been shown already.
    pub(crate) fn answered() -> Self {
        Self::new(CALL, "")
    }

    /// Says what to do next.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Keeps the cause.
    pub(crate) fn because(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// A call to the daemon or to a service failed.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.code() {
            Code::Unavailable | Code::DeadlineExceeded => UNREACHABLE,
            Code::Internal | Code::Unknown | Code::DataLoss => BUG,
            _ => USER,
        };
        // What was refused is told in words that need no code.
        let refused = matches!(
            error.code(),
            Code::Aborted | Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound
        );
        let text = if refused && !error.message().is_empty() {
            error.message().to_owned()
        } else {
            error.to_string()
        };
        Self::new(code, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source:#}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        if self.code == BUG {
            write!(f, "\n  This is a bug in Formic; please report it with the command that led to it.")?;
        }
        Ok(())
    }
}

/// Prints a failure and gives the exit code.
pub(crate) fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                crate::output::talk(&format!("error: {failure}"));
            }
            ExitCode::from(failure.code)
        }
    }
}
