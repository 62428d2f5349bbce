//! Scene 4: the five instances of an application under `formic up` are replaced, twenty times.

use std::collections::HashSet;

use anyhow::Result;
use formic_bench::record::{Call, Kind, Micros, now};

use super::application::Application;
use super::finding::{Finding, Scene};
use super::record::{Record, percentile, rate};
use super::stage::{Load, drive, policy};
use super::{DEFAULT, POLICIES, Setting};
use crate::chart::{Bars, Figure, Lines, Panel, Series};

const RESTARTS: usize = 20;
const SERVICE: &str = "rolling";
const RATE: f64 = 200.0;
const MEAN_US: u64 = 40_000;
/// Before the first restart.
const WARM_UP: f64 = 2.0;
/// Longer than twenty restarts ever take; the load is stopped after the last.
const LONGEST: f64 = 1200.0;

/// What became of the calls under one policy.
struct Played {
    record: Record,
    /// When each restart began.
    moments: Vec<Micros>,
    done: Micros,
}

pub(super) async fn play(setting: &Setting<'_>) -> Result<Scene> {
    let (mut findings, mut tails) = (Vec::new(), Vec::new());
    let (mut series, mut marks) = (Vec::new(), Vec::new());
    for name in POLICIES {
        let played = restarts(setting, name).await?;
        let held = name == DEFAULT;
        tails.push((name.to_owned(), vec![judge(name, held, &played, &mut findings)]));
        if held {
            (series, marks) = (lines(&played.record), played.marks());
        }
    }
    let calls = Lines {
        x: "seconds".into(),
        y: format!("calls/s, {DEFAULT}"),
        log: false,
        series,
        marks,
        limits: Vec::new(),
    };
    let tails = Bars {
        y: "p99 of unary calls, ms".into(),
        log: false,
        series: vec!["while all five are replaced, twenty times".into()],
        groups: tails,
        limits: Vec::new(),
    };
    let setup = format!(
        "A real application under `formic up` with five instances whose calls take {} ms on average, restarted by `formic \
         restart` {RESTARTS} times in a row, at most two instances beside the five. {RATE:.0} calls a second: 30 % reads, \
         which may be repeated, 40 % writes and 30 % streams of five messages, which may not.",
        MEAN_US / 1000,
    );
    let title = "4. Twenty rolling restarts of five instances".into();
    let note = "calls by the moment at which they began, of half a second each".into();
    let figure = Figure { title, note, panels: vec![Panel::Lines(calls), Panel::Bars(tails)] };
    Ok(Scene { number: 4, title: "Twenty rolling restarts of five", setup, findings, figure })
}

async fn restarts(setting: &Setting<'_>, name: &str) -> Result<Played> {
    let folder = setting.scratch.join(format!("rolling-{name}"));
    let manifest = format!(
        "[app]\nname = \"rolling\"\n\n[service.{SERVICE}]\ncommand = [{:?}]\nreplicas = 5\n\
         health = {{ ready = \"grpc\" }}\nupdate = {{ surge = 2, min_ready = \"100ms\", keep_old = \"0s\" }}\n\n\
         [service.{SERVICE}.config]\nmean_us = {MEAN_US}\nmanaged = true\n",
        setting.programs.instance.display().to_string(),
    );
    let application = Application::up(setting.programs, &folder, &manifest, SERVICE).await?;
    let phases = [(RATE, WARM_UP), (RATE, LONGEST)];
    let load = Load {
        service: SERVICE,
        phases: &phases,
        writes: 0.4,
        watches: 0.3,
        important: 0.0,
        traffic: policy(name),
    };
    let mut driver = drive(setting.programs, &folder, &application.daemon(), &load)?;
    driver.phase().await?;
    driver.phase().await?;
    let mut moments = Vec::new();
    for number in 1..=RESTARTS {
        eprintln!("scene 4: {name}, restart {number} of {RESTARTS}");
        moments.push(now());
        application.restart(SERVICE).await?;
    }
    let done = now();
    let record = driver.stop().await?;
    drop(application);
    Ok(Played { record, moments, done })
}

/// Gives back the p99 of unary calls meanwhile.
fn judge(name: &str, held: bool, played: &Played, findings: &mut Vec<Finding>) -> f64 {
    let Played { record, moments, done } = played;
    let of = |kind| record.calls.iter().filter(move |call| call.kind == kind);
    let failed = |kind| of(kind).filter(|call| call.failed.is_some()).count() as f64;
    let within =
        |call: &&Call| moments.first().is_some_and(|&first| call.began >= first) && call.began <= *done;
    let calls = record.calls.iter().filter(within).count();
    let instances: HashSet<&str> = record.calls.iter().filter_map(|call| call.instance.as_deref()).collect();
    for (what, kind) in [
        ("failed calls that may be repeated", Kind::Read),
        ("failed calls that may not be repeated", Kind::Write),
        ("failed or cut streams", Kind::Watch),
    ] {
        findings.push(Finding::most_if(held, name, what, failed(kind), 0.0));
    }
    let restarts = moments.len() as f64;
    findings.push(Finding::least_if(held, name, "rolling restarts of five", restarts, RESTARTS as f64));
    let tail = percentile(record.calls.iter().filter(within).filter(|call| call.kind != Kind::Watch), 0.99);
    for (what, value) in [
        ("instances that answered, first to last", instances.len() as f64),
        ("calls meanwhile", calls as f64),
        ("of these, streams", of(Kind::Watch).filter(within).count() as f64),
        ("p99 of unary calls meanwhile, ms", tail),
    ] {
        findings.push(Finding::beside(name, what, value));
    }
    tail
}

fn lines(record: &Record) -> Vec<Series> {
    let answered = |name: &str, stream: bool| {
        record.series(name, move |calls| {
            let good =
                calls.iter().filter(|call| call.failed.is_none() && (call.kind == Kind::Watch) == stream);
            Some(rate(good.count()))
        })
    };
    let failures = record
        .series("failed", |calls| Some(rate(calls.iter().filter(|call| call.failed.is_some()).count())));
    vec![answered("unary, answered", false), failures, answered("streams, whole", true)]
}

// === impl Played ===

impl Played {
    fn marks(&self) -> Vec<(f64, String)> {
        let mark = |(index, &at): (usize, &u64)| {
            let word = if index == 0 { "each line a restart of all five" } else { "" };
            (self.record.seconds(at), word.to_owned())
        };
        self.moments.iter().enumerate().map(mark).collect()
    }
}
