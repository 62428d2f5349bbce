//! Commands beside an instance: they see what it sees, end in time, and leave nothing that outlives it.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::time::Duration;

use formic_supervise::{Beside, ExitStatus, Process};

use crate::scene::{SOON, Scene, all_features, lives, wait_for};

fn script(scene: &Scene, text: &str) -> Beside {
    Beside {
        program: "/bin/sh".into(),
        args: ["-c", text].map(OsString::from).into(),
        env: [("PATH".to_owned(), "/usr/bin:/bin".into()), ("PORT".to_owned(), "20001".into())].into(),
        cwd: scene.dir.clone(),
    }
}

async fn ends_with_success(scene: &Scene, instance: &Process, text: &str) -> bool {
    script(scene, text).run(instance, SOON).await.unwrap().success()
}

#[tokio::test]
async fn how_a_command_ends_is_its_answer_and_it_knows_whom_it_asks() {
    let scene = Scene::new("beside");
    let instance = scene.run("a-1", "sleep 60").await;
    assert!(ends_with_success(&scene, &instance, "exit 0").await);
    assert!(!ends_with_success(&scene, &instance, "exit 3").await);
    assert!(!ends_with_success(&scene, &instance, "kill -9 $$").await);
    let whom = "test \"$FORMIC_INSTANCE $PORT $(pwd)\" = \"a-1 20001 $0\"";
    let whom = whom.replace("$0", scene.dir.to_str().unwrap());
    assert!(ends_with_success(&scene, &instance, &whom).await);
    let absent = Beside { program: "/no/such".into(), ..script(&scene, "") };
    assert_eq!(absent.run(&instance, SOON).await.unwrap_err().kind(), ErrorKind::NotFound);
    instance.kill().await.unwrap();
}

#[tokio::test]
async fn what_it_says_is_told_however_much_it_is_and_whoever_else_could_say_more() {
    let scene = Scene::new("beside-says");
    let instance = scene.run("a-1", "sleep 60").await;
    // What stays holds the other end of the pipe.
    let text = "echo no route >&2; sleep 600 & echo $! > left; exit 3";
    let answer = script(&scene, text).run(&instance, SOON).await.unwrap();
    assert_eq!((answer.status, &answer.said[..]), (Some(ExitStatus::Code(3)), &b"no route\n"[..]));
    // More than a pipe holds.
    let text = "head -c 300000 /dev/zero | tr '\\0' x >&2; kill -9 $$";
    let answer = script(&scene, text).run(&instance, SOON).await.unwrap();
    assert_eq!(answer.status, Some(ExitStatus::Signal(9)));
    assert!(answer.said.len() == 1024 && answer.said.iter().all(|byte| *byte == b'x'));
    instance.stop(Duration::from_millis(200)).await.unwrap();
}

#[tokio::test]
async fn one_that_does_not_end_is_killed_with_what_it_started() {
    let scene = Scene::new("beside-late");
    let instance = scene.run("a-1", "sleep 60").await;
    let slow = script(&scene, "sleep 600 & echo $! $$ > pids; wait");
    let failed = slow.run(&instance, Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::TimedOut);
    for pid in written(&scene, 2).await {
        wait_for("the end of what was started", || !lives(pid)).await;
    }
    instance.kill().await.unwrap();
}

#[test]
fn one_that_never_stops_saying_things_is_killed_at_its_limit() {
    let (done, ended) = std::sync::mpsc::channel();
    // On a thread of its own: a reader that never lets go fails this test then, and does not hold it up.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kind = runtime.block_on(async {
            let scene = Scene::new("beside-flood");
            let instance = scene.run("a-1", "sleep 60").await;
            // Several at once, so that there is always more to read.
            let flood = script(&scene, "cat /dev/zero >&2 & cat /dev/zero >&2 & cat /dev/zero >&2");
            let failed = flood.run(&instance, Duration::from_millis(500)).await.unwrap_err();
            instance.kill().await.unwrap();
            failed.kind()
        });
        let _ = done.send(kind);
    });
    assert_eq!(ended.recv_timeout(SOON), Ok(ErrorKind::TimedOut));
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_the_instance() {
    for features in [crate::scene::features(), all_features()] {
        let scene = Scene::of("beside-left", features);
        let instance = scene.run("a-1", "sleep 60").await;
        assert!(ends_with_success(&scene, &instance, "sleep 600 & echo $! > left").await);
        let left = std::fs::read_to_string(scene.dir.join("left")).unwrap().trim().parse().unwrap();
        assert!(lives(left));
        instance.stop(Duration::from_millis(200)).await.unwrap();
        assert!(!lives(left), "it outlived its instance");
    }
}

/// The numbers that a script has written, once it has written all of them.
async fn written(scene: &Scene, count: usize) -> Vec<u32> {
    let read = || std::fs::read_to_string(scene.dir.join("pids")).unwrap_or_default();
    wait_for("the script to say what it started", || read().split_whitespace().count() == count).await;
    read().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[tokio::test]
async fn one_that_nobody_waits_for_any_more_is_killed_with_what_it_started() {
    let scene = Scene::new("beside-dropped");
    let instance = scene.run("a-1", "sleep 60").await;
    let slow = script(&scene, "sleep 600 & echo $! $$ > pids; wait");
    let pids = tokio::select! {
        pids = written(&scene, 2) => pids,
        ended = slow.run(&instance, SOON) => panic!("it ended: {ended:?}"),
    };
    for pid in pids {
        wait_for("the end of what was started", || !lives(pid)).await;
    }
    instance.kill().await.unwrap();
}

#[tokio::test]
async fn an_instance_that_is_ended_takes_what_runs_beside_it_along_and_is_asked_no_more() {
    let scene = Scene::new("beside-end");
    // It takes its time, so that a command might begin meanwhile.
    let instance = scene.run("a-1", "trap 'sleep 0.3; exit 0' TERM; while :; do sleep 0.02; done").await;
    let (asked, command) = (instance.clone(), script(&scene, "sleep 600 & echo $! $$ > pids; wait"));
    let running = tokio::spawn(async move { command.run(&asked, SOON).await });
    let pids = written(&scene, 2).await;
    let stopping = tokio::spawn({
        let instance = instance.clone();
        async move { instance.stop(SOON).await }
    });
    assert_eq!(running.await.unwrap().unwrap().status, None, "it is no answer");
    let begun = script(&scene, "echo late > late").run(&instance, SOON).await.unwrap();
    stopping.await.unwrap().unwrap();
    for pid in pids {
        assert!(!lives(pid), "{pid} outlived its instance");
    }
    assert!(
        begun.status.is_none() && !scene.dir.join("late").exists(),
        "a command began beside what was being ended"
    );
}
