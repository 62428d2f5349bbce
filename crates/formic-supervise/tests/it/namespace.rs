//! In a container, and for whatever the first process starts, the session began where it cannot be seen.

use std::process::{Command, Stdio};

/// What depends on sessions, once more where the session of this process reads as 0.
#[test]
#[expect(clippy::print_stdout, reason = "the gate reads there what was skipped")]
fn the_same_where_the_session_cannot_be_seen() {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.stdin(Stdio::null());
        command
    };
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
