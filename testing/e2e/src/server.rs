//! An application under `formic server`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::clock::wait_for;
use crate::folder::{Folder, free_port};
use crate::http::Gateway;
use crate::manifest::Manifest;
use crate::process::{Ended, Tool, alive, of_application, signal};
use crate::programs::{builds, formic_in};

/// A busy machine with unoptimised programs gets more than the second that a brain needs.
const SOON: Duration = Duration::from_secs(60);

/// An application in a folder of its own, and the server that manages it. Dropping it ends both, and all that they
/// run.
#[derive(Debug)]
pub struct Managed {
    folder: Folder,
    gateway: Gateway,
    /// Variables of the server.
    env: Vec<(String, String)>,
}

impl Managed {
    /// A server, and an application that it was not told to run yet.
    #[must_use]
    pub fn new(manifest: &Manifest, env: &[(&str, &str)]) -> Self {
        let folder = Folder::new("server");
        let authority = format!("127.0.0.1:{}", free_port());
        let managed = Self {
            folder,
            gateway: Gateway { authority },
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        managed.write(manifest);
        managed.serve();
        managed
    }

    /// The same, and the application runs.
    #[must_use]
    pub fn running(manifest: &Manifest, env: &[(&str, &str)]) -> Self {
        let managed = Self::new(manifest, env);
        managed.formic(&["apply", "--wait"]).says(0, &[]);
        managed
    }

    /// A copy of its folder, with all that is in it. No server has it yet.
    ///
    /// # Panics
    /// If it cannot be copied.
    #[must_use]
    pub fn copied(&self) -> Folder {
        let copy = Folder::new("copy");
        let from = self.folder.path().join(".");
        let copied = Tool::new("cp").args([Path::new("-a"), &from, copy.path()]).run();
        copied.says(0, &[]);
        copy
    }

    /// The server of a folder that was prepared, which is begun by [`Managed::try_serve`].
    #[must_use]
    pub fn over(folder: Folder) -> Self {
        Self { folder, gateway: Gateway { authority: String::new() }, env: Vec::new() }
    }

    /// Moves its folder aside. What runs is known by its mark to none of these tools any more.
    pub fn moved(&mut self) {
        self.folder.rename();
    }

    /// Another manifest in its place.
    pub fn write(&self, manifest: &Manifest) {
        let listen = format!("{:?}", self.gateway.authority);
        let manifest = if manifest.has_gateway() {
            manifest.clone().set("gateway", "listen", &listen)
        } else {
            manifest.clone()
        };
        manifest.write(self.folder.path());
    }

    /// Starts the server, as a service manager does after its end.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn serve(&self) {
        self.try_serve(&[]).says(0, &["keeper"]);
    }

    /// The same; whatever comes of it.
    #[must_use]
    pub fn try_serve(&self, more: &[&str]) -> Ended {
        let mut tool = formic_in(self.folder.path(), &[&["server", "--detach"], more].concat());
        for (name, value) in &self.env {
            tool = tool.env(name, value);
        }
        tool.run()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }

    /// Its gateway.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Runs the binary in its folder.
    #[must_use]
    pub fn formic(&self, args: &[&str]) -> Ended {
        builds(formic_in(self.folder.path(), args)).run()
    }

    /// `formic status --json`, if the server answers.
    #[must_use]
    pub fn try_status(&self) -> Option<Value> {
        let ended = self.formic(&["status", "--app", self.folder.path().to_str()?, "--json"]);
        (ended.code == Some(0)).then(|| ended.json())
    }

    /// The status, within a time that covers the start of a brain.
    ///
    /// # Panics
    /// If nobody answers.
    #[must_use]
    pub fn status(&self) -> Value {
        wait_for("the server to answer", SOON, || self.try_status())
    }

    /// The status once every service is ready.
    ///
    /// # Panics
    /// If that takes too long.
    #[must_use]
    pub fn ready(&self) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            let services = status["services"].as_array().unwrap();
            if services.iter().all(|service| service["state"] == "ready") {
                return status;
            }
            assert!(begun.elapsed() < SOON, "not ready: {status:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process of the brain.
    ///
    /// # Panics
    /// If nobody answers.
    #[must_use]
    pub fn brain(&self) -> u32 {
        number(&self.status()["pid"])
    }

    /// The process of the keeper.
    ///
    /// # Panics
    /// If nobody answers.
    #[must_use]
    pub fn keeper(&self) -> u32 {
        number(&self.status()["server"]["keeper_pid"])
    }

    /// Kills a process of the server and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn kill(&self, pid: u32) {
        signal(pid, Signal::KILL);
        crate::clock::wait_until("a killed process to end", SOON, || !alive(pid));
    }

    /// The processes of all instances, by id.
    #[must_use]
    pub fn pids(&self) -> std::collections::BTreeMap<String, u32> {
        instances(&self.status()).into_iter().filter(|(_, pid)| *pid != 0).collect()
    }

    /// What the server wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(".formic/server.log")).unwrap_or_default()
    }

    /// The keeper, whether or not anybody answers.
    fn holder(&self) -> Option<u32> {
        let lock = fs::read_to_string(self.folder.path().join(".formic/keeper/keeper.lock")).ok()?;
        let identity: Value = serde_json::from_str(&lock).ok()?;
        identity["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }
}

/// The id and the process of every instance of a status.
#[must_use]
pub fn instances(status: &Value) -> Vec<(String, u32)> {
    let services = status["services"].as_array().into_iter().flatten();
    let all = services.flat_map(|service| service["instances"].as_array().into_iter().flatten());
    all.map(|instance| (instance["id"].as_str().unwrap_or_default().to_owned(), number(&instance["pid"])))
        .collect()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap_or_default()).unwrap()
}

impl Drop for Managed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- server\n{}", self.log());
        }
        // The keeper first, so that nothing is started again.
        if let Some(keeper) = self.holder() {
            signal(keeper, Signal::KILL);
        }
        let begun = Instant::now();
        while begun.elapsed() < SOON {
            let left = of_application(self.folder.path());
            if left.is_empty() {
                return;
            }
            for pid in left {
                signal(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
