//! Files of a server that are cut short or have a bit flipped, and files in its way that are not its own: it says what is
//! wrong or finds its way around, and no instance is harmed, doubled or lost.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use formic_e2e::{
    Managed, Manifest, Signal, alive, build_folder, instances, of_application, signal, wait_until,
};

const SOON: Duration = Duration::from_secs(60);
const SEEDS: u64 = 100;
/// Servers that are damaged beside each other.
const BESIDE: u64 = 2;

/// Two instances of a program that does nothing.
pub(crate) const PAIR: &str = r#"
[app]
name = "pair"
[service.pair]
command = ["sleep", "600"]
replicas = 2
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
"#;

/// What came of a start.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Came {
    /// It answers, and knows every instance with its process.
    Whole,
    /// It answers, and leaves an instance alone because it may not be its own.
    Quarantined,
    /// It says what is wrong and does not come up.
    Refused,
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }
}

/// A server that has been killed, and what it left on the disk.
struct Scene {
    managed: Managed,
    pids: BTreeMap<String, u32>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// The files of the state, by their place in it. Logs are the instances' own.
fn files(state: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for dir in ["", "run", "state", "keeper"] {
        for entry in std::fs::read_dir(state.join(dir)).unwrap().flatten() {
            let name = Path::new(dir).join(entry.file_name());
            if entry.file_type().unwrap().is_file() && !name.ends_with("server.log") {
                found.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

impl Scene {
    fn new() -> Self {
        let managed = Managed::running(&Manifest::of(PAIR), &[]);
        let pids = managed.pids();
        assert_eq!(pids.len(), 2);
        let (keeper, brain) = (managed.keeper(), managed.brain());
        managed.kill(keeper);
        wait_until("the brain to end with its keeper", SOON, || !alive(brain));
        let files = files(&managed.folder().join(".formic"));
        Self { managed, pids, files }
    }

    fn state(&self) -> PathBuf {
        self.managed.folder().join(".formic")
    }

    /// Damages one file, of each kind in its turn, and says what it did.
    fn damage(&self, seed: u64) -> String {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let of = |part: &str| self.files.keys().filter(|name| name.starts_with(part)).collect::<Vec<_>>();
        let kind = [
            "run",
            "state/state.redb",
            "run",
            "state/secrets.key",
            "keeper",
            "state",
            "state/state.redb",
            "",
        ];
        let mut candidates = of(kind[usize::try_from(seed).unwrap() % kind.len()]);
        if candidates.is_empty() {
            candidates = self.files.keys().collect();
        }
        let name = candidates[random.below(candidates.len())];
        let mut bytes = self.files[name].clone();
        let what = if bytes.is_empty() {
            bytes.push(0);
            "a byte is added".to_owned()
        } else if random.below(2) == 0 {
            bytes.truncate(random.below(bytes.len()));
            format!("cut to {} bytes", bytes.len())
        } else {
            let bit = random.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            format!("bit {bit} is flipped")
        };
        std::fs::write(self.state().join(name), bytes).unwrap();
        format!("seed {seed}: {}: {what}", name.display())
    }

    /// As it was before the damage.
    fn restore(&self) {
        for name in files(&self.state()).keys().filter(|name| !self.files.contains_key(*name)) {
            std::fs::remove_file(self.state().join(name)).unwrap();
        }
        for (name, bytes) in &self.files {
            std::fs::write(self.state().join(name), bytes).unwrap();
        }
    }

    /// Starts a server in the foreground, as a service manager does.
    fn start(&self, log: &Path) -> Child {
        let file = || std::fs::File::create(log).map(Stdio::from).unwrap();
        let mut command = std::process::Command::new(build_folder().join("formic"));
        command.args(["server"]).current_dir(self.managed.folder()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(file()).spawn().unwrap()
    }

    /// What came of it, looked at until it is clear.
    fn outcome(&self, keeper: &mut Child, log: &Path, what: &str) -> Came {
        let begun = Instant::now();
        loop {
            // Looked at first: what it said last is in the file once it has ended.
            let has_ended = keeper.try_wait().unwrap().is_some();
            let said = std::fs::read_to_string(log).unwrap_or_default();
            if said.contains("panicked") {
                panic!("{what}: {said}");
            }
            if has_ended || said.contains("has ended: exit code") {
                assert!(said.contains("error"), "{what}: it does not say why it does not come up: {said}");
                return Came::Refused;
            }
            if said.contains("the brain is up")
                && let Some(status) = self.managed.try_status()
            {
                let now: BTreeMap<String, u32> = instances(&status).into_iter().collect();
                if now == self.pids {
                    return Came::Whole;
                }
                let text = status.to_string();
                assert!(text.contains("quarantined"), "{what}: {status:#}\n{said}");
                return Came::Quarantined;
            }
            assert!(begun.elapsed() < SOON, "{what}: nothing came of it: {said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One start over damaged files: whatever comes of it, the instances are what they were, and no others are there.
    fn strike(&self, seed: u64) -> Came {
        let what = self.damage(seed);
        let log = self.managed.folder().join("start.log");
        let mut keeper = self.start(&log);
        let came = self.outcome(&mut keeper, &log, &what);
        let mine: Vec<u32> = self.pids.values().copied().collect();
        assert!(mine.iter().all(|pid| alive(*pid)), "{what}: an instance was ended");
        self.end(&mut keeper);
        // What is about to end may be there for a moment.
        wait_until(&format!("{what}: nobody to be there but {mine:?}"), SOON, || {
            of_application(&self.managed.folder()).iter().all(|pid| mine.contains(pid))
        });
        self.restore();
        came
    }

    fn end(&self, keeper: &mut Child) {
        let _ = keeper.kill();
        keeper.wait().unwrap();
        let brain = || {
            let instance = |pid: &u32| self.pids.values().any(|own| own == pid);
            let is_brain = |pid: &u32| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                !instance(pid) && line.windows(5).any(|part| part == b"brain")
            };
            of_application(&self.managed.folder()).into_iter().find(is_brain)
        };
        wait_until("the brain to end with its keeper", SOON, || {
            brain().is_none_or(|pid| !signal(pid, Signal::KILL))
        });
    }
}

#[test]
fn damaged_files_harm_nothing_that_runs() {
    let tally = std::thread::scope(|scope| {
        let threads = (0..BESIDE).map(|first| {
            scope.spawn(move || {
                let scene = Scene::new();
                let seeds = (0..SEEDS).filter(|seed| seed % BESIDE == first);
                let came: Vec<Came> = seeds.map(|seed| scene.strike(seed)).collect();
                // Undamaged again, all of it is there.
                scene.managed.serve();
                assert_eq!(scene.managed.pids(), scene.pids);
                came
            })
        });
        let threads: Vec<_> = threads.collect();
        let came = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        came.fold(BTreeMap::<Came, u32>::new(), |mut tally, came| {
            *tally.entry(came).or_default() += 1;
            tally
        })
    });
    println!("{SEEDS} seeds: {tally:?}");
    assert_eq!(tally.len(), 3, "some end was never seen: {tally:?}");
}

#[test]
fn what_a_newer_release_wrote_is_left_alone() {
    let scene = Scene::new();
    let (id, pid) = scene.pids.iter().next().unwrap();
    let record = serde_json::json!({ "format": 2, "id": id, "of": "a newer release" });
    std::fs::write(scene.state().join(format!("run/{id}.json")), record.to_string()).unwrap();
    scene.managed.serve();
    let status = scene.managed.status();
    assert!(status.to_string().contains("quarantined"), "{status:#}");
    let why = scene.managed.formic(&["why", "pair"]);
    assert!(why.stdout.contains("format 2"), "{}{}", why.stdout, why.stderr);
    assert!(alive(*pid) && scene.state().join(format!("run/{id}.json")).exists());
    // And a plan that was made of another state is not applied.
    scene.managed.formic(&["apply", "--index", "7"]).says(1, &["index 7 is not the present one, which is 1"]);
    assert!(scene.pids.values().all(|pid| alive(*pid)));
    let brain = scene.managed.brain();
    let mut left = of_application(&scene.managed.folder());
    left.retain(|pid| *pid != brain);
    let mut known: Vec<u32> = scene.pids.values().copied().collect();
    left.sort_unstable();
    known.sort_unstable();
    assert_eq!(left, known, "no second copy");
    // Who stops all is told what was not.
    let down = scene.managed.formic(&["down", "--json"]);
    assert_eq!(
        (down.code, down.json()["left_alone"][0].as_str()),
        (Some(1), Some(id.as_str())),
        "{}",
        down.stdout
    );
    scene.managed.formic(&["down"]).says(1, &[id, "is quarantined", "release"]);
    assert!(alive(*pid));
    scene.managed.formic(&["server", "stop"]).says(0, &["is quarantined"]);
}

#[test]
fn a_socket_that_is_not_ours_is_not_taken() {
    let scene = Scene::new();
    let (socket, log) = (scene.state().join("api.sock"), scene.managed.folder().join("start.log"));
    let _ = std::fs::remove_file(&socket);
    // Somebody's file.
    std::fs::write(&socket, "mine").unwrap();
    let mut keeper = scene.start(&log);
    assert_eq!(scene.outcome(&mut keeper, &log, "a file in the place of the socket"), Came::Refused);
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("api.sock"), "{said}");
    scene.end(&mut keeper);
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "mine");
    // Somebody's socket.
    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut keeper = scene.start(&log);
    assert_eq!(scene.outcome(&mut keeper, &log, "the socket of another"), Came::Refused);
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("api.sock") && said.contains("in use"), "{said}");
    scene.end(&mut keeper);
    drop(listener);
    // A socket that nobody listens on is one that was left.
    scene.managed.serve();
    assert_eq!(scene.managed.pids(), scene.pids);
}
