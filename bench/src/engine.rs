//! `formic-bench engine`: what the engine costs, and how quick it is, with 10, 100 and 1,000 instances of a trivial
//! program. Real processes, under `formic server -d` and `formic apply` of the release binary.

mod measure;
mod page;
mod stage;

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::arguments::Engine;
use crate::machine::{self, Machine};
use crate::programs::{Managed, Workspace};
use crate::report::Target;
use measure::Finding;

/// A whole run.
pub(crate) struct Report {
    machine: Machine,
    findings: Vec<Finding>,
    targets: Vec<Target>,
}

/// Builds, measures, and says so. A missed target is a result and no failure.
pub(crate) async fn run(arguments: &Engine, scratch: &Path) -> Result<()> {
    let machine = machine::facts();
    let workspace = Workspace::find()?;
    let programs = Managed::build(&workspace)?;
    let mut findings = Vec::new();
    for instances in &arguments.instances {
        let finding = measure::measure(&programs, scratch, *instances).await;
        findings.push(finding.with_context(|| format!("measure {instances} instances"))?);
    }
    let targets = targets(&findings);
    let report = Report { machine, findings, targets };
    print!("{}", page::text(&report));
    if let Some(path) = &arguments.json {
        let mut json =
            serde_json::to_string_pretty(&page::json(&report)).context("write the report as JSON")?;
        json.push('\n');
        std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    if arguments.is_whole() {
        page::write(&workspace.root.join("bench/results/engine.md"), &report)?;
        eprintln!("wrote bench/results/engine.md");
    } else {
        eprintln!("not the usual sizes: the results page stays as it is");
    }
    Ok(())
}

/// How much more an instance's crash may cost the brain among the most instances than among the fewest.
const GROWTH_LIMIT: f64 = 2.0;

fn targets(findings: &[Finding]) -> Vec<Target> {
    let mut targets = Vec::new();
    for finding in findings {
        let n = finding.instances;
        let mut at_most = |name: &str, value: f64, limit: f64| {
            targets.push(Target::at_most(format!("{name}, {n} instances"), value, limit));
        };
        at_most("brain answers again with all adopted, ms, slowest", finding.recovery_ms.slowest, 1000.0);
        at_most("crash to detection, ms, p99", finding.detection_ms.p99, 10.0);
        at_most("start to first instruction, ms, p99", finding.exec_ms.p99, 20.0);
        at_most("idle processor time of the brain, % of a core", finding.idle_percent, 2.0);
        at_most("keeper, resident MiB", finding.keeper_mib, 8.0);
        at_most("processes beyond instances, keeper and brain", finding.extra_processes as f64, 0.0);
    }
    if let (Some(few), Some(many)) = (findings.first(), findings.last())
        && few.instances < many.instances
    {
        let name = format!("brain's time for a crash at {} by that at {}, ×", many.instances, few.instances);
        targets.push(Target::at_most(name, many.crash_cpu_ms / few.crash_cpu_ms, GROWTH_LIMIT));
    }
    targets
}
