//! Stopping: gone means the whole tree, whoever resists.

use std::time::{Duration, Instant};

use formic_supervise::{ExitStatus, State, StopSignal, subreaper};
use tokio_util::sync::CancellationToken;

use crate::scene::{SOON, Scene, lives, signal, wait_for, zombies};

const STUBBORN: &str = "trap '' TERM; echo $$; while :; do sleep 0.05; done";

#[tokio::test]
async fn a_polite_program_ends_by_itself() {
    let scene = Scene::new("polite");
    let process =
        scene.run("a-1", "trap 'echo bye; exit 3' TERM; echo $$; while :; do sleep 0.02; done").await;
    scene.lines("a-1", 1).await;
    let stopped = process.stop(SOON).await.unwrap();
    assert_eq!(stopped.status, ExitStatus::Code(3));
    assert!(stopped.killed.is_empty() && stopped.took < SOON, "{stopped:?}");
    assert!(scene.stdout("a-1").ends_with("bye\n"));
    assert_eq!(process.stop(SOON).await.unwrap(), stopped, "stopping again tells the same");
    assert!(!std::path::Path::new(&format!("/proc/{}", process.pid())).exists(), "it was not reaped");
    assert_eq!(scene.records(), Vec::<String>::new());
}

#[tokio::test]
async fn one_that_ends_by_another_signal_is_sent_that_by_whoever_stops_it() {
    const QUITS: &str =
        "trap 'sleep 0.2; exit 4' QUIT; trap 'exit 5' TERM; echo $$; while :; do sleep 0.02; done";
    let scene = Scene::new("quits");
    // Said at its start: a stop that says nothing else takes it from the record.
    let start = formic_supervise::Start::from(scene.script("a-1", QUITS)).with_stop_signal(StopSignal::Quit);
    let process = scene.supervisor.spawn(start).await.unwrap();
    scene.lines("a-1", 1).await;
    assert_eq!(process.stop(SOON).await.unwrap().status, ExitStatus::Code(4));
    // Said at the stop: it is on disk before it is sent, and goes on whatever another says then.
    let process = scene.run("a-2", QUITS).await;
    scene.lines("a-2", 1).await;
    let stopping = tokio::spawn({
        let process = process.clone();
        async move { process.stop_by(StopSignal::Quit, SOON).await }
    });
    wait_for("the stop to be recorded", || {
        let record = process.record();
        record.stop_signal == StopSignal::Quit && matches!(record.state, State::Stopping { .. })
    })
    .await;
    assert_eq!(process.stop_by(StopSignal::Term, SOON).await.unwrap().status, ExitStatus::Code(4));
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_ignores_term_is_killed_after_the_grace() {
    let scene = Scene::new("stubborn");
    let process = scene.run("a-1", STUBBORN).await;
    scene.lines("a-1", 1).await;
    let stopped = process.stop(Duration::from_millis(300)).await.unwrap();
    assert_eq!(stopped.status, ExitStatus::Signal(9));
    assert!(stopped.killed.contains(&process.pid()));
    assert!(stopped.took >= Duration::from_millis(300) && stopped.took < SOON, "{stopped:?}");
}

#[tokio::test]
async fn a_double_forked_daemon_that_ignores_term_is_found_and_killed() {
    let scene = Scene::new("daemon");
    let script = format!("(setsid sh -c \"{}\" &); sleep 60", STUBBORN.replace('$', "\\$"));
    let process = scene.run("a-1", &script).await;
    let daemon = scene.pids("a-1", 1).await[0];
    assert!(lives(daemon) && daemon != process.pid());
    let stopped = process.stop(Duration::from_millis(200)).await.unwrap();
    assert!(stopped.killed.contains(&daemon), "{stopped:?}");
    assert!(!lives(daemon));
}

#[tokio::test]
async fn a_child_that_cleared_its_environment_is_found_by_its_session() {
    let scene = Scene::new("cleared");
    let process = scene.run("a-1", "env -i /bin/sleep 60 & echo $!; exit 0").await;
    let child = scene.pids("a-1", 1).await[0];
    assert_eq!(process.wait().await, ExitStatus::Code(0));
    wait_for("the exec of env", || {
        std::fs::read(format!("/proc/{child}/environ")).is_ok_and(|environment| environment.is_empty())
    })
    .await;
    assert!(lives(child), "it outlives its leader");
    // The leader is gone, so the child is asked itself, and need not be killed.
    let stopped = process.stop(SOON).await.unwrap();
    assert!(!lives(child) && stopped.killed.is_empty() && stopped.took < SOON, "{stopped:?}");
}

#[tokio::test]
async fn a_child_that_has_nothing_of_the_instance_but_its_parent_ends_with_it() {
    let scene = Scene::new("bare");
    for (id, grace) in [("a-1", SOON), ("a-2", Duration::ZERO)] {
        // Neither environment nor session: what is left is that the main process is its parent, which ends first.
        let process = scene.run(id, "env -i setsid sh -c 'echo $$; exec sleep 600' & sleep 600").await;
        let child = scene.pids(id, 1).await[0];
        let stopped = process.stop(grace).await.unwrap();
        assert!(!lives(child), "{id}: {stopped:?}");
    }
}

#[tokio::test]
async fn only_the_main_process_is_asked_while_it_lives() {
    let scene = Scene::new("main");
    // The child tells if it is asked; the leader takes its time and then ends the child itself. It is ready for
    // that before there is a child, which says when both are.
    let script = "trap 'sleep 0.3; kill -KILL $!; exit 0' TERM
        sh -c 'trap \"echo asked\" TERM; echo up; while :; do sleep 0.02; done' &
        while :; do sleep 0.02; done";
    let process = scene.run("a-1", script).await;
    scene.lines("a-1", 1).await;
    let stopped = process.stop(SOON).await.unwrap();
    assert_eq!((stopped.status, stopped.killed.len()), (ExitStatus::Code(0), 0));
    assert_eq!(scene.stdout("a-1"), "up\n");
}

#[tokio::test]
async fn a_second_signal_kills_what_is_being_stopped_gently() {
    let scene = Scene::new("second");
    let process = scene.run("a-1", STUBBORN).await;
    scene.lines("a-1", 1).await;
    let gentle = tokio::spawn({
        let process = process.clone();
        async move { process.stop(Duration::from_secs(600)).await }
    });
    scene.stopping(&process).await;
    let begun = Instant::now();
    let killed = scene.supervisor.kill_all().await;
    assert!(begun.elapsed() < SOON);
    assert_eq!(killed.len(), 1);
    assert_eq!(killed[0].1.as_ref().unwrap(), gentle.await.unwrap().as_ref().unwrap());
    assert!(!lives(process.pid()));
}

#[tokio::test]
async fn a_stop_that_is_given_up_can_be_taken_up_again() {
    let scene = Scene::new("resume");
    let process = scene.run("a-1", STUBBORN).await;
    scene.lines("a-1", 1).await;
    let stop = process.stop(Duration::from_secs(600));
    assert!(tokio::time::timeout(Duration::from_millis(100), stop).await.is_err());
    assert!(lives(process.pid()) && scene.supervisor.get(process.id()).is_some());
    assert_eq!(process.kill().await.unwrap().status, ExitStatus::Signal(9));
}

#[tokio::test]
async fn several_stop_at_the_same_time() {
    let scene = Scene::new("several");
    let grace = Duration::from_secs(2);
    let mut pids = Vec::new();
    for slot in 0..6 {
        let id = format!("a-{slot}");
        pids.push(scene.run(&id, STUBBORN).await.pid());
        scene.lines(&id, 1).await;
    }
    let begun = Instant::now();
    let stopped = scene.supervisor.stop_all(grace).await;
    assert!(begun.elapsed() >= grace && begun.elapsed() < grace * 5, "{:?}", begun.elapsed());
    assert_eq!(stopped.len(), 6);
    assert!(stopped.iter().all(|(_, stopped)| stopped.as_ref().unwrap().status == ExitStatus::Signal(9)));
    assert!(pids.into_iter().all(|pid| !lives(pid)));
}

#[tokio::test]
async fn one_instance_is_stopped_and_its_neighbour_is_not() {
    let scene = Scene::new("neighbour");
    let one = scene.run("a-1", "sleep 60").await;
    let two = scene.run("a-10", "sleep 60").await;
    one.kill().await.unwrap();
    assert!(!lives(one.pid()) && lives(two.pid()) && two.try_wait().is_none());
    two.kill().await.unwrap();
}

#[tokio::test]
async fn a_small_fork_storm_is_ended() {
    let scene = Scene::new("storm");
    // Each child leaves one behind and ends, for ever, and each leaves the session.
    let script = "cat > storm.sh <<'E'\nsetsid sh ./storm.sh & sleep 0.01\nE\n\
                  for i in 1 2 3; do sh ./storm.sh & done; echo $$; sleep 60";
    let process = scene.run("a-1", script).await;
    scene.lines("a-1", 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let stopped = process.stop(Duration::from_millis(50)).await.unwrap();
    assert!(stopped.took < SOON, "{stopped:?}");
    let mark = format!("FORMIC_RUN_DIR={}", scene.run_dir().display());
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    });
    assert_eq!(left.count(), 0, "{stopped:?}");
}

#[tokio::test]
async fn an_orphan_that_has_left_all_but_its_log_ends_with_its_instance() {
    let test = "stop::an_orphan_that_has_left_all_but_its_log_ends_with_its_instance";
    // Before the supervisor looks where orphans go.
    subreaper::enable().unwrap();
    if !std::path::Path::new("/proc/thread-self/children").exists() {
        println!("formic-test-skipped: {test}: the kernel lists no children here");
        return;
    }
    let scene = Scene::new("log-kin");
    // Forked twice, with a session of its own and no environment; and the same of one that has closed its log.
    let script = "(setsid env -i /bin/sh -c 'echo $$; exec /bin/sleep 611' &); \
                  (setsid env -i /bin/sh -c 'echo $$; exec /bin/sleep 612 >/dev/null 2>&1' &); exec sleep 600";
    let process = scene.run("a-1", script).await;
    let other = scene.run("a-2", script).await;
    let (pids, others) = (scene.pids("a-1", 2).await, scene.pids("a-2", 2).await);
    let sleeps = |pid: u32, seconds: &str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"/bin/sleep") && String::from_utf8_lossy(&line).contains(seconds)
    };
    let find = |pids: &[u32], seconds: &str| pids.iter().copied().find(|pid| sleeps(*pid, seconds));
    wait_for("all of them", || {
        [&pids, &others].iter().all(|pids| find(pids, "611").is_some() && find(pids, "612").is_some())
    })
    .await;
    let is_orphan = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{}", std::process::id()))
    };
    // Until then they are somebody's descendants.
    wait_for("whoever has started them to be gone", || pids.iter().chain(&others).all(is_orphan)).await;
    let (kept, closed) = (find(&pids, "611").unwrap(), find(&pids, "612").unwrap());
    let stopped = process.stop(Duration::from_millis(200)).await.unwrap();
    let found = [lives(kept), lives(closed), others.iter().all(|pid| lives(*pid))];
    other.kill().await.unwrap();
    // Whatever was found: nothing else ends them.
    for pid in pids.iter().chain(&others).filter(|pid| lives(**pid)) {
        signal(*pid, libc::SIGKILL);
    }
    assert_eq!(
        found,
        [false, true, true],
        "its own, one that nothing says anything of, another's: {stopped:?}"
    );
}

#[tokio::test]
async fn orphans_are_reaped_and_the_children_of_others_are_not() {
    let scene = Scene::new("orphans");
    subreaper::enable().unwrap();
    let cancel = CancellationToken::new();
    let reaper = tokio::spawn({
        let (supervisor, cancel) = (scene.supervisor.clone(), cancel.clone());
        async move { supervisor.reap_orphans(cancel).await }
    });
    // Orphans in sessions of their own that end while the instance lives on.
    let script = "for i in 1 2 3 4 5 6; do (setsid sh -c 'echo $$; exec sleep 0.1' &); done; sleep 60";
    let process = scene.run("a-1", script).await;
    for _ in 0..20 {
        let status = tokio::process::Command::new("/bin/sh").args(["-c", "exit 5"]).status().await.unwrap();
        assert_eq!(status.code(), Some(5), "a child of tokio's was taken from it");
    }
    let orphans = scene.pids("a-1", 6).await;
    wait_for("orphans to be reaped", || {
        orphans.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    })
    .await;
    assert!(zombies().iter().all(|pid| !orphans.contains(pid)));
    // The main process is no orphan: its status is kept for those who ask.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(process.pid().cast_signed()).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(process.wait().await, ExitStatus::Signal(15));
    process.kill().await.unwrap();
    cancel.cancel();
    reaper.await.unwrap().unwrap();
}
