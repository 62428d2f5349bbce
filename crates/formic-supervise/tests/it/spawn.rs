//! Starting: what the program finds, and what is left when it cannot be started.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use formic_supervise::trampoline::{ARGUMENT, Payload};
use formic_supervise::{ExitStatus, Record, Socket, SpawnError, State, Step, Trampoline};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use crate::scene::{FIXTURE, SOON, Scene, lives, signal, wait_for, zombies};

#[tokio::test]
async fn output_goes_to_private_files_with_nobody_reading() {
    let scene = Scene::new("output");
    let script = "echo out; echo err >&2; head -c 1000000 /dev/zero";
    let process = scene.run("a-1", script).await;
    assert_eq!(process.wait().await, ExitStatus::Code(0));
    assert_eq!(process.try_wait(), Some(ExitStatus::Code(0)));
    assert_eq!(fs::metadata(process.stdout()).unwrap().len(), 4 + 1_000_000);
    assert_eq!(fs::read_to_string(process.stderr()).unwrap(), "err\n");
    assert_eq!(fs::metadata(process.stdout()).unwrap().permissions().mode() & 0o777, 0o600);
    process.stop(Duration::ZERO).await.unwrap();
    // A second generation appends.
    let process = scene.run("a-1", "echo again").await;
    process.wait().await;
    assert!(fs::read(process.stdout()).unwrap().ends_with(b"\0again\n"));
    process.stop(Duration::ZERO).await.unwrap();
    assert_eq!(scene.records(), Vec::<String>::new());
}

#[tokio::test]
async fn the_environment_is_exactly_what_was_given_and_the_mark() {
    let scene = Scene::new("env");
    let mut launch = scene.launch("a-1", "env", &[]);
    launch.env.insert("SECRET".into(), "a b\nc".into());
    let process = scene.supervisor.spawn(launch).await.unwrap();
    assert_eq!(process.wait().await, ExitStatus::Code(0));
    let mut lines: Vec<_> = scene.stdout("a-1").lines().map(ToOwned::to_owned).collect();
    lines.sort();
    let run_dir = format!("FORMIC_RUN_DIR={}", scene.run_dir().display());
    let run_id = format!("FORMIC_RUN_ID={}", formic_supervise::HomeId::of(scene.run_dir()).unwrap());
    assert_eq!(lines, ["FORMIC_INSTANCE=a-1", &run_dir, &run_id, "PATH=/usr/bin:/bin", "SECRET=a b", "c"]);
    process.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn two_generations_accept_from_one_socket_and_no_connection_is_lost() {
    let scene = Scene::new("sockets");
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = http.local_addr().unwrap();
    let sockets = vec![
        Socket::new("http", http),
        Socket::new("admin", UnixListener::bind(scene.dir.join("admin.sock")).unwrap()),
    ];
    let ask = || {
        let connection = TcpStream::connect(address).unwrap();
        connection.set_read_timeout(Some(SOON)).unwrap();
        connection
    };
    let answer = |mut connection: TcpStream| {
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    };
    // Before anyone accepts: the queue belongs to the socket.
    let early = ask();
    let start = |id: &str| scene.launch(id, FIXTURE, &["accept", "admin"]).with_sockets(sockets.clone());
    let old = scene.supervisor.spawn(start("old-1")).await.unwrap();
    assert_eq!(scene.lines("old-1", 1).await, ["http:admin"]);
    assert_eq!(answer(early), "old-1");
    assert_eq!(old.record().sockets, ["http", "admin"]);
    let new = scene.supervisor.spawn(start("new-1")).await.unwrap();
    scene.lines("new-1", 1).await;
    // The old one takes nothing any more, and what waits when it ends is the new one's.
    signal(old.pid(), libc::SIGSTOP);
    wait_for("it to be stopped", || {
        fs::read_to_string(format!("/proc/{}/stat", old.pid())).unwrap().contains(") T ")
    })
    .await;
    let waiting: Vec<_> = (0..20).map(|_| ask()).collect();
    old.kill().await.unwrap();
    let answers: Vec<_> = waiting.into_iter().map(answer).collect();
    assert!(answers.iter().all(|from| from == "new-1"), "{answers:?}");
    assert_eq!(answer(ask()), "new-1");
    new.kill().await.unwrap();
    // The caller's own is the last.
    drop(sockets);
    assert!(TcpStream::connect(address).is_err());
}

/// The next engine has no socket but those that instances have kept, each wherever it likes.
#[tokio::test]
async fn a_socket_is_taken_back_from_whoever_was_handed_it() {
    let scene = Scene::new("back");
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let sockets = listeners.map(|listener| Socket::new("http", listener)).to_vec();
    // The first is kept under another number, and the second under its own.
    let script = "exec 9<&3 3<&-; echo moved; exec sleep 600";
    let process = scene.supervisor.spawn(scene.script("a-1", script).with_sockets(sockets)).await.unwrap();
    scene.lines("a-1", 1).await;
    let heir = scene.heir(crate::scene::features());
    let adopted = heir.adopt(Duration::ZERO).await.unwrap();
    assert_eq!(adopted.len(), 1);
    let taken = addresses.map(|address| heir.processes()[0].listener(address).unwrap().unwrap());
    assert!(heir.processes()[0].listener("127.0.0.1:1".parse().unwrap()).unwrap().is_none());
    process.kill().await.unwrap();
    assert!(addresses.iter().all(|address| TcpStream::connect(address).is_ok()));
    drop(taken);
    assert!(addresses.iter().all(|address| TcpStream::connect(address).is_err()));
}

#[tokio::test]
async fn nothing_of_the_engine_is_inherited() {
    let scene = Scene::new("inherit");
    // The engine (as every Rust program) ignores SIGPIPE, and holds a descriptor that would be inherited.
    let leak = fs::File::open("/dev/null").unwrap();
    fcntl_setfd(&leak, FdFlags::empty()).unwrap();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert!(!own.contains("SigIgn:\t0000000000000000"), "the test proves nothing");
    let script = "pwd; cut -d' ' -f 5,6 /proc/$$/stat; echo $$; umask; readlink /proc/$$/fd/0; ls /proc/$$/fd; \
                  grep -E 'Sig(Ign|Blk)' /proc/self/status";
    let process = scene.run("a-1", script).await;
    process.wait().await;
    let output = scene.stdout("a-1");
    let pid = process.pid();
    let expected = format!(
        "{}\n{pid} {pid}\n{pid}\n0022\n/dev/null\n0\n1\n2\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n",
        scene.dir.display()
    );
    assert_eq!(output.replace("\n10\n", "\n"), expected);
    process.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let scene = Scene::new("exit");
    for (script, expected) in [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 78", ExitStatus::Code(78)),
        ("kill -TERM $$", ExitStatus::Signal(15)),
        ("kill -KILL $$", ExitStatus::Signal(9)),
    ] {
        let process = scene.run("a-1", script).await;
        let (one, two) = tokio::join!(process.wait(), process.wait());
        assert_eq!((one, two), (expected, expected), "{script}");
        assert_eq!(process.stop(Duration::from_secs(5)).await.unwrap().status, expected);
        assert_eq!(process.wait().await, expected, "after it was reaped");
    }
}

#[tokio::test]
async fn the_record_is_on_disk_and_names_the_process() {
    let scene = Scene::new("record");
    let process = scene.run("a-1", "cat run/a-1.json; sleep 60").await;
    wait_for("the record in the output", || scene.stdout("a-1").contains("\n}")).await;
    // What the program itself saw in its first moment.
    let record: Record = serde_json::from_str(&scene.stdout("a-1")).unwrap();
    assert_eq!(record, process.record());
    assert_eq!((record.state, record.identity.as_ref()), (State::Spawned, Some(process.identity())));
    assert_eq!(record.identity.unwrap().pid, process.pid());
    assert_eq!(scene.supervisor.processes().len(), 1);
    process.kill().await.unwrap();
    assert_eq!(scene.supervisor.processes().len(), 0);
}

#[tokio::test]
async fn what_cannot_be_executed_says_why_and_leaves_nothing() {
    let scene = Scene::new("exec");
    let damaged = scene.dir.join("damaged");
    fs::write(&damaged, "\0\0no program").unwrap();
    let plain = scene.dir.join("plain");
    fs::write(&plain, "").unwrap();
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o755)).unwrap();
    let cases = [
        ("/no/such/program", Errno::NOENT),
        ("no-such-program", Errno::NOENT),
        (plain.to_str().unwrap(), Errno::ACCESS),
        (damaged.to_str().unwrap(), Errno::NOEXEC),
        ("/", Errno::ACCESS),
    ];
    for (program, errno) in cases {
        let error = scene.supervisor.spawn(scene.launch("a-1", program, &[])).await.unwrap_err();
        assert_eq!(error.errno(), Some(errno.raw_os_error()), "{program}: {error:?}");
        assert!(
            matches!(&error, SpawnError::Exec { step: Step::Exec, path: told, .. } if told == Path::new(program))
        );
        assert!(!error.is_retryable());
        assert_eq!(scene.records(), Vec::<String>::new());
    }
    let mut launch = scene.script("a-1", "true");
    launch.cwd = "/no/such/dir".into();
    let error = scene.supervisor.spawn(launch).await.unwrap_err();
    assert!(
        matches!(&error, SpawnError::Exec { step: Step::Chdir, .. }) && error.errno() == Some(2),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "enter the directory /no/such/dir");
    assert_eq!((scene.supervisor.processes().len(), scene.records().len()), (0, 0));
}

#[tokio::test]
async fn an_id_is_used_once_at_a_time() {
    let scene = Scene::new("duplicate");
    let (one, two) = tokio::join!(
        scene.supervisor.spawn(scene.script("a-1", "sleep 60")),
        scene.supervisor.spawn(scene.script("a-1", "sleep 60"))
    );
    let (started, error) = if one.is_ok() { (one, two) } else { (two, one) };
    assert!(matches!(error.unwrap_err(), SpawnError::Duplicate(_)));
    assert!(
        scene.records().contains(&"a-1.json".to_owned()),
        "the loser must not remove the winner's record"
    );
    started.unwrap().kill().await.unwrap();
    scene.run("a-1", "true").await.kill().await.unwrap();
}

#[tokio::test]
async fn a_binary_that_is_no_trampoline_is_found_out() {
    let scene = Scene::with("true", Trampoline::new("/bin/true"));
    let error = scene.supervisor.spawn(scene.script("a-1", "true")).await.unwrap_err();
    assert!(matches!(error, SpawnError::Handshake { .. }), "{error:?}");
    let scene = Scene::with("none", Trampoline::new("/no/such/trampoline"));
    let error = scene.supervisor.spawn(scene.script("a-1", "true")).await.unwrap_err();
    assert!(matches!(error, SpawnError::Start { .. }) && error.errno() == Some(2), "{error:?}");
    assert_eq!(scene.records(), Vec::<String>::new());
}

#[tokio::test]
async fn a_log_that_is_a_link_is_refused() {
    let scene = Scene::new("link");
    let launch = scene.script("a-1", "echo stolen");
    fs::create_dir(scene.dir.join("logs")).unwrap();
    fs::write(scene.dir.join("victim"), "").unwrap();
    std::os::unix::fs::symlink(scene.dir.join("victim"), &launch.stdout).unwrap();
    assert!(matches!(scene.supervisor.spawn(launch).await.unwrap_err(), SpawnError::File(_)));
    assert_eq!(fs::read(scene.dir.join("victim")).unwrap(), b"");
}

/// The engine's end of the protocol by hand, so that it can die at the worst moment.
#[test]
fn if_the_engine_dies_before_go_the_program_never_runs() {
    let scene = Scene::new("gate");
    let ran = scene.dir.join("ran");
    let payload = Payload {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), "touch ran".into()],
        env: [("SECRET".to_owned(), "hunter2".into())].into(),
        cwd: scene.dir.clone().into(),
        sockets: vec![],
        privileges: Default::default(),
    };
    for go in [false, true] {
        let (mut engine, theirs) = UnixStream::pair().unwrap();
        let theirs = Stdio::from(std::os::fd::OwnedFd::from(theirs));
        let mut trampoline = Command::new(FIXTURE).arg(ARGUMENT).stdin(theirs).spawn().unwrap();
        engine.write_all(&payload.encode().unwrap()).unwrap();
        let mut ready = [0];
        engine.read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"R");
        let arguments = fs::read(format!("/proc/{}/cmdline", trampoline.id())).unwrap();
        assert!(!arguments.windows(7).any(|window| window == b"hunter2"), "a secret is in an argument");
        if go {
            engine.write_all(b"G").unwrap();
            assert_eq!(engine.read_to_end(&mut Vec::new()).unwrap(), 0);
        }
        drop(engine);
        assert_eq!(trampoline.wait().unwrap().success(), go);
        assert_eq!(ran.exists(), go);
    }
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing_unknown() {
    let scene = Scene::new("cancel");
    let mut given_up = 0;
    for step in 0..24_u64 {
        let id = format!("a-{step}");
        let spawn = scene.supervisor.spawn(scene.script(&id, "sleep 60"));
        if tokio::time::timeout(Duration::from_micros(300 * step), spawn).await.is_err() {
            given_up += 1;
        }
    }
    assert!(given_up > 0, "no start was given up");
    // What had begun in another thread ends by itself.
    wait_for("records of living processes only", || {
        scene.records().len() == scene.supervisor.processes().len()
    })
    .await;
    let pids: Vec<u32> = scene.supervisor.processes().iter().map(formic_supervise::Process::pid).collect();
    for (id, stopped) in scene.supervisor.kill_all().await {
        stopped.unwrap_or_else(|error| panic!("{id}: {error}"));
    }
    assert!(pids.into_iter().all(|pid| !lives(pid)));
    assert_eq!(scene.records(), Vec::<String>::new());
    let mine = || {
        zombies()
            .into_iter()
            .filter(|pid| scene.supervisor.processes().iter().any(|p| p.pid() == *pid))
            .count()
    };
    assert_eq!(mine(), 0);
}

#[tokio::test]
async fn what_is_not_permitted_yet_waits_behind_its_gate() {
    let scene = Scene::new("permit");
    let (permit, permitted) = tokio::sync::oneshot::channel::<()>();
    let start = {
        let (supervisor, launch) = (scene.supervisor.clone(), scene.script("waits-1", "echo ran; sleep 60"));
        let permit = async { permitted.await.map_err(|_| "the decision is lost".to_owned()) };
        tokio::spawn(async move { supervisor.spawn_when(launch, permit).await })
    };
    let record = scene.run_dir().join("waits-1.json");
    wait_for("the intent", || std::fs::read_to_string(&record).is_ok_and(|text| text.contains("\"intent\"")))
        .await;
    assert!(!start.is_finished() && scene.supervisor.processes().is_empty());
    assert_eq!(scene.stdout("waits-1"), "");
    permit.send(()).unwrap();
    let process = start.await.unwrap().unwrap();
    assert_eq!(scene.lines("waits-1", 1).await, ["ran"]);
    process.kill().await.unwrap();
    // One that is withheld leaves nothing, and its id is free.
    let withheld = async { Err("no room".to_owned()) };
    let error =
        scene.supervisor.spawn_when(scene.script("waits-1", "echo ran again"), withheld).await.unwrap_err();
    assert!(matches!(&error, SpawnError::Withheld(why) if why == "no room"), "{error:?}");
    assert_eq!((scene.records(), scene.stdout("waits-1").as_str()), (vec![], "ran\n"));
    scene.run("waits-1", "true").await.kill().await.unwrap();
}
