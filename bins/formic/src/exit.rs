//! How a command ends: exit codes, and errors that say what to do next. With `--json` the same is told to programs, as
//! the last object on standard output; here, so that no verb can forget it.

use std::fmt;
use std::process::ExitCode;

use formic_core::{Code, Error};
use serde_json::{Map, Value, json};

/// Exit code of a mistake that the user can mend (clap's own is 2, for wrong usage).
pub(crate) const USER: u8 = 1;
/// Exit code of wrong usage (clap's own).
pub(crate) const USAGE: u8 = 2;
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
    exit: u8,
    /// What programs call it.
    code: &'static str,
    message: String,
    help: Option<String>,
    source: Option<anyhow::Error>,
    more: Box<More>,
    /// People have been told already.
    told: bool,
}

/// What only programs are told. Failures pass through many hands, and are to be small.
#[derive(Debug, Default)]
struct More {
    /// Of the error itself.
    details: Map<String, Value>,
    /// Beside it.
    beside: Map<String, Value>,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    fn new(exit: u8, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code,
            message: message.into(),
            help: None,
            source: None,
            more: Box::default(),
            told: false,
        }
    }

    /// The user can mend it.
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(USER, "mistake", message)
    }

    /// Something does not answer.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(UNREACHABLE, "unreachable", message)
    }

    /// Before a person has mended it, no other try can do better: a keeper makes none.
    pub(crate) fn hopeless(mut self) -> Self {
        self.exit = formic_supervise::keeper::HOPELESS;
        self
    }

    /// Formic is at fault.
    pub(crate) fn bug(message: impl Into<String>) -> Self {
        Self::new(BUG, "bug", message)
    }

    /// Ended by Ctrl-C, which nobody at a terminal needs to be told.
    pub(crate) fn interrupted() -> Self {
        Self { told: true, ..Self::new(INTERRUPTED, "interrupted", "interrupted") }
    }

    /// A call was answered with an error, or not in time. People have been shown it already.
    pub(crate) fn answered(error: &Error) -> Self {
        let exit = match error.code() {
            Code::Unavailable if error.is_unsent() => UNREACHABLE,
            // Whether the service said so or nobody did is a matter of a millisecond.
            Code::DeadlineExceeded => UNREACHABLE,
            _ => CALL,
        };
        let failure = Self::new(exit, error.code().as_str(), error.message());
        Self { told: true, ..failure }.with_details(error)
    }

    /// Says what to do next.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What programs are to get although it failed: fields of an object.
    pub(crate) fn beside(mut self, data: Value) -> Self {
        if let Value::Object(fields) = data {
            self.more.beside.extend(fields);
        }
        self
    }

    fn with_details(mut self, error: &Error) -> Self {
        self.more.details = details(error);
        self
    }

    /// Keeps the cause.
    pub(crate) fn because(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The message with its causes.
    fn text(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {source:#}", self.message),
            None => self.message.clone(),
        }
    }

    /// The same for programs.
    fn to_json(&self) -> Value {
        let mut error = Map::new();
        error.insert("code".into(), self.code.into());
        error.insert("exit".into(), self.exit.into());
        error.insert("message".into(), self.text().into());
        error.insert("hint".into(), self.help.clone().into());
        error.extend(self.more.details.clone());
        let mut all = self.more.beside.clone();
        all.insert("error".into(), error.into());
        all.into()
    }
}

/// What else an error of a call has, as far as it has it.
fn details(error: &Error) -> Map<String, Value> {
    let fields: Vec<Value> = error
        .fields()
        .into_iter()
        .map(|field| json!({ "field": field.field, "description": field.description }))
        .collect();
    let types: Vec<Value> =
        error.details().iter().map(|detail| json!({ "type": detail.type_name })).collect();
    let mut details = Map::new();
    if let Some(info) = error.info() {
        details.insert("reason".into(), info.reason.into());
    }
    for (name, values) in [("fields", fields), ("details", types)] {
        if !values.is_empty() {
            details.insert(name.into(), values.into());
        }
    }
    details
}

/// A call to the daemon or to a service failed.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.code() {
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
        let failure = Self::new(exit, error.code().as_str(), text).with_details(&error);
        match error.code() {
            // Another was quicker.
            Code::Aborted => {
                failure.help("`formic history` says what has changed since; look at `formic plan` again")
            }
            _ => failure,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        if self.exit == BUG {
            write!(f, "\n  This is a bug in Formic; please report it with the command that led to it.")?;
        }
        Ok(())
    }
}

/// Prints a failure, to programs too if they asked for it, and gives the exit code.
pub(crate) fn finish(outcome: Outcome, json: bool) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    if json {
        // On one line, as those that stream have it. That nobody reads it is no other failure.
        let _ = crate::output::try_line(&failure.to_json().to_string());
    }
    if !failure.told {
        crate::output::talk(&format!("error: {failure}"));
    }
    ExitCode::from(failure.exit)
}

/// The end of a command line that cannot be read: clap's own, and for programs the same as everything else.
pub(crate) fn misused(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        let text = error.render().to_string();
        let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
        let message = message.strip_prefix("error: ").unwrap_or(message).trim();
        let failure = Failure::new(USAGE, "usage", message).help(rest.trim());
        let _ = crate::output::try_line(&failure.to_json().to_string());
    }
    // A terminal that is gone is no other failure.
    let _ = error.print();
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_what_people_are_told() {
        let cause = std::io::Error::other("it is not there");
        let failure =
            Failure::user("cannot read x").because(cause).help("make one").beside(json!({ "app": "a" }));
        assert_eq!(
            failure.to_json(),
            json!({ "app": "a", "error": {
                "code": "mistake", "exit": 1, "message": "cannot read x: it is not there", "hint": "make one",
            } })
        );
        assert_eq!(failure.to_string(), "cannot read x: it is not there\n  help: make one");
        let stale = Failure::from(Error::aborted("index 1 is not the present one, which is 2"));
        let told = &stale.to_json()["error"];
        assert_eq!((&told["code"], &told["exit"]), (&json!("aborted"), &json!(1)));
        assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("formic history")), "{told}");
        let refused = Error::invalid_argument("no").with_field("email", "is none");
        let told = &Failure::answered(&refused).to_json()["error"];
        assert_eq!((&told["exit"], &told["fields"][0]["field"]), (&json!(4), &json!("email")));
    }
}
