//! Scene 6: three services deep, the last of which fails everything.

use anyhow::Result;
use serde_json::{Value, json};

use super::finding::{Finding, Scene};
use super::stage::{Instance, Load, Stage, policy};
use super::{DEFAULT, POLICIES, Setting};
use crate::chart::{Bars, Figure, Panel};

/// So many that the ten a second which each client may make again in any case are few beside them.
const RATE: f64 = 300.0;
const MEAN_US: u64 = 2_000;
const MOST: f64 = 1.25;
/// The services, from the callers on.
const DEPTH: [&str; 3] = ["first", "second", "third"];
/// How often a handler makes a failed call again where nobody counts for it.
const BY_HAND: u32 = 2;

pub(super) async fn play(setting: &Setting<'_>) -> Result<Scene> {
    let (mut findings, mut groups) = (Vec::new(), Vec::new());
    let by_hand = format!("{BY_HAND} retries by hand");
    let subjects = POLICIES.iter().map(|&name| (name, name, true));
    for (subject, name, economy) in subjects.chain([(by_hand.as_str(), DEFAULT, false)]) {
        eprintln!("scene 6: {subject}");
        let per_call = storm(setting, name, economy).await?;
        // Whoever picks, the economy is the same, and so is its limit.
        let held = economy;
        let most = per_call.iter().copied().fold(0.0, f64::max);
        for (name, &attempts) in DEPTH.iter().zip(&per_call) {
            findings.push(Finding::beside(
                subject,
                &format!("attempts at the {name} service ÷ calls"),
                attempts,
            ));
        }
        findings.push(Finding::most_if(held, subject, "most attempts at a service ÷ calls", most, MOST));
        groups.push(per_call);
    }
    let groups = DEPTH
        .iter()
        .enumerate()
        .map(|(depth, name)| ((*name).to_owned(), groups.iter().map(|per_call| per_call[depth]).collect()));
    let panel = Bars {
        y: "attempts ÷ calls".into(),
        log: false,
        series: POLICIES.iter().map(|&name| name.to_owned()).chain([by_hand.clone()]).collect(),
        groups: groups.collect(),
        limits: vec![(MOST, "limit 1.25".into())],
    };
    let setup = format!(
        "Three services of two instances each; each call of the first makes one of the second, and that one of the third, for \
         the same user. \
         {RATE:.0} calls a second that may be repeated. Every call that reaches the third service fails, from the first on. \
         Each client may make a fifth of its calls again, or ten a second where that is more, which it is for one of fewer \
         than 50 calls a second. Beside it: nobody repeats but the handlers, {BY_HAND} times each, as is done where \
         nobody counts."
    );
    let title = "6. A retry storm three services deep".into();
    let note = "the third service fails every call; attempts that reached a handler of each".into();
    let figure = Figure { title, note, panels: vec![Panel::Bars(panel)] };
    Ok(Scene { number: 6, title: "The last of three services fails everything", setup, findings, figure })
}

/// Attempts at each service for each call, while the last one fails.
async fn storm(setting: &Setting<'_>, name: &str, economy: bool) -> Result<Vec<f64>> {
    let stage = Stage::new(setting.programs, setting.scratch, &format!("storm-{name}-{economy}")).await?;
    let mut traffic = policy(name);
    if !economy {
        traffic["retry"] = json!({ "repeats": 0 });
    }
    let mut services: Vec<Vec<Instance>> = Vec::new();
    for (depth, service) in DEPTH.into_iter().enumerate() {
        let next = DEPTH.get(depth + 1);
        let by_hand = if economy { 0 } else { BY_HAND };
        let config = json!({ "mean_us": MEAN_US, "next": next, "by_hand": by_hand });
        let clients: Value = next.map_or(json!({}), |next| json!({ *next: { "traffic": traffic } }));
        let mut instances = Vec::new();
        for number in 1..=2 {
            let settings = [("FORMIC_CLIENT", clients.to_string())];
            instances
                .push(stage.instance(service, &format!("{service}-{number}"), &config, &settings).await?);
        }
        services.push(instances);
    }
    for instance in &services[2] {
        instance.fail(1000).await?;
    }
    let phases = [(RATE, setting.seconds)];
    let (service, writes, watches, important) = (DEPTH[0], 0.0, 0.0, 0.0);
    let load = Load { service, phases: &phases, writes, watches, important, traffic: traffic.clone() };
    let record = stage.drive(&load)?.finish().await?;
    let counts = attempts(&services).await?;
    let calls = record.calls.len().max(1) as f64;
    Ok(counts.iter().map(|&count| count as f64 / calls).collect())
}

async fn attempts(services: &[Vec<Instance>]) -> Result<Vec<u64>> {
    let mut counts = Vec::new();
    for instances in services {
        let mut count = 0;
        for instance in instances {
            count += instance.attempts().await?;
        }
        counts.push(count);
    }
    Ok(counts)
}
