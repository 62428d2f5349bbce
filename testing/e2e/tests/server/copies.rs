//! Folders that are copied or moved: a copy harms nothing of its original, and what was moved keeps what is its own.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use formic_e2e::{
    Folder, Managed, Manifest, Signal, alive, build_folder, formic_in, of_application, signal, wait_child,
    wait_until,
};

use crate::damage::PAIR;

const SOON: Duration = Duration::from_secs(60);

/// Ends what a failed test would leave behind.
struct Left(Vec<u32>);

impl Drop for Left {
    fn drop(&mut self) {
        for pid in self.0.iter().filter(|pid| alive(**pid)) {
            signal(*pid, Signal::KILL);
        }
    }
}

/// `formic up`, which ends with the test.
struct Up(Child);

impl Up {
    fn begin(folder: &Folder) -> Self {
        let mut up = Command::new(build_folder().join("formic"));
        up.args(["up", "--quiet"]).current_dir(folder.path());
        Self(up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        signal(self.0.id(), Signal::INT);
        if wait_child(&mut self.0, SOON).is_none() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

#[test]
fn a_copy_leaves_alone_what_its_original_runs() {
    let original = Managed::running(&Manifest::of(PAIR), &[]);
    let (pids, keeper, brain) = (original.pids(), original.keeper(), original.brain());
    let is_as_before = || {
        let same = original.pids() == pids && original.keeper() == keeper && original.brain() == brain;
        assert!(same, "{pids:?} {keeper} {brain}\n{}", original.log());
    };

    // Before a server is in it, its lock names the original's keeper.
    let copy = original.copied();
    let refused = formic_in(copy.path(), &["server", "--detach"]).run();
    refused.says(1, &["is not the one that its state was made in", "--set-aside-state"]);
    is_as_before();
    let begun = formic_in(copy.path(), &["server", "--detach", "--set-aside-state"]).run();
    begun.says(0, &["keeper"]);
    let copy = Managed::over(copy);
    is_as_before();
    let told = copy.formic(&["events"]).stdout;
    assert!(told.contains("of which this folder is a copy, and is left alone"), "{told}");
    copy.formic(&["apply", "--wait"]).says(0, &[]);
    let own = copy.pids();
    assert!(own.len() == 2 && own.values().all(|pid| pids.values().all(|other| other != pid)), "{own:?}");
    copy.formic(&["down"]).says(0, &[]);
    wait_until("the copy's to end", SOON, || own.values().all(|pid| !alive(*pid)));
    is_as_before();

    // In the foreground nothing of an earlier run outlives the next; what is elsewhere does.
    let another = original.copied();
    let up = Up::begin(&another);
    wait_until("the copy's to run", SOON, || of_application(another.path()).len() == 2);
    is_as_before();
    drop(up);
    assert!(of_application(another.path()).is_empty());
    is_as_before();
}

#[test]
fn a_moved_folder_keeps_its_instances() {
    let mut managed = Managed::running(&Manifest::of(PAIR), &[]);
    let pids = managed.pids();
    let _left = Left(pids.values().copied().collect());
    managed.formic(&["server", "stop"]).says(0, &["detached"]);
    let before = managed.folder();
    managed.moved();
    // One that is begun in its place has nothing to do with them.
    fs::create_dir(&before).unwrap();
    Manifest::of(PAIR).write(&before);
    let other = |args: &[&str], words: &[&str]| formic_in(&before, args).run().says(0, words);
    other(&["server", "--detach"], &["keeper"]);
    other(&["apply", "--wait"], &["all of it runs"]);
    other(&["down"], &["its 2 workloads"]);
    assert!(pids.values().all(|pid| alive(*pid)), "{pids:?}");
    other(&["server", "stop"], &[]);
    fs::remove_dir_all(&before).unwrap();
    managed.try_serve(&[]).says(0, &["took over 2 instances"]);
    assert_eq!(managed.pids(), pids);
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    managed.formic(&["down"]).says(0, &[]);
    wait_until("all to end", SOON, || pids.values().all(|pid| !alive(*pid)));
}
