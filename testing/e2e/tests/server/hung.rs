//! A brain that hangs before it is ready: an upgrade gives the place back to the program before.

use std::os::unix::fs::PermissionsExt as _;

use formic_e2e::{Managed, Manifest, alive};

const IDLE: &str = r#"
[app]
name = "hung"
[service.alpha]
command = ["sleep", "600"]
health = { ready = "none" }
"#;

#[test]
fn an_upgrade_to_a_program_that_hangs_is_taken_back() {
    // One that is to take another's place has a third of it.
    let managed = Managed::running(&Manifest::of(IDLE), &[("FORMIC_READY_LIMIT", "15")]);
    let (pids, brain, status) = (managed.pids(), managed.brain(), managed.status());
    let hang = managed.folder().join("hang");
    std::fs::write(&hang, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&hang, std::fs::Permissions::from_mode(0o755)).unwrap();
    managed
        .formic(&["server", "upgrade", "--program", hang.to_str().unwrap()])
        .says(1, &["did not come up as the brain, and the one before is back"]);
    assert!(managed.log().contains("was not ready for 5s, and is killed"), "{}", managed.log());
    let after = managed.status();
    assert_eq!(after["server"]["program"], status["server"]["program"]);
    assert_eq!(after["server"]["keeper_pid"], status["server"]["keeper_pid"]);
    assert!(!alive(brain));
    assert_eq!(managed.pids(), pids, "what runs was not touched");
    managed.formic(&["down"]).says(0, &[]);
}
