//! Who may have a folder, and what in it is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use formic_state::{DATABASE, KEY, OpenError, SCHEMA, State, Unfit, set_aside};
use redb::{Database, TableDefinition};

use crate::sample::{Folder, commit, commits};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Refused, and nothing in the folder was changed by it.
#[track_caller]
fn refused(folder: &Path) -> OpenError {
    let all = || {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| !path.ends_with("state.lock"))
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = all();
    let error = State::open(folder).unwrap_err();
    assert!(before == all(), "{error}");
    error
}

#[test]
fn one_engine_at_a_time() {
    let folder = Folder::new();
    let first = State::open(folder.path()).unwrap();
    commit(&first, 1);
    let error = State::open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert!(matches!(set_aside(folder.path()), Err(OpenError::InUse { .. })));
    commit(&first, 2);
    drop(first);
    assert_eq!(commits(&State::open(folder.path()).unwrap()), 2);
}

#[test]
fn only_the_engines_user_can_read_it() {
    let folder = Folder::new();
    drop(State::open(folder.path()).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder.path()), 0o700);
    for file in [DATABASE, KEY, "state.lock"] {
        assert_eq!(mode(&folder.path().join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = Folder::new();
    drop(State::open(folder.path()).unwrap());
    let path = folder.path().join(DATABASE);
    let set = |schema: &[u8]| {
        let database = Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(META).unwrap().insert("schema", schema).unwrap();
        write.commit().unwrap();
    };
    set((SCHEMA + 1).to_string().as_bytes());
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::Newer { found, known: SCHEMA, .. } if found == SCHEMA + 1), "{error}");
    set(b"{");
    assert!(matches!(refused(folder.path()), OpenError::Damaged { .. }));
    set(SCHEMA.to_string().as_bytes());
    State::open(folder.path()).unwrap();
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let folder = Folder::new();
    drop(State::open(folder.path()).unwrap());
    let path = folder.path().join(DATABASE);
    for text in [&b""[..], b"hello", &[0; 4096], &[b'x'; 100_000]] {
        fs::write(&path, text).unwrap();
        let error = refused(folder.path());
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
    fs::remove_file(&path).unwrap();
    let other = Database::create(&path).unwrap();
    let write = other.begin_write().unwrap();
    write.open_table(TableDefinition::<u64, u64>::new("numbers")).unwrap().insert(1, 1).unwrap();
    write.commit().unwrap();
    drop(other);
    assert!(matches!(refused(folder.path()), OpenError::NotOurs { .. }));
    // A person can have it put aside; nothing of it is lost.
    let kept = fs::read(&path).unwrap();
    let key = fs::read(folder.path().join(KEY)).unwrap();
    let aside = set_aside(folder.path()).unwrap();
    assert_eq!((fs::read(aside.database.unwrap()).unwrap(), aside.key), (kept, None));
    // The key may be the right one, for all that anybody can say.
    assert_eq!(fs::read(folder.path().join(KEY)).unwrap(), key);
    assert_eq!(commits(&State::open(folder.path()).unwrap()), 0);
}

#[test]
fn the_key_is_needed_and_must_be_the_right_one() {
    let folder = Folder::new();
    let state = State::open(folder.path()).unwrap();
    commit(&state, 1);
    drop(state);
    let path = folder.path().join(KEY);
    let key = fs::read(&path).unwrap();

    fs::remove_file(&path).unwrap();
    assert!(matches!(refused(folder.path()), OpenError::KeyMissing { .. }));
    assert!(!path.exists(), "no new one is made in its place");

    let write = |bytes: &[u8], mode: u32| {
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o640, 0o604, 0o660] {
        write(&key, mode);
        let error = refused(folder.path());
        assert!(matches!(error, OpenError::KeyExposed { mode: found, .. } if found == mode), "{error}");
    }
    // Cut off at every length, and with many a bit turned, each kind of them.
    for length in 0..key.len() - 1 {
        write(&key[..length], 0o600);
        assert!(matches!(refused(folder.path()), OpenError::KeyWrong { .. }), "{length}");
    }
    for bit in (0..key.len() * 8).step_by(7) {
        let mut other = key.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        write(&other, 0o600);
        match State::open(folder.path()) {
            Err(OpenError::KeyWrong { .. }) => {}
            Err(error) => panic!("bit {bit}: {error}"),
            // A letter of the other case is the same digit.
            Ok(state) => assert_eq!(commits(&state), 1, "bit {bit}"),
        }
    }
    fs::remove_file(&path).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, &key).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(matches!(refused(folder.path()), OpenError::KeyWrong { .. }));
    fs::remove_file(&path).unwrap();
    write(&key, 0o600);
    assert_eq!(commits(&State::open(folder.path()).unwrap()), 1);
}

#[test]
fn a_key_that_does_not_fit_is_set_aside_too_and_with_the_right_one_all_is_there_again() {
    let folder = Folder::new();
    let state = State::open(folder.path()).unwrap();
    commit(&state, 1);
    drop(state);
    let (path, key_path) = (folder.path().join(DATABASE), folder.path().join(KEY));
    let key = fs::read(&key_path).unwrap();
    // Another digit at the end: it looks like a key.
    let mut other = key.clone();
    let last = other.len() - 2;
    other[last] = if other[last] == b'0' { b'1' } else { b'0' };
    let unfit = [
        (&b""[..], 0o600, Unfit::Wrong),
        (&other[..], 0o600, Unfit::Wrong),
        (&key[..], 0o644, Unfit::Exposed),
    ];
    for (round, (bad, mode, why)) in unfit.into_iter().enumerate() {
        fs::write(&key_path, bad).unwrap();
        fs::set_permissions(&key_path, fs::Permissions::from_mode(mode)).unwrap();
        let error = State::open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenError::KeyWrong { .. } | OpenError::KeyExposed { .. }), "{error}");
        // The database alone was moved away, by whomever.
        let aside_by_hand = folder.path().join("by-hand");
        if round == 0 {
            fs::rename(&path, &aside_by_hand).unwrap();
            let aside = set_aside(folder.path()).unwrap();
            assert!(aside.database.is_none() && fs::read(aside.key.unwrap().0).unwrap() == bad);
            fs::rename(&aside_by_hand, &path).unwrap();
            fs::write(&key_path, bad).unwrap();
            fs::set_permissions(&key_path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let aside = set_aside(folder.path()).unwrap();
        let (old, (old_key, told)) = (aside.database.unwrap(), aside.key.unwrap());
        assert_eq!((fs::read(&old_key).unwrap(), told), (bad.to_vec(), why));
        assert_eq!(old.extension(), old_key.extension(), "they are told to belong together");
        let state = State::open(folder.path()).unwrap();
        assert_eq!(commits(&state), 0);
        drop(state);
        // It is the new one's by now, and fits.
        let new_key = fs::read(&key_path).unwrap();
        assert!(new_key != key && new_key != bad);
        let new = set_aside(folder.path()).unwrap();
        assert!(new.key.is_none() && fs::read(&key_path).unwrap() == new_key);
        fs::rename(old, &path).unwrap();
        fs::write(&key_path, &key).unwrap();
        fs::set_permissions(&key_path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(commits(&State::open(folder.path()).unwrap()), 1);
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that cannot run says so")]
fn a_key_that_cannot_be_read_is_set_aside_too() {
    const INNER: &str = "FORMIC_STATE_INNER";
    let test = "folder::a_key_that_cannot_be_read_is_set_aside_too";
    let folder = Folder::new();
    drop(State::open(folder.path()).unwrap());
    let key_path = folder.path().join(KEY);
    let key = fs::read(&key_path).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&key_path, 0);
    if fs::read(&key_path).is_ok() {
        // Root reads everything: once more without the right to.
        assert!(std::env::var_os(INNER).is_none(), "it can be read all the same");
        let without = || {
            let mut command = std::process::Command::new("setpriv");
            command.arg("--bounding-set=-dac_override,-dac_read_search");
            command
        };
        if !without().arg("true").status().is_ok_and(|status| status.success()) {
            println!("formic-test-skipped: {test}: root cannot give up a right here");
            return;
        }
        let mut again = without();
        again.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
        let output = again.env(INNER, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let error = State::open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::KeyUnreadable { .. }), "{error}");
    let (aside, why) = set_aside(folder.path()).unwrap().key.unwrap();
    assert_eq!(why, Unfit::Unreadable);
    mode(&aside, 0o600);
    assert_eq!(fs::read(aside).unwrap(), key);
    assert_eq!(commits(&State::open(folder.path()).unwrap()), 0);
}

#[test]
fn what_was_set_aside_in_two_steps_with_a_crash_between_has_one_number() {
    let folder = Folder::new();
    let (path, key_path) = (folder.path().join(DATABASE), folder.path().join(KEY));
    let aside = |of: &str, n: u32| folder.path().join(format!("{of}.damaged-{n}"));
    for n in 1..=2 {
        drop(State::open(folder.path()).unwrap());
        fs::write(&key_path, "").unwrap();
        // As far as the crash.
        fs::rename(&key_path, aside(KEY, n)).unwrap();
        let done = set_aside(folder.path()).unwrap();
        assert_eq!((done.database, done.key), (Some(aside(DATABASE, n)), None));
    }
    // A database whose key was never set aside, and one beside a key that stays, have a number of their own.
    drop(State::open(folder.path()).unwrap());
    fs::remove_file(&key_path).unwrap();
    assert_eq!(set_aside(folder.path()).unwrap().database, Some(aside(DATABASE, 3)));
    fs::write(aside(KEY, 4), "").unwrap();
    drop(State::open(folder.path()).unwrap());
    fs::write(&path, "").unwrap();
    assert_eq!(set_aside(folder.path()).unwrap().database, Some(aside(DATABASE, 5)));
}

#[test]
fn a_begin_that_a_crash_cut_short_is_begun_again() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path()).unwrap();
    fs::write(folder.path().join("state.redb.new"), b"half").unwrap();
    fs::write(folder.path().join("secrets.new"), b"half").unwrap();
    let state = State::open(folder.path()).unwrap();
    commit(&state, 1);
    drop(state);
    assert_eq!(commits(&State::open(folder.path()).unwrap()), 1);
}
