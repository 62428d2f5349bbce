//! A state that an earlier release wrote must open in every later one.
//!
//! `fixtures/1` was written by the first release with schema 1. When the schema changes, a folder is added and none is
//! taken away: `FORMIC_WRITE_FIXTURE=1 cargo test -p formic-state fixture` writes the one of the present schema.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use formic_state::{DATABASE, KEY, SCHEMA, State};

use crate::sample::{Folder, commit, commits};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

#[test]
fn every_schema_since_the_first_opens() {
    let present = fixtures().join(SCHEMA.to_string());
    if std::env::var_os("FORMIC_WRITE_FIXTURE").is_some() {
        let folder = Folder::new();
        let state = State::open(folder.path()).unwrap();
        commit(&state, 1);
        commit(&state, 2);
        drop(state);
        fs::create_dir_all(&present).unwrap();
        for file in [DATABASE, KEY] {
            fs::copy(folder.path().join(file), present.join(file)).unwrap();
        }
    }
    for schema in 1..=SCHEMA {
        let folder = Folder::new();
        fs::create_dir_all(folder.path()).unwrap();
        for file in [DATABASE, KEY] {
            let copy = folder.path().join(file);
            fs::copy(fixtures().join(schema.to_string()).join(file), &copy).unwrap();
            // A checkout gives the modes that it likes.
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let state = State::open(folder.path()).unwrap();
        assert_eq!(commits(&state), 2, "schema {schema}");
        commit(&state, 3);
        assert_eq!(commits(&state), 3, "schema {schema}");
    }
}
