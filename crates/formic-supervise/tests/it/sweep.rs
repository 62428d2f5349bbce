//! After a crash: what is proven to be ours is ended, and nothing else is touched.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use formic_core::{InstanceId, ServiceName};
use formic_supervise::{
    Containment, Features, INSTANCE_ENV, Identity, Outcome, RUN_DIR_ENV, Record, State, Swept, boot_id, sweep,
};

use crate::scene::{FIXTURE, Fixture, Scene, features, lives, wait_for};

const GRACE: Duration = Duration::from_millis(500);

/// A process of nobody's, ended when dropped.
pub(crate) struct Stranger(pub(crate) Child);

impl Stranger {
    pub(crate) fn start() -> Self {
        Self::marked(&[])
    }

    pub(crate) fn marked(env: &[(&str, &str)]) -> Self {
        let stranger = Self(Command::new("/bin/sleep").arg("60").envs(env.iter().copied()).spawn().unwrap());
        // For a moment after it has begun its environment is empty.
        let environ = format!("/proc/{}/environ", stranger.0.id());
        let began = Instant::now();
        while fs::read(&environ).unwrap().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(30), "it does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        stranger
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Its true identity, as an engine would have recorded it.
    pub(crate) fn identity(&self) -> Identity {
        let pid = self.0.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start_time =
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        let fd = rustix::process::pidfd_open(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::PidfdFlags::empty(),
        );
        let pidfs_id = features().pidfs.then(|| rustix::fs::fstat(fd.unwrap()).unwrap().st_ino);
        Identity { boot_id: boot_id().unwrap(), pid, pidfs_id, start_time }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn write(scene: &Scene, id: &str, identity: Option<Identity>, change: impl FnOnce(&mut Record)) {
    let mut record = Record {
        format: 1,
        id: InstanceId::new(id),
        service: ServiceName::new("test").unwrap(),
        slot: 0,
        revision: "r1".into(),
        state: State::Spawned,
        boot_id: boot_id().unwrap(),
        home: None,
        identity,
        containment: Containment::Session,
        cgroup: None,
        sockets: vec![],
        port: None,
        stop_signal: Default::default(),
        account: None,
        bounds: None,
        started_at_ms: 1,
        stdout: "/dev/null".into(),
        stderr: "/dev/null".into(),
        note: serde_json::Value::Null,
    };
    change(&mut record);
    fs::write(scene.run_dir().join(format!("{id}.json")), serde_json::to_vec(&record).unwrap()).unwrap();
}

async fn swept(scene: &Scene, features: &Features) -> Vec<Swept> {
    sweep(scene.run_dir(), features, GRACE).await.unwrap()
}

async fn outcome(scene: &Scene, features: &Features) -> Outcome {
    let mut swept = swept(scene, features).await;
    assert_eq!(swept.len(), 1, "{swept:?}");
    swept.remove(0).outcome
}

/// Starts an instance by an engine of its own, kills the engine, and returns the instance's processes.
pub(crate) async fn crashed_engine(scene: &Scene, exe: &Path, before_start: impl FnOnce()) -> Vec<u32> {
    let script = "(setsid sh -c 'echo $$; trap \"\" TERM; while :; do sleep 0.05; done' &); \
                  env -i /bin/sleep 60 & echo $!; echo $$; sleep 60";
    let mut engine = Fixture::start(exe, &["engine", scene.run_dir().to_str().unwrap(), script]);
    assert_eq!(engine.hear(), "up");
    before_start();
    engine.tell();
    let leader: u32 = engine.hear().parse().unwrap();
    let log = scene.run_dir().join("out.log");
    wait_for("three numbers", || fs::read_to_string(&log).is_ok_and(|text| text.matches('\n').count() == 3))
        .await;
    let pids: Vec<u32> =
        fs::read_to_string(&log).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert!(pids.contains(&leader));
    engine.kill();
    assert!(pids.iter().all(|pid| lives(*pid)), "the engine's death ends nothing");
    pids
}

#[tokio::test]
async fn what_a_killed_engine_left_is_ended_once() {
    let scene = Scene::new("crash");
    let pids = crashed_engine(&scene, Path::new(FIXTURE), || {}).await;
    let Outcome::Stopped { pids: found } = outcome(&scene, &features()).await else { panic!("not stopped") };
    assert!(pids.iter().all(|pid| found.contains(pid)), "{pids:?} {found:?}");
    assert!(pids.iter().all(|pid| !lives(*pid)));
    assert_eq!(swept(&scene, &features()).await, []);
}

#[tokio::test]
async fn what_a_killed_engine_had_taken_in_is_ended_by_its_log() {
    let scene = Scene::new("crash-adrift");
    let script = "(setsid env -i /bin/sh -c 'echo $$; exec /bin/sleep 614' &); exec sleep 600";
    let mut engine = Fixture::start(
        Path::new(FIXTURE),
        &["engine-without-cgroups", scene.run_dir().to_str().unwrap(), script],
    );
    assert_eq!(engine.hear(), "up");
    engine.tell();
    let leader: u32 = engine.hear().parse().unwrap();
    let log = scene.run_dir().join("out.log");
    let orphan = || fs::read_to_string(&log).ok()?.trim().parse::<u32>().ok();
    let sleeps =
        |pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/bin/sleep"));
    wait_for("the orphan", || orphan().is_some_and(sleeps)).await;
    let orphan = orphan().unwrap();
    engine.kill();
    let outcome = outcome(&scene, &features()).await;
    let left = lives(orphan);
    if left {
        crate::scene::signal(orphan, libc::SIGKILL);
    }
    let Outcome::Stopped { pids } = outcome else { panic!("{outcome:?}") };
    assert!(!left && pids.contains(&orphan) && pids.contains(&leader), "{left} {pids:?}");
}

#[tokio::test]
async fn the_same_without_pidfs() {
    let scene = Scene::new("crash-old");
    let pids = crashed_engine(&scene, Path::new(FIXTURE), || {}).await;
    let old = features().masked(["pidfs"]);
    assert!(matches!(outcome(&scene, &old).await, Outcome::Stopped { .. }));
    assert!(pids.iter().all(|pid| !lives(*pid)));
}

#[tokio::test]
async fn an_engine_whose_binary_was_replaced_still_starts_processes() {
    let scene = Scene::new("replaced");
    let exe = scene.dir.join("engine");
    fs::copy(FIXTURE, &exe).unwrap();
    let replace = || {
        fs::remove_file(&exe).unwrap();
        fs::write(&exe, "not a program").unwrap();
    };
    let pids = crashed_engine(&scene, &exe, replace).await;
    assert!(matches!(outcome(&scene, &features()).await, Outcome::Stopped { .. }));
    assert!(pids.iter().all(|pid| !lives(*pid)));
}

#[tokio::test]
async fn a_number_that_is_another_process_now_is_left_alone() {
    let scene = Scene::new("reused");
    let mut stranger = Stranger::start();
    let wrong = |identity: Identity| Identity {
        pidfs_id: identity.pidfs_id.map(|id| id - 1),
        start_time: identity.start_time - 1,
        ..identity
    };
    for features in [features(), features().masked(["pidfs"])] {
        write(&scene, "a-1", Some(wrong(stranger.identity())), |_| {});
        assert_eq!(outcome(&scene, &features).await, Outcome::Gone);
        assert!(stranger.lives());
        assert_eq!(scene.records(), Vec::<String>::new());
    }
    // The right identity ends it: the test above proves something.
    if features().pidfs {
        write(&scene, "a-1", Some(stranger.identity()), |_| {});
        assert!(matches!(outcome(&scene, &features()).await, Outcome::Stopped { .. }));
        assert!(!stranger.lives());
    }
}

#[tokio::test]
async fn what_is_likely_but_unproven_is_quarantined() {
    let scene = Scene::new("likely");
    let mut stranger = Stranger::start();
    write(&scene, "a-1", Some(Identity { pidfs_id: None, ..stranger.identity() }), |_| {});
    let old = features().masked(["pidfs"]);
    for _ in 0..2 {
        let Outcome::Quarantined { pids, .. } = outcome(&scene, &old).await else {
            panic!("not quarantined")
        };
        assert_eq!(pids, [stranger.0.id()]);
        assert!(stranger.lives());
        assert_eq!(scene.records(), ["a-1.json"]);
    }
}

#[tokio::test]
async fn records_of_another_boot_are_dropped_and_their_numbers_mean_nothing() {
    let scene = Scene::new("boot");
    let mut stranger = Stranger::start();
    let identity = Identity { boot_id: "another".into(), ..stranger.identity() };
    write(&scene, "a-1", Some(identity), |record| record.boot_id = "another".into());
    assert_eq!(outcome(&scene, &features()).await, Outcome::OtherBoot);
    assert!(stranger.lives());
    assert_eq!(scene.records(), Vec::<String>::new());
}

#[tokio::test]
async fn a_damaged_record_is_set_aside_and_its_processes_are_known_by_their_mark() {
    let scene = Scene::new("damaged");
    let run_dir = scene.run_dir().to_str().unwrap().to_owned();
    let mut ours = Stranger::marked(&[(INSTANCE_ENV, "a-1"), (RUN_DIR_ENV, &run_dir)]);
    let mut other_id = Stranger::marked(&[(INSTANCE_ENV, "a-2"), (RUN_DIR_ENV, &run_dir)]);
    let mut other_app = Stranger::marked(&[(INSTANCE_ENV, "a-1"), (RUN_DIR_ENV, "/elsewhere")]);
    fs::write(scene.run_dir().join("a-1.json"), "{\"format\": 1, \"id\":").unwrap();
    let Outcome::Damaged { set_aside, pids } = outcome(&scene, &features()).await else {
        panic!("not damaged")
    };
    assert_eq!(pids, [ours.0.id()]);
    assert!(set_aside.exists() && !ours.lives() && other_id.lives() && other_app.lives());
    assert_eq!(swept(&scene, &features()).await, []);
}

#[tokio::test]
async fn an_intent_ends_what_carries_its_mark_and_a_newer_format_is_left() {
    let scene = Scene::new("intent");
    let run_dir = scene.run_dir().to_str().unwrap().to_owned();
    let mut ours = Stranger::marked(&[(INSTANCE_ENV, "a-1"), (RUN_DIR_ENV, &run_dir)]);
    let mut newer = Stranger::marked(&[(INSTANCE_ENV, "a-2"), (RUN_DIR_ENV, &run_dir)]);
    write(&scene, "a-1", None, |record| record.state = State::Intent);
    write(&scene, "a-2", None, |record| record.format = 2);
    let swept = swept(&scene, &features()).await;
    assert_eq!(swept[0].outcome, Outcome::Stopped { pids: vec![ours.0.id()] });
    let Outcome::Quarantined { pids, reason } = &swept[1].outcome else { panic!("{swept:?}") };
    assert_eq!(pids, &[newer.0.id()]);
    assert!(reason.contains("format 2"), "{reason}");
    assert!(!ours.lives() && newer.lives());
    assert_eq!(scene.records(), ["a-2.json"]);
}
