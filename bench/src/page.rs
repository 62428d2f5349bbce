//! The results pages: written by the bench down to a mark, and by people below it.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::machine::Machine;
use crate::report::{Report, Row, micros};
use crate::wire::Found;

/// What is below this line is kept when the page is written anew.
const MARK: &str = "<!-- Written by hand from here on: the bench keeps it. -->";

pub(crate) fn write(path: &Path, report: &Report) -> Result<()> {
    keep(path, &render(report))
}

/// Writes a page anew, but for what people wrote below it.
pub(crate) fn keep(path: &Path, page: &str) -> Result<()> {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    let kept = old.split_once(MARK).map_or("", |(_, kept)| kept);
    let page = format!("{page}\n{MARK}{}", if kept.is_empty() { "\n" } else { kept });
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    std::fs::write(path, page).with_context(|| format!("write {}", path.display()))
}

/// The page about the multiplexed wire.
pub(crate) fn wire(machine: &Machine, load: &str, found: &Found) -> String {
    let mut page = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{text}");
    };
    line("# The multiplexed wire: streams, idle connections, bad weather\n".into());
    line("Written by `cargo xtask bench wire`; run it to get your own.\n".into());
    line(format!(
        "{}, {} cores ({}), {}. {load}. Load average beforehand {}.\n",
        machine.date,
        machine.cores,
        machine.processor,
        machine.system,
        machine.load_average.map_or("unknown".into(), |load| format!("{load:.2}")),
    ));
    line("Client and server are processes of their own on the loopback, on one connection (Formic over HTTP opens up to two). Values are \
          medians over the rounds; × is the ratio to the first of its group within each round, and of those the median. p99 of a \
          stream is the time between two of its messages. Errors are those of all rounds: connections that tonic's client gives up, at \
          most one for a thousand messages; nobody else may have any.\n".into());
    line("| what | subject | a second | × | p99 µs | × | client µs | errors |".into());
    line("|---|---|---|---|---|---|---|---|".into());
    for row in &found.rows {
        line(format!(
            "| {} | {} | {:.0} | {:.2} | {} | {} | {} | {} |",
            row.what,
            row.subject,
            row.rate,
            row.rate_ratio,
            said(row.p99_us, 1),
            said(row.p99_ratio, 2),
            row.client_cpu_us.map_or("–".into(), |value| format!("{value:.2}")),
            row.errors,
        ));
    }
    line(format!("\n{}. Each has made a call; memory is the server's resident set.", found.idle));
    line("\n## Bad weather\n".into());
    line("Calls with random payloads, whose answers are made of all of the request; callers that give up, one in ten and, a quarter of \
          the time, nine in ten; deadlines from 20 ms; a relay that reads along, cuts connections at any byte or lets them fall silent; \
          `kill -9` of the server, and of a second caller.\n".into());
    for (name, value) in found.storm.as_object().into_iter().flatten() {
        line(format!("- {}: {value}", name.replace('_', " ")));
    }
    line("\n## Targets\n".into());
    line("| target | value | limit | |".into());
    line("|---|---|---|---|".into());
    for target in &found.targets {
        let verdict = target.missed_by().map_or("met".into(), |by| format!("**missed** by {by}"));
        line(format!("| {} | {:.3} | {} | {verdict} |", target.name, target.value, target.bound()));
    }
    page
}

/// A figure, if it was measured.
fn said(value: f64, digits: usize) -> String {
    if value > 0.0 { format!("{value:.digits$}") } else { "–".into() }
}

fn render(report: &Report) -> String {
    let mut page = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{text}");
    };
    let machine = &report.machine;
    line("# Unary echo of 64 bytes, side by side\n".into());
    line("Written by `cargo xtask bench rpc`; run it to get your own.\n".into());
    line(format!(
        "{}, {} cores ({}), {}. {}. Load average beforehand {}.\n",
        machine.date,
        machine.cores,
        machine.processor,
        machine.system,
        report.load,
        machine.load_average.map_or("unknown".into(), |load| format!("{load:.2}")),
    ));
    line(explanation(&report.rows));
    line("| subject | callers | calls/s | × | p50 µs | p99 µs | × | client µs | server µs | errors |".into());
    line("|---|---|---|---|---|---|---|---|---|---|".into());
    for row in &report.rows {
        line(format!(
            "| {} | {} | {:.0} | {:.2} | {:.0} | {:.0} | {:.2} | {} | {} | {} |",
            row.subject,
            row.callers,
            row.rps,
            row.rps_ratio,
            row.p50_us,
            row.p99_us,
            row.p99_ratio,
            micros(row.client_cpu_us),
            micros(row.server_cpu_us),
            row.errors,
        ));
    }
    line("\n## Targets\n".into());
    line("| target | value | limit | |".into());
    line("|---|---|---|---|".into());
    for target in &report.targets {
        let verdict = target.missed_by().map_or("met".into(), |by| format!("**missed** by {by}"));
        line(format!("| {} | {:.3} | {} | {verdict} |", target.name, target.value, target.bound()));
    }
    line(costs(&report.rows));
    page
}

fn explanation(rows: &[Row]) -> String {
    let connections = rows.first().map_or(0, |row| row.connections);
    format!(
        "Client and server are processes of their own on the loopback. `formic` is a service and a caller as anybody \
         would write them, with discovery through the daemon's registry, balancing, deadline, metrics and trace \
         context on; it speaks the multiplexed wire on one connection, and `formic, HTTP` is the same told to keep to \
         HTTP. Where the handler waits, it gives way once before it answers. `connectrpc` is what Formic stands on, alone: its own server, its own client, the same protocol \
         (Connect, protobuf), no compression, and as many HTTP/2 connections as Formic opens ({connections}; each \
         caller keeps to one of them). Values are medians over the rounds; × is the ratio to `connectrpc` within \
         each round, and of those the median. Client and server µs are processor time for each call, which says \
         where a difference comes from.\n"
    )
}

/// Where the time goes beside the first subject, in numbers: the reason of a missed ratio.
fn costs(rows: &[Row]) -> String {
    let mut text = String::from("\n## What a call costs beside connectrpc alone\n");
    for own in rows.iter().filter(|row| row.subject.starts_with("formic") && !row.subject.contains("waits")) {
        let base = rows.iter().find(|row| row.callers == own.callers && row.subject == "connectrpc");
        let Some(base) = base else { continue };
        let more = |own: Option<f64>, base: Option<f64>| match own.zip(base) {
            Some((own, base)) => format!("{:+.1} µs ({:+.0} %)", own - base, 100.0 * (own / base - 1.0)),
            None => "unknown".into(),
        };
        let _ = write!(
            text,
            "\n- {}, {} callers: client {}, server {}.",
            own.subject,
            own.callers,
            more(own.client_cpu_us, base.client_cpu_us),
            more(own.server_cpu_us, base.server_cpu_us),
        );
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Target;

    fn report(value: f64) -> Report {
        let row = |subject: &str, client| Row {
            subject: subject.into(),
            protocol: "connect".into(),
            connections: 2,
            callers: 64,
            rps: 50_000.0,
            p50_us: 1.0,
            p99_us: 2.0,
            errors: 0,
            rps_ratio: 1.0,
            p99_ratio: 1.0,
            client_cpu_us: Some(client),
            server_cpu_us: None,
            server_rss_mib: None,
            rounds: 3,
        };
        Report {
            machine: crate::machine::facts(),
            load: "3 rounds".into(),
            rows: vec![row("connectrpc", 10.0), row("formic", 12.0)],
            targets: vec![Target::at_most("time", value, 1.0)],
        }
    }

    #[test]
    fn what_people_wrote_outlives_the_next_run() {
        let folder = std::env::temp_dir().join(format!("formic-bench-page-{}", std::process::id()));
        let path = folder.join("results/rpc.md");
        write(&path, &report(2.0)).expect("it can be written");
        let first = std::fs::read_to_string(&path).expect("it is there");
        assert!(first.contains("**missed** by 1.000 (100.0 %)") && first.ends_with(&format!("{MARK}\n")));
        assert!(first.contains("client +2.0 µs (+20 %), server unknown"), "{first}");
        std::fs::write(&path, first + "\nBecause.\n").expect("it can be written");
        write(&path, &report(0.5)).expect("it can be written");
        let second = std::fs::read_to_string(&path).expect("it is there");
        std::fs::remove_dir_all(&folder).expect("it can go");
        assert!(
            !second.contains("**missed**") && second.ends_with(&format!("{MARK}\n\nBecause.\n")),
            "{second}"
        );
    }
}
