//! Instances and a driver as processes, and the registry in which they find each other.
//!
//! All of them end with the bench: killed when dropped, which a panic and Ctrl-C come to as well, and by the end
//! of their input when the bench itself was killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use formic::Client;
use formic::registry::Memory;
use formic_bench::record::Micros;
use serde_json::{Value, json};

use super::record::Record;
use crate::bench::v1::{AdjustRequest, CharacterServiceClient};
use crate::discovery::Discovery;
use crate::process::{Process, Program, Talk};
use crate::programs::Ours;

/// An instance that takes longer to start has failed.
const START: Duration = Duration::from_secs(15);
/// What the driver may take beyond its load: the last calls, each with its deadline.
const SLACK: Duration = Duration::from_secs(20);

/// Where a scene takes place.
pub(crate) struct Stage<'a> {
    programs: &'a Ours,
    folder: PathBuf,
    discovery: Discovery,
    client: Client,
}

/// An instance.
pub(crate) struct Instance {
    pub(crate) id: String,
    process: Process,
    character: CharacterServiceClient,
}

/// A load.
pub(crate) struct Load<'a> {
    pub(crate) service: &'a str,
    /// Calls a second and for how many seconds, one part after the other.
    pub(crate) phases: &'a [(f64, f64)],
    pub(crate) writes: f64,
    pub(crate) watches: f64,
    pub(crate) important: f64,
    /// The policy, as settings have it.
    pub(crate) traffic: Value,
}

/// Callers at work.
pub(crate) struct Driver {
    process: Process,
    talk: Talk,
    record: PathBuf,
    phases: Vec<Micros>,
    wanted: usize,
    longest: Duration,
}

// === impl Stage ===

impl<'a> Stage<'a> {
    /// An empty stage with a folder of its own.
    pub(crate) async fn new(programs: &'a Ours, scratch: &Path, name: &str) -> Result<Self> {
        let folder = scratch.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let discovery = Discovery::serve(&folder).await?;
        let client = Client::new(std::sync::Arc::new(Memory::new()), formic_client::Config::default());
        Ok(Self { programs, folder, discovery, client })
    }

    /// Starts an instance and waits until callers find it.
    pub(crate) async fn instance(
        &self,
        service: &str,
        id: &str,
        config: &Value,
        settings: &[(&str, String)],
    ) -> Result<Instance> {
        let mut program = Program::named(&self.programs.instance, &self.folder, id)?
            .env("FORMIC_DAEMON", self.discovery.daemon())
            .env("FORMIC_SERVICE", service)
            .env("FORMIC_INSTANCE", id)
            .env("FORMIC_CONFIG", &config.to_string());
        for (name, value) in settings {
            program = program.env(name, value);
        }
        let process = program.start()?;
        let found = self.discovery.announced(id, START).await.with_context(|| process.last_words())?;
        let character = CharacterServiceClient::new(self.client.at(found.endpoint));
        Ok(Instance { id: id.into(), process, character })
    }

    /// Starts so many instances that are alike: `a-1`, `a-2` and so on.
    pub(crate) async fn instances(
        &self,
        service: &str,
        count: usize,
        config: &Value,
    ) -> Result<Vec<Instance>> {
        let mut instances = Vec::new();
        for number in 1..=count {
            instances.push(self.instance(service, &format!("{service}-{number}"), config, &[]).await?);
        }
        Ok(instances)
    }

    /// Takes one out of the registry that was killed.
    pub(crate) async fn forget(&self, id: &str) -> Result<()> {
        self.discovery.forget(id).await
    }

    /// Starts a load.
    pub(crate) fn drive(&self, load: &Load<'_>) -> Result<Driver> {
        drive(self.programs, &self.folder, self.discovery.daemon(), load)
    }
}

/// Starts a load on whoever is registered there.
pub(crate) fn drive(programs: &Ours, folder: &Path, daemon: &str, load: &Load<'_>) -> Result<Driver> {
    let record = folder.join("record");
    let config = json!({
        "service": load.service,
        "phases": load.phases,
        "writes": load.writes,
        "watches": load.watches,
        "important": load.important,
        "record": record,
    });
    let clients = json!({ load.service: { "traffic": load.traffic } });
    let program = Program::named(&programs.driver, folder, "driver")?
        .env("FORMIC_DAEMON", daemon)
        .env("FORMIC_CONFIG", &config.to_string())
        .env("FORMIC_CLIENT", &clients.to_string());
    let (process, talk) = program.start_talking()?;
    let longest = load.phases.iter().map(|phase| phase.1).fold(0.0, f64::max);
    let longest = Duration::from_secs_f64(longest) + SLACK;
    Ok(Driver { process, talk, record, phases: Vec::new(), wanted: load.phases.len() + 1, longest })
}

/// A policy by its name, as settings have it.
pub(crate) fn policy(name: &str) -> Value {
    match name {
        "hash" => json!({ "policy": name, "hash": { "key": "x-user" } }),
        _ => json!({ "policy": name }),
    }
}

// === impl Instance ===

impl Instance {
    /// Changes what its calls take.
    pub(crate) async fn take(&self, mean: Duration) -> Result<()> {
        let mean_us = u64::try_from(mean.as_micros()).ok();
        self.adjust(AdjustRequest { mean_us, ..Default::default() }).await.map(drop)
    }

    /// Changes how many of its calls fail, of a thousand.
    pub(crate) async fn fail(&self, failing: u32) -> Result<()> {
        self.adjust(AdjustRequest { failing: Some(failing), ..Default::default() }).await.map(drop)
    }

    /// How many calls have reached it.
    pub(crate) async fn attempts(&self) -> Result<u64> {
        self.adjust(AdjustRequest::default()).await
    }

    async fn adjust(&self, request: AdjustRequest) -> Result<u64> {
        let answer = self.character.adjust(request).await;
        Ok(answer.with_context(|| format!("adjust {}", self.id))?.attempts)
    }

    /// Kills it, as `kill -9` does, and waits until it is gone.
    pub(crate) async fn kill(self) -> Result<()> {
        self.process.end().await
    }
}

// === impl Driver ===

impl Driver {
    /// Waits until the next part of the load begins.
    pub(crate) async fn phase(&mut self) -> Result<Micros> {
        let line = tokio::time::timeout(self.longest, self.talk.next_line()).await;
        let line = line.with_context(|| format!("the driver hangs: {}", self.process.last_words()))?;
        let line = line?.with_context(|| format!("the driver ended: {}", self.process.last_words()))?;
        let at = line.parse().with_context(|| format!("the driver said {line:?}"))?;
        self.phases.push(at);
        Ok(at)
    }

    /// Ends the load before its time: calls on their way are waited for.
    pub(crate) async fn stop(mut self) -> Result<Record> {
        self.process.close_input();
        // The last thing that it says is when it ended.
        self.phase().await?;
        self.wanted = self.phases.len();
        self.finish().await
    }

    /// Waits for the end of the load, and reads the record.
    pub(crate) async fn finish(mut self) -> Result<Record> {
        while self.phases.len() < self.wanted {
            self.phase().await?;
        }
        self.process.finish(SLACK).await.context("the driver")?;
        Record::read(&self.record, self.phases)
    }
}
