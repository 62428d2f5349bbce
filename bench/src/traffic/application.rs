//! An application under `formic up`, for the scene that is about the engine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::{Process, Program};
use crate::programs::Ours;

/// Programs that are built are ready within a second.
const READY: Duration = Duration::from_secs(30);
/// Five new instances and the drain of five old ones.
const RESTART: Duration = Duration::from_secs(60);
/// The drain of all instances.
const STOP: Duration = Duration::from_secs(30);
const COMMAND: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

/// `formic up` ends by a signal, and a bench that is killed sends none. So a shell waits for the end of its
/// input, which a process loses however it ends, and passes the signal on.
const UNTIL_INPUT_ENDS: &str =
    "trap : INT TERM; \"$0\" up --quiet --json & up=$!; cat >/dev/null; kill -TERM $up; wait $up";

/// A running application. Dropping it stops it.
pub(super) struct Application<'a> {
    programs: &'a Ours,
    folder: PathBuf,
    up: Option<Process>,
}

impl<'a> Application<'a> {
    /// Starts an application of one service and waits until all of it is ready.
    pub(super) async fn up(programs: &'a Ours, folder: &Path, manifest: &str, service: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        std::fs::write(folder.join("formic.toml"), manifest).context("write the manifest")?;
        let shell = Program::named(Path::new("/bin/sh"), folder, "up")?.within(folder);
        let formic = programs.formic.to_str().context("the folder of the build has no readable name")?;
        let process = shell.args(["-c", UNTIL_INPUT_ENDS, formic]).start_quiet()?;
        let application = Self { programs, folder: folder.to_path_buf(), up: Some(process) };
        application.settled(service, &[], READY).await?;
        Ok(application)
    }

    /// Where instances and callers find its registry.
    pub(super) fn daemon(&self) -> String {
        format!("unix:{}", self.folder.join(".formic/api.sock").display())
    }

    /// `formic restart`, until only new instances are left.
    pub(super) async fn restart(&self, service: &str) -> Result<()> {
        let old = self.ids(service).await?;
        self.formic(["restart", service]).await?;
        self.settled(service, &old, RESTART).await
    }

    /// Waits until an update has succeeded and none of these instances is left.
    async fn settled(&self, service: &str, old: &[String], limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let row = self.row(service).await.unwrap_or_default();
            let ids = ids(&row);
            if row["rollout"] == "succeeded" && !ids.iter().any(|id| old.contains(id)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let words = self.up.as_ref().map(Process::last_words).unwrap_or_default();
                bail!("{service} does not settle: {row}; {words}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn ids(&self, service: &str) -> Result<Vec<String>> {
        Ok(ids(&self.row(service).await?))
    }

    async fn row(&self, service: &str) -> Result<Value> {
        let status: Value = serde_json::from_str(&self.formic(["status", "--json"]).await?)?;
        let rows = status["services"].as_array().context("a status has services")?;
        let row = rows.iter().find(|row| row["name"] == service);
        Ok(row.with_context(|| format!("there is no service {service}"))?.clone())
    }

    async fn formic<const N: usize>(&self, args: [&str; N]) -> Result<String> {
        let program = Program::named(&self.programs.formic, &self.folder, "formic")?.within(&self.folder);
        program.args(args).run(COMMAND).await.with_context(|| format!("formic {}", args.join(" ")))
    }
}

impl Drop for Application<'_> {
    fn drop(&mut self) {
        // Whoever is left after that is stopped by the next `formic up` of the folder, which is gone by then.
        if let Some(Err(error)) = self.up.take().map(|up| up.let_end(STOP)) {
            eprintln!("the application does not stop: {error:#}");
        }
    }
}

fn ids(row: &Value) -> Vec<String> {
    let instances = row["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    instances.iter().filter_map(|instance| Some(instance["id"].as_str()?.to_owned())).collect()
}
