//! The keeper and its brain, killed in turn: the instance stays, its end is told, sockets stay open.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use formic_supervise::{FEATURES_OFF_ENV, Fate};

use crate::scene::{FIXTURE, Fixture, SOON, Scene, all_features, lives, signal, wait_for};

const FOREVER: &str = "trap 'exit 7' USR1; echo up; while :; do sleep 0.02; done";

/// A keeper with the fixture's brain, which says `how generation brain instance status` when it is up.
struct Kept {
    scene: Scene,
    keeper: Fixture,
}

#[derive(Debug)]
struct Up {
    how: String,
    generation: u64,
    brain: u32,
    instance: u32,
    status: String,
}

impl Kept {
    fn start(name: &str, script: &str) -> Self {
        Self::masked(name, script, "")
    }

    fn masked(name: &str, script: &str, mask: &str) -> Self {
        let scene = Scene::new(name);
        let keeper = Self::keeper(&scene, script, mask);
        Self { scene, keeper }
    }

    fn keeper(scene: &Scene, script: &str, mask: &str) -> Fixture {
        let dir = scene.dir.join("keeper");
        let run_dir = scene.run_dir().to_str().unwrap();
        let args = ["__keeper", dir.to_str().unwrap(), FIXTURE, "brain", run_dir, script];
        Fixture::with_env(FIXTURE, &args, &[(FEATURES_OFF_ENV, mask)])
    }

    fn up(&mut self) -> Up {
        let line = self.keeper.hear();
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        Up {
            how: words[0].to_owned(),
            generation: number(1),
            brain: u32::try_from(number(2)).unwrap(),
            instance: u32::try_from(number(3)).unwrap(),
            status: words[4].to_owned(),
        }
    }

    /// Waits until the instance has set its traps.
    async fn armed(&self) {
        let log = self.scene.run_dir().join("out.log");
        wait_for("the program to be up", || fs::read_to_string(&log).is_ok_and(|log| log.contains("up")))
            .await;
    }

    fn tell(&mut self, ask: &str) {
        let file = self.scene.run_dir().join("ask");
        let unfinished = self.scene.dir.join("ask.new");
        fs::write(&unfinished, ask).unwrap();
        fs::rename(unfinished, file).unwrap();
    }

    fn ask(&mut self, ask: &str) -> String {
        self.tell(ask);
        self.keeper.hear()
    }
}

#[test]
fn brains_are_killed_in_a_loop_and_the_instance_stays() {
    let mut kept = Kept::start("keeper-loop", FOREVER);
    let first = kept.up();
    assert_eq!((first.how.as_str(), first.generation), ("started", 1));
    let status = fs::read_to_string(format!("/proc/{}/status", first.brain)).unwrap();
    assert!(status.contains("SigBlk:\t0000000000000000"), "a brain hears every signal: {status}");
    let (mut brain, mut kills) = (first.brain, 0);
    for _ in 0..6 {
        signal(brain, libc::SIGKILL);
        kills += 1;
        let up = kept.up();
        assert_eq!(up.how, "adopted");
        assert_eq!((up.instance, up.generation), (first.instance, first.generation + kills));
        assert!(lives(first.instance) && !lives(brain));
        brain = up.brain;
    }
    assert_eq!(kept.ask("end"), "gone");
    assert!(!lives(first.instance));
    assert_eq!(kept.ask("stop"), "stopping");
    assert!(kept.keeper.child.wait().unwrap().success());
}

#[test]
fn keepers_are_killed_too_and_the_next_one_fences_the_brain_that_is_left() {
    let mut kept = Kept::start("keeper-both", FOREVER);
    let first = kept.up();
    let mut last = first.brain;
    for round in 1..=4 {
        if round % 2 == 0 {
            // Stopped, it cannot notice that its keeper is gone.
            signal(last, libc::SIGSTOP);
        }
        kept.keeper.kill();
        kept.keeper = Kept::keeper(&kept.scene, FOREVER, "");
        let up = kept.up();
        assert_eq!((up.how.as_str(), up.instance), ("adopted", first.instance));
        assert_eq!(up.generation, first.generation + round);
        assert!(!lives(last), "two brains at the same time");
        last = up.brain;
    }
    assert_eq!(kept.ask("end"), "gone");
}

#[tokio::test]
async fn how_an_instance_ended_without_a_brain_is_told_by_the_journal() {
    for mask in ["", "exit-info", "pidfs,exit-info"] {
        let mut kept = Kept::masked("keeper-journal", FOREVER, mask);
        let first = kept.up();
        kept.armed().await;
        // A stopped brain is none: the end falls between two.
        signal(first.brain, libc::SIGSTOP);
        signal(first.instance, libc::SIGUSR1);
        wait_for("its end", || !lives(first.instance)).await;
        signal(first.brain, libc::SIGKILL);
        let up = kept.up();
        assert_eq!((up.how.as_str(), up.status.as_str()), ("ended", "exit code 7"), "{mask}");
        // Told again to the next one, until it is stopped.
        signal(up.brain, libc::SIGKILL);
        assert_eq!(kept.up().status, "exit code 7", "{mask}");
        assert_eq!(kept.ask("end"), "gone");
    }
}

#[tokio::test]
async fn how_an_adopted_instance_ends_is_told_by_the_journal() {
    for mask in ["", "exit-info", "pidfs,exit-info"] {
        let mut kept = Kept::masked("keeper-adopted", FOREVER, mask);
        let first = kept.up();
        kept.armed().await;
        signal(first.brain, libc::SIGKILL);
        assert_eq!(kept.up().how, "adopted");
        kept.tell("wait");
        signal(first.instance, libc::SIGUSR1);
        assert_eq!(kept.keeper.hear(), "exit code 7", "{mask}");
        wait_for("the keeper to reap it", || !Path::new(&format!("/proc/{}", first.instance)).exists()).await;
    }
}

#[test]
fn sockets_are_held_over_the_death_of_a_brain_and_the_upgrade_of_both() {
    let mut kept = Kept::start("keeper-sockets", FOREVER);
    let first = kept.up();
    let keeper = kept.keeper.child.id();
    let port = kept.ask("hold http");
    let address = format!("127.0.0.1:{port}");
    // Connected while nobody accepts: the backlog keeps it.
    let waiting = TcpStream::connect(&address).unwrap();
    signal(first.brain, libc::SIGKILL);
    kept.up();
    assert_eq!(kept.ask("take http"), port);

    // Not a keeper: nothing changes.
    assert!(kept.ask("replace-keeper /bin/false").contains("cannot execute"), "it must refuse");
    assert!(kept.ask("replace-keeper /no/such/program").contains("cannot execute"), "it must refuse");
    let copy = kept.scene.dir.join("successor");
    fs::copy(FIXTURE, &copy).unwrap();
    assert_eq!(kept.ask(&format!("replace-keeper {}", copy.display())), "replaced");
    let exe = fs::read_link(format!("/proc/{keeper}/exe")).unwrap();
    assert_eq!(exe, copy, "the same process, another program");
    assert_eq!(kept.ask("names"), "http");
    assert_eq!(kept.ask("take http"), port);

    // The brain is replaced by the successor's; the instance and the generation go on.
    let run_dir = kept.scene.run_dir().to_str().unwrap().to_owned();
    kept.tell(&format!("replace-brain {} brain {run_dir} -", copy.display()));
    let up = kept.up();
    assert_eq!((up.how.as_str(), up.instance, up.generation), ("adopted", first.instance, 3));
    assert_eq!(fs::read_link(format!("/proc/{}/exe", up.brain)).unwrap(), copy);
    assert_eq!(kept.ask("take http"), port);
    drop(waiting);
    assert_eq!(kept.ask("release http"), "true");
    assert!(TcpStream::connect(&address).is_err(), "nobody has it any more");
    assert_eq!(kept.ask("take http"), "none");
    assert_eq!(kept.ask("end"), "gone");
}

#[test]
fn a_brain_that_is_never_ready_is_taken_back() {
    let mut kept = Kept::start("keeper-back", FOREVER);
    let first = kept.up();
    kept.tell("replace-brain /bin/false");
    let up = kept.up();
    assert_eq!((up.how.as_str(), up.instance), ("adopted", first.instance));
    assert_eq!(up.generation, 3, "the second generation was the program that only ends");
    kept.tell("replace-brain /no/such/program");
    assert_eq!(kept.up().how, "adopted");
    assert_eq!(kept.ask("end"), "gone");
}

#[test]
fn a_brain_that_hangs_before_it_is_ready_is_taken_back() {
    let scene = Scene::new("keeper-hangs");
    let (dir, run_dir) = (scene.dir.join("keeper"), scene.run_dir().to_str().unwrap().to_owned());
    let args = ["__keeper", dir.to_str().unwrap(), FIXTURE, "brain", &run_dir, FOREVER];
    // A third of it for one that replaces another.
    let keeper = Fixture::with_env(FIXTURE, &args, &[(formic_supervise::keeper::READY_LIMIT_ENV, "15")]);
    let mut kept = Kept { scene, keeper };
    let first = kept.up();
    kept.tell("replace-brain /bin/sleep 600");
    let up = kept.up();
    assert_eq!((up.how.as_str(), up.generation, up.instance), ("adopted", 3, first.instance));
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", kept.keeper.child.id())).unwrap();
    let children: Vec<&str> = children.split_ascii_whitespace().collect();
    assert!(children.contains(&up.brain.to_string().as_str()), "{children:?}");
    assert!(children.len() <= 2, "the one that hung is gone: {children:?}");
    assert_eq!(kept.ask("end"), "gone");
}

#[tokio::test]
async fn told_to_end_a_keeper_ends_its_brain_and_leaves_the_instance() {
    let mut kept = Kept::start("keeper-term", FOREVER);
    let first = kept.up();
    let begun = Instant::now();
    signal(kept.keeper.child.id(), libc::SIGTERM);
    assert!(kept.keeper.child.wait().unwrap().success());
    assert!(begun.elapsed() < SOON && !lives(first.brain) && lives(first.instance));
}

#[tokio::test]
async fn a_keeper_is_small_reaps_orphans_and_is_the_only_one() {
    // Daemons that end at once, in sessions of their own and not.
    let script = "for i in 1 2 3 4 5 6 7 8; do (setsid true &); (true &); done; exec sleep 60";
    let mut kept = Kept::start("keeper-small", script);
    let first = kept.up();
    let keeper = kept.keeper.child.id();
    wait_for("orphans to be reaped", || {
        let stats = fs::read_dir("/proc").unwrap().flatten();
        let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        stats.filter(|stat| stat.contains(&format!(") Z {keeper} "))).count() == 0
    })
    .await;
    let status = fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let own: u64 = own.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(own < 4096, "{own} kB");
    let mut second = Kept::keeper(&kept.scene, script, "");
    let limit = Instant::now() + SOON;
    let status = loop {
        match second.child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() < limit => tokio::time::sleep(Duration::from_millis(5)).await,
            None => panic!("a second keeper runs"),
        }
    };
    assert!(!status.success());
    assert!(lives(first.brain) && lives(first.instance));
    assert_eq!(kept.ask("end"), "gone");
}

/// Kills at any moment of a start or a stop: of the brain, of the keeper, of both.
#[tokio::test]
async fn kills_in_the_middle_of_everything_leave_what_stays_and_nothing_else() {
    for mask in ["", "cgroup", "cgroup,pidfs-handle,exit-info"] {
        let scene = Scene::new("keeper-churn");
        let (dir, run_dir) = (scene.dir.join("keeper"), scene.run_dir().to_str().unwrap().to_owned());
        let start = || {
            let args = ["__keeper", dir.to_str().unwrap(), FIXTURE, "churn", &run_dir];
            Fixture::with_env(FIXTURE, &args, &[(FEATURES_OFF_ENV, mask)])
        };
        let stays = || {
            let record = fs::read_to_string(scene.run_dir().join("crash-1.json")).unwrap();
            let record: formic_supervise::Record = serde_json::from_str(&record).unwrap();
            record.identity.unwrap().pid
        };
        let mut keeper = start();
        let (mut kills, mut generation, mut pid) = (0, 0, None);
        for round in 0_u64..14 {
            let line = keeper.hear();
            let words: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
            assert!(words[0] > generation, "{line} after {generation}");
            generation = words[0];
            let brain = u32::try_from(words[1]).unwrap();
            assert_eq!(*pid.get_or_insert_with(stays), stays());
            assert!(lives(stays()), "{mask} {round}");
            // Spread over what a start and a stop take.
            tokio::time::sleep(Duration::from_millis(round * 7 % 61)).await;
            if round % 3 != 2 {
                signal(brain, libc::SIGKILL);
                kills += 1;
            }
            if round % 3 != 1 {
                // The brain's end, if it was killed, is now anyone's to see.
                keeper.kill();
                kills += 1;
                keeper = start();
            }
        }
        keeper.hear();
        keeper.kill();
        wait_for("the brain to notice", || {
            let brain = fs::read_to_string(dir.join("brain.json")).unwrap();
            let brain: serde_json::Value = serde_json::from_str(&brain).unwrap();
            !lives(u32::try_from(brain["brain"]["pid"].as_u64().unwrap()).unwrap())
        })
        .await;
        assert!(kills > 15, "{kills}");
        let heir = scene.heir(all_features().masked(mask.split(',')));
        for found in heir.adopt(Duration::ZERO).await.unwrap() {
            assert!(!matches!(found.fate, Fate::Quarantined { .. } | Fate::Damaged { .. }), "{found:?}");
        }
        assert!(lives(pid.unwrap()), "{mask}");
        for (id, stopped) in heir.kill_all().await {
            assert!(stopped.is_ok(), "{id} {stopped:?}");
        }
        assert!(!lives(pid.unwrap()));
        assert_eq!(marked(&scene), Vec::<u32>::new(), "{mask}");
        let left = scene.records();
        assert!(left.iter().all(|file| file.ends_with(".log")), "{left:?}");
    }
}

/// The living processes that carry the mark of a scene.
fn marked(scene: &Scene) -> Vec<u32> {
    let mark = format!("FORMIC_RUN_DIR={}", scene.run_dir().display());
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    })
    .collect()
}

/// The test is the service manager: it hears what it is told, and keeps sockets over the death of a keeper.
#[tokio::test]
async fn a_service_manager_is_told_and_keeps_the_sockets() {
    let scene = Scene::new("keeper-manager");
    let notify = scene.dir.join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let hear = || {
        let mut bytes = [0; 512];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut into = [std::io::IoSliceMut::new(&mut bytes)];
        // A child's end interrupts a wait with a timeout, too.
        let got = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&manager, &mut into, &mut control, rustix::net::RecvFlags::empty())
        });
        let length = got.unwrap().bytes;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let rustix::net::RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        (String::from_utf8(bytes[..length].to_vec()).unwrap(), fds)
    };
    // The instance of its brain has a run directory of its own.
    let (dir, run_dir) = (scene.dir.join("keeper"), scene.dir.join("inner"));
    let launch = |id: &str| {
        let args = [dir.to_str().unwrap(), FIXTURE, "brain", run_dir.to_str().unwrap(), FOREVER];
        let mut launch = scene.launch(id, FIXTURE, &["__keeper"]);
        launch.args.extend(args.iter().map(Into::into));
        launch.env.insert("NOTIFY_SOCKET".into(), notify.clone().into());
        launch.env.insert(FEATURES_OFF_ENV.into(), "cgroup".into());
        launch
    };
    let ask = |ask: &str| {
        fs::write(scene.dir.join("ask.new"), ask).unwrap();
        fs::rename(scene.dir.join("ask.new"), run_dir.join("ask")).unwrap();
    };
    let keeper = scene.supervisor.spawn(launch("k-1")).await.unwrap();
    assert_eq!(hear().0, "READY=1");
    scene.lines("k-1", 1).await;
    ask("hold http");
    let port = scene.lines("k-1", 2).await.remove(1);
    assert_eq!(hear().0, "FDSTOREREMOVE=1\nFDNAME=http");
    let (words, mut fds) = hear();
    assert_eq!((words.as_str(), fds.len()), ("FDSTORE=1\nFDNAME=http\nFDPOLL=0", 1));
    signal(keeper.pid(), libc::SIGHUP);
    let (words, _) = hear();
    assert!(words.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{words}");
    assert_eq!(hear().0, "READY=1");
    // The fixture's brain knows nothing of SIGHUP: the next one is ready in its place.
    assert_eq!(hear().0, "READY=1");

    signal(keeper.pid(), libc::SIGKILL);
    keeper.wait().await;
    let waiting = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let sockets = vec![formic_supervise::Socket::new("http", fds.remove(0))];
    let second = scene.supervisor.spawn(launch("k-2").with_sockets(sockets)).await.unwrap();
    assert_eq!(hear().0, "READY=1");
    assert!(scene.lines("k-2", 1).await[0].starts_with("adopted 3 "));
    ask("take http");
    assert_eq!(scene.lines("k-2", 2).await[1], port);
    drop(waiting);
    ask("end");
    scene.lines("k-2", 3).await;
    signal(second.pid(), libc::SIGTERM);
    assert_eq!(hear().0, "STOPPING=1");
    assert_eq!(second.wait().await, formic_supervise::ExitStatus::Code(0));
    second.kill().await.unwrap();
    keeper.kill().await.unwrap();
}

#[tokio::test]
async fn who_has_left_the_cgroup_is_found_below_the_keeper() {
    let test = "keeper::who_has_left_the_cgroup_is_found_below_the_keeper";
    let features = all_features();
    let (Ok(base), true) = (features.cgroups.base(), features.children) else {
        println!("formic-test-skipped: {test}: {features}");
        return;
    };
    // One is left behind by its parent at once, in a session of its own, the other by the main process; both have a child.
    let script = "(setsid sh -c 'echo $$; sleep 600; true' &); sh -c 'trap \"\" TERM; echo $$; sleep 600; true' & \
                  while :; do sleep 0.02; done";
    for adopted in [false, true] {
        let mut kept = Kept::start("keeper-left", script);
        let mut up = kept.up();
        let log = kept.scene.run_dir().join("out.log");
        let read = || fs::read_to_string(&log).unwrap_or_default();
        wait_for("both", || read().lines().count() == 2).await;
        let mut left: Vec<u32> = read().lines().map(|line| line.parse().unwrap()).collect();
        for pid in left.clone() {
            let children = format!("/proc/{pid}/task/{pid}/children");
            wait_for("a child", || !fs::read_to_string(&children).unwrap().is_empty()).await;
            left.push(fs::read_to_string(&children).unwrap().trim().parse().unwrap());
        }
        for pid in &left {
            if let Err(error) = fs::write(base.join("cgroup.procs"), pid.to_string()) {
                println!("formic-test-skipped: {test}: {error}");
                return;
            }
        }
        if adopted {
            signal(up.brain, libc::SIGKILL);
            up = kept.up();
        }
        signal(up.instance, libc::SIGKILL);
        assert_eq!(kept.ask("wait"), "SIGKILL");
        assert_eq!(kept.ask("end"), "gone");
        assert!(left.iter().all(|pid| !lives(*pid)), "adopted: {adopted}");
    }
}

#[tokio::test]
async fn what_a_killed_keeper_had_taken_in_is_found_by_its_log() {
    // Forked twice, with a session of its own and no environment; and the same of one that has closed its log.
    let script = "(setsid env -i /bin/sh -c 'echo $$; exec /bin/sleep 611' &); \
                  (setsid env -i /bin/sh -c 'echo $$; exec /bin/sleep 612 >/dev/null 2>&1' &); \
                  while :; do sleep 0.02; done";
    for mask in ["cgroup", "cgroup,children"] {
        let mut kept = Kept::masked("keeper-adrift", script, mask);
        let first = kept.up();
        let log = kept.scene.run_dir().join("out.log");
        let pids = || -> Vec<u32> {
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.lines().filter_map(|line| line.parse().ok()).collect()
        };
        let find = |seconds: &str| {
            pids().into_iter().find(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.starts_with(b"/bin/sleep") && String::from_utf8_lossy(&line).contains(seconds)
            })
        };
        wait_for("both", || find("611").is_some() && find("612").is_some()).await;
        let (writes, closed) = (find("611").unwrap(), find("612").unwrap());
        // What a person has started, above the keeper, writes there as well.
        let appended = fs::OpenOptions::new().append(true).open(&log).unwrap();
        let mut persons = Command::new("/bin/sleep").arg("613").env_clear().stdout(appended).spawn().unwrap();
        kept.keeper.kill();
        kept.keeper = Kept::keeper(&kept.scene, script, mask);
        let up = kept.up();
        assert_eq!((up.how.as_str(), up.instance), ("adopted", first.instance));
        assert_eq!(kept.ask("end"), "gone");
        let found = [lives(writes), lives(closed), persons.try_wait().unwrap().is_none()];
        // Whatever was found: nothing else ends them.
        for pid in [writes, closed].into_iter().filter(|pid| lives(*pid)) {
            signal(pid, libc::SIGKILL);
        }
        persons.kill().unwrap();
        persons.wait().unwrap();
        assert_eq!(
            found,
            [false, true, true],
            "its own, one that nothing says anything of, a person's: {mask}"
        );
    }
}

#[test]
fn a_brain_that_falls_silent_is_followed_by_another() {
    let scene = Scene::new("keeper-silent");
    let dir = scene.dir.join("keeper");
    let run_dir = scene.run_dir().to_str().unwrap().to_owned();
    let args = ["__keeper", dir.to_str().unwrap(), FIXTURE, "brain", &run_dir, FOREVER];
    let keeper = Fixture::with_env(FIXTURE, &args, &[(formic_supervise::keeper::WATCHDOG_ENV, "3")]);
    let mut kept = Kept { scene, keeper };
    let first = kept.up();
    // One that never said so is left alone: it may be older than that.
    signal(first.brain, libc::SIGSTOP);
    std::thread::sleep(Duration::from_millis(4500));
    assert!(lives(first.brain));
    signal(first.brain, libc::SIGCONT);
    assert_eq!(kept.ask("alive"), "alive");
    signal(first.brain, libc::SIGSTOP);
    let up = kept.up();
    assert_eq!((up.how.as_str(), up.generation, up.instance), ("adopted", 2, first.instance));
    assert!(!lives(first.brain));
    assert_eq!(kept.ask("end"), "gone");
}
