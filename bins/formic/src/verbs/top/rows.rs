//! The rows of `formic top`: states of one answer, measures of another, and rates between two of those.

use std::collections::HashMap;
use std::time::Duration;

use formic_api::control::v1 as pb;

use crate::cli::Sort;

/// An instance, or a service that has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) service: String,
    pub(super) instance: String,
    pub(super) slot: u32,
    pub(super) state: String,
    /// Percent of one processor since the last look.
    pub(super) cpu: Option<f64>,
    pub(super) memory: Option<u64>,
    pub(super) pids: Option<u64>,
    pub(super) files: Option<u64>,
    pub(super) restarts: u32,
    pub(super) oom_kills: u64,
    pub(super) probe: Option<Duration>,
    pub(super) probe_failures: u64,
    pub(super) age: Option<Duration>,
}

/// All instances, and services without one, in the order of the services.
pub(super) fn rows(
    status: &pb::StatusResponse,
    measures: &pb::MeasureResponse,
    before: Option<&pb::MeasureResponse>,
) -> Vec<Row> {
    let by_id: HashMap<&str, &pb::InstanceMeasures> =
        measures.instances.iter().map(|instance| (instance.id.as_str(), instance)).collect();
    let earlier = |id: &str| before?.instances.iter().find(|instance| instance.id == id)?.cpu_nanos;
    let passed = before.map(|before| measures.unix_ms.saturating_sub(before.unix_ms));
    let cpu = |measured: &pb::InstanceMeasures| {
        let used = measured.cpu_nanos?.saturating_sub(earlier(&measured.id)?);
        let passed = u32::try_from(passed?).ok().filter(|millis| *millis > 0)?;
        Some(Duration::from_nanos(used).as_secs_f64() * 100_000.0 / f64::from(passed))
    };
    let mut rows = Vec::new();
    for service in &status.services {
        if service.instances.is_empty() {
            let (name, state) = (service.name.clone(), service.state.clone());
            rows.push(Row { service: name, state, ..Row::default() });
        }
        for instance in &service.instances {
            let mut row = Row {
                service: service.name.clone(),
                instance: instance.id.clone(),
                slot: instance.slot,
                state: instance.state.clone(),
                restarts: instance.restarts,
                ..Row::default()
            };
            if let Some(measured) = by_id.get(instance.id.as_str()) {
                row.cpu = cpu(measured);
                row.memory = measured.memory_bytes;
                row.pids = measured.pids;
                row.files = measured.open_files;
                row.oom_kills = measured.oom_kills;
                row.probe = measured.probe_nanos.map(Duration::from_nanos);
                row.probe_failures = measured.probe_failures;
                let age = measures.unix_ms.saturating_sub(measured.started_unix_ms);
                row.age = u64::try_from(age).ok().map(Duration::from_millis);
            }
            rows.push(row);
        }
    }
    rows
}

/// The column after this one.
pub(super) fn next(sort: Sort) -> Sort {
    match sort {
        Sort::Name => Sort::Cpu,
        Sort::Cpu => Sort::Memory,
        Sort::Memory => Sort::Restarts,
        Sort::Restarts => Sort::Probe,
        Sort::Probe => Sort::Name,
    }
}

/// Names in their order; of numbers the largest first, and what has none last.
pub(super) fn sort(rows: &mut [Row], sort: Sort) {
    rows.sort_by(|a, b| (&a.service, a.slot, &a.instance).cmp(&(&b.service, b.slot, &b.instance)));
    match sort {
        Sort::Name => {}
        Sort::Cpu => rows.sort_by(|a, b| b.cpu.unwrap_or(-1.0).total_cmp(&a.cpu.unwrap_or(-1.0))),
        Sort::Memory => rows.sort_by_key(|row| std::cmp::Reverse(row.memory)),
        Sort::Restarts => rows.sort_by_key(|row| std::cmp::Reverse(row.restarts)),
        Sort::Probe => rows.sort_by_key(|row| std::cmp::Reverse(row.probe)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(id: &str, cpu_millis: u64, memory: u64) -> pb::InstanceMeasures {
        pb::InstanceMeasures {
            id: id.into(),
            cpu_nanos: Some(cpu_millis * 1_000_000),
            memory_bytes: Some(memory),
            started_unix_ms: 1_000,
            ..Default::default()
        }
    }

    fn world() -> Vec<Row> {
        let instance = |id: &str, slot, restarts| pb::InstanceStatus {
            id: id.into(),
            slot,
            restarts,
            state: "ready".into(),
            ..Default::default()
        };
        let services = [
            ("order", vec![instance("order-b", 0, 0), instance("order-a", 1, 3)]),
            ("user", vec![]),
            ("gateway", vec![instance("gateway-a", 0, 0)]),
        ]
        .map(|(name, instances)| pb::ServiceStatus {
            name: name.into(),
            state: "stopped".into(),
            instances,
            ..Default::default()
        });
        let status = pb::StatusResponse { services: services.into(), ..Default::default() };
        let before = pb::MeasureResponse {
            unix_ms: 10_000,
            instances: vec![measured("order-a", 100, 5), measured("order-b", 100, 5)],
            ..Default::default()
        };
        let now = pb::MeasureResponse {
            unix_ms: 12_000,
            instances: vec![
                measured("order-a", 1100, 9),
                measured("order-b", 600, 7),
                measured("gateway-a", 50, 8),
            ],
            ..Default::default()
        };
        rows(&status, &now, Some(&before))
    }

    fn names(rows: &[Row]) -> Vec<String> {
        rows.iter().map(|row| format!("{}/{}", row.service, row.slot)).collect()
    }

    #[test]
    fn the_processor_is_what_was_used_between_two_looks() {
        let rows = world();
        assert_eq!(names(&rows), ["order/0", "order/1", "user/0", "gateway/0"]);
        let cpu: Vec<Option<f64>> = rows.iter().map(|row| row.cpu).collect();
        // Of one that was not there before, nobody knows yet.
        assert_eq!(cpu, [Some(25.0), Some(50.0), None, None]);
        assert_eq!((rows[0].age, rows[2].age), (Some(Duration::from_secs(11)), None));
        assert_eq!(rows[2].state, "stopped");
    }

    #[test]
    fn numbers_are_sorted_from_the_largest_and_those_without_come_last() {
        let mut rows = world();
        for (by, expected) in [
            (Sort::Name, ["gateway/0", "order/0", "order/1", "user/0"]),
            (Sort::Cpu, ["order/1", "order/0", "gateway/0", "user/0"]),
            (Sort::Memory, ["order/1", "gateway/0", "order/0", "user/0"]),
            (Sort::Restarts, ["order/1", "gateway/0", "order/0", "user/0"]),
        ] {
            sort(&mut rows, by);
            assert_eq!(names(&rows), expected, "{by:?}");
        }
        let around = (0..5).fold(Sort::Name, |sort, _| next(sort));
        assert_eq!(around, Sort::Name);
    }
}
