//! A server that is killed, replaced, detached, damaged and brought back.

use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use formic_e2e::{
    Folder, Managed, Manifest, Signal, alive, formic, formic_in, free_port, of_application, signal, wait_for,
    wait_until,
};

const SOON: Duration = Duration::from_secs(60);

/// A program that does nothing, one that another needs, and one that crashes when a file says so.
const IDLE: &str = r#"
[app]
name = "kept"
[service.alpha]
command = ["sh", "-c", "exec sleep 600"]
replicas = 2
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
[service.beta]
command = ["sh", "-c", "while ! rm crash 2>/dev/null; do sleep 0.05; done; exit 3"]
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
"#;

fn kept() -> Managed {
    Managed::running(&Manifest::of(IDLE), &[])
}

#[test]
fn a_killed_brain_or_keeper_is_followed_by_one_that_knows_everything() {
    let managed = kept();
    let pids = managed.pids();
    assert_eq!(pids.len(), 3);
    // The brain alone: its keeper starts the next one.
    let (brain, keeper) = (managed.brain(), managed.keeper());
    managed.kill(brain);
    // Who asks meanwhile waits for it, and is told about no other application.
    let asked = managed.formic(&["status"]);
    asked.says(0, &[]);
    assert!(asked.stdout.contains("alpha") && asked.stdout.contains("beta"), "{}", asked.stdout);
    let status = managed.ready();
    assert_ne!(status["pid"], brain);
    assert_eq!(
        (status["server"]["keeper_pid"].as_u64(), status["server"]["adopted"].as_u64()),
        (Some(keeper.into()), Some(3))
    );
    assert_eq!(managed.pids(), pids);
    // The keeper alone: its brain must end, and whoever starts the next one finds everything.
    let brain = managed.brain();
    managed.kill(keeper);
    wait_until("the brain to end with its keeper", SOON, || !alive(brain));
    managed.serve();
    assert_eq!(managed.pids(), pids);
    // Both.
    let (brain, keeper) = (managed.brain(), managed.keeper());
    managed.kill(keeper);
    managed.kill(brain);
    managed.serve();
    assert_eq!(managed.pids(), pids);
    assert_eq!(managed.status()["index"], 1);
    let history = managed.formic(&["history", "--json"]);
    assert!(history.stdout.contains("apply"), "{}", history.stdout);
    let events = managed.formic(&["events", "-n", "0", "--json"]);
    assert_eq!(events.stdout.matches("took over 3 instances").count(), 3, "{}", events.stdout);
}

#[test]
fn an_end_that_no_brain_saw_is_known_and_counted() {
    let managed = kept();
    let restarts = |managed: &Managed| {
        let status = managed.status();
        let beta =
            status["services"].as_array().unwrap().iter().find(|s| s["name"] == "beta").unwrap().clone();
        (beta["instances"][0]["restarts"].as_u64().unwrap(), beta["instances"][0]["last_exit"].to_string())
    };
    let crash = |managed: &Managed| std::fs::write(managed.folder().join("crash"), "").unwrap();
    crash(&managed);
    wait_until("a restart", SOON, || restarts(&managed).0 == 1);
    // It ends while there is no brain, and its keeper writes down how.
    let (before, beta) = wait_for("the restarted one", SOON, || {
        let pids = managed.pids();
        let beta = pids.iter().find(|(id, _)| id.starts_with("beta-")).map(|(_, pid)| *pid)?;
        Some((pids, beta))
    });
    let brain = managed.brain();
    // One that stands still sees nothing either, and its end leaves the rest to the keeper.
    assert!(signal(brain, Signal::STOP));
    crash(&managed);
    wait_until("the second end", SOON, || !alive(beta));
    managed.kill(brain);
    wait_until("the second restart", SOON, || restarts(&managed).0 == 2);
    assert!(restarts(&managed).1.contains("code 3"), "{:?}", restarts(&managed));
    let alphas = |pids: &std::collections::BTreeMap<String, u32>| {
        pids.iter()
            .filter(|(id, _)| id.starts_with("alpha-"))
            .map(|(id, pid)| (id.clone(), *pid))
            .collect::<Vec<_>>()
    };
    assert_eq!(alphas(&managed.pids()), alphas(&before));
}

#[test]
fn detached_workloads_go_on_and_are_taken_over() {
    let managed = kept();
    let (pids, keeper) = (managed.pids(), managed.keeper());
    managed.formic(&["server", "stop"]).says(0, &["detached", "3 instances go on"]);
    assert!(!alive(keeper) && managed.try_status().is_none());
    assert!(pids.values().all(|pid| alive(*pid)));
    for verb in ["status", "down"] {
        managed.formic(&[verb]).says(3, &["kept is not running here", "3 instances run without a server"]);
    }
    // What is in the way of its socket stays, and is told before anything is started.
    let socket = managed.folder().join(".formic/api.sock");
    std::fs::write(&socket, "mine").unwrap();
    managed.try_serve(&[]).says(1, &["is no socket", "not removed"]);
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "mine");
    std::fs::remove_file(&socket).unwrap();
    assert!(managed.try_serve(&[]).stderr.contains("took over 3 instances"));
    assert_eq!(managed.pids(), pids);
    // One server for one application, and no `up` beside it.
    managed.try_serve(&[]).says(1, &["is managed already", "formic server stop"]);
    managed.formic(&["up", "."]).says(1, &["is running already"]);
    // What runs is stopped, and can come back.
    managed.formic(&["stop"]).says(0, &["stopped kept", "its server goes on"]);
    wait_until("all to be gone", SOON, || pids.values().all(|pid| !alive(*pid)));
    managed.kill(managed.brain());
    assert_eq!(managed.pids().len(), 0, "it stays down");
    managed.formic(&["rollback", "--wait"]).says(0, &[]);
    assert_eq!(managed.pids().len(), 3);
    managed.formic(&["stop", "--now"]).says(0, &[]);
    managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
    assert_eq!(of_application(&managed.folder()), Vec::<u32>::new());
}

/// Answers with its process number, from the socket that it was handed, which it keeps under another number.
const PUBLIC: &str = r#"
import os, socket
kept = os.dup(3)
os.close(3)
listener = socket.socket(fileno=kept)
while True:
    connection, _ = listener.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"#;

/// Whether a process has the socket that listens on this port.
fn has_listener(pid: u32, port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let inode = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "0A").then(|| fields[9].to_owned())
    });
    let Some(inode) = inode else { return false };
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let link = format!("socket:[{inode}]");
    descriptors.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(&link)))
}

#[test]
fn a_public_socket_outlives_all_who_have_it_but_one() {
    let port = free_port();
    let manifest = format!(
        "[app]\nname = \"public\"\n[service.web]\ncommand = [\"python3\", \"web.py\"]\n\
         sockets = {{ http = \"127.0.0.1:{port}\" }}\nhealth = {{ ready = \"none\" }}\n\
         update = {{ min_ready = \"0s\", keep_old = \"0s\" }}\n"
    );
    let managed = Managed::new(&Manifest::of(&manifest), &[]);
    std::fs::write(managed.folder().join("web.py"), PUBLIC).unwrap();
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    let ask = || {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens at all times");
        connection.set_read_timeout(Some(SOON)).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.parse::<u32>().unwrap()
    };
    let all_but_it = |managed: &Managed| {
        let (brain, keeper) = (managed.brain(), managed.keeper());
        managed.kill(keeper);
        managed.kill(brain);
        wait_until("both to be gone", SOON, || !alive(brain) && !alive(keeper));
        managed.serve();
    };
    let first = ask();
    all_but_it(&managed);
    managed.formic(&["restart", "web", "--wait"]).says(0, &["1 instance is replaced", "all of it runs"]);
    assert!(!alive(first), "it was waited for");
    let second = ask();
    assert_ne!(first, second);
    // Taken back at once, not when it is needed: then the one that has it may be gone.
    all_but_it(&managed);
    let keeper = managed.keeper();
    wait_until("the keeper to have it again", SOON, || has_listener(keeper, port));
    managed.kill(second);
    assert_ne!(ask(), second);
}

#[test]
fn an_upgrade_swaps_brain_and_keeper_under_what_runs() {
    let managed = kept();
    let (pids, brain, keeper) = (managed.pids(), managed.brain(), managed.keeper());
    let next = managed.folder().join("formic-next");
    let program = formic_e2e::build_folder().join("formic");
    std::fs::copy(program, &next).unwrap();
    let path = next.to_str().unwrap();
    managed.formic(&["server", "upgrade", "--program", path]).says(0, &["brain: process", "keeper: process"]);
    let status = managed.status();
    assert_ne!(status["pid"], brain);
    assert_eq!(status["server"]["program"], path);
    assert_eq!(status["server"]["keeper_pid"], keeper);
    assert_eq!(std::fs::read_link(format!("/proc/{keeper}/exe")).unwrap(), next);
    assert_eq!(managed.pids(), pids);
    // One that does not come up gives its place back.
    let bad = managed.folder().join("bad");
    std::fs::copy("/bin/false", &bad).unwrap();
    let ended = managed.formic(&["server", "upgrade", "--program", bad.to_str().unwrap()]);
    ended.says(1, &["did not come up", "the one before is back"]);
    assert_eq!(managed.status()["server"]["program"], path);
    assert_eq!(managed.pids(), pids);
    managed
        .formic(&["server", "upgrade", "--program", "/no/such/file"])
        .says(1, &["there is no /no/such/file"]);
}

#[test]
fn a_damaged_state_harms_nothing_that_runs() {
    let managed = kept();
    let pids = managed.pids();
    managed.formic(&["server", "stop"]).says(0, &[]);
    let database = managed.folder().join(".formic/state/state.redb");
    let mut bytes = std::fs::read(&database).unwrap();
    // Half of it may be all that is in use, and then nothing is lost and nothing is said.
    bytes.truncate(8 << 10);
    std::fs::write(&database, &bytes).unwrap();
    // It says so at once, and nothing of it is left in the way.
    managed
        .try_serve(&[])
        .says(1, &["the server does not start: the state cannot be opened", "--set-aside-state"]);
    assert!(pids.values().all(|pid| alive(*pid)));
    let ended = managed.try_serve(&["--set-aside-state"]);
    ended.says(0, &["touches nothing before the next `formic apply`", "took over 3 instances"]);
    assert_eq!(managed.pids(), pids);
    // Nobody stops them, and that is said.
    let status = managed.status();
    let rows = status["services"].as_array().unwrap();
    assert!(rows.len() == 2 && rows.iter().all(|row| row["state"] == "kept"), "{status:#}");
    let why = managed.formic(&["why", rows[0]["name"].as_str().unwrap()]);
    assert!(
        why.stdout.contains("is kept: it goes on as it is; nobody has said what is wanted"),
        "{}",
        why.stdout
    );
    managed.formic(&["describe", "alpha"]).says(1, &["alpha is kept: it goes on as it is"]);
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    assert_eq!(managed.ready()["services"].as_array().unwrap().len(), 2);
}

#[test]
fn a_damaged_key_harms_nothing_that_runs_and_has_a_way_out() {
    let managed = kept();
    let pids = managed.pids();
    managed.formic(&["server", "stop"]).says(0, &[]);
    let state = managed.folder().join(".formic/state");
    let key = state.join("secrets.key");
    let right = std::fs::read(&key).unwrap();
    let way_out = ["put the key back from a backup", "--set-aside-state"];
    std::fs::remove_file(&key).unwrap();
    managed.try_serve(&[]).says(1, &[&["is missing"], &way_out[..]].concat());
    let mode = |mode| {
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    std::fs::write(&key, "").unwrap();
    mode(0o600);
    managed.try_serve(&[]).says(1, &[&["is not the key of this database"], &way_out[..]].concat());
    // Without a server it is the same.
    managed.formic(&["secret", "list"]).says(1, &way_out);
    mode(0o644);
    managed.try_serve(&[]).says(1, &["can be read by others (mode 644)", "`chmod 600`", "--set-aside-state"]);
    mode(0o600);
    assert!(pids.values().all(|pid| alive(*pid)));
    managed
        .try_serve(&["--set-aside-state"])
        .says(0, &["the key does not fit: it is now", "touches nothing before", "took over 3 instances"]);
    assert_eq!(managed.pids(), pids);
    // With the right key the old one is what it was.
    managed.formic(&["server", "stop"]).says(0, &[]);
    std::fs::rename(state.join("state.redb.damaged-1"), state.join("state.redb")).unwrap();
    std::fs::write(&key, right).unwrap();
    managed.serve();
    assert_eq!(managed.pids(), pids);
    assert_eq!(managed.ready()["services"].as_array().unwrap().len(), 2);
    // Nobody is to take a key that only others could read for the wrong one.
    managed.formic(&["server", "stop"]).says(0, &[]);
    mode(0o644);
    managed
        .try_serve(&["--set-aside-state"])
        .says(0, &["others could read the key, which may be the right one of that state: it is now"]);
    assert_eq!(managed.pids(), pids);
}

#[test]
fn a_feature_that_is_none_is_refused_with_those_that_are() {
    let folder = Folder::new("features");
    Manifest::of(IDLE).write(folder.path());
    for verb in ["up", "server"] {
        let tool = formic_in(folder.path(), &[verb]).env("FORMIC_FEATURES_OFF", "cgroup,nonsense");
        tool.run().says(1, &["FORMIC_FEATURES_OFF names \"nonsense\"", "there are pidfs,"]);
    }
}

#[test]
fn a_unit_is_shown_and_installed() {
    let managed = Managed::new(&Manifest::of(IDLE), &[]);
    let shown = managed.formic(&["server", "install", "--print"]);
    shown.says(0, &[]);
    assert!(
        shown.stdout.contains("Type=notify-reload") && shown.stdout.contains("KillMode=process"),
        "{}",
        shown.stdout
    );
    let folder = managed.folder();
    let install = || {
        let tool = formic(&["server", "install", "--user", folder.to_str().unwrap()]);
        tool.env("XDG_CONFIG_HOME", folder.join("config")).run()
    };
    install().says(0, &["systemctl --user daemon-reload"]);
    assert_eq!(
        std::fs::read_to_string(folder.join("config/systemd/user/formic-kept.service"))
            .unwrap()
            .lines()
            .next(),
        Some("[Unit]")
    );
    install().says(1, &["is there already", "--force"]);
}

#[test]
fn a_wait_is_for_this_change_and_not_for_one_that_failed_before() {
    let text = |rest: &str| {
        format!(
            "[app]\nname = \"waits\"\n[service.web]\n{rest}\nhealth = {{ ready = \"none\" }}\n\
             update = {{ min_ready = \"0s\", keep_old = \"0s\" }}\n\
             [service.back]\n{rest}\nhealth = {{ ready = \"none\" }}\nupdate = {{ min_ready = \"0s\", keep_old = \"0s\" }}\n"
        )
    };
    let good = "command = [\"sleep\", \"600\"]\nreplicas = 2";
    let managed = Managed::running(&Manifest::of(&text(good)), &[]);
    managed.write(&Manifest::of(&text("command = [\"/no/such/program\"]\nreplicas = 2")));
    // Both are told, and not only the first one.
    managed.formic(&["apply", "--wait"]).says(1, &["web failed", "back failed"]);
    let running = |count: usize| managed.pids().keys().filter(|id| id.starts_with("web-")).count() == count;
    wait_until("the way back", SOON, || running(2));
    // What became of it and why is told as long as it is remembered.
    let history = managed.formic(&["history"]).stdout;
    let told = history.lines().find(|line| line.starts_with("2 reverted: "));
    let told = told.unwrap_or_else(|| panic!("{history}"));
    assert!(["web: ", "back: ", "/no/such/program"].iter().all(|part| told.contains(part)), "{told}");
    for replicas in [4_usize, 1] {
        managed.formic(&["scale", &format!("web={replicas}"), "--wait"]).says(0, &[]);
        assert!(running(replicas), "{:#}", managed.status());
    }
    managed.formic(&["scale", "web=3", "--wait"]).says(0, &[]);
    managed.formic(&["scale", "web=0", "--wait"]).says(0, &["web has stopped"]);
    // As after a stop: as many as there were.
    managed.formic(&["start", "web", "--wait"]).says(0, &[]);
    assert!(running(3), "{:#}", managed.status());
}

#[test]
fn a_wait_that_is_too_short_says_what_is_waited_for() {
    let slow = IDLE.replace("min_ready = \"0s\"", "min_ready = \"2m\"");
    let managed = Managed::new(&Manifest::of(&slow), &[]);
    let waits = "alpha is ready (its update waits until all are ready for as long as `min_ready` says)";
    managed.formic(&["apply", "--wait", "--timeout", "5s"]).says(1, &["not done after 5 s", waits]);
}

#[test]
fn a_shell_with_few_open_files_is_no_limit_for_many_instances() {
    let test = "life::a_shell_with_few_open_files_is_no_limit_for_many_instances";
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if most.is_some_and(|most| most < 1024) {
        println!("formic-test-skipped: {test}: no more than {most:?} open files are allowed here");
        return;
    }
    // More instances than the server may have files open where nobody raises it.
    let manifest = "[app]\nname = \"many\"\n[service.idle]\ncommand = [\"sleep\", \"600\"]\nreplicas = 60\n\
                    health = { ready = \"none\" }\nupdate = { min_ready = \"0s\", keep_old = \"0s\" }\n";
    let managed = Managed::new(&Manifest::of(manifest), &[]);
    managed.formic(&["server", "stop"]).says(0, &[]);
    let own = formic(&["server", "--detach"]).within(&managed.folder()).into_command();
    let mut few = std::process::Command::new("sh");
    few.args(["-c", "ulimit -S -n 64; exec \"$0\" server --detach"]).arg(own.get_program());
    few.current_dir(managed.folder());
    for (name, value) in own.get_envs() {
        few.env(name, value.unwrap_or_default());
    }
    formic_e2e::Tool::from(few).run().says(0, &["keeper"]);
    let apply = formic_in(&managed.folder(), &["apply", "--wait"]);
    apply.limit(Duration::from_secs(300)).run().says(0, &[]);
    assert_eq!(managed.pids().len(), 60);
}

#[test]
fn a_server_whose_brain_stands_still_can_be_stopped() {
    let managed = kept();
    let (pids, keeper, brain) = (managed.pids(), managed.keeper(), managed.brain());
    formic_e2e::signal(brain, formic_e2e::Signal::STOP);
    managed.formic(&["server", "stop"]).says(0, &["its brain does not answer", "detached"]);
    assert!(!alive(keeper) && !alive(brain));
    assert!(pids.values().all(|pid| alive(*pid)));
    managed.serve();
    assert_eq!(managed.pids(), pids);
}

#[test]
fn a_server_whose_keeper_stands_still_says_so() {
    let managed = kept();
    let (pids, keeper, brain) = (managed.pids(), managed.keeper(), managed.brain());
    signal(keeper, Signal::STOP);
    let kill = format!("kill -9 {keeper}");
    managed.formic(&["server", "stop"]).says(3, &["its keeper, process", "does not answer", &kill]);
    signal(keeper, Signal::KILL);
    wait_until("the brain to end with its keeper", SOON, || !alive(brain));
    managed.serve();
    assert_eq!(managed.pids(), pids);
}

#[test]
fn what_is_in_the_way_of_a_server_is_named() {
    let managed = kept();
    managed.formic(&["stop"]).says(0, &[]);
    for verb in [&["start", "alpha"][..], &["scale", "alpha=2"], &["restart", "alpha"]] {
        managed.formic(verb).says(1, &["`formic apply` starts", "`formic rollback` what was wanted before"]);
    }
    managed.formic(&["server", "stop"]).says(0, &[]);
    // Somebody listens where it is to listen, which nobody can choose.
    let socket = managed.folder().join(".formic/api.sock");
    let other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let ended = managed.try_serve(&[]);
    ended.says(1, &["in use by another process", "end that process", "api.sock"]);
    assert!(!ended.stderr.contains("port 0"), "{}", ended.stderr);
    drop(other);
    // A file is where a folder of its own must be.
    let logs = managed.folder().join(".formic/logs");
    std::fs::remove_dir_all(&logs).unwrap();
    std::fs::write(&logs, "mine").unwrap();
    managed.try_serve(&[]).says(1, &[".formic/logs must be a folder", "move it away"]);
    std::fs::remove_file(&logs).unwrap();
    let manifest = managed.folder().join("formic.toml");
    std::fs::write(&manifest, b"[app]\nname = \"caf\xe9\"\n").unwrap();
    managed.try_serve(&[]).says(1, &["is not UTF-8: line 2", "iconv"]);
}

#[test]
fn a_brain_that_stands_still_is_followed_by_another() {
    let managed = Managed::running(&Manifest::of(IDLE), &[("FORMIC_WATCHDOG", "5")]);
    let (pids, brain) = (managed.pids(), managed.brain());
    formic_e2e::signal(brain, formic_e2e::Signal::STOP);
    wait_until("the end of the one that stands still", SOON, || !alive(brain));
    assert_ne!(managed.brain(), brain);
    assert_eq!(managed.pids(), pids);
}

#[test]
fn a_state_that_is_older_than_it_should_be_harms_nothing_that_runs() {
    let managed = kept();
    let database = managed.folder().join(".formic/state/state.redb");
    managed.formic(&["server", "stop"]).says(0, &[]);
    let older = std::fs::read(&database).unwrap();
    managed.serve();
    // Another revision, one instance more, and a service that the older state knows nothing of.
    let newer = IDLE.replace("sleep 600", "sleep 700").replace("replicas = 2", "replicas = 3")
        + "[service.gamma]\ncommand = [\"sleep\", \"600\"]\nhealth = { ready = \"none\" }\n\
           update = { min_ready = \"0s\", keep_old = \"0s\" }\n";
    managed.write(&Manifest::of(&newer));
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    let pids = managed.pids();
    assert_eq!(pids.len(), 5);
    managed.formic(&["server", "stop"]).says(0, &[]);
    std::fs::write(&database, older).unwrap();
    managed.serve();
    let told = "The state on disk is older than it should be";
    assert!(managed.formic(&["status"]).stdout.contains(told));
    assert!(managed.formic(&["why", "alpha"]).stdout.contains(told));
    assert!(managed.formic(&["events"]).stdout.contains(told));
    // Longer than a brain replaces nothing after it has taken over.
    std::thread::sleep(Duration::from_secs(4));
    assert!(pids.values().all(|pid| alive(*pid)), "what runs goes on");
    let left = of_application(&managed.folder()).len();
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    assert!(!managed.formic(&["status"]).stdout.contains(told));
    assert!(managed.pids().len() == 5 && left >= 5, "{:#}", managed.status());
}
