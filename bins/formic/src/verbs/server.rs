//! `formic server`: the engine for as long as the machine runs.
//!
//! ```text
//! formic server ──becomes──▶ keeper ──starts──▶ formic server brain   (API, state, reconciler; restarted at will)
//!                                └──inherits──▶ instances              (go on without either)
//! ```
//!
//! One server has one application, as one folder has one manifest: a machine runs as many as it has
//! applications, and what happens to one of them is nothing to the others. What must be known before the brain
//! can read its state is in a small file ([`Place`]), so that a manifest that is being edited, or is
//! broken, is nothing to a server that runs.

pub(crate) mod brain;
mod copied;
mod door;
mod install;
mod last_words;
mod ports;
mod shares;
mod upgrade;
mod wary;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use formic_api::control::v1 as pb;
use formic_core::{Code, Endpoint};
use formic_server::Bound;
use formic_state::Unfit;
use formic_supervise::{Features, Lock, LockError, is_running, keeper};
use serde::{Deserialize, Serialize};
use serde_json::json;

use door::{Certificate, Door};

use crate::app::App;
use crate::cli::{Detached, Doors, Server, ServerVerb};
use crate::engine::state::State;
use crate::engine::{closed, manifest};
use crate::exit::{Failure, Outcome};
use crate::output::{self, talk};
use crate::{app, signals};

/// How long a server may take to answer after it was started. It reads files and takes over what runs.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked whether it answers.
const LOOK: Duration = Duration::from_millis(20);
/// How long the holder of a lock may take to end.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
/// How long the keeper may take to end after the brain did.
const END_LIMIT: Duration = Duration::from_secs(15);

/// The file of it within the state.
const FILE: &str = "server.json";

/// What a brain must know before it can read anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Name of the application.
    pub(crate) app: String,
    /// Its manifest.
    pub(crate) manifest: PathBuf,
    /// Whether Cargo packages are built in the release profile.
    pub(crate) release: bool,
    /// The API over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) door: Option<Door>,
    /// Where Prometheus is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
}

impl Place {
    /// Of the application in this folder, if a server had it.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        let text = std::fs::read(folder.join(crate::app::STATE).join(FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn path(state: &State) -> PathBuf {
        state.folder().join(FILE)
    }

    fn read(state: &State) -> Outcome<Self> {
        let path = Self::path(state);
        let failed = || Failure::user(format!("{} cannot be read", path.display()));
        let text = std::fs::read(&path).map_err(|error| failed().because(error))?;
        serde_json::from_slice(&text)
            .map_err(|error| failed().because(error).help("`formic server <folder>` writes it anew"))
    }

    fn write(&self, state: &State) -> Outcome {
        let path = Self::path(state);
        let text = serde_json::to_vec_pretty(self).map_err(|error| Failure::bug("place").because(error))?;
        // The same again need not find room on a full disk.
        if std::fs::read(&path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        formic_supervise::write_file(&path, &text)
            .map_err(|error| Failure::user(format!("cannot write {}", path.display())).because(error))
    }
}

/// Makes room for the descriptors of many instances. Where it is refused, those that are there must do.
pub(crate) fn more_files() {
    if let Err(error) = formic_supervise::raise_files() {
        tracing::warn!(%error, "cannot raise the number of open files");
    }
}

pub(crate) async fn run(args: Server) -> Outcome {
    match args.verb {
        None => start(&args).await,
        Some(ServerVerb::Stop(args)) => stop(&args).await,
        Some(ServerVerb::Upgrade(args)) => upgrade::run(&args).await,
        Some(ServerVerb::Install(args)) => install::run(&args),
        Some(ServerVerb::Token(args)) => door::make_token(&args.file, &args.name),
        Some(ServerVerb::Brain { folder }) => Box::pin(brain::run(&folder)).await,
    }
}

/// Becomes the keeper, or starts one that is on its own.
async fn start(args: &Server) -> Outcome {
    let (file, manifest) = manifest::load(&args.path)?;
    let folder = file.parent().unwrap_or(Path::new("/")).to_path_buf();
    let state = State::of_server(&folder)?;
    Features::check_env().map_err(|error| Failure::user(error.to_string()))?;
    let features = Features::from_env().map_err(|error| Failure::user(error.to_string()))?;
    free(&state, &features, &manifest.app.name).await?;
    Bound::is_free(&Endpoint::Unix(state.socket())).await.map_err(closed)?;
    if args.set_aside {
        set_aside(&state)?;
    } else {
        copied::check(&folder, &state)?;
    }
    let release = if args.debug { false } else { args.release || !cfg!(debug_assertions) };
    let (door, metrics) = (opened(&args.doors)?, args.doors.metrics);
    let place = Place { app: manifest.app.name.clone(), manifest: file, release, door, metrics };
    ports::are_free(&place)?;
    place.write(&state)?;
    let own =
        std::env::current_exe().map_err(|error| Failure::user("cannot find this binary").because(error))?;
    let mut keeper = Command::new(&own);
    keeper.arg(keeper::ARGUMENT).arg(keeper_dir(&state)).arg(&own).args(["server", "brain"]).arg(&folder);
    if args.detach {
        return detached(keeper, &state, &place).await;
    }
    talk(&format!(
        "server of {} in {}\n  formic apply         starts or changes what runs\n  formic server stop   ends the server; what runs goes on\n  formic down          stops what runs",
        place.app,
        folder.display()
    ));
    // Returns only if it could not be done.
    let error = keeper.exec();
    Err(Failure::user("cannot become the keeper").because(error))
}

/// The door that was asked for. What is wrong with it is told before anything is started.
fn opened(doors: &Doors) -> Outcome<Option<Door>> {
    let Some(listen) = doors.listen else { return Ok(None) };
    let absolute = |path: &PathBuf| {
        let failed = |error| Failure::user(format!("there is no {}", path.display())).because(error);
        std::path::absolute(path).map_err(failed)
    };
    let tls = match (&doors.tls_cert, &doors.tls_key) {
        (Some(certificate), Some(key)) => Some(Certificate {
            certificate: absolute(certificate)?,
            key: absolute(key)?,
            client_ca: doors.tls_client_ca.as_ref().map(absolute).transpose()?,
        }),
        _ => None,
    };
    let door = Door { listen, token_file: doors.token_file.as_ref().map(absolute).transpose()?, tls };
    door.check()?;
    Ok(Some(door))
}

/// Nobody else manages this application. What is held here is given back at once: the keeper and the brain
/// take their own locks, which are what counts.
async fn free(state: &State, features: &Features, app: &str) -> Outcome {
    for path in [keeper_dir(state).join("keeper.lock"), state.lock()] {
        match lock(&path, features).await {
            Ok(_) => {}
            Err(error @ LockError::Held { .. }) => {
                return Err(Failure::user(format!("{app} is managed already: {error}"))
                    .help("`formic status` shows it; `formic server stop` ends a server and leaves what runs, `formic stop` ends what runs"));
            }
            Err(error) => return Err(Failure::user("cannot lock the application").because(error)),
        }
    }
    Ok(())
}

/// Takes a lock, if need be after its holder has ended: a brain that was killed, or has lost its keeper, holds
/// its own until the last of its threads is gone.
pub(crate) async fn lock(path: &Path, features: &Features) -> Result<Lock, LockError> {
    let limit = Instant::now() + LOCK_LIMIT;
    loop {
        match Lock::acquire(path, features) {
            Err(LockError::Held { .. }) if Instant::now() < limit => tokio::time::sleep(LOOK).await,
            done => return done,
        }
    }
}

fn set_aside(state: &State) -> Outcome {
    let folder = state.database();
    if !folder.exists() {
        return Ok(());
    }
    let aside = formic_state::set_aside(&folder)
        .map_err(|error| Failure::user("the state cannot be set aside").because(error))?;
    if let Some((key, why)) = aside.key {
        let why = match why {
            Unfit::Exposed => "others could read the key, which may be the right one of that state",
            Unfit::Unreadable => "this user cannot read the key, which may be the right one of that state",
            _ => "the key does not fit",
        };
        talk(&format!("{why}: it is now {}; the server makes another one", key.display()));
    }
    if let Some(database) = aside.database {
        talk(&format!(
            "the state is now {}; the server begins an empty one, and touches nothing before the next `formic apply`",
            database.display()
        ));
    }
    Ok(())
}

pub(crate) fn keeper_dir(state: &State) -> PathBuf {
    state.folder().join("keeper")
}

/// Starts the keeper in a session of its own, and waits until the server answers.
async fn detached(mut keeper: Command, state: &State, place: &Place) -> Outcome {
    let log = state.folder().join("server.log");
    let file = || {
        let mut options = std::fs::OpenOptions::new();
        options.append(true).create(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // A link there must not choose what the server writes to.
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
        options.open(&log)
    };
    let failed = |error: std::io::Error| Failure::user("the server does not start").because(error);
    let (out, err) = (file().map_err(failed)?, file().map_err(failed)?);
    let from = out.metadata().map_err(failed)?.len();
    let started = Instant::now();
    // A session of its own: neither Ctrl-C nor the end of this terminal is meant for it.
    let mut child = signals::in_own_session(&mut keeper)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(failed)?;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            let help = format!("{} says more", log.display());
            return Err(match last_words::last_error(&log, from) {
                Some((error, Some(what))) => Failure::user(format!("the server does not start: {error}"))
                    .help(format!("{what}; {help}")),
                Some((error, None)) => {
                    Failure::user(format!("the server does not start: {error}")).help(help)
                }
                None => Failure::user(format!("the server ended at once: {status}")).help(help),
            });
        }
        if let Some(app) = answering(state).await {
            let taken = app.status.server.adopted;
            let taken = if taken > 0 { format!(", took over {taken} instances") } else { String::new() };
            talk(&format!(
                "server of {} runs in {:.2} s: keeper {}, brain {}{taken}; its log is {}",
                place.app,
                started.elapsed().as_secs_f64(),
                app.status.server.keeper_pid,
                app.status.pid,
                log.display()
            ));
            if app.status.index == 0 {
                talk("nothing is wanted yet: `formic apply` starts what the manifest says");
            }
            return Ok(());
        }
        if started.elapsed() >= START_LIMIT {
            return Err(Failure::unreachable(format!(
                "the server does not answer; its keeper, process {}, goes on trying",
                child.id()
            ))
            .help(format!("{} says why; `kill {}` ends it", log.display(), child.id())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The server of this state, once it answers as one.
async fn answering(state: &State) -> Option<App> {
    let app = app::in_folder(state.folder().parent()?).await?;
    app.status.server.is_set().then_some(app)
}

/// The server that a command is about.
pub(crate) async fn find(detached: &Detached) -> Outcome<App> {
    let app = app::find_here(&detached.listing.target, "`formic server`").await?;
    if app.meant()?.status.server.is_set() {
        return Ok(app);
    }
    Err(Failure::user(format!("{} is run by `formic up`, which is no server", app.status.app))
        .help("`formic stop` ends it with all that it runs"))
}

/// Ends the server, and nothing else.
async fn stop(args: &Detached) -> Outcome {
    let app = match find(args).await {
        Ok(app) => app,
        Err(failure) => return stop_silent(args, failure).await,
    };
    let (name, keeper) = (app.status.app.clone(), app.status.server.keeper_pid);
    let left = crate::verbs::stop::left_alone(&app.status);
    let response =
        app.server().detach(pb::DetachRequest::default()).await.map_err(|error| match error.code() {
            // By the brain's own word: a brain that does not answer is another matter.
            Code::Aborted => {
                let text = format!("the server of {name} does not end: {}", error.message());
                Failure::unreachable(text).help(by_force(keeper))
            }
            _ => error.into(),
        })?;
    let limit = Instant::now() + END_LIMIT;
    while is_running(keeper) && Instant::now() < limit {
        tokio::time::sleep(LOOK).await;
    }
    if is_running(keeper) {
        let text = format!("the keeper of {name}, process {keeper}, has not ended");
        return Err(Failure::unreachable(text).help(by_force(keeper)));
    }
    if args.listing.json {
        let running = response.running;
        output::json(&json!({ "app": name, "detached": true, "running": running, "left_alone": left }));
    } else {
        talk(&match response.running {
            0 => format!("the server of {name} has ended; nothing was running"),
            running => format!(
                "detached: the server of {name} has ended, and {} without it; `formic server` takes over what runs",
                go_on(running)
            ),
        });
        if !left.is_empty() {
            talk(&crate::verbs::stop::told(&left));
        }
    }
    Ok(())
}

/// What ends a keeper that does not do so when it is told.
fn by_force(keeper: u32) -> String {
    format!(
        "`kill -9 {keeper}` ends the keeper, and with it the brain; what runs goes on, and `formic server` takes it over"
    )
}

/// Ends a server whose brain does not answer, by its keeper, as a service manager would.
async fn stop_silent(args: &Detached, failure: Failure) -> Outcome {
    let target = &args.listing.target;
    let here = || std::env::current_dir().ok().and_then(|here| app::own(&here).map(Path::to_path_buf));
    let folder = match (&target.app, target.remote.url()) {
        (None, None) => here(),
        (Some(wanted), None) => Path::new(wanted).canonicalize().ok(),
        _ => None,
    };
    let Some(folder) = folder else { return Err(failure) };
    let lock = folder.join(crate::app::STATE).join("keeper/keeper.lock");
    let features = Features::from_env().map_err(|error| Failure::user(error.to_string()))?;
    let Ok(Some(keeper)) = Lock::end_holder(&lock, &features) else { return Err(failure) };
    talk(&format!("its brain does not answer: its keeper, process {keeper}, is told to end"));
    let limit = Instant::now() + END_LIMIT;
    while is_running(keeper) && Instant::now() < limit {
        tokio::time::sleep(LOOK).await;
    }
    if is_running(keeper) {
        let text = format!("the keeper, process {keeper}, has not ended");
        return Err(Failure::unreachable(text).help(by_force(keeper)));
    }
    let name = Place::of(&folder).map_or_else(|| folder.display().to_string(), |place| place.app);
    if args.listing.json {
        output::json(&json!({ "app": name, "detached": true, "running": null }));
    } else {
        talk(&format!(
            "detached: the server of {name} has ended; what runs goes on, and `formic server` takes it over"
        ));
    }
    Ok(())
}

/// `1 instance`, `2 instances`.
pub(crate) fn instances(number: u32) -> String {
    if number == 1 { "1 instance".into() } else { format!("{number} instances") }
}

/// `1 instance goes on`, `2 instances go on`.
pub(crate) fn go_on(number: u32) -> String {
    format!("{} {} on", instances(number), if number == 1 { "goes" } else { "go" })
}
