//! The lock: held by the living, never by the dead.

use std::fs;

use formic_supervise::{Lock, LockError};

use crate::scene::{FIXTURE, Fixture, Scene, features};

#[test]
fn a_second_engine_learns_who_holds_the_lock_and_a_dead_one_is_no_obstacle() {
    let scene = Scene::new("lock");
    let path = scene.dir.join("state/lock");
    let mut holder = Fixture::start(FIXTURE, &["lock", path.to_str().unwrap()]);
    assert_eq!(holder.hear(), "locked");
    let error = Lock::acquire(&path, &features()).unwrap_err();
    let pid = holder.child.id();
    assert!(matches!(error, LockError::Held { pid: Some(told), .. } if told == pid), "{error:?}");
    assert!(error.to_string().ends_with(&format!("held by process {pid}")), "{error}");

    holder.kill();
    assert!(fs::read_to_string(&path).unwrap().contains(&pid.to_string()), "the file is stale");
    let lock = Lock::acquire(&path, &features()).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains(&std::process::id().to_string()));
    drop(lock);
    drop(Lock::acquire(&path, &features()).unwrap());
}

#[test]
fn a_holder_that_the_file_does_not_prove_is_not_named() {
    let scene = Scene::new("lock-forged");
    let path = scene.dir.join("lock");
    let lock = Lock::acquire(&path, &features()).unwrap();
    for content in ["", "7", "{\"pid\":1}", "{\"boot_id\":\"x\",\"pid\":1,\"start_time\":1}"] {
        fs::write(lock.path(), content).unwrap();
        let error = Lock::acquire(&path, &features()).unwrap_err();
        assert!(matches!(error, LockError::Held { pid: None, .. }), "{content}: {error:?}");
    }
}
