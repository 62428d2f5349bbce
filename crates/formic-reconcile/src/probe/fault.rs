//! Why a probe failed, in a line for people. Two are the same fault if they are of the same kind: a page that
//! says the time in its text is not another one with each answer.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use formic_core::Error;
use formic_supervise::Answer;

use crate::shown::{plain, without_passwords};
use formic_core::error::in_full;

/// So much of what was answered is told.
const SAID: usize = 160;
/// So much of it is looked at: more than any secret has that is likely to stand in it, so that none is cut before it is
/// hidden.
const LOOKED_AT: usize = 4 << 10;

/// A failure of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What makes it another one than the one before.
    kind: String,
    /// What came with it, as it came: what is secret in it is hidden where it is told, before it is cut.
    said: String,
}

impl Fault {
    pub(super) fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), said: String::new() }
    }

    /// With the first line of what was said.
    fn with(self, said: &[u8]) -> Self {
        let text = String::from_utf8_lossy(said);
        let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        Self { said: first.chars().take(LOOKED_AT).collect(), ..self }
    }

    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// What is told of it, once `hide` has taken secrets out of its texts.
    pub(super) fn in_words(&self, hide: impl FnOnce(&mut [String; 2])) -> String {
        let mut texts = [self.kind.clone(), self.said.clone()];
        // First of all: half a secret would not be found any more, nor one whose characters are escaped.
        hide(&mut texts);
        let [kind, said] = texts;
        let mut said = plain(&without_passwords(&said));
        if let Some((at, _)) = said.char_indices().nth(SAID) {
            said.truncate(at);
            said.push('…');
        }
        if said.is_empty() { kind } else { format!("{kind}: {said}") }
    }

    /// Nothing accepts a connection there.
    pub(super) fn connect(addr: SocketAddr, error: &io::Error) -> Self {
        Self::new(format!("{} at {addr}", words(error)))
    }

    /// A connection ended before there was an answer.
    pub(super) fn cut_off(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::new("it closed the connection without an answer"),
            _ => Self::new(format!("no answer: {}", words(error))),
        }
    }

    /// A call failed.
    pub(super) fn call(error: &Error) -> Self {
        let (code, text) = (error.code(), in_full(error));
        let said = text.strip_prefix(&format!("{code}: ")).unwrap_or_default();
        Self::new(format!("grpc.health.v1: {code}")).with(said.as_bytes())
    }

    /// A page that is no success, or none at all.
    pub(super) fn page(page: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&page[..page.len().min(12)]).into_owned();
        let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
        let Some(status) = status.filter(|status| status.bytes().all(|byte| byte.is_ascii_digit())) else {
            return Self::new("it answers no HTTP").with(page);
        };
        let end = [&b"\r\n\r\n"[..], b"\n\n"]
            .iter()
            .find_map(|end| page.windows(end.len()).position(|at| at == *end).map(|at| at + end.len()));
        let Some(end) = end else {
            return Self::new(format!("HTTP {status}, and the head of the answer has no end"));
        };
        let (head, mut body) = page.split_at(end);
        if String::from_utf8_lossy(head).to_ascii_lowercase().contains("\ntransfer-encoding: chunked") {
            // Before the first chunk stands its length.
            body = body.iter().position(|byte| *byte == b'\n').map_or(body, |at| &body[at..]);
        }
        Self::new(format!("HTTP {status}")).with(body)
    }

    /// A command ended without success.
    pub(super) fn command(answer: &Answer) -> Self {
        match answer.status {
            Some(status) => {
                Self::new(format!("the command of its probe ended with {status}")).with(&answer.said)
            }
            None => Self::new("it is being ended"),
        }
    }

    /// A command cannot be run.
    pub(super) fn no_command(error: &io::Error) -> Self {
        Self::new(format!("the command of its probe cannot be run: {}", words(error)))
    }
}

/// Where there are no secrets.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(|_| ()))
    }
}

/// What people need of an error of the system's.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> String {
        Fault::page(text.as_bytes()).to_string()
    }

    #[test]
    fn a_page_is_told_by_its_status_and_the_first_line_of_its_body() {
        assert_eq!(page("HTTP/1.1 503 Nope\r\nA: b\r\n\r\n"), "HTTP 503");
        assert_eq!(page("HTTP/1.0 500 x\n\n\n  no db:\u{1b}[2J\t1\nmore"), "HTTP 500: no db:\\u{1b}[2J\\t1");
        let chunked = "HTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nwarming\r\n0\r\n\r\n";
        assert_eq!(page(chunked), "HTTP 503: warming");
        assert_eq!(
            page("HTTP/1.1 200 OK\r\nServer: x\r\n"),
            "HTTP 200, and the head of the answer has no end"
        );
        assert_eq!(page("SSH-2.0-x\r\n"), "it answers no HTTP: SSH-2.0-x");
        assert_eq!(
            page("HTTP/1.1 503 x\r\n\r\nredis://u:pass@h down"),
            "HTTP 503: redis://u:(hidden)@h down"
        );
        let long = page(&format!("HTTP/1.1 503 x\r\n\r\n{}", "ä".repeat(500)));
        assert_eq!(long, format!("HTTP 503: {}…", "ä".repeat(160)));
    }

    #[test]
    fn what_comes_with_it_makes_no_other_fault() {
        let (a, b) =
            (Fault::page(b"HTTP/1.1 503 x\r\n\r\n12:00"), Fault::page(b"HTTP/1.1 503 x\r\n\r\n12:01"));
        assert!(a != b && a.kind() == b.kind());
        assert_ne!(a.kind(), Fault::page(b"HTTP/1.1 500 x\r\n\r\n12:00").kind());
    }

    #[test]
    fn what_is_secret_is_hidden_before_the_rest_is_cut() {
        let hide = |texts: &mut [String; 2]| {
            for text in texts {
                *text = text.replace("hunter2\thunter2", "[secret db]");
            }
        };
        let told = |said: &str| Fault::new("a").with(said.as_bytes()).in_words(hide);
        let before = "x".repeat(155);
        assert_eq!(told(&format!("{before}hunter2\thunter2")), format!("a: {before}[secr…"));
        assert_eq!(told(&format!("{before} redis://u:pass@h")), format!("a: {before} redi…"));
        assert_eq!(told("--token=hunter2\thunter2"), "a: --token=(hidden) db]");
        assert_eq!(told(&"ä".repeat(LOOKED_AT * 2)), format!("a: {}…", "ä".repeat(SAID)));
        assert_eq!(Fault::new("hunter2\thunter2").in_words(hide), "[secret db]");
    }
}
