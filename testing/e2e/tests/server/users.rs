//! Instances of other users than the engine's, and programs that take all the processes that they can get.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use formic_e2e::{Folder, Managed, Manifest, Tool, build_folder, formic_in, of_application, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// A user that nothing else on this machine is.
fn own_user(salt: u32) -> u32 {
    2_100_000_000 + salt * 10_000_000 + std::process::id() % 10_000_000
}

/// Says why where this process cannot start others as somebody else.
fn is_root(test: &str) -> bool {
    // In a user namespace there are only those users that it has been given.
    let everybody =
        fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.trim().ends_with(" 4294967295"));
    let root = rustix::process::geteuid().is_root() && everybody;
    if !root {
        println!("formic-test-skipped: {test}: only root can start programs as another user");
    }
    root
}

/// A folder that others may pass through, as a temporary one may not be.
fn pass_through(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Asks over a user's socket, as that user's programs would; the first line of the answer.
fn ask(socket: &Path, method: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let request = format!(
        "POST /{method} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
         Connection: close\r\n\r\n{{}}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn an_instance_is_its_user_and_has_what_it_needs_and_no_more() {
    if !is_root("users::an_instance_is_its_user_and_has_what_it_needs_and_no_more") {
        return;
    }
    let (uid, prober) = (own_user(0), env!("CARGO_BIN_EXE_prober"));
    let script = "id -u > $FORMIC_DATA_DIR/uid; cat $FORMIC_SECRETS_DIR/key > $FORMIC_DATA_DIR/key; \
                  cat private; ls .formic; exec sleep 600";
    let text = |user: &str| {
        format!(
            "[app]\nname = \"users\"\n[service.plain]\ncommand = [\"sh\", \"-c\", {script:?}]\n{user}\n\
             secrets = {{ key = \"key\" }}\n\
             health = {{ ready = \"exec\", command = [\"sh\", \"-c\", \"test $(id -u) = {uid}\"] }}\n\
             [service.prober]\ncommand = [{prober:?}]\n{user}\nhealth = {{ ready = \"grpc\" }}\n"
        )
    };
    let user = format!("user = \"{uid}\"\ngroup = \"{uid}\"");
    let managed = Managed::new(&Manifest::of(&text(&user)), &[]);
    let folder = managed.folder();
    pass_through(&folder);
    let private = folder.join("private");
    fs::write(&private, "of root").unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    let value = folder.join("value");
    fs::write(&value, "hunter22").unwrap();
    managed.formic(&["secret", "set", "key", "--file", value.to_str().unwrap()]).says(0, &[]);

    // Nobody of that name: told before anything is done.
    managed.write(&Manifest::of(&text("user = \"no-such-user\"")));
    let refused = managed.formic(&["apply"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("there is no user \"no-such-user\""), "{}", refused.stderr);
    managed.write(&Manifest::of(&text(&user)));
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    managed.write(&Manifest::of(&text(&format!(
        "{user}\nulimits = {{ nofile = 512 }}\nno_new_privileges = false"
    ))));
    let plan = managed.formic(&["plan"]).stdout;
    for change in ["ulimits.nofile: none -> 512", "no_new_privileges: none -> false"] {
        assert!(plan.contains(change), "no {change} in {plan}");
    }

    let data = folder.join(".formic/data/plain");
    let read = |name: &str| fs::read_to_string(data.join(name)).unwrap_or_default();
    assert_eq!((read("uid").trim(), read("key").as_str()), (uid.to_string().as_str(), "hunter22"));
    let pids = managed.pids();
    for pid in pids.values() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!((line("Uid:"), line("NoNewPrivs:")), (format!("{uid} {uid} {uid} {uid}"), "1".into()));
        assert_eq!(line("CapEff:").trim_matches('0'), "");
    }
    // It may pass through the folder of the engine, and neither look around there nor into what is not its own.
    let told = managed.formic(&["logs", "plain", "-n", "10"]).stdout;
    assert!(!told.contains("of root") && told.matches("ermission denied").count() == 2, "{told}");
    assert_eq!(managed.formic(&["exec", "plain", "--", "id", "-u"]).stdout.trim(), uid.to_string());

    // Its way to the engine is its own, and nothing is changed by it; and it is there again after the brain's death.
    let socket = folder.join(format!(".formic/api-{uid}.sock"));
    for round in 0..2 {
        wait_until("the socket of the user", SOON, || UnixStream::connect(&socket).is_ok());
        let about = fs::metadata(&socket).unwrap();
        assert_eq!((about.uid(), about.permissions().mode() & 0o777), (uid, 0o600), "round {round}");
        assert!(ask(&socket, "formic.registry.v1.RegistryService/List").contains(" 200 "));
        for method in ["ControlService/Status", "ServerService/Detach", "SecretService/List"] {
            let answer = ask(&socket, &format!("formic.control.v1.{method}"));
            assert!(!answer.contains(" 200 "), "{method}: {answer}");
        }
        if round == 0 {
            managed.kill(managed.brain());
            let _ = managed.ready();
            assert_eq!(managed.pids(), pids);
        }
    }
    managed.formic(&["stop"]).says(0, &[]);
    managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
    assert_eq!(of_application(&folder), Vec::<u32>::new());
}

/// What another user has put in the place of the engine's folders is his to exchange, and is run with the engine's rights.
#[test]
fn a_state_of_another_users_is_not_taken() {
    if !is_root("users::a_state_of_another_users_is_not_taken") {
        return;
    }
    let (uid, folder, elsewhere) = (own_user(6), Folder::new("planted"), Folder::new("victim"));
    Manifest::sleeper().write(folder.path());
    let (state, victim) = (folder.path().join(".formic"), elsewhere.write("log", "untouched"));
    fs::create_dir(&state).unwrap();
    let own = |path: &Path, uid| std::os::unix::fs::lchown(path, Some(uid), None).unwrap();
    let refused = |args: &[&str], words: &[&str]| {
        formic_in(folder.path(), args).run().says(1, words);
    };
    own(&state, uid);
    for args in [&["server", "--detach"][..], &["up"]] {
        refused(args, &["belongs to user", &uid.to_string()]);
    }
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "nothing is made in it");
    own(&state, 0);
    symlink(elsewhere.path(), state.join("run")).unwrap();
    own(&state.join("run"), uid);
    refused(&["server", "--detach"], &["run belongs to user"]);
    fs::remove_file(state.join("run")).unwrap();
    symlink(&victim, state.join("server.log")).unwrap();
    refused(&["server", "--detach"], &["does not start"]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[test]
fn who_is_not_root_is_told_that_only_root_can() {
    let test = "users::who_is_not_root_is_told_that_only_root_can";
    if !is_root(test) {
        return;
    }
    let (uid, folder) = (own_user(4), Folder::new("nobody"));
    std::os::unix::fs::chown(folder.path(), Some(uid), Some(uid)).unwrap();
    let text = Manifest::sleeper().set("service.sleeper", "user", "\"root\"");
    text.write(folder.path());
    let formic = |args: &[&str]| {
        let mut command = Command::new(build_folder().join("formic"));
        command.args(args).current_dir(folder.path()).uid(uid).gid(uid);
        command
    };
    if !formic(&["--version"]).output().is_ok_and(|ended| ended.status.success()) {
        println!("formic-test-skipped: {test}: others cannot run the program under test");
        return;
    }
    let ended = Tool::from(formic(&["up", "--no-build"])).limit(SOON).run();
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    for words in ["only an engine that runs as root can start a program as root", "take `user` out"] {
        assert!(ended.stderr.contains(words), "no {words:?} in {}", ended.stderr);
    }
    assert_eq!(of_application(folder.path()), Vec::<u32>::new());
}

/// Sixty-four processes that do not hear SIGTERM, of which all but the first leave their session and then end again and again,
/// each after it has left another in its place: no look at all processes sees the same ones twice.
const BOUNDED: &str = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nmain = os.getpid()\n\
for _ in range(6): os.fork()\nwhile os.getpid() == main: time.sleep(1)\nwhile True:\n  try: os.setsid()\n  \
except OSError: pass\n  time.sleep(0.05)\n  if os.fork(): os._exit(0)\n";

/// As many as there can be.
const UNBOUNDED: &str = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n  \
try: os.fork()\n  except OSError: time.sleep(0.01)\n";

/// Runs a bomb, waits until it has as many processes as it will have, and stops it: nothing may be left.
fn is_ended_whole(program: &str, limit: &str, env: &[(&str, &str)], has_gone_off: impl Fn(&Managed) -> bool) {
    let manifest = format!(
        "[app]\nname = \"bombs\"\n[service.bomb]\ncommand = [\"/usr/bin/python3\", \"-c\", {program:?}]\n{limit}\n\
         health = {{ ready = \"none\" }}\nstop = {{ grace = \"300ms\" }}\n"
    );
    let managed = Managed::new(&Manifest::of(&manifest), env);
    let folder = managed.folder();
    pass_through(&folder);
    managed.formic(&["apply"]).says(0, &[]);
    wait_until("the bomb to go off", SOON, || has_gone_off(&managed));
    managed.formic(&["stop"]).says(0, &[]);
    let brain = managed.brain();
    let rest: Vec<u32> = of_application(&folder).into_iter().filter(|pid| *pid != brain).collect();
    assert_eq!(rest, Vec::<u32>::new(), "left of what was stopped");
    managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
}

fn has_python(test: &str) -> bool {
    let found = Path::new("/usr/bin/python3").exists();
    if !found {
        println!("formic-test-skipped: {test}: no /usr/bin/python3");
    }
    found
}

/// The processes of a user.
fn of_user(uid: u32) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let theirs = |pid: &u32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|is| is.uid() == uid);
    numbers.filter(|pid| theirs(pid) && formic_e2e::alive(*pid)).count()
}

#[test]
fn a_fork_bomb_is_ended_whole_with_cgroups_and_without() {
    if !has_python("users::a_fork_bomb_is_ended_whole_with_cgroups_and_without") {
        return;
    }
    for off in ["", "cgroup"] {
        is_ended_whole(BOUNDED, "", &[("FORMIC_FEATURES_OFF", off)], |managed| {
            of_application(&managed.folder()).len() >= 60
        });
    }
}

#[test]
fn a_fork_bomb_has_no_more_processes_than_its_user_may_have() {
    let test = "users::a_fork_bomb_has_no_more_processes_than_its_user_may_have";
    if !has_python(test) || !is_root(test) {
        return;
    }
    for (salt, off) in ["", "cgroup"].into_iter().enumerate() {
        let uid = own_user(1 + u32::try_from(salt).unwrap());
        let limit = format!("user = \"{uid}\"\ngroup = \"{uid}\"\nulimits = {{ nproc = 50 }}");
        is_ended_whole(UNBOUNDED, &limit, &[("FORMIC_FEATURES_OFF", off)], |_| of_user(uid) == 50);
        assert_eq!(of_user(uid), 0);
    }
}

#[test]
fn a_fork_bomb_has_no_more_processes_than_its_cgroup_may_have() {
    let test = "users::a_fork_bomb_has_no_more_processes_than_its_cgroup_may_have";
    if !has_python(test) {
        return;
    }
    let managed =
        Managed::new(&Manifest::sleeper().set("service.sleeper", "resources", "{ pids = 50 }"), &[]);
    let plan = managed.formic(&["plan"]);
    drop(managed);
    if let Some(note) = plan.stdout.lines().find(|line| line.contains("unenforced (pids")) {
        println!("formic-test-skipped: {test}: {}", note.trim());
        return;
    }
    is_ended_whole(UNBOUNDED, "resources = { pids = 50 }", &[], |managed| {
        let of_bomb = of_application(&managed.folder()).len();
        assert!(of_bomb <= 52, "{of_bomb} with a limit of 50");
        of_bomb >= 50
    });
}
