//! The life of a server and every moment of its death again, where less is allowed: without what newer kernels have, without
//! cgroups, as an ordinary user, and below a first process that reaps nobody.
//!
//! Each runs this very program once more, in other surroundings, with the tests of `life` and `moments`.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use formic_e2e::{Folder, Tool, build_folder, signal, wait_for};

use crate::moments::WITHOUT;

/// Against hanging alone: on a quiet machine it takes a minute or two, and beside other work as much longer as that leaves it.
const LIMIT: Duration = Duration::from_secs(900);
/// What is run again, and at least how many tests that is.
const PARTS: [&str; 2] = ["life::", "moments::"];
const TESTS: u32 = 13;
/// A user that owns nothing.
const NOBODY: u32 = 65_534;

fn arguments() -> Vec<&'static str> {
    [PARTS.as_slice(), &["--test-threads=3", "--nocapture"]].concat()
}

/// That all of it was run, and passed.
fn check(condition: &str, begun: Instant, code: Option<i32>, output: &str) {
    let took = begun.elapsed();
    let passed = output.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    let passed: u32 = passed.and_then(|number| number.parse().ok()).unwrap_or(0);
    assert!(
        code == Some(0) && passed >= TESTS,
        "{condition}: {code:?}, {passed} passed in {took:?}\n{output}"
    );
    println!("{condition}: {passed} tests passed in {took:?}");
}

fn again(condition: &str, mut command: Command, without: &str) {
    let begun = Instant::now();
    command.env(WITHOUT, without);
    let ended = Tool::from(command).args(arguments()).limit(LIMIT).run();
    check(condition, begun, ended.code, &format!("{}{}", ended.stdout, ended.stderr));
}

fn own() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

#[test]
fn without_identities_that_are_never_used_again() {
    let mut command = own();
    command.env("FORMIC_FEATURES_OFF", "pidfs,pidfs-handle,exit-info");
    again("without pidfs", command, "pidfs");
}

#[test]
fn without_cgroups() {
    let mut command = own();
    command.env("FORMIC_FEATURES_OFF", "cgroup");
    again("without cgroups", command, "cgroup");
}

/// This program and the binary in a place that everybody can read.
fn copied(folder: &Folder) -> PathBuf {
    let place = |path: &Path| folder.path().join(path.strip_prefix(build_folder()).unwrap());
    for path in [std::env::current_exe().unwrap(), build_folder().join("formic")] {
        std::fs::create_dir_all(place(&path).parent().unwrap()).unwrap();
        std::fs::copy(&path, place(&path)).unwrap();
    }
    place(&std::env::current_exe().unwrap())
}

#[test]
fn as_an_ordinary_user() {
    let is_root = Tool::new("id").args(["-u"]).good().stdout.trim() == "0";
    if !is_root {
        // Then this is one.
        return again("as an ordinary user", own(), "cgroup");
    }
    let folder = Folder::new("user");
    let program = copied(&folder);
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    for (name, dir) in [("HOME", "home"), ("TMPDIR", "tmp"), ("XDG_RUNTIME_DIR", "run")] {
        let dir = folder.path().join(dir);
        std::fs::create_dir(&dir).unwrap();
        chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
        command.env(name, dir);
    }
    again("as an ordinary user", command, "cgroup");
}

#[test]
fn below_a_first_process_that_reaps_nobody() {
    let apart = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let tried = Command::new("unshare").args(apart).arg("true").stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        println!(
            "formic-test-skipped: again::below_a_first_process_that_reaps_nobody: no process namespace can be made here"
        );
        return;
    }
    let folder = Folder::new("first");
    let (output, code) = (folder.path().join("output"), folder.path().join("code"));
    // The first process becomes `sleep`, which waits for no child.
    let script =
        r#"(shift 2; "$@" >"$OUTPUT" 2>&1; echo $? >"$CODE.new"; mv "$CODE.new" "$CODE") & exec sleep 600"#;
    let mut unshare = Command::new("unshare");
    unshare.args(apart).args(["sh", "-c", script, "sh", "-", "-"]).arg(own().get_program()).args(arguments());
    let paths: [(&str, &OsStr); 2] = [("OUTPUT", output.as_os_str()), ("CODE", code.as_os_str())];
    let begun = Instant::now();
    let mut unshare = unshare.envs(paths).stdin(Stdio::null()).spawn().unwrap();
    let ended = std::panic::catch_unwind(|| {
        wait_for("the tests below it to end", LIMIT, || std::fs::read_to_string(&code).ok())
    });
    // With it goes all that is in there.
    signal(unshare.id(), formic_e2e::Signal::KILL);
    let _ = unshare.wait();
    let text = std::fs::read_to_string(&output).unwrap_or_default();
    let code = ended.ok().and_then(|code| code.trim().parse().ok());
    check("below a first process that reaps nobody", begun, code, &text);
}
