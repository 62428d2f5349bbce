//! An engine that is killed between two instructions: what it was told to be on the disk is there.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use formic_state::State;

use crate::sample::{Folder, commit, commits};

const FOLDER: &str = "FORMIC_STATE_TEST_FOLDER";

/// The engine that is killed: this test does nothing when it is run by itself.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let state = State::open(Path::new(&folder)).unwrap();
    // Bounded, should nobody kill it.
    for number in commits(&state) + 1..=200 {
        commit(&state, number);
        if writeln!(std::io::stdout(), "committed {number}").is_err() {
            // Nobody listens any more: who was to kill it is gone.
            return;
        }
    }
}

#[test]
fn what_was_committed_survives_a_kill_at_any_moment() {
    let folder = Folder::new();
    let mut kills = 0;
    for round in 1..=8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child", "--exact", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = 0;
        let wanted = fastrand::Rng::with_seed(round).usize(1..=6);
        // Read on after the last that counts: where nobody listens, it would end by itself before it is killed.
        let mut told =
            lines.map_while(Result::ok).filter_map(|line| line.split("committed ").nth(1)?.parse().ok());
        for number in told.by_ref().take(wanted) {
            last = number;
        }
        // Somewhere in the next commit.
        std::thread::sleep(std::time::Duration::from_micros(fastrand::Rng::with_seed(round).u64(..3000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        kills += u32::from(!status.success());
        let state = State::open(folder.path()).unwrap();
        let found = commits(&state);
        assert!(last > 0 && found >= last, "round {round}: {last} was promised, {found} is there");
    }
    assert!(kills > 0, "no engine was ever killed");
}
