//! In a container, and for whatever the first process starts, the session began where it cannot be seen.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.stdin(Stdio::null());
    command
}

/// What depends on sessions, once more where the session of this process reads as 0.
#[test]
#[expect(clippy::print_stdout, reason = "the gate reads there what was skipped")]
fn the_same_where_the_session_cannot_be_seen() {
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        println!(
            "formic-test-skipped: the_same_where_the_session_cannot_be_seen: `unshare --user --pid` is refused here"
        );
        return;
    }
    // The first process there is the test itself, which reaps nobody's children but its own.
    let tests = [
        "adopt::how_an_adopted_process_ends_is_told",
        "adopt::what_a_killed_engine_left_is_taken_over_and_ends_as_a_whole",
        "adopt::what_ended_without_an_engine_is_told_until_it_is_stopped",
        "keeper::brains_are_killed_in_a_loop_and_the_instance_stays",
        "keeper::how_an_instance_ended_without_a_brain_is_told_by_the_journal",
        "stop::orphans_are_reaped_and_the_children_of_others_are_not",
        "sweep::what_a_killed_engine_left_is_ended_once",
        "sweep::a_damaged_record_is_set_aside_and_its_processes_are_known_by_their_mark",
        "sweep::an_intent_ends_what_carries_its_mark_and_a_newer_format_is_left",
    ];
    let output = unshare().arg(std::env::current_exe().unwrap()).arg("--exact").args(tests).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&format!("{} passed", tests.len())), "{said}");
}

/// What depends on where orphans go, once more in a container that was entered from outside (`docker exec`): the engine has no
/// parent there, and its orphans come to a process that is not above it.
#[test]
#[expect(clippy::print_stdout, reason = "the gate reads there what was skipped")]
fn the_same_where_the_engine_was_started_from_outside() {
    let test = "the_same_where_the_engine_was_started_from_outside";
    // It waits for its children, and so for what comes to it.
    let first =
        unshare().args(["sh", "-c", "echo up; while :; do sleep 0.1; done"]).stdout(Stdio::piped()).spawn();
    let Ok(mut first) = first else {
        println!("formic-test-skipped: {test}: there is no `unshare`");
        return;
    };
    let mut line = String::new();
    let _ = BufReader::new(first.stdout.take().unwrap()).read_line(&mut line);
    let children = format!("/proc/{0}/task/{0}/children", first.id());
    let inner = std::fs::read_to_string(children).unwrap_or_default();
    let inside = |program: &std::ffi::OsStr, args: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--target", inner.trim(), "--user", "--mount", "--pid", "--preserve-credentials"]);
        command.arg(program).args(args).stdin(Stdio::null()).output()
    };
    let entered = line == "up\n" && inside("true".as_ref(), &[]).is_ok_and(|ended| ended.status.success());
    let tests = [
        "keeper::what_a_killed_keeper_had_taken_in_is_found_by_its_log",
        "sweep::what_a_killed_engine_had_taken_in_is_ended_by_its_log",
    ];
    let output = entered.then(|| {
        inside(std::env::current_exe().unwrap().as_ref(), &[&["--exact"], &tests[..]].concat()).unwrap()
    });
    // Its child goes with it.
    first.kill().unwrap();
    first.wait().unwrap();
    let Some(output) = output else {
        println!("formic-test-skipped: {test}: a process namespace cannot be made or entered here");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&format!("{} passed", tests.len())), "{said}");
}
