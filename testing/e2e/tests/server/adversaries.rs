//! Programs and machines that behave badly, under a server: each ends as it should, and nothing is left of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use formic_e2e::{
    Folder, Managed, Manifest, Signal, Tool, alive, of_application, signal, wait_for, wait_until,
};

const SOON: Duration = Duration::from_secs(60);
/// Set where a test runs once more, in a place made for it.
const INNER: &str = "FORMIC_E2E_INNER";

/// A daemon that leaves its session, its parent and its environment; one that does not hear SIGTERM; one whose child
/// outlives it; one that writes without end.
const BAD: &str = r#"
[app]
name = "bad"
[service.daemon]
command = ["sh", "-c", "(setsid sh -c 'sleep 611 & sleep 612' &) ; exec sleep 613"]
health = { ready = "none" }
[service.deaf]
command = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
health = { ready = "none" }
stop = { grace = "300ms" }
[service.orphans]
command = ["sh", "-c", "sleep 614 & echo $! >> left; sleep 0.3; exit 3"]
health = { ready = "none" }
[service.flood]
command = ["sh", "-c", "yes 'a line that is written again and again' | head -c 300000000; exec sleep 615"]
health = { ready = "none" }
"#;

#[test]
fn bad_programs_are_managed_and_ended_whole() {
    let managed = Managed::new(&Manifest::of(BAD), &[]);
    managed.formic(&["apply"]).says(0, &[]);
    let folder = managed.folder();
    let service = |name: &str| {
        let status = managed.status();
        status["services"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone()
    };
    // Two ends are enough to have left children behind, and each of them was ended before the next start.
    wait_until("the one with children to be restarted", SOON, || {
        service("orphans")["restarts"].as_u64().unwrap() >= 2
    });
    let left = || -> Vec<u32> {
        let text = std::fs::read_to_string(folder.join("left")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    wait_until("what ends had left behind to be gone", SOON, || {
        left().iter().rev().skip(1).all(|pid| !alive(*pid)) && left().len() >= 2
    });
    // A flood holds up nobody, and what is old of it gives its room on the disk back.
    assert_eq!(service("flood")["state"], "ready");
    let log = || -> Option<PathBuf> {
        let mut logs = std::fs::read_dir(folder.join(".formic/logs/flood")).ok()?.flatten();
        logs.find(|log| log.file_name().to_str().is_some_and(|name| name.ends_with(".out.log")))
            .map(|log| log.path())
    };
    wait_until("the old of the flood to be given back", SOON, || {
        use std::os::unix::fs::MetadataExt as _;
        let log = log().and_then(|log| std::fs::metadata(log).ok());
        log.is_some_and(|log| log.len() >= 300_000_000 && log.blocks() * 512 <= 96 << 20)
    });
    // A brain that dies knows all of them again.
    let daemon =
        wait_for("the daemon", SOON, || managed.pids().into_iter().find(|(id, _)| id.starts_with("daemon")));
    managed.kill(managed.brain());
    assert_eq!(managed.pids().get(&daemon.0), Some(&daemon.1));
    managed.formic(&["stop"]).says(0, &[]);
    let brain = managed.brain();
    let rest = || of_application(&folder).into_iter().filter(|pid| *pid != brain).collect::<Vec<_>>();
    assert_eq!(rest(), Vec::<u32>::new(), "left of what was stopped");
    assert!(left().iter().all(|pid| !alive(*pid)));
    managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
}

/// Runs a test of this program once more, as `script` has it; `None`, said, where the machine does not allow that.
fn inside(test: &str, apart: &[&str], script: &str, folder: &Path) -> Option<()> {
    let tried = Command::new("unshare").args(apart).arg("true").stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        println!("formic-test-skipped: {test}: no namespace can be made here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(apart).args(["sh", "-c", script, "sh"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(INNER, folder);
    let ended = Tool::from(command).limit(Duration::from_secs(600)).run();
    assert!(
        ended.code == Some(0) && ended.stdout.contains("1 passed"),
        "{test}: {:?}\n{}\n{}",
        ended.code,
        ended.stdout,
        ended.stderr
    );
    Some(())
}

#[test]
fn a_full_disk_is_told_and_harms_nothing_that_runs() {
    let Some(disk) = std::env::var_os(INNER).map(PathBuf::from) else {
        let folder = Folder::new("disk");
        let script =
            r#"mount -t tmpfs -o size=48m none "$FORMIC_E2E_INNER" && TMPDIR="$FORMIC_E2E_INNER" "$@""#;
        let test = "adversaries::a_full_disk_is_told_and_harms_nothing_that_runs";
        inside(test, &["--mount"], script, folder.path());
        return;
    };
    let manifest = |replicas: u32| {
        let text = format!(
            "[app]\nname = \"full\"\n[service.idle]\ncommand = [\"sleep\", \"600\"]\nreplicas = {replicas}\nhealth = {{ ready = \"none\" }}\nupdate = {{ min_ready = \"0s\" }}\n"
        );
        Manifest::of(&text)
    };
    let managed = Managed::running(&manifest(2), &[]);
    let pids = managed.pids();
    managed.write(&manifest(40));
    // Not a byte is left.
    let filler = disk.join("filler");
    let _ = std::fs::write(&filler, vec![1_u8; 64 << 20]);
    let ended = managed.formic(&["apply", "--wait", "--timeout", "30s"]);
    assert_ne!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let told = format!("{}{}", ended.stdout, ended.stderr).to_lowercase();
    assert!(told.contains("no space") || told.contains("full") || told.contains("written"), "{told}");
    // What would be forgotten is told as that, and when it is asked for again, too.
    for args in
        [&["restart", "idle"][..], &["pause", "idle"], &["pause", "idle"], &["resume", "idle"], &["apply"]]
    {
        managed.formic(args).says(1, &["could not be written down"]);
    }
    let now = managed.pids();
    assert!(pids.iter().all(|(id, pid)| now.get(id) == Some(pid) && alive(*pid)), "{pids:?} {now:?}");
    // Whoever is killed then is followed by one that takes over what runs: nobody else could make room.
    let _ = std::fs::write(disk.join("more"), vec![1_u8; 8 << 20]);
    let brain = managed.brain();
    managed.kill(brain);
    let followed = managed.status();
    assert_ne!(followed["pid"], brain);
    assert!(pids.iter().all(|(id, pid)| managed.pids().get(id) == Some(pid)), "{followed:#}");
    let (keeper, brain) = (managed.keeper(), managed.brain());
    managed.kill(keeper);
    wait_until("the brain to end with its keeper", SOON, || !alive(brain));
    managed.serve();
    assert!(pids.iter().all(|(id, pid)| managed.pids().get(id) == Some(pid)), "{:#}", managed.status());
    // With room again, the same command does it.
    std::fs::remove_file(&filler).unwrap();
    wait_until("the same command to do it", SOON, || managed.formic(&["apply", "--wait"]).code == Some(0));
    let now = wait_for("forty of them", SOON, || Some(managed.pids()).filter(|now| now.len() == 40));
    assert!(pids.iter().all(|(id, pid)| now.get(id) == Some(pid)), "{pids:?} {now:?}");
    // What stops is stopped, and that a crash would start it again is told.
    managed.write(&manifest(80));
    let _ = std::fs::write(&filler, vec![1_u8; 64 << 20]);
    assert_ne!(managed.formic(&["apply"]).code, Some(0));
    let down = managed.formic(&["down", "--now"]);
    assert!(now.values().all(|pid| !alive(*pid)), "{now:?}");
    managed.kill(managed.brain());
    if managed.status()["services"].as_array().unwrap().is_empty() {
        // What is written over in place may leave just enough room.
        assert!(matches!(down.code, Some(0 | 1)), "{down:?}");
    } else {
        down.says(1, &["could not be written down"]);
    }
    std::fs::remove_file(&filler).unwrap();
    managed.formic(&["stop", "--now"]).says(0, &[]);
    managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
    assert_eq!(of_application(&managed.folder()), Vec::<u32>::new());
}

/// Writes most of a small disk full, ends, and leaves its log.
const OVER: &str = r#"
[app]
name = "over"
[service.flood]
command = ["head", "-c", "40000000", "/dev/zero"]
job = {}
[service.idle]
command = ["sleep", "600"]
health = { ready = "none" }
update = { min_ready = "0s" }
"#;

#[test]
fn the_log_of_what_has_ended_gives_its_room_back_on_a_full_disk() {
    if std::env::var_os(INNER).is_none() {
        let folder = Folder::new("over");
        let script =
            r#"mount -t tmpfs -o size=48m none "$FORMIC_E2E_INNER" && TMPDIR="$FORMIC_E2E_INNER" "$@""#;
        let test = "adversaries::the_log_of_what_has_ended_gives_its_room_back_on_a_full_disk";
        inside(test, &["--mount"], script, folder.path());
        return;
    }
    let managed = Managed::new(&Manifest::of(OVER), &[]);
    managed.formic(&["apply"]).says(0, &[]);
    let flood = || {
        use std::os::unix::fs::MetadataExt as _;
        let logs = std::fs::read_dir(managed.folder().join(".formic/logs/flood")).ok()?;
        logs.flatten()
            .map(|log| log.metadata().unwrap())
            .find(|log| log.len() == 40_000_000)
            .map(|log| log.blocks() * 512)
    };
    wait_until("the log of what has ended to give its room back", SOON, || {
        flood().is_some_and(|held| held <= 4 << 20)
    });
    // So something can be started again.
    let before = managed.pids();
    managed.formic(&["restart", "idle", "--wait", "--timeout", "60s"]).says(0, &[]);
    assert_ne!(managed.pids(), before);
    managed.formic(&["stop", "--now"]).says(0, &[]);
    managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
}

/// From this version on each process namespace has a greatest number of its own.
const OWN_PID_MAX: (u32, u32) = (6, 14);

fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
fn a_number_that_means_another_process_now_is_left_alone() {
    let test = "adversaries::a_number_that_means_another_process_now_is_left_alone";
    if std::env::var_os(INNER).is_none() {
        if kernel() < OWN_PID_MAX {
            println!("formic-test-skipped: {test}: the greatest process number is the whole machine's here");
            return;
        }
        let folder = Folder::new("numbers");
        // The shell waits, and so reaps what comes to it.
        let script = r#"echo 700 > /proc/sys/kernel/pid_max || exit 9; "$@" & wait $!"#;
        inside(test, &["--pid", "--fork", "--kill-child", "--mount-proc"], script, folder.path());
        return;
    }
    // The numbers below 300 are given away once only.
    while {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id() < 320
    } {}
    for off in ["", "pidfs,pidfs-handle,exit-info"] {
        let managed = Managed::running(&Manifest::sleeper(), &[("FORMIC_FEATURES_OFF", off)]);
        let (id, pid) = managed.pids().into_iter().next().unwrap();
        let (keeper, brain) = (managed.keeper(), managed.brain());
        managed.kill(keeper);
        wait_until("the brain to end with its keeper", SOON, || !alive(brain));
        signal(pid, Signal::KILL);
        wait_until("the number to be free", SOON, || !Path::new(&format!("/proc/{pid}")).exists());
        // Strangers are born until one has the number.
        let begun = Instant::now();
        let mut stranger = loop {
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            if child.id() == pid {
                break child;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(begun.elapsed() < SOON, "no stranger got the number {pid}");
        };
        managed.serve();
        let now = wait_for("another instance", SOON, || {
            managed.pids().into_iter().find(|(other, number)| *other != id && *number != 0)
        });
        assert_ne!(now.1, pid);
        managed.formic(&["stop", "--now"]).says(0, &[]);
        managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger was signalled (without {off:?})");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(of_application(&managed.folder()), Vec::<u32>::new());
    }
}
