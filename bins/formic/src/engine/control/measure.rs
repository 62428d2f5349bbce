//! What is measured of instances and of the engine: for the API, and as text for Prometheus.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use formic_api::control::v1 as pb;
use formic_reconcile::{InstanceMeasures, InstanceView, Measured, View};
use formic_supervise::{BUCKETS, Counted};

use super::Control;
use super::deploy::now_unix_ms;

impl Control {
    /// What is so now. Reads some of the kernel's files for each instance, so not on a thread that others
    /// wait for.
    pub(super) async fn measure(&self) -> pb::MeasureResponse {
        let (engine, view) = (self.engine.clone(), self.engine.view().borrow().clone());
        let read = tokio::task::spawn_blocking(move || response(&view, &engine.measured()));
        // It only fails if it panics, which it tells itself.
        read.await.unwrap_or_default()
    }

    /// The same as `/metrics` has it.
    pub(crate) fn metrics(&self) -> String {
        let view = self.engine.view().borrow().clone();
        text(&self.about.app, &view, &self.engine.measured())
    }
}

/// An instance that there are processes of, and what is measured of it.
struct Row<'a> {
    service: &'a str,
    instance: &'a InstanceView,
    measures: &'a InstanceMeasures,
}

fn rows<'a>(view: &'a View, measured: &'a Measured) -> Vec<Row<'a>> {
    let of = |service: &'a formic_reconcile::ServiceView| {
        service.instances.iter().filter_map(|instance| {
            let measures = measured.instances.get(&instance.id)?;
            Some(Row { service: &service.name, instance, measures })
        })
    };
    view.services.iter().flat_map(of).collect()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn response(view: &View, measured: &Measured) -> pb::MeasureResponse {
    let row = |row: Row<'_>| {
        let Row { service, instance, measures: InstanceMeasures { usage, probe } } = row;
        pb::InstanceMeasures {
            service: service.to_owned(),
            id: instance.id.clone(),
            slot: instance.slot,
            state: instance.state.into(),
            restarts: instance.restarts,
            cpu_nanos: usage.cpu.map(nanos),
            memory_bytes: usage.memory,
            pids: usage.pids,
            open_files: usage.files,
            oom_kills: usage.oom_kills,
            probe_nanos: probe.latency.map(nanos),
            probe_failures: probe.failures,
            started_unix_ms: instance.started_unix_ms,
            ..Default::default()
        }
    };
    pb::MeasureResponse {
        unix_ms: now_unix_ms(),
        instances: rows(view, measured).into_iter().map(row).collect(),
        engine: pb::EngineMeasures {
            pid: std::process::id(),
            events: measured.events,
            queue: measured.queue,
            turns: measured.turns.count(),
            turns_nanos: nanos(measured.turns.sum),
            writes: measured.commits.count(),
            writes_nanos: nanos(measured.commits.sum),
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
}

/// The metrics that are counted of each instance: name without `formic_instance_`, kind, what it is, value.
type Metric = (&'static str, &'static str, &'static str, fn(&Row<'_>) -> Option<f64>);

#[expect(clippy::cast_precision_loss, reason = "OpenMetrics numbers are floats")]
const METRICS: [Metric; 9] = [
    ("cpu_seconds", "counter", "Processor time", |row| Some(row.measures.usage.cpu?.as_secs_f64())),
    ("memory_bytes", "gauge", "Memory", |row| Some(row.measures.usage.memory? as f64)),
    ("pids", "gauge", "Processes and threads", |row| Some(row.measures.usage.pids? as f64)),
    ("open_files", "gauge", "Open file descriptors", |row| Some(row.measures.usage.files? as f64)),
    ("oom_kills", "counter", "Processes killed for want of memory", |row| {
        Some(row.measures.usage.oom_kills as f64)
    }),
    ("restarts", "counter", "Restarts of its place", |row| Some(f64::from(row.instance.restarts))),
    ("ready", "gauge", "Whether it answers calls", |row| {
        Some(f64::from(u8::from(row.instance.state == "ready")))
    }),
    ("probe_seconds", "gauge", "How long the last answer to its probe took", |row| {
        Some(row.measures.probe.latency?.as_secs_f64())
    }),
    ("probe_failures", "counter", "Probes without an answer", |row| Some(row.measures.probe.failures as f64)),
];

/// Text in the OpenMetrics format, without its end. Names of services and instances need no escapes.
fn text(app: &str, view: &View, measured: &Measured) -> String {
    let mut out = String::new();
    let rows = rows(view, measured);
    for (name, kind, help, value) in METRICS {
        let name = format!("formic_instance_{name}");
        head(&mut out, &name, kind, help);
        let total = if kind == "counter" { "_total" } else { "" };
        for row in &rows {
            let Some(value) = value(row) else { continue };
            let (service, id, slot) = (row.service, &row.instance.id, row.instance.slot);
            let labels = format!("app=\"{app}\",service=\"{service}\",instance=\"{id}\",slot=\"{slot}\"");
            line(&mut out, &format!("{name}{total}{{{labels}}}"), value);
        }
    }
    head(&mut out, "formic_instance_state", "gauge", "1 for the state that it is in");
    for service in &view.services {
        for i in &service.instances {
            let labels = format!("app=\"{app}\",service=\"{}\",instance=\"{}\"", service.name, i.id);
            line(&mut out, &format!("formic_instance_state{{{labels},state=\"{}\"}}", i.state), 1);
        }
    }
    for (name, help, of) in
        [("formic_service_ready", "Ready instances", 0), ("formic_service_wanted", "Wanted instances", 1)]
    {
        head(&mut out, name, "gauge", help);
        for service in &view.services {
            let value = [service.ready, service.wanted][of];
            line(&mut out, &format!("{name}{{app=\"{app}\",service=\"{}\"}}", service.name), value);
        }
    }
    head(&mut out, "formic_engine_queue", "gauge", "What waits to be taken note of");
    line(&mut out, "formic_engine_queue", measured.queue);
    head(&mut out, "formic_engine_events", "counter", "What was taken note of");
    line(&mut out, "formic_engine_events_total", measured.events);
    head(&mut out, "formic_engine_index", "gauge", "Index of the desired state");
    line(&mut out, "formic_engine_index", view.index);
    histogram(&mut out, "formic_engine_reconcile_seconds", "Time of one decision", &measured.turns);
    let commits = "Time until a decision is on the disk";
    histogram(&mut out, "formic_engine_fsync_seconds", commits, &measured.commits);
    let records = "Time to write the record of a process";
    histogram(&mut out, "formic_engine_record_seconds", records, &measured.writes);
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    for unit in ["seconds", "bytes"] {
        if name.ends_with(unit) {
            let _ = writeln!(out, "# UNIT {name} {unit}");
        }
    }
}

fn line(out: &mut String, name: &str, value: impl Display) {
    let _ = writeln!(out, "{name} {value}");
}

fn histogram(out: &mut String, name: &str, help: &str, counted: &Counted) {
    head(out, name, "histogram", help);
    for (end, count) in BUCKETS.iter().zip(counted.cumulative) {
        line(out, &format!("{name}_bucket{{le=\"{end:?}\"}}"), count);
    }
    line(out, &format!("{name}_bucket{{le=\"+Inf\"}}"), counted.count());
    line(out, &format!("{name}_sum"), counted.sum.as_secs_f64());
    line(out, &format!("{name}_count"), counted.count());
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::HashMap;

    use formic_plan::ServiceState;
    use formic_reconcile::{Probed, ServiceView};
    use formic_supervise::{Times, Usage};

    use super::*;

    fn world() -> (View, Measured) {
        let instance = |id: &str, state| InstanceView {
            id: id.into(),
            slot: 0,
            version: "abc".into(),
            state,
            address: String::new(),
            pid: 7,
            restarts: 2,
            started_unix_ms: 5,
            last_exit: String::new(),
            probe_failure: String::new(),
        };
        let service = ServiceView {
            name: "order".into(),
            version: "abc".into(),
            state: ServiceState::Ready,
            ready: 1,
            wanted: 2,
            instances: vec![instance("order-1", "ready").into(), instance("order-2", "backoff").into()],
            system: false,
            reason: String::new(),
            rollout: "",
            rollout_failure: String::new(),
            rollout_number: 0,
            restarts: 0,
            cron: Default::default(),
        };
        let times = Times::default();
        times.add(Duration::from_millis(2));
        let mut usage = Usage::default();
        (usage.cpu, usage.memory) = (Some(Duration::from_millis(1500)), Some(4096));
        let latency = Some(Duration::from_millis(3));
        let probe = Probed { latency, failures: 1, in_row: 0, failed_unix_ms: Some(4) };
        let measured = Measured {
            instances: HashMap::from([("order-1".to_owned(), InstanceMeasures { usage, probe })]),
            turns: times.counted(),
            writes: Times::default().counted(),
            commits: Times::default().counted(),
            events: 12,
            queue: 1,
        };
        (View { services: vec![service], index: 3, ..View::default() }, measured)
    }

    #[test]
    fn only_what_has_processes_is_measured_and_what_nobody_counts_is_left_out() {
        let (view, measured) = world();
        let response = response(&view, &measured);
        assert_eq!(response.instances.len(), 1);
        let row = &response.instances[0];
        assert_eq!((row.service.as_str(), row.restarts, row.probe_failures), ("order", 2, 1));
        assert_eq!((row.cpu_nanos, row.memory_bytes, row.pids), (Some(1_500_000_000), Some(4096), None));
        let engine = response.engine.as_option().unwrap();
        assert_eq!((engine.turns, engine.turns_nanos, engine.queue), (1, 2_000_000, 1));
    }

    #[test]
    fn prometheus_reads_it() {
        let (view, measured) = world();
        let text = text("shop", &view, &measured);
        let of = "{app=\"shop\",service=\"order\",instance=\"order-1\",slot=\"0\"}";
        for line in [
            format!("formic_instance_cpu_seconds_total{of} 1.5"),
            format!("formic_instance_memory_bytes{of} 4096"),
            format!("formic_instance_restarts_total{of} 2"),
            format!("formic_instance_probe_seconds{of} 0.003"),
            "# TYPE formic_instance_cpu_seconds counter".into(),
            "# UNIT formic_instance_memory_bytes bytes".into(),
            "formic_instance_state{app=\"shop\",service=\"order\",instance=\"order-2\",state=\"backoff\"} 1"
                .into(),
            "formic_service_wanted{app=\"shop\",service=\"order\"} 2".into(),
            "formic_engine_queue 1".into(),
            "formic_engine_reconcile_seconds_bucket{le=\"0.001\"} 0".into(),
            "formic_engine_reconcile_seconds_bucket{le=\"0.003\"} 1".into(),
            "formic_engine_reconcile_seconds_count 1".into(),
            "formic_engine_fsync_seconds_bucket{le=\"+Inf\"} 0".into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("formic_instance_pids{"), "nobody counts them here");
    }
}
