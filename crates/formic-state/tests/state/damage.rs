//! Files cut off and with bits turned: refused with a clear error, or as good as before. Never harmed.

use std::fs;
use std::path::Path;

use formic_state::{DATABASE, OpenError, State};

use crate::sample::{Folder, commit, commits};

const SEEDS: u64 = 100;
const COMMITS: u32 = 4;

/// A database as a stop leaves it, and as a crash does.
fn whole(folder: &Path) -> [Vec<u8>; 2] {
    let state = State::open(folder).unwrap();
    for number in 1..=COMMITS {
        commit(&state, number);
    }
    let path = folder.join(DATABASE);
    let crashed = fs::read(&path).unwrap();
    drop(state);
    [fs::read(&path).unwrap(), crashed]
}

/// Whether it was refused. What is not refused must read as something that was written.
fn attempt(folder: &Path, bytes: &[u8], what: &str) -> bool {
    let path = folder.join(DATABASE);
    fs::write(&path, bytes).unwrap();
    match State::open(folder) {
        Ok(state) => {
            let found = commits(&state);
            assert!((COMMITS - 1..=COMMITS).contains(&found), "{what}: {found} commits");
            false
        }
        Err(error @ OpenError::Damaged { .. }) => {
            assert!(error.to_string().contains("is damaged: "), "{what}: {error}");
            assert!(fs::read(&path).unwrap() == bytes, "{what}: it was changed");
            true
        }
        // Its version, its own mark or the key's is what was hit.
        Err(OpenError::Newer { .. } | OpenError::NotOurs { .. } | OpenError::KeyWrong { .. }) => {
            assert!(fs::read(&path).unwrap() == bytes, "{what}: it was changed");
            true
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn what_is_whole_opens() {
    let folder = Folder::new();
    for bytes in whole(folder.path()) {
        assert!(!attempt(folder.path(), &bytes, "whole"));
        assert_eq!(commits(&State::open(folder.path()).unwrap()), COMMITS);
    }
}

#[test]
fn cut_off() {
    let folder = Folder::new();
    let mut refused = 0;
    for bytes in whole(folder.path()) {
        for seed in 0..SEEDS {
            let length = fastrand::Rng::with_seed(seed).usize(..bytes.len());
            refused += u64::from(attempt(folder.path(), &bytes[..length], &format!("cut to {length}")));
        }
    }
    assert_eq!(refused, 2 * SEEDS, "a file that is not all there is refused");
}

#[test]
fn bits_turned() {
    let folder = Folder::new();
    let mut refused = 0;
    for bytes in whole(folder.path()) {
        let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        for seed in 0..SEEDS {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut other = bytes.clone();
            // One bit, or some.
            for _ in 0..random.usize(1..=4) {
                other[random.usize(..used)] ^= 1 << random.u8(..8);
            }
            refused += u64::from(attempt(folder.path(), &other, &format!("seed {seed}")));
        }
    }
    assert!(refused > 0, "no damage was ever noticed");
}

#[test]
fn pages_overwritten() {
    let folder = Folder::new();
    let mut refused = 0;
    for bytes in whole(folder.path()) {
        for seed in 0..SEEDS {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut other = bytes.clone();
            let at = random.usize(..other.len() / 4096) * 4096;
            random.fill(&mut other[at..at + 4096]);
            refused += u64::from(attempt(folder.path(), &other, &format!("seed {seed}, page at {at}")));
        }
    }
    assert!(refused > 0, "no damage was ever noticed");
}

#[test]
fn what_was_refused_opens_again_when_it_is_put_right() {
    let folder = Folder::new();
    let [bytes, _] = whole(folder.path());
    assert!(attempt(folder.path(), &bytes[..bytes.len() / 2], "half"));
    assert!(!attempt(folder.path(), &bytes, "whole"));
}

#[test]
fn an_older_copy_that_is_whole_is_told_and_its_numbers_are_not_given_again() {
    let folder = Folder::new();
    let path = folder.path().join(formic_state::DATABASE);
    let state = State::open(folder.path()).unwrap();
    commit(&state, 1);
    assert_eq!(state.lost(), None);
    drop(state);
    let older = std::fs::read(&path).unwrap();
    let state = State::open(folder.path()).unwrap();
    assert_eq!(state.lost(), None, "all of it is there");
    commit(&state, 2);
    commit(&state, 3);
    let next = state.next_event().unwrap();
    drop(state);
    std::fs::write(&path, older).unwrap();
    let state = State::open(folder.path()).unwrap();
    assert_eq!(state.lost().map(|lost| lost.commits), Some(2));
    assert_eq!((commits(&state), state.next_event().unwrap()), (1, next));
    commit(&state, 2);
    let last = state.last_events(1).unwrap().pop().unwrap().0;
    assert!(last >= next, "{last} is a number that somebody has seen");
    drop(state);
    // Told once: what is promised from here on is there.
    let state = State::open(folder.path()).unwrap();
    assert_eq!(state.lost(), None);
    drop(state);
    // One that is begun anew has promised nothing, and neither has one without the file.
    std::fs::remove_file(folder.path().join("state.promised")).unwrap();
    assert_eq!(State::open(folder.path()).unwrap().lost(), None);
    formic_state::set_aside(folder.path()).unwrap();
    assert_eq!(State::open(folder.path()).unwrap().lost(), None);
}
