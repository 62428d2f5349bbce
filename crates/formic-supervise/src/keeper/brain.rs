//! The keeper's one child of its own: how it is started, fenced and started again.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::notify::SOCKET_ENV;
use super::protocol::Command;
use super::{DIR_ENV, GENERATION_ENV};
use crate::disk::{self, FileError};
use crate::features::Features;
use crate::home::HomeId;
use crate::identity::{Identity, Proof};
use crate::pidfd::PidFd;
use crate::record::now_ms;

/// A brain that lived this long begins its back-off anew, and the next one is started at once.
const STEADY: Duration = Duration::from_secs(10);

/// The wait before a second start, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long a brain may take to die of SIGKILL. Longer means that the kernel holds it.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A brain that runs, or has ended and was not reaped yet.
#[derive(Debug)]
pub(super) struct Brain {
    pub(super) pidfd: PidFd,
    /// `None` once it has ended at the other side.
    pub(super) socket: Option<OwnedFd>,
    pub(super) generation: u64,
    pub(super) ready: bool,
    /// When it last said that it goes on, if it ever did.
    pub(super) heard: Option<Instant>,
    pub(super) started: Instant,
    /// It was not ready in time, or silent for too long.
    pub(super) killed: bool,
}

impl Brain {
    /// Starts one. Its standard input is the socket.
    pub(super) fn start(command: &Command, generation: u64, dir: &Path) -> io::Result<Self> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair?;
        // A brain that does not read its answers must not hold the keeper up.
        let limit = Some(Duration::from_secs(1));
        rustix::net::sockopt::set_socket_timeout(&ours, rustix::net::sockopt::Timeout::Send, limit)?;
        let mut program = std::process::Command::new(&command.program);
        for name in formic_handed::VARIABLES.into_iter().chain([SOCKET_ENV]) {
            // The keeper's own affair with the service manager.
            program.env_remove(name);
        }
        unblock_signals_of(&mut program);
        let mut child = program
            .args(&command.args)
            .env(GENERATION_ENV, generation.to_string())
            .env(DIR_ENV, dir)
            .stdin(Stdio::from(theirs))
            .spawn()?;
        // Nobody reaps it before us, so the number is still its own.
        match PidFd::open(child.id()) {
            Ok(Some(pidfd)) => {
                let started = Instant::now();
                Ok(Self {
                    pidfd,
                    socket: Some(ours),
                    generation,
                    ready: false,
                    heard: None,
                    started,
                    killed: false,
                })
            }
            other => {
                child.kill()?;
                child.wait()?;
                Err(other.err().map_or_else(|| io::ErrorKind::NotFound.into(), io::Error::from))
            }
        }
    }
}

/// The keeper's signals are blocked, and a mask is inherited.
#[expect(unsafe_code, reason = "what runs between fork and exec is for its author to judge")]
fn unblock_signals_of(program: &mut std::process::Command) {
    // SAFETY: the keeper has one thread, so nothing is locked in the child, and all that is called is
    // async-signal-safe. An all-zero sigset_t is valid to write to, and `sigemptyset` fills it.
    unsafe {
        program.pre_exec(|| {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            match libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// When to start the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BackOff {
    failures: u32,
}

impl BackOff {
    /// A brain has ended that lived this long.
    pub(super) fn ended(&mut self, lived: Duration) -> Duration {
        if lived >= STEADY {
            self.failures = 0;
            return Duration::ZERO;
        }
        self.failures = self.failures.saturating_add(1);
        let doublings = (self.failures - 1).min(16);
        FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
    }
}

/// What is on disk of the brains: the last generation and who it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fence {
    pub(super) generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) brain: Option<Identity>,
    /// Which directory this was written in: in a copy of it, the brain is another keeper's. Not there in what older ones wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) home: Option<HomeId>,
}

impl Fence {
    pub(super) fn path(dir: &Path) -> PathBuf {
        dir.join("brain.json")
    }

    pub(super) fn read(dir: &Path) -> Result<Self, FileError> {
        let path = Self::path(dir);
        match disk::read_plain(&path) {
            Ok(content) => Ok(serde_json::from_slice(&content).unwrap_or_else(|error| {
                super::process::say(&format!(
                    "{} is damaged ({error}): generations go on from the clock",
                    path.display()
                ));
                // More than any count of starts can be, so no generation is ever used again.
                Self { generation: now_ms() / 1000, ..Self::default() }
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(disk::explain("read", &path, source)),
        }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), FileError> {
        let path = Self::path(dir);
        let home = HomeId::of(dir).map_err(|source| disk::explain("find", dir, source))?;
        let content = serde_json::to_vec(&Self { home: Some(home), ..self.clone() })
            .map_err(|source| disk::explain("encode", &path, source.into()))?;
        disk::replace_even_if_full(&path, &content)
    }

    /// Ends the brain that a killed keeper has left, which has lost its socket and may not have noticed.
    pub(super) fn enforce(&self, dir: &Path, boot_id: &str, features: &Features) -> io::Result<()> {
        let Some(identity) = &self.brain else { return Ok(()) };
        let home = self.home.as_ref();
        if home.is_some_and(|home| HomeId::of(dir).is_ok_and(|own| own != *home)) {
            return Ok(());
        }
        let pidfd = match identity.prove(boot_id, features)? {
            Proof::Proven(pidfd) if home.is_some() || carries(identity.pid, dir) => pidfd,
            Proof::Likely(pidfd) if carries(identity.pid, dir) => pidfd,
            Proof::Proven(_) | Proof::Likely(_) | Proof::Other | Proof::Gone | Proof::OtherBoot => {
                return Ok(());
            }
        };
        pidfd.signal(Signal::KILL)?;
        let limit = Instant::now() + KILL_LIMIT;
        while !pidfd.has_ended() {
            if Instant::now() >= limit {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "the brain of a killed keeper, process {}, does not die of SIGKILL",
                        identity.pid
                    ),
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Whether a process was started as the brain of the keeper of this directory.
fn carries(pid: u32, dir: &Path) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    let mark = [DIR_ENV.as_bytes(), b"=", dir.as_os_str().as_encoded_bytes()].concat();
    environment.split(|&byte| byte == 0).any(|variable| variable == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_limit_and_ends_with_a_steady_brain() {
        let mut back_off = BackOff::default();
        let waits: Vec<_> = (0..10).map(|_| back_off.ended(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        assert_eq!(back_off.ended(STEADY), Duration::ZERO);
        assert_eq!(back_off.ended(Duration::ZERO), FIRST_PAUSE);
    }
}
