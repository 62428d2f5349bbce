//! Scene 5: twice as much is asked for as the instances can do.

use std::ops::RangeInclusive;

use anyhow::Result;
use formic_bench::record::Call;
use serde_json::json;

use super::finding::{Finding, Scene};
use super::record::{failed_share, percentile, rate, seconds};
use super::stage::{Load, Stage, policy};
use super::{DEFAULT, POLICIES, Setting};
use crate::chart::{Figure, Lines, Panel};

const INSTANCES: usize = 2;
const WORKERS: usize = 8;
const MEAN_US: u64 = 50_000;
const WARM_UP: f64 = 4.0;
/// The time in which the limit finds out.
const ONSET: f64 = 3.0;
/// Of the calls that are marked as important.
const IMPORTANT: f64 = 0.1;

const LEAST_GOODPUT: f64 = 0.9;
const MOST_TAIL: f64 = 2.0;

/// What all instances can do, in calls a second.
const CAPACITY: f64 = (INSTANCES * WORKERS) as f64 * 1e6 / MEAN_US as f64;

pub(super) async fn play(setting: &Setting<'_>) -> Result<Scene> {
    let (mut findings, mut tails, mut goodputs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut limit, mut marks) = (f64::NAN, Vec::new());
    let subjects = POLICIES.iter().map(|&name| (name, name, true));
    for (subject, name, adaptive) in subjects.chain([("p2c, limit off", DEFAULT, false)]) {
        eprintln!("scene 5: {subject}");
        let stage =
            Stage::new(setting.programs, setting.scratch, &format!("overload-{name}-{adaptive}")).await?;
        let config = json!({ "mean_us": MEAN_US, "workers": WORKERS });
        let limits = json!({ "adaptive": adaptive }).to_string();
        let mut instances = Vec::new();
        for number in 1..=INSTANCES {
            let settings = [("FORMIC_LIMITS", limits.clone())];
            instances.push(stage.instance("busy", &format!("busy-{number}"), &config, &settings).await?);
        }
        let (calm, busy) = (setting.seconds, setting.seconds * 2.0);
        let phases = [
            (CAPACITY * 0.5, WARM_UP),
            (CAPACITY * 0.8, calm),
            (CAPACITY * 2.0, ONSET),
            (CAPACITY * 2.0, busy),
        ];
        let (service, traffic) = ("busy", policy(name));
        let load =
            Load { service, phases: &phases, writes: 0.5, watches: 0.0, important: IMPORTANT, traffic };
        let record = stage.drive(&load)?.finish().await?;

        let held = subject == DEFAULT;
        let of = |phases: RangeInclusive<usize>, important| {
            record.phase(phases).filter(move |call: &&Call| call.important == important)
        };
        let p99 = |phases, important| percentile(of(phases, important), 0.99);
        let calm = [p99(1..=1, false), p99(1..=1, true)];
        let mut add = |what: &str, value, limit: Option<f64>| match limit {
            Some(limit) => findings.push(Finding::most_if(held, subject, what, value, limit)),
            None => findings.push(Finding::beside(subject, what, value)),
        };
        add("failed at 80 % of the capacity, %", failed_share(record.phase(1..=1)), None);
        add("p99 at 80 % of the capacity, ms", calm[0], None);
        add("p99 of accepted calls at 200 %, ms", p99(3..=3, false), None);
        add("p99 of accepted calls, 200 % ÷ 80 %", p99(3..=3, false) / calm[0], Some(MOST_TAIL));
        add("important: p99, 200 % ÷ 80 %", p99(3..=3, true) / calm[1], Some(MOST_TAIL));
        add("important: failed at 200 %, %", failed_share(of(3..=3, true)), Some(0.0));
        add("others: turned away at 200 %, %", failed_share(of(3..=3, false)), None);
        // What was answered within, whenever it began.
        let goodput = |from: usize| {
            let (from, to) = (record.phases[from], record.phases[4]);
            let ended =
                |call: &&Call| call.failed.is_none() && (from..to).contains(&(call.began + call.took));
            record.calls.iter().filter(ended).count() as f64 / seconds(from, to) / CAPACITY
        };
        let what = "goodput at 200 % ÷ capacity";
        findings.push(Finding::least_if(held, subject, what, goodput(3), LEAST_GOODPUT));
        let what = "goodput, the onset too, ÷ capacity";
        findings.push(Finding::least_if(held, subject, what, goodput(2), LEAST_GOODPUT));
        let mut add =
            |what: &str, value, limit| findings.push(Finding::most_if(held, subject, what, value, limit));
        add("p99 of accepted calls, the onset too, ÷ 80 %", p99(2..=3, false) / calm[0], MOST_TAIL);
        add("important: p99, the onset too, ÷ 80 %", p99(2..=3, true) / calm[1], MOST_TAIL);
        add("important: failed, the onset too, %", failed_share(of(2..=3, true)), 0.0);
        if held {
            limit = calm[0] * MOST_TAIL;
            marks = vec![
                (record.seconds(record.phases[1]), "80 %".to_owned()),
                (record.seconds(record.phases[2]), "200 %".to_owned()),
            ];
        }
        tails.push(record.series(subject, |calls| {
            let p99 = percentile(calls.iter().copied(), 0.99);
            p99.is_finite().then_some(p99)
        }));
        goodputs.push(record.series(subject, |calls| {
            Some(rate(calls.iter().filter(|call| call.failed.is_none()).count()) / CAPACITY)
        }));
    }
    let panel = |y: &str, log, series, limits| {
        Panel::Lines(Lines { x: "seconds".into(), y: y.into(), log, series, marks: marks.clone(), limits })
    };
    let word = format!("2 × p99 at 80 %: {limit:.0} ms");
    let panels = vec![
        panel("p99 of accepted calls, ms", true, tails, vec![(limit, word)]),
        panel("goodput ÷ capacity", false, goodputs, vec![(LEAST_GOODPUT, "0.9".into())]),
    ];
    let setup = format!(
        "{INSTANCES} instances with {WORKERS} workers each, whose calls take {} ms: together they can do {CAPACITY:.0} calls a \
         second. Offered are 50 %, 80 % and 200 % of it; half of the calls may be repeated, {:.0} % are marked as important. \
         The onset is the first {ONSET:.0} s at 200 %, in which the limit finds out; what is said of 200 % without it is the \
         {} s after.",
        MEAN_US / 1000,
        IMPORTANT * 100.0,
        setting.seconds * 2.0,
    );
    let title = "5. Twice the capacity is offered".into();
    let note = "by the moment at which calls began, of half a second each; `limit off` is p2c without overload control".into();
    Ok(Scene {
        number: 5,
        title: "Twice the capacity is offered",
        setup,
        findings,
        figure: Figure { title, note, panels },
    })
}
