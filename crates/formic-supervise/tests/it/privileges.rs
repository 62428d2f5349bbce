//! As whom instances run and what they may have: as the kernel shows it of the processes themselves.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use formic_supervise::{Account, Beside, Features, Privileges, SpawnError, Start, Step, Ulimits};

use crate::scene::{SOON, Scene, all_features, features, lives, wait_for};

/// A user that nothing else on the machine is.
fn nobody_else() -> Account {
    let uid = 2_000_000_000 + std::process::id();
    Account { name: None, uid, gid: uid, groups: vec![uid, 77_001], home: None }
}

fn is_root(test: &str) -> bool {
    // In a user namespace there are only those users that it has been given.
    let everybody =
        fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.trim().ends_with(" 4294967295"));
    let may = nobody_else().check().is_ok() && everybody;
    if !may {
        println!("formic-test-skipped: privileges::{test}: only root can become another user");
    }
    may
}

fn as_user(launch: formic_supervise::Launch, account: &Account, ulimits: Ulimits) -> Start {
    Start::from(launch).with_privileges(Privileges {
        account: Some(account.clone()),
        ulimits,
        ..Privileges::default()
    })
}

/// A scene that other users can get into.
fn open_scene(name: &str, features: Features) -> Scene {
    let scene = Scene::of(name, features);
    fs::set_permissions(&scene.dir, fs::Permissions::from_mode(0o711)).unwrap();
    scene
}

const STATUS: &str = "grep -E '^(Uid|Gid|Groups|NoNewPrivs):' /proc/self/status | tr -s '\\t ' ' '; ulimit -n; ulimit -Hc; echo end";

#[tokio::test]
async fn nothing_gets_more_rights_or_leaves_a_core_unless_that_is_asked_for() {
    let scene = Scene::new("defaults");
    let process = scene.run("a-1", STATUS).await;
    let lines = scene.lines("a-1", 7).await;
    assert_eq!(lines[3], "NoNewPrivs: 1", "{lines:?}");
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = files.maximum.unwrap_or(1 << 20).min(1 << 20);
    assert!(lines[4].parse::<u64>().unwrap() >= most.min(files.current.unwrap_or(most)), "{lines:?}");
    assert_eq!(lines[4].parse::<u64>().unwrap(), most.max(files.current.unwrap_or(most)), "{lines:?}");
    assert_eq!(lines[5], "0", "{lines:?}");
    process.stop(SOON).await.unwrap();

    let kept = Privileges {
        no_new_privileges: false,
        ulimits: Ulimits { nofile: Some(123), ..Ulimits::default() },
        ..Privileges::default()
    };
    let start = Start::from(scene.script("a-2", STATUS)).with_privileges(kept);
    let process = scene.supervisor.spawn(start).await.unwrap();
    let lines = scene.lines("a-2", 7).await;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("NoNewPrivs:")).unwrap().trim().to_owned();
    assert_eq!((lines[3].as_str(), lines[4].as_str()), (format!("NoNewPrivs: {own}").as_str(), "123"));
    process.stop(SOON).await.unwrap();
}

#[tokio::test]
async fn a_limit_that_cannot_be_had_is_told_and_nothing_runs() {
    let scene = Scene::new("limits");
    // More than the kernel lets anybody have open.
    let ulimits = Ulimits { nofile: Some(1 << 40), ..Ulimits::default() };
    let start = Start::from(scene.script("a-1", "touch ran"))
        .with_privileges(Privileges { ulimits, ..Privileges::default() });
    let error = scene.supervisor.spawn(start).await.unwrap_err();
    assert!(matches!(error, SpawnError::Exec { step: Step::Limits, .. }), "{error:?}");
    assert_eq!(error.to_string(), "set the limits of /bin/sh");
    assert!(!error.is_retryable() && !scene.dir.join("ran").exists() && scene.records().is_empty());
}

#[tokio::test]
async fn an_instance_is_its_user_for_good_and_its_logs_are_that_users() {
    if !is_root("an_instance_is_its_user_for_good_and_its_logs_are_that_users") {
        return;
    }
    for features in [features(), all_features()] {
        let scene = open_scene("user", features);
        let user = nobody_else();
        // Its standard output can be opened again by its path, and root's things cannot.
        let script =
            format!("{STATUS}; echo again >> /dev/stdout; cat /etc/shadow; touch ran; exec sleep 60");
        let start = as_user(scene.script("a-1", &script), &user, Ulimits::default());
        let process = scene.supervisor.spawn(start).await.unwrap();
        let lines = scene.lines("a-1", 8).await;
        let uid = user.uid;
        assert_eq!(lines[0], format!("Uid: {uid} {uid} {uid} {uid}"));
        assert_eq!(lines[1], format!("Gid: {uid} {uid} {uid} {uid}"));
        assert_eq!(lines[2].trim(), format!("Groups: 77001 {uid}"));
        assert_eq!((lines[3].as_str(), lines[7].as_str()), ("NoNewPrivs: 1", "again"));
        assert_eq!(fs::metadata(process.stdout()).unwrap().uid(), uid);
        // A command beside it is that user too.
        let check = Beside {
            program: "/bin/sh".into(),
            args: [
                "-c",
                &format!("test \"$(id -u) $(id -G)\" = \"{uid} {uid} 77001\" && echo it is > /dev/stderr"),
            ]
            .map(Into::into)
            .into(),
            env: [("PATH".to_owned(), "/usr/bin:/bin".into())].into(),
            cwd: scene.dir.clone(),
        };
        assert!(check.run(&process, SOON).await.unwrap().success());
        // The next engine knows it again, and ends it with all that it started.
        let heir = scene.heir(all_features());
        let found = heir.adopt(Duration::from_secs(1)).await.unwrap();
        assert!(matches!(found[0].fate, formic_supervise::Fate::Running(_)), "{found:?}");
        process.stop(SOON).await.unwrap();
        assert!(!lives(process.pid()) && !scene.dir.join("ran").exists());
        let told = fs::read_to_string(process.stderr()).unwrap();
        assert!(told.contains("/etc/shadow") && told.contains("denied"), "{told}");
    }
}

#[tokio::test]
async fn who_may_not_enter_or_execute_is_told() {
    if !is_root("who_may_not_enter_or_execute_is_told") {
        return;
    }
    let scene = open_scene("denied", features());
    let user = nobody_else();
    let private = scene.dir.join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let launch = formic_supervise::Launch { cwd: private.clone(), ..scene.script("a-1", "true") };
    let error = scene.supervisor.spawn(as_user(launch, &user, Ulimits::default())).await.unwrap_err();
    let SpawnError::Exec { step: Step::Chdir, path, source } = error else { panic!("{error:?}") };
    assert_eq!((path, source.raw_os_error()), (private, Some(libc::EACCES)));
}

/// Bounded by a limit of its user's processes, it cannot take the machine; and however fast it forks, it is ended whole.
#[tokio::test]
async fn a_fork_bomb_is_held_by_its_users_limit_and_ended_whole() {
    if !is_root("a_fork_bomb_is_held_by_its_users_limit_and_ended_whole") {
        return;
    }
    const MOST: u64 = 60;
    // A user for each: what ended and was not reaped yet, as below a first process that reaps nobody, counts as a process.
    for (features, offset) in [(features(), 1_000_000), (all_features(), 1_000_001)] {
        let scene = open_scene("bomb", features);
        let user = Account { uid: nobody_else().uid + offset, ..nobody_else() };
        let ulimits = Ulimits { nproc: Some(MOST), ..Ulimits::default() };
        let bomb = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\nwhile True:\n  try:\n    os.fork()\n  except OSError:\n    time.sleep(0.01)\n";
        let launch = scene.launch("a-1", "python3", &["-c", bomb]);
        let process = match scene.supervisor.spawn(as_user(launch, &user, ulimits)).await {
            Err(error) if error.errno() == Some(libc::ENOENT) => {
                println!("formic-test-skipped: privileges::a_fork_bomb: no python3 that this user can run");
                return;
            }
            spawned => spawned.unwrap(),
        };
        wait_for("as many as there can be", || of_user(user.uid).len() as u64 == MOST).await;
        let stopped = process.stop(Duration::from_millis(100)).await.unwrap();
        assert!(!stopped.killed.is_empty(), "{stopped:?}");
        assert_eq!(of_user(user.uid), Vec::<u32>::new(), "left of the bomb");
        assert!(scene.records().is_empty());
    }
}

/// The living processes of a user.
fn of_user(uid: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|is| is.uid() == uid) && lives(*pid))
        .collect()
}

#[tokio::test]
async fn a_command_beside_an_instance_is_bound_as_it_is() {
    let scene = Scene::new("beside-bounds");
    let bound = Privileges {
        ulimits: Ulimits { nofile: Some(123), nproc: None, core: 4096 },
        ..Privileges::default()
    };
    let free = Privileges { no_new_privileges: false, ..Privileges::default() };
    for (id, privileges) in [("a-1", bound), ("a-2", free)] {
        let start =
            Start::from(scene.script(id, &format!("{STATUS}; exec sleep 60"))).with_privileges(privileges);
        let instance = scene.supervisor.spawn(start).await.unwrap();
        let own = scene.lines(id, 7).await;
        let beside = Beside {
            program: "/bin/sh".into(),
            args: ["-c".into(), format!("{{ {STATUS}; }} > beside").into()].into(),
            env: [("PATH".to_owned(), "/usr/bin:/bin".into())].into(),
            cwd: scene.dir.clone(),
        };
        assert!(beside.run(&instance, SOON).await.unwrap().success());
        let told = fs::read_to_string(scene.dir.join("beside")).unwrap();
        assert_eq!(told.lines().collect::<Vec<_>>(), own, "{id}");
        // And so for the engine after this one, which reads it.
        let bounds = instance.record().bounds.unwrap();
        assert_eq!((bounds, bounds.no_new_privileges), (instance.rights().bounds.unwrap(), id == "a-1"));
        instance.kill().await.unwrap();
    }
}
