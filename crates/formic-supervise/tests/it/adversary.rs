//! What programs do to their supervisor, and machines to both: each ends as it should, and leaves nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use formic_supervise::{ExitStatus, Fate, Features, LogLimits, Trimmed, trim_log};
use tokio_util::sync::CancellationToken;

use crate::scene::{SOON, Scene, features, lives, signal, wait_for};
use crate::sweep::write;

#[tokio::test]
async fn a_log_flood_fills_no_disk_and_holds_nobody_up() {
    let scene = Scene::new("flood");
    let limits = LogLimits { keep: 1 << 20, every: Duration::from_millis(20), ..LogLimits::default() };
    let cancel = CancellationToken::new();
    let tending = tokio::spawn({
        let (supervisor, cancel) = (scene.supervisor.clone(), cancel.clone());
        async move { supervisor.tend_logs("/none", limits, cancel).await }
    });
    // At most 20 MiB at once, which may all come between two looks.
    let process =
        scene.run("a-1", "for i in 1 2 3; do head -c 20000000 /dev/zero; done; echo; echo end").await;
    assert_eq!(process.wait().await, ExitStatus::Code(0));
    let log = process.stdout();
    let about = || fs::metadata(&log).unwrap();
    assert_eq!(about().len(), 60_000_000 + 5, "not a byte is lost to the program");
    if trim_log(&log, limits.keep).unwrap() == Trimmed::Unsupported {
        println!(
            "formic-test-skipped: adversary::a_log_flood_fills_no_disk_and_holds_nobody_up: no holes in files here"
        );
    } else {
        wait_for("the front to be freed", || about().blocks() * 512 < 2 << 20).await;
        assert!(fs::read(&log).unwrap().ends_with(b"\nend\n"));
    }
    cancel.cancel();
    tending.await.unwrap();
    process.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_jumps_moves_no_deadline() {
    let scene = Scene::new("clock");
    let process = scene.run("a-1", "trap '' TERM; echo up; while :; do sleep 0.05; done").await;
    scene.lines("a-1", 1).await;
    scene.begin_to_stop(&process, Duration::from_secs(600)).await;
    // The clock was set far ahead since: by it, the deadline is long over.
    let file = scene.run_dir().join("a-1.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["state"]["stopping"]["deadline_ms"] = 1.into();
    fs::write(&file, record.to_string()).unwrap();
    let heir = scene.heir(features());
    let found = heir.adopt(Duration::from_secs(1)).await.unwrap();
    let Fate::Stopping { left, .. } = &found[0].fate else { panic!("{found:?}") };
    assert!(*left > Duration::from_secs(300) && *left <= Duration::from_secs(600), "{left:?}");
    process.kill().await.unwrap();
}

/// Says to the test below that it runs where it has made numbers few.
const FEW: &str = "FORMIC_TEST_FEW_NUMBERS";

/// The instance ends while nobody looks, and its number becomes a stranger's: with 400 numbers in all, soon.
#[tokio::test]
async fn a_number_that_was_used_again_is_a_stranger() {
    let test = "adversary::a_number_that_was_used_again_is_a_stranger";
    if std::env::var_os(FEW).is_some() {
        return where_numbers_are_few().await;
    }
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", script, "sh"]).arg(std::env::current_exe().unwrap());
        command.stdin(Stdio::null());
        command
    };
    // Only where it holds for the new namespace alone (Linux 6.14): never for the whole machine.
    let before = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let own = Features::detect().unwrap().pidfs_handle
        && unshare("echo 400 > /proc/sys/kernel/pid_max")
            .output()
            .is_ok_and(|output| output.status.success());
    assert_eq!(fs::read_to_string("/proc/sys/kernel/pid_max").unwrap(), before);
    if !own {
        println!("formic-test-skipped: {test}: no pid namespace with a limit of its own can be made here");
        return;
    }
    let script = "echo 400 > /proc/sys/kernel/pid_max && exec \"$@\"";
    let output = unshare(script).args(["--exact", test, "--nocapture"]).env(FEW, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

async fn where_numbers_are_few() {
    // The first 300 numbers are given out once.
    while Command::new("/bin/true").spawn().is_ok_and(|mut child| child.wait().is_ok() && child.id() < 320) {}
    for mask in [&[][..], &["pidfs-handle"], &["pidfs"]] {
        let scene = Scene::new("few");
        // Without children: nobody reaps them here, and a process in the session keeps its number taken.
        let process = scene.supervisor.spawn(scene.launch("a-1", "sleep", &["60"])).await.unwrap();
        let record = process.record();
        process.kill().await.unwrap();
        // Numbers go round: one after the other is taken until it is that one's turn again.
        let mut stranger = None;
        for _ in 0..2000 {
            let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
            if child.id() == process.pid() {
                stranger = Some(child);
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let mut stranger = stranger.expect("the number came round");
        write(&scene, "a-1", record.identity.clone(), |_| {});
        let heir = scene.heir(features().masked(mask.iter().copied()));
        let found = heir.adopt(Duration::from_millis(100)).await.unwrap();
        let Fate::Ended(process) = &found[0].fate else { panic!("{mask:?} {found:?}") };
        process.kill().await.unwrap();
        assert!(stranger.try_wait().unwrap().is_none(), "{mask:?}: a stranger was signalled");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

/// Says to the test below that its temporary directory is a small disk of its own.
const SMALL: &str = "FORMIC_TEST_SMALL_DISK";

#[tokio::test]
async fn a_full_disk_starts_nothing_and_stops_everything() {
    let test = "adversary::a_full_disk_starts_nothing_and_stops_everything";
    if std::env::var_os(SMALL).is_some() {
        return where_the_disk_is_full().await;
    }
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(std::env::current_exe().unwrap()).stdin(Stdio::null());
        command
    };
    const MOUNT: &str = "mount -t tmpfs -o size=256k small \"$TMPDIR\"";
    let dir = std::env::temp_dir().join(format!("formic-small-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    if unshare(MOUNT).env("TMPDIR", &dir).output().is_ok_and(|output| output.status.success()) {
        let mut run = unshare(&format!("{MOUNT} && exec \"$@\""));
        run.args(["--exact", test, "--nocapture"]).env("TMPDIR", &dir).env(SMALL, "1");
        let output = run.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("1 passed"), "{said}");
    } else {
        println!("formic-test-skipped: {test}: no disk of its own can be mounted here");
    }
    fs::remove_dir(dir).unwrap();
}

async fn where_the_disk_is_full() {
    let scene = Scene::new("full");
    let process = scene.run("a-1", "trap '' TERM; echo up; while :; do sleep 0.05; done").await;
    scene.lines("a-1", 1).await;
    let filler = scene.dir.join("filler");
    let full = fs::write(&filler, vec![1; 1 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let error = scene.supervisor.spawn(scene.script("a-2", "echo ran > ran")).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("the disk is full"), "{error}");
    assert!(!scene.dir.join("ran").exists() && scene.supervisor.processes().len() == 1);
    // Its deadline cannot be written down, and it is stopped all the same; the next engine finds its record.
    let heir = scene.heir(features());
    let found = heir.adopt(Duration::ZERO).await.unwrap();
    assert!(matches!(&found[..], [one] if matches!(one.fate, Fate::Running(_))), "{found:?}");
    let stopped = process.stop(Duration::from_millis(100)).await.unwrap();
    assert!(stopped.killed.contains(&process.pid()), "{stopped:?}");
    assert_eq!(scene.records(), Vec::<String>::new());
    // With room again, the same is started.
    fs::remove_file(filler).unwrap();
    let process = scene.supervisor.spawn(scene.script("a-2", "true")).await.unwrap();
    process.wait().await;
    process.kill().await.unwrap();
}

#[tokio::test]
async fn a_child_that_outlives_its_leader_and_ignores_term_is_gone_after_an_adoption_too() {
    let scene = Scene::new("outlives");
    let script = "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.05; done' & sleep 0.2; exec sleep 60";
    let process = scene.run("a-1", script).await;
    let child = scene.pids("a-1", 1).await[0];
    let heir = scene.heir(features());
    let found = heir.adopt(Duration::from_secs(1)).await.unwrap();
    let Fate::Running(adopted) = &found[0].fate else { panic!("{found:?}") };
    signal(process.pid(), libc::SIGKILL);
    wait_for("its end", || !lives(process.pid())).await;
    // Still ours to reap, so the heir, who is the same process here, learns how it ended.
    assert_eq!(adopted.wait().await, ExitStatus::Signal(9));
    let stopped = adopted.stop(Duration::from_millis(100)).await.unwrap();
    assert!(stopped.killed.contains(&child) && stopped.took < SOON && !lives(child), "{stopped:?}");
}
