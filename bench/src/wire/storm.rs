//! The storm with processes: both ends are killed, again and again, while calls are made.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::{Process, Program};
use crate::programs::Programs;
use crate::report::Target;

const CALLERS: u64 = 512;

/// How long a server lives, and a second caller beside the one that counts.
const SERVER_MS: u64 = 7_000;
const CALLER_MS: u64 = 1_700;

/// What the caller said, with the kills; and how much of what must not be.
pub(crate) async fn measure(programs: &Programs, scratch: &Path, calls: u64) -> Result<(Value, f64)> {
    let program = |args: [&str; 5]| {
        let args = args.into_iter().filter(|arg| !arg.is_empty()).collect::<Vec<_>>();
        let mut program = Program::new(&programs.ours.storm, scratch)?;
        for arg in args {
            program = program.args([arg]);
        }
        Ok::<_, anyhow::Error>(program)
    };
    let (mut server, at) = program(["serve", "127.0.0.1:0", "", "", ""])?.start_announced().await?;
    let callers = CALLERS.to_string();
    let counting = program(["call", &at, &calls.to_string(), &callers, "1"])?;
    let limit = Duration::from_secs(120) + Duration::from_micros(calls * 1_000);
    let counting = counting.said(limit);
    tokio::pin!(counting);

    let (mut servers_killed, mut callers_killed) = (0_u64, 0_u64);
    let mut server_ends = tokio::time::interval(Duration::from_millis(SERVER_MS));
    let mut caller_ends = tokio::time::interval(Duration::from_millis(CALLER_MS));
    server_ends.reset();
    let mut beside: Option<Process> = None;
    let mut said = loop {
        tokio::select! {
            said = &mut counting => break said?,
            _ = server_ends.tick() => {
                server.end().await?;
                servers_killed += 1;
                // On the same port, which its callers know.
                server = program(["serve", &at, "", "", ""])?.start_announced().await?.0;
            }
            _ = caller_ends.tick() => {
                if let Some(process) = beside.take() {
                    process.end().await?;
                    callers_killed += 1;
                }
                let seed = (callers_killed + 2).to_string();
                beside = Some(program(["call", &at, "100000000", "64", &seed])?.start()?);
            }
        }
    };
    if let Some(process) = beside.take() {
        process.end().await?;
    }
    // The server waits until every handler has ended, of killed callers too.
    let mut server = server;
    server.close_input();
    let ended = server.finish(Duration::from_secs(60)).await;
    if let Err(error) = &ended {
        eprintln!("the last server: {error:#}");
    }
    let ended = ended.is_ok();
    said["servers_killed"] = servers_killed.into();
    said["callers_killed"] = callers_killed.into();
    said["every_handler_ended"] = ended.into();
    let mut broken = broken(&said)?;
    if !ended {
        broken += 1.0;
    }
    eprintln!("storm: {said}");
    Ok((said, broken))
}

/// How much of what a caller said must not be. Nothing fails here but by the weather, and what went over HTTP was in none.
fn broken(said: &Value) -> Result<f64> {
    let count = |name: &str| said[name].as_f64().with_context(|| format!("the storm does not say {name}"));
    let mut broken = 0.0;
    for name in ["wrong", "hung", "answered_twice", "strange_frames", "other", "http"] {
        broken += count(name)?;
    }
    let unseen = count("answered")? - count("requests_seen")?;
    Ok(broken + unseen.max(0.0))
}

/// What is said of it, with how many calls there were: of fewer it says less.
pub(crate) fn target(calls: u64, broken: f64) -> Target {
    let kinds = "hung, with another's answer, answered twice, failed by more than the weather, over HTTP";
    Target::at_most(format!("of {calls} calls: {kinds}"), broken, 0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn whatever_is_not_the_weather_is_broken() {
        let good = serde_json::json!({
            "answered": 90, "canceled": 7, "late": 2, "lost": 1, "other": 0, "wrong": 0, "hung": 0, "requests_seen": 95,
            "http": 0, "answered_twice": 0, "strange_frames": 0,
        });
        assert_eq!(broken(&good).unwrap(), 0.0);
        for name in ["wrong", "hung", "answered_twice", "strange_frames", "other", "http"] {
            let mut bad = good.clone();
            bad[name] = 3.into();
            assert_eq!(broken(&bad).unwrap(), 3.0, "{name}");
            bad[name] = Value::Null;
            assert!(broken(&bad).is_err(), "{name} is not said");
        }
        let mut unseen = good;
        unseen["requests_seen"] = 88.into();
        assert_eq!(broken(&unseen).unwrap(), 2.0, "two were answered without a request");
    }

    #[test]
    fn the_target_is_about_so_many_calls() {
        assert!(target(1_000_000, 0.0).name.contains(" 1000000 calls"));
    }
}
