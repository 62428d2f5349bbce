//! One size, measured.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use formic::Streaming;
use formic_api::control::v1 as pb;
use serde::Serialize;

use super::stage::{SERVICE, Stage, kill};
use crate::process::resident;
use crate::programs::Managed;

/// Until all are ready, all of the rollout is done, all of them are gone.
const LONG: Duration = Duration::from_secs(180);
/// Nothing is asked for so long before idleness is measured.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(10);
/// At most so many instances are killed, one after the other.
const CRASHES: u32 = 100;
/// Of few instances each is killed so often: more would be a crash loop.
const CRASHES_EACH: u32 = 2;
/// How long it may take until a killed instance is replaced.
const REPLACED: Duration = Duration::from_secs(20);
/// Brains that are killed.
const RECOVERIES: usize = 3;
/// A brain that has run for so long has worked: the keeper starts the next one at once. One that is killed sooner is
/// taken for broken, and the keeper waits longer each time.
const STEADY: Duration = Duration::from_secs(11);

/// What was found with so many instances.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) instances: u32,
    /// From `formic apply` until all are ready.
    pub(super) all_ready_ms: f64,
    /// From the engine's decision to the instance's first instruction, where all are started at once.
    pub(super) mass_exec_ms: Spread,
    pub(super) brain_mib: f64,
    pub(super) keeper_mib: f64,
    pub(super) idle_percent: f64,
    pub(super) extra_processes: i64,
    pub(super) crashes: u32,
    /// From the kill until the engine has noted the end, on its clock.
    pub(super) detection_ms: Spread,
    /// The same until who follows the events has been told.
    pub(super) told_ms: Spread,
    /// From the kill until the next instance is ready.
    pub(super) replaced_ms: Spread,
    /// From the engine's decision to the instance's first instruction, one start at a time.
    pub(super) exec_ms: Spread,
    /// Processor time of the brain for each crash and what follows it.
    pub(super) crash_cpu_ms: f64,
    /// From the kill of the brain until the next one answers, and has adopted all.
    pub(super) recovery_ms: Spread,
    /// Until all are gone.
    pub(super) stopped_ms: f64,
}

/// Of many values.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Spread {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) slowest: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Result<Self> {
        values.sort_by(f64::total_cmp);
        // The nearest rank: of less than a hundred values the p99 is the greatest.
        let at = |share: f64| values.get(((values.len() as f64 * share).ceil() as usize).max(1) - 1).copied();
        match (at(0.5), at(0.99), at(1.0)) {
            (Some(p50), Some(p99), Some(slowest)) => Ok(Self { p50, p99, slowest }),
            _ => bail!("nothing was measured"),
        }
    }
}

pub(super) async fn measure(programs: &Managed, scratch: &Path, instances: u32) -> Result<Finding> {
    eprintln!("{instances} instances: start");
    let stage = Stage::set(programs, scratch, instances).await?;
    let mut events = Events::follow(&stage).await?;
    let began = Instant::now();
    stage.formic(&["apply"]).await?;
    let ready =
        |status: &pb::StatusResponse| service(status).is_some_and(|service| service.ready >= instances);
    stage.until("all are ready", Duration::from_millis(20), LONG, ready).await?;
    let all_ready_ms = millis(began.elapsed());
    let mut mass = Vec::new();
    for start in events.so_far("start").await? {
        mass.push(executed(&stage, &start).await?);
    }
    let done =
        |status: &pb::StatusResponse| service(status).is_some_and(|service| service.rollout == "succeeded");
    let (_, status) = stage.until("the rollout is done", Duration::from_millis(500), LONG, done).await?;
    let (brain, keeper) = (status.pid, status.server.keeper_pid);

    eprintln!("{instances} instances: idle");
    tokio::time::sleep(SETTLE).await;
    let (used, began) = (cpu(brain)?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let idle = (cpu(brain)? - used).as_secs_f64() / began.elapsed().as_secs_f64();
    let (brain_mib, keeper_mib) = (memory(brain)?, memory(keeper)?);
    let extra_processes = i64::try_from(children(&[brain, keeper]).len())? - i64::from(instances) - 1;

    eprintln!("{instances} instances: crashes");
    let crashes = (instances * CRASHES_EACH).min(CRASHES);
    let (mut detection, mut told, mut replaced, mut exec) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (used, began) = (cpu(brain)?, Instant::now());
    let mut victims: Vec<(String, u32)> = pids(&status);
    for index in 0..crashes {
        let at = (index as usize * 37) % victims.len();
        let crash = events.crash(&victims[at]).await.with_context(|| format!("crash {index}"))?;
        detection.push(crash.detected_ms);
        told.push(crash.told_ms);
        replaced.push(crash.replaced_ms);
        exec.push(executed(&stage, &crash.start).await?);
        // Its process number is not told by events; the status is asked for below, outside of what is measured.
        victims.remove(at);
        if victims.is_empty() {
            let status = stage.status().await.context("the brain does not answer")?;
            victims = pids(&status);
        }
    }
    let busy = (cpu(brain)? - used).as_secs_f64() - idle * began.elapsed().as_secs_f64();
    let crash_cpu_ms = 1e3 * busy / f64::from(crashes);
    drop(events);

    eprintln!("{instances} instances: recovery");
    let mut recovery = Vec::new();
    for _ in 0..RECOVERIES {
        tokio::time::sleep(STEADY).await;
        let (_, before) = stage.until("all are ready", Duration::from_millis(100), LONG, ready).await?;
        let began = Instant::now();
        kill(before.pid)?;
        let all = |status: &pb::StatusResponse| {
            status.pid != before.pid && status.server.adopted >= instances && ready(status)
        };
        let limit = Duration::from_secs(30);
        let (_, after) = stage.until("the brain is back", Duration::from_millis(5), limit, all).await?;
        recovery.push(millis(began.elapsed()));
        let set = |status| pids(status).into_iter().collect::<BTreeSet<_>>();
        if set(&before) != set(&after) {
            bail!("the brain's death has changed which instances run");
        }
    }
    let stopped_ms = millis(stage.clear().await?);

    Ok(Finding {
        instances,
        all_ready_ms,
        mass_exec_ms: Spread::of(mass)?,
        brain_mib,
        keeper_mib,
        idle_percent: 100.0 * idle,
        extra_processes,
        crashes,
        detection_ms: Spread::of(detection)?,
        told_ms: Spread::of(told)?,
        replaced_ms: Spread::of(replaced)?,
        exec_ms: Spread::of(exec)?,
        crash_cpu_ms,
        recovery_ms: Spread::of(recovery)?,
        stopped_ms,
    })
}

/// The engine's events as they come.
struct Events(Streaming<pb::Event>);

/// An instance was killed, and another came.
struct Crash {
    detected_ms: f64,
    told_ms: f64,
    replaced_ms: f64,
    start: pb::Event,
}

impl Events {
    async fn follow(stage: &Stage) -> Result<Self> {
        let deploy = pb::DeployServiceClient::new(stage.channel());
        let request = pb::EventsRequest { follow: true, tail: 1, ..Default::default() };
        Ok(Self(deploy.events(request).await?.into_message()))
    }

    async fn next(&mut self, limit: Duration) -> Result<Option<pb::Event>> {
        match tokio::time::timeout(limit, self.0.message()).await {
            Ok(Ok(Some(event))) => Ok(Some(event)),
            Ok(Ok(None)) => bail!("the events end"),
            Ok(Err(error)) => Err(error).context("follow the events"),
            Err(_) => Ok(None),
        }
    }

    /// All of one kind until nothing comes any more.
    async fn so_far(&mut self, kind: &str) -> Result<Vec<pb::Event>> {
        let mut found = Vec::new();
        while let Some(event) = self.next(Duration::from_millis(500)).await? {
            if event.kind == kind {
                found.push(event);
            }
        }
        Ok(found)
    }

    /// Kills an instance, and waits until there is another one.
    async fn crash(&mut self, (victim, pid): &(String, u32)) -> Result<Crash> {
        // What is left of the one before.
        while self.next(Duration::from_millis(50)).await?.is_some() {}
        let (killed, began) = (wall_ms(), Instant::now());
        kill(*pid)?;
        let (mut exit, mut start): (Option<(f64, f64)>, Option<pb::Event>) = (None, None);
        loop {
            let left = REPLACED.checked_sub(began.elapsed()).context("it is not replaced")?;
            let Some(event) = self.next(left).await? else { continue };
            if event.kind == "exit" && event.instance == *victim && exit.is_none() {
                // The event's clock has whole milliseconds; what is cut off is counted as one.
                exit = Some(((event.unix_ms + 1) as f64 - killed, wall_ms() - killed));
            } else if event.kind == "start" && event.service == SERVICE {
                start = Some(event);
            } else if event.kind == "ready" && start.as_ref().is_some_and(|s| s.instance == event.instance) {
                let (detected_ms, told_ms) = exit.context("its end was not told")?;
                let start = start.context("its start was not told")?;
                return Ok(Crash { detected_ms, told_ms, replaced_ms: millis(began.elapsed()), start });
            }
        }
    }
}

/// Milliseconds from the engine's decision to start it to the instance's own first line.
async fn executed(stage: &Stage, start: &pb::Event) -> Result<f64> {
    let path = stage.output(&start.instance);
    let began = Instant::now();
    loop {
        let line = std::fs::read_to_string(&path).unwrap_or_default();
        if let Some(line) = line.strip_suffix('\n') {
            let micros: i64 = line.parse().with_context(|| format!("read {}", path.display()))?;
            return Ok((micros - start.unix_ms * 1000) as f64 / 1e3);
        }
        if began.elapsed() > Duration::from_secs(10) {
            bail!("{} has said nothing", start.instance);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn service(status: &pb::StatusResponse) -> Option<&pb::ServiceStatus> {
    status.services.iter().find(|service| service.name == SERVICE)
}

fn pids(status: &pb::StatusResponse) -> Vec<(String, u32)> {
    let instances = service(status).map(|service| service.instances.as_slice()).unwrap_or_default();
    instances.iter().filter(|i| i.pid != 0).map(|i| (i.id.clone(), i.pid)).collect()
}

/// The processes that these have begun or taken in.
fn children(parents: &[u32]) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<u32>().ok()
    };
    pids.filter(|pid| parent(*pid).is_some_and(|parent| parents.contains(&parent))).collect()
}

fn cpu(pid: u32) -> Result<Duration> {
    formic_bench::cpu::used(pid).with_context(|| format!("process {pid} is gone"))
}

fn memory(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.ok().as_deref().and_then(resident).with_context(|| format!("process {pid} is gone"))
}

fn wall_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let spread = Spread::of((1..=200).rev().map(f64::from).collect()).unwrap();
        assert_eq!((spread.p50, spread.p99, spread.slowest), (100.0, 198.0, 200.0));
        let one = Spread::of(vec![7.0]).unwrap();
        assert_eq!((one.p50, one.p99, one.slowest), (7.0, 7.0, 7.0));
        assert!(Spread::of(Vec::new()).is_err());
    }

    #[test]
    fn ones_own_children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = children(&[std::process::id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!cfg!(target_os = "linux") || found.contains(&child.id()), "{found:?}");
    }
}
