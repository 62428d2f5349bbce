//! The keeper's life: one thread, one loop, everything it may do in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::brain::{BackOff, Brain, Fence};
use super::handoff;
use super::journal::{Exit, Journal};
use super::notify::{self, Notifier};
use super::patience::Patience;
use super::protocol::{Ask, Command, PROTOCOL, Packet, Reply, Request, Tell, readable, receive, send};
use crate::exit::ExitStatus;
use crate::failpoint;
use crate::features::Features;
use crate::identity::{Identity, boot_id};
use crate::lock::Lock;
use crate::pidfd::PidFd;
use crate::privileges::raise_files;
use crate::procfs::Stat;
use crate::record::now_ms;
use crate::subreaper;

/// How long a brain may take to end when the keeper is told to.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The most sockets that are held.
const MOST_HELD: usize = 4096;

/// How many ended processes are reaped before the brain is listened to again.
const BATCH: usize = 1024;

/// What a keeper is made of; all of it survives its own replacement.
pub(super) struct Keeper {
    pub(super) dir: PathBuf,
    pub(super) boot_id: String,
    pub(super) features: Features,
    pub(super) lock: Lock,
    pub(super) journal: Journal,
    pub(super) fence: Fence,
    /// What the next brain is started with.
    pub(super) command: Command,
    /// What it is started with instead if the present one ends before it is ready.
    pub(super) previous: Option<Command>,
    /// What it is to be replaced by when it ends.
    pub(super) next: Option<Command>,
    pub(super) brain: Option<Brain>,
    pub(super) back_off: BackOff,
    pub(super) patience: Patience,
    pub(super) start_at: Instant,
    pub(super) held: BTreeMap<String, OwnedFd>,
    /// Set once it is to end; a brain that is left by then is killed.
    pub(super) ending: Option<Instant>,
    /// Whether any brain was ready so far.
    pub(super) served: bool,
    /// Whether no brain can be of use.
    pub(super) hopeless: bool,
    pub(super) signals: OwnedFd,
    pub(super) notifier: Notifier,
}

/// The keeper: to be called by `main` of the binary, before anything else (no thread, no runtime), when its
/// first argument is [`super::ARGUMENT`].
pub fn main() -> ! {
    let code = match run(std::env::args_os().skip(2).collect()) {
        Ok(code) => code.into(),
        Err(error) => {
            say(&error.to_string());
            1
        }
    };
    std::process::exit(code)
}

/// To whoever reads the keeper's standard error. It has no other log.
pub(super) fn say(what: &str) {
    // Nobody to tell is no reason to end.
    let _ = writeln!(io::stderr(), "formic keeper: {what}");
}

fn run(args: Vec<OsString>) -> io::Result<u8> {
    // It holds sockets for all, and what it starts begins with what it has.
    if let Err(error) = raise_files() {
        say(&format!("cannot raise the number of open files: {error}"));
    }
    let text: Option<Vec<String>> = args.into_iter().map(|arg| arg.into_string().ok()).collect();
    let usage = || io::Error::other("usage: DIRECTORY PROGRAM [ARGUMENT]...");
    let args = text.ok_or_else(usage)?;
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [handoff::CAN_RESUME, format] => handoff::can_resume(format).map(|()| 0),
        [handoff::RESUME, fd] => {
            let (mut keeper, seq) = handoff::resume(fd)?;
            keeper.answer(seq, Tell::Done, None);
            keeper.live()
        }
        [dir, program, args @ ..] if !dir.starts_with('-') => {
            let command = Command {
                program: (*program).to_owned(),
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            };
            Keeper::begin(Path::new(dir), command)?.live()
        }
        _ => Err(usage()),
    }
}

// === impl Keeper ===

impl Keeper {
    fn begin(dir: &Path, command: Command) -> io::Result<Self> {
        let held = notify::kept()?;
        let features = Features::from_env().map_err(io::Error::other)?;
        crate::disk::private_dir(dir).map_err(io::Error::other)?;
        let dir = dir.canonicalize()?;
        let lock = Lock::acquire(dir.join("keeper.lock"), &features).map_err(io::Error::other)?;
        // Before the old brain is ended, so that nothing that it leaves escapes.
        subreaper::enable()?;
        let boot_id = boot_id()?;
        let journal = Journal::open(dir.join("exits.jsonl"), &boot_id).map_err(io::Error::other)?;
        let fence = Fence::read(&dir).map_err(io::Error::other)?;
        fence.enforce(&dir, &boot_id, &features)?;
        Ok(Self {
            signals: block_signals()?,
            dir,
            boot_id,
            features,
            lock,
            journal,
            fence,
            command,
            previous: None,
            next: None,
            brain: None,
            back_off: BackOff::default(),
            patience: Patience::from_env(),
            start_at: Instant::now(),
            held,
            ending: None,
            served: false,
            hopeless: false,
            notifier: Notifier::from_env(),
        })
    }

    /// The exit code, in the end.
    fn live(mut self) -> io::Result<u8> {
        loop {
            let more = self.reap();
            if self.ending.is_some() && self.brain.is_none() {
                return Ok(if self.hopeless { super::HOPELESS } else { 0 });
            }
            self.start_if_due();
            let socket = self.brain.as_ref().and_then(|brain| Some(brain.socket.as_ref()?.as_fd()));
            let [signalled, spoken] = readable([Some(self.signals.as_fd()), socket], self.until_due(more))?;
            if signalled {
                let told = take_signals(&self.signals);
                if told.reload {
                    self.reload();
                }
                if told.end {
                    self.end(true);
                }
            }
            if spoken {
                self.hear();
            } else {
                self.watch();
            }
            if self.ending.is_some_and(|limit| Instant::now() >= limit)
                && let Some(brain) = &self.brain
                && let Err(error) = brain.pidfd.signal(Signal::KILL)
            {
                say(&format!("cannot kill the brain: {error}"));
            }
        }
    }

    /// How long nothing is to be done unless something happens.
    fn until_due(&self, more: bool) -> Option<Duration> {
        if more {
            return Some(Duration::ZERO);
        }
        let due = match (self.ending, &self.brain) {
            (Some(limit), _) => Some(limit.max(Instant::now() + Duration::from_millis(10))),
            (None, None) => Some(self.start_at),
            (None, Some(brain)) => self.patience.ends(brain, self.previous.is_some()),
        };
        due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Kills a brain that is not ready in time, or has fallen silent. It was read from all that it has said.
    fn watch(&mut self) {
        let replaces = self.previous.is_some();
        let Some(brain) = &mut self.brain else { return };
        let Some(why) = self.patience.is_over(brain, replaces) else { return };
        say(&format!(
            "the brain, process {} of {}, {why}, and is killed",
            brain.pidfd.pid(),
            self.command.program
        ));
        brain.killed = true;
        if let Err(error) = brain.pidfd.signal(Signal::KILL) {
            say(&format!("cannot kill the brain: {error}"));
        }
    }

    /// Passes it on. A brain that knows nothing of it ends, and a new one reads everything anew.
    fn reload(&mut self) {
        self.notifier.reloading();
        if let Some(brain) = &self.brain
            && let Err(error) = brain.pidfd.signal(Signal::HUP)
        {
            say(&format!("cannot tell the brain to reload: {error}"));
        }
        self.notifier.ready();
    }

    /// Ends the brain and then the keeper. Instances are left running.
    fn end(&mut self, ask: bool) {
        self.notifier.stopping();
        self.ending.get_or_insert(Instant::now() + END_LIMIT);
        if ask
            && let Some(brain) = &self.brain
            && let Err(error) = brain.pidfd.signal(Signal::TERM)
        {
            say(&format!("cannot end the brain: {error}"));
        }
    }

    /// Writes down and reaps what has ended; whether there may be more of it.
    fn reap(&mut self) -> bool {
        let mut more = true;
        for _ in 0..BATCH {
            let Some(pid) = next_ended() else {
                more = false;
                break;
            };
            // Unreaped, so the number is still its own, until the end of this turn.
            let Ok(Some(pidfd)) = PidFd::open(pid) else {
                // Out of descriptors: the next end tries again.
                more = false;
                break;
            };
            if self.brain.as_ref().is_some_and(|brain| brain.pidfd.pid() == pid) {
                let status = pidfd.reap().status().unwrap_or(ExitStatus::Unknown);
                self.brain_ended(status);
                continue;
            }
            // Main processes of instances lead sessions; of other orphans nobody asks.
            let leads = Stat::read(pid).is_some_and(|stat| stat.session == pid);
            if leads
                && let Some(status) = pidfd.peek().status()
                && let Ok(identity) = Identity::of(&pidfd, &self.boot_id, &self.features)
            {
                let exit = Exit { identity, status, ended_at_ms: now_ms() };
                failpoint::hit("keeper.journal.before");
                if let Err(error) = self.journal.add(exit) {
                    say(&error.to_string());
                }
                failpoint::hit("keeper.journal.after");
            }
            pidfd.reap();
            if leads {
                failpoint::hit("keeper.reaped");
            }
        }
        if let Err(error) = self.journal.sync() {
            say(&error.to_string());
        }
        more
    }

    fn brain_ended(&mut self, how: ExitStatus) {
        let Some(brain) = self.brain.take() else { return };
        if self.ending.is_some() {
            return;
        }
        let lived = brain.started.elapsed();
        if let Some(next) = self.next.take() {
            self.previous = Some(std::mem::replace(&mut self.command, next));
            self.start_at = Instant::now();
            return;
        }
        say(&format!("the brain of generation {} has ended: {how}", brain.generation));
        self.start_at = Instant::now() + self.back_off.ended(lived);
        if how == ExitStatus::Code(super::HOPELESS.into()) && !self.served && self.previous.is_none() {
            // It has said why. Where one has worked before, whoever mends it finds what runs still in a keeper's care.
            self.hopeless = true;
            self.end(false);
        }
        if !brain.ready {
            self.take_back();
        }
    }

    /// A replacement that was never ready gives its place back.
    fn take_back(&mut self) {
        if let Some(previous) = self.previous.take() {
            say(&format!("{} was never ready: back to {}", self.command.program, previous.program));
            self.command = previous;
        }
    }

    fn start_if_due(&mut self) {
        if self.brain.is_some() || self.ending.is_some() || Instant::now() < self.start_at {
            return;
        }
        if let Err(error) = self.start() {
            say(&format!("cannot start {}: {error}", self.command.program));
            self.start_at = Instant::now() + self.back_off.ended(Duration::ZERO);
            self.take_back();
        }
    }

    fn start(&mut self) -> io::Result<()> {
        // On disk first: a generation is never given twice.
        self.fence = Fence { generation: self.fence.generation + 1, ..Fence::default() };
        if let Err(error) = self.fence.write(&self.dir) {
            if !error.is_full() {
                return Err(io::Error::other(error));
            }
            // Without a brain nothing would make room: neither is a log cut nor what fills the disk stopped. Should this keeper
            // be killed before there is room, lock and socket are what is left to hold two brains apart.
            say(&format!(
                "{error}; the brain of generation {} is started all the same",
                self.fence.generation
            ));
        }
        failpoint::hit("keeper.fenced");
        // It may not act before its first question is answered, which is after it was written down who it is.
        let brain = Brain::start(&self.command, self.fence.generation, &self.dir)?;
        failpoint::hit("keeper.brain.started");
        self.fence.brain = Identity::of(&brain.pidfd, &self.boot_id, &self.features).ok();
        self.brain = Some(brain);
        if let Err(error) = self.fence.write(&self.dir) {
            // It runs, and will end when this keeper does: its socket ends.
            say(&error.to_string());
        }
        Ok(())
    }

    fn hear(&mut self) {
        let Some(socket) = self.brain.as_ref().and_then(|brain| brain.socket.as_ref()) else { return };
        match receive::<Request>(socket) {
            Ok(Packet::Message(Request { seq, ask }, fds)) => self.do_as_asked(seq, ask, fds),
            Ok(Packet::Unknown { seq, why }) => {
                self.answer(
                    seq,
                    Tell::Refused { reason: format!("this keeper does not know that: {why}") },
                    None,
                );
            }
            Ok(Packet::End) => self.hang_up(),
            Err(error) => {
                say(&format!("the brain speaks another language: {error}"));
                self.hang_up();
            }
        }
    }

    fn hang_up(&mut self) {
        if let Some(brain) = &mut self.brain {
            brain.socket = None;
        }
    }

    fn do_as_asked(&mut self, seq: u64, ask: Ask, mut fds: Vec<OwnedFd>) {
        let refused = |reason: &str| Tell::Refused { reason: reason.to_owned() };
        let tell = match ask {
            Ask::Hello => {
                Tell::Hello { protocol: PROTOCOL, generation: self.fence.generation, pid: std::process::id() }
            }
            Ask::Ready => {
                self.previous = None;
                self.notifier.ready();
                self.served = true;
                self.patience.was_in_time();
                if let Some(brain) = &mut self.brain {
                    brain.ready = true;
                }
                Tell::Done
            }
            Ask::Alive => {
                if let Some(brain) = &mut self.brain {
                    brain.heard = Some(Instant::now());
                }
                Tell::Done
            }
            Ask::ExitOf { identity } => self
                .journal
                .find(&identity)
                .map_or(Tell::None, |exit| Tell::Exit { status: exit.status, ended_at_ms: exit.ended_at_ms }),
            Ask::Hold { name } if !notify::is_name(&name) => refused("a socket cannot have that name"),
            Ask::Hold { name } => match (fds.pop(), fds.is_empty()) {
                (Some(_), true) if self.held.len() >= MOST_HELD && !self.held.contains_key(&name) => {
                    refused("too many sockets are held")
                }
                (Some(fd), true) => {
                    self.notifier.store(&name, &fd);
                    self.held.insert(name, fd);
                    Tell::Done
                }
                _ => refused("one descriptor comes with that"),
            },
            Ask::Take { name } => {
                let socket = self.held.get(&name).map(OwnedFd::try_clone);
                return match socket {
                    Some(Ok(socket)) => self.answer(seq, Tell::Socket, Some(socket)),
                    Some(Err(error)) => self.answer(seq, refused(&error.to_string()), None),
                    None => self.answer(seq, Tell::None, None),
                };
            }
            Ask::Release { name } => match self.held.remove(&name) {
                Some(_) => {
                    self.notifier.forget(&name);
                    Tell::Done
                }
                None => Tell::None,
            },
            Ask::Names => Tell::Names { names: self.held.keys().cloned().collect() },
            Ask::ReplaceBrain { command } => {
                self.next = Some(command);
                Tell::Done
            }
            Ask::ReplaceKeeper { .. } if self.ending.is_some() => refused("it is about to end"),
            Ask::ReplaceKeeper { program } => {
                let error = handoff::replace(self, &program, seq);
                refused(&format!("cannot execute {program} as keeper: {error}"))
            }
            Ask::Stop => {
                self.end(false);
                Tell::Done
            }
            Ask::Ending if self.ending.is_some() => Tell::Done,
            Ask::Ending => Tell::None,
        };
        self.answer(seq, tell, None);
    }

    pub(super) fn answer(&mut self, seq: u64, tell: Tell, fd: Option<OwnedFd>) {
        let Some(socket) = self.brain.as_ref().and_then(|brain| brain.socket.as_ref()) else { return };
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        if let Err(error) = send(socket, &Reply { seq, tell }, &fds) {
            // Either it is ending, or it does not read: it is told no more, and ends when it notices.
            if error.kind() != io::ErrorKind::BrokenPipe {
                say(&format!("cannot answer the brain: {error}"));
            }
            self.hang_up();
        }
    }
}

/// The number of a child that has ended, which stays unreaped.
#[expect(unsafe_code, reason = "rustix's waitid does not say whom it has found")]
fn next_ended() -> Option<u32> {
    // SAFETY: all zero is a valid siginfo_t, and what `waitid` leaves when there is nobody.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is ours to write to.
    let found = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
    // SAFETY: `waitid` filled in the fields of a child, or left the zeroes.
    let pid = unsafe { info.si_pid() };
    (found == 0).then_some(pid).and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0)
}

/// Signals become readable instead of interrupting.
#[expect(unsafe_code, reason = "rustix has no signal masks and no signalfd")]
pub(super) fn block_signals() -> io::Result<OwnedFd> {
    // SAFETY: an all-zero sigset_t is valid to write to, `sigemptyset` fills it, and there is one thread.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) == -1 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd == -1 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// What signals have said.
#[derive(Default)]
struct Told {
    end: bool,
    reload: bool,
}

/// Takes what is there.
fn take_signals(signals: &OwnedFd) -> Told {
    const SIZE: usize = size_of::<libc::signalfd_siginfo>();
    let mut told = Told::default();
    let mut info = [0_u8; SIZE];
    while matches!(rustix::io::read(signals, &mut info), Ok(SIZE)) {
        // The first field is the number of the signal.
        let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]).cast_signed();
        told.end |= number == libc::SIGTERM || number == libc::SIGINT;
        told.reload |= number == libc::SIGHUP;
    }
    told
}

/// Whether a descriptor goes along into the next program.
pub(super) fn inherit(fd: &OwnedFd, inherit: bool) -> io::Result<i32> {
    let flags = if inherit { rustix::io::FdFlags::empty() } else { rustix::io::FdFlags::CLOEXEC };
    rustix::io::fcntl_setfd(fd, flags)?;
    Ok(fd.as_raw_fd())
}
