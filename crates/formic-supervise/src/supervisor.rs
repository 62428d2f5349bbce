//! Starts processes through the gate, knows those that live, and ends them all.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use formic_core::InstanceId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::adopt::{self, Adopted};
use crate::cgroup::{Groups, Limits, Unenforced};
use crate::disk::{self, FileError};
use crate::failpoint;
use crate::features::Features;
use crate::gate::Gate;
use crate::identity::boot_id;
use crate::keeper;
use crate::kin::Kin;
use crate::launch::{Socket, Start, is_file_name};
use crate::passing;
use crate::process::{Care, Process, StopError, Stopped};
use crate::record::Store;
use crate::snapshot::Scanner;
use crate::spawn_error::SpawnError;
use crate::subreaper;
use crate::times::Times;
use crate::trampoline::{FAILED, GO, Payload, READY, SOCKETS, Step, Trampoline};

/// How long the trampoline may take to answer. Loading a binary from a cold disk on a busy machine
/// takes a second or two; more means that it is not our trampoline.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// So many come up to their gate at the same time. Forks take turns anyhow, and what they execute wants a processor.
const TURNS: usize = 16;

/// What a supervisor needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the records are, one file per instance. For this supervisor alone: hold a [`crate::Lock`].
    pub run_dir: PathBuf,
    /// How processes are started.
    pub trampoline: Trampoline,
    /// What this machine can do.
    pub features: Features,
    /// The keeper, if this engine is the brain of one.
    pub keeper: Option<keeper::Client>,
}

impl Config {
    /// The usual: the running binary is the trampoline.
    pub fn new(run_dir: impl Into<PathBuf>, features: Features) -> Self {
        Self { run_dir: run_dir.into(), trampoline: Trampoline::own(), features, keeper: None }
    }
}

/// Starts, knows and ends the processes of one engine. Clones are the same supervisor; dropping it
/// leaves the processes running, for the next engine to find by their records.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Gate>);

// === impl Supervisor ===

impl Supervisor {
    /// Makes the run directory, and the cgroup for its instances where there can be one, and reads the identity
    /// of this boot. Starts nothing.
    ///
    /// # Errors
    /// If the directory cannot be made, or `/proc` not be read.
    pub fn new(mut config: Config) -> Result<Self, FileError> {
        let store = Store::open(&config.run_dir)?;
        let boot_id = boot_id().map_err(|source| disk::explain("read", Path::new("/proc"), source))?;
        let table = Arc::default();
        let keeper = config.keeper.as_ref().map(keeper::Client::keeper_pid);
        let mut ours = vec![std::process::id()];
        ours.extend(keeper);
        let groups = Groups::prepare(store.home(), &mut config.features.cgroups, &ours);
        config.features.contain();
        let kin = config.features.children.then(|| Kin::find(keeper)).flatten();
        let scanner = Scanner::new(store.home())
            .with_table(&table)
            .with_groups(groups.as_ref().map(Groups::dir))
            .with_kin(kin);
        let (exit_info, keeper) = (config.features.exit_info, config.keeper);
        let care = Care { store, scanner, groups, exit_info, keeper, keeps_ends: Default::default() };
        Ok(Self(Arc::new(Gate {
            trampoline: config.trampoline,
            care: Arc::new(care),
            features: config.features,
            boot_id,
            table,
            turns: Semaphore::new(TURNS),
        })))
    }

    /// What is used of this machine's features.
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.0.features
    }

    /// Which of these limits are not enforced here, and why, to be shown beside the instance.
    #[must_use]
    pub fn unenforced(&self, limits: &Limits) -> Vec<Unenforced> {
        self.0.features.unenforced(limits)
    }

    /// Where the records are, absolute and free of links: the value of [`crate::RUN_DIR_ENV`].
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        self.0.care.store.dir()
    }

    /// How long it has taken each time to write a record.
    #[must_use]
    pub fn writes(&self) -> Times {
        self.0.care.store.writes.clone()
    }

    /// The processes that are not stopped yet, ended or not, by id.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let mut all: Vec<_> = self.0.table.lock().processes.values().cloned().collect();
        all.sort_by(|a, b| a.id().cmp(b.id()));
        all
    }

    /// The process of an instance.
    #[must_use]
    pub fn get(&self, id: &InstanceId) -> Option<Process> {
        self.0.table.lock().processes.get(id).cloned()
    }

    /// Takes over what an earlier engine of this run directory left running: every instance that is proven
    /// gets its [`Process`] back, and what cannot be proven is quarantined, which keeps its id taken. Before
    /// anything is started, and before [`Supervisor::reap_orphans`], which might else reap what is to be
    /// asked how it ended. Called again, it judges anew what is not known here yet.
    ///
    /// `grace` is what processes get that carry our mark and have no record.
    ///
    /// # Errors
    /// If the records or `/proc` cannot be read.
    pub async fn adopt(&self, grace: Duration) -> Result<Vec<Adopted>, FileError> {
        failpoint::hit("adopt.before");
        let adopted = adopt::adopt(&self.0, grace).await;
        failpoint::hit("adopt.after");
        adopted
    }

    /// Gives up a record that is quarantined, for people who have looked: its id and its place are free
    /// again, and its processes, if there are any, are left alone. `false` if there is none, or if it is the
    /// record of a [`Process`].
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub async fn release(&self, id: &InstanceId) -> Result<bool, FileError> {
        adopt::release(&self.0, id).await
    }

    /// From now on [`Process::stop`] leaves the record of what has ended, and beside it how, until
    /// [`Supervisor::release_ended`]. For an engine that writes down elsewhere what follows from an end: one that dies
    /// before it has done so leaves the end to the next one, as [`Fate::Over`](crate::Fate::Over).
    pub fn keep_ends(&self) {
        self.0.care.keeps_ends.store(true, Ordering::Relaxed);
    }

    /// What is kept of these ends is written down elsewhere: their records go. Those of others stay. Blocks for as long as
    /// it takes to remove a file for each.
    pub fn release_ended<'i>(&self, ids: impl IntoIterator<Item = &'i str>) {
        for id in ids {
            failpoint::hit("stop.unrecorded.before");
            let id = InstanceId::new(id);
            // Not locked while files are removed: nobody starts another of this id while its record is there.
            let has_process = self.0.table.lock().ids.contains(&id);
            if !has_process
                && is_file_name(id.as_str())
                && let Err(error) = self.0.care.store.remove(&id)
            {
                // The next engine removes it.
                tracing::warn!(instance = %id, %error, "cannot remove the record of a stopped instance");
            }
            failpoint::hit("stop.unrecorded.after");
        }
    }

    /// Starts a process: its record is on disk before its program runs, and when this returns, it runs.
    ///
    /// If the future is dropped before the gate opens, nothing ran and nothing is left; after that the
    /// process is among [`Supervisor::processes`].
    ///
    /// # Errors
    /// If it cannot be started; an exec failure carries its errno.
    pub async fn spawn(&self, start: impl Into<Start>) -> Result<Process, SpawnError> {
        self.spawn_when(start, std::future::ready(Ok(()))).await
    }

    /// The same once `permit` says so: everything up to the gate is done meanwhile, and the program is behind it. For an
    /// engine whose decision is on its way to the disk. Before the permit there is a record of an intent at most.
    ///
    /// # Errors
    /// Those of [`Supervisor::spawn`], and [`SpawnError::Withheld`] with what `permit` says.
    pub async fn spawn_when(
        &self,
        start: impl Into<Start>,
        permit: impl Future<Output = Result<(), String>>,
    ) -> Result<Process, SpawnError> {
        let start = start.into();
        start.validate()?;
        let (launch, sockets) = (&start.launch, start.sockets.clone());
        let payload = Payload {
            program: launch.program.clone(),
            args: launch.args.clone(),
            env: launch.whole_env(self.0.care.store.home(), start.privileges.account.as_ref()),
            cwd: launch.cwd.clone().into_os_string(),
            sockets: sockets.iter().map(|socket| socket.name.clone()).collect(),
            privileges: start.privileges.clone(),
        };
        let frame = payload.encode().map_err(|source| SpawnError::Exec {
            step: Step::Exec,
            path: launch.program.clone().into(),
            source,
        })?;
        let (program, cwd) = (PathBuf::from(&launch.program), launch.cwd.clone());
        let gate = self.0.clone();
        // Never closed; and given back at the gate, not behind it.
        let turn = self.0.turns.acquire().await;
        let mut gated = blocking(move || gate.fork(&start)).await??;

        // Until `GO` every way out drops `gated`, which ends the trampoline and clears up.
        let mut engine =
            gated.engine.take().map(UnixStream::from_std).transpose().map_err(|e| self.start(e))?;
        let engine = engine.as_mut().ok_or_else(|| self.handshake("no socket"))?;
        let ready = timeout(HANDSHAKE_LIMIT, async {
            let written = hand_over(engine, &frame, &sockets).await;
            // Read in any case: one that failed has said so before it closed its end.
            engine.read_u8().await.map_err(|error| written.err().unwrap_or(error))
        });
        match ready.await {
            Ok(Ok(READY)) => {}
            Ok(Ok(FAILED)) => return Err(self.verdict(engine, &program, &cwd).await),
            Ok(Ok(byte)) => return Err(self.handshake(format!("it said {byte:#04x}"))),
            Ok(Err(error)) => return Err(self.handshake(format!("{error}{}", gated.how_it_ended()))),
            Err(_) => return Err(self.handshake("it was silent")),
        }
        drop(turn);
        permit.await.map_err(SpawnError::Withheld)?;
        let gated = blocking(move || gated.record_spawned()).await??;
        let process = gated.admit().map_err(|source| self.start(source))?;
        failpoint::hit("start.admitted");

        // From here on it may run: it is in the table and must be stopped to be gone.
        let said = timeout(HANDSHAKE_LIMIT, async {
            engine.write_all(&[GO]).await?;
            failpoint::hit("start.gate.open");
            match engine.read_u8().await {
                Ok(FAILED) => Ok(true),
                Ok(byte) => Err(io::Error::other(format!("it said {byte:#04x}"))),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                Err(error) => Err(error),
            }
        });
        let error = match said.await {
            Ok(Ok(false)) => {
                failpoint::hit("start.running");
                return Ok(process);
            }
            Ok(Ok(true)) => self.verdict(engine, &program, &cwd).await,
            Ok(Err(error)) => self.handshake(error.to_string()),
            Err(_) => self.handshake("it did not execute the program in time"),
        };
        if let Err(error) = process.kill().await {
            tracing::warn!(instance = %process.id(), %error, "cannot end a trampoline that failed");
        }
        // Its program never ran: how the trampoline ended is no end of the instance.
        let _ = self.release(process.id()).await;
        Err(error)
    }

    /// Reads the rest of a failure.
    async fn verdict(&self, engine: &mut UnixStream, program: &Path, cwd: &Path) -> SpawnError {
        let mut rest = [0; 5];
        let read = timeout(HANDSHAKE_LIMIT, engine.read_exact(&mut rest)).await;
        let (true, Some(step)) = (matches!(read, Ok(Ok(_))), Step::from_byte(rest[0])) else {
            return self.handshake("its report was cut off");
        };
        let errno = i32::from_le_bytes([rest[1], rest[2], rest[3], rest[4]]);
        let subject = if step == Step::Chdir { cwd } else { program };
        SpawnError::Exec { step, path: subject.to_owned(), source: io::Error::from_raw_os_error(errno) }
    }

    fn start(&self, source: io::Error) -> SpawnError {
        SpawnError::Start { trampoline: self.0.trampoline.program.clone(), source }
    }

    fn handshake(&self, reason: impl Into<String>) -> SpawnError {
        SpawnError::Handshake { trampoline: self.0.trampoline.program.clone(), reason: reason.into() }
    }

    /// Stops all, at the same time, each with this grace. For an order, stop [`Process`]es yourself.
    pub async fn stop_all(&self, grace: Duration) -> Vec<(InstanceId, Result<Stopped, StopError>)> {
        let mut stops = JoinSet::new();
        for process in self.processes() {
            stops.spawn(async move { (process.id().clone(), process.stop(grace).await) });
        }
        let mut done = stops.join_all().await;
        done.sort_by(|a, b| a.0.cmp(&b.0));
        done
    }

    /// Kills all now, those included that another is stopping gently.
    pub async fn kill_all(&self) -> Vec<(InstanceId, Result<Stopped, StopError>)> {
        self.stop_all(Duration::ZERO).await
    }

    /// Reaps orphans of instances until cancelled. For an engine that called [`subreaper::enable`]; the
    /// caller owns the task.
    ///
    /// # Errors
    /// If SIGCHLD cannot be watched.
    pub async fn reap_orphans(&self, cancel: CancellationToken) -> io::Result<()> {
        subreaper::run(cancel).await
    }
}

/// Sends the payload, and the sockets behind it.
async fn hand_over(engine: &mut UnixStream, payload: &[u8], sockets: &[Socket]) -> io::Result<()> {
    engine.write_all(payload).await?;
    if sockets.is_empty() {
        return Ok(());
    }
    let fds: Vec<_> = sockets.iter().map(|socket| socket.fd.as_fd()).collect();
    let sent = engine.async_io(Interest::WRITABLE, || passing::send(&*engine, &[SOCKETS], &fds));
    sent.await.map(|_| ())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SpawnError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| SpawnError::Start { trampoline: PathBuf::new(), source: io::Error::other(error) })
}
