//! After a crash: what is proven to be ours is taken over as it runs, and nothing else is touched.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use formic_core::InstanceId;
use formic_supervise::{
    Adopted, ExitStatus, Fate, Features, INSTANCE_ENV, Identity, Process, RUN_DIR_ENV, State, StopError,
    Supervisor,
};

use crate::scene::{FIXTURE, Fixture, SOON, Scene, features, lives, signal, wait_for};
use crate::sweep::{Stranger, crashed_engine, write};

const GRACE: Duration = Duration::from_millis(500);

/// What older kernels lack, one after the other.
const MASKS: [&[&str]; 4] = [&[], &["exit-info"], &["pidfs-handle"], &["pidfs", "exit-info"]];

fn masked(mask: &[&str]) -> Features {
    features().masked(mask.iter().copied())
}

async fn adopt(supervisor: &Supervisor) -> Adopted {
    let mut adopted = supervisor.adopt(GRACE).await.unwrap();
    assert_eq!(adopted.len(), 1, "{adopted:?}");
    adopted.remove(0)
}

async fn running(supervisor: &Supervisor) -> Process {
    match adopt(supervisor).await.fate {
        Fate::Running(process) => process,
        fate => panic!("not running: {fate:?}"),
    }
}

/// Starts an instance of this script by an engine of its own and kills the engine.
async fn left_behind(scene: &Scene, script: &str) -> u32 {
    left_behind_by("engine", scene, script).await
}

async fn left_behind_by(engine: &str, scene: &Scene, script: &str) -> u32 {
    let mut engine = Fixture::start(FIXTURE, &[engine, scene.run_dir().to_str().unwrap(), script]);
    assert_eq!(engine.hear(), "up");
    engine.tell();
    let pid = engine.hear().parse().unwrap();
    let log = scene.run_dir().join("out.log");
    wait_for("the program to be up", || fs::read_to_string(&log).is_ok_and(|text| text.contains('\n'))).await;
    engine.kill();
    pid
}

#[tokio::test]
async fn what_a_killed_engine_left_is_taken_over_and_ends_as_a_whole() {
    for mask in MASKS {
        let scene = Scene::new("adopt");
        let pids = crashed_engine(&scene, Path::new(FIXTURE), || {}).await;
        let first = scene.heir(masked(mask));
        let process = running(&first).await;
        assert!(pids.contains(&process.pid()) && process.try_wait().is_none(), "{mask:?}");
        assert_eq!(process.stdout(), scene.run_dir().join("out.log"));
        // Again by the same engine, and by the next one: the same.
        assert_eq!(running(&first).await.pid(), process.pid());
        assert_eq!(first.processes().len(), 1);
        drop(first);
        let second = scene.heir(masked(mask));
        let process = running(&second).await;
        let stopped = process.stop(GRACE).await.unwrap();
        assert!(pids.iter().all(|pid| !lives(*pid)), "{mask:?} {stopped:?}");
        assert_ne!(stopped.status, ExitStatus::Code(0), "{mask:?}");
        assert!(second.processes().is_empty() && second.adopt(GRACE).await.unwrap().is_empty());
        assert!(!scene.run_dir().join("crash-1.json").exists());
    }
}

#[tokio::test]
async fn how_an_adopted_process_ends_is_told() {
    for mask in MASKS {
        let scene = Scene::new("adopt-exit");
        let script = "trap 'exit 7' USR1; echo up; while :; do sleep 0.01; done";
        let pid = left_behind(&scene, script).await;
        let heir = scene.heir(masked(mask));
        let process = running(&heir).await;
        assert_eq!(process.pid(), pid);
        signal(pid, libc::SIGUSR1);
        let begun = Instant::now();
        let status = process.wait().await;
        assert!(begun.elapsed() < SOON);
        // The kernel tells, or whoever finds it unreaped; else nobody can.
        let known = status == ExitStatus::Code(7);
        assert!(known || (!masked(mask).exit_info && status == ExitStatus::Unknown), "{mask:?} {status}");
        assert_eq!(process.try_wait(), Some(status));
        assert_eq!(process.stop(GRACE).await.unwrap().status, status);
    }
}

#[tokio::test]
async fn what_ended_without_an_engine_is_told_until_it_is_stopped() {
    for mask in MASKS {
        let scene = Scene::new("adopt-ended");
        let script = "(setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.05; done' &); \
                      sleep 0.2; exec sleep 60";
        let pid = left_behind(&scene, script).await;
        let daemon: u32 =
            fs::read_to_string(scene.run_dir().join("out.log")).unwrap().trim().parse().unwrap();
        signal(pid, libc::SIGKILL);
        wait_for("its end", || !lives(pid)).await;
        for _ in 0..2 {
            let heir = scene.heir(masked(mask));
            let Fate::Ended(process) = adopt(&heir).await.fate else { panic!("not ended") };
            assert!(matches!(process.wait().await, ExitStatus::Signal(9) | ExitStatus::Unknown));
            assert!(lives(daemon), "adoption ends nothing");
        }
        let heir = scene.heir(masked(mask));
        let Fate::Ended(process) = adopt(&heir).await.fate else { panic!("not ended") };
        let stopped = process.stop(Duration::from_millis(100)).await.unwrap();
        assert!(stopped.killed.contains(&daemon) && !lives(daemon), "{mask:?} {stopped:?}");
        assert!(heir.adopt(GRACE).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_deadline_that_was_set_goes_on() {
    let scene = Scene::new("adopt-deadline");
    let pid = left_behind(&scene, "trap '' TERM; echo up; while :; do sleep 0.05; done").await;
    let engine = scene.heir(features());
    let gentle = running(&engine).await;
    scene.begin_to_stop(&gentle, Duration::from_secs(2)).await;
    // That engine is given up in the middle of it; the next one is as patient as the first was, no more.
    let heir = scene.heir(features());
    let Fate::Stopping { process, left } = adopt(&heir).await.fate else { panic!("not stopping") };
    assert!(left <= Duration::from_secs(2), "{left:?}");
    let begun = Instant::now();
    let stopped = process.stop(Duration::from_secs(600)).await.unwrap();
    assert!(stopped.killed.contains(&pid) && begun.elapsed() < SOON, "{stopped:?}");
    assert!(!lives(pid));
}

#[tokio::test]
async fn what_never_ran_is_cleared_and_what_has_no_record_is_ended() {
    let scene = Scene::new("adopt-intent");
    let run_dir = scene.run_dir().to_str().unwrap().to_owned();
    let mut intent = Stranger::marked(&[(INSTANCE_ENV, "a-1"), (RUN_DIR_ENV, &run_dir)]);
    let mut unrecorded = Stranger::marked(&[(INSTANCE_ENV, "a-2"), (RUN_DIR_ENV, &run_dir)]);
    let mut elsewhere = Stranger::marked(&[(INSTANCE_ENV, "a-1"), (RUN_DIR_ENV, "/elsewhere")]);
    write(&scene, "a-1", None, |record| record.state = State::Intent);
    let adopted = scene.heir(features()).adopt(GRACE).await.unwrap();
    assert!(matches!(adopted[0].fate, Fate::NeverRan), "{adopted:?}");
    let Fate::Unrecorded { pids } = &adopted[1].fate else { panic!("{adopted:?}") };
    assert_eq!((pids.as_slice(), adopted.len()), ([unrecorded.0.id()].as_slice(), 2));
    assert!(!intent.lives() && !unrecorded.lives() && elsewhere.lives());
    assert_eq!(scene.records(), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_proven_is_quarantined_and_its_place_is_kept() {
    let scene = Scene::new("adopt-likely");
    let mut stranger = Stranger::start();
    write(&scene, "a-1", Some(Identity { pidfs_id: None, ..stranger.identity() }), |_| {});
    let heir = scene.heir(masked(&["pidfs"]));
    for _ in 0..2 {
        let Fate::Quarantined { pids, .. } = adopt(&heir).await.fate else { panic!("not quarantined") };
        assert_eq!(pids, [stranger.0.id()]);
        assert!(stranger.lives() && heir.processes().is_empty());
    }
    let taken = heir.spawn(scene.script("a-1", "true")).await.unwrap_err();
    assert!(matches!(taken, formic_supervise::SpawnError::Duplicate(_)), "{taken}");
    // People looked, and said so.
    let id = InstanceId::new("a-1");
    assert!(heir.release(&id).await.unwrap() && !heir.release(&id).await.unwrap());
    assert!(heir.adopt(GRACE).await.unwrap().is_empty() && stranger.lives());
    let process = heir.spawn(scene.script("a-1", "sleep 60")).await.unwrap();
    assert!(!heir.release(&id).await.unwrap(), "a process is not quarantined");
    process.kill().await.unwrap();
}

#[tokio::test]
async fn a_number_that_is_another_process_now_is_not_adopted() {
    for mask in MASKS {
        let scene = Scene::new("adopt-reused");
        let mut stranger = Stranger::start();
        let wrong = |identity: Identity| Identity {
            pidfs_id: identity.pidfs_id.map(|id| id - 1),
            start_time: identity.start_time - 1,
            ..identity
        };
        write(&scene, "a-1", Some(wrong(stranger.identity())), |_| {});
        let heir = scene.heir(masked(mask));
        let Fate::Ended(process) = adopt(&heir).await.fate else { panic!("not ended") };
        assert_eq!(process.wait().await, ExitStatus::Unknown);
        process.kill().await.unwrap();
        assert!(stranger.lives(), "{mask:?}");
        assert_eq!(scene.records(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_damaged_record_harms_nobody() {
    let scene = Scene::new("adopt-damaged");
    let run_dir = scene.run_dir().to_str().unwrap().to_owned();
    let mut ours = Stranger::marked(&[(INSTANCE_ENV, "a-1"), (RUN_DIR_ENV, &run_dir)]);
    fs::write(scene.run_dir().join("a-1.json"), "{\"format\": 1, \"id\":").unwrap();
    fs::write(scene.run_dir().join("a-2.json"), "\0\0\0").unwrap();
    fs::write(scene.run_dir().join("a-3.json"), r#"{"format": 2}"#).unwrap();
    write(&scene, "a-4", None, |record| record.boot_id = "another".into());
    let adopted = scene.heir(features()).adopt(GRACE).await.unwrap();
    assert!(matches!(&adopted[0].fate, Fate::Quarantined { pids, .. } if *pids == [ours.0.id()]));
    assert!(matches!(&adopted[1].fate, Fate::Damaged { set_aside } if set_aside.exists()));
    assert!(matches!(&adopted[2].fate, Fate::Quarantined { reason, .. } if reason.contains("format 2")));
    assert!(matches!(adopted[3].fate, Fate::OtherBoot));
    assert!(ours.lives());
}

#[tokio::test]
async fn a_session_is_proven_by_those_who_were_seen_in_it() {
    for (seen, what) in [(true, "seen"), (false, "unseen")] {
        let scene = Scene::new("adopt-session");
        // A child without a mark, in the session alone.
        let script = "env -i /bin/sleep 60 & child=$!; \
                      until grep -qa ^/bin/sleep /proc/$child/cmdline; do sleep 0.05; done; \
                      echo $child; exec sleep 60";
        // A cgroup would prove it.
        let pid = left_behind_by("engine-without-cgroups", &scene, script).await;
        let child: u32 = fs::read_to_string(scene.run_dir().join("out.log")).unwrap().trim().parse().unwrap();
        let heir = scene.heir(features());
        if seen {
            running(&heir).await;
        }
        signal(pid, libc::SIGKILL);
        wait_for("its end", || !lives(pid)).await;
        let reaped = || !Path::new(&format!("/proc/{pid}")).exists();
        let heir = if seen { heir } else { scene.heir(features()) };
        if !seen {
            if !reaped() {
                println!(
                    "formic-test-skipped: a_session_is_proven_by_those_who_were_seen_in_it: nobody reaps orphans here at once"
                );
                signal(child, libc::SIGKILL);
                return;
            }
            heir.adopt(GRACE).await.unwrap();
        }
        let process = heir.get(&InstanceId::new("crash-1")).unwrap();
        let stopped = process.kill().await;
        if seen {
            assert!(stopped.unwrap().killed.contains(&child), "{what}");
            assert!(!lives(child));
        } else {
            let Err(StopError::Unproven { pids, .. }) = stopped else { panic!("{stopped:?}") };
            assert_eq!(pids, [child]);
            assert!(lives(child));
            signal(child, libc::SIGKILL);
            wait_for("the end of the child", || !lives(child)).await;
            process.kill().await.unwrap();
        }
        assert!(!scene.run_dir().join("crash-1.json").exists());
    }
}
