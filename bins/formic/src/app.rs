//! Finding the running application: that of this folder or of one above, else the only one that this user runs.

pub(crate) mod again;
mod here;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use formic_api::control::v1 as pb;
use formic_client::{Client, Transport};
use formic_core::Endpoint;
use formic_registry::{DynRegistry, Memory};
use formic_rpc::Channel;

use crate::cli::Target;
use crate::exit::{Failure, Outcome};
use crate::remote::Remote;

/// The folder of state beside a manifest.
pub(crate) const STATE: &str = ".formic";
/// The daemon's socket within it.
pub(crate) const SOCKET: &str = "api.sock";
/// The file within it that the daemon holds open and locked while it lives.
pub(crate) const LOCK: &str = "lock";

/// How long the daemon may take to say who it is.
const PROBE: Duration = Duration::from_millis(1500);

/// So long a server that was found may be without a brain that answers: the keeper waits up to ten seconds before it
/// starts one again.
pub(crate) const AWAY: Duration = Duration::from_secs(15);
/// For so long a change may take until the engine has written it down. A machine that has much to start is slow, and whoever was told that
/// it took too long does not know whether it was made.
pub(crate) const CHANGE: Duration = Duration::from_secs(30);
/// How often it is looked whether one answers.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// A running application, and the ways to it.
pub(crate) struct App {
    /// Folder of the manifest, on the machine of the daemon.
    pub(crate) folder: PathBuf,
    /// The server that it was found by, if not by its socket.
    pub(crate) remote: Option<Remote>,
    /// Its daemon.
    pub(crate) daemon: Channel,
    /// What the daemon said when it was found.
    pub(crate) status: pb::StatusResponse,
    /// Nobody named it: it is the only one that runs.
    guessed: bool,
}

impl App {
    /// Where it is, for people.
    pub(crate) fn place(&self) -> String {
        match &self.remote {
            Some(remote) => remote.url().to_owned(),
            None => self.folder.display().to_string(),
        }
    }

    /// The same, for a command that changes it: that it happens to be the only one that runs is no reason to.
    pub(crate) fn meant(&self) -> Outcome<&Self> {
        if !self.guessed {
            return Ok(self);
        }
        let (name, folder) = (&self.status.app, self.folder.display());
        Err(Failure::user(format!("there is no application in this folder; {name} runs in {folder}"))
            .help(format!("say --app {name} if it is meant, or go there")))
    }

    /// The control service.
    pub(crate) fn control(&self) -> pb::ControlServiceClient {
        pb::ControlServiceClient::new(self.daemon.clone())
    }

    /// The service that changes what is wanted.
    pub(crate) fn deploy(&self) -> pb::DeployServiceClient {
        pb::DeployServiceClient::new(self.daemon.clone())
    }

    /// The service of what manages it.
    pub(crate) fn server(&self) -> pb::ServerServiceClient {
        pb::ServerServiceClient::new(self.daemon.clone())
    }

    /// The service of its cron jobs.
    pub(crate) fn cron(&self) -> pb::CronServiceClient {
        pb::CronServiceClient::new(self.daemon.clone())
    }

    /// The service of its secrets.
    pub(crate) fn secret(&self) -> pb::SecretServiceClient {
        pb::SecretServiceClient::new(self.daemon.clone())
    }

    /// Whether it has a service of this name; a mistake says what was meant.
    pub(crate) fn knows(&self, name: &str) -> Outcome {
        let known: Vec<&str> = self.status.services.iter().map(|service| service.name.as_str()).collect();
        if known.contains(&name) {
            return Ok(());
        }
        let failure = Failure::user(format!("{} has no service {name:?}", self.status.app));
        Err(match formic_settings::nearest(name, known.iter().copied()) {
            Some(near) => failure.help(format!("did you mean {near:?}?")),
            None if known.is_empty() => {
                failure.help("nothing is wanted there now; `formic apply` starts what the manifest says")
            }
            None => failure.help(format!("it has {}", known.join(", "))),
        })
    }

    /// The service about traffic.
    pub(crate) fn traffic(&self) -> pb::TrafficServiceClient {
        pb::TrafficServiceClient::new(self.daemon.clone())
    }

    /// The registry of the application.
    pub(crate) fn registry(&self) -> DynRegistry {
        Arc::new(formic_api::LocalRegistry::new(self.daemon.clone()))
    }

    /// A client that finds the application's services.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.registry(), calls())
    }
}

/// What the environment says about transports, by the names that services know it by.
pub(crate) fn transport() -> Option<String> {
    ["FORMIC_CLIENT_TRANSPORT", "FORMIC_TRANSPORT"].into_iter().find_map(|name| std::env::var(name).ok())
}

/// How the binary itself calls services.
pub(crate) fn calls() -> formic_client::Config {
    let transport = transport().and_then(|name| Transport::named(&name)).unwrap_or_default();
    formic_client::Config { transport, ..formic_client::Config::default() }
}

/// A channel to a daemon's socket.
pub(crate) fn channel(socket: PathBuf) -> Channel {
    Client::new(Arc::new(Memory::new()), formic_client::Config::default()).at(Endpoint::Unix(socket))
}

/// The folder at or above this one that has an application of this user's.
pub(crate) fn own(from: &Path) -> Option<&Path> {
    here::own(from)
}

async fn open(folder: PathBuf) -> Option<App> {
    let daemon = channel(folder.join(STATE).join(SOCKET));
    let control = pb::ControlServiceClient::new(daemon.clone());
    let status = control.status(pb::StatusRequest::default()).timeout(PROBE).await.ok()?;
    Some(App { folder, remote: None, daemon, status: status.into_message(), guessed: false })
}

/// Whether what listens in this folder is this user's. Anybody can make a folder with a socket that all may
/// connect to, above where others work; what it is told, tokens among it, would be told to a stranger.
fn is_own(folder: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    let owner = |path: &Path| std::fs::symlink_metadata(path).map(|meta| meta.uid());
    let state = folder.join(STATE);
    owner(&state).is_ok_and(|uid| uid == me) && owner(&state.join(SOCKET)).is_ok_and(|uid| uid == me)
}

/// The application of exactly this folder, if it runs.
pub(crate) async fn in_folder(folder: &Path) -> Option<App> {
    if is_own(folder) { open(folder.into()).await } else { None }
}

fn several(what: &str, running: &[App]) -> Failure {
    let names: Vec<_> = running.iter().map(|app| format!("{} ({})", app.status.app, app.place())).collect();
    Failure::user(format!("{what}: {}", names.join(", "))).help("say which one with --app <name or folder>")
}

/// Finds the application that a command is about.
pub(crate) async fn find(target: &Target) -> Outcome<App> {
    match (Remote::of(&target.remote)?, target.app.as_deref()) {
        (Some(remote), wanted) => afar(remote, wanted).await,
        (None, Some(wanted)) => named(wanted).await,
        (None, None) => nearest().await,
    }
}

/// The same for a command that needs what is on the machine of the daemon: processes, programs, addresses.
pub(crate) async fn find_here(target: &Target, what: &str) -> Outcome<App> {
    if let Some(url) = target.remote.url() {
        return Err(Failure::user(format!("{what} is not done over TCP, and {url} is asked"))
            .help("run it on the machine of the server, without --server and FORMIC_SERVER"));
    }
    find(target).await
}

/// That of a server.
async fn afar(remote: Remote, wanted: Option<&str>) -> Outcome<App> {
    remote.knock().await?;
    let daemon = remote.channel();
    let status = pb::ControlServiceClient::new(daemon.clone()).status(pb::StatusRequest::default()).await?;
    let status = status.into_message();
    if let Some(wanted) = wanted
        && wanted != status.app
    {
        return Err(Failure::user(format!("{} has {}, and not {wanted:?}", remote.url(), status.app)));
    }
    let folder = Path::new(&status.manifest).parent().unwrap_or(Path::new("/")).to_path_buf();
    Ok(App { folder, remote: Some(remote), daemon, status, guessed: false })
}

/// By name; by folder if it is written as a path, or if no application has that name.
async fn named(wanted: &str) -> Outcome<App> {
    if !wanted.contains('/') && !matches!(wanted, "." | "..") {
        let mut running = here::running().await;
        running.retain(|app| app.status.app == wanted);
        match running.len() {
            0 => {}
            1 => return Ok(running.remove(0)),
            _ => {
                return Err(several(
                    &format!("several applications called {wanted:?} are running"),
                    &running,
                ));
            }
        }
    }
    if let Ok(folder) = Path::new(wanted).canonicalize()
        && let Some(app) = here::waited(&folder).await
    {
        return Ok(app);
    }
    Err(Failure::unreachable(format!("no running application is called {wanted:?} or lives there"))
        .help("`formic up <folder>` starts one"))
}

/// That of the current folder or of one above; where there is none, the only one.
async fn nearest() -> Outcome<App> {
    if let Ok(here) = std::env::current_dir()
        && let Some(folder) = here::own(&here)
    {
        return here::of(folder).await;
    }
    let mut running = here::running().await;
    match running.len() {
        1 => Ok(App { guessed: true, ..running.remove(0) }),
        0 => {
            Err(Failure::unreachable("no application is running").help("start one with `formic up <folder>`"))
        }
        _ => Err(several("several applications are running", &running)),
    }
}
