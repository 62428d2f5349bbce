//! How an instance ended is in its record before it is reaped, for the engine that comes next, until that is told elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use formic_core::InstanceId;
use formic_supervise::{ExitStatus, Fate, INSTANCE_ENV, Outcome, RUN_DIR_ENV, SpawnError, Supervisor, sweep};

use crate::scene::{SOON, Scene, features, lives};
use crate::sweep::Stranger;

const GRACE: Duration = Duration::from_millis(500);

/// A scene whose engine keeps ends.
fn kept(name: &str) -> Scene {
    let scene = Scene::new(name);
    scene.supervisor.keep_ends();
    scene
}

/// How it ended, as far as that is on record.
fn ended(scene: &Scene, id: &str) -> Option<ExitStatus> {
    let noted = fs::read(scene.run_dir().join(format!("{id}.ended"))).ok()?;
    let noted: serde_json::Value = serde_json::from_slice(&noted).unwrap();
    Some(serde_json::from_value(noted["status"].clone()).unwrap())
}

/// What an engine finds that knows none of the processes; the numbers are nobody's any more.
async fn found(heir: &Supervisor) -> Fate {
    let mut found = heir.adopt(GRACE).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0).fate
}

#[tokio::test]
async fn how_it_ended_is_known_to_the_next_engine_though_this_one_has_reaped_it() {
    for mask in [&[][..], &["exit-info"], &["pidfs", "exit-info"]] {
        let features = || features().masked(mask.iter().copied());
        let scene = Scene::of("ends", features());
        scene.supervisor.keep_ends();
        for (id, script, status) in [
            ("by-itself", "exit 7", ExitStatus::Code(7)),
            ("asked", "exec sleep 600", ExitStatus::Signal(libc::SIGTERM)),
        ] {
            let process = scene.run(id, script).await;
            if id == "by-itself" {
                assert_eq!(process.wait().await, status);
            }
            assert_eq!(ended(&scene, id), None, "not before all of it is gone");
            // Before it is asked to end, that is written down, for which a slow disk has its time.
            assert_eq!(process.stop(SOON).await.unwrap().status, status);
            assert!(!Path::new(&format!("/proc/{}", process.pid())).exists(), "it is reaped");
            assert_eq!(ended(&scene, id), Some(status));
            // By as many engines as it takes.
            for _ in 0..2 {
                let heir = scene.heir(features());
                let Fate::Over { status: told } = found(&heir).await else { panic!("{mask:?} {id}") };
                assert_eq!((told, heir.processes().len()), (status, 0), "{mask:?}");
            }
            let heir = scene.heir(features());
            heir.release_ended([id]);
            assert!(heir.adopt(GRACE).await.unwrap().is_empty() && scene.records().is_empty());
        }
    }
}

#[tokio::test]
async fn nothing_is_an_end_before_the_children_are_gone() {
    let scene = kept("ends-tree");
    let script =
        "(setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.05; done' &); sleep 0.2; exit 3";
    let process = scene.run("a-1", script).await;
    let child = scene.pids("a-1", 1).await[0];
    assert_eq!(process.wait().await, ExitStatus::Code(3));
    let heir = scene.heir(features());
    heir.keep_ends();
    let Fate::Ended(taken) = found(&heir).await else { panic!("not ended") };
    assert!(lives(child) && ended(&scene, "a-1").is_none());
    let stopped = taken.stop(Duration::from_millis(100)).await.unwrap();
    assert!(stopped.killed.contains(&child) && !lives(child), "{stopped:?}");
    // Known by then, and not unknown because the one that began it reaps.
    process.stop(Duration::ZERO).await.unwrap();
    assert_eq!(ended(&scene, "a-1"), Some(ExitStatus::Code(3)));
}

#[tokio::test]
async fn only_the_records_of_ends_are_released() {
    let scene = kept("ends-release");
    let runs = scene.run("a-1", "exec sleep 600").await;
    scene.run("a-2", "exit 0").await.stop(GRACE).await.unwrap();
    scene.supervisor.release_ended(["a-1", "a-2", "a-3", "../a-1"]);
    assert_eq!(scene.records(), ["a-1.json"]);
    runs.kill().await.unwrap();
    // Its id is taken for as long as its end is.
    let taken = scene.supervisor.spawn(scene.script("a-1", "true")).await.unwrap_err();
    assert!(matches!(taken, SpawnError::Duplicate(_)), "{taken}");
    assert!(scene.supervisor.release(&InstanceId::new("a-1")).await.unwrap());
    scene.run("a-1", "true").await.kill().await.unwrap();
    // What an engine has left that died between the two files.
    fs::remove_file(scene.run_dir().join("a-1.json")).unwrap();
    assert!(scene.heir(features()).adopt(GRACE).await.unwrap().is_empty());
    assert_eq!(scene.records(), Vec::<String>::new());
}

#[tokio::test]
async fn a_note_that_says_nothing_is_none() {
    let scene = kept("ends-torn");
    scene.run("a-1", "exit 7").await.stop(GRACE).await.unwrap();
    let path = scene.run_dir().join("a-1.ended");
    let noted = fs::read_to_string(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Torn, without its sum, and with a bit that is wrong.
    for bad in [&noted[..noted.len() / 2], "{\"status\": {\"code\": 7}}", &noted.replace('7', "6")] {
        fs::write(&path, bad).unwrap();
        let heir = scene.heir(features());
        assert!(matches!(found(&heir).await, Fate::Ended(_)), "{bad}");
    }
    let heir = scene.heir(features());
    let Fate::Ended(process) = found(&heir).await else { panic!("not ended") };
    process.kill().await.unwrap();
    assert_eq!(scene.records(), Vec::<String>::new());
}

#[tokio::test]
async fn the_end_of_one_is_not_that_of_another_with_its_id() {
    let scene = kept("ends-namesake");
    let path = scene.run_dir().join("a-1.ended");
    scene.run("a-1", "exit 7").await.stop(GRACE).await.unwrap();
    let noted = fs::read(&path).unwrap();
    scene.supervisor.release_ended(["a-1"]);
    let second = scene.run("a-1", "exec sleep 600").await;
    fs::write(&path, noted).unwrap();
    let heir = scene.heir(features());
    let Fate::Running(_) = found(&heir).await else { panic!("not running") };
    second.kill().await.unwrap();
}

#[tokio::test]
async fn what_never_ran_has_no_end() {
    let scene = kept("ends-exec");
    let failed = scene.supervisor.spawn(scene.launch("a-1", "/no/such/program", &[])).await.unwrap_err();
    assert!(matches!(failed, SpawnError::Exec { .. }), "{failed}");
    assert_eq!(scene.records(), Vec::<String>::new());
}

#[tokio::test]
async fn an_end_that_cannot_be_written_keeps_nothing_from_being_stopped() {
    let scene = kept("ends-unwritten");
    let process = scene.run("a-1", "exit 7").await;
    process.wait().await;
    // Where the new record would be written before it takes the place of the old one.
    let obstacle = scene.run_dir().join(".new-a-1.ended");
    fs::create_dir(&obstacle).unwrap();
    assert_eq!(process.stop(GRACE).await.unwrap().status, ExitStatus::Code(7));
    assert!(scene.supervisor.processes().is_empty());
    fs::remove_dir(obstacle).unwrap();
    let heir = scene.heir(features());
    let Fate::Ended(process) = found(&heir).await else { panic!("not ended") };
    assert_eq!(process.wait().await, ExitStatus::Unknown);
    process.kill().await.unwrap();
    assert_eq!(scene.records(), Vec::<String>::new());
}

#[tokio::test]
async fn a_sweep_removes_what_is_kept_of_ends() {
    let scene = kept("ends-sweep");
    scene.run("a-1", "exit 7").await.stop(GRACE).await.unwrap();
    let swept = sweep(scene.run_dir(), &features(), GRACE).await.unwrap();
    assert_eq!(swept.iter().map(|swept| &swept.outcome).collect::<Vec<_>>(), [&Outcome::Gone]);
    assert_eq!(scene.records(), Vec::<String>::new());
}

/// One that came to it after the last look is of the instance all the same.
#[tokio::test]
async fn who_carries_the_mark_of_one_that_has_ended_is_ended_too() {
    for by_sweep in [true, false] {
        let scene = kept("ends-late");
        scene.run("a-1", "exit 7").await.stop(GRACE).await.unwrap();
        let run_dir = scene.run_dir().display().to_string();
        let mut late = Stranger::marked(&[(INSTANCE_ENV, "a-1"), (RUN_DIR_ENV, &run_dir)]);
        if by_sweep {
            let swept = sweep(scene.run_dir(), &features(), GRACE).await.unwrap();
            assert!(matches!(&swept[0].outcome, Outcome::Stopped { pids } if pids.len() == 1), "{swept:?}");
        } else {
            let heir = scene.heir(features());
            assert!(matches!(found(&heir).await, Fate::Over { status: ExitStatus::Code(7) }));
        }
        assert!(!late.lives(), "by a sweep: {by_sweep}");
    }
}
