//! The gate through which every process starts: our own binary, executed again.
//!
//! ```text
//! engine                               trampoline (same pid and pidfd as the program later)
//!   write record "intent"
//!   spawn `<exe> __exec`        ───▶   setsid, signals to default
//!   payload (JSON)              ───▶
//!   S: sockets (SCM_RIGHTS)     ───▶   only if the payload names any
//!                               ◀───   R: ready, blocks
//!   wait for the permit
//!   write record "spawned"
//!   G: go                       ───▶   execve
//!                               ◀───   end of file: the program runs   | E, step, errno: it does not
//! ```
//!
//! The permit is the caller's: an engine with a database gives it when its decision is on the disk, and has all the
//! rest done while it waits for that.
//!
//! All of it goes over one socket pair that the trampoline gets as its standard input: every other
//! descriptor of the engine is close-on-exec, nothing is inherited by accident, and no secret is in
//! an argument. When the engine dies before `G`, the socket ends and the program never runs.
//!
//! Running our own binary needs no code between fork and exec, where almost nothing is allowed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::passing;
use crate::privileges::Privileges;

/// The first argument that a binary must route to [`main`].
pub const ARGUMENT: &str = "__exec";

/// Where programs are looked up when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A payload larger than this is refused: the kernel takes no more of arguments and environment either.
const MAX_PAYLOAD: usize = 64 << 20;

/// The number of the first socket that is handed over, by a custom older than this program.
const FIRST: i32 = 3;

/// Goes with the sockets, which cannot travel alone.
pub(crate) const SOCKETS: u8 = b'S';
pub(crate) const READY: u8 = b'R';
pub(crate) const GO: u8 = b'G';
pub(crate) const FAILED: u8 = b'E';

/// How the trampoline is run.
#[derive(Clone, Debug)]
pub struct Trampoline {
    /// The binary that routes [`ARGUMENT`] to [`main`].
    pub program: PathBuf,
}

impl Trampoline {
    /// The running binary itself, even if its file was replaced or removed since.
    #[must_use]
    pub fn own() -> Self {
        // Resolved by the kernel in the new process, which still runs our image when it is resolved.
        Self { program: "/proc/self/exe".into() }
    }

    /// Another binary.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }
}

/// What failed on the way to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Making a session and resetting signals.
    Prepare,
    /// Setting the limits of the process.
    Limits,
    /// Becoming its user, for good.
    User,
    /// Entering the working directory.
    Chdir,
    /// Finding and executing the program.
    Exec,
}

impl Step {
    fn to_byte(self) -> u8 {
        match self {
            Self::Prepare => b'p',
            Self::Limits => b'l',
            Self::User => b'u',
            Self::Chdir => b'd',
            Self::Exec => b'x',
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Prepare, Self::Limits, Self::User, Self::Chdir, Self::Exec]
            .into_iter()
            .find(|step| step.to_byte() == byte)
    }
}

/// What the trampoline is told to become.
#[derive(Clone, Serialize, Deserialize)]
pub struct Payload {
    /// The program; without a slash it is looked up in `PATH` of `env`.
    pub program: OsString,
    /// Its arguments, without its name.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: BTreeMap<String, OsString>,
    /// Its working directory.
    pub cwd: OsString,
    /// The names of the sockets that come in a message of their own, if there are any.
    #[serde(default)]
    pub sockets: Vec<String>,
    /// What it gives up before it becomes the program.
    #[serde(default)]
    pub privileges: Privileges,
}

// Not derived: the environment holds secrets.
impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Payload {
    /// The bytes of the frame: length, then JSON.
    ///
    /// # Errors
    /// If it is too large to be executed.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_PAYLOAD);
        let length = length.ok_or_else(|| io::Error::from(io::ErrorKind::ArgumentListTooLong))?;
        Ok([&length.to_le_bytes(), json.as_slice()].concat())
    }

    fn read(from: &mut UnixStream) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PAYLOAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut json = vec![0; length];
        from.read_exact(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }
}

/// The trampoline: to be called by `main` of the binary, before anything else (no thread, no runtime),
/// when its first argument is [`ARGUMENT`]. Becomes the program or ends.
pub fn main() -> ! {
    // Nobody reads what is written here: what matters was told over the socket.
    let Err(_) = run();
    std::process::exit(127)
}

fn run() -> io::Result<Infallible> {
    // A copy above the standard three, close-on-exec, so that the engine sees its end at exec.
    let mut engine = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if let Err(error) = prepare() {
        return Err(report(&mut engine, Step::Prepare, error));
    }
    let mut payload = Payload::read(&mut engine)?;
    let sockets = match receive_sockets(&engine, &mut payload) {
        Ok(sockets) => sockets,
        Err(error) => return Err(report(&mut engine, Step::Prepare, error)),
    };
    // The numbers from 3 on are for the sockets; everything else goes above them.
    let count = i32::try_from(sockets.len()).map_err(io::Error::other)?;
    engine = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(&engine, FIRST + count)?);
    engine.write_all(&[READY])?;

    let mut go = [0];
    engine.read_exact(&mut go)?;
    if go != [GO] {
        return Err(io::ErrorKind::InvalidData.into());
    }

    if let Err((step, error)) = payload.privileges.take_on() {
        return Err(report(&mut engine, step, error));
    }
    // Only now: a slow or hanging directory must not delay the record, and it is the user who must be let in.
    if let Err(error) = std::env::set_current_dir(&payload.cwd) {
        return Err(report(&mut engine, Step::Chdir, error));
    }
    let error = execute(&payload, &sockets);
    Err(report(&mut engine, Step::Exec, error))
}

fn report(engine: &mut UnixStream, step: Step, error: io::Error) -> io::Error {
    let errno = error.raw_os_error().unwrap_or(libc::EINVAL).to_le_bytes();
    let mut message = vec![FAILED, step.to_byte()];
    message.extend(errno);
    // If the engine is gone, there is nobody to tell.
    let _ = engine.write_all(&message);
    error
}

/// Undoes what an engine may have set for itself and no program should inherit.
fn prepare() -> io::Result<()> {
    rustix::process::setsid()?;
    reset_signals();
    // Services make their own files private; this is the mask they get everywhere else.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // An engine may be protected from the kernel's choice of victims; what it starts is not.
    if fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|score| score.starts_with('-')) {
        let _ = fs::write("/proc/self/oom_score_adj", "0");
    }
    null_stdin()
}

#[expect(
    unsafe_code,
    reason = "dup2 onto a number; rustix would need a feature that the rest of the tree does not build"
)]
pub(crate) fn null_stdin() -> io::Result<()> {
    let null = fs::File::open("/dev/null")?;
    // SAFETY: standard input is nobody's: the socket was duplicated away from it and no thread reads it.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[expect(unsafe_code, reason = "rustix has no signal dispositions or masks")]
fn reset_signals() {
    // The kernel's own call: the C library's refuses its two private signals, which may be ignored too.
    // All zero is the default action in the kernel's structure on every architecture, and this is larger.
    let default = [0_u64; 32];
    for signal in 1..=64_i32 {
        // SAFETY: the kernel only reads `default`, and the default action runs no code of ours. KILL and
        // STOP answer EINVAL and are at their default already.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u8>(),
                8_usize,
            )
        };
    }
    // SAFETY: an all-zero sigset_t is valid to write to, `sigemptyset` fills it, and nothing else runs.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Takes the sockets that the engine hands over, above where they belong, and tells of them in the environment.
fn receive_sockets(engine: &UnixStream, payload: &mut Payload) -> io::Result<Vec<OwnedFd>> {
    if payload.sockets.is_empty() {
        return Ok(Vec::new());
    }
    let (read, fds) = passing::receive(engine, &mut [0])?;
    if read == 0 || fds.len() != payload.sockets.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    payload.env.insert("LISTEN_FDS".to_owned(), fds.len().to_string().into());
    payload.env.insert("LISTEN_FDNAMES".to_owned(), payload.sockets.join(":").into());
    payload.env.insert("LISTEN_PID".to_owned(), std::process::id().to_string().into());
    let above = FIRST + i32::try_from(fds.len()).map_err(io::Error::other)?;
    fds.iter().map(|fd| Ok(rustix::io::fcntl_dupfd_cloexec(fd, above)?)).collect()
}

/// Puts the sockets at their numbers, open for the program; the first number after them.
#[expect(
    unsafe_code,
    reason = "dup2 onto numbers; rustix would need a feature that the rest of the tree does not build"
)]
fn place(sockets: &[OwnedFd]) -> io::Result<u32> {
    let mut number = FIRST;
    for socket in sockets {
        // SAFETY: what was open at this number is the first copy of a socket, closed by now, or nobody's:
        // all that is still used here was moved above.
        if unsafe { libc::dup2(socket.as_raw_fd(), number) } == -1 {
            return Err(io::Error::last_os_error());
        }
        number += 1;
    }
    Ok(number.cast_unsigned())
}

/// Whatever is open from this number on goes away at exec, the socket to the engine included.
#[expect(
    unsafe_code,
    reason = "rustix has no close_range, and descriptors by number are not owned by anyone"
)]
fn close_others_on_exec(first: u32) {
    // SAFETY: marks descriptors only; nothing is closed under a living owner.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 {
        return;
    }
    // Before Linux 5.11.
    let Ok(open) = fs::read_dir("/proc/self/fd") else { return };
    for number in open.flatten().filter_map(|fd| fd.file_name().to_str()?.parse::<i32>().ok()) {
        if u32::try_from(number).is_ok_and(|number| number >= first) {
            // SAFETY: as above; a number that was closed meanwhile answers EBADF.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

fn execute(payload: &Payload, sockets: &[OwnedFd]) -> io::Error {
    match prepare_exec(payload).and_then(|exec| Ok((exec, place(sockets)?))) {
        Ok(((program, args, env), next)) => {
            close_others_on_exec(next);
            execve(&program, &args, &env)
        }
        Err(error) => error,
    }
}

type Exec = (CString, Vec<CString>, Vec<CString>);

fn prepare_exec(payload: &Payload) -> io::Result<Exec> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let program = find(&payload.program, payload.env.get("PATH").map(OsString::as_os_str))?;
    let args = std::iter::once(&payload.program)
        .chain(&payload.args)
        .map(|arg| text(arg))
        .collect::<io::Result<_>>()?;
    let env = payload
        .env
        .iter()
        .map(|(name, value)| {
            let mut variable = OsString::from(name);
            variable.push("=");
            variable.push(value);
            CString::new(variable.into_vec()).map_err(io::Error::from)
        })
        .collect::<io::Result<_>>()?;
    Ok((text(program.as_os_str())?, args, env))
}

/// Looks a program up as a shell would. Not `execvp`, which runs a damaged binary as a shell script
/// instead of saying that it is damaged.
fn find(program: &OsStr, path: Option<&OsStr>) -> io::Result<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.into());
    }
    let mut error = libc::ENOENT;
    for dir in std::env::split_paths(path.unwrap_or(OsStr::new(DEFAULT_PATH))) {
        let candidate = dir.join(program);
        match fs::metadata(&candidate) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return Ok(candidate),
            Ok(found) if found.is_file() => error = libc::EACCES,
            _ => {}
        }
    }
    Err(io::Error::from_raw_os_error(error))
}

#[expect(unsafe_code, reason = "rustix's execve is not part of its stable interface")]
pub(crate) fn execve(program: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |of: &[CString]| -> Vec<*const libc::c_char> {
        of.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: all three point to NUL-terminated strings that outlive the call; both lists end in null.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn programs_are_looked_up_in_the_path_that_they_will_have() {
        assert_eq!(find(OsStr::new("./x"), None).unwrap(), PathBuf::from("./x"));
        let sh = find(OsStr::new("sh"), Some(OsStr::new("/nowhere:/bin"))).unwrap();
        assert_eq!(sh, PathBuf::from("/bin/sh"));
        let missing = find(OsStr::new("sh"), Some(OsStr::new("/nowhere"))).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        let plain = find(OsStr::new("passwd"), Some(OsStr::new("/etc"))).unwrap_err();
        assert_eq!(plain.raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn a_payload_survives_the_wire_and_a_cut_one_is_refused() {
        let payload = Payload {
            program: "sh".into(),
            args: vec![OsString::from_vec(vec![0xff, b'a'])],
            env: BTreeMap::from([("A".to_owned(), "b".into())]),
            cwd: "/".into(),
            sockets: vec![],
            privileges: Privileges::default(),
        };
        let bytes = payload.encode().unwrap();
        for (length, whole) in [(bytes.len(), true), (bytes.len() - 1, false), (2, false)] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            ours.write_all(&bytes[..length]).unwrap();
            drop(ours);
            let read = Payload::read(&mut theirs);
            assert_eq!(read.is_ok_and(|read| read.args == payload.args), whole);
        }
    }
}
