//! A keeper executes its successor in place: same process, same children, same descriptors.
//!
//! What it knows goes along in a file in memory, its descriptors stay open, signals stay blocked. The
//! successor is asked beforehand whether it can read that file: after the exec there is no way back.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use formic_handed::own;
use serde::{Deserialize, Serialize};

use super::ARGUMENT;
use super::brain::{BackOff, Brain, Fence};
use super::journal::Journal;
use super::notify::Notifier;
use super::patience::Patience;
use super::process::{Keeper, block_signals, inherit};
use super::protocol::Command;
use crate::features::Features;
use crate::identity::boot_id;
use crate::lock::Lock;
use crate::pidfd::PidFd;
use crate::trampoline::execve;

/// The form of the file. A successor must read every form that a keeper in the field may write.
const FORMAT: u32 = 1;

/// Asks a program whether it is a keeper that reads this form.
pub(super) const CAN_RESUME: &str = "--can-resume";

/// Tells a keeper where to read on.
pub(super) const RESUME: &str = "--resume";

/// How long a successor may take to say that it is one.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct State {
    format: u32,
    /// The request that is to be answered.
    seq: u64,
    dir: PathBuf,
    lock: i32,
    generation: u64,
    brain: Option<BrainState>,
    command: Command,
    previous: Option<Command>,
    next: Option<Command>,
    back_off: BackOff,
    held: BTreeMap<String, i32>,
}

#[derive(Serialize, Deserialize)]
struct BrainState {
    pid: u32,
    socket: Option<i32>,
    ready: bool,
    lived_ms: u64,
}

/// For [`CAN_RESUME`]: an error, and so another exit code than zero, means no.
pub(super) fn can_resume(format: &str) -> io::Result<()> {
    if format == FORMAT.to_string() { Ok(()) } else { Err(io::Error::other("another form of keeper")) }
}

/// Becomes another keeper. Returns only when that failed, and then everything is as before.
pub(super) fn replace(keeper: &mut Keeper, program: &str, seq: u64) -> io::Error {
    match prepare(keeper, program, seq) {
        Ok((state, args)) => {
            let env: Vec<CString> = std::env::vars_os()
                .filter_map(|(name, value)| {
                    CString::new([name.into_vec(), b"=".to_vec(), value.into_vec()].concat()).ok()
                })
                .collect();
            // Not by the standard library, which would unblock the signals on the way.
            let error = execve(&args[0], &args, &env);
            drop(state);
            let _ = leave_open(keeper, false);
            error
        }
        Err(error) => {
            let _ = leave_open(keeper, false);
            error
        }
    }
}

fn prepare(keeper: &mut Keeper, program: &str, seq: u64) -> io::Result<(File, Vec<CString>)> {
    ask(program)?;
    keeper.journal.sync().map_err(io::Error::other)?;
    let (lock, socket, held) = leave_open(keeper, true)?;
    let state = State {
        format: FORMAT,
        seq,
        dir: keeper.dir.clone(),
        lock,
        generation: keeper.fence.generation,
        brain: keeper.brain.as_ref().map(|brain| BrainState {
            pid: brain.pidfd.pid(),
            socket,
            ready: brain.ready,
            lived_ms: u64::try_from(brain.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }),
        command: keeper.command.clone(),
        previous: keeper.previous.clone(),
        next: keeper.next.clone(),
        back_off: keeper.back_off,
        held,
    };
    let mut file = File::from(rustix::fs::memfd_create("formic-keeper", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&state)?)?;
    file.rewind()?;
    let file = OwnedFd::from(file);
    let number = inherit(&file, true)?;
    let args = [program, ARGUMENT, RESUME, &number.to_string()].map(CString::new);
    Ok((file.into(), args.into_iter().collect::<Result<_, _>>()?))
}

/// Lets everything that is to survive an exec survive it, or not; the numbers of lock, socket and held.
fn leave_open(keeper: &Keeper, open: bool) -> io::Result<(i32, Option<i32>, BTreeMap<String, i32>)> {
    let socket = keeper.brain.as_ref().and_then(|brain| brain.socket.as_ref());
    let socket = socket.map(|socket| inherit(socket, open)).transpose()?;
    let mut held = BTreeMap::new();
    for (name, fd) in &keeper.held {
        held.insert(name.clone(), inherit(fd, open)?);
    }
    Ok((keeper.lock.inherit(open)?, socket, held))
}

/// Asks a program whether it is a keeper that can go on here.
fn ask(program: &str) -> io::Result<()> {
    let mut child = std::process::Command::new(program)
        .args([ARGUMENT, CAN_RESUME, &FORMAT.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let limit = Instant::now() + ANSWER_LIMIT;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(io::Error::other(format!("it says that it is none ({status})"))),
            None if Instant::now() >= limit => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::other("it does not say that it is one"));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Goes on where the keeper before left off, with the number of the request to be answered.
pub(super) fn resume(fd: &str) -> io::Result<(Keeper, u64)> {
    let number = fd.parse().map_err(io::Error::other)?;
    let mut text = String::new();
    File::from(own(number)?).read_to_string(&mut text)?;
    let state: State = serde_json::from_str(&text)?;
    // Before anything can fail: whoever fails closes all of it, and the service manager starts afresh.
    let mut held = BTreeMap::new();
    for (name, number) in state.held {
        held.insert(name, own(number)?);
    }
    let lock = Lock::inherited(own(state.lock)?, state.dir.join("keeper.lock"));
    let brain = state
        .brain
        .map(|brain| {
            Ok::<_, io::Error>(Brain {
                // Our child and unreaped: the number is still its own.
                pidfd: PidFd::open(brain.pid)?.ok_or(io::ErrorKind::NotFound)?,
                socket: brain.socket.map(own).transpose()?,
                generation: state.generation,
                ready: brain.ready,
                heard: None,
                killed: false,
                started: Instant::now()
                    .checked_sub(Duration::from_millis(brain.lived_ms))
                    .unwrap_or_else(Instant::now),
            })
        })
        .transpose()?;
    let boot_id = boot_id()?;
    let journal = Journal::open(state.dir.join("exits.jsonl"), &boot_id).map_err(io::Error::other)?;
    let fence = Fence::read(&state.dir).map_err(io::Error::other)?;
    let keeper = Keeper {
        signals: block_signals()?,
        boot_id,
        features: Features::from_env().map_err(io::Error::other)?,
        lock,
        journal,
        // The file may be damaged; the count that was in memory is not.
        fence: Fence { generation: state.generation, ..fence },
        dir: state.dir,
        command: state.command,
        previous: state.previous,
        next: state.next,
        brain,
        back_off: state.back_off,
        patience: Patience::from_env(),
        start_at: Instant::now(),
        held,
        ending: None,
        served: true,
        hopeless: false,
        notifier: Notifier::from_env(),
    };
    Ok((keeper, state.seq))
}
