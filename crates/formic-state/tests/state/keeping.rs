//! What is kept, for how long, and how it is read again.

use formic_state::{Error, KEPT_EVENTS, KEPT_GENERATIONS, Secret, State, Token};

use crate::sample::{Folder, commit, commits, event, fleet, generation};

#[test]
fn what_was_committed_is_there_after_a_start() {
    let folder = Folder::new();
    for number in 1..=3 {
        let state = State::open(folder.path()).unwrap();
        assert_eq!(commits(&state), number - 1);
        commit(&state, number);
        assert_eq!(commits(&state), number);
    }
    let state = State::open(folder.path()).unwrap();
    assert_eq!(commits(&state), 3);
    // What is not committed never was.
    let mut write = state.write().unwrap();
    write.fleet(&fleet(9), "boot").unwrap();
    write.event(&event(99)).unwrap();
    drop(write);
    assert_eq!(commits(&state), 3);
}

#[test]
fn a_service_that_is_gone_from_the_fleet_is_gone_from_the_disk() {
    let state = State::in_memory().unwrap();
    commit(&state, 1);
    let mut less = fleet(2);
    less.deployments.remove(1);
    let mut write = state.write().unwrap();
    write.fleet(&less, "other boot").unwrap();
    write.commit().unwrap();
    assert_eq!(state.fleet().unwrap().unwrap(), (less, "other boot".to_owned()));
}

#[test]
fn events_are_followed_over_a_start_and_nothing_is_told_twice() {
    let folder = Folder::new();
    let mut after = None;
    for number in 1..=3 {
        let state = State::open(folder.path()).unwrap();
        commit(&state, number);
        let page = state.events(after.as_ref(), 2).unwrap();
        let rest = state.events(Some(&page.next), usize::MAX).unwrap();
        let texts: Vec<_> = page.events.iter().chain(&rest.events).map(|(_, e)| e.text.clone()).collect();
        assert_eq!(texts, (0..5).map(|n| format!("number {}", number * 10 + n)).collect::<Vec<_>>());
        assert!(!page.missed && !rest.missed);
        let again = state.events(Some(&rest.next), 10).unwrap();
        assert!(again.events.is_empty() && !again.missed && again.next == rest.next);
        let text = rest.next.to_string();
        after = Some(text.parse::<Token>().unwrap());
    }
    for bad in ["", "-", "1", "0123456789abcdef-", "0123456789abcdef-x", "0123456789ABCDEF-1", "x-1"] {
        assert!(bad.parse::<Token>().is_err(), "{bad}");
    }
    // Of another state: everything that there is, and it is said.
    let other = State::in_memory().unwrap();
    commit(&other, 1);
    let page = other.events(after.as_ref(), 100).unwrap();
    assert_eq!((page.events.len(), page.missed), (5, true));
}

#[test]
fn events_are_bounded_and_a_slow_reader_is_told() {
    let state = State::in_memory().unwrap();
    let mut write = state.write().unwrap();
    let first = write.event(&event(0)).unwrap();
    let many = u32::try_from(KEPT_EVENTS).unwrap() + 50;
    for number in 1..many {
        write.event(&event(number)).unwrap();
    }
    write.commit().unwrap();
    let page = state.events(Some(&first), usize::MAX).unwrap();
    assert_eq!((page.events.len() as u64, page.missed), (KEPT_EVENTS, true));
    assert_eq!(page.events[0].1, event(50));
    let last = page.events.last().unwrap();
    assert_eq!((&last.0, &last.1), (&page.next, &event(many - 1)));
}

#[test]
fn fifty_desired_states_are_kept() {
    let state = State::in_memory().unwrap();
    let mut write = state.write().unwrap();
    for number in 1..=60 {
        write.generation(&generation(number)).unwrap();
    }
    write.commit().unwrap();
    let kept: Vec<u64> = state.generations().unwrap().iter().map(|state| state.index).collect();
    assert_eq!((kept, KEPT_GENERATIONS), ((11..=60).collect(), 50));
}

#[test]
fn the_last_events_come_with_their_numbers() {
    let state = State::in_memory().unwrap();
    commit(&state, 1);
    let last = state.last_events(2).unwrap();
    assert_eq!(last, [(4, event(13)), (5, event(14))]);
}

#[test]
fn secrets_have_versions_and_show_themselves_to_nobody() {
    let folder = Folder::new();
    let state = State::open(folder.path()).unwrap();
    let set = |value: &str| {
        let mut write = state.write().unwrap();
        let version = write.set_secret("db.password", &Secret::new(value), 5).unwrap();
        write.commit().unwrap();
        version
    };
    assert_eq!((set("correct horse"), set("correct horse"), set("battery staple")), (1, 1, 2));
    assert_eq!(state.secret("db.password", None).unwrap().unwrap(), (2, Secret::new("battery staple")));
    assert_eq!(state.secret("db.password", Some(1)).unwrap().unwrap().1.expose(), b"correct horse");
    assert!(state.secret("db.password", Some(3)).unwrap().is_none());
    assert!(state.secret("db", None).unwrap().is_none());
    let [info] = <[_; 1]>::try_from(state.secrets().unwrap()).unwrap();
    assert_eq!(
        (info.name.as_str(), info.versions.as_slice(), info.at_unix_ms),
        ("db.password", &[1, 2][..], 5)
    );

    let shown = format!("{state:?} {:?} {info:?}", state.secret("db.password", None).unwrap());
    assert!(!shown.contains("staple"), "{shown}");
    drop(state);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for word in ["battery", "staple", "horse"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()));
        }
    }
}

#[test]
fn ten_versions_of_a_secret_are_kept_beside_those_that_states_name() {
    let state = State::in_memory().unwrap();
    let mut write = state.write().unwrap();
    write.generation(&generation(2)).unwrap();
    for number in 1..=14 {
        write.set_secret("password", &Secret::new(format!("{number}")), 0).unwrap();
    }
    write.commit().unwrap();
    let versions = state.secrets().unwrap()[0].versions.clone();
    assert_eq!(versions, [2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    let mut write = state.write().unwrap();
    assert!(write.remove_secret("password").unwrap());
    assert!(!write.remove_secret("password").unwrap());
    write.commit().unwrap();
    assert!(state.secrets().unwrap().is_empty());
}

#[test]
fn names_of_secrets_are_file_names() {
    let state = State::in_memory().unwrap();
    let mut write = state.write().unwrap();
    for bad in ["", ".hidden", "..", "a/b", "a b", "ä", &"x".repeat(64)] {
        let error = write.set_secret(bad, &Secret::new("value"), 0).unwrap_err();
        assert!(matches!(error, Error::SecretName(_)) && !error.to_string().contains("value"), "{error}");
    }
    assert_eq!(write.set_secret("A-b_c.d", &Secret::new(vec![0, 255]), 0).unwrap(), 1);
}
