//! Scene 3: three instances, of which one is killed and comes back.

use std::time::Duration;

use anyhow::Result;
use formic_bench::record::{Call, Kind, now};
use serde_json::json;

use super::finding::{Finding, Scene};
use super::record::{is_read, rate};
use super::stage::{Load, Stage, policy};
use super::{DEFAULT, POLICIES, Setting};
use crate::chart::{Figure, Lines, Panel};

const RATE: f64 = 300.0;
const MEAN_US: u64 = 20_000;
const WARM_UP: f64 = 3.0;
/// How long it stays away.
const AWAY: Duration = Duration::from_secs(2);
/// After its return: the time in which its share grows, and some more.
const AFTER: f64 = 12.0;
/// As a kill is two looks at the view apart from the last look before it.
const LOOKS: u64 = 60_000;

pub(super) async fn play(setting: &Setting<'_>) -> Result<Scene> {
    let (mut findings, mut series, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    for name in POLICIES {
        eprintln!("scene 3: {name}");
        let stage = Stage::new(setting.programs, setting.scratch, &format!("killed-{name}")).await?;
        let config = json!({ "mean_us": MEAN_US });
        let mut instances = stage.instances("killed", 3, &config).await?;
        let phases = [(RATE, WARM_UP), (RATE, AWAY.as_secs_f64() + AFTER)];
        let (service, traffic) = ("killed", policy(name));
        let load = Load { service, phases: &phases, writes: 0.25, watches: 0.15, important: 0.0, traffic };
        let mut driver = stage.drive(&load)?;
        let _warm = driver.phase().await?;
        let _begin = driver.phase().await?;
        // At some moment, not at the beginning of anything.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let victim = instances.remove(1);
        let id = victim.id.clone();
        let killed = now();
        victim.kill().await?;
        let gone = now();
        tokio::time::sleep(AWAY).await;
        // Nobody took the dead one out of the registry: callers had to find out by themselves. Its successor has a
        // name of its own, as under the engine.
        let successor = stage.instance("killed", "killed-4", &config, &[]).await?;
        stage.forget(&id).await?;
        let back = now();
        let record = driver.finish().await?;

        let held = name == DEFAULT;
        let failed = |of: &dyn Fn(&Call) -> bool| {
            record.calls.iter().filter(|call| call.failed.is_some() && of(call)).count() as f64
        };
        let reads = failed(&|call| is_read(&call));
        let others = failed(&|call| call.kind != Kind::Read);
        let later =
            failed(&|call| call.kind != Kind::Read && (call.began > gone || call.began + call.took < killed));
        let in_flight = record.most_in_flight(&id, killed.saturating_sub(LOOKS), killed);
        findings.push(Finding::most_if(held, name, "failed calls that may be repeated", reads, 0.0));
        findings.push(Finding::most_if(
            held,
            name,
            "other failed calls, beside those in flight there at the kill",
            others,
            f64::from(in_flight),
        ));
        findings.push(Finding::most_if(
            held,
            name,
            "other failed calls that were not in flight at the kill",
            later,
            0.0,
        ));
        let (from, new) = (back + 10_000_000, &successor.id);
        let after: Vec<&Call> = record.calls.iter().filter(|call| call.began >= from).collect();
        let got = after.iter().filter(|call| call.instance.as_ref() == Some(new)).count();
        let share = 100.0 * got as f64 / after.len().max(1) as f64;
        findings.push(Finding::beside(name, "share of its successor 10 s after its return, %", share));
        marks = vec![
            (record.seconds(killed), "kill -9".into()),
            (record.seconds(back), "its successor is there".into()),
        ];
        series.push(record.series(name, |calls| {
            let there = |call: &&&Call| call.instance.as_ref().is_some_and(|one| *one == id || one == new);
            Some(rate(calls.iter().filter(there).count()))
        }));
    }
    let panel = Lines {
        x: "seconds".into(),
        y: "calls/s answered by the killed one".into(),
        log: false,
        series,
        marks,
        limits: vec![(RATE / 3.0, "its even share".into())],
    };
    let setup = format!(
        "Three instances whose calls take {} ms on average, {RATE:.0} calls a second: 60 % reads, which may be repeated, 25 % \
         writes and 15 % streams, which may not. One is killed with SIGKILL, stays in the registry all the same, and {} s later \
         a successor starts. Those in flight are what the caller's view counted in the last 60 ms before the kill.",
        MEAN_US / 1000,
        AWAY.as_secs(),
    );
    let title = "3. One of three instances is killed and comes back".into();
    let note =
        format!("what the killed instance and its successor answer, by policy; {RATE:.0} calls/s in all");
    let figure = Figure { title, note, panels: vec![Panel::Lines(panel)] };
    Ok(Scene { number: 3, title: "One of three is killed", setup, findings, figure })
}
