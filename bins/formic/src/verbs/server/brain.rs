//! The brain: what decides. It may be killed at any instant, and the next one goes on where it was.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use formic_api::control::v1 as pb;
use formic_client::Client;
use formic_core::Error;
use formic_reconcile::{Engine, Takeover};
use formic_registry::{DynRegistry, Memory};
use formic_rpc::{Context, Reply, Request, reply};
use formic_supervise::{Features, LogLimits, Supervisor, keeper};
use formic_telemetry::LogFormat;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Place, ports};
use crate::engine::artifacts;
use crate::engine::callers;
use crate::engine::control::{About, Control, by};
use crate::engine::doors;
use crate::engine::facts::Facts;
use crate::engine::serve;
use crate::engine::state::State;
use crate::engine::vault::{self, Vault};
use crate::exit::{Failure, Outcome};
use crate::output::talk;
use crate::signals::{End, Ends};

/// Answers under way get so long when the brain ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// How often the keeper is told that this brain goes on.
const PULSE: Duration = Duration::from_secs(10);

/// A keeper answers at once. One that is told to end gets so long, which is less than who asked waits.
const KEEPER_LIMIT: Duration = Duration::from_secs(3);

/// What the server's own service needs.
#[derive(Clone, Debug)]
pub(crate) struct Managed {
    pub(crate) keeper: keeper::Client,
    pub(crate) takeover: Takeover,
    /// What the next brain is started with.
    folder: String,
    /// Told when this brain is to end.
    leave: CancellationToken,
    /// Told before that if there will be none after it.
    pub(crate) stopped: CancellationToken,
}

pub(crate) async fn run(folder: &Path) -> Outcome {
    // Before anything else: until the keeper has answered, this brain may not act.
    let keeper = keeper::Client::from_env()
        .map_err(|error| Failure::user("the keeper does not answer").because(error))?
        .ok_or_else(|| {
            Failure::user("this is a part of `formic server`, which starts it").help("run `formic server`")
        })?;
    let mut ends = Ends::listen()?;
    let begun = Instant::now();
    let filter = std::env::var("FORMIC_LOG").unwrap_or_else(|_| "info".into());
    formic_telemetry::logs::init(LogFormat::Auto, &filter).map_err(Failure::user)?;
    super::more_files();
    let folder_text =
        folder.to_str().ok_or_else(|| Failure::user(format!("{} is no text", folder.display())))?.to_owned();
    let state = State::taken_over(folder)?;
    let place = Place::read(&state)?;
    let features = Features::from_env().map_err(|error| Failure::user(error.to_string()))?;
    let _lock = super::lock(&state.lock(), &features)
        .await
        .map_err(|error| Failure::user("cannot lock the application").because(error))?;
    // One whose keeper died meanwhile would touch the state, and answer, in the place of the next.
    keeper.names().await.map_err(|error| Failure::user("the keeper is gone").because(error))?;
    let database = open(&state).await?;
    let config = formic_supervise::Config {
        keeper: Some(keeper.clone()),
        ..formic_supervise::Config::new(state.run(), features.clone())
    };
    let supervisor = Supervisor::new(config)
        .map_err(|error| Failure::user("cannot keep records of processes").because(error))?;
    let registry: DynRegistry = Arc::new(Memory::new());
    let client = Client::new(Arc::clone(&registry), formic_client::Config::default());
    let config = formic_reconcile::Config {
        app: place.app.clone(),
        logs: state.logs(),
        data: state.data(),
        daemon: format!("unix:{}", state.socket().display()),
    };
    let (mut engine, handle) = Engine::new(config, supervisor.clone(), registry, client);
    let vault = Vault::of(&state, Arc::clone(&database))?;
    // Before it goes on: what it starts at once may need them.
    let (door, doors) = tokio::sync::mpsc::unbounded_channel();
    engine = engine
        .with_secrets(vault.secrets.clone())
        .with_way_back(Facts::way_back)
        .with_keeper(keeper.clone())
        .with_doors(door);
    let takeover = engine
        .resume(Arc::clone(&database))
        .await
        .map_err(|error| Failure::user("cannot go on where the last brain ended").because(error))?;

    let leave = CancellationToken::new();
    let stopped = CancellationToken::new();
    let managed = Managed {
        keeper: keeper.clone(),
        takeover,
        folder: folder_text,
        leave: leave.clone(),
        stopped: stopped.clone(),
    };
    let profile = if place.release { "release" } else { "dev" };
    let control = Control {
        about: About { app: place.app.clone(), manifest: place.manifest.clone(), profile },
        engine: handle.clone(),
        folder: folder.to_path_buf(),
        logs: state.logs(),
        artifacts: state.artifacts(),
        features,
        vault: vault.clone(),
        managed: Some(managed),
        from_afar: false,
        callers: callers::Callers::default(),
    };
    let mut services = JoinSet::new();
    services.spawn(engine.run());
    let kept = kept_services(&database).await?;
    artifacts::prune(&state.artifacts(), &kept);
    let api = serve(&state, &control).await?;
    let mut ports = JoinSet::new();
    ports.spawn(ports::run(place, control.clone(), keeper.clone()));
    ports.spawn(doors::run(state.clone(), control, doors));
    ports.spawn(alive(keeper.clone()));
    keeper.ready().await.map_err(|error| Failure::user("the keeper does not listen").because(error))?;
    tracing::info!(
        generation = keeper.generation(),
        running = takeover.running,
        quarantined = takeover.quarantined,
        took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "the brain is up"
    );
    let tending = CancellationToken::new();
    let mut tender = JoinSet::new();
    let (until, logs) = (tending.clone(), state.logs());
    tender.spawn(async move { supervisor.tend_logs(logs, LogLimits::default(), until).await });

    let ended = tokio::select! {
        end = ends.which() => {
            // After a reload there is a next brain, and what is followed goes on with it.
            if end != End::Hangup && is_last(&keeper).await {
                stopped.cancel();
            }
            Ok(())
        }
        () = leave.cancelled() => Ok(()),
        // Another may be acting in its place by now.
        _ = keeper.closed() => Err(Failure::user("the keeper is gone")),
        ended = services.join_next() => Err(match ended {
            Some(Err(panic)) => Failure::bug("the engine panicked").because(panic),
            _ => Failure::bug("the engine ended by itself"),
        }),
    };
    if ended.is_ok() {
        let running = running(&handle);
        api.stop(FAREWELL).await;
        ports.shutdown().await;
        talk(&format!("the brain ends; {} without it", super::go_on(running)));
    } else {
        // Who watches keeps what they were told last: what becomes of the rest here is no news of what runs.
        api.stop(Duration::ZERO).await;
        ports.shutdown().await;
    }
    // What it was about to do is on disk, and the next one goes on with it.
    services.shutdown().await;
    tending.cancel();
    while tender.join_next().await.is_some() {}
    ended
}

/// Whether there will be no next brain: whoever told this one to end has told its keeper, or meant this one alone. Of a keeper
/// that does not say so, it is what a service manager does.
async fn is_last(keeper: &keeper::Client) -> bool {
    let asked = tokio::time::timeout(FAREWELL, keeper.is_ending()).await;
    asked.ok().and_then(Result::ok).unwrap_or(true)
}

/// Tells the keeper again and again that this brain goes on, so that one that does not is followed by another.
async fn alive(keeper: keeper::Client) {
    let Some(watchdog) = keeper::watchdog() else { return };
    loop {
        if let Err(keeper::ClientError::Refused(why)) = keeper.alive().await {
            tracing::info!(why, "this keeper does not watch whether its brain goes on");
            return;
        }
        tokio::time::sleep((watchdog / 6).min(PULSE)).await;
    }
}

async fn open(state: &State) -> Outcome<Arc<formic_state::State>> {
    let folder = state.database();
    let opened = tokio::task::spawn_blocking(move || formic_state::State::open(&folder)).await;
    let opened = opened.map_err(|error| Failure::bug("the state").because(error))?;
    opened.map(Arc::new).map_err(|error| {
        let failure = Failure::user("the state cannot be opened");
        let failure = match vault::way_out(&error) {
            Some(what) => failure.hopeless().help(format!("what runs goes on untouched; {what}")),
            None => failure,
        };
        failure.because(error)
    })
}

/// The services of all states that can come back.
async fn kept_services(database: &Arc<formic_state::State>) -> Outcome<Vec<formic_plan::Service>> {
    let database = Arc::clone(database);
    let read = tokio::task::spawn_blocking(move || database.generations()).await;
    let read = read.map_err(|error| Failure::bug("the state").because(error))?;
    let read = read.map_err(|error| Failure::user("the history cannot be read").because(error))?;
    Ok(read.into_iter().flat_map(|generation| generation.services).collect())
}

fn running(handle: &formic_reconcile::Handle) -> u32 {
    let view = handle.view();
    let view = view.borrow();
    let instances = view.services.iter().flat_map(|service| &service.instances);
    u32::try_from(instances.filter(|instance| instance.pid != 0).count()).unwrap_or(u32::MAX)
}

impl Managed {
    pub(crate) fn status(&self) -> pb::ServerStatus {
        let program = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
        pb::ServerStatus {
            keeper_pid: self.keeper.keeper_pid(),
            generation: self.keeper.generation(),
            // The kernel's word for a file that was replaced since.
            program: program.trim_end_matches(" (deleted)").to_owned(),
            version: env!("CARGO_PKG_VERSION").into(),
            adopted: u32::try_from(self.takeover.running).unwrap_or(u32::MAX),
            ..Default::default()
        }
    }
}

impl Control {
    fn managed(&self) -> Result<&Managed, Error> {
        let none = || Error::failed_precondition("this is a `formic up`, and no server");
        self.managed.as_ref().ok_or_else(none)
    }
}

fn refused(error: keeper::ClientError) -> Error {
    Error::failed_precondition(error.to_string())
}

impl pb::ServerService for Control {
    async fn detach(&self, _: Context, _: Request<'_, pb::DetachRequest>) -> Reply<pb::DetachResponse> {
        self.here_only("the end of a server, which could not be taken back from there,")?;
        let managed = self.managed()?;
        let told = tokio::time::timeout(KEEPER_LIMIT, managed.keeper.stop()).await;
        let silent = |_| {
            Error::aborted(format!("its keeper, process {}, does not answer", managed.keeper.keeper_pid()))
        };
        told.map_err(silent)?.map_err(refused)?;
        managed.stopped.cancel();
        managed.leave.cancel();
        reply(pb::DetachResponse { running: running(&self.engine), ..Default::default() })
    }

    async fn replace(
        &self,
        _: Context,
        request: Request<'_, pb::ReplaceRequest>,
    ) -> Reply<pb::ReplaceResponse> {
        self.here_only("an upgrade")?;
        let managed = self.managed()?;
        let program = Path::new(request.program);
        if !program.is_absolute() || !program.is_file() {
            let text = format!("{} is not the absolute path of a program", program.display());
            return Err(
                Error::invalid_argument(text).with_field("program", "must be the absolute path of a file")
            );
        }
        match request.part {
            "brain" => {
                let args = ["server", "brain", &managed.folder].map(str::to_owned).into();
                managed.keeper.replace_brain(request.program, args).await.map_err(refused)?;
                managed.leave.cancel();
            }
            "keeper" => managed.keeper.replace_keeper(request.program).await.map_err(refused)?,
            other => {
                return Err(Error::invalid_argument(format!("{other:?} is neither `brain` nor `keeper`")));
            }
        }
        reply(pb::ReplaceResponse::default())
    }

    async fn release(
        &self,
        context: Context,
        request: Request<'_, pb::ReleaseRequest>,
    ) -> Reply<pb::ReleaseResponse> {
        let id = formic_plan::InstanceId::from(request.instance);
        let (answer, answered) = oneshot::channel();
        let cause = by(format_args!("release {}", request.instance), &context);
        let command = formic_reconcile::Command::Release { id, cause, answer };
        self.engine.send(command).map_err(|error| Error::unavailable(error.to_string()))?;
        if answered.await.unwrap_or(false) {
            return reply(pb::ReleaseResponse::default());
        }
        Err(Error::not_found(format!("no instance {:?} is quarantined", request.instance)))
    }
}
