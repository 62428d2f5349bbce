//! Finding the application from elsewhere, which depends on all that this user runs. It is a test target of its own
//! because cargo runs those one after the other: no other application of the tests is there meanwhile.

#![allow(clippy::unwrap_used, reason = "tests")]

use formic_e2e::{App, Manifest, formic};

fn sleeper(name: &str) -> Manifest {
    Manifest::of(&format!(
        "[app]\nname = \"{name}\"\n[service.sleeper]\ncommand = [\"sleep\", \"600\"]\nhealth = {{ ready = \"none\" }}\n"
    ))
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

    let mut two = App::start(&sleeper("two"));
    formic(&["status"]).run().says(1, &["several", "one (", "two (", "--app"]);
    assert_eq!(pid(&["status", "--json", "--app", "one"]), one.pid());
    assert_eq!(pid(&["status", "--json", "--app", "two"]), two.pid());
    assert_eq!(pid(&["status", "--json", "--app", two.folder().to_str().unwrap()]), two.pid());
    assert_eq!(formic_e2e::formic_in(&two.folder(), &["status", "--json"]).good().json()["pid"], two.pid());

    let stopped = formic(&["stop", "--app", "one", "--json"]).good().json();
    assert_eq!(stopped["app"], "one");
    assert_eq!(one.wait_end(), 0);
    assert_eq!(pid(&["status", "--json"]), two.pid(), "the other is the only one now");
    two.stop();
    formic(&["status"]).run().says(3, &["no application is running"]);
}
