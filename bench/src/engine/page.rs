//! The engine's findings for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::Report;
use super::measure::{Finding, Spread};
use crate::page::keep;

/// A line of the table: what, and its value with so many instances.
type Line = (&'static str, fn(&Finding) -> String);

const LINES: &[Line] = &[
    ("`formic apply` until all are ready, ms", |f| whole(f.all_ready_ms)),
    ("start to first instruction, all at once, ms", |f| spread(&f.mass_exec_ms)),
    ("start to first instruction, one at a time, ms", |f| spread(&f.exec_ms)),
    ("kill of an instance to its detection, ms", |f| spread(&f.detection_ms)),
    ("kill of an instance until a follower of events knows, ms", |f| spread(&f.told_ms)),
    ("kill of an instance until the next is ready, ms", |f| spread(&f.replaced_ms)),
    ("the brain's processor time for that, ms", |f| format!("{:.2}", f.crash_cpu_ms)),
    ("kill of the brain until all are adopted, ms", |f| spread(&f.recovery_ms)),
    ("idle processor time of the brain, % of a core", |f| format!("{:.2}", f.idle_percent)),
    ("brain, resident MiB", |f| format!("{:.1}", f.brain_mib)),
    ("keeper, resident MiB", |f| format!("{:.1}", f.keeper_mib)),
    ("processes beyond instances, keeper and brain", |f| f.extra_processes.to_string()),
    ("until all are stopped (killed), ms", |f| whole(f.stopped_ms)),
];

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn spread(spread: &Spread) -> String {
    format!("{:.1} / {:.1} / {:.1}", spread.p50, spread.p99, spread.slowest)
}

pub(super) fn json(report: &Report) -> Value {
    json!({
        "bench": "engine",
        "machine": report.machine,
        "sizes": report.findings,
        "targets": report.targets,
    })
}

pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}", text.trim_end());
    };
    let row = |name: &str, values: Vec<String>| {
        let values: String = values.iter().map(|value| format!(" {value:>24}")).collect();
        format!("{name:58}{values}")
    };
    line(row("instances", report.findings.iter().map(|f| f.instances.to_string()).collect()));
    for (name, value) in LINES {
        line(row(name.replace('`', "").as_str(), report.findings.iter().map(value).collect()));
    }
    line("Of many values: p50 / p99 / greatest.\n".into());
    for target in &report.targets {
        let verdict = target.missed_by().map_or("met".into(), |by| format!("MISSED by {by}"));
        line(format!("{:66} {:>9.3} {:>8}  {verdict}", target.name, target.value, target.bound()));
    }
    out
}

pub(super) fn write(path: &Path, report: &Report) -> Result<()> {
    keep(path, &render(report))
}

fn render(report: &Report) -> String {
    let mut page = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{text}");
    };
    let machine = &report.machine;
    line("# The engine with 10, 100 and 1,000 instances\n".into());
    line("Written by `cargo xtask bench engine`; run it to get your own.\n".into());
    line(format!(
        "{}, {} cores ({}), {}. Load average beforehand {}.\n",
        machine.date,
        machine.cores,
        machine.processor,
        machine.system,
        machine.load_average.map_or("unknown".into(), |load| format!("{load:.2}")),
    ));
    line(
        "One service of a program that does nothing, under `formic server -d` in the release profile. Instances are \
         killed with SIGKILL one after the other, the brain three times. Detection is the engine's own event of the end, \
         whose clock has whole milliseconds and is rounded up. Start is the engine's event of its decision, before \
         anything is on disk. Of many values: p50 / p99 / greatest.\n"
            .into(),
    );
    let sizes: String = report.findings.iter().map(|finding| format!(" {} |", finding.instances)).collect();
    line(format!("| instances |{sizes}"));
    line(format!("|---|{}", "---|".repeat(report.findings.len())));
    for (name, value) in LINES {
        let values: String = report.findings.iter().map(|finding| format!(" {} |", value(finding))).collect();
        line(format!("| {name} |{values}"));
    }
    line("\n## Targets\n".into());
    line("| target | value | limit | |".into());
    line("|---|---|---|---|".into());
    for target in &report.targets {
        let verdict = target.missed_by().map_or("met".into(), |by| format!("**missed** by {by}"));
        line(format!("| {} | {:.3} | {} | {verdict} |", target.name, target.value, target.bound()));
    }
    page
}
