//! Scene 1: ten instances, of which one becomes ten times slower.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::finding::{Finding, Scene};
use super::record::percentile;
use super::stage::{Load, Stage, policy};
use super::{DEFAULT, POLICIES, Setting};
use crate::chart::{Figure, Lines, Panel};

const INSTANCES: usize = 10;
/// Far above what a busy machine adds to a call.
const MEAN: Duration = Duration::from_millis(40);
const SLOWER: u32 = 10;
const RATE: f64 = 500.0;
/// Connections, first measurements.
const WARM_UP: f64 = 3.0;
/// The limit: so many times the tail of a healthy set.
const MOST: f64 = 1.3;

pub(super) async fn play(setting: &Setting<'_>) -> Result<Scene> {
    let (mut findings, mut series) = (Vec::new(), Vec::new());
    let (mut limit, mut changed) = (f64::NAN, 0.0);
    for name in POLICIES {
        eprintln!("scene 1: {name}");
        let stage = Stage::new(setting.programs, setting.scratch, &format!("slow-{name}")).await?;
        let config = json!({ "mean_us": MEAN.as_micros() as u64 });
        let instances = stage.instances("slow", INSTANCES, &config).await?;
        let phases = [(RATE, WARM_UP), (RATE, setting.seconds), (RATE, setting.seconds)];
        let load = Load {
            service: "slow",
            phases: &phases,
            writes: 0.5,
            watches: 0.0,
            important: 0.0,
            traffic: policy(name),
        };
        let mut driver = stage.drive(&load)?;
        for _ in 0..phases.len() {
            changed = driver.phase().await? as f64;
        }
        instances[3].take(MEAN * SLOWER).await?;
        let record = driver.finish().await?;
        let (healthy, ill) = (percentile(record.phase(1..=1), 0.99), percentile(record.phase(2..=2), 0.99));
        let held = name == DEFAULT;
        findings.push(Finding::beside(name, "p99 with all healthy, ms", healthy));
        findings.push(Finding::beside(name, "p99 with one of ten 10 × slower, ms", ill));
        findings.push(Finding::most_if(
            held,
            name,
            "p99 with the slow one ÷ p99 without",
            ill / healthy,
            MOST,
        ));
        let slow = &instances[3].id;
        let got = record.phase(2..=2).filter(|call| call.instance.as_ref() == Some(slow)).count();
        let share = 100.0 * got as f64 / record.phase(2..=2).count().max(1) as f64;
        findings.push(Finding::beside(name, "calls that the slow one got, %", share));
        changed = record.seconds(changed as u64);
        if held {
            limit = healthy * MOST;
        }
        series.push(record.series(name, |calls| {
            let p99 = percentile(calls.iter().copied(), 0.99);
            p99.is_finite().then_some(p99)
        }));
    }
    let panel = Lines {
        x: "seconds".into(),
        y: "p99 of each half second, ms".into(),
        log: true,
        series,
        marks: vec![(changed, "one of ten becomes 10 × slower".into())],
        limits: vec![(limit, format!("1.3 × healthy p99: {limit:.0} ms"))],
    };
    let setup = format!(
        "{INSTANCES} instances whose calls take {} ms on average (half to one and a half of it), {RATE:.0} calls a second. \
         After {:.0} s one of them becomes {SLOWER} times slower. The p99 is over the whole part, from the first call after \
         the change on.",
        MEAN.as_millis(),
        WARM_UP + setting.seconds,
    );
    let note = format!("p99 by policy, {RATE:.0} calls/s; in the figure of half a second each");
    let figure = Figure {
        title: "1. One of ten instances is ten times slower".into(),
        note,
        panels: vec![Panel::Lines(panel)],
    };
    Ok(Scene { number: 1, title: "One of ten is ten times slower", setup, findings, figure })
}
