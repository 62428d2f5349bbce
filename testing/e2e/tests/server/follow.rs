//! What is followed goes on when the brain under it dies: every line once, and no command ends.

use std::collections::BTreeSet;
use std::io::{PipeReader, PipeWriter, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use formic_e2e::{Following, Managed, Manifest, Signal, alive, formic_in, signal, wait_for, wait_until};
use rustix::fs::OFlags;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// A program that counts aloud, on both of its outputs, and one that is there to be called.
const COUNTING: &str = r#"
[app]
name = "followed"
[service.counter]
command = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo out $i; echo err $i >&2; sleep 0.02; done"]
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
"#;

fn follow(managed: &Managed, args: &[&str]) -> Following {
    Following::start(formic_in(&managed.folder(), args))
}

/// Kills the brain three times, each once `more` says that something came since.
fn kill_brains(managed: &Managed, mut more: impl FnMut()) {
    for _ in 0..3 {
        more();
        managed.kill(managed.brain());
        let _ = managed.status();
    }
    more();
}

#[test]
fn a_followed_log_has_every_line_once() {
    let managed = Managed::running(&Manifest::of(COUNTING), &[]);
    let mut logs = follow(&managed, &["logs", "counter", "-f", "-n", "3", "--json"]);
    let mut had = 0;
    kill_brains(&managed, || {
        wait_until("more lines", SOON, || logs.lines().len() >= had + 40);
        had = logs.lines().len();
    });
    assert!(logs.goes_on(), "{}", logs.said());
    for stream in ["out", "err"] {
        let of = |line: &Value| -> Option<u64> {
            (line["stream"] == stream).then(|| line["line"].as_str()?.split(' ').nth(1)?.parse().ok())?
        };
        let numbers: Vec<u64> = logs.lines().iter().filter_map(of).collect();
        assert!(numbers.len() > 40, "{stream}: {numbers:?}");
        let expected: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
        assert_eq!(numbers, expected, "{stream}: each one once");
    }
}

#[test]
fn followed_events_are_told_once() {
    let managed = Managed::running(&Manifest::of(COUNTING), &[]);
    let mut events = follow(&managed, &["events", "-f", "-n", "1", "--json"]);
    wait_until("the first one", SOON, || !events.lines().is_empty());
    kill_brains(&managed, || {
        let before = events.lines().len();
        managed.formic(&["restart", "counter"]).says(0, &[]);
        wait_until("news of it", SOON, || events.lines().len() > before);
    });
    let adopted =
        |events: &Following| events.lines().iter().filter(|event| event["kind"] == "adopted").count();
    wait_until("the third brain", SOON, || adopted(&events) >= 3);
    assert!(events.goes_on(), "{}", events.said());
    let numbers: Vec<u64> = events.lines().iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "each one once");
    assert_eq!(adopted(&events), 3, "{}", events.said());
}

/// The keeper passes it on, and the brain that ends for it is followed by another.
#[test]
fn what_is_followed_goes_on_over_a_reload() {
    goes_on_over(|managed| assert!(signal(managed.keeper(), Signal::HUP)));
}

/// Nobody told the keeper to end, so there is a next brain.
#[test]
fn what_is_followed_goes_on_when_the_brain_alone_is_told_to_end() {
    goes_on_over(|managed| assert!(signal(managed.brain(), Signal::TERM)));
}

fn goes_on_over(end: impl Fn(&Managed)) {
    let managed = Managed::running(&Manifest::of(COUNTING), &[]);
    let mut logs = follow(&managed, &["logs", "counter", "-f", "-n", "3", "--json"]);
    let mut events = follow(&managed, &["events", "-f", "-n", "1", "--json"]);
    let mut traffic = follow(&managed, &["traffic", "counter", "--watch", "--json"]);
    wait_until("something of all", SOON, || {
        !logs.lines().is_empty() && !events.lines().is_empty() && !traffic.lines().is_empty()
    });
    let brain = managed.brain();
    end(&managed);
    wait_until("the next brain", SOON, || managed.brain() != brain);
    let had = (logs.lines().len(), traffic.lines().len());
    wait_until("more lines", SOON, || {
        // One that ended says why.
        assert!(
            logs.goes_on() && events.goes_on() && traffic.goes_on(),
            "{}\n{}\n{}",
            logs.said(),
            events.said(),
            traffic.said()
        );
        logs.lines().len() >= had.0 + 40 && traffic.lines().len() > had.1
    });
    wait_until("news of the next brain", SOON, || {
        events.lines().iter().any(|event| event["kind"] == "adopted")
    });
    assert!(logs.goes_on() && events.goes_on(), "{}\n{}", logs.said(), events.said());
    let of_out = |line: &Value| -> Option<u64> {
        (line["stream"] == "out").then(|| line["line"].as_str()?.split(' ').nth(1)?.parse().ok())?
    };
    let numbers: Vec<u64> = logs.lines().iter().filter_map(of_out).collect();
    let expected: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "each one once");
}

/// There is no next brain to wait for.
#[test]
fn what_is_followed_ends_with_a_word_when_the_server_is_stopped() {
    let managed = Managed::running(&Manifest::of(COUNTING), &[]);
    let stop = |managed: &Managed| managed.formic(&["server", "stop"]).says(0, &["1 instance goes on"]);
    // As a service manager does, which starts no other before the end of this one.
    let end = |managed: &Managed| {
        let keeper = managed.keeper();
        assert!(signal(keeper, Signal::TERM));
        wait_until("the keeper to end", SOON, || !alive(keeper));
    };
    for stop in [&stop as &dyn Fn(&Managed), &end] {
        let commands: [&[&str]; 3] =
            [&["logs", "-f", "-n", "1"], &["events", "-f", "-n", "1"], &["traffic", "counter", "--watch"]];
        let mut following: Vec<_> = commands.into_iter().map(|args| follow(&managed, args)).collect();
        let test = "follow::what_is_followed_ends_with_a_word_when_the_server_is_stopped";
        following.extend(top(&managed, test));
        wait_until("something of all", SOON, || following.iter().all(|each| each.shown().contains(&b' ')));
        stop(&managed);
        for each in &mut following {
            let ended = each.wait_end(SOON);
            assert!(ended.success() && each.said().contains("was stopped"), "{ended}: {}", each.said());
        }
        managed.serve();
    }
}

/// A pipe that is full: whoever writes to it is held up until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let again = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut options = std::fs::OpenOptions::new();
    // Of this one way in alone: the command's own is to wait.
    options.write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let mut filling = options.open(again).unwrap();
    while filling.write(&[b'\n'; 4096]).is_ok() {}
    (reader, writer)
}

/// Whether a thread of a process waits for room in a pipe.
fn is_held_up(pid: u32) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // One that ends meanwhile waits for nothing.
    let waits = |path: PathBuf| std::fs::read_to_string(path.join("wchan")).unwrap_or_default();
    threads.any(|thread| waits(thread.path()).contains("pipe_write"))
}

/// Held up in the middle of its first picture, it is told of the stop all the same.
#[test]
fn who_is_shown_a_picture_is_told_of_a_stop_that_follows_it() {
    if !Path::new("/proc/self/wchan").exists() {
        let test = "follow::who_is_shown_a_picture_is_told_of_a_stop_that_follows_it";
        println!("formic-test-skipped: {test}: this kernel does not say what a thread waits for");
        return;
    }
    let managed = Managed::running(&Manifest::of(COUNTING), &[]);
    let (mut reader, writer) = full_pipe();
    let watch = formic_in(&managed.folder(), &["traffic", "counter", "--watch", "--json"]);
    let mut traffic = Following::writing_to(watch, writer);
    wait_until("the picture to be begun", SOON, || {
        assert!(traffic.goes_on(), "{}", traffic.said());
        is_held_up(traffic.pid())
    });
    managed.formic(&["server", "stop"]).says(0, &["1 instance goes on"]);
    let read = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let ended = traffic.wait_end(SOON);
    assert!(ended.success() && traffic.told().contains("was stopped"), "{ended}: {}", traffic.told());
    drop(traffic);
    read.join().unwrap().unwrap();
}

/// The sockets of a process.
fn sockets(pid: u32) -> BTreeSet<PathBuf> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).collect()
}

/// Nobody goes on with what is waited for.
#[test]
fn who_waits_for_a_change_is_told_that_the_server_was_stopped() {
    let managed = Managed::running(&Manifest::of(COUNTING), &[]);
    let never = "ready = \"exec\", command = [\"false\"]";
    managed.write(&Manifest::of(&COUNTING.replace("ready = \"none\"", never)));
    let mut apply = follow(&managed, &["apply", "--wait"]);
    wait_until("the change to be made", SOON, || apply.said().contains("index 2"));
    // A brain that dies is no reason to leave off: it asks the next one.
    let (brain, connected) = (managed.brain(), sockets(apply.pid()));
    managed.kill(brain);
    wait_until("the next brain", SOON, || managed.brain() != brain);
    wait_until("the connection to that", SOON, || {
        let now = sockets(apply.pid());
        now.len() >= connected.len() && now != connected
    });
    assert!(apply.goes_on(), "{}", apply.said());
    managed.formic(&["server", "stop"]).says(0, &["without it"]);
    let ended = apply.wait_end(SOON);
    assert_eq!(ended.code(), Some(3), "{}", apply.said());
    assert!(apply.said().contains("was stopped before all of it was done"), "{}", apply.said());
}

#[test]
fn traffic_is_watched_on() {
    let managed = Managed::running(&Manifest::of(COUNTING), &[]);
    let mut traffic = follow(&managed, &["traffic", "counter", "--watch", "--json"]);
    let mut had = 0;
    kill_brains(&managed, || {
        wait_until("another picture", SOON, || traffic.lines().len() > had);
        had = traffic.lines().len();
    });
    assert!(traffic.goes_on(), "{}", traffic.said());
}

#[test]
fn top_stays_on_its_terminal() {
    let managed = Managed::running(&Manifest::of(COUNTING), &[]);
    let Some(mut top) = top(&managed, "follow::top_stays_on_its_terminal") else { return };
    let mut had = 0;
    kill_brains(&managed, || {
        wait_for("the picture drawn anew, with the service", SOON, || {
            let shown = top.shown();
            String::from_utf8_lossy(&shown[had..]).contains("counter").then(|| had = shown.len())
        });
    });
    assert!(top.goes_on(), "{}", top.said());
}

/// `formic top` on a terminal of its own, if there is a program to make one.
fn top(managed: &Managed, test: &str) -> Option<Following> {
    let program = formic_in(&managed.folder(), &["top"]).into_command();
    let mut command = Command::new("script");
    command.args(["-qfec", &format!("{} top", program.get_program().display()), "/dev/null"]);
    command.current_dir(managed.folder()).env("TERM", "xterm");
    for (name, value) in program.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    if Command::new("script").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("formic-test-skipped: {test}: there is no `script` to make a terminal");
        return None;
    }
    Some(Following::command(command))
}
