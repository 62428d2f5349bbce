//! Scene 2: three instances, of which one fails half of its calls for a while.

use anyhow::Result;
use serde_json::json;

use super::finding::{Finding, Scene};
use super::record::{failed_share, rate, seconds};
use super::stage::{Load, Stage, policy};
use super::{DEFAULT, POLICIES, Setting};
use crate::chart::{Figure, Lines, Panel};

const RATE: f64 = 300.0;
const MEAN_US: u64 = 10_000;
const WARM_UP: f64 = 3.0;
/// It must be back within ten seconds, and a little later is to be seen too.
const HEALED: f64 = 12.0;
/// Out of a thousand.
const FAILING: u32 = 500;

const MOST_FAILED: f64 = 0.1;
const MOST_UNTIL_EJECTED: f64 = 1.0;
const MOST_UNTIL_BACK: f64 = 10.0;

pub(super) async fn play(setting: &Setting<'_>) -> Result<Scene> {
    let (mut findings, mut series, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    for name in POLICIES {
        eprintln!("scene 2: {name}");
        let stage = Stage::new(setting.programs, setting.scratch, &format!("flaky-{name}")).await?;
        let instances = stage.instances("flaky", 3, &json!({ "mean_us": MEAN_US })).await?;
        let phases = [(RATE, WARM_UP), (RATE, setting.seconds), (RATE, HEALED)];
        // All are reads, which may be repeated.
        let (service, traffic) = ("flaky", policy(name));
        let load = Load { service, phases: &phases, writes: 0.0, watches: 0.0, important: 0.0, traffic };
        let mut driver = stage.drive(&load)?;
        let _warm = driver.phase().await?;
        let broken = driver.phase().await?;
        instances[1].fail(FAILING).await?;
        let healed = driver.phase().await?;
        instances[1].fail(0).await?;
        let record = driver.finish().await?;
        let (id, held) = (&instances[1].id, name == DEFAULT);
        let since = |from, at: Option<_>| at.map_or(f64::INFINITY, |at| seconds(from, at));
        findings.push(Finding::most_if(
            held,
            name,
            "calls that failed for the caller, %",
            failed_share(record.phase(1..=2)),
            MOST_FAILED,
        ));
        findings.push(Finding::most_if(
            held,
            name,
            "until the failing one is ejected, s",
            since(broken, record.ejected(id, broken)),
            MOST_UNTIL_EJECTED,
        ));
        findings.push(Finding::most_if(
            held,
            name,
            "from healing until it is back for good, s",
            since(healed, record.returned(id, healed)),
            MOST_UNTIL_BACK,
        ));
        marks = vec![
            (record.seconds(broken), "it fails every other call".into()),
            (record.seconds(healed), "healed".into()),
        ];
        series.push(record.series(name, |calls| {
            Some(rate(calls.iter().filter(|call| call.instance.as_ref() == Some(id)).count()))
        }));
    }
    let panel = Lines {
        x: "seconds".into(),
        y: "calls/s answered by the failing one".into(),
        log: false,
        series,
        marks,
        limits: Vec::new(),
    };
    let setup = format!(
        "Three instances whose calls take {} ms on average, {RATE:.0} calls a second that may be repeated. One fails half of \
         its calls, at once, for {} s, and is then well again. Ejected and back is what the caller's own view says, looked at \
         every 20 ms; back for good means that it stays in until the end, {HEALED:.0} s after healing.",
        MEAN_US / 1000,
        setting.seconds,
    );
    let title = "2. One of three instances fails half of its calls".into();
    let note = format!("what the failing instance answers, by policy; {RATE:.0} calls/s in all");
    let figure = Figure { title, note, panels: vec![Panel::Lines(panel)] };
    Ok(Scene { number: 2, title: "One of three fails half of its calls", setup, findings, figure })
}
