//! `formic up`: builds an application, runs it in the foreground, and leaves nothing behind.

mod show;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use formic_client::Client;
use formic_reconcile::{Change, Command, Engine, Handle};
use formic_registry::{DynRegistry, Memory};
use formic_spec::Manifest;
use formic_supervise::{Features, Lock, LockError, LogLimits, Supervisor};
use formic_telemetry::LogFormat;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Up;
use crate::engine::control::{About, Control};
use crate::engine::facts::Facts;
use crate::engine::state::State;
use crate::engine::vault::Vault;
use crate::engine::{artifacts, build, callers, desired, doors, manifest, metrics, serve, vault};
use crate::exit::{Failure, Outcome};
use crate::output::talk;
use crate::signals::Ends;
use crate::verbs::server;

/// What is left of an earlier run gets this long to end by itself.
const LEFTOVER_GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: Up) -> Outcome {
    let (file, manifest) = manifest::load(&args.path)?;
    let folder = file.parent().unwrap_or(Path::new("/")).to_path_buf();
    let filter = std::env::var("FORMIC_LOG").unwrap_or_else(|_| "warn".into());
    formic_telemetry::logs::init(LogFormat::Auto, &filter).map_err(Failure::user)?;
    let state = State::open(&folder)?;
    Features::check_env().map_err(|error| Failure::user(error.to_string()))?;
    let features = Features::from_env().map_err(|error| Failure::user(error.to_string()))?;
    let _lock = Lock::acquire(state.lock(), &features).map_err(|error| locked(&manifest, error))?;
    // Held for a moment only: a server's brain that is being restarted holds no lock, its keeper does.
    drop(
        Lock::acquire(server::keeper_dir(&state).join("keeper.lock"), &features)
            .map_err(|error| locked(&manifest, error))?,
    );
    // From here on: before, there is nothing to put in order.
    let mut ends = Ends::listen()?;
    sweep(&state, &features).await?;
    port_is_free(&manifest)?;

    let release = if args.debug { false } else { args.release || !cfg!(debug_assertions) };
    let vault = Vault::of(&state, Arc::new(vault::open(&state.database())?))?;
    // Of an earlier run: nothing of that is there any more.
    vault.secrets.sweep(&BTreeSet::new());
    // What is missing is better told before the build than after.
    vault::complete(&manifest, &vault.versions()?)?;

    server::more_files();
    let built = interruptible(&mut ends, build(&folder, &manifest, release, args.no_build)).await??;
    let started = Instant::now();

    formic_supervise::subreaper::enable()
        .map_err(|error| Failure::user("cannot become the reaper of orphans").because(error))?;
    let supervisor = Supervisor::new(formic_supervise::Config::new(state.run(), features.clone()))
        .map_err(|error| Failure::user("cannot keep records of processes").because(error))?;
    let reaping = CancellationToken::new();
    let mut reaper = JoinSet::new();
    let (reaping_too, orphans) = (reaping.clone(), supervisor.clone());
    reaper.spawn(async move { orphans.reap_orphans(reaping_too).await });
    let (tending, tended, logs) = (reaping.clone(), supervisor.clone(), state.logs());
    reaper.spawn(async move {
        tended.tend_logs(logs, LogLimits::default(), tending).await;
        Ok(())
    });

    let registry: DynRegistry = Arc::new(Memory::new());
    let client = Client::new(Arc::clone(&registry), crate::app::calls());
    let config = formic_reconcile::Config {
        app: manifest.app.name.clone(),
        logs: state.logs(),
        data: state.data(),
        daemon: format!("unix:{}", state.socket().display()),
    };
    let (engine, handle) = Engine::new(config, supervisor, Arc::clone(&registry), client);
    let (door, doors) = tokio::sync::mpsc::unbounded_channel();
    let engine = engine.with_secrets(vault.secrets.clone()).with_way_back(Facts::way_back).with_doors(door);
    let profile = if release { "release" } else { "dev" };
    let about = About { app: manifest.app.name.clone(), manifest: file.clone(), profile };
    let control = Control {
        about,
        engine: handle.clone(),
        folder: folder.clone(),
        logs: state.logs(),
        artifacts: state.artifacts(),
        vault: vault.clone(),
        features: features.clone(),
        managed: None,
        from_afar: false,
        callers: callers::Callers::default(),
    };
    let registry = handle.registry();
    let api = serve(&state, &control).await?;
    let scraped = metrics::listen(args.metrics, &control).await?;
    let mut opened = JoinSet::new();
    opened.spawn(doors::run(state.clone(), control.clone(), doors));

    let mut wanted = desired::services(&manifest, &folder, &state.artifacts(), &built, &vault.versions()?)?;
    if args.watch {
        watch::at_once(&mut wanted);
    }
    artifacts::prune(&state.artifacts(), &wanted);
    let services = wanted.iter().map(|service| service.name.clone()).collect();
    let mut running = JoinSet::new();
    running.spawn(engine.run());
    let (answer, _applied) = tokio::sync::oneshot::channel();
    let tag = Facts::of(&manifest, &features, &vault).tag()?;
    let change = Change { services: wanted, tag, index: Some(0), cause: "formic up".into() };
    handle.send(Command::Change(change, answer)).map_err(|error| Failure::bug(error.to_string()))?;

    let mut watching = JoinSet::new();
    if args.watch {
        let control = control.clone();
        watching.spawn(watch::Watch { control, file, release, built, manifest }.run());
    }
    let unread = CancellationToken::new();
    let shown = show::Show {
        unread: unread.clone(),
        control,
        registry,
        logs: state.logs(),
        services,
        quiet: args.quiet,
        json: args.json,
        started,
    };
    let mut showing = JoinSet::new();
    showing.spawn(shown.run());
    let outcome = until_end(&handle, &mut running, &mut ends, unread).await;
    watching.shutdown().await;
    // What was written last is shown too.
    let _ = tokio::time::timeout(Duration::from_secs(2), showing.join_next()).await;
    api.stop(Duration::from_secs(1)).await;
    opened.shutdown().await;
    if let Some(scraped) = scraped {
        scraped.stop(Duration::from_secs(1)).await;
    }
    reaping.cancel();
    while reaper.join_next().await.is_some() {}
    let stopped = outcome?;
    if stopped.killed > 0 {
        let killed = server::instances(stopped.killed);
        talk(&format!("stopped; {killed} outlived the time to stop and had to be killed"));
    } else {
        talk("stopped, nothing is left behind");
    }
    Ok(())
}

fn locked(manifest: &Manifest, error: LockError) -> Failure {
    let failure = Failure::user(format!("{} is running already: {error}", manifest.app.name));
    match error {
        LockError::Held { .. } => failure.help("`formic status` shows it, `formic stop` stops it"),
        _ => Failure::user("cannot lock the application").because(error),
    }
}

/// Ends what a `formic up` that was killed has left running.
async fn sweep(state: &State, features: &Features) -> crate::exit::Outcome {
    use formic_supervise::Outcome;
    let swept = formic_supervise::sweep(&state.run(), features, LEFTOVER_GRACE)
        .await
        .map_err(|error| Failure::user("cannot look after what an earlier run left").because(error))?;
    let mut elsewhere = BTreeMap::<_, Vec<_>>::new();
    for found in &swept {
        let what = match &found.outcome {
            Outcome::Elsewhere { dir } => {
                elsewhere.entry(dir).or_default().push(&found.id);
                continue;
            }
            Outcome::OtherBoot | Outcome::Gone => continue,
            Outcome::Stopped { .. } => "was still running and is stopped",
            Outcome::Quarantined { .. } => {
                "may still be running; it is not proven to be ours and is left alone"
            }
            Outcome::Damaged { .. } => {
                "had a damaged record, which is set aside; what carried its id is stopped"
            }
        };
        talk(&format!("left by an earlier run: {} {what}", found.id));
    }
    for (dir, ids) in elsewhere {
        let number = server::instances(u32::try_from(ids.len()).unwrap_or(u32::MAX));
        talk(&format!("this folder is a copy: {number} of {} are left alone", dir.display()));
    }
    Ok(())
}

/// A port that is taken is better told before the build than after.
fn port_is_free(manifest: &Manifest) -> Outcome {
    let gateway = manifest.gateway.iter().map(|gateway| ("the gateway".to_owned(), gateway.listen));
    let proxies = manifest.services.iter().filter_map(|service| {
        service.proxy.as_ref().map(|proxy| (format!("the proxy of {}", service.name), proxy.listen))
    });
    for (what, listen) in gateway.chain(proxies) {
        match TcpListener::bind(listen) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                return Err(Failure::user(format!("{what}'s address {listen} is in use by another process"))
                    .help("stop that process, or set another `listen`"));
            }
            Err(error) => {
                return Err(Failure::user(format!("{what} cannot listen on {listen}")).because(error));
            }
        }
    }
    Ok(())
}

/// An end that is asked for during something that leaves nothing behind is the end.
async fn interruptible<T>(ends: &mut Ends, work: impl Future<Output = T>) -> Outcome<T> {
    tokio::select! {
        done = work => Ok(done),
        () = ends.next() => Err(Failure::interrupted()),
    }
}

/// Waits for a signal or for a stop by the API; the first signal drains, the second kills. That nobody reads
/// any more what is shown counts as a signal too.
async fn until_end(
    handle: &Handle,
    running: &mut JoinSet<formic_reconcile::Stopped>,
    ends: &mut Ends,
    unread: CancellationToken,
) -> Outcome<formic_reconcile::Stopped> {
    let mut asked = 0;
    loop {
        tokio::select! {
            ended = running.join_next() => {
                let ended = ended.ok_or_else(|| Failure::bug("the engine was never started"))?;
                return ended.map_err(|error| Failure::bug("the engine panicked").because(error));
            }
            () = ends.next() => asked += 1,
            () = unread.cancelled(), if asked == 0 => asked += 1,
        }
        match asked {
            1 => talk("\nstopping; Ctrl-C once more kills"),
            2 => talk("\nkilling"),
            _ => continue,
        }
        // A full queue means that a stop is on its way already.
        let _ = handle.send(Command::Stop { now: asked > 1, done: None });
    }
}
