//! Finding the application from elsewhere, which depends on all that this user runs. It is a test target of its own
//! because cargo runs those one after the other: no other application of the tests is there meanwhile.

#![allow(clippy::unwrap_used, reason = "tests")]

use formic_e2e::{App, Folder, Manifest, formic};

fn sleeper(name: &str) -> Manifest {
    Manifest::program(name, &["sleep", "600"])
}

#[test]
fn the_only_application_is_found_and_of_several_one_must_be_named() {
    let before = formic(&["status"]).run();
    if before.code != Some(3) {
        let reason = "an application of this user runs on this machine already";
        formic_testing::skipped("the_only_application_is_found_and_of_several_one_must_be_named", reason);
        return;
    }
    before.says(3, &["no application is running", "formic up"]);
    formic(&["call", "a.B/C", "{}"]).run().says(3, &["no application is running"]);

    let mut one = App::start(&sleeper("one"));
    let pid = |args: &[&str]| formic(args).good().json()["pid"].clone();
    assert_eq!(pid(&["status", "--json"]), one.pid());
    // To look at the only one is no harm; to stop it, somebody must have meant it.
    for verb in ["down", "stop"] {
        formic(&[verb]).run().says(1, &["one runs in", "--app one"]);
    }
    // Nor is it meant in a folder that has another application, which does not run.
    let other = Folder::new("other");
    sleeper("other").write(other.path());
    let below = other.path().join("src");
    std::fs::create_dir(&below).unwrap();
    for verb in ["down", "status", "plan", "apply"] {
        formic_e2e::formic_in(&below, &[verb]).run().says(3, &["other is not running here", "formic up"]);
    }
    assert_eq!(pid(&["status", "--json"]), one.pid(), "nothing was done to it");

    let mut two = App::start(&sleeper("two"));
    formic(&["status"]).run().says(1, &["several", "one (", "two (", "--app"]);
    assert_eq!(pid(&["status", "--json", "--app", "one"]), one.pid());
    assert_eq!(pid(&["status", "--json", "--app", "two"]), two.pid());
    assert_eq!(pid(&["status", "--json", "--app", two.folder().to_str().unwrap()]), two.pid());
    assert_eq!(formic_e2e::formic_in(&two.folder(), &["status", "--json"]).good().json()["pid"], two.pid());

    // A folder that happens to have the name of an application is not meant by it.
    let elsewhere = two.folder();
    std::fs::create_dir(elsewhere.join("one")).unwrap();
    let named = formic_e2e::formic_in(&elsewhere, &["status", "--json", "--app", "one"]).good().json();
    assert_eq!(named["pid"], one.pid());
    formic_e2e::formic_in(&elsewhere, &["status", "--app", "./one"]).run().says(3, &["./one"]);
    let mut twin = App::start(&sleeper("one"));
    let unclear = formic(&["stop", "--app", "one"]).run();
    unclear.says(1, &["several", one.folder().to_str().unwrap(), twin.folder().to_str().unwrap()]);
    twin.stop();
    // What another user runs is left alone, even where its socket lets everybody in.
    if rustix::process::geteuid().is_root() {
        let state = elsewhere.join(".formic");
        let give = |to: u32| std::os::unix::fs::chown(&state, Some(to), None).unwrap();
        give(65534);
        formic_e2e::formic_in(&elsewhere, &["status", "--app", "two"]).run().says(3, &["two"]);
        formic_e2e::formic_in(&elsewhere, &["status"]).run().says(3, &["two"]);
        give(0);
    }

    let stopped = formic(&["stop", "--app", "one", "--json"]).good().json();
    assert_eq!(stopped["app"], "one");
    assert_eq!(one.wait_end(), 0);
    assert_eq!(pid(&["status", "--json"]), two.pid(), "the other is the only one now");
    two.stop();
    formic(&["status"]).run().says(3, &["no application is running"]);
}
