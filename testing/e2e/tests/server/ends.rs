//! A brain that is killed between the end of an instance and what follows from it on the disk: how it ended is known to the
//! next one, counted once, and nothing comes back by it.

use std::time::Duration;

use formic_e2e::{Managed, Manifest, instances, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// One that crashes when a file says so, work that comes to its end when another does, and one that is told what to do.
const ENDS: &str = r#"
[app]
name = "ends"
[service.crash]
command = ["sh", "-c", "while ! rm crash 2>/dev/null; do sleep 0.05; done; exit 3"]
health = { ready = "none" }
[service.work]
command = ["sh", "-c", "while ! rm go 2>/dev/null; do sleep 0.05; done; echo done >> lines"]
job = {}
[service.told]
command = ["sh", "-c", "exec sleep 600"]
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
"#;

struct Ends {
    managed: Managed,
    armed: std::path::PathBuf,
    moment: &'static str,
}

impl Ends {
    fn service(&self, name: &str) -> Value {
        let status = self.managed.status();
        let services = status["services"].as_array().unwrap();
        services.iter().find(|service| service["name"] == name).cloned().unwrap_or_default()
    }

    /// Has the brain die at the moment, by this; when this returns, the next one is up and only what runs has a record.
    fn dies(&self, by: impl FnOnce()) {
        let brain = self.managed.brain();
        std::fs::write(&self.armed, self.moment).unwrap();
        by();
        wait_until(&format!("{} to be reached", self.moment), SOON, || !self.armed.exists());
        wait_until("the next brain", SOON, || self.managed.brain() != brain);
        wait_until("only what runs to have a record", SOON, || {
            let mut ids: Vec<String> =
                self.managed.pids().into_keys().map(|id| format!("{id}.json")).collect();
            let files = std::fs::read_dir(self.managed.folder().join(".formic/run")).unwrap();
            let mut files: Vec<String> =
                files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            ids.sort();
            files.sort();
            ids == files
        });
    }

    fn tell(&self, args: &[&str]) {
        // Its answer may be lost with the brain.
        self.dies(|| drop(self.managed.formic(args)));
    }

    fn pid(&self, service: &str) -> Option<u32> {
        let all = instances(&self.managed.status()).into_iter();
        all.filter(|(id, pid)| id.starts_with(service) && *pid != 0).map(|(_, pid)| pid).next()
    }
}

fn nothing_is_lost_at(moment: &'static str) {
    let armed = std::env::temp_dir().join(format!("formic-ends-{moment}-{}", std::process::id()));
    let _ = std::fs::remove_file(&armed);
    let env = [("FORMIC_FAILPOINT_FILE", armed.to_str().unwrap())];
    let ends = Ends { managed: Managed::new(&Manifest::of(ENDS), &env), armed: armed.clone(), moment };
    let folder = ends.managed.folder();
    ends.managed.formic(&["apply"]).says(0, &[]);
    wait_until("all to run", SOON, || ends.managed.pids().len() == 3);

    for restarts in 1..=2 {
        ends.dies(|| std::fs::write(folder.join("crash"), "").unwrap());
        wait_until("the restart", SOON, || ends.pid("crash").is_some());
        let instance = ends.service("crash")["instances"][0].clone();
        assert_eq!(instance["restarts"], restarts, "once for each end: {instance:#}");
        assert_eq!(instance["last_exit"], "exited with code 3");
    }
    ends.dies(|| std::fs::write(folder.join("go"), "").unwrap());
    assert_eq!(ends.service("work")["state"], "completed");

    let before = ends.pid("told").unwrap();
    ends.tell(&["restart", "told"]);
    wait_until("another in its place", SOON, || {
        ends.pid("told").is_some_and(|pid| pid != before) && ends.service("told")["state"] == "ready"
    });
    ends.tell(&["stop", "told"]);
    assert_eq!((&ends.service("told")["state"], ends.pid("told")), (&"stopped".into(), None));
    ends.managed.formic(&["start", "told"]).says(0, &[]);
    wait_until("it to run again", SOON, || ends.pid("told").is_some());
    ends.tell(&["rm", "told"]);
    assert_eq!((ends.service("told"), ends.pid("told")), (Value::Null, None));

    let events = ends.managed.formic(&["events", "-n", "0", "--json"]).stdout;
    // Told by the next brain where the one before could not write it down.
    let told = if moment.starts_with("stop.unrecorded") { 0 } else { 2 };
    assert_eq!(events.matches("is gone: exit code 3").count(), told, "{events}");
    for word in ["nobody saw how", "unknown way", "not known to this engine", "quarantined"] {
        assert!(!events.contains(word), "{word}: {events}");
    }
    assert_eq!(ends.service("crash")["instances"][0]["restarts"], 2);
    assert_eq!(std::fs::read_to_string(folder.join("lines")).unwrap(), "done\n", "done once");
}

#[test]
fn an_end_that_was_noted_is_known_to_the_next_brain() {
    nothing_is_lost_at("stop.noted");
}

#[test]
fn an_end_that_was_reaped_is_known_to_the_next_brain() {
    nothing_is_lost_at("stop.reaped");
}

#[test]
fn an_end_that_is_on_the_disk_brings_nothing_back() {
    nothing_is_lost_at("stop.unrecorded.before");
}
