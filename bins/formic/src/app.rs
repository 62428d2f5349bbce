//! Finding the running application: from this folder upward, else the only one that this user runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use formic_api::control::v1 as pb;
use formic_client::Client;
use formic_core::Endpoint;
use formic_registry::{DynRegistry, Memory};
use formic_rpc::Channel;

use crate::exit::{Failure, Outcome};

/// The folder of state beside a manifest.
pub(crate) const STATE: &str = ".formic";
/// The daemon's socket within it.
pub(crate) const SOCKET: &str = "api.sock";

/// How long the daemon may take to say who it is.
const PROBE: Duration = Duration::from_millis(1500);

/// A running application, and the ways to it.
pub(crate) struct App {
    /// Folder of the manifest.
    pub(crate) folder: PathBuf,
    /// Its daemon.
    pub(crate) daemon: Channel,
    /// What the daemon said when it was found.
    pub(crate) status: pb::StatusResponse,
}

impl App {
    /// The control service.
    pub(crate) fn control(&self) -> pb::ControlServiceClient {
        pb::ControlServiceClient::new(self.daemon.clone())
    }

    /// The registry of the application.
    pub(crate) fn registry(&self) -> DynRegistry {
        Arc::new(formic_api::LocalRegistry::new(self.daemon.clone()))
    }

    /// A client that finds the application's services.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.registry(), formic_client::Config::default())
    }
}

/// A channel to a daemon's socket.
pub(crate) fn channel(socket: PathBuf) -> Channel {
    Client::new(Arc::new(Memory::new()), formic_client::Config::default()).at(Endpoint::Unix(socket))
}

async fn open(folder: PathBuf) -> Option<App> {
    let daemon = channel(folder.join(STATE).join(SOCKET));
    let control = pb::ControlServiceClient::new(daemon.clone());
    let status = control.status(pb::StatusRequest::default()).timeout(PROBE).await.ok()?;
    Some(App { folder, daemon, status: status.into_message() })
}

/// The folder at or above this one whose application runs.
async fn upward(from: &Path) -> Option<App> {
    for folder in from.ancestors() {
        if folder.join(STATE).join(SOCKET).exists()
            && let Some(app) = open(folder.into()).await
        {
            return Some(app);
        }
    }
    None
}

/// Folders whose daemon listens, by the kernel's list of unix sockets. A socket of another user
/// refuses the connection, so it falls out by itself.
fn listening() -> Vec<PathBuf> {
    let list = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let suffix = format!("/{STATE}/{SOCKET}");
    let mut folders: Vec<PathBuf> = list
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .filter_map(|path| path.strip_suffix(&suffix))
        .map(PathBuf::from)
        .collect();
    folders.sort();
    folders.dedup();
    folders
}

/// Finds the application that a command is about.
pub(crate) async fn find(wanted: Option<&str>) -> Outcome<App> {
    if let Some(wanted) = wanted {
        let path = PathBuf::from(wanted);
        if path.is_dir()
            && let Ok(path) = path.canonicalize()
            && let Some(app) = upward(&path).await
        {
            return Ok(app);
        }
        for folder in listening() {
            if let Some(app) = open(folder).await
                && app.status.app == wanted
            {
                return Ok(app);
            }
        }
        return Err(Failure::unreachable(format!(
            "no running application is called {wanted:?} or lives there"
        ))
        .help("`formic up <folder>` starts one"));
    }
    if let Ok(here) = std::env::current_dir()
        && let Some(app) = upward(&here).await
    {
        return Ok(app);
    }
    let mut running = Vec::new();
    for folder in listening() {
        running.extend(open(folder).await);
    }
    match running.len() {
        1 => Ok(running.remove(0)),
        0 => {
            Err(Failure::unreachable("no application is running").help("start one with `formic up <folder>`"))
        }
        _ => {
            let names: Vec<_> =
                running.iter().map(|app| format!("{} ({})", app.status.app, app.folder.display())).collect();
            Err(Failure::user(format!("several applications are running: {}", names.join(", ")))
                .help("say which one with --app <name or folder>"))
        }
    }
}
