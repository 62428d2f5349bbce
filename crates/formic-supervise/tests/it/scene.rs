//! A supervisor with a directory of its own, which ends everything it started even if the test fails.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use formic_core::{InstanceId, ServiceName};
use formic_supervise::{
    Config, Features, HomeId, Launch, Process, RUN_DIR_ENV, Record, State, Supervisor, Trampoline,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The binary of `tests/fixture`.
pub(crate) const FIXTURE: &str = env!("CARGO_BIN_EXE_formic-supervise-fixture");

/// How long anything that should happen may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Scene {
    pub(crate) dir: PathBuf,
    pub(crate) supervisor: Supervisor,
}

impl Scene {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, Trampoline::new(FIXTURE))
    }

    /// Of a machine with these features.
    pub(crate) fn of(name: &str, features: Features) -> Self {
        Self::made(name, Trampoline::new(FIXTURE), features)
    }

    pub(crate) fn with(name: &str, trampoline: Trampoline) -> Self {
        Self::made(name, trampoline, features())
    }

    fn made(name: &str, trampoline: Trampoline, features: Features) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("formic-it-{name}-{}-{next}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let dir = fs::canonicalize(dir).unwrap();
        let config = Config { trampoline, ..Config::new(dir.join("run"), features) };
        Self { supervisor: Supervisor::new(config).unwrap(), dir }
    }

    /// The supervisor of a new engine over the same records.
    pub(crate) fn heir(&self, features: Features) -> Supervisor {
        let trampoline = Trampoline::new(FIXTURE);
        Supervisor::new(Config { trampoline, ..Config::new(self.run_dir(), features) }).unwrap()
    }

    pub(crate) fn run_dir(&self) -> &Path {
        self.supervisor.run_dir()
    }

    pub(crate) fn launch(&self, id: &str, program: &str, args: &[&str]) -> Launch {
        Launch {
            id: InstanceId::new(id),
            service: ServiceName::new("test").unwrap(),
            slot: 0,
            revision: "r1".into(),
            program: program.into(),
            args: args.iter().map(OsString::from).collect(),
            env: [("PATH".to_owned(), "/usr/bin:/bin".into())].into(),
            cwd: self.dir.clone(),
            stdout: self.dir.join(format!("logs/{id}.out.log")),
            stderr: self.dir.join(format!("logs/{id}.err.log")),
        }
    }

    pub(crate) fn script(&self, id: &str, script: &str) -> Launch {
        self.launch(id, "/bin/sh", &["-c", script])
    }

    pub(crate) async fn run(&self, id: &str, script: &str) -> Process {
        self.supervisor.spawn(self.script(id, script)).await.unwrap()
    }

    /// Waits until the record of an instance says that it is being stopped, and by when.
    pub(crate) async fn stopping(&self, process: &Process) {
        let file = self.run_dir().join(format!("{}.json", process.id()));
        wait_for("the deadline on disk", || {
            let record: Record = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            matches!(record.state, State::Stopping { .. })
        })
        .await;
    }

    /// Begins to stop an instance and gives that up once it is recorded.
    pub(crate) async fn begin_to_stop(&self, process: &Process, grace: Duration) {
        let stop = tokio::spawn({
            let process = process.clone();
            async move { process.stop(grace).await }
        });
        self.stopping(process).await;
        stop.abort();
        assert!(stop.await.unwrap_err().is_cancelled(), "it has stopped");
    }

    pub(crate) fn stdout(&self, id: &str) -> String {
        fs::read_to_string(self.dir.join(format!("logs/{id}.out.log"))).unwrap()
    }

    /// Waits until the output of `id` has this many lines, and returns them.
    pub(crate) async fn lines(&self, id: &str, count: usize) -> Vec<String> {
        let path = self.dir.join(format!("logs/{id}.out.log"));
        let read = || fs::read_to_string(&path).unwrap_or_default();
        wait_for(&format!("{count} lines of {id}"), || read().matches('\n').count() >= count).await;
        read().lines().map(ToOwned::to_owned).collect()
    }

    /// The numbers of the first `count` lines of `id`.
    pub(crate) async fn pids(&self, id: &str, count: usize) -> Vec<u32> {
        self.lines(id, count).await.iter().map(|line| line.trim().parse().unwrap()).collect()
    }

    /// The record files that are there.
    pub(crate) fn records(&self) -> Vec<String> {
        let files = fs::read_dir(self.run_dir()).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let mark = format!("{RUN_DIR_ENV}={}", self.run_dir().display());
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let Ok(pidfd) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { continue };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes()) {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        clear_cgroup(self.run_dir());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Ends what is left in the cgroup of a run directory and removes it.
fn clear_cgroup(run_dir: &Path) {
    let Ok(home) = HomeId::of(run_dir) else { return };
    let hash = home.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let features = all_features();
    let Ok(base) = features.cgroups.base() else { return };
    let dir = base.join(format!("formic-{hash:016x}"));
    for group in fs::read_dir(&dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        let _ = fs::write(group.path().join("cgroup.kill"), "1");
        let limit = Instant::now() + SOON;
        while fs::remove_dir(group.path()).is_err() && group.path().exists() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let _ = fs::remove_dir(dir);
}

/// Without cgroups, so that trees are found by what every machine has.
pub(crate) fn features() -> Features {
    all_features().masked(["cgroup"])
}

pub(crate) fn all_features() -> Features {
    Features::detect().unwrap()
}

/// Whether a process is there and has not ended.
pub(crate) fn lives(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit_once(')').unwrap().1.trim_start().starts_with(['Z', 'X'])
}

/// Signals the process of a number that is surely still its own.
pub(crate) fn signal(pid: u32, number: i32) {
    let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    pidfd_send_signal(pidfd, Signal::from_named_raw(number).unwrap()).unwrap();
}

/// The ended, unreaped children of this process.
pub(crate) fn zombies() -> Vec<u32> {
    let me = std::process::id().to_string();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<_> = stat.rsplit_once(')').map_or("", |halves| halves.1).split_whitespace().collect();
        fields.first() == Some(&"Z") && fields.get(1) == Some(&me.as_str())
    })
    .collect()
}

pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < limit, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A fixture process, killed when dropped.
pub(crate) struct Fixture {
    pub(crate) child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Fixture {
    pub(crate) fn start(program: impl AsRef<Path>, args: &[&str]) -> Self {
        Self::with_env(program, args, &[])
    }

    pub(crate) fn with_env(program: impl AsRef<Path>, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program.as_ref())
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub(crate) fn tell(&mut self) {
        writeln!(self.input).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
