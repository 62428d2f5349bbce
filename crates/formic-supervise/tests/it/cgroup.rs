//! Where the kernel lets us make cgroups: trees are held by them, whatever their processes try.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use formic_supervise::{Containment, ExitStatus, Fate, Limits, Outcome, Supervisor, sweep};

use crate::scene::{FIXTURE, Fixture, SOON, Scene, all_features, lives, wait_for};

/// A scene whose instances are in cgroups; `None`, said, where there can be none.
fn scene(name: &str, test: &str) -> Option<Scene> {
    let features = all_features();
    if features.containment != Containment::Cgroup {
        let report = features.to_string();
        println!("formic-test-skipped: {test}: no cgroups can be made here: {report}");
        return None;
    }
    let scene = Scene::of(name, features);
    assert_eq!(scene.supervisor.features().containment, Containment::Cgroup);
    Some(scene)
}

fn group(supervisor: &Supervisor, id: &str) -> PathBuf {
    supervisor.get(&formic_core::InstanceId::new(id)).unwrap().record().cgroup.unwrap()
}

/// A daemon that leaves session, environment and parent behind, and ignores SIGTERM.
const ESCAPED: &str =
    "(setsid env -i /bin/sh -c 'trap \"\" TERM; echo $$; while :; do /bin/sleep 0.05; done' &)";

#[tokio::test]
async fn a_daemon_that_left_everything_else_is_in_the_cgroup() {
    let Some(scene) = scene("cg-daemon", "cgroup::a_daemon_that_left_everything_else_is_in_the_cgroup")
    else {
        return;
    };
    let process = scene.run("a-1", &format!("{ESCAPED}; sleep 0.2; exit 4")).await;
    let daemon = scene.pids("a-1", 1).await[0];
    assert_eq!(process.wait().await, ExitStatus::Code(4));
    let dir = group(&scene.supervisor, "a-1");
    assert!(fs::read_to_string(dir.join("cgroup.procs")).unwrap().contains(&daemon.to_string()));
    let stopped = process.stop(Duration::from_millis(200)).await.unwrap();
    assert!(stopped.killed.contains(&daemon) && !stopped.oom_killed && stopped.took < SOON, "{stopped:?}");
    assert!(!lives(daemon) && !dir.exists(), "its cgroup is removed");
    let above = dir.parent().unwrap().to_owned();
    assert!(above.exists());
    drop((scene, process));
    assert!(!above.exists(), "and the one above it by the last engine");
}

#[tokio::test]
async fn a_fork_storm_in_every_session_is_ended_at_once() {
    let Some(scene) = scene("cg-storm", "cgroup::a_fork_storm_in_every_session_is_ended_at_once") else {
        return;
    };
    let script = "cat > storm.sh <<'E'\nsetsid env -i PATH=/usr/bin:/bin sh ./storm.sh & sleep 0.01\nE\n\
                  for i in 1 2 3; do sh ./storm.sh & done; echo $$; sleep 60";
    let process = scene.run("a-1", script).await;
    scene.lines("a-1", 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let dir = group(&scene.supervisor, "a-1");
    let stopped = process.stop(Duration::from_millis(50)).await.unwrap();
    assert!(stopped.took < SOON && !dir.exists(), "{stopped:?}");
}

#[tokio::test]
async fn cgroups_that_an_instance_makes_are_its_own() {
    let Some(scene) = scene("cg-below", "cgroup::cgroups_that_an_instance_makes_are_its_own") else { return };
    let process = scene.run("a-1", "sleep 60").await;
    let dir = group(&scene.supervisor, "a-1");
    fs::create_dir_all(dir.join("below/further")).unwrap();
    fs::write(dir.join("below/further/cgroup.procs"), process.pid().to_string()).unwrap();
    process.stop(Duration::ZERO).await.unwrap();
    assert!(!dir.exists());
}

#[tokio::test]
async fn an_heir_finds_the_cgroup_and_so_does_a_sweep() {
    let test = "cgroup::an_heir_finds_the_cgroup_and_so_does_a_sweep";
    for swept in [false, true] {
        let Some(scene) = scene("cg-heir", test) else { return };
        let script = format!("{ESCAPED}; sleep 0.2; exec sleep 60");
        let mut engine = Fixture::start(FIXTURE, &["engine", scene.run_dir().to_str().unwrap(), &script]);
        assert_eq!(engine.hear(), "up");
        engine.tell();
        let pid: u32 = engine.hear().parse().unwrap();
        let log = scene.run_dir().join("out.log");
        wait_for("the daemon", || fs::read_to_string(&log).is_ok_and(|text| text.contains('\n'))).await;
        let daemon: u32 = fs::read_to_string(&log).unwrap().trim().parse().unwrap();
        engine.kill();
        if swept {
            fs::remove_file(scene.run_dir().join("crash-1.json")).unwrap();
            let found = sweep(scene.run_dir(), &all_features(), Duration::from_millis(100)).await.unwrap();
            let Outcome::Stopped { pids } = &found[0].outcome else { panic!("{found:?}") };
            assert!(pids.contains(&pid) && pids.contains(&daemon), "{found:?}");
        } else {
            let heir = scene.heir(all_features());
            let found = heir.adopt(Duration::from_secs(1)).await.unwrap();
            let Fate::Running(process) = &found[0].fate else { panic!("{found:?}") };
            let dir = group(&heir, "crash-1");
            let usage = process.usage();
            assert!(usage.whole_tree && usage.cpu.is_some() && usage.memory > Some(0), "{usage:?}");
            assert!(usage.pids >= Some(2), "{usage:?}");
            let stopped = process.stop(Duration::from_millis(100)).await.unwrap();
            assert!(stopped.killed.contains(&daemon) && !dir.exists(), "{stopped:?}");
        }
        assert!(!lives(pid) && !lives(daemon));
    }
}

#[tokio::test]
async fn what_is_not_limited_is_told_and_what_is_told_is_limited() {
    let Some(scene) = scene("cg-limits", "cgroup::what_is_not_limited_is_told_and_what_is_told_is_limited")
    else {
        return;
    };
    let limits = Limits { memory: Some(64 << 20), cpu: Some(0.5), cpu_weight: Some(50), pids: Some(20) };
    let unenforced = scene.supervisor.unenforced(&limits);
    let start = scene.script("a-1", "echo $$; sleep 60").with_limits(limits);
    let process = scene.supervisor.spawn(start).await.unwrap();
    let dir = group(&scene.supervisor, "a-1");
    for (name, file) in [("memory", "memory.max"), ("cpu", "cpu.max"), ("pids", "pids.max")] {
        let told = unenforced.iter().any(|limit| limit.controller.name() == name);
        assert_ne!(told, dir.join(file).exists(), "{name}: {unenforced:?}");
        assert_eq!(fs::read_to_string(dir.join(file)).is_ok_and(|text| !text.starts_with("max")), !told);
    }
    assert!(unenforced.iter().all(|limit| !limit.reason.is_empty()));
    process.kill().await.unwrap();
    let masked = all_features().masked(["cgroup"]);
    assert_eq!(masked.containment, Containment::Session);
    assert_eq!(masked.unenforced(&limits).len(), 3);
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_limit() {
    let test = "cgroup::a_fork_bomb_stays_within_its_limit";
    let Some(scene) = scene("cg-bomb", test) else { return };
    let limits = Limits { pids: Some(32), ..Limits::default() };
    if let [missing] = scene.supervisor.unenforced(&limits).as_slice() {
        println!("formic-test-skipped: {test}: {missing}");
        return;
    }
    let start = scene.script("a-1", "bomb() { bomb | bomb & }; echo up; bomb; sleep 60").with_limits(limits);
    let process = scene.supervisor.spawn(start).await.unwrap();
    let dir = group(&scene.supervisor, "a-1");
    wait_for("a fork to fail", || {
        let events = fs::read_to_string(dir.join("pids.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("max ").is_some_and(|times| times != "0"))
    })
    .await;
    assert!(process.usage().pids <= Some(32));
    process.kill().await.unwrap();
    assert!(!dir.exists());
}

#[tokio::test]
async fn memory_past_the_limit_ends_all_of_it_and_is_told() {
    let test = "cgroup::memory_past_the_limit_ends_all_of_it_and_is_told";
    let Some(scene) = scene("cg-oom", test) else { return };
    let limits = Limits { memory: Some(32 << 20), ..Limits::default() };
    if let [missing] = scene.supervisor.unenforced(&limits).as_slice() {
        println!("formic-test-skipped: {test}: {missing}");
        return;
    }
    // `tail` keeps what has no line end.
    let start = scene.script("a-1", "sleep 60 & tail /dev/zero; exit 0").with_limits(limits);
    let process = scene.supervisor.spawn(start).await.unwrap();
    assert_eq!(process.wait().await, ExitStatus::Signal(9));
    assert!(process.oom_killed());
    assert!(process.kill().await.unwrap().oom_killed);
}

#[tokio::test]
async fn an_instance_is_born_in_its_cgroup_and_what_cannot_be_executed_leaves_none() {
    let test = "cgroup::an_instance_is_born_in_its_cgroup_and_what_cannot_be_executed_leaves_none";
    let Some(scene) = scene("cg-born", test) else { return };
    let process = scene.run("a-1", "cat /proc/self/cgroup; exec sleep 60").await;
    let own = group(&scene.supervisor, "a-1");
    let lines = scene.lines("a-1", 1).await;
    assert!(lines.iter().any(|line| line.ends_with("/a-1")), "{lines:?}");
    // The program that printed the line may still be there.
    let procs = own.join("cgroup.procs");
    wait_for("it alone", || {
        fs::read_to_string(&procs).is_ok_and(|pids| pids.trim() == process.pid().to_string())
    })
    .await;
    process.kill().await.unwrap();
    assert!(!own.exists());
    let mut config = formic_supervise::Config::new(scene.dir.join("run-2"), all_features());
    config.trampoline = formic_supervise::Trampoline::new("/no/such/trampoline");
    let supervisor = Supervisor::new(config).unwrap();
    let error = supervisor.spawn(scene.script("b-1", "true")).await.unwrap_err();
    assert_eq!(error.errno(), Some(2), "{error:?}");
    assert_eq!((fs::read_dir(supervisor.run_dir()).unwrap().count(), supervisor.processes().len()), (0, 0));
}

#[tokio::test]
async fn who_has_left_the_cgroup_is_found_all_the_same() {
    let Some(scene) = scene("cg-left", "cgroup::who_has_left_the_cgroup_is_found_all_the_same") else {
        return;
    };
    let process = scene.run("a-1", "setsid sh -c 'echo $$; exec sleep 60' & exec sleep 60").await;
    let left = scene.pids("a-1", 1).await[0];
    // Where those are whom nobody has put anywhere.
    let above = group(&scene.supervisor, "a-1").parent().and_then(|dir| dir.parent()).unwrap().to_owned();
    if let Err(error) = fs::write(above.join("cgroup.procs"), left.to_string()) {
        println!("formic-test-skipped: cgroup::who_has_left_the_cgroup_is_found_all_the_same: {error}");
        process.kill().await.unwrap();
        return;
    }
    // Others of the same engine are not looked at, and stay.
    let other = scene.run("a-2", "sleep 60").await;
    crate::scene::signal(process.pid(), libc::SIGKILL);
    process.wait().await;
    let stopped = process.stop(Duration::from_secs(5)).await.unwrap();
    assert!(!lives(left) && lives(other.pid()), "{stopped:?}");
    other.kill().await.unwrap();
}
