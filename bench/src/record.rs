//! What the driver of a scene writes down and the bench reads: every call, and what the caller's view said of
//! every instance, as lines of text.
//!
//! Percentiles and series are made of it afterwards, by the bench: so each scene looks at the same record in
//! its own way, and nothing is averaged away before.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970: the one clock that processes of a machine share without further ado.
pub type Micros = u64;

/// What kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// May be repeated.
    Read,
    /// May not.
    Write,
    /// A stream of answers, which may not.
    Watch,
}

/// A call as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it began.
    pub began: Micros,
    /// How long it took.
    pub took: Micros,
    /// Of which part of the load it was.
    pub phase: usize,
    /// What kind it was.
    pub kind: Kind,
    /// Whether it was marked as important.
    pub important: bool,
    /// How it failed, if it did; `shed:` before it where the server turned it away.
    pub failed: Option<String>,
    /// Who answered, if anybody did.
    pub instance: Option<String>,
}

/// What the caller's view said of an instance at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Micros,
    /// Which instance.
    pub instance: String,
    /// Its state.
    pub state: String,
    /// Calls on their way to it.
    pub in_flight: u32,
}

/// A line of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A call.
    Call(Call),
    /// A look at the view.
    Seen(Seen),
}

/// Now.
#[must_use]
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

// === impl Kind ===

impl Kind {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Read, "read"), (Self::Write, "write"), (Self::Watch, "watch")];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

// === impl Line ===

impl Line {
    /// Appends the line to a text.
    pub fn write(&self, to: &mut String) {
        // Writing to a string cannot fail.
        let _ = match self {
            Self::Call(call) => writeln!(
                to,
                "call {} {} {} {} {} {} {}",
                call.began,
                call.took,
                call.phase,
                call.kind.as_str(),
                u8::from(call.important),
                call.failed.as_deref().unwrap_or("-"),
                call.instance.as_deref().unwrap_or("-"),
            ),
            Self::Seen(seen) => {
                writeln!(to, "seen {} {} {} {}", seen.at, seen.instance, seen.state, seen.in_flight)
            }
        };
    }

    /// Reads a line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let given = |word: &str| (word != "-").then(|| word.to_owned());
        let read = match words.next()? {
            "call" => {
                let (began, took) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let (phase, kind) = (words.next()?.parse().ok()?, words.next()?);
                let kind = Kind::ALL.iter().find(|(_, name)| *name == kind)?.0;
                let important = words.next()? == "1";
                let (failed, instance) = (given(words.next()?), given(words.next()?));
                Self::Call(Call { began, took, phase, kind, important, failed, instance })
            }
            "seen" => {
                let (at, instance, state) =
                    (words.next()?.parse().ok()?, words.next()?.into(), words.next()?.into());
                Self::Seen(Seen { at, instance, state, in_flight: words.next()?.parse().ok()? })
            }
            _ => return None,
        };
        words.next().is_none().then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let call = Call {
            began: 1_700_000_000_000_000,
            took: 1_234,
            phase: 2,
            kind: Kind::Watch,
            important: true,
            failed: Some("shed:unavailable".into()),
            instance: None,
        };
        let seen = Seen { at: 7, instance: "a-1".into(), state: "ejected".into(), in_flight: 3 };
        let lines = [
            Line::Call(Call { failed: None, instance: Some("a".into()), important: false, ..call.clone() }),
            Line::Call(call),
            Line::Seen(seen),
        ];
        let mut text = String::new();
        lines.iter().for_each(|line| line.write(&mut text));
        let read: Vec<_> = text.lines().map(|line| Line::parse(line).expect(line)).collect();
        assert_eq!(read, lines);
        for bad in ["", "call", "call 1 2 3 walk 0 - -", "seen 1 a ready x", "seen 1 a ready 1 1"] {
            assert_eq!(Line::parse(bad), None, "{bad}");
        }
    }
}
