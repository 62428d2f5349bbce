//! Every named moment of death once, over programs that need nothing: what the chaos does to the shop, short enough to be
//! gone through again where less is allowed (`again.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use formic_e2e::{Managed, Manifest, alive, of_application, wait_for, wait_until};
use serde_json::Value;

use crate::chaos::{Flood, MOMENTS, Trigger, is_at_rest, is_replaced, orphan};

const SOON: Duration = Duration::from_secs(60);

/// What `again.rs` has taken away, by the names of the features, with commas between.
pub(crate) const WITHOUT: &str = "FORMIC_E2E_WITHOUT";

/// One that is left alone and one that is started again and again. Each has a child of its own.
const PAIR: &str = r#"
[app]
name = "pair"
[service.still]
command = ["sh", "-c", "sleep 600 & exec sleep 600"]
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
[service.rolled]
command = ["sh", "-c", "sleep 600 & exec sleep 600"]
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
"#;

fn rest(managed: &Managed) -> BTreeMap<String, u32> {
    wait_for("everything to be at rest", SOON, || is_at_rest(&managed.status()).then(|| managed.pids()))
}

fn of<'p>(pids: &'p BTreeMap<String, u32>, service: &str) -> Vec<(&'p String, &'p u32)> {
    pids.iter().filter(|(id, _)| id.starts_with(service)).collect()
}

/// Those that are there and belong to no instance, and are neither brain nor keeper.
fn strays(managed: &Managed) -> Vec<u32> {
    let known: Vec<u32> = managed.pids().into_values().collect();
    let server = [managed.brain(), managed.keeper()];
    let is_child = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parent.is_some_and(|parent| known.contains(&parent))
    };
    of_application(&managed.folder())
        .into_iter()
        .filter(|pid| !known.contains(pid) && !server.contains(pid) && !is_child(*pid))
        .collect()
}

/// Whether what was to be taken away is taken away: the records say what is used.
fn look_at_records(managed: &Managed) {
    let without = std::env::var(WITHOUT).unwrap_or_default();
    for record in std::fs::read_dir(managed.folder().join(".formic/run")).unwrap() {
        let record: Value = serde_json::from_slice(&std::fs::read(record.unwrap().path()).unwrap()).unwrap();
        if without.contains("pidfs") {
            assert!(record["identity"]["pidfs_id"].is_null(), "{record:#}");
        }
        if without.contains("cgroup") {
            assert_eq!(record["containment"], "session", "{record:#}");
        }
    }
}

#[test]
fn who_dies_at_any_moment_leaves_what_runs_and_nothing_else() {
    let armed = std::env::temp_dir().join(format!("formic-moments-{}", std::process::id()));
    let _ = std::fs::remove_file(&armed);
    let env = [("FORMIC_FAILPOINT_FILE", armed.to_str().unwrap())];
    let managed = Managed::running(&Manifest::of(PAIR), &env);
    let first = rest(&managed);
    look_at_records(&managed);
    let mut kills = 0;
    for (moment, trigger) in MOMENTS {
        let orphan = (trigger == Trigger::Instance).then(|| orphan(&managed, "rolled"));
        std::fs::write(&armed, moment).unwrap();
        let mut flood = None;
        match trigger {
            // Its answer may be lost with the brain.
            Trigger::Restart => drop(managed.formic(&["restart", "rolled"])),
            Trigger::Brain => managed.kill(managed.brain()),
            Trigger::Instance => managed.kill(orphan.unwrap()),
            Trigger::Log => flood = Some(Flood::over(&managed, "rolled")),
        }
        wait_until(&format!("{moment} to be reached"), SOON, || !armed.exists());
        kills += 1;
        if !moment.starts_with("keeper.") {
            // The next brain, and then a new keeper: one whose brains die quickly would wait longer each time.
            let (brain, keeper) = (managed.brain(), managed.keeper());
            managed.kill(keeper);
            kills += 1;
            wait_until("the brain to end with its keeper", SOON, || !alive(brain));
        }
        wait_until("a new keeper", SOON, || managed.try_serve(&[]).code == Some(0));
        if let Some(orphan) = orphan {
            wait_until("another in its place", SOON, || is_replaced(&managed, "rolled", orphan));
        }
        let pids = rest(&managed);
        if let Some(flood) = flood {
            flood.is_cut_and_whole();
        }
        assert_eq!(of(&pids, "still"), of(&first, "still"), "after {moment}");
        assert_eq!(of(&pids, "rolled").len(), 1, "after {moment}: {pids:?}");
        wait_until(&format!("strays to be gone after {moment}"), SOON, || strays(&managed).is_empty());
    }
    println!("{kills} kills at {} moments", MOMENTS.len());
    assert!(kills > MOMENTS.len());
    managed.formic(&["stop", "--now"]).says(0, &[]);
    managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
    assert_eq!(of_application(&managed.folder()), Vec::<u32>::new());
}
