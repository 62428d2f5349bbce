//! The cause of a service's present state, in a paragraph.

use std::collections::BTreeSet;
use std::time::Duration;

use formic_plan::ServiceState;
use formic_spec::HumanDuration;

use crate::journal::{Entry, Kind};
use crate::view::{ServiceView, View};

/// So many of the last decisions are told.
const LATELY: usize = 4;

/// Why a service is as it is; nothing if there is none of the name. `now` is in milliseconds since 1970.
#[must_use]
pub fn why(view: &View, entries: &[Entry], service: &str, now_unix_ms: i64) -> Option<String> {
    let row = view.services.iter().find(|row| row.name == service)?;
    let mut text = format!("{}, revision {}, index {}.", state(row), row.version, view.index);
    if !row.reason.is_empty() {
        text.push_str(&format!(" {}.", upper(&row.reason)));
    }
    let mut told = BTreeSet::from([service]);
    blame(view, row, &mut told, &mut text);
    let own = |entry: &&Entry| entry.service == service;
    if let Some(change) = entries.iter().rev().find(|entry| entry.kind == Kind::Applied) {
        text.push_str(&format!(" {} ago {}.", ago(change, now_unix_ms), change.text));
    }
    let mut lately: Vec<&Entry> = entries.iter().rev().filter(own).take(LATELY).collect();
    lately.reverse();
    if !lately.is_empty() {
        let lines: Vec<String> =
            lately.iter().map(|entry| format!("{} ago {}", ago(entry, now_unix_ms), line(entry))).collect();
        text.push_str(&format!(" Lately: {}.", lines.join("; ")));
    }
    Some(text)
}

/// `order is degraded, 1 of 2 instances ready`.
fn state(row: &ServiceView) -> String {
    format!("{} is {}, {} of {} instances ready", row.name, row.state, row.ready, row.wanted)
}

/// What it waits for, and why that is not there either.
fn blame<'a>(view: &'a View, row: &'a ServiceView, told: &mut BTreeSet<&'a str>, text: &mut String) {
    if row.state != ServiceState::Pending {
        return;
    }
    for name in &row.depends_on {
        let Some(needed) = view.services.iter().find(|row| row.name == *name) else { continue };
        if needed.ready > 0 || !told.insert(name) {
            continue;
        }
        text.push_str(&format!(" {}", state(needed)));
        if !needed.reason.is_empty() {
            text.push_str(&format!(": {}", needed.reason));
        }
        text.push('.');
        blame(view, needed, told, text);
    }
}

fn line(entry: &Entry) -> String {
    if entry.instance.is_empty() { entry.text.clone() } else { format!("{} {}", entry.instance, entry.text) }
}

fn ago(entry: &Entry, now: i64) -> HumanDuration {
    let millis = u64::try_from(now.saturating_sub(entry.unix_ms)).unwrap_or_default();
    // Whole seconds past the first: nobody wants to read 3m12s417ms.
    let millis = if millis > 1000 { millis / 1000 * 1000 } else { millis };
    HumanDuration::from(Duration::from_millis(millis))
}

fn upper(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn row(name: &str, state: ServiceState, ready: u32, depends_on: &[&str], reason: &str) -> ServiceView {
        ServiceView {
            name: name.into(),
            version: "abc".into(),
            state,
            ready,
            wanted: 1,
            instances: Vec::new(),
            system: false,
            reason: reason.into(),
            depends_on: depends_on.iter().map(|&name| name.into()).collect(),
        }
    }

    fn entry(unix_ms: i64, kind: Kind, service: &str, text: &str) -> Entry {
        let (instance, text) = (if service.is_empty() { "" } else { "user-1" }.to_owned(), text.into());
        Entry { sequence: 0, unix_ms, kind, service: service.into(), instance, text }
    }

    #[test]
    fn the_cause_of_the_cause_is_told_once() {
        let services = vec![
            row("order", ServiceState::Pending, 0, &["user", "pay"], "needs user, pay"),
            row("pay", ServiceState::Pending, 0, &["user"], "needs user"),
            row(
                "user",
                ServiceState::Backoff,
                0,
                &["order"],
                "user/0 exited with code 1, starts again in 2s",
            ),
        ];
        let view = View { services, index: 3, ..View::default() };
        let entries = [
            entry(1_000, Kind::Applied, "", "index 3 by apply: user changed"),
            entry(9_500, Kind::Exit, "user", "ended by itself: exit code 1"),
        ];
        let text = why(&view, &entries, "order", 10_000).unwrap();
        assert_eq!(
            text,
            "order is pending, 0 of 1 instances ready, revision abc, index 3. Needs user, pay. user is \
             backoff, 0 of 1 instances ready: user/0 exited with code 1, starts again in 2s. pay is \
             pending, 0 of 1 instances ready: needs user. 9s ago index 3 by apply: user changed."
        );
        let text = why(&view, &entries, "user", 10_000).unwrap();
        assert!(text.ends_with("Lately: 500ms ago user-1 ended by itself: exit code 1."), "{text}");
        assert_eq!(why(&view, &entries, "nobody", 10_000), None);
    }
}
